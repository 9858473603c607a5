//! The options of `pv-stress lab`.

use std::path::PathBuf;
use std::time::Duration;

/// What the two domains of the agents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Guest {
    /// Hardware page tables: what to test on.
    Pvh,
    /// Paravirtualised: holding pages damages its kernel.
    Pv,
}

/// The options of `lab`.
#[derive(Debug, clap::Args)]
pub struct LabArgs {
    /// The domains' and dom0's kernel: 6.1, 6.12 or 5.10
    #[arg(long, value_name = "VERSION", default_value = "6.1")]
    pub kernel: String,
    /// The hypervisor: 4.17, 4.20 or 4.14
    #[arg(long, value_name = "VERSION", default_value = "4.17")]
    pub xen: String,
    /// Run this shell command in dom0 instead of the scenarios
    #[arg(long, value_name = "COMMAND")]
    pub run: Option<String>,
    /// Files for dom0 and the domains, in /lab (for --run)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub with: Vec<PathBuf>,
    /// Stay up, with a shell on dom0's console
    #[arg(long, conflicts_with = "run")]
    pub shell: bool,
    /// How long the machine may take in all (default: enough for what it is asked to do)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub machine_deadline: Option<Duration>,
    /// Where packages, images and builds are kept
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    pub cache: PathBuf,
    /// A statically linked pv-stress for the images (default: this one, or one that is built)
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// Debian mirror (default: the one that apt is configured with)
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

//! The options of `pv-stress lab`.

use crate::holder::HoldName;
use crate::settings::{quote, spell};
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;

/// A scenario's deadline on a machine that is not slow.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// What the two domains of the agents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Guest {
    /// Hardware page tables: what to test on.
    Pvh,
    /// Paravirtualised: holding pages damages its kernel.
    Pv,
}

/// When the domains' gntdev module unmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GntdevKind {
    /// The kernel's own module: at once, or later by itself, as Linux does since 5.19.
    Async,
    /// A module built for this: it waits for every reference, as Linux did before.
    Sync,
}

/// The options of `lab`.
#[derive(Debug, clap::Args)]
pub struct LabArgs {
    /// Only these scenarios (default: all that make sense on a real Xen)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub scenario: Vec<String>,
    /// How the third consumer holds pages (default: pipe)
    #[arg(long, value_name = "NAME")]
    pub hold: Option<HoldName>,
    /// For how long the third consumer holds pages
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    pub hold_for: Duration,
    /// How long a scenario, or the command of --run, may take (default: 3m, or a multiple of it
    /// where the domains are slow to boot)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Seed of everything random (default: another one each time)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The file that goes through the pair (default: the images' busybox, 2 MB)
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Where the report and the machine's logs go
    #[arg(long, value_name = "DIR", default_value = "pv-stress-report")]
    pub report: PathBuf,
    /// When the domains' gntdev unmaps
    #[arg(long, default_value = "async")]
    pub gntdev: GntdevKind,
    /// The domains' and dom0's kernel: 6.1, 6.12 or 5.10
    #[arg(long, value_name = "VERSION", default_value = "6.1")]
    pub kernel: String,
    /// The hypervisor: 4.17, 4.20 or 4.14
    #[arg(long, value_name = "VERSION", default_value = "4.17")]
    pub xen: String,
    /// What the two domains of the agents are
    #[arg(long, default_value = "pvh")]
    pub guest: Guest,
    /// Hold pages even in PV domains, whose kernel that damages
    #[arg(long)]
    pub allow_kernel_damage: bool,
    /// The conformance suite instead of the scenarios: `front` tests its devices with `back` as the
    /// peer, and the simulated Xen's answers stand beside
    #[arg(long, conflicts_with_all = ["run", "scenario", "shell"])]
    pub conform: bool,
    /// Stay up, with a shell on dom0's console
    #[arg(long, conflicts_with_all = ["run", "scenario"])]
    pub shell: bool,
    /// Run this shell command in dom0 instead of the scenarios; `pv-stress on front COMMAND` and
    /// `pv-stress on back COMMAND` run commands in the domains
    #[arg(long, value_name = "COMMAND", conflicts_with = "scenario")]
    pub run: Option<String>,
    /// Files for --run and --shell: in /lab, in dom0 and in the domains
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub with: Vec<PathBuf>,
    /// Print the report as JSON, and everything else on standard error
    #[arg(long, conflicts_with_all = ["run", "shell"])]
    pub json: bool,
    /// Fetch and build everything that a run needs, and stop before the machine starts
    #[arg(long)]
    pub prepare: bool,
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

impl LabArgs {
    /// The command that makes this machine again: without the scenarios and the seed.
    pub fn machine(&self) -> String {
        let mut command = String::from("pv-stress lab");
        let mut add = |option: &str, value: String| {
            command.push_str(&format!(" {option} {}", quote(&value)));
        };
        add("--kernel", self.kernel.clone());
        add("--xen", self.xen.clone());
        if let (GntdevKind::Sync, Some(value)) = (self.gntdev, self.gntdev.to_possible_value()) {
            add("--gntdev", value.get_name().to_owned());
        }
        if let (Guest::Pv, Some(value)) = (self.guest, self.guest.to_possible_value()) {
            add("--guest", value.get_name().to_owned());
        }
        if let Some(hold) = self.hold {
            add("--hold", hold.to_string());
        }
        add("--hold-for", spell(self.hold_for));
        if let Some(deadline) = self.deadline {
            add("--deadline", spell(deadline));
        }
        if let Some(input) = &self.input {
            add("--input", input.display().to_string());
        }
        if self.allow_kernel_damage {
            command.push_str(" --allow-kernel-damage");
        }
        command
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: LabArgs,
    }

    /// What these words after `pv-stress lab` come to.
    pub fn args(words: &[&str]) -> LabArgs {
        Cli::parse_from([&["lab"], words].concat()).args
    }

    #[test]
    fn what_was_asked_for_is_asked_for_again() {
        let asked = [
            "--kernel",
            "6.12",
            "--gntdev",
            "sync",
            "--guest",
            "pv",
            "--hold",
            "uring",
            "--hold-for",
            "2s",
            "--deadline",
            "90s",
            "--input",
            "/tmp/it is",
            "--allow-kernel-damage",
        ];
        assert_eq!(
            args(&asked).machine(),
            "pv-stress lab --kernel 6.12 --xen 4.17 --gntdev sync --guest pv --hold uring \
             --hold-for 2s --deadline 1m30s --input '/tmp/it is' --allow-kernel-damage"
        );
    }
}

//! The options of `pv-stress lab`.

use super::release::BOOKWORM;
use super::words::{Case, GntdevKind, Kind, SuiteName, XenstoredName};
use clap::ValueEnum;
use pv_harness::holder::HoldName;
use pv_harness::settings::{quote, spell};
use std::path::PathBuf;
use std::time::Duration;

/// A scenario's deadline on a machine that is not slow.
pub const DEADLINE: Duration = Duration::from_secs(180);
/// The kind of the domains if nobody says otherwise.
const GUEST: &str = "pvh";
/// How many domains there are beside dom0 if nobody says otherwise.
const DOMAINS: u16 = 2;
/// What each of them gets if nobody says otherwise, in MiB.
const DOMAIN_MEMORY: u32 = 320;

/// `pv-stress lab`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LabCommand {
    #[command(subcommand)]
    pub(crate) other: Option<Other>,
    #[command(flatten)]
    pub(crate) lab: LabArgs,
}

impl LabCommand {
    /// What is to go wrong in the scenarios: the lab passes it on, and does not know it.
    pub fn sabotage(&self) -> Option<&str> {
        self.lab.sabotage.as_deref()
    }
}

/// What else `pv-stress lab` can do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Other {
    /// Fill in the table of what happens to an unmap while somebody holds the pages: a lab for each kernel,
    /// kind of domain and gntdev, in PV domains with damaged kernels
    Table(Box<TableArgs>),
    /// Remove from the cache what the next lab does not need
    Prune(PruneArgs),
}

/// The options of `lab table`.
#[derive(Debug, clap::Args)]
pub struct TableArgs {
    /// The kernels, as in `lab`
    #[arg(long, value_name = "VERSION", num_args = 1.., value_delimiter = ',', default_values = ["5.10", "6.1", "6.12", "sid"])]
    pub kernel: Vec<String>,
    /// The domains' kinds
    #[arg(long, value_name = "KIND", num_args = 1.., value_delimiter = ',', default_values = ["pvh", "pv"])]
    pub guest: Vec<Kind>,
    /// When their gntdev unmaps
    #[arg(long, value_name = "WHEN", num_args = 1.., value_delimiter = ',', default_values = ["async", "sync"])]
    pub gntdev: Vec<GntdevKind>,
    /// The holders (default: all)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub hold: Vec<HoldName>,
    /// For how long each holds (default: 1s, or a multiple of it where the domains are slow to boot)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub hold_for: Option<Duration>,
    /// How long each run may take; one that hangs takes all of it
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    pub deadline: Duration,
    /// The hypervisor, as in `lab`
    #[arg(long, value_name = "VERSION", default_value = BOOKWORM.xen)]
    pub xen: String,
    /// Where the labs' reports are; a row that is complete there is not run again
    #[arg(long, value_name = "DIR", default_value = "pv-stress-table")]
    pub report: PathBuf,
    /// Print the table for a document
    #[arg(long)]
    pub markdown: bool,
    /// Print everything as JSON
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// As in `lab`
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// As in `lab`
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// As in `lab`
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

/// The options of `lab prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Everything: the next lab fetches and builds all again
    #[arg(long)]
    pub all: bool,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The cache (default: pv-stress in the user's cache directory)
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// The options of `lab`.
#[derive(Clone, Debug, clap::Args)]
pub struct LabArgs {
    /// What to run, all in one boot, one after the other (default: scenarios)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub suite: Vec<SuiteName>,
    /// Of the scenarios only these (default: all that make sense on a real Xen)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub scenario: Vec<String>,
    /// Of the suite peers only these cases (default: all)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub case: Vec<Case>,
    /// How the third consumer holds pages (default: pipe)
    #[arg(long, value_name = "NAME")]
    pub hold: Option<HoldName>,
    /// For how long the third consumer holds pages (default: 1s, or a multiple of it where the
    /// domains are slow to boot)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub hold_for: Option<Duration>,
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
    /// The domains' and dom0's kernel: 6.1, 6.12, 5.10 or sid, a Debian release's name, or a version
    /// that is kept in the cache
    #[arg(long, value_name = "VERSION", default_value = BOOKWORM.kernel)]
    pub kernel: String,
    /// The hypervisor: 4.17, 4.20, 4.14 or sid
    #[arg(long, value_name = "VERSION", default_value = BOOKWORM.xen)]
    pub xen: String,
    /// dom0's xenstore daemon
    #[arg(long, value_name = "NAME", default_value_t = XenstoredName::Xenstored)]
    pub xenstored: XenstoredName,
    /// QEMU: the path of one, or 7.2, 10.0 or sid, which the lab brings
    #[arg(long, value_name = "PATH|VERSION", default_value = BOOKWORM.qemu)]
    pub qemu: String,
    /// What the domains beside dom0 are; NAME=KIND says it of one
    #[arg(long, value_name = "[NAME=]pvh|pv", num_args = 1.., value_delimiter = ',', default_value = GUEST)]
    pub guest: Vec<String>,
    /// How many domains there are beside dom0: front, back, domain3, domain4 and so on
    #[arg(long, value_name = "N", default_value_t = DOMAINS, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub domains: u16,
    /// Make this domain one that may serve devices to others (`driver_domain=1`)
    #[arg(long, value_name = "NAME")]
    pub driver_domain: Option<String>,
    /// What dom0 is; the emulation carries pv only, and pvh is refused with the reason
    #[arg(long, default_value = "pv")]
    pub dom0: Kind,
    /// The machine's memory, in MiB (default: 3072, or more if the domains need it)
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u32>,
    /// The memory of each domain beside dom0, in MiB
    #[arg(long, value_name = "MIB", default_value_t = DOMAIN_MEMORY, value_parser = clap::value_parser!(u32).range(96..))]
    pub domain_memory: u32,
    /// Kernel modules to bring into all domains, with those that they need: in /lib/modules there,
    /// for `load-modules NAME…` to load
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub modules: Vec<String>,
    /// More words for Xen's command line, such as gnttab=max-ver:1
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub xen_args: Option<String>,
    /// More words for the command line of every kernel
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub kernel_args: Option<String>,
    /// Hold pages even in PV domains, whose kernel that damages
    #[arg(long)]
    pub allow_kernel_damage: bool,
    /// Make the scenarios wrong on purpose, to see that it is noticed
    #[arg(long, value_name = "NAME", hide = true)]
    pub sabotage: Option<String>,
    /// Stay up, with a shell on dom0's console
    #[arg(long, conflicts_with_all = ["run", "scenario", "case", "suite"])]
    pub shell: bool,
    /// Run this shell command in dom0 instead; `pv-stress on front COMMAND` and the like run commands
    /// in the domains
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["scenario", "case", "suite"])]
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
    /// Look for newer packages than those that are kept in the cache
    #[arg(long)]
    pub update: bool,
    /// Where packages and builds are kept (default: pv-stress in the user's cache directory)
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// A statically linked pv-stress for the images (default: this one, or one that is built)
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// Debian mirror (default: the one that apt is configured with)
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// For the suite holds: only these holders
    #[arg(skip)]
    pub holders: Vec<HoldName>,
    /// Print no report
    #[arg(skip)]
    pub quiet: bool,
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
        if self.xenstored != XenstoredName::Xenstored {
            add("--xenstored", self.xenstored.to_string());
        }
        if self.qemu != BOOKWORM.qemu {
            add("--qemu", self.qemu.clone());
        }
        if let (GntdevKind::Sync, Some(value)) = (self.gntdev, self.gntdev.to_possible_value()) {
            add("--gntdev", value.get_name().to_owned());
        }
        if self.guest != [GUEST] {
            add("--guest", self.guest.join(","));
        }
        if self.domains != DOMAINS {
            add("--domains", self.domains.to_string());
        }
        for (option, value) in [
            ("--driver-domain", self.driver_domain.clone()),
            ("--memory", self.memory.map(|mib| mib.to_string())),
            ("--xen-args", self.xen_args.clone()),
            ("--kernel-args", self.kernel_args.clone()),
        ] {
            if let Some(value) = value {
                add(option, value);
            }
        }
        if self.domain_memory != DOMAIN_MEMORY {
            add("--domain-memory", self.domain_memory.to_string());
        }
        if !self.modules.is_empty() {
            add("--modules", self.modules.join(","));
        }
        if let Some(hold) = self.hold {
            add("--hold", hold.to_string());
        }
        if let Some(hold_for) = self.hold_for {
            add("--hold-for", spell(hold_for));
        }
        if let Some(deadline) = self.deadline {
            add("--deadline", spell(deadline));
        }
        if let Some(input) = &self.input {
            add("--input", input.display().to_string());
        }
        if let Some(sabotage) = &self.sabotage {
            add("--sabotage", sabotage.clone());
        }
        if self.allow_kernel_damage {
            command.push_str(" --allow-kernel-damage");
        }
        command
    }
}

#[cfg(test)]
pub(crate) mod tests {
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

    #[derive(Parser)]
    struct TableCli {
        #[command(flatten)]
        args: TableArgs,
    }

    /// What these words after `pv-stress lab table` come to.
    pub fn table_args(words: &[&str]) -> TableArgs {
        TableCli::parse_from([&["table"], words].concat()).args
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
            "--domains",
            "3",
            "--xen-args",
            "gnttab=max-ver:1 x",
        ];
        assert_eq!(
            args(&asked).machine(),
            "pv-stress lab --kernel 6.12 --xen 4.17 --gntdev sync --guest pv --domains 3 \
             --xen-args 'gnttab=max-ver:1 x' --hold uring --hold-for 2s --deadline 1m30s --input '/tmp/it is' --allow-kernel-damage"
        );
    }
}

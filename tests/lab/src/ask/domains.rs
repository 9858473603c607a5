//! The domains of a lab: how many, of which kind, with how much memory.

use super::options::LabArgs;
use super::words::Kind;
use crate::error::{LabError, Result};
use clap::ValueEnum;
use pv_harness::error::Error;
use std::fs;

/// What dom0 gets, in MiB.
pub const DOM0_MEMORY: u32 = 1024;
/// What Xen needs for itself and for its books about each domain, in MiB.
const XEN_MEMORY: u32 = 384;
const BOOKS: u32 = 32;
/// What the machine has if nobody says otherwise, in MiB.
const MACHINE: u32 = 3072;

/// One domain beside dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// In MiB.
    pub memory: u32,
    /// It may serve devices to others.
    pub is_driver: bool,
}

/// All domains of a machine, and its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// All beside dom0.
    pub all: Vec<Domain>,
    /// The machine's memory in MiB.
    pub memory: u32,
}

impl Domains {
    /// As the options say.
    ///
    /// # Errors
    /// A name that no domain has; more domains than memory.
    pub fn plan(args: &LabArgs) -> Result<Domains> {
        let names = (1..=args.domains).map(name);
        let mut all: Vec<Domain> = names
            .map(|name| Domain {
                name,
                kind: Kind::Pvh,
                memory: args.domain_memory,
                is_driver: false,
            })
            .collect();
        for guest in &args.guest {
            let (which, kind) = match guest.split_once('=') {
                Some((which, kind)) => (Some(which), kind),
                None => (None, guest.as_str()),
            };
            let kind = Kind::from_str(kind, false).map_err(|_| {
                usage(format!(
                    "--guest {guest}: there is no kind {kind:?}; use pvh or pv, or NAME=pvh or NAME=pv"
                ))
            })?;
            match which {
                Some(which) => named(&mut all, which, "--guest")?.kind = kind,
                None => all.iter_mut().for_each(|domain| domain.kind = kind),
            }
        }
        if let Some(which) = &args.driver_domain {
            named(&mut all, which, "--driver-domain")?.is_driver = true;
        }
        let each = args.domain_memory + BOOKS;
        let needed = DOM0_MEMORY + XEN_MEMORY + each * u32::from(args.domains);
        let memory = args.memory.unwrap_or(MACHINE.max(needed));
        if memory < needed {
            return Err(usage(format!(
                "a machine of {memory} MiB is too small for {} domains: dom0 needs {DOM0_MEMORY} MiB, Xen {XEN_MEMORY} and each domain {each}, {needed} together; raise --memory, or lower --domains or --domain-memory",
                args.domains
            )));
        }
        Ok(Domains { all, memory })
    }

    /// Has this machine as much memory to give as QEMU will ask for?
    ///
    /// # Errors
    /// It has not: how much, and how much is asked for.
    pub fn check_room(&self) -> Result<()> {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        match available(&text) {
            Some(available) if available < self.memory => Err(usage(format!(
                "QEMU would need {} MiB, and this machine has {available} MiB to give; lower --domains, --domain-memory or --memory, or end other programs",
                self.memory
            ))),
            _ => Ok(()),
        }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|domain| domain.name.as_str())
    }
}

impl Domain {
    /// Its configuration for `xl create`.
    pub fn config(&self, more_words: &str) -> String {
        // The boot's messages say where one stops that does not come up. The supervisor silences the
        // kernel when it takes the console over, and reads everything else from the kernel's buffer.
        let mut lines = vec![
            format!("name=\"{}\"", self.name),
            format!("type=\"{}\"", self.kind.word()),
            format!("memory={}", self.memory),
            "vcpus=1".into(),
            "kernel=\"/lab/vmlinuz\"".into(),
            "ramdisk=\"/lab/domain.cpio\"".into(),
            format!("extra=\"console=hvc0 loglevel=7 panic=1 {more_words}\""),
            "on_poweroff=\"destroy\"".into(),
            "on_reboot=\"destroy\"".into(),
            "on_crash=\"destroy\"".into(),
        ];
        if self.is_driver {
            lines.push("driver_domain=1".into());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

/// The name of the domain with this number, from 1.
fn name(number: u16) -> String {
    match number {
        1 => "front".into(),
        2 => "back".into(),
        _ => format!("domain{number}"),
    }
}

fn named<'a>(all: &'a mut [Domain], which: &str, option: &str) -> Result<&'a mut Domain> {
    let names: Vec<String> = all.iter().map(|domain| domain.name.clone()).collect();
    all.iter_mut()
        .find(|domain| domain.name == which)
        .ok_or_else(|| {
            usage(format!(
                "{option} {which}: there is no such domain; there are {}",
                names.join(", ")
            ))
        })
}

fn usage(why: String) -> LabError {
    LabError::Run(Error::Usage(why))
}

/// `MemAvailable`, in MiB.
fn available(meminfo: &str) -> Option<u32> {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    u32::try_from(kib / 1024).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::options::tests::args;

    #[test]
    fn two_pvh_domains_are_the_default() {
        let domains = Domains::plan(&args(&[])).unwrap();
        assert_eq!(domains.names().collect::<Vec<_>>(), ["front", "back"]);
        assert!(
            domains
                .all
                .iter()
                .all(|d| d.kind == Kind::Pvh && !d.is_driver)
        );
        assert_eq!(domains.memory, 3072);
        assert!(domains.all[0].config("").contains("type=\"pvh\""));
    }

    #[test]
    fn one_can_be_of_another_kind_and_one_can_serve() {
        let words = [
            "--domains",
            "4",
            "--guest",
            "pv,back=pvh",
            "--driver-domain",
            "domain3",
        ];
        let domains = Domains::plan(&args(&words)).unwrap();
        let kinds: Vec<Kind> = domains.all.iter().map(|d| d.kind).collect();
        assert_eq!(kinds, [Kind::Pv, Kind::Pvh, Kind::Pv, Kind::Pv]);
        assert!(domains.all[2].config("").contains("driver_domain=1"));
        assert!(!domains.all[1].config("x=1").contains("driver_domain"));
        assert!(domains.all[1].config("x=1").contains(" x=1\""));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_cure() {
        for (words, why) in [
            (&["--guest", "hvm"][..], "use pvh or pv"),
            (&["--guest", "third=pv"], "there are front, back"),
            (&["--driver-domain", "x"], "there are front, back"),
            (&["--domains", "9", "--memory", "3072"], "raise --memory"),
            (&["--memory", "1024"], "raise --memory"),
        ] {
            let error = Domains::plan(&args(words)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(Domains::plan(&args(&["--domains", "9"])).unwrap().memory > 3072);
    }

    #[test]
    fn the_machines_memory_is_read() {
        let text = "MemTotal:  16384 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(available(text), Some(8));
        let domains = Domains {
            all: Vec::new(),
            memory: u32::MAX,
        };
        assert!(
            domains
                .check_room()
                .unwrap_err()
                .to_string()
                .contains("--memory")
        );
    }
}

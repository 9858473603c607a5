//! What the options come to: what can be said before anything is fetched is said here.

use super::domains::Domains;
use super::options::LabArgs;
use super::release::Release;
use super::suite::{self, CountScenarios, INPUT, Suite};
use super::words::Kind;
use crate::error::{LabError, Result};
use pv_harness::error::Error;
use pv_harness::holder::HoldName;
use std::fs;
use std::path::PathBuf;

/// What was asked for.
pub struct Asked<'a> {
    /// In its own words.
    pub args: &'a LabArgs,
    /// The release whose hypervisor it is.
    pub xen: Release,
    /// What dom0 runs.
    pub suites: Vec<Suite>,
    /// The domains beside dom0.
    pub domains: Domains,
    /// Ways to hold that may be used: the domains get what they need.
    pub holders: Vec<HoldName>,
    /// Files of the user, for dom0 and the domains: content's place here, and its name in `/lab`.
    pub with: Vec<(PathBuf, String)>,
}

impl Asked<'_> {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Something that there is not, that this machine has no room for, or that no lab can do.
    pub fn check<'a>(args: &'a LabArgs, count_scenarios: &CountScenarios) -> Result<Asked<'a>> {
        let xen = Release::with_xen(&args.xen)?;
        check_hold(args)?;
        let suites = suite::asked(args, count_scenarios)?;
        let domains = Domains::plan(args)?;
        if args.dom0 == Kind::Pvh {
            return Err(LabError::Run(Error::Usage(
                "--dom0 pvh: this emulation does not carry it: Xen asks for an IOMMU, and with the one that QEMU emulates dom0 begins its init and stands still (docs/lab.md); leave it away".into(),
            )));
        }
        check_words("--kernel-args", args.kernel_args.as_deref())?;
        check_words("--xen-args", args.xen_args.as_deref())?;
        if !args.prepare {
            domains.check_room()?;
        }
        let mut with = named_files(&args.with)?;
        let input = named_files(args.input.as_slice())?;
        with.extend(input.into_iter().map(|(path, _)| (path, INPUT.to_owned())));
        Ok(Asked {
            args,
            xen,
            holders: suite::holders(args),
            suites,
            domains,
            with,
        })
    }
}

/// MiB with which domains with the holders' modules boot. With 100 their init dies of a fault.
const ROOM_FOR_MODULES: u32 = 256;

/// Ways to hold pages that cannot be had here.
fn check_hold(args: &LabArgs) -> Result<()> {
    let usage = |why| Err(LabError::Run(Error::Usage(why)));
    match args.hold {
        Some(hold) if hold.is_simulated() => usage(format!(
            "--hold {hold} is the simulated Xen's; in the lab use pipe, fork, uring, direct, xdp or rdma"
        )),
        Some(hold) if !hold.modules().is_empty() && args.domain_memory < ROOM_FOR_MODULES => {
            usage(format!(
                "--hold {hold} brings kernel modules into the domains, for which {} MiB may be too little: \
             say --domain-memory {ROOM_FOR_MODULES} or more",
                args.domain_memory
            ))
        }
        _ => Ok(()),
    }
}

/// Words that go into a domain's configuration and on command lines.
fn check_words(option: &str, words: Option<&str>) -> Result<()> {
    let cannot = |c: char| c == '"' || c == '\\' || c.is_control();
    match words.filter(|words| words.contains(cannot)) {
        Some(words) => Err(LabError::Run(Error::Usage(format!(
            "{option} {words:?}: quotation marks, backslashes and control characters cannot be passed on; leave them away"
        )))),
        None => Ok(()),
    }
}

/// Files and their names in the images.
fn named_files(files: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    files
        .iter()
        .map(|path| {
            let meta = fs::metadata(path).map_err(LabError::file(path))?;
            let name = path.file_name().filter(|_| meta.is_file());
            let name = name.ok_or_else(|| LabError::Failed {
                doing: format!("taking {} along", path.display()),
                cause: "it is no regular file".into(),
                cure: "name a file".into(),
            })?;
            Ok((path.clone(), name.to_string_lossy().into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::options::tests::args;
    use std::path::Path;

    #[test]
    fn a_holder_with_modules_wants_a_domain_with_room_for_them() {
        let check = |words: &[&str]| check_hold(&args(words)).map_err(|error| error.to_string());
        let why = check(&["--hold", "rdma-odp", "--domain-memory", "255"]).unwrap_err();
        assert!(
            why.contains("255 MiB") && why.contains("--domain-memory 256"),
            "{why}"
        );
        assert_eq!(
            check(&["--hold", "rdma-odp", "--domain-memory", "256"]),
            Ok(())
        );
        assert_eq!(check(&["--hold", "pipe", "--domain-memory", "128"]), Ok(()));
        assert!(check(&["--hold", "pin"]).is_err());
    }

    #[test]
    fn words_that_would_break_a_configuration_are_refused() {
        assert!(check_words("--kernel-args", Some("a=b,c d")).is_ok());
        assert!(check_words("--kernel-args", None).is_ok());
        for words in ["a=\"b\"", "a\nb", "a\\b"] {
            assert!(
                check_words("--kernel-args", Some(words)).is_err(),
                "{words}"
            );
        }
    }

    #[test]
    fn only_files_are_taken_along() {
        assert!(named_files(&[Path::new("/").to_owned()]).is_err());
    }
}

//! What dom0 does when it is up, as shell, and the command lines that it and Xen boot with.

use super::disk;
use crate::ask::domains::{DOM0_MEMORY, Domains};
use crate::ask::options::LabArgs;
use crate::ask::suite::Suite;
use std::fmt::Write;

/// The word of dom0's command line that names the suites to run, each with its place on the disk.
const SUITES: &str = "lab.suites=";

/// Starts one domain, given its name, and again if it does not come up: an emulated processor
/// loses a guest now and then, as a triple fault or a standstill in its boot.
pub const START_DOMAIN: &str = include_str!("start-domain.sh");

/// Loads modules that were brought along.
pub const LOAD_MODULES: &str = include_str!("load-modules.sh");

/// Runs the suites that the command line names.
const RUN_SUITES: &str = include_str!("run-suites.sh");

/// dom0's script.
pub fn job(args: &LabArgs, domains: &Domains) -> String {
    let names: Vec<&str> = domains.names().collect();
    let mut job = format!("cd /lab\ndomains='{}'\n{START_ALL}", names.join(" "));
    if args.shell {
        let _ = writeln!(
            job,
            "echo 'LAB: the domains are {}; exit ends the machine'",
            names.join(", ")
        );
        job.push_str("setsid -c sh </dev/console >/dev/console 2>&1\n");
    } else {
        job.push_str(RUN_SUITES);
    }
    job
}

/// Starts all domains, and says in `$slow` how many times as long each deadline is to be: once for
/// every 15 s that two of them took. On two idle cores they take less than 30 s; a deadline that is
/// right there is wrong on a busy machine, and a busy machine is no reason to fail.
const START_ALL: &str = "\
begun=$(cut -d. -f1 /proc/uptime) many=0
for domain in $domains; do
    start-domain $domain &
    many=$((many + 1))
done
wait
slow=$((($(cut -d. -f1 /proc/uptime) - begun) * 2 / (many * 15)))
[ $slow -ge 2 ] || slow=1
[ $slow -le 8 ] || slow=8
[ $slow = 1 ] || echo \"LAB: slow machine: $slow\"
";

/// dom0's command line, for these of the suites.
pub fn kernel_words(all: &[Suite], left: &[Suite], more: Option<&str>) -> String {
    let place = |suite: &Suite| {
        let place = all.iter().position(|other| other.name == suite.name);
        format!("{}:{}", suite.name, disk::place(place.unwrap_or(0)))
    };
    let left: Vec<String> = left.iter().map(place).collect();
    let more = more.map_or(String::new(), |more| format!(" {more}"));
    format!("console=hvc0 quiet {SUITES}{}{more}", left.join("+"))
}

/// Xen's command line.
pub fn xen_words(more: Option<&str>) -> String {
    let mut words = format!(
        "console=com1 dom0_mem={}M loglvl=warning guest_loglvl=warning conring_size=1M",
        DOM0_MEMORY
    );
    if let Some(more) = more {
        words.push(' ');
        words.push_str(more);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::options::tests::args;
    use crate::ask::suite::asked;
    use crate::ask::suite::tests::count;

    #[test]
    fn every_domain_is_started_and_the_suites_that_are_left_are_named() {
        let args = args(&["--suite", "scenarios,conform", "--domains", "3"]);
        let domains = Domains::plan(&args).unwrap();
        let job = job(&args, &domains);
        assert!(job.contains("domains='front back domain3'"), "{job}");
        let all = asked(&args, &count).unwrap();
        assert_eq!(
            kernel_words(&all, &all[1..], Some("a=b")),
            "console=hvc0 quiet lab.suites=conform:2 a=b"
        );
        let both = kernel_words(&all, &all, None);
        assert!(both.ends_with("lab.suites=scenarios:1+conform:2"), "{both}");
    }

    #[test]
    fn a_shell_runs_no_suites() {
        let args = args(&["--shell"]);
        let job = job(&args, &Domains::plan(&args).unwrap());
        assert!(
            job.contains("setsid") && !job.contains("/lab/suites"),
            "{job}"
        );
    }
}

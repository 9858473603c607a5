//! What a lab runs: suites, each a script in dom0, all in one boot if they leave the machine alive.

use super::domains::Domains;
use super::options::{DEADLINE, LabArgs};
use super::release::Release;
use super::words::{Case, Kind, SuiteName, XenstoredName};
use crate::error::UnknownVersion;
use clap::ValueEnum;
use pv_harness::error::{Error, Result};
use pv_harness::holder::HoldName;
use pv_harness::settings::quote;
use std::fmt::Write;
use std::time::Duration;

/// Where the user's input is, below `/lab`, in dom0 and the domains.
pub const INPUT: &str = "input";
/// Where a suite's report is in dom0.
pub const REPORT: &str = "/results/report";
/// And the conformance suite's, in it.
pub const CONFORM_REPORT: &str = "conform.json";
/// And the directory of the report of the suite `peers`, in it.
pub const PEERS_REPORT: &str = "peers";
/// And the directory of the report of the suite `xenstore`, in it.
pub const XENSTORE_REPORT: &str = "xenstore";
/// And the directory of the suite `holds`, in it: each holder's report in a directory of its name, what
/// the run said beside it.
pub const HOLDS_REPORT: &str = "holds";
/// In the suite `holds`: the control, which is the scenario `copy`.
pub const NO_HOLDER: &str = "none";
/// The scenario that the suite `holds` plays.
const HOLD_UNMAP: &str = "hold-unmap";
/// The scenario that uses every holder that there is.
const HOLDERS: &str = "holders";
/// Beside each scenario's deadline: ending what hangs, and asking what is left. A deadlock of two
/// processes and the observers that wait for it take 50 s.
const BESIDE: Duration = Duration::from_secs(90);
/// The conformance suite takes as long as so many scenarios.
const CONFORM_RUNS: u32 = 5;
/// And the suite `xenstore`.
const XENSTORE_RUNS: u32 = 3;

/// Linux' drivers that the suite `peers` is about, and what a file system on them needs.
pub const PEERS_MODULES: [&str; 5] = [
    "xen-blkfront",
    "xen-blkback",
    "loop",
    // ext4 asks the kernel's programs for this one by a name that only they understand.
    "crc32c_generic",
    "ext4",
];

/// One thing to run in dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its name: in the report, and of its script in the image.
    pub name: String,
    /// Shell. It ends as the suite does, and leaves its report in [`REPORT`].
    pub script: String,
    /// How long it may take on a machine that is not slow; `None`: as long as it likes.
    pub limit: Option<Duration>,
}

/// How many scenarios a run on a real Xen has that is given these names: the lab starts them, and does
/// not know them. An error for a name that there is not.
pub type CountScenarios = dyn Fn(&[String]) -> Result<usize>;

/// What these options ask for, in order.
///
/// # Errors
/// A scenario that there is not.
pub fn asked(args: &LabArgs, count_scenarios: &CountScenarios) -> Result<Vec<Suite>> {
    let each = args.deadline.unwrap_or(DEADLINE) + BESIDE;
    let suite = |name: &str, script: String, runs: u32| Suite {
        name: name.into(),
        script,
        limit: Some(each.saturating_mul(runs)),
    };
    if args.shell {
        return Ok(Vec::new());
    }
    if let Some(command) = &args.run {
        return Ok(vec![suite("run", command.clone(), 1)]);
    }
    let mut names = args.suite.clone();
    if !args.case.is_empty() && !names.contains(&SuiteName::Peers) {
        names.push(SuiteName::Peers);
    }
    if names.is_empty() || (!args.scenario.is_empty() && !names.contains(&SuiteName::Scenarios)) {
        names.insert(0, SuiteName::Scenarios);
    }
    let mut all: Vec<Suite> = Vec::new();
    for name in names {
        // Twice the same would write its report to the same place.
        if all.iter().any(|suite| suite.name == name.to_string()) {
            continue;
        }
        all.push(match name {
            SuiteName::Scenarios => {
                let count = count_scenarios(&args.scenario)?;
                let runs = u32::try_from(count).unwrap_or(u32::MAX);
                suite(&name.to_string(), scenarios(args), runs)
            }
            SuiteName::Holds => {
                let runs = u32::try_from(holders(args).len()).unwrap_or(u32::MAX);
                // Domains that were damaged or hang are started again.
                suite(&name.to_string(), holds(args), runs.saturating_mul(2))
            }
            SuiteName::Conform => suite(&name.to_string(), conform(args), CONFORM_RUNS),
            SuiteName::Xenstore => suite(&name.to_string(), xenstore(args)?, XENSTORE_RUNS),
            SuiteName::Peers => {
                let cases = match args.case.len() {
                    0 => Case::ALL.len(),
                    some => some,
                };
                let runs = u32::try_from(cases).unwrap_or(u32::MAX);
                suite(&name.to_string(), peers(args), runs)
            }
        });
    }
    Ok(all)
}

/// Ways to hold that these options may use.
pub fn holders(args: &LabArgs) -> Vec<HoldName> {
    let scenarios = &args.scenario;
    let default = args.suite.is_empty() && args.case.is_empty() && args.run.is_none();
    let all_scenarios =
        scenarios.is_empty() && (default || args.suite.contains(&SuiteName::Scenarios));
    let every = all_scenarios
        || scenarios.iter().any(|name| name == HOLDERS)
        || (args.suite.contains(&SuiteName::Holds) && args.hold.is_none());
    let all = HoldName::value_variants().iter().copied();
    if !args.holders.is_empty() {
        return args.holders.clone();
    }
    match args.hold {
        Some(hold) if !every => vec![hold],
        None if !every => Vec::new(),
        _ => all.filter(|hold| !hold.is_simulated()).collect(),
    }
}

/// `hold-unmap` with one holder after the other. A run that failed may have left a kernel in a state, so
/// the next one gets new domains; one that could not begin (status 2) has not, if both domains answer. The
/// status is the worst.
fn holds(args: &LabArgs) -> String {
    let of_all = holders(args).into_iter().map(|hold| hold.to_string());
    let names: Vec<String> = match args.hold {
        Some(hold) => vec![hold.to_string()],
        None => [NO_HOLDER.to_owned()].into_iter().chain(of_all).collect(),
    };
    let play = |scenario: &str, more: &str| {
        let one = LabArgs {
            scenario: vec![scenario.into()],
            hold: None,
            ..args.clone()
        };
        let report = format!("--report {REPORT}/{HOLDS_REPORT}/$hold{more}");
        scenarios(&one).replace(&format!("--report {REPORT}"), &report)
    };
    let (held, none) = (play(HOLD_UNMAP, " --hold $hold"), play("copy", ""));
    format!(
        "\
worst=0 status=0
are_sound() {{
    case $status in
    0) ;;
    2) for domain in front back; do pv-stress on --deadline 30s $domain true || return 1; done ;;
    *) return 1 ;;
    esac
}}
mkdir -p {REPORT}/{HOLDS_REPORT}
for hold in {names}; do
    are_sound || {{
        for domain in front back; do start-domain $domain & done
        wait
    }}
    echo \"held by $hold\"
    case $hold in
    {NO_HOLDER}) {none} ;;
    *) {held} ;;
    esac 2>{REPORT}/{HOLDS_REPORT}/$hold.said
    status=$?
    [ $status = 0 ] || tail -n 3 {REPORT}/{HOLDS_REPORT}/$hold.said
    [ $status -le $worst ] || worst=$status
done
are_sound || for domain in front back; do xl destroy $domain; done
exit $worst",
        names = names.join(" ")
    )
}

/// The conformance suite in the domains; then on the simulated Xen, with both answers in one table.
fn conform(args: &LabArgs) -> String {
    // A wrong `--guest` has been told by then.
    let domains = Domains::plan(args).ok();
    let front = domains.and_then(|domains| domains.all.first().map(|front| front.kind));
    let guest = front.unwrap_or(Kind::Pvh).word();
    let damage = match args.allow_kernel_damage {
        true => " --allow-kernel-damage",
        false => "",
    };
    format!(
        "\
mkdir -p {REPORT}
front=$(xl domid front) back=$(xl domid back)
pv-stress on --deadline 20m back \"pv-stress conform --platform xen --as-peer-of $front\" &
pv-stress on --deadline 20m front \"pv-stress conform --platform xen --peer $back --json{damage}\" \
    > {REPORT}/{CONFORM_REPORT}
real=$?
wait
pv-stress conform --guest {guest}{damage} --beside {REPORT}/{CONFORM_REPORT}
simulated=$?
[ $real -ge $simulated ] && exit $real
exit $simulated"
    )
}

/// The cases beside Linux' own drivers, which stay loaded: the suites that follow must not mind. Where
/// a case failed they get other domains.
fn peers(args: &LabArgs) -> String {
    let mut command = format!(
        "mkdir -p {REPORT}
pv-stress peers --front front --back back --report {REPORT}/{PEERS_REPORT} --restart-domain $(which start-domain)",
    );
    let mut add = |option: &str, value: String| {
        let _ = write!(command, " {option} {}", quote(&value));
    };
    if !args.case.is_empty() {
        let cases: Vec<String> = args.case.iter().map(ToString::to_string).collect();
        add("--case", cases.join(","));
    }
    add("--machine", args.machine());
    add_deadline(&mut command, args);
    command.push_str(
        "
status=$?
[ $status = 0 ] || for domain in front back; do xl destroy $domain; done
exit $status",
    );
    command
}

/// xenstore, with the daemon that dom0 has. Where a case failed the next suite gets other domains.
fn xenstore(args: &LabArgs) -> Result<String> {
    let unknown = |error: UnknownVersion| Error::Usage(error.to_string());
    let release = Release::with_xen(&args.xen).map_err(unknown)?;
    let mut command = format!(
        "mkdir -p {REPORT}
pv-stress xenstore suite --front front --back back --report {REPORT}/{XENSTORE_REPORT} --daemon {}-{}",
        args.xenstored.program(),
        release.xen,
    );
    if args.xenstored == XenstoredName::OxenstoredEagain {
        command.push_str(" --eagain");
    }
    if let Some(seed) = args.seed {
        let _ = write!(command, " --seed {seed}");
    }
    let _ = write!(command, " --machine {}", quote(&args.machine()));
    add_deadline(&mut command, args);
    command.push_str(
        "
status=$?
[ $status = 0 ] || for domain in front back; do xl destroy $domain; done
exit $status",
    );
    Ok(command)
}

/// How long a scenario or a case may take: as was said, or counted by the shell that starts it.
fn add_deadline(command: &mut String, args: &LabArgs) {
    let _ = match args.deadline {
        Some(deadline) => write!(command, " --deadline {}ms", deadline.as_millis()),
        None => write!(command, " --deadline $(({} * slow))s", DEADLINE.as_secs()),
    };
}

/// How long each hold is. While pages are held other requests must be served, and a slow machine serves
/// few of them in a second.
fn add_hold_for(command: &mut String, args: &LabArgs) {
    let _ = match args.hold_for {
        Some(hold_for) => write!(command, " --hold-for {}ms", hold_for.as_millis()),
        None => write!(command, " --hold-for $((1000 * slow))ms"),
    };
}

/// The command that runs the scenarios.
fn scenarios(args: &LabArgs) -> String {
    let mut command = format!(
        "pv-stress run --platform xen --front front --back back --log info --report {REPORT} --restart-domain start-domain",
    );
    let mut add = |option: &str, value: String| {
        let _ = write!(command, " {option} {}", quote(&value));
    };
    if !args.scenario.is_empty() {
        add("--scenario", args.scenario.join(","));
    }
    if let Some(hold) = args.hold {
        add("--hold", hold.to_string());
    }
    if let Some(seed) = args.seed {
        add("--seed", seed.to_string());
    }
    if let Some(sabotage) = &args.sabotage {
        add("--sabotage", sabotage.clone());
    }
    let input = match args.input {
        Some(_) => format!("/lab/{INPUT}"),
        None => "/bin/busybox".into(),
    };
    add("--input", input);
    add("--machine", args.machine());
    add_hold_for(&mut command, args);
    add_deadline(&mut command, args);
    if args.allow_kernel_damage {
        command.push_str(" --allow-kernel-damage");
    }
    command
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ask::options::tests::args;
    use pv_harness::error::Error;

    /// Eight in all, as far as the lab can tell.
    pub fn count(names: &[String]) -> Result<usize> {
        match names.iter().any(|name| name == "nonsense") {
            true => Err(Error::Usage("there is no scenario nonsense".into())),
            false if names.is_empty() => Ok(8),
            false => Ok(names.len()),
        }
    }

    fn asked(args: &LabArgs) -> Result<Vec<Suite>> {
        super::asked(args, &count)
    }

    fn names(words: &[&str]) -> Vec<String> {
        let all = asked(&args(words)).unwrap();
        all.into_iter().map(|suite| suite.name).collect()
    }

    #[test]
    fn suites_come_once_each_in_the_order_in_which_they_were_asked_for() {
        assert_eq!(names(&[]), ["scenarios"]);
        assert_eq!(names(&["--suite", "conform"]), ["conform"]);
        let words = ["--suite", "conform,scenarios", "--suite", "conform"];
        assert_eq!(names(&words), ["conform", "scenarios"]);
        let words = ["--suite", "conform", "--scenario", "copy"];
        assert_eq!(names(&words), ["scenarios", "conform"]);
        assert_eq!(names(&["--case", "linux-back"]), ["peers"]);
        let words = ["--case", "linux-back", "--scenario", "copy"];
        assert_eq!(names(&words), ["scenarios", "peers"]);
        assert_eq!(names(&["--run", "true"]), ["run"]);
        assert!(names(&["--shell"]).is_empty());
    }

    #[test]
    fn the_simulated_xen_beside_plays_the_kind_of_guest_that_tests() {
        let script = |words: &[&str]| {
            let words = [&["--suite", "conform"], words].concat();
            asked(&args(&words)).unwrap().remove(0).script
        };
        assert!(script(&[]).contains("conform --guest pvh --beside"));
        assert!(script(&["--guest", "back=pv"]).contains("conform --guest pvh --beside"));
        let pv = script(&["--guest", "pv"]);
        assert!(pv.contains("conform --guest pv --beside"), "{pv}");
        assert!(!pv.contains("damage"), "{pv}");
        let damaged = script(&["--guest", "front=pv", "--allow-kernel-damage"]);
        assert_eq!(
            damaged.matches("--allow-kernel-damage").count(),
            2,
            "{damaged}"
        );
    }

    #[test]
    fn options_reach_the_run() {
        let words = [
            "--scenario",
            "copy",
            "hold-unmap",
            "--hold",
            "fork",
            "--seed",
            "7",
            "--sabotage",
            "flip-bit",
        ];
        let script = &asked(&args(&words)).unwrap()[0].script;
        assert!(
            script.contains("--scenario copy,hold-unmap --hold fork --seed 7 --sabotage flip-bit"),
            "{script}"
        );
        assert!(script.contains("--deadline $((180 * slow))s"), "{script}");
        assert!(script.contains("--hold-for $((1000 * slow))ms"), "{script}");
        let script = &asked(&args(&["--deadline", "90s"])).unwrap()[0].script;
        assert!(script.contains("--deadline 90000ms"), "{script}");
    }

    #[test]
    fn cases_are_passed_on_and_after_a_failure_the_next_suite_gets_other_domains() {
        let script = &asked(&args(&["--case", "linux-back,direct-front"])).unwrap()[0].script;
        assert!(
            script.contains("--case linux-back,direct-front"),
            "{script}"
        );
        assert!(
            script.contains("--report /results/report/peers"),
            "{script}"
        );
        assert!(
            script.contains("--deadline $((180 * slow))s\nstatus=$?"),
            "{script}"
        );
        let end = "[ $status = 0 ] || for domain in front back; do xl destroy $domain; done\nexit $status";
        assert!(script.ends_with(end), "{script}");
        let all = &asked(&args(&["--suite", "peers"])).unwrap()[0];
        assert!(!all.script.contains("--case"), "{}", all.script);
    }

    #[test]
    fn the_xenstore_suite_knows_the_daemon_that_dom0_starts() {
        let script = |words: &[&str]| {
            let words = [&["--suite", "xenstore"], words].concat();
            asked(&args(&words)).unwrap().remove(0).script
        };
        let usual = script(&[]);
        assert!(usual.contains("--daemon xenstored-4.17"), "{usual}");
        assert!(!usual.contains("--eagain"), "{usual}");
        let other = script(&["--xenstored", "oxenstored-eagain", "--xen", "4.14"]);
        assert!(
            other.contains("--daemon oxenstored-4.14 --eagain"),
            "{other}"
        );
        assert!(other.contains("--xenstored oxenstored-eagain"), "{other}");
        let error = asked(&args(&["--suite", "xenstore", "--xen", "3.1"])).unwrap_err();
        assert!(error.to_string().contains("3.1"), "{error}");
    }

    #[test]
    fn each_holder_is_played_by_itself_and_what_it_needs_is_known() {
        let of = |words: &[&str]| holders(&args(words));
        let script = &asked(&args(&["--suite", "holds"])).unwrap()[0].script;
        assert!(
            script.contains("for hold in none pipe fork uring"),
            "{script}"
        );
        assert!(
            script.contains("--scenario hold-unmap") && script.contains("holds/$hold --hold $hold"),
            "{script}"
        );
        let words = ["--suite", "holds", "--hold", "xdp"];
        let script = &asked(&args(&words)).unwrap()[0].script;
        assert!(script.contains("for hold in xdp;"), "{script}");
        assert_eq!(of(&words), [HoldName::Xdp]);
        assert!(of(&["--suite", "holds"]).len() > 4 && of(&[]).len() > 4);
        assert!(of(&["--scenario", "copy"]).is_empty());
        assert_eq!(
            of(&["--scenario", "copy", "--hold", "uring"]),
            [HoldName::Uring]
        );
        assert!(of(&["--scenario", "holders", "--hold", "uring"]).len() > 4);
        assert!(of(&["--suite", "conform"]).is_empty());
    }

    #[test]
    fn a_suites_limit_grows_with_what_it_runs() {
        let limit = |words: &[&str]| asked(&args(words)).unwrap()[0].limit.unwrap();
        let one = limit(&["--scenario", "copy"]);
        assert_eq!(limit(&["--scenario", "copy", "hold-unmap"]), one * 2);
        assert_eq!(limit(&["--run", "x"]), one);
        assert_eq!(limit(&["--case", "linux-back", "direct-front"]), one * 2);
        let all = u32::try_from(Case::ALL.len()).unwrap();
        assert_eq!(limit(&["--suite", "peers"]), one * all);
        assert!(asked(&args(&["--scenario", "nonsense"])).is_err());
    }
}

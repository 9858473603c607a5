//! Runs rules, each in a process of its own with a deadline: one that crashes or hangs, even in
//! the kernel, takes no other with it.

use super::member::Member;
use super::outcome::{Outcome, Stop};
use super::process::Said;
use super::rule::{NotTried, Rule, Since};
use libgnt::DomId;
use libgnt::platform::GuestType;
use pv_harness::kernel::LinuxVersion;
use pv_harness::processes::describe;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a killed process may take to go: longer only if it is stuck in the kernel.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a crashed process's last words is worth having.
const LAST_WORDS: u64 = 600;

/// What came of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The platform does as the rule says.
    Agrees,
    /// It does something else.
    Differs,
    /// The simulator does something else, and is known to.
    KnownDifference,
    /// The rule is about something that is not here.
    NotHere,
    /// Trying it would damage the kernel.
    Skipped,
    /// The rule's process crashed.
    Crashed,
    /// It was not done by its deadline.
    Hung,
    /// Nothing could be found out.
    Broken,
}

impl Verdict {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Agrees => "agrees",
            Verdict::Differs => "DIFFERS",
            Verdict::KnownDifference => "known difference",
            Verdict::NotHere => "not here",
            Verdict::Skipped => "skipped",
            Verdict::Crashed => "CRASHED",
            Verdict::Hung => "HUNG",
            Verdict::Broken => "BROKEN",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The rule's name.
    pub name: String,
    /// What it says.
    pub says: String,
    /// Where that is written.
    pub source: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Why; empty where it agrees.
    pub detail: String,
    /// How long it took.
    pub ms: u64,
}

/// How rules are run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub member: Member,
    pub peer: DomId,
    pub deadline: Duration,
    /// Of Linux; `None`: the simulated Xen.
    pub kernel: Option<Kernel>,
    /// `None`: the kernel does not say.
    pub guest: Option<GuestType>,
    /// Damaging it is allowed.
    pub damage: bool,
}

/// The kernel of a real Xen's domain; `None`: it does not say which it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel(pub Option<LinuxVersion>);

/// Tries one rule.
pub(super) fn try_rule(rule: &Rule, plan: &Plan) -> Judged {
    let begun = Instant::now();
    let (verdict, detail) = match rule.not_tried(plan.guest, plan.damage) {
        Some(NotTried::OtherGuests(why)) => (Verdict::NotHere, why),
        Some(NotTried::Damages(why)) => (Verdict::Skipped, why),
        None => match in_child(rule, plan) {
            Ok(End::Said(outcome)) => judge(rule, plan.kernel, outcome),
            Ok(End::Died(how)) => (Verdict::Crashed, how),
            Ok(End::Hung(how)) => (Verdict::Hung, how),
            Err(error) => (Verdict::Broken, error.to_string()),
        },
    };
    Judged {
        name: rule.name.into(),
        says: rule.says.into(),
        source: rule.source.into(),
        verdict,
        detail,
        ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

fn judge(rule: &Rule, kernel: Option<Kernel>, outcome: Outcome) -> (Verdict, String) {
    if let (Some(since), Some(Kernel(version))) = (&rule.since, kernel) {
        return judge_since(since, version, outcome);
    }
    let known = rule.differs_on_sim.filter(|_| kernel.is_none());
    match (outcome, known) {
        (Ok(()), None) => (Verdict::Agrees, String::new()),
        (Ok(()), Some(_)) => (
            Verdict::Differs,
            "it agrees, though it is listed as different: take it off the list".into(),
        ),
        (Err(Stop::Differs(_)), Some(why)) => (Verdict::KnownDifference, why.into()),
        (Err(Stop::Differs(what)), None) => (Verdict::Differs, what),
        (Err(Stop::NotHere(what)), _) => (Verdict::NotHere, what),
        (Err(Stop::Broken(what)), _) => (Verdict::Broken, what),
    }
}

/// Of a rule that is true of newer kernels only.
fn judge_since(
    since: &Since,
    version: Option<LinuxVersion>,
    outcome: Outcome,
) -> (Verdict, String) {
    let holds = version.and_then(|version| since.holds_on(version));
    let told = version.map_or("a Linux that does not say which".into(), |version| {
        format!("Linux {version}")
    });
    match (outcome, holds) {
        (Ok(()), Some(true)) => (Verdict::Agrees, String::new()),
        (Err(Stop::Differs(what)), Some(true)) => (Verdict::Differs, what),
        (Err(Stop::Differs(_)), Some(false)) => (
            Verdict::KnownDifference,
            format!("{}: before, {}", since.name(), since.before),
        ),
        (Ok(()), Some(false)) => (
            Verdict::Differs,
            format!("it agrees, though {told} is listed as older than the change: list it"),
        ),
        (Ok(()), None) => (
            Verdict::NotHere,
            format!("it is so, but nobody has listed {told}"),
        ),
        (Err(Stop::Differs(_)), None) => (
            Verdict::NotHere,
            format!("{}, and nobody has listed {told}", since.before),
        ),
        (Err(Stop::NotHere(what)), _) => (Verdict::NotHere, what),
        (Err(Stop::Broken(what)), _) => (Verdict::Broken, what),
    }
}

enum End {
    Said(Outcome),
    Died(String),
    Hung(String),
}

fn in_child(rule: &Rule, plan: &Plan) -> io::Result<End> {
    let words = tempfile::tempfile()?;
    let said = tempfile::tempfile()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["conform-process", "rule", rule.name])
        .args(plan.member.args())
        .args(plan.damage.then_some("--allow-kernel-damage"))
        .arg(format!("--peer={}", plan.peer.0))
        .arg(format!("--parent={}", std::process::id()))
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(words.try_clone()?)
        .process_group(0)
        .spawn()?;
    let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(errno) => {
            child.kill()?;
            child.wait()?;
            return Err(errno.into());
        }
    };
    let in_time = gone_within(&pidfd, plan.deadline)?;
    // Whatever it started goes with it; until it is reaped the number is its own.
    match kill_process_group(Pid::from_child(&child), Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    if !in_time {
        return hung(child, &pidfd, plan.deadline);
    }
    let status = child.wait()?;
    let text = read_back(said, u64::MAX)?;
    match serde_json::from_str::<Said>(&text) {
        Ok(Said { outcome }) if status.success() => Ok(End::Said(outcome)),
        _ => {
            let words = read_back(words, LAST_WORDS)?;
            Ok(End::Died(format!("{}: {}", describe(status), words.trim())))
        }
    }
}

fn hung(mut child: Child, pidfd: &OwnedFd, deadline: Duration) -> io::Result<End> {
    let pid = child.id();
    if gone_within(pidfd, GRACE)? {
        child.wait()?;
        return Ok(End::Hung(format!("not done after {deadline:?}")));
    }
    // Nothing ends it, so nothing is waited for: the kernel has it.
    let stack = std::fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default();
    let stack: Vec<&str> = stack.lines().map(str::trim).collect();
    Ok(End::Hung(format!(
        "not done after {deadline:?}, and SIGKILL does not end it: stuck in the kernel {}",
        stack.join(" < ")
    )))
}

fn gone_within(pidfd: &OwnedFd, wait: Duration) -> io::Result<bool> {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The last bytes of what a child wrote.
fn read_back(mut file: File, most: u64) -> io::Result<String> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_newer_kernels_is_a_known_difference_on_older_ones_and_never_goes_stale() {
        let since = Since {
            with: &[LinuxVersion(6, 12, 117)],
            without: &[LinuxVersion(6, 1, 192)],
            before: "it is not so",
        };
        let differs = || Err(Stop::differs("no"));
        let judged = |version, outcome| judge_since(&since, Some(version), outcome).0;
        let (old, new) = (LinuxVersion(6, 1, 192), LinuxVersion(6, 12, 118));
        assert_eq!(judged(new, Ok(())), Verdict::Agrees);
        assert_eq!(judged(new, differs()), Verdict::Differs);
        assert_eq!(judged(old, differs()), Verdict::KnownDifference);
        assert_eq!(judged(old, Ok(())), Verdict::Differs);
        let other = LinuxVersion(6, 6, 3);
        for outcome in [Ok(()), differs()] {
            let (verdict, why) = judge_since(&since, Some(other), outcome);
            assert_eq!(verdict, Verdict::NotHere);
            assert!(why.contains("6.6.3"), "{why}");
        }
        assert_eq!(judge_since(&since, None, Ok(())).0, Verdict::NotHere);
    }
}

//! The course of a run, without I/O: which suite is on, how each ended, and what follows when the
//! machine is lost.

use super::loss::Loss;
use crate::ask::suite::Suite;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How a suite ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "how", content = "what")]
pub enum End {
    /// With this exit status.
    Status(u8),
    /// The machine was lost in it: why.
    Lost(String),
    /// It was not begun: why.
    NotRun(String),
}

impl End {
    /// What it means for the exit status of the whole.
    pub fn status(&self) -> u8 {
        match self {
            End::Status(status) => *status,
            End::Lost(_) | End::NotRun(_) => 2,
        }
    }
}

/// A suite that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Its name.
    pub suite: String,
    /// How.
    pub end: End,
    /// How long it took, without the boot.
    pub duration_ms: u64,
    /// Why it was begun again, if it was.
    pub begun_again: Option<String>,
    /// Its results are on the disk.
    #[serde(skip)]
    pub is_stored: bool,
}

/// What to do after the machine is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it again, for the suites that are left.
    Start,
    /// Nothing is left, or it is no use.
    Stop,
}

/// A run's suites and their ends.
#[derive(Debug)]
pub struct Course {
    left: Vec<Suite>,
    ended: Vec<Ended>,
    /// When the suite that is on began.
    begun: Option<Instant>,
    /// The emulator has lost the machine once, for this reason.
    lost_once: Option<String>,
    /// The suite that is on has had its machine lost.
    again: Option<String>,
}

impl Course {
    /// All of these, in order.
    pub fn of(suites: Vec<Suite>) -> Course {
        Course {
            left: suites,
            ended: Vec::new(),
            begun: None,
            lost_once: None,
            again: None,
        }
    }

    /// Those that a machine is to run, the next first.
    pub fn left(&self) -> &[Suite] {
        &self.left
    }

    /// How those that have ended did.
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// The machine says that a suite begins. How long it may take; `None`: as long as it likes, or
    /// it is not the next.
    pub fn begins(&mut self, name: &str, now: Instant) -> Option<Duration> {
        let next = self.left.first().filter(|suite| suite.name == name)?;
        self.begun = Some(now);
        next.limit
    }

    /// The suite that is on.
    pub fn is_on(&self) -> Option<&str> {
        self.begun?;
        self.left.first().map(|suite| suite.name.as_str())
    }

    /// The machine says that a suite has ended.
    pub fn ends(&mut self, name: &str, status: u8, now: Instant) {
        if self.is_on() == Some(name) {
            self.end(End::Status(status), now);
        }
    }

    /// The machine says that a suite's results are on the disk.
    pub fn stored(&mut self, name: &str) {
        if let Some(ended) = self.ended.iter_mut().find(|ended| ended.suite == name) {
            ended.is_stored = true;
        }
    }

    fn end(&mut self, end: End, now: Instant) {
        if self.left.is_empty() {
            return;
        }
        let took = self
            .begun
            .map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        self.begun = None;
        self.ended.push(Ended {
            suite: self.left.remove(0).name,
            end,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            begun_again: self.again.take(),
            is_stored: false,
        });
    }

    /// The machine is lost.
    pub fn lost(&mut self, loss: &Loss, now: Instant) -> Next {
        let cause = loss.cause().to_owned();
        let in_suite = self.begun.is_some();
        match loss {
            Loss::Emulator(_) if self.lost_once.is_none() => {
                self.begun = None;
                if in_suite {
                    self.again = Some(cause.clone());
                }
                self.lost_once = Some(cause);
                return if self.left.is_empty() {
                    Next::Stop
                } else {
                    Next::Start
                };
            }
            // What ran in it is to blame; what comes after gets a machine of its own.
            Loss::Guest(_) if in_suite => {
                self.end(End::Lost(cause), now);
                return if self.left.is_empty() {
                    Next::Stop
                } else {
                    Next::Start
                };
            }
            _ => {}
        }
        if in_suite {
            self.end(End::Lost(cause.clone()), now);
        }
        while !self.left.is_empty() {
            self.end(End::NotRun(cause.clone()), now);
        }
        Next::Stop
    }

    /// The exit status of the whole: that of the one suite, or the worst. A deadlock (3) is worse
    /// than a failed check (1), and that than what could not run (2).
    pub fn status(&self) -> u8 {
        let rank = |status: u8| match status {
            0 => 0,
            2 => 1,
            1 => 2,
            3 => 4,
            _ => 3,
        };
        let statuses = self.ended.iter().map(|ended| ended.end.status());
        let worst = statuses.max_by_key(|status| rank(*status)).unwrap_or(2);
        if worst == 0 && !self.left.is_empty() {
            2
        } else {
            worst
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn course(names: &[&str]) -> Course {
        let suite = |name: &&str| Suite {
            name: (*name).into(),
            script: String::new(),
            limit: Some(SECOND),
        };
        Course::of(names.iter().map(suite).collect())
    }

    fn still() -> Loss {
        Loss::Emulator("it stood still".into())
    }

    fn panic() -> Loss {
        Loss::Guest("a panic".into())
    }

    #[test]
    fn all_suites_end_in_one_machine() {
        let mut course = course(&["a", "b"]);
        let now = Instant::now();
        assert_eq!(course.begins("b", now), None, "not the next");
        assert_eq!(course.begins("a", now), Some(SECOND));
        assert_eq!(course.is_on(), Some("a"));
        course.ends("a", 0, now + SECOND * 3);
        course.stored("a");
        course.begins("b", now);
        course.ends("b", 1, now);
        assert_eq!(course.status(), 1);
        let [a, b] = course.ended() else { panic!() };
        assert_eq!(
            (a.duration_ms, a.is_stored, b.is_stored),
            (3000, true, false)
        );
    }

    #[test]
    fn a_machine_that_stands_still_is_started_once_for_what_is_left() {
        let mut course = course(&["a", "b", "c"]);
        let now = Instant::now();
        course.begins("a", now);
        course.ends("a", 0, now);
        course.begins("b", now);
        assert_eq!(course.lost(&still(), now), Next::Start);
        let left: Vec<&str> = course.left().iter().map(|s| s.name.as_str()).collect();
        assert_eq!(left, ["b", "c"]);
        course.begins("b", now);
        course.ends("b", 0, now);
        assert_eq!(
            course.ended()[1].begun_again.as_deref(),
            Some("it stood still")
        );
        course.begins("c", now);
        assert_eq!(course.lost(&still(), now), Next::Stop, "a second time");
        assert_eq!(course.ended()[2].end, End::Lost("it stood still".into()));
        assert_eq!(course.status(), 2);
    }

    #[test]
    fn a_machine_that_does_not_come_up_twice_runs_nothing() {
        let mut course = course(&["a", "b"]);
        let now = Instant::now();
        assert_eq!(course.lost(&still(), now), Next::Start);
        assert_eq!(course.lost(&still(), now), Next::Stop);
        let not_run = |e: &Ended| matches!(e.end, End::NotRun(_)) && e.begun_again.is_none();
        assert!(course.ended().iter().all(not_run), "{course:?}");
        assert_eq!((course.ended().len(), course.status()), (2, 2));
    }

    #[test]
    fn a_suite_that_loses_the_machine_is_named_and_the_others_go_on() {
        let mut course = course(&["a", "b"]);
        let now = Instant::now();
        course.begins("a", now);
        assert_eq!(course.lost(&panic(), now), Next::Start);
        assert_eq!(course.ended()[0].end, End::Lost("a panic".into()));
        course.begins("b", now);
        course.ends("b", 0, now);
        assert_eq!(course.status(), 2);
        let mut course = self::course(&["a"]);
        assert_eq!(
            course.lost(&panic(), now),
            Next::Stop,
            "it did not even boot"
        );
    }

    #[test]
    fn the_worst_suite_makes_the_exit_status() {
        let status = |statuses: &[u8]| {
            let names: Vec<String> = (0..statuses.len()).map(|n| n.to_string()).collect();
            let mut course = course(&names.iter().map(String::as_str).collect::<Vec<_>>());
            for (name, status) in names.iter().zip(statuses) {
                course.begins(name, Instant::now());
                course.ends(name, *status, Instant::now());
            }
            course.status()
        };
        assert_eq!(status(&[0, 0]), 0);
        assert_eq!(status(&[2, 1]), 1);
        assert_eq!(status(&[1, 3, 2]), 3);
        assert_eq!(status(&[42]), 42, "a command's own");
        assert_eq!(course(&["a"]).status(), 2, "nothing ended");
    }
}

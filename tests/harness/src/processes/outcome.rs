//! How waits end, and what is left when all processes have ended.

use super::{Autopsy, Blocked};
use crate::timeline::Record;
use std::time::Duration;
use std::{fmt, io};

/// Why a wait ended without what it waited for.
#[derive(Debug)]
pub enum Stopped {
    /// The deadline passed.
    Deadline {
        /// What was waited for.
        what: String,
        /// What every child was doing.
        hung: Vec<Autopsy>,
        /// What the kernels below them kept.
        blocked: Vec<Blocked>,
    },
    /// Tasks wait in a kernel for each other, as they did at the look before.
    Standstill {
        /// What was waited for.
        what: String,
        /// How long nothing had happened.
        quiet: Duration,
        /// As at a deadline.
        hung: Vec<Autopsy>,
        /// As at a deadline.
        blocked: Vec<Blocked>,
    },
    /// A signal asked the run to end.
    Interrupted(i32),
    /// A child ended that should not have.
    Died {
        /// Who.
        process: String,
        /// How.
        exit: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// The machine refused something.
    Io {
        /// Doing what.
        doing: String,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Deadline { what, .. } => write!(f, "the deadline passed, waiting for {what}"),
            Stopped::Standstill { what, quiet, .. } => write!(
                f,
                "a kernel stands still, waiting for {what}: two looks, in {} s in which nothing \
                 happened, found the same tasks waiting for each other",
                quiet.as_secs()
            ),
            Stopped::Interrupted(signal) => write!(f, "interrupted by signal {signal}"),
            Stopped::Died {
                process,
                exit,
                stderr,
            } if stderr.is_empty() => {
                write!(f, "{process}: {exit}")
            }
            Stopped::Died {
                process,
                exit,
                stderr,
            } => write!(f, "{process}: {exit}: {stderr}"),
            Stopped::Io { doing, error } => write!(f, "{doing}: {error}"),
        }
    }
}

/// What is left when everybody is gone.
#[derive(Clone, Debug, Default)]
pub struct Aftermath {
    /// How each child ended, in order of their start.
    pub exits: Vec<Exit>,
    /// Everything they recorded, by time.
    pub records: Vec<Record>,
    /// Processes and files that should be gone and are not.
    pub left_over: Vec<String>,
    /// Those that did not stop when told to.
    pub hung: Vec<Autopsy>,
    /// What the kernels below them kept when the first of these was found.
    pub blocked: Vec<Blocked>,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Who.
    pub process: String,
    /// In words.
    pub how: String,
    /// Status 0, or killed by the scenario on purpose.
    pub expected: bool,
}

//! How a program fails.

use std::fmt::Display;
use std::process::ExitCode;

/// The exit status when something went wrong while at work.
pub const FAILED: u8 = 1;
/// The exit status for wrong usage, and when the environment does not have what is needed.
pub const ENVIRONMENT: u8 = 2;

/// An error on its way to a person, with the exit status that it deserves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// [`FAILED`] or [`ENVIRONMENT`].
    pub status: u8,
    /// What, why, and what can be done.
    pub text: String,
}

impl Failure {
    /// Something went wrong while at work.
    pub fn at_work(error: impl Display) -> Self {
        Failure {
            status: FAILED,
            text: error.to_string(),
        }
    }

    /// Wrong usage, or something is not there: nothing was done.
    pub fn environment(error: impl Display) -> Self {
        Failure {
            status: ENVIRONMENT,
            text: error.to_string(),
        }
    }
}

/// How a program of this name ends: says on standard error why, if it failed.
pub fn end(program: &str, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { status, text }) => {
            eprintln!("{program}: {text}");
            ExitCode::from(status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_means_one_thing() {
        assert_eq!(Failure::at_work("x").status, 1);
        assert_eq!(Failure::environment("x").status, 2);
        let code = |result| format!("{:?}", end("test", result));
        assert_eq!(code(Ok(())), format!("{:?}", ExitCode::SUCCESS));
        let failed = code(Err(Failure::environment("x")));
        assert_eq!(failed, format!("{:?}", ExitCode::from(2)));
    }
}

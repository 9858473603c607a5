//! How the program fails.

/// Something went wrong while at work.
pub(super) const FAILED: u8 = 1;
/// Wrong usage, or the environment does not have what is needed.
pub(super) const ENVIRONMENT: u8 = 2;

/// An error on its way to a person, with the exit status it deserves.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: u8,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn at_work(error: impl std::fmt::Display) -> Self {
        Failure {
            status: FAILED,
            text: error.to_string(),
        }
    }

    pub(super) fn environment(error: impl std::fmt::Display) -> Self {
        Failure {
            status: ENVIRONMENT,
            text: error.to_string(),
        }
    }
}

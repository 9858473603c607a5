//! How the program fails.

/// Something went wrong while at work.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage, or the environment does not have what is needed.
pub(crate) const ENVIRONMENT: u8 = 2;

/// An error on its way to a person, with the exit status it deserves.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn at_work(error: impl std::fmt::Display) -> Self {
        Failure {
            status: FAILED,
            text: error.to_string(),
        }
    }

    pub(crate) fn environment(error: impl std::fmt::Display) -> Self {
        Failure {
            status: ENVIRONMENT,
            text: error.to_string(),
        }
    }
}

//! What an error says about a request.

use super::protocol::{Answer, IN_FLIGHT_MAX};
use crate::error::{Error, Result};
use crate::wire::named;
use std::time::Duration;

/// What an error should say about a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) operation: &'static str,
    pub(super) path: &'a str,
}

impl About<'_> {
    pub(super) fn nonsense(self, what: impl Into<String>) -> Error {
        Error::Protocol {
            operation: self.operation,
            path: self.path.to_owned(),
            what: what.into(),
        }
    }

    pub(super) fn timeout(self, waited: Duration) -> Error {
        Error::Timeout {
            operation: self.operation,
            path: self.path.to_owned(),
            waited,
        }
    }

    pub(super) fn result(self, answer: Answer) -> Result<Vec<u8>> {
        let refused = |(errno, said)| Error::Refused {
            operation: self.operation,
            path: self.path.to_owned(),
            errno,
            said,
        };
        match answer {
            Answer::Done(payload) => Ok(payload),
            Answer::Refused(name) => Err(refused(named(&name))),
            Answer::Errno(errno) => Err(refused((errno, None))),
            Answer::Nonsense(what) => Err(self.nonsense(what)),
            Answer::Lost(cause) => Err(Error::Disconnected { cause }),
            Answer::Busy => Err(busy()),
        }
    }
}

pub(super) fn busy() -> Error {
    Error::Busy {
        limit: IN_FLIGHT_MAX,
    }
}

pub(super) fn text_of(about: About<'_>, bytes: Vec<u8>) -> Result<String> {
    let mut bytes = bytes;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|error| about.nonsense(error.to_string()))
}

//! Transactions: all or nothing, tried again when others were in the way.

use super::connection::{About, Call, text_of};
use super::handle::Client;
use crate::error::{Error, Result};
use crate::wire::Kind;
use rustix::io::Errno;
use std::time::Duration;

/// How often a transaction is tried.
pub const TRANSACTION_ATTEMPTS_MAX: u32 = 32;
/// The longest pause before another try.
const BACKOFF_MAX: Duration = Duration::from_millis(50);

/// An open transaction: sees the tree as it was at the start, and its own changes.
#[derive(Debug)]
pub struct Transaction<'a> {
    client: &'a Client,
    id: u32,
}

impl Call for Transaction<'_> {
    fn request(&self, about: About<'_>, kind: Kind, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.client.call(about, kind, self.id, parts)
    }
}

impl Client {
    /// Runs `body` in a transaction and commits it. On a conflict (EAGAIN) it runs again, after a
    /// short pause of random length, up to [`TRANSACTION_ATTEMPTS_MAX`] times; on any error of `body` the
    /// transaction is dropped and nothing of it is seen.
    ///
    /// # Errors
    /// `body`'s; [`Error::Conflict`]; ENOSPC if the domain has too many open transactions.
    pub fn transaction<T>(&self, mut body: impl FnMut(&Transaction<'_>) -> Result<T>) -> Result<T> {
        const ABOUT: About<'static> = About {
            operation: "transaction",
            path: "",
        };
        for attempt in 0..TRANSACTION_ATTEMPTS_MAX {
            if attempt > 0 {
                std::thread::sleep(backoff(attempt));
            }
            let id = self.call(ABOUT, Kind::TransactionStart, 0, &[b"\0"])?;
            let id = text_of(ABOUT, id)?;
            let id = id.parse().map_err(|_| Error::Protocol {
                operation: ABOUT.operation,
                path: String::new(),
                what: format!("{id:?} is no transaction id"),
            })?;
            let transaction = Transaction { client: self, id };
            let result = body(&transaction);
            let end: &[u8] = if result.is_ok() { b"T\0" } else { b"F\0" };
            let ended = self.call(ABOUT, Kind::TransactionEnd, id, &[end]);
            match (result, ended) {
                (Ok(value), Ok(_)) => return Ok(value),
                (
                    Ok(_),
                    Err(Error::Refused {
                        errno: Errno::AGAIN,
                        ..
                    }),
                ) => {}
                (Ok(_), Err(error)) => return Err(error),
                // Whether or not the server took the abort, the body's error is the news.
                (Err(error), _) => return Err(error),
            }
        }
        Err(Error::Conflict {
            attempts: TRANSACTION_ATTEMPTS_MAX,
        })
    }
}

/// Grows with the attempts; random, so that two that collided do not meet again.
fn backoff(attempt: u32) -> Duration {
    let longest = Duration::from_millis(1 << attempt.min(10)).min(BACKOFF_MAX);
    Duration::from_micros(fastrand::u64(0..=longest.as_micros() as u64))
}

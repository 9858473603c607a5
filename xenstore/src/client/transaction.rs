//! Transactions: all or nothing, tried again when others were in the way.

use super::about::{About, text_of};
use super::handle::{Call, Client};
use crate::error::{Error, Result};
use crate::wire::Kind;
use rustix::io::Errno;
use std::time::Duration;

/// How often a transaction is tried, unless [`Attempts`] say otherwise.
pub const TRANSACTION_ATTEMPTS_MAX: u32 = 32;
/// The longest pause before another try, likewise.
const PAUSE_MAX: Duration = Duration::from_millis(50);
const ABOUT: About<'static> = About {
    operation: "transaction",
    path: "",
};

/// How stubborn a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// How often it is tried; at least once.
    pub most: u32,
    /// No pause before another try is longer. Pauses grow, and are random, so that two that collided do not
    /// meet again; zero, and there is none.
    pub pause_max: Duration,
}

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts {
            most: TRANSACTION_ATTEMPTS_MAX,
            pause_max: PAUSE_MAX,
        }
    }
}

impl Attempts {
    /// Grows with the attempts.
    fn pause(self, attempt: u32) -> Duration {
        let longest = Duration::from_millis(1 << attempt.min(10)).min(self.pause_max);
        Duration::from_micros(fastrand::u64(0..=longest.as_micros() as u64))
    }
}

/// An open transaction: sees the tree as it was at the start, and its own changes.
#[derive(Debug)]
pub struct Transaction<'a> {
    client: &'a Client,
    id: u32,
}

impl Call for Transaction<'_> {
    fn client(&self) -> &Client {
        self.client
    }

    fn tx_id(&self) -> u32 {
        self.id
    }
}

impl Client {
    /// Runs `body` in a transaction and commits it. On a conflict (EAGAIN) it runs again, after a
    /// short pause of random length, up to [`TRANSACTION_ATTEMPTS_MAX`] times; on any error of `body` the
    /// transaction is dropped and nothing of it is seen.
    ///
    /// # Errors
    /// `body`'s; [`Error::Conflict`]; ENOSPC if the domain has too many open transactions.
    pub fn transaction<T>(&self, body: impl FnMut(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.transaction_with(Attempts::default(), body)
    }

    /// As [`Client::transaction`], as stubborn as the caller says.
    ///
    /// # Errors
    /// As [`Client::transaction`].
    pub fn transaction_with<T>(
        &self,
        attempts: Attempts,
        mut body: impl FnMut(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let most = attempts.most.max(1);
        for attempt in 0..most {
            if attempt > 0 {
                std::thread::sleep(attempts.pause(attempt));
            }
            // Dropped unless it is committed, should `body` panic, too.
            let span = self.begin()?;
            let value = body(&Transaction {
                client: self,
                id: span.id,
            })?;
            match span.commit() {
                Ok(()) => return Ok(value),
                Err(error) if error.errno() == Some(Errno::AGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { attempts: most })
    }

    /// Opens a transaction that the caller ends: for code that cannot run again as a whole.
    ///
    /// # Errors
    /// ENOSPC if the domain has too many open transactions, and the connection's.
    pub fn begin(&self) -> Result<TransactionSpan> {
        let id = self.call(ABOUT, Kind::TransactionStart, 0, &[b"\0"])?;
        let id = text_of(ABOUT, id)?;
        // 0 is no transaction: what was meant to be in one would be done at once.
        match id.parse() {
            Ok(id) if id != 0 => Ok(TransactionSpan {
                client: self.clone(),
                id,
                open: true,
            }),
            _ => Err(ABOUT.nonsense(format!("{id:?} is no transaction id"))),
        }
    }
}

/// A transaction of one's own. Dropped, nothing of it is seen.
#[derive(Debug)]
pub struct TransactionSpan {
    client: Client,
    id: u32,
    open: bool,
}

impl TransactionSpan {
    /// Makes it seen, all at once.
    ///
    /// # Errors
    /// EAGAIN: somebody else was in the way, and nothing of it is seen. The connection's.
    pub fn commit(mut self) -> Result<()> {
        self.open = false;
        let ended = self
            .client
            .call(ABOUT, Kind::TransactionEnd, self.id, &[b"T\0"]);
        if let Err(error @ (Error::Busy { .. } | Error::Timeout { .. })) = ended {
            // Perhaps it was never sent; if it was, this is refused.
            self.open = true;
            return Err(error);
        }
        ended.map(|_| ())
    }
}

impl Call for TransactionSpan {
    fn client(&self) -> &Client {
        &self.client
    }

    fn tx_id(&self) -> u32 {
        self.id
    }
}

impl Drop for TransactionSpan {
    fn drop(&mut self) {
        if self.open {
            let payload = b"F\0".to_vec();
            self.client
                .connection()
                .tell(Kind::TransactionEnd, self.id, payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit() {
        let attempts = Attempts::default();
        for attempt in 1..40 {
            let longest = Duration::from_millis(1 << attempt.min(10)).min(PAUSE_MAX);
            assert!(attempts.pause(attempt) <= longest, "{attempt}");
        }
        let none = Attempts {
            pause_max: Duration::ZERO,
            ..attempts
        };
        assert_eq!(none.pause(9), Duration::ZERO);
    }
}

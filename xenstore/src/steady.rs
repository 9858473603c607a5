//! A connection to xenstore that bad days do not end: what fails for now is tried again, with a
//! back-off, on a new connection if the old one is gone; what was watched is watched again.
//!
//! It blocks for as long as xenstore does. It belongs on a thread of its own, beside the one that
//! moves data ([`keeper`](crate::keeper)).

use crate::client::Client;
use crate::error::{Error, Result};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause after the first failure; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(2);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// When to stop trying. Clones share it; it may be set from another thread.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<(Mutex<Option<Instant>>, Condvar)>);

impl Brake {
    /// From that moment on nothing is tried again.
    pub fn stop_at(&self, at: Instant) {
        let (stop, changed) = &*self.0;
        *stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
        changed.notify_all();
    }

    /// Waits. False: the moment has come.
    fn pause(&self, pause: Duration) -> bool {
        let (stop, changed) = &*self.0;
        let until = Instant::now() + pause;
        let mut stop_at = stop.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            if stop_at.is_some_and(|at| at <= now) {
                return false;
            }
            let wake = stop_at.map_or(until, |at| at.min(until));
            if now >= until {
                return true;
            }
            let waited = changed.wait_timeout(stop_at, wake - now);
            stop_at = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Different paths of one token that are told apart. Beyond, they are one: anywhere.
const PATHS_MAX: usize = 1024;

/// Watches that have fired, and where. Whoever may write below a watched path can make events there
/// without end: they are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fired(BTreeMap<String, BTreeSet<String>>);

impl Fired {
    /// Nothing has.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Where a token's watch has fired. A watched path itself stands for everything below it: the watch
    /// was just registered, events were lost, or the directory was removed. So does the empty path:
    /// there were too many to be told apart.
    pub fn paths(&self, token: &str) -> impl Iterator<Item = &str> {
        self.0.get(token).into_iter().flatten().map(String::as_str)
    }

    /// Takes those of another one in.
    pub fn append(&mut self, other: Fired) {
        for (token, paths) in other.0 {
            for path in paths {
                self.insert(token.clone(), path);
            }
        }
    }

    fn insert(&mut self, token: String, path: String) {
        let paths = self.0.entry(token).or_default();
        if paths.contains("") {
            return;
        }
        paths.insert(path);
        if paths.len() > PATHS_MAX {
            paths.clear();
            paths.insert(String::new());
        }
    }
}

/// Makes a connection.
pub type Open = Box<dyn Fn() -> Result<Client> + Send>;

/// The connection, and what it watches.
pub struct Steady {
    open: Open,
    client: Option<Client>,
    /// Path and token.
    watches: Vec<(String, String)>,
    /// Watches whose events may have been missed.
    missed: bool,
    /// Watches that were registered again, and whose first event is still to come: it tells nothing that
    /// `missed` has not told.
    again: BTreeSet<(String, String)>,
    reconnections: u64,
    brake: Brake,
    /// When the present trouble began.
    since: Option<Instant>,
}

impl Steady {
    /// Goes on with a connection that works. `open` makes another one.
    pub fn new(client: Client, open: Open) -> Steady {
        Steady {
            open,
            client: Some(client),
            watches: Vec::new(),
            missed: false,
            again: BTreeSet::new(),
            reconnections: 0,
            brake: Brake::default(),
            since: None,
        }
    }

    /// Stops it from elsewhere.
    pub fn brake(&self) -> Brake {
        self.brake.clone()
    }

    /// Does something until it works, or fails for good: it must be something that may be done
    /// twice, for an answer may be lost.
    ///
    /// # Errors
    /// What will not pass ([`passes`]); the last failure, if the [`Brake`] says so.
    pub fn run<T>(&mut self, mut work: impl FnMut(&Client) -> Result<T>) -> Result<T> {
        let mut pause = BACKOFF_FIRST;
        loop {
            let error = match self.connected().and_then(&mut work) {
                Ok(value) => {
                    self.is_well();
                    return Ok(value);
                }
                Err(error) => error,
            };
            if !passes(&error) {
                return Err(error);
            }
            if self.since.is_none() {
                self.since = Some(Instant::now());
                tracing::warn!(%error, "xenstore does not do its part; data goes on, and this is tried again");
            }
            if breaks(&error) {
                self.client = None;
            }
            // Between half and all of it: two in conflict do not meet again.
            if !self.brake.pause(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) {
                return Err(error);
            }
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// Watches a path, on every later connection, too.
    ///
    /// # Errors
    /// As [`Steady::run`]. Then it is not watched.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        self.run(|client| match client.watch(path, token) {
            // An answer was lost, but the watch is there.
            Err(Error::Refused {
                errno: Errno::EXIST,
                ..
            }) => Ok(()),
            other => other,
        })?;
        self.watches.push((path.to_owned(), token.to_owned()));
        Ok(())
    }

    /// As [`Steady::watch`], for what not every domain may watch. False: refused, for whatever reason.
    ///
    /// # Errors
    /// As [`Steady::run`].
    pub fn watch_if_allowed(&mut self, path: &str, token: &str) -> Result<bool> {
        let allowed = self.run(|client| match client.watch(path, token) {
            Ok(()) => Ok(true),
            Err(Error::Refused { errno, .. }) => Ok(errno == Errno::EXIST),
            Err(error) => Err(error),
        })?;
        if allowed {
            self.watches.push((path.to_owned(), token.to_owned()));
        }
        Ok(allowed)
    }

    /// How often the connection has come back: a daemon that was restarted, or cut it.
    pub fn reconnections(&self) -> u64 {
        self.reconnections
    }

    /// Watches a path no longer, here and on every later connection.
    ///
    /// # Errors
    /// As [`Steady::run`].
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<()> {
        self.watches
            .retain(|watch| (watch.0.as_str(), watch.1.as_str()) != (path, token));
        self.run(|client| match client.unwatch(path, token) {
            // An answer was lost, or this connection never had it.
            Err(Error::Refused {
                errno: Errno::NOENT,
                ..
            }) => Ok(()),
            other => other,
        })
    }

    /// The tokens of the watches that have fired since the last time: all of them, once, when the connection
    /// has come back, for nobody knows what was missed. Bounded, and never waits for xenstore unless there
    /// is no connection.
    ///
    /// # Errors
    /// As [`Steady::run`].
    pub fn fired(&mut self) -> Result<BTreeSet<String>> {
        Ok(self.fired_at()?.tokens().map(str::to_owned).collect())
    }

    /// As [`Steady::fired`], with the paths.
    ///
    /// # Errors
    /// As [`Steady::run`].
    pub fn fired_at(&mut self) -> Result<Fired> {
        let mut fired = Fired::default();
        let mut missed = false;
        let mut again = std::mem::take(&mut self.again);
        let connection = self.reconnections;
        let done = self.run(|client| {
            // Each different event comes once, and no more of them than the client keeps.
            for _ in 0..crate::client::EVENTS_MAX {
                match client.next_watch_event() {
                    Ok(Some(event)) => {
                        let fresh = event.first;
                        let watch = (event.path, event.token);
                        if !(fresh && again.remove(&watch)) {
                            fired.insert(watch.1, watch.0);
                        }
                    }
                    Ok(None) => break,
                    Err(Error::EventsLost { .. }) => missed = true,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        // Those of an older connection come no more.
        if self.reconnections == connection {
            self.again = again;
        }
        done?;
        if missed || std::mem::take(&mut self.missed) {
            for (path, token) in &self.watches {
                fired.insert(token.clone(), path.clone());
            }
        }
        Ok(fired)
    }

    /// Events that a request has read already: no descriptor becomes readable for them.
    pub fn has_events(&self) -> bool {
        self.missed || self.client.as_ref().is_none_or(Client::has_watch_events)
    }

    /// The connection, if there is one now.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    fn connected(&mut self) -> Result<&Client> {
        if self.client.is_none() {
            let client = (self.open)()?;
            for (path, token) in &self.watches {
                client.watch(path, token)?;
            }
            // Whatever happened while nobody watched.
            self.missed = true;
            self.again = self.watches.iter().cloned().collect();
            self.reconnections += 1;
            tracing::info!(count = self.reconnections, "xenstore connected again");
            self.client = Some(client);
        }
        match &self.client {
            Some(client) => Ok(client),
            None => Err(Error::Disconnected {
                cause: "not connected".into(),
            }),
        }
    }

    fn is_well(&mut self) {
        if let Some(since) = self.since.take() {
            let after = since.elapsed();
            tracing::info!(?after, "xenstore does its part again");
        }
    }
}

impl fmt::Debug for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steady")
            .field("client", &self.client)
            .field("watches", &self.watches)
            .finish_non_exhaustive()
    }
}

/// Is it a failure that passes: a daemon that is slow, gone or out of memory, a conflict, a quota that
/// is used up for now?
pub fn passes(error: &Error) -> bool {
    match error {
        Error::Timeout { .. }
        | Error::Disconnected { .. }
        | Error::Conflict { .. }
        | Error::Io { .. }
        | Error::Protocol { .. } => true,
        Error::Refused { errno, .. } => matches!(
            *errno,
            Errno::AGAIN
                | Errno::BUSY
                | Errno::NOSPC
                | Errno::DQUOT
                | Errno::TOOBIG
                | Errno::NOMEM
                | Errno::INTR
                | Errno::IO
        ),
        Error::Platform(error) => !matches!(error, libgnt::Error::HostGone { .. }),
        _ => false,
    }
}

/// Is the connection of no more use? After a timeout, too: a transaction that was opened too late
/// would stay open as long as its connection.
fn breaks(error: &Error) -> bool {
    matches!(
        error,
        Error::Timeout { .. }
            | Error::Disconnected { .. }
            | Error::Io { .. }
            | Error::Protocol { .. }
            | Error::Platform(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_without_end_are_one_anywhere() {
        let mut fired = Fired::default();
        for n in 0..PATHS_MAX {
            fired.insert("a".into(), format!("state/{n}"));
        }
        fired.insert("b".into(), "online".into());
        assert_eq!(fired.paths("a").count(), PATHS_MAX);
        let mut more = Fired::default();
        more.insert("a".into(), "state/x".into());
        fired.append(more);
        assert!(fired.paths("a").eq([""]));
        assert!(fired.paths("b").eq(["online"]));
        assert!(fired.tokens().eq(["a", "b"]));
    }
}

//! Waiting until a node is as somebody wants it.

use super::handle::Client;
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

impl Client {
    /// Waits until `check` says something about a node's value (`None`: it is not there, or not there for
    /// this domain), and gives what it says; `None` when the time is over. It is asked at once, and then
    /// whenever the node or something below it has changed.
    ///
    /// # Errors
    /// As [`Client::watching`] and [`Client::read_unless_gone`].
    pub fn wait_until<T>(
        &self,
        path: &str,
        timeout: Duration,
        mut check: impl FnMut(Option<&[u8]>) -> Option<T>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + timeout;
        // Before the first look: a change after it is an event.
        let watch = self.watching(path)?;
        loop {
            let value = self.read_unless_gone(path)?;
            if let Some(found) = check(value.as_deref()) {
                return Ok(Some(found));
            }
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match watch.next(left) {
                    // That of the registration: the look was after it.
                    Ok(Some(event)) if event.first => {}
                    Ok(Some(_)) | Err(Error::EventsLost { .. }) => break,
                    Ok(None) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

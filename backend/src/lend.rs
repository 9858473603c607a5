//! Lending a request's pages to a third party, before they are unmapped.

use crate::machine::RequestInfo;
use libgnt::grant::Map;

/// Shows the pages of a request to somebody else, as a display server hands them to a GPU driver.
pub trait PageLender: Send {
    /// Called for each request in [`DataMode::Map`](crate::machine::DataMode::Map) when its data is in place, right before its
    /// unmap begins, on the back end's thread: return at once, keep no clone of [`Map::pages`] (a hold on
    /// the *pages* is what this is for: a pin, a pipe, a forked child).
    fn lend(&mut self, map: &Map, request: &RequestInfo);
}

impl std::fmt::Debug for dyn PageLender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageLender")
    }
}

//! What a protocol hands in, and what its loop and the thread of xenstore tell each other.

use super::super::super::feature::{Node, Published, ReadError};
use std::fmt::Debug;
use std::time::Duration;

/// A back end's part of a protocol. The methods that read may be called again when xenstore failed.
pub trait BackProtocol: Debug + Send + 'static {
    /// What a front end announced its ring with.
    type Offer: Send + Debug + 'static;
    /// Why no ring may be mapped at all, though a front end offers one: the kernel's own driver, say.
    type Obstacle: Send + Debug + 'static;

    /// What is written before a front end may come.
    fn features(&self) -> Vec<Node>;

    /// Reads, and checks, what the front end says. With `take_over` an earlier back end was in service
    /// on this ring: what counts is what *that* one published.
    ///
    /// # Errors
    /// The device fails, but for those of xenstore.
    fn read_offer(
        &mut self,
        front: &Published<'_>,
        own: &Published<'_>,
        take_over: bool,
    ) -> Result<Self::Offer, ReadError>;

    /// Looked at before each ring.
    fn obstacle(&mut self) -> Option<Self::Obstacle> {
        None
    }

    /// What is written with the switch to Connected, for the front end whose offer was read last.
    ///
    /// # Errors
    /// The device fails, but for those of xenstore.
    fn connected_nodes(&mut self, own: &Published<'_>) -> Result<Vec<Node>, ReadError> {
        let _ = own;
        Ok(Vec::new())
    }

    /// Nodes that would speak for a back end of another make that serves the device next: taken away
    /// when it is closed.
    fn closed_nodes(&self) -> &[&'static str] {
        &[]
    }
}

/// How a back end's device is kept.
#[derive(Clone, Debug)]
pub struct BackSetting {
    /// The front end's directory: absolute.
    pub front: String,
    /// The own directory: absolute, or relative to the domain's home.
    pub back: String,
}

/// What the loop has to do, or to know.
#[derive(Debug)]
pub enum BackNews<P: BackProtocol> {
    /// Features are published; no front end yet.
    Waiting,
    /// Map the ring, bind the channel; then `connected` or `connect_failed`.
    Connect(P::Offer),
    /// Both ends know: take requests.
    Serve,
    /// Let everything of the front end's go; then `freed`.
    Free {
        /// The front end is still there: what is in flight may be answered first.
        answer_first: bool,
    },
    /// The front end, or its domain, went away without closing.
    FrontGone(String),
    /// The front end broke the protocol.
    Fatal(String),
    /// The device is closed.
    Closed,
    /// Nothing may be mapped, and nothing follows.
    Taken(P::Obstacle),
}

/// What the loop has done, or learned.
#[derive(Debug)]
pub enum Report {
    Connected,
    ConnectFailed(String),
    Freed,
    Fatal(String),
    Explain(Option<String>),
    FrontDied(String),
    Stop(Duration),
}

//! What a protocol hands in, and what its loop and the thread of xenstore tell each other.

use super::super::super::feature::{Node, Published, ReadError};
use libgnt::DomId;
use std::fmt::Debug;
use std::time::Duration;

/// A front end's part of a protocol. The methods that read may be called again when xenstore failed.
pub trait FrontProtocol: Debug + Send + 'static {
    /// What a back end says that goes into service.
    type Back: Send + Debug + 'static;
    /// What a back end in service may change.
    type Change: Send + Debug + 'static;
    /// Why no ring may be made at all, though a back end waits for one: the kernel's own driver, say.
    type Obstacle: Send + Debug + 'static;

    /// The nodes that a ring may be announced with: they are taken away when it is closed, because the
    /// directory may belong to another front end next.
    fn ring_nodes(&self) -> &[&'static str];

    /// Is it a node that a front end before this one announced a ring with in another form? A back end
    /// that reads it would look for what is gone.
    fn is_leftover(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Looked at before each ring.
    fn obstacle(&mut self) -> Option<Self::Obstacle> {
        None
    }

    /// Reads, and checks, what the back end says. Not before it is Connected: some publish a part of it
    /// only then.
    ///
    /// # Errors
    /// The device fails, but for those of xenstore.
    fn read_back(&mut self, back: &Published<'_>) -> Result<Self::Back, ReadError>;

    /// A back end in service has touched its state: has it changed anything?
    ///
    /// # Errors
    /// What was said before stays, but for errors of xenstore.
    fn read_change(&mut self, back: &Published<'_>) -> Result<Option<Self::Change>, ReadError> {
        let _ = back;
        Ok(None)
    }
}

/// How a front end's device is kept.
#[derive(Clone, Debug)]
pub struct FrontSetting {
    /// Its directory: `device/TYPE/N`, relative to the domain's home.
    pub front: String,
    /// Rings in a row that never came into service, before the device is given up. `None`: no end.
    pub attempts_max: Option<u32>,
    /// How long a back end may take, from the start or from the loss of another one, until the device is
    /// in service; and after that, to close. `None`: for ever.
    pub patience: Option<Duration>,
}

/// What the loop has to do or know.
#[derive(Debug)]
pub enum FrontNews<P: FrontProtocol> {
    /// A back end waits for a ring: make a fresh one, for its domain, then `ring_ready`.
    Share {
        /// The back end's domain.
        back: DomId,
    },
    /// It uses that ring now.
    Connected(P::Back),
    /// It says something else now.
    Changed(P::Change),
    /// Put nothing more on the ring. With `drain`, say `quiet` when all is answered.
    Stop {
        /// What became of the back end.
        why: String,
        /// Answers will come.
        drain: bool,
    },
    /// Give up the ring, then say `freed`.
    Free,
    /// The device is gone for good; nothing follows.
    Removed {
        /// Whose doing it was.
        why: String,
    },
    /// Nothing may be made, and nothing follows.
    Taken(P::Obstacle),
}

/// What the loop has done, or learned.
#[derive(Debug)]
pub enum Report {
    RingReady(Vec<Node>),
    RingFailed(String),
    Quiet,
    Freed,
    PeerDied,
    Fail(String),
    Close,
    Abandon,
}

//! Who is in which state, for messages.

use super::super::state::XenbusState;
use libgnt::DomId;
use std::fmt;

/// Who is in which state, as the front end sees it.
#[derive(Clone, Debug)]
pub struct Situation {
    /// The back end's directory.
    pub back: String,
    /// The back end's domain.
    pub back_domid: DomId,
    /// The back end's state; `None`: its directory is gone.
    pub peer: Option<XenbusState>,
    /// The back end's process is gone, though its nodes stand.
    pub peer_dead: bool,
    /// The own state.
    pub own: XenbusState,
    /// Something is being asked of xenstore.
    pub asking: bool,
}

impl Situation {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Situation {
            back: String::new(),
            back_domid: DomId::DOM0,
            peer: None,
            peer_dead: false,
            own: XenbusState::Unknown,
            asking: false,
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the back end in {} ", self.back_domid)?;
        match self.peer {
            Some(state) => write!(f, "is {state}")?,
            None => write!(f, "has no {}/state", self.back)?,
        }
        if self.peer_dead {
            f.write_str(" and its process is dead")?;
        }
        write!(f, ", this front end is {}", self.own)?;
        if self.asking {
            f.write_str("; xenstored has not answered yet")?;
        }
        Ok(())
    }
}

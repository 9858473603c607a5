//! A mapping on its way out, as its owner sees it.

use super::releases::{Releases, UnmapId, lock_machine};
use super::unmap::{UnmapMachine, UnmapState};
use crate::error::{Error, Result};
use crate::event::wait_readable;
use crate::types::{ForeignGrant, Grants};
use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A mapping that is on its way out. Dropping it changes nothing: the unmap goes on, and the
/// ledger keeps naming it until it is over.
pub struct Unmapping {
    pub(super) id: UnmapId,
    pub(super) machine: Arc<Mutex<UnmapMachine>>,
    pub(super) releases: Arc<Releases>,
    pub(super) grants: Arc<[ForeignGrant]>,
}

impl Unmapping {
    /// Its name in [`Mapper::process_releases`](super::Mapper::process_releases).
    pub fn id(&self) -> UnmapId {
        self.id
    }

    /// What was mapped.
    pub fn grants(&self) -> &[ForeignGrant] {
        &self.grants
    }

    /// Where it stands, as far as events were processed.
    pub fn state(&self) -> UnmapState {
        lock_machine(&self.machine).state()
    }

    /// Will we hear of its release? No, if the mapping's notice goes elsewhere
    /// ([`Map::set_unmap_notify`](super::Map::set_unmap_notify)), if none was asked for
    /// ([`Map::unmap_untold`](super::Map::unmap_untold)), or if the device did not take the range back.
    pub fn is_told(&self) -> bool {
        lock_machine(&self.machine).is_noticed()
    }

    /// Looks whether it is over, without waiting.
    ///
    /// # Errors
    /// What the event channel's device says.
    pub fn poll(&self) -> Result<UnmapState> {
        self.releases.process()?;
        Ok(self.state())
    }

    /// Waits until the hypervisor has unmapped. For programs without an event loop: a loop
    /// registers the mapper instead, and one thread does not wait here while another has it
    /// registered, for each event is delivered once.
    ///
    /// # Errors
    /// [`Error::Timeout`] names the grants that are still held. [`Error::NotAvailable`] if
    /// nobody will tell ([`Unmapping::is_told`]).
    pub fn wait(&self, deadline: Duration) -> Result<()> {
        if !self.is_told() {
            return Err(Error::NotAvailable {
                what: format!("the news of the release of {}", Grants(&self.grants)),
                cause: "the mapping's unmap notify sends its event elsewhere, or has none".into(),
                cure: "ask the granter, or who got the event".into(),
            });
        }
        let began = Instant::now();
        loop {
            if self.poll()? == UnmapState::Released {
                // Whoever waited knows; only the others are news to the loop.
                self.releases.known(self.id);
                return Ok(());
            }
            let left = deadline.saturating_sub(began.elapsed());
            if left.is_zero() {
                let what = format!(
                    "the release of {}, which somebody still holds",
                    Grants(&self.grants)
                );
                return Err(Error::Timeout {
                    what,
                    waited: began.elapsed(),
                });
            }
            wait_readable(self.releases.events().as_fd(), left)?;
        }
    }
}

impl fmt::Debug for Unmapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Unmapping({:?}, {}, {:?})",
            self.id,
            Grants(&self.grants),
            self.state()
        )
    }
}

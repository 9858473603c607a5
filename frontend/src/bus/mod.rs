//! The front end's side of xenstore, on a thread of its own: the engine gives reports, and takes
//! news when it is woken.

mod side;

use crate::agent::DiskInfo;
use crate::config::FrontConfig;
use crate::error::FrontError;
use crate::live::Live;
use libgnt::DomId;
use mio::event::Source;
use pv_xenstore::XenbusState;
use pv_xenstore::keeper::{Keeper, News};
use pv_xenstore::toolstack::{DeviceId, DriverBound};
use side::Side;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What the engine has to do or know.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// A back end waits for a ring: make a fresh one, then [`Bus::ring_ready`].
    Share { back: DomId },
    /// It uses that ring now.
    Connected {
        disk: DiskInfo,
        handle: u16,
        liveness: bool,
    },
    /// The disk has another size now, in units of 512 bytes.
    Resized { sectors: u64 },
    /// Put nothing more on the ring. With `drain`, say [`Bus::quiet`] when all is answered.
    Stop { why: String, drain: bool },
    /// Give up the ring, then [`Bus::freed`].
    Free,
    /// The device is gone for good; nothing follows.
    Removed { why: String },
    /// The kernel's own driver has taken the device; nothing follows.
    Taken(DriverBound),
}

/// What the engine has done, or learned.
#[derive(Debug)]
enum Report {
    /// To [`BusEvent::Share`]: what the ring is to be announced with.
    RingReady(Vec<(&'static str, String)>),
    /// To [`BusEvent::Share`]: there is none.
    RingFailed(String),
    /// After [`BusEvent::Stop`]: every request is answered.
    Quiet,
    /// To [`BusEvent::Free`]: done.
    Freed,
    /// The back end's process is dead, whatever its node says.
    PeerDied,
    /// Leave the reason where tools look for it, and close.
    Fail(String),
    /// Close.
    Close,
    /// No more waiting for the back end.
    Abandon,
}

/// Who is in which state, for messages.
#[derive(Debug)]
struct Situation {
    /// The back end's directory.
    back: String,
    back_domid: DomId,
    peer: Option<XenbusState>,
    peer_dead: bool,
    own: XenbusState,
    /// Something is being asked of xenstore.
    asking: bool,
}

/// One device in xenstore.
#[derive(Debug)]
pub(crate) struct Bus {
    keeper: Keeper<Side>,
    situation: Arc<Mutex<Situation>>,
    removed: bool,
}

impl Bus {
    /// Finds the device that the toolstack made, and watches its back end.
    ///
    /// # Errors
    /// [`FrontError::NoDevice`]; [`FrontError::KernelDriver`]; xenstore is not there.
    pub(crate) fn open(config: &FrontConfig) -> Result<Self, FrontError> {
        let situation = Arc::new(Mutex::new(Situation {
            back: String::new(),
            back_domid: DomId::DOM0,
            peer: None,
            peer_dead: false,
            own: XenbusState::Unknown,
            asking: false,
        }));
        let keeper = Side::start(config, Arc::clone(&situation))?;
        Ok(Bus {
            keeper,
            situation,
            removed: false,
        })
    }

    /// Readable when there is news.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        &mut self.keeper
    }

    /// What came of the last reports, or of others' doing.
    ///
    /// # Errors
    /// What ended the work with xenstore.
    pub(crate) fn next_event(&mut self) -> Result<Option<BusEvent>, FrontError> {
        if self.removed {
            return Ok(None);
        }
        match self.keeper.news() {
            Ok(News::Piece(event)) => {
                self.removed = matches!(event, BusEvent::Removed { .. } | BusEvent::Taken(_));
                Ok(Some(event))
            }
            Ok(News::Nothing) => Ok(None),
            Ok(News::Over) => {
                self.removed = true;
                Ok(None)
            }
            Err(error) => {
                self.removed = true;
                Err(error.into())
            }
        }
    }

    fn report(&self, report: Report) {
        if !self.keeper.tell(report) {
            tracing::debug!("the device is over in xenstore");
        }
    }

    /// To [`BusEvent::Share`]: announces the ring, all at once with the state.
    pub(crate) fn ring_ready(&self, live: &Live) {
        self.report(Report::RingReady(live.nodes().write()));
    }

    /// To [`BusEvent::Share`]: there is none.
    pub(crate) fn ring_failed(&self, why: String) {
        self.report(Report::RingFailed(why));
    }

    /// Every request is answered, after [`BusEvent::Stop`].
    pub(crate) fn quiet(&self) {
        self.report(Report::Quiet);
    }

    /// To [`BusEvent::Free`]: done.
    pub(crate) fn freed(&self) {
        self.report(Report::Freed);
    }

    /// The back end's process is dead, whatever its node says.
    pub(crate) fn peer_died(&self) {
        self.report(Report::PeerDied);
    }

    /// Leaves the reason where tools look for it, and begins to close.
    pub(crate) fn fail(&self, why: String) {
        self.report(Report::Fail(why));
    }

    /// Begins to close; [`Bus::is_removed`] says when that is over. xenstore is not tried again after
    /// `until`.
    pub(crate) fn close(&self, until: Instant) {
        self.keeper.stop_at(until);
        self.report(Report::Close);
    }

    /// No more waiting for the back end.
    pub(crate) fn abandon(&self) {
        self.report(Report::Abandon);
    }

    /// The handshake is over, and so is every word about it.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed
    }

    /// Who is in which state, for messages.
    pub(crate) fn situation(&self) -> String {
        let situation = self
            .situation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let back = match situation.peer {
            Some(state) => format!("is {state}"),
            None => format!("has no {}/state", situation.back),
        };
        let dead = if situation.peer_dead {
            " and its process is dead"
        } else {
            ""
        };
        let asking = if situation.asking {
            "; xenstored has not answered yet"
        } else {
            ""
        };
        format!(
            "the back end in {} {back}{dead}, this front end is {}{asking}",
            situation.back_domid, situation.own
        )
    }
}

/// How people call it.
pub(crate) fn name(device: DeviceId) -> String {
    device.name().unwrap_or_else(|| format!("device {device}"))
}

//! The front end's side of xenstore, on a thread of its own: the loop gives reports, and takes
//! news when it is woken.

mod words;

mod find;

mod side;

pub(crate) use words::BusEvent;

use crate::config::FrontConfig;
use crate::error::FrontError;
use crate::link::Link;
use mio::event::Source;
use pv_xenstore::keeper::{Keeper, News};
use side::Side;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use words::{Report, Situation};

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
        let situation = Arc::new(Mutex::new(Situation::new()));
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
    pub(crate) fn ring_ready(&self, link: &Link) {
        self.report(Report::RingReady(link.nodes().write()));
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
        let situation = self.situation.lock();
        situation
            .unwrap_or_else(PoisonError::into_inner)
            .to_string()
    }
}

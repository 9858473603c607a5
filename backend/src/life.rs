//! How connections begin and end.

use crate::bus::{Order, Report};
use crate::config::Mode;
use crate::error::BackError;
use crate::link::{DIED, Link, LinkError, Nobody, Offer};
use crate::machine::{DataMode, Input};
use crate::observe::BackEventKind;
use crate::pace::Storm;
use crate::run::Backend;
use pv_xenstore::keeper::News;
use std::time::{Duration, Instant};

/// How long requests in flight may take when we leave a front that does not close.
const DRAIN: Duration = Duration::from_millis(250);
/// How long pages may still be mapped after the ring is gone, before the reason is told.
const EXPLAIN_AFTER: Duration = Duration::from_millis(200);
/// How much longer than the front's time to close xenstore may take.
const STORE_BESIDE: Duration = Duration::from_millis(250);
/// How long a back end that cannot go on tries to say so.
const FAREWELL: Duration = Duration::from_millis(500);

impl Backend {
    /// Takes in xenstore's news and does what follows.
    pub(crate) fn obey_xenstore(&mut self) -> Result<(), BackError> {
        loop {
            match self.bus.news() {
                Ok(News::Piece(order)) => self.obey(order)?,
                Ok(News::Nothing) => return Ok(()),
                Ok(News::Over) => {
                    self.over = true;
                    return Ok(());
                }
                // It was asked to end, and told how long it may try.
                Err(error) if self.stopping => {
                    self.give_up(&error);
                    return Ok(());
                }
                Err(error) => {
                    self.over = true;
                    return Err(error.into());
                }
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), BackError> {
        match order {
            Order::Waiting => {
                tracing::info!(front = %self.front, "waiting for a front end");
                self.data.tell.tell(|| BackEventKind::Waiting);
            }
            Order::Connect(offer) => self.connect(&offer)?,
            Order::Serve => self.begin_service(),
            Order::Free { answer_first: true } => self.drain(),
            Order::Free {
                answer_first: false,
            } => self.cut_link(),
            Order::FrontGone(how) => {
                tracing::warn!(front = %self.front, "the front end is gone: {how}");
                self.data.tell.tell(|| BackEventKind::FrontGone { how });
            }
            Order::Fatal(reason) => {
                tracing::error!(front = %self.front, "the device closes: {reason}");
                self.failed = true;
                self.data.tell.tell(|| BackEventKind::Fatal { reason });
            }
            Order::Closed => {
                let zombies = self.data.machine.zombies();
                tracing::info!(front = %self.front, zombies, "closed");
                self.data.tell.tell(|| BackEventKind::Closed { zombies });
            }
            Order::Taken(driver) => {
                self.over = true;
                return Err(driver.into());
            }
        }
        Ok(())
    }

    fn connect(&mut self, offer: &Offer) -> Result<(), BackError> {
        let mode = match self.mode {
            Mode::Map => DataMode::Map,
            Mode::Copy => DataMode::Copy,
            Mode::Auto | Mode::Persistent if offer.persistent => DataMode::Persistent,
            Mode::Auto => DataMode::Map,
            Mode::Persistent => {
                tracing::warn!("the front end does not want persistent grants: maps instead");
                DataMode::Map
            }
        };
        if offer.take_over && !self.data.outlives_us() {
            let why = LinkError::DiskGone.to_string();
            self.bus.tell(Report::ConnectFailed(why));
            return Ok(());
        }
        // The machine asks only when the last front's things are freed.
        if !self.data.is_drained() {
            let why = LinkError::NotClosed.to_string();
            self.bus.tell(Report::ConnectFailed(why));
            return Ok(());
        }
        let read_only = offer.read_only;
        self.data.feed(Input::Open { mode, read_only }, &mut Nobody);
        let (mapper, events) = (&self.mapper, &self.events);
        match Link::connect(mapper, events, self.front, offer, &mut self.record) {
            Ok((link, left)) => {
                if offer.take_over {
                    tracing::info!(front = %self.front, requests = left.len(), "took over a ring in service");
                }
                // The first look at the ring is ours: requests may be there, an event need not be.
                (self.masked, self.notified, self.storm) = (false, false, Storm::default());
                self.link = Some(link);
                self.left = left;
                self.read_only = offer.read_only;
                self.bus.tell(Report::Connected);
                Ok(())
            }
            Err(error) => {
                self.data.feed(Input::PeerGone, &mut Nobody);
                match error {
                    // Not the front's fault, and nothing works any more.
                    LinkError::Xen(error @ libgnt::Error::HostGone { .. }) => Err(error.into()),
                    LinkError::Served => Err(BackError::Served(error.to_string())),
                    error => {
                        self.bus.tell(Report::ConnectFailed(error.to_string()));
                        Ok(())
                    }
                }
            }
        }
    }

    fn begin_service(&mut self) {
        let mode = self.data.machine.mode();
        let read_only = self.read_only;
        tracing::info!(front = %self.front, ?mode, read_only, "connected");
        self.data.tell.tell(|| BackEventKind::Connected { mode });
        self.failed = false;
        let Some(link) = &mut self.link else { return };
        self.serving = true;
        for request in self.left.drain(..) {
            self.data.feed(Input::Request(request), link);
        }
        link.publish();
        if !link.front_is_alive() {
            // Its event came before we served it.
            self.front_died(DIED);
        }
    }

    /// We leave, and the front is still there: what is in flight is answered first.
    fn drain(&mut self) {
        let Some(link) = &mut self.link else {
            self.freeing = true;
            return;
        };
        self.draining_until = Some(Instant::now() + DRAIN);
        self.data.feed(Input::Drain, link);
        link.publish();
    }

    pub(crate) fn front_died(&mut self, how: &str) {
        if std::mem::take(&mut self.serving) {
            self.bus.tell(Report::FrontDied(how.into()));
        }
    }

    /// The front broke the rules. The device closes, with the reason in xenstore; we live on.
    pub(crate) fn fatal(&mut self, reason: String) {
        // Nothing more of this ring, however long xenstore takes to hear of it.
        if std::mem::take(&mut self.serving) {
            self.bus.tell(Report::Fatal(reason));
        }
    }

    /// Nobody is answered any more; the ring goes at once, the maps when the disk is done.
    pub(crate) fn cut_link(&mut self) {
        self.draining_until = None;
        self.freeing = true;
        (self.explain_at, self.explained) = (None, false);
        self.serving = false;
        self.left.clear();
        self.data.feed(Input::PeerGone, &mut Nobody);
        if let Some(link) = self.link.take() {
            self.record = Some(link.disconnect());
        }
    }

    pub(crate) fn proceed_with_closing(&mut self) {
        if let Some(deadline) = self.draining_until {
            let left = self.data.machine.in_flight();
            if left > 0 && Instant::now() < deadline {
                return;
            }
            if left > 0 {
                tracing::warn!(left, "closing with requests that are not answered");
            }
            self.cut_link();
        }
        if self.freeing && self.data.is_drained() {
            match self.data.still_mapped() {
                0 => {
                    self.freeing = false;
                    self.explain_at = None;
                    if std::mem::take(&mut self.explained) && !self.failed {
                        self.bus.tell(Report::Explain(None));
                    }
                    self.bus.tell(Report::Freed);
                }
                pages => self.explain_delay(pages),
            }
        }
    }

    /// Closed means that nothing of the front's is mapped any more: as long as somebody holds pages,
    /// the device stays Closing, with the reason in xenstore.
    fn explain_delay(&mut self, pages: usize) {
        let now = Instant::now();
        let at = *self.explain_at.get_or_insert(now + EXPLAIN_AFTER);
        if now < at || self.explained {
            return;
        }
        self.explained = true;
        let why = format!(
            "{pages} pages of the front end's are still mapped: somebody in the back end's domain holds \
             them, or their unmap was refused; the device is Closed when they are released"
        );
        tracing::warn!(front = %self.front, "{why}");
        // The reason for which the device closes is worth more.
        if !self.failed {
            self.bus.tell(Report::Explain(Some(why)));
        }
    }

    /// Somebody wants us to end.
    pub(crate) fn begin_to_stop(&mut self) {
        self.stopping = true;
        if self.hand_over && self.serving && self.data.outlives_us() {
            self.handing_over_until = Some(Instant::now() + DRAIN);
            return;
        }
        let close = self.stop.at_most(self.close);
        let whole = close.saturating_add(STORE_BESIDE);
        self.give_up_at = Instant::now().checked_add(whole);
        if let Some(at) = self.give_up_at {
            self.bus.stop_at(at);
        }
        self.bus.tell(Report::Stop(close));
    }

    /// Ends without xenstore when it has had its time: it may be stuck in a request.
    pub(crate) fn mind_the_time(&mut self) {
        if self.over || self.give_up_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        match self.data.still_mapped() {
            pages if self.freeing && pages > 0 => {
                tracing::error!(front = %self.front, pages, "the device is left Closing: pages are still mapped");
                self.over = true;
            }
            _ => self.give_up(&"no answer in time"),
        }
    }

    fn give_up(&mut self, error: &dyn std::fmt::Display) {
        tracing::warn!(front = %self.front, %error, "xenstore was not told of the end");
        self.over = true;
    }

    /// Leaves the ring to the next back end. True when what is in flight is answered, or recorded.
    pub(crate) fn has_handed_over(&mut self) -> bool {
        let Some(deadline) = self.handing_over_until else {
            return false;
        };
        let left = self.data.machine.in_flight();
        if self.link.is_some() && left > 0 && Instant::now() < deadline {
            return false;
        }
        if let Some(mut link) = self.link.take() {
            link.publish();
            tracing::info!(front = %self.front, left, "handed over");
            // Dropped: the lock goes with the process, the record stays.
            drop(link.hand_over());
        }
        true
    }

    /// We cannot go on. The front is told, if anybody can be told: a state 4 with nobody behind it
    /// lets a guest hang.
    pub(crate) fn say_farewell(&mut self, reason: &BackError) {
        if self.over {
            return;
        }
        let until = Instant::now() + FAREWELL;
        self.stopping = true;
        self.bus.stop_at(until);
        self.bus.tell(Report::Fatal(reason.to_string()));
        self.bus.tell(Report::Stop(Duration::ZERO));
        while !self.over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(front = %self.front, "the front end could not be told of the end");
                return;
            }
            self.data.disk_completions(&mut Nobody);
            if self.obey_xenstore().is_err() {
                return;
            }
            self.proceed_with_closing();
            if self.over || self.nap(left).is_err() {
                return;
            }
        }
    }
}

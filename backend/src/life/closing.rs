//! The end of a connection, and of the device: drained, cut, left to the next back end.

use super::Lifecycle;
use crate::link::Nobody;
use crate::machine::Input;
use std::time::{Duration, Instant};

/// How long requests in flight may take when we leave a front that does not close.
const DRAIN: Duration = Duration::from_millis(250);
/// How long pages may still be mapped after the ring is gone, before the reason is told.
const EXPLAIN_AFTER: Duration = Duration::from_millis(200);
/// How much longer than the front's time to close xenstore may take.
const STORE_BESIDE: Duration = Duration::from_millis(250);

impl Lifecycle {
    /// Was the back end asked to stop, and has not begun to?
    pub fn is_to_stop(&self) -> bool {
        self.course.stop.is_asked() && !self.stopping
    }

    /// When it must be looked at again: the earliest of what it waits for.
    pub fn deadlines(&self) -> impl Iterator<Item = Instant> {
        [
            self.draining_until,
            self.handing_over_until,
            self.give_up_at,
            self.explain_at.filter(|_| !self.explained),
        ]
        .into_iter()
        .flatten()
    }

    /// May requests be taken off the ring?
    pub fn takes_requests(&self) -> bool {
        self.serving && self.handing_over_until.is_none()
    }

    /// We leave, and the front is still there: what is in flight is answered first.
    pub(super) fn drain(&mut self) {
        let Some(link) = &mut self.link else {
            self.freeing = true;
            return;
        };
        self.draining_until = Some(Instant::now() + DRAIN);
        self.data.feed(Input::Drain, link);
        link.publish();
    }

    pub fn front_died(&mut self, how: &str) {
        if std::mem::take(&mut self.serving) {
            self.bus.front_died(how.into());
        }
    }

    /// The front broke the rules. The device closes, with the reason in xenstore; we live on.
    pub fn fatal(&mut self, reason: String) {
        // Nothing more of this ring, however long xenstore takes to hear of it.
        if std::mem::take(&mut self.serving) {
            self.bus.fatal(reason);
        }
    }

    /// Nobody is answered any more; the ring goes at once, the maps when the disk is done.
    pub fn cut_link(&mut self) {
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

    pub fn proceed_with_closing(&mut self) {
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
                        self.bus.explain(None);
                    }
                    self.bus.freed();
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
            self.bus.explain(Some(why));
        }
    }

    /// Somebody wants us to end.
    pub fn begin_to_stop(&mut self) {
        self.stopping = true;
        if self.course.hand_over && self.serving && self.data.outlives_us() {
            self.handing_over_until = Some(Instant::now() + DRAIN);
            return;
        }
        let close = self.course.stop.at_most(self.course.close);
        let whole = close.saturating_add(STORE_BESIDE);
        self.give_up_at = Instant::now().checked_add(whole);
        if let Some(at) = self.give_up_at {
            self.bus.stop_at(at);
        }
        self.bus.stop(close);
    }

    /// Ends without xenstore when it has had its time: it may be stuck in a request.
    pub fn mind_the_time(&mut self) {
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

    pub(super) fn give_up(&mut self, error: &dyn std::fmt::Display) {
        tracing::warn!(front = %self.front, %error, "xenstore was not told of the end");
        self.over = true;
    }

    /// Leaves the ring to the next back end. True when what is in flight is answered, or recorded.
    pub fn has_handed_over(&mut self) -> bool {
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
}

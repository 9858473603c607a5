//! A ring, and the record of what was taken off it, moved together: whoever pops, pushes or publishes
//! here cannot forget the other half.

use crate::record::Record;
use libgnt::SharedPages;
use libgnt::proto::blkif::{Request, Response, X86_64};
use libgnt::ring::{BackRing, RingError};
use std::sync::Arc;

/// The back end's half of a block ring that survives its process.
#[derive(Debug)]
pub(crate) struct RecordedRing {
    ring: BackRing<X86_64>,
    record: Record,
    /// Something was published, and the front end sleeps.
    owes_event: bool,
}

impl RecordedRing {
    /// Attaches to a ring. If the record knows it, goes on where an earlier back end was; with it
    /// come the requests that that one took and did not answer.
    pub fn attach(
        pages: Arc<SharedPages>,
        mut record: Record,
        known: bool,
    ) -> (Self, Vec<Request>) {
        let mut left = Vec::new();
        let ring = BackRing::resume(pages, X86_64, |rsp_prod| {
            if known {
                left = record.inherit(rsp_prod);
            }
            u32::try_from(left.len()).unwrap_or(u32::MAX)
        });
        let ring = RecordedRing {
            ring,
            record,
            owes_event: false,
        };
        (ring, left)
    }

    /// The record.
    pub fn record(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Requests that wait to be taken.
    ///
    /// # Errors
    /// The front broke the ring's rules.
    pub fn available(&mut self) -> Result<u32, RingError> {
        self.ring.available()
    }

    /// The next request. It is recorded.
    ///
    /// # Errors
    /// As [`RecordedRing::available`].
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Request>, RingError> {
        if self.record.is_full() {
            // An honest front never gets here: it does not use a slot again before it has seen the
            // answer.
            self.show();
        }
        let request = self.ring.pop()?;
        if let Some(request) = &request {
            self.record.take(request);
        }
        Ok(request)
    }

    /// Asks for an event at the next request; true: there is one already.
    ///
    /// # Errors
    /// As [`RecordedRing::available`].
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        self.ring.final_check()
    }

    /// Writes a response, which the front sees after [`RecordedRing::publish`].
    #[inline]
    pub fn push(&mut self, response: &Response) {
        self.record.answer(response.id, self.ring.next_response());
        self.ring.push(response);
    }

    fn show(&mut self) {
        self.owes_event |= self.ring.publish();
        self.record.published();
    }

    /// Shows the front what was pushed. True: notify it.
    #[must_use = "true means that the peer sleeps until it is notified"]
    pub fn publish(&mut self) -> bool {
        self.show();
        std::mem::take(&mut self.owes_event)
    }

    /// The record alone; the ring is let go.
    pub fn into_record(self) -> Record {
        self.record
    }
}

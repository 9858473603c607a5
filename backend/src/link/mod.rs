//! The connection to one front: its ring page, mapped, and its event channel.

mod bell;

pub(crate) use bell::Bell;

use crate::record::{Record, RingName};
use crate::recorded::RecordedRing;
use libgnt::event::Channel;
use libgnt::grant::{Map, Mapper};
use libgnt::proto::blkif::nodes::{BACK_ALIVE_BYTE, FrontNodes};
use libgnt::proto::blkif::{Request, Response};
use libgnt::ring::RingError;
use libgnt::{Access, DomId, ForeignGrant};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Responses are shown to the front in groups, so that it can work while we do.
const PUBLISH_EVERY: u32 = 8;

/// How the death of a front's process shows.
pub(crate) const DIED: &str = "its liveness byte was cleared: the process is gone";

/// A ring to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub nodes: FrontNodes,
    /// It is in service: an earlier back end took requests from it.
    pub take_over: bool,
    /// The front may use persistent grants: we offer them, and so did the back end before us.
    pub persistent: bool,
    /// The front may only read.
    pub read_only: bool,
}

/// Where responses go.
pub(crate) trait Answers {
    fn push(&mut self, response: &Response);

    /// Pages of a request are about to be lent to others.
    fn lend(&mut self, id: u64);
}

/// For when the front is gone. The machine knows too, so nothing comes here.
pub(crate) struct Nobody;

impl Answers for Nobody {
    fn push(&mut self, response: &Response) {
        debug_assert!(false, "{response:?} to nobody");
    }

    fn lend(&mut self, _: u64) {}
}

/// One front's ring.
#[derive(Debug)]
pub(crate) struct Link {
    ring: RecordedRing,
    /// Unmapped before the channel goes: its unmap raises the channel.
    page: Map,
    channel: Channel,
    liveness: Option<usize>,
    unpublished: u32,
    notify_failed: bool,
}

/// Why a ring cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// A reference or a port that is not the front's to name, say.
    #[error("cannot connect to its ring: {0}")]
    Xen(#[from] libgnt::Error),
    /// The last front's ring is still ours.
    #[error("the last connection is not closed")]
    NotClosed,
    /// The disk that the front end knows is no more.
    #[error(
        "the disk was in the memory of an earlier back end, which is gone; \
         serve an image if it has to outlive the back end"
    )]
    DiskGone,
    /// The ring is in service, and its port is bound: not by an earlier back end that is gone.
    #[error(
        "the event channel of the front end's ring is in use: another back end serves it, perhaps in \
         a container with a directory for claims of its own; stop that one, or give both the same directory"
    )]
    Served,
    /// Nobody knows what the earlier back end took.
    #[error(
        "an earlier back end left requests without an answer, and there is no record of which; \
         the front end has to connect anew"
    )]
    Unrecorded,
    /// Pages of what the earlier back end took may be in others' hands.
    #[error(
        "an earlier back end had lent pages of requests in flight to others, and nobody knows whether they \
         still hold them; the front end has to connect anew"
    )]
    Lent,
    /// The record and the ring do not fit.
    #[error("the record of requests in flight does not fit the ring: {0}")]
    Misfit(RingError),
}

impl Link {
    /// Maps the ring, binds the channel, and arms the kernel's notice to the front for the case
    /// that this process dies. With it come the requests that an earlier back end took off the ring
    /// and did not answer.
    ///
    /// # Errors
    /// [`LinkError`]. Nothing is left behind, and the record where it was; else it is the link's now.
    pub fn connect(
        mapper: &Mapper,
        bell: &Bell,
        front: DomId,
        offer: &Offer,
        place: &mut Option<Record>,
    ) -> Result<(Self, Vec<Request>), LinkError> {
        let name = RingName {
            ring_ref: offer.nodes.ring_ref,
            port: offer.nodes.event_channel,
        };
        let record = place.as_ref().ok_or(LinkError::NotClosed)?;
        let known = offer.take_over && record.knows(name);
        if known && record.was_lent() {
            return Err(LinkError::Lent);
        }
        let (page, channel) = bind(mapper, bell, front, offer)?;
        let record = place.take().ok_or(LinkError::NotClosed)?;
        let (ring, left) = RecordedRing::attach(Arc::clone(page.pages()), record, known);
        let mut link = Link {
            ring,
            page,
            channel,
            liveness: None,
            unpublished: 0,
            notify_failed: false,
        };
        if offer.take_over {
            let refused = match link.ring.available() {
                Ok(waiting) if waiting > 0 && !known => Some(LinkError::Unrecorded),
                Ok(_) => None,
                Err(error) => Some(LinkError::Misfit(error)),
            };
            if let Some(refused) = refused {
                *place = Some(link.hand_over());
                return Err(refused);
            }
        }
        if !known {
            link.ring.record().begin(name);
        }
        let pages = link.page.pages();
        // The front looks at it when it sees us connected, which comes later, through xenstore.
        pages.store_u8(BACK_ALIVE_BYTE, 1, Ordering::Release);
        // A byte that nobody has set is not this front's: an earlier one of ours left the node.
        let is_set = |place: &usize| pages.load_u8(*place, Ordering::Relaxed) != 0;
        link.liveness = offer.nodes.liveness.filter(is_set);
        if offer.take_over {
            // The earlier back end may have died between an answer and its event.
            link.notify();
        }
        Ok((link, left))
    }

    /// The local port.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// False when the kernel has cleared the front's byte: the process that granted is gone. A front
    /// without such a byte is always alive.
    pub fn front_is_alive(&self) -> bool {
        // Nothing is ordered by it: it only ever goes from alive to dead.
        self.liveness
            .is_none_or(|place| self.page.pages().load_u8(place, Ordering::Relaxed) != 0)
    }

    /// The next request.
    ///
    /// # Errors
    /// The front broke the ring's rules.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Request>, RingError> {
        self.ring.pop()
    }

    /// Asks for an event at the next request; true: there is one already.
    ///
    /// # Errors
    /// As [`Link::pop`].
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        self.ring.final_check()
    }

    /// Shows the front what was pushed, and wakes it if it sleeps.
    pub fn publish(&mut self) {
        self.unpublished = 0;
        if self.ring.publish() {
            self.notify();
        }
    }

    fn notify(&mut self) {
        if let Err(error) = self.channel.notify()
            && !std::mem::replace(&mut self.notify_failed, true)
        {
            // The front's death shows elsewhere; anything else would be ours.
            tracing::warn!(%error, "cannot notify the front end");
        }
    }

    /// Lets the ring go: unmaps, then closes the channel. What is unanswered stays so.
    pub fn disconnect(self) -> Record {
        let mut record = self.hand_over();
        record.end();
        record
    }

    /// The same, but the next back end finds in the record what it needs to go on.
    pub fn hand_over(self) -> Record {
        let Link {
            ring,
            page,
            channel,
            ..
        } = self;
        let record = ring.into_record();
        // The kernel's event was for our death. In good order we tell the front, and hear of the
        // page's release ourselves: somebody may hold it.
        if let Err(error) = page.set_unmap_notify(Some(BACK_ALIVE_BYTE), None) {
            tracing::debug!(%error, "the ring page's release is not told");
        }
        if let Err(refused) = page.unmap() {
            tracing::debug!(error = %refused, "the ring page is let go of later");
        }
        if let Err(error) = channel.notify() {
            tracing::debug!(%error, "the front end is not told that the ring is left");
        }
        drop(channel);
        record
    }
}

fn bind(
    mapper: &Mapper,
    bell: &Bell,
    front: DomId,
    offer: &Offer,
) -> Result<(Map, Channel), LinkError> {
    let grant = ForeignGrant {
        domid: front,
        gref: offer.nodes.ring_ref,
    };
    let page = mapper.map(&[grant], Access::ReadWrite)?;
    let channel = match bell
        .events()
        .bind_interdomain(front, offer.nodes.event_channel)
    {
        Err(error) if offer.take_over && error.errno() == Some(Errno::INVAL) => {
            return Err(LinkError::Served);
        }
        other => other?,
    };
    page.set_unmap_notify(Some(BACK_ALIVE_BYTE), Some(channel.port()))?;
    Ok((page, channel))
}

impl Answers for Link {
    fn lend(&mut self, id: u64) {
        self.ring.record().lend(id);
    }

    #[inline]
    fn push(&mut self, response: &Response) {
        self.ring.push(response);
        self.unpublished += 1;
        if self.unpublished >= PUBLISH_EVERY {
            self.publish();
        }
    }
}

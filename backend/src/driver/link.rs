//! The connection to one front: its ring page, mapped, and its event channel.

use super::data::Answers;
use super::nodes::{BACK_LIVENESS, FrontNodes};
use libgnt::event::{Channel, Events};
use libgnt::grant::{Map, Mapper};
use libgnt::proto::blkif::{Request, Response, X86_64};
use libgnt::ring::{BackRing, RingError};
use libgnt::{Access, DomId, ForeignGrant, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Responses are shown to the front in groups, so that it can work while we do.
const PUBLISH_EVERY: u32 = 8;

/// One front's ring.
#[derive(Debug)]
pub(super) struct Link {
    ring: BackRing<X86_64>,
    /// Unmapped before the channel goes: its unmap raises the channel.
    page: Map,
    channel: Channel,
    liveness: Option<usize>,
    unpublished: u32,
    notify_failed: bool,
}

impl Link {
    /// Maps the ring, binds the channel, and arms the kernel's notice to the front for the case
    /// that this process dies.
    ///
    /// # Errors
    /// A reference or a port that is not the front's to name. Nothing is left behind.
    pub fn connect(
        mapper: &Mapper,
        events: &Events,
        front: DomId,
        nodes: &FrontNodes,
    ) -> Result<Self> {
        let grant = ForeignGrant {
            domid: front,
            gref: nodes.ring_ref,
        };
        let page = mapper.map(&[grant], Access::ReadWrite)?;
        let channel = events.bind_interdomain(front, nodes.event_channel)?;
        page.set_unmap_notify(Some(BACK_LIVENESS), Some(channel.port()))?;
        // The front looks at it when it sees us connected, which comes later, through xenstore.
        page.pages().store_u8(BACK_LIVENESS, 1, Ordering::Release);
        let ring = BackRing::attach(Arc::clone(page.pages()), X86_64);
        let liveness = nodes.liveness;
        Ok(Link {
            ring,
            page,
            channel,
            liveness,
            unpublished: 0,
            notify_failed: false,
        })
    }

    /// The local port.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// False when the kernel has cleared the front's byte: the process that granted is gone.
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
    pub fn pop(&mut self) -> std::result::Result<Option<Request>, RingError> {
        self.ring.pop()
    }

    /// Asks for an event at the next request; true: there is one already.
    ///
    /// # Errors
    /// As [`Link::pop`].
    pub fn final_check(&mut self) -> std::result::Result<bool, RingError> {
        self.ring.final_check()
    }

    /// Shows the front what was pushed, and wakes it if it sleeps.
    pub fn publish(&mut self) {
        self.unpublished = 0;
        if self.ring.publish()
            && let Err(error) = self.channel.notify()
            && !std::mem::replace(&mut self.notify_failed, true)
        {
            // The front's death shows elsewhere; anything else would be ours.
            tracing::warn!(%error, "cannot notify the front end");
        }
    }

    /// Lets the ring go: unmaps, then closes the channel.
    pub fn disconnect(self) {
        let Link {
            ring,
            page,
            channel,
            ..
        } = self;
        drop(ring);
        // The kernel's event was for our death. In good order we tell the front, and hear of the
        // page's release ourselves: somebody may hold it.
        if let Err(error) = page.set_unmap_notify(Some(BACK_LIVENESS), None) {
            tracing::debug!(%error, "the ring page's release is not told");
        }
        if let Err(refused) = page.unmap() {
            tracing::debug!(error = %refused, "the ring page is let go of later");
        }
        if let Err(error) = channel.notify() {
            tracing::debug!(%error, "the front end is not told that the ring is left");
        }
    }
}

impl Answers for Link {
    #[inline]
    fn push(&mut self, response: &Response) {
        self.ring.push(response);
        self.unpublished += 1;
        if self.unpublished >= PUBLISH_EVERY {
            self.publish();
        }
    }
}

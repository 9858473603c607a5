//! One connection to a back end: ring page, event channel and data pages.

mod bell;
mod pool;

pub(crate) use bell::Bell;
pub(crate) use pool::end_share;

use crate::config::FrontConfig;

use libgnt::event::Channel;
use libgnt::grant::{Granter, Share};
use libgnt::proto::blkif::nodes::{BACK_ALIVE_BYTE, FRONT_ALIVE_BYTE, FrontNodes};
use libgnt::proto::blkif::{MAX_SEGMENTS, X86_64};
use libgnt::ring::FrontRing;
use libgnt::{Access, DomId, GrantRef, Result};
use pool::Pool;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The least that makes a disk: the ring's page, and one request's pages each way.
pub(crate) const LEAST_PAGES: usize = 1 + 2 * MAX_SEGMENTS;

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ring: FrontRing<X86_64>,
    ring_share: Share,
    pub(crate) channel: Channel,
    pub(crate) pool: Pool,
    pub(crate) back: DomId,
    /// Before the connection: asked for by this side. After it: agreed.
    pub(crate) persistent: bool,
    /// The back end keeps its byte: zero means gone.
    watch_back: bool,
}

impl Link {
    /// A fresh ring page, event channel and pool for `back`, of at most `room` pages together.
    ///
    /// # Errors
    /// Grants, pages or event channels ran out: ENOSPC and ENOMEM may pass.
    pub(crate) fn prepare(
        config: &FrontConfig,
        granter: &Granter,
        bell: &Bell,
        back: DomId,
        room: usize,
    ) -> Result<Self> {
        let ring_share = granter.share(back, 1, Access::ReadWrite)?;
        let channel = bell.new_channel(back)?;
        let ring = FrontRing::new(Arc::clone(ring_share.pages()), X86_64);
        ring_share
            .pages()
            .store_u8(FRONT_ALIVE_BYTE, 1, Ordering::Release);
        // Alive until somebody clears it: the announcement may be left by an earlier back end, and
        // this one may know nothing of the byte.
        ring_share
            .pages()
            .store_u8(BACK_ALIVE_BYTE, 1, Ordering::Release);
        ring_share.set_unmap_notify(Some(FRONT_ALIVE_BYTE), Some(channel.port()))?;
        let persistent = config.persistent;
        let pages = config.pool_pages.min(room.saturating_sub(1));
        let pool = Pool::share(granter, back, pages, persistent)?;
        Ok(Link {
            ring,
            ring_share,
            channel,
            pool,
            back,
            persistent,
            watch_back: false,
        })
    }

    /// The ring page's grant, to be named in `ring-ref`.
    pub(crate) fn ring_grant(&self) -> GrantRef {
        self.ring_share.grefs()[0]
    }

    /// What the ring is announced with, in the front end's directory.
    pub(crate) fn nodes(&self) -> FrontNodes {
        FrontNodes {
            ring_ref: self.ring_grant(),
            event_channel: self.channel.port(),
            persistent: self.persistent,
            liveness: Some(FRONT_ALIVE_BYTE),
        }
    }

    /// Whether the back end, connected, offers persistent grants. Without its word each page is
    /// to be unmapped before the answer, though all were granted as for persistent ones.
    pub(crate) fn agree(&mut self, offered: bool) {
        self.persistent &= offered;
    }

    /// The connected back end's directory says that it keeps its byte. If that is clear now, the
    /// node is a leftover: an earlier back end wrote it, and this one knows nothing of the byte.
    pub(crate) fn watch_back(&mut self) {
        self.watch_back = self.back_byte() != 0;
    }

    fn back_byte(&self) -> u8 {
        // Partner: the kernel's own barriers between the end of a process and the clearing of its byte.
        self.ring_share
            .pages()
            .load_u8(BACK_ALIVE_BYTE, Ordering::Acquire)
    }

    /// False once the back end's mapping of the ring has begun to go.
    pub(crate) fn back_alive(&self) -> bool {
        !self.watch_back || self.back_byte() != 0
    }

    /// Ends access to everything; returns what the back end still maps.
    pub(crate) fn end(self) -> Vec<Share> {
        let Link {
            ring,
            ring_share,
            channel,
            pool,
            ..
        } = self;
        drop(ring);
        // Said by hand, since the page may stay granted for as long as the back end maps it.
        ring_share
            .pages()
            .store_u8(FRONT_ALIVE_BYTE, 0, Ordering::Release);
        if let Err(error) = channel.notify() {
            tracing::debug!(%error, "last notify");
        }
        let mut left = pool.end();
        left.extend(end_share(ring_share));
        left
    }
}

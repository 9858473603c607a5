//! One connection to a back end: ring page, event channel and data pages.

use crate::config::FrontConfig;
use crate::pool::{Pool, end_share};
use libgnt::event::{Channel, Events};
use libgnt::grant::{Granter, Retry, Share};
use libgnt::proto::blkif::X86_64;
use libgnt::ring::FrontRing;
use libgnt::{Access, DomId, GrantRef, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// In the ring page's reserved header bytes: 1 while the front end lives. Xen's own
/// `UNMAP_NOTIFY_CLEAR_BYTE` sets it to 0 when the page goes, whatever became of the process.
pub const FRONT_ALIVE_BYTE: usize = 62;
/// The back end's, cleared when its mapping of the ring page goes.
pub const BACK_ALIVE_BYTE: usize = 63;

#[derive(Debug)]
pub(crate) struct Live {
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

impl Live {
    /// A fresh ring page, event channel and pool for `back`. Waits at most `patience` for
    /// somebody else's quota to come free.
    ///
    /// # Errors
    /// Grants, pages or event channels ran out.
    pub(crate) fn prepare(
        config: &FrontConfig,
        granter: &Granter,
        events: &Events,
        back: DomId,
        patience: Duration,
    ) -> Result<Self> {
        let retry = Retry {
            deadline: patience,
            ..Retry::default()
        };
        let ring_share = granter.share_patiently(back, 1, Access::ReadWrite, retry)?;
        let channel = events.bind_unbound(back)?;
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
        let pool = Pool::share(granter, back, config.pool_pages, persistent, patience)?;
        Ok(Live {
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

    /// Whether the back end, connected, offers persistent grants. Without its word each page is
    /// to be unmapped before the answer, though all were granted as for persistent ones.
    pub(crate) fn agree(&mut self, offered: bool) {
        self.persistent &= offered;
    }

    /// The back end said that it keeps its byte.
    pub(crate) fn watch_back(&mut self) {
        self.watch_back = true;
    }

    /// False once the back end's mapping of the ring has begun to go.
    pub(crate) fn back_alive(&self) -> bool {
        // Pairs with nothing: the kernel clears the byte; what matters is to see it some time.
        let byte = || {
            self.ring_share
                .pages()
                .load_u8(BACK_ALIVE_BYTE, Ordering::Relaxed)
        };
        !self.watch_back || byte() != 0
    }

    /// Ends access to everything; returns what the back end still maps.
    pub(crate) fn end(self) -> Vec<Share> {
        let Live {
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

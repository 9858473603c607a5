//! Sharing pages of our own, and ending the peer's access honestly.

use super::ledger::{EntryId, EntryKind, Ledger};
use super::retry::Retry;
use crate::error::{Error, Result};
use crate::platform::{Gntalloc, Platform};
use crate::shm::SharedPages;
use crate::types::{
    Access, DomId, EvtchnPort, ForeignGrant, GrantRef, Grants, PAGE_SIZE, UnmapNotify,
};
use rustix::io::Errno;
use std::fmt;
use std::sync::Arc;

/// One open `/dev/xen/gntalloc`.
#[derive(Clone, Debug)]
pub struct Granter {
    shared: Arc<GranterShared>,
}

#[derive(Debug)]
struct GranterShared {
    platform: Arc<dyn Platform>,
    gntalloc: Box<dyn Gntalloc>,
    ledger: Ledger,
}

impl Granter {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::NotAvailable`].
    pub fn open(platform: Arc<dyn Platform>, ledger: Ledger) -> Result<Self> {
        let gntalloc = platform.open_gntalloc()?;
        Ok(Granter {
            shared: Arc::new(GranterShared {
                platform,
                gntalloc,
                ledger,
            }),
        })
    }

    /// Allocates zeroed pages and grants them to `peer`, who may map them from now on.
    ///
    /// # Errors
    /// ENOSPC: the machine's gntalloc quota or the grant table is used up (see
    /// [`Granter::share_patiently`]). ENOMEM.
    pub fn share(&self, peer: DomId, pages: usize, access: Access) -> Result<Share> {
        self.share_patiently(peer, pages, access, Retry::ONCE)
    }

    /// The same, retried while the quota is used up by somebody else.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it stayed so.
    pub fn share_patiently(
        &self,
        peer: DomId,
        pages: usize,
        access: Access,
        retry: Retry,
    ) -> Result<Share> {
        let gntalloc = &self.shared.gntalloc;
        let what = || format!("share {pages} pages with {peer}");
        let allocated = retry.run(what, &[Errno::NOSPC, Errno::NOMEM], || {
            gntalloc.alloc_gref(peer, pages, access)
        })?;
        let mapped = match gntalloc.mmap(allocated.index, pages) {
            Ok(mapped) => mapped,
            Err(error) => {
                gntalloc.dealloc_gref(allocated.index, pages)?;
                return Err(error);
            }
        };
        let grants: Arc<[ForeignGrant]> = allocated
            .grefs
            .iter()
            .map(|&gref| ForeignGrant { domid: peer, gref })
            .collect();
        let entry = self.shared.ledger.add(EntryKind::Granted, grants);
        Ok(Share {
            granted: Some((Arc::new(mapped), entry)),
            index: allocated.index,
            grefs: allocated.grefs,
            peer,
            shared: Arc::clone(&self.shared),
        })
    }
}

/// Pages of ours that a peer may map. Access ends on drop; the kernel keeps pages that the peer
/// still maps, and reuses neither them nor their references before it lets go.
pub struct Share {
    granted: Option<(Arc<SharedPages>, EntryId)>,
    index: u64,
    grefs: Vec<GrantRef>,
    peer: DomId,
    shared: Arc<GranterShared>,
}

impl Share {
    /// The pages, in our address space.
    pub fn pages(&self) -> &Arc<SharedPages> {
        // Only the end of access takes them, and that consumes the share.
        &self
            .granted
            .as_ref()
            .expect("a share that was not ended has its pages")
            .0
    }

    /// One reference a page, to be named to the peer.
    pub fn grefs(&self) -> &[GrantRef] {
        &self.grefs
    }

    /// To whom.
    pub fn peer(&self) -> DomId {
        self.peer
    }

    /// Arms the kernel's notice to the peer for when this share goes, death included.
    ///
    /// # Errors
    /// EINVAL: a port that is not open here.
    ///
    /// # Panics
    /// If the byte is outside the pages.
    pub fn set_unmap_notify(&self, byte: Option<usize>, event: Option<EvtchnPort>) -> Result<()> {
        let place = byte.unwrap_or(0);
        assert!(
            place < self.grefs.len() * PAGE_SIZE,
            "byte {place} is outside the pages"
        );
        let notify = UnmapNotify {
            clear_byte: byte.is_some(),
            send_event: event,
        };
        self.shared
            .gntalloc
            .set_unmap_notify(self.index + place as u64, notify)
    }

    /// Which of the references the peer still maps, where the platform can say.
    ///
    /// # Errors
    /// As [`Platform::grants_in_use`].
    pub fn in_use(&self) -> Result<Option<Vec<GrantRef>>> {
        self.shared.platform.grants_in_use(&self.grefs)
    }

    /// Ends the peer's access, if the peer has let go.
    ///
    /// # Errors
    /// [`EndAccessError`]: in use, with the share given back; or what the device says.
    pub fn end_access(mut self) -> Result<EndAccess, EndAccessError> {
        match self.in_use()? {
            Some(grefs) if !grefs.is_empty() => Err(EndAccessError::InUse { share: self, grefs }),
            known => {
                self.dealloc()?;
                Ok(if known.is_some() {
                    EndAccess::Ended
                } else {
                    EndAccess::Unobservable
                })
            }
        }
    }

    fn dealloc(&mut self) -> Result<()> {
        let Some((pages, entry)) = self.granted.take() else {
            return Ok(());
        };
        // Other owners of the pages in this process keep them: the run goes when the last one does.
        drop(pages);
        self.shared.ledger.remove(entry);
        self.shared
            .gntalloc
            .dealloc_gref(self.index, self.grefs.len())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Err(error) = self.dealloc() {
            tracing::debug!(%error, "end of access in drop");
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grants: Vec<_> = self
            .grefs
            .iter()
            .map(|&gref| ForeignGrant {
                domid: self.peer,
                gref,
            })
            .collect();
        write!(f, "Share({}, to {})", Grants(&grants), self.peer)
    }
}

/// The honest result of [`Share::end_access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndAccess {
    /// Nobody maps the pages: they and their references are free.
    Ended,
    /// A real kernel does not tell userspace. It ends the access now or, if the peer still maps,
    /// keeps pages and references aside until it lets go (gntalloc's deferred list), so nothing is
    /// reused early; only nobody can say when.
    Unobservable,
}

/// [`Share::end_access`] did not end it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndAccessError {
    /// The peer still has the pages: nothing was ended, nothing may be reused. Try again when the peer
    /// has said that it let go.
    #[error("{share:?}: the peer still maps {} of its pages; try again when it has let go", .grefs.len())]
    InUse {
        /// The share, untouched.
        share: Share,
        /// What the peer still maps.
        grefs: Vec<GrantRef>,
    },
    /// The device failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl EndAccessError {
    /// The share, if nothing was ended.
    pub fn into_share(self) -> Option<Share> {
        match self {
            EndAccessError::InUse { share, .. } => Some(share),
            EndAccessError::Failed(_) => None,
        }
    }
}

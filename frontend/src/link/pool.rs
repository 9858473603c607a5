//! The granted pages that data passes through. Fresh for each connection: a page that an earlier
//! back end may still map is in no pool.

use crate::machine::{PageList, PageNo};
use libgnt::grant::{EndAccessError, Granter, Share};
use libgnt::proto::blkif::MAX_SEGMENTS;
use libgnt::{Access, DomId, GrantRef, PAGE_SIZE, Result};
use rustix::io::Errno;

/// Pages allocated together. Small, so that a nearly used up quota still gives something.
const CHUNK_PAGES: usize = 16;

/// One connection's pages.
#[derive(Debug)]
pub(crate) struct Pool {
    shares: Vec<Share>,
    /// By page number: which share, and the byte offset in it.
    places: Vec<(u16, u32)>,
    read: Vec<GrantRef>,
    write: Option<Vec<GrantRef>>,
}

/// The pages for one direction, while they are being granted.
struct Half {
    access: Access,
    grants: Vec<GrantRef>,
    places: Vec<(u16, u32)>,
}

impl Half {
    fn new(access: Access) -> Self {
        Half {
            access,
            grants: Vec::new(),
            places: Vec::new(),
        }
    }
}

impl Pool {
    /// Grants `pages` to `peer`, or as many as the machine's quota gives, but enough for one
    /// request each way. All are writable if persistent grants may come of it (`persistent`), half
    /// of them if not.
    ///
    /// # Errors
    /// The quota has too little for that.
    pub(crate) fn share(
        granter: &Granter,
        peer: DomId,
        pages: usize,
        persistent: bool,
    ) -> Result<Self> {
        let mut pool = Pool {
            shares: Vec::new(),
            places: Vec::new(),
            read: Vec::new(),
            write: None,
        };
        let each = if persistent { pages } else { pages / 2 }.max(MAX_SEGMENTS);
        let mut halves = vec![Half::new(Access::ReadWrite)];
        if !persistent {
            halves.push(Half::new(Access::ReadOnly));
        }
        // First what each cannot do without, then more by turns, for as long as there is some.
        for half in &mut halves {
            pool.grow(granter, peer, half, MAX_SEGMENTS)?;
        }
        let mut is_used_up = false;
        while !is_used_up && halves.iter().any(|half| half.grants.len() < each) {
            for half in &mut halves {
                let count = (each - half.grants.len()).min(CHUNK_PAGES);
                match pool.grow(granter, peer, half, count) {
                    Err(error) if error.errno() == Some(Errno::NOSPC) => is_used_up = true,
                    other => other?,
                }
            }
        }
        // Pages are numbered through: those for reads first.
        for half in halves {
            pool.places.extend(half.places);
            match half.access {
                Access::ReadWrite => pool.read = half.grants,
                Access::ReadOnly => pool.write = Some(half.grants),
            }
        }
        if is_used_up {
            tracing::warn!(
                got = pool.places.len(),
                pages,
                "fewer pages than asked: gntalloc's quota is used up; raise xen_gntalloc.limit"
            );
        }
        Ok(pool)
    }

    /// Grants `count` pages more.
    fn grow(
        &mut self,
        granter: &Granter,
        peer: DomId,
        half: &mut Half,
        count: usize,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let share = granter.share(peer, count, half.access)?;
        let number = self.shares.len() as u16;
        half.places
            .extend((0..count).map(|n| (number, (n * PAGE_SIZE) as u32)));
        half.grants.extend_from_slice(share.grefs());
        self.shares.push(share);
        Ok(())
    }

    /// What the back end may write to.
    pub(crate) fn read_grants(&self) -> Vec<GrantRef> {
        self.read.clone()
    }

    /// What it may only read; `None` where persistent grants were asked for.
    pub(crate) fn write_grants(&self) -> Option<Vec<GrantRef>> {
        self.write.clone()
    }

    /// How many pages.
    pub(crate) fn pages(&self) -> usize {
        self.places.len()
    }

    fn place(&self, page: PageNo) -> (&Share, usize) {
        let (share, offset) = self.places[usize::from(page.0)];
        (&self.shares[usize::from(share)], offset as usize)
    }

    /// Copies data into pages, each full but the last.
    pub(crate) fn copy_in(&self, pages: &PageList, data: &[u8]) {
        for (&page, part) in pages.iter().zip(data.chunks(PAGE_SIZE)) {
            let (share, offset) = self.place(page);
            share.pages().write(offset, part);
        }
    }

    /// Copies data out of pages, once.
    pub(crate) fn copy_out(&self, pages: &PageList, data: &mut [u8]) {
        for (&page, part) in pages.iter().zip(data.chunks_mut(PAGE_SIZE)) {
            let (share, offset) = self.place(page);
            share.pages().read(offset, part);
        }
    }

    /// The grant of a page.
    pub(crate) fn grant(&self, page: PageNo) -> GrantRef {
        let (share, offset) = self.place(page);
        share.grefs()[offset / PAGE_SIZE]
    }

    /// Ends the peer's access; returns what it still maps.
    pub(crate) fn end(self) -> Vec<Share> {
        self.shares.into_iter().filter_map(end_share).collect()
    }
}

/// Ends access to one share, and gives it back if the peer still maps it.
pub(crate) fn end_share(share: Share) -> Option<Share> {
    match share.end_access() {
        Ok(_) => None,
        Err(EndAccessError::InUse { share, .. }) => Some(share),
        Err(error) => {
            tracing::warn!(%error, "end of access");
            None
        }
    }
}

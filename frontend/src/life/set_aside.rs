//! Pages of earlier connections that their back ends still map. They are granted, so they count
//! against the domain's limit, and are not reused: how many there may be is bounded.
//!
//! A real kernel tells nobody who maps (`EndAccess::Unobservable`) and keeps such pages itself, on
//! gntalloc's deferred list: nothing is ever set aside here then.

use crate::link::{LEAST_PAGES, end_share};
use libgnt::GrantRef;
use libgnt::grant::Share;
use std::time::{Duration, Instant};

/// How often to see whether an old back end has let go.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct SetAside {
    shares: Vec<Share>,
    /// Pages that all rings, old and new, may have together.
    limit: usize,
    /// Each look is a call to the platform for each share.
    next_look: Instant,
}

impl SetAside {
    /// For rings of up to `pages` pages each: the one in service, and as many again for what old
    /// back ends hold. That is 706 of gntalloc's 1024 with the usual pool, so that other devices
    /// have their minimum whatever this one's back end does.
    pub(crate) fn new(pages: usize) -> Self {
        SetAside {
            shares: Vec::new(),
            limit: 2 * pages.max(LEAST_PAGES),
            next_look: Instant::now(),
        }
    }

    pub(crate) fn add(&mut self, shares: Vec<Share>) {
        self.shares.extend(shares);
    }

    fn pages(&self) -> usize {
        self.shares.iter().map(|share| share.grefs().len()).sum()
    }

    /// How many pages a new ring may have in all.
    ///
    /// # Errors
    /// Too few for a ring; why, in words.
    pub(crate) fn room(&self) -> Result<usize, String> {
        let held = self.pages();
        match self.limit.saturating_sub(held) {
            room if room >= LEAST_PAGES => Ok(room),
            _ => Err(format!(
                "no new ring while earlier ones' {held} pages are set aside, of {} allowed: the \
                 back end still maps grants of connections that are over, for example {}; end \
                 whatever holds them there",
                self.limit,
                self.example(),
            )),
        }
    }

    fn example(&self) -> String {
        let in_use = |share: &Share| share.in_use().ok()??.first().copied();
        let grant = self.shares.iter().find_map(in_use);
        grant.map_or_else(|| "none any more".into(), |grant| grant.to_string())
    }

    /// When to look again.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        (!self.shares.is_empty()).then_some(self.next_look)
    }

    /// Ends access to what old back ends have let go of meanwhile, and names it.
    pub(crate) fn look(&mut self, now: Instant) -> Vec<Vec<GrantRef>> {
        let mut let_go = Vec::new();
        if now >= self.next_look {
            self.next_look = now + LOOK;
            for share in std::mem::take(&mut self.shares) {
                let grants = share.grefs().to_vec();
                match end_share(share) {
                    Some(share) => self.shares.push(share),
                    None => let_go.push(grants),
                }
            }
        }
        let_go
    }
}

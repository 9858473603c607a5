//! `pin` and `i915`: references of the simulated memory manager.

use super::{Export, Held, HoldError, HoldName, Holder, parts};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::wire::{HoldId, HoldKind};
use libgnt::{Platform, SharedPages};
use std::sync::Arc;

pub(super) struct Sim {
    name: HoldName,
    platform: Arc<dyn Platform>,
}

impl Sim {
    pub fn new(name: HoldName, platform: Arc<dyn Platform>) -> Sim {
        Sim { name, platform }
    }
}

fn manager(platform: &dyn Platform) -> libgnt::Result<&SimPlatform> {
    SimPlatform::of(platform).ok_or_else(|| {
        libgnt::Error::not_available(
            "the simulated memory manager",
            "this is a real kernel",
            "use --platform sim",
        )
    })
}

impl Holder for Sim {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let kind = match self.name {
            HoldName::I915 => HoldKind::I915,
            _ => HoldKind::Plain,
        };
        let hold = manager(&*self.platform)?.pin(pages, first, count, kind)?;
        Ok(Export::new(self.name, count, vec![hold.0], vec![]))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let ([], [hold]) = parts(export)?;
        let hold = HoldId(hold);
        let pages = manager(&*self.platform)?.attach(hold)?;
        Ok(Box::new(Pinned {
            platform: Arc::clone(&self.platform),
            hold: Some(hold),
            pages,
        }))
    }

    fn abandon(&self, words: &[u64]) -> Result<(), HoldError> {
        for word in words {
            manager(&*self.platform)?.release(HoldId(*word))?;
        }
        Ok(())
    }
}

struct Pinned {
    platform: Arc<dyn Platform>,
    hold: Option<HoldId>,
    pages: SharedPages,
}

impl Held for Pinned {
    fn see(&mut self) -> Result<Option<Vec<u8>>, HoldError> {
        let mut bytes = vec![0; self.pages.len()];
        self.pages.read(0, &mut bytes);
        Ok(Some(bytes))
    }

    fn release(mut self: Box<Self>) -> Result<(), HoldError> {
        match self.hold.take() {
            Some(hold) => Ok(manager(&*self.platform)?.release(hold)?),
            None => Ok(()),
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take()
            && let Err(error) = manager(&*self.platform).and_then(|m| m.release(hold))
        {
            tracing::debug!(%error, "a hold, dropped");
        }
    }
}

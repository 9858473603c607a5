//! Holds that go from one process to another.

use crate::holder::{Export, Held, HoldError, holder};
use crate::settings::HoldName;
use libgnt::{Platform, SharedPages};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// A hold to take over, as another process of the same machine needs to know it. It is good for as
/// long as the lender has the [`Export`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// How the pages are held.
    pub kind: HoldName,
    /// How many.
    pub pages: u32,
    /// What the kind needs to know on the other side.
    pub words: Vec<u64>,
    /// Where the descriptors can be opened.
    pub paths: Vec<String>,
}

impl Loan {
    /// Of an export of this process.
    pub fn of(export: &Export) -> Loan {
        let here = std::process::id();
        let path = |fd: &OwnedFd| format!("/proc/{here}/fd/{}", fd.as_raw_fd());
        Loan {
            kind: export.kind,
            pages: export.pages,
            words: export.words.clone(),
            paths: export.fds.iter().map(path).collect(),
        }
    }

    /// Takes it over.
    ///
    /// # Errors
    /// The holder's; [`HoldError::Broken`]: a descriptor cannot be opened.
    pub fn take(self, platform: &Arc<dyn Platform>) -> Result<Box<dyn Held>, HoldError> {
        let kind = self.kind;
        let open = |path: &String| {
            let file = std::fs::File::open(path);
            file.map(OwnedFd::from).map_err(|error| HoldError::Broken {
                kind,
                what: format!("{path}: {error}"),
            })
        };
        let export = Export {
            kind,
            pages: self.pages,
            words: self.words,
            fds: self.paths.iter().map(open).collect::<Result<_, _>>()?,
        };
        holder(kind, platform, false)?.import(export)
    }

    /// Names the hold in timelines, where it is the simulated Xen's.
    pub(super) fn number(&self) -> Option<u64> {
        let simulated = self.kind.is_simulated();
        simulated.then(|| self.words.first().copied()).flatten()
    }
}

/// Holds the first page, for somebody to take over.
pub(super) fn lend(
    platform: &Arc<dyn Platform>,
    pages: &SharedPages,
    kind: HoldName,
) -> Result<Export, HoldError> {
    holder(kind, platform, false)?.hold(pages, 0, 1)
}

//! A request under way.

use super::names::{MapKey, Slot, Tag};
use super::types::{Action, DataMode, DiskOp, Pages, RequestInfo};
use libgnt::proto::blkif::{MAX_SEGMENTS, Operation, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Mapping,
    CopyIn,
    Disk,
    CopyOut,
    Unmapping,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) mode: DataMode,
    pub(super) stage: Stage,
    pub(super) ok: bool,
    /// The front that asked is still there to be answered.
    pub(super) answerable: bool,
    /// Persistent: where each segment is; `None` for a page that could not be mapped.
    pub(super) slots: [Option<Slot>; MAX_SEGMENTS],
    /// Persistent: maps still to come.
    pub(super) awaited: usize,
}

impl Job {
    /// The disk's part of a read or a write.
    pub(super) fn disk(&self, tag: Tag) -> Action {
        Action::Disk {
            tag,
            op: match self.request.operation {
                Operation::Read => DiskOp::Read,
                _ => DiskOp::Write,
            },
            sector: self.request.sector,
            segments: self.request.segments,
            pages: match self.mode {
                DataMode::Map => Pages::Own,
                DataMode::Copy => Pages::Bounce,
                DataMode::Persistent => Pages::Kept(self.slots),
            },
        }
    }

    /// The end of its own mapping.
    pub(super) fn unmap(&self, tag: Tag) -> Action {
        Action::Unmap {
            key: MapKey::Request(tag),
            request: Some(RequestInfo {
                id: self.request.id,
                operation: self.request.operation,
                sector: self.request.sector,
                segments: self.request.segments,
                ok: self.ok,
            }),
        }
    }
}

//! The disk's part of a request.

use super::DataPath;
use crate::disk::pool::{Cause, Done, Fault, Work};
use crate::disk::{Piece, Store};
use crate::link::Answers;
use crate::machine::{DiskOp, Input, Pages, Tag};
use crate::observe::BackEventKind;
use libgnt::proto::blkif::{SECTOR_SIZE, Segment, Segments};
use std::sync::Arc;
use std::time::Duration;

impl DataPath {
    /// Performs disk work at once if it is memory; else queues it.
    pub(super) fn disk(
        &mut self,
        tag: Tag,
        op: DiskOp,
        sector: u64,
        segments: &Segments,
        pages: &Pages,
    ) -> Option<Input> {
        let failed = Some(Input::DiskDone { tag, ok: false });
        if *pages == Pages::Bounce && self.pages.bounce(tag).is_none() {
            return failed;
        }
        let mut at = sector * SECTOR_SIZE as u64;
        let Some(pool) = &self.pool else {
            let Store::Memory(memory) = &self.store else {
                return failed;
            };
            let each = |pages: &Arc<_>, offset, segment: &Segment| {
                memory.perform(op, pages, offset, segment.len(), at);
                at += segment.len() as u64;
            };
            let ok = self.pages.for_each_segment(tag, pages, segments, each);
            return Some(Input::DiskDone { tag, ok });
        };
        let mut pieces = Vec::with_capacity(segments.len());
        let each = |pages: &Arc<_>, offset, segment: &Segment| {
            let (pages, len) = (Arc::clone(pages), segment.len());
            Piece {
                pages,
                offset,
                len,
                at,
            }
            .append(&mut pieces);
            at += len as u64;
        };
        let found = self.pages.for_each_segment(tag, pages, segments, each);
        let token = tag.token();
        if found && pool.submit(Work { token, op, pieces }).is_ok() {
            return None;
        }
        tracing::error!(backing = %self.backing, "the disk's threads take no work");
        failed
    }

    /// Takes in what the disk's threads have done. True if there was something.
    pub fn disk_completions(&mut self, answers: &mut impl Answers) -> bool {
        let Some(pool) = &self.pool else { return false };
        let done: Vec<Done> = pool.drain().collect();
        let any = !done.is_empty();
        for Done { token, result } in done {
            let ok = result.is_ok();
            if let Err(fault) = result {
                self.tell_of(&fault);
            }
            let Some(tag) = Tag::from_token(token) else {
                continue;
            };
            self.feed(Input::DiskDone { tag, ok }, answers);
        }
        any
    }

    fn tell_of(&mut self, fault: &Fault) {
        let error = format!("{}: {fault}", self.backing);
        match fault.cause {
            // The flush that failed was told of.
            Cause::FlushFailed => {}
            // Comes once, and must not be missed.
            Cause::System(_) if fault.op == DiskOp::Flush => tracing::error!("{error}"),
            Cause::System(_) | Cause::Cut => {
                if let Some(missed) = self.disk_errors.may_speak() {
                    tracing::error!(
                        missed,
                        "{error}; the front got an error, the device goes on"
                    );
                }
            }
        }
        self.tell.tell(|| BackEventKind::DiskFailed { error });
    }

    /// Ends the disk's threads; waits for what they do, but not for ever.
    pub fn finish(mut self, patience: Duration) {
        if let Some(pool) = self.pool.take()
            && !pool.join(patience)
        {
            let backing = &self.backing;
            tracing::warn!("{backing}: what the disk is at is not waited for any longer");
        }
    }
}

//! What concerns the front's grants: mapped, copied from and to, unmapped.

use super::DataPath;
use crate::link::Answers;
use crate::machine::{Direction, Input, MapKey, RequestInfo, Tag};
use crate::observe::BackEventKind;
use crate::unmaps::Outgoing;
use libgnt::platform::{CopySegment, CopySide};
use libgnt::proto::blkif::{Segment, Segments};
use libgnt::types::GrantStatus;
use libgnt::{Access, ForeignGrant, PAGE_SIZE};
use std::sync::Arc;
use std::time::Instant;

impl DataPath {
    pub(super) fn map(
        &mut self,
        key: MapKey,
        access: Access,
        segments: &Segments,
    ) -> libgnt::Result<()> {
        self.grants.clear();
        let domid = self.front;
        let grefs = segments.iter().map(Segment::grant);
        self.grants
            .extend(grefs.map(|gref| ForeignGrant { domid, gref }));
        let began = Instant::now();
        let map = self.mapper.try_map(&self.grants, access)?;
        let pages = self.grants.len();
        self.tell.tell_each(|| BackEventKind::MapDone {
            pages,
            took: began.elapsed(),
        });
        self.pages.put(key, map);
        Ok(())
    }

    /// Of the grants that [`DataPath::map`] tried last.
    pub(super) fn map_failed(&mut self, access: Access, error: libgnt::Error) {
        let mut error = error;
        if let Some(missed) = self.peer_errors.may_speak() {
            // Which of them is bad takes many calls: not for each request that a front likes to send.
            error = self.mapper.explain(&self.grants, access, error);
            tracing::warn!(%error, missed, "a request's pages cannot be mapped");
        }
        self.tell.tell(|| BackEventKind::MapFailed {
            error: error.to_string(),
        });
    }

    pub(super) fn unmap(
        &mut self,
        key: MapKey,
        request: Option<&RequestInfo>,
        answers: &mut impl Answers,
    ) -> Option<Input> {
        let Some(map) = self.pages.take(key) else {
            debug_assert!(false, "{key:?} is not mapped");
            return None;
        };
        if let (Some(info), Some(lender)) = (request, &mut self.lender) {
            answers.lend(info.id);
            lender.lend(&map, info);
        }
        let id = request.map(|request| request.id);
        self.unmaps
            .begin(Outgoing::new(key, id, map), &mut self.tell)
    }

    pub(super) fn copy(
        &mut self,
        tag: Tag,
        direction: Direction,
        segments: &Segments,
    ) -> libgnt::Result<()> {
        let nothing = |what: &str| Err(libgnt::Error::Invalid(what.into()));
        let Some(local) = self.pages.bounce(tag).map(Arc::clone) else {
            return nothing("no memory to copy to");
        };
        let domid = self.front;
        let mut copies = Vec::with_capacity(segments.len());
        for (page, segment) in segments.iter().enumerate() {
            let (Ok(offset), Ok(len)) = (
                u16::try_from(segment.offset()),
                u16::try_from(segment.len()),
            ) else {
                return nothing("a segment that is no part of a page");
            };
            let ours = CopySide::Local {
                pages: &local,
                offset: page * PAGE_SIZE + segment.offset(),
            };
            let grant = ForeignGrant {
                domid,
                gref: segment.grant(),
            };
            let theirs = CopySide::Grant { grant, offset };
            let (source, dest) = match direction {
                Direction::FromFront => (theirs, ours),
                Direction::ToFront => (ours, theirs),
            };
            copies.push(CopySegment {
                source,
                dest,
                len,
                status: GrantStatus::GENERAL_ERROR,
            });
        }
        self.mapper.try_copy_all(&mut copies)
    }

    pub(super) fn copy_failed(&mut self, error: &libgnt::Error) {
        if let Some(missed) = self.peer_errors.may_speak() {
            tracing::warn!(%error, missed, "a request's pages cannot be copied");
        }
    }
}

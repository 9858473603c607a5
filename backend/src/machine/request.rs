//! The way of one request: judged, mapped or copied, done by the disk, unmapped, answered.

use super::job::{Job, Stage};
use super::{Action, BackMachine, BackSabotage, DataMode, Direction, DiskOp, MapKey, Pages, Tag};
use libgnt::Access;
use libgnt::proto::blkif::{MAX_SEGMENTS, Operation, Request, SECTOR_SIZE, Segments, Status};

impl BackMachine {
    /// True if the request's data is in place: its disk I/O succeeded.
    pub(super) fn is_ok(&self, tag: Tag) -> bool {
        self.jobs.get(tag.index()).is_some_and(|job| job.ok)
    }

    /// What a request deserves before any of its pages is touched.
    fn judge(&self, request: &Request) -> Result<(), Status> {
        match request.operation {
            Operation::Other(_) => return Err(Status::NotSupported),
            Operation::Malformed { .. } => return Err(Status::Error),
            Operation::Flush if request.segments.is_empty() => return Ok(()),
            // The codec lets none through. To acknowledge it would lose its data.
            Operation::Flush => return Err(Status::Error),
            Operation::Write if self.read_only => return Err(Status::Error),
            Operation::Read | Operation::Write => {}
        }
        let sectors = (request.data_len() / SECTOR_SIZE) as u64;
        let end = request.sector.checked_add(sectors);
        let inside = end.is_some_and(|end| end <= self.limits.sectors);
        if request.segments.is_empty()
            || (!inside && self.limits.sabotage != BackSabotage::NoRangeCheck)
        {
            return Err(Status::Error);
        }
        Ok(())
    }

    pub(super) fn take(&mut self, request: Request, out: &mut Vec<Action>) {
        if let Err(status) = self.judge(&request) {
            out.push(Action::Respond(request.response(status)));
            return;
        }
        self.in_flight += 1;
        self.active += 1;
        let entry = self.jobs.vacant_entry();
        let tag = Tag::from_index(entry.key());
        let job = entry.insert(Job {
            request,
            mode: self.mode,
            stage: Stage::Disk,
            ok: true,
            answerable: true,
            slots: [None; MAX_SEGMENTS],
            awaited: 0,
        });
        match (request.operation, self.mode) {
            (Operation::Flush, _) => out.push(Action::Disk {
                tag,
                op: DiskOp::Flush,
                // Its own is any number that the front likes.
                sector: 0,
                segments: Segments::default(),
                pages: Pages::Own,
            }),
            (_, DataMode::Map) => {
                job.stage = Stage::Mapping;
                out.push(Action::Map {
                    key: MapKey::Request(tag),
                    access: access_for(&request),
                    segments: request.segments,
                });
            }
            (Operation::Write, DataMode::Copy) => {
                job.stage = Stage::CopyIn;
                out.push(Action::Copy {
                    tag,
                    direction: Direction::FromFront,
                    segments: request.segments,
                });
            }
            (_, DataMode::Copy) => out.push(job.disk(tag)),
            (_, DataMode::Persistent) => {
                job.stage = Stage::Mapping;
                self.find_cached(tag, &request, out);
            }
        }
    }

    pub(super) fn mapped(&mut self, tag: Tag, out: &mut Vec<Action>) {
        self.start_disk(tag, out);
        if self.limits.sabotage == BackSabotage::UnmapDuringDisk
            && let Some(job) = self.jobs.get_mut(tag.index())
            && job.stage == Stage::Disk
        {
            job.stage = Stage::Unmapping;
            out.push(job.unmap(tag));
            self.active -= 1;
            self.zombies += 1;
        }
    }

    /// The pages are there. If the front is not, or some page is not, the disk is left alone.
    pub(super) fn start_disk(&mut self, tag: Tag, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        if !job.ok || !job.answerable {
            self.disk_over(tag, out);
            return;
        }
        job.stage = Stage::Disk;
        out.push(job.disk(tag));
    }

    pub(super) fn copied(&mut self, tag: Tag, ok: bool, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        job.ok &= ok;
        if job.stage == Stage::CopyIn {
            self.start_disk(tag, out);
        } else {
            let ok = job.ok;
            self.finish(tag, ok, out);
        }
    }

    pub(super) fn disk_done(&mut self, tag: Tag, ok: bool, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        job.ok &= ok;
        if job.stage != Stage::Disk {
            return; // Only a sabotaged machine comes here.
        }
        self.disk_over(tag, out);
    }

    fn disk_over(&mut self, tag: Tag, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(tag.index()) else {
            return;
        };
        let (ok, flush) = (job.ok, job.request.operation == Operation::Flush);
        match job.mode {
            _ if flush => self.finish(tag, ok, out),
            DataMode::Map => {
                job.stage = Stage::Unmapping;
                self.active -= 1;
                self.zombies += 1;
                if self.limits.sabotage == BackSabotage::RespondBeforeRelease {
                    let status = if ok { Status::Okay } else { Status::Error };
                    out.push(Action::Respond(job.request.response(status)));
                    job.answerable = false;
                    self.in_flight -= 1;
                }
                out.push(job.unmap(tag));
            }
            DataMode::Copy if ok && job.answerable && job.request.operation == Operation::Read => {
                job.stage = Stage::CopyOut;
                out.push(Action::Copy {
                    tag,
                    direction: Direction::ToFront,
                    segments: job.request.segments,
                });
            }
            DataMode::Copy | DataMode::Persistent => self.finish(tag, ok, out),
        }
    }

    /// Nothing of the request is outstanding: answer, and forget it.
    pub(super) fn finish(&mut self, tag: Tag, ok: bool, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.try_remove(tag.index()) else {
            return;
        };
        if job.stage != Stage::Unmapping {
            self.active -= 1;
        }
        for slot in job.slots.into_iter().flatten() {
            self.cache.release(slot);
            self.evict_if_draining(slot, out);
        }
        if job.answerable {
            self.in_flight -= 1;
            let status = if ok { Status::Okay } else { Status::Error };
            out.push(Action::Respond(job.request.response(status)));
            if self.limits.sabotage == BackSabotage::RespondTwice {
                out.push(Action::Respond(job.request.response(status)));
            }
        }
    }
}

fn access_for(request: &Request) -> Access {
    // A read from the disk writes to the front's pages.
    if request.operation == Operation::Read {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

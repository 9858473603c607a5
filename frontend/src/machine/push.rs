//! From the queue to the ring: a part of an I/O becomes a request with pages.

use super::table::InFlight;
use super::{Action, FrontMachine, FrontSabotage, IoOp, PageList, Phase, bytes};
use libgnt::proto::blkif::{self, SECTORS_PER_PAGE, Segment, Segments};

impl FrontMachine {
    /// Pushes what fits on the ring, oldest first. Reads and writes pass each other where one of
    /// them lacks pages; nothing passes a flush.
    pub(super) fn push(&mut self, out: &mut Vec<Action>) {
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        // Reads, writes: no more pages for this kind.
        let mut starved = [false; 2];
        let mut at = 0;
        while at < self.queue.len() && !self.table.is_full() && starved != [true; 2] {
            let part = self.queue[at];
            let Some(io) = self.ios.get_mut(part.io) else {
                self.queue.remove(at);
                continue;
            };
            let op = io.request.op;
            let (pages, sectors) = if op == IoOp::Flush {
                let writes_before = self.table.writes() > 0 || starved[1];
                if writes_before && self.sabotage != FrontSabotage::FlushOvertakes {
                    return;
                }
                (PageList::default(), 0)
            } else {
                let write = op == IoOp::Write;
                let kind = usize::from(write);
                if starved[kind] {
                    at += 1;
                    continue;
                }
                let most = up.pages.most(write) as u32 * u32::from(SECTORS_PER_PAGE);
                let sectors = part.sectors.min(most);
                let wanted = sectors.div_ceil(u32::from(SECTORS_PER_PAGE)) as usize;
                let Some(pages) = up.pages.take(write, wanted).filter(|_| sectors > 0) else {
                    starved[kind] = true;
                    at += 1;
                    continue;
                };
                (pages, sectors)
            };
            let Some(id) = self.table.next_id() else {
                return;
            };
            let mut left = sectors;
            let segments: Segments = (pages.iter())
                .map(|&page| {
                    let here = left.min(u32::from(SECTORS_PER_PAGE));
                    left -= here;
                    // `here` is 1 to 8: `wanted` counted only pages that get a sector.
                    let last_sector = (here.max(1) - 1) as u8;
                    Segment {
                        gref: up.pages.grant(page).0,
                        first_sector: 0,
                        last_sector,
                    }
                })
                .collect();
            let request = blkif::Request {
                operation: op.operation(),
                handle: up.handle,
                id,
                sector: io.request.sector + u64::from(part.first),
                segments,
            };
            let first = part.first;
            self.table.insert(InFlight {
                id,
                io: Some(part.io),
                op,
                pushed: 0,
                first,
                sectors,
                pages,
            });
            if self.sabotage == FrontSabotage::FreeAtPush {
                up.pages.give(&pages);
            }
            io.in_flight += 1;
            let (start, len) = (bytes(first), bytes(sectors));
            out.push(Action::Push {
                io: part.io,
                request,
                pages,
                start,
                len,
            });
            if sectors < part.sectors {
                let rest = &mut self.queue[at];
                rest.first += sectors;
                rest.sectors -= sectors;
            } else {
                io.queued -= 1;
                self.queue.remove(at);
            }
        }
    }
}

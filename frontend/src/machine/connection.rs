//! A back end comes, changes the disk's size, goes, or is given up.

use super::{
    Action, DeviceError, FrontMachine, FrontSabotage, IoError, IoKey, Pages, Part, Phase,
    ProtocolError, Session, Up,
};
use libgnt::machine::Now;

impl FrontMachine {
    /// A back end is connected, on a fresh ring and fresh pages. Deadlines start anew.
    pub(super) fn connected(&mut self, now: Now, session: Session, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        let disk = session.disk;
        self.table.reset(session.ring_slots);
        self.phase = Phase::Up(Box::new(Up {
            disk,
            handle: session.handle,
            pages: Pages::new(session.read_pages, session.write_pages),
        }));
        // The disk may have shrunk, or become read-only, meanwhile.
        let refused: Vec<(IoKey, IoError)> = (self.ios.iter())
            .filter_map(|(key, io)| Some((key, io.request.check(&disk).err()?)))
            .collect();
        for (key, error) in refused {
            self.end_early(key, error, out);
        }
        self.deadlines.clear();
        let mut pending: Vec<_> = self.ios.iter_mut().collect();
        pending.sort_unstable_by_key(|(_, io)| io.seq);
        for (key, io) in pending {
            io.since = now;
            let at = now.saturating_add(self.limits.deadline);
            self.deadlines.push_back((at, key, io.seq));
        }
    }

    /// The back end says that the disk has another size now. Requests on the ring are for it to
    /// answer; what is not there yet, and reaches past the new end, is refused.
    pub(super) fn resized(&mut self, sectors: u64, out: &mut Vec<Action>) {
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        up.disk.sectors = sectors;
        let disk = up.disk;
        let refused: Vec<(IoKey, IoError)> = (self.ios.iter())
            .filter(|(_, io)| io.queued > 0 || self.sabotage == FrontSabotage::RefuseOnTheRing)
            .filter_map(|(key, io)| Some((key, io.request.check(&disk).err()?)))
            .collect();
        for (key, error) in refused {
            self.refuse_rest(key, error);
            self.settle(key, out);
        }
    }

    /// The back end died or closed. What it had not answered is kept for the next one; pages and
    /// ring of this connection must not be used again.
    pub(super) fn back_gone(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Up(_)) {
            return;
        }
        self.phase = Phase::Down;
        let mut parts: Vec<(u64, Part)> = Vec::new();
        for flight in self.table.drain() {
            let Some(key) = flight.io else { continue };
            let Some(io) = self.ios.get_mut(key) else {
                continue;
            };
            io.in_flight -= 1;
            match self.sabotage {
                FrontSabotage::ForgetOnDeath => continue,
                FrontSabotage::AcknowledgeOnDeath => {
                    self.settle(key, out);
                    continue;
                }
                _ => {}
            }
            if io.error.is_some() {
                // It has failed already; doing the rest again helps nobody.
                self.settle(key, out);
                continue;
            }
            io.queued += 1;
            parts.push((
                io.seq,
                Part {
                    io: key,
                    first: flight.first,
                    sectors: flight.sectors,
                },
            ));
        }
        for part in self.queue.drain(..) {
            parts.extend(self.ios.get(part.io).map(|io| (io.seq, part)));
        }
        parts.sort_unstable_by_key(|(seq, part)| (*seq, part.first));
        if self.sabotage == FrontSabotage::ResendBackwards {
            parts.reverse();
        }
        self.queue.extend(parts.into_iter().map(|(_, part)| part));
    }

    /// No more waiting for a back end, or the caller closes: everything pending ends with `error`.
    pub(super) fn give_up(&mut self, error: DeviceError, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        self.phase = Phase::Failed(error.clone());
        self.queue.clear();
        self.deadlines.clear();
        // Their pages go back to no pool: the back end may still map them.
        drop(self.table.drain());
        let mut pending: Vec<_> = self.ios.iter().map(|(key, io)| (io.seq, key)).collect();
        pending.sort_unstable();
        self.ios.clear();
        let complete = |(_, io)| {
            let result = Err(IoError::Device(error.clone()));
            Action::Complete { io, result }
        };
        out.extend(pending.into_iter().map(complete));
    }

    pub(super) fn protocol_error(&mut self, error: ProtocolError, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Up(_)) {
            self.give_up(error.into(), out);
            out.push(Action::Fatal(error));
        }
    }
}

//! Responses, deadlines, and how an I/O ends.

use super::io::outcome;
use super::{
    Action, FrontMachine, FrontSabotage, IoError, IoKey, IoOp, Phase, ProtocolError, WaitsFor,
    bytes,
};
use libgnt::GrantRef;
use libgnt::machine::Now;
use libgnt::proto::blkif;

impl FrontMachine {
    /// A response. `still_mapped` names one of the request's grants that the back end is seen to
    /// map still, where that can be seen and grants are not persistent.
    pub(super) fn response(
        &mut self,
        response: &blkif::Response,
        still_mapped: Option<GrantRef>,
        out: &mut Vec<Action>,
    ) {
        let Phase::Up(up) = &mut self.phase else {
            return;
        };
        let flight = match self.table.answer(response) {
            Ok(flight) => flight,
            Err(error) => return self.protocol_error(error, out),
        };
        if let Some(grant) = still_mapped
            && self.sabotage != FrontSabotage::IgnoreStillMapped
        {
            return self.protocol_error(
                ProtocolError::StillMapped {
                    id: response.id,
                    grant,
                },
                out,
            );
        }
        if self.sabotage != FrontSabotage::FreeAtPush {
            up.pages.give(&flight.pages);
        }
        let io = flight.io.and_then(|key| self.ios.get_mut(key));
        if let (Some(key), Some(io)) = (flight.io, io) {
            io.in_flight -= 1;
            match outcome(&io.request, response.status) {
                Ok(()) if flight.op == IoOp::Read && io.error.is_none() => {
                    out.push(Action::CopyOut {
                        io: key,
                        pages: flight.pages,
                        start: bytes(flight.first),
                        len: bytes(flight.sectors),
                    });
                }
                Ok(()) => {}
                Err(error) => {
                    if error == IoError::FlushNotSupported {
                        up.disk.flush = false;
                    }
                    self.refuse_rest(key, error);
                }
            }
        }
        out.push(Action::Released {
            id: response.id,
            pages: flight.pages,
        });
        if let Some(key) = flight.io {
            self.settle(key, out);
        }
    }

    /// An I/O has failed: nothing more of it goes on the ring.
    pub(super) fn refuse_rest(&mut self, key: IoKey, error: IoError) {
        let Some(io) = self.ios.get_mut(key) else {
            return;
        };
        io.error.get_or_insert(error);
        if io.queued > 0 {
            io.queued = 0;
            self.queue.retain(|part| part.io != key);
        }
    }

    /// Completes an I/O that nothing is left of.
    pub(super) fn settle(&mut self, key: IoKey, out: &mut Vec<Action>) {
        let Some(io) = self.ios.get(key) else {
            return;
        };
        let done = io.in_flight == 0 && io.queued == 0;
        if !done && self.sabotage == FrontSabotage::CompleteEarly {
            self.queue.retain(|part| part.io != key);
            self.table.orphan(key);
        } else if !done {
            return;
        }
        if let Some(io) = self.ios.remove(key) {
            self.forget_deadlines();
            let result = io.error.map_or(Ok(()), Err);
            out.push(Action::Complete { io: key, result });
        }
    }

    /// Completes an I/O whatever is left of it. Its pages stay with the back end until it answers.
    pub(super) fn end_early(&mut self, key: IoKey, error: IoError, out: &mut Vec<Action>) {
        if self.ios.remove(key).is_some() {
            self.forget_deadlines();
            self.queue.retain(|part| part.io != key);
            self.table.orphan(key);
            out.push(Action::Complete {
                io: key,
                result: Err(error),
            });
        }
    }

    /// Keeps the promise about the first of the deadlines.
    fn forget_deadlines(&mut self) {
        while let Some(&(_, key, seq)) = self.deadlines.front() {
            if self.ios.get(key).is_some_and(|io| io.seq == seq) {
                return;
            }
            self.deadlines.pop_front();
        }
    }

    /// Ends the I/Os whose deadline has passed, saying what they waited for.
    pub(super) fn tick(&mut self, now: Now, out: &mut Vec<Action>) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, key, _)) = self.deadlines.pop_front() else {
                return;
            };
            let Some(io) = self.ios.get(key) else {
                continue;
            };
            let error = IoError::TimedOut {
                io: io.request,
                waited: now.saturating_sub(io.since),
                waits_for: self.waits_for(key),
            };
            self.end_early(key, error, out);
        }
    }

    /// What an I/O waits for.
    fn waits_for(&self, key: IoKey) -> WaitsFor {
        match self
            .table
            .iter()
            .filter(|f| f.io == Some(key))
            .min_by_key(|f| f.first)
        {
            Some(flight) => WaitsFor::Response {
                id: flight.id,
                grants: self.grants_of(flight.id),
            },
            None => WaitsFor::Room {
                in_flight: self.table.in_flight(),
                oldest: self.table.oldest(),
            },
        }
    }
}

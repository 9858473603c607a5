//! An actor's next step, done: the calls that it makes, and what they come to.

use super::state::{CONSUMERS, Driven, GRANTER, MAPPER, Next, State};
use libgnt::grant::unmap;
use libgnt::machine::Machine;
use libgnt::sim::core::{Action, ConnId, Input};
use libgnt::sim::wire::{Reply, Request, SimError};
use libgnt::types::UnmapNotify;

impl Driven {
    fn conn(&self, actor: usize) -> ConnId {
        match actor {
            MAPPER => self.setup.mapper,
            GRANTER => self.setup.granter,
            consumer => self.setup.consumers[consumer - CONSUMERS].0,
        }
    }

    pub(super) fn feed(&self, state: &mut State, input: Input) {
        let mut outputs = Vec::new();
        state.machine.step(state.now, input, &mut outputs);
        let mut more = Vec::new();
        for output in outputs {
            match output {
                Action::Reply { tag, result, .. } => self.answered(state, tag, result),
                Action::Raise { file, port } if file == self.setup.evtchn => {
                    let heard = self.setup.maps.iter().position(|map| map.heard == port);
                    if let Some(map) = heard {
                        state.events[map] = true;
                    }
                }
                // No copy is running: the host reports so at once.
                Action::RevokeCopy { domid, gref, .. } => {
                    more.push(Input::CopyDrained { domid, gref });
                }
                Action::Deadlock(_) => self.breaks(state, "no-cycle"),
                _ => {}
            }
        }
        for input in more {
            self.feed(state, input);
        }
    }

    fn ask(&self, state: &mut State, actor: usize, conn: ConnId, request: Request) {
        state.last_tag += 1;
        let tag = Some(state.last_tag);
        state.pending[actor] = tag;
        self.feed(state, Input::Request { conn, tag, request });
    }

    fn answered(&self, state: &mut State, tag: u64, result: Result<Reply, SimError>) {
        let Some(actor) = state
            .pending
            .iter()
            .position(|pending| *pending == Some(tag))
        else {
            return self.breaks(state, "answers");
        };
        state.pending[actor] = None;
        let next = self.next(actor, state.at[actor]);
        let ok = result.is_ok();
        match (next, result) {
            (Next::Unmap { map, part }, _) if part != 1 || map != 0 => {
                // munmap of two pages is one action of the machine.
                let done = state.to_do[map].take();
                let done = done.map(|action| unmap::Input::Done { action, ok });
                done.into_iter().for_each(|input| drive(state, map, input));
            }
            (Next::Pin, Ok(Reply::Hold { hold })) => {
                state.holds[actor - CONSUMERS] = Some(hold);
            }
            // The pages or the hold are gone: the consumer has nothing to do.
            (Next::Pin | Next::Attach, Err(_)) => {
                state.holds[actor - CONSUMERS] = None;
                state.at[actor] = 2;
            }
            (Next::Release, _) => state.holds[actor - CONSUMERS] = None,
            _ => {}
        }
        state.at[actor] += 1;
    }

    pub(super) fn step(&self, state: &mut State, actor: usize) {
        let conn = self.conn(actor);
        match self.next(actor, state.at[actor]) {
            Next::Unmap { map, part } => {
                let of = &self.setup.maps[map];
                if part == 0 {
                    drive(state, map, unmap::Input::Begin { notice: true });
                }
                let request = match state.to_do[map] {
                    Some(unmap::Action::ArmNotice) => Request::SetUnmapNotify {
                        file: self.setup.gntdev,
                        offset: of.index,
                        notify: UnmapNotify {
                            clear_byte: true,
                            send_event: Some(of.notified),
                        },
                    },
                    Some(unmap::Action::Munmap) => Request::Munmap {
                        vma: of.vma,
                        first_page: u32::from(part == 2),
                        pages: 1,
                    },
                    _ => Request::UnmapGrantRef {
                        file: self.setup.gntdev,
                        index: of.index,
                        pages: of.pages,
                    },
                };
                self.ask(state, actor, conn, request);
            }
            Next::AwaitRelease => state.at[actor] += 1,
            Next::Dealloc { map } => {
                let of = &self.setup.maps[map];
                let request = Request::DeallocGref {
                    file: self.setup.gntalloc,
                    index: of.alloc,
                    pages: of.pages,
                };
                self.ask(state, actor, conn, request);
            }
            Next::AllocTooMuch => {
                let request = self.setup.one_page_more();
                self.ask(state, actor, conn, request);
            }
            Next::Pin => {
                let (_, map, page, kind) = self.setup.consumers[actor - CONSUMERS];
                let request = Request::Pin {
                    vma: self.setup.maps[map].vma,
                    first_page: page,
                    pages: 1,
                    kind,
                };
                self.ask(state, actor, self.setup.mapper, request);
            }
            Next::Attach | Next::Release => {
                let attach = self.next(actor, state.at[actor]) == Next::Attach;
                match state.holds[actor - CONSUMERS] {
                    Some(hold) if attach => {
                        self.ask(state, actor, conn, Request::HoldAttach { hold });
                    }
                    Some(hold) => self.ask(state, actor, conn, Request::HoldRelease { hold }),
                    None => state.at[actor] += 1,
                }
            }
            Next::Exit => self.dies(state, actor),
        }
    }

    pub(super) fn dies(&self, state: &mut State, actor: usize) {
        state.gone |= 1 << actor;
        state.pending[actor] = None;
        if actor >= CONSUMERS {
            let hold = state.holds[actor - CONSUMERS].take();
            let attached = self.next(actor, state.at[actor]) != Next::Attach;
            state.untaken[actor - CONSUMERS] = hold.filter(|_| !attached);
        }
        let conn = self.conn(actor);
        self.feed(state, Input::Disconnected { conn });
    }
}

/// One step of a map's unmap. What it wants done is done in a later move.
pub(super) fn drive(state: &mut State, map: usize, input: unmap::Input) {
    let mut actions = Vec::new();
    state.unmaps[map].step(state.now, input, &mut actions);
    for action in actions {
        match action {
            unmap::Action::ArmNotice | unmap::Action::Munmap | unmap::Action::GiveBack => {
                state.to_do[map] = Some(action);
            }
            // The mapper looks at the state.
            unmap::Action::ForgetNotice | unmap::Action::Released => {}
        }
    }
}

//! The moves that are possible, what each does, and how people read it.

use super::perform::drive;
use super::state::{CONSUMERS, Driven, LAWS, MAPPER, Next, State};
use crate::setup::MAPS;
use crate::subject::{Move, Subject};
use libgnt::grant::unmap::{self, UnmapMachine};
use libgnt::machine::Now;
use libgnt::sim::core::Input;
use libgnt::sim::wire::{HoldKind, Request};

/// The ways of a move: an actor's next step, its death, an event's arrival; and the timer is an
/// actor of its own.
const GO: u8 = 0;
const DIE: u8 = 1;
const TAKE_BACK: u8 = 2;
const HEAR: u8 = 3;

impl Subject for Driven {
    type State = State;

    fn start(&self) -> State {
        let mut state = State {
            machine: self.setup.machine.clone(),
            now: Now::ZERO,
            at: [0; 6],
            gone: 0,
            deaths: self.deaths,
            unmaps: [UnmapMachine::new(); MAPS],
            to_do: [None; MAPS],
            events: [false; MAPS],
            holds: [None; 4],
            untaken: [None; 4],
            pending: [None; 6],
            broken: 0,
            why: None,
            crashed: false,
            last_tag: self.setup.last_tag,
            print: 0,
        };
        state.print = state.machine.fingerprint();
        state
    }

    fn moves(&self, state: &State, moves: &mut Vec<Move>) {
        if state.crashed {
            return;
        }
        let mut add = |actor: usize, at: u8, way: u8| {
            moves.push(Move {
                actor: actor as u8,
                at,
                way,
            });
        };
        for actor in 0..self.count() {
            let at = state.at[actor];
            if self.ready(state, actor) {
                add(actor, at, GO);
            }
            let exits = self.next(actor, at) == Next::Exit;
            if state.deaths > 0 && !self.gone(state, actor) && !exits {
                add(actor, at, DIE);
            }
        }
        for (map, event) in state.events.iter().enumerate() {
            if *event && !self.gone(state, MAPPER) {
                add(MAPPER, state.at[MAPPER], HEAR + map as u8);
            }
        }
        let untaken = state.untaken.iter().any(Option::is_some);
        if untaken && !self.gone(state, MAPPER) && state.pending[MAPPER].is_none() {
            add(MAPPER, state.at[MAPPER], TAKE_BACK);
        }
        if state.machine.next_timer().is_some() {
            add(self.count(), 0, GO);
        }
    }

    fn make(&self, last: &State, step: Move) -> State {
        let mut state = last.clone();
        let actor = usize::from(step.actor);
        if actor == self.count() {
            state.now = state
                .machine
                .next_timer()
                .unwrap_or(state.now)
                .max(state.now);
            self.feed(&mut state, Input::Timer);
        } else {
            match step.way {
                GO => self.step(&mut state, actor),
                DIE => {
                    state.deaths -= 1;
                    self.dies(&mut state, actor);
                }
                TAKE_BACK => {
                    let holds = std::mem::take(&mut state.untaken);
                    for hold in holds.into_iter().flatten() {
                        let input = Input::Request {
                            conn: self.setup.mapper,
                            tag: None,
                            request: Request::HoldRelease { hold },
                        };
                        self.feed(&mut state, input);
                    }
                }
                heard => {
                    let map = usize::from(heard - HEAR);
                    state.events[map] = false;
                    drive(&mut state, map, unmap::Input::Event);
                }
            }
        }
        self.judge(&mut state);
        state.print = state.machine.fingerprint();
        state
    }

    fn is_end(&self, state: &State) -> bool {
        let all = (0..self.count()).all(|actor| self.gone(state, actor));
        state.crashed || (all && state.machine.next_timer().is_none())
    }

    fn leaked(&self, state: &State) -> Option<String> {
        if state.crashed || !self.is_end(state) {
            return None;
        }
        let left = state.machine.inspect(state.now);
        if !left.grants.is_empty() || left.gntalloc_pages != 0 {
            Some("grants are left".into())
        } else if !left.unmapping.is_empty() {
            Some("an unmap is left".into())
        } else if !left.holders.is_empty() {
            Some("references are left".into())
        } else {
            (left.event_channels != 0).then(|| "event channels are left".into())
        }
    }

    fn laws(&self) -> Vec<(&'static str, &'static str)> {
        LAWS.to_vec()
    }

    fn broken(&self, state: &State) -> u16 {
        state.broken
    }

    fn actors(&self) -> Vec<String> {
        let consumers = self.setup.consumers.iter().enumerate();
        let mut names = vec!["mapper".to_owned(), "granter".to_owned()];
        names.extend(consumers.map(|(i, (.., kind))| match kind {
            HoldKind::I915 => format!("i915 {}", i + 1),
            HoldKind::Plain => format!("consumer {}", i + 1),
        }));
        names.push("timer".into());
        names
    }

    fn describe(&self, last: &State, step: Move) -> String {
        let said = self.label(step);
        let actor = usize::from(step.actor);
        let said = said
            .split_once(": ")
            .map_or(said.clone(), |(_, what)| what.to_owned());
        let next = self.make(last, step);
        let blocked = actor < self.count() && next.pending[actor].is_some();
        match (&next.why, blocked) {
            (Some(why), _) => format!("{said}; {why}"),
            (None, true) => format!("{said}: blocked"),
            (None, false) => said,
        }
    }

    fn label(&self, step: Move) -> String {
        let actor = usize::from(step.actor);
        let name = self.actors().swap_remove(actor);
        if actor == self.count() {
            return format!("{name}: retries what is due");
        }
        let what = match (step.way, self.next(actor, step.at)) {
            (DIE, _) => "dies".to_owned(),
            (TAKE_BACK, _) => "lets go of what a dead consumer did not take".to_owned(),
            (heard, _) if heard >= HEAR => format!("hears map {}'s event", heard - HEAR),
            (_, Next::Unmap { map, part }) => match part {
                0 => format!("arms map {map}'s notice"),
                3 => format!("gives map {map} back (UNMAP_GRANT_REF)"),
                part => format!("munmaps map {map}, page {}", u8::from(part == 2)),
            },
            (_, Next::AwaitRelease) => "knows both maps released".into(),
            (_, Next::Dealloc { map }) => format!("takes map {map}'s pages back"),
            (_, Next::AllocTooMuch) => "asks for one page above the quota".into(),
            (_, Next::Pin) => "has its page pinned".into(),
            (_, Next::Attach) => "takes the reference over".into(),
            (_, Next::Release) => "lets go of its page".into(),
            (_, Next::Exit) => "exits".into(),
        };
        format!("{name}: {what}")
    }

    fn held(&self, state: &State, actor: usize) -> Vec<String> {
        let consumer = actor.checked_sub(CONSUMERS);
        let held = consumer.is_some_and(|c| state.holds.get(c).is_some_and(Option::is_some));
        match (held, actor == MAPPER && state.pending[MAPPER].is_some()) {
            (true, _) => vec!["a page".into()],
            (_, true) if self.setup.notifier => vec!["an invalidation".into()],
            (_, true) => vec!["the map's last use".into()],
            _ => Vec::new(),
        }
    }

    fn waits(&self, state: &State, actor: usize) -> Option<(String, Vec<usize>)> {
        if actor >= self.count() || state.crashed || self.gone(state, actor) {
            return None;
        }
        let holders = || {
            (CONSUMERS..self.count())
                .filter(|c| state.holds[c - CONSUMERS].is_some())
                .collect()
        };
        match (state.pending[actor], self.next(actor, state.at[actor])) {
            (Some(_), Next::Release) => Some(("the invalidation to end".into(), vec![MAPPER])),
            (Some(_), _) => Some(("the page references to go".into(), holders())),
            (None, Next::AwaitRelease) if !self.released(state) => {
                Some(("both maps to be released".into(), holders()))
            }
            _ => None,
        }
    }

    fn print(&self, state: &State) -> String {
        format!("{:#?}", state.machine.inspect(state.now))
    }
}

//! libgnt's own state machines as a subject: the simulated kernels and hypervisor
//! ([`libgnt::sim::core::Xen`]) and the mapper's unmap ([`libgnt::grant::UnmapMachine`]), as
//! they are in production, in all interleavings of a small configuration: two maps, one of them
//! unmapped in parts, consumers that hold their pages, a granter that wants them back, timers
//! that come at any moment, and a process that dies at any step.
//!
//! A consumer that dies between having its page pinned and taking the reference over leaves that
//! reference to the mapper, who must let go of it: without that step, the checker finds that a
//! mapper waits for ever for itself.

use super::setup::{MAPS, Setup};
use super::subject::{Move, Subject};
use libgnt::grant::unmap::{self, UnmapMachine, UnmapState};
use libgnt::machine::{Machine, Now};
use libgnt::sim::core::{Action, Config, ConnId, Input, Xen};
use libgnt::sim::wire::{HoldId, HoldKind, Reply, Request, SimError};
use libgnt::types::UnmapNotify;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

/// The laws. Letters are those of S0; the machine's own check speaks of them.
const LAWS: &[(&str, &str)] = &[
    ("a", "no asynchronous unmap waits for page references"),
    ("b", "each handle is unmapped exactly once"),
    ("c", "a map is not freed while its work is pending"),
    (
        "d",
        "the hypervisor unmaps only with no outside reference left",
    ),
    (
        "e",
        "the granter reuses a page only after the grant's in-use bits are clear",
    ),
    ("f", "a map is never mapped again while grants live"),
    ("h", "one work item per range in flight"),
    ("books", "the machine's tables agree with each other"),
    (
        "released",
        "what the mapper takes for released, the hypervisor has unmapped",
    ),
    ("no-cycle", "nobody waits in a cycle"),
    ("answers", "every request is answered at most once"),
];

const MAPPER: usize = 0;
const GRANTER: usize = 1;
const CONSUMERS: usize = 2;

/// The configuration to explore.
pub struct Driven {
    setup: Setup,
    /// How many processes may die before their time.
    deaths: u8,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct State {
    machine: Xen,
    now: Now,
    at: [u8; 6],
    gone: u8,
    deaths: u8,
    unmaps: [UnmapMachine; MAPS],
    /// What each of them wants done; follows from where it stands.
    to_do: [Option<unmap::Action>; MAPS],
    /// Events on their way to the mapper.
    events: [bool; MAPS],
    holds: [Option<HoldId>; 4],
    /// References made for consumers that died before they took them over: the mapper's still.
    untaken: [Option<HoldId>; 4],
    /// The call that each actor is blocked in.
    pending: [Option<u64>; 6],
    broken: u16,
    why: Option<String>,
    crashed: bool,
    last_tag: u64,
    print: u64,
}

impl State {
    /// What tells states apart: no times, no numbers of requests.
    fn key(&self) -> impl Hash + PartialEq + use<> {
        let blocked = self.pending.map(|tag| tag.is_some());
        let held = self.holds.map(|hold| hold.is_some());
        let untaken = self.untaken.map(|hold| hold.is_some());
        let flags = (
            self.events,
            held,
            untaken,
            blocked,
            self.broken,
            self.crashed,
        );
        (
            self.print,
            self.at,
            self.gone,
            self.deaths,
            self.unmaps,
            flags,
        )
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

/// An actor's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The mapper does what its unmap machine says, for this map; munmap page by page.
    Unmap {
        map: usize,
        part: u8,
    },
    /// It waits until both are released.
    AwaitRelease,
    /// The granter ends access to this map's pages.
    Dealloc {
        map: usize,
    },
    /// One page more than the quota allows.
    AllocTooMuch,
    /// A consumer's pages are pinned, handed over, let go.
    Pin,
    Attach,
    Release,
    Exit,
}

impl Driven {
    /// A machine with this configuration, and so many consumers.
    pub fn new(config: Config, consumers: usize, deaths: u8) -> Driven {
        Driven {
            setup: Setup::new(config, consumers.min(3)),
            deaths,
        }
    }

    fn count(&self) -> usize {
        CONSUMERS + self.setup.consumers.len()
    }

    fn next(&self, actor: usize, at: u8) -> Next {
        let steps: &[Next] = match actor {
            MAPPER => &[
                Next::Unmap { map: 0, part: 0 },
                Next::Unmap { map: 0, part: 1 },
                Next::Unmap { map: 0, part: 2 },
                Next::Unmap { map: 0, part: 3 },
                Next::Unmap { map: 1, part: 0 },
                Next::Unmap { map: 1, part: 1 },
                Next::Unmap { map: 1, part: 3 },
                Next::AwaitRelease,
                Next::Exit,
            ],
            GRANTER => &[
                Next::AllocTooMuch,
                Next::Dealloc { map: 0 },
                Next::Dealloc { map: 1 },
                Next::Exit,
            ],
            _ => &[Next::Pin, Next::Attach, Next::Release, Next::Exit],
        };
        steps.get(usize::from(at)).copied().unwrap_or(Next::Exit)
    }

    fn gone(&self, state: &State, actor: usize) -> bool {
        state.gone & (1 << actor) != 0
    }

    fn released(&self, state: &State) -> bool {
        state
            .unmaps
            .iter()
            .all(|unmap| unmap.state() == UnmapState::Released)
    }

    /// Can this actor make its next step?
    fn ready(&self, state: &State, actor: usize) -> bool {
        if self.gone(state, actor) || state.pending[actor].is_some() {
            return false;
        }
        match self.next(actor, state.at[actor]) {
            Next::AwaitRelease => self.released(state),
            // The mapper makes the reference for the consumer.
            Next::Pin => state.pending[MAPPER].is_none(),
            _ => true,
        }
    }

    fn conn(&self, actor: usize) -> ConnId {
        match actor {
            MAPPER => self.setup.mapper,
            GRANTER => self.setup.granter,
            consumer => self.setup.consumers[consumer - CONSUMERS].0,
        }
    }

    fn feed(&self, state: &mut State, input: Input) {
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
            (Next::Unmap { map, part }, _) => {
                // munmap of two pages is one action of the machine.
                if part != 1 || map != 0 {
                    let done = state.to_do[map].take();
                    let done = done.map(|action| unmap::Input::Done { action, ok });
                    done.into_iter().for_each(|input| drive(state, map, input));
                }
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

    fn step(&self, state: &mut State, actor: usize) {
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

    fn dies(&self, state: &mut State, actor: usize) {
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

    fn breaks(&self, state: &mut State, law: &str) {
        if let Some(at) = LAWS.iter().position(|(key, _)| *key == law) {
            state.broken |= 1 << at;
        }
    }

    /// After each step: the machine's own check, and what can be seen from outside.
    fn judge(&self, state: &mut State) {
        if let Err(why) = state.machine.check() {
            let letter = why.strip_prefix('(').and_then(|rest| rest.get(..1));
            let law = letter.filter(|l| LAWS.iter().any(|(key, _)| key == l));
            self.breaks(state, law.unwrap_or("books"));
            state.why = Some(why);
            state.crashed = true;
            return;
        }
        let asynchronous = self.setup.asynchronous;
        if asynchronous && state.pending[MAPPER].is_some() {
            self.breaks(state, "a");
        }
        let mapped: BTreeMap<_, u32> = (state.machine.inspect(state.now).grants.iter())
            .map(|grant| (grant.grant, grant.maps))
            .collect();
        for (unmap, map) in state.unmaps.iter().zip(&self.setup.maps) {
            let still = map
                .grants
                .iter()
                .any(|g| mapped.get(g).is_some_and(|maps| *maps > 0));
            if unmap.state() == UnmapState::Released && still {
                state.why = Some(format!("{:?} are still mapped", map.grants));
                state.crashed = true;
            }
        }
        if state.crashed {
            self.breaks(state, "released");
        }
    }
}

/// One step of a map's unmap. What it wants done is done in a later move.
fn drive(state: &mut State, map: usize, input: unmap::Input) {
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
            (_, true) => vec!["an invalidation".into()],
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

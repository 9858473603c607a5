//! The configuration, where everything is, and what each actor does next.

use crate::setup::{MAPS, Setup};
use libgnt::grant::unmap::{self, UnmapMachine, UnmapState};
use libgnt::machine::Now;
use libgnt::sim::core::{Config, Xen};
use libgnt::sim::wire::HoldId;
use std::hash::{Hash, Hasher};

/// The laws. Letters are those of S0; the machine's own check speaks of them.
pub(super) const LAWS: &[(&str, &str)] = &[
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
    (
        "g",
        "a page-table entry of a PV guest is cleared only by the unmap itself",
    ),
    ("h", "one work item per range in flight"),
    ("books", "the machine's tables agree with each other"),
    (
        "released",
        "what the mapper takes for released, the hypervisor has unmapped",
    ),
    ("no-cycle", "nobody waits in a cycle"),
    ("answers", "every request is answered at most once"),
];

pub(super) const MAPPER: usize = 0;
pub(super) const GRANTER: usize = 1;
pub(super) const CONSUMERS: usize = 2;

/// The configuration to explore.
pub struct Driven {
    pub(super) setup: Setup,
    /// How many processes may die before their time.
    pub(super) deaths: u8,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) machine: Xen,
    pub(super) now: Now,
    pub(super) at: [u8; 6],
    pub(super) gone: u8,
    pub(super) deaths: u8,
    pub(super) unmaps: [UnmapMachine; MAPS],
    /// What each of them wants done; follows from where it stands.
    pub(super) to_do: [Option<unmap::Action>; MAPS],
    /// Events on their way to the mapper.
    pub(super) events: [bool; MAPS],
    pub(super) holds: [Option<HoldId>; 4],
    /// References made for consumers that died before they took them over: the mapper's still.
    pub(super) untaken: [Option<HoldId>; 4],
    /// The call that each actor is blocked in.
    pub(super) pending: [Option<u64>; 6],
    pub(super) broken: u16,
    pub(super) why: Option<String>,
    pub(super) crashed: bool,
    pub(super) last_tag: u64,
    pub(super) print: u64,
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
pub(super) enum Next {
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

    pub(super) fn count(&self) -> usize {
        CONSUMERS + self.setup.consumers.len()
    }

    pub(super) fn next(&self, actor: usize, at: u8) -> Next {
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

    pub(super) fn gone(&self, state: &State, actor: usize) -> bool {
        state.gone & (1 << actor) != 0
    }

    pub(super) fn released(&self, state: &State) -> bool {
        state
            .unmaps
            .iter()
            .all(|unmap| unmap.state() == UnmapState::Released)
    }

    /// Can this actor make its next step?
    pub(super) fn ready(&self, state: &State, actor: usize) -> bool {
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
}

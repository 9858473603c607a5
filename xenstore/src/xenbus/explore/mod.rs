//! Both machines coupled through two nodes, and every interleaving of deliveries, completions,
//! crashes, restarts, failures and removals: no dead end, no double free, no stale ring in service.

use super::XenbusState::{self, Closed, Closing, Connected, Initialised, Initialising};
use super::{SwitchState, back, front};
use search::{Finding, Rules, search};

mod search;
mod strangers;

/// Broken on purpose: the exploration must see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    None,
    /// A closing front end trusts what it read of the back end before its own writes.
    StaleLooks,
    /// A restarted front end starts afresh, without closing what its predecessor left.
    FrontForgets,
    /// A front end frees its ring as soon as it starts to close.
    FreesEarly,
    /// A restarted back end leaves its state node alone until the front end moves.
    BackWaits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FrontTask {
    Prepare,
    Connect,
    Free,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BackTask {
    Connect,
    Free,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    front: Option<front::Handshake>,
    back: Option<back::Handshake>,
    /// The nodes.
    front_state: Option<XenbusState>,
    back_state: Option<XenbusState>,
    online: bool,
    /// Watch events on their way: each reads the node when it arrives.
    front_sees_peer: bool,
    front_sees_own: bool,
    back_sees_peer: bool,
    back_sees_own: bool,
    /// Liveness events on their way.
    front_hears_death: bool,
    back_hears_death: bool,
    front_task: Option<FrontTask>,
    back_task: Option<BackTask>,
    /// Requests on the ring, to be answered before Quiet.
    draining: bool,
    ring_granted: bool,
    ring_mapped: bool,
    /// What the back end maps, or has read to map, is the front end's present ring.
    ring_current: bool,
    /// Somebody's deadline passed, or the nodes were taken away: the front end may free a ring
    /// that is still mapped (and learns it from the grant table), but nothing may be freed twice.
    abandoned: bool,
}

struct Explorer {
    sabotage: Sabotage,
    /// A back end that starts takes no ring over: it goes to InitWait, whatever its node says.
    back_offers_always: bool,
    finding: Option<Finding>,
}

/// Everything that can happen to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    // Progress: what will happen by itself, sooner or later.
    FrontStarts,
    BackStarts,
    FrontSeesPeer,
    FrontSeesOwn,
    FrontHearsDeath,
    BackSeesPeer,
    BackSeesOwn,
    BackHearsDeath,
    FrontTaskDone,
    BackTaskDone,
    Drained,
    // Trouble: what may happen.
    FrontTaskFails,
    BackTaskFails,
    FrontDies,
    BackDies,
    FrontFatal,
    BackFatal,
    FrontAsked,
    BackAsked,
    FrontAbandons,
    BackAbandons,
    ToolstackAsks,
    ToolstackForces,
    ToolstackCreates,
}

use Step::*;

const PROGRESS: &[Step] = &[
    FrontStarts,
    BackStarts,
    FrontSeesPeer,
    FrontSeesOwn,
    FrontHearsDeath,
    BackSeesPeer,
    BackSeesOwn,
    BackHearsDeath,
    FrontTaskDone,
    BackTaskDone,
    Drained,
];
const TROUBLE: &[Step] = &[
    FrontTaskFails,
    BackTaskFails,
    FrontDies,
    BackDies,
    FrontFatal,
    BackFatal,
    FrontAsked,
    BackAsked,
    ToolstackAsks,
    ToolstackForces,
    ToolstackCreates,
];
const DEADLINES: &[Step] = &[FrontAbandons, BackAbandons];

fn created() -> World {
    World {
        front: None,
        back: None,
        front_state: Some(Initialising),
        back_state: Some(Initialising),
        online: true,
        front_sees_peer: false,
        front_sees_own: false,
        back_sees_peer: false,
        back_sees_own: false,
        front_hears_death: false,
        back_hears_death: false,
        front_task: None,
        back_task: None,
        draining: false,
        ring_granted: false,
        ring_mapped: false,
        ring_current: false,
        abandoned: false,
    }
}

impl World {
    fn front_wrote(&mut self, state: Option<XenbusState>) {
        self.front_state = state;
        self.front_sees_own = self.front.is_some();
        self.back_sees_peer = self.back.is_some();
    }

    fn back_wrote(&mut self, state: Option<XenbusState>) {
        self.back_state = state;
        self.back_sees_own = self.back.is_some();
        self.front_sees_peer = self.front.is_some();
    }

    fn in_service(&self) -> bool {
        self.front
            .as_ref()
            .is_some_and(front::Handshake::is_connected)
            && self
                .back
                .as_ref()
                .is_some_and(back::Handshake::is_connected)
    }

    fn idle(&self) -> bool {
        !(self.front_sees_peer || self.front_sees_own || self.back_sees_peer || self.back_sees_own)
    }

    /// Where every pair must be able to get to: in service, or, when the device is being taken
    /// away, both over with nothing held.
    fn is_goal(&self) -> bool {
        if self.online && self.front_state.is_some() {
            return self.in_service() && self.idle();
        }
        let over = |state: Option<XenbusState>| matches!(state, None | Some(Closed));
        self.front.is_none()
            && self.back.is_none()
            && over(self.front_state)
            && over(self.back_state)
            && !self.ring_granted
            && !self.ring_mapped
    }
}

impl Explorer {
    fn fails(&mut self, what: &str) {
        self.finding.get_or_insert_with(|| what.to_owned());
    }

    fn tell_front(&mut self, world: &mut World, input: front::Input) {
        let Some(mut machine) = world.front.take() else {
            return;
        };
        let actions = machine.handle(input);
        world.front = Some(machine);
        for action in actions {
            match action {
                front::Action::PrepareRing => {
                    self.check(world.front_task.is_none(), "two tasks at once in front");
                    world.front_task = Some(FrontTask::Prepare);
                }
                front::Action::ReadPeerAndConnect => world.front_task = Some(FrontTask::Connect),
                front::Action::FreeResources => {
                    self.check(
                        world.ring_granted,
                        "the front end frees what it does not hold",
                    );
                    world.front_task = Some(FrontTask::Free);
                }
                front::Action::StopRequests => world.draining = true,
                front::Action::SwitchState(SwitchState { to, while_peer }) => {
                    if world.front_state.is_none() {
                        self.tell_front(world, front::Input::Own(None));
                        continue;
                    }
                    let moved = while_peer.is_some() && world.back_state != while_peer;
                    if moved {
                        let (state, online) = (world.back_state, world.online);
                        self.tell_front(world, front::Input::PeerMoved { state, online });
                        continue;
                    }
                    world.front_wrote(Some(to));
                    if to == Closing && self.sabotage == Sabotage::FreesEarly {
                        world.ring_granted = false;
                        self.check(!world.ring_mapped || !world.ring_current, "freed early");
                    }
                    if while_peer.is_some() {
                        self.tell_front(world, front::Input::Switched);
                    }
                }
                front::Action::RemoveDevice => {
                    self.check(
                        !world.ring_granted,
                        "the front end leaves with a ring granted",
                    );
                    Self::front_ends(world);
                }
                // The answer may take its time: others go on meanwhile.
                front::Action::ReadPeer => {
                    let known = world
                        .front
                        .as_ref()
                        .filter(|f| matches!(f.own(), Closing | Closed));
                    match known.and_then(front::Handshake::peer) {
                        Some(stale) if self.sabotage == Sabotage::StaleLooks => {
                            let (state, online) = (Some(stale), world.online);
                            self.tell_front(world, front::Input::Peer { state, online });
                        }
                        _ => world.front_sees_peer = true,
                    }
                }
                front::Action::ReportError(_) | front::Action::Refuse(_) => {}
            }
        }
    }

    fn tell_back(&mut self, world: &mut World, input: back::Input) {
        let Some(mut machine) = world.back.take() else {
            return;
        };
        let actions = machine.handle(input);
        world.back = Some(machine);
        for action in actions {
            match action {
                back::Action::ReadPeerAndConnect { .. } => {
                    self.check(world.back_task.is_none(), "two tasks at once in back");
                    self.check(!world.ring_mapped, "the back end maps a second ring");
                    world.back_task = Some(BackTask::Connect);
                    world.ring_current = world.ring_granted;
                }
                back::Action::FreeResources => {
                    self.check(
                        world.ring_mapped,
                        "the back end frees what it does not hold",
                    );
                    world.back_task = Some(BackTask::Free);
                }
                back::Action::SwitchState(SwitchState { to, while_peer }) => {
                    if world.back_state.is_none() {
                        self.tell_back(world, back::Input::Own(None));
                        continue;
                    }
                    let moved = while_peer.is_some() && world.front_state != while_peer;
                    if moved {
                        let state = world.front_state;
                        self.tell_back(world, back::Input::PeerMoved(state));
                        continue;
                    }
                    world.back_wrote(Some(to));
                    if while_peer.is_some() {
                        self.tell_back(world, back::Input::Switched);
                    }
                }
                back::Action::RemoveDevice => {
                    self.check(!world.ring_mapped, "the back end leaves with a ring mapped");
                    Self::back_ends(world);
                }
                back::Action::ReadPeer => world.back_sees_peer = true,
                back::Action::PublishFeatures
                | back::Action::ReportError(_)
                | back::Action::Refuse(_) => {}
            }
        }
    }

    fn check(&mut self, good: bool, what: &str) {
        if !good {
            self.fails(what);
        }
    }

    /// The process is gone, and with it whatever it held.
    fn front_ends(world: &mut World) {
        world.front = None;
        world.front_task = None;
        world.draining = false;
        world.ring_granted = false;
        world.ring_current = false;
        world.front_sees_peer = false;
        world.front_sees_own = false;
        world.front_hears_death = false;
    }

    fn back_ends(world: &mut World) {
        world.back = None;
        world.back_task = None;
        world.ring_mapped = false;
        world.back_sees_peer = false;
        world.back_sees_own = false;
        world.back_hears_death = false;
    }

    /// The world after a step; `None` if the step cannot happen now.
    fn step(&mut self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        let w = &mut next;
        let taken = |flag: &mut bool| std::mem::take(flag).then_some(());
        match step {
            FrontStarts => {
                if w.front.is_some() || w.is_goal() {
                    return None;
                }
                w.front = Some(front::Handshake::new(None));
                let mut own = w.front_state;
                if self.sabotage == Sabotage::FrontForgets && own.is_some() {
                    own = Some(Initialising);
                    w.front_wrote(own);
                }
                self.tell_front(w, front::Input::Start(own));
            }
            BackStarts => {
                if w.back.is_some() || w.is_goal() {
                    return None;
                }
                if self.sabotage == Sabotage::BackWaits && w.back_state == Some(Connected) {
                    return None;
                }
                w.back = Some(back::Handshake::new());
                let (mut own, online) = (w.back_state, w.online);
                if self.back_offers_always && online && own.is_some() {
                    own = Some(Initialising);
                }
                self.tell_back(w, back::Input::Start { own, online });
            }
            FrontSeesPeer => {
                taken(&mut w.front_sees_peer)?;
                let (state, online) = (w.back_state, w.online);
                self.tell_front(w, front::Input::Peer { state, online });
            }
            FrontSeesOwn => {
                taken(&mut w.front_sees_own)?;
                let own = w.front_state;
                self.tell_front(w, front::Input::Own(own));
            }
            FrontHearsDeath => {
                taken(&mut w.front_hears_death)?;
                self.tell_front(w, front::Input::PeerDied);
            }
            BackSeesPeer => {
                taken(&mut w.back_sees_peer)?;
                let peer = w.front_state;
                self.tell_back(w, back::Input::Peer(peer));
            }
            BackSeesOwn => {
                taken(&mut w.back_sees_own)?;
                let (own, online) = (w.back_state, w.online);
                self.tell_back(w, back::Input::Online(online));
                self.tell_back(w, back::Input::Own(own));
            }
            BackHearsDeath => {
                taken(&mut w.back_hears_death)?;
                self.tell_back(w, back::Input::PeerDied);
            }
            FrontTaskDone => match w.front_task.take()? {
                FrontTask::Prepare => {
                    self.check(!w.ring_granted, "a second ring is granted");
                    w.ring_granted = true;
                    // Whatever the back end has, or has read, is not this one.
                    w.ring_current = false;
                    self.tell_front(w, front::Input::RingReady);
                }
                FrontTask::Connect => self.tell_front(w, front::Input::Connected),
                FrontTask::Free => {
                    self.check(
                        w.abandoned || !(w.ring_mapped && w.ring_current),
                        "the front end frees a ring that the back end maps",
                    );
                    w.ring_granted = false;
                    w.ring_current = false;
                    w.draining = false;
                    self.tell_front(w, front::Input::Freed);
                }
            },
            BackTaskDone => match w.back_task.take()? {
                // The grants are gone: the map fails.
                BackTask::Connect if !w.ring_granted => {
                    self.tell_back(w, back::Input::ConnectFailed(String::new()));
                }
                BackTask::Connect => {
                    w.ring_mapped = true;
                    self.tell_back(w, back::Input::Connected);
                }
                BackTask::Free => {
                    w.ring_mapped = false;
                    self.tell_back(w, back::Input::Freed);
                }
            },
            Drained => {
                taken(&mut w.draining)?;
                self.tell_front(w, front::Input::Quiet);
            }
            FrontTaskFails => match w.front_task {
                Some(FrontTask::Prepare) => {
                    w.front_task = None;
                    self.tell_front(w, front::Input::RingFailed(String::new()));
                }
                Some(FrontTask::Connect) => {
                    w.front_task = None;
                    self.tell_front(w, front::Input::ConnectFailed(String::new()));
                }
                _ => return None,
            },
            BackTaskFails => {
                if w.back_task != Some(BackTask::Connect) {
                    return None;
                }
                w.back_task = None;
                self.tell_back(w, back::Input::ConnectFailed(String::new()));
            }
            FrontDies => {
                w.front.as_ref()?;
                w.back_hears_death |= w.ring_mapped;
                Self::front_ends(w);
            }
            BackDies => {
                w.back.as_ref()?;
                w.front_hears_death |= w.ring_mapped;
                Self::back_ends(w);
            }
            FrontFatal => {
                w.front.as_ref().filter(|f| f.is_connected())?;
                self.tell_front(w, front::Input::Fatal(String::new()));
            }
            BackFatal => {
                w.back.as_ref().filter(|b| b.is_connected())?;
                self.tell_back(w, back::Input::Fatal(String::new()));
            }
            FrontAsked => {
                w.front.as_ref()?;
                self.tell_front(w, front::Input::CloseRequested);
            }
            BackAsked => {
                w.back.as_ref()?;
                self.tell_back(w, back::Input::CloseRequested);
            }
            FrontAbandons => {
                w.front.as_ref()?;
                w.abandoned = true;
                self.tell_front(w, front::Input::Abandon);
            }
            BackAbandons => {
                w.back.as_ref()?;
                w.abandoned = true;
                self.tell_back(w, back::Input::Abandon);
            }
            ToolstackAsks => {
                if !w.online || w.back_state.is_none() {
                    return None;
                }
                w.online = false;
                let state = if w.back_state == Some(Closed) {
                    Closed
                } else {
                    Closing
                };
                w.back_wrote(Some(state));
            }
            ToolstackForces => {
                w.front_state?;
                w.online = false;
                // Without its nodes an end cannot know what the other still holds.
                w.abandoned = true;
                w.front_wrote(None);
                w.back_wrote(None);
            }
            ToolstackCreates => {
                if w.front_state.is_some() {
                    return None;
                }
                w.online = true;
                w.front_wrote(Some(Initialising));
                w.back_wrote(Some(Initialising));
            }
        }
        self.check(
            !next.in_service() || !next.idle() || next.ring_current,
            "both are Connected, but not to one ring",
        );
        self.check(
            !(next.in_service() && next.front_state == Some(Initialised)),
            "in service without saying so",
        );
        Some(next)
    }
}

struct Pair<'a> {
    sabotage: Sabotage,
    back_offers_always: bool,
    trouble: &'a [Step],
}

impl Rules for Pair<'_> {
    type World = World;
    type Step = Step;

    const PROGRESS: &'static [Step] = PROGRESS;

    fn step(&self, world: &World, step: Step) -> Result<Option<World>, Finding> {
        let mut explorer = Explorer {
            sabotage: self.sabotage,
            back_offers_always: self.back_offers_always,
            finding: None,
        };
        let next = explorer.step(world, step);
        explorer.finding.map_or(Ok(next), Err)
    }

    fn is_goal(&self, world: &World) -> bool {
        world.is_goal()
    }

    fn trouble(&self) -> &[Step] {
        self.trouble
    }
}

fn explore(
    sabotage: Sabotage,
    back_offers_always: bool,
    limit: u8,
    trouble: &[Step],
) -> Result<usize, Finding> {
    let pair = Pair {
        sabotage,
        back_offers_always,
        trouble,
    };
    search(&pair, created(), limit)
}

fn good(limit: u8, trouble: &[Step]) {
    for back_offers_always in [false, true] {
        match explore(Sabotage::None, back_offers_always, limit, trouble) {
            Ok(worlds) => assert!(
                worlds > 200,
                "only {worlds} worlds: the exploration is broken"
            ),
            Err(finding) => panic!("{finding}"),
        }
    }
}

#[test]
fn no_dead_end_with_any_two_troubles() {
    let all: Vec<Step> = TROUBLE.iter().chain(DEADLINES).copied().collect();
    good(2, &all);
}

#[test]
fn no_dead_end_with_many_crashes() {
    good(5, &[FrontDies, BackDies]);
}

#[test]
fn no_dead_end_when_a_device_is_removed_and_made_again_under_crashes() {
    good(
        3,
        &[
            ToolstackAsks,
            ToolstackForces,
            ToolstackCreates,
            FrontDies,
            BackDies,
        ],
    );
}

#[test]
fn broken_handshakes_are_found() {
    let broken = [
        (Sabotage::StaleLooks, true),
        (Sabotage::FrontForgets, false),
        (Sabotage::FrontForgets, true),
        (Sabotage::FreesEarly, false),
        (Sabotage::FreesEarly, true),
        (Sabotage::BackWaits, false),
    ];
    for (sabotage, back_offers_always) in broken {
        let trouble = [FrontDies, BackDies, BackFatal, FrontTaskFails];
        let finding = explore(sabotage, back_offers_always, 3, &trouble);
        assert!(finding.is_err(), "{sabotage:?} went unnoticed");
    }
}

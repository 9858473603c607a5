//! Three threads that wait, one that passes by, a stream, and every order of their steps: nobody sleeps on.

use super::{Lead, Next};
use crate::testing::{Finding, Rules, search};

const THREADS: usize = 3;
/// What each waits for: two for their answers, one for an event.
const WAITS_FOR: [Option<u32>; THREADS] = [Some(0), Some(1), None];
/// The thread whose request may find no room in the stream.
const ASKS: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Start,
    Polls { to_send: bool },
    Sleeps,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    lead: Lead<usize>,
    threads: [At; THREADS],
    /// `unpark` came first.
    woken: [bool; THREADS],
    /// What each waits for was taken in.
    found: [bool; THREADS],
    bell: bool,
    /// The request that is in no stream yet, and the stream's room for it.
    asked: bool,
    unsent: bool,
    room: bool,
    /// The peer has still to say it; it is in the stream.
    to_say: [bool; THREADS],
    said: [bool; THREADS],
    /// Something came since the stream was read last.
    signal: bool,
}

/// Broken on purpose: the exploration must see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeadSabotage {
    None,
    /// Who stops waiting wakes nobody.
    NoHeir,
    /// The leader never hears the bell.
    NoBell,
    /// What came wakes nobody.
    NobodyWoken,
    /// Who is woken stays among the sleepers.
    StaysAsleep,
    /// What the stream still has is forgotten.
    ForgetsMore,
    /// The leader is woken for what came, and not for what waits to be sent.
    BellForNewsOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Runs(usize),
    PeerReads,
    PeerSays(usize),
    /// A thread's deadline passes.
    GivesUp(usize),
    /// A thread that does not wait looks whether something has come.
    PassesBy,
}

struct Threads(LeadSabotage);

impl Threads {
    fn wake(w: &mut World, thread: Option<usize>) {
        if let Some(thread) = thread {
            w.woken[thread] = true;
        }
    }

    fn ring(&self, w: &mut World) {
        let unsent = w.unsent && self.0 != LeadSabotage::BellForNewsOnly;
        if w.lead.must_ring(unsent) && self.0 != LeadSabotage::NoBell {
            w.bell = true;
        }
    }

    fn leave(&self, w: &mut World) {
        self.ring(w);
        let heir = w.lead.heir().copied();
        Self::wake(w, heir.filter(|_| self.0 != LeadSabotage::NoHeir));
    }

    /// As `Connection::turn`: one message at a time.
    fn turn(&self, w: &mut World) {
        w.signal = false;
        if let Some(n) = w.said.iter().position(|said| *said) {
            (w.said[n], w.found[n]) = (false, true);
            let sleepers: Vec<usize> = w.lead.came(WAITS_FOR[n]).copied().collect();
            if self.0 != LeadSabotage::NobodyWoken {
                sleepers.into_iter().for_each(|t| Self::wake(w, Some(t)));
            }
        }
        let more = w.said.contains(&true) && self.0 != LeadSabotage::ForgetsMore;
        w.lead.read(more);
        Self::send(w);
    }

    fn send(w: &mut World) {
        if w.room {
            w.unsent = false;
        }
    }

    /// As `Connection::wait_for`, up to where it lets go of the lock.
    fn wait(&self, w: &mut World, t: usize) {
        loop {
            if w.found[t] {
                w.threads[t] = At::Done;
                return self.leave(w);
            }
            match w.lead.next(WAITS_FOR[t], t) {
                Next::TakeIn => {
                    self.turn(w);
                    w.lead.is_known();
                }
                Next::Poll => {
                    let to_send = w.unsent;
                    w.threads[t] = At::Polls { to_send };
                    return;
                }
                Next::Sleep => {
                    w.threads[t] = At::Sleeps;
                    return;
                }
            }
        }
    }

    fn back(&self, w: &mut World, t: usize) {
        match w.threads[t] {
            At::Polls { .. } => {
                w.bell = false;
                w.lead.polled();
                self.turn(w);
                w.lead.is_known();
            }
            At::Sleeps => {
                w.woken[t] = false;
                if self.0 != LeadSabotage::StaysAsleep {
                    w.lead.woken(&t);
                }
            }
            At::Start | At::Done => {}
        }
    }
}

impl Rules for Threads {
    type State = World;
    type Step = Step;

    const PROGRESS: &'static [Step] = &[
        Step::Runs(0),
        Step::Runs(1),
        Step::Runs(2),
        Step::PeerReads,
        Step::PeerSays(0),
        Step::PeerSays(1),
        Step::PeerSays(2),
    ];

    fn step(&self, world: &World, step: Step) -> Result<Option<World>, Finding> {
        let mut next = world.clone();
        let w = &mut next;
        let can = match step {
            Step::Runs(t) => match w.threads[t] {
                At::Start => true,
                At::Polls { to_send } => w.signal || w.bell || (to_send && w.room),
                At::Sleeps => w.woken[t],
                At::Done => false,
            },
            Step::PeerReads => !w.room,
            Step::PeerSays(n) => w.to_say[n] && (n != ASKS || (w.asked && !w.unsent)),
            Step::GivesUp(t) => matches!(w.threads[t], At::Polls { .. } | At::Sleeps),
            Step::PassesBy => true,
        };
        if !can {
            return Ok(None);
        }
        match step {
            Step::Runs(t) => {
                self.back(w, t);
                if t == ASKS && !std::mem::replace(&mut w.asked, true) {
                    w.unsent = true;
                    Self::send(w);
                    self.ring(w);
                }
                self.wait(w, t);
            }
            Step::PeerReads => w.room = true,
            Step::PeerSays(n) => {
                (w.to_say[n], w.said[n]) = (false, true);
                w.signal = true;
            }
            Step::GivesUp(t) => {
                self.back(w, t);
                w.threads[t] = At::Done;
                self.leave(w);
            }
            Step::PassesBy => {
                self.turn(w);
                self.leave(w);
            }
        }
        for (t, at) in w.threads.iter().enumerate() {
            let wakes = match at {
                At::Polls { .. } => w.bell || w.signal,
                At::Sleeps => w.woken[t],
                At::Start | At::Done => true,
            };
            if w.found[t] && !wakes {
                return Err(format!("thread {t} waits for what has come"));
            }
            if w.unsent && *at == (At::Polls { to_send: false }) && !wakes {
                return Err("nobody waits for room".into());
            }
        }
        Ok(Some(next))
    }

    fn is_goal(&self, w: &World) -> bool {
        w.threads == [At::Done; THREADS]
    }

    fn trouble(&self) -> &[Step] {
        &[
            Step::GivesUp(0),
            Step::GivesUp(1),
            Step::GivesUp(2),
            Step::PassesBy,
        ]
    }
}

fn explore(sabotage: LeadSabotage) -> Result<usize, Finding> {
    let start = World {
        lead: Lead::new(),
        threads: [At::Start; THREADS],
        woken: [false; THREADS],
        found: [false; THREADS],
        bell: false,
        asked: false,
        unsent: false,
        room: false,
        to_say: [true; THREADS],
        said: [false; THREADS],
        signal: false,
    };
    search(&Threads(sabotage), start, 3)
}

#[test]
fn nobody_sleeps_on() {
    let states = explore(LeadSabotage::None).unwrap();
    assert!(states > 1000, "only {states} states");
}

#[test]
fn every_broken_hand_over_is_found() {
    for sabotage in [
        LeadSabotage::NoHeir,
        LeadSabotage::NoBell,
        LeadSabotage::NobodyWoken,
        LeadSabotage::StaysAsleep,
        LeadSabotage::ForgetsMore,
        LeadSabotage::BellForNewsOnly,
    ] {
        assert!(explore(sabotage).is_err(), "{sabotage:?} went unnoticed");
    }
}

//! A directory that a toolstack changes as it likes, a roster, and every order in which events, looks
//! and answers can come; and long histories at random.

mod tests;

use super::super::XenbusState::{self, Connected, Initialising};
use super::{Action, Found, Input, Limits, Roster, Seen};
use crate::testing::{Finding, Rules};
use libgnt::DomId;
use libgnt::machine::{Machine, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const KEYS: [&str; 4] = ["1/a", "1/b", "2/a", "10/a"];
const LOOKS: u32 = 2;

/// What stands in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stands {
    Half,
    Whole {
        /// Which of the devices that were here one after the other.
        life: u8,
        state: XenbusState,
        front: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    tree: BTreeMap<&'static str, Stands>,
    lives: u8,
    roster: Roster,
    /// Events on their way, equal ones merged, in any order.
    events: BTreeSet<String>,
    /// What was read, and whose it was.
    answer: Option<(Input, u8)>,
    asked_since_turn: u32,
    told: BTreeMap<String, (u8, Seen)>,
    refused: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver(usize),
    Turn,
    Answer,
    Make(usize),
    Complete(usize),
    Remake(usize),
    Reassign(usize),
    Serve(usize),
    Remove(usize),
    RemoveAllOfOne,
    LoseEvents,
}

use Step::*;

/// Broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RosterSabotage {
    None,
    /// A lost connection's events are forgotten.
    ForgetsLost,
    /// An event about the place that is being looked at is taken as known.
    TrustsLook,
    /// A device that was made anew is told as changed.
    Merges,
}

struct Directory {
    limits: Limits,
    sabotage: RosterSabotage,
    trouble: Vec<Step>,
}

fn seen(state: XenbusState, front: u8) -> Seen {
    Seen {
        state,
        front: format!("/local/domain/{front}/device"),
        front_domid: DomId(u16::from(front)),
        online: true,
    }
}

impl World {
    fn new(limits: Limits) -> World {
        World {
            tree: BTreeMap::new(),
            lives: 0,
            roster: Roster::new(limits),
            // The fresh watch's own.
            events: BTreeSet::from([String::new()]),
            answer: None,
            asked_since_turn: 0,
            told: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    fn begin(&mut self, key: usize, front: u8) {
        self.lives += 1;
        let stands = Stands::Whole {
            life: self.lives,
            state: Initialising,
            front,
        };
        self.tree.insert(KEYS[key], stands);
        self.events.insert(format!("{}/state", KEYS[key]));
    }

    fn list(&self, place: &str) -> Option<Vec<String>> {
        let names: BTreeSet<String> = (self.tree.keys())
            .filter_map(|key| match place {
                "" => key.split('/').next(),
                place => key.strip_prefix(place)?.strip_prefix('/'),
            })
            .map(str::to_owned)
            .collect();
        (!names.is_empty() || place.is_empty()).then(|| names.into_iter().collect())
    }

    fn is_quiet(&self) -> bool {
        self.events.is_empty() && self.answer.is_none() && !self.roster.has_work()
    }
}

impl Directory {
    fn tell(&self, w: &mut World, input: Input, life: u8) -> Result<(), Finding> {
        let mut actions = Vec::new();
        w.roster.step(Now::ZERO, input, &mut actions);
        let mut actions = actions.into_iter().peekable();
        while let Some(mut action) = actions.next() {
            if let (RosterSabotage::Merges, Action::Gone(_), Some(Action::Appeared(place, seen))) =
                (self.sabotage, &action, actions.peek())
            {
                action = Action::Changed(place.clone(), seen.clone());
                actions.next();
            }
            match action {
                Action::List(place) => {
                    let names = w.list(&place);
                    w.answer = Some((Input::Listed(place, names), 0));
                    w.asked_since_turn += 1;
                }
                Action::Look(place) => {
                    let (found, life) = match w.tree.get(place.as_str()) {
                        None => (Found::Gone, 0),
                        Some(Stands::Half) => (Found::Half("no state".into()), 0),
                        Some(Stands::Whole { life, state, front }) => {
                            (Found::Whole(seen(*state, *front)), *life)
                        }
                    };
                    w.answer = Some((Input::Looked(place, found), life));
                    w.asked_since_turn += 1;
                }
                Action::Appeared(place, seen) => {
                    if w.told.insert(place, (life, seen)).is_some() {
                        return Err("a device appears twice".into());
                    }
                }
                Action::Changed(place, seen) => {
                    let Some((old_life, old)) = w.told.insert(place, (life, seen.clone())) else {
                        return Err("a device changes that was never there".into());
                    };
                    let visible = old.front != seen.front
                        || seen.state == Initialising && old.state != Initialising;
                    if old_life != life && visible {
                        return Err("a device that was made anew is told as changed".into());
                    }
                }
                Action::Gone(place) => {
                    if w.told.remove(&place).is_none() {
                        return Err("a device goes that was never there".into());
                    }
                }
                Action::Refused(place, _) => {
                    w.refused.insert(place);
                }
                Action::HalfMade(..) => return Err("no time has passed".into()),
            }
        }
        if w.asked_since_turn > LOOKS {
            return Err("more looks than a turn's".into());
        }
        if w.told.len() > self.limits.devices {
            return Err("more devices than the limit".into());
        }
        Ok(())
    }

    /// What is told against what stands there, when nothing is on its way.
    fn agrees(&self, w: &World) -> bool {
        let whole = |key: &str| match w.tree.get(key) {
            Some(Stands::Whole { state, front, .. }) => Some(seen(*state, *front)),
            _ => None,
        };
        let true_word =
            |(place, (_, told)): (&String, &(u8, Seen))| whole(place).as_ref() == Some(told);
        let has_room = |key: &str| {
            let owner = key.split('/').next();
            let of_one = (w.tree.keys())
                .filter(|other| other.split('/').next() == owner)
                .count();
            w.tree.len() <= self.limits.devices && of_one <= self.limits.devices_of_one
        };
        let complete = (w.tree.keys())
            .all(|key| whole(key).is_none() || w.told.contains_key(*key) || !has_room(key));
        w.told.iter().all(true_word) && complete
    }
}

impl Rules for Directory {
    type State = World;
    type Step = Step;

    const PROGRESS: &'static [Step] =
        &[Deliver(0), Deliver(1), Deliver(2), Deliver(3), Turn, Answer];

    fn step(&self, world: &World, step: Step) -> Result<Option<World>, Finding> {
        let mut next = world.clone();
        let w = &mut next;
        match step {
            Deliver(n) => {
                let Some(path) = w.events.iter().nth(n).cloned() else {
                    return Ok(None);
                };
                w.events.remove(&path);
                let in_hand = match &w.answer {
                    Some((Input::Looked(place, _), _)) => path.starts_with(place),
                    _ => false,
                };
                if self.sabotage != RosterSabotage::TrustsLook || !in_hand {
                    self.tell(w, Input::Happened(path), 0)?;
                }
            }
            Turn => {
                if !w.roster.has_work() {
                    return Ok(None);
                }
                w.asked_since_turn = 0;
                self.tell(w, Input::Turn, 0)?;
            }
            Answer => {
                let Some((answer, life)) = w.answer.take() else {
                    return Ok(None);
                };
                self.tell(w, answer, life)?;
            }
            Make(key) | Complete(key) | Remake(key) | Reassign(key) | Serve(key) | Remove(key) => {
                let stands = w.tree.get(KEYS[key]).copied();
                match (step, stands) {
                    (Make(_), None) => {
                        w.tree.insert(KEYS[key], Stands::Half);
                        w.events.insert(KEYS[key].into());
                    }
                    (Complete(_), None | Some(Stands::Half)) => w.begin(key, 1),
                    (Remake(_), Some(Stands::Whole { front, .. })) => w.begin(key, front),
                    (Reassign(_), Some(Stands::Whole { front: 1, .. })) => w.begin(key, 2),
                    (
                        Serve(_),
                        Some(Stands::Whole {
                            state: Initialising,
                            life,
                            front,
                        }),
                    ) => {
                        let state = Connected;
                        w.tree
                            .insert(KEYS[key], Stands::Whole { state, life, front });
                        w.events.insert(format!("{}/state", KEYS[key]));
                    }
                    (Remove(_), Some(_)) => {
                        w.tree.remove(KEYS[key]);
                        w.events.insert(KEYS[key].into());
                    }
                    _ => return Ok(None),
                }
            }
            RemoveAllOfOne => {
                let before = w.tree.len();
                w.tree.retain(|key, _| !key.starts_with("1/"));
                if w.tree.len() == before {
                    return Ok(None);
                }
                // One event, of the topmost.
                w.events.insert("1".into());
            }
            LoseEvents => {
                w.events.clear();
                if self.sabotage != RosterSabotage::ForgetsLost {
                    w.events.insert(String::new());
                }
            }
        }
        Ok(Some(next))
    }

    fn is_goal(&self, w: &World) -> bool {
        w.is_quiet() && self.agrees(w)
    }

    fn trouble(&self) -> &[Step] {
        &self.trouble
    }
}

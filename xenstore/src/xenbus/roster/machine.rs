//! The machine.

use super::super::state::XenbusState;
use super::words::{Action, Found, Input, Limits, Seen};
use libgnt::machine::{Machine, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A directory that may be a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entry {
    /// Since when, and why; and whether that was told.
    Half {
        since: Now,
        why: String,
        told: bool,
    },
    Whole(Seen),
}

/// The devices of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Roster {
    limits: Limits,
    entries: BTreeMap<String, Entry>,
    /// Told to be too many.
    refused: BTreeSet<String>,
    /// Places to be looked at, each once, first come, first served: whoever touches one thing often
    /// waits behind all others.
    queue: VecDeque<String>,
    queued: BTreeSet<String>,
    /// The place whose answer is awaited.
    asked: Option<String>,
    looks_left: u32,
}

impl Roster {
    /// Knows nothing yet; the watch's first event starts it.
    pub fn new(limits: Limits) -> Roster {
        Roster {
            limits,
            entries: BTreeMap::new(),
            refused: BTreeSet::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            asked: None,
            looks_left: 0,
        }
    }

    /// Is there something to look at that the next [`Input::Turn`] may begin?
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When [`Input::Late`] is to be said.
    pub fn deadline(&self) -> Option<Now> {
        let halves = self.entries.values().filter_map(|entry| match entry {
            Entry::Half {
                since, told: false, ..
            } => Some(since.saturating_add(self.limits.patience)),
            _ => None,
        });
        halves.min()
    }

    fn depth_of(place: &str) -> usize {
        match place {
            "" => 0,
            place => place.matches('/').count() + 1,
        }
    }

    /// What a change at this place may be about: the device that it is in, or the place itself.
    fn cut<'a>(&self, place: &'a str) -> &'a str {
        match place.match_indices('/').nth(self.limits.depth - 1) {
            Some((end, _)) => &place[..end],
            None => place,
        }
    }

    fn is_device(&self, place: &str) -> bool {
        Self::depth_of(place) == self.limits.depth
    }

    fn queue(&mut self, place: String) {
        if self.queue.len() > 4 * self.limits.devices && !self.queued.contains(&place) {
            // More than there can be devices: all of it is one look at everything.
            self.queue.clear();
            self.queued.clear();
            return self.queue(String::new());
        }
        if self.queued.insert(place.clone()) {
            self.queue.push_back(place);
        }
    }

    /// Is `place` in `directory`?
    fn is_below(place: &str, directory: &str) -> bool {
        directory.is_empty()
            || place
                .strip_prefix(directory)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    fn child(directory: &str, name: &str) -> String {
        match directory {
            "" => name.to_owned(),
            directory => format!("{directory}/{name}"),
        }
    }

    fn listed(&mut self, directory: &str, names: Option<Vec<String>>, actions: &mut Vec<Action>) {
        let children: BTreeSet<String> = (names.into_iter().flatten())
            .map(|name| Self::child(directory, &name))
            .collect();
        let depth = Self::depth_of(directory) + 1;
        let is_there = |place: &str| {
            let end = place.match_indices('/').nth(depth - 1);
            let child = end.map_or(place, |(end, _)| &place[..end]);
            children.contains(child)
        };
        let lost: Vec<String> = (self.entries.keys())
            .filter(|place| Self::is_below(place, directory) && !is_there(place))
            .cloned()
            .collect();
        for place in lost {
            self.remove(&place, actions);
        }
        self.refused
            .retain(|place| !Self::is_below(place, directory) || is_there(place));
        // As many new ones as could be of use, whoever filled the directory.
        let mut new = 0;
        for child in children {
            let first = self.entries.range(child.clone()..).next();
            let known =
                first.is_some_and(|(place, _)| *place == child || Self::is_below(place, &child));
            new += usize::from(!known);
            if known || new <= self.limits.devices + 1 {
                self.queue(child);
            }
        }
    }

    fn remove(&mut self, place: &str, actions: &mut Vec<Action>) {
        self.refused.remove(place);
        let Some(entry) = self.entries.remove(place) else {
            return;
        };
        if matches!(entry, Entry::Whole(_)) {
            actions.push(Action::Gone(place.to_owned()));
        }
        // There is room for one that had none.
        let waiting: Vec<String> = self.refused.iter().take(1).cloned().collect();
        for place in waiting {
            self.queue(place);
        }
    }

    /// Why a new one is not taken on, if it is not.
    fn refusal(&self, place: &str) -> Option<&'static str> {
        if self.entries.contains_key(place) {
            return None;
        }
        let owner = place.rsplit_once('/').map_or("", |(owner, _)| owner);
        let of_one = (self.entries.range(owner.to_owned()..))
            .take_while(|(other, _)| other.starts_with(owner))
            .filter(|(other, _)| Self::is_below(other, owner))
            .count();
        if of_one >= self.limits.devices_of_one {
            return Some("more devices of this front end's domain than are taken on");
        }
        (self.entries.len() >= self.limits.devices).then_some("more devices than are taken on")
    }

    fn looked(&mut self, now: Now, place: String, found: Found, actions: &mut Vec<Action>) {
        if found == Found::Gone {
            return self.remove(&place, actions);
        }
        if let Some(why) = self.refusal(&place) {
            if self.refused.len() < self.limits.devices && self.refused.insert(place.clone()) {
                actions.push(Action::Refused(place, why));
            }
            return;
        }
        self.refused.remove(&place);
        match (self.entries.get_mut(&place), found) {
            (_, Found::Gone) => {}
            (Some(Entry::Half { why: old, .. }), Found::Half(why)) => *old = why,
            (known, Found::Half(why)) => {
                if known.is_some() {
                    // It is on its way out, or was made anew and is on its way in.
                    actions.push(Action::Gone(place.clone()));
                }
                let half = Entry::Half {
                    since: now,
                    why,
                    told: false,
                };
                self.entries.insert(place, half);
            }
            (Some(Entry::Whole(old)), Found::Whole(seen)) => {
                if is_anew(old, &seen) {
                    actions.push(Action::Gone(place.clone()));
                    actions.push(Action::Appeared(place, seen.clone()));
                } else if *old != seen {
                    actions.push(Action::Changed(place, seen.clone()));
                }
                *old = seen;
            }
            (_, Found::Whole(seen)) => {
                actions.push(Action::Appeared(place.clone(), seen.clone()));
                self.entries.insert(place, Entry::Whole(seen));
            }
        }
    }

    fn late(&mut self, now: Now, actions: &mut Vec<Action>) {
        let patience = self.limits.patience;
        for (place, entry) in &mut self.entries {
            if let Entry::Half { since, why, told } = entry
                && !*told
                && since.saturating_add(patience) <= now
            {
                *told = true;
                actions.push(Action::HalfMade(place.clone(), why.clone()));
            }
        }
    }
}

/// Was the directory removed and made again? Nobody goes back to Initialising but a toolstack, and
/// only a toolstack says whose device it is. One that is as it was when it was seen last cannot be told
/// apart: the end that serves it can, by what it has written ([`SwitchState::from`]).
///
/// [`SwitchState::from`]: super::super::state::SwitchState::from
fn is_anew(old: &Seen, new: &Seen) -> bool {
    let is_reset = new.state == XenbusState::Initialising && old.state != XenbusState::Initialising;
    is_reset || (&old.front, old.front_domid) != (&new.front, new.front_domid)
}

impl Machine for Roster {
    type Input = Input;
    type Action = Action;

    fn step(&mut self, now: Now, input: Input, actions: &mut Vec<Action>) {
        match input {
            Input::Happened(place) => {
                let place = self.cut(&place).to_owned();
                self.queue(place);
            }
            Input::Turn => self.looks_left = self.limits.looks,
            Input::Listed(place, names) => {
                if self.asked.as_ref() == Some(&place) {
                    self.asked = None;
                    self.listed(&place, names, actions);
                }
            }
            Input::Looked(place, found) => {
                if self.asked.as_ref() == Some(&place) {
                    self.asked = None;
                    self.looked(now, place, found, actions);
                }
            }
            Input::Late => self.late(now, actions),
        }
        if self.asked.is_none()
            && self.looks_left > 0
            && let Some(place) = self.queue.pop_front()
        {
            self.queued.remove(&place);
            self.looks_left -= 1;
            self.asked = Some(place.clone());
            actions.push(match self.is_device(&place) {
                true => Action::Look(place),
                false => Action::List(place),
            });
        }
    }
}

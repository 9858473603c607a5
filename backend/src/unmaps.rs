//! The unmaps of one device: those under way, and those that could not begin yet.

use crate::again::Pace;
use crate::machine::{Input, MapKey};
use crate::observe::{BackEventKind, Tell};
use libgnt::grant::{Map, Refusal, UnmapError, UnmapId};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// After so many attempts to arm the notice of a release we do without it.
const MOST_UNARMED: u32 = 5;

/// A map that has to go.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub key: MapKey,
    /// The front's name for the request whose own map it is.
    pub request: Option<u64>,
    pub map: Map,
    /// Attempts to arm its notice.
    unarmed: u32,
}

impl Outgoing {
    pub fn new(key: MapKey, request: Option<u64>, map: Map) -> Self {
        Outgoing {
            key,
            request,
            map,
            unarmed: 0,
        }
    }
}

/// An unmap that has begun.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub key: MapKey,
    pub request: Option<u64>,
    pub began: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Unmaps {
    leaving: HashMap<UnmapId, Leaving>,
    /// Still mapped. The first in comes out first.
    waiting: VecDeque<Outgoing>,
    /// There was no event channel for the first of them: the others need not try.
    blocked: bool,
    pace: Pace,
    /// That some wait was told of.
    told: bool,
}

/// What became of an attempt.
enum Attempt {
    /// Under way; perhaps with news for the machine.
    Begun(Option<Input>),
    Waits(Outgoing, Wait),
}

enum Wait {
    /// For an event channel: the others do too.
    ForAll,
    /// For something of its own.
    ForThis(String),
}

impl Unmaps {
    /// Unmaps outstanding, of which the mapper will tell.
    pub fn awaits_release(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Begins an unmap, or puts it behind those that wait. Returns news for the machine.
    pub fn begin(&mut self, outgoing: Outgoing, tell: &mut Tell) -> Option<Input> {
        if self.blocked {
            self.waiting.push_back(outgoing);
            return None;
        }
        match self.attempt(outgoing, tell) {
            Attempt::Begun(news) => news,
            Attempt::Waits(outgoing, why) => {
                self.blocked = matches!(why, Wait::ForAll);
                if self.waiting.is_empty() {
                    self.pace.failed(Instant::now());
                }
                self.waiting.push_back(outgoing);
                None
            }
        }
    }

    /// The mapper says that an unmap is over.
    pub fn released(&mut self, unmap: UnmapId) -> Option<Leaving> {
        self.leaving.remove(&unmap)
    }

    /// Are there some that could not begin?
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How long until those that wait are due; `None` if none waits.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.is_waiting().then(|| self.pace.left(now))
    }

    /// Tries those that wait. Returns news for the machine.
    pub fn retry(&mut self, tell: &mut Tell) -> Vec<Input> {
        let mut news = Vec::new();
        let mut any = false;
        let mut still = None;
        self.blocked = false;
        for _ in 0..self.waiting.len() {
            let Some(outgoing) = self.waiting.pop_front() else {
                break;
            };
            match self.attempt(outgoing, tell) {
                Attempt::Begun(input) => {
                    any = true;
                    news.extend(input);
                }
                Attempt::Waits(outgoing, Wait::ForAll) => {
                    still = Some(format!("{:?}: no event channel is free", outgoing.map));
                    self.waiting.push_front(outgoing);
                    self.blocked = true;
                    break;
                }
                Attempt::Waits(outgoing, Wait::ForThis(error)) => {
                    still = Some(error);
                    self.waiting.push_back(outgoing);
                }
            }
        }
        if any || self.waiting.is_empty() {
            self.pace.worked();
        }
        if !self.is_waiting() {
            if std::mem::take(&mut self.told) {
                tracing::info!("unmaps go on");
            }
        } else {
            self.pace.failed(Instant::now());
            if let Some(error) = still
                && self.pace.is_slow()
            {
                self.tell(error, tell);
            }
        }
        news
    }

    /// Once until it is over. Short waits are nothing to speak of.
    fn tell(&mut self, error: String, tell: &mut Tell) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        tracing::warn!(
            error,
            waiting = self.waiting.len(),
            "pages stay mapped, and their requests are not answered, until an unmap works"
        );
        let retried = true;
        tell.tell(|| BackEventKind::UnmapFailed { error, retried });
    }

    fn attempt(&mut self, outgoing: Outgoing, tell: &mut Tell) -> Attempt {
        let Outgoing {
            key,
            request,
            map,
            unarmed,
        } = outgoing;
        let waits = |map, unarmed, why| {
            let outgoing = Outgoing {
                key,
                request,
                map,
                unarmed,
            };
            Attempt::Waits(outgoing, why)
        };
        let pages = map.grants().len();
        let began = Instant::now();
        let unmapped = if unarmed < MOST_UNARMED {
            map.unmap()
        } else {
            tracing::error!(?map, "unmapped without a notice of its release");
            map.unmap_untold()
        };
        let unmapping = match unmapped.map_err(|refused| *refused) {
            Ok(unmapping) => unmapping,
            Err(UnmapError::Failed { error, unmapping }) => {
                let error = error.to_string();
                tracing::error!(%error, "an unmap reported an error and goes on");
                tell.tell(|| BackEventKind::UnmapFailed {
                    error,
                    retried: false,
                });
                unmapping
            }
            Err(UnmapError::Refused { reason, map }) => match reason {
                Refusal::TooMany => return waits(map, unarmed, Wait::ForAll),
                reason => {
                    let unarmed = unarmed + u32::from(matches!(reason, Refusal::NoNotice(_)));
                    let why = format!("{map:?}: {reason}");
                    return waits(map, unarmed, Wait::ForThis(why));
                }
            },
        };
        let unmap = unmapping.id();
        tell.tell_each(|| BackEventKind::UnmapBegun {
            unmap,
            request,
            pages,
            took: began.elapsed(),
        });
        if !unmapping.is_told() {
            return Attempt::Begun(Some(Input::Untold(key)));
        }
        let leaving = Leaving {
            key,
            request,
            began,
        };
        self.leaving.insert(unmap, leaving);
        Attempt::Begun(None)
    }
}

//! A front, a kernel and a disk that do everything in a random order and fail at any step, and a
//! judge that holds the machine to its promises. Everything follows from a seed.

use super::*;
use fastrand::Rng;
use libgnt::proto::blkif::{
    Operation, Request, Response, SECTORS_PER_PAGE, Segment, Segments, Status,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const SECTORS: u64 = 1000;

/// What a run does.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub mode: DataMode,
    pub read_only: bool,
    pub requests: usize,
    /// One in so many steps fails.
    pub fail_one_in: u32,
    /// One in so many releases is put off until the end.
    pub hold_one_in: u32,
    /// The front vanishes in the middle.
    pub vanish: bool,
    pub grefs: u32,
    pub sabotage: BackSabotage,
}

/// What a run did, so that a test can tell that it tested something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub okay: usize,
    pub errors: usize,
    pub unsupported: usize,
    pub refused_to_take: usize,
    pub evictions: usize,
    pub most_zombies: usize,
    pub max_cached: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MapState {
    Wanted,
    Mapped,
    Unmapping,
}

/// What the judge knows of a request that was taken.
#[derive(Debug)]
struct Taken {
    request: Request,
    serial: u64,
    failed: bool,
    disk_ok: bool,
    copied_out: bool,
}

struct Run {
    rng: Rng,
    policy: Policy,
    machine: BackMachine,
    pending: Vec<Action>,
    held: Vec<MapKey>,
    maps: BTreeMap<MapKey, MapState>,
    /// Requests by our tag, learned from the first action that names it.
    taken: BTreeMap<Tag, Taken>,
    /// Ids that have been asked and not answered, with the number of times: ids may repeat.
    unanswered: BTreeMap<u64, usize>,
    serial: u64,
    seen: Seen,
    front_gone: bool,
}

type Verdict<T = ()> = Result<T, String>;

/// One run to its end.
pub(super) fn run(seed: u64, policy: &Policy) -> Verdict<Seen> {
    let mut run = Run::new(seed, policy.clone());
    run.live()
        .map_err(|what| format!("seed {seed}, {policy:?}: {what}"))?;
    Ok(run.seen)
}

/// What the machine knows of a request in flight.
fn request(machine: &BackMachine, tag: Tag) -> Option<&Request> {
    machine.jobs.get(tag.index()).map(|job| &job.request)
}

/// The cached page of each of its segments.
fn slots(machine: &BackMachine, tag: Tag) -> impl Iterator<Item = Option<Slot>> + '_ {
    let job = machine.jobs.get(tag.index());
    job.into_iter()
        .flat_map(|job| job.slots.iter().copied().take(job.request.segments.len()))
}

fn check(good: bool, what: impl FnOnce() -> String) -> Verdict {
    if good { Ok(()) } else { Err(what()) }
}

impl Run {
    fn new(seed: u64, policy: Policy) -> Self {
        let config = Limits {
            sectors: SECTORS,
            cache: 0,
            sabotage: policy.sabotage,
            ..Limits::default()
        };
        Run {
            rng: Rng::with_seed(seed),
            machine: BackMachine::new(config),
            policy,
            pending: Vec::new(),
            held: Vec::new(),
            maps: BTreeMap::new(),
            taken: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            serial: 0,
            seen: Seen::default(),
            front_gone: false,
        }
    }

    fn live(&mut self) -> Verdict {
        let Policy {
            mode, read_only, ..
        } = self.policy;
        self.input(Input::Open { mode, read_only })?;
        check(self.machine.can_take(), || {
            "a fresh machine refused a front".into()
        })?;
        let mut asked = 0;
        let vanish_at = self.rng.usize(1..self.policy.requests);
        while asked < self.policy.requests && !self.front_gone {
            if self.rng.bool() && self.front_has_a_slot() {
                if self.machine.can_take() {
                    asked += 1;
                    self.ask()?;
                } else {
                    self.seen.refused_to_take += 1;
                    if self.pending.is_empty() {
                        self.let_go_one()?;
                    }
                }
            } else {
                self.step()?;
            }
            if self.policy.vanish && asked == vanish_at {
                self.front_gone = true;
                self.input(Input::PeerGone)?;
            }
        }
        if !self.front_gone {
            self.input(Input::Drain)?;
        }
        while !self.pending.is_empty() {
            self.step()?;
        }
        check(self.machine.is_drained(), || {
            "not drained, and nothing is outstanding".into()
        })?;
        let held = self.held.len();
        check(self.machine.zombies() == held, || {
            format!("{} zombies counted, {held} held", self.machine.zombies())
        })?;
        let all_unmapped = self
            .maps
            .values()
            .all(|state| *state == MapState::Unmapping);
        check(all_unmapped, || {
            format!("still mapped at the end: {:?}", self.maps)
        })?;
        while !self.held.is_empty() {
            self.let_go_one()?;
        }
        check(self.machine.zombies() == 0, || {
            "zombies after the last release".into()
        })?;
        let unanswered: usize = self.unanswered.values().sum();
        check(self.front_gone || unanswered == 0, || {
            format!("{unanswered} without an answer")
        })
    }

    /// As on a real ring: no more requests than slots without a response.
    fn front_has_a_slot(&self) -> bool {
        self.unanswered.values().sum::<usize>() < RING_SIZE
    }

    fn ask(&mut self) -> Verdict {
        let zombies = self.unmapping();
        check(zombies < DEFAULT_MAX_ZOMBIES, || {
            format!("took a request with {zombies} zombies")
        })?;
        let segments: Segments = (0..self.rng.usize(0..=MAX_SEGMENTS))
            .map(|_| {
                let first_sector = self.rng.u8(0..SECTORS_PER_PAGE);
                Segment {
                    gref: self.rng.u32(0..self.policy.grefs),
                    first_sector,
                    last_sector: self.rng.u8(first_sector..SECTORS_PER_PAGE),
                }
            })
            .collect();
        let operation = match self.rng.u8(0..20) {
            0..9 => Operation::Read,
            9..17 => Operation::Write,
            17..19 => Operation::Flush,
            _ => Operation::Other(self.rng.u8(4..)),
        };
        let flush_without_data = operation == Operation::Flush && self.rng.u8(0..4) > 0;
        let request = Request {
            operation,
            handle: 0,
            id: self.rng.u64(0..8), // Repeats, as a hostile front's may.
            sector: match self.rng.u8(0..10) {
                0 => self.rng.u64(..),
                _ => self.rng.u64(0..SECTORS),
            },
            segments: if flush_without_data {
                Segments::default()
            } else {
                segments
            },
        };
        *self.unanswered.entry(request.id).or_default() += 1;
        self.input(Input::Request(request))
    }

    fn unmapping(&self) -> usize {
        self.maps
            .values()
            .filter(|state| **state == MapState::Unmapping)
            .count()
    }

    fn fails(&mut self) -> bool {
        self.policy.fail_one_in > 0 && self.rng.u32(0..self.policy.fail_one_in) == 0
    }

    /// Does one outstanding thing, any one.
    fn step(&mut self) -> Verdict {
        if self.pending.is_empty() {
            return Ok(());
        }
        let action = self
            .pending
            .swap_remove(self.rng.usize(0..self.pending.len()));
        match action {
            Action::Map { key, .. } => {
                if self.fails() {
                    self.maps.remove(&key);
                    self.blame(key);
                    return self.input(Input::MapFailed(key));
                }
                self.maps.insert(key, MapState::Mapped);
                self.input(Input::Mapped(key))
            }
            Action::Copy { tag, direction, .. } => {
                let ok = !self.fails();
                if let Some(taken) = self.taken.get_mut(&tag) {
                    taken.failed |= !ok;
                    taken.copied_out = direction == Direction::ToFront;
                }
                self.input(Input::Copied { tag, ok })
            }
            Action::Disk { tag, pages, .. } => {
                self.pages_are_mapped(tag, pages)?;
                let ok = !self.fails();
                if let Some(taken) = self.taken.get_mut(&tag) {
                    taken.failed |= !ok;
                    taken.disk_ok = ok;
                }
                self.input(Input::DiskDone { tag, ok })
            }
            Action::Unmap { key, .. } => {
                if self.policy.hold_one_in > 0 && self.rng.u32(0..self.policy.hold_one_in) == 0 {
                    self.held.push(key);
                    return Ok(());
                }
                self.release(key)
            }
            Action::Respond(_) => Err("a response was delayed by the model".into()),
        }
    }

    fn let_go_one(&mut self) -> Verdict {
        if self.held.is_empty() {
            return Ok(());
        }
        let key = self.held.swap_remove(self.rng.usize(0..self.held.len()));
        self.release(key)
    }

    fn release(&mut self, key: MapKey) -> Verdict {
        self.maps.remove(&key);
        if self.fails() {
            // No more than its own request: others that used a cached page are answered.
            if let MapKey::Request(tag) = key
                && let Some(taken) = self.taken.get_mut(&tag)
            {
                taken.failed = true;
            }
            return self.input(Input::Untold(key));
        }
        self.input(Input::Released(key))
    }

    /// Every request that waits for a map fails with it.
    fn blame(&mut self, key: MapKey) {
        for (tag, taken) in &mut self.taken {
            let uses = match key {
                MapKey::Request(of) => of == *tag,
                MapKey::Cached(slot) => slots(&self.machine, *tag).any(|s| s == Some(slot)),
            };
            taken.failed |= uses;
        }
    }

    /// Rule 3, seen from the disk: while it works, the pages are mapped.
    fn pages_are_mapped(&self, tag: Tag, pages: Pages) -> Verdict {
        let Some(taken) = self.taken.get(&tag) else {
            return Ok(());
        };
        if taken.request.operation == Operation::Flush {
            return Ok(());
        }
        let mapped = |key| self.maps.get(&key) == Some(&MapState::Mapped);
        let good = match (self.policy.mode, pages) {
            (DataMode::Map, Pages::Own) => mapped(MapKey::Request(tag)),
            (DataMode::Copy, Pages::Bounce) => true,
            (DataMode::Persistent, Pages::Kept(slots)) => slots[..taken.request.segments.len()]
                .iter()
                .all(|slot| slot.is_some_and(|s| mapped(MapKey::Cached(s)))),
            _ => false,
        };
        check(good, || {
            format!("the disk works on pages of {tag:?} that are not mapped: {pages:?}")
        })
    }

    fn input(&mut self, input: Input) -> Verdict {
        let mut out = Vec::new();
        self.machine.step(Now::ZERO, input, &mut out);
        let mut refused = None;
        if let Input::Request(request) = input {
            match self.newest_tag() {
                Some(tag) => self.note_taken(tag, request),
                None => refused = Some(request),
            }
        }
        let mut answers = 0;
        for action in out {
            match action {
                Action::Respond(response) => {
                    answers += 1;
                    self.judge_response(refused, response)?;
                }
                other => {
                    self.judge_action(other)?;
                    self.pending.push(other);
                }
            }
        }
        if let Input::Request(_) = input {
            check(answers <= 1, || {
                format!("{answers} answers to a request just taken")
            })?;
        }
        self.seen.most_zombies = self.seen.most_zombies.max(self.machine.zombies());
        self.seen.max_cached = self.seen.max_cached.max(self.machine.cached());
        let (cached, bound) = (self.machine.cached(), RING_SIZE * MAX_SEGMENTS);
        check(cached <= bound, || format!("{cached} cached pages"))?;
        check(self.machine.zombies() == self.unmapping(), || {
            "zombies are miscounted".into()
        })
    }

    fn judge_action(&mut self, action: Action) -> Verdict {
        match action {
            Action::Map {
                key,
                access,
                segments,
            } => {
                if let MapKey::Request(tag) = key {
                    let request = request(&self.machine, tag);
                    let write = request.map(|r| r.operation);
                    check(
                        access.writable() == (write == Some(Operation::Read)),
                        || "a write's pages are mapped writable, or a read's are not".into(),
                    )?;
                    let same = request.is_some_and(|r| r.segments == segments);
                    check(same, || format!("{request:?} maps {segments:?}"))?;
                }
                let before = self.maps.insert(key, MapState::Wanted);
                check(before.is_none(), || {
                    format!("{key:?} is mapped twice: {before:?}")
                })
            }
            Action::Unmap { key, .. } => {
                if matches!(key, MapKey::Cached(_)) {
                    self.seen.evictions += 1;
                }
                let before = self.maps.insert(key, MapState::Unmapping);
                check(before == Some(MapState::Mapped), || {
                    format!("unmap of a {before:?} map")
                })?;
                let used = self.pending.iter().any(|p| match (p, key) {
                    (Action::Disk { tag, .. }, MapKey::Request(of)) => *tag == of,
                    (
                        Action::Disk {
                            pages: Pages::Kept(slots),
                            ..
                        },
                        MapKey::Cached(slot),
                    ) => slots.contains(&Some(slot)),
                    _ => false,
                });
                check(!used, || {
                    format!("unmap of {key:?} while the disk works on it")
                })
            }
            Action::Disk {
                tag,
                op,
                sector,
                segments,
                ..
            } => {
                let Some(request) = request(&self.machine, tag) else {
                    return Err("disk work for nobody".into());
                };
                let same = (sector, segments) == (request.sector, request.segments);
                check(op == DiskOp::Flush || same, || {
                    format!("{op:?} of {segments:?} at {sector} for {request:?}")
                })?;
                let end = u128::from(request.sector) + request.data_len() as u128 / 512;
                check(op == DiskOp::Flush || end <= u128::from(SECTORS), || {
                    format!("{op:?} beyond the end: {request:?}")
                })?;
                check(op != DiskOp::Write || !self.policy.read_only, || {
                    "a write to a read-only disk".into()
                })
            }
            _ => Ok(()),
        }
    }

    /// The tag of the request that `Input::Request` just brought in: one that is not noted yet.
    /// None if the machine refused it.
    fn newest_tag(&self) -> Option<Tag> {
        let noted: BTreeSet<usize> = self.taken.keys().map(|tag| tag.index()).collect();
        self.machine
            .jobs
            .iter()
            .map(|(index, _)| index)
            .find(|index| !noted.contains(index))
            .map(Tag::from_index)
    }

    fn note_taken(&mut self, tag: Tag, request: Request) {
        let serial = self.serial;
        self.serial += 1;
        self.taken.entry(tag).or_insert(Taken {
            request,
            serial,
            failed: false,
            disk_ok: false,
            copied_out: false,
        });
    }

    fn judge_response(&mut self, refused: Option<Request>, response: Response) -> Verdict {
        check(!self.front_gone, || {
            format!("{response:?} to a front that is gone")
        })?;
        let left = self.unanswered.get_mut(&response.id);
        let left = left
            .filter(|n| **n > 0)
            .ok_or_else(|| format!("{response:?} to no request"))?;
        *left -= 1;
        match response.status {
            Status::Okay => self.seen.okay += 1,
            Status::Error => self.seen.errors += 1,
            Status::NotSupported => self.seen.unsupported += 1,
        }
        if let Some(request) = refused {
            return Self::judge_refusal(&request, response);
        }
        // The answered ones are those that we noted and the machine has forgotten.
        let gone = self.taken.iter().filter(|(tag, taken)| {
            taken.request.id == response.id
                && taken.request.operation.number() == response.operation
                && request(&self.machine, **tag).is_none()
        });
        let Some((&tag, taken)) = gone.min_by_key(|(_, taken)| taken.serial) else {
            return Err(format!("{response:?}, but the request is not over"));
        };
        let mapped = self.maps.contains_key(&MapKey::Request(tag));
        check(!mapped, || format!("{response:?} while {:?}", self.maps))?;
        let data = taken.request.operation != Operation::Flush;
        let copied = self.policy.mode != DataMode::Copy
            || taken.request.operation != Operation::Read
            || taken.copied_out;
        let good = taken.disk_ok && !taken.failed && (!data || copied);
        check((response.status == Status::Okay) == good, || {
            format!("{response:?} to {taken:?}")
        })?;
        self.taken.remove(&tag);
        Ok(())
    }

    fn judge_refusal(request: &Request, response: Response) -> Verdict {
        let expected = match request.operation {
            Operation::Other(_) => Status::NotSupported,
            _ => Status::Error,
        };
        check(response.status == expected, || {
            format!("{response:?} to {request:?} at once")
        })
    }
}

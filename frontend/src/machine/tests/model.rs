//! A model of back end, disk and callers, driven by a seed: random order of answers, errors,
//! garbage, silence, death and return at any step. The judges are in [`Model`]; each sabotage
//! must make one of them speak.

use super::super::*;
use libgnt::proto::blkif::{self, Operation, Response, Status};
use libgnt::ring::RingError;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

const SECTORS: u64 = 4096;
const DEADLINE: Duration = Duration::from_secs(5);

/// A sector's content, for the model: which write made it.
type Stamp = u64;

struct Asked {
    serial: u64,
    request: IoRequest,
    data: Vec<Stamp>,
    /// Sectors that the model answered with okay; a flush counts one.
    answered: u32,
    /// Sectors that the model back end has, or has answered.
    given: u32,
}

/// A request that the model back end has.
struct Taken {
    io: IoKey,
    serial: u64,
    request: blkif::Request,
    executed: bool,
}

struct Model {
    rng: fastrand::Rng,
    machine: FrontMachine,
    now: Now,
    persistent: bool,
    up: bool,
    /// Sectors of the disk, as last said; the medium keeps all of them.
    size: u64,
    next_gref: u32,
    next_serial: u64,
    memory: HashMap<u32, [Stamp; 8]>,
    grefs: Vec<GrantRef>,
    disk: Vec<Stamp>,
    taken: Vec<Taken>,
    old_answers: Vec<Response>,
    asked: HashMap<IoKey, Asked>,
    /// What a read must find; `None` after a write that may or may not have happened.
    expected: Vec<Option<Stamp>>,
    /// Sectors that a timed-out write may still change in this connection.
    tainted: HashSet<u64>,
    last_push: [Option<(u64, u64)>; 2],
    fatal: bool,
    completed: u64,
}

type Verdict = Result<(), String>;

/// The sector after the last.
fn end(request: &IoRequest) -> u64 {
    request.sector + u64::from(request.sectors)
}

impl Model {
    fn new(seed: u64, sabotage: FrontSabotage) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let persistent = rng.bool();
        Model {
            machine: FrontMachine::sabotaged(
                Limits {
                    queue: 40,
                    deadline: DEADLINE,
                },
                sabotage,
            ),
            now: Duration::ZERO,
            persistent,
            up: false,
            size: SECTORS,
            next_gref: 8,
            next_serial: 0,
            memory: HashMap::new(),
            grefs: Vec::new(),
            disk: vec![0; SECTORS as usize],
            taken: Vec::new(),
            old_answers: Vec::new(),
            asked: HashMap::new(),
            expected: vec![Some(0); SECTORS as usize],
            tainted: HashSet::new(),
            last_push: [None; 2],
            fatal: false,
            completed: 0,
            rng,
        }
    }

    fn grants(&mut self, count: u32) -> Vec<GrantRef> {
        let first = self.next_gref;
        self.next_gref += count;
        (first..first + count).map(GrantRef).collect()
    }

    fn connect(&mut self) -> Verdict {
        let (read, write) = (self.rng.u32(1..40), self.rng.u32(1..40));
        let read_pages = self.grants(read);
        let write_pages = (!self.persistent).then(|| self.grants(write));
        self.grefs = read_pages
            .iter()
            .chain(write_pages.iter().flatten())
            .copied()
            .collect();
        self.memory = self.grefs.iter().map(|g| (g.0, [0; 8])).collect();
        self.last_push = [None; 2];
        self.old_answers.clear();
        (self.up, self.size) = (true, SECTORS);
        let disk = DiskInfo {
            sectors: SECTORS,
            sector_size: 512,
            physical_sector_size: 512,
            read_only: false,
            flush: true,
            persistent: self.persistent,
        };
        let ring_slots = if self.rng.bool() { 32 } else { 4 };
        let session = Session {
            disk,
            ring_slots,
            handle: 51712,
            read_pages,
            write_pages,
        };
        self.input(Input::Connected(Box::new(session)))
    }

    fn die(&mut self) -> Verdict {
        // Some of what the back end had was done, and nobody knows which.
        for n in 0..self.taken.len() {
            if self.rng.bool() {
                self.execute(n);
            }
        }
        self.taken.clear();
        self.tainted.clear();
        self.up = false;
        for asked in self.asked.values_mut() {
            asked.given = asked.answered;
        }
        self.input(Input::BackGone)
    }

    /// Mostly large, so that there is something to do.
    fn resize(&mut self) -> Verdict {
        self.size = match self.rng.u32(0..3) {
            0 => self.rng.u64(1..SECTORS),
            _ => SECTORS,
        };
        self.input(Input::Resized { sectors: self.size })
    }

    /// Callers do not write where something else of theirs is under way.
    fn busy(&self, request: &IoRequest) -> bool {
        let range = |r: &IoRequest| r.sector..r.sector + u64::from(r.sectors);
        let mine = range(request);
        self.asked.values().any(|other| {
            let theirs = range(&other.request);
            let apart = mine.end <= theirs.start || theirs.end <= mine.start;
            !apart && (request.op == IoOp::Write || other.request.op == IoOp::Write)
        })
    }

    fn submit(&mut self) -> Verdict {
        let sectors = match self.rng.u32(0..4) {
            0 => self.rng.u32(1..300),
            _ => self.rng.u32(1..16),
        };
        let sector = self.rng.u64(0..SECTORS - u64::from(sectors));
        let request = match self.rng.u32(0..10) {
            0 => IoRequest::flush(),
            1..=4 => IoRequest::read(sector, sectors),
            _ => IoRequest::write(sector, sectors),
        };
        if self.busy(&request) {
            return Ok(());
        }
        // The lowest number that names nothing: keys come again soon.
        let mut keys = (0..).map(IoKey);
        let io = keys.find(|key| !self.asked.contains_key(key));
        let io = io.ok_or("every number is in use")?;
        let mut out = Vec::new();
        let input = Input::Submit { io, request };
        self.machine.step(self.now, input, &mut out);
        let refused = match &out[..] {
            [] => Ok(()),
            [Action::Refuse { io: other, error }] if *other == io => Err(error),
            other => return Err(format!("a submission did {other:?}")),
        };
        match refused {
            Ok(()) => {}
            Err(IoError::QueueFull { .. }) if self.asked.len() == 40 => return Ok(()),
            Err(IoError::Device(_)) if self.fatal => return Ok(()),
            Err(IoError::OutOfRange { .. }) if self.up && end(&request) > self.size => {
                return Ok(());
            }
            Err(error) => return Err(format!("submit refused: {error}")),
        };
        self.next_serial += 1;
        let serial = self.next_serial;
        let stamp = |n: u32| {
            if request.op == IoOp::Write {
                serial << 16 | u64::from(n)
            } else {
                0
            }
        };
        let data = (0..request.sectors).map(stamp).collect();
        let asked = Asked {
            serial,
            request,
            data,
            answered: 0,
            given: 0,
        };
        match self.asked.insert(io, asked) {
            Some(_) => Err(format!("{io:?} names two I/Os")),
            None => Ok(()),
        }
    }

    fn input(&mut self, input: Input) -> Verdict {
        let mut out = Vec::new();
        self.machine.step(self.now, input, &mut out);
        self.perform(out)
    }

    fn perform(&mut self, actions: Vec<Action>) -> Verdict {
        for action in actions {
            match action {
                Action::Push {
                    io,
                    request,
                    pages,
                    start,
                    len,
                } => {
                    self.push(io, request, &pages, start / 512, len / 512)?;
                }
                Action::CopyOut {
                    io,
                    pages,
                    start,
                    len,
                } => {
                    let asked = self.asked.get_mut(&io).ok_or("data for no I/O")?;
                    for n in 0..len / 512 {
                        let gref = self.grefs[usize::from(pages[n / 8].0)].0;
                        asked.data[start / 512 + n] = self.memory[&gref][n % 8];
                    }
                }
                Action::Released { .. } => {}
                Action::Complete { io, result } => self.complete(io, result)?,
                Action::Refuse { io, error } => return Err(format!("{io:?} refused: {error}")),
                Action::Fatal(_) => {
                    self.fatal = true;
                    if !self.asked.is_empty() {
                        return Err("fatal before everything was completed".into());
                    }
                }
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        io: IoKey,
        request: blkif::Request,
        pages: &PageList,
        start: usize,
        len: usize,
    ) -> Verdict {
        if let Some(asked) = self.asked.get_mut(&io) {
            asked.given += len as u32;
        }
        let asked = self.asked.get(&io).ok_or("a request for no I/O")?;
        if end(&asked.request) > self.size {
            return Err(format!("{request:?} is of an I/O past the end"));
        }
        if request.sector != asked.request.sector + start as u64
            || request.data_len() != len * 512
            || pages.len() != request.segments.len()
        {
            return Err(format!(
                "{request:?} is not sectors {start}+{len} of its I/O"
            ));
        }
        for segment in request.segments.iter() {
            let used = |t: &Taken| t.request.segments.iter().any(|s| s.gref == segment.gref);
            if self.taken.iter().any(used) {
                return Err(format!("{} is in two requests", segment.grant()));
            }
        }
        if self.taken.iter().any(|t| t.request.id == request.id) {
            return Err(format!("id {:#x} is in flight twice", request.id));
        }
        match request.operation {
            Operation::Flush => {
                let earlier = |a: &&Asked| a.request.op == IoOp::Write && a.serial < asked.serial;
                if let Some(write) = self.asked.values().find(earlier) {
                    return Err(format!("a flush overtakes the {}", write.request));
                }
            }
            operation => {
                let kind = usize::from(operation == Operation::Write);
                let place = (asked.serial, request.sector);
                if self.last_push[kind].is_some_and(|last| last >= place) {
                    return Err(format!("{request:?} goes out after a newer one"));
                }
                self.last_push[kind] = Some(place);
                if kind == 1 {
                    for n in 0..len {
                        let page = self.memory.get_mut(&request.segments[n / 8].gref);
                        page.ok_or("an unknown grant")?[n % 8] = asked.data[start + n];
                    }
                }
            }
        }
        self.taken.push(Taken {
            io,
            serial: asked.serial,
            request,
            executed: false,
        });
        Ok(())
    }

    fn execute(&mut self, at: usize) {
        let taken = &mut self.taken[at];
        if std::mem::replace(&mut taken.executed, true) {
            return;
        }
        let request = taken.request;
        for n in 0..request.data_len() / 512 {
            let page = self
                .memory
                .get_mut(&request.segments[n / 8].gref)
                .expect("own page");
            let sector = &mut self.disk[request.sector as usize + n];
            match request.operation {
                Operation::Read => page[n % 8] = *sector,
                _ => *sector = page[n % 8],
            }
        }
    }

    fn answer(&mut self) -> Verdict {
        if self.taken.is_empty() {
            return Ok(());
        }
        let at = self.rng.usize(0..self.taken.len());
        let status = match self.rng.u32(0..40) {
            0 => Status::Error,
            1 => Status::NotSupported,
            _ => Status::Okay,
        };
        // One disk that says "no flush" would end the flushes of this run.
        let flush = self.taken[at].request.operation == Operation::Flush;
        let status = if flush { Status::Okay } else { status };
        if status == Status::Okay || self.rng.bool() {
            self.execute(at);
        }
        let taken = self.taken.swap_remove(at);
        if let Some(asked) = self.asked.get_mut(&taken.io)
            && asked.serial == taken.serial
            && status == Status::Okay
        {
            asked.answered += (taken.request.data_len() / 512).max(1) as u32;
        }
        let operation = match taken.request.operation {
            Operation::Read => 0,
            Operation::Write => 1,
            _ => 3,
        };
        let response = Response {
            id: taken.request.id,
            operation,
            status,
        };
        self.old_answers.push(response);
        self.input(Input::Response {
            response,
            still_mapped: None,
        })
    }

    /// Nonsense of one kind; the device must close.
    fn lie(&mut self) -> Verdict {
        let in_flight = self.taken.first().map(|t| t.request);
        let told = |response, still_mapped| Input::Response {
            response,
            still_mapped,
        };
        let input = match (self.rng.u32(0..5), in_flight, self.old_answers.last()) {
            (0, Some(request), _) => {
                let operation = if request.operation == Operation::Read {
                    1
                } else {
                    0
                };
                let lie = Response {
                    id: request.id,
                    operation,
                    status: Status::Okay,
                };
                told(lie, None)
            }
            (1 | 2, _, Some(&old)) => told(old, None),
            (3, Some(request), _) if !request.segments.is_empty() && !self.persistent => {
                let operation = if request.operation == Operation::Read {
                    0
                } else {
                    1
                };
                let early = Response {
                    id: request.id,
                    operation,
                    status: Status::Okay,
                };
                let grant = request.segments[0].grant();
                told(early, Some(grant))
            }
            (4, ..) => {
                let error = RingError::Malformed {
                    slot: 3,
                    what: "nonsense",
                };
                Input::RingBroken(error)
            }
            _ => {
                let id = self.rng.u64(..);
                let lie = Response {
                    id,
                    operation: 0,
                    status: Status::Okay,
                };
                told(lie, None)
            }
        };
        self.taken.clear();
        self.input(input)?;
        match self.fatal {
            true => Ok(()),
            false => Err("nonsense was believed".into()),
        }
    }

    fn complete(&mut self, io: IoKey, result: Result<(), IoError>) -> Verdict {
        let asked = self
            .asked
            .remove(&io)
            .ok_or(format!("{io:?} completed twice"))?;
        self.completed += 1;
        let range = asked.request.sector..asked.request.sector + u64::from(asked.request.sectors);
        let late = matches!(result, Err(IoError::TimedOut { .. }));
        if result.is_ok() && asked.answered < asked.request.sectors.max(1) {
            return Err(format!("{} completed, but was not answered", asked.request));
        }
        let refused = matches!(result, Err(IoError::OutOfRange { .. }));
        if refused && self.up && asked.given == asked.request.sectors {
            return Err(format!("{} was refused on the ring", asked.request));
        }
        for (sector, stamp) in range.zip(&asked.data) {
            let expected = &mut self.expected[sector as usize];
            match (asked.request.op, &result) {
                (IoOp::Write, Ok(())) if !self.tainted.contains(&sector) => {
                    *expected = Some(*stamp)
                }
                (IoOp::Write, _) => *expected = None,
                (_, Ok(())) if expected.is_some_and(|expected| expected != *stamp) => {
                    return Err(format!(
                        "sector {sector}: read {stamp:#x}, not {expected:x?}"
                    ));
                }
                _ => {}
            }
            if late && asked.request.op == IoOp::Write {
                self.tainted.insert(sector);
            }
        }
        Ok(())
    }

    fn step(&mut self, hostile: bool) -> Verdict {
        match self.rng.u32(0..100) {
            0..40 => self.submit()?,
            40..85 if self.up => self.answer()?,
            85..87 if self.up => self.die()?,
            87..97 if !self.up => self.connect()?,
            95..97 => self.resize()?,
            97 => self.now += Duration::from_millis(self.rng.u64(0..4000)),
            98 if hostile && self.up => self.lie()?,
            _ => self.now += Duration::from_millis(1),
        }
        self.input(Input::Tick)?;
        self.input(Input::Push)?;
        if self.machine.pending() != self.asked.len() {
            return Err(format!(
                "{} pending, not {}",
                self.machine.pending(),
                self.asked.len()
            ));
        }
        Ok(())
    }

    fn run(mut self, hostile: bool) -> Result<u64, String> {
        for _ in 0..600 {
            self.step(hostile)?;
            if self.fatal {
                return Ok(self.completed);
            }
        }
        if !self.up {
            self.connect()?;
        }
        for _ in 0..2000 {
            if self.asked.is_empty() {
                break;
            }
            self.answer()?;
            self.input(Input::Push)?;
        }
        if let Some(asked) = self.asked.values().next() {
            return Err(format!("{} never completed", asked.request));
        }
        for (n, expected) in self.expected.iter().enumerate() {
            if expected.is_some_and(|expected| expected != self.disk[n]) {
                return Err(format!("an acknowledged write of sector {n} is lost"));
            }
        }
        Ok(self.completed)
    }
}

#[test]
fn every_promise_holds_whatever_the_back_end_does() {
    let mut completed = 0;
    for seed in 0..600 {
        match Model::new(seed, FrontSabotage::None).run(seed % 3 == 0) {
            Ok(n) => completed += n,
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    assert!(
        completed > 50_000,
        "only {completed} I/Os: the model hardly ran"
    );
}

fn caught(sabotage: FrontSabotage, sign: &str) {
    let verdict = |seed| Model::new(seed, sabotage).run(seed % 2 == 0).err();
    let found: Vec<String> = (0..200).filter_map(verdict).collect();
    assert!(
        found.iter().any(|violation| violation.contains(sign)),
        "{sabotage:?} must be caught as {sign:?}, got {:?}",
        found.first()
    );
}

#[test]
fn broken_variants_are_caught() {
    caught(FrontSabotage::FreeAtPush, "is in two requests");
    caught(FrontSabotage::IgnoreGeneration, "nonsense was believed");
    caught(FrontSabotage::IgnoreOperation, "nonsense was believed");
    caught(FrontSabotage::IgnoreStillMapped, "nonsense was believed");
    caught(FrontSabotage::AcknowledgeOnDeath, "was not answered");
    // The forgotten write stays unanswered, and a later flush passes it.
    caught(FrontSabotage::ForgetOnDeath, "a flush overtakes");
    caught(FrontSabotage::ResendBackwards, "goes out after a newer one");
    caught(FrontSabotage::FlushOvertakes, "a flush overtakes");
    caught(FrontSabotage::CompleteEarly, "was not answered");
    caught(FrontSabotage::RefuseOnTheRing, "was refused on the ring");
}

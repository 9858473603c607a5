//! A random walk: processes of three domains ask for anything, mostly things that make sense,
//! and die. After every step everything that must hold is checked.
//!
//! The seeds are fixed. A failure names its seed and step; [`walk`] with that seed replays it.

mod asks;

use super::*;
use crate::platform::GuestType;
use crate::sim::core::{Action, Config, ConnId, Input, KernelSabotage, Now};
use crate::sim::wire::{DeviceKind, FileId, HoldId, HoldKind, Reply, Request, UnmapMode, VmaId};
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, UnmapNotify};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::time::Duration;

const STEPS: usize = 500;
const DOMAINS: [DomId; 3] = [GUEST, BACKEND, DomId(3)];

/// What a walk went through; without it, it would prove nothing.
#[derive(Debug, Default)]
struct Seen {
    mapped: usize,
    deferred: u64,
    blocked: usize,
    deadlocks: usize,
    revoked: usize,
    deaths: usize,
    refusals: usize,
    zombies: usize,
    events: usize,
    damages: usize,
}

struct Process {
    conn: ConnId,
    domid: DomId,
    files: Vec<(DeviceKind, FileId)>,
    vmas: Vec<(VmaId, u32)>,
    maps: Vec<(FileId, u64, u32)>,
    allocs: Vec<(FileId, u64, u32)>,
    ports: Vec<(FileId, EvtchnPort)>,
}

struct Walk {
    w: Rig,
    rng: fastrand::Rng,
    dom0: ConnId,
    processes: Vec<Process>,
    holds: Vec<HoldId>,
    offered: Vec<(DomId, EvtchnPort)>,
    /// What makes sense for the same process to ask next.
    next: Option<Request>,
    /// Who asked last.
    last: usize,
    /// Blocked calls: whose.
    pending: BTreeMap<u64, ConnId>,
    seen: Seen,
}

impl Walk {
    fn new(config: Config, seed: u64) -> Walk {
        let mut w = Rig::with(config);
        let dom0 = w.join(DOM0, "xl");
        let mut walk = Walk {
            w,
            rng: fastrand::Rng::with_seed(seed),
            dom0,
            processes: Vec::new(),
            holds: Vec::new(),
            offered: Vec::new(),
            next: None,
            last: 0,
            pending: BTreeMap::new(),
            seen: Seen::default(),
        };
        for n in 0..5 {
            walk.spawn(DOMAINS[n % 3]);
        }
        walk
    }

    /// A new process, unless its domain's last incarnation is still dying.
    fn spawn(&mut self, domid: DomId) {
        if self
            .w
            .inspect()
            .domains
            .iter()
            .any(|d| d.domid == domid && !d.alive)
        {
            return;
        }
        let keep = self.rng.bool();
        let conn = self.w.join_with(Some(domid), "walker", keep);
        let none = Vec::new;
        self.processes.push(Process {
            conn,
            domid,
            files: none(),
            vmas: Vec::new(),
            maps: Vec::new(),
            allocs: Vec::new(),
            ports: Vec::new(),
        });
        for device in [DeviceKind::Gntalloc, DeviceKind::Gntdev, DeviceKind::Evtchn] {
            let file = self.w.open(conn, device);
            if let Some(process) = self.processes.last_mut() {
                process.files.push((device, file));
            }
        }
    }

    /// One step, and what must hold after it.
    fn step(&mut self) -> Result<(), String> {
        match self.rng.u32(..200) {
            0 | 1 => self.death(),
            2 => self.destruction(),
            3..=22 => self.time(),
            23..=26 => self.drained(),
            _ => self.ask()?,
        }
        self.w.check()?;
        self.late_replies()
    }

    fn death(&mut self) {
        let at = self.rng.usize(..self.processes.len());
        let dead = self.processes.swap_remove(at);
        self.w
            .step_unchecked(Input::Disconnected { conn: dead.conn });
        self.pending.retain(|_, conn| *conn != dead.conn);
        self.seen.deaths += 1;
        self.repopulate();
    }

    fn destruction(&mut self) {
        let domid = Self::pick(&mut self.rng, &DOMAINS).unwrap_or(GUEST);
        let dom0 = self.dom0;
        let tag = self
            .w
            .send_unchecked(dom0, Request::DestroyDomain { domid });
        self.w.take(tag);
        let gone: Vec<_> = self
            .processes
            .iter()
            .filter(|p| p.domid == domid)
            .map(|p| p.conn)
            .collect();
        self.pending.retain(|_, conn| !gone.contains(conn));
        // A call of one may end with the death of another, just before its own connection is cut.
        self.w.replies.retain(|_, (conn, ..)| !gone.contains(conn));
        self.processes.retain(|p| p.domid != domid);
        self.seen.zombies += self.w.inspect().domains.iter().filter(|d| !d.alive).count();
        self.repopulate();
    }

    fn repopulate(&mut self) {
        self.next = None;
        if self.w.check().is_ok() {
            for n in 0..5 {
                if self.processes.len() < 5 {
                    self.spawn(DOMAINS[n % 3]);
                }
            }
        }
        // Should every domain be dying still, time has to pass before the next step.
        while self.processes.is_empty() && self.w.check().is_ok() {
            self.w.drain();
            self.spawn(GUEST);
        }
    }

    fn time(&mut self) {
        let next = self.w.machine.next_timer();
        let soon = self.w.now + Duration::from_millis(self.rng.u64(..50));
        let at = if self.rng.bool() {
            next.unwrap_or(soon)
        } else {
            soon
        };
        self.w.now = self.w.now.max(at);
        self.w.step_unchecked(Input::Timer);
    }

    fn drained(&mut self) {
        if !self.w.revoked.is_empty() {
            let (domid, gref) = self.w.revoked.swap_remove(0);
            self.seen.revoked += 1;
            self.w.step_unchecked(Input::CopyDrained { domid, gref });
        }
    }

    fn ask(&mut self) -> Result<(), String> {
        let next = self.next.take().filter(|_| self.rng.u32(..3) > 0);
        let at = match next {
            Some(_) => self.last,
            None => self.rng.usize(..self.processes.len()),
        };
        self.last = at;
        let conn = self.processes[at].conn;
        let request = match next {
            Some(request) => request,
            None => self.request(at),
        };
        if matches!(request, Request::Munmap { .. }) && self.rng.u32(..4) == 0 {
            self.w.step_unchecked(Input::Request {
                conn,
                tag: None,
                request,
            });
            return Ok(());
        }
        let before = match request {
            Request::AllocGref { .. } => self.w.inspect().grants,
            _ => Vec::new(),
        };
        let tag = self.w.send_unchecked(conn, request.clone());
        match self.w.take(tag) {
            None => {
                if self.w.machine.config.unmap == UnmapMode::Async {
                    return Err(format!("(a) {request:?} blocks"));
                }
                self.seen.blocked += 1;
                self.pending.insert(tag, conn);
            }
            Some(Err(error)) if error.errno != Errno::DEADLK.raw_os_error() => {
                self.seen.refusals += 1;
            }
            Some(Err(_)) => {}
            Some(Ok(answer)) => {
                let domid = self.processes[at].domid;
                if let Reply::Allocated { grefs, .. } = &answer
                    && let Some(used) = before
                        .iter()
                        .find(|g| g.grant.domid == domid && grefs.contains(&g.grant.gref))
                {
                    return Err(format!("{} is given out while in use", used.grant));
                }
                self.learn(at, &request, &answer);
            }
        }
        Ok(())
    }

    /// Blocked calls end in success, or with a deadlock that was reported.
    fn late_replies(&mut self) -> Result<(), String> {
        for (tag, conn) in self.pending.clone() {
            if let Some(answer) = self.w.take(tag) {
                self.pending.remove(&tag);
                match answer {
                    Ok(Reply::Done) => {}
                    Err(e) if e.errno == Errno::DEADLK.raw_os_error() && !e.cycle.is_empty() => {}
                    other => return Err(format!("{conn:?} hears {other:?}")),
                }
            }
        }
        if let Some(stray) = self.w.replies.keys().next() {
            return Err(format!("a reply {stray} that nobody waits for"));
        }
        self.seen.deadlocks += self.w.deadlocks().len();
        self.seen.events += self.w.raises().len();
        self.w
            .out
            .retain(|o| !matches!(o, Action::Deadlock(_) | Action::Raise { .. }));
        Ok(())
    }

    /// Everybody goes, time passes, and nothing may be left.
    fn end(&mut self) -> Result<(), String> {
        self.seen.damages = self.w.inspect().damage.len();
        if self.seen.damages > 0 {
            // What a kernel cannot unmap any more goes with its domain.
            for domid in DOMAINS {
                let destroy = Request::DestroyDomain { domid };
                self.w.send_unchecked(self.dom0, destroy);
                self.w.check()?;
            }
        }
        let conns: Vec<_> = self
            .processes
            .iter()
            .map(|p| p.conn)
            .chain([self.dom0])
            .collect();
        for conn in conns {
            self.w.step_unchecked(Input::Disconnected { conn });
            self.w.check()?;
        }
        for _ in 0..2000 {
            for (domid, gref) in std::mem::take(&mut self.w.revoked) {
                self.w.step_unchecked(Input::CopyDrained { domid, gref });
            }
            let Some(at) = self.w.machine.next_timer() else {
                break;
            };
            self.w.now = self.w.now.max(at);
            self.w.step_unchecked(Input::Timer);
            self.w.check()?;
        }
        let left = self.w.inspect();
        self.seen.deferred = left.deferred_unmaps;
        let empty = left.grants.is_empty()
            && left.unmapping.is_empty()
            && left.holders.is_empty()
            && left.domains.iter().all(|d| d.alive)
            && (left.gntalloc_pages, left.event_channels) == (0, 0)
            && self.w.runs.is_empty()
            && self.w.machine.next_timer().is_none();
        if empty {
            Ok(())
        } else {
            Err(format!("in the end, left: {left:?}"))
        }
    }
}

/// Walks, and says what it saw.
fn walk(config: Config, seed: u64) -> Result<Seen, String> {
    let mut walk = Walk::new(config, seed);
    for step in 0..STEPS {
        walk.step().map_err(|why| format!("step {step}: {why}"))?;
    }
    walk.end().map_err(|why| format!("end: {why}"))?;
    Ok(walk.seen)
}

/// Small limits, so that a walk meets them.
fn config(unmap: UnmapMode, guest: GuestType) -> Config {
    Config {
        unmap,
        guest,
        gntalloc_limit: 40,
        grant_entries: 60,
        event_channels: 12,
        ..Config::default()
    }
}

fn walks(unmap: UnmapMode, guest: GuestType) -> Vec<Seen> {
    let one = |seed| match walk(config(unmap, guest), seed) {
        Ok(seen) => seen,
        Err(why) => panic!("seed {seed}, {unmap:?}, {guest:?}: {why}"),
    };
    (0..40).map(one).collect()
}

#[test]
fn anything_may_happen_on_the_asynchronous_kernel() {
    let seen = walks(UnmapMode::Async, GuestType::Pvh);
    let sum = |f: fn(&Seen) -> usize| seen.iter().map(f).sum::<usize>();
    assert_eq!(sum(|s| s.blocked), 0);
    assert_eq!(sum(|s| s.deadlocks), 0);
    assert_eq!(sum(|s| s.damages), 0);
    for (what, times) in [
        ("mapped", sum(|s| s.mapped)),
        ("deferred", sum(|s| s.deferred as usize)),
        ("revoked", sum(|s| s.revoked)),
        ("deaths", sum(|s| s.deaths)),
        ("refusals", sum(|s| s.refusals)),
        ("zombies", sum(|s| s.zombies)),
        ("events", sum(|s| s.events)),
    ] {
        assert!(times >= 20, "{what}: only {times} times in all walks");
    }
}

#[test]
fn anything_may_happen_on_the_synchronous_kernel() {
    let seen = walks(UnmapMode::Sync, GuestType::Pv);
    let sum = |f: fn(&Seen) -> usize| seen.iter().map(f).sum::<usize>();
    assert_eq!(sum(|s| s.damages), 0);
    for (what, times) in [
        ("mapped", sum(|s| s.mapped)),
        ("blocked", sum(|s| s.blocked)),
        ("deadlocks", sum(|s| s.deadlocks)),
        ("zombies", sum(|s| s.zombies)),
    ] {
        assert!(times >= 5, "{what}: only {times} times in all walks");
    }
}

/// The notifier's deadlock does not exist where there is no notifier, and the waiting does.
#[test]
fn anything_may_happen_on_the_synchronous_kernel_of_a_pvh_guest() {
    let seen = walks(UnmapMode::Sync, GuestType::Pvh);
    let sum = |f: fn(&Seen) -> usize| seen.iter().map(f).sum::<usize>();
    assert!(sum(|s| s.blocked) >= 5, "{seen:?}");
    assert_eq!(sum(|s| s.damages), 0);
}

#[test]
fn anything_may_happen_to_a_pv_guest_and_its_books_tell() {
    let seen = walks(UnmapMode::Async, GuestType::Pv);
    let sum = |f: fn(&Seen) -> usize| seen.iter().map(f).sum::<usize>();
    assert_eq!((sum(|s| s.blocked), sum(|s| s.deadlocks)), (0, 0));
    for (what, times) in [
        ("mapped", sum(|s| s.mapped)),
        ("damages", sum(|s| s.damages)),
        ("zombies", sum(|s| s.zombies)),
    ] {
        assert!(times >= 20, "{what}: only {times} times in all walks");
    }
}

/// The same seed gives the same outputs, one by one.
#[test]
fn a_walk_is_deterministic() {
    let trace = |unmap| {
        let mut walk = Walk::new(config(unmap, where_it_cycles(unmap)), 7);
        let mut trace: Vec<(Now, String)> = Vec::new();
        for _ in 0..STEPS {
            walk.step().unwrap();
            trace.push((
                walk.w.now,
                format!("{:?} {:?}", walk.w.out, walk.w.inspect()),
            ));
        }
        trace
    };
    for unmap in [UnmapMode::Async, UnmapMode::Sync] {
        assert!(trace(unmap) == trace(unmap), "{unmap:?}");
    }
}

/// The walk's checks notice each broken machine.
#[test]
fn the_walk_catches_each_sabotage() {
    let broken = [
        (UnmapMode::Async, KernelSabotage::UnmapIgnoresReferences),
        (UnmapMode::Async, KernelSabotage::NoMapReferenceAcrossAsync),
        (UnmapMode::Async, KernelSabotage::DoubleUnmap),
        (UnmapMode::Async, KernelSabotage::ReuseWhileInUse),
        (UnmapMode::Sync, KernelSabotage::LostWakeup),
        (UnmapMode::Async, KernelSabotage::HoldOutlivesOwner),
        (UnmapMode::Async, KernelSabotage::NoQuota),
    ];
    for (unmap, how) in broken {
        let config = Config {
            sabotage: Some(how),
            ..config(unmap, where_it_cycles(unmap))
        };
        let caught = (0..40).find_map(|seed| walk(config.clone(), seed).err());
        assert!(caught.is_some(), "{how:?} goes unnoticed");
    }
}

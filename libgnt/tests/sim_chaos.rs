//! Processes that do anything, in any order, and are killed at any moment: nothing of theirs stays.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod sim_common;

use fastrand::Rng;
use libgnt::SharedPages;
use libgnt::platform::{
    AllocatedGrants, CopySegment, CopySide, Evtchn, Gntalloc, Gntdev, Platform,
};
use libgnt::sim::client::{SimPlatform, connect};
use libgnt::sim::wire::{HoldId, HoldKind};
use libgnt::types::{
    Access, DomId, EvtchnPort, ForeignGrant, GrantRef, GrantStatus, PAGE_SIZE, UnmapNotify,
};
use sim_common::{Process, Xen, eventually, role, say};
use std::sync::Arc;

const SEED: u64 = 0x7481;
const ROUNDS: usize = 4;
const DOMAINS: u16 = 3;
/// Steps between two signs of life.
const STEPS: usize = 100;

/// A process that calls everything, with arguments that are sometimes good.
struct Monkey {
    rng: Rng,
    xen: Arc<SimPlatform>,
    gntalloc: Box<dyn Gntalloc>,
    gntdev: Box<dyn Gntdev>,
    evtchn: Box<dyn Evtchn>,
    runs: Vec<(AllocatedGrants, DomId)>,
    maps: Vec<(u64, usize)>,
    pages: Vec<SharedPages>,
    ports: Vec<EvtchnPort>,
    holds: Vec<HoldId>,
}

impl Monkey {
    fn new(dir: &std::path::Path, domid: u16, seed: u64) -> Self {
        let xen = connect(dir, Some(DomId(domid)), "monkey").unwrap();
        Monkey {
            rng: Rng::with_seed(seed),
            gntalloc: xen.open_gntalloc().unwrap(),
            gntdev: xen.open_gntdev().unwrap(),
            evtchn: xen.open_evtchn().unwrap(),
            xen,
            runs: Vec::new(),
            maps: Vec::new(),
            pages: Vec::new(),
            ports: Vec::new(),
            holds: Vec::new(),
        }
    }

    fn domid(&mut self) -> DomId {
        DomId(self.rng.u16(0..DOMAINS + 1))
    }

    fn grant(&mut self) -> ForeignGrant {
        let domid = self.domid();
        ForeignGrant {
            domid,
            gref: GrantRef(self.rng.u32(7..20)),
        }
    }

    fn access(&mut self) -> Access {
        if self.rng.bool() {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        }
    }

    /// One of a list, taken out.
    fn take<T>(rng: &mut Rng, list: &mut Vec<T>) -> Option<T> {
        (!list.is_empty()).then(|| list.swap_remove(rng.usize(0..list.len())))
    }

    fn notify(&mut self) -> UnmapNotify {
        let send_event = self
            .rng
            .choice(&self.ports)
            .copied()
            .filter(|_| self.rng.bool());
        UnmapNotify {
            clear_byte: self.rng.bool(),
            send_event,
        }
    }

    /// Errors are as good as successes: a wrong one shows in what is left behind.
    fn step(&mut self) {
        match self.rng.u8(0..16) {
            0 | 1 => {
                let (peer, access) = (self.domid(), self.access());
                if let Ok(run) = self.gntalloc.alloc_gref(peer, self.rng.usize(1..4), access) {
                    self.runs.push((run, peer));
                }
            }
            2 => {
                if let Some((run, _)) = Self::take(&mut self.rng, &mut self.runs) {
                    let _ = self.gntalloc.dealloc_gref(run.index, run.grefs.len());
                }
            }
            3 => {
                if let Some((run, _)) = self.rng.choice(&self.runs) {
                    self.pages
                        .extend(self.gntalloc.mmap(run.index, run.grefs.len()));
                }
            }
            4 => {
                let notify = self.notify();
                if let Some((run, _)) = self.rng.choice(&self.runs) {
                    let _ = self.gntalloc.set_unmap_notify(run.index + 62, notify);
                }
            }
            5 | 6 => {
                // Mostly one: a batch is good only if all of it is.
                let count = if self.rng.u8(0..4) == 0 { 3 } else { 1 };
                let grants: Vec<_> = (0..count).map(|_| self.grant()).collect();
                if let Ok(index) = self.gntdev.map_grant_ref(&grants) {
                    self.maps.push((index, count));
                    let access = self.access();
                    self.pages.extend(self.gntdev.mmap(index, count, access));
                }
            }
            7 => {
                if let Some((index, count)) = Self::take(&mut self.rng, &mut self.maps) {
                    let _ = self.gntdev.unmap_grant_ref(index, count);
                }
            }
            8 => {
                let notify = self.notify();
                if let Some((index, _)) = self.rng.choice(&self.maps) {
                    let _ = self.gntdev.set_unmap_notify(index + 63, notify);
                }
            }
            9 => {
                if let Some(pages) = Self::take(&mut self.rng, &mut self.pages)
                    && self.rng.bool()
                {
                    let _ = pages.unmap();
                }
            }
            10 => {
                let remote = self.domid();
                self.ports.extend(self.evtchn.bind_unbound(remote));
            }
            11 => {
                let (remote, port) = (self.domid(), EvtchnPort(self.rng.u32(0..20)));
                self.ports
                    .extend(self.evtchn.bind_interdomain(remote, port));
            }
            12 => {
                if self.ports.len() > 8
                    && let Some(port) = Self::take(&mut self.rng, &mut self.ports)
                {
                    let _ = self.evtchn.unbind(port);
                }
            }
            13 => {
                for port in &self.ports {
                    let _ = self.evtchn.notify(*port);
                }
                let mut got = Vec::new();
                let _ = self.evtchn.read(&mut got);
                let _ = self.evtchn.unmask(&got);
            }
            14 => {
                let (from, to) = (self.grant(), self.grant());
                let side = |grant| CopySide::Grant { grant, offset: 0 };
                let status = GrantStatus::OKAY;
                let len = PAGE_SIZE as u16;
                let segment = CopySegment {
                    source: side(from),
                    dest: side(to),
                    len,
                    status,
                };
                let _ = self.gntdev.grant_copy(&mut [segment]);
            }
            _ => {
                let kind = if self.rng.bool() {
                    HoldKind::Plain
                } else {
                    HoldKind::I915
                };
                let mm = SimPlatform::of(&*self.xen).unwrap();
                if let Some(pages) = self.rng.choice(&self.pages)
                    && let Ok(hold) = mm.pin(pages, 0, pages.pages(), kind)
                {
                    self.pages.extend(mm.attach(hold));
                    self.holds.push(hold);
                }
                if self.holds.len() > 2 {
                    let _ = mm.release(self.holds.swap_remove(0));
                }
            }
        }
        // A process has limits; the test should meet more than those.
        while self.pages.len() > 64 {
            self.pages.remove(0);
        }
    }
}

#[test]
fn nothing_stays_of_processes_killed_at_any_moment() {
    const TEST: &str = "nothing_stays_of_processes_killed_at_any_moment";
    if let Some((role, dir)) = role() {
        let (domid, seed) = role.split_once(' ').unwrap();
        let mut monkey = Monkey::new(&dir, domid.parse().unwrap(), seed.parse().unwrap());
        loop {
            (0..STEPS).for_each(|_| monkey.step());
            say("alive");
        }
    }
    let mut rng = Rng::with_seed(SEED);
    let xen = Xen::start();
    let watcher = xen.join(0, "watcher");
    for domid in 1..=DOMAINS {
        watcher.create_domain(DomId(domid), "guest").unwrap();
    }
    for round in 0..ROUNDS {
        let mut monkeys: Vec<Process> = (0..=DOMAINS)
            .map(|domid| {
                let role = format!("{domid} {}", rng.u64(..));
                Process::spawn(TEST, &role, xen.dir.path())
            })
            .collect();
        while !monkeys.is_empty() {
            // Killed in the middle of whatever comes after its last sign of life.
            for monkey in &mut monkeys {
                for _ in 0..rng.usize(1..4) {
                    monkey.hear();
                }
            }
            let mut victim = monkeys.swap_remove(rng.usize(0..monkeys.len()));
            victim.kill();
            watcher.inspect().expect("the host lives");
        }
        let clean = || {
            let now = watcher.inspect().unwrap();
            now.grants.is_empty()
                && now.unmapping.is_empty()
                && now.holders.is_empty()
                && now.gntalloc_pages == 0
                && now.event_channels == 0
        };
        let what = format!("nothing left in round {round}, SEED {SEED:#x}");
        eventually(&what, clean);
    }
    let seen = watcher.inspect().unwrap();
    eprintln!(
        "{} unmaps, {} deferred, {} retries",
        seen.unmaps, seen.deferred_unmaps, seen.unmap_retries
    );
    assert!(
        seen.unmaps > 0 && seen.deferred_unmaps > 0,
        "too tame: the test shows nothing"
    );
}

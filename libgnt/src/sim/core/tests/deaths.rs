//! Death at every point of a history: whoever dies, and whenever, nothing is left in the end.

use super::*;
use crate::sim::core::{Config, ConnId, Input};
use crate::sim::wire::{DeviceKind, FileId, HoldId, HoldKind, Reply, Request, UnmapMode, VmaId};
use crate::types::{Access, DomId, EvtchnPort, GrantRef, UnmapNotify};
use std::time::Duration;

/// How one story is told.
#[derive(Clone, Copy, Debug)]
struct Told {
    unmap: UnmapMode,
    kind: HoldKind,
    /// The domains outlive their processes.
    keep: bool,
    /// munmap without waiting for a reply.
    drops: bool,
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Front,
    Back,
    Consumer,
    /// By dom0, while its processes live.
    Domain(DomId),
}

const VICTIMS: [Victim; 5] = [
    Victim::Front,
    Victim::Back,
    Victim::Consumer,
    Victim::Domain(GUEST),
    Victim::Domain(BACKEND),
];

/// A front end and a back end with a third process that holds the pages. Each step is one request
/// (or some time), and goes on with whatever the earlier ones gave.
struct Story {
    told: Told,
    w: Rig,
    dom0: ConnId,
    front: ConnId,
    back: ConnId,
    consumer: ConnId,
    alloc_file: FileId,
    front_evtchn: FileId,
    gntdev: FileId,
    back_evtchn: FileId,
    grefs: Vec<GrantRef>,
    port: EvtchnPort,
    bound: EvtchnPort,
    front_vma: VmaId,
    map: u64,
    map_vma: VmaId,
    hold: HoldId,
}

const PAGES: u32 = 3;

impl Story {
    fn begin(told: Told) -> Story {
        let mut w = Rig::with(Config {
            unmap: told.unmap,
            guest: where_it_cycles(told.unmap),
            ..Config::default()
        });
        let dom0 = w.join(DOM0, "xl");
        let front = w.join_with(Some(GUEST), "front", told.keep);
        let back = w.join_with(Some(BACKEND), "back", told.keep);
        let consumer = w.join_with(Some(BACKEND), "consumer", told.keep);
        let none = FileId(0);
        Story {
            told,
            w,
            dom0,
            front,
            back,
            consumer,
            alloc_file: none,
            front_evtchn: none,
            gntdev: none,
            back_evtchn: none,
            grefs: vec![GrantRef(0); PAGES as usize],
            port: EvtchnPort(0),
            bound: EvtchnPort(0),
            front_vma: VmaId(0),
            map: 0,
            map_vma: VmaId(0),
            hold: HoldId(0),
        }
    }

    /// Asks; whether it is refused or blocked depends on who is dead.
    fn ask(&mut self, conn: ConnId, request: Request) -> Option<Reply> {
        let tag = self.w.send(conn, request);
        self.w.take(tag).and_then(Result::ok)
    }

    fn ask_file(&mut self, conn: ConnId, device: DeviceKind) -> FileId {
        match self.ask(conn, Request::Open { device }) {
            Some(Reply::Opened { file }) => file,
            _ => FileId(0),
        }
    }

    /// One step of the story. False after the last.
    fn tell(&mut self, step: usize) -> bool {
        let (front, back, consumer) = (self.front, self.back, self.consumer);
        let access = Access::ReadWrite;
        let pages = PAGES;
        let grants = |s: &Story| {
            Alloc {
                index: 0,
                grefs: s.grefs.clone(),
            }
            .of(GUEST)
        };
        match step {
            0 => self.alloc_file = self.ask_file(front, DeviceKind::Gntalloc),
            1 => self.front_evtchn = self.ask_file(front, DeviceKind::Evtchn),
            2 => {
                let file = self.alloc_file;
                let request = Request::AllocGref {
                    file,
                    peer: BACKEND,
                    access,
                    pages,
                };
                if let Some(Reply::Allocated { grefs, .. }) = self.ask(front, request) {
                    self.grefs = grefs;
                }
            }
            3 => {
                let file = self.alloc_file;
                let request = Request::Mmap {
                    file,
                    index: 0,
                    pages,
                    access,
                };
                if let Some(Reply::Mapped { vma, .. }) = self.ask(front, request) {
                    self.front_vma = vma;
                }
            }
            4 => {
                let file = self.front_evtchn;
                let request = Request::BindUnbound {
                    file,
                    remote: BACKEND,
                };
                if let Some(Reply::Port { port }) = self.ask(front, request) {
                    self.port = port;
                }
            }
            5 => {
                let notify = UnmapNotify {
                    clear_byte: true,
                    send_event: Some(self.port),
                };
                let file = self.alloc_file;
                self.ask(
                    front,
                    Request::SetUnmapNotify {
                        file,
                        offset: 62,
                        notify,
                    },
                );
            }
            6 => self.gntdev = self.ask_file(back, DeviceKind::Gntdev),
            7 => self.back_evtchn = self.ask_file(back, DeviceKind::Evtchn),
            8 => {
                let (file, port) = (self.back_evtchn, self.port);
                let request = Request::BindInterdomain {
                    file,
                    remote: GUEST,
                    port,
                };
                if let Some(Reply::Port { port }) = self.ask(back, request) {
                    self.bound = port;
                }
            }
            9 => {
                let request = Request::MapGrantRef {
                    file: self.gntdev,
                    grants: grants(self),
                };
                if let Some(Reply::Index { index }) = self.ask(back, request) {
                    self.map = index;
                }
            }
            10 => {
                let (file, index) = (self.gntdev, self.map);
                let request = Request::Mmap {
                    file,
                    index,
                    pages,
                    access,
                };
                if let Some(Reply::Mapped { vma, .. }) = self.ask(back, request) {
                    self.map_vma = vma;
                }
            }
            11 => {
                let notify = UnmapNotify {
                    clear_byte: true,
                    send_event: Some(self.bound),
                };
                let (file, offset) = (self.gntdev, self.map + 63);
                self.ask(
                    back,
                    Request::SetUnmapNotify {
                        file,
                        offset,
                        notify,
                    },
                );
            }
            12 => {
                let (file, grant) = (self.gntdev, grants(self)[0]);
                self.ask(
                    back,
                    Request::CopyAttach {
                        file,
                        grant,
                        write: true,
                    },
                );
            }
            13 => {
                let (vma, kind) = (self.map_vma, self.told.kind);
                let request = Request::Pin {
                    vma,
                    first_page: 1,
                    pages: 2,
                    kind,
                };
                if let Some(Reply::Hold { hold }) = self.ask(back, request) {
                    self.hold = hold;
                }
            }
            14 => {
                self.ask(consumer, Request::HoldAttach { hold: self.hold });
            }
            15 => {
                let request = Request::Munmap {
                    vma: self.map_vma,
                    first_page: 0,
                    pages,
                };
                if self.told.drops {
                    self.w.step(Input::Request {
                        conn: back,
                        tag: None,
                        request,
                    });
                } else {
                    self.ask(back, request);
                }
            }
            16 => {
                let (file, index) = (self.gntdev, self.map);
                self.ask(back, Request::UnmapGrantRef { file, index, pages });
            }
            17 => {
                let file = self.alloc_file;
                self.ask(
                    front,
                    Request::DeallocGref {
                        file,
                        index: 0,
                        pages,
                    },
                );
            }
            18 => {
                self.ask(
                    front,
                    Request::Munmap {
                        vma: self.front_vma,
                        first_page: 0,
                        pages,
                    },
                );
            }
            19 => self.w.pass(Duration::from_millis(17)),
            20 => {
                self.ask(consumer, Request::HoldRelease { hold: self.hold });
            }
            21 => self.w.pass(Duration::from_millis(1500)),
            22 => {
                self.ask(back, Request::Close { file: self.gntdev });
            }
            23 => {
                self.ask(
                    back,
                    Request::Close {
                        file: self.back_evtchn,
                    },
                );
            }
            24 => {
                self.ask(
                    front,
                    Request::Close {
                        file: self.alloc_file,
                    },
                );
            }
            _ => return false,
        }
        true
    }

    fn strike(&mut self, victim: Victim) {
        match victim {
            Victim::Front => self.w.kill(self.front),
            Victim::Back => self.w.kill(self.back),
            Victim::Consumer => self.w.kill(self.consumer),
            Victim::Domain(domid) => {
                let dom0 = self.dom0;
                self.w.done(dom0, Request::DestroyDomain { domid });
            }
        }
    }

    /// Everybody else dies too, in turn; then time passes and nothing is left.
    fn end(mut self, backwards: bool) {
        let mut rest = [self.front, self.back, self.consumer, self.dom0];
        if backwards {
            rest.reverse();
        }
        for conn in rest {
            self.w.kill(conn);
        }
        self.w.drain();
        self.w.assert_empty();
    }
}

fn all_ways_to_tell() -> Vec<Told> {
    let mut ways = Vec::new();
    for unmap in [UnmapMode::Async, UnmapMode::Sync] {
        for kind in [HoldKind::Plain, HoldKind::I915] {
            for keep in [true, false] {
                for drops in [true, false] {
                    ways.push(Told {
                        unmap,
                        kind,
                        keep,
                        drops,
                    });
                }
            }
        }
    }
    ways
}

/// Before each step of the story, each victim dies; the others tell the rest of it.
#[test]
fn death_at_any_step_leaves_nothing_behind() {
    let mut stories = 0;
    for told in all_ways_to_tell() {
        for victim in VICTIMS {
            for (death_at, backwards) in (0..26).flat_map(|n| [(n, true), (n, false)]) {
                let name = format!("{told:?}, {victim:?} dies before step {death_at}");
                let story = std::panic::catch_unwind(|| {
                    let mut story = Story::begin(told);
                    let mut step = 0;
                    loop {
                        if step == death_at {
                            story.strike(victim);
                        }
                        if !story.tell(step) {
                            break;
                        }
                        step += 1;
                    }
                    story.end(backwards);
                });
                assert!(story.is_ok(), "{name}");
                stories += 1;
            }
        }
    }
    assert_eq!(stories, 16 * 5 * 26 * 2);
}

/// Before each step, everybody dies at once.
#[test]
fn an_abrupt_end_at_any_step_leaves_nothing_behind() {
    for told in all_ways_to_tell() {
        for last in 0..=25 {
            for backwards in [true, false] {
                let mut story = Story::begin(told);
                (0..last).for_each(|step| assert!(story.tell(step)));
                story.end(backwards);
            }
        }
    }
}

/// The story itself does what the deaths above interrupt.
#[test]
fn the_story_reaches_what_it_is_about() {
    for told in all_ways_to_tell() {
        let mut story = Story::begin(told);
        (0..16).for_each(|step| assert!(story.tell(step)));
        let state = story.w.inspect();
        assert_eq!(state.holders.len(), 2, "{told:?}");
        assert_eq!(
            state.unmapping.is_empty(),
            told.unmap == UnmapMode::Async,
            "{told:?}"
        );
        (16..19).for_each(|step| assert!(story.tell(step)));
        let state = story.w.inspect();
        assert_eq!(state.unmapping.len(), 1, "{told:?}");
        assert!(state.grants.iter().all(|g| g.ending), "{told:?}");
        assert!(state.grants.iter().any(|g| g.maps > 0), "{told:?}");
        (19..26).for_each(|step| assert_eq!(story.tell(step), step < 25));
        assert!(story.w.inspect().unmapping.is_empty(), "{told:?}");
        let deadlock = told.unmap == UnmapMode::Sync && told.kind == HoldKind::I915;
        assert_eq!(story.w.deadlocks().len(), usize::from(deadlock), "{told:?}");
        assert_eq!(story.w.revoked.len(), 1, "{told:?}");
    }
}

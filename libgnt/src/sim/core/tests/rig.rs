//! A machine with its host: asks, collects what comes back, and keeps time.

use crate::inspect::{Deadlock, Inspection};
use crate::machine::{Machine, Now};
use crate::platform::GuestType;
use crate::sim::core::{Action, Attachment, Config, ConnId, Input, KernelSabotage, Xen};
use crate::sim::wire::{
    DeviceKind, FileId, HoldId, HoldKind, PROTOCOL, Piece, Reply, Request, RunId, SimError,
    UnmapMode, VmaId,
};
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, PAGE_SIZE, UnmapNotify};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub const PAGE: u64 = PAGE_SIZE as u64;
pub const DOM0: DomId = DomId(0);
pub const GUEST: DomId = DomId(1);
pub const BACKEND: DomId = DomId(2);

pub type Answer = Result<Reply, SimError>;

pub struct Rig {
    pub machine: Xen,
    pub now: Now,
    /// Everything that came out, less the replies that were taken.
    pub out: Vec<Action>,
    pub replies: BTreeMap<u64, (ConnId, Answer, Vec<Attachment>)>,
    pub runs: BTreeSet<RunId>,
    /// Revocations that no copy-drained report has answered yet.
    pub revoked: Vec<(DomId, GrantRef)>,
    /// What the machine told the host to do that a host cannot do.
    fault: Option<String>,
    last_conn: u64,
    last_tag: u64,
}

/// The guest that most tests of a mode are about: the synchronous one's cycle is in the notifier.
pub fn where_it_cycles(unmap: UnmapMode) -> GuestType {
    match unmap {
        UnmapMode::Async => GuestType::Pvh,
        UnmapMode::Sync => GuestType::Pv,
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(Config::default())
    }

    /// The synchronous unmap in the notifier.
    pub fn sync() -> Rig {
        Rig::of(UnmapMode::Sync, GuestType::Pv)
    }

    pub fn of(unmap: UnmapMode, guest: GuestType) -> Rig {
        Rig::with(Config {
            unmap,
            guest,
            ..Config::default()
        })
    }

    pub fn sabotaged(unmap: UnmapMode, how: KernelSabotage) -> Rig {
        Rig::with(Config {
            unmap,
            guest: where_it_cycles(unmap),
            sabotage: Some(how),
            ..Config::default()
        })
    }

    pub fn with(config: Config) -> Rig {
        Rig {
            machine: Xen::new(config),
            now: Now::ZERO,
            out: Vec::new(),
            replies: BTreeMap::new(),
            runs: BTreeSet::new(),
            revoked: Vec::new(),
            fault: None,
            last_conn: 0,
            last_tag: 0,
        }
    }

    /// One step without the check: what a sabotaged machine's tests call.
    pub fn step_unchecked(&mut self, input: Input) {
        let mut out = Vec::new();
        self.machine.step(self.now, input, &mut out);
        for output in out {
            if let Err(fault) = self.perform(&output) {
                self.fault.get_or_insert(fault);
            }
            match output {
                Action::Reply {
                    conn,
                    tag,
                    result,
                    attach,
                } => {
                    self.replies.insert(tag, (conn, result, attach));
                }
                other => self.out.push(other),
            }
        }
    }

    /// What a host does with memory, as far as it can be wrong.
    fn perform(&mut self, output: &Action) -> Result<(), String> {
        let ensure = |ok: bool, what: &str| {
            if ok {
                Ok(())
            } else {
                Err(format!("{what}: {output:?}"))
            }
        };
        match output {
            Action::Reply { tag, attach, .. } => {
                let alive = |a: &Attachment| match a {
                    Attachment::Run { run, .. } => self.runs.contains(run),
                    _ => true,
                };
                ensure(attach.iter().all(alive), "freed memory travels")?;
                ensure(
                    !self.replies.contains_key(tag),
                    "two replies to one request",
                )
            }
            Action::CreateRun { run, .. } => ensure(self.runs.insert(*run), "memory made twice"),
            Action::FreeRun { run } => ensure(self.runs.remove(run), "memory freed twice"),
            Action::ClearByte { run, .. } => {
                ensure(self.runs.contains(run), "a byte of freed memory is cleared")
            }
            Action::RevokeCopy { domid, gref, .. } => {
                self.revoked.push((*domid, *gref));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    #[track_caller]
    pub fn step(&mut self, input: Input) {
        let what = format!("{input:?}");
        self.step_unchecked(input);
        if let Err(why) = self.check() {
            panic!("after {what}: {why}");
        }
    }

    /// The machine's own check, and what its outputs showed.
    pub fn check(&self) -> Result<(), String> {
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None => self.machine.check(),
        }
    }

    pub fn connect(&mut self) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.step(Input::Connected {
            conn,
            pid: 100 + self.last_conn as u32,
        });
        conn
    }

    /// A process of a domain that outlives its processes.
    #[track_caller]
    pub fn join(&mut self, domid: DomId, process: &str) -> ConnId {
        self.join_with(Some(domid), process, true)
    }

    #[track_caller]
    pub fn join_with(&mut self, domid: Option<DomId>, process: &str, keep: bool) -> ConnId {
        let conn = self.connect();
        let process = process.into();
        self.call(
            conn,
            Request::Join {
                protocol: PROTOCOL,
                domid,
                process,
                keep,
            },
        )
        .unwrap();
        conn
    }

    /// Asks without waiting for the reply; returns the tag.
    #[track_caller]
    pub fn send(&mut self, conn: ConnId, request: Request) -> u64 {
        self.last_tag += 1;
        self.step(Input::Request {
            conn,
            tag: Some(self.last_tag),
            request,
        });
        self.last_tag
    }

    /// As `send`, without the check.
    pub fn send_unchecked(&mut self, conn: ConnId, request: Request) -> u64 {
        self.last_tag += 1;
        self.step_unchecked(Input::Request {
            conn,
            tag: Some(self.last_tag),
            request,
        });
        self.last_tag
    }

    pub fn take(&mut self, tag: u64) -> Option<Answer> {
        self.replies.remove(&tag).map(|(_, answer, _)| answer)
    }

    #[track_caller]
    pub fn call(&mut self, conn: ConnId, request: Request) -> Answer {
        let what = format!("{request:?}");
        let tag = self.send(conn, request);
        self.take(tag).unwrap_or_else(|| panic!("blocked: {what}"))
    }

    #[track_caller]
    pub fn refused(&mut self, conn: ConnId, request: Request, errno: Errno) {
        let what = format!("{request:?}");
        match self.call(conn, request) {
            Err(error) => assert_eq!(error.errno, errno.raw_os_error(), "{what}: {error:?}"),
            Ok(reply) => panic!("{what} should be refused with {errno:?}, got {reply:?}"),
        }
    }

    #[track_caller]
    pub fn done(&mut self, conn: ConnId, request: Request) {
        assert_eq!(self.call(conn, request), Ok(Reply::Done));
    }

    pub fn kill(&mut self, conn: ConnId) {
        self.step(Input::Disconnected { conn });
    }

    /// Lets time pass, timer by timer.
    #[track_caller]
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.machine.next_timer().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step(Input::Timer);
        }
        self.now = end;
    }

    /// Ends every running copy, then lets a minute and a half pass.
    pub fn drain(&mut self) {
        for _ in 0..90 {
            self.drain_copies();
            self.pass(Duration::from_secs(1));
        }
    }

    pub fn drain_copies(&mut self) {
        for (domid, gref) in std::mem::take(&mut self.revoked) {
            self.step(Input::CopyDrained { domid, gref });
        }
    }

    pub fn inspect(&self) -> Inspection {
        self.machine.inspect(self.now)
    }

    /// Nothing of anybody is left.
    #[track_caller]
    pub fn assert_empty(&self) {
        let left = self.inspect();
        let nothing = Inspection {
            domains: left.domains.clone(),
            unmaps: left.unmaps,
            deferred_unmaps: left.deferred_unmaps,
            unmap_retries: left.unmap_retries,
            ..Inspection::default()
        };
        assert_eq!(left, nothing);
        assert!(
            left.domains.iter().all(|d| d.alive),
            "a dead domain is left: {:?}",
            left.domains
        );
        assert!(self.runs.is_empty(), "memory is left: {:?}", self.runs);
        assert_eq!(self.machine.next_timer(), None);
    }

    // What processes do most.

    #[track_caller]
    pub fn open(&mut self, conn: ConnId, device: DeviceKind) -> FileId {
        match self.call(conn, Request::Open { device }).unwrap() {
            Reply::Opened { file } => file,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn alloc(&mut self, conn: ConnId, file: FileId, peer: DomId, pages: u32) -> Alloc {
        self.alloc_with(conn, file, peer, pages, Access::ReadWrite)
    }

    #[track_caller]
    pub fn alloc_with(
        &mut self,
        conn: ConnId,
        file: FileId,
        peer: DomId,
        pages: u32,
        access: Access,
    ) -> Alloc {
        match self
            .call(
                conn,
                Request::AllocGref {
                    file,
                    peer,
                    access,
                    pages,
                },
            )
            .unwrap()
        {
            Reply::Allocated { index, grefs } => Alloc { index, grefs },
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn reserve(&mut self, conn: ConnId, file: FileId, grants: &[ForeignGrant]) -> u64 {
        let request = Request::MapGrantRef {
            file,
            grants: grants.to_vec(),
        };
        match self.call(conn, request).unwrap() {
            Reply::Index { index } => index,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn mmap(
        &mut self,
        conn: ConnId,
        file: FileId,
        index: u64,
        pages: u32,
    ) -> (VmaId, Vec<Piece>) {
        let request = Request::Mmap {
            file,
            index,
            pages,
            access: Access::ReadWrite,
        };
        match self.call(conn, request).unwrap() {
            Reply::Mapped { vma, pieces } => (vma, pieces),
            other => panic!("{other:?}"),
        }
    }

    /// Reserves and mmaps.
    #[track_caller]
    pub fn map(&mut self, conn: ConnId, file: FileId, grants: &[ForeignGrant]) -> (u64, VmaId) {
        let index = self.reserve(conn, file, grants);
        (index, self.mmap(conn, file, index, grants.len() as u32).0)
    }

    /// munmap and UNMAP_GRANT_REF of a whole map.
    #[track_caller]
    pub fn unmap(&mut self, conn: ConnId, file: FileId, (index, vma): (u64, VmaId), pages: u32) {
        self.done(
            conn,
            Request::Munmap {
                vma,
                first_page: 0,
                pages,
            },
        );
        self.done(conn, Request::UnmapGrantRef { file, index, pages });
    }

    #[track_caller]
    pub fn pin(
        &mut self,
        conn: ConnId,
        vma: VmaId,
        first: u32,
        pages: u32,
        kind: HoldKind,
    ) -> HoldId {
        match self
            .call(
                conn,
                Request::Pin {
                    vma,
                    first_page: first,
                    pages,
                    kind,
                },
            )
            .unwrap()
        {
            Reply::Hold { hold } => hold,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn attach(&mut self, conn: ConnId, hold: HoldId) -> Vec<Piece> {
        match self.call(conn, Request::HoldAttach { hold }).unwrap() {
            Reply::Mapped {
                vma: VmaId(0),
                pieces,
            } => pieces,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn port(&mut self, conn: ConnId, request: Request) -> EvtchnPort {
        match self.call(conn, request).unwrap() {
            Reply::Port { port } => port,
            other => panic!("{other:?}"),
        }
    }

    /// A pair of ports on one file: notify the first, hear the second.
    #[track_caller]
    pub fn loopback(&mut self, conn: ConnId, file: FileId) -> (EvtchnPort, EvtchnPort) {
        let heard = self.port(
            conn,
            Request::BindUnbound {
                file,
                remote: DomId::SELF,
            },
        );
        let request = Request::BindInterdomain {
            file,
            remote: DomId::SELF,
            port: heard,
        };
        let notified = self.port(conn, request);
        self.out.clear();
        (notified, heard)
    }

    #[track_caller]
    pub fn notify(&mut self, conn: ConnId, file: FileId, offset: u64, notify: UnmapNotify) {
        self.done(
            conn,
            Request::SetUnmapNotify {
                file,
                offset,
                notify,
            },
        );
    }

    // What came out.

    pub fn raises(&self) -> Vec<(FileId, EvtchnPort)> {
        let raise = |o: &Action| match o {
            Action::Raise { file, port } => Some((*file, *port)),
            _ => None,
        };
        self.out.iter().filter_map(raise).collect()
    }

    pub fn logs(&self) -> Vec<String> {
        let line = |o: &Action| match o {
            Action::Log { line } => Some(line.clone()),
            _ => None,
        };
        self.out.iter().filter_map(line).collect()
    }

    pub fn deadlocks(&self) -> Vec<Deadlock> {
        let deadlock = |o: &Action| match o {
            Action::Deadlock(deadlock) => Some(deadlock.clone()),
            _ => None,
        };
        self.out.iter().filter_map(deadlock).collect()
    }

    /// How often a grant is mapped, and whether access to it is ending; `None` if it is free.
    pub fn grant(&self, grant: ForeignGrant) -> Option<(u32, bool)> {
        let grants = self.inspect().grants;
        grants
            .iter()
            .find(|g| g.grant == grant)
            .map(|g| (g.maps, g.ending))
    }
}

pub struct Alloc {
    pub index: u64,
    pub grefs: Vec<GrantRef>,
}

impl Alloc {
    pub fn of(&self, domid: DomId) -> Vec<ForeignGrant> {
        self.grefs
            .iter()
            .map(|gref| ForeignGrant { domid, gref: *gref })
            .collect()
    }
}

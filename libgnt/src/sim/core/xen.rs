//! The simulated Xen itself: its tables, and which rule plays which input.

use super::domain::{Domain, Process};
use super::gntalloc::{ShareId, SharedPage};
use super::gntdev::{Map, MapId};
use super::grants::{HandleId, Mapping};
use super::holds::Hold;
use super::mm::{File, Run, Vma};
use super::unmap::{Work, WorkId};
use super::waits::{Wait, WaitId};
use super::{Action, Attachment, Config, ConnId, Input, KernelSabotage, Now};
use crate::inspect::Damage;
use crate::machine::Machine;
use crate::sim::wire::{FileId, HoldId, Reply, Request, RunId, SimError, VmaId};
use crate::types::DomId;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// The hypervisor, and a kernel for each domain.
///
/// Deterministic: the same inputs at the same times give the same actions. All tables are ordered,
/// and nothing here reads a clock or does I/O.
#[derive(Clone, Debug)]
pub struct Xen {
    pub(super) config: Config,
    pub(super) now: Now,
    /// What this step has produced so far.
    pub(super) out: Vec<Action>,
    /// What has to come after the reply of this step.
    pub(super) after_reply: Vec<Action>,
    started: bool,
    last_id: u64,
    last_generation: u32,
    pub(super) processes: BTreeMap<ConnId, Process>,
    pub(super) domains: BTreeMap<DomId, Domain>,
    pub(super) files: BTreeMap<FileId, File>,
    pub(super) vmas: BTreeMap<VmaId, Vma>,
    pub(super) runs: BTreeMap<RunId, Run>,
    /// gntalloc's pages, which its limit counts.
    pub(super) shared: BTreeMap<ShareId, SharedPage>,
    pub(super) maps: BTreeMap<MapId, Map>,
    /// Pages of all of them.
    pub(super) reserved: usize,
    /// The hypervisor's maptrack: every mapping of a grant that exists.
    pub(super) maptrack: BTreeMap<HandleId, Mapping>,
    pub(super) holds: BTreeMap<HoldId, Hold>,
    /// Unmaps in progress.
    pub(super) works: BTreeMap<WorkId, Work>,
    /// When to retry those of them that wait for a timer.
    pub(super) retries: BTreeSet<(Now, WorkId)>,
    pub(super) waits: BTreeMap<WaitId, Wait>,
    /// What was done to the books of PV guests' kernels.
    pub(super) damages: Vec<Damage>,
    pub(super) stats: Stats,
}

/// What a run can be checked by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    /// Handles ever given out.
    pub mapped: u64,
    /// Handles unmapped.
    pub unmapped: u64,
    /// Handles whose unmap had to be deferred.
    pub deferred: u64,
    /// Retries of deferred unmaps.
    pub retries: u64,
    /// Unmaps of a handle that no longer existed. Always 0 unless sabotaged.
    pub bad_handles: u64,
}

/// What a handler says.
pub(super) enum Answer {
    /// Reply now.
    Reply(Reply, Vec<Attachment>),
    /// The caller is blocked; its [`Wait`] replies.
    Blocked,
}

pub(super) type Outcome = Result<Answer, SimError>;

/// An errno, and what it is about.
pub(super) fn refuse(errno: Errno, detail: impl Into<String>) -> SimError {
    SimError {
        errno: errno.raw_os_error(),
        detail: detail.into(),
        cycle: Vec::new(),
    }
}

/// A reply without descriptors.
pub(super) fn reply(reply: Reply) -> Outcome {
    Ok(Answer::Reply(reply, Vec::new()))
}

/// [`Reply::Done`].
pub(super) fn done() -> Outcome {
    reply(Reply::Done)
}

impl Machine for Xen {
    type Input = Input;
    type Action = Action;

    /// Plays one input. What the host has to do is appended to `actions`, in order.
    ///
    /// The first step also announces dom0.
    fn step(&mut self, now: Now, input: Input, actions: &mut Vec<Action>) {
        // A host's clock never goes back, but a test's may: timers must not see it.
        self.now = self.now.max(now);
        if !self.started {
            self.started = true;
            self.announce_domain(DomId::DOM0);
        }
        match input {
            Input::Connected { conn, pid } => self.connected(conn, pid),
            Input::Request { conn, tag, request } => self.request(conn, tag, request),
            Input::Disconnected { conn } => self.process_dies(conn),
            Input::Timer => {
                self.retry_unmaps();
                self.retry_end_access();
            }
            Input::CopyDrained { domid, gref } => self.copy_drained(domid, gref),
        }
        self.break_deadlocks();
        actions.append(&mut self.out);
    }
}

impl Xen {
    /// A hypervisor with nothing but dom0 on it.
    pub fn new(config: Config) -> Xen {
        let mut xen = Xen {
            config,
            now: Now::ZERO,
            out: Vec::new(),
            after_reply: Vec::new(),
            started: false,
            last_id: 0,
            last_generation: 0,
            processes: BTreeMap::new(),
            domains: BTreeMap::new(),
            files: BTreeMap::new(),
            vmas: BTreeMap::new(),
            runs: BTreeMap::new(),
            shared: BTreeMap::new(),
            maps: BTreeMap::new(),
            reserved: 0,
            maptrack: BTreeMap::new(),
            holds: BTreeMap::new(),
            works: BTreeMap::new(),
            retries: BTreeSet::new(),
            waits: BTreeMap::new(),
            damages: Vec::new(),
            stats: Stats::default(),
        };
        let dom0 = Domain::new("Domain-0".into(), true, xen.config.guest);
        xen.domains.insert(DomId::DOM0, dom0);
        xen
    }

    /// When the machine next wants an [`Input::Timer`].
    pub fn next_timer(&self) -> Option<Now> {
        let unmap = self.retries.first().map(|(at, _)| *at);
        let end_access = self.domains.values().filter_map(|d| d.grants.tick_at).min();
        unmap.into_iter().chain(end_access).min()
    }

    fn request(&mut self, conn: ConnId, tag: Option<u64>, request: Request) {
        let result = self.dispatch(conn, tag, request);
        let late = std::mem::take(&mut self.after_reply);
        match result {
            Ok(Answer::Blocked) => {}
            Ok(Answer::Reply(reply, attach)) => self.reply_to(conn, tag, Ok(reply), attach),
            Err(error) => self.reply_to(conn, tag, Err(error), Vec::new()),
        }
        self.out.extend(late);
    }

    fn dispatch(&mut self, conn: ConnId, tag: Option<u64>, request: Request) -> Outcome {
        let domid = match (self.processes.get(&conn), &request) {
            (None, _) => return Err(refuse(Errno::PERM, "not connected")),
            (Some(_), Request::Join { .. }) => DomId::DOM0,
            (Some(process), _) => match process.domid {
                Some(domid) => domid,
                None => return Err(refuse(Errno::PERM, "the first request must be Join")),
            },
        };
        match request {
            Request::Join {
                protocol,
                domid,
                process,
                keep,
            } => self.join(conn, protocol, domid, process, keep),
            Request::Open { device } => self.open(conn, domid, device),
            Request::Close { file } => self.close(conn, tag, file),
            Request::AllocGref {
                file,
                peer,
                access,
                pages,
            } => self.alloc_gref(conn, file, peer, access, pages),
            Request::DeallocGref { file, index, pages } => {
                self.dealloc_gref(conn, file, index, pages)
            }
            Request::MapGrantRef { file, grants } => self.map_grant_ref(conn, file, grants),
            Request::UnmapGrantRef { file, index, pages } => {
                self.unmap_grant_ref(conn, tag, file, index, pages)
            }
            Request::Mmap {
                file,
                index,
                pages,
                access,
            } => self.mmap(conn, file, index, pages, access),
            Request::Munmap {
                vma,
                first_page,
                pages,
            } => self.munmap(conn, tag, vma, first_page, pages),
            Request::Invalidate {
                vma,
                first_page,
                pages,
            } => self.invalidate(conn, tag, vma, first_page, pages),
            Request::SetUnmapNotify {
                file,
                offset,
                notify,
            } => self.set_unmap_notify(conn, file, offset, notify),
            Request::CopyAttach { file, grant, write } => {
                self.copy_attach(conn, file, grant, write)
            }
            Request::BindUnbound { file, remote } => self.bind_unbound(conn, file, remote),
            Request::BindInterdomain { file, remote, port } => {
                self.bind_interdomain(conn, file, remote, port)
            }
            Request::BindVirq { file, virq } => self.bind_virq(conn, file, virq),
            Request::Unbind { file, port } => self.unbind(conn, file, port),
            Request::Restrict { file, remote } => self.restrict(conn, file, remote),
            Request::EvtchnPeer { file, port } => self.evtchn_peer(conn, file, port),
            Request::OpenXenstore => Ok(Answer::Reply(
                Reply::Done,
                vec![Attachment::Xenstore { domid }],
            )),
            Request::Pin {
                vma,
                first_page,
                pages,
                kind,
            } => self.pin(conn, vma, first_page, pages, kind),
            Request::HoldAttach { hold } => self.hold_attach(conn, domid, hold),
            Request::HoldRelease { hold } => self.hold_release(conn, tag, hold),
            Request::GrantsInUse { grefs } => self.grants_in_use(domid, &grefs),
            Request::Holders { grants } => self.holders_of(domid, &grants),
            Request::Inspect => reply(Reply::Inspection(self.inspect(self.now))),
            Request::CreateDomain {
                domid: new,
                name,
                guest,
            } => self.create_domain(domid, new, name, guest),
            Request::DestroyDomain { domid: victim } => self.destroy_domain(domid, victim),
            Request::RaiseVirq {
                domid: target,
                virq,
            } => self.raise_virq(domid, target, virq),
        }
    }

    pub(super) fn reply_to(
        &mut self,
        conn: ConnId,
        tag: Option<u64>,
        result: Result<Reply, SimError>,
        attach: Vec<Attachment>,
    ) {
        if let Some(tag) = tag {
            self.out.push(Action::Reply {
                conn,
                tag,
                result,
                attach,
            });
        }
    }

    /// A number that names nothing else. One counter for all kinds of things: a mix-up of two
    /// kinds cannot go unnoticed.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// A generation word that no word of this machine has now. Never 0, which means "never".
    pub(super) fn fresh_generation(&mut self) -> u32 {
        self.last_generation = self.last_generation.checked_add(1).unwrap_or(1);
        self.last_generation
    }

    /// For [`Xen::fingerprint`].
    pub(super) fn forget_counters(&mut self) {
        self.last_id = 0;
        self.last_generation = 0;
    }

    pub(super) fn sabotaged(&self, how: KernelSabotage) -> bool {
        self.config.sabotage == Some(how)
    }

    pub(super) fn log(&mut self, line: String) {
        self.out.push(Action::Log { line });
    }
}

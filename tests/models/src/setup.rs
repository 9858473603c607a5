//! What has happened before the exploration of [`super::machine`] begins: two domains, two shares,
//! two maps, and the processes that will hold pages. Always in the same order, so that names are
//! the same.

use libgnt::machine::{Machine, Now};
use libgnt::platform::GuestType;
use libgnt::sim::core::{Action, Config, ConnId, Input, Xen};
use libgnt::sim::wire::{
    DeviceKind, FileId, HoldKind, PROTOCOL, Reply, Request, SimError, UnmapMode, VmaId,
};
use libgnt::types::{Access, DomId, EvtchnPort, ForeignGrant};

/// How many maps there are: the first of two pages, the second of one.
pub(super) const MAPS: usize = 2;
const PAGES: [u32; MAPS] = [2, 1];
const GUEST: DomId = DomId(1);
const BACKEND: DomId = DomId(2);

/// One share, mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    /// gntalloc's index, and gntdev's.
    pub(super) alloc: u64,
    pub(super) index: u64,
    pub(super) vma: VmaId,
    pub(super) pages: u32,
    pub(super) grants: Vec<ForeignGrant>,
    /// The release event: notify this port, hear that one.
    pub(super) notified: EvtchnPort,
    pub(super) heard: EvtchnPort,
}

/// The machine and everybody's names in it.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) machine: Xen,
    pub(super) asynchronous: bool,
    /// The guest is one whose gntdev unmaps in a notifier.
    pub(super) notifier: bool,
    pub(super) mapper: ConnId,
    pub(super) granter: ConnId,
    pub(super) gntdev: FileId,
    pub(super) gntalloc: FileId,
    pub(super) evtchn: FileId,
    pub(super) maps: Vec<Mapped>,
    /// Who holds which page of which map, and how.
    pub(super) consumers: Vec<(ConnId, usize, u32, HoldKind)>,
    pub(super) last_tag: u64,
}

/// Asks one thing after another.
struct Asker {
    machine: Xen,
    last_conn: u64,
    last_tag: u64,
}

impl Asker {
    fn ask(&mut self, conn: ConnId, request: Request) -> Result<Reply, SimError> {
        self.last_tag += 1;
        let tag = Some(self.last_tag);
        let mut out = Vec::new();
        self.machine
            .step(Now::ZERO, Input::Request { conn, tag, request }, &mut out);
        let reply = out.into_iter().find_map(|output| match output {
            Action::Reply { result, .. } => Some(result),
            _ => None,
        });
        reply.unwrap_or_else(|| {
            Err(SimError {
                errno: 0,
                detail: "no reply".into(),
                cycle: Vec::new(),
            })
        })
    }

    fn join(&mut self, domid: DomId, process: &str) -> Result<ConnId, SimError> {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let pid = 100 + self.last_conn as u32;
        let connected = Input::Connected { conn, pid };
        self.machine.step(Now::ZERO, connected, &mut Vec::new());
        let join = Request::Join {
            protocol: PROTOCOL,
            domid: Some(domid),
            process: process.into(),
            keep: true,
        };
        self.ask(conn, join).map(|_| conn)
    }

    fn open(&mut self, conn: ConnId, device: DeviceKind) -> Result<FileId, SimError> {
        match self.ask(conn, Request::Open { device })? {
            Reply::Opened { file } => Ok(file),
            other => Err(unexpected(&other)),
        }
    }

    fn port(&mut self, conn: ConnId, request: Request) -> Result<EvtchnPort, SimError> {
        match self.ask(conn, request)? {
            Reply::Port { port } => Ok(port),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> SimError {
    SimError {
        errno: 0,
        detail: format!("{reply:?}"),
        cycle: Vec::new(),
    }
}

impl Setup {
    /// # Panics
    /// If the machine refuses what it must allow: there is nothing to explore then.
    #[expect(
        clippy::panic,
        reason = "a fixed history that the machine's own tests cover"
    )]
    pub(super) fn new(mut config: Config, consumers: usize) -> Setup {
        config.gntalloc_limit = PAGES.iter().sum();
        let asynchronous = config.unmap == UnmapMode::Async;
        let notifier = config.guest == GuestType::Pv;
        match Setup::build(config, (asynchronous, notifier), consumers) {
            Ok(setup) => setup,
            Err(error) => panic!("the simulated machine refused the setup: {error:?}"),
        }
    }

    fn build(
        config: Config,
        (asynchronous, notifier): (bool, bool),
        consumers: usize,
    ) -> Result<Setup, SimError> {
        let mut a = Asker {
            machine: Xen::new(config),
            last_conn: 0,
            last_tag: 0,
        };
        let granter = a.join(GUEST, "granter")?;
        let mapper = a.join(BACKEND, "mapper")?;
        let gntalloc = a.open(granter, DeviceKind::Gntalloc)?;
        let gntdev = a.open(mapper, DeviceKind::Gntdev)?;
        let evtchn = a.open(mapper, DeviceKind::Evtchn)?;
        let mut maps = Vec::new();
        for pages in PAGES {
            maps.push(Self::map(
                &mut a,
                (granter, gntalloc),
                (mapper, gntdev),
                evtchn,
                pages,
            )?);
        }
        let held = [
            (0, 0, HoldKind::I915),
            (1, 0, HoldKind::Plain),
            (0, 1, HoldKind::Plain),
        ];
        let mut who = Vec::new();
        for (map, page, kind) in held.into_iter().take(consumers) {
            who.push((a.join(BACKEND, "consumer")?, map, page, kind));
        }
        Ok(Setup {
            machine: a.machine,
            asynchronous,
            notifier,
            mapper,
            granter,
            gntdev,
            gntalloc,
            evtchn,
            maps,
            consumers: who,
            last_tag: a.last_tag,
        })
    }

    fn map(
        a: &mut Asker,
        (granter, gntalloc): (ConnId, FileId),
        (mapper, gntdev): (ConnId, FileId),
        evtchn: FileId,
        pages: u32,
    ) -> Result<Mapped, SimError> {
        let alloc = Request::AllocGref {
            file: gntalloc,
            peer: BACKEND,
            access: Access::ReadWrite,
            pages,
        };
        let (alloc, grants) = match a.ask(granter, alloc)? {
            Reply::Allocated { index, grefs } => {
                let foreign = |gref| ForeignGrant { domid: GUEST, gref };
                (index, grefs.into_iter().map(foreign).collect::<Vec<_>>())
            }
            other => return Err(unexpected(&other)),
        };
        let reserve = Request::MapGrantRef {
            file: gntdev,
            grants: grants.clone(),
        };
        let index = match a.ask(mapper, reserve)? {
            Reply::Index { index } => index,
            other => return Err(unexpected(&other)),
        };
        let mmap = Request::Mmap {
            file: gntdev,
            index,
            pages,
            access: Access::ReadWrite,
        };
        let vma = match a.ask(mapper, mmap)? {
            Reply::Mapped { vma, .. } => vma,
            other => return Err(unexpected(&other)),
        };
        let remote = DomId::SELF;
        let heard = a.port(
            mapper,
            Request::BindUnbound {
                file: evtchn,
                remote,
            },
        )?;
        let bind = Request::BindInterdomain {
            file: evtchn,
            remote,
            port: heard,
        };
        let notified = a.port(mapper, bind)?;
        Ok(Mapped {
            alloc,
            index,
            vma,
            pages,
            grants,
            notified,
            heard,
        })
    }

    /// A request that the quota forbids.
    pub(super) fn one_page_more(&self) -> Request {
        Request::AllocGref {
            file: self.gntalloc,
            peer: BACKEND,
            access: Access::ReadWrite,
            pages: 1,
        }
    }
}

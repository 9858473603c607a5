//! What a client and the host say to each other.
//!
//! A Unix stream socket, `xen.sock` in the host's directory. Each message is a frame: a 32-bit
//! length, a 32-bit count of file descriptors that travel with it (`SCM_RIGHTS`, in order), and
//! the message in postcard's encoding. The first request is [`Request::Join`].
//!
//! A client may have several requests in flight; replies carry the request's tag. A reply that
//! is late on purpose (a munmap of the `sync` mode, a release that waits for an invalidation) is
//! how the simulated kernel blocks a caller.

use crate::inspect::Inspection;
use crate::platform::{GuestType, Holder};
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, GrantStatus, UnmapNotify};
use serde::{Deserialize, Serialize};

/// Changes with every incompatible change of this module.
pub const PROTOCOL: u32 = 3;
/// The host's socket, in its directory.
pub const HOST_SOCKET: &str = "xen.sock";
/// The xenstore socket for dom0's tools (`XENSTORED_PATH`), in the host's directory.
pub const XENSTORE_SOCKET: &str = "xenstored.sock";
/// Longer frames are garbage. A map of 65536 grants, the driver's limit, is about 400 KiB.
pub const MAX_FRAME: usize = 1 << 20;

/// An open device file of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u64);
/// A mapping in one process's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmaId(pub u64);
/// The memory behind one gntalloc allocation: one memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(pub u64);

/// Names a set of pages that somebody holds a reference to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldId(pub u64);

/// How a holder behaves when the pages' address space changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HoldKind {
    /// A bare page reference, as a pipe or a registered buffer has.
    Plain,
    /// As i915's userptr: registers an invalidation notifier, and its release cannot finish while
    /// an invalidation of the address space is running.
    I915,
}

/// Which device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeviceKind {
    /// `/dev/xen/gntdev`
    Gntdev,
    /// `/dev/xen/gntalloc`
    Gntalloc,
    /// `/dev/xen/evtchn`
    Evtchn,
}

/// A frame from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFrame {
    /// Comes back in the reply.
    pub tag: u64,
    /// False for news that expects no reply (from a `Drop`).
    pub wants_reply: bool,
    /// The request.
    pub request: Request,
}

/// A frame from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyFrame {
    /// The request's tag.
    pub tag: u64,
    /// Its result.
    pub result: Result<Reply, SimError>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First of all: become a process of a domain. Creates the domain if there is none.
    /// Replied with [`Reply::Joined`], and the process's hazard page as a descriptor.
    Join {
        /// [`PROTOCOL`].
        protocol: u32,
        /// `None`: a new domain with the lowest free id above 0.
        domid: Option<DomId>,
        /// The process's name, for people.
        process: String,
        /// True: a domain that this creates outlives its processes, until destroyed. False: it
        /// dies with its last process. dom0 always lives.
        keep: bool,
    },
    /// `open`. For [`DeviceKind::Evtchn`] the reply carries the event page and the eventfd.
    Open {
        /// Which.
        device: DeviceKind,
    },
    /// `close`.
    Close {
        /// Which.
        file: FileId,
    },
    /// gntalloc `ALLOC_GREF` → [`Reply::Allocated`].
    AllocGref {
        /// A gntalloc file.
        file: FileId,
        /// The peer.
        peer: DomId,
        /// May the peer write?
        access: Access,
        /// How many.
        pages: u32,
    },
    /// gntalloc `DEALLOC_GREF`.
    DeallocGref {
        /// A gntalloc file.
        file: FileId,
        /// From the allocation.
        index: u64,
        /// How many pages, from the index.
        pages: u32,
    },
    /// gntdev `MAP_GRANT_REF` → [`Reply::Index`].
    MapGrantRef {
        /// A gntdev file.
        file: FileId,
        /// What to map.
        grants: Vec<ForeignGrant>,
    },
    /// gntdev `UNMAP_GRANT_REF`.
    UnmapGrantRef {
        /// A gntdev file.
        file: FileId,
        /// From the map.
        index: u64,
        /// Its pages.
        pages: u32,
    },
    /// `mmap` on a gntdev or gntalloc file → [`Reply::Mapped`], and a descriptor for each
    /// distinct (run, access) of its pieces, in order of first appearance.
    Mmap {
        /// The file.
        file: FileId,
        /// The offset.
        index: u64,
        /// How many pages.
        pages: u32,
        /// `PROT_WRITE`?
        access: Access,
    },
    /// `munmap` of part of a mapping. In `sync` mode the reply waits for the pages' references, on PV
    /// always, elsewhere where it ends the map's last use.
    Munmap {
        /// Which.
        vma: VmaId,
        /// The first page to go.
        first_page: u32,
        /// How many.
        pages: u32,
    },
    /// Part of a mapping was changed (mprotect, madvise), and stays mapped: what a memory manager
    /// tells the notifiers of the range, which only a PV guest's gntdev has.
    Invalidate {
        /// Which.
        vma: VmaId,
        /// The first page.
        first_page: u32,
        /// How many.
        pages: u32,
    },
    /// `SET_UNMAP_NOTIFY` on gntdev or gntalloc.
    SetUnmapNotify {
        /// The file.
        file: FileId,
        /// Index of the range plus the byte's place.
        offset: u64,
        /// What to do. The port must be open on an evtchn file of this process.
        notify: UnmapNotify,
    },
    /// Asks for another domain's granted page, to copy to or from → [`Reply::CopyPage`], with the
    /// page's descriptor if the status is okay, then the granter's generation table.
    CopyAttach {
        /// A gntdev file.
        file: FileId,
        /// The grant.
        grant: ForeignGrant,
        /// Copy to it?
        write: bool,
    },
    /// evtchn `BIND_UNBOUND_PORT` → [`Reply::Port`].
    BindUnbound {
        /// An evtchn file.
        file: FileId,
        /// Who may bind.
        remote: DomId,
    },
    /// evtchn `BIND_INTERDOMAIN` → [`Reply::Port`].
    BindInterdomain {
        /// An evtchn file.
        file: FileId,
        /// Whose port.
        remote: DomId,
        /// Which.
        port: EvtchnPort,
    },
    /// evtchn `BIND_VIRQ` → [`Reply::Port`].
    BindVirq {
        /// An evtchn file.
        file: FileId,
        /// `VIRQ_*`.
        virq: u32,
    },
    /// evtchn `UNBIND`.
    Unbind {
        /// An evtchn file.
        file: FileId,
        /// Which.
        port: EvtchnPort,
    },
    /// evtchn `RESTRICT_DOMID`.
    Restrict {
        /// An evtchn file.
        file: FileId,
        /// To whom.
        remote: DomId,
    },
    /// Where a notify of this port goes → [`Reply::Peer`], with the peer's event page and eventfd
    /// if there is one. Asked on the first notify, and again when the generation word moved.
    EvtchnPeer {
        /// An evtchn file.
        file: FileId,
        /// A port bound on it.
        port: EvtchnPort,
    },
    /// A xenstore connection of this domain; the reply carries the descriptor.
    OpenXenstore,
    /// Takes page references for a holder → [`Reply::Hold`].
    Pin {
        /// A gntdev mapping of the caller.
        vma: VmaId,
        /// The first page.
        first_page: u32,
        /// How many.
        pages: u32,
        /// How the holder behaves.
        kind: HoldKind,
    },
    /// Takes a hold over → [`Reply::Mapped`] (read-only pieces), with descriptors as for `Mmap`.
    HoldAttach {
        /// Which.
        hold: HoldId,
    },
    /// Drops a hold. With [`HoldKind::I915`] the reply waits while an invalidation runs.
    HoldRelease {
        /// Which.
        hold: HoldId,
    },
    /// Which of the caller's domain's own grants are in use → [`Reply::Grefs`].
    GrantsInUse {
        /// Of these.
        grefs: Vec<GrantRef>,
    },
    /// Who holds pages behind these grants → [`Reply::Holders`].
    Holders {
        /// Grants that the caller's domain mapped.
        grants: Vec<ForeignGrant>,
    },
    /// The whole state, as the hypervisor's debug key would print it → [`Reply::Inspection`].
    Inspect,
    /// Creates a domain that outlives its processes, before any has joined. dom0 only. EEXIST.
    CreateDomain {
        /// Its id.
        domid: DomId,
        /// Its name.
        name: String,
        /// What kind of guest; `None`: as this Xen's domains are.
        guest: Option<GuestType>,
    },
    /// Destroys a domain: its processes are cut off at once. dom0 only. ESRCH.
    DestroyDomain {
        /// Which.
        domid: DomId,
    },
    /// Raises a VIRQ in a domain. dom0 only. ENOENT if nobody bound it.
    RaiseVirq {
        /// Where.
        domid: DomId,
        /// `VIRQ_*`.
        virq: u32,
    },
}

/// What the host answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// To `Join`.
    Joined {
        /// The process's domain.
        domid: DomId,
        /// Async or sync, for messages.
        unmap: UnmapMode,
        /// What kind of guest the domain is.
        guest: GuestType,
    },
    /// To `Open`.
    Opened {
        /// The file.
        file: FileId,
    },
    /// To `AllocGref`.
    Allocated {
        /// mmap offset.
        index: u64,
        /// One a page.
        grefs: Vec<GrantRef>,
    },
    /// To `MapGrantRef`.
    Index {
        /// mmap offset.
        index: u64,
    },
    /// To `Mmap` and `HoldAttach`.
    Mapped {
        /// Names the mapping. `VmaId(0)` for a hold: its mapping is no VMA of gntdev.
        vma: VmaId,
        /// What to map, in order, into one contiguous range.
        pieces: Vec<Piece>,
    },
    /// To `CopyAttach`.
    CopyPage {
        /// Xen's verdict; the rest counts only if it is okay.
        status: GrantStatus,
        /// The page in the descriptor.
        page: u32,
        /// The granter's generation word for this reference: a copy is good while it stands.
        generation: u32,
    },
    /// To the binds.
    Port {
        /// The new local port.
        port: EvtchnPort,
    },
    /// To `EvtchnPeer`.
    Peer {
        /// The generation word this answer belongs to.
        generation: u32,
        /// The port to raise in the peer's event page, if somebody is there.
        remote: Option<EvtchnPort>,
    },
    /// To `Pin`.
    Hold {
        /// Its name.
        hold: HoldId,
    },
    /// To `GrantsInUse`.
    Grefs {
        /// Those in use.
        grefs: Vec<GrantRef>,
    },
    /// To `Holders`.
    Holders {
        /// Everyone.
        holders: Vec<Holder>,
    },
    /// To `Inspect`.
    Inspection(Inspection),
}

/// Pages of one run, to be mapped next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Piece {
    /// Whose memory.
    pub run: RunId,
    /// The first page in it.
    pub first_page: u32,
    /// How many.
    pub pages: u32,
    /// How to map: a read-only piece's descriptor cannot be mapped writable.
    pub access: Access,
}

/// Why the host refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimError {
    /// The errno the real call would give.
    pub errno: i32,
    /// What it is about.
    pub detail: String,
    /// Not empty for EDEADLK: a sentence for each edge of the cycle.
    pub cycle: Vec<String>,
}

/// When the kernel waits for page references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnmapMode {
    /// Linux since 5.19: queue the unmap, retry later.
    Async,
    /// Before 5.19: wait for them, on PV inside munmap, in the middle of an invalidation, and
    /// elsewhere where the map's last use ends.
    Sync,
}

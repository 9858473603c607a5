//! What goes into the machine and what comes out of it.

use super::names::{MapKey, Slot, Tag};
use super::sabotage::BackSabotage;
use libgnt::Access;
use libgnt::proto::blkif::{MAX_SEGMENTS, Operation, Request, Response, Segments};

/// How a request's data travels between the front's pages and the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataMode {
    /// A map and an unmap for each request.
    Map,
    /// Grant copy from and to pages of our own.
    Copy,
    /// Maps are kept, by grant reference (`feature-persistent`).
    Persistent,
}

/// What the disk has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskOp {
    /// Into the pages.
    Read,
    /// From the pages.
    Write,
    /// Make durable every write that was done before.
    Flush,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A front end is there, and may ask. Only while [`BackMachine::is_drained`]; otherwise nothing
    /// changes.
    ///
    /// [`BackMachine::is_drained`]: super::BackMachine::is_drained
    Open {
        /// How its data travels.
        mode: DataMode,
        /// Its writes are refused.
        read_only: bool,
    },
    /// The front asks. Only while [`BackMachine::can_take`](super::BackMachine::can_take).
    Request(Request),
    /// [`Action::Map`] is done.
    Mapped(MapKey),
    /// [`Action::Map`] failed, and left nothing mapped.
    MapFailed(MapKey),
    /// [`Action::Copy`] is over.
    Copied {
        /// The action's.
        tag: Tag,
        /// Every segment was copied.
        ok: bool,
    },
    /// [`Action::Disk`] is over; the disk does not touch the pages any more.
    DiskDone {
        /// The action's.
        tag: Tag,
        /// All of it was done.
        ok: bool,
    },
    /// The hypervisor has unmapped what [`Action::Unmap`] named.
    Released(MapKey),
    /// What [`Action::Unmap`] named is unmapped here, and nobody will tell when the hypervisor has
    /// done it. The request fails: its pages may be mapped still.
    Untold(MapKey),
    /// Take no more requests; finish and answer those at hand, and unmap all that is kept.
    Drain,
    /// The front, or its ring, is gone: as [`Input::Drain`], but nobody is answered any more.
    PeerGone,
}

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the front's pages to ours, before a write.
    FromFront,
    /// From our pages to the front's, after a read.
    ToFront,
}

/// Where the pages of a request are, segment by segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// In the request's own mapping: [`MapKey::Request`]. A flush has no segments, and so it looks
    /// for no page there.
    Own,
    /// In pages of our own, which [`Action::Copy`] fills or empties.
    Bounce,
    /// Each in a mapping of its own that is kept: [`MapKey::Cached`]. What is past the number of
    /// segments means nothing.
    Kept([Option<Slot>; MAX_SEGMENTS]),
}

/// A request whose pages are mapped, for those to whom the pages are lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestInfo {
    /// The front's name for it. Not necessarily unique.
    pub id: u64,
    /// What it asks for.
    pub operation: Operation,
    /// Where on the disk, in units of 512 bytes.
    pub sector: u64,
    /// Which part of each page; page by page as in the mapping.
    pub segments: Segments,
    /// The disk's part succeeded: what the pages hold is the data.
    pub ok: bool,
}

/// What the driver has to do, in order. Each action carries all that its doing needs, inline: a
/// request has at most [`MAX_SEGMENTS`] segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Map these pages of the front.
    Map {
        /// The mapping's name.
        key: MapKey,
        /// A write to the disk only reads the pages.
        access: Access,
        /// Which pages, in this order.
        segments: Segments,
    },
    /// Copy a request's data between the front's pages and ours.
    Copy {
        /// The request.
        tag: Tag,
        /// Which way.
        direction: Direction,
        /// Which part of each page. Our pages have the same parts.
        segments: Segments,
    },
    /// Disk I/O.
    Disk {
        /// The request.
        tag: Tag,
        /// What.
        op: DiskOp,
        /// Where on the disk, in units of 512 bytes; 0 for a flush.
        sector: u64,
        /// Which part of each page.
        segments: Segments,
        /// Where the pages are.
        pages: Pages,
    },
    /// Begin to unmap, at once or as soon as it can be done, and report [`Input::Released`] when the
    /// hypervisor has done it.
    Unmap {
        /// Which mapping.
        key: MapKey,
        /// The request whose own mapping it is.
        request: Option<RequestInfo>,
    },
    /// Put this on the ring.
    Respond(Response),
}

// Four of them belong to a request: what they weigh is paid each time.
const _: () = assert!(size_of::<Action>() <= 160);

/// The machine's bounds. Made by its `Default`, and changed by its fields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The disk's size, in sectors of 512 bytes.
    pub sectors: u64,
    /// Slots of the ring: requests in flight never exceed it.
    pub ring_size: usize,
    /// Unmaps that may be outstanding before no more requests are taken.
    pub max_zombies: usize,
    /// Persistent grants to keep; at least as many as a full ring can name is used.
    pub cache: usize,
    #[doc(hidden)]
    pub sabotage: BackSabotage,
}

/// Slots of a one-page ring, in both ABIs.
pub const RING_SIZE: usize = 32;
/// Unmaps outstanding before back-pressure, unless the configuration says otherwise: half a ring.
pub const DEFAULT_MAX_ZOMBIES: usize = 16;
/// Persistent grants kept: what a front with three full rings uses, as Linux's
/// `xen_blkif_max_pgrants` (`drivers/block/xen-blkback`, 6.1) has it for one ring.
pub const DEFAULT_CACHE: usize = 1056;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sectors: 0,
            ring_size: RING_SIZE,
            max_zombies: DEFAULT_MAX_ZOMBIES,
            cache: DEFAULT_CACHE,
            sabotage: BackSabotage::None,
        }
    }
}

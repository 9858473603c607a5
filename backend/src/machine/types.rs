//! What goes into the agent and what comes out of it.

use super::Slot;
use libgnt::Access;
use libgnt::proto::blkif::{Request, Response};

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

/// Our own name for a request. Reused, but never while anything of the request is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u32);

impl Tag {
    /// Small: below the ring's size plus the zombies of earlier connections.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn from_index(index: usize) -> Tag {
        // An index counts requests of a ring: it never comes near.
        Tag(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// To be carried through something that knows no tags.
    pub fn token(self) -> u64 {
        self.0.into()
    }

    /// Back from [`Tag::token`].
    pub fn from_token(token: u64) -> Option<Tag> {
        u32::try_from(token).ok().map(Tag)
    }
}

/// Names a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapKey {
    /// All pages of one request, in the segments' order.
    Request(Tag),
    /// One page in the cache of persistent grants.
    Cached(Slot),
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

/// What happens to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The front asks. Only while [`Agent::can_take`](super::Agent::can_take).
    Request(Request),
    /// [`Action::Map`] is done.
    Mapped(MapKey),
    /// [`Action::Map`] failed, and left nothing mapped.
    MapFailed(MapKey),
    /// [`Action::CopyIn`] or [`Action::CopyOut`] is over.
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

/// What the driver has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Map these grants of the front ([`Agent::grants`](super::Agent::grants)).
    Map {
        /// The mapping's name.
        key: MapKey,
        /// A write to the disk only reads the pages.
        access: Access,
    },
    /// Copy the request's segments from the front's pages to ours.
    CopyIn {
        /// The request.
        tag: Tag,
    },
    /// Copy the request's segments from our pages to the front's.
    CopyOut {
        /// The request.
        tag: Tag,
    },
    /// Disk I/O; what and where: [`Agent::request`](super::Agent::request),
    /// [`Agent::slots`](super::Agent::slots).
    Disk {
        /// The request.
        tag: Tag,
        /// What.
        op: DiskOp,
    },
    /// Begin to unmap, at once or as soon as it can be done, and report [`Input::Released`] when the
    /// hypervisor has done it.
    Unmap {
        /// Which mapping.
        key: MapKey,
    },
    /// Put this on the ring.
    Respond(Response),
}

/// Breaks the agent on purpose, for tests that the checks notice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sabotage {
    #[default]
    None,
    /// Breaks rule 1: answers when the unmap has begun.
    RespondBeforeRelease,
    /// Breaks rule 1: answers twice.
    RespondTwice,
    /// Breaks rule 3: unmaps while the disk works.
    UnmapDuringDisk,
    /// Breaks rule 4: takes requests without end.
    NoZombieBound,
    /// Never takes maps out of the cache.
    KeepCache,
    /// Breaks the bounds check.
    NoRangeCheck,
}

/// What an agent is built with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The disk's size, in sectors of 512 bytes.
    pub sectors: u64,
    /// Slots of the ring: requests in flight never exceed it.
    pub ring_size: usize,
    /// Unmaps that may be outstanding before no more requests are taken.
    pub max_zombies: usize,
    /// Persistent grants to keep; at least as many as a full ring can name is used.
    pub cache: usize,
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

/// Slots of a one-page ring, in both ABIs.
pub const RING_SIZE: usize = 32;
/// Unmaps outstanding before back-pressure, unless the configuration says otherwise: half a ring.
pub const DEFAULT_MAX_ZOMBIES: usize = 16;
/// Persistent grants kept: what a front with three full rings uses, as Linux's
/// `xen_blkif_max_pgrants` (`drivers/block/xen-blkback`, 6.1) has it for one ring.
pub const DEFAULT_CACHE: usize = 1056;

impl Default for AgentConfig {
    fn default() -> Self {
        AgentConfig {
            sectors: 0,
            ring_size: RING_SIZE,
            max_zombies: DEFAULT_MAX_ZOMBIES,
            cache: DEFAULT_CACHE,
            sabotage: Sabotage::None,
        }
    }
}

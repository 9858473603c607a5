//! What a hand can be told.

use super::loan::Loan;
use crate::settings::HoldName;
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant};
use serde::{Deserialize, Serialize};
use std::fmt;

/// As long as a hand ever waits, in milliseconds.
pub const UNTIL_IT_COMES: u64 = 60_000;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u32);

        impl From<u32> for $name {
            fn from(number: u32) -> $name {
                $name(number)
            }
        }

        impl From<$name> for u32 {
            fn from(id: $name) -> u32 {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

handle!(
    /// Pages that a hand shares. Never used again by the same hand.
    ShareId,
    "share"
);
handle!(
    /// Grants that a hand has mapped, and what is left of them while they are being unmapped.
    MapId,
    "map"
);
handle!(
    /// A hold that a hand has taken over.
    HeldId,
    "hold"
);
handle!(
    /// A hold of a hand's that somebody is to take over.
    LoanId,
    "loan"
);

/// Pages of a hand's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// Those that it shares.
    Share(ShareId),
    /// Those that it has mapped.
    Map(MapId),
}

impl Pages {
    /// A byte of theirs.
    pub fn at(self, offset: usize) -> Place {
        Place {
            pages: self,
            offset,
        }
    }
}

/// A byte of some pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which pages.
    pub pages: Pages,
    /// Byte in them.
    pub offset: usize,
}

/// Pages, and how to see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// Through the hand's own mapping.
    Pages(Pages),
    /// Through what holds them.
    Held(HeldId),
}

/// One order. The answer to each is named behind the arrow; every order may be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Share zeroed pages with a domain → [`Answer::Shared`](super::Answer::Shared).
    Share {
        /// The peer.
        to: DomId,
        /// How many.
        pages: usize,
        /// What the peer may do.
        access: Access,
    },
    /// End the peer's access to a share, if it has let go → [`Answer::Ended`](super::Answer::Ended).
    /// A share that is in use stays.
    EndAccess(ShareId),
    /// Map grants, all or none → [`Answer::Mapped`](super::Answer::Mapped).
    Map {
        /// Which.
        grants: Vec<ForeignGrant>,
        /// How.
        access: Access,
    },
    /// Unmap → [`Answer::Done`](super::Answer::Done) when the call returns, which is not yet the
    /// release.
    Unmap {
        /// Which.
        map: MapId,
        /// Whether the hand learns of the release.
        told: bool,
    },
    /// Wait until the hypervisor has unmapped → [`Answer::Done`](super::Answer::Done). The map is
    /// gone then.
    AwaitRelease {
        /// Which; it is being unmapped, told.
        map: MapId,
        /// How long at most, in milliseconds.
        ms: u64,
    },
    /// Drop a share or map, as whoever forgets about it → [`Answer::Done`](super::Answer::Done).
    Drop(Pages),

    /// Read so many bytes → [`Answer::Bytes`](super::Answer::Bytes).
    Read(Place, usize),
    /// Write → [`Answer::Done`](super::Answer::Done).
    Write(Place, Vec<u8>),
    /// Fill all pages with one byte → [`Answer::Done`](super::Answer::Done).
    Fill(Pages, u8),
    /// Write into each page of a share what [`pattern`](super::pattern) says for its reference →
    /// [`Answer::Done`](super::Answer::Done).
    Stamp(ShareId),
    /// How many pages of a map hold the pattern of their reference →
    /// [`Answer::Count`](super::Answer::Count).
    CountStamped(MapId),
    /// Arm the unmap notify of a share or map → [`Answer::Done`](super::Answer::Done).
    Arm {
        /// The byte.
        at: Place,
        /// Clear it.
        clear_byte: bool,
        /// Send an event on this port of the hand's.
        event: Option<EvtchnPort>,
    },
    /// Make a read-only map writable with mprotect, and write a byte through it →
    /// [`Answer::Done`](super::Answer::Done), if the process survives it.
    Trespass(MapId),

    /// Hold the first pages of a map, for somebody to take over →
    /// [`Answer::Lent`](super::Answer::Lent).
    Lend {
        /// Of which map.
        map: MapId,
        /// How.
        kind: HoldName,
        /// How many.
        pages: usize,
    },
    /// A loan was taken over, or nobody will: keep nothing of it, and in the second case let go →
    /// [`Answer::Done`](super::Answer::Done).
    Settle {
        /// Which.
        loan: LoanId,
        /// Was it taken over?
        taken: bool,
    },
    /// Take over what another process of this domain has lent →
    /// [`Answer::Holding`](super::Answer::Holding).
    Attach(Loan),
    /// Look at the pages of a hold → [`Answer::Digest`](super::Answer::Digest).
    Look(HeldId),
    /// Let go of a hold → [`Answer::Done`](super::Answer::Done) when the call returns.
    Release(HeldId),

    /// Draw a [`picture`](crate::picture) into pages → [`Answer::Done`](super::Answer::Done).
    Draw {
        /// Where.
        pages: Pages,
        /// Which.
        picture: u32,
    },
    /// Have the device that holds pages write a [`picture`](crate::picture) to them →
    /// [`Answer::Done`](super::Answer::Done).
    Paint {
        /// Which hold.
        held: HeldId,
        /// Which picture.
        picture: u32,
    },
    /// See all that is in pages, and keep it → [`Answer::Count`](super::Answer::Count), its bytes;
    /// [`Answer::Done`](super::Answer::Done), if what holds them shows nothing.
    See(View),
    /// So many bytes of what was seen last, from this one on → [`Answer::Bytes`](super::Answer::Bytes).
    Seen(usize, usize),

    /// Bind a port that a domain may bind to → [`Answer::Port`](super::Answer::Port).
    BindUnbound(DomId),
    /// Bind a port to one of another domain → [`Answer::Port`](super::Answer::Port).
    BindInterdomain(DomId, EvtchnPort),
    /// Send an event → [`Answer::Done`](super::Answer::Done).
    Notify(EvtchnPort),
    /// Close a port → [`Answer::Done`](super::Answer::Done).
    Unbind(EvtchnPort),
    /// Wait for events, so many milliseconds; read and unmask them →
    /// [`Answer::Ports`](super::Answer::Ports).
    Hear(u64),

    /// Copy one byte of a grant → [`Answer::Status`](super::Answer::Status).
    CopyStatus(ForeignGrant),
    /// One system call on a device.
    Device(DeviceOrder),
    /// Do something in xenstore → [`Answer::Bytes`](super::Answer::Bytes).
    Store(StoreOrder),

    /// What the hand's ledger still has → [`Answer::Ledger`](super::Answer::Ledger).
    Ledger,
    /// Give everything up, as the end of the process would → [`Answer::Done`](super::Answer::Done).
    Forget,
    /// Answer [`Answer::Done`](super::Answer::Done).
    Ping,
}

/// A system call on one of the hand's device files. Each share and map that is made so has a file
/// of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceOrder {
    /// `ALLOC_GREF`, and mmap → [`Answer::Shared`](super::Answer::Shared).
    Alloc {
        /// The peer.
        to: DomId,
        /// How many pages.
        pages: usize,
        /// What the peer may do.
        access: Access,
    },
    /// `DEALLOC_GREF` of a whole share → [`Answer::Done`](super::Answer::Done).
    Dealloc(ShareId),
    /// `MAP_GRANT_REF`, and mmap → [`Answer::Mapped`](super::Answer::Mapped).
    Map {
        /// Which.
        grants: Vec<ForeignGrant>,
        /// How.
        access: Access,
    },
    /// `UNMAP_GRANT_REF` of a whole map → [`Answer::Done`](super::Answer::Done).
    Unmap(MapId),
    /// munmap → [`Answer::Done`](super::Answer::Done).
    Munmap(Pages),
    /// Close the file → [`Answer::Done`](super::Answer::Done).
    Close(Pages),
}

/// What a hand can be told to do in xenstore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreOrder {
    /// Read a node.
    Read(String),
    /// Write one; what it made is removed when the hand forgets.
    Write(String, String),
    /// Remove a tree.
    Rm(String),
    /// Replace a node's permissions, each as xenstore spells it.
    SetPerms(String, Vec<String>),
}

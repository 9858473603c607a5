//! What both ends and the toolstack say about a block device in xenstore
//! (`xen/include/public/io/blkif.h`, Xen 4.17).
//!
//! Each end has a directory of its own, which the other end reads. The names are listed here once,
//! for everybody. [`FrontNodes`] and [`BackNodes`] are what an end publishes: `read` parses and
//! checks it, and the `write` functions give the names and values to write. Reading and writing do
//! not touch xenstore themselves.

mod names;

mod front;

mod back;

pub use back::{BackNodes, DiskInfo, size_of_disk};
pub use front::FrontNodes;
pub use names::*;

use crate::proto::value;

/// The byte in the reserved part of the ring page's header that is 1 while the front end lives. Xen's
/// own `UNMAP_NOTIFY_CLEAR_BYTE` (`xen/gntalloc.h`) sets it to 0 when the page goes, whatever became of
/// the process. Announced in the node [`LIVENESS`].
pub const FRONT_ALIVE_BYTE: usize = 62;
/// The back end's byte (`xen/gntdev.h`), cleared when its mapping of the ring page goes.
pub const BACK_ALIVE_BYTE: usize = 63;

/// The value of [`PROTOCOL`] for the only layout of slots that is spoken here:
/// [`X86_64`](super::X86_64).
pub const X86_64_ABI: &str = "x86_64-abi";

/// Bits of the node [`INFO`].
pub mod vdisk {
    /// `VDISK_CDROM`
    pub const CDROM: u32 = 1;
    /// `VDISK_REMOVABLE`
    pub const REMOVABLE: u32 = 2;
    /// `VDISK_READONLY`
    pub const READONLY: u32 = 4;
}

/// Whose directory a node is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// The front end's.
    FrontEnd,
    /// The back end's.
    BackEnd,
}

impl std::fmt::Display for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Publisher::FrontEnd => "the front end",
            Publisher::BackEnd => "the back end",
        })
    }
}

/// A node that does not say what it must. Fatal for the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It is not there.
    #[error("{by}'s node {node} is missing")]
    Missing {
        /// Whose.
        by: Publisher,
        /// Its name.
        node: &'static str,
    },
    /// It is there, but makes no sense.
    #[error("{by}'s node {node} is \"{value}\", which is {what}")]
    Bad {
        /// Whose.
        by: Publisher,
        /// Its name.
        node: &'static str,
        /// What it says, as [`value::shown`].
        value: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The front end asks for something that a back end of this library does not offer.
    #[error("the front end asks for {0}, which this back end does not offer")]
    NotOffered(String),
}

/// A node as it was read.
#[derive(Clone, Copy)]
struct Node<'a> {
    by: Publisher,
    name: &'static str,
    value: &'a [u8],
}

impl Node<'_> {
    fn bad(&self, what: &'static str) -> NodeError {
        NodeError::Bad {
            by: self.by,
            node: self.name,
            value: value::shown(self.value),
            what,
        }
    }

    /// A number of 32 or of 64 bits.
    fn number<T: TryFrom<u64>>(&self) -> Result<T, NodeError> {
        let what = match size_of::<T>() {
            8 => "no number of 64 bits",
            _ => "no number of 32 bits",
        };
        value::number(self.value).ok_or_else(|| self.bad(what))
    }

    /// A feature: 0 or 1.
    fn flag(&self) -> Result<bool, NodeError> {
        value::boolean(self.value).ok_or_else(|| self.bad("neither 0 nor 1"))
    }
}

fn missing(by: Publisher, node: &'static str) -> NodeError {
    NodeError::Missing { by, node }
}

/// A boolean, as it is written.
fn digit(on: bool) -> String {
    u8::from(on).to_string()
}

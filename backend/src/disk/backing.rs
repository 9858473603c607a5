//! Where the sectors are, and why they cannot be served.

use libgnt::proto::blkif::SECTOR_SIZE;
use rustix::io::Errno;
use std::path::PathBuf;

/// Where the sectors are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A regular file or a block device.
    File(PathBuf),
    /// Zeroed memory of this process, gone with it: for measurements and tests.
    Memory {
        /// Its size.
        bytes: u64,
    },
}

impl std::fmt::Display for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Backing::File(path) => write!(f, "image {}", path.display()),
            Backing::Memory { bytes } => write!(f, "{bytes} bytes of memory"),
        }
    }
}

/// Why a disk cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// open said no.
    #[error("cannot open image {} {}: {cause}; {cure}", .path.display(), if *.read_only { "for reading" } else { "for writing" })]
    Open {
        /// The image.
        path: PathBuf,
        /// How it was to be opened.
        read_only: bool,
        /// What the kernel said.
        cause: Errno,
        /// What to do.
        cure: &'static str,
    },
    /// A directory, a socket, a terminal…
    #[error("image {} is {what}; name a regular file or a block device", .path.display())]
    WrongKind {
        /// The image.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The protocol counts sectors of 512 bytes.
    #[error(
        "{backing} has {bytes} bytes, which is no positive multiple of {SECTOR_SIZE}; \
         extend it with `truncate --size=%{SECTOR_SIZE}`, or give another"
    )]
    Size {
        /// What.
        backing: Backing,
        /// Its size.
        bytes: u64,
    },
    /// Somebody has locked it.
    #[error(
        "image {} is in use by another back end (it is locked); stop that one, or use another image",
        .path.display()
    )]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// A system call on the open image failed.
    #[error("{operation} on image {}: {cause}", .path.display())]
    System {
        /// The image.
        path: PathBuf,
        /// Which call.
        operation: &'static str,
        /// What the kernel said.
        cause: Errno,
    },
    /// No memory for a memory disk.
    #[error("cannot get {bytes} bytes of memory for the disk: {source}; ask for less")]
    Memory {
        /// How much.
        bytes: u64,
        /// Why.
        source: libgnt::Error,
    },
}

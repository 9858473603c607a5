//! Words of the command line that several suites share.

use libgnt::sim::wire::UnmapMode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Where the pair runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PlatformKind {
    /// The simulated Xen, on any Linux machine.
    Sim,
    /// A real Xen: this machine's /dev/xen.
    Xen,
}

impl fmt::Display for PlatformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlatformKind::Sim => "sim",
            PlatformKind::Xen => "xen",
        })
    }
}

/// When the simulated kernels wait for page references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unmap {
    /// Linux since 5.19.
    Async,
    /// Before: inside munmap.
    Sync,
}

impl From<Unmap> for UnmapMode {
    fn from(unmap: Unmap) -> UnmapMode {
        match unmap {
            Unmap::Async => UnmapMode::Async,
            Unmap::Sync => UnmapMode::Sync,
        }
    }
}

impl fmt::Display for Unmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unmap::Async => "async",
            Unmap::Sync => "sync",
        })
    }
}

/// A way to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum HoldName {
    /// A plain page reference (simulated Xen).
    Pin,
    /// As i915's userptr: its release waits while an invalidation runs (simulated Xen).
    I915,
    /// vmsplice into a pipe whose read end the consumer has.
    Pipe,
    /// A forked child that keeps the mapping.
    Fork,
    /// Buffers registered with io_uring.
    Uring,
    /// O_DIRECT I/O in flight from the pages, to a network block device whose server is silent.
    Direct,
    /// An AF_XDP socket's packet memory.
    Xdp,
}

impl HoldName {
    /// True for the simulated Xen's own.
    pub fn is_simulated(self) -> bool {
        matches!(self, HoldName::Pin | HoldName::I915)
    }

    /// The kernel modules without which there is no such holder, by the names that `modprobe` takes.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            HoldName::Direct => &["nbd"],
            _ => &[],
        }
    }

    /// The first Linux on which it holds gntdev's pages, if not every one does.
    pub fn since(self) -> Option<(u32, u32)> {
        match self {
            // Before, `io_pin_pages` (`io_uring/rsrc.c`) refuses memory of a file: 6.1 does.
            HoldName::Uring => Some((6, 5)),
            _ => None,
        }
    }

    /// True for those whose holder sees what the pages held when it got them, and not what they hold.
    pub fn looks_at_a_copy(self) -> bool {
        matches!(self, HoldName::Direct)
    }

    /// True for those that take pages only where the mapper may write: their system calls pin with
    /// `FOLL_WRITE` (`io_pin_pages`, `io_uring/`; `xdp_umem_pin_pages`, `net/xdp/xdp_umem.c`),
    /// which a read-only mapping answers with EFAULT.
    pub fn needs_writable(self) -> bool {
        matches!(self, HoldName::Uring | HoldName::Xdp)
    }
}

impl fmt::Display for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HoldName::Pin => "pin",
            HoldName::I915 => "i915",
            HoldName::Pipe => "pipe",
            HoldName::Fork => "fork",
            HoldName::Uring => "uring",
            HoldName::Direct => "direct",
            HoldName::Xdp => "xdp",
        })
    }
}

/// A duration as its option takes it.
pub fn spell(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

/// A word for a shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

//! Words of the command line that several suites share.

use libgnt::platform::GuestType;
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

/// What kind of guest a simulated domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// Its gntdev unmaps in a notifier.
    Pv,
    /// Its gntdev unmaps with the map's last use.
    Pvh,
}

impl Guest {
    /// The one that a run in this mode is about if nobody says otherwise: the synchronous unmap has
    /// its deadlock in the notifier.
    pub fn usual(unmap: Unmap) -> Guest {
        match unmap {
            Unmap::Async => Guest::Pvh,
            Unmap::Sync => Guest::Pv,
        }
    }
}

impl From<Guest> for GuestType {
    fn from(guest: Guest) -> GuestType {
        match guest {
            Guest::Pv => GuestType::Pv,
            Guest::Pvh => GuestType::Pvh,
        }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guest::Pv => "pv",
            Guest::Pvh => "pvh",
        })
    }
}

/// A way to hold.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    PartialOrd,
    Ord,
)]
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
    /// A region of an RDMA device in software, which pins them.
    Rdma,
    /// A pipe, whose release waits for a page of an on-demand RDMA region around them.
    RdmaOdp,
    /// The same with an RDMA write to that page, for which a worker of the kernel waits.
    RdmaOdpWrite,
    /// The same as that with the page there already.
    RdmaOdpTouched,
    /// As rdma-odp, with a region that begins with them.
    RdmaOdpAligned,
    /// A buffer of a virtual video output, which reads them as a scan-out does.
    Vivid,
    /// A buffer of a virtual video capture, which writes to them as a GPU does.
    VividCapture,
}

impl HoldName {
    /// True for the simulated Xen's own.
    pub fn is_simulated(self) -> bool {
        matches!(self, HoldName::Pin | HoldName::I915)
    }

    /// The kernel modules without which there is no such holder, by the names that `modprobe` takes.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            name if name == HoldName::Rdma || name.is_on_demand() => &["rdma_rxe", "ib_uverbs"],
            HoldName::Direct => &["nbd"],
            HoldName::Vivid | HoldName::VividCapture => &["vivid"],
            _ => &[],
        }
    }

    /// The first Linux on which it holds gntdev's pages, if not every one does.
    pub fn since(self) -> Option<(u32, u32)> {
        match self {
            // Before, `io_pin_pages` (`io_uring/rsrc.c`) refuses memory of a file: 6.1 does.
            HoldName::Uring => Some((6, 5)),
            // `drivers/infiniband/sw/rxe/rxe_odp.c`: 6.12 has none, 7.2 was tried.
            name if name.is_on_demand() => Some((6, 15)),
            _ => None,
        }
    }

    /// True for those whose references are in a pipe, so that they go when somebody reads it.
    pub fn is_in_a_pipe(self) -> bool {
        self == HoldName::Pipe || self.is_on_demand()
    }

    /// True for those whose release itself waits for what the mapper does. For the others a consumer
    /// that is to behave like them waits until it is told that the unmap has returned.
    pub fn waits_by_itself(self) -> bool {
        self.is_simulated() || self.is_on_demand()
    }

    /// True for a pipe whose release waits for an on-demand region.
    pub fn is_on_demand(self) -> bool {
        matches!(
            self,
            HoldName::RdmaOdp
                | HoldName::RdmaOdpWrite
                | HoldName::RdmaOdpTouched
                | HoldName::RdmaOdpAligned
        )
    }

    /// True for those whose holder sees what the pages held when it got them, and not what they hold.
    pub fn looks_at_a_copy(self) -> bool {
        matches!(self, HoldName::Direct)
    }

    /// True for those that take pages only where the mapper may write: their system calls pin with
    /// `FOLL_WRITE` (`io_pin_pages`, `io_uring/`; `xdp_umem_pin_pages`, `net/xdp/xdp_umem.c`;
    /// `ib_umem_get`, `drivers/infiniband/core/umem.c`; `get_vaddr_frames`,
    /// `drivers/media/common/videobuf2/frame_vector.c`, for outputs, too, in 6.1 and no longer in 6.12), which
    /// a read-only mapping answers with EFAULT.
    pub fn needs_writable(self) -> bool {
        matches!(
            self,
            HoldName::Uring
                | HoldName::Xdp
                | HoldName::Rdma
                | HoldName::Vivid
                | HoldName::VividCapture
        )
    }

    /// The holder whose device writes to the pages, where this one's only reads them.
    pub fn writer(self) -> Option<HoldName> {
        match self {
            HoldName::Vivid => Some(HoldName::VividCapture),
            _ => None,
        }
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
            HoldName::Rdma => "rdma",
            HoldName::RdmaOdp => "rdma-odp",
            HoldName::RdmaOdpWrite => "rdma-odp-write",
            HoldName::RdmaOdpTouched => "rdma-odp-touched",
            HoldName::RdmaOdpAligned => "rdma-odp-aligned",
            HoldName::Vivid => "vivid",
            HoldName::VividCapture => "vivid-capture",
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

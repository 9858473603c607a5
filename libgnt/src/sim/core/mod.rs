//! The simulated hypervisor and kernels as one state machine: input in, actions out, no I/O, no
//! clock of its own. The host performs the actions; tests and models drive it directly.
//!
//! - `xen`: the tables, and which rule plays which input; `domain`: processes and domains.
//! - The hypervisor: `grants` (tables, maptrack, how access ends), `evtchn`, `copy`.
//! - The kernels: `gntalloc`, `gntdev`, `unmap` (the asynchronous unmap and its retries), `notifier`
//!   (what is different on PV), `mm` (files and mappings), `holds` (page references), `waits` (blocked
//!   calls and their cycles).
//! - `inspect` prints the state; `invariants` checks it; `fingerprint` tells states apart.
//!
//! Where Xen or Linux decide something that is easy to get wrong, the rule names the function
//! there. What is simpler here than there: memory is never paged out (no GNTST_eagain), grant
//! tables are version 1, a domain has one vCPU, and events are never lost to a full queue.

mod copy;
mod domain;
mod evtchn;
mod fingerprint;
mod gntalloc;
mod gntdev;
mod grants;
mod holds;
mod inspect;
mod invariants;
mod mm;
mod notifier;
mod unmap;
mod waits;
mod xen;

#[cfg(test)]
mod tests;

pub use xen::Xen;

use super::wire::{FileId, Reply, Request, RunId, SimError, UnmapMode};
use crate::inspect::Deadlock;
use crate::machine::Now;
use crate::platform::GuestType;
use crate::types::{DomId, EvtchnPort, GrantRef};
use serde::{Deserialize, Serialize};

/// One client process's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// What the machine is built with: [`Config::default`], and what is set differently.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// When unmaps wait.
    pub unmap: UnmapMode,
    /// What kind of guest a domain is that is not created as another one, dom0 included.
    pub guest: GuestType,
    /// `xen_gntalloc.limit`: pages of one domain, whose kernel it belongs to.
    pub gntalloc_limit: u32,
    /// `xen_gntdev.limit`: grants in one map request.
    pub gntdev_limit: u32,
    /// Entries of a domain's grant table (64 frames of 512 entries, Xen's default).
    pub grant_entries: u32,
    /// Event channels of a domain, port 0 included (the two-level ABI on x86-64).
    pub event_channels: u32,
    /// A deliberate fault, for tests of the checks.
    #[doc(hidden)]
    pub sabotage: Option<KernelSabotage>,
}

/// Ways to break the simulated kernels and hypervisor on purpose: each has a check that must notice it
/// ([`Xen::check`], or a judge in the tests).
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelSabotage {
    /// The hypervisor unmap happens although somebody holds a page.
    UnmapIgnoresReferences,
    /// The map is not kept alive while its unmap is queued.
    NoMapReferenceAcrossAsync,
    /// A map does not know which of its handles are unmapped, so its last use unmaps again.
    DoubleUnmap,
    /// The notify event is sent when the unmap begins.
    EventBeforeUnmap,
    /// The granter reuses page and reference while the peer still maps.
    ReuseWhileInUse,
    /// The end of an invalidation wakes no release that waits for it.
    LostWakeup,
    /// A dead process's page references are never dropped.
    HoldOutlivesOwner,
    /// gntalloc's quota is not checked.
    NoQuota,
    /// A PV guest's gntdev unmaps at the map's last use, as others do.
    NoNotifier,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            unmap: UnmapMode::Async,
            guest: GuestType::Pvh,
            gntalloc_limit: 1024,
            gntdev_limit: 65536,
            grant_entries: 64 * 512,
            event_channels: 4096,
            sabotage: None,
        }
    }
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A process connected. It is in no domain before its `Join`.
    Connected {
        /// The connection.
        conn: ConnId,
        /// The peer's pid, as the kernel says (`SO_PEERCRED`).
        pid: u32,
    },
    /// A process asks.
    Request {
        /// Who.
        conn: ConnId,
        /// For the reply; `None` if none is wanted.
        tag: Option<u64>,
        /// What.
        request: Request,
    },
    /// A process is gone: exit, kill, or garbage on its socket. Its mappings go first, then its files.
    Disconnected {
        /// Who.
        conn: ConnId,
    },
    /// The time that [`Xen::next_timer`](Xen) named has come (early or late is fine).
    Timer,
    /// No grant copy of this reference is running any more, after [`Action::RevokeCopy`].
    CopyDrained {
        /// The granter.
        domid: DomId,
        /// The reference.
        gref: GrantRef,
    },
}

/// What the host has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a reply. Descriptors follow from the reply's kind: see [`Request`].
    Reply {
        /// To whom.
        conn: ConnId,
        /// The request's tag.
        tag: u64,
        /// The result.
        result: Result<Reply, SimError>,
        /// The memory, files and tables whose descriptors travel with it, in order.
        attach: Vec<Attachment>,
    },
    /// Make a zeroed memfd. Comes before any reply that names it.
    CreateRun {
        /// Its name.
        run: RunId,
        /// Its size.
        pages: u32,
    },
    /// Nothing maps it and nothing can: close the memfd.
    FreeRun {
        /// Which.
        run: RunId,
    },
    /// Make an event page and an eventfd.
    CreateEvents {
        /// The evtchn file.
        file: FileId,
    },
    /// Close them.
    FreeEvents {
        /// The evtchn file.
        file: FileId,
    },
    /// Make a table of generation words for a new domain's references.
    CreateGenerations {
        /// The domain.
        domid: DomId,
    },
    /// Close it.
    FreeGenerations {
        /// The domain.
        domid: DomId,
    },
    /// Set a port pending (and wake, unless masked): unmap notify, VIRQ.
    Raise {
        /// The evtchn file where the port is bound.
        file: FileId,
        /// The local port there.
        port: EvtchnPort,
    },
    /// The other end of a port changed: store the generation in the event page's word for it, so
    /// that the next notify asks again.
    PeerChanged {
        /// The evtchn file.
        file: FileId,
        /// The local port.
        port: EvtchnPort,
        /// The new word.
        generation: u32,
    },
    /// A port was closed: forget its pending and mask bits.
    ClearPort {
        /// The evtchn file.
        file: FileId,
        /// The local port.
        port: EvtchnPort,
    },
    /// Unmap notify: store a zero byte.
    ClearByte {
        /// The memory.
        run: RunId,
        /// Byte in it.
        offset: u64,
    },
    /// Store a new generation word for a reference, then report [`Input::CopyDrained`] once no
    /// hazard slot names it. The entry counts as in use until then.
    RevokeCopy {
        /// The granter.
        domid: DomId,
        /// The reference.
        gref: GrantRef,
        /// The new word.
        generation: u32,
    },
    /// Cut a process off: its domain was destroyed, or it broke the protocol.
    /// The machine has forgotten it; no `Disconnected` must follow.
    Cut {
        /// Who.
        conn: ConnId,
        /// Why, for the log.
        why: String,
    },
    /// A domain began: xenstore learns it (`@introduceDomain`).
    DomainCreated {
        /// Which.
        domid: DomId,
        /// Its name.
        name: String,
    },
    /// A domain ended: xenstore learns it (`@releaseDomain`).
    DomainReleased {
        /// Which.
        domid: DomId,
    },
    /// A wait-for cycle was found and broken.
    Deadlock(Deadlock),
    /// Something a kernel would print.
    Log {
        /// The line.
        line: String,
    },
}

/// A descriptor that travels with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// The memfd of a run.
    Run {
        /// Which.
        run: RunId,
        /// A descriptor that cannot be mapped writable, or one that can.
        access: crate::types::Access,
    },
    /// An evtchn file's event page, writable, then its eventfd (two descriptors).
    Events {
        /// Which.
        file: FileId,
    },
    /// A domain's generation table, read-only.
    Generations {
        /// Whose.
        domid: DomId,
    },
    /// The connection's own hazard page.
    Hazards,
    /// One end of a new xenstore connection with this domain's rights.
    Xenstore {
        /// Whose.
        domid: DomId,
    },
}

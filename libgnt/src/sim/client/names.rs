//! What errors call the parts of the simulated Xen.

/// The whole of it, where no device is meant.
pub const SIM: &str = "simulated Xen";
/// `/dev/xen/gntdev`
pub const GNTDEV: &str = "/dev/xen/gntdev (simulated)";
/// `/dev/xen/gntalloc`
pub const GNTALLOC: &str = "/dev/xen/gntalloc (simulated)";
/// `/dev/xen/evtchn`
pub const EVTCHN: &str = "/dev/xen/evtchn (simulated)";
/// `/dev/xen/xenbus`
pub const XENBUS: &str = "/dev/xen/xenbus (simulated)";
/// The kernel's memory manager, which counts who holds a page.
pub const MEMORY_MANAGER: &str = "memory manager (simulated)";

//! The names of the nodes.

/// Front end: the grant of the ring's only page.
pub const RING_REF: &str = "ring-ref";
/// Front end: the grant of the ring's first page, if the front end speaks of [`RING_PAGE_ORDER`].
pub const RING_REF_0: &str = "ring-ref0";
/// Front end: the ring has 2 to the power of so many pages. Here there is only 0.
pub const RING_PAGE_ORDER: &str = "ring-page-order";
/// Front end: the older name for the number of the ring's pages.
pub const NUM_RING_PAGES: &str = "num-ring-pages";
/// Front end: so many queues, each with a ring of its own. Here there is only one.
pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
/// Front end: the event channel that the front end keeps for the back end.
pub const EVENT_CHANNEL: &str = "event-channel";
/// Front end: how slots are laid out ([`X86_64_ABI`](super::X86_64_ABI)).
pub const PROTOCOL: &str = "protocol";
/// Front end: it accepts `sector-size` as the unit of requests.
pub const FEATURE_LARGE_SECTOR_SIZE: &str = "feature-large-sector-size";
/// Both ends: grants stay mapped between requests.
pub const FEATURE_PERSISTENT: &str = "feature-persistent";
/// Both ends: where in the ring page its liveness byte is. Not in Xen's header: only ends of this
/// library have it.
pub const LIVENESS: &str = "pvpair-liveness";

/// Back end: it performs flushes.
pub const FEATURE_FLUSH_CACHE: &str = "feature-flush-cache";
/// Back end: the largest [`RING_PAGE_ORDER`] that it serves.
pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
/// Back end: the disk's size, in units of 512 bytes. A back end may write it anew while it serves, and
/// then touches its `state` (`xen_vbd_resize` in `drivers/block/xen-blkback/blkback.c`, Linux 6.12).
pub const SECTORS: &str = "sectors";
/// Back end: bytes of the smallest unit of I/O.
pub const SECTOR_SIZE: &str = "sector-size";
/// Back end: bytes of the medium's own sector.
pub const PHYSICAL_SECTOR_SIZE: &str = "physical-sector-size";
/// Back end: what kind of disk it is, in bits ([`vdisk`](super::vdisk)).
pub const INFO: &str = "info";

/// Toolstack, in the back end's directory: `r` or `w`.
pub const MODE: &str = "mode";
/// Toolstack, in the back end's directory: where the sectors are, a path for example.
pub const PARAMS: &str = "params";
/// Toolstack, in the back end's directory: what kind of back end is to serve it.
pub const TYPE: &str = "type";
/// Toolstack, in the back end's directory: the device's name in the guest.
pub const DEV: &str = "dev";
/// Toolstack, in the back end's directory: the medium can be taken out.
pub const REMOVABLE: &str = "removable";
/// Toolstack, in the back end's directory: the guest boots from it.
pub const BOOTABLE: &str = "bootable";
/// Toolstack, in both directories: `disk` or `cdrom`.
pub const DEVICE_TYPE: &str = "device-type";
/// Toolstack, in the front end's directory: the device's number.
pub const VIRTUAL_DEVICE: &str = "virtual-device";

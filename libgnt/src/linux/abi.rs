//! The ioctl arguments and numbers of Xen's device nodes, as C lays them out.
//!
//! Source: `include/uapi/xen/{gntdev,gntalloc,evtchn}.h`, Linux 6.1 (`IOCTL_EVTCHN_BIND_STATIC`: 6.6).
//! `tests/abi_oracle.rs` compiles those headers and compares every number, size and offset here.
//!
//! Two oddities of the encoding. All numbers say `_IOC_NONE`, though most arguments are read and
//! many written. And a struct that ends in an array has one element in C, so the size in the
//! number stays the same however many elements a call has.

/// `_IOC(_IOC_NONE, group, nr, size)` (`include/uapi/asm-generic/ioctl.h`).
const fn ioc_none(group: u8, nr: u8, size: usize) -> u32 {
    assert!(size < 1 << 14, "the size field has 14 bits");
    (size as u32) << 16 | (group as u32) << 8 | nr as u32
}

/// `struct ioctl_gntdev_grant_ref`: one grant to map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevGrantRef {
    /// The granter; only the low 16 bits can be a domain.
    pub domid: u32,
    /// The reference in its table.
    pub gref: u32,
}

/// `struct ioctl_gntdev_map_grant_ref`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevMapGrantRef {
    /// Grants in `refs`.
    pub count: u32,
    /// Unused.
    pub pad: u32,
    /// Out: the offset for mmap.
    pub index: u64,
    /// `count` of them.
    pub refs: [GntdevGrantRef; 1],
}

/// `struct ioctl_gntdev_unmap_grant_ref`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevUnmapGrantRef {
    /// What the map call returned.
    pub index: u64,
    /// Pages: the whole range.
    pub count: u32,
    /// Unused.
    pub pad: u32,
}

/// `struct ioctl_gntdev_get_offset_for_vaddr`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevGetOffsetForVaddr {
    /// Any address in the mapping.
    pub vaddr: u64,
    /// Out: the map's index.
    pub offset: u64,
    /// Out: pages of the whole map.
    pub count: u32,
    /// Unused.
    pub pad: u32,
}

/// `struct ioctl_gntdev_set_max_grants`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevSetMaxGrants {
    /// Grants.
    pub count: u32,
}

/// `struct ioctl_gntdev_unmap_notify`, and `struct ioctl_gntalloc_unmap_notify`, which is the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnmapNotifyArg {
    /// A byte's position in the file, as for mmap.
    pub index: u64,
    /// `UNMAP_NOTIFY_*` bits.
    pub action: u32,
    /// The port, with `UNMAP_NOTIFY_SEND_EVENT`.
    pub event_channel_port: u32,
}

/// One side of a copy segment: a C union of an address and `{ref, offset, domid}`, both eight bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyAddress(pub u64);

impl CopyAddress {
    /// `{ grant_ref_t ref; __u16 offset; domid_t domid; }`
    pub const fn foreign(gref: u32, offset: u16, domid: u16) -> Self {
        let ([a, b, c, d], [e, f], [g, h]) = (
            gref.to_ne_bytes(),
            offset.to_ne_bytes(),
            domid.to_ne_bytes(),
        );
        CopyAddress(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// `struct gntdev_grant_copy_segment`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevGrantCopySegment {
    /// From.
    pub source: CopyAddress,
    /// To.
    pub dest: CopyAddress,
    /// Bytes.
    pub len: u16,
    /// `GNTCOPY_*`: which sides are grants.
    pub flags: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// C's trailing padding, by name so that no byte of it is undefined.
    pub pad: u16,
}

/// The source is a grant (`GNTCOPY_source_gref`, `xen/include/public/grant_table.h`).
pub const GNTCOPY_SOURCE_GREF: u16 = 1;
/// The destination is a grant (`GNTCOPY_dest_gref`).
pub const GNTCOPY_DEST_GREF: u16 = 2;

/// `struct ioctl_gntdev_grant_copy`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GntdevGrantCopy {
    /// Segments.
    pub count: u32,
    /// Where they are.
    pub segments: *mut GntdevGrantCopySegment,
}

/// `struct ioctl_gntdev_dmabuf_exp_from_refs`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevDmabufExpFromRefs {
    /// `GNTDEV_DMA_FLAG_*`.
    pub flags: u32,
    /// References in `refs`.
    pub count: u32,
    /// Out: the new descriptor.
    pub fd: u32,
    /// The granter.
    pub domid: u32,
    /// `count` of them.
    pub refs: [u32; 1],
}

/// Write-combined memory (`GNTDEV_DMA_FLAG_WC`).
pub const GNTDEV_DMA_FLAG_WC: u32 = 1;
/// Coherent memory (`GNTDEV_DMA_FLAG_COHERENT`); not together with write-combined.
pub const GNTDEV_DMA_FLAG_COHERENT: u32 = 2;

/// `struct ioctl_gntdev_dmabuf_exp_wait_released`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevDmabufExpWaitReleased {
    /// The exported buffer.
    pub fd: u32,
    /// Milliseconds.
    pub wait_to_ms: u32,
}

/// `struct ioctl_gntdev_dmabuf_imp_to_refs`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevDmabufImpToRefs {
    /// The buffer.
    pub fd: u32,
    /// Its pages.
    pub count: u32,
    /// Who may map them.
    pub domid: u32,
    /// Zero.
    pub reserved: u32,
    /// Out: `count` of them.
    pub refs: [u32; 1],
}

/// `struct ioctl_gntdev_dmabuf_imp_release`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntdevDmabufImpRelease {
    /// The imported buffer.
    pub fd: u32,
    /// Zero.
    pub reserved: u32,
}

/// `struct ioctl_gntalloc_alloc_gref`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntallocAllocGref {
    /// Who may map the pages.
    pub domid: u16,
    /// [`GNTALLOC_FLAG_WRITABLE`]
    pub flags: u16,
    /// Pages.
    pub count: u32,
    /// Out: the offset for mmap.
    pub index: u64,
    /// Out: `count` of them. C pads the struct to 24 bytes after the one it has.
    pub gref_ids: [u32; 1],
}

/// The peer may write (`GNTALLOC_FLAG_WRITABLE`).
pub const GNTALLOC_FLAG_WRITABLE: u16 = 1;

/// `struct ioctl_gntalloc_dealloc_gref`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GntallocDeallocGref {
    /// What the alloc call returned, or a page further.
    pub index: u64,
    /// Pages. C pads the struct to 16 bytes.
    pub count: u32,
}

/// `struct ioctl_evtchn_bind_virq`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvtchnBindVirq {
    /// `VIRQ_*`.
    pub virq: u32,
}

/// `struct ioctl_evtchn_bind_interdomain`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvtchnBindInterdomain {
    /// Whose port.
    pub remote_domain: u32,
    /// Which: unbound, and meant for us.
    pub remote_port: u32,
}

/// `struct ioctl_evtchn_bind_unbound_port`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvtchnBindUnboundPort {
    /// Who may bind to it.
    pub remote_domain: u32,
}

/// `struct ioctl_evtchn_unbind`, `struct ioctl_evtchn_notify` and `struct ioctl_evtchn_bind`: all one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvtchnPortArg {
    /// A local port.
    pub port: u32,
}

/// `struct ioctl_evtchn_restrict_domid`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvtchnRestrictDomid {
    /// The only domain from now on.
    pub domid: u16,
}

/// `IOCTL_GNTDEV_MAP_GRANT_REF`
pub const GNTDEV_MAP_GRANT_REF: u32 = ioc_none(b'G', 0, size_of::<GntdevMapGrantRef>());
/// `IOCTL_GNTDEV_UNMAP_GRANT_REF`
pub const GNTDEV_UNMAP_GRANT_REF: u32 = ioc_none(b'G', 1, size_of::<GntdevUnmapGrantRef>());
/// `IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR`
pub const GNTDEV_GET_OFFSET_FOR_VADDR: u32 =
    ioc_none(b'G', 2, size_of::<GntdevGetOffsetForVaddr>());
/// `IOCTL_GNTDEV_SET_MAX_GRANTS`
pub const GNTDEV_SET_MAX_GRANTS: u32 = ioc_none(b'G', 3, size_of::<GntdevSetMaxGrants>());
/// `IOCTL_GNTALLOC_ALLOC_GREF`
pub const GNTALLOC_ALLOC_GREF: u32 = ioc_none(b'G', 5, size_of::<GntallocAllocGref>());
/// `IOCTL_GNTALLOC_DEALLOC_GREF`
pub const GNTALLOC_DEALLOC_GREF: u32 = ioc_none(b'G', 6, size_of::<GntallocDeallocGref>());
/// `IOCTL_GNTDEV_SET_UNMAP_NOTIFY` and `IOCTL_GNTALLOC_SET_UNMAP_NOTIFY`
pub const SET_UNMAP_NOTIFY: u32 = ioc_none(b'G', 7, size_of::<UnmapNotifyArg>());
/// `IOCTL_GNTDEV_GRANT_COPY`
pub const GNTDEV_GRANT_COPY: u32 = ioc_none(b'G', 8, size_of::<GntdevGrantCopy>());
/// `IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS`
pub const GNTDEV_DMABUF_EXP_FROM_REFS: u32 =
    ioc_none(b'G', 9, size_of::<GntdevDmabufExpFromRefs>());
/// `IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED`
pub const GNTDEV_DMABUF_EXP_WAIT_RELEASED: u32 =
    ioc_none(b'G', 10, size_of::<GntdevDmabufExpWaitReleased>());
/// `IOCTL_GNTDEV_DMABUF_IMP_TO_REFS`
pub const GNTDEV_DMABUF_IMP_TO_REFS: u32 = ioc_none(b'G', 11, size_of::<GntdevDmabufImpToRefs>());
/// `IOCTL_GNTDEV_DMABUF_IMP_RELEASE`
pub const GNTDEV_DMABUF_IMP_RELEASE: u32 = ioc_none(b'G', 12, size_of::<GntdevDmabufImpRelease>());

/// `IOCTL_EVTCHN_BIND_VIRQ`
pub const EVTCHN_BIND_VIRQ: u32 = ioc_none(b'E', 0, size_of::<EvtchnBindVirq>());
/// `IOCTL_EVTCHN_BIND_INTERDOMAIN`
pub const EVTCHN_BIND_INTERDOMAIN: u32 = ioc_none(b'E', 1, size_of::<EvtchnBindInterdomain>());
/// `IOCTL_EVTCHN_BIND_UNBOUND_PORT`
pub const EVTCHN_BIND_UNBOUND_PORT: u32 = ioc_none(b'E', 2, size_of::<EvtchnBindUnboundPort>());
/// `IOCTL_EVTCHN_UNBIND`
pub const EVTCHN_UNBIND: u32 = ioc_none(b'E', 3, size_of::<EvtchnPortArg>());
/// `IOCTL_EVTCHN_NOTIFY`
pub const EVTCHN_NOTIFY: u32 = ioc_none(b'E', 4, size_of::<EvtchnPortArg>());
/// `IOCTL_EVTCHN_RESET`: no argument.
pub const EVTCHN_RESET: u32 = ioc_none(b'E', 5, 0);
/// `IOCTL_EVTCHN_RESTRICT_DOMID`
pub const EVTCHN_RESTRICT_DOMID: u32 = ioc_none(b'E', 6, size_of::<EvtchnRestrictDomid>());
/// `IOCTL_EVTCHN_BIND_STATIC`
pub const EVTCHN_BIND_STATIC: u32 = ioc_none(b'E', 7, size_of::<EvtchnPortArg>());

//! What `/dev/infiniband/uverbs*` takes and gives: structs, numbers and flags of
//! `include/uapi/rdma/ib_user_verbs.h`, `rdma_user_ioctl_cmds.h`, `ib_user_ioctl_cmds.h` and
//! `ib_user_ioctl_verbs.h` (Linux 6.1 and 7.2, where they are the same). A test compiles the
//! system's own headers and compares.

/// `RDMA_VERBS_IOCTL`.
pub(super) const VERBS_IOCTL: u64 = 0xc018_1b01;
/// `RDMA_DRIVER_RXE`.
pub(super) const DRIVER_RXE: u32 = 14;

/// `UVERBS_OBJECT_DEVICE`, `UVERBS_METHOD_INVOKE_WRITE`: any command of the older interface, whose
/// `write()` refuses a descriptor that another process has opened (`ib_safe_file_access`).
pub(super) const OBJECT_DEVICE: u16 = 0;
pub(super) const METHOD_INVOKE_WRITE: u16 = 0;
pub(super) const ATTR_CORE_IN: u16 = 0;
pub(super) const ATTR_CORE_OUT: u16 = 1;
pub(super) const ATTR_WRITE_CMD: u16 = 2;
/// `UVERBS_ATTR_UHW_OUT`: what the driver adds to an answer.
pub(super) const ATTR_UHW_OUT: u16 = 0x1001;

/// `UVERBS_OBJECT_MR`, `UVERBS_METHOD_ADVISE_MR`.
pub(super) const OBJECT_MR: u16 = 7;
pub(super) const METHOD_ADVISE_MR: u16 = 2;
pub(super) const ATTR_ADVISE_PD: u16 = 0;
pub(super) const ATTR_ADVISE_ADVICE: u16 = 1;
pub(super) const ATTR_ADVISE_FLAGS: u16 = 2;
pub(super) const ATTR_ADVISE_LIST: u16 = 3;
/// `IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE`.
pub(super) const PREFETCH_WRITE: u64 = 1;
/// `IB_UVERBS_ADVISE_MR_FLAG_FLUSH`: the call returns when it is done.
pub(super) const FLUSH: u64 = 1;

/// `UVERBS_ATTR_F_MANDATORY`.
pub(super) const MANDATORY: u16 = 1;

/// `enum ib_uverbs_write_cmds`.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(super) enum Command {
    GetContext = 0,
    AllocPd = 3,
    RegMr = 9,
}

/// `IB_UVERBS_ACCESS_*`, `ib_user_ioctl_verbs.h`.
pub(super) const LOCAL_WRITE: u32 = 1 << 0;
pub(super) const ON_DEMAND: u32 = 1 << 6;

/// `struct ib_uverbs_ioctl_hdr`, without its attributes.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Header {
    pub length: u16,
    pub object_id: u16,
    pub method_id: u16,
    pub num_attrs: u16,
    pub reserved1: u64,
    pub driver_id: u32,
    pub reserved2: u32,
}

/// `struct ib_uverbs_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attribute {
    pub attr_id: u16,
    pub len: u16,
    pub flags: u16,
    pub reserved: u16,
    pub data: u64,
}

/// Structs of integers without gaps: any bytes are one, and all of its bytes are set.
pub(super) trait Plain: Default {}

/// Declares the kernel's structs.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $(pub $field: $kind,)*
        }
        impl Plain for $name {}
    )*};
}

impl Plain for () {}

plain! {
    /// `struct ib_uverbs_get_context`. `response` is unused where the answer is an attribute.
    GetContext { response: u64 }
    /// `struct ib_uverbs_get_context_resp`.
    GetContextResp { async_fd: u32, num_comp_vectors: u32 }
    /// `struct ib_uverbs_alloc_pd`.
    AllocPd { response: u64 }
    /// `struct ib_uverbs_alloc_pd_resp`.
    AllocPdResp { pd_handle: u32 }
    /// `struct ib_uverbs_reg_mr`.
    RegMr { response: u64, start: u64, length: u64, hca_va: u64, pd_handle: u32, access_flags: u32 }
    /// `struct ib_uverbs_reg_mr_resp`.
    RegMrResp { mr_handle: u32, lkey: u32, rkey: u32 }
    /// `struct ib_uverbs_sge`.
    Sge { addr: u64, length: u32, lkey: u32 }
}

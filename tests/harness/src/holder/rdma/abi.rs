//! What `/dev/infiniband/uverbs*` takes and gives: structs, numbers and flags of
//! `include/uapi/rdma/ib_user_verbs.h`, `rdma_user_ioctl_cmds.h`, `ib_user_ioctl_cmds.h`,
//! `ib_user_ioctl_verbs.h` and `rdma_user_rxe.h` (Linux 6.1 and 7.2, where they are the same). A test
//! compiles the system's own headers and compares.

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

/// `UVERBS_METHOD_GET_CONTEXT`, and where it says how many completion vectors there are. Not the older
/// command of that name: since Linux 6.15 it takes the command's own number for descriptors.
pub(super) const METHOD_GET_CONTEXT: u16 = 3;
pub(super) const ATTR_COMP_VECTORS: u16 = 0;

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
    AllocPd = 3,
    RegMr = 9,
    CreateCompChannel = 17,
    CreateCq = 18,
    ReqNotifyCq = 23,
    CreateQp = 24,
    ModifyQp = 26,
    PostSend = 28,
}

/// `IB_UVERBS_ACCESS_*`, `ib_user_ioctl_verbs.h`.
pub(super) const LOCAL_WRITE: u32 = 1 << 0;
pub(super) const REMOTE_WRITE: u32 = 1 << 1;
pub(super) const ON_DEMAND: u32 = 1 << 6;

/// `IB_UVERBS_QPT_RC`: a connection whose packets are acknowledged.
pub(super) const QPT_RC: u8 = 2;
/// `IB_UVERBS_WR_RDMA_WRITE`.
pub(super) const WR_RDMA_WRITE: u32 = 0;
/// `IB_SEND_SIGNALED | IB_SEND_INLINE`, `include/rdma/ib_verbs.h`.
pub(super) const SEND_SIGNALED_INLINE: u32 = 1 << 1 | 1 << 3;

/// `sizeof(struct ib_uverbs_send_wr)`, which the kernel asks for even where there is none.
pub(super) const SEND_WR_BYTES: u32 = 56;

/// `IB_QPS_*` of `enum ib_qp_state`, `include/rdma/ib_verbs.h`.
pub(super) const QPS_INIT: u8 = 1;
pub(super) const QPS_RTR: u8 = 2;
pub(super) const QPS_RTS: u8 = 3;
/// What [`ModifyQp`] changes: `enum ib_qp_attr_mask`, the same file. The state; then access, key and
/// port; then address, size, peer, sequence, depth and timer; then timeout, retries, sequence, depth.
pub(super) const TO_INIT: u32 = 1 | 1 << 3 | 1 << 4 | 1 << 5;
pub(super) const TO_RTR: u32 = 1 | 1 << 7 | 1 << 8 | 1 << 20 | 1 << 12 | 1 << 17 | 1 << 15;
pub(super) const TO_RTS: u32 = 1 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 13;
/// `IB_MTU_1024`, the same file.
pub(super) const MTU_1024: u8 = 3;

/// `struct rxe_queue_buf`: where the number of the next element to fill and the first element are.
pub(super) const QUEUE_PRODUCER: usize = 128;
pub(super) const QUEUE_DATA: usize = 384;
/// `struct ib_uverbs_wc.status`, which a completion begins with.
pub(super) const COMPLETION_STATUS: usize = 8;

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
impl Plain for u32 {}

plain! {
    /// `struct ib_uverbs_alloc_pd`. `response` is unused where the answer is an attribute.
    AllocPd { response: u64 }
    /// `struct ib_uverbs_alloc_pd_resp`.
    AllocPdResp { pd_handle: u32 }
    /// `struct ib_uverbs_reg_mr`.
    RegMr { response: u64, start: u64, length: u64, hca_va: u64, pd_handle: u32, access_flags: u32 }
    /// `struct ib_uverbs_reg_mr_resp`.
    RegMrResp { mr_handle: u32, lkey: u32, rkey: u32 }
    /// `struct ib_uverbs_create_comp_channel`.
    CreateCompChannel { response: u64 }
    /// `struct ib_uverbs_create_comp_channel_resp`.
    CreateCompChannelResp { fd: u32 }
    /// `struct ib_uverbs_create_cq`.
    CreateCq {
        response: u64, user_handle: u64, cqe: u32, comp_vector: u32, comp_channel: i32, reserved: u32,
    }
    /// `struct ib_uverbs_create_cq_resp`.
    CreateCqResp { cq_handle: u32, cqe: u32 }
    /// `struct mminfo`: where shared memory can be mapped.
    MmapInfo { offset: u64, size: u32, pad: u32 }
    /// `struct rxe_create_qp_resp`: the receive queue's memory, and the send queue's.
    RxeCreateQpResp {
        rq_offset: u64, rq_size: u32, rq_pad: u32, sq_offset: u64, sq_size: u32, sq_pad: u32,
    }
    /// `struct ib_uverbs_create_qp`.
    CreateQp {
        response: u64, user_handle: u64, pd_handle: u32, send_cq_handle: u32, recv_cq_handle: u32,
        srq_handle: u32, max_send_wr: u32, max_recv_wr: u32, max_send_sge: u32, max_recv_sge: u32,
        max_inline_data: u32, sq_sig_all: u8, qp_type: u8, is_srq: u8, reserved: u8,
    }
    /// `struct ib_uverbs_create_qp_resp`.
    CreateQpResp {
        qp_handle: u32, qpn: u32, max_send_wr: u32, max_recv_wr: u32, max_send_sge: u32,
        max_recv_sge: u32, max_inline_data: u32, reserved: u32,
    }
    /// `struct ib_uverbs_modify_qp`, whose first two parts are `struct ib_uverbs_qp_dest`.
    ModifyQp {
        dgid: [u8; 16], flow_label: u32, dlid: u16, dest_reserved: u16, sgid_index: u8, hop_limit: u8,
        traffic_class: u8, sl: u8, src_path_bits: u8, static_rate: u8, is_global: u8, dest_port: u8,
        alt_dest: [u8; 32],
        qp_handle: u32, attr_mask: u32, qkey: u32, rq_psn: u32, sq_psn: u32, dest_qp_num: u32,
        qp_access_flags: u32, pkey_index: u16, alt_pkey_index: u16, qp_state: u8, cur_qp_state: u8,
        path_mtu: u8, path_mig_state: u8, en_sqd_async_notify: u8, max_rd_atomic: u8,
        max_dest_rd_atomic: u8, min_rnr_timer: u8, port_num: u8, timeout: u8, retry_cnt: u8,
        rnr_retry: u8, alt_port_num: u8, alt_timeout: u8, reserved: [u8; 2],
    }
    /// `struct ib_uverbs_req_notify_cq`.
    ReqNotifyCq { cq_handle: u32, solicited_only: u32 }
    /// `struct ib_uverbs_post_send`, with no request in it: those are in the shared queue.
    PostSend { response: u64, qp_handle: u32, wr_count: u32, sge_count: u32, wqe_size: u32 }
    /// `struct ib_uverbs_post_send_resp`.
    PostSendResp { bad_wr: u32 }
    /// `struct rxe_send_wqe` with `wr.wr.rdma`, and eight bytes of data.
    SendWqe {
        wr_id: u64, wr_reserved: u32, opcode: u32, send_flags: u32, imm_data: u32, remote_addr: u64,
        rkey: u32, rdma_reserved: u32, wr_rest: [u64; 13],
        status: u32, state: u32, iova: u64, mask: u32, first_psn: u32, last_psn: u32, ack_length: u32,
        ssn: u32, has_rd_atomic: u32,
        length: u32, resid: u32, cur_sge: u32, num_sge: u32, sge_offset: u32, dma_reserved: u32,
        inline_data: u64,
    }
    /// `struct ib_uverbs_sge`.
    Sge { addr: u64, length: u32, lkey: u32 }
}

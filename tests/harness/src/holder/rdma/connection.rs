//! A connection of an RDMA device with itself, for one RDMA write: the mapper makes it, and the
//! consumer, who has the descriptors, asks for the write and waits for its end.
//!
//! With rxe it is a worker of the kernel that writes (`rxe_receiver`, `drivers/infiniband/sw/rxe/rxe_resp.c`),
//! so it is the worker that waits where a prefetch lets the consumer wait. The queues are memory that
//! the kernel shares with whoever maps them first (`rxe_mmap`), so the mapper leaves that to the consumer.
#![allow(unsafe_code, reason = "memory that the kernel shares")]

use super::abi::{
    COMPLETION_STATUS, Command, CreateCq, CreateCqResp, CreateQp, CreateQpResp, MTU_1024, MmapInfo,
    ModifyQp, PostSend, PostSendResp, QPS_INIT, QPS_RTR, QPS_RTS, QPT_RC, QUEUE_DATA,
    QUEUE_PRODUCER, REMOTE_WRITE, ReqNotifyCq, RxeCreateQpResp, SEND_SIGNALED_INLINE,
    SEND_WR_BYTES, SendWqe, TO_INIT, TO_RTR, TO_RTS, WR_RDMA_WRITE,
};
use super::link::Link;
use super::verbs::{Verbs, bytes};
use crate::holder::{HoldError, HoldName, PATIENCE, call};
use libgnt::{Access, PAGE_SIZE, SharedPages};
use memmap2::MmapOptions;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

/// The device's only port.
const PORT: u8 = 1;
/// 127.0.0.1, as a table of RoCE v2 has it.
const ADDRESS: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
/// Bytes of one write, which travel in the request.
const DATA: u32 = 8;

/// How many words an [`Offered`] is.
pub(super) const WORDS: usize = 6;

/// What the consumer needs to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offered {
    queue: u32,
    completions: u32,
    /// Offset and length of the memory of each.
    queue_memory: (u64, u32),
    completions_memory: (u64, u32),
}

impl Offered {
    pub fn words(&self) -> [u64; WORDS] {
        [
            self.queue.into(),
            self.completions.into(),
            self.queue_memory.0,
            self.queue_memory.1.into(),
            self.completions_memory.0,
            self.completions_memory.1.into(),
        ]
    }

    pub fn of(words: [u64; WORDS]) -> Option<Offered> {
        let small = |at: usize| u32::try_from(words[at]).ok();
        Some(Offered {
            queue: small(0)?,
            completions: small(1)?,
            queue_memory: (words[2], small(3)?),
            completions_memory: (words[4], small(5)?),
        })
    }
}

/// Makes a connection, and a descriptor that tells of what is over.
///
/// # Errors
/// The link has no address of IPv4; what the ioctls say.
pub(super) fn create(
    verbs: &Verbs,
    domain: u32,
    link: &Link,
) -> Result<(Offered, OwnedFd), HoldError> {
    let address = link.index_of(ADDRESS).ok_or_else(|| HoldError::Broken {
        kind: verbs.kind(),
        what: "the link over `lo` has no address 127.0.0.1".into(),
    })?;
    let channel = verbs.channel()?;
    let wanted = CreateCq {
        cqe: 1,
        comp_channel: channel.as_raw_fd(),
        ..CreateCq::default()
    };
    let (completions, shared): (CreateCqResp, MmapInfo) =
        verbs.invoke("CREATE_CQ", Command::CreateCq, &wanted)?;
    let wanted = CreateQp {
        pd_handle: domain,
        send_cq_handle: completions.cq_handle,
        recv_cq_handle: completions.cq_handle,
        max_send_wr: 1,
        max_recv_wr: 1,
        max_send_sge: 1,
        max_recv_sge: 1,
        max_inline_data: DATA,
        qp_type: QPT_RC,
        ..CreateQp::default()
    };
    let (queue, memory): (CreateQpResp, RxeCreateQpResp) =
        verbs.invoke("CREATE_QP", Command::CreateQp, &wanted)?;
    for step in steps(&queue, address) {
        let ((), ()) = verbs.invoke("MODIFY_QP", Command::ModifyQp, &step)?;
    }
    let offered = Offered {
        queue: queue.qp_handle,
        completions: completions.cq_handle,
        queue_memory: (memory.sq_offset, memory.sq_size),
        completions_memory: (shared.offset, shared.size),
    };
    Ok((offered, channel))
}

/// What connects a queue with itself. It waits for an acknowledgement as long as that takes.
fn steps(queue: &CreateQpResp, address: u8) -> [ModifyQp; 3] {
    let to = |state, attr_mask| ModifyQp {
        qp_handle: queue.qp_handle,
        qp_state: state,
        attr_mask,
        ..ModifyQp::default()
    };
    [
        ModifyQp {
            qp_access_flags: REMOTE_WRITE,
            port_num: PORT,
            ..to(QPS_INIT, TO_INIT)
        },
        ModifyQp {
            dgid: ADDRESS,
            sgid_index: address,
            hop_limit: 1,
            is_global: 1,
            dest_port: PORT,
            dest_qp_num: queue.qpn,
            path_mtu: MTU_1024,
            ..to(QPS_RTR, TO_RTR)
        },
        ModifyQp {
            retry_cnt: 7,
            rnr_retry: 7,
            ..to(QPS_RTS, TO_RTS)
        },
    ]
}

/// A connection in the consumer's hands.
pub(super) struct Connection {
    kind: HoldName,
    queue: SharedPages,
    completions: SharedPages,
    offered: Offered,
    channel: OwnedFd,
}

impl Connection {
    /// # Errors
    /// What mmap says: EINVAL if somebody has mapped them already.
    pub fn of(verbs: &Verbs, offered: Offered, channel: OwnedFd) -> Result<Connection, HoldError> {
        Ok(Connection {
            kind: verbs.kind(),
            queue: map(verbs, offered.queue_memory)?,
            completions: map(verbs, offered.completions_memory)?,
            offered,
            channel,
        })
    }

    /// Writes a few bytes to an address of a region, and returns when they are there. After a while
    /// it says that it waits still.
    ///
    /// # Errors
    /// What the ioctls say; a write that failed. A connection is good for one.
    pub fn write(&self, verbs: &Verbs, key: u32, address: u64) -> Result<(), HoldError> {
        let notify = ReqNotifyCq {
            cq_handle: self.offered.completions,
            solicited_only: 0,
        };
        let ((), ()) = verbs.invoke("REQ_NOTIFY_CQ", Command::ReqNotifyCq, &notify)?;
        self.queue.write(QUEUE_DATA, bytes(&request(key, address)));
        // Partner: the kernel's acquire load of the index (`queue_get_producer`).
        self.queue.store_u32(QUEUE_PRODUCER, 1, Ordering::Release);
        let ring = PostSend {
            qp_handle: self.offered.queue,
            wqe_size: SEND_WR_BYTES,
            ..PostSend::default()
        };
        let (_, ()): (PostSendResp, ()) = verbs.invoke("POST_SEND", Command::PostSend, &ring)?;
        self.await_end(address)?;
        // Partner: the kernel's release store (`queue_advance_producer`).
        let ended = self.completions.load_u32(QUEUE_PRODUCER, Ordering::Acquire);
        let status = QUEUE_DATA + COMPLETION_STATUS;
        match (ended, self.completions.load_u32(status, Ordering::Relaxed)) {
            (1, 0) => Ok(()),
            (1, status) => Err(self.broken(format!("the RDMA write failed with status {status}"))),
            (many, _) => Err(self.broken(format!("{many} completions of one RDMA write"))),
        }
    }

    fn await_end(&self, address: u64) -> Result<(), HoldError> {
        let patience = Timespec::try_from(PATIENCE).unwrap_or_default();
        let mut limit = Some(&patience);
        loop {
            match poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], limit) {
                Ok(0) => {
                    limit = None;
                    tracing::warn!(
                        "the RDMA write to {address:#x} has not ended after {PATIENCE:?}; waiting for it"
                    );
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(call(self.kind, "poll")(errno)),
            }
        }
    }

    fn broken(&self, what: String) -> HoldError {
        let kind = self.kind;
        HoldError::Broken { kind, what }
    }
}

/// A request with its data in it (`wqe_state_posted` is 0).
fn request(key: u32, address: u64) -> SendWqe {
    SendWqe {
        opcode: WR_RDMA_WRITE,
        send_flags: SEND_SIGNALED_INLINE,
        remote_addr: address,
        rkey: key,
        iova: address,
        length: DATA,
        resid: DATA,
        num_sge: 1,
        ..SendWqe::default()
    }
}

/// Maps what the kernel shares.
fn map(verbs: &Verbs, (offset, len): (u64, u32)) -> Result<SharedPages, HoldError> {
    let kind = verbs.kind();
    let len = len as usize;
    if len < QUEUE_DATA + size_of::<SendWqe>() || !len.is_multiple_of(PAGE_SIZE) {
        let what = format!("a queue of {len} bytes");
        return Err(HoldError::Broken { kind, what });
    }
    let raw = MmapOptions::new()
        .offset(offset)
        .len(len)
        .map_raw(&verbs.fd())
        .map_err(|error| call(kind, "mmap")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    // SAFETY: mapped just now, readable and writable; the kernel keeps the memory for as long as it
    // is mapped (`rxe_vma_close`).
    Ok(unsafe { SharedPages::new(raw, Access::ReadWrite, None) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_survives_the_way() {
        let offered = Offered {
            queue: 3,
            completions: 4,
            queue_memory: (1 << 40, 8192),
            completions_memory: (4096, 4096),
        };
        assert_eq!(Offered::of(offered.words()).as_ref(), Some(&offered));
        let mut words = offered.words();
        words[3] = 1 << 33;
        assert_eq!(Offered::of(words), None);
    }

    #[test]
    fn a_queue_is_connected_with_itself_in_three_steps() {
        let queue = CreateQpResp {
            qp_handle: 5,
            qpn: 17,
            ..CreateQpResp::default()
        };
        let [init, ready_to_receive, ready_to_send] = steps(&queue, 2);
        assert_eq!(
            (init.qp_state, init.qp_access_flags),
            (QPS_INIT, REMOTE_WRITE)
        );
        assert_eq!(ready_to_receive.dest_qp_num, 17);
        assert_eq!(ready_to_receive.sgid_index, 2);
        assert_eq!(ready_to_send.timeout, 0, "an answer may take any time");
    }

    #[test]
    fn a_request_is_as_long_as_its_data() {
        let request = request(7, 0x1000);
        assert_eq!(bytes(&request).len(), 208 + DATA as usize);
        assert_eq!((request.iova, request.remote_addr), (0x1000, 0x1000));
        assert_eq!((request.length, request.resid), (DATA, DATA));
    }

    #[test]
    fn memory_of_another_size_is_not_mapped() {
        let file = OwnedFd::from(std::fs::File::open("/dev/zero").unwrap());
        let verbs = Verbs::of(HoldName::RdmaOdpWrite, file);
        for len in [0, 64, 4097] {
            assert!(map(&verbs, (0, len)).is_err(), "{len}");
        }
    }
}

//! `uring`: the mapper registers the pages as a buffer of an io_uring. The buffer stays until it is
//! unregistered or the last descriptor of the ring closes. Linux since 6.7 (and the stable kernels
//! of that time) refuses to send a ring over a socket (`scm_fp_copy`, `net/core/scm.c`), so the
//! consumer fetches it with pidfd_getfd, and the mapper keeps it until then. The consumer
//! looks at it with IORING_OP_WRITE_FIXED, which writes the buffer's pages, not the mapper's
//! (perhaps vanished) address range, to a pipe.
//!
//! Registering pins for writing, so read-only pages are refused (EFAULT).
#![allow(unsafe_code, reason = "io_uring takes addresses and raw descriptors")]

use super::{Export, Held, HoldError, HoldName, Holder, address_of, allow, call, fetch, parts};
use libgnt::{Access, PAGE_SIZE, SharedPages};
use memmap2::MmapOptions;
use rustix::io_uring::{
    IoringEnterFlags, IoringFeatureFlags, IoringOp, IoringRegisterOp, io_uring_enter,
    io_uring_params, io_uring_register, io_uring_setup,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

const KIND: HoldName = HoldName::Uring;
const ENTRIES: u32 = 4;
/// `IORING_OFF_SQES`, `include/uapi/linux/io_uring.h`.
const OFFSET_SQES: u64 = 0x1000_0000;
/// `sizeof(struct io_uring_sqe)` and `sizeof(struct io_uring_cqe)`.
const SQE_BYTES: usize = 64;
const CQE_BYTES: usize = 16;

/// Rings that are exported and not taken over yet, by their number in this process.
#[derive(Default)]
pub(super) struct Uring {
    exported: Mutex<HashMap<u64, OwnedFd>>,
}

impl Uring {
    fn exported(&self) -> MutexGuard<'_, HashMap<u64, OwnedFd>> {
        self.exported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ring's number is the last but one of an export's words.
    fn forget(&self, words: &[u64]) {
        if let Some(number) = words.iter().rev().nth(1) {
            self.exported().remove(number);
        }
    }
}

fn broken(what: impl Into<String>) -> HoldError {
    HoldError::Broken {
        kind: KIND,
        what: what.into(),
    }
}

impl Holder for Uring {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let (address, len) = address_of(KIND, pages, first, count)?;
        let mut params = io_uring_params::default();
        // SAFETY: no flag that takes a descriptor or an address is set.
        let ring = unsafe { io_uring_setup(ENTRIES, &mut params) }
            .map_err(call(KIND, "io_uring_setup"))?;
        if !params.features.contains(IoringFeatureFlags::SINGLE_MMAP) {
            return Err(broken("this kernel's io_uring is older than 5.4"));
        }
        let buffer = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: len,
        };
        // SAFETY: one iovec, whose range was checked to be inside a living mapping; the kernel
        // takes references to its pages.
        unsafe {
            io_uring_register(
                &ring,
                IoringRegisterOp::RegisterBuffers,
                (&raw const buffer).cast(),
                1,
            )
        }
        .map_err(call(KIND, "IORING_REGISTER_BUFFERS"))?;
        let words = [
            params.sq_off.tail,
            params.sq_off.ring_mask,
            params.sq_off.array,
            params.cq_off.head,
            params.cq_off.tail,
            params.cq_off.ring_mask,
            params.cq_off.cqes,
        ];
        let mut words: Vec<u64> = words.map(u64::from).into();
        words.push(address as u64);
        allow(KIND)?;
        let number = u64::from(ring.as_raw_fd().cast_unsigned());
        words.extend([number, u64::from(std::process::id())]);
        self.exported().insert(number, ring);
        Ok(Export::new(KIND, count, words, vec![]))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let pages = export.pages as usize;
        let ([], words) = parts::<0, 10>(export)?;
        let [
            sq_tail,
            sq_mask,
            sq_array,
            cq_head,
            cq_tail,
            cq_mask,
            cqes,
            address,
            number,
            pid,
        ] = words;
        let ring = fetch(KIND, pid, number)?;
        // Numbers of the mapper, used as offsets into one page.
        let at = |word: u64| match usize::try_from(word) {
            Ok(at)
                if at.is_multiple_of(4) && at + ENTRIES as usize * 2 * CQE_BYTES <= PAGE_SIZE =>
            {
                Ok(at)
            }
            _ => Err(broken(format!("{word} is no offset in a small ring"))),
        };
        let offsets = Offsets {
            sq_tail: at(sq_tail)?,
            sq_mask: at(sq_mask)?,
            sq_array: at(sq_array)?,
            cq_head: at(cq_head)?,
            cq_tail: at(cq_tail)?,
            cq_mask: at(cq_mask)?,
            cqes: at(cqes)?,
        };
        let rings = map(&ring, 0)?;
        let sqes = map(&ring, OFFSET_SQES)?;
        Ok(Box::new(Registered {
            ring,
            rings,
            sqes,
            offsets,
            address,
            pages,
        }))
    }

    fn taken(&self, words: &[u64]) {
        self.forget(words);
    }

    fn abandon(&self, words: &[u64]) -> Result<(), HoldError> {
        self.forget(words);
        Ok(())
    }
}

/// One page of the ring's memory; a ring of [`ENTRIES`] has no more of either kind.
fn map(ring: &OwnedFd, offset: u64) -> Result<SharedPages, HoldError> {
    // The number came from another process: a file would be mapped too, and end under the mapping.
    let link = format!("/proc/self/fd/{}", ring.as_raw_fd());
    let what = std::fs::read_link(link).map_err(|error| broken(error.to_string()))?;
    if what != Path::new("anon_inode:[io_uring]") {
        return Err(broken(format!("{} is no io_uring", what.display())));
    }
    let raw = MmapOptions::new()
        .offset(offset)
        .len(PAGE_SIZE)
        .map_raw(ring)
        .map_err(|error| broken(format!("mapping the ring: {error}")))?;
    // SAFETY: mapped just now, readable and writable; the kernel keeps a ring's memory for as long
    // as it is mapped.
    Ok(unsafe { SharedPages::new(raw, Access::ReadWrite, None) })
}

struct Offsets {
    sq_tail: usize,
    sq_mask: usize,
    sq_array: usize,
    cq_head: usize,
    cq_tail: usize,
    cq_mask: usize,
    cqes: usize,
}

struct Registered {
    ring: OwnedFd,
    rings: SharedPages,
    sqes: SharedPages,
    offsets: Offsets,
    /// Where the buffer was in the mapper; it names a place in the buffer, nothing more.
    address: u64,
    pages: usize,
}

impl Registered {
    /// Puts one WRITE_FIXED of the whole buffer on the ring, and takes its completion.
    fn write_fixed(&self, to: &OwnedFd, len: usize) -> Result<usize, HoldError> {
        let Offsets {
            sq_tail,
            sq_mask,
            sq_array,
            ..
        } = self.offsets;
        let mask = self
            .rings
            .load_u32(sq_mask, Ordering::Relaxed)
            .min(ENTRIES - 1);
        let tail = self.rings.load_u32(sq_tail, Ordering::Relaxed);
        let slot = tail & mask;
        let len32 = u32::try_from(len).map_err(|_| broken("too many pages"))?;
        // struct io_uring_sqe: opcode@0, fd@4, off@8, addr@16, len@24, user_data@32, buf_index@40.
        let mut sqe = [0u8; SQE_BYTES];
        sqe[0] = IoringOp::WriteFixed as u8;
        sqe[4..8].copy_from_slice(&to.as_raw_fd().to_ne_bytes());
        sqe[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
        sqe[16..24].copy_from_slice(&self.address.to_ne_bytes());
        sqe[24..28].copy_from_slice(&len32.to_ne_bytes());
        self.sqes.write(slot as usize * SQE_BYTES, &sqe);
        self.rings
            .store_u32(sq_array + slot as usize * 4, slot, Ordering::Relaxed);
        // Partner: the kernel's acquire load of the tail in io_uring_enter.
        self.rings
            .store_u32(sq_tail, tail.wrapping_add(1), Ordering::Release);
        // SAFETY: the one submission writes a registered buffer to a descriptor of ours.
        unsafe { io_uring_enter(&self.ring, 1, 1, IoringEnterFlags::GETEVENTS) }
            .map_err(call(KIND, "io_uring_enter"))?;
        self.completion()
    }

    fn completion(&self) -> Result<usize, HoldError> {
        let Offsets {
            cq_head,
            cq_tail,
            cq_mask,
            cqes,
            ..
        } = self.offsets;
        let head = self.rings.load_u32(cq_head, Ordering::Relaxed);
        // Partner: the kernel's release store of the tail after it wrote the completion.
        if self.rings.load_u32(cq_tail, Ordering::Acquire) == head {
            return Err(broken("io_uring_enter returned without a completion"));
        }
        let mask = self
            .rings
            .load_u32(cq_mask, Ordering::Relaxed)
            .min(2 * ENTRIES - 1);
        let mut result = [0; 4];
        // struct io_uring_cqe: user_data@0, res@8.
        self.rings
            .read(cqes + (head & mask) as usize * CQE_BYTES + 8, &mut result);
        // Partner: the kernel's load of the head when it looks for room.
        self.rings
            .store_u32(cq_head, head.wrapping_add(1), Ordering::Release);
        match i32::from_ne_bytes(result) {
            n if n >= 0 => Ok(n as usize),
            errno => Err(call(KIND, "IORING_OP_WRITE_FIXED")(
                rustix::io::Errno::from_raw_os_error(-errno),
            )),
        }
    }
}

impl Held for Registered {
    fn see(&mut self) -> Result<Option<Vec<u8>>, HoldError> {
        let len = self.pages * PAGE_SIZE;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(call(KIND, "pipe2"))?;
        // Room for all of it, so that the write cannot block.
        fcntl_setpipe_size(&write, len).map_err(call(KIND, "F_SETPIPE_SZ"))?;
        let written = self.write_fixed(&write, len)?;
        if written != len {
            return Err(broken(format!("wrote {written} of {len} bytes")));
        }
        let mut bytes = vec![0; len];
        File::from(read)
            .read_exact(&mut bytes)
            .map_err(|error| broken(format!("reading the pipe: {error}")))?;
        Ok(Some(bytes))
    }

    /// Unregistering is synchronous; closing the ring is not.
    fn release(self: Box<Self>) -> Result<(), HoldError> {
        // SAFETY: takes no address.
        unsafe {
            io_uring_register(
                &self.ring,
                IoringRegisterOp::UnregisterBuffers,
                std::ptr::null(),
                0,
            )
        }
        .map_err(call(KIND, "IORING_UNREGISTER_BUFFERS"))?;
        Ok(())
    }
}

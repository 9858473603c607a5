//! Writes that are in flight: Linux AIO, because io_submit takes the references before it returns;
//! io_uring may leave that to a worker, which would find the range unmapped.
//!
//! The context goes with the process: destroying it, and a process's end, wait for what is in flight
//! (`exit_aio`, `fs/aio.c`).
#![allow(unsafe_code, reason = "Linux AIO takes addresses")]

use crate::holder::{HoldError, HoldName, call, last_errno};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

const KIND: HoldName = HoldName::Direct;

/// `IOCB_CMD_PWRITE` and `IOCB_FLAG_RESFD`, `include/uapi/linux/aio_abi.h`.
const CMD_PWRITE: u16 = 1;
const FLAG_RESFD: u32 = 1;
/// Writes in flight at once, of one process.
const IN_FLIGHT: usize = 64;
/// `sizeof(struct io_event)`, `include/uapi/linux/aio_abi.h`.
const EVENT_BYTES: usize = 32;

/// `struct iocb`, `include/uapi/linux/aio_abi.h` (little-endian layout of key and flags).
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// A context for writes.
pub(super) struct Aio {
    context: libc::c_ulong,
}

impl Aio {
    pub fn new() -> Result<Aio, HoldError> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: `context` is zero, as io_setup wants it, and outlives the call.
        let failed = unsafe { libc::syscall(libc::SYS_io_setup, IN_FLIGHT, &raw mut context) } < 0;
        if failed {
            return Err(call(KIND, "io_setup")(last_errno()));
        }
        Ok(Aio { context })
    }

    /// Begins to write pages to the begin of a disk; `done` tells the end.
    ///
    /// # Safety
    /// The range is inside a living mapping.
    pub unsafe fn write(
        &self,
        disk: BorrowedFd<'_>,
        (address, len): (usize, usize),
        done: BorrowedFd<'_>,
    ) -> Result<(), HoldError> {
        self.forget_ended();
        let fd = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
        let mut iocb = Iocb {
            opcode: CMD_PWRITE,
            fd: fd(disk),
            buffer: address as u64,
            bytes: len as u64,
            flags: FLAG_RESFD,
            result_fd: fd(done),
            ..Iocb::default()
        };
        let mut list = [&raw mut iocb];
        // SAFETY: one iocb, copied in by the call; the caller vouches for its range, whose pages the
        // kernel references before the call returns.
        let submitted = unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                1 as libc::c_long,
                list.as_mut_ptr(),
            )
        };
        match submitted {
            1 => Ok(()),
            0 => Err(call(KIND, "io_submit")(Errno::AGAIN)),
            _ => Err(call(KIND, "io_submit")(last_errno())),
        }
    }

    /// Makes room in the context: a write that has ended counts until its event was taken.
    fn forget_ended(&self) {
        let mut events = [0u8; IN_FLIGHT * EVENT_BYTES];
        let mut at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: room for as many events as are asked for; both outlive the call. What the events say
        // is the consumer's to know, by `done`.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0 as libc::c_long,
                IN_FLIGHT,
                events.as_mut_ptr(),
                &raw mut at_once,
            )
        };
    }
}

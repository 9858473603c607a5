//! `direct`: an O_DIRECT write from the pages to a file, in flight. The kernel holds the pages for
//! as long as the device takes, which nobody can choose: on an ordinary disk that is well under a
//! millisecond, on one behind `dm-delay` as long as that says. The consumer gets an eventfd that
//! tells the end, and the file; its release is to wait for the end.
//!
//! Linux AIO, because io_submit takes the references before it returns; io_uring may leave that
//! to a worker, which would find the range unmapped.
#![allow(unsafe_code, reason = "Linux AIO takes addresses")]

use super::{
    Export, Held, HoldError, HoldName, Holder, PATIENCE, address_of, call, last_errno, parts,
    sha256,
};
use libgnt::{PAGE_SIZE, SharedPages};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

const KIND: HoldName = HoldName::Direct;
/// `IOCB_CMD_PWRITE` and `IOCB_FLAG_RESFD`, `include/uapi/linux/aio_abi.h`.
const CMD_PWRITE: u16 = 1;
const FLAG_RESFD: u32 = 1;
/// Writes in flight at once, of one process.
const IN_FLIGHT: libc::c_long = 64;

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

pub(super) struct Direct {
    /// The AIO context. It goes with the process: destroying it would wait for what is in flight.
    context: libc::c_ulong,
    dir: PathBuf,
}

impl Direct {
    pub fn new(dir: &Path) -> Result<Direct, HoldError> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: `context` is zero, as io_setup wants it, and outlives the call.
        let failed = unsafe { libc::syscall(libc::SYS_io_setup, IN_FLIGHT, &raw mut context) } < 0;
        if failed {
            return Err(call(KIND, "io_setup")(last_errno()));
        }
        Ok(Direct {
            context,
            dir: dir.to_owned(),
        })
    }
}

impl Holder for Direct {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let (address, len) = address_of(KIND, pages, first, count)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = open(&self.dir, flags, Mode::RUSR | Mode::WUSR).map_err(call(KIND, "open"))?;
        let done = eventfd(0, EventfdFlags::CLOEXEC).map_err(call(KIND, "eventfd"))?;
        let fd = |fd: &OwnedFd| fd.as_raw_fd().cast_unsigned();
        let mut iocb = Iocb {
            opcode: CMD_PWRITE,
            fd: fd(&file),
            buffer: address as u64,
            bytes: len as u64,
            flags: FLAG_RESFD,
            result_fd: fd(&done),
            ..Iocb::default()
        };
        let mut list = [&raw mut iocb];
        // SAFETY: one iocb, copied in by the call; its range was checked to be inside a living
        // mapping, whose pages the kernel references before the call returns.
        let submitted = unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                1 as libc::c_long,
                list.as_mut_ptr(),
            )
        };
        if submitted != 1 {
            return Err(call(KIND, "io_submit")(last_errno()));
        }
        Ok(Export::new(KIND, count, vec![], vec![done, file]))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let pages = export.pages as usize;
        let ([done, file], []) = parts(export)?;
        Ok(Box::new(InFlight {
            done,
            file: File::from(file),
            pages,
        }))
    }
}

struct InFlight {
    done: OwnedFd,
    file: File,
    pages: usize,
}

impl InFlight {
    /// Waits until the device has the data.
    fn landed(&self) -> Result<(), HoldError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.done, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    let what = format!("the write is still in flight after {PATIENCE:?}");
                    return Err(HoldError::Broken { kind: KIND, what });
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(call(KIND, "poll")(errno)),
            }
        }
    }
}

impl Held for InFlight {
    /// What the device got.
    fn checksum(&mut self) -> Result<Option<String>, HoldError> {
        self.landed()?;
        // The file was opened for O_DIRECT, which wants aligned memory to read into.
        let into = SharedPages::anonymous(self.pages)?;
        let fd = std::os::fd::AsFd::as_fd(&self.file);
        let len = self.pages * PAGE_SIZE;
        let read = into
            .read_from_file(0, len, fd, 0)
            .map_err(call(KIND, "pread"))?;
        if read != len {
            let what = format!("the device took {read} of {len} bytes");
            return Err(HoldError::Broken { kind: KIND, what });
        }
        let mut bytes = vec![0; len];
        into.read(0, &mut bytes);
        Ok(Some(sha256(&bytes)))
    }

    fn release(self: Box<Self>) -> Result<(), HoldError> {
        self.landed()
    }
}

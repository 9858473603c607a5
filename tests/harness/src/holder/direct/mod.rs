//! `direct`: an O_DIRECT write from the pages to a disk, in flight. The kernel holds the pages until the
//! disk has answered.
//!
//! The disk is a network block device, and its server is ours: it takes the write, and is silent for as
//! long as the consumer holds. The mapper attaches the device and submits the write; the consumer gets
//! the server's end of the socket, so that to answer is to let go. When the consumer dies the socket
//! closes, the kernel fails the write (EIO), and the pages are let go. So it is when the mapper dies,
//! which could not end before otherwise: a process waits for its writes in flight (`exit_aio`,
//! `fs/aio.c`).
//!
//! What the consumer can look at is what the disk was sent. The kernel copied that into the socket when
//! the write was submitted (`nbd_send_cmd`, `drivers/block/nbd.c`; `unix_stream_sendmsg`,
//! `net/unix/af_unix.c`; 6.1), so it is the page as it was then, and not the live one.

mod aio;
mod nbd;
mod protocol;
mod server;

use super::{Export, Held, HoldError, HoldName, Holder, address_of, call, parts, sha256};
use aio::Aio;
use libgnt::{PAGE_SIZE, SharedPages};
use nbd::PATIENCE;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use server::Server;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Instant;

const KIND: HoldName = HoldName::Direct;

#[derive(Default)]
pub(super) struct Direct {
    /// Made when it is needed: it stays until the process ends.
    aio: OnceLock<Aio>,
}

impl Direct {
    /// # Errors
    /// [`HoldError::NotHere`]: this kernel has no network block devices.
    pub fn new() -> Result<Direct, HoldError> {
        nbd::devices()?;
        Ok(Direct::default())
    }

    fn aio(&self) -> Result<&Aio, HoldError> {
        match self.aio.get() {
            Some(aio) => Ok(aio),
            None => {
                let aio = Aio::new()?;
                Ok(self.aio.get_or_init(|| aio))
            }
        }
    }
}

impl Holder for Direct {
    #[allow(unsafe_code, reason = "the range is checked here")]
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let range = address_of(KIND, pages, first, count)?;
        let aio = self.aio()?;
        let (disk, server) = nbd::attach(range.1)?;
        let done = eventfd(0, EventfdFlags::CLOEXEC).map_err(call(KIND, "eventfd"))?;
        // SAFETY: the range was checked to be inside a living mapping.
        unsafe { aio.write(disk.as_fd(), range, done.as_fd()) }?;
        let fds = vec![done, OwnedFd::from(server)];
        Ok(Export::new(KIND, count, vec![], fds))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let size = export.pages as usize * PAGE_SIZE;
        let ([done, socket], []) = parts(export)?;
        let server = Server::start(UnixStream::from(socket), size)?;
        Ok(Box::new(InFlight { done, server }))
    }
}

struct InFlight {
    done: OwnedFd,
    server: Server,
}

impl Held for InFlight {
    /// What the disk was sent.
    fn checksum(&mut self) -> Result<Option<String>, HoldError> {
        Ok(Some(sha256(&self.server.contents(PATIENCE)?)))
    }

    /// The kernel unpins right after it has told of the end (`blkdev_bio_end_io_async`, `block/fops.c`).
    fn release(self: Box<Self>) -> Result<(), HoldError> {
        // All of it must have come: what comes later would be answered, too, but by nobody.
        self.server.contents(PATIENCE)?;
        self.server.answer()?;
        landed(&self.done)
    }
}

/// Waits for the end of the write.
fn landed(done: &OwnedFd) -> Result<(), HoldError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(done, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                let what = format!("the write was answered, and is in flight {PATIENCE:?} later");
                return Err(HoldError::Broken { kind: KIND, what });
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(call(KIND, "poll")(errno)),
        }
    }
}

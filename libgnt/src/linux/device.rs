//! What the device files share: opening one, mapping it, its unmap notify, and saying what went wrong.
#![allow(unsafe_code, reason = "vouches for what the drivers map")]

use super::ioctl::{Call, Kernel, Syscalls};
use crate::error::{Error, Result};
use crate::shm::{SharedPages, errno_of};
use crate::types::{Access, PAGE_SIZE, UnmapNotify};
use memmap2::MmapOptions;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Most pages of one call: 64 GiB. Above any limit a driver can be given in earnest, and small
/// enough that the argument's own size cannot overflow or exhaust memory.
pub(super) const MAX_PAGES: usize = 1 << 24;

/// An open device file, and the kernel that answers for it.
#[derive(Debug)]
pub(super) struct Device<K = Syscalls> {
    /// For messages: `/dev/xen/gntdev`.
    name: &'static str,
    file: OwnedFd,
    pub kernel: K,
}

impl Device<Syscalls> {
    /// Opens `name` below `root`, and explains a failure: `module` is what would provide it.
    pub fn open(root: &Path, name: &'static str, module: &str, flags: OFlags) -> Result<Self> {
        let path = root.join(name.trim_start_matches('/'));
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => Ok(Device {
                name,
                file,
                kernel: Syscalls,
            }),
            Err(errno) => Err(open_error(name, module, errno)),
        }
    }
}

/// Why a node could not be opened, and what to do.
pub(super) fn open_error(node: &str, module: &str, errno: Errno) -> Error {
    let (cause, cure) = match errno {
        Errno::NOENT => (
            "there is no such device node".to_owned(),
            format!(
                "load its driver as root with `modprobe {module}` (and, in a container, pass the \
                 node in), or use the platform `sim:DIR`, a simulated Xen"
            ),
        ),
        Errno::ACCESS | Errno::PERM => (
            errno.to_string(),
            "run as root, or give this user access to the node with a udev rule".to_owned(),
        ),
        Errno::NODEV | Errno::NXIO => (
            format!("{errno}: the node is there, but no driver answers"),
            format!("load it as root with `modprobe {module}`"),
        ),
        _ => (
            errno.to_string(),
            "see the kernel's log (`dmesg`)".to_owned(),
        ),
    };
    Error::not_available(node, cause, &cure)
}

impl<K: Kernel> Device<K> {
    /// Takes over an open file.
    #[cfg(test)]
    pub fn with_kernel(name: &'static str, file: OwnedFd, kernel: K) -> Self {
        Device { name, file, kernel }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Performs a call; `detail` says what it was about.
    pub fn call(&self, call: &mut Call<'_>, detail: impl FnOnce(Errno) -> String) -> Result<i32> {
        call.perform(&self.kernel, self.fd())
            .map_err(|errno| self.error(call.name, errno, detail(errno)))
    }

    pub fn error(&self, operation: &'static str, errno: Errno, detail: impl Into<String>) -> Error {
        Error::device(self.name, operation, errno, detail)
    }

    /// A page count as the drivers take it.
    ///
    /// # Errors
    /// EINVAL: more than [`MAX_PAGES`].
    pub fn page_count(&self, operation: &'static str, pages: usize) -> Result<u32> {
        match u32::try_from(pages) {
            Ok(count) if pages <= MAX_PAGES => Ok(count),
            _ => Err(self.error(
                operation,
                Errno::INVAL,
                format!("{pages} pages in one call"),
            )),
        }
    }

    /// gntdev's and gntalloc's: the same number and argument.
    pub fn set_unmap_notify(
        &self,
        operation: &'static str,
        offset: u64,
        notify: UnmapNotify,
    ) -> Result<()> {
        let port = notify.send_event.map_or(0, |port| port.0);
        let mut call = Call::set_unmap_notify(operation, offset, notify.action_bits(), port);
        let detail = |errno| {
            let why = match errno {
                Errno::INVAL => {
                    ": the port must be open on an evtchn file, and the byte in a writable mapping"
                }
                _ => "",
            };
            format!("offset {offset:#x}, {notify:?}{why}")
        };
        self.call(&mut call, detail).map(drop)
    }

    /// `mmap(2)`, always `MAP_SHARED`: gntdev asks for it with `PROT_WRITE`, gntalloc always.
    pub fn mmap(
        &self,
        index: u64,
        pages: usize,
        access: Access,
        detail: impl FnOnce(Errno) -> String,
    ) -> Result<SharedPages> {
        // memmap2 would round an unaligned offset and lengthen an empty mapping; mmap says EINVAL.
        if pages == 0 || pages > MAX_PAGES || !index.is_multiple_of(PAGE_SIZE as u64) {
            return Err(self.error("mmap", Errno::INVAL, format!("{pages} pages at {index:#x}")));
        }
        let mut options = MmapOptions::new();
        options.len(pages * PAGE_SIZE).offset(index);
        let raw = match access {
            Access::ReadOnly => options.map_raw_read_only(self.file.as_raw_fd()),
            Access::ReadWrite => options.map_raw(self.file.as_raw_fd()),
        };
        match raw {
            Ok(raw) => {
                // SAFETY: mapped just now for this access. What gntdev and gntalloc map has its pages
                // from mmap to munmap, and no length that could change.
                let pages = unsafe { SharedPages::new(raw, access, None) };
                // A child of some other thread's fork would hold the pages, and defer their unmap.
                pages.set_inherited(false)?;
                Ok(pages)
            }
            Err(error) => {
                let errno = errno_of(&error);
                Err(self.error("mmap", errno, detail(errno)))
            }
        }
    }
}

//! memfds and their mappings: the machine memory of the simulated Xen.
#![allow(
    unsafe_code,
    reason = "mmap over a range that this module reserved, of files that it sealed"
)]

use crate::error::{Error, Result};
use crate::shm::SharedPages;
use crate::types::{Access, PAGE_SIZE};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const DEVICE: &str = "simulated memory";

/// Part of a memfd, to be mapped.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The memfd.
    pub fd: BorrowedFd<'a>,
    /// The first page in it.
    pub first_page: usize,
    /// How many.
    pub pages: usize,
}

/// A zeroed memfd whose size can no longer change: nobody can make another's mapping SIGBUS.
///
/// # Errors
/// EMFILE, ENOMEM.
pub fn create(name: &str, pages: usize) -> Result<OwnedFd> {
    let failed = |operation, errno| Error::device(DEVICE, operation, errno, name);
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| failed("memfd_create", e))?;
    rustix::fs::ftruncate(&fd, (pages * PAGE_SIZE) as u64).map_err(|e| failed("ftruncate", e))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(|e| failed("F_ADD_SEALS", e))?;
    Ok(fd)
}

/// A descriptor of the same memfd that cannot be mapped writable.
///
/// # Errors
/// EMFILE; ENOENT without `/proc`.
pub fn read_only(fd: &OwnedFd) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::device(DEVICE, "open read-only", e, path))
}

/// A number that tells memfds apart, and the size in pages.
///
/// # Errors
/// None in practice.
pub fn identity(fd: BorrowedFd<'_>) -> Result<(u64, usize)> {
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::device(DEVICE, "fstat", e, ""))?;
    Ok((
        stat.st_ino,
        usize::try_from(stat.st_size).unwrap_or(0) / PAGE_SIZE,
    ))
}

/// Maps parts next to each other. The descriptors are no longer needed afterwards.
///
/// # Errors
/// EINVAL: nothing to map, or a part outside its memfd, or of a file that could shrink. EACCES:
/// writable, of a read-only descriptor. ENOMEM.
pub fn map(parts: &[Part<'_>], access: Access) -> Result<SharedPages> {
    let failed = |errno: Errno| {
        let pages: usize = parts.iter().map(|part| part.pages).sum();
        Error::device(DEVICE, "mmap", errno, format!("{pages} pages"))
    };
    let mut bytes = 0usize;
    for part in parts {
        let end = part
            .first_page
            .checked_add(part.pages)
            .and_then(|pages| pages.checked_mul(PAGE_SIZE))
            .ok_or_else(|| failed(Errno::INVAL))?;
        let seals = rustix::fs::fcntl_get_seals(part.fd).map_err(failed)?;
        let size = rustix::fs::fstat(part.fd).map_err(failed)?.st_size;
        if !seals.contains(SealFlags::SHRINK)
            || part.pages == 0
            || usize::try_from(size).is_ok_and(|size| end > size)
        {
            return Err(failed(Errno::INVAL));
        }
        bytes = bytes
            .checked_add(part.pages * PAGE_SIZE)
            .ok_or_else(|| failed(Errno::INVAL))?;
    }
    if bytes == 0 {
        return Err(failed(Errno::INVAL));
    }
    let range = MmapOptions::new()
        .len(bytes)
        .map_anon()
        .map_err(|e| failed(crate::shm::errno_of(&e)))?;
    let raw = MmapRaw::from(range);
    let prot = match access {
        Access::ReadOnly => ProtFlags::READ,
        Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
    };
    let mut at = 0;
    for part in parts {
        let len = part.pages * PAGE_SIZE;
        let offset = (part.first_page * PAGE_SIZE) as u64;
        // SAFETY: at..at+len is inside `raw`, which this function reserved and nobody else knows;
        // the new mapping replaces part of it and is unmapped with it.
        unsafe {
            let address = raw.as_mut_ptr().add(at).cast();
            mmap(
                address,
                len,
                prot,
                MapFlags::SHARED | MapFlags::FIXED,
                part.fd,
                offset,
            )
        }
        .map_err(failed)?;
        at += len;
    }
    // SAFETY: all of it was mapped just now for this access, inside files that keep their lengths.
    Ok(unsafe { SharedPages::new(raw, access, None) })
}

/// Maps some pages of a memfd.
///
/// # Errors
/// As [`map`].
pub fn map_part(part: Part<'_>, access: Access) -> Result<SharedPages> {
    map(&[part], access)
}

/// Maps a memfd from its start.
///
/// # Errors
/// As [`map`].
pub fn map_whole(fd: impl AsFd, pages: usize, access: Access) -> Result<SharedPages> {
    map_part(
        Part {
            fd: fd.as_fd(),
            first_page: 0,
            pages,
        },
        access,
    )
}

/// Takes access to pages of a mapping away for good, whatever is done to their protection: what is
/// mapped there instead is a file without a byte.
///
/// # Errors
/// EINVAL: outside the mapping. EMFILE, ENOMEM.
pub fn take_away(pages: &SharedPages, first: usize, count: usize) -> Result<()> {
    let failed = |errno| Error::device(DEVICE, "take away", errno, format!("{count} pages"));
    let end = first.checked_add(count);
    if end.is_none_or(|end| end > pages.pages()) || count == 0 {
        return Err(failed(Errno::INVAL));
    }
    let nothing = rustix::fs::memfd_create("nothing", MemfdFlags::CLOEXEC).map_err(failed)?;
    let address = (pages.address() + first * PAGE_SIZE) as *mut _;
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: the range is in a living mapping, which no reference points into, and which is unmapped
    // as a whole; what touches it from here on faults, as it must.
    unsafe {
        mmap(
            address,
            count * PAGE_SIZE,
            ProtFlags::READ,
            flags,
            &nothing,
            0,
        )
    }
    .map(drop)
    .map_err(failed)
}

/// Raises this process's limit of open files as far as it goes: a grant run is a descriptor, and
/// the soft limit is often 1024.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(errno) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            "the limit of open files stays at {:?}: {errno}",
            limit.current
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_several_memfds_lie_next_to_each_other() {
        let (a, b) = (
            create("a", 2).expect("memfd"),
            create("b", 3).expect("memfd"),
        );
        let parts = [
            Part {
                fd: b.as_fd(),
                first_page: 2,
                pages: 1,
            },
            Part {
                fd: a.as_fd(),
                first_page: 0,
                pages: 2,
            },
            Part {
                fd: b.as_fd(),
                first_page: 0,
                pages: 1,
            },
        ];
        let joined = map(&parts, Access::ReadWrite).expect("map");
        let (whole_a, whole_b) = (
            map_whole(&a, 2, Access::ReadOnly).expect("map"),
            map_whole(&b, 3, Access::ReadOnly).expect("map"),
        );
        for page in 0..4 {
            joined.write(page * PAGE_SIZE, &[page as u8 + 1; 8]);
        }
        let first = |pages: &SharedPages, page: usize| {
            let mut byte = [0];
            pages.read(page * PAGE_SIZE, &mut byte);
            byte[0]
        };
        assert_eq!([first(&whole_a, 0), first(&whole_a, 1)], [2, 3]);
        assert_eq!(
            [first(&whole_b, 0), first(&whole_b, 1), first(&whole_b, 2)],
            [4, 0, 1]
        );
    }

    #[test]
    fn a_read_only_descriptor_cannot_be_mapped_writable() {
        let fd = create("page", 1).expect("memfd");
        let only = read_only(&fd).expect("reopen");
        assert!(map_whole(&only, 1, Access::ReadOnly).is_ok());
        let refused = map_whole(&only, 1, Access::ReadWrite).expect_err("must be refused");
        assert_eq!(refused.errno(), Some(Errno::ACCESS));
    }

    #[test]
    fn nothing_outside_the_memfd_is_mapped_and_its_size_stands() {
        let fd = create("page", 1).expect("memfd");
        let outside = map_whole(&fd, 2, Access::ReadOnly).expect_err("must be refused");
        assert_eq!(outside.errno(), Some(Errno::INVAL));
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("can shrink", flags).expect("memfd");
        rustix::fs::ftruncate(&fd, PAGE_SIZE as u64).expect("size");
        let shrinks = map_whole(&fd, 1, Access::ReadOnly).expect_err("must be refused");
        assert_eq!(shrinks.errno(), Some(Errno::INVAL));
    }
}

//! What any program can do to a mapping, whatever the device thinks of it.
//!
//! For mappings that nobody else looks at: what follows a call here may be a fault.
#![allow(
    unsafe_code,
    reason = "mprotect, madvise and mmap over mappings, and accesses that are meant to fail"
)]

use libgnt::{PAGE_SIZE, SharedPages};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Changes the protection of some pages.
///
/// # Errors
/// mprotect's; EINVAL outside the mapping.
pub fn protect(
    pages: &SharedPages,
    first: usize,
    count: usize,
    flags: MprotectFlags,
) -> Result<(), Errno> {
    let inside = first
        .checked_add(count)
        .is_some_and(|end| end <= pages.pages());
    if !inside {
        return Err(Errno::INVAL);
    }
    let address = pages.address() + first * PAGE_SIZE;
    // SAFETY: the range was checked to lie in a living mapping of ours, which no reference points
    // into; whoever takes access away must not use the pages until it is back.
    unsafe { rustix::mm::mprotect(address as *mut _, count * PAGE_SIZE, flags) }
}

/// Makes the first page of a read-only mapping writable, and writes to it.
///
/// # Errors
/// mprotect's.
pub fn trespass(pages: &SharedPages) -> Result<(), Errno> {
    protect(pages, 0, 1, MprotectFlags::READ | MprotectFlags::WRITE)?;
    // SAFETY: the page is mapped, and mprotect said that it is writable; if something below
    // thinks otherwise the process dies of it, and is there for that.
    unsafe { (pages.address() as *mut u8).write_volatile(0xee) };
    Ok(())
}

/// Maps pages of a device privately and read-only, and asks to write to them, which changes nothing yet.
/// What mprotect says; the mapping is taken away again.
///
/// # Errors
/// mmap's.
pub fn widen_private(
    device: BorrowedFd<'_>,
    offset: u64,
    pages: usize,
) -> Result<Result<(), Errno>, Errno> {
    let (len, null) = (pages * PAGE_SIZE, std::ptr::null_mut());
    // SAFETY: a new mapping, which nothing else knows, for as long as this function runs; nothing reads or
    // writes through it.
    unsafe {
        let at = rustix::mm::mmap(
            null,
            len,
            ProtFlags::READ,
            MapFlags::PRIVATE,
            device,
            offset,
        )?;
        let widened = rustix::mm::mprotect(at, len, MprotectFlags::READ | MprotectFlags::WRITE);
        rustix::mm::munmap(at, len)?;
        Ok(widened)
    }
}

/// Takes the first page out of a mapping: something inaccessible is mapped over it, so that nobody
/// else gets the place before the rest goes.
///
/// # Errors
/// mmap's.
pub fn cut_first_page(pages: &SharedPages) -> Result<(), Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    let address = pages.address() as *mut _;
    // SAFETY: the page is in a living mapping of ours that no reference points into; the caller
    // does not touch it any more.
    unsafe { rustix::mm::mmap_anonymous(address, PAGE_SIZE, ProtFlags::empty(), flags) }.map(drop)
}

/// `MADV_DONTNEED` of the first page.
///
/// # Errors
/// madvise's.
pub fn drop_first_page(pages: &SharedPages) -> Result<(), Errno> {
    // SAFETY: a living mapping of ours; the caller lets only the kernel look at the page again.
    unsafe { rustix::mm::madvise(pages.address() as *mut _, PAGE_SIZE, Advice::LinuxDontNeed) }
}

/// `read(2)` of one byte into the first page.
///
/// # Errors
/// EFAULT where the kernel may not write there.
pub fn read_into(pages: &SharedPages, from: BorrowedFd<'_>) -> Result<usize, Errno> {
    // SAFETY: one byte inside a living mapping; the kernel checks whether it may write there.
    let n = unsafe { libc::read(from.as_raw_fd(), pages.address() as *mut libc::c_void, 1) };
    usize::try_from(n).map_err(|_| last_errno())
}

/// `write(2)` of one byte from the first page.
///
/// # Errors
/// EFAULT where the kernel cannot read there.
pub fn write_from(pages: &SharedPages, to: BorrowedFd<'_>) -> Result<usize, Errno> {
    let from = pages.address() as *const libc::c_void;
    // SAFETY: one byte inside a living mapping; the kernel checks whether it can read there.
    let n = unsafe { libc::write(to.as_raw_fd(), from, 1) };
    usize::try_from(n).map_err(|_| last_errno())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

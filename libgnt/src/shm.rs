//! The one type that touches shared memory.
//!
//! Two rules, after which everything else about memory in this library is safe code:
//!
//! 1. No reference into shared memory ever leaves this module: the peer writes to it at any
//!    moment, which a `&[u8]` promises the compiler cannot happen. Bytes are copied in and out.
//! 2. Every access is volatile or atomic, so the compiler neither repeats nor invents one
//!    (XSA-155: a value that was checked must be the value that is used).
//!
//! Offsets are the caller's own: one outside the pages is a bug, and panics. Values that come
//! from a peer must be validated before they become an offset.
#![allow(
    unsafe_code,
    reason = "raw access to memory that another domain writes to"
)]

use crate::error::{Error, Result};
use crate::types::{Access, PAGE_SIZE};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What else has to happen when the pages leave the address space: the simulated Xen must be
/// told what a real kernel sees by itself.
pub trait AfterUnmap: Send + Sync + fmt::Debug {
    /// Called once, after `munmap`. With `wait`, blocks for as long as the kernel it stands for
    /// would; without, only posts the news (the caller is a `Drop`).
    ///
    /// # Errors
    /// What munmap of the simulated kernel returns.
    fn after_unmap(&self, wait: bool) -> Result<()>;
}

/// Whole pages of shared (or soon to be shared) memory in this address space.
///
/// Unmapped on drop, without blocking.
pub struct SharedPages {
    /// `None` only while `unmap` or `drop` takes it apart.
    raw: Option<MmapRaw>,
    base: *mut u8,
    len: usize,
    /// The part that may be written: all or nothing.
    writable: usize,
    access: Access,
    after: Option<Box<dyn AfterUnmap>>,
}

// SAFETY: the pointer is to a mapping that this value owns until it drops; every access through
// it is volatile or atomic, and races on the bytes are what shared memory is.
unsafe impl Send for SharedPages {}
// SAFETY: as for Send; no method hands out a reference into the mapping.
unsafe impl Sync for SharedPages {}

/// The widest unit that one volatile instruction moves.
#[cfg(target_arch = "x86_64")]
type Word = core::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Word = u64;
const WORD: usize = size_of::<Word>();

impl SharedPages {
    /// Takes over a mapping of whole pages.
    ///
    /// # Safety
    /// While the value lives, every byte of `raw` can be read and, with [`Access::ReadWrite`], written
    /// without a fault: it is mapped with that protection, nobody unmaps it or changes that, and if
    /// it is of a file, nobody shortens the file. No reference into it exists anywhere.
    ///
    /// Safe code cannot vouch for that:
    /// ```compile_fail,E0133
    /// # use libgnt::{Access, SharedPages};
    /// let read_only = memmap2::MmapOptions::new().len(4096).map_anon()?.make_read_only()?;
    /// let pages = SharedPages::new(read_only.into(), Access::ReadWrite, None);
    /// pages.write(0, b"SIGSEGV");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the mapping is empty or no whole number of pages.
    pub unsafe fn new(raw: MmapRaw, access: Access, after: Option<Box<dyn AfterUnmap>>) -> Self {
        let (base, len) = (raw.as_mut_ptr(), raw.len());
        assert!(
            len > 0 && len.is_multiple_of(PAGE_SIZE) && base.addr().is_multiple_of(PAGE_SIZE),
            "{len} bytes at {base:p} are no whole pages"
        );
        SharedPages {
            raw: Some(raw),
            base,
            len,
            writable: if access.writable() { len } else { 0 },
            access,
            after,
        }
    }

    /// Maps the first pages of a memfd that nobody can shorten any more.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no memfd, one without `F_SEAL_SHRINK`, or fewer pages in it. What mmap
    /// says: EACCES, for a descriptor that is not open for that access.
    pub fn of_memfd(memfd: impl AsFd, pages: usize, access: Access) -> Result<Self> {
        let memfd = memfd.as_fd();
        let failed =
            |operation, errno| Error::device("memfd", operation, errno, format!("{pages} pages"));
        let sealed = rustix::fs::fcntl_get_seals(memfd);
        if !sealed.is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
            let why = "only a memfd that is sealed against shrinking (F_SEAL_SHRINK) is mapped: \
                       another file may lose the pages under the mapping";
            return Err(Error::Invalid(why.into()));
        }
        let size = rustix::fs::fstat(memfd)
            .map_err(|errno| failed("fstat", errno))?
            .st_size;
        let len = pages.checked_mul(PAGE_SIZE).filter(|len| *len > 0);
        let len = len.filter(|len| usize::try_from(size).is_ok_and(|size| *len <= size));
        let Some(len) = len else {
            let why = format!("{pages} pages of a memfd of {size} bytes");
            return Err(Error::Invalid(why));
        };
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = match access {
            Access::ReadOnly => options.map_raw_read_only(&memfd),
            Access::ReadWrite => options.map_raw(&memfd),
        };
        let raw = raw.map_err(|error| failed("mmap", errno_of(&error)))?;
        // SAFETY: mapped just now for this access, inside a file that keeps its length.
        Ok(unsafe { Self::new(raw, access, None) })
    }

    /// The same pages, with something that has to happen when they leave the address space.
    #[cfg(feature = "sim")]
    pub(crate) fn with_after(mut self, after: Box<dyn AfterUnmap>) -> Self {
        self.after = Some(after);
        self
    }

    /// Zeroed private pages: the local side of a grant copy, or a bounce buffer.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn anonymous(pages: usize) -> Result<Self> {
        let map = MmapOptions::new()
            .len(pages * PAGE_SIZE)
            .map_anon()
            .map_err(|e| {
                Error::device(
                    "anonymous memory",
                    "mmap",
                    errno_of(&e),
                    format!("{pages} pages"),
                )
            })?;
        // SAFETY: private memory, readable and writable, that this value alone knows.
        Ok(unsafe { Self::new(map.into(), Access::ReadWrite, None) })
    }

    /// Maps the first pages of a file, shared with whoever else maps it. What is written there
    /// outlives the process.
    ///
    /// # Safety
    /// While the value lives, nobody makes the file shorter than that: an access past its end is a
    /// fault (SIGBUS).
    ///
    /// # Errors
    /// What mmap says: EACCES if the file is not open for reading and writing.
    pub unsafe fn of_file(file: &File, pages: usize) -> Result<Self> {
        let failed =
            |error| Error::device("a file", "mmap", errno_of(&error), format!("{pages} pages"));
        let raw = MmapOptions::new().len(pages * PAGE_SIZE).map_raw(file);
        let raw = raw.map_err(failed)?;
        // SAFETY: mapped just now for reading and writing, and the caller vouches for its length.
        Ok(unsafe { Self::new(raw, Access::ReadWrite, None) })
    }

    /// Unmaps now, and waits where the platform's munmap waits.
    ///
    /// # Errors
    /// What the platform's munmap says (a real one does not fail on a mapping of ours).
    pub fn unmap(mut self) -> Result<()> {
        drop(self.raw.take());
        self.after
            .take()
            .map_or(Ok(()), |after| after.after_unmap(true))
    }

    /// Whether the child of a fork gets a copy of the mapping (`madvise`, `MADV_DOFORK` and
    /// `MADV_DONTFORK`). A child that has one holds the pages: their unmap is deferred until it ends.
    /// What the Linux platform maps is not inherited.
    ///
    /// # Errors
    /// What madvise says: EINVAL on a kernel without it.
    pub fn set_inherited(&self, inherited: bool) -> Result<()> {
        let advice = if inherited {
            Advice::DoFork
        } else {
            Advice::DontFork
        };
        let Some(raw) = &self.raw else {
            return Ok(());
        };
        raw.advise(advice).map_err(|error| {
            let what = format!("{advice:?} of {} pages", self.pages());
            Error::device("memory", "madvise", errno_of(&error), what)
        })
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Pages.
    pub fn pages(&self) -> usize {
        self.len / PAGE_SIZE
    }

    /// What this mapping allows.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The virtual address, for system calls that take one. Dereferencing it is outside this
    /// type's promises.
    pub fn address(&self) -> usize {
        self.base as usize
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        self.inside(offset, len, self.len);
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.base.add(offset) }
    }

    /// For the offset of a slot of known length, this is one comparison.
    #[inline]
    fn inside(&self, offset: usize, len: usize, limit: usize) {
        if offset.checked_add(len).is_none_or(|end| end > limit) {
            self.outside(offset, len);
        }
    }

    /// Apart, so that the values of the message cost nothing where all is well.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn outside(&self, offset: usize, len: usize) -> ! {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(!inside, "write to a read-only mapping");
        panic!(
            "{len} bytes at {offset} are outside {} shared bytes",
            self.len
        )
    }

    #[inline]
    fn at_writable(&self, offset: usize, len: usize) -> *mut u8 {
        self.inside(offset, len, self.writable);
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.base.add(offset) }
    }

    #[inline]
    fn aligned<T>(ptr: *mut u8) -> *mut T {
        assert!(
            (ptr as usize).is_multiple_of(align_of::<T>()),
            "unaligned shared access"
        );
        ptr.cast()
    }

    /// Copies bytes out of shared memory.
    ///
    /// # Panics
    /// If the range is outside the pages.
    #[inline]
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        if into.len() <= SMALL && whole::<Word>(offset, into.len()) {
            // SAFETY: as below, and the shared side is aligned.
            return unsafe { read_words(from.cast(), into) };
        }
        // SAFETY: `from` covers into.len() bytes of the mapping, and a private slice cannot overlap it.
        unsafe { copy_volatile(from, into.as_mut_ptr(), into.len(), Side::Source) }
    }

    /// Copies bytes into shared memory.
    ///
    /// # Panics
    /// If the range is outside the pages, or the mapping is read-only.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) {
        let into = self.at_writable(offset, from.len());
        if from.len() <= SMALL && whole::<u64>(offset, from.len()) {
            // SAFETY: as below, and the shared side is aligned.
            return unsafe { write_words(into.cast(), from) };
        }
        // SAFETY: as in `read`.
        unsafe { copy_volatile(from.as_ptr(), into, from.len(), Side::Destination) }
    }

    /// A range that is about to be written in pieces, checked once.
    ///
    /// # Panics
    /// If the range is outside the pages, or the mapping is read-only.
    #[inline]
    pub fn window(&self, offset: usize, len: usize) -> Window<'_> {
        let base = self.at_writable(offset, len);
        Window {
            base,
            len,
            words: whole::<u64>(offset, 0),
            pages: PhantomData,
        }
    }

    /// Asks for the lines of cache at both ends of a range that is about to be read. With
    /// `write`, also to be written: then one transfer from the peer's cache does for both; the
    /// first line is taken to be written in any case. A hint, which changes nothing else; so the
    /// range is not checked.
    #[inline]
    pub fn prefetch(&self, offset: usize, len: usize, write: bool) {
        let first = self.base.wrapping_add(offset);
        let last = first.wrapping_add(len.saturating_sub(1));
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a prefetch neither faults nor changes memory. Processors without PREFETCHW
        // take it for a no-op.
        unsafe {
            use core::arch::asm;
            asm!("prefetchw [{}]", in(reg) first, options(nostack, preserves_flags, readonly));
            if write {
                asm!("prefetchw [{}]", in(reg) last, options(nostack, preserves_flags, readonly));
            } else {
                asm!("prefetcht0 [{}]", in(reg) last, options(nostack, preserves_flags, readonly));
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = (first, last, write);
    }

    /// Copies from one shared place to another. The ranges must not overlap.
    ///
    /// # Panics
    /// If a range is outside its pages, `into` is read-only, or they overlap.
    pub fn copy_to(&self, offset: usize, into: &SharedPages, into_offset: usize, len: usize) {
        let from = self.at(offset, len);
        let to = into.at_writable(into_offset, len);
        assert!(
            (from as usize).abs_diff(to as usize) >= len,
            "overlapping shared copy"
        );
        if (from as usize) % WORD == (to as usize) % WORD {
            // SAFETY: both ranges were checked to be inside their mappings and apart; of one phase,
            // both sides' accesses are volatile.
            return unsafe { copy_volatile(from, to, len, Side::Source) };
        }
        // Of another phase one side's words would not be aligned, and so not volatile: through
        // private memory.
        let mut private = [0; PRIVATE];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PRIVATE);
            // SAFETY: as above, below `len`; a private array overlaps neither.
            unsafe {
                copy_volatile(from.add(done), private.as_mut_ptr(), n, Side::Source);
                copy_volatile(private.as_ptr(), to.add(done), n, Side::Destination);
            }
            done += n;
        }
    }

    /// Sets a range to one value.
    ///
    /// # Panics
    /// As [`SharedPages::write`].
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let to = self.at_writable(offset, len);
        let block = [value; 256];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(block.len());
            // SAFETY: inside the range that was just checked.
            unsafe { copy_volatile(block.as_ptr(), to.add(done), n, Side::Destination) }
            done += n;
        }
    }

    /// One volatile byte.
    #[inline]
    pub fn load_u8(&self, offset: usize, order: Ordering) -> u8 {
        let ptr = self.at(offset, 1);
        // SAFETY: inside the mapping; the atomic reference lives for this call only.
        unsafe { AtomicU8::from_ptr(ptr) }.load(order)
    }

    /// Stores one byte.
    #[inline]
    pub fn store_u8(&self, offset: usize, value: u8, order: Ordering) {
        let ptr = self.at_writable(offset, 1);
        // SAFETY: inside the mapping; the atomic reference lives for this call only.
        unsafe { AtomicU8::from_ptr(ptr) }.store(value, order);
    }

    /// Sets bits in a byte, and returns what it was.
    pub fn fetch_or_u8(&self, offset: usize, bits: u8, order: Ordering) -> u8 {
        let ptr = self.at_writable(offset, 1);
        // SAFETY: inside the mapping; the atomic reference lives for this call only.
        unsafe { AtomicU8::from_ptr(ptr) }.fetch_or(bits, order)
    }

    /// Keeps only `bits` in a byte, and returns what it was.
    pub fn fetch_and_u8(&self, offset: usize, bits: u8, order: Ordering) -> u8 {
        let ptr = self.at_writable(offset, 1);
        // SAFETY: inside the mapping; the atomic reference lives for this call only.
        unsafe { AtomicU8::from_ptr(ptr) }.fetch_and(bits, order)
    }

    /// Loads an aligned 32-bit word.
    #[inline]
    pub fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.atomic_u32(self.at(offset, 4)).load(order)
    }

    /// Stores an aligned 32-bit word.
    #[inline]
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        self.atomic_u32(self.at_writable(offset, 4))
            .store(value, order);
    }

    /// Adds to an aligned 32-bit word, and returns what it was.
    pub fn fetch_add_u32(&self, offset: usize, value: u32, order: Ordering) -> u32 {
        self.atomic_u32(self.at_writable(offset, 4))
            .fetch_add(value, order)
    }

    /// Loads an aligned 64-bit word.
    pub fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        self.atomic_u64(self.at(offset, 8)).load(order)
    }

    /// Stores an aligned 64-bit word.
    pub fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        self.atomic_u64(self.at_writable(offset, 8))
            .store(value, order);
    }

    /// Sets bits in an aligned 64-bit word, and returns what it was.
    pub fn fetch_or_u64(&self, offset: usize, bits: u64, order: Ordering) -> u64 {
        self.atomic_u64(self.at_writable(offset, 8))
            .fetch_or(bits, order)
    }

    /// Keeps only `bits` in an aligned 64-bit word, and returns what it was.
    pub fn fetch_and_u64(&self, offset: usize, bits: u64, order: Ordering) -> u64 {
        self.atomic_u64(self.at_writable(offset, 8))
            .fetch_and(bits, order)
    }

    /// Replaces an aligned 64-bit word, and returns what it was.
    pub fn swap_u64(&self, offset: usize, value: u64, order: Ordering) -> u64 {
        self.atomic_u64(self.at_writable(offset, 8))
            .swap(value, order)
    }

    #[inline]
    fn atomic_u32(&self, ptr: *mut u8) -> &AtomicU32 {
        // SAFETY: callers pass a checked pointer into the mapping, `aligned` checks the alignment,
        // and the reference never leaves the public method that asked for it.
        unsafe { AtomicU32::from_ptr(Self::aligned(ptr)) }
    }

    fn atomic_u64(&self, ptr: *mut u8) -> &AtomicU64 {
        // SAFETY: as in `atomic_u32`.
        unsafe { AtomicU64::from_ptr(Self::aligned(ptr)) }
    }

    /// `pread` from a file straight into the pages: disk I/O without a copy of ours.
    /// Returns the bytes read (0 at the end of the file).
    ///
    /// # Errors
    /// What pread says, EINTR included.
    pub fn read_from_file(
        &self,
        offset: usize,
        len: usize,
        file: BorrowedFd<'_>,
        file_offset: u64,
    ) -> Result<usize, Errno> {
        let into = self.at_writable(offset, len);
        let at = i64::try_from(file_offset).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: the kernel writes `len` bytes inside the mapping, whatever the peer does to them.
        let n = unsafe { libc::pread(file.as_raw_fd(), into.cast(), len, at) };
        usize::try_from(n).map_err(|_| last_errno())
    }

    /// `pwrite` of the pages' bytes to a file. Returns the bytes written.
    ///
    /// # Errors
    /// What pwrite says, EINTR included.
    pub fn write_to_file(
        &self,
        offset: usize,
        len: usize,
        file: BorrowedFd<'_>,
        file_offset: u64,
    ) -> Result<usize, Errno> {
        let from = self.at(offset, len);
        let at = i64::try_from(file_offset).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: the kernel reads `len` bytes inside the mapping.
        let n = unsafe { libc::pwrite(file.as_raw_fd(), from.cast(), len, at) };
        usize::try_from(n).map_err(|_| last_errno())
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        drop(self.raw.take());
        if let Some(after) = self.after.take()
            && let Err(error) = after.after_unmap(false)
        {
            tracing::debug!(%error, "unmap in drop");
        }
    }
}

impl fmt::Debug for SharedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SharedPages({} pages at {:#x}, {:?})",
            self.pages(),
            self.address(),
            self.access
        )
    }
}

/// A range of [`SharedPages`] to write to. Nothing is read.
#[derive(Debug)]
pub struct Window<'a> {
    base: *mut u8,
    len: usize,
    /// Whether the range begins at a multiple of a 64-bit word.
    words: bool,
    pages: PhantomData<&'a SharedPages>,
}

impl Window<'_> {
    /// Writes at an offset of the window: an aligned 64-bit word with one store.
    ///
    /// # Panics
    /// If that is outside the window.
    #[inline]
    pub fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        assert!(at <= self.len && N <= self.len - at, "outside a window");
        // SAFETY: just checked to be inside the window, which was checked to be inside the pages.
        let to = unsafe { self.base.add(at) };
        if N == size_of::<u64>() && self.words && at.is_multiple_of(align_of::<u64>()) {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes);
            // SAFETY: eight bytes inside the window, aligned.
            return unsafe { to.cast::<u64>().write_volatile(u64::from_ne_bytes(word)) };
        }
        // SAFETY: `N` bytes inside the window.
        unsafe { put_bytes(to, bytes) }
    }
}

/// By value and apart, so that what is usually one store from a register stays that.
///
/// # Safety
/// `to` must be valid for `N` bytes.
#[inline(never)]
unsafe fn put_bytes<const N: usize>(to: *mut u8, bytes: [u8; N]) {
    // SAFETY: the caller's, and a private array cannot overlap it.
    unsafe { copy_volatile(bytes.as_ptr(), to, N, Side::Destination) }
}

/// What a copy between two shared places of different alignment goes through at a time.
const PRIVATE: usize = 512;
/// Up to this length a copy of aligned words is inlined: a ring's slot.
const SMALL: usize = 128;

/// Whether a range of whole pages is words of one kind and nothing else.
#[inline]
fn whole<T>(offset: usize, len: usize) -> bool {
    offset.is_multiple_of(align_of::<T>()) && len.is_multiple_of(size_of::<T>())
}

/// Copies whole words out. Volatile on the shared side only: the private copy may live in
/// registers.
///
/// # Safety
/// `from` must be aligned, and valid for the length of `into`, a multiple of the word.
#[inline]
unsafe fn read_words(from: *const Word, into: &mut [u8]) {
    let to = into.as_mut_ptr().cast::<Word>();
    for i in 0..into.len() / WORD {
        // SAFETY: below the length; the private side may be unaligned.
        unsafe { to.add(i).write_unaligned(from.add(i).read_volatile()) };
    }
}

/// Copies whole words in. Not in the widest ones: what was just encoded in words of 64 bits is
/// then forwarded by the processor instead of waiting for memory.
///
/// # Safety
/// `to` must be aligned, and valid for the length of `from`, a multiple of the word.
#[inline]
unsafe fn write_words(to: *mut u64, from: &[u8]) {
    let words = from.as_ptr().cast::<u64>();
    for i in 0..from.len() / size_of::<u64>() {
        // SAFETY: as in `read_words`.
        unsafe { to.add(i).write_volatile(words.add(i).read_unaligned()) };
    }
}

/// Which pointer of a copy is at an alignment worth keeping: the shared one.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Copies with volatile accesses on both sides: wide words where the shared side is aligned,
/// bytes at the ends.
///
/// # Safety
/// Both ranges must be valid for `len` bytes and must not overlap.
unsafe fn copy_volatile(from: *const u8, to: *mut u8, len: usize, shared: Side) {
    let address = match shared {
        Side::Source => from as usize,
        Side::Destination => to as usize,
    };
    let head = (address.wrapping_neg() % WORD).min(len);
    let words = (len - head) / WORD;
    let same_phase = (from as usize) % WORD == (to as usize) % WORD;
    // SAFETY: every index is below `len`; word accesses are aligned on a side whose phase was
    // checked, and go through an unaligned private copy on the other.
    unsafe {
        for i in 0..head {
            to.add(i).write_volatile(from.add(i).read_volatile());
        }
        let (from_body, to_body) = (from.add(head).cast::<Word>(), to.add(head).cast::<Word>());
        if same_phase {
            for i in 0..words {
                to_body
                    .add(i)
                    .write_volatile(from_body.add(i).read_volatile());
            }
        } else {
            match shared {
                Side::Source => {
                    for i in 0..words {
                        to_body
                            .add(i)
                            .write_unaligned(from_body.add(i).read_volatile());
                    }
                }
                Side::Destination => {
                    for i in 0..words {
                        to_body
                            .add(i)
                            .write_volatile(from_body.add(i).read_unaligned());
                    }
                }
            }
        }
        for i in head + words * WORD..len {
            to.add(i).write_volatile(from.add(i).read_volatile());
        }
    }
}

pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn last_errno() -> Errno {
    errno_of(&std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests;

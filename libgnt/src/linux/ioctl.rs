//! The seam to the system calls: everything the drivers' wrappers ask of the kernel goes through
//! [`Kernel`], so that a test can stand in its place and see every number and byte.
#![allow(
    unsafe_code,
    reason = "ioctl hands the kernel an address to read from and write to"
)]

use crate::types::{ForeignGrant, GrantRef};
use rustix::io::Errno;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::os::fd::BorrowedFd;

use super::abi;

/// The system calls that the wrappers make on a device.
pub trait Kernel: Send + Sync + fmt::Debug {
    /// `ioctl(2)`. Returns what it returns when that is not an error.
    ///
    /// # Errors
    /// Any errno, EINTR included.
    ///
    /// # Safety
    /// `arg` points to `len` bytes that may be read and written, aligned to eight, and laid out as
    /// `number` says; addresses in them are valid for what the ioctl does with them.
    unsafe fn ioctl(
        &self,
        fd: BorrowedFd<'_>,
        number: u32,
        arg: *mut c_void,
        len: usize,
    ) -> Result<i32, Errno>;

    /// `read(2)`.
    ///
    /// # Errors
    /// Any errno.
    fn read(&self, fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno>;

    /// `write(2)`.
    ///
    /// # Errors
    /// Any errno.
    fn write(&self, fd: BorrowedFd<'_>, from: &[u8]) -> Result<usize, Errno>;
}

/// The real ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Syscalls;

impl Kernel for Syscalls {
    // SAFETY: as the trait says: the caller's pointer suits the number.
    unsafe fn ioctl(
        &self,
        fd: BorrowedFd<'_>,
        number: u32,
        arg: *mut c_void,
        _len: usize,
    ) -> Result<i32, Errno> {
        // SAFETY: the caller's promise is the same.
        unsafe { rustix::ioctl::ioctl(fd, Raw { number, arg }) }
    }

    fn read(&self, fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(fd, into)
    }

    fn write(&self, fd: BorrowedFd<'_>, from: &[u8]) -> Result<usize, Errno> {
        rustix::io::write(fd, from)
    }
}

struct Raw {
    number: u32,
    arg: *mut c_void,
}

// SAFETY: whoever builds a `Raw` has made the promise of `Kernel::ioctl`: the pointer suits the
// number. It is always said to be mutating, so the compiler assumes that the kernel wrote.
unsafe impl rustix::ioctl::Ioctl for Raw {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        self.number as rustix::ioctl::Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.arg
    }

    // SAFETY: uses neither pointer; rustix alone calls it, after the call has succeeded.
    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _arg: *mut c_void,
    ) -> Result<i32, Errno> {
        Ok(out)
    }
}

/// A zeroed block, aligned to eight: an ioctl's argument. The fixed ones need no heap.
#[derive(Debug)]
struct Block {
    short: [u64; 3],
    long: Vec<u64>,
    bytes: usize,
}

impl Block {
    fn zeroed(bytes: usize) -> Self {
        let words = bytes.div_ceil(8);
        let long = if words > 3 {
            vec![0; words]
        } else {
            Vec::new()
        };
        Block {
            short: [0; 3],
            long,
            bytes,
        }
    }

    fn words(&mut self) -> &mut [u64] {
        if self.long.is_empty() {
            &mut self.short
        } else {
            &mut self.long
        }
    }

    fn word(&self, index: usize) -> [u8; 8] {
        let words: &[u64] = if self.long.is_empty() {
            &self.short
        } else {
            &self.long
        };
        words[index].to_ne_bytes()
    }

    /// A field never crosses a word: C aligns it to its own size, at most eight.
    fn put<const N: usize>(&mut self, offset: usize, field: [u8; N]) {
        let (index, at) = (offset / 8, offset % 8);
        let mut word = self.word(index);
        word[at..at + N].copy_from_slice(&field);
        self.words()[index] = u64::from_ne_bytes(word);
    }

    fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        let at = offset % 8;
        std::array::from_fn(|i| self.word(offset / 8)[at + i])
    }
}

/// One ioctl with its argument, laid out and complete: only the constructors below build one, so
/// performing it is safe.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// As C names it.
    pub name: &'static str,
    number: u32,
    arg: Block,
    /// What an address in the argument points to.
    borrowed: PhantomData<&'a mut [abi::GntdevGrantCopySegment]>,
}

impl Call<'_> {
    fn new(name: &'static str, number: u32, bytes: usize) -> Self {
        Call {
            name,
            number,
            arg: Block::zeroed(bytes),
            borrowed: PhantomData,
        }
    }

    fn u16(mut self, offset: usize, value: u16) -> Self {
        self.arg.put(offset, value.to_ne_bytes());
        self
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.arg.put(offset, value.to_ne_bytes());
        self
    }

    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.arg.put(offset, value.to_ne_bytes());
        self
    }

    /// A field after the call.
    pub fn get_u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.arg.get(offset))
    }

    /// A field after the call.
    pub fn get_u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.arg.get(offset))
    }

    /// A trailing array of 32-bit words after the call.
    pub fn get_u32s(&self, offset: usize, count: u32) -> impl Iterator<Item = u32> {
        (0..count as usize).map(move |i| self.get_u32(offset + i * size_of::<u32>()))
    }

    /// Makes the system call, again for as long as a signal interrupts it.
    pub fn perform(&mut self, kernel: &impl Kernel, fd: BorrowedFd<'_>) -> Result<i32, Errno> {
        loop {
            let len = self.arg.bytes;
            let arg = self.arg.words().as_mut_ptr().cast();
            // SAFETY: the block is aligned and `len` bytes long, and only this module's
            // constructors write to it: each makes the block as long as its count says, and an
            // address in it is borrowed for as long as this value lives.
            match unsafe { kernel.ioctl(fd, self.number, arg, len) } {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    pub fn map_grant_ref(grants: &[ForeignGrant]) -> Self {
        type Arg = abi::GntdevMapGrantRef;
        type Ref = abi::GntdevGrantRef;
        let refs = offset_of!(Arg, refs);
        let len = trailing::<Arg>(refs, size_of::<Ref>(), grants.len());
        let name = "IOCTL_GNTDEV_MAP_GRANT_REF";
        let mut call = Call::new(name, abi::GNTDEV_MAP_GRANT_REF, len)
            .u32(offset_of!(Arg, count), saturate(grants.len()));
        for (i, grant) in grants.iter().enumerate() {
            let at = refs + i * size_of::<Ref>();
            call = call
                .u32(at + offset_of!(Ref, domid), grant.domid.0.into())
                .u32(at + offset_of!(Ref, gref), grant.gref.0);
        }
        call
    }

    pub fn unmap_grant_ref(index: u64, count: u32) -> Self {
        type Arg = abi::GntdevUnmapGrantRef;
        let name = "IOCTL_GNTDEV_UNMAP_GRANT_REF";
        Call::new(name, abi::GNTDEV_UNMAP_GRANT_REF, size_of::<Arg>())
            .u64(offset_of!(Arg, index), index)
            .u32(offset_of!(Arg, count), count)
    }

    pub fn get_offset_for_vaddr(vaddr: u64) -> Self {
        type Arg = abi::GntdevGetOffsetForVaddr;
        let name = "IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR";
        Call::new(name, abi::GNTDEV_GET_OFFSET_FOR_VADDR, size_of::<Arg>())
            .u64(offset_of!(Arg, vaddr), vaddr)
    }

    pub fn set_max_grants(count: u32) -> Self {
        type Arg = abi::GntdevSetMaxGrants;
        let name = "IOCTL_GNTDEV_SET_MAX_GRANTS";
        Call::new(name, abi::GNTDEV_SET_MAX_GRANTS, size_of::<Arg>())
            .u32(offset_of!(Arg, count), count)
    }

    /// `name` tells gntdev's from gntalloc's: the number and the argument are the same.
    pub fn set_unmap_notify(name: &'static str, index: u64, action: u32, port: u32) -> Self {
        type Arg = abi::UnmapNotifyArg;
        Call::new(name, abi::SET_UNMAP_NOTIFY, size_of::<Arg>())
            .u64(offset_of!(Arg, index), index)
            .u32(offset_of!(Arg, action), action)
            .u32(offset_of!(Arg, event_channel_port), port)
    }

    pub fn dmabuf_exp_from_refs(domid: u16, flags: u32, grefs: &[GrantRef]) -> Self {
        type Arg = abi::GntdevDmabufExpFromRefs;
        let refs = offset_of!(Arg, refs);
        let len = trailing::<Arg>(refs, size_of::<u32>(), grefs.len());
        let name = "IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS";
        let mut call = Call::new(name, abi::GNTDEV_DMABUF_EXP_FROM_REFS, len)
            .u32(offset_of!(Arg, flags), flags)
            .u32(offset_of!(Arg, count), saturate(grefs.len()))
            .u32(offset_of!(Arg, domid), domid.into());
        for (i, gref) in grefs.iter().enumerate() {
            call = call.u32(refs + i * size_of::<u32>(), gref.0);
        }
        call
    }

    pub fn dmabuf_exp_wait_released(fd: u32, wait_to_ms: u32) -> Self {
        type Arg = abi::GntdevDmabufExpWaitReleased;
        let name = "IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED";
        Call::new(name, abi::GNTDEV_DMABUF_EXP_WAIT_RELEASED, size_of::<Arg>())
            .u32(offset_of!(Arg, fd), fd)
            .u32(offset_of!(Arg, wait_to_ms), wait_to_ms)
    }

    pub fn dmabuf_imp_to_refs(fd: u32, domid: u16, count: u32) -> Self {
        type Arg = abi::GntdevDmabufImpToRefs;
        let len = trailing::<Arg>(offset_of!(Arg, refs), size_of::<u32>(), count as usize);
        let name = "IOCTL_GNTDEV_DMABUF_IMP_TO_REFS";
        Call::new(name, abi::GNTDEV_DMABUF_IMP_TO_REFS, len)
            .u32(offset_of!(Arg, fd), fd)
            .u32(offset_of!(Arg, count), count)
            .u32(offset_of!(Arg, domid), domid.into())
    }

    pub fn dmabuf_imp_release(fd: u32) -> Self {
        type Arg = abi::GntdevDmabufImpRelease;
        let name = "IOCTL_GNTDEV_DMABUF_IMP_RELEASE";
        Call::new(name, abi::GNTDEV_DMABUF_IMP_RELEASE, size_of::<Arg>())
            .u32(offset_of!(Arg, fd), fd)
    }

    pub fn alloc_gref(domid: u16, flags: u16, count: u32) -> Self {
        type Arg = abi::GntallocAllocGref;
        let len = trailing::<Arg>(offset_of!(Arg, gref_ids), size_of::<u32>(), count as usize);
        let name = "IOCTL_GNTALLOC_ALLOC_GREF";
        Call::new(name, abi::GNTALLOC_ALLOC_GREF, len)
            .u16(offset_of!(Arg, domid), domid)
            .u16(offset_of!(Arg, flags), flags)
            .u32(offset_of!(Arg, count), count)
    }

    pub fn dealloc_gref(index: u64, count: u32) -> Self {
        type Arg = abi::GntallocDeallocGref;
        let name = "IOCTL_GNTALLOC_DEALLOC_GREF";
        Call::new(name, abi::GNTALLOC_DEALLOC_GREF, size_of::<Arg>())
            .u64(offset_of!(Arg, index), index)
            .u32(offset_of!(Arg, count), count)
    }

    pub fn bind_virq(virq: u32) -> Self {
        type Arg = abi::EvtchnBindVirq;
        Call::new(
            "IOCTL_EVTCHN_BIND_VIRQ",
            abi::EVTCHN_BIND_VIRQ,
            size_of::<Arg>(),
        )
        .u32(offset_of!(Arg, virq), virq)
    }

    pub fn bind_interdomain(domid: u16, port: u32) -> Self {
        type Arg = abi::EvtchnBindInterdomain;
        let name = "IOCTL_EVTCHN_BIND_INTERDOMAIN";
        Call::new(name, abi::EVTCHN_BIND_INTERDOMAIN, size_of::<Arg>())
            .u32(offset_of!(Arg, remote_domain), domid.into())
            .u32(offset_of!(Arg, remote_port), port)
    }

    pub fn bind_unbound_port(domid: u16) -> Self {
        type Arg = abi::EvtchnBindUnboundPort;
        let name = "IOCTL_EVTCHN_BIND_UNBOUND_PORT";
        Call::new(name, abi::EVTCHN_BIND_UNBOUND_PORT, size_of::<Arg>())
            .u32(offset_of!(Arg, remote_domain), domid.into())
    }

    pub fn unbind(port: u32) -> Self {
        Self::with_port("IOCTL_EVTCHN_UNBIND", abi::EVTCHN_UNBIND, port)
    }

    pub fn notify(port: u32) -> Self {
        Self::with_port("IOCTL_EVTCHN_NOTIFY", abi::EVTCHN_NOTIFY, port)
    }

    pub fn bind_static(port: u32) -> Self {
        Self::with_port("IOCTL_EVTCHN_BIND_STATIC", abi::EVTCHN_BIND_STATIC, port)
    }

    fn with_port(name: &'static str, number: u32, port: u32) -> Self {
        type Arg = abi::EvtchnPortArg;
        Call::new(name, number, size_of::<Arg>()).u32(offset_of!(Arg, port), port)
    }

    pub fn reset() -> Self {
        Call::new("IOCTL_EVTCHN_RESET", abi::EVTCHN_RESET, 0)
    }

    pub fn restrict_domid(domid: u16) -> Self {
        type Arg = abi::EvtchnRestrictDomid;
        Call::new(
            "IOCTL_EVTCHN_RESTRICT_DOMID",
            abi::EVTCHN_RESTRICT_DOMID,
            size_of::<Arg>(),
        )
        .u16(offset_of!(Arg, domid), domid)
    }
}

impl<'a> Call<'a> {
    /// # Safety
    /// Every address in a segment is valid for its length: readable on the source side, writable
    /// on the other, and stays so while this value lives.
    pub unsafe fn grant_copy(segments: &'a mut [abi::GntdevGrantCopySegment]) -> Call<'a> {
        type Arg = abi::GntdevGrantCopy;
        let count = saturate(segments.len());
        let address = segments.as_mut_ptr().expose_provenance() as u64;
        Call::new(
            "IOCTL_GNTDEV_GRANT_COPY",
            abi::GNTDEV_GRANT_COPY,
            size_of::<Arg>(),
        )
        .u32(offset_of!(Arg, count), count)
        .u64(offset_of!(Arg, segments), address)
    }
}

/// Bytes of an argument that ends in `count` elements: never less than the C struct, which the
/// kernel copies whole.
fn trailing<Arg>(offset: usize, element: usize, count: usize) -> usize {
    size_of::<Arg>().max(offset + element * count)
}

/// A count for the kernel. More than fit is more than any driver takes: it answers EINVAL, and
/// never looks past the count it was told.
fn saturate(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

//! The few calls to `/dev/infiniband/uverbs*` that a holder needs, all by `RDMA_VERBS_IOCTL`
//! (`drivers/infiniband/core/uverbs_ioctl.c`, Linux 6.1 to 7.2). An ioctl does not ask who opened
//! the device, so the consumer can go on with what the mapper has begun.
#![allow(unsafe_code, reason = "ioctls take addresses")]

use super::abi::{
    ATTR_ADVISE_ADVICE, ATTR_ADVISE_FLAGS, ATTR_ADVISE_LIST, ATTR_ADVISE_PD, ATTR_COMP_VECTORS,
    ATTR_CORE_IN, ATTR_CORE_OUT, ATTR_UHW_OUT, ATTR_WRITE_CMD, AllocPd, AllocPdResp, Attribute,
    Command, CreateCompChannel, CreateCompChannelResp, DRIVER_RXE, FLUSH, Header, MANDATORY,
    METHOD_ADVISE_MR, METHOD_GET_CONTEXT, METHOD_INVOKE_WRITE, OBJECT_DEVICE, OBJECT_MR,
    PREFETCH_WRITE, Plain, RegMr, RegMrResp, Sge, VERBS_IOCTL,
};
use crate::holder::{HoldError, HoldName, call, last_errno};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// No call of ours has more attributes.
const ATTRIBUTES: usize = 4;
/// Bytes to prefetch: any part of a page brings all of it.
const PREFETCHED: u32 = 64;

#[repr(C)]
struct Message {
    header: Header,
    attributes: [Attribute; ATTRIBUTES],
}

/// What a registration gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// For this side of a transfer.
    pub local: u32,
    /// For the other side.
    pub remote: u32,
}

/// A context of the device: everything made in it ends with its last descriptor.
#[derive(Debug)]
pub(super) struct Verbs {
    kind: HoldName,
    fd: OwnedFd,
}

impl Verbs {
    /// Opens the device and begins a context (`UVERBS_METHOD_GET_CONTEXT`).
    ///
    /// # Errors
    /// What open and the ioctl say; ENOENT without ib_uverbs.
    pub fn open(kind: HoldName, device: &Path) -> Result<Verbs, HoldError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = open(device, flags, Mode::empty()).map_err(call(kind, "open"))?;
        let verbs = Verbs { kind, fd };
        let mut vectors = 0u32;
        let attributes = [Attribute::output(ATTR_COMP_VECTORS, &mut vectors)];
        verbs
            .ioctl(OBJECT_DEVICE, METHOD_GET_CONTEXT, &attributes)
            .map_err(call(kind, "GET_CONTEXT"))?;
        Ok(verbs)
    }

    /// A context that another process has begun.
    pub fn of(kind: HoldName, fd: OwnedFd) -> Verbs {
        Verbs { kind, fd }
    }

    /// To send elsewhere.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// `IB_USER_VERBS_CMD_ALLOC_PD`: what belongs together.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn allocate_domain(&self) -> Result<u32, HoldError> {
        let (domain, ()): (AllocPdResp, ()) =
            self.invoke("ALLOC_PD", Command::AllocPd, &AllocPd::default())?;
        Ok(domain.pd_handle)
    }

    /// `IB_USER_VERBS_CMD_REG_MR` of a range of this process (`ib_umem_get`, or
    /// `ib_umem_odp_get` for [`ON_DEMAND`](super::abi::ON_DEMAND)).
    ///
    /// # Errors
    /// EFAULT: a page that cannot be pinned. EINVAL or EOPNOTSUPP: no on-demand paging. ENOMEM:
    /// `RLIMIT_MEMLOCK`, too.
    pub fn register(
        &self,
        domain: u32,
        start: usize,
        len: usize,
        access: u32,
    ) -> Result<Keys, HoldError> {
        let region = RegMr {
            response: 0,
            start: start as u64,
            length: len as u64,
            hca_va: start as u64,
            pd_handle: domain,
            access_flags: access,
        };
        let (keys, ()): (RegMrResp, ()) = self.invoke("REG_MR", Command::RegMr, &region)?;
        Ok(Keys {
            local: keys.lkey,
            remote: keys.rkey,
        })
    }

    /// `UVERBS_METHOD_ADVISE_MR`: brings the page at an address of an on-demand region in, for
    /// writing, and returns when it is there (`rxe_ib_advise_mr`, Linux 6.16). Before that it waits,
    /// and no signal ends the wait, while the region's interval is being invalidated
    /// (`mmu_interval_read_begin`).
    ///
    /// # Errors
    /// EFAULT: nothing is mapped there. EINVAL: the process that registered it is gone.
    /// EOPNOTSUPP: an older kernel.
    pub fn prefetch(&self, domain: u32, key: u32, address: u64) -> Result<(), HoldError> {
        let list = Sge {
            addr: address,
            length: PREFETCHED,
            lkey: key,
        };
        let attributes = [
            Attribute::object(ATTR_ADVISE_PD, domain),
            Attribute::constant(ATTR_ADVISE_ADVICE, 8, PREFETCH_WRITE),
            Attribute::constant(ATTR_ADVISE_FLAGS, 4, FLUSH),
            Attribute::input(ATTR_ADVISE_LIST, &list),
        ];
        self.ioctl(OBJECT_MR, METHOD_ADVISE_MR, &attributes)
            .map_err(call(self.kind, "ADVISE_MR"))
    }

    /// `IB_USER_VERBS_CMD_CREATE_COMP_CHANNEL`: a descriptor that is readable when something that was
    /// asked for is over.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn channel(&self) -> Result<OwnedFd, HoldError> {
        let (channel, ()): (CreateCompChannelResp, ()) = self.invoke(
            "CREATE_COMP_CHANNEL",
            Command::CreateCompChannel,
            &CreateCompChannel::default(),
        )?;
        made(channel.fd).ok_or_else(|| HoldError::Broken {
            kind: self.kind,
            what: format!("{} is no descriptor", channel.fd),
        })
    }

    /// The device's descriptor, to map what it shares.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Who uses it.
    pub fn kind(&self) -> HoldName {
        self.kind
    }

    /// A command of the older interface: its answer, and what the driver adds to it.
    ///
    /// # Errors
    /// What the ioctl says, under the command's name.
    pub fn invoke<I: Plain, O: Plain, D: Plain>(
        &self,
        name: &'static str,
        command: Command,
        input: &I,
    ) -> Result<(O, D), HoldError> {
        let (mut output, mut driver) = (O::default(), D::default());
        let attributes = [
            Attribute::constant(ATTR_WRITE_CMD, 8, command as u64),
            Attribute::input(ATTR_CORE_IN, input),
            Attribute::output(ATTR_CORE_OUT, &mut output),
            Attribute::output(ATTR_UHW_OUT, &mut driver),
        ];
        let said = attributes.iter().filter(|attribute| attribute.len > 0);
        let said: Vec<Attribute> = said.copied().collect();
        self.ioctl(OBJECT_DEVICE, METHOD_INVOKE_WRITE, &said)
            .map_err(call(self.kind, name))?;
        Ok((output, driver))
    }

    fn ioctl(&self, object: u16, method: u16, attributes: &[Attribute]) -> Result<(), Errno> {
        let mut message = message(object, method, attributes)?;
        // SAFETY: the header says how many attributes there are, and each names memory of its
        // length that outlives the call, of a struct for which any bytes are a value.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), VERBS_IOCTL, &raw mut message) };
        match result {
            0.. => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

/// A struct as the kernel reads it.
pub(super) fn bytes<T: Plain>(of: &T) -> &[u8] {
    // SAFETY: all bytes of a `Plain` are set.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(of).cast(), size_of::<T>()) }
}

/// A descriptor that a call has just made for this process.
fn made(number: u32) -> Option<OwnedFd> {
    let number = i32::try_from(number).ok()?;
    // SAFETY: the kernel has made it, and told nobody else of it.
    (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// The ioctl's argument.
fn message(object: u16, method: u16, attributes: &[Attribute]) -> Result<Message, Errno> {
    let count = attributes.len();
    let length = size_of::<Header>() + size_of_val(attributes);
    let mut all = [Attribute::default(); ATTRIBUTES];
    all.get_mut(..count)
        .ok_or(Errno::TOOBIG)?
        .copy_from_slice(attributes);
    let header = Header {
        length: u16::try_from(length).map_err(|_| Errno::TOOBIG)?,
        object_id: object,
        method_id: method,
        num_attrs: u16::try_from(count).map_err(|_| Errno::TOOBIG)?,
        driver_id: DRIVER_RXE,
        ..Header::default()
    };
    Ok(Message {
        header,
        attributes: all,
    })
}

impl Attribute {
    fn new(attr_id: u16, len: usize, data: u64) -> Attribute {
        Attribute {
            attr_id,
            // The structs are a few dozen bytes.
            len: u16::try_from(len).unwrap_or(u16::MAX),
            flags: MANDATORY,
            reserved: 0,
            data,
        }
    }

    fn object(id: u16, handle: u32) -> Attribute {
        Attribute::new(id, 0, u64::from(handle))
    }

    fn constant(id: u16, len: usize, value: u64) -> Attribute {
        Attribute::new(id, len, value)
    }

    /// Up to eight bytes travel in the attribute itself (`uverbs_attr_ptr_is_inline`).
    fn input<I: Plain>(id: u16, input: &I) -> Attribute {
        let input = bytes(input);
        let len = input.len();
        let mut inline = [0u8; size_of::<u64>()];
        match inline.get_mut(..len) {
            Some(inside) => {
                inside.copy_from_slice(input);
                Attribute::new(id, len, u64::from_ne_bytes(inline))
            }
            None => Attribute::new(id, len, input.as_ptr() as u64),
        }
    }

    fn output<O: Plain>(id: u16, output: &mut O) -> Attribute {
        Attribute::new(id, size_of::<O>(), std::ptr::from_mut(output) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_how_long_it_is() {
        let attributes = [Attribute::object(0, 7), Attribute::constant(1, 8, 9)];
        let message = message(OBJECT_MR, METHOD_ADVISE_MR, &attributes).unwrap();
        assert_eq!(message.header.length, 24 + 2 * 16);
        assert_eq!(message.header.num_attrs, 2);
        assert_eq!(message.attributes[0].data, 7);
        assert_eq!(message.attributes[0].len, 0, "a handle has no length");
        assert_eq!(message.attributes[2].data, 0);
        let many = [Attribute::default(); ATTRIBUTES + 1];
        assert!(super::message(0, 0, &many).is_err());
    }

    #[test]
    fn small_inputs_travel_in_the_attribute_and_large_ones_beside_it() {
        let small = AllocPd { response: 0x0102 };
        assert_eq!(Attribute::input(0, &small).data, 0x0102);
        let large = RegMr::default();
        let attribute = Attribute::input(0, &large);
        assert_eq!(attribute.data, std::ptr::from_ref(&large) as u64);
        assert_eq!(attribute.len, 40);
    }

    /// A descriptor that is no uverbs: the kernel's own answer, under the call's name.
    #[test]
    fn what_is_no_device_is_refused_by_name() {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let verbs = Verbs::of(HoldName::Rdma, file);
        let error = verbs.allocate_domain().unwrap_err().to_string();
        assert!(error.contains("ALLOC_PD"), "{error}");
        let nowhere = Verbs::open(HoldName::Rdma, Path::new("/nowhere/uverbs0"));
        assert!(nowhere.unwrap_err().to_string().contains("open"));
    }
}

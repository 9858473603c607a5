//! `xdp`: the pages are the packet memory (umem) of an AF_XDP socket, which pins them until the
//! socket closes, as a network card's zero-copy receive does. Needs CAP_NET_RAW. The socket is
//! bound to no card, so nobody can look at the pages through it.
//!
//! The umem pins for writing, so read-only pages are refused (EFAULT).

use super::{Export, Held, HoldError, HoldName, Holder, address_of, call, parts};
use libgnt::{PAGE_SIZE, SharedPages};
use rustix::net::sockopt::set_xdp_umem_reg;
use rustix::net::xdp::{XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::OwnedFd;

const KIND: HoldName = HoldName::Xdp;

pub(super) struct Xdp;

impl Holder for Xdp {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let (address, len) = address_of(KIND, pages, first, count)?;
        let socket = socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(call(KIND, "socket"))?;
        let umem = XdpUmemReg {
            addr: address as u64,
            len: len as u64,
            chunk_size: u32::try_from(PAGE_SIZE).unwrap_or(u32::MAX),
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        set_xdp_umem_reg(&socket, umem).map_err(call(KIND, "XDP_UMEM_REG"))?;
        Ok(Export::new(KIND, count, vec![], vec![socket]))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let ([socket], []) = parts(export)?;
        Ok(Box::new(PacketMemory { _socket: socket }))
    }
}

struct PacketMemory {
    _socket: OwnedFd,
}

impl Held for PacketMemory {
    fn checksum(&mut self) -> Result<Option<String>, HoldError> {
        Ok(None)
    }

    /// The kernel unpins when the socket is destroyed, shortly after its close.
    fn release(self: Box<Self>) -> Result<(), HoldError> {
        Ok(())
    }
}

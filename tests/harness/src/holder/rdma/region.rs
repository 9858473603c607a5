//! `rdma`: the pages are a region of an RDMA device, which pins them for as long as it likes
//! (`ib_umem_get`, `drivers/infiniband/core/umem.c`: FOLL_LONGTERM), as a network card does.
//! The region ends with the last descriptor of its context, so whoever has that has the pages.
//! Nobody can look at them through it without a connection, and this one has none.
//!
//! It pins for writing, so read-only pages are refused (EFAULT); on a PV guest every page of gntdev
//! is, since its entry belongs to the hypervisor.

use super::abi::LOCAL_WRITE;
use super::link::Link;
use super::verbs::Verbs;
use crate::holder::{Export, Held, HoldError, HoldName, Holder, address_of, parts};
use libgnt::SharedPages;
use std::cell::OnceCell;
use std::os::fd::OwnedFd;

const KIND: HoldName = HoldName::Rdma;

/// The link is made at the first hold.
#[derive(Default)]
pub struct Rdma {
    link: OnceCell<Link>,
}

/// The link of a holder, which is made when it is first needed.
pub(super) fn link_of(kind: HoldName, cell: &OnceCell<Link>) -> Result<&Link, HoldError> {
    if let Some(link) = cell.get() {
        return Ok(link);
    }
    let link = Link::create(kind)?;
    Ok(cell.get_or_init(|| link))
}

impl Holder for Rdma {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let (address, len) = address_of(KIND, pages, first, count)?;
        let link = link_of(KIND, &self.link)?;
        let verbs = Verbs::open(KIND, link.device())?;
        let domain = verbs.allocate_domain()?;
        verbs.register(domain, address, len, LOCAL_WRITE)?;
        let fds = vec![link.share(KIND)?, verbs.into_fd()];
        Ok(Export::new(KIND, count, vec![], fds))
    }

    fn try_out(&self) -> Result<(), HoldError> {
        let page = SharedPages::anonymous(1)?;
        self.hold(&page, 0, 1).map(drop)
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let ([link, context], []) = parts(export)?;
        Ok(Box::new(Registered {
            _context: context,
            _link: link,
        }))
    }
}

/// The context goes before its link.
struct Registered {
    _context: OwnedFd,
    _link: OwnedFd,
}

impl Held for Registered {
    fn checksum(&mut self) -> Result<Option<String>, HoldError> {
        Ok(None)
    }

    /// Closing destroys the region at once (`ib_uverbs_close`).
    fn release(self: Box<Self>) -> Result<(), HoldError> {
        Ok(())
    }
}

//! `rdma-odp` and its controls: the pages are held by a pipe, as `pipe` does it, and what lets go of
//! them must first finish an operation on a region of the mapper's memory that covers them.
//!
//! The region is one whose pages an RDMA device brings in when it needs them (on-demand paging, rxe
//! since Linux 6.15). It holds no page, and has to hear of every unmap in its range: it is an MMU
//! interval notifier, and bringing a page in waits while an unmap in the range is being told
//! (`mmu_interval_read_begin`). That is the life of i915's userptr in two parts.
//!
//! The region begins with a page of ordinary memory that nobody has touched, before the mapping.
//! Notifiers hear of an unmap in the order of their addresses, so the region has heard of it before
//! gntdev does; and if gntdev then waits for the pages (a PV guest whose unmap is synchronous), the
//! release waits for the unmap, the unmap for the release.
//!
//! Who waits is a choice: with a prefetch (`rdma-odp`) the consumer itself, in the kernel and deaf to
//! signals; with an RDMA write (`rdma-odp-write`) a worker of the kernel, and the consumer waits for that.
//!
//! The controls differ in one thing each. `rdma-odp-touched` is `rdma-odp-write` with the page there
//! already: the region knows it, and nobody waits. `rdma-odp-aligned` is `rdma-odp` with a region that
//! begins with the mapping, its page after it: it has not heard yet when gntdev waits.

use super::abi::{LOCAL_WRITE, ON_DEMAND, REMOTE_WRITE};
use super::beside::{Beside, Side, State};
use super::connection::{self, Connection, Offered, WORDS};
use super::link::Link;
use super::region::link_of;
use super::verbs::Verbs;
use crate::holder::pipe::{Spliced, splice};
use crate::holder::{Export, Held, HoldError, HoldName, Holder, address_of, parts};
use libgnt::{PAGE_SIZE, SharedPages};
use rustix::io::Errno;
use std::cell::OnceCell;
use std::os::fd::OwnedFd;

/// What the release has to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Prefetch,
    Write,
}

/// The link is made at the first hold.
pub struct OnDemand {
    kind: HoldName,
    side: Side,
    state: State,
    operation: Operation,
    link: OnceCell<Link>,
    beside: Beside,
}

impl OnDemand {
    /// Of one of the names that begin with `rdma-odp`.
    pub fn new(kind: HoldName) -> OnDemand {
        let side = match kind {
            HoldName::RdmaOdpAligned => Side::After,
            _ => Side::Before,
        };
        let state = match kind {
            HoldName::RdmaOdpTouched => State::Touched,
            _ => State::Untouched,
        };
        let operation = match kind {
            HoldName::RdmaOdpWrite | HoldName::RdmaOdpTouched => Operation::Write,
            _ => Operation::Prefetch,
        };
        OnDemand {
            kind,
            side,
            state,
            operation,
            link: OnceCell::new(),
            beside: Beside::default(),
        }
    }
}

/// A region from a page to the end of a mapping, or from its beginning to the page's end.
fn around(mapping: (usize, usize), page: usize) -> (usize, usize) {
    let (address, len) = mapping;
    let start = address.min(page);
    let end = (address + len).max(page + PAGE_SIZE);
    (start, end - start)
}

impl Holder for OnDemand {
    /// The pipe comes last: descriptors that an ending process has not closed are closed from the
    /// last to the first (`task_work_run`), and what the context's end waits for has to be gone.
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        let kind = self.kind;
        let mapping = address_of(kind, pages, first, count)?;
        let link = link_of(kind, &self.link)?;
        let verbs = Verbs::open(kind, link.device())?;
        let domain = verbs.allocate_domain()?;
        let page = self.beside.page(kind, mapping, self.side, self.state)?;
        let (start, len) = around(mapping, page);
        let keys = verbs
            .register(domain, start, len, LOCAL_WRITE | REMOTE_WRITE | ON_DEMAND)
            .map_err(lacks_paging)?;
        let mut words = vec![u64::from(domain), u64::from(keys.local), page as u64];
        let mut fds = vec![link.share(kind)?];
        match self.operation {
            Operation::Prefetch => fds.push(verbs.into_fd()),
            Operation::Write => {
                let (offered, channel) = connection::create(&verbs, domain, link)?;
                words[1] = u64::from(keys.remote);
                words.extend(offered.words());
                fds.extend([verbs.into_fd(), channel]);
            }
        }
        fds.push(splice(kind, pages, first, count)?);
        Ok(Export::new(kind, count, words, fds))
    }

    fn try_out(&self) -> Result<(), HoldError> {
        let page = SharedPages::anonymous(1)?;
        self.hold(&page, 0, 1).map(drop)
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let kind = self.kind;
        let pages = export.pages as usize;
        let broken = |what: &str| HoldError::Broken {
            kind,
            what: what.into(),
        };
        let (link, context, channel, pipe, words) = match self.operation {
            Operation::Prefetch => {
                let ([link, context, pipe], [domain, key, page]) = parts(export)?;
                (link, context, None, pipe, [domain, key, page])
            }
            Operation::Write => {
                let ([link, context, channel, pipe], words) = parts::<4, { 3 + WORDS }>(export)?;
                let [domain, key, page, offered @ ..] = words;
                let offered = Offered::of(offered).ok_or_else(|| broken("no connection"))?;
                let channel = Some((offered, channel));
                (link, context, channel, pipe, [domain, key, page])
            }
        };
        let [domain, key, page] = words;
        let handle = |word: u64| u32::try_from(word).map_err(|_| broken("no handle of a device"));
        let verbs = Verbs::of(kind, context);
        let connection = channel.map(|(offered, channel)| Connection::of(&verbs, offered, channel));
        Ok(Box::new(Region {
            pipe: Spliced::new(kind, pipe, pages),
            connection: connection.transpose()?,
            domain: handle(domain)?,
            key: handle(key)?,
            page,
            verbs,
            _link: link,
        }))
    }
}

/// Older kernels refuse the flag of the registration.
fn lacks_paging(error: HoldError) -> HoldError {
    match error {
        HoldError::Call {
            kind,
            call: "REG_MR",
            errno: errno @ (Errno::INVAL | Errno::OPNOTSUPP),
        } => HoldError::NotHere {
            kind,
            cause: format!(
                "needs on-demand paging in rdma_rxe, which this kernel has not (REG_MR: {errno})"
            ),
            cure: "use a Linux newer than 6.12, in the lab --kernel sid".into(),
        },
        other => other,
    }
}

/// In the order of their end: the reference, the context, its link.
struct Region {
    pipe: Spliced,
    connection: Option<Connection>,
    domain: u32,
    key: u32,
    page: u64,
    verbs: Verbs,
    _link: OwnedFd,
}

impl Held for Region {
    fn see(&mut self) -> Result<Option<Vec<u8>>, HoldError> {
        self.pipe.see()
    }

    fn release(self: Box<Self>) -> Result<(), HoldError> {
        match &self.connection {
            Some(connection) => connection.write(&self.verbs, self.key, self.page),
            None => self.verbs.prefetch(self.domain, self.key, self.page),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_covers_the_mapping_and_its_page() {
        assert_eq!(around((0x5000, 0x2000), 0x4000), (0x4000, 0x3000));
        assert_eq!(around((0x5000, 0x2000), 0x1000), (0x1000, 0x6000));
        assert_eq!(around((0x5000, 0x2000), 0x7000), (0x5000, 0x3000));
        assert_eq!(around((0x5000, 0x2000), 0x9000), (0x5000, 0x5000));
    }

    #[test]
    fn an_older_kernel_is_named_as_the_cause() {
        let said = |call, errno| {
            let kind = HoldName::RdmaOdp;
            lacks_paging(HoldError::Call { kind, call, errno }).to_string()
        };
        for errno in [Errno::INVAL, Errno::OPNOTSUPP] {
            let text = said("REG_MR", errno);
            assert!(
                text.contains("on-demand paging") && text.contains("sid"),
                "{text}"
            );
        }
        assert!(!said("REG_MR", Errno::NOMEM).contains("on-demand"));
        assert!(!said("ALLOC_PD", Errno::INVAL).contains("on-demand"));
    }
}

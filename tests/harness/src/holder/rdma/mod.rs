//! Holders made of rxe, the RDMA device that Linux has in software: a plain region, which pins the
//! pages, and the two parts of i915's userptr, a reference and an interval notifier.
//!
//! They need the modules rdma_rxe and ib_uverbs, and root; they load nothing. There is no library
//! below them: a link is one netlink message, and a region three ioctls.

mod abi;
mod beside;
mod connection;
mod link;
mod netlink;
mod on_demand;
#[cfg(test)]
mod oracle;
mod region;
mod verbs;

pub use link::links_left;
pub use on_demand::OnDemand;
pub use region::Rdma;

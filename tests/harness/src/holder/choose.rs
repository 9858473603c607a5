//! The holder of a name.

use super::{HoldError, HoldName, Holder, direct, fork, pipe, rdma, sim, uring, vivid, xdp};
use crate::kernel;
use libgnt::Platform;
use libgnt::platform::GuestType;
use libgnt::sim::client::SimPlatform;
use std::sync::Arc;

/// The holder of a name.
///
/// # Errors
/// [`HoldError::NotHere`]: of another platform; or without `allow_damage` on a PV guest whose unmap
/// does not wait, or on a kernel that does not say what it is.
pub fn holder(
    name: HoldName,
    platform: &Arc<dyn Platform>,
    allow_damage: bool,
) -> Result<Box<dyn Holder>, HoldError> {
    let simulated = SimPlatform::of(&**platform).is_some();
    let not_here = |cause: &str, cure: &str| {
        Err(HoldError::NotHere {
            kind: name,
            cause: cause.into(),
            cure: cure.into(),
        })
    };
    match (name.is_simulated(), simulated) {
        (true, true) => {}
        (true, false) => {
            return not_here(
                "is the simulated Xen's",
                "on a real one use pipe, fork, uring, direct, xdp, rdma or vivid",
            );
        }
        (false, true) => {
            return not_here(
                "holds pages in a real kernel, where the simulated Xen cannot see it",
                "use pin or i915, or --platform xen",
            );
        }
        (false, false) => {}
    }
    if matches!(platform.guest_type(), Ok(GuestType::Pv)) {
        can_be_on_pv(name)?;
    }
    let waits = match SimPlatform::of(&**platform) {
        Some(sim) => !sim.defers_unmaps(),
        None => kernel::unmap_waits(),
    };
    if !allow_damage && !waits {
        let cure = "use a PVH or HVM guest, or say --allow-kernel-damage";
        match platform.guest_type() {
            Ok(GuestType::Pv) => {
                return not_here(
                    "would damage this kernel: on a PV guest a held page that is unmapped corrupts its page tables",
                    cure,
                );
            }
            Ok(_) => {}
            Err(error) => {
                let cause = format!(
                    "would damage this kernel if it is a PV guest's, and it does not say: {error}"
                );
                return not_here(&cause, cure);
            }
        }
    }
    if name.is_simulated() {
        return Ok(Box::new(sim::Sim::new(name, Arc::clone(platform))));
    }
    kernel_holder(name)
}

/// Can it be had on a PV guest at all, whatever becomes of the kernel's books?
///
/// # Errors
/// [`HoldError::NotHere`] for a fork. Linux warns in `xen_mc_flush` (`arch/x86/xen/multicalls.c`) and lets
/// the child run, whose memory is wrong then: seen on 5.10, 6.1 and 6.12.
pub fn can_be_on_pv(name: HoldName) -> Result<(), HoldError> {
    match name {
        HoldName::Fork => Err(HoldError::NotHere {
            kind: name,
            cause: "cannot copy a mapping on a PV guest: Xen gives the child no page-table entries for \
                    another domain's pages"
                .into(),
            cure: "use another holder, or a PVH or HVM guest".into(),
        }),
        _ => Ok(()),
    }
}

/// A holder made of system calls, whatever the pages are.
///
/// # Errors
/// [`HoldError::NotHere`] for the simulated Xen's, and for what this kernel lacks;
/// [`HoldError::Call`].
pub fn kernel_holder(name: HoldName) -> Result<Box<dyn Holder>, HoldError> {
    Ok(match name {
        HoldName::Pipe => Box::new(pipe::Pipe),
        HoldName::Fork => Box::new(fork::Fork),
        HoldName::Uring => Box::new(uring::Uring::default()),
        HoldName::Direct => Box::new(direct::Direct::new()?),
        HoldName::Xdp => Box::new(xdp::Xdp),
        HoldName::Rdma => Box::new(rdma::Rdma::default()),
        HoldName::RdmaOdp
        | HoldName::RdmaOdpWrite
        | HoldName::RdmaOdpTouched
        | HoldName::RdmaOdpAligned => Box::new(rdma::OnDemand::new(name)),
        HoldName::Vivid | HoldName::VividCapture => Box::new(vivid::Vivid::new(name)?),
        HoldName::Pin | HoldName::I915 => {
            return Err(HoldError::NotHere {
                kind: name,
                cause: "is the simulated Xen's".into(),
                cure: "use pipe, fork, uring, direct, xdp, rdma or vivid".into(),
            });
        }
    })
}

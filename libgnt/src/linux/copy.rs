//! Grant copy: the one call that hands the driver addresses of this process.
#![allow(
    unsafe_code,
    reason = "the driver reads and writes at the addresses in the segments"
)]

use super::abi::{self, CopyAddress, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF};
use super::device::Device;
use super::ioctl::{Call, Kernel};
use crate::error::{Error, Result};
use crate::platform::{CopySegment, CopySide};
use crate::types::GrantStatus;
use rustix::io::Errno;

const OPERATION: &str = "IOCTL_GNTDEV_GRANT_COPY";

/// [`Gntdev::grant_copy`](crate::platform::Gntdev::grant_copy).
pub(super) fn grant_copy<K: Kernel>(
    device: &Device<K>,
    segments: &mut [CopySegment<'_>],
) -> Result<()> {
    let mut raw = Vec::with_capacity(segments.len());
    for (i, segment) in segments.iter().enumerate() {
        raw.push(lay_out(segment).map_err(|why| refused(device, i, segment, why))?);
    }
    // SAFETY: `lay_out` checked that every local side lies in its pages, and in writable ones on
    // the destination side; `segments` borrows those pages beyond the call.
    let mut call = unsafe { Call::grant_copy(&mut raw) };
    device.call(&mut call, |errno| {
        let why = match errno {
            Errno::INVAL => ": one has two local sides, or a grant side that leaves its page",
            Errno::FAULT => ": the kernel cannot pin a local page",
            _ => "",
        };
        format!("{} segments{why}", segments.len())
    })?;
    drop(call);
    for (segment, raw) in segments.iter_mut().zip(&raw) {
        segment.status = GrantStatus(raw.status);
    }
    Ok(())
}

fn lay_out(segment: &CopySegment<'_>) -> Result<abi::GntdevGrantCopySegment, &'static str> {
    let len = usize::from(segment.len);
    let (source, source_gref) = address(&segment.source, len)?;
    let (dest, dest_gref) = address(&segment.dest, len)?;
    if let CopySide::Local { pages, .. } = segment.dest
        && !pages.access().writable()
    {
        return Err("the destination is mapped read-only");
    }
    let flags = if source_gref { GNTCOPY_SOURCE_GREF } else { 0 }
        | if dest_gref { GNTCOPY_DEST_GREF } else { 0 };
    // The driver stores a status only for segments it reaches; none may look done before.
    let status = GrantStatus::GENERAL_ERROR.0;
    Ok(abi::GntdevGrantCopySegment {
        source,
        dest,
        len: segment.len,
        flags,
        status,
        pad: 0,
    })
}

fn address(side: &CopySide<'_>, len: usize) -> Result<(CopyAddress, bool), &'static str> {
    match *side {
        CopySide::Grant { grant, offset } => Ok((
            CopyAddress::foreign(grant.gref.0, offset, grant.domid.0),
            true,
        )),
        CopySide::Local { pages, offset } => {
            if offset > pages.len() || len > pages.len() - offset {
                return Err("a local side is outside its pages");
            }
            Ok((CopyAddress((pages.address() + offset) as u64), false))
        }
    }
}

fn refused<K: Kernel>(
    device: &Device<K>,
    index: usize,
    segment: &CopySegment<'_>,
    why: &str,
) -> Error {
    device.error(
        OPERATION,
        Errno::FAULT,
        format!("segment {index}: {why}: {segment:?}"),
    )
}

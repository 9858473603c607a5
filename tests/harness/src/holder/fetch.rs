//! Descriptors that another process has. Not all of them can be sent over a socket, nor opened anew from
//! `/proc`.

use super::{HoldError, HoldName, call};
use rustix::io::Errno;
use rustix::process::{
    PTracer, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open, set_ptracer,
};
use std::os::fd::OwnedFd;

/// Lets other processes of this user have descriptors of this one. Yama, where it is on, lets only
/// ancestors otherwise.
pub(crate) fn allow(kind: HoldName) -> Result<(), HoldError> {
    match set_ptracer(PTracer::Any) {
        // There is no Yama.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(call(kind, "PR_SET_PTRACER")(errno)),
    }
}

/// Duplicates another process's descriptor.
pub(crate) fn fetch(kind: HoldName, pid: u64, number: u64) -> Result<OwnedFd, HoldError> {
    let bad = || HoldError::Broken {
        kind,
        what: format!("{number} of process {pid} is no descriptor"),
    };
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(bad)?;
    let number = i32::try_from(number).map_err(|_| bad())?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(call(kind, "pidfd_open"))?;
    pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).map_err(call(kind, "pidfd_getfd"))
}

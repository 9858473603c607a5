//! What a person at this command line can do about an error. The library's messages name the cure,
//! but no command and no option: those are named here.

use crate::claim::ClaimError;
use crate::disk::DiskError;
use crate::error::BackError;
use pv_xenstore::DeviceTrouble;
use rustix::io::Errno;

/// The error's text, and behind it the command or option that helps.
pub(super) fn of(error: &BackError) -> String {
    let cure = match error {
        BackError::NoDevice { device, .. } => {
            return format!(
                "{error}, or use `pv-backend attach --front {} --device {} --class {}`",
                device.front_domid.0, device.devid, device.class
            );
        }
        BackError::KernelDriver(_) => " (`--class` names it)",
        BackError::Served(_) => " (`--run-dir` names it)",
        BackError::Claim(ClaimError::Taken { .. }) => " (`pv-backend status` shows its state)",
        BackError::Claim(ClaimError::System {
            cause: Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOSPC | Errno::DQUOT,
            ..
        }) => " (with `--run-dir`)",
        BackError::Disk(DiskError::Open {
            read_only: false,
            cause: Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::BUSY,
            ..
        }) => " (with `--read-only`)",
        _ => "",
    };
    format!("{error}{cure}")
}

/// The cure for what is wrong with a device in xenstore, in brackets.
pub(super) fn of_device(trouble: DeviceTrouble) -> &'static str {
    match trouble {
        DeviceTrouble::NotThere => " (`pv-backend attach` creates a device)",
        DeviceTrouble::OtherBack => " (leave `--back` away)",
        DeviceTrouble::BackUnknown => " (`--back N` names the back end's domain)",
        DeviceTrouble::LeftBehind => " (`pv-backend detach` removes it)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgnt::DomId;
    use pv_xenstore::toolstack::{DeviceClass, DeviceId, DeviceKey};

    #[test]
    fn commands_and_options_are_named_here_and_not_in_the_library() {
        let device = || DeviceKey::new(DomId(1), DeviceClass::VBD, DeviceId(51712));
        let claim = |cause| ClaimError::System {
            device: device(),
            what: "create",
            path: "/run/pv-backend".into(),
            cause,
        };
        let open = |cause| DiskError::Open {
            path: "disk.img".into(),
            read_only: false,
            cause,
            cure: "",
        };
        let taken = ClaimError::Taken {
            device: device(),
            path: "/run/pv-backend".into(),
        };
        let missing = BackError::NoDevice {
            device: device(),
            path: "backend/vbd/1/51712".into(),
        };
        for (error, cure) in [
            (missing, "pv-backend attach --front 1 --device 51712"),
            (taken.into(), "pv-backend status"),
            (claim(Errno::ACCESS).into(), "--run-dir"),
            (claim(Errno::NOSPC).into(), "--run-dir"),
            (BackError::Served("it is served".into()), "--run-dir"),
            (open(Errno::ROFS).into(), "--read-only"),
            (open(Errno::BUSY).into(), "--read-only"),
        ] {
            let (library, program) = (error.to_string(), of(&error));
            assert!(!library.contains(cure), "{library}");
            assert!(program.contains(cure), "{program}");
        }
    }
}

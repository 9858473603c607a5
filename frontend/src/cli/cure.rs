//! What to do about an error, as far as it is done with this program or its neighbours: the
//! libraries know nothing of command lines.

use crate::error::FrontError;

/// What a platform that is not there leaves.
pub(super) const NO_PLATFORM: &str =
    "; `pv-stress sim --dir DIR` serves a simulated Xen, for `--platform sim:DIR`";

/// The error in words, with what to do.
pub(super) fn with_cure(error: &FrontError) -> String {
    let cure = match error {
        FrontError::NoDevice { .. } => ", or with `pv-backend attach`",
        FrontError::Xen(libgnt::Error::HostGone { .. }) => {
            "; `pv-stress sim --dir DIR` starts it again"
        }
        // Its text ends with a class of its own for the device.
        FrontError::KernelDriver(_) => " (`--class`)",
        _ => "",
    };
    format!("{error}{cure}")
}

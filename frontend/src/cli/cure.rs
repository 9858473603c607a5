//! What a person at this command line can do about an error. The library's messages name the cure,
//! but no command and no option: those are named here.

use crate::error::FrontError;

/// Behind the cure of a platform that is not there.
pub(super) const NO_PLATFORM: &str = "`pv-stress sim --dir DIR` starts a simulated Xen";

/// The error's text, and behind it the command or option that helps.
pub(super) fn of(error: &FrontError) -> String {
    let cure = match error {
        FrontError::NoDevice { .. } => ", or use `pv-backend attach`",
        FrontError::KernelDriver(_) => " (`--class` names it)",
        FrontError::Xen(libgnt::Error::HostGone { .. }) => " (`pv-stress sim --dir DIR`)",
        _ => "",
    };
    format!("{error}{cure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_options_are_named_here_and_not_in_the_library() {
        let missing = FrontError::NoDevice {
            device: "xvda".into(),
            cause: "it is not there".into(),
            cure: "let the toolstack create it".into(),
        };
        let gone = libgnt::Error::HostGone {
            what: "has ended".into(),
        };
        for (error, cure) in [
            (missing, "`pv-backend attach`"),
            (gone.into(), "`pv-stress sim"),
        ] {
            let (library, program) = (error.to_string(), of(&error));
            assert!(!library.contains(cure), "{library}");
            assert!(program.contains(cure), "{program}");
        }
    }
}

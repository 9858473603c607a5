//! Choosing a platform at run time: above both of them, so that neither knows the other.

use crate::error::Result;
use crate::linux::LinuxPlatform;
use crate::platform::Platform;
use crate::types::DomId;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Which platform, as a person names it on a command line: `linux` or `sim:DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlatformChoice {
    /// The real device nodes under `/dev/xen`.
    Linux,
    /// The simulated Xen whose host serves this directory.
    Sim(PathBuf),
}

impl FromStr for PlatformChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match (s, s.strip_prefix("sim:")) {
            ("linux" | "xen", _) => Ok(PlatformChoice::Linux),
            (_, Some(dir)) if !dir.is_empty() => Ok(PlatformChoice::Sim(dir.into())),
            _ => Err(format!(
                "{s:?} is no platform: use `linux`, or `sim:DIR` with the directory that the host of a simulated Xen serves"
            )),
        }
    }
}

impl fmt::Display for PlatformChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlatformChoice::Linux => f.write_str("linux"),
            PlatformChoice::Sim(dir) => write!(f, "sim:{}", dir.display()),
        }
    }
}

/// Opens a platform.
///
/// `domid` says which domain a process of the simulated Xen belongs to (it has no other way to
/// know); a real one is told by Xen, and ignores it.
///
/// # Errors
/// [`Error::NotAvailable`](crate::Error::NotAvailable) where there is no Xen, or no simulator host in the directory.
pub fn open(
    choice: &PlatformChoice,
    domid: Option<DomId>,
    process: &str,
) -> Result<Arc<dyn Platform>> {
    match choice {
        PlatformChoice::Linux => Ok(Arc::new(LinuxPlatform::open()?)),
        PlatformChoice::Sim(dir) => simulated(dir, domid, process),
    }
}

#[cfg(feature = "sim")]
fn simulated(dir: &Path, domid: Option<DomId>, process: &str) -> Result<Arc<dyn Platform>> {
    crate::sim::client::join(dir, domid, process)
}

#[cfg(not(feature = "sim"))]
fn simulated(dir: &Path, _: Option<DomId>, _: &str) -> Result<Arc<dyn Platform>> {
    Err(crate::Error::not_available(
        &format!("the simulated Xen in {}", dir.display()),
        "this program was built without libgnt's feature `sim`",
        "build it with that feature, or use the platform `linux`",
    ))
}

#[cfg(all(test, not(feature = "sim")))]
mod tests {
    use super::*;

    #[test]
    fn without_its_feature_the_simulated_xen_is_refused_with_the_cure() {
        let choice: PlatformChoice = "sim:/nowhere".parse().expect("a platform");
        let error = open(&choice, None, "test").expect_err("no simulated Xen here");
        assert!(error.to_string().contains("feature `sim`"), "{error}");
    }
}

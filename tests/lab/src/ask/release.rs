//! Which Debian release carries which Xen and which kernel.

use crate::error::UnknownVersion;
use std::fmt;

/// A Debian release, as a source of one Xen and one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The suite's name in an archive.
    pub codename: &'static str,
    /// Xen's version, as in its packages' names.
    pub xen: &'static str,
    /// The kernel's series; of a release that moves, its codename.
    pub kernel: &'static str,
    /// QEMU's series.
    pub qemu: &'static str,
    /// Is there a suite of security updates beside it?
    pub has_security: bool,
}

/// Debian 12, whose Xen, kernel and QEMU are the defaults.
pub const BOOKWORM: Release = Release {
    codename: "bookworm",
    xen: "4.17",
    kernel: "6.1",
    qemu: "7.2",
    has_security: true,
};

/// Every release that the lab knows, the default first.
pub const RELEASES: [Release; 4] = [
    BOOKWORM,
    Release {
        codename: "trixie",
        xen: "4.20",
        kernel: "6.12",
        qemu: "10.0",
        has_security: true,
    },
    Release {
        codename: "bullseye",
        xen: "4.14",
        kernel: "5.10",
        qemu: "5.2",
        has_security: true,
    },
    Release {
        codename: "sid",
        xen: "sid",
        kernel: "sid",
        qemu: "sid",
        has_security: false,
    },
];

impl Release {
    /// The release with this Xen.
    ///
    /// # Errors
    /// [`UnknownVersion`] lists those there are.
    pub fn with_xen(version: &str) -> Result<Release, UnknownVersion> {
        find("Xen", version, |r| r.xen)
    }

    /// The release with this kernel.
    ///
    /// # Errors
    /// [`UnknownVersion`] lists those there are.
    pub fn with_kernel(version: &str) -> Result<Release, UnknownVersion> {
        find("kernel", version, |r| r.kernel)
    }

    /// The release with this QEMU.
    ///
    /// # Errors
    /// [`UnknownVersion`] lists those there are.
    pub fn with_qemu(version: &str) -> Result<Release, UnknownVersion> {
        find("QEMU", version, |r| r.qemu)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Debian {}", self.codename)
    }
}

fn find(
    what: &'static str,
    asked: &str,
    version: impl Fn(&Release) -> &'static str,
) -> Result<Release, UnknownVersion> {
    RELEASES
        .into_iter()
        .find(|r| version(r) == asked || r.codename == asked)
        .ok_or_else(|| UnknownVersion {
            what,
            asked: asked.into(),
            known: RELEASES.iter().map(version).collect(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_find_their_release_or_say_which_there_are() {
        assert_eq!(
            Release::with_kernel("6.12").expect("known").codename,
            "trixie"
        );
        assert_eq!(
            Release::with_xen("4.14").expect("known").codename,
            "bullseye"
        );
        assert_eq!(Release::with_kernel("sid").expect("known").qemu, "sid");
        assert_eq!(Release::with_qemu("trixie").expect("known").qemu, "10.0");
        let text = Release::with_xen("4.2").expect_err("unknown").to_string();
        assert_eq!(text, "no Xen 4.2: the lab knows 4.17, 4.20, 4.14, sid");
    }
}

//! Which Debian release carries which Xen and which kernel.

use std::fmt;

/// A Debian release, as a source of one Xen and one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The suite's name in an archive.
    pub codename: &'static str,
    /// Xen's version, as in its packages' names.
    pub xen: &'static str,
    /// The kernel's series.
    pub kernel: &'static str,
}

/// Every release that the lab knows, the default first.
pub const RELEASES: [Release; 3] = [
    Release {
        codename: "bookworm",
        xen: "4.17",
        kernel: "6.1",
    },
    Release {
        codename: "trixie",
        xen: "4.20",
        kernel: "6.12",
    },
    Release {
        codename: "bullseye",
        xen: "4.14",
        kernel: "5.10",
    },
];

/// A version that no known release has.
#[derive(Debug, thiserror::Error)]
#[error("no {what} {asked}: the lab knows {}", .known.join(", "))]
pub struct UnknownVersion {
    what: &'static str,
    asked: String,
    known: Vec<&'static str>,
}

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

    /// What holds the hypervisor.
    pub fn hypervisor_packages(&self) -> Vec<String> {
        vec![format!("xen-hypervisor-{}-amd64", self.xen)]
    }

    /// What holds the toolstack; libraries follow from their dependencies.
    pub fn toolstack_packages(&self) -> Vec<String> {
        vec![
            format!("xen-utils-{}", self.xen),
            "xen-utils-common".into(),
            "xenstore-utils".into(),
        ]
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Debian {} (Xen {}, Linux {})",
            self.codename, self.xen, self.kernel
        )
    }
}

fn find(
    what: &'static str,
    asked: &str,
    version: impl Fn(&Release) -> &'static str,
) -> Result<Release, UnknownVersion> {
    RELEASES
        .into_iter()
        .find(|r| version(r) == asked)
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
        let text = Release::with_xen("4.2").expect_err("unknown").to_string();
        assert_eq!(text, "no Xen 4.2: the lab knows 4.17, 4.20, 4.14");
    }
}

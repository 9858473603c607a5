//! What the kernel below says of itself.

use std::{fmt, fs};

/// A parameter of the lab's gntdev module whose unmap waits for every page reference. Linux' own has
/// none.
const UNMAP_WAITS: &str = "/sys/module/xen_gntdev/parameters/unmap_waits";

/// Is the gntdev of this kernel known to wait for every reference inside the unmap? Then none is
/// deferred, and a held page does not damage a PV guest's kernel.
pub fn unmap_waits() -> bool {
    fs::read_to_string(UNMAP_WAITS).is_ok_and(|value| value.trim() == "Y")
}

/// A version of Linux, with the patch level of its stable branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinuxVersion(pub u16, pub u16, pub u16);

impl LinuxVersion {
    /// Of the kernel below. Debian's release names a series (`6.1.0-56-amd64`), and its version the
    /// patch level (`#1 SMP Debian 6.1.192-1 (…)`), so that comes first.
    pub fn running() -> Option<LinuxVersion> {
        let kernel = rustix::system::uname();
        let (release, version) = (
            kernel.release().to_string_lossy(),
            kernel.version().to_string_lossy(),
        );
        LinuxVersion::of_uname(&release, &version)
    }

    fn of_uname(release: &str, version: &str) -> Option<LinuxVersion> {
        let debian = version.split_once("Debian ").map(|(_, rest)| rest);
        debian
            .and_then(LinuxVersion::begins)
            .or_else(|| LinuxVersion::begins(release))
    }

    /// The version that a text begins with.
    fn begins(text: &str) -> Option<LinuxVersion> {
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit());
        let mut numbers = text[..end.unwrap_or(text.len())].split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (major, minor) = (next()?, next()?);
        // The first release of a branch has no third number.
        Some(LinuxVersion(major, minor, next().unwrap_or(0)))
    }

    /// Are both of one stable branch?
    pub fn is_branch_of(self, other: LinuxVersion) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl fmt::Display for LinuxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A domain's kernel, as it said itself when a run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestKernel {
    /// The domain's name.
    pub domain: String,
    /// `PV`, `PVH` or `HVM`.
    pub guest_type: String,
    /// See [`unmap_waits`].
    pub unmap_waits: bool,
    /// It is where the pages are mapped and held.
    pub maps: bool,
}

impl GuestKernel {
    /// Paravirtualised: its page tables are the hypervisor's, and gntdev has a notifier.
    pub fn is_pv(&self) -> bool {
        self.guest_type == "PV"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels() {
        let of = LinuxVersion::of_uname;
        let old = of(
            "6.1.0-56-amd64",
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-08-01)",
        );
        assert_eq!(old, Some(LinuxVersion(6, 1, 192)));
        let new = of(
            "6.12.118+deb13-amd64",
            "#1 SMP Debian 6.12.118-1 (2026-10-01)",
        );
        assert_eq!(new, Some(LinuxVersion(6, 12, 118)));
        assert_eq!(of("7.3-rc1", "#1"), Some(LinuxVersion(7, 3, 0)));
        assert_eq!(
            of("6.6.3-qubes.fc37", "#1 SMP"),
            Some(LinuxVersion(6, 6, 3))
        );
        assert_eq!(of("odd", "#1 SMP"), None);
        assert!(LinuxVersion(6, 12, 9) < LinuxVersion(6, 12, 117));
    }
}

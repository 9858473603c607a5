//! What the kernel below says of itself.

use std::fs;

/// A parameter of the lab's gntdev module whose unmap waits for every page reference. Linux' own has
/// none.
const UNMAP_WAITS: &str = "/sys/module/xen_gntdev/parameters/unmap_waits";

/// Is the gntdev of this kernel known to wait for every reference inside the unmap? Then none is
/// deferred, and a held page does not damage a PV guest's kernel.
pub fn unmap_waits() -> bool {
    fs::read_to_string(UNMAP_WAITS).is_ok_and(|value| value.trim() == "Y")
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

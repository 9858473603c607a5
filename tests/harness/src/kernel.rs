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

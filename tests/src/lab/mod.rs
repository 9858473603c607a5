//! A real Xen on any machine: Debian's hypervisor, kernel and toolstack, in QEMU without hardware
//! virtualisation, with two PVH domains for the agents.
//!
//! [`release`] says which versions there are, `packages` fetches them, `parts` finds what is
//! needed in them, `image` and `images` make the initramfs archives, `machine` runs QEMU, `listener`
//! hears what it says, `gntdev` and `kbuild` make the synchronous module, `results` brings back what dom0 wrote, and [`run`] does all of it in order.

mod error;
mod gntdev;
mod image;
mod images;
mod job;
mod kbuild;
mod listener;
mod machine;
mod options;
mod packages;
mod parts;
mod program;
pub mod release;
mod results;
mod run;
mod work;

pub use error::LabError;
pub use options::LabArgs;
pub use run::run;

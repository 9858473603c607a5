//! What the machine needs, out of packages and sources.
//!
//! Each module uses only what is above it:
//!
//! 1. [`parts`]: the hypervisor, the kernel with its modules, and the toolstack.
//! 2. [`ext4`]: the tools that make and check a file system in the domains.
//! 3. [`emulator`]: QEMU, brought by the lab or named by somebody.
//! 4. [`program`]: the static pv-stress.
//! 5. [`gntdev`]: the module whose unmap waits, and the kernel's build tools for it.
//! 6. [`all`]: all of that in order, as [`Built`].

pub mod parts;

pub mod ext4;

pub mod emulator;

pub mod program;

pub mod gntdev;

pub mod all;

pub use all::{Built, build};

//! What the machine boots, and the disk that it writes to.
//!
//! Each module uses only what is above it:
//!
//! 1. [`newc`]: initramfs archives.
//! 2. [`disk`]: the raw disk for the results.
//! 3. [`job`]: what dom0 does, as shell, and the command lines.
//! 4. [`xenstored`]: how dom0 starts its xenstore.
//! 5. [`contents`]: the two initramfs images.
//!
//! The `.sh` files beside them go into the images: `dom0-init.sh` and `domu-init.sh` (both begin with
//! `mounts.sh`), `start-domain.sh`, `load-modules.sh` and `run-suites.sh`.

pub mod newc;

pub mod disk;

pub mod job;

pub mod xenstored;

pub mod contents;

pub use contents::build;

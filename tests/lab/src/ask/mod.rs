//! What was asked for.
//!
//! Each module uses only what is above it:
//!
//! 1. [`release`]: which Debian release carries which Xen, kernel and QEMU.
//! 2. [`words`]: the words that options take.
//! 3. [`options`]: the options of `pv-stress lab`.
//! 4. [`domains`]: how many domains, of which kind, with how much memory.
//! 5. [`suite`]: what dom0 runs in them.
//! 6. [`check`]: all of that together, as [`Asked`].

pub mod release;

pub mod words;

pub mod options;

pub mod domains;

pub mod suite;

pub mod check;

pub use check::Asked;

//! What Debian has, kept in a cache.
//!
//! Each module uses only what is above it:
//!
//! 1. [`cache`]: the directory that labs share.
//! 2. [`work`]: one run's own directory in it.
//! 3. [`tree`]: what was unpacked, and whether it is still whole.
//! 4. [`archive`]: one Debian release, as apt sees it.
//! 5. [`set`]: packages that were chosen once, and are kept.
//! 6. [`packages`]: chooses, fetches and unpacks them.

pub mod cache;

pub mod work;

pub mod tree;

pub mod archive;

pub mod set;

pub mod packages;

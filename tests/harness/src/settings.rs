//! Words of the command line that several suites share.

use libgnt::sim::wire::UnmapMode;
use std::fmt;
use std::time::Duration;

/// Where the pair runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PlatformKind {
    /// The simulated Xen, on any Linux machine.
    Sim,
    /// A real Xen: this machine's /dev/xen.
    Xen,
}

impl fmt::Display for PlatformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlatformKind::Sim => "sim",
            PlatformKind::Xen => "xen",
        })
    }
}

/// When the simulated kernels wait for page references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Unmap {
    /// Linux since 5.19.
    Async,
    /// Before: inside munmap.
    Sync,
}

impl From<Unmap> for UnmapMode {
    fn from(unmap: Unmap) -> UnmapMode {
        match unmap {
            Unmap::Async => UnmapMode::Async,
            Unmap::Sync => UnmapMode::Sync,
        }
    }
}

impl fmt::Display for Unmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unmap::Async => "async",
            Unmap::Sync => "sync",
        })
    }
}

/// A duration as its option takes it.
pub fn spell(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

/// A word for a shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

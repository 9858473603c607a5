//! The words that options take, each with what it means.

use clap::ValueEnum;
use std::fmt;

/// When the domains' gntdev module unmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GntdevKind {
    /// The kernel's own module: at once, or later by itself, as Linux does since 5.19.
    Async,
    /// A module built for this: it waits for every reference, as Linux did before.
    Sync,
}

/// What a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Hardware page tables: what to test on.
    Pvh,
    /// Paravirtualised: holding pages damages its kernel.
    Pv,
}

impl Kind {
    /// As in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Pvh => "pvh",
            Kind::Pv => "pv",
        }
    }
}

/// The suites that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SuiteName {
    /// The scenarios of `pv-stress run` that make sense on a real Xen
    Scenarios,
    /// The platform itself, rule by rule: `front` tests its devices with `back` as the peer, and the
    /// simulated Xen's answers stand beside
    Conform,
    /// The pair beside Linux' own drivers: our front end on xen-blkback; xen-blkfront, with an ext4
    /// file system, on our back end, which is killed meanwhile; a boot loader's front end on it
    Peers,
    /// The scenario hold-unmap once with each holder that the kernel can have, or with the one of --hold;
    /// in new domains after each that did not pass
    Holds,
    /// xenstore: the client over dom0's socket and over /dev/xen/xenbus in dom0 and in `front`, our server
    /// beside the daemon, and an echo device between the domains
    Xenstore,
}

/// dom0's xenstore daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XenstoredName {
    /// The one in C, as Debian starts it
    Xenstored,
    /// The one in OCaml
    Oxenstored,
    /// The same, which fails transactions at random (`test-eagain`)
    OxenstoredEagain,
}

impl XenstoredName {
    /// Its program.
    pub fn program(self) -> &'static str {
        match self {
            XenstoredName::Xenstored => "xenstored",
            XenstoredName::Oxenstored | XenstoredName::OxenstoredEagain => "oxenstored",
        }
    }
}

impl fmt::Display for XenstoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_possible_value() {
            Some(value) => f.write_str(value.get_name()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SuiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SuiteName::Scenarios => "scenarios",
            SuiteName::Conform => "conform",
            SuiteName::Peers => "peers",
            SuiteName::Holds => "holds",
            SuiteName::Xenstore => "xenstore",
        })
    }
}

/// The cases of the suite `peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Our front end on Linux' back end, with and without persistent grants
    LinuxBack,
    /// Linux' front end on our back end: an ext4 file system, by map and by grant copy
    LinuxFront,
    /// The same by persistent grants and by map, and the back end is killed three times while files
    /// are written
    LinuxFrontKilled,
    /// A front end that goes straight to Connected, as those of boot loaders do, on our back end
    DirectFront,
}

impl Case {
    /// All of them, in the order in which they run.
    pub const ALL: [Case; 4] = [
        Case::LinuxBack,
        Case::LinuxFront,
        Case::DirectFront,
        // Last: a failure may leave a kernel in a state.
        Case::LinuxFrontKilled,
    ];
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_possible_value() {
            Some(value) => f.write_str(value.get_name()),
            None => Ok(()),
        }
    }
}

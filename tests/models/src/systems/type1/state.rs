//! What the model knows of the address, the device and its drivers.

use crate::program::Law;

/// The program is always the first column.
pub const USER: usize = 0;
pub const IOMMU_LOCK: usize = 0;
pub const DRIVER_LOCK: usize = 1;
pub const LOCKS: &[&str] = &["iommu lock", "driver lock"];

/// What a pin does when it finds the address suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Waits for the address.
    Blocks,
    /// Waits on a list; close marks the entries that are there, and wakes them.
    WokenOnce,
    /// Waits, unless the device has a lasting mark that it is closing.
    LastingFlag,
    /// Fails with an error.
    Fails,
}

/// What the program does once it has suspended the address, before it closes its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Registers again, or not.
    RegistersOrCloses,
    /// Unmaps a range, which waits for the driver to unpin; then registers.
    Unmaps,
    /// Writes a register of the device, which takes the driver's lock; then registers.
    WritesRegister,
    /// Closes its other device, which has the same driver; then registers.
    ClosesOther,
    /// May be stopped for good (a debugger, a bug).
    MayStop,
}

/// How the program gets over its exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Suspends the address, whoever is attached.
    Suspends(User),
    /// Suspends it only if no mediated device is attached.
    SuspendsIfDetached { asks_under_lock: bool },
    /// Hands the mapping to a forked child, and takes it back.
    Forks { hands_over_first: bool },
    /// The mapping is backed by a file.
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Program,
    Child,
    File,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type1 {
    pub suspended: bool,
    /// Whose address space provides the pages, and which of them are gone.
    pub owner: Owner,
    pub program_gone: bool,
    pub child_gone: bool,
    /// A mediated device is attached.
    pub attached: bool,
    /// It is being closed: the lasting mark.
    pub closing: bool,
    /// Its driver has been told to stop.
    pub stop: bool,
    /// Driver threads within a pin; those of them that wait for the program; those whose wait
    /// close has ended; those with pages pinned.
    pub pinning: u8,
    pub waiting: u8,
    pub woken: u8,
    pub pinned: u8,
    /// The program waits for the kernel.
    pub user_waits: bool,
    pub closed: bool,
}

pub const BOUND: &str = "no-wait-for-a-waiter";
pub const EXCLUSION: &str = "suspended-means-detached";
pub const PROVIDER: &str = "pins-find-a-page";

pub fn laws(exclusive: bool) -> Vec<Law<Type1>> {
    let mut laws = vec![
        Law {
            key: BOUND,
            says: "the kernel does not wait for a program that waits for the kernel",
            holds: Some(|v: &Type1| {
                let waiting = v.waiting & !v.woken != 0 && v.suspended && !v.closing;
                !(waiting && v.user_waits)
            }),
        },
        Law::of_steps(
            PROVIDER,
            "a pin finds an address space or file that has the page",
        ),
    ];
    if exclusive {
        laws.push(Law {
            key: EXCLUSION,
            says: "an address is suspended only while no mediated device is attached",
            holds: Some(|v| !(v.suspended && v.attached)),
        });
    }
    laws
}

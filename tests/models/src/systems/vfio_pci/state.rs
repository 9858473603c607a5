//! What the model knows of the device's memory and its mappings.

use crate::program::Law;

pub const MMAP_SEM: usize = 0;
pub const VMA_LOCK: usize = 1;
pub const MEMORY_LOCK: usize = 2;
pub const LOCKS: &[&str] = &["mmap_sem", "vma_lock", "memory_lock"];

/// The disabler is always the first column.
pub const DISABLER: usize = 0;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vfio {
    /// The device answers to accesses.
    pub enabled: bool,
    /// Faults must wait.
    pub paused: bool,
    /// Mappings inserted by faults, a bit for each faulting thread's page.
    pub mapped: u8,
    /// Threads whose access was answered with SIGBUS.
    pub sigbus: u8,
    /// Threads that may retry a fault only once, and have.
    pub retried: u8,
    /// Zapping found a mapping of another address space that it has yet to lock.
    pub found: bool,
}

pub const OFF: &str = "off-means-unmapped";
pub const SIGBUS: &str = "sigbus-only-when-off";
pub const NO_TOUCH: &str = "no-user-page-under-lock";

pub fn laws() -> Vec<Law<Vfio>> {
    vec![
        Law {
            key: OFF,
            says: "memory disabled means that no mapping exists",
            holds: Some(|v| v.enabled || v.mapped == 0),
        },
        Law::of_steps(SIGBUS, "an access gets SIGBUS only if memory is disabled"),
        Law::of_steps(
            NO_TOUCH,
            "no user page is touched under memory_lock held for writing",
        ),
    ]
}

/// What the disabler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disable {
    /// memory_lock, then mmap_sem (the first patch).
    Reversed,
    /// The same, and drops its locks between zapping and disabling.
    Retake { look_again: bool },
    /// mmap_sem, vma_lock, memory_lock (what was merged).
    Nested,
    /// Sets `paused` under vma_lock; at the end of the zap, or before taking mmap_sem.
    Pause { at_start: bool },
    /// The pause lasts while the memory is off, and the program maps something before it
    /// switches the memory on again.
    PauseWhileOff,
    /// Zaps through the device's address space: no mmap_sem (what replaced it).
    AddressSpace,
    /// memory_lock, and copies from the user under it.
    Touch,
}

//! Who takes part.

use super::state::*;
use crate::program::Program;
use crate::systems::bit;

pub type Actor = Program<Vfio>;

fn zap(actor: Actor) -> Actor {
    actor.act("zaps every mapping", |s| s.mapped = 0)
}

fn off(actor: Actor) -> Actor {
    actor.act("switches the memory off", |s| s.enabled = false)
}

fn on(actor: Actor) -> Actor {
    actor.act("switches the memory on", |s| s.enabled = true)
}

/// Switches the memory off, and on again.
pub fn disabler(how: Disable) -> Actor {
    let actor = Actor::new("disabler");
    match how {
        Disable::Reversed => actor
            .write(MEMORY_LOCK)
            .read(MMAP_SEM)
            .then(zap)
            .unlock(MMAP_SEM)
            .then(off)
            .then(on)
            .unlock(MEMORY_LOCK),
        Disable::Retake { look_again } => actor
            .label("zap")
            .read(MMAP_SEM)
            .write(VMA_LOCK)
            .then(zap)
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM)
            .write(VMA_LOCK)
            .when(look_again, |p| {
                p.ask(
                    "is the list of mappings still empty?",
                    |v| v.mapped == 0,
                    "again",
                )
            })
            .then(off)
            .then(on)
            .unlock(VMA_LOCK)
            .end()
            .label("again")
            .unlock(VMA_LOCK)
            .goto("zap"),
        Disable::Nested => actor
            .read(MMAP_SEM)
            .write(VMA_LOCK)
            .then(zap)
            .write(MEMORY_LOCK)
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM)
            .then(off)
            .then(on)
            .unlock(MEMORY_LOCK),
        Disable::Pause { at_start } => actor
            .when(at_start, |p| {
                p.write(VMA_LOCK)
                    .act("pauses faults", |s| s.paused = true)
                    .unlock(VMA_LOCK)
            })
            .read(MMAP_SEM)
            .write(VMA_LOCK)
            .then(zap)
            .when(!at_start, |p| p.act("pauses faults", |s| s.paused = true))
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM)
            .write(MEMORY_LOCK)
            .then(off)
            .then(on)
            .unlock(MEMORY_LOCK)
            .write(VMA_LOCK)
            .act("lets faults go on", |s| s.paused = false)
            .unlock(VMA_LOCK),
        Disable::PauseWhileOff => actor
            .read(MMAP_SEM)
            .write(VMA_LOCK)
            .then(zap)
            .act("pauses faults", |s| s.paused = true)
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM)
            .write(MEMORY_LOCK)
            .then(off)
            .unlock(MEMORY_LOCK)
            .act("returns to the program, which calls mmap", |_| {})
            .write(MMAP_SEM)
            .unlock(MMAP_SEM)
            .write(MEMORY_LOCK)
            .then(on)
            .unlock(MEMORY_LOCK)
            .write(VMA_LOCK)
            .act("lets faults go on", |s| s.paused = false)
            .unlock(VMA_LOCK),
        Disable::AddressSpace => actor
            .write(MEMORY_LOCK)
            .write(VMA_LOCK)
            .then(zap)
            .unlock(VMA_LOCK)
            .then(off)
            .then(on)
            .unlock(MEMORY_LOCK),
        Disable::Touch => actor
            .write(MEMORY_LOCK)
            .act("copies from the user, whose page is absent", |s| {
                s.breaks(NO_TOUCH)
            })
            .read(MMAP_SEM)
            .unlock(MMAP_SEM)
            .write(VMA_LOCK)
            .then(zap)
            .unlock(VMA_LOCK)
            .then(off)
            .then(on)
            .unlock(MEMORY_LOCK),
    }
}

/// What a fault does. It always comes with mmap_sem held for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Waits for memory_lock.
    Wait,
    /// Tries; if refused, SIGBUS (a caller that cannot retry, as hmm_range_fault).
    TryOrSigbus,
    /// Tries; if refused, drops mmap_sem, waits for memory_lock, and faults again: once, as
    /// FAULT_FLAG_TRIED allowed, or as often as it takes.
    TryAndRetry { once: bool },
    /// vma_lock, then memory_lock.
    Nested,
    /// vma_lock alone.
    VmaLock,
    /// vma_lock, and waits there while faults are paused; or looks at the flag before it.
    Pause { under_lock: bool },
}

/// Accesses the mapping: faults until it is mapped.
pub fn access(me: usize, how: Fault) -> Actor {
    let insert = move |p: Actor| p.act("inserts the mapping", move |s| s.mapped |= bit(me));
    // The merged fault handler looks at the command register under the lock.
    let checked = move |p: Actor| {
        p.ask("is the memory on?", |v| v.enabled, "sigbus")
            .then(insert)
            .label("sigbus")
    };
    let sigbus = move |p: Actor| {
        p.act("gets SIGBUS", move |s| {
            if s.enabled {
                s.breaks(SIGBUS);
            }
            s.sigbus |= bit(me);
        })
    };
    let actor = Actor::new(format!("fault {me}"))
        .label("fault")
        .read(MMAP_SEM);
    match how {
        Fault::Wait => actor
            .read(MEMORY_LOCK)
            .then(checked)
            .unlock(MEMORY_LOCK)
            .unlock(MMAP_SEM),
        Fault::TryOrSigbus => actor
            .try_read(MEMORY_LOCK, "refused")
            .then(checked)
            .unlock(MEMORY_LOCK)
            .unlock(MMAP_SEM)
            .end()
            .label("refused")
            .then(sigbus)
            .unlock(MMAP_SEM),
        Fault::TryAndRetry { once } => {
            let actor = actor
                .try_read(MEMORY_LOCK, "refused")
                .then(checked)
                .unlock(MEMORY_LOCK)
                .unlock(MMAP_SEM)
                .end()
                .label("refused");
            let actor = if once {
                actor.ask(
                    "may it retry?",
                    move |v| v.retried & bit(me) == 0,
                    "no-retry",
                )
            } else {
                actor
            };
            actor
                .unlock(MMAP_SEM)
                .read(MEMORY_LOCK)
                .unlock(MEMORY_LOCK)
                .act("faults again", move |s| {
                    s.retried |= if once { bit(me) } else { 0 }
                })
                .goto("fault")
                .label("no-retry")
                .then(sigbus)
                .unlock(MMAP_SEM)
        }
        Fault::Nested => actor
            .write(VMA_LOCK)
            .read(MEMORY_LOCK)
            .then(checked)
            .unlock(MEMORY_LOCK)
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM),
        Fault::VmaLock => actor
            .write(VMA_LOCK)
            .then(checked)
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM),
        Fault::Pause { under_lock: true } => actor
            .label("look")
            .write(VMA_LOCK)
            .ask("may faults go on?", |v| !v.paused, "paused")
            .then(insert)
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM)
            .end()
            .label("paused")
            .unlock(VMA_LOCK)
            .wait("the pause to end", |v| !v.paused, |_| vec![DISABLER])
            .goto("look"),
        Fault::Pause { under_lock: false } => actor
            .wait("faults not to be paused", |v| !v.paused, |_| vec![DISABLER])
            .write(VMA_LOCK)
            .then(insert)
            .unlock(VMA_LOCK)
            .unlock(MMAP_SEM),
    }
}

/// A thread that changes the address space: a writer of mmap_sem.
pub fn changer() -> Actor {
    Actor::new("mmap call").write(MMAP_SEM).unlock(MMAP_SEM)
}

/// read() of the device: holds memory_lock while it copies to a user page; if that page is itself
/// a mapping of the device, the copy faults into the same handler.
pub fn reader(outside: bool) -> Actor {
    Actor::new("read call")
        .read(MEMORY_LOCK)
        .act("reads the device", |_| {})
        .when(outside, |p| p.unlock(MEMORY_LOCK))
        .act("copies to a user page that is absent: a fault", |_| {})
        .read(MMAP_SEM)
        .read(MEMORY_LOCK)
        .unlock(MEMORY_LOCK)
        .unlock(MMAP_SEM)
        .when(!outside, |p| p.unlock(MEMORY_LOCK))
}

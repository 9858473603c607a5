//! S2: vfio-pci's faults against the disabling of its memory.
//!
//! A user program maps a device's memory. Writing the command register can switch that memory
//! off: then no mapping may exist, since an access would bring the machine down. Faults insert
//! mappings; the disabler zaps them.

use super::{Family, System, bit, fails};
use crate::model::Model;
use crate::program::{Law, Program};
use crate::search::{LOCK_ORDER, NOBODY_WAITS};
use crate::variant::{Expected::Holds, Variant};

type Actor = Program<Vfio>;

const MMAP_SEM: usize = 0;
const VMA_LOCK: usize = 1;
const MEMORY_LOCK: usize = 2;
const LOCKS: &[&str] = &["mmap_sem", "vma_lock", "memory_lock"];

/// The disabler is always the first column.
const DISABLER: usize = 0;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Vfio {
    /// The device answers to accesses.
    enabled: bool,
    /// Faults must wait.
    paused: bool,
    /// Mappings inserted by faults, a bit for each faulting thread's page.
    mapped: u8,
    /// Threads whose access was answered with SIGBUS.
    sigbus: u8,
    /// Threads that may retry a fault only once, and have.
    retried: u8,
    /// Zapping found a mapping of another address space that it has yet to lock.
    found: bool,
}

const OFF: &str = "off-means-unmapped";
const SIGBUS: &str = "sigbus-only-when-off";
const NO_TOUCH: &str = "no-user-page-under-lock";

fn laws() -> Vec<Law<Vfio>> {
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
enum Disable {
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
fn disabler(how: Disable) -> Actor {
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
enum Fault {
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
fn access(me: usize, how: Fault) -> Actor {
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
fn changer() -> Actor {
    Actor::new("mmap call").write(MMAP_SEM).unlock(MMAP_SEM)
}

/// read() of the device: holds memory_lock while it copies to a user page; if that page is itself
/// a mapping of the device, the copy faults into the same handler.
fn reader(outside: bool) -> Actor {
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

fn model(actors: Vec<Actor>) -> Model<Vfio> {
    let init = Vfio {
        enabled: true,
        ..Vfio::default()
    };
    Model::new(LOCKS, laws(), init, actors)
}

fn cast(disable: Disable, fault: Fault, faults: usize, changes: bool) -> Model<Vfio> {
    let mut actors = vec![disabler(disable)];
    for _ in 0..faults {
        actors.push(access(actors.len(), fault));
    }
    if changes {
        actors.push(changer());
    }
    model(actors)
}

const FAMILY: Family = Family {
    system: "vfio-pci",
    kind: "faulting thread",
    actors: (3, 4),
};

/// The system and its variants.
pub fn system() -> System {
    let mut variants = first_patch();
    variants.extend(try_lock());
    variants.extend(later());
    System {
        name: "vfio-pci",
        title: "S2: a fault and the disabling of the memory it maps take two locks in two orders",
        cycle: "The zapper holds memory_lock and wants mmap_sem; the fault handler holds mmap_sem and wants \
                memory_lock. Both want mmap_sem only for reading: what closes the cycle is a third \
                thread's mmap, queued for writing in between.",
        merged: "The nesting mmap_sem, vma_lock, memory_lock (Linux 5.8, CVE-2020-12888); since 6.10 the \
                 zap goes through the device's address space and needs no mmap_sem.",
        variants,
    }
}

fn first_patch() -> Vec<Variant> {
    use Disable::{Reversed, Touch};
    vec![
        FAMILY.entry(
            "reversed",
            fails(&[NOBODY_WAITS, LOCK_ORDER]),
            "memory_lock then mmap_sem here, mmap_sem then memory_lock there",
            "The disabler holds memory_lock for writing and wants mmap_sem to zap. A fault holds mmap_sem and \
             wants memory_lock. Both could read mmap_sem together, were it not for an mmap call that \
             has queued for it: the disabler must queue behind that.",
        )
        .model(|b| cast(Reversed, Fault::Wait, b.actors, true)),
        FAMILY.entry(
            "reversed-no-writer",
            fails(&[LOCK_ORDER]),
            "without a writer of mmap_sem the same order cannot deadlock, but is still a cycle",
            "Without the mmap call both read mmap_sem at the same time and nothing is stuck: why a test with \
             one thread may pass for years. The order of locks shows the cycle all the same.",
        )
        .model(|b| cast(Reversed, Fault::Wait, b.actors, false)),
        FAMILY.entry(
            "user-page-under-lock",
            fails(&[NOBODY_WAITS, NO_TOUCH, LOCK_ORDER]),
            "a copy from the user under memory_lock faults, and wants mmap_sem",
            "Under memory_lock held for writing, touching a user page can fault; the fault needs mmap_sem, \
             and whoever holds that may want memory_lock.",
        )
        .model(|b| cast(Touch, Fault::Wait, b.actors, true)),
    ]
}

fn try_lock() -> Vec<Variant> {
    use Disable::Reversed;
    vec![
        FAMILY.entry(
            "try-lock-no-retry",
            fails(&[SIGBUS]),
            "a caller that cannot retry gets SIGBUS although the memory is on",
            "The fault only tries memory_lock. It was taken for a moment, the memory is on, and the access \
             dies. (hmm_range_fault cannot retry.)",
        )
        .model(|b| cast(Reversed, Fault::TryOrSigbus, b.actors, true)),
        FAMILY.entry(
            "try-lock-retry-once",
            fails(&[SIGBUS]),
            "one retry, as the fault flags of the time allowed, can be refused again",
            "The fault drops mmap_sem, waits for memory_lock, and faults again with retrying no longer \
             allowed. A second disabler comes first.",
        )
        .model(|b| {
            let how = Fault::TryAndRetry { once: true };
            let mut other = disabler(Reversed);
            other.name = "other disabler".into();
            let mut actors = vec![disabler(Reversed), other];
            for _ in 0..b.actors {
                actors.push(access(actors.len(), how));
            }
            actors.push(changer());
            model(actors)
        }),
        FAMILY.entry(
            "try-lock-retry",
            Holds,
            "try, else drop mmap_sem, wait, and fault again, as often as it takes",
            "Nobody waits for memory_lock with mmap_sem held, so there is no cycle. It is enough only for \
             callers that can always retry.",
        )
        .model(|b| cast(Reversed, Fault::TryAndRetry { once: false }, b.actors, true)),
        FAMILY.entry(
            "recursive-read",
            fails(&[NOBODY_WAITS, LOCK_ORDER]),
            "read() holds memory_lock and faults into it again, behind a queued writer",
            "read() holds memory_lock for reading and copies to a page that is itself a mapping of the \
             device. The fault reads memory_lock a second time. A disabler has queued for it in \
             between: the reader waits for the writer, and the writer for the reader.",
        )
        .model(|b| {
            let mut actors = vec![disabler(Disable::Nested)];
            for _ in 0..b.actors {
                let mut reader = reader(false);
                reader.name = format!("read call {}", actors.len());
                actors.push(reader);
            }
            model(actors)
        }),
        FAMILY.entry(
            "copy-outside-lock",
            Holds,
            "read() copies to the user after letting go of memory_lock",
            "As recursive-read, with the copy outside the lock.",
        )
        .model(|b| {
            let mut actors = vec![disabler(Disable::Nested)];
            for _ in 0..b.actors {
                let mut reader = reader(true);
                reader.name = format!("read call {}", actors.len());
                actors.push(reader);
            }
            actors.push(changer());
            model(actors)
        }),
    ]
}

fn later() -> Vec<Variant> {
    use Disable::{AddressSpace, Nested, Pause, PauseWhileOff, Retake};
    let retake = |look_again| Retake { look_again };
    let pause = |at_start| Pause { at_start };
    vec![
        FAMILY.entry(
            "drop-and-retake",
            fails(&[OFF]),
            "between dropping and retaking vma_lock, a fault maps the device again",
            "To zap, the disabler must drop vma_lock for another address space's mmap_sem and take it again. \
             It does not look again at the list of mappings: one was added in between, and the memory \
             goes off under it.",
        )
        .model(move |b| cast(retake(false), Fault::VmaLock, b.actors, true)),
        FAMILY.entry(
            "drop-and-look-again",
            Holds,
            "after retaking vma_lock, look again, and zap again if need be",
            "As drop-and-retake, in a loop that ends only when the list was empty under the lock.",
        )
        .model(move |b| cast(retake(true), Fault::VmaLock, b.actors, true)),
        FAMILY.entry(
            "nested",
            Holds,
            "mmap_sem, vma_lock, memory_lock, in this order on both sides (merged)",
            "memory_lock is taken inside vma_lock, before vma_lock is let go: no fault comes between the zap \
             and the lock, and the order has no cycle.",
        )
        .model(|b| cast(Nested, Fault::Nested, b.actors, true)),
        FAMILY.entry(
            "pause-faults",
            Holds,
            "a flag under vma_lock pauses faults, set at the end of the zap",
            "Faults look at the flag under vma_lock, and wait without it. The disabler sets it before it \
             lets go of vma_lock.",
        )
        .model(move |b| {
            cast(pause(false), Fault::Pause { under_lock: true }, b.actors, true)
        }),
        FAMILY.entry(
            "pause-faults-unlocked",
            fails(&[OFF]),
            "looked at outside vma_lock, the flag comes too late",
            "The fault looks at the flag first and takes vma_lock after. In between the disabler zaps, pauses \
             faults and switches the memory off; then the fault inserts its mapping.",
        )
        .model(move |b| {
            cast(pause(false), Fault::Pause { under_lock: false }, b.actors, true)
        }),
        FAMILY.entry(
            "pause-faults-at-start",
            fails(&[NOBODY_WAITS]),
            "set before the zap takes mmap_sem, the pause makes faults wait with mmap_sem held",
            "It was suggested to pause faults at the start, to save useless work. A paused fault waits with \
             mmap_sem held; an mmap call queues behind it; the disabler queues behind that for the \
             mmap_sem it zaps with. Nobody ends the pause.",
        )
        .model(move |b| {
            cast(pause(true), Fault::Pause { under_lock: true }, b.actors, true)
        }),
        FAMILY.entry(
            "pause-while-off",
            fails(&[NOBODY_WAITS]),
            "a pause as long as the memory is off makes faults wait for the program",
            "The flag shadows the enable bit, so a fault waits, with mmap_sem held, until the program switches \
             the memory on. The program calls mmap first. What was merged answers such a fault with \
             SIGBUS.",
        )
        .model(|b| {
            cast(PauseWhileOff, Fault::Pause { under_lock: true }, b.actors, false)
        }),
        FAMILY.entry(
            "address-space",
            Holds,
            "zap through the device's address space, with no mmap_sem (what replaced the nesting)",
            "The disabler needs only memory_lock and the mapping's own lock; faults hold mmap_sem and wait \
             for memory_lock, and nobody waits the other way round.",
        )
        .model(|b| cast(AddressSpace, Fault::Wait, b.actors, true)),
    ]
}

//! Which disablers and faults meet, and what must come of it.

use super::actors::*;
use super::state::*;
use crate::model::Model;
use crate::search::{LOCK_ORDER, NOBODY_WAITS};
use crate::systems::{Family, System, fails};
use crate::variant::{Expected::Holds, Variant};

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

//! Which programs and drivers meet, and what must come of it.

use super::actors::*;
use super::state::*;
use crate::model::Model;
use crate::search::NOBODY_WAITS;
use crate::systems::{Family, System, bit, fails};
use crate::variant::{Expected, Expected::Holds, Variant};

#[derive(Clone, Copy)]
struct Way {
    gap: Gap,
    pin: Pin,
    /// The driver pins with a lock of its own held.
    locked: bool,
}

fn model(way: Way, drivers: usize) -> Model<Type1> {
    let exclusive = matches!(way.gap, Gap::SuspendsIfDetached { .. });
    let mut actors = vec![program(way.gap, way.pin)];
    if exclusive {
        actors.push(attacher());
    }
    for _ in 0..drivers {
        actors.push(driver(actors.len(), way.pin, way.locked));
    }
    let init = Type1 {
        suspended: false,
        owner: if way.gap == Gap::File {
            Owner::File
        } else {
            Owner::Program
        },
        program_gone: false,
        child_gone: false,
        attached: !exclusive,
        closing: false,
        stop: false,
        pinning: 0,
        waiting: 0,
        woken: 0,
        pinned: 0,
        user_waits: false,
        closed: false,
    };
    Model::new(LOCKS, laws(exclusive), init, actors)
        .leak(|v| (v.pinned != 0).then(|| "pages are still pinned".into()))
        .holdings(|v, actor| {
            let mut held = Vec::new();
            if v.pinned & bit(actor) != 0 {
                held.push("a pinned page".into());
            }
            if v.pinning & bit(actor) != 0 {
                held.push("a pin under way".into());
            }
            held
        })
}

const FAMILY: Family = Family {
    system: "type1",
    kind: "driver thread",
    actors: (3, 5),
};

fn entry(
    name: &'static str,
    expected: Expected,
    statement: &'static str,
    story: &'static str,
    way: Way,
) -> Variant {
    FAMILY
        .entry(name, expected, statement, story)
        .model(move |b| model(way, b.actors))
}

/// The system and its variants.
pub fn system() -> System {
    let mut variants = waiting();
    variants.extend(enough());
    variants.extend(without_waiting());
    System {
        name: "type1",
        title: "S3: a pin waits in the kernel for a program that waits for the pin",
        cycle: "While an address is suspended, a mediated device's pin waits for the program to register \
                it again. The program does something that waits for that pin instead: it closes the \
                device, unmaps, or writes a register.",
        merged: "Mediated devices and suspended addresses exclude each other; the waiting code was removed \
                 (early 2023). Mappings backed by a file came later, in iommufd.",
        variants,
    }
}

fn suspends(user: User, pin: Pin) -> Way {
    Way {
        gap: Gap::Suspends(user),
        pin,
        locked: false,
    }
}

fn waiting() -> Vec<Variant> {
    use User::RegistersOrCloses;
    vec![
        entry(
            "blocking-pin",
            fails(&[NOBODY_WAITS, BOUND]),
            "the pin waits for the program, and the program's close waits for the pin",
            "The program suspends the address and closes the device without registering again. The driver is \
             in a pin that waits for the address; close waits until no pin is under way.",
            suspends(RegistersOrCloses, Pin::Blocks),
        ),
        entry(
            "woken-once",
            fails(&[NOBODY_WAITS, BOUND]),
            "close wakes today's waiters, and a later pin waits again",
            "close marks those who wait and wakes them. Until it has stopped the driver, the driver can begin \
             another pin: that one waits unmarked, and close waits for it.",
            suspends(RegistersOrCloses, Pin::WokenOnce),
        ),
        entry(
            "lasting-flag",
            Holds,
            "a lasting closing mark on the device: later pins fail, so close ends",
            "The mark stays, and pins look at it before they wait. For close alone this is enough.",
            suspends(RegistersOrCloses, Pin::LastingFlag),
        ),
    ]
}

fn enough() -> Vec<Variant> {
    let flag = |user| suspends(user, Pin::LastingFlag);
    vec![
        entry(
            "lasting-flag-unmap",
            fails(&[NOBODY_WAITS, BOUND]),
            "is the mark enough? not for an unmap that waits for the driver to unpin",
            "No close is involved: the program unmaps a range in which the driver holds a page, before it \
             registers the address. The driver would let go of the page after its second pin, which \
             waits for the address.",
            flag(User::Unmaps),
        ),
        entry(
            "lasting-flag-register",
            fails(&[NOBODY_WAITS, BOUND]),
            "nor for a write to the device, if its driver pins with its lock held",
            "The program writes a register of the device first. The driver serves it under the lock that it \
             holds while it pins.",
            Way {
                locked: true,
                ..flag(User::WritesRegister)
            },
        ),
        entry(
            "lasting-flag-other-device",
            fails(&[NOBODY_WAITS, BOUND]),
            "nor for the close of another device with the same driver",
            "The mark is on the device that is being closed; the pin that waits belongs to the other one, and \
             holds the lock they share.",
            Way {
                locked: true,
                ..flag(User::ClosesOther)
            },
        ),
        entry(
            "lasting-flag-stopped",
            fails(&[NOBODY_WAITS]),
            "nor for a program that never comes back",
            "A program that is stopped with the address suspended neither registers nor closes. The kernel's \
             thread waits for as long as it likes.",
            flag(User::MayStop),
        ),
    ]
}

fn without_waiting() -> Vec<Variant> {
    let excludes = |asks_under_lock| Way {
        gap: Gap::SuspendsIfDetached { asks_under_lock },
        pin: Pin::Blocks,
        locked: true,
    };
    let forks = |hands_over_first| Way {
        gap: Gap::Forks { hands_over_first },
        pin: Pin::Blocks,
        locked: true,
    };
    vec![
        entry(
            "failing-pin",
            Holds,
            "a pin of a suspended address fails at once",
            "Nobody waits for the program; the driver has to live with the error, whatever the program does.",
            Way {
                locked: true,
                ..suspends(User::WritesRegister, Pin::Fails)
            },
        ),
        entry(
            "failing-pin-stopped",
            Holds,
            "also if the program never comes back",
            "As lasting-flag-stopped, with pins that fail.",
            suspends(User::MayStop, Pin::Fails),
        ),
        entry(
            "exclusion",
            Holds,
            "suspend is refused while a mediated device is attached, and attach while suspended (merged)",
            "Both look under the same lock. The pin's waiting code is left in the model, and is never reached.",
            excludes(true),
        ),
        entry(
            "exclusion-unlocked",
            fails(&[EXCLUSION]),
            "asked before the lock is taken, the answer is old",
            "suspend finds nothing attached; then a device is attached; then suspend takes the lock.",
            excludes(false),
        ),
        entry(
            "fork",
            Holds,
            "a forked child provides the pages during the gap",
            "The mapping is handed to the child's address space before exec, and taken back after: it never \
             lacks an owner.",
            forks(true),
        ),
        entry(
            "fork-late",
            fails(&[PROVIDER]),
            "handed over after the exec, there is a gap without an owner",
            "The order matters: between exec and the hand-over a pin finds an address space that is gone.",
            forks(false),
        ),
        entry(
            "file",
            Holds,
            "a mapping backed by a file does not need the address at all",
            "Pins take the page from the file, whoever maps it and whether anybody does.",
            Way {
                gap: Gap::File,
                pin: Pin::Blocks,
                locked: true,
            },
        ),
    ]
}

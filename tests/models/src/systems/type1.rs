//! S3: vfio's suspended virtual addresses and mediated devices.
//!
//! A program suspends the virtual address behind a device mapping, replaces itself (exec), and
//! registers an address again. Meanwhile a mediated device's driver may want to pin pages there.

use super::{Family, System, bit, fails, members};
use crate::model::Model;
use crate::program::{Law, Program};
use crate::search::NOBODY_WAITS;
use crate::variant::{Expected, Expected::Holds, Variant};

type Actor = Program<Type1>;

/// The program is always the first column.
const USER: usize = 0;
const IOMMU_LOCK: usize = 0;
const DRIVER_LOCK: usize = 1;
const LOCKS: &[&str] = &["iommu lock", "driver lock"];

/// What a pin does when it finds the address suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pin {
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
enum User {
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
enum Gap {
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
enum Owner {
    Program,
    Child,
    File,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Type1 {
    suspended: bool,
    /// Whose address space provides the pages, and which of them are gone.
    owner: Owner,
    program_gone: bool,
    child_gone: bool,
    /// A mediated device is attached.
    attached: bool,
    /// It is being closed: the lasting mark.
    closing: bool,
    /// Its driver has been told to stop.
    stop: bool,
    /// Driver threads within a pin; those of them that wait for the program; those whose wait
    /// close has ended; those with pages pinned.
    pinning: u8,
    waiting: u8,
    woken: u8,
    pinned: u8,
    /// The program waits for the kernel.
    user_waits: bool,
    closed: bool,
}

const BOUND: &str = "no-wait-for-a-waiter";
const EXCLUSION: &str = "suspended-means-detached";
const PROVIDER: &str = "pins-find-a-page";

fn laws(exclusive: bool) -> Vec<Law<Type1>> {
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

/// The driver of a mediated device: pins two pages one after the other, and lets go of them.
fn driver(me: usize, pin: Pin, locked: bool) -> Actor {
    let mut actor =
        Actor::new(format!("driver {me}")).ask("is the device there?", |v| v.attached, "end");
    for names in [
        ["valid", "suspended", "next"],
        ["valid-2", "suspended-2", "next-2"],
    ] {
        actor = pin_once(actor, me, pin, locked, names);
    }
    actor
        .label("stop")
        .act("lets go of its pages", move |s| s.pinned &= !bit(me))
        .label("end")
}

fn pin_once(
    actor: Actor,
    me: usize,
    pin: Pin,
    locked: bool,
    [valid, suspended, next]: [&'static str; 3],
) -> Actor {
    let waits = move |p: Actor| {
        p.act("joins those who wait for the address", move |s| {
            s.waiting |= bit(me)
        })
        .unlock(IOMMU_LOCK)
        .wait_then(
            "the program to register the address",
            "leaves those who wait for the address",
            move |v| {
                !v.suspended || v.woken & bit(me) != 0 || (pin == Pin::LastingFlag && v.closing)
            },
            |_| vec![USER],
            move |s| s.waiting &= !bit(me),
        )
        .write(IOMMU_LOCK)
        // Woken by a close: this pin fails.
        .ask("is the address valid now?", |v| !v.suspended, next)
        .goto(valid)
    };
    let actor = actor
        .ask("may the driver still pin?", |v| !v.stop, "stop")
        .when(locked, |p| p.write(DRIVER_LOCK))
        .act("begins to pin", move |s| s.pinning |= bit(me))
        .write(IOMMU_LOCK)
        .ask("is the address valid?", |v| !v.suspended, suspended)
        .label(valid)
        .act("pins the page", move |s| {
            let gone = match s.owner {
                Owner::Program => s.program_gone,
                Owner::Child => s.child_gone,
                Owner::File => false,
            };
            if gone {
                s.breaks(PROVIDER);
            }
            s.pinned |= bit(me);
        })
        .goto(next)
        .label(suspended);
    let actor = match pin {
        Pin::Blocks | Pin::WokenOnce => waits(actor),
        Pin::LastingFlag => waits(actor.ask("is the device open?", |v| !v.closing, next)),
        Pin::Fails => actor.act("the pin fails", |_| {}),
    };
    actor
        .label(next)
        .unlock(IOMMU_LOCK)
        .act("ends the pin", move |s| {
            s.pinning &= !bit(me);
            s.woken &= !bit(me);
        })
        .when(locked, |p| p.unlock(DRIVER_LOCK))
}

/// close: what the kernel does then, on the program's thread.
fn close(actor: Actor, pin: Pin) -> Actor {
    match pin {
        Pin::WokenOnce => actor.act("closes the device: wakes those who wait now", |s| {
            s.woken |= s.waiting;
        }),
        Pin::LastingFlag => actor.act("closes the device: marks it as closing", |s| {
            s.closing = true
        }),
        Pin::Blocks | Pin::Fails => actor.act("closes the device", |_| {}),
    }
    .act("tells the driver to stop, waits for it", |s| {
        s.stop = true;
        s.user_waits = true;
    })
    .wait_then(
        "the pins under way",
        "finds no pin under way: the device is closed",
        |v| v.pinning == 0,
        |v| members(v.pinning),
        |s| {
            s.closed = true;
            s.user_waits = false;
        },
    )
}

fn suspend(actor: Actor) -> Actor {
    actor.act("suspends the address", |s| s.suspended = true)
}

fn register(actor: Actor) -> Actor {
    actor
        .write(IOMMU_LOCK)
        .act("registers the address again", |s| s.suspended = false)
        .unlock(IOMMU_LOCK)
}

fn exec(actor: Actor) -> Actor {
    actor.act("execs: its old address space goes", |s| {
        s.program_gone = true
    })
}

/// A call that takes the driver's lock.
fn driver_call(actor: Actor, text: &'static str) -> Actor {
    actor
        .act(text, |s| s.user_waits = true)
        .write(DRIVER_LOCK)
        .act("is served", |s| s.user_waits = false)
        .unlock(DRIVER_LOCK)
}

fn program(gap: Gap, pin: Pin) -> Actor {
    let actor = Actor::new("program");
    match gap {
        Gap::Suspends(user) => {
            let actor = actor.write(IOMMU_LOCK).then(suspend).unlock(IOMMU_LOCK);
            let actor = match user {
                User::RegistersOrCloses => actor
                    .choose(&[("will register again", "register"), ("will not", "close")])
                    .label("register")
                    .then(register)
                    .label("close"),
                User::MayStop => actor
                    .choose(&[
                        ("will register again", "register"),
                        ("stops for good", "stop"),
                    ])
                    .label("register")
                    .then(register),
                User::Unmaps => actor
                    .act("unmaps a range: the driver must unpin", |s| {
                        s.user_waits = true
                    })
                    .wait_then(
                        "the driver to unpin",
                        "finds nothing pinned, and has unmapped",
                        |v| v.pinned == 0,
                        |v| members(v.pinned),
                        |s| s.user_waits = false,
                    )
                    .then(register),
                User::WritesRegister => {
                    register(driver_call(actor, "writes a register of the device"))
                }
                User::ClosesOther => register(driver_call(actor, "closes its other device")),
            };
            close(actor, pin).label("stop")
        }
        Gap::SuspendsIfDetached { asks_under_lock } => {
            let ask = |p: Actor| p.ask("is no mediated device attached?", |v| !v.attached, "busy");
            let actor = if asks_under_lock {
                actor.write(IOMMU_LOCK).then(ask).then(suspend)
            } else {
                let asked = actor.ask("is no mediated device attached?", |v| !v.attached, "end");
                asked.write(IOMMU_LOCK).then(suspend)
            };
            let actor = actor
                .unlock(IOMMU_LOCK)
                .then(register)
                .goto("end")
                .label("busy");
            // EBUSY: the program must do without.
            close(
                actor
                    .when(asks_under_lock, |p| p.unlock(IOMMU_LOCK))
                    .label("end"),
                pin,
            )
        }
        Gap::Forks { hands_over_first } => {
            let hand_over = |p: Actor| {
                p.write(IOMMU_LOCK)
                    .act("gives the mapping to its child", |s| s.owner = Owner::Child)
                    .unlock(IOMMU_LOCK)
            };
            let actor = actor.act("forks: the child has the pages, too", |_| {});
            let actor = if hands_over_first {
                actor.then(hand_over).then(exec)
            } else {
                actor.then(exec).then(hand_over)
            };
            let actor = actor
                .write(IOMMU_LOCK)
                .act("takes the mapping for its new address space", |s| {
                    s.owner = Owner::Program;
                    s.program_gone = false;
                })
                .unlock(IOMMU_LOCK)
                .act("lets the child exit", |s| s.child_gone = true);
            close(actor, pin)
        }
        Gap::File => close(actor.then(exec), pin),
    }
}

/// Another thread of the program attaches a mediated device.
fn attacher() -> Actor {
    Actor::new("attach call")
        .write(IOMMU_LOCK)
        .ask("is every address valid?", |v| !v.suspended, "refuse")
        .act("attaches a mediated device", |s| s.attached = true)
        .label("refuse")
        .unlock(IOMMU_LOCK)
}

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

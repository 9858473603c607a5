//! Who takes part.

use super::state::*;
use crate::program::Program;
use crate::systems::{bit, members};

type Actor = Program<Type1>;

/// The driver of a mediated device: pins two pages one after the other, and lets go of them.
pub fn driver(me: usize, pin: Pin, locked: bool) -> Actor {
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

pub fn program(gap: Gap, pin: Pin) -> Actor {
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
pub fn attacher() -> Actor {
    Actor::new("attach call")
        .write(IOMMU_LOCK)
        .ask("is every address valid?", |v| !v.suspended, "refuse")
        .act("attaches a mediated device", |s| s.attached = true)
        .label("refuse")
        .unlock(IOMMU_LOCK)
}

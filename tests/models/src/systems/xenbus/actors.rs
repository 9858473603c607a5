//! Who takes part.

use super::state::*;
use crate::program::{Program, Step};

pub type Actor = Program<Xenbus>;

/// Registers the device whose nodes are there. A driver that is loaded probes it.
fn register(s: &mut Step<'_, Xenbus>) {
    s.registered = true;
    (s.otherend, s.initialising, s.vanished) = (0, true, false);
}

/// Takes the registered device away. Its driver closes it, and writes Closed, if it does not know better.
fn unregister(s: &mut Step<'_, Xenbus>, marks: bool) {
    if !marks && s.otherend != 0 && s.otherend != s.directory {
        s.breaks(OVER);
        s.reset = false;
    }
    s.registered = false;
}

/// Was the device made anew, as far as can be seen?
fn is_anew(v: &Xenbus, notices: Notices) -> bool {
    let differs = v.otherend != v.directory;
    let number = match notices {
        Notices::Nothing => return false,
        Notices::Number => differs,
        Notices::NumberOnceRead => v.otherend != 0 && differs,
    };
    v.registered && v.reset && (!v.initialising || number)
}

/// The thread that runs every watch's callback, one after the other.
pub fn watch_thread(how: How) -> Actor {
    Actor::new("xenwatch")
        .label("next")
        .rest(
            "waits for an event",
            "takes an event",
            |v| v.events == 0,
            |v| v.events > 0,
            |_| Vec::new(),
            |s| s.events -= 1,
        )
        .write(XENWATCH_MUTEX)
        .ask(
            "was the device made anew?",
            move |v| is_anew(v, how.notices),
            "same",
        )
        .when(how.marks, |p| {
            p.act("marks the device as vanished", |s| s.vanished = true)
        })
        .then(|p| match how.takes {
            Takes::Itself => p
                .write(DEVICE_LOCK)
                .act("unregisters the device", move |s| {
                    unregister(s, how.marks);
                })
                .unlock(DEVICE_LOCK)
                .act("registers the new one", register),
            Takes::Queued => p.act("gives it to the work queue", |s| s.queued = true),
        })
        .label("same")
        .unlock(XENWATCH_MUTEX)
        .goto("next")
}

/// Takes devices away that have vanished, and registers what is there instead.
pub fn work_queue(how: How) -> Actor {
    Actor::new("work queue")
        .label("next")
        .rest(
            "waits for work",
            "begins",
            |v| !v.queued,
            |v| v.queued,
            |_| Vec::new(),
            |s| s.queued = false,
        )
        .write(DEVICE_LOCK)
        .ask("is it still registered?", |v| v.vanished, "done")
        .act("unregisters the device", move |s| unregister(s, how.marks))
        .act("registers the new one", register)
        .label("done")
        .unlock(DEVICE_LOCK)
        .goto("next")
}

/// A module that is loaded, and whose driver finds the device.
pub fn module(name: impl Into<String>, how: How) -> Actor {
    Actor::new(name)
        .write(DEVICE_LOCK)
        .ask(
            "is there a device without a driver?",
            |v| v.registered && v.otherend == 0,
            "none",
        )
        .act("reads who the back end is", |s| s.otherend = s.directory)
        .wait(
            "waits until the back end has a state",
            move |v| !v.vanished || how.probe_ends,
            // Who takes it away.
            move |_| match how.takes {
                Takes::Itself => vec![WATCH_THREAD],
                Takes::Queued => vec![WORK_QUEUE],
            },
        )
        .label("none")
        .unlock(DEVICE_LOCK)
}

/// Announces a ring, when a driver has the device.
pub fn driver() -> Actor {
    Actor::new("driver")
        .write(DEVICE_LOCK)
        .ask(
            "is the device probed, and still there?",
            |v| v.otherend != 0 && !v.vanished,
            "none",
        )
        .act("writes Initialised, if the state is its own", |s| {
            // xenbus_switch_state looks in its transaction.
            if s.directory == s.otherend {
                (s.initialising, s.reset) = (false, false);
            }
        })
        .label("none")
        .unlock(DEVICE_LOCK)
}

/// Makes the device; and makes it again when its back end's domain has crashed.
pub fn toolstack(crashes: bool) -> Actor {
    Actor::new("toolstack")
        .act("touches a node of the new device", |s| s.events += 1)
        .when(crashes, |p| {
            p.act("the domain crashed: makes the device anew", |s| {
                s.directory += 1;
                s.reset = true;
                s.events += 1;
            })
        })
}

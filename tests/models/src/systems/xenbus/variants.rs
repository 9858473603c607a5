//! Which ways of noticing and of taking away meet, and what must come of it.

use super::actors::*;
use super::state::*;
use crate::model::Model;
use crate::search::{NOBODY_WAITS, NOTHING_LEAKS};
use crate::systems::{Family, System, fails};
use crate::variant::{Expected, Expected::Holds, Variant};

fn model(how: How, modules: usize) -> Model<Xenbus> {
    let init = Xenbus {
        directory: 1,
        registered: true,
        reset: true,
        initialising: true,
        ..Xenbus::default()
    };
    let mut actors = vec![watch_thread(how), toolstack(how.crashes)];
    if how.takes == Takes::Queued {
        actors.push(work_queue(how));
    }
    for n in 0..modules {
        actors.push(module(format!("module {}", n + 1), how));
    }
    if how.crashes {
        actors.push(driver());
    }
    Model::new(LOCKS, laws(), init, actors)
        .leak(|v| {
            let forgotten = !v.registered || v.otherend != 0 && v.otherend != v.directory;
            forgotten.then(|| "the new device stays at Initialising: nobody probes it".into())
        })
        .holdings(|_, _| Vec::new())
}

const FAMILY: Family = Family {
    system: "xenbus",
    kind: "module that is loaded",
    actors: (3, 4),
};

fn entry(
    name: &'static str,
    expected: Expected,
    statement: &'static str,
    story: &'static str,
    how: How,
) -> Variant {
    FAMILY
        .entry(name, expected, statement, story)
        .model(move |b| model(how, b.actors))
}

/// As it was merged first.
const FIRST: How = How {
    notices: Notices::Number,
    takes: Takes::Itself,
    marks: true,
    probe_ends: false,
    crashes: false,
};

/// As it is in Linux 7.2.13.
const MENDED: How = How {
    notices: Notices::NumberOnceRead,
    ..FIRST
};

/// The system and its variants.
pub fn system() -> System {
    System {
        name: "xenbus",
        title: "S5: the watch thread waits for a probe that waits for the watch thread",
        cycle: "A module's probe holds the device lock and waits for its back end's state. The watch thread \
                takes a number that the probe has not read yet for another back end's, says that the device \
                has vanished, and waits for the device lock; of a vanished device no state can be read.",
        merged: "The number counts once it has been read (Linux 7.3 and stable kernels, 7.2.13 among them).",
        variants: variants(),
    }
}

fn variants() -> Vec<Variant> {
    let crashes = |how| How {
        crashes: true,
        ..how
    };
    vec![
        entry(
            "notices-nothing",
            fails(&[NOTHING_LEAKS]),
            "a directory that was made again is taken for the device that is known",
            "Before Linux 7.0 the watch thread asked only whether the directory exists. Made again before it \
             looked, the new device is never probed.",
            crashes(How {
                notices: Notices::Nothing,
                ..FIRST
            }),
        ),
        entry(
            "closes-the-new-one",
            fails(&[OVER]),
            "the old device's driver closes, and writes that over the new one's state",
            "The driver's way out ends with the state Closed. The node belongs to the next device by then, \
             which is closed before it was ever connected: so a device that has vanished writes nothing.",
            crashes(How {
                marks: false,
                ..MENDED
            }),
        ),
        entry(
            "number-not-read-yet",
            fails(&[NOBODY_WAITS]),
            "the number that a probe has not read yet is another one: the device is taken away under its probe",
            "Any event of a device that is just being probed shows a back end, where the device knows none yet. \
             The watch thread takes that for another back end. It says that the device has vanished, and \
             waits for the device lock, which the probe holds; the probe waits for a state of its back \
             end, and of a vanished device none is read.",
            FIRST,
        ),
        entry(
            "number-once-read",
            Holds,
            "the number counts only when the probe has read it (merged)",
            "As long as no back end's domain crashes meanwhile, there is nothing to see until the probe is over.",
            MENDED,
        ),
        entry(
            "crash-in-a-probe",
            fails(&[NOBODY_WAITS]),
            "a back end's domain that does crash during a probe closes the same cycle",
            "The number was read, and the next device's is another one, rightly. The probe still holds the \
             device lock and still waits for the state of a back end that its vanished device will never \
             be told.",
            crashes(MENDED),
        ),
        entry(
            "probe-ends",
            Holds,
            "a probe that waits for its back end gives up when its device has vanished",
            "The wait ends, the probe fails, the lock is free, and the watch thread registers the next device.",
            crashes(How {
                probe_ends: true,
                ..MENDED
            }),
        ),
        entry(
            "taken-away-elsewhere",
            fails(&[NOBODY_WAITS]),
            "a work queue that waits for the device lock instead frees the watch thread, but not the probe",
            "All other watches go on. The probe, and whoever loads a module or unplugs the device, stay where \
             they were: what has to end is the wait.",
            crashes(How {
                takes: Takes::Queued,
                ..MENDED
            }),
        ),
        entry(
            "taken-away-elsewhere-probe-ends",
            Holds,
            "both: no watch waits for a probe, and no probe for a device that is no more",
            "As probe-ends; and while a probe is slow, other devices' watches are served.",
            crashes(How {
                takes: Takes::Queued,
                probe_ends: true,
                ..MENDED
            }),
        ),
    ]
}

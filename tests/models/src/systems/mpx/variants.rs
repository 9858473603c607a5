//! Which ways of unmapping meet, and what must come of it.

use super::actors::*;
use super::state::*;
use crate::model::Model;
use crate::search::{LOCK_ORDER, NOBODY_WAITS, NOTHING_LEAKS};
use crate::systems::{Family, System, bit, fails};
use crate::variant::{Expected, Expected::Holds, Variant};

fn init(unmappers: usize) -> Mpx {
    let all = bit(unmappers) - 1;
    Mpx {
        data: all,
        entries: all,
        tables: all,
        ..Mpx::default()
    }
}

fn model(init: Mpx, actors: Vec<Actor>) -> Model<Mpx> {
    Model::new(LOCKS, laws(), init, actors)
        .leak(|v| {
            let orphans = v.tables & !(v.data | v.neighbour);
            (orphans != 0).then(|| "a bounds table is mapped for nothing".into())
        })
        .holdings(|_, _| Vec::new())
}

/// So many munmap calls, a user of the first mapping's place, and somebody else if need be.
fn cast(how: Unmap, unmappers: usize, also: Option<Actor>) -> Vec<Actor> {
    let mut actors: Vec<Actor> = (0..unmappers).map(|me| unmapper(me, how)).collect();
    actors.push(user(0));
    actors.extend(also);
    actors
}

fn entry(
    name: &'static str,
    expected: Expected,
    statement: &'static str,
    story: &'static str,
    how: Unmap,
) -> Variant {
    FAMILY
        .entry(name, expected, statement, story)
        .model(move |b| {
            let other = (how == Unmap::Inside || expected == Holds).then(bounds_fault);
            model(init(b.actors), cast(how, b.actors, other))
        })
}

const FAMILY: Family = Family {
    system: "mpx",
    kind: "munmap call",
    actors: (3, 4),
};

/// The system and its variants.
pub fn system() -> System {
    let mut variants = under_the_lock();
    variants.extend(two_phases());
    variants.extend(the_rest());
    System {
        name: "mpx",
        title: "S4: munmap touches user memory under the lock that a fault needs",
        cycle: "munmap holds mmap_sem for writing and touches the bounds directory, which is user memory. If \
                its page is absent, the fault wants mmap_sem for reading, on the same thread.",
        merged: "Touch the directory with faults disabled, and look the page up explicitly if it is absent, \
                 within munmap (Linux 3.19). MPX itself was removed in 2020 (5.6).",
        variants,
    }
}

fn under_the_lock() -> Vec<Variant> {
    vec![
        entry(
            "fault-under-lock",
            fails(&[NOBODY_WAITS, LOCK_ORDER]),
            "the fault on the directory wants the lock that munmap holds",
            "The directory's page is absent. The fault handler runs on munmap's own thread and waits for \
             mmap_sem, which that thread holds for writing.",
            Unmap::FaultUnderLock,
        ),
        entry(
            "faults-disabled",
            fails(&[NOTHING_LEAKS]),
            "with faults disabled, an absent page means that the table stays for ever",
            "munmap cannot touch the directory, gives up and leaves the table mapped with nothing to cover.",
            Unmap::FaultsDisabled,
        ),
        entry(
            "look-up",
            Holds,
            "faults disabled, and an explicit look-up of the page if it is absent (merged)",
            "The look-up brings the page in with the lock that munmap holds anyway; nothing faults.",
            Unmap::LookUp,
        ),
        entry(
            "bd-sem-inside",
            fails(&[NOBODY_WAITS, LOCK_ORDER, ORDER]),
            "bd_sem taken with mmap_sem held meets a bounds fault that nests them the other way",
            "A bounds fault holds bd_sem and wants mmap_sem for its new table; munmap holds mmap_sem and wants \
             bd_sem.",
            Unmap::Inside,
        ),
    ]
}

fn two_phases() -> Vec<Variant> {
    let marks_only = Phases {
        invalidates_first: false,
        ..PROPOSED
    };
    let dropped = Phases {
        held: false,
        ..PROPOSED
    };
    let recheck = |phases| Phases {
        recheck: true,
        ..phases
    };
    vec![
        entry(
            "two-phases-held",
            Holds,
            "invalidate and mark, unmap, reap, with bd_sem held all along (as proposed)",
            "It was objected that a marked table can be used again before it is reaped. Not if the first phase \
             invalidates the entry and bd_sem is held to the end: the processor finds no entry, and the \
             fault that would make one waits for bd_sem.",
            Unmap::Phases(PROPOSED),
        ),
        entry(
            "two-phases-marks-only",
            fails(&[IN_USE]),
            "the entry stays valid until the reap: the processor uses the table without any fault",
            "If the first phase only marks, a new mapping at the same place finds a valid entry. The processor \
             takes no lock and stores bounds into the table, which is then reaped.",
            Unmap::Phases(marks_only),
        ),
        entry(
            "two-phases-dropped",
            fails(&[IN_USE, TABLE]),
            "bd_sem dropped between the phases: a fault makes the marked table's entry valid again",
            "In the window a new mapping's bounds fault gets bd_sem, finds the old table still mapped, and uses \
             it. The last phase reaps it.",
            Unmap::Phases(dropped),
        ),
        entry(
            "two-phases-recheck",
            Holds,
            "the same, and each table is looked at again before it is reaped",
            "A table whose entry is valid again is wanted, and loses its mark.",
            Unmap::Phases(recheck(dropped)),
        ),
        entry(
            "two-phases-marks-only-recheck",
            Holds,
            "the entry stays valid, and a table is kept if its place is mapped again",
            "As two-phases-marks-only; the last phase looks for a mapping at the table's place, with mmap_sem \
             held for writing, and leaves the table to it.",
            Unmap::Phases(recheck(marks_only)),
        ),
        entry(
            "count-outside-lock",
            fails(&[NOTHING_LEAKS]),
            "the count of marked tables is read without bd_sem: somebody else's mark is lost",
            "One munmap reads the count; another marks its table; the first reaps as many as it counted and \
             sets the count to zero. The second reads zero and reaps nothing.",
            Unmap::Phases(Phases {
                count_inside: false,
                ..recheck(dropped)
            }),
        ),
    ]
}

fn the_rest() -> Vec<Variant> {
    let neighbours = |spares_neighbours| {
        move |b: crate::variant::Bounds| {
            let how = Unmap::Phases(Phases {
                spares_neighbours,
                ..PROPOSED
            });
            let mut start = init(b.actors);
            start.neighbour = bit(0);
            start.used = bit(0);
            model(start, cast(how, b.actors, Some(bounds_fault())))
        }
    };
    vec![
        FAMILY.entry(
            "partly-covered",
            fails(&[IN_USE]),
            "the table also covers a neighbouring mapping, which loses its bounds",
            "Tables cover more than one mapping. Reaping the whole table takes the neighbour's bounds away.",
        )
        .model(neighbours(false)),
        FAMILY.entry(
            "partly-covered-kept",
            Holds,
            "a table that a neighbour uses is not marked",
            "As partly-covered, with a look at the neighbours first.",
        )
        .model(neighbours(true)),
        FAMILY.entry(
            "user-writes-entry",
            fails(&[TABLE, IN_USE]),
            "the directory is user memory: a thread can write the old entry back",
            "Whatever the kernel holds, a thread of the program can store the old value into the directory \
             between the invalidation and the reap. The kernel cannot prevent it, and so must never trust \
             an entry.",
        )
        .model(|b| {
            let how = Unmap::Phases(PROPOSED);
            model(init(b.actors), cast(how, b.actors, Some(scribbler())))
        }),
    ]
}

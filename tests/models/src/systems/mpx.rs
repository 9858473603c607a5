//! S4: MPX's bounds tables, freed at munmap.
//!
//! Each mapping's bounds live in a table in user memory, found through an entry of a directory in
//! user memory. When the mapping goes, its table must go. Touching the directory can fault.

use super::{Family, System, bit, fails};
use crate::model::Model;
use crate::program::{Law, Program, Step};
use crate::search::{LOCK_ORDER, NOBODY_WAITS, NOTHING_LEAKS};
use crate::variant::{Expected, Expected::Holds, Variant};

type Actor = Program<Mpx>;

const BD_SEM: usize = 0;
const MMAP_SEM: usize = 1;
const LOCKS: &[&str] = &["bd_sem", "mmap_sem"];

/// A mapping and its table for each munmap call; masks of them.
type Set = u8;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Mpx {
    /// The directory's page is in memory.
    present: bool,
    /// Mappings that exist.
    data: Set,
    /// Directory entries that are valid.
    entries: Set,
    /// Tables that are mapped.
    tables: Set,
    /// Tables marked for removal, and how many are said to be.
    marked: Set,
    count: u8,
    /// What each munmap call read of the count.
    read: [u8; 8],
    /// Tables with bounds of mappings that nobody is unmapping.
    used: Set,
    /// Of those, the ones with bounds of a neighbouring mapping.
    neighbour: Set,
}

const TABLE: &str = "entry-has-table";
const IN_USE: &str = "used-table-kept";
const ORDER: &str = "bd_sem-outermost";

fn laws() -> Vec<Law<Mpx>> {
    let law = Law::of_steps;
    vec![
        Law {
            key: TABLE,
            says: "a valid directory entry points to a mapped table",
            holds: Some(|v: &Mpx| v.entries & !v.tables == 0),
        },
        law(
            IN_USE,
            "a table that was marked and is used again is not reaped",
        ),
        law(ORDER, "bd_sem is taken before mmap_sem, always"),
    ]
}

/// How munmap gets rid of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unmap {
    /// Touches the directory under mmap_sem held for writing, and faults if it must.
    FaultUnderLock,
    /// The same with faults disabled: an absent page means that the table stays.
    FaultsDisabled,
    /// Faults disabled, and the page looked up explicitly if it is absent (merged).
    LookUp,
    /// Like `LookUp`, with bd_sem taken inside mmap_sem.
    Inside,
    /// Before, unmap, after.
    Phases(Phases),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Phases {
    /// bd_sem is held from the first phase to the last.
    held: bool,
    /// The first phase invalidates the entry; otherwise the last one does.
    invalidates_first: bool,
    /// The last phase looks at each table again before it reaps it.
    recheck: bool,
    /// The count of marked tables is read with bd_sem held.
    count_inside: bool,
    /// The first phase leaves tables alone that a neighbour uses.
    spares_neighbours: bool,
}

/// As it was proposed.
const PROPOSED: Phases = Phases {
    held: true,
    invalidates_first: true,
    recheck: false,
    count_inside: true,
    spares_neighbours: true,
};

fn unmap_table(s: &mut Step<'_, Mpx>, table: usize) {
    if s.used & bit(table) != 0 {
        s.breaks(IN_USE);
    }
    s.tables &= !bit(table);
    s.marked &= !bit(table);
}

/// munmap of mapping `me`, whose table has the same number.
fn unmapper(me: usize, how: Unmap) -> Actor {
    let data_goes = move |p: Actor| p.act("unmaps the data", move |s| s.data &= !bit(me));
    let table_goes = move |p: Actor| {
        p.act("invalidates the entry", move |s| s.entries &= !bit(me))
            .act("unmaps the table", move |s| unmap_table(s, me))
    };
    let look_up = |p: Actor| {
        p.act("looks the page up, which brings it in", |s| {
            s.present = true
        })
    };
    let actor = Actor::new(format!("munmap {me}"));
    match how {
        Unmap::FaultUnderLock => actor
            .write(MMAP_SEM)
            .then(data_goes)
            .ask("is the directory's page present?", |v| v.present, "fault")
            .goto("touch")
            .label("fault")
            // The fault handler, on this very thread.
            .read(MMAP_SEM)
            .act("brings the page in", |s| s.present = true)
            .unlock(MMAP_SEM)
            .label("touch")
            .then(table_goes)
            .unlock(MMAP_SEM),
        Unmap::FaultsDisabled => actor
            .write(MMAP_SEM)
            .then(data_goes)
            .ask("is the directory's page present?", |v| v.present, "absent")
            .then(table_goes)
            .label("absent")
            .unlock(MMAP_SEM),
        Unmap::LookUp => actor
            .write(MMAP_SEM)
            .then(data_goes)
            .then(look_up)
            .then(table_goes)
            .unlock(MMAP_SEM),
        Unmap::Inside => actor
            .write(MMAP_SEM)
            .act("wants bd_sem with mmap_sem held", |s| s.breaks(ORDER))
            .write(BD_SEM)
            .then(data_goes)
            .then(look_up)
            .then(table_goes)
            .unlock(BD_SEM)
            .unlock(MMAP_SEM),
        Unmap::Phases(phases) => phased(actor, me, phases),
    }
}

fn phased(actor: Actor, me: usize, how: Phases) -> Actor {
    let before = actor
        .write(BD_SEM)
        .read(MMAP_SEM)
        .act("touches the directory, faulting if it must", |s| {
            s.present = true
        })
        .act("marks the table", move |s| {
            let spared = how.spares_neighbours && s.neighbour & bit(me) != 0;
            if !spared && s.tables & bit(me) != 0 {
                if how.invalidates_first {
                    s.entries &= !bit(me);
                }
                s.marked |= bit(me);
                s.count += 1;
            }
        })
        .unlock(MMAP_SEM)
        .when(!how.held, |p| p.unlock(BD_SEM));
    let unmapped = before
        .write(MMAP_SEM)
        .act("unmaps the data", move |s| s.data &= !bit(me))
        .unlock(MMAP_SEM);
    let read_count = move |p: Actor| {
        p.act("reads the count of marked tables", move |s| {
            s.read[me] = s.count
        })
        .ask("are there any?", move |v| v.read[me] > 0, "none")
    };
    let inside = how.count_inside;
    unmapped
        .when(inside && !how.held, |p| p.write(BD_SEM))
        .then(read_count)
        .when(!inside, |p| p.write(BD_SEM))
        .write(MMAP_SEM)
        .act("reaps the marked tables", move |s| reap(s, me, how))
        .unlock(MMAP_SEM)
        .when(!inside, |p| p.unlock(BD_SEM))
        .label("none")
        .when(inside, |p| p.unlock(BD_SEM))
}

/// Reaps as many marked tables as were counted.
fn reap(s: &mut Step<'_, Mpx>, me: usize, how: Phases) {
    let mut left = s.read[me];
    for table in 0..8 {
        if left == 0 || s.marked & bit(table) == 0 {
            continue;
        }
        left -= 1;
        // Is it wanted again? Its entry says so, or, if that was left valid, the mapping does.
        let wanted = if how.invalidates_first {
            s.entries
        } else {
            s.data
        };
        if how.recheck && wanted & bit(table) != 0 {
            s.marked &= !bit(table);
            continue;
        }
        if !how.invalidates_first {
            s.entries &= !bit(table);
        }
        unmap_table(s, table);
    }
    s.count = 0;
}

/// A thread that maps new data where the old was, and stores bounds for it.
fn user(table: usize) -> Actor {
    Actor::new(format!("user {table}"))
        .write(MMAP_SEM)
        .ask(
            "is the place free?",
            move |v| v.data & bit(table) == 0,
            "taken",
        )
        .act("maps new data there", move |s| s.data |= bit(table))
        .unlock(MMAP_SEM)
        // What the processor does, without any lock.
        .ask(
            "processor: is the entry valid?",
            move |v| v.entries & bit(table) != 0,
            "fault",
        )
        .act("processor: stores bounds in the table", move |s| {
            s.used |= bit(table)
        })
        .end()
        .label("fault")
        .read(BD_SEM)
        .ask(
            "is there a table already?",
            move |v| v.tables & bit(table) != 0,
            "new",
        )
        .goto("entry")
        .label("new")
        .write(MMAP_SEM)
        .act("maps a new table", move |s| s.tables |= bit(table))
        .unlock(MMAP_SEM)
        .label("entry")
        .act("makes the entry valid; bounds are stored", move |s| {
            s.entries |= bit(table);
            s.used |= bit(table);
        })
        .unlock(BD_SEM)
        .end()
        .label("taken")
        .unlock(MMAP_SEM)
}

/// A thread that writes the old entry back into the directory: it is user memory.
fn scribbler() -> Actor {
    Actor::new("user")
        .ask("is the entry gone?", |v| v.entries & bit(0) == 0, "end")
        .act("writes the old entry back", |s| s.entries |= bit(0))
        .label("end")
}

/// A bounds fault elsewhere: bd_sem, and inside it mmap_sem.
fn bounds_fault() -> Actor {
    Actor::new("bounds fault")
        .read(BD_SEM)
        .write(MMAP_SEM)
        .unlock(MMAP_SEM)
        .unlock(BD_SEM)
}

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

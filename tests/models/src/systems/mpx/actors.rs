//! Who takes part.

use super::state::*;
use crate::program::{Program, Step};
use crate::systems::bit;

pub type Actor = Program<Mpx>;

fn unmap_table(s: &mut Step<'_, Mpx>, table: usize) {
    if s.used & bit(table) != 0 {
        s.breaks(IN_USE);
    }
    s.tables &= !bit(table);
    s.marked &= !bit(table);
}

/// munmap of mapping `me`, whose table has the same number.
pub fn unmapper(me: usize, how: Unmap) -> Actor {
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
pub fn user(table: usize) -> Actor {
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
pub fn scribbler() -> Actor {
    Actor::new("user")
        .ask("is the entry gone?", |v| v.entries & bit(0) == 0, "end")
        .act("writes the old entry back", |s| s.entries |= bit(0))
        .label("end")
}

/// A bounds fault elsewhere: bd_sem, and inside it mmap_sem.
pub fn bounds_fault() -> Actor {
    Actor::new("bounds fault")
        .read(BD_SEM)
        .write(MMAP_SEM)
        .unlock(MMAP_SEM)
        .unlock(BD_SEM)
}

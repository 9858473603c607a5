//! S1: device memory in user mappings, taken back for another use.
//!
//! One page of device memory, mapped by faults, walked by gup-fast without locks, and taken back
//! by its owner, who gives it to somebody else.

use super::{Family, System, bit, fails, members};
use crate::model::Model;
use crate::program::{Law, Program};
use crate::search::NOBODY_WAITS;
use crate::variant::{Expected, Expected::Holds, Variant};

type Actor = Program<P2p>;

/// What the owner does, in this order, before it gives the page away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Do {
    /// Clear the flag that allows new mappings.
    Flag,
    /// Wait for faults that may have read the flag before.
    DrainFaults,
    /// Clear the page-table entry, flush TLBs.
    Zap,
    /// Wait for every lockless walker that has begun.
    Grace,
    /// Wait until nobody has a reference.
    Count,
    /// Take the lock that faults take, and let go of it.
    Lock,
    Unlock,
}
use Do::{Count, DrainFaults, Flag, Grace, Lock, Unlock, Zap};

#[derive(Clone, Copy, Debug)]
struct Way {
    steps: &'static [Do],
    /// The owner keeps a reference of its own, as ZONE_DEVICE pages had: the count of an unused
    /// page is one, and a walker can always take a reference.
    owner_reference: bool,
    /// gup-fast looks at the entry again after it took its reference, and gives it back if the
    /// entry has changed.
    second_look: bool,
    /// gup refuses these mappings (VM_PFNMAP).
    no_gup: bool,
    /// Faults hold the owner's lock from the look at the flag to the new entry.
    fault_lock: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct P2p {
    /// New mappings are allowed.
    active: bool,
    /// The page-table entry.
    entry: bool,
    /// References: the entry's, the walkers', perhaps the owner's.
    count: u8,
    /// Faults between their look at the flag and their end.
    faulting: u8,
    /// Walkers between their beginning and their end.
    walking: u8,
    /// Walkers that began before the grace period did.
    awaited: u8,
    /// Walkers that read the entry while it was there.
    saw: u8,
    /// Walkers that hold a reference.
    got: u8,
    /// A zap has begun; and the walkers under way at that time.
    zapped: bool,
    before_zap: u8,
    /// The page has a new owner.
    reused: bool,
}

const FLAG_FIRST: &str = "flag-first";
const NO_NEW: &str = "no-new-mapping";
const REUSE: &str = "reuse-when-drained";
const STALE_REFERENCE: &str = "no-stale-reference";
const STALE_USE: &str = "no-stale-use";

fn laws() -> Vec<Law<P2p>> {
    let law = Law::of_steps;
    vec![
        law(FLAG_FIRST, "the flag is cleared before the zap"),
        law(NO_NEW, "no new mapping after the zap"),
        law(
            REUSE,
            "reuse only with zero references and after every walker that began before the zap",
        ),
        law(
            STALE_REFERENCE,
            "nobody refers to the page through the old mapping once it has a new owner",
        ),
        law(
            STALE_USE,
            "nobody uses the page through the old mapping once it has a new owner",
        ),
    ]
}

fn fault(me: usize, way: Way) -> Actor {
    let lock = way.fault_lock;
    Actor::new(format!("fault {me}"))
        .when(lock, |p| p.write(0))
        .act("enters the fault handler", move |s| s.faulting |= bit(me))
        .ask("are mappings allowed?", |v| v.active, "out")
        .act("inserts the entry", move |s| {
            if s.zapped {
                s.breaks(NO_NEW);
            }
            if !s.entry {
                s.entry = true;
                s.count += 1;
            }
        })
        .label("out")
        .act("leaves the fault handler", move |s| s.faulting &= !bit(me))
        .when(lock, |p| p.unlock(0))
}

/// gup-fast: reads the entry, takes a reference unless the count is zero, looks again.
fn walker(me: usize, way: Way) -> Actor {
    Actor::new(format!("walker {me}"))
        .act("begins a lockless walk", move |s| s.walking |= bit(me))
        .act("reads the entry", move |s| {
            if s.entry {
                s.saw |= bit(me);
            }
        })
        .ask("was there one?", move |v| v.saw & bit(me) != 0, "out")
        .act("takes a reference, unless the count is zero", move |s| {
            if s.count > 0 {
                s.count += 1;
                s.got |= bit(me);
                if s.reused {
                    s.breaks(STALE_REFERENCE);
                }
            }
        })
        .when(way.second_look, |p| {
            p.ask("is the entry still there?", |v| v.entry, "back")
        })
        .act("ends the walk", move |s| s.walking &= !bit(me))
        .ask(
            "does it have the page?",
            move |v| v.got & bit(me) != 0,
            "done",
        )
        .act("reads and writes the page, lets go of it", move |s| {
            if s.reused {
                s.breaks(STALE_USE);
            }
            s.count = s.count.saturating_sub(1);
            s.got &= !bit(me);
        })
        .goto("done")
        .label("back")
        .act("gives the reference back", move |s| {
            if s.got & bit(me) != 0 {
                s.count = s.count.saturating_sub(1);
                s.got &= !bit(me);
            }
        })
        .label("out")
        .act("ends the walk", move |s| s.walking &= !bit(me))
        .label("done")
}

fn owner(way: Way) -> Actor {
    let idle = u8::from(way.owner_reference);
    let mut actor = Actor::new("owner");
    for step in way.steps {
        actor = match step {
            Flag => actor.act("clears the flag: no new mappings", |s| s.active = false),
            DrainFaults => actor.wait(
                "the faults that may have seen the flag",
                |v| v.faulting == 0,
                |v| members(v.faulting),
            ),
            Zap => actor.act("zaps: the entry goes, TLBs are flushed", |s| {
                if s.active {
                    s.breaks(FLAG_FIRST);
                }
                s.zapped = true;
                s.before_zap = s.walking;
                if s.entry {
                    s.entry = false;
                    s.count = s.count.saturating_sub(1);
                }
            }),
            Grace => actor
                .act("begins a grace period", |s| s.awaited = s.walking)
                .wait(
                    "the walkers that had begun",
                    |v| v.awaited & v.walking == 0,
                    |v| members(v.awaited & v.walking),
                ),
            Count => actor.wait(
                "the references to go",
                move |v| v.count == idle,
                |v| members(v.got),
            ),
            Lock => actor.write(0),
            Unlock => actor.unlock(0),
        };
    }
    actor.act(
        "gives the page to its next owner, who takes a reference",
        move |s| {
            if s.count > idle || s.before_zap & s.walking != 0 {
                s.breaks(REUSE);
            }
            if s.got != 0 || s.entry {
                s.breaks(STALE_REFERENCE);
            }
            s.reused = true;
            s.count += 1;
        },
    )
}

fn model(way: Way, n: usize) -> Model<P2p> {
    let mut actors = vec![owner(way)];
    // Two faults show every race of theirs with the owner; walkers are what there are many of.
    for _ in 0..n.min(2) {
        actors.push(fault(actors.len(), way));
    }
    if !way.no_gup {
        for _ in 0..n {
            actors.push(walker(actors.len(), way));
        }
    }
    let init = P2p {
        active: true,
        entry: true,
        count: 1 + u8::from(way.owner_reference),
        ..P2p::default()
    };
    Model::new(&["owner's lock"], laws(), init, actors).holdings(|v, actor| {
        let mut held = Vec::new();
        if v.got & bit(actor) != 0 {
            held.push("a page reference".into());
        } else if v.saw & v.walking & bit(actor) != 0 {
            held.push("the old entry".into());
        }
        if v.faulting & bit(actor) != 0 {
            held.push("a fault".into());
        }
        held
    })
}

const FAMILY: Family = Family {
    system: "p2pdma",
    kind: "walker",
    actors: (3, 4),
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
    let mut variants = naive();
    variants.extend(sound());
    System {
        name: "p2pdma",
        title: "S1: peer-to-peer memory is used again while a lockless walker still sees it",
        cycle: "No cycle, a race: unmap_mapping_range returns when the entries are gone and the TLBs \
                flushed, but with page tables freed by RCU it does not wait for gup-fast. A walker that \
                read the old entry can take a reference on a page that has a new owner; that the \
                count is not zero proves nothing, since the new owner has raised it.",
        merged: "Pages with reference counts of their own, inserted into the mapping and freed at the last \
                 reference; gup behind a flag (FOLL_PCI_P2PDMA).",
        variants,
    }
}

const BASE: Way = Way {
    steps: &[Flag, DrainFaults, Zap, Grace, Count],
    owner_reference: false,
    second_look: true,
    no_gup: false,
    fault_lock: false,
};

const fn order(steps: &'static [Do]) -> Way {
    Way { steps, ..BASE }
}

fn naive() -> Vec<Variant> {
    vec![
        entry(
            "zap-then-flag",
            fails(&[NO_NEW, FLAG_FIRST, NOBODY_WAITS]),
            "a fault between the zap and the flag maps the page again",
            "The entries go first and the flag is cleared after. A fault in between finds mappings allowed \
             and inserts a new entry, which nobody takes away: the owner waits for its reference for \
             ever.",
            order(&[Zap, Flag, DrainFaults, Grace, Count]),
        ),
        entry(
            "flag-not-drained",
            fails(&[NO_NEW, NOBODY_WAITS, REUSE, STALE_REFERENCE, STALE_USE]),
            "a fault that read the flag before it was cleared inserts its entry after the zap",
            "The flag is cleared before the zap, as it should be, but a fault already looked at it. The flag \
             alone is no barrier: the faults that may have seen it must be waited for, or share a \
             lock with the owner.",
            order(&[Flag, Zap, Grace, Count]),
        ),
        entry(
            "reuse-when-zap-returns",
            fails(&[STALE_USE, STALE_REFERENCE, REUSE]),
            "the zap has returned, and a walker still holds the page",
            "The owner takes the return of unmap_mapping_range for the end. A walker took its reference \
             before, and now writes into the next owner's page.",
            order(&[Flag, DrainFaults, Zap]),
        ),
        entry(
            "reuse-at-zero",
            fails(&[STALE_REFERENCE, REUSE]),
            "the count is zero, but a walker has read the entry and takes its reference after the reuse",
            "The walker read the entry before the zap and was delayed. The count fell to zero, the page got a \
             new owner, the count rose: now the walker's reference succeeds, on somebody else's page.",
            order(&[Flag, DrainFaults, Zap, Count]),
        ),
        entry(
            "grace-without-count",
            fails(&[STALE_USE, STALE_REFERENCE, REUSE]),
            "every walk has ended, but what the walkers took away lasts longer",
            "A grace period waits for walks, not for the references that they got.",
            order(&[Flag, DrainFaults, Zap, Grace]),
        ),
        entry(
            "zero-then-grace-one-look",
            fails(&[STALE_USE, STALE_REFERENCE, REUSE]),
            "count first, grace period after: wrong if a walk can end with a reference it took late",
            "The owner keeps a reference, as ZONE_DEVICE pages had, so a walker's reference always succeeds, \
             also between the look at the count and the end of the grace period; and this walker does \
             not look at the entry again. It takes a reference along that nobody counts any more.",
            Way {
                owner_reference: true,
                second_look: false,
                ..order(&[Flag, DrainFaults, Zap, Count, Grace])
            },
        ),
        entry(
            "gup-under-object-lock",
            fails(&[STALE_USE, STALE_REFERENCE, REUSE]),
            "a lock shared with the fault handler does not stop gup-fast",
            "Graphics drivers hold the object's lock over the unmap, and their faults take it. With mappings \
             that gup can use (VM_MIXEDMAP), a walker does not ask for that lock.",
            Way {
                fault_lock: true,
                ..order(&[Lock, Flag, Zap, Unlock])
            },
        ),
    ]
}

fn sound() -> Vec<Variant> {
    vec![
        entry(
            "flag-zap-grace-count",
            Holds,
            "flag, zap, grace period, zero references, reuse",
            "Stop new mappings, take the old ones away, let the walkers end, let the references go.",
            BASE,
        ),
        entry(
            "flag-zap-grace-count-owned",
            Holds,
            "the same, where the unused page's count is one",
            "After the grace period nobody can take a new reference, so one means unused.",
            Way {
                owner_reference: true,
                ..BASE
            },
        ),
        entry(
            "zero-then-grace",
            Holds,
            "the other order is safe, too, where zero stays zero",
            "A walker cannot take a reference on a count of zero, so with no owner's reference the count \
             stays there during the grace period.",
            order(&[Flag, DrainFaults, Zap, Count, Grace]),
        ),
        entry(
            "zero-then-grace-owned",
            Holds,
            "and where it does not, gup-fast's second look at the entry makes up for it",
            "As zero-then-grace-one-look, with the walker as it is: a reference taken after the zap is given \
             back before the walk ends.",
            Way {
                owner_reference: true,
                ..order(&[Flag, DrainFaults, Zap, Count, Grace])
            },
        ),
        entry(
            "grace-then-zero-one-look",
            Holds,
            "grace period first, count after: right even for walkers that look only once",
            "Whatever reference a walker took, the count still shows it. This order needs no second look.",
            Way {
                owner_reference: true,
                second_look: false,
                ..BASE
            },
        ),
        entry(
            "pfnmap-object-lock",
            Holds,
            "gup is forbidden, and the fault handler shares the owner's lock",
            "As graphics drivers do it (VM_PFNMAP): there are no walkers, and faults wait for the lock.",
            Way {
                fault_lock: true,
                no_gup: true,
                ..order(&[Lock, Flag, Zap, Unlock])
            },
        ),
    ]
}

//! What all variants have: who is on stage, and what must be over in the end.

use super::actors::*;
use super::state::*;
use crate::model::Model;
use crate::program::Program;
use crate::systems::Family;

pub(super) const FAMILY: Family = Family {
    system: "gntdev",
    kind: "pinner",
    actors: (3, 4),
};

pub(super) fn model(init: Gntdev, actors: Vec<Program<Gntdev>>) -> Model<Gntdev> {
    let names: Vec<String> = actors.iter().map(|a| a.name.clone()).collect();
    Model::new(LOCKS, laws(), init, actors)
        .leak(left_over)
        .holdings(move |v, actor| {
            let mut held = Vec::new();
            for page in 0..PAGES {
                if v.pins[actor] & (1 << page) != 0 {
                    held.push(format!("page {page}"));
                }
            }
            if names[actor].starts_with("mapper") && v.rounds > 0 && actor == MAPPER {
                held.push("odd sequence".into());
            }
            held
        })
}

fn left_over(v: &Gntdev) -> Option<String> {
    if v.granted != 0 {
        Some("grants are still mapped".into())
    } else if v.pending() != 0 {
        Some("an unmap is still queued".into())
    } else if v.pinned() != 0 {
        Some("pages are still referenced".into())
    } else if !v.freed {
        Some("the map was never freed".into())
    } else {
        None
    }
}

/// The mapper, so many pinners, the work queue, the granter.
pub(super) fn cast(
    mapper: Program<Gntdev>,
    pinners: usize,
    lets_go: LetsGo,
    way: Way,
    trusts: Trusts,
) -> Vec<Program<Gntdev>> {
    let mut actors = vec![mapper, granter(trusts)];
    for i in 0..pinners {
        // The first page first: one held page holds its whole run.
        actors.push(pinner(2 + i, 1 << (i % PAGES), lets_go));
    }
    if !way.sync {
        actors.push(work_queue(way, usize::MAX));
    }
    actors
}

pub(super) fn usual(mapper: Program<Gntdev>, pinners: usize, way: Way) -> Model<Gntdev> {
    let actors = cast(mapper, pinners, LetsGo::SequenceEven, way, Trusts::Event);
    model(Gntdev::mapped(), actors)
}

//! Bad references among good ones: the whole batch is refused, the bad ones are named, nothing of
//! it stays mapped, and the good ones can be mapped afterwards.

use super::stage::Stage;
use super::{Judge, Scenario, grants};
use crate::role::{GranterTask, MapperTask, Role};
use libgnt::DomId;
use libgnt::inspect::Inspection;
use libgnt::types::{ForeignGrant, GrantRef};
use pv_harness::processes::{Order, Stopped};
use pv_judges::checks::{Check, Evidence, ledgers_are_empty};
use std::collections::BTreeSet;

const PAGES: usize = 24;

pub struct PartialMap;

impl Scenario for PartialMap {
    fn name(&self) -> &'static str {
        "partial-map"
    }

    fn summary(&self) -> &'static str {
        "bad references among good ones: all bad ones named, nothing left mapped, the good ones usable"
    }

    fn uses_input(&self) -> bool {
        false
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        stage.start_host()?;
        let front = stage.front();
        let task = GranterTask {
            peer: stage.back().0,
            other: stage.other().0,
            pages: PAGES,
            read_only: 2,
            elsewhere: 2,
            ..GranterTask::default()
        };
        let granter = stage.spawn("granter", front, Role::Granter(task))?;
        let good = grants(front, &stage.await_fact(granter, "good")?);
        // Never granted, granted to somebody else, granted read-only, of a domain that is not.
        let mut bad = grants(front, &stage.await_fact(granter, "read-only")?);
        bad.extend(grants(front, &stage.await_fact(granter, "elsewhere")?));
        let mut rng = fastrand::Rng::with_seed(stage.settings.seed);
        let grant = |domid, gref| ForeignGrant {
            domid,
            gref: GrantRef(gref),
        };
        bad.push(grant(front, rng.u32(20_000..30_000)));
        bad.push(grant(DomId(rng.u16(100..1000)), rng.u32(8..100)));
        let task = MapperTask {
            good: good.clone(),
            bad: bad.clone(),
            seed: stage.settings.seed,
            ..MapperTask::default()
        };
        let mapper = stage.spawn("mapper", stage.back(), Role::Mapper(task))?;
        let bad: Vec<String> = bad
            .iter()
            .map(|grant| format!("{}:{}", grant.domid.0, grant.gref.0))
            .collect();
        let named = stage.await_fact(mapper, "named")?;
        let in_ledger = stage.await_fact(mapper, "left in the ledger")?;
        let state = stage.inspect()?;
        stage.processes.order(mapper, &Order::Go)?;
        let usable = stage.await_fact(mapper, "pages as granted")?;
        let mapped = stage.inspect()?;
        stage.processes.order(mapper, &Order::Go)?;
        stage.await_end(mapper)?;
        stage.stop(granter)?;
        stage.figure("grants", format!("{} good, {} bad", good.len(), bad.len()));
        Ok(Box::new(move |evidence: &Evidence| {
            vec![
                all_are_named(&bad, &named),
                nothing_stays_mapped(&in_ledger, &state),
                good_ones_work(&usable, &mapped),
                ledgers_are_empty(evidence),
            ]
        }))
    }
}

fn all_are_named(bad: &[String], named: &str) -> Check {
    const NAME: &str = "the bad references, and only they, are named";
    let bad: BTreeSet<&str> = bad.iter().map(String::as_str).collect();
    let named: BTreeSet<&str> = named.split(',').collect();
    if bad == named {
        Check::pass(NAME, format!("{} of them", bad.len()))
    } else {
        Check::fail(NAME, format!("named {named:?}, bad are {bad:?}"))
    }
}

fn nothing_stays_mapped(in_ledger: &str, state: &Inspection) -> Check {
    const NAME: &str = "nothing of the refused batch stays mapped";
    let mut left: Vec<String> = state
        .grants
        .iter()
        .filter(|grant| grant.maps > 0)
        .map(|grant| format!("the host shows {} mapped", grant.grant))
        .collect();
    if in_ledger != "0" {
        left.push(format!("{in_ledger} entries in the mapper's ledger"));
    }
    Check::none(
        NAME,
        left,
        format!("{} grants offered, none in use", state.grants.len()),
    )
}

fn good_ones_work(usable: &str, state: &Inspection) -> Check {
    const NAME: &str = "the good references can be mapped afterwards";
    let mapped = state.grants.iter().filter(|grant| grant.maps > 0).count();
    if usable == PAGES.to_string() && mapped == PAGES {
        Check::pass(NAME, format!("{PAGES} pages, with the granter's data"))
    } else {
        Check::fail(
            NAME,
            format!("{mapped} of {PAGES} mapped, {usable} with the granter's data"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::stage::FRONT;
    use libgnt::inspect::GrantState;
    use libgnt::types::Access;

    fn with(maps: &[u32]) -> Inspection {
        let grant = |maps: &u32| GrantState {
            grant: ForeignGrant {
                domid: FRONT,
                gref: GrantRef(9),
            },
            peer: DomId::DOM0,
            access: Access::ReadWrite,
            maps: *maps,
            ending: false,
        };
        Inspection {
            grants: maps.iter().map(grant).collect(),
            ..Inspection::default()
        }
    }

    #[test]
    fn a_reference_named_wrongly_or_not_at_all_is_seen() {
        let bad = ["1:7".to_owned(), "1:8".to_owned()];
        assert!(all_are_named(&bad, "1:8,1:7").passed);
        assert!(!all_are_named(&bad, "1:7").passed);
        assert!(!all_are_named(&bad, "1:7,1:8,1:9").passed);
        assert!(!all_are_named(&bad, "mapped").passed);
    }

    #[test]
    fn a_page_left_mapped_is_seen() {
        assert!(nothing_stays_mapped("0", &with(&[0, 0])).passed);
        assert!(!nothing_stays_mapped("0", &with(&[0, 1])).passed);
        assert!(!nothing_stays_mapped("1", &with(&[0])).passed);
    }

    #[test]
    fn good_ones_that_do_not_map_or_hold_other_data_are_seen() {
        assert!(good_ones_work("24", &with(&[1; PAGES])).passed);
        assert!(!good_ones_work("24", &with(&[1; PAGES - 1])).passed);
        assert!(!good_ones_work("23", &with(&[1; PAGES])).passed);
    }
}

//! Bad references among good ones: the whole batch is refused, the bad ones are named, nothing of
//! it stays mapped, and the good ones can be mapped afterwards.

use super::stage::Stage;
use super::{Judge, Scenario};
use libgnt::inspect::Inspection;
use libgnt::{Access, DomId, ForeignGrant, GrantRef};
use pv_harness::hand::{Answer, Order};
use pv_harness::processes::Stopped;
use pv_judges::checks::{Check, Evidence, ledgers_are_empty};
use std::collections::BTreeSet;
use std::time::Duration;

const PAGES: usize = 24;
/// How long the release of the good ones may take.
const PATIENCE: Duration = Duration::from_secs(20);

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
        let (front, back, other) = (stage.front(), stage.back(), stage.other());
        let granter = stage.spawn_hand("granter", front)?;
        let mut share = |to, pages, access| -> Result<Vec<ForeignGrant>, Stopped> {
            let mut hand = stage.hand(granter);
            let (share, grefs) = hand.share(to, pages, access)?;
            hand.stamp(share)?;
            Ok(grefs.into_iter().map(|gref| grant(front, gref)).collect())
        };
        let good = share(back, PAGES, Access::ReadWrite)?;
        // Never granted, granted to somebody else, granted read-only, of a domain that is not.
        let mut bad = share(back, 2, Access::ReadOnly)?;
        bad.extend(share(other, 2, Access::ReadWrite)?);
        let mut rng = fastrand::Rng::with_seed(stage.settings.seed);
        bad.push(grant(front, GrantRef(rng.u32(20_000..30_000))));
        bad.push(grant(DomId(rng.u16(100..1000)), GrantRef(rng.u32(8..100))));

        let mapper = stage.spawn_hand("mapper", back)?;
        let mut mixed = [&good[..], &bad].concat();
        fastrand::Rng::with_seed(stage.settings.seed).shuffle(&mut mixed);
        let all = Order::Map {
            grants: mixed,
            access: Access::ReadWrite,
        };
        let mapped_all = stage.hand(mapper).ask(&all)?;
        let in_ledger = stage.hand(mapper).ledger()?;
        let state = stage.inspect()?;
        let map = stage.hand(mapper).map(good.clone(), Access::ReadWrite)?;
        let usable = stage.hand(mapper).count_stamped(map)?;
        let mapped = stage.inspect()?;
        stage.hand(mapper).unmap(map)?;
        stage.hand(mapper).await_release(map, PATIENCE)?;
        stage.stop(mapper)?;
        stage.stop(granter)?;
        stage.figure("grants", format!("{} good, {} bad", good.len(), bad.len()));
        Ok(Box::new(move |evidence: &Evidence| {
            vec![
                all_are_named(&bad, &mapped_all),
                nothing_stays_mapped(in_ledger.len(), &state),
                good_ones_work(usable, &mapped),
                ledgers_are_empty(evidence),
            ]
        }))
    }
}

fn grant(domid: DomId, gref: GrantRef) -> ForeignGrant {
    ForeignGrant { domid, gref }
}

fn all_are_named(bad: &[ForeignGrant], answer: &Answer) -> Check {
    const NAME: &str = "the bad references, and only they, are named";
    let refusal = match answer {
        Answer::Refused(refusal) => refusal,
        other => return Check::fail(NAME, format!("the answer is {other:?}")),
    };
    let bad: BTreeSet<ForeignGrant> = bad.iter().copied().collect();
    let named: BTreeSet<ForeignGrant> = refusal.bad.iter().map(|bad| bad.grant).collect();
    if bad == named {
        Check::pass(NAME, format!("{} of them", bad.len()))
    } else {
        Check::fail(
            NAME,
            format!("named {named:?}, bad are {bad:?} ({refusal})"),
        )
    }
}

fn nothing_stays_mapped(in_ledger: usize, state: &Inspection) -> Check {
    const NAME: &str = "nothing of the refused batch stays mapped";
    let mut left: Vec<String> = state
        .grants
        .iter()
        .filter(|grant| grant.maps > 0)
        .map(|grant| format!("the host shows {} mapped", grant.grant))
        .collect();
    if in_ledger > 0 {
        left.push(format!("{in_ledger} entries in the mapper's ledger"));
    }
    Check::none(
        NAME,
        left,
        format!("{} grants offered, none in use", state.grants.len()),
    )
}

fn good_ones_work(usable: usize, state: &Inspection) -> Check {
    const NAME: &str = "the good references can be mapped afterwards";
    let mapped = state.grants.iter().filter(|grant| grant.maps > 0).count();
    if usable == PAGES && mapped == PAGES {
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
    use pv_harness::hand::{Bad, MapId, Refusal};

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
        let of = |gref: &u32| grant(FRONT, GrantRef(*gref));
        let naming = |grefs: &[u32]| {
            let bad = grefs.iter().map(|gref| Bad {
                grant: of(gref),
                status: None,
            });
            Answer::Refused(Refusal {
                bad: bad.collect(),
                ..Refusal::because("cannot map")
            })
        };
        let bad = [of(&7), of(&8)];
        assert!(all_are_named(&bad, &naming(&[8, 7])).passed);
        assert!(!all_are_named(&bad, &naming(&[7])).passed);
        assert!(!all_are_named(&bad, &naming(&[7, 8, 9])).passed);
        assert!(!all_are_named(&bad, &Answer::Mapped(MapId::from(0))).passed);
    }

    #[test]
    fn a_page_left_mapped_is_seen() {
        assert!(nothing_stays_mapped(0, &with(&[0, 0])).passed);
        assert!(!nothing_stays_mapped(0, &with(&[0, 1])).passed);
        assert!(!nothing_stays_mapped(1, &with(&[0])).passed);
    }

    #[test]
    fn good_ones_that_do_not_map_or_hold_other_data_are_seen() {
        assert!(good_ones_work(24, &with(&[1; PAGES])).passed);
        assert!(!good_ones_work(24, &with(&[1; PAGES - 1])).passed);
        assert!(!good_ones_work(23, &with(&[1; PAGES])).passed);
    }
}

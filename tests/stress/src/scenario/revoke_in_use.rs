//! The granter ends access while its peer maps: refused, nothing reused, and freed when the peer's
//! event says that it has let go.

use super::stage::{FRONT, Stage, failed};
use super::{Judge, Scenario};
use libgnt::{Access, DomId, ForeignGrant, GrantRef, PAGE_SIZE};
use pv_harness::hand::{Ending, Order, Pages};
use pv_harness::processes::Stopped;
use pv_judges::checks::{Check, Evidence, ledgers_are_empty};
use std::time::Duration;

const PAGES: usize = 8;
/// Of the pages that are to be revoked.
const LAST_BYTE: usize = PAGES * PAGE_SIZE - 1;
/// How long the peer's release may take to be told.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct RevokeInUse;

/// What the two processes saw.
struct Facts {
    granted: Vec<GrantRef>,
    first_end: Ending,
    reused: usize,
    data_after: usize,
    notify_byte: u8,
    second_end: Ending,
}

impl Scenario for RevokeInUse {
    fn name(&self) -> &'static str {
        "revoke-in-use"
    }

    fn summary(&self) -> &'static str {
        "the granter ends access while its peer maps: refused, not reused, freed after the peer's event"
    }

    fn only_simulated(&self) -> Option<&'static str> {
        Some("a real kernel does not tell a granter whether its peer still maps")
    }

    fn uses_input(&self) -> bool {
        false
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        stage.start_host()?;
        let back = stage.back();
        let granter = stage.spawn_hand("granter", FRONT)?;
        let mut hand = stage.hand(granter);
        let port = hand.bind(&Order::BindUnbound(back))?;
        let (share, granted) = hand.share(back, PAGES, Access::ReadWrite)?;
        hand.stamp(share)?;
        let (abandoned, others) = hand.share(back, PAGES, Access::ReadWrite)?;
        hand.stamp(abandoned)?;
        let mine = [&granted[..], &others].concat();

        let mapper = stage.spawn_hand("mapper", back)?;
        let mut hand = stage.hand(mapper);
        let event = hand.bind(&Order::BindInterdomain(FRONT, port))?;
        let domid = FRONT;
        let grants = mine.iter().map(|&gref| ForeignGrant { domid, gref });
        let map = hand.map(grants.collect(), Access::ReadWrite)?;
        hand.done(&Order::Arm {
            at: Pages::Map(map).at(LAST_BYTE),
            clear_byte: true,
            event: Some(event),
        })?;

        // While the peer maps the pages, ending access must be refused.
        let mut hand = stage.hand(granter);
        let first_end = hand.end_access(share)?;
        // Dropping never fails, whoever maps: what is still mapped waits in the kernel.
        hand.drop_pages(Pages::Share(abandoned))?;
        // Other pages meanwhile must be others.
        let (other, fresh) = hand.share(DomId::DOM0, mine.len(), Access::ReadWrite)?;
        hand.done(&Order::Fill(Pages::Share(other), 0xee))?;
        let reused = fresh.iter().filter(|gref| mine.contains(gref)).count();

        let mut hand = stage.hand(mapper);
        let data_after = hand.count_stamped(map)?;
        hand.unmap(map)?;

        // After the peer's event access ends for good.
        let mut hand = stage.hand(granter);
        if hand.hear(PATIENCE)?.is_empty() {
            return Err(failed("waiting for the peer's event")("none came"));
        }
        let notify_byte = hand.read(Pages::Share(share).at(LAST_BYTE), 1)?;
        let second_end = hand.end_access(share)?;
        match hand.end_access(other)? {
            Ending::Ended => {}
            end => {
                return Err(failed("ending access to what nobody mapped")(format!(
                    "{end:?}"
                )));
            }
        }
        // With the granter's channel armed, the granter is who got the event: the mapper's own ledger
        // does not learn of its release.
        stage.processes.stop(mapper)?;
        stage.stop(granter)?;
        let facts = Facts {
            granted,
            first_end,
            reused,
            data_after,
            notify_byte: notify_byte.first().copied().unwrap_or(u8::MAX),
            second_end,
        };
        Ok(Box::new(move |evidence: &Evidence| {
            let mut checks = judge(&facts);
            checks.push(ledgers_are_empty(evidence));
            checks
        }))
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(name: &str, found: &T, wanted: &T, held: &str) -> Check {
    if found == wanted {
        Check::pass(name, held)
    } else {
        Check::fail(name, format!("found {found:?}, wanted {wanted:?}"))
    }
}

fn judge(facts: &Facts) -> Vec<Check> {
    vec![
        expect(
            "ending access is refused while the peer maps, naming what it maps",
            &facts.first_end,
            &Ending::InUse(facts.granted.clone()),
            &format!("{PAGES} references"),
        ),
        expect(
            "no reference is given out again meanwhile",
            &facts.reused,
            &0,
            "other pages got other references",
        ),
        expect(
            "the peer's pages keep their data",
            &facts.data_after,
            &(2 * PAGES),
            "although it dropped some of them and filled others",
        ),
        expect(
            "the notify byte says that the unmap began",
            &facts.notify_byte,
            &0,
            "cleared",
        ),
        expect(
            "after the peer's event access ends for good",
            &facts.second_end,
            &Ending::Ended,
            "pages and references are free",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            granted: vec![GrantRef(8), GrantRef(9)],
            first_end: Ending::InUse(vec![GrantRef(8), GrantRef(9)]),
            reused: 0,
            data_after: 2 * PAGES,
            notify_byte: 0,
            second_end: Ending::Ended,
        }
    }

    #[test]
    fn each_fact_has_its_judge() {
        assert!(judge(&good()).iter().all(|check| check.passed));
        let spoil: [fn(&mut Facts); 5] = [
            |f| f.first_end = Ending::Ended,
            |f| f.reused = 1,
            |f| f.data_after = 7,
            |f| f.notify_byte = 31,
            |f| f.second_end = Ending::InUse(vec![GrantRef(8)]),
        ];
        for (at, spoil) in spoil.into_iter().enumerate() {
            let mut facts = good();
            spoil(&mut facts);
            let failed: Vec<usize> = judge(&facts)
                .iter()
                .enumerate()
                .filter(|(_, check)| !check.passed)
                .map(|(n, _)| n)
                .collect();
            assert_eq!(failed, [at]);
        }
    }
}

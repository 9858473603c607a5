//! The granter ends access while its peer maps: refused, nothing reused, and freed when the peer's
//! event says that it has let go.

use super::stage::{FRONT, Stage};
use super::{Judge, Scenario};
use libgnt::PAGE_SIZE;
use pv_harness::processes::{Order, Stopped};
use pv_judges::checks::{Check, Evidence, ledgers_are_empty};

const PAGES: usize = 8;

pub struct RevokeInUse;

/// What the two processes told.
struct Facts {
    granted: String,
    refused: String,
    reused: String,
    data_after: String,
    notify_byte: String,
    ended: String,
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
        let pages = PAGES.to_string();
        let args = ["--pages", &pages, "--abandoned", &pages, "--revoke"].map(Into::into);
        let granter = stage.spawn("granter", "granter", FRONT, args)?;
        let granted = stage.await_fact(granter, "good")?;
        let abandoned = stage.await_fact(granter, "abandoned")?;
        let port = stage.await_fact(granter, "port")?;
        let grants: Vec<String> = [&granted[..], &abandoned]
            .iter()
            .flat_map(|grefs| grefs.split(','))
            .map(|gref| format!("{}:{gref}", FRONT.0))
            .collect();
        // The last byte of the pages that are to be revoked.
        let byte = (PAGES * PAGE_SIZE - 1).to_string();
        let args = [
            "--good",
            &grants.join(","),
            "--port",
            &port,
            "--notify-byte",
            &byte,
        ];
        let args = args.map(Into::into);
        let mapper = stage.spawn("mapper", "mapper", stage.back(), args)?;
        stage.await_fact(mapper, "pages as granted")?;
        stage.processes.order(granter, &Order::Go)?;
        let refused = stage.await_fact(granter, "refused")?;
        let reused = stage.await_fact(granter, "reused references")?;
        stage.processes.order(mapper, &Order::Go)?;
        let data_after = stage.await_fact(mapper, "pages as granted")?;
        let notify_byte = stage.await_fact(granter, "notify byte")?;
        let ended = stage.await_fact(granter, "ended")?;
        stage.processes.await_exit(mapper)?;
        stage.stop(granter)?;
        let facts = Facts {
            granted,
            refused,
            reused,
            data_after,
            notify_byte,
            ended,
        };
        Ok(Box::new(move |evidence: &Evidence| {
            let mut checks = judge(&facts);
            checks.push(ledgers_are_empty(evidence));
            checks
        }))
    }
}

fn judge(facts: &Facts) -> Vec<Check> {
    let expect = |name: &str, found: &str, wanted: &str, held: &str| {
        if found == wanted {
            Check::pass(name, held)
        } else {
            Check::fail(name, format!("found {found:?}, wanted {wanted:?}"))
        }
    };
    vec![
        expect(
            "ending access is refused while the peer maps, naming what it maps",
            &facts.refused,
            &facts.granted,
            &format!("{PAGES} references"),
        ),
        expect(
            "no reference is given out again meanwhile",
            &facts.reused,
            "0",
            "other pages got other references",
        ),
        expect(
            "the peer's pages keep their data",
            &facts.data_after,
            &(2 * PAGES).to_string(),
            "although it dropped some of them and filled others",
        ),
        expect(
            "the notify byte says that the unmap began",
            &facts.notify_byte,
            "0",
            "cleared",
        ),
        expect(
            "after the peer's event access ends for good",
            &facts.ended,
            "ended",
            "pages and references are free",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            granted: "8,9".into(),
            refused: "8,9".into(),
            reused: "0".into(),
            data_after: (2 * PAGES).to_string(),
            notify_byte: "0".into(),
            ended: "ended".into(),
        }
    }

    #[test]
    fn each_fact_has_its_judge() {
        assert!(judge(&good()).iter().all(|check| check.passed));
        let spoil: [fn(&mut Facts); 5] = [
            |f| f.refused = "no: Ended".into(),
            |f| f.reused = "1".into(),
            |f| f.data_after = "7".into(),
            |f| f.notify_byte = "31".into(),
            |f| f.ended = "InUse".into(),
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

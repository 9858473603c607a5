//! Deadlocks: none where none may be; one, and the right one, in the negative control.

use super::{Check, Evidence};
use crate::waits::Monitor;
use libgnt::inspect::{Deadlock, WaitEdge};
use pv_harness::settings::Unmap;

/// The host found no wait-for cycle.
pub fn no_deadlock(evidence: &Evidence) -> Check {
    const NAME: &str = "no deadlock";
    let found = evidence
        .deadlocks()
        .map(|deadlock| {
            let edges: Vec<String> = deadlock.edges.iter().map(ToString::to_string).collect();
            format!(
                "deadlock {} ms after the host began: {}",
                deadlock.at_ms,
                edges.join("; ")
            )
        })
        .collect();
    Check::none(NAME, found, "the host saw no cycle")
}

/// Nobody could have waited in a cycle, whatever the timing: the order of waits, as in lockdep,
/// has none.
pub fn no_possible_cycle(evidence: &Evidence, unmap: Unmap) -> Check {
    const NAME: &str = "no order of waits that could deadlock";
    let mut monitor = Monitor::default();
    monitor.learn(&evidence.records, unmap);
    let found = (monitor.cycles().iter())
        .map(|cycle| {
            let said: Vec<String> = cycle.iter().map(ToString::to_string).collect();
            said.join("; ")
        })
        .collect();
    Check::none(NAME, found, "what was held while waiting shows no cycle")
}

/// The host found the cycle of QubesOS/qubes-issues#7481 and named both of its edges: the mapper's
/// munmap waits for the holder's references, the holder's release for the mapper's invalidation.
pub fn cycle_is_explained(evidence: &Evidence) -> Check {
    const NAME: &str = "the deadlock was found and every edge of the cycle named";
    let Some(deadlock) = evidence.deadlocks().next() else {
        return Check::fail(NAME, "the host found no cycle");
    };
    match explain(deadlock) {
        Ok(()) => {
            let edges: Vec<String> = deadlock.edges.iter().map(ToString::to_string).collect();
            Check::pass(NAME, edges.join("; "))
        }
        Err(why) => Check::fail(NAME, why),
    }
}

fn explain(deadlock: &Deadlock) -> Result<(), String> {
    let edges = &deadlock.edges;
    if edges.len() < 2 {
        return Err(format!("{} edges are no cycle", edges.len()));
    }
    for (at, edge) in edges.iter().enumerate() {
        let next = &edges[(at + 1) % edges.len()];
        if edge.owner != next.waiter {
            return Err(format!(
                "{} waits for {}, but the next edge is {}'s",
                edge.waiter, edge.owner, next.waiter
            ));
        }
    }
    let has = |who: &str, call: &str| {
        edges
            .iter()
            .any(|e: &WaitEdge| e.waiter.contains(who) && e.call.contains(call))
    };
    if !has("back-end", "munmap") {
        return Err("no edge is the back end's munmap".into());
    }
    if !has("consumer", "release") {
        return Err("no edge is the consumer's release".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::{evidence, spoiled};
    use pv_harness::settings::HoldName;
    use pv_harness::timeline::{Event, Record};

    #[test]
    fn a_possible_cycle_is_seen_in_a_run_that_did_not_hang() {
        use pv_harness::timeline::Event::*;
        let grants = Vec::new;
        let history = [
            (
                "back-end",
                Lent {
                    request: 1,
                    hold: 5,
                    grants: grants(),
                },
            ),
            (
                "consumer",
                Held {
                    hold: 5,
                    kind: HoldName::I915,
                    pages: 1,
                },
            ),
            ("consumer", HoldReleasing { hold: 5 }),
            (
                "consumer",
                HoldReleased {
                    hold: 5,
                    error: None,
                },
            ),
            (
                "back-end",
                UnmapBegan {
                    request: 1,
                    grants: grants(),
                },
            ),
            (
                "back-end",
                UnmapReturned {
                    request: 1,
                    took_us: 1,
                    error: None,
                },
            ),
        ];
        let evidence = spoiled(|records| {
            *records = (history.into_iter().enumerate())
                .map(|(ns, (process, event))| Record {
                    ns: ns as u64,
                    process: process.into(),
                    pid: 1,
                    event,
                })
                .collect();
        });
        assert!(no_possible_cycle(&evidence, Unmap::Async).passed);
        let check = no_possible_cycle(&evidence, Unmap::Sync);
        assert!(
            !check.passed && check.detail.contains("may wait for"),
            "{check:?}"
        );
    }

    fn edge(waiter: &str, call: &str, owner: &str) -> WaitEdge {
        WaitEdge {
            waiter: waiter.into(),
            call: call.into(),
            holds: "something".into(),
            waits_for: "something else".into(),
            owner: owner.into(),
        }
    }

    fn with(edges: Vec<WaitEdge>) -> Evidence {
        spoiled(|records| {
            let event = Event::Deadlock {
                deadlock: Deadlock { at_ms: 5, edges },
            };
            records.push(Record {
                ns: 50,
                process: "host".into(),
                pid: 1,
                event,
            });
        })
    }

    fn cycle() -> Vec<WaitEdge> {
        vec![
            edge("back-end (1)", "munmap", "consumer (2)"),
            edge("consumer (2)", "release", "back-end (1)"),
        ]
    }

    #[test]
    fn a_cycle_is_a_failure_where_none_may_be() {
        assert!(no_deadlock(&evidence()).passed);
        let check = no_deadlock(&with(cycle()));
        assert!(
            !check.passed && check.detail.contains("back-end (1) is in munmap"),
            "{check:?}"
        );
    }

    #[test]
    fn the_negative_control_wants_the_right_cycle() {
        assert!(cycle_is_explained(&with(cycle())).passed);
        assert!(!cycle_is_explained(&evidence()).passed);
        assert!(!cycle_is_explained(&with(cycle()[..1].to_vec())).passed);
        let mut open = cycle();
        open[1].owner = "somebody (3)".into();
        assert!(!cycle_is_explained(&with(open)).passed);
        let mut other = cycle();
        other[0].call = "read".into();
        assert!(!cycle_is_explained(&with(other)).passed);
        let mut other = cycle();
        other[1].call = "read".into();
        assert!(!cycle_is_explained(&with(other)).passed);
    }
}

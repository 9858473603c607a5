//! What must be gone when everybody is gone.

use super::{Check, Evidence, complaint};
use pv_harness::kernel::GuestKernel;
use pv_harness::timeline::Event;

/// The hypervisor and the kernels behind it hold nothing any more.
pub fn host_is_empty(evidence: &Evidence) -> Check {
    const NAME: &str = "no grant, mapping, holder or event channel is left in the host";
    let Some(state) = &evidence.inspection else {
        return Check::fail(NAME, "the host was not asked, or did not answer");
    };
    // The first is told in full: damage explains the rest.
    let mut left: Vec<String> = state.damage.iter().map(ToString::to_string).collect();
    left.extend(
        state
            .grants
            .iter()
            .map(|g| format!("{} to {}, mapped {} times", g.grant, g.peer, g.maps)),
    );
    left.extend(state.unmapping.iter().map(|u| {
        format!(
            "an unmap of {} by {}, {} ms old",
            u.domid, u.process, u.age_ms
        )
    }));
    left.extend(
        state
            .holders
            .iter()
            .map(|h| format!("{} ({}) holds {}", h.process, h.pid, h.grant)),
    );
    if state.gntalloc_pages > 0 {
        left.push(format!("{} pages of gntalloc", state.gntalloc_pages));
    }
    if state.event_channels > 0 {
        left.push(format!("{} event channels", state.event_channels));
    }
    let held = if evidence.kernels.is_some() {
        "by the hypervisor's own list".into()
    } else {
        format!(
            "after {} unmaps, {} of them deferred, {} retries",
            state.unmaps, state.deferred_unmaps, state.unmap_retries
        )
    };
    Check::none(NAME, left, held)
}

/// Each role's own ledger was empty when it had finished.
pub fn ledgers_are_empty(evidence: &Evidence) -> Check {
    const NAME: &str = "nothing is left in the ledgers";
    if evidence.ledgers.is_empty() {
        return Check::fail(NAME, "no role showed its ledger");
    }
    let left = evidence
        .ledgers
        .iter()
        .flat_map(|(process, entries)| entries.iter().map(move |e| format!("{process}: {e}")))
        .collect();
    let names: Vec<&str> = evidence
        .ledgers
        .iter()
        .map(|(process, _)| process.as_str())
        .collect();
    Check::none(NAME, left, names.join(", "))
}

/// Every process ended as it should, and no process, socket or file stayed.
pub fn nothing_left(evidence: &Evidence) -> Check {
    const NAME: &str = "every process ended well, and nothing is left behind";
    let after = &evidence.aftermath;
    let mut bad: Vec<String> = after.hung.iter().map(ToString::to_string).collect();
    bad.extend(
        after
            .exits
            .iter()
            .filter(|e| !e.expected)
            .map(|e| format!("{}: {}", e.process, e.how)),
    );
    bad.extend(
        after
            .left_over
            .iter()
            .map(|what| format!("left behind: {what}")),
    );
    if bad.is_empty() && after.exits.is_empty() {
        return Check::fail(NAME, "no process ran");
    }
    Check::none(NAME, bad, format!("{} processes", after.exits.len()))
}

/// The evidence itself is complete.
pub fn timelines_are_complete(evidence: &Evidence) -> Check {
    const NAME: &str = "the timelines are complete";
    let cut = evidence
        .records
        .iter()
        .filter(|record| record.event == Event::Truncated)
        .map(|record| format!("{}'s was full: use a smaller input", record.process))
        .collect();
    Check::none(NAME, cut, format!("{} events", evidence.records.len()))
}

/// On a real Xen: no kernel complained. `None` on the simulated one, which has none.
pub fn kernels_are_well(evidence: &Evidence) -> Option<Check> {
    let kernels = evidence.kernels.as_ref()?;
    if kernels.is_empty() {
        return Some(Check::fail(KERNELS, "no kernel's log could be read"));
    }
    let complaints = kernels
        .iter()
        .flat_map(|(domain, lines)| lines.iter().map(move |line| format!("{domain}: {line}")))
        .collect();
    let mut check = no_kernel_complained(complaints, &evidence.guests, kernels.len());
    if !check.passed && evidence.standstill.is_none() && evidence.deadlocks().next().is_none() {
        check.detail = format!("no cycle; the kernel complained: {}", check.detail);
    }
    Some(check)
}

const KERNELS: &str = "no guest's kernel complained";

/// What so many kernels complained of, as `domain: line`, and what is known of that on these kinds of
/// guests.
pub fn no_kernel_complained(
    complaints: Vec<String>,
    guests: &[GuestKernel],
    kernels: usize,
) -> Check {
    let mut meanings: Vec<String> = Vec::new();
    for said in &complaints {
        let domain = said.split(": ").next().unwrap_or_default();
        let guest = guests.iter().find(|guest| guest.domain == domain);
        let meaning = complaint(said, guest.map(|guest| guest.guest_type.as_str()));
        meanings.extend(meaning.filter(|meaning| !meanings.contains(meaning)));
    }
    let defects = complaints
        .into_iter()
        .map(|complaint| format!("a kernel defect in {complaint}"))
        .collect();
    let mut check = Check::none(KERNELS, defects, format!("{kernels} kernels"));
    for meaning in meanings {
        check.detail = format!("{}; {meaning}", check.detail);
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::{evidence, spoiled};
    use libgnt::inspect::{Damage, GrantState, Inspection, UnmappingState};
    use libgnt::platform::Holder;
    use libgnt::types::{Access, DomId, ForeignGrant, GrantRef};
    use pv_harness::kernel::GuestKernel;
    use pv_harness::processes::{Autopsy, Exit};

    const GRANT: ForeignGrant = ForeignGrant {
        domid: DomId(1),
        gref: GrantRef(5),
    };

    #[track_caller]
    fn host_fails(change: impl FnOnce(&mut Inspection), because: &str) {
        let mut bad = evidence();
        change(bad.inspection.as_mut().unwrap());
        let check = host_is_empty(&bad);
        assert!(!check.passed && check.detail.contains(because), "{check:?}");
    }

    #[test]
    fn a_good_run_passes() {
        for judge in [
            host_is_empty,
            ledgers_are_empty,
            nothing_left,
            timelines_are_complete,
        ] {
            let check = judge(&evidence());
            assert!(check.passed, "{check:?}");
        }
    }

    #[test]
    fn everything_left_in_the_host_is_seen() {
        let grant = GrantState {
            grant: GRANT,
            peer: DomId(0),
            access: Access::ReadOnly,
            maps: 1,
            ending: true,
        };
        host_fails(|i| i.grants.push(grant), "grant 0x5 of domain 1");
        let unmapping = UnmappingState {
            domid: DomId(0),
            process: "back-end".into(),
            grants: vec![GRANT],
            age_ms: 3,
            retries: 1,
        };
        host_fails(|i| i.unmapping.push(unmapping), "back-end, 3 ms old");
        let holder = Holder {
            grant: GRANT,
            process: "consumer".into(),
            pid: 9,
        };
        host_fails(|i| i.holders.push(holder), "consumer (9) holds");
        let damage = Damage {
            at_ms: 5,
            domid: DomId(0),
            process: "back-end".into(),
            grants: vec![GRANT],
        };
        host_fails(
            |i| i.damage.push(damage),
            "the kernel of domain 0 cleared the page-table entries of grant 0x5",
        );
        host_fails(|i| i.gntalloc_pages = 1, "1 pages");
        host_fails(|i| i.event_channels = 2, "2 event channels");
        let mut unasked = evidence();
        unasked.inspection = None;
        assert!(!host_is_empty(&unasked).passed);
    }

    #[test]
    fn a_ledger_with_an_entry_or_no_ledger_at_all_is_seen() {
        let mut bad = evidence();
        bad.ledgers[1].1.push("granted grant 0x5".into());
        let check = ledgers_are_empty(&bad);
        assert!(
            !check.passed && check.detail.contains("front-end: granted"),
            "{check:?}"
        );
        bad.ledgers.clear();
        assert!(!ledgers_are_empty(&bad).passed);
    }

    #[test]
    fn bad_ends_and_leftovers_are_seen() {
        let mut bad = evidence();
        bad.aftermath.exits.push(Exit {
            process: "back-end".into(),
            how: "exit status 101".into(),
            expected: false,
        });
        assert!(nothing_left(&bad).detail.contains("exit status 101"));
        let mut bad = evidence();
        bad.aftermath.left_over.push("the socket xen.sock".into());
        assert!(nothing_left(&bad).detail.contains("xen.sock"));
        let mut bad = evidence();
        bad.aftermath.hung.push(Autopsy {
            process: "consumer".into(),
            pid: 3,
            ..Autopsy::default()
        });
        assert!(
            nothing_left(&bad)
                .detail
                .contains("consumer (pid 3) did not end")
        );
        assert!(!nothing_left(&Evidence::default()).passed);
    }

    #[test]
    fn a_kernels_complaint_is_seen() {
        assert_eq!(
            kernels_are_well(&evidence()),
            None,
            "the simulated Xen has no kernel"
        );
        let mut real = evidence();
        real.kernels = Some(vec![("back".into(), vec![])]);
        assert!(kernels_are_well(&real).unwrap().passed);
        real.kernels = Some(vec![("back".into(), vec!["BUG: Bad page map".into()])]);
        let check = kernels_are_well(&real).unwrap();
        assert!(
            !check.passed && check.detail.contains("defect in back: BUG"),
            "{check:?}"
        );
        assert!(
            !check.detail.contains("PV guests"),
            "it is not known to be one"
        );
        real.guests = vec![GuestKernel {
            domain: "back".into(),
            guest_type: "PV".into(),
            unmap_waits: false,
            maps: true,
        }];
        let check = kernels_are_well(&real).unwrap();
        for part in [
            "no cycle; the kernel complained: ",
            "the asynchronous unmap's defect on PV guests",
            "docs/findings/gntdev-pv-deferred-unmap.md",
        ] {
            assert!(check.detail.contains(part), "{check:?}");
        }
        real.kernels = Some(vec![]);
        assert!(!kernels_are_well(&real).unwrap().passed);
    }

    #[test]
    fn a_full_timeline_is_seen() {
        let bad = spoiled(|records| records[3].event = Event::Truncated);
        assert!(!timelines_are_complete(&bad).passed);
    }
}

//! Why holding pages that are unmapped made no cycle. A run that shows none has shown something only
//! if it is known which of the cycle's edges was missing.

use super::standstill::Form;
use crate::checks::{Evidence, RequestLife, spell};
use pv_harness::kernel::GuestKernel;
use pv_harness::settings::HoldName;
use pv_harness::timeline::Event;
use std::collections::BTreeSet;

/// The edges that were missing, in words. `None`: there is a cycle, or nobody held pages, or a look at
/// what hangs says more, or the machine is simulated, whose deadlocks are told by itself.
pub fn no_cycle(evidence: &Evidence) -> Option<String> {
    let mapper = evidence.guests.iter().find(|guest| guest.maps)?;
    let form = evidence.standstill.as_ref().map(|found| found.form);
    if form.is_some_and(|form| form != Form::Unmap) {
        return None;
    }
    let holds: BTreeSet<HoldName> = (evidence.records.iter())
        .filter_map(|record| match record.event {
            Event::Held { kind, .. } => Some(kind),
            _ => None,
        })
        .collect();
    if holds.is_empty() {
        return mapper.unmap_waits.then(|| {
            format!(
                "gntdev of domain {} waits inside its unmap, and nobody held the pages: there was \
                 nothing to wait for",
                mapper.domain
            )
        });
    }
    if !mapper.unmap_waits {
        return returned_meanwhile(evidence, mapper);
    }
    let holders: Vec<String> = holds
        .iter()
        .map(|kind| format!("{kind}: {}", holders_part(*kind, mapper)))
        .collect();
    let mut said = gntdevs_part(mapper);
    said.push_str("; ");
    said.push_str(&holders.join("; "));
    if let Some(measured) = measured(&evidence.lives) {
        said.push_str("; ");
        said.push_str(&measured);
    }
    Some(said)
}

/// The unmap did not wait. `None` if it did, all the same: another check tells that.
fn returned_meanwhile(evidence: &Evidence, mapper: &GuestKernel) -> Option<String> {
    let held: Vec<&RequestLife> = (evidence.lives.iter())
        .filter(|life| life.unmapped_while_held())
        .collect();
    let returned = |life: &&&RequestLife| {
        let (returned, releasing) = (life.unmap_returned, life.hold_releasing);
        returned.is_some_and(|at| releasing.is_none_or(|releasing| at <= releasing))
    };
    let all = held.len();
    (all > 0 && held.iter().filter(returned).count() == all).then(|| {
        format!(
            "gntdev of domain {} ({}) waits for nobody inside its unmap: all {all} calls that \
             unmapped held pages returned before their holder began to let go",
            mapper.domain, mapper.guest_type
        )
    })
}

/// gntdev's half: where it waits.
fn gntdevs_part(mapper: &GuestKernel) -> String {
    let GuestKernel {
        domain, guest_type, ..
    } = mapper;
    if mapper.is_pv() {
        format!(
            "gntdev of domain {domain} (PV) waits inside its notifier's callback, so one half of the cycle \
             was there"
        )
    } else {
        format!(
            "domain {domain} is {guest_type}, where gntdev has no notifier (use_ptemod, \
             drivers/xen/gntdev.c): it waits in the mapping's last put, after the invalidation has ended"
        )
    }
}

/// The holder's half: whom its release waits for.
fn holders_part(kind: HoldName, mapper: &GuestKernel) -> &'static str {
    match kind {
        HoldName::RdmaOdpTouched => {
            "the page beside the grants was there when the region was registered, so its operation faulted \
             nothing in and never came to mmu_interval_read_begin"
        }
        _ if kind.is_on_demand() && !mapper.is_pv() => {
            "its operation met no invalidation, which had ended before gntdev began to wait, and then it let go"
        }
        HoldName::RdmaOdpAligned => {
            "its region begins with the grants, so gntdev's callback came first and waited before the \
             region's interval was told of the invalidation: mmu_interval_read_begin saw an even sequence \
             and returned"
        }
        _ if kind.is_on_demand() => {
            "its operation had ended before the invalidation began, so it waited for nothing"
        }
        _ => "it lets go by itself, and waits for no notifier",
    }
}

/// What the timelines say of that: the release ended while the unmap was still to return.
fn measured(lives: &[RequestLife]) -> Option<String> {
    let held = || lives.iter().filter(|life| life.unmapped_while_held());
    let first = held().filter(|life| {
        let (released, returned) = (life.hold_released, life.unmap_returned);
        matches!((released, returned), (Some(released), Some(returned)) if released <= returned)
    });
    let (mut count, mut longest) = (0, 0);
    for life in first {
        count += 1;
        let took = life.hold_released?.saturating_sub(life.hold_releasing?);
        longest = longest.max(took);
    }
    (count > 0).then(|| {
        format!(
            "{count} of {} releases ended while the unmap still waited, after {} at most",
            held().count(),
            spell(longest)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::standstill::Standstill;
    use super::*;
    use crate::checks::fixture::evidence;

    /// The good run's evidence, held so; `waited`: the unmap returned after the release.
    fn held_by(kind: HoldName, guest_type: &str, unmap_waits: bool, waited: bool) -> Evidence {
        let mut evidence = evidence();
        for record in &mut evidence.records {
            if let Event::Held { kind: of_hold, .. } = &mut record.event {
                *of_hold = kind;
            }
        }
        for life in evidence
            .lives
            .iter_mut()
            .filter(|life| waited && life.hold.is_some())
        {
            life.unmap_returned = life.hold_released.map(|at| at + 1);
        }
        let domain = |name: &str, maps| GuestKernel {
            domain: name.into(),
            guest_type: guest_type.into(),
            unmap_waits,
            maps,
        };
        evidence.guests = vec![domain("front", false), domain("back", true)];
        evidence
    }

    #[test]
    fn each_control_says_what_is_missing() {
        for (kind, guest_type, parts) in [
            (
                HoldName::RdmaOdpTouched,
                "PV",
                ["one half of the cycle was there", "faulted nothing in"],
            ),
            (
                HoldName::RdmaOdpAligned,
                "PV",
                ["one half of the cycle was there", "begins with the grants"],
            ),
            (
                HoldName::RdmaOdp,
                "PVH",
                ["domain back is PVH", "met no invalidation"],
            ),
            (
                HoldName::RdmaOdpAligned,
                "PVH",
                ["domain back is PVH", "met no invalidation"],
            ),
            (
                HoldName::Pipe,
                "PV",
                ["1 of 1 releases ended while", "lets go by itself"],
            ),
        ] {
            let why = no_cycle(&held_by(kind, guest_type, true, true)).unwrap();
            assert!(parts.iter().all(|part| why.contains(part)), "{why}");
        }
    }

    #[test]
    fn an_unmap_that_returns_is_said_to_do_so_only_if_it_did() {
        let good = held_by(HoldName::RdmaOdp, "PV", false, false);
        let why = no_cycle(&good).unwrap();
        assert!(
            why.contains("all 1 calls that unmapped held pages returned"),
            "{why}"
        );
        let waited = held_by(HoldName::RdmaOdp, "PV", false, true);
        assert_eq!(no_cycle(&waited), None);
    }

    #[test]
    fn nobody_who_holds_is_a_reason() {
        let mut nobody = held_by(HoldName::Pipe, "PV", true, true);
        nobody
            .records
            .retain(|record| !matches!(record.event, Event::Held { .. }));
        let why = no_cycle(&nobody).unwrap();
        assert!(why.contains("nobody held the pages"), "{why}");
    }

    #[test]
    fn a_cycle_and_a_simulated_machine_have_none() {
        let mut found = held_by(HoldName::RdmaOdp, "PV", true, true);
        found.standstill = Some(Standstill {
            domain: Some("back".into()),
            guest_type: Some("PV".into()),
            form: Form::Notifier,
            edges: Vec::new(),
            in_cycle: 2,
            functions: Vec::new(),
            after_kill: None,
        });
        assert_eq!(no_cycle(&found), None);
        assert_eq!(no_cycle(&evidence()), None, "no domain's kernel spoke");
    }
}

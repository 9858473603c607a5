//! Asynchronous unmap while a third consumer holds the pages.

use super::{Check, Evidence, RequestLife, spell};
use pv_harness::timeline::Event;

/// The run did what it is about: without this, every other check of this file is vacuous.
pub fn was_held_while_unmapping(evidence: &Evidence) -> Check {
    const NAME: &str = "pages were held while being unmapped";
    let held = evidence
        .lives
        .iter()
        .filter(|life| life.unmapped_while_held())
        .count();
    let all = evidence.lives.len();
    if held == 0 {
        return Check::fail(NAME, format!("none of {all} unmaps met a holder"));
    }
    Check::pass(NAME, format!("{held} of {all} unmaps"))
}

/// Every unmap call returned although somebody held the pages, before they gave them back.
pub fn unmaps_return_while_held(evidence: &Evidence) -> Check {
    const NAME: &str = "every unmap call returned while the pages were held";
    let held = || {
        evidence
            .lives
            .iter()
            .filter(|life| life.unmapped_while_held())
    };
    let offenders = held()
        .filter_map(|life| match (life.unmap_returned, life.hold_releasing) {
            (None, _) => Some(format!(
                "the unmap of request {} never returned",
                life.request
            )),
            (Some(returned), Some(releasing)) if returned > releasing => Some(format!(
                "the unmap of request {} returned {} after the holder began to release",
                life.request,
                spell(returned - releasing)
            )),
            _ => None,
        })
        .collect();
    let longest = held()
        .filter_map(|life| life.unmap_took_us)
        .max()
        .unwrap_or(0);
    Check::none(
        NAME,
        offenders,
        format!("the longest took {}", spell(longest * 1000)),
    )
}

/// Other requests were answered while some page was held.
pub fn io_goes_on(evidence: &Evidence) -> Check {
    const NAME: &str = "other requests were served while pages were held";
    let spans: Vec<(u64, u64)> = evidence
        .lives
        .iter()
        .filter(|life| life.unmapped_while_held())
        .filter_map(|life| Some((life.unmap_began?, life.hold_releasing?)))
        .collect();
    let served = evidence
        .lives
        .iter()
        .filter(|life| !life.unmapped_while_held())
        .filter_map(|life| life.answered)
        .filter(|at| spans.iter().any(|(from, to)| from < at && at < to))
        .count();
    if served == 0 {
        return Check::fail(NAME, format!("none, in {} spans of holding", spans.len()));
    }
    Check::pass(NAME, format!("{served} requests"))
}

/// No unmap was reported as done before the holder began to let go, and each was afterwards.
pub fn released_after_holder(evidence: &Evidence) -> Check {
    const NAME: &str = "release follows the holder's, and not before";
    let mut longest = 0;
    let offenders = evidence
        .lives
        .iter()
        .filter(|life| life.hold.is_some())
        .filter_map(|life| match (life.released, life.hold_releasing) {
            (None, _) => Some(format!("request {} was never released", life.request)),
            (Some(released), Some(releasing)) if released < releasing => Some(format!(
                "request {} was released {} before its holder began to let go",
                life.request,
                spell(releasing - released)
            )),
            (Some(released), Some(_)) => {
                longest =
                    longest.max(released.saturating_sub(life.hold_released.unwrap_or(released)));
                None
            }
            (Some(_), None) => None,
        })
        .collect();
    Check::none(
        NAME,
        offenders,
        format!("at most {} after the holder", spell(longest)),
    )
}

/// The back end answered no request whose pages it had not yet released.
pub fn answered_after_release(evidence: &Evidence) -> Check {
    const NAME: &str = "no answer before the release";
    let answered = || evidence.lives.iter().filter(|life| life.answered.is_some());
    let offenders = answered()
        .filter_map(|life| match (life.released, life.answered) {
            (None, _) => Some(format!(
                "request {} was answered and never released",
                life.request
            )),
            (Some(released), Some(answered)) if answered < released => Some(format!(
                "request {} was answered {} before its release",
                life.request,
                spell(released - answered)
            )),
            _ => None,
        })
        .collect();
    Check::none(NAME, offenders, format!("{} answers", answered().count()))
}

/// The granter used a page again only after it had learnt, by the answer's event, of its release;
/// and the hypervisor agreed that nobody had it mapped.
pub fn reused_after_release(evidence: &Evidence) -> Check {
    const NAME: &str = "the granter reused pages only after their release";
    let offenders: Vec<String> = evidence
        .lives
        .iter()
        .filter_map(|life| reused_early(life, evidence.clock_uncertainty_ns))
        .collect();
    let reused = evidence
        .lives
        .iter()
        .filter(|life| life.reused.is_some())
        .count();
    if offenders.is_empty() && reused == 0 {
        return Check::fail(NAME, "no page was used twice, so nothing is shown");
    }
    Check::none(NAME, offenders, format!("{reused} times"))
}

/// `slack`: the release is stamped by the mapper's clock, the reuse by the granter's.
fn reused_early(life: &RequestLife, slack: u64) -> Option<String> {
    let request = life.request;
    if !life.in_use_after.is_empty() {
        return Some(format!(
            "after the answer to request {request} the hypervisor still showed {} in use",
            life.in_use_after[0]
        ));
    }
    let reused = life.reused?;
    let early = |what: &str, at: u64| {
        Some(format!(
            "a page of request {request} was reused {} before {what}",
            spell(at - reused)
        ))
    };
    match (life.released, life.acknowledged) {
        (None, _) => Some(format!(
            "a page of request {request} was reused and never released"
        )),
        (Some(released), _) if reused.saturating_add(slack) < released => {
            early("its release", released)
        }
        (_, None) => Some(format!(
            "a page of request {request} was reused without an answer"
        )),
        (_, Some(known)) if reused < known => early("the granter knew", known),
        _ => None,
    }
}

/// The granter heard of each held page's release, and was woken for it: it slept meanwhile.
pub fn learns_by_event(evidence: &Evidence, event_reads: u64) -> Check {
    const NAME: &str = "the granter learnt of the release by event";
    let held = || {
        evidence
            .lives
            .iter()
            .filter(|life| life.unmapped_while_held())
    };
    if let Some(life) = held().find(|life| life.acknowledged.is_none()) {
        return Check::fail(NAME, format!("it never heard of request {}", life.request));
    }
    if event_reads == 0 {
        return Check::fail(NAME, "its event channel was never read");
    }
    let longest = held()
        .filter_map(|life| Some(life.acknowledged?.saturating_sub(life.answered?)))
        .max()
        .unwrap_or(0);
    let after = spell(longest);
    Check::pass(
        NAME,
        format!("{event_reads} events; at most {after} after the answer"),
    )
}

/// What the consumer saw of a page did not change under it, and is what the front end wrote.
pub fn held_pages_stay(evidence: &Evidence) -> Check {
    const NAME: &str = "held pages kept their data";
    let mut seen = 0;
    let offenders = evidence
        .lives
        .iter()
        .filter(|life| life.unmapped_while_held())
        .filter_map(|life| {
            seen += life.seen_shas.len();
            let first = life.seen_shas.first()?;
            if let Some(other) = life.seen_shas.iter().find(|sha| *sha != first) {
                return Some(format!(
                    "the pages of request {} changed while held: {} became {}",
                    life.request,
                    short(first),
                    short(other)
                ));
            }
            let written = life.written_sha.as_ref()?;
            (written != first).then(|| {
                format!(
                    "the consumer saw {} in request {}, the front end wrote {}",
                    short(first),
                    life.request,
                    short(written)
                )
            })
        })
        .collect();
    if seen == 0 {
        let cannot_look = evidence
            .records
            .iter()
            .any(|record| matches!(&record.event, Event::Checksum { sha: None, .. }));
        return match cannot_look {
            true => Check::pass(NAME, "not looked at: this holder cannot"),
            false => Check::fail(NAME, "the consumer never looked"),
        };
    }
    let copies = evidence
        .records
        .iter()
        .any(|record| matches!(&record.event, Event::Held { kind, .. } if kind.looks_at_a_copy()));
    let what = if copies {
        "copies of the pages as they were lent"
    } else {
        "live pages"
    };
    Check::none(NAME, offenders, format!("{seen} looks at {what}"))
}

fn short(sha: &str) -> &str {
    sha.get(..12).unwrap_or(sha)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::{evidence, spoiled, with_life};
    use libgnt::types::GrantRef;
    use pv_harness::settings::HoldName;

    type Judge = fn(&Evidence) -> Check;
    const ALL: [Judge; 7] = [
        was_held_while_unmapping,
        unmaps_return_while_held,
        io_goes_on,
        released_after_holder,
        answered_after_release,
        reused_after_release,
        held_pages_stay,
    ];

    #[track_caller]
    fn fails(judge: Judge, evidence: &Evidence, because: &str) {
        let check = judge(evidence);
        assert!(!check.passed, "{check:?}");
        assert!(check.detail.contains(because), "{check:?}");
    }

    #[test]
    fn a_good_run_passes_and_an_empty_one_does_not() {
        for judge in ALL {
            let check = judge(&evidence());
            assert!(check.passed, "{check:?}");
        }
        let empty = Evidence::default();
        for judge in [was_held_while_unmapping, io_goes_on, reused_after_release] as [Judge; 3] {
            assert!(!judge(&empty).passed);
        }
    }

    #[test]
    fn a_run_without_a_holder_shows_nothing() {
        let bad = spoiled(|r| r.retain(|r| !matches!(r.event, Event::Lent { .. })));
        fails(was_held_while_unmapping, &bad, "none of 2 unmaps");
    }

    #[test]
    fn an_unmap_that_waits_for_the_holder_is_seen() {
        let late = with_life(|life| life.unmap_returned = Some(96));
        fails(unmaps_return_while_held, &late, "after the holder");
        let never = with_life(|life| life.unmap_returned = None);
        fails(unmaps_return_while_held, &never, "never returned");
    }

    #[test]
    fn io_that_stands_still_is_seen() {
        let bad = spoiled(|r| {
            r.retain(|r| !matches!(r.event, Event::Answered { request: 8, .. }));
        });
        fails(io_goes_on, &bad, "none");
    }

    #[test]
    fn a_release_under_the_holder_is_seen() {
        fails(
            released_after_holder,
            &with_life(|l| l.released = Some(89)),
            "before its holder",
        );
        fails(
            released_after_holder,
            &with_life(|l| l.released = None),
            "never released",
        );
    }

    #[test]
    fn clocks_of_two_domains_are_believed_as_far_as_they_are_known() {
        let mut early = with_life(|life| {
            let released = life.released.unwrap();
            life.reused = Some(released - 3);
            life.acknowledged = Some(released - 3);
        });
        fails(reused_after_release, &early, "before its release");
        early.clock_uncertainty_ns = 3;
        assert!(reused_after_release(&early).passed);
        early.clock_uncertainty_ns = 2;
        fails(reused_after_release, &early, "before its release");
    }

    #[test]
    fn an_answer_before_the_release_is_seen() {
        fails(
            answered_after_release,
            &with_life(|l| l.answered = Some(99)),
            "before its release",
        );
        fails(
            answered_after_release,
            &with_life(|l| l.released = None),
            "never released",
        );
    }

    #[test]
    fn an_early_reuse_is_seen() {
        fails(
            reused_after_release,
            &with_life(|l| l.reused = Some(99)),
            "before its release",
        );
        fails(
            reused_after_release,
            &with_life(|l| l.reused = Some(115)),
            "the granter knew",
        );
        let unanswered = with_life(|l| l.acknowledged = None);
        fails(reused_after_release, &unanswered, "without an answer");
        let in_use = with_life(|l| l.in_use_after = vec![GrantRef(1)]);
        fails(reused_after_release, &in_use, "still showed");
    }

    #[test]
    fn a_granter_that_is_never_told_is_seen() {
        assert!(learns_by_event(&evidence(), 3).passed);
        assert!(!learns_by_event(&evidence(), 0).passed);
        assert!(!learns_by_event(&with_life(|l| l.acknowledged = None), 3).passed);
    }

    #[test]
    fn a_page_that_changes_under_its_holder_is_seen() {
        let changed = with_life(|l| l.seen_shas[1] = "other".into());
        fails(held_pages_stay, &changed, "changed while held");
        let wrong = with_life(|l| l.written_sha = Some("other".into()));
        fails(held_pages_stay, &wrong, "the front end wrote");
        let mut blind = with_life(|l| l.seen_shas.clear());
        fails(held_pages_stay, &blind, "never looked");
        // As a socket that holds packet memory, which nobody can read through it.
        for record in &mut blind.records {
            if let Event::Checksum { sha, .. } = &mut record.event {
                *sha = None;
            }
        }
        assert!(held_pages_stay(&blind).passed);
        // As a disk, which has what it was sent.
        let copies = spoiled(|records| {
            for record in records {
                if let Event::Held { kind, .. } = &mut record.event {
                    *kind = HoldName::Direct;
                }
            }
        });
        let says = |evidence: &Evidence| held_pages_stay(evidence).detail;
        assert!(says(&copies).contains("copies"), "{}", says(&copies));
        assert!(says(&evidence()).contains("live"));
    }
}

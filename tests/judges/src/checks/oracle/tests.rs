use super::*;
use crate::checks::fixture::evidence;
use libgnt::grant::Totals;
use libgnt::types::{DomId, GrantRef};
use pv_harness::timeline::Record;

const OBSERVER: &str = "observer-back";

fn grant(gref: u32) -> ForeignGrant {
    ForeignGrant {
        domid: DomId(1),
        gref: GrantRef(gref),
    }
}

fn mapped(gref: u32) -> KernelEvent {
    let first = grant(gref);
    KernelEvent::Mapped { first, pages: 1 }
}

fn unmapped(gref: u32, put_off: u32) -> KernelEvent {
    KernelEvent::Unmapped {
        first: Some(grant(gref)),
        pages: 1,
        after_ns: 57_000,
        put_off,
    }
}

/// What the kernel did in the fixture's run: request 7 is grant 1's, held from 30 to 90; request 8 is
/// grant 2's. The ring has a page of its own. Times are in microseconds here.
fn kernel() -> Vec<(u64, KernelEvent)> {
    let functions = vec!["gnttab_map_refs".to_owned()];
    let counts = KernelCounts {
        mapped: 3,
        unmapped: 3,
        put_off: 1,
        ..KernelCounts::default()
    };
    vec![
        (1, KernelEvent::Watched { functions }),
        (2, mapped(99)),
        (18, mapped(1)),
        (53, mapped(2)),
        (62, unmapped(2, 0)),
        (98, unmapped(1, 2)),
        (200, unmapped(99, 0)),
        (201, KernelEvent::Counted(counts)),
    ]
}

/// The fixture's run with this kernel, and with what the back end's ledger says.
fn watched(kernel: Vec<(u64, KernelEvent)>, totals: Option<Totals>) -> Evidence {
    let plain = evidence();
    let mut records = plain.records;
    records.extend(kernel.into_iter().map(|(ns, event)| Record {
        ns,
        process: OBSERVER.into(),
        pid: 1,
        event: Event::Kernel(event),
    }));
    for record in &mut records {
        record.ns *= 1_000_000;
    }
    records.sort_by_key(|record| record.ns);
    let mut aftermath = plain.aftermath;
    aftermath.records = records;
    let mut evidence = Evidence::new(aftermath, plain.inspection, plain.ledgers);
    evidence.totals = totals.map(|t| ("back-end".into(), t)).into_iter().collect();
    evidence.watched = vec![Watched {
        domain: "back".into(),
        observer: OBSERVER.into(),
        mappers: vec!["back-end".into()],
    }];
    evidence
}

const THREE: Totals = Totals {
    mapped: 3,
    released: 2,
    untold: 1,
};

fn failed(evidence: &Evidence) -> Vec<String> {
    let checks = second_oracle(evidence).into_iter();
    checks
        .filter(|check| !check.passed)
        .map(|check| check.detail)
        .collect()
}

#[track_caller]
fn fails(change: impl FnOnce(&mut Vec<(u64, KernelEvent)>), because: &str) {
    let mut bad = kernel();
    change(&mut bad);
    let failed = failed(&watched(bad, Some(THREE)));
    assert!(failed.iter().any(|why| why.contains(because)), "{failed:?}");
}

fn count(kernel: &mut [(u64, KernelEvent)], change: impl FnOnce(&mut KernelCounts)) {
    match kernel.last_mut() {
        Some((_, KernelEvent::Counted(counts))) => change(counts),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_run_has_two_oracles_that_agree() {
    let good = watched(kernel(), Some(THREE));
    let checks = second_oracle(&good);
    assert_eq!(failed(&good), Vec::<String>::new());
    assert_eq!(one_oracle(&good), None);
    let details: Vec<&str> = checks.iter().map(|check| check.detail.as_str()).collect();
    for part in ["back: 3 pages", "1 unmaps put off", "2 requests", "57.0 µs"] {
        assert!(
            details.iter().any(|d| d.contains(part)),
            "{part}: {details:?}"
        );
    }
}

#[test]
fn a_mapping_that_the_ledger_does_not_know_is_seen_and_named() {
    let behind = |kernel: &mut Vec<_>| {
        kernel.insert(4, (54, mapped(2)));
        kernel.insert(5, (55, unmapped(2, 0)));
        count(kernel, |counts| (counts.mapped, counts.unmapped) = (4, 4));
    };
    fails(behind, "mapped 4 pages, and the ledgers say 3");
    fails(
        behind,
        "grant 0x2 of domain 1 was mapped 2 times, and 1 times",
    );
    fails(behind, "unmapped 4 pages, and the ledgers say 3");
}

#[test]
fn a_mapping_that_the_kernel_does_not_know_is_seen() {
    let more = Totals { mapped: 4, ..THREE };
    assert!(failed(&watched(kernel(), Some(more)))[0].contains("the ledgers say 4"));
}

#[test]
fn what_the_kernel_keeps_is_seen() {
    fails(
        |kernel| count(kernel, |counts| counts.unmapped = 2),
        "unmapped 2 of the 3 pages",
    );
    fails(
        |kernel| {
            count(kernel, |counts| {
                counts.unfinished.push("an unmap asked for".into())
            })
        },
        "in domain back: an unmap asked for",
    );
    fails(
        |kernel| count(kernel, |counts| counts.late.push(GrantRef(5))),
        "grant 0x5 of domain back has not",
    );
}

#[test]
fn a_release_that_is_told_too_early_is_seen() {
    // Released at 100.
    fails(
        |kernel| kernel[5].0 = 150,
        "request 7 was told to be released 50.0 ms before",
    );
    fails(|kernel| drop(kernel.remove(5)), "did not unmap it");
}

#[test]
fn a_kernel_that_does_not_wait_for_the_holder_is_seen_and_one_that_sleeps_too() {
    // Let go from 90 to 95.
    fails(|kernel| kernel[5].0 = 80, "10.0 ms before its holder began");
    fails(
        |kernel| kernel[5].0 = 9_000,
        "8.90 s after its holder had let go",
    );
}

#[test]
fn clocks_that_are_off_are_given_their_due() {
    let mut kernel = kernel();
    kernel[5].0 = 103;
    let mut evidence = watched(kernel, Some(THREE));
    assert_eq!(failed(&evidence).len(), 1);
    evidence.clock_uncertainty_ns = 3_000_000;
    assert_eq!(failed(&evidence), Vec::<String>::new());
}

#[test]
fn of_a_killed_process_the_timeline_says_the_least() {
    // Its timeline has two pages, the kernel one more.
    assert_eq!(failed(&watched(kernel(), None)), Vec::<String>::new());
    let mut less = kernel();
    count(&mut less, |counts| {
        (counts.mapped, counts.unmapped) = (1, 1)
    });
    assert!(failed(&watched(less, None))[0].contains("say 2 at least"));
}

#[test]
fn an_oracle_that_has_not_seen_everything_says_nothing() {
    let mut lost = kernel();
    count(&mut lost, |counts| {
        counts.gaps.push("12 events lost".into())
    });
    let mut unwatched = kernel();
    let why = "no tracefs".to_owned();
    unwatched.truncate(0);
    unwatched.push((1, KernelEvent::Unwatched { why }));
    let mut killed = kernel();
    killed.pop();
    for (kernel, why) in [
        (lost, "domain back: incomplete: 12 events lost"),
        (unwatched, "domain back: no tracefs"),
        (
            killed,
            "domain back: incomplete: its observer did not come to its end",
        ),
    ] {
        let evidence = watched(kernel, Some(THREE));
        assert_eq!(one_oracle(&evidence).as_deref(), Some(why));
        assert!(second_oracle(&evidence).is_empty());
    }
}

#[test]
fn ends_that_were_not_all_seen_are_not_judged() {
    let mut missed = kernel();
    count(&mut missed, |counts| {
        counts.late.push(GrantRef(5));
        counts.gaps_of_ends.push("passed unseen".into());
    });
    let evidence = watched(missed, Some(THREE));
    assert_eq!(failed(&evidence), Vec::<String>::new());
    assert_eq!(second_oracle(&evidence).len(), 4);
    let why = one_oracle(&evidence).unwrap();
    assert!(why.contains("that end late: passed unseen"), "{why}");
}

#[test]
fn where_nobody_maps_nobody_agrees() {
    let mut evidence = watched(kernel(), Some(THREE));
    evidence.watched[0].mappers.clear();
    let checks = second_oracle(&evidence);
    assert_eq!(checks.len(), 1, "{checks:?}");
    assert!(checks[0].name.contains("could not end at once"));
}

#[test]
fn the_simulated_xen_has_no_kernels() {
    assert_eq!(one_oracle(&evidence()), None);
    assert!(second_oracle(&evidence()).is_empty());
}

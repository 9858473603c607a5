use super::*;

/// What came of lines, each a time in microseconds, a thread and what the probe printed.
fn told(lines: &[(u64, u32, &str)]) -> Vec<KernelEvent> {
    told_with(lines, &[])
}

fn told_with(lines: &[(u64, u32, &str)], others: &[Input]) -> Vec<KernelEvent> {
    let (mut account, mut told) = (Account::default(), Vec::new());
    for (us, thread, text) in lines {
        let (probe, fields) = text.split_once(' ').unwrap_or((text, ""));
        let text = format!("x-{thread} [000] ..... 0.{us:06}: {probe}: (f+0x0/0x1) {fields}");
        let line = Line::parse(&text).unwrap();
        account.step(Now::ZERO, Input::Line(line), &mut told);
    }
    for other in others {
        account.step(Now::ZERO, other.clone(), &mut told);
    }
    account.step(Now::from_micros(900), Input::End, &mut told);
    told.into_iter().map(|told| told.event).collect()
}

fn counts(told: &[KernelEvent]) -> &KernelCounts {
    match told.last() {
        Some(KernelEvent::Counted(counts)) => counts,
        other => panic!("{other:?}"),
    }
}

fn grant(domid: u16, gref: u32) -> ForeignGrant {
    ForeignGrant {
        domid: DomId(domid),
        gref: GrantRef(gref),
    }
}

const MAP: (u64, u32, &str) = (10, 7, "map addr=0xa000 gref=8 domid=1 pages=3");
const MAPPED: (u64, u32, &str) = (11, 7, "mapped ret=0");

#[test]
fn an_unmap_that_is_put_off_is_told_when_it_is_done() {
    let lines = [
        MAP,
        MAPPED,
        (20, 7, "ask item=0x1"),
        (30, 99, "look item=0x1"),
        (50, 99, "look item=0x1"),
        (51, 99, "unmap addr=0xa000 pages=3"),
        (53, 99, "done item=0x1"),
    ];
    let told = told(&lines);
    let first = grant(1, 8);
    assert_eq!(told[0], KernelEvent::Mapped { first, pages: 3 });
    let unmapped = KernelEvent::Unmapped {
        first: Some(first),
        pages: 3,
        after_ns: 33_000,
        put_off: 2,
    };
    assert_eq!(told[1], unmapped);
    let all = KernelCounts {
        mapped: 3,
        unmapped: 3,
        put_off: 1,
        ..KernelCounts::default()
    };
    assert_eq!(*counts(&told), all);
}

#[test]
fn an_unmap_that_gntdev_waits_for_is_done_when_it_need_not_wait_any_more() {
    let waits = |item, addr| {
        vec![
            (20, 7, format!("wait item={item}")),
            (40, 9, format!("look item={item}")),
            (41, 9, format!("unmap addr={addr} pages=3")),
            (50, 7, "waited ret=0".to_owned()),
        ]
    };
    let told_of = |lines: &[(u64, u32, String)]| {
        let lines = lines
            .iter()
            .map(|(us, thread, text)| (*us, *thread, text.as_str()));
        told(&[MAP, MAPPED].into_iter().chain(lines).collect::<Vec<_>>())
    };
    let told = told_of(&waits("0x1", "0xa000"));
    let unmapped = KernelEvent::Unmapped {
        first: Some(grant(1, 8)),
        pages: 3,
        after_ns: 30_000,
        put_off: 1,
    };
    assert_eq!(told[1], unmapped);
    assert_eq!(counts(&told).unmapped, 3);
    // Where the asking is seen, too, it is still one unmap.
    let mut both = waits("0x1", "0xa000");
    both.insert(1, (20, 7, "ask item=0x1".to_owned()));
    assert_eq!(told_of(&both)[1], unmapped);
    // Another driver's pages.
    assert_eq!(counts(&told_of(&waits("0x5", "0xb000"))).unmapped, 0);
    // It still waits.
    let told = told_of(&waits("0x1", "0xa000")[..2]);
    assert_eq!(counts(&told).unfinished.len(), 1);
}

#[test]
fn an_unmap_that_is_not_done_is_unfinished() {
    let lines = [
        MAP,
        MAPPED,
        (20, 7, "ask item=0x1"),
        (30, 9, "look item=0x1"),
    ];
    let told = told(&lines);
    let unfinished = &counts(&told).unfinished;
    assert_eq!(
        *unfinished,
        ["an unmap asked for 880.0µs ago, and put off 1 times since"]
    );
    assert_eq!((counts(&told).mapped, counts(&told).unmapped), (3, 0));
}

#[test]
fn what_a_failed_mmap_had_mapped_is_not_counted() {
    let failed = (11, 7, "mapped ret=-22");
    let unmap = [
        (20, 7, "ask item=0x1"),
        (21, 7, "unmap addr=0xa000 pages=3"),
        (22, 7, "done item=0x1"),
    ];
    // After it, in PVH, and within it, in PV.
    let after = [&[MAP, failed][..], &unmap].concat();
    let within = [&[MAP][..], &unmap, &[(30, 7, "mapped ret=-22")]].concat();
    for lines in [after, within] {
        assert_eq!(
            told(&lines),
            [KernelEvent::Counted(KernelCounts::default())]
        );
    }
    // The next mapping of that page counts.
    let again = [&[MAP, failed, MAP, MAPPED][..], &unmap].concat();
    assert_eq!(counts(&told(&again)).unmapped, 3);
}

#[test]
fn other_drivers_maps_and_unmaps_are_not_gntdevs() {
    let lines = [
        MAP,
        (15, 7, "map addr=0xb000 gref=9 domid=1 pages=1"),
        (16, 7, "mapped ret=0"),
        // Not for one that has mapped nothing.
        (17, 8, "mapped ret=0"),
        (20, 3, "ask item=0x5"),
        (21, 3, "unmap addr=0xa000 pages=3"),
    ];
    let told = told(&lines);
    assert_eq!(told.len(), 2);
    let counts = counts(&told);
    assert_eq!((counts.mapped, counts.unmapped), (1, 0));
    assert!(counts.unfinished.is_empty());
}

#[test]
fn a_grant_that_ends_late_is_told_and_one_that_does_not_end_is_counted() {
    let lines = [
        (1, 7, "end1 gref=5"),
        (2, 7, "ended1 ret=1"),
        (3, 7, "end1 gref=6"),
        // A timer's, in between.
        (4, 7, "end1 gref=4"),
        (5, 7, "ended1 ret=0"),
        (6, 7, "ended1 ret=0"),
        (90, 1, "end1 gref=6"),
        (96, 1, "ended1 ret=1"),
    ];
    let told = told(&lines);
    let late = KernelEvent::FreedLate {
        gref: GrantRef(6),
        after_ns: 90_000,
    };
    assert_eq!(told[0], late);
    assert_eq!(counts(&told).late, [GrantRef(4)]);
}

#[test]
fn whatever_may_be_missing_is_a_gap() {
    let others = [
        Input::Line(Line::Lost(12)),
        Input::Gap(Gap::of_all("2 lines could not be read".into())),
    ];
    let lines = [
        (1, 7, "unmap addr=(fault) pages=1"),
        (2, 7, "ask item=0x1"),
        (3, 7, "done item=0x1"),
    ];
    let told = told_with(&lines, &others);
    let gaps = &counts(&told).gaps;
    assert_eq!(gaps.len(), 4, "{gaps:?}");
    assert!(gaps[0].contains("the probe unmap"), "{gaps:?}");
    assert!(gaps[2].contains("12 events lost"), "{gaps:?}");
    let many = vec![Input::Line(Line::Lost(1)); 100];
    let bounded = told_with(&[], &many);
    assert_eq!(counts(&bounded).gaps.len(), MAX_GAPS);
}

#[test]
fn it_is_settled_when_all_is_given_back() {
    let mut account = Account::default();
    let mut feed = |(us, thread, text): (u64, u32, &str)| {
        let (probe, fields) = text.split_once(' ').unwrap();
        let text = format!("x-{thread} [000] ..... 0.{us:06}: {probe}: (f+0x0/0x1) {fields}");
        let line = Line::parse(&text).unwrap();
        account.step(Now::ZERO, Input::Line(line), &mut Vec::new());
        account.is_settled()
    };
    assert!(feed((1, 7, "end1 gref=6")));
    assert!(!feed((2, 7, "ended1 ret=0")));
    assert!(!feed((3, 7, "end1 gref=6")));
    assert!(feed((4, 7, "ended1 ret=1")));
    assert!(feed(MAP), "it is not made yet");
    assert!(!feed(MAPPED));
    assert!(!feed((20, 7, "ask item=0x1")));
    assert!(!feed((21, 7, "unmap addr=0xa000 pages=3")));
    assert!(feed((22, 7, "done item=0x1")));
}

#[test]
fn a_try_that_nobody_saw_counts_where_its_grant_was_not_seen_to_end() {
    let unseen = Input::Gap(Gap {
        why: "a probe was passed unseen".into(),
        only_ends: true,
    });
    let late = [(1, 7, "end1 gref=6"), (2, 7, "ended1 ret=0")];
    let ended = [(3, 9, "end1 gref=6"), (4, 9, "ended1 ret=1")];
    let told = told_with(&late, std::slice::from_ref(&unseen));
    assert_eq!(counts(&told).gaps_of_ends.len(), 1);
    let told = told_with(&[late, ended].concat(), &[unseen]);
    assert!(counts(&told).gaps_of_ends.is_empty());
}

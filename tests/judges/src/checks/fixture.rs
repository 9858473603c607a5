//! A small good run, for the judges' tests to spoil.

use super::{Evidence, RequestLife};
use libgnt::inspect::Inspection;
use libgnt::types::{DomId, ForeignGrant, GrantRef};
use pv_harness::processes::{Aftermath, Exit};
use pv_harness::settings::HoldName;
use pv_harness::timeline::{Event, IoKind, Record};

const FRONT: u32 = 1001;
const BACK: u32 = 1000;
const CONSUMER: u32 = 1002;

fn grant(gref: u32) -> ForeignGrant {
    ForeignGrant {
        domid: DomId(1),
        gref: GrantRef(gref),
    }
}

fn submitted(request: u64, gref: u32) -> Event {
    Event::Submitted {
        request,
        kind: IoKind::Write,
        sector: request * 8,
        bytes: 4096,
        grefs: vec![GrantRef(gref)],
        sha: Some(format!("sha {request}")),
    }
}

/// Request 1 is held from 30 to 90; request 2 comes and goes meanwhile; then page 1 is reused.
pub fn good() -> Vec<Record> {
    let grants = |gref| vec![grant(gref)];
    let seen = |hold| Event::Checksum {
        hold,
        sha: Some("sha 1".into()),
    };
    let all = [
        (10, FRONT, submitted(1, 1)),
        (
            20,
            BACK,
            Event::Mapped {
                request: 7,
                id: 1,
                grants: grants(1),
            },
        ),
        (
            25,
            BACK,
            Event::Lent {
                request: 7,
                hold: 100,
                grants: grants(1),
            },
        ),
        (
            30,
            CONSUMER,
            Event::Held {
                hold: 100,
                kind: HoldName::Pin,
                pages: 1,
            },
        ),
        (35, CONSUMER, seen(100)),
        (
            40,
            BACK,
            Event::UnmapBegan {
                request: 7,
                grants: grants(1),
            },
        ),
        (
            41,
            BACK,
            Event::UnmapReturned {
                request: 7,
                took_us: 1,
                error: None,
            },
        ),
        (50, FRONT, submitted(2, 2)),
        (
            55,
            BACK,
            Event::Mapped {
                request: 8,
                id: 2,
                grants: grants(2),
            },
        ),
        (
            60,
            BACK,
            Event::UnmapBegan {
                request: 8,
                grants: grants(2),
            },
        ),
        (
            61,
            BACK,
            Event::UnmapReturned {
                request: 8,
                took_us: 1,
                error: None,
            },
        ),
        (65, BACK, Event::Released { request: 8 }),
        (
            70,
            BACK,
            Event::Answered {
                request: 8,
                ok: true,
            },
        ),
        (80, FRONT, Event::AnswerTaken { request: 2 }),
        (82, FRONT, Event::Acknowledged { request: 2 }),
        (
            81,
            FRONT,
            Event::InUseAfterAnswer {
                request: 2,
                in_use: vec![],
            },
        ),
        (85, CONSUMER, seen(100)),
        (90, CONSUMER, Event::HoldReleasing { hold: 100 }),
        (
            95,
            CONSUMER,
            Event::HoldReleased {
                hold: 100,
                error: None,
            },
        ),
        (100, BACK, Event::Released { request: 7 }),
        (
            110,
            BACK,
            Event::Answered {
                request: 7,
                ok: true,
            },
        ),
        (120, FRONT, Event::AnswerTaken { request: 1 }),
        (122, FRONT, Event::Acknowledged { request: 1 }),
        (
            121,
            FRONT,
            Event::InUseAfterAnswer {
                request: 1,
                in_use: vec![],
            },
        ),
        (130, FRONT, submitted(3, 1)),
        (140, FRONT, Event::Acknowledged { request: 3 }),
    ];
    let name = |pid| match pid {
        FRONT => "front-end",
        BACK => "back-end",
        _ => "consumer",
    };
    all.into_iter()
        .map(|(ns, pid, event)| Record {
            ns,
            process: name(pid).into(),
            pid,
            event,
        })
        .collect()
}

/// The evidence of [`good`].
pub fn evidence() -> Evidence {
    spoiled(|_| {})
}

/// The evidence of a run whose records were changed first.
pub fn spoiled(change: impl FnOnce(&mut Vec<Record>)) -> Evidence {
    let mut records = good();
    change(&mut records);
    records.sort_by_key(|record| record.ns);
    let exits = ["back-end", "front-end", "consumer"].map(|process| Exit {
        process: process.into(),
        how: "ended well".into(),
        expected: true,
    });
    let aftermath = Aftermath {
        exits: exits.into(),
        records,
        ..Aftermath::default()
    };
    let ledgers = vec![("back-end".into(), vec![]), ("front-end".into(), vec![])];
    Evidence::new(aftermath, Some(Inspection::default()), ledgers)
}

/// The evidence of a run one of whose lives was changed.
pub fn with_life(change: impl FnOnce(&mut RequestLife)) -> Evidence {
    let mut evidence = evidence();
    change(&mut evidence.lives[0]);
    evidence
}

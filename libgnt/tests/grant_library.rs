//! The grant library on the simulated Xen: all or nothing, named bad grants, unmap as a state, the
//! ledger, and honest ends of access.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod sim_common;

use libgnt::event::Events;
use libgnt::grant::{
    EndAccess, EndAccessError, EntryKind, Granter, Ledger, MAX_UNMAPPING, Map, Mapper, Refusal,
    Retry, UnmapError, UnmapState,
};
use libgnt::platform::{CopySegment, CopySide, Platform};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::sim::wire::HoldKind;
use libgnt::types::{Access, DomId, ForeignGrant, GrantRef, GrantStatus, PAGE_SIZE};
use libgnt::{Error, SharedPages};
use mio::{Interest, Poll, Token};
use rustix::io::Errno;
use sim_common::bent::Bent;
use sim_common::{PATIENCE, Xen, byte, eventually, grants};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const FRONT: u16 = 5;

struct Pair {
    xen: Xen,
    back: Arc<SimPlatform>,
    granter: Granter,
    mapper: Mapper,
    front_ledger: Ledger,
}

impl Pair {
    fn new() -> Pair {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Pair {
        let xen = Xen::with(config);
        let (front, back) = (xen.join(FRONT, "front"), xen.join(0, "back"));
        let front_ledger = Ledger::new();
        let granter = Granter::open(front, front_ledger.clone()).unwrap();
        let mapper = Mapper::open(back.clone(), Ledger::new()).unwrap();
        Pair {
            xen,
            back,
            granter,
            mapper,
            front_ledger,
        }
    }

    fn share(&self, pages: usize, access: Access) -> libgnt::grant::Share {
        self.granter.share(DomId(0), pages, access).unwrap()
    }

    fn map(&self, grefs: &[GrantRef]) -> Map {
        self.mapper
            .map(&grants(FRONT, grefs), Access::ReadWrite)
            .unwrap()
    }
}

#[test]
fn a_map_of_several_domains_and_runs_is_one_range() {
    let pair = Pair::new();
    let other = Granter::open(pair.xen.join(6, "other front"), Ledger::new()).unwrap();
    let (a, b) = (
        pair.share(2, Access::ReadWrite),
        other.share(DomId(0), 1, Access::ReadWrite).unwrap(),
    );
    let wanted = [
        ForeignGrant {
            domid: DomId(FRONT),
            gref: a.grefs()[1],
        },
        ForeignGrant {
            domid: DomId(6),
            gref: b.grefs()[0],
        },
        ForeignGrant {
            domid: DomId(FRONT),
            gref: a.grefs()[0],
        },
    ];
    let map = pair.mapper.map(&wanted, Access::ReadWrite).unwrap();
    a.pages().write(PAGE_SIZE, b"A1");
    b.pages().write(0, b"B0");
    map.pages().write(2 * PAGE_SIZE, b"to A0");
    let mut text = [0; 2];
    map.pages().read(0, &mut text);
    assert_eq!(&text, b"A1");
    map.pages().read(PAGE_SIZE, &mut text);
    assert_eq!(&text, b"B0");
    let mut text = [0; 5];
    a.pages().read(0, &mut text);
    assert_eq!(&text, b"to A0");
}

#[test]
fn a_partly_bad_batch_names_the_bad_ones_and_leaves_nothing() {
    let pair = Pair::new();
    let good = pair.share(20, Access::ReadWrite);
    let read_only = pair.share(1, Access::ReadOnly);
    let mut wanted = grants(FRONT, good.grefs());
    wanted.insert(
        3,
        ForeignGrant {
            domid: DomId(FRONT),
            gref: GrantRef(30_000),
        },
    );
    wanted.insert(
        9,
        ForeignGrant {
            domid: DomId(FRONT),
            gref: read_only.grefs()[0],
        },
    );
    wanted.push(ForeignGrant {
        domid: DomId(77),
        gref: GrantRef(8),
    });
    let error = pair.mapper.map(&wanted, Access::ReadWrite).unwrap_err();
    let Error::BadGrants { bad, batch, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*batch, 23);
    let found: Vec<_> = bad.iter().map(|b| (b.grant, b.status)).collect();
    assert_eq!(
        found,
        [
            (wanted[3], Some(GrantStatus::BAD_GNTREF)),
            (wanted[9], Some(GrantStatus::PERMISSION_DENIED)),
            (wanted[22], Some(GrantStatus::BAD_DOMAIN)),
        ],
        "{error}"
    );
    assert!(pair.mapper.ledger().counts().is_empty());
    let inspection = pair.back.inspect().unwrap();
    assert!(
        inspection.grants.iter().all(|g| g.maps == 0),
        "{:?}",
        inspection.grants
    );
    assert!(inspection.unmapping.is_empty());
    // What was good still is.
    pair.map(good.grefs())
        .unmap()
        .unwrap()
        .wait(PATIENCE)
        .unwrap();
}

#[test]
fn unmap_is_over_only_when_the_holder_lets_go_and_the_ledger_names_it() {
    let pair = Pair::new();
    let share = pair.share(3, Access::ReadWrite);
    let map = pair.map(share.grefs());
    let hold = pair.back.pin(map.pages(), 1, 1, HoldKind::I915).unwrap();
    let consumer = pair.xen.join(0, "consumer");
    let live = consumer.attach(hold).unwrap();

    let unmapping = map.unmap().unwrap();
    assert_eq!(unmapping.poll().unwrap(), UnmapState::Unmapping);
    assert_eq!(pair.mapper.unmapping(), 1);
    let entries = pair.mapper.ledger_with_holders().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].kind, EntryKind::Unmapping);
    assert_eq!(entries[0].grants, grants(FRONT, share.grefs()));
    assert_eq!(entries[0].holders[0].process, "consumer", "{}", entries[0]);

    // The granter hears the truth, and the holder sees the live page.
    let share = match share.end_access().unwrap_err() {
        EndAccessError::InUse { share, grefs } => {
            assert_eq!(grefs, share.grefs());
            share
        }
        other => panic!("{other:?}"),
    };
    share.pages().write(PAGE_SIZE, &[42]);
    assert_eq!(byte(&live, 0), 42);
    let timeout = unmapping.wait(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(timeout, Error::Timeout { .. }), "{timeout}");

    consumer.release(hold).unwrap();
    unmapping.wait(PATIENCE).unwrap();
    assert_eq!(unmapping.state(), UnmapState::Released);
    assert!(pair.mapper.ledger().counts().is_empty());
    assert!(matches!(share.end_access().unwrap(), EndAccess::Ended));
    assert!(pair.front_ledger.counts().is_empty());
}

#[test]
fn releases_wake_an_event_loop_once_for_each_unmap() {
    let pair = Pair::new();
    let share = pair.share(8, Access::ReadWrite);
    let mut poll = Poll::new().unwrap();
    let mut source = pair.mapper.clone();
    poll.registry()
        .register(&mut source, Token(7), Interest::READABLE)
        .unwrap();
    let mut waiting: Vec<_> = share
        .grefs()
        .iter()
        .map(|gref| pair.map(&[*gref]).unmap().unwrap().id())
        .collect();
    let mut events = mio::Events::with_capacity(4);
    while !waiting.is_empty() {
        for id in pair.mapper.process_releases().unwrap() {
            assert!(waiting.contains(&id), "{id:?} twice, or never begun");
            waiting.retain(|w| *w != id);
        }
        if !waiting.is_empty() {
            poll.poll(&mut events, Some(PATIENCE)).unwrap();
            assert!(!events.is_empty(), "no event for {waiting:?}");
        }
    }
    assert!(pair.mapper.process_releases().unwrap().is_empty());
    assert_eq!(pair.mapper.unmapping(), 0);
}

#[test]
fn pages_in_use_here_are_not_unmapped_under_their_user() {
    let pair = Pair::new();
    let share = pair.share(1, Access::ReadWrite);
    let map = pair.map(share.grefs());
    let user = Arc::clone(map.pages());
    let refused = map.unmap().unwrap_err();
    let UnmapError::Refused {
        reason: Refusal::InUse { uses: 1 },
        map,
    } = *refused
    else {
        panic!("{refused}")
    };
    user.write(0, b"still mapped");
    drop(user);
    map.unmap().unwrap().wait(PATIENCE).unwrap();
}

#[test]
fn dropped_maps_are_followed_to_their_end() {
    let pair = Pair::new();
    let share = pair.share(2, Access::ReadWrite);
    let map = pair.map(share.grefs());
    let hold = pair.back.pin(map.pages(), 0, 1, HoldKind::Plain).unwrap();
    drop(map);
    assert_eq!(pair.mapper.ledger().counts().unmapping_pages, 2);
    pair.back.release(hold).unwrap();
    eventually("the dropped map is released", || {
        pair.mapper.process_releases().unwrap();
        pair.mapper.ledger().counts().is_empty()
    });
    assert!(matches!(share.end_access().unwrap(), EndAccess::Ended));
}

#[test]
fn a_notice_armed_for_the_peer_goes_to_the_peer() {
    let pair = Pair::new();
    let front = pair.xen.join(FRONT, "front's events");
    let front_events = Events::open(&*front).unwrap();
    let listen = front_events.bind_unbound(DomId(0)).unwrap();
    let back_events = Events::open(&*pair.back).unwrap();
    let notify = back_events
        .bind_interdomain(DomId(FRONT), listen.port())
        .unwrap();

    let share = pair.share(1, Access::ReadWrite);
    share.pages().write(63, &[1]);
    let map = pair.map(share.grefs());
    map.set_unmap_notify(Some(63), Some(notify.port())).unwrap();
    let unmapping = map.unmap().unwrap();
    assert_eq!(front_events.wait(PATIENCE).unwrap(), [listen.port()]);
    assert_eq!(byte(share.pages(), 63), 0);
    let error = unmapping.wait(PATIENCE).unwrap_err();
    assert!(
        matches!(error, Error::NotAvailable { .. }),
        "nobody can know twice: {error}"
    );
    let counts = pair.mapper.ledger().counts();
    assert_eq!((counts.unmapping_pages, counts.untold_pages), (0, 1));
}

#[test]
fn unmaps_in_progress_are_bounded_and_the_map_survives_the_refusal() {
    let pair = Pair::new();
    let share = pair.share(1, Access::ReadWrite);
    let mut held = Vec::new();
    for _ in 0..MAX_UNMAPPING {
        let map = pair.map(share.grefs());
        held.push(pair.back.pin(map.pages(), 0, 1, HoldKind::Plain).unwrap());
        map.unmap().unwrap();
    }
    let refused = pair.map(share.grefs()).unmap().unwrap_err();
    let UnmapError::Refused {
        reason: Refusal::TooMany,
        map,
    } = *refused
    else {
        panic!("{refused}")
    };
    map.pages().write(0, b"usable");
    pair.back.release(held.pop().unwrap()).unwrap();
    let mut map = Some(map);
    eventually("one release makes room", || {
        pair.mapper.process_releases().unwrap();
        match map.take().unwrap().unmap() {
            Ok(_) => true,
            Err(refused) => {
                let too_many = Refusal::TooMany.to_string();
                assert!(refused.to_string().contains(&too_many), "{refused}");
                map = refused.into_map();
                false
            }
        }
    });
}

#[test]
fn a_copy_gives_every_segment_its_status() {
    let pair = Pair::new();
    let share = pair.share(2, Access::ReadWrite);
    share.pages().write(100, b"granted");
    let local = SharedPages::anonymous(2).unwrap();
    let side = |gref, offset| CopySide::Grant {
        grant: ForeignGrant {
            domid: DomId(FRONT),
            gref,
        },
        offset,
    };
    let segment = |source, dest, len| CopySegment {
        source,
        dest,
        len,
        status: GrantStatus::OKAY,
    };
    let at = |offset| CopySide::Local {
        pages: &local,
        offset,
    };
    let mut segments = [
        // The local side may cross pages.
        segment(side(share.grefs()[0], 100), at(PAGE_SIZE - 3), 7),
        segment(side(GrantRef(30_000), 0), at(0), 8),
        segment(at(PAGE_SIZE - 3), side(share.grefs()[1], 4089), 7),
    ];
    pair.mapper.copy(&mut segments).unwrap();
    let statuses: Vec<_> = segments.iter().map(|s| s.status).collect();
    assert_eq!(
        statuses,
        [
            GrantStatus::OKAY,
            GrantStatus::BAD_GNTREF,
            GrantStatus::OKAY
        ]
    );
    let mut text = [0; 7];
    share.pages().read(PAGE_SIZE + 4089, &mut text);
    assert_eq!(&text, b"granted");
    let error = pair.mapper.copy_all(&mut segments).unwrap_err().to_string();
    assert!(
        error.contains("0x7530 of domain 5: no such grant"),
        "{error}"
    );
    let mut outside = [segment(side(share.grefs()[0], 4090), at(0), 7)];
    assert_eq!(
        pair.mapper.copy(&mut outside).unwrap_err().errno(),
        Some(Errno::INVAL)
    );
}

#[test]
fn quota_is_waited_for_with_a_deadline() {
    let mut config = Config::default();
    config.gntalloc_limit = 4;
    let pair = Pair::with(config);
    let first = pair.share(3, Access::ReadWrite);
    let at_once = pair
        .granter
        .share(DomId(0), 2, Access::ReadWrite)
        .unwrap_err();
    assert_eq!(at_once.errno(), Some(Errno::NOSPC));
    let short = Retry::until(Duration::from_millis(10));
    let late = pair
        .granter
        .share_patiently(DomId(0), 2, Access::ReadWrite, short)
        .unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
    let granter = pair.granter.clone();
    let waiter = std::thread::spawn(move || {
        let patient = Retry::until(PATIENCE);
        granter
            .share_patiently(DomId(0), 2, Access::ReadWrite, patient)
            .map(|s| s.grefs().len())
    });
    drop(first);
    assert_eq!(waiter.join().unwrap().unwrap(), 2);
}

#[test]
fn a_domains_own_grants_are_refused_once_it_is_known() {
    let pair = Pair::new();
    let front = pair.xen.join(FRONT, "front-mapper");
    let own = pair.granter.share(DomId(FRONT), 1, Access::ReadWrite);
    let own = own.unwrap();
    let own = grants(FRONT, own.grefs());
    // What is not known to be PV is taken for what a map would crash.
    let (container, bend) = Bent::new(front.clone());
    bend.no_guest_type.store(true, Ordering::Relaxed);
    for platform in [front as Arc<dyn Platform>, container] {
        let mapper = Mapper::open(platform, Ledger::new()).unwrap();
        // The simulator maps it, as a PV guest does: what is refused below is refused by us.
        mapper.map(&own, Access::ReadWrite).unwrap();
        mapper.refuse_grants_of(DomId(FRONT));
        let error = mapper.map(&own, Access::ReadWrite).unwrap_err();
        assert!(error.to_string().contains("domain 5, itself"), "{error}");
        let of_self = ForeignGrant {
            domid: DomId::SELF,
            ..own[0]
        };
        mapper.map(&[of_self], Access::ReadWrite).unwrap_err();
    }
    pair.mapper.refuse_grants_of(DomId::DOM0);
    let theirs = pair.share(1, Access::ReadWrite);
    pair.map(theirs.grefs());
}

#[test]
fn a_sync_unmap_under_i915_is_a_named_deadlock_and_ends() {
    let xen = Xen::sync();
    let (front, back) = (xen.join(FRONT, "front"), xen.join(0, "back"));
    let granter = Granter::open(front, Ledger::new()).unwrap();
    let mapper = Mapper::open(back.clone() as Arc<dyn Platform>, Ledger::new()).unwrap();
    let share = granter.share(DomId(0), 1, Access::ReadWrite).unwrap();
    let map = mapper
        .map(&grants(FRONT, share.grefs()), Access::ReadWrite)
        .unwrap();
    let hold = back.pin(map.pages(), 0, 1, HoldKind::I915).unwrap();
    let consumer = xen.join(0, "consumer");
    let _live = consumer.attach(hold).unwrap();
    let unmapper = std::thread::spawn(move || map.unmap());
    eventually("the unmap blocks", || {
        !consumer.inspect().unwrap().unmapping.is_empty()
    });
    consumer.release(hold).unwrap();
    let refused = unmapper.join().unwrap().unwrap_err();
    let UnmapError::Failed {
        error: Error::Deadlock { cycle },
        unmapping,
    } = *refused
    else {
        panic!("{refused}")
    };
    assert_eq!(cycle.len(), 2, "{cycle:?}");
    unmapping.wait(PATIENCE).unwrap();
}

#[test]
fn to_name_bad_grants_takes_few_calls_however_many_are_bad() {
    let pair = Pair::new();
    let (bent, bend) = Bent::new(pair.back.clone());
    let mapper = Mapper::open(bent, Ledger::new()).unwrap();
    let missing: Vec<_> = (30_000..30_011).map(GrantRef).collect();
    let read_only = pair.share(11, Access::ReadOnly);
    let many = pair.share(200, Access::ReadOnly);
    for (grefs, most) in [
        (&missing[..], 20),
        (read_only.grefs(), 80),
        (many.grefs(), 150),
    ] {
        let before = bend.gntdev_calls.load(Ordering::Relaxed);
        let error = mapper
            .map(&grants(FRONT, grefs), Access::ReadWrite)
            .unwrap_err();
        let Error::BadGrants { bad, .. } = error else {
            panic!("{error}")
        };
        assert!(bad.len() >= 11, "{bad:?}");
        let calls = bend.gntdev_calls.load(Ordering::Relaxed) - before;
        assert!(calls <= most, "{calls} calls for {} grants", grefs.len());
        // And none at all for who does not ask.
        let before = bend.gntdev_calls.load(Ordering::Relaxed);
        let wanted = grants(FRONT, grefs);
        let error = mapper.try_map(&wanted, Access::ReadWrite).unwrap_err();
        assert_eq!(bend.gntdev_calls.load(Ordering::Relaxed) - before, 3);
        let named = mapper.explain(&wanted, Access::ReadWrite, error);
        assert!(matches!(named, Error::BadGrants { .. }), "{named}");
    }
}

#[test]
fn what_must_be_tried_again_is_slept_on_only_by_who_wants_that() {
    let pair = Pair::new();
    let (bent, bend) = Bent::new(pair.back.clone());
    let mapper = Mapper::open(bent, Ledger::new()).unwrap();
    let share = pair.share(1, Access::ReadWrite);
    let wanted = grants(FRONT, share.grefs());
    bend.map_again.store(1, Ordering::Relaxed);
    let error = mapper.try_map(&wanted, Access::ReadWrite).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::AGAIN));
    bend.map_again.store(1, Ordering::Relaxed);
    mapper.map(&wanted, Access::ReadWrite).unwrap();

    let local = SharedPages::anonymous(1).unwrap();
    let segment = |gref| CopySegment {
        source: CopySide::Grant {
            grant: ForeignGrant {
                domid: DomId(FRONT),
                gref,
            },
            offset: 0,
        },
        dest: CopySide::Local {
            pages: &local,
            offset: 0,
        },
        len: 8,
        status: GrantStatus::OKAY,
    };
    let mut good = [segment(share.grefs()[0])];
    bend.copy_again.store(1, Ordering::Relaxed);
    let error = mapper.try_copy_all(&mut good).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::AGAIN));
    mapper.try_copy_all(&mut good).unwrap();
    bend.copy_again.store(2, Ordering::Relaxed);
    mapper.copy_all(&mut good).unwrap();
    let error = mapper.try_copy_all(&mut [segment(GrantRef(30_000))]);
    assert!(matches!(error, Err(Error::BadGrants { .. })), "{error:?}");
}

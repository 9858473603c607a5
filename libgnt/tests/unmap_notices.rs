//! Who tells that an unmap is over: few event channels, notices that cannot be armed, events that
//! are lost. Nothing is kept that is not used, nothing waits for ever, and the ledger lists what is
//! held.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

mod sim_common;

use libgnt::event::{Channel, Events};
use libgnt::grant::{
    EntryKind, Granter, IDLE_PAIRS, Ledger, Map, Mapper, Refusal, Share, UnmapError, UnmapState,
};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::sim::wire::HoldKind;
use libgnt::types::{Access, DomId};
use rustix::io::Errno;
use sim_common::bent::{Bend, Bent};
use sim_common::{PATIENCE, Xen, eventually, grants};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const FRONT: u16 = 5;
/// Where the mapper is: not dom0, whose ports the host's own things may use.
const BACK: u16 = 6;

struct Pair {
    _xen: Xen,
    back: Arc<SimPlatform>,
    bend: Arc<Bend>,
    mapper: Mapper,
    share: Share,
}

impl Pair {
    fn new() -> Pair {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Pair {
        let xen = Xen::with(config);
        let (front, back) = (xen.join(FRONT, "front"), xen.join(BACK, "back"));
        let granter = Granter::open(front, Ledger::new()).unwrap();
        let share = granter.share(DomId(BACK), 1, Access::ReadWrite).unwrap();
        let (bent, bend) = Bent::new(back.clone());
        let mapper = Mapper::open(bent, Ledger::new()).unwrap();
        Pair {
            _xen: xen,
            back,
            bend,
            mapper,
            share,
        }
    }

    fn map(&self) -> Map {
        let grants = grants(FRONT, self.share.grefs());
        self.mapper.map(&grants, Access::ReadWrite).unwrap()
    }

    /// A map whose page somebody holds.
    fn held(&self) -> (Map, libgnt::sim::wire::HoldId) {
        let map = self.map();
        let hold = self.back.pin(map.pages(), 0, 1, HoldKind::Plain).unwrap();
        (map, hold)
    }

    fn ports(&self) -> usize {
        self.back.inspect().unwrap().event_channels as usize
    }

    fn all_released(&self) {
        eventually("everything is released", || {
            self.mapper.process_releases().unwrap();
            self.mapper.ledger().counts().is_empty()
        });
        let inspection = self.back.inspect().unwrap();
        assert!(inspection.grants.iter().all(|grant| grant.maps == 0));
    }

    /// Somebody else of the domain takes all ports that are left.
    fn take_all_ports(&self) -> (Events, Vec<Channel>) {
        let events = Events::open(&*self.back).unwrap();
        let mut taken = Vec::new();
        loop {
            match events.bind_unbound(DomId::SELF) {
                Ok(channel) => taken.push(channel),
                Err(error) => {
                    assert_eq!(error.errno(), Some(Errno::NOSPC), "{error}");
                    return (events, taken);
                }
            }
        }
    }
}

fn few_ports() -> Config {
    let mut config = Config::default();
    config.event_channels = 64;
    config
}

#[test]
fn ports_that_no_unmap_needs_any_more_are_given_back() {
    const UNMAPS: usize = 100;
    let pair = Pair::new();
    let (maps, holds): (Vec<_>, Vec<_>) = (0..UNMAPS).map(|_| pair.held()).unzip();
    for map in maps {
        map.unmap().unwrap();
    }
    assert!(pair.ports() >= 2 * UNMAPS);
    for hold in holds {
        pair.back.release(hold).unwrap();
    }
    pair.all_released();
    assert!(pair.ports() <= 2 * IDLE_PAIRS, "{} ports", pair.ports());
    // The reserve is enough for who unmaps a ring's worth at a time.
    let before = pair.bend.port_calls.load(Relaxed);
    for _ in 0..10 {
        let maps: Vec<Map> = (0..IDLE_PAIRS).map(|_| pair.map()).collect();
        for map in maps {
            map.unmap().unwrap();
        }
        pair.all_released();
    }
    assert_eq!(pair.bend.port_calls.load(Relaxed), before);
}

#[test]
fn a_mapper_unmaps_though_others_took_all_ports() {
    let pair = Pair::with(few_ports());
    let others = pair.take_all_ports();
    for _ in 0..3 {
        pair.map().unmap().unwrap().wait(PATIENCE).unwrap();
    }
    // One at a time: the next one is refused, and works when the first is over.
    let (map, hold) = pair.held();
    let first = map.unmap().unwrap();
    let refused = pair.map().unmap().unwrap_err();
    let UnmapError::Refused {
        reason: Refusal::TooMany,
        map,
    } = *refused
    else {
        panic!("{refused}")
    };
    pair.back.release(hold).unwrap();
    first.wait(PATIENCE).unwrap();
    map.unmap().unwrap().wait(PATIENCE).unwrap();
    // And more at a time when there are ports again.
    drop(others);
    let (maps, holds): (Vec<_>, Vec<_>) = (0..8).map(|_| pair.held()).unzip();
    let unmaps: Vec<_> = maps.into_iter().map(|map| map.unmap().unwrap()).collect();
    for hold in holds {
        pair.back.release(hold).unwrap();
    }
    for unmap in unmaps {
        unmap.wait(PATIENCE).unwrap();
    }
}

#[test]
fn a_mapper_without_any_port_says_what_to_do() {
    let pair = Pair::with(few_ports());
    let _others = pair.take_all_ports();
    let error = Mapper::open(pair.back.clone(), Ledger::new()).unwrap_err();
    assert!(error.to_string().contains("max_event_channels"), "{error}");
}

#[test]
fn where_ports_are_few_no_reserve_is_kept() {
    let pair = Pair::with(few_ports());
    pair.mapper.process_releases().unwrap();
    let (maps, holds): (Vec<_>, Vec<_>) = (0..20).map(|_| pair.held()).unzip();
    for map in maps {
        map.unmap().unwrap();
    }
    let others = pair.take_all_ports();
    let refused = pair.map().unmap().unwrap_err();
    assert!(
        matches!(
            *refused,
            UnmapError::Refused {
                reason: Refusal::TooMany,
                ..
            }
        ),
        "{refused}"
    );
    drop(refused);
    drop(others);
    for hold in holds {
        pair.back.release(hold).unwrap();
    }
    pair.all_released();
    assert!(pair.ports() <= 4, "{} ports", pair.ports());
}

#[test]
fn dropped_maps_that_find_no_port_are_let_go_of_later_and_listed_meanwhile() {
    let pair = Pair::with(few_ports());
    let _others = pair.take_all_ports();
    pair.mapper.process_releases().unwrap();
    let (first, hold) = pair.held();
    first.unmap().unwrap();
    let second: Vec<Map> = (0..5).map(|_| pair.map()).collect();
    drop(second);
    pair.mapper.process_releases().unwrap();
    let counts = pair.mapper.ledger().counts();
    assert_eq!((counts.mapped_pages, counts.unmapping_pages), (5, 1));
    pair.back.release(hold).unwrap();
    pair.all_released();
}

#[test]
fn who_never_processes_releases_still_finds_ports() {
    let pair = Pair::new();
    pair.mapper.limit_unmapping(4);
    for _ in 0..20 {
        drop(pair.map());
    }
    pair.all_released();
    pair.mapper.limit_unmapping(0);
    pair.map().unmap().unwrap().wait(PATIENCE).unwrap();
}

#[test]
fn a_notice_that_cannot_be_armed_costs_nothing_but_the_news() {
    let pair = Pair::new();
    pair.bend.no_notice.store(1, Relaxed);
    let refused = pair.map().unmap().unwrap_err();
    let UnmapError::Refused {
        reason: Refusal::NoNotice(_),
        map,
    } = *refused
    else {
        panic!("{refused}")
    };
    map.pages().write(0, b"still mapped");
    map.unmap().unwrap().wait(PATIENCE).unwrap();

    pair.bend.no_notice.store(1, Relaxed);
    let (map, hold) = pair.held();
    let refused = map.unmap().unwrap_err();
    let UnmapError::Refused {
        reason: Refusal::NoNotice(_),
        map,
    } = *refused
    else {
        panic!("{refused}")
    };
    let unmapping = map.unmap_untold().unwrap();
    assert!(!unmapping.is_told());
    assert_eq!(unmapping.poll().unwrap(), UnmapState::Unmapping);
    unmapping.wait(PATIENCE).unwrap_err();
    assert_eq!(pair.mapper.unmapping(), 0, "nobody waits for ever");
    let entries = pair.mapper.ledger().snapshot();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].kind, EntryKind::Untold);
    // What the hypervisor did is another matter.
    assert_eq!(pair.back.inspect().unwrap().unmapping.len(), 1);
    pair.back.release(hold).unwrap();
}

#[test]
fn a_page_whose_notice_goes_to_the_peer_stays_in_the_ledger() {
    let pair = Pair::new();
    let events = Events::open(&*pair.back).unwrap();
    let channel = events.bind_unbound(DomId(FRONT)).unwrap();
    let (map, hold) = pair.held();
    map.set_unmap_notify(Some(63), Some(channel.port()))
        .unwrap();
    map.unmap().unwrap();
    let entries = pair.mapper.ledger().snapshot();
    assert_eq!(entries.len(), 1, "{entries:?}");
    pair.back.release(hold).unwrap();

    // Who disarms the event first hears of the release himself.
    let pair = Pair::new();
    let events = Events::open(&*pair.back).unwrap();
    let channel = events.bind_unbound(DomId(FRONT)).unwrap();
    let (map, hold) = pair.held();
    map.set_unmap_notify(Some(63), Some(channel.port()))
        .unwrap();
    map.set_unmap_notify(Some(63), None).unwrap();
    let unmapping = map.unmap().unwrap();
    assert_eq!(pair.mapper.ledger().counts().unmapping_pages, 1);
    pair.back.release(hold).unwrap();
    unmapping.wait(PATIENCE).unwrap();
    assert!(pair.mapper.ledger().counts().is_empty());
}

#[test]
fn releases_whose_events_were_lost_are_looked_for() {
    let pair = Pair::new();
    pair.mapper.process_releases().unwrap();
    let (maps, mut holds): (Vec<_>, Vec<_>) = (0..6).map(|_| pair.held()).unzip();
    let unmaps: Vec<_> = maps.into_iter().map(|map| map.unmap().unwrap()).collect();
    for hold in holds.drain(..3) {
        pair.back.release(hold).unwrap();
    }
    eventually("three are released", || {
        pair.back.inspect().unwrap().unmapping.len() == 3
    });
    pair.bend.overflow.store(true, Relaxed);
    let mut over = pair.mapper.process_releases().unwrap();
    over.sort_unstable();
    let first: Vec<_> = unmaps[..3].iter().map(|unmap| unmap.id()).collect();
    assert_eq!(over, first, "the first three, and nothing else");
    assert_eq!(pair.mapper.unmapping(), 3);
    // Those that were held still are told of as ever.
    for hold in holds {
        pair.back.release(hold).unwrap();
    }
    for unmap in &unmaps[3..] {
        unmap.wait(PATIENCE).unwrap();
    }
    pair.all_released();
    for _ in 0..3 {
        let (map, hold) = pair.held();
        let unmapping = map.unmap().unwrap();
        pair.mapper.process_releases().unwrap();
        assert_eq!(unmapping.state(), UnmapState::Unmapping, "a stale event");
        pair.back.release(hold).unwrap();
        unmapping.wait(PATIENCE).unwrap();
    }
}

//! Two hands of two domains of a simulated Xen, and what they answer.

use super::*;
use crate::holder::{kernel_holder, sha256};
use crate::host;
use crate::picture::draw as drawn;
use crate::settings::HoldName;
use crate::timeline::{Event, Timeline, read_file};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::{Access, DomId, ForeignGrant, GrantRef, PAGE_SIZE, PlatformChoice};
use rustix::io::Errno;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A hand in this process. Orders and answers pass through JSON, as on every other link.
struct Near {
    hand: Hand,
    answer: Option<String>,
}

impl Link for Near {
    type Lost = Infallible;

    fn send(&mut self, order: &Order) -> Result<(), Infallible> {
        let order = serde_json::from_str(&serde_json::to_string(order).unwrap()).unwrap();
        let answer = self.hand.perform(order);
        self.answer = Some(serde_json::to_string(&answer).unwrap());
        Ok(())
    }

    fn receive(&mut self) -> Result<Answer, Infallible> {
        let answer = self.answer.take().unwrap();
        Ok(serde_json::from_str(&answer).unwrap())
    }
}

struct Xen {
    dir: tempfile::TempDir,
    host: Option<host::RunningHost>,
}

impl Xen {
    fn new() -> Xen {
        let dir = tempfile::tempdir().unwrap();
        let started = host::start(dir.path(), Config::default(), None, Timeline::none()).unwrap();
        let dom0 = SimPlatform::connect(dir.path(), Some(DomId::DOM0), "dom0", true).unwrap();
        for domid in [1, 2] {
            dom0.create_domain(DomId(domid), "domain").unwrap();
        }
        Xen {
            dir,
            host: Some(started),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn hand(&self, domid: u16, timeline: Timeline) -> RemoteHand<Near> {
        let choice = PlatformChoice::Sim(self.path().to_owned());
        let platform = libgnt::open(&choice, Some(DomId(domid)), "hand").unwrap();
        RemoteHand::over(Near {
            hand: Hand::new(platform, timeline),
            answer: None,
        })
    }

    fn pair(&self) -> (RemoteHand<Near>, RemoteHand<Near>) {
        (
            self.hand(1, Timeline::none()),
            self.hand(2, Timeline::none()),
        )
    }
}

impl Drop for Xen {
    fn drop(&mut self) {
        self.host.take().unwrap().stop().unwrap();
    }
}

fn of_the_first(grefs: &[GrantRef]) -> Vec<ForeignGrant> {
    let domid = DomId(1);
    grefs
        .iter()
        .map(|&gref| ForeignGrant { domid, gref })
        .collect()
}

fn refusal<T: std::fmt::Debug>(told: Result<T, Unanswered<Infallible>>) -> Refusal {
    match told {
        Err(Unanswered::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_go_from_hand_to_hand_and_come_back() {
    let xen = Xen::new();
    let (mut granter, mut mapper) = xen.pair();
    let (share, grefs) = granter.share(DomId(2), 2, Access::ReadWrite).unwrap();
    granter.stamp(share).unwrap();
    let map = mapper.map(of_the_first(&grefs), Access::ReadWrite).unwrap();
    assert_eq!(mapper.count_stamped(map).unwrap(), 2);
    let there = Pages::Map(map).at(PAGE_SIZE + 1);
    mapper.write(there, b"hello").unwrap();
    assert_eq!(mapper.count_stamped(map).unwrap(), 1);
    let here = Pages::Share(share).at(PAGE_SIZE + 1);
    assert_eq!(granter.read(here, 5).unwrap(), b"hello");
    assert_eq!(granter.end_access(share).unwrap(), Ending::InUse(grefs));
    mapper.unmap(map).unwrap();
    mapper.await_release(map, PATIENCE).unwrap();
    assert_eq!(granter.end_access(share).unwrap(), Ending::Ended);
    assert_eq!(granter.ledger().unwrap(), Vec::<String>::new());
    assert_eq!(mapper.ledger().unwrap(), Vec::<String>::new());
    // Handles of what is gone name nothing any more.
    assert!(refusal(granter.end_access(share)).why.contains("share 0"));
    assert!(refusal(mapper.unmap(map)).why.contains("map 0"));
}

#[test]
fn a_refusal_names_the_bad_grants_with_their_status_or_the_errno() {
    let xen = Xen::new();
    let (mut granter, mut mapper) = xen.pair();
    let (_, mut grefs) = granter.share(DomId(2), 1, Access::ReadWrite).unwrap();
    grefs.push(GrantRef(29_999));
    let grants = of_the_first(&grefs);
    let refused = refusal(mapper.map(grants.clone(), Access::ReadWrite));
    let bad: Vec<ForeignGrant> = refused.bad.iter().map(|bad| bad.grant).collect();
    assert_eq!(bad, grants[1..], "{refused}");
    assert!(
        refused.bad[0]
            .status
            .is_some_and(|status| !status.is_okay())
    );
    // One system call has an errno, and no more.
    let map = Order::Device(DeviceOrder::Map {
        grants,
        access: Access::ReadWrite,
    });
    assert_eq!(refusal(mapper.mapped(&map)).errno(), Some(Errno::INVAL));
}

#[test]
fn orders_that_make_no_sense_are_refused_and_harm_nobody() {
    let xen = Xen::new();
    let (mut granter, mut mapper) = xen.pair();
    let (share, grefs) = granter.share(DomId(2), 1, Access::ReadOnly).unwrap();
    let map = mapper.map(of_the_first(&grefs), Access::ReadOnly).unwrap();
    let (pages, shared) = (Pages::Map(map), Pages::Share(share));
    refusal(mapper.write(pages.at(0), b"x"));
    refusal(mapper.read(pages.at(PAGE_SIZE - 1), 2));
    refusal(mapper.read(pages.at(usize::MAX), 2));
    refusal(mapper.await_release(map, PATIENCE));
    // What the library made is not ended behind its back.
    for order in [
        DeviceOrder::Munmap(pages),
        DeviceOrder::Close(pages),
        DeviceOrder::Unmap(map),
    ] {
        refusal(mapper.done(&Order::Device(order)));
    }
    refusal(granter.done(&Order::Device(DeviceOrder::Dealloc(share))));
    granter.write(shared.at(0), b"still").unwrap();
    assert_eq!(mapper.read(pages.at(0), 5).unwrap(), b"still");
}

#[test]
fn what_a_hand_has_goes_when_it_forgets() {
    let xen = Xen::new();
    let (mut granter, mut mapper) = xen.pair();
    let (share, grefs) = granter.share(DomId(2), 1, Access::ReadWrite).unwrap();
    let map = mapper.map(of_the_first(&grefs), Access::ReadWrite).unwrap();
    mapper.lend(map, HoldName::Pin, 1).unwrap();
    mapper.link().hand.forget();
    refusal(mapper.unmap(map));
    granter.done(&Order::Ping).unwrap();
    drop(mapper);
    let begun = std::time::Instant::now();
    while granter.end_access(share).unwrap() != Ending::Ended {
        assert!(begun.elapsed() < PATIENCE, "the grant stays in use");
        std::thread::yield_now();
    }
}

#[test]
fn a_loan_that_nobody_takes_is_let_go_and_one_that_is_taken_is_seen_and_stays() {
    let xen = Xen::new();
    let (mut granter, mut mapper) = xen.pair();
    let mut consumer = xen.hand(2, Timeline::none());
    let (share, grefs) = granter.share(DomId(2), 2, Access::ReadWrite).unwrap();
    let map = mapper.map(of_the_first(&grefs), Access::ReadWrite).unwrap();
    let (mine, loan) = mapper.lend(map, HoldName::Pin, 2).unwrap();
    let (other, _) = mapper.lend(map, HoldName::I915, 2).unwrap();
    let held = consumer.attach(loan).unwrap();
    mapper.settle(mine, true).unwrap();
    mapper.settle(other, false).unwrap();
    refusal(mapper.settle(other, false));
    mapper.unmap(map).unwrap();
    granter
        .done(&Order::Fill(Pages::Share(share), 0x5a))
        .unwrap();
    let seen = consumer.look(held).unwrap();
    assert_eq!(seen, Some(sha256(&[0x5a; 2 * PAGE_SIZE])));
    refusal(mapper.await_release(map, Duration::from_millis(50)));
    consumer.release(held).unwrap();
    mapper.await_release(map, PATIENCE).unwrap();
    refusal(consumer.look(held));
}

/// Pages of the system, not of Xen: what matters here is the descriptors' way.
#[test]
fn descriptors_of_a_loan_are_had_by_their_numbers() {
    let pages = libgnt::SharedPages::anonymous(1).unwrap();
    pages.fill(0, PAGE_SIZE, 7);
    let holder = kernel_holder(HoldName::Fork).unwrap();
    let export = holder.hold(&pages, 0, 1).unwrap();
    let loan = Loan::of(&export).unwrap();
    let gone = Loan {
        fds: vec![1 << 40],
        ..loan.clone()
    };
    assert!(gone.take(&*holder).is_err());
    let mut held = loan.take(&*holder).unwrap();
    drop(export);
    assert_eq!(held.checksum().unwrap(), Some(sha256(&[7; PAGE_SIZE])));
}

#[test]
fn a_timeline_has_the_life_of_a_map_and_of_a_hold() {
    let xen = Xen::new();
    let path = xen.path().join("mapper.jsonl");
    let mut granter = xen.hand(1, Timeline::none());
    let mut mapper = xen.hand(2, Timeline::create(&path, "mapper").unwrap());
    let (_, grefs) = granter.share(DomId(2), 1, Access::ReadWrite).unwrap();
    let map = mapper.map(of_the_first(&grefs), Access::ReadWrite).unwrap();
    let (_, loan) = mapper.lend(map, HoldName::Pin, 1).unwrap();
    let held = mapper.attach(loan).unwrap();
    mapper.unmap(map).unwrap();
    mapper.release(held).unwrap();
    mapper.await_release(map, PATIENCE).unwrap();
    let events: Vec<&str> = read_file(&path)
        .unwrap()
        .iter()
        .map(|record| match record.event {
            Event::Mapped { .. } => "mapped",
            Event::Lent { .. } => "lent",
            Event::Held { .. } => "held",
            Event::UnmapBegan { .. } => "unmap began",
            Event::UnmapReturned { .. } => "unmap returned",
            Event::HoldReleasing { .. } => "releasing",
            Event::HoldReleased { .. } => "hold released",
            Event::Released { .. } => "released",
            _ => "something else",
        })
        .collect();
    assert_eq!(
        events,
        [
            "mapped",
            "lent",
            "held",
            "unmap began",
            "unmap returned",
            "releasing",
            "hold released",
            "released"
        ]
    );
}

#[test]
fn what_is_lent_can_be_seen_when_it_is_no_longer_mapped() {
    const PAGES: usize = 3;
    let xen = Xen::new();
    let (mut granter, mut mapper) = xen.pair();
    let mut viewer = xen.hand(2, Timeline::none());
    let (share, grefs) = granter.share(DomId(2), PAGES, Access::ReadWrite).unwrap();
    let draw = |picture| Order::Draw {
        pages: Pages::Share(share),
        picture,
    };
    granter.done(&draw(1)).unwrap();
    let map = mapper.map(of_the_first(&grefs), Access::ReadOnly).unwrap();
    let (id, loan) = mapper.lend(map, HoldName::Pin, PAGES).unwrap();
    let held = viewer.attach(loan).unwrap();
    mapper.settle(id, true).unwrap();
    let view = View::Held(held);
    assert_eq!(viewer.see(view).unwrap(), Some(drawn(1, PAGES)));
    mapper.unmap(map).unwrap();
    granter.done(&draw(2)).unwrap();
    assert_eq!(viewer.see(view).unwrap(), Some(drawn(2, PAGES)));
    let shared = View::Pages(Pages::Share(share));
    assert_eq!(granter.see(shared).unwrap(), Some(drawn(2, PAGES)));
    // What nobody can do is refused.
    let paint = Order::Paint { held, picture: 3 };
    assert!(refusal(viewer.done(&paint)).why.contains("writes nothing"));
    for (from, len) in [
        (PAGES * PAGE_SIZE, 1),
        (usize::MAX, 1),
        (0, PAGES * PAGE_SIZE),
    ] {
        refusal(viewer.tell(&Order::Seen(from, len)));
    }
    viewer.release(held).unwrap();
    mapper.await_release(map, PATIENCE).unwrap();
    assert_eq!(granter.end_access(share).unwrap(), Ending::Ended);
}

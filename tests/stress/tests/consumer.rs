//! The third consumer as a process of its own, holding ordinary pages of this process by each
//! kernel holder: the pages are unmapped here, still referenced, seen live there, and let go at
//! its end.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{PATIENCE, Place};
use libgnt::{Access, DomId, ForeignGrant, GrantRef, PAGE_SIZE, SharedPages};
use pv_harness::holder::{HoldName, kernel_holder, sha256};
use pv_harness::processes::{Control, News, Order, Start};
use pv_harness::timeline::{Event, Record, Timeline, read_file};
use pv_stress::consumer::{LendPolicy, Lender};
use pv_stress::role::{Assignment, ConsumerTask, Part, Role};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PAGES: usize = 2;

struct Consumer {
    child: Child,
    control: Control,
}

fn consumer(place: &Place, hold: HoldName) -> Consumer {
    let (control, theirs) = Control::pair().unwrap();
    let task = ConsumerTask {
        socket: place.path("consumer.sock"),
        hold,
        hold_for: Duration::from_secs(3600),
        until_unmapped: false,
        allow_kernel_damage: false,
    };
    let start = Start {
        name: "consumer".into(),
        parent: std::process::id(),
        timeline: place.path("consumer.jsonl"),
        assignment: Assignment::Play(Part {
            home: None,
            sabotage: None,
            role: Role::Consumer(task),
        }),
    };
    let child = place
        .command(&[])
        .args(start.args().unwrap())
        .stdin(Stdio::from(theirs.into_fd()))
        .spawn()
        .unwrap();
    assert_eq!(control.recv::<News>().unwrap(), News::Ready);
    Consumer { child, control }
}

/// A memfd takes the seal only if nothing but the page cache refers to its pages.
fn is_referenced(memfd: &File) -> bool {
    match fcntl_add_seals(memfd, SealFlags::WRITE) {
        Ok(()) => false,
        Err(Errno::BUSY) => true,
        Err(errno) => panic!("F_ADD_SEALS: {errno}"),
    }
}

fn await_record(place: &Place, what: impl Fn(&Record) -> bool) {
    let until = Instant::now() + PATIENCE;
    while !read_file(&place.path("consumer.jsonl"))
        .unwrap()
        .iter()
        .any(&what)
    {
        let now = || read_file(&place.path("consumer.jsonl")).unwrap();
        assert!(
            Instant::now() < until,
            "the consumer never recorded it, but: {:?}",
            now()
        );
        std::thread::yield_now();
    }
}

fn holds_across_processes(hold: HoldName, can_look: bool) {
    let place = Place::new();
    let memfd = memfd_create("granted", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let memfd = File::from(memfd);
    let fill = |byte: u8| {
        memfd.write_all_at(&[byte; PAGES * PAGE_SIZE], 0).unwrap();
        can_look.then(|| sha256(&[byte; PAGES * PAGE_SIZE]))
    };
    let first = fill(1);
    fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
    let pages = SharedPages::of_memfd(&memfd, PAGES, Access::ReadWrite).unwrap();

    let Consumer { mut child, control } = consumer(&place, hold);
    let timeline = Timeline::create(&place.path("mapper.jsonl"), "mapper").unwrap();
    let policy = LendPolicy {
        at_once: 1,
        in_all: 1,
        writable_only: false,
    };
    let holder = kernel_holder(hold).unwrap();
    let socket = place.path("consumer.sock");
    let mut lender = Lender::connect(&socket, holder, policy, timeline).unwrap();
    lender.offer(
        &pages,
        &[ForeignGrant {
            domid: DomId(1),
            gref: GrantRef(1),
        }; PAGES],
        0,
    );
    let lent = read_file(&place.path("mapper.jsonl")).unwrap();
    let Event::Lent { hold: number, .. } = lent[0].event else {
        // A kernel that does not offer it (no capability, too old) has said so.
        eprintln!("--hold {hold}: {:?}", lent[0].event);
        control.send(&Order::Stop).unwrap();
        assert!(child.wait().unwrap().success());
        return;
    };
    pages.unmap().unwrap();
    await_record(&place, |r| {
        r.event
            == Event::Checksum {
                hold: number,
                sha: first.clone(),
            }
    });
    assert!(is_referenced(&memfd), "unmapped, and nobody holds it");
    let second = fill(2);
    control.send(&Order::Stop).unwrap();
    assert!(child.wait().unwrap().success());
    let records = read_file(&place.path("consumer.jsonl")).unwrap();
    let saw_live = Event::Checksum {
        hold: number,
        sha: second,
    };
    assert!(
        records.iter().any(|r| r.event == saw_live),
        "not the live page: {records:?}"
    );
    assert!(records.iter().any(|r| r.event
        == Event::HoldReleased {
            hold: number,
            error: None
        }));
    // The last references go with a kernel worker, moments later.
    let until = Instant::now() + PATIENCE;
    while is_referenced(&memfd) {
        assert!(Instant::now() < until, "still referenced");
    }
}

/// One after the other, in one test: a fork copies every mapping of this process.
#[test]
fn pages_are_held_by_another_process() {
    holds_across_processes(HoldName::Pipe, true);
    holds_across_processes(HoldName::Uring, true);
    holds_across_processes(HoldName::Xdp, false);
    holds_across_processes(HoldName::Fork, true);
}

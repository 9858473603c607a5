//! The example's two ends on a simulated Xen, through restarts of either.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../examples/echo/page.rs"]
mod page;

#[path = "../examples/echo/front.rs"]
mod front;

#[path = "../examples/echo/back.rs"]
mod back;

#[path = "../examples/echo/toolstack.rs"]
mod toolstack;

#[path = "../examples/echo/world.rs"]
mod world;

use back::Back;
use front::Front;
use libgnt::SharedPages;
use libgnt::stop::Stop;
use pv_xenstore::xenbus::node::read_state;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use world::{BACK, FRONT, World};

/// Far more than anything here takes; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(60);
const BACK_DIRECTORY: &str = "/local/domain/2/backend/echo/1/0";

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

struct Served {
    stop: Stop,
    thread: JoinHandle<Result<(), String>>,
}

fn serve(world: &World) -> Served {
    let back = Back::open(world.platform(BACK, "back").unwrap(), FRONT).unwrap();
    let stop = Stop::new();
    let asked = stop.clone();
    let thread = std::thread::spawn(move || back.run(&asked).map_err(|error| error.to_string()));
    Served { stop, thread }
}

impl Served {
    fn ends(self) {
        self.stop.ask();
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn texts_come_back_through_restarts_of_either_end() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::start(dir.path()).unwrap();
    toolstack::create(&world.store, FRONT, BACK).unwrap();
    let first = serve(&world);
    let mut front = Front::open(world.platform(FRONT, "front").unwrap()).unwrap();
    for n in 0..50 {
        let text = format!("text {n}");
        assert_eq!(
            front.echo(text.as_bytes(), deadline()).unwrap(),
            text.as_bytes()
        );
    }
    let longest = vec![7; page::TEXT_MAX];
    assert_eq!(front.echo(&longest, deadline()).unwrap(), longest);
    let refused = front.echo(&vec![7; page::TEXT_MAX + 1], deadline());
    assert!(refused.unwrap_err().to_string().contains("at most"));
    assert_eq!(front.connections, 1);

    // The back end is stopped in order, and another one started.
    first.stop.ask();
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            first.ends();
            serve(&world)
        });
        while front.connections < 2 {
            front.attend(deadline()).unwrap();
        }
        second.join().unwrap()
    });
    assert_eq!(front.echo(b"again", deadline()).unwrap(), b"again");

    // The front end ends, and another one comes.
    front.close(PATIENCE).unwrap();
    let mut front = Front::open(world.platform(FRONT, "front").unwrap()).unwrap();
    assert_eq!(front.echo(b"another", deadline()).unwrap(), b"another");

    // It vanishes without closing, and another one comes.
    drop(front);
    let mut front = Front::open(world.platform(FRONT, "front").unwrap()).unwrap();
    assert_eq!(front.echo(b"a third", deadline()).unwrap(), b"a third");
    front.close(PATIENCE).unwrap();
    second.ends();
    assert!(read_state(&world.store, BACK_DIRECTORY).unwrap().is_some());
}

#[test]
fn a_device_that_is_made_anew_under_both_ends_is_served_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::start(dir.path()).unwrap();
    toolstack::create(&world.store, FRONT, BACK).unwrap();
    let back = serve(&world);
    let mut front = Front::open(world.platform(FRONT, "front").unwrap()).unwrap();
    for round in 1..=10 {
        assert_eq!(front.echo(b"text", deadline()).unwrap(), b"text");
        assert!(front.connections >= round);
        // Both directories, removed and made again in one transaction.
        let before = front.connections;
        toolstack::create(&world.store, FRONT, BACK).unwrap();
        while front.connections == before {
            front.attend(deadline()).unwrap();
        }
    }
    front.close(PATIENCE).unwrap();
    back.ends();
}

#[test]
fn a_page_that_breaks_the_rules_is_told() {
    let page = SharedPages::anonymous(1).unwrap();
    assert!(!page::answer(&page).unwrap());
    page::ask(&page, 1, b"hello");
    assert_eq!(page::answered(&page, 1).unwrap(), None);
    assert!(page::answer(&page).unwrap());
    assert_eq!(page::answered(&page, 1).unwrap().unwrap(), b"hello");
    page.store_u32(4, u32::MAX, std::sync::atomic::Ordering::SeqCst);
    page.store_u32(0, 2, std::sync::atomic::Ordering::SeqCst);
    assert!(page::answer(&page).unwrap_err().contains("where 2040 fit"));
}

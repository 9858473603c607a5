//! Our server against Debian's oxenstored, and our client with one that fails transactions at random.
#![allow(clippy::unwrap_used, reason = "a test may")]

use pv_rivals::campaign::{Plan, run};
use pv_rivals::daemon::{Daemon, Place, Rival};
use pv_rivals::play::{Outcome, play};
use pv_rivals::step::{Link, Step, Tx};
use pv_rivals::world::World;
use pv_xenstore::client::Attempts;
use pv_xenstore::server::StoreSabotage;
use pv_xenstore::wire::Kind;
use pv_xenstore::{Client, Error};
use std::io::Write;
use std::os::unix::net::UnixStream;

const PLAN: Plan = Plan {
    seed: 20_000,
    requests: 10_000,
    each: 2000,
    sabotage: None,
};

/// The daemon's program. A test that does nothing without it says so, past what the harness captures.
fn place(name: &str) -> Option<(Rival, Place)> {
    let rival = Rival::named(name).unwrap();
    let place = rival.kept(None);
    if place.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {rival} is not here; fetch it: cargo run -p pv-rivals -- fetch"
        );
    }
    Some((rival, place?))
}

#[test]
fn ten_thousand_requests_agree_with_oxenstored_4_20() {
    let Some((rival, place)) = place("oxenstored-4.20") else {
        return;
    };
    let tally = run(rival, &place, PLAN).unwrap();
    if let Some(found) = &tally.found {
        panic!("{}", found.lines(rival, PLAN.each));
    }
    assert!(tally.requests >= PLAN.requests, "{tally:?}");
    assert!(tally.ended * 2 < tally.histories, "{tally:?}");
}

#[test]
fn a_server_that_is_broken_on_purpose_is_found_out() {
    let Some((rival, place)) = place("oxenstored-4.20") else {
        return;
    };
    let sabotages = [
        StoreSabotage::TellsEverybody,
        StoreSabotage::IgnoresConflicts,
    ];
    let found = sabotages.map(|sabotage| {
        let place = place.clone();
        std::thread::spawn(move || {
            let plan = Plan {
                requests: 20_000,
                sabotage: Some(sabotage),
                ..PLAN
            };
            run(rival, &place, plan).unwrap().found
        })
    });
    for (thread, sabotage) in found.into_iter().zip(sabotages) {
        let found = thread.join().unwrap();
        let found = found.unwrap_or_else(|| panic!("{sabotage:?} was not noticed"));
        assert!(found.steps.len() <= 20, "{}", found.lines(rival, PLAN.each));
    }
}

fn ask(kind: Kind, payload: &[u8]) -> Step {
    Step::Ask {
        link: Link::Socket(0),
        kind: kind as u32,
        tx: Tx::None,
        payload: payload.to_vec(),
    }
}

/// What random histories do not have.
#[test]
fn what_ends_a_history_is_the_difference_that_is_known() {
    let children = (0..400).map(|n| format!("/big/a-name-of-some-length-{n}\0"));
    let mut big: Vec<Step> = children
        .map(|path| ask(Kind::Mkdir, path.as_bytes()))
        .collect();
    big.push(ask(Kind::Directory, b"/big\0"));
    let mut long = b"/a\0".to_vec();
    long.resize(5000, b'v');
    for name in ["oxenstored-4.14", "oxenstored-4.17", "oxenstored-4.20"] {
        let Some((rival, place)) = place(name) else {
            continue;
        };
        for (steps, id) in [
            (big.clone(), "whole-directory"),
            (vec![ask(Kind::Write, &long)], "oversized"),
            (
                vec![ask(Kind::SetPerms, b"/local\0r-1\0")],
                "odd-permission",
            ),
            (vec![ask(Kind::Read, b"@a/b\0")], "odd-name"),
        ] {
            let steps = [vec![Step::Open(0)], steps].concat();
            let outcome = play(rival, &place, None, &steps).unwrap();
            let Outcome {
                explained,
                ended,
                difference,
                ..
            } = outcome;
            assert_eq!(difference, None, "{name}");
            assert_eq!(explained.into_keys().collect::<Vec<_>>(), [id], "{name}");
            assert_eq!(ended, Some(steps.len() - 1), "{name} {id}");
        }
    }
}

fn connect(world: &World) -> Client {
    let stream = UnixStream::connect(world.socket()).unwrap();
    Client::from_stream(stream.into()).unwrap()
}

/// Two clients count to the same sum, in a node of each and in one of both.
#[test]
fn transactions_that_fail_at_random_are_tried_again() {
    const EACH: u32 = 100;
    for name in ["oxenstored-4.14", "oxenstored-4.17", "oxenstored-4.20"] {
        let Some((rival, place)) = place(name) else {
            continue;
        };
        let world = World::new(&[]).unwrap();
        let _daemon = Daemon::start(rival, &place.failing_transactions(), &world).unwrap();
        let count = |own: &str| {
            let client = connect(&world);
            let mut runs = 0;
            for _ in 0..EACH {
                let done = client.transaction(|tx| {
                    runs += 1;
                    for path in [own, "/both"] {
                        let old = match tx.read(path) {
                            Ok(old) => String::from_utf8_lossy(&old).parse().unwrap(),
                            Err(_) => 0u32,
                        };
                        tx.write(path, (old + 1).to_string())?;
                    }
                    Ok(())
                });
                done.unwrap();
            }
            runs
        };
        let runs: u32 = std::thread::scope(|scope| {
            let both = ["/one", "/two"].map(|own| scope.spawn(move || count(own)));
            both.into_iter().map(|it| it.join().unwrap()).sum()
        });
        let client = connect(&world);
        for (path, sum) in [("/one", EACH), ("/two", EACH), ("/both", 2 * EACH)] {
            let read = client.read(path).unwrap();
            assert_eq!(read, sum.to_string().into_bytes(), "{name} {path}");
        }
        // The daemon fails one in nine, whoever else is there.
        assert!(runs > 2 * EACH, "{name}: nothing failed");
        // Who does not try again is told.
        let once = Attempts {
            most: 1,
            ..Attempts::default()
        };
        let failed = (0..EACH).find_map(|_| {
            let done = client.transaction_with(once, |tx| tx.write("/once", "x"));
            done.err()
        });
        let failed = failed.unwrap_or_else(|| panic!("{name}: nothing failed"));
        let is_conflict = matches!(failed, Error::Conflict { attempts: 1 });
        assert!(is_conflict, "{name}: {failed}");
    }
}

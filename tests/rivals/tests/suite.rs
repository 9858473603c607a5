//! The client's suite on Debian's daemons, over their sockets, where these are unpacked or installed.
#![allow(clippy::unwrap_used, reason = "a test may")]

use pv_rivals::daemon::{self, Daemon, Rival};
use pv_rivals::world::World;
use pv_suite::{Case, Connect, Many, Needs, Outcome, Place};
use pv_xenstore::{Client, ServerConfig, ServerHandle};
use std::io::Write;

/// `None`: it is not here, which is said past what the harness captures.
fn kept(rival: Rival) -> Option<daemon::Place> {
    let place = rival.kept(None);
    if place.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {rival} is not here; fetch it: cargo run -p pv-rivals -- fetch"
        );
    }
    place
}

/// What a daemon is like, as a place for the suite, if it is here.
fn on<T>(name: &str, look: impl FnOnce(&Place<'_>) -> T) -> Option<T> {
    let rival = Rival::named(name).unwrap();
    let place = kept(rival)?;
    let world = World::new(&[1]).unwrap();
    let _daemon = Daemon::start(rival, &place, &world).unwrap();
    let connect = || Client::from_socket_path(world.socket()).unwrap();
    Some(look(&Place::dom0(&connect)))
}

fn whole(name: &str) {
    on(name, |place| {
        let ran = pv_suite::run(place);
        assert_eq!(ran.len(), pv_suite::cases().len(), "all of them: {ran:?}");
        assert!(!(place.connect)().exists(place.node).unwrap());
    });
}

#[test]
fn the_suite_on_xenstored_4_14() {
    whole("xenstored-4.14");
}

#[test]
fn the_suite_on_xenstored_4_17() {
    whole("xenstored-4.17");
}

#[test]
fn the_suite_on_xenstored_4_20() {
    whole("xenstored-4.20");
}

#[test]
fn the_suite_on_oxenstored_4_14() {
    whole("oxenstored-4.14");
}

#[test]
fn the_suite_on_oxenstored_4_17() {
    whole("oxenstored-4.17");
}

#[test]
fn the_suite_on_oxenstored_4_20() {
    whole("oxenstored-4.20");
}

/// Xen's own test of a xenstore daemon, as Debian packs it, on our server.
#[test]
fn xens_own_test_on_our_server() {
    for name in ["xenstored-4.17", "xenstored-4.20"] {
        let rival = Rival::named(name).unwrap();
        let Some(place) = kept(rival) else { continue };
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let mut config = ServerConfig::default();
        config.socket = Some(socket.clone());
        let server = ServerHandle::start(config).unwrap();
        let mut test = place.other("test-xenstore").unwrap();
        let output = test.env("XENSTORED_PATH", socket).output().unwrap();
        assert!(output.status.success(), "of {}: {output:?}", rival.version);
        server.stop();
    }
}

/// What runs where it may not is not tried, and what goes wrong is told with its words.
#[test]
fn a_place_that_lacks_something_is_no_failure_and_a_wrong_daemon_is_one() {
    fn wrong(connect: &Connect<'_>, node: &str, _: Many) {
        assert_eq!(connect().read(node).unwrap(), b"what it is not");
    }
    on("xenstored-4.17", |place| {
        let of_a_kernel = Place {
            own_connection: false,
            ..*place
        };
        let ran = pv_suite::run_all(&of_a_kernel);
        let not_here = ran
            .iter()
            .filter(|ran| matches!(ran.outcome, Outcome::NotHere(_)));
        assert_eq!(not_here.map(|ran| ran.name).collect::<Vec<_>>(), ["reset"]);
        let case = Case {
            name: "wrong",
            needs: Needs::Nothing,
            run: wrong,
        };
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pv_suite::run_case(&case, place)
        }));
        assert!(ran.is_err());
    });
}

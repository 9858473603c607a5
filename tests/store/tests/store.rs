//! The parts of the suite on our own server, and on one of Debian's daemons where it is unpacked.
#![allow(clippy::unwrap_used, reason = "a test")]

use libgnt::DomId;
use pv_rivals::daemon::{Daemon, Rival};
use pv_rivals::world::World;
use pv_store::histories::{Plan, histories};
use pv_store::over::Over;
use pv_suite::Many;
use pv_xenstore::server::StoreSabotage;
use pv_xenstore::{ServerConfig, ServerHandle};
use std::io::Write;
use std::path::Path;

fn serve(socket: &Path) -> ServerHandle {
    let mut config = ServerConfig::default();
    config.socket = Some(socket.to_owned());
    ServerHandle::start(config).unwrap()
}

fn plan(socket: &Path, name: &str) -> Plan {
    Plan {
        over: Over::Socket(socket.to_owned()),
        rival: Rival::named(name).unwrap(),
        seed: 1,
        requests: 6000,
        each: 2000,
        others: vec![DomId(1), DomId(2)],
        shrinking: 200,
        sabotage: None,
    }
}

#[test]
fn cases_and_histories_hold_on_our_own_server_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let server = serve(&socket);
    let over = Over::Socket(socket.clone());
    let before = over.client().unwrap().directory("/local/domain/0").unwrap();
    let part = pv_store::cases(&over, Many::Few).unwrap();
    assert!(part.checks.len() > 20);
    assert!(part.checks.iter().all(|check| check.passed), "{part:#?}");
    let part = histories(&plan(&socket, "xenstored-4.20")).unwrap();
    assert!(part.checks[0].passed, "{part:#?}");
    let client = over.client().unwrap();
    assert_eq!(client.directory("/local/domain/0").unwrap(), before);
    assert!(!client.exists("/pv-suite").unwrap());
    server.stop();
}

#[test]
fn a_server_that_is_broken_is_found_out_with_the_steps_that_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let server = serve(&socket);
    let plan = Plan {
        sabotage: Some(StoreSabotage::IgnoresConflicts),
        ..plan(&socket, "xenstored-4.20")
    };
    let part = histories(&plan).unwrap();
    assert!(!part.checks[0].passed, "{part:#?}");
    let detail = &part.checks[0].detail;
    assert!(detail.contains("TRANSACTION_END"), "{detail}");
    assert!(detail.contains("EAGAIN"), "{detail}");
    server.stop();
}

#[test]
fn histories_in_a_corner_hold_on_debians_daemons() {
    for name in [
        "xenstored-4.17",
        "xenstored-4.20",
        "oxenstored-4.17",
        "oxenstored-4.20",
    ] {
        let rival = Rival::named(name).unwrap();
        let Some(place) = rival.kept(None) else {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {rival} is not here; fetch it: cargo run -p pv-rivals -- fetch"
            );
            continue;
        };
        let world = World::new(&[1, 2]).unwrap();
        let _daemon = Daemon::start(rival, &place, &world).unwrap();
        let part = histories(&plan(&world.socket(), name));
        let part = part.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(part.checks[0].passed, "{name}: {part:#?}");
    }
}

#[test]
fn nobody_there_is_no_verdict() {
    let over = Over::Socket("/nonexistent/socket".into());
    let error = pv_store::cases(&over, Many::Few).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
}

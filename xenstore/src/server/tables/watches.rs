//! Watches and their events.

use super::super::quota::Quotas;
use super::super::{Action, Input};
use super::{domains, run};
use crate::testing::step;
use crate::wire::{Kind, Packet};

#[test]
fn watches() {
    run(&[
        ("1 WATCH data|t", "OK", &["1: data t"]),
        ("1 WATCH data|t", "EEXIST", &[]),
        ("1 WATCH data|u", "OK", &["1: data u"]),
        ("1 UNWATCH data|u", "OK", &[]),
        ("1 UNWATCH data|u", "ENOENT", &[]),
        (
            "0 WATCH /local/domain/1|all",
            "OK",
            &["0: /local/domain/1 all"],
        ),
        // Relative as registered; below the path; not beside it.
        (
            "1 WRITE data/a|x~",
            "OK",
            &["0: /local/domain/1/data/a all", "1: data/a t"],
        ),
        (
            "1 WRITE error/a|x~",
            "OK",
            &["0: /local/domain/1/error/a all"],
        ),
        (
            "1 MKDIR data/d/e",
            "OK",
            &["0: /local/domain/1/data/d/e all", "1: data/d/e t"],
        ),
        ("1 MKDIR data/d/e", "OK", &[]),
        ("1 READ data/a", "x", &[]),
        // A watch on something that is not there yet.
        (
            "2 WATCH data/later/state|s",
            "OK",
            &["2: data/later/state s"],
        ),
        ("2 WRITE data/later|x~", "OK", &[]),
        (
            "2 WRITE data/later/state|1~",
            "OK",
            &["2: data/later/state s"],
        ),
        // Removing a parent is news of the node below, exactly.
        ("2 RM data/later", "OK", &["2: data/later/state s"]),
        ("2 RM data/later", "OK", &[]),
        // No news of what one may not read...
        (
            "2 WATCH /local/domain/1/data|spy",
            "OK",
            &["2: /local/domain/1/data spy"],
        ),
        (
            "1 WRITE data/a|y~",
            "OK",
            &["0: /local/domain/1/data/a all", "1: data/a t"],
        ),
        // ...until one may, and of losing it.
        (
            "1 SET_PERMS data/a|n1|r2",
            "OK",
            &[
                "0: /local/domain/1/data/a all",
                "1: data/a t",
                "2: /local/domain/1/data/a spy",
            ],
        ),
        (
            "1 WRITE data/a|z~",
            "OK",
            &[
                "0: /local/domain/1/data/a all",
                "1: data/a t",
                "2: /local/domain/1/data/a spy",
            ],
        ),
        (
            "1 SET_PERMS data/a|n1",
            "OK",
            &[
                "0: /local/domain/1/data/a all",
                "1: data/a t",
                "2: /local/domain/1/data/a spy",
            ],
        ),
        (
            "1 WRITE data/a|z~",
            "OK",
            &["0: /local/domain/1/data/a all", "1: data/a t"],
        ),
        ("1 RESET_WATCHES ", "OK", &[]),
        (
            "1 WRITE data/a|z~",
            "OK",
            &["0: /local/domain/1/data/a all"],
        ),
        ("1 RM data/d", "OK", &["0: /local/domain/1/data/d all"]),
    ]);
}

#[test]
fn the_device_keeps_its_own_list_of_watches() {
    run(&[
        ("101 WATCH data|t", "OK", &["101: data t"]),
        ("101 WATCH data|t", "OK", &["101: data t"]),
        ("1 WRITE data|x~", "OK", &["101: data t", "101: data t"]),
        ("101 UNWATCH /local/domain/1/data|t", "OK", &[]),
        ("101 UNWATCH da.ta|t", "OK", &[]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &["101: data t"]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &[]),
        ("101 WATCH da.ta|t", "EINVAL", &[]),
        // Of two alike the newer one goes: what stays is in its old place.
        ("101 WATCH data|t", "OK", &["101: data t"]),
        ("101 WATCH data|s", "OK", &["101: data s"]),
        ("101 WATCH data|t", "OK", &["101: data t"]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &["101: data t", "101: data s"]),
    ]);
}

#[test]
fn a_removed_tree_tells_every_watch_in_it() {
    run(&[
        ("1 WRITE data/a/b/c|x~", "OK", &[]),
        ("1 WRITE data/a/b/d|x~", "OK", &[]),
        ("1 WATCH data|top", "OK", &["1: data top"]),
        ("1 WATCH data/a/b|mid", "OK", &["1: data/a/b mid"]),
        ("1 WATCH data/a/b/c|leaf", "OK", &["1: data/a/b/c leaf"]),
        (
            "1 RM data/a",
            "OK",
            &["1: data/a/b/c leaf", "1: data/a/b mid", "1: data/a top"],
        ),
    ]);
}

#[test]
fn the_longest_event_fits_in_a_message() {
    let mut domains = domains(Quotas::default());
    // Together with the longest path that a watch hears of, the first just fits, the other does not.
    let (token, too_long) = ("t".repeat(2026), "t".repeat(2027));
    assert_eq!(domains.ask(&format!("0 WATCH /|{too_long}")).0, "OK");
    assert_eq!(domains.ask(&format!("0 WATCH /|{token}")).0, "OK");
    let path = format!("/local/domain/12345/{}", "p".repeat(2048));
    let request = Packet::new(Kind::Write, 1, 0, format!("{path}\0v"));
    let conn = domains.connections[&0];
    let actions = step(&mut domains.server, Input::Request(conn, request));
    let [Action::Event(_, event), Action::Reply(..)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(event.payload.len(), 4096);
}

//! What oxenstored answers.

use super::super::daemon::Make;
use super::super::quota::Quotas;
use super::super::{Daemon, Settings};
use super::{Domains, domains_of};

fn of(daemon: Daemon) -> Domains {
    domains_of(Settings {
        daemon,
        quotas: Quotas::of(daemon),
        ..Settings::default()
    })
}

fn each(table: &[(&str, &str, &[&str])]) {
    for daemon in Daemon::ALL.iter().filter(|it| it.make() == Make::Ocaml) {
        of(*daemon).run(table);
    }
}

#[test]
fn what_is_not_there_is_so_for_everybody() {
    each(&[
        ("1 READ /local/domain/2/none", "ENOENT", &[]),
        ("1 READ /none/none", "ENOENT", &[]),
        ("1 READ /local/domain/2", "EACCES", &[]),
        ("1 RM /local/domain/2/none", "OK", &[]),
        ("1 RM /local/domain/2/none/none", "ENOENT", &[]),
        ("1 SET_PERMS /local/domain/2/none|n1", "ENOENT", &[]),
        ("1 WRITE /local/domain/2/none|x~", "EACCES", &[]),
        ("1 UNWATCH a//b|t", "ENOENT", &[]),
        ("1 WATCH a//b|t", "EINVAL", &[]),
        ("0 RELEASE 9", "EINVAL", &[]),
        ("0 SET_TARGET 9|1", "ENOENT", &[]),
        ("0 RESUME 9", "EINVAL", &[]),
        ("1#7 READ data", "EIO", &[]),
        ("1#7 WATCH data|t", "OK", &["1: data t"]),
        ("0 22 /|0", "ENOSYS", &[]),
        ("0 20 /", "ENOSYS", &[]),
        ("1 CONTROL whatever", "OK", &[]),
    ]);
}

#[test]
fn a_new_node_is_its_parents() {
    each(&[
        ("0 WRITE /a/b|x~", "OK", &[]),
        ("0 SET_PERMS /a|n2|b1|r3", "OK", &[]),
        ("1 WRITE /a/c/d|x~", "OK", &[]),
        ("1 GET_PERMS /a/c/d", "n2|b1|r3", &[]),
        // It is not who made it that owns it.
        ("1 SET_PERMS /a/c/d|n2", "EACCES", &[]),
        ("2 SET_PERMS /a/c/d|n1", "EACCES", &[]),
        ("2 SET_PERMS /a/c/d|n2", "OK", &[]),
    ]);
}

#[test]
fn children_in_their_order() {
    for (daemon, expected) in [
        (Daemon::O414, "b|c|a"),
        (Daemon::O417, "a|b|c"),
        (Daemon::O420, "a|b|c"),
    ] {
        of(daemon).run(&[
            ("1 MKDIR data/b", "OK", &[]),
            ("1 MKDIR data/c", "OK", &[]),
            ("1 MKDIR data/a", "OK", &[]),
            ("1 DIRECTORY data", expected, &[]),
        ]);
    }
}

#[test]
fn values_and_numbers_have_limits() {
    let value = |n: usize| format!("0 WRITE /v|{}~", "v".repeat(n));
    each(&[
        (&value(2048), "OK", &[]),
        (&value(2049), "E2BIG", &[]),
        ("0 SET_PERMS /v|r0x2", "OK", &[]),
        ("0 GET_PERMS /v", "r2", &[]),
        ("0 GET_DOMAIN_PATH x7y", "/local/domain/7", &[]),
        ("0 IS_DOMAIN_INTRODUCED 0b1", "T", &[]),
        ("0 IS_DOMAIN_INTRODUCED  1", "EINVAL", &[]),
        ("0 INTRODUCE 9|x|5", "EIO", &[]),
        ("0 INTRODUCE 9|0|x", "EINVAL", &[]),
    ]);
    for daemon in [Daemon::O414, Daemon::O420] {
        let mut domains = of(daemon);
        for n in 0..=100 {
            domains.run(&[(&format!("1 UNWATCH data|{n}"), "ENOENT", &[])]);
            assert_eq!(domains.ask(&format!("1 WATCH data|{n}")).0, "OK");
        }
        domains.run(&[("1 WATCH data|more", "EQUOTA", &[])]);
        for n in 1..=11 {
            domains.run(&[("1 TRANSACTION_START ", &n.to_string(), &[])]);
        }
        domains.run(&[("1 TRANSACTION_START ", "EQUOTA", &[])]);
    }
}

#[test]
fn a_quota_that_is_reached_half_way() {
    let daemon = Daemon::O420;
    let mut domains = domains_of(Settings {
        daemon,
        quotas: Quotas {
            nodes: 6,
            ..Quotas::of(daemon)
        },
        ..Settings::default()
    });
    let owned = domains.server.tree().owned_by(libgnt::DomId(1));
    let deep = "d/".repeat(7 - owned);
    domains.run(&[
        (&format!("1 MKDIR data/{deep}e"), "EQUOTA", &[]),
        // What was made on the way stays.
        ("1 DIRECTORY data", "d", &[]),
        ("1 RM data/d", "OK", &[]),
        ("1 MKDIR data/d", "OK", &[]),
    ]);
}

#[test]
fn an_answer_comes_before_what_it_causes() {
    each(&[
        ("0 WATCH /|r", "OK", &["0: / r"]),
        ("1 WATCH data|a", "OK", &["1: data a"]),
        ("1 WATCH data|b", "OK", &["1: data b"]),
        // From the root down, and the newest first.
        (
            "1 WRITE data/x|1~",
            "OK",
            &["0: /local/domain/1/data/x r", "1: data/x b", "1: data/x a"],
        ),
        ("1 MKDIR data/x", "OK", &[]),
        ("1 TRANSACTION_START ", "1", &[]),
        ("1#1 WRITE data/x|2~", "OK", &[]),
        ("1#1 WRITE data/x|3~", "OK", &[]),
        // Here they come before, one for each request.
        (
            "1#1 TRANSACTION_END T",
            "OK",
            &[
                "0: /local/domain/1/data/x r",
                "1: data/x b",
                "1: data/x a",
                "0: /local/domain/1/data/x r",
                "1: data/x b",
                "1: data/x a",
            ],
        ),
    ]);
}

#[test]
fn a_removed_tree_tells_watches_below_it_of_their_own_paths() {
    for (daemon, below) in [
        (Daemon::O414, ["1: data/t/a a", "1: data/t/b b"]),
        (Daemon::O420, ["1: data/t/a a", "1: data/t/b b"]),
    ] {
        let mut domains = of(daemon);
        domains.run(&[
            ("1 WRITE data/t/a|x~", "OK", &[]),
            ("1 WATCH data/t/b|b", "OK", &["1: data/t/b b"]),
            ("1 WATCH data/t/a|a", "OK", &["1: data/t/a a"]),
            ("1 WATCH data/t/b/c|c", "OK", &["1: data/t/b/c c"]),
            // Also where there is no node, if its directory was there.
            ("1 RM data/t", "OK", &below),
        ]);
    }
}

#[test]
fn special_watches_are_nodes() {
    each(&[
        ("0 WATCH @releaseDomain|r", "OK", &["0: @releaseDomain r"]),
        ("1 WATCH @releaseDomain|r", "OK", &["1: @releaseDomain r"]),
        ("0 GET_PERMS @releaseDomain", "n0", &[]),
        ("0 READ /@releaseDomain", "", &[]),
        ("0 RELEASE 3", "OK", &["3: closed", "0: @releaseDomain r"]),
        ("0 SET_PERMS @releaseDomain|r0", "OK", &[]),
        (
            "0 RELEASE 2",
            "OK",
            &["2: closed", "1: @releaseDomain r", "0: @releaseDomain r"],
        ),
    ]);
}

#[test]
fn nodes_of_a_dead_domain_go_without_a_word() {
    each(&[
        ("1 WRITE data/a|x~", "OK", &[]),
        ("0 WATCH /local|l", "OK", &["0: /local l"]),
        ("2 WRITE data/b|x~", "OK", &["0: /local/domain/2/data/b l"]),
        (
            "2 SET_PERMS data/b|n2|r1|r3",
            "OK",
            &["0: /local/domain/2/data/b l"],
        ),
        ("0 RELEASE 1", "OK", &["1: closed", "101: closed"]),
        ("0 READ /local/domain/1/data/a", "ENOENT", &[]),
        ("2 GET_PERMS data/b", "n2|r3", &[]),
    ]);
}

#[test]
fn transactions_conflict_where_an_answer_would_be_another() {
    each(&[
        ("0 WRITE /a/x|1~", "OK", &[]),
        ("0 WRITE /b|1~", "OK", &[]),
        // What others do elsewhere is not in the way.
        ("0 TRANSACTION_START ", "1", &[]),
        ("0#1 READ /a/x", "1", &[]),
        ("0#1 WRITE /a/y|1~", "OK", &[]),
        ("0 WRITE /b|2~", "OK", &[]),
        ("0#1 TRANSACTION_END T", "OK", &[]),
        ("0 READ /b", "2", &[]),
        // Nor what they do to what was only written, or was read and is the same.
        ("0 TRANSACTION_START ", "2", &[]),
        ("0#2 READ /a/x", "1", &[]),
        ("0#2 WRITE /a/y|2~", "OK", &[]),
        ("0 WRITE /a/y|3~", "OK", &[]),
        ("0 WRITE /a/x|1~", "OK", &[]),
        ("0#2 TRANSACTION_END T", "OK", &[]),
        ("0 READ /a/y", "2", &[]),
        // What was read has become another.
        ("0 TRANSACTION_START ", "3", &[]),
        ("0#3 READ /a/x", "1", &[]),
        ("0#3 WRITE /a/y|4~", "OK", &[]),
        ("0 WRITE /a/x|5~", "OK", &[]),
        ("0#3 TRANSACTION_END T", "EAGAIN", &[]),
        ("0 READ /a/y", "2", &[]),
        ("0#3 TRANSACTION_END T", "EIO", &[]),
        // One that only reads never conflicts.
        ("0 TRANSACTION_START ", "4", &[]),
        ("0#4 READ /a/x", "5", &[]),
        ("0 WRITE /a/x|6~", "OK", &[]),
        ("0#4 READ /a/x", "5", &[]),
        ("0#4 TRANSACTION_END T", "OK", &[]),
        ("0 TRANSACTION_END T", "ENOENT", &[]),
        ("0 TRANSACTION_START ", "5", &[]),
        ("0#5 TRANSACTION_START ", "EBUSY", &[]),
        ("0#5 TRANSACTION_END x", "EINVAL", &[]),
        ("0#5 TRANSACTION_END F", "OK", &[]),
    ]);
}

#[test]
fn a_transaction_whose_release_removes_what_it_changed() {
    // Whether the directory of what was changed is still there is looked at only if others wrote meanwhile.
    for (changed, is_alone, ends) in [
        ("/local/domain/1/data/a", false, "ENOENT"),
        ("/local/domain/1/data/a", true, "OK"),
        ("/local/domain/1", false, "OK"),
    ] {
        let change = format!("0#1 SET_PERMS {changed}|n1");
        let meanwhile = if is_alone { "READ /o" } else { "WRITE /o|~" };
        each(&[
            ("0 WRITE /o|~", "OK", &[]),
            ("1 WRITE data/a|x~", "OK", &[]),
            ("0 TRANSACTION_START ", "1", &[]),
            (&change, "OK", &[]),
            ("0#1 RELEASE 1", "OK", &["1: closed", "101: closed"]),
            (
                &format!("0 {meanwhile}"),
                if is_alone { "" } else { "OK" },
                &[],
            ),
            ("0#1 TRANSACTION_END T", ends, &[]),
            // It is over, however it ended.
            ("0#1 TRANSACTION_END T", "EIO", &[]),
            // What others see is not gone, unless all of the tree was replaced.
            (
                "0 READ /local/domain/1/data/a",
                if is_alone { "ENOENT" } else { "x" },
                &[],
            ),
        ]);
    }
}

#[test]
fn who_has_asked_enough_in_a_transaction_is_told_so() {
    let daemon = Daemon::O420;
    let mut domains = domains_of(Settings {
        daemon,
        quotas: Quotas {
            transaction_nodes: 2,
            ..Quotas::of(daemon)
        },
        ..Settings::default()
    });
    domains.run(&[
        ("1 TRANSACTION_START ", "1", &[]),
        ("1#1 WRITE data/a|x~", "OK", &[]),
        ("1#1 READ data/none", "ENOENT", &[]),
        ("1#1 READ data/a", "EQUOTA", &[]),
        ("1#1 TRANSACTION_END T", "EQUOTA", &[]),
        ("1 READ data/a", "ENOENT", &[]),
        ("1 RESET_WATCHES ", "OK", &[]),
        ("1#1 TRANSACTION_END T", "EIO", &[]),
        ("0 TRANSACTION_START ", "1", &[]),
        ("0#1 MKDIR /a", "OK", &[]),
        ("0#1 MKDIR /b", "OK", &[]),
        ("0#1 MKDIR /c", "OK", &[]),
        ("0#1 TRANSACTION_END T", "OK", &[]),
    ]);
}

#[test]
fn nodes_are_counted_by_what_is_done() {
    for (daemon, is_kept) in [(Daemon::O414, true), (Daemon::O420, false)] {
        let mut domains = of(daemon);
        let nodes = domains.server.tree().owned_by(libgnt::DomId(1));
        let before = format!("dom1 quota: {nodes}/1000");
        let after = format!("dom1 quota: {}/1000", nodes + 2);
        domains.run(&[
            ("0 CONTROL quota|1", &before, &[]),
            ("1 WRITE data/a/b|x~", "OK", &[]),
            ("0 CONTROL quota|1", &after, &[]),
            ("0 RELEASE 1", "OK", &["1: closed", "101: closed"]),
        ]);
        let left = if is_kept {
            &after
        } else {
            "dom1 quota: not set"
        };
        domains.run(&[
            ("0 CONTROL quota|1", left, &[]),
            ("0 CONTROL quota|-1", "dom-1 quota: not set", &[]),
            ("0 CONTROL quota|x", "OK", &[]),
        ]);
    }
}

#[test]
fn the_device_knows_its_watches_by_their_text() {
    each(&[
        ("101 WATCH data|t", "OK", &["101: data t"]),
        (
            "101 WATCH /local/domain/1/data|t",
            "OK",
            &["101: /local/domain/1/data t"],
        ),
        ("101#7 UNWATCH /local/domain/1/data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &["101: data t"]),
        ("101 UNWATCH /local/domain/1/data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &["101: data t"]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &[]),
    ]);
}

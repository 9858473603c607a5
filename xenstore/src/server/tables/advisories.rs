//! What brought other xenstore daemons down, or let guests have more than their due: Xen's security
//! advisories, each as the requests that did it.

use super::super::quota::Quotas;
use super::super::{Daemon, Settings};
use super::{Domains, domains, domains_of};

fn of_every_daemon(test: impl Fn(Domains)) {
    for daemon in Daemon::ALL {
        test(domains_of(Settings {
            daemon: *daemon,
            ..Settings::default()
        }));
    }
}

/// The server still answers.
fn lives(domains: &mut Domains) {
    domains.run(&[("0 READ /local/domain/1/domid", "1", &[])]);
}

#[test]
fn xsa_481_a_home_directory_without_a_number() {
    of_every_daemon(|mut domains| {
        for path in [
            "/local/domain/",
            "/local/domain//",
            "/local/domain/1/",
            "//",
        ] {
            for request in ["READ", "DIRECTORY", "GET_PERMS", "MKDIR", "RM"] {
                for who in [0, 1] {
                    let ask = format!("{who} {request} {path}");
                    domains.run(&[(&ask, "EINVAL", &[])]);
                }
            }
        }
        lives(&mut domains);
    });
}

#[test]
fn xsa_483_a_domains_quota_dies_with_it() {
    of_every_daemon(|mut domains| {
        for _ in 0..3 {
            for n in 0..120 {
                let answer = domains
                    .ask(&format!("1 WRITE data/{n}/a/b/c/d/e/f/g/h|x~"))
                    .0;
                assert!(answer == "OK" || answer == "ENOSPC", "{answer}");
            }
            assert_eq!(domains.ask("1 MKDIR data/full/a/b/c/d/e/f/g/h").0, "ENOSPC");
            for n in 0..200 {
                domains.ask(&format!("1 WATCH data|{n}"));
            }
            assert_eq!(domains.ask("1 WATCH data|full").0, "E2BIG");
            assert_eq!(domains.ask("0 RELEASE 1").0, "OK");
            domains.run(&[
                ("0 INTRODUCE 1|0|5", "OK", &[]),
                ("0 MKDIR /local/domain/1/data", "OK", &[]),
                ("0 SET_PERMS /local/domain/1/data|n1", "OK", &[]),
            ]);
            domains.reconnect(1);
        }
        lives(&mut domains);
    });
}

#[test]
fn xsa_484_a_reset_inside_a_transaction() {
    of_every_daemon(|mut domains| {
        domains.run(&[
            ("1 TRANSACTION_START ", "1", &[]),
            ("1 TRANSACTION_START ", "2", &[]),
            ("1#1 WRITE data/a|x~", "OK", &[]),
            ("1#1 RESET_WATCHES ", "OK", &[]),
            ("1#1 READ data/a", "ENOENT", &[]),
            ("1#1 TRANSACTION_END T", "ENOENT", &[]),
            ("1#2 TRANSACTION_END F", "ENOENT", &[]),
            ("1 READ data/a", "ENOENT", &[]),
        ]);
        lives(&mut domains);
    });
}

#[test]
fn xsa_440_a_conflict_with_the_quota_reached() {
    let quotas = Quotas {
        nodes: 7,
        ..Quotas::default()
    };
    let mut domains = domains(quotas);
    domains.run(&[
        ("1 TRANSACTION_START ", "1", &[]),
        ("1#1 MKDIR data/a", "OK", &[]),
        ("1#1 MKDIR data/b", "OK", &[]),
        ("1#1 MKDIR data/c", "ENOSPC", &[]),
        // Meanwhile outside.
        ("1 MKDIR data/a", "OK", &[]),
        ("1#1 TRANSACTION_END T", "ENOMEM", &[]),
        ("1 TRANSACTION_START ", "2", &[]),
        ("1#2 MKDIR data/b", "OK", &[]),
        ("1 MKDIR data/c", "OK", &[]),
        ("1#2 TRANSACTION_END T", "ENOSPC", &[]),
        ("1 RM data/a", "OK", &[]),
        ("1 RM data/c", "OK", &[]),
        ("1 MKDIR data/d", "OK", &[]),
        ("1 MKDIR data/e", "OK", &[]),
        ("1 MKDIR data/f", "ENOSPC", &[]),
    ]);
    lives(&mut domains);
}

#[test]
fn xsa_415_a_transaction_makes_no_node_without_a_parent() {
    of_every_daemon(|mut domains| {
        domains.run(&[
            ("1 MKDIR data/a", "OK", &[]),
            ("1 TRANSACTION_START ", "1", &[]),
            ("1#1 MKDIR data/a/b", "OK", &[]),
            ("1 RM data/a", "OK", &[]),
            ("1#1 TRANSACTION_END T", "EAGAIN", &[]),
            ("1 READ data/a/b", "ENOENT", &[]),
            ("1 DIRECTORY data", "", &[]),
        ]);
        lives(&mut domains);
    });
}

#[test]
fn xsa_416_nodes_made_and_removed_leave_nothing() {
    of_every_daemon(|mut domains| {
        let before = domains.server.tree().owned(libgnt::DomId(1));
        for _ in 0..50 {
            domains.run(&[("1 MKDIR data/a/b", "OK", &[])]);
            let id = domains.ask("1 TRANSACTION_START ").0;
            for request in ["MKDIR data/a/c", "RM data/a", "MKDIR data/a", "RM data/a"] {
                assert_eq!(domains.ask(&format!("1#{id} {request}")).0, "OK");
            }
            assert_eq!(domains.ask(&format!("1#{id} TRANSACTION_END T")).0, "OK");
        }
        assert_eq!(domains.server.tree().owned(libgnt::DomId(1)), before);
        lives(&mut domains);
    });
}

#[test]
fn xsa_418_a_tree_as_deep_as_a_path_can_be() {
    of_every_daemon(|mut domains| {
        let deep = vec!["a"; 900].join("/");
        domains.run(&[
            (&format!("1 WRITE data/{deep}|x~"), "OK", &[]),
            ("1 TRANSACTION_START ", "1", &[]),
            ("1#1 RM data/a", "OK", &[]),
            ("1#1 TRANSACTION_END F", "OK", &[]),
            ("1 RM data/a", "OK", &[]),
        ]);
        let deepest = vec!["a"; 1023].join("/");
        domains.run(&[
            (&format!("0 WRITE /{deepest}|x~"), "OK", &[]),
            ("0 RM /a", "OK", &[]),
        ]);
        lives(&mut domains);
    });
}

#[test]
fn xsa_419_nodes_count_for_who_makes_them() {
    of_every_daemon(|mut domains| {
        domains.run(&[("1 SET_PERMS data|b1", "OK", &[])]);
        // In directories, of which none becomes too large.
        let path = |n: usize| format!("2 MKDIR /local/domain/1/data/{}/{n}", n / 50);
        let mut made = 0;
        while domains.ask(&path(made)).0 == "OK" {
            made += 1;
        }
        // Its own home's nodes were five, and the directories are its own.
        assert_eq!(domains.server.tree().owned_by(libgnt::DomId(2)), 1000);
        assert_eq!(domains.ask("2 MKDIR data/more").0, "ENOSPC");
        lives(&mut domains);
    });
}

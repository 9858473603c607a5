//! Where one daemon's answers differ from another's, and what only Xen 4.22 has.

use super::super::daemon::Make;
use super::super::{Daemon, Settings};
use super::{Domains, domains_of};

fn of(daemon: Daemon) -> Domains {
    domains_of(Settings {
        daemon,
        ..Settings::default()
    })
}

#[test]
fn a_nodes_limit() {
    let value = |n: usize| format!("1 WRITE data/a|{}~", "v".repeat(n));
    for (daemon, most) in [
        (Daemon::C414, 2015),
        (Daemon::C417, 2015),
        (Daemon::C420, 2024),
    ] {
        of(daemon).run(&[(&value(most + 1), "ENOSPC", &[]), (&value(most), "OK", &[])]);
    }
}

#[test]
fn unwatch_of_no_path() {
    of(Daemon::C417).run(&[("1 UNWATCH a//b|t", "ENOENT", &[])]);
    of(Daemon::C420).run(&[("1 UNWATCH a//b|t", "EINVAL", &[])]);
    // A path that became too long.
    for (daemon, answer) in [(Daemon::C417, "OK"), (Daemon::C420, "EINVAL")] {
        of(daemon).run(&[
            ("1 WATCH data/a|t", "OK", &["1: data/a t"]),
            ("0 CONTROL quota|set|path-max|5", "OK", &[]),
            ("1 UNWATCH data/a|t", answer, &[]),
        ]);
    }
}

#[test]
fn what_is_counted_of_a_path() {
    for (daemon, start, most) in [
        (Daemon::C414, "/local/domain/1/data/", 3072),
        (Daemon::C414, "", 3072 - "/local/domain/1/".len()),
        (Daemon::C414, "/", 3072),
        (
            Daemon::C417,
            "/local/domain/1/data/",
            2048 + "/local/domain/1/".len(),
        ),
        (Daemon::C417, "", 2048),
        (Daemon::C417, "/", 2048),
    ] {
        let path = |length: usize| start.to_owned() + &"p".repeat(length - start.len());
        let (longest, longer) = (path(most), path(most + 1));
        of(daemon).run(&[
            (
                &format!("1 WATCH {longest}|t"),
                "OK",
                &[&format!("1: {longest} t")],
            ),
            (&format!("1 WATCH {longer}|t"), "EINVAL", &[]),
            (&format!("1 READ {longer}"), "EINVAL", &[]),
        ]);
    }
    // Until 4.17 a special watch's is no quota.
    for (daemon, answer) in [(Daemon::C417, "EEXIST"), (Daemon::C420, "EINVAL")] {
        of(daemon).run(&[
            ("1 WATCH @releaseDomain|t", "OK", &["1: @releaseDomain t"]),
            ("0 CONTROL quota|set|path-max|8", "OK", &[]),
            ("1 WATCH @releaseDomain|t", answer, &[]),
        ]);
    }
    let special = |length: usize| "@".to_owned() + &"p".repeat(length - 1);
    of(Daemon::C414).run(&[(&format!("1 WATCH {}|t", special(2049)), "EINVAL", &[])]);
}

#[test]
fn an_errno_that_has_no_name_yet() {
    for (daemon, answer) in [(Daemon::C414, "EINVAL"), (Daemon::C417, "EPERM")] {
        of(daemon).run(&[("1 SET_PERMS data|n2", answer, &[])]);
    }
}

#[test]
fn who_watches_the_root_hears_of_domains() {
    let heard = |at: Daemon| -> &'static [&'static str] {
        match at {
            Daemon::C414 => &["0: @introduceDomain r"],
            _ => &[],
        }
    };
    for daemon in [Daemon::C414, Daemon::C417, Daemon::C420] {
        of(daemon).run(&[
            ("0 WATCH /|r", "OK", &["0: / r"]),
            ("1 WATCH /|r", "OK", &["1: / r"]),
            ("0 INTRODUCE 9|0|5", "OK", heard(daemon)),
        ]);
    }
}

#[test]
fn a_dead_domains_permission_on_a_special_watch() {
    for (daemon, heard) in [
        (Daemon::C414, &["2: @introduceDomain i"][..]),
        (Daemon::C417, &[]),
        (Daemon::C420, &[]),
    ] {
        let mut domains = of(daemon);
        domains.run(&[
            ("0 SET_PERMS @introduceDomain|n0|r2", "OK", &[]),
            ("0 RELEASE 2", "OK", &["2: closed"]),
            ("0 INTRODUCE 2|0|5", "OK", &[]),
        ]);
        domains.reconnect(2);
        domains.run(&[
            (
                "2 WATCH @introduceDomain|i",
                "OK",
                &["2: @introduceDomain i"],
            ),
            ("0 INTRODUCE 9|0|5", "OK", heard),
        ]);
    }
}

#[test]
fn permissions_of_special_watches() {
    of(Daemon::C417).run(&[
        ("0 WATCH @releaseDomain|r", "OK", &["0: @releaseDomain r"]),
        ("0 SET_PERMS @releaseDomain|n0|r1", "OK", &[]),
        ("0 GET_PERMS @releaseDomain", "EINVAL", &[]),
        ("0 SET_PERMS @none|r0", "EINVAL", &[]),
        ("1 SET_PERMS @releaseDomain|r1", "EACCES", &[]),
    ]);
    of(Daemon::C420).run(&[
        ("0 WATCH @releaseDomain|r", "OK", &["0: @releaseDomain r"]),
        ("1 WATCH @releaseDomain|r", "OK", &["1: @releaseDomain r"]),
        ("0 GET_PERMS @releaseDomain", "n0", &[]),
        ("1 GET_PERMS @releaseDomain", "EACCES", &[]),
        (
            "0 SET_PERMS @releaseDomain|n0|r1",
            "OK",
            &["0: @releaseDomain r", "1: @releaseDomain r"],
        ),
        ("1 GET_PERMS @releaseDomain", "n0|r1", &[]),
        ("0 SET_PERMS @none|r0", "ENOENT", &[]),
        ("1 SET_PERMS @releaseDomain|r1", "EACCES", &[]),
        ("0 WRITE @releaseDomain|x~", "EINVAL", &[]),
        ("0 RM @releaseDomain", "EINVAL", &[]),
        ("0 DIRECTORY @releaseDomain", "EINVAL", &[]),
        // Given to a domain, which may give it on.
        ("0 SET_PERMS @introduceDomain|n1", "OK", &[]),
        ("1 SET_PERMS @introduceDomain|n1|r2", "OK", &[]),
        (
            "2 WATCH @introduceDomain|i",
            "OK",
            &["2: @introduceDomain i"],
        ),
        ("0 INTRODUCE 9|0|5", "OK", &["2: @introduceDomain i"]),
        // Who watches the root hears of these permissions, too, once for each watch.
        ("0 WATCH /|r", "OK", &["0: / r"]),
        (
            "0 SET_PERMS @releaseDomain|n0",
            "OK",
            &[
                "0: @releaseDomain r",
                "0: @releaseDomain r",
                "1: @releaseDomain r",
            ],
        ),
    ]);
}

#[test]
fn what_only_the_newest_has() {
    let requests = ["23 ~", "25 ~", "24 1|0", "26 nodes|7"];
    for request in requests {
        for who in ["0", "1"] {
            let ask = format!("{who} {request}");
            of(Daemon::C420).run(&[(&ask, "ENOSYS", &[])]);
        }
    }
    of(Daemon::C422).run(&[
        ("1 23 ~", "4", &[]),
        ("1 23 1", "EACCES", &[]),
        ("1 25 ~", "EACCES", &[]),
        ("0 23 1", "4", &[]),
        ("0 24 1|0", "OK", &[]),
        ("0 23 1", "0", &[]),
        ("0 24 1|8", "EINVAL", &[]),
        ("0 24 9|0", "ENOENT", &[]),
        ("0 25 nodes", "1000", &[]),
        ("0 25 none", "EINVAL", &[]),
        ("0 26 1|nodes|6", "OK", &[]),
        ("0 25 1|nodes", "6", &[]),
        ("0 25 2|nodes", "1000", &[]),
        ("1 MKDIR data/a", "OK", &[]),
        ("1 MKDIR data/b", "ENOSPC", &[]),
        ("2 MKDIR data/a", "OK", &[]),
        ("2 MKDIR data/b", "OK", &[]),
        ("0 26 1|nodes|0", "OK", &[]),
        ("1 MKDIR data/b", "OK", &[]),
        // A number that is used again begins anew.
        ("0 26 1|nodes|1", "OK", &[]),
        ("0 RELEASE 1", "OK", &["1: closed", "101: closed"]),
        ("0 INTRODUCE 1|0|5", "OK", &[]),
        ("0 25 1|nodes", "1000", &[]),
    ]);
}

#[test]
fn a_watch_of_some_levels() {
    of(Daemon::C422).run(&[
        ("1 WATCH data|zero|0", "OK", &["1: data zero"]),
        ("1 WATCH data|one|1", "OK", &["1: data one"]),
        ("1 WATCH data|all", "OK", &["1: data all"]),
        ("1 WATCH data|bad|-1", "EINVAL", &[]),
        (
            "1 WRITE data|x~",
            "OK",
            &["1: data zero", "1: data one", "1: data all"],
        ),
        (
            "1 WRITE data/a|x~",
            "OK",
            &["1: data/a one", "1: data/a all"],
        ),
        ("1 WRITE data/a/b|x~", "OK", &["1: data/a/b all"]),
    ]);
    of(Daemon::C420).run(&[("1 WATCH data|zero|0", "EINVAL", &[])]);
}

#[test]
fn a_permission_for_anybody() {
    for (daemon, answer) in [(Daemon::C420, "EACCES"), (Daemon::C422, "x")] {
        of(daemon).run(&[
            ("1 WRITE data/a|x~", "OK", &[]),
            ("1 SET_PERMS data/a|n1|n2|r32757", "OK", &[]),
            ("1 GET_PERMS data/a", "n1|n2|r32757", &[]),
            ("2 READ /local/domain/1/data/a", "EACCES", &[]),
            ("3 READ /local/domain/1/data/a", answer, &[]),
        ]);
    }
}

#[test]
fn the_end_of_one_domain() {
    of(Daemon::C422).run(&[
        (
            "0 WATCH @releaseDomain/2|r",
            "OK",
            &["0: @releaseDomain/2 r"],
        ),
        ("0 RELEASE 1", "OK", &["1: closed", "101: closed"]),
        ("0 RELEASE 2", "OK", &["2: closed", "0: @releaseDomain/2 r"]),
    ]);
}

#[test]
fn permissions_of_a_dead_domain_are_not_its_successors() {
    for daemon in Daemon::ALL.iter().filter(|it| it.make() == Make::C) {
        of(*daemon).run(&[
            ("1 WRITE data/a|x~", "OK", &[]),
            ("1 SET_PERMS data/a|n1|r2|w3", "OK", &[]),
            ("0 RELEASE 3", "OK", &["3: closed"]),
            ("0 RELEASE 2", "OK", &["2: closed"]),
        ]);
        let mut domains = of(*daemon);
        domains.run(&[
            ("1 WRITE data/a|x~", "OK", &[]),
            ("1 SET_PERMS data/a|n1|r2", "OK", &[]),
            ("2 READ /local/domain/1/data/a", "x", &[]),
            ("0 RELEASE 2", "OK", &["2: closed"]),
            ("0 INTRODUCE 2|0|5", "OK", &[]),
        ]);
        domains.reconnect(2);
        domains.run(&[
            ("2 READ /local/domain/1/data/a", "EACCES", &[]),
            (
                "2 WATCH /local/domain/1/data/a|w",
                "OK",
                &["2: /local/domain/1/data/a w"],
            ),
            ("1 WRITE data/a|y~", "OK", &[]),
            // Below it, too.
            ("1 WRITE data/a/b|x~", "OK", &[]),
            ("2 READ /local/domain/1/data/a/b", "EACCES", &[]),
            // Until somebody gives them anew.
            (
                "1 SET_PERMS data/a|n1|r2",
                "OK",
                &["2: /local/domain/1/data/a w"],
            ),
            ("2 READ /local/domain/1/data/a", "y", &[]),
        ]);
    }
}

//! `control`, and the quotas that it sets.

use super::super::{Daemon, Settings};
use super::{Domains, domains_of, run};

fn of(daemon: Daemon) -> Domains {
    domains_of(Settings {
        daemon,
        ..Settings::default()
    })
}

#[test]
fn control_commands() {
    run(&[
        ("0 CONTROL check", "OK", &[]),
        ("0 CONTROL check|x", "EINVAL", &[]),
        ("0 CONTROL log|on", "OK", &[]),
        ("0 CONTROL log", "EINVAL", &[]),
        ("0 CONTROL log|+io", "EINVAL", &[]),
        ("0 CONTROL quota|set|nodes|6", "OK", &[]),
        ("1 MKDIR data/a", "OK", &[]),
        ("1 MKDIR data/b", "ENOSPC", &[]),
        ("0 CONTROL quota|set|nodes|0", "EINVAL", &[]),
        ("0 CONTROL quota|set|none|7", "EINVAL", &[]),
        ("0 CONTROL quota|set|nodes|7|8", "EINVAL", &[]),
        ("0 CONTROL quota|9", "ENOENT", &[]),
        ("0 CONTROL quota|max|-r", "EINVAL", &[]),
        ("0 CONTROL quota-soft|set|nodes|7", "EINVAL", &[]),
        ("0 CONTROL print|hello", "OK", &[]),
        ("0 CONTROL print", "EINVAL", &[]),
        ("0 CONTROL crash", "EINVAL", &[]),
        // Nothing here writes a file that a client names.
        ("0 CONTROL memreport", "EINVAL", &[]),
        ("0 CONTROL memreport|/tmp/file", "EINVAL", &[]),
        ("0 CONTROL logfile|/tmp/file", "EINVAL", &[]),
        ("0 RESUME 1", "OK", &[]),
        ("0 RESUME 9", "ENOENT", &[]),
        ("0 SET_TARGET 9|1", "ENOENT", &[]),
        ("0 INTRODUCE 9", "EINVAL", &[]),
        ("0 INTRODUCE 9|0|0", "EINVAL", &[]),
    ]);
}

#[test]
fn the_log_has_switches() {
    let shown = |io: &str| {
        let io = format!("io      : {io}\n");
        let rest = "wrl     : off\nacc     : off\ntdb     : off\n";
        format!("Log switch settings:\nobj     : on\n{io}{rest}")
    };
    of(Daemon::C420).run(&[
        ("0 CONTROL log", &shown("on"), &[]),
        ("0 CONTROL log|-io", "OK", &[]),
        ("0 CONTROL log", &shown("off"), &[]),
        ("0 CONTROL log|+none", "EINVAL", &[]),
        ("0 CONTROL log|io", "EINVAL", &[]),
    ]);
}

#[test]
fn a_live_update_is_refused_in_words() {
    for (daemon, is_known) in [
        (Daemon::C414, false),
        (Daemon::C417, true),
        (Daemon::C420, true),
    ] {
        let mut domains = of(daemon);
        for (request, is_right) in [
            ("0 CONTROL live-update|-f|/bin/true", true),
            ("0 CONTROL live-update|-s|-F|-t|5", true),
            ("0 CONTROL live-update|-s|-x", false),
            ("0 CONTROL live-update|-s|-t", false),
            ("0 CONTROL live-update", false),
        ] {
            let (answer, _) = domains.ask(request);
            let expected = is_known && is_right;
            assert_eq!(answer.contains("not updated live"), expected, "{request}");
            assert_eq!(answer == "EINVAL", !expected, "{request}");
        }
    }
}

#[test]
fn quotas_have_each_daemons_names() {
    for (daemon, name, other) in [
        (Daemon::C414, "permissions", "path-max"),
        (Daemon::C417, "permissions", "node-permissions"),
        (Daemon::C420, "node-permissions", "permissions"),
    ] {
        let mut domains = of(daemon);
        domains.run(&[
            (&format!("0 CONTROL quota|set|{name}|1"), "OK", &[]),
            ("1 SET_PERMS data|n1|r2", "ENOSPC", &[]),
            (&format!("0 CONTROL quota|set|{other}|1"), "EINVAL", &[]),
        ]);
        let (all, _) = domains.ask("0 CONTROL quota");
        let line = format!("{name:<17}:        1 Max. number of permissions per node\n");
        assert!(all.contains(&line), "{all}");
    }
}

/// What a domain has, and from 4.20 on the most that it had.
#[test]
fn what_a_domain_takes() {
    let rows = |rows: &[(&str, &str)], width: usize| {
        let rows = rows
            .iter()
            .map(|(name, value)| format!("{name:<width$}: {value}\n"));
        format!("Domain 1:\n{}", rows.collect::<String>())
    };
    let requests: &[(&str, &str, &[&str])] = &[
        ("1 WRITE data/a|x~", "OK", &[]),
        ("1 WATCH data|t", "OK", &["1: data t"]),
        ("1 TRANSACTION_START ", "1", &[]),
        ("1#1 TRANSACTION_END F", "OK", &[]),
        ("1 RM data/a", "OK", &["1: data/a t"]),
    ];
    let mut old = of(Daemon::C417);
    old.run(requests);
    let (text, _) = old.ask("0 CONTROL quota|1");
    let memory = text.lines().last().unwrap().to_owned();
    let shown = rows(
        &[
            ("nodes", "       5"),
            ("watches", "       1"),
            ("transactions", "       0"),
            ("outstanding", "       0"),
        ],
        16,
    );
    assert_eq!(text, format!("{shown}{memory}\n"));
    let mut new = of(Daemon::C420);
    new.run(requests);
    let (text, _) = new.ask("0 CONTROL quota|1");
    for line in [
        "nodes            :        5 (max        6)\n",
        "watches          :        1 (max        1)\n",
        "transactions     :        0 (max        1)\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Each node is 8 bytes less there.
    let number = |text: &str| {
        let memory = text.lines().find(|line| line.starts_with("memory"));
        let number = memory.unwrap().split_whitespace().nth(2);
        number.unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(number(&memory), number(&text) + 5 * 8);
    let (all, _) = new.ask("0 CONTROL quota|max");
    assert!(all.contains("nodes            :        6\n"), "{all}");
    let (all, _) = new.ask("0 CONTROL quota|max|-r");
    assert!(all.contains("nodes            :        0\n"), "{all}");
    let (text, _) = new.ask("0 CONTROL quota|1");
    assert!(text.contains("5 (max        5)"), "{text}");
}

/// Until 4.17 a transaction's nodes count at its end, then when they are made. What finds no room at once
/// does not spoil the transaction.
#[test]
fn the_number_of_nodes_and_transactions() {
    // Five nodes each domain has.
    let quota: (&str, &str, &[&str]) = ("0 CONTROL quota|set|nodes|7", "OK", &[]);
    for daemon in [Daemon::C414, Daemon::C417] {
        of(daemon).run(&[
            quota,
            ("1 TRANSACTION_START ", "1", &[]),
            ("1#1 WRITE data/a/b/c|x~", "OK", &[]),
            ("1#1 TRANSACTION_END T", "ENOSPC", &[]),
            ("1 TRANSACTION_START ", "2", &[]),
            ("1#2 WRITE data/a|x~", "OK", &[]),
            ("1#2 TRANSACTION_END T", "OK", &[]),
        ]);
    }
    of(Daemon::C420).run(&[
        quota,
        ("1 MKDIR data/a", "OK", &[]),
        ("1 MKDIR data/b", "OK", &[]),
        ("1 TRANSACTION_START ", "1", &[]),
        ("1#1 WRITE data/c|x~", "ENOSPC", &[]),
        ("1#1 RM data/a", "OK", &[]),
        ("1#1 TRANSACTION_END T", "OK", &[]),
        ("1 TRANSACTION_START ", "2", &[]),
        // One is made before the second finds no room.
        ("1#2 WRITE data/c/d|x~", "ENOSPC", &[]),
        ("1#2 TRANSACTION_END T", "ENOMEM", &[]),
    ]);
    for (daemon, answer) in [
        (Daemon::C414, "ENOSPC"),
        (Daemon::C417, "OK"),
        (Daemon::C420, "OK"),
    ] {
        of(daemon).run(&[
            quota,
            ("0 TRANSACTION_START ", "1", &[]),
            ("0#1 MKDIR /local/domain/1/data/a/b", "OK", &[]),
            ("0#1 TRANSACTION_END T", answer, &[]),
        ]);
    }
}

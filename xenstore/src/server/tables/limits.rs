//! Quotas.

use super::super::quota::Quotas;
use super::super::rate::WriteRate;
use super::super::{ConnId, Daemon, Settings};
use super::{domains, domains_of, run};
use libgnt::machine::Now;

#[test]
fn quotas() {
    let quotas = Quotas {
        nodes: 10,
        watches: 2,
        transactions: 1,
        node_bytes: 40,
        permissions: 2,
        transaction_nodes: 4,
        ..Quotas::default()
    };
    // Five nodes of its own each domain has from the toolstack.
    domains(quotas).run(&[
        ("1 WRITE data/a/b/c/d|x~", "OK", &[]),
        ("1 WRITE data/a/x/y|x~", "ENOSPC", &[]),
        ("1 READ data/a/x", "ENOENT", &[]),
        ("1 WRITE data/a/x|x~", "OK", &[]),
        ("1 MKDIR data/e", "ENOSPC", &[]),
        ("1 RM data/a/x", "OK", &[]),
        ("1 MKDIR data/e", "OK", &[]),
        ("1 WRITE data/e|12345678~", "ENOSPC", &[]),
        ("1 WRITE data/e|1234567~", "OK", &[]),
        ("1 SET_PERMS data/e|n1|r2|r3", "ENOSPC", &[]),
        ("1 WATCH data|1", "OK", &["1: data 1"]),
        ("1 WATCH data|2", "OK", &["1: data 2"]),
        ("1 WATCH data|3", "OK", &["1: data 3"]),
        ("1 WATCH data|4", "E2BIG", &[]),
        ("1 TRANSACTION_START ", "1", &[]),
        ("1 TRANSACTION_START ", "2", &[]),
        ("1 TRANSACTION_START ", "ENOSPC", &[]),
        ("1#1 READ data/a", "", &[]),
        ("1#1 READ data/a/b", "", &[]),
        ("1#1 READ data/a/b/c", "", &[]),
        ("1#1 READ data/a/b/c/d", "x", &[]),
        ("1#1 READ data/e", "ENOSPC", &[]),
        ("1#1 READ data/a", "", &[]),
        ("1#1 TRANSACTION_END T", "ENOMEM", &[]),
        // One domain's greed is not another's loss, and dom0 has no quota.
        ("2 WRITE data/a|x~", "OK", &[]),
        ("0 WRITE /a/b/c/d/e/f/g/h/i/j/k/l|123456~", "OK", &[]),
    ]);
}

#[test]
fn a_nodes_limit_counts_all_that_xenstored_stores() {
    let value = |n: usize| "v".repeat(n);
    run(&[
        (&format!("1 WRITE data/a|{}~", value(2015)), "OK", &[]),
        (&format!("1 WRITE data/a|{}~", value(2016)), "ENOSPC", &[]),
        (&format!("1 WRITE data/b|{}~", value(2016)), "ENOSPC", &[]),
        ("1 SET_PERMS data/a|n1|r2", "ENOSPC", &[]),
        ("1 MKDIR data/a/c", "ENOSPC", &[]),
        (&format!("1 WRITE data/a|{}~", value(2006)), "OK", &[]),
        ("1 SET_PERMS data/a|n1|r2", "OK", &[]),
        ("1 MKDIR data/a/c", "ENOSPC", &[]),
        ("1 SET_PERMS data/a|n1", "OK", &[]),
        ("1 MKDIR data/a/1234567", "OK", &[]),
        ("1 DIRECTORY data/a", "1234567", &[]),
        (&format!("1 MKDIR data/{}/d", value(1980)), "OK", &[]),
    ]);
}

/// A write costs as many as the nodes that it writes, while some transaction is open.
#[test]
fn the_write_limit_counts_nodes() {
    let wait = |daemon, requests: &[(&str, &str, &[&str])]| {
        let mut domains = domains_of(Settings {
            daemon,
            write_rate: Some(WriteRate::default()),
            ..Settings::default()
        });
        domains.run(&[
            ("1 WRITE data/a/b/c/d|x~", "OK", &[]),
            ("2 TRANSACTION_START ", "1", &[]),
        ]);
        domains.run(requests);
        let wait = domains.server.wait(ConnId(1), Now::ZERO);
        wait.map(|wait| wait.as_millis())
    };
    // Ten are free, and 200 a second are for three domains together.
    let owed = |writes: u128| Some(writes * 3 * 1000 / 200);
    let deep: (&str, &str, &[&str]) = ("1 WRITE data/e/f/g/h/i/j/k/l|x~", "OK", &[]);
    let write: (&str, &str, &[&str]) = ("1 WRITE data/a|x~", "OK", &[]);
    assert_eq!(wait(Daemon::C420, &[deep]), None);
    assert_eq!(wait(Daemon::C420, &[deep, write]), None);
    assert_eq!(wait(Daemon::C420, &[deep, write, write]), owed(1));
    let removal: (&str, &str, &[&str]) = ("1 RM data/a", "OK", &[]);
    assert_eq!(wait(Daemon::C420, &[deep, removal]), owed(4));
    assert_eq!(wait(Daemon::C414, &[deep, removal]), owed(7));
    // A transaction costs one, and what changes nothing none.
    assert_eq!(
        wait(
            Daemon::C420,
            &[
                deep,
                ("1 TRANSACTION_START ", "1", &[]),
                ("1#1 WRITE data/e/f/g/x/y/z|x~", "OK", &[]),
                ("1#1 TRANSACTION_END T", "OK", &[]),
                ("1 READ data/a", "", &[]),
            ],
        ),
        None
    );
}

/// What a domain takes is the same number that CONTROL tells.
#[test]
fn memory() {
    let mut domains = domains(Quotas::default());
    let (text, _) = domains.ask("0 CONTROL quota|1");
    let number = text.split_whitespace().last().unwrap();
    let bytes: usize = number.parse().unwrap();
    let node = 24 + 8 + "/local/domain/1/data/a".len() + "a|".len();
    domains.run(&[
        (
            &format!("0 CONTROL quota|set|memory|{}", bytes + node + 10),
            "OK",
            &[],
        ),
        ("1 WRITE data/a|0123456789~", "ENOMEM", &[]),
        ("1 WATCH data|t", "OK", &["1: data t"]),
        ("1 UNWATCH data|t", "OK", &[]),
        ("1 WRITE data/a|012345678~", "OK", &[]),
        ("1 WATCH data|t", "ENOMEM", &[]),
        ("1 WRITE data/a|0123456789~", "ENOMEM", &[]),
        // It goes on being served, and can make room itself.
        ("1 READ data/a", "012345678", &[]),
        ("1 WRITE data/a|0~", "OK", &[]),
        ("2 WRITE data/a|012345678~", "OK", &[]),
    ]);
}

//! Quotas.

use super::super::quota::Quotas;
use super::{domains, run};

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

//! Transactions.

use super::run;

#[test]
fn transactions() {
    run(&[
        (
            "0 WATCH /local/domain/1/data|w",
            "OK",
            &["0: /local/domain/1/data w"],
        ),
        (
            "1 WRITE data/a|old~",
            "OK",
            &["0: /local/domain/1/data/a w"],
        ),
        ("1 TRANSACTION_START ", "1", &[]),
        ("1#1 TRANSACTION_START ", "EBUSY", &[]),
        ("1#1 READ data/a", "old", &[]),
        // Isolation both ways; no event before the commit.
        ("1#1 WRITE data/b|new~", "OK", &[]),
        ("1 READ data/b", "ENOENT", &[]),
        ("1#1 READ data/b", "new", &[]),
        (
            "1#1 TRANSACTION_END T",
            "OK",
            &["0: /local/domain/1/data/b w"],
        ),
        ("1 READ data/b", "new", &[]),
        ("1#1 TRANSACTION_END T", "ENOENT", &[]),
        ("1#1 READ data/b", "ENOENT", &[]),
        // Aborted: as if it had not been.
        ("1 TRANSACTION_START ", "2", &[]),
        ("1#2 RM data/b", "OK", &[]),
        ("1#2 TRANSACTION_END F", "OK", &[]),
        ("1 READ data/b", "new", &[]),
        // Conflict: what it read has changed.
        ("1 TRANSACTION_START ", "3", &[]),
        ("1#3 READ data/a", "old", &[]),
        (
            "1 WRITE data/a|newer~",
            "OK",
            &["0: /local/domain/1/data/a w"],
        ),
        ("1#3 READ data/a", "old", &[]),
        ("1#3 WRITE data/c|x~", "OK", &[]),
        ("1#3 TRANSACTION_END T", "EAGAIN", &[]),
        ("1 READ data/c", "ENOENT", &[]),
        // Conflict: what it found missing has come.
        ("1 TRANSACTION_START ", "4", &[]),
        ("1#4 READ data/c", "ENOENT", &[]),
        ("1 WRITE data/c|x~", "OK", &["0: /local/domain/1/data/c w"]),
        ("1#4 TRANSACTION_END T", "EAGAIN", &[]),
        // No conflict: others changed something else.
        ("1 TRANSACTION_START ", "5", &[]),
        ("1#5 WRITE data/a|5~", "OK", &[]),
        (
            "1 WRITE data/b|other~",
            "OK",
            &["0: /local/domain/1/data/b w"],
        ),
        (
            "1#5 TRANSACTION_END T",
            "OK",
            &["0: /local/domain/1/data/a w"],
        ),
        ("1 READ data/a", "5", &[]),
        ("1 READ data/b", "other", &[]),
        // Conflict: a node below what it removes has changed.
        (
            "1 WRITE data/d/e|1~",
            "OK",
            &["0: /local/domain/1/data/d/e w"],
        ),
        ("1 TRANSACTION_START ", "6", &[]),
        ("1#6 RM data/d", "OK", &[]),
        (
            "1 WRITE data/d/e|2~",
            "OK",
            &["0: /local/domain/1/data/d/e w"],
        ),
        ("1#6 TRANSACTION_END T", "EAGAIN", &[]),
        ("1 READ data/d/e", "2", &[]),
        // Another connection's transaction.
        ("1 TRANSACTION_START ", "7", &[]),
        ("2#7 READ domid", "ENOENT", &[]),
        ("1#99 READ domid", "ENOENT", &[]),
    ]);
}

#[test]
fn a_transaction_begins_with_its_first_look() {
    run(&[
        ("1 WRITE data/a|1~", "OK", &[]),
        ("1 WRITE data/b|1~", "OK", &[]),
        ("1 TRANSACTION_START ", "1", &[]),
        ("1#1 WRITE data/b|mine~", "OK", &[]),
        ("1 WRITE data/a|2~", "OK", &[]),
        ("1#1 READ data/a", "2", &[]),
        ("1#1 READ data/b", "mine", &[]),
        // Seen: from here on it stays, and so does the rest.
        ("1 WRITE data/a|3~", "OK", &[]),
        ("1#1 READ data/a", "2", &[]),
        ("1#1 TRANSACTION_END T", "EAGAIN", &[]),
        ("1 TRANSACTION_START ", "2", &[]),
        ("1#2 WRITE data/b|mine~", "OK", &[]),
        ("1 WRITE data/a|4~", "OK", &[]),
        ("1#2 READ data/a", "4", &[]),
        ("1#2 TRANSACTION_END X", "EINVAL", &[]),
        ("1#2 TRANSACTION_END T", "OK", &[]),
        ("1 READ data/b", "mine", &[]),
    ]);
}

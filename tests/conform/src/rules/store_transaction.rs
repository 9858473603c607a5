//! xenstore's transactions: all or nothing, and not in the way of others.

use crate::bench::Bench;
use crate::conn::Conn;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::store::{Scratch, denied, says_no, says_yes};
use crate::things::same;
use pv_xenstore::wire::Kind;
use rustix::io::Errno;

const FINALIZE: &str = "tools/xenstore/xenstored_transaction.c: finalize_transaction";
const ACCESS: &str = "tools/xenstore/xenstored_transaction.c: access_node";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "store-transaction-is-seen-at-its-end",
        "A transaction sees its own writes; nobody else does before it has ended.",
        "tools/xenstore/xenstored_transaction.c: transaction_prepend, finalize_transaction",
        seen_at_its_end,
    ),
    Rule::new(
        "store-transaction-dropped-leaves-nothing",
        "A transaction ended with F leaves nothing, and no watch fires.",
        "tools/xenstore/xenstored_transaction.c: do_transaction_end",
        dropped,
    ),
    Rule::new(
        "store-transaction-fires-at-its-end",
        "Watches fire when a transaction ends, once for each node that it changed, however often.",
        FINALIZE,
        fires_at_its_end,
    ),
    Rule::new(
        "store-transaction-in-conflict-is-eagain",
        "A transaction whose end finds a node changed since it read or wrote it is EAGAIN and does nothing.",
        FINALIZE,
        conflict,
    ),
    Rule::new(
        "store-transaction-conflicts-over-what-was-absent",
        "Having found a node absent counts as having read it, and the nearest node above it that is there.",
        "tools/xenstore/xenstored_core.c: read_node (NO_GENERATION)",
        absent_conflict,
    ),
    Rule::new(
        "store-transactions-that-make-siblings-conflict",
        "Making a node changes its parent's list, so two transactions that make siblings conflict; two that write different nodes do not.",
        ACCESS,
        siblings,
    ),
    Rule::new(
        "store-transaction-begins-with-the-first-look",
        "What others change before a transaction first looks at a node is what it sees, and no conflict.",
        ACCESS,
        first_look,
    ),
    Rule::new(
        "store-transaction-keeps-what-it-saw",
        "What others change after a transaction has looked at a node it does not see.",
        ACCESS,
        keeps_what_it_saw,
    ),
    Rule::new(
        "store-transaction-unknown-is-enoent",
        "A request in a transaction that is not open, or whose end is that, is ENOENT.",
        "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_write_transaction; tools/xenstore/xenstored_transaction.c: transaction_lookup",
        unknown,
    ),
    Rule::new(
        "store-transaction-ends-with-t-or-f",
        "Anything but T and F is EINVAL, and the transaction stays open.",
        "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_write_transaction",
        ends_with_t_or_f,
    ),
    Rule::new(
        "store-transaction-in-a-transaction-is-ebusy",
        "No transaction can be started in another one.",
        "tools/xenstore/xenstored_transaction.c: do_transaction_start",
        nested,
    ),
    Rule::new(
        "store-transaction-is-tried-again-by-the-client",
        "The client runs a transaction that was in conflict again, and it succeeds.",
        FINALIZE,
        tried_again,
    ),
];

fn value(conn: &mut Conn, tx: u32, path: &str) -> Outcome<String> {
    let value = says_yes(&format!("reading {path}"), conn.read(tx, path)?)?;
    Ok(String::from_utf8_lossy(&value).into_owned())
}

fn seen_at_its_end(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut conn, mut other) = (Conn::open(bench)?, Conn::open(bench)?);
    let (old, new) = (scratch.at("old"), scratch.at("new"));
    conn.write(0, &old, "before")?;
    let tx = conn.begin()?;
    conn.write(tx, &old, "after")?;
    conn.write(tx, &new, "after")?;
    same("in it", value(&mut conn, tx, &old)?, "after".into())?;
    same("in it", value(&mut conn, tx, &new)?, "after".into())?;
    for conn in [&mut conn, &mut other] {
        same("outside", value(conn, 0, &old)?, "before".into())?;
        says_no("outside", conn.read(0, &new)?, Errno::NOENT)?;
    }
    says_yes("its end", conn.end(tx, true)?)?;
    same("then", value(&mut other, 0, &old)?, "after".into())?;
    same("then", value(&mut other, 0, &new)?, "after".into())
}

fn dropped(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let (old, new) = (scratch.at("old"), scratch.at("new"));
    conn.write(0, &old, "before")?;
    conn.watch(scratch.path(), "w")?;
    let tx = conn.begin()?;
    conn.write(tx, &new, "x")?;
    conn.rm(tx, &old)?;
    says_no("in it", conn.read(tx, &old)?, Errno::NOENT)?;
    says_yes("its end", conn.end(tx, false)?)?;
    same("old", value(&mut conn, 0, &old)?, "before".into())?;
    says_no("new", conn.read(0, &new)?, Errno::NOENT)?;
    same("the events", conn.events_so_far(&scratch)?, vec![])
}

fn fires_at_its_end(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut conn, mut watcher) = (Conn::open(bench)?, Conn::open(bench)?);
    let (a, b) = (scratch.at("a"), scratch.at("b"));
    conn.write(0, &a, "x")?;
    watcher.watch(scratch.path(), "w")?;
    let tx = conn.begin()?;
    for text in ["1", "2", "3"] {
        conn.write(tx, &a, text)?;
        conn.write(tx, &b, text)?;
    }
    same("before its end", watcher.events_so_far(&scratch)?, vec![])?;
    says_yes("its end", conn.end(tx, true)?)?;
    let mut events = watcher.events_so_far(&scratch)?;
    events.sort();
    same("the events", events, vec![(a, "w".into()), (b, "w".into())])
}

fn conflict(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut conn, mut other) = (Conn::open(bench)?, Conn::open(bench)?);
    let (a, result) = (scratch.at("a"), scratch.at("result"));
    for written in [false, true] {
        conn.write(0, &a, "before")?;
        let tx = conn.begin()?;
        if written {
            conn.write(tx, &a, "mine")?;
        } else {
            value(&mut conn, tx, &a)?;
        }
        conn.write(tx, &result, "x")?;
        other.write(0, &a, "theirs")?;
        let what = format!("the end of a transaction that wrote: {written}");
        says_no(&what, conn.end(tx, true)?, Errno::AGAIN)?;
        same("a", value(&mut conn, 0, &a)?, "theirs".into())?;
        says_no("its result", conn.read(0, &result)?, Errno::NOENT)?;
        says_no("its end, again", conn.end(tx, true)?, Errno::NOENT)?;
    }
    Ok(())
}

fn absent_conflict(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut conn, mut other) = (Conn::open(bench)?, Conn::open(bench)?);
    let absent = scratch.at("absent");
    let tx = conn.begin()?;
    says_no("in it", conn.read(tx, &absent)?, Errno::NOENT)?;
    other.write(0, &absent, "here")?;
    says_no("its end", conn.end(tx, true)?, Errno::AGAIN)?;
    // So does the directory that it was looked for in: it lists one more.
    let tx = conn.begin()?;
    says_no("in it", conn.read(tx, &scratch.at("none"))?, Errno::NOENT)?;
    other.write(0, &scratch.at("another"), "here")?;
    says_no("its end", conn.end(tx, true)?, Errno::AGAIN)
}

fn siblings(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let (a, b) = (scratch.at("a"), scratch.at("b"));
    let (one, two) = (conn.begin()?, conn.begin()?);
    conn.write(one, &a, "1")?;
    conn.write(two, &b, "2")?;
    says_yes("the first end", conn.end(one, true)?)?;
    says_no("the second end", conn.end(two, true)?, Errno::AGAIN)?;
    conn.write(0, &b, "0")?;
    let (one, two) = (conn.begin()?, conn.begin()?);
    conn.write(one, &a, "3")?;
    conn.write(two, &b, "4")?;
    says_yes("the first end", conn.end(one, true)?)?;
    says_yes("the second end", conn.end(two, true)?)?;
    same("a", value(&mut conn, 0, &a)?, "3".into())?;
    same("b", value(&mut conn, 0, &b)?, "4".into())
}

fn first_look(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut conn, mut other) = (Conn::open(bench)?, Conn::open(bench)?);
    let (a, b) = (scratch.at("a"), scratch.at("b"));
    conn.write(0, &a, "before")?;
    conn.write(0, &b, "before")?;
    let tx = conn.begin()?;
    conn.write(tx, &b, "mine")?;
    other.write(0, &a, "since")?;
    same("in it", value(&mut conn, tx, &a)?, "since".into())?;
    says_yes("its end", conn.end(tx, true)?)?;
    same("a", value(&mut conn, 0, &a)?, "since".into())?;
    same("b", value(&mut conn, 0, &b)?, "mine".into())
}

fn keeps_what_it_saw(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut conn, mut other) = (Conn::open(bench)?, Conn::open(bench)?);
    conn.write(0, scratch.path(), "before")?;
    let tx = conn.begin()?;
    same(
        "in it",
        value(&mut conn, tx, scratch.path())?,
        "before".into(),
    )?;
    other.write(0, scratch.path(), "since")?;
    same(
        "still",
        value(&mut conn, tx, scratch.path())?,
        "before".into(),
    )?;
    same(
        "outside",
        value(&mut conn, 0, scratch.path())?,
        "since".into(),
    )?;
    says_yes("its end", conn.end(tx, false)?).map(drop)
}

fn unknown(bench: &Bench) -> Outcome {
    let (mut conn, mut other) = (Conn::open(bench)?, Conn::open(bench)?);
    let tx = conn.begin()?;
    // Another open file's.
    says_no(
        "a read in another's",
        other.read(tx, "domid")?,
        Errno::NOENT,
    )?;
    says_no("its end by another", other.end(tx, true)?, Errno::NOENT)?;
    says_yes("a read in it", conn.read(tx, "domid")?)?;
    says_yes("its end", conn.end(tx, true)?)?;
    says_no("a read then", conn.read(tx, "domid")?, Errno::NOENT)?;
    says_no("its end again", conn.end(tx, true)?, Errno::NOENT)
}

fn ends_with_t_or_f(bench: &Bench) -> Outcome {
    let mut conn = Conn::open(bench)?;
    let tx = conn.begin()?;
    for end in [&b"X\0"[..], b"TT\0", b"\0"] {
        let reply = conn.ask(Kind::TransactionEnd, tx, end)?;
        says_no(&format!("{:?}", end.escape_ascii()), reply, Errno::INVAL)?;
    }
    says_yes("a read in it", conn.read(tx, "domid")?)?;
    says_yes("its end", conn.end(tx, true)?).map(drop)
}

fn nested(bench: &Bench) -> Outcome {
    let mut conn = Conn::open(bench)?;
    let tx = conn.begin()?;
    let reply = conn.ask(Kind::TransactionStart, tx, b"\0")?;
    says_no("a start in it", reply, Errno::BUSY)?;
    says_yes("its end", conn.end(tx, true)?).map(drop)
}

fn tried_again(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    let (count, mut tries) = (scratch.at("count"), 0);
    client.write(&count, "10")?;
    client.transaction(|tx| {
        let old: u32 = tx.read_parsed(&count)?;
        tries += 1;
        if tries == 1 {
            client.write(&count, "20")?;
        }
        tx.write(&count, (old + 1).to_string())
    })?;
    same("the tries", tries, 2)?;
    same("the count", client.read_parsed::<u32>(&count)?, 21)?;
    // An error of the transaction's own is not tried again, and nothing of it stays.
    let failed = client.transaction(|tx| {
        tx.write(&count, "0")?;
        tx.read("data/conform-none")
    });
    denied("a read of nothing", failed, Errno::NOENT)?;
    same("the count", client.read_parsed::<u32>(&count)?, 21)
}

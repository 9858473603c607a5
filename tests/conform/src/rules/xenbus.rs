//! /dev/xen/xenbus: what the kernel adds to xenstore. Every open file looks like a connection of
//! its own; the domain has one.

use crate::bench::Bench;
use crate::conn::Conn;
use crate::outcome::{Outcome, Stop};
use crate::rule::Rule;
use crate::store::{Scratch, says_no, says_yes};
use crate::things::{PATIENCE, must, same};
use pv_xenstore::Client;
use pv_xenstore::wire::Kind;
use rustix::io::Errno;
use std::time::{Duration, Instant};

const WATCH: &str = "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_write_watch";
const RELEASE: &str = "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_file_free";
/// How often the end of a file, which nothing announces, is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "xenbus-reads-in-pieces",
        "A message can be read a byte at a time.",
        "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_file_read",
        reads_in_pieces,
    ),
    Rule::new(
        "xenbus-writes-in-pieces",
        "A request may come in several writes; it is carried out with the last one.",
        "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_file_write",
        writes_in_pieces,
    ),
    Rule::new(
        "xenbus-reply-has-the-requests-number",
        "A reply carries its request's number, whatever that is, and an error does.",
        "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_dev_queue_reply",
        numbers,
    ),
    Rule::new(
        "xenbus-message-over-the-limit",
        "The client refuses what does not fit in one message before any of it is sent, and the connection goes on.",
        "drivers/xen/xenbus/xenbus_dev_frontend.c: xenbus_file_write (E2BIG)",
        over_the_limit,
    ),
    Rule::new(
        "xenbus-watches-are-the-files-own",
        "Two open files may have the same path and token; each hears its own, and ends its own.",
        WATCH,
        watches_own,
    ),
    Rule::new(
        "xenbus-watch-twice-is-two-watches",
        "The device, unlike xenstored, takes a path and token that the file has already; each unwatch ends one.",
        WATCH,
        watch_twice,
    ),
    Rule::new(
        "xenbus-unwatch-of-no-watch-is-ok",
        "The device, unlike xenstored, has no error for the end of a watch that is not there.",
        WATCH,
        unwatch_nothing,
    ),
    Rule::new(
        "xenbus-close-drops-a-transaction",
        "Closing the file drops its transactions; others' go on, and end.",
        RELEASE,
        close_drops_transaction,
    ),
    Rule::new(
        "xenbus-close-drops-watches",
        "Closing a file that has watches, with events unread, disturbs no other file's.",
        RELEASE,
        close_drops_watches,
    ),
    Rule::new(
        "store-transaction-limit",
        "A domain may have eleven transactions open, over all its files; then it is ENOSPC, until one ends or its file closes.",
        "tools/xenstore/xenstored_transaction.c: do_transaction_start (quota_max_transaction)",
        transaction_limit,
    ),
];

fn reads_in_pieces(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    scratch.client().write(scratch.path(), "some bytes")?;
    let mut conn = Conn::open(bench)?;
    for _ in 0..3 {
        let path = format!("{}\0", scratch.path());
        let message = conn.message(Kind::Read, 0, path.as_bytes());
        let packet = conn.send_and_read(&message, 1)?;
        same("the kind", packet.known_kind(), Some(Kind::Read))?;
        same("the value", packet.payload, b"some bytes".to_vec())?;
    }
    Ok(())
}

fn writes_in_pieces(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    for at_a_time in [1, 7, 16, 17] {
        let value = format!("in pieces of {at_a_time}");
        let payload = format!("{}\0{value}", scratch.path());
        let message = conn.message(Kind::Write, 0, payload.as_bytes());
        says_yes(&value, conn.send(&message, at_a_time)?)?;
        let read = scratch.client().read_string(scratch.path())?;
        same("the value", read, value)?;
    }
    Ok(())
}

fn numbers(bench: &Bench) -> Outcome {
    let mut conn = Conn::open(bench)?;
    for number in [0, 1, 0xffff_ffff, 7, 7] {
        for (path, kind) in [("domid", Kind::Read), ("none", Kind::Error)] {
            let payload = format!("{path}\0");
            let request = pv_xenstore::wire::Packet::new(Kind::Read, number, 0, payload);
            let reply = conn.send_and_read(&request.encode(), 4096)?;
            same("the kind", reply.known_kind(), Some(kind))?;
            same("the number", reply.req_id, number)?;
        }
    }
    Ok(())
}

fn over_the_limit(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = Client::connect(bench.platform())?;
    let refused = client.write(scratch.path(), vec![b'x'; 4096]);
    match refused {
        Err(pv_xenstore::Error::Invalid(_)) => {}
        Err(other) => return Err(other.into()),
        Ok(()) => return Err(Stop::differs("4096 bytes and a path fit in a message")),
    }
    same("the value", client.read(scratch.path())?, vec![])?;
    Ok(client.write(scratch.path(), "fits")?)
}

fn watches_own(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut one, mut two) = (Conn::open(bench)?, Conn::open(bench)?);
    let event = || vec![(scratch.path().to_owned(), "w".to_owned())];
    one.watch(scratch.path(), "w")?;
    two.watch(scratch.path(), "w")?;
    same("of the other's watch", one.events_so_far(&scratch)?, vec![])?;
    one.write(0, scratch.path(), "x")?;
    same("the first file's", one.events_so_far(&scratch)?, event())?;
    same("the second file's", two.events_so_far(&scratch)?, event())?;
    says_yes("unwatch", one.unwatch(scratch.path(), "w")?)?;
    one.write(0, scratch.path(), "y")?;
    same("the first file's", one.events_so_far(&scratch)?, vec![])?;
    same("the second file's", two.events_so_far(&scratch)?, event())
}

fn watch_twice(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    conn.watch(scratch.path(), "w")?;
    conn.watch(scratch.path(), "w")?;
    conn.write(0, scratch.path(), "x")?;
    let both = conn.events_so_far(&scratch)?.len();
    must(
        &format!("one event or two of two watches, not {both}"),
        matches!(both, 1 | 2),
    )?;
    says_yes("unwatch", conn.unwatch(scratch.path(), "w")?)?;
    conn.write(0, scratch.path(), "y")?;
    same("one watch's events", conn.events_so_far(&scratch)?.len(), 1)?;
    says_yes("unwatch", conn.unwatch(scratch.path(), "w")?)?;
    conn.write(0, scratch.path(), "z")?;
    same("no watch's events", conn.events_so_far(&scratch)?.len(), 0)
}

fn unwatch_nothing(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    says_yes("none at all", conn.unwatch(scratch.path(), "w")?)?;
    conn.watch(scratch.path(), "w")?;
    says_yes("another token", conn.unwatch(scratch.path(), "v")?)?;
    // The path as it was given counts, not the node.
    let absolute = scratch.seen_from_afar(bench);
    says_yes("the same node", conn.unwatch(&absolute, "w")?)?;
    conn.write(0, scratch.path(), "x")?;
    same("the events", conn.events_so_far(&scratch)?.len(), 1)
}

fn close_drops_transaction(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut gone, mut stays) = (Conn::open(bench)?, Conn::open(bench)?);
    let (a, b) = (scratch.at("a"), scratch.at("b"));
    stays.write(0, &a, "old")?;
    stays.write(0, &b, "old")?;
    let (lost, kept) = (gone.begin()?, stays.begin()?);
    gone.write(lost, &a, "lost")?;
    stays.write(kept, &b, "new")?;
    drop(gone);
    says_yes("the other's end", stays.end(kept, true)?)?;
    same("a", scratch.client().read_string(&a)?, "old".into())?;
    same("b", scratch.client().read_string(&b)?, "new".into())
}

fn close_drops_watches(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (mut gone, mut stays) = (Conn::open(bench)?, Conn::open(bench)?);
    gone.watch(scratch.path(), "w")?;
    stays.watch(scratch.path(), "w")?;
    stays.write(0, scratch.path(), "x")?;
    drop(gone);
    stays.write(0, &scratch.at("y"), "y")?;
    let events = stays.events_so_far(&scratch)?;
    let paths: Vec<String> = events.into_iter().map(|(path, _)| path).collect();
    same(
        "the events",
        paths,
        vec![scratch.path().into(), scratch.at("y")],
    )
}

fn transaction_limit(bench: &Bench) -> Outcome {
    let (mut one, mut two) = (Conn::open(bench)?, Conn::open(bench)?);
    let first = one.begin()?;
    for _ in 0..5 {
        one.begin()?;
        two.begin()?;
    }
    let start = |conn: &mut Conn| conn.ask(Kind::TransactionStart, 0, b"\0");
    says_no("the twelfth", start(&mut two)?, Errno::NOSPC)?;
    says_yes("one's end", one.end(first, false)?)?;
    says_yes("then one more", start(&mut two)?)?;
    says_no("the twelfth", start(&mut two)?, Errno::NOSPC)?;
    drop(one);
    // The kernel ends a closed file's transactions when it comes to it.
    let begun = Instant::now();
    for n in 0..5 {
        while let Err(errno) = start(&mut two)? {
            if errno != Errno::NOSPC || begun.elapsed() > PATIENCE {
                let what = format!("no transaction {n} after the other's close: {errno}");
                return Err(Stop::Differs(what));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    says_no("the twelfth", start(&mut two)?, Errno::NOSPC)
}

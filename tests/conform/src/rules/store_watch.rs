//! xenstore's watches: what is told, and to whom.

use crate::bench::Bench;
use crate::conn::{Conn, Event};
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::store::{Scratch, says_no, says_yes, unique};
use crate::things::same;
use pv_harness::hand::StoreOrder;
use pv_xenstore::wire::Kind;
use pv_xenstore::{Permission, Rights};
use rustix::io::Errno;

const FIRE: &str = "tools/xenstore/xenstored_watch.c: fire_watches";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "store-watch-fires-at-once",
        "A new watch fires once, whether its node is there, is not, or may not be read.",
        "tools/xenstore/xenstored_watch.c: do_watch",
        fires_at_once,
    ),
    Rule::new(
        "store-watch-hears-what-changes-below",
        "A watch hears writes, new nodes and removals at and below its path, and of what changed; reading is no change.",
        FIRE,
        hears_below,
    ),
    Rule::new(
        "store-watch-path-is-as-it-was-registered",
        "A watch that was registered with a relative path tells relative paths; with an absolute one, absolute paths.",
        "tools/xenstore/xenstored_watch.c: get_watch_path",
        path_as_registered,
    ),
    Rule::new(
        "store-watch-takes-whole-names",
        "A watch on `a` hears nothing of `ab`, of `a`'s parent, or of its siblings.",
        "tools/xenstore/xenstored_watch.c: is_child",
        whole_names,
    ),
    Rule::new(
        "store-watch-hears-the-removal-of-a-parent",
        "Removing a tree tells the watches on each node in it, of that node; watches above hear of the top alone.",
        "tools/xenstore/xenstored_core.c: delete_node",
        removal_of_a_parent,
    ),
    Rule::new(
        "store-rm-of-an-absent-node-tells-nobody",
        "Removing what is not there, or making what is, fires no watch.",
        "tools/xenstore/xenstored_core.c: do_rm, do_mkdir",
        no_change_no_event,
    ),
    Rule::new(
        "store-write-of-the-same-value-fires",
        "Writing the value that a node has already is a change.",
        "tools/xenstore/xenstored_core.c: do_write",
        same_value,
    ),
    Rule::new(
        "store-watch-tells-who-may-read",
        "A watch may stand on another domain's node, but hears of it only while its domain may read it.",
        "tools/xenstore/xenstored_watch.c: watch_permitted",
        tells_who_may_read,
    ),
    Rule::new(
        "store-watch-tells-who-may-read-the-parent",
        "A watch hears of a node, too, whose parent its domain may read.",
        "tools/xenstore/xenstored_watch.c: watch_permitted",
        tells_who_may_read_the_parent,
    ),
    Rule::new(
        "store-watch-hears-of-new-permissions",
        "A change of permissions fires: for who may read then, and for who could until then.",
        "tools/xenstore/xenstored_core.c: do_set_perms",
        new_permissions,
    ),
    Rule::new(
        "store-unwatch-ends-one-watch",
        "After unwatch no more events come with that path and token; other tokens stay.",
        "tools/xenstore/xenstored_watch.c: do_unwatch",
        unwatch_one,
    ),
    Rule::new(
        "store-special-watch-is-not-for-domains",
        "A domain may register @releaseDomain; it is told no more than that the watch stands.",
        "tools/xenstore/xenstored_domain.c: check_perms_special",
        special_watch,
    ),
];

fn told(path: &str, token: &str) -> Event {
    (path.into(), token.into())
}

fn fires_at_once(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let theirs = format!("/local/domain/{}/data/conform", bench.peer_id().0);
    for path in [
        scratch.path(),
        &scratch.at("none/below"),
        "device",
        "/",
        &theirs,
    ] {
        conn.watch(path, "token")?;
    }
    same("further events", conn.events_so_far(&scratch)?, vec![])
}

fn hears_below(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let at = |below: &str| scratch.at(below);
    conn.watch(scratch.path(), "w")?;
    conn.write(0, scratch.path(), "x")?;
    conn.write(0, &at("a/b"), "x")?;
    let mkdir = conn.ask(Kind::Mkdir, 0, format!("{}\0", at("c")).as_bytes())?;
    says_yes("making c", mkdir)?;
    says_yes("reading", conn.read(0, &at("a/b"))?)?;
    conn.rm(0, &at("a"))?;
    let events = conn.events_so_far(&scratch)?;
    let told = |path: String| (path, "w".to_owned());
    let changes = [scratch.path().into(), at("a/b"), at("c"), at("a")];
    same("the events", events, changes.map(told).to_vec())
}

fn path_as_registered(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let absolute = scratch.seen_from_afar(bench);
    conn.watch(scratch.path(), "relative")?;
    conn.watch(&absolute, "absolute")?;
    // Neither is about how the path of the change was given.
    conn.write(0, &scratch.at("a"), "x")?;
    conn.write(0, &format!("{absolute}/b"), "x")?;
    let mut events = conn.events_so_far(&scratch)?;
    events.sort();
    let must_be = vec![
        told(&format!("{absolute}/a"), "absolute"),
        told(&format!("{absolute}/b"), "absolute"),
        told(&scratch.at("a"), "relative"),
        told(&scratch.at("b"), "relative"),
    ];
    same("the events", events, must_be)
}

fn whole_names(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    conn.watch(&scratch.at("a"), "w")?;
    conn.write(0, &scratch.at("ab"), "x")?;
    conn.write(0, scratch.path(), "x")?;
    conn.write(0, &scratch.at("b/a"), "x")?;
    same("the events", conn.events_so_far(&scratch)?, vec![])?;
    conn.write(0, &scratch.at("a"), "x")?;
    let events = conn.events_so_far(&scratch)?;
    same("the events", events, vec![told(&scratch.at("a"), "w")])
}

fn removal_of_a_parent(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    conn.write(0, &scratch.at("top/mid/leaf"), "x")?;
    conn.write(0, &scratch.at("top/mid/other"), "x")?;
    for below in ["top/mid", "top/mid/leaf", "top/none"] {
        conn.watch(&scratch.at(below), below)?;
    }
    conn.watch(scratch.path(), "above")?;
    conn.rm(0, &scratch.at("top"))?;
    let mut events = conn.events_so_far(&scratch)?;
    events.sort();
    let must_be = vec![
        told(&scratch.at("top"), "above"),
        told(&scratch.at("top/mid"), "top/mid"),
        told(&scratch.at("top/mid/leaf"), "top/mid/leaf"),
    ];
    same("the events", events, must_be)
}

fn no_change_no_event(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    conn.watch(scratch.path(), "w")?;
    conn.rm(0, &scratch.at("none"))?;
    let mkdir = conn.ask(Kind::Mkdir, 0, format!("{}\0", scratch.path()).as_bytes())?;
    says_yes("making what is there", mkdir)?;
    same("the events", conn.events_so_far(&scratch)?, vec![])
}

fn same_value(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    conn.write(0, scratch.path(), "x")?;
    conn.watch(scratch.path(), "w")?;
    conn.write(0, scratch.path(), "x")?;
    let events = conn.events_so_far(&scratch)?;
    same("the events", events, vec![told(scratch.path(), "w")])
}

fn tells_who_may_read(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let peer = bench.peer()?;
    let (theirs, peer_id) = (unique(), bench.peer_id().0);
    let path = format!("/local/domain/{peer_id}/{theirs}");
    conn.watch(&path, "spy")?;
    let write = |value: &str| peer.store(StoreOrder::Write(theirs.clone(), value.into()));
    says_yes("the partner's write", write("secret")?)?;
    same("the events", conn.events_so_far(&scratch)?, vec![])?;
    says_no("reading it", conn.read(0, &path)?, Errno::ACCESS)?;
    let reads = vec![format!("n{peer_id}"), format!("r{}", bench.own().0)];
    let shared = peer.store(StoreOrder::SetPerms(theirs.clone(), reads))?;
    says_yes("the partner's permission", shared)?;
    let events = conn.events_so_far(&scratch)?;
    same("the events", events, vec![told(&path, "spy")])?;
    says_yes("the partner's write", write("gift")?)?;
    let events = conn.events_so_far(&scratch)?;
    same("the events", events, vec![told(&path, "spy")])?;
    says_yes("the partner's rm", peer.store(StoreOrder::Rm(theirs))?)?;
    let events = conn.events_so_far(&scratch)?;
    same(
        "the events of the removal",
        events,
        vec![told(&path, "spy")],
    )
}

fn tells_who_may_read_the_parent(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let peer = bench.peer()?;
    let (theirs, peer_id) = (unique(), bench.peer_id().0);
    let path = format!("/local/domain/{peer_id}/{theirs}");
    let (closed, deep) = (format!("{theirs}/closed"), format!("{theirs}/closed/deep"));
    let none = || vec![format!("n{peer_id}")];
    for order in [
        StoreOrder::Write(theirs.clone(), String::new()),
        StoreOrder::Write(deep.clone(), String::new()),
        StoreOrder::SetPerms(
            theirs,
            vec![format!("n{peer_id}"), format!("r{}", bench.own().0)],
        ),
        StoreOrder::SetPerms(closed.clone(), none()),
        StoreOrder::SetPerms(deep.clone(), none()),
    ] {
        says_yes(
            &format!("the partner's {order:?}"),
            peer.store(order.clone())?,
        )?;
    }
    conn.watch(&path, "w")?;
    for changed in [deep, closed] {
        let order = StoreOrder::Write(changed, "x".into());
        says_yes("the partner's write", peer.store(order)?)?;
    }
    let events = conn.events_so_far(&scratch)?;
    same(
        "the events",
        events,
        vec![told(&format!("{path}/closed"), "w")],
    )
}

fn new_permissions(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    let perms = |rights| {
        [
            Permission::new(Rights::None, bench.own()),
            Permission::new(rights, bench.peer_id()),
        ]
    };
    conn.watch(scratch.path(), "w")?;
    scratch
        .client()
        .set_perms(scratch.path(), &perms(Rights::Read))?;
    let events = conn.events_so_far(&scratch)?;
    same(
        "the owner's events",
        events,
        vec![told(scratch.path(), "w")],
    )?;
    // The partner takes what is its to read away from this domain.
    let peer = bench.peer()?;
    let (theirs, peer_id) = (unique(), bench.peer_id().0);
    let path = format!("/local/domain/{peer_id}/{theirs}");
    let set = |perms: Vec<String>| {
        let order = StoreOrder::SetPerms(theirs.clone(), perms);
        says_yes("the partner's permission", peer.store(order)?)
    };
    let (none, reads) = (format!("n{peer_id}"), format!("r{}", bench.own().0));
    let write = StoreOrder::Write(theirs.clone(), "x".into());
    says_yes("the partner's write", peer.store(write)?)?;
    set(vec![none.clone(), reads])?;
    conn.watch(&path, "mine")?;
    set(vec![none.clone()])?;
    let events = conn.events_so_far(&scratch)?;
    same("the loser's events", events, vec![told(&path, "mine")])?;
    set(vec![none])?;
    same("no more events", conn.events_so_far(&scratch)?, vec![])
}

fn unwatch_one(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let mut conn = Conn::open(bench)?;
    conn.watch(scratch.path(), "one")?;
    conn.watch(scratch.path(), "other")?;
    says_yes("unwatch", conn.unwatch(scratch.path(), "one")?)?;
    conn.write(0, scratch.path(), "x")?;
    let events = conn.events_so_far(&scratch)?;
    same("the events", events, vec![told(scratch.path(), "other")])?;
    says_yes("unwatch", conn.unwatch(scratch.path(), "other")?)?;
    conn.write(0, scratch.path(), "y")?;
    same("the events", conn.events_so_far(&scratch)?, vec![])
}

fn special_watch(bench: &Bench) -> Outcome {
    let mut conn = Conn::open(bench)?;
    conn.watch("@releaseDomain", "r")?;
    says_yes("unwatch", conn.unwatch("@releaseDomain", "r")?).map(drop)
}

//! Tables of (domain, request, answer, events).
//!
//! A request is `KIND arg|arg`, each argument with its NUL; a trailing `~` leaves the last NUL
//! out (values). `2#1 READ x` asks inside domain 2's transaction 1. An answer shows NULs as `|`.

use super::*;
use crate::toolstack::domain_requests;

struct World {
    server: Server,
    connections: BTreeMap<u16, ConnId>,
}

/// dom0 and domains 1, 2, 3, each with one connection; domain 1's open device is number 101.
fn world(quotas: Quotas) -> World {
    let mut server = Server::new(quotas);
    let mut connections = BTreeMap::new();
    for domid in 0..4 {
        let toolstack = server.connect(DomId::DOM0);
        for request in domain_requests(DomId(domid), &format!("name-{domid}")) {
            let outputs = server.handle(toolstack, &request);
            assert!(
                matches!(&outputs[0], Output::Reply(_, p) if p.known_kind() != Some(Kind::Error))
            );
        }
        server.disconnect(toolstack);
        server.introduce(DomId(domid));
        connections.insert(domid, server.connect(DomId(domid)));
    }
    connections.insert(101, server.open_device(DomId(1)));
    World {
        server,
        connections,
    }
}

impl World {
    fn ask(&mut self, request: &str) -> (String, Vec<String>) {
        let (who, rest) = request.split_once(' ').unwrap();
        let (domid, tx) = who.split_once('#').unwrap_or((who, "0"));
        let (kind, args) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = Kind::ALL
            .iter()
            .find(|k| k.c_name() == format!("XS_{kind}"));
        let number = number.map_or_else(|| kind.parse().unwrap(), |k| *k as u32);
        let mut payload: Vec<u8> = args.replace('|', "\0").into_bytes();
        match payload.last() {
            Some(b'~') => {
                payload.pop();
            }
            _ => payload.push(0),
        }
        let packet = Packet {
            kind: number,
            req_id: 77,
            tx_id: tx.parse().unwrap(),
            payload,
        };
        let conn = self.connections[&domid.parse().unwrap()];
        let mut outputs = self.server.handle(conn, &packet).into_iter();
        let Some(Output::Reply(to, reply)) = outputs.next() else {
            panic!("no reply comes first")
        };
        assert_eq!((to, reply.req_id, reply.tx_id), (conn, 77, packet.tx_id));
        let text = |payload: &[u8]| String::from_utf8_lossy(payload).replace('\0', "|");
        let is_error = reply.known_kind() == Some(Kind::Error);
        assert!(is_error || reply.kind == number);
        let events = outputs.map(|output| self.show(output)).collect();
        (
            text(&reply.payload).trim_end_matches('|').to_owned(),
            events,
        )
    }

    fn show(&self, output: Output) -> String {
        let name = |id| self.connections.iter().find(|(_, c)| **c == id).unwrap().0;
        match output {
            Output::Event(to, packet) => {
                let parts = crate::wire::strings(&packet.payload).unwrap();
                let text = |n: usize| String::from_utf8_lossy(parts[n]).into_owned();
                format!("{}: {} {}", name(to), text(0), text(1))
            }
            Output::Close(id) => format!("{}: closed", name(id)),
            Output::Reply(..) => panic!("a second reply"),
        }
    }

    fn run(&mut self, table: &[(&str, &str, &[&str])]) {
        for (request, answer, events) in table {
            assert_eq!(
                self.ask(request),
                (
                    answer.to_string(),
                    events.iter().map(|e| e.to_string()).collect()
                ),
                "{request}"
            );
        }
    }
}

fn run(table: &[(&str, &str, &[&str])]) {
    world(Quotas::default()).run(table);
}

const HOME1: &str = "/local/domain/1";

#[test]
fn nodes() {
    run(&[
        ("1 READ domid", "1", &[]),
        ("1 READ /local/domain/1/name", "name-1", &[]),
        (
            "1 DIRECTORY /local/domain/1",
            "domid|name|device|control|error|data|drivers|feature|attr",
            &[],
        ),
        ("1 WRITE data/a/b|x~", "OK", &[]),
        ("1 READ data/a/b", "x", &[]),
        ("1 READ data/a", "", &[]),
        ("1 DIRECTORY data", "a", &[]),
        ("1 DIRECTORY data/a/b", "", &[]),
        ("1 READ data/none", "ENOENT", &[]),
        ("1 DIRECTORY data/none", "ENOENT", &[]),
        ("1 MKDIR data/d", "OK", &[]),
        ("1 MKDIR data/d", "OK", &[]),
        ("1 RM data/a", "OK", &[]),
        ("1 RM data/a", "OK", &[]),
        ("1 RM data/none/deeper", "ENOENT", &[]),
        ("1 READ data/a/b", "ENOENT", &[]),
        ("0 RM /", "EINVAL", &[]),
        ("0 WRITE /x|a|b~", "OK", &[]),
        ("0 READ /x", "a|b", &[]),
        ("0 WRITE /x|~", "OK", &[]),
        ("0 READ /x", "", &[]),
        ("1 GET_DOMAIN_PATH 9", "/local/domain/9", &[]),
        ("0 IS_DOMAIN_INTRODUCED 2", "T", &[]),
        ("0 IS_DOMAIN_INTRODUCED 9", "F", &[]),
    ]);
}

#[test]
fn malformed_requests() {
    run(&[
        ("1 READ domid~", "EINVAL", &[]),
        ("1 READ domid|x", "EINVAL", &[]),
        ("1 READ ~", "EINVAL", &[]),
        ("1 READ ", "EINVAL", &[]),
        ("1 READ data/", "EINVAL", &[]),
        ("1 READ data//x", "EINVAL", &[]),
        ("1 READ da.ta", "EINVAL", &[]),
        ("1 READ @releaseDomain", "EINVAL", &[]),
        ("0 WRITE @releaseDomain|x~", "EINVAL", &[]),
        ("1 WRITE data~", "EINVAL", &[]),
        ("1 WATCH data", "EINVAL", &[]),
        ("1 WATCH data|a|b", "EINVAL", &[]),
        ("1 UNWATCH data", "EINVAL", &[]),
        ("1 DIRECTORY_PART data|-1", "EINVAL", &[]),
        ("1 SET_PERMS data", "EINVAL", &[]),
        ("1 SET_PERMS data|q1", "EINVAL", &[]),
        ("1 GET_DOMAIN_PATH 70000", "EINVAL", &[]),
        ("1 GET_DOMAIN_PATH 32752", "EINVAL", &[]),
        ("1 TRANSACTION_END X", "EINVAL", &[]),
        ("1 20 x", "ENOSYS", &[]),
        ("1 23 x", "ENOSYS", &[]),
        ("1 4000000000 x", "ENOSYS", &[]),
        ("1 WATCH_EVENT a|b", "ENOSYS", &[]),
        ("1 ERROR EIO", "ENOSYS", &[]),
    ]);
}

#[test]
fn permissions() {
    run(&[
        // Another's home: what is not allowed is EACCES, there or not.
        ("1 READ /local/domain/2/domid", "EACCES", &[]),
        ("1 READ /local/domain/2/none", "EACCES", &[]),
        ("1 WRITE domid|7~", "EACCES", &[]),
        ("1 WRITE device/vbd/x|7~", "EACCES", &[]),
        ("1 RM domid", "EACCES", &[]),
        ("1 READ /", "EACCES", &[]),
        // The owner's and its gifts.
        ("1 WRITE data/gift|x~", "OK", &[]),
        ("1 GET_PERMS data/gift", "n1", &[]),
        ("2 READ /local/domain/1/data/gift", "EACCES", &[]),
        ("1 SET_PERMS data/gift|n1|r2|w3", "OK", &[]),
        ("2 READ /local/domain/1/data/gift", "x", &[]),
        ("2 WRITE /local/domain/1/data/gift|y~", "EACCES", &[]),
        ("2 SET_PERMS /local/domain/1/data/gift|b2", "EACCES", &[]),
        ("3 READ /local/domain/1/data/gift", "EACCES", &[]),
        ("3 WRITE /local/domain/1/data/gift|y~", "OK", &[]),
        ("1 SET_PERMS data/gift|n2", "EPERM", &[]),
        // A new node has its parent's permissions, under its creator.
        ("3 WRITE /local/domain/1/data/gift/below|z~", "OK", &[]),
        (
            "0 GET_PERMS /local/domain/1/data/gift/below",
            "n3|r2|w3",
            &[],
        ),
        ("1 READ data/gift/below", "EACCES", &[]),
        // dom0's creations keep the parent's owner.
        ("0 WRITE /local/domain/1/data/by-dom0|x~", "OK", &[]),
        ("0 GET_PERMS /local/domain/1/data/by-dom0", "n1", &[]),
        // Everybody.
        ("0 WRITE /public|x~", "OK", &[]),
        ("0 SET_PERMS /public|r0", "OK", &[]),
        ("3 READ /public", "x", &[]),
        ("3 WRITE /public|y~", "EACCES", &[]),
        // Special watches' permissions are dom0's to give.
        ("1 GET_PERMS @releaseDomain", "n0", &[]),
        ("1 SET_PERMS @releaseDomain|r1", "EACCES", &[]),
        ("0 SET_PERMS @releaseDomain|n0|r1", "OK", &[]),
        ("1 GET_PERMS @releaseDomain", "n0|r1", &[]),
        // What only dom0 may.
        ("1 INTRODUCE 9|0|0", "EACCES", &[]),
        ("1 RELEASE 2", "EACCES", &[]),
        ("1 RESUME 2", "EACCES", &[]),
        ("1 IS_DOMAIN_INTRODUCED 1", "EACCES", &[]),
        ("1 SET_TARGET 1|2", "EACCES", &[]),
        ("1 CONTROL help", "EACCES", &[]),
        // A stub domain's target.
        ("0 SET_TARGET 3|2", "OK", &[]),
        ("3 READ /local/domain/2/domid", "2", &[]),
        ("3 READ /local/domain/1/domid", "EACCES", &[]),
    ]);
}

#[test]
fn watches() {
    run(&[
        ("1 WATCH data|t", "OK", &["1: data t"]),
        ("1 WATCH data|t", "EEXIST", &[]),
        ("1 WATCH data|u", "OK", &["1: data u"]),
        ("1 UNWATCH data|u", "OK", &[]),
        ("1 UNWATCH data|u", "ENOENT", &[]),
        (
            "0 WATCH /local/domain/1|all",
            "OK",
            &["0: /local/domain/1 all"],
        ),
        // Relative as registered; below the path; not beside it.
        (
            "1 WRITE data/a|x~",
            "OK",
            &["1: data/a t", "0: /local/domain/1/data/a all"],
        ),
        (
            "1 WRITE error/a|x~",
            "OK",
            &["0: /local/domain/1/error/a all"],
        ),
        (
            "1 MKDIR data/d/e",
            "OK",
            &["1: data/d/e t", "0: /local/domain/1/data/d/e all"],
        ),
        ("1 MKDIR data/d/e", "OK", &[]),
        ("1 READ data/a", "x", &[]),
        // A watch on something that is not there yet.
        (
            "2 WATCH data/later/state|s",
            "OK",
            &["2: data/later/state s"],
        ),
        ("2 WRITE data/later|x~", "OK", &[]),
        (
            "2 WRITE data/later/state|1~",
            "OK",
            &["2: data/later/state s"],
        ),
        // Removing a parent is news of the node below, exactly.
        ("2 RM data/later", "OK", &["2: data/later/state s"]),
        ("2 RM data/later", "OK", &[]),
        // No news of what one may not read...
        (
            "2 WATCH /local/domain/1/data|spy",
            "OK",
            &["2: /local/domain/1/data spy"],
        ),
        (
            "1 WRITE data/a|y~",
            "OK",
            &["1: data/a t", "0: /local/domain/1/data/a all"],
        ),
        // ...until one may, and of losing it.
        (
            "1 SET_PERMS data/a|n1|r2",
            "OK",
            &[
                "1: data/a t",
                "2: /local/domain/1/data/a spy",
                "0: /local/domain/1/data/a all",
            ],
        ),
        (
            "1 WRITE data/a|z~",
            "OK",
            &[
                "1: data/a t",
                "2: /local/domain/1/data/a spy",
                "0: /local/domain/1/data/a all",
            ],
        ),
        (
            "1 SET_PERMS data/a|n1",
            "OK",
            &[
                "1: data/a t",
                "2: /local/domain/1/data/a spy",
                "0: /local/domain/1/data/a all",
            ],
        ),
        (
            "1 WRITE data/a|z~",
            "OK",
            &["1: data/a t", "0: /local/domain/1/data/a all"],
        ),
        ("1 RESET_WATCHES ", "OK", &[]),
        (
            "1 WRITE data/a|z~",
            "OK",
            &["0: /local/domain/1/data/a all"],
        ),
        ("1 RM data/d", "OK", &["0: /local/domain/1/data/d all"]),
    ]);
}

#[test]
fn the_device_keeps_its_own_list_of_watches() {
    run(&[
        ("101 WATCH data|t", "OK", &["101: data t"]),
        ("101 WATCH data|t", "OK", &["101: data t"]),
        ("1 WRITE data|x~", "OK", &["101: data t", "101: data t"]),
        ("101 UNWATCH /local/domain/1/data|t", "OK", &[]),
        ("101 UNWATCH da.ta|t", "OK", &[]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &["101: data t"]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("101 UNWATCH data|t", "OK", &[]),
        ("1 WRITE data|x~", "OK", &[]),
        ("101 WATCH da.ta|t", "EINVAL", &[]),
    ]);
}

#[test]
fn a_removed_tree_tells_every_watch_in_it() {
    run(&[
        ("1 WRITE data/a/b/c|x~", "OK", &[]),
        ("1 WRITE data/a/b/d|x~", "OK", &[]),
        ("1 WATCH data|top", "OK", &["1: data top"]),
        ("1 WATCH data/a/b|mid", "OK", &["1: data/a/b mid"]),
        ("1 WATCH data/a/b/c|leaf", "OK", &["1: data/a/b/c leaf"]),
        (
            "1 RM data/a",
            "OK",
            &["1: data/a top", "1: data/a/b mid", "1: data/a/b/c leaf"],
        ),
    ]);
}

#[test]
fn special_watches_and_the_end_of_a_domain() {
    let mut world = world(Quotas::default());
    world.run(&[
        (
            "0 WATCH @introduceDomain|i",
            "OK",
            &["0: @introduceDomain i"],
        ),
        ("0 WATCH @releaseDomain|r", "OK", &["0: @releaseDomain r"]),
        (
            "1 WATCH @releaseDomain|mine",
            "OK",
            &["1: @releaseDomain mine"],
        ),
        ("0 INTRODUCE 9|0|0", "OK", &["0: @introduceDomain i"]),
        ("0 INTRODUCE 9|0|0", "OK", &[]),
        // The front end's directory is the front end's; the back end's stays.
        ("0 WRITE /local/domain/2/device/vbd/1/state|4~", "OK", &[]),
        ("0 SET_PERMS /local/domain/2/device/vbd/1|n2|r1", "OK", &[]),
        (
            "0 SET_PERMS /local/domain/2/device/vbd/1/state|n2|r1",
            "OK",
            &[],
        ),
        (
            "1 WATCH /local/domain/2/device/vbd/1/state|s",
            "OK",
            &["1: /local/domain/2/device/vbd/1/state s"],
        ),
        ("2 WATCH data|t", "OK", &["2: data t"]),
        ("2 TRANSACTION_START ", "1", &[]),
        (
            "0 RELEASE 2",
            "OK",
            &[
                "2: closed",
                "1: /local/domain/2/device/vbd/1/state s",
                "0: @releaseDomain r",
            ],
        ),
        ("0 READ /local/domain/2/device/vbd/1/state", "ENOENT", &[]),
        ("0 READ /local/domain/2/domid", "2", &[]),
        ("1 READ /local/domain/2/device/vbd/1/state", "EACCES", &[]),
        ("0 RELEASE 2", "ENOENT", &[]),
        ("0 RELEASE 0", "EINVAL", &[]),
        ("0 SET_PERMS @releaseDomain|r0", "OK", &[]),
        (
            "0 RELEASE 9",
            "OK",
            &["0: @releaseDomain r", "1: @releaseDomain mine"],
        ),
    ]);
    assert_eq!(world.server.tree.owned_by(DomId(2)), 0);
    let gone = world.connections[&2];
    let request = Packet::new(Kind::Read, 1, 0, "domid\0");
    assert!(
        world.server.handle(gone, &request).is_empty(),
        "a closed connection gets nothing"
    );
}

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

#[test]
fn directories_are_in_the_order_of_creation() {
    run(&[
        ("1 MKDIR data/z", "OK", &[]),
        ("1 MKDIR data/a/b", "OK", &[]),
        ("1 MKDIR data/m", "OK", &[]),
        ("1 WRITE data/z|x~", "OK", &[]),
        ("1 DIRECTORY data", "z|a|m", &[]),
        ("1 RM data/a", "OK", &[]),
        ("1 MKDIR data/a", "OK", &[]),
        ("1 DIRECTORY data", "z|m|a", &[]),
    ]);
}

#[test]
fn quotas() {
    let quotas = Quotas {
        nodes: 10,
        watches: 2,
        transactions: 1,
        node_bytes: 40,
        permissions: 2,
        transaction_nodes: 4,
    };
    // Five nodes of its own each domain has from the toolstack.
    world(quotas).run(&[
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
        ("1#1 READ data/e", "1234567", &[]),
        ("1#1 READ domid", "ENOSPC", &[]),
        ("1#1 TRANSACTION_END T", "OK", &[]),
        // One domain's greed is not another's loss, and dom0 has no quota.
        ("2 WRITE data/a|x~", "OK", &[]),
        ("0 WRITE /a/b/c/d/e/f/g/h/i/j/k/l|123456~", "OK", &[]),
    ]);
}

#[test]
fn control_commands() {
    run(&[
        ("0 CONTROL help", "help\nprint TEXT\nquota", &[]),
        ("0 CONTROL print|hello", "OK", &[]),
        ("0 CONTROL print", "EINVAL", &[]),
        ("0 CONTROL crash", "EINVAL", &[]),
        ("0 RESUME 1", "OK", &[]),
        ("0 RESUME 9", "ENOENT", &[]),
        ("0 SET_TARGET 9|1", "ENOENT", &[]),
        ("0 INTRODUCE 9", "EINVAL", &[]),
    ]);
}

#[test]
fn a_directory_too_long_for_one_message_comes_in_parts() {
    let mut world = world(Quotas::default());
    let name = |n: usize| format!("node-with-a-rather-long-name-to-fill-messages-{n:04}");
    for n in 0..300 {
        assert_eq!(
            world.ask(&format!("0 MKDIR {HOME1}/device/{}", name(n))).0,
            "OK"
        );
    }
    assert_eq!(world.ask(&format!("1 DIRECTORY {HOME1}/device")).0, "E2BIG");
    let conn = world.connections[&1];
    let (mut names, mut parts) = (Vec::new(), 0);
    while !names.ends_with(b"\0\0") {
        let request = format!("device\0{}\0", names.len());
        let packet = Packet::new(Kind::DirectoryPart, 1, 0, request);
        let outputs = world.server.handle(conn, &packet);
        let [Output::Reply(_, reply)] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert!(reply.payload.len() <= 4096);
        let nul = reply.payload.iter().position(|b| *b == 0).unwrap();
        names.extend_from_slice(&reply.payload[nul + 1..]);
        parts += 1;
    }
    assert!(parts > 2, "{parts}");
    names.pop();
    let names = crate::wire::strings(&names).unwrap();
    assert_eq!(names.len(), 300);
    assert!(
        names
            .iter()
            .enumerate()
            .all(|(n, got)| *got == name(n).as_bytes())
    );
    // Beyond the end: an empty name, nothing else.
    let (answer, _) = world.ask("1 DIRECTORY_PART device|999999");
    assert!(answer.bytes().all(|b| b.is_ascii_digit()), "{answer}");
}

#[test]
fn the_longest_event_fits_in_a_message() {
    let mut world = world(Quotas::default());
    let (token, too_long) = ("t".repeat(1022), "t".repeat(1023));
    assert_eq!(world.ask(&format!("0 WATCH /|{too_long}")).0, "E2BIG");
    assert_eq!(world.ask(&format!("0 WATCH /|{token}")).0, "OK");
    let path = format!("/local/domain/12345/{}", "p".repeat(2048));
    let request = Packet::new(Kind::Write, 1, 0, format!("{path}\0v"));
    let outputs = world.server.handle(world.connections[&0], &request);
    let [_, Output::Event(_, event)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert!(event.payload.len() <= 4096);
}

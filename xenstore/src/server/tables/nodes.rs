//! Nodes and directories.

use super::super::quota::Quotas;
use super::super::{Action, Input};
use super::{domains, run};
use crate::testing::step;
use crate::wire::{Kind, Packet};

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
        ("1 GET_DOMAIN_PATH 70000", "/local/domain/70000", &[]),
        ("1 GET_DOMAIN_PATH x", "/local/domain/0", &[]),
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
        ("1 SET_PERMS data", "EINVAL", &[]),
        ("1 SET_PERMS data|q1", "EINVAL", &[]),
        ("1 GET_DOMAIN_PATH 7|8", "EINVAL", &[]),
        ("1 TRANSACTION_END X", "EINVAL", &[]),
        ("1 20 x", "ENOSYS", &[]),
        ("1 23 x", "ENOSYS", &[]),
        ("1 4000000000 x", "ENOSYS", &[]),
        ("1 WATCH_EVENT a|b", "ENOSYS", &[]),
        ("1 ERROR EIO", "ENOSYS", &[]),
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
fn a_directory_too_long_for_one_message_comes_in_parts() {
    let mut domains = domains(Quotas::default());
    let name = |n: usize| format!("node-with-a-rather-long-name-to-fill-messages-{n:04}");
    for n in 0..300 {
        assert_eq!(
            domains
                .ask(&format!("0 MKDIR {HOME1}/device/{}", name(n)))
                .0,
            "OK"
        );
    }
    assert_eq!(
        domains.ask(&format!("1 DIRECTORY {HOME1}/device")).0,
        "E2BIG"
    );
    let conn = domains.connections[&1];
    let (mut names, mut parts) = (Vec::new(), 0);
    while !names.ends_with(b"\0\0") {
        let request = format!("device\0{}\0", names.len());
        let packet = Packet::new(Kind::DirectoryPart, 1, 0, request);
        let actions = step(&mut domains.server, Input::Request(conn, packet));
        let [Action::Reply(_, reply)] = &actions[..] else {
            panic!("{actions:?}")
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
    let (answer, _) = domains.ask("1 DIRECTORY_PART device|999999");
    assert!(answer.bytes().all(|b| b.is_ascii_digit()), "{answer}");
}

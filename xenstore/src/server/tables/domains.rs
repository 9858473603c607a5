//! Domains that come and go, and dom0's own requests.

use super::super::Input;
use super::super::quota::Quotas;
use super::{domains, run};
use crate::testing::step;
use crate::wire::{Kind, Packet};
use libgnt::DomId;

#[test]
fn special_watches_and_the_end_of_a_domain() {
    let mut domains = domains(Quotas::default());
    domains.run(&[
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
        ("0 INTRODUCE 9|0|5", "OK", &["0: @introduceDomain i"]),
        ("0 INTRODUCE 9|0|5", "OK", &[]),
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
    assert_eq!(domains.server.tree().owned_by(DomId(2)), 0);
    let gone = domains.connections[&2];
    let request = Packet::new(Kind::Read, 1, 0, "domid\0");
    assert!(
        step(&mut domains.server, Input::Request(gone, request)).is_empty(),
        "a closed connection gets nothing"
    );
}

/// INTRODUCE again gives a domain a new ring: what it had is forgotten, and that of its device is not.
#[test]
fn another_introduce_begins_the_ring_anew() {
    run(&[
        ("1 WATCH data|t", "OK", &["1: data t"]),
        ("0 WATCH /local/domain/1|t", "OK", &["0: /local/domain/1 t"]),
        ("101 WATCH data|d", "OK", &["101: data d"]),
        ("0 INTRODUCE 1|5|7", "OK", &[]),
        ("1 UNWATCH data|t", "ENOENT", &[]),
        (
            "1 WRITE data|x~",
            "OK",
            &["0: /local/domain/1/data t", "101: data d"],
        ),
        ("0 SET_PERMS /local/domain/1/data|n32752", "ENOENT", &[]),
    ]);
}

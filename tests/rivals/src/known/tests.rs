//! Each is found, and what is beside it is not.

use super::*;

fn error(name: &str) -> Message {
    Message::Answer {
        kind: Kind::Error as u32,
        payload: [name.as_bytes(), b"\0"].concat(),
        astray: false,
    }
}

fn fine(kind: Kind) -> Message {
    Message::Answer {
        kind: kind as u32,
        payload: b"OK\0".to_vec(),
        astray: false,
    }
}

fn id(kind: Kind, payload: &[u8], theirs: Message, ours: Message) -> Option<&'static str> {
    id_of("xenstored-4.17", kind, payload, theirs, ours)
}

fn id_of(
    rival: &str,
    kind: Kind,
    payload: &[u8],
    theirs: Message,
    ours: Message,
) -> Option<&'static str> {
    let seen = Seen {
        rival: Rival::named(rival).ok()?,
        link: Link::Socket(0),
        kind: kind as u32,
        tx: Tx::None,
        payload,
        releases_target: false,
        theirs: &[theirs],
        ours: &[ours],
    };
    explain(&seen).map(|known| known.id)
}

#[test]
fn each_is_found_and_its_neighbours_are_not() {
    use Kind::{Read, SetPerms, Watch, Write};
    let einval = || error("EINVAL");
    let table = [
        (
            Read,
            &b"/a"[..],
            error("EIO"),
            einval(),
            Some("other-errno"),
        ),
        (Read, b"/a\0", error("EIO"), einval(), None),
        (Read, b"/a", fine(Read), einval(), None),
        (Write, b"/a", error("EIO"), einval(), None),
        (Read, b"", Message::Died, einval(), Some("ended")),
        (Read, b"/a\0", Message::Died, einval(), Some("ended")),
        (Read, b"", Message::Died, fine(Read), Some("ended")),
        (
            SetPerms,
            b"@x\0n1\0",
            error("ENOENT"),
            einval(),
            Some("other-errno"),
        ),
        (SetPerms, b"/x\0n1\0", error("ENOENT"), einval(), None),
        (
            SetPerms,
            b"/x\0n1\0r65536\0",
            fine(SetPerms),
            einval(),
            Some("wide-permission"),
        ),
        (SetPerms, b"/x\0r65536\0", fine(SetPerms), einval(), None),
        (
            SetPerms,
            b"/x\0n1\0r65535\0",
            fine(SetPerms),
            einval(),
            None,
        ),
        (
            Watch,
            b"@ \0t\0",
            fine(Watch),
            einval(),
            Some("odd-special-watch"),
        ),
        (Watch, b"/ \0t\0", fine(Watch), einval(), None),
        (Watch, b"@ \0t\0", einval(), fine(Watch), None),
    ];
    for (kind, payload, theirs, ours, expected) in table {
        let text = format!("{kind:?} {}: {theirs}, {ours}", payload.escape_ascii());
        assert_eq!(id(kind, payload, theirs, ours), expected, "{text}");
    }
}

#[test]
fn what_one_daemon_says_another_may_not() {
    use Kind::{Read, SetPerms, TransactionEnd};
    let long = vec![0; PAYLOAD_MAX_BYTES + 1];
    let known = |rival, kind, payload, theirs, ours| id_of(rival, kind, payload, theirs, ours);
    let again = || error("EAGAIN");
    for errno in ["ENOMEM", "ENOSPC"] {
        let books = |rival| known(rival, TransactionEnd, b"T\0", error(errno), again());
        assert_eq!(books("xenstored-4.20"), Some("books-first"));
        assert_eq!(books("xenstored-4.17"), None);
    }
    let other = known(
        "xenstored-4.20",
        TransactionEnd,
        b"T\0",
        error("EIO"),
        again(),
    );
    assert_eq!(other, None);
    for (rival, payload, expected) in [
        ("xenstored-4.20", &b"/a\0n8\0r1\0"[..], Some("absent-owner")),
        ("xenstored-4.14", b"/a\0n8\0", Some("absent-owner")),
        ("oxenstored-4.20", b"/a\0n8\0", None),
        ("xenstored-4.20", b"/a\0n1\0r8\0", None),
        ("xenstored-4.20", b"/a\0n0\0", None),
    ] {
        let id = known(rival, SetPerms, payload, error("ENOENT"), fine(SetPerms));
        assert_eq!(id, expected, "{rival} {}", payload.escape_ascii());
    }
    for (payload, expected) in [
        (&b"655.5\x005\x007\0"[..], Some("absent-domain")),
        (b"3\x005\x007\0", None),
        (b"x\x005\x007\0", None),
    ] {
        let introduce = Kind::Introduce;
        let id = known(
            "xenstored-4.20",
            introduce,
            payload,
            error("EINVAL"),
            fine(introduce),
        );
        assert_eq!(id, expected, "{}", payload.escape_ascii());
    }
    let (silent, closed) = (Message::Nothing, Message::Closed);
    for (rival, payload, expected) in [
        ("xenstored-4.14", &long[..], Some("long-message")),
        ("xenstored-4.17", &long[..], None),
        ("xenstored-4.14", b"/a\0", None),
    ] {
        let id = known(rival, Read, payload, silent.clone(), closed.clone());
        assert_eq!(id, expected, "{rival}");
    }
}

#[test]
fn of_what_control_says_little_may_differ() {
    let control = |text: &str| Message::Answer {
        kind: Kind::Control as u32,
        payload: text.as_bytes().to_vec(),
        astray: false,
    };
    let known = |payload: &str, theirs: Message, ours| {
        id_of(
            "xenstored-4.20",
            Kind::Control,
            payload.as_bytes(),
            theirs,
            ours,
        )
    };
    let words = || (control("these\0"), control("those\0"));
    for (payload, expected) in [
        ("help\0", Some("control-words")),
        ("live-update\0-a\0", Some("control-words")),
        ("quota\0", None),
        ("log\0", None),
    ] {
        let (theirs, ours) = words();
        assert_eq!(known(payload, theirs, ours), expected, "{payload:?}");
    }
    for (payload, expected) in [
        ("memreport\0x\0", Some("control-files")),
        ("logfile\0x\0", Some("control-files")),
        ("log\0x\0", None),
    ] {
        let theirs = control("OK\0");
        assert_eq!(
            known(payload, theirs, error("EINVAL")),
            expected,
            "{payload:?}"
        );
    }
    assert_eq!(known("memreport\0", error("EINVAL"), control("OK\0")), None);
    assert_eq!(known("help\0", error("EINVAL"), control("x\0")), None);
    assert_eq!(
        known("live-update\0-s\0", control("OK\0"), control("x\0")),
        None
    );
    let usage = |domid: u32, nodes: u32, memory: u32, transactions: u32| {
        control(&format!(
            "Domain {domid}:\nnodes            : {nodes:>8}\n\
             memory           : {memory:>8}\ntransactions     : {transactions:>8}\n\0"
        ))
    };
    for (theirs, ours, expected) in [
        (
            usage(1, 5, 60, 1),
            usage(1, 5, 70, 1),
            Some("memory-of-transactions"),
        ),
        (
            usage(1, 5, 60, 10),
            usage(1, 5, 70, 10),
            Some("memory-of-transactions"),
        ),
        (usage(1, 5, 60, 0), usage(1, 5, 70, 0), None),
        (usage(1, 5, 60, 1), usage(1, 6, 60, 1), None),
        (usage(1, 5, 60, 1), usage(2, 5, 60, 1), None),
        (usage(0, 5, 60, 0), usage(0, 6, 60, 0), None),
        (
            usage(4, 0, 0, 0),
            error("ENOENT"),
            Some("quota-of-a-stranger"),
        ),
        (usage(0, 0, 0, 0), error("ENOENT"), None),
        (error("ENOENT"), usage(4, 0, 0, 0), None),
    ] {
        let text = format!("{theirs}, {ours}");
        assert_eq!(known("quota\x001\0", theirs, ours), expected, "{text}");
    }
}

#[test]
fn only_an_event_that_was_there_may_be_missing() {
    let event = |text: &str| Message::Event(text.as_bytes().to_vec());
    let merges = |theirs: &[&str], ours: &[&str]| {
        let side = |events: &[&str]| {
            let events = events.iter().map(|text| event(text));
            events.chain([fine(Kind::Read)]).collect::<Vec<_>>()
        };
        let (theirs, ours) = (side(theirs), side(ours));
        let seen = Seen {
            rival: Rival::named("xenstored-4.20").unwrap(),
            link: Link::Domain(1),
            kind: Kind::Read as u32,
            tx: Tx::None,
            payload: b"/a\0",
            releases_target: false,
            theirs: &theirs,
            ours: &ours,
        };
        explain(&seen).is_some_and(|known| known.id == "merged-events")
    };
    assert!(merges(&["a", "b"], &["a", "b", "a"]));
    assert!(merges(&["a"], &["a", "a", "a"]));
    assert!(!merges(&["a"], &["a", "b"]));
    assert!(!merges(&["a", "a"], &["a"]));
    assert!(!merges(&["b", "a"], &["a", "b"]));
    assert!(!merges(&[], &["a"]));
}

#[test]
fn the_document_has_the_same_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/fidelity.md");
    let text = std::fs::read_to_string(path).unwrap();
    for known in ALL {
        let row = format!(
            "| `{}` | {} | {} | {} |",
            known.id, known.of, known.what, known.why
        );
        assert!(text.contains(&row), "docs/fidelity.md lacks the row\n{row}");
    }
    let section = text
        .split("## Held against Debian's daemons")
        .nth(1)
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .count();
    // The transactions that fail are the one that no single answer shows.
    assert_eq!(rows, ALL.len() + 1, "a row too many in docs/fidelity.md");
    assert!(section.contains(&format!("| `{DOOMED}` |")));
}

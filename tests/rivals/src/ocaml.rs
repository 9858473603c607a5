//! What is oxenstored's own in a comparison: what of a history cannot be asked there, and the
//! differences that stay. `docs/fidelity.md` has the same table.

use crate::daemon::{Make, Place, Rival};
use crate::known::{After, Known, Seen};
use crate::message::Message;
use crate::step::{Link, Step};
use fastrand::Rng;
use pv_xenstore::server::ocaml::text::number;
use pv_xenstore::wire::{Kind, PAYLOAD_MAX_BYTES};

/// The last domain of those that there are in Xen.
const LAST_DOMAIN: i64 = 5;

/// A history as it can be played on this daemon.
pub fn fit(rival: Rival, mut steps: Vec<Step>) -> Vec<Step> {
    if rival.make == Make::Ocaml {
        steps.retain(|step| can_be_asked(rival, step));
    }
    steps
}

fn can_be_asked(rival: Rival, step: &Step) -> bool {
    let Step::Ask {
        link,
        kind,
        payload,
        ..
    } = step
    else {
        return true;
    };
    // Before 4.20 a message without a payload is not looked at before the next comes.
    let waits = payload.is_empty() && matches!(link, Link::Socket(_)) && rival.version != "4.20";
    // dom0's end is the tree's.
    let ends_all =
        *kind == Kind::Release as u32 && !payload.iter().any(|byte| (b'1'..=b'9').contains(byte));
    // Our server has no Xen to ask which domains there are: histories have none beyond these.
    let domid = payload.split(|byte| *byte == 0).next().and_then(number);
    let is_none = *kind == Kind::Introduce as u32 && domid.is_some_and(|it| it > LAST_DOMAIN);
    // Our server is not updated live.
    let updates = *kind == Kind::Control as u32 && payload.starts_with(b"live-update");
    !waits && !ends_all && !is_none && !updates && payload.len() <= PAYLOAD_MAX_BYTES
}

/// Where it runs for the history of a seed: every other one has small quotas, which oxenstored reads
/// when it starts. None so small that the domains' homes are over it.
pub fn place(rival: Rival, place: &Place, seed: u64) -> Place {
    if rival.make != Make::Ocaml || seed.is_multiple_of(2) {
        return place.clone();
    }
    let mut rng = Rng::with_seed(seed);
    let mut quotas = place.quotas(rival);
    let mut set = |quota: &mut usize, range: std::ops::Range<usize>| {
        if rng.bool() {
            *quota = rng.usize(range);
        }
    };
    set(&mut quotas.nodes, 3..16);
    set(&mut quotas.watches, 1..6);
    set(&mut quotas.transactions, 1..4);
    set(&mut quotas.transaction_nodes, 2..12);
    // It writes a path at its start.
    set(&mut quotas.node_bytes, 300..400);
    set(&mut quotas.path_bytes, 15..40);
    place.clone().with_quotas(quotas)
}

/// All that one answer shows.
pub const ALL: &[Known] = &[
    Known {
        id: "ended",
        of: "oxenstored",
        what: "an answer, whatever it is",
        why: "a daemon that has ended says nothing more",
        after: After::Ends,
        is_it: |seen| seen.theirs.last() == Some(&Message::Died),
    },
    Known {
        id: "odd-permission",
        of: "oxenstored",
        what: "SET_PERMS with a number of more than 16 bits, or below 0: EINVAL",
        why: "no domain has such a number; oxenstored keeps it",
        after: After::Ends,
        is_it: |seen| {
            seen.kind == Kind::SetPerms as u32
                && errno(seen.ours) == Some("EINVAL")
                && errno(seen.theirs) != Some("EINVAL")
                && has_odd_number(seen.payload)
        },
    },
    Known {
        id: "odd-name",
        of: "oxenstored",
        what: "a node whose path begins with @ and has a byte that no name has: EINVAL",
        why: "oxenstored takes all of it for one name; nobody makes such a node",
        after: After::Ends,
        is_it: |seen| {
            is_about_node(seen.kind)
                && seen.payload.starts_with(b"@")
                && errno(seen.ours) == Some("EINVAL")
                && errno(seen.theirs) != Some("EINVAL")
        },
    },
    Known {
        id: "odd-request",
        of: "oxenstored",
        what: "the end of a transaction that conflicts, and in which something was asked that none can have, such as RESUME: EAGAIN",
        why: "oxenstored says EINVAL when it finds out who was in the way; both fail",
        after: After::Same,
        is_it: |seen| {
            seen.kind == Kind::TransactionEnd as u32
                && (errno(seen.theirs), errno(seen.ours)) == (Some("EINVAL"), Some("EAGAIN"))
                && events_agree(seen)
        },
    },
    Known {
        id: "whole-directory",
        of: "oxenstored",
        what: "over the socket, a directory whose names are longer than 4096 bytes: E2BIG, as over a ring",
        why: "oxenstored sends all of it, longer than a message may be, and clients that know the limit hang up",
        after: After::Ends,
        is_it: |seen| {
            matches!(seen.link, Link::Socket(_))
                && seen.kind == Kind::Directory as u32
                && errno(seen.ours) == Some("E2BIG")
                && seen.theirs.last() == Some(&Message::Closed)
        },
    },
    Known {
        id: "oversized",
        of: "oxenstored",
        what: "a message over the socket that is longer than one may be: the connection is closed",
        why: "oxenstored takes its beginning for all of it, and the rest for the next one",
        after: After::Ends,
        is_it: |seen| {
            seen.payload.len() > PAYLOAD_MAX_BYTES && seen.ours.last() == Some(&Message::Closed)
        },
    },
    Known {
        id: "no-payload",
        of: "oxenstored before 4.20",
        what: "a message over the socket without a payload: its answer",
        why: "oxenstored looks at it when the next message comes",
        after: After::Ends,
        is_it: |seen| {
            matches!(seen.link, Link::Socket(_))
                && seen.rival.version != "4.20"
                && seen.payload.is_empty()
                && seen.theirs.last() == Some(&Message::Nothing)
        },
    },
];

/// The one that this is.
pub fn explain(seen: &Seen<'_>) -> Option<&'static Known> {
    let mut all = ALL.iter();
    all.find(|known| seen.rival.make == Make::Ocaml && (known.is_it)(seen))
}

fn is_about_node(kind: u32) -> bool {
    use Kind::{Directory, GetPerms, Mkdir, Read, Rm, SetPerms, Write};
    let kinds = [Directory, GetPerms, Mkdir, Read, Rm, SetPerms, Write];
    Kind::from_number(kind).is_some_and(|kind| kinds.contains(&kind))
}

/// A number that OCaml reads and no domain has: it begins with a sign, or is long, or hexadecimal.
fn has_odd_number(payload: &[u8]) -> bool {
    let entries = payload.split(|byte| *byte == 0).skip(1);
    let mut numbers = entries.filter_map(|entry| entry.get(1..));
    numbers.any(|number| number.starts_with(b"-") || number.len() > 4)
}

/// Is the answer all that differs?
fn events_agree(seen: &Seen<'_>) -> bool {
    let events = |all: &[Message]| {
        let events = all.iter().filter(|message| message.is_event());
        events.cloned().collect::<Vec<_>>()
    };
    events(seen.theirs) == events(seen.ours)
}

fn errno(messages: &[Message]) -> Option<&str> {
    messages.last()?.errno()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Tx;

    fn error(name: &str) -> Message {
        Message::Answer {
            kind: Kind::Error as u32,
            payload: [name.as_bytes(), b"\0"].concat(),
            astray: false,
        }
    }

    fn fine() -> Message {
        Message::Answer {
            kind: Kind::Read as u32,
            payload: b"OK\0".to_vec(),
            astray: false,
        }
    }

    fn id(
        daemon: &str,
        kind: Kind,
        payload: &[u8],
        theirs: Message,
        ours: Message,
    ) -> Option<&'static str> {
        let seen = Seen {
            rival: Rival::named(daemon).unwrap(),
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
        use Kind::{Directory, Read, SetPerms, TransactionEnd, Write};
        let (einval, eagain) = (|| error("EINVAL"), || error("EAGAIN"));
        let long = vec![b'x'; PAYLOAD_MAX_BYTES + 1];
        let table = [
            (
                SetPerms,
                &b"/a\0r-1\0"[..],
                fine(),
                einval(),
                Some("odd-permission"),
            ),
            (SetPerms, b"/a\0r1\0", fine(), einval(), None),
            (SetPerms, b"/a\0r-1\0", einval(), fine(), None),
            (Read, b"@a b\0", error("ENOENT"), einval(), Some("odd-name")),
            (Read, b"/a b\0", error("ENOENT"), einval(), None),
            (Read, b"@a b\0", fine(), error("ENOENT"), None),
            (
                TransactionEnd,
                b"T\0",
                einval(),
                eagain(),
                Some("odd-request"),
            ),
            (TransactionEnd, b"T\0", fine(), eagain(), None),
            (TransactionEnd, b"T\0", eagain(), fine(), None),
            (Write, b"/a\0", einval(), eagain(), None),
            (
                Directory,
                b"/a\0",
                Message::Closed,
                error("E2BIG"),
                Some("whole-directory"),
            ),
            (Directory, b"/a\0", Message::Closed, fine(), None),
            (Write, &long, einval(), Message::Closed, Some("oversized")),
            (Write, b"/a\0", einval(), Message::Closed, None),
            (Write, b"", Message::Nothing, einval(), Some("no-payload")),
            (Write, b"/a\0", Message::Nothing, einval(), None),
            (Write, b"/a\0", Message::Died, einval(), Some("ended")),
            (Write, b"/a\0", einval(), Message::Died, None),
        ];
        for (kind, payload, theirs, ours, expected) in table {
            let text = format!("{kind:?} {}: {theirs}, {ours}", payload.escape_ascii());
            let found = ["oxenstored-4.17", "xenstored-4.17"]
                .map(|daemon| id(daemon, kind, payload, theirs.clone(), ours.clone()));
            assert_eq!(found, [expected, None], "{text}");
        }
        let late = id("oxenstored-4.20", Write, b"", Message::Nothing, einval());
        assert_eq!(late, None);
    }

    #[test]
    fn what_cannot_be_asked_is_taken_out_for_oxenstored_alone() {
        let ask = |link, kind: Kind, payload: &[u8]| Step::Ask {
            link,
            kind: kind as u32,
            tx: Tx::None,
            payload: payload.to_vec(),
        };
        let socket = Link::Socket(0);
        let steps = vec![
            Step::Open(0),
            ask(socket, Kind::Read, b""),
            ask(Link::Domain(1), Kind::Read, b""),
            ask(socket, Kind::Release, b"0\0"),
            ask(socket, Kind::Release, b"10\0"),
            ask(socket, Kind::Write, &[0; PAYLOAD_MAX_BYTES + 1]),
            ask(socket, Kind::Control, b"help\0"),
            ask(socket, Kind::Control, b"live-update\0-s\0"),
            ask(socket, Kind::Introduce, b"6\x005\x007\0"),
            ask(socket, Kind::Introduce, b"5\x005\x007\0"),
        ];
        for (daemon, left) in [
            ("xenstored-4.17", vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            ("oxenstored-4.17", vec![0, 2, 4, 6, 9]),
            ("oxenstored-4.20", vec![0, 1, 2, 4, 6, 9]),
        ] {
            let fitted = fit(Rival::named(daemon).unwrap(), steps.clone());
            let left: Vec<Step> = left.into_iter().map(|n: usize| steps[n].clone()).collect();
            assert_eq!(fitted, left, "{daemon}");
        }
    }

    #[test]
    fn the_document_has_the_same_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/fidelity.md");
        let text = std::fs::read_to_string(path).unwrap();
        let section = text.split("## Held against oxenstored").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for Known {
            id, of, what, why, ..
        } in ALL
        {
            let row = format!("| `{id}` | {of} | {what} | {why} |");
            assert!(
                section.contains(&row),
                "docs/fidelity.md lacks the row\n{row}"
            );
        }
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(
            rows.count(),
            ALL.len(),
            "a row too many in docs/fidelity.md"
        );
    }
}

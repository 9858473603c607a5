//! Differences that stay, each with its reason. `docs/fidelity.md` has the same table.

use crate::daemon::{Make, Rival};
use crate::message::Message;
use crate::step::{Link, Tx};
use crate::world::DOMAINS;
use pv_xenstore::wire::{Kind, PAYLOAD_MAX_BYTES};
use std::collections::HashSet;

/// One answer, as both sides gave it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Which daemon.
    pub rival: Rival,
    /// Who asked.
    pub link: Link,
    /// What type of request.
    pub kind: u32,
    /// In which transaction.
    pub tx: Tx,
    /// With what.
    pub payload: &'a [u8],
    /// Does it release a domain that is the target of another?
    pub releases_target: bool,
    /// The events that came before the answer, and the answer, of the daemon.
    pub theirs: &'a [Message],
    /// The same of our server.
    pub ours: &'a [Message],
}

/// What becomes of the history after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Both trees are as before: the history goes on.
    Same,
    /// They are not: it ends.
    Ends,
}

/// A difference that is known and explained.
#[derive(Debug)]
pub struct Known {
    /// What it is called.
    pub id: &'static str,
    /// Of which daemons.
    pub of: &'static str,
    /// What differs.
    pub what: &'static str,
    /// Why it stays.
    pub why: &'static str,
    /// What follows.
    pub after: After,
    /// Is it this one?
    pub is_it: fn(&Seen<'_>) -> bool,
}

/// Answers inside of a transaction that fails with EAGAIN or ENOMEM on both sides, or is given up.
pub const DOOMED: &str = "doomed-transaction";

/// All that one answer shows.
pub const ALL: &[Known] = &[
    Known {
        id: "other-errno",
        of: "xenstored 4.14, 4.17",
        what: "a request on one node whose payload is not one string that ends with a NUL, and SET_PERMS of a special watch that fails: EINVAL or EACCES",
        why: "xenstored says another errno",
        after: After::Same,
        is_it: |seen| {
            let said = errno(seen.theirs).is_some() && errno(seen.ours).is_some();
            has_other_errno(seen) && said && events_agree(seen)
        },
    },
    Known {
        id: "ended",
        of: "xenstored",
        what: "an answer, whatever it is",
        why: "a daemon that has ended says nothing more",
        after: After::Ends,
        is_it: |seen| is_c(seen) && seen.theirs.last() == Some(&Message::Died),
    },
    Known {
        id: "long-message",
        of: "xenstored 4.14",
        what: "a message that is longer than one may be: the connection is closed",
        why: "xenstored 4.14 leaves it open, and says nothing more there",
        after: After::Same,
        is_it: |seen| {
            seen.rival.ignores_long_messages()
                && seen.payload.len() > PAYLOAD_MAX_BYTES
                && (seen.theirs, seen.ours) == (&[Message::Nothing], &[Message::Closed])
        },
    },
    Known {
        id: "wide-permission",
        of: "xenstored",
        what: "SET_PERMS with a number over 65535 that is not the owner's: EINVAL",
        why: "no domain has such a number; xenstored keeps it",
        after: After::Ends,
        is_it: |seen| {
            is_c(seen)
                && seen.kind == Kind::SetPerms as u32
                && errno(seen.ours) == Some("EINVAL")
                && errno(seen.theirs) != Some("EINVAL")
                && has_wide_number(seen.payload)
        },
    },
    Known {
        id: "absent-owner",
        of: "xenstored",
        what: "SET_PERMS whose owner is a number that no domain has: fine",
        why: "xenstored asks Xen, and says ENOENT; our server has no Xen to ask",
        after: After::Ends,
        is_it: |seen| {
            is_c(seen)
                && seen.kind == Kind::SetPerms as u32
                && errno(seen.theirs) == Some("ENOENT")
                && errno(seen.ours).is_none()
                && owner(seen.payload).is_some_and(|domid| domid != 0 && !DOMAINS.contains(&domid))
        },
    },
    Known {
        id: "absent-domain",
        of: "xenstored",
        what: "INTRODUCE of a number that no domain has: fine",
        why: "xenstored asks Xen for the ring page, and says EINVAL; our server has no Xen to ask",
        after: After::Ends,
        is_it: |seen| {
            is_c(seen)
                && seen.kind == Kind::Introduce as u32
                && errno(seen.theirs) == Some("EINVAL")
                && errno(seen.ours).is_none()
                && leading_number(seen.payload).is_some_and(|domid| !DOMAINS.contains(&domid))
        },
    },
    Known {
        id: "odd-special-watch",
        of: "xenstored",
        what: "a watch on a path that begins with @ and has a byte that no path has: EINVAL",
        why: "nothing ever fires there",
        after: After::Ends,
        is_it: |seen| {
            is_c(seen)
                && seen.kind == Kind::Watch as u32
                && seen.payload.starts_with(b"@")
                && errno(seen.ours) == Some("EINVAL")
                && matches!(errno(seen.theirs), None | Some("E2BIG"))
        },
    },
    Known {
        id: "merged-events",
        of: "xenstored",
        what: "an event that waits for its reader already is there twice",
        why: "xenstored drops the second, if the first was not yet sent; our service does so, too, below what is compared here",
        after: After::Same,
        is_it: |seen| is_c(seen) && answers_agree(seen) && only_merges(seen),
    },
    Known {
        id: "books-first",
        of: "xenstored 4.20",
        what: "the end of a transaction whose nodes others have changed or removed since: EAGAIN",
        why: "xenstored looks at the owner's quota first, and says ENOMEM or ENOSPC; both fail",
        after: After::Same,
        is_it: |seen| {
            is_c(seen)
                && seen.rival.version == "4.20"
                && seen.kind == Kind::TransactionEnd as u32
                && seen.payload == b"T\0"
                && matches!(errno(seen.theirs), Some("ENOMEM" | "ENOSPC"))
                && errno(seen.ours) == Some("EAGAIN")
                && events_agree(seen)
        },
    },
    Known {
        id: "control-words",
        of: "xenstored",
        what: "CONTROL help, and live-update: what there is here, and that there is none",
        why: "our server is not updated live, and says so",
        after: After::Same,
        is_it: |seen| {
            let asks = |what: &[u8]| seen.payload.starts_with(what);
            let text = |messages: &[Message]| match messages.last() {
                Some(Message::Answer { kind, payload, .. }) if *kind == Kind::Control as u32 => {
                    payload != b"OK\0"
                }
                _ => false,
            };
            is_c(seen)
                && seen.kind == Kind::Control as u32
                && (asks(b"help\0") || asks(b"live-update\0"))
                && (text(seen.theirs) && text(seen.ours) && events_agree(seen))
        },
    },
    Known {
        id: "control-files",
        of: "xenstored",
        what: "CONTROL memreport and logfile: EINVAL",
        why: "our server writes no file that a client names",
        after: After::Same,
        is_it: |seen| {
            let asks = |what: &[u8]| seen.payload.starts_with(what);
            is_c(seen)
                && seen.kind == Kind::Control as u32
                && (asks(b"memreport\0") || asks(b"logfile\0"))
                && errno(seen.theirs).is_none()
                && errno(seen.ours) == Some("EINVAL")
                && events_agree(seen)
        },
    },
    Known {
        id: "quota-of-a-stranger",
        of: "xenstored",
        what: "CONTROL quota of a domain that was not introduced: ENOENT",
        why: "xenstored counts for every domain that a permission names",
        after: After::Same,
        is_it: |seen| {
            is_c(seen)
                && usage(seen.theirs).is_some_and(|(domid, _)| domid != 0)
                && errno(seen.ours) == Some("ENOENT")
                && events_agree(seen)
        },
    },
    Known {
        id: "memory-of-transactions",
        of: "xenstored",
        what: "CONTROL quota of a domain with open transactions: about how many bytes they take; of dom0 its programs' watches and transactions, too",
        why: "xenstored counts what it stores for them, with numbers of its own, and may count programs that have gone",
        after: After::Same,
        is_it: |seen| {
            let (Some((domid, theirs)), Some((same, ours))) =
                (usage(seen.theirs), usage(seen.ours))
            else {
                return false;
            };
            // Of dom0's programs it knows late, or never, which have gone.
            let differ = ["memory", "transactions ", "watches "];
            let differ = &differ[..if domid == 0 { 3 } else { 1 }];
            let all_but_memory = |lines: &[String]| {
                let is_same = |line: &&String| !differ.iter().any(|name| line.starts_with(name));
                lines.iter().filter(is_same).cloned().collect::<Vec<_>>()
            };
            let has_open = theirs
                .iter()
                .any(|line| line.starts_with("transactions ") && !line.contains(" 0"));
            is_c(seen)
                && domid == same
                && all_but_memory(&theirs) == all_but_memory(&ours)
                && (has_open || domid == 0)
                && events_agree(seen)
        },
    },
    Known {
        id: "release-of-a-target",
        of: "xenstored",
        what: "RELEASE of a domain that is another's target: it is gone",
        why: "xenstored only forgets that it is a target; a second RELEASE removes it",
        after: After::Ends,
        is_it: |seen| is_c(seen) && seen.releases_target,
    },
];

/// The one that this is.
pub fn explain(seen: &Seen<'_>) -> Option<&'static Known> {
    ALL.iter().find(|known| (known.is_it)(seen))
}

/// Is it the C daemon?
pub fn is_c(seen: &Seen<'_>) -> bool {
    seen.rival.make == Make::C
}

fn is_about_one_node(kind: u32) -> bool {
    use Kind::{Directory, GetPerms, Mkdir, Read, Rm};
    let known = Kind::from_number(kind);
    known.is_some_and(|kind| [Directory, GetPerms, Mkdir, Read, Rm].contains(&kind))
}

fn is_one_string(payload: &[u8]) -> bool {
    let nul = payload.iter().position(|byte| *byte == 0);
    nul.is_some_and(|nul| nul + 1 == payload.len())
}

/// A request that xenstored until 4.17 refuses with another errno.
fn has_other_errno(seen: &Seen<'_>) -> bool {
    let without_path = is_about_one_node(seen.kind) && !is_one_string(seen.payload);
    let special = seen.kind == Kind::SetPerms as u32 && seen.payload.starts_with(b"@");
    is_c(seen) && seen.rival.version != "4.20" && (without_path || special)
}

/// Of which domain CONTROL tells, and the lines.
fn usage(messages: &[Message]) -> Option<(u16, Vec<String>)> {
    let Message::Answer { kind, payload, .. } = messages.last()? else {
        return None;
    };
    let text = std::str::from_utf8(payload).ok()?;
    let mut lines = text.lines();
    let domid = lines.next()?.strip_prefix("Domain ")?.strip_suffix(':')?;
    let domid = domid
        .parse()
        .ok()
        .filter(|_| *kind == Kind::Control as u32)?;
    Some((domid, lines.map(str::to_owned).collect()))
}

/// The number that a payload begins with.
fn leading_number(payload: &[u8]) -> Option<u16> {
    let end = payload.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&payload[..end]).ok()?.parse().ok()
}

/// The first permission's number.
fn owner(payload: &[u8]) -> Option<u16> {
    let entry = payload.split(|byte| *byte == 0).nth(1)?;
    std::str::from_utf8(entry.get(1..)?).ok()?.parse().ok()
}

fn has_wide_number(payload: &[u8]) -> bool {
    let entries = payload.split(|byte| *byte == 0).skip(2);
    let numbers = entries.filter_map(|entry| std::str::from_utf8(entry.get(1..)?).ok());
    let mut numbers = numbers.filter_map(|text| text.parse::<i64>().ok());
    numbers.any(|number| u16::try_from(number).is_err())
}

/// The errno that is the answer.
fn errno(messages: &[Message]) -> Option<&str> {
    messages.last()?.errno()
}

/// Are the events all that differs?
fn answers_agree(seen: &Seen<'_>) -> bool {
    seen.theirs.last() == seen.ours.last()
}

/// Are the daemon's events ours without some that were there before?
fn only_merges(seen: &Seen<'_>) -> bool {
    let mut rest = seen.theirs.iter().peekable();
    let mut met = HashSet::new();
    for message in seen.ours {
        if rest.next_if(|next| *next == message).is_none() && !met.contains(message) {
            return false;
        }
        met.insert(message);
    }
    rest.next().is_none()
}

/// Is the answer all that differs?
fn events_agree(seen: &Seen<'_>) -> bool {
    let events = |messages: &[Message]| {
        let events = messages.iter().filter(|message| message.is_event());
        events.cloned().collect::<Vec<_>>()
    };
    events(seen.theirs) == events(seen.ours)
}

#[cfg(test)]
mod tests {
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
}

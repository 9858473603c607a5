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
mod tests;

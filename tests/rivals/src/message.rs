//! What the two sides send, with what the protocol leaves open taken out.

use crate::step::{bytes, kind_name};
use pv_xenstore::wire::{Kind, Packet};
use std::fmt;

/// A request, as it was sent to one side.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Its type.
    pub kind: u32,
    /// Its number.
    pub req_id: u32,
    /// Its transaction.
    pub tx_id: u32,
    /// Its payload's length.
    pub len: u32,
}

/// What was sent on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// A watch event: path and token, each with its NUL.
    Event(Vec<u8>),
    /// The answer to a request.
    Answer {
        /// The type; `XS_ERROR` for an error.
        kind: u32,
        /// The rest.
        payload: Vec<u8>,
        /// Have the header's numbers another value than the request's?
        astray: bool,
    },
    /// The connection was closed.
    Closed,
    /// Nothing came.
    Nothing,
    /// The daemon's process ended.
    Died,
}

impl Message {
    /// Takes out of a packet what differs between two servers that are both right:
    ///
    /// - the header's numbers of an event, which mean nothing;
    /// - the number of a new transaction, which is the server's choice;
    /// - the generation in a part of a directory, which only says whether the node has changed;
    /// - of what CONTROL says of quotas the highest values, in which xenstored counts what a request took while
    ///   it lasted, and the requests whose events are still on their way.
    pub fn of(packet: &Packet, asked: Asked) -> Message {
        if packet.known_kind() == Some(Kind::WatchEvent) {
            return Message::Event(packet.payload.clone());
        }
        let mut payload = packet.payload.clone();
        match packet.known_kind() {
            Some(Kind::TransactionStart) if number(&payload).is_some() => {
                payload = b"(a number)\0".to_vec();
            }
            Some(Kind::DirectoryPart) => {
                let end = payload.iter().position(|byte| *byte == 0);
                if let Some(end) = end.filter(|end| is_generation(&payload[..*end])) {
                    payload.splice(..end, b"(a number)".iter().copied());
                }
            }
            Some(Kind::Control) => payload = without_passing_values(&payload),
            _ => {}
        }
        Message::Answer {
            kind: packet.kind,
            payload,
            astray: (packet.req_id, packet.tx_id) != (asked.req_id, asked.tx_id),
        }
    }

    /// The errno's name, if it is an error.
    pub fn errno(&self) -> Option<&str> {
        match self {
            Message::Answer { kind, payload, .. } if *kind == Kind::Error as u32 => {
                std::str::from_utf8(payload.strip_suffix(b"\0")?).ok()
            }
            _ => None,
        }
    }

    /// Is it an event?
    pub fn is_event(&self) -> bool {
        matches!(self, Message::Event(_))
    }
}

fn without_passing_values(payload: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(payload) else {
        return payload.to_vec();
    };
    let of_one = text.starts_with("Domain ");
    let of_all = text.starts_with("Max. ");
    let lines = text.split_inclusive('\n').map(|line| {
        let number = |line: &str| line.trim().parse::<u64>().is_ok();
        match line.split_once(':') {
            Some((name, values)) if of_all && number(values) => format!("{name}: (a number)\n"),
            Some((name, values)) if of_one => {
                let (now, most) = values.split_once(" (max ").unwrap_or((values, "\n"));
                let now = now.trim_end_matches('\n');
                let most = most
                    .strip_suffix(")\n")
                    .map_or(most, |most| match number(most) {
                        true => " (max a number)\n",
                        false => most,
                    });
                match name.trim() == "outstanding" && number(now) {
                    true => format!("{name}: (a number){most}"),
                    false => format!("{name}:{now}{most}"),
                }
            }
            _ => line.to_owned(),
        }
    });
    lines.collect::<String>().into_bytes()
}

/// A generation has 64 bits.
fn is_generation(text: &[u8]) -> bool {
    let text = std::str::from_utf8(text).ok();
    text.is_some_and(|text| text.parse::<u64>().is_ok())
}

/// A number that ends with a NUL and is all of the payload.
pub fn number(payload: &[u8]) -> Option<u32> {
    std::str::from_utf8(payload.strip_suffix(b"\0")?)
        .ok()?
        .parse()
        .ok()
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Event(payload) => write!(f, "event {}", bytes(payload)),
            Message::Answer {
                kind,
                payload,
                astray,
            } => {
                match self.errno() {
                    Some(errno) => f.write_str(errno)?,
                    None => write!(f, "{} {}", kind_name(*kind), bytes(payload))?,
                }
                if *astray {
                    f.write_str(" with other numbers in the header than the request's")?;
                }
                Ok(())
            }
            Message::Closed => f.write_str("hangs up"),
            Message::Nothing => f.write_str("no answer"),
            Message::Died => f.write_str("the process ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked {
        kind: 6,
        req_id: 9,
        tx_id: 0,
        len: 0,
    };

    fn of(kind: Kind, payload: &[u8]) -> Message {
        Message::of(&Packet::new(kind, 9, 0, payload), ASKED)
    }

    #[test]
    fn only_what_is_left_open_is_taken_out() {
        let start = Kind::TransactionStart;
        assert_eq!(of(start, b"1\0"), of(start, b"77\0"));
        assert_ne!(of(start, b"1\0"), of(start, b"x\0"));
        assert_ne!(of(start, b"1\0"), of(start, b"1"));
        let part = Kind::DirectoryPart;
        assert_eq!(of(part, b"1\0a\0\0"), of(part, b"2\0a\0\0"));
        assert_eq!(
            of(part, b"1\0a\0\0"),
            of(part, b"9223372036854775809\0a\0\0")
        );
        assert_ne!(of(part, b"1\0a\0\0"), of(part, b"x\0a\0\0"));
        assert_ne!(of(part, b"1\0a\0\0"), of(part, b"1\0b\0\0"));
        assert_ne!(of(part, b"1\0a\0\0"), of(part, b"1\0a\0"));
        assert_ne!(of(Kind::Read, b"1\0"), of(Kind::Read, b"2\0"));
        assert_ne!(of(Kind::Error, b"EIO\0"), of(Kind::Error, b"EINVAL\0"));
    }

    #[test]
    fn of_quotas_only_what_passes_is_taken_out() {
        let control = |text: &str| of(Kind::Control, text.as_bytes());
        let one = |nodes: u32, most: u32, outstanding: u32| {
            control(&format!(
                "Domain 1:\nnodes   : {nodes:>8} (max {most:>8})\noutstanding: {outstanding:>8}\n\0"
            ))
        };
        assert_eq!(one(1, 2, 3), one(1, 7, 8));
        assert_ne!(one(1, 2, 3), one(2, 2, 3));
        let all = |nodes: &str| control(&format!("Max. seen:\nnodes : {nodes:>8}\n\0"));
        assert_eq!(all("1"), all("2"));
        assert_ne!(all("1"), all("x"));
        let setting = |nodes: u32| control(&format!("Quota settings:\nnodes : {nodes:>8}\n\0"));
        assert_ne!(setting(1), setting(2));
    }

    #[test]
    fn an_answer_to_something_else_is_seen() {
        let right = Message::of(&Packet::new(Kind::Read, 9, 0, "x"), ASKED);
        for (req_id, tx_id) in [(8, 0), (9, 1)] {
            let other = Message::of(&Packet::new(Kind::Read, req_id, tx_id, "x"), ASKED);
            assert_ne!(right, other);
        }
        let event = |req_id| Packet::new(Kind::WatchEvent, req_id, 3, "p\0t\0");
        assert_eq!(Message::of(&event(1), ASKED), Message::of(&event(2), ASKED));
    }
}

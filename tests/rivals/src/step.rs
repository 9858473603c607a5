//! What happens in a history: requests of connections, and connections that come and go. Nothing in
//! it depends on an answer, so that any part of a history is one, too.

use pv_xenstore::wire::Kind;
use std::fmt;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// A connection to the socket, with dom0's rights.
    Socket(u8),
    /// A domain, over its ring page.
    Domain(u16),
}

/// The transaction of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tx {
    /// None.
    None,
    /// One that this connection began, by the order of beginning: the last is 0.
    Begun(u8),
    /// A number that nobody was given.
    Made(u32),
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A connection to the socket is made, unless it stands.
    Open(u8),
    /// It ends, if it stands.
    Close(u8),
    /// A request, and its answer. Nothing if the connection does not stand.
    Ask {
        /// Who.
        link: Link,
        /// The type's number.
        kind: u32,
        /// In which transaction.
        tx: Tx,
        /// The rest.
        payload: Vec<u8>,
    },
    /// A domain dies in Xen: no toolstack says RELEASE.
    Die(u16),
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Link::Socket(n) => write!(f, "socket {n}"),
            Link::Domain(n) => write!(f, "domain {n}"),
        }
    }
}

impl fmt::Display for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tx::None => Ok(()),
            Tx::Begun(n) => write!(f, " in its transaction -{n}"),
            Tx::Made(n) => write!(f, " in transaction {n}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Open(n) => write!(f, "socket {n}: connects"),
            Step::Close(n) => write!(f, "socket {n}: hangs up"),
            Step::Die(n) => write!(f, "domain {n}: dies"),
            Step::Ask {
                link,
                kind,
                tx,
                payload,
            } => write!(f, "{link}: {}{tx} {}", kind_name(*kind), bytes(payload)),
        }
    }
}

/// A message's type, as people know it.
pub fn kind_name(kind: u32) -> String {
    match Kind::from_number(kind) {
        Some(kind) => kind.c_name().trim_start_matches("XS_").to_owned(),
        None => format!("type {kind}"),
    }
}

/// Bytes as text; a long run is shortened.
pub fn bytes(payload: &[u8]) -> String {
    const SHOWN: usize = 120;
    let text = payload[..payload.len().min(SHOWN)].escape_ascii();
    let text = text.to_string().replace("\\x00", "\\0");
    if payload.len() > SHOWN {
        format!("\"{text}…\" ({} bytes)", payload.len())
    } else {
        format!("\"{text}\"")
    }
}

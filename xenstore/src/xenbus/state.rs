//! The states, and the switch from one to another.

use crate::value;
use std::fmt;

/// Write the own `state` node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SwitchState {
    /// The new state.
    pub to: XenbusState,
    /// What the own node says, unless somebody else has written it since. If it says Initialising
    /// and this does not, the toolstack has made the device anew (the other end's domain vanished, and
    /// came again): write nothing, and say so (`Renewed`). The state of an end that is no more would
    /// close the new device before it was ever connected.
    pub from: XenbusState,
    /// In one transaction with the write, and with the other nodes that belong to this step,
    /// check that the peer's state is still this one. Then say how it went (`Switched` or
    /// `PeerMoved`). `None`: just write; there is nothing to say.
    pub while_peer: Option<XenbusState>,
}

/// `enum xenbus_state` (`xen/include/public/io/xenbus.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum XenbusState {
    /// Anything that is no state.
    #[default]
    Unknown = 0,
    /// Starting.
    Initialising = 1,
    /// The back end has announced its features and waits for the ring.
    InitWait = 2,
    /// The front end has announced its ring.
    Initialised = 3,
    /// In service.
    Connected = 4,
    /// Being closed, by an error or a removal.
    Closing = 5,
    /// Closed: holds nothing of the peer's.
    Closed = 6,
    /// Not used by block devices.
    Reconfiguring = 7,
    /// Not used by block devices.
    Reconfigured = 8,
}

impl XenbusState {
    /// All, in the header's order.
    pub const ALL: [XenbusState; 9] = [
        XenbusState::Unknown,
        XenbusState::Initialising,
        XenbusState::InitWait,
        XenbusState::Initialised,
        XenbusState::Connected,
        XenbusState::Closing,
        XenbusState::Closed,
        XenbusState::Reconfiguring,
        XenbusState::Reconfigured,
    ];

    /// From a `state` node's value; anything odd is [`XenbusState::Unknown`].
    pub fn parse(value: &[u8]) -> XenbusState {
        let state = value::number::<usize>(value).and_then(|number| Self::ALL.get(number));
        state.copied().unwrap_or_default()
    }

    /// The node's value.
    pub fn as_str(self) -> &'static str {
        ["0", "1", "2", "3", "4", "5", "6", "7", "8"][self as usize]
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self, self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for state in XenbusState::ALL {
            assert_eq!(XenbusState::parse(state.as_str().as_bytes()), state);
        }
        for odd in [&b""[..], b"9", b"44", b"-1", b"four", b"\xff"] {
            assert_eq!(XenbusState::parse(odd), XenbusState::Unknown);
        }
        for other in [&b"4\n"[..], b"4\0", b" 4 \0", b"04"] {
            assert_eq!(XenbusState::parse(other), XenbusState::Connected);
        }
    }
}

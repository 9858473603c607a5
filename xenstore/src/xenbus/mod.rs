//! The xenbus handshake: how a front end and a back end find each other's ring through two
//! `state` nodes, and part again.

use std::fmt;

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
        let text = value.trim_ascii();
        match text {
            [digit @ b'0'..=b'8'] => Self::ALL[usize::from(digit - b'0')],
            _ => XenbusState::Unknown,
        }
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

//! What a front end learns, and what it has to do.

use super::super::state::{SwitchState, XenbusState};

/// What a front end learns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// First of all: the own state node when the front end starts; `None` if it is not there.
    Start(Option<XenbusState>),
    /// To [`Action::ReadPeer`], and after each watch event: the back end's nodes.
    Peer {
        /// Its state; `None`: its directory is gone.
        state: Option<XenbusState>,
        /// Its `online`: will it serve again after closing?
        online: bool,
    },
    /// The back end's process is gone, though its nodes stand.
    PeerDied,
    /// The own state node, as read after a watch event.
    Own(Option<XenbusState>),
    /// The own directory has been made anew, though perhaps with the state that it had: nothing that
    /// was said or held is of this device.
    Renewed,
    /// To [`Action::PrepareRing`]: pages are granted, the event channel stands.
    RingReady,
    /// To [`Action::PrepareRing`]: it did not work, and nothing is held.
    RingFailed(String),
    /// To [`Action::ReadPeerAndConnect`]: the disk's properties are read and make sense.
    Connected,
    /// To [`Action::ReadPeerAndConnect`]: they do not.
    ConnectFailed(String),
    /// To [`Action::SwitchState`] with a condition: written.
    Switched,
    /// To [`Action::SwitchState`] with a condition: not written; the back end is here.
    PeerMoved {
        /// As in [`Input::Peer`].
        state: Option<XenbusState>,
        /// As in [`Input::Peer`].
        online: bool,
    },
    /// After [`Action::StopRequests`]: every request on the ring has been answered.
    Quiet,
    /// To [`Action::FreeResources`]: ring and event channel are given up.
    Freed,
    /// The front end is to stop.
    CloseRequested,
    /// The back end broke the protocol.
    Fatal(String),
    /// The time to close in order is over.
    Abandon,
}

/// What a front end has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Grant a fresh ring and allocate an event channel; then say [`Input::RingReady`] or
    /// [`Input::RingFailed`].
    PrepareRing,
    /// Read the disk's size and features; then say [`Input::Connected`] or
    /// [`Input::ConnectFailed`].
    ReadPeerAndConnect,
    /// Write the own state. The switch to Initialised takes the ring's nodes with it; requests
    /// (first of all those kept from an earlier ring) go on the ring only after the switch to
    /// Connected.
    SwitchState(SwitchState),
    /// Read the back end's nodes, after the actions before this one; then say [`Input::Peer`].
    ReadPeer,
    /// Put nothing more on the ring. Requests without an answer are kept, for the next ring.
    StopRequests,
    /// Give up ring and event channel; then say [`Input::Freed`].
    FreeResources,
    /// Write the error node.
    ReportError(String),
    /// The handshake is over; nothing is held. Requests that are kept will never be answered.
    /// The machine takes no more inputs.
    RemoveDevice,
    /// The input makes no sense here and changes nothing.
    Refuse(&'static str),
}

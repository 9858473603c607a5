//! What a back end learns, and what it has to do.

use super::super::state::{SwitchState, XenbusState};

/// What a back end learns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// First of all: the own nodes when the back end starts.
    Start {
        /// The own state; `None` if it is not there.
        own: Option<XenbusState>,
        /// `online`.
        online: bool,
    },
    /// To [`Action::ReadPeer`], and after each watch event (`@releaseDomain` included): the front
    /// end's state; `None`: gone.
    Peer(Option<XenbusState>),
    /// The front end's process is gone, though its nodes stand.
    PeerDied,
    /// The own state node, as read after a watch event.
    Own(Option<XenbusState>),
    /// The own directory has been made anew, though perhaps with the state that it had: nothing that
    /// was said or held is of this device.
    Renewed,
    /// The own `online` node.
    Online(bool),
    /// To [`Action::ReadPeerAndConnect`]: the ring is mapped. Nothing is taken from it yet.
    Connected,
    /// To [`Action::ReadPeerAndConnect`]: it did not work, and nothing stays mapped.
    ConnectFailed(String),
    /// To [`Action::SwitchState`] with a condition: written.
    Switched,
    /// To [`Action::SwitchState`] with a condition: not written; the front end's state is this.
    PeerMoved(Option<XenbusState>),
    /// To [`Action::FreeResources`]: nothing of the front end's is mapped any more.
    Freed,
    /// The back end is to stop.
    CloseRequested,
    /// The front end broke the protocol, or the device failed. Also to [`Action::SwitchState`] with a
    /// condition: nothing was written.
    Fatal(String),
    /// The time to close in order is over.
    Abandon,
}

/// What a back end has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write the feature nodes.
    PublishFeatures,
    /// Read the ring's nodes, map the ring, bind the event channel; then say
    /// [`Input::Connected`] or [`Input::ConnectFailed`].
    ReadPeerAndConnect {
        /// An earlier back end was in service on this ring and left without closing: go on where
        /// it was, or fail. The front end has noticed nothing.
        take_over: bool,
    },
    /// Write the own state. The switch to Connected takes the disk's size with it; requests are
    /// taken from the ring only after it.
    SwitchState(SwitchState),
    /// Read the front end's state, after the actions before this one; then say [`Input::Peer`].
    ReadPeer,
    /// The front end's directory is gone, and pages of it are mapped or about to be. What follows
    /// from that comes with the same step; this says why.
    PeerGone,
    /// Take no more requests, unmap everything, unbind; then say [`Input::Freed`].
    FreeResources,
    /// Write the error node.
    ReportError(String),
    /// The handshake is over; nothing is held. The machine takes no more inputs.
    RemoveDevice,
    /// The input makes no sense here and changes nothing.
    Refuse(&'static str),
}

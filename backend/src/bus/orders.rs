//! What the loop and xenstore's side say to each other.

use crate::link::Offer;
use pv_xenstore::toolstack::DriverBound;
use std::time::Duration;

/// What the loop has to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Features are announced; no front yet.
    Waiting,
    /// Map the ring, bind the channel; then [`Report::Connected`] or [`Report::ConnectFailed`].
    Connect(Offer),
    /// Both sides know: take requests.
    Serve,
    /// Let everything of the front's go; then [`Report::Freed`].
    Free {
        /// The front is still there: what is in flight may be answered first.
        answer_first: bool,
    },
    /// News: the front, or its domain, went away without closing.
    FrontGone(String),
    /// News: the front broke the protocol.
    Fatal(String),
    /// News: the device is closed.
    Closed,
    /// The kernel's own driver has taken the device: nothing follows.
    Taken(DriverBound),
}

/// What the loop has done, or learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// To [`Order::Connect`]: it worked.
    Connected,
    /// To [`Order::Connect`]: it did not, and nothing is left of the attempt.
    ConnectFailed(String),
    /// To [`Order::Free`]: nothing of the front's is mapped any more.
    Freed,
    /// The front broke the ring's rules, or we cannot go on.
    Fatal(String),
    /// Why something takes long, for xenstore; `None`: it is over.
    Explain(Option<String>),
    /// The front's process is gone.
    FrontDied(String),
    /// Close the device and end. After that time, without the front's consent.
    Stop(Duration),
}

//! What a roster learns, and what it has to do.

use super::super::state::XenbusState;
use libgnt::DomId;
use std::time::Duration;

/// How much a roster takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Names from the watched directory down to a device: 2 for `backend/vbd` (front end's domain,
    /// device), 3 for `backend`.
    pub depth: usize,
    /// Devices in all, half made ones too.
    pub devices: usize,
    /// Devices of one front end's domain and one type.
    pub devices_of_one: usize,
    /// Places that are looked at between two turns: what is beyond waits, so that who drives the roster
    /// gets to everything else.
    pub looks: u32,
    /// How long a directory may be half made before that is told.
    pub patience: Duration,
}

impl Limits {
    /// For a directory so far above its devices: 4096 devices, 256 of them a front end's, 64 looks at a
    /// time, 10 s.
    pub fn at_depth(depth: usize) -> Limits {
        Limits {
            depth,
            devices: 4096,
            devices_of_one: 256,
            looks: 64,
            patience: Duration::from_secs(10),
        }
    }
}

/// A back end's directory, whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its state.
    pub state: XenbusState,
    /// The front end's directory.
    pub front: String,
    /// The front end's domain.
    pub front_domid: DomId,
    /// Will it serve again after closing?
    pub online: bool,
}

/// What a look at a place that may be a device has found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// Nothing.
    Gone,
    /// A directory that is no device, or not yet, and why.
    Half(String),
    /// A device.
    Whole(Seen),
}

/// What a roster learns. Places are relative to the watched directory: `""` is that directory itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A watch event at this place, or below it, or, for `""`, anything: a watch was registered (anew),
    /// or events were lost.
    Happened(String),
    /// Who drives it has time again.
    Turn,
    /// To [`Action::List`]: the names in it; `None`: it is not there.
    Listed(String, Option<Vec<String>>),
    /// To [`Action::Look`].
    Looked(String, Found),
    /// The time of [`Roster::deadline`](super::Roster::deadline) has come.
    Late,
}

/// What a roster has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// List the directory; then say [`Input::Listed`].
    List(String),
    /// Read the nodes; then say [`Input::Looked`].
    Look(String),
    /// A device is there that was not.
    Appeared(String, Seen),
    /// It says something else now.
    Changed(String, Seen),
    /// It is there no more. If it was removed and made again between two looks, it appears right after.
    Gone(String),
    /// It has been half made for longer than the patience; why it is no device.
    HalfMade(String, String),
    /// It is not taken on: too many; of all, or of this front end's.
    Refused(String, &'static str),
}

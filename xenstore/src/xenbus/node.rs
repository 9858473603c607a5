//! The store's side of the handshake.

use super::state::{SwitchState, XenbusState};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::steady::Steady;
use crate::value;

/// How a [`switch_state`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// Written.
    Done,
    /// The own directory is gone; nothing was written, so that no leftover is made.
    OwnGone,
    /// The own directory has been made anew ([`SwitchState::from`]); nothing was written.
    Renewed,
    /// The peer's state is no longer what it had to be; nothing was written.
    PeerMoved(Option<XenbusState>),
}

/// The `state` of a directory; `None` if it is gone (or gone from this domain's sight).
///
/// # Errors
/// The connection's.
pub fn read_state(client: &Client, directory: &str) -> Result<Option<XenbusState>> {
    let value = client.read_unless_gone(&format!("{directory}/state"))?;
    Ok(value.map(|value| XenbusState::parse(&value)))
}

/// The back end's `online`: false if the toolstack is taking the device away, or has, or wrote what
/// is no boolean, as Linux' drivers take it.
///
/// # Errors
/// The connection's.
pub fn read_online(client: &Client, back_directory: &str) -> Result<bool> {
    let path = format!("{back_directory}/online");
    let value = client.read_unless_gone(&path)?;
    Ok(value.is_some_and(|value| {
        value::boolean(&value).unwrap_or_else(|| {
            let value = value::shown(&value);
            tracing::debug!(path, value, "no boolean, taken as 0");
            false
        })
    }))
}

/// The two directories of a device, as one end sees them.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The own one.
    pub own: &'a str,
    /// The other end's.
    pub peer: &'a str,
    /// The own node that says where the other end's is (`backend`): if it says something else by now,
    /// the device has been made anew. `None`: not asked.
    pub link: Option<&'a str>,
}

/// Writes `nodes` (names within the own directory) and then `state`, in one transaction, if the own
/// directory is still there, is still the same device's, and the peer is still where it has to be.
///
/// # Errors
/// The connection's.
pub fn switch_state(
    client: &Client,
    ends: Ends<'_>,
    switch: SwitchState,
    nodes: &[(&str, String)],
) -> Result<Switched> {
    let SwitchState {
        to,
        from,
        while_peer,
    } = switch;
    let directory = ends.own;
    let own = format!("{directory}/state");
    client.transaction(|tx| {
        let Some(state) = tx.read_unless_gone(&own)? else {
            return Ok(Switched::OwnGone);
        };
        let is_reset = XenbusState::parse(&state) == XenbusState::Initialising;
        if is_reset && from != XenbusState::Initialising {
            return Ok(Switched::Renewed);
        }
        if let Some(link) = ends.link
            && is_reset
        {
            let peer = tx.read_unless_gone(&format!("{directory}/{link}"))?;
            if peer.is_none_or(|peer| value::trimmed(&peer) != ends.peer.as_bytes()) {
                return Ok(Switched::Renewed);
            }
        }
        if let Some(wanted) = while_peer {
            let state = tx.read_unless_gone(&format!("{}/state", ends.peer))?;
            let state = state.map(|value| XenbusState::parse(&value));
            if state != Some(wanted) {
                return Ok(Switched::PeerMoved(state));
            }
        }
        for (name, value) in nodes {
            tx.write(&format!("{directory}/{name}"), value)?;
        }
        tx.write(&own, to.as_str())?;
        Ok::<_, Error>(Switched::Done)
    })
}

/// [`switch_state`], tried until it works.
///
/// # Errors
/// As [`Steady::run`].
pub fn switch_state_steadily(
    store: &mut Steady,
    ends: Ends<'_>,
    switch: SwitchState,
    nodes: &[(&str, String)],
) -> Result<Switched> {
    let mut lost = false;
    store.run(|client| {
        // What was lost may be the answer, and not the write.
        if lost && read_state(client, ends.own)? == Some(switch.to) {
            return Ok(Switched::Done);
        }
        let switched = switch_state(client, ends, switch, nodes);
        lost = matches!(
            switched,
            Err(Error::Timeout { .. } | Error::Disconnected { .. } | Error::Io { .. })
        );
        switched
    })
}

//! Taking a device away.

use super::errors::{forget_errors, read_error};
use super::patience::{Action, End, Input, Patience};
use super::place::{DeviceKey, DevicePaths, is_there};
use crate::client::{Client, Transaction, Watch};
use crate::error::{Error, Result};
use crate::xenbus::XenbusState::{self, Closed, Closing, Connected, InitWait, Unknown};
use libgnt::machine::{Machine, monotonic};
use rustix::io::Errno;
use std::time::Duration;

/// How a removal went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What preceded it.
    pub end: End,
    /// The states that front end and back end had reached; `None`: its directory was gone.
    pub states: [Option<XenbusState>; 2],
    /// What the front end reported.
    pub front_error: Option<String>,
    /// What the back end reported.
    pub back_error: Option<String>,
    /// libxl's hotplug script of this device, which set up something that is not in xenstore, and was
    /// not run to take it down.
    pub hotplug_script: Option<String>,
}

/// Removes a device: asks both ends to close (`online` = 0, the back end's `state` = 5), waits until
/// they have or the time is over, and removes both directories, the toolstacks' records of the
/// device, and the parents that only held them. An end that never connected is not waited for, nor a
/// front end for long whose back end is closed. dom0 only; who may not remove everything changes
/// nothing.
///
/// # Errors
/// [`Error::Invalid`] if there is no such device, or for another domain; the connection's.
pub fn remove(
    client: &Client,
    device: &DeviceKey,
    paths: &DevicePaths,
    timeout: Duration,
) -> Result<Removed> {
    let deadline = monotonic().saturating_add(timeout);
    let DevicePaths { front, back } = paths;
    if !is_there(client, front)? && !is_there(client, back)? {
        return Err(Error::Invalid(format!(
            "{device} cannot be removed: there is neither {front} nor {back}"
        )));
    }
    rehearse(client, device, paths)?;
    let script = client.try_read(&format!("{}/script", device.libxl_record()))?;
    let before = match client.transaction(|tx| ask_to_close(tx, back)) {
        // A back end that keeps writing its nodes is asked all the same, and may be in use.
        Err(Error::Conflict { .. }) => {
            client.write(&format!("{back}/online"), "0")?;
            client.write(&format!("{back}/state"), Closing.as_str())?;
            Some(Connected)
        }
        before => before?,
    };

    let nodes = [format!("{front}/state"), format!("{back}/state")];
    let watch = client.watching_all(&nodes)?;
    let (end, states) = wait_closed(client, &nodes, &watch, Patience::new(before, deadline))?;
    drop(watch);

    let front_error = read_error(client, front)?;
    let back_error = read_error(client, back)?;
    remove_nodes(client, device, paths)?;
    Ok(Removed {
        end,
        states,
        front_error,
        back_error,
        hotplug_script: script.map(|script| String::from_utf8_lossy(&script).into_owned()),
    })
}

/// Removes a device's directories, the records of it and what its ends reported, without a word to
/// either end. dom0 only.
///
/// # Errors
/// EACCES, and the connection's.
pub fn remove_nodes(client: &Client, device: &DeviceKey, paths: &DevicePaths) -> Result<()> {
    let together = || client.transaction(|tx| remove_nodes_in(tx, device, paths));
    match together() {
        // A guest that keeps writing its own nodes is in the way of every transaction. It cannot
        // write in a directory that is gone.
        Err(Error::Conflict { .. }) => {
            for directory in [&paths.front, &paths.back] {
                match client.rm(directory) {
                    Err(error) if is_missing(&error) => {}
                    other => other?,
                }
            }
            together()?;
        }
        other => other?,
    }
    forget_errors(client, paths)
}

fn remove_nodes_in(tx: &Transaction<'_>, device: &DeviceKey, paths: &DevicePaths) -> Result<()> {
    let DevicePaths { front, back } = paths;
    // What a domain's creator made for all its devices stays.
    tx.remove_tree(front, &format!("{}/device", home_of(front)))?;
    tx.remove_tree(back, home_of(back))?;
    tx.remove_tree(&device.own_record(), "/")?;
    let libxl = device.libxl_record();
    let devices = format!("/libxl/{}/device", device.front_domid.0);
    tx.remove_tree(&libxl, &devices)
}

/// Tries the removal in a transaction that is dropped: a refusal comes before anything has changed.
fn rehearse(client: &Client, device: &DeviceKey, paths: &DevicePaths) -> Result<()> {
    let mut allowed = false;
    let dropped = client.transaction(|tx| {
        remove_nodes_in(tx, device, paths)?;
        allowed = true;
        Err::<(), _>(Error::Invalid("only tried".into()))
    });
    match dropped {
        _ if allowed => Ok(()),
        Err(error) if matches!(error.errno(), Some(Errno::ACCESS | Errno::PERM)) => {
            Err(Error::Invalid(format!(
                "{device} can be removed by dom0 only, and nothing has changed: {error}"
            )))
        }
        other => other,
    }
}

/// The state that the back end was in before anybody asked it.
fn ask_to_close(tx: &Transaction<'_>, back: &str) -> Result<Option<XenbusState>> {
    if !tx.exists(back)? {
        return Ok(None);
    }
    tx.write(&format!("{back}/online"), "0")?;
    let node = format!("{back}/state");
    let before = tx.try_read(&node)?;
    let before = before.map_or(Unknown, |value| XenbusState::parse(&value));
    if before == Closing && !tx.exists(&format!("{back}/sectors"))? {
        // Somebody has tried to remove it before, and the back end had not connected by then: it
        // would have told the disk's size.
        return Ok(Some(InitWait));
    }
    if before != Closed {
        tx.write(&node, Closing.as_str())?;
    }
    Ok(Some(before))
}

fn wait_closed(
    client: &Client,
    nodes: &[String; 2],
    watch: &Watch,
    mut patience: Patience,
) -> Result<(End, Input)> {
    loop {
        let mut states = [None; 2];
        for (state, node) in states.iter_mut().zip(nodes) {
            *state = client
                .try_read(node)?
                .map(|value| XenbusState::parse(&value));
        }
        let now = monotonic();
        let mut actions = Vec::new();
        patience.step(now, states, &mut actions);
        for action in actions {
            match action {
                Action::Over(end) => return Ok((end, states)),
                Action::WaitUntil(until) => match watch.next(until.saturating_sub(now)) {
                    Ok(_) | Err(Error::EventsLost { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }
}

/// `/local/domain/N` of a path in it.
fn home_of(path: &str) -> &str {
    match path.match_indices('/').nth(3) {
        Some((end, _)) => &path[..end],
        None => path,
    }
}

fn is_missing(error: &Error) -> bool {
    error.errno() == Some(Errno::NOENT)
}

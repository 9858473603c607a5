//! Taking a device away.

use super::errors::forget_errors;
use super::place::is_there;
use super::{DeviceKey, DevicePaths, read_error};
use crate::client::{Client, Transaction};
use crate::error::{Error, Result};
use crate::xenbus::XenbusState::{
    self, Closed, Closing, Connected, InitWait, Initialising, Unknown,
};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long an end may take to say that it is closed when there is nothing left to close with the
/// other: a process needs milliseconds, and a dead one will never do it. Neither will Linux' back end
/// to which no front end came: it waits for that.
const ALONE: Duration = Duration::from_secs(2);

/// What preceded the removal of a device's directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both ends were closed, as far as they were there.
    Closed,
    /// No front end had connected, so there was nothing to close; the back end, if one ran, did not
    /// say that it is closed.
    Unused,
    /// The back end was closed, which is all that libxl waits for: it holds nothing of the front end's
    /// any more. The front end did not say that it is; its process may be dead.
    BackClosed,
    /// The deadline. The directories were taken away from under ends that may be connected.
    Forced,
}

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
    let deadline = Instant::now() + timeout;
    let DevicePaths { front, back } = paths;
    if !is_there(client, front)? && !is_there(client, back)? {
        return Err(Error::Invalid(format!(
            "{device} cannot be removed: there is neither {front} nor {back}"
        )));
    }
    rehearse(client, device, paths)?;
    let script = client.try_read(&format!("{}/script", device.libxl_record()))?;
    let before = client.transaction(|tx| ask_to_close(tx, back))?;

    let nodes = [format!("{front}/state"), format!("{back}/state")];
    let token = format!("remove-{:016x}", fastrand::u64(..));
    for node in &nodes {
        client.watch(node, &token)?;
    }
    let waited = wait_closed(client, &nodes, &token, Patience::new(before, deadline));
    for node in &nodes {
        client.unwatch(node, &token)?;
    }
    client.drop_events(&token);
    let (end, states) = waited?;

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
    remove_with_parents(tx, front, &format!("{}/device", home_of(front)))?;
    remove_with_parents(tx, back, home_of(back))?;
    remove_with_parents(tx, &device.own_record(), "/")?;
    let libxl = device.libxl_record();
    let devices = format!("/libxl/{}/device", device.front_domid.0);
    remove_with_parents(tx, &libxl, &devices)
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

type States = [Option<XenbusState>; 2];

fn wait_closed(
    client: &Client,
    nodes: &[String; 2],
    token: &str,
    mut patience: Patience,
) -> Result<(End, States)> {
    loop {
        let mut states = [None; 2];
        for (state, node) in states.iter_mut().zip(nodes) {
            *state = client
                .try_read(node)?
                .map(|value| XenbusState::parse(&value));
        }
        let now = Instant::now();
        match patience.judge(states, now) {
            Step::Over(end) => return Ok((end, states)),
            Step::WaitUntil(until) => {
                client.wait_token(token, until.saturating_duration_since(now))?;
            }
        }
    }
}

/// How long the two ends are waited for, given what they do.
struct Patience {
    deadline: Instant,
    /// How long the back end may take when no front end is in the way; `None`: up to the deadline,
    /// for it has served one.
    unused: Option<Duration>,
    /// How it will end if an end that is alone stays silent, and since when that is so.
    alone: Option<(End, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Over(End),
    WaitUntil(Instant),
}

impl Patience {
    /// `before` is what the back end's state was before it was asked to close.
    fn new(before: Option<XenbusState>, deadline: Instant) -> Patience {
        Patience {
            deadline,
            unused: match before {
                // The toolstack's own value: no back end has ever run.
                Some(Initialising | Unknown) => Some(Duration::ZERO),
                Some(InitWait) => Some(ALONE),
                _ => None,
            },
            alone: None,
        }
    }

    fn judge(&mut self, [front, back]: States, now: Instant) -> Step {
        // A front end in these has no connection.
        let front_is_out = matches!(front, None | Some(Initialising | InitWait | Closed));
        let back_is_out = matches!(back, None | Some(Closed));
        let alone = match (front_is_out, back_is_out) {
            (true, true) => return Step::Over(End::Closed),
            (false, true) => Some((End::BackClosed, ALONE)),
            // A front end may have come just before the back end was asked to close.
            (true, false) if back != Some(Connected) => self.unused.map(|time| (End::Unused, time)),
            _ => None,
        };
        let (end, until) = match alone {
            Some((end, time)) => {
                let (_, since) = self
                    .alone
                    .filter(|(before, _)| *before == end)
                    .unwrap_or((end, now));
                self.alone = Some((end, since));
                (end, self.deadline.min(since + time))
            }
            None => {
                self.alone = None;
                (End::Forced, self.deadline)
            }
        };
        if now < until {
            Step::WaitUntil(until)
        } else {
            Step::Over(end)
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

/// Removes a directory, and those above it, below `keep`, that this leaves empty.
fn remove_with_parents(tx: &Transaction<'_>, path: &str, keep: &str) -> Result<()> {
    let mut path = path;
    loop {
        match tx.rm(path) {
            // It went together with what is above it, with its domain say.
            Err(error) if is_missing(&error) => return Ok(()),
            other => other?,
        }
        let Some((parent, _)) = path.rsplit_once('/') else {
            return Ok(());
        };
        if parent.len() <= keep.len() || !tx.directory(parent)?.is_empty() {
            return Ok(());
        }
        path = parent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xenbus::XenbusState::Initialised;

    const DEADLINE: Duration = Duration::from_secs(100);

    #[test]
    fn who_is_waited_for_and_how_long() {
        let start = Instant::now();
        let wait = |seconds| Step::WaitUntil(start + Duration::from_secs(seconds));
        let (all, grace) = (DEADLINE.as_secs(), ALONE.as_secs());
        // The back end before it was asked to close, both now, and what follows.
        for (before, front, back, step) in [
            (
                Some(Connected),
                Some(Closed),
                Some(Closed),
                Step::Over(End::Closed),
            ),
            (Some(Connected), None, Some(Closed), Step::Over(End::Closed)),
            (Some(Connected), Some(Closed), None, Step::Over(End::Closed)),
            (Some(Connected), Some(Connected), Some(Closing), wait(all)),
            // It may still hold what it had mapped.
            (Some(Connected), Some(Closed), Some(Closing), wait(all)),
            (Some(Connected), None, Some(Closing), wait(all)),
            (Some(Closing), Some(Initialising), Some(Closing), wait(all)),
            (
                Some(Closed),
                Some(Initialising),
                Some(Closed),
                Step::Over(End::Closed),
            ),
            // A back end offers the device, and may say that it is closed.
            (
                Some(InitWait),
                Some(Initialising),
                Some(Closing),
                wait(grace),
            ),
            (Some(InitWait), None, Some(Closing), wait(grace)),
            (
                Some(InitWait),
                Some(Closed),
                Some(Closed),
                Step::Over(End::Closed),
            ),
            // A front end has begun to connect.
            (Some(InitWait), Some(Initialised), Some(Closing), wait(all)),
            (
                Some(InitWait),
                Some(Initialising),
                Some(Connected),
                wait(all),
            ),
            (
                Some(Initialising),
                Some(Initialised),
                Some(Closing),
                wait(all),
            ),
            (Some(Initialising), Some(Unknown), Some(Closing), wait(all)),
            // No back end has ever run.
            (
                Some(Initialising),
                Some(Initialising),
                Some(Closing),
                Step::Over(End::Unused),
            ),
            (None, Some(Initialising), None, Step::Over(End::Closed)),
            // The back end is closed, or gone: the front end may say that it is, too.
            (None, Some(Connected), None, wait(grace)),
            (Some(Connected), Some(Connected), Some(Closed), wait(grace)),
            (Some(Closed), Some(Initialised), Some(Closed), wait(grace)),
        ] {
            let mut patience = Patience::new(before, start + DEADLINE);
            assert_eq!(
                patience.judge([front, back], start),
                step,
                "{before:?} {front:?} {back:?}"
            );
        }
    }

    #[test]
    fn a_front_end_that_comes_late_is_waited_for_and_its_back_end_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Some(InitWait), at(100));
        let out = [Some(Initialising), Some(Closing)];
        let come = [Some(Initialised), Some(Closing)];
        let left = [Some(Closed), Some(Closing)];
        assert_eq!(patience.judge(out, start), Step::WaitUntil(start + ALONE));
        assert_eq!(patience.judge(come, at(1)), Step::WaitUntil(at(100)));
        assert_eq!(patience.judge(come, at(50)), Step::WaitUntil(at(100)));
        assert_eq!(
            patience.judge(left, at(60)),
            Step::WaitUntil(at(60) + ALONE)
        );
        assert_eq!(patience.judge(left, at(63)), Step::Over(End::Unused));
        assert_eq!(patience.judge(come, at(101)), Step::Over(End::Forced));
    }

    #[test]
    fn a_front_end_that_stays_silent_is_left_when_its_back_end_is_closed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Some(Connected), at(100));
        let [serving, closed] = [Closing, Closed].map(|back| [Some(Connected), Some(back)]);
        assert_eq!(patience.judge(serving, start), Step::WaitUntil(at(100)));
        assert_eq!(
            patience.judge(closed, at(50)),
            Step::WaitUntil(at(50) + ALONE)
        );
        // As if it was opened again: it starts anew.
        assert_eq!(patience.judge(serving, at(51)), Step::WaitUntil(at(100)));
        assert_eq!(
            patience.judge(closed, at(60)),
            Step::WaitUntil(at(60) + ALONE)
        );
        assert_eq!(patience.judge(closed, at(63)), Step::Over(End::BackClosed));
    }
}

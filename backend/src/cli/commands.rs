//! What a toolstack does, and a look at the result.

use super::{AttachArgs, DetachArgs, DeviceArgs, Failure};
use libgnt::{DomId, Platform};
use pv_xenstore::toolstack::{BlockDevice, Mode, read_error};
use pv_xenstore::xenbus::XenbusState;
use pv_xenstore::xenbus::node::read_state;
use pv_xenstore::{Client, Error};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// A device, and a connection to look at it. The platform stays open as long as the connection.
struct At {
    client: Client,
    device: BlockDevice,
    _platform: Arc<dyn Platform>,
}

impl DeviceArgs {
    fn open(&self) -> Result<At, Failure> {
        let platform = self.platform.open("pv-backend")?;
        let client = Client::connect(&*platform).map_err(Failure::environment)?;
        let back = match self.back {
            Some(back) => back,
            None => client.read_parsed("domid").map_err(Failure::environment)?,
        };
        let device = BlockDevice::new(DomId(self.front), DomId(back), self.device, "");
        Ok(At {
            client,
            device,
            _platform: platform,
        })
    }
}

/// What is not there, or not allowed, is the environment's; the rest failed at work.
fn failure(error: Error) -> Failure {
    match error {
        Error::Invalid(_) | Error::Refused { .. } => Failure::environment(error),
        other => Failure::at_work(other),
    }
}

fn say(text: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_fmt(text)
        .and_then(|()| out.flush())
        .map_err(|e| Failure::at_work(format!("cannot write to standard output: {e}")))
}

pub(super) fn attach(args: &AttachArgs) -> Result<(), Failure> {
    let At {
        client,
        mut device,
        _platform,
    } = args.device.open()?;
    if args.read_only {
        device.mode = Mode::ReadOnly;
    }
    let paths = device.create(&client).map_err(failure)?;
    say(format_args!(
        "front end: {}\nback end:  {}\n",
        paths.front, paths.back
    ))
}

pub(super) fn detach(args: &DetachArgs) -> Result<(), Failure> {
    let At {
        client,
        device,
        _platform,
    } = args.device.open()?;
    let deadline = Duration::from_secs(args.deadline);
    let removed = device.remove(&client, deadline).map_err(failure)?;
    if removed.closed {
        return say(format_args!(
            "device {} is closed and removed\n",
            device.devid
        ));
    }
    let [front, back] = removed.states.map(state_text);
    let mut text = format!(
        "device {} did not close within {deadline:?} and was removed all the same: \
         front end {front}, back end {back}",
        device.devid
    );
    for (who, error) in [("front", removed.front_error), ("back", removed.back_error)] {
        if let Some(error) = error {
            text += &format!("; {who} end's last error: {error}");
        }
    }
    Err(Failure::at_work(text))
}

pub(super) fn status(args: &DeviceArgs) -> Result<(), Failure> {
    let At {
        client,
        device,
        _platform,
    } = args.open()?;
    let paths = device.paths();
    let back_state = read_state(&client, &paths.back).map_err(failure)?;
    let front_state = read_state(&client, &paths.front).map_err(failure)?;
    if back_state.is_none() && front_state.is_none() {
        return Err(Failure::environment(format!(
            "device {} of {} is not in xenstore: neither {} nor {} is there; create it with `pv-backend attach`",
            device.devid, device.front_domid, paths.front, paths.back
        )));
    }
    let mut text = String::new();
    for (who, path, state) in [
        ("front", &paths.front, front_state),
        ("back", &paths.back, back_state),
    ] {
        text += &format!("{who} end: {} at {path}\n", state_text(state));
        if let Some(error) = read_error(&client, path).map_err(failure)? {
            text += &format!("  last error: {error}\n");
        }
    }
    let node = |name: &str| client.try_read_parsed::<u64>(&format!("{}/{name}", paths.back));
    if let Some(sectors) = node("sectors").map_err(failure)? {
        let access = match node("info").map_err(failure)? {
            Some(info) if info & 4 != 0 => "read-only",
            _ => "writable",
        };
        text += &format!("disk: {sectors} sectors of 512 bytes, {access}\n");
    }
    say(format_args!("{text}"))
}

fn state_text(state: Option<XenbusState>) -> String {
    state.map_or_else(|| "not there".into(), |state| state.to_string())
}

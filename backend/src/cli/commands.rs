//! What a toolstack does, and a look at the result.

use super::args::{AttachArgs, DetachArgs, DeviceArgs};
use super::cure;
use libgnt::proto::blkif::nodes;
use libgnt::{DomId, Platform};
use pv_program::Failure;
use pv_xenstore::toolstack::{BlockDevice, DeviceKey, End, Mode, Removed, read_error, remove};
use pv_xenstore::xenbus::XenbusState;
use pv_xenstore::xenbus::node::read_state;
use pv_xenstore::{Client, Error};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// A device, and a connection to look at it. The platform stays open as long as the connection.
struct At {
    client: Client,
    device: DeviceKey,
    _platform: Arc<dyn Platform>,
}

impl DeviceArgs {
    fn open(&self) -> Result<At, Failure> {
        let platform = self.platform.open("pv-backend")?;
        let client = Client::connect(&*platform).map_err(Failure::environment)?;
        Ok(At {
            client,
            device: DeviceKey::new(DomId(self.front), self.class.clone(), self.device),
            _platform: platform,
        })
    }
}

/// What is not there, or not allowed, is the environment's; the rest failed at work.
fn failure(error: Error) -> Failure {
    match error {
        Error::Device { trouble, .. } => {
            Failure::environment(format!("{error}{}", cure::of_device(trouble)))
        }
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
        device,
        _platform,
    } = args.device.open()?;
    let back = match args.device.back {
        Some(back) => back,
        None => client.read_parsed("domid").map_err(Failure::environment)?,
    };
    let mut block = BlockDevice::new(device.front_domid, DomId(back), device.devid, "");
    block.class = device.class;
    block.mode = match args.read_only {
        true => Mode::ReadOnly,
        false => Mode::ReadWrite,
    };
    let paths = block.create(&client).map_err(failure)?;
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
    let back = args.device.back.map(DomId);
    let paths = device.locate(&client, back).map_err(failure)?;
    let deadline = Duration::from_secs(args.deadline);
    let removed = remove(&client, &device, &paths, deadline).map_err(failure)?;
    let text = told(&device, &removed, deadline);
    if removed.end == End::Forced {
        return Err(Failure::at_work(text));
    }
    say(format_args!("{text}\n"))
}

/// What became of a device, in words.
fn told(device: &DeviceKey, removed: &Removed, deadline: Duration) -> String {
    let Removed { end, states, .. } = removed;
    let mut text = match (end, states) {
        (End::Closed, [Some(_), Some(_)]) => format!("{device} is closed and removed"),
        (End::Closed, [None, None]) => {
            format!("{device} is gone: somebody else removed it meanwhile")
        }
        (End::Closed, [None, _]) => format!(
            "the back end's half of {device} is closed and removed; the front end's was gone already"
        ),
        (End::Closed, [_, None]) => format!(
            "the front end's half of {device} is closed and removed; the back end's was gone already"
        ),
        (End::BackClosed, [front, None]) => format!(
            "the front end's half of {device} is removed; it was {}, and the back end's was gone already",
            state_text(*front)
        ),
        (End::BackClosed, [front, _]) => format!(
            "{device} is removed; its back end had closed, and its front end, whose process may be dead, was {}",
            state_text(*front)
        ),
        (End::Unused, _) => format!("{device} is removed; no front end had connected"),
        (End::Forced, _) => {
            let [front, back] = states.map(state_text);
            format!(
                "{device} did not close within {deadline:?}, and its nodes were removed all the same: \
                 front end {front}, back end {back}"
            )
        }
    };
    if *end == End::Forced {
        for (who, error) in [
            ("front", &removed.front_error),
            ("back", &removed.back_error),
        ] {
            if let Some(error) = error {
                text += &format!("; {who} end's last error: {error}");
            }
        }
    }
    if let Some(script) = &removed.hotplug_script {
        text += &format!(
            "; xl made it with the hotplug script {script}, which was not run: what that had set up \
             (a loop device, say) stays. `xl block-detach` would have run it"
        );
    }
    text
}

pub(super) fn status(args: &DeviceArgs) -> Result<(), Failure> {
    let At {
        client,
        device,
        _platform,
    } = args.open()?;
    let paths = device
        .locate(&client, args.back.map(DomId))
        .map_err(failure)?;
    let back_state = read_state(&client, &paths.back).map_err(failure)?;
    let front_state = read_state(&client, &paths.front).map_err(failure)?;
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
    if let Some(sectors) = node(nodes::SECTORS).map_err(failure)? {
        let access = match node(nodes::INFO).map_err(failure)? {
            Some(info) if info & u64::from(nodes::vdisk::READONLY) != 0 => "read-only",
            _ => "writable",
        };
        text += &format!("disk: {sectors} sectors of 512 bytes, {access}\n");
    }
    say(format_args!("{text}"))
}

fn state_text(state: Option<XenbusState>) -> String {
    state.map_or_else(|| "not there".into(), |state| state.to_string())
}

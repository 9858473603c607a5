//! What can be written on the command line.

use super::values;
use crate::config::Mode;
use crate::disk::pool;
use crate::machine::{DEFAULT_CACHE, DEFAULT_MAX_ZOMBIES};
use clap::{Args, Parser, Subcommand};
use libgnt::{DomId, Platform, PlatformChoice};
use pv_program::Failure;
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  Create xvda of domain 1, served from dom0, and serve it (Xen, as root):
    pv-backend attach --front 1 --device xvda
    pv-backend serve --front 1 --device xvda --image disk.img

  The same on a simulated Xen that `pv-stress sim --dir /tmp/xen` serves:
    pv-backend attach --platform sim:/tmp/xen --front 1 --device xvda
    pv-backend serve --platform sim:/tmp/xen --front 1 --device xvda --memory 64M

Exit status: 0 done, 1 failed while at work, 2 wrong usage or environment.";

#[derive(Debug, Parser)]
#[command(name = "pv-backend", about = "A Xen block back end in userspace", after_help = EXAMPLES)]
pub(super) struct Cli {
    /// What to log on standard error: error, warn, info, debug, trace, or a filter of `tracing`.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub(super) log: String,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The whole command line, for whoever holds documents against it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve a device until it is removed, or until Ctrl-C.
    ///
    /// The device must be in xenstore: `attach` puts it there, as a toolstack does. Ctrl-C or
    /// SIGTERM closes the device; a second one ends the process at once. After a crash, or SIGKILL,
    /// start it again: it takes over the ring of a front end that waits.
    #[command(after_help = EXAMPLES)]
    Serve(ServeArgs),
    /// Create a device in xenstore, as a toolstack does.
    Attach(AttachArgs),
    /// Remove a device: ask both ends to close it, then remove its nodes.
    ///
    /// Where its back end is, the toolstack's record says: what `attach` left in /pvpair, or what xl
    /// left in /libxl. An end that never connected is not waited for.
    Detach(DetachArgs),
    /// Show what xenstore says about a device.
    Status(DeviceArgs),
}

#[derive(Debug, Args)]
pub(super) struct PlatformArgs {
    /// `linux` for the real /dev/xen, or `sim:DIR` for the simulated Xen that serves DIR.
    #[arg(long, default_value = "linux", value_name = "linux|sim:DIR")]
    pub(super) platform: PlatformChoice,
    /// The domain that this process belongs to (simulated Xen only; a real one knows).
    #[arg(long, default_value_t = 0, value_name = "DOMID")]
    pub(super) domain: u16,
}

#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    #[command(flatten)]
    pub(super) platform: PlatformArgs,
    /// The front end's domain.
    #[arg(long, value_name = "DOMID")]
    pub(super) front: u16,
    /// The device: a name like xvda, or a number like 51712.
    #[arg(long, default_value = "xvda", value_name = "NAME|NUMBER")]
    pub(super) device: DeviceId,
    /// The device's class. In one of its own, such as pvstress, no kernel's driver takes the device.
    #[arg(long, default_value_t = DeviceClass::VBD, value_name = "NAME")]
    pub(super) class: DeviceClass,
    /// The back end's domain. Default: for `attach` the one this runs in, else what the toolstack's
    /// records say.
    #[arg(long, value_name = "DOMID")]
    pub(super) back: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) platform: PlatformArgs,
    /// The front end's domain.
    #[arg(long, value_name = "DOMID")]
    pub(super) front: u16,
    /// The device: a name like xvda, or a number like 51712.
    #[arg(long, default_value = "xvda", value_name = "NAME|NUMBER")]
    pub(super) device: DeviceId,
    /// The device's class, as it was attached.
    #[arg(long, default_value_t = DeviceClass::VBD, value_name = "NAME")]
    pub(super) class: DeviceClass,
    #[command(flatten)]
    pub(super) backing: BackingArgs,
    /// Refuse writes, as for a device that the toolstack has made read-only (`mode` in xenstore). The
    /// image is then opened for reading only, and may be shared with readers.
    #[arg(long)]
    pub(super) read_only: bool,
    /// How data travels: persistent grants if the front has them, else a map for each request
    /// (auto); a map for each request; grant copy; persistent grants.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(super) mode: Mode,
    /// Unmaps that may be outstanding before no more requests are taken.
    #[arg(long, default_value_t = DEFAULT_MAX_ZOMBIES, value_name = "N",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(super) max_zombies: usize,
    /// Persistent grants to keep mapped.
    #[arg(long, default_value_t = DEFAULT_CACHE, value_name = "N",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(352..=4096))]
    pub(super) cache: usize,
    /// Threads for an image's I/O.
    #[arg(long, default_value_t = pool::DEFAULT_THREADS, value_name = "N",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub(super) disk_threads: usize,
    /// How long to poll for more requests before sleeping, in microseconds; 0 never polls.
    #[arg(long, default_value_t = 50, value_name = "MICROSECONDS",
          value_parser = clap::value_parser!(u64).range(..=10_000))]
    pub(super) spin: u64,
    /// How long the front end may take to close after Ctrl-C or SIGTERM; then it is left alone.
    #[arg(long, default_value = "0.5", value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) close_deadline: Duration,
    /// At Ctrl-C or SIGTERM leave a ring in service as it is, for the next back end to go on with: for
    /// an upgrade, or `systemctl restart`. The guest notices a pause. Until somebody serves the
    /// device again, its requests wait.
    #[arg(long, conflicts_with = "memory")]
    pub(super) hand_over: bool,
    /// Where the device is claimed, and requests in flight are recorded, so that a back end that is
    /// started again after a crash goes on where this one was. All back ends of a domain must have
    /// the same: in a container, mount the host's. Default: /run.
    #[arg(long, value_name = "DIR")]
    pub(super) run_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct BackingArgs {
    /// A regular file or a block device.
    #[arg(long, value_name = "FILE")]
    pub(super) image: Option<PathBuf>,
    /// Memory of this process instead, gone with it: 64M, 1G.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) memory: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Create a read-only device: `serve` refuses its writes.
    #[arg(long)]
    pub(super) read_only: bool,
}

#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// How long the ends may take to close, in seconds. After it the nodes are removed all the same.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub(super) deadline: u64,
}

impl PlatformArgs {
    pub(super) fn open(&self, process: &str) -> Result<Arc<dyn Platform>, Failure> {
        libgnt::open(&self.platform, Some(DomId(self.domain)), process)
            .map_err(|error| error.with_cure("`pv-stress sim --dir DIR` starts a simulated Xen"))
            .map_err(Failure::environment)
    }
}

//! How a back end is set up.

use crate::disk::{Backing, pool};
use crate::lend::PageLender;
use crate::machine::{BackSabotage, DEFAULT_CACHE, DEFAULT_MAX_ZOMBIES};
use crate::observe::BackEventKind;
use libgnt::observe::Observer;
use libgnt::stop::Stop;
use libgnt::{DomId, Platform};
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// [`BackConfig::close`], unless another is asked for: whoever ends a program does not wait a second,
/// whatever is stuck.
pub const DEFAULT_CLOSE: Duration = Duration::from_millis(500);

/// Which ways of moving data a front may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Mode {
    /// Persistent grants if the front has them, else a map for each request.
    #[default]
    Auto,
    /// A map and an unmap for each request.
    Map,
    /// Grant copy.
    Copy,
    /// As `auto`, and a word in the log if the front does not want it.
    Persistent,
}

/// What a back end is opened with: one device. Made by [`BackConfig::new`], and changed by its fields.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackConfig {
    /// The domain's view of Xen.
    pub platform: Arc<dyn Platform>,
    /// Whose device.
    pub front: DomId,
    /// Its number; 51712 is xvda.
    pub device: DeviceId,
    /// Its class: `vbd`, unless it was created in another.
    pub class: DeviceClass,
    /// Where this kernel shows which of its own drivers have taken devices; `None`: `/sys` on the
    /// platform `linux`, nowhere on others.
    pub sysfs: Option<PathBuf>,
    /// Where the sectors are.
    pub backing: Backing,
    /// Refuse writes, whatever the device's node `mode` says. If that says read-only, they are refused
    /// in any case.
    pub read_only: bool,
    /// How data travels.
    pub mode: Mode,
    /// Unmaps that may be outstanding before no more requests are taken.
    pub max_zombies: usize,
    /// Persistent grants to keep mapped; at least 352, a full ring's.
    pub cache: usize,
    /// Threads for a file's I/O.
    pub disk_threads: usize,
    /// How long to look for more work before sleeping, at most. Zero: never.
    pub spin: Duration,
    /// How long the front may take to close when the back end is stopped; then it is left alone.
    pub close: Duration,
    /// When the back end is stopped, leave a ring in service as it is, for the next back end to go on
    /// with: the front notices nothing but a pause. Not for a disk in memory.
    pub hand_over: bool,
    /// Where the device is claimed, and requests in flight are recorded; [`Platform::run_dir`] if it is
    /// not given. All back ends of a domain must have the same.
    ///
    /// [`Platform::run_dir`]: libgnt::Platform::run_dir
    pub run_dir: Option<PathBuf>,
    /// Ends the back end from anywhere: the device closes, and [`Backend::run`](crate::Backend::run)
    /// returns.
    pub stop: Stop,
    /// Who is told what happens.
    pub observer: Option<Box<dyn Observer<BackEventKind>>>,
    /// Who is lent pages.
    pub lender: Option<Box<dyn PageLender>>,
    #[doc(hidden)]
    pub sabotage: BackSabotage,
}

impl BackConfig {
    /// The usual configuration of a device of a front end's domain.
    pub fn new(
        platform: Arc<dyn Platform>,
        front: DomId,
        device: DeviceId,
        backing: Backing,
    ) -> Self {
        BackConfig {
            platform,
            front,
            device,
            class: DeviceClass::VBD,
            sysfs: None,
            backing,
            read_only: false,
            mode: Mode::Auto,
            max_zombies: DEFAULT_MAX_ZOMBIES,
            cache: DEFAULT_CACHE,
            disk_threads: pool::DEFAULT_THREADS,
            spin: Duration::from_micros(50),
            close: DEFAULT_CLOSE,
            hand_over: false,
            run_dir: None,
            stop: Stop::new(),
            observer: None,
            lender: None,
            sabotage: BackSabotage::None,
        }
    }
}

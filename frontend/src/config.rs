//! How a front end is set up.

use crate::observe::Observer;
use libgnt::Platform;
use libgnt::grant::Ledger;
use libgnt::proto::blkif::MAX_SEGMENTS;
use libgnt::stop::Stop;
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// [`FrontConfig::close`], unless another is asked for: whoever ends a program does not wait a
/// second, whatever is stuck.
pub const DEFAULT_CLOSE: Duration = Duration::from_millis(600);
/// As good as for ever, and small enough to be added to any clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What a front end is opened with: made by [`FrontConfig::new`], and changed field by field.
#[derive(Debug)]
#[non_exhaustive]
pub struct FrontConfig {
    /// The domain's view of Xen.
    pub platform: Arc<dyn Platform>,
    /// The device.
    pub device: DeviceId,
    /// Its class: `vbd`, unless the toolstack created it in another.
    pub class: DeviceClass,
    /// Where this kernel shows which of its own drivers have taken devices; `None`: `/sys` on the
    /// platform `linux`, nowhere on others.
    pub sysfs: Option<PathBuf>,
    /// Ask for persistent grants: pages stay mapped between requests, which saves two hypercalls
    /// a request and leaves them open to the back end for the device's life. Used if the back end
    /// offers them by the time it is connected.
    pub persistent: bool,
    /// Pages granted for data. All are writable if persistent grants are asked for; else one half
    /// is for reads, granted writable, the other for writes, granted read-only.
    pub pool_pages: usize,
    /// I/Os accepted and not completed.
    pub queue: usize,
    /// How long one I/O may take.
    pub deadline: Duration,
    /// How long to wait for a back end to connect, at first and after it went.
    pub reconnect: Duration,
    /// How long a close may take in all: what is under way, and the back end's own close.
    pub close: Duration,
    /// Ask the platform at each response whether the pages are really unmapped, where it can say
    /// (the simulated Xen): a call to the host for each request, for tests.
    pub verify_release: bool,
    /// Longest busy wait for a response before sleeping; zero never spins.
    pub spin: Duration,
    /// Ends the front end from anywhere: an open gives up, every pending I/O ends with an error, and
    /// a [`Disk`](crate::Disk) closes by itself; a [`Frontend`](crate::Frontend) is to be closed.
    pub stop: Stop,
    /// Who is told what happens.
    pub observer: Option<Box<dyn Observer>>,
    /// Counts what is granted.
    pub ledger: Ledger,
}

impl FrontConfig {
    /// The usual configuration of a device.
    pub fn new(platform: Arc<dyn Platform>, device: DeviceId) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        FrontConfig {
            platform,
            device,
            class: DeviceClass::VBD,
            sysfs: None,
            persistent: false,
            pool_pages: 32 * MAX_SEGMENTS,
            queue: 256,
            deadline: Duration::from_secs(30),
            reconnect: Duration::from_secs(30),
            close: DEFAULT_CLOSE,
            verify_release: false,
            // On one core a busy wait only keeps the back end from answering.
            spin: if cores > 1 {
                Duration::from_micros(100)
            } else {
                Duration::ZERO
            },
            stop: Stop::new(),
            observer: None,
            ledger: Ledger::new(),
        }
    }

    /// The same, with no time so long that a clock overflows.
    pub(crate) fn with_times_in_bounds(mut self) -> Self {
        for time in [
            &mut self.deadline,
            &mut self.reconnect,
            &mut self.close,
            &mut self.spin,
        ] {
            *time = (*time).min(LONGEST);
        }
        self
    }
}

/// What people call a device: `xvda`, or its number.
pub(crate) fn name(device: DeviceId) -> String {
    device.name().unwrap_or_else(|| format!("device {device}"))
}

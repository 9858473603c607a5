//! How a front end is set up.

use crate::observe::FrontEventKind;
use libgnt::Platform;
use libgnt::grant::Ledger;
use libgnt::observe::Observer;
use libgnt::proto::blkif::MAX_SEGMENTS;
use libgnt::stop::Stop;
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What [`FrontConfig::new`] sets [`FrontConfig::close`] to: a program that is told to end is over
/// within a second, whatever is stuck.
pub const DEFAULT_CLOSE: Duration = Duration::from_millis(600);
/// As good as for ever, and small enough to be added to any clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What a front end is opened with: made by [`FrontConfig::new`], and changed field by field.
#[derive(Debug)]
#[non_exhaustive]
pub struct FrontConfig {
    /// The domain's view of Xen: its devices and its xenstore.
    pub platform: Arc<dyn Platform>,
    /// The device's number, as the toolstack created it; 51712 is xvda.
    pub device: DeviceId,
    /// Its class: `vbd`, unless the toolstack created it in another.
    pub class: DeviceClass,
    /// Where this kernel shows which of its own drivers have taken devices; `None`: `/sys` on the
    /// platform `linux`, nowhere on others.
    pub sysfs: Option<PathBuf>,
    /// Ask for persistent grants (`feature-persistent`): pages stay mapped between requests. That
    /// saves two hypercalls a request, and leaves the pages open to the back end as long as it is
    /// connected. They are used if the back end offers them by the time it is connected.
    pub persistent: bool,
    /// How many pages of 4096 bytes to grant for data; each direction gets 11 at least. With
    /// `persistent` all are granted writable. Without it one half is for reads, granted writable, and
    /// the other for writes, granted read-only.
    pub pool_pages: usize,
    /// How many I/Os may be accepted and not completed; one more is refused.
    pub queue: usize,
    /// How long one I/O may take while a back end is connected; then it ends with an error.
    pub deadline: Duration,
    /// How long to wait for a back end to connect, at first and after one went. Then the device takes
    /// no more I/O.
    pub reconnect: Duration,
    /// How long a close may take in all: what is under way, and the back end's own close.
    pub close: Duration,
    /// For tests: ask the platform at each response whether the pages are really unmapped. The
    /// simulated Xen can say, at the price of a call to its host for each request.
    pub verify_release: bool,
    /// How long to wait busily for a response before the thread sleeps, at most. Zero: never.
    pub spin: Duration,
    /// Ends the front end from anywhere: an open gives up, and every pending I/O ends with an error. A
    /// [`Disk`](crate::Disk) then closes by itself; the caller of a [`Frontend`](crate::Frontend)
    /// closes it.
    pub stop: Stop,
    /// Who is told what happens, on the front end's thread.
    pub observer: Option<Box<dyn Observer<FrontEventKind>>>,
    /// Where what is granted is counted. Clones count together.
    pub ledger: Ledger,
}

impl FrontConfig {
    /// The usual configuration of a device: 352 pages, 256 I/Os, 30 seconds for an I/O and for a back
    /// end, no persistent grants.
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

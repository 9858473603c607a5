//! What the model knows of a device, its directory, and who works on it.

use crate::program::Law;

pub const XENWATCH_MUTEX: usize = 0;
pub const DEVICE_LOCK: usize = 1;
pub const LOCKS: &[&str] = &["xenwatch_mutex", "device lock"];

/// The columns.
pub const WATCH_THREAD: usize = 0;
/// Where there is one.
pub const WORK_QUEUE: usize = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xenbus {
    /// The number of the device whose nodes are in the directory.
    pub directory: u8,
    /// The kernel has a device registered for it.
    pub registered: bool,
    /// Whose nodes the probe of that one has read; 0: none's yet.
    pub otherend: u8,
    /// The state in the directory is Initialising.
    pub reset: bool,
    /// The registered device's own idea of its state is Initialising.
    pub initialising: bool,
    /// The registered device is said to be gone: its reads say nothing, its writes do nothing.
    pub vanished: bool,
    /// The watch thread has given it to the work queue.
    pub queued: bool,
    /// Watch events on their way.
    pub events: u8,
}

pub const OVER: &str = "own-device-only";

pub fn laws() -> Vec<Law<Xenbus>> {
    vec![Law::of_steps(
        OVER,
        "a device's state is written only into its own directory, never over the next one's",
    )]
}

/// How the watch thread finds out that the device was made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notices {
    /// It does not: a directory that exists is the device that is known.
    Nothing,
    /// The state was reset, or the back end's number differs from the one that the device knows, read
    /// yet or not.
    Number,
    /// The same, and a number counts only when it has been read.
    NumberOnceRead,
}

/// How it takes the old device away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// By itself, and so waits for the device lock.
    Itself,
    /// It gives that to a work queue, and goes on with the next event.
    Queued,
}

/// What a variant is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    pub notices: Notices,
    pub takes: Takes,
    /// The old device's reads and writes know that it has vanished.
    pub marks: bool,
    /// A probe that waits for its back end ends when its device has vanished.
    pub probe_ends: bool,
    /// Does a back end's domain crash, and come again, once the module is being loaded?
    pub crashes: bool,
}

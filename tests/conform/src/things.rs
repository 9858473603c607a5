//! What rules are made of: pages shared, pages mapped, an event channel that leads back here.

use super::outcome::{Outcome, Stop};
use libgnt::platform::Evtchn;
use libgnt::types::UnmapNotify;
use libgnt::{DomId, EvtchnPort, Platform, SharedPages};
use pv_harness::hand::channel::heard;
use rustix::io::Errno;
use std::time::Duration;

/// How long anything may take that must happen. Software emulation of a processor is slow.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing may happen for it to count as not happening.
pub const QUIET: Duration = Duration::from_millis(150);

/// An event channel from this domain to itself: what is sent on `near` arrives at `far`.
#[derive(Debug)]
pub struct Bell {
    /// Both ends' file.
    pub file: Box<dyn Evtchn>,
    /// To send on, and to arm an unmap notify with.
    pub near: EvtchnPort,
    /// Where it arrives.
    pub far: EvtchnPort,
}

impl Bell {
    /// Binds both ends, and takes the event that the second one starts with.
    ///
    /// # Errors
    /// The platform's; [`Stop::Differs`] without that event.
    pub fn new(platform: &dyn Platform, own: DomId) -> Outcome<Bell> {
        let file = platform.open_evtchn()?;
        let far = file.bind_unbound(own)?;
        let near = file.bind_interdomain(own, far)?;
        let bell = Bell { file, near, far };
        match heard(&*bell.file, PATIENCE)? {
            ports if ports == [near] => bell.file.unmask(&[near])?,
            other => {
                let what = format!("a new interdomain port is pending, but {other:?} came");
                return Err(Stop::Differs(what));
            }
        }
        Ok(bell)
    }

    /// A notify that only sends the event.
    pub fn event(&self) -> UnmapNotify {
        UnmapNotify {
            clear_byte: false,
            send_event: Some(self.near),
        }
    }

    /// Waits for the bell, and makes it ready again.
    ///
    /// # Errors
    /// [`Stop::Differs`]: silence. The platform's.
    pub fn expect(&self, what: &str) -> Outcome {
        if self.rings_within(PATIENCE)? {
            Ok(())
        } else {
            Err(Stop::Differs(format!("no event in {PATIENCE:?}: {what}")))
        }
    }

    /// The bell stays silent for a while.
    ///
    /// # Errors
    /// [`Stop::Differs`]: an event came. The platform's.
    pub fn silent(&self, what: &str) -> Outcome {
        if self.rings_within(QUIET)? {
            Err(Stop::Differs(format!("an event came: {what}")))
        } else {
            Ok(())
        }
    }

    fn rings_within(&self, wait: Duration) -> Outcome<bool> {
        let ports = heard(&*self.file, wait)?;
        self.file.unmask(&ports)?;
        match ports.as_slice() {
            [] => Ok(false),
            [port] if *port == self.far => Ok(true),
            other => Err(Stop::Differs(format!(
                "{other:?} came, where only {:?} is used",
                self.far
            ))),
        }
    }
}

/// A call must fail so.
///
/// # Errors
/// [`Stop::Differs`].
pub fn refused<T: std::fmt::Debug>(what: &str, result: libgnt::Result<T>, with: Errno) -> Outcome {
    match result {
        Err(error) if error.errno() == Some(with) => Ok(()),
        Err(error) => match Stop::from(error) {
            Stop::Differs(error) => Err(Stop::Differs(format!(
                "{what} must fail with {with:?}: {error}"
            ))),
            other => Err(other),
        },
        Ok(value) => Err(Stop::Differs(format!(
            "{what} must fail with {with:?}, but gave {value:?}"
        ))),
    }
}

/// Two values must be the same.
///
/// # Errors
/// [`Stop::Differs`].
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, must_be: T) -> Outcome {
    if is == must_be {
        Ok(())
    } else {
        Err(Stop::Differs(format!(
            "{what} must be {must_be:?}, not {is:?}"
        )))
    }
}

/// Something must hold.
///
/// # Errors
/// [`Stop::Differs`].
pub fn must(what: &str, holds: bool) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Stop::Differs(format!("not so: {what}")))
    }
}

/// Some bytes of shared pages.
pub fn peek(pages: &SharedPages, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pages.read(offset, &mut bytes);
    bytes
}

//! What every step of a lab needs: somebody to tell what happens, and the way out at Ctrl-C.

use crate::error::{LabError, Result};
use pv_harness::error::Error;
use pv_harness::processes::Signals;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// A lab under way.
pub struct Progress {
    begun: Instant,
    signals: Signals,
}

impl Progress {
    /// From here on Ctrl-C and SIGTERM no longer end the process by themselves.
    ///
    /// # Errors
    /// What `sigaction` says.
    pub fn begin() -> Result<Progress> {
        Ok(Progress {
            begun: Instant::now(),
            signals: Signals::register().map_err(LabError::file(Path::new("signals")))?,
        })
    }

    /// A line on standard error, with the time since the beginning.
    pub fn tell(&self, what: impl Display) {
        let seconds = self.begun.elapsed().as_secs();
        // With standard error gone there is nobody to tell.
        let _ = writeln!(anstream::stderr(), "lab {seconds:>4} s: {what}");
    }

    /// The way out of a step that takes long.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once a signal came.
    pub fn check(&self) -> Result<()> {
        match self.signals.caught() {
            Some(signal) => Err(LabError::Run(Error::Interrupted(signal))),
            None => Ok(()),
        }
    }
}

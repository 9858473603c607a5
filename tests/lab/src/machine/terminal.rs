//! One machine whose console is this terminal.

use super::boot::Boot;
use super::loss::{ended, lost, stands_still};
use super::watch::{self, LOOK, Watch};
use crate::error::{LabError, Result};
use crate::process::mortal;
use crate::progress::Progress;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Instant;

/// Runs a machine whose console is this terminal, to its end.
///
/// # Errors
/// QEMU cannot be started, or fails; the machine stands still.
pub fn interact(boot: &Boot<'_>, progress: &Progress) -> Result<()> {
    let words = boot.words("stdio,signal=off");
    let mut command = mortal(&words[0]);
    // It stays in our process group, and with it in the terminal's foreground.
    let spawned = command.args(&words[1..]).spawn();
    let mut qemu = Terminal(spawned.map_err(LabError::file(Path::new("setpriv")))?);
    let mut watch = Watch::begin(Instant::now());
    let mut length = 0;
    loop {
        if let Some(status) = qemu
            .0
            .try_wait()
            .map_err(LabError::file(Path::new("qemu")))?
        {
            return match status.success() {
                true => Ok(()),
                false => ended(status, &[]).and_then(|loss| Err(lost(boot, loss.cause()))),
            };
        }
        let now = Instant::now();
        let log = fs::metadata(boot.serial).map_or(0, |meta| meta.len());
        if log != length {
            length = log;
            watch.heard(now);
        }
        if let Some(usage) = watch::usage(qemu.0.id())
            && let Some(still) = watch.look(usage.used, now)
        {
            return Err(lost(boot, &stands_still(boot, still, usage)));
        }
        progress.check()?;
        // Its end has an event, but the processor time that it uses has none.
        std::thread::sleep(LOOK);
    }
}

struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

//! What the commands share: the common options, how a command ends, and how it prints.

use super::cure;
use crate::config::{FrontConfig, LONGEST};
use crate::counters::Counters;
use crate::disk::Disk;
use crate::error::FrontError;
use crate::machine::DeviceError;
use clap::Args;
use libgnt::stop::Stop;
use libgnt::{Platform, PlatformChoice};
use pv_program::Failure;
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Common {
    /// `linux` for the real devices, or `sim:DIR` for the simulated Xen that serves DIR
    /// (`pv-stress sim --dir DIR` starts one).
    #[arg(long, global = true, default_value = "linux")]
    pub platform: PlatformChoice,
    /// The domain to be, on a simulated Xen; the lowest free one if not given.
    #[arg(long, global = true, value_name = "N")]
    pub domain: Option<u16>,
    /// The device: xvda, xvdb, ..., or its number.
    #[arg(long, global = true, default_value = "xvda")]
    pub device: DeviceId,
    /// The device's class, as the toolstack created it.
    #[arg(long, global = true, value_name = "NAME", default_value_t = DeviceClass::VBD)]
    pub class: DeviceClass,
    /// Keep grants mapped between requests, if the back end can.
    #[arg(long, global = true)]
    pub persistent: bool,
    /// Pages granted for data.
    #[arg(long, global = true, value_name = "PAGES", default_value_t = 352)]
    pub pool_pages: usize,
    /// Seconds that one I/O may take.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub deadline: Duration,
    /// Seconds to wait for a back end, at first and after it went.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub reconnect: Duration,
    /// Seconds that the end may take, for I/O that is under way and for the back end to close
    /// [default: 5, and 0.6 after a signal]. A second signal ends at once.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub close: Option<Duration>,
    /// Check at each response that the pages are unmapped (simulated Xen only).
    #[arg(long, global = true)]
    pub verify_release: bool,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log on standard error: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub log: String,
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is no number of seconds"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration.is_zero() => Err("it must be more than 0".into()),
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ if seconds > 0.0 => Err("it must be ten years at most".into()),
        _ => Err("it must be more than 0".into()),
    }
}

/// A back end that is not there is the environment's fault.
pub(super) fn at_open(error: FrontError) -> Failure {
    match error {
        FrontError::Device(DeviceError::Gone(why)) => Failure::environment(why),
        other => other.into(),
    }
}

impl From<FrontError> for Failure {
    fn from(error: FrontError) -> Self {
        match error {
            FrontError::Xen(libgnt::Error::NotAvailable { .. })
            | FrontError::KernelDriver(_)
            | FrontError::NoDevice { .. } => Failure::environment(cure::of(&error)),
            other => Failure::at_work(cure::of(&other)),
        }
    }
}

/// A file's failure, named.
pub(super) fn file_failure(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!("{what} {}: {error}", path.display()))
}

pub(super) type Outcome = Result<(), Failure>;

/// What the commands share.
pub(super) struct Context {
    pub platform: Arc<dyn Platform>,
    pub common: Common,
    pub close: Duration,
    pub json: bool,
    pub stop: Stop,
}

impl Context {
    pub(super) fn config(&self) -> FrontConfig {
        let mut config = FrontConfig::new(Arc::clone(&self.platform), self.common.device);
        config.class = self.common.class.clone();
        config.persistent = self.common.persistent;
        config.pool_pages = self.common.pool_pages;
        config.deadline = self.common.deadline;
        config.reconnect = self.common.reconnect;
        config.close = self.close;
        config.verify_release = self.common.verify_release;
        config.stop = self.stop.clone();
        config
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.is_asked()
    }

    pub(super) fn interrupted() -> Failure {
        Failure::at_work("interrupted")
    }

    /// How a command ends whose device is closed: by its own first failure, or the close's. After
    /// a signal every I/O fails, and the signal is the reason.
    pub(super) fn ended<T>(
        &self,
        work: Result<T, Failure>,
        closed: Result<Counters, FrontError>,
    ) -> Result<T, Failure> {
        match (work, closed) {
            (Err(_), Ok(_)) if self.stopped() => {
                let message = "interrupted; the device was closed cleanly";
                Err(Failure::at_work(message))
            }
            (Err(_), Err(error)) if self.stopped() => {
                Err(Failure::at_work(format!("interrupted; {error}")))
            }
            (work, closed) => {
                let value = work?;
                closed?;
                Ok(value)
            }
        }
    }

    pub(super) fn device(&self) -> String {
        crate::config::name(self.common.device)
    }

    pub(super) fn open(&self) -> Result<Disk, Failure> {
        Disk::open(self.config()).map_err(at_open)
    }

    /// Closes the disk whatever became of the work, and reports the first failure.
    pub(super) fn finish<T>(&self, disk: Disk, work: Result<T, Failure>) -> Result<T, Failure> {
        self.ended(work, disk.close())
    }

    /// Prints the result, as text or JSON.
    pub(super) fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Outcome {
        use std::io::Write;
        let line = match self.json {
            true => serde_json::to_string(value)
                .map_err(|e| Failure::at_work(format!("cannot write JSON: {e}")))?,
            false => text(value),
        };
        writeln!(std::io::stdout().lock(), "{line}")
            .map_err(|e| Failure::at_work(format!("standard output: {e}")))
    }
}

/// Where data goes or comes from: a file, or `-`.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

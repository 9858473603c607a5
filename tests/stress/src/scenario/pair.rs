//! The pair on the stage: an image, a device, a back end, a front end, a consumer.

use super::stage::{Stage, failed};
use crate::role::{CHUNK, DEVICE_CLASS, Point};
use pv_harness::holder::HoldName;
use pv_harness::processes::{ChildId, News, Stopped};
use pv_xenstore::toolstack::{BlockDevice, DeviceId};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// xvda.
const FIRST_DEVICE: u32 = 51712;

/// A device, and what it is kept on.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its number.
    pub number: u32,
    /// Its image, in the directory of the run's processes.
    pub image: PathBuf,
}

/// What is lent to the consumer.
#[derive(Clone, Copy, Debug)]
pub struct Lending {
    /// How it is held.
    pub hold: HoldName,
    /// Requests at once.
    pub at_once: usize,
    /// Requests in all.
    pub in_all: u64,
}

impl Stage<'_> {
    /// How many bytes a front end carries that is told to carry at least so many.
    ///
    /// # Errors
    /// [`Stopped`], if the input is gone.
    pub fn input_bytes(&self, at_least: u64) -> Result<u64, Stopped> {
        let input = &self.settings.input;
        let meta = std::fs::metadata(input).map_err(failed("looking at the input"))?;
        Ok(meta.len().max(at_least))
    }

    /// Makes the `n`th device with room for so many bytes, and describes it to both ends.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn create_device(&mut self, n: u32, bytes: u64) -> Result<Device, Stopped> {
        let number = FIRST_DEVICE + 16 * n;
        let image = self.processes.dir().join(format!("disk{n}.img"));
        self.make_image(&image, bytes.next_multiple_of(4096))?;
        let (front, back) = (self.front(), self.back());
        let params = image.display().to_string();
        let mut device = BlockDevice::new(front, back, DeviceId(number), params);
        device.class = DEVICE_CLASS;
        self.describe(device)?;
        Ok(Device { number, image })
    }

    /// Where the consumer is found.
    pub fn consumer_socket(&self) -> PathBuf {
        self.processes.dir().join("consumer.sock")
    }

    /// Starts the third consumer. It holds for so long and, if told to, until the unmap has
    /// returned, as a driver whose release waits for the invalidation.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start_consumer(
        &mut self,
        hold: HoldName,
        hold_for: Duration,
        until_unmapped: bool,
    ) -> Result<ChildId, Stopped> {
        let for_ms = format!("{}ms", hold_for.as_millis().max(1));
        let mut args: Vec<OsString> = vec![
            "--socket".into(),
            self.consumer_socket().into(),
            "--hold".into(),
        ];
        args.extend([hold.to_string().into(), "--hold-for".into(), for_ms.into()]);
        if self.settings.allow_kernel_damage {
            args.push("--allow-kernel-damage".into());
        }
        if until_unmapped {
            args.push("--until-unmapped".into());
        }
        let consumer = self.spawn("consumer", "consumer", self.back(), args)?;
        self.processes.await_ready(consumer)?;
        Ok(consumer)
    }

    /// Starts a back end, and waits until it waits for its front end.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start_back_end(
        &mut self,
        name: &str,
        device: &Device,
        mode: &str,
        lending: Option<Lending>,
        more: &[String],
    ) -> Result<ChildId, Stopped> {
        let mut args: Vec<OsString> = vec!["--front".into(), self.front().0.to_string().into()];
        args.extend(["--device".into(), device.number.to_string().into()]);
        args.extend(["--image".into(), device.image.clone().into()]);
        args.extend(["--mode".into(), mode.into()]);
        if let Some(Lending {
            hold,
            at_once,
            in_all,
        }) = lending
        {
            args.extend(["--consumer".into(), self.consumer_socket().into()]);
            args.extend(["--hold".into(), hold.to_string().into()]);
            args.extend(["--at-once".into(), at_once.to_string().into()]);
            args.extend(["--in-all".into(), in_all.to_string().into()]);
            if self.settings.allow_kernel_damage {
                args.push("--allow-kernel-damage".into());
            }
        }
        args.extend(more.iter().map(OsString::from));
        let back = self.spawn(name, "backend", self.back(), args)?;
        self.processes.await_ready(back)?;
        Ok(back)
    }

    /// Starts a front end that carries the input, and waits until it is connected.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start_front_end(
        &mut self,
        name: &str,
        device: &Device,
        options: &[String],
    ) -> Result<ChildId, Stopped> {
        let patience = format!("{}ms", self.settings.deadline.as_millis());
        let mut args: Vec<OsString> = vec!["--device".into(), device.number.to_string().into()];
        args.extend(["--input".into(), self.settings.input.clone().into()]);
        args.extend(["--patience".into(), patience.into()]);
        args.extend(options.iter().map(OsString::from));
        let front = self.spawn(name, "frontend", self.front(), args)?;
        self.processes.await_ready(front)?;
        Ok(front)
    }

    /// Waits until a front end has carried so many of its bytes, there and back counted.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_progress(&mut self, front: ChildId, bytes: u64) -> Result<(), Stopped> {
        let what = format!(
            "{} to carry {bytes} bytes",
            self.processes.child(front).name
        );
        self.processes.await_news(front, &what, |news| {
            matches!(news, News::Progress { done, .. } if *done >= bytes).then_some(())
        })
    }

    /// Waits until the consumer has taken over so many holds.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_holds(&mut self, consumer: ChildId, holds: usize) -> Result<(), Stopped> {
        let what = format!("the consumer to hold the pages of {holds} requests");
        self.processes
            .await_news(consumer, &what, |news| match news {
                News::Fact { name, value } if name == "taken" => {
                    let taken = value.parse::<usize>().ok()?;
                    (taken >= holds).then_some(())
                }
                _ => None,
            })
    }
}

/// A place to kill an end at, drawn by the run's seed: one of its points, passed so often that the
/// writes (the first half of all requests) are well under way. As options of the end.
pub fn place(seed: u64, points: &[Point], bytes: u64) -> [String; 4] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let writes = bytes.div_ceil(CHUNK as u64);
    let point = points[rng.usize(..points.len())];
    let after = rng.u64(writes / 10..writes * 9 / 10);
    [
        "--freeze-at".into(),
        point.name().into(),
        "--freeze-after".into(),
        after.to_string(),
    ]
}

/// How far the front end is when the consumer is killed, drawn by the run's seed from the writes.
pub fn moment(seed: u64, bytes: u64) -> u64 {
    fastrand::Rng::with_seed(seed).u64(bytes / 10..bytes / 2)
}

//! The pair on the stage: an image, a device, a back end, a front end, a consumer.

use super::stage::{Device, Stage, failed};
use crate::role::{
    BackEndTask, CHUNK, Carriage, ConsumerTask, DEVICE_CLASS, Freeze, FrontEndTask, Lend, Lending,
    Role, Transfer,
};
use pv_harness::processes::{ChildId, Fact, News, Point, Stopped};
use pv_harness::settings::HoldName;
use pv_xenstore::toolstack::{BlockDevice, DeviceId};
use std::path::PathBuf;
use std::time::Duration;

/// xvda.
const FIRST_DEVICE: u32 = 51712;

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
        let task = ConsumerTask {
            socket: self.consumer_socket(),
            hold,
            // A hold of no time at all would be none.
            hold_for: hold_for.max(Duration::from_millis(1)),
            until_unmapped,
            allow_kernel_damage: self.settings.allow_kernel_damage,
        };
        let consumer = self.spawn("consumer", self.back(), Role::Consumer(task))?;
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
        transfer: Transfer,
        lending: Option<Lending>,
        freeze: Option<Freeze>,
    ) -> Result<ChildId, Stopped> {
        let lend = lending.map(|lending| Lend {
            consumer: self.consumer_socket(),
            lending,
            allow_kernel_damage: self.settings.allow_kernel_damage,
        });
        let task = BackEndTask {
            front: self.front(),
            device: device.number,
            image: device.image.clone(),
            transfer,
            lend,
            freeze,
        };
        let back = self.spawn(name, self.back(), Role::BackEnd(task))?;
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
        carriage: Carriage,
    ) -> Result<ChildId, Stopped> {
        let task = FrontEndTask {
            device: device.number,
            input: self.settings.input.clone(),
            patience: self.settings.deadline,
            carriage,
        };
        let front = self.spawn(name, self.front(), Role::FrontEnd(task))?;
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
    pub fn await_holds(&mut self, consumer: ChildId, holds: u64) -> Result<(), Stopped> {
        let what = format!("the consumer to hold the pages of {holds} requests");
        self.await_fact_like(consumer, &what, |fact| match fact {
            Fact::Taken { holds: taken } => (*taken >= holds).then_some(()),
            _ => None,
        })
    }

    /// Waits until a front end has written all; the digest of what it sent.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_sent(&mut self, front: ChildId) -> Result<String, Stopped> {
        self.await_fact_of(front, "send all", |fact| match fact {
            Fact::Sent { digest } => Some(digest.clone()),
            _ => None,
        })
    }

    /// Waits until a front end has read all back; the digest of what came.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_read_back(&mut self, front: ChildId) -> Result<String, Stopped> {
        self.await_fact_of(front, "read all back", |fact| match fact {
            Fact::ReadBack { digest } => Some(digest.clone()),
            _ => None,
        })
    }

    /// Waits until a front end's device is closed; how often it read events.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_event_reads(&mut self, front: ChildId) -> Result<u64, Stopped> {
        self.await_fact_of(front, "close its device", |fact| match fact {
            Fact::EventReads { count } => Some(*count),
            _ => None,
        })
    }

    /// Waits until a front end knows that its back end is gone.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_back_end_gone(&mut self, front: ChildId) -> Result<(), Stopped> {
        self.await_fact_of(front, "notice that its back end is gone", |fact| {
            matches!(fact, Fact::BackEndGone { .. }).then_some(())
        })
    }

    /// Waits until a back end has closed its device.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_closed(&mut self, back: ChildId) -> Result<(), Stopped> {
        self.await_fact_of(back, "close its device", |fact| {
            matches!(fact, Fact::Closed { .. }).then_some(())
        })
    }

    /// Waits until an end stands still where it was told to.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_frozen(&mut self, end: ChildId) -> Result<Point, Stopped> {
        self.await_fact_of(end, "stand still", |fact| match fact {
            Fact::Frozen { at } => Some(*at),
            _ => None,
        })
    }

    /// Waits for a fact; `to` says, behind the child's name, what that child is to do for it.
    fn await_fact_of<T>(
        &mut self,
        id: ChildId,
        to: &str,
        pick: impl FnMut(&Fact) -> Option<T>,
    ) -> Result<T, Stopped> {
        let what = format!("{} to {to}", self.processes.child(id).name);
        self.await_fact_like(id, &what, pick)
    }

    fn await_fact_like<T>(
        &mut self,
        id: ChildId,
        what: &str,
        mut pick: impl FnMut(&Fact) -> Option<T>,
    ) -> Result<T, Stopped> {
        self.processes.await_news(id, what, |news| match news {
            News::Fact(fact) => pick(fact),
            _ => None,
        })
    }
}

/// A place to kill an end at, drawn by the run's seed: one of its points, passed so often that the
/// writes (the first half of all requests) are well under way.
pub fn place(seed: u64, points: &[Point], bytes: u64) -> Freeze {
    let mut rng = fastrand::Rng::with_seed(seed);
    let writes = bytes.div_ceil(CHUNK as u64);
    let at = points[rng.usize(..points.len())];
    let after = rng.u64(writes / 10..writes * 9 / 10);
    Freeze { at, after }
}

/// How far the front end is when the consumer is killed, drawn by the run's seed from the writes.
pub fn moment(seed: u64, bytes: u64) -> u64 {
    fastrand::Rng::with_seed(seed).u64(bytes / 10..bytes / 2)
}

//! The front end, as a process: `pv_frontend`'s own, watched, with a file to carry there and back.

mod recorder;

use super::{DEVICE_CLASS, Freeze, Outcome, RoleProcess};
use crate::settings::RunSabotage;
use libgnt::grant::Ledger;
use pv_frontend::{Completion, DeviceId, Disk, FrontConfig, FrontEvent, Io, IoQueue};
use pv_harness::holder::{sha256, spell_digest};
use pv_harness::processes::{Control, Fact, News, Order};
use pv_harness::timeline::IoKind;
use recorder::{Job, Recorder, SECTOR};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A request's most: 11 segments of a page.
pub const CHUNK: usize = 11 * 4096;
/// Requests at once.
const DEPTH: usize = 24;
/// Progress is told once in so many requests.
const TELL_EVERY: u64 = 16;

/// What the front end is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontEndTask {
    /// The device's number.
    pub device: u32,
    /// The file to carry to the device and back.
    #[serde(with = "pv_harness::any_path")]
    pub input: PathBuf,
    /// Longest wait for one I/O, and for a back end.
    pub patience: Duration,
    /// How the file is carried.
    pub carriage: Carriage,
}

/// How the front end carries its file. The default is once, and not looking at anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carriage {
    /// The file is carried over and over until it is so many bytes.
    pub at_least: u64,
    /// Persistent grants are asked for.
    pub persistent: bool,
    /// The hypervisor is asked after each answer whether the pages are free.
    pub check_release: bool,
    /// Where the front end stands still to be killed.
    pub freeze: Option<Freeze>,
}

pub(super) fn run(process: &RoleProcess, task: FrontEndTask) -> Outcome {
    let carriage = task.carriage;
    let platform = process.join()?;
    let ledger = Ledger::new();
    let control = Arc::new(process.control.try_clone()?);
    let mut config = FrontConfig::new(platform.clone(), DeviceId(task.device));
    config.class = DEVICE_CLASS;
    config.persistent = carriage.persistent;
    config.deadline = task.patience;
    config.reconnect = task.patience;
    config.close = task.patience;
    config.ledger = ledger.clone();
    let recorder = Recorder::new(
        process.timeline.clone(),
        Arc::clone(&control),
        carriage.check_release.then(|| platform.clone()),
        carriage.freeze,
    );
    let mut observer = recorder.clone();
    process.timeline.waiting("a back end");
    config.observer = Some(Box::new(move |event: FrontEvent| {
        observer.event(event.kind)
    }));
    let disk = Disk::open(config)?;
    control.send(&News::Ready)?;
    let mut carrier = Carrier::new(&disk, &task, recorder, Arc::clone(&control))?;
    let digest = carrier.write(&task.input, process.sabotage)?;
    control.send(&News::Fact(Fact::Sent { digest }))?;
    let digest = carrier.read_back()?;
    control.send(&News::Fact(Fact::ReadBack { digest }))?;
    process.timeline.waiting("the device to close");
    let counters = disk.close()?;
    let count = counters.event_reads;
    control.send(&News::Fact(Fact::EventReads { count }))?;
    process.show(&ledger)?;
    process.timeline.waiting("the end of the run");
    while !matches!(process.control.recv::<Order>(), Ok(Order::Stop) | Err(_)) {}
    Ok(())
}

/// Carries the file.
struct Carrier {
    queue: IoQueue,
    size: u64,
    next_tag: u64,
    tags: HashMap<u64, Job>,
    done: u64,
    total: u64,
    recorder: Recorder,
    control: Arc<Control>,
    patience: Duration,
}

impl Carrier {
    fn new(
        disk: &Disk,
        task: &FrontEndTask,
        recorder: Recorder,
        control: Arc<Control>,
    ) -> std::io::Result<Carrier> {
        let bytes = std::fs::metadata(&task.input)?.len();
        let size = bytes.max(task.carriage.at_least);
        Ok(Carrier {
            queue: disk.queue(DEPTH),
            size,
            next_tag: 0,
            tags: HashMap::new(),
            done: 0,
            // There and back.
            total: size * 2,
            recorder,
            control,
            patience: task.patience,
        })
    }

    fn submit(&mut self, io: Io, job: Job) -> Outcome {
        let tag = self.next_tag;
        self.next_tag += 1;
        // Before the submission: the observer asks for it, on the front end's thread.
        self.recorder.expect(job.clone());
        self.tags.insert(tag, job);
        self.queue.submit(io, tag)?;
        Ok(())
    }

    /// The next completion, which must be a good one.
    fn complete(&mut self) -> Result<(Job, Completion), Box<dyn std::error::Error + Send + Sync>> {
        let Some(completion) = self.queue.next(2 * self.patience) else {
            return Err("no I/O completed: the front end's own deadline did not end it".into());
        };
        let job = self.tags.remove(&completion.tag);
        let job = job.ok_or("a completion that belongs to nothing")?;
        self.recorder.forget(&job);
        if let Err(error) = completion.result {
            return Err(format!(
                "{:?} of {} bytes at {}: {error}",
                job.kind, job.bytes, job.offset
            )
            .into());
        }
        self.done += job.bytes as u64;
        if completion.tag.is_multiple_of(TELL_EVERY) || self.done == self.total {
            let progress = News::Progress {
                done: self.done,
                total: self.total,
            };
            if let Err(error) = self.control.send(&progress) {
                tracing::debug!(%error, "telling progress");
            }
        }
        Ok((job, completion))
    }

    /// Writes the input, then flushes; returns its digest.
    fn write(
        &mut self,
        input: &Path,
        sabotage: Option<RunSabotage>,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let mut input = Endless {
            file: File::open(input)?,
        };
        let mut hash = Sha256::new();
        let mut offset = 0;
        let mut flip = sabotage == Some(RunSabotage::FlipBit);
        while offset < self.size {
            let bytes = usize::try_from(self.size - offset)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            let mut data = vec![0; bytes.next_multiple_of(SECTOR)];
            input.read_exact(&mut data[..bytes])?;
            hash.update(&data[..bytes]);
            if std::mem::take(&mut flip) {
                data[bytes / 2] ^= 1;
            }
            while self.queue.outstanding() >= DEPTH {
                self.complete()?;
            }
            let sha = Some(sha256(&data));
            let job = Job {
                kind: IoKind::Write,
                offset,
                bytes: data.len(),
                sha,
            };
            self.submit(Io::write(offset, data), job)?;
            offset += bytes as u64;
        }
        while self.queue.outstanding() > 0 {
            self.complete()?;
        }
        self.submit(
            Io::flush(),
            Job {
                kind: IoKind::Flush,
                offset: 0,
                bytes: 0,
                sha: None,
            },
        )?;
        self.complete()?;
        Ok(spell_digest(hash.finalize().as_slice()))
    }

    /// Reads everything back; returns its digest.
    fn read_back(&mut self) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let mut hash = Sha256::new();
        let mut early: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let (mut asked, mut hashed) = (0, 0);
        while hashed < self.size {
            // Early ones count: they are memory.
            while asked < self.size && self.queue.outstanding() + early.len() < DEPTH {
                let bytes = usize::try_from(self.size - asked)
                    .unwrap_or(CHUNK)
                    .min(CHUNK);
                let whole = bytes.next_multiple_of(SECTOR);
                let job = Job {
                    kind: IoKind::Read,
                    offset: asked,
                    bytes: whole,
                    sha: None,
                };
                self.submit(Io::read(asked, whole), job)?;
                asked += bytes as u64;
            }
            let (job, completion) = self.complete()?;
            early.insert(job.offset, completion.data);
            while let Some(data) = early.remove(&hashed) {
                let bytes = usize::try_from(self.size - hashed)
                    .unwrap_or(CHUNK)
                    .min(data.len());
                hash.update(&data[..bytes]);
                hashed += bytes as u64;
            }
        }
        Ok(spell_digest(hash.finalize().as_slice()))
    }
}

/// A file that begins again at its end.
struct Endless {
    file: File,
}

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.file.read(into)? {
            0 => {
                self.file.rewind()?;
                self.file.read(into)
            }
            n => Ok(n),
        }
    }
}

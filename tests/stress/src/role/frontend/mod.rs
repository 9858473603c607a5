//! The front end, as a process: `pv_frontend`'s own, watched, with a file to carry there and back.

mod recorder;

use super::{Agent, DEVICE_CLASS, Freeze, Member, Outcome};
use crate::settings::Sabotage;
use libgnt::grant::Ledger;
use pv_frontend::{Completion, DeviceId, Disk, FrontConfig, FrontEvent, Io, IoQueue};
use pv_harness::holder::{sha256, spell_digest};
use pv_harness::processes::{Control, News, Order};
use pv_harness::timeline::IoKind;
use recorder::{Job, Recorder};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A request's most: 11 segments of a page.
pub(crate) const CHUNK: usize = 11 * 4096;
const SECTOR: usize = 512;
/// Progress is told once in so many requests.
const TELL_EVERY: u64 = 16;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The device's number
    #[arg(long)]
    device: u32,
    /// The file to carry
    #[arg(long)]
    input: PathBuf,
    /// Do not write it, only read it back
    #[arg(long)]
    read_only: bool,
    /// Carry the input over and over until it is so many bytes
    #[arg(long, default_value_t = 0)]
    at_least: u64,
    /// Requests at once
    #[arg(long, default_value_t = 24)]
    depth: usize,
    /// Ask for persistent grants
    #[arg(long)]
    persistent: bool,
    /// Ask the hypervisor after each answer whether the pages are free
    #[arg(long)]
    check_release: bool,
    /// Longest wait for one I/O, and for a back end
    #[arg(long, value_parser = humantime::parse_duration, default_value = "60s")]
    patience: Duration,
    #[command(flatten)]
    freeze: Freeze,
}

pub(super) fn run(agent: &Agent, member: &Member, args: Args) -> Outcome {
    let platform = agent.join(member)?;
    let ledger = Ledger::new();
    let control = Arc::new(agent.control.try_clone()?);
    let mut config = FrontConfig::new(platform.clone(), DeviceId(args.device));
    config.class = DEVICE_CLASS;
    config.persistent = args.persistent;
    config.deadline = args.patience;
    config.reconnect = args.patience;
    config.close = args.patience;
    config.ledger = ledger.clone();
    let recorder = Recorder::new(
        agent.timeline.clone(),
        Arc::clone(&control),
        args.check_release.then(|| platform.clone()),
        args.freeze,
    );
    let mut observer = recorder.clone();
    agent.timeline.waiting("a back end");
    config.observer = Some(Box::new(move |event: FrontEvent| {
        observer.event(event.kind)
    }));
    let disk = Disk::open(config)?;
    control.send(&News::Ready)?;
    let mut carrier = Carrier::new(&disk, &args, recorder, Arc::clone(&control))?;
    if !args.read_only {
        let sha = carrier.write(&args.input, agent.sabotage)?;
        control.tell("sent", sha)?;
    }
    let sha = carrier.read_back()?;
    control.tell("read back", sha)?;
    agent.timeline.waiting("the device to close");
    let counters = disk.close()?;
    control.tell("event reads", counters.event_reads)?;
    agent.show(&ledger)?;
    agent.timeline.waiting("the end of the run");
    while !matches!(agent.control.recv::<Order>(), Ok(Order::Stop) | Err(_)) {}
    Ok(())
}

/// Carries the file.
struct Carrier {
    queue: IoQueue,
    depth: usize,
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
        args: &Args,
        recorder: Recorder,
        control: Arc<Control>,
    ) -> std::io::Result<Carrier> {
        let size = std::fs::metadata(&args.input)?.len().max(args.at_least);
        let passes = if args.read_only { 1 } else { 2 };
        Ok(Carrier {
            queue: disk.queue(args.depth),
            depth: args.depth,
            size,
            next_tag: 0,
            tags: HashMap::new(),
            done: 0,
            total: size * passes,
            recorder,
            control,
            patience: args.patience,
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
        sabotage: Option<Sabotage>,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let mut input = Endless {
            file: File::open(input)?,
        };
        let mut hash = Sha256::new();
        let mut offset = 0;
        let mut flip = sabotage == Some(Sabotage::FlipBit);
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
            while self.queue.outstanding() >= self.depth {
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
            while asked < self.size && self.queue.outstanding() + early.len() < self.depth {
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

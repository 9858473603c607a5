//! `copy`: a file through the device and back, judged by SHA-256.

use super::context::{Context, Outcome, file_failure};
use super::plain::{flush, read_full};
use super::progress::Progress;
use crate::disk::{Disk, IoQueue};
use crate::error::FrontError;
use crate::io::{Completion, Io};
use clap::Args;
use pv_program::Failure;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of one I/O: several requests on the ring.
const STEP: usize = 256 * 1024;
/// I/Os at once.
const DEPTH: usize = 8;
/// How often a wait looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Copy {
    /// The file to write to the device.
    #[arg(long, short)]
    input: PathBuf,
    /// Where the data read back goes; nowhere if not given.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// First byte on the device, a whole sector.
    #[arg(long, default_value_t = 0)]
    offset: u64,
}

#[derive(Serialize)]
struct Report {
    bytes: u64,
    sha256_input: String,
    sha256_output: String,
    equal: bool,
    flushed: bool,
    write_seconds: f64,
    read_seconds: f64,
    requests: u64,
    system_calls_per_request: f64,
}

pub(super) fn run(context: &Context, args: &Copy) -> Outcome {
    let input =
        File::open(&args.input).map_err(|e| file_failure("cannot read", &args.input, &e))?;
    let metadata = input
        .metadata()
        .map_err(|e| file_failure("cannot read", &args.input, &e))?;
    if !metadata.is_file() {
        let message = format!(
            "{} is no regular file: its size is not known",
            args.input.display()
        );
        return Err(Failure::environment(message));
    }
    let output = match &args.output {
        Some(path) => Some((open_output(path, &args.input, &metadata)?, path)),
        None => None,
    };
    let disk = context.open()?;
    let work = through(context, args, &disk, input, metadata.len(), output);
    let report = context.finish(disk, work)?;
    context.print(&report, |r| {
        let durable = if r.flushed {
            "flushed"
        } else {
            "not flushed: the back end cannot"
        };
        let mib = r.bytes as f64 / (1 << 20) as f64;
        format!(
            "{} bytes through {} and back, {durable}\n\
             written {}  {:.0} MiB/s\n\
             read    {}  {:.0} MiB/s\n{}",
            r.bytes,
            context.device(),
            r.sha256_input,
            mib / r.write_seconds.max(1e-9),
            r.sha256_output,
            mib / r.read_seconds.max(1e-9),
            if r.equal { "equal" } else { "DIFFERENT" },
        )
    })?;
    match report.equal {
        true => Ok(()),
        false => Err(Failure::at_work(format!(
            "what was read back from {} differs from {}: the device lost or changed data",
            context.device(),
            args.input.display()
        ))),
    }
}

/// Opens the output, and leaves what is in it until there is something to put there.
fn open_output(path: &PathBuf, input: &Path, input_is: &Metadata) -> Result<File, Failure> {
    let opened = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let (file, metadata) = opened
        .and_then(|file| file.metadata().map(|metadata| (file, metadata)))
        .map_err(|e| file_failure("cannot write", path, &e))?;
    if (metadata.dev(), metadata.ino()) == (input_is.dev(), input_is.ino()) {
        let message = format!(
            "{} is the same file as {}, which would be lost: name another --output",
            path.display(),
            input.display()
        );
        return Err(Failure::environment(message));
    }
    Ok(file)
}

fn through(
    context: &Context,
    args: &Copy,
    disk: &Disk,
    mut input: File,
    bytes: u64,
    output: Option<(File, &PathBuf)>,
) -> Result<Report, Failure> {
    let info = disk.info()?;
    let sector = u64::from(info.sector_size.max(512));
    let padded = bytes.next_multiple_of(sector);
    if args
        .offset
        .checked_add(padded)
        .is_none_or(|end| end > info.bytes())
    {
        return Err(Failure::environment(format!(
            "{} has {bytes} bytes, which do not fit on {} of {} bytes at {}: serve a larger image",
            args.input.display(),
            context.device(),
            info.bytes(),
            args.offset
        )));
    }
    let queue = disk.queue(DEPTH);
    let began = Instant::now();
    let mut progress = Progress::new("write", padded, context.json);
    let mut sum = Sha256::new();
    let mut done = 0;
    while done < padded || queue.outstanding() > 0 {
        if done < padded && queue.outstanding() < DEPTH {
            let mut data = vec![0; STEP.min(usize::try_from(padded - done).unwrap_or(STEP))];
            let wanted = data
                .len()
                .min(usize::try_from(bytes - done).unwrap_or(STEP));
            let got = read_full(&mut input, &mut data[..wanted])
                .map_err(|e| file_failure("cannot read", &args.input, &e))?;
            if got < wanted {
                let message = format!("{} became shorter meanwhile", args.input.display());
                return Err(Failure::at_work(message));
            }
            sum.update(&data[..got]);
            let len = data.len() as u64;
            submit(&queue, Io::write(args.offset + done, data), done)?;
            done += len;
            continue;
        }
        let completion = next(context, &queue)?;
        progress.add(completion.data.len() as u64);
    }
    let flushed = flush(disk)?;
    let write_seconds = began.elapsed().as_secs_f64();
    drop(progress);

    if let Some((file, path)) = &output
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        file.set_len(0)
            .map_err(|e| file_failure("cannot write", path, &e))?;
    }
    let began = Instant::now();
    let mut progress = Progress::new("read", padded, context.json);
    let mut back = Back {
        sum: Sha256::new(),
        output,
        left: bytes,
        early: BTreeMap::new(),
        at: 0,
    };
    let mut asked = 0;
    while back.at < padded {
        // Bounded by what is out of order, too: not more than DEPTH steps are kept.
        if asked < padded && queue.outstanding() + back.early.len() < DEPTH {
            let len = STEP.min(usize::try_from(padded - asked).unwrap_or(STEP));
            submit(&queue, Io::read(args.offset + asked, len), asked)?;
            asked += len as u64;
            continue;
        }
        let completion = next(context, &queue)?;
        progress.add(completion.data.len() as u64);
        back.take(completion)?;
    }
    back.finish()?;
    let read_seconds = began.elapsed().as_secs_f64();
    let counters = disk.counters()?;
    let (sha256_input, sha256_output) = (hex(sum), hex(back.sum));
    Ok(Report {
        bytes,
        equal: sha256_input == sha256_output,
        sha256_input,
        sha256_output,
        flushed,
        write_seconds,
        read_seconds,
        requests: counters.requests,
        system_calls_per_request: counters.per_request(),
    })
}

fn submit(queue: &IoQueue, io: Io, tag: u64) -> Result<(), Failure> {
    queue
        .submit(io, tag)
        .map_err(|refused| FrontError::Io(refused.error).into())
}

fn next(context: &Context, queue: &IoQueue) -> Result<Completion, Failure> {
    loop {
        if context.stopped() {
            return Err(Context::interrupted());
        }
        if let Some(completion) = queue.next(LOOK) {
            return match completion.result {
                Ok(()) => Ok(completion),
                Err(error) => Err(FrontError::Io(error).into()),
            };
        }
        if queue.is_dead() {
            return Err(FrontError::ThreadGone("its log says why".into()).into());
        }
    }
}

/// What comes back, put in order.
struct Back<'a> {
    sum: Sha256,
    output: Option<(File, &'a PathBuf)>,
    /// Bytes of the file that are still to come; the rest is padding.
    left: u64,
    early: BTreeMap<u64, Vec<u8>>,
    at: u64,
}

impl Back<'_> {
    fn take(&mut self, completion: Completion) -> Result<(), Failure> {
        self.early.insert(completion.tag, completion.data);
        while let Some(data) = self.early.remove(&self.at) {
            self.at += data.len() as u64;
            let wanted = usize::try_from(self.left)
                .unwrap_or(usize::MAX)
                .min(data.len());
            self.left -= wanted as u64;
            self.sum.update(&data[..wanted]);
            if let Some((file, path)) = &mut self.output {
                let written = file.write_all(&data[..wanted]);
                written.map_err(|e| file_failure("cannot write", path, &e))?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if let Some((file, path)) = &mut self.output {
            file.sync_all()
                .map_err(|e| file_failure("cannot write", path, &e))?;
        }
        Ok(())
    }
}

fn hex(sum: Sha256) -> String {
    sum.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

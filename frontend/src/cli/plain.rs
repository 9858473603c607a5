//! `info`, `read` and `write`.

use super::context::{Context, Outcome, file_failure, is_standard};
use super::progress::Progress;
use crate::disk::Disk;
use crate::error::FrontError;
use crate::machine::IoError;
use clap::Args;
use pv_program::Failure;
use serde::Serialize;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

const STEP: usize = 1 << 20;

pub(super) fn info(context: &Context) -> Outcome {
    let disk = context.open()?;
    let info = disk.info().map_err(Failure::from);
    let info = context.finish(disk, info)?;
    context.print(&info, |info| {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        format!(
            "size              {} bytes ({} sectors of 512)\n\
             sector size       {} (physical {})\n\
             read-only         {}\n\
             flush             {}\n\
             persistent grants {}",
            info.bytes(),
            info.sectors,
            info.sector_size,
            info.physical_sector_size,
            yes(info.read_only),
            yes(info.flush),
            yes(info.persistent),
        )
    })
}

#[derive(Debug, Args)]
pub(super) struct Read {
    /// First byte, a whole sector.
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// How many bytes, whole sectors; to the end if not given.
    #[arg(long)]
    length: Option<u64>,
    /// Where to, `-` for standard output.
    #[arg(long, short, default_value = "-")]
    output: PathBuf,
}

pub(super) fn read(context: &Context, args: &Read) -> Outcome {
    let mut output: Box<dyn std::io::Write> = match is_standard(&args.output) {
        true => Box::new(std::io::stdout().lock()),
        false => Box::new(
            File::create(&args.output)
                .map_err(|e| file_failure("cannot write", &args.output, &e))?,
        ),
    };
    let disk = context.open()?;
    let work = (|| {
        let size = disk.info()?.bytes();
        let mut left = args
            .length
            .unwrap_or_else(|| size.saturating_sub(args.offset));
        let mut progress = Progress::new("read", left, is_standard(&args.output));
        let (mut at, mut buffer) = (args.offset, vec![0; STEP]);
        while left > 0 {
            if context.stopped() {
                return Err(Context::interrupted());
            }
            let step = usize::try_from(left).unwrap_or(STEP).min(STEP);
            disk.read_at(at, &mut buffer[..step])?;
            let written = output.write_all(&buffer[..step]);
            written.map_err(|e| file_failure("cannot write", &args.output, &e))?;
            (at, left) = (at + step as u64, left - step as u64);
            progress.add(step as u64);
        }
        output
            .flush()
            .map_err(|e| file_failure("cannot write", &args.output, &e))
    })();
    context.finish(disk, work)
}

#[derive(Debug, Args)]
pub(super) struct Write {
    /// First byte, a whole sector.
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Where from, `-` for standard input. The last sector is filled up with zeroes.
    #[arg(long, short, default_value = "-")]
    input: PathBuf,
}

#[derive(Serialize)]
struct Written {
    bytes: u64,
    padding: u64,
    flushed: bool,
}

pub(super) fn write(context: &Context, args: &Write) -> Outcome {
    let mut input: Box<dyn std::io::Read> = match is_standard(&args.input) {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(
            File::open(&args.input).map_err(|e| file_failure("cannot read", &args.input, &e))?,
        ),
    };
    let disk = context.open()?;
    let work = (|| {
        let sector = disk.info()?.sector_size.max(512) as usize;
        let mut written = Written {
            bytes: 0,
            padding: 0,
            flushed: false,
        };
        let mut buffer = vec![0; STEP];
        loop {
            if context.stopped() {
                return Err(Context::interrupted());
            }
            let got = read_full(&mut input, &mut buffer)
                .map_err(|e| file_failure("cannot read", &args.input, &e))?;
            if got == 0 {
                break;
            }
            let whole = got.next_multiple_of(sector);
            buffer[got..whole].fill(0);
            disk.write_at(args.offset + written.bytes, &buffer[..whole])?;
            written.bytes += got as u64;
            written.padding = (whole - got) as u64;
            if got < STEP {
                break;
            }
        }
        written.flushed = flush(&disk)?;
        Ok(written)
    })();
    let written = context.finish(disk, work)?;
    context.print(&written, |w| {
        let durable = if w.flushed {
            "flushed"
        } else {
            "not flushed: the back end cannot"
        };
        format!(
            "{} bytes written, {} of padding, {durable}",
            w.bytes, w.padding
        )
    })
}

/// Flushes; false if the back end cannot, which is its owner's choice and no failure.
pub(super) fn flush(disk: &Disk) -> Result<bool, Failure> {
    match disk.flush() {
        Ok(()) => Ok(true),
        Err(FrontError::Io(IoError::FlushNotSupported)) => {
            tracing::warn!(
                "the back end performs no flushes: nothing says that the data is durable"
            );
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads until the buffer is full or the input ends.
pub(super) fn read_full(
    input: &mut dyn std::io::Read,
    buffer: &mut [u8],
) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

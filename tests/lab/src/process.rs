//! The programs that a lab runs: QEMU, apt, cargo, make. What they say is heard as they say it, a
//! signal to us ends the wait, and none outlives the lab, however that ends.

use crate::error::{LabError, Result};
use crate::progress::Progress;
use mio::unix::SourceFd;
use mio::unix::pipe::Receiver;
use mio::{Events, Interest, Poll, Token};
use pv_harness::error::Error;
use pv_harness::processes::Signals;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const OUT: Token = Token(0);
const ERR: Token = Token(1);
const END: Token = Token(2);
const SIGNALS: Token = Token(3);
/// How much is taken from a pipe before others are looked at.
const PIECE: usize = 1 << 16;

/// What was heard of a program.
#[derive(Debug)]
pub enum Heard {
    /// It wrote this to its standard output.
    Out(Vec<u8>),
    /// It wrote this to its standard error.
    Err(Vec<u8>),
    /// It has ended, and everything that it wrote was heard.
    Ended(ExitStatus),
    /// Nothing, for as long as was asked.
    Nothing,
}

/// A program under way, in a process group of its own.
pub struct Running {
    child: Child,
    out: Option<Receiver>,
    err: Option<Receiver>,
    _pidfd: OwnedFd,
    poll: Poll,
    events: Events,
    signals: Signals,
}

/// Is there a program of this name, or at this path?
pub fn exists(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A program that the kernel ends when we end, however that comes about.
pub fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Running {
    /// Starts what [`mortal`] made, with both outputs to be heard.
    ///
    /// # Errors
    /// `setpriv` is missing; no room for another process.
    pub fn start(command: &mut Command) -> Result<Running> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| cannot_run("setpriv", "apt-get install util-linux", error))?;
        Running::watch(&mut child)
            .map_err(LabError::file(Path::new("setpriv")))
            .map(|(pidfd, poll, signals, out, err)| Running {
                child,
                out,
                err,
                _pidfd: pidfd,
                poll,
                events: Events::with_capacity(8),
                signals,
            })
    }

    #[allow(clippy::type_complexity, reason = "the parts of one struct")]
    fn watch(
        child: &mut Child,
    ) -> io::Result<(OwnedFd, Poll, Signals, Option<Receiver>, Option<Receiver>)> {
        let watched = (|| {
            let poll = Poll::new()?;
            let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
            let registry = poll.registry();
            registry.register(&mut SourceFd(&pidfd.as_raw_fd()), END, Interest::READABLE)?;
            let mut signals = Signals::register()?;
            registry.register(signals.source(), SIGNALS, Interest::READABLE)?;
            let listen = |pipe: Option<Receiver>, token| -> io::Result<Option<Receiver>> {
                let Some(mut pipe) = pipe else {
                    return Ok(None);
                };
                pipe.set_nonblocking(true)?;
                registry.register(&mut pipe, token, Interest::READABLE)?;
                Ok(Some(pipe))
            };
            let out = listen(child.stdout.take().map(Receiver::from), OUT)?;
            let err = listen(child.stderr.take().map(Receiver::from), ERR)?;
            Ok((pidfd, poll, signals, out, err))
        })();
        if watched.is_err() {
            end(child);
        }
        watched
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is heard next, within this time.
    ///
    /// # Errors
    /// [`Error::Interrupted`] at a signal to us; what the pipes say.
    pub fn next(&mut self, within: Duration) -> Result<Heard> {
        let failed = || LabError::file(Path::new("a program's output"));
        let until = Instant::now() + within;
        loop {
            if let Some(signal) = self.signals.caught() {
                return Err(LabError::Run(Error::Interrupted(signal)));
            }
            // Asked before the pipes: what it wrote last is in them by then.
            let status = self.child.try_wait().map_err(failed())?;
            if let Some(bytes) = take(&mut self.out).map_err(failed())? {
                return Ok(Heard::Out(bytes));
            }
            if let Some(bytes) = take(&mut self.err).map_err(failed())? {
                return Ok(Heard::Err(bytes));
            }
            if let Some(status) = status {
                return Ok(Heard::Ended(status));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Nothing);
            }
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(failed()(error));
                }
                _ => {}
            }
            if self.events.iter().any(|event| event.token() == SIGNALS) {
                self.signals.drain();
            }
        }
    }
}

/// What is in a pipe; `None` if nothing is.
fn take(pipe: &mut Option<Receiver>) -> io::Result<Option<Vec<u8>>> {
    let Some(open) = pipe else {
        return Ok(None);
    };
    let mut bytes = vec![0; PIECE];
    match open.read(&mut bytes) {
        Ok(0) => {
            *pipe = None;
            Ok(None)
        }
        Ok(n) => {
            bytes.truncate(n);
            Ok(Some(bytes))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            end(&mut self.child);
        }
    }
}

/// Ends it and what it started.
fn end(child: &mut Child) {
    // Not reaped yet, so the number is still its own.
    let _gone = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _reaped = child.wait();
}

/// What a program wrote until it ended.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a program to its end; `each` hears the lines of its standard error meanwhile.
///
/// # Errors
/// It is not installed (`install` says how to), or we were interrupted.
pub fn hear(
    command: &mut Command,
    program: &'static str,
    install: &'static str,
    each: &mut dyn FnMut(&str),
) -> Result<Said> {
    if !exists(program) {
        return Err(LabError::Missing { program, install });
    }
    let mut running = Running::start(command)?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut lines = Lines::default();
    loop {
        match running.next(Duration::from_secs(3600))? {
            Heard::Out(bytes) => out.extend(bytes),
            Heard::Err(bytes) => {
                for line in lines.push(&bytes) {
                    each(&line);
                }
                err.extend(bytes);
            }
            Heard::Nothing => {}
            Heard::Ended(status) => {
                return Ok(Said {
                    status,
                    out: String::from_utf8_lossy(&out).into_owned(),
                    err: String::from_utf8_lossy(&err).into_owned(),
                });
            }
        }
    }
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// As [`hear`]; [`LabError::Failed`] with the cause that it gave, and with what `context` says:
/// what it was to do, and the cure.
pub fn run(
    progress: &Progress,
    command: &mut Command,
    program: &'static str,
    install: &'static str,
    context: impl FnOnce() -> (String, String),
) -> Result<String> {
    progress.check()?;
    let said = hear(command, program, install, &mut |_| {})?;
    if said.status.success() {
        return Ok(said.out);
    }
    let (doing, cure) = context();
    let cause = cause(&said.err);
    Err(LabError::Failed { doing, cause, cure })
}

/// What of a program's last words says why: compilers begin with it, and make and cargo end with
/// what followed from it.
pub fn cause(stderr: &str) -> String {
    let mut lines = stderr.lines().map(str::trim).filter(|l| !l.is_empty());
    let compiler = |line: &&str| line.contains("error:") || line.contains("error[");
    if let Some(first) = lines.clone().find(compiler) {
        return first.to_owned();
    }
    let mut last: Vec<&str> = lines.by_ref().collect();
    last.drain(..last.len().saturating_sub(3));
    last.join("; ")
}

/// A program that could not be started.
pub fn cannot_run(program: &'static str, install: &'static str, error: io::Error) -> LabError {
    if error.kind() == ErrorKind::NotFound {
        LabError::Missing { program, install }
    } else {
        LabError::File {
            path: program.into(),
            error,
        }
    }
}

/// Bytes as lines. A line that does not end within [`Lines::LONGEST`] bytes ends there.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// What a machine may send without ending a line.
    const LONGEST: usize = 1 << 16;

    /// The lines that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend(bytes);
        let mut lines = Vec::new();
        loop {
            let end = match self.pending.iter().position(|&b| b == b'\n') {
                Some(end) => end,
                None if self.pending.len() >= Self::LONGEST => Self::LONGEST - 1,
                None => return lines,
            };
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn the_first_error_of_a_compiler_is_the_cause_and_else_the_end() {
        let make = "cc: note: x\ngcc: error: unrecognized command-line option\nmake: *** Error 1\n";
        assert_eq!(cause(make), "gcc: error: unrecognized command-line option");
        assert_eq!(
            cause("a\nb\n\nE: c\nE: Some files failed.\n"),
            "b; E: c; E: Some files failed."
        );
    }

    #[test]
    fn lines_come_when_they_are_complete_and_an_endless_one_is_cut() {
        let mut lines = Lines::default();
        assert!(lines.push(b"a\r\nb").len() == 1);
        assert_eq!(lines.push(b"c\n"), ["bc"]);
        let cut = lines.push(&vec![b'x'; Lines::LONGEST + 1]);
        assert_eq!(cut[0].len(), Lines::LONGEST);
        assert_eq!(lines.push(b"\n"), ["x"]);
    }

    #[test]
    fn everything_is_heard_before_the_end() {
        let mut command = mortal("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let mut heard = Vec::new();
        let said = hear(&mut command, "sh", "", &mut |line| {
            heard.push(line.to_owned());
        })
        .unwrap();
        assert_eq!(said.status.code(), Some(3));
        assert_eq!((said.out.as_str(), said.err.as_str()), ("out\n", "err\n"));
        assert_eq!(heard, ["err"]);
    }

    #[test]
    fn what_is_dropped_ends_with_all_that_it_started() {
        let mut command = mortal("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let mut running = Running::start(&mut command).unwrap();
        let Heard::Out(out) = running.next(Duration::from_secs(20)).unwrap() else {
            panic!("it says the sleeper's number");
        };
        let sleeper: i32 = String::from_utf8(out).unwrap().trim().parse().unwrap();
        let sleeper = pidfd_open(Pid::from_raw(sleeper).unwrap(), PidfdFlags::empty()).unwrap();
        drop(running);
        let mut ended = [PollFd::new(&sleeper, PollFlags::IN)];
        let within = Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut ended, Some(&within)).unwrap(), 1);
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_what_installs_it() {
        let error = hear(
            &mut mortal("no-such-thing"),
            "no-such-thing",
            "do so",
            &mut |_| {},
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "no-such-thing is not installed; run: do so"
        );
    }
}

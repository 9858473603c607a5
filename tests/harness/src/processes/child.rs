//! One child process: in a process group of its own, so that whatever it forks goes with it; its
//! output in files; its end seen through a pidfd.

use super::blocked::Stat;
use super::control::Control;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// SIGKILL ends a process within this, unless its kernel keeps it.
const DEATH: Duration = Duration::from_secs(10);

/// A running child, or one that has ended.
#[derive(Debug)]
pub struct Child {
    /// Unique in a run.
    pub name: String,
    /// Where it is told what to do, and says what it does; `None` once it has closed it.
    pub control: Option<Control>,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// Its end is none of its own doing.
    pub killed_by_us: bool,
    /// What it forked may go on without it: a shell's background jobs.
    pub may_leave: bool,
    /// Processes it forked that were alive when it ended.
    pub stragglers: Vec<u32>,
    /// SIGKILL did not end it.
    is_kept: bool,
    process: std::process::Child,
    exit: Option<ExitStatus>,
    stderr: PathBuf,
    /// Where it records.
    pub timeline: PathBuf,
}

/// Where a child's output goes.
pub struct Files {
    /// Standard output.
    pub stdout: PathBuf,
    /// Standard error.
    pub stderr: PathBuf,
    /// What it records; the child opens it by itself.
    pub timeline: PathBuf,
}

impl Child {
    /// Starts it, with a control socket as its standard input.
    ///
    /// # Errors
    /// What creating the files, or fork and exec, say.
    pub fn spawn(
        name: &str,
        program: &OsString,
        args: &[OsString],
        files: Files,
    ) -> io::Result<Child> {
        let (ours, theirs) = Control::pair()?;
        let process = Command::new(program)
            .args(args)
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(File::create(&files.stdout)?)
            .stderr(File::create(&files.stderr)?)
            .process_group(0)
            .spawn()?;
        let pidfd = match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let mut process = process;
                process.kill()?;
                process.wait()?;
                return Err(errno.into());
            }
        };
        Ok(Child {
            name: name.to_owned(),
            control: Some(ours),
            pidfd,
            killed_by_us: false,
            may_leave: false,
            stragglers: Vec::new(),
            is_kept: false,
            process,
            exit: None,
            stderr: files.stderr,
            timeline: files.timeline,
        })
    }

    /// The pid, which is also its process group's.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<ExitStatus> {
        self.exit
    }

    /// Reaps it, which must have ended (its pidfd is readable), and kills what it forked and may
    /// not leave.
    ///
    /// # Errors
    /// What `kill` and `wait` say.
    pub fn reap(&mut self) -> io::Result<ExitStatus> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        if !self.may_leave || self.killed_by_us {
            self.stragglers = group_members(self.pid());
            // Before the wait: a zombie keeps its number, so the group cannot be somebody else's.
            self.signal_group(Signal::KILL)?;
        }
        let exit = self.process.wait()?;
        self.exit = Some(exit);
        Ok(exit)
    }

    /// Kills the child and all it forked, and reaps it.
    ///
    /// # Errors
    /// As [`Child::reap`]; `TimedOut` if its kernel keeps it all the same.
    pub fn kill_and_reap(&mut self) -> io::Result<ExitStatus> {
        if self.exit.is_none() {
            self.signal_group(Signal::KILL)?;
            let limit = if self.is_kept { Duration::ZERO } else { DEATH };
            self.is_kept = !self.has_ended(limit)?;
            if self.is_kept {
                let what = "its kernel keeps it (state D), deaf to SIGKILL";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
        }
        self.reap()
    }

    /// Waits for its end, which is an event of the pidfd.
    fn has_ended(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        loop {
            match poll(&mut fds, Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                polled => return Ok(polled? > 0),
            }
        }
    }

    /// Sends a signal to it and all it forked. It is no error if they are gone.
    ///
    /// # Errors
    /// What `kill` says.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        match kill_process_group(Pid::from_child(&self.process), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The end of what it wrote to standard error.
    pub fn stderr_tail(&self) -> String {
        const TAIL: u64 = 2000;
        let mut text = Vec::new();
        let read = File::open(&self.stderr).and_then(|mut file| {
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
            file.take(TAIL).read_to_end(&mut text)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&text).trim().to_owned(),
            Err(error) => format!("(its standard error cannot be read: {error})"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = self.kill_and_reap() {
            tracing::error!(child = self.name, %error, "cannot end it");
        }
    }
}

/// The living members of a process group, its leader aside.
fn group_members(leader: u32) -> Vec<u32> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid != leader && group_of(&entry.path()) == Some(leader) {
            members.push(pid);
        }
    }
    members
}

/// The process group of a process that is no zombie.
fn group_of(process: &Path) -> Option<u32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let stat = Stat::parse(&stat)?;
    (stat.state != "Z").then_some(stat.group)
}

/// An exit status, in words.
pub fn describe(exit: ExitStatus) -> String {
    match (exit.code(), exit.signal()) {
        (Some(0), _) => "ended well".into(),
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!(
            "killed by signal {signal}{}",
            signal_hook::low_level::signal_name(signal)
                .map_or_else(String::new, |name| format!(" ({name})"))
        ),
        (None, None) => "ended".into(),
    }
}

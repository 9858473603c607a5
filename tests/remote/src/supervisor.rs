//! What runs in a domain: starts processes for a run in dom0, over the domain's console.

use super::link::{Input, Link, MAX_BACKLOG};
use super::message::{
    About, Answer, Assembler, End, FileKind, FromDomain, Packed, Question, ToDomain, encode,
};
use super::terminal::Terminal;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pv_harness::holder::{kernel_holder, links_left};
use pv_harness::processes::{Autopsy, Blocked, Child, Files, Start};
use pv_harness::timeline::now_ns;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

const CONSOLE: Token = Token(0);
/// A console driver may have room again without saying so.
const RETRY: Duration = Duration::from_millis(20);
/// What the kernel may take to take down the devices of holders that have ended.
const LINKS_GO: Duration = Duration::from_secs(10);

/// Serves a run in dom0 for as long as the console is there.
///
/// # Errors
/// If the console or this program's own executable cannot be opened, or the console fails.
pub fn supervise(console: &Path) -> io::Result<()> {
    let mut terminal = Terminal::open(console)?;
    // The console is our wire now: only panics may still come in between.
    if let Err(error) = fs::write("/proc/sys/kernel/printk", "1") {
        tracing::warn!(%error, "the kernel stays talkative");
    }
    let poll = Poll::new()?;
    poll.registry().register(
        &mut SourceFd(&terminal.raw()),
        CONSOLE,
        Interest::READABLE | Interest::WRITABLE,
    )?;
    let dir = tempfile::Builder::new()
        .prefix("pv-supervisor-")
        .tempdir()?;
    let mut domain = Domain {
        poll,
        link: Link::follower(),
        assembler: Assembler::default(),
        children: BTreeMap::new(),
        dir: dir.path().to_owned(),
        program: std::env::current_exe()?.into_os_string(),
        kernel_log: KernelLog::open(),
    };
    let mut events = Events::with_capacity(64);
    // Two of each child at most.
    let mut heard = BTreeSet::new();
    loop {
        let output = domain.link.output(Instant::now());
        terminal.write(&output)?;
        let due = domain
            .link
            .due()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = if terminal.is_pending() {
            Some(RETRY)
        } else {
            due
        };
        match domain.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        // Asked whatever woke us: a console driver's wake-ups are not to be relied on.
        domain.input(&terminal.read()?);
        let children = events.iter().map(|event| event.token());
        heard.extend(children.filter(|token| *token != CONSOLE));
        // The others' news wait where they are; an acknowledgement wakes this loop.
        while domain.link.backlog() < MAX_BACKLOG
            && let Some(token) = heard.pop_first()
        {
            domain.child_event(token);
        }
    }
}

struct Domain {
    poll: Poll,
    link: Link,
    assembler: Assembler,
    children: BTreeMap<u32, Child>,
    dir: PathBuf,
    program: OsString,
    kernel_log: KernelLog,
}

impl Domain {
    fn say(&mut self, message: &FromDomain) {
        for part in encode(message) {
            self.link.send(&part);
        }
    }

    fn input(&mut self, bytes: &[u8]) {
        let session = self.link.session();
        for input in self.link.input(bytes, Instant::now()) {
            let Input::Message(payload) = input else {
                continue;
            };
            if self.link.session() != session {
                self.assembler = Assembler::default();
            }
            match self.assembler.push::<ToDomain>(&payload) {
                Ok(Some(message)) => self.obey(message),
                Ok(None) => {}
                Err(error) => tracing::warn!(error, "from dom0"),
            }
        }
    }

    fn obey(&mut self, message: ToDomain) {
        match message {
            ToDomain::Hello => {
                for child in self.children.values_mut() {
                    child.killed_by_us = true;
                    signal(child);
                }
                self.say(&FromDomain::Welcome(about()));
            }
            ToDomain::Ping => self.say(&FromDomain::Pong(now_ns())),
            ToDomain::Spawn(id, name, assignment) => {
                let start = Start {
                    name,
                    parent: std::process::id(),
                    timeline: self.path(id, FileKind::Timeline),
                    assignment,
                };
                match start.args() {
                    Ok(args) => self.start(id, &start.name, self.program.clone(), args),
                    Err(error) => self.say(&FromDomain::Refused(id, error.to_string())),
                }
            }
            ToDomain::Shell(id, text) => {
                let args = vec!["-c".into(), text.into()];
                self.start(id, "shell", "/bin/sh".into(), args);
                if let Some(shell) = self.children.get_mut(&id) {
                    shell.may_leave = true;
                }
            }
            ToDomain::Order(id, order) => {
                let order: Result<serde_json::Value, _> = serde_json::from_str(&order);
                let control = self
                    .children
                    .get(&id)
                    .and_then(|child| child.control.as_ref());
                if let (Some(control), Ok(order)) = (control, order)
                    && let Err(error) = control.send(&order)
                {
                    tracing::debug!(%error, "an order");
                }
            }
            ToDomain::Kill(id) => {
                if let Some(child) = self.children.get_mut(&id) {
                    child.killed_by_us = true;
                    signal(child);
                }
            }
            ToDomain::Ask(number, question) => {
                let answer = self.answer(question);
                self.say(&FromDomain::Answer(number, answer));
            }
        }
    }

    fn path(&self, id: u32, kind: FileKind) -> PathBuf {
        let session = self.link.session();
        let extension = match kind {
            FileKind::Timeline => "jsonl",
            FileKind::Stderr => "err",
            FileKind::Stdout => "out",
        };
        self.dir.join(format!("{session:x}-{id}.{extension}"))
    }

    fn start(&mut self, id: u32, name: &str, program: OsString, args: Vec<OsString>) {
        let files = Files {
            stdout: self.path(id, FileKind::Stdout),
            stderr: self.path(id, FileKind::Stderr),
            timeline: self.path(id, FileKind::Timeline),
        };
        let started = Child::spawn(name, &program, &args, files).and_then(|child| {
            let (exit, news) = tokens(id);
            let registry = self.poll.registry();
            registry.register(
                &mut SourceFd(&child.pidfd.as_raw_fd()),
                exit,
                Interest::READABLE,
            )?;
            if let Some(control) = &child.control {
                let fd = control.as_fd().as_raw_fd();
                registry.register(&mut SourceFd(&fd), news, Interest::READABLE)?;
            }
            Ok(child)
        });
        match started {
            Ok(child) => drop(self.children.insert(id, child)),
            Err(error) => self.say(&FromDomain::Refused(id, error.to_string())),
        }
    }

    fn child_event(&mut self, token: Token) {
        let (id, is_news) = from_token(token);
        self.pass_news(id);
        if !is_news {
            self.bury(id);
        }
    }

    fn pass_news(&mut self, id: u32) {
        let mut news = Vec::new();
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        while let Some(control) = &child.control {
            match control.try_recv::<serde_json::Value>() {
                Ok(Some(value)) => news.push(value.to_string()),
                Ok(None) => break,
                Err(_) => {
                    let fd = control.as_fd().as_raw_fd();
                    let _gone = self.poll.registry().deregister(&mut SourceFd(&fd));
                    child.control = None;
                }
            }
        }
        for news in news {
            self.say(&FromDomain::News(id, news));
        }
    }

    /// Sends what an ended child left, and its end.
    fn bury(&mut self, id: u32) {
        let Some(mut child) = self.children.remove(&id) else {
            return;
        };
        let _gone = self
            .poll
            .registry()
            .deregister(&mut SourceFd(&child.pidfd.as_raw_fd()));
        let exit = child.reap();
        for kind in [FileKind::Timeline, FileKind::Stderr, FileKind::Stdout] {
            let path = self.path(id, kind);
            match fs::read(&path).and_then(|bytes| Packed::pack(&bytes)) {
                Ok(packed) => self.say(&FromDomain::Left(id, kind, packed)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, path = %path.display(), "what a process left"),
            }
            // Not there for every kind.
            let _none = fs::remove_file(path);
        }
        match exit {
            Ok(exit) => {
                let stragglers = std::mem::take(&mut child.stragglers);
                self.say(&FromDomain::Exited(id, end(exit), stragglers));
            }
            Err(error) => self.say(&FromDomain::Refused(id, error.to_string())),
        }
    }

    fn answer(&mut self, question: Question) -> Result<Answer, String> {
        let said = |error: io::Error| error.to_string();
        let done = |result: io::Result<()>| result.map(|()| Answer::Done).map_err(said);
        match question {
            Question::Autopsy(id) => {
                let look = |child: &Child| Autopsy::of(&child.name, child.pid(), &child.timeline);
                Ok(Answer::Autopsy(self.children.get(&id).map(look)))
            }
            Question::Blocked => {
                let ours: Vec<_> = (self.children.values())
                    .map(|child| (child.name.clone(), child.pid()))
                    .collect();
                Ok(Answer::Blocked(Blocked::here(&ours)))
            }
            Question::Timeline(id) => {
                let bytes = fs::read(self.path(id, FileKind::Timeline)).map_err(said)?;
                Packed::pack(&bytes).map(Answer::Bytes).map_err(said)
            }
            Question::KernelLog => Ok(Answer::Lines(self.kernel_log.new_lines())),
            Question::MakeFile(path, bytes) => {
                done(fs::File::create(&path).and_then(|file| file.set_len(bytes)))
            }
            Question::MakeDir(path) => done(fs::create_dir_all(&path)),
            Question::Remove(path) => done(fs::remove_file(&path)),
            Question::RemoveDir(path) => {
                let mut left = pv_harness::processes::sockets_below(&path);
                fs::remove_dir_all(&path).map_err(said)?;
                // What hangs keeps its devices for ever.
                let patience = if self.children.is_empty() {
                    LINKS_GO
                } else {
                    Duration::ZERO
                };
                left.extend(links_left(patience));
                Ok(Answer::Lines(left))
            }
            Question::Digests(path, stretches) => {
                let digest = |&(offset, bytes)| pv_harness::digest::digest(&path, offset, bytes);
                let digests: io::Result<Vec<String>> = stretches.iter().map(digest).collect();
                digests.map(Answer::Digests).map_err(said)
            }
            Question::CanHold(name) => {
                match kernel_holder(name).and_then(|holder| holder.try_out()) {
                    Ok(_) => Ok(Answer::Done),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }
}

/// A blocked process stays; its end, if it comes, is seen through its pidfd.
fn signal(child: &Child) {
    if let Err(error) = child.signal_group(Signal::KILL) {
        tracing::warn!(%error, child = child.name, "killing");
    }
}

fn end(exit: ExitStatus) -> End {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}

fn about() -> About {
    let text = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    About {
        kernel: text("/proc/sys/kernel/osrelease"),
        guest_type: text("/sys/hypervisor/guest_type"),
        unmap_waits: pv_harness::kernel::unmap_waits(),
        clocksource: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }
}

fn tokens(id: u32) -> (Token, Token) {
    (Token(2 + id as usize * 2), Token(3 + id as usize * 2))
}

fn from_token(token: Token) -> (u32, bool) {
    // Every token but the console's was made from an id.
    (
        u32::try_from((token.0 - 2) / 2).unwrap_or(u32::MAX),
        token.0 % 2 == 1,
    )
}

/// The kernel's own messages.
struct KernelLog {
    file: Option<fs::File>,
}

impl KernelLog {
    fn open() -> KernelLog {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        KernelLog {
            file: open("/dev/kmsg", flags, Mode::empty()).ok().map(Into::into),
        }
    }

    fn new_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        while let Some(file) = &mut self.file {
            match file.read(&mut record) {
                Ok(n) if n > 0 => {
                    lines.extend(crate::kmsg::kernel_line(&String::from_utf8_lossy(
                        &record[..n],
                    )));
                }
                // Overwritten before we read it: the next read goes on after the gap.
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        lines
    }
}

//! The run's end of one domain's console: a thread that passes messages between the domain's
//! supervisor and the proxies of the processes in it, and writes what those left.

use super::clock::Clock;
use super::link::{Input, Link};
use super::message::{
    About, Answer, Assembler, End, FileKind, FromDomain, Packed, Question, ToDomain, encode,
};
use super::proxy::{ToProxy, ToStart};
use super::shared::Shared;
use super::terminal::Terminal;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use mio::net::{UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use pv_harness::timeline::{Event, Record, now_ns};
use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CONSOLE: Token = Token(0);
const WAKE: Token = Token(1);
const LISTENER: Token = Token(2);
const FIRST_PROXY: usize = 3;
const RETRY: Duration = Duration::from_millis(20);
/// Questions about the clock at a session's start, one after the other.
const PINGS: u32 = 24;
/// And from then on, as often.
const PING_EVERY: Duration = Duration::from_secs(2);
/// No line of a proxy is longer.
const MAX_LINE: usize = 1 << 20;

/// Commands that wait for the thread. The run asks one thing at a time, and waits for the answer; more
/// than a few only come together when answers fail to come.
const MAX_COMMANDS: usize = 16;

/// How a shell command ended, and what it wrote; or why it did not.
pub(super) type ShellEnd = Result<(End, Vec<u8>), String>;

/// What the run asks the thread.
pub(super) enum Command {
    /// Pass a question on.
    Ask(Question, Sender<Result<Answer, String>>),
    /// Run a shell command.
    Shell(String, Sender<ShellEnd>),
}

/// A running relay. Dropping it ends its thread.
pub struct Relay {
    /// Without it the thread ends.
    commands: Option<Sender<Command>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    /// What the thread knows.
    pub(super) shared: Arc<Shared>,
    socket: PathBuf,
}

impl Relay {
    /// Takes a domain's console over, and serves proxies on a socket.
    ///
    /// # Errors
    /// What opening, binding and starting a thread say.
    pub fn start(console: &Path, socket: &Path, session: u32) -> io::Result<Relay> {
        let terminal = Terminal::open(console)?;
        let poll = Poll::new()?;
        let mut listener = UnixListener::bind(socket)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut SourceFd(&terminal.raw()), CONSOLE, both)?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let (commands, receiver) = bounded(MAX_COMMANDS);
        let shared = Arc::new(Shared::default());
        let mut thread = Thread {
            terminal,
            poll,
            listener,
            commands: receiver,
            link: Link::leader(session),
            assembler: Assembler::default(),
            proxies: HashMap::new(),
            processes: BTreeMap::new(),
            asked: HashMap::new(),
            next: 0,
            clock: Clock::default(),
            pinged: None,
            pings_left: PINGS,
            next_ping: Instant::now(),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || {
                if let Err(error) = thread.run() {
                    thread.shared.fail(&format!("its console: {error}"));
                }
            })?;
        Ok(Relay {
            commands: Some(commands),
            waker,
            thread: Some(thread),
            shared,
            socket: socket.to_owned(),
        })
    }

    /// Hands the thread a command. Where the thread is gone, or has not taken [`MAX_COMMANDS`] earlier
    /// ones, the command is dropped: the answer's channel closes, which its reader sees.
    pub(super) fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _dropped = commands.try_send(command);
        }
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "waking the relay");
        }
    }

    /// Where proxies find it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.commands = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        let _gone = std::fs::remove_file(&self.socket);
    }
}

struct Proxy {
    stream: UnixStream,
    line: Vec<u8>,
    process: Option<u32>,
}

/// A process in the domain.
struct Process {
    proxy: Option<Token>,
    timeline: PathBuf,
    shell: Option<Sender<ShellEnd>>,
    output: Vec<u8>,
}

struct Thread {
    terminal: Terminal,
    poll: Poll,
    listener: UnixListener,
    commands: Receiver<Command>,
    link: Link,
    assembler: Assembler,
    proxies: HashMap<Token, Proxy>,
    processes: BTreeMap<u32, Process>,
    asked: HashMap<u32, Sender<Result<Answer, String>>>,
    next: u32,
    clock: Clock,
    pinged: Option<u64>,
    pings_left: u32,
    next_ping: Instant,
    shared: Arc<Shared>,
}

impl Thread {
    fn run(&mut self) -> io::Result<()> {
        self.say(&ToDomain::Hello);
        let mut events = Events::with_capacity(64);
        loop {
            self.ping_if_due();
            let output = self.link.output(Instant::now());
            self.terminal.write(&output)?;
            let mut timeout = PING_EVERY;
            if let Some(due) = self.link.due() {
                timeout = timeout.min(due.saturating_duration_since(Instant::now()));
            }
            if self.terminal.is_pending() {
                timeout = timeout.min(RETRY);
            }
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let bytes = self.terminal.read()?;
            self.input(&bytes);
            for token in events
                .iter()
                .map(mio::event::Event::token)
                .collect::<Vec<_>>()
            {
                match token {
                    CONSOLE => {}
                    WAKE => {
                        if !self.obey() {
                            return Ok(());
                        }
                    }
                    LISTENER => self.accept()?,
                    proxy => self.proxy_event(proxy),
                }
            }
        }
    }

    fn say(&mut self, message: &ToDomain) {
        for part in encode(message) {
            self.link.send(&part);
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn ping_if_due(&mut self) {
        // Only on an idle line: a ping behind other frames would tell little.
        let idle = self.link.backlog() == 0 && self.pinged.is_none();
        if self.shared.is_welcome()
            && idle
            && (self.pings_left > 0 || Instant::now() >= self.next_ping)
        {
            self.pings_left = self.pings_left.saturating_sub(1);
            self.next_ping = Instant::now() + PING_EVERY;
            self.say(&ToDomain::Ping);
            self.pinged = Some(now_ns());
        }
    }

    /// False: the end.
    fn obey(&mut self) -> bool {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            match command {
                Command::Ask(question, answer) => {
                    let number = self.number();
                    self.asked.insert(number, answer);
                    self.say(&ToDomain::Ask(number, question));
                }
                Command::Shell(text, answer) => {
                    let id = self.number();
                    let process = Process {
                        proxy: None,
                        timeline: PathBuf::new(),
                        shell: Some(answer),
                        output: Vec::new(),
                    };
                    self.processes.insert(id, process);
                    self.shared.update(|state| state.begin(id, "shell"));
                    self.say(&ToDomain::Shell(id, text));
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let token = Token(FIRST_PROXY + self.number() as usize);
            self.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE)?;
            self.proxies.insert(
                token,
                Proxy {
                    stream,
                    line: Vec::new(),
                    process: None,
                },
            );
        }
    }

    fn proxy_event(&mut self, token: Token) {
        let Some(proxy) = self.proxies.get_mut(&token) else {
            return;
        };
        let mut bytes = [0; 4096];
        let gone = loop {
            match proxy.stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(n) if proxy.line.len() + n <= MAX_LINE => proxy.line.extend(&bytes[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break true,
            }
        };
        let mut lines = Vec::new();
        while let Some(end) = proxy.line.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = proxy.line.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        for line in lines {
            self.proxy_line(token, line);
        }
        if gone {
            self.forget_proxy(token);
        }
    }

    fn proxy_line(&mut self, token: Token, line: String) {
        let known = self.proxies.get(&token).and_then(|proxy| proxy.process);
        if let Some(id) = known {
            self.say(&ToDomain::Order(id, line));
            return;
        }
        let start: ToStart = match serde_json::from_str(&line) {
            Ok(start) => start,
            Err(error) => {
                self.tell(
                    token,
                    &ToProxy::Refused(format!("no request to start: {error}")),
                );
                return;
            }
        };
        if let Some(why) = self.shared.failure() {
            self.tell(token, &ToProxy::Refused(why));
            return;
        }
        let id = self.number();
        if let Some(proxy) = self.proxies.get_mut(&token) {
            proxy.process = Some(id);
        }
        self.shared.update(|state| state.begin(id, &start.name));
        let process = Process {
            proxy: Some(token),
            timeline: start.timeline,
            shell: None,
            output: Vec::new(),
        };
        self.processes.insert(id, process);
        self.say(&ToDomain::Spawn(id, start.name, start.assignment));
    }

    /// A proxy that goes before its process takes it along.
    fn forget_proxy(&mut self, token: Token) {
        let Some(mut proxy) = self.proxies.remove(&token) else {
            return;
        };
        let _gone = self.poll.registry().deregister(&mut proxy.stream);
        if let Some(id) = proxy.process
            && let Some(process) = self.processes.get_mut(&id)
        {
            process.proxy = None;
            self.shared.update(|state| state.kill(id));
            self.say(&ToDomain::Kill(id));
        }
    }

    fn tell(&mut self, token: Token, message: &ToProxy) {
        let Some(proxy) = self.proxies.get_mut(&token) else {
            return;
        };
        let written = serde_json::to_vec(message)
            .map_err(io::Error::other)
            .and_then(|mut line| {
                line.push(b'\n');
                // A proxy reads all the time; one that does not is as good as dead.
                proxy.stream.write_all(&line)
            });
        if let Err(error) = written {
            tracing::debug!(%error, "a proxy");
            self.forget_proxy(token);
        }
    }

    fn input(&mut self, bytes: &[u8]) {
        for input in self.link.input(bytes, Instant::now()) {
            self.shared.update(|state| state.said += 1);
            match input {
                Input::Stray(line) => self.stray(line),
                Input::Message(payload) => match self.assembler.push::<FromDomain>(&payload) {
                    Ok(Some(message)) => self.heard(message),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(error, "from a domain"),
                },
            }
        }
    }

    fn stray(&mut self, line: String) {
        if let Some(at) = line.find("Kernel panic") {
            self.fail(&line[at..]);
        }
        self.shared.update(|state| state.stray(line));
    }

    /// Nothing more will come from the domain.
    fn fail(&mut self, why: &str) {
        self.shared.fail(why);
        for (_, answer) in self.asked.drain() {
            let _gone = answer.send(Err(why.to_owned()));
        }
        let tokens: Vec<Token> = self.proxies.keys().copied().collect();
        for token in tokens {
            self.tell(token, &ToProxy::Refused(why.to_owned()));
        }
        self.processes.clear();
    }

    fn heard(&mut self, message: FromDomain) {
        match message {
            FromDomain::Welcome(about) => self.welcome(about),
            FromDomain::Pong(theirs) => {
                if let Some(asked) = self.pinged.take() {
                    self.clock.exchanged(asked, theirs, now_ns());
                    let clock = self.clock;
                    let settled = self.pings_left == 0;
                    self.shared.update(|state| {
                        state.clock = clock;
                        state.clock_is_settled |= settled;
                    });
                }
            }
            FromDomain::News(id, news) => self.pass(id, &ToProxy::News(news)),
            FromDomain::Left(id, kind, packed) => {
                if let Err(error) = self.keep(id, kind, &packed) {
                    tracing::warn!(%error, "what a process left");
                    self.shared
                        .update(|state| state.left_over.push(error.to_string()));
                }
            }
            FromDomain::Exited(id, end, stragglers) => self.ended(id, end, &stragglers),
            FromDomain::Refused(id, why) => {
                self.pass(id, &ToProxy::Refused(why.clone()));
                if let Some(answer) = self.processes.remove(&id).and_then(|process| process.shell) {
                    let _gone = answer.send(Err(why));
                }
                self.shared.update(|state| state.end(id, &[]));
            }
            FromDomain::Answer(number, answer) => {
                if let Some(asker) = self.asked.remove(&number) {
                    let _gone = asker.send(answer);
                }
            }
        }
    }

    fn welcome(&mut self, about: About) {
        self.shared.update(|state| state.about = Some(about));
    }

    fn pass(&mut self, id: u32, message: &ToProxy) {
        if let Some(token) = self.processes.get(&id).and_then(|process| process.proxy) {
            self.tell(token, message);
        }
    }

    fn ended(&mut self, id: u32, end: End, stragglers: &[u32]) {
        let message = match end {
            End::Code(code) => ToProxy::Code(code),
            End::Signal(signal) => ToProxy::Signal(signal),
        };
        self.pass(id, &message);
        if let Some(process) = self.processes.remove(&id) {
            // From here on the proxy ends by itself.
            if let Some(proxy) = process.proxy.and_then(|token| self.proxies.get_mut(&token)) {
                proxy.process = None;
            }
            if let Some(answer) = process.shell {
                let _gone = answer.send(Ok((end, process.output)));
            }
        }
        self.shared.update(|state| state.end(id, stragglers));
    }

    /// Writes what a process left to where a process of this machine would have.
    fn keep(&mut self, id: u32, kind: FileKind, packed: &Packed) -> io::Result<()> {
        let bytes = packed.unpack()?;
        let clock = self.clock;
        let Some(process) = self.processes.get_mut(&id) else {
            return Ok(());
        };
        if process.shell.is_some() {
            if kind != FileKind::Timeline {
                process.output.extend(bytes);
            }
            return Ok(());
        }
        let (path, bytes) = match kind {
            FileKind::Timeline => (process.timeline.clone(), translated(&bytes, &clock)?),
            FileKind::Stderr => (process.timeline.with_extension("err"), bytes),
            FileKind::Stdout => (process.timeline.with_extension("out"), bytes),
        };
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?
            .write_all(&bytes)
    }
}

/// A timeline with its stamps on our clock, and a note of how good they are.
pub(super) fn translated(lines: &[u8], clock: &Clock) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|&b| b == b'\n') {
        // A killed process may have torn its last one.
        let Some(line) = line.strip_suffix(b"\n") else {
            break;
        };
        let mut record: Record = serde_json::from_slice(line)?;
        record.ns = clock.translate(record.ns);
        if out.is_empty() {
            let known = clock.uncertainty().unwrap_or(Duration::MAX);
            let text = format!("another domain's clock; its stamps are off by at most {known:?}");
            let note = Record {
                event: Event::Note { text },
                ..record.clone()
            };
            out.extend(serde_json::to_vec(&note)?);
            out.push(b'\n');
        }
        out.extend(serde_json::to_vec(&record)?);
        out.push(b'\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_translated_and_says_how_well() {
        let mut clock = Clock::default();
        clock.exchanged(1_000_000, 100, 1_000_200);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let timeline = pv_harness::timeline::Timeline::create(&path, "back-end").unwrap();
        timeline.log(Event::Finished);
        let mut bytes = std::fs::read(&path).unwrap();
        let before: Record = serde_json::from_slice(&bytes).unwrap();
        bytes.extend(b"{\"ns\":1,torn");
        let out = translated(&bytes, &clock).unwrap();
        let lines: Vec<Record> = out
            .split(|&b| b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert!(matches!(&lines[0].event, Event::Note { text } if text.contains("100ns")));
        assert_eq!(lines[1].ns, before.ns + 1_000_000);
    }
}

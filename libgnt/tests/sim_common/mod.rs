//! What the simulated Xen's tests share: a host in a thread, and children that are this test
//! binary run again.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod bent;

use libgnt::inspect::Deadlock;
use libgnt::platform::Evtchn;
use libgnt::platform::GuestType;
use libgnt::sim::client::{SimPlatform, connect};
use libgnt::sim::core::Config;
use libgnt::sim::host::{HostThread, Services};
use libgnt::sim::wire::UnmapMode;
use libgnt::types::{DomId, EvtchnPort, ForeignGrant, GrantRef};
use libgnt::{Error, SharedPages};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing here takes more than milliseconds; a loaded machine may take seconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the host reported.
#[derive(Clone, Default)]
pub struct Journal {
    pub lines: Arc<Mutex<Vec<String>>>,
    pub deadlocks: Arc<Mutex<Vec<Deadlock>>>,
}

impl Services for Journal {
    fn deadlock(&mut self, deadlock: &Deadlock) {
        self.deadlocks.lock().unwrap().push(deadlock.clone());
    }
    fn log(&mut self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
}

/// A simulated Xen over a temporary directory.
pub struct Xen {
    pub host: HostThread,
    pub journal: Journal,
    pub dir: tempfile::TempDir,
}

impl Xen {
    pub fn start() -> Self {
        Self::with(Config::default())
    }

    pub fn sync() -> Self {
        let mut config = Config::default();
        // The deadlock is in the notifier, which PV has.
        (config.unmap, config.guest) = (UnmapMode::Sync, GuestType::Pv);
        Self::with(config)
    }

    pub fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let journal = Journal::default();
        let host = HostThread::start(dir.path(), config, Box::new(journal.clone())).expect("host");
        Xen { host, journal, dir }
    }

    pub fn join(&self, domid: u16, process: &str) -> Arc<SimPlatform> {
        connect(self.dir.path(), Some(DomId(domid)), process).expect("join")
    }
}

/// Asks until the answer is yes. For state that changes by itself; what has an event is waited
/// for by the event.
#[track_caller]
pub fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for events, and takes them.
#[track_caller]
pub fn wait_events(evtchn: &dyn Evtchn) -> Vec<EvtchnPort> {
    let mut ports = Vec::new();
    let start = Instant::now();
    while evtchn.read(&mut ports).expect("read") == 0 {
        assert!(start.elapsed() < PATIENCE, "no event in {PATIENCE:?}");
        readable(evtchn, PATIENCE);
    }
    ports
}

/// True if the file polls readable within the time.
pub fn readable(evtchn: &dyn Evtchn, wait: Duration) -> bool {
    let fd = evtchn.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let wait = Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: wait.subsec_nanos().into(),
    };
    poll(&mut fds, Some(&wait)).expect("poll") > 0
}

pub fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> Errno {
    let error = result.expect_err("must fail");
    error
        .errno()
        .unwrap_or_else(|| panic!("no errno in {error}"))
}

pub fn grants(domid: u16, grefs: &[GrantRef]) -> Vec<ForeignGrant> {
    grefs
        .iter()
        .map(|&gref| ForeignGrant {
            domid: DomId(domid),
            gref,
        })
        .collect()
}

pub fn byte(pages: &SharedPages, offset: usize) -> u8 {
    pages.load_u8(offset, Ordering::Acquire)
}

/// A child: this binary, running one of its tests in a role.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

const ROLE: &str = "SIM_TEST_ROLE";
const DIR: &str = "SIM_TEST_DIR";
/// Marks a child's lines among the test harness's own.
const MARK: &str = "@@";

/// The role and directory of a child; none in the test itself.
pub fn role() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(DIR)?.into()))
}

/// In a child: a line to the parent.
pub fn say(line: impl std::fmt::Display) {
    println!("{MARK}{line}");
    std::io::stdout().flush().expect("stdout");
}

/// In a child: the parent's next line; none when the parent is done with it.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let n = std::io::stdin().read_line(&mut line).expect("stdin");
    (n > 0).then(|| line.trim_end().to_owned())
}

impl Process {
    /// Runs `test` of this binary again; it finds its role in [`role`].
    pub fn spawn(test: &str, role: &str, dir: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("stdout"));
        Process {
            child,
            input,
            output,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's next line.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let n = self.output.read_line(&mut line).expect("child's output");
            assert!(n > 0, "the child ended without a word");
            // The harness prints "test NAME ... " without a newline before the first one.
            if let Some((_, said)) = line.split_once(MARK) {
                return said.trim_end().to_owned();
            }
        }
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().expect("stdin"), "{line}").expect("child's input");
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Closes its input, and waits for a good end.
    pub fn finish(mut self) {
        self.input = None;
        let status = self.child.wait().expect("wait");
        assert!(status.success(), "the child failed: {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The front end ends, whatever is stuck.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Back, PATIENCE, Stage};
use pv_frontend::{
    DeviceError, Disk, FrontConfig, FrontError, FrontEvent, FrontEventKind, Frontend, Io, IoError,
};
use pv_xenstore::xenbus::XenbusState;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shorter than any wait for xenstored or an I/O, and much longer than an end takes.
const END: Duration = Duration::from_secs(8);
/// `pipe(7)`: the capacity of a pipe since Linux 2.6.11.
const PIPE_BYTES: usize = 65536;

/// The domain has its pages back. The simulated kernel hears of a process's end a little later
/// than whoever waits for the process.
fn assert_nothing_granted(stage: &Stage) {
    let deadline = Instant::now() + PATIENCE;
    while stage.granted_pages() > 0 {
        assert!(Instant::now() < deadline, "grants are left");
        std::thread::yield_now();
    }
}

/// A back end that connects, takes a request if there is one to come, and never says a word again.
struct Stalled {
    /// It has what it waits for.
    stalls: Receiver<()>,
    over: Sender<()>,
    thread: JoinHandle<()>,
}

impl Stalled {
    fn new(stage: &Stage, until: impl FnOnce(&mut Back) + Send + 'static) -> Stalled {
        let (tell, stalls) = channel();
        let (over, wait) = channel();
        let thread = stage.back(move |back| {
            until(back);
            tell.send(()).expect("the test waits");
            wait.recv().expect("the test ends it");
        });
        Stalled {
            stalls,
            over,
            thread,
        }
    }

    fn at_a_request(stage: &Stage) -> Stalled {
        Stalled::new(stage, |back| {
            back.connect();
            back.next();
        })
    }

    fn wait(&self) {
        self.stalls
            .recv_timeout(PATIENCE)
            .expect("the back end stalls");
    }

    fn end(self) {
        self.over.send(()).expect("the back end is there");
        self.thread.join().expect("back end");
    }
}

/// The command line as a process, which has no reason of its own to end soon.
fn start(stage: &Stage, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pv-frontend"));
    command.arg(format!("--platform=sim:{}", stage.dir.path().display()));
    command.args(["--domain=1", "--deadline=1000", "--reconnect=1000"]);
    command.args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().expect("pv-frontend")
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("signal");
}

/// Its exit status and its last words, if it ends in time.
fn end_of(mut child: Child, time: Duration) -> (Option<i32>, String) {
    let (tell, ended) = channel();
    let pid = Pid::from_child(&child);
    // Held open: it must end though its input does not.
    let _stdin = child.stdin.take();
    std::thread::spawn(move || {
        let mut error = String::new();
        let mut stderr = child.stderr.take().expect("piped");
        stderr.read_to_string(&mut error).expect("text");
        let status = child.wait().expect("status").code();
        let _ = tell.send((status, error));
    });
    ended.recv_timeout(time).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).expect("kill");
        panic!("it does not end");
    })
}

fn interrupted((status, error): (Option<i32>, String)) {
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("interrupted"), "{error}");
}

#[test]
fn a_signal_ends_every_command_at_a_back_end_that_stalls() {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), vec![7; 100_000]).expect("input");
    let input = format!("--input={}", file.path().display());
    for (command, how) in [
        (&["read"][..], Signal::INT),
        (&["write", &input], Signal::TERM),
        (&["copy", &input], Signal::INT),
        (&["bench", "--seconds=1000"], Signal::TERM),
    ] {
        let stage = Stage::new();
        let back = Stalled::at_a_request(&stage);
        let child = start(&stage, command);
        back.wait();
        signal(&child, how);
        interrupted(end_of(child, END));
        back.end();
        assert_nothing_granted(&stage);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_back_end() {
    let stage = Stage::new();
    let mut child = start(&stage, &["info", "--log=pv_xenstore=debug"]);
    // It has begun the handshake.
    let mut stderr = BufReader::new(child.stderr.as_mut().expect("piped"));
    let mut line = String::new();
    while !line.contains("handshake") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("log"), 0);
    }
    signal(&child, Signal::INT);
    interrupted(end_of(child, END));
}

#[test]
fn a_signal_ends_a_write_whose_input_does_not_come() {
    let stage = Stage::new();
    let back = Stalled::new(&stage, Back::connect);
    let mut child = start(&stage, &["write"]);
    back.wait();
    // More than a pipe holds: when it is written, the command has begun to read.
    let stdin = child.stdin.as_mut().expect("piped");
    stdin.write_all(&[0; PIPE_BYTES + 1]).expect("write");
    signal(&child, Signal::INT);
    interrupted(end_of(child, END));
    back.end();
}

#[test]
fn a_signal_ends_a_read_whose_output_nobody_takes() {
    let stage = Stage::new();
    let back = Stalled::new(&stage, |back| {
        back.connect();
        // A step of the command, which is more than a pipe holds.
        back.serve((1usize << 20).div_ceil(44 << 10));
    });
    let child = start(&stage, &["read"]);
    back.wait();
    signal(&child, Signal::INT);
    interrupted(end_of(child, END));
    back.end();
}

#[test]
fn a_signal_ends_it_when_xenstored_does_not_answer() {
    let stage = Stage::new();
    let back = Stalled::at_a_request(&stage);
    let child = start(&stage, &["read"]);
    back.wait();
    stage.valve.close();
    signal(&child, Signal::TERM);
    interrupted(end_of(child, END));
    stage.valve.open();
    back.end();
}

#[test]
fn a_signal_ends_an_open_that_xenstored_does_not_answer() {
    let stage = Stage::new();
    stage.valve.close();
    let child = start(&stage, &["info"]);
    stage.valve.wait_pressed(PATIENCE);
    signal(&child, Signal::TERM);
    interrupted(end_of(child, END));
    stage.valve.open();
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let stage = Stage::new();
    let back = Stalled::at_a_request(&stage);
    let child = start(&stage, &["read", "--close=1000"]);
    back.wait();
    signal(&child, Signal::INT);
    // The first one has arrived; the back end does not answer it, and that was to be waited for.
    stage.wait_state(&stage.front_dir(), XenbusState::Closing);
    signal(&child, Signal::INT);
    let (status, _) = end_of(child, PATIENCE);
    assert_eq!(status, Some(1));
    back.end();
}

/// Nothing but the close ends soon.
fn patient(stage: &Stage) -> FrontConfig {
    let mut config = stage.config();
    config.deadline = Duration::from_secs(1000);
    config.reconnect = Duration::from_secs(1000);
    // A busy machine gets to the last words, too.
    config.close = END / 3;
    config
}

fn in_time<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, done) = channel();
    std::thread::spawn(move || tell.send(what()));
    done.recv_timeout(END).expect("it does not end")
}

fn closed(error: FrontError) {
    let closed = FrontError::Io(IoError::Device(DeviceError::Closed));
    assert_eq!(error.to_string(), closed.to_string());
}

#[test]
fn a_disk_closes_at_a_back_end_that_stalls() {
    let stage = Stage::new();
    let back = Stalled::at_a_request(&stage);
    let disk = Disk::open(patient(&stage)).expect("open");
    let ticket = disk.submit(Io::read(0, 4096)).expect("submit");
    back.wait();
    let error = in_time(|| disk.close()).expect_err("it was not closed in order");
    assert!(
        error.to_string().contains("ended with an error: 1;"),
        "{error}"
    );
    closed(ticket.wait().expect_err("no answer"));
    back.end();
    assert_nothing_granted(&stage);
}

#[test]
fn a_disk_closes_with_more_in_its_inbox_than_it_takes() {
    let stage = Stage::new();
    let back = Stalled::at_a_request(&stage);
    let mut config = patient(&stage);
    config.queue = 1;
    let disk = Disk::open(config).expect("open");
    let taken = disk.submit(Io::read(0, 512)).expect("taken");
    back.wait();
    let waiting = disk.submit(Io::read(0, 512)).expect("in the inbox");
    in_time(|| disk.close()).expect_err("it was not closed in order");
    for ticket in [taken, waiting] {
        closed(ticket.wait().expect_err("no answer"));
    }
    back.end();
}

#[test]
fn a_disk_closes_when_xenstored_does_not_answer() {
    let stage = Stage::new();
    let back = Stalled::new(&stage, Back::connect);
    let disk = Disk::open(patient(&stage)).expect("open");
    back.wait();
    stage.valve.close();
    let error = in_time(|| disk.close()).expect_err("nobody answered");
    assert!(error.to_string().contains("xenstore"), "{error}");
    stage.valve.open();
    back.end();
}

#[test]
fn a_front_end_without_a_thread_closes_when_xenstored_does_not_answer() {
    let stage = Stage::new();
    let back = Stalled::new(&stage, Back::connect);
    let front = Frontend::open(patient(&stage)).expect("open");
    back.wait();
    stage.valve.close();
    in_time(|| front.close()).expect_err("nobody answered");
    stage.valve.open();
    back.end();
}

#[test]
fn a_disk_that_is_dropped_ends_by_itself() {
    let stage = Stage::new();
    let back = Stalled::at_a_request(&stage);
    let (tell, events) = channel();
    let observer = move |event: FrontEvent| drop(tell.send(event.kind));
    let mut config = patient(&stage);
    config.observer = Some(Box::new(observer));
    let disk = Disk::open(config).expect("open");
    let ticket = disk.submit(Io::write(0, vec![1; 512])).expect("submit");
    back.wait();
    drop(disk);
    closed(ticket.wait().expect_err("no answer"));
    // The sender ends with the thread.
    let told: Vec<_> = std::iter::from_fn(|| events.recv_timeout(END).ok()).collect();
    let completed = |event: &&FrontEventKind| matches!(event, FrontEventKind::Completed { .. });
    assert_eq!(told.iter().filter(completed).count(), 1, "{told:?}");
    assert!(events.recv().is_err(), "the thread is there still");
    back.end();
    assert_nothing_granted(&stage);
}

#[test]
fn what_is_asked_from_elsewhere_ends_a_disk_and_its_waits() {
    let stage = Stage::new();
    let back = Stalled::at_a_request(&stage);
    let config = patient(&stage);
    let stop = config.stop.clone();
    let disk = Disk::open(config).expect("open");
    let ticket = disk.submit(Io::read(0, 4096)).expect("submit");
    back.wait();
    stop.ask();
    closed(in_time(|| ticket.wait()).expect_err("no answer"));
    in_time(|| disk.close()).expect_err("the back end did not close");
    back.end();
    assert_nothing_granted(&stage);
}

/// A caller who means "for ever" says so in any way.
#[test]
fn times_without_end_overflow_no_clock() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let mut config = stage.config();
    config.deadline = Duration::MAX;
    config.reconnect = Duration::MAX;
    config.close = Duration::MAX;
    let mut front = Frontend::open(config).expect("open");
    front.submit(Io::write(0, vec![3; 512]), 1).expect("submit");
    front.poll(Duration::MAX).expect("poll");
    assert_eq!(front.next_completion().expect("done").result, Ok(()));
    front.close().expect("close");
    back.join().expect("back end");
}

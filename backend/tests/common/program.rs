//! The program as a process.

use super::{PATIENCE, Stage};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;

pub fn pv_backend(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pv-backend"));
    command.args(args).stdin(Stdio::null());
    command
}

pub fn sim(stage: &Stage) -> String {
    format!("sim:{}", stage.dir().display())
}

/// Killed, if a test ends before it does.
pub struct Serving(Child);

impl Serving {
    pub fn start(stage: &Stage, more: &[&str]) -> Serving {
        let sim = sim(stage);
        let mut args = vec!["serve", "--platform", &sim];
        if !more.contains(&"--front") {
            args.extend(["--front", "1"]);
        }
        args.extend(more);
        let child = pv_backend(&args)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        Serving(child)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("kill");
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }

    /// Its status and what it logged. A child that does not end is killed, and fails the test.
    pub fn end(&mut self) -> (i32, String) {
        let stderr = self.0.stderr.take().expect("piped");
        let (send, log) = channel();
        std::thread::spawn(move || {
            let lines: Vec<_> = BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
                .collect();
            // The test may have given up.
            let _ = send.send(lines.join("\n"));
        });
        let ended = log.recv_timeout(PATIENCE);
        if ended.is_err() {
            self.0.kill().expect("kill");
        }
        let status = self.0.wait().expect("wait");
        let text = ended.unwrap_or_else(|_| panic!("it does not end: {:?}", log.recv()));
        (
            status.code().unwrap_or_else(|| panic!("{status}: {text}")),
            text,
        )
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

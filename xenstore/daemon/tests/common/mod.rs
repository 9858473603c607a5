//! The program, running.
#![allow(dead_code, reason = "not every test file uses all of it")]

#[path = "../../../tests/common/tool.rs"]
mod tool;

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pv-xenstored");

pub struct Daemon {
    child: Child,
    pub dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts it, and waits until it says that it listens.
    pub fn start(options: &[&str]) -> Daemon {
        Daemon::start_in(tempfile::tempdir().unwrap(), options)
    }

    pub fn start_in(dir: tempfile::TempDir, options: &[&str]) -> Daemon {
        let mut child = Command::new(PROGRAM)
            .current_dir(dir.path())
            .args(["--socket", "xs.sock"])
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        while !said.contains("listening") {
            assert_ne!(errors.read_line(&mut said).unwrap(), 0, "{said}");
        }
        // The rest must not fill the pipe.
        std::thread::spawn(move || errors.lines().for_each(drop));
        Daemon { child, dir }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("xs.sock")
    }

    pub fn tool(&self, socket: &str, args: &[&str]) -> Command {
        tool::tool(&self.dir.path().join(socket), args)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.tool("xs.sock", args).output().unwrap()
    }

    /// What a tool that succeeds prints.
    pub fn good(&self, args: &[&str]) -> String {
        tool::good(self.tool("xs.sock", args))
    }

    pub fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Runs the built pv-stress, and sees that it leaves nothing behind.
#![allow(dead_code, reason = "each test file uses its part")]

use pv_judges::report::Report;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A place of a test's own: its temporary files, its report.
pub struct Place {
    dir: tempfile::TempDir,
}

/// What a finished process said.
pub struct Said {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("pvt").tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Place { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn report_dir(&self) -> PathBuf {
        self.path("report")
    }

    /// A file of so many bytes, different in each sector.
    pub fn input(&self, bytes: usize) -> PathBuf {
        let path = self.path("input");
        let data: Vec<u8> = (0..bytes)
            .map(|n| (n ^ (n >> 9) ^ (n >> 17)) as u8)
            .collect();
        fs::write(&path, data).unwrap();
        path
    }

    /// pv-stress with this place's temporary directory.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pv-stress"));
        command
            .args(args)
            .env("TMPDIR", self.path("tmp"))
            .env_remove("RUST_LOG");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `run` with a small input, a report here, and a deadline that a busy machine keeps.
    pub fn run_args(&self, args: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = vec!["run".into()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        if !args.contains(&"--report") {
            all.extend(["--report".into(), self.report_dir().display().to_string()]);
        }
        if !args.contains(&"--input") {
            all.extend(["--input".into(), self.input(300_001).display().to_string()]);
        }
        if !args.contains(&"--deadline") {
            all.extend(["--deadline".into(), "100s".into()]);
        }
        all
    }

    pub fn run(&self, args: &[&str]) -> Said {
        let all = self.run_args(args);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        said(self.command(&all).output().unwrap())
    }

    pub fn report(&self) -> Report {
        let json = fs::read(self.report_dir().join("report.json")).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// No process that was started here lives, and no temporary file is left.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let until = Instant::now() + Duration::from_secs(120);
        while let Some(who) = self.processes().first() {
            // A process that was killed a moment ago may not have been reaped by init.
            assert!(Instant::now() < until, "still running: {who}");
            std::thread::yield_now();
        }
        let left: Vec<_> = fs::read_dir(self.path("tmp")).unwrap().flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// Living processes with this place's temporary directory in their environment.
    pub fn processes(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}", self.path("tmp").display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if String::from_utf8_lossy(&environment).contains(&mark) {
                let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                found.push(format!("{}: {command}", entry.file_name().display()));
            }
        }
        found
    }
}

pub fn said(output: Output) -> Said {
    let said = Said {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    said.assert_no_panic();
    said
}

impl Said {
    #[track_caller]
    pub fn assert_no_panic(&self) {
        let panicked = self.stderr.contains("panicked at") || self.status == Some(101);
        assert!(!panicked, "{}", self.stderr);
    }

    #[track_caller]
    pub fn assert_status(&self, status: i32) -> &Said {
        assert_eq!(
            self.status,
            Some(status),
            "standard output:\n{}\nstandard error:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    pub fn assert_stderr(&self, words: &[&str]) -> &Said {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no {word:?} in: {}",
                self.stderr
            );
        }
        self
    }
}

/// Waits until a file holds some text.
#[track_caller]
pub fn await_text(path: &Path, text: &str) {
    let until = Instant::now() + PATIENCE;
    while !fs::read_to_string(path).unwrap_or_default().contains(text) {
        assert!(Instant::now() < until, "no {text:?} in {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads a child's standard output up to and including a line with this text.
#[track_caller]
pub fn read_until(child: &mut Child, text: &str) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
        if byte[0] == b'\n' && String::from_utf8_lossy(&seen).contains(text) {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
    panic!("ended without {text:?}: {}", String::from_utf8_lossy(&seen));
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// A running `pv-stress sim`, ended when dropped.
pub struct Sim {
    pub dir: PathBuf,
    pub child: Child,
}

impl Sim {
    pub fn start(place: &Place) -> Sim {
        Sim::start_with(place, &[])
    }

    pub fn start_with(place: &Place, more: &[&str]) -> Sim {
        let dir = place.path("sim");
        let mut command = place.command(&["sim", "--dir", dir.to_str().unwrap()]);
        let mut child = command.args(more).spawn().unwrap();
        let text = read_until(&mut child, "Ctrl-C ends it");
        assert!(text.contains("xenstore-ls"), "{text}");
        Sim { dir, child }
    }

    /// A pv-backend or pv-frontend command against it.
    pub fn command(&self, place: &Place, program: &str, command: &str, more: &[&str]) -> Command {
        let platform = format!("sim:{}", self.dir.display());
        let mut all = vec![
            program,
            command,
            "--platform",
            &platform,
            "--device",
            "xvda",
        ];
        all.extend(match program {
            "pv-backend" => &["--front", "1"][..],
            // A busy machine may take long for an end in order.
            _ => &["--domain", "1", "--close", "30"],
        });
        all.extend(more);
        place.command(&all)
    }

    pub fn run(&self, place: &Place, program: &str, command: &str, more: &[&str]) -> Said {
        said(
            self.command(place, program, command, more)
                .output()
                .unwrap(),
        )
    }

    /// A back end that is ready: its log says so.
    pub fn serve(&self, place: &Place, mut command: Command) -> Serving {
        let log = place.path("serve.log");
        command
            .stderr(fs::File::create(&log).unwrap())
            .stdout(Stdio::null());
        let child = command.spawn().unwrap();
        await_text(&log, "waiting for a front end");
        Serving { child, log }
    }

    /// As Ctrl-C; it must end well.
    pub fn end(mut self) {
        signal(&self.child, rustix::process::Signal::INT);
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        let left: Vec<_> = fs::read_dir(&self.dir).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running back end.
pub struct Serving {
    pub child: Child,
    pub log: PathBuf,
}

impl Serving {
    /// What it said, after Ctrl-C.
    pub fn end(self) -> Said {
        signal(&self.child, rustix::process::Signal::INT);
        self.ended()
    }

    /// What it said, when it ends by itself.
    pub fn ended(mut self) -> Said {
        let status = self.child.wait().unwrap().code();
        let stderr = fs::read_to_string(&self.log).unwrap();
        let said = Said {
            status,
            stdout: String::new(),
            stderr,
        };
        said.assert_no_panic();
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

//! 4 KiB random reads at depth 32 from a disk in memory: the pair (front and back end in processes
//! of their own, persistent grants, the simulated Xen), and beside it in the same run what `fio`'s
//! nbd engine gets from `nbdkit memory` over a Unix socket.
//!
//! `cargo bench --package pv-stress --bench pair`; the rival needs Debian's packages fio and nbdkit.
//! Rounds alternate, so that a change of the machine's speed meets both.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

const ROLE: &str = "PVPAIR_BENCH_ROLE";
const ROUNDS: usize = 3;
const SECONDS: u32 = 3;
const MEMORY: &str = "256M";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("backend") => return pv_backend::cli::main_from(std::env::args_os()),
        Ok("frontend") => return pv_frontend::cli::main_from(std::env::args_os()),
        _ => {}
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A process that this one ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let (_host, back) = start_pair(dir.path())?;
    let rival = Rival::start(dir.path())?;
    if rival.is_none() {
        println!(
            "fio or nbdkit is not installed (apt-get install fio nbdkit): only the pair is measured"
        );
    }
    let mut ratios = Vec::new();
    println!("4 KiB random reads, depth 32, disk in memory, {SECONDS} s a round");
    println!("  round   pair, IOPS   p99, us   calls/request   nbd, IOPS   ratio");
    for round in 1..=ROUNDS {
        let ours = frontend(dir.path())?;
        let iops = number(&ours, "/iops")?;
        let theirs = rival.as_ref().map(Rival::iops).transpose()?;
        let ratio = theirs.map(|theirs| iops / theirs);
        ratios.extend(ratio);
        println!(
            "  {round:>5} {iops:>12.0} {:>9.1} {:>15.3} {:>11} {:>7}",
            number(&ours, "/latency_us/p99")?,
            number(&ours, "/system_calls_per_request")?,
            theirs.map_or("-".into(), |n| format!("{n:.0}")),
            ratio.map_or("-".into(), |r| format!("{r:.2}")),
        );
    }
    ratios.sort_by(f64::total_cmp);
    if let Some(median) = ratios.get(ratios.len() / 2) {
        println!("  median ratio {median:.2} (aim: at least 3)");
    }
    match all_calls(dir.path(), back.0.id())? {
        Some(per_request) => {
            println!(
                "  system calls per request, both ends together, counted by the kernel: {per_request:.3} (aim: below 0.2 an end)"
            );
        }
        None => println!(
            "  perf cannot count system calls here: the calls/request above are the front end's own count"
        ),
    }
    Ok(())
}

fn start_pair(dir: &Path) -> Outcome<(Running, Running)> {
    let mut host = Command::new(env!("CARGO_BIN_EXE_pv-stress"))
        .args(["sim", "--log", "error", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    // Its first line comes when it listens.
    let mut line = String::new();
    BufReader::new(host.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    let host = Running(host);
    let status = agent("backend")
        .args(["attach", "--front", "1"])
        .args(sim(dir))
        .status()?;
    if !status.success() {
        return Err("attach failed".into());
    }
    let mut back = agent("backend");
    back.args(["serve", "--front", "1", "--memory", MEMORY, "--log", "warn"])
        .args(sim(dir));
    Ok((host, Running(back.spawn()?)))
}

fn sim(dir: &Path) -> [String; 2] {
    ["--platform".into(), format!("sim:{}", dir.display())]
}

/// This benchmark again, as one of the agents.
fn agent(role: &str) -> Command {
    let exe = std::env::current_exe().unwrap_or_else(|_| "pair".into());
    let mut command = Command::new(exe);
    command.env(ROLE, role);
    command
}

fn front_command(dir: &Path) -> Command {
    let mut command = agent("frontend");
    command.args([
        "bench",
        "--persistent",
        "--json",
        "--depth",
        "32",
        "--block-size",
        "4096",
    ]);
    command
        .args([
            "--domain",
            "1",
            "--seconds",
            &SECONDS.to_string(),
            "--log",
            "error",
        ])
        .args(sim(dir));
    command
}

fn frontend(dir: &Path) -> Outcome<serde_json::Value> {
    let output = front_command(dir).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the front end: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(report: &serde_json::Value, path: &str) -> Outcome<f64> {
    let value = report.pointer(path).and_then(serde_json::Value::as_f64);
    value.ok_or_else(|| format!("no {path} in the front end's report").into())
}

/// One more run, under the kernel's own count of system calls. Connecting and closing are in it.
fn all_calls(dir: &Path, back: u32) -> Outcome<Option<f64>> {
    let event = ["stat", "-x,", "-e", "raw_syscalls:sys_enter"];
    let probe = Command::new("perf").args(event).arg("true").output();
    if !probe.is_ok_and(|p| p.status.success()) {
        return Ok(None);
    }
    let front = front_command(dir).stdout(Stdio::piped()).spawn()?;
    let pids = format!("{back},{}", front.id());
    let perf = Command::new("perf")
        .args(event)
        .args(["-p", &pids])
        .stderr(Stdio::piped())
        .spawn()?;
    let report = front.wait_with_output()?;
    // perf ends with its targets, or by our word.
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&perf),
        rustix::process::Signal::INT,
    )?;
    let counted = perf.wait_with_output()?;
    let text = String::from_utf8_lossy(&counted.stderr).into_owned();
    let line = text
        .lines()
        .find(|l| l.contains("raw_syscalls"))
        .ok_or("perf counted nothing")?;
    let calls: f64 = line.split(',').next().unwrap_or("").parse()?;
    let ios = number(&serde_json::from_slice(&report.stdout)?, "/ios")?;
    Ok(Some(calls / ios))
}

/// `nbdkit memory` behind a Unix socket.
struct Rival {
    uri: String,
    _nbdkit: Running,
}

impl Rival {
    fn start(dir: &Path) -> Outcome<Option<Rival>> {
        let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !there("fio") || !there("nbdkit") {
            return Ok(None);
        }
        let (socket, pid_file) = (dir.join("nbd.sock"), dir.join("nbd.pid"));
        let nbdkit = Command::new("nbdkit")
            .arg("--foreground")
            .arg("--unix")
            .arg(&socket)
            .arg("--pidfile")
            .arg(&pid_file)
            .args(["memory", MEMORY])
            .spawn()?;
        let nbdkit = Running(nbdkit);
        // nbdkit writes the pid file when it listens.
        let patience = std::time::Instant::now();
        while !pid_file.exists() {
            if patience.elapsed().as_secs() > 10 {
                return Err("nbdkit did not start in 10 s".into());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        Ok(Some(Rival {
            uri,
            _nbdkit: nbdkit,
        }))
    }

    fn iops(&self) -> Outcome<f64> {
        let output = Command::new("fio")
            .args([
                "--name=rival",
                "--ioengine=nbd",
                "--rw=randread",
                "--bs=4k",
                "--iodepth=32",
            ])
            .args([
                &format!("--size={MEMORY}"),
                "--time_based",
                &format!("--runtime={SECONDS}"),
            ])
            .arg(format!("--uri={}", self.uri))
            .arg("--output-format=json")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        // fio prints notes before the JSON.
        let json = text
            .find('{')
            .map(|at| &text[at..])
            .ok_or("fio printed no JSON")?;
        let report: serde_json::Value = serde_json::from_str(json)?;
        let iops = report
            .pointer("/jobs/0/read/iops")
            .and_then(serde_json::Value::as_f64);
        iops.ok_or_else(|| "no iops in fio's report".into())
    }
}

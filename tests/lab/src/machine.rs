//! One QEMU process with Xen in it, in software emulation: started on one processor, heard through
//! its serial port, watched, ended by its own power-off or by us, never left behind.

use super::emulator::Emulator;
use super::error::{LabError, Result};
use super::monitor;
use super::process::{Heard, Lines, Running, mortal};
use super::progress::Progress;
use super::watch::{self, LOOK, Usage, Watch};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// What boots.
pub struct Boot<'a> {
    /// What emulates the machine.
    pub emulator: &'a Emulator,
    /// On which processor of this machine.
    pub processor: usize,
    /// In MiB.
    pub memory: u32,
    /// The hypervisor: an ELF32 multiboot image.
    pub xen: &'a Path,
    /// Its command line.
    pub xen_words: String,
    /// dom0's kernel.
    pub kernel: &'a Path,
    /// Its command line.
    pub kernel_words: String,
    /// dom0's initramfs.
    pub initramfs: &'a Path,
    /// A raw disk that dom0 writes its results to.
    pub results: &'a Path,
    /// Where the serial port's output goes.
    pub serial: &'a Path,
    /// Where QEMU's monitor listens. A Unix socket's path is short.
    pub monitor: &'a Path,
}

impl Boot<'_> {
    /// The words that start QEMU. The CPU model is the one in which PV dom0 and PVH domains both
    /// come up without hardware virtualisation: nested paging for PVH, and no SMAP, which stops a PV
    /// dom0.
    ///
    /// One emulated processor, because the emulation delivers an interrupt to a guest twice, which
    /// kills it, when something else than an interrupt stops the processor after VMRUN has injected
    /// one (`docs/findings/qemu-interrupt-twice.md`). With two, each stops the other for that often
    /// enough to lose a domain in most runs.
    fn words(&self, serial: &str) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        // In most of QEMU's options a comma begins the next part, and two are one.
        let part = |text: &str| text.replace(',', ",,");
        let mut words = self.emulator.bound(self.processor);
        let options = [
            ("-accel", "tcg,thread=multi".into()),
            ("-cpu", "qemu64,+svm,+npt,+nrip-save".into()),
            ("-smp", "1".into()),
            ("-m", self.memory.to_string()),
            ("-display", "none".into()),
            ("-nic", "none".into()),
            ("-kernel", text(self.xen)),
            ("-append", self.xen_words.clone()),
            (
                "-initrd",
                format!(
                    "{} {},{}",
                    part(&text(self.kernel)),
                    part(&self.kernel_words),
                    part(&text(self.initramfs))
                ),
            ),
            (
                "-drive",
                format!(
                    "file={},if=virtio,format=raw,cache=unsafe",
                    part(&text(self.results))
                ),
            ),
            (
                "-chardev",
                format!("{serial},id=com1,logfile={}", part(&text(self.serial))),
            ),
            ("-serial", "chardev:com1".into()),
            ("-monitor", "none".into()),
            (
                "-qmp",
                format!("unix:{},server=on,wait=off", part(&text(self.monitor))),
            ),
        ];
        words.push("-no-reboot".into());
        for (option, value) in options {
            words.extend([option.to_owned(), value]);
        }
        words
    }
}

/// How a machine was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// To the emulator or to this machine: not the fault of what ran in it.
    Emulator(String),
    /// To what ran in it.
    Guest(String),
}

impl Loss {
    /// Why.
    pub fn cause(&self) -> &str {
        match self {
            Loss::Emulator(cause) | Loss::Guest(cause) => cause,
        }
    }
}

/// Hears a machine's lines.
pub trait Ear {
    /// A line of the serial port. An error says why there is nothing more to wait for.
    fn line(&mut self, line: &str) -> std::result::Result<(), String>;
    /// How long the machine may go on as it does; `None`: for as long as it likes.
    fn deadline(&self) -> Option<Instant>;
    /// dom0 has said that it powers off.
    fn is_done(&self) -> bool;
}

/// Runs a machine to its end. `Ok(None)`: it has done all that it was to do.
///
/// # Errors
/// QEMU cannot be started; we were interrupted. The loss of the machine is no error.
pub fn run(boot: &Boot<'_>, ear: &mut dyn Ear) -> Result<Option<Loss>> {
    let words = boot.words("file,path=/dev/stdout");
    let mut command = mortal(&words[0]);
    command.args(&words[1..]);
    let mut qemu = Running::start(&mut command)?;
    let mut watch = Watch::begin(Instant::now());
    let (mut lines, mut said) = (Lines::default(), Vec::new());
    loop {
        match qemu.next(LOOK)? {
            Heard::Out(bytes) => {
                watch.heard(Instant::now());
                for line in lines.push(&bytes) {
                    if let Err(cause) = ear.line(&line) {
                        return Ok(Some(Loss::Guest(cause)));
                    }
                }
            }
            Heard::Err(bytes) => said.extend(bytes),
            Heard::Ended(_) if ear.is_done() => return Ok(None),
            Heard::Ended(status) => return ended(status, &said).map(Some),
            Heard::Nothing => {}
        }
        let now = Instant::now();
        if let Some(usage) = watch::usage(qemu.pid())
            && let Some(still) = watch.look(usage.used, now)
        {
            return Ok(Some(Loss::Emulator(stands_still(boot, still, usage))));
        }
        if ear.deadline().is_some_and(|deadline| now >= deadline) {
            let cause = "it did not end in time, and the machine still runs";
            return Ok(Some(Loss::Guest(cause.into())));
        }
    }
}

/// Runs a machine whose console is this terminal, to its end.
///
/// # Errors
/// QEMU cannot be started, or fails; the machine stands still.
pub fn interact(boot: &Boot<'_>, progress: &Progress) -> Result<()> {
    let words = boot.words("stdio,signal=off");
    let mut command = mortal(&words[0]);
    // It stays in our process group, and with it in the terminal's foreground.
    let spawned = command.args(&words[1..]).spawn();
    let mut qemu = Terminal(spawned.map_err(LabError::file(Path::new("setpriv")))?);
    let mut watch = Watch::begin(Instant::now());
    let mut length = 0;
    loop {
        if let Some(status) = qemu
            .0
            .try_wait()
            .map_err(LabError::file(Path::new("qemu")))?
        {
            return match status.success() {
                true => Ok(()),
                false => ended(status, &[]).and_then(|loss| Err(lost(boot, loss.cause()))),
            };
        }
        let now = Instant::now();
        let log = fs::metadata(boot.serial).map_or(0, |meta| meta.len());
        if log != length {
            length = log;
            watch.heard(now);
        }
        if let Some(usage) = watch::usage(qemu.0.id())
            && let Some(still) = watch.look(usage.used, now)
        {
            return Err(lost(boot, &stands_still(boot, still, usage)));
        }
        progress.check()?;
        // Its end has an event, but the processor time that it uses has none.
        std::thread::sleep(LOOK);
    }
}

struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// An error that shows the end of the serial log.
pub fn lost(boot: &Boot<'_>, cause: &str) -> LabError {
    LabError::Guest {
        what: cause.to_owned(),
        log: boot.serial.to_owned(),
        tail: tail(boot.serial, 25),
    }
}

/// QEMU ended before its time.
fn ended(status: ExitStatus, said: &[u8]) -> Result<Loss> {
    let said = String::from_utf8_lossy(said);
    // It warns of a processor's feature that it does not emulate, at every start.
    let said: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("warning: "))
        .collect();
    let said = said.join("; ");
    let cause = match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("QEMU was ended by signal {signal}{}", name_of(signal))
        }
        (None, Some(0)) => "the machine switched itself off or reset itself before it was done (a triple fault, say)".into(),
        // It refused to start, or gave up: nothing that starting again would change.
        _ => {
            return Err(LabError::Failed {
                doing: "running QEMU".into(),
                cause: format!("{status}: {said}"),
                cure: "see its message; --qemu names another".into(),
            });
        }
    };
    let said = if said.is_empty() {
        String::new()
    } else {
        format!("; it said: {said}")
    };
    Ok(Loss::Emulator(format!("{cause}{said}")))
}

fn name_of(signal: i32) -> &'static str {
    match signal {
        9 => " (SIGKILL: by somebody, or for want of memory)",
        11 => " (SIGSEGV: a fault in QEMU)",
        6 => " (SIGABRT: QEMU gave up)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Why it stands still, as far as QEMU's monitor knows; its words are kept beside the serial log.
fn stands_still(boot: &Boot<'_>, still: Duration, usage: Usage) -> String {
    let asked = monitor::ask(boot.monitor);
    if let Ok(processor) = &asked {
        let path = boot.serial.with_extension("monitor");
        // Without it the sentence is still there.
        let _ = fs::write(path, &processor.words);
    }
    watch::told(still, usage, asked.ok().as_ref())
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A place for a socket whose path is short enough, whatever the cache's is.
///
/// # Errors
/// No temporary directory can be made.
pub fn socket_dir() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("pv-lab-")
        .tempdir()
        .map_err(LabError::file(&std::env::temp_dir()))
}

/// The name of the log of an earlier start.
pub fn earlier(serial: &Path, start: usize) -> PathBuf {
    serial.with_file_name(format!("serial.{start}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A listener that waits for `done` or `wrong`.
    #[derive(Default)]
    struct Listener {
        lines: Vec<String>,
        deadline: Option<Instant>,
    }

    impl Ear for Listener {
        fn line(&mut self, line: &str) -> std::result::Result<(), String> {
            self.lines.push(line.to_owned());
            match line {
                "wrong" => Err("it said so".into()),
                _ => Ok(()),
            }
        }

        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn is_done(&self) -> bool {
            self.lines.iter().any(|line| line == "done")
        }
    }

    /// How a machine ends whose emulator is this shell script.
    fn run_script(script: &str, ear: &mut Listener) -> Result<Option<Loss>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let emulator = Emulator::fake(&path);
        let processors = rustix::thread::sched_getaffinity(None).unwrap();
        let boot = Boot {
            emulator: &emulator,
            processor: (0..1024).find(|n| processors.is_set(*n)).unwrap(),
            memory: 1,
            xen: &path,
            xen_words: String::new(),
            kernel: &path,
            kernel_words: String::new(),
            initramfs: &path,
            results: &path,
            serial: &dir.path().join("serial.log"),
            monitor: &dir.path().join("monitor"),
        };
        run(&boot, ear)
    }

    #[test]
    fn a_machine_that_does_all_and_one_that_is_killed_are_told_apart() {
        let mut ear = Listener::default();
        assert_eq!(run_script("echo one; echo done", &mut ear).unwrap(), None);
        assert_eq!(ear.lines, ["one", "done"]);
        let loss = |script: &str| {
            run_script(script, &mut Listener::default())
                .unwrap()
                .unwrap()
        };
        let killed = loss("echo one; kill -9 $$");
        assert!(
            matches!(&killed, Loss::Emulator(why) if why.contains("SIGKILL")),
            "{killed:?}"
        );
        let early = loss("echo one");
        assert!(matches!(&early, Loss::Emulator(why) if why.contains("before it was done")));
        assert_eq!(
            loss("echo wrong; sleep 1000"),
            Loss::Guest("it said so".into())
        );
        let refused = run_script("echo no such option >&2; exit 1", &mut Listener::default());
        assert!(refused.unwrap_err().to_string().contains("no such option"));
    }

    #[test]
    fn a_machine_that_stands_still_is_noticed_within_20_seconds() {
        let begun = Instant::now();
        let loss = run_script("echo one; exec sleep 1000", &mut Listener::default()).unwrap();
        let why = loss.unwrap();
        assert!(
            matches!(&why, Loss::Emulator(why) if why.contains("stood still")),
            "{why:?}"
        );
        // No more than the machine itself may be late.
        assert!(begun.elapsed() >= watch::STILL);
    }

    #[test]
    fn a_busy_machine_has_until_its_deadline() {
        let mut ear = Listener {
            deadline: Some(Instant::now() + Duration::from_secs(2)),
            ..Listener::default()
        };
        let loss = run_script("while :; do :; done", &mut ear)
            .unwrap()
            .unwrap();
        assert!(
            matches!(&loss, Loss::Guest(why) if why.contains("in time")),
            "{loss:?}"
        );
    }

    #[test]
    fn a_killed_qemu_and_one_that_refuses_are_told_apart() {
        let killed = ended(ExitStatus::from_raw(9), b"").unwrap();
        assert!(killed.cause().contains("SIGKILL"), "{killed:?}");
        let off = ended(ExitStatus::from_raw(0), b"").unwrap();
        assert!(off.cause().contains("triple fault"), "{off:?}");
        let refused = ended(ExitStatus::from_raw(1 << 8), b"no such option\n").unwrap_err();
        assert!(refused.to_string().contains("no such option"), "{refused}");
    }
}

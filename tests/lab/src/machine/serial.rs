//! One QEMU process with Xen in it, in software emulation: started on one processor, heard through
//! its serial port, watched, ended by its own power-off or by us, never left behind.

use super::boot::Boot;
use super::loss::{Loss, ended, stands_still};
use super::watch::{self, LOOK, Watch};
use crate::error::Result;
use crate::process::{Heard, Lines, Running, mortal};
use std::time::Instant;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::emulator::Emulator;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

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
}

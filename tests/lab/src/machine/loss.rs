//! How a machine was lost, and why.

use super::boot::Boot;
use super::monitor;
use super::watch::{self, Usage};
use crate::error::{LabError, Result};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

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

/// An error that shows the end of the serial log.
pub fn lost(boot: &Boot<'_>, cause: &str) -> LabError {
    LabError::Guest {
        what: cause.to_owned(),
        log: boot.serial.to_owned(),
        tail: tail(boot.serial, 25),
    }
}

/// QEMU ended before its time.
pub fn ended(status: ExitStatus, said: &[u8]) -> Result<Loss> {
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
pub fn stands_still(boot: &Boot<'_>, still: Duration, usage: Usage) -> String {
    let asked = monitor::ask(boot.monitor);
    if let Ok(processor) = &asked {
        let path = boot.serial.with_extension("monitor");
        // Without it the sentence is still there.
        let _ = fs::write(path, &processor.words);
    }
    watch::told(still, usage, asked.ok().as_ref())
}

/// The last lines of a log.
fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

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

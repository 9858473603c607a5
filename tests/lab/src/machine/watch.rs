//! Does the machine still live? QEMU's use of the processor and the serial port say so.
//!
//! A machine that waits for something still uses some time every second: Xen's and Linux' timers
//! tick. One that lost the interrupt of its next timer uses none at all, and says nothing.

use super::monitor::EmulatedProcessor;
use std::fs;
use std::time::{Duration, Instant};

/// Without a sign of life for so long, it stands still: noticed within 20 s.
pub const STILL: Duration = Duration::from_secs(15);
/// How often it is looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// What QEMU's own housekeeping may use without the machine in it being alive. A lab whose domains
/// all sleep uses 40 ms a second, twenty times as much in this time.
const HOUSEKEEPING: Duration = Duration::from_millis(30);

/// Watches over one machine.
#[derive(Debug)]
pub struct Watch {
    /// What QEMU had used when it last did something.
    used: Duration,
    /// When it last did something.
    sign: Instant,
}

impl Watch {
    /// Begins now.
    pub fn begin(now: Instant) -> Watch {
        Watch {
            used: Duration::ZERO,
            sign: now,
        }
    }

    /// It said something.
    pub fn heard(&mut self, now: Instant) {
        self.sign = now;
    }

    /// QEMU has used so much processor time since it was started. For how long the machine has stood
    /// still, if that is too long.
    pub fn look(&mut self, used: Duration, now: Instant) -> Option<Duration> {
        if used.saturating_sub(self.used) > HOUSEKEEPING {
            self.used = used;
            self.sign = now;
        }
        let still = now.saturating_duration_since(self.sign);
        (still >= STILL).then_some(still)
    }
}

/// What the kernel tells of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `R`, `S`, `T` and so on, as in `/proc/PID/stat` (man 5 proc).
    pub state: char,
    /// The processor time that all its threads have used.
    pub used: Duration,
}

/// Asks for a process; `None` if it is gone.
pub fn usage(pid: u32) -> Option<Usage> {
    let hertz = rustix::param::clock_ticks_per_second();
    parse(
        &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
        hertz,
    )
}

fn parse(stat: &str, hertz: u64) -> Option<Usage> {
    // The program's name is in parentheses, and may have some itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields 14 and 15 of the whole line.
    let ticks = |field: &str| field.parse::<u64>().ok();
    let (user, system) = (ticks(fields.nth(10)?)?, ticks(fields.next()?)?);
    Some(Usage {
        state,
        used: Duration::from_millis((user + system) * 1000 / hertz.max(1)),
    })
}

/// Why a machine stands still, for people. `processor` is what QEMU's monitor says, if it answers.
pub fn told(still: Duration, usage: Usage, processor: Option<&EmulatedProcessor>) -> String {
    let seconds = still.as_secs();
    let why = match processor {
        _ if matches!(usage.state, 'T' | 't') => {
            "somebody stopped QEMU's process (state T, as after SIGSTOP)".into()
        }
        Some(EmulatedProcessor {
            sleeps: true,
            waiting,
            ..
        }) if !waiting.is_empty() => format!(
            "its processor sleeps although interrupt {} waits in its local APIC: QEMU lost an interrupt (docs/findings/qemu-lost-interrupt.md)",
            waiting
                .iter()
                .map(u8::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Some(_) => "QEMU's monitor answers, and says nothing that explains it".into(),
        None => "QEMU's monitor does not answer".into(),
    };
    format!(
        "the machine stood still: for {seconds} s QEMU used no processor time and the serial port was silent; {why}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_machine_that_works_or_speaks_is_alive_and_one_that_does_neither_is_not() {
        let begun = Instant::now();
        let mut watch = Watch::begin(begun);
        let mut used = Duration::ZERO;
        for n in 1..60 {
            used += Duration::from_millis(40);
            assert_eq!(watch.look(used, begun + SECOND * n), None);
        }
        for n in 60..90 {
            watch.heard(begun + SECOND * n);
            assert_eq!(watch.look(used, begun + SECOND * n), None);
        }
        // The last sign was at 89 s.
        for n in 90..104 {
            assert_eq!(watch.look(used, begun + SECOND * n), None, "{n}");
        }
        assert_eq!(watch.look(used, begun + SECOND * 104), Some(STILL));
        assert!(STILL + LOOK < SECOND * 20, "noticed within 20 s");
    }

    #[test]
    fn housekeeping_alone_is_no_life_and_slow_work_is() {
        let begun = Instant::now();
        let mut watch = Watch::begin(begun);
        let seen: Vec<bool> = (1..=20)
            .map(|n| {
                watch
                    .look(Duration::from_millis(n), begun + SECOND * n as u32)
                    .is_some()
            })
            .collect();
        assert!(seen[14] && !seen[13], "{seen:?}");
        let mut watch = Watch::begin(begun);
        for n in 1..100_u32 {
            // 5 ms a second come to more than housekeeping before it is too late.
            assert_eq!(
                watch.look(Duration::from_millis(5) * n, begun + SECOND * n),
                None
            );
        }
    }

    #[test]
    fn a_processs_line_is_read_whatever_its_name() {
        let line = "12 (a) b) T 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let usage = parse(line, 100).unwrap();
        assert_eq!((usage.state, usage.used), ('T', SECOND * 3));
        assert!(told(STILL, usage, None).contains("SIGSTOP"));
        let usage = Usage {
            state: 'S',
            ..usage
        };
        let mut processor = EmulatedProcessor {
            sleeps: true,
            waiting: vec![250],
            words: String::new(),
        };
        let said = told(STILL, usage, Some(&processor));
        assert!(said.contains("interrupt 250 waits"), "{said}");
        processor.sleeps = false;
        let said = told(STILL, usage, Some(&processor));
        assert!(said.contains("nothing that explains it"), "{said}");
        assert!(told(STILL, usage, None).contains("does not answer"));
        assert!(super::usage(std::process::id()).is_some());
        assert_eq!(super::usage(4_194_305), None);
    }
}

//! QEMU's monitor, asked when a machine stands still: what its processor waits for.
//!
//! The protocol is QMP: JSON objects, a line each (QEMU's `docs/interop/qmp-spec.rst`).

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A QEMU that was stopped answers nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the processor of a machine does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatedProcessor {
    /// It is in HLT.
    pub sleeps: bool,
    /// Interrupts that wait in its local APIC (the IRR), by their vectors.
    pub waiting: Vec<u8>,
    /// The monitor's own words.
    pub words: String,
}

/// Asks the monitor behind this socket.
///
/// # Errors
/// QEMU is gone or does not answer.
pub fn ask(socket: &Path) -> io::Result<EmulatedProcessor> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut monitor = Monitor {
        lines: BufReader::new(stream.try_clone()?),
        stream,
    };
    // It greets.
    monitor.line()?;
    monitor.execute(&json!({ "execute": "qmp_capabilities" }))?;
    let mut words = String::new();
    for command in ["info lapic", "info registers"] {
        let said = monitor.execute(&json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": command },
        }))?;
        words.push_str(&format!("({command})\n{said}\n"));
    }
    Ok(parse(words))
}

struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn execute(&mut self, command: &Value) -> io::Result<String> {
        /// Events may come before the answer, but not for ever.
        const EVENTS: usize = 100;
        self.stream.write_all(format!("{command}\n").as_bytes())?;
        for _ in 0..EVENTS {
            let line = self.line()?;
            if let Some(answer) = line.get("return") {
                return Ok(answer.as_str().unwrap_or_default().replace('\r', ""));
            }
            if let Some(error) = line.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
        }
        Err(io::Error::other("the monitor does not answer"))
    }
}

fn parse(words: String) -> EmulatedProcessor {
    let mut lines = words.lines();
    let irr = lines.find_map(|line| line.strip_prefix("IRR"));
    let vectors = irr.unwrap_or_default().split_whitespace();
    EmulatedProcessor {
        sleeps: words.contains("HLT=1"),
        // "(none)", or numbers, a level-triggered one with a mark behind.
        waiting: vectors
            .filter_map(|word| {
                let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
                digits.parse().ok()
            })
            .collect(),
        words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_lost_interrupt_is_seen() {
        // As QEMU 7.2 said it of a machine that stood still.
        let words = "(info lapic)\nISR\t (none)\nIRR\t 250 \n\n(info registers)\nCPL=0 II=0 A20=1 SMM=0 HLT=1\n";
        let processor = parse(words.into());
        assert!(processor.sleeps);
        assert_eq!(processor.waiting, [250]);
        let none = parse("IRR\t (none)\nHLT=0".into());
        assert!(!none.sleeps && none.waiting.is_empty());
        assert_eq!(parse("IRR\t 33(level) 48 \n".into()).waiting, [33, 48]);
    }

    #[test]
    fn a_monitor_that_answers_is_heard_and_one_that_does_not_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = [
            "{\"QMP\": {}}\n{\"return\": {}}\n",
            "{\"event\": \"STOP\"}\n{\"return\": \"IRR\\t 49 \\r\\n\"}\n",
            "{\"return\": \"HLT=1\"}\n",
        ];
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                stream.write_all(answer.as_bytes()).unwrap();
            }
            // Until the asker hangs up.
            io::copy(&mut stream, &mut io::sink()).unwrap();
            listener
        });
        let processor = ask(&path).unwrap();
        assert_eq!((processor.waiting, processor.sleeps), (vec![49], true));
        let _listener = server.join().unwrap();
        assert!(ask(&path).is_err(), "connected, but nobody answers");
    }
}

//! What a lab reports beside its suites' own reports: the machine with every version in it, how
//! often it was started and why, and how each suite ended.

use crate::ask::suite::{CONFORM_REPORT, PEERS_REPORT, XENSTORE_REPORT};
use crate::build::emulator::Emulator;
use crate::build::parts::Parts;
use crate::error::{LabError, Result};
use crate::fetch::set::Set;
use crate::machine::course::{End, Ended};
use crate::machine::processor::Processor;
use anstyle::{AnsiColor, Style};
use pv_harness::error::Error;
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// The files' names in the report's directory.
pub const JSON: &str = "lab.json";
const JUNIT: &str = "lab.xml";

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Xen's version, and its package's.
    pub xen: String,
    /// Linux' release, and its package's version.
    pub linux: String,
    /// What QEMU says that it is.
    pub qemu: String,
    /// Where QEMU comes from.
    pub qemu_from: String,
    /// The processor of this machine that QEMU was bound to.
    pub processor: usize,
    /// The domains beside dom0, with their kinds.
    pub domains: Vec<String>,
}

impl Machine {
    /// Of these parts.
    pub fn of(
        parts: &Parts,
        emulator: &Emulator,
        processor: &Processor,
        domains: Vec<String>,
    ) -> Machine {
        let version = |set: &Set| format!("{} ({})", set.detail, set.version);
        Machine {
            xen: version(&parts.xen_set),
            linux: version(&parts.kernel_set),
            qemu: emulator.version.clone(),
            qemu_from: emulator.origin.clone(),
            processor: processor.number,
            domains,
        }
    }
}

/// The whole.
#[derive(Debug, Serialize)]
pub struct LabReport<'a> {
    /// `pv-stress` and its version.
    pub tool: String,
    /// When it began, UTC, RFC 3339.
    pub started: String,
    /// The command that makes this machine again.
    pub command: String,
    /// What ran it.
    pub machine: Machine,
    /// Why starts of the machine were lost, the first first.
    pub lost: Vec<String>,
    /// How each suite ended.
    pub suites: &'a [Ended],
    /// The exit status of the whole.
    pub exit_status: u8,
    /// Wall-clock time.
    pub duration_ms: u64,
}

impl LabReport<'_> {
    /// Writes `lab.json` and `lab.xml`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(JSON);
        let json = serde_json::to_string_pretty(self).map_err(io::Error::from);
        json.and_then(|json| fs::write(&path, json))
            .map_err(LabError::file(&path))?;
        let path = dir.join(JUNIT);
        fs::write(&path, self.junit()?).map_err(LabError::file(&path))
    }

    fn junit(&self) -> Result<String> {
        let mut xml = quick_junit::Report::new("pv-stress lab");
        xml.set_time(Duration::from_millis(self.duration_ms));
        let mut suite = TestSuite::new("lab");
        for (name, value) in [
            ("xen", &self.machine.xen),
            ("linux", &self.machine.linux),
            ("qemu", &self.machine.qemu),
            ("command", &self.command),
        ] {
            suite.add_property((name, value.as_str()));
        }
        for ended in self.suites {
            let failed = |kind, message: &str| {
                let mut status = TestCaseStatus::non_success(kind);
                status.set_message(message);
                status
            };
            let status = match &ended.end {
                End::Status(0) => TestCaseStatus::success(),
                End::Status(status) => failed(
                    NonSuccessKind::Failure,
                    &format!("it ended with status {status}"),
                ),
                End::Lost(why) => failed(
                    NonSuccessKind::Error,
                    &format!("it lost the machine: {why}"),
                ),
                End::NotRun(why) => {
                    failed(NonSuccessKind::Error, &format!("it did not run: {why}"))
                }
            };
            let mut case = TestCase::new(ended.suite.as_str(), status);
            case.set_classname("pv-stress.lab");
            case.set_time(Duration::from_millis(ended.duration_ms));
            suite.add_test_case(case);
        }
        xml.add_test_suite(suite);
        xml.to_string()
            .map_err(|error| Error::environment("lab.xml", error, "report this as a bug").into())
    }

    /// A line for each suite, and what ran them.
    ///
    /// # Errors
    /// What `write` says.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = self.suites.iter().map(|ended| ended.suite.len()).max();
        let width = width.unwrap_or(0).max(5);
        writeln!(out, "\n{:width$}  {:12}  {:>8}", "suite", "result", "time")?;
        for ended in self.suites {
            let (word, colour, why) = match &ended.end {
                End::Status(0) => ("passed".to_owned(), AnsiColor::Green, None),
                End::Status(status) => (format!("status {status}"), AnsiColor::Red, None),
                End::Lost(why) => (
                    "LOST".into(),
                    AnsiColor::Red,
                    Some(("it lost the machine", why)),
                ),
                End::NotRun(why) => (
                    "NOT RUN".into(),
                    AnsiColor::Red,
                    Some(("it did not run", why)),
                ),
            };
            let style = Style::new().fg_color(Some(colour.into())).bold();
            let time = humantime::format_duration(Duration::from_secs(ended.duration_ms / 1000));
            writeln!(
                out,
                "{:width$}  {style}{word:12}{style:#}  {:>8}",
                ended.suite,
                time.to_string()
            )?;
            if let Some((what, why)) = why {
                writeln!(out, "  {what}: {why}")?;
            }
            if let Some(why) = &ended.begun_again {
                writeln!(out, "  begun again on another machine, because {why}")?;
            }
        }
        for (n, why) in self.lost.iter().enumerate() {
            writeln!(out, "start {} of the machine was lost: {why}", n + 1)?;
        }
        let machine = &self.machine;
        writeln!(
            out,
            "on Xen {}, Linux {}, QEMU {} from {} on processor {}",
            machine.xen, machine.linux, machine.qemu, machine.qemu_from, machine.processor
        )
    }

    /// This, and the suites' own reports, as one JSON object.
    ///
    /// # Errors
    /// What reading them or `write` says.
    pub fn print_json(&self, dir: &Path, out: &mut dyn Write) -> io::Result<()> {
        let mut json = serde_json::to_value(self)?;
        let [peers, xenstore] =
            [PEERS_REPORT, XENSTORE_REPORT].map(|name| Path::new(name).join("report.json"));
        for (name, file) in [
            ("scenarios", Path::new("report.json")),
            ("conform", Path::new(CONFORM_REPORT)),
            ("peers", &peers),
            ("xenstore", &xenstore),
        ] {
            if let Ok(text) = fs::read(dir.join(file)) {
                json["reports"][name] = serde_json::from_slice(&text)?;
            }
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(suite: &str, end: End) -> Ended {
        Ended {
            suite: suite.into(),
            end,
            duration_ms: 61_000,
            begun_again: None,
            is_stored: true,
        }
    }

    #[test]
    fn a_lost_suite_and_a_second_start_are_told_everywhere() {
        let mut again = ended("scenarios", End::Status(0));
        again.begun_again = Some("QEMU was ended by signal 9".into());
        let suites = [
            again,
            ended("conform", End::Lost("a panic: <x>".into())),
            ended("more", End::NotRun("the same".into())),
        ];
        let report = LabReport {
            tool: "pv-stress".into(),
            started: "2026-01-02T03:04:05Z".into(),
            command: "pv-stress lab".into(),
            machine: Machine {
                xen: "4.17 (4.17.7)".into(),
                linux: "6.1.0-56-amd64 (6.1.1-1)".into(),
                qemu: "7.2.22".into(),
                qemu_from: "Debian bookworm, brought by the lab".into(),
                processor: 1,
                domains: vec!["front pvh".into()],
            },
            lost: vec!["QEMU was ended by signal 9".into()],
            suites: &suites,
            exit_status: 2,
            duration_ms: 100_000,
        };
        let mut out = anstream::StripStream::new(Vec::new());
        report.print(&mut out).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        for said in [
            "scenarios  passed           1m 1s",
            "begun again on another machine, because QEMU was ended by signal 9",
            "conform    LOST",
            "it lost the machine: a panic: <x>",
            "more       NOT RUN",
            "start 1 of the machine was lost",
            "on Xen 4.17 (4.17.7), Linux 6.1.0-56-amd64 (6.1.1-1), QEMU 7.2.22",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFORM_REPORT), "{\"rules\": []}").unwrap();
        fs::create_dir(dir.path().join(PEERS_REPORT)).unwrap();
        let peers = dir.path().join(PEERS_REPORT).join("report.json");
        fs::write(peers, "{\"verdicts\": []}").unwrap();
        report.write(dir.path()).unwrap();
        let xml = fs::read_to_string(dir.path().join(JUNIT)).unwrap();
        assert!(
            xml.contains("errors=\"2\"") && xml.contains("a panic: &lt;x&gt;"),
            "{xml}"
        );
        let mut out = Vec::new();
        report.print_json(dir.path(), &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["suites"][1]["end"]["how"], "lost");
        assert!(json["reports"]["conform"]["rules"].is_array());
        assert!(json["reports"]["peers"]["verdicts"].is_array());
    }
}

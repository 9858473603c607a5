//! What comes over the serial port: dom0's news and output, for people; the course of the suites;
//! the ends of kernels.

use super::course::Course;
use super::serial::Ear;
use crate::ask::suite::REPORT;
use crate::progress::Progress;
use std::io::Write;
use std::time::{Duration, Instant};

/// For the boot of the machine and its domains, and for what follows the last suite. A machine that
/// stands still is noticed long before: this is for one that is busy for ever.
const BOOT: Duration = Duration::from_secs(900);

/// Passes on what is meant for people, and keeps the course.
pub struct Listener<'a> {
    /// The report's directory on this machine.
    pub report: String,
    /// Standard output is for the report.
    pub json: bool,
    /// Told dom0's news.
    pub progress: &'a Progress,
    /// Which suite is on.
    pub course: &'a mut Course,
    times: u32,
    deadline: Instant,
    is_done: bool,
}

impl<'a> Listener<'a> {
    /// For a machine that starts now.
    pub fn new(
        report: String,
        json: bool,
        progress: &'a Progress,
        course: &'a mut Course,
    ) -> Listener<'a> {
        Listener {
            report,
            json,
            progress,
            course,
            times: 1,
            deadline: Instant::now() + BOOT,
            is_done: false,
        }
    }

    fn output(&self, output: &str) {
        // dom0's names of places are not ours.
        let output = output.replace(REPORT, &self.report);
        // With nobody reading, the report is still written.
        let _ = if self.json {
            writeln!(anstream::stderr(), "{output}")
        } else {
            writeln!(anstream::stdout(), "{output}")
        };
    }

    fn news(&mut self, news: &str) -> Result<(), String> {
        let now = Instant::now();
        let words: Vec<&str> = news.split_whitespace().collect();
        match words[..] {
            ["failed", ..] => return Err(format!("dom0 {news}")),
            ["slow", "machine:", times] => {
                self.times = times.parse().unwrap_or(1);
                self.progress.tell(format_args!(
                    "the domains were slow to boot: deadlines are {times} times as long"
                ));
                return Ok(());
            }
            ["suite", name, "begins"] => {
                let limit = self.course.begins(name, now).unwrap_or(BOOT);
                self.deadline = now + limit.saturating_mul(self.times);
            }
            ["suite", name, "ends:", status] => {
                self.course.ends(name, status.parse().unwrap_or(2), now);
                self.deadline = now + BOOT;
            }
            ["suite", name, "is", "stored"] => {
                self.course.stored(name);
                return Ok(());
            }
            ["all", "done"] => {
                self.is_done = true;
                return Ok(());
            }
            _ => {}
        }
        self.progress.tell(news);
        Ok(())
    }
}

impl Ear for Listener<'_> {
    fn line(&mut self, line: &str) -> Result<(), String> {
        // Xen's own messages go to the same port, and may begin in the middle of a line.
        if let Some((_, output)) = line.split_once("LAB| ") {
            self.output(output);
        } else if let Some((_, news)) = line.split_once("LAB: ") {
            return self.news(news);
        } else if let Some(panic) = ["Kernel panic", "(XEN) Panic on CPU"]
            .iter()
            .find(|p| line.contains(*p))
            // It tells of a domain's, whose start is tried again.
            && !line.contains("pv-stress: ")
        {
            let cause = &line[line.find(panic).unwrap_or(0)..];
            return Err(format!("a panic: {cause}"));
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn is_done(&self) -> bool {
        self.is_done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::suite::Suite;
    use crate::machine::course::End;

    #[test]
    fn a_panic_and_a_failed_start_end_the_wait_and_suites_take_their_course() {
        let progress = Progress::begin().unwrap();
        let mut course = Course::of(vec![Suite {
            name: "a".into(),
            script: String::new(),
            limit: Some(Duration::from_secs(5)),
        }]);
        let mut listener = Listener::new("r".into(), false, &progress, &mut course);
        let booting = listener.deadline();
        assert_eq!(listener.line("(XEN) xLAB: dom0 ready"), Ok(()));
        let of_guest =
            "pv-stress: domain back: Kernel panic - not syncing: x; its console said last";
        assert_eq!(listener.line(of_guest), Ok(()));
        let error = listener.line("[ 1.0] Kernel panic - not syncing: x");
        assert_eq!(
            error,
            Err("a panic: Kernel panic - not syncing: x".to_owned())
        );
        let error = listener.line("LAB: failed to load xenfs");
        assert_eq!(error, Err("dom0 failed to load xenfs".to_owned()));
        assert_eq!(listener.line("LAB: slow machine: 3"), Ok(()));
        listener.line("LAB: suite a begins").unwrap();
        let (on, boot) = (listener.deadline().unwrap(), booting.unwrap());
        assert!(on < boot && on > Instant::now() + Duration::from_secs(12));
        listener.line("LAB: suite a ends: 1").unwrap();
        listener.line("LAB: suite a is stored").unwrap();
        assert!(!listener.is_done());
        listener.line("LAB: all done").unwrap();
        assert!(listener.is_done());
        let ended = &course.ended()[0];
        assert_eq!((&ended.end, ended.is_stored), (&End::Status(1), true));
    }
}

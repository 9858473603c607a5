//! What comes over the serial port: dom0's news and output, for people; the ends of kernels.

use super::job;
use std::io::Write;

/// Passes on what is meant for people.
pub struct Listener<'a> {
    /// The report's directory on this machine.
    pub report: String,
    /// Standard output is for the report.
    pub json: bool,
    /// Told dom0's news.
    pub tell: &'a mut dyn FnMut(&str),
}

impl Listener<'_> {
    /// Takes a line. How many times as long deadlines are, if the line says so.
    ///
    /// # Errors
    /// Why there is nothing more to wait for.
    pub fn line(&mut self, line: &str) -> Result<Option<u32>, String> {
        // Xen's own messages go to the same port, and may begin in the middle of a line.
        if let Some((_, output)) = line.split_once("LAB| ") {
            self.output(output);
        } else if let Some((_, news)) = line.split_once("LAB: ") {
            return self.news(news);
        } else if let Some(panic) = ["Kernel panic", "(XEN) Panic on CPU"]
            .iter()
            .find(|p| line.contains(*p))
        {
            let cause = &line[line.find(panic).unwrap_or(0)..];
            return Err(format!("a panic: {cause}"));
        }
        Ok(None)
    }

    fn output(&self, output: &str) {
        // dom0's names of places are not ours.
        let output = output.replace(job::REPORT, &self.report);
        // With nobody reading, the report is still written.
        let _ = if self.json {
            writeln!(anstream::stderr(), "{output}")
        } else {
            writeln!(anstream::stdout(), "{output}")
        };
    }

    fn news(&mut self, news: &str) -> Result<Option<u32>, String> {
        if news.starts_with("failed") {
            return Err(format!("dom0 {news}"));
        }
        if let Some(times) = news.strip_prefix(job::SLOW).and_then(|n| n.parse().ok()) {
            (self.tell)(&format!(
                "the domains were slow to boot: deadlines are {times} times as long"
            ));
            return Ok(Some(times));
        }
        (self.tell)(news);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_and_a_failed_start_end_the_wait() {
        let mut told = Vec::new();
        let mut listener = Listener {
            report: "r".into(),
            json: false,
            tell: &mut |what| told.push(what.to_owned()),
        };
        assert_eq!(listener.line("(XEN) xLAB: dom0 ready"), Ok(None));
        assert_eq!(listener.line("LAB: slow machine: 3"), Ok(Some(3)));
        let error = listener.line("[ 1.0] Kernel panic - not syncing: x");
        assert_eq!(
            error,
            Err("a panic: Kernel panic - not syncing: x".to_owned())
        );
        let error = listener.line("LAB: failed to load xenfs");
        assert_eq!(error, Err("dom0 failed to load xenfs".to_owned()));
        assert_eq!(told.len(), 2);
        assert_eq!(told[0], "dom0 ready");
        assert!(told[1].contains("3 times as long"), "{}", told[1]);
    }
}

//! The end of a stage: everybody gone, what is left asked for, the evidence put together.

use super::Stage;
use libgnt::inspect::Inspection;
use pv_harness::error::Error;
use pv_harness::processes::Elsewhere;
use pv_judges::checks::Evidence;
use pv_judges::picture::Picture;
use pv_judges::verdict::Figure;
use pv_remote::xen::{KernelLog, Xen};
use pv_xenstore::toolstack::remove_nodes;
use std::time::{Duration, Instant};

impl Stage<'_> {
    /// Ends every process but the host, asks that what is left, and then ends it too.
    pub(in crate::scenario) fn finish(mut self) -> (Evidence, Vec<Figure>, Vec<Picture>) {
        for id in self
            .processes
            .children()
            .filter(|id| Some(*id) != self.host && !self.observers.contains(id))
            .collect::<Vec<_>>()
        {
            self.processes.end(id);
        }
        self.stop_observers();
        let mut left_over = Vec::new();
        if let Some(xen) = &self.xen {
            left_over = xen.settle();
        }
        let inspection = self.settled();
        let channels = self.xen.as_ref().and_then(|xen| xen.channels());
        let mut kernels = Vec::new();
        if let Some(xen) = self.xen.clone() {
            if let Err(error) = self.remove_devices(&xen) {
                left_over.push(error.to_string());
            }
            left_over.extend(xen.end(self.processes.dir()));
            kernels = self.kernel_logs(&xen, &mut left_over);
        }
        self.toolstack = None;
        let mut aftermath = self.processes.finish();
        aftermath.left_over.extend(left_over);
        let mut evidence = Evidence::new(aftermath, inspection, self.ledgers);
        evidence.totals = self.totals;
        evidence.watched = self.watched;
        evidence.kernels = self.xen.as_ref().map(|_| kernels);
        if let Some(xen) = &self.xen {
            evidence.channels = channels;
            evidence.guests = xen.guests();
        }
        evidence.clock_uncertainty_ns = self.xen.as_ref().map_or(0, |xen| {
            u64::try_from(xen.clock_uncertainty().as_nanos()).unwrap_or(u64::MAX)
        });
        (evidence, self.figures, self.pictures)
    }

    /// They see the end of all others. Told once, they wait until the kernels have given all back; told
    /// once more, they end.
    fn stop_observers(&mut self) {
        for id in std::mem::take(&mut self.observers) {
            if let Err(stopped) = self.processes.stop(id) {
                tracing::warn!(%stopped, "an observer");
                self.processes.end(id);
            }
        }
    }

    /// A real xenstore outlives the scenario.
    fn remove_devices(&self, xen: &Xen) -> Result<(), Error> {
        let client = xen.xenstore()?;
        for device in &self.devices {
            let paths = device.paths();
            remove_nodes(&client, &device.key(), &paths).map_err(|error| {
                let what = format!("{} and {}", paths.front, paths.back);
                Error::environment(&what, error, "remove them by hand")
            })?;
        }
        Ok(())
    }

    /// What the kernels said, into the logs; the trouble in it.
    fn kernel_logs(&self, xen: &Xen, left_over: &mut Vec<String>) -> Vec<(String, Vec<String>)> {
        let logs = match xen.kernel_logs() {
            Ok(logs) => logs,
            Err(error) => {
                left_over.push(error.to_string());
                return Vec::new();
            }
        };
        logs.into_iter()
            .map(
                |KernelLog {
                     domain,
                     lines,
                     trouble,
                 }| {
                    let path = self
                        .processes
                        .timeline_path(&domain)
                        .with_extension("kernel.log");
                    if let Err(error) = std::fs::write(&path, lines.join("\n") + "\n") {
                        left_over.push(format!("{}: {error}", path.display()));
                    }
                    (domain, trouble)
                },
            )
            .collect()
    }

    /// The host's state once what is deferred had the time it may take: an unmap is retried less
    /// and less often, about sqrt(10 ms · T) apart after a hold of T; an end of access that the peer
    /// was in the way of, once a second, ten entries at a time.
    fn settled(&mut self) -> Option<Inspection> {
        const STEP: Duration = Duration::from_millis(10);
        if self.toolstack.is_none() && self.xen.is_none() {
            return None;
        }
        let first = self.inspect().ok()?;
        let ending = first.grants.iter().filter(|grant| grant.ending).count();
        let gap = (0.010 * self.settings.hold_for.as_secs_f64()).sqrt();
        let patience = 2.0 + 2.0 * gap + ending as f64 / 10.0;
        let until = Instant::now() + Duration::from_secs_f64(patience);
        let mut state = first;
        while !is_settled(&state)
            && Instant::now() < until
            && self.processes.interrupted().is_none()
        {
            self.processes.idle(STEP);
            state = self.inspect().ok()?;
        }
        Some(state)
    }
}

fn is_settled(state: &Inspection) -> bool {
    state.grants.is_empty()
        && state.unmapping.is_empty()
        && state.holders.is_empty()
        && state.gntalloc_pages == 0
        && state.event_channels == 0
}

//! How much is done in how long.

use crate::error::Result;
use std::time::{Duration, Instant};

/// What a client got done. The machine may do other work meanwhile, so the best run of so many counts; what
/// waits already when a run begins is much less than that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// In the best run, in a second.
    pub best: f64,
    /// Altogether.
    pub done: usize,
}

/// Does rounds, each of which says how much it has done, for that long; a run is at least `least`.
///
/// # Errors
/// The first of `round`.
pub fn pace(
    span: Duration,
    least: usize,
    mut round: impl FnMut() -> Result<usize>,
) -> Result<Pace> {
    let begun = Instant::now();
    let mut runs = Runs::default();
    loop {
        let done = round()?;
        let at = begun.elapsed();
        runs.note(at, done, least);
        if at >= span {
            return Ok(runs.end(at));
        }
    }
}

#[derive(Debug, Default)]
struct Runs {
    pace: Pace,
    /// When this run began, and what was done before.
    since: (Duration, usize),
}

impl Runs {
    fn note(&mut self, at: Duration, done: usize, least: usize) {
        self.pace.done += done;
        if self.pace.done - self.since.1 >= least.max(1) {
            self.close(at);
        }
    }

    fn close(&mut self, at: Duration) {
        let (since, before) = self.since;
        let rate = (self.pace.done - before) as f64 / (at - since).as_secs_f64();
        self.pace.best = self.pace.best.max(rate);
        self.since = (at, self.pace.done);
    }

    /// Without a whole run, what there is of one counts.
    fn end(mut self, at: Duration) -> Pace {
        if self.pace.best == 0.0 && self.pace.done > 0 {
            self.close(at);
        }
        self.pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_run_counts_and_a_short_one_only_if_there_is_no_other() {
        let second = Duration::from_secs;
        let mut runs = Runs::default();
        for (at, done) in [(1, 10), (2, 10), (4, 40), (14, 19), (15, 1000)] {
            runs.note(second(at), done, 20);
        }
        // Runs of 20 in two seconds, of 40 in two, of 1019 in eleven.
        let pace = runs.end(second(15));
        assert_eq!((pace.best.round(), pace.done), (93.0, 1079));
        let mut runs = Runs::default();
        runs.note(second(2), 10, 20);
        assert_eq!(runs.end(second(2)).best, 5.0);
        assert_eq!(Runs::default().end(second(2)), Pace::default());
    }

    #[test]
    fn it_ends() {
        let pace = pace(Duration::ZERO, 10, || Ok(3)).unwrap();
        assert_eq!(pace.done, 3);
    }
}

//! What could not be done now and is tried again: when, and how often that is spoken of.

use std::time::{Duration, Instant};

/// Pauses that grow while nothing works. No clock of its own: the caller brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pause: Duration,
    next: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            pause: Self::FIRST,
            next: None,
        }
    }
}

impl Pace {
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(500);

    /// An attempt brought something: the next failure is a new one.
    pub fn worked(&mut self) {
        *self = Pace::default();
    }

    /// An attempt brought nothing.
    pub fn failed(&mut self, now: Instant) {
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(Self::LONGEST);
    }

    /// Nothing has worked for long.
    pub fn is_slow(&self) -> bool {
        self.pause == Self::LONGEST
    }

    /// How long until the next attempt. Zero: now.
    pub fn left(&self, now: Instant) -> Duration {
        self.next
            .map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }
}

/// One line a second, however much goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Suppressed {
    last: Option<Instant>,
    missed: usize,
}

impl Suppressed {
    /// Some: speak now, and this many were not told of.
    pub fn may_speak(&mut self) -> Option<usize> {
        const PAUSE: Duration = Duration::from_secs(1);
        if self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            self.missed += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again_when_something_worked() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        assert_eq!(pace.left(begin), Duration::ZERO);
        let (mut now, mut attempts) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            pace.failed(now);
            assert!(pace.left(now) <= Pace::LONGEST);
            now += pace.left(now);
            attempts += 1;
        }
        assert!(attempts < 40, "{attempts} attempts in ten seconds");
        pace.worked();
        pace.failed(now);
        assert_eq!(pace.left(now), Pace::FIRST);
    }
}

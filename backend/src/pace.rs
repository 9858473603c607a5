//! When to look again and when to sleep: how long to poll before sleeping, and how long to leave
//! an event channel masked whose events bring no work. No clock of its own: the caller brings it.

use std::time::{Duration, Instant};

/// Polling before sleep pays when work comes soon, and is a waste when it does not. The time grows
/// when it paid and shrinks when it did not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    most: Duration,
    now: Duration,
}

impl Spin {
    pub fn new(most: Duration) -> Self {
        Spin { most, now: most }
    }

    /// How long to poll this time.
    pub fn budget(&self) -> Duration {
        self.now
    }

    /// Work came while polling.
    pub fn paid(&mut self) {
        self.now = (self.now * 2).clamp(self.most / 16, self.most);
    }

    /// It did not.
    pub fn wasted(&mut self) {
        // Never to zero: how else would it learn that times have changed?
        self.now = (self.now / 2).max(self.most / 64);
    }
}

/// A peer may notify as often as it likes. Events without work keep the channel masked for a
/// while, longer each time (XSA-391).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Storm {
    in_vain: u32,
    masked_until: Option<Instant>,
}

impl Storm {
    /// An honest peer's event may come late, after its work was found by polling.
    const ALLOWED: u32 = 8;
    const FIRST_PAUSE: Duration = Duration::from_micros(200);
    const LONGEST_PAUSE: Duration = Duration::from_millis(20);

    /// An event came and brought work.
    pub fn worked(&mut self) {
        self.in_vain = 0;
    }

    /// An event came and brought none.
    pub fn in_vain(&mut self, now: Instant) {
        self.in_vain = self.in_vain.saturating_add(1);
        if let Some(over) = self.in_vain.checked_sub(Self::ALLOWED) {
            let pause = Self::FIRST_PAUSE * (1 << over.min(7));
            self.masked_until = Some(now + pause.min(Self::LONGEST_PAUSE));
        }
    }

    /// How much longer the channel has to stay masked; none: unmask it.
    pub fn pause(&mut self, now: Instant) -> Option<Duration> {
        let left = self.masked_until?.saturating_duration_since(now);
        if left.is_zero() {
            self.masked_until = None;
            return None;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_follows_what_it_brings() {
        let most = Duration::from_micros(64);
        let mut spin = Spin::new(most);
        for _ in 0..20 {
            spin.wasted();
        }
        assert_eq!(spin.budget(), Duration::from_micros(1));
        for _ in 0..20 {
            spin.paid();
        }
        assert_eq!(spin.budget(), most);
        let mut never = Spin::new(Duration::ZERO);
        never.paid();
        assert_eq!(never.budget(), Duration::ZERO);
    }

    #[test]
    fn a_storm_is_masked_for_longer_and_longer_and_work_ends_it() {
        let (mut storm, mut now, mut wakeups) = (Storm::default(), Instant::now(), 0);
        let end = now + Duration::from_secs(1);
        while now < end {
            wakeups += 1;
            storm.in_vain(now);
            now += storm.pause(now).unwrap_or(Duration::from_micros(1));
            assert_eq!(storm.pause(now), None, "the pause ends");
        }
        assert!(
            (50..100).contains(&wakeups),
            "{wakeups} wake-ups in a second of storm"
        );
        storm.worked();
        storm.in_vain(now);
        assert_eq!(storm.pause(now), None, "one late event is no storm");
    }
}

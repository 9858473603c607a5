//! How soon a back end gets another ring. One that closes, or dies, as soon as it is connected
//! would else keep this process, the store and the hypervisor busy for nothing.

use std::time::{Duration, Instant};

/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_secs(10);
/// The pause before the second ring in a row that did not last; the first comes at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Pauses double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pace {
    /// Rings in a row that did not last.
    in_vain: u32,
    connected: Option<Instant>,
    /// No pause is longer: somebody waits for a back end, and not for ever.
    longest: Duration,
}

impl Pace {
    /// `reconnect`: how long a back end is waited for.
    pub(super) fn new(reconnect: Duration) -> Self {
        Pace {
            in_vain: 0,
            connected: None,
            longest: LONGEST_PAUSE.min(reconnect / 8),
        }
    }

    /// The ring that was made last is in service.
    pub(super) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// That ring is given up.
    pub(super) fn ended(&mut self, now: Instant) {
        let connected = self.connected.take();
        match connected.is_some_and(|since| now.saturating_duration_since(since) >= LASTED) {
            true => self.in_vain = 0,
            false => self.in_vain = self.in_vain.saturating_add(1),
        }
    }

    /// How long to wait before another ring is made. Random within bounds, so that domains whose
    /// back end fails them all do not come back together.
    pub(super) fn pause(&self) -> Duration {
        let Some(doublings) = self.in_vain.checked_sub(2) else {
            return Duration::ZERO;
        };
        let pause = FIRST_PAUSE * (1 << doublings.min(16));
        pause.min(self.longest).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_nothing_lasts_and_no_longer() {
        let mut pace = Pace::new(Duration::from_secs(80));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            pace.connected(now);
            now += Duration::from_secs(1);
            pace.ended(now);
            pauses.push(pace.pause());
        }
        // A pause is between a half and the whole of what it is a random part of.
        assert_eq!(pauses[0], Duration::ZERO, "a back end may die once");
        assert!(pauses[1] >= FIRST_PAUSE / 2, "{pauses:?}");
        assert!(pauses[5] >= FIRST_PAUSE * 8, "{pauses:?}");
        assert!(pauses[19] >= LONGEST_PAUSE / 2 && pauses[19] <= LONGEST_PAUSE);
        pace.connected(now);
        pace.ended(now + LASTED);
        assert_eq!(pace.pause(), Duration::ZERO, "this one did last");
    }

    #[test]
    fn a_ring_that_never_came_into_service_did_not_last() {
        let mut pace = Pace::new(Duration::from_secs(80));
        for _ in 0..3 {
            pace.ended(Instant::now());
        }
        assert!(pace.pause() >= FIRST_PAUSE);
    }

    #[test]
    fn whoever_waits_for_a_back_end_waits_longer_than_a_pause() {
        let mut pace = Pace::new(Duration::from_millis(80));
        for _ in 0..20 {
            pace.ended(Instant::now());
        }
        assert!(pace.pause() <= Duration::from_millis(10));
    }
}

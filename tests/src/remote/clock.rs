//! Another domain's clock: how far it is from ours, and how well that is known.
//!
//! Both count Xen's own system time, from different beginnings, so the distance stays and the best
//! exchange so far is the best there is.

use std::time::Duration;

/// What a few questions and answers tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    best: Option<Best>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Best {
    /// Ours minus theirs, nanoseconds.
    offset: i128,
    /// Half of the round trip.
    uncertainty: u64,
}

impl Clock {
    /// Takes one exchange in: asked and answered on our clock, and what theirs said in between.
    pub fn exchanged(&mut self, asked: u64, theirs: u64, answered: u64) {
        let round_trip = answered.saturating_sub(asked);
        let middle = asked + round_trip / 2;
        let found = Best {
            offset: i128::from(middle) - i128::from(theirs),
            uncertainty: round_trip.div_ceil(2),
        };
        if self
            .best
            .is_none_or(|best| found.uncertainty < best.uncertainty)
        {
            self.best = Some(found);
        }
    }

    /// Their time on our clock; theirs as it is before the first exchange.
    pub fn translate(&self, theirs: u64) -> u64 {
        let offset = self.best.map_or(0, |best| best.offset);
        u64::try_from(i128::from(theirs) + offset).unwrap_or(0)
    }

    /// How far off a translation may be.
    pub fn uncertainty(&self) -> Option<Duration> {
        self.best.map(|best| Duration::from_nanos(best.uncertainty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_exchange_counts() {
        let mut clock = Clock::default();
        assert_eq!((clock.translate(5), clock.uncertainty()), (5, None));
        clock.exchanged(1000, 100, 3000);
        assert_eq!(clock.translate(100), 2000);
        clock.exchanged(5000, 4000, 5100);
        assert_eq!(clock.translate(4000), 5050);
        assert_eq!(clock.uncertainty(), Some(Duration::from_nanos(50)));
        clock.exchanged(9000, 1, 19000);
        assert_eq!(clock.translate(4000), 5050, "a slower one changes nothing");
    }

    #[test]
    fn a_clock_that_is_ahead_is_no_trouble() {
        let mut clock = Clock::default();
        clock.exchanged(10, 1_000_000, 20);
        assert_eq!(clock.translate(1_000_005), 20);
        assert_eq!(clock.translate(0), 0, "before our clock began");
    }
}

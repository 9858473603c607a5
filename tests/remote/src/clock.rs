//! Another domain's clock: how far it is from ours, and how well that is known.
//!
//! Both count Xen's own system time, from different beginnings, so the distance stays: what every
//! exchange allows is what it can be. On an emulated machine the processors' clocks are apart by
//! themselves, and exchanges may contradict each other; then nothing is known better than that.

use std::time::Duration;

/// What all questions and answers so far tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Ours minus theirs, nanoseconds: at least, and at most.
    known: Option<(i128, i128)>,
}

impl Clock {
    /// Takes one exchange in: asked and answered on our clock, and what theirs said in between.
    pub fn exchanged(&mut self, asked: u64, theirs: u64, answered: u64) {
        let least = i128::from(asked) - i128::from(theirs);
        let most = i128::from(answered) - i128::from(theirs);
        let (known_least, known_most) = self.known.unwrap_or((least, most));
        self.known = Some((known_least.max(least), known_most.min(most)));
    }

    /// Their time on our clock; theirs as it is before the first exchange.
    pub fn translate(&self, theirs: u64) -> u64 {
        let offset = self.known.map_or(0, |(least, most)| (least + most) / 2);
        u64::try_from(i128::from(theirs) + offset).unwrap_or(0)
    }

    /// How far off a translation may be.
    pub fn uncertainty(&self) -> Option<Duration> {
        let (least, most) = self.known?;
        // Contradicting exchanges leave `most` below `least`.
        let off = (most - least).unsigned_abs().div_ceil(2);
        Some(Duration::from_nanos(u64::try_from(off).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exchange_narrows_what_is_known() {
        let mut clock = Clock::default();
        assert_eq!((clock.translate(5), clock.uncertainty()), (5, None));
        clock.exchanged(1000, 100, 3000);
        assert_eq!(
            (clock.translate(100), clock.uncertainty()),
            (2000, Some(Duration::from_nanos(1000)))
        );
        clock.exchanged(5000, 4000, 7000);
        // From 1000 to 2900: the first said at least 900, the second at least 1000.
        assert_eq!(clock.translate(4000), 5950);
        assert_eq!(clock.uncertainty(), Some(Duration::from_nanos(950)));
        clock.exchanged(9000, 1, 19000);
        assert!(
            clock.uncertainty() >= Some(Duration::from_nanos(3049)),
            "it contradicts the others"
        );
    }

    #[test]
    fn clocks_that_stand_still_are_not_exact() {
        let mut clock = Clock::default();
        clock.exchanged(1000, 500, 1000);
        assert_eq!(clock.uncertainty(), Some(Duration::ZERO));
        clock.exchanged(3000, 1900, 3200);
        assert_eq!(clock.uncertainty(), Some(Duration::from_nanos(300)));
    }

    #[test]
    fn a_clock_that_is_ahead_is_no_trouble() {
        let mut clock = Clock::default();
        clock.exchanged(10, 1_000_000, 20);
        assert_eq!(clock.translate(1_000_005), 20);
        assert_eq!(clock.translate(0), 0, "before our clock began");
    }
}

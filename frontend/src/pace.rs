//! What paces the loop: how long to wait busily before it sleeps, how long events that bring nothing
//! are ignored, and how soon a back end gets another ring. No clock of its own: the caller brings it.

use std::time::{Duration, Instant};

/// Waiting busily for a response pays when it comes soon, and is a waste when it does not. The time
/// grows when a longer one would have paid, and shrinks while it is in vain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    most: Duration,
    now: Duration,
}

impl Spin {
    /// The busy wait shrinks to this, not to zero.
    const SHORTEST: Duration = Duration::from_micros(4);

    /// `most`: zero never spins.
    pub(crate) fn new(most: Duration) -> Self {
        Spin { most, now: most }
    }

    /// How long to wait this time.
    pub(crate) fn budget(&self) -> Duration {
        self.now
    }

    /// A sleep is over that began when the busy wait was in vain: it took so long, and whether an
    /// event ended it.
    pub(crate) fn slept(&mut self, time: Duration, event: bool) {
        // A sleep that a longer busy wait would have saved makes the next one longer.
        self.now = match event && time <= self.most {
            true => (self.now * 2).min(self.most),
            false => (self.now / 2).max(Self::SHORTEST.min(self.most)),
        };
    }
}

/// A peer may notify as often as it likes. Events without work keep the channel masked for a while,
/// longer each time (XSA-391). Responses may be late by that, never lost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Storm {
    in_vain: u32,
    masked_until: Option<Instant>,
}

impl Storm {
    /// So many wake-ups without a response in a row are a coincidence, more are a storm.
    const ALLOWED: u32 = 16;
    /// How long a storm's events are ignored at most.
    const LONGEST_PAUSE: Duration = Duration::from_millis(50);

    /// There was work.
    pub(crate) fn worked(&mut self) {
        self.in_vain = 0;
    }

    /// An event came; [`Storm::worked`] follows if it brought work.
    pub(crate) fn in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// How much longer the channel has to stay masked; none: unmask it.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        if let Some(over) = self.in_vain.checked_sub(Self::ALLOWED)
            && over > 0
        {
            let pause = Duration::from_millis(1 << over.min(6)).min(Self::LONGEST_PAUSE);
            let until = *self.masked_until.get_or_insert(now + pause);
            if now < until {
                return Some(until - now);
            }
        }
        self.masked_until = None;
        None
    }

    /// The end of a pause that [`Storm::pause`] began.
    pub(crate) fn masked_until(&self) -> Option<Instant> {
        self.masked_until
    }

    /// The channel is another one now.
    pub(crate) fn forget_pause(&mut self) {
        self.masked_until = None;
    }
}

/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_secs(10);
/// The pause before the second ring in a row that did not last; the first comes at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Pauses double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How soon a back end gets another ring. One that closes, or dies, as soon as it is connected would
/// else keep this process, the store and the hypervisor busy for nothing.
#[derive(Debug)]
pub(crate) struct Rings {
    /// Rings in a row that did not last.
    in_vain: u32,
    connected: Option<Instant>,
    /// No pause is longer: somebody waits for a back end, and not for ever.
    longest: Duration,
}

impl Rings {
    /// `reconnect`: how long a back end is waited for.
    pub(crate) fn new(reconnect: Duration) -> Self {
        Rings {
            in_vain: 0,
            connected: None,
            longest: LONGEST_PAUSE.min(reconnect / 8),
        }
    }

    /// The ring that was made last is in service.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// That ring is given up.
    pub(crate) fn ended(&mut self, now: Instant) {
        let connected = self.connected.take();
        match connected.is_some_and(|since| now.saturating_duration_since(since) >= LASTED) {
            true => self.in_vain = 0,
            false => self.in_vain = self.in_vain.saturating_add(1),
        }
    }

    /// How long to wait before another ring is made. Random within bounds, so that domains whose
    /// back end fails them all do not come back together.
    pub(crate) fn pause(&self) -> Duration {
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
    fn busy_waits_follow_what_they_bring() {
        let most = Duration::from_micros(64);
        let mut spin = Spin::new(most);
        for _ in 0..20 {
            spin.slept(most, false);
        }
        assert_eq!(spin.budget(), Spin::SHORTEST);
        for _ in 0..20 {
            spin.slept(most, true);
        }
        assert_eq!(spin.budget(), most);
        spin.slept(most * 2, true);
        assert_eq!(
            spin.budget(),
            most / 2,
            "no busy wait would have been so long"
        );
        let mut never = Spin::new(Duration::ZERO);
        never.slept(Duration::ZERO, true);
        assert_eq!(never.budget(), Duration::ZERO);
    }

    #[test]
    fn a_storm_is_masked_for_longer_and_longer_and_work_ends_it() {
        let (mut storm, mut now, mut wakeups) = (Storm::default(), Instant::now(), 0);
        let end = now + Duration::from_secs(1);
        while now < end {
            wakeups += 1;
            storm.in_vain();
            let pause = storm.pause(now);
            now += pause.unwrap_or(Duration::from_micros(1));
            assert_eq!(storm.pause(now), None, "the pause ends");
        }
        assert!(
            (20..50).contains(&wakeups),
            "{wakeups} wake-ups in a second of storm"
        );
        storm.in_vain();
        assert!(storm.pause(now).is_some());
        storm.worked();
        assert_eq!(storm.pause(now), None, "work ends a pause");
    }

    #[test]
    fn pauses_grow_while_nothing_lasts_and_no_longer() {
        let mut rings = Rings::new(Duration::from_secs(80));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            rings.connected(now);
            now += Duration::from_secs(1);
            rings.ended(now);
            pauses.push(rings.pause());
        }
        // A pause is between a half and the whole of what it is a random part of.
        assert_eq!(pauses[0], Duration::ZERO, "a back end may die once");
        assert!(pauses[1] >= FIRST_PAUSE / 2, "{pauses:?}");
        assert!(pauses[5] >= FIRST_PAUSE * 8, "{pauses:?}");
        assert!(pauses[19] >= LONGEST_PAUSE / 2 && pauses[19] <= LONGEST_PAUSE);
        rings.connected(now);
        rings.ended(now + LASTED);
        assert_eq!(rings.pause(), Duration::ZERO, "this one did last");
    }

    #[test]
    fn a_ring_that_never_came_into_service_did_not_last() {
        let mut rings = Rings::new(Duration::from_secs(80));
        for _ in 0..3 {
            rings.ended(Instant::now());
        }
        assert!(rings.pause() >= FIRST_PAUSE);
    }

    #[test]
    fn whoever_waits_for_a_back_end_waits_longer_than_a_pause() {
        let mut rings = Rings::new(Duration::from_millis(80));
        for _ in 0..20 {
            rings.ended(Instant::now());
        }
        assert!(rings.pause() <= Duration::from_millis(10));
    }
}

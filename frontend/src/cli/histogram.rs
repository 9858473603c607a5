//! Latencies in logarithmic buckets: 32 to each power of two, so a percentile is within 3%.

use std::time::Duration;

const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;

#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

fn bucket(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let shift = ns.ilog2() - SUB_BITS;
    ((u64::from(shift) + 1) * SUB + (ns >> shift) - SUB) as usize
}

/// The largest value that a bucket holds.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    ((bucket % SUB + SUB + 1) << shift) - 1
}

impl Histogram {
    pub(super) fn new() -> Self {
        Histogram {
            buckets: vec![0; bucket(1 << 40) + 1],
            count: 0,
            max: 0,
        }
    }

    pub(super) fn add(&mut self, latency: Duration) {
        // Eighteen minutes and more are one bucket.
        let ns = u64::try_from(latency.as_nanos())
            .unwrap_or(u64::MAX)
            .min(1 << 40);
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.max = self.max.max(ns);
    }

    /// The latency that this share of all did not exceed.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let wanted = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (n, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper(n).min(self.max));
            }
        }
        Duration::from_nanos(self.max)
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        for ns in (0..5000).chain([1 << 20, (1 << 20) + 1, (1 << 40) - 1, 1 << 40]) {
            let top = upper(bucket(ns));
            assert!(
                top >= ns && top as f64 <= ns as f64 * 1.04 + 1.0,
                "{ns}: {top}"
            );
            assert!(bucket(ns + 1) >= bucket(ns));
        }
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|us| histogram.add(Duration::from_micros(us)));
        for (percent, us) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1000.0)] {
            let got = histogram.percentile(percent).as_secs_f64() * 1e6;
            assert!((got / us - 1.0).abs() < 0.04, "{percent}: {got}");
        }
        assert_eq!(histogram.max(), Duration::from_millis(1));
    }
}

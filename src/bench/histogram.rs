//! Latencies, counted in buckets: 15 kilobytes, whatever their number.
//!
//! Every power of two is cut into [`SUB`] buckets of equal width, so a bucket is at
//! most 1/32 of its values wide, and its middle at most 1.6 % off. The first `2 * SUB`
//! buckets are 1 ns wide, and exact. The layout is that of HdrHistogram (Gil Tene).

/// Buckets to a power of two.
const SUB: u64 = 1 << SUB_BITS;
const SUB_BITS: u32 = 5;

/// All of them: the first `SUB` values have none to share with.
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

/// How often each latency was seen, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    max: u64,
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], max: 0 }
    }

    /// Counts a latency.
    pub fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// Counts what another has counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.max = self.max.max(other.max);
    }

    /// The longest, exactly; 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The latency that `fraction` of all did not exceed; 0 if there is none.
    pub fn percentile(&self, fraction: f64) -> u64 {
        let total: u64 = self.counts.iter().sum();
        let wanted = (total as f64 * fraction).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(0, middle).min(self.max)
    }
}

fn bucket(value: u64) -> usize {
    let highest_bit = 63 - (value | 1).leading_zeros();
    let shift = highest_bit.saturating_sub(SUB_BITS);
    (u64::from(shift) * SUB + (value >> shift)) as usize
}

fn middle(bucket: usize) -> u64 {
    let shift = (bucket as u64 / SUB).saturating_sub(1);
    let least = (bucket as u64 - shift * SUB) << shift;
    least + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_bucket_is_narrow_and_has_its_middle_in_it() {
        let mut random = Random::new(1);
        let edges = (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, u64::MAX]);
        let values = (0..10_000).map(|_| random.bits() >> random.below(64));
        for value in edges.chain(values) {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS);
            let middle = middle(bucket);
            assert_eq!(super::bucket(middle), bucket, "{value}");
            let error = middle.abs_diff(value) as f64 / value.max(1) as f64;
            assert!(error <= 1.0 / 64.0, "{value} became {middle}");
            assert!(value >= 64 || middle == value, "{value} is exact");
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut histogram = Histogram::new();
        for value in 1..=100_000 {
            histogram.record(value);
        }
        for (fraction, exact) in
            [(0.0, 1.0), (0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)]
        {
            let error = (histogram.percentile(fraction) as f64 - exact).abs() / exact;
            assert!(error < 0.016, "{fraction}: {}", histogram.percentile(fraction));
        }
        assert_eq!(histogram.max(), 100_000);
    }

    #[test]
    fn a_tail_shows_in_the_percentiles_behind_its_share_and_not_before() {
        let mut histogram = Histogram::new();
        for value in (0..1000).map(|i| if i < 990 { 10 } else { 1_000_000 }) {
            histogram.record(value);
        }
        assert_eq!(histogram.percentile(0.99), 10);
        assert_eq!(histogram.percentile(0.991), 1_000_000, "no more than the longest");
        let longest = histogram.percentile(0.999);
        assert!(longest.abs_diff(1_000_000) < 16_000, "{longest}");
    }

    #[test]
    fn merged_histograms_are_one_and_an_empty_one_is_nothing() {
        let (mut low, mut high) = (Histogram::new(), Histogram::new());
        assert_eq!((low.percentile(0.5), low.max()), (0, 0));
        low.record(5);
        high.record(50);
        high.record(60);
        low.merge(&high);
        assert_eq!((low.percentile(0.5), low.percentile(0.3), low.max()), (50, 5, 60));
    }
}

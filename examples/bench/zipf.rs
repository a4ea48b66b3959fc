//! Keys that are not equally popular: the one of rank k is requested in proportion to
//! 1 / k^skew, Zipf's law. A skew of 0.99 is that of the YCSB benchmark, and near what was
//! seen of many caches.

use memcached_lite::driver::random::Random;
use std::sync::Arc;

/// The law for a number of keys: the weights of each and of all before it.
#[derive(Clone)]
pub struct Zipf(Arc<[f64]>);

impl Zipf {
    /// The law for `count` keys. A skew of 0 makes all of them equally popular.
    pub fn new(count: usize, skew: f64) -> Zipf {
        let mut sum = 0.0;
        let weights = (1..=count).map(|rank| (rank as f64).powf(-skew));
        Zipf(weights.map(|weight| (sum += weight, sum).1).collect())
    }

    /// The number of a key, from 0: the most popular one.
    pub fn draw(&self, random: &mut Random) -> usize {
        let share = (random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        let point = share * self.0.last().expect("there is a key");
        self.0.partition_point(|sum| *sum <= point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn popularity_falls_as_the_law_says() {
        for (skew, weights) in [(0.0, [1.0, 1.0, 1.0]), (1.0, [6.0, 3.0, 2.0])] {
            let (zipf, mut random) = (Zipf::new(3, skew), Random::new(1));
            let mut drawn = [0.0; 3];
            (0..60_000).for_each(|_| drawn[zipf.draw(&mut random)] += 1.0);
            let all: f64 = weights.iter().sum();
            for (drawn, weight) in drawn.iter().zip(weights) {
                let expected = 60_000.0 * weight / all;
                assert!((drawn - expected).abs() < 0.05 * expected, "{skew}: {drawn}");
            }
        }
    }
}

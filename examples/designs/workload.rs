//! What is asked of every design, and what it has to answer.
//!
//! Keys are `key-0`, `key-1` and so on, so that many are the beginning of others. Values
//! are printable letters without spaces, quotes and backslashes among them.

use memcached_lite::driver::random::Random;
use std::collections::HashMap;

/// The same for all runs, so that they can be compared.
pub const SEED: u64 = 1;

pub const VALUE_SIZE: usize = 50;

/// How much a round has of each operation.
pub const SETS: usize = 5;
pub const UPDATES: usize = 100;
pub const GETS: usize = 100;

/// The keys with the values that they must have, and what changes them.
pub struct Workload {
    random: Random,
    pub model: HashMap<String, String>,
}

/// What is done in one go: keys that are new, keys that change, keys that are read.
pub struct Round {
    pub sets: Vec<(String, String)>,
    pub updates: Vec<(String, String)>,
    pub gets: Vec<String>,
}

impl Workload {
    pub fn new() -> Workload {
        Workload { random: Random::new(SEED), model: HashMap::new() }
    }

    /// So many new keys, which the model has from now on.
    pub fn sets(&mut self, count: usize) -> Vec<(String, String)> {
        (0..count).map(|_| self.store(self.model.len())).collect()
    }

    /// The next round; the model is as it must be after it.
    pub fn round(&mut self) -> Round {
        Round {
            sets: self.sets(SETS),
            updates: (0..UPDATES)
                .map(|_| {
                    let number = self.random.below(self.model.len());
                    self.store(number)
                })
                .collect(),
            gets: (0..GETS).map(|_| key(self.random.below(self.model.len()))).collect(),
        }
    }

    /// A new value for the key of this number.
    pub fn store(&mut self, number: usize) -> (String, String) {
        let letter = |_| char::from(b'!' + self.random.below(94) as u8);
        let value: String = (0..VALUE_SIZE).map(letter).collect();
        self.model.insert(key(number), value.clone());
        (key(number), value)
    }
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

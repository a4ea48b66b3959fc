//! What `stats` counts: one set of counters for each worker, added up when asked for.
//!
//! A counter shared by all workers would move between their caches at every request;
//! one that only its own worker changes costs next to nothing.
//!
//! | counters | count |
//! |---|---|
//! | `cmd_get`, `get_hits`, `get_misses` | keys that get and gets were given, found, not found |
//! | `cmd_touch`, `touch_hits`, `touch_misses` | the same of touch, gat and gats |
//! | `cmd_set` | data blocks received, whatever became of them |
//! | `cas_hits`, `cas_misses`, `cas_badval` | cas that stored, found no item, met a changed one |
//! | `delete_`, `incr_`, `decr_hits` and `misses` | those that found their item or number, or not |
//! | `cmd_flush` | flushes |
//! | `auth_cmds`, `auth_errors` | logins presented; those that are not in the file |
//! | `bytes_read`, `bytes_written` | bytes received from clients, and sent |

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Declares the counters under their names on the wire, so that each stands in one place.
macro_rules! counters {
    ($($name:ident)*) => {
        /// The counters of one worker, on cache lines of their own.
        #[derive(Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];

        impl Counters {
            /// In the order of their names.
            fn each(&self) -> Vec<&AtomicU64> {
                vec![$(&self.$name.0),*]
            }
        }
    };
}

counters! {
    cmd_get cmd_set cmd_flush cmd_touch
    get_hits get_misses delete_hits delete_misses
    incr_hits incr_misses decr_hits decr_misses
    cas_hits cas_misses cas_badval touch_hits touch_misses
    auth_cmds auth_errors bytes_read bytes_written
}

/// One number, counted by one thread, and read and reset by all.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }
}

impl Counters {
    /// Sets all to 0.
    pub(crate) fn reset(&self) {
        self.each().iter().for_each(|counter| counter.store(0, Relaxed));
    }
}

/// The sums over all workers.
pub(crate) fn totals(workers: &[Counters]) -> Vec<(&'static str, u64)> {
    let total = |(i, name): (usize, &&'static str)| {
        (*name, workers.iter().map(|worker| worker.each()[i].load(Relaxed)).sum())
    };
    NAMES.iter().enumerate().map(total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_under_their_names() {
        let workers = [Counters::default(), Counters::default()];
        workers[0].get_hits.add(2);
        workers[1].get_hits.add(3);
        workers[1].bytes_written.add(7);
        let named = totals(&workers);
        assert!(named.contains(&("get_hits", 5)));
        assert!(named.contains(&("bytes_written", 7)));
        assert!(named.contains(&("get_misses", 0)));
        workers.iter().for_each(Counters::reset);
        assert!(totals(&workers).iter().all(|(_, total)| *total == 0));
    }
}

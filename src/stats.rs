//! What `stats` counts: one set of counters for each worker, added up when asked.
//!
//! A counter shared by all workers would bounce between their caches at every
//! request; one that only its own worker touches costs next to nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Counter {
    /// Keys asked for.
    CmdGet,
    /// Data blocks received.
    CmdSet,
    /// Flushes.
    CmdFlush,
    /// Keys that touch and gat were given.
    CmdTouch,
    /// Keys that were found.
    GetHits,
    /// Keys that were not.
    GetMisses,
    /// Deletes that found their item.
    DeleteHits,
    /// Deletes that did not.
    DeleteMisses,
    /// Incrs that found a number.
    IncrHits,
    /// Incrs that found no item.
    IncrMisses,
    /// Decrs that found a number.
    DecrHits,
    /// Decrs that found no item.
    DecrMisses,
    /// Cas that stored.
    CasHits,
    /// Cas that found no item.
    CasMisses,
    /// Cas whose item had changed.
    CasBadval,
    /// Touches and gats that found their item.
    TouchHits,
    /// Touches and gats that did not.
    TouchMisses,
    /// Logins that were shown.
    AuthCmds,
    /// Those among them that are not in the file.
    AuthErrors,
    /// Bytes that came from clients.
    BytesRead,
    /// Bytes that went to clients.
    BytesWritten,
}

/// The names of the counters on the wire.
pub const NAMES: [&str; 21] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "get_hits",
    "get_misses",
    "delete_hits",
    "delete_misses",
    "incr_hits",
    "incr_misses",
    "decr_hits",
    "decr_misses",
    "cas_hits",
    "cas_misses",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "auth_cmds",
    "auth_errors",
    "bytes_read",
    "bytes_written",
];

/// The counters of one worker, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, count: u64) {
        self.0[counter as usize].fetch_add(count, Relaxed);
    }

    /// Sets all to 0.
    pub fn reset(&self) {
        self.0.iter().for_each(|counter| counter.store(0, Relaxed));
    }
}

/// The sums over all workers, in the order of [`NAMES`].
pub fn totals(workers: &[Counters]) -> [u64; NAMES.len()] {
    std::array::from_fn(|i| workers.iter().map(|w| w.0[i].load(Relaxed)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_under_their_names() {
        let workers = [Counters::default(), Counters::default()];
        workers[0].add(Counter::GetHits, 2);
        workers[1].add(Counter::GetHits, 3);
        workers[1].add(Counter::BytesWritten, 7);
        let named: Vec<_> = NAMES.into_iter().zip(totals(&workers)).collect();
        assert!(named.contains(&("get_hits", 5)));
        assert!(named.contains(&("bytes_written", 7)));
        assert!(named.contains(&("get_misses", 0)));
        workers.iter().for_each(Counters::reset);
        assert_eq!(totals(&workers), [0; NAMES.len()]);
    }
}

//! The thread that waits for the disk, so that no worker has to: `--sync always`.
//!
//! A worker whose replies depend on what is not yet safe *asks* and goes on with its
//! other connections. The syncer works in *rounds*: each commits up to the farthest
//! position that anybody has asked for when it begins, then wakes all workers. What is
//! appended while the disk is busy gathers for the next round, so the slower the disk,
//! the more replies share a sync.

use crate::lock;
use crate::log::{LogError, Result};
use std::sync::{Condvar, Mutex, PoisonError};

/// See the module's page.
#[derive(Default)]
pub(crate) struct Syncer {
    rounds: Mutex<Rounds>,
    asked: Condvar,
}

#[derive(Default)]
struct Rounds {
    /// Everything before this position is to be made safe.
    position: u64,
    /// Somebody has asked since the last round began.
    is_asked: bool,
    /// How many rounds have begun, and how many are over.
    begun: u64,
    over: u64,
    /// How the last one failed.
    error: Option<LogError>,
}

impl Syncer {
    /// Has everything before `position` made safe; returns the round that does it.
    pub(crate) fn ask(&self, position: u64) -> u64 {
        let mut rounds = lock(&self.rounds);
        rounds.position = rounds.position.max(position);
        rounds.is_asked = true;
        self.asked.notify_one();
        rounds.begun + 1
    }

    /// How a round has ended, or one after it that repeated its work; `None` if it has
    /// not.
    pub(crate) fn outcome(&self, round: u64) -> Option<Result<()>> {
        let rounds = lock(&self.rounds);
        (rounds.over >= round).then(|| rounds.error.clone().map_or(Ok(()), Err))
    }

    /// Goes from round to round, for ever.
    pub(crate) fn run(
        &self,
        commit: impl Fn(u64) -> Result<()>,
        wake: impl Fn(),
    ) -> std::io::Result<()> {
        loop {
            let waiting = self.asked.wait_while(lock(&self.rounds), |r| !r.is_asked);
            let mut rounds = waiting.unwrap_or_else(PoisonError::into_inner);
            rounds.is_asked = false;
            rounds.begun += 1;
            let position = rounds.position;
            drop(rounds);
            let error = commit(position).err();
            let mut rounds = lock(&self.rounds);
            rounds.over += 1;
            rounds.error = error;
            drop(rounds);
            wake();
        }
    }
}

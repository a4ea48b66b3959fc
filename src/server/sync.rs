//! The thread that waits for the disk, so that no worker has to: `--sync always`.
//!
//! A worker whose replies depend on what is not yet safe makes a *sync request* and serves
//! its other connections. The syncer commits up to the farthest position that anybody has
//! requested when it begins, then wakes all workers. What is appended while the disk is
//! busy gathers for the next commit, so the slower the disk, the more replies share a sync.

use crate::lock;
use crate::store::{Error, Result};
use std::sync::{Condvar, Mutex};

/// See the top of this file.
#[derive(Default)]
pub(crate) struct Syncer {
    state: Mutex<State>,
    requested: Condvar,
}

#[derive(Default)]
struct State {
    /// Everything before this position is to be made safe.
    position: u64,
    /// There was a request since the last commit began.
    is_requested: bool,
    /// How many commits have begun, and how many have ended.
    begun: u64,
    ended: u64,
    /// How the last one failed.
    error: Option<Error>,
}

impl Syncer {
    /// Requests that everything before `position` be made safe; returns the number of the
    /// commit that does it.
    pub(crate) fn request(&self, position: u64) -> u64 {
        let mut state = lock(&self.state);
        state.position = state.position.max(position);
        let is_first = !std::mem::replace(&mut state.is_requested, true);
        let commit = state.begun + 1;
        drop(state);
        // Each further one would be a system call, and wake nobody.
        if is_first {
            self.requested.notify_one();
        }
        commit
    }

    /// How a commit has ended, or one after it that repeated its work; `None` if it has
    /// not.
    pub(crate) fn result(&self, commit: u64) -> Option<Result<()>> {
        let state = lock(&self.state);
        (state.ended >= commit).then(|| state.error.clone().map_or(Ok(()), Err))
    }

    /// Waits for a request.
    pub(crate) fn wait(&self) {
        let state = lock(&self.state);
        let waited = self.requested.wait_while(state, |state| !state.is_requested);
        drop(waited.expect("nobody panics while the lock is held"));
    }

    /// Makes one commit for all requests. Returns whether there were any.
    pub(crate) fn step(&self, commit: impl Fn(u64) -> Result<()>) -> bool {
        let mut state = lock(&self.state);
        if !state.is_requested {
            return false;
        }
        state.is_requested = false;
        state.begun += 1;
        let position = state.position;
        drop(state);
        let error = commit(position).err();
        let mut state = lock(&self.state);
        state.ended += 1;
        state.error = error;
        true
    }
}

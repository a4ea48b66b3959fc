//! The thread that waits for the disk, so that no worker has to: `--sync always`.
//!
//! A worker whose replies depend on what is not yet safe makes a *sync request* and serves
//! its other connections. The syncer commits up to the farthest position that anybody has
//! requested when it begins, then wakes all workers. What is appended while the disk is
//! busy gathers for the next commit, so the slower the disk, the more replies share a sync.

use crate::lock;
use crate::store::{Error, Result};
use std::mem;
use std::sync::{Condvar, Mutex};

/// A commit has failed: everything up to this position is not known to be safe, and why.
pub(crate) type Failed = (u64, Error);

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
    /// The last commit, if it failed. Of one that did not, the log knows.
    failed: Option<Failed>,
}

impl Syncer {
    /// Requests that everything before `position` be made safe.
    pub(crate) fn request(&self, position: u64) {
        let mut state = lock(&self.state);
        state.position = state.position.max(position);
        // It is tried again, also for those who have not been told yet.
        state.failed = None;
        let is_first = !mem::replace(&mut state.is_requested, true);
        drop(state);
        // Each further one would be a system call, and wake nobody.
        if is_first {
            self.requested.notify_one();
        }
    }

    /// The last commit, if it failed, and nobody has made a request since.
    pub(crate) fn failed(&self) -> Option<Failed> {
        lock(&self.state).failed.clone()
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
        let position = state.position;
        if !mem::take(&mut state.is_requested) {
            return false;
        }
        drop(state);
        let failed = commit(position).err().map(|error| (position, error));
        lock(&self.state).failed = failed;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_forgotten_when_its_commit_is_requested_again() {
        let syncer = Syncer::default();
        assert!(!syncer.step(|_| panic!("nobody has requested anything")));
        let error = Error::Write("the disk is full".into());
        syncer.request(7);
        assert!(syncer.step(|_| Err(error.clone())));
        assert_eq!(syncer.failed(), Some((7, error)));
        // It may succeed now, so nobody is told that it has failed.
        syncer.request(5);
        assert_eq!(syncer.failed(), None);
        assert!(syncer.step(|_| Ok(())));
        assert_eq!(syncer.failed(), None);
    }
}

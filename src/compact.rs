//! Compaction: live records move to the next file, then the old file goes.
//!
//! The log only grows, and most of what it holds was overwritten or deleted. When
//! the garbage outweighs the live records, the janitor begins generation n+1 and
//! sends all appends there. Then it walks over those records of generation n that the
//! index still points at, in their order in the file, and appends each to n+1 like any
//! other record. In the end n is removed. Clients go on reading and writing all the
//! while. What nobody needed when the walk began is not looked at: neither its sum nor
//! damage to it matters.
//!
//! - C1: a copy is appended under its key's shard lock, and only while the index
//!   points at the original: so whatever n+1 says of a key is at least as new as
//!   what n says, and replaying n, then n+1, is right after a crash at any step.
//! - C2: the index is pointed at copies only once they are committed, so that no read
//!   ever waits for compaction's bytes to become safe.
//! - C3: so the old file goes only when all that is needed stands safe in the new.
//! - C4: two generations at most. Where a start finds two, the walk is done again;
//!   what has been moved already is no longer pointed at in n, and is passed over.
//!
//! Tombstones are not copied: what they deleted stood in n or before, and n goes.
//! A pending flush has yet to come, so the rotation writes it into n+1, and a walk that is
//! resumed writes it once more.
//!
//! At rest a directory is at most twice the length of its live records and 3 MiB, without
//! the room behind the last one. While compacting it is up to about three times that
//! length and 8 MiB and, where writers outrun it (C5), up to that length once more.
//!
//! - C5: who writes faster than compaction can read is made to wait for it, and never
//!   for good: each time for some milliseconds at most, and not at all for a compaction
//!   that has failed.

use crate::lock;
use crate::log::{Generation, LogError, Result};
use crate::store::{Session, Store};
use crate::walk::{CHUNK, Records, WalkError};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// Compaction begins when the log is longer than twice its live records and this
/// together, in bytes; without it, it would run all the time where there is little to keep.
const SLACK: u64 = 3 << 20;

/// Writers wait when the log is longer than three times its live records by so many
/// bytes: they write faster than compaction can read.
const FULL: u64 = 7 << 20;

/// When so many bytes have been walked, what was copied of them is committed, and the
/// index pointed at it.
const BATCH: u64 = 1 << 20;

/// The most bytes of memory that compaction takes up, where no record is longer than
/// `record`: what it reads, what it drafts, and the keys of a batch. The list of what
/// there is to move belongs to the index.
pub(crate) fn bytes_max(record: usize) -> usize {
    2 * CHUNK.max(record) + record + 2 * (BATCH as usize + record)
}

/// Copies that the index does not point at yet: key, position of the original, where
/// the copy stands.
type Copies = Vec<(Box<[u8]>, u64, Range<u64>)>;

impl Store {
    /// Waits until the log has grown so much that compaction may be due, at most
    /// `timeout`.
    pub fn wait_for_call(&self, timeout: Duration) {
        let (called, condvar) = &self.janitor_call;
        let waited =
            condvar.wait_timeout_while(lock(called), timeout, |called| !*called);
        if let Ok((mut called, _)) = waited {
            *called = false;
        }
    }

    /// One round of the janitor: what a full disk refused is tried again, what is
    /// written is synced, files that have gone are noticed (L5), expired items go, and
    /// compaction runs if it is due. `clock` gives Unix seconds.
    pub fn tend(&self, clock: &dyn Fn() -> u64) -> Result<()> {
        let mut session = Session::at(clock());
        // Files that have gone are synced all the same: they may come back.
        let synced = self.log.sync(session.now);
        self.log.check_files()?;
        synced?;
        self.flush_if_due(&mut session)?;
        self.reap(session.now);
        let mut result = Ok(());
        if self.plan_compaction() {
            result = self.compact(clock);
            if result.is_ok() {
                self.plan_compaction();
            } else {
                // C5: who waits for what can't be done waits for nothing.
                self.full_at.store(u64::MAX, Relaxed);
            }
            *lock(&self.room.0) += 1;
            self.room.1.notify_all();
        }
        result
    }

    /// Decides at which length of the log the janitor is called again, and at which
    /// writers have to wait. True if compaction is due now.
    fn plan_compaction(&self) -> bool {
        if self.compaction_stopped.get().is_some() {
            return false;
        }
        let figures = self.figures();
        let limit = 2 * figures.live_bytes + SLACK;
        let generations = self.log.generations();
        let base = generations[0].base;
        self.call_at.store(base + limit, Relaxed);
        self.full_at.store(base + 3 * figures.live_bytes + FULL, Relaxed);
        generations.len() > 1 || figures.log_bytes > limit
    }

    /// Waits until compaction has made room, at most `timeout`: for a writer whose
    /// session is crowded.
    pub fn wait_for_room(&self, timeout: Duration) {
        let (rounds, condvar) = &self.room;
        let rounds = lock(rounds);
        let before = *rounds;
        if self.log.end() > self.full_at.load(Relaxed) {
            drop(condvar.wait_timeout_while(rounds, timeout, |now| *now == before));
        }
    }

    /// Moves all live records to a new generation and removes the old one; or ends
    /// a compaction that was interrupted.
    pub fn compact(&self, clock: &dyn Fn() -> u64) -> Result<()> {
        if let Some(error) = self.compaction_stopped.get() {
            return Err(error.clone());
        }
        let mut session = Session::at(clock());
        let generations = self.log.generations();
        // C4
        if generations.len() == 1 {
            // Most of what there is to sync is synced before anybody is held up.
            self.log.sync(session.now)?;
            self.rotate(&mut session)?;
        } else {
            // The rotation was another process's, which may have ended before it had
            // written a pending flush to the new file.
            self.repeat_flush(&mut session)?;
        }
        let generations = self.log.generations();
        let old = &generations[0];
        let walked = self.walk(old, generations[1].base, &mut session, clock);
        // To walk again would copy again, up to the same place.
        if let Err(error @ (LogError::Damaged { .. } | LogError::Read(_))) = &walked {
            self.compaction_stopped.get_or_init(|| error.clone());
        }
        walked?;
        // In a directory that is there in the place of ours, the file that has the old
        // one's name is somebody else's.
        self.log.check_files()?;
        // C3
        self.log.retire(old, clock())?;
        // With its last descriptor go a removed file's blocks, which takes the system
        // as long as all the rest; meanwhile writers could go on. Without a thread for
        // it they wait.
        let _ = thread::Builder::new().spawn(move || drop(generations));
        Ok(())
    }

    /// One compaction, whatever the garbage is. `clock` gives Unix seconds.
    pub fn compact_once(&self, clock: &dyn Fn() -> u64) -> Result<()> {
        self.flush_if_due(&mut Session::at(clock()))?;
        // C4: one that was interrupted is ended first.
        if self.log.generations().len() > 1 {
            self.compact(clock)?;
        }
        self.compact(clock)
    }

    fn walk(
        &self,
        old: &Arc<Generation>,
        end: u64,
        session: &mut Session,
        clock: &dyn Fn() -> u64,
    ) -> Result<()> {
        let mut copies = Copies::new();
        let mut batch_end = old.base + BATCH;
        let mut records = Records::new(self.log.disk(), self.log.format(), old, end);
        for position in self.index.positions_before(end) {
            records.skip_to(position);
            let record = match records.next() {
                Ok(Some((_, record))) => record,
                Ok(None) | Err(WalkError::Damaged) => {
                    let offset = position - old.base;
                    return Err(LogError::Damaged { file: old.name(), offset });
                }
                Err(WalkError::Io(error)) => {
                    return Err(LogError::Read(error.to_string()));
                }
            };
            if let Some(copy) = self.copy(session, position, &record)? {
                copies.push((record.key.into(), position, copy));
            }
            if records.position >= batch_end {
                batch_end = records.position + BATCH;
                let before = session.now;
                session.now = clock();
                self.finish(&mut copies, session)?;
                // What others write is to be synced each second, also meanwhile, and a
                // directory that goes is to be noticed.
                if session.now > before {
                    self.log.sync(session.now)?;
                    self.log.check_files()?;
                }
            }
        }
        self.finish(&mut copies, session)
    }

    /// C2: commits the copies, then points the index at them.
    fn finish(&self, copies: &mut Copies, session: &Session) -> Result<()> {
        let end = copies.last().map_or(0, |(_, _, copy)| copy.end);
        self.log.commit(end, session.now)?;
        for (key, from, copy) in copies.drain(..) {
            self.redirect(&key, from, copy.start);
        }
        Ok(())
    }
}

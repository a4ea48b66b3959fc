//! Compaction: live records move to the next file, then the old file goes.
//!
//! The log only grows, and most of what it holds was overwritten or deleted. When the
//! garbage outweighs the live records by [`SLACK`], compaction begins generation n+1 and
//! directs all appends there. Then it walks over those records of generation n that the
//! index still points at, in their order in the file, and appends each to n+1 like any
//! other record. In the end n is removed. Clients read and write all the while, and wait
//! only where n+1 begins. What was garbage when the walk began is passed over: neither its
//! checksum nor damage to it matters.
//!
//! - C1: a copy is appended under its key's shard lock, and only while the index
//!   points at the original: so whatever n+1 says of a key is at least as new as
//!   what n says, and replaying n, then n+1, is right after a crash at any step.
//! - C2: the index is pointed at copies only once they are committed, so that no read
//!   ever waits for compaction's bytes to become safe.
//! - C3: the old file goes only when all that is live stands safe in the new one, and
//!   with it a record that says so: a later start knows that no older file is missing.
//! - C4: at most two generations. Where a start finds two, the walk is resumed; what has
//!   been moved already is no longer pointed at in n, and is passed over. One compaction
//!   runs at a time.
//!
//! Tombstones are not copied: what they deleted stood in n or before, and n goes. A
//! pending flush has yet to come, so it is written to n+1 again.
//!
//! Whether it is due is checked ten times a second. At rest a directory is at most twice the
//! length of its live records and 64 MiB long, without the preallocated space. While
//! compaction runs, the copies come on top, and what is written meanwhile: `make
//! bench-growth` shows how much that is.

use crate::lock;
use crate::store::error::{Error, Result};
use crate::store::items::{Items, Session};
use crate::store::log::Generation;
use crate::store::record::{Kind, Record};
use crate::store::walk::{Records, Step};
use std::ops::Range;
use std::sync::{Mutex, OnceLock};
use std::thread;

/// Compaction begins when the log is longer than twice its live records and this
/// together, in bytes; without it, it would run all the time where little is live. Redis
/// rewrites its append-only file from the same length on.
const SLACK: u64 = 64 << 20;

/// When this many bytes have been walked, what was copied of them is committed, and the
/// index pointed at it.
const BATCH: u64 = 1 << 20;

/// Copies that the index does not point at yet: key, position of the original, where
/// the copy stands.
type Copies = Vec<(Box<[u8]>, u64, Range<u64>)>;

/// What compaction decides by, and remembers. A clock gives Unix seconds.
#[derive(Default)]
pub(crate) struct Compaction {
    /// C4. Held while one runs.
    running: Mutex<()>,
    /// What compaction could not read. It does not run again: it would fail at the same
    /// place.
    pub(crate) stopped: OnceLock<Error>,
}

impl Compaction {
    /// Compacts if that is due.
    pub(crate) fn run_if_due(
        &self,
        items: &Items,
        clock: &dyn Fn() -> u64,
    ) -> Result<()> {
        let generations = items.log.generations();
        let (_, live) = items.index.totals(&items.log.format);
        let limit = generations[0].base + 2 * live + SLACK;
        if generations.len() > 1 || items.log.end() > limit {
            return self.run(items, clock);
        }
        Ok(())
    }

    /// Moves all live records to a new generation and removes the old one; or finishes
    /// a compaction that was interrupted.
    pub(crate) fn run(&self, items: &Items, clock: &dyn Fn() -> u64) -> Result<()> {
        let _running = lock(&self.running);
        self.stopped.get().cloned().map_or(Ok(()), Err)?;
        let mut session = Session::at(clock());
        // C4
        if items.log.generations().len() == 1 {
            // Most of what there is to sync is synced before the rotation's locks are held.
            items.log.sync(session.now)?;
            items.log.rotate()?;
        }
        // A pending flush stands in the old file.
        items.flush(&mut session, |due| (due != 0).then_some(due))?;
        let generations = items.log.generations();
        let (old, end) = (&generations[0], generations[1].base);
        walk(items, old, end, &mut session, clock).inspect_err(|error| {
            if matches!(error, Error::Read(_)) {
                self.stopped.get_or_init(|| error.clone());
            }
        })?;
        // C3
        let complete = Record { kind: Kind::Complete, ..Record::default() };
        items.append(&mut session, complete)?;
        items.log.retire(old, clock())?;
        // The last descriptor of a removed file frees its blocks, which takes the system
        // as long as all the rest; clients need not wait for it.
        let _ = thread::Builder::new().spawn(move || drop(generations));
        Ok(())
    }
}

/// Copies what is live of the old generation, which ends at position `end`.
fn walk(
    items: &Items,
    old: &Generation,
    end: u64,
    session: &mut Session,
    clock: &dyn Fn() -> u64,
) -> Result<()> {
    let mut copies = Copies::new();
    let mut batch_end = old.base + BATCH;
    let mut records = Records::new(&*items.log.disk, &items.log.format, old, end);
    for position in items.index.positions_before(end) {
        records.skip_to(position);
        let record = match records.next() {
            Ok(Step::Record(_, record)) => record,
            Ok(Step::Damage(_) | Step::End) => return Err(items.log.damaged(position)),
            Err(error) => return Err(Error::Read(error.to_string())),
        };
        if let Some(copy) = items.copy(session, position, record)? {
            copies.push((record.key.into(), position, copy));
        }
        if records.position >= batch_end {
            batch_end = records.position + BATCH;
            let before = session.now;
            session.now = clock();
            finish(items, &mut copies, session.now)?;
            // What others write is synced each second also meanwhile, and a directory that
            // disappears is noticed.
            if session.now > before {
                items.log.sync(session.now)?;
                items.log.check_files()?;
            }
        }
    }
    finish(items, &mut copies, session.now)
}

/// C2: commits the copies, then points the index at them.
fn finish(items: &Items, copies: &mut Copies, now: u64) -> Result<()> {
    items.log.commit(copies.last().map_or(0, |(_, _, copy)| copy.end), now)?;
    for (key, from, copy) in copies.drain(..) {
        items.redirect(&key, from, copy.start);
    }
    Ok(())
}

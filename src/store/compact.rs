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
//! - C5: on a full disk, compaction has priority over new values, which would take each
//!   byte that becomes free. It needs room for the live records, and reserves that before
//!   n+1 begins: else two files would fill the disk, and neither could go.
//!
//! What has expired is not copied: it is removed from the index when the record that ends the
//! walk says that nothing before it counts (S6). Tombstones are not copied: what they deleted
//! stood in n or before, and n goes. A pending flush has yet to come, so it is written to n+1
//! again.
//!
//! Whether it is due is checked fifty times a second. At rest a directory is at most twice the
//! length of its live records and 64 MiB long, without the preallocated space. While
//! compaction runs, the copies come on top, and what is written meanwhile: `make
//! bench-growth` shows how much that is.

use crate::store::error::{Error, Result};
use crate::store::index::SHARDS;
use crate::store::items::{Items, Session};
use crate::store::log::Generation;
use crate::store::record::{Kind, Record};
use crate::store::walk::{Records, Step};
use crate::{drop_elsewhere, lock};
use std::fs::File;
use std::ops::Range;
use std::sync::{Mutex, OnceLock};

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

/// Space on the disk, and how many bytes.
type Reserve = (File, u64);

/// What gives the time, in Unix seconds.
type Clock<'a> = &'a dyn Fn() -> u64;

/// What compaction decides by, and remembers.
#[derive(Default)]
pub(crate) struct Compaction {
    /// C4. Held while one runs. C5: what is reserved for it, also after an error.
    running: Mutex<Option<Reserve>>,
    /// What compaction could not read. It does not run again: it would fail at the same
    /// place.
    pub(crate) stopped: OnceLock<Error>,
    /// For `stats`: how many have ended since the start; how many seconds the last one took,
    /// and how many bytes were live when it began.
    pub(crate) done: Mutex<[u64; 3]>,
}

impl Compaction {
    /// Compacts if that is due.
    pub(crate) fn run_if_due(&self, items: &Items, clock: Clock) -> Result<()> {
        let generations = items.log.generations();
        let (_, live) = items.index.totals(&items.log.format);
        let slack = if items.log.is_full() { 0 } else { SLACK };
        let limit = generations[0].base + 2 * live + slack;
        if generations.len() > 1 || items.log.end() > limit {
            return self.run(items, clock);
        }
        items.log.hold_back(false);
        Ok(())
    }

    /// Moves all live records to a new generation and removes the old one; or finishes
    /// a compaction that was interrupted.
    pub(crate) fn run(&self, items: &Items, clock: Clock) -> Result<()> {
        let mut reserve = lock(&self.running);
        self.stopped.get().cloned().map_or(Ok(()), Err)?;
        let begun = clock();
        let mut session = Session::at(begun);
        // C5
        let is_full = items.log.is_full();
        items.log.hold_back(is_full);
        // C4
        let is_new = items.log.generations().len() == 1;
        if is_new {
            *reserve = None;
            // Most of what there is to sync is synced before the rotation's locks are held.
            items.log.sync(begun)?;
        }
        (0..SHARDS).for_each(|_| items.index.sweep(begun, &items.log.format));
        let (_, live) = items.index.totals(&items.log.format);
        // Some small records, and what may stand in the tail when the disk is found full.
        let more = if is_full { 64 << 10 } else { 2 << 20 };
        match items.log.reserve(live + more) {
            Ok(file) => *reserve = Some((file, live + more)),
            Err(error) if is_new => return Err(error),
            // What space there is, the copies need.
            Err(_) => items.log.hold_back(true),
        }
        if is_new {
            items.log.rotate()?;
        }
        // C5: the copies need it now.
        reserve.take_if(|_| is_full);
        // A pending flush stands in the old file.
        items.flush(&mut session, |due| (due != 0).then_some(due))?;
        let generations = items.log.generations();
        let (old, end) = (&generations[0], generations[1].base);
        let walked = walk(items, old, end, clock, &mut reserve);
        if let Err(error @ Error::Read(_)) = &walked {
            self.stopped.get_or_init(|| error.clone());
            items.log.hold_back(false);
        }
        walked?;
        // C3. S6: what has not been moved has expired.
        let complete = Record { kind: Kind::Complete, ..Record::default() };
        let place = items.append(complete)?;
        items.index.remove_before(end, place.end);
        let now = clock();
        items.log.retire(old, now)?;
        let mut done = lock(&self.done);
        *done = [done[0] + 1, now.saturating_sub(begun), live];
        *reserve = None;
        items.log.hold_back(false);
        // The last descriptor of a removed file frees its blocks, which takes the system
        // as long as all the rest; clients need not wait for it.
        drop_elsewhere(generations);
        Ok(())
    }
}

/// Copies what is live of the old generation, which ends at position `end`.
fn walk(
    items: &Items,
    old: &Generation,
    end: u64,
    clock: Clock,
    reserve: &mut Option<Reserve>,
) -> Result<()> {
    let (mut copies, mut now) = (Copies::new(), clock());
    let mut batch_end = old.base + BATCH;
    let mut records = Records::new(&*items.log.disk, &items.log.format, old, end);
    for position in items.index.positions_before(end) {
        records.skip_to(position);
        let unread = |error: std::io::Error| Error::Read(error.to_string());
        let Step::Record(_, record) = records.next().map_err(unread)? else {
            return Err(old.damaged(position));
        };
        if let Some(copy) = items.copy(now, position, record)? {
            // C5: this has its space now.
            if let Some((_, len)) = reserve {
                *len = len.saturating_sub(copy.end - copy.start);
            }
            copies.push((record.key.into(), position, copy));
        }
        if records.position >= batch_end {
            batch_end = records.position + BATCH;
            let before = now;
            now = clock();
            finish(items, &mut copies, now)?;
            if let Some((file, len)) = reserve {
                let _ = items.log.disk.set_len(file, *len);
            }
            // What others write is synced each second also meanwhile, and a file that is
            // removed is noticed.
            if now > before {
                items.log.sync(now)?;
                items.log.check_files()?;
            }
        }
    }
    finish(items, &mut copies, now)
}

/// C2: commits the copies, then points the index at them.
fn finish(items: &Items, copies: &mut Copies, now: u64) -> Result<()> {
    items.log.commit(copies.last().map_or(0, |(_, _, copy)| copy.end), now)?;
    for (key, from, copy) in copies.drain(..) {
        items.redirect(&key, from, copy.start);
    }
    Ok(())
}

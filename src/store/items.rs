//! The items: an index in memory over a log on disk, and the one way to change them.
//!
//! Values live in the log; the index knows for each key where. A command that reads and
//! then writes is an [`Items::update`]: under the key's shard lock it looks at the item
//! that is there and decides to keep it, to put another in its place, or to remove it.
//! A plain get holds the lock for one look-up, and reads the file, where that is needed,
//! without it; a plain set has nothing to look at.
//!
//! Every operation takes a [`Session`]. It brings the time, so nothing here reads a
//! clock, and collects the highest log position that the answers *depend on*:
//!
//! - S1: a write depends on its own record.
//! - S2: a hit depends on the record it shows.
//! - S3: a miss depends on the latest removal (delete, flush, expiry) in its shard,
//!   since the removal is what it shows.
//!
//! The caller commits that position before it answers anyone. So a reply never shows
//! what a crash could take back, not even when another connection wrote it.
//!
//! - S4: a command that fails has changed nothing: the index follows the log, never
//!   leads it. (A *commit* that fails leaves what was appended where it is. It may
//!   become safe later, and nobody was told.)
//! - S5: a flush that is due is written before anything else is looked at.
//! - S6: an item that is found to have expired is deleted, by a record, and a miss depends on
//!   that (S3): what has expired for one client has expired for all, even if the process is
//!   killed and the clock goes back. What nobody asks for is garbage, until compaction ends.

use crate::drop_elsewhere;
use crate::store::error::Result;
use crate::store::index::{Entry, Index, Item, Shard, is_expired};
use crate::store::log::{Generation, Log};
use crate::store::record::{Draft, Kind, Record};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

/// What a look-up adds to [`Session::work`], found or not: a line of a megabyte may name
/// half a million keys that are not there.
const LOOK_UP: u64 = 256;

/// A caller's side of the store: one for each thread.
#[derive(Default)]
pub struct Session {
    /// The time, in Unix seconds.
    pub now: u64,
    /// Answers given since this was last 0 hold once the log is committed up to here.
    pub depends_on: u64,
    /// The work done since this was last 0, in bytes of records read and appended, and
    /// some for each look-up: what requests have cost, which their length does not show.
    pub work: u64,
    /// What the latest look-up has found.
    pub(crate) found: Option<Entry>,
    /// Unique and expiry of what it has stored, and the size of the value, stored or not.
    pub stored: (Record<'static>, usize),
    /// The item that was loaded last.
    loaded: Item,
}

impl Session {
    /// A session at `now`, in Unix seconds.
    pub fn at(now: u64) -> Session {
        Session { now, ..Session::default() }
    }

    /// The item that was loaded last, but for its key.
    pub(crate) fn item(&self) -> Record<'_> {
        let (was_read, idle) = self.found.map_or((false, 0), |it| it.access(self.now));
        Record { was_read, idle, value: &self.loaded.1, ..self.loaded.0 }
    }

    fn depend(&mut self, position: u64) {
        self.depends_on = self.depends_on.max(position);
    }

    /// S1
    fn wrote(&mut self, place: Range<u64>) {
        self.work += place.end - place.start;
        self.depend(place.end);
    }
}

/// What an update does to an item.
pub(crate) enum Change<'v> {
    /// Nothing.
    Keep,
    /// This record takes its place, with this value, and a new unique unless it has one.
    Put(Record<'v>, Cow<'v, [u8]>),
    /// It is gone.
    Remove,
}

/// See the top of this file.
pub(crate) struct Items {
    pub(crate) log: Log,
    pub(crate) index: Index,
    pub(crate) counts: Counts,
}

/// What has happened since the start.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) total_items: AtomicU64,
    pub(crate) damaged_reads: AtomicU64,
    pub(crate) expired_lookups: AtomicU64,
    pub(crate) evictions: AtomicU64,
}

impl Items {
    /// The item under `key`, loaded into the session; and whether that is an access.
    pub(crate) fn get<'s>(
        &self,
        session: &'s mut Session,
        key: &[u8],
        is_access: bool,
    ) -> Result<Option<Record<'s>>> {
        self.flush_if_due(session)?;
        let mut shard = self.index.shard(key);
        let found = self.find(&mut shard, session, key, is_access);
        let Some(entry) = found else { return Ok(None) };
        let position = self.position(entry);
        session.work += entry.len(&self.log.format);
        if !shard.recall(position, &mut session.loaded) {
            let file = self.log.generation_at(position);
            // Read without the shard's lock. If the record is moved meanwhile, its old file
            // lasts until we are done with it.
            drop(shard);
            session.loaded = self.read(entry, &file)?;
            self.index.shard(key).keep(position, &session.item());
        }
        Ok(Some(session.item()))
    }

    /// Stores a new value, whatever is there. Its checksum is computed before any lock is
    /// taken.
    pub(crate) fn set(&self, session: &mut Session, record: Record) -> Result<()> {
        self.flush_if_due(session)?;
        let draft = Draft::new(&self.log.format, record);
        self.put(&mut self.index.shard(record.key), session, &draft)
    }

    /// Changes the item under `key` as `decide` says, which also gives the answer. It gets
    /// the item, if there is one: loaded if it `loads` that, else empty.
    pub(crate) fn update<'v, A>(
        &self,
        session: &mut Session,
        key: &[u8],
        loads: bool,
        is_access: bool,
        decide: impl FnOnce(Option<Record>) -> (Change<'v>, A),
    ) -> Result<A> {
        self.flush_if_due(session)?;
        let mut shard = self.index.shard(key);
        let found = self.find(&mut shard, session, key, is_access);
        if let Some(entry) = found.filter(|_| loads) {
            let position = self.position(entry);
            session.work += entry.len(&self.log.format);
            if !shard.recall(position, &mut session.loaded) {
                session.loaded = self.read(entry, &self.log.generation_at(position))?;
                shard.keep(position, &session.item());
            }
        } else {
            session.loaded = Item::default();
        }
        let (change, answer) = decide(found.map(|_| session.item()));
        match change {
            Change::Keep => {}
            Change::Remove => session.wrote(self.remove(&mut shard, key)?),
            Change::Put(record, value) => {
                let was_read = is_access || record.was_read;
                let record = Record { key, value: &value, was_read, ..record };
                let draft = Draft::new(&self.log.format, record);
                self.put(&mut shard, session, &draft)?;
            }
        }
        Ok(answer)
    }

    /// Appends a value. S4: then the log has it, so the index may follow.
    fn put(&self, shard: &mut Shard, session: &mut Session, new: &Draft) -> Result<()> {
        let Record { key, value, exptime, cas, was_read, .. } = new.record;
        if is_expired(exptime, session.now) {
            // All that it does is to end what was there.
            return self.remove(shard, key).map(|place| session.wrote(place));
        }
        let place = self.log.append_value(new)?;
        let mut entry = Entry::new(place.start, value.len(), exptime);
        entry.access_at(session.now, was_read);
        let old = shard.insert(key, entry);
        self.counts.total_items.fetch_add(1, Relaxed);
        let cas = if cas == 0 { place.start } else { cas };
        // An item that is read often need not be read again after each change.
        if old.is_some_and(|old| shard.forget(self.position(old))) {
            shard.keep(place.start, &Record { cas, ..new.record });
        }
        session.stored = (Record { cas, exptime, ..Record::default() }, value.len());
        session.wrote(place);
        Ok(())
    }

    /// Appends a deletion, and removes the key.
    pub(crate) fn remove(&self, shard: &mut Shard, key: &[u8]) -> Result<Range<u64>> {
        let place =
            self.append(Record { kind: Kind::Delete, key, ..Record::default() })?;
        shard.remove(key, place.end);
        Ok(place)
    }

    /// Appends a record as it is.
    pub(crate) fn append(&self, record: Record) -> Result<Range<u64>> {
        self.log.append(&Draft::new(&self.log.format, record))
    }

    /// S5. Of two threads that find the flush due, one does it.
    pub(crate) fn flush_if_due(&self, session: &mut Session) -> Result<()> {
        let now = session.now;
        let is_due = |due| is_expired(due, now);
        if is_due(self.index.flush_due.load(Acquire)) {
            self.flush(session, |due| is_due(due).then_some(0))?;
        }
        Ok(())
    }

    /// Removes every key when the flush is due that `decide` returns, in Unix seconds; at
    /// once if that is 0. `decide` gets the pending one, 0 if none is, and may keep it.
    pub(crate) fn flush(
        &self,
        session: &mut Session,
        decide: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<()> {
        let mut shards = self.index.all();
        let Some(due) = decide(self.index.flush_due.load(Acquire)) else {
            return Ok(());
        };
        let flush = Record { kind: Kind::Flush, exptime: due, ..Record::default() };
        let place = self.append(flush)?;
        self.index.flush_due.store(due, Release);
        if due == 0 {
            let cleared = shards.iter_mut().map(|shard| shard.clear(place.end));
            drop_elsewhere(cleared.collect::<Vec<_>>());
        }
        session.wrote(place);
        Ok(())
    }

    /// Appends `record` again if the index still points at `position`; returns where the
    /// copy stands.
    pub(crate) fn copy(
        &self,
        now: u64,
        position: u64,
        record: Record,
    ) -> Result<Option<Range<u64>>> {
        let shard = self.index.shard(record.key);
        let entry = shard.entries.get(record.key);
        let is_live = entry.is_some_and(|entry| entry.position(position) == position);
        // S6: the record that ends the walk is the deletion of all that has expired.
        if !is_live || is_expired(record.exptime, now) {
            return Ok(None);
        }
        // C1
        self.append(record).map(Some)
    }

    /// Points the index at a copy, unless the key has changed since.
    pub(crate) fn redirect(&self, key: &[u8], from: u64, to: u64) {
        if let Some(entry) = self.index.shard(key).entries.get_mut(key)
            && entry.position(from) == from
        {
            *entry = entry.moved_to(to);
        }
    }

    /// Where `key`'s record stands, if it has one that has not expired. Every answer
    /// that rests on having looked goes through here: S2 and S3. If it `reads`, the index
    /// notes that, and the entry is as it was before.
    fn find(
        &self,
        shard: &mut Shard,
        session: &mut Session,
        key: &[u8],
        reads: bool,
    ) -> Option<Entry> {
        session.work += LOOK_UP;
        session.found = None;
        let Some(noted) = shard.entries.get_mut(key) else {
            session.depend(shard.removed);
            return None;
        };
        let entry = *noted;
        session.depend(self.position(entry) + entry.len(&self.log.format));
        if !is_expired(entry.exptime.into(), session.now) {
            if reads {
                noted.access_at(session.now, true);
            }
            session.found = Some(entry);
            return session.found;
        }
        self.counts.expired_lookups.fetch_add(1, Relaxed);
        // S6. If that can't be appended, the item has expired all the same, and only a clock
        // that goes back could show it again.
        self.remove(shard, key).into_iter().for_each(|place| session.wrote(place));
        None
    }

    fn position(&self, entry: Entry) -> u64 {
        entry.position(self.log.synced())
    }

    /// Reads an item from its record in that file, verified (F1).
    fn read(&self, it: Entry, file: &Generation) -> Result<Item> {
        let (position, format) = (self.position(it), &self.log.format);
        let mut bytes = self.log.read(file, position..position + it.len(format))?;
        let Some(record) = format.decode(&bytes, position) else {
            self.counts.damaged_reads.fetch_add(1, Relaxed);
            return Err(file.damaged(position));
        };
        let record = Record { key: b"", value: b"", ..record };
        bytes.drain(..format.overhead());
        Ok((record, bytes))
    }
}

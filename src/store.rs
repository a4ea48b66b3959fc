//! The store: an index in memory over a log on disk.
//!
//! Values live in the log; the index knows for each key where. What each command
//! means is in `commands.rs`; here is what they are made of, and what holds for all. A
//! command that reads and then writes (add, incr, touch ...) holds its shard's lock
//! throughout; a plain get holds it for one look-up and reads the file without it.
//!
//! Every operation takes a [`Session`]: it brings the time, so nothing here looks at
//! a clock, and takes back the highest log position that the answer *depends on*:
//!
//! - S1: a write depends on its own record.
//! - S2: a hit depends on the record it shows.
//! - S3: a miss depends on the latest removal (delete, flush, expiry) in its shard,
//!   since the removal is what it shows.
//!
//! The caller commits that position before it tells anyone. So a reply never shows
//! what a crash could take back, not even when another connection wrote it.
//!
//! - S4: a command that fails has changed nothing: the index follows the log, never
//!   leads it. (A *commit* that fails leaves what was appended where it is. It may
//!   become safe later, and nobody was told.)
//! - S5: a flush that is due is written before anything else is looked at.
//!
//! Left out: eviction. memcached forgets when memory is full; here the disk says no,
//! and the client is told. The index must fit in memory.

pub use crate::commands::{Counted, Item, Stored, expiry};
use crate::compact;
use crate::disk::{Directory, Disk, OwnerLock};
use crate::index::{Entry, Filling, Index, Shard};
use crate::lock;
use crate::log::{self, Generation, Log, LogError, Result, SyncMode};
use crate::recent::{self, Recent};
use crate::record::{Draft, Format, Record};
use crate::replay::{self, OpenError, Settings, Torn};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The sizes asked for.
    pub settings: Settings,
    /// What a commit waits for.
    pub sync: SyncMode,
    /// The most that a key and its value may have together, in bytes.
    pub max_item_size: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            settings: Settings::default(),
            sync: SyncMode::default(),
            max_item_size: 1 << 20,
        }
    }
}

/// A caller's side of the store: one for each thread.
#[derive(Default)]
pub struct Session {
    /// The time, in Unix seconds.
    pub now: u64,
    /// Answers given since this was last 0 hold once the log is committed up to here.
    pub depends_on: u64,
    /// Bytes of records read and appended since this was last 0: what the requests
    /// have cost, which is not to be seen from their length.
    pub moved: u64,
    /// The log has outrun compaction since this was last false: see
    /// [`Store::wait_for_room`].
    pub crowded: bool,
    /// The records that were read last; so a get allocates nothing.
    pub(crate) recent: Recent,
    pub(crate) draft: Draft,
}

impl Session {
    /// A session at `now`, in Unix seconds.
    pub fn at(now: u64) -> Session {
        Session { now, ..Session::default() }
    }

    pub(crate) fn depend(&mut self, position: u64) {
        self.depends_on = self.depends_on.max(position);
    }
}

/// See the module's page.
pub struct Store {
    pub(crate) log: Log,
    pub(crate) index: Index,
    /// When the pending flush is due, in Unix seconds; 0 if none is pending. Changed
    /// only while all shards are locked.
    flush_due: AtomicU64,
    /// When the log's end passes this position, the janitor is called; u64::MAX once
    /// it has been.
    pub(crate) call_at: AtomicU64,
    /// When the log's end passes this position, compaction is outrun, and who writes
    /// has to wait for it.
    pub(crate) full_at: AtomicU64,
    /// Where the janitor waits; true when it has been called.
    pub(crate) janitor_call: (Mutex<bool>, Condvar),
    /// Where writers wait: how often there was room again.
    pub(crate) room: (Mutex<u64>, Condvar),
    /// What compaction could not read; it does not run again.
    pub(crate) compaction_stopped: OnceLock<LogError>,
    /// The longest value that was found at the start: it may have been stored when
    /// larger ones were allowed.
    found_value: usize,
    total_items: AtomicU64,
    damaged_reads: AtomicU64,
    expired_lookups: AtomicU64,
    pub(crate) max_item_size: usize,
    /// The directory is ours as long as this lives.
    _owner: Option<OwnerLock>,
}

/// Figures of the store for `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Keys in the index, expired ones that nobody met yet among them.
    pub items: u64,
    /// Length of the records that hold them, in bytes.
    pub live_bytes: u64,
    /// Values stored since the start, by touches as well.
    pub total_items: u64,
    /// Reads that met a damaged record.
    pub damaged_reads: u64,
    /// Look-ups that met an expired item.
    pub expired_lookups: u64,
    /// Data files.
    pub generations: u64,
    /// Length of the data files with what is still in memory, in bytes.
    pub log_bytes: u64,
    /// The position at which the next record will stand.
    pub log_end: u64,
    /// The position up to which everything is safe from a power cut.
    pub log_synced: u64,
}

impl Store {
    /// Opens the data directory at `path`, or makes it. `now` is in Unix seconds.
    /// Where it is not ours to open, nothing in it is created or changed.
    pub fn open(
        path: &Path,
        options: &Options,
        now: u64,
    ) -> std::result::Result<(Store, Option<Torn>), OpenError> {
        let directory = Directory::new(path);
        replay::examine(&directory, &options.settings)?;
        directory.create()?;
        let owner = directory.lock()?.map_err(OpenError::Locked)?;
        let (mut store, torn) = Store::on_disk(Box::new(directory), options, now)?;
        store._owner = Some(owner);
        Ok((store, torn))
    }

    /// Opens a store on a disk that nobody else uses.
    pub fn on_disk(
        disk: Box<dyn Disk>,
        options: &Options,
        now: u64,
    ) -> std::result::Result<(Store, Option<Torn>), OpenError> {
        let index = Index::new();
        let mut filling = Filling::new(&index, now);
        let mut found_value = 0;
        let each = |position, record: &Record| {
            found_value = found_value.max(record.value.len());
            filling.add(position, record);
        };
        let (log, torn) = replay::open(disk, &options.settings, options.sync, each)?;
        let flush_due = filling.flush_due;
        drop(filling);
        let store = Store {
            log,
            index,
            flush_due: AtomicU64::new(flush_due),
            call_at: AtomicU64::new(0),
            full_at: AtomicU64::new(u64::MAX),
            janitor_call: (Mutex::new(false), Condvar::new()),
            room: (Mutex::new(0), Condvar::new()),
            compaction_stopped: OnceLock::new(),
            found_value,
            total_items: AtomicU64::new(0),
            damaged_reads: AtomicU64::new(0),
            expired_lookups: AtomicU64::new(0),
            max_item_size: options.max_item_size,
            _owner: None,
        };
        Ok((store, torn))
    }

    /// Makes everything that the session's answers depend on as safe as the sync
    /// mode promises. Nothing may be said of them before.
    pub fn commit(&self, session: &Session) -> Result<()> {
        self.commit_to(session.depends_on, session.now)
    }

    /// The same, for everything before `position`.
    pub(crate) fn commit_to(&self, position: u64, now: u64) -> Result<()> {
        self.log.commit(position, now)
    }

    /// What a commit waits for.
    pub(crate) fn sync_mode(&self) -> SyncMode {
        self.log.mode()
    }

    /// Whether everything before `position` is as safe as the sync mode promises.
    pub fn is_committed(&self, position: u64) -> bool {
        self.log.is_committed(position)
    }

    /// The longest key, in bytes.
    pub fn key_size(&self) -> usize {
        usize::from(self.log.format().key_size)
    }

    /// How wide the fields of the data files are.
    pub fn format(&self) -> Format {
        *self.log.format()
    }

    /// The largest value that any key can have, in bytes.
    pub fn max_value(&self) -> usize {
        let by_format = self.log.format().max_value();
        usize::try_from(by_format).unwrap_or(usize::MAX).min(self.max_item_size)
    }

    /// The longest value that there is or may be, in bytes.
    pub(crate) fn longest_value(&self) -> usize {
        self.max_value().max(self.found_value)
    }

    /// The most bytes of memory that all this takes up, without the index: sessions,
    /// of which there are `sessions` beside compaction's, and the log's tail.
    pub(crate) fn bytes_max(&self, sessions: usize) -> usize {
        let record = self.log.format().record_len(self.longest_value());
        // What is drafted, its shorter predecessor while that is moved, and the number
        // that an incr makes of a value as long.
        let session = recent::bytes_max(record) + 3 * record;
        sessions * session + log::bytes_max(record) + compact::bytes_max(record)
    }

    /// S5. Two that find the flush due do it once.
    pub(crate) fn flush_if_due(&self, session: &mut Session) -> Result<()> {
        let is_due = |now| (1..=now).contains(&self.flush_due.load(Acquire));
        if is_due(session.now) {
            let mut shards = self.index.all();
            if is_due(session.now) {
                self.flush(&mut shards, session, 0)?;
            }
        }
        Ok(())
    }

    pub(crate) fn flush(
        &self,
        shards: &mut [MutexGuard<Shard>],
        session: &mut Session,
        due: u64,
    ) -> Result<()> {
        session.draft.flush(self.log.format(), due);
        let place = self.append_draft(session)?;
        self.flush_due.store(due, Release);
        if due == 0 {
            shards.iter_mut().for_each(|shard| shard.clear(place.end));
        }
        Ok(())
    }

    /// Writes a pending flush once more, which changes nothing about it.
    pub(crate) fn repeat_flush(&self, session: &mut Session) -> Result<()> {
        let mut shards = self.index.all();
        match self.flush_due.load(Acquire) {
            0 => Ok(()),
            due => self.flush(&mut shards, session, due),
        }
    }

    /// Where `key`'s record stands, if it has one that has not expired. Every answer
    /// that rests on having looked goes through here: S2 and S3.
    pub(crate) fn find(
        &self,
        shard: &Shard,
        session: &mut Session,
        key: &[u8],
    ) -> Option<Entry> {
        match shard.entries.get(key).copied() {
            Some(entry) if entry.is_expired(session.now) => {
                // Its expiry is the removal, and rests on its own record.
                self.expired_lookups.fetch_add(1, Relaxed);
                session.depend(self.end_of(entry).max(shard.removed));
                None
            }
            Some(entry) => {
                session.depend(self.end_of(entry));
                Some(entry)
            }
            None => {
                session.depend(shard.removed);
                None
            }
        }
    }

    fn end_of(&self, entry: Entry) -> u64 {
        entry.position + self.record_len(entry) as u64
    }

    fn record_len(&self, entry: Entry) -> usize {
        self.log.format().record_len(entry.size as usize)
    }

    /// Reads a record's bytes into the session; false if its file is gone.
    pub(crate) fn load(&self, entry: Entry, session: &mut Session) -> Result<bool> {
        let len = self.record_len(entry);
        session.moved += len as u64;
        let read = |buffer: &mut [u8]| self.log.read(entry.position, buffer);
        session.recent.load(entry.position, len, read)
    }

    /// The record that was loaded last.
    pub(crate) fn decode<'b>(
        &self,
        entry: Entry,
        recent: &'b Recent,
    ) -> Result<Record<'b>> {
        let bytes = recent.bytes(entry.position, self.record_len(entry));
        self.log.decode(bytes, entry.position).inspect_err(|_| {
            recent.forget(entry.position);
            self.damaged_reads.fetch_add(1, Relaxed);
        })
    }

    /// Reads a record whose shard is locked, so that it can't be moved.
    pub(crate) fn load_locked(
        &self,
        entry: Entry,
        session: &mut Session,
    ) -> Result<()> {
        match self.load(entry, session)? {
            true => Ok(()),
            false => Err(LogError::Read("its file is gone".into())),
        }
    }

    /// Appends the session's draft of `key`'s new record; S4: first the log, then
    /// the index.
    pub(crate) fn write(
        &self,
        shard: &mut Shard,
        session: &mut Session,
        key: &[u8],
        size: usize,
        exptime: u64,
    ) -> Result<()> {
        let place = self.append_draft(session)?;
        let entry = Entry::new(place.start, size, exptime);
        // One that is born expired was written all the same: it ends what was there.
        if entry.is_expired(session.now) {
            shard.remove(key, place.end);
        } else {
            shard.insert(key, entry);
        }
        self.total_items.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Appends the session's draft, on which its answer depends from now on (S1).
    pub(crate) fn append_draft(&self, session: &mut Session) -> Result<Range<u64>> {
        let place = self.log.append(&mut session.draft, session.now)?;
        session.moved += place.end - place.start;
        session.depend(place.end);
        session.crowded |= place.end > self.full_at.load(Relaxed);
        if place.end > self.call_at.load(Relaxed) {
            self.call_at.store(u64::MAX, Relaxed);
            *lock(&self.janitor_call.0) = true;
            self.janitor_call.1.notify_one();
        }
        Ok(place)
    }

    /// Takes some of the expired items out. The log learns nothing by it: at replay
    /// they are expired as well.
    pub(crate) fn reap(&self, now: u64) {
        self.index.reap(now, |entry| self.end_of(entry));
    }

    /// Begins the next generation; a pending flush goes over first. Returns the old.
    pub(crate) fn rotate(&self, session: &mut Session) -> Result<Arc<Generation>> {
        // While one shard is locked, no flush can come or go.
        let _shard = self.index.hold_off_flushes();
        let due = self.flush_due.load(Acquire);
        session.draft.flush(self.log.format(), due);
        self.log.rotate((due != 0).then_some(&mut session.draft), session.now)
    }

    /// Appends `record` once more if the index still points at `position`; returns
    /// where it stands now.
    pub(crate) fn copy(
        &self,
        session: &mut Session,
        position: u64,
        record: &Record,
    ) -> Result<Option<Range<u64>>> {
        session.draft.copy(self.log.format(), record);
        let mut shard = self.index.shard(record.key);
        let found = shard.entries.get(record.key).copied();
        let Some(entry) = found.filter(|entry| entry.position == position) else {
            return Ok(None);
        };
        if entry.is_expired(session.now) {
            shard.remove(record.key, self.end_of(entry));
            return Ok(None);
        }
        // C1
        Ok(Some(self.append_draft(session)?))
    }

    /// Points the index at a copy, unless the key has changed since.
    pub(crate) fn redirect(&self, key: &[u8], from: u64, to: u64) {
        if let Some(entry) = self.index.shard(key).entries.get_mut(key)
            && entry.position == from
        {
            entry.position = to;
        }
    }

    /// Figures for `stats` and for deciding about compaction.
    pub fn figures(&self) -> Figures {
        let (items, value_bytes) = self.index.totals();
        let generations = self.log.generations();
        let log_end = self.log.end();
        Figures {
            items,
            live_bytes: value_bytes + items * self.log.format().overhead() as u64,
            total_items: self.total_items.load(Relaxed),
            damaged_reads: self.damaged_reads.load(Relaxed),
            expired_lookups: self.expired_lookups.load(Relaxed),
            generations: generations.len() as u64,
            log_bytes: log_end - generations[0].base,
            log_end,
            log_synced: self.log.synced(),
        }
    }
}

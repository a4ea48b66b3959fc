//! The store: what each command means, on items that outlive the process.
//!
//! This room has no sockets and no protocol. A [`Store`] is opened on a directory and
//! serves any number of threads, each with a [`Session`] of its own: [`Store::get`] reads,
//! [`Store::execute`] changes one item, [`Store::commit`] makes what was done as safe as
//! the [`SyncMode`] promises. Nothing may be told to anybody before it.
//!
//! | part | what it owns |
//! |---|---|
//! | [`crc`], [`record`] | the checksum; bytes <-> file header and record |
//! | [`disk`] | the few file operations, behind a trait that tests can implement |
//! | [`log`] | the data files: append, commit, read |
//! | `index` | where each key's record stands |
//! | `items` | the two together, and the one way to change an item: `update` |
//! | `walk`, `compact` | reading a file in order; live records move, the old file goes |
//! | `evict` | with a limit: what is used least goes |
//! | [`survey`] | what stands in the files: what a start decides by, and a check reports |
//! | `recover`, [`repair`] | how a start continues from it; a new file of what can be read |
//! | [`error`] | what can go wrong |
//!
//! Without a limit on what is stored, nothing is evicted: a full disk refuses writes, and
//! the client is told. Left out: an index on disk, so the keys must fit in memory.

mod compact;
pub mod crc;
pub mod disk;
pub mod error;
mod evict;
mod index;
mod items;
pub mod log;
pub mod record;
mod recover;
pub mod repair;
pub mod survey;
mod walk;

pub use crate::store::error::{Error, Result};
pub use crate::store::items::Session;
pub use crate::store::log::SyncMode;
pub use crate::store::record::Record;
pub use crate::store::survey::Settings;

use crate::lock;
use crate::store::compact::Compaction;
use crate::store::disk::{Directory, Disk};
use crate::store::evict::evict_if_due;
use crate::store::index::SHARDS;
use crate::store::items::{Change, Counts, Items};
use crate::store::record::Format;
use crate::store::recover::recover;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The sizes requested.
    pub settings: Settings,
    /// What a commit waits for.
    pub sync: SyncMode,
    /// The most that a key and its value may have together, in bytes.
    pub max_item_size: usize,
    /// Items are evicted while the live records have more bytes than this; 0 for no limit.
    pub data_limit: u64,
}

impl Default for Options {
    fn default() -> Options {
        let (settings, sync) = (Settings::default(), SyncMode::default());
        Options { settings, sync, max_item_size: 1 << 20, data_limit: 0 }
    }
}

/// What an item may have at most, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest key.
    pub key_size: usize,
    /// The largest value.
    pub max_value: usize,
    /// The most that a key and its value may have together.
    pub max_item_size: usize,
}

impl Limits {
    /// Whether a value of this length is more than this key can have.
    pub fn is_too_large(&self, key: &[u8], len: usize) -> bool {
        len > self.max_value || key.len() + len > self.max_item_size
    }
}

/// What can be done to an item: memcached's commands of these names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verb {
    /// Store a value, whatever is there.
    #[default]
    Set,
    /// Store it if nothing is there.
    Add,
    /// Store it if something is there.
    Replace,
    /// Append it to what is there. Flags and expiry stay.
    Append,
    /// Prepend it to what is there. Flags and expiry stay.
    Prepend,
    /// Store it if the item's unique is still `number`. 0 never is.
    Cas,
    /// Remove the item.
    Delete,
    /// Add `number` to a decimal number, modulo 2^64.
    Incr,
    /// Subtract `number` from a decimal number, stopping at 0.
    Decr,
    /// Give the item a new expiry. Its unique stays.
    Touch,
    /// Read the item. It is changed only as the update says: `mg`.
    Get,
}

/// A change of one item: what a client requests, and what the store executes. A verb looks
/// only at what it needs, beside the key: a verb that stores at `value`, `flags` and
/// `exptime`; append and prepend at `value`; cas also at `number`, and incr and decr at that
/// alone; touch at `exptime`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update<'a> {
    /// What is done.
    pub verb: Verb,
    /// To which item. 1 to [`Limits::key_size`] bytes.
    pub key: &'a [u8],
    /// 32 bits of the client's.
    pub flags: u32,
    /// As on the wire, see [`expiry`].
    pub exptime: i64,
    /// The unique of a cas, the delta of an incr or decr.
    pub number: u64,
    /// Not too large: see [`Limits::is_too_large`].
    pub value: &'a [u8],
    /// The unique that the item must have, if there is one. A cas that finds a higher one
    /// than its own stores all the same if it `is_stale`.
    pub compare: Option<u64>,
    /// The unique of what is stored; 0 for a new one.
    pub unique: u64,
    /// Where there is none, get, append, prepend, incr and decr make one, with this exptime
    /// and their value. That of get has been won.
    pub vivify: Option<i64>,
    /// A get, an incr, a decr, and a delete that keeps the item give it their exptime.
    pub renews: bool,
    /// A get wins an item that is stale or expires before this, unless another has.
    pub recache: Option<i64>,
    /// A delete keeps the item, and marks its value as stale.
    pub is_stale: bool,
    /// A delete keeps the item without its value.
    pub empties: bool,
    /// A get is no access.
    pub peeks: bool,
}

impl Update<'_> {
    /// Whether a get wins the item that it has found.
    fn wins(&self, it: &Record, now: u64) -> bool {
        let Some(recache) = self.recache else { return false };
        let is_due = (1..expiry(recache, now)).contains(&it.exptime);
        !it.win_sent && (it.stale || is_due)
    }
}

/// What became of an [`Update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value is stored.
    Stored,
    /// It is not: the verb's condition did not hold.
    NotStored,
    /// The item has changed since its unique was read.
    Exists,
    /// There is no such item.
    NotFound,
    /// The item is removed.
    Deleted,
    /// The item has its new expiry.
    Touched,
    /// So it has, and this client alone is to recompute its value.
    Won,
    /// The new number.
    Number(u64),
    /// The value is not a decimal number of 64 bits.
    NotNumeric,
}

/// See the top of this file.
pub struct Store {
    /// What a commit waits for.
    pub sync_mode: SyncMode,
    /// How wide the fields of the data files are.
    pub format: Format,
    /// What an item may have at most.
    pub limits: Limits,
    /// See [`Options::data_limit`].
    pub data_limit: AtomicU64,
    items: Items,
    compaction: Compaction,
}

impl Store {
    /// Opens the data directory at `path`, or makes it. `now` is in Unix seconds.
    /// Where it can't be opened as it is, no data file is created or changed. Also returns
    /// a line about a torn end, if one was cut off.
    pub fn open(
        path: &Path,
        options: &Options,
        now: u64,
    ) -> Result<(Store, Option<String>)> {
        let directory = Arc::new(Directory::create(path)?);
        directory.lock()?;
        survey::require_ours(&directory)?;
        let opened = Store::on_disk(directory.clone(), options, now)?;
        directory.sign();
        Ok(opened)
    }

    /// Opens a store on a disk that nobody else uses.
    pub fn on_disk(
        disk: Arc<dyn Disk>,
        options: &Options,
        now: u64,
    ) -> Result<(Store, Option<String>)> {
        let Options { settings, sync: sync_mode, max_item_size, data_limit } = *options;
        let (log, index, torn) = recover(disk, &settings, sync_mode, now)?;
        let format = log.format;
        let items = Items { log, index, counts: Counts::default() };
        let limits = Limits {
            key_size: format.key_size.into(),
            max_value: format.max_value().min(max_item_size as u64) as usize,
            max_item_size,
        };
        let (data_limit, compaction) = (data_limit.into(), Compaction::default());
        Ok((Store { sync_mode, format, limits, data_limit, items, compaction }, torn))
    }

    /// The item under `key`, all but the key.
    pub fn get<'s>(
        &self,
        session: &'s mut Session,
        key: &[u8],
    ) -> Result<Option<Record<'s>>> {
        self.items.get(session, key, true)
    }

    /// The same, where it can be read; and this is no access.
    pub fn peek<'s>(&self, session: &'s mut Session, key: &[u8]) -> Option<Record<'s>> {
        self.items.get(session, key, false).ok().flatten()
    }

    /// The item that a touch or a get has just found, as it was before; or that it has made.
    pub fn touched<'s>(&self, session: &'s Session) -> Record<'s> {
        if session.found.is_some() { session.item() } else { session.stored.0 }
    }

    /// Changes one item: what each verb means.
    pub fn execute(&self, session: &mut Session, update: &Update) -> Result<Answer> {
        let Update { verb, key, flags, value, unique: cas, .. } = *update;
        let (now, exptime) = (session.now, expiry(update.exptime, session.now));
        let new = Record { flags, exptime, key, value, cas, ..Record::default() };
        session.stored = (Record::default(), value.len());
        if verb == Verb::Set {
            return self.items.set(session, new).map(|()| Answer::Stored);
        }
        let is_access = matches!(verb, Verb::Touch | Verb::Get) && !update.peeks;
        let plain = Update { verb, key, ..Update::default() };
        // Not read: also a damaged one can be replaced, or deleted.
        let loads = match verb {
            Verb::Add | Verb::Replace => false,
            Verb::Delete => *update != plain,
            _ => true,
        };
        self.items.update(session, key, loads, is_access, |old| match old {
            Some(old) => self.revise(update, now, new, &old),
            None => vivify(update, now, new),
        })
    }

    /// What an update makes of the `old` item, where a `new` one is asked for.
    fn revise<'v>(
        &self,
        update: &Update,
        now: u64,
        new: Record<'v>,
        old: &Record,
    ) -> (Change<'v>, Answer) {
        use Answer::{Deleted, Exists, NotNumeric, NotStored, Number, Stored};
        use Verb::{Add, Append, Cas, Decr, Delete, Get, Incr, Prepend, Touch};
        let Update { verb, number, is_stale, empties, .. } = *update;
        let Record { stale, win_sent, flags, cas, was_read, .. } = *old;
        let keep = |answer| (Change::Keep, answer);
        let put = |it, value: Vec<u8>, answer| (Change::Put(it, value.into()), answer);
        let compare = update.compare.or((verb == Cas).then_some(number));
        let is_other = verb != Get && compare.is_some_and(|unique| unique != cas);
        let renews = update.renews || verb == Touch;
        let exptime = if renews { new.exptime } else { old.exptime };
        // The old one, but for its value; and what is part of a new one.
        let fresh = Record { flags, exptime, ..new };
        let same = Record { stale, win_sent, was_read, ..fresh };
        let (wins, len) = (update.wins(old, now), old.value.len() + new.value.len());
        let is_too_large = self.limits.is_too_large(update.key, len);
        match verb {
            Add => keep(NotStored),
            // Of an older one.
            Cas if is_stale && (1..cas).contains(&compare.unwrap_or(0)) => {
                let late = Record { flags: new.flags, stale: true, win_sent, ..fresh };
                (Change::Put(late, new.value.into()), Stored)
            }
            _ if is_other => keep(Exists),
            Delete if !is_stale && !empties => (Change::Remove, Deleted),
            Delete => {
                let (stale, win_sent) = (stale || is_stale, win_sent && !is_stale);
                let value = if empties { b"" } else { old.value };
                put(Record { stale, win_sent, ..same }, value.into(), Deleted)
            }
            Get if !renews && !wins => keep(Answer::Touched),
            Get | Touch => {
                // M2
                let same = Record { cas, win_sent: win_sent || wins, ..same };
                let answer = if wins { Answer::Won } else { Answer::Touched };
                put(same, old.value.into(), answer)
            }
            Append | Prepend if is_too_large => keep(NotStored),
            Append => put(fresh, [old.value, new.value].concat(), Stored),
            Prepend => put(fresh, [new.value, old.value].concat(), Stored),
            Incr | Decr => {
                let Some(before) = decimal(old.value) else { return keep(NotNumeric) };
                let after = match verb {
                    Incr => before.wrapping_add(number),
                    _ => before.saturating_sub(number),
                };
                // A shorter number is padded with spaces on the right, as in memcached.
                let mut digits = after.to_string().into_bytes();
                digits.resize(digits.len().max(old.value.len()), b' ');
                put(same, digits, Number(after))
            }
            _ => (Change::Put(new, new.value.into()), Stored),
        }
    }

    /// The keys of one part of all items, of which the first has number 0; `None` after the
    /// last. What is there throughout is in one part, once.
    pub fn keys(&self, session: &mut Session, part: usize) -> Option<Vec<Box<[u8]>>> {
        let flushed = self.items.flush_if_due(session).is_ok();
        let keys = self.items.index.keys(part, session.now).filter(|_| flushed);
        // S2, S3: it shows what is there, and what is not.
        session.depends_on = self.items.log.end();
        // It may be large, and all in it have expired.
        session.work += 64 << 10;
        keys
    }

    /// Removes every item: at once if `delay` is 0 or less, else when that time has
    /// come, given as on the wire. A pending flush is replaced.
    pub fn flush_all(&self, session: &mut Session, delay: i64) -> Result<()> {
        self.items.flush_if_due(session)?;
        let due = expiry(delay.max(0), session.now);
        let due = if due <= session.now { 0 } else { due };
        self.items.flush(session, |_| Some(due))
    }

    /// Makes everything before `position` as safe as the sync mode promises: that which
    /// a session's answers depend on. Nothing may be said of them before.
    pub fn commit(&self, position: u64, now: u64) -> Result<()> {
        self.items.log.commit(position, now)
    }

    /// Whether everything before `position` is as safe as the sync mode promises.
    pub fn is_committed(&self, position: u64) -> bool {
        self.items.log.is_committed(position)
    }

    /// Makes all that was written safe from a power cut, in every mode.
    pub fn sync(&self, now: u64) -> Result<()> {
        self.items.log.sync(now)
    }

    /// What is to be done each second: what a full disk refused is tried again, what is
    /// written is synced, files that have gone are noticed (L5), expired items are
    /// counted, and compaction runs if it is due. `clock` gives Unix seconds.
    pub fn maintain(&self, clock: &dyn Fn() -> u64) -> Result<()> {
        let mut session = Session::at(clock());
        // Files that have gone are synced all the same: a person may still have them.
        let synced = self.items.log.sync(session.now);
        self.items.log.check_files()?;
        let flushed = synced.and_then(|()| self.items.flush_if_due(&mut session));
        // C5: what helps where the disk is full.
        let shards = if self.items.log.is_full() { SHARDS } else { 1 };
        (0..shards).for_each(|_| self.items.index.sweep(session.now, &self.format));
        let compacted = self.compact_if_due(clock);
        flushed.and(compacted)
    }

    /// Evicts if there is too much, and compacts if there is enough garbage, as
    /// [`Store::maintain`] does.
    pub fn compact_if_due(&self, clock: &dyn Fn() -> u64) -> Result<()> {
        let evicted = evict_if_due(&self.items, self.data_limit.load(Relaxed), clock());
        // On a full disk, it is what makes the room.
        self.compaction.run_if_due(&self.items, clock).and(evicted)
    }

    /// One compaction, however much garbage there is.
    pub fn compact(&self, clock: &dyn Fn() -> u64) -> Result<()> {
        self.items.flush_if_due(&mut Session::at(clock()))?;
        // One that was interrupted is finished first.
        if self.items.log.generations().len() > 1 {
            self.compaction.run(&self.items, clock)?;
        }
        self.compaction.run(&self.items, clock)
    }

    /// Figures for `stats`, under their names there. Lengths and positions are in bytes.
    pub fn figures(&self) -> [(&'static str, u64); 16] {
        let Items { log, index, counts } = &self.items;
        let [compactions, seconds, bytes] = *lock(&self.compaction.done);
        let (generations, log_end) = (log.generations(), log.end());
        let (items, live_bytes) = index.totals(&log.format);
        [
            // Expired ones that are not removed yet among them.
            ("curr_items", items),
            ("bytes", live_bytes),
            // Values stored since the start or the last reset, by touches as well.
            ("total_items", counts.total_items.load(Relaxed)),
            ("get_expired", counts.expired_lookups.load(Relaxed)),
            ("evictions", counts.evictions.load(Relaxed)),
            ("limit_maxbytes", self.data_limit.load(Relaxed)),
            ("log_generations", generations.len() as u64),
            // With what is still in memory.
            ("log_bytes", log_end - generations[0].base),
            ("log_end", log_end),
            ("log_synced", log.synced()),
            ("log_last_sync_us", log.sync_micros[0].load(Relaxed)),
            ("log_longest_sync_us", log.sync_micros[1].load(Relaxed)),
            ("log_damaged_reads", counts.damaged_reads.load(Relaxed)),
            ("compactions", compactions),
            ("compaction_last_seconds", seconds),
            ("compaction_last_bytes", bytes),
        ]
    }

    /// One of these.
    pub fn figure(&self, name: &str) -> u64 {
        let found = self.figures().into_iter().find(|(it, _)| *it == name);
        found.expect("one of the figures").1
    }

    /// Why compaction does not run any more, if it doesn't.
    pub fn compaction_stopped(&self) -> Option<&Error> {
        self.compaction.stopped.get()
    }

    /// Begins to count anew, as `stats reset` does.
    pub fn reset_counts(&self) {
        self.items.counts.total_items.store(0, Relaxed);
        self.items.counts.expired_lookups.store(0, Relaxed);
        self.items.counts.evictions.store(0, Relaxed);
    }
}

/// A relative exptime is at most this many seconds; a larger one is a date.
const RELATIVE_LIMIT: i64 = 60 * 60 * 24 * 30;

/// An exptime of the wire in Unix seconds, 0 for never. On the wire, up to 30 days
/// count from `now`, more is a date, and what is negative is long past.
pub fn expiry(exptime: i64, now: u64) -> u64 {
    match exptime {
        0 => 0,
        ..0 => 1,
        1..=RELATIVE_LIMIT => now + exptime as u64,
        // A negative number that was written as unsigned 32 bits, as libmemcached does.
        // memcached takes all from 2^31 on for that; here those are dates up to 2106.
        4_294_000_000..=4_294_967_295 => 1,
        date => date as u64,
    }
}

/// What an update does where no item is.
fn vivify<'v>(update: &Update, now: u64, new: Record<'v>) -> (Change<'v>, Answer) {
    use Answer::{NotFound, NotStored, Number, Stored, Won};
    use Verb::{Add, Append, Decr, Get, Incr, Prepend, Replace};
    let answer = match (update.verb, update.vivify) {
        (Add, _) | (Append | Prepend, Some(_)) => Stored,
        (Get, Some(_)) => Won,
        (Incr | Decr, Some(_)) => Number(decimal(new.value).unwrap_or_default()),
        (Replace | Append | Prepend, _) => return (Change::Keep, NotStored),
        _ => return (Change::Keep, NotFound),
    };
    let vivified = update.vivify.filter(|_| update.verb != Add && !update.renews);
    let exptime = vivified.map_or(new.exptime, |exptime| expiry(exptime, now));
    let made = Record { exptime, win_sent: answer == Won, ..new };
    (Change::Put(made, new.value.into()), answer)
}

/// The number that `value` is: decimal digits, then perhaps spaces.
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?.trim_ascii_end();
    // `parse` would also accept a plus sign.
    digits.parse().ok().filter(|_| !digits.starts_with('+'))
}

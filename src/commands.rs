//! What each command means: the verbs of the protocol, as methods of [`Store`].
//!
//! All have one shape: is a flush due (S5), lock the key's shard, look (S2, S3),
//! decide, append to the log, point the index there (S1, S4). A plain set decides
//! nothing and needs not look; a plain get appends nothing and reads the file without
//! the lock.

use crate::log::Result;
use crate::record::Record;
use crate::store::{Session, Store};

/// A relative exptime is at most this many seconds; a larger one is a date.
const RELATIVE_LIMIT: i64 = 60 * 60 * 24 * 30;

/// A value as it was found, borrowed from the session that read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The client's 32 bits.
    pub flags: u32,
    /// The unique of `gets` and `cas`.
    pub cas: u64,
    /// The value's bytes.
    pub value: &'a [u8],
}

/// What became of a value that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored.
    Stored,
    /// The command's condition did not hold.
    NotStored,
    /// The item has changed since its unique was read.
    Exists,
    /// There is no such item to compare with.
    NotFound,
}

/// What became of an incr or decr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// The new number.
    Number(u64),
    /// The value is no decimal number of 64 bits.
    NotNumeric,
    /// There is no such item.
    NotFound,
}

impl Store {
    /// The value of `key`, read into the session.
    pub fn get<'s>(
        &self,
        session: &'s mut Session,
        key: &[u8],
    ) -> Result<Option<Item<'s>>> {
        self.flush_if_due(session)?;
        let entry = loop {
            let found = self.find(&self.index.shard(key), session, key);
            let Some(entry) = found else { return Ok(None) };
            // Read without the shard's lock. Where the file has just gone, the record
            // was moved, and the index says where to.
            if self.load(entry, session)? {
                break entry;
            }
        };
        Ok(Some(item(self.decode(entry, &session.recent)?)))
    }

    /// Stores a value under `key`, whatever is there. Flags are the client's;
    /// `exptime` is as on the wire, see [`expiry`]. Key and value fit
    /// [`Store::key_size`] and [`Store::max_value`], here and in the calls below.
    pub fn set(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Stored> {
        self.store_if(session, key, flags, exptime, value, Condition::Always)
    }

    /// Stores a value if `key` has none.
    pub fn add(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Stored> {
        self.store_if(session, key, flags, exptime, value, Condition::Absent)
    }

    /// Stores a value if `key` has one.
    pub fn replace(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Stored> {
        self.store_if(session, key, flags, exptime, value, Condition::Present)
    }

    /// Stores a value if the item's unique is still `unique`. 0 never is: no record
    /// stands at position 0.
    pub fn cas(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
        unique: u64,
    ) -> Result<Stored> {
        self.store_if(session, key, flags, exptime, value, Condition::Unique(unique))
    }

    fn store_if(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
        condition: Condition,
    ) -> Result<Stored> {
        self.flush_if_due(session)?;
        let exptime = expiry(exptime, session.now);
        session.draft.set(self.log.format(), key, flags, exptime, [value, &[]]);
        let mut shard = self.index.shard(key);
        match condition {
            Condition::Always => {}
            Condition::Absent => {
                if self.find(&shard, session, key).is_some() {
                    return Ok(Stored::NotStored);
                }
            }
            Condition::Present => {
                if self.find(&shard, session, key).is_none() {
                    return Ok(Stored::NotStored);
                }
            }
            Condition::Unique(unique) => {
                let Some(entry) = self.find(&shard, session, key) else {
                    return Ok(Stored::NotFound);
                };
                self.load_locked(entry, session)?;
                if self.decode(entry, &session.recent)?.cas != unique {
                    return Ok(Stored::Exists);
                }
            }
        }
        self.write(&mut shard, session, key, value.len(), exptime)?;
        Ok(Stored::Stored)
    }

    /// Puts `value` behind the one that `key` has. Flags and expiry stay.
    pub fn append(
        &self,
        session: &mut Session,
        key: &[u8],
        value: &[u8],
    ) -> Result<Stored> {
        self.extend(session, key, value, |old, new| [old, new])
    }

    /// Puts `value` before the one that `key` has. Flags and expiry stay.
    pub fn prepend(
        &self,
        session: &mut Session,
        key: &[u8],
        value: &[u8],
    ) -> Result<Stored> {
        self.extend(session, key, value, |old, new| [new, old])
    }

    fn extend(
        &self,
        session: &mut Session,
        key: &[u8],
        value: &[u8],
        order: for<'v> fn(&'v [u8], &'v [u8]) -> [&'v [u8]; 2],
    ) -> Result<Stored> {
        self.flush_if_due(session)?;
        let mut shard = self.index.shard(key);
        let Some(entry) = self.find(&shard, session, key) else {
            return Ok(Stored::NotStored);
        };
        self.load_locked(entry, session)?;
        let old = self.decode(entry, &session.recent)?;
        let size = old.value.len() + value.len();
        if size > self.max_value() || key.len() + size > self.max_item_size {
            return Ok(Stored::NotStored);
        }
        let (exptime, value) = (old.exptime, order(old.value, value));
        session.draft.set(self.log.format(), key, old.flags, exptime, value);
        self.write(&mut shard, session, key, size, exptime)?;
        Ok(Stored::Stored)
    }

    /// Adds `delta` to a decimal number, modulo 2^64.
    pub fn incr(
        &self,
        session: &mut Session,
        key: &[u8],
        delta: u64,
    ) -> Result<Counted> {
        self.count(session, key, |number| number.wrapping_add(delta))
    }

    /// Takes `delta` from a decimal number, stopping at 0.
    pub fn decr(
        &self,
        session: &mut Session,
        key: &[u8],
        delta: u64,
    ) -> Result<Counted> {
        self.count(session, key, |number| number.saturating_sub(delta))
    }

    fn count(
        &self,
        session: &mut Session,
        key: &[u8],
        step: impl Fn(u64) -> u64,
    ) -> Result<Counted> {
        self.flush_if_due(session)?;
        let mut shard = self.index.shard(key);
        let Some(entry) = self.find(&shard, session, key) else {
            return Ok(Counted::NotFound);
        };
        self.load_locked(entry, session)?;
        let old = self.decode(entry, &session.recent)?;
        let Some(number) = decimal(old.value) else { return Ok(Counted::NotNumeric) };
        let number = step(number);
        // A number that lost digits keeps its place, blanks to the right of it.
        let mut text = number.to_string().into_bytes();
        text.resize(text.len().max(old.value.len()), b' ');
        let (size, exptime, value) = (text.len(), old.exptime, [&text[..], &[]]);
        session.draft.set(self.log.format(), key, old.flags, exptime, value);
        self.write(&mut shard, session, key, size, exptime)?;
        Ok(Counted::Number(number))
    }

    /// Gives `key` a new expiry; false if there is no such item. The unique stays.
    pub fn touch(
        &self,
        session: &mut Session,
        key: &[u8],
        exptime: i64,
    ) -> Result<bool> {
        Ok(self.get_and_touch(session, key, exptime)?.is_some())
    }

    /// The value of `key`, which gets a new expiry. The unique stays.
    pub fn get_and_touch<'s>(
        &self,
        session: &'s mut Session,
        key: &[u8],
        exptime: i64,
    ) -> Result<Option<Item<'s>>> {
        self.flush_if_due(session)?;
        let mut shard = self.index.shard(key);
        let Some(entry) = self.find(&shard, session, key) else { return Ok(None) };
        let exptime = expiry(exptime, session.now);
        self.load_locked(entry, session)?;
        let old = self.decode(entry, &session.recent)?;
        session.draft.copy(self.log.format(), &Record { exptime, ..old });
        self.write(&mut shard, session, key, entry.size as usize, exptime)?;
        // `write` took the whole session, so the record is looked at afresh.
        Ok(Some(item(self.decode(entry, &session.recent)?)))
    }

    /// Removes `key`; false if there is no such item.
    pub fn delete(&self, session: &mut Session, key: &[u8]) -> Result<bool> {
        self.flush_if_due(session)?;
        session.draft.delete(self.log.format(), key);
        let mut shard = self.index.shard(key);
        if self.find(&shard, session, key).is_none() {
            return Ok(false);
        }
        let place = self.append_draft(session)?;
        shard.remove(key, place.end);
        Ok(true)
    }

    /// Removes every key: at once if `delay` is 0 or less, else when that time has
    /// come, given like an exptime. A pending flush is replaced.
    pub fn flush_all(&self, session: &mut Session, delay: i64) -> Result<()> {
        self.flush_if_due(session)?;
        let due = expiry(delay.max(0), session.now);
        let due = if due <= session.now { 0 } else { due };
        self.flush(&mut self.index.all(), session, due)
    }
}

/// What must hold of the present item for a value to be stored.
enum Condition {
    Always,
    Absent,
    Present,
    Unique(u64),
}

fn item(record: Record<'_>) -> Item<'_> {
    Item { flags: record.flags, cas: record.cas, value: record.value }
}

/// An exptime of the wire in Unix seconds, 0 for never. On the wire, up to 30 days
/// count from `now`, more is a date, and what is negative is long past.
pub fn expiry(exptime: i64, now: u64) -> u64 {
    match exptime {
        0 => 0,
        ..0 => 1,
        1..=RELATIVE_LIMIT => now + exptime as u64,
        _ => exptime as u64,
    }
}

/// The number that `value` is: decimal digits, then perhaps blanks.
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii_end();
    let text = std::str::from_utf8(digits).ok()?;
    // `parse` would also take a plus sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text.parse().ok()
}

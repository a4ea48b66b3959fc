//! The index: where each key's record stands. It is cut into shards by the key's hash,
//! each behind its own lock, so that workers rarely meet.
//!
//! Within a shard, keys are hashed with the standard library's SipHash under a random
//! seed: clients choose the keys, and could otherwise choose ones that all land in one
//! place.

use crate::lock;
use crate::record::{Kind, Record};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// Shards of the index: many more than workers, few enough for a flush to lock all. A
/// power of 2.
const SHARDS: usize = 64;

/// What the index knows of a key.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Where its record stands.
    pub(crate) position: u64,
    /// Size of the value in bytes; the protocol's limit fits.
    pub(crate) size: u32,
    /// Expiry in Unix seconds, 0 for never. 32 bits keep the entry at 16 bytes; what
    /// would expire after February 2106 expires then.
    exptime: u32,
}

impl Entry {
    pub(crate) fn new(position: u64, size: usize, exptime: u64) -> Entry {
        let exptime = u32::try_from(exptime).unwrap_or(u32::MAX);
        Entry { position, size: size as u32, exptime }
    }

    pub(crate) fn is_expired(&self, now: u64) -> bool {
        self.exptime != 0 && u64::from(self.exptime) <= now
    }
}

/// A key. Short ones stand in the table itself: no memory of their own, and no way there
/// and back for each comparison.
pub(crate) enum Key {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

/// The longest short key: as much as makes both kinds the same size.
const SHORT: usize = 22;

impl Key {
    fn new(bytes: &[u8]) -> Key {
        if bytes.len() > SHORT {
            return Key::Long(bytes.into());
        }
        let mut short = [0; SHORT];
        short[..bytes.len()].copy_from_slice(bytes);
        Key::Short(bytes.len() as u8, short)
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        match self {
            Key::Short(len, bytes) => &bytes[..usize::from(*len)],
            Key::Long(bytes) => bytes,
        }
    }
}

// A key and its bytes have to be equal to the same bytes, and have the same hash.

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bytes: &[u8] = self.borrow();
        bytes.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        let (bytes, others): (&[u8], &[u8]) = (self.borrow(), other.borrow());
        bytes == others
    }
}

impl Eq for Key {}

/// The keys of one shard.
pub(crate) struct Shard {
    pub(crate) entries: HashMap<Key, Entry, RandomState>,
    /// Size of the values that the entries point at, in bytes.
    value_bytes: u64,
    /// S3: the end of the newest record that took a key out of this shard: a deletion, a
    /// flush, or a value that has expired.
    pub(crate) removed: u64,
}

impl Shard {
    pub(crate) fn insert(&mut self, key: &[u8], entry: Entry) {
        self.value_bytes += u64::from(entry.size);
        // An overwrite must not pay for a second copy of the key.
        let old = match self.entries.get_mut(key) {
            Some(present) => Some(std::mem::replace(present, entry)),
            None => self.entries.insert(Key::new(key), entry),
        };
        self.value_bytes -= old.map_or(0, |old| u64::from(old.size));
    }

    /// Takes a key out because of what the record that ends at `end` says.
    pub(crate) fn remove(&mut self, key: &[u8], end: u64) {
        let old = self.entries.remove(key);
        self.value_bytes -= old.map_or(0, |old| u64::from(old.size));
        self.removed = self.removed.max(end);
    }

    pub(crate) fn clear(&mut self, end: u64) {
        self.entries.clear();
        self.value_bytes = 0;
        self.removed = self.removed.max(end);
    }
}

/// Which shard a key belongs to. Whoever chooses keys for one shard makes others wait a
/// little longer for its lock, and no look-up slower: so this hash need not be strong,
/// and is several times as fast as the one that has to be.
pub(crate) fn shard_of(key: &[u8]) -> usize {
    let mut hash = 0u64;
    for chunk in key.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        // 2^64 divided by the golden ratio: the product's high bits are well mixed.
        hash = (hash.rotate_left(32) ^ u64::from_le_bytes(word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    (hash >> (64 - SHARDS.ilog2())) as usize
}

/// See the module's page.
pub(crate) struct Index {
    shards: Vec<Mutex<Shard>>,
    /// The shard whose expired entries are taken out next.
    next_reaped: AtomicUsize,
}

impl Index {
    pub(crate) fn new() -> Index {
        let hasher = RandomState::new();
        let empty = || {
            let entries = HashMap::with_hasher(hasher.clone());
            Mutex::new(Shard { entries, value_bytes: 0, removed: 0 })
        };
        let shards = std::iter::repeat_with(empty).take(SHARDS).collect();
        Index { shards, next_reaped: AtomicUsize::new(0) }
    }

    /// Locks the shard that `key` belongs to.
    pub(crate) fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(key)])
    }

    /// Locks all shards, ascending.
    pub(crate) fn all(&self) -> Vec<MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock).collect()
    }

    /// Locks one shard, and so keeps anybody from locking all.
    pub(crate) fn hold_off_flushes(&self) -> MutexGuard<'_, Shard> {
        lock(&self.shards[0])
    }

    /// Takes the expired entries out of one shard, the next one at each call; `end`
    /// tells where an entry's record ends.
    pub(crate) fn reap(&self, now: u64, end: impl Fn(Entry) -> u64) {
        let next = self.next_reaped.fetch_add(1, Relaxed) % SHARDS;
        let mut shard = lock(&self.shards[next]);
        let Shard { entries, value_bytes, removed } = &mut *shard;
        for (_, entry) in entries.extract_if(|_, entry| entry.is_expired(now)) {
            *value_bytes -= u64::from(entry.size);
            *removed = (*removed).max(end(entry));
        }
    }

    /// Where the records stand that are needed and stand before `end`, ascending.
    pub(crate) fn positions_before(&self, end: u64) -> Vec<u64> {
        let mut positions = Vec::new();
        for shard in self.shards.iter().map(lock) {
            let all = shard.entries.values().map(|entry| entry.position);
            positions.extend(all.filter(|&position| position < end));
        }
        positions.sort_unstable();
        positions
    }

    /// How many entries there are, and the size of their values in bytes.
    pub(crate) fn totals(&self) -> (u64, u64) {
        self.shards.iter().map(lock).fold((0, 0), |(entries, bytes), shard| {
            (entries + shard.entries.len() as u64, bytes + shard.value_bytes)
        })
    }
}

/// An index that is being filled from a log, record by record, oldest first.
pub(crate) struct Filling<'a> {
    /// Nobody else is here yet: each lock is taken once.
    shards: Vec<MutexGuard<'a, Shard>>,
    /// What has expired at this Unix second is left out.
    now: u64,
    /// When the pending flush is due, in Unix seconds; 0 if none is pending.
    pub(crate) flush_due: u64,
}

impl Filling<'_> {
    pub(crate) fn new(index: &Index, now: u64) -> Filling<'_> {
        Filling { shards: index.all(), now, flush_due: 0 }
    }

    /// Does what the record at `position` says.
    pub(crate) fn add(&mut self, position: u64, record: &Record) {
        let entry = Entry::new(position, record.value.len(), record.exptime);
        match record.kind {
            Kind::Set if !entry.is_expired(self.now) => {
                self.shards[shard_of(record.key)].insert(record.key, entry);
            }
            Kind::Set | Kind::Delete => {
                self.shards[shard_of(record.key)].remove(record.key, 0);
            }
            Kind::Flush => {
                self.flush_due = record.exptime;
                if self.flush_due == 0 {
                    self.clear();
                }
            }
        }
    }

    /// Forgets all keys.
    pub(crate) fn clear(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.clear(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_a_short_key_has_40_bytes() {
        assert_eq!(size_of::<(Key, Entry)>(), 40);
        for len in [0, 1, SHORT, SHORT + 1, 250] {
            let bytes = vec![b'k'; len];
            let key = Key::new(&bytes);
            let borrowed: &[u8] = key.borrow();
            assert_eq!(borrowed, &bytes[..]);
            assert_eq!(matches!(key, Key::Long(_)), len > SHORT);
        }
    }

    #[test]
    fn keys_of_all_sorts_spread_over_the_shards() {
        let sorts: [fn(usize) -> String; 4] = [
            |i| format!("{i}"),
            |i| format!("key-{i:012}"),
            |i| format!("user:{i}:profile:picture"),
            |i| format!("{i:064x}"),
        ];
        for sort in sorts {
            let mut counts = [0; SHARDS];
            for i in 0..100 * SHARDS {
                counts[shard_of(sort(i).as_bytes())] += 1;
            }
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(least > Some(&50) && most < Some(&200), "{}: {counts:?}", sort(7));
        }
    }
}

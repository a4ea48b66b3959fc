//! The index: where each key's record stands. It is divided into shards by the key's
//! hash, each behind its own lock, so that workers rarely wait for one another.
//!
//! Within a shard, keys are hashed with the standard library's SipHash under a random
//! seed: clients choose the keys, and could otherwise choose keys that all collide.
//!
//! Memory per key: 40 bytes in the table, whose load is between 7/16 and 7/8, and a box
//! of its own for a key of more than 22 bytes. The values stay in the log; a shard keeps
//! those that were read recently.

use crate::lock;
use crate::store::crc::crc32;
use crate::store::record::{Format, Kind, Record};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::Release};
use std::sync::{Mutex, MutexGuard};

/// Shards of the index: many more than workers, few enough for a flush to lock them all.
pub(crate) const SHARDS: usize = 64;

/// What the index knows about a key, in 16 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// The lower 48 bits of its record's position: two records of one log are not so far
    /// apart that more were needed to tell which it is. And 16 bits of what is known of
    /// accesses, which no file has: [`READ`], [`HOURS`], and when the last one was.
    place: u64,
    /// Size of the value in bytes; the protocol's limit fits.
    pub(crate) size: u32,
    /// Expiry in Unix seconds, 0 for never. 32 bits keep the entry at 16 bytes; what
    /// would expire after February 2106 expires then.
    pub(crate) exptime: u32,
}

const ACCESS: u64 = 0xffff;
/// It was read since it was stored, or since the start.
const READ: u64 = 1 << 15;
/// The time of the last access is in hours, else in seconds.
const HOURS: u64 = 1 << 14;
/// That time, modulo 2^14.
const TIME: u64 = HOURS - 1;

impl Entry {
    pub(crate) fn new(position: u64, size: usize, exptime: u64) -> Entry {
        let exptime = u32::try_from(exptime).unwrap_or(u32::MAX);
        Entry { place: position << 16, size: size as u32, exptime }
    }

    /// Where its record stands, in a log that has come about as far as `near`.
    pub(crate) fn position(&self, near: u64) -> u64 {
        let ahead = self.place.wrapping_sub(near << 16) as i64 >> 16;
        near.wrapping_add_signed(ahead)
    }

    /// The same item, whose record stands elsewhere.
    pub(crate) fn moved_to(self, position: u64) -> Entry {
        Entry { place: position << 16 | self.place & ACCESS, ..self }
    }

    /// Notes an access, which `is_read`, or the start.
    pub(crate) fn access_at(&mut self, now: u64, is_read: bool) {
        let read = if is_read { READ } else { 0 };
        self.place = self.place & !ACCESS | read | now & TIME;
    }

    /// Whether it was read, and the seconds since the last access; once that is an hour ago,
    /// by and by in whole hours.
    pub(crate) fn access(&self, now: u64) -> (bool, u64) {
        let unit = if self.place & HOURS == 0 { 1 } else { 3600 };
        let idle = (now / unit).wrapping_sub(self.place) & TIME;
        // The clock of another thread may be a little ahead of this one.
        let idle = if idle > TIME / 2 { 0 } else { idle * unit };
        (self.place & READ != 0, idle)
    }

    /// How soon it is evicted: later than all of a higher rank. What was never read ages
    /// eight times as fast; the 7 puts it first within a second, too.
    pub(crate) fn rank(&self, now: u64) -> u64 {
        let (was_read, idle) = self.access(now);
        if was_read { idle } else { 8 * idle + 7 }
    }

    /// Length of its record in bytes.
    pub(crate) fn len(&self, format: &Format) -> u64 {
        format.record_len(self.size as usize) as u64
    }

    /// Changes to hours before the seconds become ambiguous.
    pub(crate) fn age(&mut self, now: u64) {
        let (_, idle) = self.access(now);
        if self.place & HOURS == 0 && idle > 3600 {
            let hour = now.saturating_sub(idle) / 3600;
            self.place = self.place & !TIME | HOURS | hour & TIME;
        }
    }
}

/// Whether what expires at `exptime` has expired, both in Unix seconds; 0 is never.
pub(crate) fn is_expired(exptime: u64, now: u64) -> bool {
    (1..=now).contains(&exptime)
}

/// A key. Short ones stand in the table itself: no allocation, and no pointer to follow
/// for each comparison.
#[derive(PartialEq, Eq)]
pub(crate) enum Key {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

/// The longest short key: so long that both kinds have the same size.
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

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Key::Short(len, bytes) => &bytes[..usize::from(*len)],
            Key::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

// `Borrow` requires that a key and its bytes hash alike.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

pub(crate) type Entries = HashMap<Key, Entry>;

/// What a record says of its item, and the value.
pub(crate) type Item = (Record<'static>, Vec<u8>);

/// A shard starts to collect recent items anew when they have this much memory, in bytes.
const RECENT: usize = 256 << 10;

/// The memory of a recent item, in bytes: its table may be half empty.
fn memory_of(value: &[u8]) -> usize {
    2 * size_of::<(u64, Item)>() + value.len()
}

/// The keys of one shard.
#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) entries: Entries,
    /// Size of the values that the entries point at, in bytes.
    value_bytes: u64,
    /// Length of the records that had expired at the last sweep, in bytes.
    expired_bytes: u64,
    /// S3: the end of the newest record that removed a key from this shard.
    pub(crate) removed: u64,
    /// Items that were read, by the positions of their records, so that keys requested again
    /// and again cost no system call. No other bytes ever stand there (L1), so nothing here
    /// is out of date.
    recent: HashMap<u64, Item>,
    /// Their memory, in bytes; more where two threads have read the same one at once.
    recent_len: usize,
}

impl Shard {
    /// Copies an item that was read recently to `item`. False if it was not.
    pub(crate) fn recall(&self, position: u64, item: &mut Item) -> bool {
        let Some((record, value)) = self.recent.get(&position) else { return false };
        item.0 = *record;
        item.1.clone_from(value);
        true
    }

    /// Keeps the item of the record at `position` among the recent ones.
    pub(crate) fn keep(&mut self, position: u64, record: &Record) {
        let len = memory_of(record.value);
        if len > RECENT {
            return;
        }
        if self.recent_len + len > RECENT {
            self.recent.clear();
            self.recent_len = 0;
        }
        self.recent_len += len;
        let own = Record { key: b"", value: b"", ..*record };
        self.recent.insert(position, (own, record.value.into()));
    }

    /// Keeps an item no longer. False if it was not kept.
    pub(crate) fn forget(&mut self, position: u64) -> bool {
        let Some((_, value)) = self.recent.remove(&position) else { return false };
        self.recent_len -= memory_of(&value);
        true
    }

    /// What has not expired.
    pub(crate) fn live(&self, now: u64) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().filter(move |it| !is_expired(it.1.exptime.into(), now))
    }

    /// Points `key` at a record, and returns where it pointed before.
    pub(crate) fn insert(&mut self, key: &[u8], entry: Entry) -> Option<Entry> {
        self.value_bytes += u64::from(entry.size);
        // An overwrite must not allocate the key again.
        let old = match self.entries.get_mut(key) {
            Some(present) => Some(std::mem::replace(present, entry)),
            None => self.entries.insert(Key::new(key), entry),
        };
        self.value_bytes -= old.map_or(0, |old| u64::from(old.size));
        old
    }

    /// Removes a key because of what the record that ends at `end` says.
    pub(crate) fn remove(&mut self, key: &[u8], end: u64) {
        let old = self.entries.remove(key);
        self.value_bytes -= old.map_or(0, |old| u64::from(old.size));
        self.removed = self.removed.max(end);
    }

    /// Removes all keys, and returns them: to free millions takes longer than anybody may
    /// wait for the lock.
    #[must_use]
    pub(crate) fn clear(&mut self, end: u64) -> Entries {
        (self.value_bytes, self.expired_bytes) = (0, 0);
        self.removed = self.removed.max(end);
        std::mem::take(&mut self.entries)
    }
}

/// Which shard a key belongs to. A client that chooses keys for one shard makes others
/// wait a little longer for its lock, and slows down no look-up: so the checksum will do,
/// which is faster than the hash that has to be strong.
fn shard_of(key: &[u8]) -> usize {
    crc32(0, key) as usize % SHARDS
}

/// See the top of this file.
#[derive(Default)]
pub(crate) struct Index {
    shards: Vec<Mutex<Shard>>,
    /// When the pending flush is due, in Unix seconds; 0 if none is pending. Changed
    /// only while all shards are locked.
    pub(crate) flush_due: AtomicU64,
    /// The shard that is swept next.
    next: AtomicUsize,
}

impl Index {
    pub(crate) fn new() -> Index {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Index { shards, ..Index::default() }
    }

    /// Locks the shard that `key` belongs to.
    pub(crate) fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(key)])
    }

    /// Locks one shard after another.
    pub(crate) fn one_by_one(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock)
    }

    /// Locks all shards, ascending.
    pub(crate) fn all(&self) -> Vec<MutexGuard<'_, Shard>> {
        self.one_by_one().collect()
    }

    /// Counts what has expired in one shard, the next one at each call: from then on it is
    /// not live. And ages what is known of accesses.
    pub(crate) fn sweep(&self, now: u64, format: &Format) {
        let mut shard = lock(&self.shards[self.next.fetch_add(1, Relaxed) % SHARDS]);
        shard.entries.values_mut().for_each(|entry| entry.age(now));
        let expired = |entry: &&Entry| is_expired(entry.exptime.into(), now);
        let expired = shard.entries.values().filter(expired);
        shard.expired_bytes = expired.map(|entry| entry.len(format)).sum();
    }

    /// Removes what stands before `position`, because of what the record that ends at `end`
    /// says: that nothing live does.
    pub(crate) fn remove_before(&self, position: u64, end: u64) {
        for mut shard in self.one_by_one() {
            // What had expired is what is removed.
            shard.expired_bytes = 0;
            let Shard { entries, value_bytes, removed, .. } = &mut *shard;
            let is_before = |entry: &Entry| entry.position(position) < position;
            for (_, entry) in entries.extract_if(|_, entry| is_before(entry)) {
                *value_bytes -= u64::from(entry.size);
                *removed = (*removed).max(end);
            }
        }
    }

    /// The keys in shard `number` that have not expired; `None` if there is no such shard.
    pub(crate) fn keys(&self, number: usize, now: u64) -> Option<Vec<Box<[u8]>>> {
        let shard = lock(self.shards.get(number)?);
        Some(shard.live(now).map(|(key, _)| key.bytes().into()).collect())
    }

    /// Applies the record at `position` of the file that begins at `base`, in the order of
    /// the log: replay. What was removed before the start is safe, so nobody waits for it.
    pub(crate) fn replay(&self, base: u64, position: u64, record: &Record) {
        let Record { kind, key, value, exptime, .. } = *record;
        match kind {
            Kind::Set => {
                let entry = Entry::new(position, value.len(), exptime);
                self.shard(key).insert(key, entry);
            }
            Kind::Delete => self.shard(key).remove(key, 0),
            Kind::Flush => {
                let mut shards = self.all();
                self.flush_due.store(exptime, Release);
                if exptime == 0 {
                    shards.iter_mut().for_each(|shard| drop(shard.clear(0)));
                }
            }
            Kind::Complete => self.remove_before(base, 0),
            Kind::Time | Kind::Continued => {}
        }
    }

    /// The positions of the live records that stand before `end`, ascending.
    pub(crate) fn positions_before(&self, end: u64) -> Vec<u64> {
        let mut positions = Vec::new();
        for shard in self.one_by_one() {
            let all = shard.entries.values().map(|entry| entry.position(end));
            positions.extend(all.filter(|&position| position < end));
        }
        positions.sort_unstable();
        positions
    }

    /// How many items there are, and the length of their records in bytes.
    pub(crate) fn totals(&self, format: &Format) -> (u64, u64) {
        self.one_by_one().fold((0, 0), |(items, bytes), shard| {
            let count = shard.entries.len() as u64;
            let overhead = count * format.overhead() as u64;
            let all = overhead + shard.value_bytes;
            (items + count, bytes + all.saturating_sub(shard.expired_bytes))
        })
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
            assert_eq!(key.bytes(), &bytes[..]);
            assert_eq!(matches!(key, Key::Long(_)), len > SHORT);
        }
    }

    #[test]
    fn the_last_access_is_known_in_seconds_and_later_in_hours() {
        let (start, size) = (1_700_000_123, 1 << 30);
        let mut entry = Entry::new(40, size, 7);
        entry.access_at(start, false);
        for later in [0, 1, 59, 3600] {
            entry.age(start + later);
            assert_eq!(entry.access(start + later), (false, later));
        }
        // As often as the shard's turn comes, for half a year.
        for later in (3664..180 * 24 * 3600).step_by(64) {
            entry.age(start + later);
            let (was_read, idle) = entry.access(start + later);
            assert!(!was_read && idle.abs_diff(later) <= 3600, "{idle} for {later}");
        }
        entry.access_at(start + 42, true);
        assert_eq!(entry.access(start + 50), (true, 8));
        // For a thread whose clock is behind, it was just now.
        assert_eq!(entry.access(start + 40), (true, 0));
        let moved = entry.moved_to(1 << 40);
        assert_eq!(moved.access(start + 50), (true, 8));
        assert_eq!(
            (moved.position(1 << 40), moved.size, moved.exptime),
            (1 << 40, size as u32, 7)
        );
    }

    #[test]
    fn a_position_is_found_near_the_end_of_the_log() {
        for position in [0, 40, 1 << 47, (1 << 48) - 1, 1 << 48, (1 << 61) + 40] {
            let mut entry = Entry::new(position, 1, 0);
            entry.access_at(u64::MAX, true);
            let furthest = (1 << 47) - 1;
            for near in [position, position + 1, position + furthest] {
                assert_eq!(entry.position(near), position);
            }
            let near = position.saturating_sub(furthest);
            assert_eq!(entry.position(near), position);
        }
    }

    #[test]
    fn a_cleared_shard_keeps_no_keys() {
        let index = Index::new();
        let mut shard = index.shard(b"k");
        shard.insert(b"k", Entry::new(40, 1, 0));
        let cleared = shard.clear(100);
        assert_eq!((cleared.len(), shard.entries.capacity()), (1, 0));
        assert_eq!((shard.value_bytes, shard.removed), (0, 100));
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

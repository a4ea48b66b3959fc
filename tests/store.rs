//! What each command means, what a session's answers depend on, and what is left of
//! it all after a restart, a full disk and a failed sync.
//!
//! The store is driven without a server. Time is an argument, so what expires here
//! does so at once.

mod common;

use common::TempDir;
use common::disk::{
    Call, Faulty, How, contents, files, records, short, value, written,
};
use common::verbs::Verbs;
use memcached_lite::store::disk::Directory;
use memcached_lite::store::record::{HEADER_LEN, IntOrder};
use memcached_lite::store::{
    Answer, Error, Options, Result, Session, Settings, Store, SyncMode, expiry,
};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

const NOW: u64 = 1_000_000_000;
const FIRST: &str = "0000000001.kv";

/// A store in a directory of its own, on a disk that does not fail yet.
struct Fixture {
    directory: TempDir,
    disk: Faulty,
    options: Options,
    store: Store,
}

impl Fixture {
    fn new(options: Options) -> Fixture {
        let directory = TempDir::new();
        let disk = Faulty::new(directory.path());
        let (store, torn) = disk.open(&options, NOW).unwrap();
        assert_eq!(torn, None);
        Fixture { directory, disk, options, store }
    }

    fn short() -> Fixture {
        Fixture::new(short(16))
    }

    fn every_second() -> Fixture {
        Fixture::new(Options { sync: SyncMode::EverySecond, ..short(16) })
    }

    /// Ends the process as `kill -9` does and starts another at `now`.
    fn restart_at(&mut self, now: u64) {
        self.disk.heal();
        let (store, _) = self.disk.open(&self.options, now).unwrap();
        self.store = store;
    }

    /// Sets a key and waits until it is safe; returns its unique.
    fn put(&self, key: &[u8], value: &[u8]) -> u64 {
        let mut session = Session::at(NOW);
        let stored = self.store.set(&mut session, key, 0, 0, value);
        assert_eq!(stored, Ok(Answer::Stored));
        self.store.settle(&session).unwrap();
        self.unique(key, NOW).unwrap()
    }

    fn unique(&self, key: &[u8], now: u64) -> Option<u64> {
        contents(&self.store, &[key], now).get(key).map(|seen| seen.cas)
    }

    fn value(&self, key: &[u8], now: u64) -> Option<Vec<u8>> {
        value(&self.store, key, now)
    }

    /// What a get of `key` depends on.
    fn depends_on(&self, key: &[u8], now: u64) -> u64 {
        let mut session = Session::at(now);
        self.store.get(&mut session, key).unwrap();
        session.depends_on
    }

    fn file(&self) -> Vec<u8> {
        files(self.directory.path())[FIRST].clone()
    }
}

fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.into())
}

/// What is answered where the record at this offset of the first file is damaged.
fn damaged(offset: usize) -> Error {
    Error::Read(format!("the record in {FIRST} at offset {offset} is damaged"))
}

#[test]
fn set_stores_whatever_is_there() {
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    assert_eq!(t.store.get(&mut session, b"k"), Ok(None));
    for (flags, value) in [(0, &b"one"[..]), (u32::MAX, b""), (7, b"\0\r\n three")] {
        assert_eq!(
            t.store.set(&mut session, b"k", flags, 0, value),
            Ok(Answer::Stored)
        );
        let item = t.store.get(&mut session, b"k").unwrap().unwrap();
        assert_eq!((item.flags, item.value), (flags, value));
    }
}

#[test]
fn add_stores_what_is_absent_and_replace_what_is_present() {
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    assert_eq!(t.store.replace(&mut session, b"k", 0, 0, b"0"), Ok(Answer::NotStored));
    assert_eq!(t.store.add(&mut session, b"k", 1, 5, b"1"), Ok(Answer::Stored));
    assert_eq!(t.store.add(&mut session, b"k", 0, 0, b"2"), Ok(Answer::NotStored));
    assert_eq!(t.value(b"k", NOW), text("1"));
    // What has expired is absent.
    session.now = NOW + 5;
    assert_eq!(t.store.replace(&mut session, b"k", 0, 0, b"3"), Ok(Answer::NotStored));
    assert_eq!(t.store.add(&mut session, b"k", 0, 0, b"4"), Ok(Answer::Stored));
    assert_eq!(t.store.replace(&mut session, b"k", 0, 0, b"5"), Ok(Answer::Stored));
    assert_eq!(t.value(b"k", NOW + 5), text("5"));
}

#[test]
fn append_and_prepend_keep_flags_and_expiry_and_give_a_new_unique() {
    let mut t = Fixture::short();
    let mut session = Session::at(NOW);
    assert_eq!(t.store.append(&mut session, b"k", b"x"), Ok(Answer::NotStored));
    assert_eq!(t.store.prepend(&mut session, b"k", b"x"), Ok(Answer::NotStored));
    t.store.set(&mut session, b"k", 9, 50, b"b").unwrap();
    let before = t.unique(b"k", NOW);
    assert_eq!(t.store.append(&mut session, b"k", b"c"), Ok(Answer::Stored));
    let appended = t.unique(b"k", NOW);
    assert_eq!(t.store.prepend(&mut session, b"k", b"a"), Ok(Answer::Stored));
    assert!(appended > before && t.unique(b"k", NOW) > appended);
    t.store.settle(&session).unwrap();
    t.restart_at(NOW);
    let item = t.store.get(&mut session, b"k").unwrap().unwrap();
    assert_eq!((item.flags, item.value), (9, &b"abc"[..]));
    assert_eq!(t.value(b"k", NOW + 50), None);
}

#[test]
fn cas_stores_only_over_the_value_that_was_read() {
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    let cas = |session: &mut Session, value: &[u8], unique| {
        t.store.cas(session, b"k", 0, 0, value, unique).unwrap()
    };
    assert_eq!(cas(&mut session, b"0", 1), Answer::NotFound);
    let first = t.put(b"k", b"1");
    assert_ne!(first, 0);
    assert_eq!(cas(&mut session, b"2", 0), Answer::Exists);
    assert_eq!(cas(&mut session, b"2", first + 1), Answer::Exists);
    assert_eq!(cas(&mut session, b"2", first), Answer::Stored);
    assert_eq!(cas(&mut session, b"3", first), Answer::Exists);
    assert_eq!(t.value(b"k", NOW), text("2"));
}

#[test]
fn incr_wraps_and_decr_stops_at_zero() {
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    assert_eq!(t.store.incr(&mut session, b"n", 1), Ok(Answer::NotFound));
    for (start, step, sum, shown) in [
        ("9", 1, 10, "10"),
        ("0", u64::MAX, u64::MAX, "18446744073709551615"),
        ("18446744073709551615", 1, 0, "0                   "),
        ("5  ", 7, 12, "12 "),
    ] {
        t.put(b"n", start.as_bytes());
        assert_eq!(t.store.incr(&mut session, b"n", step), Ok(Answer::Number(sum)));
        assert_eq!(t.value(b"n", NOW), text(shown));
    }
    for (start, step, difference, shown) in
        [("10", 1, 9, "9 "), ("3", 4, 0, "0"), ("007", 1, 6, "6  ")]
    {
        t.put(b"n", start.as_bytes());
        let counted = t.store.decr(&mut session, b"n", step);
        assert_eq!(counted, Ok(Answer::Number(difference)));
        assert_eq!(t.value(b"n", NOW), text(shown));
    }
    for no_number in ["", " ", "-1", "+1", "1x", "1.5", "18446744073709551616"] {
        t.put(b"n", no_number.as_bytes());
        assert_eq!(t.store.incr(&mut session, b"n", 1), Ok(Answer::NotNumeric));
        assert_eq!(t.store.decr(&mut session, b"n", 1), Ok(Answer::NotNumeric));
        assert_eq!(t.value(b"n", NOW), text(no_number));
    }
}

#[test]
fn touch_and_gat_change_the_expiry_and_keep_the_unique() {
    let mut t = Fixture::short();
    let mut session = Session::at(NOW);
    assert_eq!(t.store.touch(&mut session, b"k", 10), Ok(Answer::NotFound));
    assert_eq!(t.store.get_and_touch(&mut session, b"k", 10), Ok(None));
    let unique = t.put(b"k", b"v");
    assert_eq!(t.store.touch(&mut session, b"k", 10), Ok(Answer::Touched));
    assert_eq!(t.unique(b"k", NOW + 9), Some(unique));
    let item = t.store.get_and_touch(&mut session, b"k", 90).unwrap().unwrap();
    assert_eq!((item.value, item.cas), (&b"v"[..], unique));
    t.store.settle(&session).unwrap();
    t.restart_at(NOW + 50);
    assert_eq!(t.unique(b"k", NOW + 89), Some(unique));
    // A copy of a copy keeps it as well, and cas compares with it.
    session.now = NOW + 50;
    t.store.touch(&mut session, b"k", 0).unwrap();
    t.store.compact(&|| NOW + 50).unwrap();
    t.restart_at(NOW + 500);
    assert_eq!(t.unique(b"k", NOW + 500), Some(unique));
    t.store.touch(&mut session, b"k", 10).unwrap();
    assert_eq!(t.unique(b"k", NOW + 59), Some(unique));
    let stored = t.store.cas(&mut session, b"k", 0, 0, b"w", unique);
    assert_eq!(stored, Ok(Answer::Stored));
    t.store.touch(&mut session, b"k", 10).unwrap();
    assert_eq!(t.unique(b"k", NOW + 60), None);
}

#[test]
fn delete_removes_and_says_whether_there_was_something() {
    let mut t = Fixture::short();
    let mut session = Session::at(NOW);
    assert_eq!(t.store.delete(&mut session, b"k"), Ok(Answer::NotFound));
    t.put(b"k", b"v");
    assert_eq!(t.store.delete(&mut session, b"k"), Ok(Answer::Deleted));
    assert_eq!(t.store.delete(&mut session, b"k"), Ok(Answer::NotFound));
    t.store.settle(&session).unwrap();
    t.restart_at(NOW);
    assert_eq!(t.value(b"k", NOW), None);
}

#[test]
fn an_exptime_counts_from_now_up_to_thirty_days_and_is_a_date_beyond() {
    let days = 60 * 60 * 24;
    assert_eq!(expiry(0, NOW), 0);
    assert_eq!(expiry(1, NOW), NOW + 1);
    assert_eq!(expiry(30 * days, NOW), NOW + 30 * days as u64);
    assert_eq!(expiry(30 * days + 1, NOW), 30 * days as u64 + 1);
    assert_eq!(expiry(i64::MAX, NOW), i64::MAX as u64);
    assert!((1..NOW).contains(&expiry(-1, NOW)));
    assert!((1..NOW).contains(&expiry(i64::MIN, NOW)));
}

#[test]
fn an_exptime_that_is_a_negative_number_of_32_bits_is_long_past() {
    // libmemcached writes -1 as 4294967295. The last million before that are such numbers;
    // what is before them is a date in 2106.
    for past in [-1, 4_294_000_000, 4_294_500_000, 4_294_967_295] {
        assert!((1..NOW).contains(&expiry(past, NOW)), "{past}");
    }
    for date in [4_293_999_999, 4_294_967_296, i64::from(u32::MAX / 2) + 1] {
        assert_eq!(expiry(date, NOW), date as u64);
    }
    let mut t = Fixture::short();
    let mut session = Session::at(NOW);
    for (key, exptime) in [
        (&b"past"[..], 4_294_967_295),
        (b"edge", 4_294_000_000),
        (b"date", 4_293_999_999),
    ] {
        t.put(key, b"old");
        let stored = t.store.set(&mut session, key, 0, exptime, b"v");
        assert_eq!(stored, Ok(Answer::Stored));
        t.put(&[key, b" touched"].concat(), b"t");
        let touched = [key, b" touched"].concat();
        let touched = t.store.touch(&mut session, &touched, exptime);
        assert_eq!(touched, Ok(Answer::Touched));
    }
    t.store.settle(&session).unwrap();
    let keys: [&[u8]; 6] =
        [b"past", b"edge", b"date", b"past touched", b"edge touched", b"date touched"];
    let last = 4_293_999_998;
    for (now, expected) in [(NOW, 2), (last, 2), (NOW, 2), (last + 1, 0), (NOW, 0)] {
        assert_eq!(contents(&t.store, &keys, now).len(), expected, "{now}");
        assert_eq!(t.value(b"date", now).is_some(), expected > 0);
        t.store.sync(now).unwrap();
        t.restart_at(NOW);
    }
}

#[test]
fn items_expire_at_their_time_whether_the_store_is_up_or_down() {
    let mut t = Fixture::short();
    let mut session = Session::at(NOW);
    t.put(b"past", b"old");
    t.put(b"old date", b"old");
    t.put(b"stays", b"v");
    t.store.set(&mut session, b"soon", 0, 10, b"v").unwrap();
    t.store.set(&mut session, b"date", 0, (NOW + 20) as i64, b"v").unwrap();
    t.store.set(&mut session, b"past", 0, -1, b"v").unwrap();
    t.store.set(&mut session, b"old date", 0, (NOW - 1) as i64, b"v").unwrap();
    t.store.set(&mut session, b"far", 0, i64::MAX, b"v").unwrap();
    t.store.settle(&session).unwrap();
    let keys: [&[u8]; 6] = [b"stays", b"soon", b"date", b"past", b"old date", b"far"];
    for _ in 0..2 {
        let there =
            |now| contents(&t.store, &keys, now).into_keys().collect::<Vec<_>>();
        let (far, stays) = (b"far".to_vec(), b"stays".to_vec());
        let (soon, date) = (b"soon".to_vec(), b"date".to_vec());
        let all = [date.clone(), far.clone(), soon, stays.clone()];
        assert_eq!(there(NOW + 9), all);
        assert_eq!(there(NOW + 10), [date, far.clone(), stays.clone()]);
        assert_eq!(there(NOW + 20), [far, stays]);
        t.restart_at(NOW + 5);
    }
    t.restart_at(NOW + 20);
    assert_eq!(t.value(b"soon", NOW + 20), None);
    assert_eq!(t.value(b"date", NOW + 20), None);
    assert_eq!(t.store.figure("curr_items"), 2);
}

#[test]
fn an_expired_record_hides_what_the_key_had_before() {
    let mut t = Fixture::short();
    let mut session = Session::at(NOW);
    t.put(b"k", b"older, and without expiry");
    t.store.set(&mut session, b"k", 0, 10, b"newer").unwrap();
    t.store.settle(&session).unwrap();
    t.restart_at(NOW + 10);
    assert_eq!(t.value(b"k", NOW + 10), None);
}

#[test]
fn maintenance_counts_what_has_expired_one_shard_after_the_other() {
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    for i in 0..200 {
        let key = format!("k{i}");
        t.store.set(&mut session, key.as_bytes(), 0, i % 2, b"v").unwrap();
    }
    // At most so many shards are there.
    for _ in 0..64 {
        t.store.maintain(&|| NOW).unwrap();
    }
    assert_eq!(t.store.figure("curr_items"), 200);
    for _ in 0..64 {
        t.store.maintain(&|| NOW + 1).unwrap();
    }
    assert_eq!(t.store.figure("curr_items"), 200);
    assert_eq!(t.store.figure("bytes"), 100 * (35 + 16 + 2 + 1));
}

#[test]
fn what_has_expired_for_one_client_has_expired_though_the_clock_goes_back() {
    // S6
    for is_swept in [false, true] {
        for is_compacted in [false, true] {
            let mut t = Fixture::short();
            let mut session = Session::at(NOW);
            t.store.set(&mut session, b"k", 0, 10, b"v").unwrap();
            t.store.set(&mut session, b"later", 0, 1000, b"v").unwrap();
            t.store.settle(&session).unwrap();
            if is_swept {
                // At most so many shards are there.
                (0..64).for_each(|_| t.store.maintain(&|| NOW + 20).unwrap());
            }
            if is_compacted {
                t.store.compact(&|| NOW + 20).unwrap();
            }
            assert_eq!(t.value(b"k", NOW + 20), None);
            // The answer leaves when the deletion is safe.
            let depends_on = t.depends_on(b"k", NOW + 20);
            let is_safe = is_compacted;
            assert!(is_safe || !t.store.is_committed(depends_on));
            assert!(t.store.commit(depends_on, NOW + 20).is_ok());
            t.restart_at(NOW + 5);
            assert_eq!(t.value(b"k", NOW + 5), None);
            assert_eq!(t.value(b"later", NOW + 5), text("v"));
        }
    }
}

#[test]
fn on_a_full_disk_an_expiry_is_shown_all_the_same() {
    // S6 gives way: and other keys of the shard have nothing to do with it.
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    for number in 0..200 {
        let key = format!("k{number}");
        t.store.set(&mut session, key.as_bytes(), 0, 10, b"v").unwrap();
    }
    t.store.settle(&session).unwrap();
    t.disk.fail(&[Call::Write], 0, How::Full);
    // The first write that fails leaves a record in memory, which nothing depends on.
    t.store.set(&mut session, b"n", 0, 0, b"v").unwrap();
    t.store.settle(&session).unwrap_err();
    t.disk.forget();
    (0..64).for_each(|_| drop(t.store.maintain(&|| NOW + 10)));
    let tries = t.disk.count(Call::Write);
    assert!(tries < 200, "a sweep tries it once, and not for each item: {tries}");
    for key in [&b"k7"[..], b"k8", b"never"] {
        let mut session = Session::at(NOW + 11);
        assert_eq!(t.store.get(&mut session, key), Ok(None));
        assert_eq!(t.store.settle(&session), Ok(()));
    }
}

#[test]
fn an_expired_item_is_deleted_once() {
    // S6
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    t.store.set(&mut session, b"k", 0, 10, b"v").unwrap();
    t.store.set(&mut session, b"other", 0, 10, b"v").unwrap();
    let before = t.store.figure("log_end");
    for _ in 0..2 {
        assert_eq!(t.value(b"k", NOW + 10), None);
        assert_eq!(t.store.figure("log_end"), before + (35 + 16 + 2));
        assert_eq!(t.store.figure("curr_items"), 1);
    }
    // What has expired when it comes is not stored, and ends what was there.
    t.store.set(&mut session, b"other", 0, -1, &[b'v'; 1000]).unwrap();
    assert_eq!(t.store.figure("log_end"), before + 2 * (35 + 16 + 2));
    assert_eq!(t.value(b"other", NOW), None);
}

#[test]
fn a_reset_begins_to_count_anew() {
    let t = Fixture::short();
    t.put(b"k", b"1");
    let mut session = Session::at(NOW);
    t.store.touch(&mut session, b"k", 10).unwrap();
    t.store.settle(&session).unwrap();
    let counts = || (t.store.figure("total_items"), t.store.figure("get_expired"));
    assert_eq!(counts(), (2, 0));
    assert_eq!(t.value(b"k", NOW + 10), None);
    assert_eq!(t.value(b"never", NOW + 10), None);
    assert_eq!(counts(), (2, 1));
    let there = || (t.store.figure("curr_items"), t.store.figure("log_end"));
    let before = there();
    t.store.reset_counts();
    assert_eq!(counts(), (0, 0));
    // What is there is no count.
    assert_eq!(there(), before);
    t.put(b"k", b"2");
    assert_eq!(t.value(b"k", NOW), text("2"));
    assert_eq!(counts(), (1, 0));
}

#[test]
fn flush_all_removes_everything_for_good() {
    let mut t = Fixture::short();
    t.put(b"a", b"1");
    t.put(b"b", b"2");
    let mut session = Session::at(NOW);
    t.store.flush_all(&mut session, 0).unwrap();
    assert_eq!(contents(&t.store, &[b"a", b"b"], NOW).len(), 0);
    t.store.set(&mut session, b"b", 0, 0, b"after").unwrap();
    t.store.flush_all(&mut session, -1).unwrap();
    t.store.set(&mut session, b"c", 0, 0, b"last").unwrap();
    t.store.settle(&session).unwrap();
    t.restart_at(NOW);
    assert_eq!(contents(&t.store, &[b"a", b"b"], NOW).len(), 0);
    assert_eq!(t.value(b"c", NOW), text("last"));
}

#[test]
fn a_delayed_flush_comes_when_it_is_due_also_over_a_restart() {
    for restarts_at in [None, Some(NOW + 5), Some(NOW + 10), Some(NOW + 500)] {
        let mut t = Fixture::short();
        t.put(b"before", b"1");
        let mut session = Session::at(NOW);
        t.store.flush_all(&mut session, 10).unwrap();
        t.store.settle(&session).unwrap();
        t.put(b"after", b"2");
        let keys: [&[u8]; 3] = [b"before", b"after", b"later"];
        assert_eq!(contents(&t.store, &keys, NOW + 9).len(), 2);
        let mut now = NOW + 10;
        if let Some(then) = restarts_at {
            t.restart_at(then);
            now = now.max(then);
        }
        assert_eq!(contents(&t.store, &keys, now).len(), 0);
        // It comes once.
        session.now = now;
        t.store.set(&mut session, b"later", 0, 0, b"3").unwrap();
        t.store.settle(&session).unwrap();
        assert_eq!(contents(&t.store, &keys, now + 1000).len(), 1);
        t.restart_at(now + 1000);
        assert_eq!(contents(&t.store, &keys, now + 1000).len(), 1);
    }
}

#[test]
fn a_new_flush_replaces_the_pending_one() {
    for (delay, due) in [(5, Some(NOW + 5)), (50, Some(NOW + 50)), (0, None)] {
        let mut t = Fixture::short();
        let mut session = Session::at(NOW);
        t.store.flush_all(&mut session, 10).unwrap();
        t.store.flush_all(&mut session, delay).unwrap();
        t.store.set(&mut session, b"k", 0, 0, b"v").unwrap();
        t.store.settle(&session).unwrap();
        for _ in 0..2 {
            let last = due.map_or(NOW + 1000, |due| due - 1);
            assert_eq!(t.value(b"k", last), text("v"));
            t.restart_at(last);
        }
        if let Some(due) = due {
            assert_eq!(t.value(b"k", due), None);
        }
    }
}

#[test]
fn a_flush_that_is_due_comes_before_whatever_is_asked() {
    // S5
    type Ask = fn(&Store, &mut Session) -> Result<String>;
    fn shown(answer: impl std::fmt::Debug) -> String {
        format!("{answer:?}")
    }
    let asks: [(&str, Ask); 13] = [
        ("None", |s, x| s.get(x, b"1").map(shown)),
        ("Stored", |s, x| s.set(x, b"1", 0, 0, b"2").map(shown)),
        ("Stored", |s, x| s.add(x, b"1", 0, 0, b"2").map(shown)),
        ("NotStored", |s, x| s.replace(x, b"1", 0, 0, b"2").map(shown)),
        ("NotFound", |s, x| s.cas(x, b"1", 0, 0, b"2", 40).map(shown)),
        ("NotStored", |s, x| s.append(x, b"1", b"2").map(shown)),
        ("NotStored", |s, x| s.prepend(x, b"1", b"2").map(shown)),
        ("NotFound", |s, x| s.incr(x, b"1", 1).map(shown)),
        ("NotFound", |s, x| s.decr(x, b"1", 1).map(shown)),
        ("None", |s, x| s.get_and_touch(x, b"1", 0).map(shown)),
        ("NotFound", |s, x| s.touch(x, b"1", 0).map(shown)),
        ("NotFound", |s, x| s.delete(x, b"1").map(shown)),
        // Only the new one is pending then.
        ("()", |s, x| s.flush_all(x, 100).map(shown)),
    ];
    for (expected, ask) in asks {
        let mut t = Fixture::short();
        t.put(b"1", b"1");
        t.put(b"other", b"1");
        let mut session = Session::at(NOW);
        t.store.flush_all(&mut session, 10).unwrap();
        t.store.settle(&session).unwrap();
        let end = t.store.figure("log_end");
        session = Session::at(NOW + 10);
        assert_eq!(ask(&t.store, &mut session).unwrap(), expected);
        assert!(session.depends_on > end, "the flush is not safe yet: {expected}");
        t.store.settle(&session).unwrap();
        let there = contents(&t.store, &[b"1", b"other"], NOW + 10);
        assert_eq!(there.len(), usize::from(expected == "Stored"));
        t.restart_at(NOW + 10);
        assert_eq!(contents(&t.store, &[b"1", b"other"], NOW + 10), there);
    }
}

#[test]
fn a_flush_that_is_due_comes_once_for_all_sessions() {
    // S5
    let t = Fixture::short();
    let together = Barrier::new(4);
    for round in 0..100 {
        let now = NOW + 10 * round;
        t.store.flush_all(&mut Session::at(now), 5).unwrap();
        thread::scope(|scope| {
            for me in 0..4u8 {
                let (t, together) = (&t, &together);
                scope.spawn(move || {
                    let mut session = Session::at(now + 5);
                    together.wait();
                    t.store.set(&mut session, &[me], 0, 0, b"v").unwrap();
                });
            }
        });
        let keys: [&[u8]; 4] = [&[0], &[1], &[2], &[3]];
        assert_eq!(contents(&t.store, &keys, now + 5).len(), 4);
    }
}

#[test]
fn keys_that_contain_one_another_are_different_keys() {
    let mut t = Fixture::short();
    let keys: [&[u8]; 8] = [
        b"cat",
        b"concat",
        b"at",
        b"ca",
        b"cat ",
        b"cat\0",
        b"Cat",
        b"catcatcatcatcatc",
    ];
    for (i, key) in keys.iter().enumerate() {
        t.put(key, format!("{i}").as_bytes());
    }
    let mut session = Session::at(NOW);
    t.store.delete(&mut session, b"at").unwrap();
    t.store.append(&mut session, b"cat", b"!").unwrap();
    t.store.settle(&session).unwrap();
    for _ in 0..2 {
        let values: Vec<_> = keys.iter().map(|key| t.value(key, NOW)).collect();
        let expected = ["0!", "1", "", "3", "4", "5", "6", "7"].map(text);
        for (key, (value, expected)) in keys.iter().zip(values.iter().zip(expected)) {
            let expected = expected.filter(|value| !value.is_empty());
            assert_eq!(value, &expected, "{key:?}");
        }
        t.restart_at(NOW);
    }
}

#[test]
fn every_size_and_order_comes_back_after_a_restart() {
    for key_size in [1, 60, 250] {
        for int_size in [1, 8] {
            for int_order in [IntOrder::Big, IntOrder::Little] {
                let settings = Settings {
                    key_size: Some(key_size),
                    int_size: Some(int_size),
                    int_order: Some(int_order),
                };
                let options = Options { settings, ..Options::default() };
                let mut t = Fixture::new(options);
                assert_eq!(t.store.limits.key_size, usize::from(key_size));
                let longest = vec![b'k'; key_size.into()];
                let largest = vec![b'v'; if int_size == 1 { 255 } else { 70_000 }];
                t.put(&longest, &largest);
                t.put(b"s", b"");
                for _ in 0..2 {
                    assert_eq!(t.value(&longest, NOW), Some(largest.clone()));
                    assert_eq!(t.value(b"s", NOW), text(""));
                    // Without options, the header's sizes are used.
                    t.options = Options::default();
                    t.restart_at(NOW);
                    assert_eq!(t.store.limits.key_size, usize::from(key_size));
                }
            }
        }
    }
}

#[test]
fn a_value_that_int_size_cannot_hold_is_too_large() {
    let settings = Settings { int_size: Some(1), ..Settings::default() };
    let t = Fixture::new(Options { settings, ..Options::default() });
    assert_eq!(t.store.limits.max_value, 255);
    t.put(b"k", &[b'v'; 250]);
    let mut session = Session::at(NOW);
    let six = t.store.append(&mut session, b"k", b"sixsix");
    assert_eq!(six, Ok(Answer::NotStored));
    let six = t.store.prepend(&mut session, b"k", b"sixsix");
    assert_eq!(six, Ok(Answer::NotStored));
    assert_eq!(t.store.append(&mut session, b"k", b"fives"), Ok(Answer::Stored));
    assert_eq!(t.value(b"k", NOW).unwrap().len(), 255);
}

#[test]
fn a_value_grows_up_to_the_largest_item_and_no_further() {
    let t = Fixture::new(Options { max_item_size: 1000, ..Options::default() });
    assert_eq!(t.store.limits.max_value, 1000);
    t.put(b"key", &[b'v'; 990]);
    let mut session = Session::at(NOW);
    assert_eq!(
        t.store.append(&mut session, b"key", b"12345678"),
        Ok(Answer::NotStored)
    );
    assert_eq!(t.store.append(&mut session, b"key", b"1234567"), Ok(Answer::Stored));
}

#[test]
fn a_start_with_other_sizes_than_the_directory_has_fails_and_changes_nothing() {
    let t = Fixture::new(Options {
        settings: Settings {
            key_size: Some(60),
            int_size: Some(2),
            int_order: Some(IntOrder::Big),
        },
        ..Options::default()
    });
    t.put(b"k", b"v");
    let path = t.directory.path();
    let before = files(path);
    let none = Settings::default();
    for (settings, asked) in [
        (
            Settings { key_size: Some(61), ..none },
            "KEY_SIZE 61, INT_SIZE 2, INT_ORDER big",
        ),
        (
            Settings { int_size: Some(8), ..none },
            "KEY_SIZE 60, INT_SIZE 8, INT_ORDER big",
        ),
        (
            Settings { int_order: Some(IntOrder::Little), ..none },
            "KEY_SIZE 60, INT_SIZE 2, INT_ORDER little",
        ),
    ] {
        let options = Options { settings, ..Options::default() };
        let error = Store::open(path, &options, NOW).err().unwrap();
        assert!(matches!(error, Error::Open(_)), "{error:?}");
        let said = error.to_string();
        assert!(said.contains(asked), "{said}");
        assert!(said.contains("KEY_SIZE 60, INT_SIZE 2, INT_ORDER big"), "{said}");
        assert!(said.contains(FIRST), "{said}");
        assert_eq!(files(path), before);
    }
}

#[test]
fn a_start_on_a_file_that_is_not_ours_fails_and_creates_or_changes_nothing() {
    let mut newer = Fixture::short().file();
    newer[9] += 1;
    let notes = b"somebody's notes, long enough to be taken for a header".to_vec();
    for foreign in [notes, vec![], vec![0; 100], newer] {
        let directory = TempDir::new();
        fs::write(directory.path().join(FIRST), foreign).unwrap();
        fs::write(directory.path().join(format!("{FIRST}.rest-5")), b"more").unwrap();
        let before = files(directory.path());
        let error = Store::open(directory.path(), &Options::default(), NOW).err();
        let said = error.as_ref().map(ToString::to_string).unwrap();
        assert!(matches!(error, Some(Error::Open(_))), "{said}");
        assert!(said.ends_with("choose another --data"), "{said}");
        assert!(said.contains(FIRST), "{said}");
        assert_eq!(files(directory.path()), before);
    }
}

#[test]
fn a_directory_of_somebody_elses_files_is_left_as_it_is_and_they_are_named() {
    for names in [
        &["notes"][..],
        &["1.kv"],
        &["0000000001.txt"],
        &["18446744073709551615.kv"],
        &["lock", "notes"],
    ] {
        let directory = TempDir::new();
        for name in names {
            fs::write(directory.path().join(name), b"123\n").unwrap();
        }
        let before = files(directory.path());
        let error = Store::open(directory.path(), &Options::default(), NOW).err();
        let name = names.last().unwrap();
        let said =
            format!("it has {name} in it, and no data file; choose another --data");
        assert_eq!(error, Some(Error::Open(said)));
        assert_eq!(files(directory.path()), before);
    }
    // Such files are in nobody's way beside ours, also where a start was interrupted.
    let directory = TempDir::new();
    for name in ["notes", "0000000001.kv.tmp"] {
        fs::write(directory.path().join(name), b"").unwrap();
    }
    Store::open(directory.path(), &Options::default(), NOW).unwrap();
    assert!(directory.path().join("notes").exists());
}

#[test]
fn a_file_of_somebody_elses_that_is_called_lock_is_never_written_to() {
    let long = vec![b'1'; 33];
    let with_data = Fixture::short();
    let empty = TempDir::new();
    for path in [with_data.directory.path(), empty.path()] {
        for foreign in [&b"a diary"[..], b"12 monkeys\n", b"\xFF", &long] {
            fs::write(path.join("lock"), foreign).unwrap();
            let before = files(path);
            let error = Store::open(path, &Options::default(), NOW).err();
            let said = "the file `lock` in it is not ours; choose another --data";
            assert_eq!(error, Some(Error::Open(said.into())));
            assert_eq!(files(path), before);
        }
    }
}

#[test]
fn a_directory_is_made_with_its_parents_and_opened_again() {
    let parent = TempDir::new();
    let path = parent.path().join("some/where/data");
    for expected in [Answer::Stored, Answer::NotStored] {
        let (store, torn) = Store::open(&path, &Options::default(), NOW).unwrap();
        assert_eq!(torn, None);
        let mut session = Session::at(NOW);
        assert_eq!(store.add(&mut session, b"k", 0, 0, b"v"), Ok(expected));
        store.settle(&session).unwrap();
    }
}

#[test]
fn a_start_on_a_path_that_is_not_a_directory_fails() {
    let directory = TempDir::new();
    let path = directory.path().join("file");
    fs::write(&path, b"mine").unwrap();
    let error = Store::open(&path, &Options::default(), NOW).err();
    assert!(matches!(error, Some(Error::Open(_))), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_second_owner_is_told_who_has_the_directory() {
    let directory = TempDir::new();
    let open = || Store::open(directory.path(), &Options::default(), NOW);
    let (first, _) = open().unwrap();
    let before = files(directory.path());
    let error = open().err().unwrap();
    let pid = process::id().to_string();
    assert_eq!(
        error,
        Error::Open(format!(
            "process {pid} is using it; stop that server or choose another --data"
        ))
    );
    assert_eq!(files(directory.path()), before);
    // Also when a person has removed the lock file as a leftover.
    fs::remove_file(directory.path().join("lock")).unwrap();
    let error = open().err().unwrap().to_string();
    assert!(error.starts_with("another process is using it"), "{error}");
    drop(first);
    open().unwrap();
}

#[test]
fn a_lock_file_that_no_process_holds_keeps_nobody_out() {
    let directory = TempDir::new();
    let lock = directory.path().join("lock");
    let open = || Store::open(directory.path(), &Options::default(), NOW);
    // Also that of a first start which was interrupted.
    for pid in ["", "4194305\n"] {
        fs::write(&lock, pid).unwrap();
        drop(open().unwrap());
        assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", process::id()));
    }
}

#[test]
fn a_file_system_of_its_own_can_be_the_data_directory() {
    let directory = TempDir::new();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    Store::open(directory.path(), &Options::default(), NOW).unwrap();
}

#[test]
fn a_directory_that_has_lost_its_data_files_is_not_a_new_one() {
    let directory = TempDir::new();
    let open = || Store::open(directory.path(), &Options::default(), NOW).err();
    assert_eq!(open(), None);
    fs::remove_file(directory.path().join(FIRST)).unwrap();
    let before = files(directory.path());
    let said =
        "its data files are missing; put them back, or remove the file `lock` as well";
    assert_eq!(open(), Some(Error::Open(said.into())));
    assert_eq!(files(directory.path()), before);
}

#[test]
fn a_unique_is_never_given_twice() {
    let mut t = Fixture::short();
    let mut seen = HashSet::new();
    let mut now = NOW;
    let mut give = |t: &Fixture, now| {
        for key in [&b"a"[..], b"b"] {
            let mut session = Session::at(now);
            t.store.set(&mut session, key, 0, 0, b"1").unwrap();
            assert!(seen.insert(t.unique(key, now).unwrap()));
            t.store.incr(&mut session, key, 1).unwrap();
            assert!(seen.insert(t.unique(key, now).unwrap()));
            t.store.append(&mut session, key, b"1").unwrap();
            assert!(seen.insert(t.unique(key, now).unwrap()));
            t.store.settle(&session).unwrap();
        }
    };
    for _ in 0..3 {
        give(&t, now);
        t.restart_at(now);
        give(&t, now);
        let mut session = Session::at(now);
        t.store.delete(&mut session, b"a").unwrap();
        t.store.settle(&session).unwrap();
        t.store.compact(&|| now).unwrap();
        give(&t, now);
        t.store.flush_all(&mut session, 0).unwrap();
        t.store.settle(&session).unwrap();
        t.store.compact(&|| now).unwrap();
        t.restart_at(now);
        give(&t, now);
        t.store.set(&mut session, b"a", 0, 5, b"1").unwrap();
        t.store.settle(&session).unwrap();
        now += 5;
        t.store.compact(&|| now).unwrap();
        t.restart_at(now);
    }
}

#[test]
fn increments_of_many_threads_are_all_counted() {
    let mut t = Fixture::short();
    t.put(b"n", b"0");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = Session::at(NOW);
                for _ in 0..500 {
                    t.store.incr(&mut session, b"n", 1).unwrap();
                }
                t.store.settle(&session).unwrap();
            });
        }
    });
    assert_eq!(t.value(b"n", NOW), text("2000"));
    t.restart_at(NOW);
    assert_eq!(t.value(b"n", NOW), text("2000"));
}

#[test]
fn of_many_that_compare_and_store_one_wins_each_time() {
    let t = Fixture::short();
    t.put(b"n", b"0");
    let won = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = Session::at(NOW);
                for _ in 0..300 {
                    let item = t.store.get(&mut session, b"n").unwrap().unwrap();
                    let number: u64 =
                        std::str::from_utf8(item.value).unwrap().parse().unwrap();
                    let (unique, next) = (item.cas, (number + 1).to_string());
                    let next = next.as_bytes();
                    let stored = t.store.cas(&mut session, b"n", 0, 0, next, unique);
                    if stored.unwrap() == Answer::Stored {
                        won.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(t.value(b"n", NOW), text(&won.into_inner().to_string()));
}

#[test]
fn of_many_that_add_one_is_stored() {
    let t = Fixture::short();
    let stored = Mutex::new(vec![]);
    thread::scope(|scope| {
        for me in 0..4u8 {
            let (t, stored) = (&t, &stored);
            scope.spawn(move || {
                let mut session = Session::at(NOW);
                for key in 0..100u8 {
                    let key = [b'k', key];
                    let added = t.store.add(&mut session, &key, 0, 0, &[me]);
                    if added.unwrap() == Answer::Stored {
                        stored.lock().unwrap().push((key, me));
                    }
                }
            });
        }
    });
    let stored = stored.into_inner().unwrap();
    assert_eq!(stored.len(), 100);
    for (key, me) in stored {
        assert_eq!(t.value(&key, NOW), Some(vec![me]));
    }
}

#[test]
fn every_write_depends_on_its_own_record() {
    // S1
    type Write = fn(&Store, &mut Session) -> bool;
    let writes: [Write; 10] = [
        |s, x| s.set(x, b"1", 0, 0, b"2").is_ok(),
        |s, x| s.add(x, b"new", 0, 0, b"2").is_ok(),
        |s, x| s.replace(x, b"1", 0, 0, b"2").is_ok(),
        |s, x| s.append(x, b"1", b"2").is_ok(),
        |s, x| s.prepend(x, b"1", b"2").is_ok(),
        |s, x| s.incr(x, b"1", 1).is_ok(),
        |s, x| s.decr(x, b"1", 1).is_ok(),
        |s, x| s.touch(x, b"1", 0).is_ok(),
        |s, x| s.delete(x, b"1").is_ok(),
        |s, x| s.flush_all(x, 0).is_ok(),
    ];
    for (i, write) in writes.into_iter().enumerate() {
        let t = Fixture::short();
        t.put(b"1", b"1");
        let mut session = Session::at(NOW);
        assert!(write(&t.store, &mut session));
        assert_eq!(session.depends_on, t.store.figure("log_end"), "write {i}");
        assert!(!t.store.is_committed(session.depends_on), "write {i}");
        t.store.settle(&session).unwrap();
        assert!(t.store.is_committed(session.depends_on), "write {i}");
    }
}

#[test]
fn an_answer_depends_on_what_another_session_wrote() {
    // S2: what a hit shows. S3: what a miss shows, namely a removal.
    type Change = fn(&Store, &mut Session);
    let changes: [(Change, u64); 8] = [
        (|s, x| drop(s.set(x, b"k", 0, 0, b"2")), NOW),
        (|s, x| drop(s.append(x, b"k", b"2")), NOW),
        (|s, x| drop(s.touch(x, b"k", 100)), NOW),
        (|s, x| drop(s.delete(x, b"k")), NOW),
        (|s, x| drop(s.flush_all(x, 0)), NOW),
        (|s, x| drop(s.set(x, b"k", 0, -1, b"2")), NOW),
        (|s, x| drop(s.touch(x, b"k", -1)), NOW),
        // It is there now, and has expired when it is looked up.
        (|s, x| drop(s.set(x, b"k", 0, 10, b"2")), NOW + 10),
    ];
    type Look = fn(&Store, &mut Session) -> bool;
    let looks: [Look; 4] = [
        |s, x| s.get(x, b"k").is_ok(),
        |s, x| s.replace(x, b"k", 0, 0, b"x").is_ok(),
        |s, x| s.incr(x, b"k", 1).is_ok(),
        |s, x| s.cas(x, b"k", 0, 0, b"x", 1).is_ok(),
    ];
    for (number, (change, later)) in changes.into_iter().enumerate() {
        for look in looks {
            let t = Fixture::short();
            t.put(b"k", b"first");
            assert!(t.store.is_committed(t.depends_on(b"k", NOW)));
            let mut writer = Session::at(NOW);
            change(&t.store, &mut writer);
            let mut reader = Session::at(later);
            assert!(look(&t.store, &mut reader));
            assert!(reader.depends_on >= writer.depends_on, "change {number}");
            assert!(!t.store.is_committed(reader.depends_on), "change {number}");
            // The reader's own commit is enough to make it safe.
            t.store.settle(&reader).unwrap();
            assert!(t.store.is_committed(writer.depends_on), "change {number}");
        }
    }
}

#[test]
fn what_maintenance_removed_is_missed_no_sooner_than_it_is_safe() {
    // S3: the expired record was never synced; a crash would show what was before.
    let t = Fixture::every_second();
    t.put(b"k", b"first");
    let mut writer = Session::at(NOW);
    t.store.set(&mut writer, b"k", 0, 1, b"second").unwrap();
    t.disk.fail(&[Call::Write], 0, How::Always);
    for _ in 0..64 {
        t.store.maintain(&|| NOW + 1).unwrap_err();
    }
    assert!(!t.store.is_committed(t.depends_on(b"k", NOW + 1)));
    t.disk.heal();
    for _ in 0..64 {
        t.store.maintain(&|| NOW + 1).unwrap();
    }
    assert!(t.depends_on(b"k", NOW + 1) >= writer.depends_on);
    // It is found to have expired, and deleted.
    assert!(!t.store.is_committed(t.depends_on(b"k", NOW + 1)));
    t.store.maintain(&|| NOW + 1).unwrap();
    assert!(t.store.is_committed(t.depends_on(b"k", NOW + 1)));
}

#[test]
fn a_session_that_has_seen_nothing_new_waits_for_nobody() {
    let t = Fixture::short();
    t.put(b"k", b"v");
    let mut writer = Session::at(NOW);
    t.store.set(&mut writer, b"other", 0, 0, b"v").unwrap();
    let hold = t.disk.hold(Call::Sync);
    thread::scope(|scope| {
        scope.spawn(|| t.store.commit(writer.depends_on, NOW).unwrap());
        hold.wait_for(1);
        let mut reader = Session::at(NOW);
        assert!(t.store.get(&mut reader, b"k").unwrap().is_some());
        t.store.settle(&reader).unwrap();
        drop(hold);
    });
}

#[test]
fn an_answer_waits_for_the_sync_that_it_depends_on() {
    // S2, S3, L4: the sync is under way, and fails in the end. A session that did not
    // wait for it would have told its client that all is well.
    for read_key in [&b"set"[..], b"deleted"] {
        let t = Fixture::short();
        t.put(b"deleted", b"v");
        let mut writer = Session::at(NOW);
        t.store.set(&mut writer, b"set", 0, 0, b"v").unwrap();
        t.store.delete(&mut writer, b"deleted").unwrap();
        t.disk.fail(&[Call::Sync], 0, How::Once);
        let hold = t.disk.hold(Call::Sync);
        thread::scope(|scope| {
            scope.spawn(|| t.store.commit(writer.depends_on, NOW).unwrap_err());
            hold.wait_for(1);
            let mut reader = Session::at(NOW);
            t.store.get(&mut reader, read_key).unwrap();
            assert!(!t.store.is_committed(reader.depends_on));
            let store = &t.store;
            let waiting = scope.spawn(move || store.settle(&reader));
            drop(hold);
            let answer = waiting.join().unwrap();
            assert!(matches!(answer, Err(Error::Sync(_))), "{answer:?}");
        });
    }
}

#[test]
fn sessions_that_wait_for_a_sync_share_the_next_one() {
    let t = Fixture::short();
    t.disk.forget();
    let mut first = Session::at(NOW);
    t.store.set(&mut first, b"first", 0, 0, b"v").unwrap();
    let hold = t.disk.hold(Call::Sync);
    let written = Barrier::new(9);
    thread::scope(|scope| {
        scope.spawn(|| t.store.commit(first.depends_on, NOW).unwrap());
        hold.wait_for(1);
        for i in 0..8u8 {
            let (store, written) = (&t.store, &written);
            scope.spawn(move || {
                let mut session = Session::at(NOW);
                store.set(&mut session, &[i], 0, 0, b"v").unwrap();
                written.wait();
                store.settle(&session).unwrap();
                assert!(store.is_committed(session.depends_on));
            });
        }
        written.wait();
        drop(hold);
    });
    assert_eq!(t.disk.count(Call::Sync), 2);
    assert_eq!(t.disk.count(Call::Write), 2);
}

#[test]
fn a_sync_vouches_only_for_what_was_written_before_it_began() {
    // L2
    let t = Fixture::short();
    let mut first = Session::at(NOW);
    t.store.set(&mut first, b"first", 0, 0, b"v").unwrap();
    let hold = t.disk.hold(Call::Sync);
    let mut later = Session::at(NOW);
    thread::scope(|scope| {
        scope.spawn(|| t.store.commit(first.depends_on, NOW).unwrap());
        hold.wait_for(1);
        // So much that it is written out at once, while the sync is under way.
        t.disk.forget();
        for key in 0..20 {
            t.store.set(&mut later, &[key], 0, 0, &[b'v'; 60_000]).unwrap();
        }
        t.store.set(&mut later, b"last", 0, 0, b"v").unwrap();
        assert!(t.disk.count(Call::Write) > 0);
        drop(hold);
    });
    assert!(t.store.is_committed(first.depends_on));
    assert_eq!(t.store.figure("log_synced"), first.depends_on);
    t.store.settle(&later).unwrap();
    let left = TempDir::new();
    t.disk.power_cut(left.path(), 0);
    let (store, _) = Faulty::new(left.path()).open(&t.options, NOW).unwrap();
    assert_eq!(value(&store, b"last", NOW), text("v"));
}

#[test]
fn what_always_has_committed_outlives_every_power_cut() {
    // L2: whatever else of the unsynced bytes has reached the disk.
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    for round in 0..20u8 {
        let (key, value_now) = ([b'a' + round % 5], [round]);
        t.store.set(&mut session, &key, 0, 0, &value_now).unwrap();
        t.store.settle(&session).unwrap();
        t.store.set(&mut session, b"open", 0, 0, &[round; 100]).unwrap();
        for seed in 0..10 {
            let left = TempDir::new();
            t.disk.power_cut(left.path(), seed);
            let (store, _) = Faulty::new(left.path()).open(&t.options, NOW).unwrap();
            assert_eq!(value(&store, &key, NOW), Some(value_now.to_vec()));
        }
    }
}

#[test]
fn what_every_second_has_committed_outlives_the_process() {
    let mut t = Fixture::every_second();
    t.disk.forget();
    t.put(b"k", b"v");
    assert_eq!(t.disk.count(Call::Sync), 0);
    let mut session = Session::at(NOW);
    t.store.set(&mut session, b"not committed", 0, 0, b"v").unwrap();
    assert!(!t.store.is_committed(session.depends_on));
    t.restart_at(NOW);
    assert_eq!(t.value(b"k", NOW), text("v"));
    assert_eq!(t.value(b"not committed", NOW), None);
}

#[test]
fn maintenance_syncs_what_every_second_has_written() {
    let t = Fixture::every_second();
    t.put(b"k", b"v");
    t.disk.forget();
    t.store.maintain(&|| NOW).unwrap();
    t.store.maintain(&|| NOW + 1).unwrap();
    assert_eq!(t.disk.count(Call::Sync), 1);
    let left = TempDir::new();
    t.disk.power_cut(left.path(), 0);
    let (store, _) = Faulty::new(left.path()).open(&t.options, NOW).unwrap();
    assert_eq!(value(&store, b"k", NOW), text("v"));
}

#[test]
fn commits_wait_for_a_sync_when_the_last_is_too_long_ago() {
    let t = Fixture::every_second();
    t.disk.forget();
    let mut session = Session::at(NOW);
    for (seconds, syncs) in [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)] {
        session.now = NOW + seconds;
        t.store.set(&mut session, b"k", 0, 0, b"v").unwrap();
        t.store.settle(&session).unwrap();
        assert_eq!(t.disk.count(Call::Sync), syncs, "{seconds} seconds later");
    }
}

#[test]
fn a_record_never_changes_where_it_stands() {
    // L1
    let t = Fixture::short();
    let mut session = Session::at(NOW);
    let mut before = t.file();
    for round in 0..30u8 {
        let key = [b'a' + round % 3];
        match round % 5 {
            0 => drop(t.store.delete(&mut session, &key)),
            1 => drop(t.store.touch(&mut session, &key, 10)),
            2 => drop(t.store.flush_all(&mut session, 0)),
            _ => drop(t.store.set(&mut session, &key, 0, 0, &[round])),
        }
        t.store.settle(&session).unwrap();
        let now = t.file();
        // After the records in `before` there was preallocated space.
        assert!(now.starts_with(written(&before)));
        before = now;
    }
    let records = records(&before);
    assert_eq!(records.last().unwrap().position + 40 + 13 + 1, session.depends_on);
}

#[test]
fn a_damaged_record_is_answered_with_an_error_and_its_neighbours_with_their_values() {
    // F1
    let mut t = Fixture::short();
    t.put(b"before", b"1");
    t.put(b"damaged", b"12");
    t.put(b"after", b"3");
    t.restart_at(NOW);
    let good = t.file();
    let found = records(&good)[1].clone();
    let path = t.directory.path().join(FIRST);
    for byte in found.start..found.end {
        let mut bytes = good.clone();
        bytes[byte] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let damaged = damaged(found.start);
        let errors = t.store.figure("log_damaged_reads");
        let mut x = Session::at(NOW);
        let s = &t.store;
        assert_eq!(s.get(&mut x, b"damaged"), Err(damaged.clone()));
        assert_eq!(s.append(&mut x, b"damaged", b"x"), Err(damaged.clone()));
        assert_eq!(s.incr(&mut x, b"damaged", 1), Err(damaged.clone()));
        assert_eq!(s.touch(&mut x, b"damaged", 1), Err(damaged.clone()));
        assert_eq!(s.cas(&mut x, b"damaged", 0, 0, b"x", 1), Err(damaged));
        assert_eq!(t.store.figure("log_damaged_reads"), errors + 5);
        assert_eq!(t.value(b"before", NOW), text("1"));
        assert_eq!(t.value(b"after", NOW), text("3"));
    }
    // A new value needs nothing of the old one.
    t.put(b"damaged", b"mended");
    assert_eq!(t.value(b"damaged", NOW), text("mended"));
}

#[test]
fn an_item_is_read_once_whoever_wants_it_and_a_change_of_it_costs_no_read() {
    let mut t = Fixture::new(Options::default());
    t.put(b"k", b"1");
    t.restart_at(NOW);
    let reads = || {
        t.disk.forget();
        let value = t.value(b"k", NOW).unwrap();
        (t.disk.count(Call::Read), String::from_utf8(value).unwrap())
    };
    for count in [1, 0] {
        assert_eq!(reads(), (count, "1".into()));
    }
    let (s, mut x) = (&t.store, Session::at(NOW));
    // Settled, or it would be read from the tail.
    s.set(&mut x, b"k", 0, 0, b"2").unwrap();
    s.settle(&x).unwrap();
    assert_eq!(reads(), (0, "2".into()));
    s.append(&mut x, b"k", b"3").unwrap();
    s.touch(&mut x, b"k", 50).unwrap();
    s.incr(&mut x, b"k", 7).unwrap();
    s.settle(&x).unwrap();
    assert_eq!(reads(), (0, "30".into()));
    // What nobody has read is not kept; a change that needs the old value has read it.
    s.delete(&mut x, b"k").unwrap();
    s.set(&mut x, b"k", 0, 0, b"4").unwrap();
    s.settle(&x).unwrap();
    s.incr(&mut x, b"k", 1).unwrap();
    s.settle(&x).unwrap();
    assert_eq!(reads(), (0, "5".into()));
    s.delete(&mut x, b"k").unwrap();
    s.set(&mut x, b"k", 0, 0, b"6").unwrap();
    s.settle(&x).unwrap();
    assert_eq!(reads(), (1, "6".into()));
}

#[test]
fn recent_items_have_a_quarter_of_a_megabyte_in_each_shard() {
    let t = Fixture::new(Options { max_item_size: 2 << 20, ..Options::default() });
    let reads = |key: u32| {
        t.disk.forget();
        assert!(t.value(&key.to_be_bytes(), NOW).is_some());
        t.disk.count(Call::Read)
    };
    // Two of these have room, and a third one has it to itself.
    let keys = 0..3 * 64_u32;
    for key in keys.clone() {
        let mut x = Session::at(NOW);
        t.store.set(&mut x, &key.to_be_bytes(), 0, 0, &[0; 100_000]).unwrap();
        t.store.settle(&x).unwrap();
    }
    assert_eq!(keys.clone().map(reads).sum::<usize>(), keys.len());
    let kept = keys.rev().filter(|key| reads(*key) == 0).count();
    assert!((1..=2 * 64).contains(&kept), "{kept}");
    // One that is larger is not kept, and drives out no other. Of all that differ from a key
    // in some of seven bits, at least one has its checksum in six, and so its shard.
    let (small, large) = (0_u32, 1..128_u32);
    t.put(&small.to_be_bytes(), b"value");
    for key in large {
        t.put(&key.to_be_bytes(), &[0; 300_000]);
        assert_eq!((reads(key), reads(key)), (1, 1), "{key}");
    }
    assert_eq!(reads(small), 0);
}

#[test]
fn work_is_what_is_read_and_appended() {
    let t = Fixture::new(Options { max_item_size: 2 << 20, ..Options::default() });
    let (s, mut x) = (&t.store, Session::at(NOW));
    s.set(&mut x, b"k", 0, 0, &[0; 1 << 20]).unwrap();
    let mut work = |act: &dyn Fn(&mut Session)| {
        x.work = 0;
        act(&mut x);
        x.work
    };
    let large = 1 << 20..1 << 21;
    assert!(large.contains(&work(&|x| assert!(s.get(x, b"k").unwrap().is_some()))));
    assert!(
        work(&|x| assert_eq!(s.add(x, b"k", 0, 0, b"1"), Ok(Answer::NotStored))) < 1000
    );
    assert!(large.contains(&work(&|x| drop(s.incr(x, b"k", 1)))));
    assert!(work(&|x| assert_eq!(s.delete(x, b"k"), Ok(Answer::Deleted))) < 1000);
    assert!(work(&|x| assert!(s.get(x, b"k").unwrap().is_none())) < 1000);
}

#[test]
fn a_change_takes_the_room_of_what_was_there() {
    let t = Fixture::new(Options::default());
    // At least one of the others is in its shard, as above.
    let (changed, others) = (0_u32, 1..128_u32);
    for key in others.clone() {
        t.put(&key.to_be_bytes(), b"value");
    }
    for _ in 0..10 {
        t.put(&changed.to_be_bytes(), &[0; 100_000]);
    }
    t.disk.forget();
    for key in others {
        assert_eq!(t.value(&key.to_be_bytes(), NOW), text("value"));
    }
    assert_eq!(t.disk.count(Call::Read), 0);
}

#[test]
fn no_change_is_hidden_by_what_was_read() {
    // L1: what was read before stands at another position.
    let t = Fixture::short();
    let mut reader = Session::at(NOW);
    let mut x = Session::at(NOW);
    let s = &t.store;
    type Change<'a> = &'a mut dyn FnMut() -> Option<&'static str>;
    let changes: [Change; 9] = [
        &mut || s.set(&mut x, b"k", 0, 0, b"1").map(|_| Some("1")).unwrap(),
        &mut || {
            s.append(&mut Session::at(NOW), b"k", b"2").map(|_| Some("12")).unwrap()
        },
        &mut || s.incr(&mut Session::at(NOW), b"k", 7).map(|_| Some("19")).unwrap(),
        &mut || s.touch(&mut Session::at(NOW), b"k", 50).map(|_| Some("19")).unwrap(),
        &mut || s.compact(&|| NOW).map(|_| Some("19")).unwrap(),
        &mut || s.delete(&mut Session::at(NOW), b"k").map(|_| None).unwrap(),
        &mut || {
            s.add(&mut Session::at(NOW), b"k", 0, 0, b"x").map(|_| Some("x")).unwrap()
        },
        &mut || s.compact(&|| NOW).map(|_| Some("x")).unwrap(),
        &mut || s.flush_all(&mut Session::at(NOW), 0).map(|_| None).unwrap(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let expected = change();
        for _ in 0..2 {
            let item = s.get(&mut reader, b"k").unwrap();
            let seen = item.map(|item| item.value.to_vec());
            assert_eq!(seen, expected.map(Vec::from), "after change {number}");
        }
    }
}

#[test]
fn as_long_as_an_item_is_kept_nobody_sees_damage_and_what_is_damaged_is_not_kept() {
    // F1
    let mut t = Fixture::short();
    t.put(b"k", b"value");
    t.restart_at(NOW);
    let (path, good) = (t.directory.path().join(FIRST), t.file());
    let mut bad = good.clone();
    bad[records(&good)[0].end - 1] ^= 1;
    let get = || t.store.get(&mut Session::at(NOW), b"k").map(|item| item.is_some());
    fs::write(&path, &bad).unwrap();
    for _ in 0..2 {
        assert_eq!(get(), Err(damaged(HEADER_LEN)));
    }
    fs::write(&path, good).unwrap();
    assert_eq!(get(), Ok(true));
    fs::write(&path, bad).unwrap();
    assert_eq!(t.value(b"k", NOW), text("value"));
}

#[test]
fn the_file_has_preallocated_space_where_each_reply_waits_for_a_sync() {
    for sync in [SyncMode::Always, SyncMode::EverySecond] {
        let mut t = Fixture::new(Options { sync, ..short(16) });
        t.put(b"a", b"1");
        let space = if sync == SyncMode::Always { 256 << 10 } else { 0 };
        let written = 40 + 54;
        assert_eq!(t.file().len(), written + space);
        t.disk.forget();
        t.put(b"a", b"2");
        // Preallocated once in a while, and not each time.
        assert_eq!(t.disk.count(Call::Truncate), 0);
        t.restart_at(NOW);
        assert_eq!(t.file().len(), written + 54);
        assert_eq!(t.value(b"a", NOW), text("2"));
        // Without it, a write makes the file longer, as if nothing had been asked.
        t.disk.fail(&[Call::Truncate], 0, How::Always);
        t.put(b"a", b"3");
        t.put(b"a", b"4");
        assert_eq!(t.file().len(), written + 3 * 54);
        t.disk.heal();
        t.put(b"a", b"5");
        assert_eq!(t.file().len(), written + 4 * 54 + space);
        t.restart_at(NOW);
        assert_eq!(t.value(b"a", NOW), text("5"));
    }
}

#[test]
fn a_file_that_was_cut_under_a_running_store_is_damage() {
    let mut t = Fixture::short();
    t.put(b"k", b"v");
    t.restart_at(NOW);
    let path = t.directory.path().join(FIRST);
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(50).unwrap();
    let answer = t.store.get(&mut Session::at(NOW), b"k").err().unwrap().to_string();
    assert!(answer.contains("0000000001.kv at offset 40: "), "{answer}");
}

#[test]
fn a_read_error_is_answered_and_passes() {
    let mut t = Fixture::short();
    t.put(b"k", b"v");
    t.restart_at(NOW);
    t.disk.fail(&[Call::Read], 0, How::Once);
    let answer = t.store.get(&mut Session::at(NOW), b"k").err();
    assert!(matches!(answer, Some(Error::Read(_))), "{answer:?}");
    assert_eq!(t.value(b"k", NOW), text("v"));
}

type Write = fn(&Store, &mut Session, &[u8]) -> Result<()>;

/// Every command that writes, given a key that is there.
const WRITES: [Write; 10] = [
    |s, x, key| s.set(x, key, 0, 0, b"x").map(drop),
    |s, x, _| s.add(x, b"new", 0, 0, b"x").map(drop),
    |s, x, key| s.replace(x, key, 0, 0, b"x").map(drop),
    |s, x, key| s.append(x, key, b"x").map(drop),
    |s, x, key| s.prepend(x, key, b"x").map(drop),
    |s, x, key| s.incr(x, key, 1).map(drop),
    |s, x, key| s.decr(x, key, 1).map(drop),
    |s, x, key| s.touch(x, key, -1).map(drop),
    |s, x, key| s.delete(x, key).map(drop),
    |s, x, _| s.flush_all(x, 0).map(drop),
];

#[test]
fn a_full_disk_fails_writes_serves_reads_and_loses_nothing() {
    // L3, S4
    for sync in [SyncMode::Always, SyncMode::EverySecond] {
        for how in [How::Always, How::Short] {
            let mut t = Fixture::new(Options { sync, ..short(16) });
            t.put(b"1", b"1");
            let safe = written(&t.file()).len();
            let mut session = Session::at(NOW);
            t.store.set(&mut session, b"waits", 0, 0, b"2").unwrap();
            // A disk that takes half takes nothing after that either.
            t.disk.fail(&[Call::Write], 0, how);
            let error = t.store.settle(&session).unwrap_err();
            assert!(matches!(error, Error::Write(_)), "{error:?}");
            assert!(!t.store.is_committed(session.depends_on));
            t.disk.fail(&[Call::Write], 0, How::Always);
            t.store.settle(&session).unwrap_err();
            t.store.maintain(&|| NOW).unwrap_err();
            let (end, items) =
                (t.store.figure("log_end"), t.store.figure("curr_items"));
            for write in WRITES {
                let mut x = Session::at(NOW);
                let error = write(&t.store, &mut x, b"1").unwrap_err();
                assert!(matches!(error, Error::Write(_)), "{error:?}");
                assert_eq!(t.store.figure("log_end"), end);
                assert_eq!(t.store.figure("curr_items"), items);
            }
            // What is safe is served, however long that lasts; an answer that shows what
            // is not can't be sent.
            for now in [NOW, NOW + 2, NOW + 100] {
                let mut x = Session::at(now);
                let item = t.store.get(&mut x, b"1").unwrap();
                assert_eq!(item.map(|item| item.value), Some(&b"1"[..]));
                assert!(t.store.is_committed(x.depends_on));
                t.store.settle(&x).unwrap();
            }
            assert_eq!(t.value(b"waits", NOW), text("2"));
            assert!(!t.store.is_committed(t.depends_on(b"waits", NOW)));
            t.disk.heal();
            t.disk.forget();
            match how {
                How::Always => t.store.maintain(&|| NOW).unwrap(),
                _ => drop(t.put(b"next", b"3")),
            }
            let first_write = t.disk.done().into_iter().find(|d| d.call == Call::Write);
            let (offset, len) = (safe as u64, 35 + 16 + 2 + 1);
            let first_write = first_write.map(|done| (done.offset, done.len));
            assert_eq!(first_write, Some((offset, len)));
            assert!(t.store.is_committed(session.depends_on));
            t.put(b"last", b"4");
            t.restart_at(NOW);
            assert_eq!(t.value(b"1", NOW), text("1"));
            assert_eq!(t.value(b"waits", NOW), text("2"));
            assert_eq!(t.value(b"last", NOW), text("4"));
        }
    }
}

#[test]
fn a_flush_that_falls_due_on_a_full_disk_hides_what_it_removes() {
    // S5: where its own record can't be written, nothing is looked at.
    let due = NOW + 10;
    let keys: [&[u8]; 5] = [b"1", b"other", b"waits", b"new", b"never"];
    for sync in [SyncMode::Always, SyncMode::EverySecond] {
        let mut t = Fixture::new(Options { sync, ..short(16) });
        t.put(b"1", b"1");
        t.put(b"other", b"1");
        let mut session = Session::at(NOW);
        t.store.flush_all(&mut session, 10).unwrap();
        t.store.settle(&session).unwrap();
        // A write has met the full disk.
        t.store.set(&mut session, b"waits", 0, 0, b"v").unwrap();
        t.disk.fail(&[Call::Write], 0, How::Always);
        t.store.settle(&session).unwrap_err();
        assert_eq!(t.value(b"1", due - 1), text("1"));
        let end = t.store.figure("log_end");
        for _ in 0..2 {
            for key in keys {
                let mut x = Session::at(due);
                let found = t.store.get(&mut x, key);
                assert!(matches!(found, Err(Error::Write(_))), "{found:?}");
            }
            for write in WRITES {
                let error = write(&t.store, &mut Session::at(due), b"1").unwrap_err();
                assert!(matches!(error, Error::Write(_)), "{error:?}");
            }
            let mut x = Session::at(due);
            let touched = t.store.get_and_touch(&mut x, b"1", 5);
            assert!(matches!(touched, Err(Error::Write(_))), "{touched:?}");
            t.store.maintain(&|| due).unwrap_err();
            assert_eq!(t.store.figure("log_end"), end);
        }
        // A process that starts on what is there then, while the disk is still full.
        t.restart_at(due);
        t.disk.fail(&[Call::Write], 0, How::Always);
        for _ in 0..2 {
            for key in keys {
                let mut x = Session::at(due);
                let found = t.store.get(&mut x, key).map(|item| item.is_some());
                assert_ne!(
                    found.and_then(|it| t.store.settle(&x).map(|()| it)),
                    Ok(true)
                );
            }
            t.store.maintain(&|| due).unwrap_err();
        }
        t.disk.heal();
        t.store.maintain(&|| due).unwrap();
        assert_eq!(contents(&t.store, &keys, due).len(), 0);
        session = Session::at(due);
        t.store.set(&mut session, b"new", 0, 0, b"v").unwrap();
        t.store.settle(&session).unwrap();
        for _ in 0..2 {
            // It has come once, and does not come again.
            let there = contents(&t.store, &keys, due + 1000);
            assert_eq!(there.keys().collect::<Vec<_>>(), [b"new"]);
            t.restart_at(due + 1000);
        }
    }
}

#[test]
fn a_flush_that_fell_due_on_a_full_disk_comes_when_there_is_space() {
    // S5: in the same process.
    let mut t = Fixture::short();
    t.put(b"1", b"1");
    let mut session = Session::at(NOW);
    t.store.flush_all(&mut session, 10).unwrap();
    t.store.settle(&session).unwrap();
    t.store.set(&mut session, b"waits", 0, 0, b"v").unwrap();
    t.disk.fail(&[Call::Write], 0, How::Always);
    t.store.settle(&session).unwrap_err();
    t.store.get(&mut Session::at(NOW + 10), b"1").unwrap_err();
    t.disk.heal();
    session.now = NOW + 10;
    t.store.set(&mut session, b"new", 0, 0, b"v").unwrap();
    t.store.settle(&session).unwrap();
    for _ in 0..2 {
        let there = contents(&t.store, &[b"1", b"waits", b"new"], NOW + 10);
        assert_eq!(there.keys().collect::<Vec<_>>(), [b"new"]);
        t.restart_at(NOW + 10);
    }
}

#[test]
fn a_process_that_ends_on_a_full_disk_loses_nothing_that_was_acknowledged() {
    // L3: what it could not write was never acknowledged.
    let mut t = Fixture::short();
    t.put(b"1", b"1");
    let mut session = Session::at(NOW);
    t.store.set(&mut session, b"1", 0, 0, b"2").unwrap();
    t.disk.fail(&[Call::Write], 0, How::Short);
    t.store.settle(&session).unwrap_err();
    // The half that was written is a torn end.
    t.restart_at(NOW);
    assert_eq!(t.value(b"1", NOW), text("1"));
}

#[test]
fn a_tail_that_cannot_be_written_does_not_grow() {
    // S4: the write that finds the tail full fails, and has changed nothing.
    let mut t = Fixture::short();
    t.disk.fail(&[Call::Write], 0, How::Always);
    let mut session = Session::at(NOW);
    let mut stored = 0u8;
    let error = loop {
        let value = vec![stored; 60_000];
        match t.store.set(&mut session, &[stored], 0, 0, &value) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Write(_)), "{error:?}");
    assert!((15..20).contains(&stored), "{stored}");
    assert_eq!(t.value(&[stored], NOW), None);
    t.disk.heal();
    t.put(b"next", b"v");
    t.restart_at(NOW);
    for key in 0..stored {
        assert_eq!(t.value(&[key], NOW), Some(vec![key; 60_000]));
    }
    assert_eq!(t.value(&[stored], NOW), None);
}

#[test]
fn a_failed_sync_is_final() {
    // L4
    for sync in [SyncMode::Always, SyncMode::EverySecond] {
        let mut t = Fixture::new(Options { sync, ..short(16) });
        t.put(b"1", b"1");
        t.store.maintain(&|| NOW).unwrap();
        let mut session = Session::at(NOW);
        t.store.set(&mut session, b"2", 0, 0, b"2").unwrap();
        // In `every-second`, maintenance is what syncs.
        if sync == SyncMode::EverySecond {
            t.store.settle(&session).unwrap();
        }
        t.disk.fail(&[Call::Sync], 0, How::Once);
        let error = match sync {
            SyncMode::Always => t.store.settle(&session).unwrap_err(),
            SyncMode::EverySecond => t.store.maintain(&|| NOW).unwrap_err(),
        };
        assert!(matches!(error, Error::Sync(_)), "{error:?}");
        t.disk.heal();
        t.disk.forget();
        let before = files(t.directory.path());
        for now in [NOW, NOW + 1, NOW + 100] {
            for write in WRITES {
                let error = write(&t.store, &mut Session::at(now), b"1").unwrap_err();
                assert!(matches!(error, Error::Sync(_)), "{error:?}");
            }
            t.store.maintain(&|| now).unwrap_err();
            t.store.compact(&|| now).unwrap_err();
            // What was safe is served, and in `every-second` what is written.
            assert_eq!(t.value(b"1", now), text("1"));
            assert!(t.store.is_committed(t.depends_on(b"1", now)));
            let mut reader = Session::at(now);
            assert!(t.store.get(&mut reader, b"2").unwrap().is_some());
            let told = t.store.settle(&reader);
            assert_eq!(told.is_ok(), sync == SyncMode::EverySecond, "{told:?}");
        }
        assert_eq!((t.disk.count(Call::Sync), t.disk.count(Call::Write)), (0, 0));
        assert_eq!(files(t.directory.path()), before);
        // At the next start, the bytes are written again before anybody trusts them.
        t.restart_at(NOW);
        assert_eq!(t.value(b"2", NOW), text("2"));
        t.put(b"3", b"3");
        t.store.maintain(&|| NOW).unwrap();
        let left = TempDir::new();
        t.disk.power_cut(left.path(), 0);
        let (store, _) = Faulty::new(left.path()).open(&t.options, NOW).unwrap();
        assert_eq!(contents(&store, &[b"1", b"2", b"3"], NOW).len(), 3);
    }
}

#[test]
fn what_was_appended_when_a_sync_failed_is_never_written() {
    // L4
    for sync in [SyncMode::Always, SyncMode::EverySecond] {
        let mut t = Fixture::new(Options { sync, ..short(16) });
        let mut session = Session::at(NOW);
        t.store.set(&mut session, b"early", 0, 0, b"v").unwrap();
        t.disk.fail(&[Call::Sync], 0, How::Once);
        let hold = t.disk.hold(Call::Sync);
        thread::scope(|scope| {
            scope.spawn(|| t.store.maintain(&|| NOW).unwrap_err());
            hold.wait_for(1);
            t.store.set(&mut session, b"late", 0, 0, b"v").unwrap();
            drop(hold);
        });
        let before = t.file();
        let told = t.store.settle(&session);
        assert!(matches!(told, Err(Error::Sync(_))), "{told:?}");
        assert_eq!(t.file(), before);
        t.restart_at(NOW);
        assert_eq!(t.value(b"late", NOW), None);
    }
}

#[test]
fn every_session_that_waited_for_a_failed_sync_is_told() {
    // L4
    let t = Fixture::short();
    let mut first = Session::at(NOW);
    t.store.set(&mut first, b"first", 0, 0, b"v").unwrap();
    t.disk.fail(&[Call::Sync], 0, How::Once);
    let hold = t.disk.hold(Call::Sync);
    let told_well = AtomicBool::new(false);
    let written = Barrier::new(5);
    thread::scope(|scope| {
        scope.spawn(|| t.store.commit(first.depends_on, NOW).unwrap_err());
        hold.wait_for(1);
        for i in 0..4u8 {
            let (t, told_well, written) = (&t, &told_well, &written);
            scope.spawn(move || {
                let mut session = Session::at(NOW);
                t.store.set(&mut session, &[i], 0, 0, b"v").unwrap();
                written.wait();
                if t.store.settle(&session).is_ok() {
                    told_well.store(true, Ordering::Relaxed);
                }
            });
        }
        written.wait();
        drop(hold);
    });
    assert!(!told_well.into_inner());
}

#[test]
fn the_real_disk_keeps_what_was_committed() {
    // All else here runs on a disk that leaves out the syncs.
    let directory = TempDir::new();
    let open = |path: &Path| {
        Store::on_disk(Arc::new(Directory::at(path).unwrap()), &short(16), NOW).unwrap()
    };
    for round in 0..3u8 {
        let (store, torn) = open(directory.path());
        assert_eq!(torn, None);
        for earlier in 0..round {
            assert_eq!(value(&store, &[earlier], NOW), Some(vec![earlier; 1000]));
        }
        let mut session = Session::at(NOW);
        store.set(&mut session, &[round], 0, 0, &[round; 1000]).unwrap();
        store.settle(&session).unwrap();
        if round == 1 {
            store.compact(&|| NOW).unwrap();
        }
    }
    assert_eq!(files(directory.path()).len(), 1);
}

#[test]
fn what_was_written_is_synced_also_while_the_disk_takes_no_more() {
    // In every-second this is all that stands between a reply and a power cut.
    let sync = SyncMode::EverySecond;
    let t = Fixture::new(Options { sync, ..short(16) });
    t.put(b"k", b"acknowledged");
    let end = t.store.figure("log_end");
    t.disk.fail(&[Call::Write], 0, How::Always);
    let mut session = Session::at(NOW);
    t.store.set(&mut session, b"more", 0, 0, b"v").unwrap();
    t.store.settle(&session).unwrap_err();
    t.store.maintain(&|| NOW).unwrap_err();
    assert_eq!(t.store.figure("log_synced"), end);
}

#[test]
fn what_has_become_too_large_can_be_touched_and_not_appended_to() {
    let mut t = Fixture::every_second();
    let mut session = Session::at(NOW);
    t.store.set(&mut session, b"k", 0, 0, &[b'v'; 100]).unwrap();
    t.store.settle(&session).unwrap();
    t.options.max_item_size = 50;
    t.restart_at(NOW);
    let mut session = Session::at(NOW);
    assert_eq!(t.store.touch(&mut session, b"k", 90), Ok(Answer::Touched));
    let append = t.store.append(&mut session, b"k", b"v");
    assert_eq!(append, Ok(Answer::NotStored));
}

#[test]
fn an_access_of_hours_ago_is_still_known_as_such() {
    let t = Fixture::every_second();
    t.store.set(&mut Session::at(NOW), b"k", 0, 0, b"v").unwrap();
    let shown = |now| {
        let mut session = Session::at(now);
        let record = t.store.get(&mut session, b"k").unwrap().unwrap();
        (record.was_read, record.idle)
    };
    assert_eq!(shown(NOW + 7), (false, 7));
    // Each shard has its turn in time.
    (0..400).for_each(|i| t.store.maintain(&|| NOW + 7 + 50 * i).unwrap());
    let (was_read, idle) = shown(NOW + 20_007);
    assert!(was_read && idle.abs_diff(20_000) <= 3600, "{idle}");
}

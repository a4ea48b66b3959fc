//! Eviction: what goes when there is more than the limit, what stays, and that a crash
//! brings back nothing that a client was told is not there.

mod common;

use common::TempDir;
use common::disk::{Call, Faulty, How, files, put_files, short, value};
use common::verbs::Verbs;
use memcached_lite::driver::random::Random;
use memcached_lite::store::{Options, Session, Store, SyncMode};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;

const NOW: u64 = 1_000_000_000;

/// A record of these logs: 35 bytes, KEY_SIZE, INT_SIZE, and a value of 55.
const RECORD: u64 = 35 + 8 + 2 + 55;

/// So many items fit, and nine tenths of them stay.
const FIT: u64 = 20;

fn options() -> Options {
    Options { data_limit: FIT * RECORD, ..short(8) }
}

struct Fixture {
    directory: TempDir,
    disk: Faulty,
    store: Store,
}

impl Fixture {
    fn new(options: &Options) -> Fixture {
        Fixture::of(options, &BTreeMap::new())
    }

    fn of(options: &Options, files: &BTreeMap<String, Vec<u8>>) -> Fixture {
        let directory = TempDir::new();
        put_files(directory.path(), files);
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(options, NOW).unwrap();
        Fixture { directory, disk, store }
    }

    /// Stores the items of these numbers, each at the second of its number.
    fn put(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let mut session = Session::at(NOW + number);
            self.store.set(&mut session, &key(number), 7, 0, &[b'v'; 55]).unwrap();
            self.store.settle(&session).unwrap();
        }
    }

    /// Gets the items of these numbers, at this second.
    fn read(&self, second: u64, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let found = value(&self.store, &key(number), NOW + second);
            assert!(found.is_some(), "{number}");
        }
    }

    fn maintain(&self, second: u64) {
        self.store.maintain(&|| NOW + second).unwrap();
    }

    /// The numbers below `end` of the items that are there.
    fn present(&self, end: u64) -> Vec<u64> {
        let mut session = Session::at(NOW);
        let is_there =
            |number: &u64| self.store.peek(&mut session, &key(*number)).is_some();
        (0..end).filter(is_there).collect()
    }

    fn evictions(&self) -> u64 {
        self.store.figure("evictions")
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("k{number:03}").into_bytes()
}

#[test]
fn without_a_limit_nothing_is_evicted() {
    let t = Fixture::new(&short(8));
    t.put(0..1000);
    t.maintain(1000);
    assert_eq!((t.evictions(), t.store.figure("curr_items")), (0, 1000));
}

#[test]
fn over_the_limit_items_go_until_nine_tenths_are_left_the_oldest_first() {
    let t = Fixture::new(&options());
    t.put(0..FIT);
    t.maintain(FIT);
    assert_eq!(t.evictions(), 0, "all that fits stays");
    t.put([FIT]);
    t.maintain(FIT);
    assert_eq!(t.present(100), Vec::from_iter(3..=FIT));
    assert_eq!((t.evictions(), t.store.figure("curr_items")), (3, FIT - 2));
    assert_eq!(t.store.figure("bytes"), options().data_limit / 10 * 9);
    t.store.reset_counts();
    assert_eq!(t.evictions(), 0);
}

#[test]
fn what_was_read_goes_last_and_what_was_read_longest_ago_is_the_first_of_it() {
    let t = Fixture::new(&options());
    t.put(0..FIT);
    t.read(30, [4]);
    t.read(31, [0, 2]);
    t.put([20]);
    t.maintain(40);
    // 1, 3 and 5 were not read, and are the oldest of those.
    assert_eq!(t.present(100), [[0, 2, 4].into(), Vec::from_iter(6..=20)].concat());
    // Of all others, each is read after those three.
    t.read(41, 6..=20);
    t.put(21..24);
    t.read(42, 21..24);
    t.maintain(43);
    assert_eq!(t.present(100), Vec::from_iter(6..24));
    // What was overwritten was not read.
    t.put([23]);
    t.put(24..27);
    t.read(44, 24..27);
    t.maintain(45);
    assert!(!t.present(100).contains(&23));
}

#[test]
fn what_was_never_read_goes_before_what_was_read_earlier() {
    let t = Fixture::new(&options());
    t.put(0..4);
    t.read(4, 0..4);
    t.put(5..=FIT + 1);
    t.maintain(FIT + 1);
    assert_eq!(t.present(100), [vec![0, 1, 2, 3], Vec::from_iter(8..=21)].concat());
}

#[test]
fn a_look_that_is_no_access_keeps_nothing() {
    let t = Fixture::new(&options());
    t.put(0..=FIT);
    assert_eq!(t.present(100).len(), 21);
    t.maintain(FIT);
    assert_eq!(t.present(100), Vec::from_iter(3..=FIT));
}

#[test]
fn a_compaction_forgets_no_access() {
    let t = Fixture::new(&options());
    t.put(0..FIT);
    t.read(FIT, [0, 1]);
    t.store.compact(&|| NOW + FIT).unwrap();
    t.put([20]);
    t.maintain(FIT);
    assert_eq!(t.present(100), [[0, 1].into(), Vec::from_iter(5..=20)].concat());
}

#[test]
fn what_has_expired_needs_no_room() {
    let t = Fixture::new(&options());
    let mut session = Session::at(NOW);
    t.put(0..10);
    for number in 10..30 {
        t.store.set(&mut session, &key(number), 0, 1, &[b'v'; 55]).unwrap();
    }
    t.maintain(10);
    assert_eq!((t.evictions(), t.store.figure("bytes")), (0, 10 * RECORD));
}

#[test]
fn the_limit_can_be_changed_and_lifted() {
    let t = Fixture::new(&short(8));
    t.put(0..100);
    t.store.data_limit.store(50 * RECORD, Relaxed);
    t.store.compact_if_due(&|| NOW + 100).unwrap();
    assert_eq!(t.present(100), Vec::from_iter(55..100));
    assert_eq!(t.store.figure("limit_maxbytes"), 50 * RECORD);
    t.store.data_limit.store(0, Relaxed);
    t.put(100..200);
    t.maintain(200);
    assert_eq!(t.store.figure("curr_items"), 145);
}

#[test]
fn a_miss_depends_on_the_eviction() {
    // C7, S3
    let t = Fixture::new(&options());
    t.put(0..=FIT);
    t.maintain(FIT);
    let mut session = Session::at(NOW + FIT);
    assert_eq!(t.store.get(&mut session, &key(0)), Ok(None));
    assert!(!t.store.is_committed(session.depends_on));
    let after_power_cut = || {
        let left = TempDir::new();
        t.disk.power_cut(left.path(), 0);
        let (store, _) = Faulty::new(left.path()).open(&options(), NOW).unwrap();
        value(&store, &key(0), NOW)
    };
    assert!(after_power_cut().is_some(), "nobody was told otherwise");
    t.store.settle(&session).unwrap();
    assert_eq!(after_power_cut(), None);
}

/// Keys of one owner, and what each may have: what was committed last, or what was tried
/// after that. Anything may be evicted.
type Owned = Vec<(Vec<u8>, Vec<Option<Vec<u8>>>)>;

/// Sets, deletes and reads until `done` or the first error. What is found is what was
/// there last, or nothing; and what was deleted or replaced does not come back.
fn work(store: &Store, owner: u64, owned: &mut Owned, done: &AtomicBool) {
    let mut random = Random::new(owner + 1);
    let mut session = Session::at(NOW);
    for round in 0..4000 {
        let (key, states) = &mut owned[random.below(10)];
        let step = (|| {
            let found = store.get(&mut session, key)?.map(|item| item.value.to_vec());
            assert!(found.is_none() || states[..] == [found.clone()], "{key:?}");
            store.settle(&session)?;
            *states = vec![found];
            match random.below(4) {
                0 => {
                    store.delete(&mut session, key)?;
                    states.push(None);
                }
                1..3 => {
                    let value = format!("{round:055}").into_bytes();
                    store.set(&mut session, key, 0, 0, &value)?;
                    states.push(Some(value));
                }
                _ => return Ok(()),
            }
            store.settle(&session)?;
            states.drain(..states.len() - 1);
            Ok::<(), memcached_lite::store::Error>(())
        })();
        if step.is_err() || done.load(SeqCst) {
            return;
        }
    }
}

fn check(store: &Store, owned: &Owned) {
    for (key, states) in owned {
        let found = value(store, key, NOW);
        assert!(found.is_none() || states.contains(&found), "{key:?} is {found:?}");
    }
}

#[test]
fn an_eviction_under_load_can_stop_at_any_call() {
    // C7, C1
    let full = Fixture::new(&short(8));
    full.put(100..100 + 2 * FIT);
    let full = files(full.directory.path());
    let mut not_stopped = 0;
    for calls in 0.. {
        let mut t = Fixture::of(&options(), &full);
        t.read(0, (100..100 + 2 * FIT).step_by(3));
        let done = AtomicBool::new(false);
        let mut owners: Vec<Owned> = (0..3)
            .map(|owner| (0..10).map(|n| (key(owner * 10 + n), vec![None])).collect())
            .collect();
        let evicted = thread::scope(|scope| {
            for (owner, owned) in (0..).zip(&mut owners) {
                let (store, done) = (&t.store, &done);
                scope.spawn(move || work(store, owner, owned, done));
            }
            t.disk.fail_here(Call::ALL, calls, How::Stop);
            let evicted = (0..3).try_for_each(|_| {
                t.store.maintain(&|| NOW)?;
                t.store.compact(&|| NOW)
            });
            done.store(true, SeqCst);
            evicted
        });
        let has_stopped = t.disk.has_stopped();
        assert_eq!(evicted.is_err(), has_stopped, "{evicted:?}");
        let left = TempDir::new();
        t.disk.power_cut(left.path(), calls as u64);
        let (store, _) = Faulty::new(left.path()).open(&options(), NOW).unwrap();
        owners.iter().for_each(|owned| check(&store, owned));
        // And without a power cut.
        t.disk.heal();
        t.store = t.disk.open(&options(), NOW).unwrap().0;
        for _ in 0..2 {
            owners.iter().for_each(|owned| check(&t.store, owned));
            t.maintain(0);
        }
        assert!(t.store.figure("bytes") <= options().data_limit);
        not_stopped += usize::from(!has_stopped);
        if not_stopped == 3 {
            assert!(calls > 30, "three evictions make more than {calls} calls");
            return;
        }
    }
}

#[test]
fn evictions_and_compactions_beside_clients_lose_nothing() {
    for sync in [SyncMode::Always, SyncMode::EverySecond] {
        const KEYS: u64 = 2000;
        let options = Options { sync, data_limit: 200 * RECORD, ..short(8) };
        let mut t = Fixture::new(&options);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for compacts in [false, true] {
                let (store, done) = (&t.store, &done);
                scope.spawn(move || {
                    while !done.load(SeqCst) {
                        match compacts {
                            true => store.compact(&|| NOW).unwrap(),
                            false => store.compact_if_due(&|| NOW).unwrap(),
                        }
                    }
                });
            }
            let mut session = Session::at(NOW);
            for number in 0..KEYS {
                t.put([number]);
                let read = key(number - number % 3);
                assert!(t.store.get(&mut session, &read).is_ok());
            }
            done.store(true, SeqCst);
        });
        // What was evicted last is synced by the next one.
        (0..2).for_each(|_| t.maintain(KEYS));
        assert!(t.store.figure("bytes") <= options.data_limit);
        let items = t.store.figure("curr_items");
        assert_eq!(items + t.evictions(), KEYS);
        let present = t.present(KEYS);
        assert_eq!(present.len() as u64, items);
        t.store = t.disk.open(&options, NOW).unwrap().0;
        assert_eq!(t.present(KEYS), present);
    }
}

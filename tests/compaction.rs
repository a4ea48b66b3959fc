//! Compaction under clients that do not wait for it, and stopped wherever it can be.
//!
//! Most of these tests cut the process or the power off at each call to the disk in
//! turn, so that no step of a compaction is left out. A clock that the tests hold
//! says what has expired.

mod common;

use common::TempDir;
use common::disk::{
    Call, Faulty, How, contents, files, put_files, records, short, value, written,
};
use common::verbs::Verbs;
use memcached_lite::driver::random::Random;
use memcached_lite::store::record::{HEADER_LEN, Header, Kind};
use memcached_lite::store::{
    Answer, Error, Options, Session, Settings, Store, SyncMode,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

const NOW: u64 = 1_000_000_000;
const FIRST: &str = "0000000001.kv";
const SECOND: &str = "0000000002.kv";

/// A record of these logs without its value: 35 bytes, KEY_SIZE and INT_SIZE.
const OVERHEAD: usize = 35 + 8 + 2;

fn options() -> Options {
    short(8)
}

/// Compaction begins when the log is longer than twice its live records and this.
const SLACK: u64 = 64 << 20;

/// A store for values so large that few of them make compaction due.
fn large() -> Fixture {
    let directory = TempDir::new();
    let disk = Faulty::new(directory.path());
    let settings = Settings { int_size: Some(4), ..options().settings };
    // No preallocated space, and no sync, after each value.
    let options = Options { settings, sync: SyncMode::EverySecond, ..options() };
    let (store, _) = disk.open(&options, NOW).unwrap();
    Fixture { directory, disk, store }
}

/// What is answered where the record at this offset of the first file is damaged.
fn damaged(offset: usize) -> Error {
    Error::Read(format!("the record in {FIRST} at offset {offset} is damaged"))
}

/// A store in a directory of its own, on a disk that does not fail yet.
struct Fixture {
    directory: TempDir,
    disk: Faulty,
    store: Store,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::of(&BTreeMap::new())
    }

    fn of(files: &BTreeMap<String, Vec<u8>>) -> Fixture {
        let directory = TempDir::new();
        put_files(directory.path(), files);
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(&options(), NOW).unwrap();
        Fixture { directory, disk, store }
    }

    /// Ends the process as `kill -9` does and starts another.
    fn restart_at(&mut self, now: u64) {
        self.disk.heal();
        let (store, torn) = self.disk.open(&options(), now).unwrap();
        assert_eq!(torn, None);
        self.store = store;
    }

    fn put(&self, key: &str, value: &[u8]) {
        let mut session = Session::at(NOW);
        self.store.set(&mut session, key.as_bytes(), 0, 0, value).unwrap();
        self.store.settle(&session).unwrap();
    }

    fn value(&self, key: &str) -> Option<Vec<u8>> {
        value(&self.store, key.as_bytes(), NOW)
    }

    fn compact(&self) -> Result<(), Error> {
        self.store.compact(&|| NOW)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    fn len_on_disk(&self) -> u64 {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}

/// What a power cut now would leave, opened.
fn after_power_cut(disk: &Faulty, seed: u64) -> (TempDir, Store) {
    let left = TempDir::new();
    disk.power_cut(left.path(), seed);
    let (store, _) = Faulty::new(left.path()).open(&options(), NOW).unwrap();
    (left, store)
}

const SORTS: [&[u8]; 9] = [
    b"plain", b"empty", b"flags", b"lives", b"touched", b"new", b"dead", b"brief", b"n",
];

/// Writes some live records and at least as much garbage; returns their lengths.
fn write_all_sorts(t: &Fixture) -> usize {
    let mut x = Session::at(NOW);
    let s = &t.store;
    s.set(&mut x, b"lost", 0, 0, b"flushed").unwrap();
    s.flush_all(&mut x, 0).unwrap();
    s.set(&mut x, b"plain", 0, 0, b"value").unwrap();
    s.set(&mut x, b"empty", 0, 0, b"").unwrap();
    s.set(&mut x, b"flags", u32::MAX, 0, b"flags").unwrap();
    s.set(&mut x, b"lives", 0, 1000, b"for a while").unwrap();
    s.set(&mut x, b"touched", 0, 0, b"touched").unwrap();
    s.touch(&mut x, b"touched", 500).unwrap();
    s.set(&mut x, b"new", 0, 0, b"old").unwrap();
    s.set(&mut x, b"new", 3, 0, b"new").unwrap();
    s.set(&mut x, b"dead", 0, 0, b"deleted").unwrap();
    s.delete(&mut x, b"dead").unwrap();
    s.set(&mut x, b"brief", 0, 10, b"expires").unwrap();
    s.set(&mut x, b"n", 0, 0, b"1").unwrap();
    s.incr(&mut x, b"n", 41).unwrap();
    s.settle(&x).unwrap();
    7 * OVERHEAD + "valueflagsfor a whiletouchednew42".len()
}

#[test]
fn compaction_keeps_what_is_live_and_nothing_else() {
    let mut t = Fixture::new();
    let live = write_all_sorts(&t);
    let before = contents(&t.store, &SORTS, NOW + 10);
    assert_eq!(before.len(), 7);
    t.store.compact(&|| NOW + 10).unwrap();
    for _ in 0..2 {
        assert_eq!(contents(&t.store, &SORTS, NOW + 10), before);
        assert_eq!(contents(&t.store, &SORTS, NOW + 500).len(), 6);
        assert_eq!(contents(&t.store, &SORTS, NOW + 1000).len(), 5);
        t.restart_at(NOW + 10);
    }
    assert_eq!(t.names(), [SECOND]);
    let bytes = &files(t.directory.path())[SECOND];
    // C3: and the record that says that no older file is needed.
    assert_eq!(bytes.len(), HEADER_LEN + live + OVERHEAD);
    let records = records(bytes);
    assert_eq!(records.len(), before.len() + 1);
    assert_eq!(records.last().unwrap().kind, Kind::Complete);
    assert_eq!(t.store.figure("bytes"), live as u64);
}

#[test]
fn the_figures_tell_of_the_last_compaction() {
    let t = Fixture::new();
    let figures = || {
        ["compactions", "compaction_last_seconds", "compaction_last_bytes"]
            .map(|name| t.store.figure(name))
    };
    assert_eq!(figures(), [0, 0, 0]);
    for count in 1..3 {
        t.put("k", b"value");
        let now = Cell::new(NOW);
        t.store.compact(&|| now.replace(now.get() + count)).unwrap();
        // The clock is read when the walk begins, and after its end.
        assert_eq!(figures(), [count, 2 * count, t.store.figure("bytes")]);
    }
}

#[test]
fn a_pending_flush_moves_to_the_new_generation() {
    for compactions in [1, 2, 3] {
        for restarts in [false, true] {
            let mut t = Fixture::new();
            let mut session = Session::at(NOW);
            t.store.flush_all(&mut session, 50).unwrap();
            t.store.settle(&session).unwrap();
            t.put("k", b"v");
            for _ in 0..compactions {
                t.compact().unwrap();
            }
            if restarts {
                t.restart_at(NOW + 20);
            }
            assert_eq!(value(&t.store, b"k", NOW + 49), Some(b"v".into()));
            assert_eq!(value(&t.store, b"k", NOW + 50), None);
        }
    }
}

#[test]
fn a_flush_that_has_come_is_not_moved() {
    let mut t = Fixture::new();
    let mut session = Session::at(NOW);
    t.put("before", b"v");
    t.store.flush_all(&mut session, 50).unwrap();
    session.now = NOW + 50;
    t.store.set(&mut session, b"after", 0, 0, b"v").unwrap();
    t.store.settle(&session).unwrap();
    t.store.compact(&|| NOW + 50).unwrap();
    t.restart_at(NOW + 60);
    assert_eq!(value(&t.store, b"after", NOW + 60), Some(b"v".into()));
    let kinds = records(&files(t.directory.path())[SECOND]).into_iter();
    assert_eq!(
        kinds.map(|found| found.kind).collect::<Vec<_>>(),
        [Kind::Set, Kind::Complete]
    );
}

#[test]
fn at_rest_the_disk_holds_little_more_than_twice_what_is_live() {
    let t = large();
    let mut random = Random::new(1);
    let mut session = Session::at(NOW);
    let mut compactions = 0;
    for round in 0..8 {
        // First it grows, then most of it goes.
        for _ in 0..10 {
            let key = format!("k{}", random.below(if round < 4 { 6 } else { 2 }));
            let value = vec![b'v'; 1_000_000 + random.below(1_000_000)];
            t.store.set(&mut session, key.as_bytes(), 0, 0, &value).unwrap();
        }
        if round == 4 {
            t.store.flush_all(&mut session, 0).unwrap();
        }
        t.store.settle(&session).unwrap();
        let generation = t.names();
        t.store.maintain(&|| NOW).unwrap();
        compactions += usize::from(t.names() != generation);
        let length = t.store.figure("log_bytes");
        assert_eq!(t.len_on_disk(), length);
        let limit = SLACK + 2 * t.store.figure("bytes");
        assert!(length <= limit, "{length} after round {round}");
    }
    assert_eq!(compactions, 1);
}

#[test]
fn compaction_is_due_when_garbage_outweighs_what_is_live_by_its_slack() {
    let t = large();
    t.store.maintain(&|| NOW).unwrap();
    let mut session = Session::at(NOW);
    let value = vec![b'v'; 1 << 20];
    t.store.set(&mut session, b"live", 0, 0, &value).unwrap();
    t.store.maintain(&|| NOW).unwrap();
    let limit = SLACK + 2 * t.store.figure("bytes");
    // From the second file on, it counts from where that begins.
    for name in [FIRST, SECOND] {
        let mut is_due = false;
        while !is_due {
            assert_eq!(t.names(), [name], "nothing is done before it is due");
            t.store.set(&mut session, b"live", 0, 0, &value).unwrap();
            is_due = t.store.figure("log_bytes") > limit;
            t.store.maintain(&|| NOW).unwrap();
        }
        assert_ne!(t.names(), [name]);
    }
}

#[test]
fn a_compaction_that_failed_is_tried_again_by_the_next_maintenance() {
    let mut t = Fixture::new();
    t.put("k", b"v");
    t.disk.fail(&[Call::SyncDir], 0, How::Stop);
    t.compact().unwrap_err();
    t.restart_at(NOW);
    // The interrupted compaction is due at once, and tried again each time.
    t.disk.fail(&[Call::Remove], 1, How::Always);
    for _ in 0..3 {
        t.store.maintain(&|| NOW).unwrap_err();
    }
    t.disk.heal();
    t.store.maintain(&|| NOW).unwrap();
    assert_eq!(t.names(), [SECOND]);
}

/// Runs a compaction, and `meanwhile` when copies of all that is live have been
/// appended, and neither are synced nor has the index been pointed at them.
fn while_copies_wait_for_their_sync(t: &Fixture, meanwhile: impl FnOnce()) {
    t.store.maintain(&|| NOW).unwrap();
    // Those that come first are of the old file and of the new header.
    let hold = t.disk.hold_after(Call::Sync, 2);
    thread::scope(|scope| {
        let compaction = scope.spawn(|| t.compact());
        hold.wait_for(1);
        let figure = |name| t.store.figure(name);
        assert_eq!(figure("log_generations"), 2);
        assert!(figure("log_end") - figure("log_synced") >= figure("bytes"));
        meanwhile();
        drop(hold);
        compaction.join().unwrap().unwrap();
    });
    assert_eq!(t.names(), [SECOND]);
}

#[test]
fn what_is_written_during_a_walk_is_newer_than_any_copy() {
    // C1
    let mut t = Fixture::new();
    for key in ["same", "set", "delete", "touch", "add"] {
        t.put(key, b"1");
    }
    let mut x = Session::at(NOW);
    while_copies_wait_for_their_sync(&t, || {
        t.store.set(&mut x, b"set", 0, 0, b"2").unwrap();
        assert_eq!(t.store.delete(&mut x, b"delete"), Ok(Answer::Deleted));
        assert_eq!(t.store.touch(&mut x, b"touch", 10), Ok(Answer::Touched));
        assert_eq!(t.store.delete(&mut x, b"add"), Ok(Answer::Deleted));
        t.store.add(&mut x, b"add", 0, 0, b"2").unwrap();
    });
    t.store.settle(&x).unwrap();
    for _ in 0..2 {
        let values = ["same", "set", "delete", "touch", "add"].map(|key| t.value(key));
        let expected = [Some("1"), Some("2"), None, Some("1"), Some("2")];
        assert_eq!(values, expected.map(|value| value.map(Vec::from)));
        assert_eq!(value(&t.store, b"touch", NOW + 10), None);
        t.restart_at(NOW);
    }
}

#[test]
fn a_flush_during_a_walk_removes_copies_as_well() {
    // C1
    let mut t = Fixture::new();
    t.put("a", b"1");
    t.put("b", b"1");
    let mut x = Session::at(NOW);
    while_copies_wait_for_their_sync(&t, || {
        t.store.flush_all(&mut x, 0).unwrap();
        t.store.set(&mut x, b"b", 0, 0, b"2").unwrap();
    });
    t.store.settle(&x).unwrap();
    for _ in 0..2 {
        assert_eq!(t.value("a"), None);
        assert_eq!(t.value("b"), Some(b"2".into()));
        t.restart_at(NOW);
    }
}

#[test]
fn a_read_during_a_walk_does_not_wait_for_the_copies() {
    // C2
    let t = Fixture::new();
    t.put("k", b"v");
    while_copies_wait_for_their_sync(&t, || {
        let mut reader = Session::at(NOW);
        let item = t.store.get(&mut reader, b"k").unwrap();
        assert_eq!(item.map(|item| item.value), Some(&b"v"[..]));
        assert!(t.store.is_committed(reader.depends_on));
        t.store.settle(&reader).unwrap();
    });
}

#[test]
fn the_old_file_goes_only_when_the_new_one_is_safe() {
    // C3: whatever the power cut takes, at any call to the disk.
    for calls in 0.. {
        let t = Fixture::new();
        write_all_sorts(&t);
        let before = contents(&t.store, &SORTS, NOW);
        t.disk.fail_here(Call::ALL, calls, How::Stop);
        let compacted = t.compact();
        for seed in 0..6 {
            let (_left, store) = after_power_cut(&t.disk, seed);
            assert_eq!(contents(&store, &SORTS, NOW), before, "stopped at {calls}");
            // What the first one did not finish, the second one does.
            store.compact(&|| NOW).unwrap();
            assert_eq!(contents(&store, &SORTS, NOW), before, "stopped at {calls}");
            assert_eq!(store.figure("log_generations"), 1);
        }
        if !t.disk.has_stopped() {
            compacted.unwrap();
            assert!(calls > 8);
            return;
        }
        assert!(compacted.is_err());
    }
}

#[test]
fn the_old_file_is_safe_to_its_end_before_the_new_one_has_a_name() {
    // L2, C3: else a power cut would leave a gap between the two. The last record
    // comes when all that was there before it has been synced.
    let t = Fixture::new();
    let mut session = Session::at(NOW);
    t.store.set(&mut session, b"early", 0, 0, b"v").unwrap();
    t.disk.fail(&[Call::Remove], 1, How::Stop);
    let hold = t.disk.hold(Call::Sync);
    thread::scope(|scope| {
        let compaction = scope.spawn(|| t.compact());
        hold.wait_for(1);
        t.store.set(&mut session, b"late", 0, 0, b"v").unwrap();
        drop(hold);
        compaction.join().unwrap().unwrap_err();
    });
    let (_left, store) = after_power_cut(&t.disk, 0);
    assert_eq!(store.figure("log_generations"), 2);
    assert_eq!(contents(&store, &[b"early", b"late"], NOW).len(), 2);
}

#[test]
fn a_rotation_cuts_off_the_preallocated_space_of_the_old_file() {
    // Before the new file begins, at the position where the old one ends.
    let calls: [(&'static [Call], usize); 3] =
        [(&[Call::Open], 1), (&[Call::Rename], 0), (&[Call::Remove], 1)];
    for (calls, passing) in calls {
        let t = Fixture::new();
        write_all_sorts(&t);
        let before = contents(&t.store, &SORTS, NOW);
        let before_rotation = files(t.directory.path())[FIRST].len();
        t.disk.fail_here(calls, passing, How::Stop);
        t.compact().unwrap_err();
        let left = files(t.directory.path());
        let old = &left[FIRST];
        assert!(old.len() + 100_000 < before_rotation);
        // Those at the end are a record's.
        assert!(old.len() < written(old).len() + 100);
        let second = left.iter().filter(|(name, _)| *name == SECOND);
        for base in second.map(|(_, new)| Header::decode(new).unwrap().unwrap().base) {
            // L6: one record follows.
            assert_eq!(base + t.store.format.overhead() as u64, old.len() as u64);
        }
        let (_left, store) = after_power_cut(&t.disk, 0);
        assert_eq!(contents(&store, &SORTS, NOW), before);
    }
}

#[test]
fn the_new_file_of_a_rotation_has_preallocated_space_of_its_own() {
    let t = Fixture::new();
    write_all_sorts(&t);
    t.compact().unwrap();
    t.put("k", b"v");
    let bytes = &files(t.directory.path())[SECOND];
    assert!(bytes.len() > written(bytes).len() + 100_000);
}

#[test]
fn a_compaction_that_fails_at_any_call_leaves_the_store_as_it_was() {
    for how in [How::Once, How::Short] {
        for calls in 0.. {
            let mut t = Fixture::new();
            write_all_sorts(&t);
            let before = contents(&t.store, &SORTS, NOW);
            t.disk.forget();
            t.disk.fail_here(Call::ALL, calls, how);
            let compacted = t.compact();
            if t.disk.done().len() < calls {
                compacted.unwrap();
                break;
            }
            t.disk.heal();
            assert_eq!(contents(&t.store, &SORTS, NOW), before, "failed at {calls}");
            let mut session = Session::at(NOW);
            match t.store.set(&mut session, b"n", 0, 0, b"later") {
                // L4: a sync has failed, of a data file or of the directory.
                Err(Error::Sync(_)) => {
                    assert!(compacted.is_err());
                    t.restart_at(NOW);
                    t.put("n", b"later");
                }
                stored => {
                    stored.unwrap();
                    t.store.settle(&session).unwrap();
                }
            }
            if let Err(error) = t.compact() {
                // What could not be read is not walked again before a restart.
                assert!(matches!(error, Error::Read(_)), "{error:?}");
                assert_eq!(compacted, Err(error));
                t.restart_at(NOW);
                t.compact().unwrap();
            }
            assert_eq!(t.value("n"), Some(b"later".into()));
            t.restart_at(NOW);
            assert_eq!(t.value("n"), Some(b"later".into()));
            assert_eq!(contents(&t.store, &SORTS, NOW).len(), before.len());
            assert_eq!(t.names().len(), 1, "failed at {calls}");
        }
    }
}

#[test]
fn a_rename_that_may_have_been_done_ends_all_writing() {
    // Else the old file would grow beyond the position where the new one begins.
    let mut t = Fixture::new();
    write_all_sorts(&t);
    let before = contents(&t.store, &SORTS, NOW);
    t.disk.fail(&[Call::Rename], 0, How::Late);
    t.compact().unwrap_err();
    let mut session = Session::at(NOW);
    let told = t.store.set(&mut session, b"n", 0, 0, b"later");
    assert!(matches!(told, Err(Error::Sync(_))), "{told:?}");
    assert_eq!(contents(&t.store, &SORTS, NOW), before);
    t.restart_at(NOW);
    assert_eq!(t.names(), [FIRST, SECOND]);
    t.store.maintain(&|| NOW).unwrap();
    assert_eq!(contents(&t.store, &SORTS, NOW), before);
}

#[test]
fn a_removal_that_may_not_last_ends_all_writing() {
    // L4: else the file that was removed could come back when there are two newer ones.
    let mut t = Fixture::new();
    write_all_sorts(&t);
    let before = contents(&t.store, &SORTS, NOW);
    // A compaction's first is for the new file.
    t.disk.fail(&[Call::SyncDir], 1, How::Once);
    let error = t.compact().unwrap_err();
    assert!(matches!(error, Error::Sync(_)), "{error:?}");
    assert_eq!(t.names(), [SECOND]);
    for _ in 0..3 {
        t.compact().unwrap_err();
        t.store.maintain(&|| NOW).unwrap_err();
        t.store.set(&mut Session::at(NOW), b"n", 0, 0, b"later").unwrap_err();
        assert_eq!(contents(&t.store, &SORTS, NOW), before);
    }
    for seed in 0..8 {
        let (_left, store) = after_power_cut(&t.disk, seed);
        assert_eq!(contents(&store, &SORTS, NOW), before);
    }
    t.restart_at(NOW);
    t.compact().unwrap();
    assert_eq!(contents(&t.store, &SORTS, NOW), before);
}

#[test]
fn a_directory_in_the_place_of_ours_is_left_alone() {
    // Whichever sync of a compaction takes so long that a person puts another directory
    // there meanwhile, with files of the same names.
    let t = Fixture::new();
    write_all_sorts(&t);
    t.disk.forget();
    t.compact().unwrap();
    let syncs = t.disk.count(Call::Sync);
    assert!(syncs >= 3);
    for passing in 0..syncs {
        let mut t = Fixture::new();
        write_all_sorts(&t);
        let before = contents(&t.store, &SORTS, NOW);
        let (data, moved) = (t.directory.path(), TempDir::new());
        let [moved, other] = ["moved", "other"].map(|name| moved.path().join(name));
        fs::create_dir(&other).unwrap();
        for name in [FIRST, SECOND] {
            fs::write(other.join(name), b"somebody else's").unwrap();
        }
        let theirs = files(&other);
        let hold = t.disk.hold_after(Call::Sync, passing);
        thread::scope(|scope| {
            let compacted = scope.spawn(|| t.compact().unwrap());
            hold.wait_for(1);
            fs::rename(data, &moved).unwrap();
            fs::rename(&other, data).unwrap();
            drop(hold);
            compacted.join().unwrap();
        });
        t.put("n", b"later");
        assert_eq!(files(data), theirs, "after sync {passing}");
        // All that was stored is where ours is now.
        fs::rename(data, &other).unwrap();
        fs::rename(&moved, data).unwrap();
        assert_eq!(t.names(), [SECOND]);
        t.restart_at(NOW);
        assert_eq!(t.value("n"), Some(b"later".into()));
        assert_eq!(contents(&t.store, &SORTS, NOW).len(), before.len());
    }
}

#[test]
fn on_a_full_disk_compaction_goes_before_new_values() {
    // C5
    let mut t = Fixture::new();
    (0..50).for_each(|_| t.put("k", &[b'v'; 100]));
    let mut session = Session::at(NOW);
    let mut set = |t: &Fixture| {
        t.store.set(&mut session, b"new", 0, 0, b"v")?;
        t.store.settle(&session)
    };
    t.disk.fail(&[Call::Write, Call::Reserve], 0, How::Full);
    set(&t).unwrap_err();
    // Most is garbage: from here on, room is needed for what is not.
    t.store.maintain(&|| NOW).unwrap_err();
    t.disk.heal();
    let told = set(&t).unwrap_err().to_string();
    assert!(told.contains("compaction has to make room first"), "{told}");
    // What makes room is not held back.
    assert_eq!(t.store.delete(&mut Session::at(NOW), b"k"), Ok(Answer::Deleted));
    // There is room for the tail, and not for the copies: nothing is begun.
    t.disk.fail(&[Call::Reserve], 0, How::Full);
    t.store.maintain(&|| NOW).unwrap_err();
    assert_eq!(t.names(), [FIRST]);
    t.disk.heal();
    t.store.compact(&|| NOW).unwrap();
    assert_eq!(t.names(), [SECOND]);
    assert_eq!(set(&t), Ok(()));
    t.restart_at(NOW);
    assert_eq!((t.value("k"), t.value("new")), (None, Some(b"v".into())));
}

#[test]
fn on_a_full_disk_what_has_expired_makes_room() {
    // C5, S6: it counts as live no longer.
    let t = Fixture::new();
    let mut session = Session::at(NOW);
    for number in 0..200 {
        let key = format!("k{number}");
        t.store.set(&mut session, key.as_bytes(), 0, 10, b"v").unwrap();
    }
    t.put("stays", b"v");
    t.disk.fail(&[Call::Write, Call::Reserve], 0, How::Full);
    t.store.set(&mut session, b"new", 0, 0, b"v").unwrap();
    t.store.settle(&session).unwrap_err();
    t.store.maintain(&|| NOW + 10).unwrap_err();
    let live = t.store.figure("bytes");
    t.disk.heal();
    t.store.maintain(&|| NOW + 11).unwrap();
    assert_eq!(t.names(), [SECOND]);
    assert_eq!((t.store.figure("curr_items"), t.store.figure("bytes")), (2, live));
    assert!(t.store.figure("log_bytes") < 300, "nothing is left of the others");
    assert_eq!((t.value("stays"), t.value("k7")), (Some(b"v".into()), None));
}

#[test]
fn what_is_reserved_becomes_less_as_copies_are_committed() {
    // C5: a compaction needs the space of its copies once.
    let t = large();
    let value = vec![b'v'; 300_000];
    (0..10).for_each(|number| t.put(&format!("{number}"), &value));
    t.disk.forget();
    t.compact().unwrap();
    let done = t.disk.done();
    let reserved = done.iter().find(|done| done.call == Call::Reserve).unwrap().offset;
    // It has no name, nor has the old file in the end, which is cut before.
    let cut = done.iter().filter(|it| it.call == Call::Truncate && it.file.is_empty());
    let left: Vec<u64> = cut.map(|done| done.offset).skip(1).collect();
    assert!(left.len() >= 2 && left.is_sorted_by(|a, b| a > b), "{left:?}");
    assert!(left[0] < reserved, "{left:?} of {reserved}");
}

#[test]
fn a_walk_that_is_stopped_by_damage_holds_nothing_back() {
    // C5, C4
    let t = Fixture::new();
    (0..50).for_each(|_| t.put("k", &[b'v'; 100]));
    let mut bytes = files(t.directory.path())[FIRST].clone();
    let last = records(&bytes).pop().unwrap();
    bytes[last.start] ^= 1;
    put_files(t.directory.path(), &BTreeMap::from([(FIRST.to_owned(), bytes)]));
    let mut session = Session::at(NOW);
    t.disk.fail(&[Call::Write], 0, How::Full);
    t.store.set(&mut session, b"n", 0, 0, b"v").unwrap();
    t.store.settle(&session).unwrap_err();
    t.store.maintain(&|| NOW).unwrap_err();
    t.disk.heal();
    let error = t.store.maintain(&|| NOW).unwrap_err();
    assert!(matches!(error, Error::Read(_)), "{error:?}");
    t.put("later", b"v");
}

#[test]
fn what_is_reserved_for_a_walk_is_given_to_it_on_a_full_disk() {
    // C5: it is a file without a name, as long as the live records at least.
    let mut t = Fixture::new();
    let live = write_all_sorts(&t);
    let before = contents(&t.store, &SORTS, NOW);
    t.disk.forget();
    // The copies do not fit any more.
    t.disk.fail_here(&[Call::Write], 2, How::Full);
    t.compact().unwrap_err();
    let done = t.disk.done();
    let reserved = done.iter().find(|done| done.call == Call::Reserve).unwrap();
    assert!(reserved.offset >= live as u64);
    assert_eq!(t.names(), [FIRST, SECOND]);
    t.disk.heal();
    let told = t.store.set(&mut Session::at(NOW), b"n", 0, 0, b"v");
    assert_eq!(told, Ok(Answer::Stored), "there was room, and nobody has looked");
    t.store.maintain(&|| NOW).unwrap();
    assert_eq!(t.names(), [SECOND]);
    assert_eq!(contents(&t.store, &SORTS, NOW).len(), before.len());
    t.restart_at(NOW);
}

#[test]
fn two_generations_at_the_start_are_made_one_and_never_three() {
    // C4
    let mut t = Fixture::new();
    write_all_sorts(&t);
    let before = contents(&t.store, &SORTS, NOW);
    t.disk.fail(&[Call::Remove], 1, How::Always);
    t.compact().unwrap_err();
    assert_eq!(t.names(), [FIRST, SECOND]);
    for _ in 0..3 {
        t.compact().unwrap_err();
        t.store.maintain(&|| NOW).unwrap_err();
        // What was reserved can't lose its name either.
        assert_eq!(t.names(), ["0000000000.kv.tmp", FIRST, SECOND]);
    }
    t.restart_at(NOW);
    assert_eq!(t.names(), [FIRST, SECOND]);
    assert_eq!(contents(&t.store, &SORTS, NOW), before);
    t.store.maintain(&|| NOW).unwrap();
    assert_eq!(t.names(), [SECOND]);
    for _ in 0..2 {
        assert_eq!(contents(&t.store, &SORTS, NOW), before);
        t.restart_at(NOW);
    }
}

#[test]
fn damage_on_the_walk_stops_compaction_and_nothing_else() {
    // C4: and no third generation is begun.
    let t = Fixture::new();
    t.put("a", b"1");
    t.put("b", b"2");
    t.put("c", b"3");
    let mut bytes = files(t.directory.path())[FIRST].clone();
    let hit = records(&bytes)[1].clone();
    bytes[hit.end - 1] ^= 1;
    fs::write(t.directory.path().join(FIRST), bytes).unwrap();
    let said = damaged(hit.start);
    assert_eq!(t.store.compaction_stopped(), None);
    assert_eq!(t.compact(), Err(said.clone()));
    assert_eq!(t.names(), [FIRST, SECOND]);
    for round in 0..5u8 {
        // The rest of maintenance is done before it is reported again.
        assert_eq!(t.store.maintain(&|| NOW), Err(said.clone()));
        assert_eq!(t.compact(), Err(said.clone()));
        assert_eq!(t.store.compaction_stopped(), Some(&said));
        assert_eq!(t.names(), [FIRST, SECOND]);
        t.put("d", &[round]);
        assert_eq!(t.value("d"), Some(vec![round]));
    }
    assert_eq!(t.value("a"), Some(b"1".into()));
    assert_eq!(t.value("c"), Some(b"3".into()));
    let answer = t.store.get(&mut Session::at(NOW), b"b").err();
    assert_eq!(answer, Some(said));
}

#[test]
fn damage_met_by_maintenance_is_reported_and_shown_from_then_on() {
    // A crash has left two files, of which the older one has all there is.
    let mut t = Fixture::new();
    t.put("garbage", b"v");
    t.put("garbage", b"v");
    t.put("k", b"v");
    t.disk.fail(&[Call::SyncDir], 0, How::Stop);
    t.compact().unwrap_err();
    t.restart_at(NOW);
    let mut bytes = files(t.directory.path())[FIRST].clone();
    let needed = records(&bytes).last().unwrap().clone();
    bytes[needed.end - 1] ^= 1;
    fs::write(t.directory.path().join(FIRST), bytes).unwrap();
    let said = damaged(needed.start);
    for _ in 0..3 {
        assert_eq!(t.store.compact_if_due(&|| NOW), Err(said.clone()));
        assert_eq!(t.store.maintain(&|| NOW), Err(said.clone()));
        assert_eq!(t.store.compaction_stopped(), Some(&said));
    }
    assert_eq!(t.names(), [FIRST, SECOND]);
}

#[test]
fn an_error_that_may_pass_does_not_stop_compaction() {
    // The first write is the new file's header, the second one the old file's last record,
    // and the third one is copies.
    for (call, after) in
        [(&[Call::Write][..], 0), (&[Call::Write], 2), (&[Call::Remove], 1)]
    {
        let t = Fixture::new();
        write_all_sorts(&t);
        let before = contents(&t.store, &SORTS, NOW);
        t.disk.fail(call, after, How::Once);
        let error = t.compact().unwrap_err();
        assert!(matches!(error, Error::Write(_)), "{error:?}");
        assert_eq!(t.store.compaction_stopped(), None);
        t.compact().unwrap();
        assert_eq!(t.store.compaction_stopped(), None);
        assert_eq!(contents(&t.store, &SORTS, NOW), before);
    }
}

#[test]
fn compactions_of_several_threads_run_one_after_the_other() {
    // C4: a second one that rotates while the first one walks would make a third file.
    for seed in 0..20 {
        let mut t = Fixture::new();
        write_all_sorts(&t);
        let before = contents(&t.store, &SORTS, NOW);
        t.disk.forget();
        t.disk.wait_at_random(seed);
        let together = Barrier::new(2);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    together.wait();
                    assert_eq!(t.compact(), Ok(()));
                });
            }
        });
        let mut files = 1;
        for done in t.disk.done() {
            match done.call {
                // The space that is reserved is a file while it has a name.
                Call::Rename | Call::Reserve => files += 1,
                Call::Remove => files -= 1,
                _ => {}
            }
            assert!((1..=2).contains(&files), "{files} files, seed {seed}");
        }
        assert_eq!(t.names().len(), 1);
        for _ in 0..2 {
            assert_eq!(contents(&t.store, &SORTS, NOW), before);
            t.restart_at(NOW);
        }
    }
}

#[test]
fn moving_costs_as_many_syncs_as_the_mode_needs() {
    // C2: a sync for each batch of copies where gets wait for it, else none.
    let syncs = [SyncMode::Always, SyncMode::EverySecond].map(|sync| {
        let mut t = Fixture::new();
        t.store = t.disk.open(&Options { sync, ..options() }, NOW).unwrap().0;
        for key in 0..100 {
            t.put(&format!("k{key}"), &[b'v'; 60_000]);
        }
        t.disk.forget();
        t.compact().unwrap();
        t.disk.count(Call::Sync)
    });
    // The old file twice, the new one when it is made and when it holds all.
    assert_eq!(syncs[1], 4);
    assert!(syncs[0] >= syncs[1] + 4, "{syncs:?}");
}

#[test]
fn while_a_compaction_runs_the_log_is_synced_each_second() {
    let mut t = Fixture::new();
    let sync = SyncMode::EverySecond;
    t.store = t.disk.open(&Options { sync, ..options() }, NOW).unwrap().0;
    for key in 0..100 {
        t.put(&format!("k{key}"), &[b'v'; 60_000]);
    }
    let syncs = [0, 1].map(|step| {
        t.disk.forget();
        // Each look at the clock is a second later, or none is.
        let time = AtomicU64::new(NOW);
        t.store.compact(&|| time.fetch_add(step, SeqCst)).unwrap();
        t.disk.count(Call::Sync)
    });
    assert!(syncs[1] >= syncs[0] + 4, "{syncs:?}");
}

#[test]
fn a_pending_flush_is_moved_by_a_compaction_that_a_crash_has_begun() {
    // The new file has its name, and nothing in it yet.
    let mut t = Fixture::new();
    t.put("k", b"v");
    let mut session = Session::at(NOW);
    t.store.flush_all(&mut session, 60).unwrap();
    t.store.settle(&session).unwrap();
    t.disk.fail(&[Call::SyncDir], 0, How::Stop);
    t.compact().unwrap_err();
    t.restart_at(NOW);
    assert_eq!(t.names(), [FIRST, SECOND]);
    t.store.maintain(&|| NOW).unwrap();
    assert_eq!(t.names(), [SECOND]);
    t.restart_at(NOW + 59);
    assert_eq!(value(&t.store, b"k", NOW + 59), Some(b"v".into()));
    t.restart_at(NOW + 60);
    assert_eq!(value(&t.store, b"k", NOW + 60), None);
}

#[test]
fn damage_to_what_is_not_live_goes_with_it() {
    let t = Fixture::new();
    t.put("k", b"old");
    t.put("k", b"new");
    let mut bytes = files(t.directory.path())[FIRST].clone();
    bytes[HEADER_LEN..][..8].fill(0xff);
    fs::write(t.directory.path().join(FIRST), bytes).unwrap();
    assert_eq!(t.compact(), Ok(()));
    assert_eq!(t.names(), [SECOND]);
    assert_eq!(t.value("k"), Some(b"new".into()));
}

#[test]
fn a_walk_that_fails_again_and_again_does_not_fill_the_disk() {
    // A file that can't be read at some place, and one that has become shorter.
    for is_shorter in [false, true] {
        let t = Fixture::new();
        for key in 0..40 {
            t.put(&format!("k{key}"), &[b'v'; 60_000]);
        }
        if is_shorter {
            let path = t.directory.path().join(FIRST);
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(2_000_000).unwrap();
        }
        for round in 0..10 {
            if !is_shorter {
                // The walk's second chunk.
                t.disk.fail_here(&[Call::Read], 1, How::Always);
            }
            if round == 0 {
                t.compact().unwrap_err();
            } else {
                // Maintenance may try again, or leave it.
                let _ = t.store.maintain(&|| NOW);
            }
        }
        let (length, live) = (t.store.figure("log_bytes"), t.store.figure("bytes"));
        assert!(length < 3 * live, "{length} for {live}");
        assert_eq!(t.names(), [FIRST, SECOND]);
    }
}

/// The keys of one thread, and what each may have: what was committed last, or what
/// was tried after that.
struct Owner {
    number: usize,
    keys: Vec<(String, Vec<Option<String>>)>,
}

const OWNERS: usize = 4;
const KEYS: usize = 6;

/// What a thread does at most: writers that are faster than compaction would give it
/// more work than it gets done.
const ROUNDS: u64 = 4000;

impl Owner {
    fn key(owner: usize, key: usize) -> String {
        format!("{owner}.{key}")
    }

    fn new(number: usize) -> Owner {
        let keys = (0..KEYS).map(|key| (Owner::key(number, key), vec![None]));
        Owner { number, keys: keys.collect() }
    }

    /// Writes its own keys and reads everybody's, until `done` or the first error.
    fn work(&mut self, store: &Store, done: &AtomicBool) {
        let mut random = Random::new(self.number as u64 + 1);
        let mut session = Session::at(NOW);
        for round in 0..ROUNDS {
            let step = self.step(store, &mut session, &mut random, round);
            if step.is_err() || done.load(SeqCst) {
                return;
            }
        }
    }

    fn step(
        &mut self,
        store: &Store,
        session: &mut Session,
        random: &mut Random,
        round: u64,
    ) -> Result<(), Error> {
        let (key, states) = &mut self.keys[random.below(KEYS)];
        let key = &key[..];
        let found = store.get(session, key.as_bytes())?;
        let found = found.map(|item| String::from_utf8(item.value.to_vec()).unwrap());
        assert_eq!(states[..], [found], "{key} is not as it was left");
        // What failed has changed nothing, so only what succeeds counts as tried.
        match random.below(4) {
            0 => {
                store.delete(session, key.as_bytes())?;
                states.push(None);
            }
            1 => {
                store.touch(session, key.as_bytes(), 1000)?;
            }
            _ => {
                let value = format!("{key}={round}");
                store.set(session, key.as_bytes(), 0, 0, value.as_bytes())?;
                states.push(Some(value));
            }
        }
        store.settle(session)?;
        states.drain(..states.len() - 1);
        let other = Owner::key(random.below(OWNERS), random.below(KEYS));
        if let Some(item) = store.get(session, other.as_bytes())? {
            assert!(item.value.starts_with(format!("{other}=").as_bytes()));
        }
        Ok(())
    }

    fn check(&self, store: &Store) {
        for (key, states) in &self.keys {
            let found = value(store, key.as_bytes(), NOW);
            let found = found.map(|value| String::from_utf8(value).unwrap());
            assert!(
                states.contains(&found),
                "{key} is {found:?}, not one of {states:?}"
            );
        }
    }
}

/// So much that it is copied in two batches.
const BALLAST: [&[u8]; 22] = [
    b"b00", b"b01", b"b02", b"b03", b"b04", b"b05", b"b06", b"b07", b"b08", b"b09",
    b"b10", b"b11", b"b12", b"b13", b"b14", b"b15", b"b16", b"b17", b"b18", b"b19",
    b"b20", b"b21",
];

#[test]
fn a_compaction_under_load_can_stop_at_any_call() {
    // C1, C2, C3, C4
    let t = Fixture::new();
    for key in BALLAST {
        t.put(std::str::from_utf8(key).unwrap(), &key.repeat(20_000));
    }
    let ballast = files(t.directory.path());
    let ballast_contents = contents(&t.store, &BALLAST, NOW);
    // How many calls it makes depends on what the others do at the same time.
    let mut not_stopped = 0;
    for calls in 0.. {
        let mut t = Fixture::of(&ballast);
        let done = AtomicBool::new(false);
        let mut owners: Vec<Owner> = (0..OWNERS).map(Owner::new).collect();
        let compacted = thread::scope(|scope| {
            for owner in &mut owners {
                scope.spawn(|| owner.work(&t.store, &done));
            }
            t.disk.fail_here(Call::ALL, calls, How::Stop);
            let compacted = t.compact();
            done.store(true, SeqCst);
            compacted
        });
        let has_stopped = t.disk.has_stopped();
        assert_eq!(compacted.is_err(), has_stopped, "{compacted:?}");
        let (_left, store) = after_power_cut(&t.disk, calls as u64);
        owners.iter().for_each(|owner| owner.check(&store));
        assert_eq!(contents(&store, &BALLAST, NOW).len(), BALLAST.len());
        // And without a power cut.
        t.disk.heal();
        t.store = t.disk.open(&options(), NOW).unwrap().0;
        owners.iter().for_each(|owner| owner.check(&t.store));
        t.store.maintain(&|| NOW).unwrap();
        owners.iter().for_each(|owner| owner.check(&t.store));
        assert_eq!(contents(&t.store, &BALLAST, NOW), ballast_contents);
        let generations = t.names().iter().filter(|name| name.ends_with(".kv")).count();
        assert_eq!(generations, 1);
        assert!(t.names().iter().all(|name| !name.ends_with(".tmp")));
        not_stopped += usize::from(!has_stopped);
        if not_stopped == 3 {
            assert!(calls > 12, "a compaction makes more than {calls} calls");
            return;
        }
    }
}

#[test]
fn compactions_one_after_the_other_disturb_nobody() {
    for sync in [SyncMode::Always, SyncMode::EverySecond] {
        let directory = TempDir::new();
        let options = Options { sync, ..options() };
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(&options, NOW).unwrap();
        let done = AtomicBool::new(false);
        let mut owners: Vec<Owner> = (0..OWNERS).map(Owner::new).collect();
        thread::scope(|scope| {
            for owner in &mut owners {
                scope.spawn(|| owner.work(&store, &done));
            }
            for _ in 0..60 {
                store.compact(&|| NOW).unwrap();
            }
            done.store(true, SeqCst);
        });
        owners.iter().for_each(|owner| owner.check(&store));
        drop(store);
        let (store, torn) = disk.open(&options, NOW).unwrap();
        assert_eq!(torn, None);
        owners.iter().for_each(|owner| owner.check(&store));
    }
}

#[test]
fn calls_that_overtake_one_another_change_no_answer() {
    // C1, C2: whichever call waits in the file layer, and however long.
    for (sync, seed) in [(SyncMode::Always, 1), (SyncMode::EverySecond, 2)] {
        let directory = TempDir::new();
        let options = Options { sync, ..options() };
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(&options, NOW).unwrap();
        disk.wait_at_random(seed);
        let done = AtomicBool::new(false);
        let mut owners: Vec<Owner> = (0..OWNERS).map(Owner::new).collect();
        thread::scope(|scope| {
            for owner in &mut owners {
                scope.spawn(|| owner.work(&store, &done));
            }
            for _ in 0..20 {
                store.maintain(&|| NOW).unwrap();
                store.compact(&|| NOW).unwrap();
            }
            done.store(true, SeqCst);
        });
        owners.iter().for_each(|owner| owner.check(&store));
        // Everything was safe when the last compaction ended, except what came then.
        store.maintain(&|| NOW).unwrap();
        for seed in 0..4 {
            let left = TempDir::new();
            disk.power_cut(left.path(), seed);
            let (store, _) = Faulty::new(left.path()).open(&options, NOW).unwrap();
            owners.iter().for_each(|owner| owner.check(&store));
        }
    }
}

#[test]
fn after_a_flush_nothing_older_is_seen_amid_writes_and_compactions() {
    let t = Fixture::new();
    let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    let setter = |number: usize| {
        let mut session = Session::at(NOW);
        for round in 0..ROUNDS {
            if done.load(SeqCst) {
                return;
            }
            let key = Owner::key(number, round as usize % KEYS);
            let value = round.to_string();
            let ended_before = ended.load(SeqCst);
            t.store.set(&mut session, key.as_bytes(), 0, 0, value.as_bytes()).unwrap();
            let begun_then = begun.load(SeqCst);
            // Now and then a flush comes between the two.
            if round.is_multiple_of(3) {
                t.store.settle(&session).unwrap();
            }
            let ended_then = ended.load(SeqCst);
            let found = t.store.get(&mut session, key.as_bytes()).unwrap();
            let found = found.map(|item| item.value.to_vec());
            let begun_after = begun.load(SeqCst);
            if ended_then > begun_then {
                assert_eq!(
                    found, None,
                    "flush {ended_then} was after flush {begun_then}"
                );
            } else if begun_after == ended_before {
                assert_eq!(found, Some(value.into()), "there was no flush");
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..3 {
            scope.spawn(move || setter(number));
        }
        scope.spawn(|| {
            let mut session = Session::at(NOW);
            for _ in 0..ROUNDS {
                if done.load(SeqCst) {
                    return;
                }
                begun.fetch_add(1, SeqCst);
                t.store.flush_all(&mut session, 0).unwrap();
                ended.fetch_add(1, SeqCst);
                t.store.settle(&session).unwrap();
            }
        });
        for _ in 0..60 {
            t.compact().unwrap();
        }
        done.store(true, SeqCst);
    });
    let keys: Vec<String> =
        (0..3).flat_map(|owner| (0..KEYS).map(move |k| Owner::key(owner, k))).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    t.store.maintain(&|| NOW).unwrap();
    let at_rest = contents(&t.store, &keys, NOW);
    let open = |path: &Path| Faulty::new(path).open(&options(), NOW).unwrap().0;
    let reopened = open(t.directory.path());
    assert_eq!(contents(&reopened, &keys, NOW), at_rest);
}

#[test]
fn a_removal_that_was_done_and_failed_is_one() {
    let mut t = Fixture::new();
    write_all_sorts(&t);
    let before = contents(&t.store, &SORTS, NOW);
    t.disk.fail(&[Call::Remove], 1, How::Late);
    assert_eq!(t.compact(), Ok(()));
    assert_eq!(t.names(), [SECOND]);
    assert_eq!(contents(&t.store, &SORTS, NOW), before);
    t.put("n", b"later");
    t.restart_at(NOW);
    assert_eq!(t.value("n"), Some(b"later".into()));
}

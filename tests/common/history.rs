//! A log with a bit of everything in it, and a model of what it means after each
//! record: for tests that damage its files.
//!
//! [`one_generation`] and [`two_generations`] give files; [`Model`] says what a client
//! should see of any part of their records.

use super::TempDir;
use super::disk::{Call, Faulty, How, Seen, contents, files, records, short, written};
pub use super::model::Model;
use super::verbs::Verbs;
use memcached_lite::store::record::{Draft, HEADER_LEN, Header, Record};
use memcached_lite::store::{Answer, Options, Session, Store};
use std::collections::BTreeMap;

pub const NOW: u64 = 1_000_000;
/// When what was to expire has expired, and the pending flush is due.
pub const LATER: u64 = NOW + 100;
pub const KEYS: [&[u8]; 6] = [b"a", b"ab", b"abc", b"abcd", b"e", b"evil"];

pub const FIRST: &str = "0000000001.kv";
pub const SECOND: &str = "0000000002.kv";

pub type Files = BTreeMap<String, Vec<u8>>;

/// A log being written, and its model after each record.
pub struct Writer {
    pub disk: Faulty,
    pub store: Store,
    pub session: Session,
    /// The first one is that of no record.
    pub models: Vec<Model>,
}

impl Writer {
    pub fn new(directory: &TempDir) -> Writer {
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(&options(), NOW).unwrap();
        let models = vec![Model::default()];
        Writer { disk, store, session: Session::at(NOW), models }
    }

    fn record(&mut self, change: impl FnOnce(&mut Model)) {
        let mut model = self.models.last().unwrap().clone();
        change(&mut model);
        self.models.push(model);
    }

    pub fn set(&mut self, key: &[u8], flags: u32, exptime: i64, value: &[u8]) {
        let cas = self.store.figure("log_end");
        let stored = self.store.set(&mut self.session, key, flags, exptime, value);
        assert_eq!(stored, Ok(Answer::Stored));
        let exptime = match exptime {
            0 => 0,
            ..0 => 1,
            _ => NOW + exptime as u64,
        };
        let seen = Seen { flags, cas, value: value.to_vec() };
        self.record(|model| match exptime {
            // S6
            1 => drop(model.items.remove(key)),
            _ => drop(model.items.insert(key.to_vec(), (seen, exptime))),
        });
    }

    pub fn touch(&mut self, key: &[u8], exptime: u64) {
        let touched = self.store.touch(&mut self.session, key, exptime as i64);
        assert_eq!(touched, Ok(Answer::Touched));
        self.record(|model| model.items.get_mut(key).unwrap().1 = NOW + exptime);
    }

    pub fn delete(&mut self, key: &[u8]) {
        assert_eq!(self.store.delete(&mut self.session, key), Ok(Answer::Deleted));
        self.record(|model| {
            model.items.remove(key);
        });
    }

    pub fn flush_all(&mut self, delay: u64) {
        assert_eq!(self.store.flush_all(&mut self.session, delay as i64), Ok(()));
        self.record(|model| model.flush(if delay == 0 { 0 } else { NOW + delay }));
    }

    pub fn commit(&self) {
        assert_eq!(self.store.settle(&self.session), Ok(()));
    }

    /// A bit of everything, in several commits.
    pub fn write_all_sorts(&mut self, directory: &TempDir) {
        self.set(b"a", 1, 0, b"one");
        self.set(b"ab", 0, 0, b"");
        self.commit();
        self.set(b"abc", u32::MAX, 0, b"three\r\nlines\r\n");
        self.set(b"a", 2, 0, b"two");
        self.commit();
        // A whole record, byte for byte, inside of a value.
        let first = files(directory.path())[FIRST].clone();
        let inner = first[HEADER_LEN..records(&first)[0].end].to_vec();
        self.set(b"abcd", 4, 0, &inner);
        self.delete(b"ab");
        self.set(b"e", 0, 5, b"gone at LATER");
        self.commit();
        self.touch(b"a", 50);
        self.flush_all(0);
        self.commit();
        self.set(b"a", 0, 0, b"new");
        self.set(b"ab", 7, 0, b"");
        // A record that would be valid one byte further on.
        let format = Header::decode(&first).unwrap().unwrap().format;
        let place = self.store.figure("log_end") + format.overhead() as u64;
        let mut inner = Vec::new();
        let evil = Record { key: b"evil", value: b"evil", ..Record::default() };
        Draft::new(&format, evil).append_to(&mut inner, place + 1, place);
        self.set(b"abcd", 0, 0, &inner);
        self.touch(b"ab", 200);
        self.commit();
        self.flush_all(60);
        self.set(b"e", 0, -1, b"expired at once");
        self.set(b"abc", 3, 0, b"three");
        self.commit();
        // Nothing that comes later says that these are safe.
        self.delete(b"a");
        self.set(b"ab", 0, 0, b"last");
        self.touch(b"abc", 30);
        self.commit();
    }
}

pub fn options() -> Options {
    short(4)
}

/// The files without their preallocated space: it would make these tests, which try every
/// byte, take long. `zeros_after_the_records_are_preallocated_space` has it. And without
/// what the older of two says of the newer (L6), which any part of is as good as none:
/// `a_part_of_the_record_that_names_the_next_file_is_as_good_as_none` has it.
pub fn written_files(directory: &TempDir) -> Files {
    let mut files = files(directory.path());
    files.values_mut().for_each(|bytes| bytes.truncate(written(bytes).len()));
    let base =
        files.get(SECOND).map(|bytes| Header::decode(bytes).unwrap().unwrap().base);
    if let Some((base, first)) = base.zip(files.get_mut(FIRST)) {
        first.truncate(base as usize);
    }
    files
}

/// One generation, and the model after each of its records.
pub fn one_generation() -> (Files, Vec<Model>) {
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.write_all_sorts(&directory);
    let files = written_files(&directory);
    assert_eq!(records(&files[FIRST]).len() + 1, writer.models.len());
    (files, writer.models)
}

/// Two generations, as a crash in the last step of a compaction leaves them, and the
/// model after each record of the second one.
pub fn two_generations() -> (Files, Vec<Model>) {
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.write_all_sorts(&directory);
    let mut model = writer.models.last().unwrap().clone();
    writer.disk.fail(&[Call::Remove], 1, How::Once);
    writer.store.compact(&|| NOW).unwrap_err();
    writer.set(b"a", 5, 0, b"after");
    writer.delete(b"abcd");
    writer.commit();
    writer.set(b"e", 6, 0, b"e");
    writer.touch(b"e", 80);
    writer.set(b"ab", 0, 0, b"again");
    writer.commit();
    let files = written_files(&directory);
    let mut models = vec![model.clone()];
    for record in records(&files[SECOND]) {
        model.apply(&record);
        models.push(model.clone());
    }
    let written = writer.models.last().unwrap();
    assert_eq!(model.at(NOW), written.at(NOW));
    assert_eq!(model.at(LATER), written.at(LATER));
    assert_eq!(model.due, written.due);
    assert!(models.len() > 8, "something was copied");
    (files, models)
}

/// Opens these files and checks that the contents are the model's, now and later.
pub fn check_contents(disk: &Faulty, model: &Model) -> Option<String> {
    let (store, torn) = disk.open(&options(), NOW).unwrap();
    assert_eq!(contents(&store, &KEYS, NOW), model.at(NOW));
    assert_eq!(contents(&store, &KEYS, LATER), model.at(LATER));
    torn
}

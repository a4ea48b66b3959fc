//! Data files that earlier programs wrote, kept in `tests/data`: every later program has
//! to read those of version 3 to the last bit, and to leave those of other versions alone.

mod common;

use assert_cmd::Command;
use common::disk::{Faulty, files, put_files};
use common::{REPLY_TIMEOUT, TempDir};
use memcached_lite::store::crc::crc32;
use memcached_lite::store::disk::Directory;
use memcached_lite::store::record::{Format, HEADER_LEN, IntOrder};
use memcached_lite::store::repair::repair;
use memcached_lite::store::survey::survey;
use memcached_lite::store::{Error, Options, Result, Session, Settings, Store};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const NOW: u64 = 1_800_000_000;

const FIRST: &str = "0000000001.kv";
const SECOND: &str = "0000000002.kv";
const THIRD: &str = "0000000003.kv";

/// When the pending flush of version 3's files is due, in Unix seconds.
const FLUSH_DUE: u64 = 4_200_000_000;

type Files = BTreeMap<String, Vec<u8>>;

/// The files that are kept of a version.
fn kept(version: &str) -> Files {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version);
    files(&path)
}

/// A directory with a copy of them.
fn copy_of(files: &Files) -> TempDir {
    let directory = TempDir::new();
    put_files(directory.path(), files);
    directory
}

/// A store on such a directory. It is not locked: while another test starts a program,
/// that has for a moment what is open here, and what is locked stays so.
fn open(path: &Path) -> Result<(Store, Option<String>)> {
    Store::on_disk(Arc::new(Directory::at(path)?), &Options::default(), NOW)
}

/// An item with all that its record says of it.
#[derive(Debug, PartialEq)]
struct Item<'a> {
    key: &'a str,
    value: &'a [u8],
    flags: u32,
    exptime: u64,
    cas: u64,
    stale: bool,
    win_sent: bool,
}

/// What version 3's files hold.
#[rustfmt::skip]
const ITEMS: [Item; 10] = {
    const fn item<'a>(key: &'a str, value: &'a [u8], flags: u32, cas: u64) -> Item<'a> {
        Item { key, value, flags, exptime: 0, cas, stale: false, win_sent: false }
    }
    [
        item("flags", b"\0\r\n\xff bytes", u32::MAX, 100),
        item("empty", b"", 7, 165),
        // Appended to, counted and overwritten in the newer file.
        item("plain", b"value, appended", 0, 1329),
        item("number", b"42", 3, 1097),
        item("overwritten", b"new", 6, 1216),
        // Touched there: it has kept its unique.
        Item { exptime: 4_100_000_000, ..item("touched", b"touched", 1, 220) },
        Item { exptime: 4_000_000_000, ..item("expires", b"in 2096", 2, 746) },
        Item { stale: true, ..item("stale", b"out of date", 8, 1399) },
        Item { stale: true, win_sent: true, ..item("winner", b"being recomputed", 9, 1465) },
        Item { win_sent: true, ..item("longest-key-16-b", b"win sent", 10, 1536) },
    ]
};

/// Checks that the store has all of that and nothing else.
#[track_caller]
fn check_items(store: &Store) {
    let mut session = Session::at(NOW);
    for expected in ITEMS {
        let key = expected.key;
        let record = store.get(&mut session, key.as_bytes()).unwrap();
        let record = record.unwrap_or_else(|| panic!("{key} is missing"));
        let found = Item {
            key,
            value: record.value,
            flags: record.flags,
            exptime: record.exptime,
            cas: record.cas,
            stale: record.stale,
            win_sent: record.win_sent,
        };
        assert_eq!(found, expected);
    }
    for key in [&b"deleted"[..], b"removed"] {
        assert_eq!(store.get(&mut session, key), Ok(None));
    }
    assert_eq!(store.figure("curr_items"), ITEMS.len() as u64);
}

#[test]
fn the_files_of_version_3_are_read_to_the_last_bit() {
    // As they are; by the start after that; and when their compaction is finished.
    for stage in 0..3 {
        let directory = copy_of(&kept("v3"));
        let path = directory.path();
        let (mut store, torn) = open(path).unwrap();
        let line = format!(
            "{THIRD} had a torn end of 10 bytes at offset 542, not known to have been \
             synced; cut off and kept in {THIRD}.torn"
        );
        assert_eq!(torn, Some(line));
        assert_eq!(files(path)[&format!("{THIRD}.torn")], b"a torn end");
        let int_order = IntOrder::Big;
        let format = Format { key_size: 16, int_size: 4, int_order };
        assert_eq!(store.format, format);
        check_items(&store);
        if stage > 0 {
            drop(store);
            let opened = open(path).unwrap();
            assert_eq!(opened.1, None);
            store = opened.0;
            check_items(&store);
        }
        if stage > 1 {
            store.maintain(&|| NOW).unwrap();
            assert_eq!(store.figure("log_generations"), 1);
            check_items(&store);
            drop(store);
            store = open(path).unwrap().0;
            check_items(&store);
        }
        // Two have expired before the flush comes, and the others go with it.
        for (now, expected) in [(FLUSH_DUE - 1, 8), (FLUSH_DUE, 0)] {
            let mut session = Session::at(now);
            let mut has = |item: &Item| {
                store.get(&mut session, item.key.as_bytes()).unwrap().is_some()
            };
            assert_eq!(ITEMS.iter().filter(|item| has(item)).count(), expected);
        }
    }
}

#[test]
fn a_check_says_what_is_in_the_files_of_version_3() {
    let kept = kept("v3");
    let directory = copy_of(&kept);
    let disk = Faulty::new(directory.path());
    let found = survey(&disk, &Settings::default(), |_, _| Ok(())).unwrap();
    assert_eq!(
        found.to_string(),
        format!(
            "{SECOND}: 648 bytes from position 409, 10 records\n\
             {THIRD}: 552 bytes from position 1057, 8 records\n\
             {THIRD}: a torn end at offset 542: 10 bytes, not known to have been synced\n\
             18 records, 10 live keys in 629 bytes\n\
             nothing that was safe is damaged"
        )
    );
    assert_eq!(files(directory.path()), kept);
}

/// Files in the format of this version, which is not ours: with a good header, and one
/// record.
fn files_of_version(version: u16) -> Files {
    let mut files = kept("v2");
    let header = &mut files.get_mut(FIRST).unwrap()[..HEADER_LEN];
    header[8..10].copy_from_slice(&version.to_be_bytes());
    let (fields, crc) = header.split_at_mut(HEADER_LEN - 4);
    crc.copy_from_slice(&crc32(0, fields).to_be_bytes());
    files
}

#[test]
fn files_of_another_version_are_rejected_by_its_number_and_left_alone() {
    assert_eq!(files_of_version(2), kept("v2"), "its header is as it was written");
    for version in [2, 4] {
        let alone = files_of_version(version);
        let mut beside_ours = kept("v3");
        beside_ours.extend(alone.clone());
        for there in [alone, beside_ours] {
            let directory = copy_of(&there);
            let path = directory.path();
            let why = format!(
                "{FIRST}: it has format version {version}, this program reads 3; choose \
                 another --data"
            );
            let settings = Settings::default();
            let disk = Faulty::new(path).shared();
            let errors = [
                Store::open(path, &Options::default(), NOW).err(),
                open(path).err(),
                survey(&*disk, &settings, |_, _| Ok(())).err(),
                repair(&disk, &settings).err(),
            ];
            for error in errors {
                assert_eq!(error, Some(Error::Open(why.clone())));
            }
            assert_eq!(files(path), there);
        }
    }
}

#[test]
fn the_program_rejects_files_of_another_version_whatever_it_is_to_do() {
    let kept = kept("v2");
    let directory = copy_of(&kept);
    for task in ["--check", "--compact", "--port=0", "--repair"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.env_remove("SERVER_HOST").env_remove("SERVER_PORT");
        command.timeout(REPLY_TIMEOUT).args([task, "--data"]).arg(directory.path());
        let line = format!(
            "server: can't use the data directory {}: {FIRST}: it has format version 2, \
             this program reads 3; choose another --data\n",
            directory.path().display()
        );
        command.assert().code(1).stdout("").stderr(line);
        assert_eq!(files(directory.path()), kept, "{task}");
    }
}

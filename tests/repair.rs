//! `server --check`, `--repair` and `--compact`: files damaged in every way there is, and
//! what is reported of them, saved from them, and shown by the next start.
//!
//! First by the library, on a disk that fails; then a sample of the same by the real
//! program, with what it prints and its exit codes.

mod common;

use assert_cmd::Command;
use common::disk::{Call, Faulty, Found, How, contents, files, put_files, records};
use common::history::{
    FIRST, Files, KEYS, LATER, Model, NOW, SECOND, Writer, check_contents,
    one_generation, options, two_generations, written_files,
};
use common::verbs::Verbs;
use common::{REPLY_TIMEOUT, Server, TempDir};
use memcached_lite::client::{self, Client};
use memcached_lite::store::disk::Disk;
use memcached_lite::store::record::{HEADER_LEN, Header, Kind};
use memcached_lite::store::repair::repair;
use memcached_lite::store::survey::{Survey, Surveyed, survey};
use memcached_lite::store::{Answer, Error, Options, Result, Session, Settings};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const THIRD: &str = "0000000003.kv";

/// Two generations of few records, so that all of their bits can be tried. Nothing in
/// them expires.
fn few_records() -> Files {
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.set(b"a", 1, 0, b"one");
    writer.set(b"ab", 2, 0, b"two");
    writer.commit();
    writer.delete(b"a");
    writer.set(b"abc", 3, 0, b"three");
    writer.commit();
    // A crash in the last step of a compaction.
    writer.disk.fail(&[Call::Remove], 1, How::Once);
    writer.store.compact(&|| NOW).unwrap_err();
    writer.set(b"a", 4, 0, b"four");
    writer.commit();
    writer.delete(b"ab");
    writer.set(b"e", 5, 0, b"five");
    writer.commit();
    written_files(&directory)
}

fn settings() -> Settings {
    options().settings
}

/// What `--check` finds on a disk.
fn check(disk: &dyn Disk) -> Result<Survey> {
    survey(disk, &settings(), |_, _| Ok(()))
}

/// What it finds in a directory whose files can be told to be ours.
fn check_in(path: &Path) -> Survey {
    check(&Faulty::new(path)).unwrap()
}

/// Repairs the files in a directory.
fn repair_in(path: &Path) -> Result<Option<Vec<String>>> {
    repair(&Faulty::new(path).shared(), &settings())
}

/// The names that files had before a repair, and the ones they have, by its report.
fn kept(report: &[String]) -> Vec<(&str, &str)> {
    report.iter().filter_map(|line| line.split_once(" is now ")).collect()
}

/// These bytes of a file.
fn range(start: usize, end: usize) -> Range<u64> {
    start as u64..end as u64
}

/// A line for each problem.
fn shown(survey: &Survey) -> String {
    survey.problems().join("\n")
}

/// What the records say that are not lost.
fn model_without(good: &Files, is_lost: impl Fn(&str, &Found) -> bool) -> Model {
    let mut model = Model::default();
    for (name, bytes) in good {
        let all = records(bytes);
        all.iter().filter(|found| !is_lost(name, found)).for_each(|r| model.apply(r));
    }
    model
}

/// Checks, starts on and repairs these files, of which `model` is what the good records
/// say. Returns what the check has found.
#[track_caller]
fn check_damage(directory: &TempDir, damaged: &Files, model: &Model) -> Survey {
    put_files(directory.path(), damaged);
    let found = check_in(directory.path());
    assert_eq!(&files(directory.path()), damaged, "a check changes nothing");
    let opened = Faulty::new(directory.path()).open(&options(), NOW);
    assert_eq!(opened.is_ok(), found.is_sound(), "{found}: {:?}", opened.err());
    if found.is_sound() {
        put_files(directory.path(), damaged);
        assert!(repair_in(directory.path()).unwrap().is_none());
        assert_eq!(&files(directory.path()), damaged, "there was nothing to repair");
        return found;
    }
    // R2
    assert_eq!(&files(directory.path()), damaged, "a start that fails changes nothing");
    let why = opened.err().expect("it fails").to_string();
    assert!(why.ends_with("by server --repair"), "{why}");
    assert!(found.problems().iter().any(|problem| why.starts_with(problem)), "{why}");
    let report = repair_in(directory.path()).unwrap().expect("damaged");
    assert!(report.starts_with(&found.problems()), "{report:?}");
    assert!(check_in(directory.path()).is_sound());
    // R4
    let now = files(directory.path());
    assert_eq!(now.len(), damaged.len() + 1);
    assert_eq!(kept(&report).len(), damaged.len());
    for (from, to) in kept(&report) {
        assert_eq!(now[to], damaged[from]);
    }
    assert_eq!(check_contents(&Faulty::new(directory.path()), model), None);
    found
}

#[test]
fn every_flipped_bit_is_named_and_costs_at_most_its_record() {
    let directory = TempDir::new();
    let good = few_records();
    for name in [FIRST, SECOND] {
        let all = records(&good[name]);
        let mut damaged = good.clone();
        put_files(directory.path(), &damaged);
        let sound = check(&Faulty::new(directory.path())).unwrap().to_string();
        let live = sound.lines().find(|line| line.contains("live keys")).unwrap();
        let live = live.to_owned();
        for bit in 0..good[name].len() * 8 {
            let byte = bit / 8;
            damaged.get_mut(name).unwrap()[byte] ^= 1 << (bit % 8);
            let hit = |found: &Found| (found.start..found.end).contains(&byte);
            let model = model_without(&good, |of, found| of == name && hit(found));
            let found = check_damage(&directory, &damaged, &model);
            assert_eq!(found.gap, None);
            let place = usize::from(name == SECOND);
            let Surveyed { records, damage, torn, .. } = &found.files[place];
            let others = &found.files[1 - place];
            assert!(others.damage.is_empty());
            let Some(place) = all.iter().position(hit) else {
                assert_eq!(damage[..], [range(0, HEADER_LEN)], "bit {bit} of {name}");
                assert!(byte < HEADER_LEN && !found.is_sound());
                assert!(found.to_string().contains(&live), "{found}");
                assert_eq!((*records as usize, torn), (all.len(), &None));
                assert_eq!(found.problems().len(), 1);
                damaged.get_mut(name).unwrap()[byte] ^= 1 << (bit % 8);
                continue;
            };
            let Found { start, end, position, .. } = all[place];
            assert_eq!(damage[..], [range(start, end)], "bit {bit} of {name}");
            assert_eq!(*records as usize, all.len() - 1);
            assert_eq!(found.problems().len(), 1);
            // R1: only where no record says that it was safe.
            let is_torn = name == SECOND
                && all[place + 1..].iter().all(|record| record.synced <= position);
            assert_eq!(found.is_sound(), is_torn);
            let len = good[name].len();
            assert_eq!(*torn, is_torn.then_some(range(start, len)));
            damaged.get_mut(name).unwrap()[byte] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_cut_at_any_byte_is_named_and_costs_what_was_cut() {
    let directory = TempDir::new();
    let good = few_records();
    for name in [FIRST, SECOND] {
        for len in 0..good[name].len() {
            let mut damaged = good.clone();
            damaged.get_mut(name).unwrap().truncate(len);
            let model = model_without(&good, |of, found| of == name && found.end > len);
            let is_damaged = !check_damage(&directory, &damaged, &model).is_sound();
            // What a power cut tears off the newest file was not promised.
            assert_eq!(is_damaged, name == FIRST || len < HEADER_LEN, "{name}, {len}");
        }
    }
}

#[test]
fn undamaged_files_are_left_alone() {
    let directory = TempDir::new();
    for (good, models) in [one_generation(), two_generations()] {
        assert!(check_damage(&directory, &good, models.last().unwrap()).is_sound());
    }
}

#[test]
fn a_repair_changes_no_answer_when_no_record_is_damaged() {
    let directory = TempDir::new();
    let (good, models) = two_generations();
    let model = models.last().unwrap();
    for broken in [&[FIRST][..], &[SECOND], &[FIRST, SECOND]] {
        let mut damaged = good.clone();
        for &name in broken {
            damaged.get_mut(name).unwrap()[..HEADER_LEN].fill(0xFF);
        }
        assert!(!check_damage(&directory, &damaged, model).is_sound(), "{broken:?}");
    }
    // A file that somebody has renamed, or put back from elsewhere.
    let mut renamed = good.clone();
    let first = renamed.remove(FIRST).unwrap();
    renamed.insert("0000000007.kv".into(), first.clone());
    assert!(!check_damage(&directory, &renamed, model).is_sound());
    let mut three = good.clone();
    three.insert(THIRD.into(), first);
    assert!(!check_damage(&directory, &three, model).is_sound());
    // What is live stands in that file alone, and its header says where it begins.
    let (mut alone, models) = one_generation();
    let bytes = alone.remove(FIRST).unwrap();
    let format = Header::decode(&bytes).unwrap().unwrap().format;
    let header = Header { format, generation: 2, base: bytes.len() as u64 };
    alone.insert(SECOND.into(), header.encode().to_vec());
    alone.insert("0000000007.kv".into(), bytes);
    let model = models.last().unwrap();
    assert!(!check_damage(&directory, &alone, model).is_sound());
}

#[test]
fn the_base_is_worked_out_where_the_header_is_gone() {
    // By what the first record states; for a file after another one, by where that ends.
    let directory = TempDir::new();
    let (good, _) = two_generations();
    for name in [FIRST, SECOND] {
        let alone = Files::from([(name.to_owned(), good[name].clone())]);
        let mut damaged = alone.clone();
        damaged.get_mut(name).unwrap()[..HEADER_LEN].fill(0);
        // Damage further on does not matter.
        let later = records(&good[name])[2].clone();
        damaged.get_mut(name).unwrap()[later.start] ^= 1;
        let model = model_without(&alone, |_, found| found.start == later.start);
        assert!(!check_damage(&directory, &damaged, &model).is_sound(), "{name}");
    }
    let mut damaged = good.clone();
    // Its first sector, header and records; the file before says where it begins.
    let gone = records(&good[SECOND])[1].start + 1;
    damaged.get_mut(SECOND).unwrap()[..gone].fill(0);
    let model =
        model_without(&good, |name, found| name == SECOND && found.start < gone);
    assert!(!check_damage(&directory, &damaged, &model).is_sound());
}

#[test]
fn a_file_without_its_header_and_its_first_record_is_given_up() {
    let directory = TempDir::new();
    let (good, _) = two_generations();
    let alone = Files::from([(SECOND.to_owned(), good[SECOND].clone())]);
    let all = records(&good[SECOND]);
    for gone in [all[0].end, all[1].start + 1, all[all.len() - 3].start] {
        let mut damaged = alone.clone();
        damaged.get_mut(SECOND).unwrap()[..gone].fill(0);
        put_files(directory.path(), &damaged);
        let errors = [
            check(&Faulty::new(directory.path())).err(),
            Faulty::new(directory.path()).open(&options(), NOW).err(),
            repair_in(directory.path()).err(),
        ];
        for error in errors {
            let error = error.expect("it fails").to_string();
            assert!(error.starts_with(&format!("{SECOND}: neither a ")), "{error}");
        }
        assert_eq!(files(directory.path()), damaged);
    }
    // The file after it is continued with.
    let mut damaged = good.clone();
    damaged.get_mut(FIRST).unwrap()[..records(&good[FIRST])[0].end].fill(0);
    let model = model_without(&good, |name, _| name == FIRST);
    assert!(!check_damage(&directory, &damaged, &model).is_sound());
}

#[test]
fn files_of_copies_alone_can_be_read_without_their_header() {
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.set(b"a", 1, 0, b"one");
    writer.set(b"ab", 2, 0, b"two");
    writer.commit();
    writer.store.compact(&|| NOW).unwrap();
    let model = writer.models.last().unwrap().clone();
    let good = written_files(&directory);
    assert_eq!(good.len(), 1);
    let mut damaged = good.clone();
    damaged.get_mut(SECOND).unwrap()[..HEADER_LEN].fill(0);
    let scratch = TempDir::new();
    assert!(!check_damage(&scratch, &damaged, &model).is_sound());
}

#[test]
fn the_requested_sizes_are_used_where_no_header_has_them() {
    let directory = TempDir::new();
    let (good, models) = one_generation();
    let mut damaged = good.clone();
    damaged.get_mut(FIRST).unwrap()[0] ^= 1;
    put_files(directory.path(), &damaged);
    // With the default sizes nothing in it is a record.
    let disk = Faulty::new(directory.path()).shared();
    let error = repair(&disk, &Settings::default()).err().unwrap();
    assert!(is_nothing(&error), "{error:?}");
    assert_eq!(files(directory.path()), damaged);
    let model = models.last().unwrap();
    assert!(!check_damage(&directory, &damaged, model).is_sound());
}

/// Whether it says that no data file is there that can be told to be ours.
fn is_nothing(error: &Error) -> bool {
    let why = "neither a header nor a record in it can be read; choose another --data";
    *error == Error::Open(format!("{FIRST}: {why}"))
}

#[test]
fn what_shows_no_header_and_no_record_is_not_ours() {
    let directory = TempDir::new();
    for bytes in [&b""[..], b"a diary", &[0; 100], &[0xFF; 300]] {
        let foreign = Files::from([(FIRST.to_owned(), bytes.to_vec())]);
        put_files(directory.path(), &foreign);
        for error in [
            check(&Faulty::new(directory.path())).err().unwrap(),
            repair_in(directory.path()).err().unwrap(),
        ] {
            assert!(is_nothing(&error), "{error:?}");
        }
        assert_eq!(files(directory.path()), foreign);
    }
}

#[test]
fn a_repair_leaves_a_lock_file_of_somebody_elses_alone() {
    let directory = TempDir::new();
    let mut damaged = few_records();
    damaged.get_mut(FIRST).unwrap()[0] ^= 1;
    damaged.insert("lock".into(), b"a diary".to_vec());
    put_files(directory.path(), &damaged);
    let (said, code) = run("--repair", directory.path());
    assert!(said.contains("the file `lock` in it is not ours"), "{said}");
    assert_eq!(code, Some(1));
    assert_eq!(files(directory.path()), damaged);
}

#[test]
fn several_damages_are_named_one_by_one() {
    let directory = TempDir::new();
    let (good, _) = one_generation();
    let all = records(&good[FIRST]);
    let hit = [1, 2, 5];
    let mut damaged = good.clone();
    for place in hit {
        damaged.get_mut(FIRST).unwrap()[all[place].start] ^= 1;
    }
    let model = model_without(&good, |_, found| {
        hit.iter().any(|place| all[*place].start == found.start)
    });
    let found = check_damage(&directory, &damaged, &model);
    let place = |from: usize, to: usize| range(all[from].start, all[to].end);
    assert_eq!(found.files[0].damage, [place(1, 2), place(5, 5)]);
    assert_eq!(found.records(), all.len() as u64 - 3);
    let line = |from: usize, to: usize| {
        let (start, len) = (all[from].start, all[to].end - all[from].start);
        format!("{FIRST}: damaged at offset {start}: {len} bytes")
    };
    assert_eq!(found.problems(), [line(1, 2), line(5, 5)]);
}

/// A client can make up a value that looks like a long record at every few bytes; each of
/// them has to be checksummed before it can be rejected.
#[test]
fn what_looks_like_records_at_every_step_ends_the_search_for_long_ones() {
    let settings = Settings { int_size: Some(4), ..settings() };
    let options = Options { settings, ..options() };
    let overhead = options.settings.key_size.map_or(0, usize::from) + 35 + 4;
    let mut head = vec![0; overhead];
    // A set without a key, and with a value of 30,000 bytes.
    head[4] = 1;
    head[overhead - 4..].copy_from_slice(&30_000_u32.to_be_bytes());
    let values: [(&[u8], Vec<u8>); 3] = [
        (b"evil", head.repeat(100_000 / overhead)),
        (b"s", b"short".into()),
        (b"l", vec![b'l'; 5000]),
    ];
    // The second time, no later record says that what is damaged was ever safe. A start
    // does not cut it off all the same: it can't know that no record follows.
    for (count, expected) in [(3, [true, false, false]), (1, [false; 3])] {
        let directory = TempDir::new();
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(&options, NOW).unwrap();
        let mut session = Session::at(NOW);
        for (key, value) in &values[..count] {
            store.set(&mut session, key, 0, 0, value).unwrap();
            store.settle(&session).unwrap();
        }
        drop(store);
        let path = directory.path().join(FIRST);
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER_LEN] ^= 1;
        fs::write(&path, bytes).unwrap();

        let line = format!("{FIRST}: damaged at offset {HEADER_LEN}: ");
        let start = Faulty::new(directory.path()).open(&options, NOW).err().unwrap();
        assert!(start.to_string().starts_with(&line), "{start}");
        let disk = Faulty::new(directory.path()).shared();
        let found = survey(&*disk, &settings, |_, _| Ok(())).unwrap();
        let Surveyed { records, torn, .. } = &found.files[0];
        assert_eq!((*records, torn), (u64::from(count == 3), &None));
        assert!(!found.is_sound() && found.problems()[0].starts_with(&line));
        repair(&disk, &settings).unwrap().unwrap();
        let (store, _) = Faulty::new(directory.path()).open(&options, NOW).unwrap();
        let mut has = |key| store.get(&mut session, key).unwrap().is_some();
        assert_eq!([b"s", &b"l"[..], b"evil"].map(&mut has), expected);
    }
}

#[test]
fn a_check_counts_as_a_store_does() {
    let directory = TempDir::new();
    for (good, _) in [one_generation(), two_generations()] {
        put_files(directory.path(), &good);
        let disk = Faulty::new(directory.path());
        let found = survey(&disk, &settings(), |_, _| Ok(())).unwrap();
        let all: usize = good.values().map(|bytes| records(bytes).len()).sum();
        assert_eq!(found.records(), all as u64);
        let (store, _) = disk.open(&options(), NOW).unwrap();
        let (keys, live) = (store.figure("curr_items"), store.figure("bytes"));
        let line = format!("{all} records, {keys} live keys in {live} bytes\n");
        assert!(found.to_string().contains(&line), "{found}, not {line}");
    }
}

#[test]
fn zeros_after_the_newest_records_are_not_damage_and_elsewhere_they_are() {
    let directory = TempDir::new();
    let good = few_records();
    let model = model_without(&good, |_, _| false);
    let mut longer = good.clone();
    longer.get_mut(SECOND).unwrap().extend([0; 5000]);
    assert_eq!(shown(&check_damage(&directory, &longer, &model)), "");
    // Beside other damage they are not damage either.
    longer.get_mut(SECOND).unwrap()[HEADER_LEN] ^= 1;
    put_files(directory.path(), &longer);
    let hit = &records(&good[SECOND])[0];
    let damage = &check_in(directory.path()).files[1].damage;
    assert_eq!(damage[..], [range(hit.start, hit.end)]);
    let mut older = good.clone();
    older.get_mut(FIRST).unwrap().extend([0; 5000]);
    assert!(!check_damage(&directory, &older, &model).is_sound());
}

#[test]
fn a_repair_continues_where_the_first_file_is_missing() {
    // C3: the newer of two files, in the middle of a compaction.
    let (good, _) = two_generations();
    let all = records(&good[SECOND]);
    let place = all.iter().position(|found| found.kind == Kind::Complete).unwrap();
    for len in [HEADER_LEN, all[0].end, all[place].start] {
        let directory = TempDir::new();
        let bytes = good[SECOND][..len].to_vec();
        let left = Files::from([(SECOND.to_owned(), bytes)]);
        put_files(directory.path(), &left);
        let line = format!(
            "{FIRST} is missing, and {SECOND} does not have all that was in it"
        );
        let found = check_in(directory.path());
        assert_eq!(found.gap.as_deref(), Some(&line[..]));
        assert!(!found.is_sound());
        assert_eq!(found.problems(), [line]);
        // And what it makes of them opens: it has all that there is.
        let model = model_without(&left, |_, _| false);
        check_damage(&directory, &left, &model);
        assert!(check_in(directory.path()).gap.is_none());
    }
    // Damage may hide the record that ends a compaction: then it is what is reported.
    let directory = TempDir::new();
    let mut left = Files::from([(SECOND.to_owned(), good[SECOND].clone())]);
    let model = model_without(&left, |_, found| found.start == all[place].start);
    left.get_mut(SECOND).unwrap()[all[place].start] ^= 1;
    let found = check_damage(&directory, &left, &model);
    assert!(found.gap.is_none() && found.files[0].damage.len() == 1);
}

#[test]
fn no_position_is_used_twice_after_a_repair() {
    let good = few_records();
    let newest = records(&good[SECOND]).pop().unwrap();
    for len in [0, HEADER_LEN + 1, good[SECOND].len()] {
        let directory = TempDir::new();
        let mut damaged = good.clone();
        damaged.get_mut(SECOND).unwrap().truncate(len);
        damaged.get_mut(FIRST).unwrap()[HEADER_LEN] ^= 1;
        put_files(directory.path(), &damaged);
        repair_in(directory.path()).unwrap().expect("damaged");
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(&options(), NOW).unwrap();
        let mut session = Session::at(NOW);
        assert_eq!(store.set(&mut session, b"a", 0, 0, b"new"), Ok(Answer::Stored));
        let seen = contents(&store, &KEYS, NOW);
        // The unique of a value that was lost is not that of another one.
        assert!(seen[&b"a"[..]].cas > newest.position);
    }
}

#[test]
fn an_older_repairs_files_are_kept() {
    let directory = TempDir::new();
    let mut damaged = few_records();
    damaged.get_mut(FIRST).unwrap()[HEADER_LEN] ^= 1;
    let older = [format!("{FIRST}.damaged"), format!("{FIRST}.damaged.2")];
    for name in &older {
        damaged.insert(name.clone(), name.clone().into_bytes());
    }
    put_files(directory.path(), &damaged);
    let repaired = repair_in(directory.path()).unwrap().expect("damaged");
    let free = [&format!("{FIRST}.damaged.3"), &format!("{SECOND}.damaged")];
    assert_eq!(kept(&repaired), [(FIRST, &free[0][..]), (SECOND, free[1])]);
    let now = files(directory.path());
    assert!(older.iter().all(|name| now[name] == damaged[name]));
}

#[test]
fn damage_to_a_repaired_file_is_told_from_a_torn_end() {
    // R4: its last record says that those before it were safe; and without that one, the
    // file does not have all that was in the older ones.
    let directory = TempDir::new();
    let (mut damaged, _) = one_generation();
    damaged.get_mut(FIRST).unwrap()[HEADER_LEN] ^= 1;
    put_files(directory.path(), &damaged);
    repair_in(directory.path()).unwrap().expect("damaged");
    let mut again = files(directory.path());
    let all = records(&again[SECOND]);
    for (place, found) in all.iter().enumerate() {
        again.get_mut(SECOND).unwrap()[found.start] ^= 1;
        put_files(directory.path(), &again);
        let error = Faulty::new(directory.path()).open(&options(), NOW).err();
        let error = error.expect("it fails").to_string();
        let expected = if place < all.len() - 1 {
            format!("{SECOND}: damaged at offset {}: ", found.start)
        } else {
            format!("{FIRST} is missing, and {SECOND} does not have all ")
        };
        assert!(error.starts_with(&expected), "{error}");
        again.get_mut(SECOND).unwrap()[found.start] ^= 1;
    }
}

/// Files with damage to both, with a torn end, and what can be read of them.
fn damaged_twice() -> (Files, Model) {
    let (mut damaged, _) = two_generations();
    let older = records(&damaged[FIRST])[4].start;
    // A copy, so that its original is needed.
    let copies = records(&damaged[SECOND]);
    let newer = copies.iter().find(|found| found.key == b"abc").unwrap().start;
    let torn = records(&damaged[SECOND]).pop().unwrap();
    let model = model_without(&damaged, |name, found| match name {
        FIRST => found.start == older,
        _ => found.start == newer || found.start == torn.start,
    });
    damaged.get_mut(FIRST).unwrap()[older] ^= 1;
    let bytes = damaged.get_mut(SECOND).unwrap();
    bytes[newer] ^= 1;
    bytes.truncate(torn.end - 1);
    (damaged, model)
}

/// Checks what an interrupted repair has left of `damaged`: a start shows what could
/// be read or fails, and when it fails, to repair again saves all of that.
#[track_caller]
fn check_left(path: &Path, damaged: &Files, model: &Model) {
    let left = files(path);
    // R4
    for (name, bytes) in damaged {
        assert!(left.values().any(|kept| kept == bytes), "{name} is lost");
    }
    let is_done = !left.contains_key(FIRST) && !left.contains_key(SECOND);
    match Faulty::new(path).open(&options(), NOW) {
        Ok(_) => assert!(is_done, "R5: a start took {:?}", left.keys()),
        Err(error) => {
            assert!(!is_done, "{error}");
            assert!(error.to_string().ends_with("by server --repair"), "{error}");
            let now =
                files(path).into_iter().filter(|(name, _)| !name.ends_with(".tmp"));
            let before = left.into_iter().filter(|(name, _)| !name.ends_with(".tmp"));
            assert!(now.eq(before), "a start that fails changes nothing");
            repair_in(path).unwrap().expect("damaged");
        }
    }
    check_contents(&Faulty::new(path), model);
    assert!(check_in(path).is_sound());
}

#[test]
fn a_repair_can_stop_at_any_call_and_be_done_again() {
    // R5: a start fails on an undamaged old file beside the new one, too.
    let (mut damaged_once, _) = two_generations();
    let older = records(&damaged_once[FIRST])[4].start;
    let model = model_without(&damaged_once, |name, found| {
        name == FIRST && found.start == older
    });
    damaged_once.get_mut(FIRST).unwrap()[older] ^= 1;
    check_stops(&damaged_once, &model);
    let (damaged_twice, model) = damaged_twice();
    check_stops(&damaged_twice, &model);
}

/// Stops the repair of these files at each call there is.
fn check_stops(damaged: &Files, model: &Model) {
    for calls in 0.. {
        let directory = TempDir::new();
        put_files(directory.path(), damaged);
        let disk = Faulty::new(directory.path());
        disk.fail(Call::ALL, calls, How::Stop);
        let repaired = repair(&disk.shared(), &settings());
        if !disk.has_stopped() {
            repaired.unwrap().expect("damaged");
            let left = TempDir::new();
            disk.power_cut(left.path(), 0);
            check_left(left.path(), damaged, model);
            assert!(calls > 20, "a repair makes more than {calls} calls");
            break;
        }
        assert!(repaired.is_err(), "call {calls} failed, and the repair did not");
        disk.heal();
        // A power cut that comes then, and one that does not.
        for seed in 0..6 {
            let left = TempDir::new();
            disk.power_cut(left.path(), seed);
            check_left(left.path(), damaged, model);
        }
        check_left(directory.path(), damaged, model);
    }
}

#[test]
fn each_step_of_a_repair_is_safe_before_the_next() {
    // R4: the copies, the record that says that they are all, their file's name, then the
    // names of the old files.
    let directory = TempDir::new();
    let (damaged, _) = damaged_twice();
    put_files(directory.path(), &damaged);
    let disk = Faulty::new(directory.path());
    repair(&disk.shared(), &settings()).unwrap().expect("damaged");
    let done = disk.done().into_iter().map(|done| done.call);
    let changing = [Call::Write, Call::Sync, Call::Rename, Call::SyncDir];
    let mut steps: Vec<Call> = done.filter(|call| changing.contains(call)).collect();
    steps.dedup();
    use Call::{Rename, Sync, SyncDir, Write};
    let copies = [Write, Sync].repeat(3);
    let names = [Rename, SyncDir].repeat(3);
    assert_eq!(steps, [&copies[..], &names].concat());
}

#[test]
fn a_repair_that_meets_an_error_loses_nothing() {
    let (damaged, model) = damaged_twice();
    let check = |calls: &'static [Call], after, how| {
        let directory = TempDir::new();
        put_files(directory.path(), &damaged);
        let disk = Faulty::new(directory.path());
        disk.fail(calls, after, how);
        let is_done = repair(&disk.shared(), &settings()).is_ok();
        disk.heal();
        if is_done {
            // And safe: what could not be known to be would have been an error.
            let left = TempDir::new();
            disk.power_cut(left.path(), 0);
            check_left(left.path(), &damaged, &model);
        }
        check_left(directory.path(), &damaged, &model);
        is_done
    };
    for (calls, how) in [
        (Call::ALL, How::Once),
        (&[Call::Write][..], How::Short),
        (&[Call::Write], How::Always),
        (&[Call::Sync], How::Always),
        (&[Call::Rename], How::Late),
    ] {
        let failed = (0..).take_while(|after| !check(calls, *after, how)).count();
        assert!(failed > 0, "{calls:?} {how:?}");
    }
}

#[test]
fn a_disk_too_full_for_a_repair_gets_its_space_back() {
    let directory = TempDir::new();
    let (damaged, _) = damaged_twice();
    put_files(directory.path(), &damaged);
    let disk = Faulty::new(directory.path());
    // The header fits.
    disk.fail(&[Call::Write], 1, How::Always);
    assert!(repair(&disk.shared(), &settings()).is_err());
    assert_eq!(files(directory.path()), damaged);
}

// By the real program.

/// Runs `server` on these data and gives it time.
fn server(task: &str, data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.env_remove("SERVER_HOST").env_remove("SERVER_PORT").timeout(REPLY_TIMEOUT);
    command.args(task.split_whitespace()).arg("--data").arg(data);
    command
}

/// What it prints, on both outputs, and its exit code.
fn run(task: &str, data: &Path) -> (String, Option<i32>) {
    let output = server(task, data).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).expect("text"), output.status.code())
}

/// A start that ends when no client comes.
const START: &str = "--port 0 --idle-exit 0.01";

#[test]
fn the_program_says_of_a_sample_what_a_start_does() {
    let directory = TempDir::new();
    let data = directory.path();
    let good = few_records();
    let mut sample = Vec::new();
    for name in [FIRST, SECOND] {
        let len = good[name].len();
        for bit in (3..len * 8).step_by(len) {
            let mut damaged = good.clone();
            damaged.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            sample.push(damaged);
        }
        for cut in (0..=len).step_by(len / 3) {
            let mut damaged = good.clone();
            damaged.get_mut(name).unwrap().truncate(cut);
            sample.push(damaged);
        }
    }
    let mut failed = 0;
    for damaged in &sample {
        put_files(data, damaged);
        let before = files(data);
        let (said, code) = run("--check", data);
        let named = |problem: &str| said.lines().any(|line| line.contains(problem));
        assert_eq!(files(data), before, "a check changes nothing: {said}");
        let (started, started_code) = run(START, data);
        if code == Some(0) {
            assert_eq!(started_code, Some(0), "{said}{started}");
            assert_eq!(started.contains("torn end"), named("a torn end"), "{said}");
            continue;
        }
        failed += 1;
        assert_eq!((code, started_code), (Some(1), Some(1)), "{said}{started}");
        let line = started.lines().next().expect("a line");
        assert!(line.ends_with("by server --repair"), "{started}");
        let (repaired, code) = run("--repair", data);
        assert_eq!(code, Some(0), "{said}{repaired}");
        assert!(repaired.contains("0000000003.kv is new, with the "), "{repaired}");
        let (checked, code) = run("--check", data);
        assert_eq!(code, Some(0), "{checked}");
        assert_eq!(run(START, data).1, Some(0), "{checked}");
    }
    assert!(failed > 10 && failed < sample.len() - 2, "{failed}");
}

#[test]
fn a_check_says_what_is_there() {
    let directory = TempDir::new();
    let data = directory.path();
    let mut damaged = few_records();
    put_files(data, &damaged);
    let all = damaged.clone().into_values().map(|bytes| records(&bytes));
    let [first, second] = &all.collect::<Vec<_>>()[..] else { panic!() };
    let (len, base) = (damaged[FIRST].len(), damaged[SECOND].len());
    let sound = format!(
        "{FIRST}: {len} bytes from position 0, 4 records\n\
         {SECOND}: {base} bytes from position {len}, 6 records\n\
         10 records, 3 live keys in 136 bytes\n\
         nothing that was safe is damaged\n"
    );
    let mtime = |name| fs::metadata(data.join(name)).expect("a file").mtime_nsec();
    let before = [mtime(FIRST), mtime(SECOND)];
    server("--check", data).assert().code(0).stdout(sound).stderr("");
    assert_eq!([mtime(FIRST), mtime(SECOND)], before);

    let Found { start, end, .. } = first[1];
    damaged.get_mut(FIRST).unwrap()[end - 1] ^= 1;
    let torn = second[5].clone();
    damaged.get_mut(SECOND).unwrap().truncate(torn.end - 1);
    put_files(data, &damaged);
    let problems = format!(
        "{FIRST}: damaged at offset {start}: {} bytes\n\
         {SECOND}: a torn end at offset {}: {} bytes, not known to have been synced\n",
        end - start,
        torn.start,
        torn.end - 1 - torn.start,
    );
    let output = server("--check", data).assert().code(1).stderr("");
    let said = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(said.contains(&problems), "{said}");
    assert!(said.ends_with("damaged: see server --repair\n"), "{said}");

    let repaired = format!(
        "{problems}{THIRD} is new, with the 8 records that can be read\n\
         {FIRST} is now {FIRST}.damaged\n{SECOND} is now {SECOND}.damaged\n\
         {} bytes could not be read; a value whose deletion or overwriting was lost \
         may have come back\n",
        end - start + torn.end - 1 - torn.start,
    );
    server("--repair", data).assert().code(0).stdout(repaired).stderr("");
    let nothing = "there is nothing to repair\n";
    server("--repair", data).assert().code(0).stdout(nothing).stderr("");
}

#[test]
fn where_there_is_no_data_nothing_is_made() {
    let directory = TempDir::new();
    let missing = directory.path().join("none");
    for task in ["--check", "--repair", "--compact"] {
        for data in [&missing, directory.path()] {
            let (said, code) = run(task, data);
            let beginning =
                format!("server: can't use the data directory {}: ", data.display());
            assert!(said.starts_with(&beginning), "{said}");
            assert_eq!((said.lines().count(), code), (1, Some(1)), "{said}");
        }
        assert_eq!(files(directory.path()), BTreeMap::new());
    }
}

#[test]
fn data_in_use_is_left_to_its_owner() {
    let server = Server::start(&[]);
    let before = files(server.data());
    for task in ["--check", "--repair", "--compact"] {
        let (said, code) = run(task, server.data());
        let owner = format!("process {} is using it", server.pid());
        assert!(said.contains(&owner) && code == Some(1), "{said}");
        assert!(files(server.data()) == before);
    }
}

#[test]
fn a_compaction_by_hand_leaves_what_is_live_and_no_preallocated_space() {
    let directory = TempDir::new();
    let data = directory.path();
    let good = few_records();
    // Two generations, of which the newer has garbage as well.
    put_files(data, &good);
    let before: usize = good.values().map(Vec::len).sum();
    // C3: and the record that says that no older file is needed.
    let after = HEADER_LEN + 136 + 35 + 4 + 2;
    let said = format!("{before} bytes before, {after} now, with 3 items\n");
    server("--compact", data).assert().code(0).stdout(said).stderr("");
    let now = files(data);
    assert_eq!(now.keys().collect::<Vec<_>>(), [THIRD, "lock"]);
    assert_eq!(now[THIRD].len(), after);
    let model = model_without(&good, |_, _| false);
    put_files(data, &now);
    assert_eq!(check_contents(&Faulty::new(data), &model), None);
    // There is no garbage, and it is done all the same.
    let said = format!("{after} bytes before, {after} now, with 3 items\n");
    server("--compact", data).assert().code(0).stdout(said);
    assert!(files(data).contains_key("0000000004.kv"));
}

#[test]
fn the_newer_of_two_files_can_lose_its_header() {
    // The older one ends with the record that says so (L6), which takes no position.
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.write_all_sorts(&directory);
    writer.disk.fail(&[Call::Remove], 1, How::Once);
    writer.store.compact(&|| NOW).unwrap_err();
    writer.set(b"a", 5, 0, b"after");
    writer.commit();
    let expected = contents(&writer.store, &KEYS, NOW);
    drop(writer);
    let mut damaged = files(directory.path());
    damaged.get_mut(SECOND).unwrap()[20] ^= 1;
    put_files(directory.path(), &damaged);
    let disk = Faulty::new(directory.path());
    repair(&disk.shared(), &settings()).unwrap().expect("damaged");
    let (store, _) = disk.open(&options(), NOW).unwrap();
    assert_eq!(contents(&store, &KEYS, NOW), expected);
}

#[test]
fn what_an_interrupted_start_has_left_is_named() {
    // R3: a check that did not see it would count too few records, and a dump lack them.
    let directory = TempDir::new();
    let (good, _) = one_generation();
    put_files(directory.path(), &good);
    let disk = Faulty::new(directory.path());
    disk.fail(&[Call::Remove], 0, How::Stop);
    assert!(disk.open(&options(), NOW).is_err());
    disk.heal();
    let found = survey(&disk, &settings(), |_, _| Ok(())).unwrap();
    let problems = found.problems();
    assert!(!found.is_sound() && problems[0].contains(".rest-"), "{problems:?}");
    // A repair continues it, as a start does.
    assert!(repair(&disk.shared(), &settings()).unwrap().is_none());
    let (store, _) = disk.open(&options(), NOW).unwrap();
    assert!(store.figure("curr_items") > 0);
}

#[test]
fn a_compaction_by_hand_does_a_flush_that_is_due() {
    let directory = TempDir::new();
    let (good, _) = two_generations();
    put_files(directory.path(), &good);
    let disk = Faulty::new(directory.path());
    let (store, _) = disk.open(&options(), LATER).unwrap();
    store.compact(&|| LATER).unwrap();
    assert_eq!(store.figure("curr_items"), 0);
    drop(store);
    let left = records(&files(directory.path())[THIRD]);
    assert_eq!(
        left.iter().map(|found| found.kind).collect::<Vec<_>>(),
        [Kind::Complete]
    );
}

#[test]
fn other_sizes_than_the_header_has_are_an_error() {
    let directory = TempDir::new();
    put_files(directory.path(), &few_records());
    for task in ["--check --key-size 60", "--repair --key-size 60"] {
        let (said, code) = run(task, directory.path());
        assert!(said.contains("was made with KEY_SIZE 4, INT_SIZE 2"), "{said}");
        assert_eq!((said.lines().count(), code), (1, Some(1)));
    }
}

#[test]
fn a_server_continues_with_what_was_repaired() {
    let directory = TempDir::new();
    let options = Options { settings: Settings::default(), ..options() };
    let disk = Faulty::new(directory.path());
    let (store, _) = disk.open(&options, NOW).unwrap();
    let mut session = Session::at(NOW);
    for key in [&b"a"[..], b"b", b"c"] {
        store.set(&mut session, key, 7, 0, key).unwrap();
        store.settle(&session).unwrap();
    }
    drop(store);
    let mut damaged = files(directory.path());
    let hit = records(&damaged[FIRST])[1].start;
    damaged.get_mut(FIRST).unwrap()[hit] ^= 1;
    damaged.get_mut(FIRST).unwrap()[10] ^= 1;
    put_files(directory.path(), &damaged);
    server("--repair", directory.path()).assert().code(0);
    let server = Server::start_on(directory.path(), &[]);
    let address = server.addr.to_string();
    let options = client::Options { address, ..client::Options::default() };
    let mut client = Client::connect(&options).expect("it serves");
    let mut value = |key| client.get(key).expect("an answer").map(|item| item.value);
    assert_eq!(value("a").as_deref(), Some(&b"a"[..]));
    assert_eq!(value("b"), None);
    assert_eq!(value("c").as_deref(), Some(&b"c"[..]));
    client.set("b", "new", 0, 0).expect("stored");
}

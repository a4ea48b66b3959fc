//! What a start makes of the files that it finds: cut, damaged, left half done.
//!
//! Each test builds a short log, keeps a model of what it means after each record,
//! and then does to the files what a crash, a power cut or a bad disk would do. What
//! a start must not do is guess: it shows what the log said up to some record, or it
//! fails and changes nothing.

mod common;

use common::TempDir;
use common::disk::{
    Call, Done, Faulty, Found, How, contents, files, put_files, records, written,
};
use common::history::{
    FIRST, Files, KEYS, Model, NOW, SECOND, Writer, check_contents, one_generation,
    options, two_generations, written_files,
};
use common::verbs::Verbs;
use memcached_lite::store::record::{
    Draft, Format, HEADER_LEN, Header, IntOrder, Kind, Record,
};
use memcached_lite::store::{Error, Options, Session, SyncMode};
use std::collections::BTreeMap;
use std::path::Path;

/// The message of a start that failed because of what is in the files.
#[track_caller]
fn why(opened: Result<impl Sized, Error>) -> String {
    match opened.err() {
        Some(Error::Open(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// The line about a torn end that was kept in `kept`.
fn torn_line(name: &str, offset: usize, len: usize, kept: &str) -> Option<String> {
    Some(format!(
        "{name} had a torn end of {len} bytes at offset {offset}, not known to have \
         been synced; cut off and kept in {kept}"
    ))
}

/// What a start says to do about damage.
const ADVICE: &str = "; nothing was changed: put the right file back, or continue with \
                      what can be read by server --repair";

/// Opens `files`, of which the newest, `name`, is `good` except for one range that a
/// crash or the disk has changed, and checks all that may come of it: `models` are
/// those after each record of `good`.
fn check_newest(
    directory: &TempDir,
    files_now: &Files,
    name: &str,
    good: &[u8],
    models: &[Model],
) {
    put_files(directory.path(), files_now);
    let disk = Faulty::new(directory.path());
    let bytes = &files_now[name];
    let same = bytes.iter().zip(good).take_while(|(now, good)| now == good).count();
    let all = records(good);
    if same < HEADER_LEN {
        let why = why(disk.open(&options(), NOW));
        let told = ["damaged at offset 0: ", "neither a header nor a record "];
        let told = told.map(|told| format!("{name}: {told}"));
        assert!(told.iter().any(|told| why.starts_with(told)), "{why}");
        assert_eq!(&files(directory.path()), files_now);
        return;
    }
    let whole = all.iter().take_while(|record| record.end <= same).count();
    let stop = all.get(whole).map_or(good.len(), |record| record.start);
    // The records after the damage that are as they were written.
    let following: Vec<&Found> = all[whole..]
        .iter()
        .filter(|r| bytes.get(r.start..r.end) == good.get(r.start..r.end))
        .collect();
    let position = Header::decode(good).unwrap().unwrap().base + stop as u64;
    if following.iter().any(|record| record.synced > position) {
        // R2
        let len = following[0].start - stop;
        let line = format!("{name}: damaged at offset {stop}: {len} bytes{ADVICE}");
        assert_eq!(why(disk.open(&options(), NOW)), line);
        assert_eq!(&files(directory.path()), files_now);
        return;
    }
    // R1
    let torn = check_contents(&disk, &models[whole]);
    let kept = files(directory.path()).remove(&format!("{name}.torn"));
    // Zeros are not a torn end, but preallocated space.
    let end = written(bytes).len().max(stop);
    if stop == end {
        assert_eq!((torn, kept), (None, None));
    } else {
        assert_eq!(torn, torn_line(name, stop, end - stop, &format!("{name}.torn")));
        assert_eq!(kept.as_deref(), Some(&bytes[stop..end]));
    }
}

#[test]
fn a_log_cut_at_any_byte_is_what_its_whole_records_say() {
    let directory = TempDir::new();
    let (good, models) = one_generation();
    for len in 0..=good[FIRST].len() {
        let cut = BTreeMap::from([(FIRST.into(), good[FIRST][..len].to_vec())]);
        check_newest(&directory, &cut, FIRST, &good[FIRST], &models);
    }
}

#[test]
fn zeros_after_the_records_are_preallocated_space() {
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.write_all_sorts(&directory);
    let model = writer.models.last().unwrap().clone();
    drop(writer);
    // As a killed server leaves them: R1 keeps nothing aside.
    let before = files(directory.path());
    assert!(before[FIRST].len() > written(&before[FIRST]).len() + 100_000);
    let disk = Faulty::new(directory.path());
    assert_eq!(check_contents(&disk, &model), None);
    let after = files(directory.path());
    assert_eq!(after[FIRST], written(&before[FIRST]));
    assert_eq!(after.len(), 1);
}

#[test]
fn zeros_where_a_log_was_cut_are_not_records() {
    let directory = TempDir::new();
    let (good, models) = one_generation();
    for len in HEADER_LEN..good[FIRST].len() {
        let mut bytes = good[FIRST].clone();
        bytes[len..].fill(0);
        let zeros = BTreeMap::from([(FIRST.into(), bytes)]);
        check_newest(&directory, &zeros, FIRST, &good[FIRST], &models);
    }
}

#[test]
fn a_flipped_bit_fails_a_start_where_it_was_safe_and_is_cut_off_elsewhere() {
    // F1: whatever the bit belonged to, no field of that record was believed.
    let directory = TempDir::new();
    let (good, models) = one_generation();
    let mut flipped = good.clone();
    for bit in 0..good[FIRST].len() * 8 {
        flipped.get_mut(FIRST).unwrap()[bit / 8] ^= 1 << (bit % 8);
        check_newest(&directory, &flipped, FIRST, &good[FIRST], &models);
        flipped.get_mut(FIRST).unwrap()[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn the_newer_of_two_generations_is_cut_or_fails_a_start_as_if_it_were_alone() {
    let directory = TempDir::new();
    let (good, models) = two_generations();
    let good_bytes = &good[SECOND];
    for len in (0..=good_bytes.len()).step_by(3) {
        let mut files = good.clone();
        files.get_mut(SECOND).unwrap().truncate(len);
        check_newest(&directory, &files, SECOND, good_bytes, &models);
    }
    for bit in (0..good_bytes.len() * 8).step_by(7) {
        let mut files = good.clone();
        files.get_mut(SECOND).unwrap()[bit / 8] ^= 1 << (bit % 8);
        check_newest(&directory, &files, SECOND, good_bytes, &models);
    }
}

#[test]
fn damage_in_the_older_of_two_generations_fails_a_start() {
    // R2: it was synced whole before the newer one began.
    let directory = TempDir::new();
    let (good, _) = two_generations();
    let all = records(&good[FIRST]);
    for bit in (0..good[FIRST].len() * 8).step_by(7) {
        let mut flipped = good.clone();
        flipped.get_mut(FIRST).unwrap()[bit / 8] ^= 1 << (bit % 8);
        put_files(directory.path(), &flipped);
        let why = why(Faulty::new(directory.path()).open(&options(), NOW));
        let expected = if bit / 8 < HEADER_LEN {
            format!("{FIRST}: damaged at offset 0: {HEADER_LEN} bytes")
        } else {
            let hit = all.iter().find(|record| bit / 8 < record.end).unwrap();
            let (start, len) = (hit.start, hit.end - hit.start);
            format!("{FIRST}: damaged at offset {start}: {len} bytes")
        };
        assert_eq!(why, expected + ADVICE);
        assert_eq!(files(directory.path()), flipped);
    }
    for len in 0..good[FIRST].len() {
        let mut cut = good.clone();
        cut.get_mut(FIRST).unwrap().truncate(len);
        put_files(directory.path(), &cut);
        let why = why(Faulty::new(directory.path()).open(&options(), NOW));
        let whole = all.iter().take_while(|record| record.end <= len).last();
        let whole_end = whole.map_or(HEADER_LEN, |record| record.end);
        let expected = if len < HEADER_LEN {
            format!("{FIRST}: damaged at offset 0: {HEADER_LEN} bytes")
        } else if whole_end < len {
            format!("{FIRST}: damaged at offset {whole_end}: {} bytes", len - whole_end)
        } else {
            format!("{FIRST} and {SECOND} do not continue one another")
        };
        assert_eq!(why, expected + ADVICE);
        assert_eq!(files(directory.path()), cut);
    }
}

#[test]
fn files_that_are_not_one_whole_log_fail_a_start() {
    let directory = TempDir::new();
    let (good, _) = two_generations();
    let header = Header::decode(&good[SECOND]).unwrap().unwrap();
    let end = header.base + good[SECOND].len() as u64;
    let empty = |header: Header| header.encode().to_vec();
    let third = "0000000003.kv".to_owned();
    let follows = Header { generation: 3, base: end, ..header };

    let mut missing = good.clone();
    missing.remove(SECOND);
    missing.insert(third.clone(), empty(follows));
    let missing_why = format!("{FIRST} and {third} do not continue one another");

    let mut three = good.clone();
    let three_why =
        format!("{FIRST} and {SECOND} and {third} do not continue one another");
    three.insert(third, empty(follows));

    let mut early = good.clone();
    early.insert(SECOND.into(), empty(Header { base: header.base - 100, ..header }));
    let early_why = format!("{FIRST} and {SECOND} do not continue one another");

    // A torn end is not what is wrong here.
    let mut torn = early.clone();
    torn.get_mut(SECOND).unwrap().extend(b"torn");

    for (broken, expected) in [
        (missing, missing_why),
        (three, three_why),
        (early, early_why.clone()),
        (torn, early_why),
    ] {
        put_files(directory.path(), &broken);
        // No sizes are requested, so that none can be the reason.
        let opened = Faulty::new(directory.path()).open(&Options::default(), NOW);
        assert_eq!(why(opened), expected + ADVICE);
        assert_eq!(files(directory.path()), broken);
    }

    let mut other_order = good.clone();
    let format = Format { int_order: IntOrder::Little, ..header.format };
    other_order.insert(SECOND.into(), empty(Header { format, ..header }));
    put_files(directory.path(), &other_order);
    let why = why(Faulty::new(directory.path()).open(&Options::default(), NOW));
    assert!(
        why.starts_with(&format!("{SECOND} was made with {format}, not ")),
        "{why}"
    );
    assert_eq!(files(directory.path()), other_order);
}

/// L6
#[test]
fn a_part_of_the_record_that_names_the_next_file_is_as_good_as_none() {
    let directory = TempDir::new();
    let (good, models) = two_generations();
    let Header { format, base, .. } = Header::decode(&good[SECOND]).unwrap().unwrap();
    let mut continued = Vec::new();
    let record = Record { kind: Kind::Continued, ..Record::default() };
    Draft::new(&format, record).append_to(&mut continued, base, base);
    for len in 0..=continued.len() {
        let mut files_now = good.clone();
        files_now.get_mut(FIRST).unwrap().extend(&continued[..len]);
        put_files(directory.path(), &files_now);
        let model = models.last().unwrap();
        assert_eq!(check_contents(&Faulty::new(directory.path()), model), None);
        // Without the next file, only the whole of it can be told from a torn end.
        files_now.remove(SECOND);
        put_files(directory.path(), &files_now);
        let opened = Faulty::new(directory.path()).open(&Options::default(), NOW);
        assert_eq!(opened.is_err(), len == continued.len(), "{len}");
        if len == continued.len() {
            let said = format!("{SECOND} is missing, which follows {FIRST}{ADVICE}");
            assert_eq!(why(opened), said);
        }
    }
}

/// The message of a start on a first file that is not all there was.
fn missing_line(missing: &str, name: &str) -> String {
    format!("{missing} is missing, and {name} does not have all that was in it{ADVICE}")
}

#[test]
fn a_first_file_without_the_end_of_a_compaction_fails_a_start() {
    // C3, stopped at any call: where the older of two files has gone, the newer one is
    // enough only if it says so.
    let third = "0000000003.kv";
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.set(b"a", 1, 0, b"one");
    writer.set(b"ab", 2, 0, b"two");
    writer.commit();
    writer.store.compact(&|| NOW).unwrap();
    writer.delete(b"a");
    writer.set(b"abc", 3, 0, b"three");
    writer.commit();
    let model = writer.models.pop().unwrap();
    drop(writer);
    let begun = files(directory.path());
    let (mut failed, mut opened) = (0, 0);
    for calls in 0.. {
        put_files(directory.path(), &begun);
        let disk = Faulty::new(directory.path());
        let (store, _) = disk.open(&options(), NOW).unwrap();
        disk.fail(Call::ALL, calls, How::Stop);
        let compacted = store.compact(&|| NOW);
        drop(store);
        let mut left = files(directory.path());
        left.retain(|name, _| name.ends_with(".kv"));
        if left.remove(SECOND).is_some() && left.is_empty() {
            // It had not begun.
            continue;
        }
        put_files(directory.path(), &left);
        let found = Faulty::new(directory.path()).open(&options(), NOW);
        let left_now = files(directory.path());
        if found.is_ok() {
            check_contents(&Faulty::new(directory.path()), &model);
            opened += 1;
        } else {
            assert_eq!(why(found), missing_line(SECOND, third));
            assert_eq!(left_now, left);
            failed += 1;
        }
        if compacted.is_ok() {
            break;
        }
    }
    assert!(failed > 3 && opened > 2, "{failed} {opened}");
}

#[test]
fn a_file_of_a_later_number_is_not_the_first() {
    // A restored backup that leaves out the older of two files; or one torn at its end.
    let directory = TempDir::new();
    let (good, _) = two_generations();
    let all = records(&good[SECOND]);
    let place = all.iter().position(|found| found.kind == Kind::Complete).unwrap();
    for len in [HEADER_LEN, all[0].end, all[place].start, all[place].end - 1] {
        let bytes = good[SECOND][..len].to_vec();
        let left = Files::from([(SECOND.to_owned(), bytes)]);
        put_files(directory.path(), &left);
        let disk = Faulty::new(directory.path());
        assert_eq!(why(disk.open(&options(), NOW)), missing_line(FIRST, SECOND));
        assert_eq!(files(directory.path()), left);
    }
    // With the record that ends a compaction, it is all there is.
    for len in [all[place].end, good[SECOND].len()] {
        let bytes = good[SECOND][..len].to_vec();
        put_files(directory.path(), &Files::from([(SECOND.to_owned(), bytes)]));
        Faulty::new(directory.path()).open(&options(), NOW).unwrap();
    }
}

#[test]
fn bytes_of_a_record_inside_a_torn_value_are_not_a_record() {
    // A client that reads uniques can guess where its value will stand, and send a
    // record that is valid there. It is in the way of damage, and not of replay.
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.set(b"a", 0, 0, b"before");
    writer.commit();
    let format = writer.store.format;
    let place = writer.store.figure("log_end") + format.overhead() as u64;
    let evil = Record { key: b"evil", value: b"evil", ..Record::default() };
    let mut crafted = Vec::new();
    Draft::new(&format, evil).append_to(&mut crafted, place, 0);
    assert!(format.decode(&crafted, place).is_some());
    writer.set(b"ab", 0, 0, &crafted);
    writer.commit();
    drop(writer.store);
    let mut damaged = files(directory.path());
    let outer = records(&damaged[FIRST])[1].start;
    damaged.get_mut(FIRST).unwrap()[outer] ^= 1;
    put_files(directory.path(), &damaged);
    let torn = check_contents(&Faulty::new(directory.path()), &writer.models[1]);
    let len = format.record_len(crafted.len());
    assert_eq!(torn, torn_line(FIRST, outer, len, &format!("{FIRST}.torn")));
}

#[test]
fn each_torn_end_of_a_file_is_kept() {
    // R1: what was kept before is not overwritten.
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.set(b"a", 0, 0, b"one");
    writer.commit();
    let model = writer.models.last().unwrap().clone();
    drop(writer);
    let mut kept = Files::new();
    for (round, suffix) in [(1, ""), (2, ".2"), (3, ".3")] {
        let mut now = files(directory.path());
        let end = records(&now[FIRST])[0].end;
        let torn = vec![b'0' + round as u8; 10 * round];
        let bytes = now.get_mut(FIRST).unwrap();
        bytes.truncate(end);
        bytes.extend(&torn);
        put_files(directory.path(), &now);
        let name = format!("{FIRST}.torn{suffix}");
        let line = torn_line(FIRST, end, torn.len(), &name);
        assert_eq!(check_contents(&Faulty::new(directory.path()), &model), line);
        kept.insert(name, torn);
        let mut left = files(directory.path());
        left.remove(FIRST);
        assert_eq!(left, kept);
    }
}

/// The torn end that was kept aside: perhaps more than once, where the start that kept it
/// was interrupted before it had cut it off.
fn kept_aside(path: &Path) -> Option<Vec<u8>> {
    let mut kept: Vec<Vec<u8>> = files(path)
        .into_iter()
        .filter_map(|(name, bytes)| name.contains(".torn").then_some(bytes))
        .collect();
    kept.dedup();
    assert!(kept.len() < 2, "{kept:?}");
    kept.pop()
}

/// Cuts an opening of `files` off at each of its calls, and checks that the next one
/// finds what `model` says, from what the process left and from what a power cut did.
fn check_interruptions(files_before: &Files, model: &Model, torn: Option<&[u8]>) {
    for calls in 0.. {
        let directory = TempDir::new();
        put_files(directory.path(), files_before);
        let disk = Faulty::new(directory.path());
        disk.fail(Call::ALL, calls, How::Stop);
        let opened = disk.open(&options(), NOW);
        if !disk.has_stopped() {
            opened.unwrap();
            assert!(calls > 5, "an opening makes more than {calls} calls");
            return;
        }
        assert!(opened.is_err(), "call {calls} failed, and opening did not");
        disk.heal();
        for seed in 0..4 {
            let left = TempDir::new();
            disk.power_cut(left.path(), seed);
            check_contents(&Faulty::new(left.path()), model);
            assert_eq!(kept_aside(left.path()).as_deref(), torn, "stopped at {calls}");
        }
        let (store, _) = disk.open(&options(), NOW).unwrap();
        assert_eq!(contents(&store, &KEYS, NOW), model.at(NOW));
        assert!(files(directory.path()).keys().all(|name| !name.ends_with(".tmp")));
        assert_eq!(kept_aside(directory.path()).as_deref(), torn);
        // What is acknowledged from here on is there after a power cut.
        let mut session = Session::at(NOW);
        store.set(&mut session, b"ab", 9, 0, b"later").unwrap();
        let mut expected = contents(&store, &KEYS, NOW);
        expected.get_mut(&b"ab"[..]).unwrap().value = b"later".to_vec();
        store.settle(&session).unwrap();
        let left = TempDir::new();
        disk.power_cut(left.path(), 0);
        let (store, _) = Faulty::new(left.path()).open(&options(), NOW).unwrap();
        assert_eq!(contents(&store, &KEYS, NOW), expected, "stopped at {calls}");
    }
}

#[test]
fn the_making_of_a_directory_can_stop_at_any_call() {
    check_interruptions(&Files::new(), &Model::default(), None);
}

#[test]
fn a_recovery_can_stop_at_any_call() {
    let (mut files, models) = one_generation();
    let last = records(&files[FIRST]).pop().unwrap();
    let bytes = files.get_mut(FIRST).unwrap();
    bytes.truncate(last.end - 3);
    let torn = bytes[last.start..].to_vec();
    files.insert(format!("{SECOND}.tmp"), b"half a hea".to_vec());
    check_interruptions(&files, &models[models.len() - 2], Some(&torn));
}

#[test]
fn a_recovery_of_two_generations_can_stop_at_any_call() {
    let (mut files, models) = two_generations();
    let last = records(&files[SECOND]).pop().unwrap();
    let bytes = files.get_mut(SECOND).unwrap();
    bytes.truncate(last.end - 1);
    let torn = bytes[last.start..].to_vec();
    check_interruptions(&files, &models[models.len() - 2], Some(&torn));
}

#[test]
fn what_was_never_known_to_be_safe_is_written_again_and_synced_before_a_start() {
    // R3
    let directory = TempDir::new();
    let (good, models) = one_generation();
    put_files(directory.path(), &good);
    let disk = Faulty::new(directory.path());
    let all = records(&good[FIRST]);
    let newest = all.iter().map(|record| record.synced).max().unwrap();
    let end = good[FIRST].len() as u64;
    assert!(newest < end, "the last commit has no witness");
    check_contents(&disk, models.last().unwrap());
    let done = disk.done();
    let mut next = newest;
    let changes = |done: &&Done| done.file == FIRST && done.call != Call::Read;
    let of_first: Vec<_> = done.iter().filter(changes).collect();
    // To new blocks: the old ones are given back before.
    let cut = of_first.iter().position(|done| done.call == Call::Truncate).unwrap();
    assert_eq!(of_first[cut].offset, newest);
    for written in of_first[cut..].iter().filter(|done| done.call == Call::Write) {
        assert_eq!(written.offset, next);
        next += written.len;
    }
    assert_eq!(next, end);
    assert_eq!(of_first.last().map(|done| done.call), Some(Call::Sync));
    assert_eq!(files(directory.path()), good);
}

#[test]
fn bytes_cut_out_or_doubled_fail_a_start_though_nothing_says_they_were_safe() {
    // R2: a crash tears the end of a log, and moves nothing.
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.set(b"a", 0, 0, b"safe");
    writer.commit();
    for key in [b"b", b"c", b"d"] {
        writer.set(key, 0, 0, b"in one commit");
    }
    writer.commit();
    let good = written_files(&directory);
    let bytes = &good[FIRST];
    let all = records(bytes);
    let second = &all[1];
    for (start, end) in [
        (second.start, second.end),
        (second.start, second.start + 1),
        (second.start + 7, second.end - 3),
        (second.end - 1, second.end + 9),
    ] {
        let part = &bytes[start..end];
        let cut_out = [&bytes[..start], &bytes[end..]].concat();
        let doubled = [&bytes[..end], part, &bytes[end..]].concat();
        for damaged in [cut_out, doubled] {
            let files = Files::from([(FIRST.to_owned(), damaged)]);
            put_files(directory.path(), &files);
            let opened = Faulty::new(directory.path()).open(&options(), NOW);
            let what = format!("{start}..{end}");
            let error = opened.err().expect(&what).to_string();
            assert!(error.contains(FIRST) && error.contains("--repair"), "{error}");
        }
    }
    // A value may be a file of ours, torn: what stands in it was never a record here.
    let mut inner = bytes.clone();
    inner.extend_from_slice(&[b'x'; 100]);
    put_files(directory.path(), &good);
    let (store, _) = Faulty::new(directory.path()).open(&options(), NOW).unwrap();
    let mut session = Session::at(NOW);
    store.set(&mut session, b"file", 0, 0, &inner).unwrap();
    store.settle(&session).unwrap();
    drop(store);
    let mut torn = written_files(&directory);
    torn.get_mut(FIRST).unwrap().pop();
    put_files(directory.path(), &torn);
    let (_, said) = Faulty::new(directory.path()).open(&options(), NOW).unwrap();
    assert!(said.unwrap().contains("torn end"));
}

#[test]
fn two_starts_can_stop_before_a_power_cut() {
    // R3: what the second one finds need not be safe because the first one has made it.
    for first in 0.. {
        for second in 0.. {
            let directory = TempDir::new();
            let mut writer = Writer::new(&directory);
            writer.set(b"a", 0, 0, b"one");
            writer.commit();
            writer.set(b"ab", 0, 0, b"acknowledged");
            writer.commit();
            let Writer { disk, store, models, .. } = writer;
            drop(store);
            disk.fail(Call::ALL, first, How::Stop);
            if disk.open(&options(), NOW).is_ok() {
                assert!(first > 10);
                return;
            }
            disk.heal();
            disk.fail(Call::ALL, second, How::Stop);
            let is_over = disk.open(&options(), NOW).is_ok();
            for seed in [0, 31 * first as u64 + second as u64] {
                let left = TempDir::new();
                disk.power_cut(left.path(), seed);
                check_contents(&Faulty::new(left.path()), models.last().unwrap());
            }
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn pages_that_a_power_cut_leaves_out_say_nothing_of_what_is_in_a_value() {
    // R1: a client may have put records into it.
    let directory = TempDir::new();
    let mut writer = Writer::new(&directory);
    writer.set(b"a", 0, 0, b"safe");
    writer.commit();
    let whole = written_files(&directory)[FIRST].clone();
    let record = whole[HEADER_LEN..].to_vec();
    for _ in 0..2 {
        writer.set(b"file", 0, 0, &record.repeat(200));
    }
    writer.commit();
    let good = written_files(&directory);
    for pages in 1..8 {
        let mut torn = good.clone();
        for page in (0..3).filter(|page| pages & (1 << page) != 0) {
            let start = whole.len().max(page * 4096);
            torn.get_mut(FIRST).unwrap()[start..(page + 1) * 4096].fill(0);
        }
        put_files(directory.path(), &torn);
        let opened = Faulty::new(directory.path()).open(&options(), NOW);
        let (_, said) = opened.unwrap_or_else(|error| panic!("{pages:b}: {error}"));
        assert!(said.unwrap().contains("torn end"));
    }
}

#[test]
fn a_full_disk_can_be_started_on() {
    // R1, R3: there is room neither for a torn end nor for a copy of the rest.
    let directory = TempDir::new();
    let (mut files, models) = one_generation();
    let last = records(&files[FIRST]).pop().unwrap();
    files.get_mut(FIRST).unwrap().truncate(last.end - 3);
    put_files(directory.path(), &files);
    let disk = Faulty::new(directory.path());
    for _ in 0..2 {
        // After those of the log, for its header and for all, no file can be made.
        disk.fail(&[Call::Open], 2, How::Full);
        let said = check_contents(&disk, &models[models.len() - 2]);
        assert!(said.is_none_or(|said| said.contains("the disk is full")));
    }
    assert_eq!(crate::files(directory.path()).len(), 1);
}

#[test]
fn what_a_start_shows_outlives_a_power_cut() {
    // R3: the process ends between its write and its sync; or its sync has failed, and
    // the kernel counts as written what the disk never had.
    for sync_fails in [false, true] {
        let directory = TempDir::new();
        let disk = Faulty::new(directory.path());
        let options = Options { sync: SyncMode::EverySecond, ..options() };
        let (store, _) = disk.open(&options, NOW).unwrap();
        let mut session = Session::at(NOW);
        store.set(&mut session, b"a", 0, 0, b"one").unwrap();
        store.settle(&session).unwrap();
        store.maintain(&|| NOW).unwrap();
        store.set(&mut session, b"ab", 0, 0, b"two").unwrap();
        store.settle(&session).unwrap();
        if sync_fails {
            disk.fail(&[Call::Sync], 0, How::Once);
            store.maintain(&|| NOW).unwrap_err();
        }
        drop(store);
        let (store, _) = disk.open(&options, NOW).unwrap();
        let shown = contents(&store, &KEYS, NOW);
        assert_eq!(shown.len(), 2);
        let left = TempDir::new();
        disk.power_cut(left.path(), 0);
        let (store, _) = Faulty::new(left.path()).open(&options, NOW).unwrap();
        assert_eq!(contents(&store, &KEYS, NOW), shown);
    }
}

#[test]
fn the_name_of_a_file_is_safe_before_anything_in_it_is_promised() {
    // R3, for names: a process ends between renaming its first file and syncing the
    // directory, and the next one finds the file as if nothing had happened.
    let directory = TempDir::new();
    let disk = Faulty::new(directory.path());
    disk.fail(&[Call::SyncDir], 0, How::Stop);
    assert!(disk.open(&options(), NOW).is_err());
    disk.heal();
    let (store, _) = disk.open(&options(), NOW).unwrap();
    let mut session = Session::at(NOW);
    store.set(&mut session, b"a", 0, 0, b"acknowledged").unwrap();
    store.settle(&session).unwrap();
    let left = TempDir::new();
    disk.power_cut(left.path(), 0);
    let (store, _) = Faulty::new(left.path()).open(&options(), NOW).unwrap();
    assert_eq!(contents(&store, &KEYS, NOW).len(), 1);
}

#[test]
fn a_start_removes_its_own_leftovers_and_nothing_else() {
    let directory = TempDir::new();
    let (good, models) = one_generation();
    let others = ["notes.txt", "notes.tmp", "1.kv", "0000000009.kv.bak", "x.kv.tmp"];
    let mut with_leftovers = good.clone();
    for name in others {
        with_leftovers.insert(name.into(), b"not a data file".to_vec());
    }
    let expected = with_leftovers.clone();
    with_leftovers.insert(format!("{SECOND}.tmp"), vec![]);
    put_files(directory.path(), &with_leftovers);
    let disk = Faulty::new(directory.path());
    assert_eq!(check_contents(&disk, models.last().unwrap()), None);
    assert_eq!(files(directory.path()), expected);
}

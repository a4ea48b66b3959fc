//! A disk that fails at every call in turn, and a machine that loses its power there.
//!
//! One workload, a bit of everything, is done again and again: the first time its first
//! call to the disk fails, then its second, until it needs no further one. A model says
//! what each answer must be, and a history of models what a restart may find: what the
//! log said after some step, none before the last that was acknowledged. So nothing is
//! missing that was promised, and nothing is there without what came before it.
//!
//! Then two faults at once: in each state that something may have left, a start, the walk
//! that it resumes, a repair and a compaction meet a failing call, and soon after it the
//! process stops.
//!
//! `make faults SEEDS=n` tries n workloads and n second faults; here it is one. What real
//! disks do, full ones and failing ones, is in `disks.rs`.

mod common;

use common::TempDir;
use common::disk::{
    Call, Faulty, How, Seen, contents, files, put_files, records, short, shorten,
};
use common::history::{self, FIRST, Files, NOW, one_generation, two_generations};
use common::model::Model;
use common::verbs::Verbs;
use memcached_lite::driver::random::Random;
use memcached_lite::store::disk::Disk;
use memcached_lite::store::repair::repair;
use memcached_lite::store::{
    Answer, Error, Options, Result, Session, Store, SyncMode, expiry,
};
use std::env;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const START: u64 = 1_000_000_000;
const KEYS: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"n"];

/// A record without its value: 35 bytes, KEY_SIZE and INT_SIZE.
const OVERHEAD: usize = 35 + 8 + 2;

/// Steps of a workload.
const STEPS: usize = 60;

/// How many more steps there are until a fault that lasts is over.
const LASTS: usize = 12;

#[derive(Clone, Debug)]
enum Step {
    Set(usize, i64, Vec<u8>),
    Add(usize, Vec<u8>),
    Append(usize, Vec<u8>),
    Incr(usize),
    Touch(usize, i64),
    Delete(usize),
    Flush(i64),
    Commit,
    /// So many seconds pass.
    Pass(u64),
    Maintain,
    Compact,
    /// The data limit is half of what there is, for a moment.
    Evict,
    /// Another process, for which the clock is so many seconds late.
    Restart(u64),
}

/// The workload that `seed` determines.
fn steps(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    (0..STEPS)
        .map(|number| match number {
            20 | 35 | 50 => Step::Compact,
            // Told, and then another process begins.
            28 => Step::Evict,
            29 => Step::Commit,
            30 | 40 => Step::Restart(random.below(9) as u64),
            _ => step(&mut random),
        })
        .collect()
}

fn step(random: &mut Random) -> Step {
    let key = random.below(KEYS.len());
    // For ever, for some seconds, or not at all.
    let exptime = [0, 0, 0, 2, 5, -1][random.below(6)];
    // Now and then some pages long.
    let value = match random.below(6) {
        0..3 => random.below(1000).to_string().into_bytes(),
        3..5 => random.text(20).into_bytes(),
        _ => random.text(9000).into_bytes(),
    };
    match random.below(40) {
        0..8 => Step::Set(key, exptime, value),
        8..10 => Step::Add(key, value),
        10..13 => Step::Append(key, value),
        13..16 => Step::Incr(key),
        16..19 => Step::Touch(key, exptime),
        19..22 => Step::Delete(key),
        22 => Step::Flush(0),
        23 => Step::Flush(3),
        24..27 => Step::Pass(1),
        27..29 => Step::Maintain,
        _ => Step::Commit,
    }
}

/// What a client would be told of this.
fn shown(answer: impl Debug) -> String {
    format!("{answer:?}")
}

/// Does what clients ask for; the others have no answer.
fn ask(store: &Store, session: &mut Session, step: &Step) -> Result<String> {
    match step {
        Step::Set(key, exptime, value) => {
            store.set(session, KEYS[*key], 7, *exptime, value).map(shown)
        }
        Step::Add(key, value) => store.add(session, KEYS[*key], 7, 0, value).map(shown),
        Step::Append(key, value) => store.append(session, KEYS[*key], value).map(shown),
        Step::Incr(key) => store.incr(session, KEYS[*key], 1).map(shown),
        Step::Touch(key, exptime) => {
            store.touch(session, KEYS[*key], *exptime).map(shown)
        }
        Step::Delete(key) => store.delete(session, KEYS[*key]).map(shown),
        Step::Flush(delay) => store.flush_all(session, *delay).map(shown),
        other => unreachable!("{other:?} is no command"),
    }
}

/// Does the same to the model, when the log has come to `end`.
fn answer(model: &mut Model, step: &Step, now: u64, end: u64) -> String {
    *model = model.settled(now);
    let stored = |value: Vec<u8>| {
        // A unique is where the value was stored first.
        let cas = end - (OVERHEAD + value.len()) as u64;
        Seen { flags: 7, cas, value }
    };
    let items = &mut model.items;
    match step {
        Step::Set(key, exptime, value) => {
            let item = (stored(value.clone()), expiry(*exptime, now));
            items.insert(KEYS[*key].to_vec(), item);
            shown(Answer::Stored)
        }
        Step::Add(key, value) => {
            if items.contains_key(KEYS[*key]) {
                return shown(Answer::NotStored);
            }
            items.insert(KEYS[*key].to_vec(), (stored(value.clone()), 0));
            shown(Answer::Stored)
        }
        Step::Append(key, value) => match items.get_mut(KEYS[*key]) {
            Some((seen, _)) => {
                *seen = stored([&seen.value[..], value].concat());
                shown(Answer::Stored)
            }
            None => shown(Answer::NotStored),
        },
        Step::Incr(key) => {
            let Some((seen, _)) = items.get_mut(KEYS[*key]) else {
                return shown(Answer::NotFound);
            };
            let text = String::from_utf8(seen.value.clone()).unwrap();
            let Ok(number) = text.trim_end().parse::<u64>() else {
                return shown(Answer::NotNumeric);
            };
            let number = number.wrapping_add(1);
            *seen = stored(format!("{number:<0$}", text.len()).into_bytes());
            shown(Answer::Number(number))
        }
        Step::Touch(key, exptime) => {
            let item = items.get_mut(KEYS[*key]);
            let touched = item.map(|item| item.1 = expiry(*exptime, now));
            shown(touched.map_or(Answer::NotFound, |()| Answer::Touched))
        }
        Step::Delete(key) => {
            let removed = items.remove(KEYS[*key]);
            shown(removed.map_or(Answer::NotFound, |_| Answer::Deleted))
        }
        Step::Flush(delay) => {
            model.flush(if *delay == 0 { 0 } else { now + *delay as u64 });
            shown(())
        }
        other => unreachable!("{other:?} is no command"),
    }
}

/// A store on a disk that fails, and what it has promised.
struct Run {
    directory: TempDir,
    disk: Faulty,
    options: Options,
    /// `None` where no process is running.
    store: Option<Store>,
    session: Session,
    /// What the log meant at the last start, and after each command that was done since.
    history: Vec<Model>,
    /// For each key, the place in `history` of the last command that named it.
    named: [usize; KEYS.len()],
    /// The place in `history` that was acknowledged, and the one that a sync has covered.
    acknowledged: usize,
    safe: usize,
    /// How the disk fails, and for how many more steps, if it fails for good.
    how: How,
    lasts: usize,
    /// A sync has failed: nothing is written until a restart.
    is_final: bool,
    /// Compaction could not read: it does not run until a restart.
    is_stopped: bool,
    /// The latest time that there was: where the clock has gone back, what had expired by
    /// then is there again, unless it was shown to have expired.
    latest: u64,
    /// The uniques of the items that were.
    shown: Vec<u64>,
    /// C5: compaction has failed, and may hold new values back until it succeeds.
    is_held_back: bool,
    /// Items evicted.
    evictions: u64,
}

impl Run {
    /// A run whose disk fails in such a call, after so many others.
    fn new(sync: SyncMode, calls: &'static [Call], after: usize, how: How) -> Run {
        let directory = TempDir::new();
        let disk = Faulty::new(directory.path());
        disk.fail(calls, after, how);
        let mut run = Run {
            directory,
            disk,
            options: Options { sync, ..short(8) },
            store: None,
            session: Session::at(START),
            history: vec![Model::default()],
            named: [0; KEYS.len()],
            acknowledged: 0,
            safe: 0,
            how,
            lasts: LASTS,
            is_final: false,
            is_stopped: false,
            is_held_back: false,
            evictions: 0,
            latest: START,
            shown: Vec::new(),
        };
        run.restart(0);
        run
    }

    /// Does these steps, or those until the process ends.
    fn go(&mut self, steps: &[Step]) {
        for step in steps {
            if self.disk.has_stopped() {
                return;
            }
            self.step(step);
            let has_failed = self.disk.failures() > 0 && !self.disk.has_stopped();
            if has_failed && self.lasts > 0 {
                self.check_reads();
                self.lasts -= 1;
                if self.lasts == 0 {
                    self.disk.heal();
                    // Before a compaction writes anew what a sync has lost.
                    self.check_power_cut(0);
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let failures = self.disk.failures();
        let last = self.history.len() - 1;
        let Some(store) = &self.store else { panic!("no process is running") };
        let evictions = store.figure("evictions");
        let told = match step {
            Step::Restart(late) => return self.restart(*late),
            Step::Pass(seconds) => {
                self.session.now += seconds;
                self.latest = self.latest.max(self.session.now);
                return;
            }
            Step::Commit => store.settle(&self.session).map(|()| {
                self.session.depends_on = 0;
                self.acknowledged = last;
                if self.options.sync == SyncMode::Always {
                    self.safe = last;
                }
            }),
            Step::Maintain => store.maintain(&|| self.session.now).map(|()| {
                self.safe = last;
                self.is_held_back = false;
            }),
            Step::Compact => {
                let compacted = store.compact(&|| self.session.now);
                compacted.map(|()| self.is_held_back = false)
            }
            Step::Evict => {
                store.data_limit.store(store.figure("bytes") / 2, Relaxed);
                let evicted = store.compact_if_due(&|| self.session.now);
                store.data_limit.store(0, Relaxed);
                evicted
            }
            command => ask(store, &mut self.session, command).map(|told| {
                let mut model = self.history[last].clone();
                let end = store.figure("log_end");
                let expected = answer(&mut model, command, self.session.now, end);
                assert_eq!(told, expected, "{command:?}");
                self.history.push(model);
                if let Step::Set(key, ..)
                | Step::Add(key, _)
                | Step::Append(key, _)
                | Step::Incr(key)
                | Step::Touch(key, _)
                | Step::Delete(key) = command
                {
                    self.named[*key] = last + 1;
                }
            }),
        };
        // What fails does so for a reason. S4: nothing was changed by it.
        if let Err(error) = told {
            let compacts = matches!(step, Step::Compact | Step::Maintain | Step::Evict);
            let is_held = self.is_held_back && error.to_string().contains("make room");
            assert!(
                self.may_fail(failures) || (compacts && self.is_stopped) || is_held,
                "{step:?}: {error}, and nothing has failed"
            );
            self.is_held_back |= compacts;
            // L4; and a rename that may have been done is as bad.
            self.is_final |= matches!(error, Error::Sync(_)) || self.how == How::Late;
            self.is_stopped |= compacts && matches!(error, Error::Read(_));
        }
        self.evicted(evictions);
    }

    /// Adds to the history what was evicted since there were so many evictions: one item
    /// after the other, in whatever order.
    fn evicted(&mut self, before: u64) {
        let Some(store) = &self.store else { return };
        let count = store.figure("evictions") - before;
        self.evictions += count;
        let (now, last) = (self.session.now, self.history.last().unwrap().clone());
        let mut session = Session::at(now);
        // What can't be read is there.
        let is_gone = |key: &Vec<u8>| store.get(&mut session, key) == Ok(None);
        let keys =
            if count == 0 { Vec::new() } else { last.at(now).into_keys().collect() };
        let gone: Vec<Vec<u8>> = keys.into_iter().filter(is_gone).collect();
        assert_eq!(gone.len() as u64, count);
        // C7: a miss depends on the eviction, so what is committed next has it.
        self.session.depends_on = self.session.depends_on.max(session.depends_on);
        let mut orders: Vec<usize> = (1..1 << count).collect();
        orders.sort_by_key(|some: &usize| some.count_ones());
        for some in orders {
            let mut model = last.clone();
            let gone = gone.iter().enumerate().filter(|(bit, _)| some >> bit & 1 == 1);
            gone.for_each(|(_, key)| drop(model.items.remove(key)));
            self.history.push(model);
        }
    }

    /// Whether a call may fail, given the number of failures before it.
    fn may_fail(&self, failures: usize) -> bool {
        let lasts = matches!(self.how, How::Always | How::Full);
        let is_over = !lasts || self.lasts == 0;
        self.disk.failures() > failures || (failures > 0 && !is_over) || self.is_final
    }

    /// No answer is false, whatever has failed; and what is safe is served.
    fn check_reads(&mut self) {
        let Some(store) = &self.store else { panic!("no process is running") };
        let now = self.session.now;
        let model = self.history.last().unwrap();
        let expected = model.at(now);
        let mut session = Session::at(now);
        for (number, key) in KEYS.iter().enumerate() {
            let failures = self.disk.failures();
            session.depends_on = 0;
            let end = store.figure("log_end");
            let seen = store.get(&mut session, key).map(|item| {
                item.map(|item| {
                    let (flags, cas) = (item.flags, item.cas);
                    Seen { flags, cas, value: item.value.to_vec() }
                })
            });
            let is_read = self.disk.failures() == failures;
            match seen {
                Ok(seen) => {
                    let settled = store.settle(&session).is_ok();
                    // Where its deletion can't be written, nothing is promised.
                    let is_deleted = settled && store.figure("log_end") > end;
                    let expired = model.items.get(*key).filter(|_| is_deleted);
                    self.shown.extend(expired.map(|(seen, _)| seen.cas));
                    let is_safe = seen.is_some() && self.named[number] <= self.floor();
                    assert_eq!(seen.as_ref(), expected.get(*key));
                    if is_safe && is_read {
                        let settled = store.settle(&session);
                        // Where the last sync was long ago, `every-second` waits for
                        // one, and it may be that one which fails.
                        let has_failed = self.disk.failures() > failures
                            && self.options.sync == SyncMode::EverySecond
                            && matches!(settled, Err(Error::Sync(_)));
                        self.is_final |= has_failed;
                        assert!(
                            settled.is_ok() || has_failed,
                            "what is safe is served: {settled:?}"
                        );
                    }
                }
                // Where a flush is due and can't be written, it is a miss all the same.
                Err(error) => assert!(!is_read, "{error}"),
            }
        }
    }

    /// The place in the history that outlives the process.
    fn floor(&self) -> usize {
        self.acknowledged.max(self.safe)
    }

    /// Ends the process, if there is one, and starts another. If that can't, because the
    /// disk fails, it can when the disk doesn't.
    fn restart(&mut self, late: u64) {
        self.store = None;
        shorten(self.directory.path());
        let failures = self.disk.failures();
        let now = self.session.now - late;
        let mut opened = self.disk.open(&self.options, now);
        if let Err(error) = &opened {
            assert!(self.may_fail(failures), "{error}, and nothing has failed");
            if self.disk.has_stopped() {
                return;
            }
            self.disk.heal();
            self.lasts = 0;
            opened = self.disk.open(&self.options, now);
        }
        let (store, _) = opened.unwrap();
        self.session.now = now;
        let found = self.find(self.directory.path(), self.floor());
        self.store = Some(store);
        self.session = Session::at(now);
        self.history = vec![found];
        self.named = [0; KEYS.len()];
        (self.acknowledged, self.safe) = (0, 0);
        (self.is_final, self.is_stopped, self.is_held_back) = (false, false, false);
        self.check_reads();
    }

    /// What a start has found in `path`: the log as it was at some place in the history,
    /// not before `floor`.
    fn find(&self, path: &Path, floor: usize) -> Model {
        let found = Model::of(&files(path));
        let settled = found.settled(self.latest);
        let mut may_be = self.history[floor..].iter().rev();
        assert!(
            may_be.any(|model| model.settled(self.latest) == settled),
            "{found:?} is not what the log was at {floor} or later: {:?}",
            &self.history[floor..]
        );
        // S6
        let mut uniques = found.items.values().map(|(seen, _)| seen.cas);
        assert!(uniques.all(|cas| !self.shown.contains(&cas)), "{found:?}");
        found.settled(self.session.now)
    }

    /// What a power cut leaves now is the log up to some place, and in `always` all that
    /// was acknowledged is there; in `every-second`, all that maintenance has synced.
    fn check_power_cut(&self, seed: u64) {
        let left = TempDir::new();
        self.disk.power_cut(left.path(), seed);
        shorten(left.path());
        let disk = Faulty::new(left.path());
        let opened = disk.open(&self.options, self.session.now);
        let (store, _) = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = self.find(left.path(), self.safe);
        let now = self.session.now;
        assert_eq!(contents(&store, &KEYS, now), found.at(now));
    }

    /// Whatever has happened, a restart finds what was promised, and all works again.
    fn finish(mut self, random: &mut Random) {
        self.check_power_cut(0);
        for _ in 0..2 {
            self.check_power_cut(random.bits());
        }
        self.disk.heal();
        self.lasts = 0;
        self.restart(0);
        let value = b"later".to_vec();
        self.go(&[
            Step::Maintain,
            Step::Set(0, 0, value.clone()),
            Step::Append(0, value),
            Step::Commit,
            Step::Maintain,
            Step::Compact,
            Step::Delete(0),
            Step::Commit,
            Step::Maintain,
        ]);
        let last = self.history.len() - 1;
        assert_eq!((self.acknowledged, self.safe), (last, last));
        assert!(self.safe > 2 && !self.is_final);
        self.check_power_cut(0);
        self.check_power_cut(random.bits());
    }
}

/// Plays each workload until it needs no further call; returns how many it needs.
fn fail_at_every_call(calls: &'static [Call], how: How) -> usize {
    let seeds = env::var("FAULT_SEEDS").map_or(1, |seeds| seeds.parse().unwrap());
    let (mut most, mut evictions) = (0, 0);
    for seed in 1..=seeds {
        let steps = steps(seed);
        for sync in [SyncMode::Always, SyncMode::EverySecond] {
            for after in 0.. {
                let mut random = Random::new(seed + after as u64);
                let mut run = Run::new(sync, calls, after, how);
                run.go(&steps);
                let has_failed = run.disk.failures() > 0;
                evictions += run.evictions;
                run.finish(&mut random);
                most = most.max(after);
                if !has_failed {
                    break;
                }
            }
        }
    }
    assert!(evictions > 0, "C7 was not tried");
    most
}

#[test]
fn a_call_that_fails_once_takes_back_no_promise() {
    // L3, L4, S4
    assert!(fail_at_every_call(Call::ALL, How::Once) > 80);
}

#[test]
fn calls_that_fail_for_a_while_take_back_no_promise() {
    // L3, L4, S4
    assert!(fail_at_every_call(Call::ALL, How::Always) > 80);
}

/// What needs space.
const FULL: &[Call] = &[Call::Write, Call::Reserve, Call::Truncate];

#[test]
fn a_disk_that_is_full_for_a_while_takes_back_no_promise() {
    // L3, C5, S4
    assert!(fail_at_every_call(FULL, How::Full) > 15);
}

#[test]
fn a_write_that_is_cut_short_takes_back_no_promise() {
    // L3
    assert!(fail_at_every_call(&[Call::Write], How::Short) > 15);
}

#[test]
fn a_rename_that_is_done_and_fails_takes_back_no_promise() {
    // L4
    assert!(fail_at_every_call(&[Call::Rename], How::Late) > 2);
}

#[test]
fn a_process_and_its_machine_can_stop_at_any_call() {
    // L2, R1, R3, C1, C2, C3
    assert!(fail_at_every_call(Call::ALL, How::Stop) > 80);
}

/// A directory as something has left it.
struct Left {
    name: &'static str,
    files: Files,
    /// What its records say; those that a repair can read.
    model: Model,
    is_damaged: bool,
}

/// The states that faults are tried in.
fn states() -> Vec<Left> {
    let (good, models) = one_generation();
    let last = models.len() - 1;
    let all = records(&good[FIRST]);
    let mut states = Vec::new();
    let mut add = |name, files: &Files, model: Model, is_damaged| {
        states.push(Left { name, files: files.clone(), model, is_damaged });
    };

    let mut torn = good.clone();
    torn.get_mut(FIRST).unwrap().truncate(all[last - 1].end - 3);
    add("a torn end", &torn, models[last - 1].clone(), false);

    // The name of what is written again: it loses that when all is safe.
    let directory = TempDir::new();
    put_files(directory.path(), &torn);
    let disk = Faulty::new(directory.path());
    disk.fail(&[Call::Remove], 0, How::Stop);
    assert!(disk.open(&history::options(), NOW).is_err());
    let half = files(directory.path());
    assert!(half.keys().any(|name| name.contains(".rest-")));
    add("an interrupted start", &half, models[last - 1].clone(), false);

    let (two, models_of_two) = two_generations();
    add("an interrupted walk", &two, models_of_two.last().unwrap().clone(), false);

    let mut damaged = good.clone();
    damaged.get_mut(FIRST).unwrap()[all[3].start] ^= 1;
    let mut readable = Model::default();
    let rest = all.iter().enumerate().filter(|(number, _)| *number != 3);
    rest.for_each(|(_, record)| readable.apply(record));
    add("damage", &damaged, readable, true);
    states
}

impl Left {
    /// Starts, and does what comes first in a life; all may fail. Returns whether a new
    /// value was acknowledged.
    fn live(&self, disk: &Faulty) -> bool {
        let disks: Arc<dyn Disk> = disk.shared();
        if self.is_damaged && repair(&disks, &history::options().settings).is_err() {
            return false;
        }
        let Ok((store, _)) = disk.open(&history::options(), NOW) else { return false };
        let _ = store.maintain(&|| NOW);
        let mut session = Session::at(NOW);
        let stored = store.set(&mut session, b"ab", 9, 0, b"new").is_ok()
            && store.settle(&session).is_ok();
        let _ = store.compact(&|| NOW);
        stored
    }

    /// Checks what a start finds in a directory, after a repair if it needs one.
    fn check(&self, path: &Path, is_stored: bool, what: &str) {
        shorten(path);
        let disk = Faulty::new(path);
        repair(&disk.shared(), &history::options().settings).expect(what);
        let (store, _) = disk.open(&history::options(), NOW).expect(what);
        let mut found = contents(&store, &history::KEYS, NOW);
        let mut expected = self.model.at(NOW);
        let is_new = |seen: Option<&Seen>| seen.is_some_and(|it| it.value == b"new");
        if is_stored {
            assert!(is_new(found.get(&b"ab"[..])), "{what}");
        }
        if is_new(found.get(&b"ab"[..])) {
            found.remove(&b"ab"[..]);
            expected.remove(&b"ab"[..]);
        }
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn two_faults_in_any_state_take_back_no_promise() {
    // R1, R3, R4, R5, C3, C4, C5
    const FIRSTS: [(&[Call], How); 5] = [
        (Call::ALL, How::Once),
        (Call::ALL, How::Always),
        (FULL, How::Full),
        (&[Call::Write], How::Short),
        (&[Call::Rename, Call::Remove], How::Late),
    ];
    let seeds = env::var("FAULT_SEEDS").map_or(1, |seeds| seeds.parse().unwrap());
    let mut tried = 0;
    for state in states() {
        for (calls, how) in FIRSTS {
            for seed in 0..seeds {
                for after in 0.. {
                    let mut random = Random::new(1000 * seed + after as u64);
                    let directory = TempDir::new();
                    put_files(directory.path(), &state.files);
                    let disk = Faulty::new(directory.path());
                    disk.fail(calls, after, how);
                    let stop = after + random.below(30);
                    disk.fail_too(Call::ALL, stop, How::Stop);
                    let is_stored = state.live(&disk);
                    let has_failed = disk.failures() > 0;
                    let what = format!(
                        "{}: {how:?} after {after}, stop at {stop}",
                        state.name
                    );
                    // In turn: another process, or a power cut before it.
                    if after % 2 == 0 {
                        state.check(directory.path(), is_stored, &what);
                    } else {
                        let left = TempDir::new();
                        disk.power_cut(
                            left.path(),
                            random.bits() * (after as u64 % 4 / 2),
                        );
                        state.check(left.path(), is_stored, &what);
                    }
                    tried += 1;
                    if !has_failed {
                        break;
                    }
                }
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

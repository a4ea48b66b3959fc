//! Faults that are put in on purpose: into a copy of the source, a line each. Of each is
//! known which test has to find it, and within how many seeds or rounds.
//!
//! `make planted` plants them, one after another, and runs those tests; it takes some
//! minutes. `FAULT=3 make planted` tries the third alone. That each line is still there to
//! be replaced is tested always, so that a change of the source takes its faults along.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Fault {
    what: &'static str,
    /// The test that has to find it: within 1,000 seeds of `simulate`, or 200 rounds of
    /// `torture`.
    test: &'static str,
    file: &'static str,
    /// The line, without what it is indented by, and what is put in its place.
    line: &'static str,
    instead: &'static str,
}

const FAULTS: [Fault; 7] = [
    Fault {
        what: "a reply leaves before the commit",
        test: "simulate",
        file: "src/server/worker.rs",
        line: "Some(commit) if !self.shared.store.is_committed(depends_on) => {",
        instead: "Some(commit) if depends_on == u64::MAX => {",
    },
    Fault {
        what: "a record enters the index before its checksum is verified",
        test: "simulate",
        file: "src/store/walk.rs",
        line: "let Some(record) = self.format.decode(bytes, position) else {",
        instead: "let (key, value) = (&bytes[35..35 + usize::from(bytes[34])], &bytes[overhead..]);
        let unverified = Record { key, value, ..Record::default() };
        let Some(record) = self.format.decode(bytes, position).or(Some(unverified)) else {",
    },
    Fault {
        what: "a copy overtakes a delete",
        test: "simulate",
        file: "src/store/items.rs",
        line: "if entry.is_none_or(|entry| entry.position(position) != position) {",
        instead: "if entry.is_some_and(|entry| entry.position(position) != position) {",
    },
    Fault {
        what: "a parked reply misses its wake-up: a commit wakes one worker alone",
        test: "simulate",
        file: "src/server/shared.rs",
        line: "if is_done {",
        instead: "if is_done {
            self.mailboxes[0].wake();
            return true;
        }
        if is_done {",
    },
    Fault {
        what: "a get that is resumed skips a key",
        test: "simulate",
        file: "src/server/connection.rs",
        line: "let keys = Words(&line[..len - end_len(line)]);",
        instead: "let mut keys = Words(&line[..len - end_len(line)]);
                    keys.next();",
    },
    Fault {
        what: "a pending flush is forgotten at a start",
        test: "torture",
        file: "src/store/index.rs",
        line: "self.flush_due.store(exptime, Release);",
        instead: "self.flush_due.store(0, Release);",
    },
    Fault {
        what: "a flush takes one shard after another",
        test: "torture",
        file: "src/store/items.rs",
        line: "let cleared = shards.iter_mut().map(|shard| shard.clear(place.end));",
        instead: "let count = shards.len();
            drop(shards);
            let cleared = (0..count).map(|n| self.index.all()[n].clear(place.end));",
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file with the fault in it; the error says why it can't be planted.
fn planted(fault: &Fault) -> Result<String, String> {
    let text = fs::read_to_string(root().join(fault.file)).expect("a source");
    let is_it = |line: &&str| line.trim_start() == fault.line;
    match text.lines().filter(is_it).count() {
        1 => Ok(text.replacen(fault.line, fault.instead, 1)),
        count => Err(format!("{} has {count} times {:?}", fault.file, fault.line)),
    }
}

/// Copies what cargo needs, where it differs: so what is built of it stays valid.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a directory");
        for entry in fs::read_dir(from).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else if fs::read(from).ok() != fs::read(to).ok() {
        fs::copy(from, to).expect("a copy");
    }
}

#[test]
fn every_fault_can_be_planted() {
    for fault in &FAULTS {
        assert_eq!(planted(fault).err(), None);
    }
}

#[test]
#[ignore = "takes minutes: make planted"]
fn every_planted_fault_is_found() {
    let only = env::var("FAULT").ok().map(|number| number.parse().expect("a number"));
    let copies: PathBuf = root().join("target/planted");
    fs::create_dir_all(&copies).expect("a directory");
    let mut missed = Vec::new();
    for (fault, number) in FAULTS.iter().zip(1..) {
        if only.is_some_and(|only: usize| only != number) {
            continue;
        }
        for part in ["Cargo.toml", "Cargo.lock", "README.md", "src", "tests"] {
            copy(&root().join(part), &copies.join(part));
        }
        let text = planted(fault).expect("checked by the other test");
        fs::write(copies.join(fault.file), text).expect("written");
        let cargo = |arguments: &[&str]| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["test", "--release", "--test", fault.test]).args(arguments);
            cargo.current_dir(&copies).env("CARGO_TARGET_DIR", copies.join("target"));
            cargo.env("SEED", "1").env("SEEDS", "1000").env("ROUNDS", "200");
            cargo.output().expect("cargo runs")
        };
        assert!(cargo(&["--no-run"]).status.success(), "{}: not compiled", fault.what);
        let output = cargo(&[]);
        let text = String::from_utf8_lossy(&output.stdout);
        let found =
            text.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
        match found.filter(|_| !output.status.success()) {
            Some(why) => println!("{number}. {}: found: {why}", fault.what),
            None => missed.push(format!("{}: not found by {}", fault.what, fault.test)),
        }
    }
    assert_eq!(missed, [""; 0]);
}

//! The shape of the source: which file uses which, read from their `use` lines.
//!
//! The crate is made of rooms, a file `src/NAME.rs` and what is in `src/NAME/`. A room uses
//! only those below it, and within a room files use one another in one direction: there
//! is no circle, so every file can be read after those that it uses.
//!
//! ```text
//!   bin -> driver -> args -> server -> protocol -> store -> os
//!                         -> client ->
//! ```
//!
//! `use crate::store::log::Log` is an arrow to `store/log.rs`, `use crate::store::Store`
//! one to `store.rs`. What `lib.rs` has itself, such as `lock`, is everybody's: an arrow to
//! it does not count, and it has none of its own. Neither do tests, nor a `mod` line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each room, and those that it may use.
const ROOMS: [(&str, &[&str]); 9] = [
    ("lib", &[]),
    ("os", &[]),
    ("store", &["os"]),
    ("protocol", &["os", "store"]),
    ("server", &["os", "store", "protocol"]),
    ("client", &["os", "store", "protocol"]),
    ("args", &["os", "store", "protocol", "server", "client"]),
    ("driver", &["os", "store", "protocol", "server", "client", "args"]),
    ("bin", &["os", "store", "protocol", "server", "client", "args", "driver"]),
];

/// What is in `src`.
const ENTRIES: [&str; 14] = [
    "args.rs",
    "bin",
    "client",
    "client.rs",
    "driver",
    "driver.rs",
    "lib.rs",
    "os.rs",
    "protocol",
    "protocol.rs",
    "server",
    "server.rs",
    "store",
    "store.rs",
];

/// Files by their paths below `src`, with what is in them.
type Sources = BTreeMap<String, String>;

/// For each file, the files that it uses.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The text without comments and without test modules.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            // Formatted, the end of a module is the first brace that is not indented.
            if !lines.next().is_some_and(|line| line.ends_with(';')) {
                lines.find(|line| line.starts_with('}'));
            }
        } else if !line.trim_start().starts_with("//") {
            code += line.split(" // ").next().unwrap_or_default();
            code.push('\n');
        }
    }
    code
}

/// Adds the paths that a use tree at the head of `text` names, after `prefix`; returns
/// what follows the tree.
fn add_paths<'t>(
    text: &'t str,
    prefix: &[&'t str],
    paths: &mut Vec<Vec<&'t str>>,
) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            rest = add_paths(rest, prefix, paths);
            // A new name after `as` changes nothing.
            let end = rest.find([',', '}']).expect("a brace is not closed");
            rest = rest[end..].strip_prefix(',').unwrap_or(&rest[end..]);
        }
    }
    let is_other = |c: char| !(c.is_alphanumeric() || c == '_' || c == '*');
    let (name, rest) = text.split_at(text.find(is_other).unwrap_or(text.len()));
    let mut path = prefix.to_vec();
    path.extend(Some(name).filter(|name| *name != "self"));
    match rest.strip_prefix("::") {
        Some(rest) => add_paths(rest, &path, paths),
        None => {
            paths.push(path);
            rest
        }
    }
}

/// The paths within the crate that a file names, in `use` lines and elsewhere. The
/// programs in `bin` name it as other crates do.
fn paths(code: &str) -> Vec<Vec<&str>> {
    let mut paths = Vec::new();
    for root in ["crate::", "memcached_lite::"] {
        for (start, _) in code.match_indices(root) {
            let before = code[..start].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                add_paths(&code[start + root.len()..], &[], &mut paths);
            }
        }
    }
    paths
}

/// Which file uses which.
fn arrows(sources: &Sources) -> Arrows {
    let file_of = |path: &[&str]| {
        let name = |count| path[..count].join("/") + ".rs";
        let mut names = (1..=path.len()).rev().map(name);
        names.find(|name| sources.contains_key(name))
    };
    let mut arrows = Arrows::new();
    for (file, text) in sources {
        let code = code(text);
        let used = paths(&code).into_iter().filter_map(|path| file_of(&path));
        arrows.insert(file.clone(), used.collect());
    }
    arrows
}

/// The room that a file belongs to.
fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

/// A circle that can be reached from the end of `path`, if there is one. Files from which
/// none can be reached are added to `done`.
fn circle<'a>(
    arrows: &'a Arrows,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<String> {
    let file = *path.last()?;
    for next in &arrows[file] {
        if let Some(start) = path.iter().position(|file| file == next) {
            return Some(format!("a circle: {} -> {next}", path[start..].join(" -> ")));
        }
        if !done.contains(&next[..]) {
            path.push(next);
            let found = circle(arrows, path, done);
            if found.is_some() {
                return found;
            }
            path.pop();
        }
    }
    done.insert(file);
    None
}

fn is_flush(line: &str) -> bool {
    !line.starts_with(char::is_whitespace)
}

/// What is wrong with the shape of these files, a line for each thing.
fn problems(sources: &Sources) -> Vec<String> {
    let arrows = arrows(sources);
    let mut problems = Vec::new();
    if arrows.values().all(BTreeSet::is_empty) {
        problems.push("no file uses another: nothing was checked".into());
    }
    for (file, text) in sources {
        // An inner module, which is indented, names its own file so.
        if code(text).lines().any(|line| line.contains("use super::") && is_flush(line))
        {
            problems
                .push(format!("{file} has `use super::`, whose arrows are not seen"));
        }
    }
    for (file, used) in &arrows {
        let Some((_, below)) = ROOMS.iter().find(|(name, _)| *name == room(file))
        else {
            problems.push(format!("{file} is in no room"));
            continue;
        };
        for other in used {
            if room(other) != room(file) && !below.contains(&room(other)) {
                problems.push(format!("an arrow that points up: {file} -> {other}"));
            }
        }
    }
    // One circle is enough: the next is found when it is gone.
    let done = &mut BTreeSet::new();
    problems
        .extend(arrows.keys().find_map(|file| circle(&arrows, &mut vec![file], done)));
    problems
}

/// Adds the sources in a directory, whose path below `src` is `below`.
fn add_sources(directory: &Path, below: &str, sources: &mut Sources) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = below.to_owned() + path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            add_sources(&path, &(name + "/"), sources);
        } else if name.ends_with(".rs") {
            sources.insert(name, fs::read_to_string(path).unwrap());
        }
    }
}

fn src() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

#[test]
fn no_file_uses_a_room_above_it_or_itself_by_a_detour() {
    let mut sources = Sources::new();
    add_sources(src(), "", &mut sources);
    assert_eq!(problems(&sources), [""; 0]);
    // All of it was found.
    for (name, _) in ROOMS {
        assert!(sources.keys().any(|file| room(file) == name), "{name} is gone");
    }
    let arrows = arrows(&sources);
    let uses = |file: &str, other: &str| arrows[file].contains(other);
    assert!(uses("store/log.rs", "store/record.rs"));
    assert!(uses("protocol/dialect.rs", "store.rs"));
    assert!(uses("bin/server.rs", "args.rs"));
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 100);
}

#[test]
fn the_source_has_these_rooms_and_no_others() {
    let entries = fs::read_dir(src()).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    assert_eq!(names, ENTRIES);
}

/// The problems of made-up files.
fn problems_of(files: &[(&str, &str)]) -> Vec<String> {
    let owned = files.iter().map(|(name, text)| (name.to_string(), text.to_string()));
    problems(&owned.collect())
}

#[test]
fn a_circle_is_noticed_whatever_its_length() {
    let log = ("store/log.rs", "use crate::store::record::Record;\n");
    assert_eq!(problems_of(&[log, ("store/record.rs", "")]), [""; 0]);
    assert_eq!(
        problems_of(&[log, ("store/record.rs", "use crate::store::log::Log;\n")]),
        ["a circle: store/log.rs -> store/record.rs -> store/log.rs"]
    );
    assert_eq!(
        problems_of(&[
            log,
            ("store/record.rs", "use crate::store::{crc::crc32, disk};\n"),
            ("store/crc.rs", "use crate::store::Store;\n"),
            ("store/disk.rs", ""),
            ("store.rs", "use crate::lock;\npub use crate::store::log::SyncMode;\n"),
        ]),
        ["a circle: store.rs -> store/log.rs -> store/record.rs -> store/crc.rs \
             -> store.rs"]
    );
    assert_eq!(
        problems_of(&[("os.rs", "fn f() {\n    crate::os::poller();\n}\n")]),
        ["a circle: os.rs -> os.rs"]
    );
}

#[test]
fn an_arrow_that_points_up_is_noticed_however_it_is_written() {
    for text in [
        "use crate::protocol::words::Words;",
        "use crate::protocol;",
        "pub(crate) use crate::protocol::{self, Request};",
        "use crate::{\n    lock,\n    protocol::{\n        self,\n        Request as It,\n    },\n};",
        "use crate::{lock, warn};\nfn f(words: &crate::protocol::words::Words) {}",
    ] {
        let files = [
            ("store/log.rs", text),
            ("protocol.rs", ""),
            ("protocol/words.rs", ""),
            ("server.rs", "use crate::protocol::Request;"),
        ];
        let problems = problems_of(&files);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        let start = "an arrow that points up: store/log.rs -> protocol";
        assert!(problems[0].starts_with(start), "{problems:?}");
    }
    // The two sides of the wire do not know one another.
    let files = [("client.rs", "use crate::server::Server;"), ("server.rs", "")];
    assert_eq!(
        problems_of(&files),
        ["an arrow that points up: client.rs -> server.rs"]
    );
}

#[test]
fn only_arrows_of_the_code_count() {
    let text = "//! [`crate::protocol::words`]\n\
                use crate::store::crc::crc32;\n\
                /// As [`crate::protocol`].\n\
                fn f() {} // crate::protocol\n\
                #[cfg(test)]\n\
                use crate::protocol::Request;\n\
                #[cfg(test)]\n\
                mod tests {\n    use crate::protocol::Request;\n    fn g() {}\n}\n";
    let words = ("protocol/words.rs", "");
    let files =
        [("store/log.rs", text), ("store/crc.rs", ""), ("protocol.rs", ""), words];
    assert_eq!(problems_of(&files), [""; 0]);
    let after = text.to_owned() + "use crate::protocol::words::Words;\n";
    let files = [("store/log.rs", &after[..]), ("store/crc.rs", ""), words];
    assert_eq!(problems_of(&files).len(), 1);
}

#[test]
fn a_check_that_finds_nothing_fails() {
    for files in [&[][..], &[("store.rs", "use crate::lock;"), ("os.rs", "")]] {
        assert_eq!(problems_of(files), ["no file uses another: nothing was checked"]);
    }
    let files =
        [("store/log.rs", "use super::disk::Disk;"), ("store.rs", "use crate::os::f;")];
    let unseen = "store/log.rs has `use super::`, whose arrows are not seen";
    assert!(problems_of(&files).contains(&unseen.to_owned()));
    let files = [("util.rs", "use crate::os::poller;"), ("os.rs", "")];
    assert_eq!(problems_of(&files), ["util.rs is in no room"]);
}

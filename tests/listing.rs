//! Listings of all keys, in pieces, while everything changes: what is there throughout is
//! listed once, and nobody waits for a client that does not read.

mod common;

use common::stream::{NOW, Served, shared_over};
use common::verbs::Verbs;
use common::{TempDir, disk};
use memcached_lite::protocol::dialect::Dialect;
use memcached_lite::protocol::meta::write_listed_key;
use memcached_lite::protocol::reply::write_listed;
use memcached_lite::protocol::{Parsed, Request, parse};
use memcached_lite::server::connection::Waits;
use memcached_lite::server::service::{Context, OUTPUT_LIMIT};
use memcached_lite::store::{Limits, Options, Record, Session, Store, SyncMode};
use std::collections::BTreeMap;
use std::io::Read;

/// A server over this many items.
fn context(directory: &TempDir, items: usize) -> Context {
    let options = Options { sync: SyncMode::EverySecond, ..Options::default() };
    let (store, _) = Store::open(directory.path(), &options, NOW).unwrap();
    let mut session = Session::at(NOW);
    for number in 0..items {
        store.set(&mut session, key(number).as_bytes(), 3, 0, b"value").unwrap();
    }
    store.settle(&session).unwrap();
    let mut context = Context::new(shared_over(Dialect::Memcached, store), 0);
    context.session.now = NOW;
    context
}

/// Some are short and stand in the index, some are not.
fn key(number: usize) -> String {
    format!("{number:0len$}", len = if number.is_multiple_of(3) { 100 } else { 8 })
}

/// Reads a listing to its end, a piece at a time; before each, something happens. Returns
/// its lines, without the first and the last.
fn lines(
    request: &str,
    context: &mut Context,
    mut happens: impl FnMut(&Context),
) -> Vec<String> {
    let mut served = Served::new(format!("{request}\r\n").as_bytes());
    served.serve_all(context);
    let (mut text, mut pieces) = (Vec::new(), 0);
    while served.connection.waits_for() != Some(Waits::Input) {
        happens(context);
        let before = text.len();
        // Its client takes all that there is; more is not made before that.
        while served.connection.waits_for() == Some(Waits::Output) {
            served.flush(context);
            let _ = served.client.read_to_end(&mut text);
        }
        assert!(text.len() - before < OUTPUT_LIMIT + 1000);
        served.serve_all(context);
        pieces += 1;
    }
    let text = String::from_utf8(text).unwrap();
    assert!(pieces > 1 || text.len() < OUTPUT_LIMIT, "{pieces} pieces");
    let lines = text.strip_prefix("OK\r\n").expect("a listing follows");
    let end = if request.contains("mgdump") { "EN\r\n" } else { "END\r\n" };
    lines.strip_suffix(end).expect("it ends").lines().map(str::to_owned).collect()
}

/// How often each key is listed.
fn listed(lines: &[String]) -> BTreeMap<String, usize> {
    let mut listed = BTreeMap::new();
    for line in lines {
        let key = line.strip_prefix("key=").or(line.strip_prefix("mg "));
        let key = key.expect("a key").split(' ').next().unwrap();
        *listed.entry(key.to_owned()).or_default() += 1;
    }
    listed
}

#[test]
fn every_item_is_listed_once() {
    let directory = TempDir::new();
    let mut context = context(&directory, 10_000);
    let expected: BTreeMap<String, usize> =
        (0..10_000).map(|number| (key(number), 1)).collect();
    for request in ["lru_crawler metadump all", "lru_crawler mgdump all"] {
        assert_eq!(listed(&lines(request, &mut context, |_| ())), expected);
    }
}

#[test]
fn what_is_there_throughout_is_listed_once_whatever_happens() {
    let directory = TempDir::new();
    let mut context = context(&directory, 10_000);
    let mut round = 0;
    let lines = lines("lru_crawler metadump all", &mut context, |context| {
        let (store, mut session) = (&context.shared.store, Session::at(NOW));
        // One in ten goes, one in ten is replaced, one in ten is touched, some are new;
        // and all records move.
        for number in (round..10_000).step_by(100) {
            store.delete(&mut session, key(number).as_bytes()).unwrap();
            let replaced = key(number + 10 - number % 10 + round % 10);
            if number % 10 == 0 {
                store.replace(&mut session, replaced.as_bytes(), 4, 0, b"new").unwrap();
            }
            store.touch(&mut session, key(number + 50).as_bytes(), 1000).unwrap();
            let new = format!("new{number}");
            store.set(&mut session, new.as_bytes(), 0, 0, b"").unwrap();
        }
        store.compact(&|| NOW).unwrap();
        round += 10;
    });
    assert!(round > 50, "too few pieces to tell");
    let listed = listed(&lines);
    let mut session = Session::at(NOW);
    for number in 0..10_000 {
        let key = key(number);
        let is_there = context.shared.store.get(&mut session, key.as_bytes()).unwrap();
        let count = listed.get(&key).copied().unwrap_or(0);
        assert!(count == 1 || (count == 0 && is_there.is_none()), "{key}: {count}");
    }
    assert!(listed.values().all(|&count| count == 1));
}

#[test]
fn a_listing_that_is_not_read_delays_nobody() {
    let directory = TempDir::new();
    let mut context = context(&directory, 10_000);
    let mut slow = Served::new(b"lru_crawler metadump all\r\nget absent\r\n");
    slow.serve_all(&mut context);
    assert_eq!(slow.connection.waits_for(), Some(Waits::Output));
    let mut other = Served::new(format!("get {}\r\n", key(1)).as_bytes());
    other.serve(&mut context);
    assert!(other.replies(&mut context).ends_with("value\r\nEND\r\n"));
    // What it has sent after that is answered after it.
    let mut text = Vec::new();
    while slow.connection.waits_for() != Some(Waits::Input) {
        slow.flush(&mut context);
        let _ = slow.client.read_to_end(&mut text);
        slow.serve_all(&mut context);
    }
    assert!(text.ends_with(b"\nEND\r\nEND\r\n"));
}

#[test]
fn a_listing_is_no_access() {
    let directory = TempDir::new();
    let mut context = context(&directory, 100);
    let fetched = |lines: &[String]| {
        lines.iter().filter(|line| line.contains(" fetch=yes ")).count()
    };
    let mut get = Served::new(format!("get {}\r\n", key(7)).as_bytes());
    get.serve(&mut context);
    for _ in 0..2 {
        let lines = lines("lru_crawler metadump all", &mut context, |_| ());
        assert_eq!((lines.len(), fetched(&lines)), (100, 1));
    }
}

#[test]
fn a_listing_depends_on_what_it_shows_and_does_not_show() {
    // S2, S3
    let directory = TempDir::new();
    let mut context = context(&directory, 2);
    let store = context.shared.store.figure("log_end");
    let mut session = Session::at(NOW);
    context.shared.store.delete(&mut session, key(1).as_bytes()).unwrap();
    assert!(session.depends_on > store);
    let mut served = Served::new(b"lru_crawler mgdump all\r\n");
    served.serve(&mut context);
    assert!(context.session.depends_on >= session.depends_on);
    let lines = lines("lru_crawler mgdump all", &mut context, |_| ());
    assert_eq!(lines, [format!("mg {}", key(0))]);
}

#[test]
fn what_a_pending_flush_removes_is_not_listed() {
    let directory = TempDir::new();
    let mut context = context(&directory, 10);
    let mut session = Session::at(NOW);
    context.shared.store.flush_all(&mut session, 5).unwrap();
    context.session.now = NOW + 4;
    assert_eq!(lines("lru_crawler mgdump all", &mut context, |_| ()).len(), 10);
    context.session.now = NOW + 5;
    assert_eq!(lines("lru_crawler mgdump all", &mut context, |_| ()).len(), 0);
}

#[test]
fn what_has_expired_is_not_listed() {
    let directory = TempDir::new();
    let mut context = context(&directory, 10);
    let mut session = Session::at(NOW);
    context.shared.store.touch(&mut session, key(1).as_bytes(), 5).unwrap();
    for (now, count) in [(NOW + 4, 10), (NOW + 5, 9)] {
        context.session.now = now;
        for request in ["lru_crawler mgdump all", "lru_crawler metadump all"] {
            assert_eq!(lines(request, &mut context, |_| ()).len(), count);
        }
    }
}

#[test]
fn a_listing_copies_the_keys_of_one_part_and_no_more() {
    // V2
    let directory = TempDir::new();
    for request in ["lru_crawler mgdump all", "lru_crawler metadump all"] {
        let mut context = context(&directory, 100_000);
        assert_eq!(lines(request, &mut context, |_| ()).len(), 100_000);
        let mut is_flushed = false;
        let lines = lines(request, &mut context, |context| {
            if !std::mem::replace(&mut is_flushed, true) {
                context.shared.store.flush_all(&mut Session::at(NOW), 0).unwrap();
            }
        });
        // The first piece, and what was copied then: a sixty-fourth of all, more or less.
        let bytes: usize = lines.iter().map(|line| line.len() + 2).sum();
        let copied =
            if request.contains("mgdump") { 2 * 100_000 / 64 * 100 } else { 0 };
        assert!(bytes < OUTPUT_LIMIT + copied + 1000, "{bytes} bytes");
    }
}

#[test]
fn what_is_damaged_is_not_listed_and_counted() {
    let directory = TempDir::new();
    let mut context = context(&directory, 2);
    let (name, mut bytes) = disk::files(directory.path()).pop_first().unwrap();
    bytes[300] ^= 1;
    std::fs::write(directory.path().join(name), bytes).unwrap();
    let lines = lines("lru_crawler metadump all", &mut context, |_| ());
    assert_eq!(listed(&lines), BTreeMap::from([(key(1), 1)]));
    assert_eq!(context.shared.store.figure("log_damaged_reads"), 1);
}

#[test]
fn a_key_of_any_bytes_has_a_line() {
    let all: Vec<u8> = (0..=255).collect();
    for key in [&all[..], b"a", b"%", b"%%4", b"100%", b"a b", b"a\nb"] {
        let (mut line, item) = (Vec::new(), Record { key, ..Record::default() });
        write_listed(&mut line, &item, 1, NOW);
        let line = String::from_utf8(line).expect("it is ASCII");
        let encoded = line.strip_prefix("key=").unwrap().split(' ').next().unwrap();
        let mut pieces = encoded.split('%');
        let mut decoded = Vec::from(pieces.next().unwrap());
        for piece in pieces {
            decoded.push(u8::from_str_radix(&piece[..2], 16).unwrap());
            decoded.extend_from_slice(&piece.as_bytes()[2..]);
        }
        assert_eq!(decoded, key);
        assert!(line.is_ascii() && line.ends_with(" flags=0 \n"), "{line}");
        // The other is a request for just this item.
        let mut line = Vec::new();
        write_listed_key(&mut line, key);
        let limits = Limits { key_size: 1000, max_value: 0, max_item_size: 1000 };
        match parse(&line, &limits) {
            Parsed::Request { request: Request::Meta(it), used, .. } => {
                assert_eq!((&it.key[..], used), (key, line.len()));
            }
            other => panic!("{other:?}"),
        }
    }
}

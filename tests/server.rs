//! What the server does with its connections: many at once, slow, greedy, idle, cut
//! off or turned away; what a kill leaves behind; and sockets in the file system.
//!
//! Most tests run the real program. Those under [`on_both_pollers`] run the server
//! in this process, once with the poller that it chooses and once with `poll`; so do
//! those that need a disk which holds still, fails or panics. A server in this process
//! lives until the process ends.

mod common;

use common::dialogue::replay;
use common::disk::{Call, Faulty, How};
use common::talk::*;
use common::{REPLY_TIMEOUT, Server, TempDir, connect};
use memcached_lite::disk::{Directory, Disk};
use memcached_lite::os::{self, Poller};
use memcached_lite::server::{self, Options};
use memcached_lite::store::{self, Store};
use memcached_lite::{log::SyncMode, server::StartError};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Makes two tests of each function: one for each poller.
macro_rules! on_both_pollers {
    ($($test:ident)*) => {
        mod with_the_best_poller {
            $(#[test]
            fn $test() {
                super::$test::<memcached_lite::os::Best>();
            })*
        }
        mod with_poll {
            $(#[test]
            fn $test() {
                super::$test::<memcached_lite::os::Poll>();
            })*
        }
    };
}

on_both_pollers! {
    every_dialogue_holds
    a_request_may_come_byte_by_byte
    ten_thousand_requests_in_one_write_are_answered_in_order
    a_half_closed_client_gets_all_its_answers
    an_answer_larger_than_any_buffer_arrives_whole
    two_hundred_idle_connections_are_in_nobodys_way
    a_reply_waits_for_its_commit
    the_connections_of_a_tick_share_one_sync
    a_failed_commit_costs_the_replies_that_depend_on_it
    while_a_sync_runs_the_others_on_the_worker_are_served
    what_a_parked_connection_sends_waits_and_is_answered_in_order
    a_parked_connection_that_leaves_hurts_nobody_and_frees_its_place
    a_failed_round_costs_who_waited_for_it_and_the_next_one_nobody
    a_failed_sync_costs_all_who_waited_for_it
    nobody_is_closed_while_parked
    in_a_crowded_log_everybody_has_a_turn
    a_panic_costs_one_connection
    a_free_place_is_given_to_the_one_that_waits
}

/// For a server in this process, with its data in `data`.
fn options(data: &Path, sync: SyncMode) -> Options {
    Options {
        port: 0,
        data: data.to_owned(),
        store: store::Options { sync, ..Default::default() },
        threads: 2,
        ..Default::default()
    }
}

fn run<P: Poller>(server: server::Server) -> String {
    let address = server.address();
    thread::spawn(move || server.run_with::<P>());
    address
}

/// Starts a server in this process, with data that nobody waits for.
fn serve<P: Poller>(data: &TempDir) -> SocketAddr {
    let server = server::Server::bind(options(data.path(), SyncMode::EverySecond));
    run::<P>(server.expect("start")).parse().expect("address")
}

/// The same over a disk that the test has a hold on.
fn serve_on<P: Poller>(disk: impl Disk + 'static, threads: usize) -> SocketAddr {
    let options = Options { threads, ..options(Path::new(""), SyncMode::Always) };
    // The directory is empty, so the time tells it nothing.
    let store = Store::on_disk(Box::new(disk), &options.store, 0);
    let (store, _) = store.expect("open");
    let server = server::Server::with_store(options, store).expect("start");
    run::<P>(server).parse().expect("address")
}

fn every_dialogue_holds<P: Poller>() {
    let data = TempDir::new();
    let addr = serve::<P>(&data);
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire");
    let mut count = 0;
    for entry in fs::read_dir(directory).expect("tests/wire") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        // These want servers with options.
        if ["lite", "raw", "auth"].iter().any(|topic| name.starts_with(topic)) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        match replay(addr, &text, false) {
            Ok(dialogues) => count += dialogues,
            Err(failures) => panic!("{}:\n{failures}", path.display()),
        }
    }
    assert!(count > 50, "only {count} dialogues");
}

fn a_request_may_come_byte_by_byte<P: Poller>() {
    let data = TempDir::new();
    let stream = connect(serve::<P>(&data)).expect("connect");
    // Behind `abcd`, which is two bytes too many, comes an empty line.
    let requests = "set k 7 0 5\r\na\r\nbc\r\nget k other\r\nset k 0 0 2\r\nabcd\r\n\
                    set k x 0 3\r\nget\r\nbogus\r\nincr k 1\r\ndelete k\r\nquit\r\n";
    for byte in requests.bytes() {
        send(&stream, [byte]);
    }
    let replies = "STORED\r\nVALUE k 7 5\r\na\r\nbc\r\nEND\r\n\
                   CLIENT_ERROR bad data chunk\r\n\
                   CLIENT_ERROR bad command line format\r\n\
                   CLIENT_ERROR bad command line format\r\nERROR\r\n\
                   CLIENT_ERROR cannot increment or decrement non-numeric value\r\n\
                   DELETED\r\n";
    assert_eq!(String::from_utf8(rest(&stream)).expect("text"), replies);
}

fn ten_thousand_requests_in_one_write_are_answered_in_order<P: Poller>() {
    let data = TempDir::new();
    let stream = connect(serve::<P>(&data)).expect("connect");
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for i in 0..5000 {
        let (key, value) = (format!("k{}", i % 7), format!("{i}"));
        requests.extend(set(&key, value.as_bytes()));
        requests.extend(format!("get {key} missing\r\n").as_bytes());
        replies.extend(STORED.as_bytes());
        replies.extend(hit(&key, value.as_bytes()));
        replies.extend(b"END\r\n");
    }
    thread::scope(|scope| {
        scope.spawn(|| send(&stream, &requests));
        expect(&stream, &replies);
    });
}

fn a_half_closed_client_gets_all_its_answers<P: Poller>() {
    let data = TempDir::new();
    let stream = connect(serve::<P>(&data)).expect("connect");
    let big = value(0, 1_000_000);
    ask(&stream, set("big", &big), STORED);
    // The server has stopped for its full output long before it meets the end.
    send(&stream, "get big big\r\n".repeat(5) + "version\r\nget k");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    for _ in 0..5 {
        expect(&stream, hit("big", &big));
        expect(&stream, hit("big", &big));
        expect(&stream, "END\r\n");
    }
    let last = rest(&stream);
    assert!(
        last.starts_with(b"VERSION ") && last.ends_with(b"\r\n"),
        "{}",
        show(&last)
    );
}

/// Asks for `times` times ten values of 1,000,000 bytes at once, with more behind it.
fn ask_for_megabytes(addr: SocketAddr, times: usize) {
    let stream = connect(addr).expect("connect");
    let values: Vec<_> = (0..10).map(|seed| value(seed, 1_000_000)).collect();
    let mut keys = String::new();
    for (i, value) in values.iter().enumerate() {
        ask(&stream, set(&format!("k{i}"), value), STORED);
        keys += &format!(" k{i}");
    }
    let keys = keys.repeat(times);
    let behind = "get k missing\r\nset k 0 0 1\r\nx\r\nget k\r\n";
    send(&stream, format!("get{keys}\r\n{behind}"));
    // While its worker serves one of these, it fills the socket until that is full.
    for other in [connect(addr), connect(addr)].map(|other| other.expect("connect")) {
        (0..100).for_each(|_| ask(&other, "get missing\r\n", "END\r\n"));
    }
    for _ in 0..times {
        for (i, value) in values.iter().enumerate() {
            expect(&stream, hit(&format!("k{i}"), value));
        }
    }
    expect(&stream, "END\r\nEND\r\nSTORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    ask(&stream, "get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
}

fn an_answer_larger_than_any_buffer_arrives_whole<P: Poller>() {
    let data = TempDir::new();
    ask_for_megabytes(serve::<P>(&data), 2);
}

#[test]
fn an_answer_of_a_hundred_megabytes_arrives_whole() {
    let server = Server::start(&["--sync", "every-second"]);
    ask_for_megabytes(server.addr, 10);
}

fn two_hundred_idle_connections_are_in_nobodys_way<P: Poller>() {
    let data = TempDir::new();
    let addr = serve::<P>(&data);
    let idle: Vec<_> = (0..200).map(|_| connect(addr).expect("connect")).collect();
    let busy = connect(addr).expect("connect");
    for i in 0..200 {
        ask(&busy, set("k", format!("{i}").as_bytes()), STORED);
    }
    for stream in &idle {
        ask(stream, "get k\r\n", "VALUE k 0 3\r\n199\r\nEND\r\n");
    }
}

#[test]
fn a_thousand_connections_set_and_get_at_the_same_time() {
    allow_connections(2000);
    let server = Server::start(&["-t", "2"]);
    let streams: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    for (i, stream) in streams.iter().enumerate() {
        send(stream, set(&format!("k{i}"), format!("value {i}").as_bytes()));
    }
    for stream in &streams {
        expect(stream, STORED);
    }
    // Each reads what another has written.
    for (i, stream) in streams.iter().rev().enumerate() {
        send(stream, format!("get k{i}\r\n"));
    }
    for (i, stream) in streams.iter().rev().enumerate() {
        expect(stream, hit(&format!("k{i}"), format!("value {i}").as_bytes()));
        expect(stream, "END\r\n");
    }
    assert_eq!(stat(&streams[0], "curr_connections"), 1000);
    assert_eq!(stat(&streams[0], "rejected_connections"), 0);
}

/// V3
#[cfg(target_os = "linux")]
#[test]
fn thousands_of_idle_connections_hold_no_buffers() {
    // `make test-idle` asks for more, where the system allows so many descriptors.
    let idle = std::env::var("IDLE").map_or(2000, |n| n.parse().expect("a number"));
    allow_connections(idle as u64);
    let limit = (idle + 100).to_string();
    let server = Server::start(&["--conn-limit", &limit, "--sync", "every-second"]);
    let streams: Vec<_> = (0..idle).map(|_| server.connect()).collect();
    let (busy, value) = (server.connect(), value(0, 16 << 10));
    let before = memory(&server, "VmRSS");
    let (request, reply) = (set("k", &value), hit("k", &value));
    let (head, tail) = request.split_at(9000);
    for some in streams.chunks(20) {
        let read_before = stat(&busy, "bytes_read");
        some.iter().for_each(|stream| send(stream, head));
        // Each of these has to keep what it has read.
        until(|| stat(&busy, "bytes_read") - read_before >= 20 * 9000);
        for stream in some {
            send(stream, tail);
            expect(stream, STORED);
            send(stream, "get k\r\n");
            expect(stream, &reply);
            expect(stream, "END\r\n");
        }
    }
    // If each kept its input or its output, that would be 16 kB each.
    let grown = memory(&server, "VmRSS").saturating_sub(before);
    assert!(grown < 4 * idle as u64, "{grown} kB for idle connections");
    for _ in 0..500 {
        ask(&busy, set("k", b"x"), STORED);
    }
    assert_eq!(stat(&busy, "curr_connections"), idle as u64 + 1);
}

/// V2
#[cfg(target_os = "linux")]
#[test]
fn who_takes_no_replies_costs_little_memory_and_delays_nobody() {
    let server = Server::start(&["-t", "1", "--sync", "every-second"]);
    let (greedy, patient, other) =
        (server.connect(), server.connect(), server.connect());
    let big = value(0, 1_000_000);
    ask(&other, set("big", &big), STORED);
    send(&greedy, "get big\r\n".repeat(10_000));
    send(&patient, "get big\r\n".repeat(100));
    for _ in 0..200 {
        ask(&other, set("k", b"x"), STORED);
        ask(&other, "get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
    }
    for _ in 0..100 {
        expect(&patient, hit("big", &big));
        expect(&patient, "END\r\n");
    }
    send(&patient, "quit\r\n");
    assert_eq!(show(&rest(&patient)), "");
    let most = memory(&server, "VmHWM");
    assert!(most < 40 << 10, "{most} kB");
    assert_eq!(stat(&other, "curr_connections"), 2, "the greedy one is still served");
}

/// P4
#[cfg(target_os = "linux")]
#[test]
fn a_declared_length_allocates_nothing() {
    let server = Server::start(&["--sync", "every-second"]);
    let other = server.connect();
    let streams: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    let before = (memory(&server, "VmRSS"), memory(&server, "VmData"));
    let read_before = stat(&other, "bytes_read");
    let head = "set k 0 0 1000000\r\n";
    streams.iter().for_each(|stream| send(stream, head));
    until(|| stat(&other, "bytes_read") - read_before >= 1000 * head.len() as u64);
    let grown = memory(&server, "VmRSS").saturating_sub(before.0);
    assert!(grown < 2000, "{grown} kB for 1000 lines");
    let grown = memory(&server, "VmData").saturating_sub(before.1);
    assert!(grown < 8000, "{grown} kB of addresses for 1000 lines");
}

/// V2
#[cfg(target_os = "linux")]
#[test]
fn connections_hold_no_more_than_the_bound_that_is_told() {
    const COUNT: u64 = 40;
    let size = 300 << 10;
    let server = Server::start(&["-I", "300k", "--sync", "every-second"]);
    let other = server.connect();
    let settings = |name| number(&other, "stats settings\r\n", name);
    let each = settings("connection_bytes_max");
    assert!(settings("memory_bytes_max") > 1024 * each, "and the workers");
    ask(&other, set("k", &value(0, 200 << 10)), STORED);
    let line = [b"get", &b" k".repeat(size / 2 - 10)[..], b"\r\n"].concat();
    let streams: Vec<_> = (0..COUNT).map(|_| server.connect()).collect();
    let (before, read_before) = (memory(&server, "VmRSS"), stat(&other, "bytes_read"));
    // The server keeps the keys that are left, and replies that fill its output.
    streams.iter().for_each(|stream| send(stream, &line));
    let sent = COUNT * line.len() as u64;
    until(|| stat(&other, "bytes_read") - read_before >= sent);
    let grown = || memory(&server, "VmRSS").saturating_sub(before);
    until(|| grown() > COUNT * (size as u64 + (256 << 10)) / 1024 / 2);
    let (grown, bound) = (grown(), COUNT * each / 1024);
    assert!(grown < bound, "{grown} kB, and the bound is {bound}");
    assert_eq!(stat(&other, "curr_connections"), COUNT + 1);
}

/// V2, in a build that checks it: at these lengths, a buffer that doubles is too large.
#[test]
fn a_buffer_is_cut_to_its_bound() {
    for (limit, line_len, value_len) in [("300k", 300 << 10, 1), ("1k", 2000, 700)] {
        let server = Server::start(&["-I", limit, "--sync", "every-second"]);
        let stream = server.connect();
        let value = value(0, value_len);
        ask(&stream, set("k", &value), STORED);
        let count = line_len / 2 - 10;
        send(&stream, [b"get", &b" k".repeat(count)[..]].concat());
        send(&stream, "\r\n");
        expect(&stream, [&hit("k", &value).repeat(count)[..], b"END\r\n"].concat());
    }
}

/// V2
#[cfg(target_os = "linux")]
#[test]
fn a_refused_value_is_thrown_away_as_it_comes() {
    let server = Server::start(&[]);
    let stream = server.connect();
    send(&stream, "set k 0 0 100000000\r\n");
    let piece = vec![b'x'; 1_000_000];
    for _ in 0..100 {
        send(&stream, &piece);
    }
    send(&stream, "\r\nget k\r\n");
    expect(&stream, "SERVER_ERROR object too large for cache\r\nEND\r\n");
    let most = memory(&server, "VmHWM");
    assert!(most < 20 << 10, "{most} kB");
}

/// V1, W1
fn a_reply_waits_for_its_commit<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let addr = serve_on::<P>(disk.clone(), 2);
    let (writer, reader) = (connect(addr).expect("connect"), connect(addr));
    let reader = reader.expect("connect");
    ask(&writer, set("safe", b"old"), STORED);
    ask(&reader, "get safe\r\n", "VALUE safe 0 3\r\nold\r\nEND\r\n");

    let hold = disk.hold(Call::Sync);
    send(&writer, [set("k", b"new"), b"version\r\n".to_vec()].concat());
    hold.wait_for(1);
    assert!(is_silent(&writer), "told before it was safe");
    // It is served by the other worker, and has the same to wait for.
    ask(&reader, "get safe\r\n", "VALUE safe 0 3\r\nold\r\nEND\r\n");
    send(&reader, "get k\r\n");
    reader.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let early = reader.peek(&mut [0]);
    assert!(early.is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "shown too early");
    assert!(is_silent(&writer), "told before it was safe");
    drop(hold);
    expect(&writer, "STORED\r\nVERSION ");
    reader.set_read_timeout(Some(REPLY_TIMEOUT)).expect("timeout");
    expect(&reader, "VALUE k 0 3\r\nnew\r\nEND\r\n");
}

/// W1
fn the_connections_of_a_tick_share_one_sync<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let addr = serve_on::<P>(disk.clone(), 1);
    let streams: Vec<_> = (0..50).map(|_| connect(addr).expect("connect")).collect();
    for stream in &streams {
        ask(stream, "get k\r\n", "END\r\n");
    }
    disk.forget();
    let hold = disk.hold(Call::Sync);
    send(&streams[0], set("k", b"x"));
    hold.wait_for(1);
    // They wait for the next round together, if it is not the worker that waits.
    for stream in &streams[1..] {
        send(stream, set("k", b"x"));
    }
    drop(hold);
    for stream in &streams {
        expect(stream, STORED);
    }
    // Two, unless the kernel was late with some of them.
    let syncs = disk.count(Call::Sync);
    assert!((2..10).contains(&syncs), "{syncs} syncs for 50 connections");
}

/// V1
fn a_failed_commit_costs_the_replies_that_depend_on_it<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let addr = serve_on::<P>(disk.clone(), 1);
    let (writer, reader) = (connect(addr).expect("connect"), connect(addr));
    let reader = reader.expect("connect");
    ask(&reader, set("safe", b"old"), STORED);

    let hold = disk.hold(Call::Sync);
    send(&writer, set("k", b"x"));
    hold.wait_for(1);
    // What the writer sends now is read when its first reply has left, and its commit
    // fails.
    disk.fail(&[Call::Sync], 0, How::Once);
    send(&writer, [set("k", b"y"), set("k", b"z"), b"version\r\n".to_vec()].concat());
    send(&reader, "get safe\r\n");
    drop(hold);
    expect(&writer, STORED);
    let told = String::from_utf8(rest(&writer)).expect("text");
    assert!(told.starts_with("SERVER_ERROR ") && told.ends_with("\r\n"), "{told:?}");
    assert_eq!(told.lines().count(), 1, "{told:?}");
    expect(&reader, "VALUE safe 0 3\r\nold\r\nEND\r\n");
    // A failed sync is final.
    send(&reader, set("k", b"x"));
    expect(&reader, "SERVER_ERROR ");
}

/// A server with one worker, and `count` connections that it has adopted. One that is
/// silent is enough to have the others parked.
fn one_worker<P: Poller>(disk: &Faulty, count: usize) -> (SocketAddr, Vec<TcpStream>) {
    let addr = serve_on::<P>(disk.clone(), 1);
    let streams: Vec<_> = (0..count).map(|_| connect(addr).expect("connect")).collect();
    for stream in &streams {
        ask(stream, "get k\r\n", "END\r\n");
    }
    (addr, streams)
}

/// V1, W1, W5
fn while_a_sync_runs_the_others_on_the_worker_are_served<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let (addr, streams) = one_worker::<P>(&disk, 3);
    let [writer, reader, third] = &streams[..] else { panic!() };
    ask(third, set("safe", b"old"), STORED);
    let hold = disk.hold(Call::Sync);
    send(writer, set("k", b"new"));
    hold.wait_for(1);
    for _ in 0..3 {
        ask(third, "get safe\r\n", only("safe", b"old"));
    }
    // What it shows is not safe, so it waits as well, and still the third does not.
    send(reader, "get k\r\n");
    ask(third, "get safe\r\n", only("safe", b"old"));
    // Somebody new wakes the worker, in whose tick there may be others.
    let newcomer = connect(addr).expect("connect");
    ask(&newcomer, "get safe\r\n", only("safe", b"old"));
    assert!(is_silent(writer) && is_silent(reader), "told before it was safe");
    drop(hold);
    expect(writer, STORED);
    expect(reader, only("k", b"new"));
}

/// V2, W5
fn what_a_parked_connection_sends_waits_and_is_answered_in_order<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let (_, streams) = one_worker::<P>(&disk, 2);
    let (writer, other) = (&streams[0], &streams[1]);
    let hold = disk.hold(Call::Sync);
    send(writer, [set("n", b"1"), b"incr n 1\r\n".to_vec()].concat());
    hold.wait_for(1);
    // In two parts, of which the first ends in the middle of a request.
    send(writer, "incr n 1\r\nincr n 1\r\nset k 0 0 5\r\nhe");
    ask(other, "get nothing\r\n", "END\r\n");
    send(writer, "llo\r\nget n\r\nquit\r\n");
    // The first incr was read together with the set, the others were not read.
    assert_eq!(stat(other, "cmd_set"), 1);
    assert_eq!(stat(other, "incr_hits"), 1);
    assert!(is_silent(writer), "told before it was safe");
    drop(hold);
    expect(writer, "STORED\r\n2\r\n3\r\n4\r\nSTORED\r\nVALUE n 0 1\r\n4\r\nEND\r\n");
    assert_eq!(show(&rest(writer)), "");
    ask(other, "get k\r\n", "VALUE k 0 5\r\nhello\r\nEND\r\n");
}

/// W3, W5
fn a_parked_connection_that_leaves_hurts_nobody_and_frees_its_place<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let (addr, mut streams) = one_worker::<P>(&disk, 4);
    let other = streams.pop().expect("a stream");
    let [closes, resets, half] = &streams[..] else { panic!() };
    // Who closes with something unread resets.
    send(resets, "get k\r\n");
    resets.peek(&mut [0]).expect("a reply");
    let hold = disk.hold(Call::Sync);
    for (stream, key) in [(closes, "a"), (resets, "b"), (half, "c")] {
        send(stream, set(key, b"x"));
    }
    hold.wait_for(1);
    until(|| stat(&other, "cmd_set") == 3);
    half.shutdown(Shutdown::Write).expect("shutdown");
    let half = streams.pop().expect("a stream");
    drop(streams);
    for _ in 0..3 {
        assert_eq!(stat(&other, "curr_connections"), 4);
    }
    drop(hold);
    assert_eq!(rest(&half), STORED.as_bytes());
    until(|| stat(&other, "curr_connections") == 1);
    for key in ["a", "b", "c"] {
        ask(&other, format!("get {key}\r\n"), only(key, b"x"));
    }
    // Their places are good for others, who are parked in their turn.
    let newcomers = [connect(addr), connect(addr), connect(addr)];
    let newcomers = newcomers.map(|stream| stream.expect("connect"));
    let hold = disk.hold(Call::Sync);
    newcomers.iter().for_each(|stream| send(stream, set("a", b"y")));
    hold.wait_for(1);
    until(|| stat(&other, "cmd_set") == 6);
    assert!(newcomers.iter().all(is_silent), "told before it was safe");
    drop(hold);
    newcomers.iter().for_each(|stream| expect(stream, STORED));
}

/// V1, W5
fn a_failed_round_costs_who_waited_for_it_and_the_next_one_nobody<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let (_, streams) = one_worker::<P>(&disk, 5);
    let [first, second, third, reader, other] = &streams[..] else { panic!() };
    ask(other, set("safe", b"old"), STORED);
    let hold = disk.hold(Call::Sync);
    send(first, set("a", b"1"));
    hold.wait_for(1);
    send(second, set("b", b"2"));
    send(third, set("c", b"3"));
    send(reader, "get a\r\n");
    until(|| stat(other, "cmd_set") == 4 && stat(other, "get_hits") == 1);
    // What the first round does is written. What the second is to do is not.
    disk.fail(&[Call::Write], 0, How::Always);
    drop(hold);
    expect(first, STORED);
    for stream in [second, third] {
        let told = String::from_utf8(rest(stream)).expect("text");
        assert!(
            told.starts_with("SERVER_ERROR ") && told.ends_with("\r\n"),
            "{told:?}"
        );
        assert_eq!(told.lines().count(), 1, "{told:?}");
    }
    expect(reader, only("a", b"1"));
    disk.heal();
    ask(first, set("d", b"4"), STORED);
    ask(
        other,
        "get d safe\r\n",
        "VALUE d 0 1\r\n4\r\nVALUE safe 0 3\r\nold\r\nEND\r\n",
    );
}

/// V1, W5
fn a_failed_sync_costs_all_who_waited_for_it<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let (_, streams) = one_worker::<P>(&disk, 3);
    let [writer, reader, other] = &streams[..] else { panic!() };
    let hold = disk.hold(Call::Sync);
    disk.fail(&[Call::Sync], 0, How::Once);
    send(writer, set("k", b"x"));
    hold.wait_for(1);
    send(reader, [&b"get k\r\n"[..], b"version\r\n"].concat());
    ask(other, "get nothing\r\n", "END\r\n");
    drop(hold);
    for stream in [writer, reader] {
        let told = String::from_utf8(rest(stream)).expect("text");
        assert!(told.starts_with("SERVER_ERROR "), "{told:?}");
        assert_eq!(told.lines().count(), 1, "{told:?}");
    }
    // L4: it was final, and who asks for what was safe is served.
    send(other, set("k", b"y"));
    assert!(line(other).starts_with("SERVER_ERROR "));
    ask(other, "get nothing\r\n", "END\r\n");
}

/// W5
fn nobody_is_closed_while_parked<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let limit = Some(Duration::from_millis(200));
    let options = Options {
        threads: 1,
        idle_timeout: limit,
        request_timeout: limit,
        ..options(Path::new(""), SyncMode::Always)
    };
    let store = Store::on_disk(Box::new(disk.clone()), &options.store, 0);
    let server = server::Server::with_store(options, store.expect("open").0);
    let addr: SocketAddr = run::<P>(server.expect("start")).parse().expect("address");
    let (idle, writer) = (connect(addr).expect("connect"), connect(addr));
    let writer = writer.expect("connect");
    ask(&idle, "get k\r\n", "END\r\n");
    let hold = disk.hold(Call::Sync);
    send(&writer, set("k", b"x"));
    hold.wait_for(1);
    ask(&idle, "get nothing\r\n", "END\r\n");
    // It is closed by a look at the clock at which the writer has waited longer.
    assert_eq!(show(&rest(&idle)), "");
    let newcomer = connect(addr).expect("connect");
    ask(&newcomer, "get nothing\r\n", "END\r\n");
    assert!(is_silent(&writer), "told before it was safe, or closed");
    drop(hold);
    expect(&writer, STORED);
}

/// C5
fn in_a_crowded_log_everybody_has_a_turn<P: Poller>() {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let options =
        Options { threads: 1, ..options(Path::new(""), SyncMode::EverySecond) };
    let store = Store::on_disk(Box::new(disk.clone()), &options.store, 0);
    let server = server::Server::with_store(options, store.expect("open").0);
    let addr: SocketAddr = run::<P>(server.expect("start")).parse().expect("address");
    let [greedy, second, reader] = [0; 3].map(|_| connect(addr).expect("connect"));
    ask(&reader, set("k", b"x"), STORED);
    ask(&second, "get k\r\n", only("k", b"x"));
    // Compaction is held where it would remove the old file, so there is no room.
    let hold = disk.hold(Call::Remove);
    let big = value(0, 100_000);
    for _ in 0..60 {
        ask(&greedy, set("big", &big), STORED);
    }
    hold.wait_for(1);
    let until_full = (0..200).take_while(|_| {
        ask(&greedy, set("big", &big), STORED);
        stat(&reader, "log_end") < (8 << 20)
    });
    assert!(until_full.count() < 100);
    // Two who always have more to write, and one who reads.
    let many = set("k", b"y").repeat(2000);
    send(&greedy, &many);
    send(&second, &many);
    let start = Instant::now();
    for _ in 0..5 {
        ask(&reader, "get nothing\r\n", "END\r\n");
    }
    // The first may come before them, and each other one waits 10 ms with them.
    assert!(start.elapsed() > Duration::from_millis(20), "nobody waited");
    expect(&greedy, STORED);
    expect(&second, STORED);
    assert!(stat(&reader, "cmd_set") < 1000, "nobody waited");
    drop(hold);
    expect(&greedy, STORED.repeat(1999));
    expect(&second, STORED.repeat(1999));
}

/// A disk that panics at the next read once it is told to.
struct Panics {
    directory: Directory,
    armed: Arc<AtomicBool>,
}

impl Disk for Panics {
    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        assert!(!self.armed.swap(false, Ordering::SeqCst), "as the test asked");
        self.directory.read(file, buffer, offset)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }
    fn open(&self, name: &str, create: bool) -> io::Result<File> {
        self.directory.open(name, create)
    }
    fn still_names(&self, name: &str, file: &File) -> io::Result<()> {
        self.directory.still_names(name, file)
    }
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.directory.write(file, bytes, offset)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        self.directory.sync(file)
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.directory.set_len(file, len)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_dir()
    }
}

/// W2
fn a_panic_costs_one_connection<P: Poller>() {
    let data = TempDir::new();
    let armed = Arc::new(AtomicBool::new(false));
    let directory = Directory::new(data.path());
    let addr = serve_on::<P>(Panics { directory, armed: armed.clone() }, 1);
    let neighbour = connect(addr).expect("connect");
    for _ in 0..3 {
        let victim = connect(addr).expect("connect");
        // A record that was read before would not be read again.
        ask(&victim, set("k", b"x"), STORED);
        armed.store(true, Ordering::SeqCst);
        send(&victim, "version\r\nget k\r\nversion\r\n");
        assert_eq!(show(&rest(&victim)), "");
        ask(&neighbour, "get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
        assert_eq!(stat(&neighbour, "curr_connections"), 1);
    }
}

/// W3
fn a_free_place_is_given_to_the_one_that_waits<P: Poller>() {
    let data = TempDir::new();
    let options = Options {
        conn_limit: 2,
        backlog: 2,
        threads: 1,
        ..options(data.path(), SyncMode::EverySecond)
    };
    let server = server::Server::bind(options).expect("start");
    let addr: SocketAddr = run::<P>(server).parse().expect("address");
    let open = || connect(addr).expect("connect");
    let (first, second) = (open(), open());
    ask(&first, "get k\r\n", "END\r\n");
    ask(&second, "get k\r\n", "END\r\n");
    let (third, fourth, fifth) = (open(), open(), open());
    send(&third, "get k\r\n");
    send(&fourth, "get k\r\n");
    // The listener takes them in their order, so it has met the others, too.
    assert_eq!(show(&rest(&fifth)), show(TURNED_AWAY.as_bytes()));
    ask(&first, "get k\r\n", "END\r\n");
    assert!(is_silent(&third) && is_silent(&fourth));
    assert_eq!(stat(&first, "curr_connections"), 2);

    drop(second);
    expect(&third, "END\r\n");
    ask(&first, "get k\r\n", "END\r\n");
    assert!(is_silent(&fourth));
    // One that left while it waited does not keep its place.
    let sixth = open();
    assert_eq!(show(&rest(open())), show(TURNED_AWAY.as_bytes()));
    drop(fourth);
    drop(third);
    ask(&sixth, "get k\r\n", "END\r\n");
    drop(first);
    until(|| stat(&sixth, "curr_connections") == 1);
    ask(open(), "get k\r\n", "END\r\n");
    assert_eq!(stat(&sixth, "rejected_connections"), 2);
}

/// Connects again and again until there is a place.
fn connect_when_free(server: &Server) -> TcpStream {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    while Instant::now() < deadline {
        let stream = server.connect();
        let mut reply = [0; 5];
        // It may be closed already.
        let _ = (&stream).write_all(b"get k\r\n");
        if (&stream).read_exact(&mut reply).is_ok() && reply == *b"END\r\n" {
            return stream;
        }
    }
    panic!("no place became free");
}

/// W3
#[test]
fn without_a_backlog_a_place_is_free_when_its_owner_has_left() {
    let server = Server::start(&["--conn-limit", "1"]);
    for _ in 0..20 {
        let only = connect_when_free(&server);
        assert_eq!(show(&rest(server.connect())), show(TURNED_AWAY.as_bytes()));
        ask(&only, "get k\r\n", "END\r\n");
    }
}

/// W4
#[cfg(target_os = "linux")]
#[test]
fn running_out_of_descriptors_costs_the_newcomer() {
    let server = Server::start(&["-t", "1", "--sync", "every-second"]);
    let first = server.connect();
    ask(&first, set("k", b"x"), STORED);
    let limit = format!("--nofile={}", descriptors(&server) + 5);
    let pid = server.pid().to_string();
    let lowered = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(lowered.expect("prlimit, of util-linux").success());

    let (mut served, mut turned_away) = (Vec::new(), 0);
    while turned_away < 20 {
        let stream = server.connect();
        let _ = (&stream).write_all(b"get k\r\n");
        let mut reply = [0; 5];
        match (&stream).read_exact(&mut reply) {
            Ok(()) if reply == *b"VALUE" => served.push(stream),
            Ok(()) => {
                assert_eq!(show(&reply), "ERROR");
                turned_away += 1;
            }
            // It did not read what we have asked.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                turned_away += 1;
            }
        }
        assert!(served.len() < 100, "the limit is not in force");
        ask(&first, "get k\r\n", "VALUE k 0 1\r\nx\r\nEND\r\n");
    }
    assert_eq!(show(&rest(server.connect())), show(TURNED_AWAY.as_bytes()));
    assert!(!served.is_empty());
    for stream in &served {
        expect(stream, " k 0 1\r\nx\r\nEND\r\n");
    }
    ask(&first, set("k", b"y"), STORED);
    drop(served);
    until(|| stat(&first, "curr_connections") == 1);
    ask(server.connect(), "get k\r\n", "VALUE k 0 1\r\ny\r\nEND\r\n");
}

#[test]
fn the_idle_are_closed_after_the_idle_timeout_and_the_busy_are_not() {
    let server = Server::start(&["-t", "1", "--idle-timeout", "0.2"]);
    let (idle, busy) = (server.connect(), server.connect());
    ask(&idle, "get k\r\n", "END\r\n");
    thread::scope(|scope| {
        let ending = scope.spawn(|| rest(&idle));
        while !ending.is_finished() {
            ask(&busy, "get k\r\n", "END\r\n");
        }
        assert_eq!(ending.join().expect("closed"), b"");
    });
    ask(&busy, "get k\r\n", "END\r\n");
}

#[test]
fn who_is_stuck_is_closed_after_the_request_timeout_and_the_idle_are_not() {
    let server = Server::start(&[
        "-t",
        "1",
        "--request-timeout",
        "0.2",
        "--sync",
        "every-second",
    ]);
    let idle = server.connect();
    let big = value(0, 1_000_000);
    ask(&idle, set("big", &big), STORED);
    let requests = [
        // Half a line, half a value, and half of one that is thrown away.
        "get k".into(),
        "set k 0 0 10\r\nhalf".into(),
        "set k 0 0 100000000\r\nhalf".into(),
        "get big\r\n".repeat(1000),
    ];
    let stuck = requests.map(|request| {
        let stream = server.connect();
        send(&stream, request);
        stream
    });
    for stream in &stuck[..3] {
        assert_eq!(show(&rest(stream)), "");
    }
    until(|| stat(&idle, "curr_connections") == 1);
    let taken = rest(&stuck[3]).len();
    assert!(taken > 0 && taken < 1000 * big.len());
    ask(&idle, "get k\r\n", "END\r\n");
}

#[test]
fn the_server_exits_when_nobody_was_connected_for_so_long() {
    let server = Server::start(&["--idle-exit", "1", "-v"]);
    let stream = server.connect();
    ask(&stream, "get k\r\n", "END\r\n");
    // Its time begins later and has passed when it says so.
    let deserted = Server::start(&["--idle-exit", "1"]);
    deserted.wait_for_line("SERVER: Timeout reached at 1 seconds", REPLY_TIMEOUT);
    ask(&stream, "get k\r\n", "END\r\n");
    drop(stream);
    server.wait_for_line("SERVER: Client disconnected", REPLY_TIMEOUT);
    server.wait_for_line("SERVER: Timeout reached at 1 seconds", REPLY_TIMEOUT);
    let last = server.wait_for_line("Server: ", REPLY_TIMEOUT);
    assert_eq!(last, format!("Server: Detached from {}", server.addr));
}

#[test]
fn a_socket_in_the_file_system_is_its_owners_alone() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let data = directory.path().join("data");
    let options = Options {
        unix_socket: Some(path.clone()),
        ..options(&data, SyncMode::EverySecond)
    };
    // The name that a dead server has left is in nobody's way.
    drop(UnixListener::bind(&path).expect("bind"));
    let server = server::Server::bind(options.clone()).expect("start");
    assert_eq!(run::<os::Best>(server), path.display().to_string());
    let mode = fs::metadata(&path).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let stream = UnixStream::connect(&path).expect("connect");
    stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("timeout");
    ask(&stream, set("k", b"x"), STORED);

    // A living one's is its own; and a file that is no socket is not ours.
    let other = directory.path().join("other");
    let options = Options { data: other.clone(), ..options };
    assert!(refusal(options.clone()).contains("in use"));
    assert!(!other.exists());
    ask(UnixStream::connect(&path).expect("connect"), "get k\r\n", "VALUE k ");
    let file = directory.path().join("file");
    fs::write(&file, "mine").expect("write");
    refusal(Options { unix_socket: Some(file.clone()), ..options.clone() });
    assert_eq!(fs::read(&file).expect("read"), b"mine");

    // Who can't have the data leaves no socket behind.
    let path = directory.path().join("second");
    let options = Options { data, unix_socket: Some(path.clone()), ..options };
    assert!(refusal(options).contains("is using it"));
    assert!(!path.exists());
}

/// Why a server with these options does not start, in one line.
fn refusal(options: Options) -> String {
    match server::Server::bind(options) {
        Ok(_) => panic!("it starts"),
        Err(error @ StartError::Usage(_)) => panic!("not a matter of usage: {error}"),
        Err(StartError::Failed(why)) => {
            assert_eq!(why.lines().count(), 1, "{why}");
            why
        }
    }
}

#[test]
fn a_kill_under_load_loses_nothing_that_was_acknowledged() {
    for sync in ["always", "every-second"] {
        let data = TempDir::new();
        let mut server = Server::start_on(data.path(), &["--sync", sync, "-t", "2"]);
        let addr = server.addr;
        let (sender, acknowledged) = mpsc::channel();
        let writers = (0..4).map(|writer| {
            let (sender, mut stream) = (sender.clone(), server.connect());
            thread::spawn(move || {
                for i in 0.. {
                    let request = set(&format!("{writer}-{i}"), &value(i, i % 3000));
                    let mut reply = [0; STORED.len()];
                    let told = stream.write_all(&request);
                    if told.and_then(|()| stream.read_exact(&mut reply)).is_err() {
                        break;
                    }
                    assert_eq!(reply, STORED.as_bytes());
                    sender.send((writer, i)).expect("the test listens");
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        drop(sender);
        let mut stored: Vec<_> = acknowledged.iter().take(500).collect();
        server.kill();
        stored.extend(acknowledged);
        writers.into_iter().for_each(|writer| writer.join().expect("writer"));

        // The port is free at once, too.
        let port = addr.port().to_string();
        let server = Server::start_on(data.path(), &["--sync", sync, "--port", &port]);
        assert_eq!(server.addr, addr);
        let stream = server.connect();
        for (writer, i) in stored {
            let key = format!("{writer}-{i}");
            send(&stream, format!("get {key}\r\n"));
            expect(&stream, hit(&key, &value(i, i % 3000)));
            expect(&stream, "END\r\n");
        }
    }
}

#[test]
fn a_directory_has_one_server_and_the_second_is_told_who() {
    let server = Server::start(&[]);
    let why = refusal(options(server.data(), SyncMode::Always));
    assert!(why.contains(&format!("process {} is using it", server.pid())), "{why}");
    ask(server.connect(), set("k", b"x"), STORED);
}

#[test]
fn no_increment_and_no_cas_is_lost_between_connections() {
    let server = Server::start(&["-t", "2", "--sync", "every-second"]);
    let stream = server.connect();
    ask(&stream, set("n", b"0"), STORED);
    ask(&stream, set("c", b"0"), STORED);
    let race = || {
        let stream = server.connect();
        let mut seen = Vec::new();
        for _ in 0..500 {
            send(&stream, "incr n 1\r\n");
            seen.push(line(&stream));
        }
        for _ in 0..200 {
            loop {
                send(&stream, "gets c\r\n");
                let head = line(&stream);
                let unique = head.rsplit(' ').next().expect("a unique");
                let count: u32 = line(&stream).parse().expect("a number");
                assert_eq!(line(&stream), "END");
                let next = (count + 1).to_string();
                send(
                    &stream,
                    format!("cas c 0 0 {} {unique}\r\n{next}\r\n", next.len()),
                );
                match &line(&stream)[..] {
                    "STORED" => break,
                    other => assert_eq!(other, "EXISTS"),
                }
            }
        }
        seen
    };
    let seen: Vec<String> = thread::scope(|scope| {
        let racers = [(); 3].map(|()| scope.spawn(race));
        racers.into_iter().flat_map(|racer| racer.join().expect("racer")).collect()
    });
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 1500, "a number came twice");
    ask(&stream, "get n\r\n", "VALUE n 0 4\r\n1500\r\nEND\r\n");
    ask(&stream, "get c\r\n", "VALUE c 0 3\r\n600\r\nEND\r\n");
}

//! What the server does with its connections: many at once, slow, greedy, idle, cut
//! off or rejected; what it does while the disk is busy; what a kill leaves behind; and
//! sockets in the file system.
//!
//! Most tests run the real program. Those under [`on_both_pollers`] run the server
//! in this process, once with the poller that it chooses and once with `poll`; so do
//! those that need a disk which holds still, fails or panics. A server in this process
//! lives until the process ends. The time of a single connection is an argument: tests
//! of its timeouts run no server.

mod common;

use common::disk::{Call, Faulty, How};
use common::replay;
use common::stream::{NOW, Served, shared};
use common::talk::*;
use common::verbs::Verbs;
use common::{REPLY_TIMEOUT, SERVER, Server, TempDir, auth_file, connect};
use memcached_lite::Failure;
use memcached_lite::os::{self, Poller};
use memcached_lite::protocol::dialect::Dialect;
use memcached_lite::server::connection::Waits;
use memcached_lite::server::service::Context;
use memcached_lite::server::{self, Options};
use memcached_lite::store::disk::Disk;
use memcached_lite::store::{self, Session, Store, SyncMode};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Makes pollers of the kind that is tested.
type Pollers = fn() -> io::Result<Box<dyn Poller>>;

/// Makes two tests of each function: one for each poller.
macro_rules! on_both_pollers {
    ($($test:ident)*) => {
        mod with_the_best_poller {
            $(#[test]
            fn $test() {
                super::$test(memcached_lite::os::poller);
            })*
        }
        mod with_poll {
            $(#[test]
            fn $test() {
                super::$test(|| Ok(Box::<memcached_lite::os::Poll>::default()));
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
    all_connections_share_the_work_of_a_tick
    a_reply_waits_for_its_commit
    the_connections_of_a_tick_share_one_sync
    a_failed_commit_costs_the_replies_that_depend_on_it
    a_worker_commits_itself_where_nobody_else_is_ready
    the_syncer_commits_where_another_connection_is_ready
    while_a_sync_runs_the_others_on_the_worker_are_served
    what_a_parked_connection_sends_waits_and_is_answered_in_order
    a_parked_connection_that_leaves_hurts_nobody_and_frees_its_place
    a_failed_commit_costs_those_that_waited_for_it_and_the_next_one_nobody
    a_failed_sync_costs_all_that_waited_for_it
    nobody_is_closed_while_parked
    what_is_parked_is_answered_before_the_server_stops
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

/// Runs a server in this process, and returns its address.
fn run(pollers: Pollers, server: server::Server) -> String {
    let address = server.address().to_owned();
    thread::spawn(move || server.run(pollers));
    address
}

/// Starts a server in this process, with data that no reply waits for.
fn serve(pollers: Pollers, data: &TempDir) -> SocketAddr {
    let server = server::Server::bind(options(data.path(), SyncMode::EverySecond));
    run(pollers, server.expect("start")).parse().expect("address")
}

/// The same, in `always`, over a disk that the test can hold.
fn serve_on(pollers: Pollers, disk: &Faulty, threads: usize) -> SocketAddr {
    let options = Options { threads, ..options(Path::new(""), SyncMode::Always) };
    // The directory is empty, so the time does not matter.
    let (store, _) = disk.open(&options.store, 0).expect("open");
    let server = server::Server::with_store(options, store).expect("start");
    run(pollers, server).parse().expect("address")
}

fn every_dialogue_holds(pollers: Pollers) {
    let data = TempDir::new();
    let addr = serve(pollers, &data);
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

fn a_request_may_come_byte_by_byte(pollers: Pollers) {
    let data = TempDir::new();
    let stream = connect(serve(pollers, &data)).expect("connect");
    // After `abcd`, which is two bytes too many, comes an empty line.
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

fn ten_thousand_requests_in_one_write_are_answered_in_order(pollers: Pollers) {
    let data = TempDir::new();
    let stream = connect(serve(pollers, &data)).expect("connect");
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

fn a_half_closed_client_gets_all_its_answers(pollers: Pollers) {
    let data = TempDir::new();
    let stream = connect(serve(pollers, &data)).expect("connect");
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

/// Requests `times` times ten values of 1,000,000 bytes at once, and then more.
fn ask_for_megabytes(addr: SocketAddr, times: usize) {
    let stream = connect(addr).expect("connect");
    let values: Vec<_> = (0..10).map(|seed| value(seed, 1_000_000)).collect();
    let mut keys = String::new();
    for (i, value) in values.iter().enumerate() {
        ask(&stream, set(&format!("k{i}"), value), STORED);
        keys += &format!(" k{i}");
    }
    let keys = keys.repeat(times);
    let more = "get k missing\r\nset k 0 0 1\r\nx\r\nget k\r\n";
    send(&stream, format!("get{keys}\r\n{more}"));
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

fn an_answer_larger_than_any_buffer_arrives_whole(pollers: Pollers) {
    let data = TempDir::new();
    ask_for_megabytes(serve(pollers, &data), 2);
}

#[test]
fn an_answer_of_a_hundred_megabytes_arrives_whole() {
    let server = Server::start(&["--sync", "every-second"]);
    ask_for_megabytes(server.addr, 10);
}

fn two_hundred_idle_connections_are_in_nobodys_way(pollers: Pollers) {
    let data = TempDir::new();
    let addr = serve(pollers, &data);
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

#[test]
fn a_compaction_that_stops_is_printed_once() {
    let server = Server::start(&["--sync", "every-second", "--max-item-size", "64m"]);
    let stream = server.connect();
    ask(&stream, set("damaged", b"value"), STORED);
    let file = File::options().write(true).open(server.data().join("0000000001.kv"));
    let file = file.expect("the data file");
    let end = file.metadata().expect("its length").len();
    file.write_all_at(b"V", end - 1).expect("damage");
    // Enough garbage for a compaction, which meets the damage.
    for value in [&vec![b'1'; 40 << 20], &vec![b'2'; 40 << 20], &b"3".to_vec()] {
        ask(&stream, set("garbage", value), STORED);
    }
    until(|| stat(&stream, "log_generations") == 2);
    let stopped = stat(&stream, "uptime");
    until(|| stat(&stream, "uptime") >= stopped + 3);
    let errors = server.last_words();
    assert_eq!(errors.matches("is damaged").count(), 1, "{errors}");
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
    let (request, reply) = (set("k", &value), hit("k", &value));
    // What the workers and the shard keep has its size from then on.
    for stream in &streams[..2] {
        for _ in 0..50 {
            ask(stream, &request, STORED);
            ask(stream, "get k\r\n", only("k", &value));
        }
    }
    let before = memory(&server, "VmRSS");
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
fn a_client_that_takes_no_replies_costs_little_memory_and_delays_nobody() {
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
fn what_connections_hold_is_bounded() {
    const COUNT: u64 = 40;
    // The longest line and the longest value; what is read at once; and where replies
    // pause.
    let (line, value_len, read, output) = (300 << 10, 200 << 10, 64 << 10, 256 << 10);
    let server = Server::start(&["-I", "300k", "--sync", "every-second"]);
    let other = server.connect();
    ask(&other, set("k", &value(0, value_len)), STORED);
    let keys = [b"get", &b" k".repeat(line / 2 - 10)[..], b"\r\n"].concat();
    let streams: Vec<_> = (0..COUNT).map(|_| server.connect()).collect();
    let (before, read_before) = (memory(&server, "VmRSS"), stat(&other, "bytes_read"));
    // The server keeps the keys that are left, and replies that fill its output.
    streams.iter().for_each(|stream| send(stream, &keys));
    let sent = COUNT * keys.len() as u64;
    until(|| stat(&other, "bytes_read") - read_before >= sent);
    let grown = || memory(&server, "VmRSS").saturating_sub(before);
    until(|| grown() > COUNT * (line + output) as u64 / 1024 / 2);
    // A buffer grows by doubling.
    let most = COUNT * 2 * (line + read + output + value_len) as u64 / 1024;
    for _ in 0..100 {
        let grown = grown();
        assert!(grown < most, "{grown} kB, and the bound is {most}");
        ask(&other, "get nothing\r\n", "END\r\n");
    }
    assert_eq!(stat(&other, "curr_connections"), COUNT + 1);
}

#[test]
fn a_get_as_long_as_a_line_may_be_is_answered_whole() {
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
fn a_rejected_value_is_discarded_as_it_arrives() {
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
fn a_reply_waits_for_its_commit(pollers: Pollers) {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let addr = serve_on(pollers, &disk, 2);
    let (writer, reader) = (connect(addr).expect("connect"), connect(addr));
    let reader = reader.expect("connect");
    ask(&writer, set("safe", b"old"), STORED);
    ask(&reader, "get safe\r\n", "VALUE safe 0 3\r\nold\r\nEND\r\n");

    let hold = disk.hold(Call::Sync);
    send(&writer, [set("k", b"new"), b"version\r\n".to_vec()].concat());
    hold.wait_for(1);
    assert!(is_silent(&writer), "replied before it was safe");
    // It is served by the other worker, and has the same to wait for.
    ask(&reader, "get safe\r\n", "VALUE safe 0 3\r\nold\r\nEND\r\n");
    send(&reader, "get k\r\n");
    assert!(is_silent_for(&reader, Duration::from_millis(100)), "shown too early");
    assert!(is_silent(&writer), "replied before it was safe");
    drop(hold);
    expect(&writer, "STORED\r\nVERSION ");
    expect(&reader, "VALUE k 0 3\r\nnew\r\nEND\r\n");
}

/// W1
fn the_connections_of_a_tick_share_one_sync(pollers: Pollers) {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let addr = serve_on(pollers, &disk, 1);
    let streams: Vec<_> = (0..50).map(|_| connect(addr).expect("connect")).collect();
    for stream in &streams {
        ask(stream, "get k\r\n", "END\r\n");
    }
    disk.forget();
    let hold = disk.hold(Call::Sync);
    send(&streams[0], set("k", b"x"));
    hold.wait_for(1);
    // They are served together when the worker has come back from the disk.
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
fn a_failed_commit_costs_the_replies_that_depend_on_it(pollers: Pollers) {
    let data = TempDir::new();
    let disk = Faulty::new(data.path());
    let addr = serve_on(pollers, &disk, 1);
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
    expect_failure(&writer);
    expect(&reader, "VALUE safe 0 3\r\nold\r\nEND\r\n");
    // A failed sync is final.
    send(&reader, set("k", b"x"));
    expect(&reader, "SERVER_ERROR ");
}

/// A disk that calls back before it does what it is asked, on the thread that asks.
struct Hooked {
    disk: Faulty,
    before: Box<dyn Fn(Call) + Send + Sync>,
}

impl Disk for Hooked {
    fn list(&self) -> io::Result<Vec<String>> {
        (self.before)(Call::List);
        self.disk.list()
    }
    fn open(&self, name: &str, create: bool) -> io::Result<File> {
        (self.before)(Call::Open);
        Disk::open(&self.disk, name, create)
    }
    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (self.before)(Call::Read);
        self.disk.read(file, buffer, offset)
    }
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        (self.before)(Call::Write);
        self.disk.write(file, bytes, offset)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        (self.before)(Call::Sync);
        self.disk.sync(file)
    }
    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        (self.before)(Call::Reserve);
        self.disk.reserve(file, len)
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        (self.before)(Call::Truncate);
        self.disk.set_len(file, len)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.before)(Call::Rename);
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        (self.before)(Call::Remove);
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        (self.before)(Call::SyncDir);
        self.disk.sync_dir()
    }
}

/// Lets so many calls pass; the others wait here.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_closed: bool,
    /// Calls that may pass though it is closed.
    permits: usize,
    waiting: usize,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state.lock().expect("the gate"));
        self.changed.notify_all();
    }

    /// A call comes here.
    fn pass(&self) {
        let mut state = self.state.lock().expect("the gate");
        state.waiting += 1;
        self.changed.notify_all();
        let stays = |state: &mut GateState| state.is_closed && state.permits == 0;
        let mut state = self.changed.wait_while(state, stays).expect("the gate");
        state.waiting -= 1;
        state.permits = state.permits.saturating_sub(1);
    }

    fn close(&self) {
        self.change(|state| state.is_closed = true);
    }

    fn open(&self) {
        self.change(|state| state.is_closed = false);
    }

    /// Lets one call pass.
    fn admit(&self) {
        self.change(|state| state.permits += 1);
    }

    /// Returns when a call waits at the closed gate.
    fn wait_for_a_call(&self) {
        let state = self.state.lock().expect("the gate");
        let is_missing =
            |state: &mut GateState| state.waiting == 0 || state.permits > 0;
        let waited = self.changed.wait_timeout_while(state, REPLY_TIMEOUT, is_missing);
        assert!(!waited.expect("the gate").1.timed_out(), "no call came");
    }
}

/// A server in this process with one worker, in `always`, and all that it asks of its
/// disk in the test's hands. Clients use a socket in the file system: what they have sent
/// has arrived when `send` returns.
struct OneWorker {
    disk: Faulty,
    /// Where its reads of the disk wait.
    reads: Arc<Gate>,
    /// The names of the threads that have synced.
    syncs: Arc<Mutex<Vec<String>>>,
    socket: PathBuf,
    /// A word into this has it stop.
    stop: UnixStream,
    /// How many of the keys that nobody had read are used up.
    used: Cell<usize>,
    _directory: TempDir,
}

/// How many keys have a value that nobody has read.
const UNREAD: usize = 256;

impl OneWorker {
    fn start(pollers: Pollers) -> OneWorker {
        OneWorker::start_with(pollers, Duration::ZERO)
    }

    /// With this idle and request timeout.
    fn start_with(pollers: Pollers, timeout: Duration) -> OneWorker {
        let directory = TempDir::new();
        let (data, socket) = (directory.path().join("d"), directory.path().join("s"));
        fs::create_dir(&data).expect("a directory");
        let options = Options {
            threads: 1,
            unix_socket: Some(socket.clone()),
            idle_timeout: timeout,
            request_timeout: timeout,
            ..options(&data, SyncMode::Always)
        };
        let (disk, reads) = (Faulty::new(&data), Arc::<Gate>::default());
        let syncs = Arc::<Mutex<Vec<String>>>::default();
        let (gate, names) = (reads.clone(), syncs.clone());
        let before = move |call| match call {
            Call::Read => gate.pass(),
            Call::Sync => {
                let name = thread::current().name().unwrap_or_default().to_owned();
                names.lock().expect("the names").push(name);
            }
            _ => {}
        };
        let hooked = Hooked { disk: disk.clone(), before: Box::new(before) };
        let opened = Store::on_disk(Arc::new(hooked), &options.store, 0);
        let (store, mut session) = (opened.expect("open").0, Session::default());
        // A worker reads a record from the disk once; so each of these can wait once.
        for number in 0..UNREAD {
            let key = format!("unread{number}");
            store.set(&mut session, key.as_bytes(), 0, 0, &[b'v'; 2000]).expect("set");
        }
        store.settle(&session).expect("commit");
        let mut server = server::Server::with_store(options, store).expect("start");
        let (stop, near) = UnixStream::pair().expect("a pair");
        near.set_nonblocking(true).expect("non-blocking");
        server.stop = Some(near);
        run(pollers, server);
        let used = Cell::new(0);
        OneWorker { disk, reads, syncs, socket, stop, used, _directory: directory }
    }

    /// A key with a value of 2,000 times `v` that nobody has read.
    fn unread(&self) -> String {
        let number = self.used.replace(self.used.get() + 1);
        assert!(number < UNREAD);
        format!("unread{number}")
    }

    /// A client that the worker has registered.
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("connect");
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("timeout");
        ask(&stream, "get nothing\r\n", "END\r\n");
        stream
    }

    fn clients<const COUNT: usize>(&self) -> [UnixStream; COUNT] {
        [(); COUNT].map(|()| self.connect())
    }

    /// Has `stream` make requests whose replies depend on a commit, while `other` is
    /// ready as well: so the syncer commits, and `stream` is parked meanwhile.
    fn park(
        &self,
        stream: &UnixStream,
        requests: impl AsRef<[u8]>,
        other: &UnixStream,
    ) {
        self.reads.close();
        // The last one answers nothing and changes nothing, but reads the disk.
        let reads = format!("incr {} 1 noreply\r\n", self.unread());
        send(stream, [requests.as_ref(), reads.as_bytes()].concat());
        self.reads.wait_for_a_call();
        send(other, "get nothing\r\n");
        self.reads.open();
        // In the tick after that of `stream`.
        expect(other, "END\r\n");
    }

    /// How many syncs this thread has made since they were counted last.
    fn take_syncs(&self) -> Vec<String> {
        std::mem::take(&mut self.syncs.lock().expect("the names"))
    }
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|thread| *thread == name).count()
}

/// Many clients each pipeline requests, of which the first costs as much as a tick may.
fn all_connections_share_the_work_of_a_tick(pollers: Pollers) {
    const COUNT: usize = 200;
    let server = OneWorker::start(pollers);
    let [first] = server.clients();
    let mut clients: Vec<_> = (0..COUNT).map(|_| server.connect()).collect();
    // Two that ask for little, one in the middle of the queue and one at its end.
    let (middle, last) = (COUNT / 2, server.connect());
    let neighbour = std::mem::replace(&mut clients[middle], server.connect());
    let costly = |key: &str| format!("get {key}{}\r\n", " m".repeat(4200));
    let unread: Vec<_> = (0..COUNT).map(|_| server.unread()).collect();
    let of_first = server.unread();
    server.reads.close();
    send(&first, costly(&of_first));
    server.reads.wait_for_a_call();
    // All of these arrive during one tick.
    for (i, client) in clients.iter().enumerate() {
        if i == middle {
            send(&neighbour, "stats\r\n");
        }
        send(client, format!("{}get {}\r\n", costly(&unread[i]), unread[i]));
    }
    send(&last, "stats\r\n");
    // What one read leads to is enough for a tick. Then replies leave.
    server.reads.admit();
    expect(&first, hit(&of_first, &[b'v'; 2000]));
    server.reads.wait_for_a_call();
    assert!(clients.iter().all(is_silent));
    // The same where all are ready.
    server.reads.admit();
    server.reads.wait_for_a_call();
    assert_eq!(clients.iter().filter(|client| !is_silent(client)).count(), 1);
    server.reads.open();
    // All that were ahead of these two have had one turn, and none has had a second one.
    for (stream, ahead) in [(&neighbour, middle), (&last, COUNT)] {
        let hits = reply_stat(stream, "get_hits");
        assert!(hits.abs_diff(ahead as u64) < 5, "{hits} instead of {ahead}");
    }
    for (client, key) in clients.iter().zip(&unread) {
        expect(client, only(key, &[b'v'; 2000]).repeat(2));
    }
    expect(&first, "END\r\n");
}

/// One of the numbers of `stats`, which was requested before.
fn reply_stat(stream: &UnixStream, name: &str) -> u64 {
    loop {
        let line = line(stream);
        assert_ne!(line, "END", "no {name}");
        if let Some(number) = line.strip_prefix(&format!("STAT {name} ")) {
            return number.parse().expect("a number");
        }
    }
}

/// W1
fn a_worker_commits_itself_where_nobody_else_is_ready(pollers: Pollers) {
    let server = OneWorker::start(pollers);
    let [busy, _idle] = server.clients();
    server.take_syncs();
    for _ in 0..100 {
        ask(&busy, set("k", b"x"), STORED);
    }
    // The syncer may have had to where the listener's last call came late, and the
    // janitor each second.
    let syncs = server.take_syncs();
    assert!(count(&syncs, "worker-0") > 80, "{syncs:?}");
}

/// W1, W5
fn the_syncer_commits_where_another_connection_is_ready(pollers: Pollers) {
    let server = OneWorker::start(pollers);
    let [writer, other] = server.clients();
    server.take_syncs();
    for _ in 0..100 {
        server.park(&writer, set("k", b"x"), &other);
        expect(&writer, STORED);
    }
    // Each second, the maintenance thread may be faster.
    let syncs = server.take_syncs();
    assert_eq!(count(&syncs, "worker-0"), 0, "{syncs:?}");
    assert!(count(&syncs, "syncer") > 80, "{syncs:?}");
}

/// V1, W1, W5
fn while_a_sync_runs_the_others_on_the_worker_are_served(pollers: Pollers) {
    let server = OneWorker::start(pollers);
    let [writer, reader, third] = server.clients();
    ask(&third, set("safe", b"old"), STORED);
    server.take_syncs();
    let hold = server.disk.hold(Call::Sync);
    server.park(&writer, set("k", b"new"), &third);
    hold.wait_for(1);
    for _ in 0..3 {
        ask(&third, "get safe\r\n", only("safe", b"old"));
    }
    // What it shows is not safe, so it waits as well, and still the third does not.
    server.park(&reader, "get k\r\n", &third);
    ask(&third, "get safe\r\n", only("safe", b"old"));
    // A new connection wakes the worker, in whose tick there may be others.
    ask(server.connect(), "get safe\r\n", only("safe", b"old"));
    assert!(is_silent(&writer) && is_silent(&reader), "replied before it was safe");
    assert_eq!(count(&server.take_syncs(), "worker-0"), 0);
    drop(hold);
    expect(&writer, STORED);
    expect(&reader, only("k", b"new"));
}

/// V2, W5
fn what_a_parked_connection_sends_waits_and_is_answered_in_order(pollers: Pollers) {
    let server = OneWorker::start(pollers);
    let [writer, other] = server.clients();
    let hold = server.disk.hold(Call::Sync);
    let requests = [set("n", b"1"), b"incr n 1\r\n".to_vec()].concat();
    server.park(&writer, requests, &other);
    hold.wait_for(1);
    // In two parts, of which the first ends in the middle of a request.
    send(&writer, "incr n 1\r\nincr n 1\r\nset k 0 0 5\r\nhe");
    ask(&other, "get nothing\r\n", "END\r\n");
    send(&writer, "llo\r\nget n\r\nquit\r\n");
    // The first incr was read together with the set, the others were not read.
    assert_eq!(stat(&other, "cmd_set"), 1);
    assert_eq!(stat(&other, "incr_hits"), 1);
    assert!(is_silent(&writer), "replied before it was safe");
    drop(hold);
    expect(&writer, "STORED\r\n2\r\n3\r\n4\r\nSTORED\r\nVALUE n 0 1\r\n4\r\nEND\r\n");
    assert_eq!(show(&rest(&writer)), "");
    ask(&other, "get k\r\n", "VALUE k 0 5\r\nhello\r\nEND\r\n");
}

/// W3, W5
fn a_parked_connection_that_leaves_hurts_nobody_and_frees_its_place(pollers: Pollers) {
    let server = OneWorker::start(pollers);
    let [closes, resets, half, other] = server.clients();
    // A client that closes with something unread resets.
    send(&resets, "get k\r\n");
    until(|| !is_silent(&resets));
    let hold = server.disk.hold(Call::Sync);
    for (stream, key) in [(&closes, "a"), (&resets, "b"), (&half, "c")] {
        server.park(stream, set(key, b"x"), &other);
    }
    hold.wait_for(1);
    assert_eq!(stat(&other, "cmd_set"), 3);
    half.shutdown(Shutdown::Write).expect("shutdown");
    drop((closes, resets));
    for _ in 0..3 {
        assert_eq!(stat(&other, "curr_connections"), 4);
    }
    drop(hold);
    assert_eq!(rest(&half), STORED.as_bytes());
    until(|| stat(&other, "curr_connections") == 1);
    for key in ["a", "b", "c"] {
        ask(&other, format!("get {key}\r\n"), only(key, b"x"));
    }
    // Their places are free for others, which are parked in their turn.
    let new = server.clients::<3>();
    let hold = server.disk.hold(Call::Sync);
    new.iter().for_each(|stream| server.park(stream, set("a", b"y"), &other));
    hold.wait_for(1);
    assert_eq!(stat(&other, "cmd_set"), 6);
    assert!(new.iter().all(is_silent), "replied before it was safe");
    drop(hold);
    new.iter().for_each(|stream| expect(stream, STORED));
}

/// V1, W5
fn a_failed_commit_costs_those_that_waited_for_it_and_the_next_one_nobody(
    pollers: Pollers,
) {
    let server = OneWorker::start(pollers);
    let [first, second, third, reader, other] = server.clients();
    ask(&other, set("safe", b"old"), STORED);
    let hold = server.disk.hold(Call::Sync);
    server.park(&first, set("a", b"1"), &other);
    hold.wait_for(1);
    server.park(&second, set("b", b"2"), &other);
    server.park(&third, set("c", b"3"), &other);
    server.park(&reader, "get a\r\n", &other);
    // What the first commit makes safe is written. What the second one is to is not.
    server.disk.fail(&[Call::Write], 0, How::Always);
    drop(hold);
    expect(&first, STORED);
    for stream in [&second, &third] {
        expect_failure(stream);
    }
    expect(&reader, only("a", b"1"));
    server.disk.heal();
    ask(&first, set("d", b"4"), STORED);
    let both = [hit("d", b"4"), only("safe", b"old")].concat();
    ask(&other, "get d safe\r\n", both);
}

/// One line, after which the connection is closed.
fn expect_failure(stream: impl Read) {
    let reply = String::from_utf8(rest(stream)).expect("text");
    assert!(reply.starts_with("SERVER_ERROR ") && reply.ends_with("\r\n"), "{reply:?}");
    assert_eq!(reply.lines().count(), 1, "{reply:?}");
}

/// V1, W5
fn a_failed_sync_costs_all_that_waited_for_it(pollers: Pollers) {
    let server = OneWorker::start(pollers);
    let [writer, reader, other] = server.clients();
    let hold = server.disk.hold(Call::Sync);
    server.disk.fail(&[Call::Sync], 0, How::Once);
    server.park(&writer, set("k", b"x"), &other);
    hold.wait_for(1);
    server.park(&reader, "get k\r\nversion\r\n", &other);
    ask(&other, "get nothing\r\n", "END\r\n");
    drop(hold);
    expect_failure(&writer);
    expect_failure(&reader);
    // L4: it was final, and a client that asks for what was safe is served.
    send(&other, set("k", b"y"));
    assert!(line(&other).starts_with("SERVER_ERROR "));
    ask(&other, "get nothing\r\n", "END\r\n");
}

/// W5
fn nobody_is_closed_while_parked(pollers: Pollers) {
    let server = OneWorker::start_with(pollers, Duration::from_secs(1));
    let [writer, idle] = server.clients();
    let hold = server.disk.hold(Call::Sync);
    server.park(&writer, set("k", b"x"), &idle);
    hold.wait_for(1);
    // It is closed at a check at which the writer has waited longer.
    assert_eq!(show(&rest(&idle)), "");
    server.connect();
    assert!(is_silent(&writer), "replied before it was safe, or closed");
    drop(hold);
    expect(&writer, STORED);
}

/// W6
fn what_is_parked_is_answered_before_the_server_stops(pollers: Pollers) {
    let server = OneWorker::start(pollers);
    let [writer, other] = server.clients();
    let hold = server.disk.hold(Call::Sync);
    server.park(&writer, set("k", b"new"), &other);
    hold.wait_for(1);
    send(&server.stop, "the test");
    let time = Duration::from_millis(100);
    assert!(is_silent_for(&writer, time), "replied before it was safe");
    drop(hold);
    assert_eq!(show(&rest(&writer)), show(STORED.as_bytes()));
    assert_eq!(show(&rest(&other)), "");
}

/// W2
fn a_panic_costs_one_connection(pollers: Pollers) {
    let data = TempDir::new();
    let armed = Arc::new(AtomicBool::new(false));
    let panics = armed.clone();
    let before = move |call| {
        let panics = call == Call::Read && panics.swap(false, Ordering::SeqCst);
        assert!(!panics, "as the test wants it");
    };
    let disk = Hooked { disk: Faulty::new(data.path()), before: Box::new(before) };
    let options = Options { threads: 1, ..options(Path::new(""), SyncMode::Always) };
    let (store, _) = Store::on_disk(Arc::new(disk), &options.store, 0).expect("open");
    let server = server::Server::with_store(options, store).expect("start");
    let addr: SocketAddr = run(pollers, server).parse().expect("address");
    let neighbour = connect(addr).expect("connect");
    for key in ["a", "b", "c"] {
        let victim = connect(addr).expect("connect");
        // An item that was read before would not be read again.
        ask(&victim, set(key, b"x"), STORED);
        armed.store(true, Ordering::SeqCst);
        send(&victim, format!("version\r\nget {key}\r\nversion\r\n"));
        assert_eq!(show(&rest(&victim)), "");
        let found = format!("VALUE {key} 0 1\r\nx\r\nEND\r\n");
        ask(&neighbour, format!("get {key}\r\n"), &found);
        assert_eq!(stat(&neighbour, "curr_connections"), 1);
    }
}

/// W3
fn a_free_place_is_given_to_the_one_that_waits(pollers: Pollers) {
    let data = TempDir::new();
    let options = Options {
        conn_limit: 2,
        backlog: 2,
        threads: 1,
        ..options(data.path(), SyncMode::EverySecond)
    };
    let server = server::Server::bind(options).expect("start");
    let addr: SocketAddr = run(pollers, server).parse().expect("address");
    let open = || connect(addr).expect("connect");
    let (first, second) = (open(), open());
    ask(&first, "get k\r\n", "END\r\n");
    ask(&second, "get k\r\n", "END\r\n");
    let (third, fourth, fifth) = (open(), open(), open());
    send(&third, "get k\r\n");
    send(&fourth, "get k\r\n");
    // The listener takes them in their order, so it has met the others, too.
    assert_eq!(show(&rest(&fifth)), show(TOO_MANY.as_bytes()));
    ask(&first, "get k\r\n", "END\r\n");
    assert!(is_silent(&third) && is_silent(&fourth));
    assert_eq!(stat(&first, "curr_connections"), 2);

    drop(second);
    expect(&third, "END\r\n");
    ask(&first, "get k\r\n", "END\r\n");
    assert!(is_silent(&fourth));
    // One that left while it waited does not keep its place.
    let sixth = open();
    assert_eq!(show(&rest(open())), show(TOO_MANY.as_bytes()));
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
        assert_eq!(show(&rest(server.connect())), show(TOO_MANY.as_bytes()));
        ask(&only, "get k\r\n", "END\r\n");
    }
}

/// W4
#[cfg(target_os = "linux")]
#[test]
fn running_out_of_descriptors_has_new_connections_wait() {
    let server = Server::start(&["-t", "1", "--sync", "every-second"]);
    let first = server.connect();
    ask(&first, set("k", b"x"), STORED);
    let hit = only("k", b"x");
    // Five numbers are free below the limit.
    let (before, used) = (descriptors(&server), format!("/proc/{}/fd", server.pid()));
    let used = names_in(Path::new(&used));
    let most = (0..).filter(|number: &u64| !used.contains(&number.to_string())).nth(5);
    let limit = format!("--nofile={}", most.expect("numbers do not end"));
    let pid = server.pid().to_string();
    let lowered = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(lowered.expect("prlimit, of util-linux").success());
    let mut streams: Vec<_> = (0..20).map(|_| server.connect()).collect();
    streams.iter().for_each(|stream| send(stream, "get k\r\n"));
    // They are accepted in their order.
    for stream in &streams[..5] {
        expect(stream, &hit);
    }
    for i in 0..100 {
        ask(&first, set("n", &value(i, 10)), STORED);
        ask(&first, "get k\r\n", &hit);
        ask(&streams[i % 5], "get k\r\n", &hit);
    }
    assert_eq!(descriptors(&server), before + 5);
    assert!(streams[5..].iter().all(is_silent), "one too many was served");
    assert_eq!(stat(&first, "curr_connections"), 6);
    // Each that leaves has the next one served.
    for _ in 5..20 {
        drop(streams.remove(0));
        expect(&streams[4], &hit);
    }
    drop(streams);
    until(|| stat(&first, "curr_connections") == 1);
    assert_eq!(stat(&first, "rejected_connections"), 0);
    ask(server.connect(), "get k\r\n", &hit);
}

#[test]
fn idle_clients_are_closed_after_the_idle_timeout_and_busy_ones_are_not() {
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
fn stuck_clients_are_closed_after_the_request_timeout_and_idle_ones_are_not() {
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
        // Half a line, half a value, half of one that is discarded, and replies that are
        // not taken.
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

/// The first second at which a client is closed that has sent `head` at first and does
/// `act` each second, of 1000; `None` if it is not, or if all is done before.
fn closed_after(
    head: &[u8],
    options: &Options,
    mut act: impl FnMut(&mut Served, &mut Context),
) -> Option<u64> {
    let directory = TempDir::new();
    let mut context = Context::new(shared(Dialect::Memcached, &directory, 1 << 20), 0);
    context.session.now = NOW;
    let Context { shared, session, .. } = &mut context;
    shared.store.set(session, b"big", 0, 0, &[b'v'; 1_000_000]).expect("set");
    let mut served = Served::new(head);
    served.serve(&mut context);
    served.flush(&mut context);
    (1..=1000).find(|_| {
        served.now += Duration::from_secs(1);
        let is_overdue = served.connection.is_overdue(served.now, options);
        act(&mut served, &mut context);
        is_overdue
    })
}

/// What a client does that sends so many bytes.
fn sends(count: usize) -> impl FnMut(&mut Served, &mut Context) {
    move |served, context| {
        served.client.write_all(&vec![b'x'; count]).expect("sent");
        served.serve(context);
        served.flush(context);
    }
}

/// What a client does that reads so many bytes of its replies.
fn reads(count: usize) -> impl FnMut(&mut Served, &mut Context) {
    move |served, context| {
        let mut left = count;
        while left > 0 {
            served.flush(context);
            let Ok(count) = served.client.read(&mut vec![0; left]) else { break };
            left -= count;
        }
        served.serve(context);
    }
}

fn with_timeouts(idle: u64, request: u64) -> Options {
    let [idle_timeout, request_timeout] = [idle, request].map(Duration::from_secs);
    Options { idle_timeout, request_timeout, ..Options::default() }
}

#[test]
fn a_value_that_arrives_slowly_but_steadily_outlives_the_request_timeout() {
    let options = with_timeouts(0, 10);
    // The block takes 500 seconds, and so does one that is discarded.
    for head in [&b"set k 0 0 1000000\r\n"[..], b"set k 0 0 2000000\r\n"] {
        assert_eq!(closed_after(head, &options, sends(2000)), None);
        assert_eq!(closed_after(head, &options, sends(1100)), None);
        // What comes all at once every nine seconds is as good.
        let mut second = 0;
        let mut send = sends(9900);
        let in_bursts = |served: &mut Served, context: &mut Context| {
            second += 1;
            if second % 9 == 0 {
                send(served, context);
            }
        };
        assert_eq!(closed_after(head, &options, in_bursts), None);
    }
}

#[test]
fn a_sender_below_the_floor_is_closed_at_about_the_request_timeout() {
    let options = with_timeouts(0, 10);
    for head in [
        &b"set k 0 0 1000000\r\n"[..],
        b"set k 0 0 2000000\r\n",
        b"get ",
        b"set k 0 0 1000000\r\nx",
    ] {
        assert_eq!(closed_after(head, &options, |_, _| {}), Some(11));
        assert_eq!(closed_after(head, &options, sends(1)), Some(11));
        assert_eq!(closed_after(head, &options, sends(100)), Some(11));
        // Half of the floor has half of the time passed.
        assert_eq!(closed_after(head, &options, sends(512)), Some(20));
    }
    // Fast bytes don't buy time for later.
    let mut bursts = vec![60_000, 60_000, 60_000];
    let stops = |served: &mut Served, context: &mut Context| {
        bursts.pop().into_iter().for_each(|count| sends(count)(served, context));
    };
    let head = b"set k 0 0 1000000\r\n";
    assert_eq!(closed_after(head, &options, stops), Some(14));
    // Between two requests there is no request timeout.
    assert_eq!(closed_after(b"get k\r\n", &options, |_, _| {}), None);
}

#[test]
fn a_client_has_to_take_its_replies_as_fast_as_that() {
    let options = with_timeouts(0, 10);
    let gets = b"get big\r\n".repeat(20);
    // A socket takes some 100 kB at a time. So much is read in less than ten seconds.
    assert_eq!(closed_after(&gets, &options, reads(20_000)), None);
    assert_eq!(closed_after(&gets, &options, |_, _| {}), Some(11));
    assert_eq!(closed_after(&gets, &options, reads(1)), Some(11));
}

#[test]
fn a_client_is_idle_from_the_moment_that_its_last_reply_has_left() {
    let options = with_timeouts(30, 10);
    assert_eq!(closed_after(b"get k\r\n", &options, |_, _| {}), Some(31));
    // Its commit took long, or it was slow to take its replies.
    let directory = TempDir::new();
    let mut context = Context::new(shared(Dialect::Memcached, &directory, 1 << 20), 0);
    let mut served = Served::new(b"get k\r\n");
    served.serve(&mut context);
    served.now += Duration::from_secs(100);
    served.flush(&mut context);
    let overdue_in = |seconds| {
        let then = served.now + Duration::from_secs(seconds);
        served.connection.is_overdue(then, &options)
    };
    assert!(!overdue_in(30) && overdue_in(31));
}

#[test]
fn a_connection_that_waits_for_the_server_is_never_overdue() {
    let options = with_timeouts(10, 10);
    for head in [&b""[..], b"get ", b"get k\r\n"] {
        for (waits, is_timed) in [
            (Waits::Input, true),
            (Waits::Output, true),
            (Waits::Commit, false),
            (Waits::Turn, false),
        ] {
            let closed = closed_after(head, &options, |served, _| {
                served.connection.waits = waits;
            });
            assert_eq!(closed.is_some(), is_timed, "{waits:?}");
        }
    }
}

#[test]
fn the_server_exits_when_nobody_was_connected_for_so_long() {
    let server = Server::start(&["--idle-exit", "1", "-v"]);
    let stream = server.connect();
    ask(&stream, "get k\r\n", "END\r\n");
    // Its time begins later, and has passed when it prints that.
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
    // The socket of a server that is gone is replaced.
    drop(UnixListener::bind(&path).expect("bind"));
    let server = server::Server::bind(options.clone()).expect("start");
    assert_eq!(run(os::poller, server), path.display().to_string());
    let mode = fs::metadata(&path).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let stream = UnixStream::connect(&path).expect("connect");
    stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("timeout");
    ask(&stream, set("k", b"x"), STORED);

    // That of a server that runs is not, and neither is a file that is not a socket.
    let other = directory.path().join("other");
    let options = Options { data: other, ..options };
    assert!(failure(options.clone()).contains("can't listen on"));
    ask(UnixStream::connect(&path).expect("connect"), "get k\r\n", "VALUE k ");
    let file = directory.path().join("file");
    fs::write(&file, "mine").expect("write");
    failure(Options { unix_socket: Some(file.clone()), ..options.clone() });
    assert_eq!(fs::read(&file).expect("read"), b"mine");

    // A server that can't have the data leaves no socket behind, and no other file.
    let path = directory.path().join("second");
    let options = Options { data, unix_socket: Some(path.clone()), ..options };
    assert!(failure(options).contains("is using it"));
    let names = names_in(directory.path());
    assert_eq!(
        names,
        BTreeSet::from(["data", "file", "other", "socket"].map(String::from))
    );
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("the directory");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    entries.map(|entry| name(entry).into_string().expect("UTF-8")).collect()
}

/// Starts a server in a process of its own.
fn spawn(data: &Path, socket: &Path) -> Child {
    let mut command = Command::new(SERVER);
    command.args(["--sync", "every-second", "--data"]).arg(data);
    command.arg("--unix-socket").arg(socket).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// Of servers that start at the same time on one data directory and one socket, which a
/// server has left that is gone, one serves, and the others leave its socket alone.
#[test]
fn of_servers_that_start_on_one_stale_socket_one_serves() {
    let directory = TempDir::new();
    let (data, socket) =
        (directory.path().join("data"), directory.path().join("socket"));
    drop(UnixListener::bind(&socket).expect("bind"));
    for round in 0..15 {
        let servers = [(); 4].map(|()| spawn(&data, &socket));
        // Each prints that it listens, or ends.
        let first_lines = servers.map(|mut server| {
            let stdout = server.stdout.take().expect("it is piped");
            thread::spawn(move || {
                let (mut line, mut stdout) = (String::new(), BufReader::new(stdout));
                stdout.read_line(&mut line).expect("a line or none");
                (server, stdout, line)
            })
        });
        let started = first_lines.map(|thread| thread.join().expect("a line or none"));
        let mut winners = Vec::new();
        for (server, stdout, line) in started {
            if !line.is_empty() {
                assert!(line.starts_with("Server: Listening on "), "{line}");
                winners.push((server, stdout));
                continue;
            }
            let output = server.wait_with_output().expect("it ends");
            let why = String::from_utf8(output.stderr).expect("text");
            assert_eq!(output.status.code(), Some(1), "{why}");
            assert!(why.contains("is using it"), "{why}");
        }
        let count = winners.len();
        let serves = || {
            let stream = UnixStream::connect(&socket).expect("connect");
            stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("timeout");
            let before = if round == 0 { "END\r\n".into() } else { only("k", b"x") };
            ask(&stream, "get k\r\n", before);
            ask(&stream, set("k", b"x"), STORED);
        };
        let served = std::panic::catch_unwind(serves);
        for (mut server, _) in winners {
            server.kill().and_then(|()| server.wait()).expect("it ends");
        }
        assert_eq!(count, 1, "round {round}");
        assert!(served.is_ok(), "round {round}");
        let names = BTreeSet::from(["data", "socket"].map(String::from));
        assert_eq!(names_in(directory.path()), names, "round {round}");
    }
}

/// Why a server with these options does not start, in one line.
fn failure(options: Options) -> String {
    match server::Server::bind(options) {
        Ok(_) => panic!("it starts"),
        Err(Failure::Usage(why)) => panic!("not a matter of usage: {why}"),
        Err(Failure::Failed(why)) => {
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
        let stored = acknowledged_until(&mut server, Server::kill);

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
fn a_directory_has_one_server_and_the_second_says_which() {
    let server = Server::start(&[]);
    let why = failure(options(server.data(), SyncMode::Always));
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

#[test]
fn each_connection_has_a_number_in_the_log_and_a_reason_for_its_end() {
    let long = vec![b'x'; 5000];
    let server =
        Server::start(&["-v", "--request-timeout", "1", "--idle-timeout", "1"]);
    let ends: [(&[u8], &str); 7] = [
        (b"quit\r\n", "quit"),
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"\x16\x03\x01", "TLS"),
        (b"\x80\0", "the binary protocol"),
        (&long, "a line too long"),
        (b"get k\r\n", "idle timeout"),
        (b"set k 0 0 5\r\n", "request timeout"),
    ];
    let check = |server: &Server, number: usize, why: &str| {
        let begins =
            format!("SERVER: Client disconnected, connection {number}: {why}, ");
        let line = server.wait_for_line("SERVER: Client disconnected", REPLY_TIMEOUT);
        let time = line.strip_prefix(&begins).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(time.split(':').map(str::len).collect::<Vec<_>>(), [2, 2, 2]);
    };
    for (number, (sent, why)) in (1..).zip(ends) {
        let stream = server.connect();
        send(&stream, sent);
        check(&server, number, why);
    }
    drop(server.connect());
    check(&server, 8, "its client has closed it");

    let directory = TempDir::new();
    let logins = auth_file(&directory);
    let options = ["-vv", "-c", "1", "--request-timeout", "1", "--auth-file", &logins];
    let server = Server::start(&options);
    let first = server.connect();
    ask(&first, "get k\r\n", "CLIENT_ERROR unauthenticated\r\n");
    let line = server.wait_for_line("SERVER: '(hidden)' answered ", REPLY_TIMEOUT);
    assert!(line.contains(" us, connection 1, "), "{line}");
    assert_eq!(show(&rest(server.connect())), show(TOO_MANY.as_bytes()));
    let line = server.wait_for_line("SERVER: Rejected ('127.0.0.1', ", REPLY_TIMEOUT);
    assert!(line.contains("), connection 2: --conn-limit, "), "{line}");
    check(&server, 1, "no login in time");
}

/// Every field without which `memcached_exporter` of Prometheus shows nothing, or zero.
#[test]
fn stats_have_all_that_a_monitor_of_memcached_requires() {
    let server = Server::start(&[]);
    let stream = server.connect();
    ask(&stream, set("k", b"x"), STORED);
    for name in "uptime time version rusage_user rusage_system curr_connections \
                 total_connections max_connections connection_structures cmd_get cmd_set \
                 cmd_flush cmd_touch get_hits get_misses get_expired delete_hits \
                 delete_misses incr_hits incr_misses decr_hits decr_misses cas_hits \
                 cas_misses cas_badval touch_hits touch_misses auth_cmds auth_errors \
                 bytes_read bytes_written limit_maxbytes accepting_conns \
                 listen_disabled_num rejected_connections threads bytes curr_items \
                 total_items evictions pointer_size pid"
        .split_whitespace()
    {
        send(&stream, "stats\r\n");
        let mut found = None;
        let mut lines = BufReader::new(&stream);
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).expect("a line");
            if line == "END\r\n" {
                break;
            }
            let value = line.strip_prefix(&format!("STAT {name} "));
            found = found.or(value.map(|value| value.trim_end().to_owned()));
        }
        let value = found.unwrap_or_else(|| panic!("no {name}"));
        let is_number = value.parse::<f64>().is_ok_and(|number| number >= 0.0);
        assert!(is_number || name == "version", "{name} {value}");
    }
    assert_eq!(stat(&stream, "accepting_conns"), 1);
    assert_eq!(stat(&stream, "listen_disabled_num"), 0);
}

//! How a server stops: by SIGTERM and SIGINT, also as process 1, and what is on the disk
//! and with its clients then. `W6`, of `src/server.rs`.

mod common;

use common::disk::Faulty;
use common::talk::{STORED, acknowledged_until, ask, expect, hit, rest, set, value};
use common::{REPLY_TIMEOUT, SERVER, Server, TempDir, signal};
use memcached_lite::os;
use memcached_lite::server::{self, Options};
use memcached_lite::store::{self, SyncMode};
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

#[test]
fn a_signal_under_load_ends_the_server_with_all_that_was_acknowledged() {
    for (name, sync) in [("TERM", "always"), ("INT", "every-second")] {
        let data = TempDir::new();
        let mut server = Server::start_on(data.path(), &["--sync", sync, "-t", "2"]);
        let mut line = String::new();
        let stored = acknowledged_until(&mut server, |server| {
            server.signal(name);
            line = server.wait_for_line("Server: Stopped by ", REPLY_TIMEOUT);
            assert_eq!(server.exit_code(), Some(0));
        });
        let said = format!("Server: Stopped by SIG{name}; items stored: ");
        let items = line.strip_prefix(&said).unwrap_or_else(|| panic!("{line}"));
        let items: usize = items.parse().expect("a count");
        // Each of the four may have stored one of which it was not told.
        assert!((stored.len()..=stored.len() + 4).contains(&items), "{line}");
        let server = Server::start_on(data.path(), &[]);
        let stream = server.connect();
        for (writer, i) in stored {
            let key = format!("{writer}-{i}");
            ask(&stream, format!("get {key}\r\n"), hit(&key, &value(i, i % 3000)));
            expect(&stream, "END\r\n");
        }
    }
}

/// Runs a server in this process. It stops when something is written to the first of what
/// is returned, and its `run` has returned when something comes from the second.
fn run(options: Options, disk: &Faulty) -> (UnixStream, mpsc::Receiver<bool>) {
    let (store, _) = disk.open(&options.store, 0).expect("open");
    let mut server = server::Server::with_store(options, store).expect("start");
    let (stop, near) = UnixStream::pair().expect("a pair");
    near.set_nonblocking(true).expect("non-blocking");
    server.stop = Some(near);
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(server.run(os::poller).is_ok()));
    (stop, ended)
}

fn options(directory: &TempDir, sync: SyncMode) -> Options {
    Options {
        unix_socket: Some(directory.path().join("socket")),
        store: store::Options { sync, ..Default::default() },
        threads: 1,
        ..Default::default()
    }
}

fn connect(directory: &TempDir) -> UnixStream {
    let stream = UnixStream::connect(directory.path().join("socket"));
    let stream = stream.expect("a connection");
    stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("timeout");
    stream
}

/// W6
#[test]
fn what_a_stopped_server_has_acknowledged_is_safe_from_a_power_cut() {
    let [directory, data, left] = [(); 3].map(|()| TempDir::new());
    let disk = Faulty::new(data.path());
    let options = options(&directory, SyncMode::EverySecond);
    let (mut stop, ended) = run(options.clone(), &disk);
    let stream = connect(&directory);
    ask(&stream, set("k", b"value"), STORED);
    stop.write_all(b"the test").expect("write");
    assert!(ended.recv_timeout(REPLY_TIMEOUT).expect("it stops"));
    assert_eq!(rest(&stream), b"");
    disk.power_cut(left.path(), 0);
    let (store, torn) = Faulty::new(left.path()).open(&options.store, 0).expect("open");
    assert_eq!((store.figure("curr_items"), torn), (1, None));
}

/// The first one waits for a reader of the server's output, which never comes.
#[test]
fn a_second_signal_ends_the_server_at_once() {
    let data = TempDir::new();
    let (near, mut far) = UnixStream::pair().expect("a pair");
    let output = OwnedFd::from(far.try_clone().expect("a second handle"));
    let mut server = Command::new(SERVER);
    server.args(["--port", "0", "--data"]).arg(data.path()).stdout(output);
    let mut server = server.spawn().expect("it runs");
    let mut line = String::new();
    BufReader::new(&near).read_line(&mut line).expect("a line");
    assert!(line.starts_with("Server: Listening on "), "{line}");
    far.set_nonblocking(true).expect("non-blocking");
    while far.write(&[0; 4096]).is_ok() || far.write(&[0]).is_ok() {}
    far.set_nonblocking(false).expect("blocking");
    // Two that differ, so that both are delivered, in whichever order.
    signal(server.id(), "TERM");
    signal(server.id(), "INT");
    let code = server.wait().expect("it ends").code();
    assert!([Some(128 + 15), Some(128 + 2)].contains(&code), "{code:?}");
}

/// The kernel drops signals to process 1 of which nothing else is known.
#[test]
fn as_process_1_it_stops_by_a_signal() {
    let data = TempDir::new();
    let namespaces = ["--map-root-user", "--pid", "--fork", "--mount-proc"];
    let mut can = Command::new("unshare");
    can.args(namespaces).arg("true").stderr(Stdio::null());
    if !can.status().is_ok_and(|status| status.success()) {
        assert!(env::var_os("DISKS_REQUIRED").is_none(), "no unshare");
        let _ = writeln!(io::stderr(), "SKIPPED: process 1, for want of unshare");
        return;
    }
    for name in ["TERM", "INT"] {
        let mut unshare = Command::new("unshare");
        unshare.args(namespaces).arg(SERVER);
        let mut server = Server::start_as(unshare, data.path(), &[]);
        ask(server.connect(), set("k", b"value"), STORED);
        let pid = server.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let child = children.expect("a list").trim().parse().expect("one child");
        signal(child, name);
        let line = server.wait_for_line("Server: Stopped by ", REPLY_TIMEOUT);
        assert_eq!(line, format!("Server: Stopped by SIG{name}; items stored: 1"));
        assert_eq!(server.exit_code(), Some(0));
    }
}

#[test]
fn nobody_listens_when_the_server_has_stopped() {
    let mut server = Server::start(&[]);
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0));
    assert!(TcpStream::connect(server.addr).is_err());
}

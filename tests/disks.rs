//! What a real disk does to a real server: it fills up, refuses, fails a sync, and is
//! moved away under it.
//!
//! A full disk is a small one in memory, mounted in a namespace that is ours, so that no
//! rights are needed and nothing is left over. Failing calls are strace's work: it tells
//! the server that the system has failed. Where a machine can't do one of these, the test
//! says `SKIPPED` and why; with `make test-disks` it fails instead. What every single call
//! does when it fails is in `faults.rs`.

mod common;

use common::{REPLY_TIMEOUT, SERVER, Server, TempDir};
use memcached_lite::client::{Client, ClientError, Options};
use memcached_lite::protocol::Topic;
use std::env;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::time::Instant;

const MODES: [&str; 2] = ["always", "every-second"];

fn client(server: &Server) -> Client {
    let address = server.addr.to_string();
    Client::connect(&Options { address, ..Options::default() }).expect("a connection")
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn value(number: usize) -> Vec<u8> {
    format!("{number} ").repeat(300).into_bytes()
}

/// Sets one key after another until that is refused; how many were stored, and why no
/// more were.
fn fill(client: &mut Client) -> (usize, String) {
    for number in 0..5000 {
        if let Err(error) = client.set(key(number), value(number), 0, 0) {
            return (number, why(Err::<(), _>(error)));
        }
    }
    panic!("nothing is refused");
}

/// What the server says that it could not do.
fn why<T: Debug>(told: Result<T, ClientError>) -> String {
    match told {
        Err(ClientError::Server(why)) => why,
        other => panic!("{other:?} is no SERVER_ERROR"),
    }
}

/// Every command that writes is refused for this reason, and the connection goes on.
fn check_refusals(client: &mut Client, reason: &str) {
    for told in [
        why(client.set("new", "x", 0, 0)),
        why(client.append(key(0), "x")),
        why(client.delete(key(0))),
        why(client.touch(key(0), 100)),
        why(client.flush_all(0)),
    ] {
        assert!(told.contains(reason), "{told}");
    }
}

fn check_all_there(client: &mut Client, count: usize) {
    for number in 0..count {
        let item = client.get(key(number)).expect("an answer").expect("it is there");
        assert_eq!(item.value, value(number), "{}", key(number));
    }
}

/// Asks again until the answer is yes.
fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come true");
    }
}

/// Says past the test runner, which keeps the words of tests that pass to itself, that
/// something could not be tried.
fn skip(what: &str) {
    assert!(env::var_os("DISKS_REQUIRED").is_none(), "{what}");
    let _ = writeln!(io::stderr(), "SKIPPED: {what}");
}

/// A file system in memory, of one megabyte. It has no name in this namespace, and goes
/// when nobody has it open any more.
struct Small {
    root: File,
}

impl Small {
    fn mount() -> Option<Small> {
        let script = "mount -t tmpfs -o size=1m none /mnt && echo mounted && exec cat";
        let child = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            skip("a full disk, for want of unshare");
            return None;
        };
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line or none");
        let root = File::open(format!("/proc/{}/root/mnt", child.id()));
        // It waits for the end of its input.
        drop(child.stdin.take());
        child.wait().expect("it ends");
        if line != "mounted\n" {
            skip("a full disk, as nothing may be mounted here");
            return None;
        }
        Some(Small { root: root.expect("the mounted directory") })
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.root.as_raw_fd()).into()
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_goes_on_when_there_is_room() {
    // L3, S4
    for mode in MODES {
        let Some(small) = Small::mount() else { return };
        let ballast = small.path().join("ballast");
        fs::write(&ballast, vec![1; 500 << 10]).expect("room for the ballast");
        let data = small.path().join("data");
        let start = || Server::start_on(&data, &["--sync", mode, "--key-size", "9"]);
        let mut server = start();
        let (count, reason) = fill(&mut client(&server));
        assert!(count > 100 && reason.contains("No space left"), "{count}: {reason}");
        let mut one = client(&server);
        check_refusals(&mut one, "No space left");
        check_all_there(&mut one, count);

        // L3: nothing is torn that a start would have to keep aside, without any room.
        server.kill();
        let server = start();
        check_all_there(&mut client(&server), count);
        why(client(&server).set("new", "x".repeat(9000), 0, 0));
        let mut one = client(&server);
        check_refusals(&mut one, "No space left");

        // By itself: the janitor writes what could not be written before.
        let mut figure = |name: &str| {
            let stats = one.stats(Topic::General).expect("stats");
            stats.into_iter().find(|(of, _)| of == name).map(|(_, number)| number)
        };
        assert_ne!(figure("log_end"), figure("log_synced"));
        fs::remove_file(&ballast).expect("the ballast");
        until(|| figure("log_end") == figure("log_synced"));
        one.set("last", "x", 0, 0).expect("there is room");
        assert!(one.delete(key(0)).expect("there is room"));
    }
}

#[test]
fn a_file_size_limit_is_a_full_disk_and_does_not_end_the_server() {
    for mode in MODES {
        let data = TempDir::new();
        let args = ["--sync", mode, "--key-size", "9"];
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -f 400 && exec \"$0\" \"$@\"", SERVER]);
        let mut server = Server::start_as(limited, data.path(), &args);
        let (count, reason) = fill(&mut client(&server));
        assert!(count > 50 && reason.contains("File too large"), "{count}: {reason}");
        let mut one = client(&server);
        check_refusals(&mut one, "File too large");
        check_all_there(&mut one, count);
        server.kill();
        let server = Server::start_on(data.path(), &args);
        let mut one = client(&server);
        check_all_there(&mut one, count);
        one.set("last", "x", 0, 0).expect("without a limit");
    }
}

/// strace at work on a server, or nothing where there is none or it may not.
struct Strace {
    child: Child,
}

impl Strace {
    /// Has calls of the server fail from now on.
    fn attach(server: &Server, inject: &str) -> Option<Strace> {
        let child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", inject, "-p"])
            .arg(server.pid().to_string())
            .stderr(Stdio::piped())
            .spawn();
        let mut line = String::new();
        let strace = child.ok().map(|mut child| {
            let stderr = child.stderr.take().expect("stderr is piped");
            BufReader::new(stderr).read_line(&mut line).expect("a line or none");
            Strace { child }
        });
        if !line.contains("attached") {
            skip("a failing call, for want of strace, or of the right to trace");
            return None;
        }
        strace
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It lets go of what it has attached to.
        let kill = format!("kill -INT {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).status();
        let _ = self.child.wait();
    }
}

#[test]
fn after_a_sync_that_failed_nothing_is_stored_until_a_restart() {
    // L4
    let data = TempDir::new();
    let mut server = Server::start_on(data.path(), &["--threads", "1"]);
    let inject = "inject=fdatasync:error=EIO:when=3";
    let Some(_strace) = Strace::attach(&server, inject) else { return };
    let (count, reason) = fill(&mut client(&server));
    // strace counts the calls of each thread, and there are two that sync.
    assert!((2..5).contains(&count), "{count}");
    assert!(reason.contains("Input/output error"), "{reason}");
    let mut one = client(&server);
    for _ in 0..2 {
        check_refusals(&mut one, "restart the server");
    }
    check_all_there(&mut one, count);
    // It is there, and nobody knows for how long.
    let doubtful = why(one.get(key(count)));
    assert!(doubtful.contains("restart the server"), "{doubtful}");
    server.kill();
    let server = Server::start_on(data.path(), &[]);
    let mut one = client(&server);
    check_all_there(&mut one, count);
    one.set("last", "x", 0, 0).expect("after a restart");
}

#[test]
fn a_disk_that_turns_read_only_refuses_writes_and_serves_reads() {
    // L3: as the system does to a file system in which it has found errors.
    for mode in MODES {
        let server = Server::start(&["--sync", mode]);
        let mut one = client(&server);
        one.set(key(0), value(0), 0, 0).expect("all is well");
        let inject = "inject=pwrite64,ftruncate:error=EROFS";
        let Some(strace) = Strace::attach(&server, inject) else { return };
        let reason = why(one.set("new", "x", 0, 0));
        assert!(reason.contains("Read-only file system"), "{reason}");
        let mut one = client(&server);
        check_refusals(&mut one, "Read-only file system");
        check_all_there(&mut one, 1);
        drop(strace);
        one.set("last", "x", 0, 0).expect("it can be written to again");
    }
}

/// A server whose words on standard error come with those on standard output.
fn start_heard(data: &Path) -> Server {
    let mut heard = Command::new("sh");
    heard.args(["-c", "exec \"$0\" \"$@\" 2>&1", SERVER]);
    Server::start_as(heard, data, &[])
}

#[test]
fn a_directory_that_is_moved_away_stops_writes_until_it_is_back() {
    // L5
    let parent = TempDir::new();
    let [data, moved] = ["data", "moved"].map(|name| parent.path().join(name));
    let mut server = start_heard(&data);
    let mut one = client(&server);
    one.set(key(0), value(0), 0, 0).expect("all is well");
    fs::rename(&data, &moved).expect("moved");
    server.wait_for_line("is not where it was", REPLY_TIMEOUT);
    check_refusals(&mut one, "is not where it was");
    check_all_there(&mut one, 1);
    // A copy is not it: what was written to it would be lost when that is put back.
    fs::create_dir(&data).expect("another directory");
    for entry in fs::read_dir(&moved).expect("the files") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), data.join(entry.file_name())).expect("a copy");
    }
    server.wait_for_line("another file has its name", REPLY_TIMEOUT);
    check_refusals(&mut one, "another file has its name");
    fs::remove_dir_all(&data).expect("gone");
    fs::rename(&moved, &data).expect("back");
    until(|| one.set(key(1), value(1), 0, 0).is_ok());
    server.kill();
    check_all_there(&mut client(&Server::start_on(&data, &[])), 2);
}

#[test]
fn a_data_file_that_is_removed_stops_writes() {
    // L5
    let data = TempDir::new();
    let server = start_heard(data.path());
    let mut one = client(&server);
    one.set(key(0), value(0), 0, 0).expect("all is well");
    fs::remove_file(data.path().join("0000000001.kv")).expect("removed");
    server.wait_for_line("0000000001.kv is not where it was", REPLY_TIMEOUT);
    check_refusals(&mut one, "0000000001.kv is not where it was");
    check_all_there(&mut one, 1);
}

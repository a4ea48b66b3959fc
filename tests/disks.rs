//! What a real disk does to a real server: it fills up, turns read-only, fails a sync,
//! and is moved while the server runs.
//!
//! A full disk is a small one in memory, mounted in a namespace of our own, so that no
//! rights are needed and nothing is left over. For failing calls there is strace: it has
//! the system calls of a server fail. Where a machine can't do one of these, the test
//! prints `SKIPPED` and why; with `make test-disks` it fails instead. What happens when
//! any single call fails is in `faults.rs`.

mod common;

use common::{REPLY_TIMEOUT, SERVER, Server, TempDir};
use memcached_lite::client::{Client, ClientError, Options};
use memcached_lite::protocol::{Request, Topic};
use memcached_lite::store::{Update, Verb};
use std::collections::BTreeMap;
use std::env;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread::{self, JoinHandle};
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

/// Sets one key after another until one fails; how many were stored, and why no more
/// were.
fn fill(client: &mut Client) -> (usize, String) {
    for number in 0..5000 {
        if let Err(error) = client.set(key(number), value(number), 0, 0) {
            return (number, why(Err::<(), _>(error)));
        }
    }
    panic!("nothing fails");
}

/// Why the server could not do it.
fn why<T: Debug>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Rejected(line)) => {
            line.strip_prefix("SERVER_ERROR ").expect("a SERVER_ERROR").to_owned()
        }
        other => panic!("{other:?} is not a SERVER_ERROR"),
    }
}

/// Checks that every command that writes fails for this reason, and that the connection
/// continues.
fn check_writes_fail(client: &mut Client, reason: &str) {
    let key = key(0);
    let (verb, name) = (Verb::Append, key.as_bytes());
    let append = Update { verb, key: name, value: b"x", ..Update::default() };
    let touch = Update { verb: Verb::Touch, value: b"", exptime: 100, ..append };
    for error in [
        why(client.set("new", "x", 0, 0)),
        why(client.update(append)),
        why(client.delete(&key)),
        why(client.update(touch)),
        why(client.ask(&Request::FlushAll(0))),
    ] {
        assert!(error.contains(reason), "{error}");
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

/// Prints that something could not be tried: past the test runner, which keeps the
/// output of tests that pass to itself.
fn skip(what: &str) {
    assert!(env::var_os("DISKS_REQUIRED").is_none(), "{what}");
    let _ = writeln!(io::stderr(), "SKIPPED: {what}");
}

/// A file system in memory. It has no name in this namespace, and is gone when nothing has
/// it open any more.
struct Small {
    root: File,
}

impl Small {
    /// Of so many megabytes.
    fn mount(megabytes: usize) -> Option<Small> {
        let script = format!(
            "mount -t tmpfs -o size={megabytes}m none /mnt && echo mounted && exec cat"
        );
        let child = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &script])
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
fn a_full_disk_fails_writes_serves_reads_and_continues_when_there_is_space() {
    // L3, S4
    for mode in MODES {
        let Some(small) = Small::mount(1) else { return };
        let ballast = small.path().join("ballast");
        fs::write(&ballast, vec![1; 500 << 10]).expect("space for the ballast");
        let data = small.path().join("data");
        let start = || Server::start_on(&data, &["--sync", mode, "--key-size", "9"]);
        let mut server = start();
        let (count, reason) = fill(&mut client(&server));
        assert!(count > 100 && reason.contains("No space left"), "{count}: {reason}");
        let mut one = client(&server);
        check_writes_fail(&mut one, "No space left");
        check_all_there(&mut one, count);

        // L3: nothing is torn that a start would have to keep aside, without any space.
        server.kill();
        let server = start();
        check_all_there(&mut client(&server), count);
        why(client(&server).set("new", "x".repeat(9000), 0, 0));
        let mut one = client(&server);
        check_writes_fail(&mut one, "No space left");

        // Nobody has to ask: the maintenance thread writes what could not be written before.
        let mut figure = |name: &str| {
            let stats = one.stats(Topic::General).expect("stats");
            stats.into_iter().find(|(of, _)| of == name).map(|(_, number)| number)
        };
        assert_ne!(figure("log_end"), figure("log_synced"));
        fs::remove_file(&ballast).expect("the ballast");
        until(|| figure("log_end") == figure("log_synced"));
        one.set("last", "x", 0, 0).expect("there is space");
        assert!(one.delete(key(0)).expect("there is space"));
    }
}

#[test]
fn a_disk_that_was_full_of_garbage_is_written_to_when_there_is_space_for_the_rest() {
    // C5: clients that go on writing would take each byte that becomes free.
    for mode in MODES {
        let Some(small) = Small::mount(24) else { return };
        let ballast = small.path().join("ballast");
        fs::write(&ballast, vec![1; 6 << 20]).expect("space for the ballast");
        let data = small.path().join("data");
        let mut server = Server::start_on(&data, &["--sync", mode]);
        // Some 600 KiB that stay, and as much garbage as there is space for.
        let overwrite = |client: &mut Client| {
            let mut why = String::new();
            for number in 0..50_000 {
                let set = client.set(key(number % 200), value(number), 0, 0);
                if let Err(ClientError::Rejected(line)) = set {
                    why = line;
                    break;
                }
            }
            why
        };
        let mut one = client(&server);
        assert!(overwrite(&mut one).contains("No space left"));
        let refused = || why(client(&server).set(key(0), value(0), 0, 0));
        until(|| refused().contains("make room first"));
        // The neighbour needs less and less, and the client wants all of it.
        let file = File::options().write(true).open(&ballast).expect("the ballast");
        for left in (0..6).rev() {
            file.set_len(left << 20).expect("shorter");
            let mut two = client(&server);
            let _ = two.set(key(0), value(0), 0, 0);
        }
        until(|| client(&server).set(key(0), value(0), 0, 0).is_ok());
        until(|| files(&data).len() == 2);
        let length: u64 = files(&data).values().sum();
        assert!(length < 2 << 20, "{length} bytes are left: the garbage is gone");

        // A kill on the full disk, and no space for anything at the start.
        let mut one = client(&server);
        overwrite(&mut one);
        server.kill();
        let server = Server::start_on(&data, &["--sync", mode]);
        until(|| client(&server).set(key(0), value(0), 0, 0).is_ok());
    }
}

/// The files of a directory, and their lengths.
fn files(path: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(path).expect("the directory").map(|entry| {
        let entry = entry.expect("a file");
        let name = entry.file_name().into_string().expect("a name of ours");
        (name, entry.metadata().expect("it is there").len())
    });
    entries.collect()
}

/// An ext4, on a disk that is a file in memory. Where that memory is full, writing to a new
/// block fails; it works again when there is space.
struct Ext4 {
    directory: TempDir,
}

impl Ext4 {
    fn mount() -> Option<Ext4> {
        let ext4 = Ext4 { directory: TempDir::new() };
        let made = ext4.run(
            "mkdir ram fs && mount -t tmpfs -o size=96m none ram && \
             head -c 64m /dev/zero >ram/disk && mkfs.ext4 -q -b 4096 \
             -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 ram/disk && \
             mount -o loop ram/disk fs && fstrim fs",
        );
        if !made {
            let _ = writeln!(io::stderr(), "SKIPPED: ext4, which root can mount");
            return None;
        }
        // The journal has all its blocks when it has been written to its end.
        for number in 0..700 {
            let name = ext4.path().join(format!("{number}"));
            let file = File::create(&name).expect("a file");
            file.sync_all().expect("synced");
            fs::remove_file(&name).expect("removed");
        }
        Some(ext4)
    }

    fn run(&self, script: &str) -> bool {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]).current_dir(self.directory.path());
        sh.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("fs")
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        self.run("umount fs; umount ram");
    }
}

#[test]
fn after_a_sync_that_failed_on_ext4_a_restart_loses_nothing_that_it_acknowledges() {
    // R3: what was written again in its place would be gone with the page cache. Only by
    // `make test-disks`: it mounts a file system that others could see.
    if env::var_os("DISKS_REQUIRED").is_none() {
        return;
    }
    for mode in MODES {
        let Some(ext4) = Ext4::mount() else { return };
        let data = ext4.path().join("data");
        // Each record has a block of its own: a write to an old and a new one fails in
        // silence on such a disk, if the old one works.
        let start = || Server::start_on(&data, &["--sync", mode, "--key-size", "9"]);
        let block = |number| {
            vec![b'0' + number as u8; 4096 - 48 - 40 * usize::from(number == 0)]
        };
        let set =
            |client: &mut Client, number| client.set(key(number), block(number), 0, 0);
        let mut server = start();
        let mut one = client(&server);
        (0..3).for_each(|number| set(&mut one, number).expect("all is well"));
        assert!(!ext4.run("cat /dev/zero >ram/ballast"), "the memory is not full");
        let failed = (3..40).find_map(|number| set(&mut one, number).err());
        if mode == "always" {
            assert!(failed.expect("no sync fails").to_string().contains("No space"));
        } else {
            // Short ones: a start needs space for a copy of all that was never synced.
            until(|| client(&server).set("short", "x", 0, 0).is_err());
        }
        assert!(ext4.run("rm ram/ballast"));
        server.kill();
        let mut server = start();
        let mut one = client(&server);
        (50..70).for_each(|number| set(&mut one, number).expect("after a restart"));
        let mut figure = |name: &str| {
            let stats = one.stats(Topic::General).expect("stats");
            stats.into_iter().find(|(of, _)| of == name).map(|(_, number)| number)
        };
        until(|| figure("log_end") == figure("log_synced"));
        server.kill();
        assert!(ext4.run("umount fs && mount -o loop ram/disk fs"));
        let server = start();
        let mut one = client(&server);
        for number in (0..3).chain(50..70) {
            let item = one.get(key(number)).expect("an answer").expect("it is there");
            assert_eq!(item.value, block(number));
        }
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
        check_writes_fail(&mut one, "File too large");
        check_all_there(&mut one, count);
        server.kill();
        let server = Server::start_on(data.path(), &args);
        let mut one = client(&server);
        check_all_there(&mut one, count);
        one.set("last", "x", 0, 0).expect("without a limit");
    }
}

/// strace, attached to a server.
struct Strace {
    child: Child,
    /// Reads what strace prints until it ends. With nobody at the other end of the pipe,
    /// it would die of its next message, and the calls would succeed again.
    messages: Option<JoinHandle<()>>,
}

impl Strace {
    /// Has calls fail from now on, of all threads of the server or of the one that has
    /// this name. Nothing where strace is missing, or not allowed to trace.
    fn attach(server: &Server, thread: Option<&str>, inject: &str) -> Option<Strace> {
        let mut command = Command::new("strace");
        command.args(["-o", "/dev/null", "-e", inject, "-p"]);
        match thread {
            Some(name) => command.arg(thread_id(server, name)),
            None => command.arg(server.pid().to_string()).arg("-f"),
        };
        let mut line = String::new();
        let strace = command.stderr(Stdio::piped()).spawn().ok().map(|mut child| {
            let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
            // It comes when all are attached.
            stderr.read_line(&mut line).expect("a line or none");
            let drain = move || drop(stderr.read_to_end(&mut Vec::new()));
            Strace { child, messages: Some(thread::spawn(drain)) }
        });
        if !line.contains("attached") {
            skip("a failing call, for want of strace, or of the right to trace");
            return None;
        }
        strace
    }
}

/// The system's number of a thread of the server.
fn thread_id(server: &Server, name: &str) -> String {
    let tasks = PathBuf::from(format!("/proc/{}/task", server.pid()));
    let named = |id: &String| {
        let comm = fs::read_to_string(tasks.join(id).join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let ids = fs::read_dir(&tasks).expect("the threads");
    let mut ids = ids.map(|id| id.expect("a thread").file_name().into_string());
    let found = ids.find_map(|id| id.ok().filter(named));
    found.unwrap_or_else(|| panic!("no thread {name}"))
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It detaches, and ends.
        let kill = format!("kill -INT {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).status();
        let _ = self.child.wait();
        let _ = self.messages.take().map(JoinHandle::join);
    }
}

#[test]
fn after_a_sync_that_failed_nothing_is_stored_until_a_restart() {
    // L4
    let data = TempDir::new();
    let mut server = Server::start_on(data.path(), &["--threads", "1"]);
    // It may listen before its threads have their names.
    assert_eq!(client(&server).get("nothing").expect("an answer"), None);
    // Of the worker alone, which then tells the client. Where the syncer or the maintenance thread
    // was faster, the worker's third sync is that of a later set.
    let inject = "inject=fdatasync:error=EIO:when=3";
    let Some(_strace) = Strace::attach(&server, Some("worker-0"), inject) else {
        return;
    };
    let (count, reason) = fill(&mut client(&server));
    assert!(count >= 2, "{count}");
    assert!(reason.contains("Input/output error"), "{reason}");
    let mut one = client(&server);
    for _ in 0..2 {
        check_writes_fail(&mut one, "restart the server");
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
fn a_disk_that_turns_read_only_fails_writes_and_serves_reads() {
    // L3: this is what the system does to a file system in which it has found errors.
    for mode in MODES {
        let server = Server::start(&["--sync", mode]);
        let mut one = client(&server);
        one.set(key(0), value(0), 0, 0).expect("all is well");
        let inject = "inject=pwrite64,ftruncate:error=EROFS";
        let Some(strace) = Strace::attach(&server, None, inject) else { return };
        let reason = why(one.set("new", "x", 0, 0));
        assert!(reason.contains("Read-only file system"), "{reason}");
        let mut one = client(&server);
        check_writes_fail(&mut one, "Read-only file system");
        check_all_there(&mut one, 1);
        drop(strace);
        one.set("last", "x", 0, 0).expect("it can be written to again");
    }
}

/// A server that prints on standard output what it would print on standard error.
fn start_merged(data: &Path) -> Server {
    let mut merged = Command::new("sh");
    merged.args(["-c", "exec \"$0\" \"$@\" 2>&1", SERVER]);
    Server::start_as(merged, data, &[])
}

#[test]
fn a_directory_that_is_moved_is_written_to_where_it_is() {
    let parent = TempDir::new();
    let [data, moved] = ["data", "moved"].map(|name| parent.path().join(name));
    let server = Server::start_on(&data, &[]);
    let mut one = client(&server);
    one.set(key(0), value(0), 0, 0).expect("all is well");
    fs::rename(&data, &moved).expect("moved");
    fs::create_dir(&data).expect("another directory");
    one.set(key(1), value(1), 0, 0).expect("nothing has changed");
    drop(server);
    assert_eq!(fs::read_dir(&data).expect("the other one").count(), 0);
    check_all_there(&mut client(&Server::start_on(&moved, &[])), 2);
}

#[test]
fn a_data_file_that_is_removed_stops_writes() {
    // L5. Or it is moved, or a copy is put in its place.
    let check = |lose: &str| {
        let data = TempDir::new();
        let server = start_merged(data.path());
        let mut one = client(&server);
        one.set(key(0), value(0), 0, 0).expect("all is well");
        let mut sh = Command::new("sh");
        sh.args(["-c", lose, "0000000001.kv"]).current_dir(data.path());
        assert!(sh.status().is_ok_and(|status| status.success()), "{lose}");
        server.wait_for_line("0000000001.kv is not where it was", REPLY_TIMEOUT);
        check_writes_fail(&mut one, "an earlier sync failed, or a file is gone");
        check_all_there(&mut one, 1);
    };
    thread::scope(|scope| {
        for lose in ["rm $0", "mv $0 moved", "cp $0 copy && mv copy $0"] {
            scope.spawn(move || check(lose));
        }
    });
}

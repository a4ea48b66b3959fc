//! Backups: copies of the data directory that are made while the server works, and the
//! dump of a stopped one.
//!
//! A copy takes time: it lists the directory, then reads one file after the other, and
//! compaction makes and removes files meanwhile. So a file that was listed may be gone, and
//! one that was not may have what is missing (L6).

mod common;

use common::disk::files;
use common::talk::{ask, rest, send};
use common::verbs::Verbs;
use common::{SERVER, Server, TempDir, open_store};
use memcached_lite::driver::random::Random;
use memcached_lite::store::{Options, Session, Store, SyncMode};
use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

const NOW: u64 = 2_000_000_000;

/// A store that is written to and compacted all the time, and how often each was done.
struct Busy {
    data: TempDir,
    options: Options,
    acknowledged: AtomicU64,
    compactions: AtomicU64,
}

impl Busy {
    fn open(&self, path: &Path) -> Result<Store, String> {
        let opened = open_store(path, &self.options, NOW);
        opened.map(|(store, _)| store).map_err(|error| error.to_string())
    }

    /// Waits until so many further compactions have ended.
    fn wait_for_compactions(&self, count: u64) {
        let end = self.compactions.load(SeqCst) + count;
        while self.compactions.load(SeqCst) < end {
            thread::yield_now();
        }
    }

    /// Runs `copy` while the store is busy, which gets the path of a copy to be made: each
    /// has all that was acknowledged before, or is refused because of a file that it lacks.
    /// Returns how many were refused.
    fn check_copies(count: u64, mut copy: impl FnMut(&Busy, &Path)) -> u64 {
        let options = Options { sync: SyncMode::EverySecond, ..Options::default() };
        let data = TempDir::new();
        let [acknowledged, compactions] = [(); 2].map(|()| AtomicU64::new(0));
        let busy = Busy { data, options, acknowledged, compactions };
        let store = busy.open(busy.data.path()).expect("open");
        let (done, mut refused) = (&AtomicBool::new(false), 0);
        thread::scope(|scope| {
            // Also where the test fails, or it would wait for these threads.
            let _done = Done(done);
            scope.spawn(|| {
                let mut session = Session::at(NOW);
                for number in 1.. {
                    let value = number.to_string();
                    let key = format!("{}", number % 100);
                    for key in [key.as_bytes(), b"last"] {
                        let stored =
                            store.set(&mut session, key, 0, 0, value.as_bytes());
                        stored.expect("set");
                    }
                    store.settle(&session).expect("commit");
                    busy.acknowledged.store(number, SeqCst);
                    if done.load(SeqCst) {
                        break;
                    }
                }
            });
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    store.compact(&|| NOW).expect("compaction");
                    busy.compactions.fetch_add(1, SeqCst);
                }
            });
            for _ in 0..count {
                let parent = TempDir::new();
                let path = parent.path().join("copy");
                let before = busy.acknowledged.load(SeqCst);
                copy(&busy, &path);
                match busy.open(&path) {
                    Ok(copy) => {
                        let mut session = Session::at(NOW);
                        let item = copy.get(&mut session, b"last").expect("a read");
                        let value =
                            item.map_or(b"0".to_vec(), |item| item.value.into());
                        let has = String::from_utf8(value).expect("text");
                        let has: u64 = has.parse().expect("a number");
                        assert!(has >= before, "it has {has} of {before} acknowledged");
                    }
                    Err(error) => {
                        refused += 1;
                        let says = error.contains(".kv is missing, ")
                            || error.starts_with("its data files are missing; ")
                            || error.contains(" do not continue one another");
                        assert!(says, "{error}");
                    }
                }
            }
            busy.wait_for_compactions(1);
        });
        refused
    }
}

/// Says so when it is dropped, also by a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// As many as `make backup-copies` asks for.
fn copies() -> u64 {
    env::var("COPIES").map_or(20, |text| text.parse().expect("a number"))
}

#[test]
fn a_copy_made_by_cp_has_what_was_acknowledged_or_says_what_it_lacks() {
    let refused = Busy::check_copies(copies(), |busy, path| {
        let mut cp = Command::new("cp");
        // It complains about files that have gone.
        cp.arg("-r").arg(busy.data.path()).arg(path).stderr(Stdio::null());
        cp.status().expect("cp");
    });
    println!("{} copies by cp: {refused} refused", copies());
}

#[test]
fn a_copy_that_takes_long_has_what_was_acknowledged_or_says_what_it_lacks() {
    let mut random = Random::new(1);
    let refused = Busy::check_copies(copies(), |busy, path| {
        fs::create_dir(path).expect("a directory");
        let list = fs::read_dir(busy.data.path()).expect("a directory");
        let mut files: Vec<_> =
            list.map(|entry| entry.expect("entry").path()).collect();
        while !files.is_empty() {
            let from = files.swap_remove(random.below(files.len()));
            busy.wait_for_compactions(random.below(5) as u64 / 3);
            let Ok(mut file) = File::open(&from) else { continue };
            let mut bytes = vec![0; random.below(2000)];
            let count = file.read(&mut bytes).expect("a read");
            bytes.truncate(count);
            busy.wait_for_compactions(random.below(3) as u64 / 2);
            file.read_to_end(&mut bytes).expect("a read");
            fs::write(path.join(from.file_name().expect("a name")), bytes)
                .expect("write");
        }
    });
    println!("{} slow copies: {refused} refused", copies());
}

/// What `--dump` writes; it must succeed and say nothing.
fn dump(data: &Path) -> Vec<u8> {
    let output = Command::new(SERVER).arg("--dump").arg("--data").arg(data).output();
    let output = output.expect("it runs");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
    output.stdout
}

/// Sends a dump by `client load` with these options, and returns what it prints.
fn load(options: &[&str], dump: &[u8]) -> String {
    let mut client = Command::new(env!("CARGO_BIN_EXE_client"));
    client.args(options).arg("load");
    client.env("SERVER_HOST", "127.0.0.1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().expect("it runs");
    client.stdin.take().expect("piped").write_all(dump).expect("it reads");
    let output = client.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("text")
}

/// Items of all sorts, and what must no longer be there.
const REQUESTS: &[u8] =
    b"set a 0 0 5\r\nfirst\r\nset bin 4294967295 0 7\r\n\r\nEND\r\n\r\n\
    set empty 1 0 0\r\n\r\nset dated 2 4102444800 1\r\nd\r\nset gone 0 -1 1\r\ng\r\n\
    set deleted 0 0 1\r\nx\r\nset a 7 0 6\r\nsecond\r\n\xC3\xA4\r\ndelete deleted\r\n\
    set touched 0 0 1\r\nt\r\ntouch touched 4102444801\r\n";

#[test]
fn a_dump_is_what_stores_the_live_items_elsewhere() {
    let mut server = Server::start(&["--key-size", "60", "--sync", "every-second"]);
    let stream = server.connect();
    send(&stream, [REQUESTS, b"quit\r\n"].concat());
    assert!(rest(&stream).ends_with(b"TOUCHED\r\n"));
    server.kill();
    let before = files(server.data());
    let dumped = dump(server.data());
    assert!(files(server.data()) == before, "a dump changes nothing");
    let expected = b"set bin 4294967295 0 7 noreply\r\n\r\nEND\r\n\r\n\
        set empty 1 0 0 noreply\r\n\r\nset dated 2 4102444800 1 noreply\r\nd\r\n\
        set a 7 0 6 noreply\r\nsecond\r\nset touched 0 4102444801 1 noreply\r\nt\r\n\
        version\r\n";
    assert_eq!(dumped.escape_ascii().to_string(), expected.escape_ascii().to_string());
    // To other sizes, and from there again.
    let mut other = Server::start(&["--key-size", "250", "--int-order", "little"]);
    let port = other.addr.port().to_string();
    assert!(load(&["--port", &port], &dumped).starts_with("VERSION "));
    other.kill();
    assert!(dump(other.data()) == dumped);
}

/// M2: what a client has put into a key is not run, and what is stale is not dumped.
#[test]
fn a_dump_has_keys_of_any_bytes_and_no_stale_values() {
    let mut server = Server::start(&["--sync", "every-second"]);
    let stream = server.connect();
    // A key that is a space, a line end and a command.
    let key = "IA0KZmx1c2hfYWxs";
    let request = format!("ms {key} 1 b F7\r\na\r\nms old 1\r\nb\r\nmd old I\r\n");
    ask(&stream, request + "mg made N0\r\n", "HD\r\nHD\r\nHD\r\nHD W\r\n");
    server.kill();
    let dumped = String::from_utf8(dump(server.data())).expect("text");
    let expected = format!("ms {key} 1 b q F7 T0\r\na\r\n");
    assert!(dumped.starts_with(&expected), "{dumped}");
    let other = Server::start(&[]);
    let port = other.addr.port().to_string();
    assert!(load(&["--port", &port], dumped.as_bytes()).starts_with("VERSION "));
    let stream = other.connect();
    ask(&stream, format!("mg {key} b v f\r\n"), "VA 1 f7\r\na\r\n");
    ask(&stream, "mg old v\r\nmg made v\r\n", "EN\r\nEN\r\n");
}

#[test]
fn what_has_expired_for_a_client_is_not_dumped_though_the_clock_goes_back() {
    // S6: the server that showed it had a clock that was years ahead.
    let data = TempDir::new();
    let later = 3_000_000_000;
    let (store, _) = open_store(data.path(), &Options::default(), later).expect("open");
    let mut session = Session::at(later);
    store.set(&mut session, b"k", 0, 10, b"v").expect("set");
    session.now += 10;
    assert_eq!(store.get(&mut session, b"k").expect("a read"), None);
    store.settle(&session).expect("commit");
    drop(store);
    assert_eq!(dump(data.path()), b"version\r\n");
}

#[test]
fn a_pending_flush_is_dumped_and_one_that_is_due_leaves_nothing() {
    for (delay, expected) in [
        ("4102444800", "set k 0 0 1 noreply\r\nv\r\nflush_all 4102444800 noreply\r\n"),
        ("0", ""),
    ] {
        let mut server = Server::start(&[]);
        ask(server.connect(), "set k 0 0 1\r\nv\r\n", "STORED\r\n");
        ask(server.connect(), format!("flush_all {delay}\r\n"), "OK\r\n");
        server.kill();
        let dumped = String::from_utf8(dump(server.data())).expect("text");
        assert_eq!(dumped, format!("{expected}version\r\n"));
    }
}

/// A dump loads into Debian's memcached as well: the same values, flags and lives.
#[test]
fn memcached_loads_a_dump() {
    let mut server = Server::start(&["--sync", "every-second"]);
    let stream = server.connect();
    send(&stream, [REQUESTS, b"quit\r\n"].concat());
    assert!(rest(&stream).ends_with(b"TOUCHED\r\n"));
    server.kill();
    let dumped = dump(server.data());
    let directory = TempDir::new();
    let socket = directory.path().join("s");
    let mut memcached = Command::new("memcached");
    let Ok(mut memcached) = memcached.args(["-u", "root", "-s"]).arg(&socket).spawn()
    else {
        let _ = writeln!(io::stderr(), "SKIPPED: memcached is not installed");
        return;
    };
    // The client tries again until it listens.
    let options = ["--retry", "0.01", "--unix-socket", socket.to_str().expect("text")];
    assert!(load(&options, &dumped).starts_with("VERSION "));
    let stream = UnixStream::connect(&socket).expect("it listens");
    ask(
        stream,
        "get a bin empty gone deleted\r\n",
        "VALUE a 7 6\r\nsecond\r\nVALUE bin 4294967295 7\r\n\r\nEND\r\n\r\n\
         VALUE empty 1 0\r\n\r\nEND\r\n",
    );
    memcached.kill().and_then(|()| memcached.wait()).expect("it ends");
}

/// One whose torn end is not known to have been synced is dumped without it; one that a
/// start refuses is refused.
#[test]
fn a_dump_of_a_damaged_file_says_so() {
    let data = TempDir::new();
    let mut server = Server::start_on(data.path(), &["--sync", "every-second"]);
    ask(server.connect(), "set k 0 0 1\r\nv\r\n", "STORED\r\n");
    server.kill();
    let file = data.path().join("0000000001.kv");
    let whole = fs::read(&file).expect("a file");
    let run = || {
        let mut command = Command::new(SERVER);
        let output = command.arg("--dump").arg("--data").arg(data.path()).output();
        let output = output.expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    fs::write(&file, [&whole[..], b"torn"].concat()).expect("write");
    let (code, out, err) = run();
    assert_eq!((code, &out[..]), (Some(0), "set k 0 0 1 noreply\r\nv\r\nversion\r\n"));
    assert!(err.starts_with("server: 0000000001.kv: a torn end at offset "), "{err}");
    fs::write(&file, &whole[1..]).expect("write");
    let (code, out, err) = run();
    assert_eq!((code, &out[..]), (Some(1), ""));
    assert!(err.contains("0000000001.kv: "), "{err}");
}

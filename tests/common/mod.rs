//! What several test crates need: a server of their own, and a dialogue with it.
//!
//! A [`Server`] is the real program in a process of its own, on a port that the
//! system chose and in a data directory that nobody else uses, so tests may run side
//! by side. It is ready when it prints that: its standard output is read until the line
//! `Server: Listening on ADDRESS...` comes, and nothing here ever sleeps.
//!
//! | to test | use |
//! |---|---|
//! | requests and replies | [`Server::start`], [`replay`] |
//! | a connection's own ways | [`Server::start`], [`Server::connect`], [`talk`] |
//! | what outlives a crash | a [`TempDir`], [`Server::start_on`], [`Server::kill`] |
//! | what clients were answered at the same time | [`linear::check`] |
//! | what clients ask for under load | [`requests::Maker`] |
//! | what the server prints | [`Server::wait_for_line`], [`Server::last_words`] |
//! | a program in `examples/` | [`example`] |
//! | damaged files, and what they should mean | [`history`] |
//! | a store against what it should hold | [`disk::Faulty`], [`model::Model`] |
//! | what the store's verbs do | [`verbs::Verbs`] |
//! | a stream in many ways cut | [`stream::read`], [`stream::answers`] |
//! | a connection without a server, its time included | [`stream::Served`] |
//!
//! Whatever is started here is killed, and whatever directory is made here removed,
//! when its value is dropped, which a failing test does as well. Errors panic: in a
//! test that is the report.

// Each file in tests/ is a crate of its own and uses only a part of this.
#![allow(dead_code)]

pub mod disk;
pub mod history;
pub mod linear;
pub mod model;
pub mod requests;
pub mod stream;
pub mod talk;
pub mod verbs;

use memcached_lite::driver::script::{self, Act};
use memcached_lite::driver::text::Part;
use memcached_lite::driver::{self, Options};
use memcached_lite::store::{self, Store};
use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a reply may take. Far more than any needs, so that a busy machine fails
/// no test, and a server that hangs still ends one.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take until it listens: it may have a log to replay.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The logins of an [`auth_file`].
pub const LOGINS: &str = "user:password\nother:with:colons\n";

/// Plays a script against the server at `addr`, without the scenes tagged `[ours]` if
/// `skip_ours`, and counts its scenes. The error tells of every scene that failed: the line,
/// the title, what was expected, and what came. The language is described in
/// src/driver/script.rs.
pub fn replay(addr: SocketAddr, text: &str, skip_ours: bool) -> Result<usize, String> {
    let against = Some(addr.to_string());
    let options = Options { against, skip_ours, ..Options::default() };
    let scenes = script::parse("script", text, &options)?;
    let count = scenes.iter().filter(|scene| !(skip_ours && scene.is_ours)).count();
    let failures = driver::play("script", text, &options)?.unwrap_or_default();
    if failures.is_empty() { Ok(count) } else { Err(failures.join("\n")) }
}

/// What each scene of a script sends, on all of its connections, in one piece. A number
/// that only a reply tells is 1.
pub fn requests(text: &str) -> Vec<Vec<u8>> {
    let scenes = script::parse("script", text, &Options::default()).expect("a script");
    let sent = |scene: &script::Scene| {
        let mut bytes = Vec::new();
        for (_, step) in &scene.steps {
            let Act::Send(text) = &step.act else { continue };
            for part in text {
                bytes.extend_from_slice(match part {
                    Part::Bytes(bytes) => bytes,
                    Part::Number(_) => b"1",
                });
            }
        }
        bytes
    };
    scenes.iter().map(sent).collect()
}

/// Makes a file of [`LOGINS`] for `--auth-file`, and returns its path.
pub fn auth_file(directory: &TempDir) -> String {
    let path = directory.path().join("logins");
    fs::write(&path, LOGINS).expect("write");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    path.to_str().expect("UTF-8").to_owned()
}

/// An example, which `cargo test` has built before the tests. By itself,
/// `cargo test --test NAME` does not, and this fails.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a path");
    let target = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = target.join("examples").join(name);
    assert!(path.is_file(), "no {path:?}: `cargo build --example {name}` makes it");
    path
}

/// The server's program.
pub const SERVER: &str = env!("CARGO_BIN_EXE_server");

/// A running server process, killed when dropped.
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    child: Child,
    /// Lines of its standard output that no one has asked for yet. They arrive
    /// through a thread that reads all the time: a full pipe would stall the server.
    /// The lock only makes a `&Server` fit for the threads of a test.
    lines: Mutex<Receiver<String>>,
    /// Copies its standard error to ours, and returns it in the end.
    errors: Option<JoinHandle<String>>,
    data: PathBuf,
    /// Keeps the directory until the server is gone; `None` if it is the caller's.
    /// Fields are dropped after [`Drop::drop`] has run, so the process ends first.
    owned: Option<TempDir>,
}

impl Server {
    /// Starts a server with `args` in a fresh data directory and waits until it
    /// listens.
    pub fn start(args: &[&str]) -> Server {
        let owned = TempDir::new();
        let mut server = Server::start_on(owned.path(), args);
        server.owned = Some(owned);
        server
    }

    /// Starts a server with `args` in `data`, which stays when the server goes, and
    /// waits until it listens.
    pub fn start_on(data: &Path, args: &[&str]) -> Server {
        Server::start_as(Command::new(SERVER), data, args)
    }

    /// The same, by a command which begins with another program that starts ours.
    pub fn start_as(command: Command, data: &Path, args: &[&str]) -> Server {
        let mut server = Server::spawn_as(command, data, args);
        let line = server.wait_for_line("Server: Listening on ", START_TIMEOUT);
        let (_, rest) = line.split_once("Listening on ").expect("found above");
        server.addr = rest
            .trim_end_matches('.')
            .parse()
            .unwrap_or_else(|_| panic!("no address in {line:?}"));
        server
    }

    /// As [`Server::start_on`], but waits for nothing: where it will listen is not known
    /// yet.
    pub fn spawn_on(data: &Path, args: &[&str]) -> Server {
        Server::spawn_as(Command::new(SERVER), data, args)
    }

    fn spawn_as(mut command: Command, data: &Path, args: &[&str]) -> Server {
        // SERVER_HOST and SERVER_PORT give defaults: those of whoever runs the tests
        // must not decide where this server listens.
        let mut child = command
            .args(["--port", "0", "--data"])
            .arg(data)
            .args(args)
            .env_remove("SERVER_HOST")
            .env_remove("SERVER_PORT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cannot start the server");
        let stderr = child.stderr.take().expect("stderr is piped");
        let errors = Some(thread::spawn(move || {
            let mut errors = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                errors += &(line + "\n");
            }
            errors
        }));
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = mpsc::channel();
        // Ends with the process, whose end closes the pipe. A line for which there
        // is no receiver any more is dropped, and the draining goes on.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let data = data.to_path_buf();
        let lines = Mutex::new(lines);
        Server { addr, child, lines, errors, data, owned: None }
    }

    /// A new connection that sends at once and gives up reading or writing after
    /// [`REPLY_TIMEOUT`].
    pub fn connect(&self) -> TcpStream {
        connect(self.addr).expect("cannot connect to the server")
    }

    /// The next line of standard output that contains `text`; the lines before it
    /// are dropped. Panics after `timeout`, or when the output ends, and says what
    /// came instead.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> String {
        self.find_line(text, timeout).unwrap_or_else(|(error, others)| {
            panic!("no line {text:?} ({error}), only {others:#?}")
        })
    }

    /// Whether a line that contains `text` comes before `timeout`.
    pub fn says(&self, text: &str, timeout: Duration) -> bool {
        self.find_line(text, timeout).is_ok()
    }

    /// The line, or the lines that came instead.
    fn find_line(
        &self,
        text: &str,
        timeout: Duration,
    ) -> Result<String, (RecvTimeoutError, Vec<String>)> {
        let deadline = Instant::now() + timeout;
        let lines = self.lines.lock().expect("an earlier wait has failed");
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => others.push(line),
                Err(error) => return Err((error, others)),
            }
        }
    }

    /// Ends the process with SIGKILL, as `kill -9` does, and waits until it is gone:
    /// from then on its port and its data directory are free.
    pub fn kill(&mut self) {
        // An error means that it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends the process a signal, and does not wait for what it does.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits until the process ends by itself; its exit code, if it was not killed.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("it can be waited for").code()
    }

    /// Ends the process, and tells all that it has said on standard error.
    pub fn last_words(mut self) -> String {
        self.kill();
        let errors = self.errors.take().expect("taken only here");
        errors.join().expect("its output is read to the end")
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal as `kill` does.
pub fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    kill.args([format!("-{name}"), pid.to_string()]);
    assert!(kill.status().expect("kill runs").success(), "no process {pid}");
}

/// Opens a store that nobody else has. While another test starts a program, that has for a
/// moment what is open here, and what is locked stays so: then it is tried again.
pub fn open_store(
    path: &Path,
    options: &store::Options,
    now: u64,
) -> store::Result<(Store, Option<String>)> {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    loop {
        let opened = Store::open(path, options, now);
        let is_used = |error: &store::Error| error.to_string().contains("is using it");
        if !opened.as_ref().is_err_and(is_used) || Instant::now() > deadline {
            return opened;
        }
    }
}

/// A connection to any server, with the settings of [`Server::connect`].
pub fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, REPLY_TIMEOUT)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    // What a test sends in pieces shall arrive in pieces.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Where nobody listens. A port that was free a moment ago would not do: somebody else
/// may be given it, but nobody is given this one.
pub const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// A fresh directory, removed with all that is in it when dropped.
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes the directory. The process id keeps apart test crates that run at the
    /// same time, the counter the tests of one crate.
    pub fn new() -> TempDir {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("memcached-lite-test-{}-{number}", process::id());
        let path = env::temp_dir().join(name);
        // A killed run with the same process id may have left one behind.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("cannot make a temporary directory");
        TempDir { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there for whoever wants to look at it.
    pub fn keep(self) -> PathBuf {
        ManuallyDrop::new(self).path.clone()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A server in this process may make another file while the directory is being
        // emptied; it can't do so for ever.
        for _ in 0..100 {
            if fs::remove_dir_all(&self.path).is_ok() {
                break;
            }
        }
    }
}

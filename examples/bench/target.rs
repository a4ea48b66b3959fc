//! The servers that are driven.
//!
//! | server | is | its process is known from |
//! |---|---|---|
//! | memcached-lite | a child: the program that cargo has built beside this one | `stats` |
//! | memcached | one that runs already, or a child | `stats` |
//! | Redis | likewise | `INFO` |
//! | echo, append | a child: this program | its start |
//!
//! Each is emptied and given every key before anything is measured. A child is ready
//! when it has printed where it listens, and is killed when its [`Process`] is dropped.
//! Should this program itself be killed, our server ends because nobody is connected,
//! the echo server with its standard input; the directory stays.
//!
//! CPU time and memory are those of the whole process, from Linux's `/proc`. They are
//! NaN on another system, and for a server that runs on another machine.

use crate::items::Items;
use memcached_lite::driver::random::Random;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Errors of any kind, each a line for the user. Threads may return them.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long a server may take for a reply.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Requests of at least so many bytes are sent at once when keys are stored.
const BATCH: usize = 64 << 10;

/// Ticks of `/proc/PID/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

/// A child process, killed when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A temporary directory, removed when dropped.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Result<Directory> {
        let name = format!("memcached-lite-bench-{}", Random::seed());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path)
            .map_err(|error| format!("no temporary directory: {error}"))?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that is driven.
pub struct Target {
    /// What it is called in the table and the charts.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// What is requested, in its protocol.
    pub items: Items,
    /// Its replies have the right length, and no content.
    pub is_echo: bool,
    /// Its process, if that runs on this machine.
    pub pid: Option<u32>,
    /// Kept open for our server, which ends when nobody is connected.
    _stream: Option<TcpStream>,
    _process: Option<Process>,
}

impl Target {
    /// Our server, started by this command.
    pub fn ours(command: &mut Command, items: Items) -> Result<Target> {
        let started = start(command.args(["--idle-exit", "3"]))?;
        Target::started("memcached-lite", started, items)
    }

    /// A server that runs already and speaks the protocol of these items.
    pub fn new(name: &'static str, address: &str, items: Items) -> Result<Target> {
        let mut stream = TcpStream::connect(address)
            .map_err(|error| format!("can't connect to {address}: {error}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(items.flush.as_bytes())?;
        let [flushed, pid, end] = items.info;
        let mut lines = BufReader::new(&stream).lines().map_while(io::Result::ok);
        // All requests but the last are answered in one line.
        let mut requests = items.flush.lines().skip(1);
        if !requests.all(|_| lines.next().as_deref() == Some(flushed)) {
            return Err(format!("{address} does not answer like {name}").into());
        }
        let mut lines = lines.take_while(|line| line != end);
        let pid = lines.find_map(|line| line.strip_prefix(pid)?.parse().ok());
        // Of the addresses that a name may have, the one where the server is.
        let address = stream.peer_addr()?;
        store(address, &items, 0..items.count)
            .map_err(|error| format!("{name}, {address}: {error}"))?;
        // On another machine the same number is another process.
        let pid = pid.filter(|_| address.ip().is_loopback());
        let (is_echo, _stream, _process) = (false, Some(stream), None);
        Ok(Target { name, address, items, is_echo, pid, _stream, _process })
    }

    /// A server that was started as a child.
    pub fn started(
        name: &'static str,
        (process, address): (Process, SocketAddr),
        items: Items,
    ) -> Result<Target> {
        let target = Target::new(name, &address.to_string(), items)?;
        Ok(Target { _process: Some(process), ..target })
    }

    /// An echo server: this program, started again with the same options. It may append to
    /// a file, synced as our server's with `--sync` of a mode.
    pub fn echo(items: Items, append: Option<(&Path, &str)>) -> Result<Target> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("echo");
        if let Some((path, sync)) = append {
            command.args([path.as_os_str(), sync.as_ref()]);
        }
        let (process, address) =
            start(command.args(env::args_os().skip(1)).stdin(Stdio::piped()))?;
        let pid = Some(process.0.id());
        let name = if append.is_some() { "append" } else { "echo" };
        let (is_echo, _stream, _process) = (true, None, Some(process));
        Ok(Target { name, address, items, is_echo, pid, _stream, _process })
    }

    /// A new connection, which sends at once.
    pub fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address)
            .map_err(|error| format!("can't connect: {error}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }
}

/// The command that starts our server, the program that cargo has built beside this
/// one, at a port that the system chooses.
pub fn server(data: &Path) -> Result<Command> {
    let example = env::current_exe()?;
    let directory = example.ancestors().nth(2).ok_or("no target directory")?;
    let mut command = Command::new(directory.join("server"));
    command.args(["--listen", "127.0.0.1", "--port", "0", "--data"]).arg(data);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Starts a Redis that appends to a file in this directory, and loads it if there is one.
pub fn redis(directory: &Path) -> Result<(Process, SocketAddr)> {
    fs::create_dir_all(directory)?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
    command.arg("--dir").arg(directory).arg("--port");
    start_silent(command, ["PING\r\n", "+PONG"])
}

/// Starts a memcached with two threads and so much memory for items, in MiB.
pub fn memcached(memory: u32) -> Result<(Process, SocketAddr)> {
    let mut command = Command::new("memcached");
    // The user counts where root starts it.
    command.args(["-l", "127.0.0.1", "-t", "2", "-U", "0", "-u", "nobody", "-m"]);
    command.args([&memory.to_string(), "-p"]);
    start_silent(command, ["version\r\n", "VERSION"])
}

/// Starts a child that does not say where it listens: the last argument is a port that is
/// free. Waits until it gives this reply to a request.
fn start_silent(
    mut command: Command,
    [request, reply]: [&str; 2],
) -> Result<(Process, SocketAddr)> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    command.arg(address.port().to_string()).stdout(Stdio::null());
    let child = command.spawn().map_err(|error| {
        let program = command.get_program().display();
        format!(
            "{program}: {error}; `apt-get install memcached redis-server` brings it"
        )
    });
    let process = Process(child?);
    let deadline = Instant::now() + Duration::from_secs(300);
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect(address) {
            let mut answer = String::new();
            stream.write_all(request.as_bytes())?;
            BufReader::new(&stream).read_line(&mut answer)?;
            if answer.starts_with(reply) {
                return Ok((process, address));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(format!("{} does not answer", command.get_program().display()).into())
}

/// Starts a child and waits until it says where it listens.
pub fn start(command: &mut Command) -> Result<(Process, SocketAddr)> {
    let child = command.stdout(Stdio::piped()).spawn().map_err(|error| {
        let program = command.get_program().display();
        format!("can't start {program}: {error}; `make build` makes it")
    });
    let mut process = Process(child?);
    let stdout = process.0.stdout.take().ok_or("a server without output")?;
    let mut line = String::new();
    // What it prints after that is lost, which it does not mind.
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim_end_matches(['.', '\n']).rsplit(' ').next();
    let address = address.and_then(|address| address.parse().ok());
    Ok((process, address.ok_or("the server did not start")?))
}

/// Stores the keys of these numbers, modulo how many there are, a batch at a time.
pub fn store(address: SocketAddr, items: &Items, mut numbers: Range<usize>) -> Result {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    while !numbers.is_empty() {
        requests.clear();
        let first = numbers.start;
        while !numbers.is_empty() && requests.len() < BATCH {
            items.write_set(numbers.start % items.count, false, &mut requests);
            numbers.start += 1;
        }
        stream.write_all(&requests)?;
        let expected = items.stored.repeat(numbers.start - first);
        replies.resize(expected.len(), 0);
        stream.read_exact(&mut replies)?;
        if replies != expected {
            return Err(format!("not stored: {}", replies.escape_ascii()).into());
        }
    }
    Ok(())
}

/// The CPU time that a process has used so far, user and system, in seconds.
pub fn cpu(pid: Option<u32>) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.unwrap_or(0)));
    let stat = stat.unwrap_or_default();
    // The name of the program stands in parentheses, and may have spaces.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11);
    let mut seconds = fields.map(|ticks| ticks.parse().unwrap_or(f64::NAN) / TICKS);
    (seconds.next().unwrap_or(f64::NAN), seconds.next().unwrap_or(f64::NAN))
}

/// The resident memory of a process, in MiB.
pub fn memory(pid: Option<u32>) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.unwrap_or(0)));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

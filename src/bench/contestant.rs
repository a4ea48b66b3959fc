//! The servers that are driven: our own and the echo server, as child processes, and
//! those that run already.

use super::Options;
use super::items::Items;
use super::load::{self, broken};
use crate::client::Client;
use crate::driver::stage::{self, PATIENCE, Process, Result};
use crate::protocol::Topic;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What `/proc/PID/stat` counts CPU time in: 1/100 s, on whatever Linux.
const TICK: Duration = Duration::from_millis(10);

/// A server that is driven.
pub struct Contestant<'a> {
    /// What its rows are called.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is asked, in its words.
    pub items: &'a Items,
    /// Its replies are long enough, and no more than that.
    pub is_echo: bool,
    /// Whose CPU time is looked at; `None` if it runs elsewhere.
    pid: Option<u32>,
    /// Stays open: our own server ends when nobody is connected, and so it does not
    /// outlive its driver.
    _visitor: Option<Client>,
    /// Killed when dropped.
    _process: Option<Process>,
}

impl<'a> Contestant<'a> {
    /// Starts our server, its data below `directory`, and sets every key.
    pub fn ours(options: &Options, directory: &Path, items: &'a Items) -> Result<Self> {
        let mut command = stage::myself("server", "127.0.0.1", "0")?;
        command.args(["--idle-exit", "3"]);
        // Beside those that are measured: the visitor, and those of the point before,
        // or of the request before, that are being closed.
        let limit = options.most_connections() * 2 + 16;
        command.args(["--conn-limit", &limit.to_string(), "--data"]);
        command.arg(directory.join("data")).args(&options.server);
        let (process, address) = listening(command.stdin(Stdio::null()))?;
        let mut ours = Contestant::meet("ours", &address, items)?;
        ours._process = Some(process);
        Ok(ours)
    }

    /// Empties a server that runs already, and sets every key.
    pub fn meet(name: &'static str, address: &str, items: &'a Items) -> Result<Self> {
        let mut visitor = stage::connect(address)?;
        let failed = |error| format!("{address}: {error}");
        visitor.flush_all(0).map_err(failed)?;
        let stats = visitor.stats(Topic::General).map_err(failed)?;
        let pid = stats.into_iter().find(|(name, _)| name == "pid");
        let stream = TcpStream::connect(address).map_err(broken)?;
        let pid = pid.and_then(|(_, pid)| pid.parse().ok());
        let met = Contestant::fill(name, &stream, pid, items)?;
        Ok(Contestant { _visitor: Some(visitor), ..met })
    }

    /// The same with a Redis.
    pub fn meet_redis(address: &str, items: &'a Items) -> Result<Self> {
        let mut stream = TcpStream::connect(address)
            .map_err(|error| format!("can't connect to {address}: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        stream.write_all(b"FLUSHALL\r\nINFO server\r\n").map_err(broken)?;
        let mut lines = BufReader::new(&stream).lines();
        let mut next = || lines.next().transpose().map_err(broken);
        if next()?.as_deref() != Some("+OK") {
            return Err(format!("{address}: it is not answered as by Redis"));
        }
        let pid = loop {
            let line = next()?.unwrap_or_default();
            match line.strip_prefix("process_id:") {
                Some(pid) => break pid.parse().ok(),
                None if line.is_empty() => break None,
                None => {}
            }
        };
        Contestant::fill("redis", &stream, pid, items)
    }

    /// Sets every key of a server that runs already, and that says so of its process.
    fn fill(
        name: &'static str,
        stream: &TcpStream,
        pid: Option<u32>,
        items: &'a Items,
    ) -> Result<Self> {
        // Of the addresses that a name may have, the one where somebody is.
        let address = stream.peer_addr().map_err(broken)?;
        load::fill(address, items)
            .map_err(|why| format!("{name}, {address}: {why}"))?;
        Ok(Contestant {
            name,
            address,
            items,
            is_echo: false,
            // Elsewhere the same number is another process.
            pid: pid.filter(|_| address.ip().is_loopback()),
            _visitor: None,
            _process: None,
        })
    }

    /// Starts an echo server with as many threads as ours has.
    pub fn echo(options: &Options, items: &'a Items) -> Result<Self> {
        let mut command = stage::myself("echo", "127.0.0.1", "0")?;
        for (name, value) in [
            ("--threads", options.threads),
            ("--key", options.key_size),
            ("--value", options.value_size),
        ] {
            command.args([name, &value.to_string()]);
        }
        let (process, address) = listening(command.stdin(Stdio::piped()))?;
        Ok(Contestant {
            name: "echo",
            address: address.parse().map_err(|_| format!("no address: {address}"))?,
            items,
            is_echo: true,
            pid: Some(process.0.id()),
            _visitor: None,
            _process: Some(process),
        })
    }

    /// The CPU time that it has used, user and system, where the system tells.
    pub fn cpu_time(&self) -> Option<(Duration, Duration)> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid?)).ok()?;
        // The second word is the program's name, in parentheses, and may have blanks.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut words = rest.split_whitespace().skip(11);
        let mut time = || Some(TICK * words.next()?.parse().ok()?);
        Some((time()?, time()?))
    }

    /// How many bytes of memory it has at the moment, where the system tells.
    pub fn memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    }
}

/// Starts a child and waits until it says where it listens.
fn listening(command: &mut Command) -> Result<(Process, String)> {
    let mut process = stage::start(command.stdout(Stdio::piped()))?;
    let stdout = process.0.stdout.take().ok_or("a server without output")?;
    let mut line = String::new();
    // What it says after that is lost, and it doesn't mind.
    let read = BufReader::new(stdout).read_line(&mut line);
    read.map_err(|error| format!("the server's output: {error}"))?;
    let (_, address) = line
        .trim_end_matches(['.', '\n'])
        .split_once("Listening on ")
        .ok_or("the server did not start")?;
    Ok((process, address.to_owned()))
}

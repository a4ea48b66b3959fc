//! Where a scenario plays: its servers and clients, as processes, and peers that talk
//! to a server in bytes of the scenario's choice.
//!
//! | | is | waits for |
//! |---|---|---|
//! | [`Server`] | `driver server ...` | the line that says it listens |
//! | [`Client`] | `driver client --quote ...` | a line for each of its instructions |
//! | [`Peer`] | a connection of the driver's own | the bytes that must come |
//!
//! Servers and clients are told of each other by `SERVER_HOST` and `SERVER_PORT` in
//! their environment. Everything that is said goes through [`say`], a line at a time,
//! so lines of different processes are never mixed. Nothing is waited for longer than
//! [`PATIENCE`]: a program that hangs fails its scenario, and doesn't hang the driver.

use super::peer::Peer;
use super::text::{ordinal, short};
use crate::client;
use crate::random::Random;
use crate::say;
use crate::words::shown;
use std::cell::Cell;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How long anything may take that is waited for. Far more than it needs, so that a
/// busy machine fails no scenario.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `--idle-exit` of the scenarios' servers, in seconds.
const IDLE_EXIT: &str = "3";

/// What becomes of a step: the error is the verdict's text.
pub type Result<T = ()> = std::result::Result<T, String>;

/// How a scenario is played.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where all its randomness comes from.
    pub seed: u64,
    /// How many clients come at once in scenario 6.
    pub clients: usize,
    /// `host:port` of a server that runs already, to be driven in the place of one of
    /// our own.
    pub against: Option<String>,
}

/// Where a scenario plays: a directory for the servers' data, and a count of what went
/// well.
pub struct Stage {
    /// How it is played.
    pub options: Options,
    /// Where the data are, below it.
    pub directory: PathBuf,
    /// Replies that were as expected.
    pub replies: Cell<usize>,
    /// Clients and peers that took part.
    pub clients: Cell<usize>,
}

impl Stage {
    /// An empty stage, its directory among the temporary ones.
    pub fn new(options: &Options) -> io::Result<Stage> {
        // Not the process id: a driver that was killed leaves its directory behind,
        // and its id comes back.
        let name = format!("memcached-lite-driver-{}", Random::seed());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)?;
        let (replies, clients) = (Cell::new(0), Cell::new(0));
        Ok(Stage { options: options.clone(), directory, replies, clients })
    }

    /// Randomness that the seed determines, which is said (D3).
    pub fn random(&self) -> Random {
        say(&format!("Seed: --seed {}", self.options.seed));
        Random::new(self.options.seed)
    }

    /// Whether the server is one that somebody else has started.
    pub fn is_foreign(&self) -> bool {
        self.options.against.is_some()
    }

    /// Counts replies that were as they should be.
    pub fn approve(&self, replies: usize) {
        self.replies.set(self.replies.get() + replies);
    }

    /// Starts a server on the stage's data, at a port that the system chooses, and
    /// waits until it is ready. Against a server that runs already: empties that.
    pub fn server(&self, options: &[&str]) -> Result<Server> {
        self.server_at("0", options)
    }

    /// The same, at this port.
    pub fn server_at(&self, port: &str, options: &[&str]) -> Result<Server> {
        if let Some(address) = &self.options.against {
            let flushed = connect(address)?.flush_all(0);
            flushed.map_err(|error| format!("flush_all: {error}"))?;
            say(&format!("Server: {address}, which was flushed"));
            return Ok(Server { process: None, address: address.clone() });
        }
        let mut command = myself("server", "127.0.0.1", port)?;
        command.args(["--idle-exit", IDLE_EXIT, "-v", "--data"]);
        command.arg(self.directory.join("data")).args(options);
        let mut child = start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = child.0.stdout.take().ok_or("a server without output")?;
        let process = Some((child, lines_of(stdout)?));
        let mut server = Server { process, address: String::new() };
        let ready = server.says("Listening on ")?;
        let address = ready.rsplit(' ').next().unwrap_or_default();
        server.address = address.trim_end_matches('.').to_owned();
        Ok(server)
    }

    /// Forgets the data of the servers so far.
    pub fn clear(&self) -> Result {
        let gone = fs::remove_dir_all(self.directory.join("data"));
        gone.map_err(|error| format!("can't remove the data: {error}"))
    }

    /// Starts a client and waits until the server has seen it.
    pub fn client(
        &self,
        server: &Server,
        number: usize,
        options: &[&str],
    ) -> Result<Client> {
        let client = self.client_of(&server.address, number, options)?;
        server.says("Connected by ")?;
        Ok(client)
    }

    /// Starts a client of a server that there need not be yet.
    pub fn client_of(
        &self,
        address: &str,
        number: usize,
        options: &[&str],
    ) -> Result<Client> {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        // Both of its outputs in one pipe: what it says comes in order.
        let failed = |error: io::Error| format!("can't make a pipe: {error}");
        let (output, stdout) = io::pipe().map_err(failed)?;
        let stderr = stdout.try_clone().map_err(failed)?;
        let mut command = myself("client", host, port)?;
        command.arg("--quote").args(options);
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        let mut process = start(&mut command)?;
        // Its ends of the pipe are the child's alone from here on.
        drop(command);
        let input = process.0.stdin.take().ok_or("a client without input")?;
        self.clients.set(self.clients.get() + 1);
        let (name, lines) = (format!("CLIENT{number}"), lines_of(output)?);
        Ok(Client { process, name, input, lines, numbered: false, asked: 0 })
    }

    /// Has a client do something, shows its reply, and judges it.
    pub fn ask(
        &self,
        client: &mut Client,
        instruction: &str,
        expected: &str,
    ) -> Result {
        client.send(instruction)?;
        self.judge(client, instruction, &[expected])
    }

    /// Shows the reply to an instruction that was sent before; it must be one of these.
    pub fn judge(
        &self,
        client: &mut Client,
        instruction: &str,
        expected: &[&str],
    ) -> Result {
        let reply = client.receive(instruction)?;
        if !expected.contains(&&reply[..]) {
            let (name, expected) = (&client.name, short(&expected.join(" or ")));
            let instruction = short(instruction);
            return Err(format!("{name}: '{instruction}' should receive {expected}"));
        }
        self.approve(1);
        Ok(())
    }

    /// Ends a client and waits until the server has noticed.
    pub fn leave(&self, client: Client, server: &Server) -> Result {
        let name = client.close()?;
        say(&format!("{name}: Connection closed"));
        server.says("Client disconnected").map(|_| ())
    }

    /// Connects a peer and waits until the server has seen it.
    pub fn peer(&self, server: &Server, number: usize) -> Result<Peer> {
        let peer = self.uninvited_peer(server, number)?;
        server.says("Connected by ")?;
        Ok(peer)
    }

    /// Connects a peer for which the server may have no place.
    pub fn uninvited_peer(&self, server: &Server, number: usize) -> Result<Peer> {
        let peer = Peer::connect(&server.address, number)?;
        self.clients.set(self.clients.get() + 1);
        Ok(peer)
    }

    /// Sends bytes, shows what comes back, and judges it.
    pub fn talk(
        &self,
        peer: &mut Peer,
        request: impl AsRef<[u8]>,
        expected: impl AsRef<[u8]>,
    ) -> Result {
        peer.send(request.as_ref())?;
        self.hear(peer, &shown(request.as_ref()), expected)
    }

    /// Shows and judges what comes back to a request that was sent before.
    pub fn hear(
        &self,
        peer: &mut Peer,
        request: &str,
        expected: impl AsRef<[u8]>,
    ) -> Result {
        let expected = expected.as_ref();
        let reply = peer.receive(expected)?;
        let name = &peer.name;
        say(&format!("{name}: '{request}' received response: \"{}\"", shown(&reply)));
        if reply != expected {
            let expected = shown(expected);
            return Err(format!("{name}: '{request}' should receive \"{expected}\""));
        }
        self.approve(1);
        Ok(())
    }

    /// A client of the library, for a scenario that needs many requests quickly.
    pub fn library_client(&self, server: &Server) -> Result<client::Client> {
        let client = connect(&server.address)?;
        self.clients.set(self.clients.get() + 1);
        server.says("Connected by ")?;
        Ok(client)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // D2. What can't be removed is left to whoever cleans the temporary directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Connects to a server that should be there: one attempt.
pub fn connect(address: &str) -> Result<client::Client> {
    let (address, timeout) = (address.to_owned(), PATIENCE);
    let options = client::Options {
        address,
        timeout,
        retry: timeout,
        ..client::Options::default()
    };
    client::Client::connect(&options).map_err(|error| error.to_string())
}

/// A child process, which does not outlive its scenario (D2).
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended can't be killed, and that is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program, to be started once more as `role`.
pub fn myself(role: &str, host: &str, port: &str) -> Result<Command> {
    let path = std::env::current_exe()
        .map_err(|error| format!("can't tell what program this is: {error}"))?;
    let mut command = Command::new(path);
    command.arg(role).env("SERVER_HOST", host).env("SERVER_PORT", port);
    Ok(command)
}

/// Starts a child process.
pub fn start(command: &mut Command) -> Result<Process> {
    command.spawn().map(Process).map_err(|error| too_many("process", &error))
}

/// Why there is not one more process, or thread.
fn too_many(what: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::WouldBlock => {
            "; `ulimit -u` shows how many there may be: raise it, or use fewer \
             --clients"
        }
        _ => "",
    };
    format!("can't start a {what}: {error}{advice}")
}

/// The lines that a child prints, as they come. A thread reads them all the time: a
/// full pipe would stall the child, and only a channel can be waited for with patience
/// that ends.
fn lines_of(output: impl Read + Send + 'static) -> Result<Receiver<String>> {
    let (sender, lines) = mpsc::channel();
    let read = move || {
        for line in BufReader::new(output).lines().map_while(io::Result::ok) {
            // Goes on when nobody listens.
            let _ = sender.send(line);
        }
    };
    let thread = thread::Builder::new().spawn(read);
    thread.map_err(|error| too_many("thread", &error))?;
    Ok(lines)
}

/// A server: a process of ours, or one that ran already.
pub struct Server {
    /// With the lines that it prints; `None` for one that others have started.
    process: Option<(Process, Receiver<String>)>,
    /// `127.0.0.1:` and the port that the system chose.
    pub address: String,
}

impl Server {
    /// Shows what the server prints, up to the line that has `text` in it. One that
    /// others have started is believed to say it.
    pub fn says(&self, text: &str) -> Result<String> {
        let Some((_, lines)) = &self.process else { return Ok(String::new()) };
        loop {
            let line = lines.recv_timeout(PATIENCE).map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    format!("the server does not say '{text}'")
                }
                RecvTimeoutError::Disconnected => {
                    format!("the server has ended and did not say '{text}'")
                }
            })?;
            say(&line);
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Waits until nobody has been connected for so long that the server ends.
    pub fn ends_idle(mut self) -> Result {
        self.says("Timeout reached at ")?;
        self.says("Detached from ")?;
        let Some((process, _)) = &mut self.process else { return Ok(()) };
        match process.0.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the server ended with {status}")),
            Err(error) => Err(format!("the server: {error}")),
        }
    }

    /// Ends it as `kill -9` does, and waits until it is gone. Returns its port, which
    /// is free from then on.
    pub fn kill(self) -> String {
        let address = self.address.clone();
        drop(self);
        say(&format!("Server: Killed at {address}"));
        address.rsplit(':').next().unwrap_or_default().to_owned()
    }
}

/// A client process.
pub struct Client {
    process: Process,
    name: String,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Whether its lines count its instructions.
    pub numbered: bool,
    asked: usize,
}

impl Client {
    /// Gives it an instruction, or several lines.
    pub fn send(&mut self, instruction: &str) -> Result {
        let sent = writeln!(self.input, "{instruction}");
        sent.map_err(|error| format!("{} is gone: {error}", self.name))
    }

    /// The next line that it says.
    pub fn line(&mut self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("{} says nothing", self.name),
            RecvTimeoutError::Disconnected => format!("{} has ended", self.name),
        })
    }

    /// Shows and returns its reply to an instruction, and what it says before.
    pub fn receive(&mut self, instruction: &str) -> Result<String> {
        let mut reply = self.line()?;
        while let Some(note) = reply.strip_prefix("client: ") {
            say(&format!("{}: {note}", self.name));
            reply = self.line()?;
        }
        let mut nth = String::new();
        if self.numbered {
            nth = format!("{} instruction ", ordinal(self.asked));
        }
        self.asked += 1;
        say(&format!(
            "{}: {nth}'{}' received response: {}",
            self.name,
            short(instruction),
            short(&reply)
        ));
        Ok(reply)
    }

    /// Ends its input, and waits until it has ended. D1: it must have no more to say.
    pub fn close(self) -> Result<String> {
        let Client { process, name, input, lines, .. } = self;
        drop(input);
        match lines.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => {
                drop(process);
                Ok(name)
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("{name} does not end with its input"))
            }
            Ok(line) => {
                Err(format!("{name}: said more than it was asked: {}", short(&line)))
            }
        }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(self) {
        let name = self.name.clone();
        drop(self);
        say(&format!("{name}: Killed"));
    }
}

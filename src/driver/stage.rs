//! Where a scenario plays: its servers and clients, as processes, and peers that talk
//! to a server in bytes of the scenario's choice.
//!
//! | | is | waits for |
//! |---|---|---|
//! | [`Server`] | `driver server ...` | the line that says it listens |
//! | [`Client`] | `driver client --quote ...` | a line for each of its instructions |
//! | [`Peer`] | a connection of the driver's own | the bytes that must come |
//!
//! Everything that is said goes through [`say`], a line at a time, so lines of
//! different processes are never mixed. What is started here is killed when its value
//! is dropped.

use crate::client;
use crate::random::Random;
use crate::say;
use std::cell::Cell;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// How long anything may take that is waited for.
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
    directory: PathBuf,
    /// Replies that were as expected.
    pub replies: Cell<usize>,
    /// Clients and peers that took part.
    pub clients: Cell<usize>,
}

impl Stage {
    /// An empty stage, its directory among the temporary ones.
    pub fn new(options: &Options) -> io::Result<Stage> {
        let name = format!("memcached-lite-driver-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)?;
        let (replies, clients) = (Cell::new(0), Cell::new(0));
        Ok(Stage { options: options.clone(), directory, replies, clients })
    }

    /// Randomness that the seed determines, which is said.
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

    /// Starts a server on the stage's data and waits until it is ready. Against a
    /// server that runs already: empties that.
    pub fn server(&self, options: &[&str]) -> Result<Server> {
        self.server_with(options, &[])
    }

    /// The same, with variables in its environment. `--port 0` unless the options, or
    /// those variables, say otherwise.
    pub fn server_with(
        &self,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Server> {
        if let Some(address) = &self.options.against {
            let address = address.clone();
            self.library_client(&address)?
                .flush_all(0)
                .map_err(|error| format!("flush_all: {error}"))?;
            say(&format!("Server: {address}, which was flushed"));
            return Ok(Server { process: None, address });
        }
        let mut command = myself("server")?;
        if environment.is_empty() {
            command.args(["--port", "0"]);
        }
        command.args(["--idle-exit", IDLE_EXIT, "-v", "--data"]);
        command.arg(self.directory.join("data")).args(options);
        command.envs(environment.iter().copied());
        let mut child = start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = child.0.stdout.take().ok_or("a server without output")?;
        let process = Some((child, lines_of(stdout)));
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
        let (host, port) = server.address.rsplit_once(':').unwrap_or_default();
        let to = ["--host", host, "--port", port];
        let client = self.client_with(number, &[&to, options].concat(), &[])?;
        server.says("Connected by ")?;
        Ok(client)
    }

    /// Starts a client with variables in its environment.
    pub fn client_with(
        &self,
        number: usize,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Client> {
        let failed = |error: io::Error| format!("can't make a pipe: {error}");
        // Both of its outputs in one pipe: what it says comes in order.
        let (output, stdout) = io::pipe().map_err(failed)?;
        let stderr = stdout.try_clone().map_err(failed)?;
        let mut command = myself("client")?;
        command.arg("--quote").args(options).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        let mut process = start(&mut command)?;
        // Its ends of the pipe are the child's alone from here on.
        drop(command);
        let input = process.0.stdin.take().ok_or("a client without input")?;
        self.clients.set(self.clients.get() + 1);
        let (name, output) = (format!("CLIENT{number}"), BufReader::new(output));
        Ok(Client { process, name, input, output, numbered: false, asked: 0 })
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
            let (name, expected) = (&client.name, expected.join(" or "));
            return Err(format!(
                "{name}: '{}' should receive {}",
                short(instruction),
                short(&expected)
            ));
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
        let name = format!("PEER{number}");
        let failed = |error| format!("{name}: can't connect: {error}");
        let stream = TcpStream::connect(&server.address).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        // What is sent in pieces shall arrive in pieces.
        stream.set_nodelay(true).map_err(failed)?;
        self.clients.set(self.clients.get() + 1);
        Ok(Peer { stream, name })
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
    pub fn library_client(&self, address: &str) -> Result<client::Client> {
        let (address, timeout) = (address.to_owned(), PATIENCE);
        let options =
            client::Options { address, timeout, ..client::Options::default() };
        client::Client::connect(&options).map_err(|error| error.to_string())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What can't be removed is left to whoever cleans the temporary directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A child process, which does not outlive its scenario.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended can't be killed, and that is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program, to be started once more as `role`.
fn myself(role: &str) -> Result<Command> {
    let path = std::env::current_exe()
        .map_err(|error| format!("can't tell what program this is: {error}"))?;
    let mut command = Command::new(path);
    // What the environment says of servers is not about those of a scenario.
    command.arg(role).env_remove("SERVER_HOST").env_remove("SERVER_PORT");
    Ok(command)
}

fn start(command: &mut Command) -> Result<Process> {
    command.spawn().map(Process).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            format!(
                "can't start a process: {error}; `ulimit -u` shows how many there may \
                 be: raise it, or use fewer --clients"
            )
        }
        _ => format!("can't start a process: {error}"),
    })
}

/// The lines that a child prints, as they come.
fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(io::Result::ok) {
            // Goes on when nobody listens: a full pipe would stall the server.
            let _ = sender.send(line);
        }
    });
    lines
}

/// A server: a process of ours, or one that ran already.
pub struct Server {
    /// With the lines that it prints; `None` for one that others have started.
    process: Option<(Process, Receiver<String>)>,
    /// `127.0.0.1:` and the port that the system chose.
    pub address: String,
}

impl Server {
    /// Its port.
    pub fn port(&self) -> &str {
        self.address.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// Shows what the server prints, up to the line that has `text` in it. One that
    /// others have started is believed to say it.
    pub fn says(&self, text: &str) -> Result<String> {
        let Some((_, lines)) = &self.process else { return Ok(String::new()) };
        loop {
            let line = lines
                .recv_timeout(PATIENCE)
                .map_err(|_| format!("the server did not say '{text}'"))?;
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

    /// Ends it as `kill -9` does, and waits until it is gone.
    pub fn kill(self) {
        let address = self.address.clone();
        drop(self);
        say(&format!("Server: Killed at {address}"));
    }
}

/// A client process.
pub struct Client {
    process: Process,
    name: String,
    input: ChildStdin,
    output: BufReader<PipeReader>,
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
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err(format!("{} has ended", self.name)),
            Ok(_) => Ok(line.trim_end_matches('\n').to_owned()),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
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

    /// Ends its input, and waits until it has ended.
    pub fn close(mut self) -> Result<String> {
        drop(self.input);
        self.process.0.wait().map_err(|error| format!("{}: {error}", self.name))?;
        Ok(self.name)
    }

    /// Ends it as `kill -9` does.
    pub fn kill(self) {
        let name = self.name.clone();
        drop(self);
        say(&format!("{name}: Killed"));
    }
}

/// A connection whose bytes are the scenario's own.
pub struct Peer {
    stream: TcpStream,
    name: String,
}

impl Peer {
    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result {
        let sent = self.stream.write_all(bytes);
        sent.map_err(|error| format!("{}: can't send: {error}", self.name))
    }

    /// As many bytes as are expected; fewer if the connection ends, or as soon as they
    /// differ.
    fn receive(&mut self, expected: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; expected.len()];
        let mut len = 0;
        while len < bytes.len() && expected.starts_with(&bytes[..len]) {
            match self.stream.read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) => {
                    return Err(format!(
                        "{}: waiting for \"{}\": {error}",
                        self.name,
                        shown(&expected[len..])
                    ));
                }
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Whether nothing has come yet that was not expected.
    pub fn is_silent(&self) -> Result<bool> {
        let failed = |error| format!("{}: {error}", self.name);
        self.stream.set_nonblocking(true).map_err(failed)?;
        let silent = match self.stream.peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) => return Err(failed(error)),
            Ok(_) => false,
        };
        self.stream.set_nonblocking(false).map_err(failed)?;
        Ok(silent)
    }

    /// Says that it will send no more; the server closes without another byte.
    pub fn leave(mut self, server: &Server) -> Result {
        // It may have been closed from the other side.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.is_closed()?;
        say(&format!("{}: Connection closed", self.name));
        server.says("Client disconnected").map(|_| ())
    }

    /// Waits until the server closes the connection; it must not say anything before.
    pub fn is_closed(&mut self) -> Result {
        match self.stream.read(&mut [0; 80]) {
            // What was sent to a server that closes may come back as a reset.
            Ok(0) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => Err(format!("{}: received more than it asked for", self.name)),
            Err(error) => Err(format!("{}: should be closed: {error}", self.name)),
        }
    }
}

/// What clients print for `STORED` and for a miss.
pub const STORED: &str = r#""STORED\r\n""#;
/// See [`STORED`].
pub const KEY_NOT_FOUND: &str = r#""KEY NOT FOUND\r\n""#;

/// A value as clients print it.
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", value.escape_default())
}

/// The longest text that is shown whole.
const MAX_SHOWN: usize = 300;

/// Bytes as a line shows them.
fn shown(bytes: &[u8]) -> String {
    // Four characters at most for each of them; escaping a MiB to show little of it
    // would be a waste.
    if bytes.len() <= MAX_SHOWN {
        return bytes.escape_ascii().to_string();
    }
    let head = bytes[..60].escape_ascii();
    format!("{head}... ({} bytes)", bytes.len())
}

/// Text as a line shows it.
fn short(text: &str) -> String {
    match text.len() {
        ..=MAX_SHOWN => text.to_owned(),
        len => {
            format!("{}... ({len} bytes)", text.chars().take(60).collect::<String>())
        }
    }
}

fn ordinal(number: usize) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

//! Scenarios: starts servers and clients as real processes, shows who said what, and
//! judges it.
//!
//! The children are this program itself, started anew as `driver server ...` and
//! `driver client ...`, so that a scenario runs where cargo has built the driver
//! alone. A client child reads instructions from its standard input and prints each
//! reply, quoted, on a line; so the driver can hold the clients of a scenario to any
//! order, and nothing waits by sleeping. A server child exits by itself when nobody
//! has been connected for a while, so none outlives its driver for long.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// How long a child may take to say what it is expected to say.
const PATIENCE: Duration = Duration::from_secs(20);

/// `--idle-exit` of the scenarios' servers, in seconds.
const IDLE_EXIT: &str = "3";

/// Something that the driver shows and judges.
pub struct Scenario {
    /// Its number, for `--test`.
    pub number: u32,
    /// What it is about.
    pub title: &'static str,
    play: fn(&mut Stage) -> Result<(), String>,
}

/// All scenarios, in order.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        number: 1,
        title: "three clients, well-formed requests",
        play: three_clients,
    },
    Scenario {
        number: 2,
        title: "one client, dozens of requests quickly; some keys don't exist",
        play: dozens_of_requests,
    },
    Scenario {
        number: 3,
        title: "keys of 60 and of 251 bytes where KEY_SIZE is 60",
        play: long_keys,
    },
    Scenario {
        number: 4,
        title: "a missing key, and a request that only looks malformed",
        play: looks_malformed,
    },
];

/// Plays a scenario and prints its verdict. False if something was not as it should
/// be.
pub fn run(scenario: &Scenario) -> bool {
    let number = scenario.number;
    println!("Beginning test {number}");
    let mut stage = match Stage::new() {
        Ok(stage) => stage,
        Err(error) => {
            println!("test {number}: FAILED: no temporary directory: {error}");
            return false;
        }
    };
    match (scenario.play)(&mut stage) {
        Ok(()) => {
            let Stage { replies, clients, .. } = stage;
            let s = if clients == 1 { "" } else { "s" };
            println!(
                "test {number}: ok: {replies} replies as expected, {clients} client{s}"
            );
            true
        }
        Err(what) => {
            println!("test {number}: FAILED: {what}");
            false
        }
    }
}

fn three_clients(stage: &mut Stage) -> Result<(), String> {
    let server = stage.server(&[])?;
    for (number, age) in [(1, "5"), (2, "10"), (3, "15")] {
        let mut client = stage.client(&server, number, Numbered::No, &[])?;
        for (key, value) in [("name", "John Doe"), ("age", age), ("name", "Jane Doe")] {
            stage.ask(&mut client, &format!("set {key} {value}"), STORED)?;
            stage.ask(&mut client, &format!("get {key}"), &quoted(value))?;
        }
        stage.leave(client, &server)?;
    }
    server.ends_idle()
}

fn dozens_of_requests(stage: &mut Stage) -> Result<(), String> {
    let server = stage.server(&[])?;
    let mut client = stage.client(&server, 1, Numbered::Yes, &[])?;
    for i in 80..100 {
        let set = format!("set len(collatz({i})) {}", collatz_len(i));
        stage.ask(&mut client, &set, STORED)?;
    }
    for i in 90..102 {
        let expected = match i {
            ..100 => quoted(&collatz_len(i).to_string()),
            _ => KEY_NOT_FOUND.into(),
        };
        stage.ask(&mut client, &format!("get len(collatz({i}))"), &expected)?;
    }
    stage.leave(client, &server)?;
    server.ends_idle()
}

/// How many steps of "halve it if even, else triple it and add one" lead to 1.
fn collatz_len(mut number: u64) -> u64 {
    let mut steps = 0;
    while number != 1 {
        number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
        steps += 1;
    }
    steps
}

fn long_keys(stage: &mut Stage) -> Result<(), String> {
    let server = stage.server(&["--key-size", "60"])?;
    let (fitting, long) = ("k".repeat(60), "k".repeat(251));
    let mut client = stage.client(&server, 1, Numbered::Yes, &["--key-size", "60"])?;
    stage.ask(&mut client, &format!("set {fitting} sixty bytes"), STORED)?;
    stage.ask(&mut client, &format!("get {fitting}"), &quoted("sixty bytes"))?;
    // The client knows better than to send this.
    let refusal = "error: a key of 251 bytes is longer than 60, the key size";
    stage.ask(&mut client, &format!("set {long} too long"), refusal)?;
    stage.ask(&mut client, &format!("get {long}"), refusal)?;
    stage.leave(client, &server)?;
    // This one doesn't, and is told by the server.
    let mut client = stage.client(&server, 2, Numbered::Yes, &["--key-size", "251"])?;
    let refusal = "error: CLIENT_ERROR bad command line format";
    stage.ask(&mut client, &format!("set {long} too long"), refusal)?;
    stage.ask(&mut client, &format!("get {long}"), refusal)?;
    stage.ask(&mut client, &format!("get {fitting}"), &quoted("sixty bytes"))?;
    stage.leave(client, &server)?;
    server.ends_idle()
}

fn looks_malformed(stage: &mut Stage) -> Result<(), String> {
    let server = stage.server(&[])?;
    let mut client = stage.client(&server, 1, Numbered::Yes, &[])?;
    stage.ask(&mut client, "get key", KEY_NOT_FOUND)?;
    // Cut in the wrong place, this is `set key`, and `value` left over.
    stage.ask(&mut client, "set keyvalue key value", STORED)?;
    stage.ask(&mut client, "get keyvalue", &quoted("key value"))?;
    stage.ask(&mut client, "get key", KEY_NOT_FOUND)?;
    stage.leave(client, &server)?;
    server.ends_idle()
}

const STORED: &str = r#""STORED\r\n""#;
const KEY_NOT_FOUND: &str = r#""KEY NOT FOUND\r\n""#;

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.escape_default())
}

/// Where a scenario plays: a data directory, and a count of what went well.
struct Stage {
    data: PathBuf,
    replies: u32,
    clients: u32,
}

impl Stage {
    fn new() -> io::Result<Stage> {
        let name = format!("memcached-lite-driver-{}", std::process::id());
        let data = std::env::temp_dir().join(name);
        fs::create_dir(&data)?;
        Ok(Stage { data, replies: 0, clients: 0 })
    }

    /// Starts a server and waits until it is ready.
    fn server(&self, options: &[&str]) -> Result<ServerChild, String> {
        let data = self.data.join("data");
        let mut child = start(|command| {
            command
                .args([
                    "server",
                    "--port",
                    "0",
                    "--idle-exit",
                    IDLE_EXIT,
                    "-v",
                    "--data",
                ])
                .arg(data)
                .args(options)
                .stdin(Stdio::null())
        })?;
        let stdout = child.0.stdout.take().ok_or("a server without output")?;
        let mut server =
            ServerChild { child, lines: lines_of(stdout), address: String::new() };
        let ready = server.says("Listening on ")?;
        let address = ready.rsplit(' ').next().unwrap_or_default();
        server.address = address.trim_end_matches('.').to_owned();
        Ok(server)
    }

    /// Starts a client and waits until the server has seen it.
    fn client(
        &mut self,
        server: &ServerChild,
        number: u32,
        numbered: Numbered,
        options: &[&str],
    ) -> Result<ClientChild, String> {
        let (host, port) = server.address.rsplit_once(':').unwrap_or_default();
        let mut child = start(|command| {
            command
                .args(["client", "--quote", "--host", host, "--port", port])
                .args(options)
                .stdin(Stdio::piped())
        })?;
        let name = format!("CLIENT{number}");
        let (stdin, stdout) = (child.0.stdin.take(), child.0.stdout.take());
        let replies = stdout.map(BufReader::new).ok_or("a client without output")?;
        let requests = stdin.ok_or("a client without input")?;
        server.says("Connected by ")?;
        self.clients += 1;
        Ok(ClientChild { child, name, requests, replies, numbered, asked: 0 })
    }

    /// Has a client send a request, shows its reply, and judges it.
    fn ask(
        &mut self,
        client: &mut ClientChild,
        instruction: &str,
        expected: &str,
    ) -> Result<(), String> {
        let mut reply = String::new();
        writeln!(client.requests, "{instruction}")
            .and_then(|()| client.replies.read_line(&mut reply))
            .map_err(|error| format!("{} is gone: {error}", client.name))?;
        let reply = reply.trim_end_matches('\n');
        let name = &client.name;
        match client.numbered {
            Numbered::No => {
                println!("{name}: '{instruction}' received response: {reply}")
            }
            Numbered::Yes => {
                let nth = ordinal(client.asked);
                println!(
                    "{name}: {nth} instruction '{instruction}' received response: {reply}"
                );
            }
        }
        client.asked += 1;
        if reply != expected {
            return Err(format!("{name}: '{instruction}' should receive {expected}"));
        }
        self.replies += 1;
        Ok(())
    }

    /// Ends a client and waits until the server has noticed.
    fn leave(
        &self,
        mut client: ClientChild,
        server: &ServerChild,
    ) -> Result<(), String> {
        drop(client.requests);
        client.child.0.wait().map_err(|error| format!("{}: {error}", client.name))?;
        println!("{}: Connection closed", client.name);
        server.says("Client disconnected").map(|_| ())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What can't be removed is left to whoever cleans the temporary directory.
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// Whether a client's lines count its requests.
#[derive(Clone, Copy, PartialEq)]
enum Numbered {
    No,
    Yes,
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
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

/// Starts this program once more, as `set_up` says.
fn start(set_up: impl FnOnce(&mut Command) -> &mut Command) -> Result<Process, String> {
    let myself = std::env::current_exe()
        .map_err(|error| format!("can't tell what program this is: {error}"))?;
    let mut command = Command::new(myself);
    // What the environment says of servers is not about those of a scenario.
    command.env_remove("SERVER_HOST").env_remove("SERVER_PORT").stdout(Stdio::piped());
    let child = set_up(&mut command).spawn();
    child.map(Process).map_err(|error| format!("can't start a process: {error}"))
}

/// The lines that a child prints, as they come.
fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

struct ServerChild {
    child: Process,
    lines: Receiver<String>,
    /// `127.0.0.1:` and the port that the system chose.
    address: String,
}

impl ServerChild {
    /// Shows what the server prints, up to the line that has `text` in it.
    fn says(&self, text: &str) -> Result<String, String> {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .map_err(|_| format!("the server did not say '{text}'"))?;
            println!("{line}");
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Waits until nobody has been connected for so long that the server ends.
    fn ends_idle(mut self) -> Result<(), String> {
        self.says("Timeout reached at ")?;
        self.says("Detached from ")?;
        match self.child.0.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the server ended with {status}")),
            Err(error) => Err(format!("the server: {error}")),
        }
    }
}

struct ClientChild {
    child: Process,
    name: String,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
    numbered: Numbered,
    asked: u32,
}

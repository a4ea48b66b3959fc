//! Where a scene is played: its server, its clients, its connections, and the directory of
//! its data.
//!
//! The processes are this program itself, started again as `driver server ...` and
//! `driver client ...`, so that a scene can be played where cargo has built the driver alone.

use crate::driver::actor::{Actor, Result};
use crate::driver::random::Random;
use crate::driver::text::Numbers;
use crate::print;
use crate::store::disk::{Directory, Disk};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

const LISTENING: &str = "Listening on ";

/// What `server --auth-file {logins}` finds in that file.
const LOGINS: &[u8] = b"user:password\nother:with:colons\n";

/// How scripts are played.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many clients come at once in scenario 6.
    pub clients: usize,
    /// `host:port`, or the path of a socket, of a server that is running and is used in the
    /// place of ours. All its data is removed.
    pub against: Option<String>,
    /// A program that is started in the place of our server.
    pub server: Option<PathBuf>,
    /// Scenes in which an older memcached answers differently are not played.
    pub skip_ours: bool,
    /// Prints who sent what.
    pub is_shown: bool,
}

/// See the page above.
pub struct Stage<'a> {
    /// How it is played.
    pub options: &'a Options,
    directory: PathBuf,
    /// Where the server listens, or will listen; empty before that is known.
    pub address: String,
    /// Processes as `server` and `client N`, connections by their names.
    pub actors: BTreeMap<String, Actor>,
    /// The name of the current connection.
    pub current: String,
    /// The clients' commands are shown with a number.
    pub is_numbered: bool,
    /// Taken from replies.
    pub numbers: Numbers,
    /// Replies that were as expected.
    pub replies: usize,
    /// Clients and connections that took part.
    pub clients: usize,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // D2. What can't be removed is left to whoever cleans the temporary directory.
        self.actors.clear();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl<'a> Stage<'a> {
    /// An empty stage, its directory among the temporary ones.
    pub fn new(options: &'a Options) -> Result<Stage<'a>> {
        // Not the process id: a driver that was killed leaves its directory behind,
        // and its id comes back.
        let name = format!("memcached-lite-driver-{}", Random::seed());
        let directory = std::env::temp_dir().join(name);
        let made = fs::create_dir(&directory).and_then(|()| {
            // Its owner alone may read it, as a server requires.
            let disk = Directory::at(&directory)?;
            disk.write(&disk.open("logins", true)?, LOGINS, 0)
        });
        made.map_err(|error| format!("no temporary directory: {error}"))?;
        Ok(Stage {
            options,
            directory,
            address: options.against.clone().unwrap_or_default(),
            actors: BTreeMap::new(),
            current: "main".into(),
            is_numbered: false,
            numbers: Numbers::new(),
            replies: 0,
            clients: 0,
        })
    }

    /// Prints a line, if lines are shown.
    pub fn show(&self, line: &str) {
        if self.options.is_shown {
            print(line);
        }
    }

    /// Starts a server on the stage's data and waits until it listens: where the one before
    /// did, or at a port that the system chooses. One that is running already is emptied.
    pub fn start_server(&mut self, options: &[String]) -> Result {
        if self.options.against.is_some() {
            return self.empty();
        }
        let mut command = match &self.options.server {
            Some(path) => Command::new(path),
            None => {
                let mut command = myself("server")?;
                let limit = (self.options.clients + 64).max(1024).to_string();
                command.args(["-v", "--conn-limit", &limit]);
                command
            }
        };
        let port = self.address.rsplit(':').next().filter(|port| !port.is_empty());
        command.args(["--port", port.unwrap_or("0"), "--idle-exit", "3"]);
        command.arg("--data").arg(self.directory.join("data"));
        let path = self.directory.join("logins").display().to_string();
        command.args(options.iter().map(|it| it.replace("{logins}", &path)));
        command.env("SERVER_HOST", "127.0.0.1");
        self.actors.insert("server".into(), Actor::start("server", command)?);
        let line = self.prints("server", LISTENING)?;
        let address = line.rsplit(' ').next().unwrap_or_default();
        self.address = address.trim_end_matches('.').to_owned();
        Ok(())
    }

    /// Removes all data of a server, whatever its dialect; one that requires a login gets that
    /// of the tests.
    fn empty(&self) -> Result {
        let mut server = Actor::connect("server", &self.address)?;
        let login = "set login 0 0 13\r\nuser password";
        let mut reply = String::new();
        for request in ["flush_all", "delete", login, "flush_all"] {
            server.send(format!("{request}\r\n").as_bytes())?;
            // A proxy has no words for it: then whoever started it has to do it.
            let Some(line) = server.line()? else { return Ok(()) };
            reply = line;
            if reply.starts_with("OK") || reply.starts_with("DELETED") {
                return Ok(());
            }
        }
        Err(format!("flush_all should receive \"OK\\r\\n\", received \"{reply}\""))
    }

    /// Shows what a process prints, up to the line that has `text` in it, and returns that.
    /// Nobody else's server is expected to print anything but where it listens.
    pub fn prints(&mut self, name: &str, text: &str) -> Result<String> {
        let is_expected = name != "server" || self.options.server.is_none();
        let is_expected = is_expected || text == LISTENING;
        while let Some(process) = self.actors.get_mut(name).filter(|_| is_expected) {
            let line = process.line()?;
            let line =
                line.ok_or_else(|| process.named(format!("did not print {text:?}")))?;
            let note = line.strip_prefix("client: ");
            let shown = note.map(|note| process.named(note));
            // Without what only matters to a server's operator.
            let shown = shown.as_ref().unwrap_or(&line);
            self.show(shown.split(", connection ").next().unwrap_or_default());
            if line.contains(text) {
                return Ok(line);
            }
        }
        Ok(String::new())
    }

    /// Starts a client process. If there is a server, waits until it is connected.
    pub fn start_client(&mut self, name: &str, options: &[String]) -> Result {
        if self.address.is_empty() {
            // A port that was free a moment ago: the kernel hands out others before it
            // hands out the same again.
            let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
            self.address =
                free.map_err(|error| format!("no port: {error}"))?.to_string();
        }
        let mut command = myself("client")?;
        match self.address.rsplit_once(':') {
            Some((host, port)) if !port.contains('/') => {
                command.env("SERVER_HOST", host).env("SERVER_PORT", port)
            }
            _ => command.args(["--unix-socket", &self.address]),
        };
        command.arg("--quote").args(options);
        self.actors.insert(name.into(), Actor::start(name, command)?);
        self.clients += 1;
        self.prints("server", "Connected by ").map(drop)
    }

    /// Connects, if there is no connection of that name. A server of ours says when it
    /// serves it, and only then the script continues: unless it may be queued.
    pub fn connect(&mut self, name: &str, is_queued: bool) -> Result {
        if self.actors.contains_key(name) {
            return Ok(());
        }
        self.actors.insert(name.into(), Actor::connect(name, &self.address)?);
        self.clients += 1;
        if is_queued {
            return Ok(());
        }
        self.prints("server", "Connected by ").map(drop)
    }

    /// Ends a process as `kill -9` does.
    pub fn kill(&mut self, name: &str) -> Result {
        let killed =
            self.actors.remove(name).ok_or_else(|| format!("no {name} runs"))?;
        self.show(&format!("{}: Killed", killed.name));
        drop(killed);
        // A server that has been killed says nothing.
        self.prints("server", "Client disconnected").map(drop)
    }
}

/// This program, to be started again as `role`.
fn myself(role: &str) -> Result<Command> {
    let path = std::env::current_exe();
    let path =
        path.map_err(|error| format!("can't tell what program this is: {error}"))?;
    let mut command = Command::new(path);
    command.arg(role);
    Ok(command)
}

//! Who takes part in a script: a connection whose bytes are the script's own, a client
//! process, a server process. What each sends and prints goes through a socket of its own,
//! so that all are heard in one way: byte by byte, and with a timeout.
//!
//! Nothing is waited for longer than [`TIMEOUT`]: a program that hangs fails its script,
//! and doesn't hang the driver.

use crate::driver::text::{Agreement, Numbers, Text, compare, fill_in, unescape};
use crate::protocol::words::shown;
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::Duration;

/// How long anything may take that is waited for. Far more than it needs, so that a
/// busy machine fails no script.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// How a step ends: the error is the verdict's text.
pub type Result<T = ()> = std::result::Result<T, String>;

/// See the page above.
pub struct Actor {
    /// `PEER1`, `CLIENT1`, `SERVER`.
    pub name: String,
    /// Also that of a process, and one of the file system: they are used like one of TCP.
    stream: TcpStream,
    /// Does not outlive its script (D2).
    process: Option<Child>,
    /// Received and not yet compared with anything.
    received: Vec<u8>,
    /// Sent, and not yet answered.
    pub asked: Vec<Vec<u8>>,
    /// How many replies have come.
    pub answered: usize,
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // One that has ended can't be killed, which is fine.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Actor {
    fn new(name: &str, stream: TcpStream, process: Option<Child>) -> io::Result<Actor> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        // What is sent in pieces shall arrive in pieces. Only TCP knows this option.
        let _ = stream.set_nodelay(true);
        let name = name.to_uppercase().replace(' ', "");
        let (received, asked) = (Vec::new(), Vec::new());
        Ok(Actor { name, stream, process, received, asked, answered: 0 })
    }

    /// Connects to `host:port`, or to a socket by its path.
    pub fn connect(name: &str, address: &str) -> Result<Actor> {
        let opened = match address.contains('/') {
            true => UnixStream::connect(address).map(|it| OwnedFd::from(it).into()),
            false => TcpStream::connect(address),
        };
        let actor = opened.and_then(|stream| Actor::new(name, stream, None));
        actor.map_err(|error| format!("{name}: can't connect to {address}: {error}"))
    }

    /// Starts a process, whose standard input, output and error are the socket.
    pub fn start(name: &str, mut command: Command) -> Result<Actor> {
        let started = UnixStream::pair().and_then(|(near, far)| {
            let far = OwnedFd::from(far);
            command.stdin(far.try_clone()?).stderr(far.try_clone()?).stdout(far);
            let process = command.spawn()?;
            // The far end is the child's alone from here on.
            drop(command);
            Actor::new(name, OwnedFd::from(near).into(), Some(process))
        });
        started.map_err(|error| {
            format!("can't start {name}: {error}; `ulimit -u` and `-n` show what there may be")
        })
    }

    /// An error's text, with whom it is about.
    pub fn named(&self, what: impl Display) -> String {
        format!("{}: {what}", self.name)
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result {
        self.asked.push(bytes.into());
        match self.stream.write_all(bytes) {
            // The other side has closed before it had read all of it. Whether it was right
            // to, the next step will show.
            Err(error) if !is_closed(&error) => Err(self.named(error)),
            _ => Ok(()),
        }
    }

    /// Waits for one of these texts. Returns what was sent and is answered by it, and what
    /// came, both as a person reads them.
    pub fn receive(
        &mut self,
        texts: &[Text],
        numbers: &mut Numbers,
    ) -> Result<(String, String)> {
        // A client answers one command after the other, each with a line.
        let is_client = self.process.is_some();
        let count = if is_client { 1 } else { usize::MAX }.min(self.asked.len());
        let asked: Vec<u8> = self.asked.drain(..count).flatten().collect();
        let show = |bytes: &[u8]| match bytes.strip_suffix(b"\n").filter(|_| is_client)
        {
            Some(line) => shown(line),
            None => shown(bytes),
        };
        // Only here: a verdict also says what was expected of a client that says nothing.
        let unquoted = if is_client { self.unquote() } else { Ok(()) };
        loop {
            let mut may_come = false;
            for text in texts {
                match compare(text, &self.received, numbers) {
                    Agreement::Whole(used) => {
                        let received: Vec<u8> = self.received.drain(..used).collect();
                        return Ok((show(&asked), show(&received)));
                    }
                    Agreement::SoFar => may_come = true,
                    Agreement::No => {}
                }
            }
            let mut more = || unquoted.clone().and_then(|()| self.read_some());
            let why = match may_come.then(&mut more) {
                Some(Ok(count)) if count > 0 => continue,
                Some(Ok(_)) => " and then the end".into(),
                Some(Err(error)) => format!(" and then {error}"),
                None => String::new(),
            };
            let (asked, received) = (show(&asked), show(&self.received));
            let expected = texts.iter().map(|text| show(&fill_in(text, numbers)));
            let expected = expected.collect::<Vec<_>>().join("\" or \"");
            return Err(self.named(format!(
                "'{asked}' should receive \"{expected}\", received \"{received}\"{why}"
            )));
        }
    }

    /// Takes the quotes from a client's next reply, and drops the notes before it.
    fn unquote(&mut self) -> Result {
        let mut line = "client: ".to_owned();
        while line.starts_with("client: ") {
            line = self.line()?.ok_or("the end")?;
        }
        let quoted = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let reply = unescape(quoted.unwrap_or(&line)).map_err(|why| self.named(why))?;
        self.received.splice(..0, reply.into_iter().chain([b'\n']));
        Ok(())
    }

    /// The next line, without its end; `None` after the last. What is not UTF-8 in it is
    /// replaced: a server prints text, and a client escapes what is not.
    pub fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.read_some().map_err(|why| self.named(why))? == 0 {
                return Ok(None);
            }
        }
    }

    /// Counts lines until the other side closes. A last one that was cut short is none.
    pub fn count(&mut self, expected: &str) -> Result<usize> {
        let mut count = 0;
        while let Some(line) = self.line()? {
            if line != expected {
                let why = format!("should receive {expected}, received {line}");
                return Err(self.named(why));
            }
            count += 1;
        }
        self.received.clear();
        Ok(count)
    }

    /// Closes our sending side: a process reads the end of its input.
    pub fn shutdown(&mut self) {
        // It may have been closed from the other side.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Waits until the other side closes. D1: nothing may come before.
    pub fn closed(&mut self) -> Result {
        // One byte more is one too many, so one read is enough.
        if self.received.is_empty()
            && self.read_some().map_err(|why| self.named(why))? == 0
        {
            return Ok(());
        }
        Err(self.named(format!("should end, received \"{}\"", shown(&self.received))))
    }

    /// Waits for more bytes and returns how many came, none at the end.
    fn read_some(&mut self) -> Result<usize> {
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(count)
            }
            Err(error) if is_closed(&error) => Ok(0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(format!("nothing for {} seconds", TIMEOUT.as_secs()))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Whether the other side has closed. One that closes while it has input unread resets
/// the connection; to a client, that is closed too.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

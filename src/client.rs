//! A client of any memcached, as a library: one method a command.
//!
//! [`Client`] sends one request and waits for its answer.
//!
//! - K1: nothing is sent that can't be a request. Keys and values are checked before,
//!   so a mistake costs no round trip and can't put the connection out of step.
//! - K2: after an error of the connection, or an answer that is none, the connection
//!   is not used again. [`ClientError::is_fatal`] says so; its holder connects anew.
//!
//! Left out: pipelining and `noreply`, which need a caller that can live with errors
//! that come late; and choosing among several servers, which a proxy does better.

use crate::auth::Login;
use crate::dialect::{Dialect, INVALID_REQUEST};
use crate::protocol::{MAX_LENGTH, Request, Retrieval, Topic, Verb};
use crate::reply::{Reply, ValueLine};
use crate::words::{Words, printable};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`.
    pub address: String,
    /// How long to go on trying to connect, and to wait for each answer.
    pub timeout: Duration,
    /// The pause between two attempts to connect.
    pub retry: Duration,
    /// The longest key that is sent, in bytes: the server's KEY_SIZE.
    pub key_size: usize,
    /// How requests and replies are worded.
    pub dialect: Dialect,
    /// Shown on each connection before anything else, if the server wants one.
    pub login: Option<Login>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            address: "127.0.0.1:11211".into(),
            timeout: Duration::from_secs(10),
            retry: Duration::from_secs(5),
            key_size: 250,
            dialect: Dialect::Memcached,
            login: None,
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub enum ClientError {
    /// The key can't be sent: this is what is wrong with it. Nothing was sent.
    Key(String),
    /// The dialect has no words for this, or none for so large a value. Nothing was
    /// sent.
    Dialect,
    /// The value is longer than the protocol allows, in bytes. Nothing was sent.
    Value(usize),
    /// Nobody answered at this address until the timeout.
    Connect(String, io::Error),
    /// The server has closed the connection.
    Closed,
    /// The connection failed, or an answer did not come in time.
    Io(io::Error),
    /// The server refused: its line, `ERROR` or what begins with `CLIENT_ERROR`.
    Refused(String),
    /// The server could not do it: what its line says behind `SERVER_ERROR`.
    Server(String),
    /// This is no answer to what was asked.
    Unexpected(String),
}

impl ClientError {
    /// K2: whether the connection is of no more use. A refusal is an answer, whole and
    /// in its place; what was never sent has none to wait for.
    pub fn is_fatal(&self) -> bool {
        use ClientError::{Dialect, Key, Refused, Server, Value};
        !matches!(self, Key(_) | Dialect | Value(_) | Refused(_) | Server(_))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ClientError::Key(why) => f.write_str(why),
            ClientError::Dialect => {
                write!(f, "this can't be said in the dialect that was chosen")
            }
            ClientError::Value(len) => {
                write!(f, "a value of {len} bytes is longer than {MAX_LENGTH}")
            }
            ClientError::Connect(address, error) => {
                write!(f, "can't connect to {address}: {error}")
            }
            ClientError::Closed => write!(f, "the server has closed the connection"),
            ClientError::Io(error) if is_timeout(error) => {
                write!(f, "the server did not answer in time")
            }
            ClientError::Io(error) => write!(f, "the connection failed: {error}"),
            // What the server says may end on a terminal.
            ClientError::Refused(line) => f.write_str(&printable(line.as_bytes())),
            ClientError::Server(why) => {
                write!(f, "the server failed: {}", printable(why.as_bytes()))
            }
            ClientError::Unexpected(line) => {
                write!(f, "the server gave an answer that is none: {line:?}")
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Io(error)
    }
}

/// What a socket's read timeout is reported as hangs on the system.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What an attempt to connect has at least.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// The most that an answer's line may have, in bytes.
const MAX_LINE: u64 = 1 << 17;

/// What [`Client::get`] and its kin return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Vec<u8>,
    /// 32 bits of whoever stored it.
    pub flags: u32,
    /// For `cas`; only `gets` and `gats` ask for it.
    pub unique: Option<u64>,
    /// The value.
    pub value: Vec<u8>,
}

/// What became of a [`Client::cas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cas {
    /// It is stored.
    Stored,
    /// The item has changed since its unique was read.
    Exists,
    /// There is no such item.
    NotFound,
}

type Result<T> = std::result::Result<T, ClientError>;

/// A connection to a server. See the module's page.
///
/// Exptimes are as on the wire: 0 is for ever, up to 30 days are seconds from now,
/// more is a date in Unix seconds, and what is negative has expired.
pub struct Client {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
    key_size: usize,
    dialect: Dialect,
}

impl Client {
    /// Connects, trying again every [`Options::retry`] until [`Options::timeout`] is
    /// used up: the server may be about to start.
    pub fn connect(options: &Options) -> Result<Client> {
        Client::connect_with(options, |_| ())
    }

    /// The same, and `retrying` hears why an attempt failed after which there will be
    /// another: a library does not print.
    pub fn connect_with(
        options: &Options,
        mut retrying: impl FnMut(&ClientError),
    ) -> Result<Client> {
        let deadline = Instant::now() + options.timeout;
        loop {
            let error = match Client::attempt(options, deadline) {
                Ok(mut client) => {
                    if let Some(login) = &options.login {
                        client.log_in(login)?;
                    }
                    return Ok(client);
                }
                Err(error) => ClientError::Connect(options.address.clone(), error),
            };
            if Instant::now() + options.retry >= deadline {
                return Err(error);
            }
            retrying(&error);
            thread::sleep(options.retry);
        }
    }

    fn attempt(options: &Options, deadline: Instant) -> io::Result<Client> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in options.address.to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now());
            // No time at all would be an error of another kind.
            match TcpStream::connect_timeout(&address, left.max(LEAST_WAIT)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(options.timeout))?;
                    stream.set_write_timeout(Some(options.timeout))?;
                    let stream = BufReader::new(stream);
                    let Options { key_size, dialect, .. } = *options;
                    let request = Vec::new();
                    return Ok(Client { stream, request, key_size, dialect });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A login is shown only where one is wanted: any other server would keep it, as a
    /// value.
    fn log_in(&mut self, login: &Login) -> Result<()> {
        match self.version() {
            Err(ClientError::Refused(_)) => {}
            answered => return answered.map(|_| ()),
        }
        match self.ask(Request::Authenticate(login.as_bytes()))? {
            Reply::Stored => Ok(()),
            other => unexpected(&other),
        }
    }

    /// The item under `key`.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        Ok(self.retrieve(&[key], false, None)?.pop())
    }

    /// The item under `key`, with its unique.
    pub fn gets(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        Ok(self.retrieve(&[key], true, None)?.pop())
    }

    /// The items there are under `keys`, in the order in which the server gives them:
    /// ours and memcached keep that of the keys.
    pub fn get_many(&mut self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Item>> {
        self.retrieve(keys, false, None)
    }

    /// The item under `key`, which gets a new exptime.
    pub fn gat(&mut self, key: impl AsRef<[u8]>, exptime: i64) -> Result<Option<Item>> {
        Ok(self.retrieve(&[key], false, Some(exptime))?.pop())
    }

    /// The item under `key`, which gets a new exptime, with its unique.
    pub fn gats(
        &mut self,
        key: impl AsRef<[u8]>,
        exptime: i64,
    ) -> Result<Option<Item>> {
        Ok(self.retrieve(&[key], true, Some(exptime))?.pop())
    }

    /// Stores a value, whatever is there.
    pub fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        flags: u32,
        exptime: i64,
    ) -> Result<()> {
        let reply = self.store(Verb::Set, key, value, flags, exptime, 0)?;
        if reply == Reply::Stored { Ok(()) } else { unexpected(&reply) }
    }

    /// Stores a value if there is none; false if there is one.
    pub fn add(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        flags: u32,
        exptime: i64,
    ) -> Result<bool> {
        stored(self.store(Verb::Add, key, value, flags, exptime, 0)?)
    }

    /// Stores a value if there is one; false if there is none.
    pub fn replace(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        flags: u32,
        exptime: i64,
    ) -> Result<bool> {
        stored(self.store(Verb::Replace, key, value, flags, exptime, 0)?)
    }

    /// Puts `value` behind the one that is there; false if there is none, or the two
    /// are too large together.
    pub fn append(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool> {
        stored(self.store(Verb::Append, key, value, 0, 0, 0)?)
    }

    /// Puts `value` before the one that is there; false as for append.
    pub fn prepend(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool> {
        stored(self.store(Verb::Prepend, key, value, 0, 0, 0)?)
    }

    /// Stores a value if the item is still the one that had this unique.
    pub fn cas(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        flags: u32,
        exptime: i64,
        unique: u64,
    ) -> Result<Cas> {
        match self.store(Verb::Cas, key, value, flags, exptime, unique)? {
            Reply::Stored => Ok(Cas::Stored),
            Reply::Exists => Ok(Cas::Exists),
            Reply::NotFound => Ok(Cas::NotFound),
            other => unexpected(&other),
        }
    }

    /// Removes an item; false if there is none.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        is(self.ask(Request::Delete(key))?, Reply::Deleted, Reply::NotFound)
    }

    /// Adds to a number, modulo 2^64, and returns the sum; `None` if there is none.
    pub fn incr(&mut self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.count(true, key.as_ref(), delta)
    }

    /// Takes from a number, down to 0, and returns the rest; `None` if there is none.
    pub fn decr(&mut self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        self.count(false, key.as_ref(), delta)
    }

    /// Gives an item a new exptime; false if there is none.
    pub fn touch(&mut self, key: impl AsRef<[u8]>, exptime: i64) -> Result<bool> {
        let key = key.as_ref();
        is(self.ask(Request::Touch { key, exptime })?, Reply::Touched, Reply::NotFound)
    }

    /// Removes everything: at once with 0, else after that many seconds.
    pub fn flush_all(&mut self, delay: i64) -> Result<()> {
        match self.ask(Request::FlushAll { delay })? {
            Reply::Ok => Ok(()),
            other => unexpected(&other),
        }
    }

    /// Names and values of the server's statistics, or of its settings.
    pub fn stats(&mut self, topic: Topic) -> Result<Vec<(String, String)>> {
        self.send(Request::Stats(topic))?;
        let mut stats = Vec::new();
        loop {
            let line = self.line()?;
            let text = String::from_utf8_lossy(&line);
            let stat = text.strip_prefix("STAT ").and_then(|stat| stat.split_once(' '));
            match (stat, Reply::parse(&line)) {
                (Some((name, value)), _) => stats.push((name.into(), value.into())),
                (None, Some(Reply::End | Reply::Reset)) => return Ok(stats),
                (None, _) => return refused(&line),
            }
        }
    }

    /// The server's version.
    pub fn version(&mut self) -> Result<String> {
        match self.ask(Request::Version)? {
            Reply::Version(version) => Ok(version),
            other => unexpected(&other),
        }
    }

    /// Any command that stores, with the server's answer as it is. What a verb has no
    /// use for is not looked at.
    pub fn store(
        &mut self,
        verb: Verb,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        flags: u32,
        exptime: i64,
        unique: u64,
    ) -> Result<Reply> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.ask(Request::Store { verb, key, flags, exptime, unique, value })
    }

    fn count(&mut self, up: bool, key: &[u8], delta: u64) -> Result<Option<u64>> {
        match self.ask(Request::Count { up, key, delta })? {
            Reply::Number(number) => Ok(Some(number)),
            Reply::NotFound => Ok(None),
            other => unexpected(&other),
        }
    }

    fn retrieve(
        &mut self,
        keys: &[impl AsRef<[u8]>],
        unique: bool,
        exptime: Option<i64>,
    ) -> Result<Vec<Item>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut words = Vec::new();
        for key in keys {
            // K1: the blank behind a key has to be ours.
            words.extend_from_slice(self.check_key(key.as_ref())?);
            words.push(b' ');
        }
        self.send(Request::Get(Retrieval { unique, exptime }, Words(&words)))?;
        // In any order: a proxy may put the answers of several servers together.
        let asked: HashSet<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let mut items = Vec::new();
        loop {
            let line = self.line()?;
            let value_line = self.dialect.parse_value_line(&line).filter(|line| {
                line.length as u64 <= MAX_LENGTH
                    && asked.contains(line.key)
                    && items.len() < keys.len()
            });
            let Some(ValueLine { key, flags, length, unique }) = value_line else {
                let at_end = self.dialect.parse_reply(&line) == Some(Reply::End);
                return if at_end { Ok(items) } else { refused(&line) };
            };
            // Grows with what comes, whatever length the line states.
            let mut value = Vec::new();
            let end = self.dialect.line_end();
            let whole = length + end.len();
            (&mut self.stream).take(whole as u64).read_to_end(&mut value)?;
            if value.len() < whole {
                return Err(ClientError::Closed);
            }
            if !value.ends_with(end) {
                return refused(&line);
            }
            value.truncate(length);
            // The two are one there.
            if value.is_empty() && self.dialect != Dialect::Memcached {
                continue;
            }
            items.push(Item { key: key.into(), flags, unique, value });
        }
    }

    fn check_key<'k>(&self, key: &'k [u8]) -> Result<&'k [u8]> {
        let wrong = match key {
            [] => "a key must have at least one byte".to_owned(),
            _ if key.len() > self.key_size => {
                let (len, most) = (key.len(), self.key_size);
                format!("a key of {len} bytes is longer than {most}, the key size")
            }
            _ => match key.iter().find(|byte| b" \r\n\0".contains(byte)) {
                None => return Ok(key),
                Some(&byte) => {
                    let byte = byte.escape_ascii();
                    format!("a key can't have the byte '{byte}' in it")
                }
            },
        };
        Err(ClientError::Key(wrong))
    }

    /// Sends a request that is answered with one line, and returns the answer as it is.
    pub fn ask(&mut self, request: Request) -> Result<Reply> {
        // K1. A number or a verb can't be wrong: it has a type.
        if let Request::Store { key, .. }
        | Request::Delete(key)
        | Request::Count { key, .. }
        | Request::Touch { key, .. } = request
        {
            self.check_key(key)?;
        }
        if let Request::Store { value, .. } = request
            && value.len() as u64 > MAX_LENGTH
        {
            return Err(ClientError::Value(value.len()));
        }
        self.send(request)?;
        let line = self.line()?;
        match self.dialect.parse_reply(&line) {
            Some(Reply::ServerError(why)) => Err(ClientError::Server(why)),
            Some(reply) => Ok(reply),
            None => refused(&line),
        }
    }

    fn send(&mut self, request: Request) -> Result<()> {
        self.request.clear();
        if !self.dialect.write_request(&request, &mut self.request) {
            return Err(ClientError::Dialect);
        }
        Ok(self.stream.get_mut().write_all(&self.request)?)
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut stream = (&mut self.stream).take(MAX_LINE);
        while stream.read_until(b'\n', &mut line)? > 0 && !self.dialect.is_line(&line) {
        }
        match line.strip_suffix(b"\r\n").map(<[u8]>::len) {
            Some(len) => {
                line.truncate(len);
                Ok(line)
            }
            // Half a line may look like a whole one.
            None if line.ends_with(b"\n") || line.len() as u64 == MAX_LINE => {
                Err(ClientError::Unexpected(String::from_utf8_lossy(&line).into()))
            }
            None => Err(ClientError::Closed),
        }
    }
}

/// A line that is no reply: the server's refusal, or something else altogether.
fn refused<T>(line: &[u8]) -> Result<T> {
    // A dialect may have a blank there.
    let line = line.trim_ascii_end();
    let text = String::from_utf8_lossy(line).into_owned();
    Err(match Reply::parse(line) {
        Some(Reply::ServerError(why)) => ClientError::Server(why),
        _ if text == "ERROR"
            || text.starts_with("CLIENT_ERROR ")
            || text.starts_with(INVALID_REQUEST) =>
        {
            ClientError::Refused(text)
        }
        _ => ClientError::Unexpected(text),
    })
}

fn unexpected<T>(reply: &Reply) -> Result<T> {
    Err(ClientError::Unexpected(reply.to_string()))
}

fn stored(reply: Reply) -> Result<bool> {
    is(reply, Reply::Stored, Reply::NotStored)
}

/// True if the answer was `yes`, false if it was `no`.
fn is(reply: Reply, yes: Reply, no: Reply) -> Result<bool> {
    match reply {
        reply if reply == yes => Ok(true),
        reply if reply == no => Ok(false),
        reply => unexpected(&reply),
    }
}

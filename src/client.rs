//! The client: a connection to any memcached, as a library.
//!
//! [`Client`] sends one request and waits for its reply. What is used most has a method;
//! everything else is a [`Request`] that [`Client::ask`] sends. The client program is in
//! `client/shell.rs`.
//!
//! - K1: nothing is sent that can't be a request. Keys and values are checked before,
//!   so a mistake costs no round trip and can't put the connection out of step.
//! - K2: after an error of the connection, or a reply that is not one, the connection
//!   is not used again. [`ClientError::is_fatal`] says so; its holder connects anew.
//!
//! Left out: pipelining and `noreply`, which need a caller that can handle errors that
//! come late; and choosing among several servers, which a proxy does better.

pub mod commands;
pub mod shell;

use crate::protocol::dialect::{Dialect, INVALID_REQUEST};
use crate::protocol::meta::from_base64;
use crate::protocol::reply::{Reply, SERVER_ERROR, ValueLine};
use crate::protocol::words::{Words, printable, unsigned};
use crate::protocol::{MAX_LENGTH, Parsed, Request, Topic, parse};
use crate::store::{Answer, Limits, Update, Verb};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How to reach a server.
#[derive(Clone)]
pub struct Options {
    /// `host:port`, or the path of a socket: with a slash in it.
    pub address: String,
    /// How long to try to connect, and to wait for each reply.
    pub timeout: Duration,
    /// The pause between two attempts to connect; with zero there is only one.
    pub retry: Duration,
    /// The longest key that is sent, in bytes: the server's KEY_SIZE.
    pub key_size: usize,
    /// How requests and replies are worded.
    pub dialect: Dialect,
    /// User and password with a space between, sent on each connection before anything
    /// else, if the server wants a login.
    pub login: Option<Vec<u8>>,
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
    /// The request can't be sent: a key, a value, or something for which the dialect has
    /// no words. This is what is wrong; nothing was sent.
    Request(String),
    /// The connection can't be made or used any more, or an answer did not come in time.
    Io(String),
    /// The server rejected the request, or failed: its line, `ERROR` or what begins with
    /// `CLIENT_ERROR` or `SERVER_ERROR`.
    Rejected(String),
    /// This is not a reply to the request.
    Unexpected(String),
}

impl ClientError {
    /// K2: whether the connection is of no more use. A rejection is a reply, whole and
    /// in its place; what was never sent has none to wait for.
    pub fn is_fatal(&self) -> bool {
        matches!(self, ClientError::Io(_) | ClientError::Unexpected(_))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ClientError::Request(why) | ClientError::Io(why) => f.write_str(why),
            // What the server says may end on a terminal.
            ClientError::Rejected(line) => f.write_str(&printable(line.as_bytes())),
            ClientError::Unexpected(line) => write!(f, "unexpected reply: {line:?}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        // What a socket's read timeout is reported as depends on the system.
        ClientError::Io(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "the server did not answer in time".into()
            }
            _ => format!("the connection failed: {error}"),
        })
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// The longest line of a reply, in bytes.
const MAX_LINE: u64 = 1 << 17;

/// What [`Client::get`] and the like return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Vec<u8>,
    /// 32 bits of the client's that stored it.
    pub flags: u32,
    /// For `cas`; only `gets` and `gats` ask for it.
    pub unique: Option<u64>,
    /// The value.
    pub value: Vec<u8>,
}

/// A connection to a server. See the top of this file.
///
/// Exptimes are as on the wire: 0 is forever, up to 30 days are seconds from now,
/// more is a date in Unix seconds, and what is negative has expired.
pub struct Client {
    stream: BufReader<File>,
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

    /// The same, and `retrying` is told why an attempt failed after which there will be
    /// another: a library does not print.
    pub fn connect_with(
        options: &Options,
        mut retrying: impl FnMut(&ClientError),
    ) -> Result<Client> {
        let deadline = Instant::now() + options.timeout;
        let stream = loop {
            let error = match open_stream(options) {
                Ok(stream) => break stream,
                Err(error) => format!("can't connect to {}: {error}", options.address),
            };
            let error = ClientError::Io(error);
            let is_over = Instant::now() + options.retry >= deadline;
            if is_over || options.retry.is_zero() {
                return Err(error);
            }
            retrying(&error);
            std::thread::sleep(options.retry);
        };
        let Options { key_size, dialect, .. } = *options;
        let (stream, request) = (BufReader::new(stream), Vec::new());
        let mut client = Client { stream, request, key_size, dialect };
        if let Some(login) = &options.login {
            client.log_in(login)?;
        }
        Ok(client)
    }

    /// A login is sent only where one is wanted: any other server would keep it, as a
    /// value. Its key is one that no key size is too small for.
    fn log_in(&mut self, login: &[u8]) -> Result<()> {
        match self.ask(&Request::Version) {
            Err(ClientError::Rejected(_)) => self.set("k", login, 0, 0),
            answered => answered.map(|_| ()),
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

    /// The items there are under `keys`, in the order in which the server returns them:
    /// ours and memcached keep that of the keys.
    pub fn get_many(&mut self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Item>> {
        self.retrieve(keys, false, None)
    }

    /// Stores a value, whatever is there.
    pub fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        flags: u32,
        exptime: i64,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        let update = Update { key, value, flags, exptime, ..Update::default() };
        match self.update(update)? {
            Answer::Stored => Ok(()),
            // The other dialects say so of a value that is too large.
            _ => Err(ClientError::Rejected("NOT_STORED".into())),
        }
    }

    /// Removes an item; false if there is none.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let (verb, key) = (Verb::Delete, key.as_ref());
        Ok(self.update(Update { verb, key, ..Update::default() })? == Answer::Deleted)
    }

    /// Adds to a number, modulo 2^64, and returns the sum; `None` if there is none.
    pub fn incr(&mut self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>> {
        let (verb, key, number) = (Verb::Incr, key.as_ref(), delta);
        match self.update(Update { verb, key, number, ..Update::default() })? {
            Answer::Number(number) => Ok(Some(number)),
            _ => Ok(None),
        }
    }

    /// Changes an item, and returns what became of it.
    pub fn update(&mut self, update: Update) -> Result<Answer> {
        use Answer::{Deleted, Exists, NotFound, NotStored, Number, Stored, Touched};
        let possible: &[Answer] = match update.verb {
            Verb::Cas => &[Stored, Exists, NotFound],
            Verb::Delete => &[Deleted, NotFound],
            Verb::Touch => &[Touched, NotFound],
            Verb::Incr | Verb::Decr => &[NotFound],
            _ => &[Stored, NotStored],
        };
        match self.ask(&Request::Update(update))? {
            Reply::Answer(number @ Number(_)) if possible == [NotFound] => Ok(number),
            Reply::Answer(answer) if possible.contains(&answer) => Ok(answer),
            other => Err(ClientError::Unexpected(other.to_string())),
        }
    }

    /// Names and values of the server's statistics, or of its settings.
    pub fn stats(&mut self, topic: Topic) -> Result<Vec<(String, String)>> {
        self.send(&Request::Stats(topic))?;
        let mut stats = Vec::new();
        loop {
            let line = self.line()?;
            let text = String::from_utf8_lossy(&line);
            let stat = text.strip_prefix("STAT ").and_then(|stat| stat.split_once(' '));
            match (stat, Reply::parse(&line)) {
                (Some((name, value)), _) => stats.push((name.into(), value.into())),
                (None, Some(Reply::End | Reply::Reset)) => return Ok(stats),
                (None, _) => return rejected(&line),
            }
        }
    }

    /// The keys of all items that begin with `prefix`, in no order.
    pub fn keys(&mut self, prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.send(&Request::List(true))?;
        let mut keys = Vec::new();
        loop {
            let line = self.line()?;
            match (line.strip_prefix(b"mg "), &line[..]) {
                (Some(word), _) => {
                    let key = word.strip_suffix(b" b").and_then(from_base64);
                    keys.push(key.unwrap_or(word.to_vec()));
                    keys.pop_if(|key| !key.starts_with(prefix));
                }
                (_, b"OK") => {}
                (_, b"EN") => return Ok(keys),
                _ => return rejected(&line),
            }
        }
    }

    /// The items there are under `keys`: each with its unique, if that is wanted, and
    /// with a new exptime, if there is one.
    pub fn retrieve(
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
            // K1: the space after a key has to be ours.
            self.check_key(key.as_ref())?;
            words.extend_from_slice(key.as_ref());
            words.push(b' ');
        }
        self.send(&Request::Get { keys: Words(&words), unique, exptime })?;
        // In any order: a proxy may put the replies of several servers together.
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
                return if at_end { Ok(items) } else { rejected(&line) };
            };
            let value = self.value(&line, length)?;
            // In lite and raw, an empty value is none.
            if !value.is_empty() || self.dialect == Dialect::Memcached {
                items.push(Item { key: key.into(), flags, unique, value });
            }
        }
    }

    /// The value of so many bytes that comes after `line`.
    fn value(&mut self, line: &[u8], length: usize) -> Result<Vec<u8>> {
        // Grows with what comes, whatever length the line states.
        let mut value = Vec::new();
        let end = self.dialect.line_end();
        let whole = length + end.len();
        (&mut self.stream).take(whole as u64).read_to_end(&mut value)?;
        if value.len() < whole {
            return Err(closed());
        }
        if !value.ends_with(end) {
            return rejected(line);
        }
        value.truncate(length);
        Ok(value)
    }

    /// Sends a meta command: its line, and after the end of that the value of an `ms`.
    /// Returns the line of the reply, and the value after it. If it is quiet, and nothing is
    /// replied, that line is `MN`.
    pub fn meta(
        &mut self,
        command: impl AsRef<[u8]>,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
        let bytes = [command.as_ref(), b"\r\n"].concat();
        let wrong = |why| Err(ClientError::Request(why));
        // K1. Whether it is one is for the server's parser to say.
        let (key_size, max_value) = (self.key_size, MAX_LENGTH as usize);
        let limits = Limits { key_size, max_value, max_item_size: 2 * max_value };
        match parse(&bytes, &limits) {
            Parsed::Request { request: request @ Request::Meta(_), used, .. }
                if used == bytes.len() =>
            {
                self.send(&request)?;
            }
            Parsed::Rejected(it) => return wrong(it.error.to_string()),
            _ => return wrong("this is not one whole meta command".into()),
        }
        // A quiet one may have no reply. This has one, which comes after it.
        self.send(&Request::Noop)?;
        let line = self.line()?;
        let length = line.strip_prefix(b"VA ").and_then(|it| Words(it).next());
        let value = match length.and_then(unsigned) {
            Some(length) => Some(self.value(&line, length as usize)?),
            None => None,
        };
        // A code has two letters.
        let is_whole = line == b"MN" || self.line()? == b"MN";
        if !is_whole || line.get(2).is_some_and(|byte| *byte != b' ') {
            return rejected(&line);
        }
        Ok((line, value))
    }

    fn check_key(&self, key: &[u8]) -> Result<()> {
        let (len, longest) = (key.len(), self.key_size);
        Err(ClientError::Request(if len == 0 {
            "a key must have at least one byte".into()
        } else if len > longest {
            format!("a key of {len} bytes is longer than {longest}, the key size")
        } else if let Some(byte) = key.iter().find(|byte| b" \r\n\0".contains(byte)) {
            format!("a key can't have the byte '{}' in it", byte.escape_ascii())
        } else {
            return Ok(());
        }))
    }

    /// Sends a request that is answered with one line, and returns the reply as it is.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        // K1. A number or a verb can't be wrong: it has a type.
        if let Request::Update(Update { key, value, .. }) = request {
            self.check_key(key)?;
            let len = value.len();
            if len as u64 > MAX_LENGTH {
                let why = format!("a value of {len} bytes is longer than {MAX_LENGTH}");
                return Err(ClientError::Request(why));
            }
        }
        if let Request::Get { keys: mut words, .. } = *request {
            words.try_for_each(|key| self.check_key(key))?;
        }
        self.send(request)?;
        self.load(io::empty())
    }

    /// Sends requests as they are, of which only the last one has a reply, and returns that:
    /// what `server --dump` has written.
    pub fn load(&mut self, mut requests: impl Read) -> Result<Reply> {
        io::copy(&mut requests, self.stream.get_mut())?;
        let line = self.line()?;
        self.dialect.parse_reply(&line).map_or_else(|| rejected(&line), Ok)
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        self.request.clear();
        if !self.dialect.write_request(request, &mut self.request) {
            let why = "the dialect has no words for this";
            return Err(ClientError::Request(why.into()));
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
            None => Err(closed()),
        }
    }
}

/// One attempt to connect. A connected socket is read and written as a file.
fn open_stream(options: &Options) -> io::Result<File> {
    let Options { address, timeout, .. } = options;
    let stream = if address.contains('/') {
        OwnedFd::from(UnixStream::connect(address)?).into()
    } else {
        let mut last = io::ErrorKind::NotFound.into();
        let stream = address.to_socket_addrs()?.find_map(|address| {
            let attempt = TcpStream::connect_timeout(&address, *timeout);
            attempt.map_err(|error| last = error).ok()
        });
        let stream = stream.ok_or(last)?;
        stream.set_nodelay(true)?;
        stream
    };
    stream.set_read_timeout(Some(*timeout))?;
    stream.set_write_timeout(Some(*timeout))?;
    Ok(OwnedFd::from(stream).into())
}

fn closed() -> ClientError {
    ClientError::Io("the server has closed the connection".into())
}

/// A line that is not a reply: the server's rejection, or something else altogether.
fn rejected<T>(line: &[u8]) -> Result<T> {
    // A dialect may have a space there.
    let line = line.trim_ascii_end();
    let text = String::from_utf8_lossy(line).into_owned();
    if line.starts_with(b"ERROR ") {
        // Too many connections: this is the last that comes.
        return Err(ClientError::Io(text));
    }
    let starts = [b"CLIENT_ERROR ", SERVER_ERROR.as_bytes(), INVALID_REQUEST];
    let is_rejection = starts.iter().any(|start| line.starts_with(start));
    Err(match line == b"ERROR" || is_rejection {
        true => ClientError::Rejected(text),
        false => ClientError::Unexpected(text),
    })
}

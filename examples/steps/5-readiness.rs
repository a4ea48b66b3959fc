//! Step 5: one thread serves all clients that are ready, instead of a thread for each.
//!
//! A thread that reads from a socket waits for its client, and sixteen clients that say
//! nothing are enough to keep all others out. Here no read and no write waits. The thread
//! asks a *poller* which sockets are ready, and what it does for those is one *tick*:
//!
//! 1. read what is there from each, and execute what is complete;
//! 2. one commit for all of them: group commit without a lock;
//! 3. let their replies leave. What a socket does not take waits until it is writable, and
//!    until then nothing is read from that client: *backpressure*.
//!
//! The parser of step 4 makes it possible. A request that has half come is bytes in a buffer,
//! and not a thread that waits. An idle connection has no buffers, either.
//!
//! The standard library has no poller, so this is [`memcached_lite::os`]: the only thing in
//! these steps from elsewhere. What it costs: while the disk syncs, nobody is served. One lie
//! is left, and for that, read `src`.

use memcached_lite::os::{self, Interest, Poller};
use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, process, str};

/// The width of a key in the file, and so the longest key.
const KEY_SIZE: usize = 250;
/// The width of an integer in the file.
const INT_SIZE: usize = 4;
/// Its byte order: `big` or `little`.
const INT_ORDER: &str = "big";
/// What comes before the value in a record.
const HEAD: usize = 4 + 1 + INT_SIZE + KEY_SIZE + INT_SIZE;

/// The kinds of records.
const SET: u8 = 1;
const DELETE: u8 = 2;
const FLUSH: u8 = 3;

/// The longest line, and the largest value.
const MAX_LINE: usize = 2048;
const MAX_VALUE: usize = 1 << 20;
const _: () = assert!(INT_SIZE >= 4, "flags have 32 bits");

/// When replies have so many bytes, they are sent before more is executed.
const OUTPUT_LIMIT: usize = 256 << 10;

/// What the poller calls the listener; a connection is called by its descriptor.
const LISTENER: usize = usize::MAX;

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let store = Store::open(&options.data)?;
    let listener = TcpListener::bind(("127.0.0.1", options.port))?;
    listener.set_nonblocking(true)?;
    println!("Server: Listening on {}...", listener.local_addr()?);
    let mut poller = os::poller()?;
    poller.add(listener.as_fd(), LISTENER, Interest::Read)?;
    let connections = HashMap::new();
    Server { store, listener, poller, connections }.run(options.idle_exit)?;
    Ok(())
}

struct Options {
    port: u16,
    data: PathBuf,
    idle_exit: Option<Duration>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options { port: 11211, data: "items".into(), idle_exit: None };
    let mut words = env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
        match &name[..] {
            "--port" => options.port = value.parse()?,
            "--data" => options.data = value.into(),
            "--idle-exit" => {
                options.idle_exit = Some(Duration::from_secs(value.parse()?));
            }
            _ => return Err(format!("there is no option {name}").into()),
        }
    }
    Ok(options)
}

struct Server {
    store: Store,
    listener: TcpListener,
    poller: Box<dyn Poller>,
    /// By descriptor.
    connections: HashMap<usize, Connection>,
}

impl Server {
    /// Serves clients, until there have been none for so long.
    fn run(mut self, idle_exit: Option<Duration>) -> io::Result<()> {
        let (mut ready, mut turns) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 64 << 10];
        let mut last_seen = Instant::now();
        loop {
            let mut timeout = Duration::MAX;
            if !self.connections.is_empty() {
                last_seen = Instant::now();
            } else if let Some(limit) = idle_exit {
                timeout = limit.saturating_sub(last_seen.elapsed());
                if timeout.is_zero() {
                    return Ok(());
                }
            }
            if !turns.is_empty() {
                timeout = Duration::ZERO;
            }
            self.poller.wait(&mut ready, timeout)?;
            ready.append(&mut turns);
            // One whose turn it is may be ready as well.
            ready.sort();
            ready.dedup();
            self.tick(&ready, &mut turns, &mut buffer)?;
        }
    }

    /// Serves those that are ready. Those that have more to execute are added to `turns`.
    fn tick(
        &mut self,
        ready: &[usize],
        turns: &mut Vec<usize>,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        for token in ready {
            if let Some(connection) = self.connections.get_mut(token) {
                connection.serve(buffer, &mut self.store);
            }
        }
        // What no reply has shown may be lost; so if this fails, none leaves any more.
        self.store.commit()?;
        for token in ready {
            self.finish(*token, turns);
        }
        if ready.contains(&LISTENER) {
            self.accept();
        }
        Ok(())
    }

    /// Lets the replies of a connection leave, and decides what it waits for.
    fn finish(&mut self, token: usize, turns: &mut Vec<usize>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let interest = match (connection.flush(), &connection.next) {
            (Ok(false), _) => Some(Interest::Write),
            (Ok(true), Next::Read) => Some(Interest::Read),
            (Ok(true), Next::Execute) => {
                turns.push(token);
                return;
            }
            _ => None,
        };
        if interest != connection.interest {
            // Neither can fail: it was added, and is removed before.
            let _ = self.poller.remove(connection.stream.as_fd());
            if let Some(interest) = interest {
                let _ = self.poller.add(connection.stream.as_fd(), token, interest);
            }
            connection.interest = interest;
        }
        if interest.is_none() {
            self.connections.remove(&token);
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let (token, fd) = (stream.as_raw_fd() as usize, stream.as_fd());
            let is_ready = stream.set_nonblocking(true).is_ok()
                && stream.set_nodelay(true).is_ok()
                && self.poller.add(fd, token, Interest::Read).is_ok();
            if is_ready {
                self.connections.insert(token, Connection::new(stream));
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// What has come and is not executed.
    input: Vec<u8>,
    /// Replies that have not left.
    output: Vec<u8>,
    /// How many of the next bytes belong to a request that has been answered.
    skip: usize,
    next: Next,
    /// What the poller watches it for.
    interest: Option<Interest>,
}

/// What a connection does next, when its replies have left.
enum Next {
    Read,
    Execute,
    Close,
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        let (input, output, skip) = (Vec::new(), Vec::new(), 0);
        let interest = Some(Interest::Read);
        Connection { stream, input, output, skip, next: Next::Read, interest }
    }

    /// Reads what is there, and executes what is complete. Never waits.
    fn serve(&mut self, buffer: &mut [u8], store: &mut Store) {
        // Backpressure: a client that does not take its replies may not request more.
        if !self.output.is_empty() {
            return;
        }
        if let Next::Read = self.next {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => self.next = Next::Close,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            }
        }
        if !matches!(self.next, Next::Close) {
            self.next = self.execute(store);
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Writes what the socket takes. Returns whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(false);
                }
                count => drop(self.output.drain(..count?)),
            }
        }
        self.output = Vec::new();
        Ok(true)
    }

    /// Executes the requests that have come.
    fn execute(&mut self, store: &mut Store) -> Next {
        let mut used = 0;
        let next = loop {
            let skipped = self.skip.min(self.input.len() - used);
            self.skip -= skipped;
            used += skipped;
            if self.output.len() >= OUTPUT_LIMIT {
                break Next::Execute;
            }
            match parse(&self.input[used..]) {
                None => break Next::Read,
                Some(Parsed { request: Request::Quit, .. }) => break Next::Close,
                Some(Parsed { request, noreply, len }) => {
                    let before = self.output.len();
                    store.answer(request, &mut self.output);
                    if noreply {
                        self.output.truncate(before);
                    }
                    self.skip = len;
                }
            }
        };
        self.input.drain(..used);
        next
    }
}

/// What stands at the head of the input.
struct Parsed<'a> {
    request: Request<'a>,
    noreply: bool,
    /// How many bytes it has. They need not all have come, if it is invalid.
    len: usize,
}

enum Request<'a> {
    Get(Vec<&'a [u8]>),
    Set {
        key: &'a [u8],
        flags: usize,
        value: &'a [u8],
    },
    /// A set of this key to a value that is too large.
    TooLarge(&'a [u8]),
    Delete(&'a [u8]),
    FlushAll,
    Stats,
    Version,
    Quit,
    /// Answered with this error.
    Invalid(&'static str),
}

const BAD_FORMAT: Request = Request::Invalid("CLIENT_ERROR bad command line format");

/// The request at the head of the input; `None` if it has not come whole.
fn parse(input: &[u8]) -> Option<Parsed<'_>> {
    let Some(end) = input.iter().take(MAX_LINE).position(|&byte| byte == b'\n') else {
        // Where a line does not end, the next request can't be found.
        let quit = Parsed { request: Request::Quit, noreply: false, len: 0 };
        return (input.len() >= MAX_LINE).then_some(quit);
    };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    let words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let mut words: Vec<&[u8]> = words.collect();
    let noreply = words.first() != Some(&&b"get"[..]);
    let noreply = noreply && words.pop_if(|word| *word == b"noreply").is_some();
    let mut len = end + 1;
    let request = match words[..] {
        [b"get", ref keys @ ..] if !keys.is_empty() && keys.iter().all(is_key) => {
            Request::Get(keys.to_vec())
        }
        [b"set", key, flags, exptime, size] => {
            let block = &input[len..];
            let (request, block_len) = parse_set(key, flags, exptime, size, block)?;
            len += block_len;
            request
        }
        [b"delete", key] if is_key(&key) => Request::Delete(key),
        [b"flush_all"] | [b"flush_all", b"0"] => Request::FlushAll,
        [b"stats"] => Request::Stats,
        [b"version"] => Request::Version,
        [b"quit"] => Request::Quit,
        [b"get" | b"set" | b"delete", ..] => BAD_FORMAT,
        _ => Request::Invalid("ERROR"),
    };
    Some(Parsed { request, noreply, len })
}

/// A set and the length of its data block, with which `block` begins, as far as it has come.
fn parse_set<'a>(
    key: &'a [u8],
    flags: &[u8],
    exptime: &[u8],
    size: &[u8],
    block: &'a [u8],
) -> Option<(Request<'a>, usize)> {
    // Without a length there is no telling what follows: it is taken for the next line.
    let Some(size) = number(size).filter(|size| *size <= i32::MAX as usize) else {
        return Some((BAD_FORMAT, 0));
    };
    let len = size + 2;
    let flags = number(flags).filter(|flags| *flags <= u32::MAX as usize);
    let exptime = number(exptime.strip_prefix(b"-").unwrap_or(exptime));
    let (Some(flags), Some(_), true) = (flags, exptime, is_key(&key)) else {
        return Some((BAD_FORMAT, len));
    };
    if size > MAX_VALUE {
        return Some((Request::TooLarge(key), len));
    }
    let value = block.get(..size)?;
    match block[size..] {
        [] | [b'\r'] => None,
        [b'\n', ..] => Some((Request::Set { key, flags, value }, size + 1)),
        [b'\r', b'\n', ..] => Some((Request::Set { key, flags, value }, len)),
        _ => Some((Request::Invalid("CLIENT_ERROR bad data chunk"), len)),
    }
}

fn is_key(word: &&[u8]) -> bool {
    word.len() <= KEY_SIZE && !word.contains(&0)
}

/// A decimal number.
fn number(word: &[u8]) -> Option<usize> {
    str::from_utf8(word).ok()?.parse().ok()
}

struct Record {
    kind: u8,
    flags: usize,
    key: Vec<u8>,
    value: Vec<u8>,
}

struct Store {
    file: File,
    /// Where the next record goes.
    end: u64,
    /// The position of each key's record.
    index: HashMap<Vec<u8>, u64>,
    /// How far the log is on the disk.
    synced: u64,
    /// How many syncs there were.
    syncs: u64,
}

impl Store {
    /// Opens the log in this directory, or makes it, and replays it.
    fn open(directory: &Path) -> Result<Store, Box<dyn Error>> {
        fs::create_dir_all(directory)?;
        let path = directory.join("items.kv");
        let mut options = File::options();
        let file =
            options.read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock()?;
        let mut found = header();
        // Nothing was stored before the header was whole.
        if file.metadata()?.len() < found.len() as u64 {
            file.write_all_at(&found, 0)?;
        }
        file.read_exact_at(&mut found, 0)?;
        if found != header() {
            return Err("the file is of another step, or of other sizes".into());
        }
        let (end, mut position) = (file.metadata()?.len(), found.len() as u64);
        let mut store = Store { file, end, index: HashMap::new(), synced: 0, syncs: 0 };
        while let Some(record) = store.read(position)? {
            store.apply(record.kind, &record.key, position);
            position += (HEAD + record.value.len()) as u64;
        }
        // What follows was being written when the process ended.
        store.file.set_len(position)?;
        store.end = position;
        // What was replayed may be what only the kernel had; and the name of a new file is in
        // its directory.
        store.file.sync_all()?;
        File::open(directory)?.sync_all()?;
        store.synced = store.end;
        Ok(store)
    }

    /// Executes a request, and appends the reply to `output`.
    fn answer(&mut self, request: Request, output: &mut Vec<u8>) {
        let before = output.len();
        match self.execute(request, output) {
            Ok(reply) => output.extend_from_slice(reply.as_bytes()),
            Err(error) => {
                output.truncate(before);
                output.extend_from_slice(format!("SERVER_ERROR {error}").as_bytes());
            }
        }
        output.extend_from_slice(b"\r\n");
    }

    /// What each request does. Returns the last line of the reply; what comes before it is
    /// appended to `output`.
    fn execute(
        &mut self,
        request: Request,
        output: &mut Vec<u8>,
    ) -> io::Result<&'static str> {
        match request {
            Request::Get(keys) => {
                for key in keys {
                    let Some(position) = self.index.get(key) else { continue };
                    let record = self.read(*position)?;
                    // It was whole when it was written, or replayed.
                    let record = record.ok_or(io::Error::other("damaged file"))?;
                    write_hit(output, key, record.flags, &record.value);
                }
                Ok("END")
            }
            Request::Set { key, flags, value } => {
                self.change(SET, key, flags, value).map(|()| "STORED")
            }
            Request::TooLarge(key) => {
                // The old value must not be taken for the new one.
                if self.index.contains_key(key) {
                    self.change(DELETE, key, 0, b"")?;
                }
                Ok("SERVER_ERROR object too large for cache")
            }
            Request::Delete(key) => match self.index.contains_key(key) {
                true => self.change(DELETE, key, 0, b"").map(|()| "DELETED"),
                false => Ok("NOT_FOUND"),
            },
            Request::FlushAll => self.change(FLUSH, b"", 0, b"").map(|()| "OK"),
            Request::Stats => {
                let (pid, syncs) = (process::id(), self.syncs);
                write!(output, "STAT pid {pid}\r\nSTAT syncs {syncs}\r\n")?;
                Ok("END")
            }
            Request::Version => Ok("VERSION 5"),
            Request::Invalid(error) => Ok(error),
            Request::Quit => Ok(""),
        }
    }

    /// Appends a record. If that fails, the next one is written over what has been written
    /// of it.
    fn change(
        &mut self,
        kind: u8,
        key: &[u8],
        flags: usize,
        value: &[u8],
    ) -> io::Result<()> {
        let mut bytes = vec![0; 4];
        bytes.push(kind);
        append_int(&mut bytes, flags);
        bytes.extend_from_slice(key);
        bytes.resize(bytes.len() + KEY_SIZE - key.len(), 0);
        append_int(&mut bytes, value.len());
        bytes.extend_from_slice(value);
        let checksum = checksum(self.end, &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum);
        self.file.write_all_at(&bytes, self.end)?;
        self.apply(kind, key, self.end);
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// What a record means to the index, as it is written and as it is replayed.
    fn apply(&mut self, kind: u8, key: &[u8], position: u64) {
        match kind {
            SET => drop(self.index.insert(key.to_vec(), position)),
            DELETE => drop(self.index.remove(key)),
            _ => self.index.clear(),
        }
    }

    /// Returns when the whole log is on the disk. An error ends the process: a sync can't be
    /// tried again, as the kernel may have dropped what it could not write.
    fn commit(&mut self) -> io::Result<()> {
        if self.synced < self.end {
            self.file.sync_data()?;
            self.syncs += 1;
            self.synced = self.end;
        }
        Ok(())
    }

    /// The record at this position; `None` if there is no whole one.
    fn read(&self, position: u64) -> io::Result<Option<Record>> {
        let left = (self.end - position) as usize;
        if left < HEAD {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, position)?;
        let (kind, rest) = (head[4], &head[5..]);
        let (flags, rest) = rest.split_at(INT_SIZE);
        let (padded, size) = rest.split_at(KEY_SIZE);
        // No key has a zero in it, so the first one begins the padding.
        let key = padded.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        // No memory for a size that the file can't have.
        let size = int(size);
        if left - HEAD < size {
            return Ok(None);
        }
        let mut bytes = vec![0; HEAD + size];
        self.file.read_exact_at(&mut bytes, position)?;
        if bytes[..4] != checksum(position, &bytes[4..]) {
            return Ok(None);
        }
        let value = bytes.split_off(HEAD);
        Ok(Some(Record { kind, flags: int(flags), key, value }))
    }
}

/// What half a byte adds to a CRC-32.
const HALVES: [u32; 16] = [
    0, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158,
    0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4,
    0xa00ae278, 0xbdbdf21c,
];

/// The CRC-32 of a record and of its position: what looks like a record inside a value, or
/// was left over from before, does not verify.
fn checksum(position: u64, record: &[u8]) -> [u8; 4] {
    let mut crc = !0;
    for byte in position.to_be_bytes().iter().chain(record) {
        crc ^= u32::from(*byte);
        crc = crc >> 4 ^ HALVES[crc as usize & 15];
        crc = crc >> 4 ^ HALVES[crc as usize & 15];
    }
    u32::to_be_bytes(!crc)
}

fn write_hit(output: &mut Vec<u8>, key: &[u8], flags: usize, value: &[u8]) {
    output.extend_from_slice(b"VALUE ");
    output.extend_from_slice(key);
    output.extend_from_slice(format!(" {flags} {}\r\n", value.len()).as_bytes());
    output.extend_from_slice(value);
    output.extend_from_slice(b"\r\n");
}

fn header() -> Vec<u8> {
    let mut bytes = b"steps 2\n".to_vec();
    bytes.extend_from_slice(&(KEY_SIZE as u16).to_be_bytes());
    bytes.extend_from_slice(&[INT_SIZE as u8, INT_ORDER.as_bytes()[0]]);
    bytes
}

fn append_int(bytes: &mut Vec<u8>, number: usize) {
    let mut field = number.to_be_bytes()[8 - INT_SIZE..].to_vec();
    if INT_ORDER == "little" {
        field.reverse();
    }
    bytes.extend(field);
}

fn int(field: &[u8]) -> usize {
    let fold = |number, byte: &u8| number << 8 | usize::from(*byte);
    match INT_ORDER {
        "little" => field.iter().rev().fold(0, fold),
        _ => field.iter().fold(0, fold),
    }
}

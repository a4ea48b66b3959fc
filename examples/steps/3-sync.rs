//! Step 3: a reply leaves when what it shows is on the disk, and one sync serves all who wait
//! for it.
//!
//! A write returns when the kernel has the bytes, and after a power cut they are gone. So
//! before its reply leaves, a request is *committed*: the log is synced as far as the reply
//! depends on it. A reply depends on all that was in the log when it was made: that of a
//! `get`, too, which may show what another client has just set.
//!
//! A sync takes far longer than the rest of a request, so it is shared. Requests that come
//! while one runs wait until it is over. Then one of them syncs for all of them. That is
//! *group commit*, and all it needs is a lock that is held at the right time: see
//! `Server::commit`. `stats` counts the syncs.
//!
//! The log is that of step 2, and so is its file. Three lies are left.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, process, str, thread};

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

/// How many clients are served at once.
const THREADS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let store = Store::open(&options.data)?;
    let (file, synced) = (store.file.try_clone()?, Mutex::new(store.end));
    let listener = TcpListener::bind(("127.0.0.1", options.port))?;
    println!("Server: Listening on {}...", listener.local_addr()?);
    let (store, clients) = (Mutex::new(store), Mutex::new((0, Instant::now())));
    let server = Server { store, file, synced, clients };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| server.work(&listener));
        }
        if let Some(limit) = options.idle_exit {
            server.exit_when_idle(limit);
        }
    });
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
    store: Mutex<Store>,
    /// That of the store, to be synced while others use the store.
    file: File,
    /// How far the log is on the disk. Locked before the store, and as long as a sync runs.
    synced: Mutex<u64>,
    /// How many are connected, and since when.
    clients: Mutex<(usize, Instant)>,
}

impl Server {
    /// One thread of the pool: serves one client after the other. Until a thread is free,
    /// new connections queue in the kernel.
    fn work(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            self.count(1);
            // An error ends this connection, and concerns nobody else.
            let _ = self.serve(&stream);
            self.count(-1);
        }
    }

    fn count(&self, change: isize) {
        let mut clients = self.clients.lock().unwrap();
        *clients = (clients.0.saturating_add_signed(change), Instant::now());
    }

    /// Ends the process when nobody has been connected for so long.
    fn exit_when_idle(&self, limit: Duration) {
        loop {
            let (count, since) = *self.clients.lock().unwrap();
            let idle = if count == 0 { since.elapsed() } else { Duration::ZERO };
            if idle >= limit {
                process::exit(0);
            }
            thread::sleep(limit - idle);
        }
    }

    /// Serves a client until it leaves.
    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BufReader::new(stream);
        let (mut line, mut output) = (Vec::new(), Vec::new());
        while input.read_until(b'\n', &mut line)? > 0 {
            let words = line.trim_ascii_end().split(|&byte| byte == b' ');
            let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
            let mut block = Vec::new();
            if let [b"set", _, _, _, length] = words[..]
                && let Some(length) = number(length)
            {
                // Lie 3: any length is allocated, and whatever follows the value is dropped.
                block = vec![0; length + 2];
                input.read_exact(&mut block)?;
                block.truncate(length);
            }
            if words == [b"quit"] {
                break;
            }
            let depends_on = self.answer(&words, block, &mut output);
            line.clear();
            self.commit(depends_on);
            stream.write_all(&output)?;
            output.clear();
        }
        Ok(())
    }

    /// Executes a request, and appends the reply to `output`. Returns the position up to
    /// which the log must be on the disk before the reply leaves.
    fn answer(&self, words: &[&[u8]], block: Vec<u8>, output: &mut Vec<u8>) -> u64 {
        let mut store = self.store.lock().unwrap();
        let before = output.len();
        match store.execute(words, block, output) {
            Ok(reply) => output.extend_from_slice(reply.as_bytes()),
            Err(error) => {
                output.truncate(before);
                output.extend_from_slice(format!("SERVER_ERROR {error}").as_bytes())
            }
        }
        output.extend_from_slice(b"\r\n");
        store.end
    }

    /// Returns when the log is on the disk up to `position`.
    fn commit(&self, position: u64) {
        // Those that come while a sync runs wait here.
        let mut synced = self.synced.lock().unwrap();
        // The first of them syncs what all have written, and the others find it done.
        if *synced < position {
            let end = self.store.lock().unwrap().end;
            // It can't be tried again: the kernel may have dropped what it could not write.
            // The next start sees what the disk has.
            if self.file.sync_data().is_err() {
                process::abort();
            }
            *synced = end;
            self.store.lock().unwrap().syncs += 1;
        }
    }
}

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";

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
        let mut store = Store { file, end, index: HashMap::new(), syncs: 0 };
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
        Ok(store)
    }

    /// What each command does. Returns the last line of the reply; what comes before it is
    /// appended to `output`.
    fn execute(
        &mut self,
        words: &[&[u8]],
        block: Vec<u8>,
        output: &mut Vec<u8>,
    ) -> io::Result<&'static str> {
        match words {
            [_, key, ..] if key.len() > KEY_SIZE || key.contains(&0) => Ok(BAD_FORMAT),
            [b"get", keys @ ..] => {
                for key in keys {
                    let Some(position) = self.index.get(*key) else { continue };
                    let record = self.read(*position)?;
                    // It was whole when it was written, or replayed.
                    let record = record.ok_or(io::Error::other("damaged file"))?;
                    write_hit(output, key, record.flags, &record.value);
                }
                Ok("END")
            }
            [b"set", key, flags, _, length] => {
                let (Some(flags), Some(length)) = (number(flags), number(length))
                else {
                    return Ok(BAD_FORMAT);
                };
                if flags.max(length) as u128 >> (8 * INT_SIZE) > 0 {
                    return Ok("SERVER_ERROR object too large for cache");
                }
                self.change(SET, key, flags, &block).map(|()| "STORED")
            }
            [b"delete", key] => match self.index.contains_key(*key) {
                true => self.change(DELETE, key, 0, b"").map(|()| "DELETED"),
                false => Ok("NOT_FOUND"),
            },
            [b"flush_all"] | [b"flush_all", b"0"] => {
                self.change(FLUSH, b"", 0, b"").map(|()| "OK")
            }
            [b"stats"] => {
                let (pid, syncs) = (process::id(), self.syncs);
                write!(output, "STAT pid {pid}\r\nSTAT syncs {syncs}\r\n")?;
                Ok("END")
            }
            [b"version"] => Ok("VERSION 3"),
            _ => Ok("ERROR"),
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

//! Step 1: a key-value server in one file, as small as it can be. Sixteen threads, one map,
//! and a file into which the whole map is written whenever it changes.
//!
//! It speaks enough of memcached's protocol for `nc`, and for the first scenarios of the
//! driver: `set`, `get`, `delete`, `flush_all`, `stats`, `version`, `quit`.
//!
//! ```text
//! header  "steps 1\n" 8 | KEY_SIZE 2 | INT_SIZE 1 | INT_ORDER 1
//! entry   key KEY_SIZE, zero-padded | flags INT_SIZE | size INT_SIZE | value, size bytes
//! ```
//!
//! It works, and it lies. Each of the next steps ends one of these lies:
//!
//! | it claims | in truth | until |
//! |---|---|---|
//! | `STORED` survives the process | a rewrite first empties the file; a kill takes what is not yet back | step 2, the log |
//! | `STORED` survives a power cut | it is not known to be on the disk | step 3, the sync |
//! | it understands its clients | it believes each length, and does not look where a value ends | step 4, the parser |
//! | it serves every client | sixteen at once; the next waits until one of them leaves | step 5, readiness |
//! | it speaks memcached's protocol | exptimes are ignored, most commands unknown | step 6, `src` |

use std::collections::BTreeMap;
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

/// How many clients are served at once.
const THREADS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let store = Mutex::new(Store::open(&options.data)?);
    let listener = TcpListener::bind(("127.0.0.1", options.port))?;
    println!("Server: Listening on {}...", listener.local_addr()?);
    let server = Server { store, clients: Mutex::new((0, Instant::now())) };
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
            self.answer(&words, block, &mut output);
            line.clear();
            stream.write_all(&output)?;
            output.clear();
        }
        Ok(())
    }

    /// Executes a request, and appends the reply to `output`.
    fn answer(&self, words: &[&[u8]], block: Vec<u8>, output: &mut Vec<u8>) {
        let mut store = self.store.lock().unwrap();
        match store.execute(words, block, output) {
            Ok(reply) => output.extend_from_slice(reply.as_bytes()),
            Err(error) => {
                output.extend_from_slice(format!("SERVER_ERROR {error}").as_bytes())
            }
        }
        output.extend_from_slice(b"\r\n");
    }
}

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";

/// A decimal number.
fn number(word: &[u8]) -> Option<usize> {
    str::from_utf8(word).ok()?.parse().ok()
}

struct Item {
    flags: usize,
    value: Vec<u8>,
}

struct Store {
    /// What the file has, in the file's order.
    items: BTreeMap<Vec<u8>, Item>,
    file: File,
}

impl Store {
    /// Opens the file in this directory, or makes it.
    fn open(directory: &Path) -> Result<Store, Box<dyn Error>> {
        fs::create_dir_all(directory)?;
        let path = directory.join("items.kv");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.try_lock()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if !bytes.is_empty() && !bytes.starts_with(&header()) {
            return Err("the file is of another step, or of other sizes".into());
        }
        let (mut items, mut rest) = (BTreeMap::new(), &bytes[..]);
        take(&mut rest, header().len());
        while let Some((key, item)) = take_entry(&mut rest) {
            items.insert(key, item);
        }
        Ok(Store { items, file })
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
                    let Some(Item { flags, value }) = self.items.get(*key) else {
                        continue;
                    };
                    write_hit(output, key, *flags, value);
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
                self.items.insert(key.to_vec(), Item { flags, value: block });
                self.rewrite().map(|()| "STORED")
            }
            [b"delete", key] => match self.items.remove(*key) {
                Some(_) => self.rewrite().map(|()| "DELETED"),
                None => Ok("NOT_FOUND"),
            },
            [b"flush_all"] | [b"flush_all", b"0"] => {
                self.items.clear();
                self.rewrite().map(|()| "OK")
            }
            [b"stats"] => {
                write!(output, "STAT pid {}\r\n", process::id())?;
                Ok("END")
            }
            [b"version"] => Ok("VERSION 1"),
            _ => Ok("ERROR"),
        }
    }

    /// Writes everything.
    fn rewrite(&self) -> io::Result<()> {
        let mut bytes = header();
        for (key, Item { flags, value }) in &self.items {
            bytes.extend_from_slice(key);
            bytes.resize(bytes.len() + KEY_SIZE - key.len(), 0);
            append_int(&mut bytes, *flags);
            append_int(&mut bytes, value.len());
            bytes.extend_from_slice(value);
        }
        // Lie 1: from here to the end of the write, the file has less than was stored.
        self.file.set_len(0)?;
        // Lie 2: this returns when the kernel has the bytes, not when the disk has them.
        self.file.write_all_at(&bytes, 0)
    }
}

fn write_hit(output: &mut Vec<u8>, key: &[u8], flags: usize, value: &[u8]) {
    output.extend_from_slice(b"VALUE ");
    output.extend_from_slice(key);
    output.extend_from_slice(format!(" {flags} {}\r\n", value.len()).as_bytes());
    output.extend_from_slice(value);
    output.extend_from_slice(b"\r\n");
}

fn header() -> Vec<u8> {
    let mut bytes = b"steps 1\n".to_vec();
    bytes.extend_from_slice(&(KEY_SIZE as u16).to_be_bytes());
    bytes.extend_from_slice(&[INT_SIZE as u8, INT_ORDER.as_bytes()[0]]);
    bytes
}

/// Takes the next entry off `rest`; `None` if there is no whole one.
fn take_entry(rest: &mut &[u8]) -> Option<(Vec<u8>, Item)> {
    let padded = take(rest, KEY_SIZE)?;
    // No key has a zero in it, so the first one begins the padding.
    let key = padded.split(|&byte| byte == 0).next()?.to_vec();
    let (flags, size) = (int(take(rest, INT_SIZE)?), int(take(rest, INT_SIZE)?));
    Some((key, Item { flags, value: take(rest, size)?.to_vec() }))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
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

//! Streams of requests, and what becomes of them however they are cut into reads: as a
//! parser sees them ([`read`]), and as a connection answers them ([`answers`]). For
//! every dialect, and without a process.
//!
//! The streams are made up from [`Ingredients`]. A failure says its seed, from which the same
//! bytes come again.

use super::TempDir;
use memcached_lite::driver::random::Random;
use memcached_lite::protocol::dialect::Dialect;
use memcached_lite::protocol::{BlockEnd, Parsed};
use memcached_lite::server;
use memcached_lite::server::connection::{Connection, READ_LIMIT, Waits};
use memcached_lite::server::service::Context;
use memcached_lite::server::shared::{Shared, Stream};
use memcached_lite::store::{Limits, Options, Settings, Store, SyncMode};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Small, so that what is too large is soon sent.
pub const LIMITS: Limits =
    Limits { key_size: 250, max_value: 4000, max_item_size: 4096 };

/// What requests are made up of, good and bad.
pub trait Ingredients {
    /// A number from `least` to `most`.
    fn between(&mut self, least: usize, most: usize) -> usize;
    /// So many bytes of any kind.
    fn bytes(&mut self, len: usize) -> Vec<u8>;
    /// True once in `count` times.
    fn once_in(&mut self, count: usize) -> bool;
    fn pick<T: Copy>(&mut self, choice: &[T]) -> T;
    /// A number of 64 bits that is often small or at the very end.
    fn number(&mut self) -> u64;
    /// A key that is good: any byte but those that end words and lines, and NUL.
    fn key(&mut self) -> Vec<u8>;
    fn value(&mut self) -> Vec<u8>;
    /// Changes, removes or cuts off a few bytes.
    fn spoil(&mut self, input: &mut Vec<u8>);
}

impl Ingredients for Random {
    fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.bits() as u8).collect()
    }

    fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }

    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.bits(),
            1 => u64::MAX - self.below(3) as u64,
            _ => self.below(300) as u64,
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let len = self.pick(&[1, 2, 10, 249, 250]);
        let mut key = self.bytes(len);
        key.iter_mut().filter(|byte| b"\0\n ".contains(byte)).for_each(|b| *b = b'k');
        key
    }

    fn value(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => Vec::new(),
            1 => b"get a\r\nset a 0 0 1\r\nx\r\n".to_vec(),
            2 => b"\r\n".repeat(self.below(5)),
            3 => b"17".to_vec(),
            _ => {
                let len = self.below(200);
                self.bytes(len)
            }
        }
    }

    fn spoil(&mut self, input: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            if input.is_empty() {
                break;
            }
            let at = self.below(input.len());
            match self.below(4) {
                0 => input[at] = self.pick(b" \r\n0-\0"),
                1 => input[at] = self.bits() as u8,
                2 => drop(input.remove(at)),
                _ => input.truncate(at),
            }
        }
    }
}

/// What was found in a stream, and after how many of its bytes.
pub type Found = Vec<(usize, String)>;

/// Parses `stream` as it arrives in `pieces`. The form that is compared is `Debug`'s,
/// which shows the request and all numbers. A patient reader waits for what `parse`
/// says it needs; one that is not parses again after each piece.
pub fn read(
    dialect: Dialect,
    stream: &[u8],
    pieces: &mut dyn FnMut() -> usize,
    patient: bool,
) -> Found {
    let mut found = Found::new();
    let (mut head, mut arrived, mut needed) = (0, 0, 0);
    // While a line's end is awaited: so many bytes were there without it.
    let mut line_open = None;
    let mut swallow = None;
    while arrived < stream.len() {
        arrived = stream.len().min(arrived + pieces());
        loop {
            let input = &stream[head..arrived];
            if input.is_empty() {
                // A connection does not ask about nothing. The first byte may decide.
                (needed, line_open) = (1, None);
                break;
            }
            let line_ended = line_open.is_some_and(|len| input[len..].contains(&b'\n'));
            if patient && input.len() < needed && !line_ended {
                break;
            }
            let (used, text, swallow_next) = match swallow {
                None => match dialect.parse(input, &LIMITS) {
                    // P3
                    Parsed::NeedLine(longest) => {
                        (needed, line_open) = (longest + 1, Some(input.len()));
                        break;
                    }
                    Parsed::NeedBytes(count) => {
                        (needed, line_open) = (count, None);
                        break;
                    }
                    Parsed::Request { request, noreply, used } => {
                        (used, format!("{request:?} {noreply}"), None)
                    }
                    Parsed::Rejected(rejection) => {
                        let text = format!("{rejection:?}");
                        (rejection.used, text, rejection.swallow)
                    }
                    Parsed::Close(_) => {
                        found.push((arrived, "close".into()));
                        return found;
                    }
                },
                Some(length) => match dialect.block_end(input, length) {
                    BlockEnd::Need(count) => {
                        needed = count;
                        break;
                    }
                    BlockEnd::Found(end) => (end, "a swallowed block".into(), None),
                    BlockEnd::Missing(end) => (end, "a bad block".into(), None),
                },
            };
            assert!((1..=input.len()).contains(&used), "{used} used of {input:?}");
            swallow = swallow_next;
            head += used;
            (needed, line_open) = (0, None);
            found.push((arrived, text));
        }
        let there = arrived - head;
        assert!(needed > there, "{needed} bytes are needed, {there} are there");
    }
    found
}

pub fn without_places(found: Found) -> Vec<String> {
    found.into_iter().map(|(_, text)| text).collect()
}

/// Like `assert_eq`, but shows the first difference alone.
pub fn assert_same<T: PartialEq + std::fmt::Debug>(
    left: &[T],
    right: &[T],
    what: &str,
) {
    let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let (left, right) = (left.get(same), right.get(same));
    assert_eq!(left, right, "{what}: they differ at {same}");
}

pub const NOW: u64 = 1_700_000_000;

/// What a server over a fresh store shares.
pub fn shared(
    dialect: Dialect,
    directory: &TempDir,
    max_item_size: usize,
) -> Arc<Shared> {
    let mut settings = Settings::default();
    if let Dialect::Raw(format) = dialect {
        settings.int_size = Some(format.int_size);
        settings.int_order = Some(format.int_order);
    }
    let sync = SyncMode::EverySecond;
    let options = Options { settings, sync, max_item_size, data_limit: 0 };
    let (store, _) = Store::open(directory.path(), &options, NOW).unwrap();
    shared_over(dialect, store)
}

/// What a server over this store shares.
pub fn shared_over(dialect: Dialect, store: Store) -> Arc<Shared> {
    let default = server::Options::default();
    let options = server::Options { dialect, threads: 1, conn_limit: 1, ..default };
    let shared = Shared::new(options, None, store).unwrap();
    Arc::new(shared)
}

/// A connection, its client, and what a worker has for it.
pub struct Served {
    pub connection: Connection,
    pub client: UnixStream,
    /// The time, which only the test changes.
    pub now: Instant,
    buffer: Vec<u8>,
}

impl Served {
    /// One that has just been accepted, whose client has sent `stream`.
    pub fn new(stream: &[u8]) -> Served {
        let (near, mut client) = UnixStream::pair().unwrap();
        client.write_all(stream).unwrap();
        near.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        let (near, now) = (OwnedFd::from(near).into(), Instant::now());
        let connection = Connection::new(near, now, true);
        Served { connection, client, now, buffer: vec![0; READ_LIMIT] }
    }

    /// Its part of a tick, but for the replies.
    pub fn serve(&mut self, context: &mut Context) {
        (context.session.work, context.session.depends_on) = (0, 0);
        self.connection.serve(&mut self.buffer, self.now, context).unwrap();
    }

    /// Serves it as long as it has requests to execute, and nobody has to take replies.
    /// Returns in how many ticks.
    pub fn serve_all(&mut self, context: &mut Context) -> usize {
        self.serve(context);
        let mut ticks = 1;
        while self.connection.waits_for() == Some(Waits::Turn) {
            self.serve(context);
            ticks += 1;
        }
        ticks
    }

    /// Lets replies leave, as far as the socket takes them.
    pub fn flush(&mut self, context: &mut Context) {
        self.connection.flush(self.now, context).unwrap();
    }

    /// The replies that it has, taken by its client.
    pub fn replies(&mut self, context: &mut Context) -> String {
        let mut replies = Vec::new();
        loop {
            self.flush(context);
            let error = self.client.read_to_end(&mut replies).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            if self.connection.waits_for() != Some(Waits::Output) {
                return String::from_utf8(replies).unwrap();
            }
        }
    }
}

/// What a connection answers to `stream`, which arrives in `pieces`. The client takes
/// at most `taken` bytes at a time.
pub fn answers(
    dialect: Dialect,
    stream: &[u8],
    max_item_size: usize,
    pieces: &mut dyn FnMut() -> usize,
    taken: usize,
) -> Vec<u8> {
    let directory = TempDir::new();
    let mut context = Context::new(shared(dialect, &directory, max_item_size), 0);
    context.session.now = NOW;
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    let near = Stream::from(OwnedFd::from(near));
    let (now, mut buffer) = (Instant::now(), vec![0; READ_LIMIT]);
    let mut connection = Connection::new(near, now, true);
    let (mut sent, mut answers, mut taken) = (0, Vec::new(), vec![0; taken]);
    let mut idle = 0;
    while connection.waits_for().is_some() {
        idle += 1;
        assert!(idle < 100, "stuck after {} bytes of answers", answers.len());
        if sent < stream.len() {
            let end = stream.len().min(sent + pieces());
            // Where there is no room, the connection has to read first.
            if let Ok(count) = far.write(&stream[sent..end]) {
                sent += count;
                idle = 0;
            }
            if sent == stream.len() {
                far.shutdown(Shutdown::Write).unwrap();
            }
        }
        // A worker's tick.
        (context.session.work, context.session.depends_on) = (0, 0);
        connection.serve(&mut buffer, now, &mut context).unwrap();
        let position = context.session.depends_on;
        context.shared.store.commit(position, NOW).unwrap();
        connection.flush(now, &mut context).unwrap();
        match far.read(&mut taken) {
            Ok(count) => {
                answers.extend_from_slice(&taken[..count]);
                idle = 0;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    drop(connection);
    far.set_nonblocking(false).unwrap();
    // Closed with bytes unread, a socket says so after the last answer.
    if let Err(error) = far.read_to_end(&mut answers) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    answers
}

/// Parses `input` to its end; all that is asked is that there is one.
pub fn consume(dialect: Dialect, mut input: &[u8]) {
    let mut swallow = None;
    while !input.is_empty() {
        let used = match swallow.take() {
            Some(length) => match dialect.block_end(input, length) {
                BlockEnd::Need(needed) => {
                    assert!(needed > input.len());
                    return;
                }
                BlockEnd::Found(end) | BlockEnd::Missing(end) => end,
            },
            None => match dialect.parse(input, &LIMITS) {
                Parsed::NeedLine(needed) | Parsed::NeedBytes(needed) => {
                    assert!(needed >= input.len());
                    return;
                }
                Parsed::Request { used, .. } => used,
                Parsed::Rejected(rejection) => {
                    swallow = rejection.swallow;
                    rejection.used
                }
                Parsed::Close(_) => return,
            },
        };
        assert!((1..=input.len()).contains(&used));
        input = &input[used..];
    }
}

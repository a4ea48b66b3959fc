//! memcached's text protocol, the client's half: bytes <-> [`Request`]. Pure: no
//! sockets, no clock, no store. The server's half is in `reply.rs`.
//!
//! Two kinds of data travel: command lines, and data blocks whose length the line
//! before has announced. All that is hard about the protocol is keeping the two
//! apart, also after an error:
//!
//! - P1: [`parse`] is a function of the bytes alone. However a stream is cut into
//!   reads, the same requests come out.
//! - P2: an announced block is never run as commands: a line that is refused for
//!   another reason than its length says how many bytes are to be swallowed.
//! - P3: too little input is a value, [`Parsed::Unended`] or [`Parsed::Incomplete`],
//!   and not an error.
//! - P4: a length is only a number here; nothing is allocated for it.
//!
//! A line ends in `\n`, and one `\r` before it is dropped; a block ends in `\r\n` or,
//! for people at `nc`, in `\n`. Words are separated by blanks.
//!
//! Source: `doc/protocol.txt` of memcached. Left out: the meta commands, so clients
//! that insist on them can't be used, and the binary protocol, which memcached itself
//! has deprecated.

use crate::reply::Error;
use crate::words::{Words, append, signed, unsigned};

/// The largest length that a command line may announce, in bytes.
pub const MAX_LENGTH: u64 = (1 << 31) - 3;

/// The sizes that a server grants its clients, all in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest key.
    pub key_size: usize,
    /// The largest value.
    pub max_value: usize,
    /// The most that a key and its value may have together.
    pub max_item_size: usize,
}

impl Limits {
    /// Whether a value of this length is more than is taken under this key.
    pub(crate) fn is_too_large(&self, key: &[u8], length: usize) -> bool {
        length > self.max_value || key.len() + length > self.max_item_size
    }

    /// The longest line, but for those that carry any number of keys.
    pub(crate) fn line(&self) -> usize {
        (self.key_size + 256).max(2048)
    }

    /// The longest line of the get family.
    fn keys_line(&self) -> usize {
        self.line().max(self.max_item_size)
    }

    /// More than any request has, with its block and what ends it. In `raw`, a line may
    /// be as long before its size as behind it.
    pub(crate) fn request(&self) -> usize {
        2 * self.line() + self.max_item_size + 128
    }
}

/// What [`parse`] found at the head of the input.
#[derive(Debug, PartialEq)]
pub enum Parsed<'a> {
    /// P3. No line end yet. Without one, more than so many bytes are too long a line.
    Unended(usize),
    /// P3. No whole data block: this many bytes are needed, counted from the head.
    Incomplete(usize),
    /// A request.
    Message(Message<'a>),
    /// Something that is answered with an error.
    Refused(Refusal<'a>),
    /// Nothing that we talk to: the connection is closed without an answer.
    Hangup,
}

/// A request and what goes with it.
#[derive(Debug, PartialEq)]
pub struct Message<'a> {
    /// What is asked for.
    pub request: Request<'a>,
    /// No answer is wanted.
    pub noreply: bool,
    /// How many bytes of the input it took up.
    pub used: usize,
}

/// A request that is malformed or too large.
#[derive(Debug, PartialEq)]
pub struct Refusal<'a> {
    /// What is answered.
    pub error: Error,
    /// No answer is wanted.
    pub noreply: bool,
    /// How many bytes of the input it took up.
    pub used: usize,
    /// P2: the length of the data block that is to be swallowed before the answer.
    pub swallow: Option<usize>,
    /// A key whose old value goes: it was to be set to a value that is too large, and
    /// what its writer holds to be gone must not be read any more.
    pub stale: Option<&'a [u8]>,
}

/// What a client asks for. Keys and values borrow from the input.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// `get`, `gets`, `gat`, `gats`: the values of these keys.
    Get(Retrieval, Words<'a>),
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store {
        /// Which of them.
        verb: Verb,
        /// Under which key.
        key: &'a [u8],
        /// 32 bits of the client's.
        flags: u32,
        /// 0 never; up to 30 days, seconds from now; else a date in Unix seconds.
        exptime: i64,
        /// For `cas`: the unique that the item must still have.
        unique: u64,
        /// The data block.
        value: &'a [u8],
    },
    /// `delete`.
    Delete(&'a [u8]),
    /// `incr` or `decr`.
    Count {
        /// It is `incr`.
        up: bool,
        /// Which number.
        key: &'a [u8],
        /// By how much.
        delta: u64,
    },
    /// `touch`.
    Touch {
        /// Which item.
        key: &'a [u8],
        /// The new exptime.
        exptime: i64,
    },
    /// `flush_all`.
    FlushAll {
        /// When, given like an exptime; 0 or negative is at once.
        delay: i64,
    },
    /// `stats`.
    Stats(Topic),
    /// `version`.
    Version,
    /// `verbosity`, which is accepted and changes nothing.
    Verbosity,
    /// `quit`.
    Quit,
    /// The `set` by which a stranger shows who he is, see `auth.rs`: its block.
    Authenticate(&'a [u8]),
}

/// What the four commands of the get family differ in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retrieval {
    /// Each value comes with its unique: `gets`, `gats`.
    pub unique: bool,
    /// Each item gets a new exptime: `gat`, `gats`.
    pub exptime: Option<i64>,
}

/// The commands that store a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verb {
    /// Whatever is there.
    Set,
    /// If nothing is there.
    Add,
    /// If something is there.
    Replace,
    /// Behind what is there.
    Append,
    /// Before what is there.
    Prepend,
    /// If what is there has not changed.
    Cas,
}

/// What `stats` is to tell about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Topic {
    /// `stats` alone.
    General,
    /// `stats settings`.
    Settings,
    /// `stats reset`.
    Reset,
    /// `items`, `slabs`, `sizes`, `conns`: of memory that is not managed here.
    Nothing,
}

/// Finds the request at the head of `input`.
pub fn parse<'a>(input: &'a [u8], limits: &Limits) -> Parsed<'a> {
    let limit = if carries_keys(input) { limits.keys_line() } else { limits.line() };
    let (line, used) = match first_line(input, limit) {
        Ok(found) => found,
        Err(parsed) => return parsed,
    };
    let body = &input[used..];
    let mut words = Words(line);
    let command = words.next().unwrap_or_default();
    let (result, noreply) = match command {
        b"get" => (get(words, limits, false, None), false),
        b"gets" => (get(words, limits, true, None), false),
        b"gat" => (get_and_touch(words, limits, false), false),
        b"gats" => (get_and_touch(words, limits, true), false),
        b"delete" => (delete(words, limits), is_noreply(words, 1)),
        b"incr" => (count(true, words, limits), is_noreply(words, 1)),
        b"decr" => (count(false, words, limits), is_noreply(words, 1)),
        b"touch" => (touch(words, limits), is_noreply(words, 1)),
        b"flush_all" => (flush_all(words), is_noreply(words, 0)),
        b"verbosity" => (verbosity(words), is_noreply(words, 0)),
        b"stats" => (stats(words), false),
        b"version" => (Ok(Request::Version), false),
        b"quit" => (Ok(Request::Quit), false),
        [] | [_] => (Err(Error::BadFormat), false),
        _ => match Verb::named(command) {
            Some(verb) => return store(verb, words, body, used, limits),
            None if is_http(line) => return Parsed::Hangup,
            None => (Err(Error::Unknown), false),
        },
    };
    match result {
        Ok(request) => Parsed::Message(Message { request, noreply, used }),
        Err(error) => refuse(error, noreply, used),
    }
}

/// The line at the head of `input`, without its end, and how many bytes it takes up;
/// or what there is instead, where no line may have more than `limit` bytes.
pub(crate) fn first_line(
    input: &[u8],
    limit: usize,
) -> Result<(&[u8], usize), Parsed<'_>> {
    if is_foreign(input) {
        return Err(Parsed::Hangup);
    }
    let window = &input[..input.len().min(limit + 1)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        // P1: a line is too long by its length, and not by where a read has ended.
        return Err(match input.len() > limit {
            true => Parsed::Hangup,
            false => Parsed::Unended(limit),
        });
    };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    Ok((line, end + 1))
}

/// Whether another protocol begins here: a TLS handshake (0x16), or memcached's binary
/// one (0x80). Both carry bytes that others have chosen, line ends among them, which
/// would be run as commands; and whoever speaks them waits for an answer that we don't
/// have.
pub(crate) fn is_foreign(input: &[u8]) -> bool {
    matches!(input.first(), Some(0x16 | 0x80))
}

/// Whether the line is the first of a browser's request, which anybody's page may have
/// it send: what follows is not to be looked at.
pub(crate) fn is_http(line: &[u8]) -> bool {
    Words(line).skip(1).last().is_some_and(|word| word.starts_with(b"HTTP/"))
}

pub(crate) fn refuse<'a>(error: Error, noreply: bool, used: usize) -> Parsed<'a> {
    Parsed::Refused(Refusal { error, noreply, used, swallow: None, stale: None })
}

/// Whether the line that begins here may be as long as the largest item.
fn carries_keys(input: &[u8]) -> bool {
    [&b"get "[..], b"gets ", b"gat ", b"gats "]
        .iter()
        .any(|name| input.starts_with(name))
}

/// Whether the last word, behind the first `fixed` ones, is `noreply`.
fn is_noreply(words: Words, fixed: usize) -> bool {
    words.skip(fixed).last() == Some(b"noreply")
}

fn key<'a>(words: &mut Words<'a>, limits: &Limits) -> Result<&'a [u8], Error> {
    words.next().filter(|word| is_key(word, limits)).ok_or(Error::BadFormat)
}

pub(crate) fn is_key(word: &[u8], limits: &Limits) -> bool {
    (1..=limits.key_size).contains(&word.len()) && !word.contains(&0)
}

fn get<'a>(
    keys: Words<'a>,
    limits: &Limits,
    unique: bool,
    exptime: Option<i64>,
) -> Result<Request<'a>, Error> {
    // All keys are looked at before the first is answered: one that is too long
    // replaces the whole answer.
    let mut rest = keys;
    key(&mut rest, limits)?;
    match rest.all(|word| is_key(word, limits)) {
        true => Ok(Request::Get(Retrieval { unique, exptime }, keys)),
        false => Err(Error::BadFormat),
    }
}

fn get_and_touch<'a>(
    mut words: Words<'a>,
    limits: &Limits,
    unique: bool,
) -> Result<Request<'a>, Error> {
    let exptime = signed(words.next().ok_or(Error::BadFormat)?);
    // A bad key counts for more than a bad exptime.
    let request = get(words, limits, unique, exptime)?;
    exptime.map(|_| request).ok_or(Error::InvalidExptime)
}

/// `<verb> <key> <flags> <exptime> <length> [<unique>] [noreply]`, then the block,
/// with which `body` begins, `used` bytes behind the head.
fn store<'a>(
    verb: Verb,
    mut words: Words<'a>,
    body: &'a [u8],
    used: usize,
    limits: &Limits,
) -> Parsed<'a> {
    // A missing word is an empty one, and an empty one is no key and no number.
    let mut word = || words.next().unwrap_or_default();
    let (key, flags, exptime, length) = (word(), word(), word(), word());
    let unique = if verb == Verb::Cas { word() } else { b"0" };
    // Without a length there is no telling where the next line begins, so this is
    // answered even where no answer was wanted.
    let length = match unsigned(length) {
        // P4
        Some(length) if length <= MAX_LENGTH && !unique.is_empty() => length as usize,
        _ => return refuse(Error::BadFormat, false, used),
    };
    let noreply = is_noreply(words, 0);
    let refuse_block = |error, stale| {
        let swallow = Some(length);
        Parsed::Refused(Refusal { error, noreply, used, swallow, stale })
    };
    let flags = unsigned(flags).and_then(|flags| u32::try_from(flags).ok());
    let (Some(flags), Some(exptime), Some(unique), true) =
        (flags, signed(exptime), unsigned(unique), is_key(key, limits))
    else {
        return refuse_block(Error::BadFormat, None);
    };
    if limits.is_too_large(key, length) {
        return refuse_block(Error::TooLarge, (verb == Verb::Set).then_some(key));
    }
    match block_end(body, length) {
        BlockEnd::Incomplete(needed) => Parsed::Incomplete(used + needed),
        BlockEnd::Missing(end) => refuse(Error::BadChunk, noreply, used + end),
        BlockEnd::Found(end) => {
            let value = &body[..length];
            let request = Request::Store { verb, key, flags, exptime, unique, value };
            Parsed::Message(Message { request, noreply, used: used + end })
        }
    }
}

/// Where a data block ends, its line end included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BlockEnd {
    /// This many bytes are needed to tell.
    Incomplete(usize),
    /// After this many bytes.
    Found(usize),
    /// There is something else where the line end should be; these bytes are used up.
    Missing(usize),
}

/// Looks for the end of a block of `length` bytes with which `bytes` begins.
pub fn block_end(bytes: &[u8], length: usize) -> BlockEnd {
    match bytes.get(length..).unwrap_or_default() {
        [] => BlockEnd::Incomplete(length + 1),
        [b'\n', ..] => BlockEnd::Found(length + 1),
        [_] => BlockEnd::Incomplete(length + 2),
        [b'\r', b'\n', ..] => BlockEnd::Found(length + 2),
        _ => BlockEnd::Missing(length + 2),
    }
}

fn delete<'a>(mut words: Words<'a>, limits: &Limits) -> Result<Request<'a>, Error> {
    let word = words.next().ok_or(Error::BadFormat)?;
    // An old form has a hold time behind the key, of which only 0 is left.
    let rest = [words.next(), words.next(), words.next()];
    match rest.map(Option::unwrap_or_default) {
        [b"" | b"0" | b"noreply", b"", b""] | [b"0", b"noreply", b""] => {}
        _ => return Err(Error::DeleteUsage),
    }
    key(&mut Words(word), limits).map(Request::Delete)
}

fn count<'a>(
    up: bool,
    mut words: Words<'a>,
    limits: &Limits,
) -> Result<Request<'a>, Error> {
    let key = key(&mut words, limits)?;
    let delta = words.next().ok_or(Error::BadFormat)?;
    let delta = unsigned(delta).ok_or(Error::InvalidDelta)?;
    Ok(Request::Count { up, key, delta })
}

fn touch<'a>(mut words: Words<'a>, limits: &Limits) -> Result<Request<'a>, Error> {
    let key = key(&mut words, limits)?;
    let exptime = words.next().ok_or(Error::BadFormat)?;
    let exptime = signed(exptime).ok_or(Error::InvalidExptime)?;
    Ok(Request::Touch { key, exptime })
}

fn flush_all<'a>(mut words: Words<'a>) -> Result<Request<'a>, Error> {
    match words.next() {
        None | Some(b"noreply") => Ok(Request::FlushAll { delay: 0 }),
        Some(delay) => {
            let delay = signed(delay).ok_or(Error::InvalidExptime)?;
            Ok(Request::FlushAll { delay })
        }
    }
}

fn verbosity<'a>(mut words: Words<'a>) -> Result<Request<'a>, Error> {
    match words.next() {
        Some(level) if level == b"noreply" || unsigned(level).is_some() => {
            Ok(Request::Verbosity)
        }
        _ => Err(Error::BadFormat),
    }
}

fn stats<'a>(mut words: Words<'a>) -> Result<Request<'a>, Error> {
    match words.next() {
        None => Ok(Request::Stats(Topic::General)),
        Some(b"settings") => Ok(Request::Stats(Topic::Settings)),
        Some(b"reset") => Ok(Request::Stats(Topic::Reset)),
        Some(b"items" | b"slabs" | b"sizes" | b"conns") => {
            Ok(Request::Stats(Topic::Nothing))
        }
        Some(_) => Err(Error::Unknown),
    }
}

impl Request<'_> {
    /// Puts the request behind `out`, as a client sends it.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut words = |words: &[&[u8]]| out.extend_from_slice(&words.join(&b' '));
        match self {
            Request::Get(Retrieval { unique, exptime }, keys) => {
                words(&[if exptime.is_some() { b"gat" } else { b"get" }]);
                append(out, format_args!("{}", if *unique { "s" } else { "" }));
                if let Some(exptime) = exptime {
                    append(out, format_args!(" {exptime}"));
                }
                for key in *keys {
                    out.push(b' ');
                    out.extend_from_slice(key);
                }
            }
            Request::Store { verb, key, flags, exptime, unique, value } => {
                words(&[verb.name().as_bytes(), key]);
                append(out, format_args!(" {flags} {exptime} {}", value.len()));
                if *verb == Verb::Cas {
                    append(out, format_args!(" {unique}"));
                }
            }
            Request::Delete(key) => words(&[b"delete", key]),
            Request::Count { up, key, delta } => {
                words(&[if *up { b"incr" } else { b"decr" }, key]);
                append(out, format_args!(" {delta}"));
            }
            Request::Touch { key, exptime } => {
                words(&[b"touch", key]);
                append(out, format_args!(" {exptime}"));
            }
            Request::FlushAll { delay } => {
                append(out, format_args!("flush_all {delay}"))
            }
            Request::Stats(Topic::General) => words(&[b"stats"]),
            Request::Stats(Topic::Settings) => words(&[b"stats", b"settings"]),
            Request::Stats(Topic::Reset) => words(&[b"stats", b"reset"]),
            Request::Stats(Topic::Nothing) => words(&[b"stats", b"items"]),
            Request::Version => words(&[b"version"]),
            Request::Verbosity => words(&[b"verbosity", b"0"]),
            Request::Quit => words(&[b"quit"]),
            Request::Authenticate(block) => {
                append(out, format_args!("set login 0 0 {}", block.len()));
            }
        }
        out.extend_from_slice(b"\r\n");
        if let Request::Store { value, .. } | Request::Authenticate(value) = self {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl Verb {
    const NAMES: [(Verb, &str); 6] = [
        (Verb::Set, "set"),
        (Verb::Add, "add"),
        (Verb::Replace, "replace"),
        (Verb::Append, "append"),
        (Verb::Prepend, "prepend"),
        (Verb::Cas, "cas"),
    ];

    /// The verb that has this name.
    pub fn named(name: &[u8]) -> Option<Verb> {
        let found = Verb::NAMES.iter().find(|(_, known)| known.as_bytes() == name);
        found.map(|(verb, _)| *verb)
    }

    /// The command's name.
    pub fn name(self) -> &'static str {
        Verb::NAMES[self as usize].1
    }
}

//! memcached's text protocol: bytes <-> [`Request`], and in `protocol/reply.rs` bytes <->
//! [`Reply`](reply::Reply). This room is pure: no sockets, no clock, nothing is stored.
//!
//! Two kinds of data travel: command lines, and data blocks whose length the line
//! before has announced. All that is hard about the protocol is keeping the two
//! apart, also after an error:
//!
//! - P1: [`parse`] is a function of the bytes and the limits alone. However a stream is
//!   cut into reads, the same requests come out.
//! - P2: an announced block is never run as commands: a line that is rejected for
//!   another reason than its length says how many bytes are to be swallowed.
//! - P3: too little input is a value, [`Parsed::NeedLine`] or [`Parsed::NeedBytes`],
//!   and not an error.
//! - P4: a length is only a number here; nothing is allocated for it.
//!
//! A line ends in `\n`, and one `\r` before it is dropped; a block ends in `\r\n` or,
//! for people at `nc`, in `\n`. Words are separated by spaces.
//!
//! | part | what it owns |
//! |---|---|
//! | [`words`] | the words of a line, and decimal numbers |
//! | [`reply`] | replies, and every phrase that goes over the wire |
//! | [`meta`] | the meta commands, and their replies |
//! | [`dialect`] | two older ways to word the same requests and replies |
//!
//! Source: `doc/protocol.txt` of memcached. Left out: the binary protocol, which memcached
//! itself has deprecated.

pub mod dialect;
pub mod meta;
pub mod reply;
pub mod words;

use crate::protocol::meta::Meta;
use crate::protocol::reply::Error;
use crate::protocol::words::{Words, append, is_key, signed, unsigned};
use crate::store::{Limits, Update, Verb};
use std::borrow::Cow;

/// The largest length that a command line may announce, in bytes, as in memcached.
pub const MAX_LENGTH: u64 = (1 << 31) - 3;

/// The longest line, in bytes, as in memcached with its keys of 250 bytes. Lines of keys
/// may be longer.
pub(crate) fn max_line(limits: &Limits) -> usize {
    (limits.key_size + 256).max(2048)
}

/// What a client requests. Keys and values borrow from the input.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// `get`, `gets`, `gat`, `gats`: the values of these keys.
    Get {
        /// At least one.
        keys: Words<'a>,
        /// Each value comes with its unique: `gets`, `gats`.
        unique: bool,
        /// Each item gets a new exptime: `gat`, `gats`.
        exptime: Option<i64>,
    },
    /// A change of one item: `set`, `delete`, `incr` and so on.
    Update(Update<'a>),
    /// `mg`, `ms`, `md`, `ma`, `me`.
    Meta(Meta<'a>),
    /// `mn`, whose reply says that all before it have been executed.
    Noop,
    /// `flush_all`: when, given like an exptime; 0 or negative is at once.
    FlushAll(i64),
    /// `stats`.
    Stats(Topic),
    /// All items: their keys only (`lru_crawler mgdump`), if this is true, or else what is
    /// known about each (`metadump`).
    List(bool),
    /// `version`.
    Version,
    /// `verbosity`, and what would set up memcached's crawler, or statistics of key prefixes:
    /// accepted, and changes nothing.
    Verbosity,
    /// `cache_memlimit`: the most that the live records may have, in MiB; 0 is no limit.
    DataLimit(u64),
    /// `quit`.
    Quit,
}

/// What `stats` reports on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Topic {
    /// `stats` alone.
    General,
    /// `stats settings`.
    Settings,
    /// `stats reset`.
    Reset,
    /// `stats items`.
    Items,
    /// `slabs`, `sizes`, `conns`, `cachedump`: of memory that is not managed here.
    Nothing,
}

/// What [`parse`] found at the head of the input.
#[derive(Debug, PartialEq)]
pub enum Parsed<'a> {
    /// P3. No line end yet. Without one, more than this many bytes are too long a line.
    NeedLine(usize),
    /// P3. No whole data block: this many bytes are needed, counted from the head.
    NeedBytes(usize),
    /// A request.
    Request {
        /// What is requested.
        request: Request<'a>,
        /// No answer is wanted.
        noreply: bool,
        /// How many bytes of the input it took up.
        used: usize,
    },
    /// Something that is answered with an error.
    Rejected(Rejection<'a>),
    /// Another protocol, or too long a line, as it says: the connection is closed without an
    /// answer.
    Close(&'static str),
}

/// A request that is malformed or too large.
#[derive(Debug, PartialEq)]
pub struct Rejection<'a> {
    /// The answer.
    pub error: Error,
    /// No answer is wanted.
    pub noreply: bool,
    /// How many bytes of the input it took up.
    pub used: usize,
    /// P2: the length of the data block that is to be swallowed before the answer.
    pub swallow: Option<usize>,
    /// A key whose old value is removed: it was to be set to a value that is too large,
    /// and must not be read any more.
    pub removes: Option<Cow<'a, [u8]>>,
}

impl Error {
    /// A rejection of the `used` bytes of a line, without a data block.
    pub(crate) fn after<'a>(self, used: usize, noreply: bool) -> Parsed<'a> {
        let (error, swallow, removes) = (self, None, None);
        Parsed::Rejected(Rejection { error, noreply, used, swallow, removes })
    }
}

/// Finds the request at the head of `input`.
pub fn parse<'a>(input: &'a [u8], limits: &Limits) -> Parsed<'a> {
    let longest = match carries_keys(input) {
        true => max_line(limits).max(limits.max_item_size),
        false => max_line(limits),
    };
    let (line, used) = match first_line(input, 0, longest) {
        Ok(found) => found,
        Err(parsed) => return parsed,
    };
    let (mut words, body) = (Words(line), &input[used..]);
    let command = words.next().unwrap_or_default();
    let (result, noreply) = match command {
        b"get" => (get(words, limits, false, None), false),
        b"gets" => (get(words, limits, true, None), false),
        b"gat" => (get_and_touch(words, limits, false), false),
        b"gats" => (get_and_touch(words, limits, true), false),
        b"flush_all" => (flush_all(words), is_noreply(words)),
        b"verbosity" | b"cache_memlimit" => (tuning(command, words), is_noreply(words)),
        b"lru_crawler" => (lru_crawler(words), false),
        b"stats" => (stats(words), false),
        b"version" => (Ok(Request::Version), false),
        b"quit" => (Ok(Request::Quit), false),
        b"mn" => (Ok(Request::Noop), false),
        b"mg" | b"md" | b"ma" | b"me" => {
            let key = words.next().unwrap_or_default();
            (Meta::new(command, key, words, limits).map(Request::Meta), false)
        }
        b"ms" => return storage(None, words, body, used, limits),
        [] | [_] => (Err(Error::BadFormat), false),
        _ => match verb_named(command) {
            Some(verb @ (Verb::Delete | Verb::Incr | Verb::Decr | Verb::Touch)) => {
                let key = words.next();
                (change(verb, key, words, limits), is_noreply(words))
            }
            verb @ Some(_) => return storage(verb, words, body, used, limits),
            None if is_http(line) => return Parsed::Close("HTTP"),
            None => (Err(Error::Unknown), false),
        },
    };
    match result {
        Ok(request) => Parsed::Request { request, noreply, used },
        Err(error) => error.after(used, noreply),
    }
}

/// The line at the head of `input`, without its end, and how many bytes it takes up;
/// or what there is instead. Its end is searched for from `from` on, and no line may have
/// more than `longest` bytes from there.
// An error as large as a request is moved once a request, as that is.
#[expect(clippy::result_large_err)]
pub(crate) fn first_line(
    input: &[u8],
    from: usize,
    longest: usize,
) -> Result<(&[u8], usize), Parsed<'_>> {
    // A TLS handshake, or memcached's binary protocol. Both carry bytes that others have
    // chosen, line ends among them, which would be run as commands; and their client waits
    // for an answer that we don't have.
    match input.first() {
        Some(0x16) => return Err(Parsed::Close("TLS")),
        Some(0x80) => return Err(Parsed::Close("the binary protocol")),
        _ => {}
    }
    let window = &input[from..input.len().min(from + longest + 1)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        // P1: a line is too long by its length, and not by where a read has ended.
        let is_too_long = input.len() > from + longest;
        let need = Parsed::NeedLine(from + longest);
        return Err(if is_too_long { Parsed::Close("a line too long") } else { need });
    };
    let line = &input[..from + end];
    Ok((line.strip_suffix(b"\r").unwrap_or(line), from + end + 1))
}

/// Whether the line is the first of a browser's request, which anybody's page may have
/// it send: what follows must not be looked at.
pub(crate) fn is_http(line: &[u8]) -> bool {
    Words(line).skip(1).last().is_some_and(|word| word.starts_with(b"HTTP/"))
}

/// Whether the line that begins here may be as long as the largest item.
fn carries_keys(input: &[u8]) -> bool {
    [&b"get "[..], b"gets ", b"gat ", b"gats "]
        .iter()
        .any(|name| input.starts_with(name))
}

/// Whether the last of these words is `noreply`.
fn is_noreply(words: Words) -> bool {
    words.last() == Some(b"noreply")
}

fn get<'a>(
    keys: Words<'a>,
    limits: &Limits,
    unique: bool,
    exptime: Option<i64>,
) -> Result<Request<'a>, Error> {
    // All keys are checked before the first is answered: one that is too long replaces
    // the whole answer.
    let mut rest = keys;
    let first = rest.next().unwrap_or_default();
    match is_key(first, limits) && rest.all(|word| is_key(word, limits)) {
        true => Ok(Request::Get { keys, unique, exptime }),
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

/// `<verb> <key> <flags> <exptime> <length> [<unique>] [noreply]`, or `ms <key> <length>
/// <flag>*`, which is none of the verbs; then the block, with which `body` begins, `used`
/// bytes after the head.
fn storage<'a>(
    verb: Option<Verb>,
    mut words: Words<'a>,
    body: &'a [u8],
    used: usize,
    limits: &Limits,
) -> Parsed<'a> {
    // A missing word is an empty one, and an empty one is neither a key nor a number.
    let all = words;
    let mut word = || words.next().unwrap_or_default();
    let (key, flags, exptime) = match verb {
        Some(_) => (word(), word(), word()),
        None => (word(), &b""[..], &b""[..]),
    };
    let length = word();
    let unique = if verb == Some(Verb::Cas) { word() } else { b"0" };
    // Without a length there is no telling where the next line begins, so this is
    // answered even where no answer was wanted.
    let Some(length) = unsigned(length).filter(|length| *length <= MAX_LENGTH) else {
        return Error::BadFormat.after(used, false);
    };
    // P4
    let (length, noreply) = (length as usize, verb.is_some() && is_noreply(all));
    let flags = unsigned(flags).and_then(|flags| u32::try_from(flags).ok());
    let head = match (verb, flags, signed(exptime), unsigned(unique)) {
        (None, ..) => Meta::new(b"ms", key, words, limits),
        (Some(verb), Some(flags), Some(exptime), Some(number))
            if is_key(key, limits) =>
        {
            let update = Update { verb, flags, exptime, number, ..Update::default() };
            let update = Update { key, ..update };
            Ok(Meta { name: b"", key: key.into(), flags: words, update })
        }
        _ => Err(Error::BadFormat),
    };
    let (error, removes) = match head {
        Err(error) => (error, None),
        Ok(Meta { key, update, .. }) if limits.is_too_large(&key, length) => {
            (Error::TooLarge, (update.verb == Verb::Set).then_some(key))
        }
        Ok(meta) => {
            return match block_end(body, length) {
                BlockEnd::Need(bytes) => Parsed::NeedBytes(used + bytes),
                BlockEnd::Missing(end) => Error::BadChunk.after(used + end, noreply),
                BlockEnd::Found(end) => {
                    let update = Update { value: &body[..length], ..meta.update };
                    let request = match verb {
                        None => Request::Meta(Meta { update, ..meta }),
                        Some(_) => Request::Update(update),
                    };
                    Parsed::Request { request, noreply, used: used + end }
                }
            };
        }
    };
    // P2
    let swallow = Some(length);
    Parsed::Rejected(Rejection { error, noreply, used, swallow, removes })
}

/// Where a data block ends, its line end included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BlockEnd {
    /// This many bytes are needed to tell.
    Need(usize),
    /// After this many bytes.
    Found(usize),
    /// There is something else where the line end should be; these bytes are used up.
    Missing(usize),
}

/// Finds the end of a block of `length` bytes with which `bytes` begins.
pub(crate) fn block_end(bytes: &[u8], length: usize) -> BlockEnd {
    match bytes.get(length..).unwrap_or_default() {
        [] => BlockEnd::Need(length + 1),
        [b'\n', ..] => BlockEnd::Found(length + 1),
        [_] => BlockEnd::Need(length + 2),
        [b'\r', b'\n', ..] => BlockEnd::Found(length + 2),
        _ => BlockEnd::Missing(length + 2),
    }
}

/// `delete <key>`, `incr <key> <delta>`, `decr` likewise, `touch <key> <exptime>`.
fn change<'a>(
    verb: Verb,
    key: Option<&'a [u8]>,
    mut words: Words<'a>,
    limits: &Limits,
) -> Result<Request<'a>, Error> {
    let key = key.ok_or(Error::BadFormat)?;
    if verb == Verb::Delete {
        // An old form has a hold time after the key, of which only 0 is left.
        let rest = [words.next(), words.next(), words.next()];
        match rest.map(Option::unwrap_or_default) {
            [b"" | b"0" | b"noreply", b"", b""] | [b"0", b"noreply", b""] => {}
            _ => return Err(Error::DeleteUsage),
        }
    }
    if !is_key(key, limits) {
        return Err(Error::BadFormat);
    }
    let mut update = Update { verb, key, ..Update::default() };
    if verb != Verb::Delete {
        let word = words.next().ok_or(Error::BadFormat)?;
        match verb {
            Verb::Touch => {
                update.exptime = signed(word).ok_or(Error::InvalidExptime)?;
            }
            _ => update.number = unsigned(word).ok_or(Error::InvalidDelta)?,
        }
    }
    Ok(Request::Update(update))
}

fn flush_all<'a>(mut words: Words<'a>) -> Result<Request<'a>, Error> {
    match words.next() {
        None | Some(b"noreply") => Ok(Request::FlushAll(0)),
        Some(delay) => {
            signed(delay).map(Request::FlushAll).ok_or(Error::InvalidExptime)
        }
    }
}

/// `verbosity <level>`, `cache_memlimit <megabytes>`.
fn tuning<'a>(command: &[u8], mut words: Words<'a>) -> Result<Request<'a>, Error> {
    let word = words.next().unwrap_or_default();
    match (command, unsigned(word)) {
        (b"cache_memlimit", Some(limit)) => Ok(Request::DataLimit(limit)),
        (b"cache_memlimit", None) => Err(Error::Unknown),
        (_, None) if word != b"noreply" => Err(Error::BadFormat),
        _ => Ok(Request::Verbosity),
    }
}

/// `lru_crawler <what> [<classes>]`. In memcached, a class has the items of one range of
/// sizes. Here, all are of class 1.
fn lru_crawler<'a>(mut words: Words<'a>) -> Result<Request<'a>, Error> {
    Ok(match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        (b"metadump", b"all" | b"hash" | b"1" | [b'1', b',', ..]) => {
            Request::List(false)
        }
        (b"mgdump", b"all" | b"hash" | b"1" | [b'1', b',', ..]) => Request::List(true),
        (b"enable" | b"disable", _) => Request::Verbosity,
        (b"crawl" | b"tocrawl" | b"sleep", [_, ..]) => Request::Verbosity,
        _ => return Err(Error::Unknown),
    })
}

fn stats<'a>(mut words: Words<'a>) -> Result<Request<'a>, Error> {
    Ok(Request::Stats(match (words.next().unwrap_or_default(), words.next()) {
        (b"", _) => Topic::General,
        (b"settings", _) => Topic::Settings,
        (b"reset", _) => Topic::Reset,
        (b"items", _) => Topic::Items,
        (b"slabs" | b"sizes" | b"conns" | b"cachedump", _) => Topic::Nothing,
        (b"detail", Some(b"on" | b"off")) => return Ok(Request::Verbosity),
        _ => return Err(Error::Unknown),
    }))
}

impl Request<'_> {
    /// Appends the request to `out`, as a client sends it.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Request::Get { keys, unique, exptime } => {
                out.extend_from_slice(match (exptime, unique) {
                    (None, false) => b"get",
                    (None, true) => b"gets",
                    (Some(_), false) => b"gat",
                    (Some(_), true) => b"gats",
                });
                if let Some(exptime) = exptime {
                    append(out, format_args!(" {exptime}"));
                }
                for key in *keys {
                    out.push(b' ');
                    out.extend_from_slice(key);
                }
            }
            Request::Update(update) => write_update(update, out),
            Request::Meta(meta) => meta.write_request(out),
            Request::Noop => out.extend_from_slice(b"mn"),
            Request::FlushAll(delay) => append(out, format_args!("flush_all {delay}")),
            Request::Stats(Topic::General) => out.extend_from_slice(b"stats"),
            Request::Stats(Topic::Settings) => out.extend_from_slice(b"stats settings"),
            Request::Stats(Topic::Reset) => out.extend_from_slice(b"stats reset"),
            Request::Stats(Topic::Items) => out.extend_from_slice(b"stats items"),
            Request::Stats(Topic::Nothing) => out.extend_from_slice(b"stats slabs"),
            Request::List(true) => out.extend_from_slice(b"lru_crawler mgdump all"),
            Request::List(false) => out.extend_from_slice(b"lru_crawler metadump all"),
            Request::Version => out.extend_from_slice(b"version"),
            Request::Verbosity => out.extend_from_slice(b"verbosity 0"),
            Request::DataLimit(n) => append(out, format_args!("cache_memlimit {n}")),
            Request::Quit => out.extend_from_slice(b"quit"),
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_update(update: &Update, out: &mut Vec<u8>) {
    let Update { verb, key, flags, exptime, number, value, .. } = update;
    out.extend_from_slice(name_of(*verb).as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    match verb {
        Verb::Delete => return,
        Verb::Incr | Verb::Decr => return append(out, format_args!(" {number}")),
        Verb::Touch => return append(out, format_args!(" {exptime}")),
        _ => append(out, format_args!(" {flags} {exptime} {}", value.len())),
    }
    if *verb == Verb::Cas {
        append(out, format_args!(" {number}"));
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(value);
}

/// In the order of [`Verb`].
const VERBS: [(Verb, &str); 11] = [
    (Verb::Set, "set"),
    (Verb::Add, "add"),
    (Verb::Replace, "replace"),
    (Verb::Append, "append"),
    (Verb::Prepend, "prepend"),
    (Verb::Cas, "cas"),
    (Verb::Delete, "delete"),
    (Verb::Incr, "incr"),
    (Verb::Decr, "decr"),
    (Verb::Touch, "touch"),
    (Verb::Get, "get"),
];

/// The verb of the command that has this name.
pub fn verb_named(name: &[u8]) -> Option<Verb> {
    let found = VERBS.iter().find(|(_, known)| known.as_bytes() == name);
    found.map(|(verb, _)| *verb)
}

/// The name of a verb's command.
pub fn name_of(verb: Verb) -> &'static str {
    VERBS[verb as usize].1
}

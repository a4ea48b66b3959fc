//! How requests and replies are worded: `--dialect`. memcached's way is that of
//! `protocol.rs` and `reply.rs`; the two older ones are here. Pure.
//!
//! | | `lite` | `raw` |
//! |---|---|---|
//! | request | `set <key> <bytes> \r\n<value> \r\n` | `set <key> <size> \r\n<value> \r\n` |
//! | reply | `STORED\r\n` or `NOT-STORED\r\n` | `STORED \r\n` or `NOT-STORED \r\n` |
//! | request | `get <key>\r\n` | `get <key>\r\n` |
//! | reply | `VALUE <key> <bytes> \r\n<value>\r\nEND\r\n` | `VALUE <key> <size> \r\n<value> \r\nEND \r\n` |
//! | request | `delete\r\n`: everything | the same |
//! | reply | `DELETED\r\n` | `DELETED \r\n` |
//! | else | `INVALID REQUEST\r\n` | `INVALID REQUEST \r\n` |
//!
//! `<bytes>` are decimal digits and count the value alone. `<size>` are INT_SIZE bytes
//! of INT_ORDER, as in the data file, and count the value with its ` \r\n`. Spaces before
//! a line's end don't matter, nor do those after a value. Where nothing is stored, the
//! value is empty: in these dialects, the two are the same. A value that is too large
//! is `NOT-STORED`; a failure of the disk is `SERVER_ERROR`, as in memcached.
//!
//! The rules P1 to P4 of `protocol.rs` hold here, too. In `raw`, P1 is the hard one:
//! the bytes of a size may look like a line's end, and so it has to be known where they
//! stand. In its `set`, one space stands before the key and one after it, no more.

use crate::protocol::reply::{Error, Reply, ValueLine, write_value};
use crate::protocol::words::{Words, append, is_key, unsigned};
use crate::protocol::{BlockEnd, MAX_LENGTH, Parsed, Rejection, Request};
use crate::protocol::{block_end, first_line, is_http, max_line, parse};
use crate::store::record::Format;
use crate::store::{Answer, Limits, Update, Verb};

/// The most bytes after a value in which its line's end is searched for.
const MAX_TAIL: usize = 64;

/// What a size in `raw` counts beside the value: ` \r\n`.
const END_LEN: u64 = 3;

const NOT_STORED: &[u8] = b"NOT-STORED";
const DELETED: &[u8] = b"DELETED";

/// What these dialects say to anything malformed.
pub(crate) const INVALID_REQUEST: &[u8] = b"INVALID REQUEST";

/// How requests and replies are worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As memcached does: `protocol.rs` and `reply.rs`.
    Memcached,
    /// Sizes in decimal digits.
    Lite,
    /// Sizes as they stand in a data file of this format.
    Raw(Format),
}

impl Dialect {
    /// The dialects by their names, for data of this format.
    pub(crate) fn names(format: Format) -> [(&'static str, Dialect); 3] {
        let raw = Dialect::Raw(format);
        [("memcached", Dialect::Memcached), ("lite", Dialect::Lite), ("raw", raw)]
    }
}

// The server's side.
impl Dialect {
    /// Finds the request at the head of `input`.
    pub fn parse<'a>(self, input: &'a [u8], limits: &Limits) -> Parsed<'a> {
        if self == Dialect::Memcached {
            return parse(input, limits);
        }
        let longest = max_line(limits);
        let size_end = self.size_end(&input[..input.len().min(longest)], b"set ");
        if input.len() < size_end {
            return Parsed::NeedBytes(size_end + 1);
        }
        let (line, used) = match first_line(input, size_end, longest) {
            Ok(found) => found,
            Err(parsed) => return parsed,
        };
        let malformed = Error::BadFormat.after(used, false);
        let mut words = Words(line);
        let request = match (words.next().unwrap_or_default(), words.next()) {
            (b"set", Some(_)) => return self.parse_set(input, used, limits),
            (b"get", Some(key)) if is_key(key, limits) => {
                Request::Get { keys: Words(key), unique: false, exptime: None }
            }
            (b"delete", None) => Request::FlushAll(0),
            _ if is_http(line) => return Parsed::Close("HTTP"),
            _ => return malformed,
        };
        match words.next() {
            None => Parsed::Request { request, noreply: false, used },
            Some(_) => malformed,
        }
    }

    /// A set whose line is the first `used` bytes.
    fn parse_set<'a>(
        self,
        input: &'a [u8],
        used: usize,
        limits: &Limits,
    ) -> Parsed<'a> {
        let (line, body) = input.split_at(used);
        let malformed = Error::BadFormat.after(used, false);
        let Some((key, length, rest)) = self.split_size(line, b"set ") else {
            return malformed;
        };
        let is_raw = matches!(self, Dialect::Raw(_));
        // In raw, what has more than spaces after it, or no key before it, is likely not a
        // size, but a piece of a request in decimal digits.
        let is_no_size = is_raw && (key.is_empty() || !is_blank(rest));
        if length > MAX_LENGTH || is_no_size {
            return malformed;
        }
        // P4
        let length = length as usize;
        let reject = |error, removes| {
            let (noreply, swallow) = (false, Some(length));
            Parsed::Rejected(Rejection { error, noreply, used, swallow, removes })
        };
        // P2
        if !is_key(key, limits) || !is_blank(rest) {
            return reject(Error::BadFormat, None);
        }
        if limits.is_too_large(key, length) {
            return reject(Error::TooLarge, Some(key.into()));
        }
        match self.block_end(body, length) {
            BlockEnd::Need(bytes) => Parsed::NeedBytes(used + bytes),
            BlockEnd::Missing(end) => Error::BadChunk.after(used + end, false),
            BlockEnd::Found(end) => {
                let update =
                    Update { key, value: &body[..length], ..Update::default() };
                let (request, used) = (Request::Update(update), used + end);
                Parsed::Request { request, noreply: false, used }
            }
        }
    }

    /// Finds the end of a block of `length` bytes with which `bytes` begins. One that has
    /// something else than spaces after it is used up to its line's end, so that one
    /// mistake is answered once.
    pub fn block_end(self, bytes: &[u8], length: usize) -> BlockEnd {
        if self == Dialect::Memcached {
            return block_end(bytes, length);
        }
        let rest = bytes.get(length..).unwrap_or_default();
        let window = &rest[..rest.len().min(MAX_TAIL)];
        match window.iter().position(|&byte| byte == b'\n') {
            Some(end) if is_blank(&rest[..=end]) => BlockEnd::Found(length + end + 1),
            Some(end) => BlockEnd::Missing(length + end + 1),
            None if window.len() == MAX_TAIL => BlockEnd::Missing(length + MAX_TAIL),
            None => BlockEnd::Need(length + window.len() + 1),
        }
    }

    /// Appends a hit to `out`. The error says why the dialect has no words for it; what
    /// was appended then is to be discarded.
    pub fn write_value(
        self,
        out: &mut Vec<u8>,
        key: &[u8],
        flags: u32,
        unique: Option<u64>,
        value: &[u8],
    ) -> Result<(), String> {
        if self == Dialect::Memcached {
            write_value(out, key, flags, unique, value);
            return Ok(());
        }
        if !self.write_sized(b"VALUE ", key, value, out) {
            return Err("the value is too large for a size of this dialect".into());
        }
        out.extend_from_slice(self.line_end());
        Ok(())
    }

    /// Appends to `out` what a key without a value is answered with.
    pub fn write_miss(self, out: &mut Vec<u8>, key: &[u8]) -> Result<(), String> {
        match self {
            Dialect::Memcached => Ok(()),
            Dialect::Lite | Dialect::Raw(_) => self.write_value(out, key, 0, None, b""),
        }
    }

    /// Appends a reply's line to `out`.
    pub fn write_reply(self, reply: &Reply, out: &mut Vec<u8>) {
        match reply {
            _ if self == Dialect::Memcached => reply.write_line(out),
            Reply::Answer(Answer::NotStored) | Reply::Rejected(Error::TooLarge) => {
                out.extend_from_slice(NOT_STORED);
            }
            Reply::Rejected(_) => out.extend_from_slice(INVALID_REQUEST),
            Reply::Ok => out.extend_from_slice(DELETED),
            _ => reply.write_line(out),
        }
        out.extend_from_slice(self.line_end());
    }
}

// The client's side.
impl Dialect {
    /// Appends a request to `out`, as a client sends it; false if the dialect has no words
    /// for it, or a value is larger than it can say.
    pub fn write_request(self, request: &Request, out: &mut Vec<u8>) -> bool {
        match request {
            _ if self == Dialect::Memcached => request.write_to(out),
            Request::Get { keys, unique: false, exptime: None }
                if keys.count() == 1 =>
            {
                request.write_to(out);
            }
            Request::FlushAll(0) => out.extend_from_slice(b"delete\r\n"),
            Request::Update(Update {
                verb: Verb::Set,
                key,
                flags: 0,
                exptime: 0,
                value,
                ..
            }) if self.write_sized(b"set ", key, value, out) => {
                out.extend_from_slice(b" \r\n");
            }
            _ => return false,
        }
        true
    }

    /// Whether `bytes`, which end in `\n`, are a whole line of a reply: that byte may
    /// be one of a size.
    pub fn is_line(self, bytes: &[u8]) -> bool {
        match self.size_end(bytes, b"VALUE ") {
            0 => true,
            size_end => bytes.len() >= size_end + END_LEN as usize,
        }
    }

    /// Reads the line above a data block, without its `\r\n`.
    pub fn parse_value_line(self, line: &[u8]) -> Option<ValueLine<'_>> {
        if self == Dialect::Memcached {
            return ValueLine::parse(line);
        }
        let (key, length, rest) =
            self.split_size(line, b"VALUE ").filter(|_| line.starts_with(b"VALUE "))?;
        let length = length.try_into().ok().filter(|_| is_blank(rest))?;
        Some(ValueLine { key, flags: 0, length, unique: None })
    }

    /// The reply that a line without its end is; `None` for a rejection, and for what
    /// is not a reply of one line.
    pub fn parse_reply(self, line: &[u8]) -> Option<Reply> {
        match line.trim_ascii_end() {
            _ if self == Dialect::Memcached => Reply::parse(line),
            NOT_STORED => Some(Reply::Answer(Answer::NotStored)),
            DELETED => Some(Reply::Ok),
            line => Reply::parse(line),
        }
    }
}

// How lite and raw write a size.
impl Dialect {
    /// What ends a line of a reply, and a value.
    pub fn line_end(self) -> &'static [u8] {
        if matches!(self, Dialect::Raw(_)) { b" \r\n" } else { b"\r\n" }
    }

    /// Where a size ends that may look like a line's end, in a line that begins with
    /// `name`; 0 if there is none.
    fn size_end(self, bytes: &[u8], name: &[u8]) -> usize {
        let Dialect::Raw(format) = self else { return 0 };
        let Some(rest) = bytes.strip_prefix(name) else { return 0 };
        match rest.iter().position(|byte| b" \n".contains(byte)) {
            Some(end) if rest[end] == b' ' => {
                name.len() + end + 1 + usize::from(format.int_size)
            }
            _ => 0,
        }
    }

    /// The key and the length of the value in a line with a size, and what follows it, the
    /// line's end included. In raw, the line begins with `name`.
    fn split_size<'l>(
        self,
        line: &'l [u8],
        name: &[u8],
    ) -> Option<(&'l [u8], u64, &'l [u8])> {
        let Dialect::Raw(format) = self else {
            let text = without_end(line);
            let mut words = Words(text);
            let (key, length) = (words.nth(1)?, words.next().and_then(unsigned)?);
            return Some((key, length, &line[text.len() - words.0.len()..]));
        };
        let end = self.size_end(line, name);
        let start = end.checked_sub(format.int_size.into())?;
        let size = format.int_order.read(line.get(start..end)?);
        let key = &line[name.len()..start - 1];
        Some((key, size.checked_sub(END_LEN)?, &line[end..]))
    }

    /// Appends a line with the size of `value`, and the value, to `out`; false if no size
    /// of the dialect says how long it is.
    fn write_sized(
        self,
        name: &[u8],
        key: &[u8],
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        out.extend_from_slice(name);
        out.extend_from_slice(key);
        out.push(b' ');
        if let Dialect::Raw(format) = self {
            let size = value.len() as u64 + END_LEN;
            if size > format.max_value() {
                return false;
            }
            let start = out.len();
            out.resize(start + usize::from(format.int_size), 0);
            format.int_order.write(&mut out[start..], size);
        } else {
            append(out, format_args!("{}", value.len()));
        }
        out.extend_from_slice(b" \r\n");
        out.extend_from_slice(value);
        true
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// Whether a line, with its end, has nothing else in it.
fn is_blank(line: &[u8]) -> bool {
    without_end(line).iter().all(|&byte| byte == b' ')
}

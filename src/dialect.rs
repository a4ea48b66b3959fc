//! Two older ways to ask for the same things, beside memcached's: `--dialect`. Pure.
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
//! of INT_ORDER, as in the data file, and count the value with its ` \r\n`. Blanks before
//! a line's end don't matter, nor do those behind a value. Where nothing is stored, the
//! value is empty: in these dialects, the two are the same. A value that is too large
//! is `NOT-STORED`; trouble with the disk is `SERVER_ERROR`, as in memcached.
//!
//! The rules P1 to P4 of `protocol.rs` hold here, too. In `raw`, P1 is the hard one:
//! the bytes of a size may look like a line's end, and so it has to be known where they
//! stand. In its `set`, one blank stands before the key and one behind it, no more.

use crate::protocol::{self, BlockEnd, Limits, MAX_LENGTH, Message, Parsed, Refusal};
use crate::protocol::{Request, Retrieval, Verb};
use crate::record::Format;
use crate::reply::{self, Error, Reply, ValueLine};
use crate::words::{Words, append, unsigned};

/// The most bytes behind a value in which its line's end is looked for.
const MAX_TAIL: usize = 64;

/// What a size in `raw` counts beside the value: ` \r\n`.
const END_LEN: u64 = 3;

/// Whose requests are understood, and whose replies given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// memcached's: `protocol.rs` and `reply.rs`.
    Memcached,
    /// Sizes in decimal digits.
    Lite,
    /// Sizes as they stand in a data file of this format.
    Raw(Format),
}

impl Dialect {
    /// Finds the request at the head of `input`.
    pub fn parse<'a>(self, input: &'a [u8], limits: &Limits) -> Parsed<'a> {
        if self == Dialect::Memcached {
            return protocol::parse(input, limits);
        }
        if protocol::is_foreign(input) {
            return Parsed::Hangup;
        }
        let limit = limits.line();
        // In raw, the words of a set end where its size begins, and its line's end is
        // looked for behind that.
        let mut size = None;
        let mut searched = 0;
        if let Dialect::Raw(format) = self
            && let Some(start) = size_start(&input[..input.len().min(limit)], b"set ")
        {
            searched = start + usize::from(format.int_size);
            match input.get(start..searched) {
                None => return Parsed::Incomplete(searched + 1),
                Some(bytes) => size = Some((start, format.int_order.read(bytes))),
            }
        }
        let window = &input[searched..input.len().min(searched + limit + 1)];
        let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
            // P1: too long by its length, and not by where a read has ended.
            return match window.len() > limit {
                true => Parsed::Hangup,
                false => Parsed::Unended(searched + limit),
            };
        };
        let (end, used) = (searched + end, searched + end + 1);
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let malformed = protocol::refuse(Error::BadFormat, false, used);
        let mut words = Words(size.map_or(line, |(start, _)| &line[..start]));
        let request = match (words.next().unwrap_or_default(), words.next()) {
            (b"set", Some(key)) => {
                let length = match (self, size) {
                    (Dialect::Lite, _) => words.next().and_then(unsigned),
                    // What has more than blanks behind it is no size, but likely a
                    // piece of a request in decimal digits.
                    (_, Some((_, size))) if is_blank(&input[searched..used]) => {
                        size.checked_sub(END_LEN)
                    }
                    _ => None,
                };
                // P4
                return match length {
                    Some(length) if length <= MAX_LENGTH => {
                        let fits =
                            words.next().is_none() && protocol::is_key(key, limits);
                        let key = fits.then_some(key);
                        self.set(key, length as usize, input, used, limits)
                    }
                    _ => malformed,
                };
            }
            (b"get", Some(key)) if protocol::is_key(key, limits) => {
                let retrieval = Retrieval { unique: false, exptime: None };
                Request::Get(retrieval, Words(key))
            }
            (b"delete", None) => Request::FlushAll { delay: 0 },
            _ if protocol::is_http(line) => return Parsed::Hangup,
            _ => return malformed,
        };
        match words.next() {
            None => Parsed::Message(Message { request, noreply: false, used }),
            Some(_) => malformed,
        }
    }

    /// P2: a set whose value begins at `used`. Without a key, its line is refused, and
    /// the value swallowed.
    fn set<'a>(
        self,
        key: Option<&'a [u8]>,
        length: usize,
        input: &'a [u8],
        used: usize,
        limits: &Limits,
    ) -> Parsed<'a> {
        let refuse_block = |error, stale| {
            let (noreply, swallow) = (false, Some(length));
            Parsed::Refused(Refusal { error, noreply, used, swallow, stale })
        };
        let Some(key) = key else { return refuse_block(Error::BadFormat, None) };
        if limits.is_too_large(key, length) {
            return refuse_block(Error::TooLarge, Some(key));
        }
        match self.block_end(&input[used..], length) {
            BlockEnd::Incomplete(needed) => Parsed::Incomplete(used + needed),
            BlockEnd::Missing(end) => {
                protocol::refuse(Error::BadChunk, false, used + end)
            }
            BlockEnd::Found(end) => {
                let value = &input[used..][..length];
                let (verb, flags, exptime, unique) = (Verb::Set, 0, 0, 0);
                let request =
                    Request::Store { verb, key, flags, exptime, unique, value };
                Parsed::Message(Message { request, noreply: false, used: used + end })
            }
        }
    }

    /// Looks for the end of a block of `length` bytes with which `bytes` begins. One
    /// that has something else than blanks behind it is used up to its line's end, so
    /// that one mistake is answered once.
    pub fn block_end(self, bytes: &[u8], length: usize) -> BlockEnd {
        if self == Dialect::Memcached {
            return protocol::block_end(bytes, length);
        }
        let rest = bytes.get(length..).unwrap_or_default();
        let window = &rest[..rest.len().min(MAX_TAIL)];
        match window.iter().position(|&byte| byte == b'\n') {
            Some(end) if is_blank(&rest[..=end]) => BlockEnd::Found(length + end + 1),
            Some(end) => BlockEnd::Missing(length + end + 1),
            None if window.len() == MAX_TAIL => BlockEnd::Missing(length + MAX_TAIL),
            None => BlockEnd::Incomplete(length + window.len() + 1),
        }
    }

    /// Puts a hit behind `out`. The error says why the dialect has no words for it; what
    /// is behind `out` then is to be thrown away.
    pub fn write_value(
        self,
        out: &mut Vec<u8>,
        key: &[u8],
        flags: u32,
        unique: Option<u64>,
        value: &[u8],
    ) -> Result<(), String> {
        if self == Dialect::Memcached {
            reply::write_value(out, key, flags, unique, value);
            return Ok(());
        }
        if !self.write_sized(b"VALUE ", key, value, out) {
            return Err("the value is too large for a size of this dialect".into());
        }
        out.extend_from_slice(self.line_end());
        Ok(())
    }

    /// Puts a line with the size of `value`, and the value, behind `out`; false if no
    /// size of the dialect says how long it is.
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

    /// Puts what a key without a value is answered with behind `out`.
    pub fn write_miss(self, out: &mut Vec<u8>, key: &[u8]) -> Result<(), String> {
        match self {
            Dialect::Memcached => Ok(()),
            Dialect::Lite | Dialect::Raw(_) => self.write_value(out, key, 0, None, b""),
        }
    }

    /// Puts a reply's line behind `out`.
    pub fn write_reply(self, reply: &Reply, out: &mut Vec<u8>) {
        match self.phrase(reply) {
            Some(phrase) => out.extend_from_slice(phrase.as_bytes()),
            None => reply.write_line(out),
        }
        out.extend_from_slice(self.line_end());
    }

    /// What ends a line of a reply, and a value.
    pub fn line_end(self) -> &'static [u8] {
        if matches!(self, Dialect::Raw(_)) { b" \r\n" } else { b"\r\n" }
    }

    /// What the two dialects say in other words than memcached.
    fn phrase(self, reply: &Reply) -> Option<&'static str> {
        match reply {
            _ if self == Dialect::Memcached => None,
            Reply::NotStored | Reply::Refused(Error::TooLarge) => Some(NOT_STORED),
            Reply::Refused(_) => Some(INVALID_REQUEST),
            Reply::Ok => Some(DELETED),
            _ => None,
        }
    }

    /// Puts a request behind `out`, as a client sends it; false if the dialect has no
    /// words for it, or a value is larger than it can say.
    pub fn write_request(self, request: &Request, out: &mut Vec<u8>) -> bool {
        if self == Dialect::Memcached {
            request.write_to(out);
            return true;
        }
        match request {
            Request::Get(Retrieval { unique: false, exptime: None }, keys)
                if keys.count() == 1 =>
            {
                request.write_to(out);
            }
            Request::FlushAll { delay: 0 } => out.extend_from_slice(b"delete\r\n"),
            Request::Store {
                verb: Verb::Set,
                key,
                flags: 0,
                exptime: 0,
                value,
                ..
            } if self.write_sized(b"set ", key, value, out) => {
                out.extend_from_slice(b" \r\n");
            }
            _ => return false,
        }
        true
    }

    /// Whether `bytes`, which end in `\n`, are a whole line of a reply: that byte may
    /// be one of a size.
    pub fn is_line(self, bytes: &[u8]) -> bool {
        match (self, size_start(bytes, b"VALUE ")) {
            (Dialect::Raw(format), Some(start)) => {
                bytes.len() >= start + usize::from(format.int_size) + END_LEN as usize
            }
            _ => true,
        }
    }

    /// Reads the line above a data block, without its `\r\n`.
    pub fn parse_value_line(self, line: &[u8]) -> Option<ValueLine<'_>> {
        let mut words = Words(line);
        let (key, length, rest) = match self {
            Dialect::Memcached => return ValueLine::parse(line),
            Dialect::Lite => {
                let key = words.nth(1)?;
                (key, unsigned(words.next()?)?, words.0)
            }
            Dialect::Raw(format) => {
                let (head, rest) = line.split_at(size_start(line, b"VALUE ")?);
                let (size, rest) = rest.split_at_checked(format.int_size.into())?;
                let length = format.int_order.read(size).checked_sub(END_LEN)?;
                (Words(head).nth(1)?, length, rest)
            }
        };
        if !line.starts_with(b"VALUE ") || !is_blank(rest) {
            return None;
        }
        let length = length.try_into().ok()?;
        Some(ValueLine { key, flags: 0, length, unique: None })
    }

    /// The reply that a line without its end is; `None` for a refusal, and for what
    /// is no reply of one line.
    pub fn parse_reply(self, line: &[u8]) -> Option<Reply> {
        match (self, line.trim_ascii_end()) {
            (Dialect::Memcached, _) => Reply::parse(line),
            (_, line) if line == NOT_STORED.as_bytes() => Some(Reply::NotStored),
            (_, line) if line == DELETED.as_bytes() => Some(Reply::Ok),
            (_, line) => Reply::parse(line),
        }
    }
}

const NOT_STORED: &str = "NOT-STORED";
const DELETED: &str = "DELETED";

/// What these dialects say to anything malformed.
pub const INVALID_REQUEST: &str = "INVALID REQUEST";

/// Where the size begins in a line of `raw` that begins with `name`: behind the blank
/// that ends the key. `None` if the line has no such blank.
fn size_start(bytes: &[u8], name: &[u8]) -> Option<usize> {
    let rest = bytes.strip_prefix(name)?;
    let end = rest.iter().position(|byte| b" \n".contains(byte))?;
    (rest[end] == b' ').then_some(name.len() + end + 1)
}

/// Whether a line, with its end, has nothing else in it.
fn is_blank(line: &[u8]) -> bool {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    text.iter().all(|&byte| byte == b' ')
}

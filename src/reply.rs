//! memcached's text protocol, the server's half: [`Reply`] <-> bytes. Pure. Every
//! phrase that goes out over the wire stands here.

use crate::words::{Words, append, append_number, unsigned};
use std::fmt;

/// What `version` answers: the memcached whose text protocol this is. Clients choose
/// by it what they may send; our own version is among the `stats`.
pub const VERSION: &str = "1.6.0";

/// What stands before the version.
const VERSION_IS: &str = "VERSION ";

/// What stands before the server's trouble.
const SERVER_ERROR: &str = "SERVER_ERROR ";

/// Said to a connection for which there is no place, before it is closed.
pub const TOO_MANY_CONNECTIONS: &str = "ERROR Too many open connections\r\n";

/// What a client is told it did wrong. `Display` is the line on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No such command.
    Unknown,
    /// Too few words, or a key, number or length that can't be.
    BadFormat,
    /// No line end where the data block should end.
    BadChunk,
    /// Key and value are more than an item may have.
    TooLarge,
    /// A word too many behind a delete.
    DeleteUsage,
    /// The delta of an incr or decr is no unsigned number.
    InvalidDelta,
    /// The value that an incr or decr met is no number.
    NotNumeric,
    /// The exptime of touch, gat or flush_all is no number.
    InvalidExptime,
    /// From a stranger, anything but a login.
    Unauthenticated,
    /// A login that is not in the file.
    AuthenticationFailure,
    /// A login of fewer than two words.
    BadToken,
    /// No line end where a login's block should end.
    BadTermination,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Error::Unknown => "ERROR",
            Error::BadFormat => "CLIENT_ERROR bad command line format",
            Error::BadChunk => "CLIENT_ERROR bad data chunk",
            Error::TooLarge => "SERVER_ERROR object too large for cache",
            Error::DeleteUsage => {
                "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"
            }
            Error::InvalidDelta => "CLIENT_ERROR invalid numeric delta argument",
            Error::NotNumeric => {
                "CLIENT_ERROR cannot increment or decrement non-numeric value"
            }
            Error::InvalidExptime => "CLIENT_ERROR invalid exptime argument",
            Error::Unauthenticated => "CLIENT_ERROR unauthenticated",
            Error::AuthenticationFailure => "CLIENT_ERROR authentication failure",
            Error::BadToken => "CLIENT_ERROR bad authentication token format",
            Error::BadTermination => "CLIENT_ERROR bad command line termination",
        })
    }
}

/// An answer of one line. `Display` is that line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a command that stores: done.
    Stored,
    /// Its condition did not hold.
    NotStored,
    /// To `cas`: the item has changed.
    Exists,
    /// There is no such item.
    NotFound,
    /// To `delete`: done.
    Deleted,
    /// To `touch`: done.
    Touched,
    /// To `flush_all` and `verbosity`: done.
    Ok,
    /// To `stats reset`: done.
    Reset,
    /// The end of an answer to the get family or to `stats`.
    End,
    /// To `incr` and `decr`: the new number.
    Number(u64),
    /// To `version`.
    Version(String),
    /// The request is at fault.
    Refused(Error),
    /// The server could not do it.
    ServerError(String),
}

impl Reply {
    const FIXED: [Reply; 9] = [
        Reply::Stored,
        Reply::NotStored,
        Reply::Exists,
        Reply::NotFound,
        Reply::Deleted,
        Reply::Touched,
        Reply::Ok,
        Reply::Reset,
        Reply::End,
    ];

    /// The words of the line that are always the same.
    fn phrase(&self) -> &'static str {
        match self {
            Reply::Stored => "STORED",
            Reply::NotStored => "NOT_STORED",
            Reply::Exists => "EXISTS",
            Reply::NotFound => "NOT_FOUND",
            Reply::Deleted => "DELETED",
            Reply::Touched => "TOUCHED",
            Reply::Ok => "OK",
            Reply::Reset => "RESET",
            Reply::End => "END",
            Reply::Version(_) => VERSION_IS,
            Reply::ServerError(_) => SERVER_ERROR,
            Reply::Number(_) | Reply::Refused(_) => "",
        }
    }

    /// Puts the line behind `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        self.write_line(out);
        out.extend_from_slice(b"\r\n");
    }

    /// The same, without the line's end.
    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.phrase().as_bytes());
        match self {
            Reply::Number(number) => append_number(out, *number),
            Reply::Version(text) | Reply::ServerError(text) => {
                out.extend_from_slice(text.as_bytes());
            }
            Reply::Refused(error) => append(out, format_args!("{error}")),
            _ => {}
        }
    }

    /// The reply that a line without its end is; `None` for a refusal, and for what
    /// is no reply of one line.
    pub fn parse(line: &[u8]) -> Option<Reply> {
        let fixed = Reply::FIXED.into_iter().find(|x| x.phrase().as_bytes() == line);
        let number = || unsigned(line.trim_ascii_end()).map(Reply::Number);
        let text = |rest| String::from_utf8_lossy(rest).into_owned();
        fixed.or_else(number).or_else(|| {
            if let Some(version) = line.strip_prefix(VERSION_IS.as_bytes()) {
                return Some(Reply::Version(text(version)));
            }
            let why = line.strip_prefix(SERVER_ERROR.as_bytes())?;
            Some(Reply::ServerError(text(why)))
        })
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut line = Vec::new();
        self.write_line(&mut line);
        f.write_str(&String::from_utf8_lossy(&line))
    }
}

/// More bytes than the lines have that stand around a value, or those of all that
/// `stats` tells, keys not counted.
pub(crate) const LINES_MAX: usize = 16 << 10;

/// Puts a hit of the get family behind `out`: its line, and the data block.
pub fn write_value(
    out: &mut Vec<u8>,
    key: &[u8],
    flags: u32,
    unique: Option<u64>,
    value: &[u8],
) {
    // For all of it: behind a large value, a line end would have it doubled.
    out.reserve(key.len() + value.len() + 128);
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    append_number(out, flags.into());
    out.push(b' ');
    append_number(out, value.len() as u64);
    if let Some(unique) = unique {
        out.push(b' ');
        append_number(out, unique);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The line above a data block, as a client reads it.
#[derive(Debug, PartialEq, Eq)]
pub struct ValueLine<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// 32 bits of whoever stored it.
    pub flags: u32,
    /// The length of the block, in bytes.
    pub length: usize,
    /// For `gets` and `gats`.
    pub unique: Option<u64>,
}

impl ValueLine<'_> {
    /// Reads `VALUE <key> <flags> <length> [<unique>]`.
    pub fn parse(line: &[u8]) -> Option<ValueLine<'_>> {
        let mut words = Words(line.strip_prefix(b"VALUE ")?);
        Some(ValueLine {
            key: words.next()?,
            flags: unsigned(words.next()?)?.try_into().ok()?,
            length: unsigned(words.next()?)?.try_into().ok()?,
            unique: match words.next() {
                Some(word) => Some(unsigned(word)?),
                None => None,
            },
        })
    }
}

/// Puts a line of `stats` behind `out`.
pub fn write_stat(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    append(out, format_args!("STAT {name} {value}\r\n"));
}

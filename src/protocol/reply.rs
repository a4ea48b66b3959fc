//! The server's half of the protocol: [`Reply`] <-> bytes. Pure. Every phrase that goes
//! out over the wire stands here, but for those of meta commands.

use crate::protocol::words::{Words, append, append_number, unsigned};
use crate::store::{Answer, Record};
use std::fmt;

/// The reply to `version`: the memcached whose text protocol this is. Clients choose
/// by it what they may send; our own version is among the `stats`.
pub const VERSION: &str = "1.6.0";

/// What precedes the version.
const VERSION_IS: &str = "VERSION ";

/// What precedes a failure of the server's.
pub(crate) const SERVER_ERROR: &str = "SERVER_ERROR ";

/// Sent to a connection that exceeds the limit, before it is closed.
pub const TOO_MANY_CONNECTIONS: &str = "ERROR Too many open connections\r\n";

/// What a client is told it did wrong. `Display` is the line on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No such command.
    Unknown,
    /// Too few words, or an impossible key, number or length.
    BadFormat,
    /// No line end where the data block should end.
    BadChunk,
    /// Key and value are more than an item may have.
    TooLarge,
    /// A word too many after a delete.
    DeleteUsage,
    /// A listing, before the replies to earlier requests have left.
    Pipelined,
    /// The delta of an incr or decr is not an unsigned number.
    InvalidDelta,
    /// The exptime of touch, gat or flush_all is not a number.
    InvalidExptime,
    /// Before a login, anything else.
    Unauthenticated,
    /// A login that is not in the file.
    AuthenticationFailure,
    /// A login of fewer than two words.
    BadToken,
    /// No line end where a login's block should end.
    BadTermination,
    /// This is wrong with the flags of a meta command.
    Flags(&'static str),
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
            Error::Pipelined => "ERROR cannot pipeline other commands before metadump",
            Error::InvalidDelta => "CLIENT_ERROR invalid numeric delta argument",
            Error::InvalidExptime => "CLIENT_ERROR invalid exptime argument",
            Error::Unauthenticated => "CLIENT_ERROR unauthenticated",
            Error::AuthenticationFailure => "CLIENT_ERROR authentication failure",
            Error::BadToken => "CLIENT_ERROR bad authentication token format",
            Error::BadTermination => "CLIENT_ERROR bad command line termination",
            Error::Flags(why) => return write!(f, "CLIENT_ERROR {why}"),
        })
    }
}

/// A reply of one line. `Display` is that line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What became of an update.
    Answer(Answer),
    /// To `flush_all` and `verbosity`: done. To a listing: it follows.
    Ok,
    /// To `stats reset`: done.
    Reset,
    /// The end of a reply to the get family, to `stats`, or of a `metadump`.
    End,
    /// To `mn`.
    Noop,
    /// To `version`.
    Version(String),
    /// The request is at fault.
    Rejected(Error),
    /// The server could not do it.
    ServerError(String),
}

pub(crate) const NOT_NUMERIC: &[u8] =
    b"CLIENT_ERROR cannot increment or decrement non-numeric value";

/// The other replies that are always the same.
const PHRASES: [(Reply, &str); 10] = [
    (Reply::Answer(Answer::Stored), "STORED"),
    (Reply::End, "END"),
    (Reply::Answer(Answer::NotStored), "NOT_STORED"),
    (Reply::Answer(Answer::Exists), "EXISTS"),
    (Reply::Answer(Answer::NotFound), "NOT_FOUND"),
    (Reply::Answer(Answer::Deleted), "DELETED"),
    (Reply::Answer(Answer::Touched), "TOUCHED"),
    (Reply::Ok, "OK"),
    (Reply::Reset, "RESET"),
    (Reply::Noop, "MN"),
];

impl Reply {
    /// Appends the line to `out`, without its end.
    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Answer(Answer::Number(number)) => append_number(out, *number),
            Reply::Answer(Answer::NotNumeric) => out.extend_from_slice(NOT_NUMERIC),
            Reply::Version(version) => {
                append(out, format_args!("{VERSION_IS}{version}"))
            }
            Reply::ServerError(why) => append(out, format_args!("{SERVER_ERROR}{why}")),
            Reply::Rejected(error) => append(out, format_args!("{error}")),
            fixed => {
                let phrase = PHRASES.iter().find(|(reply, _)| reply == fixed);
                out.extend_from_slice(phrase.map_or("", |(_, text)| text).as_bytes());
            }
        }
    }

    /// The reply that a line without its end is; `None` for a rejection, and for what
    /// is not a reply of one line.
    pub fn parse(line: &[u8]) -> Option<Reply> {
        if let Some((reply, _)) = PHRASES.iter().find(|(_, it)| it.as_bytes() == line) {
            return Some(reply.clone());
        }
        if let Some(version) = line.strip_prefix(VERSION_IS.as_bytes()) {
            return Some(Reply::Version(String::from_utf8_lossy(version).into_owned()));
        }
        let number = unsigned(line.trim_ascii_end())?;
        Some(Reply::Answer(Answer::Number(number)))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut line = Vec::new();
        self.write_line(&mut line);
        f.write_str(&String::from_utf8_lossy(&line))
    }
}

/// Appends a hit of the get family to `out`: its line, and the data block.
pub fn write_value(
    out: &mut Vec<u8>,
    key: &[u8],
    flags: u32,
    unique: Option<u64>,
    value: &[u8],
) {
    // For all of it: after a large value, a line end would have it doubled.
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
    /// 32 bits of the client's that stored it.
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

/// Appends an item's line of a `metadump` to `out`: its key encoded as in a URI, and what is
/// known of it at `now`; its record has `size` bytes. The line ends as memcached's does, in a
/// space and a bare `\n`.
pub fn write_listed(out: &mut Vec<u8>, item: &Record, size: usize, now: u64) {
    out.extend_from_slice(b"key=");
    item.key.iter().for_each(|byte| match byte {
        it if it.is_ascii_alphanumeric() || b"-._~".contains(it) => out.push(*it),
        _ => append(out, format_args!("%{byte:02X}")),
    });
    let Record { exptime, cas, flags, was_read, idle, .. } = *item;
    let exp = if exptime == 0 { -1 } else { exptime as i64 };
    let (la, fetch) = (now - idle.min(now), if was_read { "yes" } else { "no" });
    append(out, format_args!(" exp={exp} la={la} cas={cas} fetch={fetch}"));
    append(out, format_args!(" cls=1 size={size} flags={flags} \n"));
}

/// Appends a line of `stats` to `out`.
pub fn write_stat(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    append(out, format_args!("STAT {name} {value}\r\n"));
}

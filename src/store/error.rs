//! Why the store could not do what it was asked: one kind of error for the whole room.
//!
//! Each message is one line and says what to do where somebody can do something. The
//! kinds are those that a caller treats differently.

use std::fmt;
use std::io;

/// See the top of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The disk took no more bytes. Nothing is lost; the next write tries again.
    Write(String),
    /// A sync failed, or a data file is no longer where it was. What the kernel did with
    /// the bytes is unknown, so nothing is written until the store is opened anew.
    Sync(String),
    /// The disk would not return what was written to it, or returned something else.
    Read(String),
    /// The data directory can't be opened. Where that is because of what its files have
    /// in them, they are as they were.
    Open(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Write(why) => write!(f, "writing data failed: {why}"),
            Error::Sync(why) => write!(f, "syncing failed, restart the server: {why}"),
            Error::Read(why) => write!(f, "reading data failed: {why}"),
            Error::Open(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

/// For the calls that open a directory. Those that serve requests say which of the
/// other kinds it is.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Open(error.to_string())
    }
}

/// What the calls of this room return.
pub type Result<T> = std::result::Result<T, Error>;

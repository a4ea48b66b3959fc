//! memcached-lite: a persistent key-value server that speaks memcached's text protocol,
//! on the standard library alone.
//!
//! # The way of one `set`
//!
//! A client sends `set name 0 0 4\r\nJohn\r\n`, is told `STORED\r\n`, and the machine
//! loses power. After the next start, `get name` answers `John`. What happens between:
//!
//! 1. The pool (`Pool::listen` in `pool.rs`) has accepted the connection and handed it
//!    to a worker, where it stays. The worker waits in its poller (`os.rs`) until some of
//!    its connections are ready: that set is one *tick* (`Worker::tick` in
//!    `worker.rs`).
//! 2. `Connection::receive` (`connection.rs`) reads what is there into the worker's
//!    buffer, and `Connection::execute` goes through those bytes: `protocol::parse`
//!    finds a request at their head and borrows key and value from them; nothing is
//!    copied yet.
//! 3. `Context::perform` (`service.rs`) calls `Store::set` (`commands.rs`). It drafts a
//!    record (`record.rs`), locks the key's shard of the index (`index.rs`), has the
//!    log give the record a position and put it into its tail in memory (`log.rs`), and
//!    points the index there. `STORED` goes into the connection's output buffer, and
//!    the connection remembers that it *depends on* that position.
//! 4. When all connections of the tick have been served so, there is one commit for all
//!    of them: the tail is written to the file, and synced. The worker has the syncer
//!    (`syncer.rs`) do it and goes on with its other connections; those that wait are
//!    *parked*. If all of its connections wait, it commits itself. Whoever waits for
//!    the same sync shares it.
//! 5. Only then do the replies leave, one write a connection.
//!
//! Pull the plug before 4 is done, and the client was told nothing. Pull it after, and
//! replay (`replay.rs`) finds the record at the next start, checks its sum, and points
//! the index at it.
//!
//! A `get` goes the same way, by `Context::get` and `Store::get`: it looks the position
//! up, reads the record from the file (that is, from the page cache) or from the log's
//! tail, unless this worker has read it lately (`recent.rs`), checks its sum, and
//! answers. It commits, too: if another connection has just written what it shows, it
//! waits until that is safe. A reply never shows what a crash could take back.
//!
//! # The modules, bottom up
//!
//! | module | what it owns |
//! |---|---|
//! | [`crc`] | the checksum |
//! | [`record`] | bytes <-> file header and record |
//! | [`disk`] | the few file operations, behind a trait that tests can stand in for |
//! | [`log`] | the data files: append, commit, read |
//! | [`walk`], [`replay`] | reading files back, and what to do with damage |
//! | `index`, `recent` | where each key's record stands; records that were read lately |
//! | [`store`], [`commands`] | what an answer depends on; what each command means |
//! | [`compact`] | live records move to the next file, the old file goes |
//! | [`check`], [`repair`] | what a start would make of the files; a new file of what can be read |
//! | [`words`], [`reply`], [`protocol`], [`dialect`], [`auth`] | bytes <-> requests, and replies <-> bytes; who may ask |
//! | [`os`] | the few system calls that the standard library lacks |
//! | [`stats`], [`service`] | from a request to its reply |
//! | [`connection`], [`listener`], `syncer`, `pool`, `worker`, [`server`] | sockets: who is served, by whom, and when |
//! | [`client`], `syntax`, [`shell`] | the other end: as a library, and as a program |
//! | [`driver`], [`random`] | scenarios with real processes |
//! | [`mod@bench`], [`chart`] | how fast it is, in numbers and pictures |
//! | [`args`], [`programs`] | the three programs and their options |
//!
//! Imports point up this table, or to a neighbour in the same row. The chapters in
//! `docs/` explain each part and number its invariants; code and tests cite the numbers.

pub mod args;
pub mod auth;
pub mod bench;
pub mod chart;
pub mod check;
pub mod client;
pub mod commands;
pub mod compact;
pub mod connection;
pub mod crc;
pub mod dialect;
pub mod disk;
pub mod driver;
mod index;
pub mod listener;
pub mod log;
pub mod os;
mod pool;
pub mod programs;
pub mod protocol;
pub mod random;
mod recent;
pub mod record;
pub mod repair;
pub mod replay;
pub mod reply;
pub mod server;
pub mod service;
pub mod shell;
pub mod stats;
pub mod store;
mod syncer;
mod syntax;
pub mod walk;
pub mod words;
mod worker;

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard};

/// Locks a mutex. Nothing panics while it holds one; should it happen all the same,
/// nobody knows what state it left behind, and the process ends, which is safe at any
/// moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| {
        complain("a thread panicked while it held a lock; ending the process");
        std::process::abort()
    })
}

/// Prints a line on standard output. A server goes on if nobody is there to read it;
/// but one that is there and doesn't read holds it up when the pipe is full.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line on standard error. It may be a file on the disk that is full: to panic
/// over it, as `eprintln` does, would cost a thread when it is needed most.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! memcached-lite: a persistent key-value server that speaks memcached's text protocol,
//! on the standard library alone.
//!
//! # Where to begin
//!
//! | with | read |
//! |---|---|
//! | ten minutes | `docs/map.md`: the repository on one page |
//! | an hour | the way of one `set`, below; then `docs/start.md` and `docs/file.md` |
//! | a day | the course, in the order of `docs/README.md` |
//!
//! `docs/exercises.md` has lines to break, `docs/build.md` capabilities to add, and
//! `docs/glossary.md` the terms.
//!
//! # The way of one `set`
//!
//! A client sends `set name 0 0 4\r\nJohn\r\n`, is told `STORED\r\n`, and the machine
//! loses power. After the next start, `get name` returns `John`. What happens between:
//!
//! 1. The listener (`server/listener.rs`) has accepted the connection and handed it to a
//!    worker, where it stays. The worker waits in its poller ([`os`]) until some of its
//!    connections are ready, and serves those: one round of this is a *tick*
//!    ([`Worker`](server::worker::Worker)).
//! 2. [`Connection::serve`](server::connection::Connection::serve) reads what is there into
//!    the worker's buffer and goes through those bytes:
//!    [`Dialect::parse`](protocol::dialect::Dialect::parse) and [`protocol::parse`] find a
//!    request at their head, an [`Update`](store::Update) that borrows key and value from
//!    them. Nothing is copied yet.
//! 3. A [`Context`](server::service::Context) has the store do it:
//!    [`Store::execute`](store::Store::execute) drafts a record ([`store::record`]): the
//!    checksum of its body is computed before any lock is taken. Then, under the lock of
//!    the key's shard (`store/items.rs`), the log gives the record a position and appends
//!    it to its tail in memory ([`store::log`]), and the index points there
//!    (`store/index.rs`). `STORED` is appended to the connection's output buffer, and the
//!    session notes that the answer *depends on* that position.
//! 4. When all connections of the tick have been served like this, one commit is made for
//!    all of them: the tail is written to the file, and synced. If nobody else is ready or
//!    parked, the worker waits for the disk itself. Otherwise the syncer does
//!    (`server/sync.rs`), the worker serves its other connections, and those that wait are
//!    *parked*. Whoever waits for the same sync shares it: group commit.
//! 5. Only then do the replies leave
//!    ([`Connection::flush`](server::connection::Connection::flush)), with one write for
//!    each connection.
//!
//! If the power fails before 4 is done, the client was told nothing. If it fails after, the
//! next start (`store/recover.rs`) finds the record, verifies its checksum, and points the
//! index at it.
//!
//! A `get` goes the same way, by [`Store::get`](store::Store::get): it looks the position
//! up, reads the record from the file (that is, from the page cache) or from the log's
//! tail and verifies its checksum, unless the item was read recently, and answers.
//! It commits, too: if another connection has just written what it shows, it waits until
//! that is safe. A reply never shows what a crash could take back.
//!
//! # The rooms, lowest first
//!
//! | room | what it owns | chapters in `docs/` |
//! |---|---|---|
//! | [`os`] | the few system calls that the standard library lacks; all `unsafe` code | `server.md` |
//! | [`store`] | data on disk: records, log, index, recovery, repair, compaction, eviction; what each verb does | `file.md`, `store.md`, `recovery.md`, `repair.md`, `eviction.md` |
//! | [`protocol`] | bytes to requests, and replies to bytes, in three dialects | `protocol.md`, `meta.md`, `dialects.md` |
//! | [`server`] | sockets and threads: who is served, by whom, and when | `server.md` |
//! | [`client`] | the other end: as a library, and as a program with a prompt | `client.md` |
//! | [`args`] | the command lines of the programs | `client.md` |
//! | [`driver`] | scenarios: real servers and clients, played from scripts | `driver.md` |
//!
//! A room is a file and, if it has parts, the folder of the same name. It uses only rooms that
//! come before it in this table, and no two files use each other, not even by a detour: so the
//! table is an order to read in. A file opens with what it owns. Rules have numbers, which are cited
//! where the code keeps them and where a test checks them:
//!
//! | rules | are stated in |
//! |---|---|
//! | F, L, S | [`store::record`], [`store::log`], `store/items.rs` |
//! | C | `store/compact.rs`, `store/evict.rs` |
//! | R | [`store::survey`], `store/recover.rs`, [`store::repair`] |
//! | P | [`protocol`] |
//! | V, W | [`server::connection`], [`server`] |
//! | K | [`client`], [`client::shell`] |
//! | D | `driver/play.rs` |

pub mod args;
pub mod client;
pub mod driver;
pub mod os;
pub mod protocol;
pub mod server;
pub mod store;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard};
use std::thread;

/// Locks a mutex. Nothing panics while it holds one; should it happen all the same,
/// nobody knows what state it left behind, and the process ends, which is safe at any
/// moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| {
        warn("a thread panicked while it held a lock; ending the process");
        std::process::abort()
    })
}

/// Drops what takes long to free where nobody waits for it.
fn drop_elsewhere<T: Send + 'static>(value: T) {
    // Without a thread, it is dropped here.
    let _ = thread::Builder::new().spawn(move || drop(value));
}

/// Prints a line on standard output. A server continues if nobody is there to read it; a
/// reader that does not read stalls it when the pipe is full.
fn print(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line on standard error. It may be a file on the disk that is full: to panic
/// over that, as `eprintln` does, would cost a thread when it is needed most.
fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Why a program ends without having done its work: one line that says what to do.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something impossible: exit code 2.
    Usage(String),
    /// The system or the data are in the way: exit code 1.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Usage(why) | Failure::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Failure {}

/// A wrong option.
impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure::Usage(why)
    }
}

/// The README's program is run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

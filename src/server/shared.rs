//! What all threads of a server share, each thing once.
//!
//! The listener puts a new connection into the mailbox of a worker, in turn. When
//! `--conn-limit` are being served, it waits in the accept queue, where a worker finds it
//! when one of its own connections closes; and when the queue is full as well, it is
//! rejected.

use crate::os::unix_now;
use crate::protocol::dialect::Dialect;
use crate::protocol::reply::TOO_MANY_CONNECTIONS;
use crate::server::login::Credentials;
use crate::server::options::Options;
use crate::server::stats::Counters;
use crate::server::sync::Syncer;
use crate::store::Store;
use crate::{lock, print};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::time::{Duration, Instant};

/// A connected socket, of `--port` or of `--unix-socket`: what is called to receive and send
/// is the same for both, and costs less than to read and write a file.
pub type Stream = TcpStream;

/// See the top of this file.
pub struct Shared {
    /// The data.
    pub store: Store,
    /// How the server is set up. The dialect has the sizes of the data.
    pub(crate) options: Options,
    /// The logins that are accepted; `None` serves everybody.
    pub(crate) credentials: Option<Credentials>,
    /// One for each worker.
    pub(crate) counters: Vec<Counters>,
    /// One for each worker.
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) syncer: Syncer,
    pub(crate) accepts: Mutex<Accepts>,
    pub(crate) started: Instant,
    /// W6: the workers end after their tick.
    pub(crate) is_stopping: AtomicBool,
}

/// Who is served, and who waits.
#[derive(Default)]
pub(crate) struct Accepts {
    /// Connections that are being served.
    pub(crate) serving: usize,
    /// Those that wait for a place, each with its number, and the name that `-v` shows.
    queue: VecDeque<(Stream, u64, String)>,
    /// The number of the last one.
    number: u64,
    /// When the last connection closed, if one has.
    idle_since: Option<Instant>,
    /// Connections accepted and rejected, since the start or the last reset.
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
}

/// Where a worker finds new connections. Whoever has put something there wakes it: a worker
/// waits in its poller, and that is what a byte in a socket ends.
pub(crate) struct Mailbox {
    /// Each with its number.
    pub(crate) connections: Mutex<Vec<(Stream, u64)>>,
    /// A byte into this wakes the worker,
    waker: UnixStream,
    /// which watches this: it is to look into its mailbox, or a commit has ended.
    pub(crate) woken: UnixStream,
}

impl Mailbox {
    fn new() -> io::Result<Mailbox> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(Mailbox { connections: Mutex::default(), waker, woken })
    }

    /// Wakes the worker.
    pub(crate) fn wake(&self) {
        // If it takes no byte, it has some already, and the worker will wake.
        let _ = (&self.waker).write(&[0]);
    }
}

impl Shared {
    /// What a server with these options shares.
    pub fn new(
        mut options: Options,
        credentials: Option<Credentials>,
        store: Store,
    ) -> io::Result<Shared> {
        // Raw sizes are as wide as those in the file, which may be older than the
        // options.
        if let Dialect::Raw(_) = options.dialect {
            options.dialect = Dialect::Raw(store.format);
        }
        let workers = 0..options.threads;
        Ok(Shared {
            store,
            credentials,
            counters: workers.clone().map(|_| Counters::default()).collect(),
            mailboxes: workers.map(|_| Mailbox::new()).collect::<io::Result<_>>()?,
            syncer: Syncer::default(),
            accepts: Mutex::default(),
            started: Instant::now(),
            is_stopping: AtomicBool::new(false),
            options,
        })
    }

    /// W6: has the workers end.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Release);
        self.mailboxes.iter().for_each(Mailbox::wake);
    }

    /// How long nobody has been connected; `None` if somebody is.
    pub(crate) fn idle_time(&self) -> Option<Duration> {
        let accepts = lock(&self.accepts);
        let since = accepts.idle_since.unwrap_or(self.started);
        (accepts.serving == 0).then(|| since.elapsed())
    }

    /// Gives a new connection to `worker`, or to the accept queue, or rejects it.
    pub fn admit(&self, stream: Stream, peer: String, worker: usize) {
        let mut accepts = lock(&self.accepts);
        accepts.accepted += 1;
        accepts.number += 1;
        let number = accepts.number;
        if accepts.serving < self.options.conn_limit {
            accepts.serving += 1;
            drop(accepts);
            self.deliver(stream, number, &peer, worker);
        } else if accepts.queue.len() < self.options.backlog {
            accepts.queue.push_back((stream, number, peer));
        } else {
            accepts.rejected += 1;
            drop(accepts);
            self.report(number, &format!("Rejected {peer}"), ": --conn-limit");
            // A client that does not take it is disconnected all the same.
            let _ = (&stream).write(TOO_MANY_CONNECTIONS.as_bytes());
        }
    }

    fn deliver(&self, stream: Stream, number: u64, peer: &str, worker: usize) {
        self.report(number, &format!("Connected by {peer}"), "");
        lock(&self.mailboxes[worker].connections).push((stream, number));
        self.mailboxes[worker].wake();
    }

    /// W3: a connection of `worker` has closed, which gets the next of the accept queue.
    pub(crate) fn release(&self, worker: usize, number: u64, why: &str) {
        self.report(number, "Client disconnected", &format!(": {why}"));
        let mut accepts = lock(&self.accepts);
        if let Some((stream, number, peer)) = accepts.queue.pop_front() {
            drop(accepts);
            return self.deliver(stream, number, &peer, worker);
        }
        accepts.serving -= 1;
        accepts.idle_since = Some(Instant::now());
    }

    /// The syncer's part: commits what workers have requested, then wakes them all.
    /// Returns whether anything was requested.
    pub fn sync(&self, now: u64) -> bool {
        let is_done = self.syncer.step(|position| self.store.commit(position, now));
        if is_done {
            self.mailboxes.iter().for_each(Mailbox::wake);
        }
        is_done
    }

    /// Prints a line about a connection with `-v`, with its number and the time of day, UTC.
    pub(crate) fn report(&self, number: u64, what: &str, why: &str) {
        if self.options.verbosity > 0 {
            let now = unix_now();
            let [hour, minute, second] = [now / 3600 % 24, now / 60 % 60, now % 60];
            let time = format!("{hour:02}:{minute:02}:{second:02}");
            print(&format!("SERVER: {what}, connection {number}{why}, {time}"));
        }
    }
}

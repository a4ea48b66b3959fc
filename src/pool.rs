//! Who is served, and by whom: takes connections from the listener, finds each a place
//! and a worker, lets it wait, or turns it away.

use crate::connection::Stream;
use crate::listener::{Listener, Options};
use crate::lock;
use crate::os::{Interest, Poller};
use crate::reply::TOO_MANY_CONNECTIONS;
use crate::say;
use crate::service::Service;
use crate::syncer::Syncer;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Who is served, and who waits.
struct Admission {
    serving: usize,
    waiting: VecDeque<(Stream, String)>,
    /// When the last connection closed.
    idle_since: Instant,
}

/// Where the listener leaves connections for a worker.
pub(crate) struct Desk {
    pub(crate) newcomers: Mutex<Vec<Stream>>,
    /// A byte into this wakes the worker.
    wake: UnixStream,
}

impl Desk {
    pub(crate) fn wake(&self) {
        // If it takes no byte, it has some already, and the worker will wake.
        let _ = (&self.wake).write(&[0]);
    }
}

/// What listener and workers share about connections.
pub(crate) struct Pool {
    admission: Mutex<Admission>,
    pub(crate) desks: Vec<Desk>,
    pub(crate) service: Arc<Service>,
    pub(crate) options: Options,
    pub(crate) syncer: Syncer,
}

impl Pool {
    /// An empty pool, and what wakes each of its workers.
    pub(crate) fn new(
        service: Arc<Service>,
        options: Options,
    ) -> io::Result<(Pool, Vec<UnixStream>)> {
        let (mut desks, mut wakers) = (Vec::new(), Vec::new());
        for _ in 0..options.threads {
            let (waker, wake) = UnixStream::pair()?;
            waker.set_nonblocking(true)?;
            wake.set_nonblocking(true)?;
            desks.push(Desk { newcomers: Mutex::new(Vec::new()), wake });
            wakers.push(waker);
        }
        let (waiting, idle_since) = (VecDeque::new(), Instant::now());
        let admission = Mutex::new(Admission { serving: 0, waiting, idle_since });
        let syncer = Syncer::default();
        Ok((Pool { admission, desks, service, options, syncer }, wakers))
    }

    /// Takes connections until nobody has been connected for `idle_exit`, which is
    /// returned then.
    pub(crate) fn listen<P: Poller>(
        &self,
        listener: &Listener,
    ) -> io::Result<Duration> {
        let mut poller = P::new()?;
        poller.add(listener.as_fd(), 0, Interest::Read)?;
        let mut ready = Vec::new();
        let mut turn = 0;
        // W4: given up for a moment when there is no other descriptor to be had.
        let mut spare = File::open("/dev/null").ok();
        loop {
            let mut timeout = None;
            if let Some(idle_exit) = self.options.idle_exit {
                let idle = self.idle_time();
                if idle.is_some_and(|idle| idle >= idle_exit) {
                    return Ok(idle_exit);
                }
                timeout = Some(idle_exit - idle.unwrap_or_default());
            }
            poller.wait(&mut ready, timeout)?;
            loop {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        turn = (turn + 1) % self.desks.len();
                        self.admit(stream, peer, turn);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // This connection was gone before it was ours.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        let mut turned_away = false;
                        if is_out_of_descriptors(&error) {
                            drop(spare.take());
                            if let Ok((stream, _)) = listener.accept() {
                                self.turn_away(&stream);
                                turned_away = true;
                            }
                            spare = File::open("/dev/null").ok();
                        }
                        if !turned_away {
                            // Level-triggered, the listener would be reported again at
                            // once: look away for a moment.
                            poller.remove(listener.as_fd())?;
                            poller.wait(&mut ready, Some(Duration::from_millis(50)))?;
                            poller.add(listener.as_fd(), 0, Interest::Read)?;
                            break;
                        }
                    }
                }
            }
        }
    }

    /// How long nobody has been connected; `None` if somebody is.
    fn idle_time(&self) -> Option<Duration> {
        let admission = lock(&self.admission);
        (admission.serving == 0).then(|| admission.idle_since.elapsed())
    }

    /// Gives a new connection a worker, a place in the queue, or a reason.
    fn admit(&self, stream: Stream, peer: String, turn: usize) {
        self.service.accepted.fetch_add(1, Relaxed);
        let mut admission = lock(&self.admission);
        if admission.serving >= self.options.conn_limit {
            if admission.waiting.len() < self.options.backlog {
                admission.waiting.push_back((stream, peer));
            } else {
                drop(admission);
                self.turn_away(&stream);
            }
            return;
        }
        admission.serving += 1;
        drop(admission);
        self.greet(&peer);
        let desk = &self.desks[turn];
        lock(&desk.newcomers).push(stream);
        desk.wake();
    }

    fn turn_away(&self, mut stream: &Stream) {
        self.service.rejected.fetch_add(1, Relaxed);
        // A client that does not take it is closed all the same.
        let _ = stream.write(TOO_MANY_CONNECTIONS.as_bytes());
    }

    fn greet(&self, peer: &str) {
        self.service.connections.fetch_add(1, Relaxed);
        if self.options.verbosity > 0 {
            say(&format!("SERVER: Connected by {peer}"));
        }
    }

    /// W3: a connection has closed. Returns the one that gets its place.
    pub(crate) fn release(&self) -> Option<Stream> {
        self.service.connections.fetch_sub(1, Relaxed);
        if self.options.verbosity > 0 {
            say("SERVER: Client disconnected");
        }
        let mut admission = lock(&self.admission);
        match admission.waiting.pop_front() {
            Some((stream, peer)) => {
                drop(admission);
                self.greet(&peer);
                Some(stream)
            }
            None => {
                admission.serving -= 1;
                admission.idle_since = Instant::now();
                None
            }
        }
    }
}

/// EMFILE and ENFILE, which have the same numbers on every Unix.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

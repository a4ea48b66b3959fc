//! One thread of the pool, and its connections: the way of a request begins in
//! [`Worker::tick`].

use crate::connection::{Connection, READ_LIMIT, Stream};
use crate::listener::Options;
use crate::lock;
use crate::log::{LogError, SyncMode};
use crate::os::{Interest, Poller, unix_now};
use crate::pool::Pool;
use crate::service::{Context, SPARE_MAX};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often timeouts are looked at, and the janitor makes its round.
pub(crate) const ROUND: Duration = Duration::from_secs(1);

/// How long a worker waits for compaction before it writes on.
const CROWDED_WAIT: Duration = Duration::from_millis(10);

/// The token of a worker's waker; connections have their index.
const WAKER: usize = usize::MAX;

/// The most bytes that a worker takes up beside its session and the buffers of its
/// connections, each of which has at most `buffers`: a buffer that grows is there twice
/// for a moment, and the new one may be of double length.
pub(crate) fn bytes_max(buffers: usize, conn_limit: usize) -> usize {
    let table = 2 * conn_limit * size_of::<Option<Connection>>();
    READ_LIMIT + SPARE_MAX + table + 2 * buffers
}

/// One thread of the pool, and its connections.
pub(crate) struct Worker<P> {
    pool: Arc<Pool>,
    number: usize,
    waker: UnixStream,
    poller: P,
    context: Context,
    /// A connection's index is its token.
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    /// What is read goes here first; what is complete is executed from here.
    buffer: Vec<u8>,
    /// Connections whose replies wait for the log, and for which of its rounds.
    parked: Vec<(usize, u64)>,
    /// Connections that stopped for their output's sake, and can go on.
    resumable: Vec<usize>,
    /// When timeouts are looked at again.
    next_round: Instant,
}

impl<P: Poller> Worker<P> {
    pub(crate) fn new(
        pool: Arc<Pool>,
        number: usize,
        waker: UnixStream,
    ) -> io::Result<Worker<P>> {
        let mut poller = P::new()?;
        poller.add(waker.as_fd(), WAKER, Interest::Read)?;
        let context = Context::new(pool.service.clone(), number);
        Ok(Worker {
            pool,
            number,
            waker,
            poller,
            context,
            connections: Vec::new(),
            vacant: Vec::new(),
            buffer: vec![0; READ_LIMIT],
            parked: Vec::new(),
            resumable: Vec::new(),
            next_round: Instant::now() + ROUND,
        })
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            self.poller.wait(&mut ready, self.timeout())?;
            let now = Instant::now();
            self.tick(&mut ready, now);
            if now >= self.next_round {
                self.next_round = now + ROUND;
                self.close_overdue(now);
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.resumable.is_empty() {
            return Some(Duration::ZERO);
        }
        // Without connections there is nothing to look at.
        let has_connections = self.vacant.len() < self.connections.len();
        has_connections
            .then(|| self.next_round.saturating_duration_since(Instant::now()))
    }

    /// Serves every connection that is ready: the way of a request, from here on.
    fn tick(&mut self, ready: &mut Vec<usize>, now: Instant) {
        self.context.session.now = unix_now();
        self.context.session.crowded = false;
        let woken = ready.contains(&WAKER);
        // A connection that can go on without new input may have some all the same.
        // One whose replies wait is not read from, and would be reported ever again.
        let poller = &mut self.poller;
        ready.retain(|&token| match self.connections.get_mut(token) {
            Some(Some(connection)) if connection.is_parked() => {
                if connection.interest.take().is_some() {
                    let _ = poller.remove(connection.stream().as_fd());
                }
                false
            }
            Some(Some(connection)) => !connection.can_resume(),
            _ => false,
        });
        // Those that stopped come first: where the log is crowded, only one gets on.
        ready.splice(0..0, self.resumable.drain(..));
        let mut depends_on = 0;
        for &token in &*ready {
            if let Some(Some(connection)) = self.connections.get_mut(token) {
                let buffer = &mut self.buffer;
                let context = &mut self.context;
                let served = catch_unwind(AssertUnwindSafe(|| {
                    if connection.can_resume() {
                        connection.resume(now, context);
                    } else if !connection.has_output() {
                        connection.receive(buffer, now, context)?;
                    }
                    io::Result::Ok(())
                }));
                // W2: whatever it was doing, it does no more.
                if !matches!(served, Ok(Ok(()))) {
                    connection.abandon();
                }
                depends_on = depends_on.max(connection.depends_on);
            }
        }
        // W1: one commit for all, and no reply before it. Nobody here waits for the
        // disk: who depends on a sync is parked until its round is over.
        let store = &self.pool.service.store;
        let (mut committed, mut round) = (Ok(()), 0);
        // But where all connections wait there is nothing else to do, and the way to
        // the syncer and back would be for nothing.
        let idle = ready.len() >= self.connections.len() - self.vacant.len();
        if idle || store.sync_mode() == SyncMode::EverySecond {
            committed = store.commit_to(depends_on, self.context.session.now);
        } else if !store.is_committed(depends_on) {
            round = self.pool.syncer.ask(depends_on);
        }
        for &token in &*ready {
            match round != 0 && self.is_waiting(token) {
                true => self.parked.push((token, round)),
                false => self.finish(token, &committed, now),
            }
        }
        // W5: behind that. A round that ends in the middle of a tick wakes us for those
        // that have just been parked, too.
        if woken {
            self.welcome(now);
            self.unpark(now);
        }
        if self.context.session.crowded {
            if self.resumable.first() == ready.first() {
                // It got on, so the next time it is another one's turn.
                self.resumable.rotate_left(1);
            }
            self.pool.service.store.wait_for_room(CROWDED_WAIT);
        }
    }

    fn is_waiting(&self, token: usize) -> bool {
        let connection = self.connections.get(token).and_then(Option::as_ref);
        connection.is_some_and(|c| !self.pool.service.store.is_committed(c.depends_on))
    }

    /// A round of the syncer may be over.
    fn unpark(&mut self, now: Instant) {
        for (token, round) in std::mem::take(&mut self.parked) {
            match self.pool.syncer.outcome(round) {
                None if self.is_waiting(token) => self.parked.push((token, round)),
                outcome => self.finish(token, &outcome.unwrap_or(Ok(())), now),
            }
        }
    }

    /// After the commit: lets a connection's replies leave, and decides what it waits
    /// for next.
    fn finish(&mut self, token: usize, committed: &Result<(), LogError>, now: Instant) {
        let Some(Some(connection)) = self.connections.get_mut(token) else { return };
        if let Err(error) = committed
            && !self.pool.service.store.is_committed(connection.depends_on)
        {
            connection.fail(error, self.pool.service.dialect);
        }
        connection.depends_on = 0;
        let flushed = connection.flush(now, &mut self.context);
        if flushed.is_err() || connection.is_finished() {
            return self.close(token, now);
        }
        let interest = match connection.has_output() {
            true => Interest::Write,
            false => Interest::Read,
        };
        if connection.interest != Some(interest) {
            let watched = connection.interest.replace(interest).is_some();
            let fd = connection.stream().as_fd();
            let removed = if watched { self.poller.remove(fd) } else { Ok(()) };
            if removed.and_then(|()| self.poller.add(fd, token, interest)).is_err() {
                return self.close(token, now);
            }
        }
        if connection.can_resume() {
            self.resumable.push(token);
        }
    }

    /// Takes over what the listener has left.
    fn welcome(&mut self, now: Instant) {
        // What it says is only that there is something; a failure says nothing.
        let _ = (&self.waker).read(&mut [0; 64]);
        let newcomers =
            std::mem::take(&mut *lock(&self.pool.desks[self.number].newcomers));
        for stream in newcomers {
            self.adopt(stream, now);
        }
    }

    fn adopt(&mut self, stream: Stream, now: Instant) {
        let token = self.vacant.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        if self.poller.add(stream.as_fd(), token, Interest::Read).is_err() {
            self.vacant.push(token);
            drop(stream);
            return self.give_place_away(now);
        }
        let wants_login = self.pool.service.credentials.is_some();
        self.connections[token] = Some(Connection::new(stream, now, wants_login));
    }

    fn close(&mut self, token: usize, now: Instant) {
        if let Some(connection) = self.connections[token].take() {
            // The descriptor is closed in any case, and then no longer watched.
            let _ = self.poller.remove(connection.stream().as_fd());
            drop(connection);
            self.vacant.push(token);
            self.give_place_away(now);
        }
    }

    fn give_place_away(&mut self, now: Instant) {
        if let Some(stream) = self.pool.release() {
            self.adopt(stream, now);
        }
    }

    fn close_overdue(&mut self, now: Instant) {
        let Options { idle_timeout, request_timeout, .. } = self.pool.options;
        for token in 0..self.connections.len() {
            if let Some(connection) = &self.connections[token]
                && connection.is_overdue(now, idle_timeout, request_timeout)
            {
                self.close(token, now);
            }
        }
    }
}

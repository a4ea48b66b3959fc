//! One thread of the pool, and its connections: the way of a request begins in
//! `Worker::tick`.
//!
//! ```text
//!            .------------------- new input, or room for output ------------------.
//!            v                                                                    |
//! poller -> turns -> serve -> commit -> finish -> Input, Output: back to the poller
//!            ^                  |          |
//!            |                  |          '----> Turn: there is more to execute
//!            |                  '-> parked: the syncer's commit ends, then finish
//!            '-------------------------------------------- Turn ----'
//! ```
//!
//! Each connection is in exactly one of these places, and its [`Waits`] says in which. A
//! tick ends when nobody is left in `turns`, or when it has done enough work: then those
//! that are left are first in the next, and nobody waits for megabytes of others.

use crate::lock;
use crate::os::{Interest, Poller};
use crate::server::connection::{Connection, READ_LIMIT, Waits};
use crate::server::service::Context;
use crate::server::shared::Shared;
use crate::server::sync::Failed;
use crate::store::{Error, SyncMode};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::mem;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, Instant};

/// How often timeouts are checked.
const CHECK: Duration = Duration::from_secs(1);

/// The token of a worker's own socket; a connection's is its descriptor.
const WAKER: usize = usize::MAX;

/// Why a connection is closed that can't be read or written.
const BROKEN: &str = "the connection broke";

/// A connection whose replies hold once the log is committed up to a position.
type Served = (usize, u64);

/// See the top of this file.
pub struct Worker {
    shared: Arc<Shared>,
    poller: Box<dyn Poller>,
    context: Context,
    /// By descriptor: the system gives the lowest that is free, so there are few gaps.
    connections: Vec<Option<Connection>>,
    /// Tokens that the poller has reported, and that have not been queued yet.
    ready: Vec<usize>,
    /// Whom a tick serves, in order: first those that the last one has left over, or that
    /// have more to execute.
    turns: VecDeque<usize>,
    /// Connections whose replies wait for a commit of the syncer.
    parked: Vec<Served>,
    /// What is read goes here first; what is complete is executed from here.
    buffer: Vec<u8>,
    /// When timeouts are checked again.
    next_check: Instant,
}

impl Worker {
    /// A worker for the connections that come into the mailbox of this number.
    pub fn new(
        shared: Arc<Shared>,
        number: usize,
        mut poller: Box<dyn Poller>,
    ) -> io::Result<Worker> {
        let mailbox = &shared.mailboxes[number];
        poller.add(mailbox.woken.as_fd(), WAKER, Interest::Read)?;
        Ok(Worker {
            next_check: poller.now() + CHECK,
            context: Context::new(shared.clone(), number),
            shared,
            poller,
            connections: Vec::new(),
            ready: Vec::new(),
            turns: VecDeque::new(),
            parked: Vec::new(),
            buffer: vec![0; READ_LIMIT],
        })
    }

    /// Serves them, until the server stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while !self.shared.is_stopping.load(Acquire) {
            self.step()?;
        }
        // W6: one more commit, for those that are parked.
        let failed = self.shared.store.sync(self.poller.unix_now()).err();
        let parked = mem::take(&mut self.parked);
        let failed = failed.map(|error| (u64::MAX, error));
        self.settle(parked, failed, self.poller.now());
        Ok(())
    }

    /// Waits until a connection is ready, or until timeouts are to be checked: one tick.
    pub fn step(&mut self) -> io::Result<()> {
        let mut now = self.poller.now();
        if self.ready.is_empty() {
            let has_turns = !self.turns.is_empty();
            let check = self.next_check.saturating_duration_since(now);
            let timeout = if has_turns { Duration::ZERO } else { check };
            self.poller.wait(&mut self.ready, timeout)?;
            now = self.poller.now();
        }
        self.tick(now)?;
        if now >= self.next_check {
            self.next_check = now + CHECK;
            self.close_overdue(now);
        }
        Ok(())
    }

    /// Serves the connections that are ready: the way of a request, from here on.
    fn tick(&mut self, now: Instant) -> io::Result<()> {
        if self.queue_ready() {
            self.register_new(now);
            let parked = mem::take(&mut self.parked);
            self.settle(parked, self.shared.syncer.failed(), now);
        }
        self.context.session.work = 0;
        self.context.session.now = self.poller.unix_now();
        let mut served = Vec::with_capacity(self.turns.len());
        while !self.context.is_exhausted()
            && let Some(token) = self.turns.pop_front()
        {
            served.extend(self.serve(token, now).map(|depends_on| (token, depends_on)));
        }
        // W1: one commit for all.
        let position = served.iter().map(|(_, depends_on)| *depends_on).max();
        let failed = self.commit(position.unwrap_or(0))?;
        self.settle(served, failed, now);
        Ok(())
    }

    /// Appends the connections that are ready to those whose turn it is. Returns whether
    /// the worker itself was woken.
    fn queue_ready(&mut self) -> bool {
        let mut is_woken = false;
        for token in self.ready.drain(..) {
            is_woken |= token == WAKER;
            let connection = self.connections.get_mut(token).and_then(Option::as_mut);
            let Some(connection) = connection else { continue };
            match connection.waits {
                // It is queued already, or not watched.
                Waits::Turn | Waits::Check => {}
                // W5: it would be reported again and again.
                Waits::Commit => {
                    let _ = connection.watch(&mut *self.poller, None);
                }
                Waits::Input | Waits::Output => {
                    connection.waits = Waits::Turn;
                    self.turns.push_back(token);
                }
            }
        }
        is_woken
    }

    /// Lets a connection execute its requests. Returns what its replies depend on.
    fn serve(&mut self, token: usize, now: Instant) -> Option<u64> {
        let Worker { connections, context, buffer, .. } = self;
        let connection = connections.get_mut(token)?.as_mut()?;
        context.session.depends_on = 0;
        let serve = AssertUnwindSafe(|| connection.serve(buffer, now, context));
        // W2: whatever it was doing, it does no more.
        match catch_unwind(serve) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => connection.abandon(BROKEN),
            Err(_) => connection.abandon("a request panicked"),
        }
        connection.waits = Waits::Commit;
        Some(context.session.depends_on)
    }

    /// Makes everything before `position` as safe as the mode promises, or requests that
    /// from the syncer.
    fn commit(&mut self, position: u64) -> io::Result<Option<Failed>> {
        let (store, now) = (&self.shared.store, self.context.session.now);
        if store.is_committed(position) {
            return Ok(None);
        }
        // A write is over at once. A sync is not: while it lasts, others are served. But
        // where nobody else is ready or parked, handing it over would only cost time.
        if store.sync_mode == SyncMode::Always {
            let is_alone = self.turns.is_empty() && self.parked.is_empty();
            if is_alone {
                self.poller.wait(&mut self.ready, Duration::ZERO)?;
            }
            if !is_alone || !self.ready.is_empty() {
                self.shared.syncer.request(position);
                return Ok(None);
            }
        }
        Ok(store.commit(position, now).err().map(|error| (position, error)))
    }

    /// Lets those continue whose replies are safe, whoever has made them so, and those
    /// whose commit has failed; parks the others.
    fn settle(&mut self, served: Vec<Served>, failed: Option<Failed>, now: Instant) {
        for (token, depends_on) in served {
            if self.shared.store.is_committed(depends_on) {
                self.finish(token, None, now);
            } else if let Some((position, error)) = &failed
                && depends_on <= *position
            {
                self.finish(token, Some(error), now);
            } else {
                self.parked.push((token, depends_on));
            }
        }
    }

    /// After the commit: lets a connection's replies leave, and decides what it waits
    /// for next.
    fn finish(&mut self, token: usize, error: Option<&Error>, now: Instant) {
        let connection = self.connections.get_mut(token).and_then(Option::as_mut);
        let Some(connection) = connection else { return };
        if let Some(error) = error {
            connection.fail(error, self.shared.options.dialect);
        }
        if connection.flush(now, &mut self.context).is_err() {
            connection.abandon(BROKEN);
        }
        let Some(waits) = connection.waits_for() else { return self.close(token) };
        connection.waits = waits;
        let interest = match waits {
            Waits::Input => Some(Interest::Read),
            Waits::Output => Some(Interest::Write),
            Waits::Check => None,
            // Its turn: the commit is over.
            _ => return self.turns.push_back(token),
        };
        if connection.watch(&mut *self.poller, interest).is_err() {
            self.close(token);
        }
    }

    /// Registers the connections in the mailbox.
    fn register_new(&mut self, now: Instant) {
        let mailbox = &self.shared.mailboxes[self.context.worker];
        // The bytes mean nothing, and neither does a failure. W5: what comes after this wakes
        // the worker again.
        let _ = (&mailbox.woken).read(&mut [0; 64]);
        let new = mem::take(&mut *lock(&mailbox.connections));
        for (stream, number) in new {
            let is_authenticated = self.shared.credentials.is_none();
            let mut connection = Connection::new(stream, now, is_authenticated);
            connection.number = number;
            let watched = connection.watch(&mut *self.poller, Some(Interest::Read));
            let token = connection.token();
            let count = self.connections.len().max(token + 1);
            self.connections.resize_with(count, || None);
            self.connections[token] = Some(connection);
            if watched.is_err() {
                self.close(token);
            }
        }
    }

    /// Closes the connections whose client has taken too long, and lets those continue that
    /// were slowed down.
    fn close_overdue(&mut self, now: Instant) {
        for token in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[token] else { continue };
            if connection.waits == Waits::Check {
                (connection.is_slowed, connection.waits) = (false, Waits::Turn);
                self.turns.push_back(token);
            } else if connection.is_overdue(now, &self.shared.options) {
                self.close(token);
            }
        }
    }

    /// Closes a connection, and with it its place, which another may be waiting for.
    fn close(&mut self, token: usize) {
        if let Some(mut connection) = self.connections[token].take() {
            let _ = connection.watch(&mut *self.poller, None);
            let (number, why) = (connection.number, connection.why_closed());
            drop(connection);
            self.shared.release(self.context.worker, number, why);
        }
    }
}

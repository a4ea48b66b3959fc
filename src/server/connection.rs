//! The life of one connection, between two waits of its worker.
//!
//! ```text
//! socket --receive--> input --parse--> request --execute--> output --flush--> socket
//!                       ^                                      |
//!                       '------ nothing is read while output is waiting
//! ```
//!
//! Three moments, which the worker keeps apart: [`Connection::serve`] reads and executes,
//! the worker commits for all its connections at once, and only then
//! [`Connection::flush`] lets the replies leave.
//!
//! - V1: replies leave after the commit of what they depend on, or not at all.
//! - V2: what a connection holds is bounded: one unfinished request and one read, and
//!   [`OUTPUT_LIMIT`] of replies and one value more; at most twice that, since a buffer
//!   grows by doubling. A listing also has the keys of one part.
//! - V3: an idle connection holds no buffers; its worker takes back the one for replies.
//! - V4: with `--auth-file`, nothing but a login is executed before a login, and its
//!   block is short: see `login.rs`.

use crate::os::{Interest, Poller, is_transient};
use crate::protocol::dialect::Dialect;
use crate::protocol::reply::{Error, Reply};
use crate::protocol::words::Words;
use crate::protocol::{BlockEnd, Parsed, Rejection, Request};
use crate::server::login::{MAX_LOGIN, MAX_WRONG};
use crate::server::options::Options;
use crate::server::service::{Context, Listing, OUTPUT_LIMIT};
use crate::server::shared::Stream;
use crate::store::{self, Answer, Update, Verb};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// The most that is read from a connection in one tick, so that nobody starves.
pub const READ_LIMIT: usize = 64 << 10;

/// A request or its replies may take longer than `--request-timeout` as long as this many
/// bytes arrive, or leave, per second on average.
const LEAST_RATE: f64 = 1024.0;

/// What comes next in the input.
enum Next {
    /// A request, which can't be complete with fewer bytes than this.
    Request(usize),
    /// A line without its end, which is too long when it has more than this many bytes.
    Line(usize),
    /// The rest of a get's keys, with the line's end. It waits until the output has room.
    Keys { len: usize, unique: bool, exptime: Option<i64> },
    /// The rest of a listing. It waits likewise.
    List(Listing),
    /// A rejected data block: bytes of it that are left; and what is answered, and whose
    /// item is removed, after its end, for which this many bytes are needed.
    Swallow { left: usize, needed: usize, reply: Option<Reply>, key: Option<Vec<u8>> },
    /// Nothing: the connection is closed when the output has left, and `-v` says why.
    Close(&'static str),
}

impl Next {
    /// So many bytes of input are needed to continue.
    fn needed(&self) -> usize {
        match self {
            Next::Request(needed) | Next::Swallow { needed, .. } => *needed,
            Next::Line(longest) => longest + 1,
            Next::Keys { len, .. } => *len,
            Next::List(_) => 0,
            Next::Close(_) => usize::MAX,
        }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Bytes from its client.
    Input,
    /// Its client, to take replies.
    Output,
    /// The commit of its tick, before its replies may leave; if it is the syncer's, the
    /// connection is *parked*.
    Commit,
    /// Its turn in the next tick: it has input to execute.
    Turn,
    /// The worker's next check of timeouts: it has presented a wrong login.
    Check,
}

/// See the top of this file.
pub struct Connection {
    stream: Stream,
    /// Its number in the lines of `-v`, from 1 on.
    pub(crate) number: u64,
    /// As its worker has decided. One that waits for a commit or for its turn is never
    /// overdue.
    pub waits: Waits,
    /// What the poller watches its socket for, if for anything.
    interest: Option<Interest>,
    /// V4: no login is needed any more.
    is_authenticated: bool,
    /// The wrong logins that it has presented.
    wrong_logins: u8,
    /// The last of them is to be answered late.
    pub(crate) is_slowed: bool,
    next: Next,
    /// Received and not yet executed: the beginning of a request or, while execution is
    /// paused, whole ones. Empty most of the time, since what is complete is executed
    /// from the worker's read buffer.
    input: Vec<u8>,
    /// Replies, of which the first `sent` bytes have left.
    output: Vec<u8>,
    sent: usize,
    accepted: Instant,
    /// When the timeout began: of being idle, of a request, or of its replies.
    since: Instant,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(stream: Stream, now: Instant, is_authenticated: bool) -> Connection {
        Connection {
            stream,
            number: 0,
            waits: Waits::Input,
            interest: None,
            is_authenticated,
            wrong_logins: 0,
            is_slowed: false,
            next: Next::Request(1),
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            accepted: now,
            since: now,
        }
    }

    /// What the poller reports, and the worker finds it by: its descriptor.
    pub(crate) fn token(&self) -> usize {
        self.stream.as_raw_fd() as usize
    }

    /// Has the poller watch its socket for this, or for nothing.
    pub(crate) fn watch(
        &mut self,
        poller: &mut dyn Poller,
        interest: Option<Interest>,
    ) -> io::Result<()> {
        if self.interest == interest {
            return Ok(());
        }
        if self.interest.take().is_some() {
            poller.remove(self.stream.as_fd())?;
        }
        self.interest = interest;
        interest.map_or(Ok(()), |it| poller.add(self.stream.as_fd(), self.token(), it))
    }

    /// Whether it waits for nothing but the next request.
    fn is_idle(&self) -> bool {
        let is_between = matches!(self.next, Next::Request(_));
        is_between && self.input.is_empty() && self.output.is_empty()
    }

    /// Whether there is input to execute, and room for the replies.
    fn can_continue(&self) -> bool {
        self.output.is_empty() && self.input.len() >= self.next.needed()
    }

    /// What it waits for, now that its replies may leave; `None` if it is finished.
    pub fn waits_for(&self) -> Option<Waits> {
        match self.next {
            _ if self.is_slowed => Some(Waits::Check),
            _ if !self.output.is_empty() => Some(Waits::Output),
            Next::Close(_) => None,
            _ if self.can_continue() => Some(Waits::Turn),
            _ => Some(Waits::Input),
        }
    }

    /// Whether it has been idle, or in the middle of a request, for too long. One that
    /// is parked, or whose turn has not come, waits for us.
    pub fn is_overdue(&self, now: Instant, options: &Options) -> bool {
        let (limit, since) = match self.is_authenticated {
            // V4: whatever is said before a login buys no time.
            false => (options.request_timeout, self.accepted),
            true if self.is_idle() => (options.idle_timeout, self.since),
            true => (options.request_timeout, self.since),
        };
        let is_timed = matches!(self.waits, Waits::Input | Waits::Output);
        let waited = now.saturating_duration_since(since);
        is_timed && !limit.is_zero() && waited > limit
    }

    /// Bytes have arrived or left: the timeout begins later.
    fn progress(&mut self, bytes: usize, now: Instant) {
        let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE);
        self.since = now.min(self.since + earned);
    }

    /// Executes what is there, or reads once into `buffer` and executes every request that
    /// is complete.
    pub fn serve(
        &mut self,
        buffer: &mut [u8],
        now: Instant,
        context: &mut Context,
    ) -> io::Result<()> {
        if !self.output.is_empty() {
            return Ok(());
        }
        if !self.can_continue() {
            let count = match (&self.stream).read(buffer) {
                // The client will send no more. All that it sent whole was executed.
                Ok(0) => {
                    self.next = Next::Close("its client has closed it");
                    return Ok(());
                }
                Ok(count) => count,
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            context.counters().bytes_read.add(count as u64);
            let received = &buffer[..count];
            match self.is_idle() {
                true => self.since = now,
                false => self.progress(count, now),
            }
            // A long line in small chunks is not searched from its head for each of them.
            if matches!(self.next, Next::Line(_)) && received.contains(&b'\n') {
                self.next = Next::Request(1);
            }
            if self.input.is_empty() {
                let used = self.execute(received, now, context);
                self.input.extend_from_slice(&received[used..]);
                return Ok(());
            }
            self.input.extend_from_slice(received);
        }
        let mut input = std::mem::take(&mut self.input);
        let used = self.execute(&input, now, context);
        if used < input.len() {
            input.drain(..used);
            self.input = input;
        }
        Ok(())
    }

    /// Executes request after request from the head of `bytes`; returns how many bytes
    /// are done with. What is not becomes `input` again.
    fn execute(&mut self, bytes: &[u8], now: Instant, context: &mut Context) -> usize {
        self.output = context.buffers.pop().unwrap_or_default();
        let mut used = 0;
        while bytes.len() - used >= self.next.needed() {
            // V2: more requests would be more replies. And the neighbours wait.
            if self.output.len() >= OUTPUT_LIMIT || context.is_exhausted() {
                break;
            }
            let rest = &bytes[used..];
            used += match self.next {
                Next::Request(_) | Next::Line(_) => self.next_request(rest, context),
                Next::Keys { len, unique, exptime } => {
                    self.next = Next::Request(1);
                    let line = &rest[..len];
                    let keys = Words(&line[..len - end_len(line)]);
                    self.get(keys, line, unique, exptime, context)
                }
                Next::List(ref mut it) => {
                    let is_done = context.list(it, &mut self.output);
                    if is_done { self.stop(Next::Request(1)) } else { 0 }
                }
                Next::Swallow { .. } => self.swallow(rest, context),
                Next::Close(_) => 0,
            };
            if matches!(self.next, Next::Request(1)) {
                self.since = now;
                if self.wrong_logins == MAX_WRONG {
                    self.next = Next::Close("wrong logins");
                }
            }
        }
        if self.output.is_empty() {
            context.take_back(&mut self.output);
        }
        used
    }

    /// Discards what is there of a rejected block. Returns the bytes used.
    fn swallow(&mut self, bytes: &[u8], context: &mut Context) -> usize {
        let Next::Swallow { left, needed, reply, key } = &mut self.next else {
            return 0;
        };
        let dialect = context.shared.options.dialect;
        let skipped = bytes.len().min(*left);
        *left -= skipped;
        match dialect.block_end(&bytes[skipped..], *left) {
            // Any byte helps while the block lasts; for its end, this many are needed.
            BlockEnd::Need(bytes) => {
                *needed = if *left > 0 { 1 } else { bytes };
                skipped
            }
            BlockEnd::Found(end) | BlockEnd::Missing(end) => {
                // Not before: a client that leaves in the middle has requested nothing.
                let removed = key.take().map(|key| context.remove(&key));
                if let Some(reply) = reply {
                    if let Some(Err(error)) = removed {
                        *reply = Reply::ServerError(error.to_string());
                    }
                    dialect.write_reply(reply, &mut self.output);
                }
                self.next = Next::Request(1);
                skipped + end
            }
        }
    }

    /// Parses the request at the head of `bytes` and executes it. Returns the bytes
    /// used, 0 if it is not complete.
    fn next_request(&mut self, bytes: &[u8], context: &mut Context) -> usize {
        let start = self.output.len();
        let options = &context.shared.options;
        // The clock is read for `-vv` alone.
        let begun = (options.verbosity > 1).then(Instant::now);
        let was_authenticated = self.is_authenticated;
        let mut limits = context.shared.store.limits;
        if !was_authenticated {
            // V4
            limits.max_value = MAX_LOGIN;
            limits.max_item_size = MAX_LOGIN + limits.key_size;
        }
        let parsed = options.dialect.parse(bytes, &limits);
        self.next = Next::Request(1);
        let (used, noreply) = match parsed {
            Parsed::NeedBytes(needed) => return self.stop(Next::Request(needed)),
            Parsed::NeedLine(longest) => return self.stop(Next::Line(longest)),
            Parsed::Close(why) => return self.stop(Next::Close(why)),
            Parsed::Rejected(rejection) => {
                self.reject(&rejection, bytes.starts_with(b"set "), context);
                (rejection.used, rejection.noreply)
            }
            Parsed::Request { request, noreply, used } => {
                let used = self.dispatch(&request, &bytes[..used], context);
                (used, noreply)
            }
        };
        if noreply && was_authenticated {
            self.output.truncate(start);
        }
        if let Some(begun) = begun {
            // It may be a login, or what of one came out of step.
            let request = if was_authenticated { &bytes[..used] } else { b"(hidden)" };
            let line = trace(request, &self.output[start..], begun.elapsed());
            context.shared.report(self.number, &line, "");
        }
        used
    }

    /// Uses no bytes now.
    fn stop(&mut self, next: Next) -> usize {
        self.next = next;
        0
    }

    /// Executes a request that is `bytes`. Returns how many of them are done with.
    fn dispatch(
        &mut self,
        request: &Request,
        bytes: &[u8],
        context: &mut Context,
    ) -> usize {
        match *request {
            _ if !self.is_authenticated => self.log_in(request, context),
            Request::Get { keys, unique, exptime } => {
                return self.get(keys, bytes, unique, exptime, context);
            }
            Request::List(keys_only) if self.output.is_empty() => {
                self.output.extend_from_slice(b"OK\r\n");
                self.next = Next::List(Listing { keys_only, keys: vec![], next: 0 });
            }
            Request::Quit => self.next = Next::Close("quit"),
            _ => context.answer(request, &mut self.output),
        }
        bytes.len()
    }

    /// V4: a `set` is a login, and everything else is rejected.
    fn log_in(&mut self, request: &Request, context: &mut Context) {
        let result = match (request, &context.shared.credentials) {
            (Request::Update(Update { verb: Verb::Set, value, .. }), Some(logins)) => {
                let result = logins.verify(value);
                if result != Err(Error::BadToken) {
                    self.count_login(result.is_ok(), context);
                }
                result
            }
            _ => Err(Error::Unauthenticated),
        };
        self.is_authenticated = result.is_ok();
        let stored = Reply::Answer(Answer::Stored);
        let reply = result.map_or_else(Reply::Rejected, |()| stored);
        context.shared.options.dialect.write_reply(&reply, &mut self.output);
    }

    /// Counts a login that was presented.
    fn count_login(&mut self, is_accepted: bool, context: &Context) {
        context.counters().auth_cmds.add(1);
        context.counters().auth_errors.add(u64::from(!is_accepted));
        self.wrong_logins += u8::from(!is_accepted);
        self.is_slowed |= !is_accepted;
    }

    /// Answers what is malformed or too large, at once or after its data block.
    fn reject(&mut self, rejection: &Rejection, is_set: bool, context: &mut Context) {
        let Rejection { error, swallow, ref removes, .. } = *rejection;
        let mut reply = Reply::Rejected(error);
        if !self.is_authenticated {
            reply = Reply::Rejected(match error {
                Error::BadChunk => Error::BadTermination,
                // V4: it may have been meant for a login.
                Error::TooLarge if is_set => {
                    self.count_login(false, context);
                    Error::AuthenticationFailure
                }
                _ => Error::Unauthenticated,
            });
        } else if swallow.is_some() || error == Error::BadChunk {
            // `stats` counts blocks that came, whatever became of them.
            context.counters().cmd_set.add(1);
        }
        let Some(left) = swallow else {
            let dialect = context.shared.options.dialect;
            return dialect.write_reply(&reply, &mut self.output);
        };
        let is_silent = rejection.noreply && self.is_authenticated;
        let reply = (!is_silent).then_some(reply);
        let key = removes.as_deref().filter(|_| self.is_authenticated).map(Vec::from);
        self.next = Next::Swallow { left, needed: 1, reply, key };
    }

    /// Answers as many keys as there is room for; `line` ends with them. Returns how many
    /// bytes of it are done with.
    fn get(
        &mut self,
        keys: Words,
        line: &[u8],
        unique: bool,
        exptime: Option<i64>,
        context: &mut Context,
    ) -> usize {
        let Some(keys) = context.get(keys, unique, exptime, &mut self.output) else {
            return line.len();
        };
        let len = keys.0.len() + end_len(line);
        self.next = Next::Keys { len, unique, exptime };
        line.len() - len
    }

    /// Lets the replies leave, as far as the socket takes them.
    pub fn flush(&mut self, now: Instant, context: &mut Context) -> io::Result<()> {
        if self.output.is_empty() || self.is_slowed {
            return Ok(());
        }
        match (&self.stream).write(&self.output[self.sent..]) {
            Ok(count) => {
                context.counters().bytes_written.add(count as u64);
                self.sent += count;
                if self.sent < self.output.len() {
                    self.progress(count, now);
                    return Ok(());
                }
                // All that was asked for is done, however long that took.
                (self.sent, self.since) = (0, now);
                // V3
                context.take_back(&mut self.output);
                Ok(())
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// V1: replaces replies that are not known to hold by one line, after which the
    /// connection is closed.
    pub(crate) fn fail(&mut self, error: &store::Error, dialect: Dialect) {
        self.abandon("a commit failed");
        let reply = Reply::ServerError(error.to_string());
        dialect.write_reply(&reply, &mut self.output);
    }

    /// Closes the connection, without the replies of requests that were cut short.
    pub(crate) fn abandon(&mut self, why: &'static str) {
        self.output.clear();
        self.next = Next::Close(why);
    }

    /// Why it is closed now: if by nothing else, because it is overdue.
    pub(crate) fn why_closed(&self) -> &'static str {
        match self.next {
            Next::Close(why) => why,
            _ if !self.is_authenticated => "no login in time",
            _ if self.is_idle() => "idle timeout",
            _ => "request timeout",
        }
    }
}

/// How many bytes the end of a line has.
fn end_len(line: &[u8]) -> usize {
    if line.ends_with(b"\r\n") { 2 } else { 1 }
}

/// What `-vv` prints of a request: its line, how it was answered, how long it took.
fn trace(request: &[u8], reply: &[u8], took: Duration) -> String {
    let first_line = |bytes: &[u8]| {
        let len = bytes.iter().position(|byte| b"\r\n".contains(byte));
        bytes[..len.unwrap_or(bytes.len()).min(80)].escape_ascii().to_string()
    };
    let (line, answer) = (first_line(request), first_line(reply));
    let (len, took) = (reply.len(), took.as_micros());
    format!("'{line}' answered \"{answer}\", {len} bytes, {took} us")
}

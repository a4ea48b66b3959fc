//! The life of one connection, between two waits of its worker.
//!
//! ```text
//! socket --receive--> input --parse--> request --execute--> output --flush--> socket
//!                       ^                                      |
//!                       '------ nothing is read while output is waiting
//! ```
//!
//! Three moments, which the worker keeps apart: [`Connection::receive`] reads and
//! executes, the worker commits for all its connections at once, and only then
//! [`Connection::flush`] lets the replies leave. Between the last two a connection may
//! be *parked*, and its worker does other things, until the log is safe.
//!
//! - V1: replies leave after the commit of what they depend on, or not at all.
//! - V2: what a connection holds is bounded: one unfinished request and one read,
//!   and [`OUTPUT_LIMIT`] of replies and one value more. `bytes_max` is that in bytes.
//! - V3: an idle connection holds no buffers.
//! - V4: with `--auth-file`, nothing but a login is executed for a stranger, and its
//!   block is short: see `auth.rs`.

use crate::auth;
use crate::dialect::Dialect;
use crate::os::Interest;
use crate::protocol::{BlockEnd, Limits, Message, Parsed, Refusal};
use crate::protocol::{Request, Retrieval};
use crate::reply::{Error, LINES_MAX, Reply};
use crate::say;
use crate::service::{Context, OUTPUT_LIMIT, Service, WORK_LIMIT};
use crate::stats::Counter;
use crate::store::Session;
use crate::words::Words;
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// The most that is read from a connection in one tick, so that nobody starves.
pub const READ_LIMIT: usize = 64 << 10;

/// V2: the longest that `input` may be, in bytes.
fn input_max(limits: &Limits) -> usize {
    limits.request() + READ_LIMIT
}

/// V2: the longest that `output` may be, where no value is longer than `value`. A miss
/// shows a key, too, which may be longer than any item.
fn output_max(limits: &Limits, value: usize) -> usize {
    OUTPUT_LIMIT + value + limits.line() + LINES_MAX
}

/// V2: the most bytes that the buffers of a connection take up, where no value is longer
/// than `value`.
pub(crate) fn bytes_max(limits: &Limits, value: usize) -> usize {
    input_max(limits) + output_max(limits, value)
}

/// A connected socket, of `--port` or of `--unix-socket`: as a file, the two are read
/// and written alike.
pub type Stream = File;

/// A data block that is thrown away.
struct Swallow {
    /// Bytes of the block that have yet to come, its line end not among them.
    left: usize,
    /// What is answered then.
    reply: Option<Reply>,
}

/// See the module's page.
pub struct Connection {
    stream: Stream,
    /// A login is wanted, and its client has not shown one.
    is_stranger: bool,
    /// Read and not yet executed: the beginning of a request or, while execution is
    /// paused, whole ones. Empty most of the time, since what is complete is executed
    /// from the worker's read buffer.
    input: Vec<u8>,
    /// Parsing `input` again makes no sense before it has this many bytes.
    needed: usize,
    /// `input` is a line without its end; when that comes, it is parsed all the same.
    line_open: bool,
    /// A refused data block is still coming.
    swallow: Option<Swallow>,
    /// A get has paused; `input` begins with the rest of its line, of this length.
    paused: Option<(Retrieval, usize)>,
    /// Replies, of which the first `sent` bytes have left.
    output: Vec<u8>,
    sent: usize,
    /// V1: the replies in `output` hold once the log is committed up to here.
    pub depends_on: u64,
    /// Execution stopped because it was enough, not because `input` ran out.
    unfinished: bool,
    /// To be closed when `output` has left.
    closing: bool,
    /// What the poller watches for, if for anything.
    pub interest: Option<Interest>,
    /// When it last became idle or got on with a request or with its replies.
    since: Instant,
}

impl Connection {
    /// A connection that has just been accepted, by a server that wants a login or not.
    pub fn new(stream: Stream, now: Instant, wants_login: bool) -> Connection {
        Connection {
            stream,
            is_stranger: wants_login,
            input: Vec::new(),
            needed: 0,
            line_open: false,
            swallow: None,
            paused: None,
            output: Vec::new(),
            sent: 0,
            depends_on: 0,
            unfinished: false,
            closing: false,
            interest: Some(Interest::Read),
            since: now,
        }
    }

    /// The socket.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether it waits for nothing but the next request.
    fn is_idle(&self) -> bool {
        self.input.is_empty() && self.swallow.is_none() && self.output.is_empty()
    }

    /// Whether requests are there to be executed, and room for their replies.
    pub fn can_resume(&self) -> bool {
        self.unfinished && self.output.is_empty()
    }

    /// Whether replies wait for the client to take them.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether nothing more can happen here.
    pub fn is_finished(&self) -> bool {
        self.closing && self.output.is_empty()
    }

    /// Whether it has been idle, or in the middle of a request, for too long. One that
    /// is parked waits for us.
    pub fn is_overdue(
        &self,
        now: Instant,
        idle: Option<Duration>,
        request: Option<Duration>,
    ) -> bool {
        // A stranger is never idle: between two of his lines he has the time of a request.
        let is_idle = self.is_idle() && !self.is_stranger;
        let limit = if is_idle { idle } else { request };
        !self.is_parked()
            && limit.is_some_and(|limit| now.duration_since(self.since) > limit)
    }

    /// Whether its replies wait for the log.
    pub fn is_parked(&self) -> bool {
        self.depends_on != 0
    }

    /// Reads once into `buffer` and executes every request that is complete.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        now: Instant,
        context: &mut Context,
    ) -> io::Result<()> {
        let count = match (&self.stream).read(buffer) {
            Ok(count) => count,
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        context.count(Counter::BytesRead, count as u64);
        if count == 0 {
            // The client will send no more. All that it sent whole was executed.
            self.closing = true;
        }
        if self.is_idle() {
            self.since = now;
        }
        if self.input.is_empty() {
            let used = self.execute(&buffer[..count], now, context);
            self.input.extend_from_slice(&buffer[used..count]);
        } else {
            // A long line in crumbs is not searched from its head for each of them.
            if self.line_open && buffer[..count].contains(&b'\n') {
                self.needed = 0;
            }
            self.input.extend_from_slice(&buffer[..count]);
            self.resume(now, context);
        }
        Ok(())
    }

    /// Executes what was read before, now that the client has taken its replies.
    pub fn resume(&mut self, now: Instant, context: &mut Context) {
        let mut input = std::mem::take(&mut self.input);
        let used = self.execute(&input, now, context);
        if used < input.len() {
            input.drain(..used);
            self.input = input;
            // V2: it has grown by doubling.
            let most = input_max(&context.service.limits);
            self.input.shrink_to(most);
            debug_assert!(self.input.capacity() <= most);
        }
    }

    /// Executes request after request from the head of `bytes`; returns how many bytes
    /// are done with. What is not ends in `input` again. Four fields tell what the
    /// next byte is:
    ///
    /// - `swallow`: part of a refused data block;
    /// - `paused`: the rest of a get's keys;
    /// - `needed`: the head of a request that lacks bytes, or its line's end;
    /// - none of them: the head of a request. With `unfinished`, it waits for room.
    fn execute(&mut self, bytes: &[u8], now: Instant, context: &mut Context) -> usize {
        if self.output.capacity() == 0 {
            self.output = context.spare_buffers.pop().unwrap_or_default();
        }
        context.session.depends_on = self.depends_on;
        context.session.moved = 0;
        self.unfinished = false;
        let mut used = 0;
        while !self.closing && bytes.len() - used >= self.needed.max(1) {
            // V2: more requests would be more replies. And the neighbours wait.
            let Session { moved, crowded, .. } = context.session;
            if self.output.len() >= OUTPUT_LIMIT || moved >= WORK_LIMIT || crowded {
                self.unfinished = true;
                break;
            }
            let rest = &bytes[used..];
            let step = if self.swallow.is_some() {
                self.swallow(rest, context.service.dialect)
            } else if let Some((retrieval, len)) = self.paused.take() {
                let line = &rest[..len];
                let keys = Words(&line[..len - end_len(line)]);
                self.get(retrieval, keys, line, context)
            } else {
                self.next_request(rest, context)
            };
            used += step;
            if step > 0 {
                (self.needed, self.line_open) = (0, false);
            }
            if step > 0 && self.swallow.is_none() {
                self.since = now;
            }
        }
        self.depends_on = context.session.depends_on;
        // V2: so has this.
        let Service { limits, store, .. } = &*context.service;
        let most = output_max(limits, store.longest_value());
        self.output.shrink_to(most);
        debug_assert!(self.output.capacity() <= most);
        // V3
        if self.output.is_empty() {
            context.recycle(std::mem::take(&mut self.output));
        }
        used
    }

    /// Throws away what is there of a refused block. Returns the bytes used.
    fn swallow(&mut self, bytes: &[u8], dialect: Dialect) -> usize {
        let Some(Swallow { left, reply }) = &mut self.swallow else { return 0 };
        let skipped = bytes.len().min(*left);
        *left -= skipped;
        match dialect.block_end(&bytes[skipped..], *left) {
            BlockEnd::Incomplete(needed) => {
                // Counts where nothing was skipped: from here on, `needed` bytes.
                self.needed = needed;
                skipped
            }
            BlockEnd::Found(end) | BlockEnd::Missing(end) => {
                if let Some(reply) = reply {
                    dialect.write_reply(reply, &mut self.output);
                }
                self.swallow = None;
                skipped + end
            }
        }
    }

    /// Parses the request at the head of `bytes` and executes it. Returns the bytes
    /// used, 0 if it is not complete.
    fn next_request(&mut self, bytes: &[u8], context: &mut Context) -> usize {
        let start = self.output.len();
        // The clock is looked at for `-vv` alone.
        let service = &context.service;
        let begun = (service.verbosity > 1).then(Instant::now);
        // V4
        let is_stranger = self.is_stranger;
        let parsed = match is_stranger {
            true => auth::parse(bytes, &service.limits),
            false => service.dialect.parse(bytes, &service.limits),
        };
        let (used, noreply) = match parsed {
            Parsed::Incomplete(needed) => {
                (self.needed, self.line_open) = (needed, false);
                return 0;
            }
            Parsed::Unended(longest) => {
                self.needed = longest + 1;
                self.line_open = true;
                return 0;
            }
            Parsed::Hangup => {
                self.closing = true;
                return bytes.len();
            }
            Parsed::Refused(refusal) => {
                self.refuse(&refusal, context);
                (refusal.used, refusal.noreply)
            }
            Parsed::Message(Message {
                request: Request::Get(retrieval, keys),
                used,
                ..
            }) => (self.get(retrieval, keys, &bytes[..used], context), false),
            Parsed::Message(Message {
                request: Request::Authenticate(block),
                used,
                ..
            }) => {
                self.is_stranger = !context.authenticate(block, &mut self.output);
                (used, false)
            }
            Parsed::Message(Message { request, noreply, used }) => {
                self.closing = request == Request::Quit;
                context.perform(request, &mut self.output);
                (used, noreply)
            }
        };
        if noreply {
            self.output.truncate(start);
        }
        if let Some(begun) = begun {
            // It may be a login, or what of one came out of step.
            let request = if is_stranger { b"(not shown)" } else { &bytes[..used] };
            trace(request, &self.output[start..], begun.elapsed());
        }
        used
    }

    /// Answers what is malformed or too large, at once or behind its data block.
    fn refuse(&mut self, refusal: &Refusal, context: &mut Context) {
        match refusal.error {
            Error::AuthenticationFailure => context.count_login(false),
            Error::Unauthenticated => {}
            error if refusal.swallow.is_some() || error == Error::BadChunk => {
                context.count(Counter::CmdSet, 1);
            }
            _ => {}
        }
        let mut reply = Reply::Refused(refusal.error);
        if let Some(key) = refusal.stale
            && let Err(error) = context.drop_stale(key)
        {
            reply = Reply::ServerError(error.to_string());
        }
        match refusal.swallow {
            Some(left) => {
                let reply = (!refusal.noreply).then_some(reply);
                self.swallow = Some(Swallow { left, reply });
            }
            None => context.service.dialect.write_reply(&reply, &mut self.output),
        }
    }

    /// Answers as many keys as there is room for; `line` ends with them. Returns how many
    /// bytes of it are done with.
    fn get(
        &mut self,
        retrieval: Retrieval,
        keys: Words,
        line: &[u8],
        context: &mut Context,
    ) -> usize {
        let Some(keys) = context.get(retrieval, keys, &mut self.output) else {
            return line.len();
        };
        let left = keys.0.len() + end_len(line);
        self.paused = Some((retrieval, left));
        line.len() - left
    }

    /// Lets the replies leave, as far as the socket takes them.
    pub fn flush(&mut self, now: Instant, context: &mut Context) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        match (&self.stream).write(&self.output[self.sent..]) {
            Ok(count) => {
                context.count(Counter::BytesWritten, count as u64);
                self.sent += count;
                self.since = now;
                if self.sent == self.output.len() {
                    self.sent = 0;
                    context.recycle(std::mem::take(&mut self.output));
                }
                Ok(())
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// V1: puts one line in the place of replies that are not known to hold, after
    /// which the connection is closed.
    pub fn fail(&mut self, error: &dyn std::fmt::Display, dialect: Dialect) {
        self.output.clear();
        let reply = Reply::ServerError(error.to_string());
        dialect.write_reply(&reply, &mut self.output);
        self.closing = true;
    }

    /// Closes the connection, without the replies of requests that were cut short.
    pub fn abandon(&mut self) {
        self.output.clear();
        self.closing = true;
    }
}

/// A read or write that found nothing to do, or that a signal ended.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// How many bytes the end of a line has.
fn end_len(line: &[u8]) -> usize {
    if line.ends_with(b"\r\n") { 2 } else { 1 }
}

/// What `-vv` says of a request: its line, how it was answered, how long it took.
fn trace(request: &[u8], reply: &[u8], took: Duration) {
    let first_line = |bytes: &[u8]| {
        let line = bytes.split(|byte| b"\r\n".contains(byte)).next();
        let line = line.unwrap_or_default();
        line[..line.len().min(80)].escape_ascii().to_string()
    };
    let (request, len, took) = (first_line(request), reply.len(), took.as_micros());
    let reply = first_line(reply);
    say(&format!(
        "SERVER: '{request}' answered \"{reply}\", {len} bytes, in {took} us"
    ));
}

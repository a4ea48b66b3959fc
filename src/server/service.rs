//! What each request does: from a [`Request`] to the store and to the bytes of its reply.
//!
//! A [`Context`] is one worker's side of the server: it brings the session, whose clock the
//! worker sets, and counts in counters of its own. Nothing here uses sockets; a reply is
//! appended to the buffer that the caller gives.
//!
//! | request | is done by | and answered |
//! |---|---|---|
//! | a get of any kind | `Context::get`, key by key, since there may be more than fits | its items, `END` |
//! | a change of one item | `Store::execute` | the answer's line |
//! | a meta command | the same | codes and flags |
//! | a listing | `Context::list`, item by item, likewise | `OK`, a line an item, `END` |
//! | `flush_all` | `Store::flush_all` | `OK` |
//! | `stats` | `Shared::stats` | lines of figures, `END` |
//!
//! An error of the store is one `SERVER_ERROR` line, and the connection continues: what
//! failed is this request. That a commit failed is the worker's to answer.

use crate::lock;
use crate::os;
use crate::protocol::meta::{Meta, write_listed_key};
use crate::protocol::reply::{self, Error, Reply, write_listed, write_stat};
use crate::protocol::words::Words;
use crate::protocol::{Request, Topic};
use crate::server::shared::Shared;
use crate::server::stats::{Counters, totals};
use crate::store::{Answer, Record, Result, Session, Update, Verb};
use std::fmt::Display;
use std::mem;
use std::path::Path;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// When this many bytes of replies are waiting, execution pauses, between the keys of
/// one get as well, until the client has taken them.
pub const OUTPUT_LIMIT: usize = 256 << 10;

/// When the requests of a tick have done so much work, in bytes of records and what look-ups
/// cost, the tick ends: replies leave, and those that were not served come first in the
/// next. A short request may read and write a large value.
const WORK_LIMIT: u64 = 1 << 20;

/// A worker keeps at most this many output buffers.
const BUFFERS: usize = 128;

/// One that is larger is freed.
const BUFFER_LIMIT: usize = 4096;

/// A listing, as far as it has come. It is made in pieces: the keys of a part are copied,
/// and the items looked up one after the other, while there is room for replies.
pub(crate) struct Listing {
    pub(crate) keys_only: bool,
    /// What is left of the part that is being listed.
    pub(crate) keys: Vec<Box<[u8]>>,
    /// The number of the next part.
    pub(crate) next: usize,
}

/// See the top of this file.
pub struct Context {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Which of the workers this is.
    pub(crate) worker: usize,
    /// The worker's side of the store.
    pub session: Session,
    /// Empty output buffers. The next one to be used is the one that was used last, which
    /// is still in the processor's caches.
    pub buffers: Vec<Vec<u8>>,
}

impl Context {
    /// For worker number `worker`.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Context {
        let (session, buffers) = (Session::default(), Vec::new());
        Context { shared, worker, session, buffers }
    }

    /// Takes an output buffer back, and keeps it if it is not large.
    pub(crate) fn take_back(&mut self, buffer: &mut Vec<u8>) {
        let mut buffer = mem::take(buffer);
        if buffer.capacity() <= BUFFER_LIMIT && self.buffers.len() < BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// The worker's counters.
    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters[self.worker]
    }

    /// Removes the old value of a key whose new one was too large.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<()> {
        let delete = Update { verb: Verb::Delete, key, ..Update::default() };
        self.shared.store.execute(&mut self.session, &delete).map(|_| ())
    }

    /// Whether the tick has done enough work.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.session.work >= WORK_LIMIT
    }

    /// Appends the replies of one key after another to `out`. Returns the keys that are
    /// left when `out` is full, or when the tick has done enough.
    pub(crate) fn get<'k>(
        &mut self,
        mut keys: Words<'k>,
        unique: bool,
        exptime: Option<i64>,
        out: &mut Vec<u8>,
    ) -> Option<Words<'k>> {
        let start = out.len();
        let dialect = self.shared.options.dialect;
        while out.len() < OUTPUT_LIMIT && !self.is_exhausted() {
            let Some(key) = keys.next() else {
                dialect.write_reply(&Reply::End, out);
                return None;
            };
            let touched = exptime.map(|exptime| {
                let verb = Verb::Touch;
                self.update(&Update { verb, key, exptime, ..Update::default() })
            });
            let Context { shared, session, worker, .. } = self;
            let (store, it) = (&shared.store, &shared.counters[*worker]);
            let found = match touched {
                None => store.get(session, key),
                Some(Ok(Answer::Touched)) => Ok(Some(store.touched(session))),
                Some(answer) => answer.map(|_| None),
            };
            // `update` has counted a touch.
            let count = u64::from(exptime.is_none());
            it.cmd_get.add(count);
            let written = match found {
                Ok(Some(Record { flags, cas, value, .. })) => {
                    it.get_hits.add(count);
                    let unique = unique.then_some(cas);
                    dialect.write_value(out, key, flags, unique, value)
                }
                Ok(None) => {
                    it.get_misses.add(count);
                    dialect.write_miss(out, key)
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = written {
                // One line replaces what this get has answered and not sent yet.
                out.truncate(start);
                dialect.write_reply(&Reply::ServerError(why), out);
                return None;
            }
        }
        Some(keys)
    }

    /// Appends a listing's lines to `out`. False when `out` is full, or when the tick has
    /// done enough.
    pub(crate) fn list(&mut self, it: &mut Listing, out: &mut Vec<u8>) -> bool {
        let (store, now) = (&self.shared.store, self.session.now);
        while out.len() < OUTPUT_LIMIT && !self.is_exhausted() {
            if let Some(key) = it.keys.pop() {
                if it.keys_only {
                    write_listed_key(out, &key);
                // One that can't be read has no line. A get says why.
                } else if let Some(item) = store.peek(&mut self.session, &key) {
                    let size = store.format.record_len(item.value.len());
                    write_listed(out, &Record { key: &key, ..item }, size, now);
                }
            } else if let Some(keys) = store.keys(&mut self.session, it.next) {
                (it.keys, it.next) = (keys, it.next + 1);
            } else {
                let end = if it.keys_only { "EN\r\n" } else { "END\r\n" };
                out.extend_from_slice(end.as_bytes());
                return true;
            }
        }
        false
    }

    /// Executes any other request, and appends its reply to `out`.
    pub(crate) fn answer(&mut self, request: &Request, out: &mut Vec<u8>) {
        let now = self.session.now;
        let reply = match request {
            Request::Update(update) => self.update(update).map(Reply::Answer),
            Request::Meta(meta) => match self.meta(meta, out) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::Noop => Ok(Reply::Noop),
            Request::FlushAll(delay) => {
                self.counters().cmd_flush.add(1);
                let flushed = self.shared.store.flush_all(&mut self.session, *delay);
                flushed.map(|()| Reply::Ok)
            }
            Request::Version => Ok(Reply::Version(reply::VERSION.into())),
            Request::Verbosity => Ok(Reply::Ok),
            Request::DataLimit(megabytes) => {
                let bytes = megabytes.saturating_mul(1 << 20);
                self.shared.store.data_limit.store(bytes, Relaxed);
                Ok(Reply::Ok)
            }
            // As in memcached, where replies before it are still to leave.
            Request::List(_) => Ok(Reply::Rejected(Error::Pipelined)),
            Request::Stats(topic) => Ok(self.shared.stats(*topic, now, out)),
            // The connection's own.
            Request::Get { .. } | Request::Quit => return,
        };
        let reply = reply.unwrap_or_else(|error| Reply::ServerError(error.to_string()));
        self.shared.options.dialect.write_reply(&reply, out);
    }

    /// Executes a meta command, and appends its reply to `out`.
    fn meta(&mut self, meta: &Meta, out: &mut Vec<u8>) -> Result<()> {
        let answer = self.update(&Update { key: &meta.key, ..meta.update })?;
        let (store, session) = (&self.shared.store, &self.session);
        let (mut item, mut size) = session.stored;
        if matches!(meta.name, b"mg" | b"me") && answer != Answer::NotFound {
            item = store.touched(session);
            size = item.value.len();
        }
        if meta.name == b"me" {
            size = store.format.record_len(size);
        }
        meta.write_reply(answer, &item, size, session.now, out);
        Ok(())
    }

    /// Executes an update, and counts it: once when it comes, once by its answer.
    fn update(&mut self, update: &Update) -> Result<Answer> {
        let Context { shared, session, worker, .. } = self;
        let counters = &shared.counters[*worker];
        match update.verb {
            Verb::Touch => counters.cmd_touch.add(1),
            Verb::Get => counters.cmd_get.add(1),
            Verb::Delete | Verb::Incr | Verb::Decr => {}
            _ => counters.cmd_set.add(1),
        }
        let answer = shared.store.execute(session, update)?;
        let [hits, misses] = match update.verb {
            Verb::Cas if answer == Answer::Exists => [&counters.cas_badval; 2],
            // The item was there, and was left as it is.
            _ if matches!(answer, Answer::Exists | Answer::NotNumeric) => {
                return Ok(answer);
            }
            Verb::Cas => [&counters.cas_hits, &counters.cas_misses],
            Verb::Delete => [&counters.delete_hits, &counters.delete_misses],
            Verb::Touch => [&counters.touch_hits, &counters.touch_misses],
            Verb::Get => [&counters.get_hits, &counters.get_misses],
            Verb::Incr => [&counters.incr_hits, &counters.incr_misses],
            Verb::Decr => [&counters.decr_hits, &counters.decr_misses],
            _ => return Ok(answer),
        };
        let counter = if session.found.is_some() { hits } else { misses };
        counter.add(1);
        Ok(answer)
    }
}

impl Shared {
    /// Appends the lines of `stats` to `out`, and returns the last.
    fn stats(&self, topic: Topic, now: u64, out: &mut Vec<u8>) -> Reply {
        let mut stat = |name: &str, value: &dyn Display| write_stat(out, name, value);
        match topic {
            Topic::General => self.general_stats(now, &mut stat),
            Topic::Settings => self.settings(&mut stat),
            Topic::Items => {
                stat("items:1:number", &self.store.figure("curr_items"));
                stat("items:1:age", &0);
                stat("items:1:evicted", &0);
            }
            Topic::Nothing => {}
            Topic::Reset => {
                self.counters.iter().for_each(Counters::reset);
                self.store.reset_counts();
                let mut accepts = lock(&self.accepts);
                (accepts.accepted, accepts.rejected) = (0, 0);
                return Reply::Reset;
            }
        }
        Reply::End
    }

    /// `stats`: what memcached's clients and monitors read, under memcached's names, and
    /// the log's figures under names of ours.
    fn general_stats(&self, now: u64, stat: &mut dyn FnMut(&str, &dyn Display)) {
        let (user, system) = os::cpu_seconds();
        stat("pid", &std::process::id());
        stat("uptime", &self.started.elapsed().as_secs());
        stat("time", &now);
        stat("version", &reply::VERSION);
        stat("lite_version", &env!("CARGO_PKG_VERSION"));
        stat("pointer_size", &usize::BITS);
        stat("rusage_user", &format_args!("{user:.6}"));
        stat("rusage_system", &format_args!("{system:.6}"));
        let accepts = lock(&self.accepts);
        stat("max_connections", &self.options.conn_limit);
        stat("curr_connections", &accepts.serving);
        stat("connection_structures", &accepts.serving);
        stat("total_connections", &accepts.accepted);
        stat("rejected_connections", &accepts.rejected);
        stat("listen_disabled_num", &accepts.rejected);
        let is_accepting = accepts.serving < self.options.conn_limit;
        stat("accepting_conns", &u8::from(is_accepting));
        for (name, total) in totals(&self.counters) {
            stat(name, &total);
        }
        stat("threads", &self.counters.len());
        for (name, figure) in self.store.figures() {
            stat(name, &figure);
        }
        let stopped = self.store.compaction_stopped().map(ToString::to_string);
        stat("compaction_stopped", &stopped.as_deref().unwrap_or("no"));
    }

    /// `stats settings`: how the server was started.
    fn settings(&self, stat: &mut dyn FnMut(&str, &dyn Display)) {
        let options = &self.options;
        let auth_file = options.auth_file.as_deref().unwrap_or(Path::new("no"));
        stat("maxbytes", &self.store.data_limit.load(Relaxed));
        stat("maxconns", &options.conn_limit);
        stat("tcpport", &options.port);
        stat("udpport", &0);
        stat("verbosity", &options.verbosity);
        stat("num_threads", &options.threads);
        stat("cas_enabled", &"yes");
        stat("item_size_max", &options.store.max_item_size);
        stat("tcp_backlog", &options.backlog);
        stat("idle_timeout", &options.idle_timeout.as_secs_f64());
        stat("request_timeout", &options.request_timeout.as_secs_f64());
        stat("auth_enabled_ascii", &auth_file.display());
        stat("data", &options.data.display());
    }
}

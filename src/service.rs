//! What each request does: from a [`Request`] to the store and to reply bytes.
//!
//! [`Service`] is one for the whole server: the store, the limits, the counters.
//! A [`Context`] is one worker's hold on it: it brings the session, whose clock the
//! worker sets once a tick, and counts in counters of its own. Nothing here knows of
//! sockets; a reply goes into the buffer that the caller gives.

use crate::auth::{Credentials, Login};
use crate::dialect::Dialect;
use crate::log::LogError;
use crate::os;
use crate::protocol::{Limits, Request, Retrieval, Topic, Verb};
use crate::reply::{self, Reply, write_stat};
use crate::stats::{self, Counter, Counters};
use crate::store::{Counted, Session, Store, Stored};
use crate::words::Words;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// When so many bytes of replies are waiting, execution pauses, between the keys of
/// one get as well, until the client has taken them.
pub const OUTPUT_LIMIT: usize = 256 << 10;

/// When the requests of one connection have moved so many bytes of records in a tick,
/// the others have their turn: a short request may read and write a large value.
pub(crate) const WORK_LIMIT: u64 = 4 << 20;

/// What a look-up adds to that, found or not: a line of a megabyte may name half a million
/// keys that are not there.
const LOOK_UP: u64 = 256;

/// The most spare output buffers that a worker keeps, and the longest, in bytes.
const SPARE_COUNT: usize = 64;
const SPARE_SIZE: usize = 64 << 10;

/// The most bytes that a worker's spare buffers take up.
pub(crate) const SPARE_MAX: usize = SPARE_COUNT * SPARE_SIZE;

/// What all workers share.
pub struct Service {
    /// The data.
    pub store: Store,
    /// What requests may ask for.
    pub limits: Limits,
    /// Who may come in, if not everybody.
    pub credentials: Option<Credentials>,
    /// How requests and replies are worded.
    pub dialect: Dialect,
    /// How much is said on standard output: 0, 1 (`-v`) or 2 (`-vv`).
    pub verbosity: u8,
    /// Name and value of what `stats settings` tells.
    pub settings: Vec<(&'static str, String)>,
    /// The most connections at once.
    pub conn_limit: usize,
    /// One for each worker.
    pub counters: Vec<Counters>,
    /// Connections that are being served.
    pub connections: AtomicU64,
    /// Connections that have been accepted so far.
    pub accepted: AtomicU64,
    /// Connections that were turned away so far.
    pub rejected: AtomicU64,
    /// When the server started.
    pub started: Instant,
}

impl Service {
    fn write_stats(&self, topic: Topic, now: u64, out: &mut Vec<u8>) {
        match topic {
            Topic::General => self.write_general(now, out),
            Topic::Settings => {
                for (name, value) in &self.settings {
                    write_stat(out, name, value);
                }
            }
            Topic::Nothing => {}
            Topic::Reset => {
                self.counters.iter().for_each(Counters::reset);
                self.accepted.store(0, Relaxed);
                self.rejected.store(0, Relaxed);
                return Reply::Reset.write_to(out);
            }
        }
        Reply::End.write_to(out);
    }

    fn write_general(&self, now: u64, out: &mut Vec<u8>) {
        let figures = self.store.figures();
        let (user, system) = os::cpu_time();
        let mut stat = |name: &str, value: &dyn Display| write_stat(out, name, value);
        stat("pid", &std::process::id());
        stat("uptime", &self.started.elapsed().as_secs());
        stat("time", &now);
        stat("version", &reply::VERSION);
        stat("lite_version", &env!("CARGO_PKG_VERSION"));
        stat("pointer_size", &usize::BITS);
        stat("rusage_user", &format_args!("{:.6}", user.as_secs_f64()));
        stat("rusage_system", &format_args!("{:.6}", system.as_secs_f64()));
        stat("max_connections", &self.conn_limit);
        stat("curr_connections", &self.connections.load(Relaxed));
        stat("total_connections", &self.accepted.load(Relaxed));
        stat("rejected_connections", &self.rejected.load(Relaxed));
        stat("connection_structures", &self.connections.load(Relaxed));
        for (name, total) in stats::NAMES.into_iter().zip(stats::totals(&self.counters))
        {
            stat(name, &total);
        }
        stat("get_expired", &figures.expired_lookups);
        // Memory is not limited, and nothing is ever thrown out of it.
        stat("limit_maxbytes", &0);
        stat("evictions", &0);
        stat("threads", &self.counters.len());
        stat("bytes", &figures.live_bytes);
        stat("curr_items", &figures.items);
        stat("total_items", &figures.total_items);
        stat("log_generations", &figures.generations);
        stat("log_bytes", &figures.log_bytes);
        stat("log_end", &figures.log_end);
        stat("log_synced", &figures.log_synced);
        stat("log_damaged_reads", &figures.damaged_reads);
    }
}

/// One worker's hold on the service.
pub struct Context {
    /// What is shared.
    pub service: Arc<Service>,
    /// The worker's side of the store.
    pub session: Session,
    /// Which of the workers this is.
    worker: usize,
    /// Empty output buffers that were used before: a reply allocates nothing.
    pub spare_buffers: Vec<Vec<u8>>,
}

impl Context {
    /// For worker number `worker`.
    pub fn new(service: Arc<Service>, worker: usize) -> Context {
        let (session, spare_buffers) = (Session::default(), Vec::new());
        Context { service, session, worker, spare_buffers }
    }

    /// Takes back an output buffer, unless it has grown large or enough are there.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= SPARE_SIZE && self.spare_buffers.len() < SPARE_COUNT {
            buffer.clear();
            self.spare_buffers.push(buffer);
        }
    }

    /// Adds to one of the worker's counters.
    pub fn count(&self, counter: Counter, count: u64) {
        self.service.counters[self.worker].add(counter, count);
    }

    /// Answers one key after another, behind `out`. Returns the keys that are left
    /// when `out` is full, or when it is another connection's turn.
    pub fn get<'k>(
        &mut self,
        retrieval: Retrieval,
        mut keys: Words<'k>,
        out: &mut Vec<u8>,
    ) -> Option<Words<'k>> {
        let start = out.len();
        let Retrieval { unique, exptime } = retrieval;
        let Context { service, session, worker, .. } = self;
        let (counters, store) = (&service.counters[*worker], &service.store);
        let dialect = service.dialect;
        while out.len() < OUTPUT_LIMIT && session.moved < WORK_LIMIT {
            session.moved += LOOK_UP;
            let Some(key) = keys.next() else {
                dialect.write_reply(&Reply::End, out);
                return None;
            };
            let (found, asked, hit, miss) = match exptime {
                None => {
                    let found = store.get(session, key);
                    (found, Counter::CmdGet, Counter::GetHits, Counter::GetMisses)
                }
                Some(exptime) => {
                    let found = store.get_and_touch(session, key, exptime);
                    (found, Counter::CmdTouch, Counter::TouchHits, Counter::TouchMisses)
                }
            };
            counters.add(asked, 1);
            let written = match found {
                Ok(Some(item)) => {
                    counters.add(hit, 1);
                    let unique = unique.then_some(item.cas);
                    dialect.write_value(out, key, item.flags, unique, item.value)
                }
                Ok(None) => {
                    counters.add(miss, 1);
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

    /// Does any other request, and puts its answer behind `out`.
    pub fn perform(&mut self, request: Request, out: &mut Vec<u8>) {
        let Context { service, session, worker, .. } = self;
        let (store, counters) = (&service.store, &service.counters[*worker]);
        let count =
            |hit, hits, misses| counters.add(if hit { hits } else { misses }, 1);
        let result = match request {
            Request::Store { verb, key, flags, exptime, unique, value } => {
                counters.add(Counter::CmdSet, 1);
                let result = match verb {
                    Verb::Set => store.set(session, key, flags, exptime, value),
                    Verb::Add => store.add(session, key, flags, exptime, value),
                    Verb::Replace => store.replace(session, key, flags, exptime, value),
                    Verb::Append => store.append(session, key, value),
                    Verb::Prepend => store.prepend(session, key, value),
                    Verb::Cas => store.cas(session, key, flags, exptime, value, unique),
                };
                if let (Verb::Cas, Ok(stored)) = (verb, &result) {
                    counters.add(
                        match stored {
                            Stored::NotFound => Counter::CasMisses,
                            Stored::Exists => Counter::CasBadval,
                            _ => Counter::CasHits,
                        },
                        1,
                    );
                }
                result.map(|stored| match stored {
                    Stored::Stored => Reply::Stored,
                    Stored::NotStored => Reply::NotStored,
                    Stored::Exists => Reply::Exists,
                    Stored::NotFound => Reply::NotFound,
                })
            }
            Request::Delete(key) => store.delete(session, key).map(|found| {
                count(found, Counter::DeleteHits, Counter::DeleteMisses);
                if found { Reply::Deleted } else { Reply::NotFound }
            }),
            Request::Count { up, key, delta } => {
                let (counted, hits, misses) = match up {
                    true => {
                        let counted = store.incr(session, key, delta);
                        (counted, Counter::IncrHits, Counter::IncrMisses)
                    }
                    false => {
                        let counted = store.decr(session, key, delta);
                        (counted, Counter::DecrHits, Counter::DecrMisses)
                    }
                };
                counted.map(|counted| {
                    if counted != Counted::NotNumeric {
                        count(counted != Counted::NotFound, hits, misses);
                    }
                    match counted {
                        Counted::Number(number) => Reply::Number(number),
                        Counted::NotNumeric => Reply::Refused(reply::Error::NotNumeric),
                        Counted::NotFound => Reply::NotFound,
                    }
                })
            }
            Request::Touch { key, exptime } => {
                counters.add(Counter::CmdTouch, 1);
                store.touch(session, key, exptime).map(|found| {
                    count(found, Counter::TouchHits, Counter::TouchMisses);
                    if found { Reply::Touched } else { Reply::NotFound }
                })
            }
            Request::FlushAll { delay } => {
                counters.add(Counter::CmdFlush, 1);
                store.flush_all(session, delay).map(|()| Reply::Ok)
            }
            Request::Version => Ok(Reply::Version(reply::VERSION.into())),
            Request::Verbosity => Ok(Reply::Ok),
            Request::Stats(topic) => {
                return service.write_stats(topic, session.now, out);
            }
            // The connection's own business.
            Request::Get(..) | Request::Quit | Request::Authenticate(_) => return,
        };
        let reply =
            result.unwrap_or_else(|error| Reply::ServerError(error.to_string()));
        service.dialect.write_reply(&reply, out);
    }

    /// Whether a block shows that its sender may come in. Answers behind `out`.
    pub fn authenticate(&self, block: &[u8], out: &mut Vec<u8>) -> bool {
        let Service { credentials, dialect, .. } = &*self.service;
        let login = Login::parse(block);
        let admitted = match (&login, credentials) {
            (Some(login), Some(credentials)) => credentials.admit(login),
            _ => false,
        };
        if login.is_some() {
            self.count_login(admitted);
        }
        let reply = match login {
            Some(_) if admitted => Reply::Stored,
            Some(_) => Reply::Refused(reply::Error::AuthenticationFailure),
            None => Reply::Refused(reply::Error::BadToken),
        };
        dialect.write_reply(&reply, out);
        admitted
    }

    /// Counts a login that was shown.
    pub fn count_login(&self, admitted: bool) {
        self.count(Counter::AuthCmds, 1);
        self.count(Counter::AuthErrors, u64::from(!admitted));
    }

    /// Removes the old value of a key whose new one was too large.
    pub fn drop_stale(&mut self, key: &[u8]) -> Result<(), LogError> {
        self.service.store.delete(&mut self.session, key).map(|_| ())
    }
}

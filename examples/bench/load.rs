//! The load generator: threads that share a number of connections.
//!
//! Each connection is a closed loop. It sends a batch of requests in one write, waits for
//! all replies, compares them byte for byte with what they must be, and sends the next
//! batch. A set with noreply is not waited for: it leaves together with the next request
//! that has a reply, and costs no system call.
//!
//! What is measured lies between two moments at which no request is under way: every
//! connection has finished a batch before the first, and all have finished their last
//! before the second. So all CPU time that a server uses in between is used for the
//! requests that are counted. The batch before the first is not counted: after it, the
//! server has accepted all connections, and its buffers are allocated.
//!
//! | moment | what happens |
//! |---|---|
//! | before | connections are opened, one batch each, a thread's after another's |
//! | first | CPU times are read, then the threads start |
//! | first + time | a connection that finishes its batch begins no other |
//! | second | all threads have ended; CPU times are read again |
//!
//! In [`Mode::Cache`] a get may miss; then the connection's next request stores the key.
//!
//! A thread waits for replies only. Sockets are blocking: a read is made where there is
//! something to read, and a write returns when the server has taken the batch. No write
//! can wait for a server that itself waits until its replies are read: a batch ends at
//! [`MAX_REPLIES`], which a connection's buffers can hold.

use crate::items::{FILLER, MISS, QUIT};
use crate::options::{Load, Mode};
use crate::target::{Result, TIMEOUT, Target, cpu, memory};
use memcached_lite::driver::random::Random;
use memcached_lite::os::{self, Interest, Poller};
use memcached_lite::server::connection::READ_LIMIT;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process;
use std::thread;
use std::time::Instant;

/// A batch gets no further request when its replies have so many bytes.
const MAX_REPLIES: usize = 64 << 10;

/// What one run of a load has shown.
pub struct Measurement {
    /// Requests, those with noreply among them.
    pub requests: f64,
    /// Gets, and how many of them found their key.
    pub gets: f64,
    pub hits: f64,
    /// From the first request to the last reply.
    pub seconds: f64,
    /// Of all batches, sorted, in hundredths of a microsecond: from the write to the
    /// last byte of the last reply, or from the opening of a connection to its end.
    pub latencies: Vec<u32>,
    /// CPU time of the server, user and system, in seconds.
    pub server: (f64, f64),
    /// CPU time of this program, likewise.
    pub generator: (f64, f64),
    /// Resident memory of the server at the end, in MiB.
    pub memory: f64,
}

impl Measurement {
    /// The latency that this share of all did not exceed, in microseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let rank = (self.latencies.len() as f64 * share).ceil() as usize;
        f64::from(self.latencies[rank.max(1) - 1]) / 100.0
    }

    /// A time for each request, in microseconds.
    pub fn per_request(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.requests
    }
}

/// Drives a server.
pub fn measure(target: &Target, load: &Load) -> Result<Measurement> {
    let threads = load.threads.min(load.connections);
    let (mut seeds, mut next) = (Random::new(load.seed), 0);
    let generators = (0..threads).map(|number| {
        let connections = (load.connections + number) / threads;
        let share = Load { connections, seed: seeds.bits(), ..load.clone() };
        next += connections;
        Generator::warm(target, share, [next - connections, load.connections])
    });
    let mut generators = generators.collect::<Result<Vec<Generator>>>()?;

    let own_pid = Some(process::id());
    let (server, own, begun) = (cpu(target.pid), cpu(own_pid), Instant::now());
    let end = begun + load.time;
    thread::scope(|scope| {
        for generator in &mut generators {
            scope.spawn(move || generator.result = generator.run(end));
        }
    });
    let mut measurement = Measurement {
        requests: 0.0,
        gets: 0.0,
        hits: 0.0,
        seconds: begun.elapsed().as_secs_f64(),
        latencies: Vec::new(),
        server: since(server, cpu(target.pid)),
        generator: since(own, cpu(own_pid)),
        memory: memory(target.pid),
    };
    for generator in generators {
        generator.result?;
        measurement.requests += generator.requests as f64;
        measurement.gets += generator.gets as f64;
        measurement.hits += (generator.gets - generator.misses) as f64;
        measurement.latencies.extend(generator.latencies);
    }
    measurement.latencies.sort_unstable();
    Ok(measurement)
}

fn since(before: (f64, f64), now: (f64, f64)) -> (f64, f64) {
    (now.0 - before.0, now.1 - before.1)
}

/// A thread's part of the load. Threads share nothing, so that none waits for another.
struct Generator<'a> {
    target: &'a Target,
    load: Load,
    /// The number of its first connection, and how many there are in all threads.
    first: usize,
    all: usize,
    random: Random,
    poller: Box<dyn Poller>,
    /// A connection's index is its token.
    connections: Vec<Connection>,
    /// The batch that is being made.
    batch: Vec<u8>,
    /// What is read, until it is compared.
    buffer: Vec<u8>,
    /// Requests that were sent, and latencies of the batches that are done.
    requests: usize,
    gets: usize,
    misses: usize,
    latencies: Vec<u32>,
    /// How the thread has ended.
    result: Result,
}

impl Generator<'_> {
    /// Opens the connections, each of which then finishes one batch.
    fn warm(
        target: &Target,
        load: Load,
        [first, all]: [usize; 2],
    ) -> Result<Generator<'_>> {
        let mut new = Generator {
            target,
            first,
            all,
            random: Random::new(load.seed),
            load,
            poller: os::poller()?,
            connections: Vec::new(),
            batch: Vec::new(),
            buffer: vec![0; READ_LIMIT],
            requests: 0,
            gets: 0,
            misses: 0,
            latencies: Vec::new(),
            result: Ok(()),
        };
        for token in 0..new.load.connections {
            let (stream, begun) = (target.connect()?, Instant::now());
            if new.load.mode != Mode::Reconnect {
                new.poller.add(stream.as_fd(), token, Interest::Read)?;
            }
            let (expected, received, asked, missed) = (Vec::new(), 0, 0, None);
            let connection =
                Connection { stream, expected, received, asked, missed, begun };
            new.connections.push(connection);
        }
        new.run(Instant::now())?;
        (new.requests, new.gets, new.misses) = (0, 0, 0);
        new.latencies = Vec::new();
        Ok(new)
    }

    /// Has every connection do one batch, and continue with the next until `end`.
    fn run(&mut self, end: Instant) -> Result {
        for token in 0..self.connections.len() {
            self.begin(token)?;
        }
        let mut busy = self.connections.len();
        let mut ready = Vec::new();
        while busy > 0 {
            self.poller.wait(&mut ready, TIMEOUT)?;
            if ready.is_empty() {
                return Err("no reply in time".into());
            }
            for &token in &ready {
                let connection = &mut self.connections[token];
                if !connection.receive(&mut self.buffer, self.load.mode)? {
                    continue;
                }
                if self.load.mode == Mode::Reconnect {
                    self.poller.remove(connection.stream.as_fd())?;
                }
                self.misses += usize::from(connection.missed.is_some());
                // Read again for each: those before it have taken time.
                let now = Instant::now();
                self.latencies.push(((now - connection.begun).as_nanos() / 10) as u32);
                if now < end {
                    self.begin(token)?;
                } else {
                    busy -= 1;
                }
            }
        }
        Ok(())
    }

    /// Makes a connection's next batch, with the replies that it must get, and sends it.
    fn begin(&mut self, token: usize) -> Result {
        let Generator { target, load, first, all, random, batch, .. } = self;
        let connection = &mut self.connections[token];
        connection.begun = Instant::now();
        if load.mode == Mode::Reconnect {
            connection.stream = target.connect()?;
            self.poller.add(connection.stream.as_fd(), token, Interest::Read)?;
        }
        batch.clear();
        connection.received = 0;
        let expected = &mut connection.expected;
        expected.clear();
        let mut replies = 0;
        while replies < load.pipeline && expected.len() < MAX_REPLIES {
            let mut number = match (connection.missed, &load.zipf) {
                (Some(missed), _) => missed,
                (None, Some(zipf)) => zipf.draw(random),
                (None, None) => random.below(target.items.count),
            };
            if load.own_keys {
                // The rest of a division by the number of connections is one's own number.
                number = number / *all * *all + *first + token;
                number -= if number < target.items.count { 0 } else { *all };
            }
            self.requests += 1;
            replies += 1;
            if connection.missed.take().is_some() {
                target.items.write_set(number, false, batch);
                expected.extend_from_slice(target.items.stored);
            } else if !chance(random, load.set) {
                self.gets += 1;
                connection.asked = number;
                target.items.write_get(number, batch);
                target.items.write_hit(number, expected);
            } else if chance(random, load.noreply) {
                target.items.write_set(number, true, batch);
                replies -= 1;
            } else {
                target.items.write_set(number, false, batch);
                expected.extend_from_slice(target.items.stored);
            }
        }
        if load.mode == Mode::Reconnect {
            batch.extend_from_slice(QUIT);
        }
        if target.is_echo {
            expected.fill(FILLER);
        }
        Ok(connection.stream.write_all(batch)?)
    }
}

/// A connection, and the batch that is under way on it.
struct Connection {
    stream: TcpStream,
    /// The replies to the batch, of which so many bytes have come.
    expected: Vec<u8>,
    received: usize,
    /// The key of the last get. In [`Mode::Cache`] it is stored next if it was missing.
    asked: usize,
    missed: Option<usize>,
    /// When it was sent or, in [`Mode::Reconnect`], when the connection was opened.
    begun: Instant,
}

impl Connection {
    /// Reads once and compares. True if the batch is done.
    ///
    /// In [`Mode::Reconnect`] that is when the server has closed the connection, for
    /// which `quit` has asked it. The side that closes first keeps the port for a
    /// minute. Were that ours, after 14,000 requests the kernel's search for a free port
    /// would be what is measured.
    fn receive(&mut self, buffer: &mut [u8], mode: Mode) -> Result<bool> {
        let count = self.stream.read(buffer)?;
        if count == 0 {
            let is_end =
                mode == Mode::Reconnect && self.received == self.expected.len();
            let closed = "the server has closed a connection".into();
            return if is_end { Ok(true) } else { Err(closed) };
        }
        if mode == Mode::Cache && self.received == 0 && MISS.starts_with(&buffer[..1]) {
            self.missed = Some(self.asked);
            self.expected = MISS.into();
        }
        let (came, expected) = (&buffer[..count], &self.expected[self.received..]);
        if !expected.starts_with(came) {
            return Err(wrong_reply(expected, came).into());
        }
        self.received += count;
        Ok(self.received == self.expected.len() && mode != Mode::Reconnect)
    }
}

/// True with this probability, 0 to 1, in steps of a millionth.
fn chance(random: &mut Random, probability: f64) -> bool {
    (random.below(1_000_000) as f64) < probability * 1e6
}

/// Shows both from a little before the first byte that differs.
fn wrong_reply(expected: &[u8], came: &[u8]) -> String {
    let same = expected.iter().zip(came).take_while(|(e, c)| e == c).count();
    let show = |bytes: &[u8]| {
        let piece = &bytes[same.saturating_sub(40)..];
        piece[..piece.len().min(80)].escape_ascii().to_string()
    };
    format!("wrong reply: \"{}\" should be \"{}\"", show(came), show(expected))
}

//! The load generator: a few threads, each with its share of the connections, on the
//! same poller as the server.
//!
//! Each connection is a closed loop. It sends a batch of requests with one write,
//! waits for all of their replies, compares them with what they must be, byte for
//! byte, and sends the next. A set with noreply is not waited for: it leaves together
//! with the next request that has a reply.
//!
//! What is measured lies between two moments at which nothing is under way: every
//! connection has had one batch answered before the first, and no batch is begun that
//! would not be over at the second. So all the CPU time that a server used in between
//! was used for the requests that are counted.

use super::contestant::Contestant;
use super::echo::FILLER;
use super::histogram::Histogram;
use super::items::{Items, QUIT};
use crate::connection::READ_LIMIT;
use crate::driver::stage::{PATIENCE, Result};
use crate::os::{self, Best, Interest, Poller};
use crate::random::Random;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Requests to a batch when all keys are set beforehand.
const FILL_BATCH: usize = 100;

/// What is asked, by how many, for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// Connections that work at the same time.
    pub connections: usize,
    /// Requests of a batch that have a reply, 1 or more.
    pub pipeline: usize,
    /// The share of sets among all requests, 0 to 1.
    pub set: f64,
    /// The share of sets that want no reply, below 1.
    pub noreply: f64,
    /// Each batch has a connection of its own, which is opened for it and closed. The
    /// server is asked to close it, by `quit`: who closes first has the connection
    /// linger, and on the client's side that takes a port. After the first 14,000 the
    /// kernel's search for a free port would be what is measured.
    pub reconnect: bool,
    /// How long batches are begun.
    pub time: Duration,
    /// Between how many threads the connections are shared.
    pub threads: usize,
    /// Where the random choices come from.
    pub seed: u64,
}

/// What came of a load.
pub struct Measurement {
    /// Requests, those with noreply among them.
    pub requests: u64,
    /// From the first request to the last reply.
    pub elapsed: Duration,
    /// Of batches: from the write to the last byte of the last reply; with a
    /// connection of its own, from its opening to its end.
    pub latencies: Histogram,
    /// CPU time of the server, user and system, where it can be told.
    pub server: Option<(Duration, Duration)>,
    /// CPU time of the generator itself.
    pub generator: Duration,
    /// Resident memory of the server in the end, in bytes, where it can be told.
    pub memory: Option<u64>,
}

/// Drives a server.
pub fn measure(contestant: &Contestant, load: &Load) -> Result<Measurement> {
    let threads = load.threads.min(load.connections);
    let barrier = Barrier::new(threads + 1);
    let mut seeds = Random::new(load.seed);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for number in 0..threads {
            let share = (load.connections + number) / threads;
            let (seed, barrier) = (seeds.bits(), &barrier);
            workers.push(scope.spawn(move || {
                let ready = Generator::new(contestant, load, share, Random::new(seed))
                    .and_then(|mut generator| {
                        generator.run(Instant::now())?;
                        Ok(generator)
                    });
                // Also after an error: the others wait here.
                barrier.wait();
                barrier.wait();
                let mut generator = ready?;
                generator.requests = 0;
                generator.latencies = Histogram::new();
                generator.run(Instant::now() + load.time)?;
                Ok((generator.requests, generator.latencies))
            }));
        }
        // Nothing is under way between these two.
        barrier.wait();
        let (server, generator) = (contestant.cpu_time(), own_time());
        let begun = Instant::now();
        barrier.wait();
        let results: Vec<Result<_>> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err("a panic".into())))
            .collect();
        let elapsed = begun.elapsed();
        let server = contestant.cpu_time().zip(server);
        let mut measurement = Measurement {
            requests: 0,
            elapsed,
            latencies: Histogram::new(),
            server: server
                .map(|(after, before)| (after.0 - before.0, after.1 - before.1)),
            generator: own_time() - generator,
            memory: contestant.memory(),
        };
        for result in results {
            let (requests, latencies) = result?;
            measurement.requests += requests;
            measurement.latencies.merge(&latencies);
        }
        Ok(measurement)
    })
}

fn own_time() -> Duration {
    let (user, system) = os::cpu_time();
    user + system
}

/// Sets every key.
pub fn fill(address: SocketAddr, items: &Items) -> Result {
    let mut connection = Connection::open(address)?;
    // Nothing else is to be done meanwhile.
    connection.stream.set_nonblocking(false).map_err(broken)?;
    connection.stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    connection.stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut buffer = vec![0; READ_LIMIT];
    for first in (0..items.count).step_by(FILL_BATCH) {
        connection.clear();
        for number in first..items.count.min(first + FILL_BATCH) {
            items.write_set(number, false, &mut connection.request);
            connection.expected.extend_from_slice(items.stored());
        }
        let sent = connection.stream.write_all(&connection.request);
        sent.map_err(broken)?;
        while !connection.receive(&mut buffer)? {}
    }
    Ok(())
}

/// A thread's part of the load.
struct Generator<'a> {
    load: &'a Load,
    items: &'a Items,
    address: SocketAddr,
    /// Replies are as long as a server's, and no more than that.
    is_echo: bool,
    random: Random,
    poller: Best,
    /// A connection's index is its token.
    connections: Vec<Connection>,
    /// What is read is compared here.
    buffer: Vec<u8>,
    requests: u64,
    latencies: Histogram,
}

impl<'a> Generator<'a> {
    fn new(
        contestant: &Contestant<'a>,
        load: &'a Load,
        share: usize,
        random: Random,
    ) -> Result<Generator<'a>> {
        let address = contestant.address;
        let mut poller = Best::new().map_err(broken)?;
        let mut connections = Vec::new();
        for token in 0..share {
            let connection = Connection::open(address)?;
            if !load.reconnect {
                let fd = connection.stream.as_fd();
                poller.add(fd, token, Interest::Read).map_err(broken)?;
            }
            connections.push(connection);
        }
        Ok(Generator {
            load,
            items: contestant.items,
            address,
            is_echo: contestant.is_echo,
            random,
            poller,
            connections,
            buffer: vec![0; READ_LIMIT],
            requests: 0,
            latencies: Histogram::new(),
        })
    }

    /// Has every connection do one batch, and go on with the next until `end`.
    fn run(&mut self, end: Instant) -> Result {
        for token in 0..self.connections.len() {
            self.begin(token, Instant::now())?;
        }
        let mut busy = self.connections.len();
        let mut ready = Vec::new();
        let mut heard = Instant::now();
        while busy > 0 {
            self.poller.wait(&mut ready, Some(PATIENCE)).map_err(broken)?;
            let now = Instant::now();
            if !ready.is_empty() {
                heard = now;
            } else if now >= heard + PATIENCE {
                return Err(format!("no reply for {} seconds", PATIENCE.as_secs()));
            }
            for &token in &ready {
                let connection = &mut self.connections[token];
                connection.send(token, &mut self.poller)?;
                if !connection.receive(&mut self.buffer)? {
                    continue;
                }
                if self.load.reconnect {
                    self.poller.remove(connection.stream.as_fd()).map_err(broken)?;
                }
                let now = Instant::now();
                self.latencies.record((now - connection.begun).as_nanos() as u64);
                self.requests += connection.requests;
                if now < end {
                    self.begin(token, now)?;
                } else {
                    busy -= 1;
                }
            }
        }
        Ok(())
    }

    /// Makes a connection's next batch and sends it.
    fn begin(&mut self, token: usize, now: Instant) -> Result {
        let connection = &mut self.connections[token];
        if self.load.reconnect {
            connection.stream = open(self.address)?;
            let fd = connection.stream.as_fd();
            self.poller.add(fd, token, Interest::Read).map_err(broken)?;
        }
        connection.begun = now;
        connection.clear();
        let mut answered = 0;
        while answered < self.load.pipeline {
            let number = self.random.below(self.items.count);
            connection.requests += 1;
            if !self.random.chance(self.load.set) {
                self.items.write_get(number, &mut connection.request);
                self.items.write_value(number, &mut connection.expected);
            } else {
                let noreply = self.random.chance(self.load.noreply);
                self.items.write_set(number, noreply, &mut connection.request);
                if noreply {
                    continue;
                }
                connection.expected.extend_from_slice(self.items.stored());
            }
            answered += 1;
        }
        if self.load.reconnect {
            connection.request.extend_from_slice(QUIT);
            connection.parting = true;
        }
        if self.is_echo {
            connection.expected.fill(FILLER);
        }
        connection.send(token, &mut self.poller)
    }
}

/// A connection and the batch that is under way on it.
struct Connection {
    stream: TcpStream,
    /// The same socket by another number, watched for room while not all is sent. The
    /// first goes on being watched for replies: a server may have to be rid of those
    /// before it reads on.
    blocked: Option<TcpStream>,
    /// The batch, of which so many bytes are sent.
    request: Vec<u8>,
    sent: usize,
    /// Its replies, of which so many bytes have come.
    expected: Vec<u8>,
    received: usize,
    /// How many requests it has.
    requests: u64,
    /// After its replies the server closes the connection.
    parting: bool,
    /// When it was sent or, with a connection of its own, when that was opened.
    begun: Instant,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Connection> {
        Ok(Connection {
            stream: open(address)?,
            blocked: None,
            request: Vec::new(),
            sent: 0,
            expected: Vec::new(),
            received: 0,
            requests: 0,
            parting: false,
            begun: Instant::now(),
        })
    }

    /// Forgets the last batch, all of whose replies have come.
    fn clear(&mut self) {
        self.request.clear();
        self.expected.clear();
        (self.sent, self.received, self.requests) = (0, 0, 0);
    }

    /// Sends what is left of the batch, as far as there is room.
    fn send(&mut self, token: usize, poller: &mut Best) -> Result {
        if self.sent == self.request.len() {
            return Ok(());
        }
        self.sent += done(self.stream.write(&self.request[self.sent..]))?.unwrap_or(0);
        let blocked = self.sent < self.request.len();
        if blocked && self.blocked.is_none() {
            let twin = self.stream.try_clone().map_err(broken)?;
            poller.add(twin.as_fd(), token, Interest::Write).map_err(broken)?;
            self.blocked = Some(twin);
        } else if !blocked && let Some(twin) = self.blocked.take() {
            poller.remove(twin.as_fd()).map_err(broken)?;
        }
        Ok(())
    }

    /// Reads once and compares. True if that was the end of the batch.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let Some(count) = done(self.stream.read(buffer))? else { return Ok(false) };
        let is_complete = self.received == self.expected.len();
        match count {
            0 if is_complete && self.parting => return Ok(true),
            0 => return Err("the server has closed a connection".into()),
            _ => {}
        }
        let (came, expected) = (&buffer[..count], &self.expected[self.received..]);
        if !expected.starts_with(came) {
            return Err(wrong_reply(expected, came));
        }
        self.received += count;
        Ok(self.received == self.expected.len() && !self.parting)
    }
}

/// A connection that never makes its thread wait, once it is there. That takes a
/// moment on the same machine, and a round trip elsewhere.
pub fn open(address: SocketAddr) -> Result<TcpStream> {
    let opened = TcpStream::connect(address).and_then(|stream| {
        stream.set_nonblocking(true)?;
        // A batch is one write already.
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable => format!(
            "no port is left for another connection to {address}: each is kept for a \
             while after it was used; try shorter --seconds"
        ),
        _ => format!("can't connect to {address}: {error}"),
    })
}

/// What a read or write has done; `None` if it would have had to wait.
fn done(result: io::Result<usize>) -> Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(broken(error)),
    }
}

/// What is said of a socket that fails.
pub fn broken(error: io::Error) -> String {
    format!("the connection failed: {error}")
}

/// Shows both from a little before the first byte in which they differ.
fn wrong_reply(expected: &[u8], came: &[u8]) -> String {
    let same = expected.iter().zip(came).take_while(|(e, c)| e == c).count();
    let show = |bytes: &[u8]| {
        let piece = &bytes[same.saturating_sub(40)..];
        piece[..piece.len().min(80)].escape_ascii().to_string()
    };
    format!("wrong reply: \"{}\" should be \"{}\"", show(came), show(expected))
}

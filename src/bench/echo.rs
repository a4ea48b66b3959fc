//! The echo server, `driver echo`: what the kernel takes for the same traffic.
//!
//! For each ready connection it reads once, and answers with one write of as many
//! bytes as a server's replies would have. It stores nothing, and parses next to
//! nothing: requests of a kind are equally long, so it goes from one to the next and
//! looks at two bytes of each. What a server needs more is the server's own work.
//!
//! It ends when its standard input does, so it does not outlive its driver.

use super::items::{Items, QUIT, STORED};
use crate::connection::READ_LIMIT;
use crate::listener::KERNEL_QUEUE;
use crate::lock;
use crate::os::{self, Best, Interest, Poller};
use crate::say;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

/// The token of a worker's waker.
const WAKER: usize = usize::MAX;

/// What every reply is made of.
pub const FILLER: u8 = b'.';

/// The lengths of requests, each with that of its reply.
struct Shape {
    get: (usize, usize),
    set: (usize, usize),
    noreply: (usize, usize),
    /// Where a set has its line's end or, before `noreply`, a blank.
    mark: usize,
}

impl Shape {
    fn of(items: &Items) -> Shape {
        let len = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            bytes.len()
        };
        let mut set = Vec::new();
        items.write_set(0, false, &mut set);
        let noreply = len(&|out| items.write_set(0, true, out));
        let mark = set.iter().position(|&byte| byte == b'\r').unwrap_or(set.len());
        Shape {
            get: (
                len(&|out| items.write_get(0, out)),
                len(&|out| items.write_value(0, out)),
            ),
            set: (set.len(), STORED.len()),
            noreply: (noreply, 0),
            mark,
        }
    }

    /// How many bytes the whole requests at the head of `bytes` have, and their
    /// replies.
    fn measure(&self, bytes: &[u8]) -> (usize, usize) {
        let (mut used, mut answer) = (0, 0);
        loop {
            let rest = &bytes[used..];
            let (request, reply) = match (rest.first(), rest.get(self.mark)) {
                (Some(b'g'), _) => self.get,
                (Some(b'q'), _) => (QUIT.len(), 0),
                (_, Some(b' ')) => self.noreply,
                _ => self.set,
            };
            if rest.len() < request {
                return (used, answer);
            }
            used += request;
            answer += reply;
        }
    }
}

/// A connection, and the beginning of a request that has not come whole.
struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

/// Where connections are left for a worker, and what wakes it.
struct Desk {
    newcomers: Mutex<Vec<TcpStream>>,
    wake: UnixStream,
}

/// Answers requests about these items until standard input ends.
pub fn serve(items: &Items, threads: usize) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    os::deepen_queue(listener.as_fd(), KERNEL_QUEUE)?;
    let shape = Arc::new(Shape::of(items));
    let mut desks = Vec::new();
    for _ in 0..threads {
        let (waker, wake) = UnixStream::pair()?;
        let desk = Arc::new(Desk { newcomers: Mutex::new(Vec::new()), wake });
        desks.push(desk.clone());
        let shape = shape.clone();
        thread::spawn(move || work(&desk, waker, &shape));
    }
    say(&format!("Echo: Listening on {}...", listener.local_addr()?));
    thread::spawn(move || {
        // One that was gone before it was accepted is nobody's loss.
        for (stream, desk) in listener.incoming().flatten().zip(desks.iter().cycle()) {
            lock(&desk.newcomers).push(stream);
            let _ = (&desk.wake).write(&[0]);
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

/// A thread and its connections. They may block: a read is made where there is
/// something, and the load generator always takes its replies.
fn work(desk: &Desk, mut waker: UnixStream, shape: &Shape) -> io::Result<()> {
    let mut poller = Best::new()?;
    poller.add(waker.as_fd(), WAKER, Interest::Read)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut ready, mut buffer) = (Vec::new(), vec![0; READ_LIMIT]);
    let mut output = Vec::new();
    loop {
        poller.wait(&mut ready, None)?;
        for &token in &ready {
            if token == WAKER {
                // What it says is only that there is something.
                let _ = waker.read(&mut buffer)?;
                for stream in std::mem::take(&mut *lock(&desk.newcomers)) {
                    stream.set_nodelay(true)?;
                    let place = connections.iter().position(Option::is_none);
                    let token = place.unwrap_or(connections.len());
                    connections.resize_with(connections.len().max(token + 1), || None);
                    poller.add(stream.as_fd(), token, Interest::Read)?;
                    let connection = Connection { stream, input: Vec::new() };
                    connections[token] = Some(connection);
                }
            } else if let Some(connection) = &mut connections[token]
                && !matches!(
                    connection.answer(shape, &mut buffer, &mut output),
                    Ok(true)
                )
            {
                poller.remove(connection.stream.as_fd())?;
                connections[token] = None;
            }
        }
    }
}

impl Connection {
    /// Reads once and answers. False if the connection ends.
    fn answer(
        &mut self,
        shape: &Shape,
        buffer: &mut [u8],
        output: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let count = self.stream.read(buffer)?;
        self.input.extend_from_slice(&buffer[..count]);
        let (used, answer) = shape.measure(&self.input);
        // Nothing but a quit ends so: values are letters and digits.
        let quits = self.input[..used].ends_with(b"\nquit\r\n");
        self.input.drain(..used);
        output.resize(answer, FILLER);
        self.stream.write_all(output)?;
        Ok(count > 0 && !quits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_as_long_as_those_of_a_server() {
        let items = Items::new(10, 10, 50);
        let shape = Shape::of(&items);
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        for number in 0..10 {
            items.write_get(number, &mut requests);
            items.write_value(number, &mut replies);
            items.write_set(number, true, &mut requests);
            items.write_set(number, false, &mut requests);
            replies.extend_from_slice(STORED);
        }
        assert_eq!(shape.measure(&requests), (requests.len(), replies.len()));
        // However they are cut.
        for cut in 0..requests.len() {
            let (used, answer) = shape.measure(&requests[..cut]);
            assert!(used <= cut);
            let (rest, last) = shape.measure(&requests[used..]);
            assert_eq!((used + rest, answer + last), (requests.len(), replies.len()));
        }
    }
}

//! The echo server, `bench echo`: what the kernel takes for the same traffic.
//!
//! For each ready connection it reads once, and answers in one write with as many bytes
//! as a server's replies would have. It stores nothing and parses next to nothing:
//! requests of one kind are equally long, so it goes from one to the next and looks at
//! two bytes of each. What another server needs beyond that is its own work.
//!
//! A difference to other servers: its threads accept connections themselves, each when it
//! is idle. So a burst of them may be shared unevenly.
//!
//! It ends with its standard input, so that it does not outlive the program that has
//! started it.

use crate::items::{FILLER, Items, QUIT};
use crate::target::Result;
use memcached_lite::os::{self, Interest};
use memcached_lite::server::connection::READ_LIMIT;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

/// Connections that may wait in the kernel to be accepted.
const QUEUE: i32 = 1024;

/// The lengths of requests, each with that of its reply.
struct Shape {
    get: (usize, usize),
    set: (usize, usize),
    noreply: (usize, usize),
    /// Where a set has the end of its line, or the space before `noreply`.
    mark: usize,
}

impl Shape {
    fn of(items: &Items) -> Shape {
        let [mut get, mut hit, mut set, mut noreply] = [const { Vec::new() }; 4];
        items.write_get(0, &mut get);
        items.write_hit(0, &mut hit);
        items.write_set(0, false, &mut set);
        items.write_set(0, true, &mut noreply);
        Shape {
            get: (get.len(), hit.len()),
            set: (set.len(), items.stored.len()),
            noreply: (noreply.len(), 0),
            mark: set.iter().position(|&byte| byte == b'\r').unwrap_or(0),
        }
    }

    /// The length of the whole requests with which `bytes` begins, and of their replies.
    fn measure(&self, bytes: &[u8]) -> (usize, usize) {
        let (mut used, mut replies) = (0, 0);
        loop {
            let rest = &bytes[used..];
            let (request, reply) = match (rest.first(), rest.get(self.mark)) {
                (Some(b'g'), _) => self.get,
                (Some(b'q'), _) => (QUIT.len(), 0),
                (_, Some(b' ')) => self.noreply,
                _ => self.set,
            };
            if rest.len() < request {
                return (used, replies);
            }
            used += request;
            replies += reply;
        }
    }
}

/// Answers requests for these items until standard input ends.
pub fn serve(items: &Items, threads: usize) -> Result {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    os::deepen_queue(listener.as_fd(), QUEUE)?;
    listener.set_nonblocking(true)?;
    println!("Echo: Listening on {}...", listener.local_addr()?);
    for _ in 0..threads {
        let (listener, shape) = (listener.try_clone()?, Shape::of(items));
        thread::spawn(move || work(&listener, &shape));
    }
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// A connection, and the beginning of a request that has not come whole.
struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

/// A thread and its connections, which it accepts itself. They may block: a read is made
/// where there is something to read, and the load generator always takes its replies.
fn work(listener: &TcpListener, shape: &Shape) -> io::Result<()> {
    let mut poller = os::poller()?;
    poller.add(listener.as_fd(), 0, Interest::Read)?;
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let (mut ready, mut buffer, mut accepted) = (Vec::new(), vec![0; READ_LIMIT], 0);
    loop {
        poller.wait(&mut ready, Duration::MAX)?;
        for token in &ready {
            if let Some(connection) = connections.get_mut(token) {
                if !connection.answer(shape, &mut buffer).unwrap_or(false) {
                    poller.remove(connection.stream.as_fd())?;
                    connections.remove(token);
                }
            } else if let Ok((stream, _)) = listener.accept() {
                // Otherwise another thread was faster.
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                accepted += 1;
                poller.add(stream.as_fd(), accepted, Interest::Read)?;
                connections.insert(accepted, Connection { stream, input: Vec::new() });
            }
        }
    }
}

impl Connection {
    /// Reads once and answers. False if the connection ends.
    fn answer(&mut self, shape: &Shape, buffer: &mut [u8]) -> io::Result<bool> {
        let count = self.stream.read(buffer)?;
        self.input.extend_from_slice(&buffer[..count]);
        let (used, replies) = shape.measure(&self.input);
        // Nothing but a quit ends like this: values are letters and digits.
        let quits = self.input[..used].ends_with(b"\nquit\r\n");
        self.input.drain(..used);
        self.stream.write_all(&vec![FILLER; replies])?;
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
            items.write_hit(number, &mut replies);
            items.write_set(number, true, &mut requests);
            items.write_set(number, false, &mut requests);
            replies.extend_from_slice(items.stored);
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

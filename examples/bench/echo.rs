//! The echo server, `bench echo`: what the kernel takes for the same traffic.
//!
//! For each ready connection it reads once, and answers in one write with as many bytes
//! as a server's replies would have. It stores nothing and parses next to nothing:
//! requests of one kind are equally long, so it goes from one to the next and looks at
//! two bytes of each. What another server needs beyond that is its own work.
//!
//! With a file, it is the limit for sets: what the ready connections have sent is appended
//! in one write and, in `always`, synced before anybody is answered; else once a second. The
//! file has its length from the start, so that a sync has no new one to write.
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
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// Connections that may wait in the kernel to be accepted.
const QUEUE: i32 = 1024;

/// Length of the file, beyond which it is written from its start again.
const FILE_LEN: u64 = 1 << 30;

/// Where requests are appended.
struct Log {
    file: File,
    end: AtomicU64,
    is_always: bool,
}

impl Log {
    /// An empty one, which is synced as our server's with `--sync` of this mode.
    fn create(path: &Path, sync: &str) -> io::Result<Arc<Log>> {
        let (file, is_always) = (File::create(path)?, sync == "always");
        file.set_len(FILE_LEN)?;
        let log = Arc::new(Log { file, end: AtomicU64::new(0), is_always });
        let it = log.clone();
        thread::spawn(move || {
            while !is_always && it.file.sync_data().is_ok() {
                thread::sleep(Duration::from_secs(1));
            }
        });
        Ok(log)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let place = self.end.fetch_add(bytes.len() as u64, Relaxed);
        self.file.write_all_at(bytes, place % FILE_LEN)?;
        if self.is_always { self.file.sync_data() } else { Ok(()) }
    }
}

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

/// Answers requests for these items until standard input ends; `append` is a file, and how
/// it is synced.
pub fn serve(items: &Items, threads: usize, append: Option<(&Path, &str)>) -> Result {
    let log = append.map(|(path, sync)| Log::create(path, sync)).transpose()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    os::deepen_queue(listener.as_fd(), QUEUE)?;
    listener.set_nonblocking(true)?;
    println!("Echo: Listening on {}...", listener.local_addr()?);
    for _ in 0..threads {
        let (listener, shape) = (listener.try_clone()?, Shape::of(items));
        let log = log.clone();
        thread::spawn(move || work(&listener, &shape, log.as_deref()));
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
fn work(listener: &TcpListener, shape: &Shape, log: Option<&Log>) -> io::Result<()> {
    let mut poller = os::poller()?;
    poller.add(listener.as_fd(), 0, Interest::Read)?;
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let (mut ready, mut buffer, mut accepted) = (Vec::new(), vec![0; READ_LIMIT], 0);
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    loop {
        poller.wait(&mut ready, Duration::MAX)?;
        for token in &ready {
            if let Some(connection) = connections.get_mut(token) {
                let received = connection.receive(shape, &mut buffer, &mut requests);
                let (len, is_end) = received.unwrap_or((0, true));
                replies.push((*token, len, is_end));
            } else if let Ok((stream, _)) = listener.accept() {
                // Otherwise another thread was faster.
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                accepted += 1;
                poller.add(stream.as_fd(), accepted, Interest::Read)?;
                connections.insert(accepted, Connection { stream, input: Vec::new() });
            }
        }
        if let (Some(log), false) = (log, requests.is_empty()) {
            log.append(&requests)?;
        }
        requests.clear();
        for (token, len, is_end) in replies.drain(..) {
            let mut stream = &connections[&token].stream;
            if stream.write_all(&vec![FILLER; len]).is_err() || is_end {
                poller.remove(stream.as_fd())?;
                connections.remove(&token);
            }
        }
    }
}

impl Connection {
    /// Reads once, and appends what has come whole to `requests`. Returns the length of the
    /// replies, and whether the connection ends.
    fn receive(
        &mut self,
        shape: &Shape,
        buffer: &mut [u8],
        requests: &mut Vec<u8>,
    ) -> io::Result<(usize, bool)> {
        let count = self.stream.read(buffer)?;
        self.input.extend_from_slice(&buffer[..count]);
        let (used, replies) = shape.measure(&self.input);
        // Nothing but a quit ends like this: values are letters and digits.
        let quits = self.input[..used].ends_with(b"\nquit\r\n");
        requests.extend(self.input.drain(..used));
        Ok((replies, count == 0 || quits))
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

//! Requests to a server, and replies, over whatever can be read and written: what is sent,
//! what must come back; and what can be seen of the server from outside.

use super::{REPLY_TIMEOUT, Server};
use memcached_lite::os::{self, Interest, Poller};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub const STORED: &str = "STORED\r\n";
pub const TOO_MANY: &str = "ERROR Too many open connections\r\n";

pub fn send(mut stream: impl Write, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).expect("cannot send");
}

/// Reads as many bytes as are expected, and compares.
pub fn expect(mut stream: impl Read, expected: impl AsRef<[u8]>) {
    let expected = expected.as_ref();
    let mut received = vec![0; expected.len()];
    let mut count = 0;
    while count < expected.len() {
        match read(&mut stream, &mut received[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) => panic!("{error} after {:?}", show(&received[..count])),
        }
    }
    let received = &received[..count];
    assert!(received == expected, "{:?}, not {:?}", show(received), show(expected));
}

/// Reads once. A signal, such as that of a debugger, is no reason to stop.
fn read(mut stream: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

pub fn ask(
    mut stream: impl Read + Write,
    request: impl AsRef<[u8]>,
    reply: impl AsRef<[u8]>,
) {
    send(&mut stream, request);
    expect(&mut stream, reply);
}

/// All that still comes until the server closes.
pub fn rest(mut stream: impl Read) -> Vec<u8> {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => received,
        // It closes with input unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => received,
        Err(error) => panic!("{error} after {:?}", show(&received)),
    }
}

pub fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}

pub fn set(key: &str, value: &[u8]) -> Vec<u8> {
    let line = format!("set {key} 0 0 {}\r\n", value.len());
    [line.as_bytes(), value, b"\r\n"].concat()
}

/// A hit as it comes over the wire, without the `END`.
pub fn hit(key: &str, value: &[u8]) -> Vec<u8> {
    let line = format!("VALUE {key} 0 {}\r\n", value.len());
    [line.as_bytes(), value, b"\r\n"].concat()
}

/// The same as the only one.
pub fn only(key: &str, value: &[u8]) -> Vec<u8> {
    [&hit(key, value)[..], b"END\r\n"].concat()
}

/// Four clients set keys `WRITER-NUMBER` to `value(NUMBER, NUMBER % 3000)`; when some
/// hundred are stored, `end` ends the server. Returns all that were acknowledged.
pub fn acknowledged_until(
    server: &mut Server,
    end: impl FnOnce(&mut Server),
) -> Vec<(usize, usize)> {
    let (sender, acknowledged) = mpsc::channel();
    let writers = (0..4).map(|writer| {
        let (sender, mut stream) = (sender.clone(), server.connect());
        thread::spawn(move || {
            for number in 0.. {
                let value = value(number, number % 3000);
                let request = set(&format!("{writer}-{number}"), &value);
                let mut reply = [0; STORED.len()];
                let sent = stream.write_all(&request);
                if sent.and_then(|()| stream.read_exact(&mut reply)).is_err() {
                    break;
                }
                assert_eq!(reply, STORED.as_bytes());
                sender.send((writer, number)).expect("the test listens");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    drop(sender);
    let mut stored: Vec<_> = acknowledged.iter().take(500).collect();
    end(server);
    stored.extend(acknowledged);
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    stored
}

/// Bytes of every kind, others for each seed.
pub fn value(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) * 31 % 256) as u8).collect()
}

/// One of the numbers of `stats`.
pub fn stat(stream: impl Read + Write, name: &str) -> u64 {
    number(stream, "stats\r\n", name)
}

/// One of the numbers in the list with which `request` is answered.
pub fn number(mut stream: impl Read + Write, request: &str, name: &str) -> u64 {
    send(&mut stream, request);
    let mut text = Vec::new();
    while !text.ends_with(b"END\r\n") {
        let mut buffer = [0; 4096];
        let count = read(&mut stream, &mut buffer).expect("stats");
        assert!(count > 0, "closed after {:?}", show(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8(text).expect("text");
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

/// Checks again and again until it is true. A check takes as long as a server's reply.
pub fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come true");
    }
}

/// Whether nothing has arrived, and the other side has not closed.
pub fn is_silent(stream: impl AsFd) -> bool {
    is_silent_for(stream, Duration::ZERO)
}

/// Whether nothing arrives for so long, and the other side does not close.
pub fn is_silent_for(stream: impl AsFd, time: Duration) -> bool {
    let (mut poll, mut ready) = (os::Poll::default(), Vec::new());
    poll.add(stream.as_fd(), 0, Interest::Read).expect("a new poll");
    poll.wait(&mut ready, time).expect("poll");
    ready.is_empty()
}

/// Lets this process have so many connections. The tests beside this one have theirs
/// in the same process.
pub fn allow_connections(count: u64) {
    os::raise_descriptor_limit(count + 6000).expect("descriptors for the clients");
}

/// The next line, without its end.
pub fn line(mut stream: impl Read) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a line");
        line.extend(byte);
    }
    String::from_utf8(line).expect("text").trim_end().to_owned()
}

/// A number of kB in /proc/PID/status: `VmRSS` is what a process has in memory,
/// `VmHWM` the most that it ever had. 0 where there is no such file.
pub fn memory(server: &Server, name: &str) -> u64 {
    if !cfg!(target_os = "linux") {
        return 0;
    }
    let path = format!("/proc/{}/status", server.pid());
    let status = fs::read_to_string(path).expect("status");
    let line = status.lines().find(|line| line.starts_with(name)).expect("listed");
    let number = line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok());
    number.expect("a number of kB")
}

/// How many descriptors the server has open; 0 where there is no such directory.
pub fn descriptors(server: &Server) -> usize {
    if !cfg!(target_os = "linux") {
        return 0;
    }
    let directory = format!("/proc/{}/fd", server.pid());
    fs::read_dir(directory).expect("descriptors").count()
}

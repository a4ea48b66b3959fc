//! Words with a server, over whatever can be read and written: what is sent, what must
//! come back; and what can be seen of the server from outside.

use super::{REPLY_TIMEOUT, Server};
use memcached_lite::os;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

pub const STORED: &str = "STORED\r\n";
pub const TURNED_AWAY: &str = "ERROR Too many open connections\r\n";

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

/// Bytes of every kind, others for each seed.
pub fn value(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) * 31 % 256) as u8).collect()
}

/// One of the numbers that `stats` tells.
pub fn stat(stream: &TcpStream, name: &str) -> u64 {
    number(stream, "stats\r\n", name)
}

/// One of the numbers that a list has in which `request` is answered.
pub fn number(stream: &TcpStream, request: &str, name: &str) -> u64 {
    send(stream, request);
    let mut text = Vec::new();
    while !text.ends_with(b"END\r\n") {
        let mut buffer = [0; 4096];
        let count = read(stream, &mut buffer).expect("stats");
        assert!(count > 0, "closed after {:?}", show(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8(text).expect("text");
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

/// Asks again until the answer is yes. What is asked waits for a server's answer.
pub fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come true");
    }
}

/// Whether nothing has arrived.
pub fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("nonblocking");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("blocking");
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Lets this process have so many connections. The tests beside this one have theirs
/// in the same process.
pub fn allow_connections(count: u64) {
    os::raise_descriptor_limit(count + 6000).expect("descriptors for the clients");
}

/// The next line, without its end.
pub fn line(mut stream: &TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a line");
        line.extend(byte);
    }
    String::from_utf8(line).expect("text").trim_end().to_owned()
}

/// A number of kB in /proc/PID/status: `VmRSS` is what a process has in memory,
/// `VmHWM` the most that it ever had. 0 where the system does not tell.
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

/// How many descriptors the server has open; 0 where the system does not tell.
pub fn descriptors(server: &Server) -> usize {
    if !cfg!(target_os = "linux") {
        return 0;
    }
    let directory = format!("/proc/{}/fd", server.pid());
    fs::read_dir(directory).expect("descriptors").count()
}

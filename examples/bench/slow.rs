//! Slow clients, around a load that goes on.
//!
//! One half of them sends slowly: a set that announces a large value, and then one byte
//! of it a second. The other half does not read: it requests more than fits into any
//! buffer. Both keep to the protocol, so that a server has no reason to close their
//! connections before its timeout.

use crate::target::{Result, TIMEOUT, Target};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Length of the value that is never sent whole, and of the one that is not read.
const VALUE: usize = 100_000;

/// How often each client requests that value.
const REQUESTS: usize = 100;

/// Between two bytes of a slow sender.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `load` amid `count` slow senders and as many clients that do not read. Their
/// connections must still be open at the end, or there is no result.
pub fn amid<T>(
    target: &Target,
    count: usize,
    load: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let set = format!("set large 0 0 {VALUE}\r\n{}\r\n", "x".repeat(VALUE));
    let mut stored = vec![0; target.items.stored.len()];
    connect(target, 1, set.as_bytes())?[0].read_exact(&mut stored)?;
    if stored != target.items.stored {
        return Err("the large value is not stored".into());
    }
    let slow = connect(target, count, format!("set slow 0 0 {VALUE}\r\n").as_bytes())?;
    let unread = connect(target, count, &b"get large\r\n".repeat(REQUESTS))?;
    let (end, ended) = mpsc::channel();
    let (result, sent) = thread::scope(|scope| {
        let sender = scope.spawn(|| send_slowly(&slow, ended));
        let result = load();
        drop(end);
        (result, sender.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    });
    let result = result?;
    // What the server has sent can be read, unless it has closed the connection.
    let peeked = unread.iter().try_for_each(|stream| match stream.peek(&mut [0])? {
        0 => Err("closed".into()),
        _ => Ok(()),
    });
    sent.and(peeked).map_err(|why| format!("slow clients were disconnected: {why}"))?;
    Ok(result)
}

/// So many connections, on each of which `request` has been sent.
fn connect(target: &Target, count: usize, request: &[u8]) -> Result<Vec<TcpStream>> {
    let connect = |_| {
        let mut stream = target.connect()?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(request)?;
        Ok(stream)
    };
    (0..count).map(connect).collect()
}

/// Sends a byte on one connection after the other, until `ended`.
fn send_slowly(slow: &[TcpStream], ended: Receiver<()>) -> Result {
    for mut stream in slow.iter().cycle() {
        stream.write_all(b"x")?;
        let waited = ended.recv_timeout(PAUSE / slow.len() as u32);
        if waited == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(())
}

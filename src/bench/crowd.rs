//! A crowd of clients that mean no good, around a load that goes on.
//!
//! One half of it sends: a set that announces a large value, and then a byte of that a
//! second. The other half asks for more than fits into any buffer, and reads nothing.
//! Both keep to the protocol, so a server has no reason to be rid of them before its
//! timeout.

use super::contestant::Contestant;
use super::load::{broken, open};
use crate::driver::stage::{self, Result};
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Bytes of the value that is asked for and not taken, and of the one that never comes.
const VALUE: usize = 100_000;

/// How often a client asks that does not read.
const REQUESTS: usize = 100;

/// Between two bytes of a slow sender.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `load` while `size` clients send slowly and `size` others never read. They have
/// to be there to the end, or there is no result.
pub fn around<T>(
    server: &Contestant,
    size: usize,
    load: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let mut visitor = stage::connect(&server.address.to_string())?;
    let stored = visitor.set("crowd", vec![b'x'; VALUE], 0, 0);
    stored.map_err(|error| format!("the crowd's value: {error}"))?;
    let slow = crowd(server, size, format!("set slow 0 0 {VALUE}\r\n").as_bytes())?;
    let deaf = crowd(server, size, &b"get crowd\r\n".repeat(REQUESTS))?;
    let (end, ended) = mpsc::channel();
    let (result, sent) = thread::scope(|scope| {
        let sending = scope.spawn(|| send_slowly(&slow, ended));
        let result = load();
        drop(end);
        (result, sending.join().unwrap_or_else(|_| Err("a panic".into())))
    });
    let result = result?;
    let gone = |why| format!("the crowd did not stay: {why}");
    sent.map_err(gone)?;
    // What a server has sent is there to be read, unless it has closed the connection.
    deaf.iter().try_for_each(|stream| match stream.peek(&mut [0]) {
        Ok(1) => Ok(()),
        Ok(_) => Err(gone("closed".into())),
        Err(error) => Err(gone(broken(error))),
    })?;
    Ok(result)
}

/// So many connections, on each of which `request` has been sent.
fn crowd(server: &Contestant, size: usize, request: &[u8]) -> Result<Vec<TcpStream>> {
    let join = || {
        let mut stream = open(server.address)?;
        stream.write_all(request).map_err(broken)?;
        Ok(stream)
    };
    (0..size).map(|_| join()).collect()
}

/// Sends a byte on one connection after the other, until `ended`.
fn send_slowly(slow: &[TcpStream], ended: Receiver<()>) -> Result {
    for mut stream in slow.iter().cycle() {
        stream.write_all(b"x").map_err(broken)?;
        let waited = ended.recv_timeout(PAUSE / slow.len() as u32);
        if waited == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(())
}

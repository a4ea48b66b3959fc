//! A connection whose bytes are the scenario's own: to send what no client would, to
//! send it in pieces, and to stop in the middle.

use super::stage::{PATIENCE, Result, Server};
use crate::say;
use crate::words::shown;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

/// A connection whose bytes are the scenario's own.
pub struct Peer {
    stream: TcpStream,
    /// `PEER` and its number.
    pub name: String,
}

impl Peer {
    /// Connects to a server, which may have no place for it.
    pub fn connect(address: &str, number: usize) -> Result<Peer> {
        let name = format!("PEER{number}");
        let failed = |error| format!("{name}: can't connect: {error}");
        let stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        // What is sent in pieces shall arrive in pieces.
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Peer { stream, name })
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result {
        let sent = self.stream.write_all(bytes);
        sent.map_err(|error| self.failed("is taken", &error))
    }

    /// As many bytes as are expected; fewer if the connection ends, or as soon as they
    /// differ.
    pub fn receive(&mut self, expected: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; expected.len()];
        let mut len = 0;
        while len < bytes.len() && expected.starts_with(&bytes[..len]) {
            match self.stream.read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) => {
                    let failed = self.failed("comes", &error);
                    let rest = shown(&expected[len..]);
                    return Err(format!("{failed}, where \"{rest}\" should"));
                }
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// An error if something has come already that it should still wait for.
    pub fn is_waiting(&self) -> Result {
        let failed = |error| format!("{}: {error}", self.name);
        self.stream.set_nonblocking(true).map_err(failed)?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).map_err(failed)?;
        match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(_) => Err(format!("{}: should wait, and something has come", self.name)),
        }
    }

    /// Says that it will send no more; the server closes without another byte.
    pub fn leave(mut self, server: &Server) -> Result {
        // It may have been closed from the other side.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.is_closed()?;
        say(&format!("{}: Connection closed", self.name));
        server.says("Client disconnected").map(|_| ())
    }

    /// Waits until the server closes the connection. D1: it must say nothing before.
    pub fn is_closed(&mut self) -> Result {
        let mut rest = [0; 80];
        match self.stream.read(&mut rest) {
            // What was sent to a server that closes may come back as a reset.
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Ok(count) => {
                let rest = shown(&rest[..count]);
                Err(format!("{}: received more than it should: \"{rest}\"", self.name))
            }
            Err(error) => Err(self.failed("closes the connection", &error)),
        }
    }

    /// How systems word a timeout differs, and helps nobody.
    fn failed(&self, what: &str, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("{}: nothing {what}", self.name)
            }
            _ => format!("{}: {error}", self.name),
        }
    }
}

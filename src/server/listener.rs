//! Where a server listens: a port, or a socket in the file system; and the thread that
//! accepts connections.
//!
//! Accepting is all that this thread does: a connection goes to a worker, or waits, or is
//! rejected (`shared.rs`), and the next one is accepted. Three queues can hold a connection
//! that nobody serves yet:
//!
//! | queue | holds | who is in it |
//! |---|---|---|
//! | the kernel's | 1024 | is connected, but not accepted |
//! | `--backlog` | as many as asked for | waits until another connection closes |
//! | a worker's mailbox | few, for a moment | is served in the worker's next tick |
//!
//! This thread ends the server, by returning: when a signal is reported, or, with
//! `--idle-exit`, when nobody was connected for so long.

use crate::Failure;
use crate::os::{self, Interest, Poller};
use crate::server::options::Options;
use crate::server::shared::{Shared, Stream};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Connections that may queue in the kernel until the listener accepts them.
const KERNEL_QUEUE: i32 = 1024;

/// Bytes of replies that the kernel takes beyond what it can send at once, approximately.
/// Without a limit it would take 4 MB from each client that does not read, and
/// when they have filled its memory for sockets, everybody is slow.
const UNSENT_LIMIT: i32 = 128 << 10;

/// Descriptors beside those of connections: files, pollers, sockets, standard streams.
const OTHER_DESCRIPTORS: u64 = 64;

/// How long to wait after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

/// What the server listens on.
pub(crate) struct Listener {
    socket: Socket,
    /// `127.0.0.1:11211`, or the path of the socket.
    pub(crate) address: String,
    /// The port; 0 for a socket in the file system.
    pub(crate) port: u16,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens as the options say. The error names the option that can help.
    pub(crate) fn bind(options: &Options) -> Result<Listener, Failure> {
        let Options { conn_limit, backlog, threads, unix_socket, .. } = options;
        let wanted = (conn_limit + backlog + 3 * threads) as u64 + OTHER_DESCRIPTORS;
        os::raise_descriptor_limit(wanted).map_err(|possible| {
            Failure::Failed(format!(
                "--conn-limit {conn_limit} needs {wanted} open files and the system \
                 allows {possible}; raise it with `ulimit -Hn {wanted}` or lower \
                 --conn-limit"
            ))
        })?;
        let (place, bound) = match unix_socket {
            Some(path) => (path.display().to_string(), Listener::unix(path)),
            None => {
                let address = tcp_address(options)?;
                (address.to_string(), Listener::tcp(address))
            }
        };
        bound.map_err(|error| {
            Failure::Failed(format!(
                "can't listen on {place}: {error}; choose another --port (0 is any free \
                 one), --listen or --unix-socket"
            ))
        })
    }

    fn tcp(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        os::limit_unsent(listener.as_fd(), UNSENT_LIMIT)?;
        let (address, port) = (listener.local_addr()?, listener.local_addr()?.port());
        let (socket, address) = (Socket::Tcp(listener), address.to_string());
        Ok(Listener { socket, address, port })
    }

    fn unix(path: &Path) -> io::Result<Listener> {
        let listener = os::bind_private(path)?;
        listener.set_nonblocking(true)?;
        let (socket, address) = (Socket::Unix(listener), path.display().to_string());
        Ok(Listener { socket, address, port: 0 })
    }

    /// The next connection, and how `-v` names it.
    fn accept(&self) -> io::Result<(Stream, String)> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                // Each tick's replies are one write already: nothing to wait for. It
                // fails where the client has gone, which the worker will notice.
                let _ = stream.set_nodelay(true);
                (stream, format!("('{}', {})", peer.ip(), peer.port()))
            }
            Socket::Unix(it) => {
                (OwnedFd::from(it.accept()?.0).into(), "a local process".into())
            }
        })
    }

    /// Accepts connections, until there is something to read from `stop`, which is returned,
    /// or until there was none for `--idle-exit`.
    pub(crate) fn run(
        &self,
        shared: &Shared,
        mut poller: Box<dyn Poller>,
        mut stop: Option<UnixStream>,
    ) -> io::Result<Option<String>> {
        let Options { idle_exit, threads, .. } = shared.options;
        let fd = match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        };
        os::deepen_queue(fd, KERNEL_QUEUE)?;
        poller.add(fd, 0, Interest::Read)?;
        if let Some(stop) = &stop {
            poller.add(stop.as_fd(), 1, Interest::Read)?;
        }
        let limit = if idle_exit.is_zero() { Duration::MAX } else { idle_exit };
        let (mut ready, mut worker) = (Vec::new(), 0);
        loop {
            // Each time: the next connection may always be there already.
            let mut reason = [0; 32];
            if let Some(Ok(len)) = stop.as_mut().map(|stop| stop.read(&mut reason)) {
                return Ok(Some(String::from_utf8_lossy(&reason[..len]).into()));
            }
            match self.accept() {
                Ok((stream, peer)) => {
                    // No worker ever waits for it.
                    stream.set_nonblocking(true)?;
                    shared.admit(stream, peer, worker);
                    worker = (worker + 1) % threads;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let idle = shared.idle_time().unwrap_or_default();
                    if idle >= limit {
                        return Ok(None);
                    }
                    poller.wait(&mut ready, limit - idle)?;
                }
                // This connection was gone before it was ours.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // W4: no descriptor is left. It waits in the kernel's queue meanwhile.
                Err(_) => thread::sleep(RETRY),
            }
        }
    }
}

/// Anybody on the network can reach what is not loopback, so that has to be meant.
fn tcp_address(options: &Options) -> Result<SocketAddr, Failure> {
    let Options { listen, port, insecure, auth_file, .. } = options;
    let anywhere = *insecure || auth_file.is_some();
    let mut addresses =
        (listen.as_str(), *port).to_socket_addrs().map_err(|error| {
            let why = format!(
                "--listen {listen} is not an address of this machine (a port is --port)"
            );
            Failure::Usage(format!("{why}: {error}"))
        })?;
    match addresses.next() {
        Some(address) if anywhere || address.ip().is_loopback() => Ok(address),
        _ => Err(Failure::Usage(format!(
            "--listen {listen} can be reached from other machines, and anybody there \
             could read and change the data; give --auth-file, or --insecure if that is \
             meant, or listen on 127.0.0.1, ::1 or a --unix-socket"
        ))),
    }
}

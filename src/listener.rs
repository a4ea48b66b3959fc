//! How a server is set up, and where it listens: a port, or a socket in the file system.

use crate::connection::Stream;
use crate::dialect::Dialect;
use crate::os;
use crate::store;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Connections that may queue in the kernel until the listener takes them.
pub(crate) const KERNEL_QUEUE: i32 = 1024;

/// Bytes of replies that the kernel takes beyond what it can send at once, or about so
/// many. Without a limit it would take 4 MB from each client that does not read, and
/// when they have filled its memory for sockets, everybody is slow.
pub(crate) const UNSENT_LIMIT: i32 = 128 << 10;

/// Descriptors beside those of connections: files, pollers, wakers, standard streams.
const OTHER_DESCRIPTORS: u64 = 64;

/// How a server is set up. The fields are the options of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--listen`: an address of this machine.
    pub listen: String,
    /// `--port`: 0 lets the system choose.
    pub port: u16,
    /// `--unix-socket`: listen there instead.
    pub unix_socket: Option<PathBuf>,
    /// `--data`: the data directory.
    pub data: PathBuf,
    /// `--key-size`, `--int-size`, `--int-order`, `--sync`, `--max-item-size`.
    pub store: store::Options,
    /// `--dialect`: how requests and replies are worded.
    pub dialect: Dialect,
    /// `--auth-file`: who may come in, if not everybody.
    pub auth_file: Option<PathBuf>,
    /// `--insecure`: everybody may, also from other machines.
    pub insecure: bool,
    /// `--threads`: workers.
    pub threads: usize,
    /// `--conn-limit`: connections served at once.
    pub conn_limit: usize,
    /// `--backlog`: connections that wait for a place.
    pub backlog: usize,
    /// `--idle-timeout`: after which a connection without requests is closed.
    pub idle_timeout: Option<Duration>,
    /// `--request-timeout`: after which one is closed that does not finish its
    /// request, or does not take its replies.
    pub request_timeout: Option<Duration>,
    /// `--idle-exit`: the server ends when nobody was connected for so long.
    pub idle_exit: Option<Duration>,
    /// `-v` is 1, `-vv` is 2.
    pub verbosity: u8,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: "127.0.0.1".into(),
            port: 11211,
            unix_socket: None,
            data: "data".into(),
            store: store::Options::default(),
            dialect: Dialect::Memcached,
            auth_file: None,
            insecure: false,
            threads: thread::available_parallelism().map_or(1, usize::from),
            conn_limit: 1024,
            backlog: 0,
            idle_timeout: None,
            request_timeout: Some(Duration::from_secs(120)),
            idle_exit: None,
            verbosity: 0,
        }
    }
}

/// Why a server could not start: one line that says what to do.
#[derive(Debug)]
pub enum StartError {
    /// The options ask for something that is not to be had.
    Usage(String),
    /// The system or the data directory is in the way.
    Failed(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            StartError::Usage(why) | StartError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StartError {}

/// What the listener listens on.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(crate) fn bind(options: &Options) -> Result<Listener, StartError> {
        let Options { conn_limit, backlog, threads, .. } = options;
        let wanted = (conn_limit + backlog + 3 * threads) as u64 + OTHER_DESCRIPTORS;
        os::raise_descriptor_limit(wanted).map_err(|possible| {
            StartError::Failed(format!(
                "--conn-limit {} needs {wanted} open files and the system allows \
                 {possible}; raise it with `ulimit -Hn {wanted}` or lower --conn-limit",
                options.conn_limit
            ))
        })?;
        let (place, bound, advice) = match &options.unix_socket {
            Some(path) => (
                path.display().to_string(),
                bind_unix(path).map(|listener| Listener::Unix(listener, path.clone())),
                "choose another --unix-socket",
            ),
            None => {
                let address = tcp_address(options)?;
                let bound = TcpListener::bind(address).map(Listener::Tcp);
                let advice = "choose another --listen or --port; 0 is any that is free";
                (address.to_string(), bound, advice)
            }
        };
        bound.and_then(Listener::prepare).map_err(|error| {
            StartError::Failed(format!("can't listen on {place}: {error}; {advice}"))
        })
    }

    fn prepare(self) -> io::Result<Listener> {
        match &self {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                os::limit_unsent(listener.as_fd(), UNSENT_LIMIT)?;
            }
            Listener::Unix(listener, _) => listener.set_nonblocking(true)?,
        }
        os::deepen_queue(self.as_fd(), KERNEL_QUEUE)?;
        Ok(self)
    }

    /// `127.0.0.1:11211`, or the path of the socket.
    pub(crate) fn address(&self) -> String {
        match self {
            // An address that was bound a moment ago can be told.
            Listener::Tcp(listener) => {
                listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string())
            }
            Listener::Unix(_, path) => path.display().to_string(),
        }
    }

    /// The port; 0 for a socket in the file system.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map_or(0, |a| a.port()),
            Listener::Unix(..) => 0,
        }
    }

    /// The next connection, which never makes its worker wait, and how `-v` names it.
    pub(crate) fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                // Each tick's replies are one write already: nothing to wait for. It
                // fails where the client has gone, which the worker will notice.
                let _ = stream.set_nodelay(true);
                let name = format!("('{}', {})", peer.ip(), peer.port());
                Ok((OwnedFd::from(stream).into(), name))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((OwnedFd::from(stream).into(), "a local process".into()))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener, _) => listener.as_fd(),
        }
    }
}

/// Anybody on the network can reach what is not loopback, so that has to be meant.
fn tcp_address(options: &Options) -> Result<SocketAddr, StartError> {
    let Options { listen, port, insecure, auth_file, .. } = options;
    let anywhere = *insecure || auth_file.is_some();
    let mut addresses =
        (listen.as_str(), *port).to_socket_addrs().map_err(|error| {
            StartError::Usage(format!(
                "--listen {listen} is no address of this machine: {error}"
            ))
        })?;
    match addresses.next() {
        Some(address) if anywhere || address.ip().is_loopback() => Ok(address),
        _ => Err(StartError::Usage(format!(
            "--listen {listen} can be reached from other machines, and anybody there \
             could read and change the data; give --auth-file, or --insecure if that is \
             meant, or listen on 127.0.0.1, ::1 or a --unix-socket"
        ))),
    }
}

/// Listens at a path, in the place of a socket whose server is gone.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)?;
    }
    // Not made its owner's alone afterwards: it could be connected to before.
    os::make_private(|| UnixListener::bind(path))
}

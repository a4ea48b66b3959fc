//! How a server is set up: the options of the command line, as `server --help` lists them.

use crate::protocol::dialect::Dialect;
use crate::store;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// See the top of this file. A time of zero switches its limit off.
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
    /// `--auth-file`: the file of logins; `None` serves everybody.
    pub auth_file: Option<PathBuf>,
    /// `--insecure`: everybody is served, also from other machines.
    pub insecure: bool,
    /// `--threads`: workers.
    pub threads: usize,
    /// `--conn-limit`: connections served at once.
    pub conn_limit: usize,
    /// `--backlog`: connections that wait for a free place.
    pub backlog: usize,
    /// `--idle-timeout`: after which a connection without requests is closed.
    pub idle_timeout: Duration,
    /// `--request-timeout`: after which one is closed that does not finish its
    /// request, or does not take its replies.
    pub request_timeout: Duration,
    /// `--idle-exit`: the server ends after so long without a connection.
    pub idle_exit: Duration,
    /// `-v` is 1, `-vv` is 2.
    pub verbosity: usize,
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
            idle_timeout: Duration::ZERO,
            request_timeout: Duration::from_secs(120),
            idle_exit: Duration::ZERO,
            verbosity: 0,
        }
    }
}

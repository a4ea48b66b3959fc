//! The server: who listens, who serves, and the threads they run on.
//!
//! ```text
//!             mailbox of each worker         one tick of a worker
//! listener ---> worker 0: poller  --.   wait -> receive and execute, each connection
//!         \--> worker 1: poller  --|-->       -> commit once for all of them
//!          \-> ...                 /           -> flush, each connection
//! ```
//!
//! The listener accepts connections and gives them to the workers in turn; each stays
//! with its worker. A worker waits for the first of its connections to become ready
//! and does what can be done for all that are, then commits once: one write and one
//! sync serve every connection of the tick (group commit). It never waits for a
//! client; for the disk, only where nobody else is ready: otherwise the syncer waits, and
//! the connections whose replies depend on it are *parked*.
//!
//! | part | what it owns |
//! |---|---|
//! | [`options`] | how a server is set up |
//! | `listener`, `shared` | where connections come from; where they wait; what is shared |
//! | `worker` | a thread, its poller and its connections: the tick |
//! | `connection` | bytes in, requests, bytes out |
//! | `service`, `stats` | what each request does; what is counted |
//! | `sync`, [`login`] | the thread that waits for the disk; who may use the server |
//! | [`tools`] | what is done to data that nobody serves |
//!
//! - W1: a tick has one commit, made or requested before any of its replies leaves; none
//!   leaves before what it depends on is safe (V1).
//! - W2: a panic in a request costs that connection and nobody else; under a lock it
//!   ends the process, which is safe.
//! - W3: a connection that closes frees its place for one that waits.
//! - W4: running out of descriptors delays new connections, and nobody else.
//! - W5: a parked connection is not read from, and continues when its replies are safe, or
//!   when the last commit of them has failed and nobody has requested another.
//! - W6: a server that is told to stop accepts nothing more, lets each worker end its tick
//!   and answer what is parked, and syncs what was written.
//!
//! What was acknowledged is safe at any moment, so a kill will do as well. Left out: moving
//! connections between workers, so one worker can be busier than another when few clients do
//! most of the work.

pub mod connection;
mod listener;
pub mod login;
pub mod options;
pub mod service;
pub mod shared;
mod stats;
mod sync;
pub mod tools;
pub mod worker;

pub use crate::server::options::Options;

use crate::os::{Poller, unix_now};
use crate::protocol::dialect::Dialect;
use crate::server::listener::Listener;
use crate::server::login::{Credentials, read_logins};
use crate::server::shared::Shared;
use crate::server::worker::Worker;
use crate::store::Store;
use crate::{Failure, print, warn};
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A server that has its address and its data, and serves nobody yet.
pub struct Server {
    listener: Listener,
    options: Options,
    credentials: Option<Credentials>,
    store: Store,
    /// W6. What can be read from this tells it to stop, and is the name of who does; see
    /// [`os::report_signal`](crate::os::report_signal).
    pub stop: Option<UnixStream>,
}

impl Server {
    /// Takes the address first, then opens the data directory: what can't listen touches
    /// nothing. A socket of the file system comes last, since it may replace a stale one:
    /// of two servers started on the same directory, only the one that has it may do that.
    pub fn bind(options: Options) -> Result<Server, Failure> {
        let credentials = credentials(&options)?;
        let is_port = options.unix_socket.is_none();
        let listener = is_port.then(|| Listener::bind(&options)).transpose()?;
        let opened = Store::open(&options.data, &options.store, unix_now());
        let (store, torn) = opened.map_err(|error| {
            let data = options.data.display();
            Failure::Failed(format!("can't use the data directory {data}: {error}"))
        })?;
        if let Some(torn) = torn {
            warn(&format!("server: {torn}"));
        }
        let listener = listener.map_or_else(|| Listener::bind(&options), Ok)?;
        Ok(Server { listener, options, credentials, store, stop: None })
    }

    /// A server over a store that is open already.
    pub fn with_store(options: Options, store: Store) -> Result<Server, Failure> {
        let credentials = credentials(&options)?;
        let listener = Listener::bind(&options)?;
        Ok(Server { listener, options, credentials, store, stop: None })
    }

    /// Where it listens: `127.0.0.1:11211`, or the path of its socket.
    pub fn address(&self) -> &str {
        &self.listener.address
    }

    /// Serves, until it is told to stop, or `--idle-exit` ends it. As a rule, the pollers
    /// are [`os::poller`](crate::os::poller)'s.
    pub fn run(self, poller: fn() -> io::Result<Box<dyn Poller>>) -> io::Result<()> {
        let Server { listener, mut options, credentials, store, stop } = self;
        options.port = listener.port;
        let shared = Arc::new(Shared::new(options, credentials, store)?);
        let mut workers = Vec::new();
        for number in 0..shared.mailboxes.len() {
            let worker = Worker::new(shared.clone(), number, poller()?)?;
            workers.push(spawn(format!("worker-{number}"), || worker.run())?);
        }
        let it = shared.clone();
        // In `every-second`, it waits for ever.
        spawn("syncer".into(), move || {
            loop {
                it.syncer.wait();
                it.sync(unix_now());
            }
        })?;
        let it = shared.clone();
        spawn("maintenance".into(), move || maintain(&it))?;
        let stopped_by = listener.run(&shared, poller()?, stop)?;
        // W6. A thread that ends in another way ends the process.
        shared.stop();
        workers.into_iter().for_each(|worker| drop(worker.join()));
        shared.store.sync(unix_now()).map_err(io::Error::other)?;
        if let Some(name) = stopped_by {
            let items = shared.store.figure("curr_items");
            print(&format!("Server: Stopped by {name}; items stored: {items}"));
            return Ok(());
        }
        let idle_exit = shared.options.idle_exit.as_secs_f64();
        print(&format!("SERVER: Timeout reached at {idle_exit} seconds"));
        print(&format!("Server: Detached from {}", listener.address));
        Ok(())
    }
}

/// The logins that are accepted; `None` serves everybody.
fn credentials(options: &Options) -> Result<Option<Credentials>, Failure> {
    let Some(path) = &options.auth_file else { return Ok(None) };
    if options.dialect != Dialect::Memcached {
        let why = "--auth-file goes with --dialect memcached alone: the others have no \
                   words for a login";
        return Err(Failure::Usage(why.into()));
    }
    let logins = read_logins(path).map_err(Failure::Failed)?;
    Ok(Some(Credentials::new(&logins)))
}

/// Starts a thread without which the server is of no use: if it fails, the process ends,
/// which is safe at any moment.
fn spawn(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.clone());
    thread.spawn(move || {
        let why = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".into(),
        };
        warn(&format!("server: {name} has ended: {why}"));
        std::process::abort();
    })
}

/// Maintains the store each second, and compacts it when that is due, which is looked at fifty
/// times as often: clients can write some hundred MiB in a second. An error is printed
/// once, and not again before something else happened.
fn maintain(shared: &Shared) -> io::Result<()> {
    let mut printed = None;
    loop {
        let mut error = shared.store.maintain(&unix_now).err();
        for _ in 0..50 {
            thread::sleep(Duration::from_millis(20));
            // What has failed is not tried again before the next second.
            error = error.or_else(|| shared.store.compact_if_due(&unix_now).err());
        }
        if error != printed {
            error.iter().for_each(|error| warn(&format!("server: {error}")));
        }
        printed = error;
    }
}

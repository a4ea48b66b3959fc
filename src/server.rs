//! The server: how its parts, the pool in `pool.rs` and the workers in `worker.rs`, go
//! together, and the threads they run on.
//!
//! ```text
//!             queue of each worker           one tick of a worker
//! listener ---> worker 0: poller  --.   wait -> receive and execute, each connection
//!         \--> worker 1: poller  --|-->       -> commit once for all of them
//!          \-> ...                 /           -> flush, each connection
//! ```
//!
//! The listener takes connections and hands them to the workers in turn; each stays
//! with its worker. A worker waits for the first of its connections to become ready
//! and does what can be done for all that are, then commits once: one write and one
//! sync serve every connection of the tick (group commit). It never waits for a
//! client; for the disk, only where all of its connections do: otherwise the thread in
//! `syncer.rs` waits, and the connections whose replies depend on it are *parked*.
//!
//! - W1: no reply of a tick leaves before the tick's commit (with V1).
//! - W2: a panic in a request costs that connection and nobody else; under a lock it
//!   ends the process, which is safe.
//! - W3: a connection that closes makes its place free, for one that waits.
//! - W4: running out of descriptors costs the newcomer and nobody else.
//! - W5: a parked connection is not read from, and is gone on with after the first round
//!   of the syncer that can decide about its replies.
//!
//! There is no shutdown: what was acknowledged is safe at any moment, so a kill will
//! do. Left out: moving connections between workers, so one worker can be busier than
//! another when few clients do most of the work.

use crate::auth::Credentials;
use crate::complain;
use crate::connection;
use crate::dialect::Dialect;
use crate::listener::Listener;
pub use crate::listener::{Options, StartError};
use crate::log::SyncMode;
pub use crate::os::unix_now;
use crate::os::{self, Poller};
use crate::pool::{Desk, Pool};
use crate::protocol::Limits;
use crate::say;
use crate::service::Service;
use crate::stats::Counters;
use crate::store::Store;
use crate::worker::{self, ROUND, Worker};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

/// A server that has its address and its data, and serves nobody yet.
pub struct Server {
    listener: Listener,
    options: Options,
    service: Arc<Service>,
}

impl Server {
    /// Takes the address first, then opens the data directory: what can't listen
    /// touches nothing.
    pub fn bind(options: Options) -> Result<Server, StartError> {
        let credentials = credentials(&options)?;
        let listener = Listener::bind(&options)?;
        let opened = Store::open(&options.data, &options.store, unix_now());
        let (store, torn) = opened.map_err(|error| {
            // A socket's name in the file system outlives the socket.
            if let Some(path) = &options.unix_socket {
                let _ = fs::remove_file(path);
            }
            let data = options.data.display();
            StartError::Failed(format!("can't use the data directory {data}: {error}"))
        })?;
        if let Some(torn) = torn {
            complain(&format!("server: {torn}"));
        }
        Ok(Server::new(options, credentials, listener, store))
    }

    /// A server over a store that is open already.
    pub fn with_store(options: Options, store: Store) -> Result<Server, StartError> {
        let credentials = credentials(&options)?;
        let listener = Listener::bind(&options)?;
        Ok(Server::new(options, credentials, listener, store))
    }

    fn new(
        options: Options,
        credentials: Option<Credentials>,
        listener: Listener,
        store: Store,
    ) -> Server {
        // Raw sizes are as wide as those in the file, which may be older than the
        // options.
        let dialect = match options.dialect {
            Dialect::Raw(_) => Dialect::Raw(store.format()),
            other => other,
        };
        let limits = Limits {
            key_size: store.key_size(),
            max_value: store.max_value(),
            max_item_size: options.store.max_item_size,
        };
        let service = Arc::new(Service {
            credentials,
            dialect,
            limits,
            verbosity: options.verbosity,
            settings: settings(&options, &listener, &limits, &store),
            store,
            conn_limit: options.conn_limit,
            counters: (0..options.threads).map(|_| Counters::default()).collect(),
            connections: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            started: Instant::now(),
        });
        Server { listener, options, service }
    }

    /// Where it listens: `127.0.0.1:11211`, or the path of its socket.
    pub fn address(&self) -> String {
        self.listener.address()
    }

    /// Serves, until `--idle-exit` ends it.
    pub fn run(self) -> io::Result<()> {
        self.run_with::<os::Best>()
    }

    /// The same, with a poller of the caller's choice.
    pub fn run_with<P: Poller>(self) -> io::Result<()> {
        let Server { listener, options, service } = self;
        let (pool, wakers) = Pool::new(service, options)?;
        let pool = Arc::new(pool);
        for (number, waker) in wakers.into_iter().enumerate() {
            let worker = Worker::<P>::new(pool.clone(), number, waker)?;
            spawn(format!("worker-{number}"), move || worker.run())?;
        }
        if pool.service.store.sync_mode() == SyncMode::Always {
            let pool = pool.clone();
            spawn("syncer".into(), move || {
                let store = &pool.service.store;
                let commit = |position| store.commit_to(position, unix_now());
                pool.syncer.run(commit, || pool.desks.iter().for_each(Desk::wake))
            })?;
        }
        let service = pool.service.clone();
        spawn("janitor".into(), move || janitor(&service.store))?;
        let timeout = pool.listen::<P>(&listener)?;
        say(&format!("SERVER: Timeout reached at {} seconds", timeout.as_secs_f64()));
        say(&format!("Server: Detached from {}", listener.address()));
        Ok(())
    }
}

/// Who may come in, if not everybody.
fn credentials(options: &Options) -> Result<Option<Credentials>, StartError> {
    let Some(path) = &options.auth_file else { return Ok(None) };
    if options.dialect != Dialect::Memcached {
        return Err(StartError::Usage(
            "--auth-file goes with --dialect memcached alone: the others have no words \
             for a login"
                .into(),
        ));
    }
    Credentials::read(path).map(Some).map_err(StartError::Failed)
}

/// What `stats settings` tells.
fn settings(
    options: &Options,
    listener: &Listener,
    limits: &Limits,
    store: &Store,
) -> Vec<(&'static str, String)> {
    let Options { threads, conn_limit, .. } = *options;
    let buffers = connection::bytes_max(limits, store.longest_value());
    let memory = conn_limit * buffers
        + threads * worker::bytes_max(buffers, conn_limit)
        + store.bytes_max(threads);
    let seconds =
        |time: Option<Duration>| time.map_or(0.0, |t| t.as_secs_f64()).to_string();
    let auth_file = options.auth_file.as_ref().map(|path| path.display().to_string());
    vec![
        ("maxbytes", "0".into()),
        ("maxconns", options.conn_limit.to_string()),
        ("tcpport", listener.port().to_string()),
        ("udpport", "0".into()),
        ("verbosity", options.verbosity.to_string()),
        ("num_threads", options.threads.to_string()),
        ("cas_enabled", "yes".into()),
        ("item_size_max", options.store.max_item_size.to_string()),
        ("tcp_backlog", options.backlog.to_string()),
        ("idle_timeout", seconds(options.idle_timeout)),
        ("request_timeout", seconds(options.request_timeout)),
        ("auth_enabled_ascii", auth_file.unwrap_or("no".into())),
        // V2, and what everything takes up together, without the index.
        ("connection_bytes_max", buffers.to_string()),
        ("memory_bytes_max", memory.to_string()),
        ("data", options.data.display().to_string()),
    ]
}

/// Starts a thread without which the server is of no use: if it ends, so does the
/// process, which is safe at any moment.
fn spawn(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.clone());
    thread.spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(run));
        complain(&match result {
            Ok(Ok(())) => format!("server: {name} has ended"),
            Ok(Err(error)) => format!("server: {name}: {error}"),
            Err(_) => format!("server: {name} panicked"),
        });
        std::process::abort();
    })?;
    Ok(())
}

/// Looks after the store, each second and when it is called. An error is said once,
/// and not again before something else happened.
fn janitor(store: &Store) -> io::Result<()> {
    let mut said = None;
    loop {
        store.wait_for_call(ROUND);
        let error = store.tend(&unix_now).err();
        if let Some(error) = &error
            && said.as_ref() != Some(error)
        {
            complain(&format!("server: {error}"));
        }
        said = error;
    }
}

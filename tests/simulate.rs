//! A whole server on one thread, played by a seed: the workers' own loop, over a poller,
//! sockets, a disk and a clock of which the seed decides everything.
//!
//! A *step* is a piece of what happens at the same time in a real server: a worker's
//! tick, a commit of the syncer, a second that passes, maintenance, a compaction, or some
//! bytes that a client sends or takes. The seed chooses one step after another, and where
//! a step waits for the disk, others that happen meanwhile. It chooses where a call to the
//! disk fails, and where the process ends, or its machine; then another server starts on
//! what is left.
//!
//! What clients were told is judged as in the torture run (`torture.rs`): by
//! `common/linear.rs`. Since nothing here happens by chance, a seed that fails does so
//! again, exactly. And a client whose answer never comes is seen: when nobody has anything
//! left to do, it is still waiting.
//!
//! `make simulate SEEDS=100000` plays so many, `SEED=7 make simulate` plays that one.
//!
//! Steps are begun inside of others where the caller holds no lock that they need: in the
//! poller's wait, wherever compaction reads or looks at the clock, and in `always` inside of
//! a sync. A change of the locks has to be followed in `before_call`; where it is not, a step
//! waits for its own thread, and the test hangs.
//!
//! What it can't see: what needs two threads between two such places, such as a lock that is
//! not held, or atomics in the wrong order; a power cut in `every-second`, which may cost
//! what was acknowledged (`faults.rs` has it); a clock that goes back; what TCP does to a
//! connection and a pair of sockets does not.

mod common;

use common::TempDir;
use common::disk::{Call, Faulty, How, short, shorten};
use common::linear::{Asked, Operation, SILENT};
use common::requests::{Answer, Command, Ledger, Maker, judge};
use common::stream::Ingredients;
use memcached_lite::driver::random::Random;
use memcached_lite::os::{Interest, Poll, Poller};
use memcached_lite::server;
use memcached_lite::server::shared::Shared;
use memcached_lite::server::worker::Worker;
use memcached_lite::store::disk::Disk;
use memcached_lite::store::{Options, Settings, SyncMode};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Unix seconds at the beginning.
const START: u64 = 1_700_000_000;

/// In so many rounds of everybody's turns, all that was asked is answered.
const PATIENCE: usize = 200;

/// The most clients. In one life, a client can come back as another one, but not often: what
/// has no answer may have happened or not, and to the checker each is two ways on.
const MOST_CLIENTS: usize = 4;

type Result<T> = std::result::Result<T, String>;

thread_local! {
    /// What is played on this thread.
    static PLAYED: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// All that there is, but for the disk and the server.
struct World {
    random: RefCell<Random>,
    mode: SyncMode,
    threads: usize,
    keys: usize,
    /// One fault of the disk in so many steps; 0 for none.
    faults: usize,
    /// Unix seconds, and those since the beginning.
    seconds: Cell<u64>,
    began: Instant,
    /// All moments of the history come from here.
    moments: Cell<u64>,
    clients: Vec<RefCell<Client>>,
    /// `None` while no server is running.
    life: RefCell<Option<Rc<Life>>>,
    failure: RefCell<Option<String>>,
}

/// A server, from its start to its end.
struct Life {
    disk: Faulty,
    path: PathBuf,
    shared: Arc<Shared>,
    workers: Vec<RefCell<Worker>>,
    /// Whose step it is.
    actor: Cell<Actor>,
    /// Steps that others were begun in.
    depth: Cell<usize>,
    /// A sync waits for the disk, so no other can be begun.
    is_syncing: Cell<bool>,
    /// Everybody finishes, and nothing new is begun.
    is_draining: Cell<bool>,
    /// Connections there have been.
    connections: Cell<usize>,
    /// Calls to the disk that had failed when it began.
    failures: usize,
    /// So much time has passed at once that connections may be overdue.
    is_late: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Actor {
    Client,
    Worker,
    Syncer,
    Maintenance,
}

/// The poller of a worker: of what is ready, it reports what the seed chooses.
struct Chosen(Poll);

impl Poller for Chosen {
    fn add(
        &mut self,
        fd: BorrowedFd,
        token: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.0.add(fd, token, interest)
    }

    fn remove(&mut self, fd: BorrowedFd) -> io::Result<()> {
        self.0.remove(fd)
    }

    fn wait(&mut self, ready: &mut Vec<usize>, timeout: Duration) -> io::Result<()> {
        let (world, life) = played().expect("a server runs");
        if timeout == Duration::ZERO {
            // A worker that would commit by itself looks whether anybody else is ready.
            life.others_take_turns(&world, 3);
        }
        self.0.wait(ready, Duration::ZERO)?;
        let mut chosen = Vec::new();
        let most = if life.is_draining.get() { ready.len() } else { world.below(9) };
        while chosen.len() < most && !ready.is_empty() {
            chosen.push(ready.swap_remove(world.below(ready.len())));
        }
        *ready = chosen;
        if life.is_syncing.get() {
            // Or else it would wait for the sync in which its own step was begun.
            ready.push(NOBODY);
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        let world = world().expect("one is played");
        world.began + Duration::from_secs(world.seconds.get() - START)
    }

    fn unix_now(&self) -> u64 {
        world().expect("one is played").seconds.get()
    }
}

/// The token of no connection.
const NOBODY: usize = usize::MAX - 1;

fn world() -> Option<Rc<World>> {
    PLAYED.with_borrow(Option::clone)
}

/// The world that is played on this thread, and the server that runs in it.
fn played() -> Option<(Rc<World>, Rc<Life>)> {
    let world = world()?;
    let life = world.life.borrow().clone()?;
    Some((world, life))
}

/// Before each call to the disk: others take their turns, where it is waited for without a
/// lock that they need. What is written and not yet synced is in danger only here.
fn before_call(call: Call) {
    let Some((world, life)) = played() else { return };
    if life.has_ended() {
        return;
    }
    match (life.actor.get(), call) {
        // The walk of a compaction, and what comes before it.
        (Actor::Maintenance, Call::Read | Call::Reserve) => {
            life.others_take_turns(&world, 40);
        }
        // Its lock is that of syncs alone, except in a rotation, of which there is none
        // where there are two files (C4).
        (actor, Call::Sync)
            if world.mode == SyncMode::Always
                && (actor != Actor::Maintenance || life.generations() == 2) =>
        {
            let was_syncing = life.is_syncing.replace(true);
            life.others_take_turns(&world, 12);
            life.is_syncing.set(was_syncing);
        }
        _ => {}
    }
    if !matches!(call, Call::Read | Call::List) && world.once_in(40) {
        life.stop();
    }
}

impl Life {
    fn has_ended(&self) -> bool {
        self.disk.has_stopped()
    }

    fn has_failed(&self) -> bool {
        self.disk.failures() > self.failures
    }

    /// How many data files there are.
    fn generations(&self) -> usize {
        let entries = fs::read_dir(&self.path).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".kv")).count()
    }

    /// Steps of others, in the middle of one.
    fn others_take_turns(&self, world: &World, most: usize) {
        if self.depth.get() < 3 {
            self.depth.set(self.depth.get() + 1);
            let actor = self.actor.get();
            for _ in 0..world.below(most) {
                self.step(world);
            }
            self.actor.set(actor);
            self.depth.set(self.depth.get() - 1);
        }
    }

    /// One step of somebody who is not in the middle of one.
    fn step(&self, world: &World) {
        if self.has_ended() {
            return;
        }
        match world.below(100) {
            0..45 => self.client(world, world.below(world.clients.len())),
            45..85 => self.worker(world, world.below(self.workers.len())),
            85..95 => self.syncer(world),
            95..97 => world.pass_time(self),
            _ if self.is_draining.get() => {}
            97 if world.once_in(4) => self.stop(),
            97 if self.depth.get() == 0 => self.drain(world),
            98 => world.fail_soon(self),
            _ => self.maintenance(world),
        }
    }

    /// The process ends here: whatever it does from now on has no effect, and nobody sees
    /// it.
    fn stop(&self) {
        self.disk.fail(Call::ALL, 0, How::Stop);
        // Any call will do.
        let _ = self.disk.list();
    }

    fn client(&self, world: &World, number: usize) {
        if let Ok(mut client) = world.clients[number].try_borrow_mut() {
            self.actor.set(Actor::Client);
            client.step(world, self);
        }
    }

    fn worker(&self, world: &World, number: usize) {
        if let Ok(mut worker) = self.workers[number].try_borrow_mut() {
            self.actor.set(Actor::Worker);
            if let Err(error) = worker.step() {
                world.fail(format!("worker {number} has ended: {error}"));
            }
        }
    }

    fn syncer(&self, world: &World) {
        if !self.is_syncing.get() {
            self.actor.set(Actor::Syncer);
            self.shared.sync(world.seconds.get());
        }
    }

    fn maintenance(&self, world: &World) {
        if self.depth.get() > 0 {
            return;
        }
        self.actor.set(Actor::Maintenance);
        let store = &self.shared.store;
        let clock = || {
            self.others_take_turns(world, 20);
            world.seconds.get()
        };
        let result = match world.below(3) {
            0 => store.maintain(&clock),
            1 => store.compact_if_due(&clock),
            _ => store.compact(&clock),
        };
        if let Err(error) = result
            && !self.has_failed()
        {
            world.fail(format!("maintenance: {error}, and nothing has failed"));
        }
    }

    /// Everybody has turns until all that was asked is answered.
    fn drain(&self, world: &World) {
        self.is_draining.set(true);
        for _ in 0..PATIENCE {
            let mut clients = world.clients.iter();
            if self.has_ended() || clients.all(|client| client.borrow().is_done()) {
                break;
            }
            (0..world.clients.len()).for_each(|number| self.client(world, number));
            (0..self.workers.len()).for_each(|number| self.worker(world, number));
            self.syncer(world);
        }
        let waiting = world.clients.iter().find(|client| !client.borrow().is_done());
        if let Some(client) = waiting.filter(|_| !self.has_ended()) {
            let client = client.borrow();
            let (command, _) = &client.awaited[0];
            let (number, asked) = (client.id, &command.asked);
            world.fail(format!("client {number} waits in vain: {asked}"));
        }
        self.is_draining.set(false);
    }
}

impl World {
    /// The world that this seed determines.
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        // Large values, of which a get shows more than its connection may hold, are slow.
        let (keys, longest) = match random.below(20) {
            0..2 => (8, 150_000),
            2..12 => (3, 9_000),
            _ => (random.between(1, 4), random.pick(&[5, 20, 300])),
        };
        let depth = random.between(1, 4);
        let clients = (0..random.between(2, MOST_CLIENTS)).map(|number| Client {
            maker: Maker {
                longest,
                depth,
                ..Maker::new(Random::new(random.bits()), number, keys)
            },
            id: 0,
            stream: None,
            to_send: Vec::new(),
            received: Vec::new(),
            awaited: VecDeque::new(),
            ledger: Ledger::new(),
        });
        let clients = clients.map(RefCell::new).collect();
        World {
            mode: random.pick(&[
                SyncMode::Always,
                SyncMode::Always,
                SyncMode::EverySecond,
            ]),
            threads: random.between(1, 2),
            keys,
            faults: random.pick(&[0, 0, 20, 60]),
            seconds: Cell::new(START),
            began: Instant::now(),
            moments: Cell::new(0),
            clients,
            life: RefCell::new(None),
            failure: RefCell::new(None),
            random: RefCell::new(random),
        }
    }

    fn below(&self, end: usize) -> usize {
        self.random.borrow_mut().below(end)
    }

    fn once_in(&self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// The next moment.
    fn moment(&self) -> u64 {
        self.moments.set(self.moments.get() + 1);
        self.moments.get()
    }

    /// The first thing that is wrong is what is reported.
    fn fail(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
    }

    fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    fn pass_time(&self, life: &Life) {
        let is_long = self.once_in(200);
        let seconds = if is_long { 1000 } else { 1 };
        self.seconds.set(self.seconds.get() + seconds);
        life.is_late.set(life.is_late.get() || is_long);
    }

    /// One of the next calls to the disk fails, or ends the process.
    fn fail_soon(&self, life: &Life) {
        match self.below(2) {
            0 => life.disk.heal(),
            _ if self.faults > 0 && self.once_in(self.faults) => self.fault(&life.disk),
            _ => {}
        }
    }

    fn fault(&self, disk: &Faulty) {
        let how = [How::Once, How::Always, How::Short, How::Stop][self.below(4)];
        let calls = if how == How::Short { &[Call::Write] } else { Call::ALL };
        disk.fail(calls, self.below(30), how);
    }

    /// Plays some lives, one after another, and judges what was told.
    fn play(&self) -> Result<()> {
        let mut directory = TempDir::new();
        let mut disk = Faulty::new(directory.path());
        for _ in 0..2 + self.below(3) {
            let life = self.start(&directory, disk.clone())?;
            let most = 1 << (6 + self.below(5));
            for _ in 0..self.below(most) {
                if !life.has_ended() && !self.has_failed() {
                    life.step(self);
                }
            }
            if self.once_in(2) {
                life.drain(self);
            }
            self.end(life);
            self.failure.take().map_or(Ok(()), Err)?;
            // In `every-second`, a power cut may cost what was acknowledged.
            if self.mode == SyncMode::Always && self.once_in(2) {
                let left = TempDir::new();
                // Now and then it leaves what was synced and nothing else.
                let any = self.random.borrow_mut().bits();
                disk.power_cut(left.path(), if self.once_in(8) { 0 } else { any });
                disk = Faulty::new(left.path());
                directory = left;
            }
            disk.heal();
            shorten(directory.path());
        }
        let life = self.start(&directory, disk)?;
        self.end(life);
        self.failure.take().map_or(Ok(()), Err)?;
        let ledgers: Vec<_> = self.clients.iter().map(RefCell::borrow).collect();
        judge(self.keys, ledgers.iter().flat_map(|client| &client.ledger))
    }

    /// Starts a server, and reads all keys before anybody can write over what is there.
    fn start(&self, directory: &TempDir, disk: Faulty) -> Result<Rc<Life>> {
        let settings = Settings { int_size: Some(3), ..short(2).settings };
        let store = Options { sync: self.mode, settings, ..Options::default() };
        let now = self.seconds.get();
        let failures = disk.failures();
        if self.faults > 0 && self.once_in(5) {
            self.fault(&disk);
        }
        let mut opened = disk.open(&store, now);
        disk.heal();
        if opened.is_err() && disk.failures() > failures {
            opened = disk.open(&store, now);
        }
        let (store, _) = opened.map_err(|error| format!("a start fails: {error}"))?;
        let default = server::Options::default();
        let options = server::Options { threads: self.threads, ..default };
        let shared = Arc::new(Shared::new(options, None, store).expect("sockets"));
        let worker = |number| {
            let poller = Box::new(Chosen(Poll::default()));
            let worker = Worker::new(shared.clone(), number, poller);
            RefCell::new(worker.expect("a poller"))
        };
        disk.before_each(before_call);
        let life = Rc::new(Life {
            failures: disk.failures(),
            path: directory.path().to_owned(),
            disk,
            workers: (0..self.threads).map(worker).collect(),
            shared: shared.clone(),
            actor: Cell::new(Actor::Client),
            depth: Cell::new(0),
            is_syncing: Cell::new(false),
            is_draining: Cell::new(false),
            connections: Cell::new(0),
            is_late: Cell::new(false),
        });
        *self.life.borrow_mut() = Some(life.clone());
        let (keys, asked) = ((0..self.keys).collect(), Asked::Gets);
        let mut first = self.clients[0].borrow_mut();
        first.connect(&life);
        first.ask(self, vec![Command::of(keys, asked)]);
        drop(first);
        life.drain(self);
        Ok(life)
    }

    /// What has no answer by now happened before this moment or never does.
    fn end(&self, life: Rc<Life>) {
        *self.life.borrow_mut() = None;
        drop(life);
        let (moment, seconds) = (self.moment(), self.seconds.get());
        for client in &self.clients {
            let mut client = client.borrow_mut();
            client.leave();
            for (_, operation) in client.ledger.iter_mut() {
                if operation.end == u64::MAX {
                    (operation.end, operation.clock.1) = (moment, seconds);
                }
            }
        }
    }
}

struct Client {
    maker: Maker,
    /// Who it is to the checker: another one with each connection.
    id: usize,
    stream: Option<UnixStream>,
    to_send: Vec<u8>,
    received: Vec<u8>,
    /// What has no answer yet, and where in the ledger it begins.
    awaited: VecDeque<(Command, usize)>,
    ledger: Ledger,
}

impl Client {
    fn is_done(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Some bytes go this way or that.
    fn step(&mut self, world: &World, life: &Life) {
        let is_new = !life.is_draining.get();
        if self.stream.is_none() && is_new {
            self.connect(life);
        }
        if is_new && world.once_in(200) {
            self.leave();
        }
        if self.stream.is_none() {
            return;
        }
        if self.is_done() && is_new {
            let commands = self.maker.commands();
            self.ask(world, commands);
        }
        let result = if !self.to_send.is_empty() && world.below(4) > 0 {
            self.send(world)
        } else {
            self.receive(world, life)
        };
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                if !life.has_failed() && !life.is_late.get() {
                    world.fail(format!("client {}: {error}", self.id));
                }
                self.leave();
            }
            Ok(()) => {}
        }
    }

    /// Comes as another client, of whom there are not too many in one life.
    fn connect(&mut self, life: &Life) {
        let number = life.connections.get();
        if number == 2 * MOST_CLIENTS {
            return;
        }
        life.connections.set(number + 1);
        self.id = number;
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        near.set_nonblocking(true).expect("an open socket");
        far.set_nonblocking(true).expect("an open socket");
        let worker = number % life.workers.len();
        life.shared.admit(OwnedFd::from(near).into(), "a client".into(), worker);
        self.stream = Some(far);
    }

    /// Leaves, in the middle of a request or not.
    fn leave(&mut self) {
        self.stream = None;
        self.to_send.clear();
        self.received.clear();
        self.awaited.clear();
    }

    fn ask(&mut self, world: &World, commands: Vec<Command>) {
        let (client, call, now) = (self.id, world.moment(), world.seconds.get());
        for command in commands {
            command.write_to(&mut self.to_send);
            let first = self.ledger.len();
            let asked = command.asked.clone();
            let (answer, unique, end, clock) = (None, None, u64::MAX, (now, now));
            let operation =
                Operation { client, call, end, asked, answer, unique, clock };
            let keys = command.of_keys().into_iter();
            self.ledger.extend(keys.map(|key| (key, operation.clone())));
            self.awaited.push_back((command, first));
        }
    }

    fn send(&mut self, world: &World) -> io::Result<()> {
        let mut stream = self.stream.as_ref().expect("it is connected");
        let all = self.to_send.len();
        let piece = if world.once_in(2) { all } else { 1 + world.below(all) };
        let count = stream.write(&self.to_send[..piece])?;
        self.to_send.drain(..count);
        Ok(())
    }

    fn receive(&mut self, world: &World, life: &Life) -> io::Result<()> {
        let mut stream = self.stream.as_ref().expect("it is connected");
        let mut piece = vec![0; 1 << world.below(18)];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::Error::other("the server has closed the connection"));
        }
        self.received.extend_from_slice(&piece[..count]);
        while let Some(at) = self.awaited.iter().position(|(it, _)| !it.noreply) {
            let mut left = &self.received[..];
            let answers = match self.awaited[at].0.read_answers(&mut left) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                answers => answers?,
            };
            let used = self.received.len() - left.len();
            self.received.drain(..used);
            // Those before it are done as well, in their order.
            for (command, first) in self.awaited.drain(..=at).collect::<Vec<_>>() {
                let silent = (SILENT.to_owned(), None);
                let told = if command.noreply { vec![silent] } else { answers.clone() };
                for (place, answer) in told.into_iter().enumerate() {
                    self.answered(first + place, answer, world, life)?;
                }
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        place: usize,
        (answer, unique): Answer,
        world: &World,
        life: &Life,
    ) -> io::Result<()> {
        // Nobody knows whether it will have been done in the end.
        let is_error = answer.starts_with("SERVER_ERROR");
        if is_error || (answer == SILENT && life.has_failed()) {
            return Err(io::Error::other(answer));
        }
        let (key, operation) = &mut self.ledger[place];
        operation.end = world.moment();
        operation.clock.1 = world.seconds.get();
        if let (Some(key), Some(unique)) = (*key, unique) {
            self.maker.uniques[key] = unique;
        }
        (operation.answer, operation.unique) = (Some(answer), unique);
        Ok(())
    }
}

/// Plays one seed. Returns a number that stands for all that happened.
fn simulate(seed: u64) -> Result<u64> {
    let world = Rc::new(World::new(seed));
    PLAYED.set(Some(world.clone()));
    let played = world.play();
    PLAYED.set(None);
    played.map_err(|why| {
        format!("seed {seed}: {why}\nPlay it again: SEED={seed} make simulate")
    })?;
    let mut hasher = DefaultHasher::new();
    for client in &world.clients {
        format!("{:?}", client.borrow().ledger).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn parameter(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_at_whatever_step_what_was_told_holds() {
    let first = parameter("SEED").unwrap_or(1);
    let end = parameter("SEEDS").map_or(u64::MAX, |seeds| first + seeds);
    let until = Instant::now() + SHORT_RUN;
    let next = AtomicU64::new(first);
    let play = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= end || (end == u64::MAX && Instant::now() > until) {
                return Ok(());
            }
            simulate(seed).inspect_err(|_| next.store(end, Relaxed))?;
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let playing: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        playing.into_iter().map(|it| it.join().expect("a panic was printed")).collect()
    });
    println!("{} seeds", next.into_inner().min(end) - first);
    results.into_iter().for_each(|result| result.unwrap_or_else(|why| panic!("{why}")));
}

/// Where nobody says how many seeds are played.
const SHORT_RUN: Duration = Duration::from_secs(6);

#[test]
fn a_seed_determines_all_that_happens() {
    for seed in 1..20 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}

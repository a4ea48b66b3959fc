//! The torture run: real servers under load, killed again and again, and every answer
//! that they gave is judged.
//!
//! A round has a fresh directory, and settings drawn from its seed. Several servers live
//! on that directory, one after another, and each is killed with SIGKILL: after some
//! answers, while it compacts or when it has just ended that, when a miss may show a
//! delete that nobody has acknowledged yet, or on the way to listening. Clients work on a
//! few keys that they share, and continue with the next server. Each keeps a ledger of
//! what it requested and how that was answered. In the end the history of each key must be
//! linearizable, kills or not: see `common/linear.rs`.
//!
//! A server begins a compaction when its log has 64 MiB of garbage, which no life here is
//! long enough for. So between two lives, one is begun on the same files and stopped at one
//! of its calls to the disk; the next server resumes it under load.
//!
//! `make torture ROUNDS=1000 SEED=1` is the long run. The second round has the next seed,
//! and so on; a round that fails prints its own, and leaves its directory behind. A seed
//! determines settings, requests and what a kill waits for, but not how threads
//! interleave: it may take some tries until it fails again.

mod common;

use common::disk::{Call, Faulty, How};
use common::linear::{Asked, Operation, SILENT};
use common::requests::{Command, Ledger, Maker, judge};
use common::stream::Ingredients;
use common::verbs::Verbs;
use common::{Server, TempDir, connect};
use memcached_lite::driver::random::Random;
use memcached_lite::os::unix_now;
use memcached_lite::store::log::file_name;
use memcached_lite::store::record::IntOrder;
use memcached_lite::store::{Options, Session, Settings};
use std::env;
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[test]
fn no_kill_takes_back_what_anybody_was_told() {
    let first = parameter("SEED", 1);
    for seed in first..first + parameter("ROUNDS", SHORT_RUN) {
        let mut round = Round::new(seed);
        if let Err(why) = round.play() {
            panic!("{why}");
        }
        println!("{}", round.summary());
    }
}

/// Rounds of the short run: some seconds.
const SHORT_RUN: u64 = 15;

fn parameter(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// A server is killed after so many answers, whatever else is waited for.
const LONGEST_LIFE: u64 = 3000;

/// The longest time from a server's start to a kill that does not wait for it to
/// listen, in microseconds.
const LONGEST_START: usize = 6_000;

/// Items that no client asks for, so that a compaction has something to copy, and the
/// length of their values: it takes some tens of milliseconds, in either build.
const FILLERS: u8 = 25;
const FILLER_LEN: usize = if cfg!(debug_assertions) { 20_000 } else { 400_000 };

/// A compaction has about so many calls to the disk.
const CALLS: usize = 40;

struct Round {
    seed: u64,
    random: Random,
    /// `None` once it is kept for inspection.
    directory: Option<TempDir>,
    /// The servers'.
    options: Vec<String>,
    /// Those of the data.
    settings: Settings,
    keys: usize,
    /// All moments come from here.
    clock: Arc<AtomicU64>,
    /// The first one reads all keys after each start; the others work.
    clients: Vec<Client>,
    kills: Vec<&'static str>,
}

impl Round {
    fn new(seed: u64) -> Round {
        let mut random = Random::new(seed);
        let mut options = Vec::new();
        let mut option = |name: &str, values: &[&'static str]| {
            let value = values[random.below(values.len())];
            options.extend([name.to_owned(), value.to_owned()]);
            value
        };
        option("--sync", &["always", "every-second"]);
        option("--threads", &["2", "3", "4"]);
        let settings = Settings {
            key_size: option("--key-size", &["2", "20", "250"]).parse().ok(),
            int_size: option("--int-size", &["3", "4", "8"]).parse().ok(),
            int_order: Some(match option("--int-order", &["big", "little"]) {
                "big" => IntOrder::Big,
                _ => IntOrder::Little,
            }),
        };
        let keys = random.between(2, 8);
        let longest = [50, 1_000, 30_000, 60_000][random.below(4)];
        let depth = [1, 1, 3, 6][random.below(4)];
        // A flush that is not one moment shows in a get of several keys at that time.
        let (keys, flushes, reads) = [(keys, 60, 6), (8, 6, 2)][random.below(2)];
        let clients = (0..=random.between(3, 6)).map(|number| {
            let maker = Maker::new(Random::new(random.bits()), number, keys);
            let maker = Maker { longest, depth, flushes, reads, ..maker };
            Client { maker, ledger: Ledger::new() }
        });
        Round {
            seed,
            clients: clients.collect(),
            directory: Some(TempDir::new()),
            options,
            settings,
            keys,
            clock: Arc::default(),
            kills: Vec::new(),
            random,
        }
    }

    fn data(&self) -> &Path {
        self.directory.as_ref().expect("not given away yet").path()
    }

    fn play(&mut self) -> Result<(), String> {
        for _ in 0..self.random.between(2, 4) {
            while self.random.below(10) < 3 {
                self.kill_at_start();
            }
            self.live();
        }
        self.start();
        judge(self.keys, self.clients.iter().flat_map(|client| &client.ledger))
    }

    /// Starts a server and kills it on its way, or when it has just begun to listen.
    fn kill_at_start(&mut self) {
        let after = Duration::from_micros(self.random.below(LONGEST_START) as u64);
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let mut server = Server::spawn_on(self.data(), &options);
        let listens = server.says("Server: Listening on ", after);
        server.kill();
        self.kills.push(if listens { "listening" } else { "starting" });
    }

    /// Starts a server, and reads all keys before anybody can write over what is there.
    fn start(&mut self) -> Life {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let server = Server::start_on(self.data(), &options);
        let life = Life::new(server, self.clock.clone(), self.keys);
        let mut stream = BufReader::new(connect(life.addr).expect("it listens"));
        let keys = (0..self.keys).collect();
        let reads = [Command::of(keys, Asked::Gets)];
        let read = self.clients[0].exchange(&mut stream, &reads, &life);
        read.expect("it answers");
        life
    }

    /// Begins a compaction, and stops at one of its calls to the disk: at a random one, or
    /// when it has made its new file. The directory has no server now.
    fn interrupt_compaction(&mut self, is_random: bool) {
        let options = Options { settings: self.settings, ..Options::default() };
        let (disk, now) = (Faulty::new(self.data()), unix_now());
        let (store, _) = disk.open(&options, now).expect("open");
        let mut session = Session::at(now);
        for filler in 0..FILLERS {
            let value = vec![filler; FILLER_LEN];
            store.set(&mut session, &[b'f', filler + 100], 0, 0, &value).expect("set");
        }
        store.settle(&session).expect("commit");
        match is_random {
            true => disk.fail(Call::ALL, self.random.below(CALLS), How::Stop),
            // Where two files are there, one compaction is finished before.
            false => {
                let before = store.figure("log_generations") as usize - 1;
                disk.fail(&[Call::SyncDir], before, How::Stop);
            }
        }
        // It may have ended before.
        let _ = store.compact(&unix_now);
    }

    /// A server's life under load.
    fn live(&mut self) {
        let kill = self.random.below(4);
        if kill >= 2 {
            let is_random = kill == 2 && self.random.below(2) == 0;
            self.interrupt_compaction(is_random);
        }
        let mut life = self.start();
        let oldest = (1..).find(|&number| self.file(number).exists()).expect("a file");
        // Short lives as often as long ones.
        let most = 1 << self.random.between(2, 10);
        let some = (self.keys + self.random.between(1, most)) as u64;
        let few = self.random.below(20) as u64;
        let name;
        (name, life.cue, life.from, life.after) = match kill {
            0 => ("answered", Cue::Answer, some, 0),
            1 => ("overtaken", Cue::Unfinished, some, 0),
            2 => ("resumed", Cue::Answer, few, 0),
            _ if self.file(oldest + 1).exists() => {
                ("compacted", Cue::Goes(self.file(oldest)), 0, few)
            }
            _ => ("compacted", Cue::Answer, few, 0),
        };
        thread::scope(|scope| {
            for client in &mut self.clients[1..] {
                scope.spawn(|| client.work(&life));
            }
        });
        assert!(life.is_over(), "the server has ended by itself");
        self.kills.push(if life.is_long() { "at last" } else { name });
        // What has no answer by now happened before this moment or never does.
        let (ended, now) = (life.tick(), unix_now());
        let all = self.clients.iter_mut().flat_map(|client| &mut client.ledger);
        for (_, operation) in all.filter(|(_, operation)| operation.end == u64::MAX) {
            (operation.end, operation.clock.1) = (ended, now);
        }
    }

    fn file(&self, generation: u64) -> PathBuf {
        self.data().join(file_name(generation))
    }

    fn summary(&self) -> String {
        let operations: usize = self.clients.iter().map(|c| c.ledger.len()).sum();
        format!(
            "seed {}: {}; {} clients, {} keys, {operations} operations, killed {}",
            self.seed,
            self.options.join(" "),
            self.clients.len() - 1,
            self.keys,
            self.kills.join(", ")
        )
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!(
                "{}
its data: {}",
                self.summary(),
                directory.keep().display()
            );
        }
    }
}

/// What is waited for before a server is killed.
enum Cue {
    /// An answer, whichever.
    Answer,
    /// The end of this file: compaction is over.
    Goes(PathBuf),
    /// A miss, while a delete or flush of the key has no answer yet.
    Unfinished,
}

/// A server, and when it is to be killed.
struct Life {
    addr: SocketAddr,
    server: Mutex<Server>,
    clock: Arc<AtomicU64>,
    cue: Cue,
    /// The cue counts from this answer on ...
    from: u64,
    /// ... and so many answers after it comes the kill.
    after: u64,
    /// Answers that there have been.
    answers: AtomicU64,
    /// At this answer it is killed.
    kill_at: AtomicU64,
    /// For each key, how many deletes and flushes have no answer yet.
    removing: Vec<AtomicU64>,
}

impl Life {
    /// Nothing is waited for yet.
    fn new(server: Server, clock: Arc<AtomicU64>, keys: usize) -> Life {
        Life {
            addr: server.addr,
            server: Mutex::new(server),
            clock,
            cue: Cue::Answer,
            from: u64::MAX,
            after: 0,
            answers: AtomicU64::new(0),
            kill_at: AtomicU64::new(LONGEST_LIFE),
            removing: (0..keys).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    /// The counters that a request belongs to.
    fn removing(&self, key: Option<usize>, asked: &Asked) -> &[AtomicU64] {
        match (asked, key) {
            (Asked::Delete, Some(key)) => &self.removing[key..=key],
            (Asked::FlushAll(_), _) => &self.removing,
            _ => &[],
        }
    }

    fn asked(&self, key: Option<usize>, asked: &Asked) {
        for counter in self.removing(key, asked) {
            counter.fetch_add(1, SeqCst);
        }
    }

    /// The client with the last answer kills the server at once: the less time that has,
    /// the less it can make up for.
    fn answered(&self, key: Option<usize>, asked: &Asked, answer: &str) {
        for counter in self.removing(key, asked) {
            counter.fetch_sub(1, SeqCst);
        }
        let count = self.answers.fetch_add(1, SeqCst) + 1;
        let is_cue = || match (&self.cue, key) {
            (Cue::Answer, _) => true,
            (Cue::Goes(file), _) => !file.exists(),
            (Cue::Unfinished, Some(key)) => {
                answer == "END" && self.removing[key].load(SeqCst) > 0
            }
            (Cue::Unfinished, None) => false,
        };
        if count >= self.from && is_cue() {
            self.kill_at.fetch_min(count + self.after, SeqCst);
        }
        if self.is_over() {
            self.server.lock().expect("nobody has panicked").kill();
        }
    }

    fn is_over(&self) -> bool {
        self.answers.load(SeqCst) >= self.kill_at.load(SeqCst)
    }

    /// Whether its cue has never come.
    fn is_long(&self) -> bool {
        self.kill_at.load(SeqCst) == LONGEST_LIFE
    }
}

struct Client {
    /// Of what it asks.
    maker: Maker,
    ledger: Ledger,
}

impl Client {
    /// Works until the server is gone.
    fn work(&mut self, life: &Life) {
        let served = connect(life.addr).and_then(|stream| {
            let mut stream = BufReader::new(stream);
            loop {
                let commands = self.maker.commands();
                self.exchange(&mut stream, &commands, life)?;
            }
        });
        let error: io::Error = match served {
            Ok(never) => never,
            Err(error) => error,
        };
        let late = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        assert!(!late.contains(&error.kind()), "no answer in time");
    }

    /// Sends the commands in one write, and takes the answers into the ledger.
    fn exchange(
        &mut self,
        stream: &mut BufReader<TcpStream>,
        commands: &[Command],
        life: &Life,
    ) -> io::Result<()> {
        let mut sent = Vec::new();
        let first = self.ledger.len();
        let (client, call, now) = (self.maker.number, life.tick(), unix_now());
        for command in commands {
            command.write_to(&mut sent);
            for key in command.of_keys() {
                life.asked(key, &command.asked);
                let (asked, answer, unique) = (command.asked.clone(), None, None);
                let (end, clock) = (u64::MAX, (now, now));
                let operation =
                    Operation { client, call, end, asked, answer, unique, clock };
                self.ledger.push((key, operation));
            }
        }
        stream.get_mut().write_all(&sent)?;
        let mut answers = Vec::new();
        for command in commands {
            match command.noreply {
                true => answers.push((SILENT.to_owned(), None)),
                false => answers.extend(command.read_answers(stream)?),
            }
            // Those that wanted none are done when a later one is.
            if command.noreply {
                continue;
            }
            let open = &mut self.ledger[first..];
            let open = open.iter_mut().filter(|(_, it)| it.answer.is_none());
            for ((key, operation), (answer, unique)) in open.zip(answers.drain(..)) {
                (operation.end, operation.clock.1) = (life.tick(), unix_now());
                life.answered(*key, &operation.asked, &answer);
                operation.answer = Some(answer);
                operation.unique = unique;
                if let (Some(key), Some(unique)) = (*key, unique) {
                    self.maker.uniques[key] = unique;
                }
            }
        }
        Ok(())
    }
}

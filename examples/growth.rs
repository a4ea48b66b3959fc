//! What a store costs when it is large or busy: memory, a start, room on the disk, and
//! gets while it is compacted.
//!
//! `cargo run --release --example growth -- [KEYS]`: with so many keys memory and start
//! alone, otherwise all, with a million.
//!
//! | figure | is |
//! |---|---|
//! | memory | resident memory of the server with all keys, less that of an empty one |
//! | start | from the start of the process to the line that says it listens, median |
//! | disk | length of the data files while 1,000 keys are overwritten 10 million times |
//! | compaction | 99th percentile of a get while it runs, and when it is over, medians |
//!
//! Keys have 16 bytes, values 50. If there is a `redis-server` on the PATH, it is given
//! the same keys, with its append-only file, and started in turn with ours.

use memcached_lite::bench::items::Items;
use memcached_lite::client::{Client, Options};
use memcached_lite::programs;
use memcached_lite::protocol::Topic;
use std::error::Error;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// How often gets are timed beside a compaction.
const ROUNDS: usize = 5;

/// How often each server is started.
const STARTS: usize = 5;

/// Requests to a batch.
const BATCH: usize = 1000;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).peekable();
    // What it starts itself as.
    if arguments.next_if(|word| word == "server").is_some() {
        return programs::server(arguments);
    }
    let directory = env::temp_dir().join(format!("growth-{}", process::id()));
    let result = measure(&directory, arguments.next());
    let _ = fs::remove_dir_all(&directory);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("growth: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(directory: &Path, keys: Option<OsString>) -> Result {
    fs::create_dir(directory)?;
    if let Some(text) = keys {
        let keys = text.to_str().and_then(|text| text.parse().ok());
        let keys = keys
            .filter(|keys| (1..=10_000_000).contains(keys))
            .ok_or("KEYS is a number from 1 to 10000000")?;
        return memory_and_start(directory, keys);
    }
    memory_and_start(directory, 1_000_000)?;
    disk(directory)?;
    compaction(directory)
}

/// A server of ours, killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(data: &Path) -> Result<Server> {
        let mut child = Command::new(env::current_exe()?)
            .args(["server", "--port", "0", "--threads", "2"])
            .args(["--sync", "every-second", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("a server without output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim_end_matches(['.', '\n']).rsplit(' ').next();
        let address = address.unwrap_or_default().to_owned();
        Ok(Server { child, address })
    }

    fn client(&self) -> Result<Client> {
        let address = self.address.clone();
        Ok(Client::connect(&Options { address, ..Options::default() })?)
    }

    fn resident_bytes(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.ok_or("no VmRSS")?.parse::<f64>()? * 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sets these keys, a batch at a time.
fn set(address: &str, items: &Items, numbers: impl Iterator<Item = usize>) -> Result {
    let mut stream = TcpStream::connect(address)?;
    let mut numbers = numbers.peekable();
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    while numbers.peek().is_some() {
        requests.clear();
        let mut count = 0;
        for number in numbers.by_ref().take(BATCH) {
            items.write_set(number, false, &mut requests);
            count += 1;
        }
        stream.write_all(&requests)?;
        replies.resize(count * items.stored().len(), 0);
        stream.read_exact(&mut replies)?;
        if replies != items.stored().repeat(count) {
            return Err(format!("not stored: {}", replies.escape_ascii()).into());
        }
    }
    Ok(())
}

fn memory_and_start(directory: &Path, keys: usize) -> Result {
    let data = directory.join("start");
    let items = Items::new(keys, 16, 50);
    let server = Server::start(&data)?;
    let empty = server.resident_bytes()?;
    set(&server.address, &items, 0..keys)?;
    let bytes = (server.resident_bytes()? - empty) / keys as f64;
    println!("memory      {bytes:.0} bytes a key, {keys} keys");
    drop(server);
    let redis = Redis::fill(directory, keys)?;
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let server = Server::start(&data)?;
        ours.push(begun.elapsed());
        let items = server.client()?.stats(Topic::General)?;
        if !items.contains(&("curr_items".into(), keys.to_string())) {
            return Err("keys are missing after a start".into());
        }
        drop(server);
        if let Some(redis) = &redis {
            others.push(redis.load()?);
        }
    }
    ours.sort();
    others.sort();
    let ours = ours[STARTS / 2].as_secs_f64();
    print!("start       {ours:.2} s");
    match others.get(STARTS / 2).map(Duration::as_secs_f64) {
        Some(redis) => println!(", {:.2} of Redis, {redis:.2} s", ours / redis),
        None => println!(", and no redis-server to compare it with"),
    }
    Ok(())
}

/// A Redis with an append-only file.
struct Redis {
    directory: PathBuf,
    port: u16,
}

impl Redis {
    /// Makes the file; `None` where there is no Redis.
    fn fill(directory: &Path, keys: usize) -> Result<Option<Redis>> {
        let version = Command::new("redis-server").arg("--version").output();
        if version.is_err() {
            return Ok(None);
        }
        let directory = directory.join("redis");
        fs::create_dir(&directory)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let redis = Redis { directory, port };
        let mut child = redis.start()?;
        let items = Items::for_redis(keys, 16, 50);
        set(&redis.address(), &items, 0..keys)?;
        redis.shut_down(&mut child)?;
        Ok(Some(redis))
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it and waits until it has loaded its file.
    fn start(&self) -> Result<Child> {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--dir"])
            .arg(&self.directory)
            .stdout(Stdio::null())
            .spawn()?;
        let deadline = Instant::now() + Duration::from_secs(300);
        while Instant::now() < deadline {
            if let Ok(mut stream) = TcpStream::connect(self.address()) {
                let mut answer = String::new();
                stream.write_all(b"PING\r\n")?;
                BufReader::new(&stream).read_line(&mut answer)?;
                if answer == "+PONG\r\n" {
                    return Ok(child);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err("Redis does not start".into())
    }

    fn shut_down(&self, child: &mut Child) -> Result {
        TcpStream::connect(self.address())?.write_all(b"SHUTDOWN\r\n")?;
        child.wait()?;
        Ok(())
    }

    fn load(&self) -> Result<Duration> {
        let begun = Instant::now();
        let mut child = self.start()?;
        let took = begun.elapsed();
        self.shut_down(&mut child)?;
        Ok(took)
    }
}

/// Length of the data files, in MiB.
fn length(data: &Path) -> Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(data)? {
        // One that has just been removed has no length.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes as f64 / f64::from(1 << 20))
}

fn disk(directory: &Path) -> Result {
    let data = directory.join("disk");
    let items = Items::new(1000, 16, 50);
    let server = Server::start(&data)?;
    let done = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0.0;
            while !done.load(Relaxed) {
                most = f64::max(most, length(&data).unwrap_or(0.0));
                thread::sleep(Duration::from_micros(500));
            }
            most
        });
        let writers = [0, 1].map(|_| {
            let numbers = (0..5_000_000).map(|number| number % items.count);
            scope.spawn(|| {
                set(&server.address, &items, numbers).map_err(|error| error.to_string())
            })
        });
        let written = writers.map(|writer| writer.join().expect("a writer"));
        done.store(true, Relaxed);
        written.into_iter().collect::<std::result::Result<Vec<()>, _>>()?;
        Ok::<_, Box<dyn Error>>(sampler.join().expect("a sampler"))
    })?;
    // The janitor has had its rounds.
    thread::sleep(Duration::from_secs(3));
    let stats = server.client()?.stats(Topic::General)?;
    let live = stats.iter().find(|(name, _)| name == "bytes").ok_or("no bytes")?;
    let live = live.1.parse::<f64>()? / f64::from(1 << 20);
    let rest = length(&data)?;
    println!("disk        {rest:.1} MiB at rest, {most:.1} at most, {live:.2} live");
    Ok(())
}

fn compaction(directory: &Path) -> Result {
    const KEYS: usize = 1000;
    const VALUE: usize = 640_000;
    let data = directory.join("compaction");
    let items = Items::new(KEYS, 16, VALUE);
    let server = Server::start(&data)?;
    set(&server.address, &items, 0..KEYS)?;
    let mut busy = Vec::new();
    let mut quiet = Vec::new();
    for _ in 0..ROUNDS {
        // Once more as much as there is to keep, and a little, begins a compaction.
        set(&server.address, &items, (0..KEYS + 10).map(|number| number % KEYS))?;
        let [during, after] = compaction_round(&server)?;
        busy.push(during);
        quiet.push(after);
    }
    let mut ratios: Vec<f64> = busy.iter().zip(&quiet).map(|(b, q)| b / q).collect();
    let [busy, quiet, ratio] = [&mut busy, &mut quiet, &mut ratios].map(|figures| {
        figures.sort_by(f64::total_cmp);
        figures[ROUNDS / 2]
    });
    let moved = (KEYS * VALUE) >> 20;
    println!(
        "compaction  p99 of a get {busy:.0} us while {moved} MiB are moved, \
         {quiet:.0} us without, median ratio {ratio:.2}"
    );
    Ok(())
}

/// The 99th percentile of a get in microseconds while a compaction runs, and for as many
/// gets when it is over.
fn compaction_round(server: &Server) -> Result<[f64; 2]> {
    let mut client = server.client()?;
    let mut probe = server.client()?;
    probe.set("small", [b'v'; 50], 0, 0)?;
    let (mut busy, mut quiet) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while busy.is_empty() || quiet.len() < busy.len() {
        let stats = client.stats(Topic::General)?;
        let is_busy = stats.contains(&("log_generations".into(), "2".into()));
        for _ in 0..100 {
            let begun = Instant::now();
            probe.get("small")?.ok_or("a key is missing")?;
            let times = if is_busy { &mut busy } else { &mut quiet };
            times.push(begun.elapsed());
        }
        if busy.is_empty() {
            quiet.clear();
        }
        if Instant::now() > deadline {
            return Err("no compaction came".into());
        }
    }
    Ok([busy, quiet].map(|mut times| {
        times.sort();
        times[times.len() * 99 / 100].as_secs_f64() * 1e6
    }))
}

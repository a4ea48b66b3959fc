//! What a store costs when it is large or busy: memory, a start, the disk, and gets while
//! it is compacted.
//!
//! `cargo run --release --example growth -- [KEYS]`: with so many keys memory and start
//! alone, with `upkeep` disk and compaction alone, otherwise everything, with a million.
//!
//! | figure | is |
//! |---|---|
//! | memory | resident memory of the server with all keys, less that of an empty one |
//! | start | from the start of the process to the line that says it listens, median |
//! | disk | length of the data files while 1,000 keys are overwritten 10 million times |
//! | compaction | 99th percentile of a get while it runs, and after it, medians |
//!
//! Keys have 16 bytes, values 50, and the server runs with `--sync every-second`. If there
//! is a `redis-server` on the PATH, it is given the same keys, with its append-only file,
//! and started in turn with ours.

#[path = "bench/items.rs"]
#[allow(dead_code, reason = "parts are for the benchmark")]
mod items;
#[path = "bench/target.rs"]
#[allow(dead_code, reason = "parts are for the benchmark")]
mod target;

use items::Items;
use memcached_lite::client::{Client, Options};
use memcached_lite::protocol::Topic;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};
use target::{Directory, Process, Result, memory, store};

/// How often gets are timed beside a compaction.
const ROUNDS: usize = 5;

/// How often each server is started.
const STARTS: usize = 5;

/// A MiB, in bytes.
const MIB: f64 = 1_048_576.0;

fn main() -> Result {
    let directory = Directory::new()?;
    let argument = env::args().nth(1);
    let is_upkeep = argument.as_deref() == Some("upkeep");
    let keys = argument.filter(|_| !is_upkeep).map(|text| {
        let keys = text.parse().ok().filter(|keys| (1..=10_000_000).contains(keys));
        keys.ok_or("KEYS is `upkeep` or a number from 1 to 10000000")
    });
    if let Some(keys) = keys {
        return memory_and_start(&directory.0, keys?);
    }
    if !is_upkeep {
        memory_and_start(&directory.0, 1_000_000)?;
    }
    disk(&directory.0)?;
    compaction(&directory.0)
}

/// A server of ours, killed when dropped.
struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start(data: &Path) -> Result<Server> {
        let mut command = target::server(data)?;
        command.args(["--threads", "2", "--sync", "every-second"]);
        let (process, address) = target::start(&mut command)?;
        Ok(Server { process, address })
    }

    fn client(&self) -> Result<Client> {
        let address = self.address.to_string();
        Ok(Client::connect(&Options { address, ..Options::default() })?)
    }

    /// Resident memory, in bytes.
    fn memory(&self) -> f64 {
        memory(Some(self.process.0.id())) * MIB
    }
}

/// One of the server's statistics.
fn stat(client: &mut Client, name: &str) -> Result<f64> {
    let stats = client.stats(Topic::General)?;
    let stat = stats.into_iter().find(|(found, _)| found == name);
    Ok(stat.ok_or_else(|| format!("no statistic {name}"))?.1.parse()?)
}

fn memory_and_start(directory: &Path, keys: usize) -> Result {
    let data = directory.join("start");
    let items = Items::new(keys, 16, 50);
    let server = Server::start(&data)?;
    let empty = server.memory();
    store(server.address, &items, 0..keys)?;
    let bytes = (server.memory() - empty) / keys as f64;
    println!("memory      {bytes:.0} bytes a key, {keys} keys");
    drop(server);
    let redis = Redis::fill(directory, items)?;
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let server = Server::start(&data)?;
        ours.push(begun.elapsed());
        if stat(&mut server.client()?, "curr_items")? != keys as f64 {
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
}

impl Redis {
    /// Makes the file; `None` where there is no Redis.
    fn fill(directory: &Path, items: Items) -> Result<Option<Redis>> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            return Ok(None);
        }
        let redis = Redis { directory: directory.join("redis") };
        let (process, address) = target::redis(&redis.directory)?;
        let keys = 0..items.count;
        store(address, &items.for_redis("every-second"), keys)?;
        shut_down(process, address)?;
        Ok(Some(redis))
    }

    fn load(&self) -> Result<Duration> {
        let begun = Instant::now();
        let (process, address) = target::redis(&self.directory)?;
        let took = begun.elapsed();
        shut_down(process, address)?;
        Ok(took)
    }
}

fn shut_down(mut process: Process, address: SocketAddr) -> Result {
    TcpStream::connect(address)?.write_all(b"SHUTDOWN\r\n")?;
    process.0.wait()?;
    Ok(())
}

/// Length of the data files, in MiB.
fn length(data: &Path) -> Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(data)? {
        // One that has just been removed has no length.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes as f64 / MIB)
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
        let write = || store(server.address, &items, 0..5_000_000);
        let written = [scope.spawn(write), scope.spawn(write)]
            .map(|writer| writer.join().expect("a writer panicked"));
        done.store(true, Relaxed);
        let most = sampler.join().expect("the sampler panicked");
        written.into_iter().collect::<Result<Vec<()>>>().map(|_| most)
    })?;
    // A compaction that is due now begins within a second.
    let mut client = server.client()?;
    thread::sleep(Duration::from_secs(3));
    while stat(&mut client, "log_generations")? > 1.0 {
        thread::sleep(Duration::from_millis(100));
    }
    let live = stat(&mut client, "bytes")? / MIB;
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
    store(server.address, &items, 0..KEYS)?;
    let (mut busy, mut quiet) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let [during, after] = compaction_round(&server, &items)?;
        busy.push(during);
        quiet.push(after);
    }
    let mut ratios: Vec<f64> = busy.iter().zip(&quiet).map(|(b, q)| b / q).collect();
    let [busy, quiet, ratio] = [&mut busy, &mut quiet, &mut ratios].map(|figures| {
        figures.sort_by(f64::total_cmp);
        figures[ROUNDS / 2]
    });
    let scatter = (ratios[ROUNDS - 1 - ROUNDS / 4] - ratios[ROUNDS / 4]) / ratio * 50.0;
    let copied = (KEYS * VALUE) >> 20;
    println!(
        "compaction  p99 of a get {busy:.0} us while {copied} MiB are copied, \
         {quiet:.0} us without, median ratio {ratio:.2} +- {scatter:.1} %"
    );
    Ok(())
}

/// The 99th percentile of a get in microseconds while a compaction runs, and for as many
/// gets after it.
fn compaction_round(server: &Server, items: &Items) -> Result<[f64; 2]> {
    let mut client = server.client()?;
    let mut probe = server.client()?;
    probe.set("small", [b'v'; 50], 0, 0)?;
    let mut is_compacting = || stat(&mut client, "log_generations").map(|n| n > 1.0);
    // A compaction begins when there is enough garbage.
    let mut number = 0;
    while !is_compacting()? {
        if number > 10 * items.count {
            return Err("no compaction has begun".into());
        }
        store(server.address, items, number..number + 10)?;
        number += 10;
    }
    let (mut busy, mut quiet) = (Vec::new(), Vec::new());
    while busy.is_empty() || quiet.len() < busy.len() {
        let times = if is_compacting()? { &mut busy } else { &mut quiet };
        for _ in 0..100 {
            let begun = Instant::now();
            probe.get("small")?.ok_or("a key is missing")?;
            times.push(begun.elapsed());
        }
    }
    Ok([busy, quiet].map(|mut times| {
        times.sort();
        times[times.len() * 99 / 100].as_secs_f64() * 1e6
    }))
}

//! The benchmark: how many requests a second, how long each takes, and what CPU time the
//! server needs for one. `cargo run --release --example bench -- --help`
//!
//! | module | what it owns |
//! |---|---|
//! | `items.rs` | keys, values, and the bytes of requests and replies |
//! | `target.rs` | the servers that are driven: processes, CPU time, memory |
//! | `echo.rs` | a server that does nothing, for comparison |
//! | `options.rs` | what is measured |
//! | `load.rs` | the load generator: connections in closed loops |
//! | `zipf.rs` | keys that are not equally popular |
//! | `slow.rs` | slow clients, around a load |
//! | `peers.rs` | what must be reached beside memcached and Redis |
//! | `hits.rs` | ours and memcached as caches: how many gets hit |
//! | `table.rs`, `chart.rs` | the figures, as text and as pictures |
//! | this one | the sweep |
//!
//! Every key is stored before anything is measured. Then each point of the sweep, a share
//! of sets with a number of connections, is one run for each server in each mode. With
//! several servers the runs come in pairs, each time in another order.
//!
//! Our own server is a child process, its data in the temporary directory. It runs with
//! `--sync every-second` unless the options after `--` say otherwise. They may name
//! another `--data DIR`, to have the data on another disk; what is there is flushed.
//!
//! What the figures do not say:
//!
//! - A closed loop requests no faster than it is answered. While a server stalls, the
//!   requests that other clients would have sent are not sent, and not counted as late
//!   (coordinated omission): percentiles are those of so many patient clients, and no
//!   statement about a given rate.
//! - The latency of a batch is that of its slowest reply. With many connections most of
//!   it is the queue: by Little's law, connections / throughput.
//! - Generator and server share the machine. For single requests the generator makes as
//!   many system calls as the server, on as many threads. Where cores are few, throughput
//!   says what both cost together, and only the CPU time and the ratios are the server's
//!   own. Where `gen` is far above `cpu`, the generator is what is measured.
//! - All is on the loopback interface, where a write by one process does the receiving
//!   for the other as well. The echo server pays the same.
//! - Compaction runs whenever the log of our server needs it, in some runs and not in
//!   others. Its CPU time is in the figures.
//! - CPU time comes in ticks of 10 ms. System calls are not counted; `strace -c -f` does
//!   that.

mod chart;
mod echo;
mod hits;
mod items;
mod load;
mod options;
mod peers;
mod slow;
mod table;
mod target;
mod zipf;

use memcached_lite::Failure;
use memcached_lite::args::program;
use memcached_lite::os::raise_descriptor_limit;
use options::{HELP, Load, Mode, Options};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};
use table::Run;
use target::{Directory, Result, Target};

/// Open files beside connections.
const OTHER_FILES: usize = 64;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1).peekable();
    // What it starts itself as, with the same options: `echo [FILE SYNC]`.
    let is_echo = words.next_if(|word| word == "echo").is_some();
    let mut word =
        || words.next_if(|word| is_echo && !word.as_encoded_bytes().starts_with(b"-"));
    let (file, sync) = (word(), word().unwrap_or_default());
    program("bench", HELP, words, |args| {
        let options = Options::parse(&args)?;
        let done = match is_echo {
            true => {
                let append = file.as_ref().map(Path::new).zip(sync.to_str());
                echo::serve(&options.items, options.load.threads, append)
            }
            false => sweep(&options),
        };
        done.map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Drives the servers through the sweep, prints the table and draws the charts.
fn sweep(options: &Options) -> Result {
    // The children inherit the limit.
    let wanted = options.most_connections() + OTHER_FILES;
    raise_descriptor_limit(wanted as u64).map_err(|possible| {
        format!("{wanted} open files are needed, `ulimit -Hn` is {possible}: raise it")
    })?;
    let directory = Directory::new()?;
    if options.is_peers {
        return peers::compare(options, &directory);
    }
    let targets = targets(options, &directory.0)?;
    if options.is_cache {
        return hits::compare(options, &targets);
    }
    let targets: Vec<&Target> = targets.iter().collect();
    table::print_header(options);
    let mut all = Vec::new();
    for &set in &options.sets {
        for &connections in &options.connections {
            let load = Load { set, connections, ..options.load.clone() };
            let runs = measure(options, &targets, &load)?;
            table::print_runs(&runs);
            all.extend(runs);
        }
    }
    if let Some(path) = &options.csv {
        let written = fs::write(path, table::to_csv(&options.sync, &all));
        written.map_err(|error| format!("can't write {}: {error}", path.display()))?;
    }
    // One point is no line.
    if options.connections.len() > 1 {
        table::draw(&all).map_err(|error| format!("can't draw the charts: {error}"))?;
    }
    Ok(())
}

/// Starts or connects to the servers; ours comes first.
fn targets(options: &Options, directory: &Path) -> Result<Vec<Target>> {
    let Options { items, against, redis, .. } = options;
    // Beside the connections that are measured there are those of the run before, or of
    // the request before, that are being closed.
    let limit = (2 * options.most_connections() + 16).to_string();
    let mut server = target::server(&directory.join("data"))?;
    server.args(["--conn-limit", &limit]).args(&options.server);
    let mut targets = vec![Target::ours(&mut server, items.clone())?];
    if let Some(address) = against {
        targets.push(Target::new("memcached", address, items.clone())?);
    } else if options.is_cache {
        let started = target::memcached(hits::MEMCACHED)?;
        targets.push(Target::started("memcached", started, items.clone())?);
    }
    if let Some(address) = redis {
        targets.push(Target::new(
            "Redis",
            address,
            items.clone().for_redis(&options.sync),
        )?);
    }
    if options.has_echo {
        targets.push(Target::echo(items.clone(), None)?);
    }
    if options.has_append {
        let append = (&*directory.join("append"), &options.sync[..]);
        targets.push(Target::echo(items.clone(), Some(append))?);
    }
    Ok(targets)
}

/// Drives all servers in all modes under this load, as often as there are pairs.
fn measure(options: &Options, targets: &[&Target], load: &Load) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for target in targets {
        for &mode in &options.modes {
            let load = Load { mode, ..load.clone() };
            runs.push((target, Run { server: target.name, load, figures: Vec::new() }));
        }
    }
    for pair in 0..options.pairs {
        for turn in 0..runs.len() {
            // Each pair has another order.
            let index = (pair + turn) % runs.len();
            let (target, Run { load, figures, .. }) = &mut runs[index];
            // All runs of a pair request the same.
            load.seed = options.load.seed.wrapping_add(pair as u64);
            let measure = || load::measure(target, load);
            let measured = match load.mode {
                Mode::Slow => slow::amid(target, options.slow_clients, measure),
                _ => measure(),
            };
            let Target { name, address, .. } = target;
            let failed = |error| format!("{name}, {address}: {error}");
            figures.push(table::figures(&measured.map_err(failed)?));
        }
    }
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

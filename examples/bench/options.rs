//! What is measured, as the command line describes it. `help.txt` lists the options.

use crate::items::Items;
use crate::zipf::Zipf;
use memcached_lite::args::{Args, SERVER};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The help, and the table by which options are parsed.
pub const HELP: &str = include_str!("help.txt");

/// How our server runs where the options after `--` don't say otherwise.
const SERVER_DEFAULTS: [&str; 4] = ["--sync", "every-second", "--threads", "2"];

/// Options of a user who is interested in one thing, and not in the whole sweep.
const ONE_THING: [&str; 7] =
    ["conns", "set", "pipeline", "reconnect", "redis", "slow-clients", "peers"];

/// What may be given beside `--cache`.
const CACHE: [&str; 10] = [
    "cache", "against", "conns", "keys", "key", "value", "zipf", "seed", "seconds",
    "pairs",
];

/// What is measured.
pub struct Options {
    /// Numbers of connections: a point of the sweep each.
    pub connections: Vec<usize>,
    /// Shares of sets among the requests, likewise.
    pub sets: Vec<f64>,
    /// What all points have in common.
    pub load: Load,
    /// Each server is driven in each of these.
    pub modes: Vec<Mode>,
    /// So many slow senders, and as many clients that do not read.
    pub slow_clients: usize,
    /// How often, at each point.
    pub pairs: usize,
    /// Keys and values.
    pub items: Items,
    /// `host:port` of a memcached.
    pub against: Option<String>,
    /// `host:port` of a Redis.
    pub redis: Option<String>,
    /// The echo server is driven, too, and the one that appends.
    pub has_echo: bool,
    pub has_append: bool,
    /// Nothing of the above, but the rows of `peers.rs`.
    pub is_peers: bool,
    /// No sweep, but how many gets hit.
    pub is_cache: bool,
    /// Where the figures of each run go.
    pub csv: Option<PathBuf>,
    /// Options of our server.
    pub server: Vec<OsString>,
    /// The sync mode among them.
    pub sync: String,
}

/// What is requested in one run, by how many connections, for how long.
#[derive(Clone)]
pub struct Load {
    /// In which way.
    pub mode: Mode,
    /// Connections that work at the same time.
    pub connections: usize,
    /// By which law keys are drawn; without one, all equally often.
    pub zipf: Option<Zipf>,
    /// No two connections request the same key.
    pub own_keys: bool,
    /// The share of sets among all requests, 0 to 1.
    pub set: f64,
    /// The share of sets that want no reply, below 1: of those alone, nobody would know
    /// when they are done.
    pub noreply: f64,
    /// Requests of a batch that have a reply, 1 or more.
    pub pipeline: usize,
    /// How long batches are begun.
    pub time: Duration,
    /// Threads that share the connections: as many as our server has. They have about
    /// the same to do, so that with fewer the generator would be what is measured.
    pub threads: usize,
    /// Determines all random choices.
    pub seed: u64,
}

/// What is special about a run.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// Nothing: connections are kept.
    Plain,
    /// With a connection for each request.
    Reconnect,
    /// Amid slow clients.
    Slow,
    /// Keys that are missing are stored.
    Cache,
}

impl Options {
    /// The error is one line.
    pub fn parse(args: &Args) -> Result<Options, String> {
        let server = SERVER_DEFAULTS.map(OsString::from).into_iter();
        let server: Vec<OsString> = server.chain(args.words.clone()).collect();
        let server_args = Args::parse("server", SERVER, server.clone())?;
        server_args.no_words()?;

        if args.has("peers")
            && let Some(other) = args.other_than(&["peers", "pairs", "seconds"])
        {
            return Err(format!("--peers takes --pairs and --seconds, not --{other}"));
        }
        if args.has("cache")
            && let Some(other) = args.other_than(&CACHE)
        {
            return Err(format!("--cache takes no --{other}"));
        }
        let load = load(args, server_args.number("threads", 1..=1024)?.unwrap_or(1))?;
        let set = args.number("set", 0.0..=1.0)?;
        let mut modes = vec![Mode::Plain];
        modes.extend(args.has("reconnect").then_some(Mode::Reconnect));
        modes.extend(args.has("slow-clients").then_some(Mode::Slow));
        let sync = server_args.text("sync").unwrap_or_default();
        let sync = if args.has("peers") { "of each row" } else { sync };
        let options = Options {
            connections: connections(args)?,
            sets: set.map_or(vec![1.0, 0.0, 0.5], |set| vec![set]),
            load,
            modes,
            slow_clients: args.number("slow-clients", 1..=10_000)?.unwrap_or(0),
            pairs: pairs(args)?,
            items: items(args)?,
            against: address(args, "against")?,
            redis: address(args, "redis")?,
            has_echo: args.has("echo"),
            has_append: args.has("append"),
            is_peers: args.has("peers"),
            is_cache: args.has("cache"),
            csv: args.text("csv").map(PathBuf::from),
            server,
            sync: sync.to_owned(),
        };
        options.check()?;
        Ok(options)
    }

    /// Rejects what can't go together.
    fn check(&self) -> Result<(), &'static str> {
        let has_noreply = self.load.noreply > 0.0;
        let has_reconnect = self.modes.contains(&Mode::Reconnect);
        if self.load.time.is_zero() {
            return Err("--seconds takes more than 0 seconds");
        }
        if has_reconnect && (has_noreply || self.load.pipeline > 1) {
            return Err("--reconnect takes no --pipeline and no --noreply");
        }
        if self.redis.is_some() && (has_reconnect || has_noreply) {
            return Err("--redis takes no --reconnect and no --noreply");
        }
        let has_echo = self.has_echo || self.has_append;
        if self.slow_clients > 0 && (self.redis.is_some() || has_echo) {
            return Err("--slow-clients takes no --redis, no --echo and no --append");
        }
        if self.load.own_keys && self.items.count < self.most_connections() {
            return Err("--own-keys takes at least one of the --keys for a connection");
        }
        Ok(())
    }

    /// The most connections that are open at the same time.
    pub fn most_connections(&self) -> usize {
        self.connections.iter().max().unwrap_or(&0) + 2 * self.slow_clients
    }
}

/// What all points of the sweep have in common.
fn load(args: &Args, threads: usize) -> Result<Load, String> {
    let is_sweep = !ONE_THING.iter().any(|name| args.has(name));
    let noreply = args.number("noreply", 0.0..=0.9)?;
    let (skew, count) = (args.number("zipf", 0.0..=5.0)?, items(args)?.count);
    let seconds = if pairs(args)? > 1 { 0.5 } else { 2.0 };
    Ok(Load {
        mode: Mode::Plain,
        connections: 0,
        zipf: skew.map(|skew| Zipf::new(count, skew)),
        own_keys: args.has("own-keys"),
        set: 0.0,
        noreply: noreply.unwrap_or(if is_sweep { 0.5 } else { 0.0 }),
        pipeline: args.number("pipeline", 1..=10_000)?.unwrap_or(1),
        time: args.seconds("seconds", Duration::from_secs_f64(seconds))?,
        threads,
        seed: args.number("seed", 0..=u64::MAX)?.unwrap_or(1),
    })
}

fn pairs(args: &Args) -> Result<usize, String> {
    let is_compared =
        ["against", "redis", "echo", "append"].iter().any(|name| args.has(name));
    let default = if is_compared || args.has("cache") { 5 } else { 1 };
    let default = if args.has("peers") { 10 } else { default };
    Ok(args.number("pairs", 1..=1000)?.unwrap_or(default))
}

fn items(args: &Args) -> Result<Items, String> {
    let count = args.number("keys", 1..=10_000_000)?.unwrap_or(10_000);
    let key_len = args.number("key", 1..=250)?.unwrap_or(10);
    let value_len = args.number("value", 0..=1 << 20)?.unwrap_or(50);
    if count > 10_usize.saturating_pow(key_len as u32) {
        return Err(format!("--keys {count} are too many for --key {key_len}"));
    }
    Ok(Items::new(count, key_len, value_len))
}

fn connections(args: &Args) -> Result<Vec<usize>, String> {
    let Some(list) = args.text("conns") else {
        return Ok((1..=8).map(|step| step * 50).collect());
    };
    let numbers = list.split(',').map(|text| {
        let number = text.parse().ok().filter(|number| (1..=50_000).contains(number));
        number.ok_or(format!("--conns takes numbers from 1 to 50000, not {text}"))
    });
    numbers.collect()
}

fn address(args: &Args, name: &str) -> Result<Option<String>, String> {
    let Some(address) = args.text(name) else { return Ok(None) };
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.ok_or(format!("--{name} takes HOST:PORT, not {address}"))?;
    Ok(Some(address.to_owned()))
}

//! The options of the three programs, parsed in one place.
//!
//! Each program has a table: an option's names, its value's name, what it is for. The
//! table is what is parsed by, and what `--help` prints. `--name VALUE`,
//! `--name=VALUE`, `-n VALUE` and `-nVALUE` are the same; options end at the first
//! word that is none, or at `--`.

use crate::bench;
use crate::client;
use crate::dialect::Dialect;
use crate::driver;
use crate::log::SyncMode;
use crate::random::Random;
use crate::record::{Format, IntOrder, MAX_VALUE};
use crate::server;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Exit code for a command line that makes no sense.
pub const EXIT_USAGE: u8 = 2;

/// An option of a program.
pub struct Spec {
    /// The long name, without its dashes.
    pub long: &'static str,
    /// The short name.
    pub short: Option<char>,
    /// What the value is called; empty if there is none.
    pub value: &'static str,
    /// What it is for.
    pub help: &'static str,
}

const fn spec(
    long: &'static str,
    short: Option<char>,
    value: &'static str,
    help: &'static str,
) -> Spec {
    Spec { long, short, value, help }
}

const HELP: Spec = spec("help", Some('h'), "", "print this and exit");
const VERSION: Spec = spec("version", Some('V'), "", "print the version and exit");

/// The options of `server`.
pub const SERVER: &[Spec] = &[
    spec("listen", Some('l'), "ADDR", "address to listen on [127.0.0.1, SERVER_HOST]"),
    spec("port", Some('p'), "NUM", "port, 0 for any that is free [11211, SERVER_PORT]"),
    spec("unix-socket", Some('s'), "PATH", "listen on this socket, not on a port"),
    spec("data", None, "DIR", "the data directory, made if there is none [./data]"),
    spec("key-size", None, "BYTES", "longest key, 1 to 65535, for new data [250]"),
    spec("int-size", None, "BYTES", "width of a value's size, 1 to 8, likewise [4]"),
    spec("int-order", None, "ORDER", "big or little, likewise [big]"),
    spec("sync", None, "MODE", "wait for the disk: always, or every-second [always]"),
    spec("threads", Some('t'), "NUM", "workers [the number of cores]"),
    spec("conn-limit", Some('c'), "NUM", "connections served at once [1024]"),
    spec("backlog", None, "NUM", "connections that wait for a free place [0]"),
    spec("max-item-size", Some('I'), "BYTES", "of key and value, 1k to 1g [1m]"),
    spec("idle-timeout", None, "SECS", "close connections idle for so long [0, never]"),
    spec(
        "request-timeout",
        None,
        "SECS",
        "close those stuck in a request [120]; 0, never",
    ),
    spec(
        "idle-exit",
        None,
        "SECS",
        "exit when nobody was connected so long [0, never]",
    ),
    spec(
        "auth-file",
        Some('Y'),
        "FILE",
        "only who is in it may come in: user:password",
    ),
    spec("insecure", None, "", "listen beyond loopback without --auth-file"),
    spec("dialect", None, "NAME", "memcached, lite or raw [memcached]"),
    spec("verbose", Some('v'), "", "tell of connections; -vv: of each request"),
    spec("check", None, "", "say what is in the data and what is damaged, and exit"),
    spec("repair", None, "", "make a new file of what can be read, and exit"),
    spec("compact", None, "", "write what lives into a new file, and exit"),
    HELP,
    VERSION,
];

/// The options of `client`.
pub const CLIENT: &[Spec] = &[
    spec("host", None, "ADDR", "where the server is [127.0.0.1, SERVER_HOST]"),
    spec("port", Some('p'), "NUM", "its port [11211, SERVER_PORT]"),
    spec("timeout", None, "SECS", "how long to wait for it [10]"),
    spec("retry", None, "SECS", "between attempts to connect [5]"),
    spec("auth-file", None, "FILE", "log in as its first line says, user:password"),
    spec("key-size", None, "BYTES", "longest key that is sent [250]"),
    spec(
        "dialect",
        None,
        "NAME",
        "memcached, lite or raw, as the server's [memcached]",
    ),
    spec("int-size", None, "BYTES", "for raw: the server's, 1 to 8 [4]"),
    spec("int-order", None, "ORDER", "for raw: the server's, big or little [big]"),
    spec("flags", None, "NUM", "flags of a value that is stored [0]"),
    spec("exptime", None, "SECS", "life of a value that is stored [0, for ever]"),
    spec("quote", None, "", "print each reply as one line in quotes, escaped"),
    spec("verbose", Some('v'), "", "tell how long each command took"),
    HELP,
    VERSION,
];

/// The options of `driver`.
pub const DRIVER: &[Spec] = &[
    spec("test", None, "NUM", "run this scenario"),
    spec("all", None, "", "run all of them"),
    spec("list", None, "", "list them"),
    spec("clients", None, "NUM", "so many clients in scenario 6 [10]"),
    spec("seed", None, "NUM", "play it with the same random numbers again"),
    spec("against", None, "ADDR", "drive the memcached at HOST:PORT, which is flushed"),
    spec(
        "redis",
        None,
        "ADDR",
        "also measure the Redis at HOST:PORT, which is flushed",
    ),
    spec("bench", None, "", "measure; words behind -- are options of our server"),
    spec("conns", None, "LIST", "connections at once, such as 50,400 [50,100 ... 400]"),
    spec("set", None, "RATIO", "share of sets, 0 to 1 [1, then 0, then 0.5]"),
    spec("noreply", None, "RATIO", "share of sets with noreply [0; in the sweep 0.5]"),
    spec("pipeline", None, "NUM", "requests that a connection sends at once [1]"),
    spec("reconnect", None, "", "also with a connection for each request"),
    spec("crowd", None, "NUM", "also amid NUM slow senders and NUM that never read"),
    spec("key", None, "BYTES", "length of a key [10]"),
    spec("value", None, "BYTES", "length of a value [50]"),
    spec("keys", None, "NUM", "how many there are [10000]"),
    spec("seconds", None, "SECS", "for each figure [2; 0.5 with more than one pair]"),
    spec("pairs", None, "NUM", "how often each [1; 5 with other servers]"),
    spec("echo", None, "", "also measure a server that only reads and writes"),
    HELP,
    VERSION,
];

/// The options of `driver echo`, which the driver starts itself as.
pub const ECHO: &[Spec] = &[
    spec("threads", None, "NUM", "threads [2]"),
    spec("key", None, "BYTES", "length of a key [10]"),
    spec("value", None, "BYTES", "length of a value [50]"),
    HELP,
    VERSION,
];

/// A command line, taken apart.
#[derive(Debug)]
pub struct Args {
    program: &'static str,
    values: HashMap<&'static str, String>,
    /// How often `-v` was given.
    pub verbosity: u8,
    /// What stands behind the options: bytes, as keys and values may have any.
    pub words: Vec<OsString>,
}

/// What a command line asks for.
pub enum Parsed {
    /// To run.
    Run(Args),
    /// To print this and exit: `--help`, `--version`.
    Print(String),
}

/// Takes a command line apart. The error is one line.
pub fn parse(
    program: &'static str,
    usage: &str,
    specs: &'static [Spec],
    args: impl IntoIterator<Item = OsString>,
) -> Result<Parsed, String> {
    let mut parsed =
        Args { program, values: HashMap::new(), verbosity: 0, words: Vec::new() };
    let mut args = args.into_iter();
    while let Some(word) = args.next() {
        if word == "--" {
            break;
        }
        let Some(arg) = option(&word)? else {
            parsed.words.push(word);
            break;
        };
        let (name, mut value) = if let Some(long) = arg.strip_prefix("--") {
            match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            }
        } else {
            let short = &arg[1..];
            let end = short.chars().next().map_or(0, char::len_utf8);
            let (name, value) = short.split_at(end);
            (name, (!value.is_empty()).then(|| value.to_owned()))
        };
        let is_long = arg.starts_with("--");
        let found = specs.iter().find(|spec| match is_long {
            true => spec.long == name,
            false => spec.short.is_some_and(|short| name.starts_with(short)),
        });
        let Some(spec) = found else {
            return Err(format!("unknown option {arg}; see {program} --help"));
        };
        match spec.long {
            "help" => return Ok(Parsed::Print(help(usage, specs))),
            "version" => {
                return Ok(Parsed::Print(
                    concat!("memcached-lite ", env!("CARGO_PKG_VERSION")).to_owned(),
                ));
            }
            // Also -vv.
            "verbose"
                if value.as_deref().is_none_or(|v| v.chars().all(|c| c == 'v')) =>
            {
                let more = value.map_or(0, |v| v.len().min(9) as u8);
                parsed.verbosity = parsed.verbosity.saturating_add(1 + more);
                parsed.values.insert(spec.long, String::new());
                continue;
            }
            _ => {}
        }
        if spec.value.is_empty() {
            if value.is_some() {
                return Err(format!("--{} takes no value: {arg}", spec.long));
            }
            value = Some(String::new());
        }
        let value = match value {
            Some(value) => value,
            None => match args.next() {
                Some(word) => text(&word)?.to_owned(),
                None => {
                    let Spec { long, value, .. } = spec;
                    return Err(format!("--{long} needs a value: {value}"));
                }
            },
        };
        parsed.values.insert(spec.long, value);
    }
    parsed.words.extend(args);
    Ok(Parsed::Run(parsed))
}

/// The text of a word that is an option, `None` of one that is not.
fn option(word: &OsStr) -> Result<Option<&str>, String> {
    if word == "-" || !word.as_encoded_bytes().starts_with(b"-") {
        return Ok(None);
    }
    text(word).map(Some)
}

fn text(word: &OsStr) -> Result<&str, String> {
    word.to_str().ok_or_else(|| format!("{} is not text", word.display()))
}

fn help(usage: &str, specs: &[Spec]) -> String {
    let mut text = format!("usage: {usage}\n\n");
    for spec in specs {
        let short = spec.short.map_or("   ".into(), |short| format!("-{short},"));
        let names = format!("{short} --{} {}", spec.long, spec.value);
        text += &format!("  {names:<30} {}\n", spec.help);
    }
    text.trim_end().to_owned()
}

impl Args {
    /// Whether the option was given.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The option's value, if it was given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The option's value, or that of a variable of the environment.
    pub fn text_or_env(&self, name: &str, variable: &str) -> Option<String> {
        self.text(name).map(str::to_owned).or_else(|| std::env::var(variable).ok())
    }

    /// The option's value as a number within `range`.
    pub fn number<N: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        range: RangeInclusive<N>,
    ) -> Result<Option<N>, String> {
        self.text(name).map(|text| in_range(name, text, range)).transpose()
    }

    /// The port: `--port`, or SERVER_PORT in the environment.
    pub fn port(&self, least: u16) -> Result<Option<u16>, String> {
        let text = self.text_or_env("port", "SERVER_PORT");
        text.map(|text| in_range("port", &text, least..=u16::MAX)).transpose()
    }

    /// The option's value in seconds, which may have a fraction.
    pub fn seconds(&self, name: &str) -> Result<Option<Duration>, String> {
        // A bound that keeps deadlines within what the clock can show.
        let seconds = self.number(name, 0.0..=1e9)?;
        Ok(seconds.map(Duration::from_secs_f64))
    }

    /// The option's value as one of these names.
    fn choice<T: Copy, const N: usize>(
        &self,
        name: &str,
        choices: [(&str, T); N],
    ) -> Result<Option<T>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let found = choices.iter().find(|(choice, _)| *choice == text);
        let Some((_, value)) = found else {
            let (last, others) = choices.split_last().expect("there is a choice");
            let others = others.iter().map(|(choice, _)| *choice);
            let others = others.collect::<Vec<_>>().join(", ");
            return Err(format!("--{name} is {others} or {}, not {text}", last.0));
        };
        Ok(Some(*value))
    }

    fn dialect(&self, format: Format) -> Result<Dialect, String> {
        let dialects = [
            ("memcached", Dialect::Memcached),
            ("lite", Dialect::Lite),
            ("raw", Dialect::Raw(format)),
        ];
        let chosen = self.choice("dialect", dialects)?;
        Ok(chosen.unwrap_or(Dialect::Memcached))
    }

    /// An error if words stand behind the options.
    pub fn no_words(&self) -> Result<(), String> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => {
                let word = word.display();
                Err(format!("{word} is no option; see {} --help", self.program))
            }
        }
    }
}

const INT_ORDERS: [(&str, IntOrder); 2] =
    [("big", IntOrder::Big), ("little", IntOrder::Little)];

fn in_range<N: FromStr + PartialOrd + Display>(
    name: &str,
    text: &str,
    range: RangeInclusive<N>,
) -> Result<N, String> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (least, most) = (range.start(), range.end());
            Err(format!("--{name} takes a number from {least} to {most}, not {text}"))
        }
    }
}

/// A size in bytes, with `k`, `m` or `g` behind it for its multiples.
fn size(name: &str, text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 1 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        _ => (&lower[..], 1),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(unit));
    bytes
        .filter(|bytes| (1 << 10..=MAX_VALUE).contains(bytes))
        .ok_or_else(|| format!("--{name} takes a size from 1k to 1g, not {text}"))
}

/// What a server is to do to its data directory instead of serving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// `--check`: read all and say what is damaged.
    Check,
    /// `--repair`: make a new file of what can be read.
    Repair,
    /// `--compact`: move what lives into a new file.
    Compact,
}

const TASKS: [(&str, Task); 3] =
    [("check", Task::Check), ("repair", Task::Repair), ("compact", Task::Compact)];

/// The options that a server has beside a task.
const BESIDE_TASKS: [&str; 4] = ["data", "key-size", "int-size", "int-order"];

/// The task that was given, if one was.
pub fn server_task(args: &Args) -> Result<Option<Task>, String> {
    let Some((name, task)) = TASKS.iter().find(|(name, _)| args.has(name)) else {
        return Ok(None);
    };
    let is_allowed = |long| long == *name || BESIDE_TASKS.contains(&long);
    match SERVER.iter().find(|spec| args.has(spec.long) && !is_allowed(spec.long)) {
        Some(other) => Err(format!("--{} makes no sense with --{name}", other.long)),
        None => Ok(Some(*task)),
    }
}

/// The options of a server.
pub fn server_options(args: &Args) -> Result<server::Options, String> {
    args.no_words()?;
    let mut options = server::Options::default();
    if let Some(listen) = args.text_or_env("listen", "SERVER_HOST") {
        options.listen = listen;
    }
    options.port = args.port(0)?.unwrap_or(options.port);
    options.unix_socket = args.text("unix-socket").map(Into::into);
    if let Some(data) = args.text("data") {
        options.data = data.into();
    }
    let settings = &mut options.store.settings;
    settings.key_size = args.number("key-size", 1..=u16::MAX)?;
    settings.int_size = args.number("int-size", 1..=8)?;
    settings.int_order = args.choice("int-order", INT_ORDERS)?;
    let modes = [("always", SyncMode::Always), ("every-second", SyncMode::EverySecond)];
    options.store.sync = args.choice("sync", modes)?.unwrap_or(options.store.sync);
    // The server reads the sizes of raw from its data.
    options.dialect = args.dialect(Format::default())?;
    options.auth_file = args.text("auth-file").map(Into::into);
    options.insecure = args.has("insecure");
    if let Some(text) = args.text("max-item-size") {
        options.store.max_item_size = size("max-item-size", text)?;
    }
    options.threads = args.number("threads", 1..=1024)?.unwrap_or(options.threads);
    options.conn_limit =
        args.number("conn-limit", 1..=1_000_000)?.unwrap_or(options.conn_limit);
    options.backlog = args.number("backlog", 0..=1_000_000)?.unwrap_or(0);
    // 0 switches these off.
    let on = |time: &Duration| !time.is_zero();
    options.idle_timeout = args.seconds("idle-timeout")?.filter(on);
    options.idle_exit = args.seconds("idle-exit")?.filter(on);
    if let Some(timeout) = args.seconds("request-timeout")? {
        options.request_timeout = Some(timeout).filter(on);
    }
    options.verbosity = args.verbosity;
    Ok(options)
}

/// The options of a client.
pub fn client_options(args: &Args) -> Result<client::Options, String> {
    let mut options = client::Options::default();
    let host = args.text_or_env("host", "SERVER_HOST");
    let port = args.port(1)?.unwrap_or(11211);
    options.address = format!("{}:{port}", host.as_deref().unwrap_or("127.0.0.1"));
    options.timeout = args.seconds("timeout")?.unwrap_or(options.timeout);
    options.retry = args.seconds("retry")?.unwrap_or(options.retry);
    if options.timeout.is_zero() {
        return Err("--timeout takes more than 0 seconds".into());
    }
    options.key_size = args.number("key-size", 1..=65535)?.unwrap_or(options.key_size);
    let format = Format::default();
    options.dialect = args.dialect(Format {
        int_size: args.number("int-size", 1..=8)?.unwrap_or(format.int_size),
        int_order: args.choice("int-order", INT_ORDERS)?.unwrap_or(format.int_order),
        ..format
    })?;
    Ok(options)
}

/// The options of a driver.
pub fn driver_options(args: &Args) -> Result<driver::Options, String> {
    Ok(driver::Options {
        seed: args.number("seed", 0..=u64::MAX)?.unwrap_or_else(Random::seed),
        clients: args.number("clients", 1..=100_000)?.unwrap_or(10),
        against: address(args, "against")?,
    })
}

fn address(args: &Args, name: &str) -> Result<Option<String>, String> {
    let Some(address) = args.text(name) else { return Ok(None) };
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.ok_or_else(|| format!("--{name} takes HOST:PORT, not {address}"))?;
    Ok(Some(address.to_owned()))
}

/// The threads of a server that is measured, as many as the generator's.
const BENCH_THREADS: usize = 2;

/// The longest key and value that are measured, in bytes.
const MAX_BENCH_KEY: usize = 250;
const MAX_BENCH_VALUE: usize = 1 << 20;

/// The options of a benchmark.
pub fn bench_options(args: &Args) -> Result<bench::Options, String> {
    let (against, redis) = (address(args, "against")?, address(args, "redis")?);
    let is_sweep = !["conns", "set", "pipeline", "reconnect", "redis", "crowd"]
        .iter()
        .any(|name| args.has(name));
    let connections = match args.text("conns") {
        None => (1..=8).map(|step| step * 50).collect(),
        Some(list) => list
            .split(',')
            .map(|text| in_range("conns", text, 1..=100_000))
            .collect::<Result<_, _>>()?,
    };
    let sets =
        args.number("set", 0.0..=1.0)?.map_or(vec![1.0, 0.0, 0.5], |set| vec![set]);
    // Of sets with noreply alone, nobody would know when they are done.
    let noreply = args.number("noreply", 0.0..=0.9)?;
    let pipeline = args.number("pipeline", 1..=10_000)?.unwrap_or(1);
    let reconnect = args.has("reconnect");
    if reconnect && (pipeline > 1 || noreply.is_some_and(|share| share > 0.0)) {
        return Err(
            "--reconnect is for single requests, each with a reply: leave out \
                    --pipeline and --noreply"
                .into(),
        );
    }
    if redis.is_some() && (reconnect || noreply.is_some_and(|share| share > 0.0)) {
        return Err("Redis has no noreply and no quit that is answered as ours is: \
                    leave out --noreply and --reconnect"
            .into());
    }
    let key_size = args.number("key", 1..=MAX_BENCH_KEY)?.unwrap_or(10);
    let keys = args.number("keys", 1..=10_000_000)?.unwrap_or(10_000);
    if keys > 10_usize.saturating_pow(key_size as u32) {
        return Err(format!("--keys {keys} are too many for --key {key_size}"));
    }
    let echo = args.has("echo");
    let crowd = args.number("crowd", 1..=10_000)?.unwrap_or(0);
    if crowd > 0 && (echo || redis.is_some()) {
        // The others would not know what it wants.
        return Err(
            "--crowd is for servers that speak memcached's protocol: leave out \
                    --echo"
                .into(),
        );
    }
    let pairs = if against.is_some() || redis.is_some() || echo { 5 } else { 1 };
    let pairs = args.number("pairs", 1..=1000)?.unwrap_or(pairs);
    let time = Duration::from_secs_f64(if pairs > 1 { 0.5 } else { 2.0 });
    let time = args.seconds("seconds")?.unwrap_or(time);
    if time.is_zero() {
        return Err("--seconds takes more than 0 seconds".into());
    }
    let threads = BENCH_THREADS.to_string();
    let words = ["--sync", "every-second", "--threads", &threads].map(OsString::from);
    let server: Vec<OsString> =
        words.into_iter().chain(args.words.iter().cloned()).collect();
    let Parsed::Run(parsed) = parse("server", "server", SERVER, server.clone())? else {
        return Err("what stands behind -- are options of the server to be run".into());
    };
    Ok(bench::Options {
        connections,
        sets,
        noreply: noreply.unwrap_or(if is_sweep { 0.5 } else { 0.0 }),
        pipeline,
        key_size,
        value_size: args.number("value", 0..=MAX_BENCH_VALUE)?.unwrap_or(50),
        keys,
        time,
        pairs,
        // The same load each time, unless another is asked for.
        seed: args.number("seed", 0..=u64::MAX)?.unwrap_or(1),
        against,
        redis,
        echo,
        reconnect,
        crowd,
        server,
        threads: server_options(&parsed)?.threads,
    })
}

/// The items and the number of threads of an echo server.
pub fn echo_options(args: &Args) -> Result<(bench::items::Items, usize), String> {
    args.no_words()?;
    let key = args.number("key", 1..=MAX_BENCH_KEY)?.unwrap_or(10);
    let value = args.number("value", 0..=MAX_BENCH_VALUE)?.unwrap_or(50);
    let threads = args.number("threads", 1..=1024)?.unwrap_or(BENCH_THREADS);
    // One key will do: all requests are as long as its.
    Ok((bench::items::Items::new(1, key, value), threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args, String> {
        let words = line.split_whitespace().map(OsString::from);
        match parse("server", "server", SERVER, words)? {
            Parsed::Run(args) => Ok(args),
            Parsed::Print(text) => Err(text),
        }
    }

    fn options(line: &str) -> Result<server::Options, String> {
        server_options(&args(line)?)
    }

    #[test]
    fn all_forms_of_an_option_are_the_same() {
        for line in ["--port 7", "--port=7", "-p 7", "-p7"] {
            assert_eq!(options(line).unwrap().port, 7, "{line}");
        }
        for line in ["-vv", "-v -v", "--verbose --verbose"] {
            assert_eq!(options(line).unwrap().verbosity, 2, "{line}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let size = |line| options(line).unwrap().store.max_item_size;
        assert_eq!(size("-I 2048"), 2048);
        assert_eq!(size("-I 2k"), 2048);
        assert_eq!(size("-I 5M"), 5 << 20);
        assert_eq!(size("-I 1g"), 1 << 30);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (line, error) in [
            ("--prot 7", "unknown option --prot; see server --help"),
            ("-p", "--port needs a value: NUM"),
            ("-p 65536", "--port takes a number from 0 to 65535, not 65536"),
            ("-p x", "--port takes a number from 0 to 65535, not x"),
            ("--key-size 0", "--key-size takes a number from 1 to 65535, not 0"),
            ("--int-size 9", "--int-size takes a number from 1 to 8, not 9"),
            ("--int-order up", "--int-order is big or little, not up"),
            ("--sync no", "--sync is always or every-second, not no"),
            ("-I 2g", "--max-item-size takes a size from 1k to 1g, not 2g"),
            ("-I é", "--max-item-size takes a size from 1k to 1g, not é"),
            ("--help=7 x", ""),
            ("extra", "extra is no option; see server --help"),
        ] {
            if !error.is_empty() {
                assert_eq!(options(line).unwrap_err(), error, "{line}");
            }
        }
    }

    #[test]
    fn the_help_names_every_option() {
        let help = args("--help").unwrap_err();
        for spec in SERVER {
            assert!(help.contains(&format!("--{} {}", spec.long, spec.value)));
        }
    }
}

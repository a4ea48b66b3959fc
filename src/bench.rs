//! The benchmark, `driver --bench`: how many requests a second, how long each takes,
//! and what CPU time the server needs for one.
//!
//! | module | what it owns |
//! |---|---|
//! | `bench/items.rs` | keys, values, and the bytes of requests and replies |
//! | `bench/load.rs` | the load generator: connections in closed loops |
//! | `bench/histogram.rs` | latencies |
//! | `bench/contestant.rs` | the servers that are driven, and their CPU time |
//! | `bench/crowd.rs` | clients that mean no good, around a load |
//! | `bench/echo.rs` | a server that does nothing, for comparison |
//! | this one | the sweep, the table, the charts |
//!
//! Every key is set before anything is measured. Then each point of the sweep, a mode
//! (sets, gets, or both at random) with a number of connections, is one run of the
//! generator for each server. With a second server the runs come in pairs: the two are
//! driven one right after the other, in turn the one and the other first, and a ratio
//! is taken within each pair. What is printed is the median over the pairs, for each
//! column by itself. So what slows the machine down for a while slows both down.
//!
//! A row is a server with a mode and a number of connections:
//!
//! | column | is |
//! |---|---|
//! | `ops/s` | requests a second, those with noreply among them |
//! | `p50_us`, `p99_us`, `p999_us`, `max_us` | time from a batch's write to its last reply |
//! | `cpu_us_per_op` | CPU time of the whole server process for each request |
//! | `user`, `system` | its two parts |
//! | `generator_us` | CPU time of the generator for each request |
//! | `memory_mb` | resident memory of the server's process in the end |
//!
//! A row of `ours/against` has in each column the ratio of the two. `-` is what can't
//! be told: CPU time and memory of a server on another machine, or without `/proc`.
//!
//! With `--reconnect` each server is driven twice: with connections that stay, and in
//! the modes `set-reconnect`, `get-reconnect` and `mixed-reconnect` with one for each
//! request, the latency of which is from its opening to its end. With `--crowd NUM` the
//! second time is in the modes `set-crowd` and so on, while NUM clients send a byte now
//! and then, and NUM others ask for large values and never read them.
//!
//! Our own server is a child process, its data in the temporary directory. It runs
//! with `--sync every-second` unless the options behind `--` say otherwise. They may
//! say `--data DIR`, to have the data on a disk of another kind; what is there already
//! is flushed, as that of the second server is.
//!
//! A Redis (`--redis`) is asked for the same keys in its own protocol.
//!
//! What the figures do not say:
//!
//! - A closed loop asks no faster than it is answered. When a server stalls, the
//!   requests that other clients would have sent meanwhile are not sent, and not
//!   counted as late (coordinated omission): percentiles are those of so many patient
//!   clients, and no statement about a given rate.
//! - The latency of a batch is that of its slowest reply. With many connections most
//!   of it is the queue: by Little's law, connections / throughput.
//! - Generator and server share the machine. For single requests the generator makes
//!   as many system calls as the server, on as many threads. Where cores are few,
//!   throughput says what both cost together, and only the CPU time, and ratios, are
//!   the server's own. Where `generator_us` is far above `cpu_us_per_op`, the
//!   generator is what is measured.
//! - All is on the loopback interface, where a write by one process does the other's
//!   receiving as well. The echo server pays the same.
//! - A set with noreply travels with the request after it, and costs no system call.
//! - Compaction runs whenever our server's log needs it, in some runs and not in
//!   others. Its CPU time is in the figures.
//! - CPU time comes in ticks of 10 ms. System calls are not counted; `strace -c -f`
//!   does that.

mod contestant;
mod crowd;
pub mod echo;
mod histogram;
pub mod items;
mod load;

use crate::chart::{Chart, Scale, Series};
use crate::driver::stage::{self, Result, Stage};
use crate::os;
use crate::say;
use contestant::Contestant;
use items::Items;
use load::{Load, Measurement};
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Where the charts go, below the working directory.
const CHARTS: &str = "target/bench";

/// Descriptors beside those of connections.
const OTHER_DESCRIPTORS: usize = 64;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many connections at the same time, one point of the sweep after the other.
    pub connections: Vec<usize>,
    /// The shares of sets among the requests, likewise.
    pub sets: Vec<f64>,
    /// The share of sets that want no reply, below 1.
    pub noreply: f64,
    /// Requests with a reply that a connection sends at once.
    pub pipeline: usize,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// How many keys there are; no more than there are numbers of `key_size` digits.
    pub keys: usize,
    /// How long a server is driven for one figure.
    pub time: Duration,
    /// How often, at each point.
    pub pairs: usize,
    /// Where all random choices come from.
    pub seed: u64,
    /// `host:port` of a second server, which is flushed.
    pub against: Option<String>,
    /// `host:port` of a Redis, which is flushed.
    pub redis: Option<String>,
    /// The echo server is driven, too.
    pub echo: bool,
    /// Each server is driven a second time, with a connection for each request.
    pub reconnect: bool,
    /// Each server is driven a second time, amid a crowd: so many slow senders, and as
    /// many that never read. 0 is none.
    pub crowd: usize,
    /// Options of our own server.
    pub server: Vec<OsString>,
    /// Threads of that server, of the echo server and of the generator: for single
    /// requests all have about the same to do, so with fewer threads than the server
    /// the generator would be what is measured.
    pub threads: usize,
}

/// The columns of a row behind the four that name it.
const COLUMNS: [&str; 10] = [
    "ops/s",
    "p50_us",
    "p99_us",
    "p999_us",
    "cpu_us_per_op",
    "user",
    "system",
    "max_us",
    "generator_us",
    "memory_mb",
];

/// Column, file, title and unit of each chart.
const PICTURES: [(usize, &str, &str, &str); 4] = [
    (0, "throughput.svg", "Throughput", "requests per second"),
    (1, "latency-p50.svg", "Median latency", "microseconds"),
    (2, "latency-p99.svg", "99th percentile of latency", "microseconds"),
    (4, "cpu.svg", "CPU time of the server", "microseconds per request"),
];

/// The numbers of a row; NaN is one that can't be told.
type Figures = [f64; COLUMNS.len()];

/// What is driven, and how.
#[derive(Clone, Copy)]
struct Ride<'a> {
    server: &'a Contestant<'a>,
    manner: Manner,
}

/// What is special about a ride.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Plain,
    /// A connection for each request.
    Reconnect,
    /// Amid a crowd, of twice this size.
    Crowd(usize),
}

/// A row of the table.
struct Row {
    server: String,
    mode: String,
    connections: usize,
    figures: Figures,
}

/// Drives the servers through the sweep, prints the table and draws the charts.
pub fn run(options: &Options) -> Result {
    // A connection needs two where a batch may not fit into the socket's buffer at
    // once, see `bench/load.rs`. The children inherit the limit.
    let batch = options.pipeline * (options.key_size + options.value_size);
    let each = if batch > 16 << 10 { 2 } else { 1 };
    let wanted = each * options.most_connections() + OTHER_DESCRIPTORS;
    os::raise_descriptor_limit(wanted as u64).map_err(|possible| {
        format!(
            "{wanted} open files are needed and the system allows {possible}; raise it \
             with `ulimit -Hn {wanted}` or use fewer --conns"
        )
    })?;
    let Options { keys, key_size, value_size, .. } = *options;
    let items = Items::new(keys, key_size, value_size);
    let stage = stage::Options { seed: options.seed, clients: 0, against: None };
    let stage = Stage::new(&stage)
        .map_err(|error| format!("no temporary directory: {error}"))?;
    let mut servers = vec![Contestant::ours(options, &stage.directory, &items)?];
    if let Some(address) = &options.against {
        servers.push(Contestant::meet("against", address, &items)?);
    }
    let redis_items;
    if let Some(address) = &options.redis {
        redis_items = Items::for_redis(keys, key_size, value_size);
        servers.push(Contestant::meet_redis(address, &redis_items)?);
    }
    if options.echo {
        servers.push(Contestant::echo(options, &items)?);
    }
    let mut manners = vec![Manner::Plain];
    manners.extend(options.reconnect.then_some(Manner::Reconnect));
    manners.extend((options.crowd > 0).then_some(Manner::Crowd(options.crowd)));
    let rides = servers
        .iter()
        .flat_map(|server| manners.iter().map(move |&manner| Ride { server, manner }));
    let rides: Vec<Ride> = rides.collect();

    print_line(["server", "mode", "connections", "pipeline"], COLUMNS);
    let mut rows = Vec::new();
    let points = options.sets.len() * options.connections.len();
    let mut progress = Progress::new(points * options.pairs * rides.len());
    for &set in &options.sets {
        for &connections in &options.connections {
            let mut results = vec![Vec::new(); rides.len()];
            for pair in 0..options.pairs {
                let load = options.load(set, connections, pair);
                let mut order: Vec<usize> = (0..rides.len()).collect();
                order.rotate_left(pair % rides.len());
                for ride in order {
                    progress.step(rides[ride], &load);
                    results[ride].push(rides[ride].measure(&load)?);
                }
            }
            progress.hide();
            let here = summarize(&rides, &results, set, connections);
            here.iter().for_each(|row| row.print(options.pipeline));
            rows.extend(here);
        }
    }
    draw(&rows)
}

impl Options {
    fn most_connections(&self) -> usize {
        self.connections.iter().copied().max().unwrap_or(0) + 2 * self.crowd
    }

    fn load(&self, set: f64, connections: usize, pair: usize) -> Load {
        Load {
            connections,
            pipeline: self.pipeline,
            set,
            noreply: self.noreply,
            reconnect: false,
            time: self.time,
            threads: self.threads,
            // The two of a pair are asked the same.
            seed: self.seed.wrapping_add(pair as u64),
        }
    }
}

impl Ride<'_> {
    fn measure(self, load: &Load) -> Result<Figures> {
        let reconnect = self.manner == Manner::Reconnect;
        let load = Load { reconnect, ..load.clone() };
        let measure = || load::measure(self.server, &load);
        let measured = match self.manner {
            Manner::Crowd(size) => crowd::around(self.server, size, measure),
            _ => measure(),
        };
        let Ride { server: Contestant { name, address, .. }, .. } = self;
        measured
            .map(|m| figures(&m))
            .map_err(|error| format!("{name}, {address}: {error}"))
    }

    fn mode(self, set: f64) -> String {
        let mode = match set {
            0.0 => "get",
            1.0 => "set",
            _ => "mixed",
        };
        let manner = match self.manner {
            Manner::Plain => "",
            Manner::Reconnect => "-reconnect",
            Manner::Crowd(_) => "-crowd",
        };
        format!("{mode}{manner}")
    }
}

fn figures(measurement: &Measurement) -> Figures {
    let Measurement { requests, elapsed, latencies, server, generator, memory } =
        measurement;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / *requests as f64;
    let percentile = |fraction| latencies.percentile(fraction) as f64 / 1e3;
    let (user, system) = server
        .map_or((f64::NAN, f64::NAN), |(user, system)| (each(user), each(system)));
    [
        *requests as f64 / elapsed.as_secs_f64(),
        percentile(0.5),
        percentile(0.99),
        percentile(0.999),
        user + system,
        user,
        system,
        latencies.max() as f64 / 1e3,
        each(*generator),
        memory.map_or(f64::NAN, |bytes| bytes as f64 / f64::from(1 << 20)),
    ]
}

/// The rows of a point: one for each ride, and one for each two that are compared.
fn summarize(
    rides: &[Ride],
    results: &[Vec<Figures>],
    set: f64,
    connections: usize,
) -> Vec<Row> {
    let row = |server: String, mode: String, figures: &[Figures]| Row {
        server,
        mode,
        connections,
        figures: std::array::from_fn(|i| {
            median(figures.iter().map(|figures| figures[i]).collect())
        }),
    };
    let mut rows = Vec::new();
    for (ride, figures) in rides.iter().zip(results) {
        rows.push(row(ride.server.name.into(), ride.mode(set), figures));
    }
    for (i, one) in rides.iter().enumerate() {
        for (j, other) in rides.iter().enumerate().skip(i + 1) {
            // Two servers under the same load, or one under both.
            let same_server = one.server.name == other.server.name;
            let ours = one.server.name == rides[0].server.name;
            if !(same_server || ours && one.manner == other.manner) {
                continue;
            }
            let ratios: Vec<Figures> = results[i]
                .iter()
                .zip(&results[j])
                .map(|(a, b)| std::array::from_fn(|i| a[i] / b[i]))
                .collect();
            let server = over(one.server.name, other.server.name);
            rows.push(row(server, over(&one.mode(set), &other.mode(set)), &ratios));
        }
    }
    rows
}

/// How a ratio's row is named.
fn over(one: &str, other: &str) -> String {
    if one == other { one.to_owned() } else { format!("{one}/{other}") }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

impl Row {
    fn is_ratio(&self) -> bool {
        self.server.contains('/') || self.mode.contains('/')
    }

    fn print(&self, pipeline: usize) {
        let (connections, pipeline) =
            (self.connections.to_string(), pipeline.to_string());
        let figures = self.figures.map(|figure| match figure {
            _ if !figure.is_finite() => "-".to_owned(),
            1000.0.. => format!("{figure:.0}"),
            1.0.. => format!("{figure:.2}"),
            _ => format!("{figure:.3}"),
        });
        print_line([&self.server, &self.mode, &connections, &pipeline], figures);
    }
}

/// Columns of fixed width, so that a person can read them, without blanks in them, so
/// that a script can.
fn print_line(
    [server, mode, connections, pipeline]: [&str; 4],
    figures: [impl AsRef<str>; COLUMNS.len()],
) {
    let mut line = format!("{server:<12} {mode:<15} {connections:>11} {pipeline:>8}");
    for (name, figure) in COLUMNS.iter().zip(&figures) {
        line += &format!(" {:>width$}", figure.as_ref(), width = name.len().max(8));
    }
    say(&line);
}

/// A line on a terminal that says how far it is.
struct Progress {
    done: usize,
    steps: usize,
    shown: bool,
}

impl Progress {
    fn new(steps: usize) -> Progress {
        Progress { done: 0, steps, shown: io::stderr().is_terminal() }
    }

    fn step(&mut self, ride: Ride, load: &Load) {
        self.done += 1;
        let (done, steps, name) = (self.done, self.steps, ride.server.name);
        let (mode, connections) = (ride.mode(load.set), load.connections);
        self.show(&format!(
            "{done}/{steps}: {name}, {mode}, {connections} connections"
        ));
    }

    fn hide(&self) {
        self.show("");
    }

    /// In the place of what it said before.
    fn show(&self, text: &str) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

/// Draws the charts that there is something for.
fn draw(rows: &[Row]) -> Result {
    let failed = |error: io::Error| format!("can't write the charts: {error}");
    fs::create_dir_all(CHARTS).map_err(failed)?;
    for (column, file, title, unit) in PICTURES {
        let mut series: Vec<Series> = Vec::new();
        for row in rows.iter().filter(|row| !row.is_ratio()) {
            let figure = row.figures[column];
            if figure.is_nan() {
                continue;
            }
            let name = format!("{}, {}", row.mode, row.server);
            let point = (row.connections as f64, figure);
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series { name, points: vec![point] }),
            }
        }
        if series.is_empty() {
            continue;
        }
        let chart = Chart {
            title: title.into(),
            x_label: "connections".into(),
            y_label: unit.into(),
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            series,
        };
        let path = Path::new(CHARTS).join(file);
        fs::write(&path, chart.to_svg()).map_err(failed)?;
        say(&format!("Chart: {}", path.display()));
    }
    Ok(())
}

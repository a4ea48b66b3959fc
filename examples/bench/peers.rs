//! What must be reached beside other servers: `make bench-peers`.
//!
//! memcached with two threads, and for each sync mode a Redis and an echo server that
//! appends, are started on free ports, with temporary data. A row of [`ROWS`] is a load on
//! ours and on one of these, in pairs. It has two figures, each ours / theirs: throughput,
//! which has to be at least so much, and cost, the CPU time of a request, at most so much.
//! The last rows are about ours alone, measured by the example `growth`; they are costs.

use crate::measure;
use crate::options::{Load, Options};
use crate::table::{self, CPU, Summary, THROUGHPUT, print, shown};
use crate::target::{self, Directory, Result, Target};
use std::env;
use std::process::{Command, Stdio};

/// A load under which ours and a peer are compared: what is requested, in which share of
/// sets, how many at once; both servers' sync mode; the peer; by how many connections; the
/// least throughput, and the most CPU time.
type Row = ([&'static str; 3], f64, usize, &'static [usize], [f64; 2]);

const SECOND: &str = "every-second";

/// Where a row has one figure.
const ANY: f64 = f64::NAN;

const ROWS: [Row; 9] = [
    (["sets", SECOND, "memcached"], 1.0, 1, &[50, 400], [1.0, 1.0]),
    (["gets", SECOND, "memcached"], 0.0, 1, &[50, 400], [1.05, 0.95]),
    (["gets to sets 9:1", SECOND, "memcached"], 0.1, 1, &[50, 400], [1.05, 0.95]),
    (["sets, pipeline 16", SECOND, "memcached"], 1.0, 16, &[50], [1.0, ANY]),
    (["gets, pipeline 16", SECOND, "memcached"], 0.0, 16, &[50], [4.0, ANY]),
    (["gets, pipeline 16", SECOND, "Redis"], 0.0, 16, &[50], [1.2, ANY]),
    (["sets", "always", "Redis"], 1.0, 1, &[1, 50, 400], [1.0, 1.0]),
    (["sets", SECOND, "append"], 1.0, 1, &[50, 400], [0.9, ANY]),
    (["sets", "always", "append"], 1.0, 1, &[1, 50, 400], [0.9, ANY]),
];

/// Starts the peers, goes through the rows and ends with the table.
pub fn compare(options: &Options, directory: &Directory) -> Result {
    let items = &options.items;
    let peer = target::memcached(64)?;
    let mut targets =
        vec![(SECOND, Target::started("memcached", peer, items.clone())?)];
    for sync in [SECOND, "always"] {
        let path = |name: &str| directory.0.join(format!("{name}-{sync}"));
        let mut server = target::server(&path("ours"))?;
        server.args(["--threads", "2", "--sync", sync]);
        targets.push((sync, Target::ours(&mut server, items.clone())?));
        let peer = target::redis(&path("redis"))?;
        let redis = items.clone().for_redis(sync);
        targets.push((sync, Target::started("Redis", peer, redis)?));
        let append = path("append");
        targets.push((sync, Target::echo(items.clone(), Some((&append, sync)))?));
    }
    table::print_header(options);
    let mut lines = Vec::new();
    for ([what, sync, peer], set, pipeline, numbers, must) in ROWS {
        let is_named = |name, target: &&(&str, Target)| {
            let (mode, Target { name: other, .. }) = target;
            (*mode, *other) == (sync, name)
        };
        let pair = ["memcached-lite", peer].map(|name| {
            let found = targets.iter().find(|target| is_named(name, target));
            &found.expect("it was started").1
        });
        for &connections in numbers {
            let load = Load { set, pipeline, connections, ..options.load.clone() };
            let row = format!("{what}, {connections} conns, {sync} / {peer}");
            print(&row);
            let runs = measure(options, &pair, &load)?;
            table::print_runs(&runs);
            let ratios = runs[0].over(&runs[1]);
            let figures = [THROUGHPUT, CPU].map(|it| Summary::of(&ratios, it));
            lines.push(line(&row, must, figures));
        }
    }
    drop(targets);
    lines.extend(upkeep()?);
    let [must, median, scatter] = ["must", "median", "+-%"];
    print(&format!(
        "\n{:<53} {:^19} {:^19}\n{:<53} {must:>5} {median:>7} {scatter:>5} {must:>6} \
         {median:>7} {scatter:>5}",
        "", "throughput", "cost", "ours / peer"
    ));
    lines.iter().for_each(|line| print(line));
    Ok(())
}

/// A line of the table.
fn line(row: &str, must: [f64; 2], [throughput, cost]: [Summary; 2]) -> String {
    let is_missed = throughput.median < must[0] || cost.median > must[1];
    let [least, most] = must.map(shown);
    let cells = |Summary { median, scatter }| {
        format!("{:>7} {:>5}", shown(median), shown(scatter))
    };
    let ok = if is_missed { "NO" } else { "ok" };
    format!("{row:<53} {least:>5} {} {most:>6} {} {ok}", cells(throughput), cells(cost))
}

/// The rows about ours alone, from what the example `growth` beside this one prints.
fn upkeep() -> Result<Vec<String>> {
    let mut growth = Command::new(env::current_exe()?.with_file_name("growth"));
    let output = growth.arg("upkeep").stderr(Stdio::inherit()).output()?;
    let output = String::from_utf8(output.stdout)?;
    print(&format!("\n{}", output.trim_end()));
    let words = output.split_whitespace();
    let numbers: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
    let [rest, most, live, _, _, _, ratio, scatter] = numbers[..] else {
        return Err("growth has failed".into());
    };
    let mib = |median| Summary { median, scatter: ANY };
    let rows = [
        ("disk at rest / 2 x live + 64 MiB", 1.0, mib(rest / (2.0 * live + 64.0))),
        ("disk at most / 3 x live + 128 MiB", 1.0, mib(most / (3.0 * live + 128.0))),
        (
            "p99 of a get while compacting / after",
            1.5,
            Summary { median: ratio, scatter },
        ),
    ];
    Ok(rows.map(|(row, most, cost)| line(row, [ANY, most], [mib(ANY), cost])).into())
}

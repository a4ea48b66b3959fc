//! The table: figures of all runs, ratios between them, and charts of what they show.
//!
//! Servers are compared in pairs: they are driven one right after the other, and a ratio
//! is taken within each pair. What is printed is the median over the pairs, for each
//! column by itself. A figure from a shared machine drifts by a factor of two within
//! minutes; what slows the machine down for a while slows both down, and the ratio stays.
//!
//! What is compared at a point of the sweep:
//!
//! | row | numerator | denominator |
//! |---|---|---|
//! | `/NAME  MODE` | memcached-lite | the server of that name, both in this mode |
//! | `NAME  A/B` | the server alone, `A` | the same server with an addition, `A-B` |
//!
//! `help.txt` explains the columns.

use crate::chart::{Chart, Scale, Series};
use crate::load::Measurement;
use crate::options::{Load, Mode, Options};
use std::io::{self, Write};
use std::path::Path;
use std::{array, fs};

/// Where the charts are, below the working directory.
pub const CHARTS: &str = "target/bench";

/// A column: its name, its width, and what it shows. NaN is what is unknown.
type Column = (&'static str, usize, fn(&Measurement) -> f64);

/// With the three that name a row, and the scatter, these fit 100 characters.
const COLUMNS: [Column; 9] = [
    ("ops/s", 7, |m| m.requests / m.seconds),
    ("p50", 6, |m| m.percentile(0.5)),
    ("p99", 6, |m| m.percentile(0.99)),
    ("p99.9", 6, |m| m.percentile(0.999)),
    ("max", 7, |m| m.percentile(1.0)),
    ("cpu", 4, |m| m.per_request(m.server.0 + m.server.1)),
    ("user", 4, |m| m.per_request(m.server.0)),
    ("gen", 4, |m| m.per_request(m.generator.0 + m.generator.1)),
    ("MiB", 5, |m| m.memory),
];

/// Column, file and title of each chart.
const PICTURES: [(usize, &str, &str); 4] = [
    (0, "throughput.svg", "requests per second"),
    (1, "latency-p50.svg", "median latency in microseconds"),
    (2, "latency-p99.svg", "99th percentile of latency in microseconds"),
    (5, "cpu.svg", "CPU time of the server for a request in microseconds"),
];

/// The columns that are also looked at by themselves.
pub const THROUGHPUT: usize = 0;
pub const CPU: usize = 5;

/// A cell for each column.
pub type Figures = [f64; COLUMNS.len()];

/// What a server has shown under a load.
pub struct Run {
    /// The server's name.
    pub server: &'static str,
    /// The load.
    pub load: Load,
    /// Of each pair.
    pub figures: Vec<Figures>,
}

impl Run {
    /// What is requested, and what else is special: `mixed-slow`, or `mixed/slow` for a
    /// ratio.
    fn mode(&self, separator: &str) -> String {
        let requests = match self.load.set {
            0.0 => "get",
            1.0 => "set",
            _ => "mixed",
        };
        match self.load.mode {
            Mode::Plain => requests.to_owned(),
            Mode::Reconnect => format!("{requests}{separator}reconnect"),
            Mode::Slow => format!("{requests}{separator}slow"),
            Mode::Cache => format!("{requests}{separator}cache"),
        }
    }

    /// How this run compares with the other, pair by pair.
    pub fn over(&self, other: &Run) -> Vec<Figures> {
        let pairs = self.figures.iter().zip(&other.figures);
        pairs.map(|(a, b)| array::from_fn(|column| a[column] / b[column])).collect()
    }
}

/// The row of a measurement.
pub fn figures(measurement: &Measurement) -> Figures {
    COLUMNS.map(|(_, _, figure)| figure(measurement))
}

/// Prints what the figures depend on, and the names of the columns.
pub fn print_header(options: &Options) {
    let Options { sync, pairs, items, .. } = options;
    let Load { threads, noreply, pipeline, time, seed, .. } = &options.load;
    let (count, key, value) = (items.count, items.key_len, items.value_len);
    let seconds = time.as_secs_f64();
    print(&format!(
        "memcached-lite: --sync {sync}, {threads} threads. {count} keys of {key} bytes, \
         values of {value}.\n\
         Sets with noreply: {noreply}. Requests to a batch: {pipeline}. {seconds} s a \
         run, medians of {pairs}, +-% of ops/s. Seed {seed}.\n\
         Latencies (p50 to max) in us; CPU time (cpu, user, gen) in us a request.\n"
    ));
    let names = COLUMNS.map(|(name, ..)| name.to_owned());
    print_row(["server", "mode", "conns"], names, "+-%".into());
}

/// Prints the runs of a point of the sweep, and the ratios between those that differ in
/// one thing: two servers under the same load, or one with and without an addition.
pub fn print_runs(runs: &[Run]) {
    let connections = runs[0].load.connections.to_string();
    let print = |server: &str, mode: &str, figures: &[Figures]| {
        let scatter = shown(Summary::of(figures, THROUGHPUT).scatter);
        print_row([server, mode, &connections], medians(figures).map(shown), scatter);
    };
    for run in runs {
        print(run.server, &run.mode("-"), &run.figures);
    }
    for (index, one) in runs.iter().enumerate() {
        for other in &runs[index + 1..] {
            if one.server == other.server && one.load.mode == Mode::Plain {
                print(one.server, &other.mode("/"), &one.over(other));
            }
            if one.server == runs[0].server && one.load.mode == other.load.mode {
                print(&format!("/{}", other.server), &one.mode("-"), &one.over(other));
            }
        }
    }
}

fn medians(figures: &[Figures]) -> Figures {
    array::from_fn(|column| Summary::of(figures, column).median)
}

/// What all pairs say together.
pub struct Summary {
    /// Of an even number of values, the larger of the two in the middle.
    pub median: f64,
    /// Half of what lies between the quartiles, in percent of the median. NaN if there are
    /// too few values to know.
    pub scatter: f64,
}

impl Summary {
    /// Of one column.
    pub fn of(figures: &[Figures], column: usize) -> Summary {
        let mut values: Vec<f64> = figures.iter().map(|row| row[column]).collect();
        values.sort_by(f64::total_cmp);
        let (count, median) = (values.len(), values[values.len() / 2]);
        let between = values[count - 1 - count / 4] - values[count / 4];
        let scatter = if count < 3 { f64::NAN } else { 50.0 * between / median };
        Summary { median, scatter }
    }
}

/// Three digits at most, and all of those before the point.
pub fn shown(figure: f64) -> String {
    match figure {
        _ if !figure.is_finite() => "-".to_owned(),
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// Columns of fixed width, to be read by people; no cell has a space in it, so that a
/// script can read them as well.
fn print_row(
    [server, mode, conns]: [&str; 3],
    cells: [String; COLUMNS.len()],
    scatter: String,
) {
    let mut line = format!("{server:<14} {mode:<15} {conns:>5}");
    for ((_, width, _), cell) in COLUMNS.iter().zip(cells) {
        line += &format!(" {cell:>width$}");
    }
    print(&format!("{line} {scatter:>4}"));
}

/// A line for each run, so with all pairs: for other programs. What is unknown is empty.
pub fn to_csv(sync: &str, runs: &[Run]) -> String {
    let names = COLUMNS.map(|(name, ..)| name).join(",");
    let mut lines = vec![format!("server,sync,mode,conns,pair,{names}")];
    for run in runs {
        for (pair, figures) in run.figures.iter().enumerate() {
            let Run { server, load, .. } = run;
            let figures = figures
                .map(|it| if it.is_nan() { String::new() } else { it.to_string() });
            lines.push(format!(
                "{server},{sync},{},{},{pair},{}",
                run.mode("-"),
                load.connections,
                figures.join(",")
            ));
        }
    }
    lines.join("\n") + "\n"
}

/// Prints a line, if anybody is there to read it.
pub fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Draws what the runs show against their connections: a line for each server and mode.
/// Ratios are left out, as they would need an axis of their own.
pub fn draw(runs: &[Run]) -> io::Result<()> {
    fs::create_dir_all(CHARTS)?;
    for (column, file, title) in PICTURES {
        let mut series: Vec<Series> = Vec::new();
        for run in runs {
            let name = format!("{}, {}", run.server, run.mode("-"));
            let Summary { median, scatter } = Summary::of(&run.figures, column);
            let (x, half) = (run.load.connections as f64, median * scatter / 100.0);
            let known = series.iter().position(|series| series.name == name);
            if known.is_none() {
                series.push(Series { name, points: Vec::new(), band: Vec::new() });
            }
            let line = known.unwrap_or(series.len() - 1);
            series[line].points.push((x, median));
            let band = half.is_finite().then_some((x, [median - half, median + half]));
            series[line].band.extend(band);
        }
        let chart = Chart {
            y_label: title.into(),
            x_label: "connections".into(),
            scale: Scale::Linear,
            series,
        };
        let path = Path::new(CHARTS).join(file);
        fs::write(&path, chart.to_svg())?;
        print(&format!("Chart: {}", path.display()));
    }
    Ok(())
}

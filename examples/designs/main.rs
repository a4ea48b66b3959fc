//! Five ways to keep values in files, and ours: what an operation costs as the store
//! grows, and what a crash in the middle of it takes.
//!
//! The five are those of small systems of which only reports are known, numbered 0 to 4.
//! What a report does not say is done here in the way that is simplest.
//!
//! `cargo run --release --example designs -- CHART.svg SIZE...`
//!
//! All arguments are optional: the chart goes to target/designs.svg, and the sizes are
//! 100, 1,000 and 10,000 keys. `docs/designs.md` reads this with you.

mod binary;
mod budget;
#[path = "../bench/chart.rs"]
mod chart;
mod crash;
mod files;
mod json;
mod measure;
mod mortal;
mod ours;
mod report;
mod seek;
mod text;
mod workload;

use budget::Files;
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::{env, fs, io, process};

/// A way to keep values in files. Keys and values are printable and have no spaces,
/// which not all of them could keep.
trait Design {
    /// Stores all of these in a store that is empty, in one go.
    fn load(&mut self, items: &[(String, String)]) -> io::Result<()>;

    /// Stores a value under `key`, whatever is there.
    fn set(&mut self, key: &str, value: &str) -> io::Result<()>;

    /// The value of `key`.
    fn get(&mut self, key: &str) -> io::Result<Option<String>>;
}

/// A design with its name, and how it is opened, as by a process that starts.
struct Case {
    name: &'static str,
    open: fn(&Files) -> io::Result<Box<dyn Design>>,
}

const CASES: [Case; 7] = [
    Case { name: "binary", open: binary::open },
    Case { name: "text", open: text::open },
    Case { name: "files", open: files::open },
    Case { name: "seek", open: seek::open },
    Case { name: "json", open: json::open },
    Case { name: "ours, every-second", open: ours::open_every_second },
    Case { name: "ours, always", open: ours::open_always },
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let chart = arguments.next().map_or("target/designs.svg".into(), PathBuf::from);
    let sizes: Result<Vec<NonZeroUsize>, _> =
        arguments.map(|size| size.parse()).collect();
    let sizes = match sizes.map_err(|error| format!("a size in keys: {error}"))? {
        none if none.is_empty() => vec![100, 1_000, 10_000],
        some => some.into_iter().map(NonZeroUsize::get).collect(),
    };
    let directory = env::temp_dir().join(format!("designs-{}", process::id()));
    let result = report::costs(&directory.join("costs"), &sizes, &chart)
        .and_then(|()| report::crashes(&directory.join("crash")));
    let removed = fs::remove_dir_all(&directory);
    result?;
    Ok(removed?)
}

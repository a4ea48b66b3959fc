//! What an operation costs on a store of a given size.
//!
//! The store is loaded in one go, which is not measured: set by set, it would be 10,000
//! rewrites in one design and 10,000 waits for the disk in another. All designs do the
//! same round before any begins the next, so they share what else the machine does. Each
//! operation is timed by itself.

use crate::CASES;
use crate::budget::Files;
use crate::workload::Workload;
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;
use std::{fs, io};

const ROUNDS: usize = 5;

/// What a design costs at one size.
pub struct Costs {
    /// Microseconds, the first quartile, the median and the third: of sets of new keys, of
    /// updates, of gets.
    pub quartiles: [[f64; 3]; 3],
    /// The files' lengths, and the disk's blocks that they take.
    pub file_kib: u64,
    pub disk_kib: u64,
}

/// Measures all designs with so many keys; compares each value that one of them gives.
pub fn measure(directory: &Path, keys: usize) -> Result<Vec<Costs>, Box<dyn Error>> {
    let mut workload = Workload::new();
    let items = workload.sets(keys);
    let mut stores = Vec::new();
    for case in &CASES {
        let files = Files::new(&directory.join(case.name))?;
        let mut design = (case.open)(&files)?;
        design.load(&items)?;
        stores.push((case, files, design, [const { Vec::new() }; 3]));
    }
    for _ in 0..ROUNDS {
        let round = workload.round();
        for (case, _, design, [sets, updates, gets]) in &mut stores {
            for (key, value) in &round.sets {
                timed(sets, || design.set(key, value))?;
            }
            for (key, value) in &round.updates {
                timed(updates, || design.set(key, value))?;
            }
            for key in &round.gets {
                let value = timed(gets, || design.get(key))?;
                check(case.name, key, value, &workload.model[key])?;
            }
        }
    }
    let mut costs = Vec::new();
    for (case, files, design, times) in stores {
        // What only this instance knew is gone, and all is read once more.
        drop(design);
        let mut design = (case.open)(&files)?;
        for (key, value) in &workload.model {
            check(case.name, key, design.get(key)?, value)?;
        }
        let (file_kib, disk_kib) = kib(&files.path(""))?;
        costs.push(Costs { quartiles: times.map(quartiles), file_kib, disk_kib });
    }
    Ok(costs)
}

fn timed<T>(times: &mut Vec<f64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    times.push(start.elapsed().as_secs_f64() * 1e6);
    done
}

fn quartiles(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| times[times.len() * quarter / 4])
}

fn check(who: &str, key: &str, value: Option<String>, set: &str) -> Result<(), String> {
    match value {
        Some(value) if value == set => Ok(()),
        _ => Err(format!("{who}: {key} is {value:?}, and {set:?} was set")),
    }
}

fn kib(directory: &Path) -> io::Result<(u64, u64)> {
    let (mut length, mut blocks) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let metadata = entry?.metadata()?;
        length += metadata.len();
        // Of 512 bytes each, whatever the file system's own block size is.
        blocks += metadata.blocks();
    }
    Ok((length.div_ceil(1024), blocks.div_ceil(2)))
}

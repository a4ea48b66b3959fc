//! Ours and memcached as caches: how many gets hit.
//!
//! There are more keys than fit. A get that misses is followed by a set of its key, as in a
//! program that has looked the value up elsewhere. What counts is the share of gets that
//! hit, and that depends on which items a server evicts.
//!
//! A server keeps more items where it needs less memory for each. That is not what is
//! compared here: both may keep the same bytes of keys and values. Ours has no memory to
//! fill, so its limit is what as many items need as memcached has after it was given every
//! key, rounded down to a MiB. Both begin with the keys that were stored last.

use crate::chart::{Chart, Scale, Series};
use crate::load::measure;
use crate::options::{Load, Mode, Options};
use crate::table::{CHARTS, print};
use crate::target::{Result, Target};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The memory of the memcached that is started, in MiB.
pub const MEMCACHED: u32 = 32;

const MIB: f64 = 1024.0 * 1024.0;

/// Drives the servers in turn, ours and memcached, prints the table and draws the chart.
pub fn compare(options: &Options, targets: &[Target]) -> Result {
    limit(&targets[0], &targets[1])?;
    let (items, seconds) = (&options.items, options.load.time.as_secs_f64());
    print(&format!(
        "{} keys, {seconds} s a row. Hits in percent of the gets.\n\n\
         server              gets    hits    items   of bytes",
        items.count
    ));
    let empty = |target: &Target| Series {
        name: target.name.into(),
        points: vec![],
        band: vec![],
    };
    let mut series: Vec<Series> = targets.iter().map(empty).collect();
    for pair in 0..options.pairs {
        for turn in 0..targets.len() {
            // Each pair has another order.
            let index = (pair + turn) % targets.len();
            let (target, points) = (&targets[index], &mut series[index].points);
            let (mode, connections) = (Mode::Cache, options.connections[0]);
            // Both request the same.
            let seed = options.load.seed.wrapping_add(pair as u64);
            let load = Load { mode, connections, seed, ..options.load.clone() };
            let measured = measure(target, &load)?;
            let (gets, hits) = (measured.gets, 100.0 * measured.hits / measured.gets);
            let kept = stat(target, "curr_items")?;
            let bytes = kept * (items.key_len + items.value_len) as f64;
            let name = target.name;
            print(&format!(
                "{name:<14} {gets:>9.0} {hits:>7.2} {kept:>8.0} {bytes:>10.0}"
            ));
            let before = points.last().map_or(0.0, |(millions, _)| *millions);
            points.push((before + gets / 1e6, hits));
        }
    }
    print("");
    for Series { name, points, .. } in &series {
        let later = &points[points.len() / 2..];
        let mut hits: Vec<f64> = later.iter().map(|(_, hits)| *hits).collect();
        hits.sort_by(f64::total_cmp);
        let (rows, median) = (hits.len(), hits[hits.len() / 2]);
        print(&format!("{name:<14} median of the last {rows} rows: {median:.2}"));
    }
    let chart = Chart {
        y_label: "gets that hit, in percent".into(),
        x_label: "gets so far, in millions".into(),
        scale: Scale::Linear,
        series,
    };
    let path = Path::new(CHARTS).join("hits.svg");
    fs::create_dir_all(CHARTS)?;
    fs::write(&path, chart.to_svg())?;
    print(&format!("Chart: {}", path.display()));
    Ok(())
}

/// Limits ours to as many items as memcached has, and waits until it has evicted the rest.
fn limit(ours: &Target, memcached: &Target) -> Result {
    let record = stat(ours, "bytes")? / stat(ours, "curr_items")?;
    let mib = (record * stat(memcached, "curr_items")? / MIB).floor().max(1.0);
    let limited = ask(ours, &format!("cache_memlimit {mib}\r\n"), "OK")?;
    limited.ok_or("the limit can't be set")?;
    while stat(ours, "bytes")? > mib * MIB {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A figure of the server's.
fn stat(target: &Target, name: &str) -> Result<f64> {
    let value = ask(target, "stats\r\n", &format!("STAT {name} "))?;
    Ok(value.ok_or(format!("{}: no {name}", target.name))?.parse()?)
}

/// The rest of the first line of the reply that begins with `start`.
fn ask(target: &Target, request: &str, start: &str) -> Result<Option<String>> {
    let mut stream = target.connect()?;
    stream.write_all(request.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix(start) {
            return Ok(Some(rest.to_owned()));
        }
        if ["END", "ERROR"].contains(&&line[..]) {
            break;
        }
    }
    Ok(None)
}

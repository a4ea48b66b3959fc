//! The two tables and the chart.

use crate::CASES;
use crate::chart::{Chart, Scale, Series};
use crate::crash::{self, Harm};
use crate::measure::{Costs, measure};
use crate::workload::{SEED, VALUE_SIZE};
use std::error::Error;
use std::fs;
use std::path::Path;

/// What an operation costs at these sizes; the updates are drawn.
pub fn costs(
    directory: &Path,
    sizes: &[usize],
    chart: &Path,
) -> Result<(), Box<dyn Error>> {
    println!(
        "Microseconds an operation, medians; values of {VALUE_SIZE} bytes; seed {SEED}."
    );
    println!("Each store is loaded in one go, which is not measured.\n");
    println!(
        "design                 keys  new key   update      get  KiB files   KiB disk"
    );
    let mut series = CASES.map(|case| Series {
        name: case.name.into(),
        points: vec![],
        band: vec![],
    });
    for &keys in sizes {
        let costs = measure(&directory.join(keys.to_string()), keys)?;
        for (line, costs) in series.iter_mut().zip(costs) {
            let Costs { quartiles, file_kib, disk_kib } = costs;
            let [set, update, get] = quartiles.map(|[_, median, _]| median);
            println!(
                "{:<20}{keys:>7}{set:>9.1}{update:>9.1}{get:>9.1}{file_kib:>11}{disk_kib:>11}",
                line.name
            );
            line.points.push((keys as f64, update));
            line.band.push((keys as f64, [quartiles[1][0], quartiles[1][2]]));
        }
    }
    let drawn = Chart {
        y_label: "microseconds to update a key".into(),
        x_label: "keys in the store".into(),
        scale: Scale::Logarithmic,
        series: series.into(),
    };
    if let Some(parent) = chart.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(chart, drawn.to_svg())?;
    println!(
        "\nEvery value that was read was the last one stored. Chart: {}\n",
        chart.display()
    );
    Ok(())
}

/// What a crash takes at each step of a set.
pub fn crashes(directory: &Path) -> Result<(), Box<dyn Error>> {
    println!(
        "A crash at every step of one set, {} keys: how often it takes what.\n",
        crash::KEYS
    );
    println!(
        "design              set of   steps  nothing  that key  other keys  the store"
    );
    // The last design differs from the one before it only in what it waits for.
    for case in &CASES[..CASES.len() - 1] {
        for (what, is_new) in [("an old", false), ("a new", true)] {
            let harms = crash::crash(case, directory, is_new)?;
            let count = |harm| harms.iter().filter(|&&other| other == harm).count();
            println!(
                "{:<20}{what:<7}{:>7}{:>9}{:>10}{:>12}{:>11}",
                case.name,
                harms.len(),
                count(Harm::None),
                count(Harm::ThatKey),
                count(Harm::OtherKeys),
                count(Harm::Unreadable)
            );
        }
    }
    Ok(())
}

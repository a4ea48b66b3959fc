//! The example `designs`, run on small stores. It compares every value itself, and ends
//! with an error when one is wrong.

mod common;

use common::{TempDir, example};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn all_designs_keep_their_values_and_only_ours_keeps_them_in_a_crash() {
    let directory = TempDir::new();
    let chart = directory.path().join("chart.svg");
    let run = Command::new(example("designs"))
        .args([chart.as_os_str(), "10".as_ref(), "20".as_ref()])
        .output()
        .expect("it runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let output = String::from_utf8(run.stdout).expect("text");

    let svg = fs::read_to_string(chart).expect("a chart");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    for name in ["binary", "text", "files", "seek", "json", "ours, always"] {
        assert!(svg.contains(&format!(">{name}</text>")), "{name} is not in {svg}");
        let rows = output.lines().filter(|line| line.starts_with(name));
        assert!(rows.count() >= 2, "{name} is not measured in {output}");
    }

    let (_, table) = output.split_once("A crash at every step").expect("a table");
    let mut rows = 0;
    for line in table.lines().skip(3) {
        let numbers: Vec<u64> =
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [steps, clean, lost @ ..] = &numbers[..] else { panic!("{line}") };
        assert_eq!(steps, &(clean + lost.iter().sum::<u64>()), "{line}");
        // Every set has a step before its first byte, and ours nothing but such steps.
        assert!(*clean > 0, "{line}");
        assert_eq!(line.starts_with("ours"), steps == clean, "{line}");
        rows += 1;
    }
    assert_eq!(rows, 12, "{table}");

    // The crashes are the same in every run, and the chapter shows them.
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/designs.md");
    let chapter = fs::read_to_string(chapter).expect("a chapter");
    assert!(
        chapter.contains(table.trim_end()),
        "docs/designs.md does not show {table}"
    );
}

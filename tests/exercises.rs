//! The exercises of docs/exercises.md: faults, each of which is planted in a copy of the
//! source in the place of one line. The page names the test that has to find it.
//!
//! `make exercises` does them all, which takes a while; `make exercise N=7` asks first, and
//! then does the seventh. That each line is there once to be replaced, and each named test,
//! is tested always, so that a change of the source takes its exercises along.
//!
//! What is to be built by docs/build.md has its scripts in examples/exercises: each has to
//! fail at the step that needs it.
//!
//! A test has to pass without the fault, in a short run if there is one. With the fault,
//! `simulate` may try 1,000 seeds, and `torture` as many rounds.

use memcached_lite::driver::Options;
use memcached_lite::driver::script::parse as parse_script;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

struct Exercise<'a> {
    number: usize,
    /// All that is read before the answer.
    question: &'a str,
    file: &'a str,
    /// The line, without what it is indented by, and what is put in its place.
    line: &'a str,
    instead: &'a str,
    answer: &'a str,
    /// The test that has to find it: a file of tests, and a function there.
    target: &'a str,
    test: &'a str,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/exercises.md")).expect("the page")
}

fn exercises(page: &str) -> Vec<Exercise<'_>> {
    let sections = page.split("\n### ").skip(1);
    sections.map(|it| parse(it.split("\n## ").next().unwrap_or(it))).collect()
}

/// Parses a section of the page, from its title on.
fn parse(section: &str) -> Exercise<'_> {
    let (question, mut rest) = section.split_once("<details>").expect(section);
    let answer = between(&mut rest, "</summary>\n", "</details>").trim();
    let (mut names, mut rest) = (answer.split('`'), question);
    Exercise {
        number: between(&mut rest, "", ". ").parse().expect(section),
        question,
        file: between(&mut rest, "```rust ", "\n"),
        line: between(&mut rest, "", "\n```\n"),
        instead: between(&mut rest, "```rust,instead\n", "\n```\n"),
        answer,
        target: names.nth(1).expect(section),
        test: names.nth(1).expect(section),
    }
}

/// What stands between `start` and `end`, after which `rest` begins from then on.
fn between<'a>(rest: &mut &'a str, start: &str, end: &str) -> &'a str {
    let after = rest.split_once(start).and_then(|(_, after)| after.split_once(end));
    let (inside, after) = after.unwrap_or_else(|| panic!("no {start:?} in: {rest}"));
    *rest = after;
    inside
}

impl Exercise<'_> {
    /// The file with the fault in it; the error says why it can't be planted.
    fn planted(&self) -> Result<String, String> {
        let Exercise { number, file, line, instead, .. } = self;
        let text = fs::read_to_string(root().join(file)).expect(file);
        let is_it = |text: &&str| text.trim_start() == *line;
        let lines = text.lines().map(|text| if is_it(&text) { instead } else { text });
        match text.lines().filter(is_it).count() {
            1 => Ok(lines.flat_map(|line| [line, "\n"]).collect()),
            count => {
                Err(format!("exercise {number}: {file} has {count} times {line:?}"))
            }
        }
    }

    /// Runs the test in a copy, with these variables of the environment. `Ok` has what it
    /// says where it fails, and `None` where it passes; the error is what cargo says where
    /// nothing was run.
    fn run(
        &self,
        copies: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Option<String>, String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--test", self.target, self.test]).current_dir(copies);
        cargo.env("CARGO_TARGET_DIR", copies.join("target")).env("RUST_BACKTRACE", "0");
        let output = cargo.envs(settings.iter().copied()).output().expect("cargo runs");
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && !text.contains(" 0 passed") {
            return Ok(None);
        }
        let why = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
        let why = why.or(text.lines().find(|line| line.ends_with("FAILED")));
        let error = || String::from_utf8_lossy(&output.stderr).into_owned();
        why.map(|why| Some(why.to_owned())).ok_or_else(error)
    }
}

/// Copies what differs: so what is built of it stays valid.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a directory");
        for entry in fs::read_dir(from).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else if fs::read(from).ok() != fs::read(to).ok() {
        fs::copy(from, to).expect("a copy");
    }
}

/// The copy as the source is, to plant a fault in.
fn fresh_copy() -> PathBuf {
    let copies = root().join("target/exercises");
    fs::create_dir_all(&copies).expect("a directory");
    for part in ["Cargo.toml", "Cargo.lock", "README.md", "src", "tests", "examples"] {
        copy(&root().join(part), &copies.join(part));
    }
    copies
}

#[test]
fn every_exercise_can_be_done() {
    let page = page();
    let exercises = exercises(&page);
    assert!(exercises.len() >= 30);
    for (exercise, number) in exercises.iter().zip(1..) {
        let Exercise { question, file, target, test, .. } = exercise;
        assert_eq!(exercise.number, number);
        assert!(question.contains(&format!("In `{file}`:")), "exercise {number}");
        assert_eq!(exercise.planted().err(), None);
        let tests = fs::read_to_string(root().join(format!("tests/{target}.rs")));
        let is_there = tests.is_ok_and(|text| text.contains(&format!("fn {test}(")));
        assert!(is_there, "exercise {number}: tests/{target}.rs has no {test}");
    }
}

/// What a script of docs/build.md asks for, as its first line says.
fn capability(script: &str) -> &str {
    between(&mut &script[..], "# New: ", ". ")
}

/// The script of a build exercise checks something: without what is to be built, each of its
/// scenes fails, at a step that needs just that.
#[test]
fn what_is_to_be_built_is_not_there_yet() {
    let page = fs::read_to_string(root().join("docs/build.md")).expect("the page");
    let directory = root().join("examples/exercises");
    let entries = fs::read_dir(&directory).expect("the scripts");
    let mut names: Vec<_> =
        entries.map(|it| it.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 10);
    assert_eq!(page.matches("](../examples/exercises/").count(), names.len());
    let check = |name: &str| {
        assert!(page.contains(&format!("](../examples/exercises/{name})")), "{name}");
        let path = directory.join(name);
        let script = fs::read_to_string(&path).expect(name);
        let parsed = parse_script(name, &script, &Options::default());
        let scenes = parsed.unwrap_or_else(|why| panic!("{why}"));
        assert!(page.contains(&format!("`{}`", capability(&script))), "{name}");
        let mut driver = Command::new(env!("CARGO_BIN_EXE_driver"));
        let output = driver.arg("--script").arg(&path).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let failures: Vec<_> =
            text.lines().filter_map(|line| line.split_once("FAILED: line ")).collect();
        assert_eq!(failures.len(), scenes.len(), "a scene of {name} passes: {text}");
        for ((_, failure), scene) in failures.iter().zip(scenes) {
            let (line, why) = failure.split_once(", ").expect(name);
            let line: usize = line.parse().expect(name);
            assert!(scene.steps.iter().any(|(number, _)| *number == line), "{failure}");
            let step = script.lines().nth(line - 1).expect(name);
            let why = why.strip_prefix(&scene.title).expect(name);
            // The step, or what was asked before it.
            let what = capability(&script);
            assert!(step.contains(what) || why.contains(what), "{name}: {failure}");
        }
    };
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| check(name.to_str().expect("UTF-8")));
        }
    });
}

/// What the page names is where it says.
#[test]
fn the_build_exercises_begin_somewhere() {
    let page = fs::read_to_string(root().join("docs/build.md")).expect("the page");
    let spans: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    let files =
        spans.iter().filter(|it| it.starts_with("src/") || it.starts_with("tests/"));
    let mut code = String::new();
    for file in files {
        code += &fs::read_to_string(root().join(file)).expect(file);
    }
    let names = spans.iter().filter(|it| {
        let letters = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
        it.chars().all(letters) && it.contains("::")
    });
    assert!(names.clone().count() > 10);
    for name in names {
        let (of, function) = name.split_once("::").expect("a path");
        let is_there = |what: String| code.contains(&what);
        assert!(
            is_there(format!("fn {function}(")) || is_there(format!("fn {function}<")),
            "{name}"
        );
        assert!(
            is_there(format!("struct {of}")) || is_there(format!("enum {of}")),
            "{name}"
        );
    }
}

#[test]
#[ignore = "takes a while: make exercises, or make exercise N=7"]
fn every_fault_is_found_by_its_test() {
    let (page, mut missed) = (page(), Vec::new());
    let mut exercises = exercises(&page);
    if let Ok(only) = env::var("EXERCISE") {
        exercises.retain(|exercise| exercise.number.to_string() == only);
        let [Exercise { question, .. }] = exercises[..] else {
            panic!("no exercise {only}");
        };
        println!("\n{question}Predict which test fails, then press Enter.");
        io::stdin().read_line(&mut String::new()).expect("a line");
    }
    let copies = fresh_copy();
    let mut passed = BTreeSet::new();
    for exercise in &exercises {
        let Exercise { number, target, test, .. } = exercise;
        if passed.insert((target, test)) {
            let result = exercise.run(&copies, &[]);
            assert_eq!(result, Ok(None), "{target}, {test}, without exercise {number}");
        }
    }
    println!("exercise  test, and what it says");
    for exercise in &exercises {
        let Exercise { number, target, test, .. } = exercise;
        fs::write(
            fresh_copy().join(exercise.file),
            exercise.planted().expect("checked by the other test"),
        )
        .expect("written");
        let long = [("SEED", "1"), ("SEEDS", "1000"), ("ROUNDS", "1000")];
        let found = match exercise.run(&copies, &long) {
            Ok(Some(why)) => why,
            other => {
                missed.push(*number);
                format!("NOT FOUND: {}", other.err().unwrap_or_default())
            }
        };
        println!("{number:8}  {target}, {test}: {found}");
    }
    if let [Exercise { answer, .. }] = exercises[..] {
        println!("\n{answer}\n");
    }
    assert_eq!(missed, [0; 0], "faults that are not found by their tests");
}

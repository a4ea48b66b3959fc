//! The driver: what its scenarios show, and that its verdict is worth something.

mod common;

use assert_cmd::Command;
use common::TempDir;
use std::fs;
use std::process::Output;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

/// Runs the driver with this as its temporary directory.
fn drive(directory: &TempDir, args: &[&str]) -> Output {
    let mut driver = Command::new(env!("CARGO_BIN_EXE_driver"));
    driver.args(args).env("TMPDIR", directory.path());
    // Meant for others: the scenarios' servers and clients must not hear of it.
    driver.env("SERVER_HOST", "0.0.0.0").env("SERVER_PORT", "1");
    driver.timeout(Duration::from_secs(60)).output().expect("it runs")
}

/// How the scenarios that are looked at here ended. All are played at the same time,
/// since each waits for seconds until its server exits.
static PLAYED: LazyLock<Vec<Output>> = LazyLock::new(|| {
    let play = |number| {
        let directory = TempDir::new();
        let output = drive(&directory, &["--test", number]);
        assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
        output
    };
    thread::scope(|scope| {
        let plays =
            ["1", "2", "3", "4"].map(|number| scope.spawn(move || play(number)));
        plays.into_iter().map(|play| play.join().expect("played")).collect()
    })
});

/// The lines that a scenario has shown, which has ended well.
fn played(number: usize) -> Vec<String> {
    let output = &PLAYED[number - 1];
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    text.lines().map(str::to_owned).collect()
}

/// A line, with `PORT` for what differs from run to run.
fn without_port(line: &str) -> String {
    for (before, name) in [
        ("Server: Listening on 127.0.0.1:", "PORT..."),
        ("SERVER: Connected by ('127.0.0.1', ", "PORT)"),
        ("Server: Detached from 127.0.0.1:", "PORT"),
    ] {
        if let Some(port) = line.strip_prefix(before) {
            assert!(port.starts_with(|c: char| c.is_ascii_digit()), "{line}");
            return format!("{before}{name}");
        }
    }
    line.to_owned()
}

/// What a client's part of a scenario looks like.
fn a_clients_part(name: &str, asked: &[(&str, &str)], numbered: bool) -> Vec<String> {
    let mut lines = vec!["SERVER: Connected by ('127.0.0.1', PORT)".to_owned()];
    for (i, (instruction, reply)) in asked.iter().enumerate() {
        let nth = match i {
            _ if !numbered => String::new(),
            11..=13 => format!("{i}th instruction "),
            _ => {
                let ending = ["th", "st", "nd", "rd"].get(i % 10).unwrap_or(&"th");
                format!("{i}{ending} instruction ")
            }
        };
        lines.push(format!(
            "{name}: {nth}'{instruction}' received response: \"{reply}\""
        ));
    }
    lines.push(format!("{name}: Connection closed"));
    lines.push("SERVER: Client disconnected".into());
    lines
}

/// What a whole scenario looks like.
fn a_scenario(number: usize, parts: &[Vec<String>], replies: u32) -> Vec<String> {
    let mut lines = vec![format!("Beginning test {number}")];
    lines.push("Server: Listening on 127.0.0.1:PORT...".into());
    lines.extend(parts.concat());
    lines.push("SERVER: Timeout reached at 3 seconds".into());
    lines.push("Server: Detached from 127.0.0.1:PORT".into());
    let (clients, s) = (parts.len(), if parts.len() == 1 { "" } else { "s" });
    lines.push(format!(
        "test {number}: ok: {replies} replies as expected, {clients} client{s}"
    ));
    lines
}

fn shows(number: usize, parts: &[Vec<String>], replies: u32) {
    let lines = played(number);
    let lines: Vec<_> = lines.iter().map(|line| without_port(line)).collect();
    assert_eq!(lines, a_scenario(number, parts, replies));
}

const STORED: &str = "STORED\\r\\n";
const NOT_FOUND: &str = "KEY NOT FOUND\\r\\n";

#[test]
fn scenario_1_shows_three_clients() {
    let parts: Vec<_> = [("CLIENT1", "5"), ("CLIENT2", "10"), ("CLIENT3", "15")]
        .into_iter()
        .map(|(name, age)| {
            let asked = [
                ("set name John Doe", STORED),
                ("get name", "John Doe"),
                (&format!("set age {age}"), STORED),
                ("get age", age),
                ("set name Jane Doe", STORED),
                ("get name", "Jane Doe"),
            ];
            a_clients_part(name, &asked, false)
        })
        .collect();
    shows(1, &parts, 18);
}

#[test]
fn scenario_2_shows_dozens_of_requests() {
    let lengths = [
        9, 22, 110, 110, 9, 9, 30, 30, 17, 30, 17, 92, 17, 17, 105, 105, 12, 118, 25,
        25,
    ];
    let mut asked = Vec::new();
    for (i, length) in (80..).zip(lengths) {
        asked.push((format!("set len(collatz({i})) {length}"), STORED.to_owned()));
    }
    for (i, length) in (90..).zip(&lengths[10..]) {
        asked.push((format!("get len(collatz({i}))"), length.to_string()));
    }
    for i in 100..102 {
        asked.push((format!("get len(collatz({i}))"), NOT_FOUND.to_owned()));
    }
    let asked: Vec<_> = asked.iter().map(|(i, reply)| (&i[..], &reply[..])).collect();
    shows(2, &[a_clients_part("CLIENT1", &asked, true)], 32);
}

#[test]
fn scenario_3_shows_keys_that_fit_and_keys_that_do_not() {
    let lines = played(3);
    let (fitting, long) = ("k".repeat(60), "k".repeat(251));
    let replies: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split_once(" instruction '"))
        .filter_map(|(_, rest)| rest.split_once("' received response: "))
        .collect();
    let (set, get) = (format!("set {fitting} sixty bytes"), format!("get {fitting}"));
    let (set_long, get_long) = (format!("set {long} too long"), format!("get {long}"));
    let by_client = "error: a key of 251 bytes is longer than 60, the key size";
    let by_server = "error: CLIENT_ERROR bad command line format";
    let expected: [(&str, &str); 7] = [
        (&set, r#""STORED\r\n""#),
        (&get, r#""sixty bytes""#),
        (&set_long, by_client),
        (&get_long, by_client),
        (&set_long, by_server),
        (&get_long, by_server),
        (&get, r#""sixty bytes""#),
    ];
    assert_eq!(replies, expected);
    let last = lines.last().expect("a verdict");
    assert_eq!(last, "test 3: ok: 7 replies as expected, 2 clients");
}

#[test]
fn scenario_4_shows_a_missing_key_and_what_only_looks_malformed() {
    let asked = [
        ("get key", NOT_FOUND),
        ("set keyvalue key value", STORED),
        ("get keyvalue", "key value"),
        ("get key", NOT_FOUND),
    ];
    shows(4, &[a_clients_part("CLIENT1", &asked, true)], 4);
}

#[test]
fn the_list_names_every_scenario() {
    let directory = TempDir::new();
    let output = drive(&directory, &["--list"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let numbers: Vec<_> = text
        .lines()
        .map(|line| line.trim_start().split_once("  ").expect("number and title"))
        .inspect(|(_, title)| assert!(!title.trim().is_empty(), "{text}"))
        .map(|(number, _)| number.parse::<usize>().expect("a number"))
        .collect();
    assert!(numbers.len() >= 4, "{text}");
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_scenario_that_is_not_in_the_list_is_refused() {
    let directory = TempDir::new();
    for number in ["0", "1000", "-1", "x", ""] {
        let output = drive(&directory, &["--test", number]);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert!(
            stderr.starts_with("driver: --test takes a number from 1 to "),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]));
    }
}

#[test]
fn without_a_temporary_directory_the_verdict_is_no() {
    let directory = TempDir::new();
    fs::remove_dir(directory.path()).expect("remove");
    let output = drive(&directory, &["--test", "1"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("test 1: FAILED: no temporary directory: "), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

/// Files may grow to 512 bytes, or 1024, as the shell has it: then the server has to
/// answer with an error where the scenario wants `STORED`.
#[test]
fn a_reply_that_is_not_as_it_should_be_is_a_verdict_of_no() {
    let directory = TempDir::new();
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let driver = env!("CARGO_BIN_EXE_driver");
    limited.args(["-c", script, "sh", driver, "--test", "1"]);
    limited.env("TMPDIR", directory.path()).timeout(Duration::from_secs(60));
    let output = limited.output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let verdict = text.lines().last().expect("a verdict");
    assert!(verdict.starts_with("test 1: FAILED: CLIENT1: 'set "), "{text}");
    assert!(verdict.ends_with(r#"' should receive "STORED\r\n""#), "{text}");
    assert_eq!(output.status.code(), Some(1));
    // Its server is gone, and so are its data.
    assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
}

//! The driver: what its scenarios show, and that its verdict is worth something (D1 to
//! D3).

mod common;

use assert_cmd::Command;
use common::{Server, TempDir};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{self, Output, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

/// The driver, with this as its temporary directory.
fn driver(directory: &TempDir) -> Command {
    let mut driver = Command::new(env!("CARGO_BIN_EXE_driver"));
    driver.env("TMPDIR", directory.path()).timeout(Duration::from_secs(60));
    // Meant for others: the scenarios' servers and clients must not hear of it.
    driver.env("SERVER_HOST", "0.0.0.0").env("SERVER_PORT", "1");
    driver
}

fn drive(directory: &TempDir, args: &[&str]) -> Output {
    driver(directory).args(args).output().expect("it runs")
}

/// The same, with nothing left behind (D2). Returns what it has shown and its exit
/// code.
fn shown(args: &[&str]) -> (String, Option<i32>) {
    let directory = TempDir::new();
    let output = drive(&directory, args);
    assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
    (String::from_utf8(output.stdout).expect("text"), output.status.code())
}

/// How the scenarios ended. All are played at the same time, since some wait for
/// seconds until their server exits.
static PLAYED: LazyLock<Vec<Output>> = LazyLock::new(|| {
    let play = |number: usize| {
        let directory = TempDir::new();
        let args = ["--test", &number.to_string(), "--seed", "7"];
        let output = drive(&directory, &args);
        // D2
        assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
        output
    };
    thread::scope(|scope| {
        let plays: Vec<_> =
            (1..=18).map(|number| scope.spawn(move || play(number))).collect();
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

/// A scenario has ended with this verdict, and has shown these lines, or lines that
/// begin so, in this order.
fn ends(number: usize, verdict: &str, facts: &[&str]) -> Vec<String> {
    let lines = played(number);
    let last = lines.last().expect("a verdict");
    assert_eq!(last, &format!("test {number}: ok: {verdict}"));
    let mut rest = lines.iter();
    for fact in facts {
        let found = rest.any(|line| line.starts_with(fact));
        assert!(found, "{fact} is not in its place in {lines:#?}");
    }
    lines
}

#[test]
fn scenario_5_shows_that_keys_match_whole_and_updates_are_seen_at_once() {
    let facts = [
        "CLIENT1: 'set Hello World' received response: \"STORED\\r\\n\"",
        "CLIENT2: 'get Hello' received response: \"World\"",
        "CLIENT2: 'get at' received response: \"KEY NOT FOUND\\r\\n\"",
        "CLIENT2: 'get concatenate' received response: \"concatenate concat at 3\"",
    ];
    ends(5, "33 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_6_verifies_every_client() {
    let lines = ends(
        6,
        "20 replies as expected, 10 clients",
        &["Seed: --seed 7", "10 clients, 10 verified, in ", "a client's set and get: "],
    );
    let each = lines.iter().filter(|line| line.starts_with("CLIENT"));
    let retrieved = |line: &&String| line.contains(": successful key value retrieval");
    assert_eq!(each.filter(retrieved).count(), 10, "{lines:#?}");
}

#[test]
fn scenario_7_shows_that_a_kill_takes_nothing_that_was_acknowledged() {
    let lines = played(7);
    let starts: Vec<_> =
        lines.iter().filter(|line| line.starts_with("Server: Listening on ")).collect();
    // The first ends when idle; the second and those after it have one port.
    assert_eq!(starts.len(), 5, "{lines:#?}");
    assert!(starts[2..].iter().all(|line| *line == starts[1]), "{starts:?}");
    let kills = lines.iter().filter(|line| line.starts_with("Server: Killed at "));
    assert_eq!(kills.count(), 3);
    let checks = lines
        .iter()
        .filter(|line| line.starts_with("all ") && line.ends_with(" acknowledged"));
    assert_eq!(checks.count(), 3, "{lines:#?}");
    // How much was done before the kills, the clock decides.
    let verdict = lines.last().expect("a verdict");
    assert!(verdict.starts_with("test 7: ok: "), "{verdict}");
    assert!(verdict.ends_with(" replies as expected, 17 clients"), "{verdict}");
}

#[test]
fn scenario_8_shows_that_the_stalled_delay_nobody_and_lose_nothing() {
    let facts = [
        "PEER4: 'set large 0 0 500000\\r\\nvvv",
        "CLIENT5: 'get lively' received response: \"19\"",
        "CLIENT5: 'get half' received response: \"KEY NOT FOUND\\r\\n\"",
        "PEER2: '-last\\r\\n' received response: \"STORED\\r\\n\"",
        "CLIENT5: 'get half' received response: \"first-last\"",
        "PEER4: 'get large' received response: \"VALUE large 0 500000\\r\\nvvv",
    ];
    ends(8, "87 replies as expected, 5 clients", &facts);
}

#[test]
fn scenario_9_shows_large_values_and_the_one_that_is_too_large() {
    let facts = [
        "PEER1: 'set large 0 0 64000, in crumbs' received response: \"STORED",
        "PEER1: 'set large 0 0 1048571, in crumbs' received response: \"STORED",
        "PEER1: '\\r\\n' received response: \"SERVER_ERROR object too large for cache",
        "PEER1: 'set large 0 0 5\\r\\nsmall\\r\\n' received response: \"STORED",
        "CLIENT2: 'get ",
    ];
    ends(9, "19 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_10_shows_flags_expiry_and_noreply() {
    let facts = [
        "PEER1: 'get flagged\\r\\n' received response: \"VALUE flagged 4294967295 5",
        "PEER1: 'get gone\\r\\n' received response: \"END\\r\\n\"",
        "'brief' was there ",
        "CLIENT6: 'get three' received response: \"new\"",
    ];
    ends(10, "28 replies as expected, 8 clients", &facts);
}

#[test]
fn scenario_11_counts_each_increment_once() {
    let lines = ends(11, "322 replies as expected, 9 clients", &["Seed: --seed 7"]);
    let increments = lines.iter().filter(|line| line.contains(": 'incr counter 1' "));
    let made = format!("{} increments, each with a number", increments.count());
    assert!(lines.iter().any(|line| line.starts_with(&made)), "{made}: {lines:#?}");
}

#[test]
fn scenario_12_shows_one_key_with_many_values() {
    let values = "violet,green,yellow,blue,red,white";
    let got = format!("CLIENT1: 'get colours' received response: \"{values}\"");
    let facts = ["CLIENT1: 'append colours ,green' received response: \"NOT_ST", &got];
    ends(12, "12 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_13_shows_that_asking_for_a_key_does_not_make_it() {
    let lines = ends(13, "92 replies as expected, 1 client", &["Seed: --seed 7"]);
    let missing = r#"received response: "KEY NOT FOUND\r\n""#;
    assert_eq!(lines.iter().filter(|line| line.ends_with(missing)).count(), 60);
}

#[test]
fn scenario_14_shows_that_what_was_cleared_stays_cleared() {
    let facts = [
        "CLIENT1: 'delete, yes' received response: \"OK\\r\\n\"",
        "Server: Killed at ",
        "CLIENT2: 'get four' received response: \"KEY NOT FOUND\\r\\n\"",
        "CLIENT2: 'get five' received response: \"afterwards\"",
    ];
    ends(14, "16 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_15_shows_who_comes_and_who_goes() {
    let facts = [
        "CLIENT1: can't connect to 127.0.0.1:",
        "Server: Listening on 127.0.0.1:",
        "Server: Killed at 127.0.0.1:",
        "CLIENT1: 'get name' received response: error: the ",
        "CLIENT1: 'get name' received response: \"John Doe\"",
        "CLIENT2: Killed",
        "SERVER: Client disconnected",
        "SERVER: Timeout reached at 3 seconds",
        "Server: Detached from 127.0.0.1:",
    ];
    ends(15, "6 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_16_shows_one_client_at_a_time() {
    let facts = [
        "PEER4: '' received response: \"ERROR Too many open connections\\r\\n\"",
        "CLIENT1: Connection closed",
        "PEER2: 'get turn' received response: \"VALUE turn 0 1\\r\\n2\\r\\nEND\\r\\n\"",
        "PEER2: Connection closed",
        "PEER3: 'get turn' received response: \"VALUE turn 0 1\\r\\n3\\r\\nEND\\r\\n\"",
    ];
    ends(16, "6 replies as expected, 4 clients", &facts);
}

#[test]
fn scenario_17_shows_that_no_neighbour_is_hurt() {
    let facts =
        ["PEER2: 'set key five 0 18\\r\\ndelete neighbour\\r\\n\\r\\n' received"];
    let lines = ends(17, "306 replies as expected, 12 clients", &facts);
    let unhurt = "CLIENT1: 'get neighbour' received response: \"unhurt\"";
    assert_eq!(lines.iter().filter(|line| *line == unhurt).count(), 17);
}

#[test]
fn scenario_18_shows_two_dialects_byte_for_byte() {
    let lite = r#""VALUE name 4 \r\nJosh\r\nEND\r\n""#;
    let raw = r#""VALUE name \x00\x00\x00\x07 \r\nJosh \r\nEND \r\n""#;
    let [lite, raw] = [("PEER1", lite), ("PEER3", raw)].map(|(name, reply)| {
        format!("{name}: 'get name\\r\\n' received response: {reply}")
    });
    ends(18, "36 replies as expected, 4 clients", &[&lite, &raw]);
}

#[test]
fn as_many_clients_come_as_are_asked_for() {
    for (args, count) in
        [(&["--clients", "50"][..], 50), (&["--test", "6", "--clients", "3"], 3)]
    {
        let (text, code) = shown(args);
        let replies = 2 * count;
        let verified = format!("\n{count} clients, {count} verified, in ");
        let verdict =
            format!("\ntest 6: ok: {replies} replies as expected, {count} clients\n");
        assert!(text.contains(&verified) && text.ends_with(&verdict), "{text}");
        let times = text.lines().find(|line| line.starts_with("a client's set and"));
        let times: Vec<u64> = times
            .expect("times")
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        assert!(times.len() == 3 && times.is_sorted() && times[0] > 0, "{times:?}");
        assert_eq!(code, Some(0));
    }
}

#[test]
fn a_number_of_clients_that_makes_no_sense_is_refused() {
    let directory = TempDir::new();
    for number in ["0", "-1", "100001", "many", ""] {
        let output = drive(&directory, &["--clients", number]);
        let stderr = String::from_utf8(output.stderr).expect("text");
        let why = "driver: --clients takes a number from 1 to 100000, not ";
        assert_eq!(stderr, format!("{why}{number}\n"));
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]));
    }
}

/// Runs the driver where so many files may be open at once.
fn limited(directory: &TempDir, limit: &str, args: &[&str]) -> Output {
    let mut shell = Command::new("sh");
    let script = format!("ulimit {limit} 100; exec \"$@\"");
    shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_driver")]).args(args);
    shell.env("TMPDIR", directory.path()).timeout(Duration::from_secs(60));
    shell.output().expect("it runs")
}

#[test]
fn where_a_limit_on_open_files_can_be_raised_it_is() {
    let directory = TempDir::new();
    let output = limited(&directory, "-Sn", &["--clients", "30"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.ends_with("60 replies as expected, 30 clients\n"), "{text}");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn where_a_limit_on_open_files_is_in_the_way_it_is_said_what_to_do() {
    let directory = TempDir::new();
    // Where whoever runs this may raise any limit, nothing is in the way.
    let output = limited(&directory, "-n", &["--clients", "30"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let verdict = text.lines().last().expect("a verdict");
    let advice = "test 6: FAILED: 30 clients need 124 open files and the system allows \
                  100; raise it with `ulimit -Hn 124`, or use fewer --clients";
    let is_raised = verdict == "test 6: ok: 60 replies as expected, 30 clients";
    assert!(verdict == advice || is_raised, "{text}");
    assert_eq!(output.status.code(), Some(if is_raised { 0 } else { 1 }));
}

#[test]
fn a_server_that_runs_already_can_be_driven() {
    let server = Server::start(&[]);
    let address = server.addr.to_string();
    for (number, verdict) in [
        ("1", "ok: 18 replies as expected, 3 clients"),
        ("3", "skipped: it needs a server with --key-size 60, not "),
        ("7", "skipped: it needs a server that can be killed and started again, not "),
        ("13", "ok: 92 replies as expected, 1 client"),
        ("15", "skipped: it needs servers that start late and end, not "),
        ("16", "skipped: it needs a server with --conn-limit 1 --backlog 2, not "),
        ("18", "skipped: it needs servers with --dialect lite and --dialect raw, not "),
    ] {
        let (text, code) = shown(&["--test", number, "--against", &address]);
        let address = if verdict.ends_with("not ") { &address } else { "" };
        let verdict = format!("test {number}: {verdict}{address}");
        assert_eq!(text.lines().last(), Some(&verdict[..]), "{text}");
        assert_eq!(code, Some(0));
    }
}

#[test]
fn where_nobody_listens_the_verdict_is_no() {
    // Bound and given back: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("address").to_string();
    drop(listener);
    let (text, code) = shown(&["--test", "1", "--against", &address]);
    let verdict = text.lines().last().expect("a verdict");
    let why = format!("test 1: FAILED: can't connect to {address}: ");
    assert!(verdict.starts_with(&why), "{text}");
    assert_eq!(code, Some(1));
}

/// D1: a server that answers everything with `OK`, which is right for `flush_all`
/// alone.
#[test]
fn a_wrong_answer_is_a_verdict_of_no() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("address").to_string();
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut replies = &stream;
                for _ in BufReader::new(&stream).lines().map_while(Result::ok) {
                    if std::io::Write::write_all(&mut replies, b"OK\r\n").is_err() {
                        break;
                    }
                }
            });
        }
    });
    for (number, why) in [
        ("1", "CLIENT1: 'set name John Doe' should receive \"STORED\\r\\n\""),
        ("6", "a client could not connect: \"OK\\r\\n\""),
        ("10", "PEER1: 'set flagged 4294967295 0 5\\r\\nvalue\\r\\n' should receive"),
        ("17", "CLIENT1: 'set neighbour unhurt' should receive \"STORED\\r\\n\""),
    ] {
        let args = ["--test", number, "--against", &address];
        let (text, code) = shown(&args);
        let verdict = text.lines().last().expect("a verdict");
        let why = format!("test {number}: FAILED: {why}");
        assert!(verdict.starts_with(&why), "{text}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn an_address_that_is_none_is_refused() {
    let directory = TempDir::new();
    for address in ["nonsense", "127.0.0.1:", "127.0.0.1:70000", ""] {
        let output = drive(&directory, &["--test", "1", "--against", address]);
        let stderr = String::from_utf8(output.stderr).expect("text");
        let why = format!("driver: --against takes HOST:PORT, not {address}\n");
        assert_eq!(stderr, why);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]));
    }
}

/// What a scenario has asked for, and of whom.
fn requests(number: &str, seed: &str) -> Vec<String> {
    let (text, code) = shown(&["--test", number, "--seed", seed]);
    assert_eq!(code, Some(0), "{text}");
    // Threads that go on at the same time may come in any order.
    let mut requests: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once("' received response: "))
        .map(|(request, _)| request.to_owned())
        .collect();
    requests.sort();
    requests
}

/// D3
#[test]
fn a_seed_determines_what_is_asked_for() {
    for number in ["11", "13"] {
        let first = requests(number, "1");
        assert!(first.len() > 50, "{first:?}");
        assert_eq!(first, requests(number, "1"));
        assert_ne!(first, requests(number, "2"));
    }
}

/// D2: clients end with their input, a server because nobody is connected.
#[test]
fn nothing_outlives_a_driver_that_was_killed() {
    let directory = TempDir::new();
    let mut driver = process::Command::new(env!("CARGO_BIN_EXE_driver"));
    driver.args(["--test", "8"]).env("TMPDIR", directory.path());
    driver.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut driver = driver.spawn().expect("it runs");
    let lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
    let has_client = lines.map_while(Result::ok).any(|line| line.starts_with("CLIENT"));
    assert!(has_client);
    driver.kill().expect("killed");
    driver.wait().expect("gone");
    // A server has its driver's standard error: it ends when all have that had it.
    let mut said = String::new();
    driver.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(said, "");
}

#[test]
fn a_driver_plays_on_when_nobody_reads_what_it_shows() {
    let directory = TempDir::new();
    let mut driver = process::Command::new(env!("CARGO_BIN_EXE_driver"));
    driver.args(["--test", "12"]).env("TMPDIR", directory.path());
    driver.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut driver = driver.spawn().expect("it runs");
    drop(driver.stdout.take());
    let output = driver.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
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
    assert!(numbers.into_iter().eq(1..=18), "{text}");
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

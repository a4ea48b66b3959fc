//! The driver: what its scenarios show, and that its verdict is worth something (D1 to
//! D3).

mod common;

use assert_cmd::Command;
use common::{REPLY_TIMEOUT, Server, TempDir};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{self, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

/// The driver, with this as its temporary directory.
fn driver(directory: &TempDir) -> Command {
    let mut driver = Command::new(env!("CARGO_BIN_EXE_driver"));
    driver.env("TMPDIR", directory.path()).timeout(Duration::from_secs(60));
    // Meant for other programs: the scenarios' servers and clients must not use it.
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
            (1..=19).map(|number| scope.spawn(move || play(number))).collect();
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
    lines.push("Waiting for the server, which ends when nobody is connected".into());
    lines.push("SERVER: Timeout reached at 3 seconds".into());
    lines.push("Server: Detached from 127.0.0.1:PORT".into());
    let (clients, s) = (parts.len(), if parts.len() == 1 { "" } else { "s" });
    lines.push(format!(
        "test {number}: ok: {replies} replies as expected, {clients} client{s}"
    ));
    lines
}

/// A verdict without its time.
fn timeless(verdict: &str) -> &str {
    let (verdict, time) = verdict.rsplit_once(", ").expect("a time");
    let seconds = time.strip_suffix(" s").expect("in seconds").parse::<f64>();
    assert!(seconds.is_ok_and(|seconds| seconds < 60.0), "{time}");
    verdict
}

fn shows(number: usize, parts: &[Vec<String>], replies: u32) {
    let lines = played(number);
    let mut lines: Vec<_> = lines.iter().map(|line| without_port(line)).collect();
    let verdict = lines.pop().expect("a verdict");
    lines.push(timeless(&verdict).to_owned());
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
    let by_client = r#""error: a key of 251 bytes is longer than 60, the key size""#;
    let by_server = r#""error: CLIENT_ERROR bad command line format""#;
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
    assert_eq!(timeless(last), "test 3: ok: 7 replies as expected, 2 clients");
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
    assert_eq!(timeless(last), format!("test {number}: ok: {verdict}"));
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
    ends(5, "13 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_6_verifies_every_client() {
    let lines = ends(6, "20 replies as expected, 10 clients", &["Seed: --seed 7"]);
    let each = lines.iter().filter(|line| line.starts_with("CLIENT"));
    let retrieved = |line: &&String| line.ends_with(": successful key value retrieval");
    assert_eq!(each.filter(retrieved).count(), 10, "{lines:#?}");
}

#[test]
fn scenario_7_shows_that_a_kill_loses_nothing_that_was_acknowledged() {
    let lines = played(7);
    let starts: Vec<_> =
        lines.iter().filter(|line| line.starts_with("Server: Listening on ")).collect();
    // The first ends when idle; the second and those after it have one port.
    assert_eq!(starts.len(), 5, "{lines:#?}");
    assert!(starts[2..].iter().all(|line| *line == starts[1]), "{starts:?}");
    let kills = lines.iter().filter(|line| *line == "SERVER: Killed");
    assert_eq!(kills.count(), 3);
    let is_count =
        |line: &&String| line.starts_with("WRITER") && line.ends_with(" times");
    assert_eq!(lines.iter().filter(is_count).count(), 3, "{lines:#?}");
    // How much was done before the kills, the clock decides.
    let verdict = lines.last().expect("a verdict");
    assert!(verdict.starts_with("test 7: ok: "), "{verdict}");
    let end = " replies as expected, 8 clients";
    assert!(timeless(verdict).ends_with(end), "{verdict}");
}

#[test]
fn scenario_8_shows_that_the_stalled_delay_nobody_and_lose_nothing() {
    let facts = [
        "UNREAD: 'set large 0 0 500000\\r\\nvvv",
        "CLIENT5: 'get lively' received response: \"10\"",
        "HALFWAY: 'set half 0 0 10\\r\\nfirst-last\\r\\n' received response: \"STORED",
        "CLIENT5: 'get half' received response: \"first-last\"",
        "UNREAD: 'get large\\r\\nget large",
    ];
    ends(8, "65 replies as expected, 5 clients", &facts);
}

#[test]
fn scenario_9_shows_large_values_and_the_one_that_is_too_large() {
    let facts = [
        "MAIN: 'set large 0 0 64000\\r\\nxxx",
        "MAIN: 'get large\\r\\n' received response: \"VALUE large 0 64000\\r\\nxxx",
        "MAIN: 'get large\\r\\n' received response: \"VALUE large 0 1000000\\r\\nxxx",
        "MAIN: 'set large 0 0 3145728\\r\\nxxx",
        "MAIN: 'get large\\r\\n' received response: \"END",
        "CLIENT1: 'get kkk",
    ];
    ends(9, "10 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_10_shows_flags_expiry_and_noreply() {
    let facts = [
        "MAIN: 'get flagged\\r\\n' received response: \"VALUE flagged 4294967295 6",
        "MAIN: 'get stays\\r\\n' received response: \"END\\r\\n\"",
        "CLIENT6: 'get key3' received response: \"new\"",
    ];
    ends(10, "20 replies as expected, 7 clients", &facts);
}

#[test]
fn scenario_11_counts_each_increment_once() {
    let lines = ends(11, "202 replies as expected, 6 clients", &["Seed: --seed 7"]);
    let increments = lines.iter().filter(|line| line.contains(": 'incr counter 1' "));
    assert_eq!(increments.count(), 60);
    let last = "CLIENT1: 'get counter' received response: \"60\"";
    assert!(lines.iter().any(|line| line == last), "{lines:#?}");
}

#[test]
fn scenario_12_shows_one_key_with_many_values() {
    let values = "violet,green,yellow,blue,red,white";
    let got = format!("CLIENT1: 'get colours' received response: \"{values}\"");
    let facts = ["CLIENT1: 'append colours ,green' received response: \"NOT_ST", &got];
    ends(12, "10 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_13_shows_that_asking_for_a_key_does_not_make_it() {
    let lines = ends(13, "107 replies as expected, 1 client", &["Seed: --seed 7"]);
    let missing = r#"received response: "KEY NOT FOUND\r\n""#;
    assert_eq!(lines.iter().filter(|line| line.ends_with(missing)).count(), 30);
}

#[test]
fn scenario_14_shows_that_what_was_cleared_stays_cleared() {
    let facts = [
        "CLIENT1: 'delete\\nyes' received response: \"OK\\r\\n\"",
        "SERVER: Killed",
        "CLIENT2: 'get one' received response: \"KEY NOT FOUND\\r\\n\"",
        "CLIENT2: 'get three' received response: \"afterwards\"",
    ];
    ends(14, "9 replies as expected, 2 clients", &facts);
}

#[test]
fn scenario_15_shows_servers_and_clients_that_start_and_end() {
    let facts = [
        "CLIENT1: can't connect to 127.0.0.1:",
        "Server: Listening on 127.0.0.1:",
        "SERVER: Killed",
        "CLIENT1: 'get name' received response: \"error: the ",
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
        "PEER2: 'get turn\\r\\n' received response: \"VALUE turn 0 1\\r\\n2\\r\\nEND",
        "PEER2: Connection closed",
        "PEER3: 'get turn\\r\\n' received response: \"VALUE turn 0 1\\r\\n3\\r\\nEND",
    ];
    ends(16, "6 replies as expected, 4 clients", &facts);
}

#[test]
fn scenario_17_shows_that_nobody_else_is_hurt() {
    let facts = ["PEER2: 'set key 0 0 18\\r\\ndelete neighbour\\r\\n\\r\\n' received"];
    let lines = ends(17, "16 replies as expected, 11 clients", &facts);
    let unhurt = "CLIENT1: 'get neighbour' received response: \"unhurt\"";
    assert_eq!(lines.iter().filter(|line| *line == unhurt).count(), 2);
}

#[test]
fn scenario_18_shows_two_dialects_byte_for_byte() {
    let lite = r#"received response: "STORED\r\nVALUE name 4 \r\nJosh\r\nEND\r\n""#;
    let raw = r#""STORED \r\nVALUE name \x00\x00\x00\x07 \r\nJosh \r\nEND \r\n""#;
    let lines = ends(18, "16 replies as expected, 4 clients", &[]);
    assert!(lines.iter().any(|line| line.ends_with(lite)), "{lines:#?}");
    assert!(lines.iter().any(|line| line.ends_with(raw)), "{lines:#?}");
}

#[test]
fn scenario_19_has_one_of_twenty_recompute() {
    let won = r#"received response: "VA 3 X W\r\nold\r\n""#;
    let lost = r#"received response: "VA 3 Z X\r\nold\r\n""#;
    let lines = ends(19, "30 replies as expected, 24 clients", &[]);
    let count = |end: &str| lines.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!((count(won), count(lost)), (1, 21), "{lines:#?}");
}

#[test]
fn as_many_clients_come_as_are_requested() {
    for (args, count) in
        [(&["--clients", "50"][..], 50), (&["--test", "6", "--clients", "3"], 3)]
    {
        let (text, code) = shown(args);
        let replies = 2 * count;
        let verdict = text.lines().last().expect("a verdict");
        let expected = format!("{replies} replies as expected, {count} clients");
        assert_eq!(timeless(verdict), format!("test 6: ok: {expected}"));
        assert_eq!(code, Some(0));
    }
}

#[test]
fn a_number_of_clients_that_makes_no_sense_is_rejected() {
    let directory = TempDir::new();
    for number in ["0", "-1", "100001", "many"] {
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
    let script = format!("ulimit {limit}; exec \"$@\"");
    shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_driver")]).args(args);
    shell.env("TMPDIR", directory.path()).timeout(Duration::from_secs(60));
    shell.output().expect("it runs")
}

#[test]
fn where_a_limit_on_open_files_can_be_raised_it_is() {
    let directory = TempDir::new();
    let output = limited(&directory, "-Sn 100", &["--clients", "50"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("ok: 100 replies as expected, 50 clients"), "{text}");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn where_a_limit_on_open_files_is_in_the_way_it_is_said_what_to_do() {
    let directory = TempDir::new();
    // A user that may raise any limit has no limit in the way.
    let output = limited(&directory, "-n 300", &["--clients", "250"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let stderr = String::from_utf8(output.stderr).expect("text");
    let advice = "driver: 250 clients need 314 open files and the system allows 300; raise it \
                  with `ulimit -Hn 314`, or use fewer --clients\n";
    match output.status.code() {
        Some(2) => assert_eq!((&text[..], &stderr[..]), ("", advice)),
        code => {
            assert!(
                text.contains("ok: 500 replies as expected, 250 clients"),
                "{text}"
            );
            assert_eq!((code, &stderr[..]), (Some(0), ""));
        }
    }
}

#[test]
fn a_server_that_runs_already_can_be_driven() {
    let server = Server::start(&[]);
    let address = server.addr.to_string();
    let needs_options = "keys of 60 and of 251 bytes where KEY_SIZE is 60: it needs a server \
                         with --key-size 60";
    for (number, verdict) in [
        ("1", "ok: 18 replies as expected, 3 clients"),
        ("3", &format!("skipped: {needs_options}")[..]),
        ("13", "ok: 107 replies as expected, 1 client"),
    ] {
        let (text, code) = shown(&["--test", number, "--against", &address]);
        let verdict = format!("test {number}: {verdict}");
        let last = text.lines().last().expect("a verdict");
        let last = if last.contains("ok: ") { timeless(last) } else { last };
        assert_eq!(last, verdict, "{text}");
        assert_eq!(code, Some(0));
    }
    for number in ["7", "14", "15"] {
        let (text, code) = shown(&["--test", number, "--against", &address]);
        let end = ": it needs a server that can be started again\n";
        assert!(text.ends_with(end), "{text}");
        assert_eq!(code, Some(0));
    }
    // Of two scenes, the one is played, and the other is not.
    let (text, _) = shown(&["--test", "9", "--against", &address]);
    assert!(
        text.contains("\ntest 9: skipped: keys of 1000 bytes: it needs "),
        "{text}"
    );
    assert!(text.contains("\ntest 9: ok: 6 replies as expected, 1 client"), "{text}");
}

#[test]
fn where_nobody_listens_the_verdict_is_no() {
    // Bound and given back: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("address").to_string();
    drop(listener);
    let (text, code) = shown(&["--test", "1", "--against", &address]);
    let verdict = text.lines().last().expect("a verdict");
    assert!(verdict.starts_with("test 1: FAILED: line "), "{text}");
    assert!(verdict.contains(&format!("can't connect to {address}: ")), "{text}");
    assert_eq!(code, Some(1));
}

/// A server that answers in the way of memcached, as far as the scenarios go, but for one
/// thing that is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    /// Lines end with `\n` alone.
    NoReturn,
    /// Each answer comes twice.
    Twice,
    /// Each answer comes when the next request is there.
    Late,
    /// There is no answer to a get.
    Silent,
    /// A get is answered by closing the connection.
    Closed,
    /// Every second set is forgotten.
    Lost,
    /// A get finds the value before the last.
    Stale,
    /// A get finds all but the value's last byte.
    Prefix,
}

/// Serves in threads that end with the test's process.
fn wrong_server(wrong: Wrong) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("address").to_string();
    let values: Arc<Mutex<BTreeMap<String, Vec<String>>>> = Arc::default();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let values = values.clone();
            thread::spawn(move || serve(&stream, wrong, &values));
        }
    });
    address
}

fn serve(
    mut stream: &TcpStream,
    wrong: Wrong,
    values: &Mutex<BTreeMap<String, Vec<String>>>,
) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let (mut sets, mut late) = (0, String::new());
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split(' ').collect();
        let mut values = values.lock().expect("nobody panics");
        let mut answer = match words[..] {
            ["flush_all", ..] => {
                values.clear();
                "OK\r\n".to_owned()
            }
            ["set", key, ..] => {
                let value = lines.next().unwrap_or_default();
                sets += 1;
                if wrong != Wrong::Lost || sets % 2 == 1 {
                    values.entry(key.into()).or_default().push(value);
                }
                "STORED\r\n".into()
            }
            ["delete", key] => {
                values.remove(key);
                "DELETED\r\n".into()
            }
            ["get", _] if wrong == Wrong::Silent => continue,
            ["get", _] if wrong == Wrong::Closed => return,
            ["get", key] => {
                let all = values.get(key).map(Vec::as_slice).unwrap_or_default();
                let found = match (wrong, all) {
                    (Wrong::Stale, [.., before, _]) => Some(&before[..]),
                    (Wrong::Prefix, [.., last]) => Some(&last[..last.len() - 1]),
                    _ => all.last().map(|last| &last[..]),
                };
                let item = found.map(|value| {
                    format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len())
                });
                item.unwrap_or_default() + "END\r\n"
            }
            _ => "ERROR\r\n".into(),
        };
        match wrong {
            // `flush_all` is the driver's own, and right.
            _ if words[0] == "flush_all" => {}
            Wrong::NoReturn => answer = answer.replace('\r', ""),
            Wrong::Twice => answer = answer.repeat(2),
            Wrong::Late => std::mem::swap(&mut answer, &mut late),
            _ => {}
        }
        if std::io::Write::write_all(&mut stream, answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// D1: whatever a server does wrong, the verdict tells who was told what instead of what.
#[test]
fn a_verdict_says_what_a_server_does_wrong() {
    let play = |(wrong, number, parts): (Wrong, &str, &[&str])| {
        let address = wrong_server(wrong);
        let (text, code) = shown(&["--test", number, "--against", &address]);
        let failed = format!("test {number}: FAILED: line ");
        let verdict = text.lines().find(|line| line.starts_with(&failed));
        let verdict = verdict.unwrap_or_else(|| panic!("{wrong:?}: {text}"));
        for part in parts {
            assert!(verdict.contains(part), "{wrong:?}: {part} is not in {verdict}");
        }
        assert_eq!(code, Some(1));
    };
    let set =
        "CLIENT1: 'set name John Doe' should receive \"STORED\\r\\n\" or \"STORED\"";
    let get = "CLIENT1: 'get name' should receive \"John Doe\\r\\n\" or \"John Doe\"";
    let lost = "CLIENT1: 'get age' should receive \"5\\r\\n\" or \"5\"";
    let cases: [(Wrong, &str, &[&str]); 9] = [
        (Wrong::NoReturn, "1", &[set, "received \"error: unexpected reply"]),
        (Wrong::NoReturn, "10", &["MAIN: 'set flagged", "received \"STORED\\n\""]),
        (Wrong::Twice, "1", &[get, "received \"error: unexpected reply"]),
        (Wrong::Late, "1", &[set, "received \"error: the server did not answer"]),
        (Wrong::Silent, "1", &[get, "received \"error: the server did not answer"]),
        (Wrong::Closed, "1", &[get, "received \"error: the server has closed"]),
        (Wrong::Lost, "1", &[lost, "received \"KEY NOT FOUND"]),
        (
            Wrong::Stale,
            "5",
            &[
                "CLIENT1: 'get Hello' should receive \"Distributed",
                "received \"World\"",
            ],
        ),
        (Wrong::Prefix, "1", &[get, "received \"John Do\""]),
    ];
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || play(case));
        }
    });
}

/// Writes a script and plays it.
fn play_script(script: &str, args: &[&str]) -> (String, String, Option<i32>) {
    let directory = TempDir::new();
    let path = directory.path().join("script.txt");
    fs::write(&path, script).expect("write");
    let args = [&["--script", path.to_str().expect("UTF-8")], args].concat();
    let scratch = TempDir::new();
    let output = drive(&scratch, &args);
    assert_eq!(fs::read_dir(scratch.path()).expect("directory").count(), 0);
    let name = format!("{}", path.display());
    let text = |bytes| String::from_utf8(bytes).expect("text").replace(&name, "FILE");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn a_script_of_ones_own_is_played() {
    let script = "client 1> add leader one\nclient 2> add leader two\n\
                  client 1< STORED | NOT_STORED\nclient 2< STORED | NOT_STORED\n\
                  client 1> set leader one\nclient 1< STORED\nclient 1 killed\n\
                  client 2> gets leader\nclient 2< {unique} one\n\
                  client 3> cas leader {unique} three\nclient 3< STORED\n\
                  client 2> cas leader {unique} two\nclient 2< EXISTS\n";
    let (text, stderr, code) = play_script(script, &[]);
    let last = text.lines().last().expect("a verdict");
    assert_eq!(timeless(last), "FILE: ok: 6 replies as expected, 3 clients", "{text}");
    assert_eq!((&stderr[..], code), ("", Some(0)));
}

/// D1: also of a process that says nothing at all.
#[test]
fn a_reply_that_nobody_has_asked_for_does_not_come() {
    let script = "client 1> get k\nclient 1< KEY NOT FOUND\n\
                  client 1 leaves\nclient 1> get k\nclient 1< x | {y}\n";
    let (text, _, code) = play_script(script, &[]);
    let verdict = "FILE: FAILED: line 5, FILE: CLIENT1: 'get k' should receive \
                   \"x\\r\\n\" or \"x\" or \"{y}\\r\\n\" or \"{y}\", received \"KEY NOT FOUND\\r\\n\"";
    assert_eq!((text.lines().last(), code), (Some(verdict), Some(1)));
}

#[test]
fn every_dialogue_of_tests_wire_is_a_script() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire");
    let files = fs::read_dir(directory).expect("tests/wire");
    let files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    assert!(files.len() > 10);
    thread::scope(|scope| {
        for file in files {
            scope.spawn(move || {
                let (text, code) = shown(&["--script", file.to_str().expect("UTF-8")]);
                assert_eq!(code, Some(0), "{text}");
            });
        }
    });
}

#[test]
fn a_script_that_makes_no_sense_is_named_with_its_line_before_anything_starts() {
    for (script, why) in [
        ("> get k\nnonsense\n", "FILE, line 2: expected a step, not \"nonsense\""),
        ("client x> get k\n", "FILE, line 1: expected a step, not \"client x> get k\""),
        ("server please\n", "FILE, line 1: expected a step, not \"server please\""),
        ("# fine\n> \\q\n", "FILE, line 2: expected a known escape in \"\\\\q\""),
        ("> \\x4\n", "FILE, line 1: expected two hex digits after \\x in \"\\\\x4\""),
        ("> {k\n", "FILE, line 1: expected the other half of a brace in \"{k\""),
        ("> k}\n", "FILE, line 1: expected the other half of a brace in \"k}\""),
        ("> {K}\n", "FILE, line 1: expected a name or a repetition, not \"K\""),
        ("@ Main\n", "FILE, line 1: expected a step, not \"@ Main\""),
        ("count STORED\n", "FILE, line 1: expected a name and a line, not \"STORED\""),
        ("repeat 2\n> k\n", "FILE, line 1: expected end, for this repeat"),
        ("> get k\nend\n", "FILE, line 2: expected repeat before end"),
        ("repeat many\n> k\nend\n", "FILE, line 1: expected a number after repeat"),
        ("== nothing\n", "FILE: expected steps in \"nothing\""),
    ] {
        let (text, stderr, code) = play_script(script, &[]);
        assert_eq!(stderr, format!("driver: {why}\n"));
        assert_eq!((&text[..], code), ("", Some(2)));
    }
    let missing = ["--script", "/nowhere/script.txt"];
    let (text, code) = shown(&missing);
    assert_eq!((&text[..], code), ("", Some(2)));
}

#[test]
fn another_program_can_be_the_server() {
    let server = env!("CARGO_BIN_EXE_server");
    let end = "it needs a server with --conn-limit 1 --backlog 2\n";
    let cases = [
        ("1", server, "\ntest 1: ok: ", 0),
        ("7", server, "\ntest 7: ok: ", 0),
        ("14", server, "\ntest 14: ok: ", 0),
        ("16", server, end, 0),
        // Neither a server that is not there, nor one that does not listen.
        ("5", "/nowhere/server", "can't start server: ", 1),
        ("5", "true", "did not print", 1),
    ];
    thread::scope(|scope| {
        for (number, server, part, exit) in cases {
            scope.spawn(move || {
                let (text, code) = shown(&["--test", number, "--server", server]);
                assert!(text.contains(part), "{text}");
                assert_eq!(code, Some(exit));
            });
        }
    });
}

#[test]
fn a_server_on_a_unix_socket_can_be_driven() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let path = path.to_str().expect("UTF-8");
    let server =
        Server::spawn_on(&directory.path().join("data"), &["--unix-socket", path]);
    server.wait_for_line(&format!("Listening on {path}..."), REPLY_TIMEOUT);
    for number in ["1", "10"] {
        let (text, code) = shown(&["--test", number, "--unix-socket", path]);
        assert!(text.contains(&format!("\ntest {number}: ok: ")), "{text}");
        assert_eq!(code, Some(0));
    }
}

/// What a scenario has requested, by which client.
fn requests(number: &str, seed: &str) -> Vec<String> {
    let (text, code) = shown(&["--test", number, "--seed", seed]);
    assert_eq!(code, Some(0), "{text}");
    // Threads that run at the same time may come in any order.
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
fn a_seed_determines_what_is_requested() {
    for number in ["6", "13"] {
        let first = requests(number, "1");
        assert!(first.len() >= 20, "{first:?}");
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
    assert!(numbers.into_iter().eq(1..=19), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_scenario_that_is_not_in_the_list_is_rejected() {
    let directory = TempDir::new();
    for number in ["0", "1000", "-1", "x"] {
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
    assert!(text.contains("no temporary directory: "), "{text}");
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
    assert!(verdict.contains("CLIENT1: 'set "), "{text}");
    assert!(verdict.contains(r#"' should receive "STORED"#), "{text}");
    assert!(verdict.contains(r#"received "error: SERVER_ERROR "#), "{text}");
    assert_eq!(output.status.code(), Some(1));
    // Its server is gone, and so are its data.
    assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
}

#[test]
fn all_scenarios_end_with_one_line_that_counts_them() {
    let directory = TempDir::new();
    let output = drive(&directory, &["--all", "--server", "/bin/true"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let last = text.lines().last().expect("a line");
    // What needs options of ours is skipped, and it starts no server for the others.
    assert!(last.starts_with("19 scenarios: 0 ok, "), "{last}");
    assert!(last.contains(" failed (1, 2, "), "{last}");
    assert!(last.contains(" skipped (3, 8, 16, 18)"), "{last}");
    assert_eq!(output.status.code(), Some(1));
}

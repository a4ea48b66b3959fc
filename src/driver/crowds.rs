//! Scenarios with many clients at once.

use super::stage::{Client, KEY_NOT_FOUND, Result, STORED, Stage, quoted};
use crate::os;
use crate::random::Random;
use crate::reply::TOO_MANY_CONNECTIONS;
use crate::say;
use std::collections::HashMap;
use std::io::{IsTerminal, stderr};
use std::thread;
use std::time::{Duration, Instant};

/// Scenario 6: as many clients as `--clients` says. They connect, then all are given
/// their two requests.
pub fn random_keys(stage: &Stage) -> Result {
    let count = stage.options.clients;
    // The ends of each client's two pipes, and both for the moment of its start.
    os::raise_descriptor_limit(2 * count as u64 + 64).map_err(|possible| {
        format!(
            "{count} clients need {} open files and the system allows {possible}; \
             raise it with `ulimit -Hn`, or use fewer --clients",
            2 * count + 64
        )
    })?;
    let conn_limit = (count + 8).max(1024).to_string();
    let server = stage.server(&["--conn-limit", &conn_limit])?;
    let (host, port) = server.address.rsplit_once(':').unwrap_or_default();
    let options = ["--host", host, "--port", port, "--timeout", "60", "-v"];
    let mut random = stage.random();
    let begun = Instant::now();
    let mut clients = Vec::new();
    for number in 1..=count {
        progress("started", number - 1, count);
        let mut client = stage.client_with(number, &options, &[])?;
        client.send("version")?;
        let (key_len, value_len) = (random.between(1, 30), random.between(1, 1000));
        // Random keys may be the same, which only their numbers rule out.
        let key = format!("{}{number}", random.text(key_len));
        clients.push((client, key, random.text(value_len)));
    }
    // When each has an answer, all are connected.
    for (client, ..) in &mut clients {
        let version = client.line()?;
        if !version.starts_with("\"VERSION ") {
            return Err(format!("a client could not connect: {version}"));
        }
        client.line()?;
    }
    for (client, key, value) in &mut clients {
        client.send(&format!("set {key} {value}\nget {key}"))?;
    }
    let mut times = Vec::new();
    for (number, (client, key, value)) in clients.iter_mut().enumerate() {
        progress("verified", number, count);
        let mut time = 0;
        for expected in [STORED.to_owned(), quoted(value)] {
            let reply = client.line()?;
            if reply != expected {
                let number = number + 1;
                return Err(format!("CLIENT{number}, {key}: {reply}, not {expected}"));
            }
            time += microseconds(&client.line()?)?;
        }
        stage.approve(2);
        times.push(time);
        if count <= SHOWN {
            let (number, len) = (number + 1, value.len());
            let what = format!("key {key}, value of {len} bytes");
            say(&format!(
                "CLIENT{number}: {what}: successful key value retrieval in {time} us"
            ));
        }
    }
    progress("verified", count, count);
    for (client, ..) in clients {
        client.close()?;
    }
    let total = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let (fastest, slowest) = (times[0], times[count - 1]);
    let median = times[count / 2];
    say(&format!(
        "{count} clients, {count} verified, in {total:.3} s with their starts"
    ));
    say(&format!(
        "a client's set and get: fastest {fastest} us, median {median} us, \
         slowest {slowest} us"
    ));
    Ok(())
}

/// The most clients that are shown one by one.
const SHOWN: usize = 20;

/// Writes over the line on a terminal.
fn progress(what: &str, done: usize, count: usize) {
    if count > SHOWN && stderr().is_terminal() {
        let end = if done == count { "\n" } else { "" };
        eprint!("\r{done} of {count} {what}{end}");
    }
}

/// What a client with `-v` says of a command.
fn microseconds(line: &str) -> Result<u64> {
    let time = line.strip_prefix("client: ").and_then(|rest| rest.strip_suffix(" us"));
    let time = time.and_then(|time| time.parse().ok());
    time.ok_or_else(|| format!("a client should say how long it took, not {line}"))
}

/// Scenario 8.
pub fn stalled_clients(stage: &Stage) -> Result {
    // One worker: who waits for one of the stalled keeps everybody waiting.
    let server = stage.server(&["--threads", "1"])?;
    // After its set, this one is silent.
    let mut silent = stage.peer(&server, 1)?;
    stage.talk(&mut silent, "set silent 0 0 5\r\nvalue\r\n", "STORED\r\n")?;
    // This one stops in the middle of its value, and that one of its line.
    let mut halfway = stage.peer(&server, 2)?;
    halfway.send(b"set half 0 0 10\r\nfirst")?;
    let mut wordless = stage.peer(&server, 3)?;
    wordless.send(b"get sil")?;
    // This one asks for more than anybody buffers and reads nothing of it.
    let mut deaf = stage.peer(&server, 4)?;
    let value = "v".repeat(500_000);
    let large = format!("set large 0 0 500000\r\n{value}\r\n");
    stage.talk(&mut deaf, large, "STORED\r\n")?;
    const ASKED: usize = 40;
    deaf.send("get large\r\n".repeat(ASKED).as_bytes())?;
    let mut client = stage.client(&server, 5, &[])?;
    for i in 0..20 {
        stage.ask(&mut client, &format!("set lively {i}"), STORED)?;
        stage.ask(&mut client, "get lively", &quoted(&i.to_string()))?;
    }
    stage.ask(&mut client, "get half", KEY_NOT_FOUND)?;
    // The stalled have lost nothing.
    stage.talk(&mut halfway, "-last\r\n", "STORED\r\n")?;
    stage.ask(&mut client, "get half", &quoted("first-last"))?;
    let answer = "VALUE silent 0 5\r\nvalue\r\nEND\r\n";
    stage.talk(&mut wordless, "ent\r\n", answer)?;
    stage.talk(&mut silent, "get silent\r\n", answer)?;
    let answer = format!("VALUE large 0 500000\r\n{value}\r\nEND\r\n");
    for _ in 0..ASKED {
        stage.hear(&mut deaf, "get large", &answer)?;
    }
    for peer in [silent, halfway, wordless, deaf] {
        peer.leave(&server)?;
    }
    stage.leave(client, &server)
}

/// What a client of scenario 11 did, and when.
struct Deed {
    key: String,
    /// The value that it set, or got; `None` where there was none.
    value: Option<String>,
    is_set: bool,
    begun: Instant,
    ended: Instant,
}

/// Scenario 11.
pub fn few_keys(stage: &Stage) -> Result {
    const CLIENTS: usize = 8;
    const DEEDS: usize = 40;
    let server = stage.server(&[])?;
    let mut random = stage.random();
    let mut threads = Vec::new();
    for number in 1..=CLIENTS {
        let client = stage.client(&server, number, &[])?;
        let random = Random::new(random.bits());
        threads.push(thread::spawn(move || deeds(number, client, random, DEEDS)));
    }
    let (mut all, mut counted) = (Vec::new(), 0);
    for thread in threads {
        let (deeds, increments) = thread.join().map_err(|_| "a client panicked")??;
        all.extend(deeds);
        counted += increments;
    }
    let mut last = stage.client(&server, CLIENTS + 1, &[])?;
    // No increment is lost, however they met.
    let expected = quoted(&counted.to_string());
    stage.ask(&mut last, "get counter", &expected)?;
    let gets = check_deeds(&all)?;
    stage.approve(CLIENTS * DEEDS);
    say(&format!("{gets} gets, each with a value that the key had in that moment"));
    stage.leave(last, &server)
}

/// What one client does: sets, gets and counts, and waits for up to 10 ms in between.
fn deeds(
    number: usize,
    mut client: Client,
    mut random: Random,
    count: usize,
) -> Result<(Vec<Deed>, usize)> {
    let (mut deeds, mut increments) = (Vec::new(), 0);
    for i in 0..count {
        thread::sleep(Duration::from_micros(random.below(10_000) as u64));
        let key = ["red", "green", "blue"][random.below(3)].to_owned();
        let begun = Instant::now();
        let what = random.below(3);
        let value = format!("{number}-{i}");
        let instruction = match what {
            0 => format!("set {key} {value}"),
            1 => format!("get {key}"),
            _ => "incr counter 1".to_owned(),
        };
        client.send(&instruction)?;
        let reply = client.receive(&instruction)?;
        let ended = Instant::now();
        let unexpected = || Err(format!("CLIENT{number}: '{instruction}': {reply}"));
        let (value, is_set) = match what {
            0 if reply == STORED => (Some(value), true),
            1 if reply == KEY_NOT_FOUND => (None, false),
            1 => (Some(reply.trim_matches('"').to_owned()), false),
            2 => {
                // The first to come makes it; another may be quicker.
                let missing = reply == r#""NOT_FOUND\r\n""#;
                if missing {
                    client.send("add counter 1")?;
                    if client.receive("add counter 1")? != STORED {
                        client.send("incr counter 1")?;
                        client.receive("incr counter 1")?;
                    }
                }
                increments += 1;
                continue;
            }
            _ => return unexpected(),
        };
        deeds.push(Deed { key, value, is_set, begun, ended });
    }
    Ok((deeds, increments))
}

/// What is read was written: the value of each get was set before the get ended, and
/// had not been replaced when it began. Returns how many gets there were.
fn check_deeds(deeds: &[Deed]) -> Result<usize> {
    let mut sets: HashMap<&str, Vec<&Deed>> = HashMap::new();
    for deed in deeds.iter().filter(|deed| deed.is_set) {
        sets.entry(&deed.key).or_default().push(deed);
    }
    let mut gets = 0;
    for get in deeds.iter().filter(|deed| !deed.is_set) {
        gets += 1;
        let sets = sets.get(&get.key[..]).map_or(&[][..], Vec::as_slice);
        let origin = sets.iter().find(|set| set.value == get.value);
        let replaced = match (&get.value, origin) {
            // Nothing there: then no set had ended before.
            (None, _) => sets.iter().any(|set| set.ended < get.begun),
            (Some(_), Some(set)) if set.begun < get.ended => sets
                .iter()
                .any(|other| set.ended < other.begun && other.ended < get.begun),
            (Some(value), _) => {
                return Err(format!("'get {}' found {value}, never set", get.key));
            }
        };
        if replaced {
            let (key, value) = (&get.key, &get.value);
            return Err(format!(
                "'get {key}' found {value:?}, which had been replaced"
            ));
        }
    }
    Ok(gets)
}

/// Scenario 16.
pub fn one_at_a_time(stage: &Stage) -> Result {
    let server = stage.server(&["--conn-limit", "1", "--backlog", "2"])?;
    let mut first = stage.client(&server, 1, &[])?;
    stage.ask(&mut first, "set turn 1", STORED)?;
    // Connections are taken in the order in which they come.
    let mut second = stage.uninvited_peer(&server, 2)?;
    let mut third = stage.uninvited_peer(&server, 3)?;
    let mut fourth = stage.uninvited_peer(&server, 4)?;
    second.send(b"get turn\r\n")?;
    third.send(b"get turn\r\n")?;
    stage.hear(&mut fourth, "", TOO_MANY_CONNECTIONS)?;
    fourth.is_closed()?;
    stage.ask(&mut first, "set turn 2", STORED)?;
    if !second.is_silent()? || !third.is_silent()? {
        return Err("a client that should wait its turn is served".into());
    }
    stage.leave(first, &server)?;
    server.says("Connected by ")?;
    stage.hear(&mut second, "get turn", "VALUE turn 0 1\r\n2\r\nEND\r\n")?;
    stage.talk(&mut second, "set turn 0 0 1\r\n3\r\n", "STORED\r\n")?;
    if !third.is_silent()? {
        return Err("a client that should wait its turn is served".into());
    }
    second.leave(&server)?;
    server.says("Connected by ")?;
    stage.hear(&mut third, "get turn", "VALUE turn 0 1\r\n3\r\nEND\r\n")?;
    third.leave(&server)?;
    server.ends_idle()
}

//! Scenarios with many clients at once.

use super::stage::{Client, Result, Stage};
use super::text::{KEY_NOT_FOUND, STORED, quoted, short};
use crate::os;
use crate::random::Random;
use crate::reply::TOO_MANY_CONNECTIONS;
use crate::say;
use std::io::{IsTerminal, stderr};
use std::thread;
use std::time::{Duration, Instant};

/// Scenario 6: as many clients as `--clients` says. They connect, then all are given
/// their two requests.
pub fn random_keys(stage: &Stage) -> Result {
    let count = stage.options.clients;
    // The ends of each client's two pipes, both for the moment of its start, and what
    // the driver itself has.
    let wanted = 2 * count + 64;
    os::raise_descriptor_limit(wanted as u64).map_err(|possible| {
        format!(
            "{count} clients need {wanted} open files and the system allows {possible}; \
             raise it with `ulimit -Hn {wanted}`, or use fewer --clients"
        )
    })?;
    let server = stage.server(&["--conn-limit", &count.to_string()])?;
    let options = ["--timeout", "60", "-v"];
    let mut random = stage.random();
    let begun = Instant::now();
    let mut clients = Vec::new();
    for number in 1..=count {
        progress("started", number - 1, count);
        let mut client = stage.client_of(&server.address, number, &options)?;
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
        microseconds(&client.line()?)?;
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
                let (number, expected) = (number + 1, short(&expected));
                let reply = short(&reply);
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

/// What a client of scenario 11 did with a key, and when.
struct Operation {
    key: &'static str,
    /// The value that it set, or got; `None` where there was none.
    value: Option<String>,
    is_set: bool,
    begun: Instant,
    ended: Instant,
}

/// Scenario 11.
pub fn few_keys(stage: &Stage) -> Result {
    const CLIENTS: usize = 8;
    const OPERATIONS: usize = 40;
    let server = stage.server(&[])?;
    let mut random = stage.random();
    let mut last = stage.client(&server, CLIENTS + 1, &[])?;
    stage.ask(&mut last, "set counter 0", STORED)?;
    let mut threads = Vec::new();
    for number in 1..=CLIENTS {
        let client = stage.client(&server, number, &[])?;
        let random = Random::new(random.bits());
        threads.push(thread::spawn(move || {
            operations(number, client, random, OPERATIONS)
        }));
    }
    let (mut all, mut counts) = (Vec::new(), Vec::new());
    for thread in threads {
        let (operations, counted) =
            thread.join().map_err(|_| "a client panicked")??;
        all.extend(operations);
        counts.extend(counted);
    }
    // Each increment has made a number of its own: none met another halfway.
    counts.sort_unstable();
    if let Some((_, made)) = (1..).zip(&counts).find(|(wanted, made)| wanted != *made) {
        let count = counts.len();
        return Err(format!(
            "{count} increments should make 1 to {count} once, not {made}"
        ));
    }
    let gets = check_history(&all)?;
    stage.approve(CLIENTS * OPERATIONS);
    say(&format!("{} increments, each with a number of its own", counts.len()));
    say(&format!("{gets} gets, each with a value that the key had in that moment"));
    let counted = quoted(&counts.len().to_string());
    stage.ask(&mut last, "get counter", &counted)?;
    stage.leave(last, &server)
}

/// What one client does: sets, gets and counts, and waits for up to 10 ms in between.
/// Returns what it did with keys, and what its increments have made.
fn operations(
    number: usize,
    mut client: Client,
    mut random: Random,
    count: usize,
) -> Result<(Vec<Operation>, Vec<usize>)> {
    let (mut operations, mut counts) = (Vec::new(), Vec::new());
    for i in 0..count {
        thread::sleep(Duration::from_micros(random.below(10_000) as u64));
        let key = ["red", "green", "blue"][random.below(3)];
        let value = format!("{number}-{i}");
        let (what, instruction) = match random.below(3) {
            0 => ("set", format!("set {key} {value}")),
            1 => ("get", format!("get {key}")),
            _ => ("incr", "incr counter 1".to_owned()),
        };
        let begun = Instant::now();
        client.send(&instruction)?;
        let reply = client.receive(&instruction)?;
        let ended = Instant::now();
        let unquoted = reply.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let (value, is_set) = match (what, unquoted) {
            ("set", _) if reply == STORED => (Some(value), true),
            ("get", _) if reply == KEY_NOT_FOUND => (None, false),
            ("get", Some(found)) => (Some(found.to_owned()), false),
            ("incr", Some(line)) => {
                let sum = line.strip_suffix("\\r\\n").and_then(|sum| sum.parse().ok());
                counts.push(sum.ok_or_else(|| format!("incr made {line}"))?);
                continue;
            }
            _ => return Err(format!("CLIENT{number}: '{instruction}': {reply}")),
        };
        operations.push(Operation { key, value, is_set, begun, ended });
    }
    client.close()?;
    Ok((operations, counts))
}

/// Each key is a register: a get finds the value that was set last. Each operation takes
/// effect at some moment between its begin and its end. Nobody knows when; but when
/// one ended before another began, it is known which was first. Returns how many gets
/// there were.
fn check_history(history: &[Operation]) -> Result<usize> {
    // A set has taken effect when it ended, or when the first get that found its value
    // did. No value is set twice.
    let effective = |set: &Operation| {
        let same =
            |other: &&Operation| other.key == set.key && other.value == set.value;
        let ends = history.iter().filter(same).map(|other| other.ended);
        ends.fold(set.ended, Instant::min)
    };
    let sets: Vec<(&Operation, Instant)> = history
        .iter()
        .filter(|operation| operation.is_set)
        .map(|set| (set, effective(set)))
        .collect();
    let mut gets = 0;
    for get in history.iter().filter(|operation| !operation.is_set) {
        gets += 1;
        let Operation { key, value, .. } = get;
        let mut found = None;
        if let Some(value) = value {
            let origin = sets.iter().find(|(set, _)| {
                set.key == *key && set.value == get.value && set.begun < get.ended
            });
            let never = || format!("'get {key}' found {value}, which nobody had set");
            found = Some(origin.ok_or_else(never)?.1);
        }
        // Nothing, which is what `None` is less than `Some` says, was there before any
        // value.
        let is_replaced = sets.iter().any(|(other, effective)| {
            other.key == *key && found < Some(other.begun) && *effective < get.begun
        });
        if is_replaced {
            let value = value.as_deref().unwrap_or("nothing");
            return Err(format!("'get {key}' found {value}, which had been replaced"));
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
    second.is_waiting()?;
    third.is_waiting()?;
    stage.leave(first, &server)?;
    server.says("Connected by ")?;
    stage.hear(&mut second, "get turn", "VALUE turn 0 1\r\n2\r\nEND\r\n")?;
    stage.talk(&mut second, "set turn 0 0 1\r\n3\r\n", "STORED\r\n")?;
    third.is_waiting()?;
    second.leave(&server)?;
    server.says("Connected by ")?;
    stage.hear(&mut third, "get turn", "VALUE turn 0 1\r\n3\r\nEND\r\n")?;
    third.leave(&server)?;
    server.ends_idle()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations on `red`, written as `set a 0-2`: which value, from when to when.
    fn judged(history: &[&str]) -> bool {
        let epoch = Instant::now();
        let operation = |text: &&str| {
            let words: Vec<&str> = text.split([' ', '-']).collect();
            let [what, value, begun, ended] = words[..] else { panic!("{text}") };
            let at = |time: &str| epoch + Duration::from_secs(time.parse().unwrap());
            let value = (value != "nothing").then(|| value.to_owned());
            let (begun, ended) = (at(begun), at(ended));
            Operation { key: "red", value, is_set: what == "set", begun, ended }
        };
        check_history(&history.iter().map(operation).collect::<Vec<_>>()).is_ok()
    }

    #[test]
    fn what_overlaps_may_have_happened_in_any_order() {
        assert!(judged(&["get nothing 0-1", "set a 2-4", "get a 5-6"]));
        assert!(judged(&["set a 0-9", "get nothing 1-2", "get a 3-4"]));
        assert!(judged(&["set a 0-5", "set b 1-4", "get a 6-7", "get a 8-9"]));
        assert!(judged(&["set a 0-5", "set b 1-4", "get b 6-7"]));
        assert!(judged(&["set a 0-1", "set b 2-9", "get b 3-5", "get a 4-6"]));
    }

    #[test]
    fn what_did_not_overlap_has_an_order() {
        assert!(!judged(&["get a 0-1", "set a 2-3"]));
        assert!(!judged(&["set a 0-1", "get b 2-3"]));
        assert!(!judged(&["set a 0-1", "get nothing 2-3"]));
        assert!(!judged(&["set a 0-1", "set b 2-3", "get a 4-5"]));
        // Nobody goes back behind what somebody has seen.
        assert!(!judged(&["set a 0-1", "set b 2-9", "get b 3-4", "get a 5-6"]));
        assert!(!judged(&["set a 0-9", "get a 1-2", "get nothing 3-4"]));
    }
}

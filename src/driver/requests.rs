//! Scenarios about what requests do.

use super::stage::{Result, Server, Stage};
use super::text::{KEY_NOT_FOUND, STORED, quoted};
use crate::say;
use std::time::{Duration, Instant};

/// Scenario 1.
pub fn three_clients(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    for (number, age) in [(1, "5"), (2, "10"), (3, "15")] {
        let mut client = stage.client(&server, number, &[])?;
        for (key, value) in [("name", "John Doe"), ("age", age), ("name", "Jane Doe")] {
            stage.ask(&mut client, &format!("set {key} {value}"), STORED)?;
            stage.ask(&mut client, &format!("get {key}"), &quoted(value))?;
        }
        stage.leave(client, &server)?;
    }
    server.ends_idle()
}

/// Scenario 2.
pub fn dozens_of_requests(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut client = stage.client(&server, 1, &[])?;
    client.numbered = true;
    for i in 80..100 {
        let set = format!("set len(collatz({i})) {}", collatz_len(i));
        stage.ask(&mut client, &set, STORED)?;
    }
    for i in 90..102 {
        let expected = match i {
            ..100 => quoted(&collatz_len(i).to_string()),
            _ => KEY_NOT_FOUND.into(),
        };
        stage.ask(&mut client, &format!("get len(collatz({i}))"), &expected)?;
    }
    stage.leave(client, &server)?;
    server.ends_idle()
}

/// How many steps of "halve it if even, else triple it and add one" lead to 1.
fn collatz_len(mut number: u64) -> u64 {
    let mut steps = 0;
    while number != 1 {
        number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
        steps += 1;
    }
    steps
}

/// Scenario 3.
pub fn long_keys(stage: &Stage) -> Result {
    let server = stage.server(&["--key-size", "60"])?;
    let (fitting, long) = ("k".repeat(60), "k".repeat(251));
    let mut client = stage.client(&server, 1, &["--key-size", "60"])?;
    client.numbered = true;
    stage.ask(&mut client, &format!("set {fitting} sixty bytes"), STORED)?;
    stage.ask(&mut client, &format!("get {fitting}"), &quoted("sixty bytes"))?;
    // The client knows better than to send this.
    let refusal = "error: a key of 251 bytes is longer than 60, the key size";
    stage.ask(&mut client, &format!("set {long} too long"), refusal)?;
    stage.ask(&mut client, &format!("get {long}"), refusal)?;
    stage.leave(client, &server)?;
    // This one doesn't, and is told by the server.
    let mut client = stage.client(&server, 2, &["--key-size", "251"])?;
    client.numbered = true;
    let refusal = "error: CLIENT_ERROR bad command line format";
    stage.ask(&mut client, &format!("set {long} too long"), refusal)?;
    stage.ask(&mut client, &format!("get {long}"), refusal)?;
    stage.ask(&mut client, &format!("get {fitting}"), &quoted("sixty bytes"))?;
    stage.leave(client, &server)?;
    server.ends_idle()
}

/// Scenario 4.
pub fn looks_malformed(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut client = stage.client(&server, 1, &[])?;
    client.numbered = true;
    stage.ask(&mut client, "get key", KEY_NOT_FOUND)?;
    // Cut in the wrong place, this is `set key`, and `value` left over.
    stage.ask(&mut client, "set keyvalue key value", STORED)?;
    stage.ask(&mut client, "get keyvalue", &quoted("key value"))?;
    stage.ask(&mut client, "get key", KEY_NOT_FOUND)?;
    stage.leave(client, &server)?;
    server.ends_idle()
}

/// Scenario 5.
pub fn two_clients(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut first = stage.client(&server, 1, &[])?;
    let mut second = stage.client(&server, 2, &[])?;
    stage.ask(&mut second, "get Hello", KEY_NOT_FOUND)?;
    stage.ask(&mut first, "set Hello World", STORED)?;
    stage.ask(&mut second, "get Hello", &quoted("World"))?;
    stage.ask(&mut second, "set Hello Distributed Networks", STORED)?;
    stage.ask(&mut first, "get Hello", &quoted("Distributed Networks"))?;
    stage.ask(&mut first, "delete Hello", r#""DELETED\r\n""#)?;
    stage.ask(&mut second, "get Hello", KEY_NOT_FOUND)?;
    // A search for a key's letters would find these in each other, and in values.
    let words = ["cat", "concat", "at", "concatenate", "a"];
    for (i, word) in words.iter().enumerate() {
        for absent in &words[i..] {
            stage.ask(&mut second, &format!("get {absent}"), KEY_NOT_FOUND)?;
        }
        let value = format!("{word} concat at {i}");
        stage.ask(&mut first, &format!("set {word} {value}"), STORED)?;
    }
    stage.ask(&mut first, "delete at", r#""DELETED\r\n""#)?;
    for (i, word) in words.iter().enumerate() {
        let expected = match *word {
            "at" => KEY_NOT_FOUND.into(),
            _ => quoted(&format!("{word} concat at {i}")),
        };
        stage.ask(&mut second, &format!("get {word}"), &expected)?;
    }
    stage.leave(first, &server)?;
    stage.leave(second, &server)
}

/// Scenario 10.
pub fn flags_expiry_noreply(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut peer = stage.peer(&server, 1)?;
    let mut talk =
        |request: &str, expected: &str| stage.talk(&mut peer, request, expected);
    talk("set flagged 4294967295 0 5\r\nvalue\r\n", "STORED\r\n")?;
    talk("get flagged\r\n", "VALUE flagged 4294967295 5\r\nvalue\r\nEND\r\n")?;
    talk("append flagged 7 0 1\r\ns\r\n", "STORED\r\n")?;
    talk("get flagged\r\n", "VALUE flagged 4294967295 6\r\nvalues\r\nEND\r\n")?;
    // A negative exptime has passed, an old date as well, and 0 never does.
    talk("set gone 0 -1 5\r\nvalue\r\n", "STORED\r\n")?;
    talk("get gone\r\n", "END\r\n")?;
    talk("set stays 0 0 5\r\nvalue\r\n", "STORED\r\n")?;
    talk("touch stays 1000000000\r\n", "TOUCHED\r\n")?;
    talk("get stays\r\n", "END\r\n")?;
    // noreply is silent: what is answered next is the get.
    talk(
        "set quiet 0 0 2 noreply\r\nhi\r\nget quiet\r\n",
        "VALUE quiet 0 2\r\nhi\r\nEND\r\n",
    )?;
    talk(
        "add quiet 0 0 2 noreply\r\nno\r\nincr quiet 1 noreply\r\nget quiet\r\n",
        "VALUE quiet 0 2\r\nhi\r\nEND\r\n",
    )?;
    talk("delete quiet noreply\r\nget quiet\r\n", "END\r\n")?;
    talk("set brief 0 1000 5\r\nvalue\r\n", "STORED\r\n")?;
    talk("get brief\r\n", "VALUE brief 0 5\r\nvalue\r\nEND\r\n")?;
    talk("touch brief 1\r\n", "TOUCHED\r\n")?;
    peer.leave(&server)?;
    expires(stage, &server)?;
    at_the_same_time(stage, &server)
}

/// Asks for `brief`, which has a second to live, until it is gone.
fn expires(stage: &Stage, server: &Server) -> Result {
    let mut client = stage.library_client(server)?;
    let begun = Instant::now();
    let mut hits = 0;
    while client.get("brief").map_err(|error| format!("get brief: {error}"))?.is_some()
    {
        hits += 1;
        if begun.elapsed() > Duration::from_secs(5) {
            return Err("brief, of 1 second, is there after 5".into());
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    say(&format!("'brief' was there {hits} times, and was gone after {elapsed:.1} s"));
    stage.approve(1);
    drop(client);
    server.says("Client disconnected").map(|_| ())
}

/// Three set while three get, and everybody is served.
fn at_the_same_time(stage: &Stage, server: &Server) -> Result {
    let mut clients = Vec::new();
    for number in 1..=6 {
        clients.push(stage.client(server, number, &[])?);
    }
    let old = ["one", "two", "three"].map(|key| (format!("set {key} old"), STORED));
    let (writers, readers) = clients.split_at_mut(3);
    for (client, (set, _)) in writers.iter_mut().zip(&old) {
        client.send(set)?;
    }
    for (client, (set, stored)) in writers.iter_mut().zip(&old) {
        stage.judge(client, set, &[stored])?;
    }
    let gets = ["get one", "get two", "get three"];
    let sets = ["set one new", "set two new", "set three new"];
    for (((writer, set), reader), get) in
        writers.iter_mut().zip(sets).zip(readers.iter_mut()).zip(gets)
    {
        writer.send(set)?;
        reader.send(get)?;
    }
    // Whichever came first, a value is one or the other, and whole.
    for (writer, set) in writers.iter_mut().zip(sets) {
        stage.judge(writer, set, &[STORED])?;
    }
    for (reader, get) in readers.iter_mut().zip(gets) {
        stage.judge(reader, get, &[r#""old""#, r#""new""#])?;
    }
    for (reader, get) in readers.iter_mut().zip(gets) {
        stage.ask(reader, get, r#""new""#)?;
    }
    clients.into_iter().try_for_each(|client| stage.leave(client, server))
}

/// Scenario 12.
pub fn many_values(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut first = stage.client(&server, 1, &[])?;
    let mut second = stage.client(&server, 2, &[])?;
    let not_stored = r#""NOT_STORED\r\n""#;
    stage.ask(&mut first, "append colours ,green", not_stored)?;
    stage.ask(&mut first, "prepend colours red,", not_stored)?;
    stage.ask(&mut first, "set colours yellow", STORED)?;
    let mut expected = "yellow".to_owned();
    for (i, colour) in ["green", "blue", "red", "violet", "white"].iter().enumerate() {
        let client = if i % 2 == 0 { &mut second } else { &mut first };
        if i % 3 == 0 {
            stage.ask(client, &format!("prepend colours {colour},"), STORED)?;
            expected = format!("{colour},{expected}");
        } else {
            stage.ask(client, &format!("append colours ,{colour}"), STORED)?;
            expected = format!("{expected},{colour}");
        }
    }
    stage.ask(&mut first, "get colours", &quoted(&expected))?;
    // Many keys in one request: what is there comes, in the order of the request.
    stage.ask(&mut second, "set shape round", STORED)?;
    let several = format!("shape: round\ncolours: {expected}\nshape: round");
    stage.ask(&mut first, "get shape size colours shape", &quoted(&several))?;
    stage.ask(&mut first, "get size weight", KEY_NOT_FOUND)?;
    stage.leave(first, &server)?;
    stage.leave(second, &server)
}

/// Scenario 13.
pub fn missing_keys(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut random = stage.random();
    let mut client = stage.client(&server, 1, &[])?;
    let present = format!("present-{}", random.text(8));
    stage.ask(&mut client, &format!("set {present} here"), STORED)?;
    for _ in 0..30 {
        let len = random.between(1, 30);
        let key = format!("{}-{}", random.text(len), random.text(8));
        stage.ask(&mut client, &format!("get {key}"), KEY_NOT_FOUND)?;
        let (instruction, expected) = match random.below(6) {
            0 => (format!("delete {key}"), "NOT_FOUND"),
            1 => (format!("incr {key} 1"), "NOT_FOUND"),
            2 => (format!("touch {key} 60"), "NOT_FOUND"),
            3 => (format!("cas {key} 1 value"), "NOT_FOUND"),
            4 => (format!("replace {key} value"), "NOT_STORED"),
            _ => (format!("append {key} value"), "NOT_STORED"),
        };
        stage.ask(&mut client, &instruction, &format!("\"{expected}\\r\\n\""))?;
        // Asking for it has not made it.
        stage.ask(&mut client, &format!("get {key}"), KEY_NOT_FOUND)?;
    }
    stage.ask(&mut client, &format!("get {present}"), &quoted("here"))?;
    stage.leave(client, &server)
}

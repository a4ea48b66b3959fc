//! Scenarios in which servers go and come back.

use super::stage::{KEY_NOT_FOUND, PATIENCE, Result, STORED, Stage, quoted};
use crate::client::Client;
use crate::random::Random;
use crate::say;
use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::mpsc::{self, Sender};
use std::thread;

/// Scenario 7.
pub fn persistence(stage: &Stage) -> Result {
    let mut random = stage.random();
    let server = stage.server(&[])?;
    let mut client = stage.client(&server, 1, &[])?;
    let values: Vec<_> = (0..5).map(|_| random.text(20)).collect();
    for (i, value) in values.iter().enumerate() {
        stage.ask(&mut client, &format!("set key{i} {value}"), STORED)?;
    }
    stage.ask(&mut client, "delete key4", r#""DELETED\r\n""#)?;
    stage.leave(client, &server)?;
    server.ends_idle()?;
    let mut server = stage.server(&[])?;
    let mut client = stage.client(&server, 2, &[])?;
    for (i, value) in values[..4].iter().enumerate() {
        stage.ask(&mut client, &format!("get key{i}"), &quoted(value))?;
    }
    stage.ask(&mut client, "get key4", KEY_NOT_FOUND)?;
    stage.leave(client, &server)?;
    let mut keys = HashMap::new();
    for _ in 0..3 {
        let address = server.address.clone();
        let mut writers = Vec::new();
        let (sender, acknowledged) = mpsc::channel();
        for number in 0..WRITERS {
            let client = stage.library_client(&address)?;
            let (random, sender) = (Random::new(random.bits()), sender.clone());
            writers.push(thread::spawn(move || write(number, client, random, &sender)));
        }
        drop(sender);
        let load = random.between(200, 400);
        for _ in 0..load {
            let received = acknowledged.recv_timeout(PATIENCE);
            received.map_err(|_| "nothing more is acknowledged")?;
        }
        let port = server.port().to_owned();
        server.kill();
        for (number, writer) in writers.into_iter().enumerate() {
            let history = writer.join().map_err(|_| "a writer panicked")?;
            let acknowledged = history.acknowledged;
            say(&format!("WRITER{number}: {acknowledged} writes acknowledged"));
            keys.extend(history.keys);
            // What was asked for last may have come to pass.
            if let Some((key, wanted)) = history.unanswered {
                keys.entry(key).or_insert([None, None])[1] = wanted;
            }
        }
        // The very port that the killed one had.
        server = stage.server(&["--port", &port])?;
        check(stage, &server.address, &mut keys)?;
    }
    Ok(())
}

const WRITERS: usize = 4;

/// What a key may hold after a kill: what was acknowledged, `None` if that was its
/// deletion, or what was asked for and not answered.
type Possible = [Option<String>; 2];

/// What a writer has done until its server was gone.
struct History {
    acknowledged: usize,
    keys: HashMap<String, Possible>,
    unanswered: Option<(String, Option<String>)>,
}

/// Sets and deletes keys of its own until the connection fails.
fn write(
    number: usize,
    mut client: Client,
    mut random: Random,
    acknowledged: &Sender<()>,
) -> History {
    let mut history =
        History { acknowledged: 0, keys: HashMap::new(), unanswered: None };
    loop {
        let key = format!("writer{number}-{}", random.below(100));
        let len = random.between(1, 100);
        let wanted = (random.below(8) > 0).then(|| random.text(len));
        let done = match &wanted {
            Some(value) => client.set(&key, value, 0, 0),
            None => client.delete(&key).map(|_| ()),
        };
        if done.is_err() {
            history.unanswered = Some((key, wanted));
            return history;
        }
        history.acknowledged += 1;
        history.keys.insert(key, [wanted.clone(), wanted]);
        // The scenario has heard enough when it kills the server.
        let _ = acknowledged.send(());
    }
}

/// Asks for every key, after which it is known what it holds.
fn check(stage: &Stage, address: &str, keys: &mut HashMap<String, Possible>) -> Result {
    let mut client = stage.library_client(address)?;
    for (key, possible) in &mut *keys {
        let item = client.get(key).map_err(|error| format!("get {key}: {error}"))?;
        let value = item.map(|item| String::from_utf8_lossy(&item.value).into_owned());
        if !possible.contains(&value) {
            let [expected, _] = possible;
            return Err(format!(
                "{key} was {expected:?} before the kill, is {value:?}"
            ));
        }
        *possible = [value.clone(), value];
        stage.approve(1);
    }
    say(&format!("all {} keys are as they were acknowledged", keys.len()));
    Ok(())
}

/// Scenario 14.
pub fn clear_everything(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut client = stage.client(&server, 1, &[])?;
    let ok = r#""OK\r\n""#;
    for key in ["one", "two", "three"] {
        stage.ask(&mut client, &format!("set {key} of many"), STORED)?;
    }
    stage.ask(&mut client, "flush", ok)?;
    for key in ["one", "two", "three"] {
        stage.ask(&mut client, &format!("get {key}"), KEY_NOT_FOUND)?;
    }
    stage.ask(&mut client, "set four of many", STORED)?;
    // Without a key, delete means everything, and wants to be told so.
    client.send("delete\nyes")?;
    stage.judge(&mut client, "delete, yes", &[ok])?;
    stage.ask(&mut client, "get four", KEY_NOT_FOUND)?;
    stage.ask(&mut client, "set five afterwards", STORED)?;
    stage.leave(client, &server)?;
    let port = server.port().to_owned();
    server.kill();
    let server = stage.server(&["--port", &port])?;
    let mut client = stage.client(&server, 2, &[])?;
    for key in ["one", "two", "three", "four"] {
        stage.ask(&mut client, &format!("get {key}"), KEY_NOT_FOUND)?;
    }
    stage.ask(&mut client, "get five", &quoted("afterwards"))?;
    stage.leave(client, &server)
}

/// Scenario 15.
pub fn comings_and_goings(stage: &Stage) -> Result {
    // A port that was free a moment ago. The kernel hands out others before it gives
    // out the same again.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no port is free: {error}"))?
        .port()
        .to_string();
    let environment = [("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", &port)];
    let patient = ["--timeout", "20", "--retry", "0.1"];
    let mut first = stage.client_with(1, &patient, &environment)?;
    let note = first.line()?;
    say(&format!("CLIENT1: {note}"));
    if !note.contains("can't connect") {
        return Err("CLIENT1 should find no server".into());
    }
    let server = stage.server_with(&[], &environment)?;
    server.says("Connected by ")?;
    stage.ask(&mut first, "set name John Doe", STORED)?;
    server.kill();
    first.send("get name")?;
    let reply = first.receive("get name")?;
    if !reply.starts_with("error: the ") {
        return Err("CLIENT1 should be told that its server is gone".into());
    }
    stage.approve(1);
    let server = stage.server_with(&[], &environment)?;
    stage.ask(&mut first, "get name", &quoted("John Doe"))?;
    server.says("Connected by ")?;
    let mut second = stage.client(&server, 2, &[])?;
    stage.ask(&mut second, "get name", &quoted("John Doe"))?;
    second.kill();
    server.says("Client disconnected")?;
    stage.ask(&mut first, "set name Jane Doe", STORED)?;
    stage.ask(&mut first, "get name", &quoted("Jane Doe"))?;
    stage.leave(first, &server)?;
    server.ends_idle()
}

//! Scenarios in which servers go and come back.

use super::stage::{PATIENCE, Result, Server, Stage};
use super::text::{KEY_NOT_FOUND, STORED, quoted};
use crate::client::{Client, ClientError};
use crate::random::Random;
use crate::say;
use std::collections::BTreeMap;
use std::mem;
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
    // Each writer has keys of its own, and knows what they hold.
    let mut keys: [Keys; WRITERS] = Default::default();
    for _ in 0..3 {
        let mut writers = Vec::new();
        let (sender, acknowledged) = mpsc::channel();
        for (number, keys) in keys.iter_mut().enumerate() {
            let client = stage.library_client(&server)?;
            let (random, sender) = (Random::new(random.bits()), sender.clone());
            let keys = mem::take(keys);
            writers.push(thread::spawn(move || {
                write(number, client, random, keys, &sender)
            }));
        }
        drop(sender);
        let load = random.between(200, 400);
        for _ in 0..load {
            let received = acknowledged.recv_timeout(PATIENCE);
            received.map_err(|_| "nothing more is acknowledged")?;
        }
        let port = server.kill();
        for (number, writer) in writers.into_iter().enumerate() {
            keys[number] = writer.join().map_err(|_| "a writer panicked")??;
        }
        // Each has sent a word for each write.
        let more = acknowledged.iter().count();
        say(&format!("{} writes were acknowledged", load + more));
        stage.approve(load + more);
        server = stage.server_at(&port, &[])?;
        check(stage, &server, &mut keys)?;
    }
    Ok(())
}

const WRITERS: usize = 4;

/// What a key may hold after a kill: what was acknowledged last, or what was asked for
/// and not answered. `None` is no value.
type Possible = [Option<String>; 2];

type Keys = BTreeMap<String, Possible>;

/// Sets and deletes keys of its own until the connection fails.
fn write(
    number: usize,
    mut client: Client,
    mut random: Random,
    mut keys: Keys,
    acknowledged: &Sender<()>,
) -> Result<Keys> {
    loop {
        let key = format!("writer{number}-{}", random.below(100));
        let len = random.between(1, 100);
        let wanted = (random.below(8) > 0).then(|| random.text(len));
        let possible = keys.entry(key.clone()).or_default();
        let done = match &wanted {
            Some(value) => client.set(&key, value, 0, 0).map(|()| true),
            None => client.delete(&key).map(|found| found == possible[0].is_some()),
        };
        match done {
            Ok(true) => *possible = [wanted.clone(), wanted],
            Ok(false) => return Err(format!("delete {key}: it was {possible:?}")),
            // The server is gone, and the last request may have come to pass.
            Err(ClientError::Closed | ClientError::Io(_)) => {
                possible[1] = wanted;
                return Ok(keys);
            }
            Err(error) => return Err(format!("{key}: {error}")),
        }
        // The scenario counts them when it has time.
        let _ = acknowledged.send(());
    }
}

/// Asks for every key, after which it is known what it holds.
fn check(stage: &Stage, server: &Server, keys: &mut [Keys]) -> Result {
    let mut client = stage.library_client(server)?;
    let mut count = 0;
    for (key, possible) in keys.iter_mut().flatten() {
        let item = client.get(key).map_err(|error| format!("get {key}: {error}"))?;
        let value = item.map(|item| String::from_utf8_lossy(&item.value).into_owned());
        if !possible.contains(&value) {
            let [acknowledged, asked] = possible;
            return Err(format!(
                "{key} is {value:?} after the kill; acknowledged was {acknowledged:?}, \
                 asked for last {asked:?}"
            ));
        }
        *possible = [value.clone(), value];
        count += 1;
    }
    say(&format!("all {count} keys are as they were acknowledged"));
    stage.approve(count);
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
    let port = server.kill();
    let server = stage.server_at(&port, &[])?;
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
    let address = format!("127.0.0.1:{port}");
    let patient = ["--timeout", "20", "--retry", "0.1"];
    let mut first = stage.client_of(&address, 1, &patient)?;
    let line = first.line()?;
    let note = line.strip_prefix("client: ").unwrap_or(&line);
    say(&format!("CLIENT1: {note}"));
    if !note.starts_with("can't connect ") {
        return Err("CLIENT1 should find no server".into());
    }
    let server = stage.server_at(&port, &[])?;
    server.says("Connected by ")?;
    stage.ask(&mut first, "set name John Doe", STORED)?;
    server.kill();
    first.send("get name")?;
    let reply = first.receive("get name")?;
    if !reply.starts_with("error: the ") {
        return Err("CLIENT1 should be told that its server is gone".into());
    }
    stage.approve(1);
    let server = stage.server_at(&port, &[])?;
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

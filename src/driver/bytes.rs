//! Scenarios about the bytes on the wire.

use super::peer::Peer;
use super::stage::{Result, Server, Stage};
use super::text::{KEY_NOT_FOUND, STORED, quoted};
use crate::client::ClientError;
use crate::random::Random;

/// Scenario 9.
pub fn large_values(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut random = stage.random();
    let mut peer = stage.peer(&server, 1)?;
    // Our own takes a MiB of key and value; a memcached counts its bookkeeping, too.
    let largest = (1 << 20) - if stage.is_foreign() { 1024 } else { "large".len() };
    for size in [0, 4096, 63_999, 64_000, 64_001, largest] {
        let value = random.bytes(size);
        let request =
            [format!("set large 0 0 {size}\r\n").as_bytes(), &value, b"\r\n"].concat();
        send_in_crumbs(&mut peer, &request, &mut random)?;
        let what = format!("set large 0 0 {size}, in crumbs");
        stage.hear(&mut peer, &what, "STORED\r\n")?;
        stage.talk(&mut peer, "get large\r\n", value_reply("large", &value))?;
    }
    let size = 3 << 20;
    let request =
        [format!("set large 0 0 {size}\r\n").into_bytes(), vec![b'x'; size]].concat();
    send_in_crumbs(&mut peer, &request, &mut random)?;
    stage.talk(&mut peer, "\r\n", "SERVER_ERROR object too large for cache\r\n")?;
    // It goes on; and nobody reads the old value where the new one was refused.
    stage.talk(&mut peer, "get large\r\n", "END\r\n")?;
    stage.talk(&mut peer, "set large 0 0 5\r\nsmall\r\n", "STORED\r\n")?;
    peer.leave(&server)?;
    if stage.is_foreign() {
        return Ok(());
    }
    server.kill();
    stage.clear()?;
    let server = stage.server(&["--key-size", "1000"])?;
    let mut client = stage.client(&server, 2, &["--key-size", "1000"])?;
    let (key, value) = (random.text(1000), random.text(1000));
    stage.ask(&mut client, &format!("set {key} {value}"), STORED)?;
    stage.ask(&mut client, &format!("get {key}"), &quoted(&value))?;
    stage.ask(&mut client, &format!("get {}", &key[1..]), KEY_NOT_FOUND)?;
    let longer = "error: a key of 1001 bytes is longer than 1000, the key size";
    stage.ask(&mut client, &format!("get {key}x"), longer)?;
    stage.leave(client, &server)
}

/// Sends the first bytes one by one, and the rest in pieces of random sizes.
fn send_in_crumbs(peer: &mut Peer, bytes: &[u8], random: &mut Random) -> Result {
    let (mut rest, mut sent) = (bytes, 0);
    while !rest.is_empty() {
        let size = if sent < 64 { 1 } else { random.between(1, 16 << 10) };
        let (crumb, others) = rest.split_at(size.min(rest.len()));
        peer.send(crumb)?;
        (rest, sent) = (others, sent + size);
    }
    Ok(())
}

fn value_reply(key: &str, value: &[u8]) -> Vec<u8> {
    let head = format!("VALUE {key} 0 {}\r\n", value.len());
    [head.as_bytes(), value, b"\r\nEND\r\n"].concat()
}

/// Scenario 17.
pub fn malformed_requests(stage: &Stage) -> Result {
    let server = stage.server(&[])?;
    let mut neighbour = stage.client(&server, 1, &[])?;
    stage.ask(&mut neighbour, "set neighbour unhurt", STORED)?;
    let mut peer = stage.peer(&server, 2)?;
    let bad_line = "CLIENT_ERROR bad command line format\r\n";
    let long_key = "k".repeat(251);
    let value = "18\r\ndelete neighbour\r\n\r\n";
    let mut requests = vec![
        ("bogus\r\n".to_owned(), "ERROR\r\n"),
        ("GET neighbour\r\n".into(), "ERROR\r\n"),
        ("get\tneighbour\r\n".into(), "ERROR\r\n"),
        // Without a length, the next line is the next request.
        ("set key 0 0 -1\r\n".into(), bad_line),
        ("set key 0 0 five\r\n".into(), bad_line),
        ("set key 0 0 99999999999999999999\r\n".into(), bad_line),
        // With one, the value is no request, whatever it looks like.
        (format!("set key 0 0 {value}"), "STORED\r\n"),
        ("set key 0 0 4\r\nlonger".into(), "CLIENT_ERROR bad data chunk\r\n"),
        (format!("get key {long_key}\r\n"), bad_line),
        (
            "incr key 1\r\n".into(),
            "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        ),
        ("incr key more\r\n".into(), "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("touch key soon\r\n".into(), "CLIENT_ERROR invalid exptime argument\r\n"),
        (
            "delete neighbour 5\r\n".into(),
            "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
        ),
    ];
    // Where something else is wrong with a line, some older memcached takes what it
    // announces for requests.
    if !stage.is_foreign() {
        for (key, flags, exptime) in
            [("key", "five", "0"), ("key", "0", "five"), (&long_key, "0", "0")]
        {
            requests.push((format!("set {key} {flags} {exptime} {value}"), bad_line));
        }
    }
    for (request, reply) in requests {
        stage.talk(&mut peer, request, reply)?;
        stage.ask(&mut neighbour, "get neighbour", &quoted("unhurt"))?;
    }
    every_byte_in_a_key(stage, &server, &mut peer)?;
    peer.leave(&server)?;
    // A browser may be made to send this; what follows is not for us.
    let mut browser = stage.peer(&server, 3)?;
    browser.send(b"GET / HTTP/1.1\r\ndelete neighbour\r\n")?;
    browser.is_closed()?;
    server.says("Client disconnected")?;
    let mut endless = stage.peer(&server, 4)?;
    endless.send(&b"set ".repeat(1000))?;
    endless.is_closed()?;
    server.says("Client disconnected")?;
    // Gone in the middle of a request that can't be kept.
    let mut gone = stage.peer(&server, 5)?;
    gone.send(b"set key 0 0 2000000000\r\ndelete neighbour\r\n")?;
    drop(gone);
    server.says("Client disconnected")?;
    let mut random = stage.random();
    for number in 6..12 {
        let mut noise = stage.peer(&server, number)?;
        let size = random.between(1, 10_000);
        // The server may have enough of it before all is sent.
        let _ = noise.send(&random.bytes(size));
        drop(noise);
        server.says("Client disconnected")?;
    }
    stage.ask(&mut neighbour, "get neighbour", &quoted("unhurt"))?;
    stage.leave(neighbour, &server)
}

/// Which bytes a key may have, and that client and server agree on it.
fn every_byte_in_a_key(stage: &Stage, server: &Server, peer: &mut Peer) -> Result {
    let mut client = stage.library_client(server)?;
    for row in 0..16 {
        let bytes = (row * 16..row * 16 + 16).map(|byte| byte as u8);
        let is_plain = |byte: &u8| !b"\0\n\r ".contains(byte);
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        for byte in bytes.clone().filter(is_plain) {
            let key = [b'a', byte, b'z'];
            let value = [byte];
            requests
                .extend([b"set ", &key[..], b" 0 0 1\r\n", &value, b"\r\n"].concat());
            requests.extend([b"get ", &key[..], b"\r\n"].concat());
            replies.extend([b"STORED\r\nVALUE ", &key[..], b" 0 1\r\n"].concat());
            replies.extend([&value[..], b"\r\nEND\r\n"].concat());
        }
        stage.talk(peer, &requests, &replies)?;
        for byte in bytes {
            let found = match client.get([b'a', byte, b'z']) {
                Ok(item) => item.is_some_and(|item| item.value == [byte]),
                Err(ClientError::Key(_)) => false,
                Err(error) => return Err(format!("a key with byte {byte}: {error}")),
            };
            if found != is_plain(&byte) {
                return Err(format!("a key with byte {byte} should be as others say"));
            }
            stage.approve(1);
        }
    }
    drop(client);
    server.says("Client disconnected").map(|_| ())
}

/// Scenario 18.
pub fn dialects(stage: &Stage) -> Result {
    let server = stage.server(&["--dialect", "lite"])?;
    let mut peer = stage.peer(&server, 1)?;
    let exchanges = [
        ("set name 4 \r\nJosh \r\n", "STORED\r\n"),
        ("get name\r\n", "VALUE name 4 \r\nJosh\r\nEND\r\n"),
        ("get nobody\r\n", "VALUE nobody 0 \r\n\r\nEND\r\n"),
        (
            "set name 4\r\nJane\r\nget name\r\n",
            "STORED\r\nVALUE name 4 \r\nJane\r\nEND\r\n",
        ),
        ("hello\r\n", "INVALID REQUEST\r\n"),
        ("set name four\r\n", "INVALID REQUEST\r\n"),
        ("set name 4\r\nJoshua\r\n", "INVALID REQUEST\r\n"),
        ("get name\r\n", "VALUE name 4 \r\nJane\r\nEND\r\n"),
    ];
    for (request, reply) in exchanges {
        stage.talk(&mut peer, request, reply)?;
    }
    let too_large = format!("set name 2000000 \r\n{} \r\n", "x".repeat(2_000_000));
    stage.talk(&mut peer, too_large, "NOT-STORED\r\n")?;
    let mut client = stage.client(&server, 2, &["--dialect", "lite"])?;
    stage.ask(&mut client, "set name John Doe", STORED)?;
    stage.ask(&mut client, "get name", &quoted("John Doe"))?;
    stage.ask(&mut client, "get nobody", KEY_NOT_FOUND)?;
    stage.talk(&mut peer, "get name\r\n", "VALUE name 8 \r\nJohn Doe\r\nEND\r\n")?;
    stage.talk(&mut peer, "delete\r\n", "DELETED\r\n")?;
    stage.ask(&mut client, "get name", KEY_NOT_FOUND)?;
    stage.leave(client, &server)?;
    peer.leave(&server)?;
    server.kill();
    let server = stage.server(&["--dialect", "raw"])?;
    let mut peer = stage.peer(&server, 3)?;
    let mut client = stage.client(&server, 4, &["--dialect", "raw"])?;
    stage.talk(&mut peer, b"set name \0\0\0\x07 \r\nJosh \r\n", "STORED \r\n")?;
    let reply = b"VALUE name \0\0\0\x07 \r\nJosh \r\nEND \r\n";
    stage.talk(&mut peer, "get name\r\n", reply)?;
    // Sizes that look like line ends, a blank, and no text at all.
    for size in [10, 13, 32, 255] {
        let value = "v".repeat(usize::from(size) - " \r\n".len());
        let set =
            [b"set key \0\0\0", &[size][..], b" \r\n", value.as_bytes(), b" \r\n"];
        stage.talk(&mut peer, set.concat(), "STORED \r\n")?;
        stage.ask(&mut client, "get key", &quoted(&value))?;
        stage.ask(&mut client, &format!("set key {}", value.to_uppercase()), STORED)?;
        let value = value.to_uppercase();
        let got = [
            b"VALUE key \0\0\0",
            &[size][..],
            b" \r\n",
            value.as_bytes(),
            b" \r\nEND \r\n",
        ];
        stage.talk(&mut peer, "get key\r\n", got.concat())?;
    }
    stage.talk(&mut peer, "hello\r\n", "INVALID REQUEST \r\n")?;
    stage.talk(&mut peer, "delete \r\n", "DELETED \r\n")?;
    stage.ask(&mut client, "get name", KEY_NOT_FOUND)?;
    stage.leave(client, &server)?;
    peer.leave(&server)
}

//! The client library: every method against a real server, and which error a caller gets
//! when the other end is late, gone, or not a memcached at all. The fake servers here
//! send the answers that a test wants.

mod common;

use common::{NOBODY, REPLY_TIMEOUT, Server, TempDir};
use memcached_lite::client::{Client, ClientError, Item, Options};
use memcached_lite::protocol::reply::Reply;
use memcached_lite::protocol::{Request, Topic};
use memcached_lite::store::{Answer, Update, Verb};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn options(address: impl ToString) -> Options {
    let address = address.to_string();
    Options { address, timeout: REPLY_TIMEOUT, ..Options::default() }
}

/// A server and a client of it.
fn start() -> (Server, Client) {
    let server = Server::start(&["--sync", "every-second"]);
    let client = Client::connect(&options(server.addr)).expect("connect");
    (server, client)
}

/// The options of a client that connects to this socket, and to nothing else.
fn socket_options(path: PathBuf) -> Options {
    Options { address: path.display().to_string(), ..options(NOBODY) }
}

/// A client of a server that answers the first request with `answer`, whatever it is,
/// and closes.
fn answered(answer: &[u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = options(listener.local_addr().expect("address"));
    let answer = answer.to_vec();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&answer);
    });
    Client::connect(&client).expect("connect")
}

fn value_of(item: Option<Item>) -> Vec<u8> {
    item.expect("an item").value
}

/// An update of `k`, of which a test names only what its verb uses.
fn update<'a>(verb: Verb, value: &'a str) -> Update<'a> {
    let (key, value) = (&b"k"[..], value.as_bytes());
    Update { verb, key, value, ..Update::default() }
}

/// What becomes of an update.
#[track_caller]
fn done(client: &mut Client, update: Update) -> Answer {
    client.update(update).expect("an answer")
}

#[test]
fn what_is_set_can_be_got_with_its_flags() {
    let (_server, mut client) = start();
    client.set("k", "value", 0xFFFF_FFFF, 0).expect("set");
    let item = client.get("k").expect("get").expect("an item");
    let key = b"k".to_vec();
    let expected = Item { key, flags: u32::MAX, unique: None, value: b"value".into() };
    assert_eq!(item, expected);
    assert_eq!(client.get("missing").expect("get"), None);
    let item = client.gets("k").expect("gets").expect("an item");
    assert!(item.unique.is_some_and(|unique| unique > 0));
    assert_eq!(Item { unique: None, ..item }, expected);
    assert_eq!(client.gets("missing").expect("gets"), None);
}

#[test]
fn get_many_returns_what_there_is_in_the_order_of_the_keys() {
    let (_server, mut client) = start();
    for key in ["a", "b", "c"] {
        client.set(key, key.repeat(3), 0, 0).expect("set");
    }
    let items = client.get_many(&["c", "missing", "a", "c"]).expect("get");
    let seen: Vec<_> =
        items.iter().map(|item| (&item.key[..], &item.value[..])).collect();
    assert_eq!(seen, [(&b"c"[..], &b"ccc"[..]), (b"a", b"aaa"), (b"c", b"ccc")]);
    assert_eq!(client.get_many(&["missing"]).expect("get"), []);
    assert_eq!(client.get_many(&[""; 0]).expect("get"), []);
}

#[test]
fn values_may_have_any_bytes_and_any_length() {
    let (_server, mut client) = start();
    let all: Vec<u8> = (0..=255).collect();
    let protocol = b"x\r\nEND\r\nVALUE k 0 1\r\n".to_vec();
    let million = all.iter().copied().cycle().take(1_000_000).collect();
    for value in [vec![], vec![0], b"\r\n".to_vec(), all, protocol, million] {
        client.set("k", &value, 0, 0).expect("set");
        assert!(value_of(client.get("k").expect("get")) == value, "{}", value.len());
    }
}

#[test]
fn add_and_replace_depend_on_what_is_there() {
    let (_server, mut client) = start();
    let client = &mut client;
    assert_eq!(done(client, update(Verb::Replace, "0")), Answer::NotStored);
    let one = Update { flags: 1, ..update(Verb::Add, "1") };
    assert_eq!(done(client, one), Answer::Stored);
    let two = Update { flags: 2, ..update(Verb::Add, "2") };
    assert_eq!(done(client, two), Answer::NotStored);
    let item = client.get("k").expect("get").expect("an item");
    assert_eq!((item.flags, &item.value[..]), (1, &b"1"[..]));
    let three = Update { flags: 3, ..update(Verb::Replace, "3") };
    assert_eq!(done(client, three), Answer::Stored);
    let item = client.get("k").expect("get").expect("an item");
    assert_eq!((item.flags, &item.value[..]), (3, &b"3"[..]));
}

#[test]
fn append_and_prepend_extend_a_value() {
    let (_server, mut client) = start();
    let client = &mut client;
    assert_eq!(done(client, update(Verb::Append, "x")), Answer::NotStored);
    assert_eq!(done(client, update(Verb::Prepend, "x")), Answer::NotStored);
    client.set("k", "b", 7, 0).expect("set");
    assert_eq!(done(client, update(Verb::Append, "c")), Answer::Stored);
    assert_eq!(done(client, update(Verb::Prepend, "a")), Answer::Stored);
    let item = client.get("k").expect("get").expect("an item");
    assert_eq!((item.flags, &item.value[..]), (7, &b"abc"[..]));
}

#[test]
fn cas_stores_only_what_nobody_has_changed() {
    let (_server, mut client) = start();
    let client = &mut client;
    let cas = |number, flags, value| {
        let update = update(Verb::Cas, value);
        Update { number, flags, ..update }
    };
    assert_eq!(done(client, cas(1, 0, "x")), Answer::NotFound);
    client.set("k", "1", 0, 0).expect("set");
    let unique = client.gets("k").expect("gets").and_then(|item| item.unique);
    let unique = unique.expect("a unique");
    assert_eq!(done(client, cas(unique, 5, "2")), Answer::Stored);
    assert_eq!(done(client, cas(unique, 0, "3")), Answer::Exists);
    let item = client.get("k").expect("get").expect("an item");
    assert_eq!((item.flags, &item.value[..]), (5, &b"2"[..]));
}

#[test]
fn delete_and_flush_all_remove() {
    let (_server, mut client) = start();
    client.set("a", "1", 0, 0).expect("set");
    client.set("b", "2", 0, 0).expect("set");
    assert!(client.delete("a").expect("delete"));
    assert!(!client.delete("a").expect("delete"));
    let later = client.ask(&Request::FlushAll(1000));
    assert_eq!(later.expect("flush"), Reply::Ok);
    assert_eq!(value_of(client.get("b").expect("get")), b"2");
    assert_eq!(client.ask(&Request::FlushAll(0)).expect("flush"), Reply::Ok);
    assert_eq!(client.get("b").expect("get"), None);
}

#[test]
fn incr_and_decr_count() {
    let (_server, mut client) = start();
    let decr = |client: &mut Client, number| {
        let (verb, key) = (Verb::Decr, b"n");
        done(client, Update { verb, key, number, ..Update::default() })
    };
    assert_eq!(client.incr("n", 1).expect("incr"), None);
    assert_eq!(decr(&mut client, 1), Answer::NotFound);
    client.set("n", "9", 0, 0).expect("set");
    assert_eq!(client.incr("n", 1).expect("incr"), Some(10));
    assert_eq!(decr(&mut client, 3), Answer::Number(7));
    assert_eq!(decr(&mut client, 100), Answer::Number(0));
    client.set("n", u64::MAX.to_string(), 0, 0).expect("set");
    assert_eq!(client.incr("n", 0).expect("incr"), Some(u64::MAX));
    assert_eq!(client.incr("n", 2).expect("incr"), Some(1));
    client.set("n", "x", 0, 0).expect("set");
    match client.incr("n", 1) {
        Err(ClientError::Rejected(line)) => assert_eq!(
            line,
            "CLIENT_ERROR cannot increment or decrement non-numeric value"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(value_of(client.get("n").expect("get")), b"x", "it can be used");
}

#[test]
fn every_command_that_has_an_exptime_sends_it() {
    let (_server, mut client) = start();
    let client = &mut client;
    let expired = |verb| Update { exptime: -1, ..update(verb, "y") };
    client.set("k", "x", 0, -1).expect("set");
    assert_eq!(client.get("k").expect("get"), None);
    assert_eq!(done(client, expired(Verb::Add)), Answer::Stored);
    assert_eq!(client.get("k").expect("get"), None);

    client.set("k", "x", 3, 0).expect("set");
    assert_eq!(done(client, expired(Verb::Replace)), Answer::Stored);
    assert_eq!(client.get("k").expect("get"), None);
    client.set("k", "x", 3, 0).expect("set");
    let items = client.retrieve(&["k"], true, Some(1000)).expect("gats");
    let [item] = &items[..] else { panic!("{items:?}") };
    let number = item.unique.expect("a unique");
    assert_eq!((item.flags, &item.value[..]), (3, &b"x"[..]));
    let cas = Update { number, ..expired(Verb::Cas) };
    assert_eq!(done(client, cas), Answer::Stored);
    assert_eq!(client.get("k").expect("get"), None);

    client.set("k", "x", 3, 0).expect("set");
    let touch = Update { exptime: 1000, ..update(Verb::Touch, "") };
    assert_eq!(done(client, touch), Answer::Touched);
    let items = client.retrieve(&["k"], false, Some(-1)).expect("gat");
    let [item] = &items[..] else { panic!("{items:?}") };
    assert_eq!((item.flags, item.unique, &item.value[..]), (3, None, &b"x"[..]));
    assert_eq!(client.retrieve(&["k"], false, Some(0)).expect("gat"), []);
    assert_eq!(client.retrieve(&["k"], true, Some(0)).expect("gats"), []);
    assert_eq!(done(client, touch), Answer::NotFound);
}

#[test]
fn version_and_stats_describe_the_server() {
    let (server, mut client) = start();
    let version = client.ask(&Request::Version).expect("version");
    let Reply::Version(version) = version else { panic!("{version:?}") };
    assert!(version.starts_with("1.6."), "{version}");
    let stat = |stats: &[(String, String)], name: &str| {
        let found = stats.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).expect("listed")
    };
    client.get("missing").expect("get");
    let stats = client.stats(Topic::General).expect("stats");
    assert_eq!(stat(&stats, "pid"), server.pid().to_string());
    assert_eq!(stat(&stats, "get_misses"), "1");
    let settings = client.stats(Topic::Settings).expect("stats");
    assert_eq!(stat(&settings, "tcpport"), server.addr.port().to_string());
    assert_eq!(client.stats(Topic::Reset).expect("stats"), []);
    let stats = client.stats(Topic::General).expect("stats");
    assert_eq!(stat(&stats, "get_misses"), "0");
}

/// K1.
#[test]
fn what_can_not_be_sent_is_rejected_before_anything_is_sent() {
    let (_server, mut client) = start();
    let bytes_read = |client: &mut Client| {
        let stats = client.stats(Topic::General).expect("stats");
        let found = stats.into_iter().find(|(name, _)| name == "bytes_read");
        found.and_then(|(_, value)| value.parse::<u64>().ok()).expect("a number")
    };
    let long = vec![b'k'; 251];
    let wrong: [(&[u8], &str); 7] = [
        (b"", "a key must have at least one byte"),
        (&long, "a key of 251 bytes is longer than 250, the key size"),
        (b"a b", "a key can't have the byte ' ' in it"),
        (b"a\r", "a key can't have the byte '\\r' in it"),
        (b"\nset x 0 0 1", "a key can't have the byte '\\n' in it"),
        (b"a\0", "a key can't have the byte '\\x00' in it"),
        (b"k\r\nflush_all", "a key can't have the byte '\\r' in it"),
    ];
    let before = bytes_read(&mut client);
    for (key, why) in wrong {
        let verbs = [
            Verb::Set,
            Verb::Add,
            Verb::Replace,
            Verb::Append,
            Verb::Prepend,
            Verb::Cas,
            Verb::Delete,
            Verb::Incr,
            Verb::Decr,
            Verb::Touch,
        ];
        let mut errors: Vec<_> = verbs
            .into_iter()
            .map(|verb| client.update(Update { key, ..update(verb, "x") }).err())
            .collect();
        errors.extend([
            client.get(key).err(),
            client.gets(key).err(),
            client.get_many(&[b"good", key]).err(),
            client.retrieve(&[key], false, Some(0)).err(),
            client.retrieve(&[key], true, Some(0)).err(),
            client.set(key, "x", 0, 0).err(),
            client.delete(key).err(),
            client.incr(key, 1).err(),
        ]);
        for error in errors {
            match error {
                Some(error @ ClientError::Request(_)) => {
                    assert_eq!(error.to_string(), why);
                    assert!(!error.is_fatal());
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // Counted before it is answered, so the first stats is in neither number.
    let stats = "stats\r\n".len() as u64;
    assert_eq!(bytes_read(&mut client) - before, stats);
    client.set(vec![b'k'; 250], "x", 0, 0).expect("set");
    client.set("\t\x7f\u{e9}", "x", 0, 0).expect("set");
}

#[test]
fn the_key_size_is_the_callers_to_choose() {
    let server = Server::start(&["--key-size", "1000"]);
    let options = Options { key_size: 1000, ..options(server.addr) };
    let mut client = Client::connect(&options).expect("connect");
    let key = vec![b'k'; 1000];
    client.set(&key, "x", 0, 0).expect("set");
    assert_eq!(client.get(&key).expect("get").expect("an item").key, key);
    // Where the client allows more than the server, the server's limit applies.
    let options = Options { key_size: 5000, ..options };
    let mut client = Client::connect(&options).expect("connect");
    match client.get(vec![b'k'; 1001]) {
        Err(ClientError::Rejected(line)) => {
            assert_eq!(line, "CLIENT_ERROR bad command line format");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(value_of(client.get(&key).expect("get")), b"x", "it can be used");
}

#[test]
fn a_value_too_large_for_the_server_is_its_error_and_the_client_can_be_used() {
    let (_server, mut client) = start();
    let error = client.set("k", vec![0; 2_000_000], 0, 0).expect_err("too large");
    let line = "SERVER_ERROR object too large for cache";
    assert!(matches!(&error, ClientError::Rejected(it) if it == line), "{error:?}");
    assert!(!error.is_fatal());
    assert_eq!(client.get("k").expect("get"), None);
}

#[test]
fn connect_tries_again_until_somebody_listens() {
    let vacant = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = vacant.local_addr().expect("address");
    drop(vacant);
    // A process that another test is just starting has a copy of it until it runs.
    while TcpStream::connect(address).is_ok() {}
    let options = Options { retry: Duration::from_millis(20), ..options(address) };
    let short = Options { timeout: Duration::from_millis(100), ..options.clone() };
    let client = thread::spawn(move || Client::connect(&options));
    // While this one tries until its timeout, the other tries as often.
    assert!(Client::connect(&short).is_err(), "nobody listens");
    assert!(!client.is_finished(), "it has stopped trying");
    let _listener = TcpListener::bind(address).expect("bind");
    client.join().expect("client").expect("connect");
}

#[test]
fn each_failed_attempt_but_the_last_is_reported() {
    let (timeout, retry) = (Duration::from_millis(500), Duration::from_millis(100));
    let options = Options { timeout, retry, ..options(NOBODY) };
    let mut reported = Vec::new();
    let report = |error: &ClientError| reported.push(error.to_string());
    let client = Client::connect_with(&options, report);
    let last = client.err().expect("nobody listens").to_string();
    assert!((1..5).contains(&reported.len()), "{reported:?}");
    assert!(reported.iter().all(|error| *error == last), "{reported:?}");
    // One attempt, and nothing to report.
    let options = Options { retry: timeout, ..options };
    assert!(Client::connect_with(&options, |error| panic!("{error}")).is_err());
}

#[test]
fn connect_fails_at_the_timeout_and_names_the_address() {
    let address = NOBODY;
    let (timeout, retry) = (Duration::from_millis(300), Duration::from_millis(50));
    let started = Instant::now();
    let options = Options { timeout, retry, ..options(address) };
    match Client::connect(&options).err() {
        Some(error @ ClientError::Io(_)) => {
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("can't connect to {address}: ")),
                "{text}"
            );
            assert!(error.is_fatal());
        }
        other => panic!("{other:?}"),
    }
    let took = started.elapsed();
    assert!(took >= timeout - retry, "it failed after {took:?}");
    assert!(took < REPLY_TIMEOUT, "it failed after {took:?}");
}

#[test]
fn a_server_that_dies_is_noticed_at_the_next_request() {
    let (mut server, mut client) = start();
    client.set("k", "x", 0, 0).expect("set");
    server.kill();
    let error = client.get("k").expect_err("nobody is there");
    assert!(matches!(error, ClientError::Io(_)) && error.is_fatal(), "{error:?}");
}

#[test]
fn a_connection_that_ends_instead_of_an_answer_is_closed() {
    for beginning in ["", "VALUE k 0 10\r\nhalf", "VALUE k 0 1\r\nx\r\n"] {
        let error = answered(beginning.as_bytes()).get("k").expect_err("no answer");
        assert!(matches!(error, ClientError::Io(_)) && error.is_fatal(), "{error:?}");
        let why = "the server has closed the connection";
        assert_eq!(error.to_string(), why, "{beginning:?}");
    }
}

/// A line is an answer only when its end has come.
#[test]
fn an_answer_cut_off_in_its_line_is_not_an_answer() {
    for beginning in ["STOR", "STORED", "STORED\r", "SERVER_ERROR out of"] {
        let error = answered(beginning.as_bytes()).set("k", "x", 0, 0);
        let error = error.expect_err("no answer");
        assert!(error.is_fatal(), "{beginning:?}: {error:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_in_time_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let timeout = Duration::from_millis(100);
    let options = Options { timeout, ..options(address) };
    let mut client = Client::connect(&options).expect("the kernel connects");
    let error = client.ask(&Request::Version).expect_err("nobody answers");
    assert_eq!(error.to_string(), "the server did not answer in time");
    assert!(matches!(error, ClientError::Io(_)) && error.is_fatal());
}

#[test]
fn what_is_not_an_answer_is_unexpected() {
    for garbage in [
        "HTTP/1.1 400 Bad Request\r\n",
        "stored\r\n",
        "VALUE k 0 x\r\nx\r\nEND\r\n",
        "VALUE k 0 18446744073709551615\r\nx\r\nEND\r\n",
        "VALUE k 4294967296 1\r\nx\r\nEND\r\n",
        "\r\n",
        "\0\0\0\r\n",
        "\u{fffd}\u{fffd}\r\n",
    ] {
        for ask in [
            |client: &mut Client| client.get("k").err(),
            |client: &mut Client| client.set("k", "x", 0, 0).err(),
            |client: &mut Client| client.incr("k", 1).err(),
            |client: &mut Client| client.stats(Topic::General).err(),
            |client: &mut Client| client.update(update(Verb::Add, "x")).err(),
            |client: &mut Client| client.ask(&Request::Version).err(),
        ] {
            match ask(&mut answered(garbage.as_bytes())) {
                Some(error @ ClientError::Unexpected(_)) => assert!(error.is_fatal()),
                other => panic!("{garbage:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_answer_to_something_else_is_unexpected() {
    let check = |what: &str, error: Option<ClientError>| match error {
        Some(ClientError::Unexpected(_)) => {}
        other => panic!("{what}: {other:?}"),
    };
    check("get", answered(b"STORED\r\n").get("k").err());
    check("set", answered(b"EXISTS\r\n").set("k", "x", 0, 0).err());
    // As the other dialects answer a value that is too large.
    let not_stored = answered(b"NOT_STORED\r\n").set("k", "x", 0, 0).err();
    assert!(matches!(not_stored, Some(ClientError::Rejected(_))), "{not_stored:?}");
    check("incr", answered(b"STORED\r\n").incr("k", 1).err());
    check("delete", answered(b"NOT_STORED\r\n").delete("k").err());
    check("delete", answered(b"STORED\r\n").delete("k").err());
    let touch = update(Verb::Touch, "");
    check("touch", answered(b"DELETED\r\n").update(touch).err());
    check("stats", answered(b"OK\r\n").stats(Topic::General).err());
    // For an update of any verb, what is not an answer to one.
    for line in ["OK\r\n", "END\r\n", "RESET\r\n", "VERSION 1\r\n"] {
        for verb in [Verb::Add, Verb::Append, Verb::Cas, Verb::Incr] {
            let mut client = answered(line.as_bytes());
            check(line, client.update(update(verb, "x")).err());
        }
    }
}

#[test]
fn an_item_that_was_not_asked_for_is_unexpected() {
    let item = "VALUE k 0 1\r\nx\r\n";
    for answer in [
        "VALUE other 0 1\r\nx\r\nEND\r\n".to_owned(),
        format!("{item}{item}END\r\n"),
        format!("{item}VALUE other 0 1\r\nx\r\nEND\r\n"),
    ] {
        let error = answered(answer.as_bytes()).get("k").expect_err(&answer);
        assert!(matches!(error, ClientError::Unexpected(_)), "{answer}: {error:?}");
    }
    // A key that was asked for twice may come twice, and the order is the server's.
    let answer = format!("VALUE l 0 1\r\ny\r\n{item}{item}END\r\n");
    let items = answered(answer.as_bytes()).get_many(&["k", "l", "k"]);
    assert_eq!(items.expect("items").len(), 3);
}

#[test]
fn an_item_without_its_end_is_unexpected() {
    let error =
        answered(b"VALUE k 0 1\r\nxyzEND\r\n").get("k").expect_err("out of step");
    assert!(matches!(error, ClientError::Unexpected(_)), "{error:?}");
}

#[test]
fn an_error_of_the_server_is_reported_in_its_words() {
    let error = answered(b"SERVER_ERROR out of luck\r\n").get("k").expect_err("error");
    assert_eq!(error.to_string(), "SERVER_ERROR out of luck");
    let error = answered(b"VALUE k 0 1\r\nx\r\nSERVER_ERROR later\r\n").get("k");
    assert!(
        matches!(error, Err(ClientError::Rejected(line)) if line == "SERVER_ERROR later")
    );
    for line in ["ERROR", "CLIENT_ERROR no"] {
        let error =
            answered(format!("{line}\r\n").as_bytes()).get("k").expect_err(line);
        assert!(matches!(&error, ClientError::Rejected(l) if l == line), "{error:?}");
    }
}

#[test]
fn a_rejected_connection_says_why() {
    let line = b"ERROR Too many open connections\r\n";
    let error = answered(line).get("k").expect_err("rejected");
    assert!(error.is_fatal(), "{error:?}");
    assert!(error.to_string().contains("Too many open connections"), "{error}");
}

#[test]
fn a_line_that_does_not_end_is_unexpected() {
    let error = answered(&[b'x'; 1 << 20]).get("k").expect_err("no answer");
    assert!(matches!(&error, ClientError::Unexpected(_)), "{error:?}");
}

#[test]
fn a_server_that_states_a_huge_length_costs_no_memory() {
    let mut client = answered(b"VALUE k 0 4000000000\r\nx");
    let error = client.get("k").expect_err("no such value");
    assert!(
        matches!(error, ClientError::Io(_) | ClientError::Unexpected(_)),
        "{error:?}"
    );
}

#[test]
fn what_is_not_an_address_can_not_be_connected_to() {
    let retry = Duration::from_millis(10);
    let timeout = Duration::from_millis(50);
    for address in ["no port", "127.0.0.1:x", "127.0.0.1:70000"] {
        let options = Options { retry, timeout, ..options(address) };
        match Client::connect(&options).err() {
            Some(ClientError::Io(why)) => {
                let beginning = format!("can't connect to {address}: ");
                assert!(why.starts_with(&beginning), "{why}");
                assert!(!why.contains("timed out"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_server_on_a_unix_socket_is_reached_by_its_path() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let args =
        ["--sync", "every-second", "--unix-socket", path.to_str().expect("UTF-8")];
    let server = Server::spawn_on(&directory.path().join("data"), &args);
    let ready = format!("Listening on {}...", path.display());
    server.wait_for_line(&ready, REPLY_TIMEOUT);
    let mut client = Client::connect(&socket_options(path)).expect("connect");
    assert_eq!(client.get("k").expect("get"), None);
    // More than the kernel takes at once, in both directions.
    let value: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    client.set("k", &value, 7, 0).expect("set");
    let item = client.get("k").expect("get").expect("an item");
    assert!(item.flags == 7 && item.value == value);
    let stats = client.stats(Topic::General).expect("stats");
    let pid = ("pid".to_owned(), server.pid().to_string());
    assert!(stats.contains(&pid), "{stats:?}");
}

#[test]
fn a_unix_socket_where_nobody_listens_is_named_in_the_error() {
    let directory = TempDir::new();
    let [missing, stale, file] =
        ["missing", "stale", "file"].map(|name| directory.path().join(name));
    // What a server that was killed leaves behind.
    drop(UnixListener::bind(&stale).expect("bind"));
    fs::write(&file, "not a socket").expect("write");
    for (path, why) in
        [(missing, "No such file"), (stale, "refused"), (file, "refused")]
    {
        let beginning = format!("can't connect to {}: ", path.display());
        // One attempt.
        let options = Options { retry: 2 * REPLY_TIMEOUT, ..socket_options(path) };
        match Client::connect(&options).err() {
            Some(error @ ClientError::Io(_)) => {
                let text = error.to_string();
                assert!(text.starts_with(&beginning) && text.contains(why), "{text}");
                assert!(error.is_fatal());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn connect_tries_again_until_a_unix_socket_is_there() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let retry = Duration::from_millis(20);
    let options = Options { retry, ..socket_options(path.clone()) };
    let (mut listener, mut reported) = (None, Vec::new());
    let client = Client::connect_with(&options, |error| {
        reported.push(error.to_string());
        listener = Some(UnixListener::bind(&path).expect("bind"));
    });
    client.expect("connect");
    let [why] = &reported[..] else { panic!("{reported:?}") };
    let beginning = format!("can't connect to {}: ", path.display());
    assert!(why.starts_with(&beginning), "{why}");
}

#[test]
fn a_server_on_a_unix_socket_has_to_answer_in_time() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let _listener = UnixListener::bind(&path).expect("bind");
    let timeout = Duration::from_millis(100);
    let options = Options { timeout, ..socket_options(path) };
    let (sender, errors) = mpsc::channel();
    // A client without a timeout would wait forever.
    thread::spawn(move || {
        let connect = || Client::connect(&options).expect("the kernel connects");
        let _ = sender.send(connect().get("k").err());
        // Nor does anybody read, and the kernel keeps less than this.
        let _ = sender.send(connect().set("k", vec![0; 1 << 23], 0, 0).err());
    });
    for _ in 0..2 {
        match errors.recv_timeout(REPLY_TIMEOUT).expect("an end in time") {
            Some(error @ ClientError::Io(_)) => {
                assert_eq!(error.to_string(), "the server did not answer in time");
                assert!(error.is_fatal());
            }
            other => panic!("{other:?}"),
        }
    }
}

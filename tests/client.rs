//! The client library: every method against a real server, and what a caller is told
//! when the other end is late, gone, or no memcached at all. The false servers here
//! give the answers that a test wants.

mod common;

use common::{NOBODY, REPLY_TIMEOUT, Server};
use memcached_lite::client::{Cas, Client, ClientError, Item, Options};
use memcached_lite::protocol::Topic;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
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
    assert!(!client.replace("k", "0", 0, 0).expect("replace"));
    assert!(client.add("k", "1", 1, 0).expect("add"));
    assert!(!client.add("k", "2", 2, 0).expect("add"));
    assert_eq!(value_of(client.get("k").expect("get")), b"1");
    assert!(client.replace("k", "3", 3, 0).expect("replace"));
    let item = client.get("k").expect("get").expect("an item");
    assert_eq!((item.flags, &item.value[..]), (3, &b"3"[..]));
}

#[test]
fn append_and_prepend_extend_a_value() {
    let (_server, mut client) = start();
    assert!(!client.append("k", "x").expect("append"));
    assert!(!client.prepend("k", "x").expect("prepend"));
    client.set("k", "b", 7, 0).expect("set");
    assert!(client.append("k", "c").expect("append"));
    assert!(client.prepend("k", "a").expect("prepend"));
    let item = client.get("k").expect("get").expect("an item");
    assert_eq!((item.flags, &item.value[..]), (7, &b"abc"[..]));
}

#[test]
fn cas_stores_only_what_nobody_has_changed() {
    let (_server, mut client) = start();
    assert_eq!(client.cas("k", "x", 0, 0, 1).expect("cas"), Cas::NotFound);
    client.set("k", "1", 0, 0).expect("set");
    let unique = client.gets("k").expect("gets").and_then(|item| item.unique);
    let unique = unique.expect("a unique");
    assert_eq!(client.cas("k", "2", 5, 0, unique).expect("cas"), Cas::Stored);
    assert_eq!(client.cas("k", "3", 0, 0, unique).expect("cas"), Cas::Exists);
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
    client.flush_all(1000).expect("flush");
    assert_eq!(value_of(client.get("b").expect("get")), b"2");
    client.flush_all(0).expect("flush");
    assert_eq!(client.get("b").expect("get"), None);
}

#[test]
fn incr_and_decr_count() {
    let (_server, mut client) = start();
    assert_eq!(client.incr("n", 1).expect("incr"), None);
    assert_eq!(client.decr("n", 1).expect("decr"), None);
    client.set("n", "9", 0, 0).expect("set");
    assert_eq!(client.incr("n", 1).expect("incr"), Some(10));
    assert_eq!(client.decr("n", 3).expect("decr"), Some(7));
    assert_eq!(client.decr("n", 100).expect("decr"), Some(0));
    client.set("n", u64::MAX.to_string(), 0, 0).expect("set");
    assert_eq!(client.incr("n", 0).expect("incr"), Some(u64::MAX));
    assert_eq!(client.incr("n", 2).expect("incr"), Some(1));
    client.set("n", "x", 0, 0).expect("set");
    match client.incr("n", 1) {
        Err(ClientError::Refused(line)) => assert_eq!(
            line,
            "CLIENT_ERROR cannot increment or decrement non-numeric value"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(value_of(client.get("n").expect("get")), b"x", "it goes on");
}

#[test]
fn exptimes_are_given_by_every_command_that_has_one() {
    let (_server, mut client) = start();
    client.set("k", "x", 0, -1).expect("set");
    assert_eq!(client.get("k").expect("get"), None);
    assert!(client.add("k", "x", 0, -1).expect("add"));
    assert_eq!(client.get("k").expect("get"), None);

    client.set("k", "x", 3, 0).expect("set");
    assert!(client.replace("k", "y", 3, -1).expect("replace"));
    assert_eq!(client.get("k").expect("get"), None);
    client.set("k", "x", 3, 0).expect("set");
    let item = client.gats("k", 1000).expect("gats").expect("an item");
    let unique = item.unique.expect("a unique");
    assert_eq!((item.flags, &item.value[..]), (3, &b"x"[..]));
    assert_eq!(client.cas("k", "y", 3, -1, unique).expect("cas"), Cas::Stored);
    assert_eq!(client.get("k").expect("get"), None);

    client.set("k", "x", 3, 0).expect("set");
    assert!(client.touch("k", 1000).expect("touch"));
    let item = client.gat("k", -1).expect("gat").expect("an item");
    assert_eq!((item.flags, item.unique, &item.value[..]), (3, None, &b"x"[..]));
    assert_eq!(client.gat("k", 0).expect("gat"), None);
    assert_eq!(client.gats("k", 0).expect("gats"), None);
    assert!(!client.touch("k", 0).expect("touch"));
}

#[test]
fn version_and_stats_tell_of_the_server() {
    let (server, mut client) = start();
    let version = client.version().expect("version");
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
fn what_can_not_be_sent_is_refused_before_anything_is_sent() {
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
        let errors = [
            client.get(key).err(),
            client.gets(key).err(),
            client.get_many(&[b"good", key]).err(),
            client.gat(key, 0).err(),
            client.gats(key, 0).err(),
            client.set(key, "x", 0, 0).err(),
            client.add(key, "x", 0, 0).err(),
            client.replace(key, "x", 0, 0).err(),
            client.append(key, "x").err(),
            client.prepend(key, "x").err(),
            client.cas(key, "x", 0, 0, 1).err(),
            client.delete(key).err(),
            client.incr(key, 1).err(),
            client.decr(key, 1).err(),
            client.touch(key, 0).err(),
        ];
        for error in errors {
            match error {
                Some(error @ ClientError::Key(_)) => {
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
    // The server's limit counts when the client knows of none.
    let options = Options { key_size: 5000, ..options };
    let mut client = Client::connect(&options).expect("connect");
    match client.get(vec![b'k'; 1001]) {
        Err(ClientError::Refused(line)) => {
            assert_eq!(line, "CLIENT_ERROR bad command line format");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(value_of(client.get(&key).expect("get")), b"x", "it goes on");
}

#[test]
fn what_is_too_large_for_the_server_is_its_error_and_the_client_goes_on() {
    let (_server, mut client) = start();
    let error = client.set("k", vec![0; 2_000_000], 0, 0).expect_err("too large");
    assert!(matches!(error, ClientError::Server(_)), "{error:?}");
    assert_eq!(error.to_string(), "the server failed: object too large for cache");
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
    let impatient = Options { timeout: Duration::from_millis(100), ..options.clone() };
    let client = thread::spawn(move || Client::connect(&options));
    // While this one tries and gives up, the other tries as often.
    assert!(Client::connect(&impatient).is_err(), "nobody listens");
    assert!(!client.is_finished(), "it gave up");
    let _listener = TcpListener::bind(address).expect("bind");
    client.join().expect("client").expect("connect");
}

#[test]
fn who_asks_to_hear_of_it_is_told_of_each_attempt_that_is_not_the_last() {
    let (timeout, retry) = (Duration::from_millis(500), Duration::from_millis(100));
    let options = Options { timeout, retry, ..options(NOBODY) };
    let mut heard = Vec::new();
    let client = Client::connect_with(&options, |error| heard.push(error.to_string()));
    let last = client.err().expect("nobody listens").to_string();
    assert!((1..5).contains(&heard.len()), "{heard:?}");
    assert!(heard.iter().all(|error| *error == last), "{heard:?}");
    // One attempt, and nothing to hear of.
    let options = Options { retry: timeout, ..options };
    assert!(Client::connect_with(&options, |error| panic!("{error}")).is_err());
}

#[test]
fn connect_gives_up_at_the_timeout_and_says_where_it_tried() {
    let address = NOBODY;
    let (timeout, retry) = (Duration::from_millis(300), Duration::from_millis(50));
    let started = Instant::now();
    let options = Options { timeout, retry, ..options(address) };
    match Client::connect(&options).err() {
        Some(error @ ClientError::Connect(..)) => {
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
    assert!(took >= timeout - retry, "it gave up after {took:?}");
    assert!(took < REPLY_TIMEOUT, "it gave up after {took:?}");
}

#[test]
fn a_server_that_dies_is_noticed_at_the_next_request() {
    let (mut server, mut client) = start();
    client.set("k", "x", 0, 0).expect("set");
    server.kill();
    let error = client.get("k").expect_err("nobody is there");
    assert!(matches!(error, ClientError::Closed | ClientError::Io(_)), "{error:?}");
    assert!(error.is_fatal());
}

#[test]
fn a_connection_that_ends_instead_of_an_answer_is_closed() {
    for beginning in ["", "VALUE k 0 10\r\nhalf", "VALUE k 0 1\r\nx\r\n"] {
        let error = answered(beginning.as_bytes()).get("k").expect_err("no answer");
        assert!(matches!(error, ClientError::Closed), "{beginning:?}: {error:?}");
    }
}

/// A line is no answer before its end has come.
#[test]
fn an_answer_cut_off_in_its_line_is_none() {
    for beginning in ["STOR", "STORED", "STORED\r", "SERVER_ERROR out of"] {
        let error = answered(beginning.as_bytes()).set("k", "x", 0, 0);
        let error = error.expect_err("no answer");
        assert!(error.is_fatal(), "{beginning:?}: {error:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_in_time_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let timeout = Duration::from_millis(100);
    let options = Options { timeout, ..options(address) };
    let mut client = Client::connect(&options).expect("the kernel connects");
    let error = client.version().expect_err("nobody answers");
    assert_eq!(error.to_string(), "the server did not answer in time");
    assert!(matches!(error, ClientError::Io(_)) && error.is_fatal());
}

#[test]
fn what_is_no_answer_is_unexpected() {
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
            |client: &mut Client| client.version().err(),
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
    check("set", answered(b"NOT_STORED\r\n").set("k", "x", 0, 0).err());
    check("add", answered(b"NOT_FOUND\r\n").add("k", "x", 0, 0).err());
    check("cas", answered(b"OK\r\n").cas("k", "x", 0, 0, 1).err());
    check("incr", answered(b"STORED\r\n").incr("k", 1).err());
    check("delete", answered(b"NOT_STORED\r\n").delete("k").err());
    check("version", answered(b"END\r\n").version().err());
    check("flush_all", answered(b"END\r\n").flush_all(0).err());
    check("stats", answered(b"OK\r\n").stats(Topic::General).err());
    check("delete", answered(b"STORED\r\n").delete("k").err());
    check("touch", answered(b"DELETED\r\n").touch("k", 0).err());
    check("add", answered(b"TOUCHED\r\n").add("k", "x", 0, 0).err());
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
fn an_error_of_the_server_is_told_in_its_words() {
    let error = answered(b"SERVER_ERROR out of luck\r\n").get("k").expect_err("error");
    assert_eq!(error.to_string(), "the server failed: out of luck");
    let error = answered(b"VALUE k 0 1\r\nx\r\nSERVER_ERROR later\r\n").get("k");
    assert!(matches!(error, Err(ClientError::Server(why)) if why == "later"));
    for line in ["ERROR", "CLIENT_ERROR no"] {
        let error =
            answered(format!("{line}\r\n").as_bytes()).get("k").expect_err(line);
        assert!(matches!(&error, ClientError::Refused(l) if l == line), "{error:?}");
    }
}

#[test]
fn who_is_turned_away_is_told_why() {
    let line = b"ERROR Too many open connections\r\n";
    let error = answered(line).get("k").expect_err("turned away");
    assert!(error.is_fatal(), "{error:?}");
    assert!(error.to_string().contains("Too many open connections"), "{error}");
}

#[test]
fn a_line_that_does_not_end_is_given_up() {
    let error = answered(&[b'x'; 1 << 20]).get("k").expect_err("no answer");
    assert!(matches!(&error, ClientError::Unexpected(_)), "{error:?}");
}

#[test]
fn a_server_that_states_a_huge_length_costs_no_memory() {
    let mut client = answered(b"VALUE k 0 4000000000\r\nx");
    let error = client.get("k").expect_err("no such value");
    assert!(
        matches!(error, ClientError::Closed | ClientError::Unexpected(_)),
        "{error:?}"
    );
}

#[test]
fn an_address_that_is_none_can_not_be_connected_to() {
    let retry = Duration::from_millis(10);
    let timeout = Duration::from_millis(50);
    for address in ["no port", "127.0.0.1:x", "127.0.0.1:70000"] {
        let options = Options { retry, timeout, ..options(address) };
        match Client::connect(&options).err() {
            Some(ClientError::Connect(tried, error)) => {
                assert_eq!(tried, address);
                assert_ne!(error.kind(), ErrorKind::TimedOut);
            }
            other => panic!("{other:?}"),
        }
    }
}

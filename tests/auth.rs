//! Who may use the server. What an unauthenticated connection is answered, byte for byte,
//! is in tests/wire/auth.txt; here is that it can do nothing, whatever it is answered, and
//! how our own client logs in.

mod common;

use assert_cmd::Command;
use common::replay;
use common::{REPLY_TIMEOUT, Server, TempDir, auth_file, connect, open_store};
use memcached_lite::client::{Client, ClientError, Options};
use memcached_lite::protocol::Topic;
use memcached_lite::protocol::dialect::Dialect;
use memcached_lite::store;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

/// A server with a file of logins, and with `options`.
fn start(options: &[&str]) -> (Server, TempDir) {
    let directory = TempDir::new();
    let path = auth_file(&directory);
    (Server::start(&[&["--auth-file", &path], options].concat()), directory)
}

fn client_options(addr: SocketAddr, user: &str, password: &str) -> Options {
    let login = Some(format!("{user} {password}").into_bytes());
    let address = addr.to_string();
    Options { address, timeout: REPLY_TIMEOUT, login, ..Options::default() }
}

/// A client that has logged in.
fn client(server: &Server) -> Client {
    Client::connect(&client_options(server.addr, "user", "password")).expect("connect")
}

fn stat(client: &mut Client, name: &str) -> u64 {
    let stats = client.stats(Topic::General).expect("stats");
    let found = stats.iter().find(|(known, _)| known == name);
    found.and_then(|(_, value)| value.parse().ok()).expect(name)
}

/// V4
#[test]
fn an_unauthenticated_connection_changes_nothing_and_sees_nothing() {
    let (server, _directory) = start(&["--sync", "every-second"]);
    let mut known = client(&server);
    known.set("k", "7", 0, 0).expect("set");
    let before = stat(&mut known, "log_end");
    let mut stream = server.connect();
    let mut count = 0;
    for noreply in ["", " noreply"] {
        for request in [
            "set k 0 0 1#\r\nx\r\n",
            "add new 0 0 1#\r\nx\r\n",
            "replace k 0 0 1#\r\nx\r\n",
            "append k 0 0 1#\r\nx\r\n",
            "prepend k 0 0 1#\r\nx\r\n",
            "cas k 0 0 1 1#\r\nx\r\n",
            "set k 0 0 1000000#\r\n",
            "get k#\r\n",
            "gets k#\r\n",
            "gat 1 k#\r\n",
            "gats 1 k#\r\n",
            "delete k#\r\n",
            "incr k 1#\r\n",
            "decr k 1#\r\n",
            "touch k -1#\r\n",
            "flush_all#\r\n",
            "flush_all 1#\r\n",
            "stats#\r\n",
            "stats reset#\r\n",
            "stats settings#\r\n",
            "verbosity 2#\r\n",
            "version#\r\n",
        ] {
            let mut bytes = request.replace('#', noreply).into_bytes();
            if request.contains("1000000") {
                bytes.extend(b"flush_all\r\n".repeat(100_000));
                bytes.truncate(bytes.len() - 100_000);
                bytes.extend(b"\r\n");
            }
            stream.write_all(&bytes).expect("send");
            count += 1;
        }
    }
    stream.write_all(b"set k 0 0 13\r\nuser password\r\n").expect("send");
    let mut answers = Vec::new();
    while !answers.ends_with(b"STORED\r\n") {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).expect("an answer");
        assert!(read > 0, "closed after {}", answers.escape_ascii());
        answers.extend_from_slice(&buffer[..read]);
    }
    let answers = String::from_utf8(answers).expect("text");
    let rejected = answers.lines().filter(|line| line.starts_with("CLIENT_ERROR "));
    assert_eq!(rejected.count(), count, "one answer for each");
    assert_eq!(answers.lines().count(), count + 1);

    assert_eq!(known.get("k").expect("get").expect("an item").value, b"7");
    assert_eq!(known.get("new").expect("get"), None);
    assert_eq!(stat(&mut known, "log_end"), before, "nothing was written");
}

#[test]
fn logins_are_counted_and_blocks_before_a_login_are_not() {
    let (server, _directory) = start(&["--sync", "every-second"]);
    let mut known = client(&server);
    assert_eq!(
        (stat(&mut known, "auth_cmds"), stat(&mut known, "auth_errors")),
        (1, 0)
    );
    // Two that are wrong, one of them too long; one word is not a login.
    let text = "\
> set k 0 0 1
> x
< CLIENT_ERROR bad authentication token format
> set k 0 0 3
> x y
< CLIENT_ERROR authentication failure
> set k 0 0 5000
> {x*5000}
< CLIENT_ERROR authentication failure
> add k 0 0 1
> x
< CLIENT_ERROR unauthenticated
";
    // The interpreter logs in once, to empty the server.
    assert_eq!(replay(server.addr, text, false), Ok(1));
    assert_eq!(
        (stat(&mut known, "auth_cmds"), stat(&mut known, "auth_errors")),
        (4, 2)
    );
    assert_eq!(stat(&mut known, "cmd_set"), 0);
    known.set("k", "x", 0, 0).expect("set");
    assert_eq!(stat(&mut known, "cmd_set"), 1);
}

#[test]
fn a_client_logs_in_before_it_asks() {
    let (server, _directory) = start(&["--sync", "every-second"]);
    let mut first = client(&server);
    first.set("k", "x", 0, 0).expect("set");
    let other = client_options(server.addr, "other", "with:colons");
    let mut other = Client::connect(&other).expect("connect");
    assert_eq!(other.get("k").expect("get").expect("an item").value, b"x");
    assert_eq!(other.get("login").expect("get"), None);

    let rejected = Client::connect(&client_options(server.addr, "user", "passwore"));
    let Err(ClientError::Rejected(line)) = rejected else { panic!("it logs in") };
    assert_eq!(line, "CLIENT_ERROR authentication failure");
    let address = server.addr.to_string();
    let nobody = Options { address, timeout: REPLY_TIMEOUT, ..Options::default() };
    let rejected = Client::connect(&nobody).expect("connect").get("k");
    let Err(ClientError::Rejected(line)) = rejected else { panic!("it is served") };
    assert_eq!(line, "CLIENT_ERROR unauthenticated");
    let lite = client_options(server.addr, "user", "password");
    let lite = Client::connect(&Options { dialect: Dialect::Lite, ..lite });
    assert!(matches!(lite, Err(ClientError::Request(_))));
}

#[test]
fn a_login_that_nobody_wants_is_not_sent() {
    let server = Server::start(&["--sync", "every-second"]);
    let mut client = client(&server);
    client.set("k", "x", 0, 0).expect("set");
    assert_eq!(stat(&mut client, "cmd_set"), 1);
}

#[test]
fn an_unauthenticated_connection_has_the_time_of_a_request() {
    // V4
    let (server, _directory) =
        start(&["--sync", "every-second", "--request-timeout", "0.2"]);
    let mut known = client(&server);
    let silent = server.connect();
    // Rejected, and silent again.
    let rejected = server.connect();
    (&rejected).write_all(b"get k\r\n").expect("send");
    for mut stream in [silent, rejected] {
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).expect("it is closed");
    }
    known.set("k", "x", 0, 0).expect("one that has logged in may be idle");
}

/// Only loopback addresses are connected to.
#[test]
fn beyond_loopback_it_listens_with_logins_or_when_told_that_it_may() {
    let reached = |server: &Server, host: &str| {
        let addr = format!("{host}:{}", server.addr.port()).parse().expect("address");
        connect(addr).expect("connect")
    };
    let (server, _directory) = start(&["--listen", "0.0.0.0"]);
    assert!(server.addr.ip().is_unspecified());
    expect_version(reached(&server, "127.0.0.1"), b"CLIENT_ERROR unauthenticated\r\n");
    let server = Server::start(&["--listen", "0.0.0.0", "--insecure"]);
    expect_version(reached(&server, "127.0.0.1"), b"VERSION ");
    match TcpListener::bind("[::1]:0") {
        Ok(_) => {
            let (server, _directory) = start(&["--listen", "::"]);
            let stream = reached(&server, "[::1]");
            expect_version(stream, b"CLIENT_ERROR unauthenticated\r\n");
        }
        Err(error) => eprintln!("skipped: no IPv6 here: {error}"),
    }
}

/// The modes of a directory and of all that is in it, by name.
fn modes(directory: &Path) -> BTreeMap<String, u32> {
    let mode = |path: &Path| {
        fs::symlink_metadata(path).expect("metadata").permissions().mode() & 0o777
    };
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| {
        let entry = entry.expect("entry");
        (entry.file_name().into_string().expect("UTF-8"), mode(&entry.path()))
    });
    entries.chain([(".".to_owned(), mode(directory))]).collect()
}

#[test]
fn what_a_server_makes_is_its_owners_alone() {
    let directory = TempDir::new();
    let (data, socket) =
        (directory.path().join("data"), directory.path().join("socket"));
    let run = || {
        // The mask that leaves all rights to everybody.
        let mut command = Command::new("sh");
        command.args(["-c", "umask 0; exec \"$@\"", "sh"]);
        command.arg(env!("CARGO_BIN_EXE_server"));
        command.args(["--idle-exit", "0.05", "--data"]).arg(&data);
        command.arg("--unix-socket").arg(&socket);
        command.timeout(REPLY_TIMEOUT).assert().success();
    };
    run();
    let file = OpenOptions::new().append(true).open(data.join("0000000001.kv"));
    file.and_then(|mut file| file.write_all(b"torn")).expect("append");
    run();
    assert_eq!(modes(directory.path())["socket"], 0o700);
    let (store, _) = open_store(&data, &store::Options::default(), 1).expect("open");
    store.compact(&|| 1).expect("compact");
    let expected = [
        (".", 0o700),
        ("0000000001.kv.torn", 0o600),
        ("0000000002.kv", 0o600),
        ("lock", 0o600),
    ];
    let expected = expected.map(|(name, mode)| (name.to_owned(), mode));
    assert_eq!(modes(&data), BTreeMap::from(expected));
}

/// V4
#[test]
fn an_unauthenticated_connection_that_talks_has_the_time_of_a_request() {
    let (server, _directory) = start(&["--request-timeout", "1"]);
    let stream = server.connect();
    // A wrong line now and then buys no time.
    let begun = Instant::now();
    let mut answers = 0;
    while (&stream).write_all(b"get k\r\n").is_ok() {
        let mut buffer = [0; 100];
        match (&stream).read(&mut buffer) {
            Ok(count) if count > 0 => answers += 1,
            _ => break,
        }
        assert!(begun.elapsed() < REPLY_TIMEOUT, "it keeps its place");
    }
    assert!(answers > 0);
}

#[test]
fn a_wrong_login_is_answered_when_timeouts_are_checked() {
    // Once a second: so three in a row on one connection, each sent when the one before was
    // answered, take more than one second, whenever the first of these checks comes.
    let (server, _directory) = start(&[]);
    let stream = server.connect();
    let begun = Instant::now();
    for _ in 0..3 {
        (&stream).write_all(b"set k 0 0 4\r\nu pw\r\n").expect("send");
        let mut line = [0; "CLIENT_ERROR authentication failure\r\n".len()];
        (&stream).read_exact(&mut line).expect("an answer");
        assert!(line.starts_with(b"CLIENT_ERROR authentication failure"));
    }
    assert!(begun.elapsed() > Duration::from_secs(1));
    assert_eq!((&stream).read(&mut [0]).expect("the end"), 0, "the third was the last");
}

#[test]
fn a_file_of_logins_that_belongs_to_somebody_else_is_not_read() {
    let directory = TempDir::new();
    let path = auth_file(&directory);
    // Only root can give a file away.
    if chown(&path, Some(1), None).is_err() {
        return;
    }
    let server = Command::new(env!("CARGO_BIN_EXE_server"))
        .args(["--port", "0", "--auth-file", &path, "--data"])
        .arg(directory.path().join("data"))
        .timeout(REPLY_TIMEOUT)
        .assert()
        .failure();
    let said = String::from_utf8_lossy(&server.get_output().stderr).into_owned();
    assert!(said.contains("make it your own"), "{said}");
}

#[test]
fn no_key_leads_out_of_the_data_directory() {
    let directory = TempDir::new();
    let data = directory.path().join("data");
    let server = Server::start_on(&data, &["--sync", "every-second"]);
    let address = server.addr.to_string();
    let options = Options { address, timeout: REPLY_TIMEOUT, ..Options::default() };
    let mut client = Client::connect(&options).expect("connect");
    let before = modes(&data);
    let outside = directory.path().join("outside").display().to_string();
    for key in [
        "..",
        ".",
        "/",
        "../x",
        "../../x",
        "./x",
        "x/y",
        "/etc/passwd",
        &outside,
        "lock",
        "0000000001.kv",
        "0000000002.kv",
        "0000000002.kv.tmp",
        "%2e%2e%2fx",
        "~/x",
    ] {
        client.set(key, key, 0, 0).expect("set");
        let item = client.get(key).expect("get").expect("an item");
        assert_eq!(item.value, key.as_bytes());
        client.delete(key).expect("delete");
    }
    assert_eq!(modes(&data), before);
    assert_eq!(modes(directory.path()).len(), 2, "the directory, and that above it");
}

#[test]
fn no_link_leads_out_of_the_data_directory() {
    let open = |data: &TempDir| {
        let opened = open_store(data.path(), &store::Options::default(), 1);
        opened.map(|(store, _)| store).map_err(|error| error.to_string())
    };
    let elsewhere = TempDir::new();
    let target = elsewhere.path().join("target");
    for is_there in [true, false] {
        if is_there {
            fs::write(&target, "mine").expect("write");
        } else {
            fs::remove_file(&target).expect("remove");
        }
        let untouched = || match is_there {
            true => fs::read(&target).is_ok_and(|bytes| bytes == b"mine"),
            false => !target.exists(),
        };
        for name in ["lock", "0000000001.kv"] {
            let data = TempDir::new();
            symlink(&target, data.path().join(name)).expect("link");
            let why = open(&data).err().unwrap_or_else(|| panic!("{name} is followed"));
            assert!(why.contains(&format!("{name} is a link")), "{why}");
            assert!(untouched(), "{name}");
        }
        // A torn end is kept under a name that nothing has.
        let data = TempDir::new();
        drop(open(&data).expect("open"));
        let file =
            OpenOptions::new().append(true).open(data.path().join("0000000001.kv"));
        file.and_then(|mut file| file.write_all(b"torn")).expect("append");
        let link = data.path().join("0000000001.kv.torn");
        symlink(&target, &link).expect("link");
        drop(open(&data).expect("open"));
        let kept = fs::read(data.path().join("0000000001.kv.torn.2"));
        assert_eq!(kept.expect("the torn end"), b"torn");
        assert!(untouched() && fs::read_link(&link).is_ok_and(|to| to == target));
        // Under this name, a first start makes its file.
        let data = TempDir::new();
        let link = data.path().join("0000000001.kv.tmp");
        symlink(&target, &link).expect("link");
        let why = open(&data).err().expect("it is followed");
        assert!(why.contains("0000000001.kv.tmp is a link") && untouched(), "{why}");
        fs::remove_file(&link).expect("remove");
        drop(open(&data).expect("open"));
        // A later one removes what an interrupted one has left: the link, and not the file
        // that it leads to.
        symlink(&target, &link).expect("link");
        let store = open(&data).expect("open");
        assert!(untouched() && link.symlink_metadata().is_err());
        symlink(&target, data.path().join("0000000002.kv.tmp")).expect("link");
        let why = store.compact(&|| 1).expect_err("it is followed").to_string();
        assert!(why.contains("0000000002.kv.tmp is a link") && untouched(), "{why}");
    }
}

fn expect_version(mut stream: TcpStream, expected: &[u8]) {
    stream.write_all(b"version\r\n").expect("send");
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).expect("an answer");
    assert_eq!(received, expected);
}

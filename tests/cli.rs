//! The three programs as a person runs them: what they print, their exit codes, and that
//! a mistake is reported in one clear line and changes nothing.

mod common;

use assert_cmd::Command;
use common::disk::files;
use common::{NOBODY, REPLY_TIMEOUT, Server, TempDir, auth_file};
use memcached_lite::client::{Client, Options};
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

/// A program of ours, without what the environment says of servers.
fn program(name: &str) -> Command {
    let path = match name {
        "server" => env!("CARGO_BIN_EXE_server"),
        "client" => env!("CARGO_BIN_EXE_client"),
        _ => env!("CARGO_BIN_EXE_driver"),
    };
    let mut command = Command::new(path);
    command.env_remove("SERVER_HOST").env_remove("SERVER_PORT");
    command.timeout(REPLY_TIMEOUT);
    command
}

/// Runs a program with these arguments.
fn run(name: &str, args: &[&str]) -> Output {
    program(name).args(args).output().expect("it runs")
}

/// Checks that a program has printed nothing but one line on standard error, and returns
/// it without its beginning, `server: `.
#[track_caller]
fn failure(name: &str, output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let line =
        stderr.strip_prefix(&format!("{name}: ")).and_then(|s| s.strip_suffix('\n'));
    line.unwrap_or_else(|| panic!("{stderr}")).to_owned()
}

/// Runs `client` against this server; its output and its exit code.
fn ask(server: &Server, args: &[&str]) -> (String, i32) {
    let port = server.addr.port().to_string();
    let output = run("client", &[&["--port", &port], args].concat());
    let text = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("a code");
    (String::from_utf8(text).expect("text"), code)
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (name, usage) in [
        ("server", "usage: server [OPTION]...\n"),
        ("client", "usage: client [OPTION]... [COMMAND]\n"),
        ("driver", "usage: driver --list | "),
    ] {
        for args in [&["--help"][..], &["-h"], &["--help", "--nonsense"]] {
            let output = run(name, args);
            let text = String::from_utf8(output.stdout).expect("text");
            // A sentence on what it is, and then how it is used.
            let (sentence, rest) = text.split_once("\n\n").expect("a paragraph");
            assert!(sentence.ends_with('.') && !sentence.contains('\n'), "{text}");
            assert!(rest.starts_with(usage), "{text}");
            assert!(!text.ends_with("\n\n"), "{text}");
            assert!(text.contains("--help") && text.contains("--version"), "{text}");
            assert!(text.lines().all(|line| line.len() <= 88), "{text}");
            assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
        }
        for arg in ["--version", "-V"] {
            let output = run(name, &[arg]);
            let text = String::from_utf8(output.stdout).expect("text");
            assert_eq!(
                text,
                concat!("memcached-lite ", env!("CARGO_PKG_VERSION"), "\n")
            );
            assert_eq!(output.status.code(), Some(0));
        }
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_rejected_in_one_line() {
    let directory = TempDir::new();
    let data = directory.path().join("data");
    let data = data.to_str().expect("UTF-8");
    for (name, args, why) in [
        ("server", "--prot 7", "unknown option --prot; see server --help"),
        ("server", "-x", "unknown option -x; see server --help"),
        ("server", "-m 64", "-m is not here, keys must fit in memory"),
        ("server", "-u nobody", "-u is not here, start it as that user"),
        ("server", "-d", "-d is not here, start it with & or systemd"),
        (
            "server",
            "-l 127.0.0.1:11211",
            "--listen 127.0.0.1:11211 is not an address of this machine (a port is --port)",
        ),
        ("server", "extra", "unexpected argument extra; see server --help"),
        ("server", "--port", "--port needs a value: NUM"),
        ("server", "--data=", "--data needs a value: DIR"),
        ("server", "--port 65536", "--port takes a number from 0 to 65535, not 65536"),
        ("server", "--port -1", "--port takes a number from 0 to 65535, not -1"),
        ("server", "--key-size 0", "--key-size takes a number from 1 to 65535, not 0"),
        (
            "server",
            "--key-size 65536",
            "--key-size takes a number from 1 to 65535, not 65536",
        ),
        ("server", "--int-size 0", "--int-size takes a number from 1 to 8, not 0"),
        ("server", "--int-size 9", "--int-size takes a number from 1 to 8, not 9"),
        ("server", "--int-order middle", "--int-order takes big or little, not middle"),
        ("server", "--sync never", "--sync takes always or every-second, not never"),
        ("server", "-I 1023", "--max-item-size takes a size from 1k to 1g, not 1023"),
        ("server", "-I 1025m", "--max-item-size takes a size from 1k to 1g, not 1025m"),
        ("server", "-I 1e3", "--max-item-size takes a size from 1k to 1g, not 1e3"),
        ("server", "-t 0", "--threads takes a number from 1 to 1024, not 0"),
        ("server", "-c 0", "--conn-limit takes a number from 1 to 1000000, not 0"),
        ("server", "--backlog x", "--backlog takes a number from 0 to 1000000, not x"),
        (
            "server",
            "--idle-exit NaN",
            "--idle-exit takes a number from 0 to 1000000000, not NaN",
        ),
        (
            "server",
            "--listen 0.0.0.0",
            "--listen 0.0.0.0 can be reached from other machines",
        ),
        ("server", "--listen ::", "--listen :: can be reached from other machines"),
        (
            "server",
            "-Y logins --dialect lite",
            "--auth-file goes with --dialect memcached alone",
        ),
        (
            "server",
            "-Y logins --dialect raw",
            "--auth-file goes with --dialect memcached alone",
        ),
        ("server", "-Y", "--auth-file needs a value: FILE"),
        ("server", "--insecure=yes", "--insecure takes no value"),
        (
            "server",
            "--listen nowhere.invalid",
            "--listen nowhere.invalid is not an address of this machine",
        ),
        ("server", "--check --port 7", "--port makes no sense with --check"),
        ("server", "--repair --check", "--repair makes no sense with --check"),
        ("server", "--compact --sync always", "--sync makes no sense with --compact"),
        ("server", "--repair -v", "--verbose makes no sense with --repair"),
        ("client", "--prot 7", "unknown option --prot; see client --help"),
        ("client", "--port 0 version", "--port takes a number from 1 to 65535, not 0"),
        ("client", "--timeout 0 version", "--timeout takes more than 0 seconds"),
        (
            "client",
            "--key-size 0 version",
            "--key-size takes a number from 1 to 65535, not 0",
        ),
        (
            "client",
            "--flags -1 version",
            "--flags takes a number from 0 to 4294967295, not -1",
        ),
        ("client", "--quote=x version", "--quote takes no value"),
        ("driver", "", "give --test NUM, --all, --clients NUM or --script FILE"),
        ("driver", "--bench", "unknown option --bench; see driver --help"),
        ("driver", "--test 1 2", "unexpected argument 2; see driver --help"),
    ] {
        let mut command = program(name);
        if name == "server" {
            command.args(["--data", data]);
        }
        let output = command.args(args.split_whitespace()).output().expect("it runs");
        let line = failure(name, &output, 2);
        assert!(line.starts_with(why), "{name} {args}: {line}");
        assert!(!directory.path().join("data").exists(), "{name} {args}");
    }
}

#[test]
fn a_file_of_logins_has_to_be_its_owners_alone_and_to_make_sense() {
    let directory = TempDir::new();
    let data = directory.path().join("data");
    let path = auth_file(&directory);
    let rejected = |name: &str, code| {
        let mut command = program(name);
        if name == "server" {
            command.args(["--port", "0", "--data"]).arg(&data);
        }
        let output = command.args(["--auth-file", &path]).output().expect("it runs");
        let line = failure(name, &output, code);
        assert!(line.contains(&path), "{line}");
        assert!(!line.contains("secret"), "it shows what the file holds: {line}");
        assert!(!data.exists());
        line
    };
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        let advice = format!(
            "others can read or change {path}; make it your own, and `chmod 600 {path}`"
        );
        assert_eq!(rejected("server", 1), advice, "{mode:o}");
        assert_eq!(rejected("client", 2), advice, "{mode:o}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    for (text, number) in [
        ("", 1),
        ("secret", 1),
        ("user:secret\n\n", 2),
        ("user:secret\nuser secret\n", 2),
        ("user:secret\nuser:\n", 2),
        ("user:sec ret\n", 1),
    ] {
        fs::write(&path, text).expect("write");
        let line = rejected("server", 1);
        let says = format!("line {number} of {path} is not user:password");
        assert!(line.starts_with(&says), "{line}");
        assert_eq!(rejected("client", 2), line);
    }
    fs::remove_file(&path).expect("remove");
    assert!(rejected("server", 1).starts_with(&format!("can't read {path}: ")));
    fs::create_dir(&path).expect("mkdir");
    assert!(rejected("server", 1).contains("is not a regular file"));
    fs::remove_dir(&path).expect("rmdir");
    // To open it would wait for a process that writes.
    Command::new("mkfifo").arg(&path).assert().success();
    assert!(rejected("server", 1).contains("is not a regular file"));
}

#[test]
fn the_client_logs_in_with_the_first_line_of_a_file() {
    let directory = TempDir::new();
    let path = auth_file(&directory);
    let server = Server::start(&["--auth-file", &path, "--sync", "every-second"]);
    let stored = ask(&server, &["--auth-file", &path, "set", "k", "x"]);
    assert_eq!(stored, ("STORED\n".into(), 0));
    let rejected = ("client: CLIENT_ERROR unauthenticated\n".into(), 1);
    assert_eq!(ask(&server, &["get", "k"]), rejected);
    fs::write(&path, "user:another\nuser:password\n").expect("write");
    let rejected = ("client: CLIENT_ERROR authentication failure\n".into(), 1);
    assert_eq!(ask(&server, &["--auth-file", &path, "get", "k"]), rejected);
}

/// A login's key has to be a key, and is the client's to choose; its password may have any
/// byte but a space and a line end.
#[test]
fn the_client_can_log_in_whatever_the_key_size_and_the_password() {
    let directory = TempDir::new();
    let path = auth_file(&directory);
    for (login, key_size) in [(&b"u:p:w\xFF\r\n"[..], "1"), (b"u:p", "250")] {
        fs::write(&path, login).expect("write");
        let server = Server::start(&["--auth-file", &path, "--key-size", key_size]);
        for size in [key_size, "250"] {
            let set = ["--auth-file", &path, "--key-size", size, "set", "k", "x"];
            assert_eq!(ask(&server, &set), ("STORED\n".into(), 0), "{login:?}");
        }
    }
}

#[test]
fn the_environment_gives_defaults() {
    let output = program("server").env("SERVER_HOST", "0.0.0.0").output();
    let line = failure("server", &output.expect("it runs"), 2);
    assert!(line.starts_with("--listen 0.0.0.0 can be reached"), "{line}");
    let output = program("server").env("SERVER_PORT", "x").output();
    let line = failure("server", &output.expect("it runs"), 2);
    assert_eq!(line, "--port takes a number from 0 to 65535, not x");

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let port = address.rsplit(':').next().expect("a port");
    let directory = TempDir::new();
    let data = directory.path().join("data");
    let mut server = program("server");
    server.arg("--data").arg(&data).env("SERVER_PORT", port);
    let output = server.output().expect("it runs");
    assert!(failure("server", &output, 1).contains(&address));

    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    let mut client = program("client");
    client.env("SERVER_HOST", "127.0.0.1").env("SERVER_PORT", port);
    client.args(["set", "k", "x"]).assert().code(0).stdout("STORED\n");
    // An option takes precedence over the environment.
    let mut client = program("client");
    client.env("SERVER_HOST", "nowhere.invalid").env("SERVER_PORT", "1");
    let address = ["--host", "127.0.0.1", "--port", &server.addr.port().to_string()];
    client.args(address).args(["get", "k"]).assert().code(0).stdout("x");
}

#[test]
fn a_port_in_use_is_reported_and_no_directory_is_made() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = taken.local_addr().expect("address");
    let directory = TempDir::new();
    let data = directory.path().join("data");
    let mut server = program("server");
    server.args(["--port", &address.port().to_string(), "--data"]).arg(&data);
    let line = failure("server", &server.output().expect("it runs"), 1);
    assert!(line.starts_with(&format!("can't listen on {address}: ")), "{line}");
    let advice = "choose another --port (0 is any free one), --listen or --unix-socket";
    assert!(line.ends_with(advice), "{line}");
    assert!(!data.exists());
}

#[test]
fn a_data_directory_that_can_not_be_is_reported() {
    let directory = TempDir::new();
    let file = directory.path().join("file");
    fs::write(&file, "mine").expect("write");
    let before = files(directory.path());
    for data in [file.clone(), file.join("below"), file.join("far/below")] {
        let mut server = program("server");
        let output = server.args(["--port", "0", "--data"]).arg(&data).output();
        let line = failure("server", &output.expect("it runs"), 1);
        let beginning = format!("can't use the data directory {}: ", data.display());
        assert!(line.starts_with(&beginning), "{line}");
        assert!(files(directory.path()) == before);
    }
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    for bytes in [&b""[..], b"a diary", &[0; 100], &[0xFF; 100]] {
        let directory = TempDir::new();
        fs::write(directory.path().join("0000000001.kv"), bytes).expect("write");
        let before = files(directory.path());
        let mut server = program("server");
        let output =
            server.args(["--port", "0", "--data"]).arg(directory.path()).output();
        let line = failure("server", &output.expect("it runs"), 1);
        assert!(line.contains("0000000001.kv"), "{line}");
        assert!(files(directory.path()) == before, "no lock, and no byte changed");
    }
}

#[test]
fn data_keep_the_sizes_that_they_were_made_with() {
    let directory = TempDir::new();
    let sizes = ["--key-size", "60", "--int-size", "2", "--int-order", "little"];
    let mut server = Server::start_on(directory.path(), &sizes);
    ask(&server, &["set", "k", "x"]);
    server.kill();
    let before = files(directory.path());
    for (option, value, says) in [
        ("--key-size", "250", "KEY_SIZE 250"),
        ("--int-size", "4", "INT_SIZE 4"),
        ("--int-order", "big", "INT_ORDER big"),
    ] {
        let mut server = program("server");
        server.args(["--port", "0", option, value, "--data"]).arg(directory.path());
        let line = failure("server", &server.output().expect("it runs"), 1);
        let has = "KEY_SIZE 60, INT_SIZE 2, INT_ORDER little";
        assert!(line.contains(has) && line.contains(says), "{line}");
        assert!(files(directory.path()) == before);
    }
    let server = Server::start_on(directory.path(), &[]);
    assert_eq!(ask(&server, &["get", "k"]), ("x".into(), 0));
    let long = "k".repeat(61);
    let rejected = "client: CLIENT_ERROR bad command line format\n";
    assert_eq!(ask(&server, &["get", &long]), (rejected.into(), 1));
}

#[test]
fn a_directory_in_use_is_reported_with_the_owners_process() {
    let server = Server::start(&[]);
    let before = files(server.data());
    let mut second = program("server");
    let output = second.args(["--port", "0", "--data"]).arg(server.data()).output();
    let line = failure("server", &output.expect("it runs"), 1);
    assert!(line.contains(&format!("process {} is using it", server.pid())), "{line}");
    assert!(files(server.data()) == before);
}

/// What `ulimit` has lowered, only root may raise again, unless it waives the right.
#[cfg(target_os = "linux")]
#[test]
fn more_connections_than_descriptors_are_reported_at_the_start() {
    let directory = TempDir::new();
    let data = directory.path().join("data");
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let is_root = status.lines().any(|line| line.starts_with("Uid:\t0"));
    let mut command = Command::new(if is_root { "setpriv" } else { "env" });
    if is_root {
        command.arg("--bounding-set=-sys_resource");
    }
    command.args(["sh", "-c", "ulimit -n 300; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_server"));
    command.args(["--port", "0", "--conn-limit", "1000", "--data"]).arg(&data);
    let output = command.timeout(REPLY_TIMEOUT).output().expect("it runs");
    let line = failure("server", &output, 1);
    assert!(line.starts_with("--conn-limit 1000 needs "), "{line}");
    assert!(line.contains("the system allows 300"), "{line}");
    assert!(line.contains("lower --conn-limit"), "{line}");
    assert!(!data.exists());
}

#[test]
fn a_server_continues_when_standard_error_can_not_be_written() {
    // Standard error may be a file on the disk that is full.
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        eprintln!("SKIPPED: there is no /dev/full here");
        return;
    };
    let directory = TempDir::new();
    drop(Server::start_on(directory.path(), &["--sync", "every-second"]));
    let file = directory.path().join("0000000001.kv");
    let mut torn = fs::read(&file).expect("a file");
    torn.extend(b"half a record");
    fs::write(&file, torn).expect("write");
    let mut server = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
    server.args(["--port", "0", "--idle-exit", "0.1", "--data"]).arg(directory.path());
    server.env_remove("SERVER_HOST").env_remove("SERVER_PORT");
    let ended = server.stdout(Stdio::null()).stderr(full).status().expect("it runs");
    assert_eq!(ended.code(), Some(0));
    assert!(directory.path().join("0000000001.kv.torn").exists());
}

#[test]
fn a_dump_that_can_not_be_written_says_so() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        eprintln!("SKIPPED: there is no /dev/full here");
        return;
    };
    let directory = TempDir::new();
    drop(Server::start_on(directory.path(), &[]));
    let mut dump = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
    dump.arg("--dump").arg("--data").arg(directory.path()).stdout(full);
    let line = failure("server", &dump.output().expect("it runs"), 1);
    assert!(line.contains("the dump can't be written: No space left"), "{line}");
}

#[test]
fn an_idle_exit_is_a_success_that_says_why() {
    let directory = TempDir::new();
    let mut server = program("server");
    server.args(["--port", "0", "--idle-exit", "0.1", "--data"]).arg(directory.path());
    let output = server.output().expect("it runs");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<_> = text.lines().collect();
    let [listening, timeout, detached] = lines[..] else { panic!("{text}") };
    let address = listening.strip_prefix("Server: Listening on ").expect("first");
    let address = address.strip_suffix("...").expect("first");
    assert!(timeout.starts_with("SERVER: Timeout reached at "), "{timeout}");
    assert_eq!(detached, format!("Server: Detached from {address}"));
}

#[test]
fn each_command_prints_its_reply_and_exits_with_its_outcome() {
    let server = Server::start(&["--sync", "every-second"]);
    for (command, output, code) in [
        ("get k", "KEY NOT FOUND\n", 1),
        ("gets k", "KEY NOT FOUND\n", 1),
        ("gat 0 k", "KEY NOT FOUND\n", 1),
        ("get k other", "KEY NOT FOUND\n", 1),
        ("replace k x", "NOT_STORED\n", 1),
        ("append k x", "NOT_STORED\n", 1),
        ("prepend k x", "NOT_STORED\n", 1),
        ("cas k 1 x", "NOT_FOUND\n", 1),
        ("incr k 1", "NOT_FOUND\n", 1),
        ("decr k 1", "NOT_FOUND\n", 1),
        ("touch k 0", "NOT_FOUND\n", 1),
        ("delete k", "NOT_FOUND\n", 1),
        ("set k two words", "STORED\n", 0),
        ("get k", "two words", 0),
        ("add k x", "NOT_STORED\n", 1),
        ("add other 7", "STORED\n", 0),
        ("get other missing k", "other: 7\nk: two words\n", 0),
        ("incr other 5", "12\n", 0),
        ("decr other 100", "0\n", 0),
        ("append k s", "STORED\n", 0),
        ("prepend k in", "STORED\n", 0),
        ("gat 100 k", "intwo wordss", 0),
        ("replace k y", "STORED\n", 0),
        ("cas k 1 x", "EXISTS\n", 1),
        ("touch k 100", "TOUCHED\n", 0),
        ("get k", "y", 0),
        ("delete k", "DELETED\n", 0),
        ("--exptime -1 set k x", "STORED\n", 0),
        ("get k", "KEY NOT FOUND\n", 1),
        ("set n -5", "STORED\n", 0),
        ("get n", "-5", 0),
        ("--quote get n", "\"-5\"\n", 0),
        ("--quote get k", "\"KEY NOT FOUND\\r\\n\"\n", 1),
        ("flush 100", "OK\n", 0),
        ("get n", "-5", 0),
        ("flush", "OK\n", 0),
        ("get n", "KEY NOT FOUND\n", 1),
        ("version", "VERSION 1.6.0\n", 0),
    ] {
        let words: Vec<_> = command.split(' ').collect();
        assert_eq!(ask(&server, &words), (output.to_owned(), code), "{command}");
    }
    ask(&server, &["set", "k", "x"]);
    let (line, code) = ask(&server, &["gets", "k"]);
    let (unique, value) = line.split_once(' ').expect("a unique and a value");
    assert_eq!((value, code), ("x\n", 0));
    assert_eq!(ask(&server, &["cas", "k", unique, "new"]), ("STORED\n".into(), 0));
    assert_eq!(ask(&server, &["get", "k"]), ("new".into(), 0));
    let (stats, code) = ask(&server, &["stats"]);
    assert!(stats.contains(&format!("pid {}\n", server.pid())), "{stats}");
    assert_eq!(code, 0);
    let (settings, _) = ask(&server, &["stats", "settings"]);
    let port = format!("tcpport {}\n", server.addr.port());
    assert!(settings.contains(&port), "{settings}");
}

#[test]
fn flags_reach_the_server() {
    let server = Server::start(&[]);
    ask(&server, &["--flags", "4294967295", "set", "k", "x"]);
    let address = server.addr.to_string();
    let mut client =
        Client::connect(&Options { address, ..Options::default() }).expect("connect");
    let item = client.get("k").expect("get").expect("an item");
    assert_eq!(item.flags, u32::MAX);
}

#[test]
fn a_command_that_makes_no_sense_needs_no_server_to_be_rejected() {
    let port = NOBODY.port().to_string();
    for (command, why) in [
        ("get", "get takes KEY..."),
        ("set k", "set takes KEY VALUE"),
        ("cas k 1", "cas takes KEY UNIQUE VALUE"),
        ("delete", "delete takes KEY"),
        ("bogus k", "unknown command bogus; help lists them"),
        ("stats items", "stats takes [settings]"),
        ("version 2", "version takes nothing"),
        ("incr k x", "DELTA takes a whole number, not x"),
        ("incr k -1", "DELTA takes a whole number, not -1"),
        // Only a VALUE can be what standard input has.
        ("incr k -", "DELTA takes a whole number, not -"),
        ("touch k -", "SECS takes a whole number, not -"),
        ("cas k x value", "UNIQUE takes a whole number, not x"),
        ("touch k soon", "SECS takes a whole number, not soon"),
        ("flush soon", "SECS takes a whole number, not soon"),
        ("gat soon k", "SECS takes a whole number, not soon"),
    ] {
        let args = [&["--port", &port][..], &command.split(' ').collect::<Vec<_>>()];
        assert_eq!(failure("client", &run("client", &args.concat()), 2), why);
    }
}

#[test]
fn what_the_server_rejects_and_what_can_not_be_sent_have_different_codes() {
    let server = Server::start(&[]);
    ask(&server, &["set", "k", "x"]);
    let why = "client: CLIENT_ERROR cannot increment or decrement non-numeric value\n";
    assert_eq!(ask(&server, &["incr", "k", "1"]), (why.into(), 1));
    let long = "k".repeat(251);
    let why = "client: a key of 251 bytes is longer than 250, the key size\n";
    assert_eq!(ask(&server, &["get", &long]), (why.into(), 2));
    let why = "client: a key must have at least one byte\n";
    assert_eq!(ask(&server, &["get", ""]), (why.into(), 2));
    let why = "client: a key can't have the byte ' ' in it\n";
    assert_eq!(ask(&server, &["set", "a b", "x"]), (why.into(), 2));
}

#[test]
fn a_value_of_any_bytes_comes_from_standard_input() {
    let server = Server::start(&["--sync", "every-second"]);
    let port = server.addr.port().to_string();
    let client = || {
        let mut client = program("client");
        client.args(["--port", &port]);
        client
    };
    let every_byte: Vec<u8> = (0..=255).collect();
    let big = every_byte.repeat(4000);
    for value in [vec![], b"line\n".to_vec(), every_byte, big] {
        let mut set = client();
        set.args(["set", "k", "-"]).write_stdin(&value[..]);
        set.assert().code(0).stdout("STORED\n");
        let output = client().args(["get", "k"]).output().expect("it runs");
        assert!(output.stdout == value, "{} bytes", value.len());
    }
    let mut set = client();
    set.args(["set", "k", "-"]).write_stdin(vec![0; 2_000_000]);
    let output = set.output().expect("it runs");
    let line = failure("client", &output, 1);
    assert_eq!(line, "SERVER_ERROR object too large for cache");
}

#[test]
fn an_argument_may_have_bytes_that_are_not_text() {
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    let mut set = program("client");
    set.args(["--port", &port, "set", "k"]).arg(OsStr::from_bytes(b"\xFF\xFE"));
    let output = set.output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout, b"STORED\n");
    let get = run("client", &["--port", &port, "get", "k"]);
    assert_eq!(get.stdout, b"\xFF\xFE");
}

#[test]
fn an_option_that_is_not_text_is_rejected_in_one_line() {
    for name in ["server", "client", "driver"] {
        let mut command = program(name);
        let output = command.arg(OsStr::from_bytes(b"--\xFF")).output();
        failure(name, &output.expect("it runs"), 2);
    }
}

#[test]
fn a_script_runs_to_its_end_and_exits_with_the_worst_outcome() {
    let server = Server::start(&["--sync", "every-second"]);
    let port = server.addr.port().to_string();
    let script = |text: &'static str| {
        let mut client = program("client");
        client.args(["--port", &port]).write_stdin(text).output().expect("it runs")
    };
    let good = script("set k two words\r\n\n  get   k  \nincr n 1\nset n 1\nincr n 1");
    assert_eq!(
        String::from_utf8(good.stdout).expect("text"),
        "STORED\ntwo words\nNOT_FOUND\nSTORED\n2\n"
    );
    assert_eq!(good.status.code(), Some(1));
    // Only as an argument is `-` the standard input, which here is the script.
    assert_eq!(script("set d -\nget d\n").stdout, b"STORED\n-\n");
    let empty = script("");
    assert_eq!((empty.status.code(), &empty.stdout[..]), (Some(0), &b""[..]));
    let wrong = script("bogus\nget k\nget missing\n");
    assert_eq!(wrong.stdout, b"two words\nKEY NOT FOUND\n");
    assert_eq!(
        String::from_utf8(wrong.stderr).expect("text"),
        "client: line 1: unknown command bogus; help lists them\n"
    );
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn without_a_server_the_client_stops_trying_at_its_timeout() {
    let port = NOBODY.port().to_string();
    let options = ["--port", &port, "--timeout", "0.4"];
    for command in [
        // A quarter of the timeout, unless something else is asked for.
        &["get", "k"][..],
        &["--retry", "0.1", "get", "k"],
        &["--retry", "0.1", "--quote"],
        &[],
    ] {
        let started = Instant::now();
        let output = run("client", &[&options[..], command].concat());
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b""[..]));
        let text = String::from_utf8(output.stderr).expect("text");
        let beginning = format!("client: can't connect to 127.0.0.1:{port}: ");
        assert!(text.lines().all(|line| line.starts_with(&beginning)), "{text}");
        // Each attempt is reported, and whether there will be another.
        let lines: Vec<_> = text.lines().collect();
        let (last, others) = lines.split_last().expect("an error");
        assert!(!last.contains("again") && !others.is_empty(), "{text}");
        let again = "; trying again in 0.1 s";
        assert!(others.iter().all(|line| line.ends_with(again)), "{text}");
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(300), "it stopped after {took:?}");
        assert!(took < Duration::from_secs(5), "it stopped after {took:?}");
    }
}

#[test]
fn a_client_that_is_over_the_limit_has_no_connection() {
    let server = Server::start(&["--conn-limit", "1"]);
    let _only = server.connect();
    let port = server.addr.port().to_string();
    failure("client", &run("client", &["--port", &port, "get", "k"]), 3);
}

#[test]
fn the_client_reaches_a_server_by_its_unix_socket() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let socket = path.to_str().expect("UTF-8");
    let args = ["--sync", "every-second", "--unix-socket", socket];
    let server = Server::spawn_on(&directory.path().join("data"), &args);
    server.wait_for_line(&format!("Listening on {socket}..."), REPLY_TIMEOUT);
    let client = |args: &[&str]| {
        let mut client = program("client");
        // Nothing listens there: host and port are not used.
        client.env("SERVER_HOST", "nowhere.invalid").env("SERVER_PORT", "1");
        client.args(args).assert().stderr("")
    };
    client(&["--unix-socket", socket, "set", "k", "x"]).code(0).stdout("STORED\n");
    client(&["-s", socket, "get", "k"]).code(0).stdout("x");
    let elsewhere = ["--host", "nowhere.invalid", "--port", "1", "-s", socket];
    client(&[&elsewhere[..], &["get", "k"]].concat()).code(0).stdout("x");
    client(&["-s", socket, "get", "missing"]).code(1).stdout("KEY NOT FOUND\n");
    let mut script = program("client");
    script.args(["-s", socket]).write_stdin("append k y\nget k\n");
    script.assert().code(0).stdout("STORED\nxy\n").stderr("");
}

#[test]
fn a_client_names_the_unix_socket_where_nobody_listens() {
    let directory = TempDir::new();
    let [missing, stale] = ["missing", "stale"].map(|name| directory.path().join(name));
    // What a server that was killed leaves behind.
    drop(UnixListener::bind(&stale).expect("bind"));
    // A server at the port, which is not where the client was to connect.
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    for (path, why) in [(missing, "No such file"), (stale, "Connection refused")] {
        let socket = path.to_str().expect("UTF-8");
        // One attempt.
        let place = ["--port", &port, "--unix-socket", socket, "--retry", "20"];
        let output = run("client", &[&place[..], &["get", "k"]].concat());
        let line = failure("client", &output, 3);
        let beginning = format!("can't connect to {socket}: {why}");
        assert!(line.starts_with(&beginning), "{line}");
    }
}

#[test]
fn a_single_command_without_a_server_fails_at_once() {
    let begun = Instant::now();
    let port = NOBODY.port().to_string();
    let line = failure("client", &run("client", &["-p", &port, "get", "k"]), 3);
    assert!(line.starts_with(&format!("can't connect to {NOBODY}: ")), "{line}");
    // It would try again after 5 seconds.
    assert!(begun.elapsed() < Duration::from_secs(4));
    // Zero is one attempt, also where there is time for more.
    let options = ["-p", &port, "--timeout", "60", "--retry", "0", "get", "k"];
    failure("client", &run("client", &options), 3);
}

#[test]
fn at_the_connection_limit_the_servers_line_is_shown() {
    let server = Server::start(&["--conn-limit", "1"]);
    let _first = server.connect();
    let line = "client: ERROR Too many open connections\n";
    assert_eq!(ask(&server, &["get", "k"]), (line.into(), 3));
}

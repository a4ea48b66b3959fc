//! The client program's lines: as a script, and as a person types them. The shell runs
//! in this process and reads its input a line at a time, so that a test can do something
//! between two of them. One test runs the program itself, which takes a pipe for a script.

mod common;

use assert_cmd::Command;
use common::{NOBODY, REPLY_TIMEOUT, Server, TempDir, connect};
use memcached_lite::client::Options;
use memcached_lite::client::shell::{Outcome, Shell};
use std::cell::RefCell;
use std::io::{self, BufReader, Read, Write};
use std::iter::{self, once_with};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::{self, Stdio};
use std::thread;

/// A shell that has printed nothing yet.
fn shell(addr: SocketAddr, prompt: bool) -> Shell<Vec<u8>, Vec<u8>> {
    let address = addr.to_string();
    let options = Options { address, timeout: REPLY_TIMEOUT, ..Options::default() };
    Shell {
        options,
        flags: 0,
        exptime: 0,
        quote: false,
        timed: false,
        prompt,
        terminal: prompt,
        out: Vec::new(),
        err: Vec::new(),
        client: None,
    }
}

/// What a shell has printed, what it has reported on standard error, and how it ended.
type Said = (String, String, Outcome);

fn run(mut shell: Shell<Vec<u8>, Vec<u8>>, input: impl Read) -> Said {
    let outcome = shell.run_lines(BufReader::new(input));
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(shell.out), text(shell.err), outcome)
}

fn script(server: &Server, text: &str) -> Said {
    run(shell(server.addr, false), text.as_bytes())
}

fn session(server: &Server, text: &str) -> Said {
    run(shell(server.addr, true), text.as_bytes())
}

/// Lines that are made only when they are read.
struct Typed<I>(I);

impl<I: Iterator<Item = &'static str>> Read for Typed<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(line) = self.0.next() else { return Ok(0) };
        (&mut buffer[..]).write_all(line.as_bytes())?;
        Ok(line.len())
    }
}

fn start() -> Server {
    Server::start(&["--sync", "every-second"])
}

/// The client program, without what the environment says of servers.
fn program(addr: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.env_remove("SERVER_HOST").env_remove("SERVER_PORT");
    command.args(["--port", &addr.port().to_string()]).timeout(REPLY_TIMEOUT);
    command
}

#[test]
fn piped_input_is_a_script() {
    let server = start();
    let mut client = program(server.addr);
    client.write_stdin("set a 1\nget a\nbogus\nget nothing\n");
    client
        .assert()
        .code(2)
        .stdout("STORED\n1\nKEY NOT FOUND\n")
        .stderr("client: line 3: unknown command bogus; help lists them\n");
}

#[test]
fn a_person_sees_a_prompt_and_questions() {
    let server = start();
    let text = "set k\nx y\nget\nk\nset\na\n1\nbogus\n\ndelete\nno\nexit\n";
    let (out, err, outcome) = session(&server, text);
    let expected = "> value: STORED\n> key: x y\n> key: value: STORED\n> > \
                    > delete everything? (yes/no) > ";
    let greeting = format!("connected to {}; help lists the commands\n", server.addr);
    assert_eq!(out, greeting + expected);
    assert_eq!(
        err,
        "client: unknown command bogus; help lists them\nclient: nothing was deleted\n"
    );
    assert_eq!(outcome, Outcome::Done);
}

#[test]
fn a_script_sees_neither() {
    let server = start();
    let (out, err, outcome) = script(&server, "set\nk\nx\nget\nk\ndelete\nyes\n");
    assert_eq!((&out[..], &err[..], outcome), ("STORED\nx\nOK\n", "", Outcome::Done));
}

#[test]
fn every_command_works_on_a_line() {
    let server = start();
    for (line, reply, outcome) in [
        ("get k", "KEY NOT FOUND\n", Outcome::Not),
        ("set k one  two ", "STORED\n", Outcome::Done),
        ("get k", "one  two \n", Outcome::Done),
        ("add k x", "NOT_STORED\n", Outcome::Not),
        ("replace k 7", "STORED\n", Outcome::Done),
        ("append k 0", "STORED\n", Outcome::Done),
        ("prepend k 1", "STORED\n", Outcome::Done),
        ("incr k 5", "175\n", Outcome::Done),
        ("decr k 1000", "0\n", Outcome::Done),
        ("touch k 100", "TOUCHED\n", Outcome::Done),
        // A number that gets shorter keeps its width.
        ("gat 0 k", "0  \n", Outcome::Done),
        ("cas k 1 x", "EXISTS\n", Outcome::Not),
        ("set other x", "STORED\n", Outcome::Done),
        ("  get   other  k  ", "other: x\nk: 0  \n", Outcome::Done),
        ("delete k", "DELETED\n", Outcome::Done),
        ("delete k", "NOT_FOUND\n", Outcome::Not),
        ("flush 100", "OK\n", Outcome::Done),
        ("get other", "x\n", Outcome::Done),
        ("flush", "OK\n", Outcome::Done),
        ("get other", "KEY NOT FOUND\n", Outcome::Not),
        ("version", "VERSION 1.6.0\n", Outcome::Done),
        ("", "", Outcome::Done),
    ] {
        let expected = (reply.to_owned(), String::new(), outcome);
        assert_eq!(script(&server, line), expected, "{line}");
    }
    script(&server, "set k x");
    let (line, ..) = script(&server, "gets k");
    let unique = line.strip_suffix(" x\n").expect("a unique and the value");
    let (out, ..) = script(&server, &format!("cas k {unique} y z\nget k\nstats\n"));
    assert!(out.starts_with("STORED\ny z\npid "), "{out}");
    let (out, ..) = script(&server, "stats settings");
    assert!(out.contains("maxconns 1024\n"), "{out}");
}

#[test]
fn keys_lists_those_that_begin_with_a_prefix() {
    let server = start();
    script(&server, "set user:1 a\nset user:2% b\nset other c\n");
    // A key with a space in it.
    script(&server, "ms dSB2 1 b\nd\n");
    let sorted = |text: &str| {
        let (said, errors, outcome) = script(&server, text);
        assert_eq!((&errors[..], outcome), ("", Outcome::Done));
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted("keys"), ["other", "u v", "user:1", "user:2%"]);
    assert_eq!(sorted("keys u"), ["u v", "user:1", "user:2%"]);
    assert_eq!(sorted("keys user:"), ["user:1", "user:2%"]);
    assert_eq!(sorted("keys user:1"), ["user:1"]);
    let none = ("KEY NOT FOUND\n".into(), String::new(), Outcome::Not);
    assert_eq!(script(&server, "keys x"), none);
}

#[test]
fn what_is_missing_is_the_next_line() {
    let server = start();
    for (lines, reply) in [
        ("set k\nx y", "STORED\n"),
        ("set\nk\nx y", "STORED\n"),
        ("get\nk", "x y\n"),
        ("add\nk\nz", "NOT_STORED\n"),
        ("replace k\n(x", "STORED\n"),
        ("append k\n y", "STORED\n"),
        ("prepend\nk\n((", "STORED\n"),
        ("get k", "(((x y\n"),
        ("cas k 1\nz", "EXISTS\n"),
        ("cas nothing 1\nz", "NOT_FOUND\n"),
        ("gat 0\nk", "(((x y\n"),
        // An empty line is an answer as well.
        ("set k\n\nget k", "STORED\n\n"),
    ] {
        let (out, err, _) = script(&server, lines);
        assert_eq!((&out[..], &err[..]), (reply, ""), "{lines}");
    }
}

#[test]
fn a_value_keeps_its_spaces() {
    let server = start();
    for (set, value) in [
        ("set k x", "x"),
        ("set  k  x  y ", " x  y "),
        ("set k ", ""),
        ("set k   ", "  "),
        ("set k\n  x  ", "  x  "),
        ("set k\n", ""),
        ("set k x\r", "x"),
        ("set k\nx \r", "x "),
        ("set k x\r\r", "x\r"),
        ("set k \tx", "\tx"),
    ] {
        let (out, err, _) = script(&server, &format!("{set}\nget k\n"));
        assert_eq!(out, format!("STORED\n{value}\n"), "{set:?}: {err}");
    }
    // On a command line the spaces between words belong to the system's shell.
    let mut client = program(server.addr);
    client.args(["set", "k", " x ", "", "y"]).assert().stdout("STORED\n");
    assert_eq!(script(&server, "get k").0, " x   y\n");
}

#[test]
fn everything_is_deleted_only_on_yes() {
    let server = start();
    for prompt in [false, true] {
        script(&server, "set k x");
        for answer in ["no", "", "y", "yess", "yes ", "yes please", "flush"] {
            let input = format!("delete\n{answer}\nget k\n");
            let (out, err, _) = run(shell(server.addr, prompt), input.as_bytes());
            assert!(err.ends_with("nothing was deleted\n"), "{answer:?}: {err}");
            assert!(out.contains("x\n") && !out.contains("OK"), "{answer:?}: {out}");
        }
        let (_, err, _) = run(shell(server.addr, prompt), &b"delete"[..]);
        assert!(err.ends_with("the input ended; delete needs yes or no\n"));
        assert_eq!(script(&server, "get k").0, "x\n");
        let (out, ..) = run(shell(server.addr, prompt), &b"delete\nYes\n"[..]);
        assert!(out.contains("OK\n"), "{out}");
        assert_eq!(script(&server, "get k").0, "KEY NOT FOUND\n");
    }
    assert_eq!(script(&server, "delete\nno\n").2, Outcome::Not);
}

#[test]
fn an_error_names_its_line_and_what_was_expected() {
    let server = start();
    script(&server, "set k x");
    let long = "k".repeat(251);
    let cases = [
        ("bogus k", "unknown command bogus; help lists them"),
        ("GET k", "unknown command GET; did you mean get?"),
        ("del k", "unknown command del; did you mean delete?"),
        ("\u{1}", "unknown command \\x01; help lists them"),
        ("decr k 1 2", "decr takes KEY DELTA"),
        ("gets a b", "gets takes KEY"),
        ("delete a b", "delete takes KEY"),
        ("flush 1 2", "flush takes [SECS]"),
        ("stats items", "stats takes [settings]"),
        ("version 2", "version takes nothing"),
        ("incr k x", "DELTA takes a whole number, not x"),
        ("incr k -1", "DELTA takes a whole number, not -1"),
        ("cas k x v", "UNIQUE takes a whole number, not x"),
        ("touch k 1.5", "SECS takes a whole number, not 1.5"),
        ("flush soon", "SECS takes a whole number, not soon"),
        ("get\na b", "a key can't have the byte ' ' in it"),
        ("set\n\nx", "a key must have at least one byte"),
        (
            &format!("set {long} x"),
            "a key of 251 bytes is longer than 250, the key size",
        ),
    ];
    for (line, why) in cases {
        let (out, err, outcome) = script(&server, &format!("\nget k\n{line}\nget k"));
        assert_eq!(err, format!("client: line 3: {why}\n"), "{line}");
        assert_eq!((&out[..], outcome), ("x\nx\n", Outcome::Usage), "{line}");
        let (_, err, outcome) = session(&server, &format!("{line}\n"));
        assert_eq!(err, format!("client: {why}\n"), "{line}");
        assert_eq!(outcome, Outcome::Done);
    }
    // So is an error of the server.
    let (_, err, outcome) = script(&server, "\nincr k 1");
    let why = "CLIENT_ERROR cannot increment or decrement non-numeric value";
    assert_eq!(err, format!("client: line 2: {why}\n"));
    assert_eq!(outcome, Outcome::Not);
}

#[test]
fn an_input_that_ends_too_early_is_an_error_of_the_command_that_asked() {
    let server = start();
    for (text, why) in [
        ("get k\nset", "line 2: the input ended; set needs a key"),
        ("get k\nset\nk", "line 2: the input ended; set needs a value"),
        ("get k\nset k\n", "line 2: the input ended; set needs a value"),
        ("get", "line 1: the input ended; get needs a key"),
        ("incr k", "line 1: the input ended; incr needs a delta"),
        ("cas k\n1", "line 1: the input ended; cas needs a value"),
    ] {
        let (_, err, outcome) = script(&server, text);
        assert_eq!(err, format!("client: {why}\n"), "{text:?}");
        assert_eq!(outcome, Outcome::Usage);
    }
    assert_eq!(script(&server, "get k").0, "KEY NOT FOUND\n", "nothing was stored");
}

/// K3.
#[test]
fn a_line_that_was_asked_for_is_never_run() {
    let server = start();
    let long = "k".repeat(251);
    for asking in [
        format!("set {long}"),
        "cas k x".into(),
        "set\na b".into(),
        "gat x".into(),
        "delete".into(),
    ] {
        let text = format!("set k x\n{asking}\nflush\nget k\n");
        let (out, err, _) = script(&server, &text);
        assert_eq!(out, "STORED\nx\n", "{asking}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn exit_and_quit_and_the_end_of_the_input_leave() {
    let server = start();
    for text in ["exit\nset k x\n", "  quit  \nset k x\n", "exit", ""] {
        let (out, err, outcome) = script(&server, text);
        assert_eq!((&out[..], &err[..], outcome), ("", "", Outcome::Done), "{text}");
        let (out, ..) = session(&server, text);
        let end = if text.is_empty() { "commands\n> \n" } else { "commands\n> " };
        assert!(out.ends_with(end), "{text:?}: {out}");
    }
    assert_eq!(script(&server, "get k").0, "KEY NOT FOUND\n");
    // At a question, it ends the command first.
    let (out, ..) = session(&server, "set k\n");
    assert!(out.ends_with("> value: \n> \n"), "{out}");
}

#[test]
fn a_script_ends_with_its_worst_outcome_and_a_session_with_success() {
    let server = start();
    for (text, outcome) in [
        ("set k x\nget k\n", Outcome::Done),
        ("get nothing\nset k x\n", Outcome::Not),
        ("bogus\nget nothing\nset k x\n", Outcome::Usage),
        ("bogus\nexit\n", Outcome::Usage),
    ] {
        assert_eq!(script(&server, text).2, outcome, "{text}");
        assert_eq!(session(&server, text).2, Outcome::Done, "{text}");
    }
}

#[test]
fn help_lists_every_command_without_a_server_being_asked() {
    let server = start();
    let (help, ..) = script(&server, "help\n");
    for name in [
        "get KEY...",
        "gets KEY",
        "gat SECS KEY",
        "set KEY VALUE",
        "add KEY VALUE",
        "replace KEY VALUE",
        "append KEY VALUE",
        "prepend KEY VALUE",
        "cas KEY UNIQUE VALUE",
        "incr KEY DELTA",
        "decr KEY DELTA",
        "touch KEY SECS",
        "delete KEY",
        "flush [SECS]",
        "stats [settings]",
        "version",
        "help",
        "exit",
    ] {
        assert!(help.contains(&format!("\n  {name} ")), "{name}: {help}");
    }
    let client = |arg| program(NOBODY).arg(arg).assert();
    client("help").code(0).stdout(help.clone());
    let output = client("--help").code(0).get_output().stdout.clone();
    let text = String::from_utf8(output).expect("text");
    assert!(text.contains(&help), "{text}");
}

#[test]
fn quoted_replies_have_neither_prompts_nor_lines() {
    let server = start();
    let quote = |text: &str| {
        let mut shell = shell(server.addr, false);
        shell.quote = true;
        run(shell, text.as_bytes())
    };
    let (out, err, outcome) = quote("set k x\t\nget k\nbogus\nget\na b\nset k");
    let expected = r#""STORED\r\n"
"x\t"
error: unknown command bogus; help lists them
error: a key can't have the byte ' ' in it
error: the input ended; set needs a value
"#;
    assert_eq!((&out[..], &err[..], outcome), (expected, "", Outcome::Usage));
}

/// Another client may have stored it, to overwrite what the terminal shows.
#[test]
fn a_terminal_shows_control_characters_and_obeys_none() {
    let server = start();
    let (out, ..) = session(&server, "set k \x1b[2Jé\u{9b}2J\tx\nget k\n");
    assert!(out.contains("> \\u{1b}[2Jé\\u{9b}2J\tx\n"), "{out:?}");
    // A pipe or a file gets the bytes as they are.
    let (out, ..) = script(&server, "get k\n");
    assert_eq!(out, "\x1b[2Jé\u{9b}2J\tx\n");
}

#[test]
fn what_a_server_sends_is_printable_in_quotes_and_in_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("address");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        for answer in ["VERSION \x1b\"\r\n", "CLIENT_ERROR \x1b[2J\r\n"] {
            let _ = stream.read(&mut [0; 100]);
            stream.write_all(answer.as_bytes()).expect("answer");
        }
    });
    let mut shell = shell(addr, false);
    shell.quote = true;
    let (out, ..) = run(shell, &b"version\nget k\n"[..]);
    let expected = "\"VERSION \\x1b\\\"\\r\\n\"\nerror: CLIENT_ERROR \\u{1b}[2J\n";
    assert_eq!(out, expected);
    server.join().expect("one connection");
}

#[test]
fn an_error_shows_the_head_of_a_long_word() {
    let server = start();
    let long = "b".repeat(1 << 20);
    let (_, err, _) = script(&server, &format!("{long}\nincr k {long}\n"));
    assert_eq!(err.matches("bbb... (1048576 bytes)").count(), 2);
    assert!(err.len() < 1000, "{} bytes", err.len());
}

#[test]
fn each_command_is_timed_on_request() {
    let server = start();
    let mut shell = shell(server.addr, false);
    shell.timed = true;
    let (_, err, _) = run(shell, &b"set k\nx\n\nget k\nbogus\n"[..]);
    let is_time = |line: &&str| {
        let number =
            line.strip_prefix("client: ").and_then(|rest| rest.strip_suffix(" us"));
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let lines: Vec<_> = err.lines().collect();
    let [set, get, error, bogus] = lines[..] else { panic!("{err}") };
    assert!(is_time(&set) && is_time(&get) && is_time(&bogus), "{err}");
    assert_eq!(error, "client: line 5: unknown command bogus; help lists them");
}

#[test]
fn a_lost_server_is_reported_and_the_next_command_connects_again() {
    for prompt in [false, true] {
        let data = TempDir::new();
        let server = RefCell::new(Server::start_on(data.path(), &[]));
        let addr = server.borrow().addr;
        let lines = iter::once("set k x\n")
            .chain(once_with(|| {
                server.borrow_mut().kill();
                "get k\n"
            }))
            .chain(once_with(|| {
                let port = addr.port().to_string();
                *server.borrow_mut() =
                    Server::start_on(data.path(), &["--port", &port]);
                "get k\n"
            }));
        let (out, err, outcome) = run(shell(addr, prompt), Typed(lines));
        assert_eq!(err.lines().count(), 1, "{err}");
        if prompt {
            let greeting = format!("connected to {addr}; help lists the commands\n");
            assert!(err.starts_with("client: the "), "{err}");
            let expected = format!("{greeting}> STORED\n> > {greeting}x\n> \n");
            assert_eq!((out, outcome), (expected, Outcome::Done));
        } else {
            assert!(err.starts_with("client: line 2: the "), "{err}");
            assert_eq!((&out[..], outcome), ("STORED\nx\n", Outcome::Connection));
        }
        assert!(err.contains("connection"), "{err}");
    }
}

#[test]
fn a_script_ends_where_there_is_no_server_and_a_session_continues() {
    for prompt in [false, true] {
        let server = RefCell::new(start());
        let addr = server.borrow().addr;
        let lines = once_with(|| {
            server.borrow_mut().kill();
            "get lost\n"
        });
        let lines = lines.chain(["get nobody\n", "bogus\n"]);
        let mut shell = shell(addr, prompt);
        // One attempt, then.
        shell.options.retry = 2 * REPLY_TIMEOUT;
        let (_, err, outcome) = run(shell, Typed(lines));
        let unreachable = format!("can't connect to {addr}: ");
        let lines: Vec<_> = err.lines().collect();
        if prompt {
            let [_, nobody, bogus] = lines[..] else { panic!("{err}") };
            assert!(nobody.starts_with(&format!("client: {unreachable}")), "{err}");
            assert_eq!(bogus, "client: unknown command bogus; help lists them");
            assert_eq!(outcome, Outcome::Done);
        } else {
            let [_, nobody] = lines[..] else { panic!("{err}") };
            let beginning = format!("client: line 2: {unreachable}");
            assert!(nobody.starts_with(&beginning), "{err}");
            assert_eq!(outcome, Outcome::Connection);
        }
    }
}

#[test]
fn without_a_server_at_the_start_nothing_is_read() {
    for prompt in [false, true] {
        let lines = once_with(|| panic!("a line was read"));
        let mut shell = shell(NOBODY, prompt);
        shell.options.retry = 2 * REPLY_TIMEOUT;
        let (out, err, outcome) = run(shell, Typed(lines));
        assert_eq!((&out[..], outcome), ("", Outcome::Connection));
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(
            err.starts_with(&format!("client: can't connect to {NOBODY}: ")),
            "{err}"
        );
    }
}

/// K2. What comes after such a line would be taken for the next answer.
#[test]
fn after_a_line_that_is_not_an_answer_the_connection_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("address");
    let answers = ["nonsense\r\nVALUE k 0 5\r\nfalse\r\nEND\r\n", "END\r\n"];
    let server = thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("accept");
            let _ = stream.read(&mut [0; 100]);
            stream.write_all(answer.as_bytes()).expect("answer");
        }
    });
    let (out, err, outcome) = run(shell(addr, false), &b"get k\nget k\n"[..]);
    assert_eq!(out, "KEY NOT FOUND\n");
    let why = "client: line 1: unexpected reply: \"nonsense\"\n";
    assert_eq!((&err[..], outcome), (why, Outcome::Connection));
    server.join().expect("two connections");
}

/// Between the two stands a relay, which passes on only half of the request, so that
/// the client is in the middle of it for as long as the test likes.
#[test]
fn a_client_killed_in_the_middle_of_a_request_disturbs_nobody() {
    let server = start();
    let relay = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = relay.local_addr().expect("address").port().to_string();
    let mut client = process::Command::new(env!("CARGO_BIN_EXE_client"))
        .args(["--port", &port, "set", "k", &"x".repeat(1000)])
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    let (mut from, _) = relay.accept().expect("accept");
    let mut to = server.connect();
    let mut half = [0; 500];
    from.read_exact(&mut half).expect("half a request");
    to.write_all(&half).expect("the server takes it");
    assert_eq!(script(&server, "set other x\nget other").0, "STORED\nx\n");

    client.kill().expect("it runs still");
    client.wait().expect("it ends");
    // What is left in the relay ends with the process, and so the relay ends it.
    drop(from);
    to.shutdown(Shutdown::Write).expect("shutdown");
    let mut answer = Vec::new();
    to.read_to_end(&mut answer).expect("the server closes");
    assert_eq!(answer, b"");
    assert_eq!(script(&server, "get k\nget other").0, "KEY NOT FOUND\nx\n");
    connect(server.addr).expect("there is a place for the next one");
}

#[test]
fn a_prompt_says_which_unix_socket_it_is_connected_to() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let socket = path.to_str().expect("UTF-8").to_owned();
    let args = ["--sync", "every-second", "--unix-socket", &socket];
    let server = Server::spawn_on(&directory.path().join("data"), &args);
    server.wait_for_line(&format!("Listening on {socket}..."), REPLY_TIMEOUT);
    // Where nobody listens, so that only the socket can answer.
    let on_socket = |prompt| {
        let mut shell = shell(NOBODY, prompt);
        shell.options.address = path.display().to_string();
        shell
    };
    let greeting = format!("connected to {socket}; help lists the commands\n");
    let (out, err, outcome) = run(on_socket(true), &b"set k x\nget k\n"[..]);
    assert_eq!(out, format!("{greeting}> STORED\n> x\n> \n"));
    assert_eq!((&err[..], outcome), ("", Outcome::Done));
    // A script gets the replies alone.
    let (out, err, outcome) = run(on_socket(false), &b"get k\n"[..]);
    assert_eq!((&out[..], &err[..], outcome), ("x\n", "", Outcome::Done));
}

#[test]
fn a_unix_socket_where_nobody_listens_is_named_and_nothing_is_read() {
    let directory = TempDir::new();
    let path = directory.path().join("missing");
    for prompt in [false, true] {
        let lines = once_with(|| panic!("a line was read"));
        let mut shell = shell(NOBODY, prompt);
        shell.options.address = path.display().to_string();
        shell.options.retry = 2 * REPLY_TIMEOUT;
        let (out, err, outcome) = run(shell, Typed(lines));
        assert_eq!((&out[..], outcome), ("", Outcome::Connection));
        assert_eq!(err.lines().count(), 1, "{err}");
        let beginning = format!("client: can't connect to {}: ", path.display());
        assert!(err.starts_with(&beginning), "{err}");
    }
}

/// Arrows and the like, which come as bytes that begin with ESC.
#[test]
fn a_line_with_a_key_of_the_keyboard_in_it_is_not_run() {
    let server = start();
    for line in ["get \x1b[D", "\x1b[A", "set \x1b[Dk x"] {
        let (out, err, _) = session(&server, &format!("{line}\nget k\n"));
        assert!(err.contains("rlwrap"), "{err}");
        assert_eq!(out.matches("KEY NOT FOUND").count(), 1, "{out}");
    }
}

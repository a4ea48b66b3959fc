//! What goes over the wire: the dialogues in tests/wire/, one test for each file.
//!
//! The same files run against the server that the environment variable
//! `MEMCACHED_ADDR` names, such as a real memcached on 127.0.0.1:11211, so that our
//! tests and our server can't be wrong together. It is flushed again and again, so it
//! must hold nothing of value. Dialogues tagged `[ours]` are skipped there, and files
//! that want a server with options of ours. `MEMCACHED_AUTH_ADDR` names one for auth.txt and
//! auth_wrong.txt, which has to be started with `-Y` and a file of `common::LOGINS`.
//!
//! The tests at the end are about the interpreter of scripts: one that sees no mistake
//! proves nothing. Their language is described in src/driver/script.rs.

mod common;

use common::{Server, TempDir, auth_file, replay, requests};
use memcached_lite::driver::Options;
use memcached_lite::driver::script::parse;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::{env, fs, thread};

/// A file in tests/wire/.
struct Topic {
    name: &'static str,
    text: &'static str,
}

/// Makes a test of each file, so that the output names the topics.
macro_rules! topics {
    ($($topic:ident)*) => {
        const TOPICS: &[Topic] = &[$(Topic {
            name: stringify!($topic),
            text: include_str!(concat!("wire/", stringify!($topic), ".txt")),
        }),*];

        mod every_dialogue_holds {
            $(#[test]
            fn $topic() {
                super::holds(stringify!($topic));
            })*
        }
    };
}

topics! {
    get set append cas delete incr touch expiry flush noreply errors large newline admin
    meta_get meta_set meta_delete meta_count meta_quiet meta_stale meta_base64
    meta_errors listing auth auth_wrong lite raw raw_one_byte raw_little
}

fn holds(topic: &str) {
    // A server that others gave us is one for all tests, and each dialogue flushes it:
    // one topic at a time. A topic that failed says nothing about the next one.
    static TURN: Mutex<()> = Mutex::new(());

    let topic = TOPICS.iter().find(|known| known.name == topic).expect("listed");
    let requires_login = topic.name.starts_with("auth");
    // A file says itself which server it is for. Nobody else's can be asked for that.
    let server = topic.text.lines().find_map(|line| line.strip_prefix("server "));
    let lines = topic.text.lines().filter(|line| !line.starts_with("server "));
    let text = lines.collect::<Vec<_>>().join("\n");
    let variable =
        if requires_login { "MEMCACHED_AUTH_ADDR" } else { "MEMCACHED_ADDR" };
    let result = match env::var(variable) {
        Ok(_) if server.is_some() && !requires_login => return,
        Ok(addr) => {
            let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            replay(resolve(&addr), &text, true)
        }
        Err(_) => {
            let directory = TempDir::new();
            let logins = auth_file(&directory);
            let own = server.unwrap_or_default().replace("{logins}", &logins);
            let mut options = vec!["--sync", "every-second"];
            options.extend(own.split_whitespace());
            replay(Server::start(&options).addr, &text, false)
        }
    };
    if let Err(failures) = result {
        panic!("tests/wire/{}.txt:\n{failures}", topic.name);
    }
}

fn resolve(addr: &str) -> SocketAddr {
    let first = addr.to_socket_addrs().ok().and_then(|mut addrs| addrs.next());
    first.unwrap_or_else(|| panic!("MEMCACHED_ADDR={addr} is not HOST:PORT"))
}

#[test]
fn every_file_is_listed_and_begins_with_its_topic() {
    let files: BTreeSet<String> =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire"))
            .expect("tests/wire")
            .map(|entry| {
                entry.expect("entry").file_name().into_string().expect("UTF-8")
            })
            .collect();
    let listed = TOPICS.iter().map(|topic| format!("{}.txt", topic.name)).collect();
    assert_eq!(files, listed);
    for Topic { name, text, .. } in TOPICS {
        assert!(text.starts_with("# "), "{name}.txt does not say what it is about");
    }
}

#[test]
fn a_sentence_stands_above_each_step_that_sends() {
    for Topic { name, text, .. } in TOPICS {
        let mut before = "";
        for (number, line) in (1..).zip(text.lines()) {
            let sends = |line: &str| line.starts_with('>');
            assert!(
                !sends(line) || sends(before) || before.starts_with("# "),
                "{name}.txt, line {number}: no sentence above it"
            );
            before = line;
        }
    }
}

#[test]
fn a_killed_server_leaves_its_directory_free_for_the_next() {
    let data = TempDir::new();
    let mut server = Server::start_on(data.path(), &["--sync", "every-second"]);
    server.kill();
    let server = Server::start_on(data.path(), &["--sync", "every-second"]);
    assert_eq!(replay(server.addr, "> get k\n< END\n", false), Ok(1));
    drop(server);
    assert!(data.path().is_dir(), "it was not the server's to remove");
}

/// A server that knows `flush_all`, closes at `quit`, and answers any
/// other line with the same line, but `count 7` with `7`.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("addr");
    // Ends with the process: nothing waits for it, and it holds nothing.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("clone"));
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    let answer: &[u8] = match &line[..] {
                        b"flush_all\r\n" => b"OK\r\n",
                        b"twice\r\n" => b"OK\r\nOK\r\n",
                        b"quit\r\n" => return,
                        line => line.strip_prefix(b"count ").unwrap_or(line),
                    };
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    addr
}

/// The error that `text` leads to.
fn failure(text: &str) -> String {
    replay(echo(), text, false).expect_err("a dialogue passes that has to fail")
}

#[test]
fn the_interpreter_counts_the_dialogues_it_has_run() {
    let text = "# topic\n\n== one\n> a\n< a\n\n== two [ours]\n> b\n< b\n";
    assert_eq!(replay(echo(), text, false), Ok(2));
    assert_eq!(replay(echo(), text, true), Ok(1));
    assert_eq!(replay(echo(), "> a\n< a\n", true), Ok(1), "without a title");
}

#[test]
fn the_interpreter_reads_escapes_and_repetitions() {
    let text = "\
> \\x7b\\t\\\\\\0\\xff\\x7d{ab*3}{\\x2a*2}{**2}
>> c\\r\\n
>> d
> e
< {\\x7b*1}\\t\\\\\\0\\xff\\x7dababab****\\r\\nc\\r\\nde
";
    assert_eq!(replay(echo(), text, false), Ok(1));
}

#[test]
fn the_bytes_sent_are_those_that_the_text_describes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("addr");
    let server = thread::spawn(move || {
        let (mut flush, _) = listener.accept().expect("accept");
        flush.write_all(b"OK\r\n").expect("write");
        let (mut main, _) = listener.accept().expect("accept");
        let mut sent = Vec::new();
        main.read_to_end(&mut sent).expect("read");
        sent
    });
    let text = "> a\\x20\n>> b\n\n> {c*3}\n>> \\r\\n\\t\\0\\\\\\x80\nshutdown\n";
    assert_eq!(replay(addr, text, false), Ok(1));
    assert_eq!(server.join().expect("server"), b"a \r\nbccc\r\n\r\n\t\0\\\x80");
}

#[test]
fn the_interpreter_takes_a_number_and_expects_it_again() {
    let text = "> count 42\n< {n}\n> n is {n}\n< n is 42\n> count 42\n< {n}\n";
    assert_eq!(replay(echo(), text, false), Ok(1));
    let wrong = failure("> count 42\n< {n}\n> count 421\n< {n}\n");
    assert!(
        wrong.contains("should receive \"42\\r\\n\", received \"421\\r\\n\""),
        "{wrong}"
    );
    let wrong = failure("> count x\n< {n}\n");
    assert!(
        wrong.contains("should receive \"{n}\\r\\n\", received \"x\\r\\n\""),
        "{wrong}"
    );
}

#[test]
fn what_is_repeated_counts_from_one_and_may_be_nested() {
    let text = "repeat 3\n> a {n} {r}\n< a {n} {r}\n\nrepeat 2\n> b {n}\n< b {n}\nend\n\nend\n";
    assert_eq!(replay(echo(), text, false), Ok(1));
    let wrong = failure("repeat 2\n> x {n}\n< x 1\n\nend\n");
    assert!(wrong.contains("should receive \"x 1\\r\\n\", received \"x 2"), "{wrong}");
    let sent = requests("repeat 2\n>> a\nrepeat 3\n>> {n}\nend\nend\n");
    assert_eq!(sent, [b"a123a123"]);
}

#[test]
fn what_is_sent_on_a_connection_does_not_join_what_a_client_sends() {
    let options = Options::default();
    let scenes = parse("script", "client 1> get k\n> get k\n>> x\n", &options);
    let scenes = scenes.expect("a script");
    let actors: Vec<_> = scenes[0].steps.iter().map(|(_, step)| &step.actor).collect();
    assert_eq!(actors, ["client 1", ""]);
}

#[test]
fn the_same_line_is_counted_until_the_connection_ends() {
    let text =
        "> STORED\n> STORED\n> quit\ncount often STORED\n@ other\n> {often}\n< 2\n";
    assert_eq!(replay(echo(), text, false), Ok(1));
    let wrong = failure("> STORED\n> ERROR\n> quit\ncount often STORED\n");
    assert!(wrong.contains("should receive STORED, received ERROR"), "{wrong}");
}

#[test]
fn a_list_may_come_in_any_order_and_must_end() {
    let text = "\
> STAT a 1
> STAT b 22
> STAT c 3
> END
~ STAT b {b}
~ STAT a 1
> {b}
< 22
";
    assert_eq!(replay(echo(), text, false), Ok(1));
    let wrong = failure("> STAT a 11\n> END\n~ STAT a 1\n");
    assert!(wrong.contains("no \"STAT a 1\\r\\n\" in the list"), "{wrong}");
    let wrong = failure("> STAT a 1\n> OTHER\n~ STAT a 1\n");
    assert!(wrong.contains("OTHER"), "{wrong}");
}

#[test]
fn a_wrong_expectation_is_noticed_with_title_and_line() {
    let wrong = failure("== first\n> a\n< a\n== second\n> b\n< c\n");
    let why = "'b\\r\\n' should receive \"c\\r\\n\", received \"b\\r\\n\"";
    assert_eq!(wrong, format!("line 6, second: MAIN: {why}"));
}

#[test]
fn every_dialogue_that_fails_is_reported() {
    let wrong =
        failure("== first\n> a\n< b\n== second\n> a\n< a\n== third\n> a\n< b\n");
    assert_eq!(wrong.lines().count(), 2, "{wrong}");
}

#[test]
fn an_answer_too_many_is_noticed_on_every_connection() {
    assert!(failure("> a\n> b\n< a\n").contains("received \"b\\r\\n"));
    // Also where it came with the one that was expected, and nothing after it.
    assert!(failure("> twice\n< OK\n").contains("should end, received \"OK\\r\\n"));
    let wrong = failure("> a\n@ other\n> b\n< b\n@ main\n< a\n@ other\n> c\n@ main\n");
    let why = "OTHER: should end, received \"c\\r\\n\"";
    assert!(wrong.contains(why), "{wrong}");
}

#[test]
fn a_connection_that_should_close_must_close() {
    assert_eq!(replay(echo(), "> quit\nclosed\n", false), Ok(1));
    assert_eq!(replay(echo(), "> a\nshutdown\n< a\nclosed\n", false), Ok(1));
    assert!(failure("> a\nclosed\n").contains("MAIN: should end, received "));
    assert!(failure("> a\nshutdown\n").contains("MAIN: should end, received "));
    assert!(failure("> quit\n< a\n").contains("received \"\" and then the end"));
}

#[test]
fn a_malformed_text_is_an_error_even_where_it_is_skipped() {
    let malformed = [
        "",
        "# only a comment\n",
        "== no step\n",
        "! unknown\n",
        "closed now\n",
        "@ Not a name\n",
        "> a bad escape \\q\n",
        "> a short escape \\x2",
        "> an open brace {a\n",
        "> a lone brace }\n",
        "> neither name nor repetition {a*b}\n",
    ];
    for text in malformed {
        let ours = format!("== title [ours]\n{text}");
        assert!(replay(echo(), text, true).is_err(), "{text:?}");
        assert!(replay(echo(), &ours, true).is_err(), "{ours:?}");
    }
    // A number that no reply has had yet is sent as it is written.
    assert!(failure("> {unknown}\n").contains("received \"{unknown}\\r\\n\""));
}

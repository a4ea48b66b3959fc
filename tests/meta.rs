//! Meta commands, from outside: what each flag does outlives a restart, a kill and a
//! compaction; a quiet burst may arrive in any pieces; and what is known of reads.
//!
//! What each flag is answered with is in tests/wire.

mod common;

use common::talk::*;
use common::{SERVER, Server, TempDir};
use memcached_lite::client::{Client, ClientError, Options};
use memcached_lite::store::record::Format;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// What leaves something behind, the reply to it, and how that is seen: of each flag.
const LEFT_BEHIND: [(&str, &str, &str, &str); 16] = [
    (
        "ms flags 1 F77\r\na\r\n",
        "HD\r\n",
        "mg flags v f t\r\n",
        "VA 1 f77 t-1\r\na\r\n",
    ),
    ("ms life 1 T-1\r\na\r\n", "HD\r\n", "mg life\r\n", "EN\r\n"),
    ("ms unique 1 E99\r\na\r\n", "HD\r\n", "mg unique c\r\n", "HD c99\r\n"),
    (
        "ms high 1 E18446744073709551615\r\na\r\n",
        "HD\r\n",
        "mg high v c\r\n",
        "VA 1 c18446744073709551615\r\na\r\n",
    ),
    (
        "ms other 1 E99\r\na\r\nms other 1 C99 E7\r\nb\r\n",
        "HD\r\nHD\r\n",
        "mg other c v\r\n",
        "VA 1 c7\r\nb\r\n",
    ),
    ("ms Zm9v 1 b\r\na\r\n", "HD\r\n", "mg Zm9v b k v\r\n", "VA 1 kZm9v b\r\na\r\n"),
    ("ms AA== 1 b\r\na\r\n", "HD\r\n", "mg AA== b v\r\n", "VA 1\r\na\r\n"),
    (
        "ms mode 1 MA N0\r\na\r\nms mode 1 MP\r\nb\r\n",
        "HD\r\nHD\r\n",
        "mg mode v t\r\n",
        "VA 2 t-1\r\nba\r\n",
    ),
    ("mg made N0\r\n", "HD W\r\n", "mg made v\r\n", "VA 0 Z\r\n\r\n"),
    (
        "ma number N0 J41\r\nma number D1 v\r\n",
        "HD\r\nVA 2\r\n42\r\n",
        "mg number v\r\n",
        "VA 2\r\n42\r\n",
    ),
    ("ms stale 1\r\na\r\nmd stale I\r\n", "HD\r\nHD\r\n", "mg stale\r\n", "HD X W\r\n"),
    (
        "ms won 1\r\na\r\nmd won I\r\nmg won\r\n",
        "HD\r\nHD\r\nHD X W\r\n",
        "mg won v\r\n",
        "VA 1 Z X\r\na\r\n",
    ),
    (
        "ms due 1 T500\r\na\r\nmg due R1000\r\n",
        "HD\r\nHD W\r\n",
        "mg due R1000\r\n",
        "HD Z\r\n",
    ),
    (
        "ms older 1\r\na\r\nms older 1 I C1\r\nb\r\n",
        "HD\r\nHD\r\n",
        "mg older v\r\n",
        "VA 1 X W\r\nb\r\n",
    ),
    (
        "ms empty 1 F7\r\na\r\nmd empty x\r\n",
        "HD\r\nHD\r\n",
        "mg empty s\r\n",
        "HD s0\r\n",
    ),
    ("ms gone 1\r\na\r\nmd gone\r\n", "HD\r\nHD\r\n", "mg gone\r\n", "EN\r\n"),
];

/// Leaves it behind, kills the server, and looks for it with the next one; `between` the
/// two, the directory is nobody's.
fn outlives_a_kill(sync: &str, between: impl Fn(&Path)) {
    let data = TempDir::new();
    let next = |exchanges: &[(&str, &str)]| {
        let mut server = Server::start_on(data.path(), &["--sync", sync]);
        let stream = server.connect();
        for (request, reply) in exchanges {
            ask(&stream, request, reply);
        }
        server.kill();
        between(data.path());
    };
    let left = LEFT_BEHIND.map(|(request, reply, ..)| (request, reply));
    next(&left);
    let seen = LEFT_BEHIND.map(|(.., request, reply)| (request, reply));
    next(&seen);
    // M2: what was won is lost to all others, also after the next start.
    next(&[(
        "mg stale\r\nmg older\r\nmg due R1000\r\n",
        "HD Z X\r\nHD Z X\r\nHD Z\r\n",
    )]);
}

/// M2
#[test]
fn what_meta_flags_do_outlives_a_kill_in_each_mode() {
    outlives_a_kill("always", |_| ());
    outlives_a_kill("every-second", |_| ());
}

/// M2
#[test]
fn what_meta_flags_do_outlives_a_compaction() {
    outlives_a_kill("every-second", |data| {
        let mut server = Command::new(SERVER);
        let compacted = server.arg("--compact").arg("--data").arg(data).output();
        assert!(compacted.expect("it runs").status.success());
    });
}

#[test]
fn what_is_known_of_reads_begins_with_the_server() {
    let data = TempDir::new();
    let server = Server::start_on(data.path(), &[]);
    ask(server.connect(), "ms k 1\r\na\r\nmg k\r\nmg k h\r\n", "HD\r\nHD\r\nHD h1\r\n");
    drop(server);
    let server = Server::start_on(data.path(), &[]);
    let stream = server.connect();
    ask(&stream, "mg k h u\r\nmg k h\r\nmg k h\r\n", "HD h0\r\nHD h0\r\nHD h1\r\n");
    send(&stream, "mg k l u\r\nme k\r\n");
    // The start counts as an access, and may be a second ago.
    let idle = line(&stream);
    let idle = idle.trim_end().strip_prefix("HD l").expect("its idle time");
    assert!(idle.parse::<u64>().expect("seconds") < 60, "{idle}");
    let known = line(&stream).replace("la=1 ", "la=0 ");
    let size = Format::default().record_len(1);
    assert!(
        known.starts_with("ME k exp=-1 la=0 cas=40 fetch=yes cls=1 size="),
        "{known}"
    );
    assert!(known.ends_with(&format!("size={size}")), "{known}");
}

/// What has a value in place of the one read is new; what only changes it is not.
#[test]
fn a_hit_is_remembered_until_the_next_value() {
    let server = Server::start(&["--sync", "every-second"]);
    let stream = server.connect();
    for (request, reply, hit) in [
        ("set k 0 0 1\r\n1\r\n", "STORED\r\n", 0),
        ("get k\r\n", "VALUE k 0 1\r\n1\r\nEND\r\n", 1),
        ("append k 0 0 1\r\n0\r\n", "STORED\r\n", 0),
        ("get k\r\n", "VALUE k 0 2\r\n10\r\nEND\r\n", 1),
        ("md k I\r\nmg k u\r\n", "HD\r\nHD X W\r\n", 1),
        ("ms k 1\r\n1\r\n", "HD\r\n", 0),
        ("mg k T100 u\r\n", "HD\r\n", 0),
        ("touch k 0\r\n", "TOUCHED\r\n", 1),
        ("incr k 1\r\n", "2\r\n", 1),
        ("replace k 0 0 1\r\n1\r\n", "STORED\r\n", 0),
        ("gat 0 k\r\n", "VALUE k 0 1\r\n1\r\nEND\r\n", 1),
    ] {
        ask(&stream, request, reply);
        let marks = if request.starts_with("md") { " Z X" } else { "" };
        ask(&stream, "mg k u h\r\n", format!("HD h{hit}{marks}\r\n"));
    }
}

/// M1
#[test]
fn a_quiet_burst_may_arrive_in_any_pieces() {
    let server = Server::start(&["--sync", "every-second"]);
    let stream = server.connect();
    ask(&stream, "ms hit 1\r\na\r\n", "HD\r\n");
    let mut burst: String = (0..10_000).map(|i| format!("mg k{i} v q\r\n")).collect();
    burst += "mg hit v q\r\nmg hit q q\r\nmn\r\n";
    for piece in [7, 1000, 1460, 65_536, burst.len()] {
        thread::scope(|scope| {
            scope.spawn(|| {
                burst.as_bytes().chunks(piece).for_each(|it| send(&stream, it))
            });
            let error = "CLIENT_ERROR duplicate flag\r\n";
            expect(&stream, format!("VA 1\r\na\r\n{error}MN\r\n"));
        });
    }
}

/// A get that changes nothing writes nothing.
#[test]
fn only_a_win_or_a_new_life_is_written() {
    let server = Server::start(&["--sync", "every-second"]);
    let stream = server.connect();
    ask(&stream, "ms k 1 T1000\r\na\r\n", "HD\r\n");
    let writes = |request: &str, reply: &str| {
        let before = stat(&stream, "log_end");
        ask(&stream, request, reply);
        stat(&stream, "log_end") > before
    };
    assert!(!writes("mg k v\r\nmg k N30 R30\r\n", "VA 1\r\na\r\nHD\r\n"));
    assert!(writes("mg k R2000\r\n", "HD W\r\n"));
    assert!(!writes("mg k R2000\r\n", "HD Z\r\n"));
    assert!(writes("mg k T500\r\n", "HD Z\r\n"));
    assert!(!writes("mg none v\r\nme k2\r\n", "EN\r\nEN\r\n"));
    // A flag of `me` asks for nothing.
    assert!(!writes("me k2 N0\r\nmd k2\r\n", "EN\r\nNF\r\n"));
}

fn client(server: &Server) -> Client {
    let address = server.addr.to_string();
    Client::connect(&Options { address, ..Options::default() }).expect("connected")
}

#[test]
fn the_client_sends_a_meta_command_and_returns_line_and_value() {
    let server = Server::start(&["--sync", "every-second"]);
    let mut client = client(&server);
    for (command, line, value) in [
        ("mg page N30 v k Oword", "VA 0 kpage Oword W", Some("")),
        ("ms page 3 C1\r\nnew", "EX", None),
        ("ms page 3 F7\r\nnew", "HD", None),
        ("ms page 1 ME\r\nx", "NS", None),
        ("mg page v f s t", "VA 3 f7 s3 t-1", Some("new")),
        ("ma n MD", "NF", None),
        ("ma n N0 J0005 v", "VA 1", Some("5")),
        ("mg n v", "VA 1", Some("5")),
        ("md page I q", "MN", None),
        ("mg page", "HD X W", None),
        ("mg none q", "MN", None),
        ("me none", "EN", None),
    ] {
        let answer = client.meta(command).unwrap();
        let value = value.map(|value| value.as_bytes().to_vec());
        assert_eq!(answer, (line.into(), value), "{command}");
    }
}

/// K1, K2
#[test]
fn what_is_no_meta_command_is_not_sent() {
    let server = Server::start(&["--sync", "every-second"]);
    let mut client = client(&server);
    for command in [
        "",
        "mg",
        "mn",
        "get k",
        "mg k v v",
        "mg k !",
        "mg k\r\nmn",
        "ms k 2",
        "ms k 2\r\nabc",
        "ms k 2\r\nab\r\nmn",
    ] {
        let result = client.meta(command);
        assert!(matches!(result, Err(ClientError::Request(_))), "{command}");
    }
    // A rejection by the server leaves the connection in step.
    client.meta("ms k 4\r\nword").unwrap();
    let error = client.meta("ma k v").expect_err("no number");
    assert!(error.to_string().contains("non-numeric value"), "{error}");
    assert!(!error.is_fatal());
    assert_eq!(client.get("k").unwrap().expect("it is there").value, b"word");
}

#[test]
fn the_prompt_takes_meta_lines_as_they_are() {
    let server = Server::start(&["--sync", "every-second"]);
    let (host, port) = ("127.0.0.1", server.addr.port().to_string());
    let mut prompt = Command::new(env!("CARGO_BIN_EXE_client"))
        .args(["--host", host, "--port", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a client");
    let lines =
        "ms k 6 T0\nmg k v\nmg k v t\nmg none k\nmg none q\nmg k v v\nma k\nmn\n";
    prompt.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("sent");
    let output = prompt.wait_with_output().expect("it ends");
    let shown = String::from_utf8(output.stdout).expect("text");
    assert_eq!(shown, "HD\nVA 6 t-1\nmg k v\nEN knone\nMN\nMN\n");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("line 6: CLIENT_ERROR duplicate flag"), "{errors}");
    assert!(errors.contains("line 7: CLIENT_ERROR cannot increment"), "{errors}");
}

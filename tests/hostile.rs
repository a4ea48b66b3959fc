//! What a hostile client may send, and how it may behave: nothing of it hurts the server,
//! its data or a neighbour. Each attack is judged by [`survives`].
//!
//! Many are known from memcached, and named after their entries in the list of Common
//! Vulnerabilities and Exposures (CVE). How single requests are answered is in
//! tests/wire/errors.txt and tests/protocol.rs; random bytes are in tests/fuzz.rs.

mod common;

use common::talk::*;
use common::{REPLY_TIMEOUT, Server};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format\r\n";

/// What every attack tries to change, as commands. As data they are harmless.
const COMMANDS: &str = "\r\ndelete safe\r\nflush_all\r\nset safe 0 0 4\r\nlost\r\n";

/// More than any server here may ever have in memory, in kB.
const MEMORY: u64 = 64 << 10;

/// Runs `attack` against a server. Afterwards the same process serves a neighbour that was
/// there before and one that connects now, with the data from before; nothing in it has
/// panicked, and it holds no more memory or descriptors than it may.
fn survives(options: &[&str], attack: impl FnOnce(&Server)) {
    let options = [&["-t", "2", "--sync", "every-second"], options].concat();
    let server = Server::start(&options);
    let neighbour = server.connect();
    ask(&neighbour, set("safe", b"untouched"), STORED);
    ask(&neighbour, set("count", b"0"), STORED);
    let before = descriptors(&server);
    attack(&server);
    // That clients have left is noticed a moment later.
    until(|| stat(&neighbour, "curr_connections") == 1);
    for (stream, count) in [(neighbour, 1), (server.connect(), 2)] {
        ask(&stream, "get safe\r\n", only("safe", b"untouched"));
        ask(&stream, "incr count 1\r\n", format!("{count}\r\n"));
        ask(&stream, set("own", &value(count, 2000)), STORED);
        ask(&stream, "get own\r\n", only("own", &value(count, 2000)));
        assert_eq!(stat(&stream, "pid"), u64::from(server.pid()));
    }
    until(|| descriptors(&server) <= before);
    let most = memory(&server, "VmHWM");
    assert!(most < MEMORY, "{most} kB");
    assert_eq!(server.last_words(), "");
}

/// Sends all of `bytes`, unless the server closes before, and returns all that comes back
/// until it closes.
fn replies_until_closed(server: &Server, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let stream = server.connect();
    let _ = (&stream).write_all(bytes.as_ref());
    rest(&stream)
}

/// Closes in a way that the server sees as a reset: with a reply unread.
fn reset(stream: TcpStream) {
    stream.peek(&mut [0]).expect("a reply");
}

#[test]
fn cve_2009_2415_and_cve_2011_4971_no_length_is_negative_or_overflows() {
    let digits = "9".repeat(1500);
    let lengths = [
        "-1",
        "-2147483648",
        "2147483648",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        &digits,
    ];
    survives(&[], |server| {
        let stream = server.connect();
        for length in lengths {
            // What follows is not the block of a length that is none.
            ask(
                &stream,
                format!("ms k {length}\r\nmn\r\n"),
                BAD_FORMAT.to_owned() + "MN\r\n",
            );
        }
        for verb in ["set", "add", "replace", "append", "prepend", "cas"] {
            for length in lengths {
                ask(&stream, format!("{verb} safe 0 0 {length} 1\r\n"), BAD_FORMAT);
                ask(
                    &stream,
                    format!("{verb} safe 0 0 {length} 1 noreply\n"),
                    BAD_FORMAT,
                );
            }
            // The longest of all has a block, which is not kept.
            let endless = server.connect();
            send(&endless, format!("{verb} other 0 0 2147483645 1{COMMANDS}"));
            send(&endless, COMMANDS.repeat(10_000));
        }
        ask(&stream, "get safe\r\n", only("safe", b"untouched"));
    });
}

#[test]
fn no_size_of_the_other_dialects_is_negative_or_overflows() {
    let lite = Server::start(&["--dialect", "lite"]);
    let stream = lite.connect();
    for size in ["-1", "2147483648", "4294967296", "18446744073709551616"] {
        ask(&stream, format!("set k {size}\r\n"), "INVALID REQUEST\r\n");
    }
    ask(&stream, "get k\r\n", "VALUE k 0 \r\n\r\nEND\r\n");
    assert_eq!(lite.last_words(), "");
    for order in ["big", "little"] {
        let options = ["--dialect", "raw", "--int-size", "8", "--int-order", order];
        let raw = Server::start(&options);
        let stream = raw.connect();
        // Sizes below 3 lack the bytes that are counted with the value.
        for size in [0, 2, (1 << 31) + 1, 1 << 32, 1 << 63, u64::MAX] {
            let bytes =
                if order == "big" { size.to_be_bytes() } else { size.to_le_bytes() };
            let request = [b"set k ", &bytes[..], b" \r\n"].concat();
            ask(&stream, request, "INVALID REQUEST \r\n");
        }
        send(&stream, "get k\r\n");
        expect(&stream, "VALUE k ");
        assert_eq!(raw.last_words(), "");
    }
}

#[test]
fn meta_commands_with_however_many_words_say_one_thing() {
    survives(&[], |server| {
        let stream = server.connect();
        for command in ["mg safe", "md safe", "ma safe", "ms safe 4", "me safe"] {
            for flags in [" v".repeat(1000), " \u{e9}".repeat(600), " Zx".repeat(600)] {
                let block = if command.starts_with("ms") { "lost\r\n" } else { "" };
                send(&stream, format!("{command}{flags}\r\n{block}mn\r\n"));
                let error = line(&stream);
                assert!(error.ends_with(" flag"), "{command}: {error}");
                expect(&stream, "MN\r\n");
            }
        }
        // A key that is decoded is no longer than its text.
        let key = "QUJD".repeat(62);
        ask(
            &stream,
            format!("ms {key} 1 b\r\nx\r\nmg {key} b v\r\n"),
            "HD\r\nVA 1\r\nx\r\n",
        );
        ask(&stream, format!("mg {} b\r\n", "QUJD".repeat(63)), BAD_FORMAT);
    });
}

#[test]
fn cve_2019_11596_commands_that_we_do_not_have_do_nothing_however_many_words() {
    // Some of them show others' keys or stop the server, where memcached is started so;
    // CVE-2009-1255 and CVE-2009-1494 were about what `stats` shows.
    let lines = [
        "lru mode flat",
        "lru temp_ttl 1",
        "slabs reassign 1 2",
        "slabs automove 1",
        "watch fetchers mutations",
        "shutdown graceful",
        "stats maps",
        "stats malloc",
        "stats detail dump",
        "misbehave",
        "extstore free_memchunks 1 1",
        "refresh_certs",
    ];
    survives(&[], |server| {
        let stream = server.connect();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            // `stats` alone is a command.
            let least = if words[0] == "stats" { 2 } else { 1 };
            for count in least..=words.len() {
                ask(&stream, words[..count].join(" ") + "\r\n", "ERROR\r\n");
            }
        }
    });
}

#[test]
fn cve_2023_46852_a_get_may_have_ten_thousand_spaces() {
    let spaces = " ".repeat(10_000);
    survives(&[], |server| {
        let stream = server.connect();
        let hit = only("safe", b"untouched");
        for end in ["\r\n", "\n", " \r\n"] {
            // CVE-2023-46853 was about the second of these ends.
            ask(&stream, format!("get{spaces}safe{end}"), &hit);
            ask(&stream, format!("get safe{spaces}{end}"), &hit);
            ask(&stream, format!("gat{spaces}0{spaces}safe{spaces}{end}"), &hit);
            ask(&stream, format!("get{spaces}{end}"), BAD_FORMAT);
            ask(&stream, format!("gets {spaces}nothing{spaces}{end}"), "END\r\n");
        }
        // Other commands have no such lines.
        assert_eq!(replies_until_closed(server, format!("delete{spaces}safe")), b"");
    });
}

#[test]
fn cve_2018_1000127_a_get_may_name_a_key_seventy_thousand_times() {
    survives(&[], |server| {
        let stream = server.connect();
        let keys: String = (0..10_000).map(|i| format!(" nothing{i}")).collect();
        ask(&stream, format!("get{keys}\r\n"), "END\r\n");
        send(&stream, format!("get{}\r\n", " safe".repeat(70_000)));
        let hits = hit("safe", b"untouched").repeat(70_000);
        expect(&stream, [&hits[..], b"END\r\n"].concat());
        // And one key too long is an answer to all of it.
        let long = "k".repeat(251);
        let line = format!("get{} {long}\r\n", " safe".repeat(70_000));
        ask(&stream, line, BAD_FORMAT);
    });
}

#[test]
fn cve_2010_1152_a_line_without_an_end_is_not_kept() {
    for dialect in ["memcached", "lite", "raw"] {
        let attack = |server: &Server| {
            for start in [
                "", "get ", "set ", "set k ", "gat 0 ", " ", "stats ", "mg k ",
                "ms k 2 O",
            ] {
                for filler in [&b"x"[..], b" ", b"\r", b"\0", b"x "] {
                    let line = [start.as_bytes(), &filler.repeat(5 << 20)].concat();
                    assert_eq!(show(&replies_until_closed(server, line)), "");
                }
            }
        };
        if dialect == "memcached" {
            survives(&[], attack);
            continue;
        }
        let server = Server::start(&["--dialect", dialect]);
        attack(&server);
        assert!(memory(&server, "VmHWM") < MEMORY);
        assert_eq!(server.last_words(), "");
    }
}

/// A request in memcached's binary protocol.
fn binary(opcode: u8, key: u16, extras: u8, body: u32) -> Vec<u8> {
    let mut request = vec![0x80, opcode];
    request.extend(key.to_be_bytes());
    request.extend([extras, 0, 0, 0]);
    request.extend(body.to_be_bytes());
    request.extend([0; 12]);
    request.extend(COMMANDS.as_bytes());
    request
}

#[test]
fn cve_2016_8704_8705_8706_and_cve_2020_10931_nothing_binary_is_parsed() {
    survives(&[], |server| {
        for request in [
            // append, set and SASL, with lengths that do not add up
            binary(0x0e, 250, 0, 1),
            binary(0x01, 250, 8, 0),
            binary(0x21, 32, 0, 1),
            // extras longer than the body, and a body of -1
            binary(0x01, 0, 0xff, 1),
            binary(0x01, 1, 8, u32::MAX),
            // a get that is well-formed
            binary(0x00, 4, 0, 4),
        ] {
            assert_eq!(show(&replies_until_closed(server, request)), "");
        }
    });
}

#[test]
fn a_tls_handshake_runs_none_of_the_lines_in_it() {
    // The session that a client resumes was chosen by a server whose name may meanwhile
    // lead to us.
    let record = |body: &[u8]| {
        let len = (body.len() as u16).to_be_bytes();
        [&[0x16, 3, 1], &len[..], body].concat()
    };
    survives(&[], |server| {
        let hello = [&[1, 0, 0, 200, 3, 3][..], COMMANDS.as_bytes()].concat();
        for request in [record(&hello), record(COMMANDS.as_bytes())] {
            assert_eq!(show(&replies_until_closed(server, request)), "");
        }
    });
}

#[test]
fn a_browser_that_a_page_sends_to_us_runs_none_of_its_lines() {
    survives(&[], |server| {
        for line in [
            "POST / HTTP/1.1",
            "POST /?delete=safe HTTP/1.0",
            "PUT / HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "PRI * HTTP/2.0",
            // A method may be any word.
            "delete.safe / HTTP/1.1",
        ] {
            let head = "\r\nHost: 127.0.0.1:11211\r\nContent-Type: text/plain\r\n";
            let request = format!("{line}{head}\r\n{COMMANDS}");
            assert_eq!(show(&replies_until_closed(server, request)), "");
        }
        let long = format!("POST /{} HTTP/1.1{COMMANDS}", "x".repeat(5000));
        assert_eq!(show(&replies_until_closed(server, long)), "");
    });
}

#[test]
fn cve_2018_1000115_nobody_answers_datagrams() {
    survives(&[], |server| {
        // Eight bytes of a head, then fifteen that would be answered with a thousand, to
        // whomever the sender claims to be.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(server.addr).expect("an address");
        socket.set_read_timeout(Some(REPLY_TIMEOUT)).expect("timeout");
        socket.send(b"\0\x01\0\0\0\x01\0\0stats\r\n").expect("sent");
        let error = socket.recv(&mut [0; 100]).expect_err("no answer");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_block_is_never_run_whatever_is_wrong_with_its_line() {
    let long = "k".repeat(251);
    let heads = [
        format!("{long} 0 0"),
        "nul\0 0 0".into(),
        "k x 0".into(),
        "k -1 0".into(),
        "k 4294967296 0".into(),
        "k 0 x".into(),
        "k 0 99999999999999999999".into(),
    ];
    let length = COMMANDS.len();
    survives(&[], |server| {
        let stream = server.connect();
        for verb in ["set", "add", "replace", "append", "prepend", "cas"] {
            for head in &heads {
                for (noreply, reply) in [("", BAD_FORMAT), (" noreply", "")] {
                    let line = format!("{verb} {head} {length} 1{noreply}\r\n");
                    let request = format!("{line}{COMMANDS}\r\nget none\r\n");
                    // In small chunks, so that the connection has to keep its state.
                    request.as_bytes().chunks(7).for_each(|chunk| send(&stream, chunk));
                    expect(&stream, format!("{reply}END\r\n"));
                }
            }
        }
        ask(&stream, set("k", COMMANDS.as_bytes()), STORED);
        ask(&stream, "get k\r\n", only("k", COMMANDS.as_bytes()));
        // Too large for this server.
        let large = COMMANDS.repeat((1 << 20) / length + 1);
        let too_large = "SERVER_ERROR object too large for cache\r\n";
        ask(&stream, set("k", large.as_bytes()), too_large);
        ask(&stream, "get k\r\n", "END\r\n");
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_request_has_requested_nothing() {
    let whole = b"set safe 0 0 4\r\nlost\r\n";
    survives(&[], |server| {
        for len in 0..whole.len() {
            let start = &whole[..len];
            // Half closed, it is closed from the other side as well.
            let stream = server.connect();
            send(&stream, start);
            stream.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(show(&rest(&stream)), "");
            send(server.connect(), start);
            let stream = server.connect();
            send(&stream, [b"get safe\r\n", start].concat());
            reset(stream);
        }
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_block_that_is_too_large_removes_nothing() {
    survives(&[], |server| {
        let stream = server.connect();
        send(&stream, "get safe\r\nset safe 0 0 2000000\r\n");
        send(&stream, vec![b'x'; 1_999_999]);
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(show(&rest(&stream)), show(&only("safe", b"untouched")));
    });
}

#[test]
fn what_clients_have_queued_that_are_gone_is_not_done() {
    // Each request is short, and moves a megabyte.
    survives(&[], |server| {
        let neighbour = server.connect();
        ask(&neighbour, set("big", &value(0, 1_000_000)), STORED);
        let queued = 60_000 / "touch big 0\r\n".len();
        for _ in 0..8 {
            let stream = server.connect();
            send(&stream, "get safe\r\n");
            send(&stream, "touch big 0\r\n".repeat(queued));
            reset(stream);
        }
        until(|| stat(&neighbour, "curr_connections") == 2);
        let done = stat(&neighbour, "cmd_touch");
        assert!(done < 8 * queued as u64 / 10, "{done} of {queued} for each");
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_reply_hurts_nobody() {
    survives(&[], |server| {
        let stream = server.connect();
        let big = value(0, 1_000_000);
        ask(&stream, set("big", &big), STORED);
        for i in 0..100 {
            let stream = server.connect();
            send(&stream, "get big\r\n".repeat(1 + i % 7));
            let mut part = vec![0; 1 + i * 5000];
            (&stream).read_exact(&mut part).expect("a part of a reply");
            if i % 2 == 0 {
                stream.shutdown(Shutdown::Write).expect("shutdown");
            }
            reset(stream);
        }
    });
}

/// V2
#[test]
fn a_hundred_clients_that_do_not_read_cost_little_and_delay_nobody() {
    survives(&[], |server| {
        let other = server.connect();
        let big = value(0, 100_000);
        ask(&other, set("big", &big), STORED);
        let before = stat(&other, "bytes_written");
        let unread: Vec<_> = (0..100).map(|_| server.connect()).collect();
        for stream in &unread {
            send(stream, "get big\r\n".repeat(1000));
        }
        for i in 0..500 {
            ask(&other, set("k", &value(i, 100)), STORED);
            ask(&other, "get k\r\n", only("k", &value(i, 100)));
        }
        assert_eq!(stat(&other, "curr_connections"), 102, "some were closed");
        // What the kernel has taken for them is held as well, and by all of the machine.
        let written = (stat(&other, "bytes_written") - before) / unread.len() as u64;
        assert!((50_000..1_000_000).contains(&written), "{written} bytes for each");
    });
}

#[test]
fn slow_senders_by_the_hundred_delay_nobody_and_have_their_time() {
    survives(&["--request-timeout", "0.2"], |server| {
        let other = server.connect();
        let starts =
            ["set slow 0 0 100000\r\n", "get ", "x", "set slow x 0 100000\r\n"];
        let mut slow: VecDeque<_> = (0..300)
            .map(|i| {
                let stream = server.connect();
                send(&stream, starts[i % starts.len()]);
                stream
            })
            .collect();
        // Each byte comes when the neighbour has been answered once more, until all are
        // closed: so few bytes don't buy them time.
        until(|| {
            ask(&other, set("k", b"x"), STORED);
            ask(&other, "get k\r\n", only("k", b"x"));
            slow.rotate_left(1);
            let _ = (&slow[0]).write_all(b"x");
            stat(&other, "curr_connections") == 2
        });
        for stream in &slow {
            assert_eq!(show(&rest(stream)), "");
        }
    });
}

#[test]
fn a_flood_beyond_the_limit_is_rejected_and_those_inside_do_not_notice() {
    for backlog in [0, 5] {
        let options = ["--conn-limit", "10", "--backlog", &backlog.to_string()];
        survives(&options, |server| {
            let inside: Vec<_> = (0..9).map(|_| server.connect()).collect();
            for stream in &inside {
                ask(stream, "get none\r\n", "END\r\n");
            }
            let before = descriptors(server);
            let waiting: Vec<_> = (0..backlog).map(|_| server.connect()).collect();
            waiting.iter().for_each(|stream| send(stream, "get safe\r\n"));
            for i in 0..500 {
                assert_eq!(show(&rest(server.connect())), show(TOO_MANY.as_bytes()));
                ask(&inside[i % 9], "get safe\r\n", only("safe", b"untouched"));
            }
            assert!(descriptors(server) <= before + backlog);
            assert_eq!(stat(&inside[0], "rejected_connections"), 500);
            assert!(waiting.iter().all(is_silent));
            drop(inside);
            for stream in &waiting {
                expect(stream, only("safe", b"untouched"));
            }
        });
    }
}

#[test]
fn thousands_that_come_and_go_leave_no_descriptor_and_no_memory_behind() {
    survives(&[], |server| {
        let first = server.connect();
        let come_and_go = |times| {
            for i in 0..times {
                let stream = server.connect();
                match i % 5 {
                    0 => {}
                    1 => ask(&stream, "get k\r\n", "END\r\n"),
                    2 => send(&stream, "set safe 0 0 100000\r\nhal"),
                    3 => {
                        send(&stream, "get k\r\nset safe 0 0 100000\r\nhal");
                        reset(stream);
                    }
                    _ => {
                        send(&stream, "quit\r\n");
                        assert_eq!(rest(&stream), b"");
                    }
                }
            }
            until(|| stat(&first, "curr_connections") == 2);
            (descriptors(server), memory(server, "VmRSS"))
        };
        let (files, held) = come_and_go(500);
        let (files_after, held_after) = come_and_go(4000);
        assert_eq!(files_after, files);
        // A hundred bytes for each would be 400 kB.
        let grown = held_after.saturating_sub(held);
        assert!(grown < 300, "{grown} kB");
    });
}

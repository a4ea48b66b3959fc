//! The protocol as a function of bytes: what `protocol.rs` and `reply.rs` promise of
//! every input, checked against requests that a seeded generator makes up, and the
//! edges of each rule as tables. What a real client sees is in tests/wire.
//!
//! A failure says its seed: `Random::new(seed)` makes the same bytes again.

mod common;

use common::TempDir;
use common::disk::{Call, Faulty, How};
use common::stream::{Ingredients, LIMITS, NOW, answers, assert_same, consume, read};
use common::stream::{Served, shared, shared_over, without_places};
use common::verbs::Verbs;
use memcached_lite::driver::random::Random;
use memcached_lite::protocol::dialect::Dialect;
use memcached_lite::protocol::reply::{self, Error, Reply, ValueLine};
use memcached_lite::protocol::words::Words;
use memcached_lite::protocol::{self, BlockEnd, Parsed, Rejection, Request, Topic};
use memcached_lite::protocol::{name_of, verb_named};
use memcached_lite::server::connection::{READ_LIMIT, Waits};
use memcached_lite::server::service::{Context, OUTPUT_LIMIT};
use memcached_lite::store::{Answer, Limits, Options, SyncMode, Update, Verb};
use std::io::Read;

const MEMCACHED: Dialect = Dialect::Memcached;

/// The longest line, without its end, and the longest of the get family.
const LINE: usize = 2048;
const KEYS_LINE: usize = 4096;

/// A request of any kind, well-formed or not, as one might send it.
fn request(random: &mut Random) -> Vec<u8> {
    match random.below(15) {
        0..=3 => store_request(random),
        12..=14 => meta_request(random),
        4..=6 => {
            let long = [b'l'; 251];
            let keys: [&[u8]; 9] =
                [b"a", b"b", b"c", b"d", b"e", b"a\tb", b"\xff\r", b"nul\0", &long];
            let mut words: Vec<&[u8]> = vec![random.pick(&[b"get", b"gets"])];
            if random.once_in(3) {
                words = vec![b"gat", random.pick(&[b"0", b"50", b"-1", b"x"])];
            }
            for _ in 0..random.below(6) {
                let good = if random.once_in(6) { keys.len() } else { 5 };
                words.push(random.pick(&keys[..good]));
            }
            line(random, &words)
        }
        7 => {
            let names: [&[u8]; 4] = [b"incr", b"decr", b"touch", b"delete"];
            let words = [random.pick(&names), key(random), number(random)];
            some_of(random, &words)
        }
        8 => {
            let name: &[u8] = random.pick(&[b"flush_all", b"verbosity"]);
            let number = number(random);
            some_of(random, &[name, number])
        }
        9 => {
            // Without a topic, the answer has the time in it.
            let topics: [&[u8]; 4] = [b"settings", b"reset", b"items", b"unheard-of"];
            let topic = random.pick(&topics);
            line(random, &[b"stats", topic])
        }
        10 => line(random, &[b"version"]),
        _ => {
            let odd: [&[u8]; 8] =
                [b"", b"g", b"GET a", b"\tget a", b"\0", b"get\ta", b"\r", b"noreply"];
            let odd = random.pick(&odd);
            line(random, &[odd])
        }
    }
}

/// A meta command, with flags of all sorts.
fn meta_request(random: &mut Random) -> Vec<u8> {
    let name = random.pick(&[&b"mg"[..], b"ms", b"md", b"ma", b"mg"]);
    let flags: [&[u8]; 24] = [
        b"b", b"c", b"C0", b"C7", b"D2", b"E99", b"f", b"F5", b"h", b"I", b"J8", b"k",
        b"MA", b"ME", b"N50", b"Oword", b"q", b"R50", b"s", b"T60", b"u", b"v", b"x",
        b"z",
    ];
    let key = if random.once_in(5) { &b"Zm9v"[..] } else { key(random) };
    let value = random.value();
    let length = value.len().to_string();
    let mut words = vec![name, key];
    if name == b"ms" {
        words.push(if random.once_in(20) { number(random) } else { length.as_bytes() });
    }
    for _ in 0..random.below(6) {
        words.push(random.pick(&flags));
    }
    let mut request = line(random, &words);
    if name == b"ms" {
        request.extend([&value[..], b"\r\n"].concat());
    }
    request
}

fn store_request(random: &mut Random) -> Vec<u8> {
    let verbs: [&[u8]; 7] =
        [b"set", b"set", b"add", b"replace", b"append", b"prepend", b"cas"];
    let verb = random.pick(&verbs);
    let mut value = random.value();
    if random.once_in(12) {
        // Too large, and full of what must not be run.
        value = b"get a\r\n".repeat(LIMITS.max_value / 7 + 1 + random.below(50));
    }
    let mut length = value.len();
    match random.below(20) {
        0 => length += 1 + random.below(3),
        1 => length = length.saturating_sub(1 + random.below(3)),
        _ => {}
    }
    let length = match random.once_in(20) {
        true => {
            random.pick(&["-1", "x", "2147483646", "4294967296", "1x", "+1"]).into()
        }
        false => length.to_string(),
    };
    let zero: &[u8] = b"0";
    let flags = if random.once_in(10) { number(random) } else { zero };
    let exptime = if random.once_in(10) { number(random) } else { zero };
    let mut words = vec![verb, key(random), flags, exptime, length.as_bytes()];
    if verb == b"cas" {
        words.push(number(random));
    }
    let mut request = some_of(random, &words);
    // A block whose length nobody knows would be run line by line.
    if length.bytes().all(|byte| byte.is_ascii_digit()) {
        request.extend(value);
        let ends: [&[u8]; 6] = [b"\r\n", b"\r\n", b"\r\n", b"\n", b"\n", b"..\r\n"];
        request.extend(random.pick(&ends));
    }
    request
}

fn key(random: &mut Random) -> &'static [u8] {
    match random.below(20) {
        0 => &[b'l'; 251],
        1 => &[b'm'; 250],
        2 => b"nul\0",
        3 => b"noreply",
        _ => random.pick(&[b"a", b"b", b"c", b"d", b"e"]),
    }
}

fn number(random: &mut Random) -> &'static [u8] {
    random.pick(&[
        b"0",
        b"1",
        b"70",
        b"4294967295",
        b"4294967296",
        b"18446744073709551615",
        b"18446744073709551616",
        b"-1",
        b"-",
        b"+1",
        b"1x",
    ])
}

/// A line of these words, now and then without the last, and with `noreply`.
fn some_of(random: &mut Random, words: &[&[u8]]) -> Vec<u8> {
    let mut words = words.to_vec();
    if random.once_in(10) {
        words.pop();
    }
    if random.once_in(4) {
        words.push(b"noreply");
    }
    line(random, &words)
}

/// A line of these words, with spaces and an end as they come.
fn line(random: &mut Random, words: &[&[u8]]) -> Vec<u8> {
    let mut line = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let spaces = if random.once_in(10) { 2 } else { 1 };
        line.extend(vec![b' '; if index == 0 { 0 } else { spaces }]);
        line.extend(*word);
    }
    line.extend(vec![b' '; if random.once_in(10) { 2 } else { 0 }]);
    line.extend(if random.once_in(4) { &b"\n"[..] } else { b"\r\n" });
    line
}

/// Some hundred requests, and one of the ways in which a stream can end.
fn stream(random: &mut Random) -> Vec<u8> {
    let mut stream = b"version\r\n".to_vec();
    (0..300).for_each(|_| stream.extend(request(random)));
    // Whatever came last, from here on the lines are ours again.
    stream.extend(b"\r\n".repeat(3));
    match random.below(5) {
        0 => stream.extend(b"set a 0 0 9\r\nhalf"),
        1 => stream.extend(b"quit\r\nget a\r\n"),
        2 => stream.extend(b"GET / HTTP/1.1\r\nHost: here\r\n\r\nget a\r\n"),
        3 => stream.extend([b'x'; LINE + 1]),
        _ => {}
    }
    stream
}

#[test]
fn a_stream_means_the_same_however_it_is_cut() {
    // P1, and P2: what is swallowed is swallowed in every case.
    for seed in 0..12 {
        let random = &mut Random::new(seed);
        let stream = stream(random);
        let whole =
            without_places(read(MEMCACHED, &stream, &mut || stream.len(), false));
        assert!(whole.len() > 250, "seed {seed}: only {} requests", whole.len());
        let bytewise = without_places(read(MEMCACHED, &stream, &mut || 1, false));
        assert_same(&whole, &bytewise, &format!("seed {seed}, byte by byte"));
        for most in [3, 30, 300, 3000] {
            let cut = read(MEMCACHED, &stream, &mut || 1 + random.below(most), true);
            let what = format!("seed {seed}, in pieces of at most {most}");
            assert_same(&whole, &without_places(cut), &what);
        }
    }
}

#[test]
fn what_is_needed_is_never_more_than_what_is_really_needed() {
    // P3: a reader that waits for that many bytes misses nothing, and waits for nothing.
    for seed in 100..112 {
        let stream = stream(&mut Random::new(seed));
        let eager = read(MEMCACHED, &stream, &mut || 1, false);
        let patient = read(MEMCACHED, &stream, &mut || 1, true);
        assert_same(&eager, &patient, &format!("seed {seed}"));
    }
}

#[test]
fn a_stream_is_answered_the_same_however_it_is_cut() {
    // P1: uniques are positions in the log, so that even they are the same.
    for seed in 200..206 {
        let random = &mut Random::new(seed);
        let stream = stream(random);
        let size = LIMITS.max_item_size;
        let whole = answers(MEMCACHED, &stream, size, &mut || stream.len(), READ_LIMIT);
        assert!(whole.len() > 3000, "seed {seed}: only {} bytes", whole.len());
        let bytewise = answers(MEMCACHED, &stream, size, &mut || 1, READ_LIMIT);
        assert_same(&whole, &bytewise, &format!("seed {seed}, byte by byte"));
        for most in [5, 50, 500, 5000] {
            let cut =
                answers(MEMCACHED, &stream, size, &mut || 1 + random.below(most), 100);
            let what = format!("seed {seed}, in pieces of at most {most}");
            assert_same(&whole, &cut, &what);
        }
    }
}

#[test]
fn an_answer_waits_for_no_byte_after_its_request() {
    let long = "x".repeat(LIMITS.max_item_size);
    let cases = [
        ("set a 0 0 2\r\nab\r\n", "STORED"),
        ("set a 0 0 2\nab\n", "STORED"),
        ("set a 0 0 2\r\nabcd", "CLIENT_ERROR bad data chunk"),
        ("set a 0 0 0\r\n\n", "STORED"),
        ("set a x 0 2\r\nab\r\n", "CLIENT_ERROR bad command line format"),
        ("set a x 0 2\r\nab\n", "CLIENT_ERROR bad command line format"),
        ("set a x 0 2\r\nabcd", "CLIENT_ERROR bad command line format"),
        ("set a x 0 0\r\n\n", "CLIENT_ERROR bad command line format"),
        ("cas a 0 0 2\r\nab\r\n", "CLIENT_ERROR bad command line format"),
        ("cas a 0 0 2\nab\n", "CLIENT_ERROR bad command line format"),
        ("cas a 0 0 2 noreply\nab\ndelete a\n", "NOT_FOUND"),
        ("set a 0 0 4096\nLONG\r\n", "SERVER_ERROR object too large for cache"),
        ("set a 0 0 4096 noreply\nLONG\r\ndelete a\n", "NOT_FOUND"),
        ("set a x 0 2 noreply\nab\ndelete a\n", "NOT_FOUND"),
        ("set a 0 0 2 noreply\nabcddelete a\n", "NOT_FOUND"),
        ("get a\n", "END"),
        ("\n", "CLIENT_ERROR bad command line format"),
    ];
    for (request, answer) in cases {
        let sent = request.replace("LONG", &long);
        for most in [1, 2, 7, sent.len()] {
            let size = LIMITS.max_item_size;
            let answers = answers(MEMCACHED, sent.as_bytes(), size, &mut || most, 100);
            let expected = format!("{answer}\r\n");
            assert_eq!(String::from_utf8_lossy(&answers), expected, "{request:?}");
        }
    }
}

#[test]
fn a_get_that_pauses_between_its_keys_answers_all_of_them() {
    let value = vec![b'v'; OUTPUT_LIMIT / 3];
    let mut stream = format!("set a 7 0 {}\r\n", value.len()).into_bytes();
    stream.extend(&value);
    stream.extend(b"\r\nget a b a a  a miss a a a a\nversion\r\ngets\nget a\r\n");
    let mut expected = b"STORED\r\n".to_vec();
    (0..8).for_each(|_| reply::write_value(&mut expected, b"a", 7, None, &value));
    let (version, error) = (reply::VERSION, Error::BadFormat);
    expected.extend(format!("END\r\nVERSION {version}\r\n{error}\r\n").as_bytes());
    reply::write_value(&mut expected, b"a", 7, None, &value);
    expected.extend(b"END\r\n");
    for (piece, taken) in [(1 << 20, 1 << 20), (1000, 1 << 20), (1 << 20, 2000)] {
        let answers = answers(MEMCACHED, &stream, 1 << 20, &mut || piece, taken);
        assert_same(&expected, &answers, &format!("pieces {piece}, taken {taken}"));
    }
}

/// The request that `bytes`, all of them, are.
fn parse_whole<'a>(bytes: &'a [u8], limits: &Limits) -> (Request<'a>, bool) {
    match protocol::parse(bytes, limits) {
        Parsed::Request { request, noreply, used } => {
            assert_eq!(used, bytes.len(), "of {}", bytes.escape_ascii());
            (request, noreply)
        }
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

#[test]
fn every_request_that_is_written_is_read_back() {
    for seed in 0..20_000 {
        let random = &mut Random::new(seed);
        let (key, value, noreply) = (random.key(), random.value(), random.once_in(2));
        let exptime = random.number() as i64;
        let verbs = [
            (Verb::Set, "set"),
            (Verb::Add, "add"),
            (Verb::Replace, "replace"),
            (Verb::Append, "append"),
            (Verb::Prepend, "prepend"),
            (Verb::Cas, "cas"),
            (Verb::Delete, "delete"),
            (Verb::Incr, "incr"),
            (Verb::Decr, "decr"),
            (Verb::Touch, "touch"),
        ];
        let (verb, name) = random.pick(&verbs);
        assert_eq!((name_of(verb), verb_named(name.as_bytes())), (name, Some(verb)));
        let update = Update { verb, key: &key, ..Update::default() };
        let number = random.number();
        let update = match verb {
            Verb::Delete => update,
            Verb::Incr | Verb::Decr => Update { number, ..update },
            Verb::Touch => Update { exptime, ..update },
            _ => {
                let number = if verb == Verb::Cas { number } else { 0 };
                let flags = random.number() as u32;
                Update { flags, exptime, number, value: &value, ..update }
            }
        };
        use Topic::{General, Items, Nothing, Reset, Settings};
        let topics = [General, Settings, Reset, Items, Nothing];
        let request = match random.below(10) {
            0..=4 => Request::Update(update),
            5 => Request::FlushAll(exptime),
            6 => Request::Stats(random.pick(&topics)),
            7 => Request::List(random.once_in(2)),
            8 => random.pick(&[&Request::Version, &Request::Quit]).clone(),
            _ => Request::Verbosity,
        };
        let noreply = noreply
            && matches!(
                request,
                Request::Update(_) | Request::FlushAll(_) | Request::Verbosity
            );
        let mut bytes = Vec::new();
        request.write_to(&mut bytes);
        if noreply {
            let line_end = bytes.windows(2).position(|two| two == b"\r\n").unwrap();
            bytes.splice(line_end..line_end, *b" noreply");
        }
        let read = parse_whole(&bytes, &LIMITS);
        assert_eq!(read, (request, noreply), "seed {seed}");
    }
}

#[test]
fn every_get_that_is_written_is_read_back() {
    for seed in 0..5000 {
        let random = &mut Random::new(seed);
        let keys: Vec<_> = (0..1 + random.below(9)).map(|_| random.key()).collect();
        let joined = keys.join(&b"  "[..]);
        let exptime = random.once_in(2).then(|| random.number() as i64);
        let unique = random.once_in(2);
        let mut bytes = Vec::new();
        Request::Get { keys: Words(&joined), unique, exptime }.write_to(&mut bytes);
        let (request, noreply) = parse_whole(&bytes, &LIMITS);
        let Request::Get { keys: read, unique: with_unique, exptime: new } = request
        else {
            panic!("seed {seed}: {request:?}")
        };
        assert_eq!(
            (with_unique, new, noreply),
            (unique, exptime, false),
            "seed {seed}"
        );
        assert!(read.eq(keys.iter().map(|key| &key[..])), "seed {seed}");
    }
}

#[test]
fn every_reply_that_is_written_is_read_back() {
    let fixed = [
        (Reply::Answer(Answer::Stored), "STORED"),
        (Reply::Answer(Answer::NotStored), "NOT_STORED"),
        (Reply::Answer(Answer::Exists), "EXISTS"),
        (Reply::Answer(Answer::NotFound), "NOT_FOUND"),
        (Reply::Answer(Answer::Deleted), "DELETED"),
        (Reply::Answer(Answer::Touched), "TOUCHED"),
        (Reply::Answer(Answer::Number(0)), "0"),
        (Reply::Answer(Answer::Number(u64::MAX)), "18446744073709551615"),
        (Reply::Ok, "OK"),
        (Reply::Reset, "RESET"),
        (Reply::End, "END"),
        (Reply::Version("1.6.0".into()), "VERSION 1.6.0"),
    ];
    let written = |reply: &Reply| {
        let mut bytes = Vec::new();
        MEMCACHED.write_reply(reply, &mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    for (reply, line) in fixed {
        assert_eq!(written(&reply), format!("{line}\r\n"));
        assert_eq!(reply.to_string(), line);
        assert_eq!(Reply::parse(line.as_bytes()), Some(reply));
    }
    let shorter = Some(Reply::Answer(Answer::Number(17)));
    assert_eq!(Reply::parse(b"17  "), shorter, "a shorter number");
    let none =
        ["", " ", "STORED ", "stored", "+1", "-1", "18446744073709551616", "1 2"];
    for line in none {
        assert_eq!(Reply::parse(line.as_bytes()), None, "{line:?}");
    }
    for error in [Error::Unknown, Error::BadFormat, Error::BadChunk, Error::TooLarge] {
        assert_eq!(written(&Reply::Rejected(error)), format!("{error}\r\n"));
    }
    // To a client, a rejection is not a reply.
    for error in [Error::Unknown, Error::BadFormat, Error::BadChunk] {
        assert_eq!(Reply::parse(error.to_string().as_bytes()), None);
    }
    let not_numeric = "CLIENT_ERROR cannot increment or decrement non-numeric value";
    let reply = Reply::Answer(Answer::NotNumeric);
    assert_eq!(written(&reply), format!("{not_numeric}\r\n"));
    assert_eq!(Reply::parse(not_numeric.as_bytes()), None);
}

#[test]
fn every_value_that_is_written_is_read_back() {
    for seed in 0..5000 {
        let random = &mut Random::new(seed);
        let (key, value) = (random.key(), random.value());
        let flags = random.number() as u32;
        let unique = random.once_in(2).then(|| random.number());
        let mut bytes = Vec::new();
        reply::write_value(&mut bytes, &key, flags, unique, &value);
        let end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
        let block = &bytes[end + 1..];
        let line = ValueLine::parse(&bytes[..end - 1]);
        let length = value.len();
        let expected = ValueLine { key: &key, flags, length, unique };
        assert_eq!(line, Some(expected), "seed {seed}");
        assert_eq!(block.strip_suffix(b"\r\n"), Some(&value[..]), "seed {seed}");
    }
    for line in ["VALUE", "VALUE ", "VALUE k", "VALUE k 0", "VALUE k 4294967296 1"] {
        assert_eq!(ValueLine::parse(line.as_bytes()), None, "{line:?}");
    }
}

/// How `input` is rejected: the error, and what is to be swallowed.
fn rejection(input: &[u8]) -> (Error, Option<usize>) {
    match protocol::parse(input, &LIMITS) {
        Parsed::Rejected(Rejection { error, swallow, .. }) => (error, swallow),
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

#[test]
fn a_length_that_can_not_be_has_no_block() {
    let lengths = [
        "-1",
        "-0",
        "+1",
        "1x",
        "x",
        "0x10",
        "1.0",
        "2147483646",
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
    ];
    for length in lengths {
        for verb in ["set", "add", "replace", "append", "prepend", "cas"] {
            for rest in ["", " 1", " noreply", " 1 noreply"] {
                let line = format!("{verb} k 0 0 {length}{rest}\r\nget k\r\n");
                let parsed = protocol::parse(line.as_bytes(), &LIMITS);
                let Parsed::Rejected(found) = parsed else { panic!("{line:?}") };
                let expected = Rejection {
                    error: Error::BadFormat,
                    // Answered even so: nobody knows where the next line begins.
                    noreply: false,
                    used: line.len() - "get k\r\n".len(),
                    swallow: None,
                    removes: None,
                };
                assert_eq!(found, expected, "{line:?}");
            }
        }
    }
}

#[test]
fn the_longest_length_is_only_a_number() {
    // P4: it is believed, and nothing is there.
    let longest = protocol::MAX_LENGTH as usize;
    assert_eq!(longest, 2_147_483_645);
    let limits = Limits { key_size: 250, max_value: 1 << 40, max_item_size: 1 << 40 };
    let line = b"set k 0 0 2147483645\r\n";
    let needed = line.len() + longest + 1;
    assert_eq!(protocol::parse(line, &limits), Parsed::NeedBytes(needed));
    // P2: where it is too large, all of it is swallowed.
    assert_eq!(rejection(line), (Error::TooLarge, Some(longest)));
    assert_eq!(MEMCACHED.block_end(b"", longest), BlockEnd::Need(longest + 1));
}

#[test]
fn key_and_value_together_fit_an_item() {
    let body = [b'x'; 4100];
    let cases =
        [(1, 4000, true), (1, 4001, false), (96, 4000, true), (97, 4000, false)];
    for (key_len, length, fits) in cases {
        let key = "k".repeat(key_len);
        for verb in ["set", "add", "append"] {
            let mut input = format!("{verb} {key} 0 0 {length}\r\n").into_bytes();
            let line = input.len();
            input.extend(&body[..length]);
            input.extend(b"\r\n");
            let parsed = protocol::parse(&input, &LIMITS);
            if fits {
                assert!(matches!(parsed, Parsed::Request { .. }), "{verb} {length}");
                continue;
            }
            let expected = Rejection {
                error: Error::TooLarge,
                noreply: false,
                used: line,
                swallow: Some(length),
                removes: (verb == "set").then_some(key.as_bytes().into()),
            };
            assert_eq!(parsed, Parsed::Rejected(expected), "{verb} {length}");
        }
    }
}

#[test]
fn too_few_words_are_rejected_and_nothing_more_is_used() {
    let lines = [
        ("get k", 2),
        ("gets k", 2),
        ("gat 0 k", 3),
        ("gats 0 k", 3),
        ("set k 0 0 1", 5),
        ("add k 0 0 1", 5),
        ("replace k 0 0 1", 5),
        ("append k 0 0 1", 5),
        ("prepend k 0 0 1", 5),
        ("cas k 0 0 1 1", 6),
        ("delete k", 2),
        ("incr k 1", 3),
        ("decr k 1", 3),
        ("touch k 0", 3),
        ("verbosity 1", 2),
    ];
    for (line, enough) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), enough);
        let whole = format!("{line}\r\nx\r\n");
        let parsed = protocol::parse(whole.as_bytes(), &LIMITS);
        assert!(matches!(parsed, Parsed::Request { .. }), "{whole:?}");
        for count in 1..enough {
            for end in ["\r\n", "\n", "  \r\n"] {
                let input = words[..count].join(" ") + end;
                // What follows is a line of its own.
                let parsed = format!("{input}x\r\n");
                // But for a cas that has its length and lacks its unique (P2).
                let swallow = line.starts_with("cas") && count == 5;
                let expected = Rejection {
                    error: Error::BadFormat,
                    noreply: false,
                    used: input.len(),
                    swallow: swallow.then_some(1),
                    removes: None,
                };
                let parsed = protocol::parse(parsed.as_bytes(), &LIMITS);
                assert_eq!(parsed, Parsed::Rejected(expected), "{input:?}");
            }
        }
    }
}

#[test]
fn a_key_has_any_byte_but_space_line_end_and_nul() {
    for byte in 0..=255 {
        let key = [b'k', byte, b'y'];
        let get = [b"get ", &key[..], b"\r\n"].concat();
        let set = [b"set ", &key[..], b" 0 0 1\r\nx\r\n"].concat();
        match byte {
            0 => {
                assert_eq!(rejection(&get), (Error::BadFormat, None));
                // P2
                assert_eq!(rejection(&set), (Error::BadFormat, Some(1)));
            }
            b'\n' => {
                let (request, _) = parse_whole(&get[..6], &LIMITS);
                let Request::Get { mut keys, .. } = request else { panic!() };
                assert_eq!(keys.next(), Some(&b"k"[..]));
                assert_eq!(rejection(&set), (Error::BadFormat, None));
            }
            b' ' => {
                let (request, _) = parse_whole(&get, &LIMITS);
                let Request::Get { keys, .. } = request else { panic!() };
                assert!(keys.eq([b"k", b"y"]));
                // The words are one too many, and `y` is not a number.
                assert_eq!(rejection(&set), (Error::BadFormat, Some(0)));
            }
            _ => {
                let (request, _) = parse_whole(&get, &LIMITS);
                let Request::Get { keys, .. } = request else { panic!() };
                assert!(keys.eq([key]), "byte {byte}");
                let (request, _) = parse_whole(&set, &LIMITS);
                let Request::Update(update) = request else { panic!() };
                assert_eq!(update.key, key, "byte {byte}");
            }
        }
    }
}

#[test]
fn a_key_is_as_long_as_is_allowed_and_no_longer() {
    let longest = "k".repeat(LIMITS.key_size);
    let commands =
        ["get K", "gets a b K c", "gat 0 K", "delete K", "incr K 1", "touch K 0"];
    for command in commands {
        let fits = command.replace('K', &longest) + "\r\n";
        parse_whole(fits.as_bytes(), &LIMITS);
        let too_long = command.replace('K', &(longest.clone() + "k")) + "\r\n";
        assert_eq!(
            rejection(too_long.as_bytes()),
            (Error::BadFormat, None),
            "{command}"
        );
    }
    // P2
    let too_long = format!("set {longest}k 0 0 7\r\nget a\r\n\r\n");
    assert_eq!(rejection(too_long.as_bytes()), (Error::BadFormat, Some(7)));
}

#[test]
fn a_bad_number_in_a_line_with_a_length_leaves_the_block_swallowed() {
    // P2
    let flags = ["-1", "4294967296", "+1", "1x", "x", "-"];
    let exptimes =
        ["9223372036854775808", "-9223372036854775809", "+1", "1.5", "-", "x"];
    let uniques = ["-1", "18446744073709551616", "+1", "x", "1.0"];
    let mut lines = Vec::new();
    lines.extend(flags.map(|flags| format!("cas k {flags} 0 5 1")));
    lines.extend(exptimes.map(|exptime| format!("cas k 0 {exptime} 5 1")));
    lines.extend(uniques.map(|unique| format!("cas k 0 0 5 {unique}")));
    for line in lines {
        let rests = [("", false), (" noreply", true), (" noreply x", false)];
        for (rest, noreply) in rests {
            let line = format!("{line}{rest}\r\n");
            let expected = Rejection {
                error: Error::BadFormat,
                noreply,
                used: line.len(),
                swallow: Some(5),
                removes: None,
            };
            let parsed = protocol::parse(line.as_bytes(), &LIMITS);
            assert_eq!(parsed, Parsed::Rejected(expected), "{line:?}");
        }
    }
}

#[test]
fn numbers_reach_as_far_as_their_bits() {
    let update = |line: &'static str| match parse_whole(line.as_bytes(), &LIMITS).0 {
        Request::Update(update) => update,
        other => panic!("{other:?}"),
    };
    let stored = |line: &'static str| {
        let Update { flags, exptime, number, .. } = update(line);
        (flags, exptime, number)
    };
    assert_eq!(stored("cas k 0 0 0 0\r\n\r\n"), (0, 0, 0));
    assert_eq!(stored("cas k 007 -0 00 01\r\n\r\n"), (7, 0, 1));
    assert_eq!(
        stored("cas k 4294967295 9223372036854775807 0 18446744073709551615\r\n\r\n"),
        (u32::MAX, i64::MAX, u64::MAX)
    );
    assert_eq!(stored("cas k 1 -9223372036854775808 0 1\r\n\r\n"), (1, i64::MIN, 1));

    let delta = |line| (update(line).verb, update(line).number);
    assert_eq!(delta("incr k 0\n"), (Verb::Incr, 0));
    assert_eq!(delta("decr k 18446744073709551615\n"), (Verb::Decr, u64::MAX));

    let rejected = [
        ("incr k 18446744073709551616\n", Error::InvalidDelta),
        ("decr k -1\n", Error::InvalidDelta),
        ("incr k noreply\n", Error::InvalidDelta),
        ("touch k x\n", Error::InvalidExptime),
        ("touch k 9223372036854775808\n", Error::InvalidExptime),
        ("gat x k\n", Error::InvalidExptime),
        ("gats +1 k\n", Error::InvalidExptime),
        ("flush_all x\n", Error::InvalidExptime),
        ("verbosity x\n", Error::BadFormat),
        ("stats nothing-we-know\n", Error::Unknown),
        ("delete k 1\n", Error::DeleteUsage),
        ("delete k 0 0\n", Error::DeleteUsage),
        ("delete k 0 noreply x\n", Error::DeleteUsage),
        ("delete k noreply 0\n", Error::DeleteUsage),
    ];
    for (line, error) in rejected {
        assert_eq!(rejection(line.as_bytes()), (error, None), "{line:?}");
    }
}

#[test]
fn noreply_counts_as_the_last_word_only_and_never_as_a_key() {
    let cases = [
        ("set k 0 0 0 noreply\n\n", true),
        ("set k 0 0 0 what ever noreply\n\n", true),
        ("set k 0 0 0 noreply what ever\n\n", false),
        ("set k 0 0 0 NOREPLY\n\n", false),
        ("set noreply 0 0 0\n\n", false),
        ("cas k 0 0 0 1 noreply  \n\n", true),
        ("delete noreply\n", false),
        ("delete noreply noreply\n", true),
        ("delete k 0 noreply\n", true),
        ("incr noreply 1\n", false),
        ("decr k 1 noreply\n", true),
        ("touch k 1 x noreply\n", true),
        ("flush_all noreply\n", true),
        ("flush_all 5 noreply\n", true),
        ("verbosity noreply\n", true),
        ("get k noreply\n", false),
        ("version noreply\n", false),
        ("quit noreply\n", false),
    ];
    for (line, expected) in cases {
        let (_, noreply) = parse_whole(line.as_bytes(), &LIMITS);
        assert_eq!(noreply, expected, "{line:?}");
    }
}

#[test]
fn a_block_ends_where_its_length_says() {
    let cases: [(&[u8], BlockEnd); 12] = [
        (b"", BlockEnd::Need(3)),
        (b"a", BlockEnd::Need(3)),
        (b"\r\n", BlockEnd::Need(3)),
        (b"ab\n", BlockEnd::Found(3)),
        (b"ab\nget", BlockEnd::Found(3)),
        (b"\r\n\n", BlockEnd::Found(3)),
        (b"ab\r", BlockEnd::Need(4)),
        (b"abc", BlockEnd::Need(4)),
        (b"ab\r\n", BlockEnd::Found(4)),
        (b"abc\n", BlockEnd::Missing(4)),
        (b"ab\rc", BlockEnd::Missing(4)),
        (b"abcdefg", BlockEnd::Missing(4)),
    ];
    for (bytes, end) in cases {
        assert_eq!(MEMCACHED.block_end(bytes, 2), end, "{}", bytes.escape_ascii());
        let input = [b"set k 0 0 2\r\n", bytes].concat();
        let line = input.len() - bytes.len();
        match (protocol::parse(&input, &LIMITS), end) {
            (Parsed::NeedBytes(needed), BlockEnd::Need(count)) => {
                assert_eq!(needed, line + count);
            }
            (Parsed::Request { used, .. }, BlockEnd::Found(end)) => {
                assert_eq!(used, line + end);
            }
            (Parsed::Rejected(rejection), BlockEnd::Missing(end)) => {
                let Rejection { error, swallow, used, .. } = rejection;
                assert_eq!((error, swallow), (Error::BadChunk, None));
                assert_eq!(used, line + end);
            }
            (parsed, end) => panic!("{parsed:?}, {end:?}"),
        }
    }
}

/// `start`, filled up with x to `len` bytes.
fn filled(start: &str, len: usize) -> Vec<u8> {
    let mut line = start.as_bytes().to_vec();
    line.resize(len, b'x');
    line
}

#[test]
fn a_line_may_be_as_long_as_its_limit_and_one_byte_more_closes() {
    let long_keys = Limits { key_size: 3000, ..LIMITS };
    let many_keys = [("get ", KEYS_LINE), ("gets ", KEYS_LINE), ("gat ", KEYS_LINE)];
    let others = ["", "set ", "get", "gats", "GET ", " get ", "touch ", "g"];
    let mut cases: Vec<_> = others.map(|start| (start, LINE, LIMITS)).to_vec();
    cases.extend(many_keys.map(|(start, limit)| (start, limit, LIMITS)));
    cases.push(("gats ", KEYS_LINE, LIMITS));
    cases.push(("", 3256, long_keys));
    cases.push(("get ", KEYS_LINE, long_keys));
    cases.push(("get ", LINE, Limits { max_item_size: 1024, ..LIMITS }));
    for (start, limit, limits) in cases {
        let parse = |line: &[u8]| match protocol::parse(line, &limits) {
            Parsed::NeedLine(longest) => Err(longest),
            Parsed::NeedBytes(needed) => panic!("a block of {needed}"),
            Parsed::Close(_) => Ok(0),
            Parsed::Rejected(rejection) => Ok(rejection.used),
            Parsed::Request { used, .. } => Ok(used),
        };
        // P3
        assert_eq!(parse(&filled(start, limit - 1)), Err(limit), "{start:?}");
        assert_eq!(parse(&filled(start, limit)), Err(limit), "{start:?}");
        assert_eq!(parse(&filled(start, limit + 1)), Ok(0), "{start:?}");
        let mut line = filled(start, limit);
        line.push(b'\n');
        assert_eq!(parse(&line), Ok(limit + 1), "{start:?}");
        // P1: too long is too long, also when its end is there already.
        let mut line = filled(start, limit + 1);
        line.push(b'\n');
        assert_eq!(parse(&line), Ok(0), "{start:?}");
    }
}

#[test]
fn what_is_not_our_protocol_is_an_error_or_closes() {
    for line in ["GET / HTTP/1.1\r\n", "POST /a b HTTP/2\n", "PRI * HTTP/2.0\r\n"] {
        let parsed = protocol::parse(line.as_bytes(), &LIMITS);
        assert_eq!(parsed, Parsed::Close("HTTP"), "{line:?}");
    }
    // The first byte is enough.
    for input in [&b"\x16"[..], b"\x80", b"\x16\x03\x01\nget a\r\n", b"\x80\0\0\n"] {
        let why = if input[0] == 0x16 { "TLS" } else { "the binary protocol" };
        assert_eq!(protocol::parse(input, &LIMITS), Parsed::Close(why), "{input:x?}");
    }
    parse_whole(b"get / HTTP/1.1\r\n", &LIMITS);
    let rejected = [
        ("GET / HTTP/1.1 x\r\n", Error::Unknown),
        ("HTTP/1.1\r\n", Error::Unknown),
        ("Host: here\r\n", Error::Unknown),
        ("get\ta\r\n", Error::Unknown),
        ("\tget a\r\n", Error::Unknown),
        ("get\0 a\r\n", Error::Unknown),
        ("\0\0\n", Error::Unknown),
        ("Get a\r\n", Error::Unknown),
        ("gett a\r\n", Error::Unknown),
        ("\0\n", Error::BadFormat),
        ("g\r\n", Error::BadFormat),
        ("\r\n", Error::BadFormat),
        ("\n", Error::BadFormat),
        ("   \r\n", Error::BadFormat),
        ("\r\r\n", Error::BadFormat),
        ("\u{80}\n", Error::Unknown),
        ("\x15\x03\n", Error::Unknown),
    ];
    for (line, error) in rejected {
        assert_eq!(rejection(line.as_bytes()), (error, None), "{line:?}");
    }
    parse_whole(b"  get a\n", &LIMITS);
}

#[test]
fn no_bytes_make_the_parser_panic_or_stand_still() {
    for seed in 0..100_000 {
        let random = &mut Random::new(seed);
        let mut input = match random.below(4) {
            0 => {
                let len = random.below(60);
                random.bytes(len)
            }
            1 => {
                // Only bytes that mean something.
                let len = random.below(60);
                let alphabet = b" \r\n019-getscad\0";
                (0..len).map(|_| random.pick(alphabet)).collect()
            }
            _ => [request(random), request(random)].concat(),
        };
        random.spoil(&mut input);
        let shown = input.clone();
        let result = std::panic::catch_unwind(|| consume(MEMCACHED, &input));
        assert!(result.is_ok(), "seed {seed}: {}", shown.escape_ascii());
    }
}

/// The replies to `stream`.
fn replies(context: &mut Context, stream: &str) -> String {
    let mut served = Served::new(stream.as_bytes());
    served.serve_all(context);
    served.replies(context)
}

/// One of the numbers of `stats`.
fn stat(context: &mut Context, name: &str) -> u64 {
    let stats = replies(context, "stats\r\n");
    let line =
        stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// A worker's context over a fresh store.
fn context(directory: &TempDir, max_item_size: usize) -> Context {
    let mut context = Context::new(shared(MEMCACHED, directory, max_item_size), 0);
    context.session.now = NOW;
    context
}

#[test]
fn requests_that_cost_much_let_the_neighbours_have_their_turn() {
    // A touch is a few bytes on the wire and, here, a megabyte in the log.
    let directory = TempDir::new();
    let mut context = context(&directory, 2 << 20);
    let value = vec![b'v'; 1 << 20];
    let Context { shared, session, .. } = &mut context;
    shared.store.set(session, b"big", 0, 0, &value).unwrap();
    let mut served = Served::new(&b"touch big 0 noreply\r\n".repeat(100));
    let mut ticks = 0;
    while ticks == 0 || served.connection.waits_for() == Some(Waits::Turn) {
        served.serve(&mut context);
        // It is read and written once.
        let work = context.session.work;
        assert!((2 << 20..3 << 20).contains(&work), "{work} bytes");
        ticks += 1;
    }
    assert_eq!(ticks, 100);
    assert_eq!(stat(&mut context, "cmd_touch"), 100);
}

#[test]
fn a_get_of_many_missing_keys_lets_the_neighbours_have_their_turn() {
    let directory = TempDir::new();
    let mut context = context(&directory, 1 << 20);
    let line = format!("get{}\r\n", " a".repeat(READ_LIMIT / 2 - 3));
    let mut served = Served::new(line.as_bytes());
    let ticks = served.serve_all(&mut context);
    assert!((2..10).contains(&ticks), "{ticks} ticks");
    assert_eq!(served.replies(&mut context), "END\r\n");
}

#[test]
fn a_value_that_is_too_large_is_answered_once_also_on_a_full_disk() {
    let directory = TempDir::new();
    let disk = Faulty::new(directory.path());
    let sync = SyncMode::EverySecond;
    let options = Options { max_item_size: 4096, sync, ..Options::default() };
    let (store, _) = disk.open(&options, NOW).unwrap();
    let mut context = Context::new(shared_over(MEMCACHED, store), 0);
    context.session.now = NOW;
    let Context { shared, session, .. } = &mut context;
    shared.store.set(session, b"k", 0, 0, b"old").unwrap();
    disk.fail(&[Call::Write], 0, How::Always);
    shared.store.settle(session).unwrap_err();
    let body = "x".repeat(5000);
    let stream = format!("set k 0 0 5000\r\n{body}\r\nversion\r\n");
    let answers = replies(&mut context, &stream);
    let lines: Vec<_> = answers.lines().collect();
    assert_eq!(lines.len(), 2, "{answers}");
    assert!(lines[0].starts_with("SERVER_ERROR writing data failed"), "{answers}");
    assert!(lines[1].starts_with("VERSION "), "{answers}");
}

#[test]
fn a_get_stops_between_its_keys_when_the_output_is_full() {
    // V2
    let directory = TempDir::new();
    let mut context = context(&directory, 1 << 20);
    let Context { shared, session, .. } = &mut context;
    shared.store.set(session, b"k", 0, 0, &[b'v'; 100_000]).unwrap();
    let mut served = Served::new(b"get k k k k k\r\nversion\r\n");
    served.serve(&mut context);
    assert_eq!(stat(&mut context, "cmd_get"), 3);
    // As long as there is output, nothing more is executed.
    assert_eq!(served.connection.waits_for(), Some(Waits::Output));
    served.serve(&mut context);
    assert_eq!(stat(&mut context, "cmd_get"), 3);
    let replies = served.replies(&mut context);
    assert!((OUTPUT_LIMIT..OUTPUT_LIMIT + 110_000).contains(&replies.len()));
    assert_eq!(served.connection.waits_for(), Some(Waits::Turn));
    served.serve(&mut context);
    assert!(served.replies(&mut context).ends_with("\r\nEND\r\nVERSION 1.6.0\r\n"));
    assert_eq!(stat(&mut context, "cmd_get"), 5);
}

#[test]
fn a_worker_keeps_some_output_buffers_and_no_large_one() {
    // V3
    let directory = TempDir::new();
    let mut context = context(&directory, 1 << 20);
    let Context { shared, session, .. } = &mut context;
    shared.store.set(session, b"big", 0, 0, &[b'v'; 100_000]).unwrap();
    let mut connections: Vec<_> =
        (0..200).map(|_| Served::new(b"version\r\n")).collect();
    connections.iter_mut().for_each(|it| it.serve(&mut context));
    assert_eq!(context.buffers.len(), 0);
    connections.iter_mut().for_each(|it| it.flush(&mut context));
    assert_eq!(context.buffers.len(), 128);
    // A request without a reply gives it back as well.
    replies(&mut context, "verbosity 1 noreply\r\n");
    assert_eq!(context.buffers.len(), 128);
    replies(&mut context, "get big\r\n");
    assert_eq!(context.buffers.len(), 127);
    assert!(context.buffers.iter().all(|it| it.is_empty() && it.capacity() <= 4096));
}

#[test]
fn nothing_is_read_while_replies_wait() {
    // V2
    let directory = TempDir::new();
    let mut context = context(&directory, 1 << 20);
    let Context { shared, session, .. } = &mut context;
    shared.store.set(session, b"big", 0, 0, &[b'v'; 1_000_000]).unwrap();
    let gets = b"get big\r\n";
    let mut served = Served::new(&gets.repeat(20_000));
    served.serve(&mut context);
    served.flush(&mut context);
    let read = stat(&mut context, "bytes_read");
    assert!(read <= READ_LIMIT as u64 + 100, "{read} bytes");
    let mut taken = 0;
    while taken < 30 * 1_000_000 {
        taken += served.client.read(&mut [0; 10_000]).unwrap();
        served.serve(&mut context);
        served.flush(&mut context);
    }
    // The requests that it has read are not all answered.
    let more = stat(&mut context, "bytes_read") - read;
    assert!(more < 100, "{more} bytes");
}

#[test]
fn a_reset_counts_stores_and_expired_items_anew() {
    let directory = TempDir::new();
    let mut context = context(&directory, 1 << 20);
    let stored = replies(&mut context, "set a 0 1 1\r\na\r\nset b 0 0 1\r\nb\r\n");
    assert_eq!(stored, "STORED\r\nSTORED\r\n");
    context.session.now = NOW + 1;
    assert_eq!(replies(&mut context, "get a a\r\n"), "END\r\n");
    assert_eq!(stat(&mut context, "get_expired"), 1);
    assert_eq!(stat(&mut context, "total_items"), 2);
    assert_eq!(replies(&mut context, "stats reset\r\n"), "RESET\r\n");
    assert_eq!(stat(&mut context, "get_expired"), 0);
    assert_eq!(stat(&mut context, "total_items"), 0);
}

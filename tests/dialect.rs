//! The dialects lite and raw: what `dialect.rs` promises of every input, and the client
//! library and program over both. Dialogues with a server are in tests/wire.
//!
//! A failure says its seed: `Random::new(seed)` makes the same bytes again.

mod common;

use assert_cmd::Command;
use common::stream::{Ingredients, LIMITS, NOW, answers, assert_same, consume, read};
use common::stream::{Served, shared, without_places};
use common::verbs::Verbs;
use common::{REPLY_TIMEOUT, Server, TempDir, replay};
use memcached_lite::client::{Client, ClientError, Item, Options};
use memcached_lite::driver::random::Random;
use memcached_lite::protocol::dialect::Dialect;
use memcached_lite::protocol::reply::{Error, Reply, ValueLine};
use memcached_lite::protocol::words::Words;
use memcached_lite::protocol::{
    BlockEnd, MAX_LENGTH, Parsed, Rejection, Request, Topic,
};
use memcached_lite::server::connection::READ_LIMIT;
use memcached_lite::server::service::{Context, OUTPUT_LIMIT};
use memcached_lite::store::record::{Format, IntOrder};
use memcached_lite::store::{Answer, Limits, Update, Verb};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use Dialect::Lite;

const fn raw(int_size: u8, int_order: IntOrder) -> Dialect {
    Dialect::Raw(Format { key_size: 250, int_size, int_order })
}

/// As a server has it by default.
const RAW: Dialect = raw(4, IntOrder::Big);

/// Lite, and raw with every width that matters.
const DIALECTS: [Dialect; 7] = [
    Lite,
    RAW,
    raw(1, IntOrder::Big),
    raw(2, IntOrder::Little),
    raw(3, IntOrder::Big),
    raw(8, IntOrder::Big),
    raw(8, IntOrder::Little),
];

/// The longest line, without its end; in raw, that of its part after a size.
const LINE: usize = 2048;

/// How the dialect writes the size of a value of this length.
fn size(dialect: Dialect, length: usize) -> Vec<u8> {
    let Dialect::Raw(Format { int_size, int_order, .. }) = dialect else {
        return length.to_string().into_bytes();
    };
    let width = usize::from(int_size);
    let bytes = (length as u64 + 3).to_be_bytes();
    let mut bytes = bytes[8 - width..].to_vec();
    if int_order == IntOrder::Little {
        bytes.reverse();
    }
    bytes
}

fn set(dialect: Dialect, key: &[u8], value: &[u8]) -> Vec<u8> {
    let size = size(dialect, value.len());
    [b"set ", key, b" ", &size, b" \r\n", value, b" \r\n"].concat()
}

/// What a get of this key is answered with.
fn hit(dialect: Dialect, key: &[u8], value: &[u8]) -> Vec<u8> {
    let size = size(dialect, value.len());
    let end: &[u8] = if dialect == Lite { b"\r\n" } else { b" \r\n" };
    [b"VALUE ", key, b" ", &size, b" \r\n", value, end, b"END", end].concat()
}

/// A request, well-formed or not, as one might send it.
fn request(random: &mut Random, dialect: Dialect) -> Vec<u8> {
    let keys: [&[u8]; 7] =
        [b"a", b"b", b"c", b"d", b"nul\0", &[b'm'; 250], &[b'l'; 251]];
    let good = if random.once_in(6) { keys.len() } else { 4 };
    let key = random.pick(&keys[..good]);
    match random.below(10) {
        0..=5 => {
            let mut value = random.value();
            if random.once_in(8) {
                // Sizes that have a byte of the grammar in them.
                value.resize(random.pick(&[7, 10, 29, 252, 2567, 3335, 4000]), b'\n');
            }
            if random.once_in(12) {
                // Too large, and full of what must not be run.
                let count = LIMITS.max_value / 7 + 1 + random.below(50);
                value = b"get a\r\n".repeat(count);
            }
            let mut length = value.len();
            match random.below(20) {
                0 => length += 1 + random.below(3),
                1 => length = length.saturating_sub(1 + random.below(3)),
                _ => {}
            }
            let space = if random.once_in(20) { b" x" } else { &b" "[..] };
            let size = size(dialect, length);
            let line_end = random.pick(&[&b"\r\n"[..], b" \r\n", b"\n", b"  \n"]);
            let ends = [&b" \r\n"[..], b"\r\n", b"\n", b"   \n", b"..\r\n"];
            let end = random.pick(&ends);
            [b"set ", key, space, &size, line_end, &value, end].concat()
        }
        6 | 7 => {
            let ends = [&b"\r\n"[..], b"\n", b"  \r\n"];
            [&b"get "[..], key, random.pick(&ends)].concat()
        }
        8 => random.pick(&[&b"delete\r\n"[..], b"delete a\r\n", b"get\n"]).to_vec(),
        _ => {
            let odd: [&[u8]; 8] = [
                b"\r\n",
                b"\n",
                b"version\r\n",
                b"set a\r\n",
                b"set \r\n",
                b" set a 5\r\n",
                b"set  a 5\r\n",
                b"get a b\r\n",
            ];
            random.pick(&odd).to_vec()
        }
    }
}

/// Some hundred requests, and one of the ways in which a stream can end.
fn stream(random: &mut Random, dialect: Dialect) -> Vec<u8> {
    let mut stream = Vec::new();
    (0..300).for_each(|_| stream.extend(request(random, dialect)));
    match random.below(5) {
        0 => stream.extend(&set(dialect, b"a", b"1234567")[..12]),
        1 => stream.extend(b"set key"),
        2 => stream.extend(b"GET / HTTP/1.1\r\nHost: here\r\n\r\nget a\r\n"),
        3 => stream.extend([b'x'; LINE + 1]),
        _ => {}
    }
    stream
}

#[test]
fn a_stream_means_the_same_however_it_is_cut() {
    // P1, and P2: what is swallowed is swallowed in every case.
    let mut found = 0;
    for (seed, dialect) in (0..).zip(DIALECTS.repeat(6)) {
        let random = &mut Random::new(seed);
        let stream = stream(random, dialect);
        let whole = read(dialect, &stream, &mut || stream.len(), false);
        let whole = without_places(whole);
        found += whole.len();
        let bytewise = read(dialect, &stream, &mut || 1, false);
        let what = format!("{dialect:?}, seed {seed}");
        // P3: a reader that waits for as many bytes as are needed misses nothing, and
        // waits for nothing.
        let patient = read(dialect, &stream, &mut || 1, true);
        assert_same(&bytewise, &patient, &format!("{what}, patiently"));
        assert_same(&whole, &without_places(bytewise), &format!("{what}, bytewise"));
        for most in [3, 30, 300, 3000] {
            let cut = read(dialect, &stream, &mut || 1 + random.below(most), true);
            let what = format!("{what}, in pieces of at most {most}");
            assert_same(&whole, &without_places(cut), &what);
        }
    }
    assert!(found > 5000, "only {found} requests");
}

#[test]
fn a_stream_is_answered_the_same_however_it_is_cut() {
    // P1
    for (seed, dialect) in (100..).zip(DIALECTS) {
        let random = &mut Random::new(seed);
        let stream = stream(random, dialect);
        let size = LIMITS.max_item_size;
        let whole = answers(dialect, &stream, size, &mut || stream.len(), READ_LIMIT);
        let bytewise = answers(dialect, &stream, size, &mut || 1, READ_LIMIT);
        let what = format!("{dialect:?}, seed {seed}");
        assert_same(&whole, &bytewise, &format!("{what}, bytewise"));
        for most in [5, 50, 500] {
            let mut pieces = || 1 + random.below(most);
            let cut = answers(dialect, &stream, size, &mut pieces, 100);
            let what = format!("{what}, in pieces of at most {most}");
            assert_same(&whole, &cut, &what);
        }
    }
}

#[test]
fn no_bytes_make_the_parser_panic_or_stand_still() {
    for (seed, dialect) in (0..).zip(DIALECTS.repeat(8000)) {
        let random = &mut Random::new(seed);
        let mut input = match random.below(4) {
            0 => {
                let len = random.below(60);
                random.bytes(len)
            }
            1 => {
                // Only bytes that mean something.
                let start = random.pick(&[&b""[..], b"set ", b"set k ", b"get "]);
                let len = random.below(60);
                let rest = (0..len).map(|_| random.pick(b" \r\n019setg\0"));
                start.iter().copied().chain(rest).collect()
            }
            _ => [request(random, dialect), request(random, dialect)].concat(),
        };
        random.spoil(&mut input);
        let shown = input.clone();
        let result = std::panic::catch_unwind(|| consume(dialect, &input));
        assert!(result.is_ok(), "{dialect:?}, seed {seed}: {}", shown.escape_ascii());
        // A server's replies may be as odd.
        let line = [b"VALUE ", &shown[..]].concat();
        dialect.is_line(&line);
        dialect.parse_value_line(&line);
        dialect.parse_reply(&shown);
    }
}

/// The longest value that has a size in the dialect.
fn longest(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Raw(format) => (format.max_value() - 3).min(MAX_LENGTH) as usize,
        _ => MAX_LENGTH as usize,
    }
}

#[test]
fn every_request_that_is_written_is_read_back() {
    for (seed, dialect) in (0..).zip(DIALECTS.repeat(1000)) {
        let random = &mut Random::new(seed);
        let (key, mut value) = (random.key(), random.value());
        value.truncate(longest(dialect));
        let set = Update { key: &key, value: &value, ..Update::default() };
        let set = Request::Update(set);
        let get = Request::Get { keys: Words(&key), unique: false, exptime: None };
        for request in [set, get, Request::FlushAll(0)] {
            let mut bytes = Vec::new();
            assert!(dialect.write_request(&request, &mut bytes), "seed {seed}");
            let used = bytes.len();
            let expected = Parsed::Request { request, noreply: false, used };
            let parsed = dialect.parse(&bytes, &LIMITS);
            assert_eq!(parsed, expected, "{dialect:?}, seed {seed}");
        }
    }
}

#[test]
fn every_value_that_is_written_is_read_back() {
    for (seed, dialect) in (0..).zip(DIALECTS.repeat(1000)) {
        let random = &mut Random::new(seed);
        let (key, mut value) = (random.key(), random.value());
        if random.once_in(3) {
            value.resize(random.pick(&[7, 10, 29, 252, 2567, 3335]), b'\n');
        }
        value.truncate(longest(dialect));
        let mut bytes = Vec::new();
        dialect.write_value(&mut bytes, &key, 7, Some(9), &value).expect("it fits");
        // As a client does: no further than to a newline that ends a line.
        let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let end = ends.find(|(at, _)| dialect.is_line(&bytes[..=*at])).expect("a line");
        let line = dialect.parse_value_line(&bytes[..end.0 - 1]);
        let length = value.len();
        let expected = ValueLine { key: &key, flags: 0, length, unique: None };
        assert_eq!(line, Some(expected), "{dialect:?}, seed {seed}");
        let block = &bytes[end.0 + 1..];
        assert_eq!(block.strip_suffix(dialect.line_end()), Some(&value[..]));
    }
}

#[test]
fn every_reply_has_its_words_and_is_read_back() {
    let cases = [
        (Reply::Answer(Answer::Stored), "STORED"),
        (Reply::Answer(Answer::NotStored), "NOT-STORED"),
        (Reply::Ok, "DELETED"),
        (Reply::End, "END"),
    ];
    let rejected = [
        (Error::TooLarge, "NOT-STORED"),
        (Error::BadFormat, "INVALID REQUEST"),
        (Error::BadChunk, "INVALID REQUEST"),
        (Error::Unknown, "INVALID REQUEST"),
    ];
    for (dialect, end) in [(Lite, "\r\n"), (RAW, " \r\n")] {
        let written = |reply: &Reply| {
            let mut bytes = Vec::new();
            dialect.write_reply(reply, &mut bytes);
            bytes
        };
        for (reply, words) in &cases {
            let line = format!("{words}{end}");
            assert_eq!(written(reply), line.as_bytes());
            let line = line.strip_suffix("\r\n").expect("a line end").as_bytes();
            assert_eq!(dialect.parse_reply(line).as_ref(), Some(reply));
        }
        for (error, words) in rejected {
            let line = format!("{words}{end}");
            assert_eq!(written(&Reply::Rejected(error)), line.as_bytes());
        }
        assert_eq!(dialect.parse_reply(b"INVALID REQUEST"), None);
    }
}

#[test]
fn a_miss_and_an_empty_value_are_the_same_bytes() {
    for dialect in DIALECTS {
        let (mut miss, mut empty) = (Vec::new(), Vec::new());
        dialect.write_miss(&mut miss, b"k").expect("it fits");
        dialect.write_value(&mut empty, b"k", 0, None, b"").expect("it fits");
        assert_eq!(miss, empty);
        assert!(hit(dialect, b"k", b"").starts_with(&miss), "{dialect:?}");
    }
}

#[test]
fn what_a_dialect_has_no_words_for_is_not_written() {
    let get =
        |unique, exptime, keys| Request::Get { keys: Words(keys), unique, exptime };
    fn update(verb: Verb, flags: u32, exptime: i64, value: &[u8]) -> Request<'_> {
        let key = b"k";
        Request::Update(Update {
            verb,
            key,
            flags,
            exptime,
            number: 0,
            value,
            ..Update::default()
        })
    }
    let unsaid = [
        get(true, None, b"a"),
        get(false, Some(0), b"a"),
        get(false, None, b"a b"),
        get(false, None, b""),
        update(Verb::Add, 0, 0, b"x"),
        update(Verb::Cas, 0, 0, b"x"),
        update(Verb::Set, 1, 0, b"x"),
        update(Verb::Set, 0, 1, b"x"),
        Request::FlushAll(1),
        update(Verb::Delete, 0, 0, b""),
        update(Verb::Incr, 0, 0, b""),
        update(Verb::Decr, 0, 0, b""),
        update(Verb::Touch, 0, 0, b""),
        Request::Stats(Topic::General),
        Request::List(false),
        Request::Version,
        Request::Verbosity,
        Request::Quit,
    ];
    for dialect in DIALECTS {
        for request in &unsaid {
            assert!(!dialect.write_request(request, &mut Vec::new()), "{request:?}");
        }
    }
    for (dialect, longest) in
        [(raw(1, IntOrder::Big), 252), (raw(2, IntOrder::Little), 65_532)]
    {
        let fits = |length| {
            let value = vec![b'v'; length];
            let (mut set, mut reply) = (Vec::new(), Vec::new());
            let said =
                dialect.write_request(&update(Verb::Set, 0, 0, &value), &mut set);
            let answered = dialect.write_value(&mut reply, b"k", 0, None, &value);
            assert_eq!(said, answered.is_ok());
            said
        };
        assert!(fits(longest));
        assert!(!fits(longest + 1));
    }
}

/// A rejection that uses up so many bytes.
fn rejected(error: Error, used: usize, swallow: Option<usize>) -> Parsed<'static> {
    let (noreply, removes) = (false, None);
    Parsed::Rejected(Rejection { error, noreply, used, swallow, removes })
}

#[test]
fn a_length_is_only_a_number() {
    // P4
    let limits = Limits { key_size: 250, max_value: 1 << 40, max_item_size: 1 << 40 };
    let longest = MAX_LENGTH as usize;
    for dialect in [Lite, RAW, raw(8, IntOrder::Little)] {
        let line = |length| {
            let size = size(dialect, length);
            [b"set k ", &size[..], b"\n"].concat()
        };
        let input = line(longest);
        let needed = Parsed::NeedBytes(input.len() + longest + 1);
        assert_eq!(dialect.parse(&input, &limits), needed);
        // P2: where it is too large, all of it is swallowed.
        let rejection = Rejection {
            error: Error::TooLarge,
            noreply: false,
            used: input.len(),
            swallow: Some(longest),
            removes: Some(b"k".into()),
        };
        assert_eq!(dialect.parse(&input, &LIMITS), Parsed::Rejected(rejection));
        let input = line(longest + 1);
        let expected = rejected(Error::BadFormat, input.len(), None);
        assert_eq!(dialect.parse(&input, &limits), expected);
        assert_eq!(dialect.block_end(b"", longest), BlockEnd::Need(longest + 1));
    }
    let at_the_end = [u64::MAX, u64::MAX - 1, u64::MAX - 3, 1 << 63, 0, 1, 2];
    for size in at_the_end {
        let dialect = raw(8, IntOrder::Big);
        let input = [b"set k ", &size.to_be_bytes()[..], b"\n"].concat();
        let expected = rejected(Error::BadFormat, input.len(), None);
        assert_eq!(dialect.parse(&input, &limits), expected, "{size}");
        let line = [b"VALUE k ", &size.to_be_bytes()[..], b" "].concat();
        let length = dialect.parse_value_line(&line).map(|line| line.length as u64);
        assert_eq!(length, size.checked_sub(3), "{size}");
    }
}

#[test]
fn a_bad_key_in_a_line_with_a_size_leaves_the_value_swallowed() {
    // P2
    let long = [b'k'; 251];
    for dialect in DIALECTS {
        for key in [&b"a\0b"[..], b"\0", &long] {
            let input = set(dialect, key, b"delete\r\n");
            let line = input.len() - b"delete\r\n \r\n".len();
            let expected = rejected(Error::BadFormat, line, Some(8));
            assert_eq!(dialect.parse(&input, &LIMITS), expected, "{dialect:?}");
        }
    }
    let input = b"set k 8 x\r\ndelete\r\n \r\n";
    let expected = rejected(Error::BadFormat, 11, Some(8));
    assert_eq!(Lite.parse(input, &LIMITS), expected);
}

#[test]
fn only_one_carriage_return_belongs_to_the_end_of_a_line() {
    // P2
    let expected = rejected(Error::BadFormat, b"set k 2 \r\r\n".len(), Some(2));
    assert_eq!(Lite.parse(b"set k 2 \r\r\nab\r\n", &LIMITS), expected);
    let line = b"set k \0\0\0\x05 \r\r\n";
    let expected = rejected(Error::BadFormat, line.len(), None);
    assert_eq!(RAW.parse(line, &LIMITS), expected);
}

#[test]
fn what_is_likely_not_a_size_in_raw_has_no_value() {
    // Their size, or four characters in its place, would be that of a large value.
    for line in [
        &b"set  k 10\r\n"[..],
        b"set  k  \r\n",
        b"set  \0\0\0\x05 \r\n",
        b" set k 5\r\n",
        b" set k \0\0\0\x05\r\n",
        b"  set \0\0\0\x05\r\n",
        b"set k 5 bytes\r\n",
        b"set k\r\n",
        b"set\r\n",
    ] {
        let input = [line, b"get k\r\n"].concat();
        let expected = rejected(Error::BadFormat, line.len(), None);
        let what = line.escape_ascii();
        assert_eq!(RAW.parse(&input, &LIMITS), expected, "{what}");
    }
}

#[test]
fn a_line_may_be_as_long_as_its_limit_and_one_byte_more_closes() {
    let filled = |start: &[u8], len: usize| {
        let mut line = start.to_vec();
        line.resize(start.len().max(len), b'x');
        line
    };
    let starts = ["", "set ", "set k", "get ", "delete ", " set k "];
    let cases = DIALECTS.map(|dialect| {
        let with_size = [b"set k ", &size(dialect, 2)[..]].concat();
        let searched = if dialect == Lite { 0 } else { with_size.len() };
        let plain = starts.map(|start| (dialect, start.as_bytes().to_vec(), LINE));
        [&plain[..], &[(dialect, with_size, searched + LINE)]].concat()
    });
    for (dialect, start, limit) in cases.concat() {
        let what = format!("{dialect:?}, {}", start.escape_ascii());
        let parse = |line: &[u8]| match dialect.parse(line, &LIMITS) {
            Parsed::NeedLine(longest) => Err(longest),
            Parsed::Close(_) => Ok(0),
            Parsed::Rejected(rejection) => Ok(rejection.used),
            other => panic!("{what}: {other:?}"),
        };
        // P3
        assert_eq!(parse(&filled(&start, limit - 1)), Err(limit), "{what}");
        assert_eq!(parse(&filled(&start, limit)), Err(limit), "{what}");
        assert_eq!(parse(&filled(&start, limit + 1)), Ok(0), "{what}");
        let mut line = filled(&start, limit);
        line.push(b'\n');
        assert_eq!(parse(&line), Ok(limit + 1), "{what}");
        // P1: too long is too long, also when its end is there already.
        let mut line = filled(&start, limit + 1);
        line.push(b'\n');
        assert_eq!(parse(&line), Ok(0), "{what}");
    }
    // A key that takes up the whole line, but for its space: too long, and P2.
    let mut input = filled(b"set ", LINE - 1);
    input.extend(b" \0\0\0\x05\n");
    let expected = rejected(Error::BadFormat, input.len(), Some(2));
    assert_eq!(RAW.parse(&input, &LIMITS), expected);
    // P1: one byte more is not searched, whether it is there or not.
    let mut input = filled(b"set ", LINE);
    assert_eq!(RAW.parse(&input, &LIMITS), Parsed::NeedLine(LINE));
    input.extend(b" \0\0\0\x05\n");
    assert_eq!(RAW.parse(&input, &LIMITS), Parsed::Close("a line too long"));
}

#[test]
fn a_value_ends_with_its_line() {
    let spaces = |count| [&b"ab"[..], &vec![b' '; count]].concat();
    let with = |count, end: &[u8]| [&spaces(count)[..], end].concat();
    let cases = [
        (b"".to_vec(), BlockEnd::Need(3)),
        (b"ab".to_vec(), BlockEnd::Need(3)),
        (b"\n\n\n".to_vec(), BlockEnd::Found(3)),
        (b"ab\nget".to_vec(), BlockEnd::Found(3)),
        (b"ab\r".to_vec(), BlockEnd::Need(4)),
        (b"ab\r\nget".to_vec(), BlockEnd::Found(4)),
        (b"ab  \r\nget".to_vec(), BlockEnd::Found(6)),
        (b"ab\r \n".to_vec(), BlockEnd::Missing(5)),
        (b"abc".to_vec(), BlockEnd::Need(4)),
        (b"abc\r\nget".to_vec(), BlockEnd::Missing(5)),
        (b"ab \tcd\nget".to_vec(), BlockEnd::Missing(7)),
        (spaces(63), BlockEnd::Need(66)),
        (spaces(64), BlockEnd::Missing(66)),
        (with(63, b"\n"), BlockEnd::Found(66)),
        (with(62, b"\r\n"), BlockEnd::Found(66)),
        (with(64, b"\n"), BlockEnd::Missing(66)),
        (with(63, b"\r\n"), BlockEnd::Missing(66)),
    ];
    for (bytes, end) in cases {
        for dialect in DIALECTS {
            assert_eq!(dialect.block_end(&bytes, 2), end, "{}", bytes.escape_ascii());
            let line = [b"set k ", &size(dialect, 2)[..], b"\r\n"].concat();
            let input = [&line[..], &bytes].concat();
            let used = match (dialect.parse(&input, &LIMITS), end) {
                (Parsed::NeedBytes(used), BlockEnd::Need(end)) => used - end,
                (Parsed::Request { used, .. }, BlockEnd::Found(end)) => used - end,
                (Parsed::Rejected(rejection), BlockEnd::Missing(end)) => {
                    let Rejection { error, swallow, used, .. } = rejection;
                    assert_eq!((error, swallow), (Error::BadChunk, None));
                    used - end
                }
                (parsed, end) => panic!("{parsed:?}, {end:?}"),
            };
            assert_eq!(used, line.len());
        }
    }
}

#[test]
fn an_answer_waits_for_no_byte_after_its_request() {
    for dialect in DIALECTS {
        let end: &[u8] = if dialect == Lite { b"\r\n" } else { b" \r\n" };
        let line = [b"set a ", &size(dialect, 2)[..], b"\n"].concat();
        let large = [b"set a ", &size(dialect, 250)[..], b"\n", &[b'x'; 250]].concat();
        let cases: [(Vec<u8>, &[u8]); 8] = [
            ([&line[..], b"ab\n"].concat(), b"STORED"),
            ([&line[..], b"ab \r\n"].concat(), b"STORED"),
            ([&line[..], b"abc\n"].concat(), b"INVALID REQUEST"),
            ([&line[..], b"ab", &[b' '; 64]].concat(), b"INVALID REQUEST"),
            ([&large[..], b"\n"].concat(), b"NOT-STORED"),
            ([&large[..], b" x\n"].concat(), b"NOT-STORED"),
            (b"delete\n".to_vec(), b"DELETED"),
            (b"\n".to_vec(), b"INVALID REQUEST"),
        ];
        for (request, answer) in cases {
            for most in [1, 2, 7, request.len()] {
                let answers = answers(dialect, &request, 250, &mut || most, 100);
                let what = request.escape_ascii();
                assert_eq!(answers, [answer, end].concat(), "{dialect:?}: {what}");
            }
        }
    }
}

#[test]
fn a_get_whose_value_fills_the_output_ends_with_its_end() {
    // V2
    let value = vec![b'v'; OUTPUT_LIMIT + 1];
    for dialect in [Lite, RAW, raw(8, IntOrder::Little)] {
        let mut stream = set(dialect, b"k", &value);
        stream.extend(b"get k\r\nget k  \nget  k \r\n");
        let stored: &[u8] =
            if dialect == Lite { b"STORED\r\n" } else { b"STORED \r\n" };
        let expected = [stored, &hit(dialect, b"k", &value).repeat(3)].concat();
        for (piece, taken) in [(1 << 20, 1 << 20), (1000, 1 << 20), (1 << 20, 5000)] {
            let answers = answers(dialect, &stream, 1 << 20, &mut || piece, taken);
            assert_same(&expected, &answers, &format!("{dialect:?}, {piece}, {taken}"));
        }
    }
}

#[test]
fn a_value_that_no_size_can_say_is_one_error_of_the_server() {
    let directory = TempDir::new();
    let dialect = raw(1, IntOrder::Big);
    let mut context = Context::new(shared(dialect, &directory, 1 << 20), 0);
    context.session.now = NOW;
    // As another dialect may have stored it.
    let Context { shared, session, .. } = &mut context;
    shared.store.set(session, b"k", 0, 0, &[b'v'; 253]).expect("set");
    let stream = [&set(dialect, b"a", b"x")[..], b"get k\r\nget a\r\n"].concat();
    let mut served = Served::new(&stream);
    served.serve(&mut context);
    let expected = "STORED \r\n\
        SERVER_ERROR the value is too large for a size of this dialect \r\n\
        VALUE a \x04 \r\nx \r\nEND \r\n";
    assert_eq!(served.replies(&mut context), expected);
}

// Servers.

/// What a server of this dialect is started with, and a client.
fn arguments(dialect: Dialect) -> Vec<String> {
    let words = match dialect {
        Dialect::Memcached => "--dialect memcached".to_owned(),
        Lite => "--dialect lite".to_owned(),
        Dialect::Raw(Format { int_size, int_order, .. }) => {
            let order = if int_order == IntOrder::Big { "big" } else { "little" };
            format!("--dialect raw --int-size {int_size} --int-order {order}")
        }
    };
    words.split(' ').map(str::to_owned).collect()
}

fn start_on(data: &TempDir, dialect: Dialect) -> Server {
    let arguments = arguments(dialect);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::start_on(
        data.path(),
        &[&["--sync", "every-second"], &arguments[..]].concat(),
    )
}

fn client(address: impl ToString, dialect: Dialect) -> Client {
    let (address, timeout) = (address.to_string(), REPLY_TIMEOUT);
    let options = Options { address, timeout, dialect, ..Options::default() };
    Client::connect(&options).expect("connect")
}

fn value_of(item: Option<Item>) -> Vec<u8> {
    item.expect("an item").value
}

#[test]
fn the_client_gets_what_it_has_set() {
    for dialect in DIALECTS {
        let data = TempDir::new();
        let server = start_on(&data, dialect);
        let mut client = client(server.addr, dialect);
        assert_eq!(client.get("missing").expect("get"), None);
        // A size that is `\n`, `\r`, a space, 255, `\n\n`, and the largest.
        for length in [1, 7, 10, 29, 252, 2567, 1_048_575] {
            let value = vec![b'\n'; length];
            if length > longest(dialect) {
                let error = client.set("k", &value, 0, 0).expect_err("no size");
                assert!(matches!(error, ClientError::Request(_)), "{error:?}");
                continue;
            }
            client.set("k", &value, 0, 0).expect("set");
            let item = client.get("k").expect("get").expect("an item");
            let expected = Item { key: b"k".into(), flags: 0, unique: None, value };
            assert!(item == expected, "{dialect:?}, {length}");
        }
        // An empty value is the same as none.
        client.set("k", "", 0, 0).expect("set");
        assert_eq!(client.get("k").expect("get"), None);
        client.set("k", "x", 0, 0).expect("set");
        assert_eq!(client.ask(&Request::FlushAll(0)).expect("flush"), Reply::Ok);
        assert_eq!(client.get("k").expect("get"), None);
    }
}

#[test]
fn the_client_continues_after_a_request_that_was_not_sent_or_not_served() {
    for dialect in [Lite, RAW] {
        let data = TempDir::new();
        let server = start_on(&data, dialect);
        let mut client = client(server.addr, dialect);
        client.set("k", "old", 0, 0).expect("set");
        let (key, value) = (&b"k"[..], &b"x"[..]);
        let add = Update { verb: Verb::Add, key, value, ..Update::default() };
        let unsaid = [
            client.gets("k").err(),
            client.retrieve(&["k"], false, Some(0)).err(),
            client.get_many(&["a", "b"]).err(),
            client.update(add).err(),
            client.set("k", "x", 1, 0).err(),
            client.set("k", "x", 0, 1).err(),
            client.delete("k").err(),
            client.incr("k", 1).err(),
            client.ask(&Request::FlushAll(1)).err(),
            client.stats(Topic::General).err(),
            client.ask(&Request::Version).err(),
        ];
        for error in unsaid {
            let error = error.expect("no words");
            assert!(matches!(error, ClientError::Request(_)) && !error.is_fatal());
        }
        assert_eq!(value_of(client.get("k").expect("get")), b"old");
        let value = vec![b'x'; 1_048_576];
        let set = Update { key, value: &value, ..Update::default() };
        assert_eq!(client.update(set).expect("an answer"), Answer::NotStored);
        assert_eq!(client.get("k").expect("get"), None);
        let options = Options {
            address: server.addr.to_string(),
            key_size: 1000,
            dialect,
            ..Options::default()
        };
        let mut careless = Client::connect(&options).expect("connect");
        for error in [
            careless.get([b'k'; 251]).expect_err("the key is too long"),
            careless.set([b'k'; 251], "delete\r\n", 0, 0).expect_err("likewise"),
        ] {
            let ClientError::Rejected(line) = error else { panic!("{error:?}") };
            assert_eq!(line, "INVALID REQUEST");
        }
        careless.set("k", "x", 0, 0).expect("set");
        assert_eq!(value_of(careless.get("k").expect("get")), b"x");
    }
}

#[test]
fn what_one_dialect_has_set_another_gets_after_a_restart() {
    let data = TempDir::new();
    let small = raw(1, IntOrder::Big);
    let dialects = [Dialect::Memcached, Lite, small];
    let key = |dialect: Dialect| arguments(dialect)[1].clone();
    for dialect in dialects {
        // The first start has chosen INT_SIZE, so that all must ask for the same.
        let arguments = arguments(dialect);
        let mut options = vec!["--int-size", "1"];
        options.extend(arguments[..2].iter().map(String::as_str));
        let server = Server::start_on(data.path(), &options);
        let mut client = client(server.addr, dialect);
        client.set(key(dialect), "1234567", 0, 0).expect("set");
        if dialect == Dialect::Memcached {
            client.set("flags", "x", 7, 0).expect("set");
            client.set("long", [b'v'; 253], 0, 0).expect("set");
        }
    }
    for dialect in dialects {
        let server = start_on(&data, dialect);
        let mut client = client(server.addr, dialect);
        for other in dialects {
            let item = client.get(key(other)).expect("get");
            assert_eq!(value_of(item), b"1234567", "{other:?} over {dialect:?}");
        }
        let flags = client.get("flags").expect("get").expect("an item").flags;
        assert_eq!(flags, if dialect == Dialect::Memcached { 7 } else { 0 });
        // No size says how long it is. That is the answer, and the client continues.
        match client.get("long") {
            Err(ClientError::Rejected(line)) if dialect == small => {
                let why = "the value is too large for a size of this dialect";
                assert_eq!(line, format!("SERVER_ERROR {why}"));
            }
            item => assert_eq!(value_of(item.expect("get")), [b'v'; 253]),
        }
        client.set("new", "x", 0, 0).expect("set");
    }
}

/// A server that answers each request with the next of these answers, and returns what
/// it was sent. A request is read until as many bytes have come as it has.
fn record(
    dialect: Dialect,
    talk: &[(Vec<u8>, Vec<u8>)],
) -> (Client, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = client(listener.local_addr().expect("address"), dialect);
    let talk = talk.to_vec();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut answer = |(expected, answer): (Vec<u8>, Vec<u8>)| {
            let mut request = vec![0; expected.len()];
            stream.read_exact(&mut request).expect("a request");
            stream.write_all(&answer).expect("write");
            request
        };
        talk.into_iter().map(&mut answer).collect()
    });
    (client, server)
}

#[test]
fn the_client_sends_the_bytes_of_its_dialect() {
    let value = b"1234567";
    for (dialect, sent) in [
        (Lite, "set k 7 \r\n1234567 \r\n"),
        (RAW, "set k \0\0\0\n \r\n1234567 \r\n"),
        (raw(1, IntOrder::Big), "set k \n \r\n1234567 \r\n"),
        (raw(2, IntOrder::Little), "set k \n\0 \r\n1234567 \r\n"),
        (raw(8, IntOrder::Big), "set k \0\0\0\0\0\0\0\n \r\n1234567 \r\n"),
        (raw(8, IntOrder::Little), "set k \n\0\0\0\0\0\0\0 \r\n1234567 \r\n"),
    ] {
        let end: &[u8] = if dialect == Lite { b"\r\n" } else { b" \r\n" };
        let line = |words: &[u8]| [words, end].concat();
        let talk = [
            (sent.into(), line(b"STORED")),
            (b"get k\r\n".to_vec(), hit(dialect, b"k", value)),
            (b"get k\r\n".to_vec(), hit(dialect, b"k", b"")),
            (b"delete\r\n".to_vec(), line(b"DELETED")),
            (sent.into(), line(b"NOT-STORED")),
            (b"get k\r\n".to_vec(), line(b"INVALID REQUEST")),
            (b"get k\r\n".to_vec(), line(b"SERVER_ERROR no space")),
        ];
        let (mut client, server) = record(dialect, &talk);
        client.set("k", value, 0, 0).expect("set");
        assert_eq!(value_of(client.get("k").expect("get")), value);
        assert_eq!(client.get("k").expect("get"), None);
        assert_eq!(client.ask(&Request::FlushAll(0)).expect("flush"), Reply::Ok);
        let set = Update { key: b"k", value, ..Update::default() };
        assert_eq!(client.update(set).expect("an answer"), Answer::NotStored);
        let error = client.get("k").expect_err("rejected");
        assert_eq!(error.to_string(), "INVALID REQUEST");
        let error = client.get("k").expect_err("failed");
        assert_eq!(error.to_string(), "SERVER_ERROR no space");
        let requests: Vec<_> = talk.into_iter().map(|(request, _)| request).collect();
        assert_eq!(server.join().expect("server"), requests, "{dialect:?}");
    }
}

/// The error that a get leads to whose answer this is, after which there is no more.
fn failure(dialect: Dialect, answer: &[u8]) -> ClientError {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut client = client(listener.local_addr().expect("address"), dialect);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.read_exact(&mut [0; 7]).expect("a request");
            // Nobody may be left to take all of it.
            let _ = stream.write_all(answer);
        });
        let error = client.get("k").expect_err("no answer");
        drop(client);
        assert!(error.is_fatal());
        error
    })
}

#[test]
fn an_answer_that_is_cut_off_is_not_one() {
    let largest = (MAX_LENGTH + 3).to_be_bytes();
    let cases: [(Dialect, &[u8]); 5] = [
        (Lite, b"VALUE k 10 \r\nhalf"),
        (RAW, b"VALUE k \0\0"),
        (RAW, b"VALUE k \0\0\0\x05 \r\nab"),
        (RAW, b"VALUE k \0\0\0\x05 \r\nab \r\n"),
        // Memory is found for what has come.
        (raw(8, IntOrder::Big), &[b"VALUE k ", &largest[..], b" \r\nx"].concat()),
    ];
    for (dialect, answer) in cases {
        let error = failure(dialect, answer);
        let ClientError::Io(why) = error else { panic!("{error:?}") };
        assert_eq!(why, "the server has closed the connection");
    }
}

#[test]
fn what_is_not_an_answer_is_unexpected() {
    let endless = |start: &[u8], byte| [start, &vec![byte; 1 << 20]].concat();
    let cases: [(Dialect, &[u8]); 15] = [
        // A line without an end costs no more memory than the longest line.
        (Lite, &endless(b"VALUE ", b'k')),
        (RAW, &endless(b"VALUE ", b'k')),
        (RAW, &endless(b"VALUE k \0\0\0\n", b'x')),
        (RAW, &endless(b"VALUE k \0\0\0\n", b' ')),
        (RAW, &endless(b"VALUE k ", b'\n')),
        // What is not a size, or too large a one.
        (RAW, b"VALUE k \0\0\0\x02 \r\n\r\nEND \r\n"),
        (RAW, b"VALUE k \xff\xff\xff\xff \r\nx"),
        (Lite, b"VALUE k 18446744073709551615 \r\nx"),
        (Lite, b"VALUE k x \r\nx\r\nEND\r\n"),
        // Another dialect's.
        (Lite, b"VALUE k 7 7\r\n1234567\r\nEND\r\n"),
        (RAW, b"VALUE k 12345 \r\n1234567\r\nEND\r\n"),
        // Something else, and no key.
        (Lite, b"VALUES k 2 \r\nab\r\nEND\r\n"),
        (RAW, b"VALUE  \0\0\0\x05 \r\nab \r\nEND \r\n"),
        // Something else than a line's end after the value.
        (Lite, b"VALUE k 2 \r\nabcdEND\r\n"),
        (RAW, b"VALUE k \0\0\0\x05 \r\nabc\r\nEND \r\n"),
    ];
    for (dialect, answer) in cases {
        let error = failure(dialect, answer);
        assert!(matches!(error, ClientError::Unexpected(_)), "{error:?}");
    }
}

/// Runs the client program with these arguments; its output and exit code.
fn program(server: &Server, arguments: &[&str]) -> (String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.env_remove("SERVER_HOST").env_remove("SERVER_PORT").timeout(REPLY_TIMEOUT);
    command.args(["--port", &server.addr.port().to_string()]).args(arguments);
    let output = command.output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).expect("text"), output.status.code().expect("a code"))
}

#[test]
fn the_client_program_speaks_every_dialect() {
    for dialect in [Dialect::Memcached, Lite, raw(2, IntOrder::Little)] {
        let data = TempDir::new();
        let server = start_on(&data, dialect);
        let options = arguments(dialect);
        let run = |words: &str| {
            let options = options.iter().map(String::as_str);
            let words: Vec<&str> = options.chain(words.split(' ')).collect();
            let (text, code) = program(&server, &words);
            (text.trim_end().to_owned(), code)
        };
        assert_eq!(run("get nothing"), ("KEY NOT FOUND".into(), 1));
        assert_eq!(run("set k 1234567"), ("STORED".into(), 0));
        assert_eq!(run("get k"), ("1234567".into(), 0));
        assert_eq!(run("--quote get k"), ("\"1234567\"".into(), 0));
        assert_eq!(run("flush").1, 0);
        assert_eq!(run("get k"), ("KEY NOT FOUND".into(), 1));
        if dialect != Dialect::Memcached {
            let why = "client: the dialect has no words for this";
            assert_eq!(run("delete k"), (why.into(), 2));
        }
    }
}

#[test]
fn every_request_of_a_dialect_is_traced() {
    let data = TempDir::new();
    let server = Server::start_on(data.path(), &["-vv", "--dialect", "raw"]);
    let mut stream: TcpStream = server.connect();
    stream.write_all(b"set k \0\0\0\x05 \r\nab \r\nget k\r\n").expect("sent");
    let line = server.wait_for_line("'set ", REPLY_TIMEOUT);
    let traced = r#"'set k \x00\x00\x00\x05 ' answered "STORED ", 9 bytes"#;
    assert!(line.contains(traced), "{line}");
    let line = server.wait_for_line("'get ", REPLY_TIMEOUT);
    let traced = r#"'get k' answered "VALUE k \x00\x00\x00\x05 ", 26 bytes"#;
    assert!(line.contains(traced), "{line}");
}

#[test]
fn the_interpreter_notices_an_answer_too_many_in_every_dialect() {
    let text = "> jump\n> jump\n< INVALID REQUEST";
    for (dialect, space) in [(Lite, ""), (RAW, "\\x20")] {
        let data = TempDir::new();
        let server = start_on(&data, dialect);
        let text = format!("{text}{space}\n");
        let wrong = replay(server.addr, &text, false).expect_err("too many");
        let why = "MAIN: should end, received \"INVALID REQUEST";
        assert!(wrong.contains(why), "{wrong}");
    }
}

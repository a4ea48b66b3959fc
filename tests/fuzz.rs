//! Noise over the wire, in all three dialects: random bytes, and the dialogues of
//! tests/wire with bytes flipped, pieces cut, repeated and mixed up, and numbers taken
//! to extremes, in random pieces. The server may answer them as it likes, or close. It
//! has to continue, and to keep a neighbour's data.
//!
//! A few seconds of it run with all other tests; `make fuzz` takes a number of seconds. A
//! failure says the seed of its round and what was sent: `make fuzz SEED=n`
//! begins with that round.

mod common;

use common::requests;
use common::stream::Ingredients;
use common::talk::*;
use common::{Server, TempDir};
use memcached_lite::driver::random::Random;
use memcached_lite::protocol::Request;
use memcached_lite::protocol::dialect::Dialect;
use memcached_lite::protocol::reply::Reply;
use memcached_lite::store::record::Format;
use memcached_lite::store::{Answer, Update};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Rounds with all other tests. With a time limit there are as many as there is time for.
const ROUNDS: u64 = 150;

/// Longer dialogues, in bytes, would leave little time for others.
const LONGEST: usize = 10_000;

/// More than the server may have in memory at any time, in kB.
const MEMORY: u64 = 64 << 10;

/// The neighbour's key. No dialogue has it.
const KEY: &str = "neighbour-of-noise";

#[test]
fn noise_hurts_nobody_in_the_dialect_memcached() {
    // The others want servers with options.
    let others = ["lite", "raw", "auth"];
    fuzz(Dialect::Memcached, "memcached", |name| {
        !others.iter().any(|topic| name.starts_with(topic))
    });
}

#[test]
fn noise_hurts_nobody_in_the_dialect_lite() {
    fuzz(Dialect::Lite, "lite", |name| name == "lite.txt");
}

#[test]
fn noise_hurts_nobody_in_the_dialect_raw() {
    fuzz(Dialect::Raw(Format::default()), "raw", |name| name == "raw.txt");
}

/// Has a server hear noise made of the dialogues in those files of tests/wire that are
/// `wanted`.
fn fuzz(dialect: Dialect, name: &str, wanted: impl Fn(&str) -> bool) {
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first = number("FUZZ_SEED").unwrap_or(1);
    let time = number("FUZZ_SECONDS").map(Duration::from_secs);
    let dialogues = dialogues(wanted);
    let data = TempDir::new();
    let options = ["--dialect", name, "-t", "2", "--sync", "every-second"];
    let server = Server::start_on(data.path(), &options);
    let neighbour = server.connect();
    let start = Instant::now();
    let (mut seed, mut last) = (first, store(&neighbour, dialect, &mut Random::new(0)));
    while time.map_or(seed - first < ROUNDS, |time| start.elapsed() < time) {
        let random = &mut Random::new(seed);
        let noise = noise(random, &dialogues);
        let round = || hear(&server, &neighbour, dialect, random, &noise);
        last = catch_unwind(AssertUnwindSafe(round)).unwrap_or_else(|_| {
            panic!("{name}, seed {seed}: {}", noise.escape_ascii());
        });
        seed += 1;
    }
    println!("{name}: {} rounds from seed {first}", seed - first);
    let most = memory(&server, "VmHWM");
    assert!(most < MEMORY, "{most} kB");
    assert_eq!(server.last_words(), "");
    // Its records can be read, and the last value is there.
    let server = Server::start_on(data.path(), &options);
    ask(server.connect(), format!("get {KEY}\r\n"), hit_in(dialect, &last));
    assert_eq!(server.last_words(), "");
}

/// What the dialogues send, in the order of their files.
fn dialogues(wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire");
    let entries = fs::read_dir(directory).expect("tests/wire");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| wanted(&path.file_name().expect("a name").to_string_lossy()));
    paths.sort();
    let texts = paths.iter().map(|path| fs::read_to_string(path).expect("text"));
    let mut dialogues: Vec<_> = texts.flat_map(|text| requests(&text)).collect();
    dialogues.retain(|bytes| bytes.len() <= LONGEST);
    assert!(dialogues.len() > 10, "only {} dialogues", dialogues.len());
    dialogues
}

/// One round: `noise` on a connection of its own, in pieces, with a neighbour beside it.
/// Returns the neighbour's value.
fn hear(
    server: &Server,
    neighbour: &TcpStream,
    dialect: Dialect,
    random: &mut Random,
    noise: &[u8],
) -> String {
    let stream = server.connect();
    thread::scope(|scope| {
        // One client reads all the time, another one when it has said everything.
        let reading = random.once_in(2).then(|| scope.spawn(|| rest(&stream)));
        let most = random.pick(&[1, 10, 100, LONGEST]);
        let mut left = noise;
        while !left.is_empty() {
            let (piece, others) = left.split_at(left.len().min(1 + random.below(most)));
            left = others;
            // The server may have enough of it before all is sent.
            if (&stream).write_all(piece).is_err() {
                break;
            }
            if random.once_in(50) {
                store(neighbour, dialect, random);
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
        // Either way the server closes, and then nothing is left to be executed.
        reading.map_or_else(|| rest(&stream), |thread| thread.join().unwrap());
    });
    // The noise may have asked for a flush later on. This one takes its place.
    tell(neighbour, dialect, &Request::FlushAll(0), &Reply::Ok);
    let value = store(neighbour, dialect, random);
    ask(neighbour, format!("get {KEY}\r\n"), hit_in(dialect, &value));
    value
}

/// Sets the neighbour's value to another one.
fn store(neighbour: &TcpStream, dialect: Dialect, random: &mut Random) -> String {
    let value = random.text(8);
    let (key, bytes) = (KEY.as_bytes(), value.as_bytes());
    let set = Request::Update(Update { key, value: bytes, ..Update::default() });
    tell(neighbour, dialect, &set, &Reply::Answer(Answer::Stored));
    value
}

fn tell(neighbour: &TcpStream, dialect: Dialect, request: &Request, reply: &Reply) {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    assert!(dialect.write_request(request, &mut asked));
    dialect.write_reply(reply, &mut answered);
    ask(neighbour, asked, answered);
}

/// What a get of the neighbour's value is answered with.
fn hit_in(dialect: Dialect, value: &str) -> Vec<u8> {
    let mut hit = Vec::new();
    dialect.write_value(&mut hit, KEY.as_bytes(), 0, None, value.as_bytes()).unwrap();
    dialect.write_reply(&Reply::End, &mut hit);
    hit
}

/// Random bytes, or dialogues to which something has happened.
fn noise(random: &mut Random, dialogues: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dialogues[random.below(dialogues.len())].clone();
    for _ in 0..random.between(1, 5) {
        let at = random.below(bytes.len() + 1);
        let end = random.between(at, bytes.len().min(at + 200));
        match random.below(6) {
            0 => random.spoil(&mut bytes),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let count = random.between(1, 50);
                let piece = bytes[at..end].repeat(count);
                bytes.splice(at..at, piece);
            }
            3 => {
                let other = &dialogues[random.below(dialogues.len())];
                let from = random.below(other.len());
                bytes.splice(at..end, other[from..].iter().copied());
            }
            4 => extreme(random, &mut bytes, at),
            _ => {
                let len = random.below(300);
                bytes.splice(at..end, random.bytes(len));
            }
        }
    }
    bytes
}

/// The first number after `at` becomes another one.
fn extreme(random: &mut Random, bytes: &mut Vec<u8>, at: usize) {
    let digits = |bytes: &[u8]| bytes.iter().position(|byte| !byte.is_ascii_digit());
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else { return };
    let start = at + start;
    let len = digits(&bytes[start..]).unwrap_or(bytes.len() - start);
    let number = match random.below(4) {
        0 => (1_u64 << random.below(64)).to_string(),
        1 => ((1_u64 << random.below(64)) - 1).to_string(),
        2 => format!("-{}", random.number()),
        _ => "9".repeat(random.between(1, 40)),
    };
    bytes.splice(start..start + len, number.into_bytes());
}

//! The example `bench`: what it prints and draws, and that it verifies every reply. How
//! fast anything is, no test says.

mod common;

// With the tests that are in them: those of an example, `cargo test` does not run.
#[path = "../examples/bench/chart.rs"]
#[allow(dead_code)]
mod chart;
#[path = "../examples/bench/echo.rs"]
#[allow(dead_code)]
mod echo;
#[path = "../examples/bench/items.rs"]
#[allow(dead_code)]
mod items;
#[path = "../examples/bench/target.rs"]
#[allow(dead_code)]
mod target;
#[path = "../examples/bench/zipf.rs"]
#[allow(dead_code)]
mod zipf;

use assert_cmd::Command;
use common::{Server, TempDir, example};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const COLUMNS: [&str; 13] = [
    "server", "mode", "conns", "ops/s", "p50", "p99", "p99.9", "max", "cpu", "user",
    "gen", "MiB", "+-%",
];

/// What a benchmark has left behind.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    /// Where it ran; its charts are below.
    directory: TempDir,
}

/// Runs the benchmark, and verifies that its temporary directory is empty again.
fn bench(args: &str) -> Run {
    let (directory, temporary) = (TempDir::new(), TempDir::new());
    let mut bench = Command::new(example("bench"));
    bench.args(args.split_whitespace());
    bench.current_dir(directory.path()).env("TMPDIR", temporary.path());
    // Meant for others: the benchmark's server must not take them for its own.
    bench.env("SERVER_HOST", "0.0.0.0").env("SERVER_PORT", "1");
    let output = bench.timeout(Duration::from_secs(60)).output().expect("it runs");
    let left = fs::read_dir(temporary.path()).expect("directory").count();
    assert_eq!(left, 0, "{args} leaves something in the temporary directory");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    Run { code: output.status.code(), stdout, stderr, directory }
}

impl Run {
    /// It has ended well.
    fn is_good(&self) {
        assert_eq!((self.code, &self.stderr[..]), (Some(0), ""), "{}", self.stdout);
    }

    /// Its rows after the header, in words.
    fn rows(&self) -> Vec<Vec<&str>> {
        self.is_good();
        // Where the machine is very busy, a latency may have more digits than its column.
        let is_usual = |line: &&str| !line.split(' ').any(|word| word.len() > 6);
        let mut usual = self.stdout.lines().filter(is_usual);
        let too_wide = usual.find(|line| line.len() > 100);
        assert_eq!(too_wide, None, "lines fit 100 columns");
        let mut lines = self.stdout.lines().skip_while(|l| !l.starts_with("server "));
        let header = lines.next().expect("a header").split_whitespace();
        assert_eq!(header.collect::<Vec<_>>(), COLUMNS);
        lines
            .take_while(|line| !line.starts_with("Chart: "))
            .map(|line| {
                let row: Vec<&str> = line.split_whitespace().collect();
                assert_eq!(row.len(), COLUMNS.len(), "{line}");
                for figure in &row[2..] {
                    let number: Option<f64> = figure.parse().ok();
                    assert!(*figure == "-" || number >= Some(0.0), "{line}");
                }
                let throughput: f64 = row[3].parse().expect("a number");
                let is_ratio = row[0].contains('/') || row[1].contains('/');
                assert!(is_ratio || throughput > 0.0, "{line}");
                row
            })
            .collect()
    }

    /// What names its rows: server, mode and connections.
    fn names(&self) -> Vec<String> {
        self.rows().iter().map(|row| row[..3].join(" ")).collect()
    }

    /// The files that it claims to have drawn.
    fn charts(&self) -> Vec<PathBuf> {
        let paths = self.stdout.lines().filter_map(|line| line.strip_prefix("Chart: "));
        paths.map(|path| self.directory.path().join(path)).collect()
    }
}

/// Whether what is opened in a document is closed, in order; its texts.
fn texts(svg: &str) -> BTreeSet<String> {
    let (mut open, mut texts) = (Vec::new(), BTreeSet::new());
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag ends");
        let name = tag.split(' ').next().expect("a name");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{svg}"),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        texts.insert(text.trim().to_owned());
    }
    assert_eq!(open, Vec::<&str>::new(), "{svg}");
    texts
}

#[test]
fn a_short_benchmark_prints_a_row_for_each_mode_and_draws_charts() {
    let run = bench("--seconds 0.1 --conns 2,4 --keys 50");
    let mut expected = Vec::new();
    for mode in ["set", "get", "mixed"] {
        expected.extend([2, 4].map(|conns| format!("memcached-lite {mode} {conns}")));
    }
    assert_eq!(run.names(), expected);
    for row in run.rows() {
        let latencies = [row[4], row[5], row[6], row[7]];
        let latencies =
            latencies.map(|figure| figure.parse::<f64>().expect("a number"));
        assert!(latencies.is_sorted(), "{row:?}");
    }
    let charts = run.charts();
    assert!(charts.len() >= 3, "{}", run.stdout);
    for chart in &charts {
        let svg = fs::read_to_string(chart).expect("a chart");
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" "), "{svg}");
        assert!(svg.contains("@media(prefers-color-scheme:dark)"), "{svg}");
        let texts = texts(&svg);
        for mode in ["set", "get", "mixed"] {
            let text = format!("memcached-lite, {mode}");
            assert!(texts.contains(&text), "{text}: {svg}");
        }
        assert!(texts.contains("connections"), "{svg}");
    }
}

#[test]
fn the_default_is_a_sweep_of_modes_and_connections() {
    let run = bench("--seconds 0.01 --keys 50");
    let mut expected = Vec::new();
    for mode in ["set", "get", "mixed"] {
        expected.extend((1..=8).map(|n| format!("memcached-lite {mode} {}", n * 50)));
    }
    assert_eq!(run.names(), expected);
}

#[test]
fn the_table_states_what_it_depends_on() {
    for (args, text) in [
        ("", "--sync every-second, 2 threads. 5 keys of 10 bytes, values of 50."),
        ("-- --sync always --threads 3", "--sync always, 3 threads. "),
        ("--noreply 0.5 --pipeline 4 --seed 9", "Sets with noreply: 0.5. "),
        ("--pipeline 4", "Requests to a batch: 4. 0.01 s a run, medians of 1, "),
        ("--pairs 2", " 0.01 s a run, medians of 2, +-% of ops/s. Seed 1."),
    ] {
        let run = bench(&format!("--seconds 0.01 --conns 2 --set 1 --keys 5 {args}"));
        run.is_good();
        assert!(run.stdout.contains(text), "{args}: {}", run.stdout);
    }
}

#[test]
fn one_number_of_connections_is_no_chart() {
    let run = bench("--seconds 0.01 --conns 2 --keys 50");
    run.is_good();
    assert_eq!(run.charts(), Vec::<PathBuf>::new());
    assert!(!run.directory.path().join("target").exists());
}

#[test]
fn servers_and_an_echo_are_compared_under_every_load() {
    let other = Server::start(&[]);
    let run = bench(&format!(
        "--seconds 0.05 --pairs 2 --conns 1,3 --set 0.5 --noreply 0.5 --pipeline 4 \
         --keys 50 --echo --append --against {} -- --sync always",
        other.addr
    ));
    let servers = ["memcached-lite", "memcached", "echo", "append"];
    let ratios = ["/memcached", "/echo", "/append"];
    let servers: Vec<&str> = servers.into_iter().chain(ratios).collect();
    let expected =
        [1, 3].map(|conns| servers.iter().map(move |it| format!("{it} mixed {conns}")));
    assert_eq!(run.names(), expected.into_iter().flatten().collect::<Vec<_>>());
    for chart in run.charts() {
        let texts = texts(&fs::read_to_string(chart).expect("a chart"));
        for text in ["memcached-lite, mixed", "memcached, mixed", "echo, mixed"] {
            assert!(texts.contains(text), "{text}: {texts:?}");
        }
    }
}

#[test]
fn the_scatter_takes_a_few_pairs() {
    for (pairs, is_known) in [(2, false), (4, true)] {
        let run = bench(&format!("--seconds 0.02 --conns 2 --set 1 --pairs {pairs}"));
        assert_eq!(run.rows()[0][12] != "-", is_known, "{}", run.stdout);
    }
}

#[test]
fn every_run_is_a_line_of_the_csv() {
    let directory = TempDir::new();
    let file = directory.path().join("figures.csv");
    let args = "--seconds 0.02 --conns 1,2 --set 1 --pairs 3 --echo --csv";
    bench(&format!("{args} {}", file.display())).is_good();
    let csv = fs::read_to_string(&file).expect("a file");
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let mut header = vec!["server", "sync", "mode", "conns", "pair"];
    header.extend(&COLUMNS[3..12]);
    assert_eq!(rows.next(), Some(header));
    let mut names = Vec::new();
    for row in rows {
        assert!(row[5].parse::<f64>().expect("a number") > 0.0, "{csv}");
        names.push(row[..5].join(" "));
    }
    let servers = ["memcached-lite", "echo"];
    let runs = |conns| {
        servers.map(|it| {
            [0, 1, 2].map(|pair| format!("{it} every-second set {conns} {pair}"))
        })
    };
    assert_eq!(names, [runs(1), runs(2)].concat().concat());
}

/// How often each connection of a load has set each key.
fn keys_set(args: &str) -> Vec<HashMap<String, usize>> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = seen.clone();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            all.lock().unwrap().push(HashMap::new());
            let all = all.clone();
            thread::spawn(move || {
                let mut output = stream.try_clone().expect("a socket");
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let words: Vec<&str> = line.split(' ').collect();
                    let reply = match words[..] {
                        ["flush_all"] => "OK\r\n",
                        ["stats"] => "END\r\n",
                        ["set", key, ..] => {
                            let keys: &mut HashMap<_, _> =
                                &mut all.lock().unwrap()[number];
                            *keys.entry(key.to_owned()).or_insert(0) += 1;
                            "STORED\r\n"
                        }
                        // A value.
                        _ => continue,
                    };
                    output.write_all(reply.as_bytes()).expect("it is read");
                }
            });
        }
    });
    bench(&format!("--seconds 0.1 --pairs 1 --set 1 {args} --against {address}"))
        .is_good();
    // The first shows who it is, the second stores all keys.
    seen.lock().unwrap().split_off(2)
}

#[test]
fn connections_may_have_keys_of_their_own() {
    let connections = keys_set("--conns 3 --keys 10 --own-keys");
    assert_eq!(connections.len(), 3);
    let keys: Vec<&String> = connections.iter().flat_map(HashMap::keys).collect();
    let different: BTreeSet<&&String> = keys.iter().collect();
    assert_eq!(keys.len(), different.len(), "{connections:?}");
    assert_eq!(keys.len(), 10, "all are requested");
}

#[test]
fn keys_may_be_skewed() {
    let [counts] = &keys_set("--conns 1 --keys 100 --key 2 --zipf 1")[..] else {
        panic!("one connection");
    };
    // By the law, five times as often.
    assert!(counts["00"] > 2 * counts["04"], "{counts:?}");
    assert!(counts["04"] > counts.get("60").copied().unwrap_or(0), "{counts:?}");
}

#[test]
fn two_caches_of_the_same_size_are_compared_by_their_hits() {
    // It stands for a memcached, and keeps about 1000 of the keys.
    let other = Server::start(&["--key-size", "10", "--data-limit", "1100k"]);
    let run = bench(&format!(
        "--cache --zipf 0.99 --keys 3000 --value 1000 --conns 2 --seconds 0.3 --pairs 2 \
         --against {} -- --key-size 10",
        other.addr
    ));
    run.is_good();
    assert!(run.stdout.starts_with("3000 keys, 0.3 s a row."), "{}", run.stdout);
    let lines = run.stdout.lines().skip_while(|line| !line.starts_with("server "));
    let rows: Vec<Vec<&str>> = lines
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names, ["memcached-lite", "memcached", "memcached", "memcached-lite"]);
    for row in &rows {
        let figures: Vec<f64> =
            row[1..].iter().map(|it| it.parse().expect("a number")).collect();
        let [gets, hits, items, bytes] = figures[..] else { panic!("{row:?}") };
        assert!(gets > 0.0 && 10.0 < hits && hits < 100.0, "{row:?}");
        assert!(0.0 < items && items < 3000.0 && bytes == items * 1010.0, "{row:?}");
    }
    // Of two rows, the later one.
    for (name, row) in [("memcached-lite", &rows[3]), ("memcached", &rows[2])] {
        let median = format!("{name:<14} median of the last 1 rows: {}\n", row[2]);
        assert!(run.stdout.contains(&median), "{}", run.stdout);
    }
    let texts = texts(&fs::read_to_string(&run.charts()[0]).expect("a chart"));
    assert!(texts.contains("gets that hit, in percent"), "{texts:?}");
    assert!(texts.contains("memcached") && texts.contains("memcached-lite"));
}

#[test]
fn a_connection_for_each_request_is_compared_with_kept_ones() {
    let run = bench("--seconds 0.05 --pairs 1 --conns 2 --set 0 --reconnect --echo");
    let expected = [
        "memcached-lite get 2",
        "memcached-lite get-reconnect 2",
        "echo get 2",
        "echo get-reconnect 2",
        "memcached-lite get/reconnect 2",
        "/echo get 2",
        "/echo get-reconnect 2",
        "echo get/reconnect 2",
    ];
    assert_eq!(run.names(), expected);
}

#[test]
fn a_load_amid_slow_clients_is_compared_with_one_without() {
    let other = Server::start(&[]);
    let run = bench(&format!(
        "--seconds 0.2 --pairs 1 --conns 2 --set 0.5 --slow-clients 20 --against {}",
        other.addr
    ));
    let expected = [
        "memcached-lite mixed 2",
        "memcached-lite mixed-slow 2",
        "memcached mixed 2",
        "memcached mixed-slow 2",
        "memcached-lite mixed/slow 2",
        "/memcached mixed 2",
        "/memcached mixed-slow 2",
        "memcached mixed/slow 2",
    ];
    assert_eq!(run.names(), expected);
    // For each that does not read, the server holds a few replies of 100,000 bytes.
    if cfg!(target_os = "linux") {
        let memory = |row: usize| run.rows()[row][11].parse::<f64>().expect("a number");
        assert!(memory(1) > memory(0) + 2.0, "{}", run.stdout);
    }
}

#[test]
fn slow_clients_that_are_disconnected_are_no_result() {
    let run = bench(
        "--seconds 2.5 --conns 2 --slow-clients 5 --set 0 -- --request-timeout 0.1",
    );
    let start = "bench: memcached-lite, 127.0.0.1:";
    assert!(run.stderr.starts_with(start), "{}", run.stderr);
    assert!(
        run.stderr.contains(": slow clients were disconnected: "),
        "{}",
        run.stderr
    );
    assert_eq!((run.stderr.lines().count(), run.code), (1, Some(1)));
}

#[test]
fn values_larger_than_any_buffer_come_through_in_batches() {
    let run = bench(
        "--seconds 0.05 --pairs 1 --conns 2 --set 0.5 --noreply 0.5 --pipeline 8 \
         --keys 4 --value 1000000 --echo",
    );
    let expected = ["memcached-lite mixed 2", "echo mixed 2", "/echo mixed 2"];
    assert_eq!(run.names(), expected);
}

/// Answers as a Redis does.
fn answer_as_redis(
    stream: TcpStream,
    values: &Mutex<HashMap<String, String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut next = || lines.next().unwrap_or(Ok(String::new()));
    loop {
        let line = next()?;
        // The lengths are ignored: no key or value here has a line end in it.
        let reply = match &line[..] {
            "CONFIG SET appendonly yes" | "CONFIG SET appendfsync always" => {
                "+OK\r\n".to_owned()
            }
            "FLUSHALL" => "+OK\r\n".to_owned(),
            "INFO server" => "$8\r\n# Server\r\n\r\n".to_owned(),
            "*3" => {
                let words: Vec<String> =
                    (0..6).map(|_| next()).collect::<Result<_, _>>()?;
                values.lock().unwrap().insert(words[3].clone(), words[5].clone());
                "+OK\r\n".to_owned()
            }
            "*2" => {
                let words: Vec<String> =
                    (0..4).map(|_| next()).collect::<Result<_, _>>()?;
                let value = values.lock().unwrap()[&words[3]].clone();
                format!("${}\r\n{value}\r\n", value.len())
            }
            _ => return Ok(()),
        };
        (&stream).write_all(reply.as_bytes())?;
    }
}

#[test]
fn a_redis_is_measured_in_its_own_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let values = Arc::new(Mutex::new(HashMap::new()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let values = values.clone();
            thread::spawn(move || answer_as_redis(stream, &values));
        }
    });
    let run = bench(&format!(
        "--seconds 0.05 --pairs 2 --conns 2 --set 0.5 --pipeline 4 --keys 50 --redis \
         {address} -- --sync always"
    ));
    let servers = ["memcached-lite", "Redis", "/Redis"];
    assert_eq!(run.names(), servers.map(|name| format!("{name} mixed 2")));
    let other = Server::start(&[]);
    let run = bench(&format!("--keys 5 --conns 1 --redis {}", other.addr));
    let why = format!("bench: {} does not answer like Redis\n", other.addr);
    assert_eq!((run.code, run.stderr), (Some(1), why));
}

/// What a get of this key is answered with.
type Value = fn(&str) -> String;

/// Answers as a memcached does, but for a get.
fn answer(stream: TcpStream, value: Value) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let reply = match words[..] {
            ["flush_all", ..] => "OK\r\n".to_owned(),
            ["stats"] => "END\r\n".to_owned(),
            ["get", key] => value(key),
            ["set", ..] => {
                input.read_line(&mut String::new())?;
                "STORED\r\n".to_owned()
            }
            _ => "ERROR\r\n".to_owned(),
        };
        input.get_mut().write_all(reply.as_bytes())?;
        line.clear();
    }
    Ok(())
}

#[test]
fn a_wrong_reply_ends_the_benchmark() {
    let cases: [(Value, &str); 3] = [
        (
            |key| format!("VALUE {key} 0 8\r\nwrong...\r\nEND\r\n"),
            "wrong reply: \"VALUE ",
        ),
        (|_| "END\r\n".to_owned(), "wrong reply: \"END\\r\\n\" should be \"VALUE "),
        (
            |_| "SERVER_ERROR no\r\n".to_owned(),
            "wrong reply: \"SERVER_ERROR no\\r\\n\" ",
        ),
    ];
    for (value, why) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream, value));
            }
        });
        let run = bench(&format!(
            "--seconds 0.01 --pairs 1 --conns 2 --set 0 --value 8 --keys 5 --against \
             {address}"
        ));
        let start = format!("bench: memcached, {address}: {why}");
        assert!(run.stderr.starts_with(&start), "{}", run.stderr);
        assert_eq!((run.stderr.lines().count(), run.code), (1, Some(1)));
        assert!(run.charts().is_empty(), "{}", run.stdout);
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    // Nobody listens at a port that has just been given back.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let run = bench(&format!("--seconds 0.01 --conns 1 --keys 5 --against {address}"));
    let start = format!("bench: can't connect to {address}: ");
    assert!(run.stderr.starts_with(&start), "{}", run.stderr);
    assert_eq!((run.stderr.lines().count(), run.code), (1, Some(1)));
}

#[test]
fn peers_that_are_not_installed_are_named_with_the_way_to_get_them() {
    for option in ["--peers", "--cache"] {
        let directory = TempDir::new();
        let mut bench = Command::new(example("bench"));
        bench.arg(option).env("PATH", "").env("TMPDIR", directory.path());
        let output = bench.output().expect("it runs");
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert!(stderr.starts_with("bench: memcached: "), "{stderr}");
        assert!(
            stderr.contains("; `apt-get install memcached redis-server` "),
            "{stderr}"
        );
        assert_eq!((stderr.lines().count(), output.status.code()), (1, Some(1)));
    }
}

#[test]
fn options_that_make_no_sense_are_rejected_in_one_line() {
    for (args, why) in [
        ("--conns 0", "--conns takes numbers from 1 to 50000, not 0"),
        ("--conns 50,x", "--conns takes numbers from 1 to 50000, not x"),
        ("--conns 50,", "--conns takes numbers from 1 to 50000, not "),
        ("--set 1.1", "--set takes a number from 0 to 1, not 1.1"),
        ("--set NaN", "--set takes a number from 0 to 1, not NaN"),
        ("--noreply 1", "--noreply takes a number from 0 to 0.9, not 1"),
        ("--pipeline 0", "--pipeline takes a number from 1 to 10000, not 0"),
        ("--value 1m", "--value takes a number from 0 to 1048576, not 1m"),
        ("--key 251", "--key takes a number from 1 to 250, not 251"),
        ("--key 2 --keys 101", "--keys 101 are too many for --key 2"),
        ("--keys 0", "--keys takes a number from 1 to 10000000, not 0"),
        ("--seconds 0", "--seconds takes more than 0 seconds"),
        ("--pairs 0", "--pairs takes a number from 1 to 1000, not 0"),
        ("--against 11211", "--against takes HOST:PORT, not 11211"),
        ("--redis 6379", "--redis takes HOST:PORT, not 6379"),
        ("--redis h:1 --noreply 0.5", "--redis takes no --reconnect and no --noreply"),
        ("--reconnect --pipeline 2", "--reconnect takes no --pipeline and no "),
        ("--reconnect --noreply 0.5", "--reconnect takes no --pipeline and no "),
        ("--slow-clients 0", "--slow-clients takes a number from 1 to 10000, not 0"),
        ("--slow-clients 5 --redis h:1", "--slow-clients takes no --redis, no "),
        (
            "--slow-clients 5 --append",
            "--slow-clients takes no --redis, no --echo and ",
        ),
        ("--zipf 5.1", "--zipf takes a number from 0 to 5, not 5.1"),
        (
            "--conns 9 --keys 8 --own-keys",
            "--own-keys takes at least one of the --keys ",
        ),
        ("--peers --conns 9", "--peers takes --pairs and --seconds, not --conns"),
        ("--cache --set 0.5", "--cache takes no --set"),
        ("--cache --pairs 2 --echo", "--cache takes no --echo"),
        ("-- --sink", "unknown option --sink; see server --help"),
        ("-- always", "unexpected argument always; see server --help"),
    ] {
        let run = bench(args);
        let start = format!("bench: {why}");
        assert!(run.stderr.starts_with(&start), "{args}: {}", run.stderr);
        assert_eq!((run.stderr.lines().count(), run.code), (1, Some(2)), "{args}");
        assert_eq!(run.stdout, "", "{args}");
    }
}

#[test]
fn a_server_that_does_not_start_is_no_result() {
    let run = bench("--conns 1 -- --sync no");
    let expected = "server: --sync takes always or every-second, not no\n\
                    bench: the server did not start\n";
    assert_eq!((run.code, &run.stderr[..]), (Some(1), expected));
}

#[test]
fn the_help_describes_every_column() {
    let run = bench("--help");
    run.is_good();
    for column in ["ops/s", "+-%", "p50 to max", "cpu, user", "gen", "MiB"] {
        assert!(run.stdout.contains(&format!("\n  {column}  ")), "{column}");
    }
}

#[test]
fn nobody_has_to_read_what_it_prints() {
    let (directory, temporary) = (TempDir::new(), TempDir::new());
    let mut bench = process::Command::new(example("bench"));
    bench.args(["--seconds", "0.01", "--conns", "1", "--keys", "5"]);
    bench.current_dir(directory.path()).env("TMPDIR", temporary.path());
    let mut child = bench.stdout(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

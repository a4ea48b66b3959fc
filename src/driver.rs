//! Scenarios: starts servers and clients as real processes, shows who said what, and checks
//! it. A scenario is a script, text that a person can read, change and write without Rust:
//! `driver --script FILE` plays one, as `driver --test NUM` plays one of those in
//! `driver/scenarios`.
//!
//! A script has *scenes*, and each is played on a stage of its own: an empty directory, a
//! server, and whoever else takes part. What must come is written beside what is sent. A
//! verdict is one line: how many replies were as expected, or which one was not, who got
//! it, and what should have come.
//!
//! | file | what it has |
//! |---|---|
//! | `driver/text.rs` | the bytes in a line of a script |
//! | `driver/actor.rs` | a connection, or a process, that takes part |
//! | `driver/stage.rs` | the server, and all others that take part in a scene |
//! | `driver/script.rs` | the language, and its parser |
//! | `driver/play.rs` | the interpreter |
//! | `driver/random.rs` | random numbers that can be repeated |
//!
//! Left out: a network between the processes, and faults of the disk; see
//! `tests/recovery.rs` for those.

mod actor;
mod play;
pub mod random;
pub mod script;
mod stage;
pub mod text;

pub use crate::driver::stage::Options;

use crate::args::{self, Args};
use crate::driver::random::Random;
use crate::driver::script::{Act, Scene};
use crate::driver::stage::Stage;
use crate::{os, print};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// The scripts of the scenarios, in order.
pub const SCENARIOS: [&str; 19] = [
    include_str!("driver/scenarios/01-three-clients.txt"),
    include_str!("driver/scenarios/02-dozens-of-requests.txt"),
    include_str!("driver/scenarios/03-long-keys.txt"),
    include_str!("driver/scenarios/04-looks-malformed.txt"),
    include_str!("driver/scenarios/05-two-clients.txt"),
    include_str!("driver/scenarios/06-random-keys.txt"),
    include_str!("driver/scenarios/07-persistence.txt"),
    include_str!("driver/scenarios/08-stalled-clients.txt"),
    include_str!("driver/scenarios/09-large-values.txt"),
    include_str!("driver/scenarios/10-flags-expiry-noreply.txt"),
    include_str!("driver/scenarios/11-few-keys.txt"),
    include_str!("driver/scenarios/12-many-values.txt"),
    include_str!("driver/scenarios/13-missing-keys.txt"),
    include_str!("driver/scenarios/14-clear-everything.txt"),
    include_str!("driver/scenarios/15-comings-and-goings.txt"),
    include_str!("driver/scenarios/16-one-at-a-time.txt"),
    include_str!("driver/scenarios/17-malformed-requests.txt"),
    include_str!("driver/scenarios/18-dialects.txt"),
    include_str!("driver/scenarios/19-thundering-herd.txt"),
];

/// Plays a script called `name`, and returns what did not hold: the line, the scene, and what
/// was expected and received there; `None` if no scene could be played. The error is about a
/// script that can't be understood.
pub fn play(
    name: &str,
    script: &str,
    options: &Options,
) -> Result<Option<Vec<String>>, String> {
    let show = |line: String| options.is_shown.then(|| print(&line));
    let scenes = script::parse(name, script, options)?;
    let begun = Instant::now();
    let (mut played, mut replies, mut clients) = (0, 0, 0);
    let mut failures = Vec::new();
    show(format!("Beginning {name}"));
    // All are played, also after one that fails.
    for scene in scenes {
        let title = &scene.title;
        if let Some(needs) = needs(&scene, options) {
            show(format!("{name}: skipped: {title}: it needs {needs}"));
            continue;
        }
        let stage = Stage::new(options).map_err(|why| (0, why));
        let result = stage.and_then(|mut stage| {
            let result = play::play(&mut stage, &scene);
            (replies, clients) = (replies + stage.replies, clients + stage.clients);
            result
        });
        played += 1;
        if let Err((line, why)) = result {
            failures.push(format!("line {line}, {title}: {why}"));
        }
    }
    for failure in &failures {
        show(format!("{name}: FAILED: {failure}"));
    }
    if failures.is_empty() && played > 0 {
        let s = if clients == 1 { "" } else { "s" };
        let seconds = begun.elapsed().as_secs_f64();
        show(format!(
            "{name}: ok: {replies} replies as expected, {clients} client{s}, {seconds:.1} s"
        ));
    }
    Ok((played > 0).then_some(failures))
}

/// What a scene needs that the server in the place of ours may not have.
fn needs(scene: &Scene, options: &Options) -> Option<String> {
    let is_foreign = options.against.is_some() || options.server.is_some();
    let starts = scene.steps.iter().filter_map(|(_, step)| match &step.act {
        Act::Start(options) if step.actor == "server" => Some(options.join(" ")),
        Act::Word("killed") if step.actor == "server" => Some(String::new()),
        _ => None,
    });
    let starts: Vec<String> = starts.collect();
    match starts.iter().find(|options| !options.is_empty()) {
        _ if scene.is_ours && options.skip_ours => Some("to be ours".into()),
        Some(options) if is_foreign => Some(format!("a server with {options}")),
        _ if options.against.is_some() && starts.len() > 1 => {
            Some("a server that can be started again".into())
        }
        _ => None,
    }
}

/// The help of `driver`.
pub const HELP: &str = include_str!("driver/help.txt");

/// `driver`: exits with 0 if all was as it should be, else 1.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter().peekable();
    // What it starts itself as: cargo may have built no other program.
    match words.peek() {
        Some(word) if word == "server" => return args::server(words.skip(1)),
        Some(word) if word == "client" => return args::client(words.skip(1)),
        _ => {}
    }
    args::program("driver", HELP, words, |args| {
        args.no_words()?;
        if args.has("list") {
            for (number, script) in (1..).zip(SCENARIOS) {
                let title = script.lines().find_map(|line| line.strip_prefix("== "));
                print(&format!("{number:>3}  {}", title.unwrap_or_default()));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let options = options(&args)?;
        let mut results = [("ok", Vec::new()), ("failed", vec![]), ("skipped", vec![])];
        for (name, script) in chosen(&args)? {
            if script.contains("{r}") {
                print(&format!("Seed: --seed {}", options.seed));
            }
            let result = match play(&name, &script, &options)? {
                None => 2,
                Some(failures) => usize::from(!failures.is_empty()),
            };
            results[result].1.push(name.trim_start_matches("test ").to_owned());
        }
        if args.has("all") {
            let some = |(what, numbers): &(&str, Vec<String>)| match numbers.len() {
                count if *what == "ok" => format!(" {count} ok"),
                0 => String::new(),
                count => format!(", {count} {what} ({})", numbers.join(", ")),
            };
            let results = results.each_ref().map(some).concat();
            print(&format!("{} scenarios:{results}", SCENARIOS.len()));
        }
        Ok(ExitCode::from(u8::from(!results[1].1.is_empty())))
    })
}

/// The scripts that are to be played, with the names that verdicts have.
fn chosen(args: &Args) -> Result<Vec<(String, String)>, String> {
    if let Some(path) = args.text("script") {
        let script = fs::read_to_string(path);
        let script = script.map_err(|error| format!("can't read {path}: {error}"))?;
        return Ok(vec![(path.into(), script)]);
    }
    let number = match args.number("test", 1..=SCENARIOS.len())? {
        None if args.has("clients") => Some(6),
        number => number,
    };
    let all = (1..).zip(SCENARIOS);
    let chosen: Vec<_> = all
        .filter(|(it, _)| args.has("all") || Some(*it) == number)
        .map(|(number, script)| (format!("test {number}"), script.to_owned()))
        .collect();
    if chosen.is_empty() {
        let why = "give --test NUM, --all, --clients NUM or --script FILE";
        return Err(why.into());
    }
    Ok(chosen)
}

/// How they are played.
fn options(args: &Args) -> Result<Options, String> {
    let against = args.text("against").map(str::to_owned).or(args.socket());
    let server = args.text("server").map(PathBuf::from);
    let clients: usize = args.number("clients", 1..=100_000)?.unwrap_or(10);
    // A socket for each, and what the driver itself has.
    let wanted = clients + 64;
    os::raise_descriptor_limit(wanted as u64).map_err(|possible| {
        format!(
            "{clients} clients need {wanted} open files and the system allows {possible}; \
             raise it with `ulimit -Hn {wanted}`, or use fewer --clients"
        )
    })?;
    Ok(Options {
        seed: args.number("seed", 0..=u64::MAX)?.unwrap_or_else(Random::seed),
        clients,
        skip_ours: against.is_some() || server.is_some(),
        against,
        server,
        is_shown: true,
    })
}

//! The three programs, as functions of their arguments: what the binaries are, and
//! what the driver starts itself as.

use crate::args::{self, Args, Parsed, Spec, Task};
use crate::auth::Credentials;
use crate::bench;
use crate::check::check;
use crate::complain;
use crate::disk::Directory;
use crate::driver;
use crate::log::SyncMode;
use crate::os::{self, unix_now};
use crate::protocol::Verb;
use crate::repair::repair;
use crate::replay::{self, OpenError, Settings};
use crate::say;
use crate::server::{Server, StartError};
use crate::shell::Shell;
use crate::store::{self, Figures, Store};
use crate::syntax;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;

/// What the three have in common: exits with 2 for usage, and with 1 if it can't run.
fn program(
    name: &'static str,
    usage: &str,
    specs: &'static [Spec],
    args: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(Args) -> Result<ExitCode, StartError>,
) -> ExitCode {
    let result = match args::parse(name, usage, specs, args) {
        Ok(Parsed::Run(args)) => run(args),
        Ok(Parsed::Print(text)) => {
            say(&text);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(StartError::Usage(error)),
    };
    result.unwrap_or_else(|error| {
        complain(&format!("{name}: {error}"));
        match error {
            StartError::Usage(_) => ExitCode::from(args::EXIT_USAGE),
            StartError::Failed(_) => ExitCode::FAILURE,
        }
    })
}

/// `server`: exits with 0 after `--idle-exit` or a task, with 1 after a check that has
/// found damage.
pub fn server(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    program("server", "server [OPTION]...", args::SERVER, args, |args| {
        let task = args::server_task(&args).map_err(StartError::Usage)?;
        let options = args::server_options(&args).map_err(StartError::Usage)?;
        os::outlive_file_size_limit();
        if let Some(task) = task {
            return perform(task, &options.data, &options.store.settings).map_err(
                |error| {
                    let data = options.data.display();
                    let line = format!("can't use the data directory {data}: {error}");
                    StartError::Failed(line)
                },
            );
        }
        let server = Server::bind(options)?;
        say(&format!("Server: Listening on {}...", server.address()));
        server.run().map_err(|error| StartError::Failed(error.to_string()))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What a server does to its data instead of serving them.
fn perform(
    task: Task,
    data: &Path,
    settings: &Settings,
) -> Result<ExitCode, Box<dyn Error>> {
    let directory = match task {
        Task::Check => Directory::read_only(data),
        _ => Directory::new(data),
    };
    // Asked before the lock: no file is made where there are none of ours.
    if replay::numbers(&directory)?.is_empty() {
        return Err(OpenError::Empty("there is no data file in it".into()).into());
    }
    if let Task::Compact = task {
        // In `every-second` there is no room to leave behind the records; what is moved
        // is synced all the same.
        let options = store::Options {
            settings: *settings,
            sync: SyncMode::EverySecond,
            ..store::Options::default()
        };
        let (store, torn) = Store::open(data, &options, unix_now())?;
        if let Some(torn) = torn {
            complain(&format!("server: {torn}"));
        }
        let before = store.figures();
        store.compact_once(&unix_now)?;
        let Figures { items, log_bytes, .. } = store.figures();
        let had = before.log_bytes;
        say(&format!("{had} bytes before, {log_bytes} now, with {items} items"));
        return Ok(ExitCode::SUCCESS);
    }
    let _owner = directory.lock()?.map_err(OpenError::Locked)?;
    if let Task::Check = task {
        let checkup = check(&directory, settings, unix_now())?;
        say(&checkup.to_string());
        return Ok(ExitCode::from(u8::from(!checkup.findings.is_sound())));
    }
    match repair(&directory, settings)? {
        Some(repaired) => say(&repaired.to_string()),
        None => say("there is nothing to repair"),
    }
    Ok(ExitCode::SUCCESS)
}

/// `client`: exits with what [`Outcome`](crate::shell::Outcome) says.
pub fn client(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let usage = format!("client [OPTION]... [COMMAND]\n\n{}", syntax::help());
    program("client", &usage, args::CLIENT, args, |args| {
        let mut shell = make_shell(&args).map_err(StartError::Usage)?;
        let mut words: Vec<_> =
            args.words.into_iter().map(OsString::into_vec).collect();
        if let [verb, _, .., value] = &mut words[..]
            && Verb::named(verb).is_some()
            && value == b"-"
        {
            value.clear();
            io::stdin().read_to_end(value).map_err(|error| {
                StartError::Usage(format!("can't read the value: {error}"))
            })?;
        }
        let outcome = match words.is_empty() {
            true => shell.run_lines(io::stdin().lock()),
            false => shell.run(&words),
        };
        Ok(ExitCode::from(outcome as u8))
    })
}

fn make_shell(args: &Args) -> Result<Shell<io::Stdout, io::Stderr>, String> {
    let quote = args.has("quote");
    let mut options = args::client_options(args)?;
    if let Some(path) = args.text("auth-file") {
        options.login = Some(Credentials::read(path.as_ref())?.into_first());
    }
    Ok(Shell {
        options,
        flags: args.number("flags", 0..=u32::MAX)?.unwrap_or(0),
        exptime: args.number("exptime", i64::MIN..=i64::MAX)?.unwrap_or(0),
        quote,
        timed: args.verbosity > 0,
        // A program that reads quoted replies would take a prompt for one.
        prompt: args.words.is_empty() && !quote && io::stdin().is_terminal(),
        terminal: io::stdout().is_terminal(),
        out: io::stdout(),
        err: io::stderr(),
        client: None,
    })
}

/// `driver`: exits with 0 if all was as it should be, else 1.
pub fn driver(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    // What it starts itself as.
    match args.peek() {
        Some(word) if word == "server" => return server(args.skip(1)),
        Some(word) if word == "client" => return client(args.skip(1)),
        Some(word) if word == "echo" => return echo(args.skip(1)),
        _ => {}
    }
    let usage = "driver --list | --test NUM | --all | --clients NUM  [OPTION]...\n       \
                 driver --bench  [OPTION]... [-- SERVER-OPTION...]";
    program("driver", usage, args::DRIVER, args, |args| {
        if args.has("list") {
            for scenario in &driver::SCENARIOS {
                say(&format!("{:>3}  {}", scenario.number, scenario.title));
            }
            return Ok(ExitCode::SUCCESS);
        }
        if args.has("bench") {
            let options = args::bench_options(&args).map_err(StartError::Usage)?;
            bench::run(&options).map_err(StartError::Failed)?;
            return Ok(ExitCode::SUCCESS);
        }
        let scenarios = chosen_scenarios(&args).map_err(StartError::Usage)?;
        let options = args::driver_options(&args).map_err(StartError::Usage)?;
        // All are played, also after one that fails.
        let played = scenarios.iter().map(|scenario| driver::run(scenario, &options));
        let failed = played.filter(|is_ok| !is_ok).count();
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// `driver echo`: exits with 0 when its standard input ends.
fn echo(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    program("echo", "driver echo [OPTION]...", args::ECHO, args, |args| {
        let (items, threads) = args::echo_options(&args).map_err(StartError::Usage)?;
        let served = bench::echo::serve(&items, threads);
        served.map_err(|error| StartError::Failed(error.to_string()))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn chosen_scenarios(args: &Args) -> Result<&'static [driver::Scenario], String> {
    args.no_words()?;
    let all = &driver::SCENARIOS;
    if args.has("all") {
        return Ok(all);
    }
    let number = match args.number("test", 1..=all.len())? {
        None if args.has("clients") => Some(6),
        number => number,
    };
    let number = number.ok_or(
        "what is to be run? --test NUM, --all, --clients NUM, --bench or --list",
    )?;
    Ok(&all[number - 1..number])
}

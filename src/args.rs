//! The command lines of the programs.
//!
//! The help text of a program is the table that its command line is parsed by: a line
//! that begins with a dash is an option, with its names, the name of its value, and what
//! it is for. So no option can be missing in `--help`, and none can be listed and unknown.
//!
//! ```text
//!   -p, --port NUM             port, 0 for any free one [11211]
//!   |     |    |               |
//!   short long value           the rest is for people
//! ```
//!
//! | on the command line | means |
//! |---|---|
//! | `--port 7`, `--port=7`, `-p 7`, `-p7` | the same; the last one counts |
//! | `-vv`, `-v -v` | an option without a value, given twice |
//! | `--` | the options end here |
//! | the first word without a dash, or `-` | they end before it |
//!
//! [`Args`] gives values as text, numbers, sizes or times, or an error that is one line and
//! says what would be right. The second half of the file is the programs: what they do
//! with their options. `main` of each calls one function here, so that the driver can be
//! all three of them.
//!
//! Left out: words in other languages, and options that are abbreviated.

use crate::client;
use crate::client::commands::{HELP as CLIENT, command};
use crate::client::shell::Shell;
use crate::os;
use crate::protocol::dialect::Dialect;
use crate::server::login::read_logins;
use crate::server::tools::perform;
use crate::server::{self, Server};
use crate::store::record::{Format, IntOrder, MAX_POSITION, MAX_VALUE};
use crate::store::{self, Settings, SyncMode};
use crate::{Failure, print, warn};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, IsTerminal, Read};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// The help of `server`.
pub const SERVER: &str = include_str!("server/help.txt");

/// What the three programs have in common: parses `words` by the program's help, prints
/// that if it is asked for, and turns a failure into a line and an exit code.
pub fn program(
    name: &'static str,
    help: &'static str,
    words: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(Args) -> Result<ExitCode, Failure>,
) -> ExitCode {
    let result = Args::parse(name, help, words).map_err(Failure::Usage);
    let result =
        result.and_then(|args| match (args.has("help"), args.has("version")) {
            (false, false) => run(args),
            (is_help, _) => {
                let version = concat!("memcached-lite ", env!("CARGO_PKG_VERSION"));
                print(if is_help { help.trim_end() } else { version });
                Ok(ExitCode::SUCCESS)
            }
        });
    result.unwrap_or_else(|failure| {
        warn(&format!("{name}: {failure}"));
        ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
    })
}

/// An option as its line of the help describes it.
pub struct Spec<'h> {
    /// The short name, without its dash.
    pub short: Option<char>,
    /// The long name, without its dashes.
    pub long: &'h str,
    /// What the value is called; empty if there is none.
    pub value: &'h str,
}

/// The options of a help text.
pub fn specs(help: &str) -> impl Iterator<Item = Spec<'_>> {
    help.lines().filter_map(|line| {
        let (names, _) = line.trim_start().split_once("  ")?;
        let (short, long) = match names.split_once(", ") {
            Some((short, long)) => (short.chars().nth(1), long),
            None => (None, names),
        };
        let long = long.strip_prefix("--")?;
        let (long, value) = long.split_once(' ').unwrap_or((long, ""));
        Some(Spec { short, long, value })
    })
}

/// A parsed command line.
#[derive(Debug)]
pub struct Args {
    program: &'static str,
    /// Long names and values, in the order given.
    given: Vec<(&'static str, String)>,
    /// What stands after the options: bytes, as keys and values may have any.
    pub words: Vec<OsString>,
}

impl Args {
    /// Parses `words`, the command line without the program's name. The error is one line.
    pub fn parse(
        program: &'static str,
        help: &'static str,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Args, String> {
        let mut args = Args { program, given: Vec::new(), words: Vec::new() };
        let mut words = words.into_iter();
        // What follows --help or --version does not matter.
        while !args.has("help")
            && !args.has("version")
            && let Some(word) = words.next()
        {
            if word == "--" {
                break;
            }
            if word == "-" || !word.as_encoded_bytes().starts_with(b"-") {
                args.words.push(word);
                break;
            }
            let option = text(&word)?;
            let spec = |is_meant: &dyn Fn(&Spec) -> bool| {
                // The help also lists some of memcached's that people try.
                let instead = |line: &'static str| {
                    line.strip_prefix("  no ")?.strip_prefix(option.get(..2)?)
                };
                let unknown = || match help.lines().find_map(instead) {
                    Some(instead) => format!("{option} is not here{instead}"),
                    None => format!("unknown option {option}; see {program} --help"),
                };
                specs(help).find(is_meant).ok_or_else(unknown)
            };
            if let Some(long) = option.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (long, None),
                };
                args.add(spec(&|spec| spec.long == name)?, value, &mut words)?;
                continue;
            }
            // Other short names may follow one without a value, as in -vv.
            let mut letters = option[1..].chars();
            while let Some(letter) = letters.next() {
                let spec = spec(&|spec| spec.short == Some(letter))?;
                let mut value = None;
                if !spec.value.is_empty() && !letters.as_str().is_empty() {
                    value = Some(letters.as_str());
                    letters = "".chars();
                }
                args.add(spec, value, &mut words)?;
            }
        }
        args.words.extend(words);
        Ok(args)
    }

    fn add(
        &mut self,
        spec: Spec<'static>,
        value: Option<&str>,
        words: &mut dyn Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let Spec { long, value: name, .. } = spec;
        let value = match value {
            Some(_) if name.is_empty() => {
                return Err(format!("--{long} takes no value"));
            }
            Some(value) => value.to_owned(),
            None if name.is_empty() => String::new(),
            None => text(&words.next().unwrap_or_default())?.to_owned(),
        };
        // An empty directory name, for one, would be the current directory.
        if value.is_empty() && !name.is_empty() {
            return Err(format!("--{long} needs a value: {name}"));
        }
        self.given.push((long, value));
        Ok(())
    }

    /// Whether the option was given.
    pub fn has(&self, name: &str) -> bool {
        self.count(name) > 0
    }

    /// How often the option was given.
    pub fn count(&self, name: &str) -> usize {
        self.given.iter().filter(|(given, _)| *given == name).count()
    }

    /// The first option given that is not one of these.
    pub fn other_than(&self, names: &[&str]) -> Option<&str> {
        self.given.iter().map(|(given, _)| *given).find(|given| !names.contains(given))
    }

    /// The option's value, if it was given: the last one, if it was given again.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.given.iter().rev().find(|(given, _)| *given == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The option's value, or that of a variable of the environment, or `default`.
    pub fn text_or_env(&self, name: &str, variable: &str, default: &str) -> String {
        let given = self.text(name).map(str::to_owned);
        given.or_else(|| std::env::var(variable).ok()).unwrap_or(default.to_owned())
    }

    /// The option's value as a number within `range`.
    pub fn number<N: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        range: RangeInclusive<N>,
    ) -> Result<Option<N>, String> {
        self.text(name).map(|text| in_range(name, text, range)).transpose()
    }

    /// The port: `--port`, or SERVER_PORT in the environment, or memcached's.
    pub fn port(&self, least: u16) -> Result<u16, String> {
        let text = self.text_or_env("port", "SERVER_PORT", "11211");
        in_range("port", &text, least..=u16::MAX)
    }

    /// The option's value in seconds, which may have a fraction, or `default`.
    pub fn seconds(&self, name: &str, default: Duration) -> Result<Duration, String> {
        // A bound that keeps deadlines within what the clock can show.
        let seconds = self.number(name, 0.0..=1e9)?;
        Ok(seconds.map_or(default, Duration::from_secs_f64))
    }

    /// The option's value in bytes, which may end in `k`, `m` or `g`, or `default`.
    pub fn size(&self, name: &str, default: u64, most: u64) -> Result<u64, String> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(['k', 'm', 'g']);
        let unit =
            ["", "k", "m", "g"].iter().position(|it| *it == &lower[digits.len()..]);
        let bytes = digits.parse::<u64>().ok().zip(unit);
        let bytes = bytes.and_then(|(it, unit)| it.checked_mul(1 << (10 * unit)));
        bytes.filter(|bytes| (1 << 10..=most).contains(bytes)).ok_or_else(|| {
            format!("--{name} takes a size from 1k to {}g, not {text}", most >> 30)
        })
    }

    /// The option's value as one of these names.
    pub fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let found = choices.iter().find(|(choice, _)| *choice == text);
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            format!("--{name} takes {}, not {text}", names.join(" or "))
        })
    }

    /// `--unix-socket` as an address: with a slash, which shows that it is a path.
    pub fn socket(&self) -> Option<String> {
        let path = self.text("unix-socket")?;
        Some(Path::new(".").join(path).display().to_string())
    }

    /// An error if words follow the options.
    pub fn no_words(&self) -> Result<(), String> {
        let Some(word) = self.words.first() else { return Ok(()) };
        let (word, program) = (word.display(), self.program);
        Err(format!("unexpected argument {word}; see {program} --help"))
    }
}

fn text(word: &OsStr) -> Result<&str, String> {
    word.to_str().ok_or_else(|| format!("{} is not text", word.display()))
}

fn in_range<N: FromStr + PartialOrd + Display>(
    name: &str,
    text: &str,
    range: RangeInclusive<N>,
) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = range.into_inner();
        format!("--{name} takes a number from {least} to {most}, not {text}")
    })
}

/// `server`: serves, or does one of the tasks. Exits with 0 when it was told to stop, after
/// `--idle-exit` or a task, with 1 after a check that has found damage.
pub fn server(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    program("server", SERVER, words, |args| {
        let task = task(&args)?;
        let options = server_options(&args)?;
        // A file at its largest is then an error of a write, and not the end of us.
        os::outlive_file_size_limit();
        os::merge_freed_blocks();
        if let Some(task) = task {
            let done = perform(task, &options.data, &options.store.settings);
            return done.map_err(|error| {
                let data = options.data.display();
                Failure::Failed(format!("can't use the data directory {data}: {error}"))
            });
        }
        let failed = |error: io::Error| Failure::Failed(error.to_string());
        os::end_on_signals();
        let mut server = Server::bind(options)?;
        server.stop = Some(os::report_signal().map_err(failed)?);
        print(&format!("Server: Listening on {}...", server.address()));
        server.run(os::poller).map_err(failed)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The options of a server. What is not given is as [`server::Options`] has it.
fn server_options(args: &Args) -> Result<server::Options, String> {
    args.no_words()?;
    let default = server::Options::default();
    let settings = Settings {
        key_size: args.number("key-size", 1..=u16::MAX)?,
        int_size: args.number("int-size", 1..=8)?,
        int_order: args.choice("int-order", &IntOrder::NAMES)?,
    };
    let modes = [("always", SyncMode::Always), ("every-second", SyncMode::EverySecond)];
    let size = default.store.max_item_size as u64;
    // The server reads the sizes of raw from its data.
    let dialect = args.choice("dialect", &Dialect::names(Format::default()))?;
    Ok(server::Options {
        listen: args.text_or_env("listen", "SERVER_HOST", &default.listen),
        port: args.port(0)?,
        unix_socket: args.text("unix-socket").map(Into::into),
        data: args.text("data").map_or(default.data, Into::into),
        store: store::Options {
            settings,
            sync: args.choice("sync", &modes)?.unwrap_or_default(),
            max_item_size: args.size("max-item-size", size, MAX_VALUE as u64)? as usize,
            data_limit: args.size("data-limit", 0, MAX_POSITION)?,
        },
        dialect: dialect.unwrap_or(default.dialect),
        auth_file: args.text("auth-file").map(Into::into),
        insecure: args.has("insecure"),
        threads: args.number("threads", 1..=1024)?.unwrap_or(default.threads),
        conn_limit: args
            .number("conn-limit", 1..=1_000_000)?
            .unwrap_or(default.conn_limit),
        backlog: args.number("backlog", 0..=1_000_000)?.unwrap_or(0),
        idle_timeout: args.seconds("idle-timeout", default.idle_timeout)?,
        request_timeout: args.seconds("request-timeout", default.request_timeout)?,
        idle_exit: args.seconds("idle-exit", default.idle_exit)?,
        verbosity: args.count("verbose"),
    })
}

/// What a server is to do to its data directory instead of serving it.
fn task(args: &Args) -> Result<Option<&'static str>, String> {
    let mut tasks = ["check", "dump", "repair", "compact"].into_iter();
    let Some(task) = tasks.find(|task| args.has(task)) else { return Ok(None) };
    match args.other_than(&[task, "data", "key-size", "int-size", "int-order"]) {
        Some(other) => Err(format!("--{other} makes no sense with --{task}")),
        None => Ok(Some(task)),
    }
}

/// `client`: exits with what [`Outcome`](client::shell::Outcome) says.
pub fn client(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    program("client", CLIENT, words, |args| {
        let mut shell = shell(&args)?;
        let mut words: Vec<_> =
            args.words.into_iter().map(OsString::into_vec).collect();
        if let [name, _, .., value] = &mut words[..]
            && command(name).is_some_and(|it| it.takes.ends_with("VALUE"))
            && value == b"-"
        {
            value.clear();
            let failed =
                |error| Failure::Failed(format!("can't read a value: {error}"));
            io::stdin().read_to_end(value).map_err(failed)?;
        }
        let outcome = match words.is_empty() {
            true => shell.run_lines(io::stdin().lock()),
            _ if words == [b"load"] => shell.load(io::stdin().lock()),
            false => shell.run(&words),
        };
        Ok(ExitCode::from(outcome as u8))
    })
}

/// The client program as its options describe it.
fn shell(args: &Args) -> Result<Shell<io::Stdout, io::Stderr>, Failure> {
    let mut options = client::Options::default();
    let host = args.text_or_env("host", "SERVER_HOST", "127.0.0.1");
    options.address = match args.socket() {
        Some(path) => path,
        None => format!("{host}:{}", args.port(1)?),
    };
    options.timeout = args.seconds("timeout", options.timeout)?;
    let pause = match args.has("timeout") {
        true => options.retry.min(options.timeout / 4),
        false if args.words.is_empty() => options.retry,
        // Nobody who gives one command wants to wait for a server that may never start.
        false => Duration::ZERO,
    };
    options.retry = args.seconds("retry", pause)?;
    if options.timeout.is_zero() {
        return Err(Failure::Usage("--timeout takes more than 0 seconds".into()));
    }
    options.key_size = args.number("key-size", 1..=65535)?.unwrap_or(options.key_size);
    let int_size = args.number("int-size", 1..=8)?;
    let int_order = args.choice("int-order", &IntOrder::NAMES)?;
    let format =
        Settings { key_size: None, int_size, int_order }.over(Format::default());
    let dialect = args.choice("dialect", &Dialect::names(format))?;
    options.dialect = dialect.unwrap_or(options.dialect);
    if let Some(path) = args.text("auth-file") {
        options.login = Some(read_logins(path.as_ref())?.swap_remove(0));
    }
    let quote = args.has("quote");
    Ok(Shell {
        options,
        flags: args.number("flags", 0..=u32::MAX)?.unwrap_or(0),
        exptime: args.number("exptime", i64::MIN..=i64::MAX)?.unwrap_or(0),
        quote,
        timed: args.has("verbose"),
        // A program that reads quoted replies would take a prompt for one.
        prompt: args.words.is_empty() && !quote && io::stdin().is_terminal(),
        terminal: io::stdout().is_terminal(),
        out: io::stdout(),
        err: io::stderr(),
        client: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args, String> {
        let words = line.split_whitespace().map(OsString::from);
        Args::parse("server", SERVER, words)
    }

    #[test]
    fn all_forms_of_an_option_are_the_same() {
        for line in
            ["--port 7", "--port=7", "-p 7", "-p7", "-v -p7", "-vp7", "-p 6 -p 7"]
        {
            assert_eq!(args(line).unwrap().port(0), Ok(7), "{line}");
        }
        for line in ["-vv", "-v -v", "--verbose --verbose"] {
            assert_eq!(args(line).unwrap().count("verbose"), 2, "{line}");
        }
    }

    #[test]
    fn options_end_at_the_first_word_that_is_not_one() {
        for (line, words) in
            [("-v a -v", "a -v"), ("-- -v", "-v"), ("- -v", "- -v"), ("-v --", "")]
        {
            let expected: Vec<_> =
                words.split_whitespace().map(OsString::from).collect();
            assert_eq!(args(line).unwrap().words, expected, "{line}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let size = |line| args(line).unwrap().size("max-item-size", 7, 1 << 30);
        assert_eq!(size(""), Ok(7));
        assert_eq!(size("-I 2048"), Ok(2048));
        assert_eq!(size("-I 2k"), Ok(2048));
        assert_eq!(size("-I 5M"), Ok(5 << 20));
        assert_eq!(size("-I 1g"), Ok(1 << 30));
        for wrong in
            ["1023", "2g", "k", "", "1kk", "1 k", "x", "é", "99999999999999999999g"]
        {
            let given = Args {
                given: vec![("max-item-size", wrong.into())],
                ..args("").unwrap()
            };
            let said = given.size("max-item-size", 7, 1 << 30).unwrap_err();
            assert!(said.ends_with(&format!("from 1k to 1g, not {wrong}")), "{said}");
        }
    }

    #[test]
    fn what_is_wrong_is_reported_with_what_would_be_right() {
        for (line, error) in [
            ("--prot 7", "unknown option --prot; see server --help"),
            ("-vq", "unknown option -vq; see server --help"),
            ("-p", "--port needs a value: NUM"),
            ("--check=7", "--check takes no value"),
        ] {
            assert_eq!(args(line).unwrap_err(), error, "{line}");
        }
        let given = args("-p x --sync no extra").unwrap();
        let error = "--port takes a number from 0 to 65535, not x";
        assert_eq!(given.port(0).unwrap_err(), error);
        let error = "--sync takes always or never, not no";
        let choices = [("always", 1), ("never", 2)];
        assert_eq!(given.choice("sync", &choices).unwrap_err(), error);
        assert_eq!(
            given.no_words().unwrap_err(),
            "unexpected argument extra; see server --help"
        );
    }

    #[test]
    fn every_option_of_a_help_is_understood() {
        for help in [SERVER, CLIENT] {
            let lines = help.lines().filter(|line| line.trim_start().starts_with('-'));
            assert_eq!(lines.count(), specs(help).count());
            for Spec { short, long, value } in specs(help) {
                let word = OsString::from(format!("--{long}"));
                let words =
                    [word].into_iter().chain((!value.is_empty()).then(|| "1".into()));
                let args = Args::parse("program", help, words).unwrap();
                assert_eq!(
                    args.text(long),
                    Some(if value.is_empty() { "" } else { "1" })
                );
                assert!(short.is_none_or(char::is_alphabetic));
            }
        }
    }
}

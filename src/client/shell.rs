//! The client program: one command from its arguments, or many from standard input,
//! one a line. `client --help` lists them.
//!
//! | standard input | prompt and questions | an error is reported | exit code |
//! |---|---|---|---|
//! | a terminal | shown | by itself | 0, or 3 without a server at the start |
//! | anything else: a script | not shown | with its line | the worst outcome |
//!
//! A command that lacks a word asks for it: the answer is the next line, also in a script. A
//! value is everything after the one space that ends what stands before it, or the whole of
//! the line that was asked for.
//!
//! - K3: a line that a command asked for is never run as a command, whatever else is
//!   wrong with the one that asked.
//!
//! What a command prints is its reply's line, or the value alone; `KEY NOT FOUND` for
//! a key that isn't there. On a terminal, control characters in it are escaped: it must
//! not obey what somebody has stored. With `--quote` each reply is one line in quotes,
//! escaped, so that a program can read it whatever bytes a value has, and an error is
//! such a line, too.
//!
//! Left out: history and editing of lines, which `rlwrap` adds from outside.

use crate::client::commands::{Command, command, help, similar};
use crate::client::{Client, ClientError, Item, Options};
use crate::protocol::reply::Reply;
use crate::protocol::words::{Words, printable, shown, signed, unsigned};
use crate::protocol::{Request, Topic, verb_named};
use crate::store::{Answer, Update};
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::time::Instant;

/// How a command ended, from the harmless to the worst; the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was done.
    Done = 0,
    /// Not found, not stored, not confirmed, or rejected by the server.
    Not = 1,
    /// The command makes no sense, or its key can't be.
    Usage = 2,
    /// There is no connection to the server.
    Connection = 3,
}

/// The client program, with its output.
pub struct Shell<O, E> {
    /// Where the server is.
    pub options: Options,
    /// Flags of the values that are stored.
    pub flags: u32,
    /// Exptime of the values that are stored.
    pub exptime: i64,
    /// Replies are printed in quotes.
    pub quote: bool,
    /// How long each command took is reported.
    pub timed: bool,
    /// A person types.
    pub prompt: bool,
    /// `out` is a terminal, which would obey control characters in a value.
    pub terminal: bool,
    /// Where replies are printed, and what a person who types has to see.
    pub out: O,
    /// Where everything else is printed.
    pub err: E,
    /// Connected when the first command needs it, and again after it was lost.
    pub client: Option<Client>,
}

/// Arguments and their command, or why there is none.
type Parsed = Result<(Vec<Vec<u8>>, Command), Stopped>;

/// What a command prints.
struct Output {
    /// A line of the protocol, a value, or the lines of several.
    text: Vec<u8>,
    /// What ends it on the wire, for `--quote`.
    end: &'static str,
    /// It is a value and nothing else.
    is_value: bool,
    outcome: Outcome,
}

/// What is printed on standard error, and how the command has ended by it.
struct Stopped(Outcome, String);

impl From<ClientError> for Stopped {
    fn from(error: ClientError) -> Stopped {
        let outcome = match &error {
            ClientError::Request(_) => Outcome::Usage,
            error if error.is_fatal() => Outcome::Connection,
            _ => Outcome::Not,
        };
        Stopped(outcome, error.to_string())
    }
}

fn usage(text: String) -> Stopped {
    Stopped(Outcome::Usage, text)
}

impl<O: Write, E: Write> Shell<O, E> {
    /// Runs the command that these words of a command line are.
    pub fn run(&mut self, words: &[Vec<u8>]) -> Outcome {
        let [name, args @ ..] = words else { return Outcome::Done };
        let parsed = named(name).map(|it| (it.join(args), it));
        self.perform("", parsed)
    }

    /// Runs each line of `input` as a command, but for those that are asked for.
    /// Connects before the first.
    pub fn run_lines(&mut self, input: impl BufRead) -> Outcome {
        let mut lines = Lines { input: input.split(b'\n'), count: 0 };
        let mut worst = Outcome::Done;
        if let Err(error) = self.client() {
            self.report(format_args!("{error}"));
            return Outcome::Connection;
        }
        while let Some(line) = self.line(&mut lines, "> ") {
            let mut words = Words(&line);
            if self.prompt && words.take(2).any(|word| word.contains(&0x1b)) {
                let why = "that line has an arrow key or the like in it: use rlwrap";
                self.report(format_args!("{why}"));
                continue;
            }
            let Some(name) = words.next() else { continue };
            if matches!(name, b"exit" | b"quit") {
                break;
            }
            let place = match self.prompt {
                true => String::new(),
                false => format!("line {}: ", lines.count),
            };
            let parsed =
                named(name).and_then(|it| self.complete(it, words, &mut lines));
            let was_connected = self.client.is_some();
            worst = worst.max(self.perform(&place, parsed));
            // The rest of a script would find no server either. A person may start it.
            if !was_connected && self.client.is_none() && !self.prompt {
                return Outcome::Connection;
            }
        }
        if self.prompt { Outcome::Done } else { worst }
    }

    /// Sends the input as it is.
    pub fn load(&mut self, input: impl Read) -> Outcome {
        let reply = self.client().and_then(|client| client.load(input));
        let reply = reply.map(|reply| line(&reply.to_string(), Outcome::Done));
        self.show("", reply.map_err(Stopped::from))
    }

    /// The next line. `question` is for a person who types it.
    fn line(
        &mut self,
        lines: &mut Lines<impl BufRead>,
        question: &str,
    ) -> Option<Vec<u8>> {
        if !self.prompt {
            return lines.next();
        }
        // A terminal that is gone is noticed by the end of the input.
        let _ = write!(self.out, "{question}").and_then(|()| self.out.flush());
        let line = lines.next();
        if line.is_none() {
            // What comes next on this terminal begins a line of its own.
            let _ = writeln!(self.out);
        }
        line
    }

    /// Takes the arguments from the rest of a command's line, and asks for those that are
    /// missing. K3: that is done before what is there is checked, or the value of
    /// a rejected command would be left over, as the next command.
    fn complete(
        &mut self,
        command: Command,
        mut rest: Words,
        lines: &mut Lines<impl BufRead>,
    ) -> Parsed {
        let Command { name, takes } = command;
        let ended = |what: &str| usage(format!("the input ended; {name} needs {what}"));
        if name == "delete" && rest.clone().next().is_none() {
            let answer = self.line(lines, "delete everything? (yes/no) ");
            return match answer.ok_or_else(|| ended("yes or no"))?.as_slice() {
                yes if yes.eq_ignore_ascii_case(b"yes") => {
                    named(b"flush").map(|flush| (Vec::new(), flush))
                }
                _ => Err(Stopped(Outcome::Not, "nothing was deleted".into())),
            };
        }
        let mut args = Vec::new();
        for what in takes.split_whitespace() {
            // A value's spaces are its own, all but the one that ends the word before it.
            let value = rest.0.strip_prefix(b" ");
            let given = if what == "VALUE" { value } else { rest.next() };
            if given.is_none() && what.starts_with('[') {
                break;
            }
            args.push(match given {
                Some(word) => word.to_vec(),
                None => {
                    let what = what.trim_end_matches('.').to_lowercase();
                    let answer = self.line(lines, &format!("{what}: "));
                    answer.ok_or_else(|| ended(&format!("a {what}")))?
                }
            });
        }
        if !takes.ends_with("VALUE") {
            args.extend(rest.map(<[u8]>::to_vec));
        }
        if name == "ms" {
            let value = self.line(lines, "value: ").ok_or_else(|| ended("a value"))?;
            args.push([b"\r\n", &value[..]].concat());
        }
        Ok((args, command))
    }

    /// Executes a command and prints what comes of it.
    fn perform(&mut self, place: &str, parsed: Parsed) -> Outcome {
        let begun = Instant::now();
        let output = parsed.and_then(|(args, command)| {
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            self.invoke(&command, &args)
        });
        let outcome = self.show(place, output);
        if self.timed {
            self.report(format_args!("{} us", begun.elapsed().as_micros()));
        }
        outcome
    }

    /// Prints what has come of a command, as the table above says.
    fn show(&mut self, place: &str, output: Result<Output, Stopped>) -> Outcome {
        let is_raw = output.as_ref().is_ok_and(|output| output.is_value);
        let (mut text, outcome) = match output {
            Ok(Output { mut text, end, outcome, .. }) if self.quote => {
                text.extend_from_slice(end.as_bytes());
                (format!("\"{}\"", text.escape_ascii()).into_bytes(), outcome)
            }
            Ok(Output { text, outcome, .. }) => (text, outcome),
            Err(Stopped(outcome, text)) => {
                if outcome == Outcome::Connection {
                    // K2: what may still come from there answers nothing.
                    self.client = None;
                }
                if !self.quote {
                    self.report(format_args!("{place}{text}"));
                    return outcome;
                }
                (format!("error: {text}").into_bytes(), outcome)
            }
        };
        if self.terminal {
            text = printable(&text).into_bytes();
        }
        // A value that goes into a file or a pipe by itself goes there as it is.
        let is_alone = place.is_empty() && !self.prompt && !self.quote;
        if !(is_raw && is_alone && !self.terminal) {
            text.push(b'\n');
        }
        match self.out.write_all(&text).and_then(|()| self.out.flush()) {
            Ok(()) => outcome,
            // Nobody reads what we print any more.
            Err(_) => Outcome::Connection,
        }
    }

    /// Prints something that is not a reply. If nobody reads it, nothing is lost.
    fn report(&mut self, text: fmt::Arguments) {
        let _ = writeln!(self.err, "client: {text}");
    }

    fn invoke(&mut self, command: &Command, args: &[&[u8]]) -> Result<Output, Stopped> {
        let request = match (command.name, args) {
            ("help", []) => return Ok(value(help())),
            ("get", [_, ..]) => return self.retrieve(args, false, None),
            ("gets", [_]) => return self.retrieve(args, true, None),
            ("gat", [exptime, key]) => {
                let exptime = number("SECS", exptime, signed)?;
                return self.retrieve(&[key], false, Some(exptime));
            }
            ("stats", []) => return self.stats(Topic::General),
            ("stats", [b"settings"]) => return self.stats(Topic::Settings),
            ("keys", [] | [_]) => {
                let keys = self.client()?.keys(&args.concat())?;
                return Ok(match keys.is_empty() {
                    true => line("KEY NOT FOUND", Outcome::Not),
                    false => value(keys.join(&b'\n')),
                });
            }
            ("flush", []) => Request::FlushAll(0),
            ("flush", [delay]) => Request::FlushAll(number("SECS", delay, signed)?),
            ("version", []) => Request::Version,
            ("mn", []) => Request::Noop,
            (name @ ("mg" | "ms" | "md" | "ma" | "me"), _) => {
                return self.meta(&[&[name.as_bytes()], args].concat());
            }
            _ => Request::Update(self.update(command, args)?),
        };
        let reply = self.client()?.ask(&request)?;
        use Answer::{Exists, NotFound, NotStored};
        let has_failed = matches!(reply, Reply::Answer(NotStored | Exists | NotFound));
        let outcome = if has_failed { Outcome::Not } else { Outcome::Done };
        Ok(line(&reply.to_string(), outcome))
    }

    /// The update that a command and its arguments are.
    fn update<'a>(
        &self,
        Command { name, takes }: &Command,
        args: &[&'a [u8]],
    ) -> Result<Update<'a>, Stopped> {
        let verb = verb_named(name.as_bytes());
        let Some(verb) = verb.filter(|_| args.len() == takes.split(' ').count()) else {
            let takes = if takes.is_empty() { "nothing" } else { takes };
            return Err(usage(format!("{name} takes {takes}")));
        };
        let Shell { flags, exptime, .. } = *self;
        let mut update = Update { verb, flags, exptime, ..Update::default() };
        for (what, arg) in takes.split(' ').zip(args) {
            match what {
                "KEY" => update.key = arg,
                "VALUE" => update.value = arg,
                "SECS" => update.exptime = number(what, arg, signed)?,
                _ => update.number = number(what, arg, unsigned)?,
            }
        }
        Ok(update)
    }

    fn retrieve(
        &mut self,
        keys: &[&[u8]],
        unique: bool,
        exptime: Option<i64>,
    ) -> Result<Output, Stopped> {
        let items = self.client()?.retrieve(keys, unique, exptime)?;
        let text = |item: Item| match (item.unique, keys.len()) {
            (Some(unique), _) => {
                [unique.to_string().as_bytes(), b" ", &item.value].concat()
            }
            (None, 1) => item.value,
            (None, _) => [&item.key, &b": "[..], &item.value].concat(),
        };
        let lines: Vec<_> = items.into_iter().map(text).collect();
        Ok(match lines.is_empty() {
            true => line("KEY NOT FOUND", Outcome::Not),
            false => Output {
                is_value: keys.len() == 1 && !unique,
                ..value(lines.join(&b'\n'))
            },
        })
    }

    /// A meta command as it was typed.
    fn meta(&mut self, words: &[&[u8]]) -> Result<Output, Stopped> {
        let (line, value) = self.client()?.meta(words.join(&b' '))?;
        let has_failed = matches!(line.get(..2), Some(b"EN" | b"NF" | b"NS" | b"EX"));
        let outcome = if has_failed { Outcome::Not } else { Outcome::Done };
        let text = [line].into_iter().chain(value).collect::<Vec<_>>().join(&b'\n');
        Ok(Output { text, end: "\r\n", is_value: false, outcome })
    }

    fn stats(&mut self, topic: Topic) -> Result<Output, Stopped> {
        let stats = self.client()?.stats(topic)?;
        let lines = stats.iter().map(|(name, value)| format!("{name} {value}"));
        Ok(value(lines.collect::<Vec<_>>().join("\n")))
    }

    /// Connects if need be.
    fn client(&mut self) -> Result<&mut Client, ClientError> {
        if self.client.is_none() {
            let pause = self.options.retry.as_secs_f64();
            let client = Client::connect_with(&self.options, |error| {
                let _ =
                    writeln!(self.err, "client: {error}; trying again in {pause} s");
            })?;
            if self.prompt {
                let at = &self.options.address;
                let _ =
                    writeln!(self.out, "connected to {at}; help lists the commands");
            }
            self.client = Some(client);
        }
        Ok(self.client.as_mut().expect("connected above"))
    }
}

/// The lines of standard input, counted.
struct Lines<R> {
    input: io::Split<R>,
    count: usize,
}

impl<R: BufRead> Lines<R> {
    /// The next one, without its end. An input that fails has ended, too.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = self.input.next()?.ok()?;
        line.pop_if(|last| *last == b'\r');
        self.count += 1;
        Some(line)
    }
}

fn value(text: impl Into<Vec<u8>>) -> Output {
    Output { text: text.into(), end: "", is_value: false, outcome: Outcome::Done }
}

fn line(text: &str, outcome: Outcome) -> Output {
    Output { text: text.into(), end: "\r\n", is_value: false, outcome }
}

fn named(name: &[u8]) -> Result<Command, Stopped> {
    command(name).ok_or_else(|| {
        let hint = match similar(name) {
            Some(similar) => format!("did you mean {similar}?"),
            None => "help lists them".into(),
        };
        usage(format!("unknown command {}; {hint}", shown(name)))
    })
}

fn number<T>(
    what: &str,
    word: &[u8],
    parse: fn(&[u8]) -> Option<T>,
) -> Result<T, Stopped> {
    let wrong = || usage(format!("{what} takes a whole number, not {}", shown(word)));
    parse(word).ok_or_else(wrong)
}

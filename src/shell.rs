//! The client program: one command from its arguments, or many from standard input,
//! one a line. `client --help` lists them.
//!
//! | standard input | prompt and questions | an error is told | exit code |
//! |---|---|---|---|
//! | a terminal | shown | by itself | 0, or 3 without a server at the start |
//! | anything else: a script | not shown | with its line | the worst outcome |
//!
//! A command that lacks a key or a value asks for it: the answer is the next line, also
//! in a script. A value is everything behind the one blank after what stands before it,
//! or the whole of the line that was asked for.
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

use crate::client::{Client, ClientError, Item, Options};
use crate::protocol::{Request, Topic, Verb};
use crate::reply::Reply;
use crate::syntax::{self, Command};
use crate::words::{Words, printable, shown, signed, unsigned};
use std::fmt;
use std::io::{BufRead, Write};
use std::time::Instant;

/// How a command ended, from the harmless to the worst; the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was done.
    Done = 0,
    /// Not found, not stored, not confirmed, or refused by the server.
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
    /// How long each command took is told.
    pub timed: bool,
    /// Somebody sits there and types.
    pub prompt: bool,
    /// `out` is a terminal, which would obey control characters in a value.
    pub terminal: bool,
    /// Where replies are printed, and what somebody who types has to see.
    pub out: O,
    /// Where everything else is told.
    pub err: E,
    /// Connected when the first command needs it, and again after it was lost.
    pub client: Option<Client>,
}

/// A command with its arguments, or why there is none.
type Parsed = Result<(&'static Command, Vec<Vec<u8>>), Failure>;

/// What a command has to say.
enum Answer {
    /// A line of the protocol, with its end on the wire.
    Line(String, Outcome),
    /// A value, or the lines of several.
    Value(Vec<u8>),
    /// Nothing: it was the last.
    Exit,
}

impl<O: Write, E: Write> Shell<O, E> {
    /// Runs the command that these words of a command line are.
    pub fn run(&mut self, words: &[Vec<u8>]) -> Outcome {
        let [name, args @ ..] = words else { return Outcome::Done };
        let parsed = named(name).map(|command| (command, command.join(args)));
        self.perform("", parsed).unwrap_or(Outcome::Done)
    }

    /// Runs each line of `input` as a command, but for those that are asked for.
    /// Connects before the first.
    pub fn run_lines(&mut self, input: impl BufRead) -> Outcome {
        let mut lines = Lines { input, count: 0 };
        let mut worst = Outcome::Done;
        if !self.is_connected("") {
            return Outcome::Connection;
        }
        while let Some(line) = self.line(&mut lines, "> ") {
            let mut words = Words(&line);
            let Some(name) = words.next() else { continue };
            let place = match self.prompt {
                true => String::new(),
                false => format!("line {}: ", lines.count),
            };
            let parsed = named(name).and_then(|command| {
                self.complete(command, command.split(words), &mut lines)
            });
            // The rest of a script would find no server either. A person may start it.
            if !self.prompt && !self.is_connected(&place) {
                return Outcome::Connection;
            }
            match self.perform(&place, parsed) {
                Some(outcome) => worst = worst.max(outcome),
                None => break,
            }
        }
        if self.prompt { Outcome::Done } else { worst }
    }

    /// The next line. `question` is for whoever types it.
    fn line(
        &mut self,
        lines: &mut Lines<impl BufRead>,
        question: &str,
    ) -> Option<Vec<u8>> {
        if !self.prompt {
            return lines.next();
        }
        // A terminal that is gone is noticed by the end of the input.
        let _ = self.out.write_all(question.as_bytes());
        let _ = self.out.flush();
        let line = lines.next();
        if line.is_none() {
            // What comes next on this terminal shall have a line of its own.
            let _ = self.out.write_all(b"\n");
        }
        line
    }

    /// Asks for what is missing. K3: that is done before what is there is looked at, or
    /// the value of a refused command would be left over, as the next command.
    fn complete(
        &mut self,
        command: &'static Command,
        mut args: Vec<Vec<u8>>,
        lines: &mut Lines<impl BufRead>,
    ) -> Parsed {
        let ended = |what| {
            let name = command.name;
            usage(format!("the input ended where {name} wanted {what}"))
        };
        if command.name == "delete" && args.is_empty() {
            let answer = self.line(lines, "delete everything? (yes/no) ");
            return match answer.ok_or_else(|| ended("yes or no"))?.as_slice() {
                b"yes" => Ok((&syntax::FLUSH, args)),
                _ => Err(Failure(Outcome::Not, "nothing was deleted".into())),
            };
        }
        for (what, question) in command.questions(args.len()) {
            args.push(self.line(lines, question).ok_or_else(|| ended(what))?);
        }
        Ok((command, args))
    }

    /// Executes a command and shows what comes of it; `None` if it was the last.
    fn perform(&mut self, place: &str, parsed: Parsed) -> Option<Outcome> {
        let begun = Instant::now();
        let answer = parsed.and_then(|(command, args)| {
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            self.answer(command, &args)
        });
        let outcome = self.show(place, answer);
        if self.timed {
            self.tell(format_args!("{} us", begun.elapsed().as_micros()));
        }
        outcome
    }

    fn show(
        &mut self,
        place: &str,
        answer: Result<Answer, Failure>,
    ) -> Option<Outcome> {
        let (outcome, text) = match answer {
            Ok(Answer::Exit) => return None,
            Ok(Answer::Line(line, outcome)) if self.quote => {
                let line = line.as_bytes().escape_ascii();
                (outcome, format!("\"{line}\\r\\n\"").into_bytes())
            }
            Ok(Answer::Line(line, outcome)) => (outcome, line.into_bytes()),
            Ok(Answer::Value(value)) if self.quote => {
                (Outcome::Done, format!("\"{}\"", value.escape_ascii()).into_bytes())
            }
            Ok(Answer::Value(value)) => (Outcome::Done, value),
            Err(Failure(outcome, text)) => {
                if outcome == Outcome::Connection {
                    // K2: whatever may still come from there answers nothing.
                    self.client = None;
                }
                if !self.quote {
                    self.tell(format_args!("{place}{text}"));
                    return Some(outcome);
                }
                (outcome, format!("error: {text}").into_bytes())
            }
        };
        let text = if self.terminal { printable(&text).into_bytes() } else { text };
        let written =
            self.out.write_all(&text).and_then(|()| self.out.write_all(b"\n"));
        match written.and_then(|()| self.out.flush()) {
            Ok(()) => Some(outcome),
            // Nobody reads what we say any more.
            Err(_) => Some(Outcome::Connection),
        }
    }

    /// Says something that is no reply. If nobody listens, nothing is lost.
    fn tell(&mut self, text: fmt::Arguments) {
        let _ = writeln!(self.err, "client: {text}");
    }

    fn answer(&mut self, command: &Command, args: &[&[u8]]) -> Result<Answer, Failure> {
        let (flags, exptime) = (self.flags, self.exptime);
        if let (Some(verb), [key, value]) = (Verb::named(command.name.as_bytes()), args)
            && verb != Verb::Cas
        {
            return line(self.client()?.store(verb, key, value, flags, exptime, 0)?);
        }
        match (command.name, args) {
            ("cas", [key, unique, value]) => {
                let (verb, unique) = (Verb::Cas, count("UNIQUE", unique)?);
                line(self.client()?.store(verb, key, value, flags, exptime, unique)?)
            }
            ("get", [key]) => found(self.client()?.get(key)?, false),
            ("gets", [key]) => found(self.client()?.gets(key)?, true),
            ("gat", [exptime, key]) => {
                let exptime = seconds(exptime)?;
                found(self.client()?.gat(key, exptime)?, false)
            }
            ("get", [_, _, ..]) => {
                let items = self.client()?.get_many(args)?;
                let mut lines = Vec::new();
                for item in items {
                    lines.extend([&item.key, &b": "[..], &item.value, b"\n"].concat());
                }
                lines.pop();
                Ok(match lines.is_empty() {
                    true => not_found(),
                    false => Answer::Value(lines),
                })
            }
            ("incr" | "decr", [key, delta]) => {
                let (up, delta) = (command.name == "incr", count("DELTA", delta)?);
                line(self.client()?.ask(Request::Count { up, key, delta })?)
            }
            ("touch", [key, exptime]) => {
                let exptime = seconds(exptime)?;
                line(self.client()?.ask(Request::Touch { key, exptime })?)
            }
            ("delete", [key]) => line(self.client()?.ask(Request::Delete(key))?),
            ("flush", [] | [_]) => {
                let delay = args.first().map_or(Ok(0), |word| seconds(word))?;
                line(self.client()?.ask(Request::FlushAll { delay })?)
            }
            ("stats", [] | [b"settings"]) => {
                let general = args.is_empty();
                let topic = if general { Topic::General } else { Topic::Settings };
                let stats = self.client()?.stats(topic)?;
                let lines = stats.iter().map(|(name, value)| format!("{name} {value}"));
                Ok(Answer::Value(lines.collect::<Vec<_>>().join("\n").into_bytes()))
            }
            ("version", []) => line(self.client()?.ask(Request::Version)?),
            ("help", []) => Ok(Answer::Value(syntax::help().into_bytes())),
            ("exit", []) => Ok(Answer::Exit),
            (name, _) => {
                let takes = match command.takes {
                    "" => "nothing",
                    takes => takes,
                };
                Err(usage(format!("{name} takes {takes}")))
            }
        }
    }

    /// Connects if need be. False after it has told why that can't be done.
    fn is_connected(&mut self, place: &str) -> bool {
        let error = self.client().err();
        if let Some(error) = &error {
            self.tell(format_args!("{place}{error}"));
        }
        error.is_none()
    }

    fn client(&mut self) -> Result<&mut Client, ClientError> {
        match &mut self.client {
            Some(client) => Ok(client),
            vacant => {
                let Options { address, retry, .. } = &self.options;
                let pause = retry.as_secs_f64();
                let client = Client::connect_with(&self.options, |error| {
                    let _ = writeln!(
                        self.err,
                        "client: {error}; trying again in {pause} s"
                    );
                })?;
                if self.prompt {
                    let _ = writeln!(
                        self.out,
                        "connected to {address}; help lists the commands"
                    );
                }
                Ok(vacant.insert(client))
            }
        }
    }
}

/// The lines of standard input, counted.
struct Lines<R> {
    input: R,
    count: usize,
}

impl<R: BufRead> Lines<R> {
    /// The next one, without its end. An input that fails has ended, too.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line).ok().filter(|&read| read > 0)?;
        self.count += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let length = text.strip_suffix(b"\r").unwrap_or(text).len();
        line.truncate(length);
        Some(line)
    }
}

/// What is said on standard error, and how the command has ended by it.
struct Failure(Outcome, String);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let outcome = match &error {
            ClientError::Key(_) | ClientError::Value(_) | ClientError::Dialect => {
                Outcome::Usage
            }
            error if error.is_fatal() => Outcome::Connection,
            _ => Outcome::Not,
        };
        Failure(outcome, error.to_string())
    }
}

fn named(name: &[u8]) -> Result<&'static Command, Failure> {
    let unknown = || format!("{} is no command; help lists them", shown(name));
    Command::named(name).ok_or_else(|| usage(unknown()))
}

fn usage(text: String) -> Failure {
    Failure(Outcome::Usage, text)
}

fn line(reply: Reply) -> Result<Answer, Failure> {
    let outcome = match reply {
        Reply::NotStored | Reply::Exists | Reply::NotFound => Outcome::Not,
        _ => Outcome::Done,
    };
    Ok(Answer::Line(reply.to_string(), outcome))
}

fn not_found() -> Answer {
    Answer::Line("KEY NOT FOUND".into(), Outcome::Not)
}

fn found(item: Option<Item>, with_unique: bool) -> Result<Answer, Failure> {
    Ok(match item {
        None => not_found(),
        Some(Item { value, unique: Some(unique), .. }) if with_unique => {
            Answer::Value([unique.to_string().as_bytes(), b" ", &value].concat())
        }
        Some(item) => Answer::Value(item.value),
    })
}

fn count(name: &str, word: &[u8]) -> Result<u64, Failure> {
    let wrong = || format!("{name} is a whole number from 0, not {}", shown(word));
    unsigned(word).ok_or_else(|| usage(wrong()))
}

fn seconds(word: &[u8]) -> Result<i64, Failure> {
    let wrong = || format!("SECS is a whole number, not {}", shown(word));
    signed(word).ok_or_else(|| usage(wrong()))
}

//! The client program: one command from its arguments, or many from standard input,
//! one a line, as a script. `client --help` lists them.
//!
//! What a command prints is its reply's line, or the value alone; `KEY NOT FOUND` for
//! a key that isn't there. With `--quote` each reply is one line in quotes, escaped,
//! so that a program can read it whatever bytes a value has.

use crate::client::{Client, ClientError, Item, Options};
use crate::protocol::{Request, Topic, Verb};
use crate::reply::Reply;
use crate::words::{signed, unsigned};
use std::io::{BufRead, Write};
use std::time::Instant;

/// What the client program can be asked to do, as `--help` shows it.
pub const COMMANDS: &str = "\
commands, also one a line on standard input:
  get KEY...              gets KEY               gat SECS KEY
  set KEY VALUE           add, replace, append, prepend likewise
  cas KEY UNIQUE VALUE    incr KEY DELTA         decr KEY DELTA
  touch KEY SECS          delete KEY             flush [SECS]
  stats [settings]        version
a VALUE may have blanks; as the last argument, - is what standard input has
exit code: 0 done, 1 not found or not stored, 2 usage, 3 no connection";

/// How a command ended, from the harmless to the worst; the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was done.
    Done = 0,
    /// Not found, not stored, or refused by the server.
    Not = 1,
    /// The command makes no sense, or its key can't be.
    Usage = 2,
    /// There is no connection to the server.
    Connection = 3,
}

/// The client program, with its output.
pub struct Shell<W> {
    /// Where the server is.
    pub options: Options,
    /// Flags of the values that are stored.
    pub flags: u32,
    /// Exptime of the values that are stored.
    pub exptime: i64,
    /// Replies are printed in quotes.
    pub quote: bool,
    /// How long each command took is said on standard error.
    pub timed: bool,
    /// Where replies are printed.
    pub out: W,
    /// Connected when the first command needs it, and again after it was lost.
    pub client: Option<Client>,
}

/// What a command has to say.
enum Answer {
    /// A line of the protocol, with its end on the wire.
    Line(String, Outcome),
    /// A value, or the lines of several.
    Value(Vec<u8>),
}

impl<W: Write> Shell<W> {
    /// Runs the command that these words are.
    pub fn run(&mut self, words: &[Vec<u8>]) -> Outcome {
        let begun = Instant::now();
        let answer = self.answer(words);
        let outcome = self.show(answer);
        if self.timed {
            eprintln!("client: {} us", begun.elapsed().as_micros());
        }
        outcome
    }

    fn show(&mut self, answer: Result<Answer, Failure>) -> Outcome {
        let (outcome, text) = match answer {
            Ok(Answer::Line(line, outcome)) if self.quote => {
                (outcome, format!("\"{line}\\r\\n\"").into_bytes())
            }
            Ok(Answer::Line(line, outcome)) => (outcome, line.into_bytes()),
            Ok(Answer::Value(value)) if self.quote => {
                (Outcome::Done, format!("\"{}\"", value.escape_ascii()).into_bytes())
            }
            Ok(Answer::Value(value)) => (Outcome::Done, value),
            Err(Failure(outcome, text)) => {
                if outcome == Outcome::Connection {
                    self.client = None;
                }
                if !self.quote {
                    eprintln!("client: {text}");
                    return outcome;
                }
                (outcome, format!("error: {text}").into_bytes())
            }
        };
        let written =
            self.out.write_all(&text).and_then(|()| self.out.write_all(b"\n"));
        match written.and_then(|()| self.out.flush()) {
            Ok(()) => outcome,
            // Nobody reads what we say any more.
            Err(_) => Outcome::Connection,
        }
    }

    /// Runs each line of `input` as a command; returns the worst outcome.
    /// Connects before the first.
    pub fn run_script(&mut self, input: impl BufRead) -> Outcome {
        let mut worst = Outcome::Done;
        if let Err(error) = self.client() {
            eprintln!("client: {error}");
            return Outcome::Connection;
        }
        for line in input.split(b'\n') {
            let Ok(line) = line else { break };
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            let words: Vec<Vec<u8>> = line
                .split(|&byte| byte == b' ')
                .filter(|word| !word.is_empty())
                .map(<[u8]>::to_vec)
                .collect();
            if !words.is_empty() {
                worst = worst.max(self.run(&words));
            }
        }
        worst
    }

    fn answer(&mut self, words: &[Vec<u8>]) -> Result<Answer, Failure> {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let (name, args) = words.split_first().ok_or_else(|| usage(String::new()))?;
        let (flags, exptime) = (self.flags, self.exptime);
        if let (Some(verb), [key, _, ..]) = (Verb::named(name), args)
            && verb != Verb::Cas
        {
            let value = args[1..].join(&b' ');
            return line(self.client()?.store(verb, key, value, flags, exptime, 0)?);
        }
        match (*name, args) {
            (b"cas", [key, unique, _, ..]) => {
                let unique = number("UNIQUE", unique, unsigned)?;
                let (verb, value) = (Verb::Cas, args[2..].join(&b' '));
                line(self.client()?.store(verb, key, value, flags, exptime, unique)?)
            }
            (b"get", [key]) => found(self.client()?.get(key)?, false),
            (b"gets", [key]) => found(self.client()?.gets(key)?, true),
            (b"gat", [exptime, key]) => {
                let exptime = number("SECS", exptime, signed)?;
                found(self.client()?.gat(key, exptime)?, false)
            }
            (b"get", [_, _, ..]) => {
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
            (b"incr" | b"decr", [key, delta]) => {
                let (up, delta) = (*name == b"incr", number("DELTA", delta, unsigned)?);
                line(self.client()?.ask(Request::Count { up, key, delta })?)
            }
            (b"touch", [key, exptime]) => {
                let exptime = number("SECS", exptime, signed)?;
                line(self.client()?.ask(Request::Touch { key, exptime })?)
            }
            (b"delete", [key]) => line(self.client()?.ask(Request::Delete(key))?),
            (b"flush", [] | [_]) => {
                let delay =
                    args.first().map_or(Ok(0), |d| number("SECS", d, signed))?;
                line(self.client()?.ask(Request::FlushAll { delay })?)
            }
            (b"stats", [] | [b"settings"]) => {
                let general = args.is_empty();
                let topic = if general { Topic::General } else { Topic::Settings };
                let stats = self.client()?.stats(topic)?;
                let lines = stats.iter().map(|(name, value)| format!("{name} {value}"));
                Ok(Answer::Value(lines.collect::<Vec<_>>().join("\n").into_bytes()))
            }
            (b"version", []) => line(self.client()?.ask(Request::Version)?),
            _ => {
                let name = name.escape_ascii();
                Err(usage(format!("{name} can't be used like that; see client --help")))
            }
        }
    }

    fn client(&mut self) -> Result<&mut Client, ClientError> {
        match &mut self.client {
            Some(client) => Ok(client),
            vacant => Ok(vacant.insert(Client::connect(&self.options)?)),
        }
    }
}

/// What is said on standard error, and how the command has ended by it.
struct Failure(Outcome, String);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let outcome = match &error {
            ClientError::Key(_) | ClientError::Value(_) => Outcome::Usage,
            error if error.is_fatal() => Outcome::Connection,
            _ => Outcome::Not,
        };
        Failure(outcome, error.to_string())
    }
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

fn number<N>(
    name: &str,
    word: &[u8],
    parse: fn(&[u8]) -> Option<N>,
) -> Result<N, Failure> {
    let wrong = || format!("{name} is a whole number, not {}", word.escape_ascii());
    parse(word).ok_or_else(|| usage(wrong()))
}

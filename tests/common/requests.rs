//! What clients ask for in a run under load, in bytes, and their answers in the words of
//! the checker, [`super::linear`]. Meta commands ask for the same, in other words.
//!
//! A [`Maker`] draws the commands of one client: the verbs are chosen in `Maker::ask`, and
//! a verb of yours has its place there, in [`Asked`] with what a register does for it, and
//! in `Command::write_to`. A *value in short* says who stores it, its number, and how many
//! bytes follow, so that histories of megabytes can be printed and compared.

use super::linear::{Asked, Operation, check_all, hit};
use super::stream::Ingredients;
use memcached_lite::driver::random::Random;
use std::io::{self, BufRead, ErrorKind, Write};

/// What a client asked, in the order it was sent: of which key, `None` for all.
pub type Ledger = Vec<(Option<usize>, Operation)>;

/// Whether what was told of so many keys can be explained.
pub fn judge<'a>(
    keys: usize,
    told: impl IntoIterator<Item = &'a (Option<usize>, Operation)>,
) -> Result<(), String> {
    let mut histories = vec![Vec::new(); keys];
    for (of, operation) in told {
        let of = of.map_or(0..keys, |key| key..key + 1);
        of.for_each(|key| histories[key].push(operation.clone()));
    }
    check_all(histories)
}

/// An answer in the checker's words, and the unique in it.
pub type Answer = (String, Option<u64>);

/// Something to send: one line, perhaps with a block.
pub struct Command {
    /// What it is asked of; several for a get alone, and none means all.
    pub keys: Vec<usize>,
    pub asked: Asked,
    pub noreply: bool,
    /// It is asked by a meta command.
    pub meta: bool,
}

/// Makes up the commands of one client.
pub struct Maker {
    /// Makes its values its own.
    pub number: usize,
    pub random: Random,
    /// The longest value that it stores, in bytes.
    pub longest: usize,
    /// The most commands that it sends at once.
    pub depth: usize,
    /// One in so many times, it flushes; and else, it reads all keys at once.
    pub flushes: usize,
    pub reads: usize,
    /// How many values it has stored.
    pub stored: u64,
    /// Of each key the unique that it saw last.
    pub uniques: Vec<u64>,
}

impl Maker {
    /// For so many keys, k0 and up.
    pub fn new(random: Random, number: usize, keys: usize) -> Maker {
        let (longest, depth, flushes, reads) = (20, 1, 60, 6);
        let (stored, uniques) = (0, vec![0; keys]);
        Maker { number, random, longest, depth, flushes, reads, stored, uniques }
    }

    /// What to send at once: of each key one request at most, so that as many are
    /// under way at the same time as there are clients. The last one is answered.
    pub fn commands(&mut self) -> Vec<Command> {
        let keys = self.uniques.len();
        if self.random.once_in(self.flushes) {
            let asked = Asked::FlushAll(self.random.pick(&[0, 0, 1, 2]));
            return vec![Command::of(Vec::new(), asked)];
        }
        let count = self.random.between(1, self.depth.min(keys));
        // The first ones are hot, the last ones often left alone.
        let last = self.random.below(keys);
        let first = self.random.below(last + 1);
        if self.random.once_in(self.reads) {
            let mut keys: Vec<usize> = (0..keys).collect();
            keys.rotate_left(first);
            let asked = self.random.pick(&[true, false]);
            let asked = if asked { Asked::Get } else { Asked::Gets };
            return vec![Command::of(keys, asked)];
        }
        let commands = (first..first + count).map(|key| {
            let asked = self.ask(key % keys);
            let noreply = key + 1 < first + count && !asked.is_get();
            let noreply = noreply && self.random.once_in(4);
            let has_words = !matches!(asked, Asked::Gat(_) | Asked::Touch(_));
            let meta = has_words && !noreply && self.random.once_in(3);
            Command { noreply, meta, ..Command::of(vec![key % keys], asked) }
        });
        commands.collect()
    }

    fn ask(&mut self, key: usize) -> Asked {
        match self.random.below(100) {
            0..18 => Asked::Get,
            18..28 => Asked::Gets,
            28..32 => Asked::Gat(self.exptime()),
            32..36 => Asked::Touch(self.exptime()),
            36..52 => Asked::Set(self.value(), self.exptime()),
            52..58 => Asked::Set(self.number(), self.exptime()),
            58..72 => Asked::Delete,
            72..79 => Asked::Add(self.value(), self.exptime()),
            79..85 => Asked::Append(self.value_of(1)),
            85..93 => Asked::Cas(self.value(), self.uniques[key], self.exptime()),
            _ => Asked::Incr(1 + self.random.below(9) as u64),
        }
    }

    /// Mostly for ever, else for some seconds, or not at all.
    fn exptime(&mut self) -> i64 {
        self.random.pick(&[0, 0, 0, 0, 0, 0, 0, 1, 2, -1])
    }

    fn value(&mut self) -> String {
        let len = self.random.below(self.longest);
        self.value_of(len)
    }

    fn value_of(&mut self, len: usize) -> String {
        self.stored += 1;
        format!("v{}.{}:{len};", self.number, self.stored)
    }

    /// A number that no other can be counted up to.
    fn number(&mut self) -> String {
        self.stored += 1;
        ((self.stored * 10 + self.number as u64) * 1_000_000).to_string()
    }
}

impl Asked {
    fn is_get(&self) -> bool {
        matches!(self, Asked::Get | Asked::Gets | Asked::Gat(_))
    }
}

impl Command {
    /// A classic one that wants its answer.
    pub fn of(keys: Vec<usize>, asked: Asked) -> Command {
        Command { keys, asked, noreply: false, meta: false }
    }

    /// The keys that the ledger has an entry for.
    pub fn of_keys(&self) -> Vec<Option<usize>> {
        match self.keys.is_empty() {
            true => vec![None],
            false => self.keys.iter().copied().map(Some).collect(),
        }
    }

    /// Appends the bytes to send.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        if self.meta {
            return self.write_meta(out);
        }
        let key = format!("k{}", self.keys.first().copied().unwrap_or_default());
        let noreply = if self.noreply { " noreply" } else { "" };
        let (verb, value, exptime, unique) = match &self.asked {
            Asked::Set(value, exptime) => ("set", value, *exptime, String::new()),
            Asked::Add(value, exptime) => ("add", value, *exptime, String::new()),
            Asked::Append(value) => ("append", value, 0, String::new()),
            Asked::Cas(value, unique, exptime) => {
                ("cas", value, *exptime, format!(" {unique}"))
            }
            asked => {
                let line = match asked {
                    Asked::Incr(delta) => format!("incr {key} {delta}"),
                    Asked::Touch(exptime) => format!("touch {key} {exptime}"),
                    Asked::Gat(exptime) => format!("gats {exptime} {key}"),
                    Asked::Delete => format!("delete {key}"),
                    Asked::FlushAll(delay) => format!("flush_all {delay}"),
                    get => {
                        let keys = self.keys.iter().map(|key| format!(" k{key}"));
                        format!("{get}{}", keys.collect::<String>())
                    }
                };
                return write!(out, "{line}{noreply}\r\n").expect("memory");
            }
        };
        let value = in_full(value);
        let len = value.len();
        write!(out, "{verb} {key} 0 {exptime} {len}{unique}{noreply}\r\n")
            .expect("memory");
        out.extend(value);
        out.extend(b"\r\n");
    }

    fn write_meta(&self, out: &mut Vec<u8>) {
        let (value, flags) = match &self.asked {
            Asked::Set(value, exptime) => (Some(value), format!("T{exptime}")),
            Asked::Add(value, exptime) => (Some(value), format!("ME T{exptime}")),
            Asked::Append(value) => (Some(value), "MA".into()),
            Asked::Cas(value, unique, exptime) => {
                (Some(value), format!("C{unique} T{exptime}"))
            }
            Asked::Incr(delta) => (None, format!("D{delta} v")),
            Asked::Gets => (None, "c v".into()),
            Asked::Get => (None, "v".into()),
            _ => (None, "k".into()),
        };
        let key = self.keys[0];
        let Some(value) = value.map(|value| in_full(value)) else {
            let name = match self.asked {
                Asked::Delete => "md",
                Asked::Incr(_) => "ma",
                _ => "mg",
            };
            return write!(out, "{name} k{key} {flags}\r\n").expect("memory");
        };
        write!(out, "ms k{key} {} {flags}\r\n", value.len()).expect("memory");
        out.extend([&value[..], b"\r\n"].concat());
    }

    /// The answer to a meta command, as the classic one is answered.
    fn read_meta(&self, stream: &mut impl BufRead) -> io::Result<Answer> {
        let line = read_line(stream)?;
        let mut words = line.split(' ');
        let code = words.next().unwrap_or_default();
        if code == "VA" {
            let len = words.next().and_then(|word| word.parse().ok());
            let mut value = vec![0; len.ok_or_else(|| odd(&line))?];
            stream.read_exact(&mut value)?;
            if !read_line(stream)?.is_empty() {
                return Err(odd(&line));
            }
            let unique =
                words.next().and_then(|word| word.strip_prefix('c')?.parse().ok());
            let value = in_short(&value);
            let is_number = matches!(self.asked, Asked::Incr(_));
            return Ok((if is_number { value } else { hit(&value) }, unique));
        }
        let answer = match (code, &self.asked) {
            ("HD", Asked::Delete) => "DELETED",
            ("HD", _) => "STORED",
            ("NS", _) => "NOT_STORED",
            ("EX", _) => "EXISTS",
            ("NF", _) => "NOT_FOUND",
            ("EN", _) => "END",
            _ => &line,
        };
        Ok((answer.to_owned(), None))
    }

    /// Reads an answer for each key, or one if it was asked of all.
    pub fn read_answers(&self, stream: &mut impl BufRead) -> io::Result<Vec<Answer>> {
        if self.meta {
            return Ok(vec![self.read_meta(stream)?]);
        }
        if !self.asked.is_get() {
            return Ok(vec![(read_line(stream)?, None)]);
        }
        let (mut answers, mut keys) = (Vec::new(), self.keys.iter());
        loop {
            let line = read_line(stream)?;
            let words: Vec<&str> = line.split(' ').collect();
            let ["VALUE", name, _, len, ref unique @ ..] = words[..] else {
                // `END`, or what has gone wrong, is the answer of all that are left.
                answers.resize(self.keys.len(), (line, None));
                return Ok(answers);
            };
            // Those between the last one that was shown and this one are misses.
            let missed = keys.by_ref().take_while(|key| format!("k{key}") != name);
            answers.extend(missed.map(|_| ("END".to_owned(), None)));
            let mut value = vec![0; len.parse().map_err(|_| odd(&line))?];
            stream.read_exact(&mut value)?;
            if answers.len() == self.keys.len() || !read_line(stream)?.is_empty() {
                return Err(odd(&line));
            }
            let unique = unique.first().map(|unique| unique.parse());
            let unique = unique.transpose().map_err(|_| odd(&line))?;
            answers.push((hit(&in_short(&value)), unique));
        }
    }
}

fn odd(line: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("an answer out of step: {line:?}"))
}

/// The next line, without its end. Half a line is none.
fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(line.escape_ascii().to_string()),
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// The bytes that a value in short stands for: each of its parts with so many letters
/// after it as it says.
fn in_full(short: &str) -> Vec<u8> {
    let mut value = Vec::new();
    for part in short.split_inclusive(';') {
        value.extend(part.bytes());
        let (letter, len) = letters(part);
        value.resize(value.len() + len, letter);
    }
    value
}

/// The value in short, if it is one that was stored; else with what is wrong in it.
fn in_short(mut value: &[u8]) -> String {
    let mut short = String::new();
    while let Some(end) = value.iter().position(|&byte| byte == b';') {
        let (part, rest) = value.split_at(end + 1);
        let part = String::from_utf8_lossy(part);
        let (letter, len) = letters(&part);
        if rest.iter().take_while(|&&byte| byte == letter).take(len).count() < len {
            break;
        }
        short += &part;
        value = &rest[len..];
    }
    short + &value[..value.len().min(100)].escape_ascii().to_string()
}

/// Which letter follows a part, and how often.
fn letters(part: &str) -> (u8, usize) {
    let Some((name, len)) = part.trim_end_matches(';').split_once(':') else {
        return (b'a', 0);
    };
    let number = name.rsplit('.').next().and_then(|name| name.parse::<u64>().ok());
    let letter = b'a' + (number.unwrap_or_default() % 26) as u8;
    (letter, len.parse().unwrap_or_default())
}

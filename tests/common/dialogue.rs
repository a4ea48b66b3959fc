//! Replays a written dialogue with a server: what is sent, what must come back.
//!
//! A text holds dialogues, and each is read line by line:
//!
//! | line | meaning |
//! |---|---|
//! | `# sentence` | a comment: a file's topic, or the reason for a step |
//! | `== title` | a dialogue begins |
//! | `== title [ours]` | the same; an older memcached answers otherwise |
//! | `> text` | send the text and `\r\n` |
//! | `>> text` | send the text alone |
//! | `< text` | exactly the text and `\r\n` must come next |
//! | `~ text` | `STAT` lines up to `END` come next, and the text is one of them |
//! | `closed` | the server closes the connection and sends nothing more |
//! | `shutdown` | we close our sending side, and still listen |
//! | `@ name` | go on with another connection; the first is `main` |
//!
//! Adjacent `>` and `>>` lines go out in one write, and adjacent `~` lines are about
//! the same list, in whatever order; a comment or an empty line between them separates
//! them. A connection is opened where it is first named.
//!
//! In a text, `\r \n \t \0 \\ \xHH` stand for one byte each; `{abc*251}` is `abc` 251
//! times; `{name}` is a decimal number that is taken from the reply where it is first
//! met, and stands for that number from there on. A brace is `\x7b` or `\x7d`, and a
//! blank at the end of a line, where nobody would see it, `\x20`.
//!
//! Each dialogue begins with `flush_all` on a connection of its own, and runs on fresh
//! ones. At its end, every connection still open is asked for the `version`: the next
//! line must answer that, so a reply too many is noticed. One that was shut down must
//! be closed by then, without another byte.
//!
//! A server that wants a login is shown the first of [`super::LOGINS`] before it is
//! flushed, and on every connection at the end.
//!
//! A server that calls `flush_all` an `INVALID REQUEST` speaks one of the other dialects:
//! `delete` clears it, and for want of a `version` it is asked for a key of its own.
//!
//! A text without any `==` line is a single dialogue. The whole text is parsed before
//! anything is sent, so what can't be understood is an error even where it is skipped.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// Runs the dialogues in `text` against the server at `addr`, without those tagged
/// `[ours]` if `skip_ours`, and counts them. The error tells of every dialogue that
/// failed: its title, the line number, what was expected, and what came.
pub fn replay(addr: SocketAddr, text: &str, skip_ours: bool) -> Result<usize, String> {
    let dialogues = parse(text)?;
    let mut run = 0;
    let mut failures = Vec::new();
    for dialogue in dialogues.iter().filter(|dialogue| !(skip_ours && dialogue.ours)) {
        run += 1;
        if let Err((line, problem)) = dialogue.run(addr) {
            failures.push(format!("{}, line {line}: {problem}", dialogue.title));
        }
    }
    if failures.is_empty() { Ok(run) } else { Err(failures.join("\n")) }
}

/// What each dialogue in `text` sends, on all of its connections, in one piece. A number
/// that only a reply tells is 1.
pub fn requests(text: &str) -> Vec<Vec<u8>> {
    let sent = |dialogue: &Dialogue| {
        let mut bytes = Vec::new();
        for (_, step) in &dialogue.steps {
            let Step::Send(parts) = step else { continue };
            for part in parts {
                bytes.extend_from_slice(match part {
                    Part::Bytes(bytes) => bytes,
                    Part::Number(_) => b"1",
                });
            }
        }
        bytes
    };
    parse(text).expect("dialogues").iter().map(sent).collect()
}

struct Dialogue {
    title: String,
    /// The line of its title.
    line: usize,
    ours: bool,
    /// With the line each step begins at.
    steps: Vec<(usize, Step)>,
}

enum Step {
    Send(Vec<Part>),
    Receive(Vec<Part>),
    /// Lines that must stand in the list.
    List(Vec<Vec<Part>>),
    Closed,
    Shutdown,
    Switch(String),
}

/// A piece of a text.
enum Part {
    Bytes(Vec<u8>),
    /// The number of that name.
    Number(String),
}

fn parse(text: &str) -> Result<Vec<Dialogue>, String> {
    let titled = text.lines().any(|line| line.starts_with("== "));
    let mut dialogues: Vec<Dialogue> = Vec::new();
    if !titled {
        let title = "untitled dialogue".to_string();
        dialogues.push(Dialogue { title, line: 1, ours: false, steps: Vec::new() });
    }
    // Whether the line before was a step too, so that this one may belong to it.
    let mut adjacent = false;
    for (line, content) in (1..).zip(text.lines()) {
        let joins = std::mem::replace(&mut adjacent, false);
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if let Some(title) = content.strip_prefix("== ") {
            let ours = title.ends_with(" [ours]");
            let title = title.trim_end_matches(" [ours]").to_string();
            dialogues.push(Dialogue { title, line, ours, steps: Vec::new() });
            continue;
        }
        let Some(dialogue) = dialogues.last_mut() else {
            return Err(format!("line {line}: a step before the first title"));
        };
        let (directive, rest) = content.split_once(' ').unwrap_or((content, ""));
        let parts = |end: &[u8]| {
            let mut parts = parse_parts(rest).map_err(|problem| {
                format!("{}, line {line}: {problem}", dialogue.title)
            })?;
            parts.push(Part::Bytes(end.to_vec()));
            Ok::<_, String>(parts)
        };
        let step = match directive {
            ">" => Step::Send(parts(b"\r\n")?),
            ">>" => Step::Send(parts(b"")?),
            "<" => Step::Receive(parts(b"\r\n")?),
            "~" => Step::List(vec![parts(b"\r\n")?]),
            "closed" if rest.is_empty() => Step::Closed,
            "shutdown" if rest.is_empty() => Step::Shutdown,
            "@" if is_name(rest) => Step::Switch(rest.to_string()),
            _ => {
                let title = &dialogue.title;
                return Err(format!("{title}, line {line}: what is {content:?}?"));
            }
        };
        adjacent = true;
        match (step, dialogue.steps.last_mut()) {
            (Step::Send(more), Some((_, Step::Send(parts)))) if joins => {
                parts.extend(more);
            }
            (Step::List(more), Some((_, Step::List(lines)))) if joins => {
                lines.extend(more);
            }
            (step, _) => dialogue.steps.push((line, step)),
        }
    }
    // A test that checks nothing would pass for ever.
    if let Some(dialogue) = dialogues.iter().find(|dialogue| dialogue.steps.is_empty())
    {
        let Dialogue { title, line, .. } = dialogue;
        return Err(format!("{title}, line {line}: no dialogue"));
    }
    Ok(dialogues)
}

/// Reads the escapes and braces of a text.
fn parse_parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        parts.push(Part::Bytes(unescape(&rest[..open])?));
        let Some((inside, after)) = rest[open + 1..].split_once('}') else {
            return Err(format!("a brace without its other half in {text:?}"));
        };
        // The last star counts, so a star may itself be repeated.
        let repeat = inside
            .rsplit_once('*')
            .and_then(|(what, count)| Some((what, count.parse::<usize>().ok()?)));
        parts.push(match repeat {
            Some((what, count)) => Part::Bytes(unescape(what)?.repeat(count)),
            None if is_name(inside) => Part::Number(inside.to_string()),
            None => return Err(format!("neither a name nor a repetition: {inside:?}")),
        });
        rest = after;
    }
    parts.push(Part::Bytes(unescape(rest)?));
    Ok(parts)
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("a bad escape or brace in {text:?}");
    let mut bytes = Vec::new();
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        bytes.push(match byte {
            b'}' => return Err(bad()),
            b'\\' => match left.next().ok_or_else(bad)? {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'\\' => b'\\',
                b'x' => {
                    let mut digit = || char::from(left.next()?).to_digit(16);
                    let high = digit().ok_or_else(bad)?;
                    let low = digit().ok_or_else(bad)?;
                    (high * 16 + low) as u8
                }
                _ => return Err(bad()),
            },
            byte => byte,
        });
    }
    Ok(bytes)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The numbers taken from replies, by name, as they were written.
type Numbers = HashMap<String, Vec<u8>>;

/// Where a dialogue failed, and how.
type Failure = (usize, String);

impl Dialogue {
    fn run(&self, addr: SocketAddr) -> Result<(), Failure> {
        let at = |line: usize| move |problem: String| (line, problem);
        let open = || Connection::open(addr).map_err(at(self.line));
        // It stays open, so that a server counts it from the first step to the last.
        let mut first = open()?;
        let last_words = first.clear().map_err(at(self.line))?;

        let mut numbers = Numbers::new();
        let mut name = "main".to_string();
        let mut connections = HashMap::from([(name.clone(), open()?)]);
        for (line, step) in &self.steps {
            let at = at(*line);
            let connection =
                connections.get_mut(&name).expect("opened when switched to");
            match step {
                Step::Send(parts) => {
                    let bytes = fill_in(parts, &numbers).map_err(at)?;
                    connection.send(&bytes).map_err(at)?;
                }
                Step::Receive(parts) => {
                    connection.receive(parts, &mut numbers).map_err(at)?;
                }
                Step::List(lines) => {
                    connection.list(lines, &mut numbers).map_err(at)?;
                }
                Step::Closed => connection.closed().map_err(at)?,
                Step::Shutdown => connection.shutdown().map_err(at)?,
                Step::Switch(to) => {
                    name = to.clone();
                    if !connections.contains_key(&name) {
                        connections.insert(name.clone(), open()?);
                    }
                }
            }
        }
        // What is found now belongs to the last step, as far as anyone can tell.
        let last = self.steps.last().map_or(self.line, |(line, _)| *line);
        for (name, connection) in &mut connections {
            connection.end(&last_words).map_err(|problem| {
                (last, format!("at the end, on {name}: {problem}"))
            })?;
        }
        Ok(())
    }
}

/// The bytes of a text in which every number is known.
fn fill_in(parts: &[Part], numbers: &Numbers) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(match part {
            Part::Bytes(bytes) => bytes,
            Part::Number(name) => {
                numbers.get(name).ok_or_else(|| format!("no number {name:?} yet"))?
            }
        });
    }
    Ok(bytes)
}

/// How far what has arrived agrees with what must come.
enum Agreement {
    /// All of it came, in so many bytes.
    Whole(usize),
    /// All that has arrived agrees, but it is not enough.
    SoFar,
    No,
}

/// Compares `received` with `parts`, and takes the numbers that are new.
fn compare(parts: &[Part], received: &[u8], numbers: &mut Numbers) -> Agreement {
    let mut used = 0;
    for part in parts {
        let left = &received[used..];
        let expected = match part {
            Part::Bytes(bytes) => bytes,
            Part::Number(name) if numbers.contains_key(name) => &numbers[name],
            Part::Number(name) => {
                let digits =
                    left.iter().take_while(|byte| byte.is_ascii_digit()).count();
                // Only a byte that is none shows that a number has ended.
                if digits == left.len() {
                    return Agreement::SoFar;
                }
                if digits == 0 {
                    return Agreement::No;
                }
                numbers.insert(name.clone(), left[..digits].to_vec());
                used += digits;
                continue;
            }
        };
        let common = expected.len().min(left.len());
        if expected[..common] != left[..common] {
            return Agreement::No;
        }
        if common < expected.len() {
            return Agreement::SoFar;
        }
        used += common;
    }
    Agreement::Whole(used)
}

/// What each connection is asked at the end of a dialogue: a request whose answer
/// nothing else that the server says could be taken for.
struct LastWords {
    request: &'static [u8],
    /// What the answer begins with.
    begins: &'static [u8],
    /// What its last line begins with.
    ends: &'static [u8],
}

const VERSION: LastWords =
    LastWords { request: b"version\r\n", begins: b"VERSION ", ends: b"VERSION " };

/// For connections that may have to log in before they are answered.
const LOGIN_VERSION: LastWords = LastWords {
    request: b"set login 0 0 13\r\nuser password\r\nversion\r\n",
    begins: b"STORED",
    ends: b"VERSION ",
};

/// For dialects that know of no version.
const MISSING: LastWords = LastWords {
    request: b"get at-the-end\r\n",
    begins: b"VALUE at-the-end ",
    ends: b"END",
};

/// One connection and what has arrived on it.
struct Connection {
    stream: TcpStream,
    /// Received and not yet compared with anything.
    received: Vec<u8>,
    /// Whether we have closed our sending side.
    shut_down: bool,
    /// Whether the server has closed it, as it was meant to.
    closed: bool,
}

impl Connection {
    fn open(addr: SocketAddr) -> Result<Connection, String> {
        let stream =
            super::connect(addr).map_err(|error| format!("connect: {error}"))?;
        Ok(Connection { stream, received: Vec::new(), shut_down: false, closed: false })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.stream.write_all(bytes) {
            Ok(()) => Ok(()),
            // The server has closed before it had read all of it. Whether it was
            // right to, the next step will tell.
            Err(error) if is_hangup(&error) => Ok(()),
            Err(error) => Err(format!("cannot send \"{}\": {error}", show(bytes))),
        }
    }

    /// Empties the server, and learns from its words what it can be asked in the end.
    fn clear(&mut self) -> Result<LastWords, String> {
        self.send(b"flush_all\r\n")?;
        let line = self.line()?;
        if line == b"OK\r\n" {
            return Ok(VERSION);
        }
        if line.starts_with(b"CLIENT_ERROR unauthenticated") {
            self.send(b"set login 0 0 13\r\nuser password\r\nflush_all\r\n")?;
            return match (self.line()?.as_slice(), self.line()?.as_slice()) {
                (b"STORED\r\n", b"OK\r\n") => Ok(LOGIN_VERSION),
                _ => Err("the server wants another login".into()),
            };
        }
        if !line.starts_with(b"INVALID REQUEST") {
            return Err(format!("flush_all was answered \"{}\"", show(&line)));
        }
        self.send(b"delete\r\n")?;
        let line = self.line()?;
        if !line.starts_with(b"DELETED") {
            return Err(format!("delete was answered \"{}\"", show(&line)));
        }
        Ok(MISSING)
    }

    fn receive(&mut self, parts: &[Part], numbers: &mut Numbers) -> Result<(), String> {
        loop {
            // Taken over only when all has come: a number that is still arriving
            // must not be kept.
            let mut taken = numbers.clone();
            match compare(parts, &self.received, &mut taken) {
                Agreement::Whole(used) => {
                    self.received.drain(..used);
                    *numbers = taken;
                    return Ok(());
                }
                Agreement::SoFar => {
                    self.read().map_err(|why| self.differs(parts, numbers, &why))?;
                }
                Agreement::No => return Err(self.differs(parts, numbers, "")),
            }
        }
    }

    fn list(
        &mut self,
        expected: &[Vec<Part>],
        numbers: &mut Numbers,
    ) -> Result<(), String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line == b"END\r\n" {
                break;
            }
            // Anything else is an error of the server, after which no END may come.
            if !line.starts_with(b"STAT ") {
                return Err(format!("expected a list, got \"{}\"", show(&line)));
            }
            lines.push(line);
        }
        for parts in expected {
            let mut taken = numbers.clone();
            let found = lines.iter().any(|line| {
                // A line that only begins well must not leave its numbers behind.
                taken.clone_from(numbers);
                let agreement = compare(parts, line, &mut taken);
                matches!(agreement, Agreement::Whole(used) if used == line.len())
            });
            if !found {
                let wanted = describe(parts, numbers);
                return Err(format!("no line \"{wanted}\" in the list"));
            }
            *numbers = taken;
        }
        Ok(())
    }

    /// The next line, with its end.
    fn line(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(newline) = self.received.iter().position(|&byte| byte == b'\n')
            {
                return Ok(self.received.drain(..=newline).collect());
            }
            self.read().map_err(|why| {
                format!("expected a line, got \"{}\"{why}", show(&self.received))
            })?;
        }
    }

    fn closed(&mut self) -> Result<(), String> {
        // One byte more is one too many, so one read is enough.
        if self.received.is_empty() && self.read_some().map_err(|e| e.to_string())? == 0
        {
            self.closed = true;
            return Ok(());
        }
        let got = show(&self.received);
        Err(format!("expected the connection to close, got \"{got}\""))
    }

    fn shutdown(&mut self) -> Result<(), String> {
        self.shut_down = true;
        self.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())
    }

    /// The check at the end of each dialogue.
    fn end(&mut self, last_words: &LastWords) -> Result<(), String> {
        if self.closed {
            return Ok(());
        }
        if self.shut_down {
            return self.closed();
        }
        let LastWords { request, begins, ends } = last_words;
        self.send(request)?;
        let mut line = self.line()?;
        let mut answer = line.clone();
        if line.starts_with(begins) {
            while !line.starts_with(ends) {
                line = self.line()?;
                answer.extend_from_slice(&line);
            }
            if self.received.is_empty() {
                return Ok(());
            }
        }
        let (begins, rest) = (show(begins), show(&self.received));
        Err(format!("expected one \"{begins}\", got \"{}{rest}\"", show(&answer)))
    }

    /// Waits for more bytes; the end of the connection is an error.
    fn read(&mut self) -> Result<(), String> {
        match self.read_some() {
            Ok(0) => Err(" and then the connection closed".to_string()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!(" and then {error}")),
        }
    }

    /// Waits for more bytes and says how many came, none at the end.
    fn read_some(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_hangup(&error) => return Ok(0),
                // std says "would block" for a read that took too long.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let seconds = super::REPLY_TIMEOUT.as_secs();
                    let why = format!("nothing for {seconds} seconds");
                    return Err(io::Error::new(ErrorKind::TimedOut, why));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn differs(&self, parts: &[Part], numbers: &Numbers, why: &str) -> String {
        let expected = describe(parts, numbers);
        format!("expected \"{expected}\", got \"{}\"{why}", show(&self.received))
    }
}

/// Whether the other side has closed. One that closes while it has input unread resets
/// the connection; to a client, that is closed too.
fn is_hangup(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// A text as a person can read it.
fn describe(parts: &[Part], numbers: &Numbers) -> String {
    let describe = |part: &Part| match part {
        Part::Bytes(bytes) => show(bytes),
        Part::Number(name) => {
            numbers.get(name).map_or(format!("{{{name}}}"), |digits| show(digits))
        }
    };
    parts.iter().map(describe).collect()
}

/// Bytes as a person can read them: escaped, and a long middle left out.
fn show(bytes: &[u8]) -> String {
    const ENDS: usize = 100;
    if bytes.len() <= 2 * ENDS {
        return bytes.escape_ascii().to_string();
    }
    let (start, end) = (&bytes[..ENDS], &bytes[bytes.len() - ENDS..]);
    let left_out = bytes.len() - 2 * ENDS;
    format!("{}[{left_out} bytes]{}", start.escape_ascii(), end.escape_ascii())
}

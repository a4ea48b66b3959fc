//! The language of scripts: what a scenario, a dialogue of tests/wire and one of a chapter
//! are written in. A script is text, and is parsed line by line, all of it before anything
//! starts:
//!
//! | line | meaning |
//! |---|---|
//! | `# sentence` | a comment: what the script is about, or the reason for a step |
//! | `== title` | a scene begins, with a new server; steps before the first are every scene's |
//! | `== title [ours]` | a scene that an older memcached plays differently |
//! | `> text`, `>> text` | the connection sends the text and `\r\n`; the text alone |
//! | `< text` | the text and `\r\n` must come next |
//! | `~ text` | `STAT` lines up to `END` must come next, and the text is one of them |
//! | `closed` | the server closes the connection, and nothing comes before |
//! | `shutdown` | we close our sending side, and still read |
//! | `leaves` | the same, and then `closed` |
//! | `killed` | the connection is closed at once, whatever is still to come |
//! | `@ name` | continue with another connection, opened here; the first is `main` |
//! | `@ name queued` | the same, and the server need not serve it yet |
//! | `server [OPTION]...` | start a server; after its end, again on the same data; `{logins}` is a file for `--auth-file` |
//! | `server~ text` | it prints a line with this text in it |
//! | `server killed`, `server idle` | kill -9 it; wait until it exits for want of clients |
//! | `client N [OPTION]...` | start client process N; needed only if it has options |
//! | `client N> command` | give it a command |
//! | `client N< reply` | its reply, a line or a value; `one \| other`: either |
//! | `client N~ text` | it prints a line with this text in it, which answers no command |
//! | `client N leaves`, `client N killed` | its input ends; kill -9 it |
//! | `numbered` | the clients' commands are shown with a number |
//! | `count name line` | only this line comes, until the connection ends; `{name}` is how often |
//! | `print text` | prints the text |
//! | `repeat COUNT` ... `end` | what stands between, this many times; `repeat clients`: as many as `--clients` says |
//!
//! Between `repeat` and `end`, `{n}` counts from 1, and `{r}` is a random word that depends
//! on the seed and on `{n}` alone: another block has the same word for the same `{n}`.
//!
//! Whatever is named is opened or started where it is first met: a connection by its first
//! step, a client by its first command, a server by the first scene that has no `server`
//! line of its own. The stage that they are on is the scene's alone, and what is left on it
//! at the end must have nothing more to say.
//!
//! Adjacent `>` and `>>` lines go out in one write, adjacent `<` lines are one reply, and
//! adjacent `~` lines are about one list, in whatever order; a comment or an empty line
//! between them separates them. What a text may contain is in `driver/text.rs`.
//!
//! Commands to several clients, and only then their replies, let them work at the same time.

use crate::driver::random::Random;
use crate::driver::stage::Options;
use crate::driver::text::{Text, is_name, parse as text};

/// A part of a script that stands for itself.
#[derive(Clone)]
pub struct Scene {
    /// What it is about.
    pub title: String,
    /// An older memcached answers differently.
    pub is_ours: bool,
    /// With the line each begins at.
    pub steps: Vec<(usize, Step)>,
}

/// A step of a script.
#[derive(Clone)]
pub struct Step {
    /// Whose it is: `server`, `client N`, or empty for the current connection.
    pub actor: String,
    /// What is done.
    pub act: Act,
}

/// What is done. See the table above.
#[derive(Clone)]
pub enum Act {
    /// `>`, `>>`
    Send(Text),
    /// `<`: one of these.
    Receive(Vec<Text>),
    /// `~`: all of these.
    List(Vec<Text>),
    /// `~` of a process.
    Prints(String),
    /// `@`, and whether it may be queued.
    Switch(String, bool),
    /// `server` or `client N`, with options.
    Start(Vec<String>),
    /// `count`: the name of the number, and the line.
    Count(String, String),
    /// `print`
    Print(String),
    /// A line of this one word.
    Word(&'static str),
}

/// Parses a script, which is called `name`. The error names the line, and says what was
/// expected there.
pub fn parse(
    name: &str,
    script: &str,
    options: &Options,
) -> Result<Vec<Scene>, String> {
    let lines = repeated(script, options).map_err(|why| format!("{name}, {why}"))?;
    // What stands before the first title: a scene of its own if there is none.
    let title = name.to_owned();
    let mut scenes = vec![Scene { title, is_ours: false, steps: Vec::new() }];
    // Whether the line before was a connection's step, to which this one may belong.
    let mut is_adjacent = false;
    for (number, line) in &lines {
        let joins = std::mem::take(&mut is_adjacent);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            let is_ours = title.ends_with(" [ours]");
            let title = title.trim_end_matches(" [ours]").to_owned();
            scenes.push(Scene { title, is_ours, steps: scenes[0].steps.clone() });
            continue;
        }
        let Step { actor, act } = step(line)
            .map_err(|what| format!("{name}, line {number}: expected {what}"))?;
        is_adjacent = actor.is_empty();
        let steps = &mut scenes.last_mut().expect("there is one").steps;
        let before = steps.last_mut().filter(|_| joins && is_adjacent);
        match (act, before.map(|(_, before)| &mut before.act)) {
            (Act::Send(more), Some(Act::Send(text))) => text.extend(more),
            (Act::Receive(more), Some(Act::Receive(it))) => it[0].extend(more.concat()),
            (Act::List(more), Some(Act::List(texts))) => texts.extend(more),
            (act, _) => steps.push((*number, Step { actor, act })),
        }
    }
    let common = if scenes.len() > 1 { scenes.remove(0).steps.len() } else { 0 };
    // A scene that checks nothing would hold forever.
    match scenes.iter().find(|scene| scene.steps.len() == common) {
        Some(Scene { title, .. }) => {
            Err(format!("{name}: expected steps in {title:?}"))
        }
        None => Ok(scenes),
    }
}

/// The lines of a script with their numbers, and with every `repeat` written out, the
/// innermost first.
fn repeated(script: &str, options: &Options) -> Result<Vec<(usize, String)>, String> {
    let mut lines: Vec<_> = (1..).zip(script.lines().map(str::to_owned)).collect();
    while let Some(end) = lines.iter().position(|(_, line)| line == "end") {
        let wrong = |at: usize, what| format!("line {}: expected {what}", lines[at].0);
        let is_start = |(_, line): &(usize, String)| line.starts_with("repeat ");
        let start = lines[..end].iter().rposition(is_start);
        let start = start.ok_or_else(|| wrong(end, "repeat before end"))?;
        let count = match &lines[start].1["repeat ".len()..] {
            "clients" => Some(options.clients),
            count => count.parse().ok(),
        };
        let count = count.ok_or_else(|| wrong(start, "a number after repeat"))?;
        let mut copies = Vec::new();
        for n in 1..=count {
            // D3
            let mut random = Random::new(options.seed.wrapping_add(n as u64));
            let (n, r) = (n.to_string(), random.text(20));
            let fill_in = |line: &String| line.replace("{n}", &n).replace("{r}", &r);
            let block = lines[start + 1..end].iter();
            copies.extend(block.map(|(number, line)| (*number, fill_in(line))));
        }
        lines.splice(start..=end, copies);
    }
    Ok(lines)
}

/// Parses one line: who, and what. The error says what was expected. A `client` or the
/// `server` is followed by its own signs, and everything else is about a connection.
pub fn step(line: &str) -> Result<Step, String> {
    let who = line.strip_prefix("client ").map(|rest| {
        let number = rest.bytes().take_while(u8::is_ascii_digit).count();
        ("client", line.len() - rest.len() + number)
    });
    let who = who.or(line.strip_prefix("server").map(|_| ("server", "server".len())));
    let (kind, end) = who.unwrap_or_default();
    let rest = line[end..].trim_start();
    let (verb, it) = rest.split_once(' ').unwrap_or((rest, ""));
    let act = match (kind, verb) {
        ("", ">") => Act::Send(text(it, "\r\n")?),
        ("", ">>") => Act::Send(text(it, "")?),
        ("", "<") => Act::Receive(vec![text(it, "\r\n")?]),
        ("", "~") => Act::List(vec![text(it, "\r\n")?]),
        ("", "@") if is_name(it.trim_end_matches(" queued")) => {
            let name = it.trim_end_matches(" queued");
            Act::Switch(name.into(), name != it)
        }
        ("", "count") => match it.split_once(' ').filter(|(name, _)| is_name(name)) {
            Some((name, line)) => Act::Count(name.into(), line.into()),
            None => return Err(format!("a name and a line, not {it:?}")),
        },
        ("", "repeat") => return Err("end, for this repeat".into()),
        ("", "print") => Act::Print(it.into()),
        ("client", ">") => Act::Send(text(it, "\n")?),
        // A client prints each reply and `\n`: a line has its `\r\n` still, a value has none.
        ("client", "<") => {
            let replies =
                it.split(" | ").flat_map(|it| [text(it, "\r\n\n"), text(it, "\n")]);
            Act::Receive(replies.collect::<Result<_, _>>()?)
        }
        ("client" | "server", "~") => Act::Prints(it.into()),
        ("client" | "server", _) if verb.is_empty() || verb.starts_with("--") => {
            Act::Start(rest.split_whitespace().map(str::to_owned).collect())
        }
        _ => {
            let words = match kind {
                "" => &["numbered", "closed", "shutdown", "leaves", "killed"][..],
                "client" => &["leaves", "killed"],
                _ => &["idle", "killed"],
            };
            let word = words.iter().find(|word| **word == rest);
            Act::Word(word.ok_or_else(|| format!("a step, not {line:?}"))?)
        }
    };
    Ok(Step { actor: line[..end].into(), act })
}

//! What the client program can be asked to do. The list of commands in its help is the
//! table that a line is parsed by, and what an error shows.
//!
//! | a command takes | which means |
//! |---|---|
//! | `KEY` | one word |
//! | `KEY...` | one or more |
//! | `VALUE` | all the rest of the line |
//! | `[SECS]` | one word or none |
//! | `SECS`, `DELTA`, `UNIQUE` | a number |
//!
//! How many words there may be, and whether a number is one, is checked where a command
//! is executed, in `client/shell.rs`.

/// What `client --help` prints.
pub const HELP: &str = include_str!("help.txt");

/// The part of the help that lists the commands.
pub(crate) fn help() -> &'static str {
    HELP[HELP.find("commands, ").unwrap_or_default()..].trim_end()
}

/// Something that the client program can be asked to do.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What follows the name. A VALUE comes last.
    pub(crate) takes: &'static str,
}

fn commands() -> impl Iterator<Item = Command> {
    help().lines().filter_map(|line| {
        let (usage, _) = line.strip_prefix("  ")?.split_once("  ")?;
        let (name, takes) = usage.split_once(' ').unwrap_or((usage, ""));
        Some(Command { name, takes })
    })
}

/// The command of this name.
pub(crate) fn command(name: &[u8]) -> Option<Command> {
    commands().find(|command| command.name.as_bytes() == name)
}

/// A command that may be meant: its name begins so, in capitals or not, or so does this.
pub(crate) fn similar(name: &[u8]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let is_similar =
        |it: &&str| it.as_bytes().starts_with(&name) || name.starts_with(it.as_bytes());
    commands().map(|command| command.name).find(is_similar)
}

impl Command {
    /// The arguments on a command line, whose shell has split the value.
    pub(crate) fn join(&self, words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let value = self.takes.split(' ').position(|name| name == "VALUE");
        let (before, value) =
            words.split_at(value.map_or(words.len(), |it| it.min(words.len())));
        let value = (!value.is_empty()).then(|| value.join(&b' '));
        before.iter().cloned().chain(value).collect()
    }
}

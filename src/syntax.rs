//! What the client program can be asked, as one table: what a line is parsed by, what
//! an error shows, and what `help` prints.
//!
//! | it takes | means |
//! |---|---|
//! | `KEY` | one word |
//! | `KEY...` | one or more |
//! | `VALUE` | all the rest of the line |
//! | `[SECS]` | one word or none |
//! | `SECS`, `DELTA`, `UNIQUE` | a number |
//!
//! How many words there may be, and whether a number is one, is seen where a command
//! is executed, in `shell.rs`.

use crate::words::Words;

/// What the client program can be asked to do.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What stands behind the name, as an error shows it. A VALUE comes last.
    pub(crate) takes: &'static str,
    does: &'static str,
}

const fn command(
    name: &'static str,
    takes: &'static str,
    does: &'static str,
) -> Command {
    Command { name, takes, does }
}

pub(crate) const FLUSH: Command =
    command("flush", "[SECS]", "remove everything, now or then");

/// What is parsed by, and what `help` and `--help` print.
const COMMANDS: [Command; 18] = [
    command("get", "KEY...", "the value; of several keys, each with its key"),
    command("gets", "KEY", "the value's unique, for cas, and the value"),
    command("gat", "SECS KEY", "the value, which lives SECS from now"),
    command("set", "KEY VALUE", "store a value"),
    command("add", "KEY VALUE", "store it if there is none"),
    command("replace", "KEY VALUE", "store it if there is one"),
    command("append", "KEY VALUE", "put it behind the one that is there"),
    command("prepend", "KEY VALUE", "put it before the one that is there"),
    command("cas", "KEY UNIQUE VALUE", "store it if the unique is still the same"),
    command("incr", "KEY DELTA", "add to a number"),
    command("decr", "KEY DELTA", "take from a number, down to 0"),
    command("touch", "KEY SECS", "have it live SECS from now; 0 is for ever"),
    command("delete", "KEY", "remove it; alone: remove everything, if you say yes"),
    FLUSH,
    command("stats", "[settings]", "the server's counters, or its settings"),
    command("version", "", "the server's version"),
    command("help", "", "this list"),
    command("exit", "", "leave, as do quit and the end of the input"),
];

/// The commands, as `help` and `--help` show them.
pub(crate) fn help() -> String {
    let mut text = "commands, also one a line on standard input:\n".to_owned();
    for Command { name, takes, does } in &COMMANDS {
        text += &format!("  {:<22} {does}\n", format!("{name} {takes}"));
    }
    text + "a VALUE may have blanks; as the last argument, - is what standard input has\n\
        exit code: 0 done, 1 not found or not stored, 2 usage, 3 no connection"
}

impl Command {
    /// The command of this name.
    pub(crate) fn named(name: &[u8]) -> Option<&'static Command> {
        let name = if name == b"quit" { b"exit" } else { name };
        COMMANDS.iter().find(|command| command.name.as_bytes() == name)
    }

    /// How many words come before the value; there is no end to them without one.
    fn words(&self) -> usize {
        let value = self.takes.split(' ').position(|name| name == "VALUE");
        value.unwrap_or(usize::MAX)
    }

    /// The arguments in the rest of a line. A value's blanks are its own, all but the
    /// one that ends the word before it.
    pub(crate) fn split(&self, mut rest: Words) -> Vec<Vec<u8>> {
        let mut args: Vec<&[u8]> = rest.by_ref().take(self.words()).collect();
        if args.len() == self.words() {
            args.extend(rest.0.strip_prefix(b" "));
        }
        args.into_iter().map(<[u8]>::to_vec).collect()
    }

    /// The arguments on a command line, whose shell has split the value.
    pub(crate) fn join(&self, words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let (before, value) = words.split_at(self.words().min(words.len()));
        let value = (!value.is_empty()).then(|| value.join(&b' '));
        before.iter().cloned().chain(value).collect()
    }

    /// What is to be asked for, and the words to ask with. Keys and values only: a
    /// command whose numbers are missing is a mistake.
    pub(crate) fn questions(&self, args: usize) -> Vec<(&'static str, &'static str)> {
        let missing = self.takes.split(' ').skip(args);
        let ask = |name| match name {
            "KEY" | "KEY..." => Some(("a key", "key: ")),
            "VALUE" => Some(("a value", "value: ")),
            _ => None,
        };
        missing.map(ask).collect::<Option<_>>().unwrap_or_default()
    }
}

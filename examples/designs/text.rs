//! System 1: a text file, a line a key, searched from the top.
//!
//! `key value`, so a key has no space in it and neither has a line end. The report says
//! that its search could be misled by words that overlap; here a key matches whole.

use crate::Design;
use crate::budget::Files;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

const NAME: &str = "store.txt";

struct Text {
    files: Files,
}

pub fn open(files: &Files) -> io::Result<Box<dyn Design>> {
    Ok(Box::new(Text { files: files.clone() }))
}

impl Design for Text {
    fn load(&mut self, items: &[(String, String)]) -> io::Result<()> {
        let lines = items.iter().map(|(key, value)| format!("{key} {value}\n"));
        self.files.rewrite(NAME, lines.collect::<String>().as_bytes())
    }

    fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        let line = format!("{key} {value}\n");
        if self.get(key)?.is_none() {
            return self.files.append(NAME, line.as_bytes());
        }
        let mut changed = String::new();
        let bytes = self.files.read(NAME)?;
        for old in String::from_utf8_lossy(&bytes).split_inclusive('\n') {
            changed += if value_of(old, key).is_some() { &line } else { old };
        }
        self.files.rewrite(NAME, changed.as_bytes())
    }

    fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let file = match File::open(self.files.path(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            if let Some(value) = value_of(&line, key) {
                return Ok(Some(value.trim_end_matches('\n').to_owned()));
            }
            line.clear();
        }
        Ok(None)
    }
}

/// What stands after `key` and a space, if the line begins so.
fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(' ')
}

//! Systems 3 and 4: one JSON document, read and written whole.
//!
//! Each operation reads and parses the file; one that stores something writes all of it.
//! The systems hold a lock meanwhile; here `&mut self` says the same.
//!
//! It knows one object of strings, in which only `"` and `\` are escaped.

use crate::Design;
use crate::budget::{Files, damaged};
use std::{fs, io};

const NAME: &str = "store.json";

struct Json {
    files: Files,
}

pub fn open(files: &Files) -> io::Result<Box<dyn Design>> {
    Ok(Box::new(Json { files: files.clone() }))
}

impl Design for Json {
    fn load(&mut self, items: &[(String, String)]) -> io::Result<()> {
        self.files.rewrite(NAME, encode(items).as_bytes())
    }

    fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        let mut members = members(&self.files)?;
        match members.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value.to_owned(),
            None => members.push((key.to_owned(), value.to_owned())),
        }
        self.load(&members)
    }

    fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let found = members(&self.files)?.into_iter().find(|(name, _)| name == key);
        Ok(found.map(|(_, value)| value))
    }
}

fn members(files: &Files) -> io::Result<Vec<(String, String)>> {
    match fs::read_to_string(files.path(NAME)) {
        // It is made by the first operation that stores something.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        text => decode(&text?).ok_or_else(|| damaged("no JSON document")),
    }
}

fn encode(members: &[(String, String)]) -> String {
    let mut text = "{".to_owned();
    for (key, value) in members {
        text += if text.len() > 1 { "," } else { "" };
        encode_string(&mut text, key);
        text.push(':');
        encode_string(&mut text, value);
    }
    text + "}"
}

fn encode_string(text: &mut String, plain: &str) {
    text.push('"');
    for letter in plain.chars() {
        if ['"', '\\'].contains(&letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
}

fn decode(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = text.strip_prefix('{')?;
    let mut members = Vec::new();
    while rest != "}" {
        if !members.is_empty() {
            rest = rest.strip_prefix(',')?;
        }
        let key = decode_string(&mut rest)?;
        rest = rest.strip_prefix(':')?;
        members.push((key, decode_string(&mut rest)?));
    }
    Some(members)
}

/// The string at the head of `rest`, which is moved past it.
fn decode_string(rest: &mut &str) -> Option<String> {
    *rest = rest.strip_prefix('"')?;
    let mut plain = String::new();
    loop {
        let (part, special) = rest.split_at(rest.find(['"', '\\'])?);
        plain += part;
        let Some(escaped) = special.strip_prefix('\\') else {
            *rest = &special[1..];
            return Some(plain);
        };
        plain.push(escaped.chars().next().filter(|c| ['"', '\\'].contains(c))?);
        *rest = &escaped[1..];
    }
}

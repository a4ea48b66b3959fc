//! System 3's other search: each entry says how long its value is, and whoever looks
//! for another key seeks past it.
//!
//! `key size`, a line end, the value, a line end. Values may have line ends in them.

use crate::Design;
use crate::budget::{Files, damaged};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

const NAME: &str = "store.sized";

struct Seeking {
    files: Files,
}

pub fn open(files: &Files) -> io::Result<Box<dyn Design>> {
    Ok(Box::new(Seeking { files: files.clone() }))
}

impl Design for Seeking {
    fn load(&mut self, items: &[(String, String)]) -> io::Result<()> {
        let entries = items.iter().map(|(key, value)| encode(key, value));
        self.files.rewrite(NAME, entries.collect::<String>().as_bytes())
    }

    fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        let new = encode(key, value);
        let Some(found) = self.find(key)? else {
            return self.files.append(NAME, new.as_bytes());
        };
        let bytes = self.files.read(NAME)?;
        // There is nothing after a value that is cut off.
        let after = bytes.get(found.entry.end..).unwrap_or_default();
        let parts = [&bytes[..found.entry.start], new.as_bytes(), after];
        self.files.rewrite(NAME, &parts.concat())
    }

    fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let Some(mut found) = self.find(key)? else { return Ok(None) };
        let mut value = vec![0; found.size];
        found.reader.read_exact(&mut value)?;
        Ok(Some(String::from_utf8_lossy(&value).into_owned()))
    }
}

/// An entry, and a reader that stands before its value.
struct Found {
    reader: BufReader<File>,
    entry: Range<usize>,
    size: usize,
}

impl Seeking {
    fn find(&self, key: &str) -> io::Result<Option<Found>> {
        let file = match File::open(self.files.path(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut reader = BufReader::new(file);
        let mut header = String::new();
        let mut start = 0;
        loop {
            header.clear();
            let length = reader.read_line(&mut header)?;
            if length == 0 {
                return Ok(None);
            }
            let fields = header.trim_end().split_once(' ');
            let sized =
                fields.and_then(|(name, size)| Some((name, size.parse().ok()?)));
            let (name, size): (_, u32) = sized.ok_or_else(|| damaged("a torn size"))?;
            let size = size as usize;
            let entry = start..start + length + size + 1;
            if name == key {
                return Ok(Some(Found { reader, entry, size }));
            }
            // Within what the reader has read ahead, this only moves along.
            reader.seek_relative(size as i64 + 1)?;
            start = entry.end;
        }
    }
}

fn encode(key: &str, value: &str) -> String {
    format!("{key} {}\n{value}\n", value.len())
}

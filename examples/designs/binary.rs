//! System 0: one binary file of entries, rewritten at each update.
//!
//! | key | size of the value | value |
//! |---|---|---|
//! | `KEY_SIZE` bytes, filled up with zeros | `INT_SIZE` bytes, big-endian | as it is |
//!
//! Nothing stands between two entries, so values may have any bytes. Storing an
//! unchanged value writes nothing. A changed one moves to the end: the rest is written
//! anew without its old entry.

use crate::Design;
use crate::budget::{Files, damaged};
use std::io;
use std::ops::Range;

const NAME: &str = "store.bin";
const KEY_SIZE: usize = 60;
const INT_SIZE: usize = 4;

struct Binary {
    files: Files,
}

pub fn open(files: &Files) -> io::Result<Box<dyn Design>> {
    Ok(Box::new(Binary { files: files.clone() }))
}

impl Design for Binary {
    fn load(&mut self, items: &[(String, String)]) -> io::Result<()> {
        let entries = items.iter().flat_map(|(key, value)| encode(key, value));
        self.files.rewrite(NAME, &entries.collect::<Vec<u8>>())
    }

    fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        let bytes = self.files.read(NAME)?;
        let entry = encode(key, value);
        match find(&bytes, key)? {
            None => self.files.append(NAME, &entry),
            Some(old) if bytes[old.clone()] == entry => Ok(()),
            Some(old) => {
                let parts = [&bytes[..old.start], &bytes[old.end..], &entry];
                self.files.rewrite(NAME, &parts.concat())
            }
        }
    }

    fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let bytes = self.files.read(NAME)?;
        let Some(entry) = find(&bytes, key)? else { return Ok(None) };
        let value = &bytes[entry.start + KEY_SIZE + INT_SIZE..entry.end];
        Ok(Some(String::from_utf8_lossy(value).into_owned()))
    }
}

fn encode(key: &str, value: &str) -> Vec<u8> {
    let mut entry = key.as_bytes().to_vec();
    entry.resize(KEY_SIZE, 0);
    entry.extend((value.len() as u32).to_be_bytes());
    entry.extend(value.bytes());
    entry
}

/// Where the entry of `key` stands: all before it have to be passed.
fn find(bytes: &[u8], key: &str) -> io::Result<Option<Range<usize>>> {
    let mut start = 0;
    while start < bytes.len() {
        let entry = &bytes[start..];
        let value = KEY_SIZE + INT_SIZE;
        let size = entry.get(KEY_SIZE..value).ok_or_else(|| damaged("a torn entry"))?;
        let size = size.iter().fold(0, |size, &byte| size << 8 | usize::from(byte));
        let end = start + value + size;
        if end > bytes.len() {
            return Err(damaged("a torn value"));
        }
        let (name, padding) = entry[..KEY_SIZE].split_at(key.len());
        if name == key.as_bytes() && padding.iter().all(|&byte| byte == 0) {
            return Ok(Some(start..end));
        }
        start = end;
    }
    Ok(None)
}

//! System 2: a file for each key, named by a hash of it.
//!
//! A map from key to file name is kept in memory, and in a file of its own, which is
//! written only when a key is new. An update touches nothing but the key's own file.
//!
//! Two keys of one hash would share a file. With 64 bits nobody has met such a pair by
//! chance; one who looks for it finds it.

use crate::Design;
use crate::budget::{Files, damaged};
use std::collections::BTreeMap;
use std::{fs, io};

/// The file of the map: a line a key, `key name`.
const MAP: &str = "map.txt";

struct OneEach {
    files: Files,
    names: BTreeMap<String, String>,
}

pub fn open(files: &Files) -> io::Result<Box<dyn Design>> {
    let bytes = files.read(MAP)?;
    let mut names = BTreeMap::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let (key, name) = line.split_once(' ').ok_or_else(|| damaged("a torn map"))?;
        names.insert(key.to_owned(), name.to_owned());
    }
    Ok(Box::new(OneEach { files: files.clone(), names }))
}

impl Design for OneEach {
    fn load(&mut self, items: &[(String, String)]) -> io::Result<()> {
        for (key, value) in items {
            self.names.insert(key.clone(), name_of(key));
            self.files.rewrite(&name_of(key), value.as_bytes())?;
        }
        self.write_map()
    }

    fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        if let Some(name) = self.names.get(key) {
            return self.files.rewrite(name, value.as_bytes());
        }
        // The value first: a crash between the two leaves a file that no key has.
        let name = name_of(key);
        self.files.rewrite(&name, value.as_bytes())?;
        self.names.insert(key.to_owned(), name);
        self.write_map()
    }

    fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let Some(name) = self.names.get(key) else { return Ok(None) };
        fs::read_to_string(self.files.path(name)).map(Some)
    }
}

impl OneEach {
    fn write_map(&self) -> io::Result<()> {
        let lines = self.names.iter().map(|(key, name)| format!("{key} {name}\n"));
        self.files.rewrite(MAP, lines.collect::<String>().as_bytes())
    }
}

/// FNV-1a of the key, 64 bits, in hexadecimal digits.
fn name_of(key: &str) -> String {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}

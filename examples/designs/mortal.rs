//! The disk of `ours.rs`, for a process that can be ended at any step.
//!
//! To the steps of the other designs come those that only our store needs: a sync, a
//! truncation, a file that is renamed.

use crate::budget::Files;
use memcached_lite::store::disk::{Directory, Disk};
use std::fs::File;
use std::io;

pub struct Mortal {
    pub directory: Directory,
    pub files: Files,
    /// Whether a sync is passed on. A process that is killed leaves the same files
    /// either way, and without it thousands of stores are opened in a second.
    pub syncs: bool,
}

impl Disk for Mortal {
    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }

    fn open(&self, name: &str, create: bool) -> io::Result<File> {
        if create {
            self.files.spend(1)?;
        }
        self.directory.open(name, create)
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let taken = self.files.spend(bytes.len())?;
        self.directory.write(file, &bytes[..taken], offset)?;
        // The rest is cut off.
        if taken < bytes.len() { self.files.spend(1).map(|_| ()) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.files.spend(1)?;
        if self.syncs { self.directory.sync(file) } else { Ok(()) }
    }

    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        self.files.spend(1)?;
        self.directory.reserve(file, len)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.files.spend(1)?;
        self.directory.set_len(file, len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.spend(1)?;
        self.directory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.spend(1)?;
        self.directory.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.files.spend(1)?;
        if self.syncs { self.directory.sync_dir() } else { Ok(()) }
    }
}

//! The files of a design, in a directory of their own, and a process that can be ended
//! at any step of changing them.
//!
//! A *step* is a byte that is written, or a change of another kind: a file that is made
//! or emptied. When the budget of steps is used up, the process is dead: what it was
//! writing is cut off there, and whatever it tries afterwards fails. The files stay as
//! they are, as the page cache keeps them when a process is killed.
//!
//! There is no call for a sync here: none of the reports mentions one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A directory as one process sees it; clones are the same process.
#[derive(Clone)]
pub struct Files {
    directory: PathBuf,
    left: Arc<AtomicU64>,
}

impl Files {
    /// What a process that starts now finds; the directory is made if there is none.
    pub fn new(directory: &Path) -> io::Result<Files> {
        fs::create_dir_all(directory)?;
        Ok(Files { directory: directory.into(), left: Arc::new(u64::MAX.into()) })
    }

    /// The process ends after so many steps from now.
    pub fn end_after(&self, steps: u64) {
        self.left.store(steps, Relaxed);
    }

    /// Takes as many of these steps as are left, at least one, or fails.
    pub fn spend(&self, steps: usize) -> io::Result<usize> {
        let left = self.left.load(Relaxed);
        let taken = left.min(steps as u64);
        self.left.store(left - taken, Relaxed);
        if taken == 0 { Err(io::Error::other("killed")) } else { Ok(taken as usize) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// All bytes of a file; none where it was never made.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        match fs::read(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Empties a file, or makes it, and writes it anew.
    ///
    /// It is emptied by making another of that name, in one step. Where a file is emptied
    /// in place, ext4 and XFS hasten to write it out, and the next rewrite waits until
    /// the disk is done with this one: a measurement would show little else.
    pub fn rewrite(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.spend(1)?;
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.write(&mut File::create_new(self.path(name))?, bytes),
        }
    }

    /// Appends to a file.
    pub fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        self.write(&mut OpenOptions::new().append(true).create(true).open(path)?, bytes)
    }

    fn write(&self, file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.spend(bytes.len())?);
            file.write_all(now)?;
            bytes = later;
        }
        Ok(())
    }
}

/// A file that does not say what it should.
pub fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

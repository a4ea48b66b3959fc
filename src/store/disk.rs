//! The few operations of the file system that the store needs, behind one small trait.
//!
//! Everything that the log does to its files goes through [`Disk`], so a test can
//! substitute a disk of its own: one that fails the n-th call, stops for good at it,
//! or forgets what was not synced. The product has one implementation,
//! [`Directory`], and no conditional compilation.
//!
//! A name is a file's name within the data directory, never a path, and never made of
//! what a client sends; one that is a link is rejected: nothing here reaches outside. Where
//! the system has `/proc/self/fd`, it is looked up in the directory that was opened, wherever
//! that is moved: in another that is put in its place, files of these names are another's.
//!
//! The calls promise what POSIX promises. A write is in the page cache and survives the
//! process, not the machine; `sync` makes a file's bytes and length survive both; a new
//! or changed *name* survives only after `sync_dir`.

use crate::os::allocate;
use crate::store::error::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file operations that the log is made of.
pub trait Disk: Send + Sync {
    /// The names of all files in the directory, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing; with `create` it is made, or emptied.
    fn open(&self, name: &str, create: bool) -> io::Result<File>;
    /// Fills `buffer` from `offset` on. A file that ends before is an `UnexpectedEof`.
    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(buffer, offset)
    }
    /// Writes all of `bytes` from `offset` on. After an error, any part of them may have
    /// been written; writing them again at the same offset repairs that.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }
    /// Returns when all that was written to the file is safe from a power cut.
    fn sync(&self, file: &File) -> io::Result<()> {
        // fdatasync: the bytes and the length, which is all a reader needs.
        file.sync_data()
    }
    /// Extends a file to `len` bytes of zeros that have their place on the disk: until it is
    /// removed, nobody else's files get it. Where the system can't do that, nothing happens.
    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        // Any other error is that of a file system that can't reserve.
        allocate(file.as_fd(), len)
            .or_else(|it| if is_full(it.kind()) { Err(it) } else { Ok(()) })
    }
    /// Truncates the file to `len` bytes, or extends it with zeros.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }
    /// Renames a file, replacing one that has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name. A process that has it open can still read it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when all renames and removals are safe from a power cut.
    fn sync_dir(&self) -> io::Result<()>;
}

/// A directory of the real file system.
pub struct Directory {
    path: PathBuf,
    /// Kept open, so that a sync needs no free descriptor; and it has the lock.
    handle: File,
    /// No file is made here, or opened for writing.
    is_read_only: bool,
}

/// The file that says which process has the directory. It is never removed.
pub(crate) const LOCK_NAME: &str = "lock";

impl Directory {
    /// Opens a directory that there is.
    pub fn at(path: &Path) -> io::Result<Directory> {
        let handle = File::open(path)?;
        let opened = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        let path = if opened.is_dir() { opened } else { path.to_owned() };
        Ok(Directory { path, handle, is_read_only: false })
    }

    /// The same for one that can't be written to, or must not be changed.
    pub fn read_only(path: &Path) -> io::Result<Directory> {
        Ok(Directory { is_read_only: true, ..Directory::at(path)? })
    }

    /// Opens one of its files, private to its owner if it is made here. A link could
    /// lead anywhere: to a file that is then emptied, or whose bytes are served.
    fn open_file(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        let path = self.path.join(name);
        // The standard library can't open without following links. A process that can
        // put a link here between the two calls can change the data as well.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            let why = format!("{name} is a link, or something else that is not a file");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        options.read(true).write(!self.is_read_only).mode(0o600).open(path)
    }

    /// Opens a directory, and makes it, readable by its owner alone, if it is missing; and
    /// makes sure that its name, and that of each directory made above it, is safe.
    pub fn create(path: &Path) -> io::Result<Directory> {
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<_> = path.ancestors().skip(1).take_while(is_missing).collect();
        fs::DirBuilder::new().mode(0o700).recursive(true).create(path)?;
        for made in [path].into_iter().chain(missing) {
            let parent = made.parent().filter(|parent| *parent != Path::new(""));
            match File::open(parent.unwrap_or(Path::new("."))) {
                // Whoever made a directory here for us has to keep its name safe.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                opened => opened?.sync_all()?,
            }
        }
        Directory::at(path)
    }

    /// Takes the directory for this process, until this is dropped or the process ends,
    /// however it ends: the kernel's lock is one of the directory itself, which needs no file
    /// in it. If another process has it, the error says which.
    pub fn lock(&self) -> Result<()> {
        Err(Error::Open(match self.handle.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => format!("it can't be locked: {error}"),
            Err(TryLockError::WouldBlock) => {
                let pid = self.owner().unwrap_or_default().parse::<u32>();
                let another = "another process".into();
                let owner = pid.map_or(another, |pid| format!("process {pid}"));
                let what = "stop that server or choose another --data";
                format!("{owner} is using it; {what}")
            }
        }))
    }

    /// What the lock file says: a pid, or nothing, unless it is somebody else's file.
    pub(crate) fn owner(&self) -> io::Result<String> {
        let mut found = Vec::new();
        match self.open(LOCK_NAME, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            opened => opened?.take(32).read_to_end(&mut found)?,
        };
        Ok(String::from_utf8_lossy(&found).trim_end().into())
    }

    /// Writes our pid to the lock file, once there is a data file: so a copy in which there
    /// is a pid and no data file has lost something. The pid itself is for people, and a full
    /// disk must not keep us from reading.
    pub fn sign(&self) {
        let pid = format!("{}\n", std::process::id());
        let file = self.open(LOCK_NAME, true);
        let _ = file.and_then(|file| self.write(&file, pid.as_bytes(), 0));
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // One that is not UTF-8 is somebody else's, who is told of it in other letters.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn open(&self, name: &str, create: bool) -> io::Result<File> {
        self.open_file(name, OpenOptions::new().create(create).truncate(create))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

/// Whether an error is that the disk, or what we may have of it, is full.
pub(crate) fn is_full(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error, FileTooLarge | QuotaExceeded | StorageFull)
}

/// A name that no file has yet: this one, or this one with a number after it.
pub(crate) fn free_name(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let taken = disk.list()?;
    let numbered = (2..).map(|number| format!("{name}.{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    Ok(names.find(|name| !taken.contains(name)).expect("numbers do not end"))
}

//! The few things that are asked of the file system, behind one small trait.
//!
//! Everything that the log does to its files goes through [`Disk`], so a test can
//! put its own disk there: one that fails the n-th call, stops for good at it,
//! or forgets what was not synced. The product has one implementation,
//! [`Directory`], and no conditional compilation.
//!
//! A name is a file's name within the data directory, never a path, and never made of
//! what a client sends; one that is a link is refused: nothing here reaches outside.
//!
//! What the calls promise is what POSIX promises. A write is in the page cache and
//! survives the process, not the machine; `sync` makes a file's bytes and length
//! survive both; a new or changed *name* survives only `sync_dir`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file operations that the log is made of.
pub trait Disk: Send + Sync {
    /// The names of all files in the directory, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing; with `create` it is made, or emptied.
    fn open(&self, name: &str, create: bool) -> io::Result<File>;
    /// Looks whether `name` still names this file. The error says what is wrong.
    fn still_names(&self, name: &str, file: &File) -> io::Result<()>;
    /// Reads at `offset` into `buffer`; returns how many bytes it got, 0 at the end.
    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; returns how many of the bytes it took.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Returns when all that was written to the file is safe from a power cut.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Cuts the file to `len` bytes, or makes it so long: what is added is zeros.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name. Who has it open can go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when all renames and removals are safe from a power cut.
    fn sync_dir(&self) -> io::Result<()>;
}

/// A directory of the real file system.
pub struct Directory {
    path: PathBuf,
    /// No file is made here, or opened for writing.
    is_read_only: bool,
}

/// The right to a data directory: held, by the kernel, until this is dropped or the
/// process ends, however it ends.
pub struct OwnerLock {
    _file: Option<File>,
    /// The directory itself is locked, too, for the day when somebody removes the lock
    /// file as a left over: a second server would lock a new one while the first holds the
    /// old.
    _directory: File,
}

/// The file whose lock says that a directory is in use, and that says by whom. It is
/// never removed.
const LOCK_NAME: &str = "lock";

impl Directory {
    /// Names a directory; nothing is touched yet.
    pub fn new(path: &Path) -> Directory {
        Directory { path: path.to_owned(), is_read_only: false }
    }

    /// The same for one that can't be written to, or that nobody wants to change.
    pub fn read_only(path: &Path) -> Directory {
        Directory { path: path.to_owned(), is_read_only: true }
    }

    /// Opens one of its files, which is its owner's alone if it is made here. A link could
    /// lead anywhere: to a file that is then emptied, or whose bytes are served.
    fn open_file(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        let path = self.path.join(name);
        // The standard library can't open without following one. Who is able to put a
        // link here between the two calls can change the data as well.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            let why = format!("{name} is a link, or something else that is no file");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        options.read(true).write(!self.is_read_only).mode(0o600).open(path)
    }

    /// Makes the directory, readable by its owner alone, if there is none; and sees to
    /// it that its name, and that of each directory made above it, is safe.
    pub fn create(&self) -> io::Result<()> {
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<_> =
            self.path.ancestors().skip(1).take_while(is_missing).collect();
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.path)?;
        for made in [&*self.path].into_iter().chain(missing) {
            let parent = made.parent().filter(|parent| *parent != Path::new(""));
            match File::open(parent.unwrap_or(Path::new("."))) {
                // Somebody else made a directory here for us, and its name is his care.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                opened => opened?.sync_all()?,
            }
        }
        Ok(())
    }

    /// Takes the directory for this process and leaves its pid in the lock file, unless
    /// nothing may be written. `Ok(Err(who))`: another process has it, by its pid where that
    /// is known.
    pub fn lock(&self) -> io::Result<Result<OwnerLock, String>> {
        // Not truncated: until the lock is ours, the pid in it is another's.
        let mut options = OpenOptions::new();
        options.create(!self.is_read_only).truncate(false);
        let mut file = match self.open_file(LOCK_NAME, &mut options) {
            Err(error)
                if self.is_read_only && error.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            opened => Some(opened?),
        };
        let directory = File::open(&self.path)?;
        // Not every file system can lock a directory: then the file's lock decides.
        let mut is_taken =
            matches!(directory.try_lock(), Err(TryLockError::WouldBlock));
        if let Some(file) = &file
            && !is_taken
        {
            match file.try_lock() {
                Err(TryLockError::Error(error)) => return Err(error),
                locked => is_taken = locked.is_err(),
            }
        }
        if is_taken {
            let mut pid = String::new();
            if let Some(file) = &mut file {
                file.read_to_string(&mut pid)?;
            }
            let who = match pid.trim() {
                "" => "whose lock file was removed",
                pid => pid,
            };
            return Ok(Err(who.to_owned()));
        }
        if let Some(file) = &mut file
            && !self.is_read_only
        {
            // The pid is for people; a full disk must not keep us from reading.
            let pid = format!("{}\n", std::process::id());
            let _ = file.set_len(0).and_then(|()| file.write_all(pid.as_bytes()));
        }
        Ok(Ok(OwnerLock { _file: file, _directory: directory }))
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str, create: bool) -> io::Result<File> {
        self.open_file(name, OpenOptions::new().create(create).truncate(create))
    }

    fn still_names(&self, name: &str, file: &File) -> io::Result<()> {
        let named = fs::symlink_metadata(self.path.join(name))?;
        let ours = file.metadata()?;
        match (named.dev(), named.ino()) == (ours.dev(), ours.ino()) {
            true => Ok(()),
            false => Err(io::Error::other("another file has its name")),
        }
    }

    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        // fdatasync: the bytes and the length, which is all a reader needs.
        file.sync_data()
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Fills `buffer` from `offset` on; a file that ends before is an error.
pub fn read_exact(
    disk: &dyn Disk,
    file: &File,
    mut buffer: &mut [u8],
    mut offset: u64,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match disk.read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes` from `offset` on. After an error, any part of them may
/// have been written; writing them again at the same offset mends it.
pub fn write_all(
    disk: &dyn Disk,
    file: &File,
    mut bytes: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

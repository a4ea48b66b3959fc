//! The log: an append-only sequence of records over one or two files.
//!
//! A *position* is one 64-bit number over all that was ever appended, and is never
//! used twice (but for what a power cut took back in `every-second`). A file
//! (*generation* n, `0000000001.kv` and up) says in its header at which position it
//! begins, its base; the next one begins where it ends. Three positions move, in this
//! order, and never back:
//!
//! ```text
//!   base                     synced             written             end
//!    | header | records ....... | records ......... | tail in memory |
//!               safe from a       safe from kill -9   lost with the process
//!               power cut
//! ```
//!
//! [`Log::append`] only copies a record to the tail. [`Log::commit`] makes a
//! position as safe as the mode asks: one write for all that has gathered in the
//! tail and, in `always`, one sync for everybody who waits (*group commit*). In
//! `always` the newest file is longer than what is written: zeros follow, as room.
//!
//! Invariants, which `docs/file.md` explains:
//! - L1: a record is appended once, at `end`, and its bytes never change.
//! - L2: `synced` moves only after a sync that began after those bytes were written.
//! - L3: after a failed write the same bytes are tried again at the same offset.
//! - L4: a failed sync is final; nothing is appended or promised after it.
//! - L5: once a file is seen to have lost its name, nothing is appended: who starts next
//!   would not find it.
//!
//! Lock order, also with the store's: shards ascending, then `syncing`, then `tail`,
//! then `generations`.
//! No sync runs under `tail`, but those of a rotation.

use crate::disk::{Disk, read_exact, write_all};
use crate::lock;
use crate::record::{Draft, Format, HEADER_LEN, Header, Record};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};

/// When the tail is this long, an append writes it out and does not wait for the
/// commit, so that it stays small while megabytes arrive in one tick.
const TAIL_LIMIT: usize = 1 << 20;

/// In `every-second`, commits wait for a sync when written bytes have waited for
/// one longer than this many seconds: the disk stalls, and they should notice.
const SYNC_STALL: u64 = 2;

/// In `always`, the file is made so many bytes longer than what is written, with
/// zeros: a sync that has no new length to write is a third cheaper.
const AHEAD: u64 = 256 << 10;

/// The most bytes that the tail takes up, where no record is longer than `record`: a
/// vector grows by doubling.
pub(crate) fn bytes_max(record: usize) -> usize {
    2 * (TAIL_LIMIT + record)
}

/// What a reply waits for, `--sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// For the sync: what was acknowledged outlives a power cut.
    #[default]
    Always,
    /// For the write: it outlives the process; a power cut costs about a second.
    EverySecond,
}

/// Why the log could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// The disk took no more bytes. Nothing is lost; the next write tries again.
    Write(String),
    /// A sync failed. What the kernel did with the bytes is unknown, so nothing is
    /// written until the store is opened anew.
    Sync(String),
    /// A file is no longer where it was: it has gone, its directory has, or another
    /// is in its place. Writes go on when it is back.
    Missing {
        /// The file's name.
        file: String,
        /// What is there instead.
        why: String,
    },
    /// The disk would not give back what was written to it.
    Read(String),
    /// A record no longer has its checksum.
    Damaged {
        /// The file's name.
        file: String,
        /// Where in the file the record begins, in bytes.
        offset: u64,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            LogError::Write(why) => write!(f, "writing data failed: {why}"),
            LogError::Sync(why) => {
                write!(f, "syncing data failed, restart the server: {why}")
            }
            LogError::Missing { file, why } => write!(
                f,
                "{file} is not where it was, nothing is written until it is back: {why}"
            ),
            LogError::Read(why) => write!(f, "reading data failed: {why}"),
            LogError::Damaged { file, offset } => {
                write!(f, "damaged record in {file} at offset {offset}")
            }
        }
    }
}

impl std::error::Error for LogError {}

/// What this module's calls return.
pub type Result<T> = std::result::Result<T, LogError>;

/// One data file.
pub struct Generation {
    /// Its number, the one in its name.
    pub number: u64,
    /// The position at which it begins.
    pub base: u64,
    /// Open for reading and writing.
    pub file: File,
}

impl Generation {
    /// The file's name in the data directory.
    pub fn name(&self) -> String {
        file_name(self.number)
    }
}

/// The name of the file of generation `number`.
pub fn file_name(number: u64) -> String {
    format!("{number:010}.kv")
}

/// Makes the file of a new generation under a temporary name, header and all, safe
/// but for its name. Returns it with that name.
pub fn make_file(disk: &dyn Disk, header: &Header) -> io::Result<(File, String)> {
    let name = file_name(header.generation) + ".tmp";
    let file = disk.open(&name, true)?;
    write_all(disk, &file, &header.encode(), 0)?;
    disk.sync(&file)?;
    Ok((file, name))
}

/// The appending end of the log.
struct Tail {
    /// Where appends go.
    generation: Arc<Generation>,
    /// Appended, and not written out: from position `written` on.
    bytes: Vec<u8>,
    /// The last attempt to write `bytes` out failed.
    stuck: bool,
    /// L5: the file that was not where it should be, when that was last looked at.
    missing: Option<LogError>,
    /// Length of the file, in bytes.
    file_len: u64,
}

/// See the module's page.
pub struct Log {
    disk: Box<dyn Disk>,
    format: Format,
    mode: SyncMode,
    /// Oldest first. Readers take an `Arc` and let go of the lock, so a file that
    /// compaction removes lives on until its last reader is done.
    generations: Mutex<Vec<Arc<Generation>>>,
    /// Held by whoever syncs; whoever waits for it is mostly served by that sync.
    syncing: Mutex<()>,
    tail: Mutex<Tail>,
    /// Changed only under `tail`; read without it.
    written: AtomicU64,
    /// Changed only under `syncing`; read without it.
    synced: AtomicU64,
    /// Unix second of the oldest write that no sync has covered, 0 if none.
    unsynced_since: AtomicU64,
    /// Set once, by the first sync that fails, or by a rename of which nobody knows whether
    /// it was done.
    sync_failed: AtomicBool,
}

impl Log {
    /// A log over files that replay has read and made safe up to position `end`.
    pub fn new(
        disk: Box<dyn Disk>,
        format: Format,
        mode: SyncMode,
        generations: Vec<Arc<Generation>>,
        end: u64,
    ) -> Log {
        let generation = generations[generations.len() - 1].clone();
        let file_len = end - generation.base;
        let (bytes, stuck, missing) = (Vec::new(), false, None);
        let tail = Tail { generation, bytes, stuck, missing, file_len };
        Log {
            disk,
            format,
            mode,
            generations: Mutex::new(generations),
            syncing: Mutex::new(()),
            tail: Mutex::new(tail),
            written: AtomicU64::new(end),
            synced: AtomicU64::new(end),
            unsynced_since: AtomicU64::new(0),
            sync_failed: AtomicBool::new(false),
        }
    }

    /// How the records are laid out.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// What a commit waits for.
    pub fn mode(&self) -> SyncMode {
        self.mode
    }

    /// The disk that the files are on.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The files, oldest first: one, or two while compaction runs.
    pub fn generations(&self) -> Vec<Arc<Generation>> {
        lock(&self.generations).clone()
    }

    /// The position up to which everything is safe from a power cut.
    pub fn synced(&self) -> u64 {
        self.synced.load(Acquire)
    }

    /// The position at which the next record will stand.
    pub fn end(&self) -> u64 {
        self.end_of(&lock(&self.tail))
    }

    /// Puts a record at the end of the log and returns where it stands. Nothing is
    /// promised about it before [`Log::commit`] has returned. After an error
    /// nothing was appended.
    pub fn append(&self, draft: &mut Draft, now: u64) -> Result<Range<u64>> {
        let mut tail = lock(&self.tail);
        self.check_sync()?;
        if let Some(error) = &tail.missing {
            return Err(error.clone());
        }
        if tail.stuck || tail.bytes.len() >= TAIL_LIMIT {
            self.write_out(&mut tail, now)?;
        }
        // L1
        let start = self.end_of(&tail);
        tail.bytes.extend_from_slice(draft.seal(&self.format, start, self.synced()));
        Ok(start..self.end_of(&tail))
    }

    /// Makes everything before `position` as safe as the mode promises, together
    /// with all that others have appended meanwhile.
    pub fn commit(&self, position: u64, now: u64) -> Result<()> {
        match self.mode {
            SyncMode::Always => self.sync_to(position, now),
            SyncMode::EverySecond => {
                if self.written.load(Acquire) < position {
                    let mut tail = lock(&self.tail);
                    self.check_sync()?;
                    self.write_out(&mut tail, now)?;
                }
                let since = self.unsynced_since.load(Acquire);
                if since != 0 && now > since + SYNC_STALL && self.check_sync().is_ok() {
                    self.sync_to(position, now)?;
                }
                Ok(())
            }
        }
    }

    /// Whether everything before `position` is as safe as the mode promises.
    pub fn is_committed(&self, position: u64) -> bool {
        position
            <= match self.mode {
                SyncMode::Always => self.synced(),
                SyncMode::EverySecond => self.written.load(Acquire),
            }
    }

    /// Writes out and syncs all that has been appended.
    pub fn sync(&self, now: u64) -> Result<()> {
        self.sync_to(self.end(), now)
    }

    /// Syncs unless `position` is safe already: by the time that the lock is ours,
    /// somebody else's sync has often covered it.
    fn sync_to(&self, position: u64, now: u64) -> Result<()> {
        if self.synced() >= position {
            return Ok(());
        }
        let _syncing = lock(&self.syncing);
        if self.synced() >= position {
            return Ok(());
        }
        self.check_sync()?;
        // File and position are captured together: a rotation between the two would
        // have us sync the new file and call the old one safe.
        let (generation, written, result) = {
            let mut tail = lock(&self.tail);
            let result = self.write_out(&mut tail, now);
            (tail.generation.clone(), self.written.load(Acquire), result)
        };
        self.sync_file(&generation)?;
        // L2: what was appended during the sync is not in `written`.
        self.synced.store(written, Release);
        let tail = lock(&self.tail);
        let unsynced = self.written.load(Acquire) > written;
        self.unsynced_since.store(if unsynced { now } else { 0 }, Release);
        drop(tail);
        // The write failed, but what it left out may not concern this caller.
        if written < position { result } else { Ok(()) }
    }

    /// L5: looks whether all files are where they were. What was appended before
    /// somebody looked has been written to the files, wherever they are.
    pub fn check_files(&self) -> Result<()> {
        let missing = self.generations().iter().find_map(|generation| {
            let file = generation.name();
            let error = self.disk.still_names(&file, &generation.file).err()?;
            Some(LogError::Missing { file, why: error.to_string() })
        });
        lock(&self.tail).missing = missing.clone();
        missing.map_or(Ok(()), Err)
    }

    fn sync_file(&self, generation: &Generation) -> Result<()> {
        self.or_final(self.disk.sync(&generation.file))
    }

    fn sync_names(&self) -> Result<()> {
        self.or_final(self.disk.sync_dir())
    }

    /// L4: the kernel reports a lost write once and may then call the page clean: a second
    /// sync would succeed and mean nothing. For names it is the same.
    fn or_final(&self, synced: io::Result<()>) -> Result<()> {
        synced.map_err(|error| {
            self.sync_failed.store(true, Release);
            LogError::Sync(error.to_string())
        })
    }

    fn check_sync(&self) -> Result<()> {
        if self.sync_failed.load(Acquire) {
            return Err(LogError::Sync("an earlier sync or rename failed".into()));
        }
        Ok(())
    }

    fn end_of(&self, tail: &Tail) -> u64 {
        self.written.load(Acquire) + tail.bytes.len() as u64
    }

    /// Writes the tail to its file. L3: after a failure the tail keeps its bytes and
    /// `written` its place, so that trying again writes the same at the same place.
    fn write_out(&self, tail: &mut Tail, now: u64) -> Result<()> {
        if tail.bytes.is_empty() {
            return Ok(());
        }
        let written = self.written.load(Acquire);
        let offset = written - tail.generation.base;
        let end = offset + tail.bytes.len() as u64;
        if self.mode == SyncMode::Always && end > tail.file_len {
            // If that can't be done, the write makes the file longer.
            let ahead = self.disk.set_len(&tail.generation.file, end + AHEAD);
            tail.file_len = if ahead.is_ok() { end + AHEAD } else { end };
        }
        let file = &tail.generation.file;
        let result = write_all(&*self.disk, file, &tail.bytes, offset);
        tail.stuck = result.is_err();
        // What was written all the same is cut off: a start would keep it aside, for
        // which a full disk has no room.
        if tail.stuck && self.disk.set_len(file, offset).is_ok() {
            tail.file_len = offset;
        }
        result.map_err(|error| LogError::Write(error.to_string()))?;
        self.written.store(written + tail.bytes.len() as u64, Release);
        tail.bytes.clear();
        tail.bytes.shrink_to(2 * TAIL_LIMIT);
        if self.unsynced_since.load(Acquire) == 0 {
            self.unsynced_since.store(now, Release);
        }
        Ok(())
    }

    /// Fills `buffer` with the bytes at `position`. False if their file is gone:
    /// compaction has moved the record, and the index knows where to.
    pub fn read(&self, position: u64, buffer: &mut [u8]) -> Result<bool> {
        let end = position + buffer.len() as u64;
        if self.written.load(Acquire) < end {
            let tail = lock(&self.tail);
            // Asked once more: before the lock was ours, the tail may have gone out.
            let written = self.written.load(Acquire);
            if written < end {
                let from = (position - written) as usize;
                buffer.copy_from_slice(&tail.bytes[from..from + buffer.len()]);
                return Ok(true);
            }
        }
        let Some(generation) = self.generation_at(position) else {
            return Ok(false);
        };
        let offset = position - generation.base;
        match read_exact(&*self.disk, &generation.file, buffer, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(LogError::Damaged { file: generation.name(), offset })
            }
            Err(error) => Err(LogError::Read(error.to_string())),
        }
    }

    /// The record that `bytes`, read from `position`, are (F1, again at every read).
    pub fn decode<'a>(&self, bytes: &'a [u8], position: u64) -> Result<Record<'a>> {
        self.format.decode(bytes, position).ok_or_else(|| {
            match self.generation_at(position) {
                Some(generation) => LogError::Damaged {
                    file: generation.name(),
                    offset: position - generation.base,
                },
                None => LogError::Read("its file has just been removed".into()),
            }
        })
    }

    fn generation_at(&self, position: u64) -> Option<Arc<Generation>> {
        let generations = lock(&self.generations);
        generations.iter().rev().find(|g| g.base <= position).cloned()
    }

    /// Begins the next generation: from here on all appends go there, `first` before
    /// any other. Returns the generation that is now the old one.
    pub fn rotate(
        &self,
        first: Option<&mut Draft>,
        now: u64,
    ) -> Result<Arc<Generation>> {
        let _syncing = lock(&self.syncing);
        let mut tail = lock(&self.tail);
        self.check_sync()?;
        self.write_out(&mut tail, now)?;
        let old = tail.generation.clone();
        let base = self.written.load(Acquire);
        let failed = |error: io::Error| LogError::Write(error.to_string());
        // The new one begins where this one ends.
        self.disk.set_len(&old.file, base - old.base).map_err(failed)?;
        tail.file_len = base - old.base;
        // The old file is safe before the new one has its name: replay finds either
        // no new file, or an old one that ends where the new one begins.
        self.sync_file(&old)?;
        let generation = old.number + 1;
        let header = Header { format: self.format, generation, base };
        let (file, temporary) = make_file(&*self.disk, &header).map_err(failed)?;
        if let Err(error) = self.disk.rename(&temporary, &file_name(generation)) {
            // If the temporary name is there to be removed, nothing was renamed.
            if self.disk.remove(&temporary).is_err() {
                self.sync_failed.store(true, Release);
            }
            return Err(failed(error));
        }
        // If it fails, it is unknown whether the new name survives: neither file may grow.
        self.sync_names()?;
        tail.generation = Arc::new(Generation { number: generation, base, file });
        tail.file_len = HEADER_LEN as u64;
        lock(&self.generations).push(tail.generation.clone());
        let start = base + HEADER_LEN as u64;
        self.written.store(start, Release);
        self.synced.store(start, Release);
        self.unsynced_since.store(0, Release);
        if let Some(draft) = first {
            tail.bytes.extend_from_slice(draft.seal(&self.format, start, start));
        }
        Ok(old)
    }

    /// Removes a generation of which the index needs nothing any more. All that was
    /// moved out of it is made safe first.
    pub fn retire(&self, old: &Arc<Generation>, now: u64) -> Result<()> {
        self.sync(now)?;
        let failed = |error: io::Error| LogError::Write(error.to_string());
        let name = old.name();
        if let Err(error) = self.disk.remove(&name) {
            // What is gone all the same can't be removed again.
            match self.disk.still_names(&name, &old.file) {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                _ => return Err(failed(error)),
            }
        }
        lock(&self.generations).retain(|generation| generation.number != old.number);
        // If it fails, the old name may come back beside those of the next rotation.
        self.sync_names()
    }
}

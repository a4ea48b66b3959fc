//! The log: an append-only sequence of records over one or two files.
//!
//! A *position* is one 64-bit number over all that was ever appended, and is never
//! used twice (except for what a power cut took back in `every-second`). A file
//! (*generation* n, `0000000001.kv` and up) says in its header at which position it
//! begins, its base; the next one begins where it ends. Three positions advance, in
//! this order, and never go back:
//!
//! ```text
//!   base                     synced             written             end
//!    | header | records ....... | records ......... | tail in memory |
//!               safe from a       safe from kill -9   lost with the process
//!               power cut
//! ```
//!
//! `Log::append` only copies a record to the tail. `Log::commit` makes a position as
//! safe as the mode asks: one write for all that has gathered in the tail and, in
//! `always`, one sync for everybody who waits (*group commit*). In `always`, zeros follow
//! the newest file's records: preallocated space.
//!
//! Invariants, which `docs/file.md` explains:
//! - L1: a record is appended once, at `end`, and its bytes never change.
//! - L2: `synced` advances only after a sync that began after those bytes were written.
//! - L3: after a failed write the same bytes are tried again at the same offset.
//! - L4: a failed sync is final: nothing is appended after it, and nothing more is called
//!   synced.
//! - L5: once a file is seen to have lost its name, nothing is appended: the next start
//!   would not find it. Before a name is changed, they are looked at.
//! - L6: before anything is appended to the next file, the old one says after its end that
//!   there is one, so that a copy made meanwhile does not lack it without a word.
//!
//! Lock order, also with the store's: compaction's `running`, then shards ascending, then
//! `syncing`, then `tail`, then `generations`. No sync runs under `tail`, except those of a
//! rotation: a writer that has to wait for them in `append` holds its shard's lock, so a
//! rotation stalls writers and all who need their shards.

use crate::lock;
use crate::store::disk::{Disk, is_full};
use crate::store::error::{Error, Result};
use crate::store::record::{Draft, Format, HEADER_LEN, Header, Kind, Record};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// When the tail is this long, an append writes it out and does not wait for the
/// commit, so that it stays small while megabytes arrive in one tick.
const TAIL_LIMIT: usize = 1 << 20;

/// In `every-second`, commits wait for a sync when the last one is more than this many
/// seconds old: the disk stalls.
const SYNC_STALL: u64 = 2;

/// In `always`, the file is extended to this many bytes beyond what is written, with
/// zeros: a sync that has no new length to write is a third cheaper.
const PREALLOCATED: u64 = 256 << 10;

/// The name that a reserve has while it is made: that of a temporary file, which a start
/// removes.
const RESERVE: &str = "0000000000.kv.tmp";

/// What a reply waits for, `--sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// For the sync: what was acknowledged outlives a power cut.
    #[default]
    Always,
    /// For the write: it outlives the process; a power cut costs about a second.
    EverySecond,
}

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

    /// What a read says that finds no valid record at `position`.
    pub(crate) fn damaged(&self, position: u64) -> Error {
        let (name, offset) = (self.name(), position - self.base);
        Error::Read(format!("the record in {name} at offset {offset} is damaged"))
    }

    /// Whether its name leads to another file, or to none.
    fn is_lost(&self, disk: &dyn Disk) -> bool {
        let inode = |file: &File| file.metadata().map(|it| (it.dev(), it.ino())).ok();
        match disk.open(&self.name(), false) {
            Ok(named) => inode(&named) != inode(&self.file),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The name of the file of generation `number`.
pub fn file_name(number: u64) -> String {
    format!("{number:010}.kv")
}

/// Makes the file of a new generation under a temporary name, with its header, safe
/// except for its name. Returns it with that name.
pub(crate) fn make_file(
    disk: &dyn Disk,
    header: &Header,
) -> io::Result<(File, String)> {
    let name = file_name(header.generation) + ".tmp";
    let file = disk.open(&name, true)?;
    disk.write(&file, &header.encode(), 0)?;
    disk.sync(&file)?;
    Ok((file, name))
}

/// The appending end of the log.
struct Tail {
    /// Where appends go.
    generation: Arc<Generation>,
    /// Appended, and not written out: from position `written` on.
    bytes: Vec<u8>,
    /// How the last attempt to write `bytes` out failed, if it did: then an append tries again
    /// first, so that the tail does not grow.
    failed: Option<io::ErrorKind>,
    /// Length of the file, in bytes.
    file_len: u64,
}

/// See the top of this file.
pub(crate) struct Log {
    /// The disk that the files are on.
    pub(crate) disk: Arc<dyn Disk>,
    /// How the records are laid out.
    pub(crate) format: Format,
    /// What a commit waits for.
    pub(crate) mode: SyncMode,
    /// Oldest first. Readers take an `Arc` and release the lock, so a file that
    /// compaction removes lives on until its last reader is done.
    generations: Mutex<Vec<Arc<Generation>>>,
    /// Held during a sync; most that wait for it are then served by that sync.
    syncing: Mutex<()>,
    tail: Mutex<Tail>,
    /// Changed only under `tail`; read without it.
    written: AtomicU64,
    /// Changed only under `syncing`; read without it.
    synced: AtomicU64,
    /// Unix second at which the last sync of everything written began.
    synced_at: AtomicU64,
    /// For `stats`: how long the last sync took whoever made it, and the longest one, in
    /// microseconds, with the wait for another that was under way.
    pub(crate) sync_micros: [AtomicU64; 2],
    /// Set once, by the first sync that fails, by a rename of which nobody knows whether it
    /// was done, or by a file that has lost its name.
    sync_failed: AtomicBool,
    /// C5: new values have to wait until compaction has made room.
    is_held_back: AtomicBool,
}

impl Log {
    /// A log over files that recovery has read and made safe up to position `end`.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        format: Format,
        mode: SyncMode,
        generations: Vec<Arc<Generation>>,
        end: u64,
        now: u64,
    ) -> Log {
        let generation = generations[generations.len() - 1].clone();
        let (bytes, failed, file_len) = (Vec::new(), None, end - generation.base);
        let tail = Tail { generation, bytes, failed, file_len };
        Log {
            disk,
            format,
            mode,
            generations: Mutex::new(generations),
            syncing: Mutex::new(()),
            tail: Mutex::new(tail),
            written: AtomicU64::new(end),
            synced: AtomicU64::new(end),
            synced_at: AtomicU64::new(now),
            sync_micros: Default::default(),
            sync_failed: AtomicBool::new(false),
            is_held_back: AtomicBool::new(false),
        }
    }

    /// The files, oldest first: one, or two while compaction runs.
    pub(crate) fn generations(&self) -> Vec<Arc<Generation>> {
        lock(&self.generations).clone()
    }

    /// The position up to which everything is safe from a power cut.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Acquire)
    }

    /// The position at which the next record will stand.
    pub(crate) fn end(&self) -> u64 {
        self.end_of(&lock(&self.tail))
    }

    fn end_of(&self, tail: &Tail) -> u64 {
        self.written.load(Acquire) + tail.bytes.len() as u64
    }

    /// Whether the disk has been found full, and compaction has not made room since.
    pub(crate) fn is_full(&self) -> bool {
        self.is_held_back.load(Acquire) || lock(&self.tail).failed.is_some_and(is_full)
    }

    /// C5: holds new values back, or no longer.
    pub(crate) fn hold_back(&self, is_held_back: bool) {
        self.is_held_back.store(is_held_back, Release);
    }

    /// Appends a new value, as [`Log::append`] does, unless those are held back.
    pub(crate) fn append_value(&self, draft: &Draft) -> Result<Range<u64>> {
        if self.is_held_back.load(Acquire) {
            let why = "the disk is full, and compaction has to make room first";
            return Err(Error::Write(why.into()));
        }
        self.append(draft)
    }

    /// Appends a record and returns where it stands. Nothing is promised about it before
    /// [`Log::commit`] has returned. After an error nothing was appended.
    pub(crate) fn append(&self, draft: &Draft) -> Result<Range<u64>> {
        let mut tail = lock(&self.tail);
        self.check_sync()?;
        if tail.failed.is_some() || tail.bytes.len() >= TAIL_LIMIT {
            self.write_out(&mut tail)?;
        }
        // L1
        let start = self.end_of(&tail);
        draft.append_to(&mut tail.bytes, start, self.synced());
        Ok(start..self.end_of(&tail))
    }

    /// Makes everything before `position` as safe as the mode promises, together
    /// with all that others have appended meanwhile.
    pub(crate) fn commit(&self, position: u64, now: u64) -> Result<()> {
        if self.mode == SyncMode::EverySecond {
            if self.written.load(Acquire) < position {
                let mut tail = lock(&self.tail);
                self.check_sync()?;
                self.write_out(&mut tail)?;
            }
            // What is written keeps this mode's promise, also after a sync that failed.
            let is_stalled = now > self.synced_at.load(Acquire) + SYNC_STALL;
            if !is_stalled || self.sync_failed.load(Acquire) {
                return Ok(());
            }
        }
        self.sync_to(position, now)
    }

    /// Whether everything before `position` is as safe as the mode promises.
    pub(crate) fn is_committed(&self, position: u64) -> bool {
        let is_always = self.mode == SyncMode::Always;
        let end = if is_always { &self.synced } else { &self.written };
        position <= end.load(Acquire)
    }

    /// Writes out and syncs all that has been appended.
    pub(crate) fn sync(&self, now: u64) -> Result<()> {
        // Also where nothing is left to sync: who calls this reports it.
        self.check_sync()?;
        self.sync_to(self.end(), now)?;
        self.synced_at.store(now, Release);
        Ok(())
    }

    /// Syncs unless `position` is safe already: by the time that the lock is ours,
    /// another thread's sync has often covered it.
    fn sync_to(&self, position: u64, now: u64) -> Result<()> {
        if self.synced() >= position {
            return Ok(());
        }
        let begun = Instant::now();
        let _syncing = lock(&self.syncing);
        if self.synced() >= position {
            return Ok(());
        }
        self.check_sync()?;
        // File and position are captured together: a rotation between the two would
        // have us sync the new file and call the old one safe.
        let (generation, written, result) = {
            let mut tail = lock(&self.tail);
            let result = self.write_out(&mut tail);
            (tail.generation.clone(), self.written.load(Acquire), result)
        };
        self.final_if_failed(self.disk.sync(&generation.file))?;
        // L2: what was appended during the sync is not in `written`.
        self.synced.store(written, Release);
        self.synced_at.store(now, Release);
        let micros = begun.elapsed().as_micros() as u64;
        self.sync_micros[0].store(micros, Relaxed);
        self.sync_micros[1].fetch_max(micros, Relaxed);
        // The write failed, but what it left out may not concern this caller.
        if written < position { result } else { Ok(()) }
    }

    /// L5: fails, and for good, if a file has lost its name.
    pub(crate) fn check_files(&self) -> Result<()> {
        let lost = self.generations().into_iter().find(|it| it.is_lost(&*self.disk));
        let Some(lost) = lost else { return Ok(()) };
        let what = "is not where it was; put it back, or copy the items before";
        self.final_if_failed(Err(io::Error::other(format!("{} {what}", lost.name()))))
    }

    /// L4: the kernel reports a lost write once and may then call the page clean: a second
    /// sync would succeed and mean nothing. For names it is the same.
    fn final_if_failed(&self, synced: io::Result<()>) -> Result<()> {
        synced.map_err(|error| {
            self.sync_failed.store(true, Release);
            Error::Sync(error.to_string())
        })
    }

    fn check_sync(&self) -> Result<()> {
        let why = "an earlier sync failed, or a file is gone";
        let has_failed = self.sync_failed.load(Acquire);
        if has_failed { Err(Error::Sync(why.into())) } else { Ok(()) }
    }

    /// Writes the tail to its file. L3: after a failure the tail keeps its bytes and
    /// `written` its place, so that trying again writes the same at the same place.
    fn write_out(&self, tail: &mut Tail) -> Result<()> {
        if tail.bytes.is_empty() {
            return Ok(());
        }
        let written = self.written.load(Acquire);
        let offset = written - tail.generation.base;
        let end = offset + tail.bytes.len() as u64;
        let file = &tail.generation.file;
        if self.mode == SyncMode::Always && end > tail.file_len {
            // If that can't be done, the write extends the file.
            let extended = self.disk.set_len(file, end + PREALLOCATED);
            tail.file_len = if extended.is_ok() { end + PREALLOCATED } else { end };
        }
        let result = self.disk.write(file, &tail.bytes, offset);
        tail.failed = result.as_ref().err().map(io::Error::kind);
        result.map_err(write_error)?;
        self.written.store(written + tail.bytes.len() as u64, Release);
        tail.bytes.clear();
        tail.bytes.shrink_to(2 * TAIL_LIMIT);
        Ok(())
    }

    /// The bytes of the record at `place`, which is in that file, or still in the tail.
    pub(crate) fn read(&self, file: &Generation, place: Range<u64>) -> Result<Vec<u8>> {
        let Range { start, end } = place;
        // A record is in the tail or in the file, as a whole: the tail is written at once.
        if self.written.load(Acquire) < end {
            let tail = lock(&self.tail);
            // Checked again: before the lock was ours, the tail may have been written.
            let written = self.written.load(Acquire);
            if written < end {
                let [from, to] = [start, end].map(|it| (it - written) as usize);
                return Ok(tail.bytes[from..to].to_vec());
            }
        }
        let (offset, mut bytes) = (start - file.base, vec![0; (end - start) as usize]);
        let read = self.disk.read(&file.file, &mut bytes, offset);
        let why = |error| format!("{} at offset {offset}: {error}", file.name());
        read.map_err(|error| Error::Read(why(error)))?;
        Ok(bytes)
    }

    /// The file of a live record. It stays as long as somebody has it, or the lock of the
    /// shard that points there.
    pub(crate) fn generation_at(&self, position: u64) -> Arc<Generation> {
        let generations = lock(&self.generations);
        let found = generations.iter().rev().find(|g| g.base <= position);
        found.expect("the file of a live record is there").clone()
    }

    /// C5: reserves so many bytes of the disk, until the file is dropped or the process
    /// ends: it has no name.
    pub(crate) fn reserve(&self, len: u64) -> Result<File> {
        let reserved = self.disk.open(RESERVE, true).and_then(|file| {
            let reserved = self.disk.reserve(&file, len);
            self.disk.remove(RESERVE).and(reserved).map(|()| file)
        });
        let why = "compaction needs as much free space as the live records have";
        reserved.map_err(|error| Error::Write(format!("{why}: {error}")))
    }

    /// Begins the next generation: from here on all appends go there.
    pub(crate) fn rotate(&self) -> Result<()> {
        let _syncing = lock(&self.syncing);
        let mut tail = lock(&self.tail);
        self.check_sync()?;
        self.write_out(&mut tail)?;
        let old = tail.generation.clone();
        let base = self.written.load(Acquire);
        // The new one begins where this one ends, without preallocated space.
        self.disk.set_len(&old.file, base - old.base).map_err(write_error)?;
        tail.file_len = base - old.base;
        // The old file is safe before the new one has its name: a start finds either
        // no new file, or an old one that ends where the new one begins.
        self.final_if_failed(self.disk.sync(&old.file))?;
        let number = old.number + 1;
        let header = Header { format: self.format, generation: number, base };
        let (file, temporary) = make_file(&*self.disk, &header).map_err(write_error)?;
        self.check_files()?;
        if let Err(error) = self.disk.rename(&temporary, &file_name(number)) {
            // If the temporary name is there to be removed, nothing was renamed.
            if self.disk.remove(&temporary).is_err() {
                self.sync_failed.store(true, Release);
            }
            return Err(write_error(error));
        }
        // If it fails, it is unknown whether the new name survives: neither file may grow.
        self.final_if_failed(self.disk.sync_dir())?;
        // L6. If this fails, only such a copy is affected.
        let mut bytes = Vec::new();
        let continued = Record { kind: Kind::Continued, ..Record::default() };
        Draft::new(&self.format, continued).append_to(&mut bytes, base, base);
        let _ = self.disk.write(&old.file, &bytes, base - old.base);
        tail.generation = Arc::new(Generation { number, base, file });
        tail.file_len = HEADER_LEN as u64;
        lock(&self.generations).push(tail.generation.clone());
        let start = base + HEADER_LEN as u64;
        self.written.store(start, Release);
        self.synced.store(start, Release);
        Ok(())
    }

    /// Removes the oldest generation, of which the index needs nothing any more. All that
    /// was appended, which is all that was moved out of it, is made safe first.
    pub(crate) fn retire(&self, old: &Generation, now: u64) -> Result<()> {
        self.sync(now)?;
        self.check_files()?;
        // It may be gone although that fails, and can't be removed again.
        if let Err(error) = self.disk.remove(&old.name())
            && !old.is_lost(&*self.disk)
        {
            return Err(write_error(error));
        }
        lock(&self.generations).retain(|generation| generation.number != old.number);
        // If it fails, the old name may come back beside those of the next rotation.
        self.final_if_failed(self.disk.sync_dir())
    }
}

fn write_error(error: io::Error) -> Error {
    Error::Write(error.to_string())
}

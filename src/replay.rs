//! From the files of a directory back to a log: replay, and what to do with damage.
//!
//! Files are read oldest first, record by record, each checked before anybody sees
//! it. Where a record of the newest file does not check, its rest is one of two
//! things, and the `synced` field of the records behind it tells which:
//!
//! - R1: a *torn tail*. No record behind the damage says that the damaged place was
//!   ever safe. Nothing acknowledged is in it that was synced before a later
//!   record was made. It is kept aside as `NAME.torn`, cut off, and said. Zeros at the
//!   end are room that the log had made; they are cut off without a word.
//! - R2: *damage to what once was safe*. A later record says so. Cutting there would
//!   lose acknowledged data without a word, so the server refuses to start.
//!
//! Damage in an older file, which was synced whole before the newer one began, and a
//! file that doesn't begin where the one before it ends, are refused like R2.
//!
//! R3: what follows the newest `synced` is written once more in place and synced
//! before anything is served. A process that starts after a crash may read bytes
//! from the page cache that never reached the disk, and after a failed sync the
//! kernel may count them as written; replay must not show what a power cut could
//! take back. The same goes for the files' names.
//!
//! Replay that is itself interrupted starts again from the same records: a torn tail is
//! cut only when it has been kept aside, and nothing else that is there is changed.

use crate::complain;
use crate::disk::{Disk, read_exact, write_all};
use crate::log::{Generation, Log, SyncMode, file_name, make_file};
use crate::record::{Format, HEADER_LEN, Header, IntOrder, Record};
use crate::walk::{CHUNK, Records, WalkError};
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The settings asked for on the command line. `None` takes what the files say, or
/// the default where a directory is new.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// `--key-size`: bytes, 1 to 65535.
    pub key_size: Option<u16>,
    /// `--int-size`: bytes, 1 to 8.
    pub int_size: Option<u8>,
    /// `--int-order`.
    pub int_order: Option<IntOrder>,
}

impl Settings {
    pub(crate) fn over(&self, format: Format) -> Format {
        Format {
            key_size: self.key_size.unwrap_or(format.key_size),
            int_size: self.int_size.unwrap_or(format.int_size),
            int_order: self.int_order.unwrap_or(format.int_order),
        }
    }
}

/// Why a directory could not be opened. Each message is one line and says what to do.
#[derive(Debug)]
pub enum OpenError {
    /// The file system refused.
    Io(io::Error),
    /// Another process owns the directory.
    Locked(String),
    /// No data file is there that shows by its header or a record to be ours, and why.
    Empty(String),
    /// A file has the name of a data file and is none, or none of ours.
    Foreign {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The files were made with other sizes than those asked for.
    Settings {
        /// The file that was looked at.
        file: String,
        /// What it says.
        has: Format,
        /// What was asked for.
        asked: Format,
    },
    /// Generations are missing, or don't begin where the one before ends.
    Gap(String),
    /// What once was safe is damaged.
    Damaged {
        /// The file's name.
        file: String,
        /// Where in the file the first damaged record begins, in bytes.
        offset: u64,
        /// Undamaged records behind it in that file.
        following: u64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            OpenError::Io(error) => write!(f, "{error}"),
            OpenError::Locked(pid) => write!(
                f,
                "process {pid} is using it; stop that server or choose another --data"
            ),
            OpenError::Empty(why) => write!(f, "{why}; choose another --data"),
            OpenError::Foreign { file, why } => write!(
                f,
                "{file} can't be read: {why}; choose another --data, or go on with \
                 what can be read by server --repair"
            ),
            OpenError::Settings { file, has, asked } => {
                let show = |x: &Format| {
                    format!(
                        "KEY_SIZE {}, INT_SIZE {}, INT_ORDER {}",
                        x.key_size, x.int_size, x.int_order
                    )
                };
                write!(
                    f,
                    "{file} was made with {}, not {}; these can't change: \
                     leave the options out or choose another --data",
                    show(has),
                    show(asked)
                )
            }
            OpenError::Gap(why) => write!(
                f,
                "{why}; put the missing file back, or go on with what can be read \
                 by server --repair"
            ),
            OpenError::Damaged { file, offset, following } => write!(
                f,
                "{file} is damaged at offset {offset}, where it once was safe, \
                 and {following} good records follow; nothing was changed: restore \
                 a backup, or go on with what can be read by server --repair"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::Io(error)
    }
}

/// A torn tail that was cut off.
#[derive(Debug, PartialEq, Eq)]
pub struct Torn {
    /// The data file it was in; the bytes are in that name with `.torn` behind.
    pub file: String,
    /// Where in the file it began, in bytes.
    pub offset: u64,
    /// How long it was, in bytes.
    pub len: u64,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Torn { file, offset, len } = self;
        write!(
            f,
            "{file} had a torn end of {len} bytes at offset {offset}, \
             not known to have been synced; cut off and kept in {file}.torn"
        )
    }
}

/// Looks whether the directory's data files are ours and fit `settings`, and changes
/// nothing: asked before the directory is taken.
pub fn examine(disk: &dyn Disk, settings: &Settings) -> Result<(), OpenError> {
    match generations(disk, settings) {
        // No directory yet, or its owner has just removed a file it had compacted.
        Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Opens the directory's files, or makes the first one; calls `each` for every record
/// that counts, oldest first. The directory must be ours alone.
pub fn open(
    disk: Box<dyn Disk>,
    settings: &Settings,
    mode: SyncMode,
    mut each: impl FnMut(u64, &Record),
) -> Result<(Log, Option<Torn>), OpenError> {
    let (mut files, format) = generations(&*disk, settings)?;
    let format = format.unwrap_or_else(|| settings.over(Format::default()));
    for name in disk.list()? {
        if name.strip_suffix(".tmp").is_some_and(|name| number_of(name).is_some()) {
            disk.remove(&name)?;
        }
    }
    if files.is_empty() {
        let header = Header { format, generation: 1, base: 0 };
        let (file, temporary) = make_file(&*disk, &header)?;
        disk.rename(&temporary, &file_name(1))?;
        files.push(Generation { number: 1, base: 0, file });
    }
    // R3, for names: who renamed a file may have ended before this.
    disk.sync_dir()?;
    check_chain(&files.iter().collect::<Vec<_>>())?;
    let mut each = |position, record: &Record| {
        each(position, record);
        Ok(())
    };
    let mut generations = Vec::new();
    let mut end = 0;
    let mut torn = None;
    let newest = files.len() - 1;
    for (index, generation) in files.into_iter().enumerate() {
        end = generation.base + generation.file.metadata()?.len();
        let mut records = Records::new(&*disk, &format, &generation, end);
        let synced = read_all(&mut records, &mut each)?;
        let stopped_at = records.position;
        if stopped_at < end {
            let damage = assess(&mut records, &mut |_, _| Ok(()))?;
            if index < newest || damage.was_safe {
                return Err(OpenError::Damaged {
                    file: generation.name(),
                    offset: stopped_at - generation.base,
                    following: damage.following,
                });
            }
            let data_end = end_of_data(&*disk, &generation, stopped_at, end)?;
            if stopped_at < data_end {
                torn = Some(keep_aside(&*disk, &generation, stopped_at, data_end)?);
            }
            disk.set_len(&generation.file, stopped_at - generation.base)?;
            disk.sync(&generation.file)?;
            end = stopped_at;
        }
        if index == newest {
            write_again(&*disk, &generation, synced, end)?;
        }
        generations.push(Arc::new(generation));
    }
    Ok((Log::new(disk, format, mode, generations, end), torn))
}

/// The data files there are, oldest first, and the format that is in their headers.
fn generations(
    disk: &dyn Disk,
    settings: &Settings,
) -> Result<(Vec<Generation>, Option<Format>), OpenError> {
    let mut files = Vec::new();
    let mut format = None;
    for number in numbers(disk)? {
        let (file, header) = open_file(disk, number, settings)?;
        let foreign = |why| OpenError::Foreign { file: file_name(number), why };
        let header = header.map_err(foreign)?;
        same_format(&mut format, &header)?;
        files.push(Generation { number, base: header.base, file });
    }
    Ok((files, format))
}

/// Checks that a header has the format of those before it.
pub(crate) fn same_format(
    format: &mut Option<Format>,
    header: &Header,
) -> Result<(), OpenError> {
    if *format.get_or_insert(header.format) != header.format {
        let file = file_name(header.generation);
        let why = format!("{file} was made with other sizes than the file before it");
        return Err(OpenError::Gap(why));
    }
    Ok(())
}

/// The numbers of the generations that there are, ascending.
pub(crate) fn numbers(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> =
        disk.list()?.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The file of a generation and its header, or in a few words why it has none.
pub(crate) fn open_file(
    disk: &dyn Disk,
    number: u64,
    settings: &Settings,
) -> Result<(File, Result<Header, String>), OpenError> {
    let name = file_name(number);
    let file = disk.open(&name, false)?;
    let mut bytes = [0; HEADER_LEN];
    let header = match read_exact(disk, &file, &mut bytes, 0) {
        Ok(()) => Header::decode(&bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err("it is shorter than a header".into())
        }
        Err(error) => return Err(error.into()),
    };
    if let Ok(Header { generation, format: has, .. }) = header {
        if generation != number {
            return Ok((file, Err(format!("its header says generation {generation}"))));
        }
        let asked = settings.over(has);
        if asked != has {
            return Err(OpenError::Settings { file: name, has, asked });
        }
    }
    Ok((file, header))
}

/// The number of the generation whose file has this name.
fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".kv")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// Checks that the files are one unbroken log.
pub(crate) fn check_chain(files: &[&Generation]) -> Result<(), OpenError> {
    if files.len() > 2 {
        let why = format!("there are {} data files, at most 2 are ours", files.len());
        return Err(OpenError::Gap(why));
    }
    if let [old, new] = files {
        let end = old.base + old.file.metadata()?.len();
        if old.number + 1 != new.number || end != new.base {
            return Err(OpenError::Gap(format!(
                "{} begins at position {}, and does not go on where {} ends, at {end}",
                new.name(),
                new.base,
                old.name()
            )));
        }
    }
    Ok(())
}

/// Reads as far as the records check; returns the newest `synced` among them.
pub(crate) fn read_all(
    records: &mut Records,
    each: &mut impl FnMut(u64, &Record) -> io::Result<()>,
) -> Result<u64, OpenError> {
    let (start, end) = (records.position, records.end);
    let mut synced = start;
    let mut count = 0u64;
    let mut progress = Progress::new();
    loop {
        match records.next() {
            Ok(Some((position, record))) => {
                synced = synced.max(record.synced);
                each(position, &record)?;
                count += 1;
                // Now and then: to look at the clock can cost more than a record.
                if count.is_multiple_of(4096) {
                    let name = records.generation.name();
                    progress.show(&name, position - start, end - start);
                }
            }
            Ok(None) | Err(WalkError::Damaged) => break,
            Err(WalkError::Io(error)) => return Err(error.into()),
        }
    }
    Ok(synced)
}

/// Bytes in which no record checks.
pub(crate) struct Stretch {
    /// Where in the file it begins, in bytes.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Good records between the file's first damage and this.
    pub(crate) before: u64,
}

/// What stands at and behind a damaged place.
pub(crate) struct Damage {
    pub(crate) stretches: Vec<Stretch>,
    /// Good records.
    pub(crate) following: u64,
    /// One of them says that the place had been synced, or not all were looked for.
    pub(crate) was_safe: bool,
}

/// Reads on behind the damage at `position`, byte by byte until records check again.
pub(crate) fn assess(
    records: &mut Records,
    each: &mut impl FnMut(u64, &Record) -> io::Result<()>,
) -> Result<Damage, OpenError> {
    let position = records.position;
    let mut damage = Damage { stretches: vec![], following: 0, was_safe: false };
    loop {
        match records.next() {
            Ok(Some((at, record))) => {
                damage.following += 1;
                damage.was_safe |= record.synced > position;
                each(at, &record)?;
            }
            Ok(None) => {
                damage.was_safe |= records.gave_up_at.is_some();
                return Ok(damage);
            }
            Err(WalkError::Damaged) => {
                damage.add_byte(records.position - records.generation.base);
                records.skip_to(records.position + 1);
            }
            Err(WalkError::Io(error)) => return Err(error.into()),
        }
    }
}

impl Damage {
    fn add_byte(&mut self, offset: u64) {
        match self.stretches.last_mut() {
            Some(last) if last.offset + last.len == offset => last.len += 1,
            _ => {
                let before = self.following;
                self.stretches.push(Stretch { offset, len: 1, before });
            }
        }
    }
}

/// Where the zeros begin with which the bytes from `position` to `end` end: the log
/// makes its file longer before it needs the room.
pub(crate) fn end_of_data(
    disk: &dyn Disk,
    generation: &Generation,
    position: u64,
    end: u64,
) -> io::Result<u64> {
    let mut data_end = position;
    in_chunks(disk, generation, position, end, |bytes, at| {
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            data_end = at + last as u64 + 1;
        }
        Ok(())
    })?;
    Ok(data_end)
}

/// R1: keeps the bytes from `position` to `end` aside, before they are cut off.
fn keep_aside(
    disk: &dyn Disk,
    generation: &Generation,
    position: u64,
    end: u64,
) -> Result<Torn, OpenError> {
    let offset = position - generation.base;
    let aside = disk.open(&(generation.name() + ".torn"), true)?;
    in_chunks(disk, generation, position, end, |bytes, at| {
        write_all(disk, &aside, bytes, at - position)
    })?;
    disk.sync(&aside)?;
    disk.sync_dir()?;
    Ok(Torn { file: generation.name(), offset, len: end - position })
}

/// R3: writes the bytes from `synced` to `end` over themselves and syncs them.
fn write_again(
    disk: &dyn Disk,
    generation: &Generation,
    synced: u64,
    end: u64,
) -> Result<(), OpenError> {
    if synced < end {
        in_chunks(disk, generation, synced, end, |bytes, at| {
            write_all(disk, &generation.file, bytes, at - generation.base)
        })?;
        disk.sync(&generation.file)?;
    }
    Ok(())
}

/// Reads the bytes between two positions and hands them over, a chunk at a time.
fn in_chunks(
    disk: &dyn Disk,
    generation: &Generation,
    from: u64,
    end: u64,
    mut each: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = from;
    let mut buffer = vec![0; CHUNK.min((end - from) as usize)];
    while at < end {
        let count = buffer.len().min((end - at) as usize);
        let bytes = &mut buffer[..count];
        read_exact(disk, &generation.file, bytes, at - generation.base)?;
        each(bytes, at)?;
        at += count as u64;
    }
    Ok(())
}

/// A line on the terminal, for replays that take longer than a second.
struct Progress {
    next: Instant,
    shown: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { next: Instant::now() + Duration::from_secs(1), shown: false }
    }

    fn show(&mut self, name: &str, done: u64, all: u64) {
        if Instant::now() >= self.next && io::stderr().is_terminal() {
            self.next += Duration::from_millis(200);
            self.shown = true;
            let percent = done * 100 / all;
            let _ = write!(io::stderr(), "\rreading {name}: {percent} %");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            complain("");
        }
    }
}

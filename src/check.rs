//! `server --check`: what a start would make of the data files, and what is in them.
//!
//! All is read and nothing changed. What a start refuses is damage here, and what a
//! start cuts off is no damage: the walk over the records and the question what once
//! was safe are those of `replay.rs`, which stops at the first damage, while this goes
//! on to the end of each file.
//!
//! | in a file | a start | here |
//! |---|---|---|
//! | a header that can't be read | refuses | damage; the records are read all the same |
//! | bytes that are no record, once safe (R2) | refuses | damage |
//! | the torn end of the newest file (R1) | cuts it off | said, and no damage |
//! | zeros behind the newest file's records | cuts them off | room, not mentioned |
//! | files that are not one log | refuses | said, and damage |
//!
//! To read records a format and a base are needed. Where a header doesn't give them, the
//! format is that of another file, or what the command line asks for. The base is worked
//! out from a record that states its own position; failing that, the file is taken to
//! begin where the one before it ends.
//!
//! Left out: sectors that the disk will not give back. An error of the system ends the
//! check; copy the files elsewhere first, with a program that puts zeros in their place.

use crate::disk::Disk;
use crate::index::{Filling, Index};
use crate::log::Generation;
use crate::record::{Format, HEADER_LEN, Record};
use crate::replay::{
    OpenError, Settings, Stretch, assess, check_chain, end_of_data, numbers, open_file,
    read_all, same_format,
};
use crate::walk::{Records, SHORT};
use std::fmt;
use std::io;

/// Something wrong with a data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Its header can't be read, and why.
    Header(String),
    /// R2: no record checks in these bytes, which were safe once.
    Damage {
        /// Where in the file they begin, in bytes.
        offset: u64,
        /// How many there are.
        len: u64,
        /// Good records behind them in that file.
        following: u64,
    },
    /// R1: an end that a start cuts off.
    Torn {
        /// Where in the file it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
        /// Bytes in it that are no record.
        lost: u64,
        /// Good records in it.
        following: u64,
    },
    /// Behind this offset, in bytes, so much looked like records and was none that those
    /// longer than `walk::SHORT` were no longer looked for.
    Unsearched(u64),
}

impl Flaw {
    /// Bytes that are no record, but for the header.
    pub fn lost(&self) -> u64 {
        match self {
            Flaw::Header(_) | Flaw::Unsearched(_) => 0,
            Flaw::Damage { len: lost, .. } | Flaw::Torn { lost, .. } => *lost,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Flaw::Header(why) => f.write_str(why),
            Flaw::Damage { offset, len, following } => write!(
                f,
                "damaged at offset {offset}: {len} bytes; {following} good records follow"
            ),
            Flaw::Unsearched(offset) => write!(
                f,
                "much behind offset {offset} looks like records and is none; those of \
                 more than {SHORT} bytes were not looked for"
            ),
            Flaw::Torn { offset, len, following, .. } => write!(
                f,
                "a torn end at offset {offset}: {len} bytes, not known to have been \
                 synced, with {following} good records in them"
            ),
        }
    }
}

/// A data file that has been read.
pub struct Checked {
    /// The file; its base is worked out where the header can't be read.
    pub generation: Generation,
    /// Its length in bytes.
    pub len: u64,
    /// The good records in it.
    pub records: u64,
    /// What is wrong with it, in the order of the bytes.
    pub flaws: Vec<Flaw>,
}

impl Checked {
    /// The position at which it ends.
    pub(crate) fn end(&self) -> u64 {
        end_at(self.generation.base, self.len)
    }
}

/// Where a file ends. One that is shorter than a header has no records all the same.
fn end_at(base: u64, len: u64) -> u64 {
    base + len.max(HEADER_LEN as u64)
}

/// What was found in the data files.
pub struct Findings {
    /// The files, in the order of their positions.
    pub files: Vec<Checked>,
    /// How the records are laid out.
    pub format: Format,
    /// Why the files are not one log, if they are not.
    pub gap: Option<String>,
}

impl Findings {
    /// Whether a start would lose nothing that once was safe.
    pub fn is_sound(&self) -> bool {
        let mut flaws = self.files.iter().flat_map(|file| &file.flaws);
        self.gap.is_none() && flaws.all(|flaw| matches!(flaw, Flaw::Torn { .. }))
    }

    /// The good records of all files.
    pub fn records(&self) -> u64 {
        self.files.iter().map(|file| file.records).sum()
    }
}

/// A line for each thing that is wrong.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for file in &self.files {
            for flaw in &file.flaws {
                writeln!(f, "{}: {flaw}", file.generation.name())?;
            }
        }
        self.gap.iter().try_for_each(|why| writeln!(f, "{why}"))
    }
}

/// What `--check` says.
pub struct Checkup {
    /// The files, and what is wrong with them.
    pub findings: Findings,
    /// Length of all good records, in bytes.
    pub record_bytes: u64,
    /// Keys that have a value, going by all good records.
    pub live_keys: u64,
    /// Length of the records that hold these, in bytes.
    pub live_bytes: u64,
}

impl fmt::Display for Checkup {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Checkup { findings, record_bytes, live_keys, live_bytes } = self;
        for Checked { generation, len, records, .. } in &findings.files {
            let Generation { number, base, .. } = generation;
            let name = generation.name();
            write!(f, "{name}: generation {number}, {len} bytes ")?;
            writeln!(f, "from position {base}, {records} records")?;
        }
        write!(f, "{findings}")?;
        let (records, garbage) = (findings.records(), record_bytes - live_bytes);
        write!(f, "{records} records, {live_keys} live keys in {live_bytes} bytes, ")?;
        writeln!(f, "{garbage} bytes of garbage")?;
        f.write_str(match findings.is_sound() {
            true => "nothing that was safe is damaged",
            false => "damaged: see server --repair",
        })
    }
}

/// Reads the directory's files and changes nothing. `now` is in Unix seconds. The
/// directory must be ours alone.
pub fn check(
    disk: &dyn Disk,
    settings: &Settings,
    now: u64,
) -> Result<Checkup, OpenError> {
    let index = Index::new();
    let mut filling = Filling::new(&index, now);
    let mut all_value_bytes = 0;
    let findings = survey(disk, settings, |position, record| {
        filling.add(position, record);
        all_value_bytes += record.value.len() as u64;
        Ok(())
    })?;
    if (1..=now).contains(&filling.flush_due) {
        filling.clear();
    }
    drop(filling);
    let (live_keys, value_bytes) = index.totals();
    let overhead = findings.format.overhead() as u64;
    Ok(Checkup {
        record_bytes: all_value_bytes + findings.records() * overhead,
        live_keys,
        live_bytes: value_bytes + live_keys * overhead,
        findings,
    })
}

/// Reads all files, calls `each` for every good record, oldest first, and says what
/// else is there.
pub(crate) fn survey(
    disk: &dyn Disk,
    settings: &Settings,
    mut each: impl FnMut(u64, &Record) -> io::Result<()>,
) -> Result<Findings, OpenError> {
    let (mut files, format) = open_files(disk, settings)?;
    let count = files.len();
    for (index, file) in files.iter_mut().enumerate() {
        read(disk, &format, file, index + 1 == count, &mut each)?;
    }
    let is_ours = |file: &Checked| {
        file.records > 0 || !matches!(file.flaws.first(), Some(Flaw::Header(_)))
    };
    if let Some(Checked { generation, flaws, .. }) = files.first()
        && !files.iter().any(is_ours)
    {
        let (file, why) = (generation.name(), &flaws[0]);
        let why = format!("{file} can't be read: {why}, and there is no record in it");
        return Err(OpenError::Empty(why));
    }
    let chain: Vec<_> = files.iter().map(|file| &file.generation).collect();
    let gap = match check_chain(&chain) {
        Err(OpenError::Gap(why)) => Some(why),
        other => other.map(|()| None)?,
    };
    Ok(Findings { files, format, gap })
}

/// The data files in the order of their positions, not read yet but for their headers,
/// and the format of all.
fn open_files(
    disk: &dyn Disk,
    settings: &Settings,
) -> Result<(Vec<Checked>, Format), OpenError> {
    let mut opened = Vec::new();
    let mut format = None;
    for number in numbers(disk)? {
        let (file, header) = open_file(disk, number, settings)?;
        if let Ok(header) = &header {
            same_format(&mut format, header)?;
        }
        opened.push((Generation { number, base: 0, file }, header));
    }
    let format = format.unwrap_or_else(|| settings.over(Format::default()));
    let mut files = Vec::new();
    let mut end = 0;
    for (mut generation, header) in opened {
        let len = generation.file.metadata()?.len();
        let mut flaws = Vec::new();
        generation.base = match header {
            Ok(header) => header.base,
            Err(why) => {
                flaws.push(Flaw::Header(why));
                let records = Records::new(disk, &format, &generation, end_at(0, len));
                records.find_base()?.unwrap_or(end)
            }
        };
        end = end_at(generation.base, len);
        files.push(Checked { generation, len, records: 0, flaws });
    }
    files.sort_by_key(|file| file.generation.base);
    Ok((files, format))
}

/// Reads one file from its first record to its end.
fn read(
    disk: &dyn Disk,
    format: &Format,
    file: &mut Checked,
    is_newest: bool,
    each: &mut impl FnMut(u64, &Record) -> io::Result<()>,
) -> Result<(), OpenError> {
    let end = file.end();
    let Checked { generation, records: count, flaws, .. } = file;
    let mut counting = |position, record: &Record| {
        *count += 1;
        each(position, record)
    };
    let mut records = Records::new(disk, format, generation, end);
    read_all(&mut records, &mut counting)?;
    let position = records.position;
    let damage = assess(&mut records, &mut counting)?;
    let gave_up_at = records.gave_up_at;
    let base = generation.base;
    let data_end = |from| end_of_data(disk, generation, from, end);
    let following = damage.following;
    let mut stretches = damage.stretches;
    // Room is no flaw.
    if is_newest && let Some(last) = stretches.last_mut() {
        let from = base + last.offset;
        last.len = last.len.min(data_end(from)? - from);
    }
    stretches.retain(|stretch| stretch.len > 0);
    let lost = stretches.iter().map(|stretch| stretch.len).sum();
    if !is_newest || damage.was_safe {
        flaws.extend(stretches.into_iter().map(|Stretch { offset, len, before }| {
            Flaw::Damage { offset, len, following: following - before }
        }));
    } else if lost > 0 {
        // R1
        let (offset, len) = (position - base, data_end(position)? - position);
        flaws.push(Flaw::Torn { offset, len, lost, following });
    }
    flaws.extend(gave_up_at.map(|position| Flaw::Unsearched(position - base)));
    Ok(())
}

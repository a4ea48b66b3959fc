//! What stands in the data files, and what is wrong with them: the one reading of a
//! directory by which a start decides, `--check` reports, and `--repair` copies.
//!
//! Files are read oldest first, record by record, each verified before anybody sees it.
//! Where no record is valid, the survey searches on, byte by byte, until one is. What
//! lies between is one of two things, and the `synced` field of the records after it
//! tells which:
//!
//! - R1: a *torn end*, in the newest file alone. No record after the damage says that the
//!   damaged place was ever safe. Nothing acknowledged is in it that was synced before a
//!   later record was made.
//! - R2: *damage to what once was safe*. A later record says so; or it is in the older
//!   file, which was synced whole before the newer one began; or after it there is a record
//!   that was written for another place: no crash moves records, so bytes before it were cut
//!   out, or came twice.
//!
//! | in a file | a start | `--check` |
//! |---|---|---|
//! | bytes that are not a record, once safe (R2) | fails | damage |
//! | the torn end of the newest file (R1) | cuts it off | reported, and not damage |
//! | zeros after the newest file's records | cuts them off | preallocated, not reported |
//! | a header that can't be read | fails | damage; the records are read if possible |
//! | files that are not one whole log | fails | reported, and damage |
//!
//! Without a header, the format is that of another file, or what the command line asks
//! for. The base is what the first record states, or else where the file before ends. If that
//! is not right either, the file is given up.
//!
//! Left out: sectors that the disk will not return. An error of the system ends the
//! survey; copy the files elsewhere first, with a program that puts zeros in their place.

use crate::store::disk::{Directory, Disk, LOCK_NAME};
use crate::store::error::{Error, Result};
use crate::store::index::{Entry, Index, is_expired};
use crate::store::log::{Generation, file_name};
use crate::store::record::{Format, HEADER_LEN, Header, IntOrder, Kind};
use crate::store::record::{MAX_POSITION, Record};
use crate::store::walk::{Records, Step};
use crate::warn;
use std::fmt;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::time::{Duration, Instant};

/// The settings requested on the command line. `None` takes what the files say, or the
/// default where a directory is new.
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
    /// `format`, with what is set here in its place.
    pub(crate) fn over(&self, format: Format) -> Format {
        Format {
            key_size: self.key_size.unwrap_or(format.key_size),
            int_size: self.int_size.unwrap_or(format.int_size),
            int_order: self.int_order.unwrap_or(format.int_order),
        }
    }
}

/// A data file that has been read.
pub struct Surveyed {
    /// The file; its base is worked out where the header can't be read.
    pub generation: Generation,
    /// Its length in bytes.
    pub len: u64,
    /// The valid records in it.
    pub records: u64,
    /// Where in the file there is no valid record, in bytes; from 0 on, no valid header.
    pub damage: Vec<Range<u64>>,
    /// R1: a torn end, from the first damage on. Otherwise R2 holds for all of it.
    pub torn: Option<Range<u64>>,
    /// The position up to which all records are valid.
    pub(crate) intact_end: u64,
    /// The newest `synced` among those.
    pub(crate) synced: u64,
    /// One of them says that no older file is needed.
    is_complete: bool,
    /// The last one says that there is a newer file (L6).
    is_continued: bool,
}

impl Surveyed {
    /// The position at which it ends. A file that is shorter than a header ends after one.
    pub(crate) fn end(&self) -> u64 {
        self.generation.base + self.len.max(HEADER_LEN as u64)
    }

    pub(crate) fn has_header(&self) -> bool {
        self.damage.first().is_none_or(|range| range.start > 0)
    }

    /// Whether nothing that once was safe is damaged.
    fn is_sound(&self) -> bool {
        self.damage.is_empty() || self.torn.is_some()
    }

    /// A line for each thing that is wrong.
    fn problems(&self) -> Vec<String> {
        let name = self.generation.name();
        let at = |what, range: &Range<u64>| {
            let (start, len) = (range.start, range.end - range.start);
            format!("{name}: {what} at offset {start}: {len} bytes")
        };
        match &self.torn {
            Some(torn) => {
                vec![at("a torn end", torn) + ", not known to have been synced"]
            }
            None => self.damage.iter().map(|range| at("damaged", range)).collect(),
        }
    }
}

/// What was found in the data files.
pub struct Survey {
    /// The files, in the order of their positions.
    pub files: Vec<Surveyed>,
    /// How the records are laid out.
    pub format: Format,
    /// Why the files are not one whole log, if they are not.
    pub gap: Option<String>,
    /// What the records say, up to the first damage of each file.
    pub(crate) index: Index,
}

impl Survey {
    /// Whether a start would lose nothing that once was safe.
    pub fn is_sound(&self) -> bool {
        self.gap.is_none() && self.files.iter().all(Surveyed::is_sound)
    }

    /// The error of a start that can't continue from this: the first thing that is wrong,
    /// a torn end aside.
    pub fn require_sound(&self) -> Result<()> {
        let unsound = self.files.iter().filter(|file| !file.is_sound());
        let problems = unsound.flat_map(Surveyed::problems);
        let problem = problems.chain(self.gap.clone()).next();
        let Some(problem) = problem else { return Ok(()) };
        Err(Error::Open(format!(
            "{problem}; nothing was changed: put the right file back, or continue with what \
             can be read by server --repair"
        )))
    }

    /// Whether a record that was met at `position` is a live item at the Unix second `now`.
    pub fn is_live(&self, position: u64, record: &Record, now: u64) -> bool {
        let shard = self.index.shard(record.key);
        let is_newest = |entry: &Entry| entry.position(position) == position;
        shard.entries.get(record.key).is_some_and(is_newest)
            && !is_expired(record.exptime, now)
    }

    /// The valid records of all files.
    pub fn records(&self) -> u64 {
        self.files.iter().map(|file| file.records).sum()
    }

    /// A line for each thing that is wrong.
    pub fn problems(&self) -> Vec<String> {
        let problems = self.files.iter().flat_map(Surveyed::problems);
        problems.chain(self.gap.clone()).collect()
    }
}

/// What `--check` says.
impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for Surveyed { generation, len, records, .. } in &self.files {
            let (name, base) = (generation.name(), generation.base);
            writeln!(f, "{name}: {len} bytes from position {base}, {records} records")?;
        }
        for problem in self.problems() {
            writeln!(f, "{problem}")?;
        }
        let (keys, live) = self.index.totals(&self.format);
        writeln!(f, "{} records, {keys} live keys in {live} bytes", self.records())?;
        f.write_str(match self.is_sound() {
            true => "nothing that was safe is damaged",
            false => "damaged: see server --repair",
        })
    }
}

/// Reads all files, changes nothing, and calls `each` for every valid record and its
/// position, oldest first. The directory must be ours alone.
pub fn survey(
    disk: &dyn Disk,
    settings: &Settings,
    mut each: impl FnMut(u64, &Record) -> Result<()>,
) -> Result<Survey> {
    let (mut files, format) = open_files(disk, settings)?;
    if let [old, new] = &mut files[..] {
        // L6: a record after its end, or a part of one, says that there is the next one.
        let len = new.generation.base.saturating_sub(old.generation.base);
        if (len..=len + format.overhead() as u64).contains(&old.len) {
            old.len = len;
        }
    }
    let index = Index::new();
    let count = files.len();
    for (file, number) in files.iter_mut().zip(1..) {
        let base = file.generation.base;
        read(disk, &format, file, number == count, |position, record, is_intact| {
            if is_intact {
                index.replay(base, position, record);
            }
            each(position, record)
        })?;
    }
    let is_other = |file: &Surveyed| file.records == 0 && !file.has_header();
    if !files.is_empty() && files.iter().all(is_other) {
        let why = "neither a header nor a record in it can be read";
        let name = files[0].generation.name();
        return Err(Error::Open(format!("{name}: {why}; choose another --data")));
    }
    let rest = disk.list()?.into_iter().find(|name| rest_of(name).is_some());
    let rest = rest.map(|rest| format!("{rest} is left by an interrupted start"));
    let gap = rest.or_else(|| gap(&files));
    Ok(Survey { files, format, gap, index })
}

/// The numbers of the generations that there are, ascending.
pub(crate) fn numbers(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|it| number_of(it)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Fails in a directory of somebody else's, one that has files in it and none of ours, and in
/// one that has lost its data: the lock file has a pid as soon as there is some.
pub(crate) fn require_ours(directory: &Directory) -> Result<()> {
    let (names, pid) = (directory.list()?, directory.owner()?);
    let is_data = names.iter().any(|name| number_of(name).is_some());
    // Also what an interrupted start has left, or a repair keeps: `0000000001.kv.tmp`.
    let is_ours = |name: &String| name.get(..13).and_then(number_of).is_some();
    // A file system of its own begins with that.
    let is_other = |name: &&String| *name != LOCK_NAME && *name != "lost+found";
    let other = names.iter().find(is_other).filter(|_| !names.iter().any(is_ours));
    Err(Error::Open(if !pid.is_empty() && pid.parse::<u32>().is_err() {
        "the file `lock` in it is not ours; choose another --data".into()
    } else if let (Some(name), false) = (other, is_data) {
        format!("it has {name} in it, and no data file; choose another --data")
    } else if is_data || pid.is_empty() {
        return Ok(());
    } else {
        "its data files are missing; put them back, or remove the file `lock` as well"
            .into()
    }))
}

/// The number of the generation whose file has this name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".kv")?.parse::<u32>().ok()?.into();
    (file_name(number) == name).then_some(number)
}

/// Separates a data file's name from the offset at which a start was rewriting it (R3), in
/// the name of the file that has the bytes.
pub(crate) const REST: &str = ".rest-";

/// The data file and the offset of which a file of this name has the rest.
pub(crate) fn rest_of(name: &str) -> Option<(&str, u64)> {
    let (name, start) = name.split_once(REST)?;
    number_of(name)?;
    Some((name, start.parse().ok()?))
}

/// The data files in the order of their positions, of which nothing but the headers has
/// been read, and the format of all.
pub(crate) fn open_files(
    disk: &dyn Disk,
    settings: &Settings,
) -> Result<(Vec<Surveyed>, Format)> {
    let (mut opened, mut format) = (Vec::new(), None);
    for number in numbers(disk)? {
        let (name, mut header) = (file_name(number), [0; HEADER_LEN]);
        let file = disk.open(&name, false)?;
        let len = file.metadata()?.len();
        if len >= HEADER_LEN as u64 {
            disk.read(&file, &mut header, 0)?;
        }
        let unread = |why| Error::Open(format!("{name}: {why}; choose another --data"));
        let header = Header::decode(&header).map_err(unread)?;
        if let Some(Header { format: has, .. }) = header {
            let asked = settings.over(*format.get_or_insert(has));
            if asked != has {
                return Err(Error::Open(format!(
                    "{name} was made with {has}, not {asked}; these can't change: \
                     leave the options out or choose another --data"
                )));
            }
        }
        opened.push((Generation { number, base: 0, file }, len, header));
    }
    let format = format.unwrap_or_else(|| settings.over(Format::default()));
    let mut files: Vec<Surveyed> = Vec::new();
    for (mut generation, len, header) in opened {
        let header_damage = header.is_none().then_some(0..HEADER_LEN as u64);
        generation.base = match header {
            Some(header) => header.base,
            None => stated_base(disk, &format, &generation, len)?
                .or(files.last().map(Surveyed::end))
                .unwrap_or(0),
        };
        let start = generation.base + HEADER_LEN as u64;
        files.push(Surveyed {
            generation,
            len,
            records: 0,
            damage: header_damage.into_iter().collect(),
            torn: None,
            intact_end: start,
            synced: start,
            is_complete: false,
            is_continued: false,
        });
    }
    files.sort_by_key(|file| file.generation.base);
    Ok((files, format))
}

/// The base that a file's first record states, if it can be one.
fn stated_base(
    disk: &dyn Disk,
    format: &Format,
    generation: &Generation,
    len: u64,
) -> io::Result<Option<u64>> {
    let mut head = vec![0; format.overhead()];
    if len >= (HEADER_LEN + head.len()) as u64 {
        disk.read(&generation.file, &mut head, HEADER_LEN as u64)?;
    }
    let base = format.stated_places(&head).1.checked_sub(HEADER_LEN as u64);
    Ok(base.filter(|base| *base < MAX_POSITION))
}

/// Reads one file from its first record to its end; `each` gets a valid record's position,
/// and whether the file is intact up to there.
fn read(
    disk: &dyn Disk,
    format: &Format,
    file: &mut Surveyed,
    is_newest: bool,
    mut each: impl FnMut(u64, &Record, bool) -> Result<()>,
) -> Result<()> {
    let (base, end) = (file.generation.base, file.end());
    let mut records = Records::new(disk, format, &file.generation, end);
    let mut was_safe = !is_newest || !file.has_header();
    // Where the zeros begin with which the file ends.
    let mut data_end = HEADER_LEN as u64;
    let mut next_progress = Instant::now() + Duration::from_secs(1);
    loop {
        match records.next()? {
            Step::Record(position, record) => {
                let is_intact = position == file.intact_end;
                each(position, &record, is_intact)?;
                let len = format.record_len(record.value.len()) as u64;
                data_end = position - base + len;
                file.records += 1;
                was_safe |= record.synced > file.intact_end;
                if is_intact {
                    file.intact_end = position + len;
                    file.synced = file.synced.max(record.synced);
                    file.is_complete |= record.kind == Kind::Complete;
                    file.is_continued = record.kind == Kind::Continued;
                }
                // Now and then: to read the clock can cost more than a record.
                if file.records.is_multiple_of(4096) && Instant::now() > next_progress {
                    next_progress += Duration::from_secs(1);
                    show_progress(file, position);
                }
            }
            Step::Damage(byte) => {
                was_safe |= records.is_displaced()?;
                let offset = records.position - base;
                if byte != 0 {
                    data_end = offset + 1;
                }
                match file.damage.last_mut() {
                    Some(range) if range.end == offset => range.end += 1,
                    _ => file.damage.push(offset..offset + 1),
                }
                records.skip_to(records.position + 1);
            }
            Step::End => break,
        }
    }
    if is_newest {
        // Preallocated space is not damaged.
        file.damage.iter_mut().for_each(|range| range.end = range.end.min(data_end));
        file.damage.retain(|range| range.start < range.end);
    } else {
        file.synced = file.intact_end;
    }
    let is_torn = !was_safe && !records.is_limited();
    file.torn = file.damage.first().filter(|_| is_torn).map(|it| it.start..data_end);
    Ok(())
}

/// How far the reading of a file is, for a person who waits.
fn show_progress(file: &Surveyed, position: u64) {
    if io::stderr().is_terminal() {
        let percent = (position - file.generation.base) * 100 / file.len;
        warn(&format!("reading {}: {percent} %", file.generation.name()));
    }
}

/// Why the files are not one whole log, if they are not.
fn gap(files: &[Surveyed]) -> Option<String> {
    let (oldest, newest) = (files.first()?, files.last()?);
    let [old, new] = [oldest, newest].map(|file| &file.generation);
    let is_pair = (new.number, new.base) == (old.number + 1, old.base + oldest.len)
        && files.len() == 2;
    if files.len() > 1 && !is_pair {
        let names: Vec<String> = files.iter().map(|it| it.generation.name()).collect();
        return Some(format!("{} do not continue one another", names.join(" and ")));
    }
    if newest.is_continued {
        let missing = file_name(new.number + 1);
        return Some(format!("{missing} is missing, which follows {}", new.name()));
    }
    // Damage may hide the record that says so; then the damage is what is reported.
    (old.number > 1 && oldest.is_sound() && !oldest.is_complete).then(|| {
        let (missing, name) = (file_name(old.number - 1), old.name());
        format!("{missing} is missing, and {name} does not have all that was in it")
    })
}

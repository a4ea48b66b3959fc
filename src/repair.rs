//! `server --repair`: a new generation of every record that can be read.
//!
//! Where a start refuses, somebody has to decide. Repair goes on with what is there: it
//! reads all files as `check.rs` does, also behind damage, and copies each good record,
//! oldest first, into one new file, which then takes the place of the old ones. To
//! replay the copies gives what to replay the originals would give. A copy keeps its
//! flags, exptime and unique.
//!
//! - R4: no file loses its name before the new one is safe, with its name; and none is
//!   deleted: old files get `.damaged` behind their names, the oldest first.
//! - R5: as long as an old file stands beside the new one, a start refuses. The new one
//!   begins far behind where they end, so they are never taken for one log. To repair
//!   again then copies the same records once more, which changes no answer.
//!
//! The distance has another reason. Of what was cut off the newest file nobody knows how
//! long it was, and no position may be used twice: clients hold uniques.
//!
//! What repair can't know: if a deletion was lost, the value before it comes back, and
//! if a new value was, the old one does. And behind a damaged record its value is
//! searched as well: what a client had put there, made up as a record for that very
//! place, passes for one. It says nothing that the client could not have asked for.

use crate::check::{Checked, Findings, Flaw, survey};
use crate::disk::{Disk, write_all};
use crate::log::{Generation, make_file};
use crate::record::{Draft, Format, HEADER_LEN, Header, Record};
use crate::replay::{OpenError, Settings};
use crate::walk::CHUNK;
use std::fmt;
use std::io;

/// So many positions lie between the old files and the new one: more than any file has
/// bytes.
const APART: u64 = 1 << 40;

/// What a repair has done.
pub struct Repaired {
    /// What was wrong.
    pub findings: Findings,
    /// The new file.
    pub generation: Generation,
    /// The old files: the names they had and the ones they have.
    pub kept: Vec<(String, String)>,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Repaired { findings, generation, kept } = self;
        write!(f, "{findings}")?;
        let (name, records) = (generation.name(), findings.records());
        writeln!(f, "{name} is new and has the {records} records that can be read")?;
        for (from, to) in kept {
            writeln!(f, "{from} is now {to}")?;
        }
        let flaws = findings.files.iter().flat_map(|file| &file.flaws);
        let lost: u64 = flaws.map(Flaw::lost).sum();
        write!(
            f,
            "{lost} bytes could not be read; \
             a value whose deletion or overwriting was lost may have come back"
        )
    }
}

/// Makes one good file of what can be read, if a start would refuse the directory's
/// files; `None` if it would not. The directory must be ours alone. After an error it
/// can be called again.
pub fn repair(
    disk: &dyn Disk,
    settings: &Settings,
) -> Result<Option<Repaired>, OpenError> {
    let findings = survey(disk, settings, |_, _| Ok(()))?;
    if findings.is_sound() {
        return Ok(None);
    }
    let files = &findings.files;
    let number = files.iter().map(|file| file.generation.number).fold(0, u64::max) + 1;
    // R5
    let base = files.iter().map(Checked::end).fold(0, u64::max) + APART;
    let format = findings.format;
    let (file, temporary) =
        make_file(disk, &Header { format, generation: number, base })?;
    let generation = Generation { number, base, file };
    let mut copy = Copy {
        disk,
        format,
        generation: &generation,
        written: base + HEADER_LEN as u64,
        draft: Draft::default(),
        tail: Vec::new(),
    };
    // R4
    let made = survey(disk, settings, |_, record| copy.add(record))
        .and_then(|_| Ok(copy.finish()?))
        .and_then(|()| Ok(disk.rename(&temporary, &generation.name())?));
    if made.is_err() {
        // A full disk needs the room; if this fails, a start or a repair does it.
        let _ = disk.remove(&temporary);
    }
    made?;
    disk.sync_dir()?;
    let mut kept = Vec::new();
    for file in files {
        let name = file.generation.name();
        let aside = free_name(disk, &name)?;
        disk.rename(&name, &aside)?;
        disk.sync_dir()?;
        kept.push((name, aside));
    }
    Ok(Some(Repaired { findings, generation, kept }))
}

/// A name that no file has, for the one that has this name.
fn free_name(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let taken = disk.list()?;
    let mut aside = format!("{name}.damaged");
    for number in 2.. {
        if !taken.contains(&aside) {
            break;
        }
        aside = format!("{name}.damaged.{number}");
    }
    Ok(aside)
}

/// Records on their way into the new file.
struct Copy<'a> {
    disk: &'a dyn Disk,
    format: Format,
    generation: &'a Generation,
    /// The position up to which the file is written.
    written: u64,
    draft: Draft,
    /// What comes next, gathered to be written at once.
    tail: Vec<u8>,
}

impl Copy<'_> {
    fn add(&mut self, record: &Record) -> io::Result<()> {
        let position = self.written + self.tail.len() as u64;
        self.draft.copy(&self.format, record);
        // By the time that anybody reads it, all before it has been synced (R4): so
        // damage to a copy is told from a torn end.
        let synced = position;
        self.tail.extend_from_slice(self.draft.seal(&self.format, position, synced));
        if self.tail.len() >= CHUNK { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let Generation { file, base, .. } = self.generation;
        write_all(self.disk, file, &self.tail, self.written - base)?;
        self.written += self.tail.len() as u64;
        self.tail.clear();
        Ok(())
    }

    /// Makes all copies safe.
    fn finish(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.disk.sync(&self.generation.file)
    }
}

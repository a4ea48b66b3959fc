//! From the files of a directory back to a log and its index: what a start does.
//!
//! The survey (`survey.rs`) says what stands in the files. Where it has found damage to
//! what once was safe (R2), the start fails and changes nothing: to cut it off would lose
//! acknowledged data without a word. Otherwise:
//!
//! - A torn end (R1) is kept aside as `NAME.torn`, cut off, and reported. Zeros at the
//!   end are space that the log had preallocated; they are cut off without a word.
//! - R3: what follows the newest `synced` goes to new blocks of the disk before anything is
//!   served. A process that starts after a crash may read bytes from the page cache that
//!   never reached the disk; a start must not show what a power cut could take back. To
//!   write them again in their place does not help after a failed sync: ext4 treats the
//!   blocks as written while the disk reads them as empty, and a second sync does not change
//!   that. So these bytes are saved as `NAME.rest-OFFSET`, the file is cut there, and they
//!   are appended after the cut. The same goes for the files' names.
//!
//! A start that is itself interrupted begins again from the same records: a torn end is
//! cut only when it has been kept aside, and where a rest is found, the next start writes it
//! again. A disk that is full has no space for either. Then a torn end is not kept, and the
//! rest is written in its place: where the disk had failed as well, a power cut may take it.
//! Only a start that was interrupted after the cut needs the space that it had.

use crate::store::disk::{Disk, free_name, is_full};
use crate::store::error::Result;
use crate::store::index::Index;
use crate::store::log::{Generation, Log, SyncMode, file_name, make_file};
use crate::store::record::Header;
use crate::store::survey::{REST, number_of, open_files, rest_of, survey};
use crate::store::survey::{Settings, Survey, Surveyed};
use crate::store::walk::CHUNK;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Opens the directory's files, or makes the first one, and fills an index from them.
/// The directory must be ours alone. `now` is in Unix seconds. If a torn end was cut off,
/// the last of what is returned says so in one line.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    settings: &Settings,
    mode: SyncMode,
    now: u64,
) -> Result<(Log, Index, Option<String>)> {
    let (files, format) = open_files(&*disk, settings)?;
    if files.is_empty() {
        let header = Header { format, generation: 1, base: 0 };
        let (_, temporary) = make_file(&*disk, &header)?;
        disk.rename(&temporary, &file_name(1))?;
    }
    // In files that are not ours, or are damaged, nothing is changed.
    if files.iter().all(Surveyed::has_header) {
        continue_rewrite(&*disk)?;
    }
    let survey = survey(&*disk, settings, |_, _| Ok(()))?;
    survey.require_sound()?;
    for name in disk.list()? {
        if name.strip_suffix(".tmp").is_some_and(|name| number_of(name).is_some()) {
            disk.remove(&name)?;
        }
    }
    // R3, for names: the process that renamed a file may have ended before this.
    disk.sync_dir()?;
    let Survey { files, format, index, .. } = survey;
    let (mut generations, mut end, mut torn) = (Vec::new(), 0, None);
    for Surveyed { generation, len, torn: range, intact_end, synced, .. } in files {
        let (file, base) = (&generation.file, generation.base);
        if let Some(range) = range {
            torn = Some(keep_aside(&*disk, &generation, range)?);
        }
        if intact_end - base < len {
            disk.set_len(file, intact_end - base)?;
            disk.sync(file)?;
        }
        if synced < intact_end {
            let (from, rest) = (synced - base, synced - base..intact_end - base);
            let name = format!("{}{REST}{from}", generation.name());
            match save(&*disk, &generation, rest.clone(), &name)? {
                true => continue_rewrite(&*disk)?,
                false => copy(&*disk, file, rest, file, from)?,
            }
        }
        end = intact_end;
        generations.push(Arc::new(generation));
    }
    // What is known of accesses begins with the start.
    for mut shard in index.all() {
        shard.entries.values_mut().for_each(|entry| entry.access_at(now, false));
    }
    let log = Log::new(disk, format, mode, generations, end, now);
    Ok((log, index, torn))
}

/// R1: keeps a torn end aside before it is cut off, and says so in one line.
fn keep_aside(
    disk: &dyn Disk,
    generation: &Generation,
    range: Range<u64>,
) -> io::Result<String> {
    let (name, start, len) = (generation.name(), range.start, range.end - range.start);
    let mut kept = free_name(disk, &format!("{name}.torn"))?;
    if !save(disk, generation, range, &kept)? {
        kept = "no file, as the disk is full".into();
    }
    Ok(format!(
        "{name} had a torn end of {len} bytes at offset {start}, not known to have been \
         synced; cut off and kept in {kept}"
    ))
}

/// R3: writes a rest that was saved to new blocks at the end of its file.
pub(crate) fn continue_rewrite(disk: &dyn Disk) -> io::Result<()> {
    for rest in disk.list()? {
        let Some((name, start)) = rest_of(&rest) else { continue };
        let (file, saved) = (disk.open(name, false)?, disk.open(&rest, false)?);
        // Until its name is safe, a power cut could take the rest and leave the cut.
        disk.sync_dir()?;
        // The blocks that it had are given back.
        disk.set_len(&file, start)?;
        copy(disk, &saved, 0..saved.metadata()?.len(), &file, start)?;
        disk.remove(&rest)?;
        disk.sync_dir()?;
    }
    Ok(())
}

/// Copies a range of a data file to a file of its own. False if the disk is full.
fn save(
    disk: &dyn Disk,
    generation: &Generation,
    range: Range<u64>,
    name: &str,
) -> io::Result<bool> {
    let temporary = generation.name() + ".tmp";
    let saved = disk.open(&temporary, true);
    match saved.and_then(|saved| copy(disk, &generation.file, range, &saved, 0)) {
        Err(error) if is_full(error.kind()) => {
            let _ = disk.remove(&temporary);
            Ok(false)
        }
        result => result.and_then(|()| {
            disk.rename(&temporary, name)?;
            disk.sync_dir().map(|()| true)
        }),
    }
}

/// Copies a range of bytes of a file to offset `to_start` of another, or to its own place,
/// and syncs them there.
fn copy(
    disk: &dyn Disk,
    from: &File,
    range: Range<u64>,
    to: &File,
    to_start: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    for at in range.clone().step_by(CHUNK) {
        let bytes = &mut buffer[..CHUNK.min((range.end - at) as usize)];
        disk.read(from, bytes, at)?;
        disk.write(to, bytes, at - range.start + to_start)?;
    }
    disk.sync(to)
}

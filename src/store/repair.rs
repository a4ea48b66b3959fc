//! `server --repair`: a new generation of every record that can be read.
//!
//! Where a start fails, somebody has to decide. Repair continues with what is there: it
//! copies each valid record that the survey finds, also after damage, oldest first, into
//! one new file, which then takes the place of the old ones. To replay the copies gives
//! what replaying the originals would give. A copy keeps its flags, exptime and unique.
//!
//! - R4: no file loses its name before the new one is safe, with its name; and none is
//!   deleted: old files get `.damaged` added to their names, the oldest first.
//! - R5: as long as an old file stands beside the new one, a start fails. The new one
//!   begins far after where they end, so they are never taken for one log. To repair
//!   again then copies the same records once more, which changes no answer.
//!
//! The distance has another reason. Of what was cut off the newest file nobody knows how
//! long it was, and no position may be used twice: clients hold uniques.
//!
//! What repair can't know: if a deletion was lost, the value before it comes back, and
//! if a new value was, the old one does. And after a damaged record its value is searched
//! as well: what a client had put there, made up as a record for that very place, passes
//! for one. It says nothing that the client could not have asked for.

use crate::store::disk::{Disk, free_name};
use crate::store::error::Result;
use crate::store::log::{Generation, Log, SyncMode, file_name, make_file};
use crate::store::record::{Draft, HEADER_LEN, Header, Kind, Record};
use crate::store::recover::continue_rewrite;
use crate::store::survey::{Settings, Surveyed, survey};
use std::sync::Arc;

/// So many positions lie between the old files and the new one: more than any file has
/// bytes.
const APART: u64 = 1 << 40;

/// Makes one good file of what can be read, if a start would fail on the directory's
/// files; `None` if it would not. Returns a line for each thing that was wrong, and for each
/// that was done. The directory must be ours alone. After an error it can be called again.
pub fn repair(
    disk: &Arc<dyn Disk>,
    settings: &Settings,
) -> Result<Option<Vec<String>>> {
    continue_rewrite(&**disk)?;
    let found = survey(&**disk, settings, |_, _| Ok(()))?;
    if found.is_sound() {
        return Ok(None);
    }
    let files = &found.files;
    let number = files.iter().map(|file| file.generation.number).fold(0, u64::max) + 1;
    // R5
    let base = files.iter().map(Surveyed::end).fold(0, u64::max) + APART;
    let (name, temporary) = (file_name(number), file_name(number) + ".tmp");
    // R4
    let header = Header { format: found.format, generation: number, base };
    copy(disk, settings, &header)
        .and_then(|()| Ok(disk.rename(&temporary, &name)?))
        .and_then(|()| Ok(disk.sync_dir()?))
        // A full disk needs the space; if this fails, a start or a repair does it.
        .inspect_err(|_| drop(disk.remove(&temporary)))?;
    let (mut report, records) = (found.problems(), found.records());
    report.push(format!("{name} is new, with the {records} records that can be read"));
    for file in files {
        let name = file.generation.name();
        let aside = free_name(&**disk, &format!("{name}.damaged"))?;
        disk.rename(&name, &aside)?;
        disk.sync_dir()?;
        report.push(format!("{name} is now {aside}"));
    }
    let damage = files.iter().flat_map(|file| &file.damage);
    let lost: u64 = damage.map(|range| range.end - range.start).sum();
    let caution = "a value whose deletion or overwriting was lost may have come back";
    report.push(format!("{lost} bytes could not be read; {caution}"));
    Ok(Some(report))
}

/// Copies all valid records to a new log, whose file has only a temporary name.
fn copy(disk: &Arc<dyn Disk>, settings: &Settings, header: &Header) -> Result<()> {
    let Header { format, generation: number, base } = *header;
    let (file, _) = make_file(&**disk, header)?;
    let generation = Arc::new(Generation { number, base, file });
    let (mode, end) = (SyncMode::EverySecond, base + HEADER_LEN as u64);
    let log = Log::new(disk.clone(), format, mode, vec![generation], end, 0);
    let append = |record: Record| log.append(&Draft::new(&format, record)).map(|_| ());
    survey(&**disk, settings, |_, record| append(*record))?;
    log.sync(0)?;
    // It says that all copies were synced: so damage to one is told from a torn end.
    append(Record { kind: Kind::Complete, ..Record::default() })?;
    log.sync(0)
}

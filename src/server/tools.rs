//! What can be done to a data directory that no server is using: `--check`, `--dump`,
//! `--repair` and `--compact`.
//!
//! A dump is the live items as requests: each a `set` with noreply, or an `ms` if only that
//! can have the key, in the order of their records; what is stale, or has not been computed,
//! is left out. Then a `flush_all` if one is pending, and then a `version`, whose reply says
//! that all of them were executed. What is left of an item's life is given as a date, so it
//! does not matter when the dump is loaded. It is loaded by sending it to any memcached.

use crate::os::unix_now;
use crate::protocol::meta::word_of;
use crate::store::disk::{Directory, Disk};
use crate::store::repair::repair;
use crate::store::survey::{numbers, require_ours, survey};
use crate::store::{Error, Options, Record, Result, Settings, Store, SyncMode};
use crate::{print, warn};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, atomic::Ordering::Acquire};

/// Performs one of them, which is named as its option. A check and a dump change nothing,
/// not even the time of a file.
pub fn perform(tool: &str, data: &Path, settings: &Settings) -> Result<ExitCode> {
    let directory = match tool {
        "check" | "dump" => Directory::read_only(data)?,
        _ => Directory::at(data)?,
    };
    if numbers(&directory)?.is_empty() {
        let why = "there is no data file in it; choose another --data";
        return Err(Error::Open(why.into()));
    }
    if tool == "compact" {
        return compact(data, settings);
    }
    directory.lock()?;
    match tool {
        "repair" => {
            require_ours(&directory)?;
            let disk: Arc<dyn Disk> = Arc::new(directory);
            let repaired = repair(&disk, settings)?.map(|report| report.join("\n"));
            print(repaired.as_deref().unwrap_or("there is nothing to repair"));
        }
        "dump" => dump(&directory, settings, BufWriter::new(io::stdout().lock()))?,
        _ => {
            let survey = survey(&directory, settings, |_, _| Ok(()))?;
            print(&survey.to_string());
            return Ok(ExitCode::from(u8::from(!survey.is_sound())));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn compact(data: &Path, settings: &Settings) -> Result<ExitCode> {
    // In `every-second` no space is preallocated, which would be left behind; what is
    // moved is synced all the same.
    let (settings, sync) = (*settings, SyncMode::EverySecond);
    let options = Options { settings, sync, ..Options::default() };
    let (store, torn) = Store::open(data, &options, unix_now())?;
    torn.iter().for_each(|torn| warn(&format!("server: {torn}")));
    let before = store.figure("log_bytes");
    store.compact(&unix_now)?;
    let (after, items) = (store.figure("log_bytes"), store.figure("curr_items"));
    print(&format!("{before} bytes before, {after} now, with {items} items"));
    Ok(ExitCode::SUCCESS)
}

/// Reads everything twice: first to learn what is live.
fn dump(disk: &dyn Disk, settings: &Settings, mut out: impl Write) -> Result<()> {
    let now = unix_now();
    let found = survey(disk, settings, |_, _| Ok(()))?;
    found.require_sound()?;
    // A torn end.
    found.problems().iter().for_each(|problem| warn(&format!("server: {problem}")));
    let due = found.index.flush_due.load(Acquire);
    let is_flushed = (1..=now).contains(&due);
    let failed = |error| Error::Open(format!("the dump can't be written: {error}"));
    survey(disk, settings, |position, record| {
        let Record { flags, exptime, key, value, .. } = *record;
        let is_old = record.stale || record.win_sent && value.is_empty();
        if !is_old && !is_flushed && found.is_live(position, record, now) {
            let ((word, flag), len) = (word_of(key), value.len());
            let (name, rest) = match flag {
                "" => ("set ", format!(" {flags} {exptime} {len} noreply\r\n")),
                _ => ("ms ", format!(" {len}{flag} q F{flags} T{exptime}\r\n")),
            };
            let parts = [name.as_bytes(), &word, rest.as_bytes(), value, b"\r\n"];
            out.write_all(&parts.concat()).map_err(failed)?;
        }
        Ok(())
    })?;
    let flush =
        if due > now { format!("flush_all {due} noreply\r\n") } else { "".into() };
    write!(out, "{flush}version\r\n").and_then(|()| out.flush()).map_err(failed)
}

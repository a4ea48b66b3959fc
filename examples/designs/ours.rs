//! The crate's own store: an index in memory over a log.
//!
//! Key and integer sizes are those of `binary.rs`. Nothing runs maintenance here, so
//! nothing is compacted, which is not due at these sizes; and in every-second it is the
//! kernel that writes the log to the disk in its own time, as for the other designs.

use crate::Design;
use crate::budget::Files;
use crate::mortal::Mortal;
use memcached_lite::store::disk::Directory;
use memcached_lite::store::{Options, Session, Settings, Store, SyncMode, Update};
use std::io;
use std::sync::Arc;

struct Ours {
    store: Store,
    session: Session,
}

/// Unix seconds; no value expires here.
const NOW: u64 = 1;

pub fn open_every_second(files: &Files) -> io::Result<Box<dyn Design>> {
    open(files, SyncMode::EverySecond)
}

pub fn open_always(files: &Files) -> io::Result<Box<dyn Design>> {
    open(files, SyncMode::Always)
}

fn open(files: &Files, sync: SyncMode) -> io::Result<Box<dyn Design>> {
    let settings =
        Settings { key_size: Some(60), int_size: Some(4), ..Settings::default() };
    let options = Options { settings, sync, ..Options::default() };
    let directory = Directory::at(&files.path(""))?;
    // In every-second, only opening the store would sync here.
    let syncs = sync == SyncMode::Always;
    let disk = Mortal { directory, files: files.clone(), syncs };
    let opened = Store::on_disk(Arc::new(disk), &options, NOW);
    let (store, _) = opened.map_err(io::Error::other)?;
    Ok(Box::new(Ours { store, session: Session::at(NOW) }))
}

impl Design for Ours {
    fn load(&mut self, items: &[(String, String)]) -> io::Result<()> {
        items.iter().try_for_each(|(key, value)| self.append(key, value))?;
        self.commit()
    }

    fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        self.append(key, value)?;
        self.commit()
    }

    fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let item = self.store.get(&mut self.session, key.as_bytes());
        let item = item.map_err(io::Error::other)?;
        let value = item.map(|item| String::from_utf8_lossy(item.value).into_owned());
        // What it shows may not be safe yet; then it waits like a set.
        self.commit()?;
        Ok(value)
    }
}

impl Ours {
    fn append(&mut self, key: &str, value: &str) -> io::Result<()> {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let update = Update { key, value, ..Update::default() };
        let stored = self.store.execute(&mut self.session, &update);
        stored.map(|_| ()).map_err(io::Error::other)
    }

    fn commit(&self) -> io::Result<()> {
        let Session { depends_on, now, .. } = self.session;
        self.store.commit(depends_on, now).map_err(io::Error::other)
    }
}

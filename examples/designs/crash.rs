//! What is left when the process ends in the middle of a set, at each of its steps.
//!
//! For each step anew: a store of `KEYS` keys, a set that ends there, and a fresh
//! instance, as after the next start. All keys are read, one more is set, as life goes
//! on, and all are read again. The worst that is met counts.
//!
//! The process crashes here and not the machine, so the files keep all that was written.

use crate::Case;
use crate::budget::Files;
use crate::workload::Workload;
use std::path::Path;
use std::{fs, io};

pub const KEYS: usize = 10;

/// The worst that a crash did, the mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Every key has its value; the one that was being set, the old or the new one.
    None,
    /// That one has another value, or none.
    ThatKey,
    /// Another key has, which nobody was setting, or which was set after the crash.
    OtherKeys,
    /// The store can't be opened, or every get fails.
    Unreadable,
}

type Item = (String, String);

/// A set that is cut off, and what has to be there afterwards.
struct Scene {
    items: Vec<Item>,
    /// The key that is set, and what it may have: what it had, or the new value.
    key: String,
    allowed: Vec<Option<String>>,
    /// What is set after the crash.
    after: Item,
}

/// Crashes a set at each of its steps: of a key that the store has, or of a new one.
/// Returns what each crash did.
pub fn crash(case: &Case, directory: &Path, is_new: bool) -> io::Result<Vec<Harm>> {
    let mut workload = Workload::new();
    let items = workload.sets(KEYS);
    let number = if is_new { KEYS } else { KEYS / 2 };
    let old = items.get(number).map(|(_, value)| value.clone());
    let (key, new) = workload.store(number);
    let (allowed, after) = (vec![old, Some(new.clone())], workload.store(KEYS + 1));
    let mut scene = Scene { items, key, allowed, after };
    let mut harms = Vec::new();
    loop {
        let files = Files::new(directory)?;
        let mut design = (case.open)(&files)?;
        design.load(&scene.items)?;
        files.end_after(harms.len() as u64);
        let was_set = design.set(&scene.key, &new).is_ok();
        drop(design);
        if was_set {
            // Nothing was cut off, and the old value would be a lie.
            scene.allowed.remove(0);
        }
        let harm = scene.examine(case, &Files::new(directory)?);
        fs::remove_dir_all(directory)?;
        match (was_set, harm) {
            (false, _) => harms.push(harm),
            (true, Harm::None) => return Ok(harms),
            (true, _) => return Err(io::Error::other("a set is lost without a crash")),
        }
    }
}

impl Scene {
    fn examine(&self, case: &Case, files: &Files) -> Harm {
        let items: Vec<&Item> = self.items.iter().filter(|i| i.0 != self.key).collect();
        let harm = self.look(case, files, &items);
        // Where this fails, the key is missing afterwards, and that counts.
        let (key, value) = &self.after;
        let _ = (case.open)(files).and_then(|mut design| design.set(key, value));
        harm.max(self.look(case, files, &[&items[..], &[&self.after]].concat()))
    }

    /// Reads all keys by a fresh instance.
    fn look(&self, case: &Case, files: &Files, others: &[&Item]) -> Harm {
        let Ok(mut design) = (case.open)(files) else { return Harm::Unreadable };
        let get = |(key, value): &&Item| (design.get(key).ok(), value.clone());
        let found: Vec<_> = others.iter().map(get).collect();
        let that = design.get(&self.key);
        if found.iter().all(|(found, _)| found.is_none()) {
            Harm::Unreadable
        } else if found.into_iter().any(|(found, value)| found != Some(Some(value))) {
            Harm::OtherKeys
        } else if that.is_ok_and(|value| self.allowed.contains(&value)) {
            Harm::None
        } else {
            Harm::ThatKey
        }
    }
}

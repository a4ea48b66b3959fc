//! What a log means: a model that is so simple that it can be trusted, for tests that
//! break everything around the real one.

use super::disk::{Found, Seen, records};
use memcached_lite::store::record::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// The items and the pending flush, after some record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// For each key its value, and when that expires in Unix seconds, 0 for never.
    pub items: BTreeMap<Vec<u8>, (Seen, u64)>,
    /// When a flush is due, in Unix seconds, 0 for none.
    pub due: u64,
}

impl Model {
    /// What the data files of a directory say, all records of which are good.
    pub fn of(files: &BTreeMap<String, Vec<u8>>) -> Model {
        let mut model = Model::default();
        for (_, bytes) in files.iter().filter(|(name, _)| name.ends_with(".kv")) {
            let mut here = BTreeSet::new();
            for record in records(bytes) {
                here.insert(record.key.clone());
                if record.kind == Kind::Complete {
                    // What stands in an older file alone has expired.
                    model.items.retain(|key, _| here.contains(key));
                }
                model.apply(&record);
            }
        }
        model
    }

    /// What a client sees at `now`.
    pub fn at(&self, now: u64) -> BTreeMap<Vec<u8>, Seen> {
        let items = self.settled(now).items.into_iter();
        items.map(|(key, (seen, _))| (key, seen)).collect()
    }

    /// What is left of it at `now`: two that are left the same can't be told apart from
    /// then on.
    pub fn settled(&self, now: u64) -> Model {
        let mut model = self.clone();
        if (1..=now).contains(&model.due) {
            model.flush(0);
        }
        model.items.retain(|_, (_, exptime)| *exptime == 0 || *exptime > now);
        model
    }

    pub fn apply(&mut self, record: &Found) {
        match record.kind {
            Kind::Set => {
                let item = (record.seen.clone(), record.exptime);
                self.items.insert(record.key.clone(), item);
            }
            Kind::Delete => {
                self.items.remove(&record.key);
            }
            Kind::Flush => self.flush(record.exptime),
            Kind::Complete | Kind::Time | Kind::Continued => {}
        }
    }

    pub fn flush(&mut self, due: u64) {
        self.due = due;
        if due == 0 {
            self.items.clear();
        }
    }
}

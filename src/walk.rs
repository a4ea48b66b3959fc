//! A walk over the records of one file, in the order they were appended: what replay,
//! compaction, check and repair read by.
//!
//! Each record is checked before it is handed out (F1). No length is believed before
//! it is known to fit into the file, and to be one that a value can have.

use crate::disk::{Disk, read_exact};
use crate::log::Generation;
use crate::record::{Format, HEADER_LEN, MAX_POSITION, Record};
use std::collections::BTreeMap;
use std::io;

/// Bytes read from a file at once; a longer record is read whole.
pub(crate) const CHUNK: usize = 1 << 20;

/// Behind damage, each byte may begin a record, and what looks like one is summed before
/// it is known to be none. A client can make up a value that looks like records up to the
/// file's end at every few bytes. So when this many times the file's length was summed for
/// nothing, only records up to `SHORT` bytes are still looked for.
const PATIENCE: u64 = 64;
pub(crate) const SHORT: u64 = 4 << 10;

/// What stopped a walk over a file's records.
#[derive(Debug)]
pub enum WalkError {
    /// The disk would not give the bytes.
    Io(io::Error),
    /// No valid record stands at [`Records::position`].
    Damaged,
}

/// A walk over the records of one generation, in the order they were appended.
pub struct Records<'a> {
    disk: &'a dyn Disk,
    format: &'a Format,
    pub(crate) generation: &'a Generation,
    /// Where the next record is expected.
    pub position: u64,
    /// Where the records end.
    pub(crate) end: u64,
    /// Bytes of the file; those from `start` on are the file's from `position` on.
    buffer: Vec<u8>,
    start: usize,
    /// Bytes summed of what was no record.
    wasted: u64,
    /// Where a long record was first passed over for that.
    pub(crate) gave_up_at: Option<u64>,
}

impl<'a> Records<'a> {
    /// Walks from the first record to position `end`.
    pub fn new(
        disk: &'a dyn Disk,
        format: &'a Format,
        generation: &'a Generation,
        end: u64,
    ) -> Records<'a> {
        let position = generation.base + HEADER_LEN as u64;
        Records {
            disk,
            format,
            generation,
            position,
            end,
            buffer: Vec::new(),
            start: 0,
            wasted: 0,
            gave_up_at: None,
        }
    }

    /// The next record and its position, `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "each record borrows the walk")]
    pub fn next(&mut self) -> Result<Option<(u64, Record<'_>)>, WalkError> {
        let left = self.end - self.position;
        if left == 0 {
            return Ok(None);
        }
        let overhead = self.format.overhead();
        if left < overhead as u64 {
            return Err(WalkError::Damaged);
        }
        self.fill(overhead).map_err(WalkError::Io)?;
        let stated = self.fill_stated(self.position).map_err(WalkError::Io)?;
        let len = stated.ok_or(WalkError::Damaged)?;
        let bytes = &self.buffer[self.start..self.start + len];
        let position = self.position;
        let Some(record) = self.format.decode(bytes, position) else {
            self.wasted += len as u64;
            return Err(WalkError::Damaged);
        };
        self.position += len as u64;
        self.start += len;
        Ok(Some((position, record)))
    }

    /// Goes on at `position`, further on: past damage, or past what nobody needs.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.start += (position - self.position) as usize;
        self.position = position;
    }

    /// The position at which a file begins whose header does not say it, going by
    /// records that check at a position which they state themselves, and by those that
    /// follow them. Where they disagree, a client has put records into a value: that base
    /// is taken which more bytes speak for. `None` if no record speaks for any. The walk
    /// is over a generation of base 0.
    pub(crate) fn find_base(mut self) -> io::Result<Option<u64>> {
        let overhead = self.format.overhead();
        let mut spoken_for: BTreeMap<u64, usize> = BTreeMap::new();
        let mut base = 0;
        while self.end - self.position >= overhead as u64 {
            self.fill(overhead)?;
            let head = &self.buffer[self.start..];
            let [synced, cas] = self.format.stated_positions(head);
            let mut next = self.position + 1;
            for position in [base + self.position, synced, cas] {
                let Some(len) = self.fill_stated(position)? else { continue };
                let bytes = &self.buffer[self.start..self.start + len];
                let is_good = self.format.decode(bytes, position).is_some();
                if is_good && (self.position..MAX_POSITION).contains(&position) {
                    base = position - self.position;
                    *spoken_for.entry(base).or_default() += len;
                    next = self.position + len as u64;
                    break;
                }
                self.wasted += len as u64;
            }
            self.skip_to(next);
        }
        let most = spoken_for.into_iter().max_by_key(|(_, bytes)| *bytes);
        Ok(most.map(|(base, _)| base))
    }

    /// The length that a record at `position` states here, if it can be one: all its bytes
    /// are in the buffer then, as its head is now.
    fn fill_stated(&mut self, position: u64) -> io::Result<Option<usize>> {
        let left = self.end - self.position;
        // The stated length is believed only as far as the file goes.
        match self.format.stated_len(&self.buffer[self.start..], position) {
            Some(len) if len <= left && self.has_patience_for(len) => {
                self.fill(len as usize)?;
                Ok(Some(len as usize))
            }
            _ => Ok(None),
        }
    }

    /// Whether so many bytes are still to be summed, to see whether they are a record. Notes
    /// where that is first not so.
    fn has_patience_for(&mut self, len: u64) -> bool {
        let file_len = self.end - self.generation.base;
        let has_patience = len <= SHORT || self.wasted <= PATIENCE * file_len;
        if !has_patience {
            self.gave_up_at.get_or_insert(self.position);
        }
        has_patience
    }

    /// Sees to it that `count` bytes from `start` on are in the buffer.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        if self.start + count <= self.buffer.len() {
            return Ok(());
        }
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
        let old = self.buffer.len();
        let left = self.end - self.position;
        self.buffer.resize(left.min(count.max(CHUNK) as u64) as usize, 0);
        let offset = self.position - self.generation.base + old as u64;
        read_exact(self.disk, &self.generation.file, &mut self.buffer[old..], offset)
    }
}

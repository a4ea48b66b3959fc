//! A walk over the records of one file, in the order they were appended: how recovery,
//! compaction, check and repair read files.
//!
//! Each record is verified before it is returned (F1). No length is believed before it
//! is known to fit into the file, and to be one that a value can have.

use crate::store::disk::Disk;
use crate::store::log::Generation;
use crate::store::record::{Format, HEADER_LEN, Record};
use std::io;

/// Bytes read from a file at once; a longer record is read whole.
pub(crate) const CHUNK: usize = 1 << 20;

/// After damage, each byte may begin a record, and what looks like a record costs a
/// checksum to reject. A client can make up a value that looks like the beginning of a long
/// record at every few bytes. So the search has a budget: when this many times the file's
/// length has been checksummed in vain, only records up to `SHORT` bytes are searched for.
const SEARCH_BUDGET: u64 = 64;
const SHORT: u64 = 4 << 10;

/// Bytes that a power cut leaves out as a whole, and that then read as zeros.
const PAGE: usize = 4096;

/// What stands at the walk's position.
pub(crate) enum Step<'a> {
    /// A valid record, at this position.
    Record(u64, Record<'a>),
    /// No valid record, but this byte.
    Damage(u8),
    /// The end of the file.
    End,
}

/// See the top of this file.
pub(crate) struct Records<'a> {
    disk: &'a dyn Disk,
    format: &'a Format,
    generation: &'a Generation,
    /// Where the next record is expected.
    pub(crate) position: u64,
    /// Where the records end.
    end: u64,
    /// Bytes of the file; those from `start` on are the file's from `position` on.
    buffer: Vec<u8>,
    start: usize,
    /// Bytes checksummed of what was not a record.
    tried: u64,
    /// Up to where a damaged record may hold anything; 0 after one that is not.
    torn: u64,
}

impl<'a> Records<'a> {
    /// Walks from the first record to position `end`.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        format: &'a Format,
        generation: &'a Generation,
        end: u64,
    ) -> Records<'a> {
        let position = generation.base + HEADER_LEN as u64;
        let (buffer, start, tried, torn) = (Vec::new(), 0, 0, 0);
        Records { disk, format, generation, position, end, buffer, start, tried, torn }
    }

    /// Returns the next record and moves past it. At damage the walk stays where it is.
    pub(crate) fn next(&mut self) -> io::Result<Step<'_>> {
        let (position, left) = (self.position, self.end - self.position);
        if left == 0 {
            return Ok(Step::End);
        }
        self.fill(left.min(self.format.overhead() as u64))?;
        let damage = Ok(Step::Damage(self.buffer[self.start]));
        let Some(len) = self.candidate(position)? else { return damage };
        let bytes = &self.buffer[self.start..self.start + len];
        let Some(record) = self.format.decode(bytes, position) else {
            self.tried += len as u64;
            return damage;
        };
        self.position += len as u64;
        self.start += len;
        self.torn = 0;
        Ok(Step::Record(position, record))
    }

    /// Whether a record of another place stands at the damage that was just met: most
    /// records state their place, as their unique. A damaged record may hold anything, so
    /// what looks like a record within it says nothing; nor does what comes after a page that
    /// a power cut has left out, which may have been the head of one.
    pub(crate) fn is_displaced(&mut self) -> io::Result<bool> {
        let (rest, position) = (&self.buffer[self.start..], self.position);
        if position < self.torn || rest.len() < self.format.overhead() {
            return Ok(false);
        }
        let (place, _) = self.format.stated_places(rest);
        let offset = (position - self.generation.base) as usize;
        let mut page = rest.iter().take(PAGE - offset % PAGE);
        let is_start = self.torn == 0 || position == self.torn;
        if (is_start || offset.is_multiple_of(PAGE)) && page.all(|byte| *byte == 0) {
            self.torn = u64::MAX;
        } else if is_start {
            self.torn = position + self.format.stated_len(rest, position).unwrap_or(0);
        }
        let Some(len) = self.candidate(place)? else { return Ok(false) };
        self.tried += len as u64;
        let bytes = &self.buffer[self.start..self.start + len];
        Ok(self.format.decode(bytes, place).is_some())
    }

    /// The length of what may be a record for `place`, all of which is then in the buffer.
    fn candidate(&mut self, place: u64) -> io::Result<Option<usize>> {
        let (head, left) = (&self.buffer[self.start..], self.end - self.position);
        if head.len() < self.format.overhead() {
            return Ok(None);
        }
        // The stated length is believed only as far as the file goes.
        let stated = self.format.stated_len(head, place).filter(|len| *len <= left);
        let Some(len) = stated.filter(|len| *len <= SHORT || !self.is_limited()) else {
            return Ok(None);
        };
        self.fill(len)?;
        Ok(Some(len as usize))
    }

    /// Whether the search budget is used up, so that long records may be passed over.
    pub(crate) fn is_limited(&self) -> bool {
        self.tried > SEARCH_BUDGET * (self.end - self.generation.base)
    }

    /// Continues at `position`, further on: past damage, or past what is not live.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.start += (position - self.position) as usize;
        self.position = position;
    }

    /// Makes sure that `count` bytes from `start` on are in the buffer.
    fn fill(&mut self, count: u64) -> io::Result<()> {
        if self.start + count as usize <= self.buffer.len() {
            return Ok(());
        }
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
        let old = self.buffer.len();
        let left = self.end - self.position;
        self.buffer.resize(left.min(count.max(CHUNK as u64)) as usize, 0);
        let offset = self.position - self.generation.base + old as u64;
        self.disk.read(&self.generation.file, &mut self.buffer[old..], offset)
    }
}

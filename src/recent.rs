//! Records that a session has read lately, so that keys asked for again and again cost
//! no system call.
//!
//! A position is never used twice and the bytes there never change (L1), so nothing
//! kept here can be out of date: an update of a key is a record at another position.
//! Nobody else reads or writes it, so there is no lock. Each record is in the one slot
//! that its position chooses, and goes when another one is read into that slot. The
//! sum is checked at every use, as if it had just been read (F1).
//!
//! Left out: large records, whose copy costs more than the call that fetches them.

use crate::log::Result;

/// Slots, and the longest record that is kept, in bytes: 4 MiB at most.
const SLOTS: usize = 4096;
const SLOT_SIZE: usize = 1024;

/// See the module's page.
#[derive(Default)]
pub(crate) struct Recent {
    /// Made with the first record.
    slots: Vec<Slot>,
    /// The large record that was read last. It stays allocated, and what it has is
    /// not zeroed again for each read.
    large: Vec<u8>,
}

#[derive(Clone, Default)]
struct Slot {
    /// Where the record stands; 0, where none does, if there is nothing here.
    position: u64,
    bytes: Vec<u8>,
}

impl Recent {
    /// Has `read` fill the place for the record of `len` bytes at `position`, unless it
    /// is here. False if `read` says so.
    pub(crate) fn load(
        &mut self,
        position: u64,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<bool>,
    ) -> Result<bool> {
        if len > SLOT_SIZE {
            if self.large.len() < len {
                self.large.resize(len, 0);
            }
            return read(&mut self.large[..len]);
        }
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, Slot::default());
        }
        let slot = &mut self.slots[slot_of(position)];
        if slot.position != position {
            // If reading fails halfway, nothing may pass for what was here.
            slot.position = 0;
            slot.bytes.resize(len, 0);
            if !read(&mut slot.bytes)? {
                return Ok(false);
            }
            slot.position = position;
        }
        Ok(true)
    }

    /// The record that was loaded last.
    pub(crate) fn bytes(&self, position: u64, len: usize) -> &[u8] {
        match len > SLOT_SIZE {
            true => &self.large[..len],
            false => &self.slots[slot_of(position)].bytes,
        }
    }
}

/// Multiplied with a number whose bits are well mixed (2^64 / the golden ratio), positions that
/// are multiples of a record's length spread over all slots.
fn slot_of(position: u64) -> usize {
    let mixed = position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - SLOTS.ilog2())) as usize
}

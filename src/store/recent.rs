//! A cache of the records that a session has read recently, so that keys requested again
//! and again cost no system call.
//!
//! A position is never used twice and the bytes there never change (L1), so nothing
//! cached here can be out of date: an update of a key is a record at another position.
//! A cache belongs to one thread, so there is no lock. It is direct-mapped: each record
//! has the one slot that its position selects, and is evicted by the next record read
//! into that slot. The checksum is verified at every use, as if it had just been read
//! (F1). The price: as long as a copy is here, damage to the record on disk is not
//! noticed.
//!
//! Left out: large records, whose copy costs more than the call that fetches them.

use crate::store::error::Result;
use std::cell::Cell;

/// Slots, and the longest record that is cached, in bytes: 4 MiB at most.
const SLOTS: usize = 4096;
const SLOT_SIZE: usize = 1024;

/// See the top of this file.
#[derive(Default)]
pub(crate) struct Recent {
    /// Allocated with the first record.
    slots: Vec<Slot>,
    /// The large record that was read last. The buffer stays, so that it is not zeroed
    /// again for each read.
    large: Vec<u8>,
}

#[derive(Default)]
struct Slot {
    /// Where the record stands; 0, where none does, for an empty slot. A cell, because a
    /// reader that finds the record damaged has borrowed it and still empties the slot.
    position: Cell<u64>,
    bytes: Vec<u8>,
}

impl Recent {
    /// Has `read` fill the buffer for the record of `len` bytes at `position`, unless it
    /// is cached. False if `read` returns that.
    pub(crate) fn load(
        &mut self,
        position: u64,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<bool>,
    ) -> Result<bool> {
        if len > SLOT_SIZE {
            if self.large.len() < len {
                // Exactly, here and below: records tend to have few different lengths.
                self.large.reserve_exact(len - self.large.len());
                self.large.resize(len, 0);
            }
            return read(&mut self.large[..len]);
        }
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, Slot::default);
        }
        let slot = &mut self.slots[slot_of(position)];
        if slot.position.get() != position {
            // If reading fails halfway, the slot must not pass for the old record.
            slot.position.set(0);
            slot.bytes.reserve_exact(len.saturating_sub(slot.bytes.len()));
            slot.bytes.resize(len, 0);
            if !read(&mut slot.bytes)? {
                return Ok(false);
            }
            slot.position.set(position);
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

    /// The record at `position` was found damaged: perhaps only this copy is.
    pub(crate) fn forget(&self, position: u64) {
        if let Some(slot) = self.slots.get(slot_of(position)) {
            slot.position.set(0);
        }
    }
}

/// Multiplication by 2^64 divided by the golden ratio spreads positions, which are often
/// multiples of a record's length, over the slots; twice, since once is bad for lengths
/// that are Fibonacci numbers.
fn slot_of(position: u64) -> usize {
    let mix = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mix(mix(position) ^ (mix(position) >> 32)) >> (64 - SLOTS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error::Error;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Loads a record of `len` times `byte`; returns whether it had to be read.
    fn load(recent: &mut Recent, position: u64, len: usize, byte: u8) -> bool {
        let mut was_read = false;
        let loaded = recent.load(position, len, |buffer| {
            was_read = true;
            buffer.fill(byte);
            Ok(true)
        });
        assert_eq!(loaded, Ok(true));
        assert_eq!(recent.bytes(position, len), vec![byte; len]);
        was_read
    }

    /// Two positions that have the same slot.
    fn rivals() -> (u64, u64) {
        let first = 40;
        let second = (first + 1..).find(|&p| slot_of(p) == slot_of(first));
        (first, second.unwrap())
    }

    #[test]
    fn a_position_is_read_once_until_another_takes_its_slot() {
        let mut recent = Recent::default();
        let (first, second) = rivals();
        assert!(load(&mut recent, first, 100, b'1'));
        assert!(!load(&mut recent, first, 100, b'1'));
        assert!(load(&mut recent, second, 50, b'2'));
        assert!(!load(&mut recent, second, 50, b'2'));
        assert!(load(&mut recent, first, 100, b'1'));
    }

    #[test]
    fn a_read_that_ends_early_leaves_nothing_that_passes() {
        type Read = fn(&mut [u8]) -> Result<bool>;
        let reads: [Read; 3] = [
            |_| Err(Error::Read("failed".into())),
            |_| Ok(false),
            |_| panic!("as the test asked"),
        ];
        for read in reads {
            let mut recent = Recent::default();
            let (first, second) = rivals();
            load(&mut recent, first, 100, b'1');
            let ended = catch_unwind(AssertUnwindSafe(|| {
                recent.load(second, 100, |buffer| {
                    buffer[..50].fill(b'2');
                    read(buffer)
                })
            }));
            assert!(!matches!(ended, Ok(Ok(true))));
            assert!(load(&mut recent, first, 100, b'1'));
            assert!(load(&mut recent, second, 100, b'2'));
        }
    }

    #[test]
    fn large_records_are_read_each_time() {
        let mut recent = Recent::default();
        assert!(load(&mut recent, 40, 3 * SLOT_SIZE, b'1'));
        assert!(load(&mut recent, 40, 3 * SLOT_SIZE, b'1'));
        // A shorter one shows nothing of a longer one before it.
        assert!(load(&mut recent, 5000, SLOT_SIZE + 1, b'2'));
        assert!(load(&mut recent, 5000, SLOT_SIZE + 1, b'3'));
        assert!(load(&mut recent, 9000, SLOT_SIZE, b'4'));
        assert!(!load(&mut recent, 9000, SLOT_SIZE, b'4'));
    }

    #[test]
    fn what_was_forgotten_is_read_again() {
        let mut recent = Recent::default();
        recent.forget(40);
        load(&mut recent, 40, 100, b'1');
        recent.forget(40);
        assert!(load(&mut recent, 40, 100, b'2'));
    }

    #[test]
    fn neighbours_in_a_file_spread_over_the_slots() {
        for step in [55, 89, 289, 300, 377, 610, 1024, 4096] {
            let slots: std::collections::HashSet<usize> =
                (0..SLOTS as u64).map(|i| slot_of(40 + i * step)).collect();
            assert!(slots.len() > SLOTS / 2, "{} for {step}", slots.len());
        }
    }
}

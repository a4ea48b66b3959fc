//! Bytes <-> file header and record. Pure: no files, no clock.
//!
//! A data file is one header and then records, back to back, each valid only at
//! the place it was written for. Every offset is a constant below, the sum of the
//! widths before it; nothing else in the project knows where a field stands.
//!
//! ```text
//! header  magic 8 | format version 2 | KEY_SIZE 2 | INT_SIZE 1 | INT_ORDER 1
//!         | reserved 6 | generation 8 | base 8 | CRC-32 4         = 40 bytes
//! record  CRC-32 4 | kind 1 | flags 4 | exptime 8 | cas 8 | synced 8  (head)
//!         | key length 2 | key KEY_SIZE | size INT_SIZE | value       (body)
//! ```
//!
//! The header is big-endian, whatever INT_ORDER says: a reader needs it to learn
//! INT_ORDER. A record's integers are in INT_ORDER. A key shorter than KEY_SIZE
//! is padded with zeros.
//!
//! The record's sum runs over its body, but for the padding, then over its head. The
//! body can so be summed before the log's lock is taken; what is known only under that
//! lock (cas, synced) comes last, with the head, 29 bytes in all. The padding is
//! compared with zero. And the position is XORed into the sum, so that the bytes of a
//! record inside some value, or left over from an earlier life of the disk, never pass
//! for a record.

use crate::crc::crc32;
use std::fmt;

const MAGIC: &[u8; 8] = b"mc-lite\n";
const FORMAT_VERSION: u16 = 2;

// The header: where each field begins.
const HEADER_VERSION: usize = 8;
const HEADER_KEY_SIZE: usize = HEADER_VERSION + 2;
const HEADER_INT_SIZE: usize = HEADER_KEY_SIZE + 2;
const HEADER_INT_ORDER: usize = HEADER_INT_SIZE + 1;
const HEADER_RESERVED: usize = HEADER_INT_ORDER + 1;
const HEADER_GENERATION: usize = HEADER_RESERVED + 6;
const HEADER_BASE: usize = HEADER_GENERATION + 8;
const HEADER_SUM: usize = HEADER_BASE + 8;
/// Length of a file header in bytes.
pub const HEADER_LEN: usize = HEADER_SUM + 4;

// The record: where each field begins, as far as that does not hang on KEY_SIZE.
const SUM: usize = 0;
const KIND: usize = SUM + 4;
const FLAGS: usize = KIND + 1;
const EXPTIME: usize = FLAGS + 4;
const CAS: usize = EXPTIME + 8;
const SYNCED: usize = CAS + 8;
const KEY_LEN: usize = SYNCED + 8;
const KEY: usize = KEY_LEN + 2;

/// The largest value that there can be, in bytes, whatever INT_SIZE is: the most that
/// `--max-item-size` takes. A damaged size is believed, and memory found for it, only
/// up to here.
pub const MAX_VALUE: usize = 1 << 30;

/// No log gets so long. What states a position beyond was made up, and sums of positions
/// below do not overflow.
pub(crate) const MAX_POSITION: u64 = 1 << 62;

/// The byte order of a record's integers, `--int-order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrder {
    /// Most significant byte first.
    Big,
    /// Least significant byte first.
    Little,
}

impl fmt::Display for IntOrder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            IntOrder::Big => "big",
            IntOrder::Little => "little",
        })
    }
}

/// What a record does to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key has this value from here on.
    Set = 1,
    /// The key is gone.
    Delete = 2,
    /// Every key is gone: at once with exptime 0, else when exptime is reached.
    Flush = 3,
}

/// The settings that fix the layout of a directory's files for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bytes that a key takes up in each record, and the longest key: 1 to 65535.
    pub key_size: u16,
    /// Bytes of the field that holds a value's size: 1 to 8.
    pub int_size: u8,
    /// Byte order of a record's integers.
    pub int_order: IntOrder,
}

impl Default for Format {
    /// memcached's longest key, values up to 4 GiB.
    fn default() -> Format {
        Format { key_size: 250, int_size: 4, int_order: IntOrder::Big }
    }
}

/// The first bytes of every data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How the file's records are laid out.
    pub format: Format,
    /// The file's number, the one in its name.
    pub generation: u64,
    /// The log position at which this file begins.
    pub base: u64,
}

impl Header {
    /// The header as it stands in the file.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let order = match self.format.int_order {
            IntOrder::Big => b'B',
            IntOrder::Little => b'L',
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[..HEADER_VERSION].copy_from_slice(MAGIC);
        bytes[HEADER_VERSION..HEADER_KEY_SIZE]
            .copy_from_slice(&FORMAT_VERSION.to_be_bytes());
        bytes[HEADER_KEY_SIZE..HEADER_INT_SIZE]
            .copy_from_slice(&self.format.key_size.to_be_bytes());
        bytes[HEADER_INT_SIZE] = self.format.int_size;
        bytes[HEADER_INT_ORDER] = order;
        bytes[HEADER_GENERATION..HEADER_BASE]
            .copy_from_slice(&self.generation.to_be_bytes());
        bytes[HEADER_BASE..HEADER_SUM].copy_from_slice(&self.base.to_be_bytes());
        let sum = crc32(0, &bytes[..HEADER_SUM]);
        bytes[HEADER_SUM..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Reads a header back, or says in a few words why these bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Header, String> {
        if bytes.len() < HEADER_LEN || &bytes[..HEADER_VERSION] != MAGIC {
            return Err("it is not a data file of memcached-lite".into());
        }
        let number = |from, to| IntOrder::Big.read(&bytes[from..to]);
        let version = number(HEADER_VERSION, HEADER_KEY_SIZE);
        if version != u64::from(FORMAT_VERSION) {
            return Err(format!(
                "it has format version {version}, this program reads {FORMAT_VERSION}"
            ));
        }
        let sum = number(HEADER_SUM, HEADER_LEN);
        if sum != u64::from(crc32(0, &bytes[..HEADER_SUM])) {
            return Err("its header is damaged".into());
        }
        let int_order = match bytes[HEADER_INT_ORDER] {
            b'B' => IntOrder::Big,
            b'L' => IntOrder::Little,
            other => return Err(format!("its header has the unknown order {other}")),
        };
        let key_size = number(HEADER_KEY_SIZE, HEADER_INT_SIZE) as u16;
        let int_size = bytes[HEADER_INT_SIZE];
        if key_size == 0 || !(1..=8).contains(&int_size) {
            return Err(format!(
                "its header has KEY_SIZE {key_size} and INT_SIZE {int_size}"
            ));
        }
        let generation = number(HEADER_GENERATION, HEADER_BASE);
        let base = number(HEADER_BASE, HEADER_SUM);
        if generation > MAX_POSITION || base > MAX_POSITION {
            return Err(format!("its header has generation {generation}, base {base}"));
        }
        let format = Format { key_size, int_size, int_order };
        Ok(Header { format, generation, base })
    }
}

/// A record that has passed its checksum, borrowed from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it does.
    pub kind: Kind,
    /// The client's 32 bits, opaque to us.
    pub flags: u32,
    /// Expiry in Unix seconds, 0 for never; for a flush, when it is due.
    pub exptime: u64,
    /// The unique of `gets` and `cas`: the position at which this value was first
    /// stored. Touch and compaction write the record anew and keep it.
    pub cas: u64,
    /// The log position known to be safe when the record was made. Replay tells by
    /// it whether damage hit what once was safe.
    pub synced: u64,
    /// Empty for a flush.
    pub key: &'a [u8],
    /// Empty unless `kind` is `Set`.
    pub value: &'a [u8],
}

impl Format {
    /// Length in bytes of a record without its value.
    pub fn overhead(&self) -> usize {
        KEY + usize::from(self.key_size) + usize::from(self.int_size)
    }

    /// Length in bytes of a record with a value of `size` bytes.
    pub fn record_len(&self, size: usize) -> usize {
        self.overhead() + size
    }

    /// The largest size that INT_SIZE bytes can hold.
    pub fn max_value(&self) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(self.int_size))
    }

    /// The length in bytes that the record at the head of `bytes` states, or `None`
    /// where none can begin at `position`. Nothing is proven by it: it says how many
    /// bytes [`Format::decode`] needs, and spares most bytes that are no record their
    /// sum. `bytes` holds at least [`Format::overhead`].
    pub fn stated_len(&self, bytes: &[u8], position: u64) -> Option<u64> {
        let number = |from, to| self.int_order.read(&bytes[from..to]);
        if !(1..=3).contains(&bytes[KIND])
            || number(KEY_LEN, KEY) > u64::from(self.key_size)
            || number(CAS, SYNCED) > position
            || number(SYNCED, KEY_LEN) > position
        {
            return None;
        }
        let size = KEY + usize::from(self.key_size);
        let size = self.int_order.read(&bytes[size..self.overhead()]);
        (size <= MAX_VALUE as u64).then_some(size + self.overhead() as u64)
    }

    /// The positions that the record at the head of `bytes` may have been written for,
    /// going by its own fields: `synced` of the first one after a sync, and `cas` of a
    /// new one. Nothing is proven by it. `bytes` holds at least [`Format::overhead`].
    pub fn stated_positions(&self, bytes: &[u8]) -> [u64; 2] {
        [SYNCED..KEY_LEN, CAS..SYNCED].map(|field| self.int_order.read(&bytes[field]))
    }

    /// The record that `bytes` are, from first to last, if they were written for
    /// `position` and are undamaged. Invariant F1: nobody sees a field of a
    /// record before this has checked its sum.
    pub fn decode<'a>(&self, bytes: &'a [u8], position: u64) -> Option<Record<'a>> {
        if bytes.len() < self.overhead()
            || self.stated_len(bytes, position) != Some(bytes.len() as u64)
        {
            return None;
        }
        let number = |from, to| self.int_order.read(&bytes[from..to]);
        let key_len = number(KEY_LEN, KEY) as usize;
        // Looked at as a whole: this is compiled into a few wide instructions.
        let padding = &bytes[KEY + key_len..KEY + usize::from(self.key_size)];
        let is_padded = padding.iter().fold(0, |all, byte| all | byte) == 0;
        let body = self.body_sum(bytes, key_len);
        let sum = u64::from(self.sum(body, bytes, position));
        if !is_padded || number(SUM, KIND) != sum {
            return None;
        }
        let kind = match bytes[KIND] {
            1 => Kind::Set,
            2 => Kind::Delete,
            _ => Kind::Flush,
        };
        Some(Record {
            kind,
            flags: number(FLAGS, EXPTIME) as u32,
            exptime: number(EXPTIME, CAS),
            cas: number(CAS, SYNCED),
            synced: number(SYNCED, KEY_LEN),
            key: &bytes[KEY..KEY + key_len],
            value: &bytes[self.overhead()..],
        })
    }

    /// The sum of a record's body: key and value with their lengths. The zeros behind
    /// the key, most of a small record, are not summed but looked at when it is read.
    fn body_sum(&self, bytes: &[u8], key_len: usize) -> u32 {
        let key = crc32(0, &bytes[KEY_LEN..KEY + key_len]);
        crc32(key, &bytes[KEY + usize::from(self.key_size)..])
    }

    /// The sum of a record, given that of its body. The position is mixed in, so that
    /// a record counts only where it was written.
    fn sum(&self, body: u32, bytes: &[u8], position: u64) -> u32 {
        let place = position as u32 ^ (position >> 32) as u32;
        crc32(body, &bytes[KIND..KEY_LEN]) ^ place
    }
}

/// A record but for what only its place in the log decides. It is drafted before
/// the log's lock is taken and sealed under it. One draft serves for record after
/// record, so that writing allocates nothing.
#[derive(Default)]
pub struct Draft {
    bytes: Vec<u8>,
    body_sum: u32,
    /// The unique to keep; `None` for a new value, whose unique is its position.
    cas: Option<u64>,
}

impl Draft {
    /// Drafts a new value for `key`, in two parts, as append and prepend have it.
    /// The key fits KEY_SIZE and the value's size INT_SIZE: the caller has checked.
    pub fn set(
        &mut self,
        format: &Format,
        key: &[u8],
        flags: u32,
        exptime: u64,
        value: [&[u8]; 2],
    ) {
        self.fill(format, Kind::Set, flags, exptime, key, value);
        self.cas = None;
    }

    /// Drafts `record` once more, for another place: its unique stays.
    pub fn copy(&mut self, format: &Format, record: &Record) {
        let value = [record.value, &[]];
        self.fill(format, record.kind, record.flags, record.exptime, record.key, value);
        self.cas = Some(record.cas);
    }

    /// Drafts the deletion of `key`.
    pub fn delete(&mut self, format: &Format, key: &[u8]) {
        self.fill(format, Kind::Delete, 0, 0, key, [&[], &[]]);
        self.cas = None;
    }

    /// Drafts a flush, at once (`due` 0) or at the Unix second `due`.
    pub fn flush(&mut self, format: &Format, due: u64) {
        self.fill(format, Kind::Flush, 0, due, &[], [&[], &[]]);
        self.cas = None;
    }

    fn fill(
        &mut self,
        format: &Format,
        kind: Kind,
        flags: u32,
        exptime: u64,
        key: &[u8],
        value: [&[u8]; 2],
    ) {
        let order = format.int_order;
        let overhead = format.overhead();
        let size_at = overhead - usize::from(format.int_size);
        self.bytes.clear();
        // Once and for all of it, and not doubled.
        self.bytes.reserve_exact(overhead + value[0].len() + value[1].len());
        self.bytes.resize(overhead, 0);
        let head = &mut self.bytes[..];
        head[KIND] = kind as u8;
        order.write(&mut head[FLAGS..EXPTIME], u64::from(flags));
        order.write(&mut head[EXPTIME..CAS], exptime);
        order.write(&mut head[KEY_LEN..KEY], key.len() as u64);
        head[KEY..KEY + key.len()].copy_from_slice(key);
        let size = (value[0].len() + value[1].len()) as u64;
        order.write(&mut head[size_at..overhead], size);
        self.bytes.extend_from_slice(value[0]);
        self.bytes.extend_from_slice(value[1]);
        self.body_sum = format.body_sum(&self.bytes, key.len());
    }

    /// Finishes the record for its place in the log and returns its bytes.
    pub fn seal(&mut self, format: &Format, position: u64, synced: u64) -> &[u8] {
        let order = format.int_order;
        order.write(&mut self.bytes[CAS..SYNCED], self.cas.unwrap_or(position));
        order.write(&mut self.bytes[SYNCED..KEY_LEN], synced);
        let sum = format.sum(self.body_sum, &self.bytes, position);
        order.write(&mut self.bytes[SUM..KIND], u64::from(sum));
        &self.bytes
    }
}

impl IntOrder {
    /// Writes the low bytes of `value` over all of `field`, at most 8 bytes.
    pub(crate) fn write(self, field: &mut [u8], value: u64) {
        field.copy_from_slice(&value.to_be_bytes()[8 - field.len()..]);
        if self == IntOrder::Little {
            field.reverse();
        }
    }

    /// The number in `field`, at most 8 bytes.
    pub(crate) fn read(self, field: &[u8]) -> u64 {
        let more = |number, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            IntOrder::Big => field.iter().fold(0, more),
            IntOrder::Little => field.iter().rev().fold(0, more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats() -> impl Iterator<Item = Format> {
        [1, 60, 250, 65535].into_iter().flat_map(|key_size| {
            (1..=8).flat_map(move |int_size| {
                [IntOrder::Big, IntOrder::Little].map(|int_order| Format {
                    key_size,
                    int_size,
                    int_order,
                })
            })
        })
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_in_every_format() {
        let mut draft = Draft::default();
        for format in formats() {
            draft.set(&format, b"k", 7, 99, [b"va", b"lue"]);
            let bytes = draft.seal(&format, 4096, 40).to_vec();
            assert_eq!(bytes.len(), format.record_len(5));
            assert_eq!(
                format.decode(&bytes, 4096),
                Some(Record {
                    kind: Kind::Set,
                    flags: 7,
                    exptime: 99,
                    cas: 4096,
                    synced: 40,
                    key: b"k",
                    value: b"value",
                })
            );
        }
    }

    #[test]
    fn a_header_reads_back_in_every_format() {
        for format in formats() {
            let header = Header { format, generation: 3, base: 1 << 40 };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn a_header_of_a_log_that_can_not_be_is_refused() {
        let format = Format::default();
        for (generation, base) in [(u64::MAX, 0), (1, u64::MAX - 60)] {
            let bytes = Header { format, generation, base }.encode();
            let why = format!("its header has generation {generation}, base {base}");
            assert_eq!(Header::decode(&bytes), Err(why));
        }
    }

    #[test]
    fn a_copy_keeps_the_unique() {
        let format = Format::default();
        let (mut first, mut second) = (Draft::default(), Draft::default());
        first.set(&format, b"k", 0, 0, [b"v", b""]);
        let bytes = first.seal(&format, 40, 40);
        second.copy(&format, &format.decode(bytes, 40).unwrap());
        let moved = format.decode(second.seal(&format, 900, 800), 900).unwrap();
        assert_eq!((moved.cas, moved.synced), (40, 800));
    }

    #[test]
    fn a_record_is_valid_only_where_it_was_written() {
        let format = Format::default();
        let mut draft = Draft::default();
        draft.delete(&format, b"k");
        let bytes = draft.seal(&format, 1000, 40);
        assert!(format.decode(bytes, 1000).is_some());
        assert!(format.decode(bytes, 1001).is_none());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let format = Format { key_size: 4, int_size: 2, int_order: IntOrder::Little };
        let mut draft = Draft::default();
        draft.set(&format, b"key", 1, 2, [b"value", b""]);
        let mut record = draft.seal(&format, 77, 40).to_vec();
        let header = Header { format, generation: 1, base: 0 };
        let mut first = header.encode();
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(format.decode(&record, 77), None, "bit {bit}");
            record[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..first.len() * 8 {
            first[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&first).is_err(), "bit {bit}");
            first[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_size_that_no_value_can_have_is_not_believed() {
        let format = Format { key_size: 1, int_size: 8, int_order: IntOrder::Big };
        let mut draft = Draft::default();
        draft.set(&format, b"k", 0, 0, [b"", b""]);
        let mut bytes = draft.seal(&format, 40, 40).to_vec();
        let size = KEY + 1..KEY + 1 + 8;
        format.int_order.write(&mut bytes[size.clone()], MAX_VALUE as u64);
        assert!(format.stated_len(&bytes, 40).is_some());
        format.int_order.write(&mut bytes[size], MAX_VALUE as u64 + 1);
        assert_eq!(format.stated_len(&bytes, 40), None);
    }

    #[test]
    fn zeros_never_pass_for_a_record() {
        for format in formats() {
            let zeros = vec![0; format.record_len(100)];
            assert_eq!(format.stated_len(&zeros, 1000), None);
        }
    }
}

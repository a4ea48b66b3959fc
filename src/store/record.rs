//! Bytes <-> file header and record. Pure: no files, no clock.
//!
//! A data file is one header and then records, back to back, each valid only at the
//! position it was written for. Every offset is a constant below, the sum of the widths
//! before it, which are in bytes; nothing else in the project knows where a field stands.
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
//! is padded with zeros. Three bits of the kind's byte belong to a set: the value is
//! stale; a client has been asked to recompute it; and its unique may be higher than the
//! position, since a client has chosen it.
//!
//! The record's checksum covers its body, except the padding, and then its head. So the
//! body's part can be computed before the log's lock is taken; what is known only under
//! that lock (cas, synced) comes last, with the head, 29 bytes in all. The padding is
//! compared with zero. F1: nothing of a record is believed before that, whenever it is read
//! from its file.
//!
//! The position is XORed into the checksum, so that the bytes of
//! a record inside some value, or left over from an earlier life of the disk, never pass
//! for a record.

use crate::store::crc::crc32;
use std::fmt;

const MAGIC: &[u8; 8] = b"mc-lite\n";

/// The version of this layout, in every header. A file of another version is rejected.
pub const FORMAT_VERSION: u16 = 3;

// The header: where each field begins.
const HEADER_VERSION: usize = 8;
const HEADER_KEY_SIZE: usize = HEADER_VERSION + 2;
const HEADER_INT_SIZE: usize = HEADER_KEY_SIZE + 2;
const HEADER_INT_ORDER: usize = HEADER_INT_SIZE + 1;
const HEADER_RESERVED: usize = HEADER_INT_ORDER + 1;
const HEADER_GENERATION: usize = HEADER_RESERVED + 6;
const HEADER_BASE: usize = HEADER_GENERATION + 8;
const HEADER_CRC: usize = HEADER_BASE + 8;
/// Length of a file header in bytes.
pub const HEADER_LEN: usize = HEADER_CRC + 4;

// The record: where each field begins, as far as that does not depend on KEY_SIZE.
const CRC: usize = 0;
const KIND: usize = CRC + 4;
const FLAGS: usize = KIND + 1;
const EXPTIME: usize = FLAGS + 4;
const CAS: usize = EXPTIME + 8;
const SYNCED: usize = CAS + 8;
const KEY_LEN: usize = SYNCED + 8;
const KEY: usize = KEY_LEN + 2;

// The bits beside the kind.
const CHOSEN: u8 = 0x20;
const STALE: u8 = 0x40;
const WIN_SENT: u8 = 0x80;
const MARKS: u8 = CHOSEN | STALE | WIN_SENT;

/// The largest value that there can be, in bytes, whatever INT_SIZE is: the most that
/// `--max-item-size` accepts. A size read from a file is believed, and memory allocated
/// for it, only up to here.
pub const MAX_VALUE: usize = 1 << 30;

/// No log becomes so long. A header that states a position beyond was made up, and sums
/// of positions below do not overflow.
pub(crate) const MAX_POSITION: u64 = 1 << 62;

/// The byte order of a record's integers, `--int-order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrder {
    /// Most significant byte first.
    Big,
    /// Least significant byte first.
    Little,
}

impl IntOrder {
    /// Both by their names.
    pub(crate) const NAMES: [(&str, IntOrder); 2] =
        [("big", IntOrder::Big), ("little", IntOrder::Little)];

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

/// The settings that fix the layout of a directory's files for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bytes that a key occupies in each record, and the longest key: 1 to 65535.
    pub key_size: u16,
    /// Bytes of the field that holds a value's size: 1 to 8.
    pub int_size: u8,
    /// Byte order of a record's integers.
    pub int_order: IntOrder,
}

impl Default for Format {
    /// memcached's longest key, and a size that can be that of any value.
    fn default() -> Format {
        Format { key_size: 250, int_size: 4, int_order: IntOrder::Big }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Format { key_size, int_size, int_order } = self;
        let order = if *int_order == IntOrder::Big { "big" } else { "little" };
        write!(f, "KEY_SIZE {key_size}, INT_SIZE {int_size}, INT_ORDER {order}")
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
        let Format { key_size, int_size, int_order } = self.format;
        let order = if int_order == IntOrder::Big { b'B' } else { b'L' };
        let mut bytes = [0; HEADER_LEN];
        bytes[..HEADER_VERSION].copy_from_slice(MAGIC);
        let mut number = |from: usize, to: usize, value: u64| {
            IntOrder::Big.write(&mut bytes[from..to], value);
        };
        number(HEADER_VERSION, HEADER_KEY_SIZE, FORMAT_VERSION.into());
        number(HEADER_KEY_SIZE, HEADER_INT_SIZE, key_size.into());
        number(HEADER_INT_SIZE, HEADER_INT_ORDER, int_size.into());
        number(HEADER_INT_ORDER, HEADER_RESERVED, order.into());
        number(HEADER_GENERATION, HEADER_BASE, self.generation);
        number(HEADER_BASE, HEADER_CRC, self.base);
        let crc = crc32(0, &bytes[..HEADER_CRC]);
        IntOrder::Big.write(&mut bytes[HEADER_CRC..], crc.into());
        bytes
    }

    /// Reads a header back: `None` if these bytes are none, or it is damaged. For one that
    /// is not, and that this program does not read, the error says why in a few words.
    pub fn decode(bytes: &[u8]) -> Result<Option<Header>, String> {
        let number = |from, to| IntOrder::Big.read(&bytes[from..to]);
        if bytes.len() < HEADER_LEN
            || !bytes.starts_with(MAGIC)
            || number(HEADER_CRC, HEADER_LEN) != crc32(0, &bytes[..HEADER_CRC]).into()
        {
            return Ok(None);
        }
        let version = number(HEADER_VERSION, HEADER_KEY_SIZE);
        if version != FORMAT_VERSION.into() {
            return Err(format!(
                "it has format version {version}, this program reads {FORMAT_VERSION}"
            ));
        }
        let is_big = bytes[HEADER_INT_ORDER] == b'B';
        let format = Format {
            key_size: number(HEADER_KEY_SIZE, HEADER_INT_SIZE) as u16,
            int_size: bytes[HEADER_INT_SIZE],
            int_order: if is_big { IntOrder::Big } else { IntOrder::Little },
        };
        let generation = number(HEADER_GENERATION, HEADER_BASE);
        let base = number(HEADER_BASE, HEADER_CRC);
        let is_possible = format.key_size > 0 && (1..=8).contains(&format.int_size);
        if !is_possible || generation.max(base) > MAX_POSITION {
            let has = format!("{format}, generation {generation}, base {base}");
            return Err(format!("its header has {has}"));
        }
        Ok(Some(Header { format, generation, base }))
    }
}

/// What a record does to the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The key has this value from here on.
    #[default]
    Set = 1,
    /// The key is gone.
    Delete = 2,
    /// Every key is gone: at once with exptime 0, else when exptime is reached.
    Flush = 3,
    /// Compaction has ended: this file holds all that is live, and no older one is
    /// needed.
    Complete = 4,
    /// Nothing; some earlier files have it.
    Time = 5,
    /// Nothing: the next file begins where this record does. A copy of a directory that
    /// lacks that file is detected by it.
    Continued = 6,
}

use Kind::{Complete, Continued, Delete, Flush, Set, Time};
const KINDS: [Kind; 6] = [Set, Delete, Flush, Complete, Time, Continued];

/// A record, borrowed from the bytes it was read from, or about to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it does.
    pub kind: Kind,
    /// The value is out of date, and served as such until it is set again.
    pub stale: bool,
    /// A client has been asked to recompute the value; nobody else is.
    pub win_sent: bool,
    /// The client's 32 bits, opaque to us.
    pub flags: u32,
    /// Expiry in Unix seconds, 0 for never; for a flush, when it is due.
    pub exptime: u64,
    /// The unique of `gets` and `cas`: the position at which this value was first
    /// stored, or what a client chose. Touch and compaction write the record again and
    /// keep it.
    pub cas: u64,
    /// The log position known to be safe when the record was made. Recovery tells by
    /// it whether damage hit what once was safe.
    pub synced: u64,
    /// Empty unless `kind` is `Set` or `Delete`.
    pub key: &'a [u8],
    /// Empty unless `kind` is `Set`.
    pub value: &'a [u8],
    /// The item was read before. This and `idle` are the index's; no file has them.
    pub was_read: bool,
    /// Seconds since it was last read or stored, before now.
    pub idle: u64,
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
    /// where no record can begin at `position`. Nothing is proven by it: it says how many
    /// bytes [`Format::decode`] needs, and saves computing a checksum for most bytes that
    /// are not a record. `bytes` holds at least [`Format::overhead`].
    pub fn stated_len(&self, bytes: &[u8], position: u64) -> Option<u64> {
        let number = |from, to| self.int_order.read(&bytes[from..to]);
        if !(1..=6).contains(&(bytes[KIND] & !MARKS))
            || number(KEY_LEN, KEY) > u64::from(self.key_size)
            || number(CAS, SYNCED) > position && bytes[KIND] & CHOSEN == 0
            || number(SYNCED, KEY_LEN) > position
        {
            return None;
        }
        let size = KEY + usize::from(self.key_size);
        let size = self.int_order.read(&bytes[size..self.overhead()]);
        (size <= MAX_VALUE as u64).then_some(size + self.overhead() as u64)
    }

    /// The `cas` and the `synced` that the record at the head of `bytes` states. The `cas` of
    /// one that is no copy is its own position. The `synced` of a file's first record is that
    /// one's position: the header before it is safe, and nothing else is. Nothing is proven by
    /// them. `bytes` holds at least [`Format::overhead`].
    pub(crate) fn stated_places(&self, bytes: &[u8]) -> (u64, u64) {
        let number = |from, to| self.int_order.read(&bytes[from..to]);
        (number(CAS, SYNCED), number(SYNCED, KEY_LEN))
    }

    /// The record that `bytes` are, from first to last, if they were written for
    /// `position` and are undamaged. Invariant F1: nobody sees a field of a record
    /// before this has verified its checksum.
    pub fn decode<'a>(&self, bytes: &'a [u8], position: u64) -> Option<Record<'a>> {
        if bytes.len() < self.overhead()
            || self.stated_len(bytes, position) != Some(bytes.len() as u64)
        {
            return None;
        }
        let number = |from, to| self.int_order.read(&bytes[from..to]);
        let key_len = number(KEY_LEN, KEY) as usize;
        let key_end = KEY + usize::from(self.key_size);
        // All of it, without an early end: this compiles to a few wide instructions.
        let padding = &bytes[KEY + key_len..key_end];
        let is_padded = padding.iter().fold(0, |all, byte| all | byte) == 0;
        let key_crc = crc32(0, &bytes[KEY_LEN..KEY + key_len]);
        let body_crc = crc32(key_crc, &bytes[key_end..]);
        let crc = record_crc(body_crc, &bytes[..KEY_LEN], position);
        if !is_padded || number(CRC, KIND) != crc {
            return None;
        }
        let kind = usize::from(bytes[KIND] & !MARKS);
        Some(Record {
            kind: KINDS[kind - 1],
            stale: bytes[KIND] & STALE != 0,
            win_sent: bytes[KIND] & WIN_SENT != 0,
            flags: number(FLAGS, EXPTIME) as u32,
            exptime: number(EXPTIME, CAS),
            cas: number(CAS, SYNCED),
            synced: number(SYNCED, KEY_LEN),
            key: &bytes[KEY..KEY + key_len],
            value: &bytes[self.overhead()..],
            ..Record::default()
        })
    }
}

/// The checksum of a record, given that of its body. The position is mixed in, so that a
/// record is valid only where it was written.
fn record_crc(body_crc: u32, head: &[u8], position: u64) -> u64 {
    let place = position as u32 ^ (position >> 32) as u32;
    u64::from(crc32(body_crc, &head[KIND..KEY_LEN]) ^ place)
}

/// A record that is complete except for what only its place in the log decides. It is
/// made before the log's lock is taken, and copies nothing: key and value are borrowed
/// until [`Draft::append_to`] writes them where they will stay.
pub struct Draft<'a> {
    format: Format,
    pub(crate) record: Record<'a>,
    body_crc: u32,
}

impl<'a> Draft<'a> {
    /// A draft of `record`. A `cas` of 0 stands for the position that the record will have;
    /// `synced` is filled in by the log. The key fits KEY_SIZE and the value's size INT_SIZE:
    /// the caller has checked.
    pub fn new(format: &Format, record: Record<'a>) -> Draft<'a> {
        let (mut key_len, mut size) = ([0; 2], [0; 8]);
        let size = &mut size[..format.int_size.into()];
        format.int_order.write(&mut key_len, record.key.len() as u64);
        format.int_order.write(size, record.value.len() as u64);
        let parts = [&key_len, record.key, size, record.value];
        let body_crc = parts.iter().fold(0, |crc, part| crc32(crc, part));
        Draft { format: *format, record, body_crc }
    }

    /// Appends the record to `out`, finished for its place in the log.
    pub fn append_to(&self, out: &mut Vec<u8>, position: u64, synced: u64) {
        let Draft { format, record, body_crc } = self;
        let order = format.int_order;
        let mut head = [0; KEY];
        let marks =
            STALE * u8::from(record.stale) + WIN_SENT * u8::from(record.win_sent);
        let chosen = CHOSEN * u8::from(record.cas > position);
        head[KIND] = record.kind as u8 | marks | chosen;
        order.write(&mut head[FLAGS..EXPTIME], record.flags.into());
        order.write(&mut head[EXPTIME..CAS], record.exptime);
        let cas = if record.cas == 0 { position } else { record.cas };
        order.write(&mut head[CAS..SYNCED], cas);
        order.write(&mut head[SYNCED..KEY_LEN], synced);
        order.write(&mut head[KEY_LEN..KEY], record.key.len() as u64);
        let crc = record_crc(*body_crc, &head, position);
        order.write(&mut head[CRC..KIND], crc);
        let start = out.len();
        out.reserve(format.record_len(record.value.len()));
        out.extend_from_slice(&head);
        out.extend_from_slice(record.key);
        out.resize(start + format.overhead(), 0);
        let size = start + KEY + usize::from(format.key_size);
        order.write(&mut out[size..], record.value.len() as u64);
        out.extend_from_slice(record.value);
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

    fn encode(format: &Format, record: Record, position: u64, synced: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Draft::new(format, record).append_to(&mut bytes, position, synced);
        bytes
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_in_every_format() {
        let record = Record { flags: 7, exptime: 99, key: b"k", ..Record::default() };
        for format in formats() {
            for (stale, win_sent) in [(false, false), (true, false), (true, true)] {
                let record = Record { stale, win_sent, value: b"value", ..record };
                let mut bytes = b"before".to_vec();
                Draft::new(&format, record).append_to(&mut bytes, 4096, 40);
                let bytes = &bytes[6..];
                assert_eq!(bytes.len(), format.record_len(5));
                let read = Record { cas: 4096, synced: 40, ..record };
                assert_eq!(format.decode(bytes, 4096), Some(read));
                assert_eq!(format.stated_places(bytes), (4096, 40));
            }
        }
    }

    #[test]
    fn a_header_reads_back_in_every_format() {
        for format in formats() {
            let header = Header { format, generation: 3, base: 1 << 40 };
            assert_eq!(Header::decode(&header.encode()), Ok(Some(header)));
        }
    }

    #[test]
    fn a_header_of_a_log_that_cannot_be_is_rejected() {
        let format = Format::default();
        for (generation, base) in [(u64::MAX, 0), (1, u64::MAX - 60)] {
            let bytes = Header { format, generation, base }.encode();
            let why = format!(
                "its header has {format}, generation {generation}, base {base}"
            );
            assert_eq!(Header::decode(&bytes), Err(why));
        }
    }

    #[test]
    fn a_header_of_another_version_is_rejected_by_its_number() {
        let header = Header { format: Format::default(), generation: 1, base: 0 };
        let mut bytes = header.encode();
        IntOrder::Big.write(&mut bytes[HEADER_VERSION..HEADER_KEY_SIZE], 2);
        assert_eq!(Header::decode(&bytes), Ok(None));
        let crc = crc32(0, &bytes[..HEADER_CRC]);
        IntOrder::Big.write(&mut bytes[HEADER_CRC..], crc.into());
        assert!(Header::decode(&bytes).unwrap_err().contains("format version 2,"));
    }

    #[test]
    fn a_draft_with_a_unique_keeps_it() {
        let format = Format::default();
        let first = encode(&format, Record { key: b"k", ..Record::default() }, 40, 40);
        let record = format.decode(&first, 40).unwrap();
        let copy = encode(&format, record, 900, 800);
        let copy = format.decode(&copy, 900).unwrap();
        assert_eq!((copy.cas, copy.synced), (40, 800));
    }

    #[test]
    fn a_record_is_valid_only_where_it_was_written() {
        let format = Format::default();
        let record = Record { kind: Kind::Delete, key: b"k", ..Record::default() };
        let bytes = encode(&format, record, 1000, 40);
        assert!(format.decode(&bytes, 1000).is_some());
        assert!(format.decode(&bytes, 1001).is_none());
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let format = Format { key_size: 4, int_size: 2, int_order: IntOrder::Little };
        let record = Record { key: b"key", value: b"value", ..Record::default() };
        let mut record = encode(&format, record, 77, 40);
        let mut header = Header { format, generation: 1, base: 0 }.encode();
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(format.decode(&record, 77), None, "bit {bit}");
            record[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..header.len() * 8 {
            header[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&header), Ok(None), "bit {bit}");
            header[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_size_that_no_value_can_have_is_not_believed() {
        let format = Format { key_size: 1, int_size: 8, int_order: IntOrder::Big };
        let mut bytes = encode(&format, Record::default(), 40, 40);
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

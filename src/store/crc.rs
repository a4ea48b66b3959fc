//! CRC-32, the checksum of every header and record on disk.
//!
//! It is the checksum of gzip, PNG and Ethernet: polynomial 0x04C11DB7, bits reflected,
//! register started at all ones and inverted at the end. It detects every burst of
//! damage up to 32 bits and misses one in 2^32 of the rest. It is a defence against
//! disks, and none against a person who wants a record to look right.
//!
//! The textbook loop makes one table look-up per byte, and each has to wait for the one
//! before it. Here sixteen bytes are processed per step ("slicing"): `TABLES[n][b]` is
//! what byte `b` contributes once `n` more bytes have passed. Since a CRC is linear, the
//! sixteen look-ups are independent of one another, and their results are XORed.
//!
//! Source: M. Kounavis, F. Berry, "A Systematic Approach to Building High
//! Performance Software-based CRC Generators" (2005).

/// Bytes processed per step.
const STEP: usize = 16;

/// The polynomial with its bits reflected, as the register holds them.
const POLYNOMIAL: u32 = 0xEDB8_8320;

static TABLES: [[u32; 256]; STEP] = tables();

/// The CRC-32 of `bytes`, continued from `crc`, the CRC-32 of what came before them (0
/// for nothing): `crc32(crc32(0, a), b)` is the CRC-32 of `a` then `b`.
pub fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let (register, rest) = advance::<STEP>(!crc, bytes);
    // In a short record, the rest is much of it.
    let (register, rest) = advance::<4>(register, rest);
    !advance::<1>(register, rest).0
}

/// Processes `N` bytes per step, as long as there are as many. Returns the rest.
fn advance<const N: usize>(mut register: u32, bytes: &[u8]) -> (u32, &[u8]) {
    let (steps, rest) = bytes.as_chunks::<N>();
    for step in steps {
        // The register is mixed into the first bytes; what is left of it after fewer than
        // four moves down.
        let (mut step, mixed) = (*step, register.to_le_bytes());
        for i in 0..N.min(4) {
            step[i] ^= mixed[i];
        }
        register = register.unbounded_shr(8 * N as u32);
        for i in 0..N {
            register ^= TABLES[N - 1 - i][usize::from(step[i])];
        }
    }
    (register, rest)
}

const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bits = 0;
        while bits < 8 * STEP {
            let feedback = if register & 1 == 1 { POLYNOMIAL } else { 0 };
            register = (register >> 1) ^ feedback;
            bits += 1;
            if bits.is_multiple_of(8) {
                tables[bits / 8 - 1][byte] = register;
            }
        }
        byte += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, a bit at a time: what the tables must agree with.
    fn crc32_by_bits(bytes: &[u8]) -> u32 {
        let mut register = !0u32;
        for &byte in bytes {
            register ^= u32::from(byte);
            for _ in 0..8 {
                let feedback = if register & 1 == 1 { POLYNOMIAL } else { 0 };
                register = (register >> 1) ^ feedback;
            }
        }
        !register
    }

    #[test]
    fn published_check_values_hold() {
        // "Check" of CRC-32/ISO-HDLC in the catalogue of parametrised CRCs, and the
        // sums that zlib's documentation and RFC 3720's test patterns lead to.
        assert_eq!(crc32(0, b""), 0);
        assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(0, b"a"), 0xE8B7_BE43);
        assert_eq!(
            crc32(0, b"The quick brown fox jumps over the lazy dog"),
            0x414F_A339
        );
        assert_eq!(crc32(0, &[0; 32]), 0x190A_55AD);
        assert_eq!(crc32(0, &[0xFF; 32]), 0xFF6C_AB0B);
    }

    #[test]
    fn every_length_and_every_cut_gives_the_sum_of_the_definition() {
        let bytes: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37) ^ 0x5A).collect();
        for end in 0..=bytes.len() {
            let expected = crc32_by_bits(&bytes[..end]);
            for cut in 0..=end {
                assert_eq!(crc32(crc32(0, &bytes[..cut]), &bytes[cut..end]), expected);
            }
        }
    }
}

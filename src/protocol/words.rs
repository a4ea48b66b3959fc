//! The smallest pieces of the protocol's lines: words, and decimal numbers; and foreign
//! bytes as text that does no harm.

use crate::store::Limits;
use std::fmt;
use std::io::Write;

/// The words of a line, separated by one or more spaces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Words<'a>(pub &'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&byte| byte != b' ')?;
        let rest = &self.0[start..];
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        self.0 = &rest[end..];
        Some(&rest[..end])
    }
}

/// Whether a word can be a key.
pub(crate) fn is_key(word: &[u8], limits: &Limits) -> bool {
    (1..=limits.key_size).contains(&word.len()) && !word.contains(&0)
}

/// A decimal number of 64 bits: digits and nothing else.
pub fn unsigned(word: &[u8]) -> Option<u64> {
    // `parse` would accept a plus sign as well.
    word.first().filter(|byte| byte.is_ascii_digit())?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// A decimal number of 64 bits that may be negative.
pub fn signed(word: &[u8]) -> Option<i64> {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    digits.first().filter(|byte| byte.is_ascii_digit())?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The most bytes that [`shown`] shows whole.
pub(crate) const MAX_SHOWN: usize = 300;

/// Bytes as part of a line that says something about them.
pub(crate) fn shown(bytes: &[u8]) -> String {
    // Escaping a MiB to show little of it would be a waste.
    if bytes.len() <= MAX_SHOWN {
        return bytes.escape_ascii().to_string();
    }
    let head = bytes[..60].escape_ascii();
    format!("{head}... ({} bytes)", bytes.len())
}

/// Bytes for a terminal, which obeys control characters: a client may have stored them
/// to move the cursor and overwrite what else is shown. Line ends and tabs stay.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for letter in String::from_utf8_lossy(bytes).chars() {
        match letter.is_control() && !"\n\t".contains(letter) {
            true => text.extend(letter.escape_default()),
            false => text.push(letter),
        }
    }
    text
}

/// Appends a decimal number to `out`: for the most frequent replies, where formatting
/// would cost several times as much.
pub(crate) fn append_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break out.extend_from_slice(&digits[start..]);
        }
    }
}

/// Appends formatted text to `out`.
pub(crate) fn append(out: &mut Vec<u8>, text: fmt::Arguments) {
    out.write_fmt(text).expect("writing to memory does not fail");
}

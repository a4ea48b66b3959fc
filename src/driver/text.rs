//! The texts of a script: bytes as a person writes and reads them.
//!
//! | in a text | means |
//! |---|---|
//! | `\r \n \t \0 \\ \xHH` | this byte |
//! | `{abc*251}` | `abc`, 251 times |
//! | `{name}` | a decimal number: taken from the reply where it is first met, and that number from there on |
//!
//! A brace is `\x7b` or `\x7d`. A space at the end of a line, where nobody would see it,
//! is `\x20`.

use std::collections::HashMap;

/// A text, in pieces.
pub type Text = Vec<Part>;

/// A piece of a text.
#[derive(Clone, Debug)]
pub enum Part {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The number of that name.
    Number(String),
}

/// The numbers taken from replies, by name, as they were written.
pub type Numbers = HashMap<String, Vec<u8>>;

/// Parses the escapes and braces of a line, and adds what ends it. The error says what was
/// expected.
pub fn parse(text: &str, end: &str) -> Result<Text, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        parts.push(Part::Bytes(unescape(&rest[..open])?));
        let Some((inside, after)) = rest[open + 1..].split_once('}') else {
            return Err(format!("the other half of a brace in {text:?}"));
        };
        // The last star counts, so a star may itself be repeated.
        let repeat = inside
            .rsplit_once('*')
            .and_then(|(what, count)| Some((what, count.parse::<usize>().ok()?)));
        parts.push(match repeat {
            Some((what, count)) => Part::Bytes(unescape(what)?.repeat(count)),
            None if is_name(inside) => Part::Number(inside.to_string()),
            None => return Err(format!("a name or a repetition, not {inside:?}")),
        });
        rest = after;
    }
    if rest.contains('}') {
        return Err(format!("the other half of a brace in {text:?}"));
    }
    parts.push(Part::Bytes([&unescape(rest)?, end.as_bytes()].concat()));
    Ok(parts)
}

/// Replaces escapes by the bytes that they stand for, also those of [`u8::escape_ascii`].
/// The error says what was expected.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = if byte == b'\\' { rest.next() } else { None };
        bytes.push(match (byte, escaped) {
            (b'\\', Some(b'r')) => b'\r',
            (b'\\', Some(b'n')) => b'\n',
            (b'\\', Some(b't')) => b'\t',
            (b'\\', Some(b'0')) => 0,
            (b'\\', Some(byte @ (b'\\' | b'"' | b'\''))) => byte,
            (b'\\', Some(b'x')) => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let byte = digit().and_then(|high| Some(high * 16 + digit()?));
                byte.ok_or_else(|| format!("two hex digits after \\x in {text:?}"))?
                    as u8
            }
            (b'\\', _) => return Err(format!("a known escape in {text:?}")),
            (byte, _) => byte,
        });
    }
    Ok(bytes)
}

/// Whether a word can be the name of a number or of a connection.
pub fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The bytes of a text. A number that is not known yet stays a name in braces.
pub fn fill_in(text: &Text, numbers: &Numbers) -> Vec<u8> {
    let bytes = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.clone(),
        Part::Number(name) => {
            numbers.get(name).cloned().unwrap_or(format!("{{{name}}}").into())
        }
    };
    text.iter().map(bytes).collect::<Vec<_>>().concat()
}

/// How far what has arrived agrees with what must come.
#[derive(PartialEq)]
pub enum Agreement {
    /// All of it came, in this many bytes.
    Whole(usize),
    /// All that has arrived agrees, but it is not enough.
    SoFar,
    /// They differ.
    No,
}

/// Compares what has arrived with a text, and takes the numbers that are new: only if all of
/// it came, since one that is still arriving must not be kept.
pub fn compare(text: &Text, received: &[u8], numbers: &mut Numbers) -> Agreement {
    let (mut expected, mut taken) = (Vec::new(), numbers.clone());
    for part in text {
        let name = match part {
            Part::Bytes(bytes) => {
                expected.extend_from_slice(bytes);
                continue;
            }
            Part::Number(name) => name,
        };
        let left = received.get(expected.len()..).unwrap_or_default();
        let digits = || left.iter().copied().take_while(u8::is_ascii_digit).collect();
        expected.extend_from_slice(taken.entry(name.clone()).or_insert_with(digits));
        // Only a byte that is not a digit shows that a number has ended.
        if expected.len() >= received.len() {
            expected.push(b' ');
            break;
        }
    }
    match received.starts_with(&expected) {
        true => {
            *numbers = taken;
            Agreement::Whole(expected.len())
        }
        false if expected.starts_with(received) => Agreement::SoFar,
        false => Agreement::No,
    }
}

/// `0th`, `1st`, `2nd`.
pub fn ordinal(number: usize) -> String {
    let is_teen = number / 10 % 10 == 1;
    let ending = ["th", "st", "nd", "rd"].get(if is_teen { 0 } else { number % 10 });
    format!("{number}{}", ending.unwrap_or(&"th"))
}

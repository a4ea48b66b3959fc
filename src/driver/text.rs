//! What is said and shown, as text: replies as clients print them, and lines that stay
//! readable however long they are.

use crate::words::MAX_SHOWN;

/// What clients print for `STORED` and for a miss.
pub const STORED: &str = r#""STORED\r\n""#;
/// See [`STORED`].
pub const KEY_NOT_FOUND: &str = r#""KEY NOT FOUND\r\n""#;

/// A value as clients print it.
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", value.escape_default())
}

/// Text as a line shows it.
pub fn short(text: &str) -> String {
    if text.len() <= MAX_SHOWN {
        return text.to_owned();
    }
    let head: String = text.chars().take(60).collect();
    format!("{head}... ({} bytes)", text.len())
}

/// `0th`, `1st`, `2nd`.
pub fn ordinal(number: usize) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

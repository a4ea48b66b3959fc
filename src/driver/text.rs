//! What is said and shown, as text: replies as clients print them, and lines that stay
//! readable whatever the bytes are.

/// What clients print for `STORED` and for a miss.
pub const STORED: &str = r#""STORED\r\n""#;
/// See [`STORED`].
pub const KEY_NOT_FOUND: &str = r#""KEY NOT FOUND\r\n""#;

/// A value as clients print it.
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", value.escape_default())
}

/// The longest text that is shown whole, in bytes.
const MAX_SHOWN: usize = 300;

/// Bytes as a line shows them.
pub fn shown(bytes: &[u8]) -> String {
    // Escaping a MiB to show little of it would be a waste.
    if bytes.len() <= MAX_SHOWN {
        return bytes.escape_ascii().to_string();
    }
    let head = bytes[..60].escape_ascii();
    format!("{head}... ({} bytes)", bytes.len())
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

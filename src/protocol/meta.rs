//! Meta commands: `mg`, `ms`, `md`, `ma` and `me`, bytes <-> [`Meta`], and their replies.
//! Pure, as the rest of this room.
//!
//! A request is `<name> <key> [<length>] <flag>*`. A flag is a letter, perhaps with a token
//! right after it. Flags say what is to be done and what is to be returned, in any order.
//! What is to be done becomes an [`Update`], which the store executes like that of a classic
//! command. The words themselves are kept until the reply is written, because what is
//! returned stands in their order.
//!
//! | reply | means |
//! |---|---|
//! | `HD <flag>*` | done |
//! | `VA <length> <flag>*`, a block | done, with the value |
//! | `EN`, `NF` | no such item: to `mg` and `me`; to the others |
//! | `NS`, `EX` | not stored; the unique is another |
//!
//! - M1: an error is answered, whatever is asked: `q` hides only what went as expected.
//! - M2: what is stale, and has been won, is in the item's record: a restart makes no stale
//!   value good, and hands out no second win.
//!
//! Source: `doc/protocol.txt` of memcached.

use crate::protocol::reply::Error::{self, Flags};
use crate::protocol::reply::NOT_NUMERIC;
use crate::protocol::words::{Words, append, is_key, signed, unsigned};
use crate::store::{Answer, Limits, Record, Update, Verb, expiry};
use std::borrow::Cow;

/// The longest opaque token, in bytes.
const MAX_OPAQUE: usize = 31;

const BAD_KEY: Error = Flags("error decoding key");
const LONG_OPAQUE: Error = Flags("opaque token too long");

/// A meta request.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta<'a> {
    /// `mg`, `ms`, `md`, `ma` or `me`.
    pub name: &'a [u8],
    /// The item's key.
    pub key: Cow<'a, [u8]>,
    /// The flags as they came.
    pub flags: Words<'a>,
    /// What they ask the store to do. Its key is as it came, too: perhaps in base64.
    pub update: Update<'a>,
}

impl<'a> Meta<'a> {
    /// A request without its value.
    pub(crate) fn new(
        name: &'a [u8],
        key: &'a [u8],
        flags: Words<'a>,
        limits: &Limits,
    ) -> Result<Meta<'a>, Error> {
        if !is_key(key, limits) {
            return Err(Error::BadFormat);
        }
        let wrong = |why| match name {
            b"ma" => Flags("invalid or duplicate flag"),
            _ => Flags(why),
        };
        let bad = wrong("bad token in command line format");
        let (mut mode, number, value) =
            if name == b"ma" { (b'I', 1, &b"0"[..]) } else { (b'S', 0, &b""[..]) };
        let (peeks, recache) = (name == b"me", (name == b"mg").then_some(0));
        let update = Update { key, number, value, peeks, recache, ..Update::default() };
        let mut meta = Meta { name, key: key.into(), flags, update };
        let (it, mut seen) = (&mut meta.update, [false; 256]);
        for word in flags {
            let (letter, token) = (word[0], &word[1..]);
            let count = || unsigned(token).ok_or(bad);
            let life = || signed(token).ok_or(bad);
            if std::mem::replace(&mut seen[usize::from(letter)], true) {
                return Err(wrong("duplicate flag"));
            }
            match letter {
                _ if name == b"me" && letter != b'b' => {}
                b'b' => meta.key = from_base64(key).ok_or(BAD_KEY)?.into(),
                b'C' => it.compare = Some(count()?),
                b'D' => it.number = count()?,
                b'E' => it.unique = count()?,
                b'F' if name == b"ms" => {
                    it.flags = count()?.try_into().or(Err(bad))?;
                }
                b'I' => it.is_stale = true,
                b'J' => {
                    // Without leading zeros.
                    let len = count()?.checked_ilog10().map_or(1, |it| it as usize + 1);
                    it.value = &token[token.len() - len..];
                }
                b'M' => mode = token.first().copied().unwrap_or_default(),
                b'N' => it.vivify = Some(life()?),
                b'O' if token.len() > MAX_OPAQUE => return Err(LONG_OPAQUE),
                b'R' => it.recache = Some(life()?),
                b'T' => (it.exptime, it.renews) = (life()?, name != b"ms"),
                b'u' => it.peeks = true,
                b'x' => it.empties = true,
                // What is returned; q; and two for proxies.
                _ if b"cfFhklOqstvLP".contains(&letter) => {}
                _ => return Err(wrong("invalid flag")),
            }
        }
        meta.set_verb(mode).map(|()| meta)
    }

    /// Which verb is meant, in this mode.
    fn set_verb(&mut self, mode: u8) -> Result<(), Error> {
        let it = &mut self.update;
        it.verb = match (self.name, mode) {
            (b"ms", b'S' | b'R') if it.compare.is_some() => Verb::Cas,
            (b"ms", b'S') => Verb::Set,
            (b"ms", b'E') => Verb::Add,
            (b"ms", b'A') => Verb::Append,
            (b"ms", b'P') => Verb::Prepend,
            (b"ms", b'R') => Verb::Replace,
            (b"ms", _) => return Err(Flags("invalid mode for ms M token")),
            (b"ma", b'I' | b'+') => Verb::Incr,
            (b"ma", b'D' | b'-') => Verb::Decr,
            (b"ma", _) => return Err(Flags("invalid mode for ma M token")),
            (b"md", _) => Verb::Delete,
            _ => Verb::Get,
        };
        // As in memcached: 0 is a unique for these alone.
        if it.compare == Some(0) && !matches!(it.verb, Verb::Cas | Verb::Delete) {
            it.compare = None;
        }
        Ok(())
    }

    /// Whether the request has the flag with this letter.
    fn has(&self, letter: u8) -> bool {
        self.flags.clone().any(|word| word[0] == letter)
    }

    /// Appends the request to `out`, as a client sends it, but for what ends it.
    pub(crate) fn write_request(&self, out: &mut Vec<u8>) {
        let Update { key, value, .. } = self.update;
        let (len, block) = match self.name {
            b"ms" => (format!(" {}", value.len()), [b"\r\n", value].concat()),
            _ => Default::default(),
        };
        let parts = [self.name, b" ", key, len.as_bytes(), self.flags.0, &block];
        out.extend_from_slice(&parts.concat());
    }

    fn code(&self, answer: Answer) -> &'static [u8] {
        match answer {
            Answer::NotFound if matches!(self.name, b"mg" | b"me") => b"EN",
            Answer::NotFound => b"NF",
            Answer::NotStored => b"NS",
            Answer::Exists => b"EX",
            Answer::NotNumeric => NOT_NUMERIC,
            _ => b"HD",
        }
    }

    /// Appends the reply to `out`: what has become of the request, and what it asks about the
    /// item, whose size is `size` bytes. `now` is in Unix seconds.
    pub fn write_reply(
        &self,
        answer: Answer,
        item: &Record,
        size: usize,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        let (is_get, code) = (self.name == b"mg", self.code(answer));
        // M1
        if self.has(b'q') && code == if is_get { b"EN" } else { b"HD" } {
            return;
        }
        let returned: &[u8] = match (self.name, code) {
            (_, NOT_NUMERIC) => b"",
            (b"me", b"HD") => return self.write_known(item, size, now, out),
            (b"mg", b"HD") => b"cfhkOlstv",
            (b"ma", b"HD") => b"ckOtv",
            (b"ms", _) => b"ckOs",
            _ => b"kO",
        };
        let value: Cow<[u8]> = match answer {
            Answer::Number(number) => number.to_string().into_bytes().into(),
            _ => item.value.into(),
        };
        // A client that has it already needs no value.
        let is_known = is_get && self.update.compare == Some(item.cas);
        let shows_value = self.has(b'v') && returned.contains(&b'v') && !is_known;
        match shows_value {
            true => append(out, format_args!("VA {}", value.len())),
            false => out.extend_from_slice(code),
        }
        let mut exptime = item.exptime;
        let end: &[u8] = if self.has(b'b') { b" b" } else { b"" };
        for word in self.flags {
            match word[0] {
                // A life asked for before this is the old one.
                b'T' => exptime = expiry(self.update.exptime, now),
                letter if letter == b'v' || !returned.contains(&letter) => {}
                b'k' => out.extend_from_slice(&[b" k", self.update.key, end].concat()),
                b'O' => out.extend_from_slice(&[b" ", word].concat()),
                b't' => append(out, format_args!(" t{}", life(exptime, now))),
                b's' => append(out, format_args!(" s{size}")),
                b'f' => append(out, format_args!(" f{}", item.flags)),
                b'h' => append(out, format_args!(" h{}", u8::from(item.was_read))),
                b'l' => append(out, format_args!(" l{}", item.idle)),
                _ => append(out, format_args!(" c{}", item.cas)),
            }
        }
        let won = answer == Answer::Won;
        let marks = [(item.win_sent, b" Z"), (item.stale, b" X"), (won, b" W")];
        marks.iter().filter(|it| it.0).for_each(|it| out.extend_from_slice(it.1));
        out.extend_from_slice(b"\r\n");
        if shows_value {
            out.extend_from_slice(&value);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn write_known(&self, item: &Record, size: usize, now: u64, out: &mut Vec<u8>) {
        let Record { exptime, idle, cas, was_read, .. } = *item;
        let (exp, fetch) = (life(exptime, now), if was_read { "yes" } else { "no" });
        out.extend_from_slice(&[b"ME ", self.update.key].concat());
        append(out, format_args!(" exp={exp} la={idle} cas={cas} fetch={fetch}"));
        append(out, format_args!(" cls=1 size={size}\r\n"));
    }
}

/// The seconds until an expiry, -1 for never.
fn life(exptime: u64, now: u64) -> i64 {
    if exptime == 0 { -1 } else { exptime.saturating_sub(now) as i64 }
}

/// A key as a word of a meta command, and the flag that says that it is encoded, if it is.
pub fn word_of(key: &[u8]) -> (Cow<'_, [u8]>, &'static str) {
    match key.iter().any(|byte| b" \n\0".contains(byte)) {
        true => (to_base64(key).into_bytes().into(), " b"),
        false => (key.into(), ""),
    }
}

/// Appends an item's line of an `mgdump` to `out`: the command that gets it.
pub fn write_listed_key(out: &mut Vec<u8>, key: &[u8]) {
    let (word, flag) = word_of(key);
    out.extend_from_slice(&[b"mg ", &word[..], flag.as_bytes(), b"\r\n"].concat());
}

const DIGITS: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes base64, with its padding.
fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        let digits = (0..=three.len()).map(|at| DIGITS[bits >> (18 - 6 * at) & 63]);
        text.extend(digits.map(char::from));
        text.push_str(&"=="[three.len() - 1..]);
    }
    text
}

/// Decodes base64, with its padding; `None` if it is not that, or nothing.
pub(crate) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_suffix(b"=").unwrap_or(text);
    let digits = digits.strip_suffix(b"=").unwrap_or(digits);
    if !text.len().is_multiple_of(4) || digits.is_empty() {
        return None;
    }
    let (mut bytes, mut bits) = (Vec::new(), 0_u32);
    for (at, digit) in digits.iter().enumerate() {
        bits = bits << 6 | DIGITS.iter().position(|known| known == digit)? as u32;
        if at % 4 > 0 {
            bytes.push((bits >> (6 - 2 * (at % 4))) as u8);
        }
    }
    Some(bytes)
}

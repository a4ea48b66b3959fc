//! Who may come in: memcached's ASCII authentication, `--auth-file`.
//!
//! A connection begins as a stranger's. Its first successful request is a `set`, whose
//! key, flags and exptime mean nothing, and whose block is a user, a blank, and a
//! password. Until then:
//!
//! | from a stranger | is answered |
//! |---|---|
//! | `set <any> <any> <any> <length>`, and a block in the file | `STORED` |
//! | the same with another block, or one over [`MAX_LOGIN`] bytes | `CLIENT_ERROR authentication failure` |
//! | the same with a block of fewer than two words | `CLIENT_ERROR bad authentication token format` |
//! | the same with no line end behind the block | `CLIENT_ERROR bad command line termination` |
//! | another protocol, or a line over the limit | nothing: hung up on |
//! | anything else, `quit` too; a block is swallowed first | `CLIENT_ERROR unauthenticated` |
//!
//! `noreply` changes nothing here. Afterwards a `set` is a `set`, whatever its block
//! looks like. The file has a line for each login, `user:password`; the first colon
//! separates the two, and neither has a blank in it.
//!
//! Left out: a limit to how often somebody may try, so passwords have to be long ones;
//! and secrecy on the way, which a tunnel gives: all this travels as it is.

use crate::protocol::{self, BlockEnd, Limits, MAX_LENGTH, Message, Parsed, Refusal};
use crate::protocol::{Request, Verb};
use crate::reply::Error;
use crate::words::{Words, unsigned};
use std::fmt;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The most bytes that a user and a password have together, with the blank between.
pub const MAX_LOGIN: usize = 1024;

/// A user and a password, in the form in which they are sent and compared.
#[derive(Clone)]
pub struct Login {
    /// Filled up with blanks, of which neither part has any: two that differ, differ
    /// here, and all are of one length.
    bytes: [u8; MAX_LOGIN],
    len: usize,
}

/// A password is not for logs.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// `None` if a part is empty or has a blank in it, or both are too long.
    pub fn new(user: &[u8], password: &[u8]) -> Option<Login> {
        let text = [user, password].join(&b' ');
        let is_word = |part: &[u8]| !part.is_empty() && !part.contains(&b' ');
        if !is_word(user) || !is_word(password) || text.len() > MAX_LOGIN {
            return None;
        }
        let mut bytes = [b' '; MAX_LOGIN];
        bytes[..text.len()].copy_from_slice(&text);
        Some(Login { bytes, len: text.len() })
    }

    /// The first two words of a block.
    pub fn parse(block: &[u8]) -> Option<Login> {
        let mut words = Words(block);
        Login::new(words.next()?, words.next()?)
    }

    /// The block by which it is shown.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The logins of a file: at least one.
pub struct Credentials(Vec<Login>);

impl Credentials {
    /// Reads a file that only its owner may read. The error is one line that says what
    /// to do, and nothing of what the file holds.
    pub fn read(path: &Path) -> Result<Credentials, String> {
        let file = path.display();
        let failed = |error: io::Error| format!("can't read {file}: {error}");
        // Asked before it is opened: a pipe would wait there for its other end.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(format!("{file} is no regular file; name another --auth-file"));
        }
        let mut opened = File::open(path).map_err(failed)?;
        let mode = opened.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!("{file} is open to others; `chmod 600 {file}`"));
        }
        let mut text = Vec::new();
        opened.read_to_end(&mut text).map_err(failed)?;
        Credentials::parse(&text).map_err(|line| {
            format!(
                "line {line} of {file} is not user:password, without blanks and of at \
                 most {MAX_LOGIN} bytes"
            )
        })
    }

    /// Takes a file's text apart. The error is the number of the first line that is no
    /// login.
    pub fn parse(text: &[u8]) -> Result<Credentials, usize> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let lines = text.split(|&byte| byte == b'\n');
        let logins = lines.zip(1_usize..).map(|(line, number)| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (user, password) =
                line.split_at(line.iter().position(|&b| b == b':').ok_or(number)?);
            Login::new(user, &password[1..]).ok_or(number)
        });
        logins.collect::<Result<_, _>>().map(Credentials)
    }

    /// Whether `shown` is one of these. It takes the same time for every login that is
    /// not, however much of a user or a password is right: else somebody could find
    /// one out letter by letter. So nothing here ends early. What the time does tell
    /// is how many lines the file has, and how long the block was, which its sender
    /// knows.
    pub fn admit(&self, shown: &Login) -> bool {
        self.0.iter().fold(false, |admitted, login| {
            let pairs = login.bytes.iter().zip(&shown.bytes);
            let difference = pairs.fold(0, |all, (a, b)| all | (a ^ b));
            // Hidden from the compiler, which could see that the rest is settled.
            admitted | (black_box(difference) == 0)
        })
    }

    /// The file's first line, by which a client shows itself.
    pub fn into_first(mut self) -> Login {
        self.0.swap_remove(0)
    }
}

/// Finds the request at the head of a stranger's `input`, of which only a login is one.
pub fn parse<'a>(input: &'a [u8], limits: &Limits) -> Parsed<'a> {
    let (line, used) = match protocol::first_line(input, limits.line()) {
        Ok(found) => found,
        Err(parsed) => return parsed,
    };
    let mut words = Words(line);
    let verb = words.next().and_then(Verb::named);
    if verb.is_none() && protocol::is_http(line) {
        return Parsed::Hangup;
    }
    let length = words.nth(3).and_then(unsigned).filter(|&length| length <= MAX_LENGTH);
    let (Some(verb), Some(length)) = (verb, length) else {
        return protocol::refuse(Error::Unauthenticated, false, used);
    };
    let (length, block) = (length as usize, &input[used..]);
    // P2: else a block that nobody has vouched for would be read as lines.
    let refuse_block = |error| {
        let swallow = Some(length);
        Parsed::Refused(Refusal { error, noreply: false, used, swallow, stale: None })
    };
    if verb != Verb::Set {
        return refuse_block(Error::Unauthenticated);
    }
    // V4: a stranger makes us hold no more than a login.
    if length > MAX_LOGIN {
        return refuse_block(Error::AuthenticationFailure);
    }
    match protocol::block_end(block, length) {
        BlockEnd::Incomplete(needed) => Parsed::Incomplete(used + needed),
        BlockEnd::Missing(end) => {
            protocol::refuse(Error::BadTermination, false, used + end)
        }
        BlockEnd::Found(end) => {
            let request = Request::Authenticate(&block[..length]);
            Parsed::Message(Message { request, noreply: false, used: used + end })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(file: &[u8], block: &[u8]) -> bool {
        let Ok(credentials) = Credentials::parse(file) else { panic!("a bad file") };
        Login::parse(block).is_some_and(|login| credentials.admit(&login))
    }

    #[test]
    fn a_login_of_any_line_is_admitted() {
        for file in [&b"u:p\nv:q\n"[..], b"u:p\nv:q", b"u:p\r\nv:q\r\n"] {
            assert!(admits(file, b"u p") && admits(file, b"v q"));
            assert!(!admits(file, b"u q") && !admits(file, b"v p"));
        }
        assert!(admits(b"u:old\nu:new", b"u new"), "one user may have two passwords");
    }

    #[test]
    fn blanks_around_the_two_words_and_what_follows_them_count_for_nothing() {
        for block in [&b" u p"[..], b"u  p", b"u p ", b"u p more"] {
            assert!(admits(b"u:p", block), "{:?}", block.escape_ascii().to_string());
        }
    }

    #[test]
    fn what_differs_in_any_one_byte_is_not_admitted() {
        let right = b"user password";
        assert!(admits(b"user:password", right));
        for at in 0..right.len() {
            for bit in 0..8 {
                let mut wrong = *right;
                wrong[at] ^= 1 << bit;
                assert!(!admits(b"user:password", &wrong), "bit {bit} of byte {at}");
            }
        }
        for wrong in
            [&b"user passwor"[..], b"user password\0", b"use password", b"user"]
        {
            assert!(!admits(b"user:password", wrong));
        }
    }

    #[test]
    fn a_password_may_have_any_byte_but_a_blank_and_a_line_end() {
        assert!(admits(b"u:a:b:", b"u a:b:"));
        assert!(admits(b"u:\0\t\xff", b"u \0\t\xff"));
        let long = vec![b'p'; MAX_LOGIN - 2];
        assert!(admits(&[b"u:", &long[..]].concat(), &[b"u ", &long[..]].concat()));
    }

    #[test]
    fn a_line_that_is_no_login_is_named() {
        let long = [b"u:", &[b'p'; MAX_LOGIN - 1][..]].concat();
        for (file, line) in [
            (&b""[..], 1),
            (b"\n", 1),
            (b"u", 1),
            (b"u p", 1),
            (b"u:", 1),
            (b":p", 1),
            (b"u:p q", 1),
            (b"u r:p", 1),
            (b"u:p\n\nv:q", 2),
            (b"u:p\nv:q\n\n", 3),
            (b"u:p\nv", 2),
            (&long, 1),
        ] {
            assert_eq!(Credentials::parse(file).err(), Some(line));
        }
    }

    #[test]
    fn a_request_is_the_same_however_it_arrives() {
        let limits = Limits { key_size: 250, max_value: 1000, max_item_size: 1000 };
        let login: &[u8] = b"set k 0 0 3\r\nu p\r\nmore";
        let used = login.len() - 4;
        for len in 0..login.len() {
            let parsed = parse(&login[..len], &limits);
            match parsed {
                Parsed::Unended(_) => assert!(len < 13),
                Parsed::Incomplete(needed) => {
                    assert!((len + 1..=used).contains(&needed))
                }
                Parsed::Message(message) => {
                    assert_eq!((message.used, len >= used), (used, true));
                    assert_eq!(message.request, Request::Authenticate(b"u p"));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_first_login_is_sent_as_it_is_understood() {
        let first = Credentials::parse(b"u:p:w\nv:q").map(Credentials::into_first);
        let Ok(first) = first else { panic!("a bad file") };
        assert_eq!(first.as_bytes(), b"u p:w");
        assert_eq!(format!("{first:?}"), "Login");
    }
}

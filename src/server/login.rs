//! Who may use the server: memcached's ASCII authentication, `--auth-file`.
//!
//! With such a file, a connection begins unauthenticated. Its first successful request is
//! a `set`, whose key, flags and exptime mean nothing, and whose block is a user, a space,
//! and a password. Until then the connection accepts nothing else:
//!
//! | from an unauthenticated connection | is answered |
//! |---|---|
//! | a `set` whose block is a login of the file | `STORED` |
//! | one with another block, or one over 1024 bytes | `CLIENT_ERROR authentication failure` |
//! | one with a block of fewer than two words | `CLIENT_ERROR bad authentication token format` |
//! | one with no line end after the block | `CLIENT_ERROR bad command line termination` |
//! | anything else, `quit` too; a block is swallowed first | `CLIENT_ERROR unauthenticated` |
//!
//! A wrong login is answered late, at the worker's next check of timeouts, and the third ends
//! the connection; so does the request timeout, which is counted from its beginning and
//! whatever it says.
//!
//! `noreply` changes nothing here. Afterwards a `set` is a `set`, whatever its block
//! looks like. The file has a line for each login, `user:password`; the first colon
//! separates the two, and neither has a space in it.
//!
//! Left out: a limit on how many connections try, so passwords have to be long ones;
//! and secrecy on the way, which a tunnel gives: all this travels as it is.

use crate::os;
use crate::protocol::reply::Error;
use crate::protocol::words::Words;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The most bytes that the block of a login may have.
pub(crate) const MAX_LOGIN: usize = 1024;

/// So many wrong logins end a connection.
pub(crate) const MAX_WRONG: u8 = 3;

/// The logins that are accepted: at least one.
pub struct Credentials {
    hasher: RandomState,
    /// The hashes of the logins. A comparison of passwords would take longer the more of one
    /// is right, and a client could find it out letter by letter. Two hashes under a random
    /// key do not tell.
    hashes: Vec<u64>,
}

impl Credentials {
    /// Accepts these logins: each a user, a space, and a password.
    pub fn new(logins: &[Vec<u8>]) -> Credentials {
        let hasher = RandomState::new();
        let hashes = logins.iter().map(|login| hasher.hash_one(login)).collect();
        Credentials { hasher, hashes }
    }

    /// Verifies the block of a login: its first two words.
    pub fn verify(&self, block: &[u8]) -> Result<(), Error> {
        let mut words = Words(block);
        let (Some(user), Some(password)) = (words.next(), words.next()) else {
            return Err(Error::BadToken);
        };
        let login = [user, password].join(&b' ');
        let is_known = self.hashes.contains(&self.hasher.hash_one(login));
        if is_known { Ok(()) } else { Err(Error::AuthenticationFailure) }
    }
}

/// Reads the logins of a file that only its owner may read: the user that this process acts
/// as. The error is one line that says what to do, and nothing of what the file holds.
pub fn read_logins(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let file = path.display();
    let failed = |error: io::Error| format!("can't read {file}: {error}");
    // Checked before it is opened: a pipe would wait there for its other end.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{file} is not a regular file; name another --auth-file"));
    }
    if metadata.mode() & 0o077 != 0 || metadata.uid() != os::geteuid() {
        return Err(format!(
            "others can read or change {file}; make it your own, and `chmod 600 {file}`"
        ));
    }
    parse_logins(&fs::read(path).map_err(failed)?).map_err(|line| {
        format!(
            "line {line} of {file} is not user:password, without spaces and of at \
             most {MAX_LOGIN} bytes"
        )
    })
}

/// Parses a file's text. The error is the number of the first line that is not a login.
pub fn parse_logins(text: &[u8]) -> Result<Vec<Vec<u8>>, usize> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let login = |(line, number): (&[u8], usize)| {
        let mut login = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
        let colon = login.iter().position(|&byte| byte == b':').unwrap_or(0);
        let is_within = 0 < colon && colon + 1 < login.len();
        if !is_within || login.len() > MAX_LOGIN || login.contains(&b' ') {
            return Err(number);
        }
        login[colon] = b' ';
        Ok(login)
    };
    text.split(|&byte| byte == b'\n').zip(1..).map(login).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(file: &[u8], block: &[u8]) -> bool {
        Credentials::new(&parse_logins(file).unwrap()).verify(block).is_ok()
    }

    #[test]
    fn a_login_of_any_line_is_accepted() {
        for file in [&b"u:p\nv:q\n"[..], b"u:p\nv:q", b"u:p\r\nv:q\r\n"] {
            assert!(verify(file, b"u p") && verify(file, b"v q"));
            assert!(!verify(file, b"u q") && !verify(file, b"v p"));
        }
        assert!(verify(b"u:old\nu:new", b"u new"), "one user may have two passwords");
    }

    #[test]
    fn spaces_around_the_two_words_and_what_follows_them_are_ignored() {
        for block in [&b" u p"[..], b"u  p", b"u p ", b"u p more"] {
            assert!(verify(b"u:p", block), "{:?}", block.escape_ascii().to_string());
        }
    }

    #[test]
    fn what_differs_in_any_one_byte_is_not_accepted() {
        let right = b"user password";
        assert!(verify(b"user:password", right));
        for at in 0..right.len() {
            for bit in 0..8 {
                let mut wrong = *right;
                wrong[at] ^= 1 << bit;
                assert!(!verify(b"user:password", &wrong), "bit {bit} of byte {at}");
            }
        }
        for wrong in
            [&b"user passwor"[..], b"user password\0", b"use rpassword", b"user"]
        {
            assert!(!verify(b"user:password", wrong));
        }
    }

    #[test]
    fn a_password_may_have_any_byte_but_a_space_and_a_line_end() {
        assert!(verify(b"u:a:b:", b"u a:b:"));
        assert!(verify(b"u:\0\t\xff", b"u \0\t\xff"));
        let long = vec![b'p'; MAX_LOGIN - 2];
        assert!(verify(&[b"u:", &long[..]].concat(), &[b"u ", &long[..]].concat()));
    }

    #[test]
    fn a_line_that_is_not_a_login_is_named() {
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
            assert_eq!(parse_logins(file), Err(line));
        }
    }

    #[test]
    fn a_block_of_fewer_than_two_words_is_told_from_a_wrong_login() {
        let credentials = Credentials::new(&[b"u p".to_vec()]);
        assert_eq!(credentials.verify(b" u "), Err(Error::BadToken));
        assert_eq!(credentials.verify(b"u q"), Err(Error::AuthenticationFailure));
    }
}

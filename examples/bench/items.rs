//! Keys, values, and the bytes of requests and replies.
//!
//! A key is its number, with zeros before it. Its value is a piece of one long text,
//! which begins at a place that depends on the number. So
//!
//! - the reply to a request is known before it comes, and can be compared with it;
//! - a value that is stored under the wrong key is noticed;
//! - writing a request copies a few pieces of bytes and formats nothing, so that the
//!   generator costs little beside the server.
//!
//! For key 7 of 100, with keys of 3 bytes and values of 5:
//!
//! ```text
//! memcached  set 007 0 0 5\r\n.....\r\n            STORED\r\n
//!            get 007\r\n                         VALUE 007 0 5\r\n.....\r\nEND\r\n
//! Redis      *3\r\n$3\r\nSET\r\n$3\r\n007\r\n$5\r\n.....\r\n   +OK\r\n
//!            *2\r\n$3\r\nGET\r\n$3\r\n007\r\n             $5\r\n.....\r\n
//! ```
//!
//! All keys have the same length, and so have all values: requests of one kind are
//! equally long, and so are their replies. The echo server depends on that.

use memcached_lite::driver::random::Random;

/// Asks a memcached to close the connection.
pub const QUIT: &[u8] = b"quit\r\n";

/// The reply to a get of a key that is missing.
pub const MISS: &[u8] = b"END\r\n";

/// What the replies of an echo server are made of.
pub const FILLER: u8 = b'.';

/// Values begin at so many different places of the text.
const PLACES: usize = 4096;

/// Keys and values, and the protocol in which they are requested.
#[derive(Clone)]
pub struct Items {
    /// How many keys there are.
    pub count: usize,
    /// Length of a key, in bytes.
    pub key_len: usize,
    /// Length of a value, in bytes.
    pub value_len: usize,
    /// The reply to a set.
    pub stored: &'static [u8],
    /// Removes all items, then shows lines of information.
    pub flush: String,
    /// In the replies to that: the line that answers each request but the last, what comes
    /// before the number of the process, and the last line.
    pub info: [&'static str; 3],
    text: Vec<u8>,
    /// A set: what comes before the key, and between key and value.
    set: [String; 2],
    /// Between key and value of a set that wants no reply.
    noreply: String,
    /// A get, before its key.
    get: String,
    /// The reply to a get: what comes before its key, if it repeats that, and what
    /// comes before and after the value.
    repeats_key: Option<&'static str>,
    hit: [String; 2],
}

impl Items {
    /// `count` keys of `key_len` bytes with values of `value_len`, in the text protocol
    /// of memcached.
    pub fn new(count: usize, key_len: usize, value_len: usize) -> Items {
        Items {
            count,
            key_len,
            value_len,
            stored: b"STORED\r\n",
            flush: "flush_all\r\nstats\r\n".into(),
            info: ["OK", "STAT pid ", "END"],
            text: Random::new(0).text(value_len + PLACES).into_bytes(),
            set: ["set ".into(), format!(" 0 0 {value_len}\r\n")],
            noreply: format!(" 0 0 {value_len} noreply\r\n"),
            get: "get ".into(),
            repeats_key: Some("VALUE "),
            hit: [format!(" 0 {value_len}\r\n"), "\r\nEND\r\n".into()],
        }
    }

    /// The same in the protocol of Redis, which has no noreply. It is told to sync its file
    /// as our server does with `--sync` of this mode.
    pub fn for_redis(self, sync: &str) -> Items {
        let fsync = if sync == "always" { sync } else { "everysec" };
        let key = format!("${}\r\n", self.key_len);
        let value = format!("${}\r\n", self.value_len);
        Items {
            stored: b"+OK\r\n",
            flush: format!(
                "CONFIG SET appendonly yes\r\nCONFIG SET appendfsync {fsync}\r\n\
                 FLUSHALL\r\nINFO server\r\n"
            ),
            info: ["+OK", "process_id:", ""],
            set: [format!("*3\r\n$3\r\nSET\r\n{key}"), format!("\r\n{value}")],
            get: format!("*2\r\n$3\r\nGET\r\n{key}"),
            repeats_key: None,
            hit: [value, "\r\n".into()],
            ..self
        }
    }

    /// Appends a set to `out`.
    pub fn write_set(&self, number: usize, noreply: bool, out: &mut Vec<u8>) {
        let [before, between] = &self.set;
        out.extend_from_slice(before.as_bytes());
        self.write_key(number, out);
        let between = if noreply { &self.noreply } else { between };
        out.extend_from_slice(between.as_bytes());
        out.extend_from_slice(self.value(number));
        out.extend_from_slice(b"\r\n");
    }

    /// Appends a get to `out`.
    pub fn write_get(&self, number: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.get.as_bytes());
        self.write_key(number, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the reply to a get to `out`.
    pub fn write_hit(&self, number: usize, out: &mut Vec<u8>) {
        if let Some(before) = self.repeats_key {
            out.extend_from_slice(before.as_bytes());
            self.write_key(number, out);
        }
        let [before, after] = &self.hit;
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(self.value(number));
        out.extend_from_slice(after.as_bytes());
    }

    fn write_key(&self, number: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.key_len, b'0');
        let mut rest = number;
        for digit in out[start..].iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
    }

    fn value(&self, number: usize) -> &[u8] {
        &self.text[number % PLACES..][..self.value_len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memcached_lite::protocol::reply::{Reply, ValueLine};
    use memcached_lite::protocol::{Parsed, Request, parse};
    use memcached_lite::store::{Answer, Limits, Update};

    const LIMITS: Limits =
        Limits { key_size: 250, max_value: 1000, max_item_size: 1000 };

    fn written(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    }

    #[test]
    fn requests_are_those_of_the_protocol() {
        let items = Items::new(100, 10, 50);
        for noreply in [false, true] {
            let bytes = written(|out| items.write_set(42, noreply, out));
            let update = Update {
                key: b"0000000042",
                value: items.value(42),
                ..Update::default()
            };
            let used = bytes.len();
            let request = Request::Update(update);
            let expected = Parsed::Request { request, noreply, used };
            assert_eq!(parse(&bytes, &LIMITS), expected);
        }
        let bytes = written(|out| items.write_get(42, out));
        let Parsed::Request { request: Request::Get { keys, .. }, used, .. } =
            parse(&bytes, &LIMITS)
        else {
            panic!("{}", bytes.escape_ascii());
        };
        assert!(keys.eq([b"0000000042"]));
        assert_eq!(used, bytes.len());
    }

    #[test]
    fn replies_are_those_of_the_protocol() {
        let items = Items::new(100, 10, 50);
        let bytes = written(|out| items.write_hit(42, out));
        let line_len = bytes.iter().position(|&byte| byte == b'\r').unwrap();
        let line = ValueLine::parse(&bytes[..line_len]).unwrap();
        assert_eq!((line.key, line.flags, line.length), (&b"0000000042"[..], 0, 50));
        let end = format!("{}\r\n", Reply::End);
        let rest = [b"\r\n", items.value(42), b"\r\n", end.as_bytes()].concat();
        assert_eq!(bytes[line_len..], rest);
        let stored = format!("{}\r\n", Reply::Answer(Answer::Stored));
        assert_eq!(items.stored, stored.as_bytes());
    }

    #[test]
    fn redis_has_its_own_protocol() {
        let items = Items::new(10, 3, 4).for_redis("always");
        let value = String::from_utf8_lossy(items.value(7));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(written(|out| items.write_set(7, false, out))),
            format!("*3\r\n$3\r\nSET\r\n$3\r\n007\r\n$4\r\n{value}\r\n")
        );
        let get = text(written(|out| items.write_get(7, out)));
        assert_eq!(get, "*2\r\n$3\r\nGET\r\n$3\r\n007\r\n");
        let hit = text(written(|out| items.write_hit(7, out)));
        assert_eq!(hit, format!("$4\r\n{value}\r\n"));
    }

    #[test]
    fn keys_differ_and_so_do_the_values_of_neighbours() {
        let items = Items::new(1000, 3, 8);
        let key = |number| written(|out| items.write_key(number, out));
        for number in 0..1000 {
            assert_eq!(key(number), format!("{number:03}").into_bytes());
        }
        for number in 1..1000 {
            assert_ne!(items.value(number - 1), items.value(number));
        }
        assert_eq!(Items::new(2, 1, 0).value(1), b"");
    }
}

//! What is set and asked for: keys, their values, and requests and replies made of
//! them.
//!
//! A key is its number, with zeros before it; its value is a piece of one long text,
//! cut where the number says. So a reply is known before it comes, a value that stands
//! under the wrong key is noticed, and making a request copies four or five pieces of
//! bytes and formats nothing.
//!
//! All keys have the same length, and so have all values: requests of a kind are
//! equally long, and so are their replies. That is what the echo server goes by.

use crate::random::Random;

/// What sets are answered with.
pub const STORED: &[u8] = b"STORED\r\n";

/// Asks the server to close the connection.
pub const QUIT: &[u8] = b"quit\r\n";

/// Values begin at so many places of the text.
const PLACES: usize = 4096;

/// Keys and values, and what stands around them in requests and replies.
pub struct Items {
    /// How many keys there are.
    pub count: usize,
    key_len: usize,
    value_len: usize,
    /// The keys, one behind the other.
    keys: Vec<u8>,
    text: Vec<u8>,
    words: Wording,
}

/// What a protocol has around keys and values of one length each.
struct Wording {
    /// Before the key of a set, and between it and the value.
    set: [Vec<u8>; 2],
    /// The latter for one that wants no reply.
    noreply: Vec<u8>,
    /// What a set is answered with.
    stored: &'static [u8],
    /// Before the key of a get.
    get: Vec<u8>,
    /// Before the key in a get's reply, if it says the key again.
    hit: Option<&'static [u8]>,
    /// Before the value there, and behind it.
    value: [Vec<u8>; 2],
}

impl Items {
    /// `count` keys of `key_len` bytes with values of `value_len`, in memcached's words.
    pub fn new(count: usize, key_len: usize, value_len: usize) -> Items {
        let words = Wording {
            set: [b"set ".into(), format!(" 0 0 {value_len}\r\n").into()],
            noreply: format!(" 0 0 {value_len} noreply\r\n").into(),
            stored: STORED,
            get: b"get ".into(),
            hit: Some(b"VALUE "),
            value: [format!(" 0 {value_len}\r\n").into(), b"\r\nEND\r\n".into()],
        };
        Items::in_words(words, count, key_len, value_len)
    }

    /// The same in those of Redis, which has no noreply.
    pub fn for_redis(count: usize, key_len: usize, value_len: usize) -> Items {
        let key = format!("${key_len}\r\n");
        let value = format!("${value_len}\r\n");
        let words = Wording {
            set: [
                format!("*3\r\n$3\r\nSET\r\n{key}").into(),
                format!("\r\n{value}").into(),
            ],
            noreply: Vec::new(),
            stored: b"+OK\r\n",
            get: format!("*2\r\n$3\r\nGET\r\n{key}").into(),
            hit: None,
            value: [value.into(), b"\r\n".into()],
        };
        Items::in_words(words, count, key_len, value_len)
    }

    fn in_words(
        words: Wording,
        count: usize,
        key_len: usize,
        value_len: usize,
    ) -> Items {
        let keys = (0..count).map(|number| format!("{number:0>key_len$}"));
        let keys = keys.collect::<String>().into_bytes();
        let text = Random::new(0).text(value_len + PLACES).into_bytes();
        Items { count, key_len, value_len, keys, text, words }
    }

    fn key(&self, number: usize) -> &[u8] {
        &self.keys[number * self.key_len..][..self.key_len]
    }

    fn value(&self, number: usize) -> &[u8] {
        &self.text[number % PLACES..][..self.value_len]
    }

    /// Puts a set behind `out`.
    pub fn write_set(&self, number: usize, noreply: bool, out: &mut Vec<u8>) {
        let [head, middle] = &self.words.set;
        out.extend_from_slice(head);
        out.extend_from_slice(self.key(number));
        out.extend_from_slice(if noreply { &self.words.noreply } else { middle });
        out.extend_from_slice(self.value(number));
        out.extend_from_slice(b"\r\n");
    }

    /// What a set is answered with.
    pub fn stored(&self) -> &[u8] {
        self.words.stored
    }

    /// Puts a get behind `out`.
    pub fn write_get(&self, number: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.words.get);
        out.extend_from_slice(self.key(number));
        out.extend_from_slice(b"\r\n");
    }

    /// Puts the reply to a get behind `out`.
    pub fn write_value(&self, number: usize, out: &mut Vec<u8>) {
        if let Some(hit) = self.words.hit {
            out.extend_from_slice(hit);
            out.extend_from_slice(self.key(number));
        }
        let [before, behind] = &self.words.value;
        out.extend_from_slice(before);
        out.extend_from_slice(self.value(number));
        out.extend_from_slice(behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Limits, Message, Parsed, Request, Verb, parse};
    use crate::reply::{Reply, ValueLine};

    const LIMITS: Limits =
        Limits { key_size: 250, max_value: 1000, max_item_size: 1000 };

    fn message(bytes: &[u8]) -> Message<'_> {
        match parse(bytes, &LIMITS) {
            Parsed::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_and_replies_are_those_of_the_protocol() {
        let items = Items::new(100, 10, 50);
        for noreply in [false, true] {
            let mut bytes = Vec::new();
            items.write_set(42, noreply, &mut bytes);
            let set = message(&bytes);
            assert_eq!((set.noreply, set.used), (noreply, bytes.len()));
            let Request::Store {
                verb: Verb::Set,
                key,
                flags: 0,
                exptime: 0,
                value,
                ..
            } = set.request
            else {
                panic!("{set:?}");
            };
            assert_eq!((key, value), (&b"0000000042"[..], items.value(42)));
        }
        let mut bytes = Vec::new();
        items.write_get(42, &mut bytes);
        let get = message(&bytes);
        let Request::Get(_, keys) = get.request else { panic!("{get:?}") };
        assert!(keys.eq([items.key(42)]));
        assert_eq!(get.used, bytes.len());

        let mut bytes = Vec::new();
        items.write_value(42, &mut bytes);
        let line_len = bytes.iter().position(|&byte| byte == b'\r').unwrap();
        let line = ValueLine::parse(&bytes[..line_len]).unwrap();
        assert_eq!((line.key, line.flags, line.length), (items.key(42), 0, 50));
        let mut rest = [b"\r\n", items.value(42), b"\r\n"].concat();
        Reply::End.write_to(&mut rest);
        assert_eq!(bytes[line_len..], rest);
        let mut stored = Vec::new();
        Reply::Stored.write_to(&mut stored);
        assert_eq!(stored, STORED);
    }

    #[test]
    fn redis_is_asked_in_its_own_words() {
        let items = Items::for_redis(10, 3, 4);
        let value = String::from_utf8_lossy(items.value(7)).into_owned();
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(
            written(&|out| items.write_set(7, false, out)),
            format!("*3\r\n$3\r\nSET\r\n$3\r\n007\r\n$4\r\n{value}\r\n")
        );
        assert_eq!(
            written(&|out| items.write_get(7, out)),
            "*2\r\n$3\r\nGET\r\n$3\r\n007\r\n"
        );
        assert_eq!(
            written(&|out| items.write_value(7, out)),
            format!("$4\r\n{value}\r\n")
        );
    }

    #[test]
    fn keys_differ_and_so_do_the_values_of_neighbours() {
        let items = Items::new(1000, 3, 8);
        let mut keys: Vec<_> = (0..1000).map(|number| items.key(number)).collect();
        keys.dedup();
        assert_eq!(keys.len(), 1000);
        for number in 1..1000 {
            assert_ne!(items.value(number - 1), items.value(number));
        }
        assert_eq!(Items::new(2, 1, 0).value(1), b"");
    }
}

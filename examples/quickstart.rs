//! A server and a client in one program: stores values, shows them, and opens the data
//! again to show that they are still there.
//!
//! `cargo run --example quickstart`

use memcached_lite::client::{Client, Options as ClientOptions};
use memcached_lite::os;
use memcached_lite::server::{Options, Server};
use memcached_lite::store::{Answer, Options as StoreOptions, Session, Store};
use memcached_lite::store::{Update, Verb};
use std::error::Error;
use std::thread;

fn main() -> Result<(), Box<dyn Error>> {
    let name = format!("memcached-lite-quickstart-{}", std::process::id());
    let data = std::env::temp_dir().join(name);

    // A server of our own, on a port that the system chooses.
    let options = Options { port: 0, data: data.clone(), ..Options::default() };
    let server = Server::bind(options)?;
    let address = server.address().to_owned();
    println!("listening on {address}");
    thread::spawn(|| server.run(os::poller));

    // Keys and values are bytes; flags are yours; exptime 0 is forever.
    let mut client = Client::connect(&ClientOptions { address, ..Default::default() })?;
    client.set("name", "John Doe", 0, 0)?;
    client.set("visits", "41", 0, 0)?;
    println!("visits: {:?}", client.incr("visits", 1)?);

    // Two writers, and the second one learns that the item has changed in between.
    let item = client.gets("name")?.ok_or("it was stored a moment ago")?;
    let number = item.unique.ok_or("gets returns the unique")?;
    let cas = Update { verb: Verb::Cas, key: b"name", number, ..Update::default() };
    let answer = client.update(Update { value: b"Jane Doe", ..cas })?;
    assert_eq!(answer, Answer::Stored);
    let answer = client.update(Update { value: b"Jim Doe", ..cas })?;
    assert_eq!(answer, Answer::Exists);
    println!("name: {}", show(client.get("name")?.map(|item| item.value)));

    // The files outlive the server. They have one owner, so this looks at a copy, made
    // while the server runs: what was acknowledged is in the file already.
    let copy = data.with_extension("copy");
    std::fs::create_dir(&copy)?;
    std::fs::copy(data.join("0000000001.kv"), copy.join("0000000001.kv"))?;
    let (store, _) = Store::open(&copy, &StoreOptions::default(), 0)?;
    let mut session = Session::at(0);
    let item = store.get(&mut session, b"visits")?;
    println!("visits, read from the file: {}", show(item.map(|i| i.value.to_vec())));

    std::fs::remove_dir_all(&copy)?;
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

fn show(value: Option<Vec<u8>>) -> String {
    value.map_or("nothing".into(), |value| value.escape_ascii().to_string())
}

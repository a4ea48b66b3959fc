//! Scenarios: starts servers and clients as real processes, shows who said what, and
//! judges it.
//!
//! The children are this program itself, started anew as `driver server ...` and
//! `driver client ...`, so that a scenario runs where cargo has built the driver
//! alone. A client child reads instructions from its standard input and prints each
//! reply, quoted, on a line; so the driver can hold the clients of a scenario to any
//! order. It waits for lines and replies, and never by sleeping.
//!
//! - D1: a verdict says ok only if every reply was compared with what it should be,
//!   and nothing came that was not asked for.
//! - D2: nothing that a scenario has started or written outlives it. If the driver
//!   itself is killed, its clients end with their input, its servers because nobody is
//!   connected; the directory stays.
//! - D3: what is asked for depends on the scenario and the seed, and on nothing else.
//!
//! Left out: a network between the processes, and faults of the disk; see
//! `tests/recovery.rs` for those.
//!
//! | scenarios | are in |
//! |---|---|
//! | 1 to 5, 10, 12, 13: what requests do | `driver/requests.rs` |
//! | 7, 14, 15: servers that go and come back | `driver/restarts.rs` |
//! | 6, 8, 11, 16: many at once | `driver/crowds.rs` |
//! | 9, 17, 18: bytes on the wire | `driver/bytes.rs` |
//!
//! What scenarios have in common is in `driver/stage.rs`, `driver/peer.rs` and
//! `driver/text.rs`.

mod bytes;
mod crowds;
mod peer;
mod requests;
mod restarts;
pub(crate) mod stage;
mod text;

use crate::say;
pub use stage::Options;
use stage::Stage;

/// Something that the driver shows and judges.
pub struct Scenario {
    /// Its number, for `--test`.
    pub number: usize,
    /// What it is about.
    pub title: &'static str,
    /// Why it can't be played against a server that others have started.
    needs: Option<&'static str>,
    play: fn(&Stage) -> stage::Result,
}

const fn scenario(
    number: usize,
    title: &'static str,
    play: fn(&Stage) -> stage::Result,
) -> Scenario {
    Scenario { number, title, needs: None, play }
}

impl Scenario {
    const fn needs(mut self, what: &'static str) -> Scenario {
        self.needs = Some(what);
        self
    }
}

/// All scenarios, in order.
pub const SCENARIOS: [Scenario; 18] = [
    scenario(1, "three clients, well-formed requests", requests::three_clients),
    scenario(
        2,
        "one client, dozens of requests quickly; some keys don't exist",
        requests::dozens_of_requests,
    ),
    scenario(
        3,
        "keys of 60 and of 251 bytes where KEY_SIZE is 60",
        requests::long_keys,
    )
    .needs("a server with --key-size 60"),
    scenario(
        4,
        "a missing key, and a request that only looks malformed",
        requests::looks_malformed,
    ),
    scenario(
        5,
        "two clients see each other's updates; keys that contain one another",
        requests::two_clients,
    ),
    scenario(
        6,
        "many clients at once, each sets a random key and gets it (--clients)",
        crowds::random_keys,
    ),
    scenario(
        7,
        "stop and start again; kill -9 under load: nothing acknowledged is lost",
        restarts::persistence,
    )
    .needs("a server that can be killed and started again"),
    scenario(
        8,
        "stalled clients, after a request and in the middle of one, delay nobody",
        crowds::stalled_clients,
    ),
    scenario(
        9,
        "large values in crumbs, one too large; keys of 1000 bytes",
        bytes::large_values,
    ),
    scenario(
        10,
        "flags, expiry, noreply; three keys set and got at the same time",
        requests::flags_expiry_noreply,
    ),
    scenario(
        11,
        "many clients with random waits on few keys: what is read was written",
        crowds::few_keys,
    ),
    scenario(
        12,
        "one key with many values: append, prepend, and a get of several keys",
        requests::many_values,
    ),
    scenario(13, "random keys that are not there", requests::missing_keys),
    scenario(
        14,
        "clear everything, and it stays cleared after a restart",
        restarts::clear_everything,
    )
    .needs("a server that can be killed and started again"),
    scenario(
        15,
        "client first, server later; either goes away; the server ends when idle",
        restarts::comings_and_goings,
    )
    .needs("servers that start late and end"),
    scenario(
        16,
        "one client at a time, two wait, and the fourth is turned away",
        crowds::one_at_a_time,
    )
    .needs("a server with --conn-limit 1 --backlog 2"),
    scenario(
        17,
        "malformed and hostile requests, every byte in a key: no neighbour is hurt",
        bytes::malformed_requests,
    ),
    scenario(18, "dialects lite and raw, byte for byte", bytes::dialects)
        .needs("servers with --dialect lite and --dialect raw"),
];

/// Plays a scenario and prints its verdict. False if something was not as it should
/// be.
pub fn run(scenario: &Scenario, options: &Options) -> bool {
    let Scenario { number, needs, play, .. } = scenario;
    if let (Some(needed), Some(address)) = (needs, &options.against) {
        say(&format!("test {number}: skipped: it needs {needed}, not {address}"));
        return true;
    }
    say(&format!("Beginning test {number}"));
    let stage = match Stage::new(options) {
        Ok(stage) => stage,
        Err(error) => {
            say(&format!("test {number}: FAILED: no temporary directory: {error}"));
            return false;
        }
    };
    match play(&stage) {
        Ok(()) => {
            let (replies, clients) = (stage.replies.get(), stage.clients.get());
            let s = if clients == 1 { "" } else { "s" };
            say(&format!(
                "test {number}: ok: {replies} replies as expected, {clients} client{s}"
            ));
            true
        }
        Err(what) => {
            say(&format!("test {number}: FAILED: {what}"));
            false
        }
    }
}

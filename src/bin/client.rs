//! The client: see `client --help` and `docs/client.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memcached_lite::args::client(std::env::args_os().skip(1))
}

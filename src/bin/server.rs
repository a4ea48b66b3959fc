//! The server: see `server --help` and `docs/server.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memcached_lite::args::server(std::env::args_os().skip(1))
}

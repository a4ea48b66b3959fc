//! The client: see `client --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memcached_lite::programs::client(std::env::args_os().skip(1))
}

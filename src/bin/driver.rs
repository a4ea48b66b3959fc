//! The driver: see `driver --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memcached_lite::programs::driver(std::env::args_os().skip(1))
}

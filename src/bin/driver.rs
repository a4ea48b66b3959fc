//! The driver: see `driver --help` and `docs/driver.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memcached_lite::driver::main(std::env::args_os().skip(1))
}

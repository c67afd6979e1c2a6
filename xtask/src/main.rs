//! Every chore of the project behind one door: `cargo xtask <chore>`.
//!
//! A chore says what it does before it does it, shows progress for anything
//! that takes more than a few seconds, and ends with exit code 0 only when
//! everything it promised holds.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

mod artifacts;
mod bench;
mod cli;
mod compiler;
mod demo;
mod fuzz;
mod host;
mod interop;
mod load;
mod paths;
mod proc;
mod setup;
mod sim;
mod test;
mod vm;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

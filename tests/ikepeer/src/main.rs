//! `ikepeer CONFIG`: see the library.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use ikepeer::config::Config;

/// A small IKEv2 peer for tests: commands on standard input, JSON lines on standard output
#[derive(Parser)]
struct Cli {
    /// YAML file
    config: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match Config::load(&cli.config) {
        Ok(config) => ikepeer::run(config).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody else to tell it to.
            #[expect(clippy::print_stderr, reason = "the last words of a program")]
            {
                eprintln!("ikepeer: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

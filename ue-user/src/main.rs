//! The UE control daemon.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing::{error, warn};
use ue_user::{config::Config, shell};

/// A UE on untrusted non-3GPP access: IKEv2 keyed by QKD, EAP-5G, NAS, PDU sessions.
///
/// Attaches at once and keeps trying as configured. SIGTERM or SIGINT deregisters and leaves
/// nothing behind. Exit status: 0 after a signal, 1 when it could not start or, with --once, when
/// the attach failed.
#[derive(Parser)]
#[command(name = "ue-user", version)]
struct Arguments {
    /// Configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/ue-user/ue.yaml",
        global = true
    )]
    config: PathBuf,
    /// Try to attach once; leave with status 1 when that fails, or when the attach ends.
    #[arg(long)]
    once: bool,
    #[command(subcommand)]
    command: Option<Subcommands>,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Say what this host lacks, and how to get it.
    Preflight {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say whether the configuration file is right.
    CheckConfig,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    match arguments.command {
        Some(Subcommands::Preflight { json }) => {
            let report = shell::preflight(&config, &arguments.config).await;
            match report.print(&mut io::stdout(), json) {
                Ok(()) => report.exit_code(),
                Err(error) => refuse(&error),
            }
        }
        Some(Subcommands::CheckConfig) => match config.ue() {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => refuse(&error),
        },
        None => serve(&arguments, &config).await,
    }
}

async fn serve(arguments: &Arguments, config: &Config) -> ExitCode {
    if let Err(error) = daemon::log::init(&config.logger.level, config.logger.json) {
        return refuse(&error);
    }
    if let Err(error) = daemon::harden() {
        error!(%error, "this process holds keys and could not be hardened");
        return ExitCode::FAILURE;
    }
    for warning in config.warnings(&arguments.config) {
        warn!("{warning}");
    }
    match shell::run(config, arguments.once).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Says why before there is a log.
#[expect(clippy::print_stderr, reason = "the log is not there yet")]
fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("ue-user: {error}");
    ExitCode::FAILURE
}

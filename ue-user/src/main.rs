//! The UE control daemon.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use daemon::hardening::{Hardening, Wiping, wipe_when_idle};
use tracing::{error, warn};
use ue_user::{config::Config, shell};

/// Freed memory may have held a key.
#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    // While this is the only thread.
    let hardening = match arguments.command {
        None => match Hardening::begin(config.hardening, config.needs()) {
            Ok(hardening) => Some(hardening),
            Err(error) => return refuse(&error),
        },
        Some(_) => None,
    };
    // One UE, one thread; what moves packets has threads of its own.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all();
    wipe_when_idle(&mut runtime);
    if let Some(hardening) = hardening.clone() {
        runtime.on_thread_start(move || hardening.enter_thread());
    }
    match runtime.build() {
        Ok(runtime) => runtime.block_on(run(&arguments, &config, hardening.as_ref())),
        Err(error) => refuse(&error),
    }
}

async fn run(arguments: &Arguments, config: &Config, hardening: Option<&Hardening>) -> ExitCode {
    match arguments.command {
        Some(Subcommands::Preflight { json }) => {
            let report = shell::preflight(config, &arguments.config).await;
            match report.print(&mut io::stdout(), json) {
                Ok(()) => report.exit_code(),
                Err(error) => refuse(&error),
            }
        }
        Some(Subcommands::CheckConfig) => match config.ue() {
            Ok(_) => ExitCode::SUCCESS,
            Err(complaint) => refuse(&daemon::config::place(&arguments.config, complaint)),
        },
        None => serve(arguments, config, hardening).await,
    }
}

async fn serve(arguments: &Arguments, config: &Config, hardening: Option<&Hardening>) -> ExitCode {
    if let Err(error) = daemon::log::init(&config.logger.level, config.logger.json) {
        return refuse(&error);
    }
    for warning in config.warnings(&arguments.config) {
        warn!("{warning}");
    }
    match shell::run(&arguments.config, config, arguments.once, hardening).await {
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

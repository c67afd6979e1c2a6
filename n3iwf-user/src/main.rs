//! `n3iwf-user`: the N3IWF control daemon.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use daemon::hardening::{Hardening, Wiping, wipe_when_idle};
use n3iwf_user::{config, preflight, shell};

/// Freed memory may have held a key.
#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

/// N3IWF with QKD keys: untrusted non-3GPP access to a 5G core.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, short, global = true, default_value = "/etc/n3iwf/n3iwf.yaml")]
    config: PathBuf,
    /// Reads the file, says whether it is right, and ends.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Says what this host lacks and how to get it.
    Preflight {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last words of a program")]
            {
                eprintln!("n3iwf-user: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let file = config::load(&arguments.config)?;
    if arguments.check_config {
        file.endpoint()
            .map_err(|complaint| daemon::config::place(&arguments.config, complaint))?;
        return Ok(ExitCode::SUCCESS);
    }
    // While this is the only thread.
    let hardening = match arguments.command {
        None => Some(Hardening::begin(
            file.configuration.hardening,
            file.needs(),
        )?),
        Some(_) => None,
    };
    // One thread owns everything there is to decide; more would mostly wake each other up. What blocks
    // on the kernel and what moves packets have threads of their own.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    if let Some(hardening) = hardening.clone() {
        runtime.on_thread_start(move || hardening.enter_thread());
    }
    wipe_when_idle(&mut runtime);
    let runtime = runtime.enable_all().build()?;
    if let Some(Command::Preflight { json }) = arguments.command {
        n3iwf_user::tls_provider();
        let report = runtime.block_on(preflight::run(&file));
        report.print(&mut io::stdout().lock(), json)?;
        return Ok(report.exit_code());
    }
    daemon::log::init(file.logger.filter(), file.logger.json)?;
    runtime.block_on(shell::run(&arguments.config, file, hardening.as_ref()))?;
    Ok(ExitCode::SUCCESS)
}

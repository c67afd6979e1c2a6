//! `n3iwf-user`: the N3IWF control daemon.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use n3iwf_user::{config, preflight, shell};

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
            .map_err(|complaint| anyhow::anyhow!("{}: {complaint}", arguments.config.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if let Some(Command::Preflight { json }) = arguments.command {
        n3iwf_user::tls_provider();
        let report = runtime.block_on(preflight::run(&file));
        report.print(&mut io::stdout().lock(), json)?;
        return Ok(report.exit_code());
    }
    daemon::log::init(file.logger.filter(), file.logger.json)?;
    runtime.block_on(shell::run(&arguments.config, file))?;
    Ok(ExitCode::SUCCESS)
}

//! Talks to a running `ue-user`.

mod tables;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use daemon::control::{Client, ControlError};
use serde_json::Value;
use ue_user::{config::Config, shell::Request};

/// Control tool of ue-user.
#[derive(Parser)]
#[command(name = "uectl", version)]
struct Arguments {
    /// Control socket; the one of the configuration file when absent.
    #[arg(long, value_name = "PATH", global = true)]
    control: Option<PathBuf>,
    /// Configuration file of the daemon.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/ue-user/ue.yaml",
        global = true
    )]
    config: PathBuf,
    /// Print the daemon's reply as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand, Clone, Copy)]
enum Subcommands {
    /// State, attach timeline, IKE SA, PDU sessions.
    Status,
    /// IKE and Child SAs with their keys and counters.
    Sas,
    /// PDU sessions with their traffic.
    Sessions,
    /// Where every QKD key went: fetched = used + lost + held.
    Keys,
    /// Attach now.
    Attach,
    /// Establish PDU session N of the configuration.
    Establish {
        /// PDU session identity.
        n: u8,
    },
    /// Release PDU session N.
    Release {
        /// PDU session identity.
        n: u8,
    },
    /// Rekey the Child SAs, or the IKE SA.
    Rekey {
        /// The IKE SA in place of Child SAs.
        #[arg(long, conflicts_with = "child")]
        ike: bool,
        /// One Child SA, by its number in `sas`; all of them without a number or without this.
        #[arg(long, value_name = "NUMBER", num_args = 0..=1)]
        child: Option<Option<u64>>,
    },
    /// Go on from another address, by MOBIKE, or by another attach where the N3IWF has none.
    Roam {
        /// Address of this host; that of the route to the N3IWF without it.
        address: Option<IpAddr>,
    },
    /// Deregister and stay detached.
    Deregister,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match ask(&arguments).await {
        Ok(reply) => match print(&arguments, &reply) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&error),
        },
        Err(error) => refuse(&error),
    }
}

async fn ask(arguments: &Arguments) -> Result<Value, String> {
    let path = match &arguments.control {
        Some(path) => path.clone(),
        None => {
            Config::load(&arguments.config)
                .map_err(|error| error.to_string())?
                .control
        }
    };
    let request = match arguments.command {
        Subcommands::Status => Request::Status,
        Subcommands::Sas => Request::Sas,
        Subcommands::Sessions => Request::Sessions,
        Subcommands::Keys => Request::Keys,
        Subcommands::Attach => Request::Attach,
        Subcommands::Establish { n } => Request::Establish { session: n },
        Subcommands::Release { n } => Request::Release { session: n },
        Subcommands::Rekey { ike, child } => Request::Rekey {
            ike,
            child: child.flatten(),
        },
        Subcommands::Roam { address } => Request::Roam { address },
        Subcommands::Deregister => Request::Deregister,
    };
    let text = |error: ControlError| error.to_string();
    let mut client = Client::connect(&path).await.map_err(text)?;
    client.call(&request).await.map_err(text)
}

fn print(arguments: &Arguments, reply: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if arguments.json {
        return writeln!(out, "{reply:#}");
    }
    match arguments.command {
        Subcommands::Status => tables::status(&mut out, reply),
        Subcommands::Sas => tables::sas(&mut out, reply),
        Subcommands::Sessions => tables::sessions(&mut out, reply),
        Subcommands::Keys => tables::keys(&mut out, reply),
        _ => writeln!(out, "{}", tables::text(reply, "state")),
    }
}

#[expect(clippy::print_stderr, reason = "a command line tool")]
fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("uectl: {error}");
    ExitCode::FAILURE
}

//! `n3iwfctl`: looks into a running `n3iwf-user`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use daemon::control::Client;
use n3iwf_user::{
    render,
    report::{Counters, Keys, Request, Sas, Status, Ues},
    top,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Looks into a running N3IWF.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The daemon's control socket.
    #[arg(long, short, global = true, default_value = "/run/n3iwf/n3iwf.sock")]
    socket: PathBuf,
    /// As JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Subcommand)]
enum Command {
    /// How the daemon is: AMFs, KMS, counts. Exit code 1 when no AMF is ready.
    Status,
    /// IKE SAs and Child SAs with their QKD keys and PDU sessions.
    Sas,
    /// UEs, their PDU sessions, and where the time of their attach went.
    Ues,
    /// The key account: fetched = used + lost + held.
    Keys,
    /// Packets and octets: classes, kernel and eBPF per Child SA, relay per PDU session.
    Counters,
    /// UEs, SAs, keys and rates, live; ends with q.
    Top(top::Top),
    /// One line per interval and per change, as JSON with --json.
    Watch(top::Watch),
    /// Lets the AMF release a UE.
    Release {
        /// RAN-UE-NGAP-ID, as `ues` shows it.
        ue: u32,
    },
    /// Rekeys the Child SAs of a UE, or its IKE SA.
    Rekey {
        /// RAN-UE-NGAP-ID, as `ues` shows it.
        ue: u32,
        /// The IKE SA in place of Child SAs.
        #[arg(long, conflicts_with = "child")]
        ike: bool,
        /// One Child SA, by its number in `sas`; all of them without it.
        #[arg(long, value_name = "NUMBER")]
        child: Option<u64>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last words of a program")]
            {
                eprintln!("n3iwfctl: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let request = match arguments.command {
        Command::Top(options) => {
            top::top(&arguments.socket, options).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Watch(options) => {
            top::watch(&arguments.socket, options, arguments.json).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Status => Request::Status,
        Command::Sas => Request::Sas,
        Command::Ues => Request::Ues,
        Command::Keys => Request::Keys,
        Command::Counters => Request::Counters,
        Command::Release { ue } => Request::Release { ue },
        Command::Rekey { ue, ike, child } => Request::Rekey { ue, ike, child },
    };
    let mut client = Client::connect(&arguments.socket).await?;
    let reply: Value = client.call(&request).await?;
    let ready = reply.get("ready").and_then(Value::as_bool).unwrap_or(true);
    let text = if arguments.json {
        format!("{reply:#}\n")
    } else {
        match arguments.command {
            Command::Status => render::status(&read::<Status>(reply)?),
            Command::Sas => render::sas(&read::<Sas>(reply)?),
            Command::Ues => render::ues(&read::<Ues>(reply)?),
            Command::Keys => render::keys(&read::<Keys>(reply)?),
            Command::Counters => render::counters(&read::<Counters>(reply)?),
            Command::Release { ue } => format!("UE {ue}: release asked for\n"),
            Command::Rekey { ue, .. } => format!("UE {ue}: rekey begun\n"),
            // Handled above.
            Command::Top(_) | Command::Watch(_) => String::new(),
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read<T: DeserializeOwned>(reply: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(reply)?)
}

//! A 5G core stand-in: AMF, AUSF, SMF over NGAP and a UPF over GTP-U.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use core5g::amf::OverloadAction;
use core5g::config;
use core5g::server::{Request, Server, Trigger};
use serde_json::Value;

/// A 5G core stand-in: AMF, AUSF, SMF over NGAP and a UPF over GTP-U.
#[derive(Debug, Parser)]
#[command(name = "core5g", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, default_value = "/etc/core5g/core5g.yaml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the configuration and say whether it is one.
    Check,
    /// Ask a running core, or tell it what to do. Prints JSON.
    Ctl {
        /// The control socket, if not the one of the configuration.
        #[arg(long)]
        socket: Option<PathBuf>,
        #[command(subcommand)]
        request: Ctl,
    },
}

#[derive(Debug, Subcommand)]
enum Ctl {
    /// Associations, number of UEs and sessions, counters.
    Status,
    /// The subscribers.
    Subscribers,
    /// The UEs with their sessions.
    Ues,
    /// The user-plane sessions with their packet counters.
    Sessions,
    /// What the core did for each message, and how long it took.
    Transactions {
        /// Only of this subscriber.
        #[arg(long)]
        supi: Option<String>,
        /// Forget them afterwards.
        #[arg(long)]
        clear: bool,
    },
    /// Show the policy, or set it: `{"pdu_session_reject": 26}`; `{}` clears it.
    Policy {
        /// The new policy as JSON.
        set: Option<String>,
    },
    /// Show the faults, or set them: `[{"on": "AuthenticationRequest", "do": "silence"}]`.
    Faults {
        /// The new faults as JSON.
        set: Option<String>,
    },
    /// Deregister a UE.
    Deregister {
        /// Which.
        supi: String,
        /// Ask it to come again.
        #[arg(long)]
        reregister: bool,
        /// 5GMM cause.
        #[arg(long)]
        cause: Option<u8>,
    },
    /// Release a PDU session.
    ReleaseSession {
        /// Of which UE.
        supi: String,
        /// Which session.
        session: u8,
    },
    /// Release a UE's context without deregistering it.
    ReleaseUe {
        /// Which.
        supi: String,
    },
    /// NG RESET to every N3IWF.
    Reset,
    /// OVERLOAD START to every N3IWF.
    Overload {
        /// `reject-mo-data`, `reject-signalling`, `emergency-only`, `high-priority-only`.
        #[arg(long, value_parser = overload_action)]
        action: Option<OverloadAction>,
        /// Percent of the attaches that shall stay away.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=99))]
        percent: Option<u8>,
    },
    /// OVERLOAD STOP to every N3IWF.
    Relax,
    /// Tell every N3IWF that the GUAMI goes out of service.
    Withdraw {
        /// Name of the AMF that takes over.
        #[arg(long)]
        backup: Option<String>,
    },
    /// Break every N2 association off.
    DropN2,
    /// Stop answering on N2, or start again.
    Silent {
        /// Stop (`true`) or start again (`false`).
        #[arg(action = clap::ArgAction::Set)]
        silent: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the only way to tell without a log")]
fn complain(error: &anyhow::Error) {
    eprintln!("core5g: {error:#}");
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("runtime")?;
    match arguments.command {
        None => {
            let config = config::load(&arguments.config)?;
            daemon::log::init(&config.log, config.log_json)?;
            daemon::harden()?;
            runtime.block_on(serve(config))
        }
        Some(Command::Check) => {
            let config = config::load(&arguments.config)?;
            core5g::home::Home::new(config.subscribers, &config.home_network_keys)?;
            Ok(())
        }
        Some(Command::Ctl { socket, request }) => {
            let socket = match socket {
                Some(socket) => socket,
                None => config::load(&arguments.config)?.control,
            };
            runtime.block_on(control(&socket, request))
        }
    }
}

async fn serve(config: config::Config) -> anyhow::Result<()> {
    let mut shutdown = daemon::Shutdown::catch().context("signals")?;
    let server = Server::bind(config).await?;
    tracing::info!(n2 = %server.address(), "ready");
    tokio::select! {
        result = server.serve() => Ok(result?),
        signal = shutdown.recv() => {
            tracing::info!(signal, "ending");
            Ok(())
        }
    }
}

async fn control(socket: &std::path::Path, request: Ctl) -> anyhow::Result<()> {
    let mut client = daemon::control::Client::connect(socket).await?;
    let trigger = |what| Request::Trigger { what };
    let request = match request {
        Ctl::Status => Request::Status,
        Ctl::Subscribers => Request::Subscribers,
        Ctl::Ues => Request::Ues,
        Ctl::Sessions => Request::Sessions,
        Ctl::Transactions { supi, clear } => Request::Transactions { supi, clear },
        Ctl::Policy { set } => Request::Policy {
            set: parse(set.as_deref(), "policy")?,
        },
        Ctl::Faults { set } => Request::Faults {
            set: parse(set.as_deref(), "faults")?,
        },
        Ctl::Deregister {
            supi,
            reregister,
            cause,
        } => trigger(Trigger::Deregister {
            supi,
            reregister,
            cause,
        }),
        Ctl::ReleaseSession { supi, session } => trigger(Trigger::ReleaseSession { supi, session }),
        Ctl::ReleaseUe { supi } => trigger(Trigger::ReleaseUe { supi }),
        Ctl::Reset => trigger(Trigger::Reset),
        Ctl::Overload { action, percent } => trigger(Trigger::Overload { action, percent }),
        Ctl::Relax => trigger(Trigger::Relax),
        Ctl::Withdraw { backup } => trigger(Trigger::Withdraw { backup }),
        Ctl::DropN2 => trigger(Trigger::DropN2),
        Ctl::Silent { silent } => {
            let mut policy: core5g::policy::Policy =
                client.call(&Request::Policy { set: None }).await?;
            policy.silent = silent;
            Request::Policy { set: Some(policy) }
        }
    };
    let answer: Value = client.call(&request).await?;
    print(&answer)
}

fn overload_action(word: &str) -> Result<OverloadAction, serde_json::Error> {
    serde_json::from_value(Value::from(word))
}

fn parse<T: serde::de::DeserializeOwned>(
    text: Option<&str>,
    what: &str,
) -> anyhow::Result<Option<T>> {
    text.map(|text| serde_json::from_str(text).with_context(|| format!("{what} as JSON")))
        .transpose()
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn print(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

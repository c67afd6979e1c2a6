//! A pair of QKD key management entities (ETSI GS QKD 014) over a simulated QKD link.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use daemon::Shutdown;
use kme::{
    Kme, NodeStatus,
    certs::{KmeName, Pki},
    config::{MetricsConfig, PairConfig, RunConfig},
    control::{self, Request},
    fault::{Fault, Kind, On},
};
use serde_json::json;
use tracing::info;

/// A pair of QKD key management entities for work without QKD hardware.
///
/// Each KME serves ETSI GS QKD 014 V1.1.1 over HTTPS with mutual TLS; the SAE ID is the CN of the
/// client certificate. Between the two, keys appear at a configurable rate and cross with a
/// configurable delay. Faults of all kinds can be switched on while they run.
#[derive(Parser)]
#[command(name = "kme", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kme certs --out certs --kme kme-a=127.0.0.1 --kme kme-b=127.0.0.1 --sae alice --sae bob
  kme pair --config pair.yaml
  curl --cacert certs/ca.pem --cert certs/alice.pem --key certs/alice.key \\
       https://127.0.0.1:8443/api/v1/keys/bob/enc_keys?number=2
  kme fault --control kme.sock --kme kme-b unavailable --on dec-keys --count 3";

#[derive(Subcommand)]
enum Command {
    /// Makes a CA (or takes the one in DIR) and certificates for KMEs and SAEs.
    Certs(Certs),
    /// Runs one KME; its other end is another process.
    Run(Run),
    /// Runs both KMEs of a pair in one process.
    Pair(Run),
    /// Shows buffer, link, counters and faults of running KMEs.
    Status(Status),
    /// Puts a fault in force, or ends all faults.
    Fault(FaultArgs),
}

#[derive(Args)]
struct Certs {
    /// Where ca.pem, ca.key, NAME.pem and NAME.key go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A KME and the addresses or host names in its certificate.
    #[arg(long = "kme", value_name = "ID[=ADDRESS,...]")]
    kmes: Vec<KmeName>,
    /// An SAE.
    #[arg(long = "sae", value_name = "ID")]
    saes: Vec<String>,
    /// For how long the certificates are valid.
    #[arg(long, default_value_t = 365)]
    days: u32,
}

#[derive(Args)]
struct Run {
    /// YAML configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Written when the servers listen and the link is up: {"ID": "https://ADDRESS:PORT", ...}.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
}

#[derive(Args)]
struct Status {
    /// The control socket of the running KME.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct FaultArgs {
    /// The control socket of the running KME.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Which KME, when the process has two.
    #[arg(long, value_name = "ID")]
    kme: Option<String>,
    /// End all faults.
    #[arg(long, conflicts_with_all = ["kind", "on", "count", "delay", "status"])]
    clear: bool,
    /// What happens.
    #[arg(value_enum, required_unless_present = "clear")]
    kind: Option<Kind>,
    /// To which requests.
    #[arg(long, value_enum, default_value_t)]
    on: On,
    /// How often; until cleared when absent.
    #[arg(long)]
    count: Option<u32>,
    /// For latency and drip: how late the answer is, or each octet.
    #[arg(long, value_parser = duration, default_value = "1s")]
    delay: Duration,
    /// For status: the HTTP status code.
    #[arg(long)]
    status: Option<u16>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Certs(args) => certs(&args),
        Command::Run(args) => {
            let config: RunConfig = daemon::config::load(&args.config)?;
            daemon::log::init(&config.log, args.log_json)?;
            let kme = Kme::start(&config.kme, &config.link, config.peer).await?;
            run(
                vec![kme],
                config.control.as_deref(),
                config.metrics,
                args.ready_file.as_deref(),
            )
            .await
        }
        Command::Pair(args) => {
            let config: PairConfig = daemon::config::load(&args.config)?;
            daemon::log::init(&config.log, args.log_json)?;
            let (a, b) = Kme::start_both(&config.a, &config.b, &config.link).await?;
            run(
                vec![a, b],
                config.control.as_deref(),
                config.metrics,
                args.ready_file.as_deref(),
            )
            .await
        }
        Command::Status(args) => {
            let kmes = control::call(&args.control, &Request::Status).await?;
            print(&kmes, args.json)
        }
        Command::Fault(args) => {
            let FaultArgs { control, kme, .. } = &args;
            let (control, kme) = (control.clone(), kme.clone());
            let request = match args.kind {
                Some(kind) => Request::Fault {
                    kme,
                    fault: Fault {
                        kind,
                        on: args.on,
                        count: args.count,
                        delay: args.delay,
                        status: args.status,
                    },
                },
                None => Request::Clear { kme },
            };
            print(&control::call(&control, &request).await?, false)
        }
    }
}

fn certs(args: &Certs) -> Result<()> {
    if args.kmes.is_empty() && args.saes.is_empty() {
        bail!("nothing to certify: give --kme or --sae");
    }
    let pki = Pki::open(&args.out, args.days)?;
    for kme in &args.kmes {
        pki.kme(kme)?;
    }
    for sae in &args.saes {
        pki.sae(sae)?;
    }
    let mut out = io::stdout().lock();
    let names = args.kmes.iter().map(|kme| &kme.id).chain(&args.saes);
    writeln!(out, "{}", pki.certificate("ca").display())?;
    for name in names {
        writeln!(
            out,
            "{} {}",
            pki.certificate(name).display(),
            pki.key(name).display()
        )?;
    }
    Ok(())
}

/// Serves until SIGTERM or SIGINT.
async fn run(
    kmes: Vec<Kme>,
    control: Option<&Path>,
    metrics: Option<MetricsConfig>,
    ready_file: Option<&Path>,
) -> Result<()> {
    let mut shutdown = Shutdown::catch()?;
    let kmes: Arc<[Kme]> = kmes.into();
    for kme in &*kmes {
        info!(kme = kme.id(), url = kme.url(), "listening");
    }
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(options) = metrics {
        let server = kme::metrics::bind(options).await?;
        info!(address = %server.address()?, "metrics");
        tasks.spawn(kme::metrics::serve(server, kmes.clone()));
    }
    if let Some(path) = control {
        let server = daemon::control::Server::bind(path).await?;
        let kmes = kmes.clone();
        tasks.spawn(server.serve(move |request: Request| {
            let answer = control::answer(&kmes, request)
                .map_err(|error| error.to_string())
                .and_then(|kmes| serde_json::to_value(kmes).map_err(|error| error.to_string()));
            std::future::ready(answer)
        }));
    }
    let ready = async {
        for kme in &*kmes {
            kme.link_up().await;
        }
        if let Some(path) = ready_file {
            let urls: serde_json::Map<String, serde_json::Value> = kmes
                .iter()
                .map(|kme| (kme.id().to_owned(), json!(kme.url())))
                .collect();
            // Renamed into place: whoever sees the file sees all of it.
            let part = path.with_extension("part");
            fs::write(&part, serde_json::to_vec(&urls)?)
                .and_then(|()| fs::rename(&part, path))
                .with_context(|| format!("ready file {}", path.display()))?;
        }
        info!("ready");
        anyhow::Ok(())
    };
    let signal = tokio::select! {
        signal = shutdown.recv() => signal,
        failed = ready => {
            failed?;
            shutdown.recv().await
        }
    };
    info!(signal, "stopping");
    if let Some(path) = ready_file {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

fn print(kmes: &[NodeStatus], json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, kmes)?;
        writeln!(out)?;
        return Ok(());
    }
    for kme in kmes {
        let count = &kme.counters;
        writeln!(
            out,
            "{}: link to {} {}, {} bits in the buffer, {} keys waiting",
            kme.id,
            kme.peer.as_deref().unwrap_or("?"),
            if kme.link_up { "up" } else { "down" },
            kme.buffer_bits,
            count.stored
        )?;
        writeln!(
            out,
            "  delivered: {} by enc_keys, {} by dec_keys; lost on the link: {}",
            count.delivered_enc, count.delivered_dec, count.lost
        )?;
        writeln!(
            out,
            "  {} requests on {} connections; 400: {}, 401: {}, 503: {}",
            count.requests,
            count.connections,
            count.bad_request,
            count.unauthorized,
            count.unavailable
        )?;
        for fault in &kme.faults {
            writeln!(out, "  fault: {}", serde_json::to_string(fault)?)?;
        }
    }
    Ok(())
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    qkd::duration::parse(text).ok_or("a whole number with a unit: 250ms, 2s")
}

//! `load`: many UEs against one N3IWF, and requests to a KME. The rig starts it where it belongs.
#![expect(clippy::print_stderr, reason = "a command-line tool")]

mod drive;
mod soak;
mod storm;
mod survive;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::records::{Record, Writer};
use clap::{Args, Parser, Subcommand};
use keys::KeyId;
use load::fleet::Fleet;
use load::ike_peer::{self, Pair};
use load::keys::{self as kme, Call, Way};
use load::wake;
use load::watch::Watch;

/// Many UEs in one process. Results are JSON lines.
#[derive(Parser)]
#[command(name = "load", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Args)]
struct Target {
    /// Configuration file of a UE: the first of them all
    #[arg(long)]
    config: PathBuf,
    /// Process of the N3IWF
    #[arg(long)]
    watch: u32,
    /// Result file
    #[arg(long)]
    output: PathBuf,
}

#[derive(Args)]
struct PairArgs {
    /// UDP address of the initiator
    #[arg(long)]
    initiator: SocketAddr,
    /// UDP address of the responder
    #[arg(long)]
    responder: SocketAddr,
    /// Name of the initiator
    #[arg(long)]
    initiator_id: String,
    /// Name of the responder
    #[arg(long)]
    responder_id: String,
    /// Shared key
    #[arg(long)]
    key: String,
    /// Suite of the IKE SA, as swanctl spells it
    #[arg(long)]
    ike: String,
    /// Suite of the Child SA, as swanctl spells it
    #[arg(long)]
    esp: String,
}

impl From<PairArgs> for Pair {
    fn from(args: PairArgs) -> Self {
        Self {
            initiator: args.initiator,
            responder: args.responder,
            initiator_id: args.initiator_id,
            responder_id: args.responder_id,
            key: args.key,
            ike: args.ike,
            esp: args.esp,
        }
    }
}

#[derive(Subcommand)]
enum What {
    /// So many attaches under way at the same time, then so many begun per second
    Rate {
        #[command(flatten)]
        target: Target,
        /// Attaches under way
        #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
        at_once: Vec<usize>,
        /// Begun per second
        #[arg(long, value_delimiter = ',')]
        offered: Vec<f64>,
        /// How long each is measured, seconds
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Repetitions of the first kind
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// UEs that stay attached
    Scale {
        #[command(flatten)]
        target: Target,
        /// Numbers of UEs at which to measure
        #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
        steps: Vec<usize>,
        /// Number of the repetition
        #[arg(long, default_value_t = 0)]
        run: usize,
    },
    /// UEs that stay attached, and all rekey at once
    Storm {
        #[command(flatten)]
        target: Target,
        /// Numbers of UEs at which to measure
        #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
        steps: Vec<usize>,
        /// How often all rekey at the largest number
        #[arg(long, default_value_t = 4)]
        rounds: usize,
    },
    /// UEs that leave and come back
    Soak {
        /// Configuration file of a UE: the first of them all
        #[arg(long)]
        config: PathBuf,
        /// How long, seconds
        #[arg(long)]
        seconds: f64,
        /// How many
        #[arg(long)]
        ues: usize,
        /// UEs that leave and come back per second
        #[arg(long)]
        per_second: f64,
        /// Result file
        #[arg(long)]
        output: PathBuf,
    },
    /// UEs that stay until their N3IWF is gone, and come back
    Survive {
        /// Configuration file of a UE: the first of them all
        #[arg(long)]
        config: PathBuf,
        /// How many
        #[arg(long)]
        ues: usize,
        /// How long it may take at most, seconds
        #[arg(long, default_value_t = 120.0)]
        seconds: f64,
        /// Result file; they leave when it is taken away
        #[arg(long)]
        output: PathBuf,
    },
    /// Attaches while keys are short
    KeyRate {
        #[command(flatten)]
        target: Target,
        /// Keys per second of the link
        #[arg(long, value_parser = above_zero)]
        keys_per_second: f64,
        /// Keys of an attach
        #[arg(long)]
        keys_per_attach: usize,
        /// How long, seconds
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// IKE alone: answers whoever knows the key
    IkeRespond {
        #[command(flatten)]
        pair: PairArgs,
    },
    /// IKE alone: setups under way against a responder
    IkeDrive {
        #[command(flatten)]
        pair: PairArgs,
        /// What the responder is called in the results
        #[arg(long)]
        name: String,
        /// Setups under way
        #[arg(long)]
        at_once: usize,
        /// How long, seconds
        #[arg(long)]
        seconds: f64,
        /// Number of the repetition
        #[arg(long)]
        run: usize,
        /// Process of the responder
        #[arg(long)]
        watch: u32,
        /// Result file
        #[arg(long)]
        output: PathBuf,
    },
    /// New keys from the N3IWF's KME; their IDs go to a file
    EncKeys {
        /// Configuration file of the N3IWF
        #[arg(long)]
        config: PathBuf,
        /// SAE ID of the UE
        #[arg(long)]
        peer: String,
        /// Requests of each kind
        #[arg(long, default_value_t = 100)]
        requests: usize,
        /// Where IDs go
        #[arg(long)]
        ids: PathBuf,
        /// Result file
        #[arg(long)]
        output: PathBuf,
    },
    /// The same keys from the UE's KME
    DecKeys {
        /// Configuration file of the UE
        #[arg(long)]
        config: PathBuf,
        /// SAE ID of the N3IWF
        #[arg(long)]
        peer: String,
        /// Requests of each kind
        #[arg(long, default_value_t = 100)]
        requests: usize,
        /// Where IDs are
        #[arg(long)]
        ids: PathBuf,
        /// Result file
        #[arg(long)]
        output: PathBuf,
    },
}

/// A rate.
fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_normal(number) && number > 0.0 => Ok(number),
        _ => Err("a number above 0 is wanted".to_owned()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Nobody else has chosen one in this process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Arguments::parse().what).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(what: What) -> Result<()> {
    match what {
        What::Rate {
            target,
            at_once,
            offered,
            seconds,
            runs,
        } => {
            let span = Duration::from_secs_f64(seconds);
            let mut writer = Writer::create(&target.output)?;
            let most = at_once.iter().copied().max().unwrap_or(1);
            // Every UE that is begun needs one that is detached.
            let needed = offered
                .iter()
                .map(|rate| drive::begun(*rate, span))
                .max()
                .unwrap_or(0);
            let mut fleet = Fleet::new(&target.config, needed.max(most))?;
            let watch = Watch::new(target.watch);
            drive::warm_up(&mut fleet).await?;
            for run in 0..runs {
                for &number in &at_once {
                    let rate = drive::closed(&mut fleet, watch, number, span, run).await?;
                    writer.write(&Record::Rate(rate))?;
                }
            }
            for &rate in &offered {
                let rate = drive::open(&mut fleet, watch, rate, span).await?;
                writer.write(&Record::Rate(rate))?;
            }
            Ok(())
        }
        What::Scale { target, steps, run } => {
            let mut writer = Writer::create(&target.output)?;
            let most = steps.iter().copied().max().unwrap_or(0);
            let mut fleet = Fleet::new(&target.config, most + drive::TIMED)?;
            drive::scale(&mut fleet, Watch::new(target.watch), &steps, run, |scale| {
                writer.write(&Record::Scale(scale))
            })
            .await
        }
        What::Storm {
            target,
            steps,
            rounds,
        } => {
            let mut writer = Writer::create(&target.output)?;
            let most = steps.iter().copied().max().unwrap_or(0);
            let mut fleet = Fleet::new(&target.config, most)?;
            storm::storms(
                &mut fleet,
                Watch::new(target.watch),
                &steps,
                rounds,
                |storm| writer.write(&Record::Storm(storm)),
            )
            .await
        }
        What::KeyRate {
            target,
            keys_per_second,
            keys_per_attach,
            seconds,
        } => {
            let mut writer = Writer::create(&target.output)?;
            let mut fleet = Fleet::new(&target.config, 64)?;
            let span = Duration::from_secs_f64(seconds);
            let rate = drive::key_rate(&mut fleet, keys_per_second, keys_per_attach, span).await?;
            writer.write(&Record::KeyRate(rate))
        }
        What::Soak {
            config,
            seconds,
            ues,
            per_second,
            output,
        } => {
            let mut fleet = Fleet::new(&config, ues)?;
            let span = Duration::from_secs_f64(seconds);
            let done = soak::soak(&mut fleet, span, per_second).await?;
            fs::write(&output, done.to_string())
                .with_context(|| format!("cannot write {}", output.display()))
        }
        What::Survive {
            config,
            ues,
            seconds,
            output,
        } => {
            let mut fleet = Fleet::persistent(&config, ues)?;
            survive::survive(&mut fleet, &output, Duration::from_secs_f64(seconds)).await
        }
        What::IkeRespond { pair } => ike_peer::respond(&pair.into()).await,
        What::IkeDrive {
            pair,
            name,
            at_once,
            seconds,
            run,
            watch,
            output,
        } => {
            let span = Duration::from_secs_f64(seconds);
            let watch = Watch::new(watch);
            let rate = ike_peer::drive(&pair.into(), &name, watch, at_once, span, run).await?;
            Writer::create(&output)?.write(&Record::Rate(rate))
        }
        What::EncKeys {
            config,
            peer,
            requests,
            ids,
            output,
        } => {
            let file = n3iwf_user::config::load(&config)?;
            let peer = peer.parse().map_err(anyhow::Error::msg)?;
            let mut writer = Writer::create(&output)?;
            let mut all = String::new();
            let qkd = file.configuration.qkd.context("the N3IWF has no KMS")?;
            for way in Way::ALL {
                for &number in way.numbers() {
                    let (keys, fetched) =
                        kme::measure(&qkd.kms, Call::Enc(&peer), way, number, requests).await?;
                    writer.write(&Record::Keys(keys))?;
                    for id in fetched {
                        all.push_str(&format!("{id}\n"));
                    }
                }
            }
            fs::write(&ids, all).with_context(|| format!("cannot write {}", ids.display()))
        }
        What::DecKeys {
            config,
            peer,
            requests,
            ids,
            output,
        } => {
            let file = ue_user::config::Config::load(&config)?;
            let peer = peer.parse().map_err(anyhow::Error::msg)?;
            let qkd = file.qkd.context("the UE has no KMS")?;
            let ids = read_ids(&ids)?;
            let mut rest = ids.as_slice();
            let mut writer = Writer::create(&output)?;
            let echo = wake::measure(requests, Way::Bare.pause())?;
            writer.write(&Record::Keys(echo))?;
            for way in Way::ALL {
                for &number in way.numbers() {
                    let (these, others) = rest.split_at_checked(number * requests).context(
                        "too few key IDs: enc-keys has to come first, with as many requests",
                    )?;
                    rest = others;
                    let call = Call::Dec(&peer, these);
                    let (keys, _) = kme::measure(&qkd.kms, call, way, number, requests).await?;
                    writer.write(&Record::Keys(keys))?;
                }
            }
            Ok(())
        }
    }
}

fn read_ids(path: &Path) -> Result<Vec<KeyId>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines().map(|line| Ok(line.parse()?)).collect()
}

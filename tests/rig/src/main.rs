//! Runs scenarios as root, in the namespaces of the machine it is started on.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ::bench::records::{Machine, Mode};
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use rig::bench::{self, AttachOptions, IkeOptions, SoakOptions};
use rig::files::{KeyMode, Profile};
use rig::report::Report;
use rig::scenarios::{self, DemoOptions, FloodOptions, Setting};
use rig::{exec, topology};

#[derive(Parser)]
#[command(
    name = "rig",
    version,
    about = "Scenarios of UE, N3IWF, QKD and 5G core in namespaces"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The demonstration
    Demo(DemoArgs),
    /// Runs scenarios by name
    Scenario(ScenarioArgs),
    /// Measurements
    Bench(BenchArgs),
    /// Lists the scenarios
    List,
    /// Takes down what `demo --keep` left up
    Down {
        /// What the namespaces' names begin with
        #[arg(default_value = "demo")]
        prefix: String,
    },
}

#[derive(Args)]
struct Common {
    /// Directory of the programs; by default the one of this program
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// The eBPF object
    #[arg(long, default_value = "/usr/lib/n3iwf/n3iwf.bpf.o")]
    bpf_object: PathBuf,
    /// Where logs, captures and report.json go
    #[arg(long, default_value = "/tmp/rig")]
    results: PathBuf,
    /// Report as JSON on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// For kernels without ESP and SCTP: a recording data plane, nothing protected
    #[arg(long)]
    recording: bool,
}

#[derive(Args)]
struct DemoArgs {
    #[command(flatten)]
    common: Common,
    /// How the keys of IKE SAs come about
    #[arg(long, value_enum, default_value_t = KeyMode::Qkd)]
    mode: KeyMode,
    /// The wire profile of the QKD mode
    #[arg(long, value_enum, default_value_t = Profile::Native)]
    profile: Profile,
    /// Keep the captures, and have tables written to open them
    #[arg(long)]
    pcap: bool,
    /// Relay between GRE and GTP-U by eBPF instead of in user space
    #[arg(long)]
    kernel_relay: bool,
    /// Leave everything up
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct BenchArgs {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Attaches of each mode in turn, and where their time went
    Attach {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        origin: Origin,
        /// The modes
        #[arg(long, value_delimiter = ',', value_parser = mode, default_value = "qkd,qkd-paper")]
        modes: Vec<Mode>,
        /// Attaches of each mode
        #[arg(long, default_value_t = 20)]
        runs: usize,
        /// Round-trip time to add on NWu, ms
        #[arg(long, default_value_t = 0.0)]
        rtt_ms: f64,
        /// To be added to each answer of the KMEs, ms
        #[arg(long, default_value_t = 0.0)]
        kms_delay_ms: f64,
        /// How much later a KME knows of the keys that the other has delivered, whole ms
        #[arg(long, default_value_t = 0)]
        kme_link_ms: u64,
    },
    /// Attaches per second
    Rate(LoadArgs),
    /// IKE alone, against strongSwan's charon
    Ike {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        origin: Origin,
        /// Root of unpacked strongSwan packages
        #[arg(long)]
        strongswan: Option<PathBuf>,
        /// Suites as IKE/ESP in swanctl's words
        #[arg(long, value_delimiter = ',', value_parser = suites)]
        suites: Vec<(String, String)>,
        /// Setups under way
        #[arg(long, value_delimiter = ',', default_value = "1,16")]
        at_once: Vec<usize>,
        /// How long each is measured, seconds
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Repetitions
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// UEs attached at the same time
    Scale(LoadArgs),
    /// Requests to the KMEs, and attaches by the key rate of the QKD link
    Qkd {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        origin: Origin,
        /// Requests of each kind
        #[arg(long, default_value_t = 100)]
        requests: usize,
        /// Keys per second of the link
        #[arg(long, value_delimiter = ',')]
        rates: Vec<u32>,
    },
    /// A known UE attaches while strangers flood the N3IWF with IKE_SA_INIT
    Flood {
        #[command(flatten)]
        common: Common,
        /// Datagrams per second
        #[arg(long, default_value_t = 50_000)]
        rate: u32,
        /// How long, seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Attaches to measure, in quiet and in the flood
        #[arg(long, default_value_t = 20)]
        attaches: u32,
        /// Let them empty the bucket of the UE's SAE ID, in place of cookies for all
        #[arg(long)]
        bucket: bool,
    },
    /// Many UEs that leave and come back: nothing grows, and all is gone at the end
    Soak {
        #[command(flatten)]
        common: Common,
        /// How long they come and go
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// How many
        #[arg(long, default_value_t = 1000)]
        ues: usize,
        /// UEs that leave and come back per second
        #[arg(long, default_value_t = 20.0)]
        per_second: f64,
    },
    /// One attach of each mode under a capture, with the keys to open it
    Frames {
        #[command(flatten)]
        common: Common,
        /// The modes
        #[arg(long, value_delimiter = ',', value_parser = mode, default_value = "qkd,qkd-paper")]
        modes: Vec<Mode>,
    },
}

#[derive(Args)]
struct LoadArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    origin: Origin,
    /// What `load` is told
    #[arg(last = true)]
    load: Vec<String>,
}

/// What the rig cannot know of what it runs.
#[derive(Args)]
struct Origin {
    /// `native` or `vm`
    #[arg(long, default_value = "native")]
    place: String,
    /// Commit of the sources
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The command that measures the same again
    #[arg(long, default_value = "rig bench")]
    again: String,
}

impl Origin {
    fn machine(&self, bench: &str, common: &Common) -> Machine {
        let plane = if common.recording {
            "recording"
        } else {
            "kernel"
        };
        Machine::here(bench, &self.place, plane, &self.commit, &self.again)
    }
}

fn suites(text: &str) -> Result<(String, String), String> {
    let (ike, esp) = text
        .split_once('/')
        .ok_or("IKE/ESP, as aes256gcm16-prfsha256-x25519/aes256gcm16")?;
    Ok((ike.to_owned(), esp.to_owned()))
}

fn mode(name: &str) -> Result<Mode, String> {
    let known = Mode::ALL.map(Mode::name).join(", ");
    Mode::of(name).ok_or_else(|| format!("one of {known}"))
}

#[derive(Args)]
struct ScenarioArgs {
    #[command(flatten)]
    common: Common,
    /// Names, see `rig list`
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All but floods (too much for an emulated processor) and `n3iwf-killed-100` (needs --recording)
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rig: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::List => {
            for scenario in scenarios::ALL {
                println!("{:<16} {}", scenario.name, scenario.about);
            }
            Ok(true)
        }
        Command::Down { prefix } => {
            topology::remove(&prefix);
            fs::remove_dir_all(format!("/run/{prefix}-files")).ok();
            fs::remove_dir_all(format!("/sys/fs/bpf/{prefix}")).ok();
            Ok(true)
        }
        Command::Demo(args) => {
            catch_signals()?;
            let setting = setting(&args.common)?;
            let options = DemoOptions {
                mode: args.mode,
                profile: args.profile,
                pcap: args.pcap,
                kernel_relay: args.kernel_relay,
                keep: args.keep,
            };
            let report = scenarios::demo(&setting, options);
            finish(&setting, &args.common, &[report])
        }
        Command::Bench(args) => {
            catch_signals()?;
            measure(args.what)
        }
        Command::Scenario(args) => {
            catch_signals()?;
            let setting = setting(&args.common)?;
            let mut chosen = Vec::new();
            for name in &args.names {
                chosen.push(scenarios::find(name).with_context(|| format!("no scenario {name}"))?);
            }
            if args.all {
                chosen = scenarios::ALL.iter().filter(|one| !one.apart()).collect();
            }
            let mut reports = Vec::new();
            for scenario in chosen {
                if !setting.quiet {
                    println!("-- {}: {}", scenario.name, scenario.about);
                }
                reports.push(scenario.run(&setting));
                exec::check_interrupt()?;
            }
            finish(&setting, &args.common, &reports)
        }
    }
}

fn measure(what: Bench) -> Result<bool> {
    match what {
        Bench::Attach {
            common,
            origin,
            modes,
            runs,
            rtt_ms,
            kms_delay_ms,
            kme_link_ms,
        } => {
            let setting = setting(&common)?;
            let options = AttachOptions {
                runs,
                modes,
                rtt: Duration::from_secs_f64(rtt_ms / 1000.0),
                kms_delay: Duration::from_secs_f64(kms_delay_ms / 1000.0),
                kme_link: Duration::from_millis(kme_link_ms),
                machine: origin.machine("attach", &common),
            };
            let report = bench::attach(&setting, &options);
            finish(&setting, &common, &[report])
        }
        Bench::Rate(LoadArgs {
            common,
            origin,
            load,
        }) => {
            let setting = setting(&common)?;
            let report = bench::rate(&setting, &origin.machine("rate", &common), &load);
            finish(&setting, &common, &[report])
        }
        Bench::Ike {
            common,
            origin,
            strongswan,
            suites,
            at_once,
            seconds,
            runs,
        } => {
            let setting = setting(&common)?;
            let options = IkeOptions {
                strongswan,
                suites,
                at_once,
                seconds,
                runs,
                machine: origin.machine("ike", &common),
            };
            let report = bench::ike(&setting, &options);
            finish(&setting, &common, &[report])
        }
        Bench::Scale(LoadArgs {
            common,
            origin,
            load,
        }) => {
            let setting = setting(&common)?;
            let report = bench::scale(&setting, &origin.machine("scale", &common), &load);
            finish(&setting, &common, &[report])
        }
        Bench::Qkd {
            common,
            origin,
            requests,
            rates,
        } => {
            let setting = setting(&common)?;
            let machine = origin.machine("qkd", &common);
            let report = bench::qkd(&setting, &machine, requests, &rates);
            finish(&setting, &common, &[report])
        }
        Bench::Flood {
            common,
            rate,
            seconds,
            attaches,
            bucket,
        } => {
            let setting = setting(&common)?;
            let options = FloodOptions {
                rate,
                time: Duration::from_secs(seconds),
                attaches,
                bucket,
            };
            let report = bench::flood(&setting, options);
            finish(&setting, &common, &[report])
        }
        Bench::Soak {
            common,
            minutes,
            ues,
            per_second,
        } => {
            let setting = setting(&common)?;
            let options = SoakOptions {
                time: Duration::from_secs_f64(minutes * 60.0),
                ues,
                per_second,
            };
            let report = bench::soak(&setting, options);
            finish(&setting, &common, &[report])
        }
        Bench::Frames { common, modes } => {
            let setting = setting(&common)?;
            let report = bench::frames(&setting, &modes);
            finish(&setting, &common, &[report])
        }
    }
}

fn setting(common: &Common) -> Result<Setting> {
    let bin_dir = match &common.bin_dir {
        Some(dir) => dir.clone(),
        None => {
            let program = std::env::current_exe()?;
            program
                .parent()
                .context("this program is nowhere")?
                .to_path_buf()
        }
    };
    for program in [
        "n3iwf-user",
        "n3iwfctl",
        "ue-user",
        "uectl",
        "kme",
        "core5g",
    ] {
        if !bin_dir.join(program).is_file() {
            bail!(
                "{program} is not in {}: `cargo xtask build`",
                bin_dir.display()
            );
        }
    }
    if !common.recording && !common.bpf_object.is_file() {
        bail!(
            "no eBPF object at {}: `cargo xtask build`",
            common.bpf_object.display()
        );
    }
    fs::create_dir_all(&common.results)?;
    Ok(Setting {
        bin_dir,
        bpf_object: common.bpf_object.clone(),
        results: common.results.clone(),
        recording: common.recording,
        quiet: common.json,
    })
}

/// Writes `report.json`, prints the sum; whether every step of every scenario held.
fn finish(setting: &Setting, common: &Common, reports: &[Report]) -> Result<bool> {
    let text = serde_json::to_string_pretty(reports)?;
    fs::write(setting.results.join("report.json"), &text)?;
    let ok = !reports.is_empty() && reports.iter().all(Report::ok);
    if common.json {
        println!("{text}");
        return Ok(ok);
    }
    let held: usize = reports.iter().map(|report| report.counts().0).sum();
    let failed: usize = reports.iter().map(|report| report.counts().1).sum();
    let seconds: f32 = reports
        .iter()
        .map(|report| report.duration().as_secs_f32())
        .sum();
    println!("\n{held} steps held, {failed} did not ({seconds:.1} s)");
    Ok(ok)
}

/// SIGTERM and SIGINT end every wait with an error, so that everything is taken down in order.
fn catch_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        exec::interrupt();
    });
    Ok(())
}

//! Runs scenarios as root, in the namespaces of the machine it is started on.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use rig::files::Profile;
use rig::report::Report;
use rig::scenarios::{self, DemoOptions, Setting};
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
    /// Many attaches in a row, and where their time went
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
    #[command(flatten)]
    common: Common,
    /// The wire profile of the QKD mode
    #[arg(long, value_enum, default_value_t = Profile::Native)]
    profile: Profile,
    /// How many attaches
    #[arg(long, default_value_t = 20)]
    attaches: usize,
}

#[derive(Args)]
struct ScenarioArgs {
    #[command(flatten)]
    common: Common,
    /// Names, see `rig list`
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All of them
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
            let setting = setting(&args.common)?;
            let report = scenarios::bench(&setting, args.profile, args.attaches);
            finish(&setting, &args.common, &[report])
        }
        Command::Scenario(args) => {
            catch_signals()?;
            let setting = setting(&args.common)?;
            let mut chosen = Vec::new();
            for name in &args.names {
                chosen.push(scenarios::find(name).with_context(|| format!("no scenario {name}"))?);
            }
            if args.all {
                chosen = scenarios::ALL.iter().collect();
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

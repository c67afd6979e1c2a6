//! The command line.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::vm::{self, Job, Mode, kernel};
use crate::{artifacts, bench, compiler, demo, fuzz, interop, load, setup, sim, test};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Every chore of the project behind one door"
)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check what this host lacks for the other chores, and install it
    Setup(SetupArgs),
    /// Build the programs and the eBPF object
    Build(BuildArgs),
    /// Every test there is: on this host and in the virtual machine
    Test(test::TestArgs),
    /// The whole thing in one command: attach, traffic, counters, detach
    Demo(demo::DemoArgs),
    /// The IKEv2 engine against strongSwan: a matrix of what was run
    Interop(interop::InteropArgs),
    /// Many attaches in a row, and where their time went
    Bench(bench::BenchArgs),
    /// Many UEs that leave and come back for so many minutes: nothing grows, and all is gone at the end
    Soak(bench::SoakArgs),
    /// Every fuzz target for its share of the time
    Fuzz(fuzz::FuzzArgs),
    /// The control plane in virtual time, with seeded faults
    Sim(sim::SimArgs),
    /// Attach the eBPF programs to an interface, or take them off
    BuildAndLoad(load::LoadArgs),
    /// A shell, a command or a test in a virtual machine with every kernel feature
    Vm(VmArgs),
}

#[derive(Args)]
struct SetupArgs {
    /// Install without asking (needs root for Debian packages)
    #[arg(long, short)]
    yes: bool,
    /// Also what only `.ci/run` needs
    #[arg(long)]
    ci: bool,
}

#[derive(Args)]
struct BuildArgs {
    /// Only the eBPF object
    #[arg(long)]
    ebpf: bool,
    /// Only the programs
    #[arg(long, conflicts_with = "ebpf")]
    programs: bool,
}

#[derive(Args)]
struct VmArgs {
    /// The kernel to boot
    #[arg(long, value_enum, default_value_t = kernel::Line::V6_12)]
    kernel: kernel::Line,
    /// A test target to build and run there (repeatable): PACKAGE:TEST, PACKAGE:lib
    #[arg(long, value_name = "PACKAGE:TEST")]
    test: Vec<vm::tests::Target>,
    /// Take a file of the host along (repeatable): HOST-PATH:GUEST-PATH
    #[arg(long, value_name = "HOST:GUEST")]
    copy: Vec<String>,
    /// Directory for what the command leaves in /results
    #[arg(long, value_name = "DIR")]
    results: Option<std::path::PathBuf>,
    /// Kill the machine after this many seconds
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// A shell in the machine that `demo --keep` left up
    #[arg(long, conflicts_with_all = ["test", "command", "stop"])]
    attach: bool,
    /// Switch that machine off
    #[arg(long, conflicts_with_all = ["test", "command"])]
    stop: bool,
    /// The command and its arguments (with --test: arguments for the tests)
    #[arg(last = true)]
    command: Vec<String>,
}

/// Does what the command line says.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().chore {
        Chore::Setup(args) => {
            let consent = if args.yes {
                setup::Consent::Yes
            } else {
                setup::Consent::Ask
            };
            setup::run(consent, args.ci)?;
            Ok(ExitCode::SUCCESS)
        }
        Chore::Build(args) => {
            if !args.ebpf {
                artifacts::build_programs()?;
            }
            if !args.programs {
                let object = compiler::build_object()?;
                eprintln!("  {}", object.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Chore::Test(args) => test::run(&args),
        Chore::Demo(args) => demo::run(&args),
        Chore::Interop(args) => interop::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Soak(args) => bench::soak(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Sim(args) => sim::run(&args),
        Chore::BuildAndLoad(args) => load::run(&args),
        Chore::Vm(args) => machine(args),
    }
}

fn machine(args: VmArgs) -> Result<ExitCode> {
    if args.attach {
        vm::kept::attach()?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.stop {
        vm::kept::stop()?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.test.is_empty() {
        let outcome = vm::tests::run(args.kernel, &args.test, &args.command, vm::Echo::Show)?;
        return Ok(ExitCode::from(outcome.code));
    }
    let mut job = Job::command(args.kernel, args.command);
    artifacts::take_along(&mut job.payload)?;
    for pair in &args.copy {
        match pair.split_once(':') {
            Some((host, guest)) if guest.starts_with('/') => {
                job.payload.add(guest, std::path::Path::new(host))?;
            }
            _ => bail!("--copy wants HOST-PATH:/GUEST-PATH, not {pair:?}"),
        }
    }
    job.env = vm::tests::environment();
    job.results = args.results;
    job.timeout = Duration::from_secs(args.timeout);
    if job.command.is_empty() {
        job.mode = Mode::Interactive;
        job.timeout = Duration::from_secs(24 * 3600);
        eprintln!("  a root shell in the virtual machine; `exit` switches it off");
    }
    Ok(ExitCode::from(vm::run(&job)?.code))
}

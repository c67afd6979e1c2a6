//! `cargo xtask test`: every test there is, in stages, with one count at the
//! end.

pub(crate) mod outcome;
mod scenarios;

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::vm::tests::Target;
use crate::vm::{self, kernel};
use crate::{artifacts, compiler, interop, paths};
use outcome::{Counts, Reader};

/// Tests that run on the host, and whose outcome may depend on the kernel.
const ALSO_IN_VM: &[(&str, &str)] = &[
    ("n2", "lib"),
    ("dataplane", "bpf_native"),
    ("dataplane", "init_limit"),
    ("dataplane", "relay_programs"),
    ("dataplane", "relay_sessions"),
    ("dataplane", "relay_programs6"),
    ("dataplane", "relay_ipv6"),
    ("dataplane", "ue_programs"),
    ("dataplane", "ue_programs6"),
];
/// Integration tests with this ending run on the kernels of the virtual
/// machine; where the host lacks something they skip there.
const KERNEL_TEST: &str = "_kernel";

#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Leave out the stages that need a virtual machine (refused when CI is set)
    #[arg(long)]
    no_vm: bool,
    /// Only the stages that need a virtual machine
    #[arg(long, conflicts_with = "no_vm")]
    only_vm: bool,
}

/// Runs all stages; a stage that fails does not keep the next from running.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    if args.no_vm && std::env::var_os("CI").is_some() {
        bail!("CI is set: the stages in the virtual machine cannot be left out");
    }
    let mut total = Counts::default();
    let mut built = Ok(());
    total.add(stage("build: tests, programs and eBPF object", || {
        built = artifacts::build_tests().and_then(|()| compiler::build_object().map(drop));
        match &built {
            Ok(()) => Ok(Counts::default()),
            Err(error) => bail!("{error:#}"),
        }
    }));
    if !args.only_vm {
        total.add(stage(
            "unit, vector, pair and namespace tests on this host",
            on_host,
        ));
        total.add(stage(
            "attach with the recording data plane on this host",
            scenarios::natively,
        ));
        total.add(stage("strongSwan on this host", || interop::as_test(None)));
    }
    if args.no_vm {
        println!("\n== virtual machine: left out as asked for");
        total.skipped += 1;
        total
            .reasons
            .push("every stage in the virtual machine: --no-vm".to_owned());
    } else {
        total.add(in_machines());
    }
    if !total.reasons.is_empty() {
        println!("\nskipped, and why:");
        for reason in &total.reasons {
            println!("  {reason}");
        }
    }
    if !total.failures.is_empty() {
        println!("\nfailed:");
        for failure in &total.failures {
            println!("  {failure}");
        }
    }
    println!("{total}");
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One stage: its title, what it shows, its count.
fn stage(title: &str, work: impl FnOnce() -> Result<Counts>) -> Counts {
    println!("\n== {title}");
    let counts = work().unwrap_or_else(|error| {
        println!("{error:#}");
        // A stage that could not even run is a failure, not a blank.
        let causes: Vec<String> = error
            .chain()
            .map(|cause| {
                cause
                    .to_string()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect();
        Counts::failure(causes.join(": "))
    });
    println!("-- {title}: {counts}");
    counts.in_stage(title)
}

/// The stages in virtual machines, two machines at a time: an emulated one uses one processor.
fn in_machines() -> Counts {
    let kernels = || {
        let mut counts = Counts::default();
        for line in [kernel::Line::V6_12, kernel::Line::V6_1] {
            counts.add(stage(&format!("kernel tests on Linux {line}"), || {
                in_vm(line)
            }));
        }
        counts.add(stage("strongSwan on Linux 6.12, with packets", || {
            interop::as_test(Some(kernel::Line::V6_12))
        }));
        counts.add(stage("attach on Linux 6.1", || {
            scenarios::run(kernel::Line::V6_1, &["attach"])
        }));
        counts
    };
    let whole = || {
        let mut counts = stage("end-to-end scenarios on Linux 6.12", || {
            scenarios::run(kernel::Line::V6_12, &["--all"])
        });
        counts.add(stage(
            "captures of each key mode, dissected",
            scenarios::captures,
        ));
        counts
    };
    std::thread::scope(|scope| {
        let kernels = scope.spawn(kernels);
        let mut counts = whole();
        counts.add(kernels.join().unwrap_or_else(|_| {
            Counts::failure("the stages of the kernel tests panicked".to_owned())
        }));
        counts
    })
}

/// `cargo test --workspace`, with what matters of its output.
fn on_host() -> Result<Counts> {
    let (reader, writer) = std::io::pipe()?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--color=never",
            "--",
            "--show-output",
        ])
        .env("N3IWF_BPF_OBJECT", paths::bpf_object())
        .env("N3IWF_BIN_DIR", artifacts::directory())
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = cargo.spawn().context("cannot start cargo")?;
    // The command holds the writing ends; they must go for the reader to end.
    drop(cargo);
    let mut summary = Reader::default();
    for line in BufReader::new(reader).lines() {
        for shown in summary.line(&line?) {
            println!("{shown}");
        }
    }
    let status = child.wait()?;
    let mut counts = summary.finish();
    if !status.success() && counts.failed == 0 {
        counts.fail(format!(
            "cargo test failed ({status}) without a failed test: it did not build"
        ));
    }
    Ok(counts)
}

/// The kernel tests of all packages, on a kernel of the virtual machine.
fn in_vm(line: kernel::Line) -> Result<Counts> {
    let targets = kernel_tests()?;
    let outcome = vm::tests::run(
        line,
        &targets,
        &["--show-output".to_owned()],
        vm::Echo::Quiet,
    )?;
    let mut reader = Reader::default();
    for line in outcome.stdout.lines() {
        for shown in reader.line(line) {
            println!("{shown}");
        }
    }
    let mut counts = reader.finish();
    if outcome.code != 0 && counts.failed == 0 {
        println!("{}{}", outcome.stdout, outcome.stderr);
        bail!(
            "the tests ended with exit code {} and no failed test",
            outcome.code
        );
    }
    if counts.passed == 0 && counts.failed == 0 {
        bail!("no test ran");
    }
    counts.reasons = counts
        .reasons
        .iter()
        .map(|r| format!("Linux {line}: {r}"))
        .collect();
    Ok(counts)
}

fn kernel_tests() -> Result<Vec<Target>> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        targets: Vec<PackageTarget>,
    }
    #[derive(serde::Deserialize)]
    struct PackageTarget {
        name: String,
        kind: Vec<String>,
    }
    let text = crate::proc::output(Command::new("cargo").current_dir(paths::root()).args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let mut targets: Vec<Target> = ALSO_IN_VM
        .iter()
        .map(|(package, test)| Target {
            package: (*package).to_owned(),
            test: (*test).to_owned(),
        })
        .collect();
    for package in metadata.packages {
        for target in package.targets {
            if target.kind.iter().any(|kind| kind == "test") && target.name.ends_with(KERNEL_TEST) {
                targets.push(Target {
                    package: package.name.clone(),
                    test: target.name,
                });
            }
        }
    }
    Ok(targets)
}

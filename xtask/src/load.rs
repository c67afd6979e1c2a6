//! `cargo xtask build-and-load --iface IF`: the eBPF programs on an interface
//! of one's own, counters pinned, without any daemon.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{compiler, paths, proc, setup};

/// Programs of the object: section name and where each is attached.
const PROGRAMS: &[(&str, &str)] = &[("nwu_ingress", "ingress"), ("nwu_egress", "egress")];

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// The interface
    #[arg(long, value_name = "IF")]
    iface: String,
    /// Detach and remove the pins
    #[arg(long)]
    unload: bool,
}

/// Builds, attaches and pins; or takes all of it away.
pub(crate) fn run(args: &LoadArgs) -> Result<ExitCode> {
    if !setup::is_root()? {
        bail!("attaching eBPF programs needs root");
    }
    if !Path::new("/sys/class/net").join(&args.iface).exists() {
        bail!("there is no interface {}", args.iface);
    }
    let pins = Path::new("/sys/fs/bpf").join(format!("n3iwf-{}", args.iface));
    if args.unload {
        unload(&args.iface, &pins)?;
        eprintln!("{}: detached, pins removed", args.iface);
        return Ok(ExitCode::SUCCESS);
    }
    let object = compiler::build_object()?;
    unload(&args.iface, &pins)?;
    load(&args.iface, &object, &pins)
        .inspect_err(|_| drop(unload(&args.iface, &pins)))
        .with_context(|| format!("cannot load {}", object.display()))?;
    let pins = pins.display();
    println!(
        "{iface}: attached, pinned below {pins}\n\
         look:   bpftool prog show pinned {pins}/programs/nwu_ingress\n\
         count:  bpftool map dump pinned {pins}/maps/nwu_classes\n\
         hooks:  tc filter show dev {iface} ingress\n\
         remove: cargo xtask build-and-load --iface {iface} --unload",
        iface = args.iface,
    );
    Ok(ExitCode::SUCCESS)
}

fn bpftool() -> Result<Command> {
    Ok(Command::new(
        paths::which("bpftool").context("bpftool is missing: `cargo xtask setup`")?,
    ))
}

fn tc() -> Result<Command> {
    Ok(Command::new(
        paths::which("tc").context("tc is missing: `cargo xtask setup`")?,
    ))
}

/// Preference of our filters: what tells them from those of others.
const PREFERENCE: &str = "20019";

/// clsact rather than tcx: it is on every kernel the project supports, and
/// `tc` shows it.
fn load(iface: &str, object: &Path, pins: &Path) -> Result<()> {
    let (programs, maps) = (pins.join("programs"), pins.join("maps"));
    std::fs::create_dir_all(pins).context("is a BPF file system mounted at /sys/fs/bpf?")?;
    proc::output(
        bpftool()?
            .args(["prog", "loadall"])
            .arg(object)
            .arg(&programs)
            .args(["type", "classifier", "pinmaps"])
            .arg(&maps),
    )?;
    if !has_clsact(iface)? {
        proc::output(tc()?.args(["qdisc", "add", "dev", iface, "clsact"]))?;
    }
    for (program, hook) in PROGRAMS {
        proc::output(
            tc()?
                .args([
                    "filter",
                    "add",
                    "dev",
                    iface,
                    hook,
                    "bpf",
                    "direct-action",
                    "pinned",
                ])
                .arg(programs.join(program)),
        )?;
    }
    Ok(())
}

/// Takes off our filters, the qdisc when nobody else has a filter there, and
/// the pins.
fn unload(iface: &str, pins: &Path) -> Result<()> {
    let mut others = false;
    for (_, hook) in PROGRAMS {
        if !has_clsact(iface)? {
            break;
        }
        // Fails when there is none of ours, which is what is wanted.
        drop(proc::output(tc()?.args([
            "filter", "del", "dev", iface, hook, "pref", PREFERENCE,
        ])));
        let left = proc::output(tc()?.args(["filter", "show", "dev", iface, hook]))?;
        others |= !left.trim().is_empty();
    }
    if has_clsact(iface)? && !others {
        proc::output(tc()?.args(["qdisc", "del", "dev", iface, "clsact"]))?;
    }
    if pins.exists() {
        std::fs::remove_dir_all(pins)
            .with_context(|| format!("cannot remove {}", pins.display()))?;
    }
    Ok(())
}

fn has_clsact(iface: &str) -> Result<bool> {
    let list = proc::output(tc()?.args(["qdisc", "show", "dev", iface]))?;
    Ok(list.lines().any(|line| line.contains("clsact")))
}

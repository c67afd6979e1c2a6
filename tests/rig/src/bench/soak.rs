//! Many UEs that leave and come back for a long time: what the N3IWF holds must not grow, and be gone at the end.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::load::{self, KEYS};
use crate::account::KeyAccount;
use crate::checks::{self, Snapshot};
use crate::control::{self, number};
use crate::kernel;
use crate::report::{Finding, Report};
use crate::scenarios::Setting;
use crate::topology::Place;
use crate::world::{Role, World};
use crate::{exec, steps};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// Looks at the whole population that are needed to tell growth from chance.
const ENOUGH: usize = 9;
/// Memory of the last third above that of the first: percent, and KiB.
const GROWTH: (u64, u64) = (5, 4096);
/// Open files of the last third above those of the first: connections to the KME come and go.
const FILES: u64 = 16;
/// How long connections to a KME may outlive their use.
const IDLE: Duration = Duration::from_secs(40);

/// How hard, and how long.
#[derive(Clone, Copy, Debug)]
pub struct SoakOptions {
    /// How long UEs come and go.
    pub time: Duration,
    /// How many there are.
    pub ues: usize,
    /// UEs that leave and come back per second.
    pub per_second: f64,
}

/// One look at the N3IWF.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    seconds: f64,
    ues: u64,
    ike_sas: u64,
    addresses: u64,
    /// Anonymous memory, KiB.
    memory: u64,
    files: u64,
    threads: u64,
    /// XFRM states and policies, interfaces, and entries of the map of SAs.
    kernel: [usize; 4],
    fetched: u64,
    used: u64,
    lost: u64,
    held: u64,
}

/// What the driver did.
#[derive(Debug, Deserialize)]
struct Driven {
    attaches: u64,
    failed: u64,
    detaches: u64,
}

/// Attaches and detaches for as long as asked for; `soak.jsonl` has what was seen.
#[must_use]
pub fn soak(setting: &Setting, options: SoakOptions) -> Report {
    let mut report = setting.report("soak");
    // A failed step has said why.
    let _ = run(&mut report, setting, options);
    report
}

fn run(report: &mut Report, setting: &Setting, options: SoakOptions) -> Option<()> {
    let mut world = report.step_with("everything but the UEs is up", || {
        Ok((Finding::default(), load::build(setting, None, options.ues)?))
    })?;
    let world = &mut world;
    let pid = report.step_with("the N3IWF runs", || {
        let pid = world.process(Role::N3iwf)?.id();
        Ok((Finding::new(format!("process {pid}")), pid))
    })?;
    let (before, first) = report.step_with("a look before", || {
        let first = look(world, pid, Instant::now())?;
        let told = format!("{} KiB, {} open files", first.memory, first.files);
        Ok((Finding::new(told), (Snapshot::take(world)?, first)))
    })?;
    let (samples, driven) = report.step_with("UEs come and go", || {
        let (samples, driven) = drive(setting, world, pid, options)?;
        let told = format!(
            "{} attaches, {} failed, {} detaches; {} looks",
            driven.attaches,
            driven.failed,
            driven.detaches,
            samples.len()
        );
        Ok((Finding::new(told), (samples, driven)))
    })?;
    report.step("attaches succeed", || {
        let wanted = u64::try_from(options.ues)?;
        ensure!(driven.attaches > wanted, "nobody came back");
        // A busy host may let a timer run out.
        ensure!(
            driven.failed * 100 <= driven.attaches,
            "more than 1 % failed"
        );
        Ok(Finding::default())
    })?;
    report.step("nothing grows", || flat(&samples, options.ues))?;
    report.step("nothing of the UEs is left", || {
        steps::forgotten(world, Duration::from_secs(60))?;
        checks::nothing_left(world, &before)?;
        let mut last = first.clone();
        let waited = exec::wait_for("files closed", IDLE, || {
            last = look(world, pid, Instant::now())?;
            Ok((last.files <= first.files && last.kernel == first.kernel).then_some(()))
        });
        if waited.is_err() {
            bail!("before: {first:?}; now: {last:?}");
        }
        Ok(Finding::new(format!(
            "{} KiB, {} open files",
            last.memory, last.files
        )))
    })?;
    report.step("every key is accounted for", || {
        let account = KeyAccount::of(world, Role::N3iwf)?;
        ensure!(account.held == 0, "{account}");
        ensure!(account.fetched == account.used + account.lost, "{account}");
        let keys = u64::try_from(KEYS)?;
        let attached = driven.attaches - driven.failed;
        ensure!(account.used >= attached * keys, "{account}");
        ensure!(account.lost <= driven.failed * keys, "{account}");
        Ok(Finding::new(account.to_string()))
    })?;
    report.step("the daemons end", || {
        super::attach::stop(world)?;
        Ok(Finding::default())
    })
}

fn drive(
    setting: &Setting,
    world: &World,
    pid: u32,
    options: SoakOptions,
) -> Result<(Vec<Sample>, Driven)> {
    let output = setting.results.join("soak.driver.json");
    let config = world.config(Role::Ue);
    let words = [
        "soak".to_owned(),
        format!("--config={}", config.display()),
        format!("--seconds={}", options.time.as_secs()),
        format!("--ues={}", options.ues),
        format!("--per-second={}", options.per_second),
        format!("--output={}", output.display()),
    ];
    let place = setting.results.join("soak.jsonl");
    let mut file =
        fs::File::create(&place).with_context(|| format!("cannot write {}", place.display()))?;
    let begun = Instant::now();
    let mut next = begun;
    let mut samples = Vec::new();
    load::run_beside(world, Place::Ue, &words, || {
        if Instant::now() < next {
            return Ok(());
        }
        next = Instant::now() + PERIOD;
        let sample = look(world, pid, begun)?;
        writeln!(file, "{}", serde_json::to_string(&sample)?)?;
        samples.push(sample);
        Ok(())
    })?;
    let driven = serde_json::from_str(&fs::read_to_string(&output)?)?;
    Ok((samples, driven))
}

fn look(world: &World, pid: u32, begun: Instant) -> Result<Sample> {
    let status = control::n3iwf(world, "status")?;
    let account = KeyAccount::of(world, Role::N3iwf)?;
    // All of one moment, which fetched = used + lost + held shows.
    let sum = account.used + account.lost + account.held;
    ensure!(account.fetched == sum, "{account}");
    let netns = world.netns(Place::N3iwf)?;
    let pins = world.pins();
    let entries = match pins.exists() {
        true => kernel::sa_places(&pins)?.0.len(),
        false => 0,
    };
    Ok(Sample {
        seconds: begun.elapsed().as_secs_f64(),
        ues: number(&status, "/ues")?,
        ike_sas: number(&status, "/ike_sas")?,
        addresses: number(&status, "/addresses_taken")?,
        memory: memory(pid)?,
        files: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        threads: fs::read_dir(format!("/proc/{pid}/task"))?.count() as u64,
        kernel: [
            kernel::xfrm_states(netns)?.0.len(),
            kernel::xfrm_policies(netns)?,
            netns.interfaces()?.len(),
            entries,
        ],
        fetched: account.fetched,
        used: account.used,
        lost: account.lost,
        held: account.held,
    })
}

/// Anonymous memory in KiB: what the process has allocated and touched.
fn memory(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.context("no anonymous memory")?.parse()?)
}

/// Compares the last third of the looks at the whole population with the first.
fn flat(samples: &[Sample], ues: usize) -> Result<Finding> {
    let most = u64::try_from(ues)? * 9 / 10;
    // It begins with the first look at most of the UEs, and ends with the last.
    let full: Vec<&Sample> = samples.iter().filter(|s| s.ues >= most).collect();
    ensure!(
        full.len() >= ENOUGH,
        "{} looks at {most} UEs or more, {ENOUGH} are needed: more minutes, or fewer UEs",
        full.len()
    );
    let third = full.len() / 3;
    let first: Vec<&Sample> = full.iter().copied().take(third).collect();
    let last: Vec<&Sample> = full.iter().copied().rev().take(third).collect();
    let median = |part: &[&Sample]| {
        let mut all: Vec<u64> = part.iter().map(|sample| sample.memory).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let (then, now) = (median(&first), median(&last));
    let told = format!("memory {then} KiB, then {now} KiB");
    ensure!(now <= then + then * GROWTH.0 / 100 + GROWTH.1, "{told}");
    let peak = |part: &[&Sample], of: fn(&Sample) -> u64| {
        part.iter()
            .map(|sample| of(sample))
            .max()
            .unwrap_or_default()
    };
    for (what, of, more) in [
        ("open files", (|s| s.files) as fn(&Sample) -> u64, FILES),
        ("threads", |s| s.threads, 0),
        ("IKE SAs", |s| s.ike_sas, most / 9),
        ("inner addresses", |s| s.addresses, most / 9),
        ("XFRM states", |s| s.kernel[0] as u64, 0),
        ("XFRM policies", |s| s.kernel[1] as u64, 0),
        ("interfaces", |s| s.kernel[2] as u64, 0),
        ("entries of the map of SAs", |s| s.kernel[3] as u64, 0),
    ] {
        let (then, now) = (peak(&first, of), peak(&last, of));
        ensure!(now <= then + more, "{what}: {then}, then {now}");
    }
    Ok(Finding::new(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(change: impl Fn(u64, &mut Sample)) -> Vec<Sample> {
        let sample = |at| {
            let mut sample = Sample {
                seconds: 0.0,
                ues: 1000,
                ike_sas: 1000,
                addresses: 1000,
                memory: 100_000,
                files: 1100,
                threads: 5,
                kernel: [0, 0, 3, 0],
                fetched: 7,
                used: 7,
                lost: 0,
                held: 0,
            };
            change(at, &mut sample);
            sample
        };
        (0..30).map(sample).collect()
    }

    #[test]
    fn growth_is_seen_and_chance_is_not() {
        assert!(flat(&samples(|at, s| s.memory += at % 3 * 500), 1000).is_ok());
        assert!(flat(&samples(|at, s| s.memory += at * 1000), 1000).is_err());
        assert!(flat(&samples(|at, s| s.files += at), 1000).is_err());
        assert!(flat(&samples(|at, s| s.kernel[2] += usize::from(at > 15)), 1000).is_err());
        assert!(flat(&samples(|at, s| s.ues = at), 1000).is_err(), "nobody");
    }
}

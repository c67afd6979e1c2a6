//! A known UE attaches while strangers flood the N3IWF.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::faults::{clean_slate, nothing_stays};
use crate::account::KeyAccount;
use crate::control::{self, number, text};
use crate::exec;
use crate::flood::{self, Sent};
use crate::report::{Finding, Report};
use crate::steps;
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// QKD keys of an attach.
const KEYS: u64 = 7;
/// What the bucket that is emptied lets through after a cookie.
const HARD: u64 = 1;
/// What the N3IWF may grow by under any flood: socket buffers and queues, and nothing per sender.
const GROWTH: u64 = 64 << 20;

/// How to flood.
#[derive(Clone, Copy, Debug)]
pub struct FloodOptions {
    /// Datagrams per second.
    pub rate: u32,
    /// For how long.
    pub time: Duration,
    /// Attaches to measure, quiet and flooded.
    pub attaches: u32,
    /// Whether strangers find a bucket to empty, and are asked for cookies only then.
    pub bucket: bool,
}

impl FloodOptions {
    /// Attaches that the bucket lets through: the UE's own bucket is as large, and has to do for all of its attaches.
    const fn burst(&self) -> u64 {
        self.attaches as u64 * 2 + 6
    }
}

/// As an ordinary test: short, and at a rate that a busy machine has.
pub(super) fn flood(report: &mut Report, world: &mut World) -> Option<()> {
    let options = FloodOptions {
        rate: 2000,
        time: Duration::from_secs(3),
        attaches: 1,
        bucket: false,
    };
    run(report, world, options)
}

/// The same against a bucket that the flood empties: the UE, which it has seen before, has one of its own.
pub(super) fn bucket(report: &mut Report, world: &mut World) -> Option<()> {
    let options = FloodOptions {
        rate: 2000,
        time: Duration::from_secs(3),
        attaches: 1,
        bucket: true,
    };
    run(report, world, options)
}

/// The same at any rate, for as long as wished.
pub fn run(report: &mut Report, world: &mut World, options: FloodOptions) -> Option<()> {
    let before = clean_slate(report, world)?;
    let burst = options.burst();
    let policy = match options.bucket {
        false => "every sender is asked for a cookie",
        true => "an SAE ID has a small bucket",
    };
    report.step(policy, || {
        world.reconfigure(Role::N3iwf, |text| match options.bucket {
            false => text.replace("when: threshold", "when: always"),
            true => {
                let bucket = format!("bucket: {{ perMinute: 1, burst: {burst}, hard: {HARD} }}");
                text.replace("  qkd:\n", &format!("  qkd:\n    {bucket}\n"))
            }
        })?;
        // Answers to the flood have somewhere to go, and nobody there.
        world.netns(Place::N3iwf)?.ip(&[
            "route",
            "add",
            flood::SOURCES,
            "via",
            topology::UE_NWU,
        ])?;
        Ok(Finding::new(match options.bucket {
            false => "ike.cookie.when: always".to_owned(),
            true => format!("{burst} attaches, {HARD} more after a cookie, 1 per minute"),
        }))
    })?;
    steps::bring_up(report, world)?;
    let quiet = report.step_with("attaches in quiet", || {
        steps::attach(world)?;
        let times = attaches(world, options.attaches)?;
        Ok((Finding::new(shown(&times)), times))
    })?;
    let fetched = KeyAccount::of(world, Role::N3iwf).ok()?.fetched;
    report.step("attaches in the flood", || {
        let pid = world.process(Role::N3iwf)?.id();
        let memory = resident(pid)?;
        let (sent, times, most, cpu) = flooded(world, pid, options)?;
        let account = KeyAccount::of(world, Role::N3iwf)?;
        let own = KEYS * u64::try_from(times.len())?;
        let cost = account.fetched.saturating_sub(fetched + own);
        if account.fetched < fetched + own {
            bail!("{account}: {fetched} before, {own} for the attaches");
        }
        // What the bucket holds, and what comes back to it meanwhile; the first attach has taken one of them.
        let allowed = match options.bucket {
            false => 0..=0,
            true => KEYS * (burst - 2)..=KEYS * (burst + options.time.as_secs().div_ceil(60)),
        };
        if !allowed.contains(&cost) {
            bail!("{account}: the flood has cost {cost} keys, {allowed:?} are meant to be");
        }
        if most > memory + GROWTH {
            bail!("resident memory went from {memory} to {most} octets");
        }
        let status = control::n3iwf(world, "status")?;
        let sas = number(&status, "/ike_sas")?;
        if sas > 1 + cost / KEYS {
            bail!("{sas} IKE SAs: the flood has left state");
        }
        if sent.datagrams < u64::from(options.rate) {
            bail!("only {} datagrams were sent", sent.datagrams);
        }
        Ok(Finding::new(format!(
            "{} of {} quiet; {} datagrams ({} not taken) and {cost} keys; memory {} -> {} KiB; \
             {:.2} processors",
            shown(&times),
            shown(&quiet),
            sent.datagrams,
            sent.refused,
            memory >> 10,
            most >> 10,
            cpu
        )))
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    report.step("the route back is gone", || {
        world
            .netns(Place::N3iwf)?
            .ip(&["route", "delete", flood::SOURCES])?;
        Ok(Finding::default())
    })?;
    nothing_stays(report, world, &before)
}

/// What was sent, the times of attaches meanwhile, the most memory, and processors in use.
fn flooded(
    world: &mut World,
    pid: u32,
    options: FloodOptions,
) -> Result<(Sent, Vec<Duration>, u64, f64)> {
    let netns = world.netns(Place::Ue)?.handle();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| flood::run(&netns, options.rate, &stop));
        let (begun, busy) = (Instant::now(), processor(pid)?);
        let mut measured = attaches(world, options.attaches);
        let mut most = resident(pid)?;
        while measured.is_ok() && begun.elapsed() < options.time && !sender.is_finished() {
            most = most.max(resident(pid)?);
            if let Err(error) = exec::check_interrupt() {
                measured = Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let used = processor(pid)?.saturating_sub(busy);
        let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let sent = sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))??;
        Ok((sent, measured?, most, share))
    })
}

/// Deregisters the UE and attaches it again, so many times; how long each attach took, to the end
/// of the PDU session's establishment.
fn attaches(world: &mut World, number: u32) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..number {
        control::ue(world, "deregister")?;
        exec::wait_for("deregistration", steps::ATTACH, || {
            let status = control::ue(world, "status")?;
            Ok((text(&status, "/state") == "detached").then_some(()))
        })?;
        let begun = Instant::now();
        control::ue(world, "attach")?;
        steps::wait_attached(world, steps::ATTACH)?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

fn shown(times: &[Duration]) -> String {
    let mut ms: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    ms.sort_unstable();
    let median = ms.get(ms.len() / 2).copied().unwrap_or_default();
    format!("attach {median} ms (median of {})", ms.len())
}

/// Resident memory, octets.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? << 10)
}

/// Processor time so far.
fn processor(pid: u32) -> Result<Duration> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    let clock = nix::time::clock_getcpuclockid(pid)?;
    Ok(nix::time::clock_gettime(clock)?.into())
}

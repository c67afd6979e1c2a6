//! The N3IWF is killed under many UEs, which come back by themselves.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::account::{self, KeyAccount};
use crate::bench::attach;
use crate::bench::load::{self, KEYS};
use crate::checks::{self, Snapshot};
use crate::control::{self, number};
use crate::process::{Process, Spec};
use crate::report::{Finding, Report};
use crate::topology::Place;
use crate::world::{Role, World};
use crate::{exec, steps};

/// How many.
const UES: usize = 100;
/// How long after the start of the N3IWF the last of them may be back.
const BACK: u64 = 5000;
/// How long the N3IWF is away: as with a supervisor that starts it at once, and with one that waits.
const AWAY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3)];
/// How long anything may take until it has failed.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn n3iwf_killed(report: &mut Report, world: &mut World) -> Option<()> {
    let before = report.step_with("everything but the UEs is up", || {
        load::prepare(world, None, UES)?;
        world.reconfigure(Role::Ue, |text| {
            // As UEs have it: under load they are not asked whether they live.
            text.replace("dpdInterval: 0s", "dpdInterval: 10s")
        })?;
        Ok((Finding::default(), Snapshot::take(world)?))
    })?;
    for away in AWAY {
        round(report, world, away)?;
    }
    report.step("nothing of the UEs is left", || {
        steps::forgotten(world, Duration::from_secs(60))?;
        checks::nothing_left(world, &before)?;
        let account = exact(world)?;
        ensure!(account.held == 0, "{account}");
        Ok(Finding::new(account.to_string()))
    })?;
    report.step("the daemons end", || {
        attach::stop(world)?;
        Ok(Finding::default())
    })
}

fn round(report: &mut Report, world: &mut World, away: Duration) -> Option<()> {
    let output = world.options().logs.join("survive.json");
    let mut fleet = report.step_with(&format!("{UES} UEs attach"), || {
        fs::remove_file(&output).ok();
        let mut fleet = start(world, &output)?;
        exec::wait_for("UEs attached", PATIENCE, || told(&mut fleet, &output))?;
        let account = exact(world)?;
        let least = u64::try_from(UES * KEYS)?;
        ensure!(account.used >= least, "{account}");
        let ues = number(&control::n3iwf(world, "status")?, "/ues")?;
        ensure!(ues == UES as u64, "{ues} UEs at the N3IWF");
        Ok((Finding::new(account.to_string()), fleet))
    })?;
    let started = report.step_with("the N3IWF is killed and starts again", || {
        fs::remove_file(&output)?;
        world.kill(Role::N3iwf)?;
        std::thread::sleep(away);
        let started = now()?;
        world.start(Role::N3iwf)?;
        let told = format!("kill -9; away for {} ms", away.as_millis());
        Ok((Finding::new(told), started))
    })?;
    report.step("every UE is back", || {
        let times = exec::wait_for("UEs back", PATIENCE, || told(&mut fleet, &output))?;
        let since = |what| Ok::<_, anyhow::Error>(number(&times, what)?.saturating_sub(started));
        let (first, last) = (since("/first_back_ms")?, since("/last_back_ms")?);
        let account = exact(world)?;
        let found =
            format!("the first after {first} ms, the last of {UES} after {last} ms; {account}");
        ensure!(last <= BACK, "{found}");
        ensure!(account.used >= (UES * KEYS) as u64, "{account}");
        let status = control::n3iwf(world, "status")?;
        let core = control::core(world, "status")?;
        for (what, count) in [
            ("UEs", number(&status, "/ues")?),
            ("IKE SAs", number(&status, "/ike_sas")?),
            ("inner addresses", number(&status, "/addresses_taken")?),
            ("UEs in the core", number(&core, "/ues")?),
            ("sessions in the UPF", number(&core, "/sessions")?),
        ] {
            ensure!(count == UES as u64, "{count} {what}");
        }
        Ok(Finding::new(found))
    })?;
    report.step("the UEs leave", || {
        fs::remove_file(&output)?;
        exec::wait_for("the UEs gone", PATIENCE, || {
            Ok(fleet.ended()?.filter(std::process::ExitStatus::success))
        })?;
        steps::forgotten(world, Duration::from_secs(60))?;
        Ok(Finding::new(exact(world)?.to_string()))
    })
}

/// The UEs.
fn start(world: &World, output: &Path) -> Result<Process> {
    let spec = Spec {
        name: "load".to_owned(),
        program: world.options().bin_dir.join("load"),
        arguments: vec![
            "survive".to_owned(),
            format!("--config={}", world.config(Role::Ue).display()),
            format!("--ues={UES}"),
            format!("--seconds={}", PATIENCE.as_secs() * 2),
            format!("--output={}", output.display()),
        ],
        environment: Vec::new(),
        logs: world.options().logs.clone(),
    };
    Process::start(world.netns(Place::Ue)?, spec)
}

/// What the UEs say, once they do.
fn told(fleet: &mut Process, output: &Path) -> Result<Option<Value>> {
    if let Some(status) = fleet.ended()? {
        bail!("load: {status}");
    }
    match fs::read_to_string(output) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(_) => Ok(None),
    }
}

/// The key account of the N3IWF, which is exact.
fn exact(world: &World) -> Result<KeyAccount> {
    account::exact(world)?;
    KeyAccount::of(world, Role::N3iwf)
}

/// Milliseconds since the epoch, as the UEs say it.
fn now() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.context("a clock before the epoch")?;
    Ok(u64::try_from(since.as_millis())?)
}

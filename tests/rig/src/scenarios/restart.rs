//! KMEs and an AMF that start again under a UE that is attached.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::faults::{clean_slate, nothing_stays, works};
use crate::account::{self, KeyAccount};
use crate::control::{self, number, text};
use crate::exec;
use crate::report::{Finding, Report};
use crate::steps;
use crate::world::{Role, World};

/// QKD keys of an attach, and of what is fetched ahead for the next two.
const KEYS: u64 = 7;
const AHEAD: u64 = 14;
/// How long anything may take until it has failed.
const RECOVERY: Duration = Duration::from_secs(90);
/// How long keys that are of no use any more may keep a UE out: one attempt that asks its KME for 3 s and hopes for a
/// better answer for 2 s more, a pause of up to 1.5 s, and an attach.
const OUT: Duration = Duration::from_secs(10);
/// Attempts that fail.
const ATTEMPTS: u64 = 1;

/// What the KMEs held is gone with them, so keys that the N3IWF has ahead are nobody's at the other end.
pub(super) fn kmes(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("the N3IWF fetches keys ahead", || {
        let ahead = format!("    ahead: {{ keys: {AHEAD}, refillBelow: {KEYS} }}\n    kms:\n");
        world.reconfigure(Role::N3iwf, |text| text.replace("    kms:\n", &ahead))?;
        Ok(Finding::new(format!("{AHEAD} for each peer")))
    })?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    works(report, world)?;
    report.step("keys are held", || {
        let account = exec::wait_for("keys fetched ahead", Duration::from_secs(30), || {
            let account = KeyAccount::of(world, Role::N3iwf)?;
            Ok((account.ahead == AHEAD).then_some(account))
        })?;
        ensure!(account.used == KEYS && account.lost == 0, "{account}");
        Ok(Finding::new(account.to_string()))
    })?;
    report.step("both KMEs are killed and start again", || {
        for role in [Role::KmeA, Role::KmeB] {
            world.kill(role)?;
        }
        let account = KeyAccount::of(world, Role::N3iwf)?;
        ensure!(account.ahead == AHEAD && account.lost == 0, "{account}");
        for role in [Role::KmeA, Role::KmeB] {
            world.start(role)?;
        }
        control::wait_kme_link(world)?;
        Ok(Finding::new("with nothing in store of before"))
    })?;
    report.step("the UE is attached all the while", || {
        let status = control::ue(world, "status")?;
        ensure!(text(&status, "/state") == "registered", "{status}");
        ensure!(number(&control::n3iwf(world, "status")?, "/ues")? == 1);
        Ok(Finding::default())
    })?;
    report.step("it leaves, and attaches again", || {
        control::ue(world, "deregister")?;
        exec::wait_for("deregistration", Duration::from_secs(20), || {
            let status = control::ue(world, "status")?;
            Ok((text(&status, "/state") == "detached").then_some(()))
        })?;
        control::ue(world, "attach")?;
        let begun = Instant::now();
        steps::wait_attached(world, RECOVERY)?;
        let out = begun.elapsed();
        // The keys of the attempt, and those that were held with them.
        let account = KeyAccount::of(world, Role::N3iwf)?;
        ensure!(account.lost <= ATTEMPTS * KEYS + AHEAD, "{account}");
        ensure!(out <= OUT, "{} ms; {account}", out.as_millis());
        account::exact(world)?;
        Ok(Finding::new(format!(
            "after {} ms; {account}",
            out.as_millis()
        )))
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    report.step("every key is accounted for", || {
        let n3iwf = KeyAccount::of(world, Role::N3iwf)?;
        ensure!(n3iwf.held == n3iwf.ahead, "{n3iwf}");
        account::exact(world)
    })?;
    nothing_stays(report, world, &before)
}

/// Who was attached at an AMF that is gone is released and attaches again.
pub(super) fn amf(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    works(report, world)?;
    report.step("the AMF is killed", || {
        world.kill(Role::Core)?;
        exec::wait_for("the UE released", Duration::from_secs(20), || {
            let status = control::n3iwf(world, "status")?;
            Ok((number(&status, "/addresses_taken")? == 0).then_some(()))
        })?;
        account::exact(world)
    })?;
    report.step("it starts again", || {
        world.start(Role::Core)?;
        steps::wait_n3iwf(world)?;
        Ok(Finding::new("NG Setup done"))
    })?;
    report.step("the UE is back by itself", || {
        steps::wait_attached(world, RECOVERY)?;
        let core = control::core(world, "status")?;
        ensure!(number(&core, "/ues")? == 1, "{core}");
        account::exact(world)
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    report.step("every key is accounted for", || {
        let account = KeyAccount::of(world, Role::N3iwf)?;
        ensure!(account.held == 0 && account.used >= 2 * KEYS, "{account}");
        account::exact(world)
    })?;
    nothing_stays(report, world, &before)
}

//! What may go wrong. Each scenario expects a clear message, everything back to clean, and a next
//! attach that works.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::account::{self, KeyAccount};
use crate::checks::{self, Snapshot};
use crate::control::{self, number, text};
use crate::exec;
use crate::files::KeyMode;
use crate::report::{Finding, Report};
use crate::steps::{self, attach as attach_ue};
use crate::topology::Place;
use crate::world::{Role, World};

/// QKD keys of a `native` attach with one PDU session.
const KEYS: u64 = 7;
/// How long the first failed attach may take to be told.
const FAILURE: Duration = Duration::from_secs(45);
/// How long everything may take to be clean: half-open IKE SAs live 15 s here.
const CLEAN: Duration = Duration::from_secs(40);

/// Attach, ping, deregister, nothing left.
pub(super) fn attach(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    works(report, world)?;
    let keys = match world.options().mode {
        KeyMode::Qkd => KEYS,
        KeyMode::Hybrid => 1,
        KeyMode::Psk | KeyMode::Cert => 0,
    };
    report.step("the mode is the one asked for", || steps::sas(world, 2))?;
    report.step("every key is accounted for", || steps::keys(world, keys))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The N3IWF's KME is down, then comes back.
pub(super) fn kme_down(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    report.step("the KME goes down", || {
        world.kill(Role::KmeA)?;
        Ok(Finding::new("KME-A killed"))
    })?;
    fails(report, world, &["QKD", "key"])?;
    says(report, world, Role::N3iwf, &["KME", "KMS", "198.51.100.2"])?;
    stays_clean(report, world)?;
    report.step("the KME comes back", || {
        world.start(Role::KmeA)?;
        control::wait_kme_link(world)?;
        Ok(Finding::new("KME-A serves again"))
    })?;
    works(report, world)?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// A fault of KME-A that makes attaches fail, and its end.
fn kme_fault(
    report: &mut Report,
    world: &mut World,
    fault: &[&str],
    message: &[&str],
) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    report.step("the fault is in force", || {
        control::kme_fault(world, Role::KmeA, fault)?;
        Ok(Finding::new(fault.join(" ")))
    })?;
    fails(report, world, message)?;
    stays_clean(report, world)?;
    report.step("the fault is over", || {
        control::kme_fault(world, Role::KmeA, &["--clear"])?;
        Ok(Finding::new("cleared"))
    })?;
    works(report, world)?;
    report.step("every key is accounted for", || accounted(world))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The KME has no keys, then has some.
pub(super) fn kme_empty(report: &mut Report, world: &mut World) -> Option<()> {
    kme_fault(report, world, &["empty"], &["QKD", "key"])
}

/// The KME refuses the N3IWF's certificate.
pub(super) fn kme_unauthorized(report: &mut Report, world: &mut World) -> Option<()> {
    kme_fault(report, world, &["unauthorized"], &["QKD", "key"])
}

/// Keys reach the N3IWF's KME and never the UE's.
pub(super) fn kme_one_sided(report: &mut Report, world: &mut World) -> Option<()> {
    kme_fault(report, world, &["loss"], &["key"])
}

/// The KME answers late: the attach works all the same, and no key is fetched twice.
pub(super) fn kme_slow(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    report.step("the KME is slow", || {
        // Longer than the first retransmission, shorter than the client's patience.
        let fault = ["latency", "--on", "enc-keys", "--delay", "2500ms"];
        control::kme_fault(world, Role::KmeA, &fault)?;
        Ok(Finding::new(fault.join(" ")))
    })?;
    works(report, world)?;
    report.step("no key was fetched twice", || steps::keys(world, KEYS))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The AMF is not there when the N3IWF starts.
pub(super) fn amf_down(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    report.step("KMEs and N3IWF start without an AMF", || {
        for role in [Role::KmeA, Role::KmeB] {
            world.start(role)?;
        }
        control::wait_kme_link(world)?;
        world.start(Role::N3iwf)?;
        let status = control::n3iwf(world, "status")?;
        if status.get("ready").and_then(Value::as_bool) != Some(false) {
            bail!("it says that it is ready");
        }
        Ok(Finding::new(
            "the N3IWF serves and says that it is not ready",
        ))
    })?;
    fails(report, world, &[])?;
    says(report, world, Role::N3iwf, &["AMF"])?;
    stays_clean(report, world)?;
    report.step("the AMF comes", || {
        world.start(Role::Core)?;
        steps::wait_n3iwf(world)?;
        Ok(Finding::new("NG Setup done"))
    })?;
    works(report, world)?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The AMF breaks off in the middle of an attach.
pub(super) fn amf_lost(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    core_fault(
        report,
        world,
        &json!({"on": "AuthenticationRequest", "do": "drop", "times": 1}),
    )?;
    fails(report, world, &[])?;
    says(report, world, Role::N3iwf, &["AMF"])?;
    report.step("the N3IWF finds the AMF again", || {
        steps::wait_n3iwf(world)?;
        Ok(Finding::new("NG Setup done"))
    })?;
    works(report, world)?;
    report.step("every key is accounted for", || accounted(world))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The UE has another K than the network.
pub(super) fn wrong_k(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let right = report.step_with("the UE gets another K", || {
        let text = std::fs::read_to_string(world.config(Role::Ue))?;
        world.reconfigure(Role::Ue, |text| {
            text.lines()
                .map(|line| match line.split_once("k: \"") {
                    Some((indent, rest)) if indent.trim().is_empty() => {
                        format!("{indent}k: \"{}\n", rest.replace("465b", "0000"))
                    }
                    _ => format!("{line}\n"),
                })
                .collect()
        })?;
        Ok((Finding::new("four digits changed"), text))
    })?;
    fails(report, world, &["MAC", "network", "authentic"])?;
    stays_clean(report, world)?;
    report.step("the UE gets the right K", || {
        world.reconfigure(Role::Ue, |_| right)?;
        Ok(Finding::new("configured and started again"))
    })?;
    works(report, world)?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The UE is killed in the middle of an attach.
pub(super) fn ue_killed(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    core_fault(
        report,
        world,
        &json!({"on": "SecurityModeCommand", "do": "silence", "times": 1}),
    )?;
    report.step("the UE is killed", || {
        world.start(Role::Ue)?;
        // The AMF swallowed the fault's message: the UE has authenticated and waits.
        exec::wait_for("the attach under way", Duration::from_secs(20), || {
            let waiting = control::core(world, "faults")?;
            Ok(waiting.as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
        let ues = number(&control::n3iwf(world, "status")?, "/ues")?;
        if ues != 1 {
            bail!("{ues} UEs at the N3IWF");
        }
        world.kill(Role::Ue)?;
        Ok(Finding::new("kill -9 during EAP-5G"))
    })?;
    stays_clean(report, world)?;
    works(report, world)?;
    report.step("every key is accounted for", || accounted(world))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The N3IWF is killed with a UE attached, and started again.
pub(super) fn n3iwf_killed(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    works(report, world)?;
    report.step("the N3IWF is killed", || {
        world.kill(Role::N3iwf)?;
        let left = Snapshot::take(world)?.left_since(&before);
        if left.is_empty() {
            bail!("a killed N3IWF leaves its states behind, and there are none");
        }
        Ok(Finding::new(format!(
            "kill -9; it left {} things behind",
            left.len()
        )))
    })?;
    report.step("the N3IWF starts again", || {
        world.start(Role::N3iwf)?;
        steps::wait_n3iwf(world)?;
        steps::forgotten(world, CLEAN)?;
        Ok(Finding::new(
            "what it had left is gone, the AMF has it back",
        ))
    })?;
    report.step("the UE notices", || {
        // The UE asks the N3IWF whether it lives every 10 s here.
        exec::wait_for("the UE to notice", Duration::from_secs(60), || {
            let status = control::ue(world, "status")?;
            let ues = number(&control::n3iwf(world, "status")?, "/ues")?;
            Ok((text(&status, "/state") != "registered" || ues > 0).then_some(()))
        })?;
        Ok(Finding::new("it gave the dead IKE SA up"))
    })?;
    works(report, world)?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

pub(super) fn clean_slate(report: &mut Report, world: &World) -> Option<Snapshot> {
    report.step_with("a look before", || {
        let snapshot = Snapshot::take(world)?;
        Ok((
            Finding::new("interfaces, routes, states, policies, programs noted"),
            snapshot,
        ))
    })
}

fn core_fault(report: &mut Report, world: &World, fault: &Value) -> Option<()> {
    report.step("the fault is in force", || {
        let request = json!({"command": "faults", "set": [fault]});
        control::ask(world, Role::Core, &request)?;
        Ok(Finding::new(fault.to_string()))
    })
}

/// Attach and ping.
pub(super) fn works(report: &mut Report, world: &mut World) -> Option<()> {
    let attached = report.step_with("attach", || {
        let attached = attach_ue(world)?;
        Ok((
            Finding::new(format!("PDU session {}", attached.address)),
            attached,
        ))
    })?;
    report.step("ping", || steps::ping(world, &attached, 3))
}

/// The UE fails, and its message has one of the words.
fn fails(report: &mut Report, world: &mut World, words: &[&str]) -> Option<()> {
    report.step("the UE says why it cannot attach", || {
        if world.process(Role::Ue).is_err() {
            world.start(Role::Ue)?;
        }
        let reason = steps::wait_failure(world, FAILURE)?;
        if !words.is_empty() && !words.iter().any(|word| reason.contains(word)) {
            bail!("{reason:?} has none of the words {}", words.join(", "));
        }
        Ok(Finding::new(reason))
    })
}

/// A warning or an error in the log names one of the words.
fn says(report: &mut Report, world: &mut World, role: Role, words: &[&str]) -> Option<()> {
    report.step(&format!("{} says it too", role.name()), || {
        let log = world.process(role)?.log_since(0)?;
        let line = log
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR"))
            .find(|line| words.iter().any(|word| line.contains(word)));
        match line {
            Some(line) => Ok(Finding::new(line.trim().to_owned())),
            None => bail!("no warning with one of the words {}", words.join(", ")),
        }
    })
}

/// After a failure nothing may be held by anybody. The UE is kept from trying again meanwhile.
fn stays_clean(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("back to clean", || {
        if world.process(Role::Ue).is_ok() {
            world.stop(Role::Ue)?;
        }
        steps::forgotten(world, CLEAN)?;
        let states = crate::kernel::xfrm_states(world.netns(Place::Ue)?)?.0.len();
        // A killed UE cleans up when it starts again.
        let accounts = account::exact(world)?.detail;
        Ok(Finding::new(format!(
            "{accounts}; {states} XFRM states at the UE"
        )))
    })
}

fn accounted(world: &World) -> Result<Finding> {
    let n3iwf = KeyAccount::of(world, Role::N3iwf)?;
    let ue = KeyAccount::of(world, Role::Ue)?;
    account::exact(world)?;
    if n3iwf.held + ue.held > 0 || ue.used < KEYS {
        bail!("N3IWF: {n3iwf}; UE: {ue}");
    }
    Ok(Finding::new(format!("N3IWF: {n3iwf}; UE: {ue}")))
}

/// The key account is exact. Then the daemons end, and nothing may be there that was not there before.
pub(super) fn nothing_stays(
    report: &mut Report,
    world: &mut World,
    before: &Snapshot,
) -> Option<()> {
    report.step("every key is accounted for, everywhere alike", || {
        account::exact(world)
    })?;
    report.step("the daemons end and leave nothing", || {
        for role in Role::ALL.into_iter().rev() {
            if world.runs(role) {
                world.stop(role)?;
            }
        }
        checks::nothing_left(world, before)?;
        Ok(Finding::new(
            "no state, policy, interface, address, route, rule, program or pin",
        ))
    })
}

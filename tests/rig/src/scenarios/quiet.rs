//! What a daemon logs at its most talkative has no key in it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::faults::{clean_slate, nothing_stays};
use crate::capture::Capture;
use crate::control::{self, number};
use crate::files::{K, OPC};
use crate::inside;
use crate::leaks::{self, Secret};
use crate::report::{Finding, Report};
use crate::topology::{self, Place};
use crate::world::{Role, World};
use crate::{exec, steps};

/// QKD keys of an attach, of a rekey of both Child SAs, and of one of the IKE SA.
const KEYS: usize = 7 + 4 + 3;
/// Whose lines are in a daemon's log, as text and as JSON, when it logs all there is: its own, those of TLS, which has
/// keys as octets, and those of the HTTP of a status, which the N3IWF asks its KMS for.
const SPEAKERS: [(Role, &[Speaker]); 2] = [
    (
        Role::N3iwf,
        &[
            ("DEBUG", "n3iwf_user"),
            ("TRACE", "hyper_util"),
            ("TRACE", "rustls"),
        ],
    ),
    (Role::Ue, &[("DEBUG", "ue_user"), ("TRACE", "rustls")]),
];

/// A level and a crate.
type Speaker = (&'static str, &'static str);

pub(super) fn logs(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("both daemons log all there is", || {
        for role in [Role::N3iwf, Role::Ue] {
            configure(world, role, false)?;
        }
        Ok(Finding::new("level trace, as text"))
    })?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    // Only kernel SCTP can be captured.
    let capture = match world.options().recording {
        true => None,
        false => Some(report.step_with("N2 is recorded, for K_N3IWF", || {
            let file = world.options().logs.join("n2.pcap");
            let logs = world.options().logs.clone();
            let netns = world.netns(Place::N3iwf)?;
            let capture = Capture::start(netns, "n2n3", topology::CORE, &file, &logs)?;
            Ok((Finding::default(), capture))
        })?),
    };
    life(report, world, "as text")?;
    report.step("the daemons start again and log JSON", || {
        for role in [Role::Ue, Role::N3iwf] {
            world.stop(role)?;
            configure(world, role, true)?;
        }
        world.start(Role::N3iwf)?;
        steps::wait_n3iwf(world)?;
        Ok(Finding::default())
    })?;
    life(report, world, "as JSON")?;
    report.step("keys that do not arrive are told about", || {
        // Errors quote what they are about, and must not quote this.
        control::kme_fault(world, Role::KmeB, &["wrong-size"])?;
        control::ue(world, "attach")?;
        let failure = steps::wait_failure(world, steps::ATTACH)?;
        control::kme_fault(world, Role::KmeB, &["--clear"])?;
        control::ue(world, "deregister")?;
        Ok(Finding::new(failure))
    })?;
    let secrets = report.step_with("the keys are known", || {
        let n2 = capture.map(Capture::finish).transpose()?;
        let secrets = secrets(world, n2)?;
        Ok((Finding::new(format!("{} secrets", secrets.len())), secrets))
    })?;
    report.step("a log with a key in it would be found out", || {
        planted(world, &secrets)
    })?;
    report.step("no log has one", || search(world, &secrets))?;
    nothing_stays(report, world, &before)
}

fn configure(world: &World, role: Role, json: bool) -> Result<()> {
    world.reconfigure(role, |text| match (role, json) {
        (Role::Ue, false) => text.replace("{level: \"info\"}", "{level: \"trace\"}"),
        (Role::Ue, true) => text.replace("{level: \"trace\"}", "{level: \"trace\", json: true}"),
        (_, false) => text.replace("  level: info\n", "  level: trace\n"),
        (_, true) => text.replace("  level: trace\n", "  level: trace\n  json: true\n"),
    })
}

/// All that takes keys: an attach, traffic, rekeys of both kinds, the end.
fn life(report: &mut Report, world: &mut World, how: &str) -> Option<()> {
    let attached = report.step_with(&format!("attach ({how})"), || {
        let attached = steps::attach(world)?;
        Ok((Finding::new(attached.address.to_string()), attached))
    })?;
    report.step("traffic", || steps::ping(world, &attached, 2))?;
    report.step("rekeys", || {
        for request in [
            json!({"request": "rekey"}),
            json!({"request": "rekey", "ike": true}),
        ] {
            let used = number(&control::ue(world, "keys")?, "/total/used")?;
            control::ask(world, Role::Ue, &request)?;
            exec::wait_for("keys of a rekey", steps::ATTACH, || {
                let now = number(&control::ue(world, "keys")?, "/total/used")?;
                Ok((now >= used + 3).then_some(()))
            })?;
        }
        Ok(Finding::new("two Child SAs, one IKE SA"))
    })?;
    report.step("deregistration", || steps::deregister(world))
}

/// Every key that either KME has delivered, K_N3IWF as the AMF has sent it, and the subscription's own.
fn secrets(world: &World, n2: Option<PathBuf>) -> Result<Vec<Secret>> {
    let mut secrets = Vec::new();
    for kme in [Role::KmeA, Role::KmeB] {
        let keys = inside::journal(&world.journal(kme))?;
        ensure!(keys.len() >= 2 * KEYS, "{}: {}", kme.name(), keys.len());
        for key in &keys {
            secrets.push(Secret::new(format!("key {}", key.id), key.octets())?);
        }
    }
    for (name, digits) in [("K", K), ("OPc", OPC)] {
        let octets: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| {
                Ok(u8::from_str_radix(
                    digits.get(at..at + 2).context("odd")?,
                    16,
                )?)
            })
            .collect::<Result<_>>()?;
        secrets.push(Secret::new(name, &octets)?);
    }
    if let Some(capture) = n2 {
        let keys = leaks::security_keys(&capture)?;
        ensure!(keys.len() >= 2, "{} SecurityKeys on N2", keys.len());
        secrets.extend(keys);
    }
    Ok(secrets)
}

/// The same search finds each key where the KMEs have written it down, and one put into a copy of a log.
fn planted(world: &World, secrets: &[Secret]) -> Result<Finding> {
    for kme in [Role::KmeA, Role::KmeB] {
        let (found, _) = leaks::search_file(&world.journal(kme), secrets)?;
        let keys = inside::journal(&world.journal(kme))?;
        for key in &keys {
            let name = format!("key {}", key.id);
            ensure!(found.iter().any(|leak| leak.secret == name), "{name}");
        }
    }
    let log = world.options().logs.join("n3iwf-user.log");
    let mut text = std::fs::read(&log)?;
    for secret in secrets {
        text.extend(format!("\nDEBUG n3iwf_user: {:02x?}", secret.octets()).bytes());
    }
    let found = leaks::search(&text, secrets);
    for secret in secrets {
        ensure!(
            found.iter().any(|leak| leak.secret == secret.name),
            "{} was put there and not found",
            secret.name
        );
    }
    Ok(Finding::new(
        "each in the KME's own record, and each where it was put",
    ))
}

/// Every log of the scenario, of whichever program.
fn search(world: &World, secrets: &[Secret]) -> Result<Finding> {
    let mut told = Vec::new();
    for entry in std::fs::read_dir(&world.options().logs)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "log") {
            continue;
        }
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (leaks, length) = leaks::search_file(&path, secrets)?;
        if !leaks.is_empty() {
            bail!("{name}: {leaks:?}");
        }
        if let Some((_, speakers)) = SPEAKERS.iter().find(|(role, _)| role.name() == name) {
            let silent = silent(&std::fs::read_to_string(&path)?, speakers);
            ensure!(silent.is_empty(), "{name}: nothing at level {silent:?}");
        }
        told.push(format!("{name}: {length} octets"));
    }
    ensure!(told.len() >= Role::ALL.len(), "{told:?}");
    Ok(Finding::new(told.join(", ")))
}

/// Who of `speakers` has no line as text, or none as JSON.
fn silent(log: &str, speakers: &[Speaker]) -> Vec<String> {
    let heard: BTreeSet<_> = log.lines().filter_map(speaker).collect();
    let wanted = speakers
        .iter()
        .flat_map(|&(level, of)| [false, true].map(|json| (json, level.to_owned(), of.to_owned())));
    wanted
        .filter(|speaker| !heard.contains(speaker))
        .map(|(json, level, of)| {
            let how = if json { "JSON" } else { "text" };
            format!("{level} of {of} as {how}")
        })
        .collect()
}

/// Whether a line is JSON, its level, and the crate it is from.
fn speaker(line: &str) -> Option<(bool, String, String)> {
    let json = line.starts_with('{');
    let (level, target) = if json {
        let line: Value = serde_json::from_str(line).ok()?;
        let word = |key| line.get(key).and_then(Value::as_str).map(str::to_owned);
        (word("level")?, word("target")?)
    } else {
        let mut words = line.split_whitespace().skip(1).map(str::to_owned);
        (words.next()?, words.next()?)
    };
    let of = target.split(':').next()?.to_owned();
    Some((json, level, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "2026-11-30T18:24:41Z TRACE rustls::conn: EarlyData rejected\n\
                        2026-11-30T18:24:41Z DEBUG ue_user::shell: install\n";
    const JSON: &str = "{\"timestamp\":\"2026\",\"level\":\"TRACE\",\"target\":\"rustls::client::hs\"}\n\
                        {\"timestamp\":\"2026\",\"level\":\"DEBUG\",\"target\":\"ue_user\"}\n";

    #[test]
    fn a_log_that_is_not_everything_is_found_out() {
        let [_, (Role::Ue, ue)] = SPEAKERS else {
            panic!("the UE is the second");
        };
        let all = format!("{TEXT}{JSON}");
        assert_eq!(silent(&all, ue), Vec::<String>::new());
        assert_eq!(
            silent(TEXT, ue),
            ["DEBUG of ue_user as JSON", "TRACE of rustls as JSON"]
        );
        assert_eq!(
            silent(&all.replace("TRACE", "DEBUG"), ue),
            ["TRACE of rustls as text", "TRACE of rustls as JSON"]
        );
        // What is quoted in a message is nobody's line.
        let quoted = "2026-11-30T18:24:41Z INFO ue_user: TRACE rustls: said\n";
        assert_eq!(silent(quoted, ue).len(), 4);
        assert_eq!(silent("", ue).len(), 4);
    }
}

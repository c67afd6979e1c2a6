//! The path to an AMF carries nothing any more, while the AMF and its UPF are well: SCTP finds out, and another AMF of
//! the set takes over.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::faults::{clean_slate, nothing_stays};
use crate::control::{self, number, text};
use crate::process::{Process, Spec};
use crate::report::{Finding, Report};
use crate::scrape::Scrape;
use crate::topology::{self, Place};
use crate::world::{Role, World};
use crate::{account, exec, steps};

/// The second AMF, its UPF, and the first one's UPF, which are not on the path that is cut.
const OTHER_AMF: &str = "203.0.113.3";
const OTHER_UPF: &str = "203.0.113.4";
const UPF: &str = "203.0.113.5";
/// Addresses of PDU sessions that the second core gives.
const OTHER_POOL: &str = "10.61.0.0/16";
/// A path that is silent for so long is not lost yet (heartbeats each 2 s, four in a row).
const SHORT: Duration = Duration::from_secs(4);
/// And so long may it take until it is, under emulation.
const LONG: Duration = Duration::from_secs(60);

pub(super) fn lost(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("a second AMF of the set, and UPFs apart from both", || {
        let core = world.netns(Place::Core)?;
        for address in [OTHER_AMF, OTHER_UPF, UPF] {
            core.ip(&["address", "add", &format!("{address}/24"), "dev", "n2n3"])?;
        }
        let via = ["route", "add", OTHER_POOL, "via", "198.18.0.1"];
        world.netns(Place::Dn)?.ip(&via)?;
        world.reconfigure(Role::Core, |text| {
            text.replace(&format!("{}:2152", topology::CORE), &format!("{UPF}:2152"))
        })?;
        world.reconfigure(Role::N3iwf, |text| {
            let amfs = format!("ip: [{}, {OTHER_AMF}]", topology::CORE);
            text.replace(&format!("ip: [{}]", topology::CORE), &amfs)
                .replace(
                    "  ikeBindAddress",
                    "  sctp: { heartbeat: 2s, retransmissions: 4, rtoMax: 2s }\n  ikeBindAddress",
                )
        })?;
        Ok(Finding::new("on the same network, at other addresses"))
    })?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let other = report.step_with("the second core", || {
        let other = second_core(world)?;
        exec::wait_for("both AMFs ready", LONG, || {
            Ok((states(world)? == ["ready", "ready"]).then_some(()))
        })?;
        Ok((Finding::new("both AMFs are ready"), other))
    })?;
    let attached = report.step_with("attach, at the first AMF", || {
        let attached = steps::attach(world)?;
        ensure!(served(world)? == [1, 0], "{:?}", served(world)?);
        Ok((Finding::new(attached.address.to_string()), attached))
    })?;
    report.step("a path that is back in time has cost nothing", || {
        cut(world, true)?;
        let begun = Instant::now();
        steps::pings(world, &attached, 10, "0.2")?;
        std::thread::sleep(SHORT.saturating_sub(begun.elapsed()));
        cut(world, false)?;
        let pinged = steps::pings(world, &attached, 10, "0.2")?;
        let status = amfs(world)?;
        ensure!(number(&status, "/0/losses")? == 0, "{status}");
        ensure!(served(world)? == [1, 0], "{:?}", served(world)?);
        Ok(pinged)
    })?;
    report.step(
        "one that is not: user traffic goes on, and SCTP finds out",
        || {
            cut(world, true)?;
            let begun = Instant::now();
            // Through the UPF, as long as the association is thought to stand.
            let pinged = steps::pings(world, &attached, 20, "0.1")?;
            let down = exec::wait_for("the loss told", LONG, || {
                let status = amfs(world)?;
                Ok((text(&status, "/0/state") != "ready").then_some(status))
            })?;
            let after = begun.elapsed();
            ensure!(number(&down, "/0/losses")? == 1, "{down}");
            ensure!(!text(&down, "/0/trouble").is_empty(), "{down}");
            ensure!(text(&down, "/1/state") == "ready", "{down}");
            Ok(Finding::new(format!(
                "{}; told after {:.1} s: {}",
                pinged.detail,
                after.as_secs_f32(),
                text(&down, "/0/trouble")
            )))
        },
    )?;
    report.step("the log and the page for Prometheus say it", || {
        let log = world.process(Role::N3iwf)?.log_since(0)?;
        ensure!(log.contains("no association with the AMF"), "no warning");
        exec::wait_for("a fresh page", Duration::from_secs(5), || {
            let ready = Scrape::of(world, Role::N3iwf)?.sum("n3iwf_amf_ready", &[])?;
            Ok((ready == 1.0).then_some(()))
        })?;
        Ok(Finding::new("one AMF of two is ready"))
    })?;
    let attached = report.step_with("the UE is back by itself, at the second AMF", || {
        exec::wait_for("the second AMF to have it", LONG, || {
            Ok((served(world)? == [0, 1]).then_some(()))
        })?;
        let attached = steps::wait_attached(world, LONG)?;
        ensure!(
            attached.address.to_string().starts_with("10.61."),
            "{attached:?}"
        );
        account::exact(world)?;
        Ok((Finding::new(attached.address.to_string()), attached))
    })?;
    report.step("its traffic", || steps::ping(world, &attached, 5))?;
    report.step("the path is back: nobody moves", || {
        cut(world, false)?;
        exec::wait_for("both AMFs ready", LONG, || {
            Ok((states(world)? == ["ready", "ready"]).then_some(()))
        })?;
        let status = amfs(world)?;
        ensure!(number(&status, "/0/setups")? == 2, "{status}");
        ensure!(served(world)? == [0, 1], "{:?}", served(world)?);
        let stale = number(&control::core(world, "status")?, "/ues")?;
        ensure!(stale == 0, "the first AMF still has {stale} UEs");
        steps::ping(world, &attached, 5)
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    report.step("the second core ends", || {
        let status = control::ask_at(&socket(world), "core5g-2", &json!({"command": "status"}))?;
        ensure!(number(&status, "/ues")? == 0, "{status}");
        other.stop(Duration::from_secs(15))?;
        Ok(Finding::default())
    })?;
    nothing_stays(report, world, &before)
}

fn socket(world: &World) -> PathBuf {
    world.directory().join("core5g-2.sock")
}

/// Starts it from the first one's file, with what must differ.
fn second_core(world: &World) -> Result<Process> {
    let text = fs::read_to_string(world.config(Role::Core))?
        .replace(
            &format!("sctp:{}:38412", topology::CORE),
            &format!("sctp:{OTHER_AMF}:38412"),
        )
        .replace(
            &world.socket(Role::Core).display().to_string(),
            &socket(world).display().to_string(),
        )
        .replace(
            "\namf:\n",
            "\namf:\n  name: second.example.net\n  pointer: 1\n",
        )
        .replace(topology::PDU_POOL, OTHER_POOL)
        .replace("10.60.0.1", "10.61.0.1")
        .replace(&format!("{UPF}:2152"), &format!("{OTHER_UPF}:2152"))
        .replace("name: upfgtp", "name: upfgtp2");
    let file = world.directory().join("core5g-2.yaml");
    fs::write(&file, text)?;
    let spec = Spec {
        name: "core5g-2".to_owned(),
        program: world.options().bin_dir.join("core5g"),
        arguments: vec!["--config".to_owned(), file.display().to_string()],
        environment: Vec::new(),
        logs: world.options().logs.clone(),
    };
    let mut process = Process::start(world.netns(Place::Core)?, spec)?;
    let socket = socket(world);
    process.wait_ready(LONG, || UnixStream::connect(&socket).is_ok())?;
    Ok(process)
}

/// Whether what the first AMF and the N3IWF send each other is lost on the way.
fn cut(world: &World, cut: bool) -> Result<()> {
    let ends = [
        (Place::N3iwf, format!("ip saddr {}", topology::CORE)),
        (Place::Core, format!("ip daddr {}", topology::CORE)),
    ];
    for (place, packets) in ends {
        let netns = world.netns(place)?;
        let rules = match cut {
            true => format!(
                "table ip cut {{
                   chain input {{
                     type filter hook input priority filter;
                     {packets} drop
                   }}
                 }}"
            ),
            false => "delete table ip cut".to_owned(),
        };
        netns.output("nft", &[&rules]).map(drop)?;
    }
    Ok(())
}

fn amfs(world: &World) -> Result<Value> {
    let status = control::n3iwf(world, "status")?;
    status.get("amfs").cloned().context("no AMFs in the status")
}

fn states(world: &World) -> Result<Vec<String>> {
    let amfs = amfs(world)?;
    let list = amfs.as_array().context("no list of AMFs")?;
    Ok(list
        .iter()
        .map(|amf| text(amf, "/state").to_owned())
        .collect())
}

/// UEs of each AMF.
fn served(world: &World) -> Result<[u64; 2]> {
    let amfs = amfs(world)?;
    Ok([number(&amfs, "/0/ues")?, number(&amfs, "/1/ues")?])
}

//! A whole attach with each relay and each IP version on N3.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::faults::{clean_slate, nothing_stays};
use crate::bulk::Direction;
use crate::control::{self, number, text};
use crate::report::{Finding, Report};
use crate::steps;
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// Octets of each transfer.
const BULK: u64 = 2 << 20;
const PINGS: u32 = 5;
const N3IWF: &str = "2001:db8:3::1";
const UPF: &str = "2001:db8:3::2";

/// Both daemons relay by their programs.
pub(super) fn in_kernel(report: &mut Report, world: &mut World) -> Option<()> {
    programs(report, world)?;
    carry(report, world, "kernel")
}

/// N3 is of IPv6.
pub(super) fn over_ipv6(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("N3 is of IPv6", || n3_of_ipv6(world))?;
    carry(report, world, "user")
}

/// N3 is of IPv6, and both daemons relay by their programs.
pub(super) fn over_ipv6_in_kernel(report: &mut Report, world: &mut World) -> Option<()> {
    programs(report, world)?;
    report.step("N3 is of IPv6", || n3_of_ipv6(world))?;
    carry(report, world, "kernel")
}

fn programs(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("both daemons relay in the kernel", || {
        world.relay_in_kernel()?;
        Ok(Finding::new("dataplane.relay: kernel"))
    })
}

fn n3_of_ipv6(world: &World) -> Result<Finding> {
    for (place, address) in [(Place::N3iwf, N3IWF), (Place::Core, UPF)] {
        let netns = world.netns(place)?;
        netns.run(|| {
            // No link-local address, whose route would come at any time.
            for (file, value) in [("addr_gen_mode", "1"), ("disable_ipv6", "0")] {
                let file = format!("/proc/sys/net/ipv6/conf/n2n3/{file}");
                std::fs::write(&file, value).with_context(|| file.clone())?;
            }
            Ok(())
        })?;
        let address = format!("{address}/64");
        netns.ip(&["-6", "address", "add", &address, "dev", "n2n3", "nodad"])?;
    }
    let (old, new) = (topology::CORE, UPF);
    world.reconfigure(Role::Core, |text| {
        text.replace(
            &format!("  listen: {old}:2152"),
            &format!("  listen: \"[{new}]:2152\""),
        )
    })?;
    let (old, new) = (topology::N3IWF_CORE, N3IWF);
    world.reconfigure(Role::N3iwf, |text| {
        text.replace(
            &format!("n3iwfGtpBindAddress: {old}"),
            &format!("n3iwfGtpBindAddress: \"{new}\""),
        )
    })?;
    Ok(Finding::new(format!("{N3IWF} to {UPF}")))
}

fn carry(report: &mut Report, world: &mut World, path: &str) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let session = report.step_with("attach", || {
        let session = steps::attach(world)?;
        let detail = format!("PDU session {}", session.address);
        Ok((Finding::new(detail), session))
    })?;
    report.step("ping", || steps::ping(world, &session, PINGS))?;
    for (name, way) in [
        ("TCP to the data network", Direction::Up),
        ("TCP to the UE", Direction::Down),
    ] {
        report.step(name, || steps::tcp(world, &session, way, BULK))?;
    }
    report.step("who relayed", || relayed(world, path))?;
    report.step("N3IWF's counters = the UPF's", || same_as_peer(world))?;
    // The recording data plane has neither programs nor states.
    if !world.options().recording {
        report.step("eBPF counters = kernel counters", || steps::counters(world))?;
    }
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The session's path at both ends, and that the N3IWF's programs left nothing of it to user space.
fn relayed(world: &World, path: &str) -> Result<Finding> {
    let n3iwf = control::n3iwf(world, "counters")?;
    let ue = control::ue(world, "sessions")?;
    let found = [
        text(&n3iwf, "/sessions/0/path"),
        text(&ue, "/traffic/0/path"),
    ];
    if found != [path; 2] {
        bail!("N3IWF and UE relay by {found:?}");
    }
    let Some(reasons) = n3iwf.get("relay_kernel").filter(|kernel| !kernel.is_null()) else {
        return Ok(Finding::new(path));
    };
    for way in ["uplink", "downlink"] {
        let reasons = reasons.get(way).and_then(Value::as_object);
        for (reason, count) in reasons.context("no reasons")? {
            // What is no user plane at all, such as neighbour discovery, passes by.
            if reason != "other" && count.as_u64() != Some(0) {
                bail!("{way}: {count} packets were not relayed: {reason}");
            }
        }
    }
    Ok(Finding::new(format!("{path}, all of it")))
}

/// Packets and octets of the session, both ways.
fn same_as_peer(world: &World) -> Result<Finding> {
    let n3iwf = control::n3iwf(world, "counters")?;
    let upf = control::core(world, "sessions")?;
    let mut seen = Vec::new();
    for (ours, theirs) in [
        ("uplink/packets", "uplink_packets"),
        ("uplink/bytes", "uplink_bytes"),
        ("downlink/packets", "downlink_packets"),
        ("downlink/bytes", "downlink_bytes"),
    ] {
        let here = number(&n3iwf, &format!("/sessions/0/{ours}"))?;
        let there = number(&upf, &format!("/0/{theirs}"))?;
        if here != there || here == 0 {
            bail!("{ours}: {here} at the N3IWF, {there} at the UPF");
        }
        seen.push(here.to_string());
    }
    Ok(Finding::new(format!(
        "{} packets up and {} down, octets equal",
        seen.first().map_or("", String::as_str),
        seen.get(2).map_or("", String::as_str)
    )))
}

//! PDU sessions with IPv6: the UPF advertises a prefix, the UE's kernel makes an address of it.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::faults::{clean_slate, nothing_stays};
use crate::bulk::{self, Direction};
use crate::control::{self, text};
use crate::exec;
use crate::report::{Finding, Report};
use crate::steps::{self, Attached};
use crate::topology::Place;
use crate::world::{Role, World};

const HOST: &str = "2001:db8:18::10";
const POOL: &str = "2001:db8:60::/48";
const BULK: u64 = 256 << 10;
const PINGS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(30);

/// IPv4 and IPv6 in one session.
pub(super) fn both(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("the core has a pool of IPv6 prefixes", || {
        configure(world, "IPv4v6")
    })?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let four = report.step_with("attach", || {
        let session = steps::attach(world)?;
        let detail = format!("PDU session {}", session.address);
        Ok((Finding::new(detail), session))
    })?;
    report.step("ping over IPv4", || steps::ping(world, &four, PINGS))?;
    carry(report, world)?;
    report.step("eBPF counters = kernel counters", || steps::counters(world))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

fn carry(report: &mut Report, world: &mut World) -> Option<()> {
    let six = report.step_with("an address of the prefix advertised", || address(world))?;
    report.step("ping over IPv6", || steps::ping(world, &six, PINGS))?;
    report.step("TCP over IPv6 both ways", || {
        let host: IpAddr = HOST.parse()?;
        let (ue, dn) = (world.netns(Place::Ue)?, world.netns(Place::Dn)?);
        for way in [Direction::Up, Direction::Down] {
            bulk::transfer(ue, six.address, dn, host, way, BULK)?;
        }
        Ok(Finding::new(format!("{BULK} octets each, all equal")))
    })
}

/// IPv6 where the packets go, and a session type.
fn configure(world: &World, kind: &str) -> Result<Finding> {
    for (place, files) in [
        (Place::Ue, &["default"][..]),
        (Place::Core, &["default", "n6"]),
        (Place::Dn, &["n6"]),
    ] {
        world.netns(place)?.run(|| {
            for file in files {
                let file = format!("/proc/sys/net/ipv6/conf/{file}/disable_ipv6");
                std::fs::write(&file, "0").with_context(|| file.clone())?;
            }
            if place == Place::Core {
                std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            }
            Ok(())
        })?;
    }
    let core = world.netns(Place::Core)?;
    core.ip(&[
        "-6",
        "address",
        "add",
        "2001:db8:18::1/64",
        "dev",
        "n6",
        "nodad",
    ])?;
    let dn = world.netns(Place::Dn)?;
    let host = format!("{HOST}/64");
    dn.ip(&["-6", "address", "add", &host, "dev", "n6", "nodad"])?;
    dn.ip(&["-6", "route", "add", POOL, "via", "2001:db8:18::1"])?;
    world.reconfigure(Role::Core, |text| {
        text.replace(
            "      exclude: [10.60.0.1]\n",
            &format!("      exclude: [10.60.0.1]\n      pool6: {POOL}\n"),
        )
        .replace(
            "    address: 10.60.0.1/16\n",
            "    address: 10.60.0.1/16\n    address6: 2001:db8:60:ffff::1/48\n",
        )
    })?;
    world.reconfigure(Role::Ue, |text| {
        text.replace(
            "    interface: uepdu1\n",
            &format!("    interface: uepdu1\n    type: {kind}\n"),
        )
    })?;
    Ok(Finding::new(format!("{POOL}, type {kind}")))
}

/// The address that the UE's kernel made: of the pool, with the identifier that the network chose.
fn address(world: &mut World) -> Result<(Finding, Attached)> {
    let status = control::ue(world, "status")?;
    let interface_id = text(&status, "/sessions/0/interfaceId").to_owned();
    let link_local: Ipv6Addr = format!("fe80::{interface_id}").parse()?;
    let id = |address: Ipv6Addr| u128::from(address) & u128::from(u64::MAX);
    let pool: Ipv6Addr = "2001:db8:60::".parse()?;
    let found = exec::wait_for("an IPv6 address", LIMIT, || {
        world.check_alive()?;
        let ue = world.netns(Place::Ue)?;
        let shown = ue.ip(&["-6", "-o", "address", "show", "dev", "uepdu1"])?;
        let words = shown
            .split_whitespace()
            .filter_map(|word| word.strip_suffix("/64"));
        let mut addresses = words.filter_map(|word| word.parse::<Ipv6Addr>().ok());
        Ok(addresses.find(|address| address.octets()[..6] == pool.octets()[..6]))
    })?;
    if id(found) != id(link_local) {
        bail!("{found} has not the identifier {interface_id}");
    }
    let session = Attached {
        address: found.into(),
        host: HOST,
    };
    Ok((Finding::new(found.to_string()), session))
}

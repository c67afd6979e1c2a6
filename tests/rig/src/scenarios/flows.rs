//! A PDU session with two QoS flows, each of which has a Child SA of its own.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::faults::{clean_slate, nothing_stays};
use crate::bulk::{self, Direction};
use crate::control::{self, number};
use crate::files::DNN;
use crate::report::{Finding, Report};
use crate::steps::{self, Attached};
use crate::topology::Place;
use crate::world::{Role, World};

/// QKD keys of a `native` attach, and of one Child SA more.
const KEYS: u64 = 7 + 2;
/// Octets of each transfer.
const BULK: u64 = 128 << 10;
const PINGS: u32 = 10;
/// QFI of ICMP; everything else is of QFI 1.
const MEDIA: u64 = 5;

/// ICMP goes by one Child SA, TCP by the other, in both directions.
pub(super) fn flows(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("two flows are configured, one Child SA for each", || {
        configure(world)
    })?;
    carry(report, world)
}

/// The same with the N3IWF's kernel relay.
pub(super) fn flows_in_kernel(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("two flows are configured, one Child SA for each", || {
        world.reconfigure(Role::N3iwf, |text| {
            text.replace(
                "    kind: kernel\n",
                "    kind: kernel\n    relay: kernel\n",
            )
        })?;
        configure(world)
    })?;
    carry(report, world)?;
    report.step("the kernel relayed it", || in_kernel(world))
}

fn in_kernel(world: &World) -> Result<Finding> {
    let log = std::fs::read_to_string(world.options().logs.join("n3iwf-user.log"))?;
    if !log.contains("session in the kernel") || log.contains("session in user space") {
        bail!("the log of the N3IWF says otherwise");
    }
    Ok(Finding::new("session in the kernel"))
}

fn carry(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let session = report.step_with("attach", || {
        let session = steps::attach(world)?;
        let detail = format!("PDU session {}", session.address);
        Ok((Finding::new(detail), session))
    })?;
    report.step("security associations", || steps::sas(world, 3))?;
    report.step("every key is accounted for", || steps::keys(world, KEYS))?;
    report.step("ping is of one Child SA", || ping(world, &session))?;
    report.step("TCP is of the other", || transfer(world, &session))?;
    report.step("eBPF counters = kernel counters", || steps::counters(world))?;
    report.step("kernel IPsec", || steps::xfrm_states(world, 6))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

fn configure(world: &World) -> Result<Finding> {
    world.reconfigure(Role::Core, |text| {
        let name = format!("    - name: {DNN}\n");
        let flows = format!(
            "{name}      flows:\n        - {{qfi: 1}}\n        \
             - {{qfi: {MEDIA}, five_qi: 7, filter: {{protocol: 1}}}}\n"
        );
        text.replace(&name, &flows)
    })?;
    world.reconfigure(Role::N3iwf, |text| {
        text.replace("  nasTcpPort:", "  childSas: one-per-flow\n  nasTcpPort:")
    })?;
    Ok(Finding::new(format!("QFI {MEDIA} is ICMP, QFI 1 the rest")))
}

/// Packets in and out of both Child SAs of the session, by XFRM interface: that of the default one
/// comes first.
fn packets(world: &World) -> Result<[[u64; 2]; 2]> {
    let sas = control::n3iwf(world, "sas")?;
    let children = sas.pointer("/sas/0/child-sas").and_then(Value::as_array);
    let mut found = Vec::new();
    for child in children.context("no Child SAs")? {
        if child.get("name").and_then(Value::as_str) == Some("pdu-1") {
            let way = |way: &str| number(child, &format!("/{way}/packets"));
            let both = [way("traffic-in")?, way("traffic-out")?];
            found.push((number(child, "/if-id")?, both));
        }
    }
    found.sort_unstable();
    let [(first, default), (second, further)] = found[..] else {
        bail!("{} Child SAs of the session", found.len());
    };
    if first == second {
        bail!("both on XFRM interface {first}");
    }
    Ok([default, further])
}

fn ping(world: &World, session: &Attached) -> Result<Finding> {
    let [default, further] = packets(world)?;
    steps::ping(world, session, PINGS)?;
    let after = packets(world)?;
    let pings = u64::from(PINGS);
    if after[1] != further.map(|packets| packets + pings) || after[0] != default {
        bail!(
            "default {default:?} to {:?}, further {further:?} to {:?}",
            after[0],
            after[1]
        );
    }
    Ok(Finding::new(format!("{PINGS} echoes and answers")))
}

fn transfer(world: &World, session: &Attached) -> Result<Finding> {
    let [default, further] = packets(world)?;
    let host = session.host.parse()?;
    let (ue, dn) = (world.netns(Place::Ue)?, world.netns(Place::Dn)?);
    for way in [Direction::Up, Direction::Down] {
        bulk::transfer(ue, session.address, dn, host, way, BULK)?;
    }
    let after = packets(world)?;
    let least = 2 * BULK / 1400;
    let more = after[0][0] + after[0][1] - default[0] - default[1];
    if after[1] != further || more < least {
        bail!(
            "{more} packets by the default one, further {further:?} to {:?}",
            after[1]
        );
    }
    Ok(Finding::new(format!("{more} packets, all equal")))
}

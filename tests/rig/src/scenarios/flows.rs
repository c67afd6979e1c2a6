//! A PDU session with two QoS flows, each of which has a Child SA of its own.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::faults::{clean_slate, nothing_stays};
use crate::bulk::{self, Direction};
use crate::capture::{self, Capture};
use crate::control::{self, number, text};
use crate::files::DNN;
use crate::report::{Finding, Report};
use crate::steps::{self, Attached};
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// QKD keys of a `native` attach, and of one Child SA more.
const KEYS: u64 = 7 + 2;
/// Octets of each transfer.
const BULK: u64 = 128 << 10;
const PINGS: u32 = 10;
/// QFI of ICMP; everything else is of QFI 1.
const MEDIA: u64 = 5;
const MEDIA_5QI: u8 = 7;
/// Expedited forwarding (RFC 3246).
const EF: u8 = 46;

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
    report.step("outer headers have the DSCP of their flow", || {
        marks(world, &session)
    })?;
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
             - {{qfi: {MEDIA}, five_qi: {MEDIA_5QI}, filter: {{protocol: 1}}}}\n"
        );
        text.replace(&name, &flows)
    })?;
    world.reconfigure(Role::N3iwf, |text| {
        let more = format!("  childSas: one-per-flow\n  dscp: {{ {MEDIA_5QI}: EF }}\n");
        text.replace("  nasTcpPort:", &format!("{more}  nasTcpPort:"))
    })?;
    Ok(Finding::new(format!("QFI {MEDIA} is ICMP, QFI 1 the rest")))
}

/// Echoes, which are of the flow with a DSCP, and TCP, which is not, as they are on NWu and on N3.
fn marks(world: &World, session: &Attached) -> Result<Finding> {
    let logs = world.options().logs.clone();
    let netns = world.netns(Place::N3iwf)?;
    let capture = |interface, neighbour| {
        let file = logs.join(format!("dscp-{interface}.pcap"));
        Capture::start(netns, interface, neighbour, &file, &logs)
    };
    let (nwu, n3) = (
        capture("nwu", topology::UE_NWU)?,
        capture("n2n3", topology::CORE)?,
    );
    steps::ping(world, session, PINGS)?;
    let host = session.host.parse()?;
    let (ue, dn) = (world.netns(Place::Ue)?, world.netns(Place::Dn)?);
    bulk::transfer(ue, session.address, dn, host, Direction::Up, BULK)?;
    let (nwu, n3) = (nwu.finish()?, n3.finish()?);
    let mut count = 0;
    let mut check = |what: &str, packets: Vec<Vec<u8>>, dscp: u8| {
        let found: Vec<u8> = packets
            .iter()
            .filter_map(|p| Some(p.get(1)? >> 2))
            .collect();
        ensure!(
            found.len() >= PINGS as usize && found.iter().all(|own| *own == dscp),
            "{what}: DSCPs {found:?} and not {dscp}"
        );
        count += found.len();
        Ok(())
    };
    let children = children(world)?;
    let [default, further] = &children[..] else {
        bail!("{} Child SAs of the session", children.len());
    };
    for (child, dscp) in [(default, 0), (further, EF)] {
        for way in ["/spi-in", "/spi-out"] {
            let spi = u32::from_str_radix(text(&child.1, way), 16)?;
            check(way, capture::esp_packets(&nwu, spi)?, dscp)?;
        }
    }
    let uplink = |qfi: u64| -> Result<Vec<Vec<u8>>> {
        let packets = capture::uplink_gtpu(&n3)?.into_iter();
        Ok(packets
            .filter(|(own, _)| u64::from(*own) == qfi)
            .map(|(_, packet)| packet)
            .collect())
    };
    check("QFI 1 on N3", uplink(1)?, 0)?;
    check("the other on N3", uplink(MEDIA)?, EF)?;
    Ok(Finding::new(format!("{count} packets, DSCP {EF} or 0")))
}

/// The Child SAs of the session by their XFRM interfaces: the default one comes first.
fn children(world: &World) -> Result<Vec<(u64, Value)>> {
    let sas = control::n3iwf(world, "sas")?;
    let children = sas.pointer("/sas/0/child-sas").and_then(Value::as_array);
    let children = children.context("no Child SAs")?.iter();
    let mut found = children
        .filter(|child| text(child, "/name") == "pdu-1")
        .map(|child| Ok((number(child, "/if-id")?, child.clone())))
        .collect::<Result<Vec<_>>>()?;
    found.sort_unstable_by_key(|(interface, _)| *interface);
    Ok(found)
}

/// Packets in and out of both Child SAs of the session, by XFRM interface: that of the default one
/// comes first.
fn packets(world: &World) -> Result<[[u64; 2]; 2]> {
    let count = |(_, child): &(u64, Value)| -> Result<[u64; 2]> {
        let way = |way: &str| number(child, &format!("/{way}/packets"));
        Ok([way("traffic-in")?, way("traffic-out")?])
    };
    let children = children(world)?;
    let [default, further] = &children[..] else {
        bail!("{} Child SAs of the session", children.len());
    };
    if default.0 == further.0 {
        bail!("both on XFRM interface {}", default.0);
    }
    Ok([count(default)?, count(further)?])
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

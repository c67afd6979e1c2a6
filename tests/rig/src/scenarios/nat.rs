//! A UE behind a NAT (RFC 7296 2.23, RFC 3948).

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::faults::{clean_slate, nothing_stays};
use crate::bulk::Direction;
use crate::control::{self, number, text};
use crate::exec;
use crate::kernel;
use crate::report::{Finding, Report};
use crate::steps::{self, Attached};
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// QKD keys of an attach with one PDU session.
const KEYS: u64 = 7;
/// Octets each way.
const BULK: u64 = 256 << 10;
/// Keepalives to wait for, and the silence before each.
const KEEPALIVES: u32 = 3;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the N3IWF may take to notice another port: the UE asks after 10 s of silence.
const NEW_MAPPING: Duration = Duration::from_secs(30);
/// The same where a packet tells it.
const FOLLOWED: Duration = Duration::from_secs(3);

/// Attach and traffic through a NAT that changes addresses and ports.
pub(super) fn nat(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("a NAT between UE and NWu", || {
        world.insert_nat()?;
        let interval = format!(
            "\nike:\n  natKeepalive: {}s\n",
            KEEPALIVE_INTERVAL.as_secs()
        );
        world.reconfigure(Role::Ue, |text| text.replace("\nike:\n", &interval))?;
        Ok(Finding::new(format!(
            "{} becomes {}, ports change",
            topology::UE_PRIVATE,
            topology::UE_NWU
        )))
    })?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let attached = report.step_with("attach", || {
        let attached = steps::attach(world)?;
        let detail = format!("PDU session {}", attached.address);
        Ok((Finding::new(detail), attached))
    })?;
    report.step("IKE on port 4500, the NAT found", || ike_floated(world))?;
    report.step("security associations", || steps::sas(world, 2))?;
    report.step("ping", || steps::ping(world, &attached, 3))?;
    for (name, way) in [
        ("TCP to the data network", Direction::Up),
        ("TCP to the UE", Direction::Down),
    ] {
        report.step(name, || steps::tcp(world, &attached, way, BULK))?;
    }
    report.step("ESP in UDP", || esp_in_udp(world, true))?;
    report.step("keepalives", || keepalives(world))?;
    report.step("eBPF counters = kernel counters", || steps::counters(world))?;
    report.step("kernel IPsec", || steps::xfrm_states(world, 4))?;
    report.step("the NAT forgets, the N3IWF follows IKE", || {
        followed_by_ike(world)
    })?;
    report.step("it forgets again, the N3IWF follows ESP", || {
        followed_by_esp(world, &attached)
    })?;
    report.step("ping", || steps::ping(world, &attached, 3))?;
    report.step("TCP to the UE", || {
        steps::tcp(world, &attached, Direction::Down, BULK)
    })?;
    report.step("ESP in UDP to the new port", || esp_in_udp(world, false))?;
    report.step("counters went on", || counters_went_on(world, 2))?;
    report.step("kernel IPsec", || steps::xfrm_states(world, 4))?;
    report.step("every key is accounted for", || steps::keys(world, KEYS))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The N3IWF sees the NAT's address and port, and knows who is behind it; so does the UE.
fn ike_floated(world: &World) -> Result<Finding> {
    let reply = control::n3iwf(world, "sas")?;
    let local = socket_address(text(&reply, "/sas/0/local"))?;
    let remote = socket_address(text(&reply, "/sas/0/remote"))?;
    let behind = |end: &str| reply.pointer(&format!("/sas/0/nat-{end}")) == Some(&true.into());
    let translated = topology::NAT_PORTS.contains(&remote.port());
    if local.port() != 4500 || remote.ip().to_string() != topology::UE_NWU || !translated {
        bail!("{local} to {remote}");
    }
    if behind("local") || !behind("remote") {
        bail!("it is the UE that is behind a NAT: {reply}");
    }
    let status = control::ue(world, "status")?;
    let (ours, theirs) = (
        text(&status, "/ike/0/local"),
        text(&status, "/ike/0/remote"),
    );
    let private = format!("{}:4500", topology::UE_PRIVATE);
    if ours != private || theirs != format!("{}:4500", topology::N3IWF_NWU) {
        bail!("the UE: {ours} to {theirs}");
    }
    Ok(Finding::new(format!(
        "N3IWF: {local} to {remote} (NAT); UE: {ours} to {theirs}"
    )))
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("address {text:?}"))
}

/// The port of the UE as the N3IWF knows it.
fn port(world: &World) -> Result<u16> {
    let reply = control::n3iwf(world, "sas")?;
    Ok(socket_address(text(&reply, "/sas/0/remote"))?.port())
}

/// INFORMATIONAL messages of the UE so far.
fn questions(world: &World) -> Result<u64> {
    let reply = control::n3iwf(world, "counters")?;
    number(&reply, "/classes/ingress/ike_informational/packets")
}

/// The UE's keepalives get other ports; the last one's stays. Begins when the UE has just asked for a
/// sign of life: its next question could otherwise fall between, and tell of a port that goes again.
fn forget(world: &World) -> Result<()> {
    let asked = questions(world)?;
    exec::wait_for("the UE's question for a sign of life", NEW_MAPPING, || {
        Ok((questions(world)? > asked).then_some(()))
    })?;
    world.topology().forgetful_nat(true)?;
    // Longer than the pause between two keepalives; the next one gets a mapping that stays.
    thread::sleep(KEEPALIVE_INTERVAL * 2);
    world.topology().forgetful_nat(false)?;
    thread::sleep(KEEPALIVE_INTERVAL);
    Ok(())
}

/// Its next IKE message says so to the N3IWF.
fn followed_by_ike(world: &World) -> Result<Finding> {
    let before = port(world)?;
    forget(world)?;
    let after = exec::wait_for("another port of the UE", NEW_MAPPING, || {
        let now = port(world)?;
        Ok((now != before).then_some(now))
    })?;
    Ok(Finding::new(format!("port {before} becomes {after}")))
}

/// So does its next packet, long before that.
fn followed_by_esp(world: &World, attached: &Attached) -> Result<Finding> {
    let before = port(world)?;
    forget(world)?;
    let asked = questions(world)?;
    // The answer goes to the old port when it is faster than the N3IWF.
    steps::echo(world, attached)?;
    let after = exec::wait_for("the port of that packet", FOLLOWED, || {
        let now = port(world)?;
        Ok((now != before).then_some(now))
    })?;
    let asked_since = questions(world)? - asked;
    if asked_since > 0 {
        bail!("{asked_since} IKE messages of the UE came with it: nothing is shown");
    }
    Ok(Finding::new(format!(
        "port {before} becomes {after} with one packet, without IKE"
    )))
}

/// Although the kernel's counters begin anew in a state that moved: a packet that passes in that very moment is
/// missing there, at most one for each of the `moves`.
pub(super) fn counters_went_on(world: &World, moves: u64) -> Result<Finding> {
    let reply = control::n3iwf(world, "counters")?;
    let sas = reply.get("sas").and_then(Value::as_array);
    let sas = sas.context("no counters of SAs")?;
    for sa in sas {
        for way in ["in", "out"] {
            let kernel = number(sa, &format!("/kernel_{way}/packets"))?;
            let ebpf = number(sa, &format!("/ebpf_{way}/packets"))?;
            if kernel > ebpf || ebpf - kernel > moves || kernel == 0 {
                bail!("{way}: kernel {kernel}, eBPF {ebpf} in {sa}");
            }
        }
    }
    Ok(Finding::new(format!(
        "{} Child SAs, kernel and eBPF agree from their beginning",
        sas.len()
    )))
}

/// Every ESP state of both ends is encapsulated, with the ports of its end.
fn esp_in_udp(world: &World, used: bool) -> Result<Finding> {
    let reply = control::n3iwf(world, "sas")?;
    let mapped = socket_address(text(&reply, "/sas/0/remote"))?.port();
    for (place, own, peer) in [(Place::N3iwf, 4500, mapped), (Place::Ue, 4500, 4500)] {
        let (states, listing) = kernel::xfrm_states(world.netns(place)?)?;
        if states.is_empty() {
            bail!("no ESP state at {}", place.name());
        }
        for state in &states {
            let ours = [topology::N3IWF_NWU, topology::UE_PRIVATE];
            let outbound = ours.get(usize::from(place == Place::Ue)) == Some(&&*state.source);
            let expected = if outbound { (own, peer) } else { (peer, own) };
            if state.encap != Some(expected) {
                bail!(
                    "SPI {:08x} at {}: {:?} instead of {expected:?}\n{listing}",
                    state.spi,
                    place.name(),
                    state.encap
                );
            }
            if used && state.packets == 0 {
                bail!("SPI {:08x} at {} carried nothing", state.spi, place.name());
            }
        }
    }
    Ok(Finding::new(format!(
        "all states at both ends, port 4500 to {mapped} at the N3IWF"
    )))
}

/// An idle UE keeps its mapping: eBPF at the N3IWF counts what it sends for that.
fn keepalives(world: &World) -> Result<Finding> {
    let count = || -> Result<u64> {
        let reply = control::n3iwf(world, "counters")?;
        number(&reply, "/classes/ingress/nat_keepalive/packets")
    };
    let (before, begun) = (count()?, Instant::now());
    exec::wait_for("keepalives", KEEPALIVE_INTERVAL * 10, || {
        Ok((count()? >= before + u64::from(KEEPALIVES)).then_some(()))
    })?;
    // The first may come at once, each further one after its interval.
    let least = KEEPALIVE_INTERVAL * (KEEPALIVES - 1) - KEEPALIVE_INTERVAL / 2;
    if begun.elapsed() < least {
        bail!("{KEEPALIVES} keepalives in {:?}", begun.elapsed());
    }
    let reply = control::n3iwf(world, "counters")?;
    let sent = number(&reply, "/classes/egress/nat_keepalive/packets")?;
    if sent > 0 {
        bail!("the N3IWF is behind no NAT and sent {sent} keepalives");
    }
    Ok(Finding::new(format!(
        "{KEEPALIVES} in {:.1} s, counted by eBPF",
        begun.elapsed().as_secs_f32()
    )))
}

//! ESP that somebody on NWu recorded, sent again, changed or made up. The kernel refuses it and counts it, and no
//! packet in it reaches anybody a second time.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::faults::{clean_slate, nothing_stays};
use crate::capture::{self, Capture};
use crate::control::{self, number, text};
use crate::kernel::{self, Snmp, XfrmState};
use crate::report::{Finding, Report};
use crate::scrape::Scrape;
use crate::topology::{self, Place};
use crate::world::{Role, World};
use crate::{exec, steps};

/// `IPPROTO_RAW`: the header is ours.
const RAW: i32 = 255;
/// Echo requests that are recorded.
const RECORDED: u32 = 8;
/// How often each recorded packet is sent again.
const TIMES: usize = 4;
/// Where the SPI and the sequence number are in an IPv4 packet without options.
const SPI: std::ops::Range<usize> = 20..24;
const SEQUENCE: std::ops::Range<usize> = 24..28;
/// Somebody else's address on NWu.
const STRANGER: &str = "192.0.2.66";

/// What is to be counted of packets that get nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// `replay` and `replay-window` of the SA, and `XfrmInStateSeqError`.
    replayed: (u64, u64),
    /// `failed` of the SA, and `XfrmInStateProtoError`.
    forged: (u64, u64),
    /// `XfrmInNoStates`, and what eBPF counts as `esp_unknown_spi`.
    unknown: (u64, u64),
    /// Packets that the SA passed, that the relay passed, and echo requests at the host behind the UPF.
    delivered: (u64, u64, u64),
}

pub(super) fn hostile(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let attached = report.step_with("attach", || {
        let attached = steps::attach(world)?;
        Ok((Finding::new(attached.address.to_string()), attached))
    })?;
    let (spi, recorded) = report.step_with("ESP of some pings is recorded on NWu", || {
        let spi = user_spi(world)?;
        let netns = world.netns(Place::N3iwf)?;
        let file = world.options().logs.join("nwu.pcap");
        let logs = world.options().logs.clone();
        let capture = Capture::start(netns, "nwu", topology::UE_NWU, &file, &logs)?;
        steps::ping(world, &attached, RECORDED)?;
        let recorded = capture::esp_packets(&capture.finish()?, spi)?;
        ensure!(recorded.len() >= RECORDED as usize, "{}", recorded.len());
        let told = format!("{} packets of SPI {spi:08x}", recorded.len());
        Ok((Finding::new(told), (spi, recorded)))
    })?;
    let sent = (recorded.len() * TIMES) as u64;
    report.step("sent again by its sender, and by somebody else", || {
        let before = seen(world, spi)?;
        let elsewhere: Vec<Vec<u8>> = recorded.iter().map(|one| from_stranger(one)).collect();
        inject(world, &recorded)?;
        inject(world, &elsewhere)?;
        let after = settled(world, spi, |now| {
            now.replayed.0 >= before.replayed.0 + 2 * sent
        })?;
        ensure!(
            after.replayed == (before.replayed.0 + 2 * sent, before.replayed.1 + 2 * sent),
            "{sent} twice, {before:?}, {after:?}"
        );
        ensure!(after.delivered == before.delivered, "{before:?}, {after:?}");
        Ok(Finding::new(format!("{after:?}")))
    })?;
    report.step("in another order", || {
        let before = seen(world, spi)?;
        let backwards: Vec<Vec<u8>> = recorded.iter().rev().cloned().collect();
        inject(world, &backwards)?;
        let after = settled(world, spi, |now| now.replayed.0 >= before.replayed.0 + sent)?;
        ensure!(after.delivered == before.delivered, "{before:?}, {after:?}");
        Ok(Finding::new(format!("{after:?}")))
    })?;
    report.step("an SPI that is nobody's", || {
        let before = seen(world, spi)?;
        let unknown: Vec<Vec<u8>> = recorded.iter().map(|one| with(one, SPI, !spi)).collect();
        inject(world, &unknown)?;
        let after = settled(world, spi, |now| now.unknown.1 >= before.unknown.1 + sent)?;
        ensure!(
            after.unknown == (before.unknown.0 + sent, before.unknown.1 + sent),
            "{sent}, {before:?}, {after:?}"
        );
        ensure!(after.delivered == before.delivered, "{before:?}, {after:?}");
        ensure!(after.replayed == before.replayed, "{before:?}, {after:?}");
        Ok(Finding::new(format!("{after:?}")))
    })?;
    report.step("a sequence number yet to come, made up", || {
        let before = seen(world, spi)?;
        let ahead: Vec<Vec<u8>> = recorded
            .iter()
            .map(|one| with(one, SEQUENCE, 0x0000_ffff))
            .collect();
        inject(world, &ahead)?;
        let after = settled(world, spi, |now| now.forged.0 >= before.forged.0 + sent)?;
        ensure!(
            after.forged == (before.forged.0 + sent, before.forged.1 + sent),
            "{sent}, {before:?}, {after:?}"
        );
        ensure!(after.delivered == before.delivered, "{before:?}, {after:?}");
        Ok(Finding::new(format!("{after:?}")))
    })?;
    report.step("the UE's traffic goes on, each packet once", || {
        // Had the window followed the numbers made up, all of these would be too old.
        let before = seen(world, spi)?;
        let finding = steps::ping(world, &attached, 10)?;
        let after = settled(world, spi, |now| now.delivered.2 >= before.delivered.2 + 10)?;
        let (passed, relayed, echoes) = before.delivered;
        ensure!(
            after.delivered == (passed + 10, relayed + 10, echoes + 10),
            "{before:?}, {after:?}"
        );
        Ok(finding)
    })?;
    report.step("the log says it, in a line or a few for each kind", || {
        let file = world.options().logs.join("n3iwf-user.log");
        exec::wait_for("lines in the log", Duration::from_secs(5), || {
            let log = std::fs::read_to_string(&file)?;
            let lines = |reason: &str| {
                let of = log.lines().filter(|line| {
                    line.contains("ESP refused by the kernel") && line.contains(reason)
                });
                of.count()
            };
            let all = ["unknown_spi", "replay", "integrity"].map(lines);
            Ok(all
                .iter()
                .all(|lines| (1..=8).contains(lines))
                .then_some(()))
        })?;
        Ok(Finding::new("unknown SPI, replay, integrity"))
    })?;
    report.step("the page for Prometheus says it", || {
        let now = seen(world, spi)?;
        exec::wait_for("a fresh page", Duration::from_secs(5), || {
            let page = Scrape::of(world, Role::N3iwf)?;
            let name = "n3iwf_esp_refused_packets_total";
            let replay = page.sum(name, &["reason=\"replay\""])?;
            let integrity = page.sum(name, &["reason=\"integrity\""])?;
            Ok((replay == now.replayed.0 as f64 && integrity == now.forged.0 as f64).then_some(()))
        })?;
        Ok(Finding::new(format!("{now:?}")))
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

/// The N3IWF's SPI of the Child SA of the PDU session.
fn user_spi(world: &World) -> Result<u32> {
    let reply = control::n3iwf(world, "sas")?;
    let children = reply.pointer("/sas/0/child-sas").and_then(|c| c.as_array());
    let child = children
        .into_iter()
        .flatten()
        .find(|child| text(child, "/name").starts_with("pdu-"))
        .context("no Child SA of a PDU session")?;
    Ok(u32::from_str_radix(text(child, "/spi-in"), 16)?)
}

fn seen(world: &World, spi: u32) -> Result<Seen> {
    let netns = world.netns(Place::N3iwf)?;
    let (states, _) = kernel::xfrm_states(netns)?;
    let state: &XfrmState = states
        .iter()
        .find(|state| state.spi == spi)
        .context("the SA is gone")?;
    let stat = Snmp::xfrm(netns)?;
    let counters = control::n3iwf(world, "counters")?;
    let icmp = Snmp::icmp(world.netns(Place::Dn)?)?;
    Ok(Seen {
        replayed: (
            state.late + state.replayed,
            stat.get("XfrmInStateSeqError")?,
        ),
        forged: (state.failed, stat.get("XfrmInStateProtoError")?),
        unknown: (
            stat.get("XfrmInNoStates")?,
            number(&counters, "/classes/ingress/esp_unknown_spi/packets")?,
        ),
        delivered: (
            state.packets,
            number(&counters, "/sessions/0/uplink/packets")?,
            icmp.get("InEchos")?,
        ),
    })
}

/// Waits until as much is counted as must be, and a moment for what must not.
fn settled(world: &World, spi: u32, enough: impl Fn(&Seen) -> bool) -> Result<Seen> {
    let mut last = None;
    let waited = exec::wait_for("all packets counted", Duration::from_secs(10), || {
        let now = seen(world, spi)?;
        last = Some(now);
        Ok(enough(&now).then_some(()))
    });
    waited.with_context(|| format!("{last:?}"))?;
    std::thread::sleep(Duration::from_millis(300));
    seen(world, spi)
}

/// Sends whole IPv4 packets to the N3IWF from where the UE is, each some times.
fn inject(world: &World, packets: &[Vec<u8>]) -> Result<()> {
    let to = SocketAddrV4::new(topology::N3IWF_NWU.parse()?, 0).into();
    world.netns(Place::Ue)?.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
        socket.set_header_included_v4(true)?;
        for _ in 0..TIMES {
            for packet in packets {
                let sent = socket.send_to(packet, &to)?;
                ensure!(sent == packet.len(), "{sent} of {}", packet.len());
            }
        }
        Ok(())
    })
}

/// The packet with another 32-bit field. The kernel fills in the header checksum.
fn with(packet: &[u8], field: std::ops::Range<usize>, value: u32) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(octets) = packet.get_mut(field) {
        octets.copy_from_slice(&value.to_be_bytes());
    }
    packet
}

fn from_stranger(packet: &[u8]) -> Vec<u8> {
    let address: std::net::Ipv4Addr = STRANGER.parse().unwrap_or(std::net::Ipv4Addr::LOCALHOST);
    with(packet, 12..16, address.to_bits())
}

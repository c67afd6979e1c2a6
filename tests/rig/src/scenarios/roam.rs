//! A UE whose address on NWu changes, and whose attach stays (RFC 4555, docs/mobike.md).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::faults::{clean_slate, nothing_stays};
use super::nat::{counters_went_on, socket_address};
use super::rekey::{Spis, drained, rekeyed};
use crate::bulk::Direction;
use crate::control::{self, text};
use crate::exec;
use crate::kernel;
use crate::report::{Finding, Report};
use crate::steps::{self, Attached};
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// QKD keys of an attach with one PDU session, and of its two Child SAs when they are rekeyed.
const KEYS: u64 = 7;
const KEYS_OF_REKEY: u64 = 4;
/// Addresses of the UE after the one it attached from.
const SECOND: &str = "192.0.2.11";
const THIRD: &str = "192.0.2.12";
/// Octets each way.
const BULK: u64 = 256 << 10;
/// From the change of the address to an echo each way, on an emulated processor.
const PROMPT: Duration = Duration::from_secs(5);

/// Every change that a UE notices by itself, and both forms of `uectl roam`.
pub(super) fn roam(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("MOBIKE is on at both ends", || {
        world.reconfigure(Role::N3iwf, |text| {
            text.replace("\n  ike:\n", "\n  ike:\n    mobike: true\n")
        })?;
        world.reconfigure(Role::Ue, |text| {
            text.replace("\nike:\n", "\nike:\n  mobike: true\n")
        })?;
        Ok(Finding::new("ike.mobike: true"))
    })?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let attached = report.step_with("attach", || {
        let attached = steps::attach(world)?;
        let detail = format!("PDU session {}", attached.address);
        Ok((Finding::new(detail), attached))
    })?;
    report.step("both ends agreed on MOBIKE", || {
        agreed(world)?;
        is_at(world, topology::UE_NWU)
    })?;
    report.step("ping", || steps::ping(world, &attached, 3))?;
    report.step("the address is lost, another one comes", || {
        moved(world, &attached, SECOND, || {
            in_ue(
                world,
                &format!(
                    "address delete {}/24 dev nwu\naddress add {SECOND}/24 dev nwu\n",
                    topology::UE_NWU
                ),
            )
        })
    })?;
    report.step("TCP to the data network", || {
        steps::tcp(world, &attached, Direction::Up, BULK)
    })?;
    report.step("the route gets another address, the old one stays", || {
        moved(world, &attached, THIRD, || {
            in_ue(
                world,
                &format!(
                    "address add {THIRD}/32 dev nwu\nroute add {}/32 dev nwu src {THIRD}\n",
                    topology::N3IWF_NWU
                ),
            )
        })
    })?;
    report.step("TCP to the UE", || {
        steps::tcp(world, &attached, Direction::Down, BULK)
    })?;
    report.step("uectl roam ADDRESS", || {
        moved(world, &attached, SECOND, || uectl(world, &[SECOND]))
    })?;
    report.step("uectl roam, to the route's address", || {
        moved(world, &attached, THIRD, || uectl(world, &[]))
    })?;
    report.step("uectl roam, without a change", || {
        moved(world, &attached, THIRD, || uectl(world, &[]))
    })?;
    report.step("counters went on", || counters_went_on(world, 5))?;
    report.step("kernel IPsec", || steps::xfrm_states(world, 4))?;
    report.step("no key was taken for a move", || steps::keys(world, KEYS))?;
    report.step("a rekey goes where the UE is", || {
        rekeyed(world, Role::N3iwf, false)?;
        drained(world)?;
        is_at(world, THIRD)
    })?;
    report.step("ping", || steps::ping(world, &attached, 3))?;
    report.step("every key is accounted for", || {
        steps::keys(world, KEYS + KEYS_OF_REKEY)
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    report.step("the UE is back at its first address", || {
        in_ue(
            world,
            &format!(
                "route delete {}/32 dev nwu\naddress delete {THIRD}/32 dev nwu\n\
                 address delete {SECOND}/24 dev nwu\naddress add {}/24 dev nwu\n",
                topology::N3IWF_NWU,
                topology::UE_NWU
            ),
        )?;
        Ok(Finding::new(topology::UE_NWU))
    })?;
    nothing_stays(report, world, &before)
}

fn in_ue(world: &World, commands: &str) -> Result<()> {
    world.netns(Place::Ue)?.ip_batch(commands)
}

fn uectl(world: &World, arguments: &[&str]) -> Result<()> {
    let socket = world.socket(Role::Ue).display().to_string();
    let words = [&["--control", &socket, "roam"], arguments].concat();
    world.tool(Role::Ue, "uectl", &words).map(drop)
}

fn agreed(world: &World) -> Result<()> {
    let n3iwf = control::n3iwf(world, "sas")?;
    let ue = control::ue(world, "status")?;
    for (name, value, pointer) in [
        ("N3IWF", &n3iwf, "/sas/0/mobike"),
        ("UE", &ue, "/ike/0/mobike"),
    ] {
        if value.pointer(pointer) != Some(&true.into()) {
            bail!("the {name} has no MOBIKE: {value}");
        }
    }
    Ok(())
}

/// Makes the change; then packets pass both ways again, both ends are there in every respect, and the
/// SAs are those of before.
fn moved(
    world: &World,
    attached: &Attached,
    to: &str,
    change: impl FnOnce() -> Result<()>,
) -> Result<Finding> {
    let before = Spis::of(world)?;
    if !before.agreed {
        bail!("the ends do not agree before the move: {before:?}");
    }
    let begun = Instant::now();
    change()?;
    // The kernel of a UE that has not moved its SAs yet may still be heard at an address it keeps.
    exec::wait_for(&format!("both ends at {to}"), PROMPT, || {
        Ok(is_at(world, to).is_ok().then_some(()))
    })
    .or_else(|error| is_at(world, to).map(drop).map_err(|why| why.context(error)))?;
    exec::wait_for("an echo each way", PROMPT, || {
        Ok(echo_each_way(world, attached)?.then_some(()))
    })?;
    let took = begun.elapsed();
    if took > PROMPT {
        bail!("packets passed after {} ms", took.as_millis());
    }
    let after = Spis::of(world)?;
    if after != before {
        bail!("other SAs than before: {before:?} to {after:?}");
    }
    let place = is_at(world, to)?;
    Ok(Finding::new(format!(
        "an echo each way after {} ms; same SPIs; {}",
        took.as_millis(),
        place.detail
    )))
}

fn echo_each_way(world: &World, attached: &Attached) -> Result<bool> {
    let session = attached.address.to_string();
    for (place, from, to) in [
        (Place::Ue, session.as_str(), attached.host),
        (Place::Dn, attached.host, session.as_str()),
    ] {
        let words = ["-n", "-q", "-c", "1", "-W", "1", "-I", from, to];
        // An echo that is lost is asked for again by whoever waits.
        if world.netns(place)?.output("ping", &words).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// IKE at both ends, and every state and every policy of both kernels, have this address of the UE.
fn is_at(world: &World, ue: &str) -> Result<Finding> {
    let n3iwf = control::n3iwf(world, "sas")?;
    let status = control::ue(world, "status")?;
    for (name, value, own, peer, [at, towards]) in [
        (
            "N3IWF",
            &n3iwf,
            "/sas/0/local",
            "/sas/0/remote",
            [topology::N3IWF_NWU, ue],
        ),
        (
            "UE",
            &status,
            "/ike/0/local",
            "/ike/0/remote",
            [ue, topology::N3IWF_NWU],
        ),
    ] {
        let ends = [text(value, own), text(value, peer)];
        let [local, remote] = [socket_address(ends[0])?, socket_address(ends[1])?];
        if [local.ip().to_string(), remote.ip().to_string()] != [at, towards]
            || [local.port(), remote.port()] != [4500, 4500]
        {
            bail!("IKE of the {name}: {local} to {remote}");
        }
    }
    let wanted = BTreeSet::from([ue.to_owned(), topology::N3IWF_NWU.to_owned()]);
    let mut seen = 0;
    for place in [Place::N3iwf, Place::Ue] {
        let netns = world.netns(place)?;
        let (states, listing) = kernel::xfrm_states(netns)?;
        let ends = states
            .iter()
            .map(|state| BTreeSet::from([state.source.clone(), state.destination.clone()]));
        let tunnels = kernel::xfrm_tunnels(netns)?;
        for found in ends.chain(tunnels) {
            seen += 1;
            if found != wanted {
                bail!(
                    "a state or policy of {} is between {found:?}:\n{listing}",
                    place.name()
                );
            }
        }
    }
    if seen == 0 {
        bail!("neither end has a state or a policy");
    }
    Ok(Finding::new(format!(
        "{seen} states and policies between {ue} and {}",
        topology::N3IWF_NWU
    )))
}

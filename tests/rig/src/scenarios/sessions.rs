//! A UE with two PDU sessions.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::faults::{clean_slate, nothing_stays};
use crate::bulk::{self, Direction};
use crate::control::{self, number, text};
use crate::exec;
use crate::files::{DNN, XFRM_INTERFACE};
use crate::report::{Finding, Report};
use crate::steps::{self, Attached};
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// QKD keys of a `native` attach with one PDU session, and of one more.
const KEYS: u64 = 7;
const KEYS_OF_A_CHILD: u64 = 2;
/// Where the second session leads to: another host of the data network.
const SECOND_HOST: &str = "198.18.0.11";
/// Octets of each transfer.
const BULK: u64 = 256 << 10;
/// How long a session may take to come or go.
const LIMIT: Duration = Duration::from_secs(30);
/// Pings of the first session while the second goes.
const PINGS: u32 = 15;

/// Both sessions at once; the second is released, established again, and goes with the UE.
pub(super) fn two_sessions(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("a second session is configured", || configure(world))?;
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let (first, second) = report.step_with("attach", || {
        let first = steps::attach(world)?;
        let second = wait_second(world)?;
        if first.address == second.address {
            bail!("both sessions have {}", first.address);
        }
        let detail = format!("PDU sessions {} and {}", first.address, second.address);
        Ok((Finding::new(detail), (first, second)))
    })?;
    report.step("security associations", || steps::sas(world, 3))?;
    report.step("each session on its own slot", || slots(world))?;
    let both = KEYS + KEYS_OF_A_CHILD;
    report.step("every key is accounted for", || steps::keys(world, both))?;
    report.step("ping through the first", || steps::ping(world, &first, 3))?;
    report.step("ping through the second", || steps::ping(world, &second, 3))?;
    report.step("TCP through both at once", || {
        at_once(world, &first, &second)
    })?;
    report.step("each carried its own", || traffic(world))?;
    report.step("eBPF counters = kernel counters", || steps::counters(world))?;
    report.step("kernel IPsec", || steps::xfrm_states(world, 6))?;
    report.step("the second is released, the first pings on", || {
        release(world, &first)
    })?;
    report.step("security associations", || steps::sas(world, 2))?;
    report.step("kernel IPsec", || steps::xfrm_states(world, 4))?;
    let second = report.step_with("the second is established again", || {
        control::ask(
            world,
            Role::Ue,
            &json!({"request": "establish", "session": 2}),
        )?;
        let second = wait_second(world)?;
        slots(world)?;
        Ok((
            Finding::new(format!("PDU session {}", second.address)),
            second,
        ))
    })?;
    report.step("ping through the second", || steps::ping(world, &second, 3))?;
    report.step("ping through the first", || steps::ping(world, &first, 3))?;
    report.step("every key is accounted for", || {
        steps::keys(world, both + KEYS_OF_A_CHILD)
    })?;
    report.step("eBPF counters = kernel counters", || steps::counters(world))?;
    report.step("deregistration", || steps::deregister(world))?;
    nothing_stays(report, world, &before)
}

fn configure(world: &World) -> Result<Finding> {
    let host = format!("{SECOND_HOST}/24");
    world
        .netns(Place::Dn)?
        .ip(&["address", "add", &host, "dev", "n6"])?;
    let entry = "    interface: uepdu1\n";
    world.reconfigure(Role::Ue, |text| {
        text.replace(
            entry,
            &format!(
                "{entry}  - dnn: {DNN}
    sNssai: {{sst: 1, sd: \"010203\"}}
    routes: [{SECOND_HOST}/32]
    interface: uepdu2
"
            ),
        )
    })?;
    Ok(Finding::new(format!("it leads to {SECOND_HOST}")))
}

fn wait_second(world: &mut World) -> Result<Attached> {
    exec::wait_for("the second PDU session", LIMIT, || {
        world.check_alive()?;
        let status = control::ue(world, "status")?;
        let up = status.pointer("/sessions/1/up").and_then(Value::as_bool);
        if up != Some(true) {
            return Ok(None);
        }
        Ok(Some(Attached {
            address: steps::address(&status, 1)?,
            host: SECOND_HOST,
        }))
    })
}

/// The Child SA of a PDU session at the N3IWF.
fn child(sas: &Value, session: u8) -> Result<&Value> {
    let name = format!("pdu-{session}");
    sas.pointer("/sas/0/child-sas")
        .and_then(Value::as_array)
        .and_then(|children| children.iter().find(|child| text(child, "/name") == name))
        .with_context(|| format!("no Child SA {name}"))
}

/// Same selectors, so another XFRM interface; keys of its own.
fn slots(world: &World) -> Result<Finding> {
    let sas = control::n3iwf(world, "sas")?;
    let mut ids = Vec::new();
    let mut keys = Vec::new();
    for (session, slot) in [(1, 0), (2, 1)] {
        let child = child(&sas, session)?;
        let actual = number(child, "/pdu-session/slot")?;
        if actual != slot {
            bail!("PDU session {session} is on slot {actual}");
        }
        ids.push(number(child, "/if-id")?);
        let own = child.get("key-ids").and_then(Value::as_array);
        keys.extend(own.into_iter().flatten().map(Value::to_string));
    }
    let distinct = |list: &[String]| list.iter().collect::<std::collections::BTreeSet<_>>().len();
    if distinct(&keys) as u64 != 2 * KEYS_OF_A_CHILD {
        bail!("keys {}", keys.join(", "));
    }
    let [first, second] = ids.as_slice() else {
        bail!("{} XFRM interfaces", ids.len())
    };
    if first == second {
        bail!("both on XFRM interface {first}");
    }
    let name = format!("{XFRM_INTERFACE}-1");
    for place in [Place::Ue, Place::N3iwf] {
        if !world.netns(place)?.interfaces()?.contains(&name) {
            bail!("no interface {name} at {}", place.name());
        }
    }
    Ok(Finding::new(format!(
        "XFRM interface IDs {first} and {second}; QKD keys {}",
        keys.join(", ")
    )))
}

/// The first sends while the second receives.
fn at_once(world: &World, first: &Attached, second: &Attached) -> Result<Finding> {
    let (ue, dn) = (world.netns(Place::Ue)?, world.netns(Place::Dn)?);
    let carry = |session: &Attached, way| -> Result<bulk::Transfer> {
        let host: IpAddr = session.host.parse()?;
        bulk::transfer(ue, session.address, dn, host, way, BULK)
    };
    let (up, down) = thread::scope(|scope| {
        let up = scope.spawn(|| carry(first, Direction::Up).context("first session"));
        let down = carry(second, Direction::Down).context("second session");
        (up.join(), down)
    });
    let (up, down) = (up.map_err(|_| anyhow!("a transfer panicked"))??, down?);
    Ok(Finding::new(format!(
        "{} octets up at {:.2} MiB/s, {} down at {:.2} MiB/s, all equal",
        up.octets,
        up.rate(),
        down.octets,
        down.rate()
    )))
}

/// The transfer of each session shows in its own Child SA.
fn traffic(world: &World) -> Result<Finding> {
    let sas = control::n3iwf(world, "sas")?;
    let octets = |session, way: &str| number(child(&sas, session)?, &format!("/{way}/bytes"));
    let up = octets(1, "traffic-in")?;
    let down = octets(2, "traffic-out")?;
    let (back, forth) = (octets(1, "traffic-out")?, octets(2, "traffic-in")?);
    if up < BULK || down < BULK || back >= BULK || forth >= BULK {
        bail!("first: {up} in, {back} out; second: {forth} in, {down} out");
    }
    Ok(Finding::new(format!(
        "first: {up} octets in, {back} out; second: {forth} in, {down} out"
    )))
}

/// Releases the second session by `uectl` while the first pings.
fn release(world: &World, first: &Attached) -> Result<Finding> {
    let socket = world.socket(Role::Ue).display().to_string();
    thread::scope(|scope| {
        let pings = scope.spawn(|| steps::ping(world, first, PINGS));
        let released = world
            .tool(Role::Ue, "uectl", &["--control", &socket, "release", "2"])
            .and_then(|_| {
                let mut left = String::new();
                exec::wait_for("release", LIMIT, || {
                    left = remains(world)?;
                    Ok(left.is_empty().then_some(()))
                })
                .with_context(|| format!("still there: {left}"))
            });
        let pings = pings.join().map_err(|_| anyhow!("ping panicked"))?;
        released?;
        pings.context("the first session")
    })
}

/// What is there of the second session anywhere.
fn remains(world: &World) -> Result<String> {
    let mut left = Vec::new();
    let ue = world.netns(Place::Ue)?;
    if ue.interfaces()?.iter().any(|name| name == "uepdu2") {
        left.push("its interface".to_owned());
    }
    if ue.ip(&["route", "show"])?.contains(SECOND_HOST) {
        left.push("its route".to_owned());
    }
    let ues = control::n3iwf(world, "ues")?;
    let sessions = ues.pointer("/ues/0/sessions").and_then(Value::as_array);
    let count = sessions.context("the N3IWF has no UE")?.len();
    if count != 1 {
        left.push(format!("{count} sessions at the N3IWF"));
    }
    let count = number(&control::core(world, "status")?, "/sessions")?;
    if count != 1 {
        left.push(format!("{count} sessions in the UPF"));
    }
    for place in [Place::Ue, Place::N3iwf] {
        let states = crate::kernel::xfrm_states(world.netns(place)?)?.0.len();
        if states != 4 {
            left.push(format!("{states} XFRM states at {}", place.name()));
        }
    }
    if !ue
        .ip(&["route", "get", topology::DN_HOST])?
        .contains("uepdu1")
    {
        bail!("the first session's route is gone");
    }
    Ok(left.join(", "))
}

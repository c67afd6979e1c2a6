//! Fresh keys under traffic (RFC 7296 2.8).

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::faults::{clean_slate, nothing_stays};
use crate::bulk::Direction;
use crate::control::{self, text};
use crate::exec;
use crate::files::KeyMode;
use crate::report::{Finding, Report};
use crate::steps::{self, Attached};
use crate::topology::Place;
use crate::world::{Role, World};

/// QKD keys of an attach, of a rekeyed Child SA and of a rekeyed IKE SA.
#[derive(Clone, Copy)]
struct Cost {
    attach: u64,
    child: u64,
    ike: u64,
}

impl Cost {
    const fn of(mode: KeyMode) -> Self {
        let (attach, child, ike) = match mode {
            KeyMode::Qkd => (7, 2, 3),
            KeyMode::Hybrid => (1, 1, 1),
            KeyMode::Psk | KeyMode::Cert => (0, 0, 0),
        };
        Self { attach, child, ike }
    }
}

/// Signalling and one PDU session.
const CHILDREN: u64 = 2;
/// How often each side rekeys both kinds of SA.
const ROUNDS: u64 = 2;
/// Echoes, one every hundredth of a second, while that happens.
const PINGS: u32 = 2000;
/// The N3IWF's kernel asks for a rekey after so many octets one way, and so many are sent.
const SOFT_BYTES: u64 = 2 << 20;
const BULK: u64 = 3 << 20;
/// How long a rekey may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long what was replaced stays for packets on their way, and some.
const DRAIN: Duration = Duration::from_secs(15);

/// Both kinds of SA, from each side and by a limit of the kernel; then the UE goes while its old
/// SAs still drain.
pub(super) fn rekey(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("the N3IWF limits what a Child SA may carry", || {
        let limits =
            format!("dataplane:\n    limits: {{softBytes: {SOFT_BYTES}, jitterPercent: 0}}\n");
        world.reconfigure(Role::N3iwf, |text| text.replace("dataplane:\n", &limits))?;
        Ok(Finding::new(format!("{SOFT_BYTES} octets each way")))
    })?;
    let cost = Cost::of(world.options().mode);
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    let attached = report.step_with("attach", || {
        let attached = steps::attach(world)?;
        let detail = format!("PDU session {}", attached.address);
        Ok((Finding::new(detail), attached))
    })?;
    report.step("every SA rekeyed from each side, no echo lost", || {
        under_traffic(world, &attached)
    })?;
    let mut keys = cost.attach + ROUNDS * 2 * (CHILDREN * cost.child + cost.ike);
    report.step("fresh keys for each, every one accounted for", || {
        steps::keys(world, keys)
    })?;
    report.step("what was replaced is gone", || drained(world))?;
    report.step("security associations", || steps::sas(world, 2))?;
    // The recording data plane has neither programs nor limits.
    if !world.options().recording {
        report.step("eBPF counters = kernel counters", || steps::counters(world))?;
        report.step("the kernel's limit, in the middle of a transfer", || {
            by_limit(world, &attached)
        })?;
        keys += cost.child;
    }
    report.step("every key is accounted for", || steps::keys(world, keys))?;
    report.step("TCP to the UE", || {
        steps::tcp(world, &attached, Direction::Down, 256 << 10)
    })?;
    report.step("deregistration while the old ones drain", || {
        rekeyed(world, Role::Ue, false)?;
        steps::deregister(world)
    })?;
    keys += CHILDREN * cost.child;
    report.step("every key is accounted for", || steps::keys(world, keys))?;
    nothing_stays(report, world, &before)
}

fn under_traffic(world: &World, attached: &Attached) -> Result<Finding> {
    thread::scope(|scope| {
        let pings = scope.spawn(|| steps::pings(world, attached, PINGS, "0.01"));
        let mut rekeys = 0;
        for _ in 0..ROUNDS {
            for side in [Role::Ue, Role::N3iwf] {
                for ike in [false, true] {
                    rekeyed(world, side, ike)?;
                    rekeys += 1;
                }
            }
        }
        if pings.is_finished() {
            bail!("the echoes ended before the rekeys did");
        }
        let pings = pings.join().map_err(|_| anyhow!("ping panicked"))?;
        let pings = pings.with_context(|| refusals(world))?;
        let detail = format!(
            "{rekeys} rekeys of IKE SA or all Child SAs; {}",
            pings.detail
        );
        Ok(Finding::new(detail))
    })
}

/// Where packets may have gone: what IPsec of either end and the relay of the N3IWF did not pass.
fn refusals(world: &World) -> String {
    let ipsec = |place: Place| {
        let text = world
            .netns(place)?
            .output("cat", &["/proc/net/xfrm_stat"])?;
        let counted: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| !line.ends_with(" 0"))
            .collect();
        Ok::<_, anyhow::Error>(counted.join(", "))
    };
    let relay = control::n3iwf(world, "counters").map(|reply| {
        let sessions = reply.get("sessions").map(Value::to_string);
        let drops = reply.get("drops").map(Value::to_string);
        format!("{sessions:?}, of no session {drops:?}")
    });
    format!(
        "UE: {:?}; N3IWF: {:?}; relay: {relay:?}",
        ipsec(Place::Ue),
        ipsec(Place::N3iwf)
    )
}

/// Lets one end rekey its IKE SA or all Child SAs, and waits until both ends have the new ones.
pub(super) fn rekeyed(world: &World, side: Role, ike: bool) -> Result<()> {
    let before = Spis::of(world)?;
    let request = match side {
        Role::Ue => json!({"request": "rekey", "ike": ike}),
        _ => {
            let ues = control::n3iwf(world, "ues")?;
            let ue = control::number(&ues, "/ues/0/ue")?;
            json!({"command": "rekey", "ue": ue, "ike": ike})
        }
    };
    control::ask(world, side, &request)?;
    let what = if ike { "the IKE SA" } else { "Child SAs" };
    exec::wait_for(&format!("{what} rekeyed by {}", side.name()), LIMIT, || {
        let now = Spis::of(world)?;
        let (changed, same) = match ike {
            true => (now.ike != before.ike, now.children == before.children),
            false => (
                now.children.is_disjoint(&before.children),
                now.ike == before.ike,
            ),
        };
        if !same {
            bail!("more than {what} changed: {before:?} to {now:?}");
        }
        Ok((changed && now.agreed).then_some(()))
    })
}

/// The transfer goes on through the Child SA that takes over.
fn by_limit(world: &World, attached: &Attached) -> Result<Finding> {
    let before = Spis::of(world)?;
    let done = steps::tcp(world, attached, Direction::Up, BULK)?;
    let after = exec::wait_for("a Child SA rekeyed", LIMIT, || {
        let now = Spis::of(world)?;
        let changed = now.children != before.children;
        Ok((changed && now.agreed).then_some(now))
    })?;
    let stayed = after.children.intersection(&before.children).count();
    if stayed != 1 || after.ike != before.ike {
        bail!("the session's Child SA alone was to be rekeyed: {before:?} to {after:?}");
    }
    Ok(Finding::new(format!("{}; new SPIs", done.detail)))
}

/// Nothing is left but what is in use: in the kernels, or in the data plane of the N3IWF that records instead.
pub(super) fn drained(world: &World) -> Result<Finding> {
    if !world.options().recording {
        return exec::wait_for("old states gone", DRAIN, || {
            Ok(steps::xfrm_states(world, 4).ok())
        });
    }
    exec::wait_for("old Child SAs gone", DRAIN, || {
        let counters = control::n3iwf(world, "counters")?;
        let held = counters.get("sas").and_then(Value::as_array);
        let held = held.context("no list of Child SAs")?.len() as u64;
        Ok((held == CHILDREN).then_some(()))
    })?;
    Ok(Finding::new(format!("{CHILDREN} Child SAs, recorded")))
}

/// What tells the SAs of the one UE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spis {
    ike: (String, String),
    /// UE to N3IWF, and back.
    children: BTreeSet<(String, String)>,
    /// Whether both ends name the same, and each Child SA is in use.
    pub(super) agreed: bool,
}

impl Spis {
    pub(super) fn of(world: &World) -> Result<Self> {
        let n3iwf = control::n3iwf(world, "sas")?;
        let ue = control::ue(world, "status")?;
        let pair = |value: &Value, first: &str, second: &str| {
            (
                text(value, first).to_owned(),
                text(value, second).to_owned(),
            )
        };
        let list = |value: &Value, pointer: &str, first: &str, second: &str| {
            let rows = value.pointer(pointer).and_then(Value::as_array);
            let rows = rows.with_context(|| format!("no {pointer} in {value}"))?;
            let pairs = rows.iter().map(|row| pair(row, first, second));
            Ok::<_, anyhow::Error>(pairs.collect::<BTreeSet<_>>())
        };
        let children = list(&n3iwf, "/sas/0/child-sas", "/spi-in", "/spi-out")?;
        let theirs = list(&ue, "/ike/0/children", "/spiOut", "/spiIn")?;
        let ike = pair(&n3iwf, "/sas/0/initiator-spi", "/sas/0/responder-spi");
        let agreed = children == theirs
            && children.len() as u64 == CHILDREN
            && ike == pair(&ue, "/ike/0/spiI", "/ike/0/spiR");
        Ok(Self {
            ike,
            children,
            agreed,
        })
    }
}

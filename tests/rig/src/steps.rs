//! Steps that scenarios are made of. Each checks something and says what it saw.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::account::KeyAccount;
use crate::bulk::{self, Direction};
use crate::checks;
use crate::control::{self, number, text};
use crate::echoes;
use crate::exec;
use crate::files::KeyMode;
use crate::kernel;
use crate::report::{Finding, Report};
use crate::topology::{self, Place};
use crate::world::{Role, World};

/// How long an attach may take, retries of the UE included.
pub const ATTACH: Duration = Duration::from_secs(60);

/// A UE that is attached.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Address of its PDU session.
    pub address: IpAddr,
    /// The host of the data network that the session leads to.
    pub host: &'static str,
}

/// Starts KMEs, core and N3IWF, each ready before the next.
pub fn bring_up(report: &mut Report, world: &mut World) -> Option<()> {
    report.step("KMEs, core and N3IWF are ready", || {
        for role in [Role::KmeA, Role::KmeB] {
            world.start(role)?;
        }
        control::wait_kme_link(world)?;
        world.start(Role::Core)?;
        world.start(Role::N3iwf)?;
        wait_n3iwf(world)?;
        Ok(Finding::new("each in its namespace, NG Setup done"))
    })
}

/// Waits until a UE could attach.
///
/// # Errors
/// When the N3IWF has no AMF in time.
pub fn wait_n3iwf(world: &World) -> Result<()> {
    exec::wait_for("N3IWF ready", Duration::from_secs(30), || {
        let status = control::n3iwf(world, "status")?;
        Ok(status
            .get("ready")
            .and_then(Value::as_bool)
            .unwrap_or(false)
            .then_some(()))
    })
    .context("no AMF took the N3IWF's NG SETUP")
}

/// Starts the UE if it is not running and waits until it is registered with its PDU session up.
///
/// # Errors
/// With what the UE says of its last failure.
pub fn attach(world: &mut World) -> Result<Attached> {
    if world.process(Role::Ue).is_err() {
        world.start(Role::Ue)?;
    }
    wait_attached(world, ATTACH)
}

/// Waits until the UE is registered and its PDU session is up.
///
/// # Errors
/// With what the UE says of its last failure.
pub fn wait_attached(world: &mut World, limit: Duration) -> Result<Attached> {
    let mut last = Value::Null;
    let waited = exec::wait_for("attach", limit, || {
        world.check_alive()?;
        last = control::ue(world, "status")?;
        if text(&last, "/state") != "registered" {
            return Ok(None);
        }
        let up = last
            .pointer("/sessions/0/up")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        if let Some(failure) = last.pointer("/sessions/0/failure").and_then(Value::as_str) {
            bail!("PDU session: {failure}");
        }
        Ok(up.then_some(()))
    });
    waited.with_context(|| {
        format!(
            "UE: {}, last failure: {:?}",
            text(&last, "/state"),
            text(&last, "/lastFailure")
        )
    })?;
    Ok(Attached {
        address: address(&last, 0)?,
        host: topology::DN_HOST,
    })
}

/// Address of the PDU session at `index` of a UE's status.
///
/// # Errors
/// When it has none.
pub fn address(status: &Value, index: usize) -> Result<IpAddr> {
    let address = text(status, &format!("/sessions/{index}/address"));
    let plain = address.split('/').next().unwrap_or(address);
    plain
        .parse()
        .with_context(|| format!("address {address:?}"))
}

/// Waits until an attach of the UE has failed and says why.
///
/// # Errors
/// When it attaches, or nothing is said in time.
pub fn wait_failure(world: &mut World, limit: Duration) -> Result<String> {
    let before = control::ue(world, "status").ok();
    let known = before
        .as_ref()
        .and_then(|s| number(s, "/failures").ok())
        .unwrap_or(0);
    exec::wait_for("a failed attach", limit, || {
        world.check_alive()?;
        let status = control::ue(world, "status")?;
        if text(&status, "/state") == "registered" {
            bail!("it attached");
        }
        let reason = text(&status, "/lastFailure");
        let more = number(&status, "/failures").unwrap_or(0) > known || known > 0;
        Ok((more && !reason.is_empty()).then(|| reason.to_owned()))
    })
}

/// Asks the UE to deregister and waits until both ends and the core have forgotten it.
///
/// # Errors
/// Says what is still there.
pub fn deregister(world: &World) -> Result<Finding> {
    let begun = Instant::now();
    control::ue(world, "deregister")?;
    exec::wait_for("deregistration", Duration::from_secs(20), || {
        let status = control::ue(world, "status")?;
        Ok((text(&status, "/state") == "detached").then_some(()))
    })?;
    forgotten(world, Duration::from_secs(20))?;
    Ok(Finding::new(format!(
        "done in {} ms",
        begun.elapsed().as_millis()
    )))
}

/// Waits until N3IWF and core hold nothing of any UE: no IKE SA, no inner address, no key, no
/// context, no session, no XFRM state or policy at the N3IWF.
///
/// # Errors
/// Says what is still there.
pub fn forgotten(world: &World, limit: Duration) -> Result<()> {
    let mut left = String::new();
    let waited = exec::wait_for("everything of the UE gone", limit, || {
        left = remains(world)?;
        Ok(left.is_empty().then_some(()))
    });
    if left.is_empty() {
        waited
    } else {
        bail!("still there after {} s: {left}", limit.as_secs())
    }
}

fn remains(world: &World) -> Result<String> {
    let mut left = Vec::new();
    let mut count = |what: &str, number: u64| {
        if number > 0 {
            left.push(format!("{number} {what}"));
        }
    };
    let status = control::n3iwf(world, "status")?;
    count("IKE SAs", number(&status, "/ike_sas")?);
    count("UEs in the N3IWF", number(&status, "/ues")?);
    count("inner addresses", number(&status, "/addresses_taken")?);
    let account = KeyAccount::of(world, Role::N3iwf)?;
    count(
        "keys in the N3IWF",
        account.held.saturating_sub(account.ahead),
    );
    // The core may be down on purpose.
    if let Ok(core) = control::core(world, "status") {
        count("UEs in the core", number(&core, "/ues")?);
        count("sessions in the UPF", number(&core, "/sessions")?);
    }
    let netns = world.netns(Place::N3iwf)?;
    count("XFRM states", kernel::xfrm_states(netns)?.0.len() as u64);
    count("XFRM policies", kernel::xfrm_policies(netns)? as u64);
    Ok(left.join(", "))
}

/// Ping through the PDU session.
///
/// # Errors
/// When any echo is lost.
pub fn ping(world: &World, attached: &Attached, count: u32) -> Result<Finding> {
    pings(world, attached, count, "0.2")
}

/// One echo request through the PDU session, answered or not.
///
/// # Errors
/// When ping could not send it.
pub fn echo(world: &World, attached: &Attached) -> Result<()> {
    let words = format!("-n -q -c 1 -W 1 -I {} {}", attached.address, attached.host);
    run_ping(world, &words).map(drop)
}

/// What `ping` at the UE prints, whether all is answered, some or nothing.
fn run_ping(world: &World, words: &str) -> Result<String> {
    // Exit code 1: some are not answered.
    let script = format!("ping {words}; [ $? -le 1 ]");
    world.netns(Place::Ue)?.output("sh", &["-c", &script])
}

/// Ping through the PDU session, one every `interval` seconds.
///
/// # Errors
/// When any echo is lost.
pub fn pings(world: &World, attached: &Attached, count: u32, interval: &str) -> Result<Finding> {
    let source = attached.address.to_string();
    let words = echoes::words(&source, attached.host, count, interval);
    let printed = run_ping(world, &words.join(" "))?;
    let lost = echoes::unanswered(&printed, count);
    if !lost.is_empty() {
        bail!("{} of {count} not answered: {lost:?}", lost.len());
    }
    Ok(Finding::new(format!(
        "{count} of {count} answered; {}",
        echoes::times(&printed)
    )))
}

/// TCP through the PDU session, every octet compared.
///
/// # Errors
/// When it stalls or an octet differs.
pub fn tcp(world: &World, attached: &Attached, way: Direction, octets: u64) -> Result<Finding> {
    let done = bulk::transfer(
        world.netns(Place::Ue)?,
        attached.address,
        world.netns(Place::Dn)?,
        attached.host.parse()?,
        way,
        octets,
    )?;
    Ok(Finding::new(format!(
        "{} octets, all equal, {:.2} MiB/s",
        done.octets,
        done.rate()
    )))
}

/// The pinned eBPF counters against the kernel's SA counters, at the N3IWF.
///
/// # Errors
/// When they differ and keep differing.
pub fn counters(world: &World) -> Result<Finding> {
    let netns = world.netns(Place::N3iwf)?;
    let mut outcome = Ok(Finding::default());
    // A packet may pass between the two readings: look again before calling it a difference.
    for _ in 0..5 {
        let (states, _) = kernel::xfrm_states(netns)?;
        let (counted, dump) = kernel::sa_counters(&world.pins())?;
        outcome = checks::counters_agree(&states, &counted, topology::N3IWF_NWU).map(|table| {
            Finding::new(format!(
                "{} SAs, packets equal, octets within what ESP adds",
                states.len()
            ))
            .with_exhibit(format!(
                "{table}\n$ bpftool map dump pinned …/nwu_sas\n{}",
                first_lines(&dump, 40)
            ))
        });
        if outcome.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    outcome
}

fn first_lines(text: &str, count: usize) -> String {
    let mut lines: Vec<&str> = text.lines().take(count).collect();
    let all = text.lines().count();
    let more = format!("… {} more lines", all.saturating_sub(count));
    if all > count {
        lines.push(&more);
    }
    lines.join("\n")
}

/// `ip -s xfrm state` of the N3IWF: tunnel-mode states bound to the XFRM interface, none of which
/// refused a packet.
///
/// # Errors
/// Names the state that is not as it should be.
pub fn xfrm_states(world: &World, expected: usize) -> Result<Finding> {
    let mut all = String::new();
    for place in [Place::N3iwf, Place::Ue] {
        let (states, listing) = kernel::xfrm_states(world.netns(place)?)?;
        if states.len() != expected {
            bail!(
                "{} states at {} instead of {expected}",
                states.len(),
                place.name()
            );
        }
        for state in &states {
            if state.mode != "tunnel" || state.if_id == 0 || state.reqid == 0 {
                bail!("{state:?}: not tunnel mode with if_id and reqid");
            }
            if state.refused() > 0 {
                bail!("SPI {:08x} refused {} packets", state.spi, state.refused());
            }
        }
        if place == Place::N3iwf {
            all = listing;
        }
    }
    Ok(Finding::new(format!(
        "{expected} states at each end, none refused a packet"
    ))
    .with_exhibit(format!("$ ip -s xfrm state list nokeys\n{all}")))
}

/// The key account of both ends: all that was fetched keys something, and both fetched the same.
///
/// # Errors
/// When a key was lost, is held, or one end has more than the other.
pub fn keys(world: &World, expected: u64) -> Result<Finding> {
    let n3iwf = KeyAccount::of(world, Role::N3iwf)?;
    let ue = KeyAccount::of(world, Role::Ue)?;
    let good = KeyAccount {
        fetched: expected,
        used: expected,
        lost: 0,
        held: 0,
        ahead: 0,
    };
    if n3iwf != good || ue != good {
        bail!("expected {good}; N3IWF: {n3iwf}; UE: {ue}");
    }
    let socket = world.socket(Role::N3iwf).display().to_string();
    let listing = world.tool(Role::N3iwf, "n3iwfctl", &["--socket", &socket, "keys"])?;
    Ok(Finding::new(format!("both ends: {n3iwf}")).with_exhibit(listing))
}

/// The SA table of `n3iwfctl sas`.
///
/// # Errors
/// When there is not one IKE SA with that many Child SAs.
pub fn sas(world: &World, children: usize) -> Result<Finding> {
    let reply = control::n3iwf(world, "sas")?;
    let list = reply
        .get("sas")
        .and_then(Value::as_array)
        .context("no list of SAs")?;
    let [sa] = list.as_slice() else {
        bail!("{} IKE SAs", list.len())
    };
    if text(sa, "/state") != "ESTABLISHED" {
        bail!("state {}", text(sa, "/state"));
    }
    mode(world, sa)?;
    let installed = sa
        .get("child-sas")
        .and_then(Value::as_array)
        .map_or(0, |list| {
            list.iter()
                .filter(|c| text(c, "/state") == "INSTALLED")
                .count()
        });
    if installed != children {
        bail!("{installed} Child SAs installed instead of {children}");
    }
    let socket = world.socket(Role::N3iwf).display().to_string();
    let table = world.tool(Role::N3iwf, "n3iwfctl", &["--socket", &socket, "sas"])?;
    let detail = format!(
        "{} ({}) with {installed} Child SAs, {}",
        text(sa, "/mode"),
        text(sa, "/policy"),
        text(sa, "/suite")
    );
    Ok(Finding::new(detail).with_exhibit(table))
}

/// Both ends show the mode that was asked for, and a key exchange exactly where it has one.
fn mode(world: &World, n3iwf: &Value) -> Result<()> {
    let options = world.options();
    let wanted = match options.mode {
        KeyMode::Qkd => format!("qkd-{}", options.profile.name()),
        other => other.name().to_owned(),
    };
    let status = control::ue(world, "status")?;
    let ue = status.pointer("/ike/0").context("the UE has no IKE SA")?;
    for (name, sa, method) in [
        ("N3IWF", n3iwf, "/key-exchange"),
        ("UE", ue, "/keyExchange"),
    ] {
        if text(sa, "/mode") != wanted {
            bail!("{name}: mode {:?} instead of {wanted}", text(sa, "/mode"));
        }
        if text(sa, method).is_empty() == options.mode.exchanges_keys() {
            bail!(
                "{name}: key exchange {:?} in mode {wanted}",
                text(sa, method)
            );
        }
    }
    if let Some(fallback) = ue.pointer("/fallback") {
        bail!("the UE fell back: {fallback}");
    }
    Ok(())
}

/// Where the time of the attach went, as N3IWF and UE account for it.
///
/// # Errors
/// When either end has no timeline of all phases.
pub fn timeline(world: &World) -> Result<Finding> {
    let n3iwf = control::n3iwf(world, "ues")?;
    let ue = control::ue(world, "status")?;
    let rows = |value: &Value, pointer: &str| -> Result<Vec<[f64; 4]>> {
        let rows = value
            .pointer(pointer)
            .and_then(Value::as_array)
            .context("no timeline")?;
        if rows.len() != 3 {
            bail!("{} phases instead of 3", rows.len());
        }
        let ms = |row: &Value, key: &str| {
            row.get(key)
                .and_then(Value::as_f64)
                .map(|us| us / 1000.0)
                .context("no time")
        };
        rows.iter()
            .map(|row| {
                Ok([
                    ms(row, "wall_us")?,
                    ms(row, "own_us")?,
                    ms(row, "kms_us")?,
                    ms(row, "core_us")?,
                ])
            })
            .collect()
    };
    let n3iwf = rows(&n3iwf, "/ues/0/timeline")?;
    let ue = rows(&ue, "/timeline")?;
    let mut table = format!(
        "{:<7}{:>10}{:>10}{:>10}{:>10} |{:>10}{:>10}{:>10}\n",
        "ms", "N3IWF", "own code", "KMS", "core", "UE", "own code", "KMS"
    );
    let mut sums = [0.0; 7];
    for ((name, n), u) in ["INIT", "AUTH", "CHILD"].iter().zip(&n3iwf).zip(&ue) {
        let cells = [n[0], n[1], n[2], n[3], u[0], u[1], u[2]];
        for (sum, cell) in sums.iter_mut().zip(cells) {
            *sum += cell;
        }
        table.push_str(&time_row(name, &cells));
    }
    table.push_str(&time_row("total", &sums));
    Ok(Finding::new(format!("{:.1} ms at the UE", sums[4])).with_exhibit(table))
}

fn time_row(name: &str, [n, own, kms, core, ue, ue_own, ue_kms]: &[f64; 7]) -> String {
    format!(
        "{name:<7}{n:>10.2}{own:>10.2}{kms:>10.2}{core:>10.2} |{ue:>10.2}{ue_own:>10.2}{ue_kms:>10.2}\n"
    )
}

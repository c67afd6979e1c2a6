//! What a daemon may do while it serves, and which keys are in its memory.

use std::time::Duration;

use anyhow::{Result, bail};

use super::faults::{clean_slate, nothing_stays};
use crate::exec;
use crate::inside::{self, Found, Thread};
use crate::report::{Finding, Report};
use crate::steps;
use crate::world::{Role, World};

/// The daemons that hold keys.
const DAEMONS: [Role; 2] = [Role::N3iwf, Role::Ue];
/// `CAP_NET_ADMIN` and `CAP_NET_RAW` (linux/capability.h).
const SERVE: u64 = 1 << 12 | 1 << 13;
/// The first two keys of an attach in mode qkd are SK_ei and SK_er, and live as long as the IKE SA.
const OF_THE_IKE_SA: [usize; 2] = [0, 1];
/// QKD keys of an attach: two of the IKE SA, four of two Child SAs, one to authenticate with.
const KEYS: usize = 7;
/// How long a connection to a KME is kept without use, and some more.
const IDLE: Duration = Duration::from_secs(30);

/// Rights of every thread, and a search for each QKD key: attached, and detached.
pub(super) fn hygiene(report: &mut Report, world: &mut World) -> Option<()> {
    let before = clean_slate(report, world)?;
    steps::bring_up(report, world)?;
    report.step("attach", || {
        let attached = steps::attach(world)?;
        Ok(Finding::new(format!("PDU session {}", attached.address)))
    })?;
    for role in DAEMONS {
        let name = format!("rights of {}", role.name());
        report.step(&name, || rights(world, role))?;
    }
    report.step("attached: only SK_ei and SK_er are in memory", || {
        keys(world, &OF_THE_IKE_SA)
    })?;
    report.step("deregistration", || steps::deregister(world))?;
    report.step("detached: no key is in memory", || keys(world, &[]))?;
    nothing_stays(report, world, &before)
}

fn rights(world: &mut World, role: Role) -> Result<Finding> {
    let pid = world.process(role)?.id();
    let threads = Thread::all(pid)?;
    for thread in &threads {
        let relay = thread.name.starts_with("relay-");
        let allowed = if relay { 0 } else { SERVE };
        if thread.capabilities & !allowed != 0 {
            bail!("{thread:x?} has more than {allowed:#x}");
        }
        if !thread.no_new_privs || !thread.filtered {
            bail!("{thread:?} is not confined");
        }
    }
    // What is not in use is not within reach either: no setuid program, no file capability.
    let full = (1 << 40) - 1;
    if threads.iter().any(|thread| thread.bounding & full == full) {
        bail!("the bounding set is everything");
    }
    let relays = threads.iter().filter(|t| t.name.starts_with("relay-"));
    let relays = relays.count();
    if relays == 0 {
        bail!("no thread of a relay: it would be unchecked");
    }
    let locked = inside::locked(pid)?;
    if locked == 0 && inside::may_lock()? {
        bail!("no memory is locked");
    }
    Ok(Finding::new(format!(
        "{} threads, {relays} of them without any capability, the others with NET_ADMIN and \
         NET_RAW at most; no_new_privs, seccomp; {locked} KiB locked",
        threads.len()
    )))
}

/// Each daemon has none of the keys but those of `allowed`, and those as octets alone.
fn keys(world: &mut World, allowed: &[usize]) -> Result<Finding> {
    let mut told = Vec::new();
    for (role, kme) in [(Role::N3iwf, Role::KmeA), (Role::Ue, Role::KmeB)] {
        let keys = inside::journal(&world.journal(kme))?;
        if keys.len() != KEYS {
            bail!("{} has delivered {} keys", kme.name(), keys.len());
        }
        let pid = world.process(role)?.id();
        let mut found = Vec::new();
        let fine = |one: &Found| one.shape == "octets" && allowed.contains(&one.key);
        let waited = exec::wait_for("keys gone", IDLE, || {
            found = inside::search(pid, &keys)?;
            Ok(found.iter().all(fine).then_some(()))
        });
        if let Some(one) = found.iter().find(|one| !fine(one)) {
            bail!("{}: {one:?}, of {found:?}", role.name());
        }
        waited?;
        // A search that finds nothing anywhere has looked at nothing.
        if allowed
            .iter()
            .any(|key| !found.iter().any(|one| one.key == *key))
        {
            bail!("{}: SK_ei or SK_er is not where it must be", role.name());
        }
        told.push(format!("{}: {} places", role.name(), found.len()));
    }
    Ok(Finding::new(told.join(", ")))
}

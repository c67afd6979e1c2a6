//! What must hold: after every event, once everybody is attached, and at the end.

use std::collections::{BTreeSet, HashSet};

use ike::SaStatus;
use ue_user::core::ue::State;

use crate::{
    plane::Plane,
    world::{Violation, World},
};

fn fail(what: String) -> Result<(), Violation> {
    Err(Violation::new(what))
}

/// After every event.
pub(crate) fn always(world: &World) -> Result<(), Violation> {
    balanced(world)?;
    for (index, host) in world.ues.iter().enumerate() {
        match &host.ue {
            Some(ue) => whole(
                &format!("UE {index}"),
                &host.plane,
                |child| ue.knows_child(child),
                ue.sas(),
            )?,
            None if host.plane.len() > 0 => {
                return fail(format!("UE {index}: Child SAs without a daemon"));
            }
            None => {}
        }
    }
    let Some(gateway) = world.n3iwf.look() else {
        return Ok(());
    };
    let ues = gateway.ues(world.now);
    let inner: BTreeSet<_> = ues.iter().filter_map(|ue| ue.inner).collect();
    let taken = ues.iter().filter(|ue| ue.inner.is_some()).count();
    if inner.len() != taken || gateway.addresses_taken() != taken {
        return fail(format!(
            "{taken} UEs with {} inner addresses, {} of the pool taken",
            inner.len(),
            gateway.addresses_taken()
        ));
    }
    let known: HashSet<u64> = ues
        .iter()
        .flat_map(|ue| &ue.children)
        .map(|child| child.child)
        .collect();
    whole(
        "N3IWF",
        &world.n3iwf.plane,
        |child| known.contains(&child),
        gateway.sas(),
    )?;
    let sessions: HashSet<u32> = ues
        .iter()
        .flat_map(|ue| &ue.sessions)
        .map(|session| session.dl_teid)
        .collect();
    match world
        .n3iwf
        .relay
        .keys()
        .find(|teid| !sessions.contains(teid))
    {
        Some(teid) => fail(format!("downlink TEID {teid} is relayed for nobody")),
        None => Ok(()),
    }
}

/// No SA is half there: what a kernel has its daemon knows, and what a daemon takes for installed its kernel has.
fn whole(
    who: &str,
    plane: &Plane,
    known: impl Fn(u64) -> bool,
    sas: impl IntoIterator<Item = SaStatus>,
) -> Result<(), Violation> {
    if let Some(child) = plane.children().find(|child| !known(child.number())) {
        return fail(format!(
            "{who}: the kernel has Child SA {child}, the daemon has not"
        ));
    }
    for child in sas.into_iter().flat_map(|sa| sa.children) {
        if child.up && !plane.has(child.id, child.spi_in, child.spi_out) {
            return fail(format!(
                "{who}: Child SA {} is up and not in the kernel",
                child.id
            ));
        }
    }
    Ok(())
}

/// The account and the daemons say the same: what is held is in an IKE SA or in store, and the account has it.
fn balanced(world: &World) -> Result<(), Violation> {
    let (mut ahead, mut in_sas) = (0, 0);
    if let Some(gateway) = world.n3iwf.look() {
        ahead = gateway.held_ahead().values().sum();
        in_sas = gateway.keys_in_sas();
    }
    let account = &world.n3iwf.account;
    account.exact()?;
    if account.held() != (ahead + in_sas) as u64 {
        return fail(format!(
            "N3IWF: {} keys held by the account, {ahead} ahead and {in_sas} in IKE SAs",
            account.held()
        ));
    }
    for (index, host) in world.ues.iter().enumerate() {
        host.account.exact()?;
        let in_sas = host.ue.as_ref().map_or(0, ue_user::core::ue::Ue::keys_held);
        if host.account.held() != in_sas as u64 {
            return fail(format!(
                "UE {index}: {} keys held by the account, {in_sas} in IKE SAs",
                host.account.held()
            ));
        }
    }
    Ok(())
}

/// Everybody is registered with a PDU session, and all sides agree about it.
pub(crate) fn attached(world: &World) -> Result<(), Violation> {
    for (index, host) in world.ues.iter().enumerate() {
        if host.state() != Some(State::Registered) {
            let status = host.ue.as_ref().map(|ue| ue.status(world.now));
            let failure = status.and_then(|status| status.last_failure);
            return fail(format!("UE {index} is {:?}, {failure:?}", host.state()));
        }
        if host.interfaces.is_empty() || host.plane.len() != 1 + host.interfaces.len() {
            return fail(format!(
                "UE {index}: {} interfaces, {} Child SAs",
                host.interfaces.len(),
                host.plane.len()
            ));
        }
        if let Some(sa) = host.plane.sas().find(|sa| !world.n3iwf.plane.matches(sa)) {
            return fail(format!(
                "UE {index}: SPI {:08x} is unknown to the N3IWF",
                sa.spi_in
            ));
        }
    }
    agree_on_addresses(world)?;
    let of_ues: usize = world.ues.iter().map(|host| host.plane.len()).sum();
    if world.n3iwf.plane.len() != of_ues {
        return fail(format!(
            "the N3IWF has {} Child SAs, the UEs {of_ues}",
            world.n3iwf.plane.len()
        ));
    }
    let interfaces: usize = world.ues.iter().map(|host| host.interfaces.len()).sum();
    if world.n3iwf.relay.len() != interfaces {
        return fail(format!(
            "the N3IWF relays {} PDU sessions, the UEs have {interfaces}",
            world.n3iwf.relay.len()
        ));
    }
    for session in world.n3iwf.relay.values() {
        if world.core.upf.get(&session.ul_teid) != Some(&Some(session.dl_teid)) {
            return fail(format!("the UPF does not know TEID {}", session.ul_teid));
        }
    }
    let registered = world
        .core
        .amf
        .as_ref()
        .map_or(0, |amf| amf.ue_status().len());
    if registered != world.ues.len() || world.core.upf.len() != interfaces {
        return fail(format!(
            "the core has {registered} UEs and {} PDU sessions",
            world.core.upf.len()
        ));
    }
    Ok(())
}

/// Each UE's inner address is one that the N3IWF has for a UE, and no two UEs have the same.
fn agree_on_addresses(world: &World) -> Result<(), Violation> {
    let given: BTreeSet<_> = world
        .n3iwf
        .look()
        .map(|gateway| gateway.ues(world.now))
        .unwrap_or_default()
        .iter()
        .filter_map(|ue| ue.inner)
        .collect();
    let had: BTreeSet<_> = world
        .ues
        .iter()
        .filter_map(|host| host.ue.as_ref()?.status(world.now).inner_address)
        .collect();
    if had.len() != world.ues.len() || given != had {
        return fail(format!("inner addresses: {given:?} given, {had:?} in use"));
    }
    Ok(())
}

/// Nothing is left anywhere.
pub(crate) fn empty(world: &World) -> Result<(), Violation> {
    for (index, host) in world.ues.iter().enumerate() {
        if host.state() != Some(State::Detached) {
            return fail(format!("UE {index} is {:?}", host.state()));
        }
        let left = (host.plane.len(), host.interfaces.len(), host.account.held());
        if left != (0, 0, 0) {
            return fail(format!(
                "UE {index}: {left:?} Child SAs, interfaces, keys left"
            ));
        }
    }
    let gateway = world
        .n3iwf
        .look()
        .ok_or_else(|| Violation::new("no N3IWF"))?;
    let left = [
        gateway.ues(world.now).len(),
        gateway.sas().len(),
        gateway.addresses_taken(),
        world.n3iwf.plane.len(),
        world.n3iwf.relay.len(),
        gateway.keys_in_sas(),
    ];
    if left != [0; 6] {
        return fail(format!(
            "N3IWF: {left:?} UEs, IKE SAs, addresses, Child SAs, PDU sessions, keys left"
        ));
    }
    let contexts = world
        .core
        .amf
        .as_ref()
        .map_or(0, |amf| amf.ue_status().len());
    if (contexts, world.core.upf.len(), world.nas.len()) != (0, 0, 0) {
        return fail(format!(
            "core: {contexts} UE contexts, {} PDU sessions, {} NAS connections left",
            world.core.upf.len(),
            world.nas.len()
        ));
    }
    for account in world.ues.iter().map(|host| &host.account) {
        account.nothing_listed()?;
    }
    world.n3iwf.account.nothing_listed()
}

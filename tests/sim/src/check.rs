//! What must hold: after every event, once everybody is attached, and at the end.

use std::collections::{BTreeSet, HashMap};

use ike::Fate;
use keys::{KeyId, QkdKey};
use ue_user::core::ue::State;

use crate::world::{Violation, World};

/// The account of one host's keys: fetched = used + lost + held.
pub(crate) struct Account {
    who: String,
    keys: HashMap<KeyId, Option<Fate>>,
}

impl Account {
    pub(crate) fn new(who: String) -> Self {
        Self {
            who,
            keys: HashMap::new(),
        }
    }

    pub(crate) fn fetched(&mut self, keys: &[QkdKey]) {
        for key in keys {
            self.keys.insert(key.id, None);
        }
    }

    /// Books a fate: once for each key, and only for keys that were fetched.
    pub(crate) fn fate(&mut self, id: KeyId, fate: Fate) -> Result<(), Violation> {
        match self.keys.get_mut(&id) {
            Some(slot @ None) => {
                *slot = Some(fate);
                Ok(())
            }
            Some(Some(earlier)) => Err(Violation::new(format!(
                "{}: key {id} is {fate:?} after {earlier:?}",
                self.who
            ))),
            None => Err(Violation::new(format!(
                "{}: key {id}, never fetched, is {fate:?}",
                self.who
            ))),
        }
    }

    /// What the process held died with it.
    pub(crate) fn crashed(&mut self) {
        for slot in self.keys.values_mut() {
            slot.get_or_insert(Fate::Lost);
        }
    }

    /// These came back to a process that is gone.
    pub(crate) fn came_too_late(&mut self, keys: &[QkdKey]) {
        for key in keys {
            self.keys.insert(key.id, Some(Fate::Lost));
        }
    }

    fn count(&self, of: fn(&Option<Fate>) -> bool) -> u64 {
        self.keys.values().filter(|fate| of(fate)).count() as u64
    }

    pub(crate) fn all(&self) -> u64 {
        self.count(|_| true)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.count(|fate| *fate == Some(Fate::Lost))
    }

    pub(crate) fn held(&self) -> u64 {
        self.count(Option::is_none)
    }
}

fn fail(what: String) -> Result<(), Violation> {
    Err(Violation::new(what))
}

/// After every event.
pub(crate) fn always(world: &World) -> Result<(), Violation> {
    balanced(world)?;
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
    let children: usize = ues.iter().map(|ue| ue.children.len()).sum();
    if world.n3iwf.plane.len() > children {
        return fail(format!(
            "the N3IWF's kernel has {} Child SAs, its daemon knows {children}",
            world.n3iwf.plane.len()
        ));
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
    if account.held() != (ahead + in_sas) as u64 {
        return fail(format!(
            "N3IWF: {} keys held by the account, {ahead} ahead and {in_sas} in IKE SAs",
            account.held()
        ));
    }
    for (index, host) in world.ues.iter().enumerate() {
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
    Ok(())
}

/// A key has one purpose, the same at both ends.
pub(crate) fn account(world: &World) -> Result<(), Violation> {
    for host in &world.ues {
        for (id, purpose) in &host.used {
            if let Some(other) = world.n3iwf.used.get(id)
                && other != purpose
            {
                return fail(format!("key {id} is {purpose:?} here and {other:?} there"));
            }
        }
    }
    Ok(())
}

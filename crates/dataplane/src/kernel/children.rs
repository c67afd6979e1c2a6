//! What is installed of a Child SA: all of it in an order that loses no packet, or none.

use std::net::SocketAddr;

use ebpf_common::{PLANE_CONTROL, PLANE_USER, SaInfo};

use super::{Running, interfaces::Host, readings::Carried};
use crate::{
    ChildSaSpec, Config, Error, Plane, Role, SaReading, Suite,
    bpf::SaKeys,
    xfrm::{Direction, Place, PolicyKey, StateId},
};

/// What is remembered of a Child SA: everything but its keys.
pub(super) struct Installed {
    pub(super) plane: Plane,
    pub(super) ue: u32,
    pub(super) pdu_session: Option<u8>,
    pub(super) spi_in: u32,
    pub(super) spi_out: u32,
    pub(super) place: Place,
    pub(super) inbound: StateId,
    pub(super) outbound: StateId,
    pub(super) policies: Vec<PolicyKey>,
    pub(super) host: Option<Host>,
    pub(super) keys: SaKeys,
    /// The outbound state, with its key, until [`crate::Dataplane::switch`].
    pub(super) held: Option<Box<ChildSaSpec>>,
    /// Our outer address and the peer's, with the ports of ESP in UDP.
    pub(super) outer: (SocketAddr, SocketAddr),
    pub(super) udp_encap: bool,
    /// What was counted before the states moved: they begin anew then.
    pub(super) carried: Carried,
    pub(super) info: SaInfo,
}

/// A step of `install` that was done.
enum Step {
    Accounting(SaKeys),
    State(StateId),
    Policy(PolicyKey),
    Host(Host),
}

impl Running {
    pub(super) fn install(
        &mut self,
        config: &Config,
        sa: ChildSaSpec,
        both: bool,
    ) -> Result<(), Error> {
        sa.check(config.options.slots)
            .map_err(|source| Error::Spec { id: sa.id, source })?;
        if self.sas.contains_key(&sa.id) {
            return Err(Error::Exists(sa.id));
        }
        let place = Place {
            if_id: config.interface_id + sa.slot,
            reqid: config.options.reqid_base + sa.reqid,
        };
        let mut done = Vec::new();
        match self.try_install(config, &sa, place, both, &mut done) {
            Ok(mut installed) => {
                let id = sa.id;
                installed.held = (!both).then(|| Box::new(sa));
                self.sas.insert(id, installed);
                Ok(())
            }
            Err(error) => {
                for step in done.into_iter().rev() {
                    if let Err(e) = self.undo(step) {
                        tracing::warn!(child_sa = sa.id, error = %e, "undoing a failed install");
                    }
                }
                Err(error)
            }
        }
    }

    fn try_install(
        &mut self,
        config: &Config,
        sa: &ChildSaSpec,
        place: Place,
        both: bool,
        done: &mut Vec<Step>,
    ) -> Result<Installed, Error> {
        self.slot(config, sa.slot)?;
        let host = (config.role == Role::Ue).then_some(Host {
            slot: sa.slot,
            local: sa.inner_local,
            remote: sa.inner_remote,
        });
        if let Some(host) = host {
            self.add_host(host)?;
            done.push(Step::Host(host));
        }
        let keys = SaKeys::new(sa.spi_in, sa.spi_out, sa.remote);
        if let Some(accounting) = &mut self.accounting {
            accounting.add(&keys, info(sa, place.reqid))?;
            done.push(Step::Accounting(keys));
        }
        let (inbound, outbound) = (StateId::inbound(sa), StateId::outbound(sa));
        let limits = &config.options.limits;
        let states = [(inbound, Direction::In), (outbound, Direction::Out)];
        for (id, direction) in states.into_iter().take(if both { 2 } else { 1 }) {
            let added = self.db.add_state(sa, place, direction, limits);
            if added.as_ref().err().is_none_or(Error::is_in_doubt) {
                done.push(Step::State(id));
            }
            added?;
            self.db.check_state(sa, place, direction, limits)?;
        }
        let mut policies = Vec::with_capacity(3);
        // Outbound last: no packet leaves before the answer to it can come in.
        for direction in [Direction::In, Direction::Forward, Direction::Out] {
            let key = PolicyKey::new(sa, place, direction);
            let shared = self.policies.get(&key).copied().unwrap_or(0);
            if shared == 0 {
                let added = self.db.add_policy(sa, place, direction);
                if added.as_ref().is_err_and(Error::is_in_doubt)
                    && let Err(error) = self.db.delete_policy(&key)
                {
                    tracing::warn!(child_sa = sa.id, %error, "a policy in doubt");
                }
                added?;
            }
            self.policies.insert(key.clone(), shared + 1);
            done.push(Step::Policy(key.clone()));
            self.db.check_policy(sa, place, direction)?;
            policies.push(key);
        }
        Ok(Installed {
            plane: sa.plane,
            ue: sa.ue,
            pdu_session: sa.pdu_session,
            spi_in: sa.spi_in,
            spi_out: sa.spi_out,
            place,
            inbound,
            outbound,
            policies,
            host,
            keys,
            held: None,
            outer: (sa.local, sa.remote),
            udp_encap: sa.udp_encap,
            carried: Carried::default(),
            info: info(sa, place.reqid),
        })
    }

    /// Adds the outbound state that was held back. The kernel takes the newest state of a reqid, so
    /// what it replaces carries nothing more.
    pub(super) fn switch(&mut self, config: &Config, id: u64) -> Result<(), Error> {
        let Some(installed) = self.sas.get_mut(&id) else {
            return Err(Error::Config(format!("there is no Child SA {id}")));
        };
        let Some(sa) = installed.held.take() else {
            return Ok(());
        };
        let (place, state) = (installed.place, installed.outbound);
        let mut switched = self.add_outbound(config, &sa, place, state);
        if switched.is_err() {
            // Without it the UE is cut off once the old one goes, and nobody asks a second time.
            switched = self.add_outbound(config, &sa, place, state);
        }
        if switched.is_err()
            && let Some(installed) = self.sas.get_mut(&id)
        {
            installed.held = Some(sa);
        }
        switched
    }

    /// The outbound state, or none of it.
    fn add_outbound(
        &mut self,
        config: &Config,
        sa: &ChildSaSpec,
        place: Place,
        state: StateId,
    ) -> Result<(), Error> {
        let limits = &config.options.limits;
        let added = self.db.add_state(sa, place, Direction::Out, limits);
        let made = added.as_ref().err().is_none_or(Error::is_in_doubt);
        let whole = added.and_then(|()| self.db.check_state(sa, place, Direction::Out, limits));
        if whole.is_err() && made {
            self.db.delete_state(state)?;
        }
        whole
    }

    /// Takes a Child SA away and reads its counters while it still has them.
    pub(super) fn remove(&mut self, id: u64) -> Result<Option<SaReading>, Error> {
        let Some(installed) = self.sas.remove(&id) else {
            return Ok(None);
        };
        let mut first_error = None;
        let mut note = |result: Result<(), Error>| {
            if let Err(e) = result {
                tracing::warn!(child_sa = id, error = %e, "removing a Child SA");
                first_error.get_or_insert(e);
            }
        };
        // Outbound policy first: nothing new enters the tunnel while it is taken down.
        for key in installed.policies.iter().rev() {
            note(self.release_policy(key));
        }
        let reading = self
            .state_counters(&[&installed])
            .and_then(|counters| self.reading(id, &installed, &counters));
        for state in [installed.outbound, installed.inbound] {
            note(self.db.delete_state(state).map(drop));
        }
        if let Some(accounting) = &mut self.accounting {
            accounting.remove(&installed.keys);
        }
        if let Some(host) = installed.host {
            note(self.release_host(host));
        }
        match first_error {
            Some(error) => Err(error),
            None => reading.map(Some),
        }
    }

    fn undo(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Accounting(keys) => {
                if let Some(accounting) = &mut self.accounting {
                    accounting.remove(&keys);
                }
                Ok(())
            }
            Step::State(id) => self.db.delete_state(id).map(drop),
            Step::Policy(key) => self.release_policy(&key),
            Step::Host(host) => self.release_host(host),
        }
    }

    fn release_policy(&mut self, key: &PolicyKey) -> Result<(), Error> {
        match self.policies.get_mut(key) {
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            _ => {
                self.policies.remove(key);
                self.db.delete_policy(key).map(drop)
            }
        }
    }
}

pub(crate) fn info(sa: &ChildSaSpec, reqid: u32) -> SaInfo {
    let suite = Suite {
        encr: sa.encr,
        integ: sa.integ,
    };
    let octets = |len| u8::try_from(len).unwrap_or(0);
    SaInfo {
        ue: sa.ue,
        reqid,
        plane: match sa.plane {
            Plane::Control => PLANE_CONTROL,
            Plane::User => PLANE_USER,
        },
        pdu_session: sa.pdu_session.unwrap_or(0),
        iv_len: octets(suite.iv()),
        icv_len: octets(suite.icv()),
        block_len: octets(suite.block()),
        encrypted: 0,
        unused: 0,
    }
}

//! Counters of Child SAs: the kernel's, those of the programs on NWu, and what limits say of them.

use std::collections::BTreeMap;

use super::{Running, children::Installed};
use crate::{
    Config, Error, Refused, SaReading, Traffic,
    notice::StateNotice,
    xfrm::{StateCounters, StateId},
};

/// Up to here, counters are read state by state; above, all at once.
const SINGLE_READS: usize = 32;

/// Counters of states that are no more.
#[derive(Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) inbound: Traffic,
    pub(super) outbound: Traffic,
    pub(super) refused: Refused,
    /// Of the eBPF entry of another remote address.
    pub(super) ebpf_out: Traffic,
}

impl Running {
    pub(super) fn state_counters(
        &mut self,
        sas: &[&Installed],
    ) -> Result<BTreeMap<StateId, StateCounters>, Error> {
        let mut found = BTreeMap::new();
        if sas.len() > SINGLE_READS {
            for state in self.db.states()? {
                if let Some(id) = state.id {
                    found.insert(id, state);
                }
            }
            return Ok(found);
        }
        for id in sas.iter().flat_map(|sa| [sa.inbound, sa.outbound]) {
            if let Some(state) = self.db.state(id)? {
                found.insert(id, state);
            }
        }
        Ok(found)
    }

    pub(super) fn reading(
        &self,
        id: u64,
        sa: &Installed,
        states: &BTreeMap<StateId, StateCounters>,
    ) -> Result<SaReading, Error> {
        let inbound = states.get(&sa.inbound);
        let outbound = states.get(&sa.outbound);
        let traffic =
            |state: Option<&StateCounters>| state.map_or(Traffic::default(), |state| state.traffic);
        let counters = match &self.accounting {
            Some(accounting) => Some(accounting.counters(&sa.keys)?),
            None => None,
        };
        Ok(SaReading {
            id,
            plane: sa.plane,
            ue: sa.ue,
            pdu_session: sa.pdu_session,
            spi_in: sa.spi_in,
            spi_out: sa.spi_out,
            if_id: sa.place.if_id,
            reqid: sa.place.reqid,
            in_kernel: inbound.is_some() && (outbound.is_some() || sa.held.is_some()),
            kernel_in: traffic(inbound) + sa.carried.inbound,
            kernel_out: traffic(outbound) + sa.carried.outbound,
            refused: inbound.map_or(Refused::default(), |state| state.refused) + sa.carried.refused,
            ebpf_in: counters.map(|counters| counters.inbound),
            ebpf_out: counters.map(|counters| counters.outbound + sa.carried.ebpf_out),
        })
    }

    pub(super) fn readings(&mut self) -> Result<Vec<SaReading>, Error> {
        let sas = std::mem::take(&mut self.sas);
        let result = self
            .state_counters(&sas.values().collect::<Vec<_>>())
            .and_then(|states| {
                sas.iter()
                    .map(|(id, sa)| self.reading(*id, sa, &states))
                    .collect()
            });
        self.sas = sas;
        result
    }

    /// What the kernel has told or would tell of limits, from its counters: for when it could not tell.
    pub(super) fn past_limits(
        &mut self,
        config: &Config,
    ) -> Result<Vec<(StateId, StateNotice)>, Error> {
        let limits = &config.options.limits;
        if !limits.any() {
            return Ok(Vec::new());
        }
        let counters: BTreeMap<StateId, Traffic> = self
            .db
            .states()?
            .into_iter()
            .filter_map(|state| Some((state.id?, state.traffic)))
            .collect();
        let mut past = Vec::new();
        for sa in self.sas.values() {
            let outbound = sa.held.is_none().then_some(sa.outbound);
            for state in [Some(sa.inbound), outbound].into_iter().flatten() {
                // A state that is gone has reached a hard limit: nobody else takes it away.
                let hard = match counters.get(&state) {
                    None => true,
                    Some(traffic) if limits.are_reached(*traffic, sa.spi_in) => false,
                    Some(_) => continue,
                };
                past.push((state, StateNotice::Expired { hard }));
            }
        }
        Ok(past)
    }
}

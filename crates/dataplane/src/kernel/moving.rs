//! Outer addresses and ports that change while a Child SA lives (RFC 7296 section 2.23, RFC 4555).
//!
//! `XFRM_MSG_MIGRATE` takes one direction at a time: its policy's template, and the newest state of
//! the reqid between the old addresses. The kernel copies keys and sequence numbers to a new state;
//! counters begin anew there, so what was counted before is carried along here. A packet that a state
//! takes between that reading and its move is missing in its counters, and in no others.

use std::{net::SocketAddr, ops::Add};

use super::{Installed, Running};
use crate::{
    Error, Refused, Seen, Traffic,
    bpf::SaKeys,
    xfrm::{Direction, Migration, StateId},
};

impl Running {
    pub(super) fn relocate(
        &mut self,
        id: u64,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> Result<(), Error> {
        let Some(mut sa) = self.sas.remove(&id) else {
            return Err(Error::Config(format!("there is no Child SA {id}")));
        };
        let result = self.try_relocate(&mut sa, local, remote, udp_encap);
        self.sas.insert(id, sa);
        result
    }

    fn try_relocate(
        &mut self,
        sa: &mut Installed,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> Result<(), Error> {
        let old = sa.outer;
        // A kernel copies the encapsulation of a state that moves; it is not taken away.
        let udp_encap = udp_encap || sa.udp_encap;
        if old == (local, remote) && udp_encap == sa.udp_encap {
            return Ok(());
        }
        sa.udp_encap = udp_encap;
        if let Some(held) = &mut sa.held {
            (held.local, held.remote) = (local, remote);
            held.udp_encap = udp_encap;
        }
        let before = self.state_counters(&[sa])?;
        // Outbound first: that is what a peer elsewhere waits for. A state that is held back has
        // nothing to move.
        for key in sa.policies.iter().rev() {
            if sa.held.is_some() && key.direction == Direction::Out {
                continue;
            }
            let (from, to) = match key.direction {
                Direction::Out => (old, (local, remote)),
                Direction::In | Direction::Forward => ((old.1, old.0), (remote, local)),
            };
            let migration = Migration::new(sa.place, from, to, sa.udp_encap);
            self.db.migrate(key, &migration)?;
        }
        let (inbound, outbound) = (sa.inbound, sa.outbound);
        sa.outer = (local, remote);
        sa.inbound = StateId {
            destination: local.ip(),
            ..inbound
        };
        sa.outbound = StateId {
            destination: remote.ip(),
            ..outbound
        };
        let after = self.state_counters(&[sa])?;
        // What a kernel copies is there already.
        let lost = |was: StateId, is: StateId| {
            let was = before.get(&was).copied().unwrap_or_default();
            let is = after.get(&is).copied().unwrap_or_default();
            (was.traffic.packets > is.traffic.packets).then_some(was)
        };
        if let Some(was) = lost(inbound, sa.inbound) {
            sa.carried.inbound = sa.carried.inbound + was.traffic;
            sa.carried.refused = sa.carried.refused + was.refused;
        }
        if let Some(was) = lost(outbound, sa.outbound) {
            sa.carried.outbound = sa.carried.outbound + was.traffic;
        }
        if old.1.ip() != remote.ip()
            && let Some(accounting) = &mut self.accounting
        {
            let keys = SaKeys::new(sa.spi_in, sa.spi_out, remote);
            let counted = accounting.counters(&sa.keys)?.outbound;
            accounting.move_outbound(&sa.keys, &keys, sa.info)?;
            sa.keys = keys;
            sa.carried.ebpf_out = sa.carried.ebpf_out
                + Traffic {
                    packets: counted.packets,
                    bytes: counted.bytes,
                };
        }
        Ok(())
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Add<Traffic> for Seen {
    type Output = Self;

    fn add(self, other: Traffic) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
            ..self
        }
    }
}

impl Add for Refused {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            replay_window: self.replay_window.saturating_add(other.replay_window),
            replay: self.replay.saturating_add(other.replay),
            integrity: self.integrity.saturating_add(other.integrity),
        }
    }
}

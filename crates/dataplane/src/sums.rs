//! Traffic of everything that was ever installed, as sums that never go back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{
    Plane, SaReading, Traffic,
    relay::{Drops, SessionReading},
};

/// Sums over all Child SAs and PDU sessions, those that are gone included. Octets of ESP are those
/// of inner packets, as the kernel counts them; octets of the relay are those of PDUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Signalling Child SAs, from the peer.
    pub control_in: Traffic,
    /// Signalling Child SAs, to the peer.
    pub control_out: Traffic,
    /// User-plane Child SAs, from the peer.
    pub user_in: Traffic,
    /// User-plane Child SAs, to the peer.
    pub user_out: Traffic,
    /// Refused by inbound states: seen before, or below the replay window.
    pub refused_replay: u64,
    /// Refused by inbound states: wrong ICV.
    pub refused_integrity: u64,
    /// Relayed from UEs.
    pub relay_up: Traffic,
    /// Relayed to UEs.
    pub relay_down: Traffic,
    /// Not relayed.
    pub drops: Drops,
}

/// Keeps what is gone, so that a sum does not fall when a Child SA or a session ends.
#[derive(Debug, Default)]
pub struct Sums(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    gone: Totals,
    told: Totals,
}

impl Sums {
    /// A Child SA was removed with these counters.
    pub fn sa_gone(&self, last: &SaReading) {
        self.lock().gone.add_sa(last);
    }

    /// A session ended with these counters.
    pub fn session_gone(&self, last: &SessionReading) {
        self.lock().gone.add_session(last);
    }

    /// The sums, given what is there now.
    ///
    /// One that is removed between the reading of `sas` and this call is in neither, or in both:
    /// the former would make a sum fall for a moment, and is kept from doing so.
    pub fn total(&self, sas: &[SaReading], sessions: &[SessionReading], stray: &Drops) -> Totals {
        let mut inner = self.lock();
        let mut total = inner.gone;
        for sa in sas {
            total.add_sa(sa);
        }
        for session in sessions {
            total.add_session(session);
        }
        merge(&mut total.drops, stray, u64::saturating_add);
        total.raise(&inner.told);
        inner.told = total;
        total
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn add_sa(&mut self, sa: &SaReading) {
        let (inbound, outbound) = match sa.plane {
            Plane::Control => (&mut self.control_in, &mut self.control_out),
            Plane::User => (&mut self.user_in, &mut self.user_out),
        };
        inbound.add(sa.kernel_in);
        outbound.add(sa.kernel_out);
        self.refused_replay += u64::from(sa.refused.replay) + u64::from(sa.refused.replay_window);
        self.refused_integrity += u64::from(sa.refused.integrity);
    }

    fn add_session(&mut self, session: &SessionReading) {
        self.relay_up.add(session.uplink);
        self.relay_down.add(session.downlink);
        merge(&mut self.drops, &session.drops, u64::saturating_add);
    }

    /// Every number at least that of `floor`.
    fn raise(&mut self, floor: &Self) {
        for (own, floor) in [
            (&mut self.control_in, floor.control_in),
            (&mut self.control_out, floor.control_out),
            (&mut self.user_in, floor.user_in),
            (&mut self.user_out, floor.user_out),
            (&mut self.relay_up, floor.relay_up),
            (&mut self.relay_down, floor.relay_down),
        ] {
            own.packets = own.packets.max(floor.packets);
            own.bytes = own.bytes.max(floor.bytes);
        }
        self.refused_replay = self.refused_replay.max(floor.refused_replay);
        self.refused_integrity = self.refused_integrity.max(floor.refused_integrity);
        merge(&mut self.drops, &floor.drops, u64::max);
    }
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Each number of `own` becomes what `by` makes of it and that of `other`.
fn merge(own: &mut Drops, other: &Drops, by: fn(u64, u64) -> u64) {
    *own = Drops {
        no_session: by(own.no_session, other.no_session),
        qfi_not_allowed: by(own.qfi_not_allowed, other.qfi_not_allowed),
        wrong_address: by(own.wrong_address, other.wrong_address),
        malformed: by(own.malformed, other.malformed),
        wrong_sa: by(own.wrong_sa, other.wrong_sa),
        too_big: by(own.too_big, other.too_big),
        rate: by(own.rate, other.rate),
        send_failed: by(own.send_failed, other.send_failed),
    };
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{Refused, relay::Path};

    fn sa(id: u64, plane: Plane, packets: u64) -> SaReading {
        let kernel_in = Traffic {
            packets,
            bytes: packets * 100,
        };
        SaReading {
            id,
            plane,
            ue: 1,
            pdu_session: None,
            spi_in: 1,
            spi_out: 2,
            if_id: 1,
            reqid: 1,
            in_kernel: true,
            kernel_in,
            kernel_out: Traffic::default(),
            refused: Refused {
                replay_window: 1,
                replay: 1,
                integrity: 1,
            },
            ebpf_in: None,
            ebpf_out: None,
        }
    }

    fn session(packets: u64) -> SessionReading {
        SessionReading {
            pdu_session: 1,
            dl_teid: 1,
            address: Ipv4Addr::LOCALHOST,
            uplink: Traffic {
                packets,
                bytes: packets,
            },
            downlink: Traffic::default(),
            drops: Drops {
                malformed: 2,
                ..Drops::default()
            },
            flows: Vec::new(),
            path: Path::User,
        }
    }

    #[test]
    fn what_is_gone_still_counts_and_nothing_falls() {
        let sums = Sums::default();
        let stray = Drops {
            no_session: 3,
            ..Drops::default()
        };
        let first = sums.total(
            &[sa(1, Plane::User, 5), sa(2, Plane::Control, 7)],
            &[session(4)],
            &stray,
        );
        assert_eq!(
            first.user_in,
            Traffic {
                packets: 5,
                bytes: 500
            }
        );
        assert_eq!(first.control_in.packets, 7);
        assert_eq!((first.refused_replay, first.refused_integrity), (4, 2));
        assert_eq!((first.drops.no_session, first.drops.malformed), (3, 2));
        // Removed, but not booked yet: what was told stands.
        assert_eq!(sums.total(&[], &[], &stray), first);
        sums.sa_gone(&sa(1, Plane::User, 6));
        sums.sa_gone(&sa(2, Plane::Control, 7));
        sums.session_gone(&session(9));
        let last = sums.total(&[sa(3, Plane::User, 1)], &[], &stray);
        assert_eq!(last.user_in.packets, 7);
        assert_eq!(last.control_in.packets, 7);
        assert_eq!(last.relay_up.packets, 9);
    }
}

//! AMFs that want less to do, or that go out of service (TS 38.413, 8.7.6 to 8.7.8).

use std::{collections::HashMap, time::Duration};

use ike::{Instant, SaId};
use keys::SaeId;
use nwu::{AnParameters, Guami};
use tracing::{info, warn};

use super::{N3iwf, types::AmfNumber};
use crate::ngap::{Overload, Withdrawn};

/// How long a UE that an overloaded AMF did not take gets no QKD key for another attempt.
const PAUSE: Duration = Duration::from_secs(10);
/// Such UEs remembered at most.
const MOST: usize = 16_384;

/// What an AMF that is in service has said about its load.
#[derive(Default)]
pub(super) struct Load {
    overload: Option<Overload>,
    /// Percent of an attach that is still to be turned away: so the share is met exactly, without chance.
    owed: u16,
    withdrawn: Vec<Withdrawn>,
    turned_away: u64,
}

impl Load {
    pub(super) fn overload(&self) -> Option<&Overload> {
        self.overload.as_ref()
    }

    pub(super) const fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// Begins anew with the next association.
    pub(super) fn reset(&mut self) {
        *self = Self {
            turned_away: self.turned_away,
            ..Self::default()
        };
    }

    pub(super) fn withdrawn(&self) -> &[Withdrawn] {
        &self.withdrawn
    }

    pub(super) fn serves(&self, guami: &Guami) -> bool {
        !self.withdrawn.iter().any(|gone| gone.guami == *guami)
    }

    /// Of GUAMIs that are told anew, none is withdrawn.
    pub(super) fn restore(&mut self, served: &[Guami]) {
        self.withdrawn.retain(|gone| !served.contains(&gone.guami));
    }

    /// Whether this UE is one of those that the AMF shall not get.
    pub(super) fn turns_away(&mut self, ue: &AnParameters) -> bool {
        let share = self
            .overload
            .as_ref()
            .map_or(0, |overload| overload.share(ue));
        self.owed += u16::from(share.min(100));
        let away = share > 0 && self.owed >= 100;
        if away {
            self.owed -= 100;
            self.turned_away += 1;
        }
        away
    }
}

/// UEs that were turned away a moment ago.
#[derive(Default)]
pub(super) struct TurnedAway(HashMap<SaeId, Instant>);

impl TurnedAway {
    fn note(&mut self, now: Instant, slave: SaeId) {
        if self.0.len() >= MOST {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() < MOST {
            self.0.insert(slave, now + PAUSE);
        }
    }

    fn has(&self, now: Instant, slave: &SaeId) -> bool {
        self.0.get(slave).is_some_and(|until| *until > now)
    }
}

impl N3iwf {
    /// OVERLOAD START; it takes the place of an earlier one.
    pub(super) fn overload_started(&mut self, amf: AmfNumber, overload: Overload) {
        warn!(amf = self.amf_name(amf), what = %overload, "OVERLOAD START");
        if let Some(entry) = self.amfs.get_mut(amf).filter(|entry| entry.is_ready()) {
            entry.load.overload = Some(overload);
            entry.load.owed = 0;
        }
    }

    /// OVERLOAD STOP, of some GUAMIs or of all.
    pub(super) fn overload_stopped(&mut self, amf: AmfNumber, guamis: &[Guami]) {
        info!(
            amf = self.amf_name(amf),
            guamis = guamis.len(),
            "OVERLOAD STOP"
        );
        let Some(entry) = self.amfs.get_mut(amf) else {
            return;
        };
        let Some(overload) = &mut entry.load.overload else {
            return;
        };
        overload.guamis.retain(|guami| !guamis.contains(guami));
        if guamis.is_empty() || overload.guamis.is_empty() {
            entry.load.overload = None;
        }
    }

    /// AMF STATUS INDICATION: UEs of these GUAMIs attach elsewhere from now on. Those that are attached stay
    /// until the AMF, which has their contexts, says otherwise.
    pub(super) fn guamis_withdrawn(&mut self, amf: AmfNumber, list: Vec<Withdrawn>) {
        warn!(amf = self.amf_name(amf), ?list, "GUAMIs go out of service");
        if let Some(entry) = self.amfs.get_mut(amf).filter(|entry| entry.is_ready()) {
            let known = &mut entry.load.withdrawn;
            known.retain(|old| list.iter().all(|new| new.guami != old.guami));
            // What it does not serve it cannot withdraw: so the list stays as short as the served one.
            let served = &entry.info.guamis;
            known.extend(list.into_iter().filter(|new| served.contains(&new.guami)));
        }
    }

    /// The UE of this IKE SA was not taken: its next attempts cost no key for a while.
    pub(super) fn note_turned_away(&mut self, now: Instant, sa: SaId) {
        if let Some(slave) = self.desk.peer_of(sa) {
            self.turned_away.note(now, slave.clone());
        }
    }

    /// Whether an attach of this peer would cost keys for nothing: no AMF takes any ordinary attach, and one of
    /// this peer was turned away a moment ago. Only EAP-5G says what an attach is for, so whoever has not
    /// tried yet may be an emergency and is heard.
    pub(super) fn would_be_turned_away(&self, now: Instant, slave: &SaeId) -> bool {
        self.turned_away.has(now, slave)
            && self
                .amfs
                .iter()
                .filter(|amf| amf.in_service())
                .all(|amf| amf.load.overload().is_some_and(Overload::is_total))
    }
}

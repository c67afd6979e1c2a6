//! What the AMF tells N3IWFs of its load and of its GUAMI (TS 38.413, 8.7.6 to 8.7.8).

use std::time::Duration;

use oxirush_ngap::Error;
use serde::{Deserialize, Serialize};

use crate::amf::{Action, Amf, AssociationId};
use crate::ngap;

/// Overload Action (TS 38.413, 9.3.1.105).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverloadAction {
    /// reject-non-emergency-mo-dt
    RejectMoData,
    /// reject-rrc-cr-signalling
    RejectSignalling,
    /// permit-emergency-sessions-and-mobile-terminated-services-only
    EmergencyOnly,
    /// permit-high-priority-sessions-and-mobile-terminated-services-only
    HighPriorityOnly,
}

impl Amf {
    /// OVERLOAD START.
    pub fn overload(
        &mut self,
        now: Duration,
        action: Option<OverloadAction>,
        percent: Option<u8>,
    ) -> Vec<Action> {
        self.tell_all(now, "OverloadStart", || {
            ngap::overload_start(action, percent)
        })
    }

    /// OVERLOAD STOP.
    pub fn relax(&mut self, now: Duration) -> Vec<Action> {
        self.tell_all(now, "OverloadStop", ngap::overload_stop)
    }

    /// AMF STATUS INDICATION: the GUAMI goes out of service.
    pub fn withdraw(&mut self, now: Duration, backup: Option<&str>) -> Vec<Action> {
        let config = self.config.clone();
        self.tell_all(now, "AMFStatusIndication", || {
            ngap::status_indication(&config, backup)
        })
    }

    fn tell_all(
        &mut self,
        now: Duration,
        name: &'static str,
        build: impl Fn() -> Result<Vec<u8>, Error>,
    ) -> Vec<Action> {
        self.advance(now);
        let nodes: Vec<AssociationId> = self.associations.keys().copied().collect();
        for association in nodes {
            self.emit(association, None, &[name], build());
        }
        std::mem::take(&mut self.ready)
    }
}

//! Attaches that come before the AMF does.
//!
//! After a start the UEs of before are as quick as the association. A refusal would keep each of them away for
//! seconds: nothing authenticates it, so a UE goes on waiting for a better answer and then backs off. So while an
//! association is being set up and no AMF is in service, an attach waits for it, without a key.

use std::{collections::VecDeque, time::Duration};

use daemon::timeline::{Party, Timeline};
use ike::{Instant, SaId};

use super::{N3iwf, keydesk::Ask};

/// How long an attach waits at most: less than a UE repeats its IKE_SA_INIT.
const PATIENCE: Duration = Duration::from_secs(5);
/// Attaches that wait at most; those beyond are refused.
const MOST: usize = 1024;

/// Attaches that wait, in the order they came.
#[derive(Default)]
pub(super) struct Early(VecDeque<(Instant, Ask)>);

impl Early {
    /// When the first of them has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.front().map(|(until, _)| *until)
    }

    /// The IKE SA is gone.
    pub(super) fn forget(&mut self, sa: SaId) {
        self.0.retain(|(_, ask)| ask.sa != sa);
    }
}

impl N3iwf {
    /// Whether an attach is to wait for an association that is being set up.
    fn waits_for_amf(&self) -> bool {
        !self.stopping && !self.any_amf_ready() && self.any_amf_coming()
    }

    /// Lets an attach wait, if there is something to wait for and room for it; otherwise gives it back.
    pub(super) fn wait_for_amf(&mut self, now: Instant, ask: Ask) -> Option<Ask> {
        if !self.waits_for_amf() || self.early.0.len() >= MOST {
            return Some(ask);
        }
        self.half_open
            .entry(ask.sa)
            .or_insert_with(|| Timeline::begin(now.since_origin()))
            .wait(Party::Core, now.since_origin());
        self.early.0.push_back((now + PATIENCE, ask));
        None
    }

    /// Goes on with those that have nothing to wait for any more, be it with keys or with a refusal.
    pub(super) fn early_attaches(&mut self, now: Instant) {
        let waits = self.waits_for_amf();
        while let Some((until, ask)) = self.early.0.pop_front() {
            if waits && until > now {
                self.early.0.push_front((until, ask));
                return;
            }
            if let Some(timeline) = self.timeline(ask.sa) {
                timeline.done_waiting(Party::Core, now.since_origin());
            }
            self.attach_keys(now, ask);
        }
    }
}

//! What Prometheus is told of one UE.

mod families;

use std::{collections::BTreeMap, time::Duration};

use daemon::timeline::{Phase, Row};
use dataplane::{ClassReading, Totals};
use metrics::{Exporter, Histogram, Page};
use qkd::Kms;

use self::families as f;
pub use self::families::ALL;
use crate::core::ue::{AttachFailure, Census, State};

/// The daemon's port on loopback (`metrics.listen` names another).
pub const PORT: u16 = 9733;

/// All states, for a series each.
const STATES: [(State, &str); 7] = [
    (State::Detached, "detached"),
    (State::BackingOff, "backing_off"),
    (State::Connecting, "connecting"),
    (State::Authenticating, "authenticating"),
    (State::Registering, "registering"),
    (State::Registered, "registered"),
    (State::Detaching, "detaching"),
];

/// What came of attaches so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    attached: bool,
    attaches: BTreeMap<&'static str, u64>,
    detaches: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// The UE is attached.
    pub(crate) fn attached(&mut self) {
        self.attached = true;
        *self.attaches.entry("attached").or_default() += 1;
    }

    /// An attach failed, or one that had succeeded ended.
    pub(crate) fn detached(&mut self, failure: Option<&AttachFailure>) {
        let ends = if std::mem::take(&mut self.attached) {
            &mut self.detaches
        } else {
            &mut self.attaches
        };
        let why = failure.map_or("requested", AttachFailure::label);
        *ends.entry(why).or_default() += 1;
    }
}

/// Everything read at one moment.
pub(crate) struct Observed {
    pub(crate) census: Census,
    pub(crate) counts: Counts,
    pub(crate) classes: Option<ClassReading>,
    pub(crate) totals: Totals,
}

/// What is collected between scrapes.
pub(crate) struct Metrics {
    exporter: Exporter,
    phases: Histogram<1>,
    kms: Option<Kms>,
    peer_sae: bool,
}

impl Metrics {
    pub(crate) fn new(options: &metrics::Options, kms: Option<&Kms>) -> Self {
        let exporter = Exporter::new();
        let requests = exporter.histogram(&f::KMS_REQUESTS);
        if let Some(kms) = kms {
            kms.observe(move |seen| requests.observe([seen.operation, seen.outcome], seen.took));
        }
        Self {
            phases: exporter.histogram(&f::PHASE),
            exporter,
            kms: kms.cloned(),
            peer_sae: options.peer_sae,
        }
    }

    /// The phases of an attach that succeeded.
    pub(crate) fn attached(&self, timeline: &[Row]) {
        for row in timeline {
            let phase = match row.phase {
                Phase::Init => "init",
                Phase::Auth => "auth",
                Phase::Child => "child",
            };
            self.phases
                .observe([phase], Duration::from_micros(row.wall_us));
        }
    }

    pub(crate) fn page(&self, seen: &Observed) -> String {
        let mut page = Page::new();
        page.put(&f::BUILD, [env!("CARGO_PKG_VERSION")], true);
        attaches(&mut page, seen);
        f::FAMILIES.ike(&mut page, &seen.census.ike, &seen.census.messages);
        self.keys(&mut page);
        f::FAMILIES.traffic(&mut page, seen.classes.as_ref(), &seen.totals);
        self.exporter.write(page)
    }

    fn keys(&self, page: &mut Page) {
        let kms = self.kms.as_ref();
        let total = kms.map(|kms| kms.account().total()).unwrap_or_default();
        let endpoints = kms.map(Kms::health).unwrap_or_default();
        f::FAMILIES.keys(page, &total, &endpoints);
        if let Some(kms) = kms.filter(|_| self.peer_sae) {
            f::FAMILIES.peers(page, &kms.account().totals());
        }
    }
}

fn attaches(page: &mut Page, seen: &Observed) {
    for (state, name) in STATES {
        page.put(&f::STATE, [name], seen.census.state == state);
    }
    page.put(&f::FAILURES, [], u64::from(seen.census.failures));
    let attached = seen.counts.attaches.get("attached").copied();
    page.put(&f::ATTACHES, ["attached"], attached.unwrap_or_default());
    for (outcome, count) in &seen.counts.attaches {
        if *outcome != "attached" {
            page.put(&f::ATTACHES, [outcome], *count);
        }
    }
    for (reason, count) in &seen.counts.detaches {
        page.put(&f::DETACHES, [reason], *count);
    }
    page.put(&f::SESSIONS, ["up"], seen.census.sessions_up);
    let down = seen.census.sessions - seen.census.sessions_up.min(seen.census.sessions);
    page.put(&f::SESSIONS, ["down"], down);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attach_that_fails_is_not_one_that_ends() {
        let mut counts = Counts::default();
        counts.detached(Some(&AttachFailure::TimedOut(Duration::from_secs(1))));
        counts.attached();
        counts.detached(Some(&AttachFailure::Ike(ike::CloseReason::PeerDead)));
        counts.attached();
        counts.detached(None);
        counts.detached(None);
        let attaches = [("attached", 2), ("requested", 1), ("timed_out", 1)];
        assert_eq!(counts.attaches, attaches.into());
        assert_eq!(counts.detaches, [("peer_dead", 1), ("requested", 1)].into());
    }
}

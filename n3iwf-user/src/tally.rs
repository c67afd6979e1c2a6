//! What came of attaches and IKE SAs, counted as the engine tells it.

use std::collections::{BTreeMap, HashSet, VecDeque};

use daemon::timeline::{Phase, PhaseTimes};
use ike::{Endpoint, Event, SaId};
use serde::{Deserialize, Serialize};

/// Durations kept until somebody takes them; beyond that the oldest go.
const MOST_PHASES: usize = 4096;

/// Counts since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Attaches by outcome: `established`, or why the IKE SA ended before that.
    pub attaches: BTreeMap<String, u64>,
    /// IKE SAs established, by key mode.
    pub established: BTreeMap<String, u64>,
    /// Ends of established IKE SAs, by reason.
    pub closed: BTreeMap<String, u64>,
    /// NGAP messages received.
    pub ngap_in: u64,
    /// NGAP messages sent.
    pub ngap_out: u64,
    /// Rekeys: of what, and whether it was done.
    pub rekeys: BTreeMap<String, BTreeMap<String, u64>>,
    /// Handler and waiting time of phases that ended, µs: by phase and party.
    pub phase_us: BTreeMap<String, BTreeMap<String, u64>>,
}

#[derive(Default)]
pub(crate) struct Tally {
    counts: Counts,
    established: HashSet<SaId>,
    phases: VecDeque<(Phase, PhaseTimes)>,
}

impl Tally {
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(crate) fn event(&mut self, endpoint: &Endpoint, event: &Event) {
        let counts = &mut self.counts;
        match event {
            Event::Established { sa, .. } => {
                self.established.insert(*sa);
                add(&mut counts.attaches, "established");
                let mode = endpoint.mode(*sa).map(|mode| mode.to_string());
                add(&mut counts.established, &mode.unwrap_or_default());
            }
            Event::Closed { sa, reason } if self.established.remove(sa) => {
                add(&mut counts.closed, reason.label());
            }
            Event::Closed { reason, .. } => add(&mut counts.attaches, reason.label()),
            Event::IkeRekeyed { .. } => rekey(counts, "ike", "done"),
            Event::IkeRekeyFailed { .. } => rekey(counts, "ike", "failed"),
            Event::ChildSwitched { .. } => rekey(counts, "child", "done"),
            Event::ChildRekeyFailed { .. } => rekey(counts, "child", "failed"),
            _ => {}
        }
    }

    pub(crate) fn ngap_in(&mut self) {
        self.counts.ngap_in += 1;
    }

    pub(crate) fn ngap_out(&mut self) {
        self.counts.ngap_out += 1;
    }

    pub(crate) fn phase(&mut self, phase: Phase, times: PhaseTimes) {
        let sums = self
            .counts
            .phase_us
            .entry(phase_name(phase).to_owned())
            .or_default();
        for (party, time) in [("own", times.own), ("kms", times.kms), ("core", times.core)] {
            let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let sum = sums.entry(party.to_owned()).or_default();
            *sum = sum.saturating_add(us);
        }
        if self.phases.len() >= MOST_PHASES {
            self.phases.pop_front();
        }
        self.phases.push_back((phase, times));
    }

    pub(crate) fn poll_phase(&mut self) -> Option<(Phase, PhaseTimes)> {
        self.phases.pop_front()
    }
}

/// The name of a phase as a label.
pub(crate) const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Init => "init",
        Phase::Auth => "auth",
        Phase::Child => "child",
    }
}

fn rekey(counts: &mut Counts, what: &str, outcome: &str) {
    add(counts.rekeys.entry(what.to_owned()).or_default(), outcome);
}

fn add(counts: &mut BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => drop(counts.insert(key.to_owned(), 1)),
    }
}

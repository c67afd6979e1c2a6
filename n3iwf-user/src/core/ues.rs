//! The UEs by RAN-UE-NGAP-ID, and what would otherwise be searched for among all of them: whose time
//! has come, and how many an AMF has.
//!
//! Whoever takes a UE to change it leaves its number behind, and [`Ues::refresh`] looks at those alone:
//! an input costs the same with ten thousand UEs attached as with ten.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use ike::Instant;

use super::{
    pacing::Pace,
    types::{AmfNumber, N2State, Ue},
};

/// All UEs.
#[derive(Default)]
pub(super) struct Ues {
    all: BTreeMap<u32, Box<Entry>>,
    /// Taken for a change since the last [`refresh`](Self::refresh).
    changed: Vec<u32>,
    timers: BTreeSet<(Instant, u32)>,
    of_amf: BTreeMap<AmfNumber, usize>,
}

/// A UE, and how it stands in the indexes.
struct Entry {
    ue: Ue,
    armed: Option<Instant>,
    counted: Option<AmfNumber>,
}

impl Ue {
    /// When something has to be done about it.
    fn deadline(&self) -> Option<Instant> {
        let paced = self.pace.as_ref().and_then(Pace::deadline);
        self.n2.deadline().into_iter().chain(paced).min()
    }
}

impl N2State {
    /// Until when the AMF has to answer.
    pub(super) const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Releasing(_, deadline) | Self::Orphaned(deadline) => Some(deadline),
            Self::None | Self::Asked | Self::Active(_) | Self::Gone => None,
        }
    }
}

impl Ues {
    pub(super) fn get(&self, number: &u32) -> Option<&Ue> {
        self.all.get(number).map(|entry| &entry.ue)
    }

    pub(super) fn get_mut(&mut self, number: &u32) -> Option<&mut Ue> {
        let entry = self.all.get_mut(number)?;
        if self.changed.last() != Some(number) {
            self.changed.push(*number);
        }
        Some(&mut entry.ue)
    }

    pub(super) fn insert(&mut self, ue: Ue) {
        let number = ue.number;
        self.remove(&number);
        let entry = Entry {
            ue,
            armed: None,
            counted: None,
        };
        self.all.insert(number, Box::new(entry));
        self.changed.push(number);
    }

    pub(super) fn remove(&mut self, number: &u32) {
        let Some(entry) = self.all.remove(number) else {
            return;
        };
        if let Some(at) = entry.armed {
            self.timers.remove(&(at, *number));
        }
        self.count(entry.counted, None);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn keys(&self) -> btree_map::Keys<'_, u32, impl Sized> {
        self.all.keys()
    }

    /// In the order of their numbers.
    pub(super) fn values(&self) -> impl Iterator<Item = &Ue> {
        self.all.values().map(|entry| &entry.ue)
    }

    /// How many an AMF has, as of the last [`refresh`](Self::refresh).
    pub(super) fn of_amf(&self, amf: AmfNumber) -> usize {
        self.of_amf.get(&amf).copied().unwrap_or_default()
    }

    /// Brings the indexes up to date. Returns the numbers of those that may have changed.
    pub(super) fn refresh(&mut self) -> Vec<u32> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        for number in &changed {
            let Some(entry) = self.all.get_mut(number) else {
                continue;
            };
            let deadline = entry.ue.deadline();
            let armed = std::mem::replace(&mut entry.armed, deadline);
            let amf = entry.ue.amf;
            let counted = std::mem::replace(&mut entry.counted, amf);
            if armed != deadline {
                if let Some(at) = armed {
                    self.timers.remove(&(at, *number));
                }
                if let Some(at) = deadline {
                    self.timers.insert((at, *number));
                }
            }
            self.count(counted, amf);
        }
        changed
    }

    /// The earliest deadline of all.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let changed = self.changed.iter();
        let changed = changed.filter_map(|number| self.get(number)?.deadline());
        let first = self.timers.first().map(|(at, _)| *at);
        changed.chain(first).min()
    }

    /// Whose deadline is not after `now`.
    pub(super) fn due(&self, now: Instant) -> Vec<u32> {
        let timers = self.timers.iter().take_while(|(at, _)| *at <= now);
        let mut due: Vec<u32> = timers.map(|(_, number)| *number).collect();
        due.extend(&self.changed);
        due.retain(|number| {
            let deadline = self.get(number).and_then(Ue::deadline);
            deadline.is_some_and(|at| at <= now)
        });
        due.sort_unstable();
        due.dedup();
        due
    }

    fn count(&mut self, from: Option<AmfNumber>, to: Option<AmfNumber>) {
        if from == to {
            return;
        }
        if let Some(amf) = to {
            *self.of_amf.entry(amf).or_default() += 1;
        }
        if let Some(amf) = from
            && let Some(number) = self.of_amf.get_mut(&amf)
        {
            *number = number.saturating_sub(1);
        }
    }
}

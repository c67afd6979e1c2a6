//! Where every fetched key went: `fetched = used + lost + held`, per peer SAE.
//!
//! A key enters the account when it arrives from the KMS (held) and leaves that state exactly once:
//! *used*, when it keyed something, or *lost*, when it was wiped without keying anything. Counters
//! never go back. The listing names keys by [`KeyId`], which travels in clear, and stays bounded:
//! used keys are listed until [`Account::release`] of what they keyed, lost ones up to
//! [`LOST_LISTED`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keys::{KeyId, SaeId};
use serde::Serialize;
use thiserror::Error;

/// How many lost keys the listing remembers; their count is kept for ever.
pub const LOST_LISTED: usize = 256;

/// The key account of one daemon. Shared by reference or `Arc`; every method locks briefly.
#[derive(Debug, Default)]
pub struct Account(Mutex<Ledger>);

/// Counters of the keys shared with one peer SAE.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Keys that arrived from the KMS.
    pub fetched: u64,
    /// Keys that keyed something.
    pub used: u64,
    /// Keys wiped without keying anything.
    pub lost: u64,
    /// Keys in memory that are neither.
    pub held: u64,
    /// Keys asked for in requests that ended without a response: the KMS may have given them away.
    /// Outside the equation, since they never arrived.
    pub uncertain: u64,
}

impl Totals {
    /// Whether every fetched key is accounted for.
    pub const fn balanced(&self) -> bool {
        self.fetched == self.used + self.lost + self.held
    }

    fn add(&mut self, other: &Self) {
        self.fetched += other.fetched;
        self.used += other.used;
        self.lost += other.lost;
        self.held += other.held;
        self.uncertain += other.uncertain;
    }
}

/// One line of the listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Which key.
    pub id: KeyId,
    /// The SAE that holds the other copy.
    pub peer: SaeId,
    /// Where the key went.
    #[serde(flatten)]
    pub state: State,
}

/// Where a key went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// In memory, for an exchange that is not final.
    Held,
    /// Keyed something.
    Used {
        /// What it keyed, such as `Child SA, UE to N3IWF`.
        purpose: String,
        /// The SA it belongs to, as the control tool prints it.
        sa: String,
    },
    /// Wiped without keying anything.
    Lost,
}

/// A booking that contradicts the account: always a bug of the caller, worth a loud log line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The key never arrived, or was released since.
    #[error("key {0} is not in the account")]
    Unknown(KeyId),
    /// The key was used or lost before.
    #[error("key {0} was booked before")]
    Settled(KeyId),
    /// The key arrived before: a KMS that delivers one key twice.
    #[error("key {0} was fetched before")]
    FetchedTwice(KeyId),
}

#[derive(Debug, Default)]
struct Ledger {
    totals: BTreeMap<SaeId, Totals>,
    entries: HashMap<KeyId, (SaeId, Booked)>,
    /// The used keys of each SA: its end costs what it had, and not a look at all keys.
    of_sa: HashMap<Arc<str>, Vec<KeyId>>,
    lost: VecDeque<KeyId>,
}

/// A [`State`] as it is kept, the name of an SA once for all its keys.
#[derive(Debug, PartialEq, Eq)]
enum Booked {
    Held,
    Used { purpose: Box<str>, sa: Arc<str> },
    Lost,
}

impl From<&Booked> for State {
    fn from(booked: &Booked) -> Self {
        match booked {
            Booked::Held => Self::Held,
            Booked::Used { purpose, sa } => Self::Used {
                purpose: purpose.to_string(),
                sa: sa.to_string(),
            },
            Booked::Lost => Self::Lost,
        }
    }
}

impl Account {
    /// An empty account.
    pub fn new() -> Self {
        Self::default()
    }

    /// A key of `peer` arrived from the KMS and is held.
    ///
    /// # Errors
    /// [`AccountError::FetchedTwice`] when the key is in the account already; nothing is booked.
    pub fn fetched(&self, peer: &SaeId, id: KeyId) -> Result<(), AccountError> {
        let mut ledger = self.lock();
        if ledger.entries.contains_key(&id) {
            return Err(AccountError::FetchedTwice(id));
        }
        ledger.entries.insert(id, (peer.clone(), Booked::Held));
        let totals = ledger.totals.entry(peer.clone()).or_default();
        totals.fetched += 1;
        totals.held += 1;
        Ok(())
    }

    /// A held key keyed `purpose` of `sa`.
    ///
    /// # Errors
    /// When the key is not held.
    pub fn used(
        &self,
        id: &KeyId,
        purpose: impl Into<String>,
        sa: impl Into<String>,
    ) -> Result<(), AccountError> {
        let sa = sa.into();
        let mut ledger = self.lock();
        let name = match ledger.of_sa.get_key_value(sa.as_str()) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(sa),
        };
        let used = Booked::Used {
            purpose: purpose.into().into(),
            sa: Arc::clone(&name),
        };
        ledger.settle(id, used)?;
        ledger.of_sa.entry(name).or_default().push(*id);
        Ok(())
    }

    /// A held key was wiped without use.
    ///
    /// # Errors
    /// When the key is not held.
    pub fn lost(&self, id: &KeyId) -> Result<(), AccountError> {
        let mut ledger = self.lock();
        ledger.settle(id, Booked::Lost)?;
        ledger.lost.push_back(*id);
        if ledger.lost.len() > LOST_LISTED
            && let Some(oldest) = ledger.lost.pop_front()
        {
            ledger.entries.remove(&oldest);
        }
        Ok(())
    }

    /// `number` keys of `peer` were asked for and no response came.
    pub fn uncertain(&self, peer: &SaeId, number: u64) {
        self.lock()
            .totals
            .entry(peer.clone())
            .or_default()
            .uncertain += number;
    }

    /// The SA is gone: its used keys leave the listing (the counters stay). Returns how many.
    pub fn release(&self, gone: &str) -> usize {
        let mut ledger = self.lock();
        let keys = ledger.of_sa.remove(gone).unwrap_or_default();
        for id in &keys {
            ledger.entries.remove(id);
        }
        keys.len()
    }

    /// What these keys protected is gone: those of them that were used leave the listing (the
    /// counters stay). Returns how many.
    pub fn release_keys(&self, gone: &[KeyId]) -> usize {
        let mut ledger = self.lock();
        let mut released = 0;
        for id in gone {
            let Some((_, Booked::Used { sa, .. })) = ledger.entries.get(id) else {
                continue;
            };
            let sa = Arc::clone(sa);
            ledger.entries.remove(id);
            if let Some(keys) = ledger.of_sa.get_mut(&sa) {
                keys.retain(|key| key != id);
                if keys.is_empty() {
                    ledger.of_sa.remove(&sa);
                }
            }
            released += 1;
        }
        released
    }

    /// Counters per peer SAE.
    pub fn totals(&self) -> BTreeMap<SaeId, Totals> {
        self.lock().totals.clone()
    }

    /// Counters of all peers together.
    pub fn total(&self) -> Totals {
        let mut sum = Totals::default();
        for totals in self.lock().totals.values() {
            sum.add(totals);
        }
        sum
    }

    /// The listed keys, by peer, then by key ID.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self
            .lock()
            .entries
            .iter()
            .map(|(id, (peer, state))| Entry {
                id: *id,
                peer: peer.clone(),
                state: state.into(),
            })
            .collect();
        entries.sort_by(|a, b| (&a.peer, a.id).cmp(&(&b.peer, b.id)));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Every change is complete before the next statement that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn settle(&mut self, id: &KeyId, to: Booked) -> Result<(), AccountError> {
        let (peer, state) = self.entries.get_mut(id).ok_or(AccountError::Unknown(*id))?;
        if *state != Booked::Held {
            return Err(AccountError::Settled(*id));
        }
        let totals = self.totals.entry(peer.clone()).or_default();
        totals.held = totals.held.saturating_sub(1);
        if to == Booked::Lost {
            totals.lost += 1;
        } else {
            totals.used += 1;
        }
        *state = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u16) -> KeyId {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&n.to_be_bytes());
        KeyId::from_octets(octets)
    }

    fn peer(name: &str) -> SaeId {
        name.parse().unwrap()
    }

    #[test]
    fn a_key_is_settled_once() {
        let account = Account::new();
        account.fetched(&peer("ue"), id(1)).unwrap();
        assert_eq!(
            account.fetched(&peer("ue"), id(1)),
            Err(AccountError::FetchedTwice(id(1)))
        );
        account.used(&id(1), "IKE SA", "1").unwrap();
        assert_eq!(account.lost(&id(1)), Err(AccountError::Settled(id(1))));
        assert_eq!(
            account.used(&id(1), "again", "1"),
            Err(AccountError::Settled(id(1)))
        );
        assert_eq!(account.lost(&id(2)), Err(AccountError::Unknown(id(2))));
        assert_eq!(
            account.total(),
            Totals {
                fetched: 1,
                used: 1,
                ..Totals::default()
            }
        );
    }

    #[test]
    fn listing_names_purpose_and_sa_until_released() {
        let account = Account::new();
        for n in [2, 1] {
            account.fetched(&peer("ue"), id(n)).unwrap();
        }
        account.used(&id(2), "Child SA", "7").unwrap();
        let listed = account.entries();
        assert_eq!(listed.len(), 2);
        assert_eq!(listed[0].state, State::Held);
        assert_eq!(
            serde_json::to_value(&listed[1]).unwrap(),
            serde_json::json!({
                "id": id(2), "peer": "ue", "state": "used", "purpose": "Child SA", "sa": "7"
            })
        );
        assert_eq!(account.release("7"), 1);
        assert_eq!(account.release("7"), 0);
        assert_eq!(account.entries().len(), 1);
        assert_eq!(account.total().used, 1);
    }

    #[test]
    fn keys_leave_the_listing_by_number_once_used() {
        let account = Account::new();
        for n in 1..=3 {
            account.fetched(&peer("ue"), id(n)).unwrap();
        }
        account.used(&id(1), "Child SA", "7").unwrap();
        account.used(&id(2), "Child SA", "7").unwrap();
        assert_eq!(account.release_keys(&[id(1), id(3), id(9)]), 1);
        assert_eq!(account.release_keys(&[id(1)]), 0);
        let left: Vec<_> = account
            .entries()
            .into_iter()
            .map(|entry| entry.id)
            .collect();
        assert_eq!(left, [id(2), id(3)]);
        assert_eq!((account.total().used, account.total().held), (2, 1));
    }

    #[test]
    fn lost_keys_do_not_fill_the_memory() {
        let account = Account::new();
        let many = u16::try_from(LOST_LISTED).unwrap() + 10;
        for n in 0..many {
            account.fetched(&peer("ue"), id(n)).unwrap();
            account.lost(&id(n)).unwrap();
        }
        assert_eq!(account.entries().len(), LOST_LISTED);
        assert_eq!(account.total().lost, u64::from(many));
    }

    proptest! {
        /// Whatever callers book, the equation holds for each peer and for all.
        #[test]
        fn always_balanced(steps in prop::collection::vec((0u8..4, 0u16..40, 0u8..3), 0..300)) {
            let account = Account::new();
            for (step, n, whose) in steps {
                let sa = whose.to_string();
                match step {
                    0 => drop(account.fetched(&peer(&sa), id(n))),
                    1 => drop(account.used(&id(n), "x", sa)),
                    2 => drop(account.lost(&id(n))),
                    _ => drop(account.release(&sa)),
                }
                let totals = account.totals();
                prop_assert!(totals.values().all(Totals::balanced));
                prop_assert!(account.total().balanced());
                let held = account.entries().iter().filter(|e| e.state == State::Held).count();
                prop_assert_eq!(account.total().held, held as u64);
            }
        }
    }
}

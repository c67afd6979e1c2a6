//! The account of one host's keys: fetched = used + lost + held.

use std::collections::HashMap;

use ike::{Fate, KeyPurpose};
use keys::{KeyId, QkdKey, SaeId};
use qkd::account::{self, AccountError};

use crate::world::Violation;

/// What became of each key, through all lives of a daemon; beside it the account that the daemon itself would show,
/// which begins anew with each life.
pub(crate) struct Account {
    who: String,
    keys: HashMap<KeyId, Option<Fate>>,
    /// Sums of `keys`.
    used: u64,
    lost: u64,
    held: u64,
    daemons: account::Account,
    /// What the sums were when the daemon started.
    before: (u64, u64),
}

impl Account {
    pub(crate) fn new(who: String) -> Self {
        Self {
            who,
            keys: HashMap::new(),
            used: 0,
            lost: 0,
            held: 0,
            daemons: account::Account::new(),
            before: (0, 0),
        }
    }

    pub(crate) fn fetched(&mut self, peer: &SaeId, keys: &[QkdKey]) -> Result<(), Violation> {
        for key in keys {
            self.enter(key.id, None)?;
            self.held += 1;
            let booked = self.daemons.fetched(peer, key.id);
            self.daemon(booked)?;
        }
        Ok(())
    }

    /// Books a fate: once for each key, and only for keys that were fetched.
    pub(crate) fn fate(&mut self, id: KeyId, fate: Fate, sa: &str) -> Result<(), Violation> {
        match self.keys.get_mut(&id) {
            Some(slot @ None) => *slot = Some(fate),
            Some(Some(earlier)) => {
                let what = format!("{}: key {id} is {fate:?} after {earlier:?}", self.who);
                return Err(Violation::new(what));
            }
            None => {
                let what = format!("{}: key {id}, never fetched, is {fate:?}", self.who);
                return Err(Violation::new(what));
            }
        }
        self.held -= 1;
        let booked = match fate {
            Fate::Used { purpose, .. } => {
                self.used += 1;
                self.daemons.used(&id, format!("{purpose:?}"), sa)
            }
            Fate::Lost => {
                self.lost += 1;
                self.daemons.lost(&id)
            }
        };
        self.daemon(booked)
    }

    /// An SA is gone, with what its keys did.
    pub(crate) fn release(&mut self, sa: &str) {
        self.daemons.release(sa);
    }

    /// So is a Child SA.
    pub(crate) fn release_keys(&mut self, ids: &[KeyId]) {
        self.daemons.release_keys(ids);
    }

    /// What the process held died with it, and its account, too.
    pub(crate) fn crashed(&mut self) {
        for slot in self.keys.values_mut() {
            slot.get_or_insert(Fate::Lost);
        }
        self.lost += std::mem::take(&mut self.held);
        self.daemons = account::Account::new();
        self.before = (self.used, self.lost);
    }

    /// These came back to a process that is gone.
    pub(crate) fn came_too_late(&mut self, keys: &[QkdKey]) -> Result<(), Violation> {
        for key in keys {
            self.enter(key.id, Some(Fate::Lost))?;
            self.lost += 1;
            self.before.1 += 1;
        }
        Ok(())
    }

    /// The daemon's account adds up, and says what became of each key.
    pub(crate) fn exact(&self) -> Result<(), Violation> {
        let total = self.daemons.total();
        let expected = (
            self.used - self.before.0,
            self.lost - self.before.1,
            self.held,
        );
        if !total.balanced() || (total.used, total.lost, total.held) != expected {
            let what = format!("{}: {total:?} instead of {expected:?}", self.who);
            return Err(Violation::new(what));
        }
        Ok(())
    }

    /// No key is listed any more as if it were in use.
    pub(crate) fn nothing_listed(&self) -> Result<(), Violation> {
        let entries = self.daemons.entries();
        match entries
            .iter()
            .find(|entry| entry.state != account::State::Lost)
        {
            Some(entry) => Err(Violation::new(format!("{}: {entry:?}", self.who))),
            None => Ok(()),
        }
    }

    pub(crate) fn all(&self) -> u64 {
        self.keys.len() as u64
    }

    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) const fn held(&self) -> u64 {
        self.held
    }

    fn enter(&mut self, id: KeyId, fate: Option<Fate>) -> Result<(), Violation> {
        match self.keys.insert(id, fate) {
            None => Ok(()),
            Some(_) => Err(Violation::new(format!("{}: key {id} came twice", self.who))),
        }
    }

    fn daemon(&self, booked: Result<(), AccountError>) -> Result<(), Violation> {
        booked.map_err(|error| Violation::new(format!("{}: {error}", self.who)))
    }
}

/// What each key was used for: the same at both ends.
#[derive(Default)]
pub(crate) struct Purposes(HashMap<KeyId, KeyPurpose>);

impl Purposes {
    pub(crate) fn book(&mut self, id: KeyId, fate: Fate) -> Result<(), Violation> {
        let Fate::Used { purpose, .. } = fate else {
            return Ok(());
        };
        match self.0.insert(id, purpose) {
            Some(other) if other != purpose => Err(Violation::new(format!(
                "key {id} is {purpose:?} at one end and {other:?} at the other"
            ))),
            _ => Ok(()),
        }
    }
}

//! Which QKD keys an IKE SA holds, and that each gets exactly one fate.

use std::collections::VecDeque;

use keys::{KeyId, QkdKey};

use crate::event::{ChildId, Event, Fate, KeyPurpose, SaId};

/// Keys of an IKE SA in the order they are asked for (docs: which key does what).
pub(crate) struct InitialKeys {
    /// `SK_ei`, `SK_er` and, if not AEAD, `SK_ai`, `SK_ar`.
    pub(crate) ike: Vec<QkdKey>,
    /// The signalling Child SA's two or four.
    pub(crate) signalling: Vec<QkdKey>,
    /// The first user-plane Child SA's two or four.
    pub(crate) user: Vec<QkdKey>,
    /// `K_auth`.
    pub(crate) authentication: QkdKey,
}

const IKE: [KeyPurpose; 4] = [
    KeyPurpose::IkeEncryptionUp,
    KeyPurpose::IkeEncryptionDown,
    KeyPurpose::IkeIntegrityUp,
    KeyPurpose::IkeIntegrityDown,
];
const ESP: [KeyPurpose; 4] = [
    KeyPurpose::EspEncryptionUp,
    KeyPurpose::EspEncryptionDown,
    KeyPurpose::EspIntegrityUp,
    KeyPurpose::EspIntegrityDown,
];

/// Keys of one SA: one per direction, and one more per direction for a separate integrity algorithm.
pub(crate) const fn keys_per_sa(aead: bool) -> usize {
    if aead { 2 } else { 4 }
}

/// Keys of an IKE SA rekey: one SA, `K_auth`.
pub(crate) const fn keys_per_ike_rekey(aead: bool) -> usize {
    keys_per_sa(aead) + 1
}

/// Keys of a whole handshake: IKE SA, two Child SAs, `K_auth`.
pub(crate) const fn keys_per_attach(aead: bool) -> usize {
    3 * keys_per_sa(aead) + 1
}

/// The keys without a fate.
#[derive(Default)]
pub(crate) struct Ledger {
    held: Vec<(KeyId, KeyPurpose)>,
}

impl Ledger {
    /// Takes in the keys of a handshake. `None` when their number is wrong; all are then to be reported lost.
    pub(crate) fn take_initial(
        &mut self,
        aead: bool,
        keys: Vec<QkdKey>,
    ) -> Result<InitialKeys, Vec<QkdKey>> {
        if keys.len() != keys_per_attach(aead) {
            return Err(keys);
        }
        let n = keys_per_sa(aead);
        let mut rest = keys.into_iter();
        let ike: Vec<_> = rest.by_ref().take(n).collect();
        let signalling: Vec<_> = rest.by_ref().take(n).collect();
        let user: Vec<_> = rest.by_ref().take(n).collect();
        let Some(authentication) = rest.next() else {
            return Err(ike.into_iter().chain(signalling).chain(user).collect());
        };
        self.hold(&ike, &IKE);
        self.hold(&signalling, &ESP);
        self.hold(&user, &ESP);
        self.held
            .push((authentication.id, KeyPurpose::Authentication));
        Ok(InitialKeys {
            ike,
            signalling,
            user,
            authentication,
        })
    }

    /// Takes in the keys of a rekeyed IKE SA: two or four, then `K_auth`.
    pub(crate) fn take_ike(&mut self, keys: &[QkdKey]) {
        if let Some((authentication, ike)) = keys.split_last() {
            self.hold(ike, &IKE);
            self.held
                .push((authentication.id, KeyPurpose::Authentication));
        }
    }

    /// Takes in the one key of mode `hybrid`.
    pub(crate) fn take_ppk(&mut self, keys: &[QkdKey]) {
        self.hold(keys, &[KeyPurpose::Ppk]);
    }

    /// Takes in the keys of one further Child SA.
    pub(crate) fn take_child(&mut self, keys: &[QkdKey]) {
        self.hold(keys, &ESP);
    }

    fn hold(&mut self, keys: &[QkdKey], purposes: &[KeyPurpose]) {
        self.held.extend(
            keys.iter()
                .zip(purposes)
                .map(|(key, purpose)| (key.id, *purpose)),
        );
    }

    /// Whether this key is among them.
    pub(crate) fn holds(&self, id: &KeyId) -> bool {
        self.held.iter().any(|(held, _)| held == id)
    }

    /// How many keys have no fate yet.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// These keys protect something now.
    pub(crate) fn used(
        &mut self,
        sa: SaId,
        ids: &[KeyId],
        child: Option<ChildId>,
        events: &mut VecDeque<Event>,
    ) {
        for id in ids {
            if let Some(at) = self.held.iter().position(|(held, _)| held == id) {
                let (id, purpose) = self.held.remove(at);
                let fate = Fate::Used { purpose, child };
                events.push_back(Event::KeyFate { sa, id, fate });
            }
        }
    }

    /// These keys are wiped unused.
    pub(crate) fn lost(&mut self, sa: SaId, ids: &[KeyId], events: &mut VecDeque<Event>) {
        for id in ids {
            if let Some(at) = self.held.iter().position(|(held, _)| held == id) {
                self.held.remove(at);
                let fate = Fate::Lost;
                events.push_back(Event::KeyFate { sa, id: *id, fate });
            }
        }
    }

    /// Whatever is left is wiped unused.
    pub(crate) fn lose_all(&mut self, sa: SaId, events: &mut VecDeque<Event>) {
        for (id, _) in std::mem::take(&mut self.held) {
            let fate = Fate::Lost;
            events.push_back(Event::KeyFate { sa, id, fate });
        }
    }
}

/// Reports keys lost that no SA ever took in.
pub(crate) fn lose_unclaimed(sa: SaId, keys: Vec<QkdKey>, events: &mut VecDeque<Event>) {
    for key in keys {
        let fate = Fate::Lost;
        let id = key.id;
        events.push_back(Event::KeyFate { sa, id, fate });
    }
}

#[cfg(test)]
mod tests {
    use keys::Secret;

    use super::*;

    fn key(n: u8) -> QkdKey {
        QkdKey {
            id: KeyId::from_octets([n; 16]),
            secret: Secret::from_slice(&[n; 32]),
        }
    }

    fn fates(events: &VecDeque<Event>) -> Vec<(u8, Fate)> {
        events
            .iter()
            .map(|event| match event {
                Event::KeyFate { id, fate, .. } => (id.octets()[0], *fate),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn keys_are_used_in_the_order_of_the_design() {
        let mut ledger = Ledger::default();
        let keys = ledger
            .take_initial(false, (0..13).map(key).collect())
            .unwrap_or_else(|_| panic!("13 keys"));
        let ids = |keys: &[QkdKey]| keys.iter().map(|k| k.id.octets()[0]).collect::<Vec<_>>();
        assert_eq!(ids(&keys.ike), [0, 1, 2, 3]);
        assert_eq!(ids(&keys.signalling), [4, 5, 6, 7]);
        assert_eq!(ids(&keys.user), [8, 9, 10, 11]);
        assert_eq!(keys.authentication.id.octets()[0], 12);
        assert_eq!(keys_per_attach(true), 7);
        assert!(ledger.take_initial(true, vec![key(99)]).is_err());
    }

    #[test]
    fn a_key_has_one_fate() {
        let mut ledger = Ledger::default();
        let mut events = VecDeque::new();
        let sa = SaId(1);
        ledger.take_child(&[key(1), key(2)]);
        let one = KeyId::from_octets([1; 16]);
        ledger.used(sa, &[one], Some(ChildId(7)), &mut events);
        ledger.used(sa, &[one], Some(ChildId(7)), &mut events);
        ledger.lost(sa, &[one], &mut events);
        ledger.lose_all(sa, &mut events);
        assert_eq!(ledger.len(), 0);
        let used = Fate::Used {
            purpose: KeyPurpose::EspEncryptionUp,
            child: Some(ChildId(7)),
        };
        assert_eq!(fates(&events), [(1, used), (2, Fate::Lost)]);
    }
}

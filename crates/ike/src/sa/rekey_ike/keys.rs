//! Where the keys of a rekeyed IKE SA come from: the KMS, or a key exchange.

use ::keys::{KeyId, QkdKey};

use super::{
    super::{
        Cx, Sa,
        keys::{self as key_material, Crypt},
        ledger,
    },
    Born, Heir, Source,
};
use crate::{
    crypto::{keymat, qkd as schedule},
    event::{ChildFailure, Event, KeyRequestId, KeysWanted, QkdFailure},
    wire::{NotifyType, Payload, find_notify, qkd::QkdKeyIds},
};

impl Sa {
    /// Master: asks the KMS for the keys of a new IKE SA.
    pub(super) fn allocate_for_ike(&mut self, cx: &mut Cx<'_>) -> KeyRequestId {
        let request = cx.ids.key_request();
        if let (Some(suite), Some(slave)) = (&self.suite, &self.peer_sae) {
            cx.events.push_back(Event::KeysNeeded {
                sa: self.id,
                request,
                wanted: KeysWanted::Allocate {
                    slave: slave.clone(),
                    number: ledger::keys_per_ike_rekey(self.aead()),
                    size_bits: key_material::size_bits(suite, &self.esp_suites),
                },
            });
        }
        request
    }

    /// Asks for the keys the master's message names.
    pub(super) fn collect_for_ike(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(KeyRequestId, Vec<KeyId>), ChildFailure> {
        let invalid = ChildFailure::InvalidAnswer("QKD_KEY_IDS");
        let notify = find_notify(payloads, NotifyType::QKD_KEY_IDS).ok_or(invalid)?;
        let ids = QkdKeyIds::from_data(&notify.data).map_err(|_| invalid)?.ids;
        let reused = ids.iter().any(|id| {
            self.ledger.holds(id)
                || self.ike_keys.contains(id)
                || self
                    .children
                    .values()
                    .any(|child| child.key_ids.contains(id))
        });
        if reused || ids.len() != ledger::keys_per_ike_rekey(self.aead()) {
            return Err(invalid);
        }
        let master = self
            .peer_sae
            .clone()
            .ok_or(ChildFailure::Qkd(QkdFailure::UnknownSae))?;
        let request = cx.ids.key_request();
        cx.events.push_back(Event::KeysNeeded {
            sa: self.id,
            request,
            wanted: KeysWanted::Collect {
                master,
                ids: ids.clone(),
            },
        });
        Ok((request, ids))
    }

    /// Slave: the keys named, in their order.
    pub(super) fn sorted(
        &mut self,
        cx: &mut Cx<'_>,
        ids: &[KeyId],
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) -> Result<Vec<QkdKey>, ChildFailure> {
        let keys = keys.map_err(ChildFailure::Qkd)?;
        let keys = key_material::in_order(ids, keys).map_err(|unwanted| {
            ledger::lose_unclaimed(self.id, unwanted, cx.events);
            ChildFailure::Qkd(QkdFailure::UnknownKey)
        })?;
        self.ledger.take_ike(&keys);
        Ok(keys)
    }

    /// Master: the keys asked for.
    pub(super) fn allocated_for_ike(
        &mut self,
        cx: &mut Cx<'_>,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) -> Result<Vec<QkdKey>, ChildFailure> {
        let keys = keys.map_err(ChildFailure::Qkd)?;
        if keys.len() != ledger::keys_per_ike_rekey(self.aead()) {
            ledger::lose_unclaimed(self.id, keys, cx.events);
            return Err(ChildFailure::Qkd(QkdFailure::NoKeys));
        }
        self.ledger.take_ike(&keys);
        Ok(keys)
    }

    /// The keys of a new IKE SA.
    pub(super) fn bear(
        &mut self,
        cx: &mut Cx<'_>,
        initiator: bool,
        new: &Born,
        source: Source<'_>,
    ) -> Result<Heir, ChildFailure> {
        let failure = ChildFailure::Qkd(QkdFailure::UnknownKey);
        let suite = self.suite.ok_or(failure)?;
        let (made, k_auth, key_ids) = match source {
            Source::Exchange(shared) => {
                let crypt = self.crypt.as_ref();
                let sk_d = crypt.and_then(|crypt| crypt.sk_d.as_ref());
                let shared = [shared.duplicate()];
                let seed = sk_d
                    .and_then(|sk_d| {
                        keymat::skeyseed_rekey(suite.prf, sk_d, &shared, &new.ni, &new.nr)
                    })
                    .ok_or(failure)?;
                let made = keymat::ike_keys(&suite, &seed, &new.ni, &new.nr, new.spi_i, new.spi_r);
                (made, None, Vec::new())
            }
            Source::Qkd(mut keys) => {
                let key_ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
                let Some(k_auth) = keys.pop().map(|key| key.secret) else {
                    return Err(failure);
                };
                let secrets = keys.into_iter().map(|key| key.secret).collect();
                let (ni, nr) = (&new.ni, &new.nr);
                let (spi_i, spi_r) = (new.spi_i, new.spi_r);
                let made = schedule::ike_keys(&suite, secrets, &k_auth, ni, nr, spi_i, spi_r);
                (made, Some(k_auth), key_ids)
            }
        };
        let crypt = made.and_then(|keys| {
            if let Some(log) = &cx.config.key_log {
                log.ike_sa(new.spi_i, new.spi_r, &suite, &keys);
            }
            Crypt::new(&suite, initiator, keys, k_auth)
        });
        let Ok(mut crypt) = crypt else {
            self.ledger.lost(self.id, &key_ids, cx.events);
            return Err(failure);
        };
        crypt.auth = None;
        Ok(Heir {
            spi_i: new.spi_i,
            spi_r: new.spi_r,
            crypt,
            initiator,
            key_ids,
        })
    }
}

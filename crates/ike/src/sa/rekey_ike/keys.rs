//! Where the keys of a rekeyed IKE SA come from: the KMS, or a key exchange.

use ::keys::{KeyId, QkdKey, Secret};

use super::{
    super::{
        Cx, Sa,
        keys::{self as key_material, Crypt},
        ledger,
        naming::{Named, Proof},
        ppk::fresh,
    },
    Born, Heir, Source,
};
use crate::{
    config::Mode,
    crypto::{IkeSuite, keymat, ppk, qkd as schedule},
    event::{ChildFailure, Event, KeyRequestId, KeysWanted, QkdFailure},
    wire::Payload,
};

impl Sa {
    /// Master: asks the KMS for the keys of a new IKE SA.
    pub(super) fn allocate_for_ike(&mut self, cx: &mut Cx<'_>) -> KeyRequestId {
        let request = cx.ids.key_request();
        if let Some(wanted) = self.allocation(self.ike_key_count()) {
            cx.events.push_back(Event::KeysNeeded {
                sa: self.id,
                request,
                wanted,
            });
        }
        request
    }

    /// Asks for the keys the master's message names.
    pub(super) fn collect_for_ike(
        &mut self,
        cx: &mut Cx<'_>,
        payloads: &[Payload],
    ) -> Result<(KeyRequestId, Named), ChildFailure> {
        let named = self
            .named(payloads, self.ike_key_count())?
            .ok_or(ChildFailure::InvalidAnswer("no names of keys"))?;
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
                ids: named.ids.clone(),
            },
        });
        Ok((request, named))
    }

    /// Slave: the keys named, in their order, if they prove to be the master's.
    pub(super) fn sorted(
        &mut self,
        cx: &mut Cx<'_>,
        named: &Named,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) -> Result<Vec<QkdKey>, ChildFailure> {
        let keys = keys.map_err(ChildFailure::Qkd)?;
        let prf = self.suite.map(|suite| suite.prf);
        let keys = key_material::in_order(&named.ids, keys)
            .and_then(|keys| Proof::check(named.proof.as_ref(), prf, keys))
            .map_err(|unwanted| {
                ledger::lose_unclaimed(self.id, unwanted, cx.events);
                ChildFailure::Qkd(QkdFailure::UnknownKey)
            })?;
        self.hold_for_ike(&keys);
        Ok(keys)
    }

    fn hold_for_ike(&mut self, keys: &[QkdKey]) {
        match self.mode {
            Mode::Hybrid => self.ledger.take_ppk(keys),
            _ => self.ledger.take_ike(keys),
        }
    }

    /// Master: the keys asked for.
    pub(super) fn allocated_for_ike(
        &mut self,
        cx: &mut Cx<'_>,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) -> Result<Vec<QkdKey>, ChildFailure> {
        let keys = keys.map_err(ChildFailure::Qkd)?;
        if keys.len() != self.ike_key_count() {
            ledger::lose_unclaimed(self.id, keys, cx.events);
            return Err(ChildFailure::Qkd(QkdFailure::NoKeys));
        }
        self.hold_for_ike(&keys);
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
        let Source { shared, mut keys } = source;
        let key_ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        let (made, k_auth) = match shared {
            [_, ..] => {
                let Some(seed) = self.skeyseed_of_rekey(&suite, new, shared, &keys) else {
                    self.ledger.lost(self.id, &key_ids, cx.events);
                    return Err(failure);
                };
                let made = keymat::ike_keys(&suite, &seed, &new.ni, &new.nr, new.spi_i, new.spi_r);
                (made, None)
            }
            [] => {
                let Some(k_auth) = keys.pop().map(|key| key.secret) else {
                    return Err(failure);
                };
                let secrets = keys.into_iter().map(|key| key.secret).collect();
                let (ni, nr) = (&new.ni, &new.nr);
                let (spi_i, spi_r) = (new.spi_i, new.spi_r);
                let made = schedule::ike_keys(&suite, secrets, &k_auth, ni, nr, spi_i, spi_r);
                (made, Some(k_auth))
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
            ni: new.ni.clone(),
            nr: new.nr.clone(),
        })
    }

    /// From the old `SK_d` and all key exchanges, in mode `hybrid` with a fresh PPK in front of `SK_d` (RFC 7296 2.18;
    /// RFC 9867 3.2).
    fn skeyseed_of_rekey(
        &self,
        suite: &IkeSuite,
        new: &Born,
        shared: &[Secret],
        keys: &[QkdKey],
    ) -> Option<Secret> {
        let sk_d = self.crypt.as_ref()?.sk_d.as_ref()?;
        let mixed = match self.mode {
            Mode::Hybrid => Some(ppk::mix(suite.prf, fresh(keys)?, sk_d).ok()?),
            _ => None,
        };
        let sk_d = mixed.as_ref().unwrap_or(sk_d);
        keymat::skeyseed_rekey(suite.prf, sk_d, shared, &new.ni, &new.nr)
    }
}

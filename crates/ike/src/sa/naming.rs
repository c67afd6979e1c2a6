//! How the master names fresh keys in CREATE_CHILD_SA, and what the slave makes of the names.
//!
//! | | message of the N3IWF | answer of the UE |
//! |---|---|---|
//! | mode `qkd`; mode `hybrid` with the PPK in IKE_AUTH | N(QKD_KEY_IDS) | |
//! | mode `hybrid` with the PPK in IKE_INTERMEDIATE | N(PPK_IDENTITY_KEY) | N(PPK_IDENTITY) (RFC 9867 3.2) |
//!
//! RFC 9867 has the initiator offer its PPKs. The only end that can name a QKD key is its master, so when the UE begins,
//! the offer comes in the response: no message is left for an answer, and a UE that lacks the key deletes what it was
//! granted. PPK Confirmation covers nonces and SPIs of the IKE SA that the exchange runs on, so that a KMS with another key
//! under this name is noticed before anything is installed.

use std::sync::Arc;

use ::keys::{KeyId, QkdKey, Secret};

use super::{Denial, Sa, ppk::PpkPlace};
use crate::{
    config::{Mode, Profile},
    crypto::{
        Prf,
        ppk::{self, CONFIRMATION_LEN, PpkId, PpkOffer},
    },
    event::ChildFailure,
    wire::{
        Notify, NotifyType, Payload, find_notify,
        qkd::{KeyIdFormat, QkdKeyIds},
    },
};

/// Nonces and SPIs of one IKE SA.
#[derive(Debug)]
pub(super) struct PpkContext {
    pub(super) ni: Vec<u8>,
    pub(super) nr: Vec<u8>,
    pub(super) spi_i: u64,
    pub(super) spi_r: u64,
}

impl PpkContext {
    pub(super) fn confirmation(&self, prf: Prf, key: &Secret) -> [u8; CONFIRMATION_LEN] {
        ppk::confirmation(prf, key, &self.ni, &self.nr, self.spi_i, self.spi_r)
    }
}

/// What shows that the master has the same key.
#[derive(Debug)]
pub(super) struct Proof {
    context: Arc<PpkContext>,
    offer: PpkOffer,
}

/// Keys by the names of the master's message.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) ids: Vec<KeyId>,
    pub(super) proof: Option<Proof>,
}

impl Proof {
    /// Whether the one key is the master's.
    fn holds(&self, prf: Prf, keys: &[QkdKey]) -> bool {
        match keys {
            [key] => self
                .offer
                .confirms(&self.context.confirmation(prf, &key.secret)),
            _ => false,
        }
    }

    /// The keys, if they are the master's, or if it has proven nothing.
    pub(super) fn check(
        proof: Option<&Self>,
        prf: Option<Prf>,
        keys: Vec<QkdKey>,
    ) -> Result<Vec<QkdKey>, Vec<QkdKey>> {
        match (proof, prf) {
            (None, _) => Ok(keys),
            (Some(proof), Some(prf)) if proof.holds(prf, &keys) => Ok(keys),
            (Some(_), _) => Err(keys),
        }
    }

    /// N(PPK_IDENTITY): the slave has the key.
    pub(super) fn consent(&self) -> Notify {
        self.offer.id.to_notify()
    }
}

impl Sa {
    /// From IKE_AUTH on, for rekeys with PPKs of RFC 9867.
    pub(super) fn begin_naming(&mut self) {
        if self.mode != Mode::Hybrid || self.ppk_place() != Some(PpkPlace::Intermediate) {
            return;
        }
        let transcript = &mut self.transcript;
        self.ppk_context = Some(Arc::new(PpkContext {
            ni: std::mem::take(&mut transcript.nonce_i),
            nr: std::mem::take(&mut transcript.nonce_r),
            spi_i: self.spi_i,
            spi_r: self.spi_r,
        }));
    }

    /// The notify of the master's message.
    pub(super) fn naming_kind(&self) -> NotifyType {
        match self.ppk_context {
            Some(_) => NotifyType::PPK_IDENTITY_KEY,
            None => NotifyType::QKD_KEY_IDS,
        }
    }

    /// Master: the notify for these fresh keys.
    pub(super) fn name(&self, keys: &[QkdKey]) -> Option<Notify> {
        let first = keys.first()?;
        if let Some(context) = &self.ppk_context {
            let offer = PpkOffer {
                id: PpkId::from_key_id(first.id),
                confirmation: context.confirmation(self.suite?.prf, &first.secret),
            };
            return Some(offer.to_notify());
        }
        let format = match self.profile() {
            Profile::Native => KeyIdFormat::Binary,
            Profile::Paper => KeyIdFormat::Json,
        };
        let ids = keys.iter().map(|key| key.id).collect();
        Some(QkdKeyIds { format, ids }.to_notify())
    }

    /// Slave: what the master's notify says.
    pub(super) fn read_naming(&self, notify: &Notify) -> Result<Named, ChildFailure> {
        let Some(context) = &self.ppk_context else {
            let ids = QkdKeyIds::from_data(&notify.data)
                .map_err(|_| ChildFailure::InvalidAnswer("QKD_KEY_IDS"))?
                .ids;
            return Ok(Named { ids, proof: None });
        };
        let invalid = ChildFailure::InvalidAnswer("PPK_IDENTITY_KEY");
        let offer = PpkOffer::from_data(&notify.data).map_err(|_| invalid)?;
        let id = offer.id.key_id().ok_or(invalid)?;
        let context = Arc::clone(context);
        Ok(Named {
            ids: vec![id],
            proof: Some(Proof { context, offer }),
        })
    }

    /// Slave: the fresh keys that a message names, `number` of them and none that was named before. `None`: it names none.
    pub(super) fn named(
        &self,
        payloads: &[Payload],
        number: usize,
    ) -> Result<Option<Named>, ChildFailure> {
        let Some(notify) = find_notify(payloads, self.naming_kind()) else {
            return Ok(None);
        };
        let named = self.read_naming(notify)?;
        let reused = named.ids.iter().any(|id| {
            self.ledger.holds(id)
                || self.ike_keys.contains(id)
                || self
                    .children
                    .values()
                    .any(|child| child.key_ids.contains(id))
        });
        if reused || named.ids.len() != number {
            return Err(ChildFailure::InvalidAnswer("keys that are not fresh"));
        }
        Ok(Some(named))
    }

    /// Master: a request of the slave has to leave the choice of the PPK to it (RFC 9867 3.2: none of those offered is
    /// one to be used).
    pub(super) fn refuse_foreign_ppks(&self, payloads: &[Payload]) -> Result<(), Denial> {
        let offers = find_notify(payloads, NotifyType::PPK_IDENTITY_KEY).is_some();
        match self.is_master() && self.ppk_context.is_some() && offers {
            true => Err(Denial {
                answer: Notify::status(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()),
                fatal: None,
            }),
            false => Ok(()),
        }
    }

    /// Master: whether the slave's response takes the PPK that our request offered. Without RFC 9867 there is nothing to
    /// say.
    pub(super) fn check_consent(
        &self,
        ours: &[KeyId],
        payloads: &[Payload],
    ) -> Result<(), ChildFailure> {
        let ([id], true, Some(_)) = (ours, self.is_master(), &self.ppk_context) else {
            return Ok(());
        };
        let taken = find_notify(payloads, NotifyType::PPK_IDENTITY)
            .and_then(|notify| PpkId::from_data(&notify.data).ok())
            .and_then(|named| named.key_id());
        match taken {
            Some(taken) if taken == *id => Ok(()),
            _ => Err(ChildFailure::InvalidAnswer("no PPK_IDENTITY of our PPK")),
        }
    }
}

//! The QKD key of mode `hybrid` as postquantum preshared key: its name is the key ID.
//!
//! The N3IWF asks its KMS for one key and names it in QKD_KEY_IDS of the IKE_SA_INIT response; the UE fetches it. It
//! enters the keys in IKE_INTERMEDIATE (RFC 9867) when both can, else in the last IKE_AUTH request (RFC 8784), and it is
//! never optional: who wants to go on without it offers mode `psk`.
//!
//! In mode `plain` it is a key of the configuration, in the only IKE_AUTH exchange, and rekeys have none (RFC 8784).
//!
//! In mode `hybrid` a rekey has a fresh one, whose `prf+(PPK, SK_d)` stands for `SK_d` (RFC 9867 3.2); see
//! [`naming`](super::naming).

use ::keys::{QkdKey, Secret};

use super::{Cx, Sa, keys as key_material, ledger};
use crate::{
    config::{Mode, PpkUse},
    crypto::{
        KeyError,
        ppk::{self, CONFIRMATION_LEN, PpkId, PpkOffer},
    },
    event::{KeysWanted, QkdFailure},
    wire::{Notify, NotifyType, Payload, find_notify},
};

/// Octets of a PPK: RFC 8784 6 asks for 256 bits of entropy.
const PPK_LEN: usize = 32;

/// The same for [`KeysWanted`](crate::KeysWanted).
pub(super) const PPK_BITS: u32 = 256;

/// Where the PPK of the first IKE SA is mixed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PpkPlace {
    /// RFC 9867.
    Intermediate,
    /// RFC 8784.
    Auth,
}

impl PpkPlace {
    /// The notifies of an offer: USE_PPK_INT and USE_PPK.
    pub(super) fn offer(wanted: PpkUse) -> impl Iterator<Item = Payload> {
        let places = match wanted {
            PpkUse::Either => &[Self::Intermediate, Self::Auth][..],
            PpkUse::Intermediate => &[Self::Intermediate],
            PpkUse::Auth => &[Self::Auth],
        };
        places.iter().map(|place| place.notify())
    }

    pub(super) fn notify(self) -> Payload {
        let kind = match self {
            Self::Intermediate => NotifyType::USE_PPK_INT,
            Self::Auth => NotifyType::USE_PPK,
        };
        Notify::status(kind, Vec::new()).into()
    }

    /// The better one that a message offers, of those wanted here. IKE_INTERMEDIATE has to be offered with its own.
    pub(super) fn choose(payloads: &[Payload], wanted: PpkUse) -> Option<Self> {
        let has = |kind| find_notify(payloads, kind).is_some();
        let intermediate = has(NotifyType::USE_PPK_INT)
            && has(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)
            && wanted != PpkUse::Auth;
        let auth = has(NotifyType::USE_PPK) && wanted != PpkUse::Intermediate;
        match (intermediate, auth) {
            (true, _) => Some(Self::Intermediate),
            (false, true) => Some(Self::Auth),
            (false, false) => None,
        }
    }
}

/// The PPK of the first IKE SA, until it is established.
pub(super) struct Ppk {
    pub(super) place: PpkPlace,
    key: QkdKey,
}

/// The name and the confirmation that a peer with the same key would offer.
pub(super) struct OwnPpk {
    id: PpkId,
    confirmation: [u8; CONFIRMATION_LEN],
}

/// The PPK_ID of an offer that is ours and proves the same key.
pub(super) fn choose<'a>(
    mut offers: impl Iterator<Item = &'a Notify>,
    ours: &OwnPpk,
) -> Option<PpkId> {
    offers
        .find_map(|notify| {
            let offer = PpkOffer::from_data(&notify.data).ok()?;
            (offer.id == ours.id && offer.confirms(&ours.confirmation)).then_some(offer)
        })
        .map(|offer| offer.id)
}

/// A fresh PPK of a rekey.
pub(super) fn fresh(keys: &[QkdKey]) -> Option<&Secret> {
    match keys {
        [key] if key.secret.len() >= PPK_LEN => Some(&key.secret),
        _ => None,
    }
}

impl Sa {
    /// Mode `plain`: a PPK by configuration, when the peer has said USE_PPK.
    pub(super) fn configure_ppk(&mut self, key: Option<&QkdKey>, payloads: &[Payload]) {
        self.ppk = key
            .filter(|_| find_notify(payloads, NotifyType::USE_PPK).is_some())
            .map(|key| Ppk {
                place: PpkPlace::Auth,
                key: QkdKey {
                    id: key.id,
                    secret: key.secret.duplicate(),
                },
            });
    }

    /// Fresh keys of a Child SA that CREATE_CHILD_SA makes. In mode `hybrid` a rekey has one; a further Child SA is
    /// derived from `SK_d`, which holds the PPK of the IKE SA.
    pub(super) fn child_key_count(&self, rekey: bool) -> usize {
        match self.mode {
            Mode::Qkd(_) => ledger::keys_per_sa(self.aead()),
            Mode::Hybrid => usize::from(rekey),
            _ => 0,
        }
    }

    /// Fresh keys of a rekeyed IKE SA.
    pub(super) fn ike_key_count(&self) -> usize {
        match self.mode {
            Mode::Qkd(_) => ledger::keys_per_ike_rekey(self.aead()),
            Mode::Hybrid => 1,
            _ => 0,
        }
    }

    /// What to ask of the KMS for a rekey or a further Child SA: `number` keys.
    pub(super) fn allocation(&self, number: usize) -> Option<KeysWanted> {
        let size_bits = match self.mode {
            Mode::Hybrid => PPK_BITS,
            _ => key_material::size_bits(self.suite.as_ref()?, &self.esp_suites),
        };
        Some(KeysWanted::Allocate {
            slave: self.peer_sae.clone()?,
            number,
            size_bits,
        })
    }

    pub(super) fn ppk_place(&self) -> Option<PpkPlace> {
        self.ppk.as_ref().map(|ppk| ppk.place)
    }

    pub(super) fn ppk_secret(&self) -> Option<&Secret> {
        self.ppk.as_ref().map(|ppk| &ppk.key.secret)
    }

    fn ppk_id(&self) -> Option<PpkId> {
        self.ppk.as_ref().map(|ppk| PpkId::from_key_id(ppk.key.id))
    }

    /// Takes the one key of a handshake in mode `hybrid`, and the secret of its key exchange.
    pub(super) fn take_hybrid_keys(
        &mut self,
        cx: &mut Cx<'_>,
        shared: &Secret,
        place: PpkPlace,
        keys: Vec<QkdKey>,
    ) -> Result<(), QkdFailure> {
        if fresh(&keys).is_none() {
            ledger::lose_unclaimed(self.id, keys, cx.events);
            return Err(QkdFailure::UnknownKey);
        }
        self.ledger.take_ppk(&keys);
        self.ike_keys = keys.iter().map(|key| key.id).collect();
        self.ppk = keys.into_iter().next().map(|key| Ppk { place, key });
        self.take_shared_secret(cx, shared).map_err(|_| {
            self.ledger.lose_all(self.id, cx.events);
            self.ike_keys.clear();
            self.ppk = None;
            QkdFailure::UnknownKey
        })
    }

    pub(super) fn ppk_confirmation(&self) -> Option<OwnPpk> {
        let (ni, nr) = (&self.transcript.nonce_i, &self.transcript.nonce_r);
        let prf = self.suite?.prf;
        let key = self.ppk_secret()?;
        Some(OwnPpk {
            id: self.ppk_id()?,
            confirmation: ppk::confirmation(prf, key, ni, nr, self.spi_i, self.spi_r),
        })
    }

    /// N(PPK_IDENTITY_KEY) of the initiator.
    pub(super) fn ppk_offer(&self) -> Option<Notify> {
        let OwnPpk { id, confirmation } = self.ppk_confirmation()?;
        Some(PpkOffer { id, confirmation }.to_notify())
    }

    /// Whether N(PPK_IDENTITY) of a message names our PPK.
    pub(super) fn ppk_is_taken(&self, payloads: &[Payload]) -> bool {
        let named = find_notify(payloads, NotifyType::PPK_IDENTITY);
        let named = named.and_then(|notify| PpkId::from_data(&notify.data).ok());
        named.is_some() && named == self.ppk_id()
    }

    /// RFC 8784, initiator: the PPK enters `SK_d`, `SK_pi` and `SK_pr` before the last AUTH, beside which its name is
    /// sent.
    pub(super) fn ppk_for_auth(&mut self) -> Result<Option<Payload>, KeyError> {
        if self.ppk_place() != Some(PpkPlace::Auth) {
            return Ok(None);
        }
        self.mix_ppk_for_auth()?;
        Ok(self.ppk_id().map(|id| id.to_notify().into()))
    }

    /// RFC 8784, responder: the last request has to name the PPK, which then enters the keys. The confirmation for the
    /// response; `Err` without a name.
    pub(super) fn ppk_of_auth(
        &mut self,
        payloads: &[Payload],
    ) -> Result<Option<Payload>, KeyError> {
        if self.ppk_place() != Some(PpkPlace::Auth) {
            return Ok(None);
        }
        if !self.ppk_is_taken(payloads) {
            return Err(KeyError::Suite);
        }
        self.mix_ppk_for_auth()?;
        let consent = Notify::status(NotifyType::PPK_IDENTITY, Vec::new());
        Ok(Some(consent.into()))
    }

    fn mix_ppk_for_auth(&mut self) -> Result<(), KeyError> {
        let prf = self.suite.ok_or(KeyError::Suite)?.prf;
        let key = self.ppk.as_ref().map(|ppk| &ppk.key.secret);
        let crypt = self.crypt.as_mut().ok_or(KeyError::Suite)?;
        let (Some(key), Some(sk_d), Some(auth)) = (key, &mut crypt.sk_d, &mut crypt.auth) else {
            return Err(KeyError::Suite);
        };
        for secret in [sk_d, &mut auth.sk_pi, &mut auth.sk_pr] {
            *secret = ppk::mix(prf, key, secret)?;
        }
        Ok(())
    }
}

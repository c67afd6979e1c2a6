//! Keys of an SA, and how the secrets of key exchanges become keys (RFC 7296, sections 2.14, 2.17 and
//! 2.18; RFC 9370, section 2.2).

use keys::Secret;
use thiserror::Error;

use super::{
    prf::Prf,
    select::{EspSuite, IkeSuite},
    suite::{Encr, Integ},
};

/// Why keys cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// prf+ ends after 255 blocks.
    #[error("prf+ cannot give {0} octets")]
    TooLong(usize),
    /// A key has fewer octets than the algorithm takes.
    #[error("a key of {have} octets where {need} are needed")]
    TooShort {
        /// Octets there are.
        have: usize,
        /// Octets the algorithm takes.
        need: usize,
    },
    /// Fewer or more keys than the suite takes.
    #[error("{have} keys where {need} are needed")]
    Count {
        /// Keys there are.
        have: usize,
        /// Keys the suite takes.
        need: usize,
    },
    /// An AEAD with an integrity algorithm, or encryption alone without one.
    #[error("the suite's encryption and integrity do not go together")]
    Suite,
}

/// Keys of one direction of an IKE or Child SA.
pub struct DirectionKeys {
    /// Encryption key, without the salt.
    pub encr: Secret,
    /// Salt of an AEAD, not secret; zero for other algorithms.
    pub salt: [u8; 4],
    /// Integrity key, for suites that are not AEAD.
    pub integ: Option<Secret>,
}

impl DirectionKeys {
    /// A second owner of the same keys. Named, so that a duplicate is always a visible decision.
    pub fn duplicate(&self) -> Self {
        Self {
            encr: self.encr.duplicate(),
            salt: self.salt,
            integ: self.integ.as_ref().map(Secret::duplicate),
        }
    }
}

/// Everything an IKE SA needs: `SK_*` of RFC 7296, section 2.14.
pub struct IkeKeys {
    /// `SK_d`: Child SA keys are derived from it.
    pub sk_d: Secret,
    /// `SK_pi`: the initiator's identity in AUTH.
    pub sk_pi: Secret,
    /// `SK_pr`: the responder's identity in AUTH.
    pub sk_pr: Secret,
    /// `SK_ei`, `SK_ai`: messages of the original initiator.
    pub initiator: DirectionKeys,
    /// `SK_er`, `SK_ar`: messages of the original responder.
    pub responder: DirectionKeys,
}

/// Keys of a Child SA pair.
///
/// `first` protects what travels from the initiator to the responder of the exchange that made the
/// pair; with QKD keys ([`super::qkd`]) always what travels from the UE to the N3IWF.
pub struct ChildKeys {
    /// The direction whose keys come first.
    pub first: DirectionKeys,
    /// The other direction.
    pub second: DirectionKeys,
}

/// `SKEYSEED = prf(Ni | Nr, g^ir)` (RFC 7296, section 2.14).
pub fn skeyseed(prf: Prf, ni: &[u8], nr: &[u8], shared: &Secret) -> Secret {
    let mut key = ni.to_vec();
    key.extend_from_slice(nr);
    prf.mac(&key, &[shared.expose()])
}

/// `SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr)` after an additional key exchange in
/// IKE_INTERMEDIATE (RFC 9370, section 2.2.2).
///
/// The nonces are those of IKE_SA_INIT; [`ike_keys`] then gives all keys anew.
pub fn skeyseed_update(prf: Prf, sk_d: &Secret, shared: &Secret, ni: &[u8], nr: &[u8]) -> Secret {
    prf.mac(sk_d.expose(), &[shared.expose(), ni, nr])
}

/// `SKEYSEED = prf(SK_d (old), SK(0) | Ni | Nr | SK(1) | ... | SK(n))` of an IKE SA rekey: the secret of
/// CREATE_CHILD_SA, and in order those of IKE_FOLLOWUP_KE (RFC 7296, section 2.18; RFC 9370, section 2.2.4).
///
/// `old_prf` and `old_sk_d` are those of the SA that is replaced; [`ike_keys`] then takes the new
/// suite and the new SPIs. `None` without any secret: a rekey has a key exchange.
pub fn skeyseed_rekey(
    old_prf: Prf,
    old_sk_d: &Secret,
    shared: &[Secret],
    ni: &[u8],
    nr: &[u8],
) -> Option<Secret> {
    (!shared.is_empty()).then(|| old_prf.mac(old_sk_d.expose(), &around(shared, ni, nr)))
}

/// `{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)`.
///
/// AEAD: no `SK_a*`, and each `SK_e*` is followed by its salt (RFC 5282, section 7.1).
pub fn ike_keys(
    suite: &IkeSuite,
    skeyseed: &Secret,
    ni: &[u8],
    nr: &[u8],
    spi_i: u64,
    spi_r: u64,
) -> Result<IkeKeys, KeyError> {
    let (encr, integ) = checked(suite.encr, suite.integ)?;
    let prf_len = suite.prf.key_len();
    let integ_len = integ.map_or(0, Integ::key_len);
    let len = 3 * prf_len + 2 * (integ_len + encr.key_len() + encr.salt_len());
    let seed: [&[u8]; 4] = [ni, nr, &spi_i.to_be_bytes(), &spi_r.to_be_bytes()];
    let material = suite.prf.plus(skeyseed.expose(), &seed, len)?;
    let mut cut = Cut::new(&material);
    let sk_d = cut.secret(prf_len)?;
    let sk_ai = integ.map(|_| cut.secret(integ_len)).transpose()?;
    let sk_ar = integ.map(|_| cut.secret(integ_len)).transpose()?;
    let (sk_ei, salt_i) = cut.encr(encr)?;
    let (sk_er, salt_r) = cut.encr(encr)?;
    let sk_pi = cut.secret(prf_len)?;
    let sk_pr = cut.secret(prf_len)?;
    Ok(IkeKeys {
        sk_d,
        sk_pi,
        sk_pr,
        initiator: DirectionKeys {
            encr: sk_ei,
            salt: salt_i,
            integ: sk_ai,
        },
        responder: DirectionKeys {
            encr: sk_er,
            salt: salt_r,
            integ: sk_ar,
        },
    })
}

/// `KEYMAT = prf+(SK_d, [SK(0) |] Ni | Nr [| SK(1) | ... | SK(n)])`: without key exchange, with that of
/// CREATE_CHILD_SA, or also with those of IKE_FOLLOWUP_KE (RFC 7296, section 2.17; RFC 9370, section
/// 2.2.4).
///
/// For the Child SA of IKE_AUTH the nonces are those of IKE_SA_INIT. Per direction the encryption
/// key, its salt and the integrity key, first for data of the exchange's initiator.
pub fn child_keys(
    prf: Prf,
    suite: &EspSuite,
    sk_d: &Secret,
    shared: &[Secret],
    ni: &[u8],
    nr: &[u8],
) -> Result<ChildKeys, KeyError> {
    let (encr, integ) = checked(suite.encr, suite.integ)?;
    let integ_len = integ.map_or(0, Integ::key_len);
    let len = 2 * (encr.key_len() + encr.salt_len() + integ_len);
    let material = prf.plus(sk_d.expose(), &around(shared, ni, nr), len)?;
    let mut cut = Cut::new(&material);
    let mut direction = || -> Result<DirectionKeys, KeyError> {
        let (key, salt) = cut.encr(encr)?;
        let integ = integ.map(|_| cut.secret(integ_len)).transpose()?;
        Ok(DirectionKeys {
            encr: key,
            salt,
            integ,
        })
    };
    Ok(ChildKeys {
        first: direction()?,
        second: direction()?,
    })
}

/// `SK(0) | Ni | Nr | SK(1) | ... | SK(n)`.
fn around<'a>(shared: &'a [Secret], ni: &'a [u8], nr: &'a [u8]) -> Vec<&'a [u8]> {
    let mut secrets = shared.iter().map(Secret::expose);
    let mut parts: Vec<&[u8]> = secrets.next().into_iter().collect();
    parts.extend([ni, nr]);
    parts.extend(secrets);
    parts
}

/// The pair, when AEAD stands alone and other encryption does not.
pub(super) fn checked(encr: Encr, integ: Option<Integ>) -> Result<(Encr, Option<Integ>), KeyError> {
    if encr.is_aead() == integ.is_none() {
        Ok((encr, integ))
    } else {
        Err(KeyError::Suite)
    }
}

/// Cuts key material from the front.
struct Cut<'a> {
    rest: &'a [u8],
}

impl<'a> Cut<'a> {
    fn new(material: &'a Secret) -> Self {
        Self {
            rest: material.expose(),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], KeyError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(KeyError::TooShort {
            have: self.rest.len(),
            need: len,
        })?;
        self.rest = tail;
        Ok(head)
    }

    fn secret(&mut self, len: usize) -> Result<Secret, KeyError> {
        self.take(len).map(Secret::from_slice)
    }

    fn encr(&mut self, encr: Encr) -> Result<(Secret, [u8; 4]), KeyError> {
        let key = self.secret(encr.key_len())?;
        let mut salt = [0; 4];
        for (to, from) in salt.iter_mut().zip(self.take(encr.salt_len())?) {
            *to = *from;
        }
        Ok((key, salt))
    }
}

//! Admission tags: how a UE that attached before shows it in its next IKE_SA_INIT request.
//!
//! ```text
//! K_adm | tag ID (8) = prf+(K_auth, "admission")        K_adm as long as the PRF's key
//! tag (16)           = prf(K_adm, IKE_SA_INIT request with sixteen zeros in its place), cut
//! ```
//! QKD_ADMISSION is the last payload of the request, so that the tag is its last sixteen octets.

use keys::Secret;
use subtle::ConstantTimeEq;

use super::{keymat::KeyError, prf::Prf};

/// Octets of a tag ID.
const ID_LEN: usize = 8;
/// Octets of a tag.
const TAG_LEN: usize = 16;

/// `K_adm` and the name both ends know it by. Wiped on drop.
pub struct AdmissionKey {
    id: [u8; ID_LEN],
    prf: Prf,
    key: Secret,
}

impl AdmissionKey {
    /// The key of an attach in mode `qkd`, of the PRF of its IKE SA.
    pub fn derive(prf: Prf, k_auth: &Secret) -> Result<Self, KeyError> {
        let len = prf.key_len();
        let need = len + ID_LEN;
        let octets = prf.plus(k_auth.expose(), &[b"admission"], need)?;
        let short = KeyError::TooShort {
            have: octets.len(),
            need,
        };
        let key = octets.leading(len);
        let id = octets.expose().get(len..).and_then(|id| id.try_into().ok());
        match (key, id) {
            (Some(key), Some(id)) => Ok(Self { id, prf, key }),
            _ => Err(short),
        }
    }

    /// The tag ID, which travels in clear.
    pub const fn id(&self) -> [u8; ID_LEN] {
        self.id
    }

    /// Writes the tag over the last octets of a request. One that is too short for it stays as it is.
    pub fn sign(&self, request: &mut [u8]) {
        let Some((text, place)) = request.split_last_chunk_mut::<TAG_LEN>() else {
            return;
        };
        let tag = self.tag(text);
        for (to, from) in place.iter_mut().zip(tag.expose()) {
            *to = *from;
        }
    }

    /// Whether the last octets of a request are its tag.
    pub fn verify(&self, request: &[u8]) -> bool {
        let Some((text, tag)) = request.split_last_chunk::<TAG_LEN>() else {
            return false;
        };
        self.tag(text)
            .leading(TAG_LEN)
            .is_some_and(|good| good.expose().ct_eq(tag).into())
    }

    fn tag(&self, text: &[u8]) -> Secret {
        self.prf.mac(self.key.expose(), &[text, &[0; TAG_LEN]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(octet: u8, prf: Prf) -> AdmissionKey {
        AdmissionKey::derive(prf, &Secret::from_slice(&[octet; 32])).unwrap()
    }

    #[test]
    fn both_ends_derive_the_same_and_others_do_not() {
        for prf in Prf::ALL {
            let mut request = vec![7; 300];
            key(1, prf).sign(&mut request);
            assert_eq!(request[..284], [7; 284]);
            assert!(key(1, prf).verify(&request));
            assert!(!key(2, prf).verify(&request));
            assert_eq!(key(1, prf).id(), key(1, prf).id());
            assert_ne!(key(1, prf).id(), key(2, prf).id());
        }
    }

    #[test]
    fn any_changed_bit_is_seen() {
        let key = key(3, Prf::HmacSha2_256);
        let mut request = vec![9; 64];
        key.sign(&mut request);
        for at in 0..request.len() * 8 {
            request[at / 8] ^= 1 << (at % 8);
            assert!(!key.verify(&request), "bit {at}");
            request[at / 8] ^= 1 << (at % 8);
        }
        assert!(key.verify(&request));
        assert!(!key.verify(&request[..15]));
    }

    #[test]
    fn the_derivation_is_the_documented_one() {
        let k_auth = [5; 32];
        let first = Prf::HmacSha2_256.mac(&k_auth, &[b"admission", &[1]]);
        let second = Prf::HmacSha2_256.mac(&k_auth, &[first.expose(), b"admission", &[2]]);
        let key = key(5, Prf::HmacSha2_256);
        assert!(key.key == first);
        assert_eq!(key.id(), second.expose()[..8]);
    }
}

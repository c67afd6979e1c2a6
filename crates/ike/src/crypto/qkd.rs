//! Key schedule of mode `qkd`: keys come from the QKD system, one key for one purpose.
//!
//! Keys in order of use, each cut to the leading octets its algorithm takes:
//! 1. IKE SA: `SK_ei`, `SK_er`, and without AEAD `SK_ai`, `SK_ar`;
//! 2. each Child SA: encryption UE to N3IWF, encryption N3IWF to UE, and without AEAD integrity
//!    UE to N3IWF, integrity N3IWF to UE;
//! 3. `K_auth`.
//!
//! An attach with two Child SAs takes 7 keys with AEAD suites and 13 without.

use keys::Secret;

use super::{
    keymat::{ChildKeys, DirectionKeys, IkeKeys, KeyError, checked},
    prf::Prf,
    select::{EspSuite, IkeSuite},
    suite::{Encr, Integ},
};

/// Keys an IKE SA takes, `K_auth` not counted: 2 with AEAD, else 4.
pub const fn ike_key_count(suite: &IkeSuite) -> usize {
    key_count(suite.encr)
}

/// Keys a Child SA takes: 2 with AEAD, else 4.
pub const fn child_key_count(suite: &EspSuite) -> usize {
    key_count(suite.encr)
}

/// Keys of a whole attach: the IKE SA, `children` Child SAs and `K_auth`.
pub const fn attach_key_count(ike: &IkeSuite, child: &EspSuite, children: usize) -> usize {
    ike_key_count(ike) + children * child_key_count(child) + 1
}

/// Octets every key of an attach must have at least: the longest that either suite takes.
///
/// `K_auth` is used whole, so it then has at least as many as the encryption key.
pub fn key_len(ike: &IkeSuite, child: &EspSuite) -> usize {
    longest(ike.encr, ike.integ).max(longest(child.encr, child.integ))
}

/// Keys of the IKE SA from `keys` (`SK_ei`, `SK_er`[, `SK_ai`, `SK_ar`]) and `K_auth`.
///
/// `SK_d | SK_pi | SK_pr = prf+(K_auth, Ni | Nr | SPIi | SPIr)`. Salts: see [`salt`].
pub fn ike_keys(
    suite: &IkeSuite,
    keys: Vec<Secret>,
    k_auth: &Secret,
    ni: &[u8],
    nr: &[u8],
    spi_i: u64,
    spi_r: u64,
) -> Result<IkeKeys, KeyError> {
    let (spi_i, spi_r) = (spi_i.to_be_bytes(), spi_r.to_be_bytes());
    // What the initiator sends is received by the responder, and the other way round.
    let (initiator, responder) = directions(suite.encr, suite.integ, keys, ni, nr, &spi_r, &spi_i)?;
    let len = suite.prf.key_len();
    let derived = suite
        .prf
        .plus(k_auth.expose(), &[ni, nr, &spi_i, &spi_r], 3 * len)?;
    let part = |index: usize| {
        derived
            .expose()
            .chunks_exact(len)
            .nth(index)
            .map(Secret::from_slice)
            .ok_or(KeyError::TooShort {
                have: derived.len(),
                need: 3 * len,
            })
    };
    Ok(IkeKeys {
        sk_d: part(0)?,
        sk_pi: part(1)?,
        sk_pr: part(2)?,
        initiator,
        responder,
    })
}

/// Keys of a Child SA from `keys` (encryption UE to N3IWF, N3IWF to UE[, integrity likewise]).
///
/// `spi_ue` and `spi_n3iwf` are the SPIs each side receives on; the nonces are those of the
/// exchange that makes the SA. [`ChildKeys::first`] is UE to N3IWF, whoever began the exchange.
pub fn child_keys(
    suite: &EspSuite,
    keys: Vec<Secret>,
    ni: &[u8],
    nr: &[u8],
    spi_ue: u32,
    spi_n3iwf: u32,
) -> Result<ChildKeys, KeyError> {
    let (first, second) = directions(
        suite.encr,
        suite.integ,
        keys,
        ni,
        nr,
        &spi_n3iwf.to_be_bytes(),
        &spi_ue.to_be_bytes(),
    )?;
    Ok(ChildKeys { first, second })
}

/// Salt of an AEAD key: the leading 4 octets of `HMAC-SHA-256(Ni | Nr, SPI)`.
///
/// The SPI is the one the packets carry or, for IKE, the receiver's: 4 or 8 octets. A salt is not
/// secret; it only has to differ for every use of a key.
pub fn salt(ni: &[u8], nr: &[u8], receiver_spi: &[u8]) -> [u8; 4] {
    let mut key = ni.to_vec();
    key.extend_from_slice(nr);
    let mac = Prf::HmacSha2_256.mac(&key, &[receiver_spi]);
    let mut salt = [0; 4];
    for (to, from) in salt.iter_mut().zip(mac.expose()) {
        *to = *from;
    }
    salt
}

/// Shared secret of the AUTH payloads after EAP-Success: `prf(K_auth, K_N3IWF)`.
///
/// It proves the QKD peer and the subscription together; whoever has one of the two alone fails.
pub fn final_secret(prf: Prf, k_auth: &Secret, k_n3iwf: &Secret) -> Secret {
    prf.mac(k_auth.expose(), &[k_n3iwf.expose()])
}

const fn key_count(encr: Encr) -> usize {
    if encr.is_aead() { 2 } else { 4 }
}

fn longest(encr: Encr, integ: Option<Integ>) -> usize {
    encr.key_len().max(integ.map_or(0, Integ::key_len))
}

/// `(up, down)`: the first with the salt of `spi_up`, the second with the salt of `spi_down`.
fn directions(
    encr: Encr,
    integ: Option<Integ>,
    keys: Vec<Secret>,
    ni: &[u8],
    nr: &[u8],
    spi_up: &[u8],
    spi_down: &[u8],
) -> Result<(DirectionKeys, DirectionKeys), KeyError> {
    let (encr, integ) = checked(encr, integ)?;
    let need = key_count(encr);
    let count = KeyError::Count {
        have: keys.len(),
        need,
    };
    if keys.len() != need {
        return Err(count);
    }
    let mut keys = keys.into_iter();
    let mut next = |len: usize| {
        let key = keys.next().ok_or(count.clone())?;
        key.leading(len).ok_or(KeyError::TooShort {
            have: key.len(),
            need: len,
        })
    };
    let encr_up = next(encr.key_len())?;
    let encr_down = next(encr.key_len())?;
    let integ_up = integ.map(|integ| next(integ.key_len())).transpose()?;
    let integ_down = integ.map(|integ| next(integ.key_len())).transpose()?;
    let salted = |spi: &[u8]| match encr.is_aead() {
        true => salt(ni, nr, spi),
        false => [0; 4],
    };
    Ok((
        DirectionKeys {
            encr: encr_up,
            salt: salted(spi_up),
            integ: integ_up,
        },
        DirectionKeys {
            encr: encr_down,
            salt: salted(spi_down),
            integ: integ_down,
        },
    ))
}

//! ML-KEM-512, -768 and -1024 (FIPS 203): the initiator sends an encapsulation key, the responder a
//! ciphertext.

use keys::Secret;
use ml_kem::{
    B32, Decapsulate, DecapsulationKey512, DecapsulationKey768, DecapsulationKey1024,
    EncapsulationKey512, EncapsulationKey768, EncapsulationKey1024, KeyExport, Seed,
};
use rand_core::CryptoRng;
use zeroize::Zeroize;

use crate::crypto::method::KeMethod;

/// A parameter set of FIPS 203, section 8.
#[derive(Clone, Copy)]
pub(super) enum Set {
    MlKem512,
    MlKem768,
    MlKem1024,
}

/// The parameter set of an ML-KEM method; the caller asks for no other.
pub(super) const fn set(method: KeMethod) -> Set {
    match method {
        KeMethod::MlKem512 => Set::MlKem512,
        KeMethod::MlKem1024 => Set::MlKem1024,
        _ => Set::MlKem768,
    }
}

/// A decapsulation key; large, so boxed.
pub(super) enum Key {
    MlKem512(Box<DecapsulationKey512>),
    MlKem768(Box<DecapsulationKey768>),
    MlKem1024(Box<DecapsulationKey1024>),
}

/// An encapsulation key and its decapsulation key, from the seed `d | z` of FIPS 203.
pub(super) fn generate(set: Set, rng: &mut (impl CryptoRng + ?Sized)) -> (Vec<u8>, Key) {
    let mut seed = Seed::default();
    rng.fill_bytes(&mut seed);
    let pair = match set {
        Set::MlKem512 => {
            let key = DecapsulationKey512::from_seed(seed);
            let public = key.encapsulation_key().to_bytes().to_vec();
            (public, Key::MlKem512(Box::new(key)))
        }
        Set::MlKem768 => {
            let key = DecapsulationKey768::from_seed(seed);
            let public = key.encapsulation_key().to_bytes().to_vec();
            (public, Key::MlKem768(Box::new(key)))
        }
        Set::MlKem1024 => {
            let key = DecapsulationKey1024::from_seed(seed);
            let public = key.encapsulation_key().to_bytes().to_vec();
            (public, Key::MlKem1024(Box::new(key)))
        }
    };
    seed.as_mut_slice().zeroize();
    pair
}

/// A ciphertext and its shared secret; `None` unless the encapsulation key is of the right length and
/// every coefficient is reduced (FIPS 203, section 7.2).
pub(super) fn respond(
    set: Set,
    encapsulation_key: &[u8],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Option<(Vec<u8>, Secret)> {
    let mut m = B32::default();
    rng.fill_bytes(&mut m);
    let (ciphertext, mut shared) = match set {
        Set::MlKem512 => {
            let key = EncapsulationKey512::new(encapsulation_key.try_into().ok()?).ok()?;
            let (ciphertext, shared) = key.encapsulate_deterministic(&m);
            (ciphertext.to_vec(), shared)
        }
        Set::MlKem768 => {
            let key = EncapsulationKey768::new(encapsulation_key.try_into().ok()?).ok()?;
            let (ciphertext, shared) = key.encapsulate_deterministic(&m);
            (ciphertext.to_vec(), shared)
        }
        Set::MlKem1024 => {
            let key = EncapsulationKey1024::new(encapsulation_key.try_into().ok()?).ok()?;
            let (ciphertext, shared) = key.encapsulate_deterministic(&m);
            (ciphertext.to_vec(), shared)
        }
    };
    let secret = Secret::from_slice(&shared);
    shared.as_mut_slice().zeroize();
    m.as_mut_slice().zeroize();
    Some((ciphertext, secret))
}

/// The shared secret of a ciphertext; `None` when the length is wrong. A ciphertext that was not made
/// with our key gives a secret all the same, one that nobody shares (FIPS 203, section 6.3).
pub(super) fn shared(key: &Key, ciphertext: &[u8]) -> Option<Secret> {
    let mut shared = match key {
        Key::MlKem512(key) => key.decapsulate_slice(ciphertext).ok()?,
        Key::MlKem768(key) => key.decapsulate_slice(ciphertext).ok()?,
        Key::MlKem1024(key) => key.decapsulate_slice(ciphertext).ok()?,
    };
    let secret = Secret::from_slice(&shared);
    shared.as_mut_slice().zeroize();
    Some(secret)
}

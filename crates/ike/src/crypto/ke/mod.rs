//! Key exchange: from a public value and a random number to a shared secret.
//!
//! ```text
//! initiator                                     responder
//! secret = method.generate(rng)
//! KEi: secret.public()            ------->      (KEr, shared) = method.respond(KEi, rng)
//! shared = secret.finish(KEr)     <-------
//! ```
//!
//! Public values and shared secrets in octets:
//!
//! | method | initiator's | responder's | shared | source |
//! |---|---|---|---|---|
//! | MODP | modulus, zeros on the left | the same | the same | RFC 7296, section 2.14; RFC 3526 |
//! | ECP | `x \| y`, without the octet 4 of SEC 1 | the same | `x` | RFC 5903, section 7 |
//! | Curve25519 | 32, little endian | the same | 32 | RFC 8031 |
//! | ML-KEM | encapsulation key | ciphertext | 32 | FIPS 203; draft-ietf-ipsecme-ikev2-mlkem |
//!
//! Every public value received is checked as RFC 6989 and FIPS 203, section 7 ask, before it is used.

mod ecp;
mod mlkem;
mod modp;

use keys::Secret;
use rand_core::CryptoRng;
use thiserror::Error;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use super::method::KeMethod;

/// The public value received is none. All of it is answered with INVALID_SYNTAX, or, before
/// the peer is authenticated, passed over (RFC 6989, section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeError {
    /// Not as long as values of this method are.
    #[error("{method}: a public value of {have} octets where {need} are needed")]
    Length {
        /// The method.
        method: KeMethod,
        /// Octets received.
        have: usize,
        /// Octets a value has.
        need: usize,
    },
    /// A value that the method rules out: a number of MODP out of range, a point that is not on the
    /// curve, a coefficient of ML-KEM that is not reduced, or one that leads to a shared secret of zeros.
    #[error("{0}: not a valid public value")]
    Value(KeMethod),
}

/// The initiator's half of a key exchange, until the responder's public value is here.
///
/// For one exchange only: ML-KEM asks for it, and the others have no checks for reuse
/// (RFC 6989, section 2.3). The private value is wiped when this is dropped.
pub struct KeSecret {
    method: KeMethod,
    public: Vec<u8>,
    private: Private,
}

enum Private {
    Modp(modp::Exponent),
    Ecp(ecp::Scalar),
    Curve25519(StaticSecret),
    MlKem(mlkem::Key),
}

const CURVE25519_LEN: usize = 32;

impl KeMethod {
    /// Octets of the initiator's public value.
    pub const fn initiator_len(self) -> usize {
        match self {
            Self::Modp2048 => 256,
            Self::Modp3072 => 384,
            Self::Modp4096 => 512,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::Ecp521 => 132,
            Self::Curve25519 => CURVE25519_LEN,
            Self::MlKem512 => 800,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Octets of the responder's public value.
    pub const fn responder_len(self) -> usize {
        match self {
            Self::MlKem512 => 768,
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
            other => other.initiator_len(),
        }
    }

    /// Octets of the shared secret.
    pub const fn shared_len(self) -> usize {
        match self {
            Self::Ecp256 | Self::Ecp384 | Self::Ecp521 => self.initiator_len() / 2,
            Self::MlKem512 | Self::MlKem768 | Self::MlKem1024 => 32,
            other => other.initiator_len(),
        }
    }

    /// Begins an exchange as initiator.
    pub fn generate(self, rng: &mut (impl CryptoRng + ?Sized)) -> KeSecret {
        let (public, private) = match self {
            Self::Modp2048 | Self::Modp3072 | Self::Modp4096 => {
                let (public, exponent) = modp::generate(modp::group(self), rng);
                (public, Private::Modp(exponent))
            }
            Self::Ecp256 | Self::Ecp384 | Self::Ecp521 => {
                let (public, scalar) = ecp::generate(ecp::curve(self), rng);
                (public, Private::Ecp(scalar))
            }
            Self::Curve25519 => {
                let (public, secret) = curve25519(rng);
                (public, Private::Curve25519(secret))
            }
            Self::MlKem512 | Self::MlKem768 | Self::MlKem1024 => {
                let (public, key) = mlkem::generate(mlkem::set(self), rng);
                (public, Private::MlKem(key))
            }
        };
        KeSecret {
            method: self,
            public,
            private,
        }
    }

    /// Answers an exchange as responder: our public value and the shared secret.
    pub fn respond(
        self,
        peer_public: &[u8],
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(Vec<u8>, Secret), KeError> {
        if matches!(self, Self::MlKem512 | Self::MlKem768 | Self::MlKem1024) {
            self.check_len(peer_public, self.initiator_len())?;
            return mlkem::respond(mlkem::set(self), peer_public, rng).ok_or(KeError::Value(self));
        }
        let ours = self.generate(rng);
        let shared = ours.finish(peer_public)?;
        Ok((ours.public, shared))
    }

    const fn check_len(self, value: &[u8], need: usize) -> Result<(), KeError> {
        if value.len() == need {
            Ok(())
        } else {
            Err(KeError::Length {
                method: self,
                have: value.len(),
                need,
            })
        }
    }
}

impl KeSecret {
    /// The method.
    pub const fn method(&self) -> KeMethod {
        self.method
    }

    /// Our public value: the data of the KE payload.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret with the responder's public value.
    ///
    /// Borrows, since in IKE_SA_INIT a value that fails may be a forgery, with the true one to follow.
    pub fn finish(&self, peer_public: &[u8]) -> Result<Secret, KeError> {
        self.method
            .check_len(peer_public, self.method.responder_len())?;
        let shared = match &self.private {
            Private::Modp(exponent) => modp::shared(exponent, peer_public),
            Private::Ecp(scalar) => ecp::shared(scalar, peer_public),
            Private::Curve25519(secret) => curve25519_shared(secret, peer_public),
            Private::MlKem(key) => mlkem::shared(key, peer_public),
        };
        shared.ok_or(KeError::Value(self.method))
    }
}

fn curve25519(rng: &mut (impl CryptoRng + ?Sized)) -> (Vec<u8>, StaticSecret) {
    let mut octets = Zeroizing::new([0; CURVE25519_LEN]);
    rng.fill_bytes(octets.as_mut_slice());
    let secret = StaticSecret::from(*octets);
    (PublicKey::from(&secret).to_bytes().to_vec(), secret)
}

/// `None` when the shared secret would be zero: a point of small order (RFC 8031, section 5).
fn curve25519_shared(secret: &StaticSecret, peer_public: &[u8]) -> Option<Secret> {
    let peer_public = <[u8; CURVE25519_LEN]>::try_from(peer_public).ok()?;
    let shared: SharedSecret = secret.diffie_hellman(&PublicKey::from(peer_public));
    shared
        .was_contributory()
        .then(|| Secret::from_slice(shared.as_bytes()))
}

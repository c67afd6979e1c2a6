//! ECP groups 19, 20 and 21 (RFC 5903): the NIST curves P-256, P-384 and P-521.

use keys::Secret;
use p256::{
    NistP256,
    elliptic_curve::{
        AffinePoint, CurveArithmetic, FieldBytesSize, PublicKey, SecretKey,
        sec1::{FromSec1Point, ModulusSize, ToSec1Point},
    },
};
use p384::NistP384;
use p521::NistP521;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::crypto::method::KeMethod;

/// A curve of RFC 5903.
#[derive(Clone, Copy)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

/// The curve of an ECP method; the caller asks for no other.
pub(super) const fn curve(method: KeMethod) -> Curve {
    match method {
        KeMethod::Ecp521 => Curve::P521,
        KeMethod::Ecp384 => Curve::P384,
        _ => Curve::P256,
    }
}

/// A private scalar.
pub(super) enum Scalar {
    P256(SecretKey<NistP256>),
    P384(SecretKey<NistP384>),
    P521(SecretKey<NistP521>),
}

/// First octet of an uncompressed point in SEC 1, which IKE leaves out.
const UNCOMPRESSED: u8 = 4;

/// A public value and the scalar it was made with.
pub(super) fn generate(curve: Curve, rng: &mut (impl CryptoRng + ?Sized)) -> (Vec<u8>, Scalar) {
    match curve {
        Curve::P256 => {
            let secret = scalar::<NistP256>(32, 0xff, rng);
            (public(&secret), Scalar::P256(secret))
        }
        Curve::P384 => {
            let secret = scalar::<NistP384>(48, 0xff, rng);
            (public(&secret), Scalar::P384(secret))
        }
        // 521 bits: one of them in the first octet.
        Curve::P521 => {
            let secret = scalar::<NistP521>(66, 0x01, rng);
            (public(&secret), Scalar::P521(secret))
        }
    }
}

/// The x coordinate of the common point (RFC 5903, section 7), or `None` when the
/// peer's point is not on the curve.
pub(super) fn shared(scalar: &Scalar, peer_public: &[u8]) -> Option<Secret> {
    match scalar {
        Scalar::P256(secret) => common(secret, peer_public),
        Scalar::P384(secret) => common(secret, peer_public),
        Scalar::P521(secret) => common(secret, peer_public),
    }
}

/// Draws until the number is in `1 .. order`, which on these curves the first nearly always is.
fn scalar<C: CurveArithmetic>(
    len: usize,
    mask: u8,
    rng: &mut (impl CryptoRng + ?Sized),
) -> SecretKey<C> {
    let mut octets = Zeroizing::new(vec![0; len]);
    loop {
        rng.fill_bytes(&mut octets);
        if let Some(first) = octets.first_mut() {
            *first &= mask;
        }
        if let Ok(secret) = SecretKey::from_slice(&octets) {
            return secret;
        }
    }
}

fn public<C>(secret: &SecretKey<C>) -> Vec<u8>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    let point = secret.public_key().to_sec1_point(false);
    point.as_bytes().iter().skip(1).copied().collect()
}

fn common<C>(secret: &SecretKey<C>, peer_public: &[u8]) -> Option<Secret>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    let mut point = vec![UNCOMPRESSED];
    point.extend_from_slice(peer_public);
    let peer = PublicKey::<C>::from_sec1_bytes(&point).ok()?;
    let shared = secret.diffie_hellman(&peer);
    Some(Secret::from_slice(shared.raw_secret_bytes()))
}

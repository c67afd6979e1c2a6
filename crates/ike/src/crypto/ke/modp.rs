//! MODP groups 14, 15 and 16 (RFC 3526): safe primes, generator 2.

use crypto_bigint::{
    Odd, U320, U448, U512, U2048, U3072, U4096, Uint,
    modular::{FixedMontyForm, FixedMontyParams},
};
use keys::Secret;
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::method::KeMethod;

/// A group of RFC 3526.
#[derive(Clone, Copy)]
pub(super) enum Group {
    Modp2048,
    Modp3072,
    Modp4096,
}

/// The group of a MODP method; the caller asks for no other.
pub(super) const fn group(method: KeMethod) -> Group {
    match method {
        KeMethod::Modp4096 => Group::Modp4096,
        KeMethod::Modp3072 => Group::Modp3072,
        _ => Group::Modp2048,
    }
}

/// A private exponent: its group, and its octets from the most significant one.
pub(super) struct Exponent {
    group: Group,
    octets: Zeroizing<Vec<u8>>,
}

impl Group {
    /// Octets of a private exponent.
    ///
    /// In a safe-prime group a short exponent of twice the security level costs nothing in strength:
    /// the best attack on it takes the square root of its range. These are the larger of the two
    /// estimates of RFC 3526, section 8 (320, 420, 480 bits), rounded up to whole words, and
    /// more than twice the 112, 128 and 152 bits of NIST SP 800-57. A full-length exponent would
    /// take six to eight times as long.
    const fn exponent_len(self) -> usize {
        match self {
            Self::Modp2048 => 320 / 8,
            Self::Modp3072 => 448 / 8,
            Self::Modp4096 => 512 / 8,
        }
    }
}

/// A public value and the exponent it was made with.
pub(super) fn generate(group: Group, rng: &mut (impl CryptoRng + ?Sized)) -> (Vec<u8>, Exponent) {
    let mut octets = Zeroizing::new(vec![0; group.exponent_len()]);
    rng.fill_bytes(&mut octets);
    let public = match group {
        Group::Modp2048 => raise::<_, { U320::LIMBS }>(&P2048, &U2048::from_u8(2), &octets),
        Group::Modp3072 => raise::<_, { U448::LIMBS }>(&P3072, &U3072::from_u8(2), &octets),
        Group::Modp4096 => raise::<_, { U512::LIMBS }>(&P4096, &U4096::from_u8(2), &octets),
    };
    (public.expose().to_vec(), Exponent { group, octets })
}

/// The shared secret; `None` unless `1 < peer_public < p - 1` (RFC 6989, section 2.1).
///
/// `peer_public` is as long as the modulus: the caller has looked.
pub(super) fn shared(exponent: &Exponent, peer_public: &[u8]) -> Option<Secret> {
    let octets = &exponent.octets;
    Some(match exponent.group {
        Group::Modp2048 => {
            let peer = checked(&P2048, U2048::from_be_slice(peer_public))?;
            raise::<_, { U320::LIMBS }>(&P2048, &peer, octets)
        }
        Group::Modp3072 => {
            let peer = checked(&P3072, U3072::from_be_slice(peer_public))?;
            raise::<_, { U448::LIMBS }>(&P3072, &peer, octets)
        }
        Group::Modp4096 => {
            let peer = checked(&P4096, U4096::from_be_slice(peer_public))?;
            raise::<_, { U512::LIMBS }>(&P4096, &peer, octets)
        }
    })
}

fn checked<const L: usize>(prime: &Odd<Uint<L>>, value: Uint<L>) -> Option<Uint<L>> {
    let last = prime.get().wrapping_sub(&Uint::ONE);
    (value > Uint::ONE && value < last).then_some(value)
}

/// `base ^ exponent mod prime` in constant time; the result is as long as the prime.
///
/// `exponent` has the octets of `E` words, as [`Group::exponent_len`] has it.
fn raise<const L: usize, const E: usize>(
    prime: &Odd<Uint<L>>,
    base: &Uint<L>,
    exponent: &[u8],
) -> Secret {
    let mut exponent = Uint::<E>::from_be_slice(exponent);
    // Variable time in the modulus alone.
    let params = FixedMontyParams::new_vartime(*prime);
    let mut power = FixedMontyForm::new(base, &params).pow(&exponent);
    let mut number = power.retrieve();
    let mut octets = number.to_be_bytes();
    let secret = Secret::from_slice(octets.as_ref());
    octets.as_mut().zeroize();
    number.zeroize();
    power.zeroize();
    exponent.zeroize();
    secret
}

const P2048: Odd<U2048> = Odd::<U2048>::from_be_hex(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22\
     514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6\
     F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3D\
     C2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E8603\
     9B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AACAA68FFFFFFFFFFFFFFFF",
);

const P3072: Odd<U3072> = Odd::<U3072>::from_be_hex(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22\
     514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6\
     F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3D\
     C2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E8603\
     9B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7D\
     B3970F85A6E1E4C7ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
     D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E208E24FA074E5AB31\
     43DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
);

const P4096: Odd<U4096> = Odd::<U4096>::from_be_hex(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22\
     514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6\
     F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3D\
     C2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E8603\
     9B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7D\
     B3970F85A6E1E4C7ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
     D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E208E24FA074E5AB31\
     43DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D788719A10BDBA5B2699C327186AF4E23C\
     1A946834B6150BDA2583E9CA2AD44CE8DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D\
     99B2964FA090C3A2233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
     93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF",
);

//! Stateless cookies (RFC 7296, section 2.6).

use std::net::IpAddr;

use keys::Secret;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

use super::prf::Prf;

/// Makes and checks cookies without remembering whom they went to.
///
/// ```text
/// 0..4 version of the secret   4..36 HMAC-SHA-256(secret, Ni | IPi | SPIi)
/// ```
/// IPi is written in 16 octets (IPv4 mapped), so that what follows Ni has one length and no two
/// inputs read the same. The secret before the current one is still accepted.
pub struct CookieJar {
    version: u32,
    current: Secret,
    previous: Option<Secret>,
}

/// Octets of a cookie; the standard allows 1 to 64.
pub const COOKIE_LEN: usize = 36;

impl CookieJar {
    /// A jar with a fresh secret.
    pub fn new(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        Self {
            version: rng.next_u32(),
            current: fresh(rng),
            previous: None,
        }
    }

    /// Replaces the secret. Cookies made before the previous rotation are no longer good.
    pub fn rotate(&mut self, rng: &mut (impl CryptoRng + ?Sized)) {
        let old = std::mem::replace(&mut self.current, fresh(rng));
        self.previous = Some(old);
        self.version = self.version.wrapping_add(1);
    }

    /// The cookie for an IKE_SA_INIT request: data of the COOKIE notification.
    pub fn make(&self, ni: &[u8], source: IpAddr, spi_i: u64) -> Vec<u8> {
        let mut cookie = self.version.to_be_bytes().to_vec();
        cookie.extend_from_slice(tag(&self.current, ni, source, spi_i).expose());
        cookie
    }

    /// Whether `cookie` was made for this request by the current or the previous secret.
    pub fn check(&self, cookie: &[u8], ni: &[u8], source: IpAddr, spi_i: u64) -> bool {
        let Some((version, received)) = cookie.split_first_chunk::<4>() else {
            return false;
        };
        let age = self.version.wrapping_sub(u32::from_be_bytes(*version));
        let secret = match (age, &self.previous) {
            (0, _) => &self.current,
            (1, Some(previous)) => previous,
            _ => return false,
        };
        tag(secret, ni, source, spi_i)
            .expose()
            .ct_eq(received)
            .into()
    }
}

fn fresh(rng: &mut (impl CryptoRng + ?Sized)) -> Secret {
    Secret::filled(32, |octets| rng.fill_bytes(octets))
}

fn tag(secret: &Secret, ni: &[u8], source: IpAddr, spi_i: u64) -> Secret {
    let address = match source {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    Prf::HmacSha2_256.mac(
        secret.expose(),
        &[ni, &address.octets(), &spi_i.to_be_bytes()],
    )
}

//! How the subscriber is named before there is any security: the SUCI (TS 33.501 Annex C).

use std::fmt;

use oxirush_nas::nas_5gs::NasFGsMobileIdentity;
use oxirush_security::{
    Plmn,
    nas_5gs::{HomeNetworkPublicKey, Protection, RoutingIndicator, Suci},
};
use thiserror::Error;

/// Why the configured subscriber has no SUCI.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuciError {
    /// The IMSI does not start with the digits of the home PLMN, or has no MSIN after them.
    #[error("the IMSI does not belong to the home PLMN {0}")]
    HomePlmn(String),
    /// The home network public key is not a point of its curve.
    #[error("the home network public key is 32 octets (profile A), or 33 or 65 octets (profile B)")]
    PublicKey,
    /// The identifier of the home network public key is reserved.
    #[error("the home network public key identifier is 1 to 254")]
    KeyIdentifier,
    /// The routing indicator is not 1 to 4 digits.
    #[error("the routing indicator has 1 to 4 digits")]
    RoutingIndicator,
    /// The system's random number generator failed, or the identity cannot be coded.
    #[error("the SUCI cannot be made: {0}")]
    Conceal(String),
}

/// The protection scheme of the SUCI.
#[derive(Clone)]
pub enum Scheme {
    /// Scheme 0: the MSIN in clear.
    Null,
    /// Scheme 1 or 2: ECIES with the home network's public key.
    Ecies {
        /// Home network public key identifier, 1 to 254.
        key_id: u8,
        /// The key: X25519 (profile A) or P-256 (profile B).
        key: HomeNetworkPublicKey,
    },
}

/// A subscriber that can name itself in a SUCI.
#[derive(Clone)]
pub struct Concealer {
    plmn: Plmn,
    msin: String,
    routing: RoutingIndicator,
    scheme: Scheme,
}

impl Scheme {
    /// Profile A (TS 33.501 C.3.4.1) with an X25519 key of 32 octets.
    pub fn profile_a(key_id: u8, key: &[u8]) -> Result<Self, SuciError> {
        let key: &[u8; 32] = key.try_into().map_err(|_| SuciError::PublicKey)?;
        Self::ecies(key_id, HomeNetworkPublicKey::profile_a(key))
    }

    /// Profile B (TS 33.501 C.3.4.2) with a P-256 key, 33 octets compressed or 65 uncompressed.
    pub fn profile_b(key_id: u8, key: &[u8]) -> Result<Self, SuciError> {
        let key = HomeNetworkPublicKey::profile_b(key).map_err(|_| SuciError::PublicKey)?;
        Self::ecies(key_id, key)
    }

    fn ecies(key_id: u8, key: HomeNetworkPublicKey) -> Result<Self, SuciError> {
        if matches!(key_id, 0 | 255) {
            return Err(SuciError::KeyIdentifier);
        }
        Ok(Self::Ecies { key_id, key })
    }
}

impl Concealer {
    /// For the subscriber with these IMSI digits in this home PLMN.
    ///
    /// `routing_indicator` is empty for the default one, `0` (TS 23.003, 2.2B).
    pub fn new(
        home: Plmn,
        imsi: &str,
        routing_indicator: &str,
        scheme: Scheme,
    ) -> Result<Self, SuciError> {
        let prefix = home.digits();
        let msin = imsi
            .strip_prefix(prefix)
            .filter(|msin| !msin.is_empty() && msin.bytes().all(|digit| digit.is_ascii_digit()))
            .ok_or_else(|| SuciError::HomePlmn(format!("{}/{}", home.mcc(), home.mnc())))?;
        let routing = match routing_indicator {
            "" => RoutingIndicator::default(),
            digits => RoutingIndicator::new(digits).map_err(|_| SuciError::RoutingIndicator)?,
        };
        Ok(Self {
            plmn: home,
            msin: msin.to_owned(),
            routing,
            scheme,
        })
    }

    /// A fresh SUCI as a 5GS mobile identity (TS 24.501, 9.11.3.4). Under a scheme that conceals,
    /// no two of them are alike.
    pub fn conceal(&self) -> Result<NasFGsMobileIdentity, SuciError> {
        let protection = match &self.scheme {
            Scheme::Null => Protection::Null,
            Scheme::Ecies { key_id, key } => Protection::Ecies {
                key_id: *key_id,
                key,
            },
        };
        let suci = Suci::conceal_imsi(self.plmn, &self.msin, self.routing, protection)
            .map_err(|error| SuciError::Conceal(error.to_string()))?;
        let octets = suci
            .to_nas_octets()
            .map_err(|error| SuciError::Conceal(error.to_string()))?;
        Ok(NasFGsMobileIdentity::new(octets))
    }
}

/// Shows the home network and the scheme, not who the subscriber is.
impl fmt::Debug for Concealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match &self.scheme {
            Scheme::Null => "null",
            Scheme::Ecies { key, .. } if key.scheme().identifier() == 1 => "profile A",
            Scheme::Ecies { .. } => "profile B",
        };
        f.debug_struct("Concealer")
            .field("plmn", &self.plmn.digits())
            .field("scheme", &scheme)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use oxirush_security::nas_5gs::HomeNetworkPrivateKey;

    use super::*;

    const A_PRIVATE: &str = "c53c22208b61860b06c62e5406a7b330c2b577aa5558981510d128247d38bd1d";
    const A_PUBLIC: &str = "5a8d38864820197c3394b92613b20b91633cbd897119273bf8e4a6f4eec0a650";
    const B_PRIVATE: &str = "f1ab1074477ebcc7f554ea1c5fc368b1616730155e0041ac447d6301975fecda";
    const B_PUBLIC: &str = "0272da71976234ce833a6907425867b82e074d44ef907dfb4b3e21c1c2256ebcd1";

    fn concealer(scheme: Scheme) -> Concealer {
        let plmn = Plmn::new("274", "012").unwrap();
        Concealer::new(plmn, "274012001002086", "", scheme).unwrap()
    }

    fn key(text: &str) -> [u8; 32] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn null_scheme_is_the_msin_in_clear() {
        let identity = concealer(Scheme::Null).conceal().unwrap();
        assert_eq!(hex::encode(identity.value), "01722410f0ff000000012080f6");
    }

    #[test]
    fn profile_a_is_opened_by_the_home_network_alone() {
        let scheme = Scheme::profile_a(27, &hex::decode(A_PUBLIC).unwrap()).unwrap();
        let concealer = concealer(scheme);
        let (first, second) = (concealer.conceal().unwrap(), concealer.conceal().unwrap());
        assert_ne!(first.value, second.value);
        let private = HomeNetworkPrivateKey::profile_a(&key(A_PRIVATE));
        let suci = Suci::from_nas_octets(&first.value).unwrap();
        assert_eq!(suci.home_network_public_key_id(), 27);
        let supi = suci.deconceal(Some(&private)).unwrap();
        assert_eq!(supi.identity(), "274012001002086");
        let stranger = HomeNetworkPrivateKey::profile_a(&[7; 32]);
        assert!(suci.deconceal(Some(&stranger)).is_err());
    }

    #[test]
    fn profile_b_is_opened_by_the_home_network() {
        let scheme = Scheme::profile_b(28, &hex::decode(B_PUBLIC).unwrap()).unwrap();
        let identity = concealer(scheme).conceal().unwrap();
        // 8 octets of header, a compressed point, 5 octets of MSIN, 8 of MAC tag.
        assert_eq!(identity.value.len(), 8 + 33 + 5 + 8);
        let private = HomeNetworkPrivateKey::profile_b(&key(B_PRIVATE)).unwrap();
        let suci = Suci::from_nas_octets(&identity.value).unwrap();
        let supi = suci.deconceal(Some(&private)).unwrap();
        assert_eq!(supi.identity(), "274012001002086");
    }

    /// The published SUCIs of TS 33.501 C.4.3.1 and C.4.4.1 open to the subscriber of the annex.
    #[test]
    fn annex_c_4_vectors() {
        let a = "0172 2410 f0ff 011b b2e92f836055a255837debf850b528997ce0201cb82adfe4be1f587d07d8457d cb02352410 cddd9e730ef3fa87";
        let b = "0172 2410 f0ff 021c 039aab8376597021e855679a9778ea0b67396e68c66df32c0f41e9acca2da9b9d1 46a33fc271 6ac7dae96aa30a4d";
        let keys = [
            HomeNetworkPrivateKey::profile_a(&key(A_PRIVATE)),
            HomeNetworkPrivateKey::profile_b(&key(B_PRIVATE)).unwrap(),
        ];
        for (text, private) in [a, b].iter().zip(&keys) {
            let octets = hex::decode(text.replace(' ', "")).unwrap();
            let supi = Suci::from_nas_octets(&octets).unwrap();
            let supi = supi.deconceal(Some(private)).unwrap();
            assert_eq!(supi.identity(), "274012001002086");
        }
    }

    #[test]
    fn what_is_no_subscriber_is_refused() {
        let plmn = Plmn::new("208", "93").unwrap();
        for imsi in ["274012001002086", "20893", "20893x"] {
            assert_eq!(
                Concealer::new(plmn, imsi, "", Scheme::Null).unwrap_err(),
                SuciError::HomePlmn("208/93".into())
            );
        }
        assert!(matches!(
            Scheme::profile_a(0, &[9; 32]),
            Err(SuciError::KeyIdentifier)
        ));
        assert!(matches!(
            Scheme::profile_a(1, &[9; 31]),
            Err(SuciError::PublicKey)
        ));
        assert!(matches!(
            Scheme::profile_b(1, &[5; 33]),
            Err(SuciError::PublicKey)
        ));
    }

    #[test]
    fn debug_does_not_name_the_subscriber() {
        let text = format!("{:?}", concealer(Scheme::Null));
        assert_eq!(text, "Concealer { plmn: \"274012\", scheme: \"null\", .. }");
    }
}

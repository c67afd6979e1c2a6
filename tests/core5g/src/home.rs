//! The home network: AUSF and UDM with ARPF and SIDF.
//!
//! 5G AKA of TS 33.501 6.1.3.2 with MILENAGE (TS 35.206), re-synchronisation
//! of TS 33.102 6.3.5, de-concealment of TS 33.501 Annex C.

use std::collections::BTreeMap;

use oxirush_security::milenage::{Amf, Auts, K, Milenage, Op, Opc, Sqn};
use oxirush_security::nas_5gs::{
    HomeNetworkPrivateKey, KAmf, Suci, Supi, XresStar, derive_kamf, derive_kausf, derive_kseaf,
};
use oxirush_security::{Autn, Rand};
use rand_core::CryptoRng;

use crate::config::{HomeNetworkKey, Profile, Subscriber};
use crate::types::Slice;

/// The ABBA parameter of a network of this release (TS 33.501 A.7.1).
pub const ABBA: [u8; 2] = [0, 0];

/// A step of SQN: the index part is the low five bits (TS 33.102 C.3.2), which
/// one home network that makes one vector at a time leaves at zero.
const SQN_STEP: u64 = 32;

/// Why the home network has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Nobody has this SUPI.
    #[error("unknown subscriber {0}")]
    Unknown(String),
    /// The SUCI does not read or does not deconceal.
    #[error("SUCI: {0}")]
    Suci(String),
    /// The AUTS is not this subscriber's.
    #[error("AUTS with a wrong MAC-S")]
    Auts,
    /// A value of the subscription is wrong.
    #[error("subscription: {0}")]
    Subscription(String),
}

/// What a challenge leaves in the AMF.
pub struct Challenge {
    /// Sent to the UE.
    pub rand: Rand,
    /// Sent to the UE.
    pub autn: Autn,
    /// What RES* has to be.
    pub expected: XresStar,
    /// The key that follows from the challenge.
    pub k_amf: KAmf,
}

/// The subscribers and the keys of a home network.
pub struct Home {
    subscribers: BTreeMap<String, Entry>,
    keys: BTreeMap<(u8, u8), HomeNetworkPrivateKey>,
}

struct Entry {
    milenage: Milenage,
    amf: Amf,
    sqn: u64,
    slices: Vec<Slice>,
    dnns: Vec<String>,
    static_ip: Option<std::net::Ipv4Addr>,
    resynchronised: u64,
}

impl Home {
    /// Takes subscribers and keys over.
    ///
    /// # Errors
    /// [`HomeError::Subscription`] for a value that is no key of its kind, and
    /// for a SUPI given twice.
    pub fn new(subscribers: Vec<Subscriber>, keys: &[HomeNetworkKey]) -> Result<Self, HomeError> {
        let wrong = |what: String| HomeError::Subscription(what);
        let mut home = Self {
            subscribers: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        for subscriber in subscribers {
            let k = K::new(subscriber.k.expose());
            let opc = match (&subscriber.opc, &subscriber.op) {
                (Some(opc), None) => Opc::new(opc.expose()),
                (None, Some(op)) => Opc::from_op(&k, &Op::new(op.expose())),
                _ => return Err(wrong(format!("{}: `opc` or `op`", subscriber.supi))),
            };
            let mut amf = [0; 2];
            hex::decode_to_slice(&subscriber.amf, &mut amf)
                .map_err(|_| wrong(format!("{}: amf", subscriber.supi)))?;
            let sqn = u64::from_str_radix(&subscriber.sqn, 16)
                .map_err(|_| wrong(format!("{}: sqn", subscriber.supi)))?;
            let entry = Entry {
                milenage: Milenage::new(&k, &opc),
                amf: Amf::new(&amf),
                sqn,
                slices: subscriber.slices,
                dnns: subscriber.dnns,
                static_ip: subscriber.static_ip,
                resynchronised: 0,
            };
            let supi = subscriber.supi;
            if home.subscribers.insert(supi.clone(), entry).is_some() {
                return Err(wrong(format!("{supi} is given twice")));
            }
        }
        for key in keys {
            let octets = key.private_key.expose();
            let (scheme, private) = match key.profile {
                Profile::A => (1, HomeNetworkPrivateKey::profile_a(octets)),
                Profile::B => (
                    2,
                    HomeNetworkPrivateKey::profile_b(octets)
                        .map_err(|error| wrong(format!("home network key {}: {error}", key.id)))?,
                ),
            };
            home.keys.insert((scheme, key.id), private);
        }
        Ok(home)
    }

    /// The SUPI of a SUCI, given as the octets of a 5GS mobile identity. The
    /// subscriber may still be unknown.
    ///
    /// # Errors
    /// [`HomeError::Suci`].
    pub fn deconceal(&self, identity: &[u8]) -> Result<String, HomeError> {
        let wrong = |error: &dyn std::fmt::Display| HomeError::Suci(error.to_string());
        let suci = Suci::from_nas_octets(identity).map_err(|error| wrong(&error))?;
        let scheme = suci.protection_scheme().identifier();
        let key = self.keys.get(&(scheme, suci.home_network_public_key_id()));
        let supi = suci.deconceal(key).map_err(|error| wrong(&error))?;
        Ok(supi.to_string())
    }

    /// Whether somebody has this SUPI.
    #[must_use]
    pub fn knows(&self, supi: &str) -> bool {
        self.subscribers.contains_key(supi)
    }

    /// A new challenge with the next SQN.
    ///
    /// # Errors
    /// [`HomeError::Unknown`]; [`HomeError::Subscription`] when the SQN ran out.
    pub fn challenge(
        &mut self,
        supi: &str,
        serving_network: &str,
        rng: &mut dyn CryptoRng,
    ) -> Result<Challenge, HomeError> {
        let entry = self.entry(supi)?;
        entry.sqn = (entry.sqn & !(SQN_STEP - 1)).saturating_add(SQN_STEP);
        let mut octets = [0; 16];
        rng.fill_bytes(&mut octets);
        let rand = Rand::new(&octets);
        let wrong = |error: &dyn std::fmt::Display| HomeError::Subscription(error.to_string());
        let sqn = Sqn::try_from(entry.sqn).map_err(|error| wrong(&error))?;
        let vector = entry
            .milenage
            .authentication_vector(&rand, &sqn, &entry.amf);
        let name = serving_network.as_bytes();
        let expected = vector.xres_star(name).map_err(|error| wrong(&error))?;
        let k_ausf = derive_kausf(vector.ck(), vector.ik(), name, vector.autn())
            .map_err(|error| wrong(&error))?;
        let k_seaf = derive_kseaf(&k_ausf, name).map_err(|error| wrong(&error))?;
        let identity = Supi::parse(supi).map_err(|error| wrong(&error))?;
        let k_amf = derive_kamf(&k_seaf, &identity, &ABBA).map_err(|error| wrong(&error))?;
        Ok(Challenge {
            autn: vector.autn().clone(),
            rand,
            expected,
            k_amf,
        })
    }

    /// Takes the SQN of the USIM over, out of the AUTS that answered `rand`.
    ///
    /// # Errors
    /// [`HomeError::Unknown`], [`HomeError::Auts`].
    pub fn resynchronise(
        &mut self,
        supi: &str,
        rand: &Rand,
        auts: &[u8; 14],
    ) -> Result<(), HomeError> {
        let entry = self.entry(supi)?;
        let sqn = entry
            .milenage
            .verify_auts(rand, &Auts::new(auts))
            .map_err(|_| HomeError::Auts)?;
        entry.sqn = sqn.get();
        entry.resynchronised += 1;
        Ok(())
    }

    /// The subscribed slices; empty means every slice.
    #[must_use]
    pub fn slices(&self, supi: &str) -> &[Slice] {
        self.subscribers
            .get(supi)
            .map_or(&[][..], |entry| &entry.slices)
    }

    /// Whether the data network is subscribed.
    #[must_use]
    pub fn allows_dnn(&self, supi: &str, dnn: &str) -> bool {
        self.subscribers
            .get(supi)
            .is_some_and(|entry| entry.dnns.is_empty() || entry.dnns.iter().any(|d| d == dnn))
    }

    /// The address that the subscription fixes.
    #[must_use]
    pub fn static_ip(&self, supi: &str) -> Option<std::net::Ipv4Addr> {
        self.subscribers.get(supi).and_then(|entry| entry.static_ip)
    }

    /// What status shows of each subscriber: SUPI, SQN, re-synchronisations.
    pub fn status(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.subscribers
            .iter()
            .map(|(supi, entry)| (supi.as_str(), entry.sqn, entry.resynchronised))
    }

    fn entry(&mut self, supi: &str) -> Result<&mut Entry, HomeError> {
        self.subscribers
            .get_mut(supi)
            .ok_or_else(|| HomeError::Unknown(supi.to_owned()))
    }
}

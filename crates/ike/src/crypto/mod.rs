//! Suites, key schedules, message protection and authentication of IKEv2.
//!
//! | module | subject | source |
//! |---|---|---|
//! | [`auth`] | signed octets, shared-key AUTH | RFC 7296, sections 2.15 and 2.16 |
//! | [`public_key`], [`signature`] | signatures in AUTH | RFC 7427, RFC 8420, RFC 4754 |
//! | [`certificate`] | certificate chains, names, requests | RFC 7296, sections 3.6 and 3.7; RFC 4945 |
//! | [`rsa`] | RSA Digital Signature of the `paper` profile | RFC 7296, section 3.8 |
//! | [`keymat`] | key schedules with key exchanges | RFC 7296, sections 2.14, 2.17, 2.18; RFC 9370 |
//! | [`ke`] | key exchange: MODP, ECP, Curve25519, ML-KEM | RFC 3526, 5903, 8031; FIPS 203 |
//! | [`ppk`] | post-quantum preshared keys | RFC 8784, RFC 9867 |
//! | [`intermediate`] | authentication of IKE_INTERMEDIATE | RFC 9242 |
//! | [`qkd`] | key schedule with QKD keys | this project |
//! | [`admission`] | tags of UEs that attached before | this project |
//! | [`nat`], [`cookie`] | NAT detection, stateless cookies | RFC 7296, sections 2.23 and 2.6 |
//!
//! Secrets are [`keys::Secret`]; whatever the peer can influence is compared in constant time.

pub mod admission;
pub mod auth;
pub mod certificate;
pub mod cookie;
mod exchange;
pub mod intermediate;
pub mod ke;
pub mod keymat;
mod method;
pub mod nat;
pub mod ppk;
mod prf;
mod proposal;
mod protector;
pub mod public_key;
pub mod qkd;
pub mod rsa;
mod select;
pub mod signature;
mod suite;

pub use exchange::KeyExchange;
pub use ke::{KeError, KeSecret};
pub use keymat::{ChildKeys, DirectionKeys, IkeKeys, KeyError};
pub use method::KeMethod;
pub use prf::Prf;
pub use protector::{OpenError, Protector, SealError};
pub use select::{ChildSuite, EspSuite, IkeSuite, Selection};
pub use suite::{AesBits, Encr, Integ, SuiteError};

#[cfg(test)]
#[path = "../../tests/support/vectors.rs"]
mod vectors;

//! IKEv2 without input or output: wire format, suites, key schedules and state machines.
//!
//! [`Endpoint`] holds all IKE SAs of a node in both roles. It has no socket, clock, KMS or kernel: whatever it needs
//! it asks for in an [`Event`], and the daemon answers with a call. An attach in mode `qkd`:
//!
//! | N3IWF (responder) | on NWu | UE (initiator) |
//! |---|---|---|
//! | | IKE_SA_INIT | `initiate` |
//! | `KeysNeeded(Allocate)`, `provide_keys` | IKE_SA_INIT with key IDs | `KeysNeeded(Collect)`, `provide_keys` |
//! | `EapBegin`, `send_eap` (5G-Start) | IKE_AUTH | `Eap`, `send_eap` |
//! | `Eap`, `send_eap` ... | IKE_AUTH ... | `Eap`, `send_eap` ... |
//! | `Eap`, `eap_success` | IKE_AUTH with EAP-Success | `EapSuccess`, `set_msk` |
//! | `InstallChild`, `child_installed`, `Established`, `ChildUp` | IKE_AUTH with both AUTH | `InstallChild`, `child_installed`, `Established`, `ChildUp` |
//! | `create_child` | CREATE_CHILD_SA | `ChildRequested`, `answer_child` |
//! | `InstallChild`, `child_installed`, `ChildUp` | its response | `InstallChild`, `child_installed`, `ChildUp` |
//!
//! In mode `hybrid` the same calls ask for one key, beside a key exchange. In modes `psk` and `cert` ([`Mode`]) no keys
//! are asked for: IKE_SA_INIT holds a key exchange. Which mode it is to be is settled by [`Offer`], [`Acceptance`] and
//! [`QkdPolicy`], of a responder also by [`PeerRule`]; [`SaStatus::mode`] tells the result.
//!
//! Mode `plain` (IKE_AUTH without EAP) is for other peers than UE and N3IWF: `PeerAuthenticated` and `grant` take the
//! place of the EAP events. An endpoint has it only where its configuration names it.
//!
//! A rekey ([`Lifetimes`], [`Endpoint::rekey_child`], [`Endpoint::rekey_ike`], or the peer's) of a Child SA is an
//! `InstallChild` with [`ChildSa::replaces`] set, `ChildUp`, `ChildSwitched`, and `ChildDown` of the old one, on both
//! sides without a question to the daemon. A rekeyed IKE SA keeps its [`SaId`].
//!
//! Whoever answers a request installs first and answers then, so that its peer's first packet finds the states.
//! After every call: drain [`Endpoint::poll_transmit`] and [`Endpoint::poll_event`], and arm a timer for
//! [`Endpoint::poll_timeout`].

pub mod crypto;
pub mod wire;

mod config;
mod counters;
mod endpoint;
mod event;
mod fragmentation;
mod key_log;
mod peer_rules;
mod sa;
mod status;
mod time;

pub use config::{
    Acceptance, Admission, Bucket, CertificateUse, CookiePolicy, EndpointConfig, InitiatorConfig,
    Lifetime, Lifetimes, Mobike, Mode, Offer, PaperResponder, PeerCertificate, PeerProfile, PpkUse,
    Profile, QkdPolicy, ResponderConfig, Timing, Trust,
};
pub use counters::{Counters, Messages};
pub use endpoint::Endpoint;
pub use event::{
    ChildAnswer, ChildFailure, ChildId, ChildSa, CloseReason, CommandError, EapSuccess, Event,
    Fate, Grant, KeyPurpose, KeyRequestId, KeysWanted, NewChild, Path, QkdFailure, SaId, Transmit,
};
pub use fragmentation::Fragmentation;
pub use key_log::KeyLog;
pub use peer_rules::PeerRule;
pub use status::{Census, ChildStatus, SaState, SaStatus};
pub use time::Instant;

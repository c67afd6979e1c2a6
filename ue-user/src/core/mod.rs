//! The protocol side of the UE: no socket, no clock, no file.
//!
//! - [`usim`]: the subscriber's key, MILENAGE and the sequence numbers (TS 33.102).
//! - [`suci`]: how the subscriber is named on the air (TS 33.501 Annex C).
//! - [`nas`]: 5GMM and 5GSM of the UE over non-3GPP access (TS 24.501).
//! - [`eap5g`]: the EAP-5G peer that carries NAS inside IKE_AUTH (TS 24.502).
//! - [`ue`]: the state machine that joins them with an `ike::Endpoint`.

pub mod eap5g;
pub mod nas;
pub mod suci;
pub mod ue;
pub mod usim;

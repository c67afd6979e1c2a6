//! What AUTH covers, and the shared-key method (RFC 7296, sections 2.15 and 2.16).

use keys::Secret;
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::prf::Prf;
use crate::wire::Identification;

/// The AUTH data received is not what it should be, or cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The peer did not prove what it claims.
    #[error("the AUTH payload does not verify")]
    Mismatch,
    /// The private key cannot sign this.
    #[error("the private key cannot sign")]
    Sign,
    /// A method or algorithm that is unknown, not allowed, or not for this key; or none in common.
    #[error("no usable signature algorithm")]
    Algorithm,
}

/// Pads the secret of method 2: 17 octets of ASCII without a final zero.
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// Everything the AUTH payload of one side covers.
#[derive(Clone, Copy)]
pub struct Signed<'a> {
    /// That side's IKE_SA_INIT message, header to end: of the initiator the last request sent.
    pub message: &'a [u8],
    /// The other side's nonce.
    pub peer_nonce: &'a [u8],
    /// That side's identity.
    pub id: &'a Identification,
    /// That side's `SK_pi` or `SK_pr`.
    pub sk_p: &'a Secret,
    /// `IntAuth` of RFC 9242, when there were IKE_INTERMEDIATE exchanges.
    pub int_auth: Option<&'a [u8]>,
}

/// `InitiatorSignedOctets = RealMessage1 | NonceRData | prf(SK_pi, RestOfInitIDPayload)`, and the
/// mirror for the responder; followed by `IntAuth` when there is one (RFC 9242, section 3.3.2).
pub fn signed_octets(prf: Prf, signed: &Signed<'_>) -> Vec<u8> {
    let maced_id = prf.mac(signed.sk_p.expose(), &[&signed.id.body()]);
    let mut octets = signed.message.to_vec();
    octets.extend_from_slice(signed.peer_nonce);
    octets.extend_from_slice(maced_id.expose());
    octets.extend_from_slice(signed.int_auth.unwrap_or_default());
    octets
}

/// AUTH data of method 2: `prf(prf(secret, "Key Pad for IKEv2"), signed octets)`.
///
/// With EAP the secret is the MSK (RFC 7296, section 2.16).
pub fn shared_key(prf: Prf, secret: &Secret, signed_octets: &[u8]) -> Vec<u8> {
    let padded = prf.mac(secret.expose(), &[KEY_PAD]);
    prf.mac(padded.expose(), &[signed_octets]).expose().to_vec()
}

/// Checks AUTH data of method 2, in constant time.
pub fn verify_shared_key(
    prf: Prf,
    secret: &Secret,
    signed_octets: &[u8],
    received: &[u8],
) -> Result<(), AuthError> {
    let expected = shared_key(prf, secret, signed_octets);
    if expected.ct_eq(received).into() {
        Ok(())
    } else {
        Err(AuthError::Mismatch)
    }
}

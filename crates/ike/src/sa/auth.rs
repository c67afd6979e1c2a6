//! AUTH payloads: what is signed with what, at which point (RFC 7296 2.15, 2.16).
//!
//! | AUTH | `native` | `paper` | mode `psk` | mode `cert` |
//! |---|---|---|---|---|
//! | initiator's first | none | none | none | by certificate |
//! | responder's first | method 2 with `K_auth` | method 1, RSA with SHA-1 | none, or by certificate when asked | by certificate |
//! | after EAP-Success, both | method 2 with `prf(K_auth, K_N3IWF)` | the same | method 2 with `K_N3IWF` | the same |
//!
//! Mode `plain` (`plain.rs`) has one AUTH of each end, by shared key or certificate.
//!
//! Mode `hybrid` is as `psk`, with a PPK in `SK_pi` and `SK_pr`: in all AUTH (RFC 9867), or in those after EAP-Success
//! (RFC 8784).
//!
//! By certificate: method 14 (RFC 7427) when the peer announced hash algorithms, else 1 or 9 to 11.

use keys::Secret;

use super::{Cx, Sa, keys::AuthKeys};
use crate::{
    config::{CertificateUse, Mode, PeerCertificate, Profile, Trust},
    crypto::{
        auth::{Signed, shared_key, signed_octets, verify_shared_key},
        certificate::Credential,
        qkd::final_secret,
        rsa::Certificate,
    },
    wire::{AuthMethod, CertEncoding, Payload},
};

impl AuthKeys {
    /// The secret of AUTH after EAP-Success.
    fn final_secret(&self, msk: &Secret) -> Secret {
        match &self.k_auth {
            Some(k_auth) => final_secret(self.prf, k_auth, msk),
            None => msk.duplicate(),
        }
    }
}

impl Sa {
    pub(super) fn auth_keys(&self) -> Option<&AuthKeys> {
        self.crypt.as_ref()?.auth.as_ref()
    }

    /// What the initiator's AUTH covers.
    fn initiator_octets(&self) -> Option<Vec<u8>> {
        let keys = self.auth_keys()?;
        let id = match self.initiator {
            true => self.local_id.as_ref()?,
            false => self.remote_id.as_ref()?,
        };
        Some(signed_octets(
            keys.prf,
            &Signed {
                message: &self.transcript.request,
                peer_nonce: &self.transcript.nonce_r,
                id,
                sk_p: &keys.sk_pi,
                int_auth: self.int_auth.as_deref(),
            },
        ))
    }

    /// What the responder's AUTH covers.
    fn responder_octets(&self) -> Option<Vec<u8>> {
        let keys = self.auth_keys()?;
        let id = match self.initiator {
            true => self.remote_id.as_ref()?,
            false => self.local_id.as_ref()?,
        };
        Some(signed_octets(
            keys.prf,
            &Signed {
                message: &self.transcript.response,
                peer_nonce: &self.transcript.nonce_i,
                id,
                sk_p: &keys.sk_pr,
                int_auth: self.int_auth.as_deref(),
            },
        ))
    }

    pub(super) fn octets_of(&self, initiator: bool) -> Option<Vec<u8>> {
        match initiator {
            true => self.initiator_octets(),
            false => self.responder_octets(),
        }
    }

    /// The responder's first AUTH (in mode `plain` the only one), with its certificate if there is one. Empty: the mode goes without.
    pub(super) fn own_first_auth(&self, cx: &mut Cx<'_>, asked: bool) -> Option<Vec<Payload>> {
        let keys = self.auth_keys()?;
        let octets = self.responder_octets()?;
        let acceptance = &cx.config.acceptance;
        let (certificate, signer) = match self.mode {
            Mode::Qkd(Profile::Native) => {
                return Some(vec![Payload::Auth {
                    method: AuthMethod::SHARED_KEY,
                    data: shared_key(keys.prf, keys.k_auth.as_ref()?, &octets),
                }]);
            }
            Mode::Qkd(Profile::Paper) => {
                let paper = cx.config.responder.as_ref()?.paper.as_ref()?;
                (&paper.certificate, &paper.signer)
            }
            Mode::Plain => {
                let key = acceptance.shared_key.as_deref();
                return self.own_proof(cx, key, acceptance.credential.as_deref());
            }
            Mode::Psk | Mode::Cert | Mode::Hybrid => {
                let wanted = match acceptance.certificate {
                    _ if self.mode == Mode::Cert => true,
                    CertificateUse::Always => true,
                    CertificateUse::WhenAsked => asked,
                    CertificateUse::Never => false,
                };
                return match &acceptance.credential {
                    Some(own) if wanted => self.signed(cx, own, &octets),
                    _ if self.mode == Mode::Cert => None,
                    _ => Some(Vec::new()),
                };
            }
        };
        let data = signer.sign(&octets, cx.rng).ok()?;
        Some(vec![
            Payload::Cert {
                encoding: CertEncoding::X509_SIGNATURE,
                data: certificate.der().to_vec(),
            },
            Payload::Auth {
                method: AuthMethod::RSA,
                data,
            },
        ])
    }

    /// The initiator's first AUTH, in mode `cert`.
    pub(super) fn initiator_first_auth(
        &self,
        cx: &mut Cx<'_>,
        own: &Credential,
    ) -> Option<Vec<Payload>> {
        let octets = self.initiator_octets()?;
        self.signed(cx, own, &octets)
    }

    /// CERT payloads and AUTH by certificate.
    pub(super) fn signed(
        &self,
        cx: &mut Cx<'_>,
        own: &Credential,
        octets: &[u8],
    ) -> Option<Vec<Payload>> {
        let hashes = self.peer_hashes.as_deref();
        let (method, data) = own.key().sign(hashes, octets, true, cx.rng).ok()?;
        let mut payloads = own.payloads();
        payloads.push(Payload::Auth { method, data });
        Some(payloads)
    }

    /// Whether the responder's first AUTH is by a certificate the authorities vouch for.
    pub(super) fn responder_is_certified(
        &self,
        cx: &Cx<'_>,
        trust: &Trust,
        payloads: &[Payload],
        allow_sha1: bool,
    ) -> bool {
        match (&self.remote_id, self.responder_octets()) {
            (Some(id), Some(octets)) => trust.accepts(cx.now, payloads, id, &octets, allow_sha1),
            _ => false,
        }
    }

    /// Whether the initiator's first AUTH is by a certificate the authorities vouch for.
    pub(super) fn initiator_is_certified(&self, cx: &Cx<'_>, payloads: &[Payload]) -> bool {
        match (
            &cx.config.acceptance.trust,
            &self.remote_id,
            self.initiator_octets(),
        ) {
            (Some(trust), Some(id), Some(octets)) => {
                trust.accepts(cx.now, payloads, id, &octets, false)
            }
            _ => false,
        }
    }

    /// Whether the responder's first AUTH (`native`) proves possession of `K_auth`.
    pub(super) fn verify_first_auth(&self, method: AuthMethod, data: &[u8]) -> bool {
        let (Some(keys), Some(octets)) = (self.auth_keys(), self.responder_octets()) else {
            return false;
        };
        let Some(k_auth) = &keys.k_auth else {
            return false;
        };
        method == AuthMethod::SHARED_KEY
            && verify_shared_key(keys.prf, k_auth, &octets, data).is_ok()
    }

    /// Whether the responder's first AUTH is by a certificate that is trusted for its identity.
    pub(super) fn verify_certificate(
        &self,
        judge: &PeerCertificate,
        certificate: Option<&[u8]>,
        method: AuthMethod,
        signature: &[u8],
    ) -> bool {
        let trusted = match judge {
            PeerCertificate::Ignore => return true,
            PeerCertificate::Trusted(trusted) => trusted,
        };
        let (Some(der), Some(octets), Some(identity)) =
            (certificate, self.responder_octets(), &self.remote_id)
        else {
            return false;
        };
        let Ok(certificate) = Certificate::new(der) else {
            return false;
        };
        let known = trusted.iter().any(|anchor| {
            anchor.der() == der
                || (certificate.is_for(identity) && certificate.check_issuer(anchor).is_ok())
        });
        known && method == AuthMethod::RSA && certificate.verify(&octets, signature).is_ok()
    }

    /// AUTH after EAP-Success, from this side.
    pub(super) fn own_final_auth(&self, msk: &Secret) -> Option<Payload> {
        let keys = self.auth_keys()?;
        let octets = self.octets_of(self.initiator)?;
        let secret = keys.final_secret(msk);
        Some(Payload::Auth {
            method: AuthMethod::SHARED_KEY,
            data: shared_key(keys.prf, &secret, &octets),
        })
    }

    /// Whether the peer's AUTH after EAP-Success proves both `K_auth` and the MSK.
    pub(super) fn verify_final_auth(&self, msk: &Secret, method: AuthMethod, data: &[u8]) -> bool {
        let (Some(keys), Some(octets)) = (self.auth_keys(), self.octets_of(!self.initiator)) else {
            return false;
        };
        let secret = keys.final_secret(msk);
        method == AuthMethod::SHARED_KEY
            && verify_shared_key(keys.prf, &secret, &octets, data).is_ok()
    }
}

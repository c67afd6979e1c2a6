//! Mode `plain`: one AUTH of each end, by shared key or certificate, and no EAP (RFC 7296 1.2, 2.15; RFC 7427).

use ::keys::Secret;

use super::{Cx, Sa};
use crate::{
    config::Trust,
    crypto::{
        auth::{shared_key, verify_shared_key},
        certificate::Credential,
    },
    wire::{AuthMethod, Payload},
};

/// What the peer may prove itself with. Neither: nobody is let in.
pub(super) struct Expected<'a> {
    pub(super) shared_key: Option<&'a Secret>,
    pub(super) trust: Option<&'a Trust>,
    pub(super) allow_sha1: bool,
}

impl Sa {
    /// Our AUTH: with the shared key if there is one, else by certificate. `None`: there is neither.
    pub(super) fn own_proof(
        &self,
        cx: &mut Cx<'_>,
        key: Option<&Secret>,
        credential: Option<&Credential>,
    ) -> Option<Vec<Payload>> {
        let octets = self.octets_of(self.initiator)?;
        match (key, credential) {
            (Some(key), _) => Some(vec![Payload::Auth {
                method: AuthMethod::SHARED_KEY,
                data: shared_key(self.auth_keys()?.prf, key, &octets),
            }]),
            (None, Some(own)) => self.signed(cx, own, &octets),
            (None, None) => None,
        }
    }

    /// Whether the peer's AUTH proves its identity by what it is expected to have.
    pub(super) fn peer_is_proven(
        &self,
        cx: &Cx<'_>,
        expected: &Expected<'_>,
        payloads: &[Payload],
    ) -> bool {
        let auth = payloads.iter().find_map(|payload| match payload {
            Payload::Auth { method, data } => Some((*method, data)),
            _ => None,
        });
        let (Some((method, data)), Some(octets), Some(keys), Some(id)) = (
            auth,
            self.octets_of(!self.initiator),
            self.auth_keys(),
            &self.remote_id,
        ) else {
            return false;
        };
        if method == AuthMethod::SHARED_KEY {
            return expected
                .shared_key
                .is_some_and(|key| verify_shared_key(keys.prf, key, &octets, data).is_ok());
        }
        expected
            .trust
            .is_some_and(|trust| trust.accepts(cx.now, payloads, id, &octets, expected.allow_sha1))
    }
}

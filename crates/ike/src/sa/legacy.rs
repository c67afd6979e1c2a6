//! What free5GC's N3IWUE and N3IWF need of a peer and what they are forgiven, where
//! [`PeerProfile::Free5gc`] allows it and the IKE SA is theirs by its looks.
//!
//! | they | here |
//! |---|---|
//! | N3IWUE takes `g^ir` without leading zeros, and cannot read a KEr that begins with one | [`respond_without_zeros`] |
//! | N3IWUE answers CREATE_CHILD_SA with a Message ID of its own | [`Sa::forgives_response_id`] |
//! | N3IWUE does not answer Deletes | [`Sa::forgives_silence`] |
//! | both take every CREATE_CHILD_SA for another new Child SA | [`Sa::never_rekeys`] |
//! | the N3IWF repeats and skips Message IDs of its requests | [`Sa::forgives_request_id`] |
//! | the N3IWF takes a retransmission for a new message | [`Sa::timing`] |
//! | the N3IWF reads one proposal, and CFG_REQUEST beside AUTH alone | `auth_initiator` |

use std::time::Duration;

use ::keys::Secret;
use rand_core::CryptoRng;

use super::{Command, Cx, Sa, window};
use crate::{
    config::{EndpointConfig, Mode, PeerProfile, Timing},
    crypto::{Encr, EspSuite, IkeSuite, Integ, KeError, KeMethod, Prf},
    event::Path,
    wire::{ExchangeType, Parsed},
};

/// First wait for an answer of the N3IWF, whose core answers in the meantime: it takes a second
/// IKE_SA_INIT for a second UE, and a second EAP response for the next.
const PATIENCE: Duration = Duration::from_secs(5);
/// Retransmissions of a Delete that N3IWUE will not answer.
const DELETE_TRIES: u32 = 2;
/// Draws of a private value until nothing begins with a zero; each but one in 128 is good.
const DRAWS: usize = 32;
/// How far the N3IWF may get ahead of the Message IDs it should use.
const SKIP: u32 = 16;
/// Responses with any Message ID that are taken in the life of an IKE SA, each of them once.
const MISNUMBERED: usize = 64;

/// Whether an IKE SA that looks like this is one of theirs: N3IWUE has no PRF but SHA-1, and the
/// N3IWF is the only peer a UE of that configuration has.
pub(super) fn is_legacy(
    profile: PeerProfile,
    ue: bool,
    mode: Mode,
    suite: Option<&IkeSuite>,
) -> bool {
    let sha1 = suite.is_some_and(|suite| suite.prf == Prf::HmacSha1);
    profile == PeerProfile::Free5gc && matches!(mode, Mode::Psk) && (ue || sha1)
}

/// Answers a key exchange so that neither public value nor secret begins with a zero octet.
pub(super) fn respond_without_zeros(
    method: KeMethod,
    value: &[u8],
    rng: &mut (dyn CryptoRng + Send),
) -> Result<(Vec<u8>, Secret), KeError> {
    let mut drawn = method.respond(value, rng)?;
    for _ in 1..DRAWS {
        let (public, shared) = &drawn;
        if public.first() != Some(&0) && shared.expose().first() != Some(&0) {
            break;
        }
        drawn = method.respond(value, rng)?;
    }
    Ok(drawn)
}

/// The one ESP suite to offer the N3IWF, which makes keys for no others: that of the IKE SA, which it
/// takes for PDU sessions unasked, if that is configured.
pub(super) fn single_esp_suite(configured: Vec<EspSuite>, ike: &IkeSuite) -> Vec<EspSuite> {
    let known = |suite: &EspSuite| {
        let integ = matches!(
            suite.integ,
            Some(Integ::HmacSha1_96 | Integ::HmacSha2_256_128)
        );
        matches!(suite.encr, Encr::AesCbc(_)) && integ && !suite.esn
    };
    let mut usable: Vec<EspSuite> = configured.into_iter().filter(known).collect();
    usable.sort_by_key(|esp| (esp.encr, esp.integ) != (ike.encr, ike.integ));
    usable.truncate(1);
    usable
}

impl Sa {
    pub(super) fn is_legacy(&self, config: &EndpointConfig) -> bool {
        is_legacy(config.peer_profile, self.ue, self.mode, self.suite.as_ref())
    }

    /// Timers towards this peer.
    pub(super) fn timing(&self, config: &EndpointConfig) -> Timing {
        let mut timing = config.timing;
        if self.is_legacy(config) {
            if self.ue {
                timing.retransmit_first = timing.retransmit_first.max(PATIENCE);
            } else if self.deletes() {
                timing.retransmit_tries = timing.retransmit_tries.min(DELETE_TRIES);
            }
        }
        timing
    }

    fn deletes(&self) -> bool {
        matches!(
            self.current,
            Some(Command::DeleteChild(_) | Command::DeleteSpi(_) | Command::DeleteIke)
        )
    }

    /// Whether no rekey makes sense to the peer, in either direction.
    pub(super) fn never_rekeys(&self, config: &EndpointConfig) -> bool {
        self.is_legacy(config)
    }

    /// A Delete of a Child SA that is not answered is not the peer's death: on with the next exchange.
    pub(super) fn forgives_silence(&mut self, cx: &mut Cx<'_>) -> bool {
        let child = matches!(
            self.current,
            Some(Command::DeleteChild(_) | Command::DeleteSpi(_))
        );
        if !child || !self.is_legacy(cx.config) {
            return false;
        }
        self.requests.answered();
        self.command_response(cx, &[]);
        self.pump(cx);
        true
    }

    /// Whether a response to CREATE_CHILD_SA counts although its Message ID is not the request's: one such request
    /// is outstanding, so there is one thing it can answer. Its integrity is checked as any other's, and each
    /// counts once, so that a recorded one is not taken for the answer to another request.
    pub(super) fn forgives_response_id(&mut self, cx: &Cx<'_>, parsed: &Parsed<'_>) -> bool {
        !self.ue
            && parsed.header.exchange == ExchangeType::CreateChildSa
            && self.requests.awaits(ExchangeType::CreateChildSa)
            && self.is_legacy(cx.config)
            && self.seen_responses.len() < MISNUMBERED
            && !self
                .seen_responses
                .contains(&window::digest(parsed.datagram))
    }

    /// Remembers a response to CREATE_CHILD_SA.
    pub(super) fn note_response(&mut self, cx: &Cx<'_>, parsed: &Parsed<'_>) {
        if !self.ue
            && parsed.header.exchange == ExchangeType::CreateChildSa
            && self.is_legacy(cx.config)
        {
            self.seen_responses.push(window::digest(parsed.datagram));
        }
    }

    /// A request of the N3IWF outside the window. One that asks for a sign of life is answered whatever its ID, since
    /// the N3IWF gives up a UE after two seconds; it changes nothing. `true`: one whose ID is a little ahead, to be
    /// taken as the next.
    pub(super) fn forgives_request_id(
        &mut self,
        cx: &mut Cx<'_>,
        path: Path,
        parsed: &Parsed<'_>,
    ) -> bool {
        if !self.ue || !self.is_established() || !self.is_legacy(cx.config) {
            return false;
        }
        let id = parsed.header.message_id;
        if self.responses.is_ahead(id, SKIP) {
            return true;
        }
        if parsed.header.exchange == ExchangeType::Informational
            && let Some(opened) = self.open(cx, path, parsed)
            && opened.payloads.is_ok_and(|payloads| payloads.is_empty())
        {
            let header = self.header(ExchangeType::Informational, true, id);
            if let Some(datagrams) = self.seal(cx, path, &header, &[]) {
                cx.transmit_all(path, &datagrams);
            }
        }
        false
    }
}

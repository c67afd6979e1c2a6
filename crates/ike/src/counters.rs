//! What an endpoint has seen and done, in numbers that never go back.

use crate::wire::{ExchangeType, Header};

/// Counters of one endpoint since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// IKE messages that could be parsed; fragments (RFC 7383) each for itself.
    pub received: Messages,
    /// IKE messages sent, retransmissions and replayed responses included; fragments each for itself.
    pub sent: Messages,
    /// Own requests sent again because no response came.
    pub retransmitted: u64,
    /// Datagrams that are no IKE message.
    pub malformed: u64,
    /// Messages for an SPI that nobody has here.
    pub unknown_spi: u64,
    /// IKE_SA_INIT requests that were taken up before: answered again without any cost.
    pub init_repeated: u64,
    /// IKE_SA_INIT requests answered with COOKIE.
    pub cookies_sent: u64,
    /// IKE_SA_INIT requests that came back with a good cookie.
    pub cookies_accepted: u64,
    /// IKE_SA_INIT requests dropped because of too many half-open SAs.
    pub half_open_refused: u64,
    /// IKE_SA_INIT requests answered with COOKIE because the bucket of the SAE was low; part of `cookies_sent`.
    pub bucket_cookies: u64,
    /// IKE_SA_INIT requests refused because the bucket of the SAE was spent; part of `init_refused`.
    pub quota_refused: u64,
    /// IKE_SA_INIT requests taken up for a good admission tag.
    pub tags_accepted: u64,
    /// IKE_SA_INIT requests whose admission tag did not count: forged, replayed, too old, of another SAE, or its own
    /// bucket spent.
    pub tags_ignored: u64,
    /// IKE_SA_INIT requests answered with an error notify.
    pub init_refused: u64,
}

/// Messages by exchange, requests and responses apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    requests: [u64; NAMES.len()],
    responses: [u64; NAMES.len()],
}

/// Exchanges counted by name; the last stands for all others.
const NAMES: [&str; 6] = [
    "ike_sa_init",
    "ike_auth",
    "create_child_sa",
    "informational",
    "ike_intermediate",
    "other",
];

impl Messages {
    /// Exchange in lower case, `request` or `response`, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of = |kind: &'static str, counts: [u64; NAMES.len()]| {
            NAMES
                .into_iter()
                .zip(counts)
                .map(move |(name, count)| (name, kind, count))
        };
        of("request", self.requests).chain(of("response", self.responses))
    }

    pub(crate) fn count(&mut self, header: &Header) {
        let [init, auth, child, informational, intermediate, other] = if header.flags.response {
            &mut self.responses
        } else {
            &mut self.requests
        };
        *match header.exchange {
            ExchangeType::IkeSaInit => init,
            ExchangeType::IkeAuth => auth,
            ExchangeType::CreateChildSa => child,
            ExchangeType::Informational => informational,
            ExchangeType::IkeIntermediate => intermediate,
            _ => other,
        } += 1;
    }
}

//! From datagram to IKE SA: markers, SPIs, new requests, cookies, limits, and errors without an SA.

use std::time::Duration;

use keys::SaeId;

use super::{Endpoint, bucket::Standing};
use crate::{
    config::CookiePolicy,
    event::{Event, Path, SaId},
    sa::{InitRequest, NAT_PORT, Refusal, Sa, window},
    time::Instant,
    wire::{
        self, Body, ExchangeType, Flags, Header, Notify, NotifyType, Parsed, Payload, WireError,
        find_notify,
        qkd::{QkdAdmission, QkdKeysMissing, QkdSupported, QkdUnavailable},
    },
};

/// How long a cookie secret makes cookies; they are good for up to twice as long.
const COOKIE_LIFETIME: Duration = Duration::from_secs(60);

/// Unprotected errors per second: so few that nobody can be flooded by way of this node, and enough for hundreds of
/// peers to hear within seconds that it has restarted.
const UNPROTECTED_PER_SECOND: u32 = 256;

/// Counts events within each second.
#[derive(Default)]
pub(super) struct Limiter {
    since: Instant,
    count: u32,
}

impl Limiter {
    fn allows(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count += 1;
        self.count <= UNPROTECTED_PER_SECOND
    }
}

/// The SAE ID that a request claims, which anybody may.
fn claimed_sae(payloads: &[Payload]) -> Option<SaeId> {
    let notify = find_notify(payloads, NotifyType::QKD_SUPPORTED)?;
    QkdSupported::from_data(&notify.data)
        .ok()
        .map(|supported| supported.sae)
}

/// QKD_ADMISSION, where it is the last payload.
fn last_admission(payloads: &[Payload]) -> Result<Option<QkdAdmission>, NotifyType> {
    match payloads.last() {
        Some(Payload::Notify(notify)) if notify.kind == NotifyType::QKD_ADMISSION => {
            let admission = QkdAdmission::from_data(&notify.data);
            admission.map(Some).map_err(|_| NotifyType::INVALID_SYNTAX)
        }
        _ => Ok(None),
    }
}

fn key_missing(payloads: &[Payload]) -> Result<Option<QkdKeysMissing>, NotifyType> {
    let notify = find_notify(payloads, NotifyType::QKD_KEYS_MISSING);
    let missing = notify.map(|notify| QkdKeysMissing::from_data(&notify.data));
    missing.transpose().map_err(|_| NotifyType::INVALID_SYNTAX)
}

/// The IKE message of a datagram: on port 4500 behind the non-ESP marker. `None` for keepalives and ESP.
fn message(path: Path, data: &[u8]) -> Option<&[u8]> {
    if path.local.port() != NAT_PORT {
        return Some(data);
    }
    data.strip_prefix(&[0; 4])
}

impl Endpoint {
    pub(super) fn dispatch(&mut self, path: Path, data: &[u8]) {
        let Some(message) = message(path, data) else {
            return;
        };
        let Some(header) = Header::peek(message) else {
            self.counters.malformed += 1;
            return;
        };
        let parsed = match wire::parse(message) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.counters.malformed += 1;
                return self.unreadable(path, &header, &error);
            }
        };
        self.counters.received.count(&header);
        if header.exchange == ExchangeType::IkeSaInit {
            self.init(path, &parsed);
        } else {
            self.for_sa(path, &parsed);
        }
    }

    /// A message that makes no sense without keys being involved (RFC 7296 2.5, 2.21.1). Inside an IKE SA it is
    /// not the peer's word, so it is dropped.
    fn unreadable(&mut self, path: Path, header: &Header, error: &WireError) {
        let answerable = match error {
            WireError::MajorVersion(major) => *major > 2,
            WireError::Length { .. } => false,
            _ => header.exchange == ExchangeType::IkeSaInit && header.spi_i != 0,
        };
        if answerable && !header.flags.response {
            self.answer_unprotected(path, header, error.notify());
        }
    }

    /// An unprotected error notify with the SPIs and Message ID of the request (RFC 7296 2.21.4), rate-limited.
    fn answer_unprotected(&mut self, path: Path, header: &Header, notify: Notify) {
        if self.unprotected.allows(self.now) {
            self.send_stateless(path, header, notify);
        }
    }

    fn send_stateless(&mut self, path: Path, header: &Header, notify: Notify) {
        let header = Header {
            flags: Flags {
                initiator: !header.flags.initiator,
                response: true,
            },
            ..*header
        };
        if let Ok(datagram) = wire::encode(&header, &[Payload::Notify(notify)]) {
            self.cx().transmit(path, &datagram);
        }
    }

    fn init(&mut self, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        let Body::Clear(payloads) = &parsed.body else {
            return;
        };
        if !header.flags.response {
            if header.flags.initiator && header.spi_r == 0 && header.message_id == 0 {
                self.init_request(path, parsed, payloads);
            }
            return;
        }
        if let Some(id) = self.by_spi.get(&header.spi_i).copied()
            && !header.flags.initiator
        {
            self.with(id, |sa, cx| {
                sa.init_response(cx, path, header, parsed.datagram, payloads);
            });
        }
    }

    fn init_request(&mut self, path: Path, parsed: &Parsed<'_>, payloads: &[Payload]) {
        let digest = window::digest(parsed.datagram);
        if let Some(id) = self.requests.get(&digest).copied() {
            self.counters.init_repeated += 1;
            return self.repeated(id, path, parsed.datagram);
        }
        match self.admit(path, parsed, payloads, &digest) {
            Ok(Some(request)) => {
                let mut cx = crate::sa::Cx {
                    now: self.now,
                    config: &self.config,
                    rng: &mut *self.rng,
                    transmits: &mut self.transmits,
                    events: &mut self.events,
                    ids: &mut self.ids,
                    counters: &mut self.counters,
                };
                let Some(config) = &self.config.responder else {
                    return;
                };
                let sa = Sa::respond_init(&mut cx, path, parsed, payloads, request, config);
                let id = self.insert(sa);
                self.requests.insert(digest, id);
                self.request_of.insert(id, digest);
            }
            Ok(None) => {}
            Err(Refusal(notify)) => {
                match notify.kind {
                    NotifyType::COOKIE => self.counters.cookies_sent += 1,
                    _ => self.counters.init_refused += 1,
                }
                self.send_stateless(path, &parsed.header, notify);
            }
        }
    }

    /// An IKE_SA_INIT request that was taken up before: the same answer, if there is one, and no new cost.
    fn repeated(&mut self, id: SaId, path: Path, datagram: &[u8]) {
        let replayed = self.with(id, |sa, cx| sa.replay_init(cx, path, datagram));
        if replayed.is_none() {
            self.ghost(id, |ghost, cx| {
                ghost.replay(cx, path, 0, datagram);
                false
            });
        }
    }

    /// Whether a new request is granted: cookie first, since it costs neither state nor key; then the limit; then
    /// what it asks for, and whether there are QKD keys for its SAE. `Ok(None)`: dropped.
    fn admit(
        &mut self,
        path: Path,
        parsed: &Parsed<'_>,
        payloads: &[Payload],
        digest: &window::RequestDigest,
    ) -> Result<Option<InitRequest>, Refusal> {
        let Some(config) = &self.config.responder else {
            return Ok(None);
        };
        let (policy, limit) = (config.cookies, config.half_open_limit);
        let nonce = InitRequest::peek_nonce(payloads).ok_or(NotifyType::INVALID_SYNTAX)?;
        let sae = claimed_sae(payloads);
        let (admission, missing) = match sae {
            Some(_) => (last_admission(payloads)?, key_missing(payloads)?),
            // Numbers of private use, and this peer's use of them is its own.
            None => (None, None),
        };
        let known = self.recognise(parsed, admission, digest, sae.as_ref());
        let mut standing = match (known, self.config.admission.bucket, &sae) {
            (None, Some(bucket), Some(sae)) => self.claimed.standing(self.now, &bucket, sae),
            _ => Standing::Free,
        };
        let wants_cookie = match policy {
            _ if known.is_some() => false,
            CookiePolicy::Never => false,
            CookiePolicy::Above(threshold) => self.half_open >= threshold,
            CookiePolicy::Always => true,
        };
        if wants_cookie || standing != Standing::Free {
            self.demand_cookie(path, &parsed.header, payloads, nonce)
                .inspect_err(|_| {
                    self.counters.bucket_cookies += u64::from(!wants_cookie);
                })?;
        }
        // Those who are known are not kept out by strangers; their number is bounded by what they have.
        let limit = match known {
            Some(_) => limit.saturating_mul(2),
            None => limit,
        };
        if self.half_open >= limit {
            self.counters.half_open_refused += 1;
            return Ok(None);
        }
        let Some(config) = &self.config.responder else {
            return Ok(None);
        };
        let request = InitRequest::read(
            config,
            &self.config.acceptance,
            path.remote.ip(),
            self.config.peer_profile,
            payloads,
            &mut *self.rng,
        )?;
        if let (Some(bucket), Some(slave)) = (self.config.admission.bucket, request.slave()) {
            if known.is_some() {
                self.known.take(self.now, &bucket, slave);
            } else {
                // In the `paper` profile only the configuration says whose keys they are.
                if sae.is_none() {
                    standing = self.claimed.standing(self.now, &bucket, slave);
                    if standing != Standing::Free {
                        self.demand_cookie(path, &parsed.header, payloads, nonce)
                            .inspect_err(|_| self.counters.bucket_cookies += 1)?;
                    }
                }
                if standing == Standing::Spent {
                    self.counters.quota_refused += 1;
                    return Err(Refusal(QkdUnavailable::Quota.to_notify()));
                }
                self.claimed.take(self.now, &bucket, slave);
            }
        }
        if let Some(id) = known {
            self.counters.tags_accepted += 1;
            self.tickets.used(id, *digest);
            if let (Some(QkdKeysMissing(id)), Some(sae)) = (missing, sae) {
                self.events.push_back(Event::KeysMissing { sae, id });
            }
        }
        Ok(Some(request))
    }

    /// The tag ID, if the request is by a UE that attached before: QKD_ADMISSION is its last payload and good, and the
    /// UE's bucket is not spent. Everything else is a request without a tag.
    fn recognise(
        &mut self,
        parsed: &Parsed<'_>,
        admission: Option<QkdAdmission>,
        digest: &window::RequestDigest,
        sae: Option<&SaeId>,
    ) -> Option<[u8; 8]> {
        self.config.admission.tags?;
        let known = Some(admission?).zip(sae).filter(|(admission, sae)| {
            let id = admission.tag_id;
            self.tickets
                .knows(self.now, id, sae, parsed.datagram, digest)
                && self.config.admission.bucket.is_none_or(|bucket| {
                    self.known.standing(self.now, &bucket, sae) != Standing::Spent
                })
        });
        if known.is_none() {
            self.counters.tags_ignored += 1;
        }
        known.map(|(admission, _)| admission.tag_id)
    }

    /// Whether the sender has returned a cookie of ours; the refusal is the cookie.
    fn demand_cookie(
        &mut self,
        path: Path,
        header: &Header,
        payloads: &[Payload],
        nonce: &[u8],
    ) -> Result<(), Refusal> {
        self.rotate_cookies();
        let source = path.remote.ip();
        let returned = find_notify(payloads, NotifyType::COOKIE).is_some_and(|cookie| {
            self.cookies
                .check(&cookie.data, nonce, source, header.spi_i)
        });
        if !returned {
            let cookie = self.cookies.make(nonce, source, header.spi_i);
            return Err(Refusal(Notify::status(NotifyType::COOKIE, cookie)));
        }
        self.counters.cookies_accepted += 1;
        Ok(())
    }

    fn rotate_cookies(&mut self) {
        if self.now < self.cookies_until {
            return;
        }
        // After a long silence the secret before the current one is too old as well.
        if self.now >= self.cookies_until + COOKIE_LIFETIME {
            self.cookies.rotate(&mut *self.rng);
        }
        self.cookies.rotate(&mut *self.rng);
        self.cookies_until = self.now + COOKIE_LIFETIME;
    }

    /// Any other exchange: by the SPI that is ours.
    fn for_sa(&mut self, path: Path, parsed: &Parsed<'_>) {
        let header = &parsed.header;
        let own = match header.flags.initiator {
            true => header.spi_r,
            false => header.spi_i,
        };
        let Some(id) = self.by_spi.get(&own).copied() else {
            self.counters.unknown_spi += 1;
            if !header.flags.response {
                let notify = Notify::status(NotifyType::INVALID_IKE_SPI, Vec::new());
                self.answer_unprotected(path, header, notify);
            }
            return;
        };
        let handled = self.with(id, |sa, cx| match &parsed.body {
            Body::Encrypted { .. } if !sa.has_spis(header) => sa.handle_beside(cx, path, parsed),
            _ if !sa.has_spis(header) => {}
            Body::Encrypted { .. } => sa.handle(cx, path, parsed),
            // Unprotected, so at most a reason to ask (RFC 7296 2.4, 2.21.4).
            Body::Clear(payloads) => {
                if header.flags.response
                    && find_notify(payloads, NotifyType::INVALID_IKE_SPI).is_some()
                {
                    sa.doubt(cx);
                }
            }
        });
        if handled.is_none() {
            self.ghost(id, |ghost, cx| {
                ghost.handle(cx, path, parsed);
                false
            });
        }
    }
}

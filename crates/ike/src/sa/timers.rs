//! Timers of one IKE SA: lifetimes, retransmission, liveness, NAT keepalives.

use super::{Command, Cx, Phase, Sa, retired::Retired, window::Tick};
use crate::{
    config::EndpointConfig,
    event::{CloseReason, Transmit},
    time::Instant,
    wire::{Delete, Payload},
};

/// A peer heard within this time is not asked because of what anybody might have sent.
const DOUBT_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

impl Sa {
    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn next_timeout(&self, config: &EndpointConfig) -> Option<Instant> {
        let timing = &config.timing;
        let grace = match &self.phase {
            Phase::InitSent(init) => init.grace_ends(),
            _ => None,
        };
        let liveness = match timing.dpd_interval {
            Some(interval)
                if self.is_established() && self.requests.is_free() && !self.is_between() =>
            {
                Some(self.last_heard + interval)
            }
            _ => None,
        };
        let keepalive = self
            .sends_keepalives()
            .then(|| self.last_sent + timing.keepalive);
        [
            self.deadline,
            grace,
            self.requests.due(),
            self.inbox.next_timeout(),
            liveness,
            keepalive,
            self.next_lifetime(),
            self.peer_rekey_until(),
            self.retired.iter().map(Retired::next_timeout).min(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn sends_keepalives(&self) -> bool {
        self.ue && self.nat_local && self.crypt.is_some()
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        self.inbox.expire(cx.now);
        let timing = self.timing(cx.config);
        if self.deadline.is_some_and(|deadline| deadline <= cx.now) {
            let reason = if self.initiator {
                CloseReason::LocalTimeout
            } else {
                CloseReason::HalfOpenExpired
            };
            return self.fail(cx, reason, &[Payload::Delete(Delete::Ike)]);
        }
        if let Phase::InitSent(init) = &self.phase
            && let Some(reason) = init.grace_over(cx.now)
        {
            if self.fall_back(cx, &reason) {
                return;
            }
            return self.finish(cx, reason);
        }
        match self.requests.tick(cx.now, &timing) {
            Tick::Nothing => {}
            Tick::Resend(datagrams) => {
                self.last_sent = cx.now;
                cx.counters.retransmitted += 1;
                cx.transmit_all(self.path, datagrams);
            }
            Tick::GiveUp => {
                if self.forgives_silence(cx) {
                    return;
                }
                let reason = match &self.phase {
                    Phase::InitSent(init) => init.hint().unwrap_or(CloseReason::PeerDead),
                    Phase::Deleting => CloseReason::Local,
                    _ => CloseReason::PeerDead,
                };
                if self.fall_back(cx, &reason) {
                    return;
                }
                return self.finish(cx, reason);
            }
        }
        self.retired_timeout(cx);
        self.peer_rekey_over(cx);
        self.lifetimes_over(cx);
        let timing = &cx.config.timing;
        if let Some(interval) = timing.dpd_interval
            && self.is_established()
            && self.last_heard + interval <= cx.now
        {
            self.probe(cx);
        }
        if self.sends_keepalives() && self.last_sent + timing.keepalive <= cx.now {
            self.last_sent = cx.now;
            let path = self.path;
            let data = vec![0xff];
            cx.transmits.push_back(Transmit { path, data });
        }
    }

    /// Somebody says, unprotected, that the peer does not know this SA: worth a question unless it has just spoken, and
    /// a reason not to wait long for the answer.
    pub(crate) fn doubt(&mut self, cx: &mut Cx<'_>) {
        if !self.is_established() || cx.now.duration_since(self.last_heard) < DOUBT_AFTER {
            return;
        }
        if self.requests.is_free() {
            self.probe(cx);
        } else {
            let timing = self.timing(cx.config);
            self.requests.doubt(cx.now, &timing);
        }
    }

    /// Asks for a sign of life unless some request is already waiting for one.
    pub(crate) fn probe(&mut self, cx: &mut Cx<'_>) {
        let idle = self.queue.is_empty() || self.heir.is_some();
        if self.is_established() && self.requests.is_free() && idle && !self.is_between() {
            self.queue.push_back(Command::Probe);
            self.pump(cx);
        }
    }
}

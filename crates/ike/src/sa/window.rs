//! The message-ID window of 1 in each direction, retransmission and the response cache (RFC 7296 2.1 to 2.3).
//!
//! Knows nothing of what exchanges mean: it holds finished datagrams, so that a retransmission and a replayed
//! response are bit-identical, and so that both outlive the keys they were made with.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use crate::{config::Timing, event::Path, time::Instant, wire::ExchangeType};

/// A message as it travels: one datagram, or its fragments in order.
pub(crate) type Datagrams = Vec<Vec<u8>>;

/// SHA-256 of a request, or of its first fragment: equal digests are the same request, retransmitted.
pub(crate) type RequestDigest = [u8; 32];

/// Digest of a request, marker excluded.
pub(crate) fn digest(datagram: &[u8]) -> RequestDigest {
    Sha256::digest(datagram).into()
}

/// Transmissions of a request, one after the other, to each of which somebody says that the peer does not know the
/// IKE SA, until that is believed.
const DOUBTS: u32 = 3;

/// Own requests: at most one without an answer.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    next_id: u32,
    outstanding: Option<Outstanding>,
    retransmits: u64,
}

/// A request that waits for its response.
#[derive(Debug)]
pub(crate) struct Outstanding {
    id: u32,
    exchange: ExchangeType,
    datagrams: Datagrams,
    tries: u32,
    wait: std::time::Duration,
    /// `None` while the timer is held.
    due: Option<Instant>,
    /// Transmissions in a row that were doubted.
    doubts: u32,
    /// Whether the last one was.
    doubted: bool,
}

/// What the retransmission timer wants.
pub(crate) enum Tick<'a> {
    /// Nothing yet.
    Nothing,
    /// Send this again.
    Resend(&'a [Vec<u8>]),
    /// The last wait has passed.
    GiveUp,
}

impl Requests {
    /// The Message ID of the next request; `None` when the counter is used up and the IKE SA has to end.
    pub(crate) fn next_id(&self) -> Option<u32> {
        (self.next_id < u32::MAX).then_some(self.next_id)
    }

    /// Whether a request may be sent.
    pub(crate) fn is_free(&self) -> bool {
        self.outstanding.is_none()
    }

    /// Remembers a request that is being sent. A request with the ID of the one before it replaces that
    /// (IKE_SA_INIT with a cookie).
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        timing: &Timing,
        id: u32,
        exchange: ExchangeType,
        datagrams: Datagrams,
    ) {
        self.next_id = id.saturating_add(1);
        self.outstanding = Some(Outstanding {
            id,
            exchange,
            datagrams,
            tries: 0,
            wait: timing.retransmit_first,
            due: Some(now + timing.retransmit_first),
            doubts: 0,
            doubted: false,
        });
    }

    /// Whether a response with this ID and exchange type answers the outstanding request.
    pub(crate) fn expects(&self, id: u32, exchange: ExchangeType) -> bool {
        self.outstanding
            .as_ref()
            .is_some_and(|request| request.id == id && request.exchange == exchange)
    }

    /// Whether a request of this exchange is outstanding.
    pub(crate) fn awaits(&self, exchange: ExchangeType) -> bool {
        self.outstanding
            .as_ref()
            .is_some_and(|request| request.exchange == exchange)
    }

    /// The outstanding request is answered.
    pub(crate) fn answered(&mut self) {
        self.outstanding = None;
    }

    /// Begins again with Message ID 0, for another IKE_SA_INIT.
    pub(crate) fn restart(&mut self) {
        self.outstanding = None;
        self.next_id = 0;
    }

    /// Stops the timer while the answer is examined.
    pub(crate) fn hold(&mut self) {
        if let Some(request) = &mut self.outstanding {
            request.due = None;
        }
    }

    /// The answer was no good: the timer runs again.
    pub(crate) fn resume(&mut self, now: Instant) {
        if let Some(request) = &mut self.outstanding {
            request.due = Some(now + request.wait);
        }
    }

    /// When [`tick`](Self::tick) has something to say.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.outstanding.as_ref().and_then(|request| request.due)
    }

    /// Runs the timer: intervals double up to the configured bound.
    pub(crate) fn tick(&mut self, now: Instant, timing: &Timing) -> Tick<'_> {
        let Some(request) = &mut self.outstanding else {
            return Tick::Nothing;
        };
        if request.due.is_none_or(|due| due > now) {
            return Tick::Nothing;
        }
        let disbelieved = request.doubted && request.doubts >= DOUBTS;
        if disbelieved || request.tries >= timing.retransmit_tries {
            request.due = None;
            return Tick::GiveUp;
        }
        request.tries += 1;
        if !std::mem::take(&mut request.doubted) {
            request.doubts = 0;
        }
        request.wait = request
            .wait
            .saturating_mul(2)
            .min(timing.retransmit_max.max(timing.retransmit_first));
        request.due = Some(now + request.wait);
        self.retransmits += 1;
        Tick::Resend(&request.datagrams)
    }

    /// Somebody says, unprotected, that the peer does not know the IKE SA. The request is repeated sooner, and given up
    /// when nothing else comes to it: a peer that restarted says so each time, and one that is there answers one of
    /// them whatever others say (RFC 7296 2.4).
    pub(crate) fn doubt(&mut self, now: Instant, timing: &Timing) {
        if let Some(request) = &mut self.outstanding
            && let Some(due) = request.due
            && !std::mem::replace(&mut request.doubted, true)
        {
            request.doubts += 1;
            request.due = Some(due.min(now + timing.retransmit_first / 2));
        }
    }

    /// The outstanding request, to be sent again over another path: its timer begins anew, since the waits so far were
    /// for a path that is no more.
    pub(crate) fn again(&mut self, now: Instant, timing: &Timing) -> Option<&[Vec<u8>]> {
        let request = self.outstanding.as_mut()?;
        request.due?;
        request.tries = 0;
        request.doubts = 0;
        request.doubted = false;
        request.wait = timing.retransmit_first;
        request.due = Some(now + request.wait);
        self.retransmits += 1;
        Some(&request.datagrams)
    }

    /// Retransmissions so far.
    pub(crate) fn retransmits(&self) -> u64 {
        self.retransmits
    }
}

/// The peer's requests: one at a time, and the response to the last one.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    next_id: u32,
    pending: Option<Pending>,
    last: Option<Answered>,
}

/// A request of the peer that is being worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    /// Its Message ID.
    pub(crate) id: u32,
    /// Its exchange type, which the response repeats.
    pub(crate) exchange: ExchangeType,
    /// Where it came from, and the response goes to.
    pub(crate) path: Path,
    digest: RequestDigest,
}

#[derive(Debug)]
struct Answered {
    digest: RequestDigest,
    response: Datagrams,
}

/// What a request is, going by Message ID and octets.
pub(crate) enum Incoming<'a> {
    /// The next one.
    New,
    /// The one being worked on, or the last one again while its response is not made: wait.
    InProgress,
    /// The last one again: send this once more.
    Replay(&'a [Vec<u8>]),
    /// Neither: no answer.
    Outside,
}

impl Responses {
    /// Classifies a request.
    pub(crate) fn classify(&self, id: u32, digest: &RequestDigest) -> Incoming<'_> {
        if let Some(pending) = &self.pending {
            return match pending.id == id && pending.digest == *digest {
                true => Incoming::InProgress,
                false => Incoming::Outside,
            };
        }
        match &self.last {
            Some(last) if last.digest == *digest => Incoming::Replay(&last.response),
            _ if id == self.next_id => Incoming::New,
            _ => Incoming::Outside,
        }
    }

    /// Whether an ID is beyond the next one, by no more than `most`, and nothing is being worked on.
    pub(crate) fn is_ahead(&self, id: u32, most: u32) -> bool {
        self.pending.is_none()
            && id
                .checked_sub(self.next_id)
                .is_some_and(|ahead| (1..=most).contains(&ahead))
    }

    /// Takes up a request that [`classify`](Self::classify) called new and whose protection was good.
    pub(crate) fn accept(
        &mut self,
        id: u32,
        exchange: ExchangeType,
        digest: RequestDigest,
        path: Path,
    ) {
        self.next_id = id.saturating_add(1);
        self.pending = Some(Pending {
            id,
            exchange,
            path,
            digest,
        });
    }

    /// The Message ID of the next request.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// The request being worked on.
    pub(crate) fn pending(&self) -> Option<Pending> {
        self.pending
    }

    /// The response to the request being worked on leaves from another address: the old one is no more.
    pub(crate) fn leave_from(&mut self, local: SocketAddr) {
        if let Some(pending) = &mut self.pending {
            pending.path.local = local;
        }
    }

    /// Forgets the last response: repeating it would only lead the peer on.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    /// Remembers the response to it.
    pub(crate) fn answered(&mut self, response: Datagrams) {
        if let Some(pending) = self.pending.take() {
            self.last = Some(Answered {
                digest: pending.digest,
                response,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn path() -> Path {
        Path {
            local: ([192, 0, 2, 1], 500).into(),
            remote: ([192, 0, 2, 10], 500).into(),
        }
    }

    #[test]
    fn waits_double_up_to_the_bound_and_end_with_the_tries() {
        let timing = Timing {
            retransmit_first: Duration::from_secs(1),
            retransmit_max: Duration::from_secs(4),
            retransmit_tries: 4,
            ..Timing::default()
        };
        let mut requests = Requests::default();
        requests.sent(
            Instant::ZERO,
            &timing,
            0,
            ExchangeType::IkeSaInit,
            vec![vec![1, 2, 3], vec![4]],
        );
        let mut resent = Vec::new();
        let mut now = Instant::ZERO;
        while let Some(due) = requests.due() {
            assert!(due > now, "time moves on");
            now = due;
            match requests.tick(now, &timing) {
                Tick::Resend(datagrams) => {
                    assert_eq!(datagrams, [vec![1, 2, 3], vec![4]], "bit-identical");
                    resent.push(now.since_origin().as_secs());
                }
                Tick::GiveUp => break,
                Tick::Nothing => panic!("the timer was due"),
            }
        }
        assert_eq!(resent, [1, 3, 7, 11]);
        assert_eq!(now.since_origin().as_secs(), 15);
        assert_eq!(requests.retransmits(), 4);
    }

    #[test]
    fn a_held_timer_does_not_fire() {
        let timing = Timing::default();
        let mut requests = Requests::default();
        requests.sent(
            Instant::ZERO,
            &timing,
            0,
            ExchangeType::IkeSaInit,
            vec![vec![9]],
        );
        requests.hold();
        assert_eq!(requests.due(), None);
        let later = Instant::from_origin(Duration::from_secs(100));
        assert!(matches!(requests.tick(later, &timing), Tick::Nothing));
        requests.resume(later);
        assert_eq!(requests.due(), Some(later + timing.retransmit_first));
    }

    #[test]
    fn a_request_is_new_once_then_absorbed_then_replayed() {
        let mut responses = Responses::default();
        let first = digest(b"first");
        assert!(matches!(responses.classify(0, &first), Incoming::New));
        responses.accept(0, ExchangeType::IkeAuth, first, path());
        assert!(matches!(
            responses.classify(0, &first),
            Incoming::InProgress
        ));
        let second = digest(b"second");
        assert!(matches!(responses.classify(1, &second), Incoming::Outside));
        responses.answered(vec![vec![7]]);
        assert!(matches!(
            responses.classify(0, &first),
            Incoming::Replay(datagrams) if datagrams == [vec![7]]
        ));
        assert!(
            matches!(responses.classify(0, &second), Incoming::Outside),
            "another request with an old ID gets no answer"
        );
        assert!(matches!(responses.classify(1, &second), Incoming::New));
        assert!(matches!(responses.classify(2, &second), Incoming::Outside));
    }

    #[test]
    fn a_response_counts_only_for_the_outstanding_request() {
        let timing = Timing::default();
        let mut requests = Requests::default();
        assert!(!requests.expects(0, ExchangeType::IkeAuth));
        requests.sent(Instant::ZERO, &timing, 0, ExchangeType::IkeAuth, vec![]);
        assert!(requests.expects(0, ExchangeType::IkeAuth));
        assert!(!requests.expects(1, ExchangeType::IkeAuth));
        assert!(!requests.expects(0, ExchangeType::Informational));
        requests.answered();
        assert!(!requests.expects(0, ExchangeType::IkeAuth));
        assert_eq!(requests.next_id(), Some(1));
    }
}

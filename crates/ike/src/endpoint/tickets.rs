//! Admission keys: those of UEs that attached here, and our own towards responders that we attached to.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use keys::{KeyId, SaeId};

use crate::{
    crypto::admission::AdmissionKey,
    sa::{Earlier, window::RequestDigest},
    time::Instant,
};

/// Keys a responder keeps.
const CAPACITY: usize = 16_384;
/// Keys it keeps of one SAE: UEs may share one, and none should push out all others.
const OF_ONE_SAE: usize = 64;
/// Requests one key admits: an attach that fails may be tried again, and no more than that.
const USES: usize = 4;
/// Keys an initiator keeps.
const OWN: usize = 16;

type TagId = [u8; 8];

struct Ticket {
    serial: u64,
    key: AdmissionKey,
    sae: SaeId,
    until: Instant,
    /// Requests admitted with it. The same one again is a replay.
    admitted: Vec<RequestDigest>,
}

/// Keys of UEs that attached: bounded, of bounded age, the oldest going first.
#[derive(Default)]
pub(super) struct Tickets {
    tickets: HashMap<TagId, Ticket>,
    by_age: BTreeMap<u64, TagId>,
    by_sae: HashMap<SaeId, VecDeque<TagId>>,
    serial: u64,
}

impl Tickets {
    pub(super) fn keep(&mut self, now: Instant, life: Duration, sae: SaeId, key: AdmissionKey) {
        self.forget_old(now);
        let id = key.id();
        self.forget(id);
        let full = self.by_sae.get(&sae).filter(|ids| ids.len() >= OF_ONE_SAE);
        if let Some(oldest) = full.and_then(|ids| ids.front().copied()) {
            self.forget(oldest);
        }
        if self.tickets.len() >= CAPACITY
            && let Some(oldest) = self.by_age.values().next().copied()
        {
            self.forget(oldest);
        }
        self.serial += 1;
        self.by_age.insert(self.serial, id);
        self.by_sae.entry(sae.clone()).or_default().push_back(id);
        let ticket = Ticket {
            serial: self.serial,
            key,
            sae,
            until: now + life,
            admitted: Vec::new(),
        };
        self.tickets.insert(id, ticket);
    }

    /// Whether this request is by the UE that `sae` names, for the first time.
    pub(super) fn knows(
        &self,
        now: Instant,
        id: TagId,
        sae: &SaeId,
        request: &[u8],
        digest: &RequestDigest,
    ) -> bool {
        self.tickets.get(&id).is_some_and(|ticket| {
            ticket.key.verify(request)
                && ticket.until > now
                && ticket.sae == *sae
                && ticket.admitted.len() < USES
                && !ticket.admitted.contains(digest)
        })
    }

    /// The request was taken up.
    pub(super) fn used(&mut self, id: TagId, digest: RequestDigest) {
        if let Some(ticket) = self.tickets.get_mut(&id) {
            ticket.admitted.push(digest);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tickets.len()
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(id) = self.by_age.values().next().copied() {
            if self
                .tickets
                .get(&id)
                .is_some_and(|ticket| ticket.until > now)
            {
                return;
            }
            self.forget(id);
        }
    }

    fn forget(&mut self, id: TagId) {
        let Some(ticket) = self.tickets.remove(&id) else {
            return;
        };
        self.by_age.remove(&ticket.serial);
        if let Some(ids) = self.by_sae.get_mut(&ticket.sae) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_sae.remove(&ticket.sae);
            }
        }
    }
}

/// Our own keys, the newest for each responder and SAE ID of ours.
#[derive(Default)]
pub(super) struct OwnTickets(VecDeque<Own>);

struct Own {
    responder: IpAddr,
    sae: SaeId,
    until: Instant,
    key: Arc<AdmissionKey>,
    /// Of an attach that failed since: a key that our KMS does not have.
    missing: Option<KeyId>,
}

impl OwnTickets {
    pub(super) fn keep(
        &mut self,
        now: Instant,
        life: Duration,
        responder: IpAddr,
        sae: SaeId,
        key: AdmissionKey,
    ) {
        self.0
            .retain(|own| own.until > now && !(own.responder == responder && own.sae == sae));
        if self.0.len() >= OWN {
            self.0.pop_front();
        }
        self.0.push_back(Own {
            responder,
            sae,
            until: now + life,
            key: Arc::new(key),
            missing: None,
        });
    }

    /// Our KMS does not have this key, which the responder named.
    pub(super) fn note_missing(&mut self, responder: IpAddr, sae: &SaeId, id: KeyId) {
        let mut all = self.0.iter_mut();
        let own = all.find(|own| own.responder == responder && own.sae == *sae);
        if let Some(own) = own {
            own.missing = Some(id);
        }
    }

    pub(super) fn find(&self, now: Instant, responder: IpAddr, sae: &SaeId) -> Option<Earlier> {
        let mut all = self.0.iter();
        all.find(|own| own.responder == responder && own.sae == *sae && own.until > now)
            .map(|own| Earlier {
                key: Arc::clone(&own.key),
                missing: own.missing,
            })
    }
}

#[cfg(test)]
mod tests {
    use keys::Secret;

    use super::*;
    use crate::{crypto::Prf, sa::window};

    const LIFE: Duration = Duration::from_secs(100);

    fn key(n: usize) -> AdmissionKey {
        let mut octets = [0; 32];
        octets[..8].copy_from_slice(&n.to_be_bytes());
        AdmissionKey::derive(Prf::HmacSha2_256, &Secret::from_slice(&octets)).unwrap()
    }

    fn sae(name: &str) -> SaeId {
        name.parse().unwrap()
    }

    fn signed(n: usize, octet: u8) -> (Vec<u8>, RequestDigest) {
        let mut request = vec![octet; 64];
        key(n).sign(&mut request);
        let digest = window::digest(&request);
        (request, digest)
    }

    #[test]
    fn a_key_admits_its_sae_a_few_times_each_request_once() {
        let mut tickets = Tickets::default();
        tickets.keep(Instant::ZERO, LIFE, sae("a"), key(1));
        let id = key(1).id();
        for octet in 0..4 {
            let (request, digest) = signed(1, octet);
            let knows = |tickets: &Tickets, name, now| {
                tickets.knows(now, id, &sae(name), &request, &digest)
            };
            assert!(knows(&tickets, "a", Instant::ZERO));
            assert!(!knows(&tickets, "b", Instant::ZERO), "another SAE");
            assert!(!knows(&tickets, "a", Instant::ZERO + LIFE), "too late");
            tickets.used(id, digest);
            assert!(!knows(&tickets, "a", Instant::ZERO), "again");
        }
        let (request, digest) = signed(1, 4);
        assert!(!tickets.knows(Instant::ZERO, id, &sae("a"), &request, &digest));
        let (forged, digest) = signed(2, 0);
        assert!(!tickets.knows(Instant::ZERO, id, &sae("a"), &forged, &digest));
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut tickets = Tickets::default();
        for n in 0..OF_ONE_SAE + 10 {
            tickets.keep(Instant::ZERO, LIFE, sae("many"), key(n));
        }
        assert_eq!(tickets.len(), OF_ONE_SAE);
        for n in 0..CAPACITY + 10 {
            tickets.keep(Instant::ZERO, LIFE, sae(&format!("{n}")), key(1000 + n));
        }
        assert_eq!(tickets.len(), CAPACITY);
        assert_eq!(tickets.by_age.len(), CAPACITY);
        let listed: usize = tickets.by_sae.values().map(VecDeque::len).sum();
        assert_eq!(listed, CAPACITY);
        tickets.keep(Instant::ZERO + LIFE, LIFE, sae("late"), key(1));
        assert_eq!(
            (tickets.len(), tickets.by_age.len(), tickets.by_sae.len()),
            (1, 1, 1)
        );
        let mut own = OwnTickets::default();
        for n in 0..40_u8 {
            own.keep(Instant::ZERO, LIFE, [192, 0, 2, n].into(), sae("a"), key(1));
        }
        assert_eq!(own.0.len(), OWN);
        let last = [192, 0, 2, 39].into();
        assert!(own.find(Instant::ZERO, last, &sae("a")).is_some());
        assert!(own.find(Instant::ZERO, last, &sae("b")).is_none());
        assert!(own.find(Instant::ZERO + LIFE, last, &sae("a")).is_none());
    }
}

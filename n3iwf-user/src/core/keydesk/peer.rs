//! What the desk knows of one peer.

use std::{collections::VecDeque, time::Duration};

use ike::Instant;
use keys::{KeyId, QkdKey};

use super::{Ahead, FRESH, LONGEST_PAUSE, PAUSE};

/// A key fetched ahead. Its secret is wiped when it is dropped.
pub(super) struct Ready {
    key: QkdKey,
    since: Instant,
    size_bits: u32,
}

/// What a status said; `None`: no status came.
#[derive(Clone, Copy)]
pub(super) struct Stock {
    pub(super) stored: Option<u64>,
    pub(super) at: Instant,
}

/// The KMS had no keys.
pub(super) struct Drought {
    /// When it is asked again,
    pub(super) until: Instant,
    /// by one attach.
    pub(super) probing: bool,
}

pub(super) struct Peer {
    /// Oldest first.
    pub(super) ready: VecDeque<Ready>,
    /// The first of the keys last taken from there, and when.
    given: Option<(KeyId, Instant)>,
    /// The largest size asked for.
    pub(super) size_bits: u32,
    /// The size of the refill under way.
    pub(super) asked_bits: u32,
    /// Its established IKE SAs.
    pub(super) live: usize,
    /// Named in the configuration.
    pub(super) named: bool,
    pub(super) refilling: bool,
    /// Refills that failed in a row.
    pub(super) failures: u32,
    refill_at: Option<Instant>,
    pub(super) drought: Option<Drought>,
    pub(super) stock: Option<Stock>,
    /// A status is asked for.
    pub(super) asking: bool,
    pub(super) armed: Option<Instant>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            given: None,
            // What AES-256 takes, and a PPK has.
            size_bits: 256,
            asked_bits: 256,
            live: 0,
            named: false,
            refilling: false,
            failures: 0,
            refill_at: None,
            drought: None,
            stock: None,
            asking: false,
            armed: None,
        }
    }
}

impl Peer {
    /// Whether keys are fetched ahead for it.
    pub(super) const fn is_wanted(&self) -> bool {
        self.named || self.live > 0
    }

    /// `stored_key_count` while it is fresh; inside: whether it is known at all.
    pub(super) fn stock_at(&self, now: Instant) -> Option<Option<u64>> {
        let stock = self.stock?;
        (now < stock.at + FRESH).then_some(stock.stored)
    }

    /// Keys were asked of the KMS, which has as many fewer until its next status.
    pub(super) fn spent(&mut self, number: usize) {
        if let Some(Stock {
            stored: Some(stored),
            ..
        }) = &mut self.stock
        {
            *stored = stored.saturating_sub(number as u64);
        }
    }

    pub(super) fn store(&mut self, now: Instant, size_bits: u32, keys: Vec<QkdKey>) {
        self.ready.extend(keys.into_iter().map(|key| Ready {
            key,
            since: now,
            size_bits,
        }));
    }

    /// The oldest keys; both ends cut longer ones to what they need.
    pub(super) fn take(
        &mut self,
        now: Instant,
        number: usize,
        size_bits: u32,
    ) -> Option<Vec<QkdKey>> {
        let mut fit = self.ready.iter().take(number);
        if self.ready.len() < number || !fit.all(|ready| ready.size_bits >= size_bits) {
            return None;
        }
        let keys: Vec<QkdKey> = self.ready.drain(..number).map(|ready| ready.key).collect();
        self.given = keys.first().map(|key| (key.id, now));
        Some(keys)
    }

    /// All that was in store when this key, the first of several, was last given.
    pub(super) fn take_given_with(&mut self, id: KeyId) -> Vec<QkdKey> {
        let Some((_, at)) = self.given.take_if(|(first, _)| *first == id) else {
            return Vec::new();
        };
        // What came in the same moment was asked for because of it.
        let old = self.ready.iter().take_while(|ready| ready.since < at);
        let old = old.count();
        self.ready.drain(..old).map(|ready| ready.key).collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<QkdKey> {
        self.ready.drain(..).map(|ready| ready.key).collect()
    }

    pub(super) fn take_old(&mut self, now: Instant, age: Duration) -> Vec<QkdKey> {
        let old = self
            .ready
            .iter()
            .take_while(|ready| ready.since + age <= now);
        let old = old.count();
        self.ready.drain(..old).map(|ready| ready.key).collect()
    }

    pub(super) fn dry(&mut self, until: Instant) {
        self.drought = Some(Drought {
            until,
            probing: false,
        });
        if let Some(stock) = &mut self.stock {
            stock.stored = Some(0);
        }
    }

    /// A refill failed.
    pub(super) fn failed(&mut self, now: Instant) {
        let doubled = PAUSE.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(16);
        self.refill_at = Some(now + doubled.min(LONGEST_PAUSE));
    }

    pub(super) const fn postpone(&mut self, until: Instant) {
        self.refill_at = Some(until);
    }

    pub(super) fn may_refill(&self, now: Instant) -> bool {
        !self.refilling && self.refill_at.is_none_or(|at| at <= now)
    }

    /// Forgets what is too old to matter.
    pub(super) fn forget(&mut self, now: Instant, waited_for: bool) {
        let over = |drought: &Drought| drought.until <= now && !drought.probing;
        if !waited_for && self.drought.as_ref().is_some_and(over) {
            self.drought = None;
        }
        if self.stock.is_some_and(|stock| stock.at + FRESH <= now) {
            self.stock = None;
        }
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_blank(&self) -> bool {
        self.ready.is_empty()
            && !self.is_wanted()
            && !self.refilling
            && !self.asking
            && self.drought.is_none()
            && self.stock.is_none()
    }

    /// When something is to be done about it.
    pub(super) fn due(&self, now: Instant, ahead: Option<&Ahead>) -> Option<Instant> {
        let old = ahead.and_then(|ahead| Some(self.ready.front()?.since + ahead.age));
        let short = ahead.is_some_and(|ahead| self.ready.len() < ahead.low);
        let refill = self
            .refill_at
            .filter(|at| short && self.is_wanted() && !self.refilling && *at > now);
        let drought = self.drought.as_ref().filter(|drought| !drought.probing);
        let drought = drought.map(|drought| drought.until.max(now));
        let stock = self.stock.map(|stock| stock.at + FRESH);
        [old, refill, drought, stock].into_iter().flatten().min()
    }
}

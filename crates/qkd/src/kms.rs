//! The client.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use keys::{KeyId, QkdKey, SaeId};
use serde::Serialize;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use crate::{
    Account, KmsConfig, Malformed, Method, QkdError, Reason, RetryConfig, SetupError, Status,
    codec::{self, Expect, Operation},
    http::{Failure, Http, Payload},
    policy::{Attempts, EndpointHealth, Failover, Step, Verdict},
};

/// Most keys of one call, far above what an IKE SA needs: a bound on memory and on mistakes.
const MOST_KEYS: usize = 1024;

/// How long `max_key_per_request` of a status is believed.
const LIMIT_AGE: Duration = Duration::from_secs(600);

/// How many peers' limits are remembered.
const MOST_LIMITS: usize = 4096;

/// One request to a KME and its end, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    /// `status`, `enc_keys`, `dec_keys`.
    pub operation: &'static str,
    /// `ok`, or [`QkdError::label`].
    pub outcome: &'static str,
    /// From the request to the last octet of the response.
    pub took: Duration,
}

/// What the KMS told of the keys it has, in its last status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stock {
    /// Keys it could deliver (014, `stored_key_count`).
    pub stored: u64,
    /// Keys it can store at most (014, `max_key_count`).
    pub capacity: u64,
    /// How long ago it said so.
    pub age: Duration,
}

/// What is known of the keys in store.
#[derive(Clone)]
struct Shelf {
    /// Keys for whom.
    slave: SaeId,
    asked: Duration,
    /// `stored_key_count`, `max_key_count`, and when.
    told: Option<(u64, u64, Duration)>,
}

type Observer = Box<dyn Fn(Observation) + Send + Sync>;

/// The key management system of this site, as one SAE sees it.
///
/// Cheap to clone; clones share connections, health and account. All calls may run at once.
#[derive(Clone)]
pub struct Kms(Arc<Inner>);

struct Inner {
    http: Http,
    method: Method,
    retry: RetryConfig,
    max_keys_per_request: Option<u32>,
    origin: Instant,
    failover: Mutex<Failover>,
    /// `max_key_per_request` by slave SAE, and when it was learnt.
    limits: Mutex<HashMap<SaeId, (usize, Duration)>>,
    /// Held by whoever asks for the first limit, which the others wait for.
    asking: tokio::sync::Mutex<()>,
    stock: Mutex<Option<Shelf>>,
    observer: OnceLock<Observer>,
    account: Arc<Account>,
}

impl Kms {
    /// Reads the PEM files and prepares TLS; connects to nothing yet.
    ///
    /// # Errors
    /// [`SetupError`] naming the configuration key at fault.
    pub fn new(config: &KmsConfig) -> Result<Self, SetupError> {
        let value = |key, reason| Err(SetupError::Value { key, reason });
        if config.retry.attempts == 0 {
            return value("retry.attempts", "at least 1");
        }
        if config.retry.initial.is_zero() {
            return value("retry.initial", "a pause of at least 1ms");
        }
        if config.max_keys_per_request == Some(0) {
            return value("maxKeysPerRequest", "at least 1");
        }
        if config.timeout.is_zero() || config.connect_timeout.is_zero() {
            return value("timeout", "no time for any request");
        }
        let http = Http::new(config)?;
        let endpoints = http.urls().len();
        Ok(Self(Arc::new(Inner {
            failover: Mutex::new(Failover::new(
                endpoints,
                config.retry.cooldown,
                config.retry.longest_cooldown,
            )),
            http,
            method: config.method,
            retry: config.retry,
            max_keys_per_request: config.max_keys_per_request,
            origin: Instant::now(),
            limits: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            stock: Mutex::default(),
            observer: OnceLock::new(),
            account: Arc::default(),
        })))
    }

    /// Get status (014, 5.2) between this SAE as master and `slave`; always asks the KME.
    ///
    /// # Errors
    /// [`QkdError`] of the last attempt.
    pub async fn status(&self, slave: &SaeId) -> Result<Status, QkdError> {
        self.probe(slave);
        let started = self.0.now();
        let status = self
            .0
            .attempt(
                started,
                Operation::Status,
                slave,
                0,
                &Payload::None,
                |body| codec::parse_status(body),
            )
            .await?;
        self.0.learn_limit(slave, &status);
        Ok(status)
    }

    /// Get key (014, 5.3): `number` new keys of `size_bits` bits shared with `slave`, split into
    /// requests the KME accepts.
    ///
    /// All keys returned are booked as held in [`Kms::account`]. When a later request of a split
    /// call fails, or the returned future is dropped, keys that had arrived are wiped and booked
    /// as lost.
    ///
    /// # Errors
    /// [`QkdError`] of the last attempt.
    pub async fn enc_keys(
        &self,
        slave: &SaeId,
        number: usize,
        size_bits: u32,
    ) -> Result<Vec<QkdKey>, QkdError> {
        if number == 0 || number > MOST_KEYS {
            return Err(QkdError::Request("1 to 1024 keys at a time"));
        }
        if size_bits == 0 || !size_bits.is_multiple_of(8) {
            return Err(QkdError::Request("key size: a positive multiple of 8 bits"));
        }
        self.probe(slave);
        let started = self.0.now();
        self.0.stock().get_or_insert_with(|| Shelf {
            slave: slave.clone(),
            asked: Duration::ZERO,
            told: None,
        });
        let mut limit = self.limit(slave, number).await?;
        let mut harvest = Harvest::new(&self.0.account, slave);
        while harvest.keys.len() < number {
            let number = (number - harvest.keys.len()).min(limit.keys());
            let payload = match self.0.method {
                Method::Post => Payload::Body(codec::key_request(number, size_bits)),
                Method::Get => Payload::Query(codec::key_request_query(number, size_bits)),
            };
            let expect = Expect::New { number, size_bits };
            let parse = |body: &Zeroizing<Vec<u8>>| codec::parse_keys(body, expect);
            let keys = self
                .0
                .attempt(started, Operation::EncKeys, slave, number, &payload, parse)
                .await;
            if matches!(keys, Err(QkdError::BadRequest { .. })) && limit.is_guess() {
                limit = Limit::Told(limit_of(&self.status(slave).await?));
                if limit.keys() < number {
                    continue;
                }
            }
            harvest.store(keys?)?;
        }
        Ok(harvest.finish())
    }

    /// Get key with key IDs (014, 5.4): the keys that `master` fetched, in the order of `ids`.
    /// Keys the KME does not have yet are waited for ([`RetryConfig::replication`]).
    ///
    /// The standard lets a slave ask for keys of any size, so callers check the sizes. All keys
    /// returned are booked as held in [`Kms::account`]; what happens on failure is as for
    /// [`Kms::enc_keys`].
    ///
    /// # Errors
    /// [`QkdError`] of the last attempt.
    pub async fn dec_keys(&self, master: &SaeId, ids: &[KeyId]) -> Result<Vec<QkdKey>, QkdError> {
        if ids.is_empty() || ids.len() > MOST_KEYS {
            return Err(QkdError::Request("1 to 1024 keys at a time"));
        }
        if ids.iter().collect::<HashSet<_>>().len() != ids.len() {
            return Err(QkdError::Request("the same key ID twice"));
        }
        self.probe(master);
        let started = self.0.now();
        let limit = match (self.0.method, self.0.max_keys_per_request) {
            (Method::Get, _) => 1,
            (Method::Post, None) => ids.len(),
            (Method::Post, Some(limit)) => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let mut harvest = Harvest::new(&self.0.account, master);
        for ids in ids.chunks(limit) {
            let payload = match (self.0.method, ids) {
                (Method::Get, [id]) => Payload::Query(codec::key_id_query(id)),
                _ => Payload::Body(codec::key_ids(ids)),
            };
            let keys = self
                .0
                .attempt(
                    started,
                    Operation::DecKeys,
                    master,
                    ids.len(),
                    &payload,
                    |body| codec::parse_keys(body, Expect::These(ids)),
                )
                .await?;
            harvest.store(keys)?;
        }
        Ok(harvest.finish())
    }

    /// Opens a connection to the KMS for keys that may be asked for soon, unless one is there. A handshake takes as
    /// long as ten requests; a UE has the time for it while it waits for an N3IWF, and an N3IWF while it starts.
    ///
    /// That it fails says no more than that the next request will have to open one.
    pub async fn ready(&self) {
        let Some(endpoint) = self.0.failover().order().first().copied() else {
            return;
        };
        if let Err(error) = self.0.http.ready(endpoint).await {
            debug!(%error, "no connection to the KMS yet");
        }
    }

    /// Where every fetched key went; the caller books what it used and lost.
    pub fn account(&self) -> &Arc<Account> {
        &self.0.account
    }

    /// The endpoints in order of configuration and how they fare.
    pub fn health(&self) -> Vec<EndpointHealth> {
        let now = self.0.now();
        self.0.failover().health(now, self.0.http.urls())
    }

    /// Tells `observer` of every request from now on; only the first observer counts.
    pub fn observe(&self, observer: impl Fn(Observation) + Send + Sync + 'static) {
        drop(self.0.observer.set(Box::new(observer)));
    }

    /// What the last status said of the keys in store, if there was one.
    pub fn stock(&self) -> Option<Stock> {
        let (stored, capacity, at) = self.0.stock().as_ref()?.told?;
        Some(Stock {
            stored,
            capacity,
            age: self.0.now().saturating_sub(at),
        })
    }

    /// Asks for a status again unless that was done within `age`. Nothing is asked before the
    /// first `enc_keys`: until then there is no peer to ask about.
    pub async fn refresh_stock(&self, age: Duration) {
        let now = self.0.now();
        let slave = match &mut *self.0.stock() {
            Some(shelf) if now.saturating_sub(shelf.asked) >= age => {
                // Whoever comes meanwhile does not ask the KME as well.
                shelf.asked = now;
                shelf.slave.clone()
            }
            _ => return,
        };
        if let Err(error) = self.status(&slave).await {
            debug!(%error, "no status from the KMS");
            if let Some(shelf) = &mut *self.0.stock() {
                shelf.told = None;
            }
        }
    }

    /// Asks an endpoint that failed for a status if its time has come; nobody waits for it.
    fn probe(&self, peer: &SaeId) {
        let due = self.0.failover().probe(self.0.now());
        if let Some(endpoint) = due {
            let (inner, peer) = (Arc::clone(&self.0), peer.clone());
            tokio::spawn(async move { inner.probe(endpoint, &peer).await });
        }
    }

    /// How many of `number` keys one request may ask for.
    ///
    /// A KME has one limit for all SAEs as a rule, so that of any other SAE is tried first.
    async fn limit(&self, slave: &SaeId, number: usize) -> Result<Limit, QkdError> {
        if let Some(limit) = self.0.max_keys_per_request {
            return Ok(Limit::Told(usize::try_from(limit).unwrap_or(usize::MAX)));
        }
        if number == 1 {
            return Ok(Limit::Told(1));
        }
        if let Some(limit) = self.0.known_limit(slave) {
            return Ok(limit);
        }
        let _asking = match self.0.asking.try_lock() {
            Ok(asking) => Some(asking),
            Err(_) => {
                drop(self.0.asking.lock().await);
                if let Some(limit) = self.0.known_limit(slave) {
                    return Ok(limit);
                }
                // That failed; what follows is everybody's own.
                None
            }
        };
        match self.status(slave).await {
            Ok(status) => Ok(Limit::Told(limit_of(&status))),
            // A KME without a usable status may still deliver keys.
            Err(error @ (QkdError::Malformed(_) | QkdError::Unexpected { .. })) => {
                debug!(%error, "no status from the KMS, asking for all keys at once");
                Ok(Limit::Told(number))
            }
            Err(error) => Err(error),
        }
    }
}

/// How many keys one request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// As configured, or as the KME has said of this SAE.
    Told(usize),
    /// As the KME has said of another SAE.
    Guess(usize),
}

impl Limit {
    fn keys(self) -> usize {
        match self {
            Self::Told(keys) | Self::Guess(keys) => keys,
        }
    }

    fn is_guess(self) -> bool {
        matches!(self, Self::Guess(_))
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn failover(&self) -> MutexGuard<'_, Failover> {
        self.failover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> MutexGuard<'_, HashMap<SaeId, (usize, Duration)>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stock(&self) -> MutexGuard<'_, Option<Shelf>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit of this SAE, else the lowest of all others.
    fn known_limit(&self, slave: &SaeId) -> Option<Limit> {
        let now = self.now();
        let limits = self.limits();
        let fresh = |(_, learnt): &&(usize, Duration)| now.saturating_sub(*learnt) < LIMIT_AGE;
        if let Some((limit, _)) = limits.get(slave).filter(fresh) {
            return Some(Limit::Told(*limit));
        }
        let others = limits.values().filter(fresh).map(|(limit, _)| *limit);
        others.min().map(Limit::Guess)
    }

    fn learn_limit(&self, slave: &SaeId, status: &Status) {
        let now = self.now();
        *self.stock() = Some(Shelf {
            slave: slave.clone(),
            asked: now,
            told: Some((status.stored_key_count, status.max_key_count, now)),
        });
        let mut limits = self.limits();
        if limits.len() >= MOST_LIMITS {
            limits.clear();
        }
        limits.insert(slave.clone(), (limit_of(status), now));
    }

    /// Whether an endpoint works again: a status costs no key.
    async fn probe(&self, endpoint: usize, peer: &SaeId) {
        let begun = Instant::now();
        let sent = self
            .http
            .send(endpoint, Operation::Status, peer, &Payload::None);
        let answer = sent.await.map_err(|failure| failure.error);
        let result = answer.and_then(|body| Ok(codec::parse_status(&body)?));
        self.observed(Operation::Status, result.as_ref().err(), begun.elapsed());
        let url = self.http.urls().nth(endpoint).unwrap_or_default();
        match result {
            Err(error) if Verdict::of(&error).blames_endpoint() => {
                debug!(%url, %error, "KMS endpoint still fails");
                self.failover().failed(self.now(), endpoint, &error);
            }
            _ => {
                info!(%url, "KMS endpoint works again");
                self.failover().succeeded(endpoint);
            }
        }
    }

    fn observed(&self, operation: Operation, error: Option<&QkdError>, took: Duration) {
        if let Some(observer) = self.observer.get() {
            observer(Observation {
                operation: operation.name(),
                outcome: error.map_or("ok", QkdError::label),
                took,
            });
        }
    }

    /// Sends one request as often and to as many endpoints as the policy allows.
    async fn attempt<T>(
        &self,
        started: Duration,
        operation: Operation,
        peer: &SaeId,
        number: usize,
        payload: &Payload,
        parse: impl Fn(&Zeroizing<Vec<u8>>) -> Result<T, Malformed>,
    ) -> Result<T, QkdError> {
        let order = self.failover().order();
        let mut attempts = Attempts::new(self.retry, started, order, getrandom::u64().unwrap_or(0));
        let mut reported: Option<QkdError> = None;
        loop {
            let endpoint = match attempts.next(self.now()) {
                Step::Try(endpoint) => endpoint,
                Step::WaitUntil(until) => {
                    tokio::time::sleep(until.saturating_sub(self.now())).await;
                    continue;
                }
                Step::GiveUp => {
                    return Err(reported.unwrap_or(QkdError::Timeout));
                }
            };
            let pending = Pending {
                account: &self.account,
                peer,
                number,
            };
            let begun = Instant::now();
            let sent = self.http.send(endpoint, operation, peer, payload).await;
            let took = begun.elapsed();
            let result = sent.and_then(|body| {
                parse(&body).map_err(|error| Failure {
                    error: error.into(),
                    uncertain: true,
                })
            });
            let error = result.as_ref().err().map(|failure| &failure.error);
            self.observed(operation, error, took);
            let Failure { error, uncertain } = match result {
                Ok(value) => {
                    pending.settled();
                    self.failover().succeeded(endpoint);
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            if !uncertain {
                pending.settled();
            }
            let verdict = Verdict::of(&error);
            let url = self.http.urls().nth(endpoint).unwrap_or_default();
            if verdict.blames_endpoint() {
                warn!(%url, ?operation, %peer, %error, "KMS request failed");
                self.failover().failed(self.now(), endpoint, &error);
            } else {
                debug!(%url, ?operation, %peer, %error, "KMS request refused");
                self.failover().succeeded(endpoint);
            }
            attempts.failed(endpoint, verdict);
            // What a KME answered says more than that another one did not answer.
            if error.reason() != Reason::Unreachable
                || reported
                    .as_ref()
                    .is_none_or(|error| error.reason() == Reason::Unreachable)
            {
                reported = Some(error);
            }
        }
    }
}

fn limit_of(status: &Status) -> usize {
    usize::try_from(status.max_key_per_request)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Keys under way: booked as uncertain unless the request comes to a clear end, also when the
/// future that waits for it is dropped.
struct Pending<'a> {
    account: &'a Account,
    peer: &'a SaeId,
    number: usize,
}

impl Pending<'_> {
    fn settled(mut self) {
        self.number = 0;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.number > 0 {
            let number = u64::try_from(self.number).unwrap_or(u64::MAX);
            self.account.uncertain(self.peer, number);
        }
    }
}

/// Keys that arrived for a call that is not complete yet: lost unless it completes.
struct Harvest<'a> {
    account: &'a Account,
    peer: &'a SaeId,
    keys: Vec<QkdKey>,
}

impl<'a> Harvest<'a> {
    const fn new(account: &'a Account, peer: &'a SaeId) -> Self {
        Self {
            account,
            peer,
            keys: Vec::new(),
        }
    }

    fn store(&mut self, keys: Vec<QkdKey>) -> Result<(), QkdError> {
        let mut twice = None;
        for key in keys {
            match self.account.fetched(self.peer, key.id) {
                Ok(()) => self.keys.push(key),
                Err(_) => twice = Some(key.id),
            }
        }
        // A KMS that gives one key to two requests must not key two things with it.
        twice.map_or(Ok(()), |id| Err(Malformed::Duplicate(id).into()))
    }

    fn finish(mut self) -> Vec<QkdKey> {
        std::mem::take(&mut self.keys)
    }
}

impl Drop for Harvest<'_> {
    fn drop(&mut self) {
        for key in &self.keys {
            if let Err(error) = self.account.lost(&key.id) {
                warn!(%error, "key account");
            }
        }
    }
}

//! Retries, back-off and failover, without socket or clock.
//!
//! Time is a [`Duration`] since an arbitrary origin. [`Failover`] remembers how the endpoints fare
//! across operations; [`Attempts`] steers one operation: it says what to try, how long to wait, and
//! when to stop. Everything is bounded: rounds and deadline for failures, a time of its own for
//! keys that the peer KME has not replicated yet.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

use crate::{QkdError, RetryConfig};

/// What a failure means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The answer would be the same everywhere and always.
    Final,
    /// This endpoint may recover: the next endpoint now, this one again after a pause.
    Again,
    /// This endpoint will not do better, and asking it again could burn keys: others only.
    NextEndpoint,
    /// The keys are not replicated yet: again after a pause, for as long as replication may take.
    NotYet,
}

impl Verdict {
    /// The verdict on a failed request.
    pub const fn of(error: &QkdError) -> Self {
        match error {
            QkdError::BadRequest { .. } | QkdError::Unauthorized | QkdError::Request(_) => {
                Self::Final
            }
            QkdError::KeysNotFound => Self::NotYet,
            QkdError::Unavailable { .. } | QkdError::Timeout | QkdError::Connect(_) => Self::Again,
            QkdError::Unexpected {
                status: 408 | 425 | 429 | 500..=599,
            } => Self::Again,
            QkdError::Tls(_) | QkdError::Malformed(_) | QkdError::Unexpected { .. } => {
                Self::NextEndpoint
            }
        }
    }

    /// Whether the failure is the endpoint's, so that others should be preferred for a while.
    pub const fn blames_endpoint(self) -> bool {
        matches!(self, Self::Again | Self::NextEndpoint)
    }
}

/// How one endpoint fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHealth {
    /// Its URL as configured.
    pub url: String,
    /// Whether its last request ended well (or none was sent yet).
    pub healthy: bool,
    /// Failures since the last success.
    pub failures: u32,
    /// While unhealthy: milliseconds until it is probed; 0 while that is under way, or due with the next request.
    pub probe_in_ms: Option<u64>,
    /// The last failure in words, while unhealthy.
    pub error: Option<String>,
}

/// How the endpoints fare, across operations: a circuit breaker for each.
///
/// An endpoint that failed comes after those that work, whatever the order of the configuration, until a probe
/// (a request that nobody waits for) ended well. The wait before a probe doubles with each that failed. Where no
/// endpoint works, all are tried.
#[derive(Debug)]
pub struct Failover {
    cooldown: Duration,
    longest: Duration,
    endpoints: Vec<Fare>,
}

#[derive(Debug, Default, Clone)]
struct Fare {
    failures: u32,
    /// When it is to be probed.
    probe_at: Duration,
    /// Probes that failed, and the failure before them.
    trips: u32,
    probing: bool,
    error: Option<String>,
}

impl Failover {
    /// All of `endpoints` healthy. A failed one is probed after `cooldown`, later after twice as long and so on up to
    /// `longest`.
    pub fn new(endpoints: usize, cooldown: Duration, longest: Duration) -> Self {
        Self {
            cooldown,
            longest: longest.max(cooldown),
            endpoints: vec![Fare::default(); endpoints],
        }
    }

    /// All endpoints, best first: healthy ones in order of configuration, then the others, the one closest to its
    /// probe first.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(|endpoint| {
            let fare = self.endpoints.get(*endpoint);
            fare.filter(|fare| fare.failures > 0)
                .map(|fare| fare.probe_at)
        });
        order
    }

    /// An endpoint whose time for a probe has come; one probe at a time. To be answered with
    /// [`Failover::succeeded`] or [`Failover::failed`]. `None` for a lone endpoint: every request is its probe.
    pub fn probe(&mut self, now: Duration) -> Option<usize> {
        if self.endpoints.len() < 2 {
            return None;
        }
        let due = |fare: &Fare| fare.failures > 0 && !fare.probing && fare.probe_at <= now;
        let endpoint = self.endpoints.iter().position(due)?;
        self.endpoints.get_mut(endpoint)?.probing = true;
        Some(endpoint)
    }

    /// A request to `endpoint` was answered as it should be.
    pub fn succeeded(&mut self, endpoint: usize) {
        if let Some(fare) = self.endpoints.get_mut(endpoint) {
            *fare = Fare::default();
        }
    }

    /// A request to `endpoint` failed through the endpoint's fault.
    pub fn failed(&mut self, now: Duration, endpoint: usize, error: &QkdError) {
        let (cooldown, longest) = (self.cooldown, self.longest);
        if let Some(fare) = self.endpoints.get_mut(endpoint) {
            // Many requests that fail together are one failure of the endpoint.
            if fare.failures == 0 || now >= fare.probe_at {
                let factor = 1u32.checked_shl(fare.trips).unwrap_or(u32::MAX);
                fare.probe_at = now.saturating_add(cooldown.saturating_mul(factor).min(longest));
                fare.trips = fare.trips.saturating_add(1).min(31);
            }
            fare.failures = fare.failures.saturating_add(1);
            fare.probing = false;
            fare.error = Some(error.to_string());
        }
    }

    /// The state of all endpoints, given their URLs in order of configuration.
    pub fn health<'a>(
        &self,
        now: Duration,
        urls: impl Iterator<Item = &'a str>,
    ) -> Vec<EndpointHealth> {
        let wait = |fare: &Fare| {
            let wait = fare.probe_at.saturating_sub(now).as_millis();
            u64::try_from(wait).unwrap_or(u64::MAX)
        };
        urls.zip(&self.endpoints)
            .map(|(url, fare)| EndpointHealth {
                url: url.to_owned(),
                healthy: fare.failures == 0,
                failures: fare.failures,
                probe_in_ms: (fare.failures > 0).then(|| wait(fare)),
                error: fare.error.clone(),
            })
            .collect()
    }
}

/// What an operation does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send the request to this endpoint.
    Try(usize),
    /// Nothing until then.
    WaitUntil(Duration),
    /// Report the last error.
    GiveUp,
}

/// One operation from first attempt to success or surrender.
#[derive(Debug)]
pub struct Attempts {
    retry: RetryConfig,
    started: Duration,
    /// Left to try in this round.
    queue: VecDeque<usize>,
    /// To try again in the next round.
    again: VecDeque<usize>,
    /// Rounds that ended with a failure other than "not yet".
    failed_rounds: u32,
    /// Rounds after a failure, and rounds for keys that were not there yet; they set the pause.
    failed_pauses: u32,
    not_yet_pauses: u32,
    not_yet: bool,
    resume: Option<Duration>,
    jitter: u64,
}

impl Attempts {
    /// An operation that started at `started` over the endpoints in `order`. `seed` decides the
    /// jitter of the pauses, so that many clients do not come back at once.
    pub fn new(retry: RetryConfig, started: Duration, order: Vec<usize>, seed: u64) -> Self {
        Self {
            retry,
            started,
            queue: order.into(),
            again: VecDeque::new(),
            failed_rounds: 0,
            failed_pauses: 0,
            not_yet_pauses: 0,
            not_yet: false,
            resume: None,
            jitter: seed,
        }
    }

    /// What to do now. After [`Step::Try`], either the operation succeeded and this is dropped, or
    /// [`Attempts::failed`] is called before the next `next`.
    pub fn next(&mut self, now: Duration) -> Step {
        if self.queue.is_empty() {
            if let Err(step) = self.next_round(now) {
                return step;
            }
        } else if self.failed_pauses + self.not_yet_pauses > 0 && now > self.end() {
            // The first round goes over all endpoints; in later ones nothing starts after the end.
            return Step::GiveUp;
        }
        self.queue.pop_front().map_or(Step::GiveUp, Step::Try)
    }

    /// The attempt at `endpoint` failed.
    pub fn failed(&mut self, endpoint: usize, verdict: Verdict) {
        match verdict {
            Verdict::Final => {
                self.queue.clear();
                self.again.clear();
            }
            Verdict::NextEndpoint => {}
            Verdict::Again => self.again.push_back(endpoint),
            Verdict::NotYet => {
                self.again.push_back(endpoint);
                self.not_yet = true;
            }
        }
    }

    /// Moves to the next round when its time has come; otherwise what to do instead.
    fn next_round(&mut self, now: Duration) -> Result<(), Step> {
        if self.again.is_empty() {
            return Err(Step::GiveUp);
        }
        let resume = match self.resume {
            Some(resume) => resume,
            None => {
                if !self.not_yet {
                    self.failed_rounds += 1;
                    if self.failed_rounds >= self.retry.attempts {
                        return Err(Step::GiveUp);
                    }
                }
                if now >= self.end() {
                    return Err(Step::GiveUp);
                }
                // A last attempt falls on the end itself rather than beyond it.
                let resume = now.saturating_add(self.pause()).min(self.end());
                self.resume = Some(resume);
                resume
            }
        };
        if now < resume {
            return Err(Step::WaitUntil(resume));
        }
        self.resume = None;
        self.not_yet = false;
        self.queue = std::mem::take(&mut self.again);
        Ok(())
    }

    /// When the last attempt may start.
    fn end(&self) -> Duration {
        let time = if self.not_yet {
            self.retry.replication
        } else {
            self.retry.deadline
        };
        self.started.saturating_add(time)
    }

    /// Half to the whole of the exponential pause.
    fn pause(&mut self) -> Duration {
        let (first, pauses) = match self.not_yet {
            true => (self.retry.replication_pause, &mut self.not_yet_pauses),
            false => (self.retry.initial, &mut self.failed_pauses),
        };
        let times = 1u32.checked_shl(*pauses).unwrap_or(u32::MAX);
        *pauses = pauses.saturating_add(1);
        let whole = first.saturating_mul(times).min(self.retry.maximum);
        let half = whole / 2;
        let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(self.random() % span.saturating_add(1).max(1))
    }

    /// SplitMix64: spreads the pauses; no security rests on it.
    fn random(&mut self) -> u64 {
        self.jitter = self.jitter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn retry() -> RetryConfig {
        RetryConfig {
            attempts: 3,
            initial: 100 * MS,
            maximum: 400 * MS,
            deadline: 2000 * MS,
            replication: 1500 * MS,
            replication_pause: 2 * MS,
            cooldown: 1000 * MS,
            longest_cooldown: 4000 * MS,
        }
    }

    /// Runs an operation whose attempts take `cost` each; returns the attempts as (time, endpoint).
    fn run(
        retry: RetryConfig,
        order: Vec<usize>,
        seed: u64,
        cost: Duration,
        mut verdict: impl FnMut(usize) -> Verdict,
    ) -> Vec<(Duration, usize)> {
        let mut now = 10 * MS;
        let mut tried = Vec::new();
        let mut attempts = Attempts::new(retry, now, order, seed);
        loop {
            match attempts.next(now) {
                Step::Try(endpoint) => {
                    tried.push((now - 10 * MS, endpoint));
                    now += cost;
                    attempts.failed(endpoint, verdict(endpoint));
                }
                Step::WaitUntil(until) => {
                    assert!(until > now, "a wait moves time");
                    now = until;
                }
                Step::GiveUp => return tried,
            }
            assert!(tried.len() < 10_000, "an operation ends");
        }
    }

    #[test]
    fn a_final_answer_is_asked_for_once() {
        let tried = run(retry(), vec![0, 1], 0, MS, |_| Verdict::Final);
        assert_eq!(tried, [(Duration::ZERO, 0)]);
    }

    #[test]
    fn all_endpoints_then_a_pause_then_all_again() {
        let tried = run(retry(), vec![1, 0], 7, MS, |_| Verdict::Again);
        let order: Vec<usize> = tried.iter().map(|(_, endpoint)| *endpoint).collect();
        assert_eq!(order, [1, 0, 1, 0, 1, 0], "three rounds");
        let first = tried[2].0 - tried[1].0;
        assert!((50 * MS..=101 * MS).contains(&first), "{first:?}");
        let second = tried[4].0 - tried[3].0;
        assert!((100 * MS..=201 * MS).contains(&second), "{second:?}");
    }

    #[test]
    fn an_endpoint_that_answers_nonsense_is_not_asked_again() {
        let tried = run(retry(), vec![0, 1], 0, MS, |endpoint| {
            if endpoint == 0 {
                Verdict::NextEndpoint
            } else {
                Verdict::Again
            }
        });
        let order: Vec<usize> = tried.iter().map(|(_, endpoint)| *endpoint).collect();
        assert_eq!(order, [0, 1, 1, 1]);
    }

    #[test]
    fn replication_is_waited_for_up_to_its_own_bound() {
        let tried = run(retry(), vec![0], 3, MS, |_| Verdict::NotYet);
        assert!(tried.len() > 3, "more rounds than `attempts`: {tried:?}");
        let last = tried.last().unwrap().0;
        assert_eq!(last, 1500 * MS, "the last attempt is at the bound itself");
        let first = tried[1].0 - tried[0].0;
        assert!(
            (2 * MS..=3 * MS).contains(&first),
            "soon at first: {first:?}"
        );
        assert!(tried.len() < 15, "then ever more rarely: {tried:?}");
    }

    #[test]
    fn failed_endpoints_come_last_until_a_probe_ended_well() {
        let mut failover = Failover::new(3, 1000 * MS, 3000 * MS);
        assert_eq!(failover.order(), [0, 1, 2]);
        failover.failed(100 * MS, 0, &QkdError::Timeout);
        failover.failed(50 * MS, 1, &QkdError::Timeout);
        assert_eq!(failover.order(), [2, 1, 0]);
        assert_eq!(failover.probe(1000 * MS), None, "too early");
        assert_eq!(failover.probe(1060 * MS), Some(1));
        assert_eq!(failover.probe(1070 * MS), None, "one at a time");
        assert_eq!(
            failover.order(),
            [2, 1, 0],
            "nobody waits for what may fail"
        );
        assert_eq!(failover.probe(1200 * MS), Some(0));
        failover.succeeded(0);
        assert_eq!(failover.order(), [0, 2, 1], "the first is preferred again");
        failover.failed(1300 * MS, 1, &QkdError::Timeout);
        let health = failover.health(1400 * MS, ["a", "b", "c"].into_iter());
        assert!(health[0].healthy && health[2].healthy);
        assert_eq!((health[1].healthy, health[1].failures), (false, 2));
        assert_eq!(health[1].probe_in_ms, Some(1900), "twice as long");
        assert!(health[1].error.is_some() && health[0].error.is_none());
    }

    #[test]
    fn probes_become_rare_and_a_success_forgets_all() {
        let mut failover = Failover::new(2, 1000 * MS, 5000 * MS);
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        failover.failed(now, 0, &QkdError::Timeout);
        for _ in 0..5 {
            let from = now;
            while failover.probe(now).is_none() {
                now += 10 * MS;
            }
            waits.push((now - from).as_millis());
            failover.failed(now, 0, &QkdError::Timeout);
        }
        assert_eq!(waits, [1000, 2000, 4000, 5000, 5000]);
        failover.succeeded(0);
        failover.failed(now, 0, &QkdError::Timeout);
        assert_eq!(failover.probe(now + 1000 * MS), Some(0));
    }

    #[test]
    fn requests_that_fail_together_count_once_for_the_wait() {
        let mut failover = Failover::new(2, 1000 * MS, 60_000 * MS);
        for n in 0..20 {
            failover.failed(n * MS, 0, &QkdError::Timeout);
        }
        assert_eq!(failover.probe(1000 * MS), Some(0));
    }

    #[test]
    fn a_lone_endpoint_needs_no_probe() {
        let mut failover = Failover::new(1, 1000 * MS, 1000 * MS);
        failover.failed(Duration::ZERO, 0, &QkdError::Timeout);
        assert_eq!(failover.probe(5000 * MS), None);
        assert_eq!(failover.order(), [0]);
    }

    proptest! {
        /// Whatever fails and however long it takes: bounded attempts, none after the end.
        #[test]
        fn bounded(
            attempts in 0u32..6,
            initial in 0u64..300,
            maximum in 0u64..1000,
            deadline in 0u64..3000,
            replication in 0u64..3000,
            replication_pause in 0u64..50,
            cost in 1u64..400,
            endpoints in 0usize..4,
            seed: u64,
            verdicts in prop::collection::vec(0u8..4, 1..20),
        ) {
            let retry = RetryConfig {
                attempts,
                initial: MS * u32::try_from(initial).unwrap(),
                maximum: MS * u32::try_from(maximum).unwrap(),
                deadline: MS * u32::try_from(deadline).unwrap(),
                replication: MS * u32::try_from(replication).unwrap(),
                replication_pause: MS * u32::try_from(replication_pause).unwrap(),
                cooldown: MS,
                longest_cooldown: MS,
            };
            let mut cycle = verdicts.iter().cycle();
            let mut dead = Vec::new();
            let tried = run(retry, (0..endpoints).collect(), seed, MS * u32::try_from(cost).unwrap(), |endpoint| {
                assert!(!dead.contains(&endpoint), "asked again after NextEndpoint or Final");
                match cycle.next().unwrap() {
                    0 => { dead.extend(0..endpoints); Verdict::Final }
                    1 => Verdict::Again,
                    2 => { dead.push(endpoint); Verdict::NextEndpoint }
                    _ => Verdict::NotYet,
                }
            });
            prop_assert_eq!(tried.is_empty(), endpoints == 0);
            let end = retry.deadline.max(retry.replication);
            // The first round goes over all endpoints whatever the time; later ones do not begin late.
            prop_assert!(tried.iter().skip(endpoints).all(|(at, _)| *at <= end));
        }
    }
}

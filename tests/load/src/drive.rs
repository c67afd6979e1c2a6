//! Kinds of load.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::records::{KeyRate, Rate, Scale};
use bench::stats::{Summary, quantile};
use load::fleet::{Ended, Fleet};
use load::watch::Watch;
use ue_user::core::ue::State;

/// How long a single attach may take before the whole measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Attaches under way while a fleet grows.
const GROWING: usize = 16;
/// Attaches of a window, one at a time, whose time is taken.
pub(crate) const TIMED: usize = 25;
/// Windows at each size.
const WINDOWS: usize = 8;
/// Between two windows: what those who left have left to do is done then.
const SETTLED: Duration = Duration::from_millis(100);

/// Attaches that `per_second` begins within `span`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate and a span, both positive and small"
)]
pub(crate) fn begun(per_second: f64, span: Duration) -> usize {
    (per_second * span.as_secs_f64()).ceil() as usize
}

/// The first attach opens connections to KMEs and core, and says what is wrong if anything is.
pub(crate) async fn warm_up(fleet: &mut Fleet) -> Result<()> {
    fleet.attach(0);
    let ended = one(fleet).await?;
    if let Some(failure) = ended.failure {
        bail!("the first attach failed: {failure}");
    }
    all_detached(fleet).await
}

/// Waits for the end of one attach.
async fn one(fleet: &mut Fleet) -> Result<Ended> {
    let limit = Instant::now() + PATIENCE;
    loop {
        fleet.turn(limit).await?;
        if let Some(ended) = fleet.ended().pop() {
            return Ok(ended);
        }
        ensure!(Instant::now() < limit, "no attach ends");
    }
}

/// Detaches whoever is attached, a few at a time, and waits until all are.
pub(crate) async fn all_detached(fleet: &mut Fleet) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    loop {
        let mut leaving = 0;
        for ue in 0..fleet.len() {
            match fleet.state(ue) {
                State::Detached => {}
                State::Registered if leaving < 64 => {
                    fleet.detach(ue);
                    leaving += 1;
                }
                _ => leaving += 1,
            }
        }
        if leaving == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "{leaving} UEs do not detach");
        fleet
            .turn(Instant::now() + Duration::from_millis(20))
            .await?;
        // Attaches that end now are nobody's.
        drop(fleet.ended());
    }
}

/// What became of attaches.
#[derive(Default)]
struct Tally {
    begun: usize,
    done: Vec<f64>,
    failed: usize,
    why: BTreeMap<String, usize>,
}

impl Tally {
    fn take(&mut self, ended: Ended) {
        match ended.failure {
            None => self.done.push(ended.took.as_secs_f64() * 1000.0),
            Some(failure) => {
                self.failed += 1;
                *self.why.entry(failure).or_default() += 1;
            }
        }
    }

    fn rate(
        mut self,
        at_once: usize,
        offered: Option<f64>,
        run: usize,
        span: Duration,
        cpu: [Duration; 2],
    ) -> Rate {
        for (why, number) in &self.why {
            eprintln!("load: {number} attaches failed: {why}");
        }
        self.done.sort_by(f64::total_cmp);
        let [responder, driver] = cpu;
        Rate {
            work: "attach".to_owned(),
            responder: "n3iwf-user".to_owned(),
            suite: "qkd-native".to_owned(),
            run,
            offered,
            at_once,
            seconds: span.as_secs_f64(),
            begun: self.begun,
            done: self.done.len(),
            failed: self.failed,
            latency_ms: [0.5, 0.95, 0.99].map(|q| quantile(&self.done, q)),
            responder_cpu: responder.as_secs_f64(),
            driver_cpu: driver.as_secs_f64(),
        }
    }
}

/// `at_once` UEs that attach, detach and attach again, for `span`. Detaching is part of the load
/// and of the responder's processor time, and not of the latency.
pub(crate) async fn closed(
    fleet: &mut Fleet,
    watch: Watch,
    at_once: usize,
    span: Duration,
    run: usize,
) -> Result<Rate> {
    let mut tally = Tally::default();
    let cpu = [watch.cpu()?, Watch::own().cpu()?];
    let begun = Instant::now();
    let end = begun + span;
    while Instant::now() < end {
        for ue in 0..at_once.min(fleet.len()) {
            if fleet.state(ue) == State::Detached {
                fleet.attach(ue);
                tally.begun += 1;
            }
        }
        let soon = Instant::now() + Duration::from_millis(2);
        fleet.turn(soon.min(end)).await?;
        for ended in fleet.ended() {
            fleet.detach(ended.ue);
            tally.take(ended);
        }
    }
    let spent = begun.elapsed();
    let cpu = [watch.cpu()? - cpu[0], Watch::own().cpu()? - cpu[1]];
    all_detached(fleet).await?;
    Ok(tally.rate(at_once, None, run, spent, cpu))
}

/// So many attaches begun per second for `span`, whatever becomes of them; those under way at its
/// end have as long again to get through, or have failed.
pub(crate) async fn open(
    fleet: &mut Fleet,
    watch: Watch,
    per_second: f64,
    span: Duration,
) -> Result<Rate> {
    let mut tally = Tally::default();
    let mut most = 0;
    let mut in_span = 0;
    let cpu = [watch.cpu()?, Watch::own().cpu()?];
    let start = Instant::now();
    let all = begun(per_second, span).min(fleet.len());
    let end = start + span * 2;
    while Instant::now() < end && tally.done.len() + tally.failed < all {
        let wanted = begun(per_second, start.elapsed()).min(all);
        while tally.begun < wanted {
            fleet.attach(tally.begun);
            tally.begun += 1;
        }
        most = most.max(tally.begun - tally.done.len() - tally.failed);
        let next = Duration::from_secs_f64(1.0 / per_second).max(Duration::from_millis(1));
        fleet.turn((Instant::now() + next).min(end)).await?;
        for ended in fleet.ended() {
            tally.take(ended);
        }
        if start.elapsed() <= span {
            in_span = tally.done.len();
        }
    }
    let cpu = [watch.cpu()? - cpu[0], Watch::own().cpu()? - cpu[1]];
    tally.failed = tally.begun - tally.done.len();
    // Goodput is what is done while load is offered.
    let mut rate = tally.rate(most, Some(per_second), 0, span, cpu);
    rate.failed = rate.begun - rate.done;
    rate.done = in_span;
    all_detached(fleet).await?;
    Ok(rate)
}

/// Attaches UEs and leaves them attached; at each size, memory, and the time of single attaches in several windows.
/// Those of a window leave after it, and others come in the next, so that all windows see the same size and none is the
/// one that happened to be quiet. `fleet` has [`TIMED`] more than the largest size, `run` is the number of the repetition.
pub(crate) async fn scale(
    fleet: &mut Fleet,
    watch: Watch,
    steps: &[usize],
    run: usize,
    mut write: impl FnMut(Scale) -> Result<()>,
) -> Result<()> {
    warm_up(fleet).await?;
    let memory_before = watch.memory()?;
    let mut growth = Growth::new(fleet);
    for &size in steps {
        let timed = TIMED.min(size / 2);
        // In parallel until close to the size, then one at a time.
        growth.reach(fleet, size - timed).await?;
        for window in 0..WINDOWS {
            if window > 0 {
                growth.leave(fleet, timed).await?;
            }
            let mut times = Vec::new();
            let cpu = watch.cpu()?;
            while growth.attached.len() < size {
                fleet.attach(growth.next()?);
                let ended = one(fleet).await?;
                let took = ended.took.as_secs_f64() * 1000.0;
                growth.count(ended)?;
                times.push(took);
            }
            let cpu = (watch.cpu()? - cpu).as_secs_f64() * 1000.0;
            let number = bench::stats::real(times.len().max(1));
            write(Scale {
                run: run * WINDOWS + window,
                ues: growth.attached.len(),
                failed: std::mem::take(&mut growth.failed),
                memory: watch.memory()?,
                memory_before,
                attach_ms: Summary::of(times.iter().copied()).median,
                n3iwf_cpu_ms: cpu / number,
                attaches: times.len(),
            })?;
        }
    }
    Ok(())
}

/// UEs that attach and stay.
pub(crate) struct Growth {
    waiting: VecDeque<usize>,
    /// Who is there.
    pub(crate) attached: Vec<usize>,
    failed: usize,
}

impl Growth {
    /// Everybody is detached.
    pub(crate) fn new(fleet: &Fleet) -> Self {
        Self {
            waiting: (0..fleet.len()).collect(),
            attached: Vec::new(),
            failed: 0,
        }
    }

    /// Attaches, some in parallel, until so many are there.
    pub(crate) async fn reach(&mut self, fleet: &mut Fleet, size: usize) -> Result<()> {
        let mut under_way = 0;
        while self.attached.len() < size {
            while under_way < GROWING && self.attached.len() + under_way < size {
                fleet.attach(self.next()?);
                under_way += 1;
            }
            fleet.turn(Instant::now() + PATIENCE).await?;
            let ended = fleet.ended();
            ensure!(
                !ended.is_empty(),
                "no attach ends at {} UEs",
                self.attached.len()
            );
            for ended in ended {
                under_way -= 1;
                self.count(ended)?;
            }
        }
        Ok(())
    }

    /// The last so many detach, and wait behind all others.
    async fn leave(&mut self, fleet: &mut Fleet, number: usize) -> Result<()> {
        let from = self.attached.len().saturating_sub(number);
        let leaving = self.attached.split_off(from);
        for &ue in &leaving {
            fleet.detach(ue);
        }
        let limit = Instant::now() + PATIENCE;
        loop {
            // Also once all are gone: the N3IWF is not done with them yet.
            fleet.turn(Instant::now() + SETTLED).await?;
            drop(fleet.ended());
            if leaving.iter().all(|ue| fleet.state(*ue) == State::Detached) {
                break;
            }
            ensure!(Instant::now() < limit, "UEs do not detach");
        }
        self.waiting.extend(leaving);
        Ok(())
    }

    fn next(&mut self) -> Result<usize> {
        self.waiting.pop_front().context("no UE is left to attach")
    }

    /// A UE is attached, or takes its place at the end of the queue.
    fn count(&mut self, ended: Ended) -> Result<()> {
        match ended.failure {
            None => self.attached.push(ended.ue),
            Some(why) => {
                eprintln!("load: UE {}: {why}", ended.ue);
                self.failed += 1;
                ensure!(self.failed <= 100, "too many failures");
                self.waiting.push_back(ended.ue);
            }
        }
        Ok(())
    }
}

/// UEs attach as fast as keys come, for `span` or as long as the keys of a few attaches take to come; one that fails
/// waits a little.
pub(crate) async fn key_rate(
    fleet: &mut Fleet,
    keys_per_second: f64,
    keys_per_attach: usize,
    span: Duration,
) -> Result<KeyRate> {
    const AT_ONCE: usize = 4;
    const LEAST: u32 = 20;
    #[expect(clippy::cast_precision_loss, reason = "a few keys")]
    let one = Duration::from_secs_f64(keys_per_attach as f64 / keys_per_second);
    let span = span.max(one * LEAST);
    let pause = Duration::from_millis(50);
    // What the KMEs have stored is used up first, and the UEs no longer begin all together.
    let end_of_stock = Instant::now() + Duration::from_secs(2);
    let mut begun = None;
    let (mut done, mut failed) = (0, 0);
    let mut why = BTreeMap::<String, usize>::new();
    let mut not_before = vec![Instant::now(); fleet.len()];
    loop {
        let now = Instant::now();
        if begun.is_none() && now >= end_of_stock {
            begun = Some(now);
            (done, failed) = (0, 0);
            why.clear();
        }
        if begun.is_some_and(|begun| now >= begun + span) {
            break;
        }
        for ue in 0..AT_ONCE.min(fleet.len()) {
            let ready = not_before.get(ue).is_none_or(|at| *at <= now);
            if ready && fleet.state(ue) == State::Detached {
                fleet.attach(ue);
            }
        }
        fleet.turn(now + Duration::from_millis(2)).await?;
        for ended in fleet.ended() {
            if let Some(failure) = ended.failure {
                failed += 1;
                *why.entry(failure).or_default() += 1;
                if let Some(at) = not_before.get_mut(ended.ue) {
                    *at = Instant::now() + pause;
                }
            } else {
                done += 1;
                fleet.detach(ended.ue);
            }
        }
    }
    let seconds = begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
    all_detached(fleet).await?;
    Ok(KeyRate {
        keys_per_second,
        keys_per_attach,
        seconds,
        done,
        failed,
        why,
    })
}

//! Where the time of an attach goes: by phase, and within a phase by whom it waited for.
//!
//! Times are given in, as a duration since an origin of the caller's choosing, so that a
//! simulation in virtual time fills timelines as a daemon does.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A phase of an attach, cut as the paper's Table I cuts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Phase {
    /// IKE_SA_INIT.
    Init,
    /// IKE_AUTH with EAP-5G, up to the signalling Child SA.
    Auth,
    /// From there to the first user-plane Child SA.
    Child,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 3] = [Self::Init, Self::Auth, Self::Child];

    /// The name used in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Auth => "AUTH",
            Self::Child => "CHILD",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Init => 0,
            Self::Auth => 1,
            Self::Child => 2,
        }
    }
}

/// Whom a phase waits for while the clock runs and the daemon does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The key management system.
    Kms,
    /// The 5G core.
    Core,
}

/// The times of one phase. What is left of `wall` is the peer, the network and the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// From the beginning of the phase to its end.
    pub wall: Duration,
    /// Processor time of the daemon's own handlers.
    pub own: Duration,
    /// Spent waiting for the KMS.
    pub kms: Duration,
    /// Spent waiting for the core.
    pub core: Duration,
}

/// The timeline of one attach.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    phases: [PhaseTimes; 3],
    current: Option<(Phase, Duration)>,
    waiting_kms: Option<Duration>,
    waiting_core: Option<Duration>,
    /// The phase that has ended since the last [`handled`](Self::handled).
    ended: Option<Phase>,
}

impl Timeline {
    /// A timeline whose phase INIT begins at `now`.
    pub fn begin(now: Duration) -> Self {
        Self {
            current: Some((Phase::Init, now)),
            ..Self::default()
        }
    }

    /// Ends the running phase and begins `phase`; a wait that is still on is split at `now`.
    pub fn enter(&mut self, phase: Phase, now: Duration) {
        let (kms, core) = (self.waiting_kms.is_some(), self.waiting_core.is_some());
        self.end(now);
        self.current = Some((phase, now));
        self.waiting_kms = kms.then_some(now);
        self.waiting_core = core.then_some(now);
    }

    /// Ends the running phase, and with it the timeline until the next [`enter`](Self::enter).
    pub fn end(&mut self, now: Duration) {
        self.done_waiting(Party::Kms, now);
        self.done_waiting(Party::Core, now);
        if let Some((phase, since)) = self.current.take() {
            self.times(phase).wall += now.saturating_sub(since);
            self.ended = Some(phase);
        }
    }

    /// The phase that runs now.
    pub fn phase(&self) -> Option<Phase> {
        self.current.map(|(phase, _)| phase)
    }

    /// Adds handler time to the running phase.
    pub fn add_own(&mut self, spent: Duration) {
        if let Some((phase, _)) = self.current {
            self.times(phase).own += spent;
        }
    }

    /// What a handler took, by the clock and of the processor. Within it, all happens at the time at which it began;
    /// what ended a phase there is done only when the handler is (the secret of a key exchange is computed, and
    /// IKE_SA_INIT over), so the whole handler belongs to that phase.
    pub fn handled(&mut self, took: Duration, spent: Duration) {
        let Some(phase) = self.ended.take() else {
            return self.add_own(spent);
        };
        let times = self.times(phase);
        times.own += spent;
        times.wall += took;
        if let Some((_, since)) = &mut self.current {
            *since += took;
            let since = *since;
            for wait in [&mut self.waiting_kms, &mut self.waiting_core] {
                *wait = wait.map(|begun| begun.max(since));
            }
        }
    }

    /// A wait for `party` begins; one that runs already goes on.
    pub fn wait(&mut self, party: Party, now: Duration) {
        if self.current.is_some() {
            self.waiting(party).get_or_insert(now);
        }
    }

    /// The wait for `party` ends, if there was one.
    pub fn done_waiting(&mut self, party: Party, now: Duration) {
        let Some(since) = self.waiting(party).take() else {
            return;
        };
        let spent = now.saturating_sub(since);
        if let Some((phase, _)) = self.current {
            let times = self.times(phase);
            match party {
                Party::Kms => times.kms += spent,
                Party::Core => times.core += spent,
            }
        }
    }

    /// The times of `phase` so far; a running phase counts once it has ended.
    pub fn of(&self, phase: Phase) -> PhaseTimes {
        self.phases.get(phase.index()).copied().unwrap_or_default()
    }

    /// Rows for a table or for JSON, in order.
    pub fn rows(&self) -> Vec<Row> {
        Phase::ALL
            .into_iter()
            .map(|phase| Row::new(phase, self.of(phase)))
            .collect()
    }

    fn times(&mut self, phase: Phase) -> &mut PhaseTimes {
        let [init, auth, child] = &mut self.phases;
        match phase {
            Phase::Init => init,
            Phase::Auth => auth,
            Phase::Child => child,
        }
    }

    fn waiting(&mut self, party: Party) -> &mut Option<Duration> {
        match party {
            Party::Kms => &mut self.waiting_kms,
            Party::Core => &mut self.waiting_core,
        }
    }
}

/// One phase in microseconds, as control tools print it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which phase.
    pub phase: Phase,
    /// Wall clock, µs.
    pub wall_us: u64,
    /// Own handlers, µs.
    pub own_us: u64,
    /// Waiting for the KMS, µs.
    pub kms_us: u64,
    /// Waiting for the core, µs.
    pub core_us: u64,
}

impl Row {
    fn new(phase: Phase, times: PhaseTimes) -> Self {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            phase,
            wall_us: us(times.wall),
            own_us: us(times.own),
            kms_us: us(times.kms),
            core_us: us(times.core),
        }
    }
}

/// Measures one handler: wall clock, and processor time of the calling thread.
///
/// Only for code that does not await in between: the thread must stay the same.
#[derive(Debug)]
pub struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: thread_time(),
        }
    }

    /// Wall clock since the start.
    pub fn wall(&self) -> Duration {
        self.wall.elapsed()
    }

    /// Processor time of this thread since the start.
    pub fn cpu(&self) -> Duration {
        thread_time().saturating_sub(self.cpu)
    }
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn phases_add_up_and_waits_are_inside_them() {
        let mut timeline = Timeline::begin(ms(100));
        timeline.wait(Party::Kms, ms(101));
        timeline.done_waiting(Party::Kms, ms(106));
        timeline.add_own(ms(2));
        timeline.enter(Phase::Auth, ms(110));
        timeline.wait(Party::Core, ms(111));
        timeline.wait(Party::Core, ms(112));
        timeline.done_waiting(Party::Core, ms(131));
        timeline.enter(Phase::Child, ms(150));
        timeline.end(ms(170));
        assert_eq!(
            timeline.of(Phase::Init),
            PhaseTimes {
                wall: ms(10),
                own: ms(2),
                kms: ms(5),
                core: ms(0)
            }
        );
        assert_eq!(timeline.of(Phase::Auth).core, ms(20));
        assert_eq!(timeline.of(Phase::Auth).wall, ms(40));
        assert_eq!(timeline.rows()[2].wall_us, 20_000);
        assert_eq!(timeline.phase(), None);
    }

    #[test]
    fn a_wait_over_a_border_is_split() {
        let mut timeline = Timeline::begin(ms(0));
        timeline.wait(Party::Core, ms(4));
        timeline.enter(Phase::Auth, ms(10));
        timeline.done_waiting(Party::Core, ms(13));
        timeline.end(ms(20));
        assert_eq!(timeline.of(Phase::Init).core, ms(6));
        assert_eq!(timeline.of(Phase::Auth).core, ms(3));
    }

    #[test]
    fn a_handler_belongs_to_the_phase_that_it_ends() {
        let mut timeline = Timeline::begin(ms(0));
        timeline.handled(ms(3), ms(2));
        // A response comes at 10 and takes 4 to be worked on; the request that it leads to is waited for.
        timeline.enter(Phase::Auth, ms(10));
        timeline.wait(Party::Core, ms(10));
        timeline.handled(ms(4), ms(3));
        timeline.done_waiting(Party::Core, ms(20));
        timeline.handled(ms(1), ms(1));
        timeline.end(ms(30));
        timeline.handled(ms(2), ms(2));
        timeline.handled(ms(9), ms(9));
        let (init, auth) = (timeline.of(Phase::Init), timeline.of(Phase::Auth));
        assert_eq!((init.wall, init.own), (ms(14), ms(5)));
        assert_eq!((auth.wall, auth.own, auth.core), (ms(18), ms(3), ms(6)));
    }

    #[test]
    fn nothing_is_counted_after_the_end() {
        let mut timeline = Timeline::begin(ms(0));
        timeline.end(ms(5));
        timeline.wait(Party::Kms, ms(6));
        timeline.done_waiting(Party::Kms, ms(9));
        timeline.add_own(ms(9));
        timeline.end(ms(10));
        assert_eq!(timeline.of(Phase::Init).wall, ms(5));
        assert_eq!(timeline.of(Phase::Init).kms, ms(0));
        assert_eq!(timeline.of(Phase::Init).own, ms(0));
    }

    #[test]
    fn a_stopwatch_sees_work() {
        let watch = Stopwatch::start();
        let mut sum = 0_u64;
        while watch.wall() < ms(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(watch.cpu() > Duration::ZERO);
        assert!(watch.wall() >= ms(5));
    }
}

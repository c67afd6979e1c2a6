//! Everything together, and the order in which things happen.

use std::{cmp::Reverse, collections::BinaryHeap, fmt, time::Duration};

use ike::{ChildId, Instant, KeyRequestId, Path, QkdFailure, SaId};
use keys::{KeyId, QkdKey, SaeId};
use ue_user::core::ue::Command;

use crate::{
    account::Purposes,
    check,
    core_host::CoreHost,
    kms::Kms,
    n3iwf_host::N3iwfHost,
    nas_tcp::Connections,
    network::{Network, Window},
    plan::{Dice, Fault, Plan},
    plane::EspKeys,
    ue_host::UeHost,
};

/// After the last fault, everybody is attached by then: two rounds of dead-peer detection, one
/// attach that times out, and the longest back-off.
const CONVERGE: Duration = Duration::from_secs(400);
/// After the deregistration nothing is left by then.
const EMPTY: Duration = Duration::from_secs(120);
/// Things that may happen at one instant before time is said to stand still.
const MOST_AT_ONCE: u32 = 200_000;

/// Something that must hold, and did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Violation {}

impl From<anyhow::Error> for Violation {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events handled.
    pub events: u64,
    /// Virtual time.
    pub lasted: Duration,
    /// Attaches that succeeded.
    pub attaches: u64,
    /// Attaches that ended, or never came about.
    pub detaches: u64,
    /// Keys the N3IWF got.
    pub keys: u64,
    /// Of which were lost.
    pub lost: u64,
    /// From the last fault to everybody attached.
    pub converged: Duration,
}

/// Keys on their way back from a KMS.
pub(crate) struct Answer {
    pub(crate) sa: SaId,
    pub(crate) request: KeyRequestId,
    /// Whose other copies they are.
    pub(crate) peer: SaeId,
    pub(crate) keys: Result<Vec<QkdKey>, QkdFailure>,
}

/// `dec_keys`, until it has an answer.
pub(crate) struct Collect {
    pub(crate) sa: SaId,
    pub(crate) request: KeyRequestId,
    pub(crate) master: SaeId,
    pub(crate) ids: Vec<KeyId>,
    pub(crate) until: Instant,
}

/// What is due at some time. `life` numbers the daemon it is meant for: a later one gets nothing.
pub(crate) enum Due {
    ToUe {
        ue: usize,
        path: Path,
        data: Vec<u8>,
    },
    ToN3iwf {
        path: Path,
        data: Vec<u8>,
    },
    Collect {
        ue: usize,
        life: u32,
        collect: Collect,
    },
    UeKeys {
        ue: usize,
        life: u32,
        answer: Answer,
    },
    N3iwfKeys {
        life: u32,
        answer: Answer,
    },
    N3iwfAhead {
        life: u32,
        slave: SaeId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    },
    N3iwfStock {
        life: u32,
        slave: SaeId,
        stored: Option<u64>,
    },
    UeInstalled {
        ue: usize,
        life: u32,
        child: ChildId,
        outcome: Result<(), String>,
    },
    N3iwfInstalled {
        life: u32,
        sa: SaId,
        child: ChildId,
        outcome: Result<(), String>,
    },
    /// Try to move what waits on a NAS connection.
    Nas {
        connection: u64,
    },
    N2 {
        life: u32,
        event: N2Event,
    },
    Command {
        ue: usize,
        command: Command,
    },
    Fault(Fault),
    UeStart {
        ue: usize,
    },
    N3iwfStart,
    CoreStart,
    CoreGoesOn,
}

/// What happens on N2; the number is the association's.
pub(crate) enum N2Event {
    Connect,
    Up(u64),
    Refused,
    Broken(u64),
    ToAmf(u64, Vec<u8>),
    ToN3iwf(u64, Vec<u8>),
}

struct Entry {
    at: Instant,
    order: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One scenario, running.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Instant,
    pub(crate) dice: Dice,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    pub(crate) network: Network,
    pub(crate) kms: Kms,
    pub(crate) kms_slow: Window<Duration>,
    pub(crate) purposes: Purposes,
    pub(crate) esp_keys: EspKeys,
    pub(crate) n3iwf: N3iwfHost,
    pub(crate) core: CoreHost,
    pub(crate) ues: Vec<UeHost>,
    pub(crate) nas: Connections,
    pub(crate) summary: Summary,
}

impl World {
    /// Everybody switched on, nothing said yet.
    ///
    /// # Errors
    /// A part that does not take its configuration.
    pub fn new(plan: Plan) -> Result<Self, Violation> {
        let ues = (0..plan.ues)
            .map(|ue| UeHost::new(ue, plan.seed))
            .collect::<Result<_, _>>()?;
        let mut world = Self {
            now: Instant::ZERO + Duration::from_secs(1),
            dice: Dice::new(plan.seed ^ 0x0077_6f72_6c64),
            queue: BinaryHeap::new(),
            order: 0,
            network: Network::new(&plan),
            kms: Kms::new(&plan),
            kms_slow: Window::default(),
            purposes: Purposes::default(),
            esp_keys: EspKeys::default(),
            n3iwf: N3iwfHost::new(&plan)?,
            core: CoreHost::new(plan.ues, plan.seed)?,
            ues,
            nas: Connections::default(),
            summary: Summary::default(),
            plan,
        };
        let plan = world.plan.clone();
        for (ue, start) in plan.starts.iter().enumerate() {
            let command = Command::Attach;
            world.after(*start, Due::Command { ue, command });
        }
        for (at, fault) in plan.faults {
            world.after(at, Due::Fault(fault));
        }
        world.n3iwf.start(world.now);
        Ok(world)
    }

    /// Runs it: faults, peace, attached; deregistered, empty.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run(mut self) -> Result<Summary, Violation> {
        let healed = self.now + self.plan.healed;
        self.run_until(healed)?;
        self.network.heal();
        // More than once: a command under way may still detach somebody. A deregistration that nobody answers takes
        // 75 s (T3521, five times).
        let mut since = None;
        for round in 0..4 {
            self.bring_back()?;
            if round > 0 && check::attached(&self).is_ok() {
                break;
            }
            for _ in 0..30 {
                match check::attached(&self) {
                    Ok(()) => _ = since.get_or_insert(self.now),
                    Err(_) => since = None,
                }
                self.run_until(self.now + Duration::from_secs(1))?;
            }
        }
        let attached = self.run_to(healed + CONVERGE, check::attached)?;
        self.summary.converged = since.unwrap_or(attached).duration_since(healed);
        for ue in 0..self.ues.len() {
            self.command(ue, Command::Deregister)?;
        }
        self.run_to(self.now + EMPTY, check::empty)?;
        self.summary.lasted = self.now.since_origin();
        self.summary.keys = self.n3iwf.account.all();
        self.summary.lost = self.n3iwf.account.lost();
        Ok(self.summary)
    }

    fn bring_back(&mut self) -> Result<(), Violation> {
        for ue in 0..self.ues.len() {
            if self.ues.get(ue).is_some_and(UeHost::is_idle) {
                self.command(ue, Command::Attach)?;
            }
            // One that an operator released, or that failed, does not come back by itself.
            if self
                .ues
                .get(ue)
                .is_some_and(|host| host.interfaces.is_empty())
            {
                self.command(ue, Command::Establish(1))?;
            }
        }
        Ok(())
    }

    /// Runs until the check holds; its complaint at the deadline is the violation.
    fn run_to(
        &mut self,
        deadline: Instant,
        holds: fn(&World) -> Result<(), Violation>,
    ) -> Result<Instant, Violation> {
        loop {
            match holds(self) {
                Ok(()) => return Ok(self.now),
                Err(violation) if self.now >= deadline => return Err(violation),
                Err(_) => self.run_until(self.now + Duration::from_secs(1))?,
            }
        }
    }

    fn run_until(&mut self, end: Instant) -> Result<(), Violation> {
        let mut at_once = 0;
        self.settle()?;
        loop {
            let queued = self.queue.peek().map(|Reverse(entry)| entry.at);
            let Some(next) = self.next_timer().into_iter().chain(queued).min() else {
                break;
            };
            if next > end {
                break;
            }
            at_once = if next > self.now { 0 } else { at_once + 1 };
            if at_once > MOST_AT_ONCE {
                return Err(Violation::new(format!(
                    "time stands still at {:?}",
                    self.now
                )));
            }
            self.now = self.now.max(next);
            if queued == Some(next) {
                if let Some(Reverse(entry)) = self.queue.pop() {
                    self.handle(entry.due)?;
                }
            } else {
                self.timeouts()?;
            }
            self.summary.events += 1;
            self.settle()?;
            check::always(self)?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    pub(crate) fn after(&mut self, delay: Duration, due: Due) {
        self.at(self.now + delay, due);
    }

    pub(crate) fn at(&mut self, at: Instant, due: Due) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Entry { at, order, due }));
    }

    fn next_timer(&self) -> Option<Instant> {
        self.ues
            .iter()
            .filter_map(UeHost::poll_timeout)
            .chain(self.n3iwf.poll_timeout())
            .chain(self.core.poll_timeout())
            .min()
    }

    fn timeouts(&mut self) -> Result<(), Violation> {
        let now = self.now;
        for ue in &mut self.ues {
            ue.handle_timeout(now);
        }
        self.n3iwf.handle_timeout(now);
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            let actions = self.core.handle_timeout(now);
            self.core_acts(actions)?;
        }
        Ok(())
    }

    /// Does what the parts want, until they want nothing more.
    fn settle(&mut self) -> Result<(), Violation> {
        loop {
            let mut busy = self.settle_n3iwf()?;
            for ue in 0..self.ues.len() {
                busy |= self.settle_ue(ue)?;
            }
            if !busy {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, due: Due) -> Result<(), Violation> {
        let now = self.now;
        match due {
            Due::ToUe { ue, path, data } => {
                if let Some(ue) = self.ue(ue) {
                    ue.handle_datagram(now, path, &data);
                }
            }
            Due::ToN3iwf { path, data } => {
                if let Some(gateway) = self.n3iwf.gateway() {
                    gateway.handle_datagram(now, path, &data);
                }
            }
            Due::Collect { ue, life, collect } => self.ue_collects(ue, life, collect)?,
            Due::UeKeys { ue, life, answer } => self.ue_keys(ue, life, answer)?,
            Due::N3iwfKeys { life, answer } => self.n3iwf_keys(life, answer)?,
            Due::N3iwfAhead { life, slave, keys } => self.n3iwf_ahead(life, &slave, keys)?,
            Due::N3iwfStock {
                life,
                slave,
                stored,
            } => {
                if let Some(gateway) = self.n3iwf.of_life(life) {
                    gateway.stock_told(now, &slave, stored);
                }
            }
            Due::UeInstalled {
                ue,
                life,
                child,
                outcome,
            } => {
                if let Some(ue) = self.ue_of_life(ue, life) {
                    ue.installed(now, child, outcome);
                }
            }
            Due::N3iwfInstalled {
                life,
                sa,
                child,
                outcome,
            } => {
                if let Some(gateway) = self.n3iwf.of_life(life) {
                    gateway.child_installed(now, sa, child, outcome);
                }
            }
            Due::Nas { connection } => self.nas_moves(connection),
            Due::N2 { life, event } => self.n2_event(life, event)?,
            Due::Command { ue, command } => self.command(ue, command)?,
            Due::Fault(fault) => self.fault(fault)?,
            Due::UeStart { ue } => self.ue_starts(ue)?,
            Due::N3iwfStart => self.n3iwf_starts()?,
            Due::CoreStart => self.core_starts()?,
            Due::CoreGoesOn => self.core_goes_on()?,
        }
        Ok(())
    }

    /// What one KMS call takes now.
    pub(crate) fn kms_delay(&self) -> Duration {
        self.kms_slow.at(self.now).unwrap_or(self.plan.kms_delay)
    }
}

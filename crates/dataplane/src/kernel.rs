//! The data plane of the kernel: XFRM, interfaces, eBPF.

mod children;
mod interfaces;
mod leftovers;
mod moving;
mod readings;

use std::{
    collections::BTreeMap,
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::time::timeout_at;

pub(crate) use self::children::info;
use self::{children::Installed, interfaces::Host};
use crate::{
    ChildSaSpec, ClassReading, Config, Dataplane, Error, Notice, SaReading, StartReport,
    StopReport,
    bpf::Accounting,
    link::Links,
    notice::Notices,
    refusals::Refusals,
    xfrm::{PolicyKey, XfrmDb},
};

/// Kernel IPsec with eBPF accounting.
///
/// States and policies of one UE's signalling and first PDU session are on slot 0; each further
/// session has the same selectors and lives on an XFRM interface of its own.
pub struct Xfrm {
    config: Config,
    running: Mutex<Option<Running>>,
}

/// What exists between `start` and `stop`.
struct Running {
    db: XfrmDb,
    links: Links,
    accounting: Option<Accounting>,
    /// What listens for limits that are reached; `None` when none are configured.
    notices: Option<Arc<Notices>>,
    refusals: Option<Refusals>,
    sas: BTreeMap<u64, Installed>,
    /// How many Child SAs share a policy: two while one replaces the other.
    policies: BTreeMap<PolicyKey, usize>,
    /// Interface index of each slot that exists.
    slots: BTreeMap<u32, u32>,
    /// How many Child SAs of a UE need an address and a route.
    hosts: BTreeMap<Host, usize>,
}

/// Runs netlink and BPF calls, letting other tasks of a multi-threaded runtime go on.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The lock; a panic elsewhere leaves counters and maps usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn not_started() -> Error {
    Error::Config("the data plane is not started".into())
}

impl Xfrm {
    /// Nothing is touched before [`Dataplane::start`].
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            config,
            running: Mutex::new(None),
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Config, &mut Running) -> Result<T, Error>,
    ) -> Result<T, Error> {
        blocking(|| match lock(&self.running).as_mut() {
            Some(running) => work(&self.config, running),
            None => Err(not_started()),
        })
    }

    fn try_start(&self) -> Result<(Running, StartReport), Error> {
        let config = &self.config;
        let mut running = Running {
            db: XfrmDb::open()?,
            links: Links::open()?,
            accounting: None,
            notices: None,
            refusals: None,
            sas: BTreeMap::new(),
            policies: BTreeMap::new(),
            slots: BTreeMap::new(),
            hosts: BTreeMap::new(),
        };
        let mut report = StartReport {
            removed: running.remove_leftovers(config)?,
            ..StartReport::default()
        };
        let prepared = running.prepare(config, &mut report);
        if let Err(error) = prepared {
            let (_, left) = running.tear_down(config);
            for line in left {
                tracing::warn!("{line}");
            }
            return Err(error);
        }
        Ok((running, report))
    }
}

impl Running {
    fn prepare(&mut self, config: &Config, report: &mut StartReport) -> Result<(), Error> {
        self.slot(config, 0)?;
        report.interface = Some(config.interface(0));
        if let Some(options) = &config.options.bpf {
            let (accounting, removed) = Accounting::attach(options, config.role)?;
            report.bpf = Some(accounting.attachment().to_string());
            report.removed.extend(removed);
            self.accounting = Some(accounting);
        }
        self.notices = Some(Arc::new(Notices::open()?));
        self.refusals = Refusals::open();
        Ok(())
    }

    /// Removes everything; returns what was removed and what could not be.
    fn tear_down(&mut self, config: &Config) -> (Vec<String>, Vec<String>) {
        let (mut removed, mut left) = (Vec::new(), Vec::new());
        for id in self.sas.keys().copied().collect::<Vec<_>>() {
            match self.remove(id) {
                Ok(_) => removed.push(format!("Child SA {id}")),
                Err(e) => left.push(format!("Child SA {id}: {e}")),
            }
        }
        match self.remove_leftovers(config) {
            Ok(lines) => removed.extend(lines),
            Err(e) => left.push(e.to_string()),
        }
        self.slots.clear();
        if let Some(accounting) = self.accounting.take() {
            let (gone, stuck) = accounting.detach();
            removed.extend(gone);
            left.extend(stuck);
        }
        (removed, left)
    }
}

#[async_trait]
impl Dataplane for Xfrm {
    async fn start(&self) -> Result<StartReport, Error> {
        blocking(|| {
            let mut running = lock(&self.running);
            if running.is_some() {
                return Err(Error::Config("the data plane is started already".into()));
            }
            let (state, report) = self.try_start()?;
            *running = Some(state);
            Ok(report)
        })
    }

    async fn install(&self, sa: ChildSaSpec) -> Result<(), Error> {
        self.with(|config, running| running.install(config, sa, true))
    }

    async fn install_inbound(&self, sa: ChildSaSpec) -> Result<(), Error> {
        self.with(|config, running| running.install(config, sa, false))
    }

    async fn switch(&self, id: u64) -> Result<(), Error> {
        self.with(|config, running| running.switch(config, id))
    }

    async fn relocate(
        &self,
        id: u64,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> Result<(), Error> {
        self.with(|_, running| running.relocate(id, local, remote, udp_encap))
    }

    async fn notice(&self) -> Notice {
        loop {
            let (notices, due) = match lock(&self.running).as_ref() {
                Some(running) => (
                    running.notices.clone(),
                    running.refusals.as_ref().map(Refusals::due),
                ),
                None => (None, None),
            };
            let Some(notices) = notices else {
                return pending().await;
            };
            let next = match due {
                Some(due) => timeout_at(due.into(), notices.next()).await,
                None => Ok(notices.next().await),
            };
            let Ok(next) = next else {
                let mut running = lock(&self.running);
                if let Some(refusals) = running.as_mut().and_then(|r| r.refusals.as_mut()) {
                    refusals.look();
                }
                continue;
            };
            let (state, notice) = match next {
                Ok(next) => next,
                Err(error) => {
                    // Too many at once (ENOBUFS). A mapping comes again with the next packet, an expiry
                    // does not.
                    tracing::warn!(%error, "notices of ESP states were lost");
                    match self.with(|config, running| running.past_limits(config)) {
                        Ok(past) => notices.add(past),
                        Err(error) => tracing::warn!(%error, "limits of ESP states"),
                    }
                    continue;
                }
            };
            let id = lock(&self.running).as_ref().and_then(|running| {
                let mut sas = running.sas.iter();
                sas.find(|(_, sa)| sa.inbound == state || sa.outbound == state)
                    .map(|(id, _)| *id)
            });
            if let Some(id) = id {
                return notice.of(id);
            }
        }
    }

    async fn remove(&self, id: u64) -> Result<Option<SaReading>, Error> {
        self.with(|_, running| running.remove(id))
    }

    async fn readings(&self) -> Result<Vec<SaReading>, Error> {
        self.with(|_, running| running.readings())
    }

    async fn classes(&self) -> Result<Option<ClassReading>, Error> {
        self.with(|_, running| {
            running
                .accounting
                .as_ref()
                .map(Accounting::classes)
                .transpose()
        })
    }

    async fn stop(&self) -> Result<StopReport, Error> {
        blocking(|| {
            let Some(mut running) = lock(&self.running).take() else {
                return Ok(StopReport::default());
            };
            let child_sas = running.sas.len();
            let (removed, left) = running.tear_down(&self.config);
            Ok(StopReport {
                child_sas,
                removed,
                left,
            })
        })
    }
}

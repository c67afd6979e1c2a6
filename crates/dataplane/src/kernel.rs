//! The data plane of the kernel: XFRM, interfaces, eBPF.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use ebpf_common::{PLANE_CONTROL, PLANE_USER, SaInfo};
use ipnet::IpNet;

use crate::{
    ChildSaSpec, ClassReading, Config, Dataplane, Error, Plane, Refused, Role, SaReading,
    StartReport, StopReport, Suite, Traffic,
    bpf::{Accounting, SaKeys},
    link::{Link, Links, Route, host_prefix, sysctl},
    spec::MAX_REQID,
    sys::disable_merging,
    xfrm::{Direction, Place, PolicyKey, StateCounters, StateId, XfrmDb},
};

/// Metric of the route of slot k is this plus k: slot 0 carries what is not bound to an interface.
const SLOT_METRIC: u32 = 1000;
/// Up to here, counters are read state by state; above, all at once.
const SINGLE_READS: usize = 32;

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
    sas: BTreeMap<u64, Installed>,
    /// How many Child SAs share a policy: two while one replaces the other.
    policies: BTreeMap<PolicyKey, usize>,
    /// Interface index of each slot that exists.
    slots: BTreeMap<u32, u32>,
    /// How many Child SAs of a UE need an address and a route.
    hosts: BTreeMap<Host, usize>,
}

/// An inner address pair of a UE on one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    slot: u32,
    local: IpAddr,
    remote: IpAddr,
}

/// What is remembered of a Child SA: everything but its keys.
struct Installed {
    plane: Plane,
    ue: u32,
    pdu_session: Option<u8>,
    spi_in: u32,
    spi_out: u32,
    place: Place,
    inbound: StateId,
    outbound: StateId,
    policies: Vec<PolicyKey>,
    host: Option<Host>,
    keys: SaKeys,
}

/// A step of `install` that was done.
enum Step {
    Accounting(SaKeys),
    State(StateId),
    Policy(PolicyKey),
    Host(Host),
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
            let (accounting, removed) = Accounting::attach(options)?;
            report.bpf = Some(accounting.attachment().to_string());
            report.removed.extend(removed);
            self.accounting = Some(accounting);
        }
        Ok(())
    }

    /// The interface of a slot, made when it is first needed.
    fn slot(&mut self, config: &Config, slot: u32) -> Result<u32, Error> {
        if let Some(index) = self.slots.get(&slot) {
            return Ok(*index);
        }
        let name = config.interface(slot);
        let index = self.links.create_xfrm(
            &name,
            config.interface_id + slot,
            config.options.mtu,
            &config.owner,
        )?;
        // From here on `tear_down` removes it.
        self.slots.insert(slot, index);
        // Replies may leave by another slot's interface than requests came in by.
        sysctl(&format!("ipv4/conf/{name}/rp_filter"), "2")?;
        // No router solicitations into the tunnel; an IPv6 inner address needs no link-local one.
        sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
        sysctl(&format!("ipv6/conf/{name}/router_solicitations"), "0")?;
        // GRO would hand merged packets to the relay's raw sockets; a GSO super-packet would count
        // as one packet in the kernel's SA when ESP is offloaded.
        disable_merging(&name)?;
        self.links.set_up(index)?;
        if let (Role::N3iwf, Some(address), Some(range)) =
            (config.role, config.inner_address, config.inner_range)
        {
            if slot == 0 {
                self.links.add_address(index, address)?;
            }
            self.links.add_route(&Route {
                destination: range.trunc(),
                via: None,
                link: index,
                source: Some(address),
                metric: metric(slot),
            })?;
        }
        Ok(index)
    }

    fn install(&mut self, config: &Config, sa: &ChildSaSpec) -> Result<(), Error> {
        sa.check(config.options.slots)
            .map_err(|source| Error::Spec { id: sa.id, source })?;
        if self.sas.contains_key(&sa.id) {
            return Err(Error::Exists(sa.id));
        }
        let place = Place {
            if_id: config.interface_id + sa.slot,
            reqid: config.options.reqid_base + sa.reqid,
        };
        let mut done = Vec::new();
        match self.try_install(config, sa, place, &mut done) {
            Ok(installed) => {
                self.sas.insert(sa.id, installed);
                Ok(())
            }
            Err(error) => {
                for step in done.into_iter().rev() {
                    if let Err(e) = self.undo(step) {
                        tracing::warn!(child_sa = sa.id, error = %e, "undoing a failed install");
                    }
                }
                Err(error)
            }
        }
    }

    fn try_install(
        &mut self,
        config: &Config,
        sa: &ChildSaSpec,
        place: Place,
        done: &mut Vec<Step>,
    ) -> Result<Installed, Error> {
        self.slot(config, sa.slot)?;
        let host = (config.role == Role::Ue).then_some(Host {
            slot: sa.slot,
            local: sa.inner_local,
            remote: sa.inner_remote,
        });
        if let Some(host) = host {
            self.add_host(host)?;
            done.push(Step::Host(host));
        }
        let keys = SaKeys::new(sa.spi_in, sa.spi_out, sa.remote);
        if let Some(accounting) = &mut self.accounting {
            accounting.add(&keys, info(sa, place.reqid))?;
            done.push(Step::Accounting(keys));
        }
        let (inbound, outbound) = (StateId::inbound(sa), StateId::outbound(sa));
        for (id, direction) in [(inbound, Direction::In), (outbound, Direction::Out)] {
            self.db.add_state(sa, place, direction)?;
            done.push(Step::State(id));
            self.db.check_state(sa, place, direction)?;
        }
        let mut policies = Vec::with_capacity(3);
        // Outbound last: no packet leaves before the answer to it can come in.
        for direction in [Direction::In, Direction::Forward, Direction::Out] {
            let key = PolicyKey::new(sa, place, direction);
            let shared = self.policies.get(&key).copied().unwrap_or(0);
            if shared == 0 {
                self.db.add_policy(sa, place, direction)?;
            }
            self.policies.insert(key.clone(), shared + 1);
            done.push(Step::Policy(key.clone()));
            self.db.check_policy(sa, place, direction)?;
            policies.push(key);
        }
        Ok(Installed {
            plane: sa.plane,
            ue: sa.ue,
            pdu_session: sa.pdu_session,
            spi_in: sa.spi_in,
            spi_out: sa.spi_out,
            place,
            inbound,
            outbound,
            policies,
            host,
            keys,
        })
    }

    fn undo(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Accounting(keys) => {
                if let Some(accounting) = &mut self.accounting {
                    accounting.remove(&keys);
                }
                Ok(())
            }
            Step::State(id) => self.db.delete_state(id).map(drop),
            Step::Policy(key) => self.release_policy(&key),
            Step::Host(host) => self.release_host(host),
        }
    }

    fn release_policy(&mut self, key: &PolicyKey) -> Result<(), Error> {
        match self.policies.get_mut(key) {
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            _ => {
                self.policies.remove(key);
                self.db.delete_policy(key).map(drop)
            }
        }
    }

    /// The UE's inner address on slot 0 and a route to the N3IWF's inner address.
    fn add_host(&mut self, host: Host) -> Result<(), Error> {
        let count = self.hosts.get(&host).copied().unwrap_or(0);
        if count == 0 {
            let Some(&index) = self.slots.get(&host.slot) else {
                return Err(not_started());
            };
            let base = self.slots.get(&0).copied().unwrap_or(index);
            let fresh = !self.hosts.keys().any(|other| other.local == host.local);
            if fresh {
                self.links.add_address(base, host.local)?;
            }
            if let Err(error) = self.links.add_route(&host.route(index)) {
                if fresh {
                    let _ = self.links.delete_address(base, host.local);
                }
                return Err(error);
            }
        }
        self.hosts.insert(host, count + 1);
        Ok(())
    }

    fn release_host(&mut self, host: Host) -> Result<(), Error> {
        match self.hosts.get_mut(&host) {
            Some(count) if *count > 1 => {
                *count -= 1;
                return Ok(());
            }
            _ => self.hosts.remove(&host),
        };
        let index = self.slots.get(&host.slot).copied().unwrap_or(0);
        let mut result = self.links.delete_route(&host.route(index));
        if !self.hosts.keys().any(|other| other.local == host.local)
            && let Some(&base) = self.slots.get(&0)
        {
            result = result.and(self.links.delete_address(base, host.local));
        }
        result
    }

    /// Takes a Child SA away and reads its counters while it still has them.
    fn remove(&mut self, id: u64) -> Result<Option<SaReading>, Error> {
        let Some(installed) = self.sas.remove(&id) else {
            return Ok(None);
        };
        let mut first_error = None;
        let mut note = |result: Result<(), Error>| {
            if let Err(e) = result {
                tracing::warn!(child_sa = id, error = %e, "removing a Child SA");
                first_error.get_or_insert(e);
            }
        };
        // Outbound policy first: nothing new enters the tunnel while it is taken down.
        for key in installed.policies.iter().rev() {
            note(self.release_policy(key));
        }
        let reading = self
            .state_counters(&[&installed])
            .and_then(|counters| self.reading(id, &installed, &counters));
        for state in [installed.outbound, installed.inbound] {
            note(self.db.delete_state(state).map(drop));
        }
        if let Some(accounting) = &mut self.accounting {
            accounting.remove(&installed.keys);
        }
        if let Some(host) = installed.host {
            note(self.release_host(host));
        }
        match first_error {
            Some(error) => Err(error),
            None => reading.map(Some),
        }
    }

    fn state_counters(
        &mut self,
        sas: &[&Installed],
    ) -> Result<BTreeMap<StateId, StateCounters>, Error> {
        let mut found = BTreeMap::new();
        if sas.len() > SINGLE_READS {
            for state in self.db.states()? {
                if let Some(id) = state.id {
                    found.insert(id, state);
                }
            }
            return Ok(found);
        }
        for id in sas.iter().flat_map(|sa| [sa.inbound, sa.outbound]) {
            if let Some(state) = self.db.state(id)? {
                found.insert(id, state);
            }
        }
        Ok(found)
    }

    fn reading(
        &self,
        id: u64,
        sa: &Installed,
        states: &BTreeMap<StateId, StateCounters>,
    ) -> Result<SaReading, Error> {
        let inbound = states.get(&sa.inbound);
        let outbound = states.get(&sa.outbound);
        let traffic =
            |state: Option<&StateCounters>| state.map_or(Traffic::default(), |state| state.traffic);
        let counters = match &self.accounting {
            Some(accounting) => Some(accounting.counters(&sa.keys)?),
            None => None,
        };
        Ok(SaReading {
            id,
            plane: sa.plane,
            ue: sa.ue,
            pdu_session: sa.pdu_session,
            spi_in: sa.spi_in,
            spi_out: sa.spi_out,
            if_id: sa.place.if_id,
            reqid: sa.place.reqid,
            in_kernel: inbound.is_some() && outbound.is_some(),
            kernel_in: traffic(inbound),
            kernel_out: traffic(outbound),
            refused: inbound.map_or(Refused::default(), |state| state.refused),
            ebpf_in: counters.map(|counters| counters.inbound),
            ebpf_out: counters.map(|counters| counters.outbound),
        })
    }

    fn readings(&mut self) -> Result<Vec<SaReading>, Error> {
        let sas = std::mem::take(&mut self.sas);
        let result = self
            .state_counters(&sas.values().collect::<Vec<_>>())
            .and_then(|states| {
                sas.iter()
                    .map(|(id, sa)| self.reading(*id, sa, &states))
                    .collect()
            });
        self.sas = sas;
        result
    }

    /// Removes policies, states and interfaces that carry the marks of this daemon.
    fn remove_leftovers(&mut self, config: &Config) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for (key, reqid) in self.db.policies()? {
            if config.owns(key.if_id, reqid) && self.db.delete_policy(&key)? {
                removed.push(format!(
                    "IPsec policy {} -> {} if_id {}",
                    key.source, key.destination, key.if_id
                ));
            }
        }
        for state in self.db.states()? {
            if let (Some(id), Some(place)) = (state.id, state.place)
                && config.owns(place.if_id, place.reqid)
                && self.db.delete_state(id)?
            {
                removed.push(format!("{id} if_id {}", place.if_id));
            }
        }
        for link in self.links.list()? {
            if config.owns_link(&link)? {
                self.links.delete(&link)?;
                removed.push(format!("interface {}", link.name));
            }
        }
        Ok(removed)
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

impl Host {
    fn route(self, link: u32) -> Route {
        Route {
            // A host prefix of either IP version is always valid.
            destination: IpNet::new_assert(self.remote, host_prefix(self.remote)),
            via: None,
            link,
            source: Some(self.local),
            metric: metric(self.slot),
        }
    }
}

const fn metric(slot: u32) -> u32 {
    if slot == 0 { 0 } else { SLOT_METRIC + slot }
}

pub(crate) fn info(sa: &ChildSaSpec, reqid: u32) -> SaInfo {
    let suite = Suite {
        encr: sa.encr,
        integ: sa.integ,
    };
    let octets = |len| u32::try_from(len).unwrap_or(0);
    SaInfo {
        plane: match sa.plane {
            Plane::Control => PLANE_CONTROL,
            Plane::User => PLANE_USER,
        },
        ue: sa.ue,
        pdu_session: sa.pdu_session.unwrap_or(0).into(),
        reqid,
        iv_len: octets(suite.iv()),
        icv_len: octets(suite.icv()),
        block_len: octets(suite.block()),
    }
}

impl Config {
    /// Whether a state or policy is one of this daemon's, of this run or an earlier one.
    fn owns(&self, if_id: u32, reqid: u32) -> bool {
        let within = |value: u32, first: u32, count: u32| value >= first && value - first < count;
        within(if_id, self.interface_id, self.options.slots)
            && within(reqid, self.options.reqid_base, MAX_REQID)
    }

    /// Whether an interface is this daemon's; an error when someone else has our name or ID.
    fn owns_link(&self, link: &Link) -> Result<bool, Error> {
        let Some(if_id) = link.if_id else {
            return if link.name == self.interface_name {
                Err(Error::Foreign(format!("interface {}", link.name)))
            } else {
                Ok(false)
            };
        };
        if link.alias.as_deref() == Some(&self.owner) {
            return Ok(true);
        }
        let slot = if_id
            .checked_sub(self.interface_id)
            .filter(|slot| *slot < self.options.slots);
        match slot {
            // Made, but killed before it was marked: our name, our ID, and never set up.
            Some(slot) if link.alias.is_none() && !link.up && link.name == self.interface(slot) => {
                Ok(true)
            }
            Some(_) => Err(Error::Foreign(format!(
                "XFRM interface {} with if_id {if_id}",
                link.name
            ))),
            None if link.name == self.interface_name => {
                Err(Error::Foreign(format!("interface {}", link.name)))
            }
            None => Ok(false),
        }
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
        self.with(|config, running| running.install(config, &sa))
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

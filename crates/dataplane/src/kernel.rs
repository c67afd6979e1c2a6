//! The data plane of the kernel: XFRM, interfaces, eBPF.

mod leftovers;
mod moving;

use std::{
    collections::BTreeMap,
    future::pending,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use ebpf_common::{PLANE_CONTROL, PLANE_USER, SaInfo};
use ipnet::IpNet;

use crate::{
    ChildSaSpec, ClassReading, Config, Dataplane, Error, Notice, Plane, Refused, Role, SaReading,
    StartReport, StopReport, Suite, Traffic,
    bpf::{Accounting, SaKeys},
    link::{Links, Route, host_prefix, sysctl},
    notice::{Notices, StateNotice},
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
    /// What listens for limits that are reached; `None` when none are configured.
    notices: Option<Arc<Notices>>,
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
    /// The outbound state, with its key, until [`Dataplane::switch`].
    held: Option<Box<ChildSaSpec>>,
    /// Our outer address and the peer's, with the ports of ESP in UDP.
    outer: (SocketAddr, SocketAddr),
    udp_encap: bool,
    /// What was counted before the states moved: they begin anew then.
    carried: Carried,
    info: SaInfo,
}

/// Counters of states that are no more.
#[derive(Clone, Copy, Default)]
struct Carried {
    inbound: Traffic,
    outbound: Traffic,
    refused: Refused,
    /// Of the eBPF entry of another remote address.
    ebpf_out: Traffic,
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
            notices: None,
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
        self.notices = Some(Arc::new(Notices::open()?));
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
        let furnished = self.furnish(config, slot, index, &name);
        if furnished.is_err() {
            // Half of one would be taken for a whole one next time.
            self.slots.remove(&slot);
            self.links.remove(&name)?;
        }
        furnished.map(|()| index)
    }

    /// What an interface needs to carry packets.
    fn furnish(&mut self, config: &Config, slot: u32, index: u32, name: &str) -> Result<(), Error> {
        // Replies may leave by another slot's interface than requests came in by.
        sysctl(&format!("ipv4/conf/{name}/rp_filter"), "2")?;
        // No router solicitations into the tunnel; an IPv6 inner address needs no link-local one.
        sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
        sysctl(&format!("ipv6/conf/{name}/router_solicitations"), "0")?;
        // GRO would hand merged packets to the relay's raw sockets; a GSO super-packet would count
        // as one packet in the kernel's SA when ESP is offloaded.
        disable_merging(name)?;
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
        Ok(())
    }

    fn install(&mut self, config: &Config, sa: ChildSaSpec, both: bool) -> Result<(), Error> {
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
        match self.try_install(config, &sa, place, both, &mut done) {
            Ok(mut installed) => {
                let id = sa.id;
                installed.held = (!both).then(|| Box::new(sa));
                self.sas.insert(id, installed);
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
        both: bool,
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
        let limits = &config.options.limits;
        let states = [(inbound, Direction::In), (outbound, Direction::Out)];
        for (id, direction) in states.into_iter().take(if both { 2 } else { 1 }) {
            let added = self.db.add_state(sa, place, direction, limits);
            if added.as_ref().err().is_none_or(Error::is_in_doubt) {
                done.push(Step::State(id));
            }
            added?;
            self.db.check_state(sa, place, direction, limits)?;
        }
        let mut policies = Vec::with_capacity(3);
        // Outbound last: no packet leaves before the answer to it can come in.
        for direction in [Direction::In, Direction::Forward, Direction::Out] {
            let key = PolicyKey::new(sa, place, direction);
            let shared = self.policies.get(&key).copied().unwrap_or(0);
            if shared == 0 {
                let added = self.db.add_policy(sa, place, direction);
                if added.as_ref().is_err_and(Error::is_in_doubt)
                    && let Err(error) = self.db.delete_policy(&key)
                {
                    tracing::warn!(child_sa = sa.id, %error, "a policy in doubt");
                }
                added?;
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
            held: None,
            outer: (sa.local, sa.remote),
            udp_encap: sa.udp_encap,
            carried: Carried::default(),
            info: info(sa, place.reqid),
        })
    }

    /// Adds the outbound state that was held back. The kernel takes the newest state of a reqid, so
    /// what it replaces carries nothing more.
    fn switch(&mut self, config: &Config, id: u64) -> Result<(), Error> {
        let Some(installed) = self.sas.get_mut(&id) else {
            return Err(Error::Config(format!("there is no Child SA {id}")));
        };
        let Some(sa) = installed.held.take() else {
            return Ok(());
        };
        let (place, state) = (installed.place, installed.outbound);
        let mut switched = self.add_outbound(config, &sa, place, state);
        if switched.is_err() {
            // Without it the UE is cut off once the old one goes, and nobody asks a second time.
            switched = self.add_outbound(config, &sa, place, state);
        }
        if switched.is_err()
            && let Some(installed) = self.sas.get_mut(&id)
        {
            installed.held = Some(sa);
        }
        switched
    }

    /// The outbound state, or none of it.
    fn add_outbound(
        &mut self,
        config: &Config,
        sa: &ChildSaSpec,
        place: Place,
        state: StateId,
    ) -> Result<(), Error> {
        let limits = &config.options.limits;
        let added = self.db.add_state(sa, place, Direction::Out, limits);
        let made = added.as_ref().err().is_none_or(Error::is_in_doubt);
        let whole = added.and_then(|()| self.db.check_state(sa, place, Direction::Out, limits));
        if whole.is_err() && made {
            self.db.delete_state(state)?;
        }
        whole
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
            if fresh && let Err(error) = self.links.add_address(base, host.local) {
                if error.is_in_doubt() {
                    let _ = self.links.delete_address(base, host.local);
                }
                return Err(error);
            }
            let route = host.route(index);
            if let Err(error) = self.links.add_route(&route) {
                if error.is_in_doubt() {
                    let _ = self.links.delete_route(&route);
                }
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
            in_kernel: inbound.is_some() && (outbound.is_some() || sa.held.is_some()),
            kernel_in: traffic(inbound) + sa.carried.inbound,
            kernel_out: traffic(outbound) + sa.carried.outbound,
            refused: inbound.map_or(Refused::default(), |state| state.refused) + sa.carried.refused,
            ebpf_in: counters.map(|counters| counters.inbound),
            ebpf_out: counters.map(|counters| counters.outbound + sa.carried.ebpf_out),
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

    /// What the kernel has told or would tell of limits, from its counters: for when it could not tell.
    fn past_limits(&mut self, config: &Config) -> Result<Vec<(StateId, StateNotice)>, Error> {
        let limits = &config.options.limits;
        if !limits.any() {
            return Ok(Vec::new());
        }
        let counters: BTreeMap<StateId, Traffic> = self
            .db
            .states()?
            .into_iter()
            .filter_map(|state| Some((state.id?, state.traffic)))
            .collect();
        let mut past = Vec::new();
        for sa in self.sas.values() {
            let outbound = sa.held.is_none().then_some(sa.outbound);
            for state in [Some(sa.inbound), outbound].into_iter().flatten() {
                // A state that is gone has reached a hard limit: nobody else takes it away.
                let hard = match counters.get(&state) {
                    None => true,
                    Some(traffic) if limits.are_reached(*traffic, sa.spi_in) => false,
                    Some(_) => continue,
                };
                past.push((state, StateNotice::Expired { hard }));
            }
        }
        Ok(past)
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
            let notices = lock(&self.running)
                .as_ref()
                .and_then(|running| running.notices.clone());
            let Some(notices) = notices else {
                return pending().await;
            };
            let (state, notice) = match notices.next().await {
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

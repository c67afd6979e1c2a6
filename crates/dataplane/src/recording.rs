//! A data plane without IPsec, for hosts whose kernel has no ESP.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    ChildSaSpec, ClassReading, Config, Dataplane, EncrAlg, Error, IntegAlg, Notice, Plane, Role,
    SaReading, StartReport, StopReport,
    bpf::{Accounting, SaKeys},
    kernel::{blocking, info, lock, not_started},
    link::{Links, Maker, Route, host_prefix},
};

/// Said at every start.
const WARNING: &str = "the recording data plane does not encrypt: NAS and user traffic cross NWu \
                       in clear; it is for tests on hosts without ESP only";

/// Records every operation as a JSON line and routes inner addresses in clear.
///
/// Inner addresses are put on `lo`, and a route leads to the peer's inner address over its outer
/// address, so that NAS over TCP and GRE find their way as they would through the tunnel. With
/// `bpf` configured, NWu is accounted as usual; there is just no ESP to be seen.
///
/// Addresses and routes carry protocol number 79 and are removed by number: run one such data plane
/// per network namespace.
pub struct Recording {
    config: Config,
    running: Mutex<Option<Running>>,
}

struct Running {
    links: Links,
    accounting: Option<Accounting>,
    loopback: u32,
    file: Option<File>,
    /// Lines in a row that could not be written.
    unrecorded: u64,
    sas: BTreeMap<u64, Recorded>,
    /// How many Child SAs need an address or a route.
    addresses: BTreeMap<IpAddr, usize>,
    routes: BTreeMap<(IpAddr, IpAddr), usize>,
}

/// What is remembered of a Child SA.
struct Recorded {
    reading: SaReading,
    keys: SaKeys,
    inner_local: IpAddr,
    inner_remote: IpAddr,
    outer_remote: IpAddr,
}

/// One line of the record.
#[derive(Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970.
    time_ms: u128,
    #[serde(flatten)]
    operation: Operation<'a>,
}

#[derive(Serialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
enum Operation<'a> {
    Start {
        owner: &'a str,
        role: Role,
    },
    Install(SaLine),
    InstallInbound(SaLine),
    Switch {
        id: u64,
    },
    Relocate {
        id: u64,
        local: String,
        remote: String,
        udp_encap: bool,
    },
    Remove {
        id: u64,
    },
    Stop {
        child_sas: usize,
    },
}

/// A Child SA without its keys; of them, only the lengths.
#[derive(Serialize)]
struct SaLine {
    id: u64,
    plane: Plane,
    ue: u32,
    pdu_session: Option<u8>,
    spi_in: String,
    spi_out: String,
    encr: EncrAlg,
    encr_key_bits: usize,
    integ: Option<IntegAlg>,
    esn: bool,
    replay_window: u32,
    local: String,
    remote: String,
    udp_encap: bool,
    inner_local: IpAddr,
    inner_remote: IpAddr,
    protocol: Option<u8>,
    slot: u32,
    reqid: u32,
}

impl SaLine {
    fn new(sa: &ChildSaSpec) -> Self {
        Self {
            id: sa.id,
            plane: sa.plane,
            ue: sa.ue,
            pdu_session: sa.pdu_session,
            spi_in: format!("{:08x}", sa.spi_in),
            spi_out: format!("{:08x}", sa.spi_out),
            encr: sa.encr,
            encr_key_bits: sa.keys_out.encr.len() * 8,
            integ: sa.integ,
            esn: sa.esn,
            replay_window: sa.replay_window,
            local: sa.local.to_string(),
            remote: sa.remote.to_string(),
            udp_encap: sa.udp_encap,
            inner_local: sa.inner_local,
            inner_remote: sa.inner_remote,
            protocol: sa.protocol,
            slot: sa.slot,
            reqid: sa.reqid,
        }
    }
}

impl Recording {
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
        let mut links = Links::open()?;
        let loopback = links.index("lo")?;
        let file = match &config.options.record_file {
            Some(path) => Some(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|e| Error::io(format!("open {}", path.display()), e))?,
            ),
            None => None,
        };
        let mut running = Running {
            links,
            accounting: None,
            loopback,
            file,
            unrecorded: 0,
            sas: BTreeMap::new(),
            addresses: BTreeMap::new(),
            routes: BTreeMap::new(),
        };
        let mut report = StartReport {
            removed: running.remove_leftovers()?,
            warnings: vec![WARNING.to_owned()],
            ..StartReport::default()
        };
        tracing::warn!("{WARNING}");
        if let Err(error) = running.prepare(config, &mut report) {
            let (_, left) = running.tear_down();
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
        self.links.set_up(self.loopback)?;
        if let Some(address) = config.inner_address {
            self.add_address(address)?;
        }
        if let Some(options) = &config.options.bpf {
            let (accounting, removed) = Accounting::attach(options, config.role)?;
            report.bpf = Some(accounting.attachment().to_string());
            report.removed.extend(removed);
            self.accounting = Some(accounting);
        }
        self.record(Operation::Start {
            owner: &config.owner,
            role: config.role,
        });
        Ok(())
    }

    /// A record that cannot be written, as on a full disk, costs this line and nothing else.
    fn record(&mut self, operation: Operation<'_>) {
        let Some(file) = &mut self.file else {
            return;
        };
        let time_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let whole = file.metadata().map(|metadata| metadata.len());
        let written = serde_json::to_vec(&Line { time_ms, operation })
            .map_err(std::io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                // One write per line, so that a reader never sees half of one.
                file.write_all(&line)
            });
        match written {
            Ok(()) => self.unrecorded = 0,
            Err(error) => {
                // Half a line would spoil the next one. What is no file has no length.
                if let Ok(whole) = whole {
                    let _ = file.set_len(whole);
                }
                if self.unrecorded == 0 {
                    tracing::error!(%error, "recordFile");
                }
                self.unrecorded += 1;
            }
        }
    }

    fn install(&mut self, config: &Config, sa: &ChildSaSpec, both: bool) -> Result<(), Error> {
        sa.check(config.options.slots)
            .map_err(|source| Error::Spec { id: sa.id, source })?;
        if self.sas.contains_key(&sa.id) {
            return Err(Error::Exists(sa.id));
        }
        let reqid = config.options.reqid_base + sa.reqid;
        let keys = SaKeys::new(sa.spi_in, sa.spi_out, sa.remote);
        self.add_address(sa.inner_local)?;
        let routed = self.add_route(sa.inner_local, sa.inner_remote, sa.remote.ip());
        let added = routed.and_then(|()| match &mut self.accounting {
            Some(accounting) => accounting.add(&keys, info(sa, reqid)).inspect_err(|_| {
                let _ = self.release_route(sa.inner_local, sa.inner_remote, sa.remote.ip());
            }),
            None => Ok(()),
        });
        if let Err(error) = added {
            let _ = self.release_address(sa.inner_local);
            return Err(error);
        }
        let reading = SaReading {
            id: sa.id,
            plane: sa.plane,
            ue: sa.ue,
            pdu_session: sa.pdu_session,
            spi_in: sa.spi_in,
            spi_out: sa.spi_out,
            if_id: 0,
            reqid,
            in_kernel: false,
            kernel_in: Default::default(),
            kernel_out: Default::default(),
            refused: Default::default(),
            ebpf_in: None,
            ebpf_out: None,
        };
        self.sas.insert(
            sa.id,
            Recorded {
                reading,
                keys,
                inner_local: sa.inner_local,
                inner_remote: sa.inner_remote,
                outer_remote: sa.remote.ip(),
            },
        );
        let line = SaLine::new(sa);
        self.record(match both {
            true => Operation::Install(line),
            false => Operation::InstallInbound(line),
        });
        Ok(())
    }

    fn remove(&mut self, id: u64) -> Result<Option<SaReading>, Error> {
        let Some(sa) = self.sas.remove(&id) else {
            return Ok(None);
        };
        let reading = self.reading(&sa);
        if let Some(accounting) = &mut self.accounting {
            accounting.remove(&sa.keys);
        }
        let route = self.release_route(sa.inner_local, sa.inner_remote, sa.outer_remote);
        let address = self.release_address(sa.inner_local);
        self.record(Operation::Remove { id });
        route.and(address)?;
        reading.map(Some)
    }

    fn reading(&self, sa: &Recorded) -> Result<SaReading, Error> {
        let mut reading = sa.reading.clone();
        if let Some(accounting) = &self.accounting {
            let counters = accounting.counters(&sa.keys)?;
            reading.ebpf_in = Some(counters.inbound);
            reading.ebpf_out = Some(counters.outbound);
        }
        Ok(reading)
    }

    fn add_address(&mut self, address: IpAddr) -> Result<(), Error> {
        let count = self.addresses.entry(address).or_insert(0);
        if *count == 0 {
            self.links
                .add_address_by(self.loopback, address, Maker::Recording)?;
        }
        *count += 1;
        Ok(())
    }

    fn release_address(&mut self, address: IpAddr) -> Result<(), Error> {
        match self.addresses.get_mut(&address) {
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            _ => {
                self.addresses.remove(&address);
                self.links.delete_address(self.loopback, address)
            }
        }
    }

    /// The clear route to the peer's inner address; `None` when both ends share this namespace.
    fn route(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        outer: IpAddr,
    ) -> Result<Option<Route>, Error> {
        let (link, gateway) = self.links.route_to(outer)?;
        if link == self.loopback {
            return Ok(None);
        }
        Ok(Some(Route {
            destination: IpNet::new_assert(remote, host_prefix(remote)),
            via: Some(gateway.unwrap_or(outer)),
            link,
            source: Some(local),
            metric: 0,
        }))
    }

    fn add_route(&mut self, local: IpAddr, remote: IpAddr, outer: IpAddr) -> Result<(), Error> {
        let count = self.routes.get(&(remote, outer)).copied().unwrap_or(0);
        if count == 0
            && let Some(route) = self.route(local, remote, outer)?
        {
            self.links.add_route_by(&route, Maker::Recording)?;
        }
        self.routes.insert((remote, outer), count + 1);
        Ok(())
    }

    fn release_route(&mut self, local: IpAddr, remote: IpAddr, outer: IpAddr) -> Result<(), Error> {
        match self.routes.get_mut(&(remote, outer)) {
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            _ => {
                self.routes.remove(&(remote, outer));
                match self.route(local, remote, outer)? {
                    Some(route) => self.links.delete_route_by(&route, Maker::Recording),
                    None => Ok(()),
                }
            }
        }
    }

    fn remove_leftovers(&mut self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for route in self.links.routes(Maker::Recording)? {
            self.links.delete_route_by(&route, Maker::Recording)?;
            removed.push(format!("route to {}", route.destination));
        }
        for (link, address) in self.links.addresses(Maker::Recording)? {
            self.links.delete_address(link, address)?;
            removed.push(format!("address {address}"));
        }
        Ok(removed)
    }

    fn tear_down(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut removed, mut left) = (Vec::new(), Vec::new());
        match self.remove_leftovers() {
            Ok(lines) => removed.extend(lines),
            Err(e) => left.push(e.to_string()),
        }
        if let Some(accounting) = self.accounting.take() {
            let (gone, stuck) = accounting.detach();
            removed.extend(gone);
            left.extend(stuck);
        }
        (removed, left)
    }
}

#[async_trait]
impl Dataplane for Recording {
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
        self.with(|config, running| running.install(config, &sa, true))
    }

    async fn install_inbound(&self, sa: ChildSaSpec) -> Result<(), Error> {
        self.with(|config, running| running.install(config, &sa, false))
    }

    async fn switch(&self, id: u64) -> Result<(), Error> {
        self.with(|_, running| {
            running.record(Operation::Switch { id });
            Ok(())
        })
    }

    async fn relocate(
        &self,
        id: u64,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> Result<(), Error> {
        let (local, remote) = (local.to_string(), remote.to_string());
        let moved = Operation::Relocate {
            id,
            local,
            remote,
            udp_encap,
        };
        self.with(|_, running| {
            running.record(moved);
            Ok(())
        })
    }

    async fn notice(&self) -> Notice {
        // Nothing is counted and nothing arrives.
        std::future::pending().await
    }

    async fn remove(&self, id: u64) -> Result<Option<SaReading>, Error> {
        self.with(|_, running| running.remove(id))
    }

    async fn readings(&self) -> Result<Vec<SaReading>, Error> {
        self.with(|_, running| running.sas.values().map(|sa| running.reading(sa)).collect())
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
            running.record(Operation::Stop { child_sas });
            let (removed, left) = running.tear_down();
            Ok(StopReport {
                child_sas,
                removed,
                left,
            })
        })
    }
}

//! IKE alone: IKE_SA_INIT, IKE_AUTH by shared key and one Child SA, again and again, against
//! whatever IKEv2 responder there is. The responder of this project is [`respond`]: the engine, a
//! socket and nothing else.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bench::records::Rate;
use bench::stats::quantile;
use daemon::datagrams::Datagrams;
use getrandom::SysRng;
use ike::crypto::{ChildSuite, IkeSuite};
use ike::wire::{Identification, TrafficSelector};
use ike::{
    Acceptance, CookiePolicy, Endpoint, EndpointConfig, Event, Grant, InitiatorConfig, Mode, Offer,
    Path, PeerCertificate, Profile, QkdPolicy, ResponderConfig, SaId, Timing,
};
use keys::{SaeId, Secret};
use rand_core::UnwrapErr;
use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::watch::Watch;

/// What both ends know.
#[derive(Clone, Debug)]
pub struct Pair {
    /// UDP address of the initiator.
    pub initiator: SocketAddr,
    /// UDP address of the responder.
    pub responder: SocketAddr,
    /// Identity of the initiator, a name.
    pub initiator_id: String,
    /// Identity of the responder, a name.
    pub responder_id: String,
    /// The shared key.
    pub key: String,
    /// Suite of the IKE SA in swanctl's words.
    pub ike: String,
    /// Suite of the Child SA in swanctl's words.
    pub esp: String,
}

/// Half-open IKE SAs that a responder takes on without asking for cookies.
const HALF_OPEN: usize = 4096;
/// RFC 7296, 2.23.
const NAT_PORT: u16 = 4500;
/// Octets of the largest datagram.
const MAX_DATAGRAM: usize = 65_535;
/// Inner address of the responder.
const RESPONDER_INNER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// Inner addresses of initiators: one for each setup under way.
const INITIATORS_INNER: u32 = u32::from_be_bytes([10, 1, 0, 0]);
/// An exchange that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Engine {
    endpoint: Endpoint,
    socket: Datagrams,
    /// Where a peer goes that finds a NAT between us, or behaves as if: charon with ESP of its own.
    nat: Datagrams,
    origin: Instant,
    buffer: Vec<u8>,
}

impl Engine {
    fn new(local: SocketAddr, config: EndpointConfig) -> Result<Self> {
        let bind = |local: SocketAddr| {
            let bound = UdpSocket::bind(local).and_then(Datagrams::new);
            bound.with_context(|| format!("UDP {local}"))
        };
        Ok(Self {
            endpoint: Endpoint::new(config, Box::new(UnwrapErr(SysRng))),
            socket: bind(local)?,
            nat: bind(SocketAddr::new(local.ip(), NAT_PORT))?,
            origin: Instant::now(),
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    fn now(&self) -> ike::Instant {
        ike::Instant::from_origin(self.origin.elapsed())
    }

    /// Datagrams and timers, until one of them was handled or `until` has come.
    async fn wait(&mut self, until: Option<Instant>) -> Result<()> {
        let timer = self.endpoint.poll_timeout();
        let timer = timer.map(|at| self.origin + at.since_origin());
        let due = [timer, until].into_iter().flatten().min();
        let sleep = async {
            match due {
                Some(at) => sleep_until(TokioInstant::from_std(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            readable = self.socket.readable() => {
                readable?;
                receive(&mut self.endpoint, &self.socket, &mut self.buffer, self.origin)?;
            }
            readable = self.nat.readable() => {
                readable?;
                receive(&mut self.endpoint, &self.nat, &mut self.buffer, self.origin)?;
            }
            () = sleep => {
                let now = self.now();
                self.endpoint.handle_timeout(now);
            }
        }
        Ok(())
    }

    fn send(&mut self) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let socket = match transmit.path.local.port() {
                NAT_PORT => &self.nat,
                _ => &self.socket,
            };
            // What the kernel cannot take is lost, as on any link.
            drop(socket.try_send_to(&transmit.data, transmit.path.remote));
        }
    }
}

/// Hands over what has arrived on one socket.
fn receive(
    endpoint: &mut Endpoint,
    socket: &Datagrams,
    buffer: &mut [u8],
    origin: Instant,
) -> Result<()> {
    let local = socket.local_addr()?;
    while let Ok((length, remote)) = socket.try_recv_from(buffer) {
        let data = buffer.get(..length).unwrap_or_default();
        let now = ike::Instant::from_origin(origin.elapsed());
        endpoint.handle_datagram(now, Path { local, remote }, data);
    }
    Ok(())
}

impl Pair {
    fn suites(&self) -> Result<(Vec<IkeSuite>, Vec<ChildSuite>)> {
        let ike = IkeSuite::from_keywords(&self.ike).context("suite of the IKE SA")?;
        let esp = ChildSuite::from_keywords(&self.esp).context("suite of the Child SA")?;
        Ok((ike, esp))
    }

    fn endpoint(&self) -> Result<EndpointConfig> {
        let (ike_suites, esp_suites) = self.suites()?;
        Ok(EndpointConfig {
            timing: Timing {
                dpd_interval: None,
                ..Timing::default()
            },
            responder: Some(ResponderConfig {
                profiles: Vec::new(),
                sae_id: sae()?,
                identity: Identification::fqdn(&self.responder_id),
                paper: None,
                ike_suites,
                esp_suites,
                cookies: CookiePolicy::Above(HALF_OPEN),
                half_open_limit: HALF_OPEN,
            }),
            acceptance: Acceptance {
                modes: vec![Mode::Plain],
                policy: QkdPolicy::Forbid,
                shared_key: Some(Arc::new(self.secret())),
                ..Acceptance::default()
            },
            ..EndpointConfig::default()
        })
    }

    fn secret(&self) -> Secret {
        Secret::from_slice(self.key.as_bytes())
    }

    fn offer(&self) -> Offer {
        Offer {
            modes: vec![Mode::Plain],
            policy: QkdPolicy::Forbid,
            shared_key: Some(Arc::new(self.secret())),
            ..Offer::default()
        }
    }

    fn initiator(&self, number: u32) -> Result<InitiatorConfig> {
        let (ike_suites, esp_suites) = self.suites()?;
        let inner = Ipv4Addr::from(INITIATORS_INNER + 1 + number);
        Ok(InitiatorConfig {
            profile: Profile::Native,
            sae_id: sae()?,
            master_sae_id: None,
            identity: Identification::fqdn(&self.initiator_id),
            peer_identity: Some(Identification::fqdn(&self.responder_id)),
            peer_certificate: PeerCertificate::Ignore,
            ike_suites,
            esp_suites,
            ts_local: vec![TrafficSelector::host(IpAddr::V4(inner))],
            ts_remote: vec![TrafficSelector::host(IpAddr::V4(RESPONDER_INNER))],
            configuration: Vec::new(),
        })
    }
}

fn sae() -> Result<SaeId> {
    "load".parse().map_err(|_| anyhow!("SAE ID"))
}

/// Answers whoever knows the key, for ever.
///
/// # Errors
/// When the socket cannot be had or breaks.
pub async fn respond(pair: &Pair) -> Result<()> {
    let mut engine = Engine::new(pair.responder, pair.endpoint()?)?;
    loop {
        engine.wait(None).await?;
        engine.send();
        while let Some(event) = engine.endpoint.poll_event() {
            let now = engine.now();
            match event {
                Event::PeerAuthenticated { sa, .. } => {
                    let grant = Grant {
                        ts_local: vec![TrafficSelector::host(IpAddr::V4(RESPONDER_INNER))],
                        ts_remote: vec![TrafficSelector::any_v4()],
                        ..Grant::default()
                    };
                    engine.endpoint.grant(now, sa, grant);
                }
                Event::InstallChild { sa, child } => {
                    engine.endpoint.child_installed(now, sa, child.id, Ok(()));
                }
                _ => {}
            }
            engine.send();
        }
    }
}

/// `at_once` setups under way for `span`. Each ends with a Delete, which is part of the load and not
/// of the latency.
///
/// # Errors
/// When the socket breaks, or the first setup fails.
pub async fn drive(
    pair: &Pair,
    responder: &str,
    watch: Watch,
    at_once: usize,
    span: Duration,
    run: usize,
) -> Result<Rate> {
    let mut config = pair.endpoint()?;
    config.responder = None;
    let mut engine = Engine::new(pair.initiator, config)?;
    let offer = pair.offer();
    let path = Path {
        local: pair.initiator,
        remote: pair.responder,
    };
    let mut free: Vec<u32> = (0..u32::try_from(at_once)?).rev().collect();
    let mut under_way: HashMap<SaId, (u32, Instant)> = HashMap::new();
    let mut leaving: HashMap<SaId, u32> = HashMap::new();
    let mut counted: HashSet<SaId> = HashSet::new();
    let mut times: Vec<f64> = Vec::new();
    let (mut begun, mut failed) = (0, 0);
    let mut why = String::new();
    // The first one says what is wrong if anything is, and is not counted.
    let mut start: Option<(Instant, [Duration; 2])> = None;
    let limit = Instant::now() + PATIENCE + span;
    loop {
        let now = Instant::now();
        if start.is_some_and(|(at, _)| now >= at + span) {
            break;
        }
        if now > limit {
            bail!("no IKE SA comes up");
        }
        let wanted = if start.is_some() { at_once } else { 1 };
        while under_way.len() + leaving.len() < wanted {
            let Some(number) = free.pop() else { break };
            let at = engine.now();
            let config = pair.initiator(number)?;
            let sa = engine.endpoint.initiate_with(at, path, config, &offer);
            under_way.insert(sa, (number, Instant::now()));
            if start.is_some() {
                counted.insert(sa);
                begun += 1;
            }
        }
        engine.send();
        let end = start.map(|(at, _)| at + span);
        engine
            .wait(Some(
                end.unwrap_or(limit).min(now + Duration::from_millis(100)),
            ))
            .await?;
        engine.send();
        while let Some(event) = engine.endpoint.poll_event() {
            let at = engine.now();
            match event {
                Event::PeerAuthenticated { sa, .. } => {
                    engine.endpoint.grant(at, sa, Grant::default());
                }
                Event::InstallChild { sa, child } => {
                    engine.endpoint.child_installed(at, sa, child.id, Ok(()));
                }
                Event::ChildUp { sa, .. } => {
                    if let Some((number, since)) = under_way.remove(&sa) {
                        if counted.contains(&sa) {
                            times.push(since.elapsed().as_secs_f64() * 1000.0);
                        }
                        leaving.insert(sa, number);
                        engine.endpoint.close(at, sa);
                    }
                }
                Event::ChildFailed { sa, reason, .. } => {
                    why = format!("{reason:?}");
                    engine.endpoint.close(at, sa);
                }
                Event::Closed { sa, reason } => {
                    if let Some(number) = leaving.remove(&sa) {
                        free.push(number);
                        if start.is_none() {
                            start = Some((Instant::now(), [watch.cpu()?, Watch::own().cpu()?]));
                        }
                    } else if let Some((number, _)) = under_way.remove(&sa) {
                        if why.is_empty() {
                            why = reason.to_string();
                        }
                        if start.is_none() {
                            bail!("the first setup failed: {why}");
                        }
                        failed += usize::from(counted.contains(&sa));
                        free.push(number);
                    }
                    counted.remove(&sa);
                }
                _ => {}
            }
            engine.send();
        }
    }
    let (at, cpu) = start.context("nothing was measured")?;
    let spent = at.elapsed();
    let cpu = [watch.cpu()? - cpu[0], Watch::own().cpu()? - cpu[1]];
    times.sort_by(f64::total_cmp);
    Ok(Rate {
        work: "ike".to_owned(),
        responder: responder.to_owned(),
        suite: format!("{} {}", pair.ike, pair.esp),
        run,
        offered: None,
        at_once,
        seconds: spent.as_secs_f64(),
        begun,
        done: times.len(),
        failed,
        latency_ms: [0.5, 0.95, 0.99].map(|q| quantile(&times, q)),
        responder_cpu: cpu[0].as_secs_f64(),
        driver_cpu: cpu[1].as_secs_f64(),
    })
}

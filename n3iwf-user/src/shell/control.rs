//! The control socket's answers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use daemon::apart::apart;
use dataplane::{
    ClassReading, Dataplane, Plane, SaReading, StartReport, Sums, Totals, Traffic,
    relay::AccessRelay,
};
use ike::{ChildStatus, Instant, SaState, SaStatus};
use keys::SaeId;
use qkd::{Kms, account::State};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio::sync::{mpsc, oneshot};

use super::{Input, Snapshot};
use crate::{
    core::UeStatus,
    gateway::{Census, RekeyWhat},
    metrics::{Metrics, Observed},
    report::{
        ChildSa, Counters, IkeSa, KeyRow, KeyTotals, Keys, Overview, Request, Sas, Status, Stock,
        UeTraffic, Ues,
    },
};

#[derive(Clone)]
pub(super) struct Context {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) dataplane: Arc<dyn Dataplane>,
    pub(super) relay: Arc<dyn AccessRelay>,
    pub(super) sums: Arc<Sums>,
    pub(super) kms: Option<Kms>,
    pub(super) sae_id: Option<String>,
    pub(super) kme: Option<String>,
    pub(super) recording: bool,
    pub(super) started: StartReport,
}

/// As text: a tree of all keys in use by a thousand UEs would be the largest thing in this process.
pub(super) async fn answer(context: Context, request: Request) -> Result<Box<RawValue>, String> {
    match request {
        Request::Status => {
            let (census, _) = context.census(0).await?;
            text(&context.status(*census)?)
        }
        Request::Sas => text(&context.sas().await?),
        Request::Ues => text(&Ues {
            ues: context.snapshot().await?.ues,
        }),
        Request::Keys => text(&context.keys().await?),
        Request::Counters => text(&context.counters().await?),
        Request::Overview { ues } => text(&context.overview(ues).await?),
        Request::Release { ue } => {
            let (done, answer) = oneshot::channel();
            context.tell(Input::Release { ue, done }).await?;
            match answer.await {
                Ok(true) => text(&()),
                Ok(false) => Err(format!("no UE {ue}")),
                Err(_) => Err(ENDING.to_owned()),
            }
        }
        Request::Rekey { ue, ike, child } => {
            let what = match (ike, child) {
                (true, None) => RekeyWhat::Ike,
                (true, Some(_)) => return Err("either the IKE SA or a Child SA".to_owned()),
                (false, None) => RekeyWhat::Children,
                (false, Some(child)) => RekeyWhat::Child(child),
            };
            let (done, answer) = oneshot::channel();
            context.tell(Input::Rekey { ue, what, done }).await?;
            let answer = answer.await.map_err(|_| ENDING.to_owned())?;
            answer.and_then(|()| text(&()))
        }
    }
}

/// How old the KMS's word about its stock may be before it is asked again.
const STOCK_AGE: Duration = Duration::from_secs(10);

/// Rows of UEs in an overview at most.
const MOST_ROWS: usize = 1000;

/// The page for Prometheus.
pub(super) async fn page(context: Context, metrics: Arc<Metrics>) -> Result<String, String> {
    let seen = context.observe(metrics.names_peers()).await?;
    Ok(metrics.page(&seen))
}

const ENDING: &str = "the daemon is ending";

impl Context {
    async fn tell(&self, input: Input) -> Result<(), String> {
        self.inputs.send(input).await.map_err(|_| ENDING.to_owned())
    }

    async fn snapshot(&self) -> Result<Snapshot, String> {
        let (reply, snapshot) = oneshot::channel();
        self.tell(Input::Snapshot(reply)).await?;
        snapshot.await.map_err(|_| ENDING.to_owned())
    }

    /// What the gateway counts, and the UEs with the lowest numbers.
    async fn census(&self, ues: usize) -> Result<(Box<Census>, Vec<UeStatus>), String> {
        let (reply, census) = oneshot::channel();
        self.tell(Input::Census { ues, reply }).await?;
        census.await.map_err(|_| ENDING.to_owned())
    }

    /// All numbers of this moment. The gateway is asked once, and only counts.
    async fn observe(&self, peers: bool) -> Result<Observed, String> {
        self.refresh_stock();
        let (census, _) = self.census(0).await?;
        let classes = self.classes().await?;
        let kms = self.kms.as_ref();
        Ok(Observed {
            census: *census,
            keys: kms.map(|kms| kms.account().total()).unwrap_or_default(),
            peers: kms
                .filter(|_| peers)
                .map(|kms| kms.account().totals())
                .unwrap_or_default(),
            kms: kms.map(Kms::health).unwrap_or_default(),
            stock: kms.and_then(Kms::stock),
            classes,
            totals: self.totals(&self.readings().await?),
        })
    }

    /// Not waited for: who asks must not hang on a KMS that does.
    fn refresh_stock(&self) {
        if let Some(kms) = self.kms.clone() {
            tokio::spawn(async move { kms.refresh_stock(STOCK_AGE).await });
        }
    }

    fn totals(&self, sas: &[SaReading]) -> Totals {
        let sessions = self.relay.readings();
        self.sums.total(sas, &sessions, &self.relay.drops())
    }

    async fn overview(&self, ues: usize) -> Result<Overview, String> {
        self.refresh_stock();
        let (census, ues) = self.census(ues.min(MOST_ROWS)).await?;
        let readings = self.readings().await?;
        let mut user: HashMap<u32, (Traffic, Traffic)> = HashMap::new();
        for reading in readings.iter().filter(|sa| sa.plane == Plane::User) {
            let (up, down) = user.entry(reading.ue).or_default();
            up.packets += reading.kernel_in.packets;
            up.bytes += reading.kernel_in.bytes;
            down.packets += reading.kernel_out.packets;
            down.bytes += reading.kernel_out.bytes;
        }
        let rows = ues.into_iter().map(|ue| {
            let (up, down) = user.get(&ue.ue).copied().unwrap_or_default();
            UeTraffic {
                ue: ue.ue,
                state: ue.state,
                remote: ue.remote,
                inner: ue.inner,
                sessions: ue.sessions.len(),
                up,
                down,
            }
        });
        let rows = rows.collect();
        let named = |counts: &BTreeMap<&str, usize>| {
            let named = counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count));
            named.collect()
        };
        let ms = census.now.since_origin().as_millis();
        let sas = census.ike.ike_sas.iter();
        let mut ike_sas: Vec<_> = sas
            .map(|((state, mode), count)| (state_name(*state).to_owned(), mode.to_string(), *count))
            .collect();
        ike_sas.sort();
        Ok(Overview {
            uptime_ms: u64::try_from(ms).unwrap_or(u64::MAX),
            ike_sas,
            child_sas_control: census.ike.signalling,
            child_sas_user: census.ike.user,
            ues: named(&census.core.ues),
            sessions: named(&census.core.sessions),
            counts: census.tally.clone(),
            retransmissions: census.messages.retransmitted,
            cookies_sent: census.messages.cookies_sent,
            keys: self.key_totals(),
            stock: self.kms.as_ref().and_then(Kms::stock).map(|stock| Stock {
                stored: stock.stored,
                capacity: stock.capacity,
                age: stock.age.as_secs(),
            }),
            traffic: self.totals(&readings),
            rows,
            status: self.status(*census)?,
        })
    }

    async fn readings(&self) -> Result<Vec<SaReading>, String> {
        let dataplane = Arc::clone(&self.dataplane);
        let readings = apart(async move { dataplane.readings().await }).await;
        readings.map_err(|error| format!("data plane: {error}"))
    }

    async fn classes(&self) -> Result<Option<ClassReading>, String> {
        let dataplane = Arc::clone(&self.dataplane);
        let classes = apart(async move { dataplane.classes().await }).await;
        classes.map_err(|error| format!("data plane: {error}"))
    }

    fn status(&self, census: Census) -> Result<Status, String> {
        let kms = self.kms.as_ref().map(Kms::health).unwrap_or_default();
        let kms: Vec<Value> = kms.iter().map(json).collect::<Result<_, _>>()?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: census.now.since_origin().as_secs(),
            ready: census.amfs.iter().any(|amf| amf.state == "ready"),
            sae_id: self.sae_id.clone(),
            kms,
            ike_sas: census.ike.ike_sas.values().sum(),
            half_open: census.half_open,
            ues: census.core.ues.values().sum(),
            addresses_taken: census.addresses_taken,
            amfs: census.amfs,
            dataplane: if self.recording {
                "recording"
            } else {
                "kernel"
            }
            .to_owned(),
            interface: self.started.interface.clone(),
            bpf: self.started.bpf.clone(),
        })
    }

    async fn sas(&self) -> Result<Sas, String> {
        let snapshot = self.snapshot().await?;
        let readings: HashMap<u64, SaReading> = self
            .readings()
            .await?
            .into_iter()
            .map(|reading| (reading.id, reading))
            .collect();
        let ues: HashMap<u64, &UeStatus> = snapshot.ues.iter().map(|ue| (ue.ike_sa, ue)).collect();
        let sas = snapshot
            .sas
            .iter()
            .map(|sa| {
                let ue = ues.get(&sa.id.number()).copied();
                self.ike_sa(snapshot.now, sa, ue, &readings)
            })
            .collect();
        Ok(Sas { sas })
    }

    fn ike_sa(
        &self,
        now: Instant,
        sa: &SaStatus,
        ue: Option<&UeStatus>,
        readings: &HashMap<u64, SaReading>,
    ) -> IkeSa {
        let identity = |id: &Option<ike::wire::Identification>| {
            id.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        IkeSa {
            uniqueid: sa.id.number(),
            state: state_name(sa.state).to_uppercase(),
            initiator_spi: format!("{:016x}", sa.spi_i),
            responder_spi: format!("{:016x}", sa.spi_r),
            local_id: identity(&sa.local_id),
            remote_id: identity(&sa.remote_id),
            local: sa.path.local,
            remote: sa.path.remote,
            nat_local: sa.nat_local,
            nat_remote: sa.nat_remote,
            mobike: sa.mobike,
            mode: sa.mode.to_string(),
            suite: sa.suite.map(|suite| suite.to_string()),
            established: sa.established.map(|at| now.duration_since(at).as_secs()),
            retransmits: sa.retransmits,
            peer_sae: sa.peer_sae.as_ref().map(ToString::to_string),
            policy: sa.policy.to_string(),
            key_exchange: sa.suite.and_then(|suite| suite.ke).map(|ke| ke.to_string()),
            kme: self.kme.clone().filter(|_| sa.mode.has_qkd_key()),
            key_ids: sa.key_ids.iter().map(keys::KeyId::short).collect(),
            held_keys: sa.held_keys,
            ran_ue_ngap_id: ue.map(|ue| ue.ue),
            amf_ue_ngap_id: ue.and_then(|ue| ue.amf_ue_ngap_id),
            inner: ue.and_then(|ue| ue.inner),
            child_sas: sa
                .children
                .iter()
                .map(|child| child_sa(now, child, ue, readings.get(&child.id.number())))
                .collect(),
        }
    }

    fn key_totals(&self) -> KeyTotals {
        match &self.kms {
            Some(kms) => kms.account().total().into(),
            // Nothing was fetched, so everything is accounted for.
            None => KeyTotals {
                balanced: true,
                ..KeyTotals::default()
            },
        }
    }

    async fn keys(&self) -> Result<Keys, String> {
        let Some(kms) = &self.kms else {
            return Ok(Keys {
                total: self.key_totals(),
                ..Keys::default()
            });
        };
        let (reply, ahead) = oneshot::channel();
        self.tell(Input::HeldAhead(reply)).await?;
        let ahead = ahead.await.map_err(|_| ENDING.to_owned())?;
        let of = |peer: &SaeId| ahead.get(peer).map_or(0, |keys| *keys as u64);
        let account = kms.account();
        let keys = account
            .entries()
            .into_iter()
            .map(|entry| {
                let (state, purpose, sa) = match entry.state {
                    State::Held => ("held", None, None),
                    State::Used { purpose, sa } => ("used", Some(purpose), Some(sa)),
                    State::Lost => ("lost", None, None),
                };
                KeyRow {
                    id: entry.id.to_string(),
                    peer: entry.peer.to_string(),
                    state: state.to_owned(),
                    purpose,
                    sa,
                }
            })
            .collect();
        Ok(Keys {
            total: KeyTotals {
                ahead: ahead.values().map(|keys| *keys as u64).sum(),
                ..account.total().into()
            },
            peers: account
                .totals()
                .into_iter()
                .map(|(peer, totals)| {
                    let ahead = of(&peer);
                    let totals = KeyTotals {
                        ahead,
                        ..totals.into()
                    };
                    (peer.to_string(), totals)
                })
                .collect(),
            keys,
        })
    }

    async fn counters(&self) -> Result<Counters, String> {
        let classes = self.classes().await?;
        Ok(Counters {
            classes,
            sas: self.readings().await?,
            sessions: self.relay.readings(),
            drops: self.relay.drops(),
            relay_kernel: self.relay.kernel_reasons(),
        })
    }
}

const fn state_name(state: SaState) -> &'static str {
    match state {
        SaState::Connecting => "connecting",
        SaState::Established => "established",
        SaState::Deleting => "deleting",
    }
}

fn child_sa(
    now: Instant,
    child: &ChildStatus,
    ue: Option<&UeStatus>,
    reading: Option<&SaReading>,
) -> ChildSa {
    let session = ue.and_then(|ue| {
        ue.sessions
            .iter()
            .find(|session| session.children.contains(&child.id.number()))
    });
    let side = |selectors: &[ike::wire::TrafficSelector]| {
        selectors.iter().map(ToString::to_string).collect()
    };
    let traffic = |pick: fn(&SaReading) -> Traffic| reading.map(pick).unwrap_or_default();
    ChildSa {
        uniqueid: child.id.number(),
        name: match session {
            Some(session) => format!("pdu-{}", session.session),
            None if child.signalling => "signalling".to_owned(),
            None => "child".to_owned(),
        },
        reqid: reading.map(|reading| reading.reqid),
        state: if child.up { "INSTALLED" } else { "CREATED" }.to_owned(),
        suite: child.suite.map(|suite| suite.to_string()),
        spi_in: format!("{:08x}", child.spi_in),
        spi_out: format!("{:08x}", child.spi_out),
        if_id: reading.map(|reading| reading.if_id),
        traffic_in: traffic(|reading| reading.kernel_in),
        traffic_out: traffic(|reading| reading.kernel_out),
        age: child.since.map(|at| now.duration_since(at).as_secs()),
        local_ts: side(&child.ts_local),
        remote_ts: side(&child.ts_remote),
        key_ids: child.key_ids.iter().map(keys::KeyId::short).collect(),
        pdu_session: session.cloned(),
    }
}

fn text(value: &impl Serialize) -> Result<Box<RawValue>, String> {
    serde_json::value::to_raw_value(value).map_err(|error| error.to_string())
}

fn json(value: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

//! The control socket's answers.

use std::{collections::HashMap, sync::Arc};

use dataplane::{Dataplane, SaReading, StartReport, Traffic, relay::AccessRelay};
use ike::{ChildStatus, Instant, SaState, SaStatus};
use qkd::{Kms, account::State};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{Input, Snapshot};
use crate::{
    core::UeStatus,
    report::{ChildSa, Counters, IkeSa, KeyRow, Keys, Request, Sas, Status, Ues},
};

#[derive(Clone)]
pub(super) struct Context {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) dataplane: Arc<dyn Dataplane>,
    pub(super) relay: Arc<dyn AccessRelay>,
    pub(super) kms: Kms,
    pub(super) sae_id: String,
    pub(super) kme: Option<String>,
    pub(super) recording: bool,
    pub(super) started: StartReport,
}

pub(super) async fn answer(context: Context, request: Request) -> Result<Value, String> {
    match request {
        Request::Status => json(&context.status().await?),
        Request::Sas => json(&context.sas().await?),
        Request::Ues => json(&Ues {
            ues: context.snapshot().await?.ues,
        }),
        Request::Keys => json(&context.keys()),
        Request::Counters => json(&context.counters().await?),
        Request::Release { ue } => {
            let (done, answer) = oneshot::channel();
            context.tell(Input::Release { ue, done }).await?;
            match answer.await {
                Ok(true) => Ok(Value::Null),
                Ok(false) => Err(format!("no UE {ue}")),
                Err(_) => Err(ENDING.to_owned()),
            }
        }
    }
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

    async fn readings(&self) -> Result<Vec<SaReading>, String> {
        let readings = self.dataplane.readings().await;
        readings.map_err(|error| format!("data plane: {error}"))
    }

    async fn status(&self) -> Result<Status, String> {
        let snapshot = self.snapshot().await?;
        let kms = self.kms.health();
        let kms: Vec<Value> = kms.iter().map(json).collect::<Result<_, _>>()?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: snapshot.now.since_origin().as_secs(),
            ready: snapshot.amfs.iter().any(|amf| amf.state == "ready"),
            sae_id: self.sae_id.clone(),
            kms,
            ike_sas: snapshot.sas.len(),
            half_open: snapshot.half_open,
            ues: snapshot.ues.len(),
            addresses_taken: snapshot.addresses_taken,
            amfs: snapshot.amfs,
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
            state: match sa.state {
                SaState::Connecting => "CONNECTING",
                SaState::Established => "ESTABLISHED",
                SaState::Deleting => "DELETING",
            }
            .to_owned(),
            initiator_spi: format!("{:016x}", sa.spi_i),
            responder_spi: format!("{:016x}", sa.spi_r),
            local_id: identity(&sa.local_id),
            remote_id: identity(&sa.remote_id),
            local: sa.path.local,
            remote: sa.path.remote,
            nat_local: sa.nat_local,
            nat_remote: sa.nat_remote,
            mode: sa.mode.to_string(),
            suite: sa.suite.map(|suite| suite.to_string()),
            established: sa.established.map(|at| now.duration_since(at).as_secs()),
            retransmits: sa.retransmits,
            peer_sae: sa.peer_sae.as_ref().map(ToString::to_string),
            kme: self.kme.clone().unwrap_or_default(),
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

    fn keys(&self) -> Keys {
        let account = self.kms.account();
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
        Keys {
            total: account.total().into(),
            peers: account
                .totals()
                .into_iter()
                .map(|(peer, totals)| (peer.to_string(), totals.into()))
                .collect(),
            keys,
        }
    }

    async fn counters(&self) -> Result<Counters, String> {
        let classes = self.dataplane.classes().await;
        Ok(Counters {
            classes: classes.map_err(|error| format!("data plane: {error}"))?,
            sas: self.readings().await?,
            sessions: self.relay.readings(),
            drops: self.relay.drops(),
        })
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
            .find(|session| session.child == Some(child.id.number()))
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

fn json(value: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

//! The data plane's worker: one job after the other, so that what is removed was installed before.

use std::{net::IpAddr, sync::Arc};

use dataplane::{
    ChildSaSpec, Dataplane,
    relay::{AccessRelay, AccessSession},
};
use ike::{ChildId, SaId};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::{Input, keylog::DebugKeyLog};
use crate::core::RelaySession;

enum Job {
    Install {
        sa: SaId,
        child: ChildId,
        spec: Box<ChildSaSpec>,
    },
    Remove {
        child: ChildId,
    },
    AddSession(RelaySession),
    RemoveSession {
        ue: u32,
        dl_teid: u32,
    },
}

pub(super) struct Plane {
    jobs: mpsc::UnboundedSender<Job>,
}

struct Worker<F> {
    dataplane: Arc<dyn Dataplane>,
    relay: Arc<dyn AccessRelay>,
    interface: F,
    key_log: Option<Arc<DebugKeyLog>>,
    inputs: mpsc::Sender<Input>,
}

impl Plane {
    /// `interface` names the XFRM interface of a slot, if there are any.
    pub(super) fn start<F>(
        dataplane: Arc<dyn Dataplane>,
        relay: Arc<dyn AccessRelay>,
        interface: F,
        key_log: Option<Arc<DebugKeyLog>>,
        inputs: mpsc::Sender<Input>,
    ) -> Self
    where
        F: Fn(u32) -> Option<String> + Send + Sync + 'static,
    {
        // Unbounded, but each job answers a Child SA or session the core keeps count of.
        let (jobs, mut waiting) = mpsc::unbounded_channel();
        let worker = Worker {
            dataplane,
            relay,
            interface,
            key_log,
            inputs,
        };
        tokio::spawn(async move {
            while let Some(job) = waiting.recv().await {
                let result = worker.work(job).await;
                if worker.inputs.send(result).await.is_err() {
                    return;
                }
            }
        });
        Self { jobs }
    }

    pub(super) fn install(&self, sa: SaId, child: ChildId, spec: Box<ChildSaSpec>) {
        self.give(Job::Install { sa, child, spec });
    }

    pub(super) fn remove(&self, child: ChildId) {
        self.give(Job::Remove { child });
    }

    pub(super) fn add_session(&self, session: RelaySession) {
        self.give(Job::AddSession(session));
    }

    pub(super) fn remove_session(&self, ue: u32, dl_teid: u32) {
        self.give(Job::RemoveSession { ue, dl_teid });
    }

    fn give(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            error!("the data plane's worker is gone");
        }
    }
}

impl<F: Fn(u32) -> Option<String>> Worker<F> {
    async fn work(&self, job: Job) -> Input {
        match job {
            Job::Install { sa, child, spec } => {
                if let Some(log) = &self.key_log {
                    log.child_sa(&spec);
                }
                let result = self.dataplane.install(*spec).await;
                Input::Installed {
                    sa,
                    child,
                    result: result.map_err(|error| error.to_string()),
                }
            }
            Job::Remove { child } => {
                match self.dataplane.remove(child.number()).await {
                    Ok(Some(last)) => info!(
                        %child,
                        packets_in = last.kernel_in.packets,
                        packets_out = last.kernel_out.packets,
                        "Child SA removed"
                    ),
                    Ok(None) => error!(%child, "the data plane does not know the Child SA"),
                    Err(error) => error!(%child, %error, "Child SA cannot be removed"),
                }
                Input::Removed { child }
            }
            Job::AddSession(session) => Input::SessionAdded {
                ue: session.ue,
                dl_teid: session.dl_teid,
                result: self.add(session),
            },
            Job::RemoveSession { ue, dl_teid } => {
                self.relay.remove(dl_teid);
                Input::SessionRemoved { ue, dl_teid }
            }
        }
    }

    fn add(&self, session: RelaySession) -> Result<(), String> {
        let (IpAddr::V4(upf), IpAddr::V4(ue_inner)) = (session.upf, session.ue_inner) else {
            return Err("the relay speaks IPv4 alone".to_owned());
        };
        let default_qfi = session.qfis.first().copied().unwrap_or_default();
        self.relay
            .add(AccessSession {
                dl_teid: session.dl_teid,
                ul_teid: session.ul_teid,
                upf,
                ue_inner,
                pdu_session: session.session,
                qfis: session.qfis,
                default_qfi,
                slot: session.slot,
                interface: (self.interface)(session.slot),
            })
            .map_err(|error| error.to_string())?;
        self.relay.bind(session.dl_teid, session.reqid);
        Ok(())
    }
}

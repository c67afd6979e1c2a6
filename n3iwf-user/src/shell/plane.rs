//! The data plane's worker: one job after the other, so that what is removed was installed before.

use std::{net::IpAddr, sync::Arc};

use daemon::{apart::spawn_apart, hardening::sheltered_steps};
use dataplane::{
    ChildSaSpec, Dataplane, Sums,
    relay::{AccessRelay, AccessSession, Ambr, Tunnel},
};
use ike::{ChildId, Path, SaId};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::{Input, keylog::DebugKeyLog};
use crate::core::RelaySession;

enum Job {
    Install {
        sa: SaId,
        child: ChildId,
        spec: Box<ChildSaSpec>,
        inbound: bool,
    },
    Switch {
        child: ChildId,
    },
    Move {
        child: ChildId,
        path: Path,
        udp_encap: bool,
    },
    Remove {
        child: ChildId,
    },
    AddSession(RelaySession),
    ModifySession {
        session: RelaySession,
        token: u64,
    },
    SetUeAmbr {
        ue: u32,
        ambr: Ambr,
    },
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
    sums: Arc<Sums>,
    inputs: mpsc::Sender<Input>,
}

impl Plane {
    /// `interface` names the XFRM interface of a slot, if there are any.
    pub(super) fn start<F>(
        dataplane: Arc<dyn Dataplane>,
        relay: Arc<dyn AccessRelay>,
        interface: F,
        key_log: Option<Arc<DebugKeyLog>>,
        sums: Arc<Sums>,
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
            sums,
            inputs,
        };
        // The kernel makes its callers wait, and IKE must not wait with them.
        spawn_apart(async move {
            while let Some(job) = waiting.recv().await {
                let Some(result) = worker.work(job).await else {
                    continue;
                };
                if worker.inputs.send(result).await.is_err() {
                    return;
                }
            }
        });
        Self { jobs }
    }

    /// `inbound`: without the outbound state, which [`switch`](Self::switch) adds.
    pub(super) fn install(&self, sa: SaId, child: ChildId, spec: Box<ChildSaSpec>, inbound: bool) {
        self.give(Job::Install {
            sa,
            child,
            spec,
            inbound,
        });
    }

    pub(super) fn switch(&self, child: ChildId) {
        self.give(Job::Switch { child });
    }

    pub(super) fn relocate(&self, child: ChildId, path: Path, udp_encap: bool) {
        self.give(Job::Move {
            child,
            path,
            udp_encap,
        });
    }

    pub(super) fn remove(&self, child: ChildId) {
        self.give(Job::Remove { child });
    }

    pub(super) fn add_session(&self, session: RelaySession) {
        self.give(Job::AddSession(session));
    }

    pub(super) fn modify_session(&self, session: RelaySession, token: u64) {
        self.give(Job::ModifySession { session, token });
    }

    pub(super) fn set_ue_ambr(&self, ue: u32, ambr: Ambr) {
        self.give(Job::SetUeAmbr { ue, ambr });
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
    async fn work(&self, job: Job) -> Option<Input> {
        Some(match job {
            Job::Install {
                sa,
                child,
                spec,
                inbound,
            } => {
                if let Some(log) = &self.key_log {
                    log.child_sa(&spec);
                }
                let result = match inbound {
                    true => sheltered_steps(self.dataplane.install_inbound(*spec)).await,
                    false => sheltered_steps(self.dataplane.install(*spec)).await,
                };
                Input::Installed {
                    sa,
                    child,
                    result: result.map_err(|error| error.to_string()),
                }
            }
            Job::Switch { child } => {
                if let Err(error) = self.dataplane.switch(child.number()).await {
                    error!(%child, %error, "packets do not leave through the rekeyed Child SA");
                }
                return None;
            }
            Job::Move {
                child,
                path,
                udp_encap,
            } => {
                let (local, remote) = (path.local, path.remote);
                let moved = self
                    .dataplane
                    .relocate(child.number(), local, remote, udp_encap);
                if let Err(error) = moved.await {
                    error!(%child, %path, %error, "the Child SA does not follow its peer");
                }
                return None;
            }
            Job::Remove { child } => {
                match self.dataplane.remove(child.number()).await {
                    Ok(Some(last)) => {
                        self.sums.sa_gone(&last);
                        info!(
                            %child,
                            packets_in = last.kernel_in.packets,
                            packets_out = last.kernel_out.packets,
                            "Child SA removed"
                        );
                    }
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
            Job::ModifySession { session, token } => Input::SessionModified {
                ue: session.ue,
                token,
                result: self.access(session).and_then(|session| {
                    self.relay
                        .modify(session)
                        .map_err(|error| error.to_string())
                }),
            },
            Job::SetUeAmbr { ue, ambr } => {
                self.relay.set_ue_ambr(ue, ambr);
                return None;
            }
            Job::RemoveSession { ue, dl_teid } => {
                if let Some(last) = self.relay.remove(dl_teid) {
                    self.sums.session_gone(&last);
                }
                Input::SessionRemoved { ue, dl_teid }
            }
        })
    }

    fn add(&self, session: RelaySession) -> Result<(), String> {
        let dl_teid = session.dl_teid;
        let further = session.further.iter().map(|tunnel| tunnel.reqid);
        let reqids: Vec<u32> = std::iter::once(session.reqid).chain(further).collect();
        let session = self.access(session)?;
        self.relay.add(session).map_err(|error| error.to_string())?;
        for reqid in reqids {
            self.relay.bind(dl_teid, reqid);
        }
        Ok(())
    }

    /// A session in the relay's terms.
    fn access(&self, session: RelaySession) -> Result<AccessSession, String> {
        let IpAddr::V4(ue_inner) = session.ue_inner else {
            return Err("the relay has IPv4 alone inside of IPsec".to_owned());
        };
        Ok(AccessSession {
            dl_teid: session.dl_teid,
            ul_teid: session.ul_teid,
            upf: session.upf,
            ue_inner,
            pdu_session: session.session,
            default_qfi: session.qfis.first().copied().unwrap_or_default(),
            qfis: session.qfis,
            slot: session.slot,
            interface: (self.interface)(session.slot),
            further: session
                .further
                .into_iter()
                .map(|tunnel| Tunnel {
                    slot: tunnel.slot,
                    interface: (self.interface)(tunnel.slot),
                    qfis: tunnel.qfis,
                    dscp: tunnel.dscp,
                })
                .collect(),
            ue: session.ue,
            session_ambr: session.ambr,
            ue_ambr: session.ue_ambr,
            dscp: session.dscp,
            n3_dscp: session.n3_dscp,
        })
    }
}

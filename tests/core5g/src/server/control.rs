//! The control socket: what is there, and what shall happen.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::amf::{OverloadAction, SessionChange};
use crate::config::Ambr;
use crate::policy::{Fault, Policy};
use crate::server::Shared;

/// One request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Associations, number of UEs and sessions, counters.
    Status,
    /// The subscribers.
    Subscribers,
    /// The UEs with their sessions.
    Ues,
    /// The user-plane sessions with their packet counters.
    Sessions,
    /// What the core did for each message, and how long it took.
    Transactions {
        /// Only of this subscriber.
        #[serde(default)]
        supi: Option<String>,
        /// Forget them afterwards.
        #[serde(default)]
        clear: bool,
    },
    /// The policy in force, or a new one.
    Policy {
        /// The new one.
        #[serde(default)]
        set: Option<Policy>,
    },
    /// The faults waiting to happen, or new ones.
    Faults {
        /// The new ones; they replace the old ones.
        #[serde(default)]
        set: Option<Vec<Fault>>,
    },
    /// Something that the network starts.
    Trigger {
        /// What.
        what: Trigger,
    },
}

/// Something that the network starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Trigger {
    /// DEREGISTRATION REQUEST to a UE.
    Deregister {
        /// Which.
        supi: String,
        /// Ask it to come again.
        #[serde(default)]
        reregister: bool,
        /// 5GMM cause.
        #[serde(default)]
        cause: Option<u8>,
    },
    /// PDU SESSION RELEASE COMMAND to a UE.
    ReleaseSession {
        /// Which UE.
        supi: String,
        /// Which session.
        session: u8,
    },
    /// PDU SESSION RESOURCE MODIFY REQUEST with PDU SESSION MODIFICATION COMMAND.
    ModifySession {
        /// Which UE.
        supi: String,
        /// Which session.
        session: u8,
        /// What changes.
        change: SessionChange,
    },
    /// UE CONTEXT MODIFICATION REQUEST with another UE AMBR.
    ModifyUe {
        /// Which.
        supi: String,
        /// UE AMBR.
        ambr: Ambr,
    },
    /// UE CONTEXT RELEASE COMMAND without a word to the UE.
    ReleaseUe {
        /// Which.
        supi: String,
    },
    /// NG RESET to every N3IWF.
    Reset,
    /// OVERLOAD START to every N3IWF.
    Overload {
        /// Overload Action.
        #[serde(default)]
        action: Option<OverloadAction>,
        /// Traffic Load Reduction Indication, 1 to 99 %.
        #[serde(default)]
        percent: Option<u8>,
    },
    /// OVERLOAD STOP to every N3IWF.
    Relax,
    /// AMF STATUS INDICATION to every N3IWF.
    Withdraw {
        /// Name of the AMF that takes over.
        #[serde(default)]
        backup: Option<String>,
    },
    /// Break every N2 association off.
    DropN2,
}

pub(super) async fn serve(server: daemon::control::Server, shared: Arc<Shared>) {
    server
        .serve(move |request: Request| {
            let shared = Arc::clone(&shared);
            async move { answer(&shared, request) }
        })
        .await;
}

fn answer(shared: &Shared, request: Request) -> Result<Value, String> {
    let value = |value: Result<Value, serde_json::Error>| value.map_err(|e| e.to_string());
    match request {
        Request::Status => {
            let state = shared.lock();
            let upf = shared.upf();
            let associations: Vec<Value> = state
                .amf
                .associations()
                .into_iter()
                .map(|(peer, node, name)| json!({"peer": peer, "node": node, "name": name}))
                .collect();
            Ok(json!({
                "associations": associations,
                "ues": state.amf.ue_status().len(),
                "sessions": upf.status().len(),
                "amf": state.amf.counters,
                "upf": upf.counters,
            }))
        }
        Request::Subscribers => value(serde_json::to_value(shared.lock().amf.subscriber_status())),
        Request::Ues => value(serde_json::to_value(shared.lock().amf.ue_status())),
        Request::Sessions => value(serde_json::to_value(shared.upf().status())),
        Request::Transactions { supi, clear } => {
            let mut state = shared.lock();
            let list = value(serde_json::to_value(
                state.transactions.list(supi.as_deref()),
            ));
            if clear {
                state.transactions.clear();
            }
            list
        }
        Request::Policy { set } => {
            let mut state = shared.lock();
            if let Some(policy) = set {
                tracing::info!(?policy, "new policy");
                state.amf.policy = policy;
            }
            value(serde_json::to_value(&state.amf.policy))
        }
        Request::Faults { set } => {
            let mut state = shared.lock();
            if let Some(faults) = set {
                tracing::info!(?faults, "new faults");
                state.amf.faults = faults;
            }
            value(serde_json::to_value(&state.amf.faults))
        }
        Request::Trigger { what } => trigger(shared, &what),
    }
}

fn trigger(shared: &Shared, what: &Trigger) -> Result<Value, String> {
    tracing::info!(?what, "triggered");
    shared.with_amf(|state, now| {
        let amf = &mut state.amf;
        let done = match what {
            Trigger::Deregister {
                supi,
                reregister,
                cause,
            } => amf.deregister(now, supi, *reregister, *cause),
            Trigger::ReleaseSession { supi, session } => {
                amf.release_pdu_session(now, supi, *session)
            }
            Trigger::ModifySession {
                supi,
                session,
                change,
            } => amf.modify_pdu_session(now, supi, *session, change),
            Trigger::ModifyUe { supi, ambr } => amf.modify_ue(now, supi, *ambr),
            Trigger::ReleaseUe { supi } => amf.release(now, supi),
            Trigger::Reset => Ok(amf.reset(now)),
            Trigger::Overload { action, percent } => Ok(amf.overload(now, *action, *percent)),
            Trigger::Relax => Ok(amf.relax(now)),
            Trigger::Withdraw { backup } => Ok(amf.withdraw(now, backup.as_deref())),
            Trigger::DropN2 => Ok(amf.drop_associations()),
        };
        match done {
            Ok(actions) => (Ok(json!({"started": true})), actions),
            Err(error) => (Err(error.to_string()), Vec::new()),
        }
    })
}

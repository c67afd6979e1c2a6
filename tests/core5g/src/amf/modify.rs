//! Changes that the network begins: UE AMBR, session AMBR, QoS flows.

use std::time::Duration;

use oxirush_ngap::Error;
use oxirush_ngap::extract_ngap_ies;
use oxirush_ngap::ngap::{
    NGAP_PDU, PDUSessionResourceFailedToModifyListModRes, PDUSessionResourceModifyListModRes,
};
use serde::{Deserialize, Serialize};

use crate::amf::registration::Protection;
use crate::amf::ue::SessionPhase;
use crate::amf::{Action, Amf, CommandError};
use crate::config::{Ambr, FlowConfig};
use crate::{nas, ngap};

/// What changes of a PDU session; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionChange {
    /// Session AMBR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ambr: Option<Ambr>,
    /// Flows to add, each with a filter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<FlowConfig>,
    /// QFIs of flows to release; the default flow stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<u8>,
}

impl Amf {
    /// UE CONTEXT MODIFICATION REQUEST with another UE AMBR.
    ///
    /// # Errors
    /// [`CommandError::NoUe`].
    pub fn modify_ue(
        &mut self,
        now: Duration,
        supi: &str,
        ambr: Ambr,
    ) -> Result<Vec<Action>, CommandError> {
        self.advance(now);
        let id = self.registered_ue(supi)?;
        self.emit_ue(id, &["UEContextModificationRequest"], |ids| {
            ngap::ue_context_modification(ids, ambr)
        });
        Ok(std::mem::take(&mut self.ready))
    }

    /// PDU SESSION RESOURCE MODIFY REQUEST with PDU SESSION MODIFICATION COMMAND.
    ///
    /// # Errors
    /// [`CommandError::NoUe`], [`CommandError::NoSession`], [`CommandError::NotNow`],
    /// [`CommandError::Build`].
    pub fn modify_pdu_session(
        &mut self,
        now: Duration,
        supi: &str,
        session: u8,
        change: &SessionChange,
    ) -> Result<Vec<Action>, CommandError> {
        self.advance(now);
        let id = self.registered_ue(supi)?;
        let sessions = self.ues.get_mut(&id).map(|ue| &mut ue.sessions);
        let context = sessions
            .and_then(|sessions| sessions.get_mut(&session))
            .ok_or_else(|| CommandError::NoSession {
                supi: supi.to_owned(),
                session,
            })?;
        let refuse = |why| {
            Err(CommandError::NotNow {
                supi: supi.to_owned(),
                session,
                why,
            })
        };
        if context.phase != SessionPhase::Active || context.change.is_some() {
            return refuse("another procedure is under way");
        }
        let default = context.flows.first().map(|(_, flow)| flow.qfi);
        if change.release.iter().any(|qfi| Some(*qfi) == default) {
            return refuse("the default flow stays");
        }
        if change.add.iter().any(|flow| flow.filter.is_none()) {
            return refuse("a further flow needs a filter");
        }
        let mut flows = context.flows.clone();
        let gone = |qfi: u8| change.release.contains(&qfi);
        let deleted = flows.iter().filter(|(_, flow)| gone(flow.qfi));
        let deleted: Vec<u8> = deleted.map(|(rule, _)| *rule).collect();
        flows.retain(|(_, flow)| !gone(flow.qfi));
        let mut created = Vec::new();
        for flow in &change.add {
            if flows.iter().any(|(_, other)| other.qfi == flow.qfi) {
                return refuse("it has such a flow already");
            }
            let free = |rule: &u8| {
                let mut taken = context.flows.iter().chain(&flows);
                taken.all(|(other, _)| other != rule)
            };
            let Some(rule) = (1..=254).find(free) else {
                return refuse("it has no QoS rule left");
            };
            flows.push((rule, flow.clone()));
            created.push((rule, flow.clone()));
        }
        let build = |error: nas::BuildError| CommandError::Build(error.to_string());
        let command = nas::session_modification_command(session, &created, &deleted, change.ambr)
            .and_then(|command| nas::downlink_transport(session, &command, None))
            .map_err(build)?;
        context.change = Some(flows);
        let Some(octets) = self.protect(id, &command, Protection::Normal) else {
            return refuse("its NAS has no keys");
        };
        let modify = ngap::SessionModify {
            id: session,
            nas: octets,
            ambr: change.ambr,
            flows: &change.add,
            released: &change.release,
        };
        let names = [
            "PduSessionModificationCommand",
            "PDUSessionResourceModifyRequest",
        ];
        self.emit_ue(id, &names, |ids| ngap::session_modify(ids, modify));
        Ok(std::mem::take(&mut self.ready))
    }

    /// PDU SESSION RESOURCE MODIFY RESPONSE.
    pub(super) fn sessions_modified(&mut self, id: u64, pdu: &NGAP_PDU) -> Result<(), Error> {
        extract_ngap_ies!(pdu, PDUSessionResourceModifyResponse,
            lax done: PDUSessionResourceModifyListModRes =
                PDUSessionResourceModifyListModRes(list) => list,
            lax failed: PDUSessionResourceFailedToModifyListModRes =
                PDUSessionResourceFailedToModifyListModRes(list) => list,
        );
        let done = done.into_iter().flat_map(|list| list.0);
        let done = done.map(|item| (item.pdu_session_id.0, true));
        let failed = failed.into_iter().flat_map(|list| list.0);
        let failed = failed.map(|item| (item.pdu_session_id.0, false));
        for (session, agreed) in done.chain(failed) {
            let sessions = self.ues.get_mut(&id).map(|ue| &mut ue.sessions);
            let Some(context) = sessions.and_then(|sessions| sessions.get_mut(&session)) else {
                continue;
            };
            let Some(flows) = context.change.take() else {
                continue;
            };
            if !agreed {
                tracing::warn!(ue = id, session, "the N3IWF did not modify the session");
                continue;
            }
            tracing::info!(ue = id, session, "PDU session modified");
            context.qfis = flows.iter().map(|(_, flow)| flow.qfi).collect();
            self.ready.push(Action::Reflow {
                uplink_teid: context.uplink_teid,
                flows: flows.iter().map(|(_, flow)| flow.clone()).collect(),
            });
            context.flows = flows;
        }
        Ok(())
    }
}

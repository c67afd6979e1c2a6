//! NGAP: decoding, dispatch, and the procedures of the interface itself.

use std::net::IpAddr;

use oxirush_ngap::ngap::{
    Cause, CauseMisc, CauseProtocol, CauseRadioNetwork, CriticalityDiagnostics, GlobalRANNodeID,
    InitialContextSetupFailure, NASPDU, NGAP_PDU, PDUSessionResourceFailedToSetupListSURes,
    PDUSessionResourceSetupListSURes, ResetType, SupportedTAList, TriggeringMessage,
    UserLocationInformation,
};
use oxirush_ngap::{Deviation, Error, NgapPduKind, extract_ngap_ies, ie};

use crate::amf::ue::Phase;
use crate::amf::{Action, Amf, AssociationId, Ue};
use crate::ngap;
use crate::types::Slice;

/// UE-associated messages of one UE keep to one stream; stream 0 is for the
/// interface (TS 38.412 clause 7).
const UE_STREAMS: u64 = 8;

/// An association and the node behind it.
pub(crate) struct Association {
    pub(crate) peer: String,
    pub(crate) node: Option<Node>,
}

/// An N3IWF that set its interface up.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) name: Option<String>,
}

impl Association {
    pub(crate) fn new(peer: &str) -> Self {
        Self {
            peer: peer.to_owned(),
            node: None,
        }
    }
}

impl Amf {
    /// One NGAP message: its name and the UE it concerns.
    pub(super) fn ngap(&mut self, from: AssociationId, data: &[u8]) -> (String, Option<u64>) {
        let pdu = match NGAP_PDU::decode(data) {
            Ok(pdu) => pdu,
            Err(error) => {
                self.counters.ngap_undecodable += 1;
                tracing::warn!(%error, "NGAP message does not decode");
                let cause = Cause::protocol(CauseProtocol::transfer_syntax_error);
                self.indicate(from, (None, None), cause, None);
                return ("undecodable".to_owned(), None);
            }
        };
        let name = pdu.procedure_name().to_string();
        let mut received = name.clone();
        let mut ue = None;
        if let Err(error) = self.dispatch(from, &pdu, &mut received, &mut ue) {
            self.counters.ngap_undecodable += 1;
            tracing::warn!(message = %name, %error, "NGAP message refused");
            self.refuse(from, &pdu);
        }
        tracing::debug!(message = %received, ngap = %name, ?ue, "received");
        (received, ue)
    }

    fn dispatch(
        &mut self,
        from: AssociationId,
        pdu: &NGAP_PDU,
        received: &mut String,
        ue: &mut Option<u64>,
    ) -> Result<(), Error> {
        use NgapPduKind as Kind;
        let kind = pdu.kind();
        if kind == Kind::Initiating_NGSetup {
            return self.ng_setup(from, pdu);
        }
        let set_up = self
            .associations
            .get(&from)
            .is_some_and(|association| association.node.is_some());
        if !set_up {
            let cause = Cause::protocol(CauseProtocol::message_not_compatible_with_receiver_state);
            self.indicate(from, (None, None), cause, None);
            return Ok(());
        }
        match kind {
            Kind::Initiating_InitialUEMessage => {
                let id = self.initial_ue(from, pdu, received)?;
                *ue = Some(id);
            }
            Kind::Initiating_NGReset => self.ng_reset(from, pdu)?,
            Kind::Successful_NGReset => {}
            Kind::Initiating_RANConfigurationUpdate => {
                let built = ngap::ran_configuration_update_acknowledge();
                self.emit(from, None, &["RANConfigurationUpdateAcknowledge"], built);
            }
            Kind::Initiating_ErrorIndication => self.error_indication(from, pdu)?,
            Kind::Initiating_UplinkNASTransport
            | Kind::Successful_InitialContextSetup
            | Kind::Unsuccessful_InitialContextSetup
            | Kind::Successful_UEContextModification
            | Kind::Successful_PDUSessionResourceSetup
            | Kind::Successful_PDUSessionResourceModify
            | Kind::Successful_PDUSessionResourceRelease
            | Kind::Initiating_UEContextReleaseRequest
            | Kind::Successful_UEContextRelease
            | Kind::Initiating_NASNonDeliveryIndication
            | Kind::Initiating_PDUSessionResourceNotify
            | Kind::Initiating_UERadioCapabilityInfoIndication => {
                let Some(id) = self.find(from, pdu)? else {
                    return Ok(());
                };
                *ue = Some(id);
                self.ue_associated(id, pdu, received)?;
            }
            _ => {
                tracing::warn!(message = %pdu, "procedure not supported");
                let diagnostics = CriticalityDiagnostics::new(
                    Some(oxirush_ngap::ngap::ProcedureCode(pdu.procedure_code())),
                    Some(TriggeringMessage::initiating_message),
                    Some(pdu.criticality()),
                    None,
                    None,
                );
                let cause = Cause::protocol(CauseProtocol::abstract_syntax_error_reject);
                self.indicate(from, (None, None), cause, Some(diagnostics));
            }
        }
        Ok(())
    }

    fn ue_associated(
        &mut self,
        id: u64,
        pdu: &NGAP_PDU,
        received: &mut String,
    ) -> Result<(), Error> {
        use NgapPduKind as Kind;
        match pdu.kind() {
            Kind::Initiating_UplinkNASTransport => {
                extract_ngap_ies!(pdu, UplinkNASTransport,
                    req nas: NASPDU = NAS_PDU(nas) => nas,
                    lax location: UserLocationInformation = UserLocationInformation(l) => l,
                );
                self.locate(id, location.as_ref());
                *received = self.uplink_nas(id, &nas.0);
            }
            Kind::Successful_InitialContextSetup => self.context_ready(id),
            Kind::Unsuccessful_InitialContextSetup => {
                let message: InitialContextSetupFailure = pdu.decode_value()?;
                extract_ngap_ies!(message, InitialContextSetupFailure,
                    lax cause: Cause = Cause(cause) => cause,
                );
                *received = "InitialContextSetupFailure".to_owned();
                self.context_failed(id, cause);
            }
            Kind::Successful_PDUSessionResourceSetup => {
                extract_ngap_ies!(pdu, PDUSessionResourceSetupResponse,
                    lax done: PDUSessionResourceSetupListSURes =
                        PDUSessionResourceSetupListSURes(list) => list,
                    lax failed: PDUSessionResourceFailedToSetupListSURes =
                        PDUSessionResourceFailedToSetupListSURes(list) => list,
                );
                self.sessions_set_up(id, done.as_ref(), failed.as_ref());
            }
            Kind::Successful_PDUSessionResourceModify => self.sessions_modified(id, pdu)?,
            Kind::Successful_UEContextModification => {
                tracing::info!(ue = id, "UE context modified");
            }
            Kind::Successful_PDUSessionResourceRelease => self.sessions_released(id, pdu)?,
            Kind::Initiating_UEContextReleaseRequest => {
                extract_ngap_ies!(pdu, UEContextReleaseRequest,
                    lax cause: Cause = Cause(cause) => cause,
                );
                let cause = cause.unwrap_or(Cause::radioNetwork(CauseRadioNetwork::unspecified));
                tracing::info!(ue = id, ?cause, "the N3IWF asks to release the UE");
                self.release_ue(id, cause);
            }
            Kind::Successful_UEContextRelease => self.forget_ue(id),
            Kind::Initiating_NASNonDeliveryIndication => {
                tracing::info!(ue = id, "a NAS message was not delivered");
            }
            _ => {}
        }
        Ok(())
    }

    /// NG Setup (TS 38.413 8.7.1): the PLMN, the tracking areas and at least
    /// one slice have to be ours.
    fn ng_setup(&mut self, from: AssociationId, pdu: &NGAP_PDU) -> Result<(), Error> {
        extract_ngap_ies!(pdu, NGSetupRequest,
            req node: GlobalRANNodeID = GlobalRANNodeID(node) => node,
            lax name: String = RANNodeName(name) => name.0.into_owned(),
            req areas: SupportedTAList = SupportedTAList(areas) => areas,
        );
        // A second setup starts the interface anew (8.7.1.1).
        self.forget_ues(from, |_| true);
        let id = match &node {
            GlobalRANNodeID::globalN3IWF_ID(node) => match &node.n3iwf_id {
                oxirush_ngap::ngap::N3IWFID::n3IWF_ID(bits) => Some(bits.value()),
                oxirush_ngap::ngap::N3IWFID::choice_Extensions(_) => None,
            },
            _ => None,
        };
        // What the same N3IWF had on another association is gone, whether that was known to be lost or not.
        self.forget_lost(|_, node| id.is_some() && node == id);
        let same = |node: &Option<Node>| node.as_ref().is_some_and(|node| Some(node.id) == id);
        let others = self.associations.iter();
        let others: Vec<AssociationId> = others
            .filter(|(other, association)| **other != from && same(&association.node))
            .map(|(other, _)| *other)
            .collect();
        for other in others {
            self.forget_ues(other, |_| true);
        }
        let refusal = match id {
            _ if self.policy.ng_setup_failure => {
                Some(Cause::misc(CauseMisc::control_processing_overload))
            }
            None => Some(Cause::misc(CauseMisc::unspecified)),
            Some(_) => self.unserved(&areas),
        };
        let Some(association) = self.associations.get_mut(&from) else {
            return Ok(());
        };
        if let Some(cause) = refusal {
            tracing::warn!(peer = %association.peer, ?cause, "NG Setup refused");
            association.node = None;
            let built = ngap::ng_setup_failure(cause, None);
            self.emit(from, None, &["NGSetupFailure"], built);
            return Ok(());
        }
        let id = id.unwrap_or_default();
        tracing::info!(peer = %association.peer, node = id, name = name.as_deref(), "NG Setup");
        association.node = Some(Node { id, name });
        let built = ngap::ng_setup_response(&self.config);
        self.emit(from, None, &["NGSetupResponse"], built);
        Ok(())
    }

    fn unserved(&self, areas: &SupportedTAList) -> Option<Cause> {
        let ours = self.config.plmn.octets();
        let mut plmn_seen = false;
        let mut area_seen = false;
        for area in &areas.0 {
            for broadcast in &area.broadcast_plmn_list.0 {
                if broadcast.plmn_identity.0 != ours {
                    continue;
                }
                plmn_seen = true;
                if !self
                    .config
                    .tracking_areas
                    .iter()
                    .any(|tac| tac.0 == area.tac.0)
                {
                    continue;
                }
                area_seen = true;
                let slices: Vec<Slice> = broadcast
                    .tai_slice_support_list
                    .0
                    .iter()
                    .map(|item| ngap::slice_of(&item.s_nssai))
                    .collect();
                if slices
                    .iter()
                    .any(|slice| self.config.slices.contains(slice))
                {
                    return None;
                }
            }
        }
        Some(match (plmn_seen, area_seen) {
            (false, _) => Cause::misc(CauseMisc::unknown_PLMN_or_SNPN),
            (true, false) => Cause::misc(CauseMisc::unspecified),
            (true, true) => Cause::radioNetwork(CauseRadioNetwork::slice_not_supported),
        })
    }

    fn initial_ue(
        &mut self,
        from: AssociationId,
        pdu: &NGAP_PDU,
        received: &mut String,
    ) -> Result<u64, Error> {
        extract_ngap_ies!(pdu, InitialUEMessage,
            req ran_id: u32 = RAN_UE_NGAP_ID(id),
            req nas: NASPDU = NAS_PDU(nas) => nas,
            req location: UserLocationInformation = UserLocationInformation(l) => l,
        );
        // The same identifier again: the N3IWF has lost the old one.
        if let Some(old) = self.by_ran_id.get(&(from, ran_id)).copied() {
            self.forget_ue(old);
        }
        let id = self.next_ue;
        self.next_ue += 1;
        let stream = u16::try_from(1 + id % UE_STREAMS).unwrap_or(1);
        self.ues.insert(id, Ue::new(from, stream, ran_id, self.now));
        self.by_ran_id.insert((from, ran_id), id);
        self.locate(id, Some(&location));
        *received = self.uplink_nas(id, &nas.0);
        Ok(id)
    }

    fn locate(&mut self, id: u64, location: Option<&UserLocationInformation<'_>>) {
        if let (
            Some(ue),
            Some(UserLocationInformation::userLocationInformationN3IWF_with_PortNumber(location)),
        ) = (self.ues.get_mut(&id), location)
        {
            let address: Option<IpAddr> = ngap::ip_address(&location.ip_address);
            let port = u16::from_be_bytes(location.port_number.0);
            ue.location = address.map(|address| (address, port));
        }
    }

    /// The UE of a message, by both identifiers (TS 38.413 10.6).
    fn find(&mut self, from: AssociationId, pdu: &NGAP_PDU) -> Result<Option<u64>, Error> {
        let amf_id = pdu.ie::<ie::AMF_UE_NGAP_ID>().transpose()?.map(|id| id.0);
        let ran_id = pdu.ie::<ie::RAN_UE_NGAP_ID>().transpose()?.map(|id| id.0);
        let known = amf_id
            .and_then(|id| self.ues.get(&id))
            .filter(|ue| ue.association == from);
        let cause = match known {
            Some(ue) if Some(ue.ran_id) == ran_id => return Ok(amf_id),
            Some(_) => CauseRadioNetwork::inconsistent_remote_UE_NGAP_ID,
            None => CauseRadioNetwork::unknown_local_UE_NGAP_ID,
        };
        self.counters.ngap_unknown_ue += 1;
        // An answer to a command whose UE is gone is no reason to complain.
        if pdu.kind() != NgapPduKind::Successful_UEContextRelease {
            self.indicate(from, (amf_id, ran_id), Cause::radioNetwork(cause), None);
        }
        Ok(None)
    }

    fn ng_reset(&mut self, from: AssociationId, pdu: &NGAP_PDU) -> Result<(), Error> {
        extract_ngap_ies!(pdu, NGReset,
            req reset: ResetType = ResetType(reset) => reset,
        );
        let list = match reset {
            ResetType::partOfNG_Interface(list) => {
                for item in &list.0 {
                    let id = item.amf_ue_ngap_id.as_ref().map(|id| id.0).or_else(|| {
                        let ran = item.ran_ue_ngap_id.as_ref()?.0;
                        self.by_ran_id.get(&(from, ran)).copied()
                    });
                    let here = |id: &u64| self.ues.get(id).is_some_and(|ue| ue.association == from);
                    if let Some(id) = id.filter(here) {
                        self.forget_ue(id);
                    }
                }
                Some(list)
            }
            _ => {
                self.forget_ues(from, |_| true);
                None
            }
        };
        let built = ngap::ng_reset_acknowledge(list);
        self.emit(from, None, &["NGResetAcknowledge"], built);
        Ok(())
    }

    fn error_indication(&mut self, from: AssociationId, pdu: &NGAP_PDU) -> Result<(), Error> {
        extract_ngap_ies!(pdu, ErrorIndication,
            lax amf_id: u64 = AMF_UE_NGAP_ID(id),
            lax cause: Cause = Cause(cause) => cause,
        );
        tracing::warn!(ue = amf_id, ?cause, "ERROR INDICATION");
        let gone = matches!(
            cause,
            Some(Cause::radioNetwork(
                CauseRadioNetwork::unknown_local_UE_NGAP_ID
                    | CauseRadioNetwork::inconsistent_remote_UE_NGAP_ID
            ))
        );
        let here = |id: &u64| self.ues.get(id).is_some_and(|ue| ue.association == from);
        if let Some(id) = amf_id.filter(here).filter(|_| gone) {
            self.forget_ue(id);
        }
        Ok(())
    }

    fn indicate(
        &mut self,
        to: AssociationId,
        ids: (Option<u64>, Option<u32>),
        cause: Cause,
        diagnostics: Option<CriticalityDiagnostics>,
    ) {
        let built = ngap::error_indication(ids, cause, diagnostics);
        self.emit(to, None, &["ErrorIndication"], built);
    }

    /// The answer to a message whose IEs are wrong (TS 38.413 10.3).
    fn refuse(&mut self, from: AssociationId, pdu: &NGAP_PDU) {
        let deviations = pdu.check().unwrap_or_default();
        let cause = deviations
            .iter()
            .find_map(Deviation::cause)
            .unwrap_or(CauseProtocol::abstract_syntax_error_falsely_constructed_message);
        let cause = Cause::protocol(cause);
        if pdu.kind() == NgapPduKind::Initiating_NGSetup {
            let diagnostics = pdu.criticality_diagnostics_for_response(&deviations);
            let built = ngap::ng_setup_failure(cause, Some(diagnostics));
            self.emit(from, None, &["NGSetupFailure"], built);
            return;
        }
        let amf_id = pdu.ie::<ie::AMF_UE_NGAP_ID>().and_then(Result::ok);
        let ran_id = pdu.ie::<ie::RAN_UE_NGAP_ID>().and_then(Result::ok);
        let ids = (amf_id.map(|id| id.0), ran_id.map(|id| id.0));
        let diagnostics = pdu.criticality_diagnostics(&deviations);
        self.indicate(from, ids, cause, Some(diagnostics));
    }

    /// Tells every N3IWF, or the one association, to forget all UEs.
    pub fn reset(&mut self, now: std::time::Duration) -> Vec<Action> {
        self.advance(now);
        let nodes: Vec<AssociationId> = self.associations.keys().copied().collect();
        for association in nodes {
            self.forget_ues(association, |_| true);
            let cause = Cause::misc(CauseMisc::om_intervention);
            let built = ngap::ng_reset(cause);
            self.emit(association, None, &["NGReset"], built);
        }
        std::mem::take(&mut self.ready)
    }

    /// Breaks every association off.
    pub fn drop_associations(&mut self) -> Vec<Action> {
        self.associations
            .keys()
            .map(|association| Action::Abort(*association))
            .collect()
    }

    fn context_ready(&mut self, id: u64) {
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        if !matches!(ue.phase, Phase::Context) {
            self.counters.nas_unexpected += 1;
            return;
        }
        self.register(id);
    }
}

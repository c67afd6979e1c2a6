//! The SMF: PDU sessions, from the request of the UE to the UPF.

use std::net::IpAddr;

use oxirush_nas::nas_5gs::{
    GmmCause, GsmCause, Nas5gsMessage, Nas5gsmMessage, NasPduSessionEstablishmentRequest,
    NasPduSessionIdentity2, NasPduSessionType, NasRequestType, NasSNssai, NasSscMode,
    NasUlNasTransport, PduSessionTypeValue, RequestTypeValue, SscModeValue,
};
use oxirush_ngap::Error;
use oxirush_ngap::extract_ngap_ies;
use oxirush_ngap::ngap::{
    Cause, CauseNas, NGAP_PDU, PDUSessionResourceFailedToSetupListSURes,
    PDUSessionResourceReleasedListRelRes, PDUSessionResourceSetupListSURes,
    PDUSessionResourceSetupResponseTransfer, UPTransportLayerInformation, decode_open_type,
};

use crate::amf::registration::Protection;
use crate::amf::ue::{Session, SessionPhase};
use crate::amf::{Action, Amf, CommandError, UpfSession};
use crate::config::DnnConfig;
use crate::router::Ipv6Session;
use crate::types::Slice;
use crate::{nas, ngap};

/// PDU session identities a UE may give (TS 24.501 9.4).
const SESSION_IDS: std::ops::RangeInclusive<u8> = 1..=15;

/// A request for a session that may have to wait for an older one's end.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    session: u8,
    pti: u8,
    dnn: String,
    slice: Slice,
    kind: PduSessionTypeValue,
}

impl Amf {
    /// UL NAS TRANSPORT (TS 24.501 5.4.5): only 5GSM is routed.
    pub(super) fn session_transport(&mut self, id: u64, transport: &NasUlNasTransport) {
        let message = match transport.payload_container.decode_as_n1_sm_message() {
            Ok(message) if transport.payload_container_type.is_n1_sm() => message,
            _ => {
                self.counters.nas_undecodable += 1;
                tracing::warn!(ue = id, "UL NAS TRANSPORT without a 5GSM message");
                return;
            }
        };
        let Nas5gsMessage::Gsm(header, body) = &message else {
            return;
        };
        let session = header.pdu_session_identity;
        let pti = header.procedure_transaction_identity;
        let routed = transport
            .pdu_session_id
            .as_ref()
            .map(NasPduSessionIdentity2::pdu_session_id);
        if routed.is_some_and(|routed| routed != session) || !SESSION_IDS.contains(&session) {
            tracing::warn!(ue = id, session, "PDU session identity refused");
            return self.not_forwarded(id, session, &message, GmmCause::PayloadWasNotForwarded);
        }
        match body {
            Nas5gsmMessage::PduSessionEstablishmentRequest(request) => {
                self.session_requested(id, transport, (session, pti), request, &message);
            }
            Nas5gsmMessage::PduSessionReleaseRequest(_) => {
                self.session_release_requested(id, session, pti);
            }
            Nas5gsmMessage::PduSessionReleaseComplete(_) => self.session_step(id, session, true),
            Nas5gsmMessage::PduSessionModificationComplete(_) => {
                tracing::info!(ue = id, session, "PDU SESSION MODIFICATION COMPLETE");
            }
            Nas5gsmMessage::PduSessionModificationCommandReject(reject) => {
                tracing::warn!(ue = id, session, cause = %reject.fgsm_cause.description(), "the UE does not take the modification");
            }
            Nas5gsmMessage::FiveGsmStatus(status) => {
                tracing::warn!(ue = id, session, cause = %status.fgsm_cause.description(), "5GSM STATUS");
            }
            other => {
                self.counters.nas_unexpected += 1;
                tracing::warn!(ue = id, session, message = ?other.message_type(), "5GSM message not supported");
            }
        }
    }

    fn session_requested(
        &mut self,
        id: u64,
        transport: &NasUlNasTransport,
        (session, pti): (u8, u8),
        request: &NasPduSessionEstablishmentRequest,
        message: &Nas5gsMessage,
    ) {
        let Some(ue) = self.ues.get(&id) else {
            return;
        };
        let supi = ue.supi.clone().unwrap_or_default();
        let kind = transport
            .request_type
            .as_ref()
            .and_then(NasRequestType::request_type);
        if !matches!(kind, None | Some(RequestTypeValue::InitialRequest)) {
            return self.not_forwarded(id, session, message, GmmCause::PayloadWasNotForwarded);
        }
        let asked = transport.s_nssai.as_ref().and_then(NasSNssai::parse);
        let slice = match asked {
            None => ue.allowed.first().copied(),
            Some(contents) => {
                let slice = Slice {
                    sst: contents.sst,
                    sd: contents.sd,
                };
                ue.allowed.contains(&slice).then_some(slice)
            }
        };
        let dnn = match &transport.dnn {
            None => self.smf.dnns.first(),
            Some(dnn) => {
                let asked = dnn.as_string().unwrap_or_default();
                self.smf
                    .dnns
                    .iter()
                    .find(|d| d.name.eq_ignore_ascii_case(&asked))
            }
        }
        .filter(|dnn| self.home.allows_dnn(&supi, &dnn.name))
        .map(|dnn| dnn.name.clone());
        let (Some(slice), Some(dnn)) = (slice, dnn) else {
            tracing::warn!(ue = id, session, %supi, "slice or data network refused");
            let cause = GmmCause::DnnNotSupportedOrNotSubscribedInTheSlice;
            return self.not_forwarded(id, session, message, cause);
        };
        let kind = request
            .pdu_session_type
            .as_ref()
            .and_then(NasPduSessionType::session_type);
        let mode = request.ssc_mode.as_ref().and_then(NasSscMode::mode);
        let kind = kind.unwrap_or(PduSessionTypeValue::Ipv4);
        let served = match kind {
            PduSessionTypeValue::Ipv4 | PduSessionTypeValue::Ipv4v6 => true,
            PduSessionTypeValue::Ipv6 => self.dnn(&dnn).is_some_and(|dnn| dnn.pool6.is_some()),
            _ => false,
        };
        let refusal = match (self.policy.pdu_session_reject, mode) {
            (Some(cause), _) => Some(cause),
            (None, _) if !served => Some(GsmCause::PduSessionTypeIpv4OnlyAllowed.as_u8()),
            (None, None | Some(SscModeValue::Ssc1)) => None,
            (None, Some(_)) => Some(GsmCause::NotSupportedSscMode.as_u8()),
        };
        if let Some(cause) = refusal {
            return self.reject_session(id, (session, pti), cause);
        }
        let request = Request {
            session,
            pti,
            dnn,
            slice,
            kind,
        };
        let Some(ue) = self.ues.get_mut(&id) else {
            return;
        };
        match ue.sessions.get_mut(&session) {
            None => self.establish(id, &request),
            // The identity is taken: the old session ends first, without a
            // word to the UE, which has forgotten it (TS 24.501 6.4.1.7).
            Some(old) => {
                old.next = Some(Box::new(request));
                self.release_session(id, session, None, Cause::nas(CauseNas::normal_release));
            }
        }
    }

    fn establish(&mut self, id: u64, request: &Request) {
        let (session, pti) = (request.session, request.pti);
        let Some(dnn) = self.dnn(&request.dnn) else {
            return;
        };
        let supi = self.ues.get(&id).and_then(|ue| ue.supi.clone());
        let fixed = supi.and_then(|supi| self.home.static_ip(&supi));
        let Some(address) = self.addresses.take(&dnn, fixed) else {
            tracing::warn!(ue = id, session, dnn = %dnn.name, "no address left");
            return self.reject_session(
                id,
                (session, pti),
                GsmCause::InsufficientResources.as_u8(),
            );
        };
        let uplink_teid = self.take_teid();
        let ipv4 = request.kind != PduSessionTypeValue::Ipv6;
        let asked = request.kind != PduSessionTypeValue::Ipv4;
        let prefix = dnn.prefix(address).filter(|_| asked);
        let [a, b, c, d] = uplink_teid.to_be_bytes();
        let ipv6 = prefix.map(|prefix| Ipv6Session {
            prefix,
            interface_id: [0, 0, 0, 1, a, b, c, d],
        });
        let granted = nas::Granted {
            ipv4: ipv4.then_some(address),
            interface_id: ipv6.map(|ipv6| ipv6.interface_id),
            both: request.kind == PduSessionTypeValue::Ipv4v6,
        };
        let accept = nas::session_accept((session, pti), &dnn, request.slice, granted)
            .and_then(|accept| nas::downlink_transport(session, &accept, None));
        let octets = match accept {
            Ok(message) => self.protect(id, &message, Protection::Normal),
            Err(error) => {
                tracing::error!(ue = id, %error, "PDU SESSION ESTABLISHMENT ACCEPT");
                None
            }
        };
        let (Some(octets), Some(ue)) = (octets, self.ues.get_mut(&id)) else {
            self.addresses.give_back(&address);
            self.teids.remove(&uplink_teid);
            return;
        };
        ue.sessions.insert(
            session,
            Session {
                phase: SessionPhase::Setup,
                pti,
                dnn: dnn.name.clone(),
                slice: request.slice,
                address,
                uplink_teid,
                downlink: None,
                qfis: Vec::new(),
                flows: (1..).zip(dnn.flows.iter().cloned()).collect(),
                change: None,
                next: None,
            },
        );
        self.ready.push(Action::Install(UpfSession {
            uplink_teid,
            address,
            ipv4,
            ipv6,
            flows: dnn.flows.clone(),
        }));
        let setup = ngap::SessionSetup {
            id: session,
            nas: octets,
            slice: request.slice,
            ambr: dnn.ambr,
            ue_ambr: self.config.ue_ambr,
            uplink: (self.upf_address, uplink_teid),
            flows: &dnn.flows,
        };
        let names = [
            "PduSessionEstablishmentAccept",
            "PDUSessionResourceSetupRequest",
        ];
        self.emit_ue(id, &names, |ids| ngap::session_setup(ids, setup));
    }

    /// PDU SESSION RESOURCE SETUP RESPONSE.
    pub(super) fn sessions_set_up(
        &mut self,
        id: u64,
        done: Option<&PDUSessionResourceSetupListSURes<'_>>,
        failed: Option<&PDUSessionResourceFailedToSetupListSURes<'_>>,
    ) {
        for item in done.into_iter().flat_map(|list| &list.0) {
            let session = item.pdu_session_id.0;
            let transfer = decode_open_type::<PDUSessionResourceSetupResponseTransfer<'_>>(
                &item.pdu_session_resource_setup_response_transfer,
            );
            match transfer.as_ref().ok().and_then(tunnel) {
                Some((downlink, qfis)) => self.session_up(id, session, downlink, qfis),
                None => {
                    tracing::warn!(ue = id, session, "setup response without a usable tunnel");
                    self.session_failed(id, session);
                }
            }
        }
        for item in failed.into_iter().flat_map(|list| &list.0) {
            self.session_failed(id, item.pdu_session_id.0);
        }
    }

    fn session_up(&mut self, id: u64, session: u8, downlink: (IpAddr, u32), qfis: Vec<u8>) {
        let Some(context) = self
            .ues
            .get_mut(&id)
            .and_then(|ue| ue.sessions.get_mut(&session))
            .filter(|context| context.phase == SessionPhase::Setup)
        else {
            return;
        };
        context.phase = SessionPhase::Active;
        context.downlink = Some(downlink);
        context.qfis.clone_from(&qfis);
        tracing::info!(ue = id, session, address = %context.address, "PDU session up");
        self.ready.push(Action::Connect {
            uplink_teid: context.uplink_teid,
            downlink,
            qfis,
        });
    }

    /// The N3IWF could not: the UE, which has not seen the accept, is told.
    fn session_failed(&mut self, id: u64, session: u8) {
        tracing::warn!(ue = id, session, "PDU SESSION RESOURCE SETUP failed");
        if let Some(pti) = self.drop_session(id, session) {
            self.reject_session(id, (session, pti), GsmCause::InsufficientResources.as_u8());
        }
    }

    fn session_release_requested(&mut self, id: u64, session: u8, pti: u8) {
        let known = self
            .ues
            .get(&id)
            .is_some_and(|ue| ue.sessions.contains_key(&session));
        if known {
            let cause = Cause::nas(CauseNas::normal_release);
            return self.release_session(
                id,
                session,
                Some((pti, GsmCause::RegularDeactivation)),
                cause,
            );
        }
        let cause = GsmCause::InvalidPduSessionIdentity;
        let reject = nas::session_release_reject((session, pti), cause);
        self.send_session_message(id, session, &reject);
    }

    /// Releases a session of a UE from the network's side.
    ///
    /// # Errors
    /// [`CommandError::NoUe`], [`CommandError::NoSession`].
    pub fn release_pdu_session(
        &mut self,
        now: std::time::Duration,
        supi: &str,
        session: u8,
    ) -> Result<Vec<Action>, CommandError> {
        self.advance(now);
        let id = self.registered_ue(supi)?;
        if !self
            .ues
            .get(&id)
            .is_some_and(|ue| ue.sessions.contains_key(&session))
        {
            return Err(CommandError::NoSession {
                supi: supi.to_owned(),
                session,
            });
        }
        let nas = Some((0, GsmCause::RegularDeactivation));
        self.release_session(id, session, nas, Cause::nas(CauseNas::normal_release));
        Ok(std::mem::take(&mut self.ready))
    }

    /// PDU SESSION RESOURCE RELEASE COMMAND; with a PTI and a cause also PDU
    /// SESSION RELEASE COMMAND for the UE.
    fn release_session(&mut self, id: u64, session: u8, nas: Option<(u8, GsmCause)>, cause: Cause) {
        let Some(context) = self
            .ues
            .get_mut(&id)
            .and_then(|ue| ue.sessions.get_mut(&session))
        else {
            return;
        };
        if matches!(context.phase, SessionPhase::Release { .. }) {
            return;
        }
        context.phase = SessionPhase::Release {
            n3iwf: false,
            ue: nas.is_none(),
        };
        let octets = nas.and_then(|(pti, cause)| {
            let command = nas::session_release_command((session, pti), cause);
            let message = nas::downlink_transport(session, &command, None).ok()?;
            self.protect(id, &message, Protection::Normal)
        });
        let names = [
            "PduSessionReleaseCommand",
            "PDUSessionResourceReleaseCommand",
        ];
        self.emit_ue(id, &names, |ids| {
            ngap::session_release(ids, session, cause, octets)
        });
    }

    /// PDU SESSION RESOURCE RELEASE RESPONSE.
    pub(super) fn sessions_released(&mut self, id: u64, pdu: &NGAP_PDU) -> Result<(), Error> {
        extract_ngap_ies!(pdu, PDUSessionResourceReleaseResponse,
            req list: PDUSessionResourceReleasedListRelRes =
                PDUSessionResourceReleasedListRelRes(list) => list,
        );
        let sessions: Vec<u8> = list.0.iter().map(|item| item.pdu_session_id.0).collect();
        for session in sessions {
            self.session_step(id, session, false);
        }
        Ok(())
    }

    /// One of the two ends of a release has answered.
    fn session_step(&mut self, id: u64, session: u8, by_ue: bool) {
        let Some(context) = self
            .ues
            .get_mut(&id)
            .and_then(|ue| ue.sessions.get_mut(&session))
        else {
            return;
        };
        let SessionPhase::Release { n3iwf, ue } = &mut context.phase else {
            self.counters.nas_unexpected += 1;
            return;
        };
        if by_ue {
            *ue = true;
        } else {
            *n3iwf = true;
        }
        if !(*ue && *n3iwf) {
            return;
        }
        let next = context.next.take();
        self.drop_session(id, session);
        tracing::info!(ue = id, session, "PDU session released");
        if let Some(request) = next {
            self.establish(id, &request);
        }
    }

    fn reject_session(&mut self, id: u64, (session, pti): (u8, u8), cause: u8) {
        let reject = nas::session_reject((session, pti), cause);
        self.send_session_message(id, session, &reject);
    }

    fn send_session_message(&mut self, id: u64, session: u8, message: &Nas5gsMessage) {
        match nas::downlink_transport(session, message, None) {
            Ok(message) => self.send_nas(id, &message, Protection::Normal),
            Err(error) => tracing::error!(ue = id, %error, "5GSM message not sent"),
        }
    }

    /// The 5GSM message goes back to the UE (TS 24.501 5.4.5.3).
    fn not_forwarded(&mut self, id: u64, session: u8, message: &Nas5gsMessage, cause: GmmCause) {
        match nas::downlink_transport(session, message, Some(cause)) {
            Ok(message) => self.send_nas(id, &message, Protection::Normal),
            Err(error) => tracing::error!(ue = id, %error, "DL NAS TRANSPORT not sent"),
        }
    }

    /// Forgets a session: its PTI.
    fn drop_session(&mut self, id: u64, session: u8) -> Option<u8> {
        let context = self.ues.get_mut(&id)?.sessions.remove(&session)?;
        self.addresses.give_back(&context.address);
        self.teids.remove(&context.uplink_teid);
        self.ready.push(Action::Remove {
            uplink_teid: context.uplink_teid,
        });
        Some(context.pti)
    }

    pub(super) fn drop_sessions(&mut self, id: u64) {
        let sessions: Vec<u8> = self
            .ues
            .get(&id)
            .map(|ue| ue.sessions.keys().copied().collect())
            .unwrap_or_default();
        for session in sessions {
            self.drop_session(id, session);
        }
    }

    fn dnn(&self, name: &str) -> Option<DnnConfig> {
        self.smf.dnns.iter().find(|dnn| dnn.name == name).cloned()
    }

    /// The lowest free address, so that a first UE is where a test expects it.
    fn take_teid(&mut self) -> u32 {
        loop {
            let teid = self.random_u32();
            if teid != 0 && self.teids.insert(teid) {
                return teid;
            }
        }
    }
}

/// The N3IWF's tunnel end and the flows in it.
fn tunnel(
    transfer: &PDUSessionResourceSetupResponseTransfer<'_>,
) -> Option<((IpAddr, u32), Vec<u8>)> {
    let flows = &transfer.dl_qos_flow_per_tnl_information;
    let UPTransportLayerInformation::gTPTunnel(tunnel) = &flows.up_transport_layer_information
    else {
        return None;
    };
    let address = ngap::ip_address(&tunnel.transport_layer_address)?;
    let qfis = flows
        .associated_qos_flow_list
        .0
        .iter()
        .filter_map(|flow| u8::try_from(flow.qos_flow_identifier.0).ok())
        .collect();
    Some(((address, u32::from_be_bytes(tunnel.gtp_teid.0)), qfis))
}

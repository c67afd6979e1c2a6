//! PDU sessions: establishment and release (TS 24.501, 6.4.1, 6.4.3, 6.3.3), carried by NAS
//! transport (5.4.5).

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use dataplane::relay::UplinkRules;
use nwu::SNssai;
use oxirush_nas::nas_5gs::{
    GsmCause, Nas5gsMessage, Nas5gsmMessage, NasDlNasTransport, NasDnn,
    NasExtendedProtocolConfigurationOptions, NasFGsmCapability, NasFGsmCause, NasFGsmStatus,
    NasGprsTimer, NasIntegrityProtectionMaximumDataRate, NasPayloadContainer,
    NasPayloadContainerType, NasPduAddress, NasPduSessionEstablishmentAccept,
    NasPduSessionEstablishmentRequest, NasPduSessionIdentity2, NasPduSessionModificationCommand,
    NasPduSessionModificationCommandReject, NasPduSessionModificationComplete,
    NasPduSessionReleaseComplete, NasPduSessionReleaseRequest, NasPduSessionType, NasRequestType,
    NasSNssai, NasSscMode, NasUlNasTransport, PayloadContainerKind, Pco, PcoDirection, PcoEntry,
    PduSessionTypeValue, RequestTypeValue, SscModeValue,
};

use super::{
    Discard, Event, Failure, MmCause, Nas, SessionFailure, SmCause, mobility::to_nas, qos::QosRules,
};

/// PDU session type (TS 24.501, 9.11.4.11).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionKind {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Both.
    Ipv4v6,
}

/// A PDU session to establish: SSC mode 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// PDU session identity, 1 to 15.
    pub id: u8,
    /// The data network, or none to let the network choose.
    pub dnn: Option<String>,
    /// The slice, or none to let the network choose.
    pub s_nssai: Option<SNssai>,
    /// PDU session type; the network may choose one of two.
    pub kind: SessionKind,
}

/// An established PDU session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionAccept {
    /// PDU session identity.
    pub id: u8,
    /// The UE's IPv4 address in the data network.
    pub address: Option<Ipv4Addr>,
    /// With IPv6: interface identifier of its link-local address.
    pub interface_id: Option<[u8; 8]>,
    /// The authorized QoS rules.
    pub rules: QosRules,
    /// How long a rule that reflective QoS derived holds (T3583). Zero: it does not apply.
    pub rq_timer: Duration,
    /// Session AMBR in kbit/s, downlink and uplink.
    pub ambr_kbps: Option<(u64, u64)>,
    /// The data network.
    pub dnn: Option<String>,
    /// The slice.
    pub s_nssai: Option<SNssai>,
    /// IPv4 link MTU of the protocol configuration options, in octets.
    pub mtu: Option<u16>,
    /// DNS servers of the protocol configuration options.
    pub dns: Vec<Ipv4Addr>,
}

impl SessionAccept {
    /// What the relay chooses the QFI of uplink packets by.
    pub fn uplink(&self) -> UplinkRules {
        self.rules.uplink().with_rq_timer(self.rq_timer)
    }
}

/// PDU sessions by identity.
#[derive(Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<u8, State>,
    last_pti: u8,
}

enum State {
    Establishing(Procedure),
    Active(QosRules),
    Releasing(Procedure),
}

/// A 5GSM procedure this UE began, with what it sends again when the timer expires.
struct Procedure {
    pti: u8,
    transport: Nas5gsMessage,
    deadline: Duration,
    sent: u8,
}

/// T3583 where the network gives no value (TS 24.501, table 10.3.1).
const RQ_TIMER: Duration = Duration::from_secs(60);

/// Requests before a procedure is given up (6.4.1.6, 6.4.3.5: the timer expires five times).
const MAX_REQUESTS: u8 = 5;

/// Container identifiers of TS 24.008, table 10.5.154.
const PCO_DNS_IPV4: u16 = 0x000d;
const PCO_LINK_MTU_IPV4: u16 = 0x0010;

/// Full data rate of integrity protected user data (9.11.4.7): both octets 0xff. User plane
/// integrity is that of ESP here.
const FULL_RATE: u16 = 0xffff;

impl Sessions {
    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        let deadline = |state: &State| match state {
            State::Establishing(procedure) | State::Releasing(procedure) => {
                Some(procedure.deadline)
            }
            State::Active(_) => None,
        };
        self.by_id.values().filter_map(deadline).min()
    }

    /// The next procedure transaction identity, 1 to 254 (TS 24.007, 11.2.3.1a).
    fn next_pti(&mut self) -> u8 {
        self.last_pti = if self.last_pti >= 254 {
            1
        } else {
            self.last_pti + 1
        };
        self.last_pti
    }
}

impl Nas {
    /// Requests a PDU session. A session with this identity that exists already is left alone.
    pub fn establish(&mut self, now: Duration, request: &SessionRequest) {
        let id = request.id;
        if !self.is_registered() {
            let failure = SessionFailure::NotRegistered;
            return self.event(Event::SessionFailed { id, failure });
        }
        if self.sessions.by_id.contains_key(&id) {
            return;
        }
        let pti = self.sessions.next_pti();
        match establishment_request(request, pti) {
            Ok(transport) => {
                if self.send(&transport) {
                    let deadline = now + self.config.timers.t3580;
                    let procedure = Procedure {
                        pti,
                        transport,
                        deadline,
                        sent: 1,
                    };
                    self.sessions
                        .by_id
                        .insert(id, State::Establishing(procedure));
                }
            }
            Err(error) => self.fail(Failure::Encode(error)),
        }
    }

    /// Releases a PDU session. A session that is not active is left alone.
    pub fn release(&mut self, now: Duration, id: u8) {
        if matches!(self.sessions.by_id.get(&id), Some(State::Active(_))) {
            self.request_release(now, id, GsmCause::RegularDeactivation);
        }
    }

    pub(super) fn session_timeout(&mut self, now: Duration) {
        let due = |state: &State| match state {
            State::Establishing(procedure) | State::Releasing(procedure) => {
                now >= procedure.deadline
            }
            State::Active(_) => false,
        };
        let ids = self.sessions.by_id.iter().filter(|(_, state)| due(state));
        let ids: Vec<u8> = ids.map(|(&id, _)| id).collect();
        for id in ids {
            self.retry_or_give_up(now, id);
        }
    }

    /// DL NAS TRANSPORT (5.4.5.3).
    pub(super) fn dl_nas_transport(
        &mut self,
        now: Duration,
        transport: &NasDlNasTransport,
    ) -> Result<(), Discard> {
        if !transport.payload_container_type.is_n1_sm() {
            return Err(Discard::Unexpected("payload of DL NAS TRANSPORT".into()));
        }
        // With a 5GMM cause the container is this UE's own message, coming back.
        if let Some(cause) = &transport.fgmm_cause {
            let cause = MmCause(cause.cause_raw());
            let id = transport
                .pdu_session_id
                .as_ref()
                .map(NasPduSessionIdentity2::pdu_session_id);
            return match id.filter(|id| self.sessions.by_id.remove(id).is_some()) {
                Some(id) => {
                    let failure = SessionFailure::NotForwarded(cause);
                    self.event(Event::SessionFailed { id, failure });
                    Ok(())
                }
                None => Err(Discard::Unexpected(format!(
                    "DL NAS TRANSPORT with {cause}"
                ))),
            };
        }
        match transport.payload_container.decode_as_n1_sm_message() {
            Ok(Nas5gsMessage::Gsm(header, message)) => self.session(
                now,
                header.pdu_session_identity,
                header.procedure_transaction_identity,
                message,
            ),
            Ok(other) => Err(Discard::Unexpected(other.to_string())),
            Err(error) => {
                let octets = &transport.payload_container.value;
                let answer = Nas5gsMessage::answer_to_refused(
                    octets,
                    &error,
                    oxirush_nas::nas_5gs::Direction::Downlink,
                );
                if let Some(answer @ Nas5gsMessage::Gsm(header, _)) = &answer {
                    self.send_gsm(header.pdu_session_identity, answer);
                }
                Err(Discard::Unreadable(error.to_string()))
            }
        }
    }

    fn session(
        &mut self,
        now: Duration,
        id: u8,
        pti: u8,
        message: Nas5gsmMessage,
    ) -> Result<(), Discard> {
        let state = self.sessions.by_id.get(&id);
        let establishing = matches!(state, Some(State::Establishing(p)) if p.pti == pti);
        match message {
            Nas5gsmMessage::PduSessionEstablishmentAccept(accept) if establishing => {
                self.session_accept(now, id, &accept);
            }
            Nas5gsmMessage::PduSessionEstablishmentReject(reject) if establishing => {
                self.sessions.by_id.remove(&id);
                let timer = reject.back_off_timer_value;
                let failure = SessionFailure::Rejected {
                    cause: SmCause(reject.fgsm_cause.cause_raw()),
                    retry_after: timer
                        .and_then(|timer| timer.to_seconds())
                        .map(Duration::from_secs),
                };
                self.event(Event::SessionFailed { id, failure });
            }
            Nas5gsmMessage::PduSessionReleaseCommand(command) => {
                let Some(state) = self.sessions.by_id.remove(&id) else {
                    self.gsm_status(id, pti, GsmCause::InvalidPduSessionIdentity);
                    return Err(Discard::Unexpected("PDU SESSION RELEASE COMMAND".into()));
                };
                let by_network = !matches!(state, State::Releasing(p) if p.pti == pti);
                let complete =
                    Nas5gsMessage::new_5gsm(NasPduSessionReleaseComplete::new(), id, pti);
                self.send_gsm(id, &complete);
                let cause = Some(SmCause(command.fgsm_cause.cause_raw()));
                self.event(Event::SessionReleased {
                    id,
                    by_network,
                    cause,
                });
            }
            Nas5gsmMessage::PduSessionModificationCommand(command)
                if matches!(state, Some(State::Active(_))) =>
            {
                self.session_modification(id, pti, &command);
            }
            Nas5gsmMessage::PduSessionReleaseReject(reject) if matches!(state, Some(State::Releasing(p)) if p.pti == pti) =>
            {
                // The network does not know the session: it is gone here too (6.4.3.4).
                self.sessions.by_id.remove(&id);
                let cause = Some(SmCause(reject.fgsm_cause.cause_raw()));
                let by_network = false;
                self.event(Event::SessionReleased {
                    id,
                    by_network,
                    cause,
                });
            }
            Nas5gsmMessage::FiveGsmStatus(status) => {
                let cause = SmCause(status.fgsm_cause.cause_raw());
                self.event(Event::Status(format!(
                    "5GSM STATUS, PDU session {id}: {cause}"
                )));
            }
            other => {
                let cause = GsmCause::MessageTypeNotCompatibleWithTheProtocolState;
                self.gsm_status(id, pti, cause);
                return Err(Discard::Unexpected(format!("{:?}", other.message_type())));
            }
        }
        Ok(())
    }

    fn session_accept(&mut self, now: Duration, id: u8, accept: &NasPduSessionEstablishmentAccept) {
        match read_accept(id, accept) {
            Ok(accept) => {
                let active = State::Active(accept.rules.clone());
                self.sessions.by_id.insert(id, active);
                self.event(Event::SessionAccepted(accept));
            }
            Err((cause, why)) => {
                let active = State::Active(QosRules::default());
                self.sessions.by_id.insert(id, active);
                self.request_release(now, id, cause);
                let failure = SessionFailure::Unusable(why);
                self.event(Event::SessionFailed { id, failure });
            }
        }
    }

    /// PDU SESSION MODIFICATION COMMAND (6.3.2.3, 6.3.2.4).
    fn session_modification(
        &mut self,
        id: u8,
        pti: u8,
        command: &NasPduSessionModificationCommand,
    ) {
        let Some(State::Active(rules)) = self.sessions.by_id.get_mut(&id) else {
            return;
        };
        let changes = command.authorized_qos_rules.as_ref();
        match changes.map(|changes| rules.modified(changes)).transpose() {
            Ok(modified) => {
                if let Some(modified) = &modified {
                    *rules = modified.clone();
                }
                let complete =
                    Nas5gsMessage::new_5gsm(NasPduSessionModificationComplete::new(), id, pti);
                self.send_gsm(id, &complete);
                let ambr = command.session_ambr.as_ref();
                self.event(Event::SessionModified {
                    id,
                    rules: modified,
                    rq_timer: command.rq_timer_value.as_ref().map(rq_timer),
                    ambr_kbps: ambr.and_then(|a| a.downlink_kbps().zip(a.uplink_kbps())),
                });
            }
            Err((cause, why)) => {
                let cause = NasFGsmCause::from_cause(cause);
                let reject = NasPduSessionModificationCommandReject::new(cause);
                self.send_gsm(id, &Nas5gsMessage::new_5gsm(reject, id, pti));
                self.event(Event::Status(format!(
                    "PDU session {id} is not modified: {why}"
                )));
            }
        }
    }

    fn request_release(&mut self, now: Duration, id: u8, cause: GsmCause) {
        let pti = self.sessions.next_pti();
        let mut request = NasPduSessionReleaseRequest::new();
        request.set_fgsm_cause(NasFGsmCause::from_cause(cause));
        let message = Nas5gsMessage::new_5gsm(request, id, pti);
        if let Some(transport) = self.send_gsm(id, &message) {
            let deadline = now + self.config.timers.t3582;
            let procedure = Procedure {
                pti,
                transport,
                deadline,
                sent: 1,
            };
            self.sessions.by_id.insert(id, State::Releasing(procedure));
        }
    }

    fn retry_or_give_up(&mut self, now: Duration, id: u8) {
        let timers = self.config.timers;
        let Some(state) = self.sessions.by_id.get_mut(&id) else {
            return;
        };
        let (procedure, timer, establishing) = match state {
            State::Establishing(procedure) => (procedure, timers.t3580, true),
            State::Releasing(procedure) => (procedure, timers.t3582, false),
            State::Active(_) => return,
        };
        if procedure.sent < MAX_REQUESTS {
            procedure.sent += 1;
            procedure.deadline = now + timer;
            let transport = procedure.transport.clone();
            self.send(&transport);
            return;
        }
        self.sessions.by_id.remove(&id);
        self.event(if establishing {
            let failure = SessionFailure::NoAnswer("T3580");
            Event::SessionFailed { id, failure }
        } else {
            Event::SessionReleased {
                id,
                by_network: false,
                cause: None,
            }
        });
    }

    fn gsm_status(&mut self, id: u8, pti: u8, cause: GsmCause) {
        let status = NasFGsmStatus::new(NasFGsmCause::from_cause(cause));
        self.send_gsm(id, &Nas5gsMessage::new_5gsm(status, id, pti));
    }

    /// Sends a 5GSM message of an existing session; gives the UL NAS TRANSPORT it went in.
    fn send_gsm(&mut self, id: u8, message: &Nas5gsMessage) -> Option<Nas5gsMessage> {
        match NasPayloadContainer::from_n1_sm_message(message) {
            Ok(container) => {
                let transport = Nas5gsMessage::new_5gmm(
                    NasUlNasTransport::new(n1_sm(), container)
                        .with_pdu_session_id(NasPduSessionIdentity2::from_pdu_session_id(id)),
                );
                self.send(&transport).then_some(transport)
            }
            Err(error) => {
                self.fail(Failure::Encode(error.to_string()));
                None
            }
        }
    }
}

fn n1_sm() -> NasPayloadContainerType {
    NasPayloadContainerType::from_kind(PayloadContainerKind::N1SmInformation)
}

/// UL NAS TRANSPORT with a PDU SESSION ESTABLISHMENT REQUEST (6.4.1.2).
fn establishment_request(request: &SessionRequest, pti: u8) -> Result<Nas5gsMessage, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let wanted = |identifier| PcoEntry {
        identifier,
        contents: Vec::new(),
    };
    let options = Pco::new(0, vec![wanted(PCO_DNS_IPV4), wanted(PCO_LINK_MTU_IPV4)]);
    let options = NasExtendedProtocolConfigurationOptions::from_pco(&options, PcoDirection::Uplink)
        .map_err(|error| text(&error))?;
    let rate = NasIntegrityProtectionMaximumDataRate::new(FULL_RATE);
    let establishment = NasPduSessionEstablishmentRequest::new(rate)
        .with_pdu_session_type(NasPduSessionType::from_session_type(match request.kind {
            SessionKind::Ipv4 => PduSessionTypeValue::Ipv4,
            SessionKind::Ipv6 => PduSessionTypeValue::Ipv6,
            SessionKind::Ipv4v6 => PduSessionTypeValue::Ipv4v6,
        }))
        .with_ssc_mode(NasSscMode::from_mode(SscModeValue::Ssc1))
        .with_fgsm_capability(NasFGsmCapability::default().with_rqos(true))
        .with_extended_protocol_configuration_options(options);
    let message = Nas5gsMessage::new_5gsm(establishment, request.id, pti);
    let container =
        NasPayloadContainer::from_n1_sm_message(&message).map_err(|error| text(&error))?;
    let mut transport = NasUlNasTransport::new(n1_sm(), container)
        .with_pdu_session_id(NasPduSessionIdentity2::from_pdu_session_id(request.id))
        .with_request_type(NasRequestType::from_request_type(
            RequestTypeValue::InitialRequest,
        ));
    if let Some(slice) = &request.s_nssai {
        transport.set_s_nssai(to_nas(slice));
    }
    if let Some(dnn) = &request.dnn {
        transport.set_dnn(NasDnn::from_string(dnn).map_err(|error| text(&error))?);
    }
    Ok(Nas5gsMessage::new_5gmm(transport))
}

/// What this UE needs of an accept, or the 5GSM cause to release the session with (6.4.1.3).
fn read_accept(
    id: u8,
    accept: &NasPduSessionEstablishmentAccept,
) -> Result<SessionAccept, (GsmCause, &'static str)> {
    let (ipv4, ipv6) = match accept.selected_pdu_session_type.session_type() {
        Some(PduSessionTypeValue::Ipv4) => (true, false),
        Some(PduSessionTypeValue::Ipv6) => (false, true),
        Some(PduSessionTypeValue::Ipv4v6) => (true, true),
        _ => {
            let why = "its PDU session type is not of IP";
            return Err((GsmCause::UnknownPduSessionType, why));
        }
    };
    let pdu_address = accept.pdu_address.as_ref();
    let address = pdu_address.and_then(NasPduAddress::ipv4);
    let address = address.map(Ipv4Addr::from).filter(|a| is_host(*a));
    let interface_id = pdu_address.and_then(NasPduAddress::ipv6_interface_id);
    let interface_id = interface_id.filter(|id| *id != [0; 8]);
    if ipv4 != address.is_some() || ipv6 != interface_id.is_some() {
        return Err((
            GsmCause::InvalidMandatoryInformation,
            "it has no usable address of its type",
        ));
    }
    let rules = QosRules::established(&accept.authorized_qos_rules)?;
    let options = accept.extended_protocol_configuration_options.as_ref();
    let options = options.and_then(|options| options.pco(PcoDirection::Downlink));
    let entries = options.map(|options| options.entries).unwrap_or_default();
    let of = |wanted| {
        entries
            .iter()
            .filter(move |entry| entry.identifier == wanted)
    };
    let mtu = of(PCO_LINK_MTU_IPV4).find_map(|e| <[u8; 2]>::try_from(&*e.contents).ok());
    let dns = of(PCO_DNS_IPV4).filter_map(|e| <[u8; 4]>::try_from(&*e.contents).ok());
    let ambr = &accept.session_ambr;
    let slice = accept.s_nssai.as_ref().and_then(NasSNssai::parse);
    Ok(SessionAccept {
        id,
        address,
        interface_id,
        rules,
        rq_timer: accept.rq_timer_value.as_ref().map_or(RQ_TIMER, rq_timer),
        ambr_kbps: ambr.downlink_kbps().zip(ambr.uplink_kbps()),
        dnn: accept.dnn.as_ref().and_then(NasDnn::as_string),
        s_nssai: slice.map(|slice| SNssai {
            sst: slice.sst,
            sd: slice.sd,
        }),
        mtu: mtu.map(u16::from_be_bytes),
        dns: dns.map(Ipv4Addr::from).collect(),
    })
}

/// Deactivated is zero (TS 24.501, 6.4.1.3).
fn rq_timer(timer: &NasGprsTimer) -> Duration {
    timer
        .to_seconds()
        .map_or(Duration::ZERO, Duration::from_secs)
}

/// An address a host may have.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_loopback())
}

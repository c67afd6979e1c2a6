//! EAP-5G (TS 24.502, 7.3) between the UE and the AMF, up to the signalling Child SA, and NAS
//! after it.

use std::net::IpAddr;

use daemon::timeline::{Party, Phase, Timeline};
use ike::{
    EapSuccess, Instant, Path, SaId,
    wire::{CfgAttribute, CfgAttributeType, Notify, NotifyType, Protocol, TrafficSelector},
};
use ipnet::IpNet;
use nwu::{
    AnParameters,
    eap5g::{Packet, Request, Response},
    notify,
};
use tracing::{debug, info, warn};

use super::{
    DOWNLINK_LIMIT, N3iwf,
    amf::NoAmf,
    pacing::Pace,
    types::{Action, Command, Eap, IkeState, N2State, NasLink, PendingContext, Ue},
};
use crate::ngap::{self, Cause, CauseRadioNetwork, ContextSetup};

impl N3iwf {
    /// IKE_AUTH 1 is accepted: 5G-Start.
    pub(super) fn eap_begin(&mut self, now: Instant, sa: SaId, path: Path, legacy: bool) {
        self.touched = Some(sa);
        let mut timeline = self
            .half_open
            .remove(&sa)
            .unwrap_or_else(|| Timeline::begin(now.since_origin()));
        timeline.enter(Phase::Auth, now.since_origin());
        self.phases
            .push_back((Phase::Init, timeline.of(Phase::Init)));
        let number = match self.ran_ids.take() {
            Some(number) if !self.stopping && self.any_amf_ready() => number,
            taken => {
                info!(%sa, "no AMF: attach refused");
                if let Some(number) = taken {
                    self.ran_ids.give_back(number);
                }
                self.refuse(sa);
                return;
            }
        };
        info!(ue = number, remote = %path.remote, legacy, "UE begins EAP-5G");
        let eap = Eap {
            identifier: 1,
            awaits_ue: true,
        };
        self.by_sa.insert(sa, number);
        self.ues.insert(Ue {
            number,
            sa,
            path,
            ike: IkeState::Authenticating,
            n2: N2State::None,
            amf: None,
            eap,
            downlink: Default::default(),
            link: None,
            pace: legacy.then(Pace::new),
            inner: None,
            ambr: None,
            children: Default::default(),
            signalling: None,
            context: None,
            sessions: Default::default(),
            lost: Vec::new(),
            setups: Vec::new(),
            releases: Vec::new(),
            modifies: Vec::new(),
            relays: Default::default(),
            timeline,
            since: now,
        });
        self.send_eap(sa, eap.identifier, Request::Start);
    }

    /// An EAP packet of the UE.
    pub(super) fn eap(&mut self, now: Instant, sa: SaId, packet: &[u8]) {
        self.touched = Some(sa);
        let Some(ue) = self.ue_of(sa) else {
            return;
        };
        if ue.ike != IkeState::Authenticating || !ue.eap.awaits_ue {
            return;
        }
        let number = ue.number;
        ue.eap.awaits_ue = false;
        let expected = ue.eap.identifier;
        match Packet::decode(packet) {
            Ok(Packet::Response {
                identifier,
                message: Response::Nas { an_parameters, nas },
            }) if identifier == expected => self.eap_nas(now, number, &an_parameters, &nas),
            Ok(Packet::Response {
                message: Response::Stop,
                ..
            }) => {
                info!(ue = number, "5G-Stop");
                self.abandon_eap(now, number);
            }
            Ok(other) => {
                let identifier = other.identifier();
                warn!(ue = number, identifier, expected, "unexpected EAP packet");
                self.abandon_eap(now, number);
            }
            Err(error) => {
                warn!(ue = number, %error, "EAP packet refused");
                self.abandon_eap(now, number);
            }
        }
    }

    fn eap_nas(&mut self, now: Instant, number: u32, parameters: &AnParameters, nas: &[u8]) {
        let Some(ue) = self.ues.get(&number) else {
            return;
        };
        match ue.n2 {
            N2State::None => {
                let amf = match self.select_amf(parameters) {
                    Ok(amf) => amf,
                    Err(NoAmf::Down) => {
                        warn!(ue = number, "no AMF");
                        self.abandon_eap(now, number);
                        return;
                    }
                    Err(NoAmf::Overloaded) => {
                        self.turn_away(now, number);
                        return;
                    }
                };
                let Some(ue) = self.ues.get(&number) else {
                    return;
                };
                let message = ngap::initial_ue_message(
                    number,
                    nas,
                    ue.path.remote,
                    parameters.establishment_cause,
                    parameters.guami.as_ref(),
                    parameters.selected_plmn,
                );
                if let Some(ue) = self.ues.get_mut(&number) {
                    ue.amf = Some(amf);
                    ue.n2 = N2State::Asked;
                    ue.timeline.wait(Party::Core, now.since_origin());
                }
                self.send_ngap(amf, Some(number), message);
            }
            N2State::Active(_) => {
                if let Some(ue) = self.ues.get_mut(&number) {
                    ue.timeline.wait(Party::Core, now.since_origin());
                }
                self.uplink(number, nas);
            }
            N2State::Asked | N2State::Orphaned(_) | N2State::Releasing(..) | N2State::Gone => {}
        }
        self.pump_eap(now, number);
    }

    /// No AMF wants the UE now: CONGESTION in place of an EAP packet, and no AMF has heard of it.
    fn turn_away(&mut self, now: Instant, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        warn!(ue = number, "the AMFs are overloaded: attach refused");
        ue.ike = IkeState::Closing;
        let sa = ue.sa;
        self.note_turned_away(now, sa);
        self.refuse(sa);
    }

    fn refuse(&mut self, sa: SaId) {
        self.commands.push_back(Command::Refuse {
            sa,
            notifies: vec![private_notify(notify::CONGESTION, Vec::new())],
        });
    }

    /// Goes on with EAP when it is our turn: what is owed to the UE, in order.
    pub(super) fn pump_eap(&mut self, now: Instant, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        if ue.ike != IkeState::Authenticating || ue.eap.awaits_ue {
            return;
        }
        if let Some(nas) = ue.downlink.pop_front() {
            ue.eap.identifier = ue.eap.identifier.wrapping_add(1);
            ue.eap.awaits_ue = true;
            let (sa, identifier) = (ue.sa, ue.eap.identifier);
            self.send_eap(sa, identifier, Request::Nas(nas));
            return;
        }
        if ue.n2 == N2State::Gone {
            // The AMF released the UE, a reject is delivered, or the AMF is lost.
            let (sa, identifier) = (ue.sa, ue.eap.identifier);
            ue.ike = IkeState::Closing;
            self.fail_eap(sa, identifier);
            return;
        }
        if let Some(PendingContext::Received(setup)) = ue.context.take() {
            self.succeed(now, number, *setup);
        }
    }

    /// INITIAL CONTEXT SETUP REQUEST: K_N3IWF is here, EAP can end well.
    pub(super) fn context_setup(&mut self, now: Instant, number: u32, setup: ContextSetup) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        if ue.ike != IkeState::Authenticating || ue.context.is_some() {
            // TS 38.413 8.3.1.4: a second one is an error of the AMF.
            warn!(ue = number, "INITIAL CONTEXT SETUP REQUEST out of turn");
            let cause =
                Cause::protocol(ngap::CauseProtocol::message_not_compatible_with_receiver_state);
            self.send_about(number, |ids, _| ngap::context_setup_failure(ids, cause));
            return;
        }
        ue.context = Some(PendingContext::Received(Box::new(setup)));
        self.pump_eap(now, number);
    }

    fn succeed(&mut self, now: Instant, number: u32, setup: ContextSetup) {
        let Some(inner) = self.pool.take() else {
            warn!(ue = number, "no inner address left");
            let cause = Cause::radioNetwork(CauseRadioNetwork::radio_resources_not_available);
            self.send_about(number, |ids, _| ngap::context_setup_failure(ids, cause));
            self.abandon_eap(now, number);
            return;
        };
        let mut packet = Vec::new();
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        // RFC 3748 4.2: the identifier of the response it follows.
        let success = Packet::Success {
            identifier: ue.eap.identifier,
        };
        if let Ok(encoded) = success.encode() {
            packet = encoded;
        }
        ue.inner = Some(inner);
        ue.ambr = setup.ue_ambr;
        ue.ike = IkeState::Finishing;
        ue.context = Some(PendingContext::Finishing {
            nas: setup.nas,
            sessions: setup.sessions,
        });
        let sa = ue.sa;
        self.by_inner.insert(inner, number);
        let (address_kind, address) = notify::nas_address(self.config.inner_address);
        let mut notifies = vec![
            private_notify(address_kind, address),
            private_notify(
                notify::NAS_TCP_PORT,
                notify::encode_port(self.config.nas_port),
            ),
        ];
        notifies.extend(self.auth_lifetime(now, number));
        let success = EapSuccess {
            packet,
            msk: setup.key,
            configuration: configuration(inner, self.config.inner_range),
            ts_local: vec![TrafficSelector::host(self.config.inner_address)],
            ts_remote: vec![TrafficSelector::host(inner)],
            notifies,
        };
        info!(ue = number, %inner, "EAP-Success");
        self.commands.push_back(Command::EapSuccess {
            sa,
            success: Box::new(success),
        });
    }

    /// A NAS message of the AMF: in EAP when it is our turn there, over TCP when that is open,
    /// else kept for the one or the other.
    pub(super) fn deliver(&mut self, now: Instant, number: u32, nas: Vec<u8>) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        match (ue.ike, ue.link) {
            (IkeState::Up, Some(link)) => {
                self.send_nas(now, number, link, nas);
            }
            (IkeState::Authenticating | IkeState::Finishing | IkeState::Up, _)
                if ue.downlink.len() < DOWNLINK_LIMIT =>
            {
                ue.downlink.push_back(nas);
                self.pump_eap(now, number);
            }
            _ => {
                warn!(ue = number, "downlink NAS cannot be delivered");
                let cause = Cause::radioNetwork(CauseRadioNetwork::radio_connection_with_ue_lost);
                self.send_about(number, |ids, _| ngap::nas_non_delivery(ids, &nas, cause));
            }
        }
    }

    /// A UE opened its NAS TCP connection; it is known by the inner address it comes from, which
    /// its SA alone may use. A new connection replaces an old one.
    pub fn nas_connected(&mut self, now: Instant, link: NasLink, from: IpAddr) {
        let number = self.by_inner.get(&from).copied();
        let Some(ue) = number.and_then(|number| self.ues.get_mut(&number)) else {
            warn!(%from, "NAS connection from no UE of ours");
            self.actions.push_back(Action::CloseNas { link });
            return;
        };
        if !matches!(ue.ike, IkeState::Finishing | IkeState::Up) {
            self.actions.push_back(Action::CloseNas { link });
            return;
        }
        self.touched = Some(ue.sa);
        debug!(ue = ue.number, "NAS connection");
        if let Some(old) = ue.link.replace(link) {
            self.by_link.remove(&old);
            self.actions.push_back(Action::CloseNas { link: old });
        }
        let number = ue.number;
        self.by_link.insert(link, number);
        for message in std::mem::take(&mut ue.downlink) {
            self.send_nas(now, number, link, message);
        }
    }

    /// A NAS message of the UE.
    pub fn nas_received(&mut self, now: Instant, link: NasLink, nas: &[u8]) {
        let Some(number) = self.by_link.get(&link).copied() else {
            return;
        };
        if let Some(ue) = self.ues.get_mut(&number) {
            self.touched = Some(ue.sa);
            ue.timeline.wait(Party::Core, now.since_origin());
        }
        self.uplink(number, nas);
    }

    /// A NAS TCP connection ended; downlink NAS waits for the next one.
    pub fn nas_closed(&mut self, link: NasLink) {
        if let Some(number) = self.by_link.remove(&link)
            && let Some(ue) = self.ues.get_mut(&number)
            && ue.link == Some(link)
        {
            ue.link = None;
        }
    }

    fn uplink(&mut self, number: u32, nas: &[u8]) {
        self.send_about(number, |ids, ue| ngap::uplink_nas(ids, nas, ue.path.remote));
    }

    /// EAP-Failure now, and the AMF is asked to release what it has of the UE.
    pub(super) fn abandon_eap(&mut self, now: Instant, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        ue.ike = IkeState::Closing;
        ue.downlink.clear();
        let (sa, identifier) = (ue.sa, ue.eap.identifier);
        self.fail_eap(sa, identifier);
        self.ask_release(
            now,
            number,
            Cause::radioNetwork(CauseRadioNetwork::failure_in_radio_interface_procedure),
        );
    }

    fn send_eap(&mut self, sa: SaId, identifier: u8, message: Request) {
        let packet = Packet::Request {
            identifier,
            message,
        };
        match packet.encode() {
            Ok(packet) => self.commands.push_back(Command::SendEap { sa, packet }),
            Err(error) => {
                // A NAS PDU longer than EAP can carry.
                warn!(%sa, %error, "EAP request does not encode");
                self.fail_eap(sa, identifier);
            }
        }
    }

    fn fail_eap(&mut self, sa: SaId, identifier: u8) {
        if let Ok(packet) = (Packet::Failure { identifier }).encode() {
            self.commands.push_back(Command::EapFailure { sa, packet });
        }
    }

    /// The signalling Child SA is up: the AMF gets its answer, and its sessions if it sent any.
    pub(super) fn signalling_up(&mut self, now: Instant, number: u32) {
        let Some(ue) = self.ues.get_mut(&number) else {
            return;
        };
        ue.ike = IkeState::Up;
        ue.timeline.enter(Phase::Child, now.since_origin());
        self.phases
            .push_back((Phase::Auth, ue.timeline.of(Phase::Auth)));
        info!(ue = number, "signalling Child SA up");
        if let Some(PendingContext::Finishing { nas, sessions }) = ue.context.take() {
            self.begin_setup(number, true, sessions);
            if let Some(nas) = nas {
                self.deliver(now, number, nas);
            }
        }
    }

    /// The cause for what never came about because the IKE SA did not.
    pub(super) fn fail_context(&mut self, number: u32) {
        let pending = self
            .ues
            .get_mut(&number)
            .and_then(|ue| ue.context.take())
            .is_some();
        if pending {
            let cause =
                Cause::radioNetwork(CauseRadioNetwork::failure_in_radio_interface_procedure);
            self.send_about(number, |ids, _| ngap::context_setup_failure(ids, cause));
        }
    }
}

/// CFG_REPLY: the inner address, and with IPv4 the netmask of the range.
fn configuration(inner: IpAddr, range: IpNet) -> Vec<CfgAttribute> {
    match (inner, range) {
        (IpAddr::V4(address), IpNet::V4(range)) => vec![
            CfgAttribute::ipv4(CfgAttributeType::INTERNAL_IP4_ADDRESS, address),
            CfgAttribute::ipv4(CfgAttributeType::INTERNAL_IP4_NETMASK, range.netmask()),
        ],
        (IpAddr::V6(address), _) => vec![CfgAttribute::ipv6_address(address, range.prefix_len())],
        (IpAddr::V4(address), _) => vec![CfgAttribute::ipv4(
            CfgAttributeType::INTERNAL_IP4_ADDRESS,
            address,
        )],
    }
}

pub(super) fn private_notify(kind: u16, data: Vec<u8>) -> Notify {
    Notify {
        protocol: Protocol::NONE,
        spi: Vec::new(),
        kind: NotifyType(kind),
        data,
    }
}

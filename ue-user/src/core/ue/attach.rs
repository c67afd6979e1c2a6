//! From IKE_SA_INIT to REGISTRATION ACCEPT, and the way NAS PDUs take.

use std::net::{IpAddr, SocketAddr};

use daemon::timeline::{Party, Phase};
use ike::{
    CloseReason, Event, Instant, KeysWanted, Mode,
    wire::{CfgAttribute, CfgAttributeType, Notify},
};
use nwu::{AnParameters, EstablishmentCause, Guami, Plmn, nas_envelope, notify};
use tracing::{debug, info, warn};

use super::{Action, AttachFailure, Ue};
use crate::core::{
    eap5g::Asked,
    nas::{self, Failure, Output},
};

/// NAS_TCP_PORT when the N3IWF does not say one (TS 24.502, 8.2.2).
const DEFAULT_NAS_PORT: u16 = 20_000;

impl Ue {
    /// AN-parameters of the first 5G-NAS: enough for the N3IWF to choose an AMF, and no more.
    pub(super) fn an_parameters(&self) -> AnParameters {
        let plmn = self.config.nas.plmn;
        let plmn = Plmn::from_digits(plmn.mcc(), plmn.mnc());
        let of_guti = self.nas.guti().and_then(|guti| {
            let of = guti.plmn();
            Some(Guami {
                plmn: Plmn::from_digits(of.mcc(), of.mnc())?,
                region: guti.amf_region_id(),
                set: guti.amf_set_id(),
                pointer: guti.amf_pointer(),
            })
        });
        AnParameters {
            guami: of_guti.or(self.config.guami),
            selected_plmn: plmn,
            requested_nssai: self.config.an_nssai.clone(),
            establishment_cause: Some(EstablishmentCause::MoSignalling),
        }
    }

    pub(super) fn attach_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::KeysNeeded {
                sa,
                request,
                wanted,
            } => match wanted {
                KeysWanted::Collect { master, ids } => {
                    self.timeline.wait(Party::Kms, now.since_origin());
                    self.actions.push_back(Action::FetchKeys {
                        sa,
                        request,
                        master,
                        ids,
                    });
                }
                // A UE is the slave SAE and never allocates.
                KeysWanted::Allocate { .. } => {
                    let failure = Err(ike::QkdFailure::UnknownSae);
                    self.endpoint.provide_keys(now, sa, request, failure);
                }
            },
            Event::Keyed { mode, .. } => {
                info!(%mode, "IKE_SA_INIT done");
                self.chosen(mode);
                if self.timeline.phase() == Some(Phase::Init) {
                    self.timeline.enter(Phase::Auth, now.since_origin());
                }
            }
            Event::ModeFallback {
                from, to, reason, ..
            } => self.fallen_back(&from, &to, &reason),
            Event::Eap { packet, .. } => self.eap(now, &packet),
            Event::EapSuccess { sa } => match self.nas.k_n3iwf() {
                Some(key) => self.endpoint.set_msk(now, sa, key),
                None => {
                    let what = "EAP-Success before NAS security is up".to_owned();
                    self.end(now, Some(AttachFailure::Nwu(what)), false);
                }
            },
            Event::EapFailure { .. } => debug!("EAP-Failure"),
            Event::Established {
                configuration,
                notifies,
                ..
            } => self.established(now, &configuration, &notifies),
            Event::KeyFate { sa, id, fate } => {
                self.actions.push_back(Action::KeyFate { id, fate, sa });
            }
            Event::PathChanged {
                path, udp_encap, ..
            } => self.moved(now, path, udp_encap),
            Event::MoveRefused { notify, .. } => self.move_refused(now, notify),
            Event::Closed { sa, reason } => self.closed(now, sa, reason),
            other => self.child_event(now, other),
        }
    }

    /// With `prefer-qkd` the N3IWF may take a mode without QKD keys at once: not in silence either.
    fn chosen(&mut self, mode: Mode) {
        let offered = self.modes();
        if mode.has_qkd_key() || !offered.first().is_some_and(|best| best.has_qkd_key()) {
            return;
        }
        if let Some(link) = self.link.as_mut()
            && link.fallback.is_none()
        {
            warn!(%mode, "the N3IWF took a mode without QKD keys");
            link.fallback = Some(format!("{mode}: the N3IWF's choice"));
        }
    }

    /// No QKD keys, and the policy lets the UE go on without: never in silence.
    fn fallen_back(&mut self, from: &[Mode], to: &[Mode], reason: &CloseReason) {
        let words = |modes: &[Mode]| {
            let words: Vec<String> = modes.iter().map(ToString::to_string).collect();
            words.join(" ")
        };
        let (from, to) = (words(from), words(to));
        warn!(from, to, %reason, "key mode falls back");
        if let Some(link) = self.link.as_mut() {
            link.fallback = Some(format!("{from} -> {to}: {reason}"));
        }
    }

    /// An EAP request.
    fn eap(&mut self, now: Instant, packet: &[u8]) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let (sa, ending) = (link.sa, link.ending.is_some());
        match link.eap.request(packet) {
            Ok(Asked::Answer(answer)) => self.endpoint.send_eap(now, sa, answer),
            Ok(_) if ending => self.stop_eap(now),
            Ok(Asked::Start) => self.nas.register(now.since_origin()),
            Ok(Asked::Nas(pdu)) => {
                if let Err(discard) = self.nas.downlink(now.since_origin(), &pdu) {
                    warn!(%discard, "NAS message discarded");
                    link.discarded = Some(discard.to_string());
                }
            }
            Err(error) => {
                let failure = AttachFailure::Nwu(error.to_string());
                self.stop_eap(now);
                self.end_after(now, self.config.release_timeout, Some(failure), false);
            }
        }
    }

    /// 5G-Stop, if there is a request it can answer.
    fn stop_eap(&mut self, now: Instant) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        if let Ok(packet) = link.eap.stop() {
            let sa = link.sa;
            self.endpoint.send_eap(now, sa, packet);
        }
    }

    /// A request of the N3IWF that NAS has no answer to would stay open for ever.
    pub(super) fn check_lock_step(&mut self, now: Instant) -> bool {
        let Some(link) = self.link.as_mut() else {
            return false;
        };
        if link.established
            || link.ending.is_some()
            || !link.eap.is_asked()
            || self.nas.is_waiting_for_sqn()
        {
            return false;
        }
        let what = match link.discarded.take() {
            Some(discarded) => format!("the network sent {discarded}"),
            None => "the network sent a NAS message that has no answer".to_owned(),
        };
        self.stop_eap(now);
        let failure = AttachFailure::Nas(Failure::Protocol(what));
        self.end_after(now, self.config.release_timeout, Some(failure), false);
        true
    }

    /// Both AUTH payloads are good: where NAS goes from now on.
    fn established(&mut self, now: Instant, configuration: &[CfgAttribute], notifies: &[Notify]) {
        self.contacted = true;
        self.note_auth_lifetime(now, notifies);
        let assigned = configuration
            .iter()
            .find(|attribute| attribute.kind == CfgAttributeType::INTERNAL_IP4_ADDRESS)
            .and_then(CfgAttribute::as_ipv4)
            .map(IpAddr::from);
        let nas_address = notifies.iter().find_map(|n| match n.kind.0 {
            kind @ (notify::NAS_IP4_ADDRESS | notify::NAS_IP6_ADDRESS) => {
                Some(notify::decode_address(kind, &n.data))
            }
            _ => None,
        });
        let nas_port = notifies
            .iter()
            .find(|n| n.kind.0 == notify::NAS_TCP_PORT)
            .map(|n| notify::decode_port(&n.data));
        let Some(link) = self.link.as_mut() else {
            return;
        };
        link.established = true;
        let wrong = match (link.inner.or(assigned), assigned, nas_address, nas_port) {
            (None, ..) => Some("the N3IWF assigned no inner address"),
            (Some(inner), Some(assigned), ..) if inner != assigned => {
                Some("the assigned inner address is not that of the traffic selectors")
            }
            (_, _, None, _) => Some("the N3IWF named no NAS address"),
            (_, _, Some(Err(_)), _) | (_, _, _, Some(Err(_))) => {
                Some("the N3IWF named an unreadable NAS address or port")
            }
            (inner, _, Some(Ok(address)), port) => {
                let port = port.and_then(Result::ok).unwrap_or(DEFAULT_NAS_PORT);
                link.inner = inner;
                link.nas.remote = Some(SocketAddr::new(address, port));
                None
            }
        };
        if let Some(what) = wrong {
            self.end(now, Some(AttachFailure::Nwu(what.to_owned())), false);
        }
    }

    /// The signalling Child SA is up.
    pub(super) fn signalling_up(&mut self, now: Instant) {
        self.timeline.enter(Phase::Child, now.since_origin());
        info!("signalling Child SA up");
        self.connect_nas();
    }

    pub(super) fn connect_nas(&mut self) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let (Some(local), Some(remote)) = (link.inner, link.nas.remote) else {
            return;
        };
        self.connections += 1;
        link.nas.token = self.connections;
        let token = link.nas.token;
        self.actions.push_back(Action::ConnectNas {
            local,
            remote,
            token,
        });
    }

    pub(super) fn read_nas(&mut self, now: Instant, token: u64, octets: &[u8]) {
        let Some(link) = self.link.as_mut().filter(|link| link.nas.token == token) else {
            return;
        };
        link.nas.reader.push(octets);
        loop {
            let Some(link) = self.link.as_mut() else {
                return;
            };
            match link.nas.reader.next_message() {
                Ok(Some(pdu)) => {
                    if let Err(discard) = self.nas.downlink(now.since_origin(), &pdu) {
                        warn!(%discard, "NAS message discarded");
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    // The stream has no meaning any more; a new connection begins a new one.
                    warn!(%error, "NAS connection");
                    link.nas.connected = false;
                    link.nas.retry_at = Some(now + super::NAS_RETRY);
                    self.actions.push_back(Action::CloseNas);
                    return;
                }
            }
        }
    }

    pub(super) fn nas_output(&mut self, now: Instant, output: Output) {
        match output {
            Output::StoreSqn(state) => self.actions.push_back(Action::StoreSqn(state)),
            Output::Send(pdu) => self.send_nas(now, pdu),
            Output::Event(event) => self.nas_event(now, event),
        }
    }

    fn send_nas(&mut self, now: Instant, pdu: Vec<u8>) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        if !link.established {
            let sa = link.sa;
            match link.eap.nas(pdu) {
                Ok(packet) => self.endpoint.send_eap(now, sa, packet),
                Err(error) => {
                    let failure = AttachFailure::Nwu(error.to_string());
                    self.end(now, Some(failure), false);
                }
            }
            return;
        }
        match nas_envelope::wrap(&pdu) {
            Ok(framed) if link.nas.connected => self.actions.push_back(Action::SendNas(framed)),
            Ok(framed) => link.nas.waiting.push_back(framed),
            Err(error) => warn!(%error, "NAS message not sent"),
        }
    }

    fn nas_event(&mut self, now: Instant, event: nas::Event) {
        match event {
            nas::Event::Authenticated => debug!("network authenticated"),
            nas::Event::Secured {
                ciphering,
                integrity,
            } => info!(ciphering, integrity, "NAS security in use"),
            nas::Event::Registered {
                guti,
                allowed_nssai,
            } => {
                info!(guti, ?allowed_nssai, "registered");
                if let Some(link) = self.link.as_mut() {
                    link.registered = true;
                }
                self.failures = 0;
                self.last_failure = None;
                self.establish_configured(now);
            }
            nas::Event::Failed(failure) => self.nas_failed(now, failure),
            nas::Event::Deregistered => {
                info!("deregistered");
                let again = self.link.as_ref().is_some_and(|link| link.renewing);
                self.end_after(now, self.config.release_timeout, None, again);
            }
            nas::Event::ConfigurationUpdated {
                network_name,
                register_again,
            } => info!(network_name, register_again, "configuration updated"),
            nas::Event::Status(text) => warn!("{text}"),
            other => self.session_event(now, other),
        }
    }

    fn nas_failed(&mut self, now: Instant, failure: Failure) {
        let again = failure.is_unknown_identity()
            || matches!(
                failure,
                Failure::Deregistered {
                    register_again: true,
                    ..
                }
            );
        let in_eap = self.link.as_ref().is_some_and(|link| !link.established);
        // The N3IWF ends EAP, and the network takes down what it has deregistered; otherwise the UE
        // is the one to leave.
        let wait = if in_eap || matches!(failure, Failure::Deregistered { .. }) {
            self.config.release_timeout
        } else {
            std::time::Duration::ZERO
        };
        if in_eap {
            self.stop_eap(now);
        }
        self.end_after(now, wait, Some(AttachFailure::Nas(failure)), again);
    }
}

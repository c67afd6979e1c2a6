//! The network's side of the UE's world: what the N3IWF's daemon and the core answer.

use ike::{
    ChildAnswer, Event, KeysWanted, QkdFailure,
    wire::{CfgAttribute, CfgAttributeType, Notify, NotifyType, TrafficSelector},
};
use keys::{KeyId, QkdKey, Secret};
use nwu::eap5g::{Packet, Request, Response};
use oxirush_nas::nas_5gs::{
    CipheringAlgorithm, IntegrityAlgorithm, Nas5gmmMessage, Nas5gsMessage, Nas5gsmMessage,
    NasAuthenticationReject, NasDeregistrationAcceptUeOriginating, NasFGmmCause,
    NasRegistrationReject,
};
use rand_core::Rng;

use super::{N3IWF_INNER, UE_INNER, World, notify};
use crate::core::nas::tests::{
    SLICE,
    sessions::{accept_with, n1_sm, rule},
};

impl World {
    pub(super) fn responder(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::KeysNeeded {
                sa,
                request,
                wanted:
                    KeysWanted::Allocate {
                        number, size_bits, ..
                    },
            } => {
                let keys = if self.faults.n3iwf_kms > 0 {
                    self.faults.n3iwf_kms -= 1;
                    Err(QkdFailure::NoKeys)
                } else {
                    Ok((0..number).map(|_| self.make_key(size_bits)).collect())
                };
                self.n3iwf.provide_keys(now, sa, request, keys);
            }
            Event::EapBegin { sa, peer_id, .. } => {
                assert_eq!(peer_id.data.len(), 8);
                self.sa = Some(sa);
                self.eap(Request::Start);
            }
            Event::Eap { packet, .. } => self.eap_response(&packet),
            Event::InstallChild { sa, child } => {
                self.n3iwf.child_installed(now, sa, child.id, Ok(()));
            }
            Event::ChildUp { token: 1, .. } => {
                if let Some((id, pti)) = self.pending_session.take() {
                    let accept = accept_with(rule(1, true, 9));
                    let accept = Nas5gsMessage::new_5gsm(accept, id, pti);
                    let pdu = self.network.gmm(n1_sm(&accept));
                    self.downlink(&[pdu]);
                }
            }
            Event::ChildRequested { sa, child, .. } => {
                let answer = Ok(ChildAnswer::default());
                self.n3iwf.answer_child(now, sa, child, answer);
            }
            Event::Closed { .. } => self.sa = None,
            _ => {}
        }
    }

    fn make_key(&mut self, size_bits: u32) -> QkdKey {
        self.keys_made += 1;
        let id = KeyId::from_octets([self.keys_made; 16]);
        let mut octets = vec![0; size_bits as usize / 8];
        self.rng.fill_bytes(&mut octets);
        self.keys.insert(id, octets.clone());
        QkdKey {
            id,
            secret: Secret::from_slice(&octets),
        }
    }

    fn eap(&mut self, message: Request) {
        self.identifier = self.identifier.wrapping_add(3);
        let packet = Packet::Request {
            identifier: self.identifier,
            message,
        };
        let packet = packet.encode().unwrap();
        self.n3iwf.send_eap(self.now, self.sa.unwrap(), packet);
    }

    fn eap_response(&mut self, packet: &[u8]) {
        let Packet::Response {
            identifier,
            message,
        } = Packet::decode(packet).unwrap()
        else {
            panic!("a response")
        };
        assert_eq!(identifier, self.identifier);
        match message {
            Response::Stop => {
                self.stopped = true;
                let packet = Packet::Failure { identifier }.encode().unwrap();
                self.n3iwf.eap_failure(self.now, self.sa.unwrap(), packet);
            }
            Response::Notification => panic!("nobody asked"),
            Response::Nas { an_parameters, nas } => match Nas5gsMessage::decode(&nas).unwrap() {
                Nas5gsMessage::Gmm(_, message) => {
                    if matches!(message, Nas5gmmMessage::RegistrationRequest(_)) {
                        assert!(an_parameters.selected_plmn.is_some());
                        assert_eq!(an_parameters.requested_nssai, [SLICE]);
                    }
                    self.eap_nas(message);
                }
                _ => {
                    let context = self.network.context_mut();
                    match context {
                        // A registration under the context of an earlier one.
                        Some(_) => match self.network.read(&nas) {
                            Nas5gmmMessage::SecurityModeComplete(_) => self.success(identifier, 0),
                            _ => {
                                assert!(an_parameters.guami.is_some());
                                let next = self.network.challenge(1);
                                self.eap(Request::Nas(next));
                            }
                        },
                        None => panic!("a protected message without a context"),
                    }
                }
            },
        }
    }

    fn eap_nas(&mut self, message: Nas5gmmMessage) {
        let identifier = self.identifier;
        match message {
            Nas5gmmMessage::RegistrationRequest(_) if self.faults.early_success => {
                self.network.challenge(0);
                self.success(identifier, 0);
            }
            Nas5gmmMessage::RegistrationRequest(_) => match self.faults.reject {
                Some(cause) => {
                    let reject = NasRegistrationReject::new(NasFGmmCause::new(cause));
                    let pdu = Nas5gsMessage::new_5gmm(reject).encode().unwrap();
                    self.eap(Request::Nas(pdu));
                }
                None => {
                    let challenge = self.network.challenge(0);
                    self.eap(Request::Nas(challenge));
                }
            },
            Nas5gmmMessage::AuthenticationFailure(_) => {
                let reject = Nas5gsMessage::new_5gmm(NasAuthenticationReject::new());
                self.eap(Request::Nas(reject.encode().unwrap()));
            }
            Nas5gmmMessage::AuthenticationResponse(_) => {
                let ngksi = self.network.ngksi;
                let command = self.network.command_for(
                    CipheringAlgorithm::NEA2,
                    IntegrityAlgorithm::NIA2,
                    ngksi,
                );
                self.eap(Request::Nas(command));
            }
            other => panic!("the core has no answer to {other:?}"),
        }
    }

    fn success(&mut self, identifier: u8, count: u32) {
        let msk = Secret::from_slice(&self.network.k_n3iwf(count));
        let address = CfgAttribute::ipv4(CfgAttributeType::INTERNAL_IP4_ADDRESS, UE_INNER);
        let lifetime = self.faults.auth_lifetime.map(|seconds| {
            let data = seconds.to_be_bytes().to_vec();
            Notify::status(NotifyType::AUTH_LIFETIME, data)
        });
        let success = ike::EapSuccess {
            packet: Packet::Success { identifier }.encode().unwrap(),
            msk,
            configuration: vec![address],
            ts_local: vec![TrafficSelector::host(N3IWF_INNER.into())],
            ts_remote: vec![TrafficSelector::host(UE_INNER.into())],
            notifies: [
                notify(nwu::notify::nas_address(N3IWF_INNER.into())),
                notify((nwu::notify::NAS_TCP_PORT, nwu::notify::encode_port(20_000))),
            ]
            .into_iter()
            .chain(lifetime)
            .collect(),
        };
        self.n3iwf.eap_success(self.now, self.sa.unwrap(), success);
    }

    // The core, over TCP.

    pub(super) fn core(&mut self, pdu: &[u8]) {
        let message = self.network.read(pdu);
        if self.faults.core_silent {
            return;
        }
        match message {
            Nas5gmmMessage::RegistrationComplete(_) => {}
            Nas5gmmMessage::UlNasTransport(transport) => {
                let Ok(Nas5gsMessage::Gsm(header, message)) =
                    transport.payload_container.decode_as_n1_sm_message()
                else {
                    panic!("a 5GSM message")
                };
                let (id, pti) = (
                    header.pdu_session_identity,
                    header.procedure_transaction_identity,
                );
                match message {
                    Nas5gsmMessage::PduSessionEstablishmentRequest(_)
                        if id > 1 && self.faults.one_session => {}
                    Nas5gsmMessage::PduSessionEstablishmentRequest(_) => {
                        self.pending_session = Some((id, pti));
                        self.create_child(id);
                    }
                    Nas5gsmMessage::PduSessionReleaseRequest(_) => self.release(id, pti),
                    _ => {}
                }
            }
            Nas5gmmMessage::DeregistrationRequestUeOriginating(request) => {
                if !request.de_registration_type.switch_off() {
                    let accept = self
                        .network
                        .gmm(NasDeregistrationAcceptUeOriginating::new());
                    self.downlink(&[accept]);
                }
                self.delete_ike();
            }
            _ => {}
        }
    }
}

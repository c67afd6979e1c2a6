//! The UEs: a real endpoint each, with the rest of them in a few lines.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ike::{
    ChildAnswer, ChildId, CloseReason, Endpoint, EndpointConfig, Event, InitiatorConfig,
    KeysWanted, Path, PeerCertificate, Profile, SaId,
    wire::{CfgAttribute, CfgAttributeType, Identification, Notify, NotifyType, TrafficSelector},
};
use keys::{QkdKey, Secret};
use nwu::{
    AnParameters, EstablishmentCause, Guami, Plmn,
    eap5g::{Packet, Request, Response},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::{N3IWF, World, lifetimes, timing};
use crate::amf;

/// A UE: a real endpoint, with the rest of it in a few lines.
pub(crate) struct Ue {
    pub(crate) endpoint: Endpoint,
    pub(crate) path: Path,
    pub(crate) sa: Option<SaId>,
    /// Hears and says nothing any more.
    pub(crate) dead: bool,
    /// Said in the next answer in EAP, whatever was asked.
    pub(crate) eap: Option<Vec<u8>>,
    /// Answers the next 5G-NAS with 5G-Stop.
    pub(crate) stop: bool,
    pub(crate) msk: [u8; 32],
    /// NAS of the AMF, received in EAP.
    pub(crate) nas: Vec<Vec<u8>>,
    pub(crate) established: bool,
    pub(crate) eap_failed: bool,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) inner: Option<IpAddr>,
    pub(crate) notifies: Vec<Notify>,
    /// Child SAs by whether they are signalling, with the notifies they came with.
    pub(crate) children: BTreeMap<ChildId, (bool, Vec<Notify>)>,
    pub(crate) refuse_children: bool,
    /// What the N3IWF told without a Child SA.
    pub(crate) told: Vec<Vec<Notify>>,
    /// What it tells of itself in EAP-5G.
    pub(crate) parameters: AnParameters,
}

impl World {
    /// A UE that begins to attach. Nothing is delivered yet.
    pub(crate) fn add_ue(&mut self) -> usize {
        let index = self.ues.len();
        let number = u32::try_from(index).unwrap() + 10;
        let local = SocketAddr::new(Ipv4Addr::from_bits(0xc000_0200 + number).into(), 500);
        let path = Path {
            local,
            remote: N3IWF,
        };
        let config = EndpointConfig {
            timing: timing(None),
            lifetimes: lifetimes(),
            ..EndpointConfig::default()
        };
        let seed = 1000 + u64::from(number);
        let mut endpoint = Endpoint::new(config, Box::new(ChaCha20Rng::seed_from_u64(seed)));
        let sa = endpoint.initiate(self.now, path, initiator());
        self.ues.push(Ue {
            endpoint,
            path,
            sa: Some(sa),
            dead: false,
            eap: None,
            stop: false,
            msk: amf::K_N3IWF,
            nas: Vec::new(),
            established: false,
            eap_failed: false,
            closed: None,
            inner: None,
            notifies: Vec::new(),
            children: BTreeMap::new(),
            refuse_children: false,
            told: Vec::new(),
            parameters: an_parameters(),
        });
        index
    }

    pub(super) fn run_ue(&mut self, index: usize) -> bool {
        let mut busy = false;
        while let Some(event) = self.ues[index].endpoint.poll_event() {
            busy = true;
            self.ue_event(index, event);
        }
        while let Some(transmit) = self.ues[index].endpoint.poll_transmit() {
            busy = true;
            if !self.ues[index].dead {
                let mut remote = transmit.path.local;
                remote.set_port(remote.port() + self.nat);
                let path = Path {
                    local: transmit.path.remote,
                    remote,
                };
                self.recorded.push((path, transmit.data.clone()));
                self.gateway.handle_datagram(self.now, path, &transmit.data);
            }
        }
        busy
    }

    fn ue_event(&mut self, index: usize, event: Event) {
        let now = self.now;
        let ue = &mut self.ues[index];
        match event {
            Event::KeysNeeded {
                sa,
                request,
                wanted: KeysWanted::Collect { master, ids },
            } => {
                assert_eq!(master.as_str(), "sae-n3iwf");
                let keys = ids
                    .iter()
                    .map(|id| QkdKey {
                        id: *id,
                        secret: Secret::from_slice(&self.keys[id]),
                    })
                    .collect();
                ue.endpoint.provide_keys(now, sa, request, Ok(keys));
            }
            Event::Eap { sa, .. } if ue.eap.is_some() => {
                let said = ue.eap.take().unwrap_or_default();
                ue.endpoint.send_eap(now, sa, said);
            }
            Event::Eap { sa, packet } => {
                let Packet::Request {
                    identifier,
                    message,
                } = Packet::decode(&packet).unwrap()
                else {
                    panic!("a UE gets requests");
                };
                let message = match message {
                    Request::Start => Response::Nas {
                        an_parameters: ue.parameters.clone(),
                        nas: b"register".to_vec(),
                    },
                    Request::Nas(nas) => {
                        let reply = [b"re:", nas.as_slice()].concat();
                        ue.nas.push(nas);
                        if ue.stop {
                            Response::Stop
                        } else {
                            Response::Nas {
                                an_parameters: AnParameters::default(),
                                nas: reply,
                            }
                        }
                    }
                    Request::Notification => panic!("not sent by an N3IWF"),
                };
                let packet = Packet::Response {
                    identifier,
                    message,
                };
                ue.endpoint.send_eap(now, sa, packet.encode().unwrap());
            }
            Event::EapSuccess { sa } => {
                let msk = Secret::from_slice(&ue.msk);
                ue.endpoint.set_msk(now, sa, msk);
            }
            Event::EapFailure { .. } => ue.eap_failed = true,
            Event::Established {
                configuration,
                notifies,
                ..
            } => {
                ue.established = true;
                ue.inner = configuration
                    .iter()
                    .find(|item| item.kind == CfgAttributeType::INTERNAL_IP4_ADDRESS)
                    .and_then(CfgAttribute::as_ipv4)
                    .map(IpAddr::V4);
                ue.notifies = notifies;
            }
            Event::Told { notifies, .. } => ue.told.push(notifies),
            Event::ChildRequested { sa, child, .. } => {
                let answer = if ue.refuse_children {
                    Err(NotifyType::NO_PROPOSAL_CHOSEN)
                } else {
                    Ok(ChildAnswer::default())
                };
                ue.endpoint.answer_child(now, sa, child, answer);
            }
            Event::InstallChild { sa, child } => {
                ue.children
                    .insert(child.id, (child.signalling, child.notifies.clone()));
                ue.endpoint.child_installed(now, sa, child.id, Ok(()));
            }
            Event::ChildDown { child, .. } => {
                ue.children.remove(&child);
            }
            Event::Closed { reason, .. } => {
                ue.closed = Some(reason);
                ue.sa = None;
            }
            _ => {}
        }
    }
}

pub(crate) fn an_parameters() -> AnParameters {
    let plmn = Plmn::from_digits("208", "93").unwrap();
    AnParameters {
        guami: Some(Guami {
            plmn,
            region: 1,
            set: 1,
            pointer: 0,
        }),
        selected_plmn: Some(plmn),
        establishment_cause: Some(EstablishmentCause::MoSignalling),
        ..AnParameters::default()
    }
}

fn initiator() -> InitiatorConfig {
    InitiatorConfig {
        profile: Profile::Native,
        sae_id: "sae-ue-1".parse().unwrap(),
        master_sae_id: None,
        identity: Identification::key_id(vec![1, 2, 3, 4]),
        peer_identity: None,
        peer_certificate: PeerCertificate::Ignore,
        ike_suites: vec!["AES_GCM_16-256/PRF_HMAC_SHA2_256".parse().unwrap()],
        esp_suites: vec!["AES_GCM_16-256".parse().unwrap()],
        ts_local: vec![TrafficSelector::any_v4()],
        ts_remote: vec![TrafficSelector::any_v4()],
        configuration: vec![CfgAttribute::request(
            CfgAttributeType::INTERNAL_IP4_ADDRESS,
        )],
    }
}

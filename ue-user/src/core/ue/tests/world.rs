//! A UE, an N3IWF made of the engine's responder, a 5G core that is a script, and a KMS that is a map.

mod network;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ike::{
    Endpoint, EndpointConfig, Instant, NewChild, Path, Profile, QkdFailure, ResponderConfig, SaId,
    Timing, Transmit,
    wire::{CfgAttribute, CfgAttributeType, Identification, Notify, NotifyType, TrafficSelector},
};
use keys::{KeyId, QkdKey, Secret};
use nwu::{EnvelopeReader, QosInfo, nas_envelope};
use oxirush_nas::nas_5gs::{GsmCause, Nas5gsMessage, NasFGsmCause, NasPduSessionReleaseCommand};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::core::{
    nas::{
        SessionRequest,
        tests::{Network, SLICE, accept, config, sessions::n1_sm, usim},
    },
    ue::{Action, AttachFailure, Command, Retry, SessionInterface, State, Ue, UeConfig},
};

pub(super) const UE_INNER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const N3IWF_INNER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const UE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 500);
const N3IWF: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 500);

/// What the world does wrong, if anything.
#[derive(Default)]
pub(super) struct Faults {
    /// The n-th datagrams (from 0, both directions) that are lost.
    pub(super) lost: Vec<usize>,
    /// Everything is lost.
    pub(super) cut: bool,
    /// REGISTRATION REJECT with this cause instead of a challenge.
    pub(super) reject: Option<u8>,
    /// The subscriber's K at the network is another one.
    pub(super) wrong_k: bool,
    /// The N3IWF's KMS fails this often.
    pub(super) n3iwf_kms: u32,
    /// The UE's KMS fails this often.
    pub(super) ue_kms: u32,
    /// The UE's disk is full.
    pub(super) disk_full: bool,
    /// The UE's data plane refuses everything.
    pub(super) plane_refuses: bool,
    /// REGISTRATION ACCEPT never comes.
    pub(super) no_accept: bool,
    /// EAP-Success straight after the registration request.
    pub(super) early_success: bool,
    /// The core answers nothing after the registration.
    pub(super) core_silent: bool,
    /// NAS connections are refused.
    pub(super) nas_refused: bool,
    /// The core answers requests for the first PDU session alone.
    pub(super) one_session: bool,
    /// The N3IWF says how many seconds an authentication is good for.
    pub(super) auth_lifetime: Option<u32>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) ue: Ue,
    n3iwf: Endpoint,
    pub(super) network: Network,
    pub(super) faults: Faults,
    keys: HashMap<KeyId, Vec<u8>>,
    pub(super) keys_made: u8,
    /// How often the KMS was to be made ready.
    pub(super) readied: usize,
    rng: ChaCha20Rng,
    sent: usize,
    pub(super) sizes: Vec<usize>,
    sa: Option<SaId>,
    identifier: u8,
    /// Uplink NAS over TCP.
    uplink: EnvelopeReader,
    token: u64,
    pending_session: Option<(u8, u8)>,
    pub(super) stopped: bool,
    // What the UE's daemon holds.
    pub(super) installed: Vec<u64>,
    /// Those without an outbound state.
    pub(super) inbound: HashSet<u64>,
    /// PDU session and reqid of what was ever installed.
    pub(super) reqids: Vec<(Option<u8>, u32)>,
    pub(super) released: HashSet<KeyId>,
    pub(super) interfaces: Vec<SessionInterface>,
    pub(super) attached: usize,
    pub(super) detached: Vec<(Option<AttachFailure>, Option<Duration>)>,
    pub(super) fates: HashMap<KeyId, ike::Fate>,
}

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

pub(super) fn ue_config() -> UeConfig {
    let mut nas = config();
    nas.requested_nssai = vec![SLICE];
    UeConfig {
        nas,
        path: Path {
            local: UE,
            remote: N3IWF,
        },
        initiator: ike::InitiatorConfig {
            profile: Profile::Native,
            sae_id: "sae-ue-1".parse().unwrap(),
            master_sae_id: None,
            identity: Identification::key_id(Vec::new()),
            peer_identity: Some(Identification::fqdn("n3iwf.example.net")),
            peer_certificate: ike::PeerCertificate::Ignore,
            ike_suites: vec!["AES_GCM_16-256/PRF_HMAC_SHA2_256".parse().unwrap()],
            esp_suites: vec!["AES_GCM_16-256/ESN".parse().unwrap()],
            ts_local: vec![TrafficSelector::any_v4()],
            ts_remote: vec![TrafficSelector::any_v4()],
            configuration: vec![CfgAttribute::request(
                CfgAttributeType::INTERNAL_IP4_ADDRESS,
            )],
        },
        offer: ike::Offer::default(),
        peer_profile: ike::PeerProfile::Standard,
        mobike: None,
        identity_len: 8,
        fragmentation: ike::Fragmentation::default(),
        timing: Timing {
            dpd_interval: Some(Duration::from_secs(60)),
            ..Timing::default()
        },
        an_nssai: vec![SLICE],
        guami: None,
        sessions: vec![SessionRequest {
            id: 1,
            dnn: Some("internet".into()),
            s_nssai: Some(SLICE),
            kind: Default::default(),
        }],
        retry: Retry {
            attempts: 0,
            initial: Duration::from_secs(2),
            maximum: Duration::from_secs(60),
        },
        attach_timeout: Duration::from_secs(60),
        lifetimes: ike::Lifetimes {
            from_peer: true,
            ..ike::Lifetimes::default()
        },
        release_timeout: Duration::from_secs(3),
        tunnel_mtu: 1386,
    }
}

impl World {
    pub(super) fn new(faults: Faults) -> Self {
        Self::with(ue_config(), faults)
    }

    pub(super) fn with(config: UeConfig, faults: Faults) -> Self {
        let responder = ResponderConfig {
            profiles: vec![Profile::Native],
            sae_id: "sae-n3iwf".parse().unwrap(),
            identity: Identification::fqdn("n3iwf.example.net"),
            paper: None,
            ike_suites: config.initiator.ike_suites.clone(),
            esp_suites: config.initiator.esp_suites.clone(),
            cookies: ike::CookiePolicy::Never,
            half_open_limit: 100,
        };
        let endpoint = EndpointConfig {
            timing: Timing {
                dpd_interval: None,
                ..Timing::default()
            },
            responder: Some(responder),
            lifetimes: config.lifetimes,
            ..EndpointConfig::default()
        };
        let mut network = Network::new();
        if faults.wrong_k {
            use oxirush_security::milenage::{K, Milenage, Opc};
            network.home = Milenage::new(&K::new(&[1; 16]), &Opc::new(&[2; 16]));
        }
        Self {
            now: Instant::ZERO + Duration::from_secs(1),
            ue: Ue::new(config, usim(), Box::new(rng(1)), Box::new(rng(2))),
            n3iwf: Endpoint::new(endpoint, Box::new(rng(3))),
            network,
            faults,
            keys: HashMap::new(),
            keys_made: 0,
            rng: rng(4),
            sent: 0,
            sizes: Vec::new(),
            sa: None,
            identifier: 0,
            uplink: EnvelopeReader::new(),
            token: 0,
            pending_session: None,
            stopped: false,
            installed: Vec::new(),
            inbound: HashSet::new(),
            reqids: Vec::new(),
            released: HashSet::new(),
            interfaces: Vec::new(),
            attached: 0,
            detached: Vec::new(),
            fates: HashMap::new(),
            readied: 0,
        }
    }

    /// A UE that has attached.
    pub(super) fn attached() -> Self {
        let mut world = Self::new(Faults::default());
        world.command(Command::Attach);
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.ue.state(), State::Registered);
        assert_eq!((world.attached, world.interfaces.len()), (1, 1));
        world
    }

    pub(super) fn command(&mut self, command: Command) {
        self.ue.command(self.now, command).unwrap();
        self.settle();
    }

    /// Lets everything happen that is due within `time`.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let ue = self.ue.poll_timeout();
            let due = ue.into_iter().chain(self.n3iwf.poll_timeout()).min();
            match due {
                Some(due) if due <= end => {
                    self.now = self.now.max(due);
                    self.ue.handle_timeout(self.now);
                    self.n3iwf.handle_timeout(self.now);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
    }

    /// Delivers and answers until all are silent.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(transmit) = self.ue.poll_transmit() {
                if let Some(data) = self.carry(&transmit) {
                    let path = turned(transmit.path);
                    self.n3iwf.handle_datagram(self.now, path, &data);
                }
            } else if let Some(transmit) = self.n3iwf.poll_transmit() {
                if let Some(data) = self.carry(&transmit) {
                    let path = turned(transmit.path);
                    self.ue.handle_datagram(self.now, path, &data);
                }
            } else if let Some(action) = self.ue.poll_action() {
                self.act(action);
            } else if let Some(event) = self.n3iwf.poll_event() {
                self.responder(event);
            } else {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Sends downlink NAS over TCP, several messages in one segment.
    pub(super) fn downlink(&mut self, pdus: &[Vec<u8>]) {
        let stream: Vec<u8> = pdus
            .iter()
            .flat_map(|pdu| nas_envelope::wrap(pdu).unwrap())
            .collect();
        // Cut where it hurts.
        for part in stream.chunks(7) {
            self.ue.nas_received(self.now, self.token, part);
        }
    }

    /// The network deletes the IKE SA.
    pub(super) fn delete_ike(&mut self) {
        if let Some(sa) = self.sa {
            self.n3iwf.close(self.now, sa);
        }
    }

    fn carry(&mut self, transmit: &Transmit) -> Option<Vec<u8>> {
        let lost = self.faults.cut || self.faults.lost.contains(&self.sent);
        self.sent += 1;
        self.sizes.push(14 + 20 + 8 + transmit.data.len());
        (!lost).then(|| transmit.data.clone())
    }

    // The UE's daemon.

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::ReadyKms => self.readied += 1,
            Action::FetchKeys {
                sa,
                request,
                master,
                ids,
            } => {
                assert_eq!(master.as_str(), "sae-n3iwf");
                let keys = if self.faults.ue_kms > 0 {
                    self.faults.ue_kms -= 1;
                    Err(QkdFailure::UnknownKey)
                } else {
                    // A key is delivered once.
                    let key = |id: KeyId| QkdKey {
                        id,
                        secret: Secret::from_slice(&self.keys.remove(&id).expect("fetched once")),
                    };
                    Ok(ids.into_iter().map(key).collect())
                };
                self.ue.keys_fetched(now, sa, request, keys);
            }
            Action::KeyFate { id, fate, .. } => {
                assert!(self.fates.insert(id, fate).is_none(), "one fate per key");
            }
            Action::ForgetKeys(_) | Action::CloseNas => {}
            Action::StoreSqn(_) => {
                let outcome = match self.faults.disk_full {
                    true => Err("no space left on device".to_owned()),
                    false => Ok(()),
                };
                self.ue.sqn_stored(now, outcome);
            }
            Action::Install(install) => {
                assert_eq!(install.inner_local, IpAddr::V4(UE_INNER));
                assert_eq!(install.inner_remote, IpAddr::V4(N3IWF_INNER));
                let id = install.child.id;
                let outcome = match self.faults.plane_refuses {
                    true => Err("no ESP in this kernel".to_owned()),
                    false => {
                        self.installed.push(id.number());
                        if install.inbound {
                            self.inbound.insert(id.number());
                        }
                        let same = |(_, reqid): &(Option<u8>, u32)| *reqid == install.reqid;
                        match self.reqids.iter().find(|other| same(other)) {
                            Some((session, _)) => assert_eq!(*session, install.pdu_session),
                            None => self.reqids.push((install.pdu_session, install.reqid)),
                        }
                        Ok(())
                    }
                };
                self.ue.installed(now, id, outcome);
            }
            Action::Switch(id) => {
                assert!(self.inbound.remove(&id.number()), "switched once");
            }
            Action::Move { .. } => panic!("the N3IWF stays"),
            Action::ReleaseKeys(ids) => self.released.extend(ids),
            Action::Remove(id) => {
                self.inbound.remove(&id.number());
                let at = self
                    .installed
                    .iter()
                    .position(|child| *child == id.number());
                self.installed
                    .remove(at.expect("only what was installed is removed"));
            }
            Action::ConnectNas {
                local,
                remote,
                token,
            } => {
                assert_eq!(local, IpAddr::V4(UE_INNER));
                assert_eq!(remote, SocketAddr::new(IpAddr::V4(N3IWF_INNER), 20_000));
                self.token = token;
                if self.faults.nas_refused {
                    return self.ue.nas_closed(now, token, "refused");
                }
                self.uplink = EnvelopeReader::new();
                self.ue.nas_connected(now, token);
                if !self.faults.no_accept {
                    let accept = self.network.gmm(accept());
                    self.downlink(&[accept]);
                }
            }
            Action::SendNas(octets) => {
                self.uplink.push(&octets);
                while let Some(pdu) = self.uplink.next_message().unwrap() {
                    self.core(&pdu);
                }
            }
            Action::AddSession(session) => {
                let id = session.accept.id;
                self.interfaces.push(*session);
                self.ue.session_added(now, id, Ok(()));
            }
            Action::SetTunnels { id, dscp, further } => {
                let mut known = self.interfaces.iter_mut();
                let own = known.find(|interface| interface.accept.id == id);
                let own = own.expect("only of what was made");
                (own.dscp, own.further) = (dscp, further);
            }
            Action::SetRules(id, _) => {
                let mut known = self.interfaces.iter();
                assert!(known.any(|interface| interface.accept.id == id));
            }
            Action::RemoveSession(id) => {
                let before = self.interfaces.len();
                self.interfaces
                    .retain(|interface| interface.accept.id != id);
                assert_eq!(self.interfaces.len() + 1, before, "only what was made");
            }
            Action::Attached => self.attached += 1,
            Action::Detached { failure, retry_in } => self.detached.push((failure, retry_in)),
        }
    }

    pub(super) fn create_child(&mut self, id: u8) {
        self.create_child_for(id, &[9], true);
    }

    pub(super) fn create_child_for(&mut self, id: u8, qfis: &[u8], default: bool) {
        self.create_child_of(id, qfis, default, None);
    }

    /// INFORMATIONAL with 5G_QOS_INFO of a Child SA that is there.
    pub(super) fn n3iwf_tells(&mut self, id: u8, qfis: &[u8], default: bool, dscp: Option<u8>) {
        let qos = QosInfo {
            pdu_session: id,
            qfis: qfis.to_vec(),
            default,
            dscp,
        };
        let told = vec![notify((nwu::notify::QOS_INFO, qos.encode().unwrap()))];
        self.n3iwf
            .inform(self.now, self.sa.unwrap(), 1, told)
            .unwrap();
    }

    pub(super) fn create_child_of(&mut self, id: u8, qfis: &[u8], default: bool, dscp: Option<u8>) {
        let qos = QosInfo {
            pdu_session: id,
            qfis: qfis.to_vec(),
            default,
            dscp,
        };
        let child = NewChild {
            ts_local: vec![TrafficSelector::host(N3IWF_INNER.into())],
            ts_remote: vec![TrafficSelector::host(UE_INNER.into())],
            notifies: vec![
                notify((nwu::notify::QOS_INFO, qos.encode().unwrap())),
                notify(nwu::notify::up_address(N3IWF_INNER.into())),
            ],
            token: 1,
        };
        self.n3iwf
            .create_child(self.now, self.sa.unwrap(), child)
            .unwrap();
    }

    /// The network releases a PDU session: NAS, then the Child SA.
    pub(super) fn release(&mut self, id: u8, pti: u8) {
        let cause = NasFGsmCause::from_cause(GsmCause::RegularDeactivation);
        let command = NasPduSessionReleaseCommand::new(cause);
        let command = Nas5gsMessage::new_5gsm(command, id, pti);
        let pdu = self.network.gmm(n1_sm(&command));
        self.downlink(&[pdu]);
    }

    /// Children of the N3IWF, without the signalling one.
    pub(super) fn n3iwf_user_children(&self) -> usize {
        let count = |sa: ike::SaStatus| sa.children.iter().filter(|c| !c.signalling).count();
        self.n3iwf.sas().map(count).sum()
    }

    /// The N3IWF deletes its newest Child SA.
    pub(super) fn n3iwf_deletes_last(&mut self) {
        let status = self.n3iwf.sas().next().unwrap();
        let last = status.children.iter().map(|child| child.id).max().unwrap();
        self.n3iwf.delete_child(self.now, status.id, last);
        self.settle();
    }

    /// The N3IWF rekeys its IKE SA, or all Child SAs.
    pub(super) fn n3iwf_rekeys(&mut self, ike: bool) {
        let status = self.n3iwf.sas().next().unwrap();
        if ike {
            self.n3iwf.rekey_ike(self.now, status.id).unwrap();
        } else {
            for child in status.children {
                let sa = status.id;
                self.n3iwf.rekey_child(self.now, sa, child.id).unwrap();
            }
        }
        self.settle();
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn n3iwf_sas(&self) -> usize {
        self.n3iwf.sas().count()
    }

    /// Nothing of an attach is left on the UE's host.
    pub(super) fn assert_clean(&self) {
        assert!(
            self.installed.is_empty(),
            "Child SAs left: {:?}",
            self.installed
        );
        assert!(self.interfaces.is_empty(), "interfaces left");
        assert!(self.ue.status(self.now).ike.is_empty(), "IKE SAs left");
    }
}

fn turned(path: Path) -> Path {
    Path {
        local: path.remote,
        remote: path.local,
    }
}

fn notify((kind, data): (u16, Vec<u8>)) -> Notify {
    Notify::status(NotifyType(kind), data)
}

//! One gateway, any number of UEs, and doubles for everything outside.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use dataplane::Plane;
use ike::{
    ChildAnswer, ChildId, CloseReason, CookiePolicy, Endpoint, EndpointConfig, Event, Fate,
    InitiatorConfig, Instant, KeysWanted, Lifetimes, Path, PeerCertificate, Profile, QkdFailure,
    ResponderConfig, SaId, Timing,
    wire::{CfgAttribute, CfgAttributeType, Identification, Notify, NotifyType, TrafficSelector},
};
use keys::{KeyId, QkdKey, Secret};
use n3iwf_user::{
    core::{Action, CoreConfig, CoreTiming, KeyPolicy, N3iwf, NasLink, RelaySession},
    gateway::Gateway,
    ngap::{Node, SupportedArea, SupportedPlmn},
};
use nwu::{
    AnParameters, EstablishmentCause, Guami, Plmn,
    eap5g::{Packet, Request, Response},
};
use oxirush_ngap::NgapPduKind;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::amf::{self, Uplink};

pub(crate) const N3IWF: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 500);

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

/// What the data plane double holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) plane: Plane,
    pub(crate) slot: u32,
    pub(crate) reqid: u32,
    pub(crate) inner_remote: IpAddr,
    pub(crate) pdu_session: Option<u8>,
    /// Packets do not leave through it.
    pub(crate) inbound: bool,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) gateway: Gateway,
    pub(crate) ues: Vec<Ue>,
    pub(crate) uplink: VecDeque<Uplink>,
    /// Answers to NG Setup, first to last; then silence.
    pub(crate) setup_answers: VecDeque<Vec<u8>>,
    pub(crate) connects: usize,
    pub(crate) disconnects: usize,
    /// Whether the transport to the AMF comes up when asked for.
    pub(crate) amf_listens: bool,
    keys: HashMap<KeyId, Vec<u8>>,
    pub(crate) fetched: usize,
    pub(crate) fates: HashMap<KeyId, Fate>,
    pub(crate) released: HashSet<KeyId>,
    /// What a NAT before all UEs adds to their ports.
    pub(crate) nat: u16,
    /// Child SAs that follow their UE, and where to.
    pub(crate) moved: Vec<(ChildId, SocketAddr)>,
    pub(crate) kms_failure: Option<QkdFailure>,
    /// `stored_key_count` of a status, if one comes.
    pub(crate) stored: Option<u64>,
    pub(crate) held: HashMap<ChildId, Held>,
    pub(crate) refuse_install: bool,
    pub(crate) relay: BTreeMap<u32, RelaySession>,
    pub(crate) refuse_relay: bool,
    pub(crate) nas_sent: Vec<(NasLink, Vec<u8>)>,
    pub(crate) nas_closed: Vec<NasLink>,
    pub(crate) sent_on_ue_stream: usize,
    /// Every datagram of the UEs, as the gateway got it.
    pub(crate) recorded: Vec<(Path, Vec<u8>)>,
    /// How many datagrams the gateway has sent.
    pub(crate) answers: usize,
}

pub(crate) fn core_config(range: &str) -> CoreConfig {
    let plmn = Plmn::from_digits("208", "93").unwrap();
    CoreConfig {
        node: Node {
            plmn,
            id: 135,
            name: "n3iwf-qkd".to_owned(),
            areas: vec![SupportedArea {
                tac: [0, 0, 1],
                plmns: vec![SupportedPlmn {
                    plmn,
                    slices: vec![(1, Some([1, 2, 3]))],
                }],
            }],
        },
        amfs: vec!["sctp:203.0.113.2:38412".to_owned()],
        inner_address: "10.0.0.1".parse().unwrap(),
        inner_range: range.parse().unwrap(),
        nas_port: 20_000,
        gtp_address: "203.0.113.1".parse().unwrap(),
        slots: 3,
        child_sas: Default::default(),
        dscp: Default::default(),
        replay_window: 128,
        keys: KeyPolicy::default(),
        timing: CoreTiming::default(),
    }
}

impl World {
    /// A gateway whose AMF is in service.
    pub(crate) fn new() -> Self {
        Self::with_core(|_| {})
    }

    /// As [`new`](Self::new), with another core configuration.
    pub(crate) fn with_core(change: impl FnOnce(&mut CoreConfig)) -> Self {
        let mut config = core_config("10.0.0.0/16");
        change(&mut config);
        Self::in_service(Self::of(config, |_| {}))
    }

    /// As [`new`](Self::new), with another responder.
    pub(crate) fn with_endpoint(change: impl FnOnce(&mut ResponderConfig)) -> Self {
        Self::in_service(Self::of(core_config("10.0.0.0/16"), change))
    }

    /// Several AMFs, which answer NG Setup so.
    pub(crate) fn with_amfs(answers: Vec<Vec<u8>>) -> Self {
        let mut config = core_config("10.0.0.0/16");
        config.amfs = (0..answers.len()).map(|n| format!("amf {n}")).collect();
        let mut world = Self::of(config, |_| {});
        world.amf_listens = true;
        world.setup_answers = answers.into();
        world.start();
        assert!(world.gateway.amfs().iter().all(|amf| amf.state == "ready"));
        world.uplink.clear();
        world
    }

    fn in_service(mut world: Self) -> Self {
        world.amf_listens = true;
        world.setup_answers.push_back(amf::ng_setup_response());
        world.start();
        assert_eq!(world.next().kind(), NgapPduKind::Initiating_NGSetup);
        world
    }

    /// A gateway that was not started.
    pub(crate) fn without_amf(range: &str) -> Self {
        Self::of(core_config(range), |_| {})
    }

    fn of(config_of_core: CoreConfig, change: impl FnOnce(&mut ResponderConfig)) -> Self {
        let mut responder = ResponderConfig {
            profiles: vec![Profile::Native],
            sae_id: "sae-n3iwf".parse().unwrap(),
            identity: Identification::fqdn("n3iwf.example.net"),
            paper: None,
            ike_suites: vec!["AES_GCM_16-256/PRF_HMAC_SHA2_256".parse().unwrap()],
            esp_suites: vec!["AES_GCM_16-256".parse().unwrap()],
            cookies: CookiePolicy::Never,
            half_open_limit: 100_000,
        };
        change(&mut responder);
        let config = EndpointConfig {
            timing: timing(Some(Duration::from_secs(60))),
            lifetimes: lifetimes(),
            responder: Some(responder),
            ..EndpointConfig::default()
        };
        let endpoint = Endpoint::new(config, Box::new(ChaCha20Rng::seed_from_u64(1)));
        Self {
            now: Instant::ZERO,
            gateway: Gateway::new(endpoint, N3iwf::new(config_of_core)),
            ues: Vec::new(),
            uplink: VecDeque::new(),
            setup_answers: VecDeque::new(),
            connects: 0,
            disconnects: 0,
            amf_listens: false,
            keys: HashMap::new(),
            fetched: 0,
            fates: HashMap::new(),
            released: HashSet::new(),
            nat: 0,
            moved: Vec::new(),
            kms_failure: None,
            stored: None,
            held: HashMap::new(),
            refuse_install: false,
            relay: BTreeMap::new(),
            refuse_relay: false,
            nas_sent: Vec::new(),
            nas_closed: Vec::new(),
            sent_on_ue_stream: 0,
            recorded: Vec::new(),
            answers: 0,
        }
    }

    pub(crate) fn start(&mut self) {
        self.gateway.start(self.now);
        self.run();
    }

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

    /// A whole attach up to the NAS TCP connection; the UE's index and its RAN-UE-NGAP-ID.
    pub(crate) fn attach(&mut self) -> (usize, u32) {
        let ue = self.add_ue();
        self.run();
        let initial = self.next();
        assert_eq!(initial.kind(), NgapPduKind::Initiating_InitialUEMessage);
        let ran = initial.ran().unwrap();
        self.ngap(&amf::downlink_nas(ran, b"authenticate"));
        let answer = self.next();
        assert_eq!(answer.kind(), NgapPduKind::Initiating_UplinkNASTransport);
        self.ngap(&amf::context_setup(ran, None, Vec::new()));
        assert_eq!(
            self.next().kind(),
            NgapPduKind::Successful_InitialContextSetup
        );
        assert!(self.ues[ue].established);
        self.connect_nas(ue, NasLink(u64::from(ran)));
        (ue, ran)
    }

    /// An attached UE with PDU session 1.
    pub(crate) fn attach_with_session(&mut self) -> (usize, u32) {
        let (ue, ran) = self.attach();
        self.ngap(&amf::session_setup(
            ran,
            &[(1, b"accept", amf::transfer(0x100, &[1]))],
        ));
        assert_eq!(
            self.next().kind(),
            NgapPduKind::Successful_PDUSessionResourceSetup
        );
        (ue, ran)
    }

    pub(crate) fn connect_nas(&mut self, ue: usize, link: NasLink) {
        let from = self.ues[ue].inner.unwrap();
        self.gateway.nas_connected(self.now, link, from);
        self.run();
    }

    /// A message of the AMF, the first if there are more.
    pub(crate) fn ngap(&mut self, octets: &[u8]) {
        self.ngap_of(0, octets);
    }

    pub(crate) fn ngap_of(&mut self, amf: usize, octets: &[u8]) {
        self.gateway.handle_ngap(self.now, amf, octets);
        self.run();
    }

    /// The next message to the AMF.
    pub(crate) fn next(&mut self) -> Uplink {
        self.uplink.pop_front().expect("a message to the AMF")
    }

    pub(crate) fn lose_amf(&mut self) {
        self.gateway.amf_lost(self.now, 0, "test");
        self.run();
    }

    /// Lets time pass, through every timer on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self
                .ues
                .iter()
                .filter(|ue| !ue.dead)
                .filter_map(|ue| ue.endpoint.poll_timeout())
                .chain(self.gateway.poll_timeout())
                .min()
                .filter(|next| *next <= end);
            self.now = next.unwrap_or(end).max(self.now);
            self.gateway.handle_timeout(self.now);
            for ue in &mut self.ues {
                if !ue.dead {
                    ue.endpoint.handle_timeout(self.now);
                }
            }
            self.run();
            if next.is_none() {
                return;
            }
        }
    }

    /// Until nobody has anything to say.
    pub(crate) fn run(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(transmit) = self.gateway.poll_transmit() {
                quiet = false;
                self.answers += 1;
                let now = self.now;
                let mut to = transmit.path.remote;
                if let Some(ue) = self.ues.iter_mut().find(|ue| ue.path.local.ip() == to.ip())
                    && let Some(port) = to.port().checked_sub(self.nat)
                    && !ue.dead
                {
                    to.set_port(port);
                    let path = Path {
                        local: to,
                        remote: transmit.path.local,
                    };
                    ue.endpoint.handle_datagram(now, path, &transmit.data);
                }
            }
            while let Some(action) = self.gateway.poll_action() {
                quiet = false;
                self.act(action);
            }
            for index in 0..self.ues.len() {
                quiet &= !self.run_ue(index);
            }
            if quiet {
                return;
            }
        }
    }

    fn run_ue(&mut self, index: usize) -> bool {
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

    pub(crate) fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::ConnectAmf { amf } => {
                self.connects += 1;
                if self.amf_listens {
                    self.gateway.amf_connected(now, amf);
                } else {
                    self.gateway.amf_lost(now, amf, "refused");
                }
            }
            Action::DisconnectAmf { .. } => self.disconnects += 1,
            Action::SendNgap { amf, ue, data } => {
                self.sent_on_ue_stream += usize::from(ue.is_some());
                let uplink = Uplink::new(amf, ue, &data);
                let setup = uplink.kind() == NgapPduKind::Initiating_NGSetup;
                self.uplink.push_back(uplink);
                if setup && let Some(answer) = self.setup_answers.pop_front() {
                    self.gateway.handle_ngap(now, amf, &answer);
                }
            }
            Action::FetchKeys {
                sa,
                request,
                slave,
                number,
                size_bits,
            } => {
                assert_eq!((slave.as_str(), size_bits), ("sae-ue-1", 256));
                let keys = match self.kms_failure {
                    Some(failure) => Err(failure),
                    None => Ok((0..number).map(|_| self.new_key()).collect()),
                };
                self.gateway.keys_fetched(now, sa, request, keys);
            }
            Action::FetchAhead {
                slave,
                number,
                size_bits,
            } => {
                assert_eq!((slave.as_str(), size_bits), ("sae-ue-1", 256));
                let keys = match self.kms_failure {
                    Some(failure) => Err(failure),
                    None => Ok((0..number).map(|_| self.new_key()).collect()),
                };
                self.gateway.keys_ahead(now, &slave, keys);
            }
            Action::AskStock { slave } => {
                let stored = self.stored;
                self.gateway.stock_told(now, &slave, stored);
            }
            Action::LoseKeys { ids } => {
                for id in ids {
                    let fate = self.fates.insert(id, Fate::Lost);
                    assert_eq!(fate, None, "two fates of one key");
                }
            }
            Action::BookKey { id, fate, .. } => {
                assert_eq!(self.fates.insert(id, fate), None, "two fates of one key");
            }
            Action::ForgetKeys { .. } => {}
            Action::ReleaseKeys { ids } => {
                for id in ids {
                    assert!(matches!(self.fates.get(&id), Some(Fate::Used { .. })));
                    assert!(self.released.insert(id), "released twice");
                }
            }
            Action::SwitchSa { child } => {
                let held = self.held.get_mut(&child).expect("installed");
                assert!(std::mem::take(&mut held.inbound), "switched twice");
            }
            Action::MoveSa { child, path, .. } => {
                assert!(self.held.contains_key(&child));
                self.moved.push((child, path.remote));
            }
            Action::InstallSa {
                sa,
                child,
                spec,
                inbound,
            } => {
                spec.check(3).unwrap();
                let result = if self.refuse_install {
                    Err("as told".to_owned())
                } else {
                    let held = Held {
                        plane: spec.plane,
                        slot: spec.slot,
                        reqid: spec.reqid,
                        inner_remote: spec.inner_remote,
                        pdu_session: spec.pdu_session,
                        inbound,
                    };
                    // Policies belong to one reqid, and a reqid has the same policies.
                    let clash = self.held.values().any(|other| {
                        ((other.plane, other.slot, other.inner_remote)
                            == (held.plane, held.slot, held.inner_remote))
                            != (other.reqid == held.reqid)
                    });
                    assert!(!clash, "{held:?}");
                    assert_eq!(self.held.insert(child, held), None);
                    Ok(())
                };
                self.gateway.child_installed(now, sa, child, result);
            }
            Action::RemoveSa { child } => {
                assert!(self.held.remove(&child).is_some(), "removed twice");
                self.gateway.child_removed(now, child);
            }
            Action::AddSession(session) => {
                let (ue, teid) = (session.ue, session.dl_teid);
                let result = if self.refuse_relay {
                    Err("as told".to_owned())
                } else {
                    assert_eq!(self.relay.insert(teid, session), None);
                    Ok(())
                };
                self.gateway.session_added(now, ue, teid, result);
            }
            Action::ModifySession { session, token } => {
                let ue = session.ue;
                let result = if self.refuse_relay {
                    Err("as told".to_owned())
                } else {
                    let teid = session.dl_teid;
                    assert!(self.relay.insert(teid, session).is_some(), "modified");
                    Ok(())
                };
                self.gateway.session_modified(now, ue, token, result);
            }
            Action::SetUeAmbr { ue, ambr } => {
                for session in self.relay.values_mut().filter(|s| s.ue == ue) {
                    assert!(session.ue_ambr.is_some(), "nothing to change");
                    session.ue_ambr = Some(ambr);
                }
            }
            Action::RemoveSession { ue, dl_teid } => {
                assert!(self.relay.remove(&dl_teid).is_some(), "removed twice");
                self.gateway.session_removed(now, ue, dl_teid);
            }
            Action::SendNas { link, message } => self.nas_sent.push((link, message)),
            Action::CloseNas { link } => self.nas_closed.push(link),
        }
    }

    fn new_key(&mut self) -> QkdKey {
        self.fetched += 1;
        let id = KeyId::from_octets((self.fetched as u128).to_be_bytes());
        let octets: Vec<u8> = (0..32).map(|n| (self.fetched * 31 + n) as u8).collect();
        let secret = Secret::from_slice(&octets);
        self.keys.insert(id, octets);
        QkdKey { id, secret }
    }

    /// Everything is as before the first UE came, and every key has its fate.
    pub(crate) fn assert_nothing_left(&self) {
        assert!(self.gateway.is_empty(), "{:?}", self.gateway.ues(self.now));
        assert_eq!(self.gateway.sas().len(), 0, "IKE SAs");
        assert_eq!(self.gateway.addresses_taken(), 0, "inner addresses");
        assert!(self.held.is_empty(), "Child SAs: {:?}", self.held);
        assert!(self.relay.is_empty(), "relayed sessions: {:?}", self.relay);
        assert_eq!(self.fates.len(), self.fetched, "keys without a fate");
    }
}

fn lifetimes() -> Lifetimes {
    Lifetimes {
        from_peer: true,
        ..Lifetimes::default()
    }
}

fn timing(dpd_interval: Option<Duration>) -> Timing {
    Timing {
        dpd_interval,
        ..Timing::default()
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

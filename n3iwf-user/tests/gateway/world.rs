//! One gateway, any number of UEs, and doubles for everything outside.

#[path = "world/outside.rs"]
mod outside;
#[path = "world/ue.rs"]
mod ue;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use dataplane::Plane;
use ike::{
    ChildId, CookiePolicy, Endpoint, EndpointConfig, Fate, Instant, Lifetimes, Path, Profile,
    QkdFailure, ResponderConfig, Timing, wire::Identification,
};
use keys::KeyId;
use n3iwf_user::{
    core::{CoreConfig, CoreTiming, KeyPolicy, N3iwf, NasLink, RelaySession},
    gateway::Gateway,
    ngap::{Node, SupportedArea, SupportedPlmn},
};
use nwu::Plmn;
use oxirush_ngap::NgapPduKind;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use self::ue::Ue;
pub(crate) use self::ue::an_parameters;
use crate::amf::{self, Uplink};

pub(crate) const N3IWF: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 500);

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

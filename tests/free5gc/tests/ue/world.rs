//! One UE, the N3IWF it attaches to, and the 5G core behind that, in virtual time.

use std::{net::SocketAddr, path::Path as FilePath, time::Duration};

use core5g::{
    amf::{Action as CoreAction, Amf, AssociationId},
    home::Home,
};
use free5gc::n3iwf::{FQDN, INNER, N3iwf, Output, UE_INNER};
use ike::{
    InitiatorConfig, Instant, Lifetimes, Mode, Offer, Path, PeerCertificate, PeerProfile, Profile,
    QkdPolicy, Timing,
    crypto::rsa::RsaSigner,
    wire::{CfgAttribute, CfgAttributeType, Identification, TrafficSelector},
};
use keys::Secret;
use n3iwf_user::ngap::{
    self, AmfMessage, Cause, Node, SessionOutcome, SessionUp, SupportedArea, SupportedPlmn, UeIds,
};
use nwu::SNssai;
use oxirush_nas::nas_5gs::{CipheringAlgorithm, IntegrityAlgorithm};
use oxirush_security::Plmn;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use ue_user::core::{
    nas::{NasConfig, SessionRequest, Timers},
    suci::{Concealer, Scheme},
    ue::{Action, AttachFailure, Command, Install, Retry, SessionInterface, Ue, UeConfig},
    usim::{OperatorKey, SqnState, Usim},
};

const LINK: AssociationId = AssociationId(1);
pub(crate) const N3IWF: [u8; 4] = [192, 0, 2, 1];
const UE: [u8; 4] = [192, 0, 2, 10];
const SUPI: &str = "208930000000001";
const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";
const SLICE: SNssai = SNssai {
    sst: 1,
    sd: Some([1, 2, 3]),
};
const CORE: &str = r#"
listen: unix:/run/core5g/n2.sock
control: /run/core5g/control.sock
amf:
  plmn: {mcc: "208", mnc: "93"}
  tracking_areas: ["000001"]
  slices: [{sst: 1, sd: "010203"}]
  network_name: Test Network
smf:
  dnns:
    - name: internet
      pool: 10.60.0.0/16
      mtu: 1358
      flows: [{qfi: 1, five_qi: 9}]
upf:
  listen: 203.0.113.2:2152
subscribers:
  - supi: imsi-208930000000001
    k: "465b5ce8b199b49faa5f0a2ee238a6bc"
    opc: "cd63cb71954a9f4e48a5994e37a02baf"
    sqn: "000000000020"
"#;

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) ue: Ue,
    pub(crate) n3iwf: N3iwf,
    amf: Amf,
    ids: Option<UeIds>,
    token: u64,
    /// Datagrams of the UE.
    pub(crate) sent: Vec<Vec<u8>>,
    /// What the N3IWF sends is lost.
    pub(crate) mute_n3iwf: bool,
    /// What the UE sends is lost.
    pub(crate) mute_ue: bool,
    pub(crate) installed: Vec<Install>,
    pub(crate) sessions: Vec<SessionInterface>,
    pub(crate) failures: Vec<AttachFailure>,
    pub(crate) released: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(config(), 3)
    }

    pub(crate) fn with(config: UeConfig, seed: u64) -> Self {
        let rng = |seed: u64| Box::new(ChaCha20Rng::seed_from_u64(seed));
        let core = daemon::config::parse(FilePath::new("core"), CORE, core5g::config::check);
        let core = core.unwrap();
        let address = core.upf.address();
        let home = Home::new(core.subscribers, &core.home_network_keys).unwrap();
        let mut amf = Amf::new(core.amf, core.smf, address, home, rng(5));
        amf.connected(Duration::ZERO, LINK, "test");
        let key = |text: &str| Secret::from_slice(&hex::decode(text).unwrap());
        let opc = OperatorKey::Opc(key(OPC));
        let usim = Usim::new(&key(K), &opc, SUPI, SqnState::default()).unwrap();
        let certificate = include_bytes!("../../../../crates/ike/tests/vectors/rsa-leaf.der");
        let signer = include_bytes!("../../../../crates/ike/tests/vectors/rsa-key.pem");
        let mut world = Self {
            now: Instant::ZERO + Duration::from_secs(1),
            ue: Ue::new(config, usim, rng(seed), rng(2)),
            n3iwf: N3iwf::new(
                (N3IWF.into(), UE.into()),
                certificate.to_vec(),
                RsaSigner::new(signer).unwrap(),
                rng(seed ^ 0x77),
            ),
            amf,
            ids: None,
            token: 0,
            sent: Vec::new(),
            mute_n3iwf: false,
            mute_ue: false,
            installed: Vec::new(),
            sessions: Vec::new(),
            failures: Vec::new(),
            released: false,
        };
        let plmn = nwu::Plmn::from_digits("208", "93").unwrap();
        let node = Node {
            plmn,
            id: 135,
            name: "n3iwf".into(),
            areas: vec![SupportedArea {
                tac: [0, 0, 1],
                plmns: vec![SupportedPlmn {
                    plmn,
                    slices: vec![(1, SLICE.sd)],
                }],
            }],
        };
        world.to_amf(&ngap::ng_setup_request(&node).unwrap());
        world
    }

    pub(crate) fn attach(&mut self) {
        self.command(Command::Attach);
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.ue.command(self.now, command).unwrap();
        self.settle();
    }

    /// A datagram of somebody at the N3IWF's address.
    pub(crate) fn inject(&mut self, data: &[u8]) {
        self.ue.handle_datagram(self.now, path(), data);
        self.settle();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let due = [
                self.ue.poll_timeout(),
                self.n3iwf.poll_timeout().map(Instant::from_origin),
                self.amf.poll_timeout().map(Instant::from_origin),
            ];
            match due.into_iter().flatten().min() {
                Some(due) if due <= end => {
                    self.now = self.now.max(due);
                    self.ue.handle_timeout(self.now);
                    self.n3iwf.handle_timeout(self.now.since_origin());
                    let actions = self.amf.handle_timeout(self.now.since_origin());
                    self.from_amf(actions);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let since = self.now.since_origin();
            if let Some(transmit) = self.ue.poll_transmit() {
                let port = transmit.path.local.port();
                if !self.mute_ue {
                    self.n3iwf.handle_datagram(since, port, &transmit.data);
                }
                self.sent.push(transmit.data);
            } else if let Some(output) = self.n3iwf.poll_output() {
                self.n3iwf_output(output);
            } else if let Some(action) = self.ue.poll_action() {
                self.act(action);
            } else {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    fn n3iwf_output(&mut self, output: Output) {
        match output {
            Output::Datagram(port, data) => {
                let path = Path {
                    local: (UE, port).into(),
                    remote: (N3IWF, port).into(),
                };
                if !self.mute_n3iwf {
                    self.ue.handle_datagram(self.now, path, &data);
                }
            }
            Output::Uplink(nas) => {
                let location = SocketAddr::from((UE, 500));
                let message = match self.ids {
                    Some(ids) => ngap::uplink_nas(ids, &nas, location),
                    None => {
                        let plmn = nwu::Plmn::from_digits("208", "93");
                        ngap::initial_ue_message(1, &nas, location, None, None, plmn)
                    }
                };
                self.to_amf(&message.unwrap());
            }
            Output::ContextReady => {
                let ids = self.ids.unwrap();
                self.to_amf(&ngap::context_setup_response(ids, &[]).unwrap());
            }
            Output::SessionReady(id) => {
                let up = SessionUp {
                    address: [203, 0, 113, 1].into(),
                    dl_teid: 7,
                    qfis: vec![1],
                    security_result: false,
                };
                let outcome = SessionOutcome { id, result: Ok(up) };
                let ids = self.ids.unwrap();
                self.to_amf(&ngap::session_setup_response(ids, &[outcome]).unwrap());
            }
            Output::Nas(framed) => self.ue.nas_received(self.now, self.token, &framed),
            Output::ReleaseRequest => {
                let cause =
                    Cause::radioNetwork(ngap::CauseRadioNetwork::radio_connection_with_ue_lost);
                if let Some(ids) = self.ids {
                    self.to_amf(&ngap::context_release_request(ids, cause).unwrap());
                }
            }
        }
    }

    fn to_amf(&mut self, message: &[u8]) {
        let handled = self.amf.handle(self.now.since_origin(), LINK, message);
        self.from_amf(handled.actions);
    }

    fn from_amf(&mut self, actions: Vec<CoreAction>) {
        for action in actions {
            if let CoreAction::Send { data, .. } = action {
                self.n2(&data);
            }
        }
    }

    fn n2(&mut self, data: &[u8]) {
        match ngap::decode(data).unwrap() {
            // The release of a session that never came about ends here, as it does in the original.
            AmfMessage::NgSetupResponse(_)
            | AmfMessage::Noted(_)
            | AmfMessage::SessionRelease { .. } => {}
            AmfMessage::DownlinkNas { ue, nas } => {
                self.ids = Some(ue);
                self.n3iwf.downlink_nas(nas);
            }
            AmfMessage::ContextSetup(setup) => {
                self.ids = Some(setup.ue);
                self.n3iwf.context_setup(setup.key.expose());
            }
            AmfMessage::SessionSetup { sessions, .. } => {
                for session in sessions {
                    let transfer = session.transfer.unwrap();
                    let nas = session.nas.unwrap();
                    let qfis: Vec<u8> = transfer.flows.iter().map(|flow| flow.qfi).collect();
                    self.n3iwf.session_setup(session.id, &qfis, nas);
                }
            }
            AmfMessage::ContextRelease { .. } => {
                self.released = true;
                self.n3iwf.release();
                if let Some(ids) = self.ids.take() {
                    self.to_amf(&ngap::context_release_complete(ids, &[]).unwrap());
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::FetchKeys { .. } | Action::KeyFate { .. } => panic!("no QKD key in mode psk"),
            Action::StoreSqn(_) => self.ue.sqn_stored(now, Ok(())),
            Action::Install(install) => {
                let id = install.child.id;
                self.installed.push(*install);
                self.ue.installed(now, id, Ok(()));
            }
            Action::Remove(id) => self.installed.retain(|install| install.child.id != id),
            Action::ConnectNas {
                local,
                remote,
                token,
            } => {
                assert_eq!(local, UE_INNER);
                assert_eq!(remote, SocketAddr::new(INNER.into(), 20_000));
                self.token = token;
                self.ue.nas_connected(now, token);
                self.n3iwf.nas_connected(local);
            }
            Action::SendNas(framed) => self.n3iwf.nas_received(framed[2..].to_vec()),
            Action::AddSession(session) => {
                let id = session.accept.id;
                self.sessions.push(*session);
                self.ue.session_added(now, id, Ok(()));
            }
            Action::RemoveSession(id) => self.sessions.retain(|s| s.accept.id != id),
            Action::Detached { failure, .. } => self.failures.extend(failure),
            _ => {}
        }
    }
}

pub(crate) fn path() -> Path {
    Path {
        local: (UE, 500).into(),
        remote: (N3IWF, 500).into(),
    }
}

/// As the daemon has it with `peerProfile: free5gc`.
pub(crate) fn config() -> UeConfig {
    let plmn = Plmn::new("208", "93").unwrap();
    UeConfig {
        nas: NasConfig {
            plmn,
            concealer: Concealer::new(plmn, SUPI, "", Scheme::Null).unwrap(),
            imeisv: Some("3569380356438091".into()),
            ciphering: vec![CipheringAlgorithm::NEA0],
            integrity: vec![IntegrityAlgorithm::NIA2],
            requested_nssai: vec![SLICE],
            gmm_capability: 0,
            timers: Timers::default(),
        },
        path: path(),
        initiator: InitiatorConfig {
            profile: Profile::Native,
            sae_id: "ue".parse().unwrap(),
            master_sae_id: None,
            identity: Identification::key_id(Vec::new()),
            peer_identity: Some(Identification::fqdn(FQDN)),
            peer_certificate: PeerCertificate::Ignore,
            ike_suites: [
                "AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
                "AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_2048",
            ]
            .map(|suite| suite.parse().unwrap())
            .to_vec(),
            esp_suites: ["AES_CBC-256/HMAC_SHA2_256_128", "AES_CBC-256/HMAC_SHA1_96"]
                .map(|suite| suite.parse().unwrap())
                .to_vec(),
            ts_local: vec![TrafficSelector::any_v4()],
            ts_remote: vec![TrafficSelector::any_v4()],
            configuration: vec![CfgAttribute::request(
                CfgAttributeType::INTERNAL_IP4_ADDRESS,
            )],
        },
        offer: Offer {
            modes: vec![Mode::Psk],
            policy: QkdPolicy::Forbid,
            ..Offer::default()
        },
        peer_profile: PeerProfile::Free5gc,
        mobike: None,
        identity_len: 8,
        fragmentation: ike::Fragmentation::default(),
        timing: Timing {
            dpd_interval: None,
            ..Timing::default()
        },
        lifetimes: Lifetimes::default(),
        an_nssai: vec![SLICE],
        guami: None,
        sessions: vec![SessionRequest {
            id: 1,
            dnn: Some("internet".into()),
            s_nssai: Some(SLICE),
            kind: Default::default(),
        }],
        retry: Retry {
            attempts: 1,
            initial: Duration::from_secs(2),
            maximum: Duration::from_secs(60),
        },
        attach_timeout: Duration::from_secs(60),
        release_timeout: Duration::from_secs(3),
        tunnel_mtu: 1386,
    }
}

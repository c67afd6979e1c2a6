//! One gateway, the 5G core behind it, and at most one N3IWUE in front of it, in virtual time.

use std::{net::SocketAddr, path::Path as FilePath, time::Duration};

use core5g::{
    amf::{Action as CoreAction, Amf, AssociationId},
    home::Home,
};
use dataplane::ChildSaSpec;
use free5gc::{
    n3iwue::{Edition, N3iwue, Output},
    nas::Nas,
};
use ike::{
    Acceptance, CertificateUse, CookiePolicy, Endpoint, EndpointConfig, Instant, Mode, Path,
    PeerProfile, QkdPolicy, ResponderConfig, Timing, crypto::certificate::Credential,
    wire::Identification,
};
use n3iwf_user::{
    core::{Action, CoreConfig, CoreTiming, KeyPolicy, N3iwf, NasLink, RelaySession},
    gateway::Gateway,
    ngap::{Node, SupportedArea, SupportedPlmn},
};
use nwu::Plmn;
use oxirush_ngap::{build_ngap, ngap::*};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const LINK: AssociationId = AssociationId(1);
pub(crate) const N3IWF: [u8; 4] = [192, 0, 2, 1];
pub(crate) const UE: [u8; 4] = [192, 0, 2, 10];
pub(crate) const SLICE: (u8, [u8; 3]) = (1, [1, 2, 3]);
const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";
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

/// The suites of the legacy profile.
pub(crate) const LEGACY_IKE: &str = "AES_CBC-256/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_2048";
pub(crate) const LEGACY_ESP: &str = "AES_CBC-256/HMAC_SHA1_96";

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) gateway: Gateway,
    amf: Amf,
    pub(crate) ue: Option<N3iwue>,
    /// Datagrams of the gateway to anybody but N3IWUE.
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    /// What the core got, by name.
    pub(crate) to_core: Vec<String>,
    /// What the data plane holds.
    pub(crate) specs: Vec<ChildSaSpec>,
    pub(crate) sessions: Vec<RelaySession>,
    /// NAS messages of the gateway over TCP, and when.
    pub(crate) nas: Vec<(Duration, usize)>,
    /// Sizes of frames in both directions.
    pub(crate) sizes: Vec<usize>,
    /// Datagrams of N3IWUE.
    pub(crate) from_ue: Vec<Vec<u8>>,
    /// Those are lost from now on.
    pub(crate) mute_ue: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(7)
    }

    /// A gateway that bears with N3IWUE.
    pub(crate) fn with(seed: u64) -> Self {
        Self::of(seed, PeerProfile::Free5gc)
    }

    /// A gateway with the suites of N3IWUE, and no patience with it.
    pub(crate) fn strict(seed: u64) -> Self {
        Self::of(seed, PeerProfile::Standard)
    }

    fn of(seed: u64, profile: PeerProfile) -> Self {
        let plmn = Plmn::from_digits("208", "93").unwrap();
        let config = CoreConfig {
            node: Node {
                plmn,
                id: 135,
                name: "n3iwf".to_owned(),
                areas: vec![SupportedArea {
                    tac: [0, 0, 1],
                    plmns: vec![SupportedPlmn {
                        plmn,
                        slices: vec![(SLICE.0, Some(SLICE.1))],
                    }],
                }],
            },
            amfs: vec!["test".to_owned()],
            inner_address: "10.0.0.1".parse().unwrap(),
            inner_range: "10.0.0.0/24".parse().unwrap(),
            nas_port: 20_000,
            gtp_address: "203.0.113.1".parse().unwrap(),
            slots: 3,
            child_sas: Default::default(),
            dscp: Default::default(),
            replay_window: 128,
            keys: KeyPolicy::default(),
            timing: CoreTiming::default(),
        };
        let endpoint = Endpoint::new(
            endpoint(profile),
            Box::new(ChaCha20Rng::seed_from_u64(seed)),
        );
        let core = daemon::config::parse(FilePath::new("core"), CORE, core5g::config::check);
        let core = core.unwrap();
        let address = core.upf.address();
        let home = Home::new(core.subscribers, &core.home_network_keys).unwrap();
        let rng = Box::new(ChaCha20Rng::seed_from_u64(5));
        let mut amf = Amf::new(core.amf, core.smf, address, home, rng);
        amf.connected(Duration::ZERO, LINK, "test");
        let mut world = Self {
            now: Instant::ZERO + Duration::from_secs(1),
            gateway: Gateway::new(endpoint, N3iwf::new(config)),
            amf,
            ue: None,
            sent: Vec::new(),
            to_core: Vec::new(),
            specs: Vec::new(),
            sessions: Vec::new(),
            nas: Vec::new(),
            sizes: Vec::new(),
            from_ue: Vec::new(),
            mute_ue: false,
        };
        world.gateway.start(world.now);
        world.settle();
        assert_eq!(world.to_core, ["NGSetup"]);
        world.to_core.clear();
        world
    }

    /// Puts an N3IWUE in front of the gateway and lets it begin.
    pub(crate) fn begin(&mut self, edition: Edition, seed: u64) {
        let nas = subscriber();
        let addresses = (UE.into(), N3IWF.into());
        let rng = Box::new(ChaCha20Rng::seed_from_u64(seed));
        let mut ue = N3iwue::new(edition, addresses, nas, SLICE, rng);
        ue.start();
        self.ue = Some(ue);
        self.settle();
    }

    /// The UE asks for another PDU session.
    pub(crate) fn request_session(&mut self, id: u8) {
        self.ue.as_mut().unwrap().request_session(id);
        self.settle();
    }

    /// The core releases a PDU session.
    pub(crate) fn release_session(&mut self, id: u8) {
        let transfer = PDUSessionResourceReleaseCommandTransfer::new(
            Cause::nas(CauseNas::normal_release),
            None,
        );
        let item = PDUSessionResourceToReleaseItemRelCmd::new(
            PDUSessionID(id),
            encode_open_type(&transfer).unwrap(),
            None,
        );
        let list = PDUSessionResourceToReleaseListRelCmd(vec![item]);
        let command = build_ngap!(
            InitiatingMessage,
            PDUSessionResourceRelease,
            PDUSessionResourceReleaseCommand,
            AMF_UE_NGAP_ID(1_u64),
            RAN_UE_NGAP_ID(1_u32),
            PDUSessionResourceToReleaseListRelCmd(list),
        );
        let command = command.unwrap().encode().unwrap();
        self.gateway.handle_ngap(self.now, 0, &command);
        self.settle();
    }

    /// A datagram of whoever sends from this address.
    pub(crate) fn inject(&mut self, from: SocketAddr, data: &[u8]) {
        let path = Path {
            local: (N3IWF, from.port()).into(),
            remote: from,
        };
        self.gateway.handle_datagram(self.now, path, data);
        self.settle();
    }

    /// What it got from the gateway since the last question.
    pub(crate) fn answers(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent)
            .into_iter()
            .map(|(_, data)| data)
            .collect()
    }

    /// Lets time pass, through every timer on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let ue = self.ue.as_ref().and_then(N3iwue::poll_timeout);
            let due = [
                self.gateway.poll_timeout(),
                ue.map(Instant::from_origin),
                self.amf.poll_timeout().map(Instant::from_origin),
            ];
            match due.into_iter().flatten().min() {
                Some(due) if due <= end => {
                    self.now = self.now.max(due);
                    self.gateway.handle_timeout(self.now);
                    let since = self.now.since_origin();
                    if let Some(ue) = &mut self.ue {
                        ue.handle_timeout(since);
                    }
                    let actions = self.amf.handle_timeout(since);
                    self.core(actions);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
    }

    /// Until nobody has anything to say.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let since = self.now.since_origin();
            if let Some(transmit) = self.gateway.poll_transmit() {
                let Path { local, remote } = transmit.path;
                match &mut self.ue {
                    Some(ue) if remote.ip() == std::net::IpAddr::from(UE) => {
                        self.sizes.push(14 + 20 + 8 + transmit.data.len());
                        ue.handle_datagram(since, local.port(), &transmit.data);
                    }
                    _ => self.sent.push((remote, transmit.data)),
                }
            } else if let Some(action) = self.gateway.poll_action() {
                self.act(action);
            } else if let Some(output) = self.ue.as_mut().and_then(N3iwue::poll_output) {
                self.ue_output(output);
            } else {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    fn ue_output(&mut self, output: Output) {
        match output {
            Output::Datagram(port, data) => {
                self.sizes.push(14 + 20 + 8 + data.len());
                let path = Path {
                    local: (N3IWF, port).into(),
                    remote: (UE, port).into(),
                };
                if !self.mute_ue {
                    self.gateway.handle_datagram(self.now, path, &data);
                }
                self.from_ue.push(data);
            }
            Output::Connect { local, remote } => {
                assert_eq!(remote, "10.0.0.1:20000".parse().unwrap());
                self.gateway
                    .nas_connected(self.now, NasLink(1), local.into());
            }
            Output::Nas(framed) => {
                let message = framed.get(2..).unwrap();
                self.gateway.nas_received(self.now, NasLink(1), message);
            }
        }
    }

    fn core(&mut self, actions: Vec<CoreAction>) {
        for action in actions {
            if let CoreAction::Send { data, .. } = action {
                self.gateway.handle_ngap(self.now, 0, &data);
            }
        }
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::ConnectAmf { amf } => self.gateway.amf_connected(now, amf),
            Action::DisconnectAmf { .. } => panic!("the association stays"),
            Action::SendNgap { data, .. } => {
                let handled = self.amf.handle(now.since_origin(), LINK, &data);
                self.to_core.push(handled.received);
                self.core(handled.actions);
            }
            Action::FetchKeys { .. }
            | Action::FetchAhead { .. }
            | Action::AskStock { .. }
            | Action::LoseKeys { .. }
            | Action::BookKey { .. } => panic!("no QKD key in mode psk"),
            Action::ForgetKeys { .. } => {}
            Action::ReleaseKeys { .. } => panic!("no QKD key in mode psk"),
            Action::MoveSa { .. } => panic!("this peer does not move"),
            Action::SwitchSa { .. } => panic!("this peer does not rekey"),
            Action::InstallSa {
                sa, child, spec, ..
            } => {
                spec.check(3).unwrap();
                self.specs.push(*spec);
                self.gateway.child_installed(now, sa, child, Ok(()));
            }
            Action::RemoveSa { child } => {
                let before = self.specs.len();
                self.specs.retain(|spec| spec.id != child.number());
                assert_eq!(self.specs.len() + 1, before, "only what was installed");
                self.gateway.child_removed(now, child);
            }
            Action::AddSession(session) => {
                let (ue, teid) = (session.ue, session.dl_teid);
                self.sessions.push(session);
                self.gateway.session_added(now, ue, teid, Ok(()));
            }
            Action::ModifySession { session, token } => {
                let ue = session.ue;
                self.sessions.retain(|old| old.dl_teid != session.dl_teid);
                self.sessions.push(session);
                self.gateway.session_modified(now, ue, token, Ok(()));
            }
            Action::SetUeAmbr { ue, ambr } => {
                for session in self.sessions.iter_mut().filter(|s| s.ue == ue) {
                    session.ue_ambr = Some(ambr);
                }
            }
            Action::RemoveSession { ue, dl_teid } => {
                self.sessions.retain(|session| session.dl_teid != dl_teid);
                self.gateway.session_removed(now, ue, dl_teid);
            }
            Action::SendNas { message, .. } => {
                let since = now.since_origin();
                self.nas.push((since, message.len()));
                let framed = nwu::nas_envelope::wrap(&message).unwrap();
                if let Some(ue) = &mut self.ue {
                    ue.handle_nas(since, &framed);
                }
            }
            Action::CloseNas { .. } => {}
        }
    }

    /// Nothing a stranger sent left anything behind.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.gateway.sas().len(), 0, "IKE SAs");
        assert!(self.gateway.is_empty(), "UEs");
        assert_eq!(self.gateway.addresses_taken(), 0, "inner addresses");
        assert_eq!(self.to_core, Vec::<String>::new(), "the core heard of it");
        assert!(self.specs.is_empty(), "{:?}", self.specs);
    }
}

/// Mode `psk` with the suites of the legacy profile, and a certificate for everybody.
fn endpoint(peer_profile: PeerProfile) -> EndpointConfig {
    EndpointConfig {
        timing: Timing {
            dpd_interval: None,
            ..Timing::default()
        },
        responder: Some(ResponderConfig {
            profiles: Vec::new(),
            sae_id: "sae-n3iwf".parse().unwrap(),
            identity: Identification::fqdn("n3iwf.free5gc.org"),
            paper: None,
            ike_suites: vec![LEGACY_IKE.parse().unwrap()],
            esp_suites: vec![LEGACY_ESP.parse().unwrap()],
            cookies: CookiePolicy::Never,
            half_open_limit: 100,
        }),
        acceptance: Acceptance {
            modes: vec![Mode::Psk],
            policy: QkdPolicy::Forbid,
            credential: Some(credential().into()),
            certificate: CertificateUse::Always,
            ..Acceptance::default()
        },
        peer_profile,
        ..EndpointConfig::default()
    }
}

/// The one subscriber of the core.
pub(crate) fn subscriber() -> Nas {
    let octets = |text: &str| hex::decode(text).unwrap().try_into().unwrap();
    Nas::new("0000000001", &octets(K), &octets(OPC), SLICE).unwrap()
}

/// The RSA key of the engine's tests.
fn credential() -> Credential {
    let leaf = include_bytes!("../../../../crates/ike/tests/vectors/rsa-leaf.der");
    let key = include_bytes!("../../../../crates/ike/tests/vectors/rsa-key.pem");
    Credential::new(leaf, key).unwrap()
}

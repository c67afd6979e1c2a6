//! Both daemons' cores and the AMF in virtual time; KMSs that are a map, data planes that say yes.

use std::{collections::HashMap, fs, time::Duration};

use core5g::amf::{self, Amf, AssociationId};
use ike::{ChildId, Endpoint, Instant, QkdFailure, SaStatus, Transmit};
use keys::{KeyId, QkdKey, Secret};
use n3iwf_user::{
    core::{Action as N3iwfAction, N3iwf, NasLink},
    gateway::Gateway,
};
use nwu::{EnvelopeReader, nas_envelope};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use ue_user::core::{
    ue::{Action as UeAction, Command, State, Status, Ue},
    usim::SqnState,
};

use crate::pki;

const LINK: AssociationId = AssociationId(1);
const NAS: NasLink = NasLink(1);
pub(crate) const PROPOSAL: &str = "aes256gcm16-prfsha384-ecp256";
const CORE: &str = r#"
listen: unix:/run/core5g/n2.sock
control: /run/core5g/control.sock
amf:
  plmn: {mcc: "208", mnc: "93"}
  tracking_areas: ["000001"]
  slices: [{sst: 1, sd: "010203"}]
smf:
  dnns: [{name: internet, pool: 10.60.0.0/16}]
upf: {listen: "203.0.113.2:2152"}
subscribers:
  - supi: imsi-208930000000001
    k: "465b5ce8b199b49faa5f0a2ee238a6bc"
    opc: "cd63cb71954a9f4e48a5994e37a02baf"
    sqn: "000000000020"
"#;

pub(crate) const HYBRID_PROPOSAL: &str = "aes256gcm16-prfsha384-ecp256-ke1_mlkem768";

/// What the two configuration files say.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) n3iwf_modes: &'static str,
    pub(crate) n3iwf_policy: Option<&'static str>,
    /// Entries of the N3IWF's `peers`. The UE is 192.0.2.10.
    pub(crate) peers: &'static str,
    pub(crate) ue_modes: &'static str,
    pub(crate) ue_policy: Option<&'static str>,
    /// Certificate and key of each end.
    pub(crate) n3iwf: &'static str,
    pub(crate) ue: &'static str,
    /// Whether the UE has a trust anchor, and the name it wants.
    pub(crate) judges: bool,
    pub(crate) fqdn: &'static str,
    pub(crate) send_certificate: &'static str,
}

pub(crate) struct Files {
    pub(crate) n3iwf: String,
    pub(crate) ue: String,
}

impl Setup {
    /// Both ends with this mode alone.
    pub(crate) fn of(mode: &'static str) -> Self {
        Self {
            n3iwf_modes: mode,
            n3iwf_policy: None,
            peers: "",
            ue_modes: mode,
            ue_policy: None,
            n3iwf: "n3iwf",
            ue: "ue",
            judges: true,
            fqdn: "n3iwf.example.net",
            send_certificate: "when-asked",
        }
    }

    /// Both ends with QKD and without, the UE with this policy.
    pub(crate) fn mixed(ue_policy: &'static str) -> Self {
        Self {
            n3iwf_modes: "qkd, psk",
            n3iwf_policy: Some("prefer-qkd"),
            ue_modes: "qkd, psk",
            ue_policy: Some(ue_policy),
            ..Self::of("qkd")
        }
    }

    /// The same with mode `hybrid` in the place of `qkd`.
    pub(crate) fn hybrid(ue_policy: &'static str) -> Self {
        Self {
            n3iwf_modes: "hybrid, psk",
            ue_modes: "hybrid, psk",
            ..Self::mixed(ue_policy)
        }
    }

    pub(crate) fn files(&self) -> Files {
        let policy = |indent: &str, policy: Option<&str>| {
            policy.map_or_else(String::new, |word| format!("{indent}policy: {word}\n"))
        };
        let proposals = |modes: &str| {
            let qkd = modes.contains("qkd").then_some("aes256gcm16-prfsha256");
            let hybrid = modes.contains("hybrid").then_some(HYBRID_PROPOSAL);
            let exchange = (modes.contains("psk") || modes.contains("cert")).then_some(PROPOSAL);
            let words: Vec<&str> = qkd.into_iter().chain(hybrid).chain(exchange).collect();
            words.join(",")
        };
        let kms = "kms: { endpoints: ['https://198.51.100.2:8443'], ca: ca, certificate: c, privateKey: k }";
        let qkd =
            |modes: &str, text: String| match modes.contains("qkd") || modes.contains("hybrid") {
                true => text,
                false => String::new(),
            };
        let n3iwf_modes = [self.n3iwf_modes, self.peers].concat();
        let n3iwf = format!(
            "configuration:
  n3iwfInformation:
    globalN3IWFID: {{ plmnID: {{ mcc: 208, mnc: 93 }}, n3iwfID: 135 }}
    supportedTAList:
      - tac: '000001'
        broadcastPlmnList:
          - plmnID: {{ mcc: 208, mnc: 93 }}
            taiSliceSupportList: [{{ snssai: {{ sst: 1, sd: '010203' }} }}]
  amfSCTPAddresses: [{{ unix: /run/amf.sock }}]
  ikeBindAddress: 192.0.2.1
  ipSecTunnelAddress: 10.0.0.1
  ueIpAddressRange: 10.0.0.0/24
  n3iwfGtpBindAddress: 203.0.113.1
  fqdn: n3iwf.example.net
  certificate: DIR/{cert}.pem
  privateKey: DIR/{cert}.key
  certificateAuthority: DIR/ca.pem
  modes: [{modes}]
{policy}  peers: [{peers}]
{qkd}  ike: {{ proposals: '{proposals}', sendCertificate: {send} }}
",
            cert = self.n3iwf,
            modes = self.n3iwf_modes,
            policy = policy("  ", self.n3iwf_policy),
            peers = self.peers,
            qkd = qkd(
                &n3iwf_modes,
                format!("  qkd:\n    saeId: sae-n3iwf\n    {kms}\n")
            ),
            proposals = proposals(&n3iwf_modes),
            send = self.send_certificate,
        );
        let trusted = match self.judges {
            true => "[DIR/ca.pem]",
            false => "[]",
        };
        let ue = format!(
            "nwu: {{ localAddress: 192.0.2.10, n3iwfAddress: 192.0.2.1, n3iwfFqdn: {fqdn} }}
subscriber:
  supi: imsi-208930000000001
  k: '465b5ce8b199b49faa5f0a2ee238a6bc'
  opc: 'cd63cb71954a9f4e48a5994e37a02baf'
  sqnFile: /nowhere
plmn: {{mcc: '208', mnc: '93'}}
nssai: [{{sst: 1, sd: '010203'}}]
sessions: [{{ dnn: internet, sNssai: {{sst: 1, sd: '010203'}} }}]
modes: [{modes}]
{policy}{qkd}ike:
  proposals: '{proposals}'
  trustedCertificates: {trusted}
  certificate: DIR/{cert}.pem
  privateKey: DIR/{cert}.key
retry: {{ attempts: 1 }}
",
            fqdn = self.fqdn,
            modes = self.ue_modes,
            policy = policy("", self.ue_policy),
            qkd = qkd(self.ue_modes, format!("qkd:\n  saeId: sae-ue-1\n  {kms}\n")),
            proposals = proposals(self.ue_modes),
            cert = self.ue,
        );
        Files { n3iwf, ue }
    }
}

/// Who sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Ue,
    N3iwf,
}

/// Someone on the path: what arrives in place of a datagram, and as whose.
pub(crate) type Tap = Box<dyn FnMut(From, &[u8]) -> Vec<(From, Vec<u8>)>>;

pub(crate) struct Pair {
    pub(crate) now: Instant,
    gateway: Gateway,
    pub(crate) ue: Ue,
    amf: Amf,
    keys: HashMap<KeyId, Vec<u8>>,
    pub(crate) keys_made: u8,
    /// The N3IWF's KMS, the UE's KMS: out of order.
    pub(crate) kms_down: [bool; 2],
    pub(crate) tap: Option<Tap>,
    uplink: EnvelopeReader,
    token: u64,
    pub(crate) installed: usize,
    pub(crate) failures: Vec<String>,
}

fn rng(seed: u64) -> Box<ChaCha20Rng> {
    Box::new(ChaCha20Rng::seed_from_u64(seed))
}

impl Pair {
    pub(crate) fn new(setup: &Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        pki::write(directory.path());
        let place = directory.path().display().to_string();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text.replace("DIR", &place)).unwrap();
            path
        };
        let files = setup.files();
        let n3iwf = n3iwf_user::config::load(&file("n3iwf.yaml", &files.n3iwf)).unwrap();
        let ue = ue_user::config::Config::load(&file("ue.yaml", &files.ue)).unwrap();
        let core = daemon::config::parse(
            std::path::Path::new("core5g.yaml"),
            CORE,
            core5g::config::check,
        )
        .unwrap();
        let address = core.upf.address();
        let home = core5g::home::Home::new(core.subscribers, &core.home_network_keys).unwrap();
        let mut amf = Amf::new(core.amf, core.smf, address, home, rng(1));
        amf.connected(Duration::ZERO, LINK, "test");
        let endpoint = Endpoint::new(n3iwf.endpoint().unwrap(), rng(2));
        let usim = ue.usim(SqnState::default()).unwrap();
        let mut pair = Self {
            now: Instant::ZERO + Duration::from_secs(1),
            gateway: Gateway::new(endpoint, N3iwf::new(n3iwf.core().unwrap())),
            ue: Ue::new(ue.ue().unwrap(), usim, rng(3), rng(4)),
            amf,
            keys: HashMap::new(),
            keys_made: 0,
            kms_down: [false; 2],
            tap: None,
            uplink: EnvelopeReader::new(),
            token: 0,
            installed: 0,
            failures: Vec::new(),
        };
        pair.gateway.start(pair.now);
        pair.settle();
        pair
    }

    /// Attaches, with the PDU session.
    pub(crate) fn attach(&mut self) {
        self.try_attach();
        assert_eq!(self.ue.state(), State::Registered, "{:?}", self.failures);
        assert!(self.installed >= 4, "two Child SAs at each end");
    }

    /// Does not attach, and neither end holds anything; the reason.
    pub(crate) fn refuse(&mut self) -> String {
        self.try_attach();
        assert_ne!(self.ue.state(), State::Registered);
        assert_eq!(self.installed, 0, "no Child SA was ever installed");
        let left: Vec<_> = self.gateway.sas().iter().map(|sa| sa.state).collect();
        assert!(!left.contains(&ike::SaState::Established), "{left:?}");
        self.failures.first().cloned().expect("a failure is told")
    }

    fn try_attach(&mut self) {
        self.ue.command(self.now, Command::Attach).unwrap();
        self.run_for(Duration::from_secs(100));
    }

    /// The policy as the N3IWF shows it.
    pub(crate) fn n3iwf_policy(&self) -> String {
        self.sa().policy.to_string()
    }

    /// The mode as the UE and the N3IWF show it.
    pub(crate) fn shown(&self) -> (String, String) {
        let ue = self.status().ike[0].mode.clone();
        (ue, self.sa().mode.to_string())
    }

    pub(crate) fn idi(&self) -> String {
        self.sa().remote_id.unwrap().to_string()
    }

    pub(crate) fn status(&self) -> Status {
        self.ue.status(self.now)
    }

    fn sa(&self) -> SaStatus {
        self.gateway.sas().into_iter().next().expect("an IKE SA")
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let amf = self.amf.poll_timeout().map(Instant::from_origin);
            let due = [self.ue.poll_timeout(), self.gateway.poll_timeout(), amf];
            match due.into_iter().flatten().min() {
                Some(due) if due <= end => {
                    self.now = self.now.max(due);
                    self.ue.handle_timeout(self.now);
                    self.gateway.handle_timeout(self.now);
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

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(transmit) = self.ue.poll_transmit() {
                self.carry(From::Ue, &transmit);
            } else if let Some(transmit) = self.gateway.poll_transmit() {
                self.carry(From::N3iwf, &transmit);
            } else if let Some(action) = self.ue.poll_action() {
                self.ue_action(action);
            } else if let Some(action) = self.gateway.poll_action() {
                self.n3iwf_action(action);
            } else {
                return;
            }
        }
        panic!("the pair does not come to rest");
    }

    fn carry(&mut self, from: From, transmit: &Transmit) {
        let arriving = match &mut self.tap {
            Some(tap) => tap(from, &transmit.data),
            None => vec![(from, transmit.data.clone())],
        };
        let (sent, turned) = (
            transmit.path,
            ike::Path {
                local: transmit.path.remote,
                remote: transmit.path.local,
            },
        );
        for (by, data) in arriving {
            let path = if by == from { turned } else { sent };
            match by {
                From::Ue => self.gateway.handle_datagram(self.now, path, &data),
                From::N3iwf => self.ue.handle_datagram(self.now, path, &data),
            }
        }
    }

    fn from_amf(&mut self, actions: Vec<amf::Action>) {
        for action in actions {
            if let amf::Action::Send { data, .. } = action {
                self.gateway.handle_ngap(self.now, 0, &data);
            }
        }
    }

    fn key(&mut self, bits: u32) -> QkdKey {
        self.keys_made += 1;
        let id = KeyId::from_octets([self.keys_made; 16]);
        let octets = vec![self.keys_made; bits as usize / 8];
        let secret = Secret::from_slice(&octets);
        self.keys.insert(id, octets);
        QkdKey { id, secret }
    }

    fn n3iwf_action(&mut self, action: N3iwfAction) {
        let now = self.now;
        match action {
            N3iwfAction::ConnectAmf { amf } => self.gateway.amf_connected(now, amf),
            N3iwfAction::SendNgap { data, .. } => {
                let handled = self.amf.handle(now.since_origin(), LINK, &data);
                self.from_amf(handled.actions);
            }
            N3iwfAction::FetchKeys {
                sa,
                request,
                number,
                size_bits,
                ..
            } => {
                let keys = match self.kms_down[0] {
                    true => Err(QkdFailure::Unreachable),
                    false => Ok((0..number).map(|_| self.key(size_bits)).collect()),
                };
                self.gateway.keys_fetched(now, sa, request, keys);
            }
            N3iwfAction::InstallSa { sa, child, .. } => {
                self.installed += 1;
                self.gateway.child_installed(now, sa, child, Ok(()));
            }
            N3iwfAction::RemoveSa { child } => self.gateway.child_removed(now, child),
            N3iwfAction::AddSession(session) => {
                self.gateway
                    .session_added(now, session.ue, session.dl_teid, Ok(()));
            }
            N3iwfAction::ModifySession { session, token } => {
                self.gateway
                    .session_modified(now, session.ue, token, Ok(()));
            }
            N3iwfAction::RemoveSession { ue, dl_teid } => {
                self.gateway.session_removed(now, ue, dl_teid);
            }
            N3iwfAction::SendNas { message, .. } => {
                let framed = nas_envelope::wrap(&message).unwrap();
                self.ue.nas_received(now, self.token, &framed);
            }
            _ => {}
        }
    }

    fn ue_action(&mut self, action: UeAction) {
        let now = self.now;
        match action {
            UeAction::FetchKeys {
                sa, request, ids, ..
            } => {
                let key = |id: KeyId| QkdKey {
                    id,
                    secret: Secret::from_slice(&self.keys[&id]),
                };
                let keys = match self.kms_down[1] {
                    true => Err(QkdFailure::UnknownKey),
                    false => Ok(ids.into_iter().map(key).collect()),
                };
                self.ue.keys_fetched(now, sa, request, keys);
            }
            UeAction::StoreSqn(_) => self.ue.sqn_stored(now, Ok(())),
            UeAction::Install(install) => {
                self.installed += 1;
                let id: ChildId = install.child.id;
                self.ue.installed(now, id, Ok(()));
            }
            UeAction::ConnectNas { local, token, .. } => {
                self.token = token;
                self.uplink = EnvelopeReader::new();
                self.gateway.nas_connected(now, NAS, local);
                self.ue.nas_connected(now, token);
            }
            UeAction::SendNas(octets) => {
                self.uplink.push(&octets);
                while let Some(pdu) = self.uplink.next_message().unwrap() {
                    self.gateway.nas_received(now, NAS, &pdu);
                }
            }
            UeAction::AddSession(session) => {
                self.ue.session_added(now, session.accept.id, Ok(()));
            }
            UeAction::Detached {
                failure: Some(failure),
                ..
            } => self.failures.push(failure.to_string()),
            _ => {}
        }
    }
}

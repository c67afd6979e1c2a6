//! The ordinary configuration files of the programs, for the rig's topology.

use crate::topology as net;
use crate::world::{Role, World};

/// SAE ID of the N3IWF.
pub const SAE_N3IWF: &str = "sae-n3iwf";
/// SAE ID of the UE.
pub const SAE_UE: &str = "sae-ue-1";
/// The N3IWF's name.
pub const FQDN: &str = "n3iwf.example.net";
/// The UE's subscription.
pub const SUPI: &str = "imsi-208930000000001";
/// The data network.
pub const DNN: &str = "internet";
/// Interface of the N3IWF's IPsec; the UE has one of the same name in its own namespace.
pub const XFRM_INTERFACE: &str = "xfrmi";

/// Key K of the subscribers, from TS 35.208 test set 1: known to everyone, worth nothing.
pub const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
/// OPc that goes with it.
pub const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";

/// Wire profile of the QKD mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Binary key IDs, AES-256-GCM, no certificate.
    Native,
    /// The messages of the paper, octet for octet.
    Paper,
}

impl Profile {
    /// As configuration files spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Paper => "paper",
        }
    }
}

/// How the keys of IKE SAs come about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyMode {
    /// QKD keys, in the wire profile chosen beside.
    #[default]
    Qkd,
    /// Diffie-Hellman, ML-KEM, and a QKD key as PPK.
    Hybrid,
    /// Diffie-Hellman and K_N3IWF.
    Psk,
    /// Diffie-Hellman and certificates of both ends.
    Cert,
}

impl KeyMode {
    /// As configuration files spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qkd => "qkd",
            Self::Hybrid => "hybrid",
            Self::Psk => "psk",
            Self::Cert => "cert",
        }
    }

    /// Whether there is a key exchange.
    #[must_use]
    pub const fn exchanges_keys(self) -> bool {
        !matches!(self, Self::Qkd)
    }

    /// Whether keys of the KMEs are taken.
    #[must_use]
    pub const fn takes_keys(self) -> bool {
        matches!(self, Self::Qkd | Self::Hybrid)
    }

    /// Suites of the IKE SA, where the defaults of mode `qkd` are not meant.
    #[must_use]
    pub const fn proposal(self) -> &'static str {
        match self {
            Self::Hybrid => HYBRID_PROPOSAL,
            _ => PROPOSAL,
        }
    }
}

/// Proposals of the modes with a key exchange, here and in measurements of them.
pub const PROPOSAL: &str = "aes256gcm16-prfsha384-ecp384";
/// That of mode `hybrid`.
pub const HYBRID_PROPOSAL: &str = "aes256gcm16-prfsha384-ecp384-ke1_mlkem768";

/// The configuration file of one program.
pub(crate) fn config(role: Role, world: &World) -> String {
    match role {
        Role::KmeA | Role::KmeB => kme(role, world),
        Role::Core => core(world),
        Role::N3iwf => n3iwf(world),
        Role::Ue => ue(world),
    }
}

fn kme(role: Role, world: &World) -> String {
    let name = role.name();
    let (address, sae, peer) = if role == Role::KmeA {
        (
            net::KME_A,
            SAE_N3IWF,
            format!("listen: \"{}:9014\"", net::KME_A_LINK),
        )
    } else {
        (
            net::KME_B,
            SAE_UE,
            format!("connect: \"{}:9014\"", net::KME_A_LINK),
        )
    };
    let pki = world.directory().join("pki");
    let pki = pki.display();
    let control = world.socket(role);
    format!(
        "kme:
  id: {name}
  listen: \"{address}:8443\"
  ca: {pki}/ca.pem
  certificate: {pki}/{name}.pem
  privateKey: {pki}/{name}.key
  saes: [{sae}]
  journal: {journal}
link:
  rate: 100000
  buffer: 1000000
  delay: 20ms
peer:
  {peer}
metrics: {{}}
control: {control}
log: info
",
        control = control.display(),
        journal = world.journal(role).display(),
    )
}

fn core(world: &World) -> String {
    let control = world.socket(Role::Core);
    let mut subscribers = String::new();
    for number in 1..=5 {
        subscribers.push_str(&format!(
            "  - supi: imsi-20893000000000{number}\n    k: {K}\n    opc: {OPC}\n    sqn: \"000000000020\"\n"
        ));
    }
    let listen = if world.options().recording {
        format!("unix:{}", amf_socket(world))
    } else {
        format!("sctp:{}:38412", net::CORE)
    };
    // With the null algorithm a dissector reads NAS on N2, too; its integrity stays.
    let ciphering = if world.options().key_log {
        "[NEA0]"
    } else {
        "[NEA2, NEA1, NEA0]"
    };
    format!(
        "listen: {listen}
control: {control}
log: info
amf:
  plmn: {{mcc: \"208\", mnc: \"93\"}}
  tracking_areas: [\"000001\"]
  slices: [{{sst: 1, sd: \"010203\"}}]
  ciphering: {ciphering}
  network_name: rig
smf:
  dnns:
    - name: {DNN}
      pool: {pool}
      exclude: [10.60.0.1]
upf:
  listen: {core}:2152
  n6:
    kind: tun
    name: upfgtp
    address: 10.60.0.1/16
subscribers:
{subscribers}",
        core = net::CORE,
        control = control.display(),
        pool = net::PDU_POOL,
    )
}

fn ue(world: &World) -> String {
    let directory = world.directory().display();
    let (keys, ike) = ue_keys(world);
    // The paper's UE names an AMF before it knows one.
    let guami = match world.options().profile {
        Profile::Native => "",
        Profile::Paper => "amfId: \"cafe00\"\n",
    };
    format!(
        "nwu:
  localAddress: {ue}
  n3iwfAddress: {n3iwf}
  n3iwfFqdn: {FQDN}
  xfrmInterfaceName: {XFRM_INTERFACE}
  xfrmInterfaceID: 1
subscriber:
  supi: {SUPI}
  k: \"{K}\"
  opc: \"{OPC}\"
  sqnFile: {directory}/ue-sqn.json
  sqn: \"000000000000\"
  imeisv: \"3569380356438091\"
plmn: {{mcc: \"208\", mnc: \"93\"}}
nssai: [{{sst: 1, sd: \"010203\"}}]
{guami}sessions:
  - dnn: {DNN}
    sNssai: {{sst: 1, sd: \"010203\"}}
    routes: [198.18.0.0/24]
    interface: uepdu1
{keys}ike:
  retransmitTries: 4
  retransmitMax: 4s
  dpdInterval: 10s
{ike}metrics: {{}}
control: {control}
logger: {{level: \"info\"}}
retry: {{initial: 1s, attempts: 0}}
dataplane:
{dataplane}",
        dataplane = dataplane(world, Role::Ue),
        ue = net::UE_NWU,
        n3iwf = net::N3IWF_NWU,
        control = world.socket(Role::Ue).display(),
    )
}

/// How the UE comes by keys: what its file says of modes and KMS, and what it says under `ike`.
fn ue_keys(world: &World) -> (String, String) {
    let directory = world.directory().display();
    let mode = world.options().mode;
    let mut keys = match mode {
        KeyMode::Qkd => String::new(),
        _ => format!("modes: [{}]\n", mode.name()),
    };
    let mut ike = String::new();
    if mode.exchanges_keys() {
        ike = format!(
            "  proposals: {}\n  trustedCertificates: [{directory}/pki/ike-ca.pem]\n",
            mode.proposal()
        );
    }
    if mode == KeyMode::Cert {
        ike.push_str(&format!(
            "  certificate: {directory}/pki/ue.pem\n  privateKey: {directory}/pki/ue.key\n"
        ));
    }
    if mode.takes_keys() {
        keys.push_str(&format!(
            "qkd:
  saeId: {SAE_UE}
  n3iwfSaeId: {SAE_N3IWF}
  kms:
    endpoints: [\"https://{kme}:8443\"]
    ca: {directory}/pki/ca.pem
    certificate: {directory}/pki/{SAE_UE}.pem
    privateKey: {directory}/pki/{SAE_UE}.key
    kmeId: kme-b
    timeout: 5s
    connectTimeout: 3s
profile: {profile}
",
            kme = net::KME_B,
            profile = world.options().profile.name(),
        ));
    }
    (keys, ike)
}

/// The same of the N3IWF: its keys at the top of the file's section, and those under `ike`.
fn n3iwf_keys(world: &World) -> (String, String) {
    let directory = world.directory().display();
    let (mode, profile) = (world.options().mode, world.options().profile);
    let mut top = format!("  modes: [{}]\n", mode.name());
    if mode.exchanges_keys() || profile == Profile::Paper {
        top.push_str(&format!(
            "  privateKey: {directory}/pki/n3iwf.key\n  certificate: {directory}/pki/n3iwf.pem\n"
        ));
    }
    let mut ike = String::new();
    if mode.exchanges_keys() {
        top.push_str(&format!(
            "  certificateAuthority: {directory}/pki/ike-ca.pem\n"
        ));
        ike = format!("    proposals: {}\n", mode.proposal());
    }
    if !mode.takes_keys() {
        return (top, ike);
    }
    let profiles = match profile {
        Profile::Native => "    profiles: [native]\n".to_owned(),
        Profile::Paper => {
            format!("    profiles: [paper]\n    paper: {{ ueSaeId: {SAE_UE} }}\n")
        }
    };
    top.push_str(&format!(
        "  qkd:
    saeId: {SAE_N3IWF}
{profiles}    kms:
      endpoints: [\"https://{kme}:8443\"]
      ca: {directory}/pki/ca.pem
      certificate: {directory}/pki/{SAE_N3IWF}.pem
      privateKey: {directory}/pki/{SAE_N3IWF}.key
      kmeId: kme-a
      timeout: 5s
      connectTimeout: 3s
",
        kme = net::KME_A,
    ));
    (top, ike)
}

fn n3iwf(world: &World) -> String {
    let amf = if world.options().recording {
        format!("unix: {}", amf_socket(world))
    } else {
        format!("ip: [{}]\n      port: 38412", net::CORE)
    };
    let mut extra = String::new();
    if world.options().key_log {
        extra.push_str(&format!(
            "  debugKeyLog: {}\n",
            world.key_log_directory().display()
        ));
    }
    let (keys, ike) = n3iwf_keys(world);
    format!(
        "configuration:
  n3iwfInformation:
    globalN3IWFID:
      plmnID: {{ mcc: \"208\", mnc: \"93\" }}
      n3iwfID: 135
    name: n3iwf-rig
    supportedTAList:
      - tac: \"000001\"
        broadcastPlmnList:
          - plmnID: {{ mcc: \"208\", mnc: \"93\" }}
            taiSliceSupportList:
              - snssai: {{ sst: 1, sd: \"010203\" }}
  amfSCTPAddresses:
    - {amf}
  ikeBindAddress: {nwu}
  fqdn: {FQDN}
  ipSecTunnelAddress: {inner}
  ueIpAddressRange: 10.0.0.0/24
  nasTcpPort: 20000
  xfrmInterfaceName: {XFRM_INTERFACE}
  xfrmInterfaceID: 1
  n3iwfGtpBindAddress: {n3}
{extra}{keys}  ike:
    cookie: {{ when: threshold, threshold: 32 }}
    halfOpenLifetime: 15s
{ike}  dataplane:
{dataplane}  metrics: {{}}
  control: {control}
logger:
  level: info
",
        nwu = net::N3IWF_NWU,
        inner = net::N3IWF_INNER,
        n3 = net::N3IWF_CORE,
        dataplane = dataplane(world, Role::N3iwf),
        control = world.socket(Role::N3iwf).display(),
    )
}

fn amf_socket(world: &World) -> String {
    world.directory().join("amf.sock").display().to_string()
}

/// The `dataplane:` section of either daemon, without its heading.
fn dataplane(world: &World, role: Role) -> String {
    let options = world.options();
    let (indent, bpf) = if role == Role::N3iwf {
        ("    ", true)
    } else {
        ("  ", false)
    };
    if options.recording {
        let file = options
            .logs
            .join(format!("{}.operations.jsonl", role.name()));
        return format!(
            "{indent}kind: recording\n{indent}recordFile: {}\n",
            file.display()
        );
    }
    let mut text = format!("{indent}kind: kernel\n");
    if options.kernel_relay {
        text.push_str(&format!("{indent}relay: kernel\n"));
    }
    if bpf || options.kernel_relay {
        let mut pins = world.pins();
        if role == Role::Ue {
            // The maps have the same names.
            pins.as_mut_os_string().push("-ue");
        }
        text.push_str(&format!(
            "{indent}bpf:\n{indent}  interface: nwu\n{indent}  object: {}\n{indent}  pinDir: {}\n",
            options.bpf_object.display(),
            pins.display()
        ));
    }
    text
}

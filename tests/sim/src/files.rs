//! The configuration files of the parts, as an operator would write them.

use std::path::Path;

use crate::{
    network::{N3IWF, ue_address},
    plan::Supply,
};

const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";
/// SAE ID of the N3IWF.
pub(crate) const SAE_N3IWF: &str = "sae-n3iwf";

fn kms(indent: &str) -> String {
    [
        "endpoints: [\"https://kme.example.net\"]",
        "ca: ca.pem",
        "certificate: sae.pem",
        "privateKey: sae.key",
    ]
    .map(|line| format!("{indent}{line}\n"))
    .concat()
}

pub(crate) fn supi(ue: usize) -> String {
    format!("imsi-208930000{:06}", ue + 1)
}

pub(crate) fn sae(ue: usize) -> String {
    format!("sae-ue-{}", ue + 1)
}

pub(crate) fn ue(ue: usize) -> anyhow::Result<ue_user::config::Config> {
    let text = format!(
        "nwu: {{localAddress: {address}, n3iwfAddress: {N3IWF}, n3iwfFqdn: n3iwf.example.net}}
subscriber: {{supi: {supi}, k: \"{K}\", opc: \"{OPC}\", sqnFile: sqn.json, imeisv: \"3569380356438091\"}}
plmn: {{mcc: \"208\", mnc: \"93\"}}
nssai: [{{sst: 1, sd: \"010203\"}}]
sessions: [{{dnn: internet, sNssai: {{sst: 1, sd: \"010203\"}}}}]
qkd:
  saeId: {sae}
  n3iwfSaeId: {SAE_N3IWF}
  kms:
{kms}ike: {{retransmitTries: 4, retransmitMax: 4s, dpdInterval: 10s}}
control: ue.sock
retry: {{initial: 1s, maximum: 15s, attempts: 0}}
",
        address = ue_address(ue),
        supi = supi(ue),
        sae = sae(ue),
        kms = kms("    "),
    );
    Ok(daemon::config::parse(Path::new("ue.yaml"), &text, |_| {
        Ok(())
    })?)
}

pub(crate) fn n3iwf(supply: Supply) -> anyhow::Result<n3iwf_user::config::File> {
    let ahead = match supply.ahead {
        0 => String::new(),
        keys => format!("    ahead: {{keys: {keys}, refillBelow: 7, maximumAge: 30s}}\n"),
    };
    let empty = match supply.wait.as_secs() {
        0 => "refuse, wait: 5s".to_owned(),
        wait => format!("wait, wait: {wait}s"),
    }
    .replace(", wait", "\n    wait");
    let floor = supply.floor;
    let text = format!(
        "configuration:
  n3iwfInformation:
    globalN3IWFID: {{plmnID: {{mcc: \"208\", mnc: \"93\"}}, n3iwfID: 135}}
    name: n3iwf-sim
    supportedTAList:
      - tac: \"000001\"
        broadcastPlmnList:
          - plmnID: {{mcc: \"208\", mnc: \"93\"}}
            taiSliceSupportList: [{{snssai: {{sst: 1, sd: \"010203\"}}}}]
  amfSCTPAddresses: [{{unix: /run/amf.sock}}]
  ikeBindAddress: {N3IWF}
  fqdn: n3iwf.example.net
  ipSecTunnelAddress: 10.0.0.1
  ueIpAddressRange: 10.0.0.0/24
  nasTcpPort: 20000
  n3iwfGtpBindAddress: 198.18.1.1
  livenessCheck: {{enable: true, transFreq: 15s, maxRetryTimes: 4}}
  qkd:
    saeId: {SAE_N3IWF}
    floor: {floor}
    whenEmpty: {empty}
{ahead}    kms:
{kms}  ike: {{cookie: {{when: threshold, threshold: 8}}, halfOpenLifetime: 15s}}
  control: n3iwf.sock
",
        kms = kms("      "),
    );
    Ok(daemon::config::parse(
        Path::new("n3iwf.yaml"),
        &text,
        |_| Ok(()),
    )?)
}

pub(crate) fn core(ues: usize) -> anyhow::Result<core5g::config::Config> {
    let subscribers: String = (0..ues)
        .map(|ue| {
            format!(
                "  - {{supi: {}, k: \"{K}\", opc: \"{OPC}\", sqn: \"000000000020\"}}\n",
                supi(ue)
            )
        })
        .collect();
    let text = format!(
        "listen: unix:/run/amf.sock
control: core.sock
amf:
  plmn: {{mcc: \"208\", mnc: \"93\"}}
  tracking_areas: [\"000001\"]
  slices: [{{sst: 1, sd: \"010203\"}}]
  network_name: sim
smf:
  dnns:
    - {{name: internet, pool: 10.60.0.0/16, flows: [{{qfi: 1, five_qi: 9}}, {{qfi: 2, five_qi: 7, filter: {{protocol: 17, remote_port: 5004}}}}]}}
upf: {{listen: \"198.18.1.2:2152\"}}
subscribers:
{subscribers}"
    );
    Ok(daemon::config::parse(
        Path::new("core5g.yaml"),
        &text,
        core5g::config::check,
    )?)
}

//! An AMF hosted in the test, in virtual time.

use std::path::Path;
use std::time::Duration;

use core5g::amf::{Action, Amf, AssociationId, Handled};
use core5g::config::{self, Config};
use core5g::home::Home;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

pub const LINK: AssociationId = AssociationId(1);

pub const CONFIG: &str = r#"
listen: unix:/run/core5g/n2.sock
control: /run/core5g/control.sock
amf:
  name: amf.example.net
  plmn: {mcc: "208", mnc: "93"}
  tracking_areas: ["000001"]
  slices:
    - {sst: 1, sd: "010203"}
    - {sst: 2}
  network_name: Test Network
smf:
  dnns:
    - name: internet
      pool: 10.60.0.0/16
      exclude: [10.60.0.1]
      mtu: 1394
      dns: [198.18.0.10]
      flows:
        - {qfi: 1, five_qi: 9}
        - {qfi: 2, five_qi: 7, reflective: true, filter: {protocol: 17, remote_port: 5004}}
    - name: ims
      pool: 10.61.0.0/30
upf:
  listen: 203.0.113.2:2152
home_network_keys:
  - {id: 27, profile: a, private_key: "c53c22208b61860b06c62e5406a7b330c2b577aa5558981510d128247d38bd1d"}
  - {id: 28, profile: b, private_key: "f1ab1074477ebcc7f554ea1c5fc368b1616730155e0041ac447d6301975fecda"}
subscribers:
  - supi: imsi-208930000000001
    k: "465b5ce8b199b49faa5f0a2ee238a6bc"
    opc: "cd63cb71954a9f4e48a5994e37a02baf"
    sqn: "000000000020"
  - supi: imsi-208930000000002
    k: "0396eb317b6d1c36f19c1c84cd6ffd16"
    op: "cdc202d5123e20f62b6d676ac72cb318"
    slices: [{sst: 2}]
    dnns: [ims]
"#;

pub fn parse(text: &str) -> Config {
    daemon::config::parse(Path::new("core5g.yaml"), text, config::check).unwrap()
}

/// The AMF, its clock, and every message that crossed the interface.
pub struct Core {
    pub amf: Amf,
    pub now: Duration,
    /// `true`: sent by the core.
    pub wire: Vec<(bool, Vec<u8>)>,
    pub user_plane: Vec<Action>,
    pub aborted: bool,
}

impl Core {
    pub fn new() -> Self {
        Self::with(CONFIG)
    }

    pub fn with(text: &str) -> Self {
        let config = parse(text);
        let home = Home::new(config.subscribers, &config.home_network_keys).unwrap();
        let rng = Box::new(ChaCha20Rng::seed_from_u64(5));
        let address = config.upf.address();
        let mut amf = Amf::new(config.amf, config.smf, address, home, rng);
        amf.policy = config.policy;
        amf.faults = config.faults;
        amf.connected(Duration::ZERO, LINK, "test");
        Self {
            amf,
            now: Duration::ZERO,
            wire: Vec::new(),
            user_plane: Vec::new(),
            aborted: false,
        }
    }

    /// A core whose N3IWF has set its interface up.
    pub fn set_up() -> Self {
        Self::set_up_with(CONFIG)
    }

    pub fn set_up_with(text: &str) -> Self {
        let mut core = Self::with(text);
        let answers = core.send(&super::n3iwf::ng_setup(&super::n3iwf::Announce::default()));
        assert_eq!(core5g::ngap::name(&answers[0]), "NGSetup");
        core
    }

    /// Gives the core a message, and takes what it sends at once.
    pub fn send(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        self.handle(message).1
    }

    /// As [`Self::send`], for exactly one answer.
    pub fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        let mut answers = self.send(message);
        assert_eq!(answers.len(), 1, "answers");
        answers.remove(0)
    }

    pub fn handle(&mut self, message: &[u8]) -> (String, Vec<Vec<u8>>) {
        self.wire.push((false, message.to_vec()));
        let Handled {
            received, actions, ..
        } = self.amf.handle(self.now, LINK, message);
        (received, self.take(actions))
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) -> Vec<Vec<u8>> {
        let until = self.now + time;
        let mut sent = Vec::new();
        while let Some(at) = self.amf.poll_timeout().filter(|at| *at <= until) {
            self.now = at;
            let actions = self.amf.handle_timeout(at);
            sent.extend(self.take(actions));
        }
        self.now = until;
        sent
    }

    pub fn take(&mut self, actions: Vec<Action>) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Send {
                    data, stream, ue, ..
                } => {
                    assert_eq!(stream == 0, ue.is_none(), "stream 0 is for the interface");
                    self.wire.push((true, data.clone()));
                    sent.push(data);
                }
                Action::Abort(_) => self.aborted = true,
                other => self.user_plane.push(other),
            }
        }
        sent
    }
}

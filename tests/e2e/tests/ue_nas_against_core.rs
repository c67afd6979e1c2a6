//! The NAS of `ue-user` against the AMF and SMF of the core stand-in, over NGAP as the N3IWF
//! writes it. Two implementations of TS 24.501 that share the codec and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wrong_self_convention,
    reason = "a test fails by panicking"
)]

use std::{net::SocketAddr, path::Path, time::Duration};

use core5g::{
    amf::{Action, Amf, AssociationId, CommandError, SessionChange},
    config::{Ambr as Rate, FlowConfig, FlowFilter},
};
use dataplane::relay::Ambr;
use keys::Secret;
use n3iwf_user::ngap::{
    self, AmfMessage, Cause, CauseMisc, ModifiedFlows, ModifyOutcome, ModifyTransfer, Node,
    SessionOutcome, SessionUp, SupportedArea, SupportedPlmn, UeIds,
};
use nwu::{Guami, SNssai};
use oxirush_nas::nas_5gs::{CipheringAlgorithm, IntegrityAlgorithm};
use oxirush_security::Plmn;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use ue_user::core::{
    nas::{
        Event, Failure, MmCause, Nas, NasConfig, Output, SessionFailure, SessionRequest, Timers,
    },
    suci::{Concealer, Scheme},
    usim::{OperatorKey, SqnState, Usim},
};

const LINK: AssociationId = AssociationId(1);
const SUPI: &str = "imsi-208930000000001";
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
      dns: [198.18.0.10]
      flows:
        - {qfi: 1, five_qi: 9}
        - {qfi: 2, five_qi: 7, filter: {protocol: 17, remote_port: 5004}}
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
"#;

/// How the subscriber is set up.
struct Setup {
    core: String,
    imsi: &'static str,
    k: &'static str,
    scheme: Scheme,
    sqn: SqnState,
    ciphering: Vec<CipheringAlgorithm>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            core: CORE.to_owned(),
            imsi: "208930000000001",
            k: K,
            scheme: Scheme::Null,
            sqn: SqnState::default(),
            ciphering: vec![
                CipheringAlgorithm::NEA2,
                CipheringAlgorithm::NEA1,
                CipheringAlgorithm::NEA0,
            ],
        }
    }
}

/// A UE, a core, and an N2 between them.
struct World {
    now: Duration,
    nas: Nas,
    amf: Amf,
    ran: u32,
    ids: Option<UeIds>,
    guami: Option<Guami>,
    /// K_N3IWF as the AMF gave it.
    key: Option<Secret>,
    events: Vec<Event>,
    stored: usize,
    released: bool,
    /// Child SAs the N3IWF would make: PDU session and QFIs.
    child_sas: Vec<(u8, Vec<u8>)>,
    ue_ambr: Option<Ambr>,
    session_ambr: Option<Ambr>,
    /// Of the flows added last.
    five_qis: Vec<Option<u8>>,
    /// The N3IWF modifies nothing.
    refuse_changes: bool,
    discards: Vec<String>,
}

impl World {
    fn new(setup: Setup) -> Self {
        let path = Path::new("core5g.yaml");
        let core = daemon::config::parse(path, &setup.core, core5g::config::check).unwrap();
        let address = core.upf.address();
        let home = core5g::home::Home::new(core.subscribers, &core.home_network_keys).unwrap();
        let rng = Box::new(ChaCha20Rng::seed_from_u64(1));
        let mut amf = Amf::new(core.amf, core.smf, address, home, rng);
        amf.policy = core.policy;
        let plmn = Plmn::new("208", "93").unwrap();
        let config = NasConfig {
            plmn,
            concealer: Concealer::new(plmn, setup.imsi, "", setup.scheme).unwrap(),
            imeisv: Some("3569380356438091".into()),
            ciphering: setup.ciphering,
            integrity: vec![IntegrityAlgorithm::NIA2, IntegrityAlgorithm::NIA1],
            requested_nssai: vec![SLICE],
            gmm_capability: 0,
            timers: Timers::default(),
        };
        let key = |text: &str| Secret::from_slice(&hex::decode(text).unwrap());
        let opc = OperatorKey::Opc(key(OPC));
        let usim = Usim::new(&key(setup.k), &opc, setup.imsi, setup.sqn).unwrap();
        let mut world = Self {
            now: Duration::from_secs(1),
            nas: Nas::new(config, usim),
            amf,
            ran: 0,
            ids: None,
            guami: None,
            key: None,
            events: Vec::new(),
            stored: 0,
            released: false,
            child_sas: Vec::new(),
            ue_ambr: None,
            session_ambr: None,
            five_qis: Vec::new(),
            refuse_changes: false,
            discards: Vec::new(),
        };
        world.amf.connected(world.now, LINK, "test");
        let plmn = nwu::Plmn::from_digits("208", "93").unwrap();
        let slices = vec![(1, Some([1, 2, 3]))];
        let node = Node {
            plmn,
            id: 135,
            name: "n3iwf".into(),
            areas: vec![SupportedArea {
                tac: [0, 0, 1],
                plmns: vec![SupportedPlmn { plmn, slices }],
            }],
        };
        world.to_amf(&ngap::ng_setup_request(&node).unwrap());
        world
    }

    fn registered() -> Self {
        let mut world = Self::new(Setup::default());
        world.register();
        assert!(world.nas.is_registered(), "{:?}", world.events);
        world
    }

    /// A registration on an N2 connection of its own.
    fn register(&mut self) {
        self.ran += 1;
        self.ids = None;
        self.key = None;
        self.released = false;
        self.nas.register(self.now);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.nas.poll_output() {
            match output {
                Output::StoreSqn(_) => {
                    self.stored += 1;
                    self.nas.sqn_stored(Ok(()));
                }
                Output::Send(pdu) => self.uplink(&pdu),
                Output::Event(event) => self.events.push(event),
                other => panic!("{other:?}"),
            }
        }
    }

    fn uplink(&mut self, pdu: &[u8]) {
        let location = SocketAddr::from(([192, 0, 2, 10], 500));
        let message = match self.ids {
            Some(ids) => ngap::uplink_nas(ids, pdu, location),
            None => {
                let plmn = nwu::Plmn::from_digits("208", "93");
                let guami = self.guami;
                ngap::initial_ue_message(self.ran, pdu, location, None, guami.as_ref(), plmn)
            }
        };
        self.to_amf(&message.unwrap());
    }

    fn to_amf(&mut self, message: &[u8]) {
        let handled = self.amf.handle(self.now, LINK, message);
        self.from_amf(handled.actions);
    }

    fn from_amf(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Action::Send { data, .. } = action {
                self.n2(&data);
            }
        }
        self.settle();
    }

    /// What the N3IWF does with a message of the AMF, as far as NAS is concerned.
    fn n2(&mut self, data: &[u8]) {
        match ngap::decode(data).unwrap() {
            AmfMessage::NgSetupResponse(info) => self.guami = info.guamis.first().copied(),
            AmfMessage::DownlinkNas { ue, nas } => {
                self.ids = Some(ue);
                self.downlink(&nas);
            }
            AmfMessage::ContextSetup(setup) => {
                self.ids = Some(setup.ue);
                self.key = Some(setup.key);
                let response = ngap::context_setup_response(setup.ue, &[]).unwrap();
                self.to_amf(&response);
            }
            AmfMessage::SessionSetup { ue, sessions, .. } => {
                for session in sessions {
                    let transfer = session.transfer.unwrap();
                    let qfis: Vec<u8> = transfer.flows.iter().map(|flow| flow.qfi).collect();
                    self.child_sas.push((session.id, qfis.clone()));
                    let up = SessionUp {
                        address: [203, 0, 113, 1].into(),
                        dl_teid: 7,
                        qfis,
                        security_result: false,
                    };
                    let outcome = SessionOutcome {
                        id: session.id,
                        result: Ok(up),
                    };
                    self.downlink(&session.nas.unwrap());
                    let response = ngap::session_setup_response(ue, &[outcome]).unwrap();
                    self.to_amf(&response);
                }
            }
            AmfMessage::SessionModify { ue, sessions } => {
                for session in sessions {
                    let result = self.modify(session.id, &session.transfer.unwrap());
                    if result.is_ok() {
                        self.downlink(&session.nas.unwrap());
                    }
                    let outcome = ModifyOutcome {
                        id: session.id,
                        result,
                    };
                    let response = ngap::session_modify_response(ue, &[outcome]).unwrap();
                    self.to_amf(&response);
                }
            }
            AmfMessage::ContextModification { ue, ue_ambr, .. } => {
                self.ue_ambr = ue_ambr;
                let response = ngap::context_modification_response(ue).unwrap();
                self.to_amf(&response);
            }
            AmfMessage::SessionRelease { ue, nas, sessions } => {
                if let Some(nas) = nas {
                    self.downlink(&nas);
                }
                self.child_sas.retain(|(id, _)| !sessions.contains(id));
                let response = ngap::session_release_response(ue, &sessions).unwrap();
                self.to_amf(&response);
            }
            AmfMessage::ContextRelease { .. } => {
                self.released = true;
                if let Some(ids) = self.ids {
                    let complete = ngap::context_release_complete(ids, &[]).unwrap();
                    self.to_amf(&complete);
                }
            }
            AmfMessage::Noted(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn modify(&mut self, id: u8, wanted: &ModifyTransfer) -> Result<ModifiedFlows, Cause> {
        if self.refuse_changes {
            return Err(Cause::misc(CauseMisc::unspecified));
        }
        let (_, qfis) = self
            .child_sas
            .iter_mut()
            .find(|(own, _)| *own == id)
            .unwrap();
        qfis.retain(|qfi| !wanted.released.contains(qfi));
        let done: Vec<u8> = wanted
            .flows
            .iter()
            .map(|request| request.flow.qfi)
            .collect();
        qfis.extend(&done);
        self.five_qis = wanted
            .flows
            .iter()
            .map(|request| request.flow.five_qi)
            .collect();
        self.session_ambr = wanted.ambr;
        Ok(ModifiedFlows {
            done,
            failed: Vec::new(),
        })
    }

    fn downlink(&mut self, pdu: &[u8]) {
        if let Err(discard) = self.nas.downlink(self.now, pdu) {
            self.discards.push(discard.to_string());
        }
        self.settle();
    }

    fn establish(&mut self) {
        let request = SessionRequest {
            id: 1,
            dnn: Some("internet".into()),
            s_nssai: Some(SLICE),
            kind: Default::default(),
        };
        self.nas.establish(self.now, &request);
        self.settle();
    }

    fn failure(&self) -> &Failure {
        let failure = self.events.iter().find_map(|event| match event {
            Event::Failed(failure) => Some(failure),
            _ => None,
        });
        failure.unwrap_or_else(|| panic!("no failure: {:?}", self.events))
    }

    fn assert_healthy(&self) {
        assert!(self.discards.is_empty(), "{:?}", self.discards);
        let counters = self.amf.counters;
        assert_eq!(counters.nas_undecodable, 0);
        assert_eq!(counters.nas_integrity_failures, 0);
        assert_eq!(counters.nas_unexpected, 0);
    }
}

#[test]
fn both_ends_derive_the_same_k_n3iwf() {
    let world = World::registered();
    let (ours, theirs) = (world.nas.k_n3iwf().unwrap(), world.key.as_ref().unwrap());
    assert!(ours == *theirs);
    assert_eq!(world.nas.algorithms(), Some(("128-NEA2", "128-NIA2")));
    assert_eq!(world.stored, 1);
    let updated = world.events.iter().any(|event| {
        matches!(event, Event::ConfigurationUpdated { network_name: Some(name), .. } if name == "Test Network")
    });
    assert!(updated, "{:?}", world.events);
    world.assert_healthy();
}

#[test]
fn concealed_subscribers_are_found() {
    let a = "5a8d38864820197c3394b92613b20b91633cbd897119273bf8e4a6f4eec0a650";
    let b = "0272da71976234ce833a6907425867b82e074d44ef907dfb4b3e21c1c2256ebcd1";
    let schemes = [
        Scheme::profile_a(27, &hex::decode(a).unwrap()).unwrap(),
        Scheme::profile_b(28, &hex::decode(b).unwrap()).unwrap(),
    ];
    for scheme in schemes {
        let mut world = World::new(Setup {
            scheme,
            ..Setup::default()
        });
        world.register();
        assert!(world.nas.is_registered(), "{:?}", world.events);
        assert_eq!(world.amf.ue_status().len(), 1);
        world.assert_healthy();
    }
}

#[test]
fn the_network_chooses_among_what_is_offered() {
    for (nea, name) in [
        (CipheringAlgorithm::NEA0, "NEA0"),
        (CipheringAlgorithm::NEA1, "128-NEA1"),
    ] {
        let mut world = World::new(Setup {
            ciphering: vec![nea],
            ..Setup::default()
        });
        world.register();
        assert!(world.nas.is_registered(), "{:?}", world.events);
        assert_eq!(world.nas.algorithms().unwrap().0, name);
    }
}

#[test]
fn a_core_that_is_behind_resynchronises() {
    let mut world = World::new(Setup {
        sqn: SqnState::starting_at(0x1_0000).unwrap(),
        ..Setup::default()
    });
    world.register();
    assert!(world.nas.is_registered(), "{:?}", world.events);
    assert_eq!(world.amf.counters.resynchronisations, 1);
    assert_eq!(world.stored, 1, "the stale challenge was not stored");
}

#[test]
fn a_wrong_k_is_a_clear_failure() {
    let mut world = World::new(Setup {
        k: "00000000000000000000000000000001",
        ..Setup::default()
    });
    world.register();
    assert!(!world.nas.is_registered());
    assert_eq!(world.stored, 0);
    assert!(world.failure().is_permanent(), "{:?}", world.failure());
}

#[test]
fn an_unknown_subscriber_is_rejected() {
    let mut world = World::new(Setup {
        imsi: "208930000000099",
        ..Setup::default()
    });
    world.register();
    assert!(matches!(
        world.failure(),
        Failure::Rejected {
            cause: MmCause(3),
            ..
        }
    ));
}

#[test]
fn every_reject_reaches_the_operator() {
    for cause in [3, 22, 62, 72, 111] {
        let mut world = World::new(Setup {
            core: format!("{CORE}policy: {{registration_reject: {cause}}}\n"),
            ..Setup::default()
        });
        world.register();
        assert!(
            matches!(world.failure(), Failure::Rejected { cause: MmCause(c), .. } if *c == cause)
        );
    }
    let mut world = World::new(Setup {
        core: format!("{CORE}policy: {{authentication_reject: true}}\n"),
        ..Setup::default()
    });
    world.register();
    assert_eq!(*world.failure(), Failure::AuthenticationRejected);
}

#[test]
fn a_network_without_the_key_is_refused() {
    let mut world = World::new(Setup {
        core: format!("{CORE}policy: {{corrupt_autn: true}}\n"),
        ..Setup::default()
    });
    world.register();
    assert!(!world.nas.is_registered());
    assert_eq!(world.stored, 0, "RES* was never computed for it");
}

#[test]
fn a_second_registration_works_with_what_the_first_left() {
    let mut world = World::registered();
    world.nas.deregister(world.now, false);
    world.settle();
    assert!(world.events.contains(&Event::Deregistered));
    assert!(world.released);
    world.nas.connection_lost();
    world.events.clear();
    world.register();
    assert!(
        world.nas.is_registered(),
        "{:?} {:?}",
        world.events,
        world.discards
    );
    assert!(world.nas.k_n3iwf().unwrap() == *world.key.as_ref().unwrap());
    world.establish();
    assert_eq!(world.child_sas.len(), 1);
}

#[test]
fn a_session_has_what_the_smf_gave() {
    let mut world = World::registered();
    world.establish();
    let accept = world.events.iter().find_map(|event| match event {
        Event::SessionAccepted(accept) => Some(accept),
        _ => None,
    });
    let accept = accept.unwrap_or_else(|| panic!("{:?}", world.events));
    assert_eq!(accept.address.unwrap().octets()[..2], [10, 60]);
    assert_eq!(
        (accept.rules.default_qfi(), accept.rules.qfis()),
        (1, vec![1, 2])
    );
    assert_eq!(accept.mtu, Some(1358));
    assert_eq!(
        accept.dns,
        ["198.18.0.10".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    assert_eq!(accept.dnn.as_deref(), Some("internet"));
    assert_eq!(accept.s_nssai, Some(SLICE));
    assert_eq!(world.child_sas, [(1, vec![1, 2])]);
    world.assert_healthy();
}

#[test]
fn a_refused_session_says_why() {
    let mut world = World::new(Setup {
        core: format!("{CORE}policy: {{pdu_session_reject: 27}}\n"),
        ..Setup::default()
    });
    world.register();
    world.establish();
    let refused = world.events.iter().any(|event| {
        matches!(
            event,
            Event::SessionFailed {
                id: 1,
                failure: SessionFailure::Rejected { .. }
            }
        )
    });
    assert!(refused, "{:?}", world.events);
}

#[test]
fn either_side_releases_a_session() {
    let mut world = World::registered();
    world.establish();
    world.nas.release(world.now, 1);
    world.settle();
    let released = |world: &World, by_the_network| {
        world.events.iter().any(|event| {
            matches!(event, Event::SessionReleased { id: 1, by_network, .. } if *by_network == by_the_network)
        })
    };
    assert!(released(&world, false), "{:?}", world.events);
    assert!(world.child_sas.is_empty());

    world.establish();
    let actions = world.amf.release_pdu_session(world.now, SUPI, 1).unwrap();
    world.from_amf(actions);
    assert!(released(&world, true), "{:?}", world.events);
    world.assert_healthy();
}

/// RTP to one port.
fn voice(qfi: u8) -> FlowConfig {
    FlowConfig {
        qfi,
        five_qi: 1,
        arp: 2,
        reflective: false,
        filter: Some(FlowFilter {
            remote: None,
            protocol: Some(17),
            remote_port: Some(5006),
        }),
    }
}

/// UDP over IPv4 to a port.
fn udp(port: u16) -> [u8; 28] {
    let mut packet = [0; 28];
    (packet[0], packet[9]) = (0x45, 17);
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet
}

#[test]
fn a_flow_comes_and_goes_at_all_three() {
    let mut world = World::registered();
    world.establish();
    let rules = |world: &World| {
        let mut events = world.events.iter().rev();
        events.find_map(|event| match event {
            Event::SessionModified { rules, .. } => rules.clone(),
            _ => None,
        })
    };
    let rate = Rate {
        downlink_kbps: 8_000,
        uplink_kbps: 4_000,
    };
    let add = SessionChange {
        ambr: Some(rate),
        add: vec![voice(3)],
        release: Vec::new(),
    };
    world.refuse_changes = true;
    let actions = world.amf.modify_pdu_session(world.now, SUPI, 1, &add);
    world.from_amf(actions.unwrap());
    assert_eq!(world.child_sas, [(1, vec![1, 2])], "refused");
    assert!(rules(&world).is_none(), "the UE heard nothing of it");

    world.refuse_changes = false;
    let actions = world.amf.modify_pdu_session(world.now, SUPI, 1, &add);
    world.from_amf(actions.unwrap());
    assert_eq!(world.child_sas, [(1, vec![1, 2, 3])]);
    assert_eq!(world.five_qis, [Some(1)]);
    let bits = Ambr {
        uplink: 4_000_000,
        downlink: 8_000_000,
    };
    assert_eq!(world.session_ambr, Some(bits));
    let known = rules(&world).unwrap();
    assert_eq!(known.qfis(), [1, 2, 3]);
    assert_eq!(known.uplink().qfi(&udp(5006)), Some(3));
    assert_eq!(known.uplink().qfi(&udp(5007)), Some(1));

    let again = world.amf.modify_pdu_session(world.now, SUPI, 1, &add);
    assert!(matches!(again, Err(CommandError::NotNow { .. })));
    let remove = SessionChange {
        release: vec![2, 3],
        ..SessionChange::default()
    };
    let actions = world.amf.modify_pdu_session(world.now, SUPI, 1, &remove);
    world.from_amf(actions.unwrap());
    assert_eq!(world.child_sas, [(1, vec![1])]);
    assert_eq!(rules(&world).unwrap().uplink().qfi(&udp(5006)), Some(1));

    let actions = world.amf.modify_ue(world.now, SUPI, rate);
    world.from_amf(actions.unwrap());
    assert_eq!(world.ue_ambr, Some(bits));
    world.assert_healthy();
}

#[test]
fn the_network_deregisters_the_ue() {
    for again in [true, false] {
        let mut world = World::registered();
        let actions = world.amf.deregister(world.now, SUPI, again, None).unwrap();
        world.from_amf(actions);
        assert!(
            matches!(world.failure(), Failure::Deregistered { register_again, .. } if *register_again == again)
        );
        assert!(world.released && !world.nas.is_registered());
        world.assert_healthy();
    }
}

//! The UE's NAS, directed by the octets of a fuzzer: a network that has the right keys and says anything under them,
//! or in clear, in any order; commands of the daemon; time that passes. Nothing may panic, nothing is registered or
//! keyed without the network's keys, and nothing leaves in clear once they are in use.

use std::time::Duration;

use keys::Secret;
use nwu::SNssai;
use oxirush_nas::nas_5gs::{
    CipheringAlgorithm, Direction, Guti, IntegrityAlgorithm, Nas5gsMessage,
    Nas5gsSecurityHeaderType as Sht, NasAbba, NasAuthenticationParameterAutn,
    NasAuthenticationParameterRand, NasAuthenticationRequest, NasConnection, NasFGsMobileIdentity,
    NasFGsRegistrationResult, NasKeySetIdentifier, NasRegistrationAccept, NasSecurityAlgorithms,
    NasSecurityContext, NasSecurityModeCommand, NasUeSecurityCapability, RegistrationResult,
    is_security_protected,
};
use oxirush_security::{
    Plmn, Rand,
    milenage::{Amf, K, Milenage, Opc, Sqn},
    nas_5gs::{KAmf, Supi, derive_kamf, derive_kausf, derive_kseaf},
};
use ue_user::core::{
    nas::{Event, Nas, NasConfig, Output, SessionRequest, Timers},
    suci::{Concealer, Scheme},
    usim::{OperatorKey, SqnState, Usim},
};

const K_OCTETS: [u8; 16] = [0x46; 16];
const OPC_OCTETS: [u8; 16] = [0xcd; 16];
const NAME: &[u8] = b"5G:mnc093.mcc208.3gppnetwork.org";

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn small(&mut self, bound: u8) -> u8 {
        self.octet().unwrap_or(0) % bound
    }

    fn octets(&mut self) -> Vec<u8> {
        let len = usize::from(self.octet().unwrap_or(0));
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    /// Up to two octets of a message become others.
    fn change(&mut self, message: &mut [u8]) {
        for _ in 0..self.small(3) {
            let (at, mask) = (self.small(u8::MAX), self.octet().unwrap_or(1));
            let at = usize::from(at) % message.len().max(1);
            if let Some(octet) = message.get_mut(at) {
                *octet ^= mask;
            }
        }
    }
}

/// The network's half.
struct Network {
    home: Milenage,
    sqn: u64,
    k_amf: Option<KAmf>,
    context: Option<NasSecurityContext>,
}

impl Network {
    fn challenge(&mut self, ngksi: u8) -> Vec<u8> {
        self.sqn += 0x20;
        let rand = Rand::new(&[self.sqn.to_le_bytes()[0]; 16]);
        let sqn = Sqn::try_from(self.sqn).unwrap();
        let amf = Amf::new(&[0x80, 0]);
        let vector = self.home.authentication_vector(&rand, &sqn, &amf);
        let k_ausf = derive_kausf(vector.ck(), vector.ik(), NAME, vector.autn()).unwrap();
        let k_seaf = derive_kseaf(&k_ausf, NAME).unwrap();
        let supi = Supi::imsi("208930000000001").unwrap();
        self.k_amf = Some(derive_kamf(&k_seaf, &supi, &[0, 0]).unwrap());
        let (ngksi, abba) = (NasKeySetIdentifier::new(ngksi), NasAbba::new(vec![0, 0]));
        let rand = NasAuthenticationParameterRand::from_rand(*rand.as_octets());
        let autn = NasAuthenticationParameterAutn::from_autn(*vector.autn().as_octets());
        let request = NasAuthenticationRequest::new(ngksi, abba)
            .with_authentication_parameter_rand(rand)
            .with_authentication_parameter_autn(autn);
        Nas5gsMessage::new_5gmm(request).encode().unwrap()
    }

    /// SECURITY MODE COMMAND, once there was a challenge.
    fn command(&mut self, script: &mut Script<'_>) -> Option<Vec<u8>> {
        use CipheringAlgorithm::{NEA0, NEA1, NEA2};
        let nea = [NEA2, NEA1, NEA0][usize::from(script.small(3))];
        let nia = match script.small(4) {
            3 => IntegrityAlgorithm::NIA1,
            _ => IntegrityAlgorithm::NIA2,
        };
        let mut context =
            NasSecurityContext::from_fresh_kamf(self.k_amf.as_ref()?, nia, nea).ok()?;
        let command = NasSecurityModeCommand::new(
            NasSecurityAlgorithms::from_algorithms(nea, nia),
            NasKeySetIdentifier::new(script.small(3)),
            NasUeSecurityCapability::from_capabilities(0xe0 ^ script.small(2), 0x60),
        );
        let header = Sht::IntegrityProtectedWithNewFiveGNasSecurityContext;
        let message = Nas5gsMessage::new_5gmm(command);
        let (down, access) = (Direction::Downlink, NasConnection::Non3Gpp);
        let pdu = context.protect_for_access(&message, header, down, access);
        self.context = Some(context);
        pdu.ok()
    }

    /// Any octets under the keys in use.
    fn protect(&mut self, payload: Vec<u8>) -> Option<Vec<u8>> {
        let context = self.context.as_mut()?;
        let header = Sht::IntegrityProtectedAndCiphered;
        let (down, access) = (Direction::Downlink, NasConnection::Non3Gpp);
        context
            .protect_opaque_payload_for_access(payload, header, down, access)
            .ok()
    }
}

/// What a script came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub registered: usize,
    pub sessions: usize,
    pub modified: usize,
    pub failures: usize,
}

struct Play {
    ue: Nas,
    network: Network,
    now: Duration,
    /// Downlink PDUs so far.
    sent: Vec<Vec<u8>>,
    /// Whether sequence numbers become durable at once.
    stores: bool,
    /// What was made with the network's keys, as it was made.
    authentic: Vec<Vec<u8>>,
    /// Whether the UE got any of that.
    keyed: bool,
    outcome: Outcome,
}

/// Plays a script.
pub fn play(script: &[u8]) -> Outcome {
    let mut script = Script(script);
    let plmn = Plmn::new("208", "93").unwrap();
    let usim = Usim::new(
        &Secret::from_slice(&K_OCTETS),
        &OperatorKey::Opc(Secret::from_slice(&OPC_OCTETS)),
        "imsi-208930000000001",
        SqnState::default(),
    )
    .unwrap();
    let config = NasConfig {
        plmn,
        concealer: Concealer::new(plmn, "208930000000001", "", Scheme::Null).unwrap(),
        imeisv: Some("3569380356438091".into()),
        ciphering: vec![
            CipheringAlgorithm::NEA2,
            CipheringAlgorithm::NEA1,
            CipheringAlgorithm::NEA0,
        ],
        integrity: vec![IntegrityAlgorithm::NIA2, IntegrityAlgorithm::NIA1],
        requested_nssai: Vec::new(),
        gmm_capability: 0,
        timers: Timers::default(),
    };
    let mut play = Play {
        ue: Nas::new(config, usim),
        network: Network {
            home: Milenage::new(&K::new(&K_OCTETS), &Opc::new(&OPC_OCTETS)),
            sqn: 0x20,
            k_amf: None,
            context: None,
        },
        now: Duration::from_secs(1000),
        sent: Vec::new(),
        stores: true,
        authentic: Vec::new(),
        keyed: false,
        outcome: Outcome::default(),
    };
    while let Some(direction) = script.octet() {
        play.act(direction, &mut script);
        play.drain();
        if !play.keyed {
            assert!(!play.ue.is_registered(), "registered by nobody");
            assert!(play.ue.k_n3iwf().is_none(), "keys of nobody");
        }
    }
    play.outcome
}

impl Play {
    fn act(&mut self, direction: u8, script: &mut Script<'_>) {
        match direction % 14 {
            0 => self.ue.register(self.now),
            1 => {
                let mut pdu = self.network.challenge(script.small(3));
                script.change(&mut pdu);
                self.downlink(pdu);
            }
            2 => {
                if let Some(mut pdu) = self.network.command(script) {
                    self.authentic.push(pdu.clone());
                    script.change(&mut pdu);
                    self.downlink(pdu);
                }
            }
            3 => {
                let result =
                    NasFGsRegistrationResult::from_result(RegistrationResult::Non3GppAccess);
                let guti = Guti::new(Plmn::new("208", "93").unwrap(), 0xca, 0x3fe, 0, 1).unwrap();
                let accept = NasRegistrationAccept::new(result)
                    .with_fg_guti(NasFGsMobileIdentity::from_guti(guti));
                let mut accept = Nas5gsMessage::new_5gmm(accept).encode().unwrap();
                script.change(&mut accept);
                self.protected(accept);
            }
            // 5GMM, 5GSM in a DL NAS TRANSPORT, anything.
            4 => {
                let payload = [&[0x7e, 0x00][..], &script.octets()].concat();
                self.protected(payload);
            }
            5 | 6 => {
                let message = script.octets();
                let len = u16::try_from(message.len() + 1)
                    .unwrap_or(u16::MAX)
                    .to_be_bytes();
                // PDU SESSION IDENTITY behind the container.
                let id = [0x12, message.first().copied().unwrap_or(0)];
                let head = [0x7e, 0x00, 0x68, 0x01, len[0], len[1], 0x2e];
                self.protected([&head[..], &message, &id].concat());
            }
            7 => {
                let payload = script.octets();
                self.protected(payload);
            }
            8 => {
                let pdu = script.octets();
                self.downlink(pdu);
            }
            9 => {
                self.now += Duration::from_millis(u64::from(script.octet().unwrap_or(1)) * 100);
                self.ue.handle_timeout(self.now);
            }
            10 => match script.small(3) {
                0 => self.stores = !self.stores,
                1 => self.ue.sqn_stored(Ok(())),
                _ => self.ue.sqn_stored(Err("as told".to_owned())),
            },
            11 => {
                let request = SessionRequest {
                    id: script.small(16),
                    dnn: Some("internet".to_owned()),
                    s_nssai: Some(SNssai { sst: 1, sd: None }),
                    kind: Default::default(),
                };
                self.ue.establish(self.now, &request);
            }
            12 => match script.small(5) {
                0 => self.ue.deregister(self.now, false),
                1 => self.ue.deregister(self.now, true),
                2 => self.ue.connection_lost(),
                3 => self.ue.forget_identity(),
                _ => self.ue.release(self.now, script.small(16)),
            },
            _ => {
                let which = usize::from(script.octet().unwrap_or(0));
                if let Some(mut pdu) = self.sent.get(which).cloned() {
                    script.change(&mut pdu);
                    self.downlink(pdu);
                }
            }
        }
    }

    fn protected(&mut self, payload: Vec<u8>) {
        if let Some(pdu) = self.network.protect(payload) {
            self.authentic.push(pdu.clone());
            self.downlink(pdu);
        }
    }

    fn downlink(&mut self, pdu: Vec<u8>) {
        // A second change may undo the first, and the octets before the code are not covered by it.
        let same = |own: &Vec<u8>| own.get(2..) == pdu.get(2..);
        self.keyed |= self.authentic.iter().any(same);
        // Discarded in most states, which is fine.
        let _ = self.ue.downlink(self.now, &pdu);
        self.sent.push(pdu);
    }

    fn drain(&mut self) {
        let mut store = false;
        while let Some(output) = self.ue.poll_output() {
            match output {
                Output::StoreSqn(_) => store = true,
                Output::Send(pdu) => {
                    assert!(!pdu.is_empty());
                    if self.ue.is_registered() {
                        assert!(is_security_protected(&pdu), "in clear: {pdu:02x?}");
                    }
                }
                Output::Event(event) => self.event(&event),
                _ => {}
            }
        }
        if store && self.stores {
            self.ue.sqn_stored(Ok(()));
            self.drain();
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Registered { .. } => self.outcome.registered += 1,
            Event::SessionAccepted(accept) => {
                self.outcome.sessions += 1;
                assert!((1..=63).contains(&accept.rules.default_qfi()));
                let _ = accept.rules.uplink();
            }
            Event::SessionModified { rules, .. } => {
                self.outcome.modified += 1;
                if let Some(rules) = rules {
                    assert!((1..=63).contains(&rules.default_qfi()));
                }
            }
            Event::Failed(_) | Event::SessionFailed { .. } => self.outcome.failures += 1,
            _ => {}
        }
    }
}

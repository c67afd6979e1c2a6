//! The NAS of the UE against a network that a test writes line by line.

mod hostile;
mod registration;
pub(crate) mod sessions;

use keys::Secret;
use oxirush_nas::nas_5gs::{
    GmmCause, Guti, NasAbba, NasAuthenticationParameterAutn, NasAuthenticationParameterRand,
    NasAuthenticationRequest, NasConnection, NasFGsMobileIdentity, NasFGsRegistrationResult,
    NasImeisvRequest, NasKeySetIdentifier, NasNssai, NasRegistrationAccept, NasSNssai,
    NasSecurityAlgorithms, NasSecurityContext, NasSecurityModeCommand, RegistrationResult,
};
use oxirush_security::{
    Rand,
    milenage::{Amf, K, Milenage, Opc, Sqn},
    nas_5gs::{KAmf, derive_kamf, derive_kausf, derive_kn3iwf, derive_kseaf},
};

use super::*;
use crate::core::{
    suci::Scheme,
    usim::{OperatorKey, SqnState},
};

const K_OCTETS: [u8; 16] = [0x46; 16];
const OPC_OCTETS: [u8; 16] = [0xcd; 16];
const SN_NAME: &str = "5G:mnc093.mcc208.3gppnetwork.org";
pub(crate) const SLICE: SNssai = SNssai {
    sst: 1,
    sd: Some([1, 2, 3]),
};
/// No test depends on the origin of time.
const NOW: Duration = Duration::from_secs(1000);

pub(crate) fn plmn() -> Plmn {
    Plmn::new("208", "93").unwrap()
}

pub(crate) fn config() -> NasConfig {
    NasConfig {
        plmn: plmn(),
        concealer: Concealer::new(plmn(), "208930000000001", "", Scheme::Null).unwrap(),
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
    }
}

pub(crate) fn usim() -> Usim {
    Usim::new(
        &Secret::from_slice(&K_OCTETS),
        &OperatorKey::Opc(Secret::from_slice(&OPC_OCTETS)),
        "imsi-208930000000001",
        SqnState::default(),
    )
    .unwrap()
}

fn ue() -> Nas {
    Nas::new(config(), usim())
}

/// The network's half.
pub(crate) struct Network {
    pub(crate) home: Milenage,
    pub(crate) sqn: u64,
    k_amf: Option<KAmf>,
    context: Option<NasSecurityContext>,
    /// Of the last challenge.
    pub(crate) ngksi: u8,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self {
            home: Milenage::new(&K::new(&K_OCTETS), &Opc::new(&OPC_OCTETS)),
            sqn: 0x20,
            k_amf: None,
            context: None,
            ngksi: 0,
        }
    }

    /// A challenge with the next SQN; K_AMF is remembered.
    pub(crate) fn challenge(&mut self, ngksi: u8) -> Vec<u8> {
        self.sqn += 0x20;
        self.ngksi = ngksi;
        let rand = Rand::new(&[self.sqn.to_le_bytes()[0]; 16]);
        let sqn = Sqn::try_from(self.sqn).unwrap();
        let vector = self
            .home
            .authentication_vector(&rand, &sqn, &Amf::new(&[0x80, 0]));
        let name = SN_NAME.as_bytes();
        let k_ausf = derive_kausf(vector.ck(), vector.ik(), name, vector.autn()).unwrap();
        let k_seaf = derive_kseaf(&k_ausf, name).unwrap();
        let supi = oxirush_security::nas_5gs::Supi::imsi("208930000000001").unwrap();
        self.k_amf = Some(derive_kamf(&k_seaf, &supi, &[0, 0]).unwrap());
        challenge(ngksi, *rand.as_octets(), *vector.autn().as_octets())
    }

    pub(crate) fn command(&mut self, nea: CipheringAlgorithm, nia: IntegrityAlgorithm) -> Vec<u8> {
        self.command_with(
            nea,
            nia,
            0,
            NasUeSecurityCapability::from_capabilities(0xe0, 0x60),
        )
    }

    pub(crate) fn command_for(
        &mut self,
        nea: CipheringAlgorithm,
        nia: IntegrityAlgorithm,
        ngksi: u8,
    ) -> Vec<u8> {
        let replayed = NasUeSecurityCapability::from_capabilities(0xe0, 0x60);
        self.command_with(nea, nia, ngksi, replayed)
    }

    pub(crate) fn context_mut(&mut self) -> Option<&mut NasSecurityContext> {
        self.context.as_mut()
    }

    /// SECURITY MODE COMMAND under a new context.
    pub(crate) fn command_with(
        &mut self,
        nea: CipheringAlgorithm,
        nia: IntegrityAlgorithm,
        ngksi: u8,
        replayed: NasUeSecurityCapability,
    ) -> Vec<u8> {
        let k_amf = self.k_amf.as_ref().unwrap();
        let mut context = NasSecurityContext::from_fresh_kamf(k_amf, nia, nea).unwrap();
        let command = NasSecurityModeCommand::new(
            NasSecurityAlgorithms::from_algorithms(nea, nia),
            NasKeySetIdentifier::new(ngksi),
            replayed,
        )
        .with_imeisv_request(NasImeisvRequest::from_requested(true));
        let pdu = context
            .protect_for_access(
                &Nas5gsMessage::new_5gmm(command),
                Sht::IntegrityProtectedWithNewFiveGNasSecurityContext,
                Direction::Downlink,
                NasConnection::Non3Gpp,
            )
            .unwrap();
        self.context = Some(context);
        pdu
    }

    pub(crate) fn protect(&mut self, message: &Nas5gsMessage) -> Vec<u8> {
        let context = self.context.as_mut().unwrap();
        let header = Sht::IntegrityProtectedAndCiphered;
        context
            .protect_for_access(message, header, Direction::Downlink, NasConnection::Non3Gpp)
            .unwrap()
    }

    pub(crate) fn gmm(&mut self, message: impl Into<Nas5gmmMessage>) -> Vec<u8> {
        self.protect(&Nas5gsMessage::new_5gmm(message))
    }

    pub(crate) fn read(&mut self, pdu: &[u8]) -> Nas5gmmMessage {
        let context = self.context.as_mut().unwrap();
        let verified = context
            .unprotect_for_access(pdu, Direction::Uplink, NasConnection::Non3Gpp)
            .expect("the UE protects with the context in use");
        match verified.message {
            Nas5gsMessage::Gmm(_, message) => message,
            other => panic!("no 5GMM message: {other}"),
        }
    }

    pub(crate) fn k_n3iwf(&self, count: u32) -> Vec<u8> {
        let count = NasCount::new(count).unwrap();
        derive_kn3iwf(self.k_amf.as_ref().unwrap(), count)
            .as_octets()
            .to_vec()
    }
}

fn challenge(ngksi: u8, rand: [u8; 16], autn: [u8; 16]) -> Vec<u8> {
    let request =
        NasAuthenticationRequest::new(NasKeySetIdentifier::new(ngksi), NasAbba::new(vec![0, 0]))
            .with_authentication_parameter_rand(NasAuthenticationParameterRand::from_rand(rand))
            .with_authentication_parameter_autn(NasAuthenticationParameterAutn::from_autn(autn));
    Nas5gsMessage::new_5gmm(request).encode().unwrap()
}

pub(crate) fn accept() -> NasRegistrationAccept {
    let result = NasFGsRegistrationResult::from_result(RegistrationResult::Non3GppAccess);
    let guti = Guti::new(plmn(), 0xca, 0x3fe, 0, 0x1122_3344).unwrap();
    NasRegistrationAccept::new(result)
        .with_fg_guti(NasFGsMobileIdentity::from_guti(guti))
        .with_allowed_nssai(
            NasNssai::from_snssais(&[NasSNssai::from_sst_sd(1, Some([1, 2, 3]))]).unwrap(),
        )
}

/// The only PDU the UE sends now.
fn sent(ue: &mut Nas) -> Vec<u8> {
    let mut pdus = Vec::new();
    while let Some(output) = ue.poll_output() {
        match output {
            Output::Send(pdu) => pdus.push(pdu),
            Output::StoreSqn(_) => panic!("a sequence number to store"),
            Output::Event(_) => {}
        }
    }
    assert_eq!(pdus.len(), 1, "PDUs sent: {pdus:02x?}");
    pdus.remove(0)
}

fn events(ue: &mut Nas) -> Vec<Event> {
    let outputs = std::iter::from_fn(|| ue.poll_output());
    let event = |output| match output {
        Output::Event(event) => Some(event),
        _ => None,
    };
    outputs.filter_map(event).collect()
}

fn failure(ue: &mut Nas) -> Failure {
    let mut failures = events(ue).into_iter().filter_map(|event| match event {
        Event::Failed(failure) => Some(failure),
        _ => None,
    });
    let first = failures.next().expect("the registration failed");
    assert_eq!(failures.next(), None);
    assert!(!ue.is_registered());
    first
}

fn clear(pdu: &[u8]) -> Nas5gmmMessage {
    match Nas5gsMessage::decode(pdu).unwrap() {
        Nas5gsMessage::Gmm(_, message) => message,
        other => panic!("no plain 5GMM message: {other}"),
    }
}

fn cause(pdu: &[u8]) -> Option<GmmCause> {
    match clear(pdu) {
        Nas5gmmMessage::AuthenticationFailure(failure) => failure.fgmm_cause.cause(),
        Nas5gmmMessage::SecurityModeReject(reject) => reject.fgmm_cause.cause(),
        _ => None,
    }
}

/// Answers a challenge, with the sequence number stored in between.
fn authenticate(ue: &mut Nas, network: &mut Network, ngksi: u8) {
    ue.downlink(NOW, &network.challenge(ngksi)).unwrap();
    assert!(matches!(ue.poll_output(), Some(Output::StoreSqn(_))));
    ue.sqn_stored(Ok(()));
    let response = sent(ue);
    assert!(matches!(
        clear(&response),
        Nas5gmmMessage::AuthenticationResponse(_)
    ));
}

/// A registered UE and its network.
fn registered() -> (Nas, Network) {
    let (mut ue, mut network) = (ue(), Network::new());
    ue.register(NOW);
    sent(&mut ue);
    finish(&mut ue, &mut network);
    (ue, network)
}

/// From AUTHENTICATION REQUEST to REGISTRATION COMPLETE.
fn finish(ue: &mut Nas, network: &mut Network) {
    authenticate(ue, network, 0);
    let command = network.command(CipheringAlgorithm::NEA2, IntegrityAlgorithm::NIA2);
    ue.downlink(NOW, &command).unwrap();
    let complete = network.read(&sent(ue));
    assert!(matches!(complete, Nas5gmmMessage::SecurityModeComplete(_)));
    ue.downlink(NOW, &network.gmm(accept())).unwrap();
    let complete = network.read(&sent(ue));
    assert!(matches!(complete, Nas5gmmMessage::RegistrationComplete(_)));
    assert!(ue.is_registered());
}

//! NAS as a UE speaks it.

use oxirush_nas::nas_5gs::*;
use oxirush_security::milenage::{K, Milenage, Opc, Sqn};
use oxirush_security::nas_5gs::{Supi, derive_kamf, derive_kausf, derive_kn3iwf, derive_kseaf};
use oxirush_security::{Autn, Rand};

use super::core::Core;
use super::n3iwf;
use core5g::ngap::{UeIds, name};

pub const NETWORK: &[u8] = b"5G:mnc093.mcc208.3gppnetwork.org";
pub const IMEISV: &str = "3561230400000101";

pub enum Identity {
    Suci(Vec<u8>),
    Guti(Guti),
}

/// A UE with its USIM.
pub struct Ue {
    pub supi: String,
    milenage: Milenage,
    /// The highest SQN accepted.
    pub sqn: u64,
    pub identity: Identity,
    pub requested: Vec<NasSNssai>,
    pub ea: u8,
    pub ran_id: u32,
    pub ids: Option<UeIds>,
    pub context: Option<NasSecurityContext>,
    k_amf: Option<KAmf>,
    pub guti: Option<Guti>,
    request: Option<Nas5gsMessage>,
}

impl Ue {
    /// The first subscriber of the test configuration.
    pub fn first(ran_id: u32) -> Self {
        Self::new(
            "imsi-208930000000001",
            "465b5ce8b199b49faa5f0a2ee238a6bc",
            "cd63cb71954a9f4e48a5994e37a02baf",
            ran_id,
        )
    }

    /// The second: slice 2, data network `ims`; TS 35.208 test set 3 has its
    /// K, and the OP of set 1 its OPc.
    pub fn second(ran_id: u32) -> Self {
        let k = "0396eb317b6d1c36f19c1c84cd6ffd16";
        let key = K::from_slice(&hex::decode(k).unwrap()).unwrap();
        let op = hex::decode("cdc202d5123e20f62b6d676ac72cb318").unwrap();
        let op = oxirush_security::milenage::Op::from_slice(&op).unwrap();
        let opc = hex::encode(Opc::from_op(&key, &op).as_octets());
        Self::new("imsi-208930000000002", k, &opc, ran_id)
    }

    pub fn new(supi: &str, k: &str, opc: &str, ran_id: u32) -> Self {
        let k = K::from_slice(&hex::decode(k).unwrap()).unwrap();
        let opc = Opc::from_slice(&hex::decode(opc).unwrap()).unwrap();
        let msin = &supi["imsi-20893".len()..];
        let suci = ImsiSuci::null("208-93".parse().unwrap(), RoutingIndicator::default(), msin);
        let suci = NasFGsMobileIdentity::from_suci(&Suci::Imsi(suci.unwrap())).unwrap();
        Self {
            supi: supi.to_owned(),
            milenage: Milenage::new(&k, &opc),
            sqn: 0,
            identity: Identity::Suci(suci.value.to_vec()),
            requested: vec![],
            ea: 0xe0,
            ran_id,
            ids: None,
            context: None,
            k_amf: None,
            guti: None,
            request: None,
        }
    }

    fn identity(&self) -> NasFGsMobileIdentity {
        match &self.identity {
            Identity::Suci(octets) => NasFGsMobileIdentity::new(octets.clone()),
            Identity::Guti(guti) => NasFGsMobileIdentity::from_guti(*guti),
        }
    }

    /// REGISTRATION REQUEST: what goes out has cleartext IEs alone; the whole
    /// one waits for SECURITY MODE COMMAND.
    pub fn registration_request(&mut self) -> Vec<u8> {
        let capability = NasUeSecurityCapability::from_capabilities(self.ea, 0xe0);
        let clear = NasRegistrationRequest::new(
            NasFGsRegistrationType::from_registration_type(RegistrationType::InitialRegistration)
                .with_follow_on_request(true),
            NasKeySetIdentifier::from_key_set_identifier(KeySetIdentifier::NoKey).unwrap(),
            self.identity(),
        )
        .with_ue_security_capability(capability);
        let mut whole = clear.clone();
        if !self.requested.is_empty() {
            whole.set_requested_nssai(NasNssai::from_snssais(&self.requested).unwrap());
        }
        self.request = Some(Nas5gsMessage::new_5gmm(whole));
        Nas5gsMessage::new_5gmm(clear).encode().unwrap()
    }

    /// The challenge of AUTHENTICATION REQUEST.
    pub fn challenge(&self, nas: &[u8]) -> (Rand, Autn) {
        let Nas5gsMessage::Gmm(_, Nas5gmmMessage::AuthenticationRequest(request)) =
            Nas5gsMessage::decode(nas).unwrap()
        else {
            panic!("AUTHENTICATION REQUEST expected");
        };
        assert_eq!(request.abba.abba(), [0, 0]);
        let rand = request.authentication_parameter_rand.unwrap().value;
        let autn = request.authentication_parameter_autn.unwrap().value;
        (
            Rand::from_slice(&rand[..]).unwrap(),
            Autn::from_slice(&autn[..]).unwrap(),
        )
    }

    /// Answers AUTHENTICATION REQUEST as a USIM does: RES*, or a failure for a
    /// wrong MAC or an old SQN.
    pub fn authenticate(&mut self, nas: &[u8]) -> Vec<u8> {
        let (rand, autn) = self.challenge(nas);
        let Ok(usim) = self.milenage.check_autn(&rand, &autn) else {
            return failure(GmmCause::MacFailure, None);
        };
        assert!(usim.amf().separation_bit());
        if usim.sqn().get() <= self.sqn {
            let auts = self.milenage.auts(&rand, &Sqn::try_from(self.sqn).unwrap());
            return failure(GmmCause::SynchFailure, Some(*auts.as_octets()));
        }
        self.sqn = usim.sqn().get();
        let k_ausf = derive_kausf(usim.ck(), usim.ik(), NETWORK, &autn).unwrap();
        let k_seaf = derive_kseaf(&k_ausf, NETWORK).unwrap();
        let supi = Supi::parse(&self.supi).unwrap();
        self.k_amf = Some(derive_kamf(&k_seaf, &supi, &[0, 0]).unwrap());
        let res = *usim.res_star(NETWORK).unwrap().as_octets();
        let parameter = NasAuthenticationResponseParameter::from_res_star(res);
        Nas5gsMessage::new_5gmm(
            NasAuthenticationResponse::new().with_authentication_response_parameter(parameter),
        )
        .encode()
        .unwrap()
    }

    /// Takes SECURITY MODE COMMAND; the answer has the IMEISV and the whole
    /// registration request.
    pub fn secure(&mut self, nas: &[u8]) -> Vec<u8> {
        let Nas5gsMessage::SecurityProtected(header, inner) = Nas5gsMessage::decode(nas).unwrap()
        else {
            panic!("a protected SECURITY MODE COMMAND expected");
        };
        assert_eq!(
            header.security_header_type,
            Nas5gsSecurityHeaderType::IntegrityProtectedWithNewFiveGNasSecurityContext
        );
        let Nas5gsMessage::Gmm(_, Nas5gmmMessage::SecurityModeCommand(command)) = *inner else {
            panic!("SECURITY MODE COMMAND expected");
        };
        let algorithms = command.selected_nas_security_algorithms;
        let mut context = NasSecurityContext::from_fresh_kamf(
            self.k_amf.as_ref().unwrap(),
            algorithms.integrity().unwrap(),
            algorithms.ciphering().unwrap(),
        )
        .unwrap();
        context
            .unprotect_for_access(nas, Direction::Downlink, NasConnection::Non3Gpp)
            .expect("a right MAC");
        let replayed = command.replayed_ue_security_capabilities;
        assert_eq!((replayed.ea_byte(), replayed.ia_byte()), (self.ea, 0xe0));
        assert!(command.additional_5g_security_information.unwrap().rinmr());
        let request = self.request.as_ref().unwrap();
        let mut complete = NasSecurityModeComplete::new()
            .with_nas_message_container(NasMessageContainer::from_nas_message(request).unwrap());
        if command.imeisv_request.is_some_and(|r| r.is_requested()) {
            complete.set_imeisv(NasFGsMobileIdentity::from_imeisv(IMEISV).unwrap());
        }
        self.context = Some(context);
        self.protect(
            &Nas5gsMessage::new_5gmm(complete),
            Nas5gsSecurityHeaderType::IntegrityProtectedAndCipheredWithNewFiveGNasSecurityContext,
        )
    }

    /// K_N3IWF of uplink COUNT 0, which SECURITY MODE COMPLETE had.
    pub fn k_n3iwf(&self) -> [u8; 32] {
        *derive_kn3iwf(self.k_amf.as_ref().unwrap(), NasCount::ZERO).as_octets()
    }

    fn protect(&mut self, message: &Nas5gsMessage, header: Nas5gsSecurityHeaderType) -> Vec<u8> {
        self.context
            .as_mut()
            .unwrap()
            .protect_for_access(message, header, Direction::Uplink, NasConnection::Non3Gpp)
            .unwrap()
    }

    /// A ciphered uplink message.
    pub fn cipher(&mut self, message: impl Into<Nas5gmmMessage>) -> Vec<u8> {
        self.protect(
            &Nas5gsMessage::new_5gmm(message),
            Nas5gsSecurityHeaderType::IntegrityProtectedAndCiphered,
        )
    }

    /// A downlink message, which has to be ciphered and authentic.
    pub fn decipher(&mut self, nas: &[u8]) -> Nas5gmmMessage {
        let verified = self
            .context
            .as_mut()
            .unwrap()
            .unprotect_for_access(nas, Direction::Downlink, NasConnection::Non3Gpp)
            .unwrap();
        assert_eq!(
            verified.security_header_type,
            Nas5gsSecurityHeaderType::IntegrityProtectedAndCiphered
        );
        let Nas5gsMessage::Gmm(_, message) = verified.message else {
            panic!("a 5GMM message expected");
        };
        message
    }

    /// The 5GSM message of a DL NAS TRANSPORT, and its 5GMM cause.
    pub fn session_message(&mut self, nas: &[u8]) -> (Nas5gsmMessage, Option<GmmCause>) {
        let Nas5gmmMessage::DlNasTransport(transport) = self.decipher(nas) else {
            panic!("DL NAS TRANSPORT expected");
        };
        let Nas5gsMessage::Gsm(_, message) = transport
            .payload_container
            .decode_as_n1_sm_message()
            .unwrap()
        else {
            panic!("a 5GSM message expected");
        };
        (
            message,
            transport.fgmm_cause.and_then(|cause| cause.cause()),
        )
    }

    /// Up to and with K_N3IWF in the N3IWF.
    pub fn attach_until_context(&mut self, core: &mut Core) -> Vec<u8> {
        let request = self.registration_request();
        let answer = core.ask(&n3iwf::initial_ue(self.ran_id, request));
        let (ids, nas) = n3iwf::downlink(&answer);
        assert_eq!(ids.ran, self.ran_id);
        self.ids = Some(ids);
        let response = self.authenticate(&nas);
        let answer = core.ask(&n3iwf::uplink(ids, response));
        let (_, nas) = n3iwf::downlink(&answer);
        let complete = self.secure(&nas);
        let answer = core.ask(&n3iwf::uplink(ids, complete));
        let (same, key, _) = n3iwf::context_setup(&answer);
        assert_eq!(same, ids);
        assert_eq!(key, self.k_n3iwf());
        answer
    }

    /// A whole registration.
    pub fn attach(&mut self, core: &mut Core) -> NasRegistrationAccept {
        self.attach_until_context(core);
        let ids = self.ids.unwrap();
        let answer = core.ask(&n3iwf::context_ready(ids));
        let (_, nas) = n3iwf::downlink(&answer);
        let Nas5gmmMessage::RegistrationAccept(accept) = self.decipher(&nas) else {
            panic!("REGISTRATION ACCEPT expected");
        };
        self.guti = accept.fg_guti.as_ref().unwrap().as_guti();
        let complete = self.cipher(NasRegistrationComplete::new());
        let answer = core.ask(&n3iwf::uplink(ids, complete));
        let (_, nas) = n3iwf::downlink(&answer);
        let Nas5gmmMessage::ConfigurationUpdateCommand(update) = self.decipher(&nas) else {
            panic!("CONFIGURATION UPDATE COMMAND expected");
        };
        assert!(update.configuration_update_indication.unwrap().ack());
        let name = update.full_name_for_network.unwrap();
        assert_eq!(name.name().as_deref(), Some("Test Network"));
        let complete = self.cipher(NasConfigurationUpdateComplete::new());
        assert!(core.send(&n3iwf::uplink(ids, complete)).is_empty());
        *accept
    }

    /// PDU SESSION ESTABLISHMENT REQUEST in UL NAS TRANSPORT.
    pub fn session_request(&mut self, session: u8, dnn: Option<&str>) -> Vec<u8> {
        let rate = NasIntegrityProtectionMaximumDataRate::new(0xffff);
        let request = NasPduSessionEstablishmentRequest::new(rate)
            .with_pdu_session_type(NasPduSessionType::from_session_type(
                PduSessionTypeValue::Ipv4,
            ))
            .with_ssc_mode(NasSscMode::from_mode(SscModeValue::Ssc1));
        self.session_transport(session, Nas5gsMessage::new_5gsm(request, session, 1), dnn)
    }

    pub fn session_transport(
        &mut self,
        session: u8,
        message: Nas5gsMessage,
        dnn: Option<&str>,
    ) -> Vec<u8> {
        let mut transport = NasUlNasTransport::new(
            NasPayloadContainerType::from_kind(PayloadContainerKind::N1SmInformation),
            NasPayloadContainer::from_n1_sm_message(&message).unwrap(),
        )
        .with_pdu_session_id(NasPduSessionIdentity2::from_pdu_session_id(session))
        .with_request_type(NasRequestType::from_request_type(
            RequestTypeValue::InitialRequest,
        ));
        if let Some(dnn) = dnn {
            transport.set_dnn(NasDnn::from_string(dnn).unwrap());
        }
        self.cipher(transport)
    }

    /// A whole session: its accept, and what the N3IWF was asked for.
    pub fn establish(
        &mut self,
        core: &mut Core,
        session: u8,
    ) -> (NasPduSessionEstablishmentAccept, n3iwf::SetupRequest) {
        let ids = self.ids.unwrap();
        let request = self.session_request(session, None);
        let answer = core.ask(&n3iwf::uplink(ids, request));
        let setup = n3iwf::session_setup(&answer);
        assert_eq!(setup.session, session);
        let (message, cause) = self.session_message(&setup.nas);
        assert_eq!(cause, None);
        let Nas5gsmMessage::PduSessionEstablishmentAccept(accept) = message else {
            panic!("PDU SESSION ESTABLISHMENT ACCEPT expected");
        };
        let ready = n3iwf::session_ready(ids, session, n3iwf::ADDRESS, n3iwf::TEID, &setup.qfis);
        assert!(core.send(&ready).is_empty());
        (*accept, setup)
    }

    /// The N3IWF's and the core's side of an end.
    pub fn expect_release(&mut self, core: &mut Core, command: &[u8]) -> oxirush_ngap::ngap::Cause {
        assert_eq!(name(command), "UEContextRelease");
        let (ids, cause) = n3iwf::context_release(command);
        assert_eq!(Some(ids), self.ids);
        assert!(core.send(&n3iwf::release_complete(ids)).is_empty());
        cause
    }
}

fn failure(cause: GmmCause, auts: Option<[u8; 14]>) -> Vec<u8> {
    let mut failure = NasAuthenticationFailure::new(NasFGmmCause::from_cause(cause));
    if let Some(auts) = auts {
        failure.set_authentication_failure_parameter(NasAuthenticationFailureParameter::from_auts(
            auts,
        ));
    }
    Nas5gsMessage::new_5gmm(failure).encode().unwrap()
}

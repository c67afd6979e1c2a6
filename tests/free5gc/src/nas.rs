//! The NAS of N3IWUE: SUCI with the null scheme, 5G-AKA, NEA0 and NIA2 whatever the network selects,
//! one registration, one kind of PDU session. Nothing in it is rejected, and nothing retried.

use oxirush_nas::nas_5gs::{
    CipheringAlgorithm, Direction, Guti, ImsiSuci, IntegrityAlgorithm, KAmf, KeySetIdentifier,
    Nas5gmmMessage, Nas5gsMessage, Nas5gsSecurityHeaderType, NasAuthenticationResponse,
    NasAuthenticationResponseParameter, NasConnection, NasCount, NasDeRegistrationType,
    NasDeregistrationRequestUeOriginating, NasDnn, NasFGmmCapability, NasFGsMobileIdentity,
    NasFGsRegistrationType, NasIntegrityProtectionMaximumDataRate, NasKeySetIdentifier,
    NasMessageContainer, NasPayloadContainer, NasPayloadContainerType,
    NasPduSessionEstablishmentRequest, NasPduSessionIdentity2, NasPduSessionType,
    NasRegistrationComplete, NasRegistrationRequest, NasRequestType, NasSNssai, NasSecurityContext,
    NasSecurityModeComplete, NasSscMode, NasUeSecurityCapability, NasUlNasTransport,
    PayloadContainerKind, PduSessionTypeValue, RegistrationType, RequestTypeValue,
    RoutingIndicator, SscModeValue, Suci,
};
use oxirush_security::{
    Autn, Rand,
    milenage::{Amf, K, Milenage, Opc, Sqn},
    nas_5gs::{Supi, derive_kamf, derive_kausf, derive_kn3iwf, derive_kseaf},
};

/// The serving network of the sample configuration.
const NETWORK: &[u8] = b"5G:mnc093.mcc208.3gppnetwork.org";
const IMEISV: &str = "1110000000000000";

/// A downlink message as far as N3IWUE looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Downlink {
    /// REGISTRATION ACCEPT.
    RegistrationAccept,
    /// DL NAS TRANSPORT, taken for PDU SESSION ESTABLISHMENT ACCEPT.
    SessionAccept,
    /// Understood by nobody here.
    Other,
}

/// The subscription and what a registration makes of it.
pub struct Nas {
    milenage: Milenage,
    supi: String,
    identity: NasFGsMobileIdentity,
    slice: (u8, [u8; 3]),
    k_amf: Option<KAmf>,
    context: Option<NasSecurityContext>,
    guti: Option<Guti>,
}

impl Nas {
    /// A subscriber of PLMN 208/93; `None` when a value is none.
    pub fn new(msin: &str, k: &[u8; 16], opc: &[u8; 16], slice: (u8, [u8; 3])) -> Option<Self> {
        let routing = RoutingIndicator::default();
        let suci = ImsiSuci::null("208-93".parse().ok()?, routing, msin).ok()?;
        Some(Self {
            milenage: Milenage::new(&K::new(k), &Opc::new(opc)),
            supi: format!("imsi-20893{msin}"),
            identity: NasFGsMobileIdentity::from_suci(&Suci::Imsi(suci)).ok()?,
            slice,
            k_amf: None,
            context: None,
            guti: None,
        })
    }

    fn request(&self) -> Option<NasRegistrationRequest> {
        let kind =
            NasFGsRegistrationType::from_registration_type(RegistrationType::InitialRegistration)
                .with_follow_on_request(true);
        let ksi = NasKeySetIdentifier::from_key_set_identifier(KeySetIdentifier::NoKey).ok()?;
        // EA0 and IA2 in two octets.
        let capability = NasUeSecurityCapability::from_capabilities(0x80, 0x20);
        Some(
            NasRegistrationRequest::new(kind, ksi, self.identity.clone())
                .with_ue_security_capability(capability),
        )
    }

    /// REGISTRATION REQUEST in clear.
    pub fn registration_request(&self) -> Option<Vec<u8>> {
        Nas5gsMessage::new_5gmm(self.request()?).encode().ok()
    }

    /// RES* for whatever is in RAND and AUTN: neither MAC nor SQN is looked at.
    pub fn authentication_response(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let Ok(Nas5gsMessage::Gmm(_, Nas5gmmMessage::AuthenticationRequest(request))) =
            Nas5gsMessage::decode(request)
        else {
            return None;
        };
        let rand = Rand::from_slice(&request.authentication_parameter_rand?.value).ok()?;
        let autn = Autn::from_slice(&request.authentication_parameter_autn?.value).ok()?;
        let vector = self.milenage.authentication_vector(
            &rand,
            &Sqn::try_from(0).ok()?,
            &Amf::new(&[0x80, 0]),
        );
        let k_ausf = derive_kausf(vector.ck(), vector.ik(), NETWORK, &autn).ok()?;
        let k_seaf = derive_kseaf(&k_ausf, NETWORK).ok()?;
        let supi = Supi::parse(&self.supi).ok()?;
        self.k_amf = Some(derive_kamf(&k_seaf, &supi, &[0, 0]).ok()?);
        let res = *vector.xres_star(NETWORK).ok()?.as_octets();
        let response = NasAuthenticationResponse::new().with_authentication_response_parameter(
            NasAuthenticationResponseParameter::from_res_star(res),
        );
        Nas5gsMessage::new_5gmm(response).encode().ok()
    }

    /// SECURITY MODE COMPLETE with NEA0 and NIA2. What the network sent is taken for SECURITY MODE
    /// COMMAND without a look at it.
    pub fn security_mode_complete(&mut self) -> Option<Vec<u8>> {
        let mut context = NasSecurityContext::from_fresh_kamf(
            self.k_amf.as_ref()?,
            IntegrityAlgorithm::NIA2,
            CipheringAlgorithm::NEA0,
        )
        .ok()?;
        let mut whole = self.request()?;
        whole.set_fgmm_capability(NasFGmmCapability::from_octets(vec![0x07]).ok()?);
        let container =
            NasMessageContainer::from_nas_message(&Nas5gsMessage::new_5gmm(whole)).ok()?;
        let complete = NasSecurityModeComplete::new()
            .with_imeisv(NasFGsMobileIdentity::from_imeisv(IMEISV).ok()?)
            .with_nas_message_container(container);
        let message = context
            .protect_for_access(
                &Nas5gsMessage::new_5gmm(complete),
                Nas5gsSecurityHeaderType::IntegrityProtectedAndCipheredWithNewFiveGNasSecurityContext,
                Direction::Uplink,
                NasConnection::Non3Gpp,
            )
            .ok()?;
        self.context = Some(context);
        Some(message)
    }

    /// K_N3IWF of uplink COUNT 0, that of SECURITY MODE COMPLETE.
    pub fn k_n3iwf(&self) -> Option<[u8; 32]> {
        let k_amf = self.k_amf.as_ref()?;
        Some(*derive_kn3iwf(k_amf, NasCount::ZERO).as_octets())
    }

    /// A downlink message over TCP. A wrong MAC is printed by the original and does not stop it;
    /// here nothing ever comes with one, so it is told as [`Downlink::Other`].
    pub fn downlink(&mut self, message: &[u8]) -> Downlink {
        let Some(context) = self.context.as_mut() else {
            return Downlink::Other;
        };
        let verified =
            context.unprotect_for_access(message, Direction::Downlink, NasConnection::Non3Gpp);
        match verified.map(|verified| verified.message) {
            Ok(Nas5gsMessage::Gmm(_, Nas5gmmMessage::RegistrationAccept(accept))) => {
                self.guti = accept
                    .fg_guti
                    .as_ref()
                    .and_then(NasFGsMobileIdentity::as_guti);
                Downlink::RegistrationAccept
            }
            Ok(Nas5gsMessage::Gmm(_, Nas5gmmMessage::DlNasTransport(_))) => Downlink::SessionAccept,
            _ => Downlink::Other,
        }
    }

    fn protect(&mut self, message: &Nas5gsMessage) -> Option<Vec<u8>> {
        self.context
            .as_mut()?
            .protect_for_access(
                message,
                Nas5gsSecurityHeaderType::IntegrityProtectedAndCiphered,
                Direction::Uplink,
                NasConnection::Non3Gpp,
            )
            .ok()
    }

    /// REGISTRATION COMPLETE.
    pub fn registration_complete(&mut self) -> Option<Vec<u8>> {
        self.protect(&Nas5gsMessage::new_5gmm(NasRegistrationComplete::new()))
    }

    /// PDU SESSION ESTABLISHMENT REQUEST: IPv4, SSC mode 1, DNN `internet`.
    pub fn session_request(&mut self, session: u8) -> Option<Vec<u8>> {
        let rate = NasIntegrityProtectionMaximumDataRate::new(0xffff);
        let request = NasPduSessionEstablishmentRequest::new(rate)
            .with_pdu_session_type(NasPduSessionType::from_session_type(
                PduSessionTypeValue::Ipv4,
            ))
            .with_ssc_mode(NasSscMode::from_mode(SscModeValue::Ssc1));
        let request = Nas5gsMessage::new_5gsm(request, session, 0);
        let (sst, sd) = self.slice;
        let transport = NasUlNasTransport::new(
            NasPayloadContainerType::from_kind(PayloadContainerKind::N1SmInformation),
            NasPayloadContainer::from_n1_sm_message(&request).ok()?,
        )
        .with_pdu_session_id(NasPduSessionIdentity2::from_pdu_session_id(session))
        .with_request_type(NasRequestType::from_request_type(
            RequestTypeValue::InitialRequest,
        ))
        .with_s_nssai(NasSNssai::from_sst_sd(sst, Some(sd)))
        .with_dnn(NasDnn::from_string("internet").ok()?);
        self.protect(&Nas5gsMessage::new_5gmm(transport))
    }

    /// DEREGISTRATION REQUEST, switched off, non-3GPP access.
    pub fn deregistration_request(&mut self) -> Option<Vec<u8>> {
        let identity = match self.guti {
            Some(guti) => NasFGsMobileIdentity::from_guti(guti),
            None => self.identity.clone(),
        };
        let ksi = NasKeySetIdentifier::from_key_set_identifier(KeySetIdentifier::NoKey).ok()?;
        let request = NasDeregistrationRequestUeOriginating::new(
            NasDeRegistrationType::new(0x0a),
            ksi,
            identity,
        );
        self.protect(&Nas5gsMessage::new_5gmm(request))
    }
}

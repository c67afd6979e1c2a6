//! Registration, authentication, security mode and deregistration.

use oxirush_nas::nas_5gs::{
    AccessTypeValue, MobileIdentityType, NasAuthenticationReject, NasConfigurationUpdateCommand,
    NasConfigurationUpdateIndication, NasDeRegistrationType, NasDeregistrationAcceptUeOriginating,
    NasDeregistrationRequestUeTerminated, NasFGmmCause, NasFGsIdentityType, NasGprsTimer2,
    NasIdentityRequest, NasRegistrationReject, RegistrationType,
};
use oxirush_security::milenage::Auts;

use super::*;

#[test]
fn the_request_in_clear_has_cleartext_ies_alone() {
    let mut nas_config = config();
    nas_config.requested_nssai = vec![SLICE];
    let mut ue = Nas::new(nas_config, usim());
    ue.register(NOW);
    let pdu = sent(&mut ue);
    assert_eq!(
        hex::encode(&pdu),
        // ngKSI 7, FOR, initial; SUCI of 13 octets; UE security capability NEA0/1/2, NIA1/2.
        "7e004179000d0102f839f0ff000000000000102e02e060"
    );
    let Nas5gmmMessage::RegistrationRequest(request) = clear(&pdu) else {
        panic!("REGISTRATION REQUEST")
    };
    assert_eq!(
        request.fgs_registration_type.registration_type(),
        Some(RegistrationType::InitialRegistration)
    );
    assert!(request.fgmm_capability.is_none() && request.requested_nssai.is_none());
}

#[test]
fn a_registration_from_suci_to_complete() {
    let (mut ue, mut network) = (ue(), Network::new());
    ue.register(NOW);
    let request = sent(&mut ue);

    ue.downlink(NOW, &network.challenge(0)).unwrap();
    // Nothing leaves before the sequence number is durable.
    let Some(Output::StoreSqn(state)) = ue.poll_output() else {
        panic!("the sequence number is stored first")
    };
    assert_eq!(state.highest(), 0x40);
    assert!(ue.poll_output().is_none() && ue.is_waiting_for_sqn());
    ue.sqn_stored(Ok(()));
    let Nas5gmmMessage::AuthenticationResponse(response) = clear(&sent(&mut ue)) else {
        panic!("AUTHENTICATION RESPONSE")
    };
    let res_star = response.authentication_response_parameter.unwrap();
    let vector = network.home.authentication_vector(
        &Rand::new(&[0x40; 16]),
        &Sqn::try_from(0x40).unwrap(),
        &Amf::new(&[0x80, 0]),
    );
    let expected = vector.xres_star(SN_NAME.as_bytes()).unwrap();
    assert_eq!(res_star.res_star(), Some(expected.as_octets()));

    let command = network.command(CipheringAlgorithm::NEA2, IntegrityAlgorithm::NIA2);
    assert!(ue.k_n3iwf().is_none());
    ue.downlink(NOW, &command).unwrap();
    let pdu = sent(&mut ue);
    // Header 7, message 3, IMEISV 12, container 3 + the request of 23 + 5GMM capability 3. With
    // EAP-5G around it this is one AES block row of the paper's Table II (182 octets).
    assert_eq!(pdu.len(), 7 + 3 + 12 + 3 + request.len() + 3);
    let Nas5gmmMessage::SecurityModeComplete(complete) = network.read(&pdu) else {
        panic!("SECURITY MODE COMPLETE")
    };
    let imeisv = complete.imeisv.unwrap().as_imeisv().unwrap();
    assert_eq!(imeisv.to_string(), "3569380356438091");
    let container = complete.nas_message_container.unwrap();
    let Ok(Nas5gsMessage::Gmm(_, Nas5gmmMessage::RegistrationRequest(inner))) =
        container.decode_as_nas_message()
    else {
        panic!("the container holds the complete REGISTRATION REQUEST")
    };
    assert!(inner.fgmm_capability.is_some());

    assert_eq!(ue.k_n3iwf().unwrap().expose(), network.k_n3iwf(0));
    ue.downlink(NOW, &network.gmm(accept())).unwrap();
    let complete = network.read(&sent(&mut ue));
    assert!(matches!(complete, Nas5gmmMessage::RegistrationComplete(_)));
    assert!(ue.is_registered());
    assert_eq!(ue.algorithms(), Some(("128-NEA2", "128-NIA2")));
    assert_eq!(ue.guti().unwrap().tmsi(), 0x1122_3344);
    assert_eq!(ue.poll_timeout(), None);
}

#[test]
fn every_offered_pair_of_algorithms_works() {
    for nea in [
        CipheringAlgorithm::NEA0,
        CipheringAlgorithm::NEA1,
        CipheringAlgorithm::NEA2,
    ] {
        for nia in [IntegrityAlgorithm::NIA1, IntegrityAlgorithm::NIA2] {
            let (mut ue, mut network) = (ue(), Network::new());
            ue.register(NOW);
            sent(&mut ue);
            authenticate(&mut ue, &mut network, 3);
            let replayed = NasUeSecurityCapability::from_capabilities(0xe0, 0x60);
            let command = network.command_with(nea, nia, 3, replayed);
            ue.downlink(NOW, &command).unwrap();
            network.read(&sent(&mut ue));
            ue.downlink(NOW, &network.gmm(accept())).unwrap();
            assert!(ue.is_registered(), "{nea:?} {nia:?}");
        }
    }
}

#[test]
fn a_sequence_number_that_cannot_be_stored_ends_the_registration() {
    let (mut ue, mut network) = (ue(), Network::new());
    ue.register(NOW);
    sent(&mut ue);
    ue.downlink(NOW, &network.challenge(0)).unwrap();
    ue.poll_output();
    ue.sqn_stored(Err("no space left".into()));
    assert_eq!(failure(&mut ue), Failure::SqnStore("no space left".into()));
}

#[test]
fn an_unauthentic_challenge_is_a_mac_failure_and_three_end_it() {
    let mut ue = ue();
    ue.register(NOW);
    sent(&mut ue);
    for round in 1..=3u8 {
        ue.downlink(NOW, &challenge(0, [round; 16], [0x80; 16]))
            .unwrap();
        if round < 3 {
            assert_eq!(cause(&sent(&mut ue)), Some(GmmCause::MacFailure));
        }
    }
    let failure = failure(&mut ue);
    assert_eq!(failure, Failure::NetworkNotAuthentic("MAC failure"));
    assert!(failure.is_permanent());
}

#[test]
fn a_stale_challenge_is_a_synch_failure_with_auts() {
    let (mut ue, mut network) = (ue(), Network::new());
    ue.register(NOW);
    sent(&mut ue);
    network.sqn = 0x1000;
    authenticate(&mut ue, &mut network, 0);
    network.sqn = 0x40;
    let stale = network.challenge(1);
    ue.downlink(NOW, &stale).unwrap();
    let Nas5gmmMessage::AuthenticationFailure(failure) = clear(&sent(&mut ue)) else {
        panic!("AUTHENTICATION FAILURE")
    };
    assert_eq!(failure.fgmm_cause.cause(), Some(GmmCause::SynchFailure));
    let auts = failure.authentication_failure_parameter.unwrap();
    let auts = Auts::from_slice(&auts.value).unwrap();
    let rand = Rand::new(&[0x60; 16]);
    let sqn_ms = network.home.verify_auts(&rand, &auts).unwrap();
    assert_eq!(sqn_ms.get(), 0x1020);
    // Resynchronised, the next challenge is taken.
    network.sqn = sqn_ms.get();
    authenticate(&mut ue, &mut network, 1);
}

#[test]
fn a_challenge_of_another_system_is_cause_26() {
    let (mut ue, network) = (ue(), Network::new());
    ue.register(NOW);
    sent(&mut ue);
    let rand = Rand::new(&[9; 16]);
    let vector = network.home.authentication_vector(
        &rand,
        &Sqn::try_from(0x40).unwrap(),
        &Amf::new(&[0, 0]),
    );
    ue.downlink(NOW, &challenge(0, [9; 16], *vector.autn().as_octets()))
        .unwrap();
    assert_eq!(
        cause(&sent(&mut ue)),
        Some(GmmCause::NonFiveGAuthenticationUnacceptable)
    );
}

#[test]
fn a_repeated_challenge_gets_the_same_answer() {
    let (mut ue, mut network) = (ue(), Network::new());
    ue.register(NOW);
    sent(&mut ue);
    let pdu = network.challenge(0);
    ue.downlink(NOW, &pdu).unwrap();
    ue.poll_output();
    ue.sqn_stored(Ok(()));
    let first = sent(&mut ue);
    ue.downlink(NOW, &pdu).unwrap();
    assert_eq!(sent(&mut ue), first);
}

#[test]
fn authentication_reject_is_final() {
    let mut ue = ue();
    ue.register(NOW);
    sent(&mut ue);
    let reject = Nas5gsMessage::new_5gmm(NasAuthenticationReject::new());
    ue.downlink(NOW, &reject.encode().unwrap()).unwrap();
    let failure = failure(&mut ue);
    assert_eq!(failure, Failure::AuthenticationRejected);
    assert!(failure.is_permanent());
}

#[test]
fn every_registration_reject_says_its_cause() {
    for (code, permanent) in [
        (3, true),
        (7, true),
        (9, false),
        (22, false),
        (62, true),
        (111, false),
    ] {
        let mut ue = ue();
        ue.register(NOW);
        sent(&mut ue);
        let timer = NasGprsTimer2::from_seconds(600).unwrap();
        let reject = NasRegistrationReject::new(NasFGmmCause::new(code)).with_t3346_value(timer);
        let pdu = Nas5gsMessage::new_5gmm(reject).encode().unwrap();
        ue.downlink(NOW, &pdu).unwrap();
        let failure = failure(&mut ue);
        assert_eq!(failure.is_permanent(), permanent, "cause {code}");
        assert_eq!(failure.retry_after(), Some(Duration::from_secs(600)));
        assert!(failure.to_string().contains(&format!("cause {code}")));
    }
}

#[test]
fn weakened_capabilities_are_refused() {
    let (mut ue, mut network) = (ue(), Network::new());
    ue.register(NOW);
    sent(&mut ue);
    authenticate(&mut ue, &mut network, 0);
    // Someone on the way made NEA1 and NEA2 vanish from the request.
    let replayed = NasUeSecurityCapability::from_capabilities(0x80, 0x60);
    let command = network.command_with(
        CipheringAlgorithm::NEA0,
        IntegrityAlgorithm::NIA2,
        0,
        replayed,
    );
    ue.downlink(NOW, &command).unwrap();
    let Some(Output::Send(pdu)) = ue.poll_output() else {
        panic!("SECURITY MODE REJECT")
    };
    assert_eq!(cause(&pdu), Some(GmmCause::UeSecurityCapabilitiesMismatch));
    assert!(matches!(failure(&mut ue), Failure::SecurityMode(_)));
}

#[test]
fn a_command_the_ue_cannot_accept_is_refused() {
    use {CipheringAlgorithm as Nea, IntegrityAlgorithm as Nia};
    let cases = [
        (
            Nea::NEA0,
            Nia::NIA0,
            0,
            false,
            GmmCause::UeSecurityCapabilitiesMismatch,
        ),
        (
            Nea::NEA3,
            Nia::NIA2,
            0,
            false,
            GmmCause::UeSecurityCapabilitiesMismatch,
        ),
        (
            Nea::NEA2,
            Nia::NIA2,
            5,
            false,
            GmmCause::SecurityModeRejectedUnspecified,
        ),
        (
            Nea::NEA2,
            Nia::NIA2,
            0,
            true,
            GmmCause::SecurityModeRejectedUnspecified,
        ),
    ];
    for (nea, nia, ngksi, forge, expected) in cases {
        let (mut ue, mut network) = (ue(), Network::new());
        ue.register(NOW);
        sent(&mut ue);
        authenticate(&mut ue, &mut network, 0);
        let replayed = NasUeSecurityCapability::from_capabilities(0xe0, 0x60);
        let mut command = network.command_with(nea, nia, ngksi, replayed);
        if forge {
            command[3] ^= 1;
        }
        ue.downlink(NOW, &command).unwrap();
        let Some(Output::Send(pdu)) = ue.poll_output() else {
            panic!("SECURITY MODE REJECT")
        };
        assert_eq!(
            cause(&pdu),
            Some(expected),
            "{nea:?} {nia:?} {ngksi} {forge}"
        );
        assert!(matches!(failure(&mut ue), Failure::SecurityMode(_)));
        assert!(ue.k_n3iwf().is_none());
    }
}

#[test]
fn identities_are_given_to_those_who_may_ask() {
    let (mut ue, mut network) = (ue(), Network::new());
    ue.register(NOW);
    sent(&mut ue);
    let ask = |kind| {
        Nas5gsMessage::new_5gmm(NasIdentityRequest::new(
            NasFGsIdentityType::from_identity_type(kind).unwrap(),
        ))
    };
    ue.downlink(NOW, &ask(MobileIdentityType::Suci).encode().unwrap())
        .unwrap();
    let Nas5gmmMessage::IdentityResponse(response) = clear(&sent(&mut ue)) else {
        panic!("IDENTITY RESPONSE")
    };
    assert!(response.mobile_identity.as_suci().is_some());
    // The equipment is nobody's business without integrity protection (TS 33.501, 5.2.5).
    let refused = ue.downlink(NOW, &ask(MobileIdentityType::Imeisv).encode().unwrap());
    assert!(matches!(refused, Err(Discard::Unprotected(_))));
    assert!(ue.poll_output().is_none());

    finish(&mut ue, &mut network);
    ue.downlink(NOW, &network.protect(&ask(MobileIdentityType::Imeisv)))
        .unwrap();
    let Nas5gmmMessage::IdentityResponse(response) = network.read(&sent(&mut ue)) else {
        panic!("IDENTITY RESPONSE")
    };
    assert!(response.mobile_identity.as_imeisv().is_some());
    ue.downlink(NOW, &network.protect(&ask(MobileIdentityType::Imei)))
        .unwrap();
    let Nas5gmmMessage::IdentityResponse(response) = network.read(&sent(&mut ue)) else {
        panic!("IDENTITY RESPONSE")
    };
    assert!(response.mobile_identity.as_imei().is_some());
}

#[test]
fn the_next_registration_uses_guti_and_context() {
    let (mut ue, mut network) = registered();
    ue.connection_lost();
    ue.register(NOW);
    let pdu = sent(&mut ue);
    let context = network.context.as_mut().unwrap();
    let verified = context
        .unprotect_for_access(&pdu, Direction::Uplink, NasConnection::Non3Gpp)
        .unwrap();
    let Nas5gsMessage::Gmm(_, Nas5gmmMessage::RegistrationRequest(request)) = verified.message
    else {
        panic!("REGISTRATION REQUEST")
    };
    assert_eq!(request.fgs_mobile_identity.tmsi(), Some(0x1122_3344));
    // SECURITY MODE COMPLETE and REGISTRATION COMPLETE had 0 and 1.
    assert_eq!(verified.count.get(), 2);
    assert_eq!(ue.k_n3iwf().unwrap().expose(), network.k_n3iwf(2));
    // The network may go straight to the accept.
    ue.downlink(NOW, &network.gmm(accept())).unwrap();
    assert!(ue.is_registered());
}

#[test]
fn a_network_that_forgot_the_context_starts_over() {
    let (mut ue, mut network) = registered();
    ue.connection_lost();
    ue.register(NOW);
    sent(&mut ue);
    finish(&mut ue, &mut network);
    // A new K_AMF, so the COUNT starts at 0 again.
    assert_eq!(ue.k_n3iwf().unwrap().expose(), network.k_n3iwf(0));
}

#[test]
fn an_unknown_guti_is_forgotten() {
    let (mut ue, _) = registered();
    ue.connection_lost();
    ue.register(NOW);
    sent(&mut ue);
    let cause = NasFGmmCause::from_cause(GmmCause::UeIdentityCannotBeDerivedByTheNetwork);
    let reject = Nas5gsMessage::new_5gmm(NasRegistrationReject::new(cause));
    ue.downlink(NOW, &reject.encode().unwrap()).unwrap();
    assert!(failure(&mut ue).is_unknown_identity());
    ue.register(NOW);
    let Nas5gmmMessage::RegistrationRequest(request) = clear(&sent(&mut ue)) else {
        panic!("REGISTRATION REQUEST")
    };
    assert!(request.fgs_mobile_identity.as_suci().is_some());
}

#[test]
fn configuration_update_is_acknowledged_when_asked() {
    let (mut ue, mut network) = registered();
    let guti = Guti::new(plmn(), 1, 2, 3, 0x5566_7788).unwrap();
    let command = NasConfigurationUpdateCommand::new()
        .with_configuration_update_indication(NasConfigurationUpdateIndication::from_flags(
            true, false,
        ))
        .with_fg_guti(NasFGsMobileIdentity::from_guti(guti));
    ue.downlink(NOW, &network.gmm(command)).unwrap();
    let complete = network.read(&sent(&mut ue));
    assert!(matches!(
        complete,
        Nas5gmmMessage::ConfigurationUpdateComplete(_)
    ));
    assert_eq!(ue.guti().unwrap().tmsi(), 0x5566_7788);
    let silent = NasConfigurationUpdateCommand::new();
    ue.downlink(NOW, &network.gmm(silent)).unwrap();
    assert_eq!(events(&mut ue).len(), 1);
}

#[test]
fn deregistration_waits_for_the_accept() {
    let (mut ue, mut network) = registered();
    ue.deregister(NOW, false);
    let Nas5gmmMessage::DeregistrationRequestUeOriginating(request) = network.read(&sent(&mut ue))
    else {
        panic!("DEREGISTRATION REQUEST")
    };
    assert!(!request.de_registration_type.switch_off());
    assert_eq!(
        request.de_registration_type.access_type(),
        Some(AccessTypeValue::Non3GppAccess)
    );
    // T3521: once more.
    let due = ue.poll_timeout().unwrap();
    assert_eq!(due, NOW + Duration::from_secs(15));
    ue.handle_timeout(due);
    network.read(&sent(&mut ue));
    let accept = NasDeregistrationAcceptUeOriginating::new();
    ue.downlink(NOW, &network.gmm(accept)).unwrap();
    assert_eq!(events(&mut ue), [Event::Deregistered]);
}

#[test]
fn switch_off_does_not_wait() {
    let (mut ue, mut network) = registered();
    ue.deregister(NOW, true);
    let Some(Output::Send(pdu)) = ue.poll_output() else {
        panic!("DEREGISTRATION REQUEST")
    };
    let Nas5gmmMessage::DeregistrationRequestUeOriginating(request) = network.read(&pdu) else {
        panic!("DEREGISTRATION REQUEST")
    };
    assert!(request.de_registration_type.switch_off());
    assert_eq!(events(&mut ue), [Event::Deregistered]);
    assert_eq!(ue.poll_timeout(), None);
}

#[test]
fn a_silent_network_is_left_after_five_deregistration_requests() {
    let (mut ue, mut network) = registered();
    ue.deregister(NOW, false);
    network.read(&sent(&mut ue));
    for _ in 0..4 {
        let due = ue.poll_timeout().unwrap();
        ue.handle_timeout(due);
        network.read(&sent(&mut ue));
    }
    let due = ue.poll_timeout().unwrap();
    ue.handle_timeout(due);
    assert_eq!(events(&mut ue), [Event::Deregistered]);
}

#[test]
fn the_network_deregisters() {
    for again in [false, true] {
        let (mut ue, mut network) = registered();
        let kind = NasDeRegistrationType::default()
            .with_access_type(AccessTypeValue::Non3GppAccess)
            .with_re_registration_required(again);
        let request = NasDeregistrationRequestUeTerminated::new(kind)
            .with_fgmm_cause(NasFGmmCause::from_cause(GmmCause::IllegalUe));
        ue.downlink(NOW, &network.gmm(request)).unwrap();
        let Some(Output::Send(pdu)) = ue.poll_output() else {
            panic!("DEREGISTRATION ACCEPT")
        };
        assert!(matches!(
            network.read(&pdu),
            Nas5gmmMessage::DeregistrationAcceptUeTerminated(_)
        ));
        let failure = failure(&mut ue);
        assert_eq!(failure.is_permanent(), !again);
        assert!(failure.to_string().contains("5GMM cause 3"));
    }
}

#[test]
fn a_network_that_never_answers_is_t3510() {
    let mut ue = ue();
    ue.register(NOW);
    sent(&mut ue);
    assert_eq!(ue.poll_timeout(), Some(NOW + Duration::from_secs(15)));
    ue.handle_timeout(NOW + Duration::from_secs(14));
    assert!(ue.poll_output().is_none());
    ue.handle_timeout(NOW + Duration::from_secs(15));
    assert_eq!(failure(&mut ue), Failure::NoAnswer("T3510"));
}

//! Registration and deregistration, seen from a scripted N3IWF and UE.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic
)]

mod support;

use std::time::Duration;

use core5g::amf::AssociationId;
use core5g::ngap::name;
use oxirush_nas::nas_5gs::*;
use oxirush_ngap::ngap::{Cause, CauseMisc, CauseNas, CauseRadioNetwork, NGAP_PDU};
use oxirush_ngap::{NgapPduKind, ie};
use oxirush_security::Plmn;
use oxirush_security::nas_5gs::{HomeNetworkPrivateKey, Protection};

use support::core::{CONFIG, Core, LINK};
use support::n3iwf::{self, Announce};
use support::ue::{IMEISV, Identity, Ue};

fn slice(sst: u8, sd: Option<[u8; 3]>) -> NasSNssai {
    NasSNssai::from_sst_sd(sst, sd)
}

/// A downlink message that comes without security.
fn plain(answer: &[u8]) -> Nas5gmmMessage {
    let (_, nas) = n3iwf::downlink(answer);
    match Nas5gsMessage::decode(&nas).unwrap() {
        Nas5gsMessage::Gmm(_, message) => message,
        other => panic!("plain NAS expected: {other}"),
    }
}

#[test]
fn ng_setup_answers_with_the_network() {
    let mut core = Core::new();
    let answer = core.ask(&n3iwf::ng_setup(&Announce::default()));
    let pdu = n3iwf::checked(&answer);
    assert_eq!(pdu.kind(), NgapPduKind::Successful_NGSetup);
    let served = pdu.ie::<ie::ServedGUAMIList>().unwrap().unwrap();
    assert_eq!(served.0[0].guami.plmn_identity.0, [0x02, 0xf8, 0x39]);
    let support = pdu.ie::<ie::PLMNSupportList>().unwrap().unwrap();
    assert_eq!(support.0[0].slice_support_list.0.len(), 2);
    let associations = core.amf.associations();
    assert_eq!(associations[0].1, Some(135));
    assert_eq!(associations[0].2.as_deref(), Some("n3iwf.example.net"));
}

#[test]
fn ng_setup_is_refused_for_what_is_not_served() {
    let foreign = |change: fn(&mut Announce)| {
        let mut announce = Announce::default();
        change(&mut announce);
        announce
    };
    let unknown_plmn = Cause::misc(CauseMisc::unknown_PLMN_or_SNPN);
    for (announce, cause) in [
        (foreign(|a| a.plmn = [0x00, 0xf1, 0x10]), unknown_plmn),
        (
            foreign(|a| a.tac = [0, 0, 2]),
            Cause::misc(CauseMisc::unspecified),
        ),
        (
            foreign(|a| a.slice = (3, None)),
            Cause::radioNetwork(CauseRadioNetwork::slice_not_supported),
        ),
        (
            foreign(|a| a.n3iwf = false),
            Cause::misc(CauseMisc::unspecified),
        ),
    ] {
        let mut core = Core::new();
        let answer = core.ask(&n3iwf::ng_setup(&announce));
        let pdu = n3iwf::checked(&answer);
        assert_eq!(pdu.kind(), NgapPduKind::Unsuccessful_NGSetup);
        assert_eq!(pdu.ie::<ie::Cause>().unwrap().unwrap(), cause);
        // A UE's message on an interface that is not set up is refused too.
        let request = Ue::first(1).registration_request();
        let answer = core.ask(&n3iwf::initial_ue(1, request));
        assert_eq!(name(&answer), "ErrorIndication");
        assert!(core.amf.ue_status().is_empty());
    }
}

#[test]
fn a_registration_with_every_check() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(7);
    ue.requested = vec![slice(1, Some([1, 2, 3])), slice(9, None)];
    let accept = ue.attach(&mut core);
    let result = accept.fgs_registration_result.result_value();
    assert_eq!(result, Some(RegistrationResult::Non3GppAccess));
    let allowed = accept.allowed_nssai.unwrap().parse_all();
    assert_eq!(allowed.len(), 1);
    assert_eq!((allowed[0].sst, allowed[0].sd), (1, Some([1, 2, 3])));
    let rejected = accept.rejected_nssai.unwrap().entries();
    assert_eq!(rejected[0].0, RejectedNssaiCause::NotAvailableInPlmnOrSnpn);
    assert_eq!(rejected[0].1.sst, 9);
    let timer = accept.non_3gpp_de_registration_timer_value.unwrap();
    assert_eq!(timer.to_seconds(), Some(3240));

    let status = &core.amf.ue_status()[0];
    assert_eq!(status.state, "registered");
    assert_eq!(status.supi.as_deref(), Some("imsi-208930000000001"));
    assert_eq!(status.imeisv.as_deref(), Some(IMEISV));
    assert_eq!(status.integrity.as_deref(), Some("NIA2"));
    assert_eq!(status.ciphering.as_deref(), Some("NEA2"));
    assert_eq!(status.location.unwrap().to_string(), "192.0.2.10:4500");
    assert!(status.configured);
    assert!(core.amf.poll_timeout().is_none(), "no timer runs");
    assert_eq!(core.amf.counters, core5g::amf::Counters::default());
}

#[test]
fn the_configured_preference_chooses_the_algorithms() {
    for (integrity, ciphering, ea, expected) in [
        ("NIA1", "NEA1, NEA2", 0xe0, ("NIA1", "NEA1")),
        ("NIA2", "NEA0", 0xe0, ("NIA2", "NEA0")),
        // A UE without NEA2 gets the next one.
        ("NIA2", "NEA2, NEA1", 0xc0, ("NIA2", "NEA1")),
    ] {
        let text = CONFIG.replace(
            "amf:\n",
            &format!("amf:\n  integrity: [{integrity}]\n  ciphering: [{ciphering}]\n"),
        );
        let mut core = Core::set_up_with(&text);
        let mut ue = Ue::first(1);
        ue.ea = ea;
        ue.attach(&mut core);
        let context = ue.context.as_ref().unwrap();
        let chosen = (
            format!("{:?}", context.integrity_algorithm()),
            format!("{:?}", context.ciphering_algorithm()),
        );
        assert_eq!((chosen.0.as_str(), chosen.1.as_str()), expected);
    }
}

#[test]
fn a_ue_without_a_common_algorithm_is_rejected() {
    let text = CONFIG.replace("amf:\n", "amf:\n  ciphering: [NEA2]\n");
    let mut core = Core::set_up_with(&text);
    let mut ue = Ue::first(1);
    ue.ea = 0x80;
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(1, request)));
    let response = ue.authenticate(&nas);
    let answers = core.send(&n3iwf::uplink(ids, response));
    let Nas5gmmMessage::RegistrationReject(reject) = plain(&answers[0]) else {
        panic!("REGISTRATION REJECT expected");
    };
    let cause = reject.fgmm_cause.cause();
    assert_eq!(cause, Some(GmmCause::UeSecurityCapabilitiesMismatch));
    assert_eq!(name(&answers[1]), "UEContextRelease");
}

#[test]
fn concealed_identities_of_both_profiles() {
    let private = |text: &str| -> [u8; 32] { hex::decode(text).unwrap().try_into().unwrap() };
    let a = private("c53c22208b61860b06c62e5406a7b330c2b577aa5558981510d128247d38bd1d");
    let b = private("f1ab1074477ebcc7f554ea1c5fc368b1616730155e0041ac447d6301975fecda");
    let a = HomeNetworkPrivateKey::profile_a(&a).public_key();
    let b = HomeNetworkPrivateKey::profile_b(&b).unwrap().public_key();
    let conceal = |key_id, key| {
        let plmn = Plmn::new("208", "93").unwrap();
        let protection = Protection::Ecies { key_id, key };
        let routing = RoutingIndicator::default();
        oxirush_security::nas_5gs::Suci::conceal_imsi(plmn, "0000000001", routing, protection)
            .unwrap()
            .to_nas_octets()
            .unwrap()
    };
    for (key_id, key) in [(27, &a), (28, &b)] {
        let mut core = Core::set_up();
        let mut ue = Ue::first(1);
        ue.identity = Identity::Suci(conceal(key_id, key));
        ue.attach(&mut core);
    }
    // A key that the network does not have, and a changed tag.
    let mut spoiled = conceal(27, &a);
    *spoiled.last_mut().unwrap() ^= 1;
    for octets in [conceal(99, &a), spoiled] {
        let mut core = Core::set_up();
        let mut ue = Ue::first(1);
        ue.identity = Identity::Suci(octets);
        let request = ue.registration_request();
        let answers = core.send(&n3iwf::initial_ue(1, request));
        let message = plain(&answers[0]);
        assert!(
            matches!(message, Nas5gmmMessage::RegistrationReject(_)),
            "{message:?}"
        );
    }
}

#[test]
fn an_old_sqn_is_resynchronised_once() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.sqn = 0x0000_1234_5660;
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(1, request)));
    ue.ids = Some(ids);
    let failure = ue.authenticate(&nas);
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, failure)));
    let response = ue.authenticate(&nas);
    assert_eq!(ue.sqn, 0x0000_1234_5680);
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, response)));
    ue.secure(&nas);
    assert_eq!(core.amf.counters.resynchronisations, 1);
    let subscriber = &core.amf.subscriber_status()[0];
    assert_eq!(subscriber.resynchronisations, 1);
    assert_eq!(subscriber.sqn, "000012345680");

    // A USIM that is never content is rejected.
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.sqn = 0x1000;
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(1, request)));
    let failure = ue.authenticate(&nas);
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, failure)));
    ue.sqn = 0x2000;
    let failure = ue.authenticate(&nas);
    let answers = core.send(&n3iwf::uplink(ids, failure));
    assert!(matches!(
        plain(&answers[0]),
        Nas5gmmMessage::AuthenticationReject(_)
    ));
}

#[test]
fn a_wrong_key_ends_in_authentication_reject() {
    // The USIM has another K: it refuses the AUTN.
    let mut core = Core::set_up();
    let opc = "cd63cb71954a9f4e48a5994e37a02baf";
    let mut ue = Ue::new("imsi-208930000000001", &"00".repeat(16), opc, 1);
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(1, request)));
    ue.ids = Some(ids);
    let failure = ue.authenticate(&nas);
    let answers = core.send(&n3iwf::uplink(ids, failure));
    assert!(matches!(
        plain(&answers[0]),
        Nas5gmmMessage::AuthenticationReject(_)
    ));
    let cause = ue.expect_release(&mut core, &answers[1]);
    assert_eq!(cause, Cause::nas(CauseNas::authentication_failure));
    assert!(core.amf.ue_status().is_empty());
    assert_eq!(core.amf.counters.authentication_rejects, 1);

    // A wrong RES*.
    let mut core = Core::set_up();
    let mut ue = Ue::first(2);
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(2, request)));
    let mut response = ue.authenticate(&nas);
    *response.last_mut().unwrap() ^= 1;
    let answers = core.send(&n3iwf::uplink(ids, response));
    assert!(matches!(
        plain(&answers[0]),
        Nas5gmmMessage::AuthenticationReject(_)
    ));
}

#[test]
fn a_network_that_is_not_the_home_one_is_refused_by_the_ue() {
    let text = CONFIG.replace("smf:\n", "policy: {corrupt_autn: true}\nsmf:\n");
    let mut core = Core::set_up_with(&text);
    let mut ue = Ue::first(1);
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(1, request)));
    let failure = ue.authenticate(&nas);
    assert_eq!(failure[2], 0x59, "AUTHENTICATION FAILURE");
    let answers = core.send(&n3iwf::uplink(ids, failure));
    assert!(matches!(
        plain(&answers[0]),
        Nas5gmmMessage::AuthenticationReject(_)
    ));
}

#[test]
fn unknown_subscribers_and_policy_are_registration_rejects() {
    let reject = |core: &mut Core, ue: &mut Ue| {
        let request = ue.registration_request();
        let answers = core.send(&n3iwf::initial_ue(ue.ran_id, request));
        let Nas5gmmMessage::RegistrationReject(reject) = plain(&answers[0]) else {
            panic!("REGISTRATION REJECT expected");
        };
        let (ids, _) = n3iwf::context_release(&answers[1]);
        ue.ids = Some(ids);
        ue.expect_release(core, &answers[1]);
        reject.fgmm_cause.cause().unwrap()
    };
    let mut core = Core::set_up();
    let zeros = "00".repeat(16);
    let mut stranger = Ue::new("imsi-208930000000099", &zeros, &zeros, 1);
    assert_eq!(reject(&mut core, &mut stranger), GmmCause::IllegalUe);
    core.amf.policy.registration_reject = Some(22);
    assert_eq!(reject(&mut core, &mut Ue::first(2)), GmmCause::Congestion);
    assert!(core.amf.ue_status().is_empty());
}

#[test]
fn a_ue_without_an_allowed_slice_is_rejected_under_security() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.requested = vec![slice(7, None)];
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(1, request)));
    ue.ids = Some(ids);
    let response = ue.authenticate(&nas);
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, response)));
    let complete = ue.secure(&nas);
    let answers = core.send(&n3iwf::uplink(ids, complete));
    let (_, nas) = n3iwf::downlink(&answers[0]);
    let Nas5gmmMessage::RegistrationReject(reject) = ue.decipher(&nas) else {
        panic!("REGISTRATION REJECT expected");
    };
    let cause = reject.fgmm_cause.cause();
    assert_eq!(cause, Some(GmmCause::NoNetworkSlicesAvailable));
    assert_eq!(reject.rejected_nssai.unwrap().entries()[0].1.sst, 7);
    ue.expect_release(&mut core, &answers[1]);
}

#[test]
fn the_second_subscriber_gets_its_own_slice_only() {
    let mut core = Core::set_up();
    let mut first = Ue::first(1);
    let mut second = Ue::second(2);
    // Interleaved: two UEs at a time.
    first.attach_until_context(&mut core);
    let accept = second.attach(&mut core);
    let allowed = accept.allowed_nssai.unwrap().parse_all();
    assert_eq!(allowed.iter().map(|s| s.sst).collect::<Vec<_>>(), [2]);
    let answer = core.ask(&n3iwf::context_ready(first.ids.unwrap()));
    let (_, nas) = n3iwf::downlink(&answer);
    let message = first.decipher(&nas);
    assert!(matches!(message, Nas5gmmMessage::RegistrationAccept(_)));
}

#[test]
fn a_guti_is_known_or_asked_about() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.attach(&mut core);
    let guti = ue.guti.unwrap();

    // Again with the GUTI: no question. The older context is released.
    let mut again = Ue::first(2);
    again.sqn = ue.sqn;
    again.identity = Identity::Guti(guti);
    let request = again.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(2, request)));
    again.ids = Some(ids);
    let response = again.authenticate(&nas);
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, response)));
    let complete = again.secure(&nas);
    let answers = core.send(&n3iwf::uplink(ids, complete));
    ue.expect_release(&mut core, &answers[0]);
    assert_eq!(n3iwf::context_setup(&answers[1]).0, ids);

    // A GUTI of nobody: IDENTITY REQUEST, and the SUCI goes on.
    let mut stranger = Ue::first(3);
    stranger.sqn = again.sqn;
    let suci = std::mem::replace(
        &mut stranger.identity,
        Identity::Guti(Guti::new(Plmn::new("208", "93").unwrap(), 0xca, 1, 0, 1).unwrap()),
    );
    let Identity::Suci(suci) = suci else {
        panic!("a SUCI")
    };
    let request = stranger.registration_request();
    let answer = core.ask(&n3iwf::initial_ue(3, request));
    let Nas5gmmMessage::IdentityRequest(request) = plain(&answer) else {
        panic!("IDENTITY REQUEST expected");
    };
    let kind = request.identity_type.identity_type();
    assert_eq!(kind, Some(MobileIdentityType::Suci));
    let (ids, _) = n3iwf::downlink(&answer);
    let response = NasIdentityResponse::new(NasFGsMobileIdentity::new(suci));
    let response = Nas5gsMessage::new_5gmm(response).encode().unwrap();
    let (_, nas) = n3iwf::downlink(&core.ask(&n3iwf::uplink(ids, response)));
    assert_eq!(
        stranger.authenticate(&nas)[2],
        0x57,
        "AUTHENTICATION RESPONSE"
    );
}

#[test]
fn deregistration_by_the_ue() {
    for switch_off in [false, true] {
        let mut core = Core::set_up();
        let mut ue = Ue::first(1);
        ue.attach(&mut core);
        ue.establish(&mut core, 1);
        let kind = NasDeRegistrationType::default()
            .with_access_type(AccessTypeValue::Non3GppAccess)
            .with_switch_off(switch_off);
        let ksi = NasKeySetIdentifier::from_key_set_identifier(KeySetIdentifier::Native(0));
        let identity = NasFGsMobileIdentity::from_guti(ue.guti.unwrap());
        let request = NasDeregistrationRequestUeOriginating::new(kind, ksi.unwrap(), identity);
        let request = ue.cipher(request);
        let ids = ue.ids.unwrap();
        let mut answers = core.send(&n3iwf::uplink(ids, request));
        if !switch_off {
            let (_, nas) = n3iwf::downlink(&answers.remove(0));
            let message = ue.decipher(&nas);
            assert!(matches!(
                message,
                Nas5gmmMessage::DeregistrationAcceptUeOriginating(_)
            ));
        }
        assert_eq!(answers.len(), 1);
        let cause = ue.expect_release(&mut core, &answers[0]);
        assert_eq!(cause, Cause::nas(CauseNas::deregister));
        assert!(core.amf.ue_status().is_empty());
        let last = core.user_plane.last().unwrap();
        assert!(
            matches!(last, core5g::amf::Action::Remove { .. }),
            "{last:?}"
        );
    }
}

#[test]
fn deregistration_by_the_network() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.attach(&mut core);
    let unknown = core
        .amf
        .deregister(core.now, "imsi-208930000000002", false, None);
    assert!(unknown.is_err());
    let actions = core
        .amf
        .deregister(core.now, "imsi-208930000000001", true, Some(22))
        .unwrap();
    let sent = core.take(actions);
    let (ids, nas) = n3iwf::downlink(&sent[0]);
    let Nas5gmmMessage::DeregistrationRequestUeTerminated(request) = ue.decipher(&nas) else {
        panic!("DEREGISTRATION REQUEST expected");
    };
    assert!(request.de_registration_type.re_registration_required());
    assert_eq!(
        request.fgmm_cause.unwrap().cause(),
        Some(GmmCause::Congestion)
    );
    let accept = ue.cipher(NasDeregistrationAcceptUeTerminated::new());
    let answer = core.ask(&n3iwf::uplink(ids, accept));
    let cause = ue.expect_release(&mut core, &answer);
    assert_eq!(cause, Cause::nas(CauseNas::deregister));
}

#[test]
fn a_lost_ue_is_released_on_request() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.attach(&mut core);
    ue.establish(&mut core, 1);
    let command = core.ask(&n3iwf::release_request(ue.ids.unwrap()));
    let cause = ue.expect_release(&mut core, &command);
    let lost = Cause::radioNetwork(CauseRadioNetwork::radio_connection_with_ue_lost);
    assert_eq!(cause, lost);
    assert!(core.amf.ue_status().is_empty());
}

#[test]
fn a_failed_context_setup_releases_the_ue() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.attach_until_context(&mut core);
    let command = core.ask(&n3iwf::context_failed(ue.ids.unwrap()));
    ue.expect_release(&mut core, &command);
}

#[test]
fn the_accept_may_ride_in_the_context_setup() {
    let text = CONFIG.replace("amf:\n", "amf:\n  accept_in_context_setup: true\n");
    let mut core = Core::set_up_with(&text);
    let mut ue = Ue::first(1);
    let setup = ue.attach_until_context(&mut core);
    let (ids, _, nas) = n3iwf::context_setup(&setup);
    let message = ue.decipher(&nas.unwrap());
    assert!(matches!(message, Nas5gmmMessage::RegistrationAccept(_)));
    assert!(core.send(&n3iwf::context_ready(ids)).is_empty());
    let complete = ue.cipher(NasRegistrationComplete::new());
    assert_eq!(core.send(&n3iwf::uplink(ids, complete)).len(), 1);
    assert_eq!(core.amf.ue_status()[0].state, "registered");
}

#[test]
fn forged_and_replayed_messages_change_nothing() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.attach(&mut core);
    let ids = ue.ids.unwrap();
    let request = ue.session_request(1, None);
    let mut forged = request.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(core.send(&n3iwf::uplink(ids, forged)).is_empty());
    assert_eq!(core.amf.counters.nas_integrity_failures, 1);
    assert_eq!(core.send(&n3iwf::uplink(ids, request.clone())).len(), 1);
    // The same octets again: the COUNT is used.
    assert!(core.send(&n3iwf::uplink(ids, request)).is_empty());
    assert_eq!(core.amf.counters.nas_integrity_failures, 2);
    // A plain deregistration is not a deregistration.
    let ksi = NasKeySetIdentifier::from_key_set_identifier(KeySetIdentifier::Native(0));
    let plain = Nas5gsMessage::new_5gmm(NasDeregistrationRequestUeOriginating::new(
        NasDeRegistrationType::default().with_switch_off(true),
        ksi.unwrap(),
        NasFGsMobileIdentity::from_guti(ue.guti.unwrap()),
    ));
    let plain = plain.encode().unwrap();
    assert!(core.send(&n3iwf::uplink(ids, plain)).is_empty());
    assert_eq!(core.amf.ue_status()[0].state, "registered");
}

#[test]
fn resets_forget_what_they_name() {
    let mut core = Core::set_up();
    let (mut first, mut second) = (Ue::first(1), Ue::second(2));
    first.attach(&mut core);
    second.attach(&mut core);
    let answer = core.ask(&n3iwf::ng_reset(first.ids));
    let pdu = n3iwf::checked(&answer);
    assert_eq!(pdu.kind(), NgapPduKind::Successful_NGReset);
    let list = pdu.ie::<ie::UE_associatedLogicalNG_connectionList>();
    assert_eq!(list.unwrap().unwrap().0.len(), 1);
    let left = core.amf.ue_status();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].supi.as_deref(), Some("imsi-208930000000002"));
    core.ask(&n3iwf::ng_reset(None));
    assert!(core.amf.ue_status().is_empty());
    // What the core does not know any more, it says so.
    let late = second.cipher(NasConfigurationUpdateComplete::new());
    let answer = core.ask(&n3iwf::uplink(second.ids.unwrap(), late));
    let pdu = NGAP_PDU::decode(&answer).unwrap();
    assert_eq!(pdu.kind(), NgapPduKind::Initiating_ErrorIndication);
    let cause = Cause::radioNetwork(CauseRadioNetwork::unknown_local_UE_NGAP_ID);
    assert_eq!(pdu.ie::<ie::Cause>().unwrap().unwrap(), cause);
}

#[test]
fn silence_is_ended_by_the_guard_timer() {
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    let request = ue.registration_request();
    let answer = core.ask(&n3iwf::initial_ue(1, request));
    ue.ids = Some(n3iwf::downlink(&answer).0);
    assert!(core.wait(Duration::from_secs(29)).is_empty());
    let command = core.wait(Duration::from_secs(2));
    assert_eq!(name(&command[0]), "UEContextRelease");
    assert_eq!(core.amf.counters.timeouts, 1);
    // Nor does the N3IWF answer: forgotten in the end.
    assert!(core.wait(Duration::from_secs(31)).is_empty());
    assert!(core.amf.ue_status().is_empty());
    assert!(core.amf.poll_timeout().is_none());
}

/// A UE that has begun.
fn begun(core: &mut Core) {
    let mut ue = Ue::first(1);
    let request = ue.registration_request();
    core.ask(&n3iwf::initial_ue(1, request));
    assert_eq!(core.amf.ue_status().len(), 1);
}

#[test]
fn ues_of_a_lost_association_go_at_once_unless_they_are_kept() {
    let mut core = Core::set_up();
    begun(&mut core);
    core.amf.disconnected(core.now, LINK);
    assert!(core.amf.ue_status().is_empty());
    let text = CONFIG.replace("amf:\n", "amf:\n  keep_lost_ms: 10000\n  guard_ms: 60000\n");
    let mut core = Core::set_up_with(&text);
    begun(&mut core);
    core.amf.disconnected(core.now, LINK);
    core.wait(Duration::from_secs(9));
    assert_eq!(core.amf.ue_status().len(), 1);
    core.wait(Duration::from_secs(2));
    assert!(core.amf.ue_status().is_empty());
    assert_eq!(core.amf.poll_timeout(), None);
}

#[test]
fn an_n3iwf_that_is_back_has_nothing_of_before() {
    let text = CONFIG.replace("amf:\n", "amf:\n  keep_lost_ms: 10000\n");
    // Known to be lost, and not known yet.
    for known in [true, false] {
        let mut core = Core::set_up_with(&text);
        begun(&mut core);
        if known {
            core.amf.disconnected(core.now, LINK);
        }
        let again = AssociationId(2);
        core.amf.connected(core.now, again, "again");
        let setup = n3iwf::ng_setup(&Announce::default());
        core.amf.handle(core.now, again, &setup);
        assert!(core.amf.ue_status().is_empty(), "{known}");
    }
}

//! What someone on the way, or a network that errs, may send.

use oxirush_nas::nas_5gs::{NasFGmmCause, NasFGmmStatus, NasRegistrationReject};
use proptest::prelude::*;

use super::*;

#[test]
fn a_replayed_message_is_discarded() {
    let (mut ue, mut network) = registered();
    let pdu = network.gmm(NasFGmmStatus::new(NasFGmmCause::from_cause(
        GmmCause::Congestion,
    )));
    ue.downlink(NOW, &pdu).unwrap();
    assert_eq!(events(&mut ue).len(), 1);
    assert_eq!(ue.downlink(NOW, &pdu), Err(Discard::Integrity));
    assert!(events(&mut ue).is_empty());
}

#[test]
fn a_changed_message_is_discarded() {
    let (mut ue, mut network) = registered();
    let pdu = network.gmm(NasFGmmStatus::new(NasFGmmCause::from_cause(
        GmmCause::Congestion,
    )));
    for at in 1..pdu.len() {
        let mut forged = pdu.clone();
        forged[at] ^= 0x04;
        assert!(ue.downlink(NOW, &forged).is_err(), "octet {at}");
        assert!(ue.poll_output().is_none() && ue.is_registered());
    }
    ue.downlink(NOW, &pdu).unwrap();
}

#[test]
fn nothing_in_clear_counts_once_security_is_up() {
    let (mut ue, mut network) = registered();
    let reject = NasRegistrationReject::new(NasFGmmCause::from_cause(GmmCause::IllegalUe));
    for pdu in [
        Nas5gsMessage::new_5gmm(reject).encode().unwrap(),
        network.challenge(1),
        Nas5gsMessage::new_5gmm(accept()).encode().unwrap(),
    ] {
        assert!(matches!(
            ue.downlink(NOW, &pdu),
            Err(Discard::Unprotected(_))
        ));
        assert!(ue.poll_output().is_none() && ue.is_registered());
    }
}

#[test]
fn a_security_mode_command_of_anyone_does_not_end_a_registration() {
    let (mut ue, mut network) = registered();
    let mut other = Network::new();
    other.challenge(0);
    let forged = other.command(CipheringAlgorithm::NEA2, IntegrityAlgorithm::NIA2);
    let mut changed = forged.clone();
    changed[3] ^= 1;
    for pdu in [forged, changed] {
        ue.downlink(NOW, &pdu).unwrap();
        let reject = network.read(&sent(&mut ue));
        assert!(matches!(reject, Nas5gmmMessage::SecurityModeReject(_)));
        assert!(ue.is_registered());
    }
    let status = NasFGmmStatus::new(NasFGmmCause::from_cause(GmmCause::Congestion));
    ue.downlink(NOW, &network.gmm(status)).unwrap();
    assert_eq!(events(&mut ue).len(), 1, "the keys in use are the same");
}

#[test]
fn nothing_leaves_in_clear_when_the_keys_are_gone() {
    let (mut ue, _) = registered();
    ue.forget_identity();
    let id = 1;
    let request = SessionRequest {
        id,
        dnn: None,
        s_nssai: None,
        kind: Default::default(),
    };
    ue.establish(NOW, &request);
    let outputs: Vec<Output> = std::iter::from_fn(|| ue.poll_output()).collect();
    assert!(
        matches!(
            outputs[..],
            [Output::Event(Event::Failed(Failure::Protocol(_)))]
        ),
        "{outputs:?}"
    );
}

#[test]
fn an_accept_in_clear_registers_nobody() {
    let mut ue = ue();
    ue.register(NOW);
    sent(&mut ue);
    let pdu = Nas5gsMessage::new_5gmm(accept()).encode().unwrap();
    assert!(matches!(
        ue.downlink(NOW, &pdu),
        Err(Discard::Unprotected(_))
    ));
    assert!(!ue.is_registered());
}

#[test]
fn an_authentic_message_of_an_unknown_type_is_answered_with_status() {
    let (mut ue, mut network) = registered();
    let context = network.context.as_mut().unwrap();
    let pdu = context
        .protect_opaque_payload_for_access(
            vec![0x7e, 0x00, 0x01],
            Sht::IntegrityProtectedAndCiphered,
            Direction::Downlink,
            NasConnection::Non3Gpp,
        )
        .unwrap();
    assert!(matches!(
        ue.downlink(NOW, &pdu),
        Err(Discard::Unreadable(_))
    ));
    let Nas5gmmMessage::FiveGmmStatus(status) = network.read(&sent(&mut ue)) else {
        panic!("5GMM STATUS")
    };
    assert_eq!(status.fgmm_cause.cause_raw(), 97);
    assert!(ue.is_registered());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_octets_in_clear_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut ue = ue();
        ue.register(NOW);
        let _ = ue.downlink(NOW, &octets);
        let _ = ue.downlink(NOW, &[&[0x7e, 0x00], &octets[..]].concat());
        prop_assert!(!ue.is_registered());
    }

    #[test]
    fn any_octets_under_protection_are_survived(octets in proptest::collection::vec(any::<u8>(), 1..200), kind in 0usize..4) {
        let (mut ue, mut network) = registered();
        let prefix: &[u8] = [&[][..], &[0x7e, 0x00], &[0x7e, 0x00, 0x68, 0x01], &[0x2e, 0x01]][kind];
        let payload = [prefix, &octets].concat();
        let context = network.context.as_mut().unwrap();
        let pdu = context.protect_opaque_payload_for_access(
            payload,
            Sht::IntegrityProtectedAndCiphered,
            Direction::Downlink,
            NasConnection::Non3Gpp,
        );
        if let Ok(pdu) = pdu {
            let _ = ue.downlink(NOW, &pdu);
            while ue.poll_output().is_some() {}
        }
    }

    #[test]
    fn any_change_of_a_challenge_is_survived(at in 0usize..42, to in any::<u8>()) {
        let (mut ue, mut network) = (ue(), Network::new());
        ue.register(NOW);
        sent(&mut ue);
        let mut pdu = network.challenge(0);
        let at = at % pdu.len();
        let same = pdu[at] == to;
        pdu[at] = to;
        let _ = ue.downlink(NOW, &pdu);
        // RAND and AUTN are authenticated: no change of them is ever answered with RES*.
        if !same && (8..pdu.len()).contains(&at) {
            prop_assert!(!ue.is_waiting_for_sqn());
        }
    }

    #[test]
    fn any_change_of_a_security_mode_command_is_refused(at in 2usize..19, to in any::<u8>()) {
        let (mut ue, mut network) = (ue(), Network::new());
        ue.register(NOW);
        sent(&mut ue);
        authenticate(&mut ue, &mut network, 0);
        let mut pdu = network.command(CipheringAlgorithm::NEA2, IntegrityAlgorithm::NIA2);
        let at = at % pdu.len();
        if at >= 2 && pdu[at] != to {
            pdu[at] = to;
            let _ = ue.downlink(NOW, &pdu);
            prop_assert!(ue.k_n3iwf().is_none());
        }
    }
}

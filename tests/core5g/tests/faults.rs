//! Faults on demand, and inputs that nobody should send.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic
)]

mod support;

use std::time::Duration;

use core5g::policy::{Effect, Fault};
use core5g::upf::Upf;
use proptest::prelude::*;

use support::core::Core;
use support::n3iwf;
use support::ue::Ue;

fn fault(on: &str, effect: Effect) -> Fault {
    Fault {
        on: on.to_owned(),
        effect,
        supi: None,
        times: Some(1),
        ms: 0,
    }
}

#[test]
fn silence_in_the_middle_of_an_attach() {
    let mut core = Core::set_up();
    core.amf.faults = vec![fault("SecurityModeCommand", Effect::Silence)];
    let mut ue = Ue::first(1);
    let request = ue.registration_request();
    let (ids, nas) = n3iwf::downlink(&core.ask(&n3iwf::initial_ue(1, request)));
    let response = ue.authenticate(&nas);
    assert!(core.send(&n3iwf::uplink(ids, response)).is_empty());
    assert!(core.amf.faults.is_empty(), "used up");
}

#[test]
fn a_delay_keeps_the_order_of_one_ue_and_holds_no_other() {
    let mut core = Core::set_up();
    core.amf.faults = vec![Fault {
        supi: Some("imsi-208930000000001".to_owned()),
        ms: 250,
        ..fault("AuthenticationRequest", Effect::Delay)
    }];
    let mut first = Ue::first(1);
    let request = first.registration_request();
    assert!(core.send(&n3iwf::initial_ue(1, request)).is_empty());
    let mut second = Ue::second(2);
    second.attach(&mut core);
    // Behind the delayed message, in order.
    let actions = core.amf.release(core.now, "imsi-208930000000001").unwrap();
    assert!(core.take(actions).is_empty());
    assert!(core.wait(Duration::from_millis(249)).is_empty());
    let sent = core.wait(Duration::from_millis(1));
    assert_eq!(core5g::ngap::name(&sent[0]), "DownlinkNASTransport");
    assert_eq!(core5g::ngap::name(&sent[1]), "UEContextRelease");
}

#[test]
fn spoiled_messages_and_a_broken_association() {
    let setup = n3iwf::ng_setup(&n3iwf::Announce::default());
    let whole = Core::new().ask(&setup);
    for (effect, check) in [
        (Effect::Truncate, whole.len() / 2),
        (Effect::Garbage, whole.len()),
    ] {
        let mut core = Core::new();
        core.amf.faults = vec![fault("NGSetupResponse", effect)];
        let answer = core.ask(&setup);
        assert_eq!(answer.len(), check);
        assert_ne!(answer, whole);
    }
    let mut core = Core::new();
    core.amf.faults = vec![fault("NGSetupResponse", Effect::Duplicate)];
    assert_eq!(core.send(&setup), [whole.clone(), whole]);
    let mut core = Core::new();
    core.amf.faults = vec![fault("NGSetupResponse", Effect::Drop)];
    assert!(core.send(&setup).is_empty());
    assert!(core.aborted);
    let mut core = Core::new();
    core.amf.policy.silent = true;
    assert!(core.send(&setup).is_empty());
}

#[test]
fn every_cut_and_every_flipped_bit_of_an_attach_is_survived() {
    // Messages of a real attach, spoiled one at a time against a core in the
    // state in which they arrive.
    let mut core = Core::set_up();
    let mut ue = Ue::first(1);
    ue.attach(&mut core);
    ue.establish(&mut core, 1);
    let messages: Vec<Vec<u8>> = core
        .wire
        .iter()
        .filter(|(by_core, _)| !by_core)
        .map(|(_, message)| message.clone())
        .collect();
    assert!(messages.len() >= 8);
    let mut tried = 0;
    for (index, message) in messages.iter().enumerate() {
        let mut core = Core::new();
        for earlier in &messages[..index] {
            core.send(earlier);
        }
        for cut in 0..message.len() {
            core.send(&message[..cut]);
            tried += 1;
        }
        for bit in 0..message.len() * 8 {
            let mut spoiled = message.clone();
            spoiled[bit / 8] ^= 1 << (bit % 8);
            core.send(&spoiled);
            tried += 1;
        }
        assert!(core.wait(Duration::from_secs(120)).len() < 10_000);
    }
    assert!(tried > 4000, "{tried}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_octets_panic_the_amf(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut core = Core::set_up();
        core.send(&data);
        core.send(&n3iwf::initial_ue(1, data));
        prop_assert!(core.amf.ue_status().len() <= 2);
    }

    #[test]
    fn no_octets_panic_the_upf(data in proptest::collection::vec(any::<u8>(), 0..200), flags in 0x30u8..0x38) {
        let mut upf = Upf::default();
        upf.install(core5g::amf::UpfSession {
            uplink_teid: 1,
            address: [10, 60, 0, 2].into(),
            ipv4: true,
 ipv6: None,
 flows: support::core::parse(support::core::CONFIG).smf.dnns[0].flows.clone(),
        });
        let from = "203.0.113.1:2152".parse().unwrap();
        upf.uplink([203, 0, 113, 2].into(), from, &data);
        upf.downlink(&data);
        // A G-PDU of the session with anything after the TEID.
        let mut message = vec![flags, 255, 0, 0, 0, 0, 0, 1];
        message.extend_from_slice(&data);
        let len = u16::try_from(data.len()).unwrap().to_be_bytes();
        message[2..4].copy_from_slice(&len);
        upf.uplink([203, 0, 113, 2].into(), from, &message);
        prop_assert_eq!(upf.status().len(), 1);
    }
}

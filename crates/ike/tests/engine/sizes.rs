//! What each message weighs, as an Ethernet frame over IPv4 (14 + 20 + 8 octets around the UDP payload).

use std::time::Duration;

use crate::{
    record::Sent,
    setup,
    world::{
        Side::{self, N3iwf, Ue},
        World,
    },
};

/// Frames of a whole attach with one user-plane Child SA, in the order of sending.
fn frames(mut world: World, config: ike::InitiatorConfig) -> Vec<(Side, usize)> {
    let (_, n3iwf) = world.attach(config);
    world.command(N3iwf, |endpoint, now| {
        endpoint
            .create_child(now, n3iwf, setup::user_child(1))
            .unwrap()
    });
    world.run(Duration::from_secs(1));
    assert_eq!(world.ue.record.installed.len(), 2);
    world
        .sent
        .iter()
        .map(|sent| (sent.from, sent.frame_len()))
        .collect()
}

#[test]
fn native_attach_costs_no_more_than_2750_octets() {
    let frames = frames(World::native(3), setup::native());
    let expected = [
        // Header 28, SA 32, Nonce 36, NAT detection 56, QKD_SUPPORTED 18 ("sae-ue-1"), fragmentation 8.
        (Ue, 220),
        // The same with QKD_SUPPORTED 19 ("sae-n3iwf"), and QKD_KEY_IDS 121: seven of 16 octets.
        (N3iwf, 342),
        // Protection 99; IDi 10, CP 12, SA 36, TS 48.
        (Ue, 205),
        // IDr 25, AUTH 40, EAP 18.
        (N3iwf, 182),
        (Ue, 172),
        (N3iwf, 161),
        (Ue, 142),
        (N3iwf, 138),
        (Ue, 172),
        (N3iwf, 107),
        // AUTH 40.
        (Ue, 139),
        // AUTH 40, CP 24, SA 36, TS 48, NAS_IP4_ADDRESS 12, NAS_TCP_PORT 10.
        (N3iwf, 269),
        // SA 36, Nonce 36, TS 48, 5G_QOS_INFO 13, UP_IP4_ADDRESS 12.
        (N3iwf, 244),
        // SA 36, Nonce 36, TS 48.
        (Ue, 219),
    ];
    assert_eq!(frames, expected);
    let total: usize = frames.iter().map(|(_, len)| len).sum();
    assert_eq!(total, 2712);
    assert!(total <= 2750, "55 % of the 4991 octets of the paper");
}

#[test]
fn a_ue_is_proposed_what_it_has_offered_and_no_more() {
    let of = |words: &str| ike::crypto::ChildSuite::from_keywords(words).unwrap();
    let request = |n3iwf: &str, ue: &str| {
        let mut endpoint = setup::n3iwf_endpoint();
        endpoint.responder.as_mut().unwrap().esp_suites = of(n3iwf);
        let config = ike::InitiatorConfig {
            esp_suites: of(ue),
            ..setup::native()
        };
        let world = World::new(6, setup::ue_endpoint(), endpoint);
        let frames = frames(world, config);
        let [.., (N3iwf, request), (Ue, _)] = frames[..] else {
            panic!("{frames:?}")
        };
        request
    };
    let both = "aes256gcm16-esn,aes256gcm16-noesn";
    assert_eq!(request(both, "aes256gcm16-esn"), 244);
    assert_eq!(request(both, "aes256gcm16-noesn"), 244);
    assert_eq!(request(both, both), 244 + 32, "a proposal more");
}

#[test]
fn paper_attach_has_the_sizes_of_the_paper() {
    let (certificate, _) = setup::rsa();
    let frames = frames(
        World::new(4, setup::ue_endpoint(), setup::paper_endpoint()),
        setup::paper(),
    );
    // IKE_AUTH 1 of the responder: 102 around the blocks of IDr 25, CERT 5 + DER, AUTH 264, EAP 18 and Pad Length.
    let first_auth = |der: usize| 102 + (25 + 5 + der + 264 + 18 + 1usize).next_multiple_of(16);
    assert_eq!(first_auth(1021), 1446, "the certificate of the paper");
    let expected = [
        // Two octets of the paper's 428 and 1099 are unexplained.
        (Ue, 426),
        (N3iwf, 1097),
        (Ue, 214),
        (N3iwf, first_auth(certificate.der().len())),
        (Ue, 182),
        (N3iwf, 166),
        (Ue, 150),
        (N3iwf, 150),
        (Ue, 182),
        (N3iwf, 118),
        (Ue, 150),
        (N3iwf, 278),
        (N3iwf, 230),
        (Ue, 198),
    ];
    assert_eq!(frames, expected);
}

#[test]
fn a_further_child_names_its_keys() {
    let mut world = World::native(5);
    let (ue, n3iwf) = world.attach(setup::native());
    for token in 1..=2 {
        world.command(N3iwf, |endpoint, now| {
            endpoint
                .create_child(now, n3iwf, setup::user_child(token))
                .unwrap()
        });
        world.run(Duration::from_secs(1));
    }
    let lens: Vec<_> = world
        .sent
        .iter()
        .rev()
        .take(2)
        .map(Sent::frame_len)
        .collect();
    // QKD_KEY_IDS with two keys: 8 + 1 + 32.
    assert_eq!(lens, [219, 244 + 41]);
    let begun_by_ue = ike::NewChild {
        ts_local: vec![setup::UE_INNER],
        ts_remote: vec![setup::N3IWF_INNER],
        notifies: vec![],
        token: 9,
    };
    world.command(Ue, |endpoint, now| {
        endpoint.create_child(now, ue, begun_by_ue).unwrap()
    });
    world.run(Duration::from_secs(1));
    let lens: Vec<_> = world
        .sent
        .iter()
        .rev()
        .take(2)
        .map(Sent::frame_len)
        .collect();
    assert_eq!(lens, [219 + 41, 219], "the master answers with the keys");
    assert_eq!(world.ue.record.installed.len(), 4);
    assert_eq!(
        world.kme.allocations, 3,
        "attach, second child, third child"
    );
    world.check_keys();
}

//! Attaches that go well, and NAS both ways.

use std::time::Duration;

use daemon::timeline::Phase;
use n3iwf_user::core::NasLink;
use nwu::notify;
use oxirush_ngap::{NgapPduKind, ie, ngap::*};

use crate::{
    amf,
    world::{N3IWF, World},
};

#[test]
fn the_initial_ue_message_says_who_where_and_why() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let initial = world.next();
    let pdu = &initial.pdu;
    assert_eq!(initial.nas(), b"register");
    assert_eq!(initial.ue, initial.ran(), "on the UE's stream");
    let location = pdu.ie::<ie::UserLocationInformation>().unwrap().unwrap();
    let UserLocationInformation::userLocationInformationN3IWF_with_PortNumber(location) = location
    else {
        panic!("not the location of an N3IWF's UE");
    };
    let local = world.ues[ue].path.local;
    assert_eq!(location.ip_address.0.as_octets(), [192, 0, 2, 10]);
    assert_eq!(location.port_number.0, local.port().to_be_bytes());
    let cause = pdu.ie::<ie::RRCEstablishmentCause>().unwrap().unwrap();
    assert_eq!(cause, RRCEstablishmentCause::mo_Signalling);
    let wanted = pdu.ie::<ie::UEContextRequest>().unwrap().unwrap();
    assert_eq!(wanted, UEContextRequest::requested);
    let set = pdu.ie::<ie::AMFSetID>().unwrap().unwrap();
    assert_eq!(set.0.value(), 1);
    let network = pdu.ie::<ie::SelectedPLMNIdentity>().unwrap().unwrap();
    assert_eq!(network.0, [0x02, 0xf8, 0x39]);
}

#[test]
fn an_attach_answers_the_amf_once_the_signalling_sa_is_up() {
    let mut world = World::new();
    let (ue, ran) = world.attach();
    let ue = &world.ues[ue];
    assert_eq!(ue.nas, [b"authenticate".to_vec()]);
    assert_eq!(ue.inner, Some("10.0.0.2".parse().unwrap()));
    let data = |kind: u16| {
        let found = ue.notifies.iter().find(|notify| notify.kind.0 == kind);
        found.map(|notify| notify.data.clone()).unwrap()
    };
    assert_eq!(data(notify::NAS_IP4_ADDRESS), [10, 0, 0, 1]);
    assert_eq!(data(notify::NAS_TCP_PORT), 20_000_u16.to_be_bytes());
    assert_eq!(world.held.len(), 1);
    let held = world.held.values().next().unwrap();
    assert_eq!(held.slot, 0);
    assert_eq!(held.inner_remote, ue.inner.unwrap());
    assert_eq!(world.fetched, 7, "keys of an AEAD handshake");

    let status = &world.gateway.ues(world.now)[0];
    assert_eq!(
        (status.ue, status.state.as_str(), status.nas_connected),
        (ran, "up", true)
    );
    assert_eq!(status.amf_ue_ngap_id, Some(amf::amf_id(ran)));
    let sas = world.gateway.sas();
    assert_eq!(sas[0].path.local, N3IWF);
}

#[test]
fn nas_both_ways_keeps_its_order_and_waits_for_the_connection() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.ngap(&amf::context_setup(
        ran,
        Some(b"in context setup"),
        Vec::new(),
    ));
    world.ngap(&amf::downlink_nas(ran, b"registration accept"));
    world.ngap(&amf::downlink_nas(ran, b"configuration update"));
    assert!(world.nas_sent.is_empty(), "no connection yet");
    assert_eq!(world.ues[ue].nas.len(), 0, "not in EAP any more");
    world.connect_nas(ue, NasLink(5));
    let sent: Vec<&[u8]> = world.nas_sent.iter().map(|(_, nas)| &nas[..]).collect();
    assert_eq!(
        sent,
        [
            &b"in context setup"[..],
            b"registration accept",
            b"configuration update"
        ]
    );
    world.next();
    for text in [&b"complete"[..], b"session request"] {
        world.gateway.nas_received(world.now, NasLink(5), text);
        world.run();
        let uplink = world.next();
        assert_eq!(uplink.kind(), NgapPduKind::Initiating_UplinkNASTransport);
        assert_eq!(uplink.nas(), text);
    }
}

#[test]
fn two_downlink_messages_in_eap_take_two_rounds() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    // Both before the UE can answer the first.
    world
        .gateway
        .handle_ngap(world.now, 0, &amf::downlink_nas(ran, b"one"));
    world
        .gateway
        .handle_ngap(world.now, 0, &amf::downlink_nas(ran, b"two"));
    world.run();
    assert_eq!(world.ues[ue].nas, [b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(world.next().nas(), b"re:one");
    assert_eq!(world.next().nas(), b"re:two");
}

#[test]
fn a_context_setup_while_the_ue_owes_an_answer_waits_for_it() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world
        .gateway
        .handle_ngap(world.now, 0, &amf::downlink_nas(ran, b"one"));
    world
        .gateway
        .handle_ngap(world.now, 0, &amf::context_setup(ran, None, Vec::new()));
    world.run();
    assert_eq!(world.next().nas(), b"re:one");
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_InitialContextSetup
    );
    assert!(world.ues[ue].established);
}

#[test]
fn a_new_nas_connection_replaces_the_old_one_and_strangers_are_turned_away() {
    let mut world = World::new();
    let (ue, _) = world.attach();
    let first = world.gateway.ues(world.now)[0].ue;
    world.connect_nas(ue, NasLink(77));
    assert_eq!(world.nas_closed, [NasLink(u64::from(first))]);
    world
        .gateway
        .nas_closed(world.now, NasLink(u64::from(first)));
    assert!(
        world.gateway.ues(world.now)[0].nas_connected,
        "the new one stands"
    );
    let stranger = "10.0.0.99".parse().unwrap();
    world
        .gateway
        .nas_connected(world.now, NasLink(78), stranger);
    world.run();
    assert!(world.nas_closed.contains(&NasLink(78)));
    world.gateway.nas_received(world.now, NasLink(78), b"hello");
    world.run();
    assert!(
        world.uplink.is_empty(),
        "a stranger says nothing to the AMF"
    );
}

#[test]
fn downlink_nas_that_nobody_takes_is_bounded_and_told() {
    let mut world = World::new();
    let ue = world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.ngap(&amf::context_setup(ran, None, Vec::new()));
    world.next();
    for _ in 0..20 {
        world.ngap(&amf::downlink_nas(ran, b"x"));
    }
    let mut told = 0;
    while let Some(uplink) = world.uplink.pop_front() {
        assert_eq!(
            uplink.kind(),
            NgapPduKind::Initiating_NASNonDeliveryIndication
        );
        assert_eq!(uplink.nas(), b"x");
        told += 1;
    }
    assert_eq!(told, 4);
    world.connect_nas(ue, NasLink(1));
    assert_eq!(world.nas_sent.len(), 16);
}

#[test]
fn the_timeline_tells_whom_the_attach_waited_for() {
    let mut world = World::new();
    world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    world.pass(Duration::from_millis(40));
    world.ngap(&amf::context_setup(ran, None, Vec::new()));
    world.pass(Duration::from_millis(25));
    let rows = world.gateway.ues(world.now)[0].timeline.clone();
    let auth = rows.iter().find(|row| row.phase == Phase::Auth).unwrap();
    assert_eq!((auth.wall_us, auth.core_us), (40_000, 40_000));
}

#[test]
fn hundreds_of_ues_in_one_process_leave_nothing() {
    let mut world = World::new();
    let rans: Vec<u32> = (0..200).map(|_| world.attach_with_session().1).collect();
    assert_eq!(world.held.len(), 400);
    let addresses: std::collections::BTreeSet<_> =
        world.ues.iter().map(|ue| ue.inner.unwrap()).collect();
    assert_eq!(addresses.len(), 200);
    for ran in rans {
        world.ngap(&amf::context_release(ran));
        assert_eq!(
            world.next().kind(),
            NgapPduKind::Successful_UEContextRelease
        );
    }
    world.assert_nothing_left();
}

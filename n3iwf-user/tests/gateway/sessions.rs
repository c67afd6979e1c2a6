//! PDU sessions.

use n3iwf_user::{core::ChildSas, ngap::Cause};
use nwu::{QosInfo, notify};
use oxirush_ngap::{NgapPduKind, helpers::s_nssai, ie, ngap::*};

use crate::{amf, world::World};

#[test]
fn a_session_is_answered_and_accepted_after_its_child_sa() {
    let mut world = World::new();
    let (ue, ran) = world.attach();
    let fetched = world.fetched;
    world.ngap(&amf::session_setup(
        ran,
        &[(5, b"accept", amf::transfer(0xabcd, &[1, 9]))],
    ));
    let (up, failed) = amf::session_outcomes(&world.next());
    assert_eq!(failed, []);
    let (id, teid, qfis) = up[0].clone();
    assert_eq!((id, qfis), (5, vec![1, 9]));
    let relayed = &world.relay[&teid];
    assert_eq!(
        (relayed.ul_teid, relayed.session, relayed.slot),
        (0xabcd, 5, 0)
    );
    assert_eq!(relayed.ue_inner, world.ues[ue].inner.unwrap());
    assert_eq!(
        (relayed.ambr, relayed.ue_ambr),
        (Some(amf::SESSION_AMBR), Some(amf::UE_AMBR))
    );
    assert_eq!(world.nas_sent.last().unwrap().1, b"accept");
    assert_eq!(
        world.fetched, fetched,
        "keys of the first session came with the handshake"
    );

    let (_, notifies) = world.ues[ue]
        .children
        .values()
        .find(|(signalling, _)| !signalling)
        .unwrap();
    let data = |kind: u16| {
        let found = notifies.iter().find(|notify| notify.kind.0 == kind);
        found.map(|notify| notify.data.clone()).unwrap()
    };
    let qos = QosInfo::decode(&data(notify::QOS_INFO)).unwrap();
    assert_eq!(
        (qos.pdu_session, qos.qfis, qos.default),
        (5, vec![1, 9], true)
    );
    assert_eq!(data(notify::UP_IP4_ADDRESS), [10, 0, 0, 1]);
}

#[test]
fn further_sessions_get_slots_and_keys_of_their_own() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    world.ngap(&amf::session_setup(
        ran,
        &[
            (2, b"two", amf::transfer(2, &[1])),
            (3, b"three", amf::transfer(3, &[1])),
        ],
    ));
    let (up, failed) = amf::session_outcomes(&world.next());
    assert_eq!((up.len(), failed.len()), (2, 0));
    assert_eq!(world.fetched, 7 + 2 + 2);
    let mut slots: Vec<u32> = world.relay.values().map(|session| session.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2]);
    // There are three slots.
    world.ngap(&amf::session_setup(
        ran,
        &[(4, b"four", amf::transfer(4, &[1]))],
    ));
    let (up, failed) = amf::session_outcomes(&world.next());
    assert_eq!(up, []);
    assert_eq!(
        failed,
        [(
            4,
            Cause::radioNetwork(CauseRadioNetwork::radio_resources_not_available)
        )]
    );
}

#[test]
fn a_request_fails_session_by_session() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    world.nas_sent.clear();
    world.ngap(&amf::session_setup(
        ran,
        &[
            (1, b"again", amf::transfer(9, &[1])),
            (2, b"good", amf::transfer(2, &[1])),
            (3, b"broken", vec![0xff, 0xff]),
            (4, b"flows", amf::transfer(4, &[7, 7])),
        ],
    ));
    let (up, mut failed) = amf::session_outcomes(&world.next());
    failed.sort_by_key(|(id, _)| *id);
    assert_eq!(up.iter().map(|(id, _, _)| *id).collect::<Vec<_>>(), [2]);
    let causes: Vec<Cause> = failed.iter().map(|(_, cause)| cause.clone()).collect();
    assert_eq!(
        causes,
        [
            Cause::radioNetwork(CauseRadioNetwork::multiple_PDU_session_ID_instances),
            Cause::protocol(CauseProtocol::transfer_syntax_error),
            Cause::radioNetwork(CauseRadioNetwork::multiple_qos_flow_ID_instances),
        ]
    );
    let sent: Vec<&[u8]> = world.nas_sent.iter().map(|(_, nas)| &nas[..]).collect();
    assert_eq!(sent, [b"good"], "NAS of what failed is not forwarded");
    assert_eq!(world.relay.len(), 2);
}

#[test]
fn sessions_inside_the_context_setup_are_answered_with_it() {
    let mut world = World::new();
    world.add_ue();
    world.run();
    let ran = world.next().ran().unwrap();
    let item = PDUSessionResourceSetupItemCxtReq::new(
        PDUSessionID(1),
        Some(NASPDU::from(b"accept".to_vec())),
        s_nssai(1, None),
        amf::transfer(0x77, &[1]).into(),
        None,
    );
    world.ngap(&amf::context_setup(ran, None, vec![item]));
    // A UE that still installs its signalling SA may miss the request: it is repeated.
    world.pass(std::time::Duration::from_secs(3));
    let answer = world.next();
    assert_eq!(answer.kind(), NgapPduKind::Successful_InitialContextSetup);
    let (up, _) = amf::session_outcomes(&answer);
    assert_eq!(up[0].0, 1);
    assert_eq!(world.relay[&up[0].1].ul_teid, 0x77);
}

#[test]
fn refusals_by_ue_data_plane_relay_and_kms_leave_nothing_of_the_session() {
    type Setup = fn(&mut World, usize);
    let cases: [(&str, Setup); 4] = [
        ("ue", |world, ue| world.ues[ue].refuse_children = true),
        ("data plane", |world, _| world.refuse_install = true),
        ("relay", |world, _| world.refuse_relay = true),
        ("kms", |world, _| {
            world.kms_failure = Some(ike::QkdFailure::NoKeys);
        }),
    ];
    let all = [ChildSas::OnePerSession, ChildSas::OnePerFlow].map(|how| cases.map(|c| (how, c)));
    for (how, (name, prepare)) in all.into_iter().flatten() {
        let mut world = World::with_core(|core| core.child_sas = how);
        // The first session's keys came with the handshake: the second has to ask.
        let (ue, ran) = world.attach_with_session();
        prepare(&mut world, ue);
        world.nas_sent.clear();
        world.ngap(&amf::session_setup(
            ran,
            &[(2, b"x", amf::transfer(2, &[1, 2]))],
        ));
        let (up, failed) = amf::session_outcomes(&world.next());
        assert_eq!((up.len(), failed.len()), (0, 1), "{name}");
        assert_eq!(world.nas_sent.len(), 0, "{name}");
        assert_eq!(world.held.len(), 2, "{name}: signalling and session 1");
        assert_eq!(world.relay.len(), 1, "{name}");
        let status = &world.gateway.ues(world.now)[0];
        assert_eq!(status.sessions.len(), 1, "{name}");
        world.ngap(&amf::context_release(ran));
        world.assert_nothing_left();
    }
}

#[test]
fn flows_go_by_child_sas_of_their_own_where_the_configuration_says_so() {
    let mut world = World::with_core(|core| core.child_sas = ChildSas::OnePerFlow);
    let (ue, ran) = world.attach();
    // There are three slots: what comes last shares the default Child SA.
    let setup = |id, nas| amf::session_setup(ran, &[(id, nas, amf::transfer(7, &[9, 1, 5, 2]))]);
    world.ngap(&setup(1, b"accept"));
    let (up, failed) = amf::session_outcomes(&world.next());
    assert_eq!((up.len(), failed.len()), (1, 0));
    let (_, teid, qfis) = up[0].clone();
    assert_eq!(qfis, [9, 1, 5, 2]);
    assert_eq!(world.nas_sent.last().unwrap().1, b"accept");
    let relayed = world.relay[&teid].clone();
    let further: Vec<(u32, &[u8])> = relayed
        .further
        .iter()
        .map(|tunnel| (tunnel.slot, &tunnel.qfis[..]))
        .collect();
    assert_eq!(relayed.slot, 0);
    assert_eq!(further, [(1, &[1][..]), (2, &[5])]);
    for tunnel in &relayed.further {
        let mut held = world.held.values();
        let own = held.find(|held| held.reqid == tunnel.reqid).unwrap();
        assert_eq!((own.slot, own.pdu_session), (tunnel.slot, Some(1)));
    }
    let mut told: Vec<QosInfo> = world.ues[ue]
        .children
        .values()
        .filter(|(signalling, _)| !signalling)
        .map(|(_, notifies)| {
            let mut notifies = notifies.iter();
            let found = notifies.find(|notify| notify.kind.0 == notify::QOS_INFO);
            QosInfo::decode(&found.unwrap().data).unwrap()
        })
        .collect();
    told.sort_by_key(|info| info.qfis.clone());
    let told: Vec<(&[u8], bool)> = told.iter().map(|i| (&i.qfis[..], i.default)).collect();
    assert_eq!(told, [(&[1][..], false), (&[5], false), (&[9, 2], true)]);
    // A session more has no slot.
    world.ngap(&setup(2, b"no"));
    assert_eq!(amf::session_outcomes(&world.next()).1.len(), 1);

    // A release waits for all of them.
    world.ngap(&amf::session_release(ran, b"release", &[1]));
    let answer = world.next().kind();
    assert_eq!(answer, NgapPduKind::Successful_PDUSessionResourceRelease);
    assert_eq!(world.held.len(), 1, "signalling alone");
    assert!(world.relay.is_empty());

    // The UE deletes one of them, and the session is over.
    world.ngap(&setup(1, b"again"));
    assert_eq!(amf::session_outcomes(&world.next()).0.len(), 1);
    let info = |notifies: &[ike::wire::Notify]| {
        let mut notifies = notifies.iter();
        let found = notifies.find(|notify| notify.kind.0 == notify::QOS_INFO);
        found.and_then(|notify| QosInfo::decode(&notify.data).ok())
    };
    let children = world.ues[ue].children.iter();
    let mut children = children.filter_map(|(id, (_, notifies))| Some((*id, info(notifies)?)));
    let (child, _) = children.find(|(_, info)| info.qfis == [5]).unwrap();
    let (now, sa) = (world.now, world.ues[ue].sa.unwrap());
    world.ues[ue].endpoint.delete_child(now, sa, child);
    world.run();
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_PDUSessionResourceNotify
    );
    assert!(world.relay.is_empty());
    assert_eq!(world.held.len(), 1);
    world.ngap(&amf::context_release(ran));
    world.assert_nothing_left();
}

#[test]
fn a_release_forwards_nas_deletes_esp_and_answers() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    world.nas_sent.clear();
    world.ngap(&amf::session_release(ran, b"release command", &[1, 9]));
    let answer = world.next();
    assert_eq!(
        answer.kind(),
        NgapPduKind::Successful_PDUSessionResourceRelease
    );
    let list = answer
        .pdu
        .ie::<ie::PDUSessionResourceReleasedListRelRes>()
        .unwrap()
        .unwrap();
    let ids: Vec<u8> = list.0.iter().map(|item| item.pdu_session_id.0).collect();
    assert_eq!(ids, [1, 9], "one that is not here is gone, too");
    assert_eq!(world.nas_sent[0].1, b"release command");
    assert_eq!(world.held.len(), 1, "signalling alone");
    assert!(world.relay.is_empty());
    assert_eq!(world.ues[ue].children.len(), 1);
    // The same ID and slot can be used again.
    world.ngap(&amf::session_setup(
        ran,
        &[(1, b"x", amf::transfer(5, &[1]))],
    ));
    let (up, _) = amf::session_outcomes(&world.next());
    assert_eq!(up[0].0, 1);
}

#[test]
fn a_child_sa_deleted_by_the_ue_is_told_to_the_amf() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    let child = *world.ues[ue]
        .children
        .iter()
        .find(|(_, (signalling, _))| !signalling)
        .unwrap()
        .0;
    let (now, sa) = (world.now, world.ues[ue].sa.unwrap());
    world.ues[ue].endpoint.delete_child(now, sa, child);
    world.run();
    let notify = world.next();
    assert_eq!(
        notify.kind(),
        NgapPduKind::Initiating_PDUSessionResourceNotify
    );
    let list = notify
        .pdu
        .ie::<ie::PDUSessionResourceReleasedListNot>()
        .unwrap()
        .unwrap();
    assert_eq!(list.0[0].pdu_session_id.0, 1);
    assert!(world.relay.is_empty());
    world.ngap(&amf::context_release(ran));
    world.assert_nothing_left();
}

#[test]
fn a_tunnel_the_upf_forgot_ends_the_session() {
    let mut world = World::new();
    world.attach_with_session();
    let teid = *world.relay.keys().next().unwrap();
    world.gateway.tunnel_lost(world.now, teid);
    world.run();
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_PDUSessionResourceNotify
    );
    assert!(world.relay.is_empty());
    assert_eq!(world.held.len(), 1);
}

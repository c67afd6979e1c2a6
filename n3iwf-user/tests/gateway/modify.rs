//! UE context modification and modified PDU sessions.

use std::{collections::BTreeMap, time::Duration};

use dataplane::relay::Ambr;
use ike::wire::Notify;
use n3iwf_user::{
    core::{ChildSas, Dscp, DscpTable},
    ngap::Cause,
};
use nwu::{QosInfo, notify};
use oxirush_ngap::{NgapPduKind, ie, ngap::*};

use crate::{
    amf::{self, Uplink},
    modification::{Wanted, context_modification, modify, transfer},
    world::World,
};

/// QFIs that were added or modified, and those that were not.
type Done = (Vec<u64>, Vec<(u64, Cause)>);

/// Sessions that were modified, and those that were not.
type Outcome = (Vec<(u8, Done)>, Vec<(u8, Cause)>);

fn outcome(answer: &Uplink) -> Outcome {
    assert_eq!(
        answer.kind(),
        NgapPduKind::Successful_PDUSessionResourceModify
    );
    let done = answer
        .pdu
        .ie::<ie::PDUSessionResourceModifyListModRes>()
        .map(|list| list.unwrap().0)
        .unwrap_or_default();
    let done = done.into_iter().map(|item| {
        let transfer: PDUSessionResourceModifyResponseTransfer =
            decode_open_type(&item.pdu_session_resource_modify_response_transfer).unwrap();
        let flows = transfer.qos_flow_add_or_modify_response_list;
        let flows = flows.into_iter().flat_map(|list| list.0);
        let failed = transfer.qos_flow_failed_to_add_or_modify_list;
        let failed = failed.into_iter().flat_map(|list| list.0);
        let done = (
            flows.map(|flow| flow.qos_flow_identifier.0).collect(),
            failed
                .map(|flow| (flow.qos_flow_identifier.0, flow.cause))
                .collect(),
        );
        (item.pdu_session_id.0, done)
    });
    let failed = answer
        .pdu
        .ie::<ie::PDUSessionResourceFailedToModifyListModRes>()
        .map(|list| list.unwrap().0)
        .unwrap_or_default();
    let failed = failed.into_iter().map(|item| {
        let transfer: PDUSessionResourceModifyUnsuccessfulTransfer =
            decode_open_type(&item.pdu_session_resource_modify_unsuccessful_transfer).unwrap();
        (item.pdu_session_id.0, transfer.cause)
    });
    (done.collect(), failed.collect())
}

const AMBR: Ambr = Ambr {
    uplink: 3_000_000,
    downlink: 7_000_000,
};

#[test]
fn the_ue_ambr_reaches_what_is_relayed_and_what_will_be() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    world.ngap(&context_modification(ran, AMBR, None));
    let answer = world.next();
    assert_eq!(answer.kind(), NgapPduKind::Successful_UEContextModification);
    assert_eq!(answer.ran(), Some(ran));
    world.ngap(&amf::session_setup(
        ran,
        &[(2, b"two", amf::transfer(2, &[1]))],
    ));
    world.next();
    let limits: Vec<_> = world
        .relay
        .values()
        .map(|session| session.ue_ambr)
        .collect();
    assert_eq!(limits, [Some(AMBR), Some(AMBR)]);
}

#[test]
fn a_new_amf_identifier_is_used_from_then_on() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    world.ngap(&context_modification(ran, AMBR, Some(77)));
    let told = |uplink: &Uplink| {
        let id = uplink.pdu.ie::<ie::AMF_UE_NGAP_ID>().unwrap();
        id.unwrap().0
    };
    assert_eq!(told(&world.next()), amf::amf_id(ran));
    let teid = *world.relay.keys().next().unwrap();
    world.gateway.tunnel_lost(world.now, teid);
    world.run();
    assert_eq!(told(&world.next()), 77);
}

#[test]
fn flows_are_told_to_the_ue_then_relayed_then_answered() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    world.nas_sent.clear();
    let wanted = Wanted {
        ambr: Some(AMBR),
        flows: &[(5, true), (1, false), (9, false)],
        ..Wanted::default()
    };
    world.ngap(&modify(ran, &[(1, b"modify", transfer(&wanted))]));
    let (done, failed) = outcome(&world.next());
    let unknown = Cause::radioNetwork(CauseRadioNetwork::unkown_qos_flow_ID);
    assert_eq!(done, [(1, (vec![5, 1], vec![(9, unknown)]))]);
    assert!(failed.is_empty());
    assert_eq!(world.nas_sent.last().unwrap().1, b"modify");
    let relayed = world.relay.values().next().unwrap().clone();
    assert_eq!((relayed.qfis, relayed.ambr), (vec![1, 5], Some(AMBR)));
    assert_eq!(
        (relayed.ul_teid, relayed.ue_ambr),
        (0x100, Some(amf::UE_AMBR))
    );
    let told = world.ues[ue].told.pop().unwrap();
    assert_eq!(told[0].kind.0, notify::QOS_INFO);
    let info = QosInfo::decode(&told[0].data).unwrap();
    assert_eq!((info.pdu_session, info.qfis), (1, vec![1, 5]));

    // A flow goes, and the first one with it; the UPF's end of the tunnel moves.
    let wanted = Wanted {
        tunnel: Some((relayed.dl_teid, 0x200)),
        released: &[1, 33],
        ..Wanted::default()
    };
    world.ngap(&modify(ran, &[(1, b"again", transfer(&wanted))]));
    assert_eq!(outcome(&world.next()).0, [(1, (vec![], vec![]))]);
    let relayed = world.relay.values().next().unwrap();
    assert_eq!((&relayed.qfis[..], relayed.ul_teid), (&[5][..], 0x200));
    assert_eq!(relayed.upf.to_string(), "203.0.113.9");
    assert_eq!(world.ues[ue].told.len(), 1);

    // The AMBR alone is nothing to the UE's IKE.
    let wanted = Wanted {
        ambr: Some(amf::SESSION_AMBR),
        ..Wanted::default()
    };
    world.ngap(&modify(ran, &[(1, b"", transfer(&wanted))]));
    assert_eq!(outcome(&world.next()).0.len(), 1);
    assert_eq!(world.ues[ue].told.len(), 1);
    world.ngap(&amf::context_release(ran));
    world.assert_nothing_left();
}

#[test]
fn dscps_are_told_to_the_ue_and_to_the_relay() {
    let mut world = World::with_core(|core| {
        let table = [(9, "AF41"), (1, "EF")].map(|(qi, name)| (qi, Dscp::named(name).unwrap()));
        core.dscp = DscpTable::from_iter(table);
        core.child_sas = ChildSas::DscpApart;
    });
    let told = |notifies: &[Notify]| {
        let mut notifies = notifies.iter();
        let found = notifies.find(|notify| notify.kind.0 == notify::QOS_INFO);
        let info = QosInfo::decode(&found.unwrap().data).unwrap();
        (info.qfis, info.default, info.dscp)
    };
    // Flows of 5QI 9 alone.
    let (ue, ran) = world.attach_with_session();
    let mut children = world.ues[ue].children.values();
    let (_, notifies) = children.find(|(signalling, _)| !signalling).unwrap();
    assert_eq!(told(notifies), (vec![1], true, Some(34)));
    let relayed = world.relay.values().next().unwrap().clone();
    assert_eq!(relayed.dscp, 34);
    assert_eq!(relayed.n3_dscp, BTreeMap::from([(1, 34)]));
    // One of 5QI 1 comes to the Child SA that is there: it has no DSCP for both, N3 has.
    let wanted = Wanted {
        flows: &[(5, true)],
        ..Wanted::default()
    };
    world.ngap(&modify(ran, &[(1, b"modify", transfer(&wanted))]));
    assert_eq!(outcome(&world.next()).0, [(1, (vec![5], vec![]))]);
    let last = world.ues[ue].told.pop().unwrap();
    assert_eq!(told(&last), (vec![1, 5], true, None));
    let relayed = world.relay.values().next().unwrap();
    assert_eq!(relayed.dscp, 0);
    assert_eq!(relayed.n3_dscp, BTreeMap::from([(1, 34), (5, 46)]));
    // The first flow becomes one of 5QI 1 too.
    let wanted = Wanted {
        flows: &[(1, true)],
        ..Wanted::default()
    };
    world.ngap(&modify(ran, &[(1, b"modify", transfer(&wanted))]));
    world.next();
    let last = world.ues[ue].told.pop().unwrap();
    assert_eq!(told(&last), (vec![1, 5], true, Some(46)));
    assert_eq!(world.relay.values().next().unwrap().dscp, 46);
}

#[test]
fn what_cannot_be_changed_stays_as_it_is() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    let before = world.relay.clone();
    world.nas_sent.clear();
    let none = Wanted {
        released: &[1],
        ..Wanted::default()
    };
    let foreign = Wanted {
        tunnel: Some((0xdead, 0x200)),
        ..Wanted::default()
    };
    let both = Wanted {
        flows: &[(5, true)],
        released: &[5],
        ..Wanted::default()
    };
    let twice = Wanted {
        flows: &[(5, true), (5, true)],
        ..Wanted::default()
    };
    let semantic = Cause::protocol(CauseProtocol::semantic_error);
    let cases = [
        (1, transfer(&none), semantic.clone()),
        (1, transfer(&foreign), semantic.clone()),
        (1, transfer(&both), semantic),
        (
            1,
            transfer(&twice),
            Cause::radioNetwork(CauseRadioNetwork::multiple_qos_flow_ID_instances),
        ),
        (
            1,
            vec![0xff; 3],
            Cause::protocol(CauseProtocol::transfer_syntax_error),
        ),
        (
            3,
            transfer(&Wanted::default()),
            Cause::radioNetwork(CauseRadioNetwork::unknown_PDU_session_ID),
        ),
    ];
    for (id, transfer, cause) in cases {
        world.ngap(&modify(ran, &[(id, b"no", transfer)]));
        assert_eq!(outcome(&world.next()), (vec![], vec![(id, cause)]));
    }
    world.refuse_relay = true;
    let wanted = Wanted {
        flows: &[(5, true)],
        ..Wanted::default()
    };
    world.ngap(&modify(ran, &[(1, b"no", transfer(&wanted))]));
    let cause = CauseTransport::transport_resource_unavailable;
    assert_eq!(outcome(&world.next()).1, [(1, Cause::transport(cause))]);
    assert!(world.nas_sent.is_empty(), "NAS of what failed stays here");
    assert_eq!(world.relay, before);
}

#[test]
fn a_session_that_ends_while_it_is_modified_is_answered() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    world.ues[ue].dead = true;
    let wanted = Wanted {
        flows: &[(5, true)],
        ..Wanted::default()
    };
    world.ngap(&modify(ran, &[(1, b"one", transfer(&wanted))]));
    assert!(world.uplink.is_empty(), "the UE has not answered");
    // A second change meets the first.
    world.ngap(&modify(ran, &[(1, b"two", transfer(&wanted))]));
    let busy = Cause::radioNetwork(CauseRadioNetwork::interaction_with_other_procedure);
    assert_eq!(outcome(&world.next()).1, [(1, busy)]);
    world.pass(Duration::from_secs(300));
    let answers: Vec<Uplink> = std::mem::take(&mut world.uplink).into();
    let of = |kind| answers.iter().find(|answer| answer.kind() == kind);
    let answer = of(NgapPduKind::Successful_PDUSessionResourceModify).unwrap();
    let lost = Cause::radioNetwork(CauseRadioNetwork::radio_connection_with_ue_lost);
    assert_eq!(outcome(answer).1, [(1, lost)]);
    assert!(of(NgapPduKind::Initiating_UEContextReleaseRequest).is_some());
    world.ngap(&amf::context_release(ran));
    world.assert_nothing_left();
}

//! Rekeyed SAs: the session does not notice.

use std::{net::SocketAddr, time::Duration};

use dataplane::Notice;
use ike::{ChildId, QkdFailure, wire::NotifyType};
use n3iwf_user::{core::NasLink, gateway::RekeyWhat};
use oxirush_ngap::{NgapPduKind, ie, ngap::UserLocationInformation};

use crate::{amf, world::World};

/// Child SAs in the data plane: those in use or draining, with their reqids.
fn reqids(world: &World) -> Vec<u32> {
    let mut reqids: Vec<u32> = world.held.values().map(|held| held.reqid).collect();
    reqids.sort_unstable();
    reqids
}

fn session_child(world: &World, ran: u32) -> u64 {
    let ues = world.gateway.ues(world.now);
    let ue = ues.iter().find(|ue| ue.ue == ran).unwrap();
    ue.sessions[0].child.unwrap()
}

fn child(world: &World, number: u64) -> ChildId {
    let mut held = world.held.keys();
    *held.find(|child| child.number() == number).unwrap()
}

/// The one Child SA of the UE that is, or is not, for signalling.
fn of_ue(world: &World, ue: usize, signalling: bool) -> ChildId {
    let mut all = world.ues[ue].children.iter();
    *all.find(|(_, (is, _))| *is == signalling).unwrap().0
}

#[test]
fn child_sas_rekeyed_here_keep_session_reqid_and_relay() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    let (relay, before) = (world.relay.clone(), reqids(&world));
    let (fetched, old) = (world.fetched, session_child(&world, ran));
    let now = world.now;
    world.gateway.rekey(now, ran, RekeyWhat::Children).unwrap();
    world.run();
    let new = session_child(&world, ran);
    assert_ne!(new, old);
    assert_eq!(world.fetched, fetched + 4, "two fresh keys for each");
    assert_eq!(world.relay, relay);
    assert_eq!(world.held.len(), 4, "the old ones drain");
    assert!(world.held.values().all(|held| !held.inbound));
    assert!(world.uplink.is_empty(), "nobody is told");
    world.pass(Duration::from_secs(6));
    assert_eq!(reqids(&world), before);
    assert_eq!(world.held[&child(&world, new)].pdu_session, Some(1));
    assert_eq!(world.released.len(), 4, "the old keys leave the listing");
    // Again, one alone, and what is not there any more.
    let now = world.now;
    world
        .gateway
        .rekey(now, ran, RekeyWhat::Child(new))
        .unwrap();
    world.run();
    let refused = world.gateway.rekey(now, ran, RekeyWhat::Child(old));
    assert!(refused.unwrap_err().contains("no Child SA"));
    assert!(world.gateway.rekey(now, ran + 1, RekeyWhat::Ike).is_err());
    // The session goes as any other: what it was rekeyed from goes with it, at once.
    world.ngap(&amf::session_release(ran, b"release", &[1]));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Successful_PDUSessionResourceRelease
    );
    assert_eq!(world.held.len(), 1);
    assert!(world.relay.is_empty());
}

#[test]
fn child_sas_rekeyed_by_the_ue_send_through_the_old_one_until_it_is_deleted() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    for signalling in [false, true] {
        let (sa, now) = (world.ues[ue].sa.unwrap(), world.now);
        let old = of_ue(&world, ue, signalling);
        world.ues[ue].endpoint.rekey_child(now, sa, old).unwrap();
        // Up to the installation here, and no further.
        let before = world.held.len();
        while world.held.len() == before {
            let transmit = world.ues[ue].endpoint.poll_transmit();
            if let Some(transmit) = transmit {
                let path = ike::Path {
                    local: transmit.path.remote,
                    remote: transmit.path.local,
                };
                world.gateway.handle_datagram(now, path, &transmit.data);
            }
            let action = world.gateway.poll_action().expect("an installation");
            world.act(action);
        }
        assert_eq!(world.held.values().filter(|held| held.inbound).count(), 1);
        world.run();
        assert!(world.held.values().all(|held| !held.inbound));
        assert_ne!(of_ue(&world, ue, signalling), old);
    }
    assert_eq!(world.held.len(), 4);
    world.pass(Duration::from_secs(6));
    assert_eq!(world.held.len(), 2);
    assert_eq!(world.relay.len(), 1);
    assert!(world.uplink.is_empty());
    // The session's Child SA is the new one: its end is the session's end.
    let (sa, now) = (world.ues[ue].sa.unwrap(), world.now);
    let current = of_ue(&world, ue, false);
    world.ues[ue].endpoint.delete_child(now, sa, current);
    world.run();
    assert!(world.relay.is_empty());
    assert_eq!(world.held.len(), 1);
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_PDUSessionResourceNotify
    );
    assert!(world.gateway.release(now, ran));
}

#[test]
fn the_ike_sa_is_rekeyed_from_either_side() {
    let mut world = World::new();
    let (ue, ran) = world.attach_with_session();
    let mut spis = vec![world.gateway.sas()[0].spi_i];
    for here in [true, false, true] {
        let (sa, now) = (world.ues[ue].sa.unwrap(), world.now);
        if here {
            world.gateway.rekey(now, ran, RekeyWhat::Ike).unwrap();
        } else {
            world.ues[ue].endpoint.rekey_ike(now, sa).unwrap();
        }
        world.run();
        world.pass(Duration::from_secs(1));
        let status = world.gateway.sas().remove(0);
        assert!(!spis.contains(&status.spi_i));
        assert_eq!(status.initiator, here);
        spis.push(status.spi_i);
    }
    assert_eq!(world.fetched, 7 + 3 * 3);
    assert_eq!(world.released.len(), 3 * 3);
    assert_eq!((world.held.len(), world.relay.len()), (2, 1));
    let now = world.now;
    world.gateway.rekey(now, ran, RekeyWhat::Children).unwrap();
    world.run();
    world.ngap(&amf::context_release(ran));
    world.pass(Duration::from_secs(1));
    world.assert_nothing_left();
}

#[test]
fn limits_of_the_kernel_rekey_and_in_the_end_delete() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    let first = session_child(&world, ran);
    world.kms_failure = Some(QkdFailure::NoKeys);
    let now = world.now;
    world.gateway.child_expired(now, first, false);
    world.gateway.child_expired(now, first, false);
    world.gateway.child_expired(now, 999, true);
    world.run();
    assert_eq!(session_child(&world, ran), first, "no key, no rekey");
    world.kms_failure = None;
    world.pass(Duration::from_secs(9));
    assert_eq!(session_child(&world, ran), first);
    world.pass(Duration::from_secs(2));
    let second = session_child(&world, ran);
    assert_ne!(second, first, "tried again");
    // What drains may reach any limit.
    let now = world.now;
    world.gateway.child_expired(now, first, true);
    world.run();
    assert_eq!(session_child(&world, ran), second);
    world.gateway.child_expired(now, second, true);
    world.run();
    assert!(world.relay.is_empty());
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_PDUSessionResourceNotify
    );
    assert_eq!(world.held.len(), 1, "the signalling one");
}

#[test]
fn child_sas_follow_a_nat_that_forgets() {
    let mut world = World::new();
    world.nat = 7000;
    let (ue, ran) = world.attach_with_session();
    let before = world.gateway.ues(world.now)[0].remote;
    assert_eq!(before.port(), 4500 + 7000);
    let now = world.now;
    world.gateway.rekey(now, ran, RekeyWhat::Children).unwrap();
    world.run();
    assert!(world.moved.is_empty());
    // Another mapping, seen with the next authenticated message.
    world.nat = 9000;
    let sa = world.ues[ue].sa.unwrap();
    world.ues[ue].endpoint.probe(now, sa);
    world.run();
    assert_eq!(world.moved.len(), 2, "those in use, not those that drain");
    let to = world.gateway.ues(now)[0].remote;
    assert_eq!((to.ip(), to.port()), (before.ip(), 4500 + 9000));
    assert!(world.moved.iter().all(|(_, remote)| *remote == to));
}

/// What the kernel sees of ESP moves the UE as well, and the AMF has its new location with the next NAS message
/// (TS 38.413, 8.6.3; TS 29.413, 5.2 has no location report).
#[test]
fn a_mapping_seen_by_the_kernel_moves_the_ue_and_reaches_the_amf() {
    let mut world = World::new();
    world.nat = 7000;
    let (_, ran) = world.attach_with_session();
    let child = session_child(&world, ran);
    let remote: SocketAddr = "192.0.2.10:20001".parse().unwrap();
    let now = world.now;
    let remapped = |id| Notice::Remapped { id, remote };
    world.gateway.notice(now, remapped(999));
    world.run();
    assert!(world.moved.is_empty());
    // Each packet says so until the state has moved.
    world.gateway.notice(now, remapped(child));
    world.gateway.notice(now, remapped(child));
    world.run();
    assert_eq!(world.moved.len(), 2, "both Child SAs, once");
    assert!(world.moved.iter().all(|(_, to)| *to == remote));
    assert_eq!(world.gateway.ues(now)[0].remote, remote);

    world
        .gateway
        .nas_received(now, NasLink(u64::from(ran)), b"still here");
    world.run();
    let uplink = world.next();
    assert_eq!(uplink.kind(), NgapPduKind::Initiating_UplinkNASTransport);
    let location = uplink.pdu.ie::<ie::UserLocationInformation>();
    let UserLocationInformation::userLocationInformationN3IWF_with_PortNumber(location) =
        location.unwrap().unwrap()
    else {
        panic!("not the location of an N3IWF's UE");
    };
    assert_eq!(location.ip_address.0.as_octets(), [192, 0, 2, 10]);
    assert_eq!(location.port_number.0, 20_001_u16.to_be_bytes());
}

#[test]
fn an_authentication_that_is_not_renewed_ends() {
    let mut world = World::with_core(|config| {
        config.timing.authentication = Some(Duration::from_secs(600));
    });
    let (ue, ran) = world.attach_with_session();
    let told = world.ues[ue].notifies.iter();
    let told: Vec<_> = told
        .filter(|notify| notify.kind == NotifyType::AUTH_LIFETIME)
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].data, 600_u32.to_be_bytes());
    world.pass(Duration::from_secs(599));
    assert!(world.uplink.is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(
        world.next().kind(),
        NgapPduKind::Initiating_UEContextReleaseRequest
    );
    world.ngap(&amf::context_release(ran));
    world.pass(Duration::from_secs(1));
    world.assert_nothing_left();
}

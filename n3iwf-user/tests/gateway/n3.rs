//! Addresses of N3: of IPv4, of IPv6, or of both (TS 38.414, 5.1).

use std::net::{IpAddr, Ipv6Addr};

use n3iwf_user::ngap::Cause;
use oxirush_ngap::{ie, ngap::*};

use crate::{
    amf::{self, Uplink},
    modification::{Wanted, modify, transfer},
    world::World,
};

const V4: [u8; 4] = [203, 0, 113, 2];
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2);
const OURS: &str = "2001:db8:3::1";

/// 160 bits.
fn both() -> Vec<u8> {
    [&V4[..], &V6.octets()].concat()
}

fn unreachable() -> Cause {
    Cause::transport(CauseTransport::transport_resource_unavailable)
}

/// The Transport Layer Address of the first session of a setup response.
fn told(answer: &Uplink) -> Vec<u8> {
    let list = answer.pdu.ie::<ie::PDUSessionResourceSetupListSURes>();
    let item = &list.unwrap().unwrap().0[0];
    let transfer: PDUSessionResourceSetupResponseTransfer =
        decode_open_type(&item.pdu_session_resource_setup_response_transfer).unwrap();
    let flows = transfer.dl_qos_flow_per_tnl_information;
    let UPTransportLayerInformation::gTPTunnel(tunnel) = flows.up_transport_layer_information
    else {
        panic!("no GTP tunnel");
    };
    tunnel.transport_layer_address.0.as_octets().to_vec()
}

#[test]
fn each_is_told_and_takes_the_address_of_its_ip_version() {
    for (ours, upf, found) in [
        ("203.0.113.1", &V4[..], IpAddr::from(V4)),
        ("203.0.113.1", &both(), V4.into()),
        (OURS, &V6.octets(), V6.into()),
        (OURS, &both(), V6.into()),
    ] {
        let ours: IpAddr = ours.parse().unwrap();
        let mut world = World::with_core(|core| core.gtp_address = ours);
        let (_, ran) = world.attach();
        let wanted = amf::transfer_to(upf, 0xabcd, &[1]);
        world.ngap(&amf::session_setup(ran, &[(5, b"accept", wanted)]));
        let own = match ours {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        assert_eq!(told(&world.next()), own, "{ours}");
        let relayed = world.relay.values().next().unwrap();
        assert_eq!((relayed.upf, relayed.ul_teid), (found, 0xabcd));
    }
}

#[test]
fn a_upf_of_the_other_ip_version_is_refused_before_the_ue_hears_of_it() {
    for (ours, upf) in [("203.0.113.1", &V6.octets()[..]), (OURS, &V4)] {
        let mut world = World::with_core(|core| core.gtp_address = ours.parse().unwrap());
        let (ue, ran) = world.attach();
        let children = world.ues[ue].children.len();
        let wanted = amf::transfer_to(upf, 0xabcd, &[1]);
        world.ngap(&amf::session_setup(ran, &[(5, b"accept", wanted)]));
        let (up, failed) = amf::session_outcomes(&world.next());
        assert_eq!((up, failed), (vec![], vec![(5, unreachable())]), "{ours}");
        assert!(world.relay.is_empty());
        assert_eq!(world.ues[ue].children.len(), children);
    }
}

#[test]
fn a_tunnel_moves_within_its_ip_version_alone() {
    let mut world = World::new();
    let (_, ran) = world.attach_with_session();
    let before = world.relay.values().next().unwrap().clone();
    let tunnel = Some((before.dl_teid, 0x200));
    let mut change = |upf: &[u8]| {
        let wanted = Wanted {
            tunnel,
            upf: Some(upf),
            ..Wanted::default()
        };
        world.ngap(&modify(ran, &[(1, b"", transfer(&wanted))]));
        let answer = world.next();
        let failed = answer
            .pdu
            .ie::<ie::PDUSessionResourceFailedToModifyListModRes>();
        let causes = failed
            .into_iter()
            .flat_map(|list| list.unwrap().0)
            .map(|item| {
                let octets = item.pdu_session_resource_modify_unsuccessful_transfer;
                let transfer: PDUSessionResourceModifyUnsuccessfulTransfer =
                    decode_open_type(&octets).unwrap();
                transfer.cause
            });
        let causes: Vec<Cause> = causes.collect();
        let relayed = world.relay.values().next().unwrap();
        (causes, relayed.upf, relayed.ul_teid)
    };
    let refused = change(&V6.octets());
    assert_eq!(refused, (vec![unreachable()], before.upf, before.ul_teid));
    let moved = change(&[&[203, 0, 113, 7][..], &V6.octets()].concat());
    assert_eq!(moved, (vec![], IpAddr::from([203, 0, 113, 7]), 0x200));
}

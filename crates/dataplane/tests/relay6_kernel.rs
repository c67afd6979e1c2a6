//! The kernel relay behind real ESP with IPv6 on NWu and on N3.
//!
//! Needs root and a kernel with ESP and XFRM interfaces; skips with a printed reason elsewhere,
//! fails instead when `REQUIRE_KERNEL` is set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

#[path = "support/nwu.rs"]
mod nwu_link;
mod support;
#[path = "support/world.rs"]
mod world;

use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use dataplane::{
    Dataplane, Role,
    relay::{AccessRelay, AccessSession, KernelRelay, Path},
};
use gtpu::Message;
use nwu::GreHeader;
use nwu_link::{IPV4, IPV6, Nwu, REQID_BASE, install, plane};
use support::{ready, wait};
use world::{
    DL_TEID, HOST, N3IWF, N3IWF_INNER, N3IWF6, PDU_ADDRESS, QFI, UE_INNER, UL_TEID, UPF, UPF6,
    datagram, downlink, pdu, raw, session, uplink,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Every combination of IP versions but the one of `relay_kernel`.
#[test]
fn pdus_go_by_the_kernel_over_ipv6() {
    if !ready() {
        return;
    }
    for (nwu, n3_ipv6) in [(IPV6, true), (IPV6, false), (IPV4, true)] {
        pass(nwu, n3_ipv6);
    }
}

fn pass(nwu: Nwu, n3_ipv6: bool) {
    let world = nwu.world();
    world.add_n3_ipv6(&[]);
    let (n3iwf, ue) = (plane(&world, Role::N3iwf), plane(&world, Role::Ue));
    let mut config = world.relay_config();
    config.clear_access = false;
    config.reqid_base = REQID_BASE;
    let mut access: AccessSession = session("xfrmi");
    let (ours, theirs): (IpAddr, IpAddr) = if n3_ipv6 {
        (N3IWF6.into(), UPF6.into())
    } else {
        (N3IWF.into(), UPF.into())
    };
    config.user.gtp = (ours, gtpu::PORT).into();
    access.upf = theirs;
    let relay = world.n3iwf.run(|| KernelRelay::start(config).unwrap());
    for (plane, role) in [(&ue, Role::Ue), (&n3iwf, Role::N3iwf)] {
        install(&world, plane, role, nwu.child_sa(role, 1, UE_INNER));
    }
    world.n3iwf.run(|| {
        relay.add(access).unwrap();
        relay.bind(DL_TEID, 1);
    });
    let gre = world.gre_at_ue("xfrmi");
    let upf = world
        .core
        .run(|| UdpSocket::bind((theirs, gtpu::PORT)).unwrap());
    upf.set_read_timeout(Some(PATIENCE)).unwrap();
    let to_n3iwf = SocketAddrV4::new(N3IWF_INNER, 0).into();
    let sizes = [28, 29, 500, 1357, 1358];
    for len in sizes {
        gre.send_to(&uplink(10, &pdu(PDU_ADDRESS, HOST, len)), &to_n3iwf)
            .unwrap();
        let octets = datagram(&upf);
        let message = Message::decode(&octets).unwrap();
        assert_eq!(message.header.teid, UL_TEID);
        assert_eq!(message.payload, pdu(PDU_ADDRESS, HOST, len));
        let packet = downlink(DL_TEID, QFI, &pdu(HOST, PDU_ADDRESS, len));
        upf.send_to(&packet, (ours, gtpu::PORT)).unwrap();
        let octets = raw(&gre);
        let (header, payload) = GreHeader::decode(&octets[20..]).unwrap();
        assert_eq!((header.qfi, header.rqi), (Some(QFI), true));
        assert_eq!(payload, pdu(HOST, PDU_ADDRESS, len));
    }
    let reading = &relay.readings()[0];
    assert_eq!(reading.path, Path::Kernel);
    let count = sizes.len() as u64;
    let packets = (reading.uplink.packets, reading.downlink.packets);
    assert_eq!(packets, (count, count));
    for reasons in relay.reasons().unwrap() {
        let left: u64 = reasons.named().iter().skip(1).map(|(_, count)| count).sum();
        assert_eq!(left, 0, "{reasons:?}");
    }
    // The kernel's SA and the relay agree: 28 octets of IP and GRE a packet.
    let sa = world
        .n3iwf
        .run(|| wait(n3iwf.readings()).unwrap())
        .remove(0);
    assert_eq!(sa.kernel_in.bytes, reading.uplink.bytes + count * 28);
    assert_eq!(sa.kernel_out.bytes, reading.downlink.bytes + count * 28);
    world.n3iwf.run(|| drop(relay));
    for (plane, space) in [(&n3iwf, &world.n3iwf), (&ue, &world.ue)] {
        let report = space.run(|| wait(plane.stop()).unwrap());
        assert_eq!(report.left, Vec::<String>::new());
    }
}
